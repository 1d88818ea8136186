//! The records of a capture file, pcap or pcapng: packets, and the records between them. Pure.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::sniff::file::linktype::{self, Link};
use crate::units::{counted, grouped};

/// Maximum length of a packet in a file, in bytes: four times the maximum of libpcap, and twice
/// that of a live capture here. A longer packet is a fault in a pcap file, and is skipped in a
/// pcapng file.
pub const PACKET_BYTES_MAX: usize = 1 << 20;

/// The latest time that is shown, in seconds since 1970: the end of the year 9999, the last one
/// with four digits.
const SECONDS_MAX: i128 = 253_402_300_799;

/// The next record of a file, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The record is not complete: it needs this number of bytes, counted from its beginning.
    Incomplete(usize),
    /// A packet.
    Packet(Packet),
    /// A record that is not a packet. It may be of any size, and need not be read.
    Other {
        /// Bytes to the next record.
        size: u64,
        /// True when it counts in the numbering of packets.
        is_numbered: bool,
        /// True when it describes how to read the packets after it, or counts dropped packets. Such
        /// a record was read as a whole.
        is_description: bool,
    },
    /// No record: the file is damaged here.
    Fault(String),
}

impl Record {
    /// Returns true when the record counts in the numbering of packets.
    pub fn is_numbered(&self) -> bool {
        match self {
            Record::Packet(_) => true,
            Record::Other { is_numbered, .. } => *is_numbered,
            Record::Incomplete(_) | Record::Fault(_) => false,
        }
    }
}

/// A packet of a file: the position of its bytes, and its properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The time at which it was captured.
    pub time: Time,
    /// The type of its first header, or the reason why it cannot be read.
    pub link: Result<Link, Unreadable>,
    /// The range of the captured bytes in the record.
    pub captured: Range<usize>,
    /// Its length on the wire.
    pub on_wire: usize,
    /// Length of a frame check sequence that may be at its end, in bytes.
    pub trailer: usize,
    /// Bytes to the next record.
    pub size: usize,
}

/// The reason why a packet of a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// Its link type, which has this number, is not supported.
    LinkType(u32),
    /// The file does not describe this interface.
    NoInterface(u32),
    /// Its interface is not kept: only this number of interfaces of a section are.
    TooManyInterfaces(usize),
    /// It is too long; its length in bytes.
    TooLong(u64),
    /// It claims more captured bytes than its block has room for: the claimed number, and the room.
    Overlong(usize, usize),
    /// The record is not a packet, but counts in the numbering of packets.
    NoPacket,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Unreadable::LinkType(number) => match linktype::name(number) {
                Some(name) => write!(f, "link type {number} ({name}) is not supported"),
                None => write!(f, "unknown link type {number} is not supported"),
            },
            Unreadable::NoInterface(number) => {
                write!(
                    f,
                    "the file does not describe its interface, number {number}"
                )
            }
            Unreadable::TooManyInterfaces(most) => {
                write!(
                    f,
                    "its interface number exceeds the limit of {} interfaces in a section",
                    grouped(most as u64)
                )
            }
            Unreadable::TooLong(bytes) => {
                let (bytes, most) = (counted(bytes, "byte"), grouped(PACKET_BYTES_MAX as u64));
                write!(f, "it has {bytes}, more than the limit of {most}")
            }
            Unreadable::Overlong(claimed, room) => {
                let bytes = counted(claimed as u64, "captured byte");
                write!(f, "it claims {bytes}, but its block has room for {room}")
            }
            Unreadable::NoPacket => write!(f, "a record that is not a packet"),
        }
    }
}

/// A time of a file, in seconds since 1970 and nanoseconds, and whether it had to be clamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// The time, or the nearest one in the range.
    pub since_1970: Duration,
    /// True when the file's own time is before 1970 or after the year 9999.
    pub is_clamped: bool,
}

impl Time {
    /// Returns a time; `nanoseconds` may be more than a second.
    pub fn new(seconds: i128, nanoseconds: u32) -> Time {
        let whole = seconds + i128::from(nanoseconds / 1_000_000_000);
        let clamped = whole.clamp(0, SECONDS_MAX);
        let rest = if clamped == whole {
            nanoseconds % 1_000_000_000
        } else {
            0
        };
        Time {
            since_1970: Duration::new(clamped as u64, rest),
            is_clamped: clamped != whole,
        }
    }
}

/// The byte order of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The most significant byte first.
    Big,
    /// The least significant byte first.
    Little,
}

impl Order {
    /// Returns the four-byte number at offset `place`. Panics if `bytes` is too short.
    pub fn u32(self, bytes: &[u8], place: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[place..place + 4]);
        match self {
            Order::Big => u32::from_be_bytes(word),
            Order::Little => u32::from_le_bytes(word),
        }
    }

    /// Returns the four bytes of a number in this byte order.
    pub fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            Order::Big => number.to_be_bytes(),
            Order::Little => number.to_le_bytes(),
        }
    }

    /// Returns the two-byte number at offset `place`. Panics if `bytes` is too short.
    pub fn u16(self, bytes: &[u8], place: usize) -> u16 {
        let word = [bytes[place], bytes[place + 1]];
        match self {
            Order::Big => u16::from_be_bytes(word),
            Order::Little => u16::from_le_bytes(word),
        }
    }
}
