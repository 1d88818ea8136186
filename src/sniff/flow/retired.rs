//! Remembers connections that have ended and were reported, to recognize late segments of them and
//! the next connection between the same ports. Pure.
//!
//! They are kept for as long as TIME-WAIT lasts, in about a hundred bytes each (two hundred while a
//! table grows), and never more than [`RETIRED_MAX`]. The table identifies a connection by a hash
//! of its endpoints: two connections have the same hash with a probability of one in a thousand
//! million, and even then a segment is mistaken for one of the other only if its sequence numbers
//! fit as well.
//!
//! There are two generations: connections are added to the younger one, and when that is full or
//! old enough it replaces the older one, which is dropped as a whole. So no queue is needed beside
//! the table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::echo::Expect;
use crate::sniff::flow::close::Close;
use crate::sniff::flow::handshake::Handshake;
use crate::sniff::flow::side::RetainedSide;
use crate::sniff::flow::sides::Sides;
use crate::sniff::flow::{Flow, FlowNumber, Role};
use crate::sniff::packet::networks::Ends;
use crate::units::nanoseconds;

/// Time for which an endpoint may wait for segments of a connection that is closed: twice the
/// maximum segment lifetime, which RFC 9293 (section 3.4.2) sets to two minutes. Kernels wait for a
/// shorter time (Linux for one minute), so this covers all of them.
pub const TIME_WAIT: Duration = Duration::from_secs(240);

/// Maximum number of ended connections that are remembered. Each of the two generations has seven
/// eighths of a power of two, which fill a hash table of that size. At 500 connections a second it
/// suffices for [`TIME_WAIT`].
pub const RETIRED_MAX: usize = 2 * GENERATION_MAX;

const GENERATION_MAX: usize = (128 * 1024) / 8 * 7;

/// A connection that has ended and was reported.
#[derive(Clone, Copy, Debug)]
pub struct Retired {
    /// Its number.
    pub number: FlowNumber,
    /// The state that is kept of it.
    pub state: RetainedFlow,
    /// True when it was reported with a fault.
    pub is_wrong: bool,
    /// True when its client has the smaller address.
    pub client_is_low: bool,
}

/// The ended connections that are remembered.
#[derive(Debug, Default)]
pub struct RetiredFlows {
    seed: RandomState,
    young: HashMap<u64, Retired, RandomState>,
    old: HashMap<u64, Retired, RandomState>,
    /// The time of the first connection of the younger generation.
    since: Duration,
}

impl RetiredFlows {
    /// Remembers a connection.
    pub fn add(&mut self, ends: &Ends, retired: Retired) {
        let now = retired.state.last_time();
        let is_old = now.saturating_sub(self.since) >= TIME_WAIT;
        if self.young.len() >= GENERATION_MAX || (is_old && !self.young.is_empty()) {
            self.old = std::mem::take(&mut self.young);
        }
        if self.young.is_empty() {
            self.since = now;
        }
        let key = self.seed.hash_one(ends);
        self.old.remove(&key);
        self.young.insert(key, retired);
    }

    /// Returns the connection between these endpoints that ended last, unless that is too long ago.
    pub fn get(&self, ends: &Ends, now: Duration) -> Option<&Retired> {
        let key = self.seed.hash_one(ends);
        let found = self.young.get(&key).or_else(|| self.old.get(&key))?;
        let age = now.saturating_sub(found.state.last_time());
        (age < TIME_WAIT).then_some(found)
    }

    /// Forgets the connection between these endpoints.
    pub fn remove(&mut self, ends: &Ends) {
        let key = self.seed.hash_one(ends);
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

/// The state that is kept of a connection which has ended and was reported. It recognises late
/// segments, and distinguishes them from those of the next connection between the same ports.
#[derive(Clone, Copy, Debug)]
pub struct RetainedFlow {
    client: RetainedSide,
    server: RetainedSide,
    /// The side that reset the connection; `None` when both sides closed it.
    reset_by: Option<Role>,
    established: bool,
    /// Time of the last segment since the Unix epoch, in nanoseconds.
    last_time: u64,
}

impl RetainedFlow {
    /// Returns the time of its last segment.
    pub fn last_time(&self) -> Duration {
        Duration::from_nanos(self.last_time)
    }

    /// Returns a flow in the state in which the connection ended, between these addresses.
    pub fn revive(&self, client: SocketAddr, server: SocketAddr) -> Flow {
        let last_time = self.last_time();
        let sides = Sides {
            client: self.client.revive(client, last_time),
            server: self.server.revive(server, last_time),
        };
        Flow {
            handshake: Handshake::revived(self.established),
            close: Close::revived(self.reset_by),
            last_time,
            ..Flow::between(sides, Expect::Anything)
        }
    }
}

impl Flow {
    /// Returns the state to keep after the flow is over; `None` when it has not ended.
    pub fn retain(&self) -> Option<RetainedFlow> {
        self.has_ended().then(|| RetainedFlow {
            client: RetainedSide::of(&self.sides.client),
            server: RetainedSide::of(&self.sides.server),
            reset_by: self.close.reset_by(),
            established: self.is_established(),
            last_time: nanoseconds(self.last_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_small() {
        assert!(
            size_of::<(u64, Retired)>() <= 96,
            "{}",
            size_of::<(u64, Retired)>()
        );
    }
}
