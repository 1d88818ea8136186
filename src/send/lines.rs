//! Reads lines from a descriptor that can be polled together with other descriptors.
//!
//! A line ends with LF, and everything before it belongs to the line, including a CR and bytes that
//! are not text. The bytes after the last LF, if there are any, are a line too.
//!
//! The standard library's buffered reader is not used: it may hold a line while poll(2) reports
//! that there is nothing to read.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use log::warn;

/// The longest line that a terminal passes on, in bytes: N_TTY_BUF_SIZE less the LF. Further bytes
/// are dropped. See termios(3), canonical mode.
const TERMINAL_LINE_BYTES_MAX: usize = 4095;

/// Maximum number of bytes of one read from the descriptor.
const READ_BYTES: usize = 64 * 1024;

/// The result of a request for the next line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextLine {
    /// A line, without its LF.
    Line(Vec<u8>),
    /// The end of the input: no line follows.
    End,
    /// No line is complete: wait until the descriptor is readable, then call [`Lines::fill`].
    NotYet,
}

/// A reader of the lines of a descriptor.
#[derive(Debug)]
pub struct Lines {
    source: File,
    is_terminal: bool,
    /// Bytes that were read. Those before `taken` were returned as lines.
    buffer: Vec<u8>,
    taken: usize,
    /// Number of bytes from `taken` on that are known to contain no LF.
    searched: usize,
    has_ended: bool,
}

impl Lines {
    /// Returns the lines of this descriptor.
    pub fn new(source: OwnedFd) -> Lines {
        Lines {
            is_terminal: source.is_terminal(),
            source: File::from(source),
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            has_ended: false,
        }
    }

    /// Returns the next line, if it was read already.
    pub fn take(&mut self) -> NextLine {
        let rest = &self.buffer[self.taken..];
        let end = rest[self.searched..].iter().position(|&byte| byte == b'\n');
        let line = match end {
            Some(length) => {
                let length = self.searched + length;
                self.searched = 0;
                self.taken += length + 1;
                rest[..length].to_vec()
            }
            None if self.has_ended && rest.is_empty() => return NextLine::End,
            None if self.has_ended => {
                let line = rest.to_vec();
                self.taken = self.buffer.len();
                self.searched = 0;
                line
            }
            None => {
                self.searched = rest.len();
                return NextLine::NotYet;
            }
        };
        if self.is_terminal && line.len() == TERMINAL_LINE_BYTES_MAX {
            warn!(
                "this line has 4,095 bytes, the most that a terminal passes on, and may be cut \
                 off: send longer lines from a file or a pipe"
            );
        }
        NextLine::Line(line)
    }

    /// Reads once; blocks unless the descriptor is readable.
    pub fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let outcome = self.source.read(&mut self.buffer[filled..]);
        let count = *outcome.as_ref().unwrap_or(&0);
        self.buffer.truncate(filled + count);
        match outcome {
            Ok(count) => self.has_ended = count == 0,
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns whether an error is transient. `WouldBlock` is one of these: another process may have
/// made the descriptor non-blocking.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock)
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Returns all lines of these pieces. Each piece is written once all lines of the pieces before
    /// it were taken.
    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::new(reader.into());
        let mut pieces = pieces.iter();
        let mut writer = Some(writer);
        let mut found = Vec::new();
        loop {
            match lines.take() {
                NextLine::Line(line) => found.push(line),
                NextLine::End => return found,
                NextLine::NotYet => {
                    match (pieces.next(), &mut writer) {
                        (Some(piece), Some(writer)) => writer.write_all(piece).unwrap(),
                        _ => writer = None,
                    }
                    lines.fill().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_line_ends_with_lf_and_keeps_every_other_byte() {
        for (pieces, expected) in [
            (vec![], vec![]),
            (vec![&b"one\n"[..]], vec![&b"one"[..]]),
            (vec![b"one\ntwo"], vec![b"one", b"two"]),
            (vec![b"\n\r\n\n"], vec![b"", b"\r", b""]),
            (vec![b"a\rb\r\n"], vec![b"a\rb\r"]),
            (vec![b"on", b"e\nt", b"wo", b"\n"], vec![b"one", b"two"]),
            (vec![b"\xff\0\n"], vec![b"\xff\0"]),
        ] {
            assert_eq!(lines(&pieces), expected);
        }
    }

    #[test]
    fn a_line_may_be_longer_than_a_read() {
        let long = vec![b'x'; 3 * READ_BYTES];
        let pieces: Vec<&[u8]> = long.chunks(1000).collect();
        assert!(lines(&pieces) == std::slice::from_ref(&long));
    }
}
