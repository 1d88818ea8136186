//! What the connections take of the machine: the difference between two looks.

use std::fs;

use anyhow::Context;

use crate::common::process::{Process, kibibytes};

/// The machine at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    slab: u64,
    /// TCP buffers in this network.
    buffers: u64,
    servers: u64,
    loads: u64,
}

/// What each connection takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The kernel's objects: sockets, files, entries of epoll. (MemAvailable would not tell: it
    /// takes the inodes of sockets for memory that can be had back.)
    pub slab: f64,
    /// What TCP holds in its buffers.
    pub buffers: f64,
    /// Resident in servers.
    pub server: f64,
    /// Resident in load generators.
    pub load: f64,
}

impl Look {
    /// Looks; the servers tell of their network as well.
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

    /// What each of so many connections takes that were not there before.
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

/// TCP in the network of a process: see /proc/net/sockstat.
#[derive(Clone, Copy, Debug)]
pub struct Sockets {
    /// Both ends of each connection, and the listeners.
    pub in_use: u64,
    /// Of all networks.
    pub pages: u64,
}

/// The sockets in the network of this process.
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
