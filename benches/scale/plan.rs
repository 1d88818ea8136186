//! Divides a number of connections among processes. Pure.

use std::net::Ipv4Addr;

/// Descriptors of a process that are not connections.
const RESERVE: u64 = 128;

/// The numbers of connections and processes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Connections in all.
    pub connections: u64,
    /// Server processes on one port.
    pub servers: u64,
    /// Processes of the load generator, each with a source address of its own.
    pub loads: u64,
}

impl Division {
    /// Computes the fewest processes that can hold this many connections, each process with this
    /// many descriptors.
    ///
    /// The kernel assigns every connection to a server by a hash. So a server may get more than its
    /// equal share; six times the square root of the share are allowed for that.
    pub fn new(connections: u64, descriptors: u64) -> Division {
        let most = descriptors.saturating_sub(RESERVE).max(1);
        let holds = |servers: &u64| {
            let share = connections as f64 / *servers as f64;
            share + 6.0 * share.sqrt() <= most as f64
        };
        Division {
            connections,
            servers: (1..).find(holds).unwrap_or(u64::MAX),
            loads: connections.div_ceil(most),
        }
    }

    /// Returns how many connections a process of the load generator opens.
    pub fn share(&self, load: u64) -> u64 {
        let more = u64::from(load < self.connections % self.loads);
        self.connections / self.loads + more
    }

    /// Returns the source address of a process of the load generator.
    pub fn source(&self, load: u64) -> Ipv4Addr {
        let [.., high, low] = (load + 1).to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    }
}
