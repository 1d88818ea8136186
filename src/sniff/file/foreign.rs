//! Recognizes files that are neither pcap nor pcapng by their first bytes, and names the command
//! that converts them to a capture. Pure.

use std::fmt;

/// The kind of a file that is not a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFile {
    /// The kind is not known.
    Unknown,
    /// Empty.
    Empty,
    /// It ends within the header of a format that is read.
    Cut,
    /// A kind that is known: its name, and the program that unpacks or converts it.
    Known(&'static str, &'static str),
}

/// The end of the command line that reads such a file. `FILE` in it stands for the file's name.
const THEN: &str = "| upcase sniff --read -";

impl fmt::Display for ForeignFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForeignFile::Unknown => write!(f, "it is neither pcap nor pcapng"),
            ForeignFile::Empty => write!(f, "it is empty"),
            ForeignFile::Cut => write!(f, "it ends within its header"),
            ForeignFile::Known(what, program @ "editcap -F pcapng") => {
                write!(f, "it is {what}: {program} FILE - {THEN}")
            }
            ForeignFile::Known(what, program) => write!(f, "it is {what}: {program} FILE {THEN}"),
        }
    }
}

const EDITCAP: &str = "editcap -F pcapng";

/// First bytes, name and program of each known kind.
#[rustfmt::skip]
const KINDS: [(&[u8], &str, &str); 16] = [
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "lz4-compressed", "lz4 -dc"),
    (b"\x02\x21\x4c\x18", "lz4-compressed", "lz4 -dc"),
    (b"\xfd7zXZ\0", "xz-compressed", "xz -dc"),
    (b"BZh", "bzip2-compressed", "bzip2 -dc"),
    (b"LZIP", "lzip-compressed", "lzip -dc"),
    (b"\x5d\0\0", "lzma-compressed", "xz -dc"),
    (b"\x1f\x9d", "compressed (.Z)", "gzip -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so"),
    (b"\x1f\x8b", "gzip-compressed twice, or damaged", "gzip -dc"),
    (b"snoop\0\0\0", "a snoop capture", EDITCAP),
    (b"GMBU", "a capture of NetMon", EDITCAP),
    (b"RTSS", "a capture of NetMon", EDITCAP),
    (b"TRSNIFF", "a capture of Sniffer", EDITCAP),
    (b"XCP\0", "a capture of NetXRay", EDITCAP),
];

/// Magic numbers of other kinds of pcap: of FMESQUITA, NAVTEL and IXIA.
const OTHER_PCAP: [u32; 4] = [0xa1b2_34cd, 0xa12b_3c4d, 0x1c00_01ac, 0x1c00_01ab];

/// Returns the kind of a file that is neither pcap nor pcapng, as far as its first bytes show it.
pub fn kind_of(beginning: &[u8]) -> ForeignFile {
    let known = KINDS
        .iter()
        .find(|(magic, ..)| beginning.starts_with(magic));
    if let Some((_, what, program)) = known {
        return ForeignFile::Known(what, program);
    }
    let Some(word) = beginning.first_chunk::<4>() else {
        return if beginning.is_empty() {
            ForeignFile::Empty
        } else {
            ForeignFile::Unknown
        };
    };
    let numbers = [u32::from_le_bytes(*word), u32::from_be_bytes(*word)];
    // Files of zstd and lz4 may begin with skippable frames.
    if (0x184d_2a50..=0x184d_2a5f).contains(&numbers[0]) {
        return ForeignFile::Known("compressed by zstd or lz4", "zstd -dc");
    }
    if numbers.iter().any(|number| OTHER_PCAP.contains(number)) {
        return ForeignFile::Known("an unsupported variant of pcap", EDITCAP);
    }
    ForeignFile::Unknown
}
