//! Files to write to. Opening one never waits.
//!
//! open(2) of a FIFO waits for its reader, which may never come, and no signal ends that wait. With
//! O_NONBLOCK it fails instead, see fifo(7).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{ENXIO, O_NONBLOCK};
use rustix::io::ioctl_fionbio;

/// Opens a file for writing from its start: it is created, or emptied.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = open(path, options.write(true).create(true).truncate(true))?;
    // A write waits for the reader of a FIFO as usual.
    ioctl_fionbio(&file, false)?;
    Ok(file)
}

/// Opens a file for writing at its end: it is created when it is not there. Where a write would
/// have to wait, it fails with `WouldBlock`.
pub fn append(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().create(true).append(true))
}

/// Returns whether there is a FIFO of this name.
pub fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(O_NONBLOCK).open(path);
    file.map_err(|error| match error.raw_os_error() {
        // Which of the two it is would take a system call that the sandbox does not allow.
        Some(ENXIO) => {
            let text = "nobody reads this FIFO, start its reader first; or the device is not there";
            io::Error::new(error.kind(), text)
        }
        _ => error,
    })
}
