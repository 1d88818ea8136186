//! Code that the larger benchmarks share: how to start upcase, processes that are killed when they
//! are dropped, and figures of processes and of the machine from the kernel and from callgrind.

// Each benchmark uses only a part of it.
#![allow(dead_code)]

pub mod callgrind;
pub mod machine;
pub mod process;
pub mod upcase;
