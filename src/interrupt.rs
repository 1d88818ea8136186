//! SIGINT, SIGTERM and SIGHUP for a program that waits for descriptors outside a reactor.
//!
//! Before [`Interrupts::take_over`] a signal ends the process at once, since nothing has to be
//! closed in order yet. Afterwards the first signal makes a descriptor readable, and the program
//! ends in order; a second one ends the process at once.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::reactor::signals::{stop_flag, stop_pipe};

/// The handlers of the signals; they stay for as long as the process lives.
#[derive(Debug)]
pub struct Interrupts {
    /// Readable once a signal has come.
    receiver: UnixStream,
}

impl Interrupts {
    /// Installs the handlers: from now on the first signal makes the descriptor readable.
    pub fn take_over() -> io::Result<Interrupts> {
        // The order matters: until the pipe is there, a signal still ends the process.
        let receiver = stop_pipe()?;
        stop_flag()?;
        Ok(Interrupts { receiver })
    }

    /// Consumes a signal, so that the descriptor is readable no more.
    pub fn take(&self) -> io::Result<()> {
        (&self.receiver).read_exact(&mut [0])
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
