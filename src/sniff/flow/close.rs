//! Follows the end of a connection: a FIN of each side, or an RST. Pure.
//!
//! An RST ends the connection if it has exactly the sequence number that its receiver expects. Any
//! other number within the window is only answered with a challenge ACK (RFC 5961, section 3),
//! unless the capture lacks the bytes before it: then the connection is over if no segment shows
//! that it continued.

use crate::sniff::flow::finding::Role;
use crate::sniff::flow::observation::Packet;
use crate::sniff::flow::sides::Sides;
use crate::sniff::packet::segment::{Flags, Segment};

/// The end of a connection, as far as it was seen. Each side keeps the offset of its FIN itself.
#[derive(Debug, Default)]
pub struct Close {
    first_closer: Option<Role>,
    reset: Option<Reset>,
    /// The first RST after which the connection continued: its sender and its packet.
    challenged: Option<(Role, u64)>,
}

/// An RST that its receiver may have accepted.
#[derive(Clone, Copy, Debug)]
pub struct Reset {
    /// Its sender.
    pub from: Role,
    /// The number of its packet.
    pub packet: u64,
    /// Whether its sequence number is exactly the one that its receiver expects.
    exact: bool,
}

impl Close {
    /// Returns the end of a connection that was reported. `reset_by`: the side that reset it, if
    /// one did.
    pub fn revived(reset_by: Option<Role>) -> Close {
        Close {
            reset: reset_by.map(|from| Reset {
                from,
                packet: 0,
                exact: true,
            }),
            ..Close::default()
        }
    }

    /// Returns the end that sent the first FIN.
    pub fn first_closer(&self) -> Option<Role> {
        self.first_closer
    }

    /// Returns the RST that ended the connection, or may have ended it.
    pub fn reset(&self) -> Option<Reset> {
        self.reset
    }

    /// Returns the side whose RST certainly ended the connection.
    pub fn reset_by(&self) -> Option<Role> {
        let exact = self.reset.filter(|reset| reset.exact);
        exact.map(|reset| reset.from)
    }

    /// Returns the sender and the packet of the first RST after which the connection continued.
    pub fn challenged(&self) -> Option<(Role, u64)> {
        self.challenged
    }

    /// Cancels a reset whose RST does not have the expected number, if this segment shows that the
    /// connection continued after it.
    pub fn cancel_reset(&mut self, from: Role, segment: &Segment<'_>) {
        let Some(reset) = self.reset.filter(|reset| !reset.exact) else {
            return;
        };
        // A bare acknowledgment from its receiver may be the challenge ACK, and shows nothing.
        let is_answer = from != reset.from && segment.span() == 0;
        if !segment.flags.has(Flags::RST) && !is_answer {
            self.reset = None;
            self.challenged.get_or_insert((reset.from, reset.packet));
        }
    }

    /// Processes the RST or the FIN of a segment, if it has one. Returns true when a FIN
    /// contradicts what its sender sent before.
    pub fn process(
        &mut self,
        sides: &mut Sides,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
    ) -> bool {
        if segment.flags.has(Flags::RST) {
            if self.reset_by().is_none() && !sides.all_acknowledged() {
                self.reset = Some(Reset {
                    from,
                    packet: packet.number,
                    exact: sides.get(from).is_expected(segment.seq),
                });
            }
            return false;
        }
        if !segment.flags.has(Flags::FIN) {
            return false;
        }
        let side = sides.get_mut(from);
        // A FIN at the number of the SYN, or before it, closes nothing: that number is taken.
        let end = side.offset(segment.seq.wrapping_add(segment.span())) - 1;
        let Ok(end) = u64::try_from(end) else {
            return false;
        };
        self.first_closer.get_or_insert(from);
        side.close(end, packet.time)
    }
}
