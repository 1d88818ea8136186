//! Searches with the program itself against a server with a programmed knee: a service rate above
//! which it queues. The truth is known from the program of the server.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::peers::server;
use crate::common::program::Rng;
use crate::common::run;

/// The time for which the server may be behind its service rate, and catch up: its clients and the
/// machine are not exact.
const BURST: Duration = Duration::from_millis(5);

/// The share by which a rate may exceed the service rate without a visible queue in a trial of 2 s:
/// the server catches up once with the burst, and a growth of 1 ms is too short to be seen.
const UNSEEN: f64 = (0.005 + 0.001) / 2.0;

/// The longest time of a search.
const TIME_MOST: f64 = 90.0;

/// Starts a server that answers `rate` messages of 64 bytes per second, from one bucket of tokens
/// for all connections, in the order of their arrival.
fn server_with_knee(rate: f64) -> SocketAddr {
    let gap = Duration::from_secs_f64(1.0 / rate);
    let next = Arc::new(Mutex::new(Instant::now()));
    server(move |_, mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            let now = Instant::now();
            let due = {
                let mut next = next.lock().unwrap();
                let due = (*next).max(now - BURST);
                *next = due + gap;
                due
            };
            thread::sleep(due.saturating_duration_since(now));
            message.make_ascii_uppercase();
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    })
}

/// The result of a search.
struct Found {
    is_right: bool,
    seconds: f64,
}

/// Searches the knee of a server, and prints what was found.
fn search(seed: u64) -> Found {
    let rate = 2000.0 + 1000.0 * Rng(seed).unit();
    let address = server_with_knee(rate);
    let goal = "--find-max p99<30ms --connections 50 --format json -q";
    let report: Value = run(&format!("load {address} {goal}")).json();
    let bound = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    let (lower, upper) = (bound("relevant_lower_bound"), bound("relevant_upper_bound"));
    let seconds = report["elapsed_s"].as_f64().unwrap();
    let is_between = lower <= rate * (1.0 + UNSEEN) && rate <= upper;
    let is_right = is_between && report["end"] == "found";
    println!(
        "seed {seed}: knee {rate:.0}/s, bounds {lower} and {upper}, {}, {} trials, {} discarded, \
         {seconds:.1} s: {}",
        report["end"],
        report["trials"].as_array().unwrap().len(),
        report["discarded"],
        if is_right { "right" } else { "not right" }
    );
    if !is_right {
        report["trials"]
            .as_array()
            .unwrap()
            .iter()
            .for_each(|trial| println!("{trial}"));
    }
    Found { is_right, seconds }
}

#[test]
#[ignore = "half a minute, needs the machine for itself"]
fn a_search_finds_the_knee() {
    let found = search(1);
    assert!(found.is_right && found.seconds < TIME_MOST);
}

#[test]
#[ignore = "ten minutes, needs the machine for itself"]
fn nineteen_of_twenty_searches_find_the_knee() {
    let found: Vec<Found> = (1..=20).map(search).collect();
    let right = found.iter().filter(|found| found.is_right).count();
    assert!(right >= 19, "{right} of 20");
    assert!(found.iter().all(|found| found.seconds < TIME_MOST));
}
