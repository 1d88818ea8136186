//! Defines the exit codes of the commands, and writes to standard output.
//!
//! One rule applies to every command when standard output cannot be written. When the reader has
//! closed it (`| head -1`), it has read enough: the command ends without a message, as if it had
//! been stopped at that point. Its exit code is 1 if something was wrong until then, 4 if a part
//! was not judged, and otherwise the ordinary one. Any other error is reported together with the
//! name of standard output, and gives exit code 3.

use std::fmt;
use std::io::{self, Write};

/// The outcome of a command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All well: exit code 0.
    Good,
    /// Something is wrong, and was reported: exit code 1.
    Bad,
    /// Nothing was found wrong, but what was measured or captured does not suffice to conclude that
    /// all is well: exit code 4.
    Inconclusive,
}

/// An error of the command line that only shows when the files that it names have been read.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The exit code of an error of the command line.
pub const USAGE: u8 = 2;

/// The exit code of a command that could not run, or failed before its end.
pub const COULD_NOT_RUN: u8 = 3;

impl Outcome {
    /// Returns the exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Good => 0,
            Outcome::Bad => 1,
            Outcome::Inconclusive => 4,
        }
    }
}

/// An output stream whose errors contain its name. A pipe without a reader gives an error of the
/// kind `BrokenPipe`, as always.
#[derive(Debug)]
pub(super) struct Named<W> {
    stream: W,
    name: &'static str,
}

impl<W: Write> Named<W> {
    /// Returns a stream with its name for error messages.
    pub(super) fn new(stream: W, name: &'static str) -> Named<W> {
        Named { stream, name }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        let text = format!("cannot write to {}: {error}", self.name);
        io::Error::new(error.kind(), text)
    }
}

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes);
        written.map_err(|error| self.explain(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.stream.flush();
        flushed.map_err(|error| self.explain(error))
    }
}

/// Returns standard output, with errors that name it.
pub(super) fn standard_output() -> Named<io::Stdout> {
    Named::new(io::stdout(), "standard output")
}

/// Writes to standard output. A closed pipe is no error, since its reader has read enough.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = standard_output();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
