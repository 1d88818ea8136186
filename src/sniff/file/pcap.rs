//! Reads files of the pcap format (draft-ietf-opsawg-pcap) and of its variants: either byte order,
//! times in nanoseconds, longer record headers, lengths in the other order. Pure.
//!
//! Three old programs wrote longer record headers than their magic number stands for. So the first
//! records decide: the length that the magic number stands for is used if these records make sense
//! with it, else another one with which they do. Of a pipe, only the bytes that have arrived are
//! used; the reader does not wait for more.

use crate::sniff::file::linktype::Link;
use crate::sniff::file::record::{Order, PACKET_BYTES_MAX, Packet, Record, Time, Unreadable};
use crate::units::{counted, grouped};

/// Bytes of the header of a file.
pub const HEADER_BYTES: usize = 24;

/// Bytes of a record up to the end of its lengths, which are at the same offset in all variants.
const LENGTHS_END: usize = 16;

/// The magic number of a file with times in microseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
/// The magic number of a file with times in nanoseconds.
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The magic number of Alexey Kuznetzov's patch to libpcap, whose records contain interface,
/// protocol and direction.
const MODIFIED: u32 = 0xa1b2_cd34;

/// Returns true when these bytes, four or more, begin with the magic number of a file that is read.
pub fn is_magic(bytes: &[u8]) -> bool {
    let magics = [MICROSECONDS, NANOSECONDS, MODIFIED];
    [Order::Little, Order::Big]
        .iter()
        .any(|order| magics.contains(&order.u32(bytes, 0)))
}

/// A pcap file whose header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcap {
    order: Order,
    lengths: Lengths,
    /// Bytes of a record's header.
    record_header: usize,
    /// Other possible lengths of a record's header; empty once the first record was read.
    others: &'static [usize],
    /// True when fractions of a second are in nanoseconds, not microseconds.
    is_nanoseconds: bool,
    link: Result<Link, Unreadable>,
    trailer: usize,
    header: [u8; HEADER_BYTES],
}

/// The order of the two lengths of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    /// The captured length first, since version 2.4.
    CapturedFirst,
    /// The length on the wire first, before version 2.3.
    WireFirst,
    /// Either: version 2.3 was written both ways, and the captured length is never the larger one.
    SmallerIsCaptured,
}

impl Pcap {
    /// Parses the header of a file; `None` when it is not a pcap file.
    pub fn begin(header: &[u8; HEADER_BYTES]) -> Option<Pcap> {
        let of = |order: Order| {
            let known = match order.u32(header, 0) {
                // Red Hat 6.1 and Nokia wrote this number as well, with longer record headers.
                MICROSECONDS => (16, &[24, 20][..], false),
                NANOSECONDS => (16, &[][..], true),
                // SuSE 6.3 wrote this number as well, with longer record headers.
                MODIFIED => (24, &[28][..], false),
                _ => return None,
            };
            Some((order, known))
        };
        let (order, (record_header, others, is_nanoseconds)) =
            of(Order::Little).or(of(Order::Big))?;
        let lengths = match (order.u16(header, 4), order.u16(header, 6)) {
            (2, ..=2) => Lengths::WireFirst,
            (2, 3) => Lengths::SmallerIsCaptured,
            // A version that tcpdump of DG/UX wrote.
            (543, 0) => Lengths::WireFirst,
            _ => Lengths::CapturedFirst,
        };
        let (number, trailer) = link_field(order.u32(header, 20));
        Some(Pcap {
            order,
            lengths,
            record_header,
            others,
            is_nanoseconds,
            link: Link::from_number(number).ok_or(Unreadable::LinkType(number)),
            trailer,
            header: *header,
        })
    }

    /// Returns the header of this file in version 2.4, in which records have the shortest header
    /// and the captured length first.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let magic = match self.is_nanoseconds {
            true => NANOSECONDS,
            false => MICROSECONDS,
        };
        let version = match self.order {
            Order::Big => [0, 2, 0, 4],
            Order::Little => [2, 0, 4, 0],
        };
        let mut header = self.header;
        header[..4].copy_from_slice(&self.order.bytes(magic));
        header[4..8].copy_from_slice(&version);
        header
    }

    /// Returns the header of a record in a file of version 2.4.
    pub fn record_header(&self, record: &[u8], packet: &Packet) -> [u8; LENGTHS_END] {
        let mut header = [0; LENGTHS_END];
        let time = 8;
        header[..time].copy_from_slice(&record[..time]);
        let lengths = [packet.captured.len(), packet.on_wire];
        for (place, length) in [8, 12].into_iter().zip(lengths) {
            header[place..place + 4].copy_from_slice(&self.order.bytes(length as u32));
        }
        header
    }

    /// Parses the record at the beginning of `bytes`.
    pub fn next(&mut self, bytes: &[u8]) -> Record {
        let record = self.read(bytes);
        if self.others.is_empty() || matches!(record, Record::Incomplete(_)) {
            return record;
        }
        let others = std::mem::take(&mut self.others);
        let mut sizes = std::iter::once(&self.record_header).chain(others);
        match sizes.find(|size| self.makes_sense(**size, bytes)) {
            Some(&size) if size != self.record_header => {
                self.record_header = size;
                self.read(bytes)
            }
            _ => record,
        }
    }

    /// Returns true when the first records, at most three and no more than `bytes` holds, look like
    /// records with headers of this size.
    fn makes_sense(&self, size: usize, bytes: &[u8]) -> bool {
        const RECORDS: u32 = 3;
        const ON_WIRE_MAX: usize = 16 << 20;
        const TEN_YEARS: u32 = 10 * 365 * 86_400;
        let first = self.order.u32(bytes, 0);
        let fraction_end = if self.is_nanoseconds {
            1_000_000_000
        } else {
            1_000_000
        };
        let mut rest = bytes;
        for _ in 0..RECORDS {
            if rest.len() < LENGTHS_END {
                return true;
            }
            let (captured, on_wire) = self.lengths(rest);
            let is_near = self.order.u32(rest, 0).abs_diff(first) <= TEN_YEARS;
            let is_sound = captured <= on_wire && on_wire <= ON_WIRE_MAX;
            if !is_near || !is_sound || self.order.u32(rest, 4) >= fraction_end {
                return false;
            }
            rest = rest.get(size + captured..).unwrap_or_default();
        }
        true
    }

    /// Returns the lengths of the record at the beginning of `bytes`: captured, and on the wire.
    fn lengths(&self, bytes: &[u8]) -> (usize, usize) {
        let field = |place| self.order.u32(bytes, place) as usize;
        let (first, second) = (field(8), field(12));
        match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::WireFirst => (second, first),
            Lengths::SmallerIsCaptured => (first.min(second), first.max(second)),
        }
    }

    fn read(&self, bytes: &[u8]) -> Record {
        if bytes.len() < self.record_header {
            return Record::Incomplete(self.record_header);
        }
        let field = |place| self.order.u32(bytes, place);
        let (captured, on_wire) = self.lengths(bytes);
        if captured > PACKET_BYTES_MAX {
            let bytes = counted(captured as u64, "byte");
            let most = grouped(PACKET_BYTES_MAX as u64);
            return Record::Fault(format!(
                "a packet of {bytes}, more than the limit of {most}"
            ));
        }
        let size = self.record_header + captured;
        if bytes.len() < size {
            return Record::Incomplete(size);
        }
        let nanoseconds = match self.is_nanoseconds {
            true => field(4),
            false => field(4).saturating_mul(1000),
        };
        Record::Packet(Packet {
            time: Time::new(field(0).into(), nanoseconds),
            link: self.link,
            captured: self.record_header..size,
            on_wire,
            trailer: self.trailer,
            size,
        })
    }
}

/// Returns the link type and the length of the frame check sequence at the end of each packet, in
/// bytes. The link type is in the lower half of the field; the upper half may hold the length, in
/// units of two bytes.
fn link_field(field: u32) -> (u32, usize) {
    const HAS_CHECK_LENGTH: u32 = 1 << 26;
    let trailer = match field & HAS_CHECK_LENGTH {
        0 => 0,
        _ => 2 * (field >> 28) as usize,
    };
    (field & 0xffff, trailer)
}
