//! Measures the user-space memory of an idle connection: the slope of resident memory between few
//! and many connections, each of which has exchanged one message.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::bail;

use crate::case::steady;
use crate::common::process::Process;
use crate::common::upcase;
use crate::contender::{Client, Contender, Cores, Server};

/// Numbers of connections at the two ends of the slope.
pub const CONNECTIONS: [usize; 2] = [1000, 19_000];

/// The field of /proc/PID/status with the resident memory that belongs to the process alone.
const FIELD: &str = "RssAnon";

const LOOK: Duration = Duration::from_millis(5);

/// Time after which `upcase serve` has finished the work that follows a message: more than a
/// quarter of its stall timeout.
pub const IDLE: Duration = Duration::from_secs(9);
const TIMEOUT_MS: u64 = 30_000;

/// Returns the bytes per connection of a server: right after the message, and [`IDLE`] later.
pub fn of_server(server: Server, cores: Cores) -> anyhow::Result<[f64; 2]> {
    let mut resident = [[0; 2]; 2];
    for (place, connections) in CONNECTIONS.into_iter().enumerate() {
        let case = steady(connections, 64, 1);
        let mut contender = Contender::start(server, Client::Bare, case, cores)?;
        let report = contender.load(TIMEOUT_MS, connections as u64)?;
        if report.messages != connections as u64 {
            bail!("only {} messages in time", report.messages);
        }
        resident[0][place] = contender.server.memory(FIELD)?;
        thread::sleep(IDLE);
        resident[1][place] = contender.server.memory(FIELD)?;
    }
    Ok(resident.map(slope))
}

/// Returns the bytes per connection of the load generator at its peak.
pub fn of_load(cores: Cores) -> anyhow::Result<f64> {
    let mut resident = [0; 2];
    for (resident, connections) in resident.iter_mut().zip(CONNECTIONS) {
        let mut server = Process::start_on(cores.server, &mut Server::Epoll.command()?)?;
        let address = server.address()?.to_string();
        let count = connections.to_string();
        let mut command = Command::new(upcase::program());
        command
            .args(["load", "-q", &address, "--format", "json"])
            .args(["--connections", &count, "--messages", &count]);
        let mut load = Process::start_on(cores.client, &mut command)?;
        while load.is_running() {
            // A process that has just ended has no memory any more.
            *resident = load.memory(FIELD).unwrap_or(0).max(*resident);
            thread::sleep(LOOK);
        }
        let report: serde_json::Value = serde_json::from_str(&load.hear()?)?;
        if report["verified"] != connections {
            bail!(
                "of {connections} messages {} were verified",
                report["verified"]
            );
        }
    }
    Ok(slope(resident))
}

fn slope([few, many]: [u64; 2]) -> f64 {
    (many as f64 - few as f64) / (CONNECTIONS[1] - CONNECTIONS[0]) as f64
}
