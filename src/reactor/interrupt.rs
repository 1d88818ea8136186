//! Handles SIGINT, SIGTERM and SIGHUP for a program that polls descriptors outside a reactor.
//!
//! Before [`Interrupts::install`] a signal ends the process at once, since there is nothing to
//! close cleanly yet. Afterwards the first signal makes a descriptor readable, so that the program
//! can shut down cleanly; a second one ends the process at once.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::reactor::signals::{stop_flag, stop_pipe};

/// The handlers of the signals. They stay installed until the process ends.
#[derive(Debug)]
pub struct Interrupts {
    /// Readable once a signal has arrived.
    receiver: UnixStream,
}

impl Interrupts {
    /// Installs the handlers: from now on the first signal makes the descriptor readable.
    pub fn install() -> io::Result<Interrupts> {
        // The order matters: until the pipe exists, a signal must still end the process.
        let receiver = stop_pipe()?;
        stop_flag()?;
        Ok(Interrupts { receiver })
    }

    /// Consumes a signal, so that the descriptor is no longer readable.
    pub fn take(&self) -> io::Result<()> {
        (&self.receiver).read_exact(&mut [0])
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
