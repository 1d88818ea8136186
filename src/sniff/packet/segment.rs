//! Parses TCP headers (RFC 9293). Pure.
//!
//! A capture may have cut the payload off, or the options: the lengths in the headers still show
//! how much there was, and the options are read as far as they were captured.

use std::net::{IpAddr, SocketAddr};

use crate::sniff::packet::bytes::{Bytes, Unread, u16_at, u32_at};

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Address and port of the sender.
    pub source: SocketAddr,
    /// Address and port of the receiver.
    pub target: SocketAddr,
    /// The sequence number of its first byte, or of its SYN.
    pub seq: u32,
    /// The sequence number of the byte that its sender expects next; valid only with ACK.
    pub ack: u32,
    /// The flags: SYN, ACK and so on.
    pub flags: Flags,
    /// The window field of the header, not scaled.
    pub window: u16,
    /// Bytes of payload on the wire.
    pub length: u32,
    /// The payload as far as it was captured.
    pub payload: &'a [u8],
    /// The options of the header.
    pub options: Options,
    /// The lane: a number that separates conversations with the same endpoints in different virtual
    /// networks; 0 for the first.
    pub lane: u16,
}

impl Segment<'_> {
    /// Returns the number of sequence numbers that the segment takes: its payload, and one each for
    /// SYN and FIN.
    pub fn span(&self) -> u32 {
        let mark = |flag| u32::from(self.flags.has(flag));
        self.length
            .wrapping_add(mark(Flags::SYN))
            .wrapping_add(mark(Flags::FIN))
    }
}

/// The flags of a TCP header (RFC 9293, RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment is meaningful.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is meaningful.
    pub const URG: Flags = Flags(0x20);
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// Returns the flags in byte 13 of a header.
    pub fn from_bits(bits: u8) -> Flags {
        Flags(bits)
    }

    /// Returns whether any of these flags is set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    /// Returns the names of the flags, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let name = Flags::NAMES.get(bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
            name.copied()
        })
    }

    /// Returns the flags of both sets.
    pub fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }
}

/// The options that are used here (RFC 9293, RFC 7323, RFC 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, on SYNs.
    pub mss: Option<u16>,
    /// The shift of the window, on SYNs; at most 14.
    pub window_scale: Option<u8>,
    /// True when the sender permits selective acknowledgments, on SYNs.
    pub sack_permitted: bool,
    /// The sender's time stamp, and the peer's time stamp that it echoes.
    pub timestamps: Option<(u32, u32)>,
    /// Ranges that were received beyond the acknowledgment: the sequence numbers of the first byte
    /// and of the one after the last.
    pub sack: [Option<(u32, u32)>; 4],
    /// True when the capture ends within the options: there may have been more of them.
    pub cut: bool,
}

/// Bytes of a TCP header without options.
const HEADER_BYTES: usize = 20;

/// Parses a segment. `ends`: addresses of sender and receiver; `bytes`: the TCP header and all that
/// belongs to its IP packet after it.
#[inline]
pub fn segment<'a>(ends: (IpAddr, IpAddr), bytes: Bytes<'a>) -> Result<Segment<'a>, Unread> {
    let (head, rest) = bytes.take(HEADER_BYTES, "a TCP header")?;
    let header = usize::from(head[12] >> 4) * 4;
    if header < HEADER_BYTES {
        return Err(Unread::Malformed(format!("a TCP header of {header} bytes")));
    }
    let Some(length) = bytes.on_wire.checked_sub(header) else {
        let why = "the TCP header is longer than its packet".to_string();
        return Err(Unread::Malformed(why));
    };
    let options_length = header - HEADER_BYTES;
    let (options, payload) = match rest.captured.split_at_checked(options_length) {
        Some((options, payload)) => (options, payload),
        None => (rest.captured, &[][..]),
    };
    Ok(Segment {
        source: SocketAddr::new(ends.0, u16_at(head, 0)),
        target: SocketAddr::new(ends.1, u16_at(head, 2)),
        seq: u32_at(head, 4),
        ack: u32_at(head, 8),
        flags: Flags(head[13]),
        window: u16_at(head, 14),
        length: length as u32,
        payload,
        options: Options {
            cut: options.len() < options_length,
            ..self::options(options)
        },
        lane: 0,
    })
}

/// Parses the options that were captured. An unknown one is skipped; a faulty one ends the list, as
/// it does for a receiver.
fn options(mut bytes: &[u8]) -> Options {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut options = Options::default();
    loop {
        let (kind, length) = match *bytes {
            [] | [END, ..] => return options,
            [NO_OPERATION, ..] => {
                bytes = &bytes[1..];
                continue;
            }
            [_] => return options,
            [kind, length, ..] => (kind, usize::from(length)),
        };
        let Some((option, rest)) = bytes.split_at_checked(length).filter(|_| length >= 2) else {
            return options;
        };
        bytes = rest;
        let value = &option[2..];
        match (kind, value.len()) {
            (2, 2) => options.mss = Some(u16_at(value, 0)),
            // RFC 7323, section 2.3: a larger shift is read as 14.
            (3, 1) => options.window_scale = Some(value[0].min(14)),
            (4, 0) => options.sack_permitted = true,
            (5, 8 | 16 | 24 | 32) => {
                for (place, block) in options.sack.iter_mut().zip(value.chunks_exact(8)) {
                    *place = Some((u32_at(block, 0), u32_at(block, 4)));
                }
            }
            (8, 8) => options.timestamps = Some((u32_at(value, 0), u32_at(value, 4))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_in_the_order_of_their_bits() {
        for (bits, names) in [
            (0x00, ""),
            (0x02, "SYN"),
            (0x10, "ACK"),
            (0x11, "FIN,ACK"),
            (0x12, "SYN,ACK"),
            (0x14, "RST,ACK"),
            (0x18, "PSH,ACK"),
            (0xff, "FIN,SYN,RST,PSH,ACK,URG,ECE,CWR"),
        ] {
            let text: Vec<&str> = Flags::from_bits(bits).names().collect();
            assert_eq!(text.join(","), names);
        }
    }

    fn read(options: &[u8], captured: usize) -> Options {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[12] = (((HEADER_BYTES + options.len()) / 4) << 4) as u8;
        bytes.extend(options);
        let nowhere = IpAddr::from([0; 4]);
        let window = Bytes::new(&bytes[..captured.min(bytes.len())], bytes.len());
        segment((nowhere, nowhere), window).unwrap().options
    }

    #[test]
    fn options_behind_one_that_is_not_known_are_read() {
        // Fast open (34) and MD5 (19) precede MSS, SACK and the scale.
        let bytes = [
            34, 4, 1, 2, 19, 4, 9, 9, 2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 0, 0,
        ];
        let options = read(&bytes, usize::MAX);
        assert_eq!(options.mss, Some(1460));
        assert_eq!(options.window_scale, Some(7));
        assert!(options.sack_permitted && !options.cut);
        // A length of 0 or beyond the end is a fault, which ends the list.
        assert_eq!(read(&[34, 0, 2, 4, 5, 180, 0, 0], 99), Options::default());
        assert_eq!(read(&[34, 9, 2, 4, 5, 180, 0, 0], 99), Options::default());
    }

    #[test]
    fn options_are_read_as_far_as_they_were_captured() {
        let bytes = [
            2, 4, 5, 180, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 3, 3, 7, 0, 0, 0,
        ];
        for captured in HEADER_BYTES..HEADER_BYTES + bytes.len() {
            let options = read(&bytes, captured);
            assert!(options.cut, "{captured}");
            assert_eq!(options.mss.is_some(), captured >= 24, "{captured}");
            assert_eq!(options.timestamps.is_some(), captured >= 34, "{captured}");
            assert_eq!(options.window_scale.is_some(), captured >= 37, "{captured}");
        }
    }
}
