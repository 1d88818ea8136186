//! Builds capture files of every kind, and reads the frames of a file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use upcase::sniff::file::{Next, Reader, Writer};

/// Frames, each with its time since 1970.
pub type Frames = Vec<(Duration, Vec<u8>)>;

/// Returns the frames of a file; panics if the file is damaged.
pub fn frames_of(file: &Path) -> Frames {
    let mut reader = Reader::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Next::Frame(frame) => frames.push((frame.time, frame.bytes.to_vec())),
            Next::Starved => reader.refill().unwrap(),
            Next::End => return frames,
            Next::Description(_) => {}
            Next::Fault(fault) => panic!("{fault}"),
        }
    }
}

/// Gives the frames times that are a millisecond apart.
pub fn timed(frames: &[Vec<u8>]) -> Frames {
    let times = (0..).map(|number| Duration::from_millis(1_700_000_000_000 + number));
    times.zip(frames.iter().cloned()).collect()
}

/// Returns a pcapng file as `--write` writes it.
pub fn pcapng(link: u16, frames: &[(Duration, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, link, "wire").unwrap();
    for (time, frame) in frames {
        writer.write(*time, frame).unwrap();
    }
    file
}

/// A variant of the pcap format.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub big_endian: bool,
    pub magic: u32,
    pub version: (u16, u16),
    /// Whether the length on the wire precedes the captured length.
    pub swapped: bool,
    pub link: u32,
    /// Bytes between the header of a record and its packet.
    pub extra: usize,
    /// Number of bytes of each packet that were on the wire and are not captured.
    pub cut: u32,
}

/// The magic number of files with times in nanoseconds.
pub const NANOSECONDS: u32 = 0xa1b2_3c4d;

impl Shape {
    /// Returns the usual variant, with this link type.
    pub fn plain(link: u32) -> Shape {
        Shape {
            big_endian: false,
            magic: 0xa1b2_c3d4,
            version: (2, 4),
            swapped: false,
            link,
            extra: 0,
            cut: 0,
        }
    }

    fn word(&self, value: u32) -> [u8; 4] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    fn half(&self, value: u16) -> [u8; 2] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    /// Returns a file in this variant.
    pub fn file(&self, frames: &[(Duration, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(self.word(self.magic));
        file.extend(self.half(self.version.0));
        file.extend(self.half(self.version.1));
        let fields = [0, 0, 65_535, self.link].map(|field| self.word(field));
        file.extend(fields.concat());
        for (time, frame) in frames {
            let fraction = match self.magic {
                NANOSECONDS => time.subsec_nanos(),
                _ => time.subsec_micros(),
            };
            let mut lengths = [frame.len() as u32, frame.len() as u32 + self.cut];
            if self.swapped {
                lengths.reverse();
            }
            let fields = [time.as_secs() as u32, fraction, lengths[0], lengths[1]];
            file.extend(fields.map(|field| self.word(field)).concat());
            file.extend(&[0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0][..self.extra]);
            file.extend(frame);
        }
        file
    }
}

/// A pcapng file that is built block by block, in either byte order.
#[derive(Clone, Debug)]
pub struct Blocks {
    big_endian: bool,
    pub file: Vec<u8>,
}

/// An option of a block: its code and its value.
pub type Choice<'a> = (u16, &'a [u8]);

impl Blocks {
    /// Begins a file with a section header block.
    pub fn new(big_endian: bool) -> Blocks {
        let mut blocks = Blocks {
            big_endian,
            file: Vec::new(),
        };
        blocks.section();
        blocks
    }

    pub fn section(&mut self) {
        let body = [
            &self.words(&[0x1a2b_3c4d])[..],
            &self.halves(&[1, 0]),
            &[0xff; 8],
        ]
        .concat();
        self.block(0x0a0d_0d0a, &body);
    }

    pub fn words(&self, values: &[u32]) -> Vec<u8> {
        let order = |value: &u32| match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        };
        values.iter().flat_map(order).collect()
    }

    pub fn halves(&self, values: &[u16]) -> Vec<u8> {
        let order = |value: &u16| match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        };
        values.iter().flat_map(order).collect()
    }

    /// Encodes a number of eight bytes.
    pub fn long(&self, value: u64) -> [u8; 8] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    pub fn block(&mut self, kind: u32, body: &[u8]) {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = body.len() as u32 + 12;
        let head = self.words(&[kind, length]);
        let tail = self.words(&[length]);
        self.file.extend([head, body, tail].concat());
    }

    /// Encodes options and the end-of-options mark; returns nothing if there are none.
    fn options(&self, options: &[Choice<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (code, value) in options {
            bytes.extend(self.halves(&[*code, value.len() as u16]));
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let end = if options.is_empty() { 0 } else { 4 };
        bytes.resize(bytes.len() + end, 0);
        bytes
    }

    pub fn interface(&mut self, link: u16, options: &[Choice<'_>]) {
        let body = [
            self.halves(&[link, 0]),
            self.words(&[0]),
            self.options(options),
        ];
        self.block(1, &body.concat());
    }

    pub fn packet(&mut self, interface: u32, ticks: u64, frame: &[u8]) {
        self.packet_with(interface, ticks, frame, &[]);
    }

    pub fn packet_with(
        &mut self,
        interface: u32,
        ticks: u64,
        frame: &[u8],
        options: &[Choice<'_>],
    ) {
        let length = frame.len() as u32;
        let fields = [
            interface,
            (ticks >> 32) as u32,
            ticks as u32,
            length,
            length,
        ];
        let mut body = [&self.words(&fields)[..], frame].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(self.options(options));
        self.block(6, &body);
    }

    /// Adds an obsolete packet block; `drops` is the number of packets dropped before it.
    pub fn obsolete_packet(&mut self, interface: u16, drops: u16, ticks: u64, frame: &[u8]) {
        let length = frame.len() as u32;
        let fields = self.words(&[(ticks >> 32) as u32, ticks as u32, length, length]);
        let body = [&self.halves(&[interface, drops])[..], &fields, frame].concat();
        self.block(2, &body);
    }

    /// Adds an interface statistics block.
    pub fn statistics(&mut self, interface: u32, ticks: u64, options: &[Choice<'_>]) {
        let fields = [interface, (ticks >> 32) as u32, ticks as u32];
        let body = [self.words(&fields), self.options(options)].concat();
        self.block(5, &body);
    }

    pub fn simple_packet(&mut self, frame: &[u8]) {
        let body = [&self.words(&[frame.len() as u32])[..], frame].concat();
        self.block(3, &body);
    }
}

/// Compresses bytes with gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
