//! Requests from outside the loop, as bytes in a pipe: one for each signal that was delivered.
//!
//! Signal handlers may do little more than write to a descriptor, and that is all that is done
//! here. Because every delivery leaves a byte of its own, a second signal is not lost when it
//! comes within the same turn as the first. See signal-safety(7).

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mio::net::UnixStream;
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_default};
use signal_hook::low_level::{pipe, unregister};

/// What a signal handler writes; a [`Remote`] that asks to stop writes the same.
const STOP: u8 = b'X';
const DRAIN: u8 = b'D';
const REPORT: u8 = b'R';

/// The receiving end of the requests.
#[derive(Debug)]
pub struct Requests {
    receiver: UnixStream,
    sender: std::os::unix::net::UnixStream,
    registered: Vec<SigId>,
}

/// How often what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// By a signal, or by [`Remote::stop`] in its place.
    pub signals: usize,
    /// By [`Remote::drain`].
    pub drains: usize,
    /// By [`Remote::report`].
    pub reports: usize,
}

/// Asks a reactor from another thread.
#[derive(Debug)]
pub struct Remote(std::os::unix::net::UnixStream);

impl Remote {
    /// Asks it to stop, just as a signal would. A reactor that is gone already needs no request, so
    /// an error is no matter.
    pub fn stop(&self) {
        let _ = (&self.0).write(&[STOP]);
    }

    /// Asks it to come to an end in order, which asking twice does not hasten.
    pub fn drain(&self) {
        let _ = (&self.0).write(&[DRAIN]);
    }

    /// Asks it to report how it stands.
    pub fn report(&self) {
        let _ = (&self.0).write(&[REPORT]);
    }
}

impl Requests {
    /// A pipe that no signal is connected with yet.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        Ok(Requests {
            receiver: UnixStream::from_std(receiver),
            sender,
            registered: Vec::new(),
        })
    }

    /// From now on each delivery of this signal is a request.
    pub fn register(&mut self, signal: i32) -> io::Result<()> {
        let id = pipe::register(signal, self.sender.try_clone()?)?;
        self.registered.push(id);
        Ok(())
    }

    /// A handle for another thread.
    pub fn remote(&self) -> io::Result<Remote> {
        Ok(Remote(self.sender.try_clone()?))
    }

    /// The descriptor to register with the poll.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.receiver
    }

    /// What was asked for since the last call.
    pub fn take(&mut self) -> Asked {
        let mut asked = Asked::default();
        let mut bytes = [0; 64];
        loop {
            match self.receiver.read(&mut bytes) {
                Ok(0) => return asked,
                Ok(count) => {
                    for byte in &bytes[..count] {
                        match *byte {
                            DRAIN => asked.drains += 1,
                            REPORT => asked.reports += 1,
                            _ => asked.signals += 1,
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return asked,
            }
        }
    }
}

/// For work that blocks outside a reactor: SIGINT or SIGTERM sets the flag, and a second one ends
/// the process at once, as it would without this.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        register_conditional_default(signal, Arc::clone(&flag))?;
        register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

impl Drop for Requests {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}
