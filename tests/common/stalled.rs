//! Outputs, such as full pipes, whose reader does not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::Temporary;

/// Returns a full pipe.
pub fn pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    fill(&writer);
    (reader, writer)
}

/// Creates a named pipe, which no process has opened.
pub fn fifo() -> Temporary {
    let path = Temporary::new(b"");
    std::fs::remove_file(&path.0).unwrap();
    mkfifo(&path.0, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    path
}

/// Creates a named pipe that is open at both ends and full.
pub fn full_fifo() -> (Temporary, File) {
    let path = fifo();
    // On Linux, opening a pipe for reading and writing never blocks, fifo(7).
    let both = File::options()
        .read(true)
        .write(true)
        .open(&path.0)
        .unwrap();
    fill(&both);
    (path, both)
}

/// Writes empty lines to a pipe or a terminal until there is no room.
pub fn fill(output: &impl AsRawFd) {
    // It is opened again because O_NONBLOCK belongs to the open file description, which other
    // processes may share.
    let mut options = File::options();
    options.write(true).custom_flags(O_NONBLOCK | O_NOCTTY);
    let path = format!("/proc/self/fd/{}", output.as_raw_fd());
    let mut output = options.open(path).unwrap();
    for piece in [4096, 1] {
        while output.write(&vec![b'\n'; piece]).is_ok() {}
    }
}

/// Reads to the end and returns the lines that are not empty.
pub fn lines(mut reader: impl Read) -> Vec<String> {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(str::to_string).collect()
}
