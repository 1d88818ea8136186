//! What the larger benchmarks share: processes that end with their guard, and what the kernel tells
//! of processes and of the machine.

// Each benchmark uses its own part of it.
#![allow(dead_code)]

pub mod machine;
pub mod process;
