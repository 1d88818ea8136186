//! Provides a view of the bytes of one captured frame: the captured bytes, and the length of the
//! frame on the wire. Pure.
//!
//! Invariant: `captured.len() <= on_wire`. Every header is taken from the front of the view, so
//! only this file has to distinguish a header that the capture has cut off ([`Unread::Cut`]) from
//! one for which the packet itself is too short ([`Unread::Malformed`]).

use std::fmt;

/// The reason why a frame yields no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// A protocol that is not TCP and does not carry it.
    NotTcp,
    /// A protocol that may carry TCP and is not dissected, by its name.
    NotDissected(&'static str),
    /// A fragment of an IP packet of which other fragments are still missing.
    Fragment,
    /// Fragments that contradict each other; their packet is not reassembled.
    Contradiction(String),
    /// The capture ends within the headers.
    Cut,
    /// The headers contradict themselves or the frame.
    Malformed(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::NotTcp => write!(f, "not TCP"),
            Unread::NotDissected(what) => write!(f, "{what}, which is not dissected"),
            Unread::Fragment => write!(f, "a fragment of an IP packet"),
            Unread::Contradiction(why) => write!(
                f,
                "IP fragments contradict each other and are not reassembled: {why}"
            ),
            Unread::Cut => write!(f, "its headers are cut off (snap length)"),
            Unread::Malformed(why) => write!(f, "malformed: {why}"),
        }
    }
}

impl Unread {
    /// Returns the error for a header that was guessed from a port number: a malformed one belongs
    /// to another protocol, and the packet is not faulty.
    pub fn guessed(self, what: &'static str) -> Unread {
        match self {
            Unread::Malformed(_) => Unread::NotDissected(what),
            other => other,
        }
    }
}

/// A view of the rest of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<'a> {
    /// The bytes that were captured.
    pub captured: &'a [u8],
    /// The length of these bytes on the wire.
    pub on_wire: usize,
}

impl<'a> Bytes<'a> {
    /// Returns the view of a whole frame. `on_wire` counts as at least the captured length.
    pub fn new(captured: &'a [u8], on_wire: usize) -> Bytes<'a> {
        Bytes {
            captured,
            on_wire: on_wire.max(captured.len()),
        }
    }

    /// Returns the first `count` bytes and the view of the rest. `what` names these bytes in an
    /// error.
    pub fn take(self, count: usize, what: &'static str) -> Result<(&'a [u8], Bytes<'a>), Unread> {
        if let Some((head, captured)) = self.captured.split_at_checked(count) {
            let on_wire = self.on_wire - count;
            return Ok((head, Bytes { captured, on_wire }));
        }
        if count <= self.on_wire || self.is_cut() {
            return Err(Unread::Cut);
        }
        // In the second case `count` is at least 2, so the plural is right.
        let why = match self.on_wire {
            0 => format!("the packet ends before {what}"),
            left => format!("{what} takes {count} bytes, and the packet has {left} left"),
        };
        Err(Unread::Malformed(why))
    }

    /// Returns the view of the bytes after the first `count`.
    pub fn skip(self, count: usize, what: &'static str) -> Result<Bytes<'a>, Unread> {
        self.take(count, what).map(|(_, rest)| rest)
    }

    /// Returns the view of the first `count` bytes.
    pub fn limit(self, count: usize) -> Bytes<'a> {
        let captured = &self.captured[..self.captured.len().min(count)];
        let on_wire = self.on_wire.min(count);
        Bytes { captured, on_wire }
    }

    /// Returns byte number `place`, if it was captured.
    pub fn peek(self, place: usize) -> Option<u8> {
        self.captured.get(place).copied()
    }

    /// Returns true when the capture holds only a part of the bytes.
    pub fn is_cut(self) -> bool {
        self.captured.len() < self.on_wire
    }
}

/// Returns the 16-bit number at `place`, in network byte order; `bytes` must hold all of it.
pub fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_be_bytes([bytes[place], bytes[place + 1]])
}

/// Returns the 32-bit number at `place`, in network byte order; `bytes` must hold all of it.
pub fn u32_at(bytes: &[u8], place: usize) -> u32 {
    (u32::from(u16_at(bytes, place)) << 16) | u32::from(u16_at(bytes, place + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_and_what_was_never_there_are_reported_apart() {
        let cut = Bytes::new(&[1, 2, 3], 10);
        assert_eq!(cut.take(4, "it"), Err(Unread::Cut));
        assert_eq!(cut.take(11, "it"), Err(Unread::Cut));
        let whole = Bytes::new(&[1, 2, 3], 3);
        assert!(matches!(whole.take(4, "it"), Err(Unread::Malformed(_))));
        let (head, rest) = cut.take(2, "it").unwrap();
        assert_eq!(
            (head, rest.captured, rest.on_wire),
            (&[1, 2][..], &[3][..], 8)
        );
        assert_eq!(cut.limit(5).on_wire, 5);
        assert_eq!(u32_at(&[0, 1, 2, 3, 4], 1), 0x0102_0304);
    }
}
