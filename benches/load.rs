//! What the load generator itself can do: messages a second and CPU time a message over 1,000
//! connections against `serve`, and what it costs that every reply is verified.
//!
//! Two kinds of runs, with and without verification, alternate; the ratio is taken pair by pair,
//! since the machine's speed drifts, and drifts for both. Instructions a message are counted under
//! callgrind as a slope between two runs of different length, so that the start costs nothing.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use upcase::load;
use upcase::load::plan::{Plan, Stop};
use upcase::load::summary::Summary;

const CONNECTIONS: u32 = 1000;
const MESSAGES: u64 = 200_000;

/// Pairs of runs; of so many sorted ratios, the fifth from either end bound the median with 95 %.
const PAIRS: usize = 17;
const BOUND: usize = 4;

/// Messages of the two runs under callgrind, over few connections.
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
    let server = Server::start();
    compare(server.address);
    if Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        count(server.address);
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
        // In turns first, so that neither has the warmer caches as a rule.
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
        "{CONNECTIONS} connections, 64 bytes, closed loop, every reply verified: {} messages/s, \
         {} µs of CPU a message",
        median(&mut rates, 0),
        median(&mut costs, 2)
    );
    println!(
        "CPU a message with verification to that without: {} of {PAIRS} pairs",
        median(&mut ratios, 3)
    );
}

/// The median and its 95 % interval by rank.
fn median(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (low, middle, high) = (values[BOUND], values[PAIRS / 2], values[PAIRS - 1 - BOUND]);
    format!("{middle:.digits$} [{low:.digits$}, {high:.digits$}]")
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

/// Instructions in user space of a run of its own process, start and end included.
fn instructions(target: SocketAddr, messages: u64, verify: bool) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["carry-out", &target.to_string(), &messages.to_string()])
        .arg(verify.to_string())
        .output()
        .expect("valgrind runs");
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .unwrap_or_else(|| panic!("no count in {told}"));
    collected.1.trim().parse().expect("a number")
}

fn run(target: SocketAddr, connections: u32, messages: u64, verify: bool) -> Summary {
    let plan = Plan {
        connections,
        verify,
        ..Plan::new(target, Stop::Messages(messages))
    };
    let summary = load::run(plan, |_| {}).expect("the run comes about");
    assert_eq!(summary.results.counts.verified, messages);
    summary
}

/// `upcase serve` on a free port, stopped with this program.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_upcase"))
            .args(["serve", "-q", "--listen", "127.0.0.1:0"])
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
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
