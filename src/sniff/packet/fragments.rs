//! Reassembly of IP packets from their fragments (RFC 791, RFC 815, RFC 8200 section 4.5). Pure.
//!
//! The rules are those of a strict receiver: a fragment that repeats an earlier one exactly is
//! ignored; fragments that overlap in any other way, or that contradict each other about where the
//! packet ends, are a fault, and nothing of that packet is used (RFC 5722). When the capture cut a
//! fragment short, the captured bytes of the packet end there.
//!
//! Memory is bounded by `BYTES_MAX` and `PACKETS_MAX`, and a packet that is not complete is given
//! up after `REASSEMBLY_TIMEOUT`. A packet that is given up is returned as [`Lost`], unless it
//! repeats a complete one.
//!
//! Invariant: the pieces of an open packet do not overlap, so it is complete when their lengths add
//! up to its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::sniff::packet::bytes::{Bytes, Unread};
use crate::sniff::packet::layer::{Fragment, FragmentKey};
use crate::units::counted;

/// Maximum memory of all packets together, in bytes: the default of Linux
/// (net.ipv4.ipfrag_high_thresh).
const BYTES_MAX: usize = 4 << 20;

/// Maximum number of packets that are known at once, including complete ones whose fragments may be
/// repeated.
const PACKETS_MAX: usize = 4096;

/// Overhead that is counted for each piece in addition to its payload, in bytes, so that many small
/// pieces do not count as few bytes.
const PIECE_BYTES: usize = 128;

/// Time after its first fragment within which a packet must become complete: a receiver waits up to
/// a minute (RFC 1122 section 3.3.2, RFC 8200).
const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest IP packet without its header, in bytes.
const LENGTH_MAX: usize = 65_535;

/// A reassembled packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReassembledPacket {
    /// Its bytes after the IP header, as far as they were captured without a gap.
    pub captured: Vec<u8>,
    /// The length of its payload on the wire.
    pub on_wire: usize,
    /// The protocol number that its first fragment names.
    pub protocol: u8,
}

/// A packet that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its identity.
    pub key: FragmentKey,
    /// The number of the captured packet that carried the fragment seen first.
    pub packet: u64,
    /// Number of fragments that were captured.
    pub fragments: u32,
    /// The protocol number that the fragments carry.
    pub protocol: u8,
    /// True when the fragment with offset 0 was captured.
    pub has_first: bool,
}

/// The packets that are being reassembled.
#[derive(Debug, Default)]
pub struct Fragments {
    packets: HashMap<FragmentKey, Entry, RandomState>,
    /// Time, serial number and key of each packet, in the order in which they began. An entry is
    /// stale when the packet of its key is gone or has another serial number.
    begun: VecDeque<(Duration, u64, FragmentKey)>,
    hasher: RandomState,
    bytes: usize,
    next_serial: u64,
    lost: Vec<Lost>,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    /// The number of the captured packet that carried the fragment seen first.
    packet: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Some parts are missing.
    Open(Open),
    /// It was reassembled. The hashes of its pieces identify fragments that are repeated.
    Complete(Vec<u64>),
    /// Its fragments contradict each other: further fragments are not used.
    Rejected,
    /// It carries no segment of interest: further fragments are ignored.
    Foreign,
}

#[derive(Debug, Default)]
struct Open {
    pieces: BTreeMap<usize, Piece>,
    /// The length of the packet, once its last fragment was captured.
    total: Option<usize>,
    /// Sum of the lengths of all pieces on the wire, in bytes.
    length: usize,
    fragments: u32,
    protocol: u8,
    /// True when it repeats a fragment of a complete packet: if it stays incomplete, it is not
    /// reported as lost.
    is_repetition: bool,
}

#[derive(Debug)]
struct Piece {
    captured: Box<[u8]>,
    on_wire: usize,
}

impl Fragments {
    /// Adds a fragment, and returns the packet when this fragment completes it. `packet` and
    /// `time`: number and time of the captured packet that carried the fragment.
    pub fn add(
        &mut self,
        fragment: &Fragment,
        bytes: Bytes<'_>,
        (packet, time): (u64, Duration),
    ) -> Result<ReassembledPacket, Unread> {
        self.expire(time);
        let hash = self
            .hasher
            .hash_one((fragment.offset, fragment.more, bytes.captured));
        let is_repetition = match self.packets.get(&fragment.key).map(|entry| &entry.state) {
            Some(State::Foreign) => return Err(Unread::NotTcp),
            Some(State::Rejected) => return Err(Unread::Fragment),
            Some(State::Complete(pieces)) => Some(pieces.contains(&hash)),
            Some(State::Open(_)) => None,
            None => Some(false),
        };
        if let Some(is_repetition) = is_repetition {
            let open = Open {
                is_repetition,
                ..Open::default()
            };
            self.begin(fragment.key, State::Open(open), (packet, time));
        }
        let added = match self
            .packets
            .get_mut(&fragment.key)
            .map(|entry| &mut entry.state)
        {
            Some(State::Open(open)) => open.add(fragment, bytes),
            _ => return Err(Unread::Fragment),
        };
        match added {
            Ok(cost) => self.bytes += cost,
            Err(why) => {
                self.put(fragment.key, State::Rejected);
                return Err(Unread::Contradiction(why));
            }
        }
        self.take_if_complete(fragment.key)
    }

    /// Marks a packet as one without a segment of interest: its further fragments are ignored.
    pub fn ignore(&mut self, key: FragmentKey, at: (u64, Duration)) {
        self.expire(at.1);
        if !self.packets.contains_key(&key) {
            self.begin(key, State::Foreign, at);
        }
        self.put(key, State::Foreign);
    }

    /// Ends the capture: gives up all packets that are not complete.
    pub fn finish(&mut self) {
        while self.give_up_oldest() {}
    }

    /// Returns the packets that were given up since the last call.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    fn take_if_complete(&mut self, key: FragmentKey) -> Result<ReassembledPacket, Unread> {
        let open = match self.packets.get(&key).map(|entry| &entry.state) {
            Some(State::Open(open)) => open,
            _ => return Err(Unread::Fragment),
        };
        if open.total != Some(open.length) {
            self.make_room();
            return Err(Unread::Fragment);
        }
        let hasher = &self.hasher;
        let hashes = open.pieces.iter().map(|(offset, piece)| {
            let more = offset + piece.on_wire < open.length;
            hasher.hash_one((*offset, more, &*piece.captured))
        });
        let (hashes, whole) = (hashes.collect(), open.whole());
        self.put(key, State::Complete(hashes));
        Ok(whole)
    }

    fn begin(&mut self, key: FragmentKey, state: State, (packet, time): (u64, Duration)) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let entry = Entry {
            serial,
            packet,
            state,
        };
        self.bytes += entry.state.cost();
        if let Some(before) = self.packets.insert(key, entry) {
            self.bytes -= before.state.cost();
        }
        self.begun.push_back((time, serial, key));
    }

    /// Changes the state of a packet that is known.
    fn put(&mut self, key: FragmentKey, state: State) {
        if let Some(entry) = self.packets.get_mut(&key) {
            self.bytes -= entry.state.cost();
            entry.state = state;
            self.bytes += entry.state.cost();
        }
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.bytes > BYTES_MAX || self.begun.len() > PACKETS_MAX {
            self.give_up_oldest();
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some(&(time, ..)) = self.begun.front()
            && now.saturating_sub(time) >= REASSEMBLY_TIMEOUT
        {
            self.give_up_oldest();
        }
    }

    /// Removes the oldest entry of `begun`, and its packet unless the entry is stale. Returns false
    /// when there is no entry.
    fn give_up_oldest(&mut self) -> bool {
        let Some((_, serial, key)) = self.begun.pop_front() else {
            return false;
        };
        if self
            .packets
            .get(&key)
            .is_none_or(|entry| entry.serial != serial)
        {
            return true;
        }
        let Some(entry) = self.packets.remove(&key) else {
            return true;
        };
        self.bytes -= entry.state.cost();
        if let State::Open(open) = entry.state
            && !open.is_repetition
        {
            self.lost.push(Lost {
                key,
                packet: entry.packet,
                fragments: open.fragments,
                protocol: open.protocol,
                has_first: open.pieces.contains_key(&0),
            });
        }
        true
    }
}

impl State {
    /// Returns the memory that is counted for a packet, in bytes.
    fn cost(&self) -> usize {
        match self {
            State::Open(open) => open.pieces.values().map(Piece::cost).sum(),
            State::Complete(hashes) => hashes.len() * size_of::<u64>(),
            State::Rejected | State::Foreign => 0,
        }
    }
}

impl Piece {
    fn cost(&self) -> usize {
        PIECE_BYTES + self.captured.len()
    }
}

impl Open {
    /// Adds a piece. Returns the memory that is counted for it, or the contradiction that it
    /// causes.
    fn add(&mut self, fragment: &Fragment, bytes: Bytes<'_>) -> Result<usize, String> {
        let (start, length) = (fragment.offset, bytes.on_wire);
        let end = start + length;
        self.fragments += 1;
        if end > LENGTH_MAX {
            return Err(format!("a fragment ends at {end}, beyond {LENGTH_MAX}"));
        }
        if length == 0 {
            return Err("a fragment is empty".to_string());
        }
        if fragment.more && !length.is_multiple_of(8) {
            let bytes = counted(length as u64, "byte");
            return Err(format!(
                "a fragment that is not the last has {bytes}, not a multiple of 8"
            ));
        }
        let before = self.pieces.range(..end).next_back();
        if let Some((&other, piece)) = before
            && other + piece.on_wire > start
        {
            if other == start && piece.on_wire == length {
                return match *piece.captured == *bytes.captured {
                    true => Ok(0),
                    false => Err(format!(
                        "bytes {start} to {end} were repeated with different content"
                    )),
                };
            }
            let other_end = other + piece.on_wire;
            return Err(format!(
                "bytes {start} to {end} overlap bytes {other} to {other_end}"
            ));
        }
        let last = self.pieces.last_key_value();
        let last = last.map_or(0, |(start, piece)| start + piece.on_wire);
        let total = match (fragment.more, self.total) {
            (false, Some(total)) => {
                return Err(format!("two last fragments end at {total} and at {end}"));
            }
            (false, None) if last > end => {
                return Err(format!(
                    "the last fragment ends at {end}, another one at {last}"
                ));
            }
            (true, Some(total)) if end >= total => {
                return Err(format!(
                    "bytes {start} to {end} are not the last, but the packet ends at {total}"
                ));
            }
            (false, None) => Some(end),
            (true, total) => total,
        };
        self.total = total;
        if start == 0 || self.pieces.is_empty() {
            self.protocol = fragment.protocol;
        }
        let piece = Piece {
            captured: bytes.captured.into(),
            on_wire: length,
        };
        let cost = piece.cost();
        self.pieces.insert(start, piece);
        self.length += length;
        Ok(cost)
    }

    fn whole(&self) -> ReassembledPacket {
        let mut captured = Vec::with_capacity(self.length);
        for piece in self.pieces.values() {
            captured.extend_from_slice(&piece.captured);
            if piece.captured.len() < piece.on_wire {
                break;
            }
        }
        ReassembledPacket {
            captured,
            on_wire: self.length,
            protocol: self.protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn part(id: u32, offset: usize, more: bool) -> Fragment {
        let key = FragmentKey {
            ends: (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])),
            id,
            protocol: 6,
            network: 0,
        };
        Fragment {
            key,
            offset,
            more,
            protocol: 6,
        }
    }

    /// Adds bytes of a packet whose bytes count up from 0.
    fn add(all: &mut Fragments, id: u32, range: std::ops::Range<usize>, more: bool) -> Added {
        let bytes: Vec<u8> = range.clone().map(|byte| byte as u8).collect();
        let window = Bytes::new(&bytes, bytes.len());
        all.add(&part(id, range.start, more), window, (1, NOW))
    }

    type Added = Result<ReassembledPacket, Unread>;

    #[test]
    fn a_packet_is_put_together_in_any_order_once() {
        let parts = [(0..16, true), (16..24, true), (24..29, false)];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut all = Fragments::default();
            for (turn, place) in order.into_iter().enumerate() {
                let (range, more) = parts[place].clone();
                let added = add(&mut all, 7, range.clone(), more);
                if turn < 2 {
                    assert_eq!(added, Err(Unread::Fragment));
                    // An exact repetition changes nothing.
                    assert_eq!(add(&mut all, 7, range, more), Err(Unread::Fragment));
                    continue;
                }
                let whole = added.unwrap();
                assert_eq!(whole.captured, (0..29).collect::<Vec<u8>>());
                assert_eq!(whole.on_wire, 29);
            }
            // A late repetition is not reported as an incomplete packet.
            assert_eq!(add(&mut all, 7, 24..29, false), Err(Unread::Fragment));
            all.finish();
            assert_eq!(all.take_lost(), []);
            assert_eq!(all.bytes, 0);
        }
    }

    #[test]
    fn fragments_that_contradict_are_not_mixed() {
        for (range, more) in [
            (8..24, true),  // Overlaps the end of the first one.
            (0..8, true),   // Is a part of it.
            (0..24, true),  // Contains it.
            (16..21, true), // Not the last, and no multiple of eight.
            (8..12, false), // The last one, and within the first.
        ] {
            let mut all = Fragments::default();
            assert_eq!(add(&mut all, 1, 0..16, true), Err(Unread::Fragment));
            let added = add(&mut all, 1, range.clone(), more);
            assert!(
                matches!(added, Err(Unread::Contradiction(_))),
                "{range:?}: {added:?}"
            );
            // A later fragment does not complete it.
            assert_eq!(add(&mut all, 1, 16..20, false), Err(Unread::Fragment));
            all.finish();
            assert_eq!(all.take_lost(), [], "reported already");
        }
        let mut all = Fragments::default();
        add(&mut all, 1, 16..20, false).unwrap_err();
        for (range, more) in [(24..32, true), (16..24, true), (24..28, false)] {
            let mut all = Fragments::default();
            add(&mut all, 1, 16..20, false).unwrap_err();
            let added = add(&mut all, 1, range, more);
            assert!(matches!(added, Err(Unread::Contradiction(_))), "{added:?}");
        }
        // A fragment at the same place with other content.
        let other = all.add(&part(1, 16, false), Bytes::new(&[9; 4], 4), (1, NOW));
        assert!(matches!(other, Err(Unread::Contradiction(_))));
        let far = all.add(&part(2, 65_528, false), Bytes::new(&[9; 8], 8), (1, NOW));
        assert!(matches!(far, Err(Unread::Contradiction(_))));
    }

    #[test]
    fn what_stays_incomplete_is_reported_after_its_time() {
        let mut all = Fragments::default();
        add(&mut all, 1, 8..16, true).unwrap_err();
        let (bytes, soon) = ([0; 8], NOW + REASSEMBLY_TIMEOUT - Duration::from_nanos(1));
        let fragment = part(2, 0, true);
        let window = Bytes::new(&bytes, 8);
        all.add(&fragment, window, (2, soon)).unwrap_err();
        assert_eq!(all.take_lost(), []);
        all.add(&fragment, window, (3, NOW + REASSEMBLY_TIMEOUT))
            .unwrap_err();
        let lost = all.take_lost();
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].key.id, lost[0].has_first), (1, false));
        all.finish();
        let lost = all.take_lost();
        assert_eq!(
            (lost[0].key.id, lost[0].packet, lost[0].has_first),
            (2, 2, true)
        );
    }

    #[test]
    fn memory_is_bounded_by_bytes_and_by_packets() {
        let mut all = Fragments::default();
        let bytes = vec![1; 60_000];
        for id in 0..1000 {
            let window = Bytes::new(&bytes, bytes.len());
            all.add(&part(id, 0, true), window, (1, NOW)).unwrap_err();
            assert!(all.bytes <= BYTES_MAX);
        }
        let kept = all.packets.len();
        assert!((60..80).contains(&kept), "{kept}");
        assert_eq!(all.take_lost().len(), 1000 - kept);
        for id in 0..100_000 {
            all.add(&part(id, 0, true), Bytes::new(&[1; 8], 8), (1, NOW))
                .unwrap_err();
        }
        assert!(all.packets.len() <= PACKETS_MAX && all.begun.len() <= PACKETS_MAX);
        all.ignore(part(7, 0, true).key, (1, NOW));
        assert_eq!(add(&mut all, 7, 8..12, false), Err(Unread::NotTcp));
    }

    #[test]
    fn a_cut_fragment_ends_what_is_known_of_the_packet() {
        let mut all = Fragments::default();
        all.add(&part(1, 0, true), Bytes::new(&[1; 10], 16), (1, NOW))
            .unwrap_err();
        let whole = all
            .add(&part(1, 16, false), Bytes::new(&[2; 8], 8), (1, NOW))
            .unwrap();
        assert_eq!((whole.captured, whole.on_wire), (vec![1; 10], 24));
    }
}
