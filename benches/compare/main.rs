//! Compares `upcase serve` and other servers with a raw epoll loop, in alternating slices of time
//! and over several starts, and `upcase load` with a bare client; also compares instructions,
//! system calls and memory.
//!
//! ```text
//! cargo bench --bench compare                                   all, into benches/RESULTS.md
//! cargo bench --bench compare -- --case 1000x64x1 --starts 20   one case, only printed
//! UPCASE_OTHER=old/upcase cargo bench --bench compare -- --part servers --server other,upcase
//!                                                               one build beside another
//! ```
//!
//! Servers and clients are processes of their own. Most of them run this program, with their name
//! as an argument.

mod case;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod contender;
mod counts;
mod generator;
mod memory;
#[path = "../peers/mod.rs"]
mod peers;
#[path = "../../tests/common/ratio.rs"]
mod ratio;
mod results;
mod slices;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use crate::case::{Case, steady};
use crate::common::process;
use crate::contender::{Client, Cores, Server};
use crate::counts::What;
use crate::results::Results;
use crate::slices::{Settings, Side};

#[derive(Debug, Parser)]
struct Arguments {
    /// Only these cases, such as 1000x64x1: connections, bytes, depth
    #[arg(long, value_delimiter = ',')]
    case: Vec<Case>,
    /// Only these servers; the first is what the others are measured by
    #[arg(long, value_enum, value_delimiter = ',')]
    server: Vec<Server>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<PartName>,
    /// At least so many starts of each pair
    #[arg(long, default_value_t = 10)]
    starts: usize,
    /// Milliseconds of each in a start: slices as many as fit, at least one
    #[arg(long, default_value_t = 1000)]
    length: u64,
    /// At most so many seconds a pair
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Discard a start in which others used more than so many percent of the CPUs; the kernel
    /// itself takes up to six for interrupts and idling, which no process is charged for
    #[arg(long, default_value_t = 10.0)]
    foreign: f64,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartName {
    /// Servers under the bare client
    Servers,
    /// The load generator beside the bare client
    Load,
    /// Instructions and system calls a message
    Counts,
    /// Memory an idle connection
    Memory,
}

/// The case of the load generator's comparison, and the cases whose instructions are counted.
const LOAD: Case = steady(1000, 64, 1);
const COUNTED: [Case; 2] = [steady(100, 64, 1), steady(1000, 64, 1)];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["peer", name] => contender::serve(name),
        ["client", "load", target, case] => generator::run(target.parse()?, case.parse()?),
        ["client", kind, target, case] => {
            client::run(target.parse()?, case.parse()?, kind == "timing")
        }
        _ => run(&Arguments::parse()),
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cores = process::cores()?;
    let &[server, client, ..] = &cores[..] else {
        bail!("the comparison needs two CPUs, and has {}", cores.len());
    };
    process::pin(client)?;
    let settings = Settings {
        cores: Cores { server, client },
        starts: arguments.starts,
        length: Duration::from_millis(arguments.length),
        bound: Duration::from_secs(arguments.seconds),
        foreign_most: arguments.foreign / 100.0,
    };
    let mut results = Results::new(&settings);
    let has = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    if has(PartName::Servers) {
        servers(arguments, &settings, &mut results)?;
    }
    if has(PartName::Load) {
        load(&settings, &mut results)?;
    }
    if has(PartName::Counts) {
        counts(arguments, settings.cores, &mut results);
    }
    if has(PartName::Memory) {
        memory(settings.cores, &mut results);
    }
    let selected = [
        arguments.case.len(),
        arguments.server.len(),
        arguments.part.len(),
    ];
    if selected == [0; 3] {
        results.write().context("cannot write benches/RESULTS.md")?;
    }
    Ok(())
}

fn servers(
    arguments: &Arguments,
    settings: &Settings,
    results: &mut Results,
) -> anyhow::Result<()> {
    results.add("## Servers");
    let cases: &[Case] = match &arguments.case[..] {
        [] => &case::ALL,
        named => named,
    };
    let contenders: Vec<_> = chosen(arguments)
        .into_iter()
        .map(|server| (server, Client::Timing, server.name().to_string()))
        .collect();
    for &case in cases {
        let comparison = slices::compare(case, Side::Server, &contenders, settings)
            .with_context(|| format!("case {case}"))?;
        results.comparison(&comparison, settings.starts);
    }
    Ok(())
}

/// Returns the servers to compare. The first one, by default the raw epoll loop, is the base that
/// the others are compared with.
fn chosen(arguments: &Arguments) -> Vec<Server> {
    match &arguments.server[..] {
        [] => vec![
            Server::Epoll,
            Server::Upcase,
            Server::NoSandbox,
            Server::Tokio,
            Server::Threads,
            Server::Libuv,
            Server::Go,
        ],
        named => named.to_vec(),
    }
}

fn load(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    results.add("## Load generator\n\nThe bare client neither verifies nor records round trips.");
    let contenders = [
        (Client::Bare, "bare client"),
        (Client::Timing, "with round trips"),
        (Client::Load, "upcase load"),
    ]
    .map(|(client, name)| (Server::Upcase, client, name.to_string()));
    let comparison = slices::compare(LOAD, Side::Client, &contenders, settings)?;
    results.comparison(&comparison, settings.starts);
    Ok(())
}

fn counts(arguments: &Arguments, cores: Cores, results: &mut Results) {
    results.add("## Instructions and system calls a message of the server\n");
    results.head(&[
        "case",
        "server",
        "instructions in user space",
        "system calls",
    ]);
    let cases = match &arguments.case[..] {
        [] => COUNTED.to_vec(),
        named => named.to_vec(),
    };
    for case in cases {
        for server in [Server::Epoll, Server::Upcase] {
            let count = |what, digits: usize| match counts::a_message(what, server, case, cores) {
                Ok(count) => format!("{count:.digits$}"),
                Err(why) => format!("{why:#}"),
            };
            results.row(&[
                case.to_string(),
                server.name().to_string(),
                count(What::Instructions, 1),
                count(What::Calls, 3),
            ]);
        }
        let own = match counts::own_calls(case, cores) {
            Ok([wait, recv, send]) => format!("{wait:.3} waits, {recv:.3} reads, {send:.3} writes"),
            Err(why) => format!("{why:#}"),
        };
        let name = "raw epoll, by its own count at full speed";
        results.row(&[case.to_string(), name.to_string(), "-".to_string(), own]);
    }
}

fn memory(cores: Cores, results: &mut Results) {
    let [few, many] = memory::CONNECTIONS;
    results.add(&format!(
        "\n## User-space bytes an idle connection\n\nFrom {few} to {many} connections, one message \
         each.\n"
    ));
    let idle = format!("{} s later", memory::IDLE.as_secs());
    results.head(&["", "just after it", &idle]);
    let text = |bytes: anyhow::Result<f64>| match bytes {
        Ok(bytes) => format!("{bytes:.0}"),
        Err(why) => format!("{why:#}"),
    };
    for server in [Server::Upcase, Server::Epoll] {
        let [just, later] = match memory::of_server(server, cores) {
            Ok(bytes) => bytes.map(|bytes| text(Ok(bytes))),
            Err(why) => [text(Err(why)), String::new()],
        };
        results.row(&[server.name().to_string(), just, later]);
    }
    let load = text(memory::of_load(cores));
    results.row(&["upcase load, at its peak".to_string(), load, String::new()]);
}
