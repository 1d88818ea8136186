//! What a load run is to do: decided before it starts, and not changed by it. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::load::payload::Alphabet;
use crate::socket::Options;

/// A load run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub target: SocketAddr,
    /// Local addresses, used in turn; none: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// Options of every connection.
    pub options: Options,
    /// How many connections; all are up before the first message.
    pub connections: u32,
    /// Connections opened a second; `None`: as fast as the window allows.
    pub connect_rate: Option<u32>,
    /// Bytes of a message.
    pub size: usize,
    /// Messages in flight on a connection.
    pub depth: u32,
    /// When the run ends.
    pub stop: Stop,
    /// Which bytes are sent.
    pub alphabet: Alphabet,
    /// What the bytes are made from.
    pub seed: u64,
}

/// When a run stops sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After so many messages in all.
    Messages(u64),
}

/// Connects under way at once. The kernel's queue of the server must hold them, and a SYN that
/// finds it full is sent again only after a second.
pub const CONNECT_WINDOW: usize = 512;

/// How long nothing may happen before what is awaited is given up: no connection comes up, or no
/// byte of a reply arrives in a run that waits for a number of messages.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a run waits for what is in flight when its time is over.
pub const DRAIN: Duration = Duration::from_secs(1);

/// How long the server may take to close its side of all connections after the run closed its own.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that one read or write may take: the buffer that all connections share.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes that one connection may receive in a turn before the others get theirs.
pub const TURN_BYTES: usize = 256 * 1024;

/// Connections that are opened or continued in one turn before events are looked at again:
/// replies must not wait behind a long row of others' first messages.
pub const TURN_CONNECTIONS: usize = 64;

impl Plan {
    /// How many messages this connection is to send, of those that are up; `None`: no bound.
    /// A total is dealt evenly, the first connections taking what is left over.
    pub fn quota(&self, position: u32, connections: u32) -> Option<u64> {
        match self.stop {
            Stop::After(_) => None,
            Stop::Messages(messages) => {
                let (each, left) = (
                    messages / u64::from(connections),
                    messages % u64::from(connections),
                );
                Some(each + u64::from(u64::from(position) < left))
            }
        }
    }

    /// The local address of a connection.
    pub fn source(&self, connection: u32) -> Option<IpAddr> {
        let count = self.sources.len();
        (count > 0).then(|| self.sources[connection as usize % count])
    }
}
