//! The rule of the echo: a reply is the message with its ASCII letters in upper case. Other servers
//! may have another rule. Pure.

use std::fmt;

use clap::ValueEnum;
use multiversion::multiversion;
use serde::{Deserialize, Serialize};

/// The rule by which replies are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The message with its ASCII letters in upper case
    #[default]
    Upper,
    /// The message, unchanged
    Same,
    /// Anything: no byte of a reply is compared
    #[value(name = "none")]
    #[serde(rename = "none")]
    Anything,
}

impl Expect {
    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Expect::Upper => "upper",
            Expect::Same => "same",
            Expect::Anything => "none",
        }
    }

    /// Returns the other rule by which bytes are compared, if this one compares them.
    pub fn other(self) -> Option<Expect> {
        match self {
            Expect::Upper => Some(Expect::Same),
            Expect::Same => Some(Expect::Upper),
            Expect::Anything => None,
        }
    }

    /// Returns the word for a message whose reply met the rule.
    pub fn met(self) -> &'static str {
        match self {
            Expect::Upper | Expect::Same => "verified",
            Expect::Anything => "answered",
        }
    }
}

/// Converts ASCII letters to upper case. Many bytes are converted by the widest instructions that
/// the processor has; for few, the call costs more than they save.
#[inline(always)]
pub fn convert(bytes: &mut [u8]) {
    const MANY: usize = 4096;
    if bytes.len() < MANY {
        bytes.make_ascii_uppercase();
    } else {
        convert_many(bytes);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn convert_many(bytes: &mut [u8]) {
    bytes.make_ascii_uppercase();
}

/// A byte of a stream that differs from the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its offset in the stream, from 0.
    pub offset: u64,
    /// The byte that was expected.
    pub expected: u8,
    /// The byte in its place.
    pub found: u8,
}

impl Difference {
    /// Returns the first difference between the common parts of two slices, of which the first
    /// bytes have this offset.
    pub fn first(offset: u64, expected: &[u8], found: &[u8]) -> Option<Difference> {
        match expected == found {
            true => None,
            false => Difference::first_from(offset, expected, found, |byte| byte),
        }
    }

    /// Returns the first difference between the reply that the rule requires to this part of a
    /// message, and the reply.
    pub fn first_of_reply(offset: u64, message: &[u8], reply: &[u8]) -> Option<Difference> {
        Difference::first_from(offset, message, reply, |byte| byte.to_ascii_uppercase())
    }

    fn first_from(
        offset: u64,
        message: &[u8],
        reply: &[u8],
        answer: impl Fn(u8) -> u8,
    ) -> Option<Difference> {
        let pairs = || message.iter().map(|byte| answer(*byte)).zip(reply);
        // A loop without an early exit processes many bytes at a time.
        if pairs().fold(true, |same, (expected, found)| same & (expected == *found)) {
            return None;
        }
        let mut pairs = pairs().enumerate();
        let (place, (expected, found)) = pairs.find(|(_, (expected, found))| expected != *found)?;
        Some(Difference {
            offset: offset + place as u64,
            expected,
            found: *found,
        })
    }

    /// Returns both bytes in readable form: `'x' (0x78), not 'X' (0x58)`.
    pub fn bytes(&self) -> String {
        let readable = |byte: u8| format!("'{}' (0x{byte:02x})", byte.escape_ascii());
        format!("{}, not {}", readable(self.found), readable(self.expected))
    }
}

/// Formats as `offset 7: 'x' (0x78), not 'X' (0x58)`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}: {}", self.offset, self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a byte in upper case, computed without the function under test.
    fn upper(byte: u8) -> u8 {
        match byte {
            97..=122 => byte - 32,
            _ => byte,
        }
    }

    #[test]
    fn every_byte_is_converted_wherever_it_stands() {
        let lengths = (0..130).chain(4090..4230).chain([65_536 + 17]);
        for length in lengths {
            for shift in [0, 1, 31] {
                let plain: Vec<u8> = (shift..shift + length).map(|byte| byte as u8).collect();
                let mut bytes = vec![b'x'; shift];
                bytes.extend_from_slice(&plain);
                convert(&mut bytes[shift..]);
                let expected: Vec<u8> = plain.iter().map(|&byte| upper(byte)).collect();
                assert_eq!(
                    bytes[shift..],
                    expected,
                    "{length} bytes, shifted by {shift}"
                );
                assert!(bytes[..shift].iter().all(|&byte| byte == b'x'));
            }
        }
    }
}
