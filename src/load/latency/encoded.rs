//! Converts histograms to text and back: compressed V2 of HdrHistogram in base64, as the lines of
//! its logs hold it. Pure.
//!
//! A [`Latency`] is serialized with everything that it knows, so that the result of a run that is
//! read from a file has the same percentiles, intervals and trends as before.

use std::io::{Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::de::Error;
use serde::{Deserialize, Serialize};

use crate::load::latency::blocks::Blocks;
use crate::load::latency::{Censored, DIGITS, Latency, add, histogram};
use crate::units::nanoseconds;

/// Maximum size of an uncompressed histogram or of the blocks of a run, in bytes: a histogram with
/// three digits has at most 113,000 counts of at most 9 bytes; more would be no file of ours.
const BYTES_MAX: u64 = 64 << 20;

/// The size of the header before the counts of an uncompressed histogram, in bytes.
const HEADER: usize = 40;

/// Returns a histogram as text. Equal samples give equal texts, in whatever order they were added:
/// the range in the header is that of the samples, not the one to which the histogram has grown.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let fitted = Histogram::new_with_bounds(1, histogram.max().max(2), DIGITS);
    let mut fitted = fitted.expect("bounds that every histogram can have");
    add(&mut fitted, histogram);
    // Writing to memory cannot fail, and every value and count of a histogram can be written.
    let _ = V2DeflateSerializer::new().serialize(&fitted, &mut bytes);
    BASE64_STANDARD.encode(bytes)
}

/// Returns the histogram of such a text, by whatever program it was written. Fails when the text is
/// none, or has another number of digits than the histograms of this program.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = base64(text)?;
    let (Some(sizes), Some(compressed)) = (bytes.get(..8), bytes.get(8..)) else {
        return Err("a histogram has at least 8 bytes".to_string());
    };
    if sizes[..4] != [0x1c, 0x84, 0x93, 0x14] {
        return Err("not a compressed histogram of version 2".to_string());
    }
    let plain = inflate(compressed)?;
    // The library would reserve as much memory as a wrong header asks for.
    let field = |from: usize| {
        Some(u32::from_be_bytes(
            plain.get(from..from + 4)?.try_into().ok()?,
        ))
    };
    if field(4).map(|length| length as usize) != Some(plain.len().saturating_sub(HEADER)) {
        return Err("the length in the header is wrong".to_string());
    }
    if field(12) != Some(u32::from(DIGITS)) {
        return Err(format!("not a histogram of {DIGITS} digits"));
    }
    let read = Deserializer::new().deserialize::<u64, _>(&mut plain.as_slice());
    let read = read.map_err(|error| format!("not a histogram: {error}"))?;
    let mut found = histogram();
    add(&mut found, &read);
    Ok(found)
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    let bytes = BASE64_STANDARD.decode(text);
    bytes.map_err(|error| format!("not base64: {error}"))
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let read = ZlibDecoder::new(bytes)
        .take(BYTES_MAX)
        .read_to_end(&mut plain);
    read.map_err(|error| format!("cannot decompress: {error}"))?;
    Ok(plain)
}

/// The fields of a serialized [`Latency`].
#[derive(Serialize, Deserialize)]
struct Encoded {
    known: String,
    censored: Option<(String, u64)>,
    longest: u64,
    blocks: Option<EncodedBlocks>,
}

/// The blocks of a run: their length, the width of their steps, and for all of them the number of
/// entries and the entries, in 32 bits each, least significant byte first; compressed by zlib, in
/// base64.
#[derive(Serialize, Deserialize)]
struct EncodedBlocks {
    length_ns: u64,
    /// Absent in files from before steps were merged.
    #[serde(default = "single_steps")]
    step_width: usize,
    entries: String,
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let censored = self.censored.as_ref();
        let encoded = Encoded {
            known: encode(&self.known),
            censored: censored.map(|all| (encode(&all.histogram), all.least)),
            longest: self.longest,
            blocks: self.blocks.as_deref().map(encode_blocks),
        };
        encoded.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Latency, D::Error> {
        let encoded = Encoded::deserialize(deserializer)?;
        let censored = encoded.censored.map(|(text, least)| {
            let histogram = decode(&text)?;
            Ok::<_, String>(Box::new(Censored { histogram, least }))
        });
        let blocks = encoded.blocks.map(|blocks| decode_blocks(&blocks));
        Ok(Latency {
            known: decode(&encoded.known).map_err(D::Error::custom)?,
            censored: censored.transpose().map_err(D::Error::custom)?,
            longest: encoded.longest,
            blocks: blocks.transpose().map_err(D::Error::custom)?.map(Box::new),
        })
    }
}

fn single_steps() -> usize {
    1
}

fn encode_blocks(blocks: &Blocks) -> EncodedBlocks {
    let step_width = blocks.width();
    let (length, blocks) = blocks.entries();
    let mut numbers = Vec::new();
    for entries in blocks {
        numbers.push(entries.len() as u32);
        numbers.extend_from_slice(entries);
    }
    let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let compressed = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    EncodedBlocks {
        length_ns: nanoseconds(length),
        step_width,
        entries: BASE64_STANDARD.encode(compressed.unwrap_or_default()),
    }
}

fn decode_blocks(encoded: &EncodedBlocks) -> Result<Blocks, String> {
    let bytes = inflate(&base64(&encoded.entries)?)?;
    let numbers = bytes.chunks_exact(4);
    let mut numbers = numbers.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
    let mut blocks = Vec::new();
    while let Some(count) = numbers.next() {
        let entries: Vec<u32> = numbers.by_ref().take(count as usize).collect();
        if entries.len() != count as usize {
            return Err("the last block is cut off".to_string());
        }
        blocks.push(entries);
    }
    let length = Duration::from_nanos(encoded.length_ns);
    Blocks::from_entries(length, encoded.step_width, blocks)
        .ok_or("not the blocks of a run".to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::latency::recent::RecentSamples;

    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(
            (0u32..50, any::<u64>()).prop_map(|(bits, n)| n >> (bits + 14)),
            0..200,
        )
    }

    /// Returns a histogram with blocks: of these durations, and of those that are only a bound.
    fn latency(known: &[u64], censored: &[u64]) -> Latency {
        let mut latency = Latency::in_blocks();
        for (number, chunk) in known.chunks(7).enumerate() {
            let mut recent = RecentSamples::default();
            chunk.iter().for_each(|value| recent.record(*value));
            latency.take(&mut recent, None);
            for _ in 0..number % 4 {
                latency.end_block();
            }
        }
        for value in censored {
            latency.record_at_least(Duration::from_nanos(*value));
        }
        latency
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(known in values(), censored in values()) {
            let before = latency(&known, &censored);
            let text = serde_json::to_string(&before).unwrap();
            let after: Latency = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&after.known, &before.known);
            prop_assert_eq!(after.censored(), before.censored());
            prop_assert_eq!(after.longest, before.longest);
            prop_assert_eq!(serde_json::to_string(&after).unwrap(), text);
            for percentile in [50.0, 90.0, 99.0] {
                prop_assert_eq!(after.interval(percentile), before.interval(percentile));
            }
        }

        #[test]
        fn the_parts_of_a_run_add_up_to_the_whole(
            parts in prop::collection::vec((values(), values()), 1..5),
        ) {
            let (mut whole, mut sum) = (Latency::default(), Latency::default());
            for (known, censored) in parts {
                let before = whole.without_blocks();
                known.iter().for_each(|value| whole.record(Duration::from_nanos(*value)));
                for value in &censored {
                    whole.record_at_least(Duration::from_nanos(*value));
                }
                let part = whole.since(&before);
                prop_assert_eq!(part.count(), (known.len() + censored.len()) as u64);
                sum.merge(&part);
            }
            prop_assert_eq!(&sum.known, &whole.known);
            prop_assert_eq!(sum.censored(), whole.censored());
        }

        #[test]
        fn no_text_makes_it_panic(
            text in "[A-Za-z0-9+/=]{0,80}",
            bytes: Vec<u8>,
            cut in 0usize..400,
        ) {
            let _ = decode(&text);
            let _ = decode(&BASE64_STANDARD.encode(bytes));
            let whole = encode(latency(&[1, 2, 3, 1 << 40], &[]).known());
            let _ = decode(&whole[..cut.min(whole.len())]);
        }
    }
}
