//! Defines the observation of one segment: its packet, its analysis, its meaning in the connection,
//! and the times that it completes. Pure.

use std::time::Duration;

use crate::echo::Difference;
use crate::sniff::flow::analysis::{Analysis, Window};
use crate::sniff::flow::finding::Role;

/// A packet of the capture, by its number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Position in the capture, from 1.
    pub number: u64,
    /// Time of capture, since the Unix epoch.
    pub time: Duration,
}

/// The meaning of a segment in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The client's SYN.
    Opens,
    /// The server's SYN, which acknowledges the client's.
    Accepts,
    /// The acknowledgment that completes the handshake.
    Begins,
    /// Payload.
    Carries {
        /// Offset of its first byte in the sender's stream.
        offset: i64,
        /// Number of the peer's bytes that it acknowledges for the first time.
        acknowledges: u32,
        /// Whether the segment also has a FIN.
        closes: bool,
        /// Whether it has bytes after the sender's own FIN.
        after_fin: bool,
    },
    /// FIN without payload.
    Closes {
        /// Whether the sender is the first end to close.
        first: bool,
        /// Whether it acknowledges the peer's FIN for the first time.
        acknowledges_fin: bool,
    },
    /// A segment that only acknowledges.
    Acknowledges {
        /// Number of the peer's bytes acknowledged for the first time, its FIN not included.
        bytes: u32,
        /// Whether it acknowledges the peer's FIN for the first time.
        fin: bool,
        /// Whether both sides are closed now and were not before.
        ends: bool,
    },
    /// RST.
    Resets,
    /// An RST after both sides closed and all their bytes were acknowledged.
    ResetsNothing,
}

/// The result of [`Flow::observe`](crate::sniff::flow::Flow::observe) for one segment.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The end that sent it.
    pub from: Role,
    /// The sequence numbers of the SYNs of the sender and of its peer, from which relative numbers
    /// count. Without a SYN it is the number before the first known byte, or 0 if there is none.
    pub bases: (u32, u32),
    /// The analysis flags, with the names of tshark.
    pub analysis: Analysis,
    /// The meaning of the segment in its connection.
    pub meaning: Meaning,
    /// Whether the segment lies outside the window of its receiver, which drops it: it changes
    /// nothing.
    pub outside: bool,
    /// The receive window that it announces, as in the header and in bytes.
    pub window: Window,
    /// Whether the payload is larger than any segment of this connection can be: it is split after
    /// the point of capture (segmentation offload).
    pub offloaded: bool,
    /// The first wrong byte of a reply, if this segment brought it.
    pub difference: Option<Difference>,
    /// The first byte of this segment that was sent before with another value.
    pub altered: Option<Difference>,
}

/// A time between two segments, measured at the point of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Time from the SYN to the acknowledgment that completes the handshake.
    Handshake(Duration),
    /// Time from the last byte of a request to the first byte of its reply.
    Reply(Duration),
    /// Time from bytes of one side to their acknowledgment.
    Acknowledged(Duration),
}
