//! Reads capture files (pcap and pcapng, also compressed by gzip) and writes pcapng.
//!
//! The modules `pcap` and `pcapng`, which are pure, parse bytes into records; this module holds the
//! buffer from which they read. A file that is truncated or damaged yields all packets before that
//! place, and then the fault.
//!
//! Reading from the file and returning frames are separate: [`Reader::next_frame`] never waits, and
//! [`Reader::refill`] reads from the file once. So all frames that have arrived in a pipe are
//! processed before the program waits for more.
//!
//! Invariant: memory is bounded by the largest packet block that is read and the number of
//! interfaces that a section may have. Records that are not packets are skipped; they may have any
//! size, and large ones are not buffered.

pub mod drops;
pub mod foreign;
pub mod input;
pub mod linktype;
pub mod pcap;
pub mod pcapng;
pub mod record;

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;

use crate::sniff::file::foreign::{ForeignFile, kind_of};
use crate::sniff::file::linktype::Link;
use crate::sniff::file::pcap::Pcap;
use crate::sniff::file::pcapng::Pcapng;
use crate::sniff::file::record::{Packet, Record, Unreadable};

/// Initial size of the read buffer, in bytes: room for a hundred packets or more. It grows for a
/// larger packet.
const BUFFER_BYTES: usize = 256 * 1024;

/// A captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Time of capture, since the Unix epoch.
    pub time: Duration,
    /// The type of the first header, or the reason why the frame cannot be read.
    pub link: Result<Link, Unreadable>,
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// The length of the frame on the wire, in bytes.
    pub on_wire: usize,
    /// Length of a frame check sequence that may be at the end, in bytes.
    pub trailer: usize,
}

/// The reason why a file yields no more packets.
#[derive(Debug)]
pub enum FileFault {
    /// The file is neither pcap nor pcapng.
    NotACapture(ForeignFile),
    /// The file ends within a packet.
    Truncated,
    /// The gzip compression of the file ends too early, or is damaged.
    Compression(Compression),
    /// The file is damaged.
    Malformed(String),
    /// The file cannot be read.
    Io(io::Error),
}

impl FileFault {
    /// Returns true when the file is intact up to the place where it ends too early.
    pub fn is_cut(&self) -> bool {
        matches!(
            self,
            FileFault::Truncated | FileFault::Compression(Compression::Cut)
        )
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::NotACapture(other) => other.fmt(f),
            FileFault::Truncated => write!(f, "it ends within a packet"),
            FileFault::Compression(fault) => fault.fmt(f),
            FileFault::Malformed(why) => write!(f, "it is damaged: {why}"),
            FileFault::Io(error) => write!(f, "reading failed: {error}"),
        }
    }
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> FileFault {
        let inner = error.get_ref();
        match inner.and_then(|inner| inner.downcast_ref::<Compression>()) {
            Some(fault) => FileFault::Compression(*fault),
            None => FileFault::Io(error),
        }
    }
}

/// A fault of the compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The compressed data ends too early.
    Cut,
    /// The compressed data is inconsistent.
    Damaged,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Cut => write!(f, "it is compressed by gzip, and its end is missing"),
            Compression::Damaged => write!(f, "it is compressed by gzip, and damaged"),
        }
    }
}

impl std::error::Error for Compression {}

/// Decompresses a file. Its errors distinguish damaged data from a file that cannot be read.
struct GzipReader<R>(MultiGzDecoder<R>);

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            let fault = match error.kind() {
                _ if error.raw_os_error().is_some() => return error,
                io::ErrorKind::UnexpectedEof => Compression::Cut,
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Compression::Damaged,
                _ => return error,
            };
            io::Error::other(fault)
        })
    }
}

/// The next item of a capture file.
#[derive(Debug)]
pub enum Next<'a> {
    /// A packet, or another record that has a number.
    Frame(Frame<'a>),
    /// A record that describes others (a section, an interface, statistics), in the form in which
    /// it can be written to a file with other packets; only after [`Reader::with_descriptions`].
    Description(&'a [u8]),
    /// No complete record is buffered: call [`Reader::refill`] first.
    Starved,
    /// The end of the file.
    End,
    /// A fault after which nothing more can be read.
    Fault(FileFault),
}

/// Reads a capture file packet by packet.
pub struct Reader {
    input: Box<dyn Read + Send>,
    format: Format,
    buffer: Vec<u8>,
    /// Position in the buffer of the first byte that was not returned yet.
    start: usize,
    end: usize,
    /// Number of bytes to skip, beyond those in the buffer.
    skip: u64,
    /// Number of bytes that the record at `start` needs.
    wanted: usize,
    /// Whether the file has been read to its end.
    has_ended: bool,
    clamped: u64,
    /// Whether records that describe others are returned as well.
    has_descriptions: bool,
    /// The last packet, and the position of its record in the buffer.
    last: Option<(usize, Packet)>,
}

#[derive(Clone, Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads the beginning of a file and determines its format.
    pub fn new(mut input: impl Read + Send + 'static) -> Result<Reader, FileFault> {
        const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
        let beginning = read_beginning(&mut input)?;
        if beginning == GZIP[..2] {
            return Err(FileFault::Compression(Compression::Cut));
        }
        if !beginning.starts_with(&GZIP) {
            return Reader::plain(beginning, Box::new(input));
        }
        let compressed = Cursor::new(beginning).chain(input);
        let compressed = BufReader::with_capacity(BUFFER_BYTES, compressed);
        let mut input = GzipReader(MultiGzDecoder::new(compressed));
        let beginning = read_beginning(&mut input)?;
        Reader::plain(beginning, Box::new(input))
    }

    /// Returns a reader of uncompressed data that begins with `beginning`.
    fn plain(beginning: Vec<u8>, input: Box<dyn Read + Send>) -> Result<Reader, FileFault> {
        let header = beginning.first_chunk::<{ pcap::HEADER_BYTES }>();
        let pcap = header.and_then(Pcap::begin);
        let (format, start) = match pcap {
            Some(pcap) => (Format::Pcap(pcap), pcap::HEADER_BYTES),
            None if header.is_some() && pcapng::is_beginning(&beginning) => {
                (Format::Pcapng(Pcapng::before_the_first()), 0)
            }
            None if header.is_none() && is_beginning(&beginning) => {
                return Err(FileFault::NotACapture(ForeignFile::Cut));
            }
            None => return Err(FileFault::NotACapture(kind_of(&beginning))),
        };
        let end = beginning.len();
        let mut buffer = beginning;
        buffer.resize(BUFFER_BYTES, 0);
        Ok(Reader {
            input,
            format,
            buffer,
            start,
            end,
            skip: 0,
            wanted: 0,
            has_ended: false,
            clamped: 0,
            has_descriptions: false,
            last: None,
        })
    }

    /// Returns this reader, set to return records that describe others as well.
    pub fn with_descriptions(mut self) -> Reader {
        self.has_descriptions = true;
        self
    }

    /// Returns the next packet, if that is possible without reading more of the file.
    pub fn next_frame(&mut self) -> Next<'_> {
        let packet = loop {
            let bytes = &self.buffer[self.start..self.end];
            let ready = self.skip == 0 && !bytes.is_empty();
            let record = match &mut self.format {
                _ if !ready => Record::Incomplete(1),
                Format::Pcap(pcap) => pcap.next(bytes),
                Format::Pcapng(pcapng) => pcapng.next(bytes),
            };
            match record {
                Record::Packet(packet) => break packet,
                Record::Incomplete(wanted) => {
                    self.wanted = wanted;
                    return match self.has_ended {
                        false => Next::Starved,
                        true if self.start == self.end && self.skip == 0 => Next::End,
                        true => Next::Fault(FileFault::Truncated),
                    };
                }
                Record::Fault(why) => return Next::Fault(FileFault::Malformed(why)),
                Record::Other {
                    size,
                    is_numbered,
                    is_description,
                } => {
                    let start = self.start;
                    self.pass(size);
                    if is_numbered {
                        self.last = None;
                        return Next::Frame(NO_PACKET);
                    }
                    if is_description && self.has_descriptions {
                        let record = &mut self.buffer[start..self.start];
                        pcapng::forget_length(record);
                        return Next::Description(record);
                    }
                }
            }
        };
        Next::Frame(self.frame(packet))
    }

    fn frame(&mut self, packet: Packet) -> Frame<'_> {
        let start = self.start;
        let captured = start + packet.captured.start..start + packet.captured.end;
        self.pass(packet.size as u64);
        self.clamped += u64::from(packet.time.is_clamped);
        let (_, packet) = self.last.insert((start, packet));
        Frame {
            time: packet.time.since_1970,
            link: packet.link,
            bytes: &self.buffer[captured],
            on_wire: packet.on_wire,
            trailer: packet.trailer,
        }
    }

    /// Returns the header with which another file of the same format begins; it is empty for
    /// pcapng, which begins with a description.
    pub fn header(&self) -> Vec<u8> {
        match &self.format {
            Format::Pcap(pcap) => pcap.header().to_vec(),
            Format::Pcapng(_) => Vec::new(),
        }
    }

    /// Writes the record of the last packet, in the form for a file that begins with
    /// [`Reader::header`]. A record that was too long to be read is left out.
    pub fn write_last(&self, output: &mut impl Write) -> io::Result<()> {
        let Some((start, packet)) = &self.last else {
            return Ok(());
        };
        let Some(record) = self.buffer.get(*start..start + packet.size) else {
            return Ok(());
        };
        match &self.format {
            Format::Pcap(pcap) => {
                output.write_all(&pcap.record_header(record, packet))?;
                output.write_all(&record[packet.captured.clone()])
            }
            Format::Pcapng(_) => output.write_all(record),
        }
    }

    /// Returns a record that declares the packets dropped before the last packet, if the packet's
    /// own record declares any.
    pub fn drops_before_last(&self) -> Option<Vec<u8>> {
        match &self.format {
            Format::Pcap(_) => None,
            Format::Pcapng(pcapng) => pcapng.statistics_of_last(),
        }
    }

    /// Returns the number of packets that the file declares as dropped, as far as it was read.
    pub fn dropped(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::Pcapng(pcapng) => pcapng.drops().total(),
        }
    }

    /// Returns a sentence for each place at which the file declares dropped packets.
    pub fn drops(&self) -> Vec<String> {
        match &self.format {
            Format::Pcap(_) => Vec::new(),
            Format::Pcapng(pcapng) => pcapng.drops().clone().sentences(),
        }
    }

    /// Skips a record, part of which may not have been read yet.
    fn pass(&mut self, size: u64) {
        let there = (self.end - self.start) as u64;
        self.start += size.min(there) as usize;
        self.skip = size.saturating_sub(there);
    }

    /// Reads from the file once; this waits if the file is a pipe without data.
    pub fn refill(&mut self) -> Result<(), FileFault> {
        self.last = None;
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.wanted > self.buffer.len() {
            self.buffer.resize(self.wanted, 0);
        }
        let count = self.read_some()?;
        self.has_ended = count == 0;
        let passed = self.skip.min(count as u64);
        self.skip -= passed;
        self.start += passed as usize;
        self.end += count;
        Ok(())
    }

    fn read_some(&mut self) -> io::Result<usize> {
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => return read,
            }
        }
    }

    /// Returns the number of packets so far whose time is before 1970 or after the year 9999; for
    /// these the nearest time in that range is used.
    pub fn clamped(&self) -> u64 {
        self.clamped
    }
}

/// Returns true when these bytes, fewer than a header, may be the beginning of one.
fn is_beginning(bytes: &[u8]) -> bool {
    bytes.len() >= MAGIC_BYTES && (pcap::is_magic(bytes) || bytes.starts_with(&pcapng::MAGIC))
}

/// Number of bytes that identify the format.
const MAGIC_BYTES: usize = 4;

/// The frame that is returned for a record that has a number but is not a packet.
const NO_PACKET: Frame<'static> = Frame {
    time: Duration::ZERO,
    link: Err(Unreadable::NoPacket),
    bytes: &[],
    on_wire: 0,
    trailer: 0,
};

/// Reads enough bytes to determine the format of a file: the header of the shortest format, or all
/// of a shorter file.
fn read_beginning(input: &mut impl Read) -> Result<Vec<u8>, FileFault> {
    let mut beginning = Vec::new();
    let mut limited = input.take(pcap::HEADER_BYTES as u64);
    limited.read_to_end(&mut beginning)?;
    Ok(beginning)
}

/// Writes a pcapng file with one interface and times in nanoseconds (draft-ietf-opsawg-pcapng).
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes the beginning of a file. `link_number`: the link type of the frames. `interface`: the
    /// name of the interface.
    pub fn new(mut output: W, link_number: u16, interface: &str) -> io::Result<Writer<W>> {
        const SECTION: u32 = 0x0a0d_0d0a;
        const BYTE_ORDER: u32 = 0x1a2b_3c4d;
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]); // Version 1.0.
        body.extend(u64::MAX.to_le_bytes()); // The section's length: not specified.
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

    /// Writes the number of packets that the system dropped from the beginning of the capture to
    /// this time.
    pub fn drops(&mut self, time: Duration, count: u64) -> io::Result<()> {
        const INTERFACE_STATISTICS: u32 = 5;
        const ISB_OSDROP: u16 = 7;
        let ticks = time.as_nanos() as u64;
        let mut body = Vec::new();
        for field in [0, (ticks >> 32) as u32, ticks as u32] {
            body.extend(field.to_le_bytes());
        }
        write_option(&mut body, ISB_OSDROP, &count.to_le_bytes());
        write_option(&mut body, 0, &[]);
        write_block(&mut self.output, INTERFACE_STATISTICS, &body)
    }

    /// Flushes the output.
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

/// Pads a field to a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}
