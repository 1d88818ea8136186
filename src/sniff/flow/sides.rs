//! Both endpoints of a connection: which of them sent a segment, whether the other one accepts it,
//! and with which SYN,ACK the server's stream begins. Pure.
//!
//! The capture may hold SYN,ACKs with different numbers: one of them belongs to this connection.
//! The first one counts, until the client acknowledges another one.

use crate::sniff::flow::finding::Role;
use crate::sniff::flow::side::{Continuation, OtherSyn, Side};
use crate::sniff::packet::segment::{Flags, Segment};

/// Both endpoints of a connection.
#[derive(Debug)]
pub struct Sides {
    /// The endpoint that opened it.
    pub client: Side,
    /// The endpoint that accepted it.
    pub server: Side,
}

impl Sides {
    /// Returns the role of the sender of a segment.
    pub fn role_of(&self, segment: &Segment<'_>) -> Role {
        if segment.source == self.client.address {
            Role::Client
        } else {
            Role::Server
        }
    }

    /// Returns an endpoint.
    pub fn get(&self, role: Role) -> &Side {
        match role {
            Role::Client => &self.client,
            Role::Server => &self.server,
        }
    }

    /// Returns an endpoint, to change it.
    pub fn get_mut(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }

    /// Returns the sending side and the receiving side.
    pub fn pair_mut(&mut self, from: Role) -> (&mut Side, &mut Side) {
        match from {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        }
    }

    /// Returns true when both sides closed and all their bytes were acknowledged: an RST then loses
    /// nothing, even when the capture lacks the acknowledgment of a FIN.
    pub fn all_acknowledged(&self) -> bool {
        self.client.all_acknowledged() && self.server.all_acknowledged()
    }

    /// Returns true when both streams begin with a SYN that was seen. Otherwise it is unknown which
    /// bytes of the two streams correspond.
    pub fn are_comparable(&self) -> bool {
        self.client.starts_at_syn() && self.server.starts_at_syn()
    }

    /// Returns true when the receiver accepts a segment; see [`Side::is_acceptable`].
    pub fn is_acceptable(&self, segment: &Segment<'_>) -> bool {
        let from = self.role_of(segment);
        self.get(from)
            .is_acceptable(segment, self.get(from.other()))
    }

    /// Returns true when the receiver accepts a segment. A segment with which the connection
    /// continues after a gap in the capture extends the window first.
    pub fn check_window(&mut self, from: Role, segment: &Segment<'_>) -> bool {
        if self.is_acceptable(segment) {
            return true;
        }
        let (sender, receiver) = self.pair_mut(from);
        if sender.continuation(segment, receiver) == Some(Continuation::AfterGap) {
            sender.resume(segment);
            receiver.uncount_stray_ack();
        }
        self.is_acceptable(segment)
    }

    /// Records a segment outside the window. A SYN,ACK of the server among them may turn out to be
    /// the one with which its stream begins.
    pub fn record_outside(&mut self, from: Role, packet: u64, segment: &Segment<'_>) {
        self.get_mut(from).record_outside(segment, packet);
        let is_syn_ack = segment.flags.has(Flags::SYN) && segment.flags.has(Flags::ACK);
        if is_syn_ack && from == Role::Server {
            let seq = segment.seq;
            let again = self.server.other_syn.filter(|other| other.seq == seq);
            self.server.other_syn = Some(OtherSyn {
                seq,
                answers: segment.length == 0 && self.client.may_answer(segment),
                count: again.map_or(1, |other| other.count + 1),
            });
        }
    }

    /// Makes the server's stream begin after its other SYN,ACK, which has a different number, when
    /// the client acknowledges that one.
    pub fn prefer_other_syn(&mut self, segment: &Segment<'_>) {
        if self.prefers_other_syn(segment) {
            let seq = segment.ack.wrapping_sub(1);
            self.server.restart_after_other_syn(seq);
        }
    }

    /// Returns true when a segment shows that the server's stream begins after its other SYN,ACK.
    pub fn prefers_other_syn(&self, segment: &Segment<'_>) -> bool {
        self.acknowledges_other_syn(segment)
            && self.server.other_syn.is_some_and(|other| other.answers)
            && self.server.may_restart_after_other_syn()
            && self.client.strays.count == 0
    }

    /// Returns true when the client acknowledges a SYN,ACK with another number than the first one.
    pub fn acknowledges_other_syn(&self, segment: &Segment<'_>) -> bool {
        let other = self.server.other_syn.map(|other| other.seq);
        self.role_of(segment) == Role::Client
            && segment.flags.has(Flags::ACK)
            && other == Some(segment.ack.wrapping_sub(1))
    }
}
