//! Benchmarks the cost of the sandbox of `serve`: the ratio of the CPU time per message with it to
//! that without it.
//!
//! Two servers, A and B, run at the same time and are loaded in the order A, B, B, A. Each such
//! round gives one ratio: the speed of the machine drifts, but within a round it is nearly the same
//! for both. CPU time is that of all threads, from the kernel's CPU clock of the process.

mod common;
#[path = "../tests/common/ratio.rs"]
mod ratio;

use std::net::SocketAddr;
use std::time::Duration;

use common::process::Process;
use common::upcase as product;
use ratio::Median;
use upcase::load;
use upcase::load::plan::{Plan, Stop};

const CONNECTIONS: u32 = 100;
const RUN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 31;

fn main() {
    let servers = ["off", "on"].map(Server::start);
    let mut costs = [vec![], vec![]];
    let mut ratios = vec![];
    for server in &servers {
        server.cost();
    }
    for round in 0..ROUNDS {
        let mut cost = [0.0; 2];
        // The servers take turns in being first, so that neither usually has the warmer caches.
        let (one, other) = (round % 2, 1 - round % 2);
        for place in [one, other, other, one] {
            cost[place] += servers[place].cost() / 2.0;
        }
        for place in [one, other] {
            costs[place].push(cost[place]);
        }
        ratios.push(cost[1] / cost[0]);
    }
    let median = |values: &[f64]| Median::of(values).expect("enough rounds");
    for (costs, which) in costs.iter().zip(["without", "in"]) {
        let cost = median(costs);
        println!("{which} the sandbox: {cost:.3} µs of CPU a message");
    }
    println!(
        "in it to without: {:.4} of {ROUNDS} rounds, {CONNECTIONS} connections, 64 bytes",
        median(&ratios)
    );
}

/// `upcase serve` on a free port. It is stopped when it is dropped.
struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(sandbox: &str) -> Server {
        let mut serve = product::serve(product::program());
        serve.args(["--sandbox", sandbox]);
        let mut process = Process::start(&mut serve).expect("the server starts");
        let address = process.address().expect("an address");
        Server { process, address }
    }

    /// Loads the server; returns its CPU time per message in microseconds.
    fn cost(&self) -> f64 {
        let cpu = || self.process.cpu().expect("the server runs");
        let before = cpu();
        let plan = Plan {
            connections: CONNECTIONS,
            ..Plan::new(self.address, Stop::After(RUN))
        };
        let summary = load::run(plan, |_| {}).expect("the run succeeds");
        let spent = cpu() - before;
        spent.as_secs_f64() * 1e6 / summary.results.counts.verified as f64
    }
}
