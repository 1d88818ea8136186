//! Checks whether the machine can hold so many connections: lists each limit that is too low, with
//! its value and the command that raises it.

use std::fmt;
use std::fs;

use crate::common::process::kibibytes;
use crate::plan::Division;

/// Kernel and user memory of a connection, with both of its ends on this machine and including
/// messages in flight.
const BYTES_A_CONNECTION: u64 = 12 * 1024;

/// Pages of TCP buffers of a connection while it exchanges a small message: one at either end.
const TCP_PAGES: u64 = 2;

/// A limit that is too low.
#[derive(Debug, PartialEq, Eq)]
pub struct Lack {
    what: &'static str,
    value: u64,
    needed: u64,
    remedy: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lack {
            what,
            value,
            needed,
            remedy,
        } = self;
        write!(f, "{what} is {value}, and {needed} is needed: {remedy}")
    }
}

/// Returns the limits of this machine that are too low for the run.
pub fn lacks(division: &Division) -> Vec<Lack> {
    let ends = division.connections * 2;
    let processes = division.servers + division.loads;
    let checks = [
        (
            "fs.file-max",
            read("/proc/sys/fs/file-max", 0),
            ends + processes * 64,
            file_max(division),
        ),
        (
            "fs.epoll.max_user_watches",
            read("/proc/sys/fs/epoll/max_user_watches", 0),
            ends,
            watches(division),
        ),
        (
            "net.ipv4.tcp_mem, its last value",
            read("/proc/sys/net/ipv4/tcp_mem", 2),
            division.connections * TCP_PAGES,
            tcp_mem(division),
        ),
        (
            "MemAvailable, in bytes",
            memory(),
            division.connections * BYTES_A_CONNECTION,
            "a machine with more, or fewer connections (--connections)".to_string(),
        ),
    ];
    checks
        .into_iter()
        .filter_map(|(what, value, needed, remedy)| {
            let value = value.filter(|value| *value < needed)?;
            Some(Lack {
                what,
                value,
                needed,
                remedy,
            })
        })
        .collect()
}

/// Returns the commands that a machine without a namespace of its own needs, one a line.
pub fn lines(division: &Division) -> Vec<String> {
    let mut lines = vec![
        file_max(division),
        watches(division),
        tcp_mem(division),
        format!(
            "sysctl -w net.ipv4.tcp_max_tw_buckets={}",
            division.connections
        ),
    ];
    for (key, value) in crate::network::SYSCTLS {
        lines.push(format!("sysctl -w {key}='{value}'"));
    }
    lines.push(format!(
        "sysctl -w net.netfilter.nf_conntrack_max={}   # where connections are tracked; better not \
         at all: nft add rule ip raw prerouting notrack",
        division.connections * 2
    ));
    lines
}

/// Returns the command that allows twice the number of open files that both ends of the connections
/// need.
fn file_max(division: &Division) -> String {
    format!("sysctl -w fs.file-max={}", division.connections * 4)
}

/// Returns the command that allows twice the number of epoll registrations that both ends of the
/// connections need.
fn watches(division: &Division) -> String {
    let watches = division.connections * 4;
    format!("sysctl -w fs.epoll.max_user_watches={watches}")
}

fn tcp_mem(division: &Division) -> String {
    let pages = division.connections * TCP_PAGES;
    let (low, pressure, high) = (pages, pages * 5 / 4, pages * 3 / 2);
    format!("sysctl -w net.ipv4.tcp_mem='{low} {pressure} {high}'")
}

/// Returns the number at this position of a file, from 0. `None`: this kernel does not have it.
fn read(path: &str, place: usize) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.split_whitespace().nth(place)?.parse().ok()
}

fn memory() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}
