//! What the sandbox costs `serve`: its CPU time a message, in it to without it.
//!
//! Two servers stand side by side and are loaded in turns: one, the other twice, the one. A ratio
//! is taken of each such round, since the machine's speed drifts, and drifts for both. CPU time is
//! the scheduler's own, in nanoseconds: /proc/PID/task/TID/schedstat of every thread.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use upcase::load;
use upcase::load::plan::{Plan, Stop};

const CONNECTIONS: u32 = 100;
const RUN: Duration = Duration::from_secs(1);

/// Rounds; of so many sorted ratios, the tenth from either end bound the median with 95 %.
const ROUNDS: usize = 31;
const BOUND: usize = 9;

fn main() {
    let servers = ["off", "on"].map(Server::start);
    let mut costs = [vec![], vec![]];
    let mut ratios = vec![];
    for server in &servers {
        server.cost();
    }
    for round in 0..ROUNDS {
        let mut cost = [0.0; 2];
        // In turns first, so that neither has the warmer caches as a rule.
        let (one, other) = (round % 2, 1 - round % 2);
        for place in [one, other, other, one] {
            cost[place] += servers[place].cost() / 2.0;
        }
        for place in [one, other] {
            costs[place].push(cost[place]);
        }
        ratios.push(cost[1] / cost[0]);
    }
    for (costs, which) in costs.iter_mut().zip(["without", "in"]) {
        let cost = median(costs, 3);
        println!("{which} the sandbox: {cost} µs of CPU a message");
    }
    println!(
        "in it to without: {} of {ROUNDS} rounds, {CONNECTIONS} connections, 64 bytes",
        median(&mut ratios, 4)
    );
}

/// The median and its 95 % interval by rank.
fn median(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (low, middle, high) = (
        values[BOUND],
        values[ROUNDS / 2],
        values[ROUNDS - 1 - BOUND],
    );
    format!("{middle:.digits$} [{low:.digits$}, {high:.digits$}]")
}

/// `upcase serve` on a free port, stopped with this program.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(sandbox: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_upcase"))
            .args(["serve", "-q", "--listen", "127.0.0.1:0", "--sandbox"])
            .arg(sandbox)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim().trim_start_matches("listening on ");
        let address = address.parse().expect("an address");
        Server { child, address }
    }

    /// Loads it, and tells its CPU time a message in microseconds.
    fn cost(&self) -> f64 {
        let before = self.cpu();
        let plan = Plan {
            connections: CONNECTIONS,
            ..Plan::new(self.address, Stop::After(RUN))
        };
        let summary = load::run(plan, |_| {}).expect("the run comes about");
        let spent = self.cpu() - before;
        spent.as_secs_f64() * 1e6 / summary.results.counts.verified as f64
    }

    fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).expect("the server runs");
        let nanoseconds = tasks.map(|task| {
            let path = task.expect("a thread").path().join("schedstat");
            let figures = fs::read_to_string(path).expect("CONFIG_SCHED_INFO");
            let first = figures.split(' ').next().expect("three figures");
            first.parse::<u64>().expect("a number")
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
