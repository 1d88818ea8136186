//! Benchmarks the load generator itself: messages per second and CPU time per message over 1,000
//! connections against `serve`, and the cost of verifying every reply.
//!
//! Runs with and without verification alternate. The ratio is computed per pair: the speed of the
//! machine drifts, but within a pair it is nearly the same for both. Instructions per message are
//! counted under callgrind as the slope between two runs of different length, so that the start of
//! the program is not included.

mod common;
#[path = "../tests/common/ratio.rs"]
mod ratio;

use std::net::SocketAddr;

use common::process::{Process, is_installed};
use common::{callgrind, upcase as product};
use ratio::Median;
use upcase::echo::Expect;
use upcase::load;
use upcase::load::plan::{Plan, Stop};
use upcase::load::results::summary::Summary;

const CONNECTIONS: u32 = 1000;
const MESSAGES: u64 = 200_000;

/// Number of pairs of runs.
const PAIRS: usize = 17;

/// Messages of the two runs under callgrind, which use few connections.
const COUNTED: [u64; 2] = [10_000, 40_000];
const COUNTED_CONNECTIONS: u32 = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, target, messages, verify] = &arguments[..]
        && word == "carry-out"
    {
        let target = target.parse().expect("an address");
        let messages = messages.parse().expect("a number");
        run(target, COUNTED_CONNECTIONS, messages, verify == "true");
        return;
    }
    let mut serve = product::serve(product::program());
    let mut server = Process::start(&mut serve).expect("the server starts");
    let address = server.address().expect("an address");
    compare(address);
    if is_installed(callgrind::PROGRAM) {
        count(address);
    } else {
        println!("no valgrind to count instructions with");
    }
}

fn compare(target: SocketAddr) {
    let mut rates = Vec::new();
    let mut costs = Vec::new();
    let mut ratios = Vec::new();
    run(target, CONNECTIONS, MESSAGES, true);
    for pair in 0..PAIRS {
        // Both kinds take turns in being first, so that neither usually has the warmer caches.
        let order = [pair % 2 == 0, pair % 2 != 0];
        let summaries = order.map(|verify| run(target, CONNECTIONS, MESSAGES, verify));
        let cost = |verify| {
            let place = usize::from(order[0] != verify);
            cpu_a_message(&summaries[place])
        };
        let verified = &summaries[usize::from(!order[0])];
        rates.push(verified.achieved_rate());
        costs.push(cost(true));
        ratios.push(cost(true) / cost(false));
    }
    println!(
        "{CONNECTIONS} connections, 64 bytes, closed loop, every reply verified: {:.0} messages/s, \
         {:.2} µs of CPU a message",
        median(&rates),
        median(&costs)
    );
    println!(
        "CPU a message with verification to that without: {:.3} of {PAIRS} pairs",
        median(&ratios)
    );
}

fn median(values: &[f64]) -> Median {
    Median::of(values).expect("enough pairs")
}

fn cpu_a_message(summary: &Summary) -> f64 {
    let cpu = summary.evidence.machine.cpu;
    cpu.as_secs_f64() * 1e6 / summary.results.counts.verified as f64
}

fn count(target: SocketAddr) {
    let slope = |verify| {
        let counts = COUNTED.map(|messages| instructions(target, messages, verify));
        (counts[1] - counts[0]) / (COUNTED[1] - COUNTED[0]) as f64
    };
    let (verified, unverified) = (slope(true), slope(false));
    println!(
        "instructions a message: {verified:.0}, of which verification {:.0} ({:.1} %)",
        verified - unverified,
        (1.0 - unverified / verified) * 100.0
    );
}

/// Counts the instructions in user space of a run in a process of its own, start and end included.
fn instructions(target: SocketAddr, messages: u64, verify: bool) -> f64 {
    let output = callgrind::command()
        .arg(std::env::current_exe().expect("this program"))
        .args(["carry-out", &target.to_string(), &messages.to_string()])
        .arg(verify.to_string())
        .output()
        .expect("valgrind runs");
    let reported = String::from_utf8_lossy(&output.stderr);
    let count = callgrind::instructions(&reported);
    count.unwrap_or_else(|| panic!("no count in {reported}")) as f64
}

fn run(target: SocketAddr, connections: u32, messages: u64, verify: bool) -> Summary {
    let plan = Plan {
        connections,
        expect: if verify {
            Expect::Upper
        } else {
            Expect::Anything
        },
        ..Plan::new(target, Stop::Messages(messages))
    };
    let summary = load::run(plan, |_| {}).expect("the run succeeds");
    assert_eq!(summary.results.counts.verified, messages);
    summary
}
