//! Distinguishes the segments of a connection from those of other connections between the same
//! ports: of the next one, whose SYN reuses the ports, or of one whose SYN the capture lacks. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use crate::sniff::flow::side::{Continuation, Side};
use crate::sniff::flow::stream::SetAsideSegment;
use crate::sniff::flow::{Flow, Role};
use crate::sniff::packet::segment::{Flags, Segment};

/// The segments that both ends of a connection set aside: the address of each end, and its segments
/// with their sequence numbers.
pub type SetAside = [(SocketAddr, Vec<(u32, SetAsideSegment)>); 2];

impl Flow {
    /// Returns whether this SYN opens another connection between the same ports.
    pub fn is_reused_by(&self, segment: &Segment<'_>) -> bool {
        let opens = segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
        let sender = self.sides.get(self.sides.role_of(segment));
        let other = sender.base().is_some_and(|base| base != segment.seq);
        // The only segment before a SYN that can belong to its connection is its SYN,ACK.
        let late = self.handshake.is_missed() && self.sides.server.syn.is_none();
        // After the connection was refused, the same SYN is another attempt.
        opens && (other || late || self.was_refused())
    }

    /// Returns true when its SYN was answered by an RST.
    fn was_refused(&self) -> bool {
        self.close.reset_by().is_some() && self.sides.server.stream.is_none()
    }

    /// Returns true when a segment can belong to this connection after its end. An RST always
    /// counts as part of it: an RST cannot begin another connection.
    pub fn owns(&self, segment: &Segment<'_>) -> bool {
        // A segment with an acknowledgment belongs to a later attempt, which was not refused.
        let is_later = self.was_refused() && segment.flags.has(Flags::ACK);
        segment.flags.has(Flags::RST) || (self.sides.is_acceptable(segment) && !is_later)
    }

    /// Returns true when this segment belongs to another connection between the same ports, whose
    /// SYN the capture lacks.
    pub fn belongs_to_other_connection(&self, segment: &Segment<'_>) -> bool {
        let sides = &self.sides;
        let from = sides.role_of(segment);
        let (sender, receiver) = (sides.get(from), sides.get(from.other()));
        if segment.flags.has(Flags::SYN) && segment.flags.has(Flags::ACK) {
            // If no SYN was seen, a SYN,ACK whose numbers differ from the known ones belongs to
            // another connection.
            let other = |side: &Side, base| side.base().is_some_and(|known| known != base);
            let is_other =
                other(sender, segment.seq) || other(receiver, segment.ack.wrapping_sub(1));
            return is_other && !sender.has_syn() && !receiver.has_syn();
        }
        if sides.prefers_other_syn(segment) {
            return false;
        }
        let follows_other_syn = match from {
            Role::Client => receiver.goes_on_from_other_syn(segment.ack),
            Role::Server => sender.goes_on_from_other_syn(segment.seq),
        };
        sides.acknowledges_other_syn(segment)
            || follows_other_syn
            || (!sender.is_acceptable(segment, receiver)
                && sender.continuation(segment, receiver) == Some(Continuation::Elsewhere))
    }

    /// Removes and returns the segments that both ends set aside: they may belong to the next
    /// connection.
    pub fn take_set_aside(&mut self) -> SetAside {
        let of = |side: &mut Side| (side.address, side.take_set_aside());
        [of(&mut self.sides.client), of(&mut self.sides.server)]
    }

    /// Adds the segments that the previous connection set aside.
    pub fn adopt_set_aside(&mut self, set_aside: SetAside, now: Duration) {
        for (address, segments) in set_aside {
            let side = match address == self.sides.client.address {
                true => &mut self.sides.client,
                false => &mut self.sides.server,
            };
            side.adopt_set_aside(segments, now);
        }
    }
}
