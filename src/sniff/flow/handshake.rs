//! Follows the handshake of a connection, and measures its round trip. Pure.
//!
//! ```text
//!   missed ──► opened ──► accepted ──► complete
//!         SYN      SYN,ACK        ACK
//! ```
//!
//! A handshake is complete only when all three of its segments were seen. The capture may lack any
//! of them, and may hold a SYN,ACK before its SYN.

use std::time::Duration;

use crate::sniff::flow::finding::Role;
use crate::sniff::flow::observation::{Meaning, Timing};
use crate::sniff::flow::sides::Sides;
use crate::sniff::packet::segment::{Flags, Segment};

/// The handshake of a connection, as far as it was seen.
#[derive(Debug, Default)]
pub struct Handshake {
    stage: Stage,
    /// Time from the last SYN to the client's first acknowledgment.
    round_trip: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// The SYN was not seen.
    #[default]
    Missed,
    /// A SYN was seen at this time.
    Opened(Duration),
    /// A SYN,ACK was seen, and a SYN at this time.
    Accepted(Duration),
    Complete,
}

impl Handshake {
    /// Returns the handshake of a connection that was reported. `established`: whether it was
    /// complete.
    pub fn revived(established: bool) -> Handshake {
        let stage = match established {
            true => Stage::Complete,
            false => Stage::Missed,
        };
        Handshake {
            stage,
            round_trip: None,
        }
    }

    /// Returns true when SYN, SYN,ACK and ACK were seen.
    pub fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Complete)
    }

    /// Returns true when the client's SYN was not seen.
    pub fn is_missed(&self) -> bool {
        matches!(self.stage, Stage::Missed)
    }

    /// Returns the time from the last SYN to the client's first acknowledgment.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Advances with a segment, and begins the stream of its sender if it is a SYN. Returns the
    /// meaning of the segment if it is a part of the handshake.
    pub fn advance(
        &mut self,
        sides: &mut Sides,
        from: Role,
        now: Duration,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> Option<Meaning> {
        let (syn, ack) = (segment.flags.has(Flags::SYN), segment.flags.has(Flags::ACK));
        if segment.flags.has(Flags::RST) {
            return None;
        }
        if syn {
            sides.get_mut(from).begin_with_syn(segment);
        }
        let server = &sides.server;
        match (self.stage, from) {
            // If the SYN is retransmitted, the handshake is timed from the last one.
            (Stage::Missed | Stage::Opened(_) | Stage::Accepted(_), Role::Client)
                if syn && !ack =>
            {
                self.stage = match server.syn {
                    None => Stage::Opened(now),
                    Some(_) => Stage::Accepted(now),
                };
                Some(Meaning::Opens)
            }
            // A simultaneous open, and the capture lacks the client's SYN.
            (Stage::Missed, Role::Client) if syn && ack => {
                self.stage = Stage::Opened(now);
                Some(Meaning::Accepts)
            }
            (_, Role::Server) if syn && ack => {
                if let Stage::Opened(time) = self.stage {
                    self.stage = Stage::Accepted(time);
                }
                Some(Meaning::Accepts)
            }
            (Stage::Opened(begun) | Stage::Accepted(begun), Role::Client) if ack => {
                // If no SYN,ACK was seen, the capture lacks it: without one the client would not
                // acknowledge.
                let round_trip = now.saturating_sub(begun);
                self.round_trip.get_or_insert(round_trip);
                let base = server.base()?;
                if let Stage::Opened(_) = self.stage {
                    return None;
                }
                self.stage = Stage::Complete;
                timings.push(Timing::Handshake(round_trip));
                let bare = segment.span() == 0 && segment.ack == base.wrapping_add(1);
                bare.then_some(Meaning::Begins)
            }
            _ => None,
        }
    }
}
