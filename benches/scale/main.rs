//! Tests as many connections as the machine can hold, all open at the same time and each verified:
//! several `upcase serve` on one port, and several `upcase load`, each with a source address of its
//! own, in a network namespace of their own.
//!
//! ```text
//! cargo bench --bench scale                              200,000 connections
//! cargo bench --bench scale -- --connections 50000
//! cargo bench --bench scale -- --on-paper 1000000        prints what this number needs
//! ```
//!
//! A connection sends its first message when all connections of its process are established, and
//! the next one some time after the reply. So it is held, idle, until all connections are
//! established and each has got a second reply.

#[path = "../common/mod.rs"]
mod common;
mod memory;
mod network;
mod plan;
mod preflight;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use crate::common::process::Process;
use crate::common::upcase;
use crate::memory::{Look, Share, sockets};
use crate::network::Network;
use crate::plan::Division;

#[derive(Debug, Parser)]
struct Arguments {
    /// Connections, all open at a time
    #[arg(long, default_value_t = 200_000)]
    connections: u64,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// The time between a reply and the next message of its connection, in seconds: long enough for
    /// all connections to come up
    #[arg(long, default_value_t = 60)]
    think: u64,
    /// Only print the resources that this many connections need
    #[arg(long)]
    on_paper: Option<u64>,
    /// The option that cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The address of all servers. In a network namespace of their own no other program listens on it.
const TARGET: &str = "127.0.0.1:12000";

const LOOK: Duration = Duration::from_millis(100);

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if let Some(connections) = arguments.on_paper {
        explain(&Division::new(connections, descriptors), descriptors);
        return Ok(());
    }
    let division = Division::new(arguments.connections, descriptors);
    let lacks = preflight::lacks(&division);
    for lack in &lacks {
        eprintln!("{lack}");
    }
    if !lacks.is_empty() {
        bail!("{} limits are too low for this", lacks.len());
    }
    let mut run = Run::start(division, &arguments)?;
    run.go()?;
    explain(&Division::new(1_000_000, descriptors), descriptors);
    Ok(())
}

/// Prints the limits and commands that this number of connections needs.
fn explain(division: &Division, descriptors: u64) {
    let Division {
        connections,
        servers,
        loads,
    } = division;
    println!(
        "\n{connections} connections, with {descriptors} descriptors a process (hard limit): \
         {servers} servers and {loads} load generators. With `* hard nofile 1100000` in \
         /etc/security/limits.conf and `sysctl -w fs.nr_open=1100000`, a machine for the server \
         and one for the load need one process each:\n"
    );
    println!("  upcase serve --listen 0.0.0.0:12000");
    println!(
        "  upcase load SERVER:12000 --connections {connections} --source ADDRESS,... --think 60s \
         --duration 10m   # {} addresses",
        connections.div_ceil(64_512)
    );
    println!("\nOn either machine:\n");
    for line in preflight::lines(division) {
        println!("  {line}");
    }
    println!("\nHere, all of them in a network of their own:\n");
    println!(
        "  cargo bench --bench scale -- --connections {connections} --seconds 1200 --think 300"
    );
    for lack in preflight::lacks(division) {
        println!("\ntoo low here: {lack}");
    }
}

/// All processes of the run and their network. The fields are dropped in this order, so the
/// processes end before the network is removed.
struct Run {
    division: Division,
    think: Duration,
    began: Instant,
    end: Instant,
    loads: Vec<Process>,
    logs: Vec<PathBuf>,
    servers: Vec<Process>,
    network: Network,
}

impl Run {
    /// Builds the network and starts the servers, but no client.
    fn start(division: Division, arguments: &Arguments) -> anyhow::Result<Run> {
        let began = Instant::now();
        let mut run = Run {
            division,
            think: Duration::from_secs(arguments.think),
            began,
            end: began + Duration::from_secs(arguments.seconds),
            loads: Vec::new(),
            logs: Vec::new(),
            servers: Vec::new(),
            network: Network::build()?,
        };
        for _ in 0..division.servers {
            let mut command = run.network.command(upcase::program());
            command.args(["serve", "-q", "--reuse-port", "--listen", TARGET]);
            let mut server = Process::start(&mut command)?;
            server.address()?;
            run.servers.push(server);
        }
        Ok(run)
    }

    fn go(&mut self) -> anyhow::Result<()> {
        let connections = self.division.connections;
        let before = Look::take(&self.servers, &[])?;
        let start = Instant::now();
        for load in 0..self.division.loads {
            self.start_load(load)?;
        }
        self.wait_until("connections", connections, Run::held)?;
        let up = start.elapsed();
        self.wait_until("all have answered once", connections, Run::verified)?;
        let share = Look::take(&self.servers, &self.loads)?.since(&before, connections);
        let held = self.held()?;
        let once = self.verified()?;
        self.wait_until("the first that answers again", once + 1, Run::verified)?;
        let again = Instant::now();
        self.wait_until("all have answered again", once + connections, Run::verified)?;
        let again = again.elapsed();
        let left = self.held()?;
        if left < held {
            bail!("of {held} connections only {left} stayed open");
        }
        let verified = self.stop()?;
        self.print_result(up, &share, again, verified);
        Ok(())
    }

    fn start_load(&mut self, load: u64) -> anyhow::Result<()> {
        let name = format!("scale-{}-{load}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut command = self.network.command(upcase::program());
        command
            .args(["load", "-q", TARGET, "--format", "json"])
            .args(["--connections", &self.division.share(load).to_string()])
            .args(["--source", &self.division.source(load).to_string()])
            .args(["--think", &format!("{}s", self.think.as_secs())])
            .args(["--duration", "1h", "--interval", "200ms"])
            .args(["--allow", "client-bound,network-bound,server-bound"])
            .arg("--interval-log")
            .arg(&log);
        self.loads.push(Process::start(&mut command)?);
        self.logs.push(log);
        Ok(())
    }

    /// Returns the number of connections that are established at both ends.
    fn held(&self) -> anyhow::Result<u64> {
        let in_use = sockets(&self.servers[0])?.in_use;
        Ok(in_use.saturating_sub(self.division.servers) / 2)
    }

    /// Returns the number of messages verified so far, from the interval logs of the load
    /// generators.
    fn verified(&self) -> anyhow::Result<u64> {
        let last = |log: &PathBuf| -> Option<u64> {
            let text = fs::read_to_string(log).ok()?;
            let complete = text.rsplit_once('\n')?.0;
            let interval: serde_json::Value =
                serde_json::from_str(complete.lines().last()?).ok()?;
            interval["verified"].as_u64()
        };
        Ok(self.logs.iter().filter_map(last).sum())
    }

    fn wait_until(
        &mut self,
        what: &str,
        goal: u64,
        count: impl Fn(&Run) -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        loop {
            let reached = count(self)?;
            if reached >= goal {
                println!(
                    "{:6.1} s: {reached} {what}",
                    self.began.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            if Instant::now() >= self.end {
                bail!("only {reached} of {goal} {what} by the deadline");
            }
            for process in self.loads.iter_mut().chain(&mut self.servers) {
                if !process.is_running() {
                    bail!("process {} ended at {reached} {what}", process.pid());
                }
            }
            thread::sleep(LOOK);
        }
    }

    /// Ends all processes in order; returns how many messages were verified. If no message failed
    /// and none lacks its reply, each connection has verified at least one.
    fn stop(&mut self) -> anyhow::Result<u64> {
        let left = self.end.saturating_duration_since(Instant::now());
        let timeout = left.max(Duration::from_secs(10));
        for load in &self.loads {
            load.signal(Signal::SIGINT)?;
        }
        let mut verified = 0;
        for (number, load) in self.loads.iter_mut().enumerate() {
            let line = load.hear()?;
            let report: serde_json::Value = serde_json::from_str(&line).context("no report")?;
            let field = |name: &str| report[name].as_u64().with_context(|| format!("no {name}"));
            let opened = field("connections_opened")?;
            let sound = field("verified")? == field("scheduled")?
                && opened == self.division.share(number as u64)
                && field("verified")? >= opened;
            if !sound {
                bail!("a load generator has lost something: {line}");
            }
            verified += field("verified")?;
            load.finish(timeout)?;
        }
        for server in &mut self.servers {
            server.signal(Signal::SIGTERM)?;
            let status = server.finish(timeout)?;
            if !status.success() {
                bail!("a server ended with {status}");
            }
        }
        Ok(verified)
    }

    fn print_result(&self, up: Duration, share: &Share, again: Duration, verified: u64) {
        let Division {
            connections,
            servers,
            loads,
        } = self.division;
        let Share {
            slab,
            buffers,
            server,
            load,
        } = share;
        println!(
            "\n{connections} connections at a time, {servers} servers, {loads} load generators, {}",
            common::machine::name()
        );
        println!(
            "connects: {:.0}/s, all up after {:.1} s, first messages sent meanwhile",
            connections as f64 / up.as_secs_f64(),
            up.as_secs_f64()
        );
        println!(
            "bytes of memory a connection, both ends: kernel {slab:.0} in slabs and {buffers:.0} in \
             TCP buffers, server {server:.0}, load generator {load:.0}"
        );
        println!(
            "second echo on all open connections, {} s after the first: {:.1} s from the first \
             to the last; {verified} messages verified in all, none lost",
            self.think.as_secs(),
            again.as_secs_f64(),
        );
        println!("{:.1} s in all", self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for log in &self.logs {
            let _ = fs::remove_file(log);
        }
    }
}
