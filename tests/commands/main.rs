//! Tests the commands as processes that can run beside each other: wrong command lines, the forms
//! of addresses, `send`, rate profiles, recorded runs and their comparison, clients written by
//! others, and a kernel that is too old.

#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod cli;
mod compare;
mod duel;
mod foreign_clients;
mod hostile_records;
mod old_kernel;
mod page;
mod plan;
mod profile;
mod record;
mod send;
