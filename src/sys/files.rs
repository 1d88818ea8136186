//! Opens files and FIFOs without blocking.
//!
//! open(2) of a FIFO for writing waits until a process opens it for reading, which may never
//! happen, and no signal ends that wait. With O_NONBLOCK it fails instead, see fifo(7).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{ENXIO, O_NONBLOCK};
use rustix::io::ioctl_fionbio;

/// Opens a file for writing: creates it, or truncates it if it exists.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = open(path, options.write(true).create(true).truncate(true))?;
    // Blocking again: a write to a FIFO waits for its reader, as usual.
    ioctl_fionbio(&file, false)?;
    Ok(file)
}

/// Opens a file for reading, also a FIFO that has no writer yet. A read of a FIFO must be preceded
/// by a poll: it returns the end of the file while there is no writer, see fifo(7).
pub fn open_for_reading(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NONBLOCK).open(path)
}

/// Opens a file for appending: creates it if it does not exist. A write that would block fails with
/// `WouldBlock`.
pub fn append(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().create(true).append(true))
}

/// Returns whether this is the path of a FIFO.
pub fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(O_NONBLOCK).open(path);
    file.map_err(|error| match error.raw_os_error() {
        // To distinguish the two would take a system call that the sandbox does not allow.
        Some(ENXIO) => {
            let text = "no process reads from this FIFO (start its reader first), or there is no \
                        such device";
            io::Error::new(error.kind(), text)
        }
        _ => error,
    })
}
