//! Measures the memory of a connection: the difference of two samples divided by the connections.

use std::fs;

use anyhow::Context;

use crate::common::process::{Process, kibibytes};

/// A sample of the machine's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    slab: u64,
    /// The kernel's TCP buffers.
    buffers: u64,
    servers: u64,
    loads: u64,
}

/// The memory of one connection on average, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Kernel objects: sockets, files, entries of epoll. (MemAvailable would not show them: it
    /// counts the inodes of sockets as memory that can be reclaimed.)
    pub slab: f64,
    /// TCP buffers in the kernel.
    pub buffers: f64,
    /// Resident memory of the servers.
    pub server: f64,
    /// Resident memory of the load generators.
    pub load: f64,
}

impl Look {
    /// Takes a sample. The TCP buffers are read through the first server, for its network
    /// namespace.
    pub fn take(servers: &[Process], loads: &[Process]) -> anyhow::Result<Look> {
        let machine = fs::read_to_string("/proc/meminfo")?;
        let field = |name| kibibytes(&machine, name).with_context(|| format!("no {name}"));
        let resident = |processes: &[Process]| -> anyhow::Result<u64> {
            processes.iter().map(|it| it.memory("RssAnon")).sum()
        };
        let pages = match servers {
            [server, ..] => sockets(server)?.pages,
            [] => 0,
        };
        Ok(Look {
            slab: field("Slab")?,
            buffers: pages * 4096,
            servers: resident(servers)?,
            loads: resident(loads)?,
        })
    }

    /// Returns the memory per connection, where `connections` were added since the sample `before`.
    pub fn since(&self, before: &Look, connections: u64) -> Share {
        let each = |now: u64, before: u64| (now as f64 - before as f64) / connections as f64;
        Share {
            slab: each(self.slab, before.slab),
            buffers: each(self.buffers, before.buffers),
            server: each(self.servers, before.servers),
            load: each(self.loads, before.loads),
        }
    }
}

/// TCP counters of the network namespace of a process: see /proc/net/sockstat.
#[derive(Clone, Copy, Debug)]
pub struct Sockets {
    /// TCP sockets in use: both ends of each connection, and the listeners.
    pub in_use: u64,
    /// Pages of TCP buffers, of all namespaces.
    pub pages: u64,
}

/// Reads the TCP counters of the network namespace of this process.
pub fn sockets(process: &Process) -> anyhow::Result<Sockets> {
    let text = fs::read_to_string(format!("/proc/{}/net/sockstat", process.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "));
    let words: Vec<&str> = line.context("no TCP")?.split(' ').collect();
    let field = |name: &str| -> anyhow::Result<u64> {
        let place = words.iter().position(|word| *word == name);
        let value = place.and_then(|at| words.get(at + 1));
        Ok(value.context("a field is missing")?.parse()?)
    };
    Ok(Sockets {
        in_use: field("inuse")?,
        pages: field("mem")?,
    })
}
