//! Tests the whole load client (engine, schedule, connections) against a simulated network, in
//! virtual time: thousands of runs with random faults, and after every step the identity that each
//! message that is due is settled or outstanding.
//!
//! A failure prints its seed; `UPCASE_SEED=n cargo test --test simulation` runs that one alone.

mod chance;
mod closing;
mod faults;
mod network;
mod outages;
mod plans;
mod random_runs;
mod response_times;
mod run;
mod stages;
mod targets;
mod verdicts;
