//! What the larger benchmarks share: the product, processes that end with their guard, and what the
//! kernel and callgrind tell of processes and of the machine.

// Each benchmark uses its own part of it.
#![allow(dead_code)]

pub mod callgrind;
pub mod machine;
pub mod process;
pub mod upcase;
