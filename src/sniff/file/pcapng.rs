//! Reads files of the pcapng format (draft-ietf-opsawg-pcapng): blocks in sections, each section
//! with its own byte order and interfaces. Pure.
//!
//! Invariant: what is kept of a section is bounded, by `INTERFACES_MAX`.

use crate::sniff::file::drops::{Drops, PacketBlock, Statistics};
use crate::sniff::file::linktype::Link;
use crate::sniff::file::record::{Order, PACKET_BYTES_MAX, Packet, Record, Time, Unreadable};
use crate::units::{Counted, counted};

/// Maximum number of interfaces of a section that are kept: as many as the first kind of packet
/// block could number. Each takes 40 bytes, so all of them take 2.5 MiB at most.
const INTERFACES_MAX: usize = 1 << 16;

/// Maximum size of a block that is not a packet and must be held to be read, in bytes: a section
/// header, an interface or its statistics, with their comments. Larger statistics are skipped; the
/// others are damage if they are larger.
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

/// Maximum size of a packet block, in bytes: its options are held with the packet.
const PACKET_BLOCK_BYTES_MAX: usize = 2 * PACKET_BYTES_MAX;

/// The first bytes of a file, in either byte order.
pub const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// Options of interface statistics.
const ISB_IFDROP: u16 = 5;
const ISB_FILTERACCEPT: u16 = 6;
const ISB_OSDROP: u16 = 7;
const ISB_USRDELIV: u16 = 8;
/// Other types of blocks that Wireshark numbers as it does packets: the journal of systemd, custom
/// blocks, events of sysdig.
const NUMBERED: [u32; 6] = [9, 0xbad, 0x4000_0bad, 0x204, 0x216, 0x221];

/// Returns true when these bytes, twelve or more, begin a file: a section header with its byte
/// order.
pub fn is_beginning(bytes: &[u8]) -> bool {
    let kind = bytes.starts_with(&MAGIC);
    let order = [[0x1a, 0x2b, 0x3c, 0x4d], [0x4d, 0x3c, 0x2b, 0x1a]];
    kind && bytes
        .get(8..12)
        .is_some_and(|bytes| order.iter().any(|order| order == bytes))
}

/// Marks the length of its section as unknown in a section header, and leaves other blocks
/// unchanged.
pub fn forget_length(block: &mut [u8]) {
    if block.starts_with(&MAGIC)
        && let Some(length) = block.get_mut(16..24)
    {
        length.fill(0xff);
    }
}

/// The state of reading a file, in its current section.
#[derive(Clone, Debug)]
pub struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
    /// Number of interfaces that the section describes, kept or not.
    described: u64,
    /// Number of records in all sections that count in the numbering of packets.
    numbered: u64,
    drops: Drops,
    /// The interface of the last packet and the packet's time, if its block declares drops.
    last_drops: Option<(u32, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Result<Link, Unreadable>,
    resolution: Resolution,
    /// Seconds to be added to its time stamps.
    offset: i64,
    /// Maximum number of bytes that are captured of a packet; 0: no limit.
    snap_length: u32,
    trailer: u8,
}

/// The unit of time stamps: a second divided by a power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// 10 to this power.
    Decimal(u8),
    /// 2 to this power.
    Binary(u8),
}

/// The body of a block whose length at its end was checked.
struct Body<'a> {
    order: Order,
    bytes: &'a [u8],
    /// Size of the whole block with its padding, in bytes.
    size: usize,
}

/// Bytes before the body of a block, and after it.
const BLOCK_HEAD: usize = 8;
const BLOCK_TAIL: usize = 4;

impl Pcapng {
    /// Returns the state before the first section of a file.
    pub fn before_the_first() -> Pcapng {
        Pcapng {
            order: Order::Little,
            interfaces: Vec::new(),
            described: 0,
            numbered: 0,
            drops: Drops::default(),
            last_drops: None,
        }
    }

    /// Returns the packets that the file declares as dropped, as far as it was read.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Parses the block at the beginning of `bytes`.
    pub fn next(&mut self, bytes: &[u8]) -> Record {
        self.last_drops = None;
        let record = self.read(bytes);
        self.numbered += u64::from(record.is_numbered());
        record
    }

    fn read(&mut self, bytes: &[u8]) -> Record {
        if bytes.len() < BLOCK_HEAD {
            return Record::Incomplete(BLOCK_HEAD);
        }
        let kind = self.order.u32(bytes, 0);
        if kind == SECTION {
            return self.section(bytes);
        }
        let size = self.order.u32(bytes, 4) as usize;
        if size < BLOCK_HEAD + BLOCK_TAIL {
            return Record::Fault(format!("a block of {}, which is too short", bytes_of(size)));
        }
        let most = match kind {
            INTERFACE => DESCRIPTION_BYTES_MAX,
            STATISTICS if size <= DESCRIPTION_BYTES_MAX => DESCRIPTION_BYTES_MAX,
            OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => PACKET_BLOCK_BYTES_MAX,
            _ => return other(kind, size, bytes, self.order),
        };
        if size > most && kind != INTERFACE {
            return too_long(size);
        }
        if size > most {
            return Record::Fault(format!(
                "an interface description of {}, which is too long",
                bytes_of(size)
            ));
        }
        match block(bytes, size, self.order) {
            Err(record) => record,
            Ok(body) if kind == INTERFACE => self.interface(&body),
            Ok(body) if kind == STATISTICS => self.statistics(&body),
            Ok(body) => self.packet(kind, &body),
        }
    }

    /// Begins a section: reads its byte order, and forgets the interfaces of the section before it.
    fn section(&mut self, bytes: &[u8]) -> Record {
        const HEADER: usize = 12;
        if bytes.len() < HEADER {
            return Record::Incomplete(HEADER);
        }
        let order = match bytes[8..HEADER] {
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            _ => return Record::Fault("a section without a byte order".to_string()),
        };
        let size = order.u32(bytes, 4) as usize;
        if !(28..=DESCRIPTION_BYTES_MAX).contains(&size) {
            return Record::Fault(format!("a section header of {}", bytes_of(size)));
        }
        let body = match block(bytes, size, order) {
            Err(record) => return record,
            Ok(body) => body,
        };
        let major = order.u16(body.bytes, 4);
        if major != 1 {
            let minor = order.u16(body.bytes, 6);
            return Record::Fault(format!("a section of version {major}.{minor}, not 1"));
        }
        self.order = order;
        self.interfaces = Vec::new();
        self.described = 0;
        self.drops.next_section();
        description(size)
    }

    fn interface(&mut self, body: &Body<'_>) -> Record {
        if body.bytes.len() < 8 {
            return Record::Fault("an interface description is too short".to_string());
        }
        self.described += 1;
        if self.interfaces.len() < INTERFACES_MAX {
            self.interfaces.push(Interface::read(body));
        }
        description(body.size)
    }

    fn statistics(&mut self, body: &Body<'_>) -> Record {
        const FIXED: usize = 12;
        let mut statistics = Statistics::default();
        for (kind, value) in options(body.bytes.get(FIXED..).unwrap_or_default(), body.order) {
            let counter = match kind {
                ISB_IFDROP => &mut statistics.by_interface,
                ISB_FILTERACCEPT => &mut statistics.accepted,
                ISB_OSDROP => &mut statistics.by_system,
                ISB_USRDELIV => &mut statistics.delivered,
                _ => continue,
            };
            *counter = long(value, body.order).or(*counter);
        }
        if body.bytes.len() >= FIXED {
            let interface = body.order.u32(body.bytes, 0);
            let place = (interface, ticks(body));
            self.drops.statistics(place, &statistics);
        }
        description(body.size)
    }

    /// Returns a block of statistics that declares the drops of the interface of the last packet,
    /// if that packet's block declares some.
    pub fn statistics_of_last(&self) -> Option<Vec<u8>> {
        let (interface, ticks) = self.last_drops?;
        let count = self.drops.of_interface(interface);
        let (option, count) = match self.order {
            Order::Big => ([0, ISB_OSDROP as u8, 0, 8], count.to_be_bytes()),
            Order::Little => ([ISB_OSDROP as u8, 0, 8, 0], count.to_le_bytes()),
        };
        let size = BLOCK_HEAD + 12 + option.len() + count.len() + 4 + BLOCK_TAIL;
        let word = |value: u32| self.order.bytes(value);
        let time = [(ticks >> 32) as u32, ticks as u32].map(word).concat();
        let head = [STATISTICS, size as u32, interface].map(word).concat();
        let tail = [[0; 4], word(size as u32)].concat();
        Some([&head[..], &time, &option, &count, &tail].concat())
    }

    /// Returns the interface of this number, or the reason why it is not known.
    fn find(&self, number: u32) -> Result<Interface, Unreadable> {
        match self.interfaces.get(number as usize) {
            Some(interface) => Ok(*interface),
            None if u64::from(number) < self.described => {
                Err(Unreadable::TooManyInterfaces(INTERFACES_MAX))
            }
            None => Err(Unreadable::NoInterface(number)),
        }
    }

    fn packet(&mut self, kind: u32, body: &Body<'_>) -> Record {
        let simple = kind == SIMPLE_PACKET;
        let fixed = if simple { 4 } else { 20 };
        if body.bytes.len() < fixed {
            return Record::Fault(format!("a packet block of {}", bytes_of(body.size)));
        }
        let field = |place| body.order.u32(body.bytes, place);
        let number = match kind {
            SIMPLE_PACKET => 0,
            OBSOLETE_PACKET => body.order.u16(body.bytes, 0).into(),
            _ => field(0),
        };
        let found = self.find(number);
        let interface = found.unwrap_or(Interface::UNKNOWN);
        let room = body.bytes.len() - fixed;
        let (captured, on_wire, time) = if simple {
            // This block has no time stamp, and only the snap length of its interface limits what
            // is captured.
            let on_wire = field(0) as usize;
            let most = match interface.snap_length {
                0 => usize::MAX,
                most => most as usize,
            };
            (on_wire.min(most).min(room), on_wire, Time::new(0, 0))
        } else {
            (
                field(12) as usize,
                field(16) as usize,
                interface.time(ticks(body)),
            )
        };
        if let Some((block, count)) = dropped_before(kind, body, captured.saturating_add(fixed))
            && count > 0
        {
            let place = (number, ticks(body));
            let packet = self.numbered + 1;
            self.drops.before_packet(place, (block, packet), count);
            self.last_drops = Some(place);
        }
        let link = match found {
            Err(why) => Err(why),
            Ok(_) if captured > room => Err(Unreadable::Overlong(captured, room)),
            Ok(_) if captured > PACKET_BYTES_MAX => Err(Unreadable::TooLong(captured as u64)),
            Ok(interface) => interface.link,
        };
        let start = BLOCK_HEAD + fixed;
        Record::Packet(Packet {
            time,
            link,
            captured: start..start + captured.min(room),
            on_wire,
            trailer: interface.trailer.into(),
            size: body.size,
        })
    }
}

/// Returns the record of a block that is not parsed; it may have any size.
fn other(kind: u32, size: usize, bytes: &[u8], order: Order) -> Record {
    if size <= DESCRIPTION_BYTES_MAX
        && let Err(record) = block(bytes, size, order)
    {
        return record;
    }
    Record::Other {
        size: padded(size),
        is_numbered: NUMBERED.contains(&kind),
        is_description: false,
    }
}

/// Returns the record of a section header, an interface or its statistics.
fn description(size: usize) -> Record {
    Record::Other {
        size: padded(size),
        is_numbered: false,
        is_description: true,
    }
}

/// Returns the time stamp of a block, which is at the same offset in all blocks that have one.
fn ticks(body: &Body<'_>) -> u64 {
    let field = |place| u64::from(body.order.u32(body.bytes, place));
    (field(4) << 32) | field(8)
}

/// Returns the number of packets that were dropped before this one, and the kind of block that
/// declares it, if the block does. The options of the block begin at `end`, or with the padding
/// before them.
fn dropped_before(kind: u32, body: &Body<'_>, end: usize) -> Option<(PacketBlock, u64)> {
    const DROP_COUNT: u16 = 4;
    const UNKNOWN: u16 = 0xffff;
    match kind {
        OBSOLETE_PACKET => {
            let count = Some(body.order.u16(body.bytes, 2)).filter(|count| *count != UNKNOWN)?;
            Some((PacketBlock::Obsolete, count.into()))
        }
        ENHANCED_PACKET => {
            let rest = body.bytes.get(end.checked_next_multiple_of(4)?..)?;
            let mut options = options(rest, body.order);
            let (_, value) = options.find(|(kind, _)| *kind == DROP_COUNT)?;
            Some((PacketBlock::Enhanced, long(value, body.order)?))
        }
        _ => None,
    }
}

/// Returns the options of a block, codes and values, up to their end.
fn options(mut rest: &[u8], order: Order) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        const END: u16 = 0;
        let head = rest.get(..4)?;
        let (kind, length) = (order.u16(head, 0), usize::from(order.u16(head, 2)));
        let value = rest.get(4..4 + length)?;
        rest = rest
            .get(4 + length.next_multiple_of(4)..)
            .unwrap_or_default();
        (kind != END).then_some((kind, value))
    })
}

/// Returns the number in a value of eight bytes.
fn long(value: &[u8], order: Order) -> Option<u64> {
    let value: [u8; 8] = value.try_into().ok()?;
    Some(match order {
        Order::Big => u64::from_be_bytes(value),
        Order::Little => u64::from_le_bytes(value),
    })
}

/// Returns the record of a packet that is too long: it is skipped, and reported.
fn too_long(size: usize) -> Record {
    Record::Packet(Packet {
        time: Time::new(0, 0),
        link: Err(Unreadable::TooLong(size as u64)),
        captured: 0..0,
        on_wire: size,
        trailer: 0,
        size: padded(size) as usize,
    })
}

fn bytes_of(size: usize) -> Counted<'static> {
    counted(size as u64, "byte")
}

/// Returns the size with its padding: blocks end at a multiple of four bytes, even if their length
/// does not include the padding.
fn padded(size: usize) -> u64 {
    (size as u64).next_multiple_of(4)
}

/// Returns the body of a block, if all of it is there and the length is the same at both ends.
fn block(bytes: &[u8], size: usize, order: Order) -> Result<Body<'_>, Record> {
    let end = padded(size) as usize;
    if bytes.len() < end {
        return Err(Record::Incomplete(end));
    }
    let tail = order.u32(bytes, end - BLOCK_TAIL) as usize;
    if tail != size {
        let why = format!(
            "a block of {} whose trailing length is {tail}",
            bytes_of(size)
        );
        return Err(Record::Fault(why));
    }
    Ok(Body {
        order,
        bytes: &bytes[BLOCK_HEAD..end - BLOCK_TAIL],
        size: end,
    })
}

impl Interface {
    /// The interface that is used for a packet whose own was never described.
    const UNKNOWN: Interface = Interface {
        link: Err(Unreadable::NoInterface(0)),
        resolution: Resolution::Decimal(6),
        offset: 0,
        snap_length: 0,
        trailer: 0,
    };

    fn read(body: &Body<'_>) -> Interface {
        const TIME_RESOLUTION: u16 = 9;
        const CHECK_LENGTH: u16 = 13;
        const TIME_OFFSET: u16 = 14;
        let number = body.order.u16(body.bytes, 0).into();
        let mut interface = Interface {
            link: Link::from_number(number).ok_or(Unreadable::LinkType(number)),
            snap_length: body.order.u32(body.bytes, 4),
            ..Interface::UNKNOWN
        };
        for (kind, value) in options(&body.bytes[8..], body.order) {
            match (kind, value) {
                (TIME_RESOLUTION, [value, ..]) => interface.resolution = Resolution::of(*value),
                (TIME_OFFSET, value) => {
                    let seconds = long(value, body.order).map(|value| value as i64);
                    interface.offset = seconds.unwrap_or(interface.offset);
                }
                // The text of the format defines bits, its example and the files that exist have
                // bytes.
                (CHECK_LENGTH, &[length, ..]) => {
                    interface.trailer = if length < 16 { length } else { length / 8 };
                }
                _ => {}
            }
        }
        interface
    }

    fn time(&self, ticks: u64) -> Time {
        let (seconds, nanoseconds) = self.resolution.split(ticks);
        Time::new(i128::from(seconds) + i128::from(self.offset), nanoseconds)
    }
}

impl Resolution {
    /// Parses a resolution: the highest bit is the base (2 when it is set, else 10), the others the
    /// power.
    fn of(value: u8) -> Resolution {
        match value & 0x80 {
            0 => Resolution::Decimal(value),
            _ => Resolution::Binary(value & 0x7f),
        }
    }

    /// Returns whole seconds, and nanoseconds, rounded down.
    fn split(self, ticks: u64) -> (u64, u32) {
        const NANOSECONDS: u128 = 1_000_000_000;
        let ticks = u128::from(ticks);
        let in_a_second = match self {
            Resolution::Binary(power) => 1_u128 << power,
            Resolution::Decimal(power) => match 10_u128.checked_pow(power.into()) {
                Some(ticks) => ticks,
                // All 64 bits of ticks are less than a nanosecond.
                None => return (0, 0),
            },
        };
        let (seconds, rest) = (ticks / in_a_second, ticks % in_a_second);
        // The rest has 64 bits at the most, so the product fits.
        (seconds as u64, (rest * NANOSECONDS / in_a_second) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resolution_is_exact() {
        let second = |power| Resolution::Decimal(power).split(10_u64.pow(power.into()) * 3 / 2);
        for power in 1..=18 {
            assert_eq!(second(power), (1, 500_000_000), "10^-{power}");
        }
        assert_eq!(Resolution::of(0).split(u64::MAX), (u64::MAX, 0));
        for power in 1..=63 {
            let resolution = Resolution::of(0x80 | power);
            let half = 1_u64 << (power - 1);
            assert_eq!(resolution.split(half), (0, 500_000_000), "2^-{power}");
            let more = half.checked_mul(3).map(|ticks| resolution.split(ticks));
            assert!(
                more.is_none_or(|time| time == (1, 500_000_000)),
                "2^-{power}"
            );
        }
        for value in 0..=u8::MAX {
            for ticks in [0, 1, u64::MAX / 3, u64::MAX] {
                let (_, nanoseconds) = Resolution::of(value).split(ticks);
                assert!(nanoseconds < 1_000_000_000, "{value:#x}");
            }
        }
        // 2^64 - 1 ticks of 2^-64 seconds are a second less one tick; of 2^-96, less than a
        // nanosecond.
        assert_eq!(Resolution::of(0x80 | 64).split(u64::MAX), (0, 999_999_999));
        assert_eq!(Resolution::of(0x80 | 96).split(u64::MAX), (0, 0));
        assert_eq!(Resolution::of(19).split(u64::MAX), (1, 844_674_407));
        assert_eq!(Resolution::of(28).split(u64::MAX), (0, 1));
    }

    #[test]
    fn times_that_cannot_be_told_are_marked() {
        let interface = |offset| Interface {
            offset,
            ..Interface::UNKNOWN
        };
        let time_of = |offset, ticks| {
            let time = interface(offset).time(ticks);
            (time.since_1970.as_micros() as u64, time.is_clamped)
        };
        assert_eq!(time_of(-2, 3_500_000), (1_500_000, false));
        assert_eq!(time_of(-4, 3_500_000), (0, true));
        assert!(time_of(i64::MIN, u64::MAX).1 && time_of(i64::MAX, u64::MAX).1);
        assert!(!time_of(0, 253_402_300_799_000_000).1 && time_of(0, 253_402_300_800_000_000).1);
    }
}
