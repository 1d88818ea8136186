//! Benchmarks fairness: 8 streams of large messages beside 1,000 ping-pong connections. Prints how
//! much the streams slow the pings down for several budgets of a turn (`--turn-bytes`), and the
//! throughput of the streams with each budget.
//!
//! Pings without and with streams alternate, and the ratio of their medians is computed per pair.
//! All clients share the machine with the server, so part of the ratio is due to the streams' own
//! client.

#[path = "../tests/common/mod.rs"]
mod common;

use common::ratio::Median;
use common::{Process, Serve, peers, run, upcase};

const BUDGETS: [&str; 4] = ["16KiB", "64KiB", "256KiB", "1MiB"];
const STREAMS: &str = "--connections 8 --size 1MiB --depth 2";
const PINGS: &str = "--connections 1000 --size 64";
const PAIRS: usize = 10;

fn main() {
    let servers = BUDGETS.map(|budget| Serve::start(&format!("-q --turn-bytes {budget}")));
    let mut ratios = [const { Vec::new() }; BUDGETS.len()];
    let mut rates = [const { Vec::new() }; BUDGETS.len()];
    let mut quiet = Vec::new();
    for pair in 0..PAIRS {
        for place in 0..BUDGETS.len() {
            let budget = (place + pair) % BUDGETS.len();
            let server = &servers[budget];
            let (without, with) = if pair % 2 == 0 {
                let without = ping(server);
                (without, ping_beside_streams(server))
            } else {
                let with = ping_beside_streams(server);
                (ping(server), with)
            };
            quiet.push(without);
            ratios[budget].push(with / without);
            rates[budget].push(stream(server));
        }
    }
    let median = |values: &[f64]| Median::of(values).expect("enough pairs");
    println!("ping p50 without streams: {:.0} us", median(&quiet));
    for (budget, size) in BUDGETS.iter().enumerate() {
        let to_largest = rates[budget].iter().zip(&rates[BUDGETS.len() - 1]);
        let to_largest: Vec<f64> = to_largest.map(|(rate, largest)| rate / largest).collect();
        println!(
            "{size:>6}: ping p50 with streams to without {:.2}; streams alone {:.0} MB/s, {:.3} of \
             the largest budget's",
            median(&ratios[budget]),
            median(&rates[budget]),
            median(&to_largest)
        );
    }
}

/// Returns the median response time in microseconds.
fn ping(server: &Serve) -> f64 {
    let report = load(server, &format!("{PINGS} --duration 1s"));
    report["response_us"]["p50"].as_f64().expect("a number")
}

fn ping_beside_streams(server: &Serve) -> f64 {
    let address = server.address();
    let streams = format!("load {address} {STREAMS} --duration 1h -v --interval 100ms");
    let streams = Process::piped(upcase(&streams));
    peers::intervals(&streams, 1);
    ping(server)
}

/// Returns the megabytes per second of the streams alone.
fn stream(server: &Serve) -> f64 {
    let report = load(server, &format!("{STREAMS} --duration 1s"));
    report["bytes_per_second"].as_f64().expect("a number") / 1e6
}

fn load(server: &Serve, arguments: &str) -> serde_json::Value {
    let address = server.address();
    let allowed = "--allow client-bound,server-bound,network-bound,failed";
    let ended = run(&format!(
        "load {address} {arguments} --format json -q {allowed}"
    ));
    ended.expect(0).json()
}
