//! Capture files: pcap and pcapng are read by pcap-parser, pcapng is written here.
//!
//! A file that breaks off, or has a faulty block, gives all packets before that place, and then the
//! fault. Invariant: memory is bounded by the largest block that is accepted.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, PcapBlockOwned, PcapError, PcapHeader, create_reader,
};

use crate::capture::segment::Link;

/// Bytes that are read at a time, and the largest block of a file: a packet of 256 KiB, which is
/// what Linux hands over at most, and its options.
const BUFFER_BYTES: usize = 1 << 20;

/// A frame as it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Since 1970.
    pub time: Duration,
    /// What it begins with; an error names a link type that cannot be read.
    pub link: Result<Link, i32>,
    /// What was captured.
    pub bytes: &'a [u8],
    /// How long it was on the wire.
    pub on_wire: usize,
}

/// Why a file gives no more packets.
#[derive(Debug)]
pub enum FileFault {
    /// It is neither pcap nor pcapng.
    NotACapture,
    /// It ends within a packet.
    Truncated,
    /// What follows is no packet.
    Malformed(String),
    /// It cannot be read.
    Io(io::Error),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::NotACapture => write!(f, "it is neither pcap nor pcapng"),
            FileFault::Truncated => write!(f, "it ends within a packet"),
            FileFault::Malformed(why) => write!(f, "what follows is no packet: {why}"),
            FileFault::Io(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

/// What a file holds next.
#[derive(Debug)]
pub enum Next<'a> {
    /// A packet.
    Frame(Frame<'a>),
    /// Nothing before the file is read on: [`Reader::refill`].
    Starved,
    /// Nothing more.
    End,
    /// Nothing more that could be read.
    Fault(FileFault),
}

/// A capture file, read packet by packet.
pub struct Reader {
    blocks: Box<dyn PcapReaderIterator>,
    section: Section,
    /// The last packet.
    bytes: Vec<u8>,
    /// Nothing came when the file was read on last.
    exhausted: bool,
}

/// A pcap file, or a part of a pcapng file that stands for itself.
#[derive(Debug, Default)]
struct Section {
    big_endian: bool,
    /// A pcap file has one.
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Result<Link, i32>,
    /// Ticks of a time stamp in a second.
    resolution: u64,
    /// Seconds to be added.
    offset: i64,
    /// The most that is captured of a packet, in bytes; 0: all.
    snap_length: usize,
}

/// The interface of a packet whose own was never described.
const UNKNOWN: Interface = Interface {
    link: Err(-1),
    resolution: 1_000_000,
    offset: 0,
    snap_length: 0,
};

/// A packet before its bytes are taken: when, on which link, how long.
type Head = (Duration, Result<Link, i32>, usize);

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads the beginning of a file, which tells its kind.
    pub fn new(input: impl Read + Send + 'static) -> Result<Reader, FileFault> {
        let input = Beginning { input, reads: 0 };
        let blocks = create_reader(BUFFER_BYTES, input).map_err(|error| match error {
            PcapError::ReadError => FileFault::Io(io::ErrorKind::Other.into()),
            _ => FileFault::NotACapture,
        })?;
        Ok(Reader {
            blocks,
            section: Section::default(),
            bytes: Vec::new(),
            exhausted: false,
        })
    }

    /// The next packet, if it can be had without waiting for more of the file.
    pub fn next_frame(&mut self) -> Next<'_> {
        loop {
            let (size, head) = match self.blocks.next() {
                Ok((size, block)) => {
                    self.exhausted = false;
                    (size, take_block(block, &mut self.section, &mut self.bytes))
                }
                Err(PcapError::Eof) => return Next::End,
                Err(PcapError::Incomplete(_)) => return Next::Starved,
                Err(error) => return Next::Fault(fault(&error)),
            };
            self.blocks.consume(size);
            if let Some((time, link, on_wire)) = head {
                return Next::Frame(Frame {
                    time,
                    link,
                    bytes: &self.bytes,
                    on_wire,
                });
            }
        }
    }

    /// Reads on, which waits when the file is a pipe. Nothing new although a block is incomplete:
    /// the file ends within it.
    pub fn refill(&mut self) -> Result<(), FileFault> {
        let before = self.blocks.data().len();
        self.blocks.refill().map_err(|error| fault(&error))?;
        if self.blocks.data().len() == before {
            if self.exhausted {
                return Err(FileFault::Truncated);
            }
            self.exhausted = true;
        }
        Ok(())
    }
}

/// Takes note of a block. Of a packet the bytes are copied out and the head is told.
fn take_block(
    block: PcapBlockOwned<'_>,
    section: &mut Section,
    bytes: &mut Vec<u8>,
) -> Option<Head> {
    let (head, data, captured) = match block {
        PcapBlockOwned::LegacyHeader(header) => {
            section.interfaces = vec![Interface::of_header(&header)];
            return None;
        }
        PcapBlockOwned::NG(Block::SectionHeader(header)) => {
            section.big_endian = header.big_endian();
            section.interfaces.clear();
            return None;
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            let interface = Interface::of_block(&interface, section.big_endian);
            section.interfaces.push(interface);
            return None;
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = section
                .interfaces
                .get(packet.if_id as usize)
                .unwrap_or(&UNKNOWN);
            let ticks = (u64::from(packet.ts_high) << 32) | u64::from(packet.ts_low);
            let head = (
                interface.time(ticks),
                interface.link,
                packet.origlen as usize,
            );
            (head, packet.data, packet.caplen as usize)
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = section.interfaces.first().unwrap_or(&UNKNOWN);
            let seconds = Duration::from_secs(packet.ts_sec.into());
            let fraction = interface.time(packet.ts_usec.into());
            let head = (seconds + fraction, interface.link, packet.origlen as usize);
            (head, packet.data, packet.caplen as usize)
        }
        // It has no time, and its interface is the first one.
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = section.interfaces.first().unwrap_or(&UNKNOWN);
            let on_wire = packet.origlen as usize;
            let captured = match interface.snap_length {
                0 => on_wire,
                snap => on_wire.min(snap),
            };
            (
                (Duration::ZERO, interface.link, on_wire),
                packet.data,
                captured,
            )
        }
        PcapBlockOwned::NG(_) => return None,
    };
    bytes.clear();
    bytes.extend_from_slice(&data[..captured.min(data.len())]);
    Some(head)
}

/// A file whose first read brings enough to tell its kind, also when it is a pipe.
struct Beginning<R> {
    input: R,
    reads: u32,
}

impl<R: Read> Read for Beginning<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads = self.reads.saturating_add(1);
        match self.reads {
            1 => self.read_header(buffer),
            // The library reads once more before it looks at what it has; that would wait.
            2 => Ok(0),
            _ => self.input.read(buffer),
        }
    }
}

impl<R: Read> Beginning<R> {
    fn read_header(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.input.read(buffer)?;
        while count < header_length(&buffer[..count]).min(buffer.len()) {
            match self.input.read(&mut buffer[count..])? {
                0 => break,
                more => count += more,
            }
        }
        Ok(count)
    }
}

/// How long the first header of a file is, as far as its beginning tells.
fn header_length(beginning: &[u8]) -> usize {
    const PCAP: usize = 24;
    const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    let word = |place: usize| beginning.get(place..place + 4)?.try_into().ok();
    let (Some(kind), Some(length), Some(order)) = (word(0), word(4), word(8)) else {
        return PCAP;
    };
    match (kind, order) {
        (SECTION, [0x1a, 0x2b, 0x3c, 0x4d]) => u32::from_be_bytes(length) as usize,
        (SECTION, _) => u32::from_le_bytes(length) as usize,
        _ => PCAP,
    }
}

impl Interface {
    fn of_header(header: &PcapHeader) -> Interface {
        let nanoseconds = header.is_nanosecond_precision();
        Interface {
            link: link(header.network.0),
            resolution: if nanoseconds {
                1_000_000_000
            } else {
                1_000_000
            },
            offset: 0,
            snap_length: header.snaplen as usize,
        }
    }

    fn of_block(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Interface {
        Interface {
            link: link(block.linktype.0),
            resolution: block.ts_resolution().unwrap_or(1_000_000).max(1),
            // The library reads this option as little-endian, whatever the section is.
            offset: match big_endian {
                true => block.ts_offset().swap_bytes(),
                false => block.ts_offset(),
            },
            snap_length: block.snaplen as usize,
        }
    }

    fn time(&self, ticks: u64) -> Duration {
        let seconds = (ticks / self.resolution).saturating_add_signed(self.offset);
        let rest = u128::from(ticks % self.resolution) * 1_000_000_000;
        let nanoseconds = (rest / u128::from(self.resolution)) as u64;
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds))
    }
}

fn link(number: i32) -> Result<Link, i32> {
    Link::from_number(number).ok_or(number)
}

fn fault<I>(error: &PcapError<I>) -> FileFault {
    match error {
        PcapError::UnexpectedEof | PcapError::Incomplete(_) => FileFault::Truncated,
        PcapError::ReadError => FileFault::Io(io::ErrorKind::Other.into()),
        PcapError::BufferTooSmall => {
            FileFault::Malformed(format!("a block of more than {BUFFER_BYTES} bytes"))
        }
        PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind) => {
            FileFault::Malformed(format!("a faulty block ({kind:?})"))
        }
        PcapError::Eof | PcapError::HeaderNotRecognized => {
            FileFault::Malformed("a faulty block".to_string())
        }
    }
}

/// A pcapng file with one interface and nanoseconds (draft-ietf-opsawg-pcapng).
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Begins a file for frames of this link type, by its number.
    pub fn new(mut output: W, link_number: u16, interface: &str) -> io::Result<Writer<W>> {
        const SECTION: u32 = 0x0a0d_0d0a;
        const BYTE_ORDER: u32 = 0x1a2b_3c4d;
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]); // Version 1.0.
        body.extend(u64::MAX.to_le_bytes()); // The section's length: not told.
        write_block(&mut output, SECTION, &body)?;

        const INTERFACE: u32 = 1;
        const IF_NAME: u16 = 2;
        const IF_TSRESOL: u16 = 9;
        body.clear();
        body.extend(link_number.to_le_bytes());
        body.extend([0; 6]); // Reserved, and no snap length.
        write_option(&mut body, IF_NAME, interface.as_bytes());
        write_option(&mut body, IF_TSRESOL, &[9]); // 10^-9 seconds.
        write_option(&mut body, 0, &[]);
        write_block(&mut output, INTERFACE, &body)?;
        Ok(Writer { output })
    }

    /// Appends a frame that was captured in full.
    pub fn write(&mut self, time: Duration, bytes: &[u8]) -> io::Result<()> {
        const ENHANCED_PACKET: u32 = 6;
        let ticks = time.as_nanos() as u64;
        let length = bytes.len() as u32;
        let mut body = Vec::with_capacity(20 + bytes.len() + 4);
        for field in [0, (ticks >> 32) as u32, ticks as u32, length, length] {
            body.extend(field.to_le_bytes());
        }
        body.extend(bytes);
        pad(&mut body);
        write_block(&mut self.output, ENHANCED_PACKET, &body)
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn write_block(output: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    output.write_all(&kind.to_le_bytes())?;
    output.write_all(&length)?;
    output.write_all(body)?;
    output.write_all(&length)
}

fn write_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

/// Fields end at a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}
