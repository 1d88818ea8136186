//! Reassembles the bytes of each direction of a connection, and compares the two directions of an
//! echo. Pure.
//!
//! Segments are added as they were captured: repeated, out of order, cut, or not at all. A hole is
//! filled by segments that arrive later. If its bytes have been acknowledged for some time, or the
//! flow is over, the capture missed them, and they are not judged.
//!
//! A byte is kept, once, as long as it is needed: until it was compared with the other direction,
//! and until the peer acknowledged it. Up to then it may be retransmitted, and must be the same;
//! after that the peer has it, and drops whatever is sent at its offset.
//!
//! A segment beyond the receiver's window is set aside. Only an acknowledgment that covers it makes
//! it a part of the stream: the receiver accepted it, and the capture lacks the segment that opened
//! the window.
//!
//! Invariants: no two pieces overlap, and the first bytes that arrive at an offset are kept; there
//! is no gap from `released` to `delivered`; `captured` counts every offset at most once, and only
//! bytes that the capture holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::echo::{Difference, Expect};

/// Overhead that is counted for each piece in addition to its bytes, so that many small segments do
/// not count as few bytes.
const ENTRY_BYTES: usize = 128;

/// Time after which missing bytes that were acknowledged count as missed by the capture: a capture
/// may hold an acknowledgment before the bytes that it acknowledges.
const HOLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum distance of a SYN before the first byte seen, in bytes. A sequence number that is
/// further away belongs to another connection.
const EARLIER_MAX: u32 = 1 << 20;

/// A part of a stream.
#[derive(Debug)]
enum Piece {
    /// The number of the packet that carried these bytes, and the bytes.
    Known(u64, Box<[u8]>),
    /// Number of bytes that the capture does not hold.
    Missing(u64),
}

impl Piece {
    /// Returns the number of bytes of the stream that the piece covers.
    fn len(&self) -> u64 {
        match self {
            Piece::Known(_, bytes) => bytes.len() as u64,
            Piece::Missing(count) => *count,
        }
    }

    /// Returns the memory that is counted for the piece, in bytes.
    fn cost(&self) -> usize {
        match self {
            Piece::Known(_, bytes) => bytes.len() + ENTRY_BYTES,
            Piece::Missing(_) => ENTRY_BYTES,
        }
    }
}

/// Reassembles the segments of one direction.
#[derive(Debug)]
pub struct Reassembly {
    /// The sequence number of the first byte.
    start: u32,
    /// The pieces that are kept, by offset.
    pieces: BTreeMap<u64, Piece>,
    /// The memory that is counted for the pieces and the segments set aside, in bytes.
    cost: usize,
    /// The offset before which nothing is kept any more.
    released: u64,
    /// The offset before which no byte is awaited any more.
    delivered: u64,
    /// Bytes that the capture holds, each offset counted once.
    captured: u64,
    /// The offset after the highest segment, whether the capture holds its bytes or not.
    high: u64,
    /// The offset that the peer has acknowledged, and the time since which it has been beyond what
    /// was delivered.
    acknowledged: u64,
    hole_since: Option<Duration>,
    /// Segments beyond the window.
    aside: Vec<SetAsideSegment>,
}

/// A segment beyond the receiver's window.
#[derive(Debug)]
pub struct SetAsideSegment {
    offset: u64,
    /// Its length on the wire.
    pub length: u32,
    /// True when it has a FIN.
    pub fin: bool,
    /// The number of the packet that carried it.
    pub packet: u64,
    /// Its payload as far as it was captured.
    pub bytes: Box<[u8]>,
}

impl SetAsideSegment {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    fn cost(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }
}

impl Reassembly {
    /// Returns a stream whose first byte has this sequence number.
    pub fn new(start: u32) -> Self {
        Reassembly {
            start,
            pieces: BTreeMap::new(),
            cost: 0,
            released: 0,
            delivered: 0,
            captured: 0,
            high: 0,
            acknowledged: 0,
            hole_since: None,
            aside: Vec::new(),
        }
    }

    /// Returns a stream of `length` bytes, all of them captured and acknowledged, and none kept.
    pub fn complete(start: u32, length: u64) -> Self {
        Reassembly {
            released: length,
            delivered: length,
            captured: length,
            high: length,
            acknowledged: length,
            ..Reassembly::new(start)
        }
    }

    /// Returns the sequence number of the first byte.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Returns the number of bytes by which the stream would have to begin earlier for this to be
    /// its first sequence number, if that is still possible: only while no byte was dropped or
    /// acknowledged.
    pub fn earlier(&self, start: u32) -> Option<u32> {
        let earlier = self.start.wrapping_sub(start);
        let is_near = earlier < EARLIER_MAX;
        (is_near && self.released == 0 && self.acknowledged == 0).then_some(earlier)
    }

    /// Moves the beginning of the stream back by this number of bytes.
    pub fn begin_earlier(&mut self, bytes: u32) {
        let shift = u64::from(bytes);
        self.start = self.start.wrapping_sub(bytes);
        let pieces = std::mem::take(&mut self.pieces).into_iter();
        self.pieces = pieces
            .map(|(offset, piece)| (offset + shift, piece))
            .collect();
        for aside in &mut self.aside {
            aside.offset += shift;
        }
        self.high += if self.high > 0 { shift } else { 0 };
        self.delivered = 0;
        self.deliver();
    }

    /// Returns the offset of a sequence number, negative before the first byte. Sequence numbers
    /// wrap every 4 GiB; the offset is the one nearest to the bytes delivered last.
    pub fn offset(&self, seq: u32) -> i64 {
        let here = self.start.wrapping_add(self.delivered as u32);
        self.delivered as i64 + i64::from(seq.wrapping_sub(here) as i32)
    }

    /// Returns the number of bytes in order so far, missing ones included.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Returns the number of bytes that the capture holds so far.
    pub fn captured(&self) -> u64 {
        self.captured
    }

    /// Returns the offset after the highest segment so far.
    pub fn high(&self) -> u64 {
        self.high
    }

    /// Returns the number of bytes from this offset on that are in the capture and still kept.
    pub fn captured_from(&self, start: u64) -> u64 {
        let kept = self.pieces.iter().map(|(offset, piece)| match piece {
            Piece::Known(_, bytes) => {
                let end = offset + bytes.len() as u64;
                end.saturating_sub(start.max(*offset))
            }
            Piece::Missing(_) => 0,
        });
        kept.sum()
    }

    /// Returns true when the capture does not hold the byte at an offset.
    pub fn lacks(&self, offset: u64) -> bool {
        let piece = self.pieces.range(..=offset).next_back();
        let piece = piece.filter(|(start, piece)| *start + piece.len() > offset);
        match piece {
            Some((_, Piece::Known(..))) => false,
            Some((_, Piece::Missing(_))) => true,
            None => offset >= self.released,
        }
    }

    /// Returns the memory that is counted for the stream, in bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Sets a segment aside that begins beyond the window, by its offset and length.
    pub fn set_aside(
        &mut self,
        (offset, length): (u64, u32),
        fin: bool,
        packet: u64,
        bytes: &[u8],
    ) {
        let aside = SetAsideSegment {
            offset,
            length,
            fin,
            packet,
            bytes: bytes.into(),
        };
        self.cost += aside.cost();
        self.aside.push(aside);
    }

    /// Removes and returns all segments that were set aside, each with its sequence number: they
    /// belong to another stream.
    pub fn take_set_aside(&mut self) -> Vec<(u32, SetAsideSegment)> {
        let aside = std::mem::take(&mut self.aside);
        self.cost -= aside.iter().map(SetAsideSegment::cost).sum::<usize>();
        let start = self.start;
        let numbered = aside
            .into_iter()
            .map(|aside| (start.wrapping_add(aside.offset as u32), aside));
        numbered.collect()
    }

    /// Moves segments that were set aside into the stream, if they are acknowledged up to this
    /// offset. Returns their number, and the offset of the FIN if one of them has it.
    pub fn accept_set_aside(&mut self, acknowledged: u64) -> (u64, Option<u64>) {
        let (mut count, mut fin) = (0, None);
        let mut place = 0;
        while let Some(aside) = self.aside.get(place) {
            if aside.end() + u64::from(aside.fin) > acknowledged {
                place += 1;
                continue;
            }
            let aside = self.aside.swap_remove(place);
            self.cost -= aside.cost();
            count += 1;
            if aside.fin {
                fin = Some(aside.end());
            }
            // Bytes that arrived at its offsets since are those that the receiver accepted.
            let seq = self.start.wrapping_add(aside.offset as u32);
            self.add((seq, aside.length), aside.packet, &aside.bytes);
        }
        (count, fin)
    }

    /// Adds a segment of `length` bytes, of which this packet holds `payload`. Returns its first
    /// byte that differs from the one kept at its offset.
    pub fn add(
        &mut self,
        (seq, length): (u32, u32),
        packet: u64,
        payload: &[u8],
    ) -> Option<Difference> {
        let (offset, released) = (self.offset(seq), self.released as i64);
        let end = offset + i64::from(length);
        if end <= released {
            return None;
        }
        let (start, end) = (offset.max(released), end as u64);
        self.high = self.high.max(end);
        let payload = payload.get((start - offset) as usize..).unwrap_or(&[]);
        let part = (start as u64, packet, payload);
        let mut difference = None;
        let mut gaps = Vec::new();
        let mut gap = start as u64;
        let first = self.pieces.range(..=gap).next_back();
        let first = first.map_or(gap, |(offset, _)| *offset);
        for (&offset, piece) in self.pieces.range(first..end) {
            if offset > gap {
                gaps.push(gap..offset);
            }
            gap = gap.max(offset + piece.len());
            difference = difference.or_else(|| altered((offset, piece), part));
        }
        for gap in gaps {
            self.keep(gap, part);
        }
        if gap < end {
            self.keep(gap..end, part);
        }
        self.deliver();
        difference
    }

    /// Records that the peer has all bytes before this offset. Those that are still missing after
    /// `HOLE_TIMEOUT` were not captured; bytes after the last segment that was seen are still
    /// awaited.
    pub fn acknowledged(&mut self, end: u64, now: Duration) {
        self.acknowledged = self.acknowledged.max(end);
        let seen = self.pieces.last_key_value();
        let seen = seen.map_or(0, |(offset, piece)| offset + piece.len());
        let end = self.acknowledged.min(seen);
        if end <= self.delivered {
            self.hole_since = None;
            return;
        }
        let since = *self.hole_since.get_or_insert(now);
        if now.saturating_sub(since) >= HOLE_TIMEOUT {
            self.hole_since = None;
            self.skip_to(end);
        }
    }

    /// Ends the stream: its holes are missing bytes from now on.
    pub fn finish(&mut self) {
        while let Some((&offset, _)) = self.pieces.range(self.delivered..).next() {
            self.skip_to(offset);
        }
    }

    /// Drops acknowledged bytes before this offset: they are not needed for the comparison any
    /// more.
    pub fn release(&mut self, end: u64) {
        let end = end.min(self.acknowledged).min(self.delivered);
        while let Some(entry) = self.pieces.first_entry()
            && entry.key() + entry.get().len() <= end
        {
            let piece = entry.remove();
            self.released += piece.len();
            self.cost -= piece.cost();
        }
        if self.pieces.is_empty() {
            // An empty map keeps a node of half a KiB.
            self.pieces = BTreeMap::new();
        }
    }

    /// Ends the stream and drops everything that is kept.
    pub fn forget(&mut self) {
        self.finish();
        self.pieces.clear();
        self.aside = Vec::new();
        self.cost = 0;
        self.released = self.delivered;
    }

    /// Delivers everything before an offset, holes as missing bytes, and the pieces that follow
    /// without a gap.
    fn skip_to(&mut self, end: u64) {
        while self.delivered < end {
            let next = self.pieces.range(self.delivered..).next();
            let next = next.map_or(end, |(offset, _)| end.min(*offset));
            self.insert(self.delivered, Piece::Missing(next - self.delivered));
            self.deliver();
        }
    }

    /// Moves `delivered` to the next gap.
    fn deliver(&mut self) {
        while let Some(piece) = self.pieces.get(&self.delivered) {
            self.delivered += piece.len();
        }
    }

    /// Fills a gap with its part of a segment, which the capture may have cut.
    fn keep(&mut self, gap: Range<u64>, (start, packet, payload): Part<'_>) {
        let place = |offset: u64| payload.len().min((offset - start) as usize);
        let known = &payload[place(gap.start)..place(gap.end)];
        if !known.is_empty() {
            self.insert(gap.start, Piece::Known(packet, known.into()));
        }
        let cut = gap.end - gap.start - known.len() as u64;
        if cut > 0 {
            self.insert(gap.end - cut, Piece::Missing(cut));
        }
    }

    fn insert(&mut self, offset: u64, piece: Piece) {
        self.cost += piece.cost();
        if let Piece::Known(_, bytes) = &piece {
            self.captured += bytes.len() as u64;
        }
        self.pieces.insert(offset, piece);
    }

    /// Returns the number of bytes from an offset to the end of its piece, and the packet and bytes
    /// of that part if they are known.
    fn known(&self, offset: u64) -> (u64, Option<(u64, &[u8])>) {
        match self.pieces.range(..=offset).next_back() {
            Some((start, Piece::Known(packet, bytes))) => {
                let bytes = &bytes[(offset - start) as usize..];
                (bytes.len() as u64, Some((*packet, bytes)))
            }
            Some((start, Piece::Missing(count))) => (start + count - offset, None),
            None => (self.released - offset, None),
        }
    }
}

/// A part of a segment: its offset, its packet, and its bytes as far as they were captured.
type Part<'a> = (u64, u64, &'a [u8]);

/// Returns the first byte of a part that was captured before with another value.
fn altered((offset, piece): (u64, &Piece), (start, _, payload): Part<'_>) -> Option<Difference> {
    let Piece::Known(_, bytes) = piece else {
        return None;
    };
    let first = offset.max(start);
    let before = bytes.get((first - offset) as usize..)?;
    let again = payload.get((first - start) as usize..)?;
    let count = before.len().min(again.len());
    Difference::first(first, &before[..count], &again[..count])
}

/// The comparison of the reply with its expected content, as far as both streams were delivered.
#[derive(Debug, Default)]
pub struct Comparison {
    expect: Expect,
    offset: u64,
    unchecked: u64,
}

impl Comparison {
    /// Returns a comparison that has not begun.
    pub fn new(expect: Expect) -> Self {
        Comparison {
            expect,
            ..Comparison::default()
        }
    }

    /// Returns the expected content of the reply.
    pub fn expect(&self) -> Expect {
        self.expect
    }

    /// Continues as far as both streams were delivered. Returns the first byte of the reply that
    /// differs, and the number of the packet that carried it.
    pub fn advance(
        &mut self,
        request: &Reassembly,
        reply: &Reassembly,
    ) -> Option<(u64, Difference)> {
        let end = request.delivered.min(reply.delivered);
        let mut difference = None;
        while self.offset < end {
            let (asked, request) = request.known(self.offset);
            let (answered, reply) = reply.known(self.offset);
            let count = asked.min(answered).min(end - self.offset);
            if let (Some((_, request)), Some((packet, reply))) = (request, reply) {
                let found = self.compare(&request[..count as usize], &reply[..count as usize]);
                difference = difference.or(found.map(|found| (packet, found)));
            } else {
                self.unchecked += count;
            }
            self.offset += count;
        }
        difference
    }

    /// Returns the number of bytes of each stream that were compared so far, or could not be.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the number of bytes of the reply that were compared with their bytes of the request.
    pub fn compared(&self) -> u64 {
        self.offset - self.unchecked
    }

    fn compare(&self, request: &[u8], reply: &[u8]) -> Option<Difference> {
        match self.expect {
            Expect::Upper => Difference::first_of_reply(self.offset, request, reply),
            Expect::Same => Difference::first(self.offset, request, reply),
            Expect::Anything => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns everything that is kept and in order; missing bytes are `None`.
    fn delivered(stream: &Reassembly) -> Vec<Option<u8>> {
        let mut bytes = vec![None; stream.released as usize];
        while (bytes.len() as u64) < stream.delivered {
            let (count, known) = stream.known(bytes.len() as u64);
            match known {
                Some((_, known)) => bytes.extend(known.iter().copied().map(Some)),
                None => bytes.resize(bytes.len() + count as usize, None),
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn segments_in_any_order_and_number_give_the_stream_once(
            start: u32,
            length in 1usize..500,
            cuts in prop::collection::vec(
                (any::<prop::sample::Index>(), 1usize..80, 0u32..9),
                0..60,
            ),
        ) {
            let bytes: Vec<u8> = (0..length).map(|place| (place * 7 % 251) as u8).collect();
            let mut stream = Reassembly::new(start);
            for (place, size, cut) in cuts {
                let place = place.index(length);
                let part = &bytes[place..(place + size).min(length)];
                let seq = start.wrapping_add(place as u32);
                prop_assert_eq!(stream.add((seq, part.len() as u32 + cut), 1, part), None);
            }
            for second in 0..3 {
                stream.acknowledged(length as u64, Duration::from_secs(second));
            }
            stream.finish();
            let reported = delivered(&stream);
            prop_assert_eq!(reported.len() as u64, stream.delivered());
            let captured = reported.iter().filter(|byte| byte.is_some()).count();
            prop_assert_eq!(captured as u64, stream.captured());
            for (reported, byte) in reported.iter().zip(&bytes) {
                prop_assert!(reported.is_none_or(|reported| reported == *byte));
            }
            stream.release(u64::MAX);
            stream.forget();
            prop_assert_eq!((stream.cost(), stream.released), (0, stream.delivered()));
        }

        #[test]
        fn a_byte_that_comes_again_with_another_value_is_reported(
            start: u32,
            first in (0usize..100, 1usize..100, 0usize..100),
            second in (0usize..100, 1usize..100, 0usize..100),
            place in 0usize..200,
            released in 0u64..200,
        ) {
            let mut bytes: Vec<u8> = (0..200).collect();
            let mut stream = Reassembly::new(start);
            let add = |stream: &mut Reassembly, bytes: &[u8], place, length, cut| {
                let segment = (start.wrapping_add(place as u32), (length + cut) as u32);
                stream.add(segment, 1, &bytes[place..place + length])
            };
            add(&mut stream, &bytes, first.0, first.1, first.2);
            stream.acknowledged(released, Duration::ZERO);
            stream.release(u64::MAX);
            bytes[place] ^= 1;
            let reported = add(&mut stream, &bytes, second.0, second.1, second.2);
            let within = |(from, length, _): (usize, usize, usize)| {
                (from..from + length).contains(&place)
            };
            // A piece is dropped as a whole, and only when it is in order.
            let kept = first.0 > 0 || first.1 as u64 > released;
            let expected = (within(first) && within(second) && kept).then_some(Difference {
                offset: place as u64,
                expected: place as u8,
                found: place as u8 ^ 1,
            });
            prop_assert_eq!(reported, expected);
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
            let mut streams = [Reassembly::new(0), Reassembly::new(0)];
            let mut found = None;
            let rest = [(false, request.len()), (true, request.len())];
            for (is_reply, size) in cuts.into_iter().chain(rest) {
                let source = if is_reply { &reply } else { &request };
                let stream = &mut streams[usize::from(is_reply)];
                let from = stream.delivered() as usize;
                let bytes = &source[from..(from + size).min(source.len())];
                stream.add((from as u32, bytes.len() as u32), 7, bytes);
                found = found.or(comparison.advance(&streams[0], &streams[1]));
                for stream in &mut streams {
                    stream.acknowledged(stream.delivered(), Duration::ZERO);
                    stream.release(comparison.offset());
                }
            }
            prop_assert_eq!(found, expected.map(|difference| (7, difference)));
            prop_assert_eq!(comparison.offset(), request.len() as u64);
            prop_assert_eq!((streams[0].cost(), streams[1].cost()), (0, 0));
        }
    }

    #[test]
    fn what_the_capture_misses_is_not_compared() {
        let mut request = Reassembly::new(0);
        request.add((0, 5), 1, b"abc");
        request.add((5, 1), 2, b"f");
        let mut reply = Reassembly::new(0);
        reply.add((0, 6), 3, b"ABCxyF");
        let mut comparison = Comparison::default();
        assert_eq!(comparison.advance(&request, &reply), None);
        assert_eq!((comparison.compared(), comparison.offset()), (4, 6));
    }

    #[test]
    fn what_was_forgotten_is_not_compared_either() {
        let mut request = Reassembly::new(0);
        request.add((0, 3), 1, b"abc");
        request.add((6, 3), 1, b"ghi");
        request.forget();
        assert_eq!(
            (request.cost(), request.delivered(), request.captured()),
            (0, 9, 6)
        );
        assert_eq!(request.add((3, 9), 1, b"defghijkl"), None);
        let mut reply = Reassembly::new(0);
        reply.add((0, 12), 3, b"ABCDEFGHIJK!");
        let mut comparison = Comparison::default();
        let wrong = Difference {
            offset: 11,
            expected: b'L',
            found: b'!',
        };
        assert_eq!(comparison.advance(&request, &reply), Some((3, wrong)));
        assert_eq!(comparison.compared(), 3);
    }
}
