//! Tests the server's engine on a simulated kernel in virtual time: runs with random limits,
//! clients and faults, and all short sequences of events. Every call is checked against the rules
//! of [`rules`].
//!
//! A failure prints its seed; `UPCASE_SERVER_SEED=n cargo test --test server_simulation` runs that
//! one alone.

mod chance;
mod clients;
mod kernel;
mod neighbours;
mod rules;
mod run;
mod sequences;
mod swarm;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use upcase::server::limits::Limits;

use chance::Chance;
use run::{Ended, Simulation};
use swarm::Faults;

/// The environment variable with the seed of a single run to replay.
const SEED: &str = "UPCASE_SERVER_SEED";

/// Number of events in the ordinary test run. An event is something that the kernel delivers to the
/// engine (an event of a source, a timer, a request to stop) or a call that the engine makes on the
/// kernel. The rarest of the planted bugs needs about two thirds of them.
const EVENTS: u64 = 100_000_000;

const THREADS: u64 = 2;

/// Whether a run has failed: then the other threads stop.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Plays one run to its end.
fn run(seed: u64) -> Ended {
    let run = AssertUnwindSafe(|| Simulation::draw(seed).run());
    catch_unwind(run).unwrap_or_else(|failure| {
        HAS_FAILED.store(true, Ordering::Relaxed);
        eprintln!("again: {SEED}={seed} cargo test --test server_simulation swarm");
        resume_unwind(failure)
    })
}

#[test]
fn a_swarm_of_runs_keeps_all_the_rules() {
    if let Ok(seed) = std::env::var(SEED) {
        let ended = run(seed.parse().expect("a seed is a number"));
        println!("{ended:?}");
        return;
    }
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Ended::default());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let left = || sum.lock().expect("no run has failed").events.sum() < EVENTS;
                while !HAS_FAILED.load(Ordering::Relaxed) && left() {
                    let ended = run(next.fetch_add(1, Ordering::Relaxed));
                    *sum.lock().expect("no run has failed") += ended;
                }
            });
        }
    });
    let (runs, sum) = (
        next.into_inner(),
        sum.into_inner().expect("no run has failed"),
    );
    let (events, seconds) = (sum.events.sum(), begun.elapsed().as_secs_f64());
    let rate = events as f64 / seconds / 1e6;
    println!("{runs} runs, {events} events in {seconds:.1} s: {rate:.2} million a second");
    println!("{:?}", sum.events);
    println!("{}; {} waits checked", sum.totals, sum.waited);
    assert_eq!(
        sum.never_seen(),
        Vec::<&str>::new(),
        "the runs are to show everything"
    );
}

/// Maximum length of the sequences; all shorter ones are played too.
const SEQUENCE_STEPS: u32 = 6;

#[test]
fn every_short_sequence_keeps_all_the_rules() {
    let begun = Instant::now();
    let (mut count, mut events) = (0, 0);
    for length in 0..=SEQUENCE_STEPS {
        let (sequences, of_them) = sequences::play_all(length);
        count += sequences;
        events += of_them.sum();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{count} sequences, {events} events in {seconds:.1} s");
}

/// All clients of a crowd except one leave after the keep-alive has scheduled them, and the last
/// one vanishes. Its probes must not be delayed by those that are gone.
#[test]
fn clients_that_are_gone_make_no_probe_late() {
    const CROWD: u16 = 60;
    const MS: Duration = Duration::from_millis(1);
    let limits = Limits {
        keepalive: Some(100 * MS),
        keepalive_pause_least: MS,
        probe_burst: (1, 1),
        probe_gap: MS,
        ..Limits::default()
    };
    let mut simulation = Simulation::new(1, limits, Faults::NONE, Chance::new(0));
    for port in 0..CROWD {
        let address = SocketAddr::from(([10, 0, 0, 1], 1024 + port));
        let client = simulation.state().connect_by_hand(0, address);
        client.expect("the listener is open");
    }
    let enrolled_at = 30 * MS;
    simulation.advance(enrolled_at);
    let silent = usize::from(CROWD) / 2;
    for other in (0..usize::from(CROWD)).filter(|&number| number != silent) {
        simulation.state().arrive_fin(other);
    }
    simulation.state().ends[silent].has_vanished = true;
    simulation.advance(10 * MS);
    assert_eq!(simulation.state().open, [silent as u32]);
    let end = limits.keepalive_end().expect("there is a keep-alive");
    simulation.advance(end - enrolled_at - 10 * MS);
    let state = simulation.state();
    assert!(state.ends[silent].is_closed, "{:?}", state.ends[silent]);
}
