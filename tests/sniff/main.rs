//! Tests `sniff` on capture files, on crafted packets and on the loopback: what it reads, how it
//! judges, what it prints and what it writes.

#[path = "../common/mod.rs"]
mod common;

mod captures;
mod cases;
mod excerpts;
mod printing;
mod process;
mod verdicts;
