//! The server's engine in a simulated kernel, in virtual time: runs in which the dice choose limits,
//! clients and faults, each call held against the rules of [`rules`].
//!
//! A failure prints its seed; `UPCASE_SERVER_SEED=n cargo test --test server_simulation` runs that
//! one alone.

mod chance;
mod clients;
mod kernel;
mod rules;
mod run;
mod swarm;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use run::Simulation;

/// Replays one run.
const SEED: &str = "UPCASE_SERVER_SEED";

/// In the ordinary test run; an event is something that the kernel delivers to the engine (an event
/// of a source, a timer, a request to stop) or a call that the engine makes on the kernel.
const EVENTS: u64 = 10_000_000;

const THREADS: u64 = 2;

/// One run to its end; tells how many events there were.
fn run(seed: u64) -> u64 {
    let run = AssertUnwindSafe(|| Simulation::draw(seed).run());
    catch_unwind(run).unwrap_or_else(|failure| {
        eprintln!("again: {SEED}={seed} cargo test --test server_simulation swarm");
        resume_unwind(failure)
    })
}

#[test]
fn a_swarm_of_runs_keeps_all_the_rules() {
    if let Ok(seed) = std::env::var(SEED) {
        run(seed.parse().expect("a seed is a number"));
        return;
    }
    let begun = Instant::now();
    let (next, events) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while events.load(Ordering::Relaxed) < EVENTS {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    events.fetch_add(run(seed), Ordering::Relaxed);
                }
            });
        }
    });
    let (runs, events) = (next.into_inner(), events.into_inner());
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{runs} runs, {events} events in {seconds:.1} s: {:.2} million a second",
        events as f64 / seconds / 1e6
    );
}
