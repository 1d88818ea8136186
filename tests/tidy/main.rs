//! Tests the texts of the project: the source code against the rules of style, and the README
//! against the program.

#[path = "../common/mod.rs"]
mod common;

mod readme;
mod source;
