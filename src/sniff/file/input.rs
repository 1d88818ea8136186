//! The file or pipe that a capture is read from. A read blocks until data or a signal arrives.
//!
//! A pipe may deliver nothing for hours, and a FIFO may have no writer. Every read is preceded by a
//! poll of two descriptors: the file, and one that a signal makes readable. A FIFO is opened with
//! O_NONBLOCK, since a signal could not end an open(2) that waits for a writer; the poll waits for
//! the writer instead.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::sys::{files, poll};

/// A file that is read until its end, or until a signal arrives.
#[derive(Debug)]
pub struct Input {
    file: File,
    /// A descriptor that becomes readable when reading is to end.
    stop: OwnedFd,
}

impl Input {
    /// Opens a file, without waiting for the writer of a FIFO. `stop` becomes readable when reading
    /// is to end.
    pub fn open(path: &Path, stop: impl Into<OwnedFd>) -> io::Result<Input> {
        let file = files::open_for_reading(path)?;
        let stop = stop.into();
        Ok(Input { file, stop })
    }

    /// Returns standard input. Its blocking mode is not changed, since other processes share it.
    pub fn standard(stop: impl Into<OwnedFd>) -> io::Result<Input> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stop = stop.into();
        Ok(Input { file, stop })
    }

    /// Returns the file itself.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Read for Input {
    /// Waits for bytes or the end of the file, and reads. Fails if a signal arrives first.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if poll::readable(&[self.stop.as_fd(), self.file.as_fd()], None)? == Some(0) {
                // Not `Interrupted`, on which callers read again.
                return Err(io::Error::other("reading was interrupted by a signal"));
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => return read,
            }
        }
    }
}
