//! The bytes of one direction, in order, and the two directions of an echo against each other.
//! Pure.
//!
//! Segments come as they were captured: repeated, out of order, cut, or not at all. A hole is
//! filled by what comes later; when its bytes were acknowledged, or the flow is over, they were
//! missed by the capture, and no judgement is made of them.
//!
//! Invariants: each byte is given out once, in the order of the stream; what waits for its turn is
//! bounded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes of one direction that may wait for an earlier one: what two kernels hold in flight by
/// default, and half as much again.
const EARLY_BYTES_MAX: usize = 16 << 20;

/// What an entry costs beside its bytes: many small segments must not pass for few bytes.
const ENTRY_BYTES: usize = 128;

/// How long a hole may stay whose bytes were acknowledged before they are taken for missed: a
/// capture may hold an acknowledgment before what it acknowledges.
const HOLE_PATIENCE: Duration = Duration::from_millis(500);

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes, and the number of the packet that brought them.
    Known(u64, Vec<u8>),
    /// So many bytes that the capture does not hold.
    Missing(u64),
}

impl Piece {
    /// How many bytes of the stream it is.
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Known(_, bytes) => bytes.len() as u64,
            Piece::Missing(count) => *count,
        }
    }

    /// What it costs to keep, in bytes.
    fn cost(&self) -> usize {
        match self {
            Piece::Known(_, bytes) => bytes.len() + ENTRY_BYTES,
            Piece::Missing(_) => ENTRY_BYTES,
        }
    }

    /// Takes its first bytes off.
    fn split(&mut self, count: u64) -> Piece {
        match self {
            Piece::Known(packet, bytes) => {
                let rest = bytes.split_off(count as usize);
                Piece::Known(*packet, std::mem::replace(bytes, rest))
            }
            Piece::Missing(left) => {
                *left -= count;
                Piece::Missing(count)
            }
        }
    }
}

/// Puts the segments of one direction in order.
#[derive(Debug)]
pub struct Reassembly {
    /// The sequence number of the first byte.
    start: u32,
    /// Bytes given out so far.
    delivered: u64,
    /// What came early, by its offset.
    early: BTreeMap<u64, Piece>,
    early_bytes: usize,
    missing: u64,
    /// Up to where the other side has acknowledged, and since when that lies beyond what was given
    /// out.
    acknowledged: u64,
    hole_since: Option<Duration>,
}

impl Reassembly {
    /// A stream whose first byte has this sequence number.
    pub fn new(start: u32) -> Self {
        Reassembly {
            start,
            delivered: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            missing: 0,
            acknowledged: 0,
            hole_since: None,
        }
    }

    /// The offset of a sequence number, negative before the first byte. Numbers wrap every 4 GiB;
    /// the one nearest to the bytes given out last is meant.
    pub fn offset(&self, seq: u32) -> i64 {
        let here = self.start.wrapping_add(self.delivered as u32);
        self.delivered as i64 + i64::from(seq.wrapping_sub(here) as i32)
    }

    /// Bytes given out so far, missing ones included.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes that the capture misses so far.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// A segment of `length` bytes, of which this packet holds `payload`.
    pub fn add(
        &mut self,
        (seq, length): (u32, u32),
        packet: u64,
        payload: &[u8],
        out: &mut Vec<Piece>,
    ) {
        let offset = self.offset(seq);
        let known = Piece::Known(packet, payload.to_vec());
        self.place(offset, known, out);
        let cut = u64::from(length) - payload.len() as u64;
        if cut > 0 {
            self.place(offset + payload.len() as i64, Piece::Missing(cut), out);
        }
    }

    /// The other side has all bytes before this number. What is missing of them for a while was not
    /// captured; a number beyond all that was seen says nothing of holes between.
    pub fn acknowledged(&mut self, ack: u32, now: Duration, out: &mut Vec<Piece>) {
        let end = u64::try_from(self.offset(ack)).unwrap_or(0);
        self.acknowledged = self.acknowledged.max(end);
        let seen = self.early.last_key_value();
        let seen = seen.map_or(0, |(offset, piece)| offset + piece.len());
        let end = self.acknowledged.min(seen);
        if end <= self.delivered {
            self.hole_since = None;
            return;
        }
        let since = *self.hole_since.get_or_insert(now);
        if now.saturating_sub(since) >= HOLE_PATIENCE {
            self.hole_since = None;
            self.skip_to(end, out);
        }
    }

    /// No more comes: gives out what waits, with the holes between.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        while let Some((&offset, _)) = self.early.first_key_value() {
            self.skip_to(offset, out);
        }
    }

    /// Gives out everything before an offset, holes as missing, and what follows it at once.
    fn skip_to(&mut self, end: u64, out: &mut Vec<Piece>) {
        while self.delivered < end {
            let next = self.early.keys().next().copied().unwrap_or(end).min(end);
            if next > self.delivered {
                self.give(Piece::Missing(next - self.delivered), out);
            }
            self.give_early(out);
        }
    }

    fn place(&mut self, offset: i64, mut piece: Piece, out: &mut Vec<Piece>) {
        let here = self.delivered as i64;
        let end = offset + piece.len() as i64;
        if end <= here {
            return; // All of it was given out before: a retransmission.
        }
        if offset < here {
            piece.split((here - offset) as u64);
        }
        let offset = offset.max(here) as u64;
        if offset == self.delivered {
            self.give(piece, out);
            self.give_early(out);
            return;
        }
        let before = self.early.get(&offset);
        if before.is_some_and(|before| before.len() >= piece.len()) {
            return; // It waits already.
        }
        self.early_bytes -= before.map_or(0, Piece::cost);
        self.early_bytes += piece.cost();
        self.early.insert(offset, piece);
        if self.early_bytes > EARLY_BYTES_MAX {
            self.finish(out);
        }
    }

    /// Gives out what waits and has its turn now.
    fn give_early(&mut self, out: &mut Vec<Piece>) {
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= self.delivered
        {
            let (offset, mut piece) = entry.remove_entry();
            self.early_bytes -= piece.cost();
            let repeated = self.delivered - offset;
            if repeated < piece.len() {
                piece.split(repeated);
                self.give(piece, out);
            }
        }
    }

    fn give(&mut self, piece: Piece, out: &mut Vec<Piece>) {
        self.delivered += piece.len();
        if let Piece::Missing(count) = piece {
            self.missing += count;
        }
        out.push(piece);
    }
}

/// A reply byte that is not the upper case of the request byte at its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Offset in both streams, from 0.
    pub offset: u64,
    /// The upper case of the request's byte.
    pub expected: u8,
    /// The reply's byte.
    pub found: u8,
}

/// Which stream a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What the client sends.
    Request,
    /// What comes back.
    Reply,
}

/// Compares the reply with the upper case of the request, as far as both are known.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What the one stream has beyond the other: requests in upper case, or replies.
    ahead: VecDeque<Piece>,
    replies_ahead: bool,
    ahead_bytes: u64,
    ahead_cost: usize,
    offset: u64,
    unchecked: u64,
}

impl Comparison {
    /// The next piece of a stream. Tells the first byte of a reply that differs, and the packet
    /// that brought it.
    pub fn add(&mut self, stream: Stream, mut piece: Piece) -> Option<(u64, Difference)> {
        if let (Stream::Request, Piece::Known(_, bytes)) = (stream, &mut piece) {
            bytes.make_ascii_uppercase();
        }
        if self.ahead.is_empty() {
            self.replies_ahead = stream == Stream::Reply;
        }
        if self.replies_ahead == (stream == Stream::Reply) {
            self.wait(piece);
            return None;
        }
        let mut difference = None;
        while piece.len() > 0
            && let Some(front) = self.ahead.front_mut()
        {
            let count = front.len().min(piece.len());
            let (waiting, arrived) = (front.split(count), piece.split(count));
            self.ahead_bytes -= count;
            self.ahead_cost -= waiting.cost() - ENTRY_BYTES;
            if front.len() == 0 {
                self.ahead.pop_front();
                self.ahead_cost -= ENTRY_BYTES;
            }
            let (request, reply) = match stream {
                Stream::Request => (arrived, waiting),
                Stream::Reply => (waiting, arrived),
            };
            difference = difference.or(self.compare(&request, &reply));
            self.offset += count;
        }
        if piece.len() > 0 {
            self.replies_ahead = stream == Stream::Reply;
            self.wait(piece);
        }
        difference
    }

    /// Bytes of requests that have no reply.
    pub fn unanswered(&self) -> u64 {
        if self.replies_ahead {
            0
        } else {
            self.ahead_bytes
        }
    }

    /// Bytes of replies that answer nothing.
    pub fn surplus(&self) -> u64 {
        if self.replies_ahead {
            self.ahead_bytes
        } else {
            0
        }
    }

    /// Bytes that could not be compared, since one side or the other is not known.
    pub fn unchecked(&self) -> u64 {
        self.unchecked
    }

    /// Keeps a piece until the other stream has come so far. Of more than a bounded number of bytes
    /// only the length is kept.
    fn wait(&mut self, piece: Piece) {
        self.ahead_bytes += piece.len();
        self.ahead_cost += piece.cost();
        let piece = match self.ahead_cost > EARLY_BYTES_MAX {
            true => Piece::Missing(piece.len()),
            false => piece,
        };
        match (self.ahead.back_mut(), piece) {
            (Some(Piece::Missing(last)), Piece::Missing(count)) => {
                *last += count;
                self.ahead_cost -= ENTRY_BYTES;
            }
            (_, piece) => self.ahead.push_back(piece),
        }
    }

    fn compare(&mut self, request: &Piece, reply: &Piece) -> Option<(u64, Difference)> {
        let (Piece::Known(_, expected), Piece::Known(packet, found)) = (request, reply) else {
            self.unchecked += request.len();
            return None;
        };
        if expected == found {
            return None;
        }
        let mut pairs = expected.iter().zip(found);
        let place = pairs.position(|(expected, found)| expected != found)?;
        let difference = Difference {
            offset: self.offset + place as u64,
            expected: expected[place],
            found: found[place],
        };
        Some((*packet, difference))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn segments_in_any_order_and_number_give_the_stream_once(
            start: u32,
            length in 1usize..500,
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 1usize..80), 0..60),
        ) {
            let bytes: Vec<u8> = (0..length).map(|place| (place * 7 % 251) as u8).collect();
            let mut reassembly = Reassembly::new(start);
            let mut out = Vec::new();
            for (place, size) in cuts {
                let place = place.index(length);
                let part = &bytes[place..(place + size).min(length)];
                let seq = start.wrapping_add(place as u32);
                reassembly.add((seq, part.len() as u32), 1, part, &mut out);
            }
            let end = start.wrapping_add(length as u32);
            for second in 0..3 {
                reassembly.acknowledged(end, Duration::from_secs(second), &mut out);
            }
            reassembly.finish(&mut out);
            let mut offset = 0;
            for piece in out {
                if let Piece::Known(_, part) = &piece {
                    prop_assert_eq!(&bytes[offset..offset + part.len()], &part[..]);
                }
                offset += piece.len() as usize;
            }
            prop_assert_eq!(reassembly.delivered(), offset as u64);
            prop_assert_eq!(reassembly.early_bytes, 0);
        }

        #[test]
        fn a_comparison_finds_the_first_difference_however_the_streams_are_cut(
            request in prop::collection::vec(any::<u8>(), 1..300),
            cuts in prop::collection::vec((any::<bool>(), 1usize..40), 1..200),
            wrong: Option<(prop::sample::Index, u8)>,
        ) {
            let mut reply = request.to_ascii_uppercase();
            let mut expected = None;
            if let Some((place, change)) = wrong && change != 0 {
                let place = place.index(reply.len());
                let right = reply[place];
                reply[place] ^= change;
                let found = reply[place];
                expected = Some(Difference { offset: place as u64, expected: right, found });
            }
            let mut comparison = Comparison::default();
            let (mut asked, mut answered) = (0, 0);
            let mut found = None;
            let rest = [(false, request.len()), (true, request.len())];
            for (is_reply, size) in cuts.into_iter().chain(rest) {
                let (stream, source, at) = if is_reply {
                    (Stream::Reply, &reply, &mut answered)
                } else {
                    (Stream::Request, &request, &mut asked)
                };
                let end = (*at + size).min(source.len());
                if end > *at {
                    let piece = Piece::Known(7, source[*at..end].to_vec());
                    found = found.or(comparison.add(stream, piece));
                    *at = end;
                }
            }
            prop_assert_eq!(found, expected.map(|difference| (7, difference)));
            prop_assert_eq!((comparison.unanswered(), comparison.surplus()), (0, 0));
        }
    }

    #[test]
    fn what_the_capture_misses_is_not_compared() {
        let mut comparison = Comparison::default();
        comparison.add(Stream::Request, Piece::Known(1, b"abc".to_vec()));
        comparison.add(Stream::Request, Piece::Missing(2));
        comparison.add(Stream::Request, Piece::Known(2, b"f".to_vec()));
        let reply = Piece::Known(3, b"ABCxyF".to_vec());
        assert_eq!(comparison.add(Stream::Reply, reply), None);
        assert_eq!(comparison.unchecked(), 2);
    }
}
