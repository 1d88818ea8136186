//! What every byte of a run is: a function of (seed, connection, offset). Pure, nothing stored.
//!
//! So a reply is checked with nothing but its position, a byte that was lost, repeated or altered
//! is noticed where it stands, and so is a reply that belongs to another connection.
//!
//! Words of eight bytes come from a counter-based generator (the mixing function of SplitMix64,
//! Steele, Lea and Flood 2014). All bytes of a word are then mapped at once to what their places
//! allow, the even places and the odd ones each with one multiplication.

use std::ops::Range;

/// Which bytes a message may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alphabet {
    /// Printable ASCII, a lower-case letter in every message: a server that does not convert, or
    /// that converts too much, is caught at once.
    #[default]
    Text,
    /// All 256 values.
    Bytes,
}

/// The byte streams of all connections of a run.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    seed: u64,
    /// How many values may stand at the even places, and at the odd ones.
    even_values: u64,
    odd_values: u64,
    /// The smallest of them, at each place of a word.
    smallest: u64,
}

/// The byte stream of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    key: u64,
}

/// The first byte of a reply that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where it stands in the connection's stream, from 0.
    pub offset: u64,
    /// What should be there.
    pub expected: u8,
    /// What was there.
    pub found: u8,
}

/// Bytes that the generator makes at a time.
const WORD: usize = 8;

/// Bytes that are checked at a time: they stay in the innermost cache.
const CHUNK: usize = 256;

/// Odd, and near 2^64 divided by the golden ratio: consecutive counters differ in many bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Payload {
    /// `smallest_message` in bytes: any stretch of that length is to hold a lower-case letter.
    pub fn new(alphabet: Alphabet, seed: u64, smallest_message: usize) -> Self {
        const ALL: Range<u16> = 0..256;
        const LETTERS: Range<u16> = b'a' as u16..b'z' as u16 + 1;
        const PRINTABLE: Range<u16> = b' ' as u16..b'~' as u16 + 1;
        let (even, odd) = match alphabet {
            Alphabet::Bytes => (ALL, ALL),
            Alphabet::Text if smallest_message == 1 => (LETTERS, LETTERS),
            Alphabet::Text => (LETTERS, PRINTABLE),
        };
        let pair = [even.start as u8, odd.start as u8];
        Payload {
            seed,
            even_values: even.len() as u64,
            odd_values: odd.len() as u64,
            smallest: u64::from(u16::from_le_bytes(pair)) * 0x0001_0001_0001_0001,
        }
    }

    /// The stream of a connection, named by its number in the run.
    pub fn source(&self, connection: u32) -> Source {
        Source {
            key: mix(self.seed ^ mix(u64::from(connection).wrapping_add(STEP))),
        }
    }

    /// Writes the bytes of a stream from `offset` on, as they are sent.
    pub fn fill(&self, source: Source, offset: u64, bytes: &mut [u8]) {
        let mut index = offset / WORD as u64;
        let start = (offset % WORD as u64) as usize;
        let (head, words) = bytes.split_at_mut(((WORD - start) % WORD).min(bytes.len()));
        if !head.is_empty() {
            head.copy_from_slice(&self.word(source, index)[start..start + head.len()]);
            index += 1;
        }
        let mut words = words.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.word(source, index));
            index += 1;
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            tail.copy_from_slice(&self.word(source, index)[..tail.len()]);
        }
    }

    /// Compares a reply with the upper case of what was sent from `offset` on.
    pub fn check(&self, source: Source, offset: u64, reply: &[u8]) -> Result<(), Difference> {
        let mut expected = [0; CHUNK];
        let mut offset = offset;
        for reply in reply.chunks(CHUNK) {
            let expected = &mut expected[..reply.len()];
            self.fill(source, offset, expected);
            expected.make_ascii_uppercase();
            if expected != reply {
                return Err(first_difference(offset, expected, reply));
            }
            offset += reply.len() as u64;
        }
        Ok(())
    }

    /// A random byte r becomes smallest + r * values / 256: the product of a byte and at most 256
    /// fits into 16 bits, so four of them are made by one multiplication without touching.
    fn word(&self, source: Source, index: u64) -> [u8; WORD] {
        const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
        let random = mix(source.key.wrapping_add(index.wrapping_mul(STEP)));
        let even = (((random & EVEN) * self.even_values) >> 8) & EVEN;
        let odd = (((random >> 8) & EVEN) * self.odd_values) & !EVEN;
        ((even | odd) + self.smallest).to_le_bytes()
    }
}

fn first_difference(offset: u64, expected: &[u8], found: &[u8]) -> Difference {
    let pairs = expected.iter().zip(found);
    let equal = pairs.take_while(|(expected, found)| expected == found);
    let place = equal.count();
    Difference {
        offset: offset + place as u64,
        expected: expected[place],
        found: found[place],
    }
}

/// A bijection of 64 bits in which every input bit reaches every output bit: the finalizer of
/// SplitMix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(payload: &Payload, connection: u32, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        payload.fill(payload.source(connection), range.start as u64, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn any_part_of_a_stream_is_the_same_as_cut_from_the_whole(
            seed: u64, connection: u32, start in 0usize..200, length in 0usize..200,
        ) {
            let payload = Payload::new(Alphabet::Text, seed, 64);
            let whole = bytes(&payload, connection, 0..400);
            let part = bytes(&payload, connection, start..start + length);
            prop_assert_eq!(&whole[start..start + length], part);
        }

        #[test]
        fn every_text_message_is_printable_and_holds_a_lower_case_letter(
            seed: u64, size in 1usize..40, first in 0usize..1000,
        ) {
            let payload = Payload::new(Alphabet::Text, seed, size);
            let message = bytes(&payload, 3, first * size..(first + 1) * size);
            prop_assert!(message.iter().all(|byte| (b' '..=b'~').contains(byte)));
            prop_assert!(message.iter().any(u8::is_ascii_lowercase));
        }

        #[test]
        fn a_changed_byte_is_found_where_it_stands(
            seed: u64, start in 0u64..5000, length in 1usize..5000, place: usize, change in 1u8..,
        ) {
            let payload = Payload::new(Alphabet::Bytes, seed, 1);
            let source = payload.source(9);
            let mut reply = vec![0; length];
            payload.fill(source, start, &mut reply);
            reply.make_ascii_uppercase();
            prop_assert_eq!(payload.check(source, start, &reply), Ok(()));

            let place = place % length;
            let expected = reply[place];
            reply[place] ^= change;
            let found = reply[place];
            let offset = start + place as u64;
            let difference = Difference { offset, expected, found };
            prop_assert_eq!(payload.check(source, start, &reply), Err(difference));
        }
    }

    #[test]
    fn all_values_of_an_alphabet_occur() {
        let values = |alphabet| {
            let payload = Payload::new(alphabet, 1, 64);
            let mut bytes = bytes(&payload, 0, 0..100_000);
            bytes.sort_unstable();
            bytes.dedup();
            bytes
        };
        assert_eq!(values(Alphabet::Text), (b' '..=b'~').collect::<Vec<_>>());
        assert_eq!(values(Alphabet::Bytes), (0..=255).collect::<Vec<_>>());
    }

    #[test]
    fn connections_and_seeds_have_streams_of_their_own() {
        let one = Payload::new(Alphabet::Text, 1, 64);
        let two = Payload::new(Alphabet::Text, 2, 64);
        let streams = [
            bytes(&one, 0, 0..16),
            bytes(&one, 1, 0..16),
            bytes(&two, 0, 0..16),
            bytes(&two, 1, 0..16),
        ];
        for (index, stream) in streams.iter().enumerate() {
            assert!(!streams[..index].contains(stream), "stream {index} repeats");
        }
    }
}
