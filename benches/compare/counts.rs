//! Counts what is exact and repeatable: instructions and system calls per message. Each is the
//! slope between two runs of different length, so that start and end of the server are not
//! included.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use crate::case::Case;
use crate::client::Report;
use crate::common::callgrind;
use crate::common::process::{Process, is_installed};
use crate::contender::{Client, Contender, Cores, Server, scratch};

/// Messages of the two runs per connection, and the minimum of messages in all.
const MESSAGES_EACH: [u64; 2] = [10, 50];
const MESSAGES_LEAST: [u64; 2] = [10_000, 40_000];

/// Time after which a server under a tool has accepted and registered all its new connections.
const SETTLING: Duration = Duration::from_secs(1);

/// Time limit of a run under a tool, in milliseconds.
const TIMEOUT_MS: u64 = 60_000;

/// The kind of event that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Instructions in user space, counted by callgrind.
    Instructions,
    /// System calls, counted by strace.
    Calls,
}

impl What {
    fn tool(self) -> &'static str {
        match self {
            What::Instructions => callgrind::PROGRAM,
            What::Calls => "strace",
        }
    }
}

/// Returns the instructions or system calls per message.
pub fn a_message(what: What, server: Server, case: Case, cores: Cores) -> anyhow::Result<f64> {
    if !is_installed(what.tool()) {
        bail!("{} is not installed", what.tool());
    }
    let messages = [0, 1].map(|run| {
        let each = MESSAGES_EACH[run] * case.connections as u64;
        each.max(MESSAGES_LEAST[run])
    });
    let few = count(what, server, case, cores, messages[0])?;
    let many = count(what, server, case, cores, messages[1])?;
    Ok((many as f64 - few as f64) / (messages[1] - messages[0]) as f64)
}

/// Returns the system calls per message of the raw epoll loop by its own count: waits, reads,
/// writes.
pub fn own_calls(case: Case, cores: Cores) -> anyhow::Result<[f64; 3]> {
    let mut contender = Contender::start(Server::Epoll, Client::Bare, case, cores)?;
    let before = reported(&mut contender.server)?;
    let Report { messages, .. } = contender.load(200, u64::MAX)?;
    let after = reported(&mut contender.server)?;
    Ok([0, 1, 2].map(|call| (after[call] - before[call]) as f64 / messages as f64))
}

fn reported(server: &mut Process) -> anyhow::Result<[u64; 3]> {
    server.write_line("")?;
    let line = server.hear()?;
    let numbers: Vec<u64> = line.split(' ').flat_map(str::parse).collect();
    numbers[..].try_into().context("three numbers")
}

/// Counts over a whole run of the server with so many messages.
fn count(
    what: What,
    server: Server,
    case: Case,
    cores: Cores,
    messages: u64,
) -> anyhow::Result<u64> {
    let log = scratch("count");
    let _ = fs::remove_file(&log);
    let mut command = under(what, &log, &server.command()?);
    let mut server = Process::start_on(cores.server, &mut command)?;
    let address = server.address()?;
    let mut command = Client::Bare.command(address, case)?;
    let mut client = Process::start_on(cores.client, &mut command)?;
    client.hear()?;
    // After this time the work that follows a connect is over. The first message of each connection
    // is exchanged before the others, since it may cost more.
    thread::sleep(SETTLING);
    for messages in [case.connections as u64, messages] {
        client.write_line(&format!("{TIMEOUT_MS} {messages}"))?;
        let report: Report = client.hear()?.parse()?;
        if report.messages != messages {
            bail!("only {} of {messages} messages in time", report.messages);
        }
    }
    drop(client);
    server.signal(Signal::SIGTERM)?;
    server.finish(Duration::from_secs(10))?;
    let counted = read(what, &log);
    let _ = fs::remove_file(&log);
    counted
}

/// Wraps a command in the tool that counts. The process id stays that of the server.
fn under(what: What, log: &Path, command: &Command) -> Command {
    let mut under = match what {
        What::Instructions => {
            let mut log_file = std::ffi::OsString::from("--log-file=");
            log_file.push(log);
            let mut under = callgrind::command();
            under.arg(log_file);
            under
        }
        What::Calls => {
            let mut under = Command::new(what.tool());
            under.args(["-D", "-f", "-c", "-U", "calls", "-o"]).arg(log);
            under
        }
    };
    under.arg(command.get_program()).args(command.get_args());
    under
}

/// Returns the count as soon as the tool has written it.
fn read(what: What, log: &Path) -> anyhow::Result<u64> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let count = match what {
            What::Instructions => callgrind::instructions(&text),
            What::Calls => {
                let total = |line: &str| line.strip_suffix(" total")?.trim().parse().ok();
                text.lines().find_map(total)
            }
        };
        if let Some(count) = count {
            return Ok(count);
        }
        if Instant::now() >= end {
            bail!("{} has counted nothing: {text}", what.tool());
        }
        thread::sleep(Duration::from_millis(20));
    }
}
