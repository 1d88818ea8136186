//! Requests to stop, as bytes in a pipe: one for each signal that was delivered.
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

/// The receiving end of the requests.
#[derive(Debug)]
pub struct Signals {
    receiver: UnixStream,
    sender: std::os::unix::net::UnixStream,
    registered: Vec<SigId>,
}

/// Asks a reactor to stop from another thread, just as a signal would.
#[derive(Debug)]
pub struct Stopper(std::os::unix::net::UnixStream);

impl Stopper {
    /// Sends one request. A reactor that is gone already needs none, so an error is no matter.
    pub fn stop(&self) {
        let _ = (&self.0).write(b"X");
    }
}

impl Signals {
    /// A pipe that no signal is connected with yet.
    pub fn new() -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        Ok(Signals {
            receiver: UnixStream::from_std(receiver),
            sender,
            registered: Vec::new(),
        })
    }

    /// From now on SIGINT and SIGTERM are requests to stop.
    pub fn register(&mut self) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            let id = pipe::register(signal, self.sender.try_clone()?)?;
            self.registered.push(id);
        }
        Ok(())
    }

    /// A handle for another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.sender.try_clone()?))
    }

    /// The descriptor to register with the poll.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.receiver
    }

    /// How many requests have come since the last call.
    pub fn take(&mut self) -> usize {
        let mut requests = 0;
        let mut bytes = [0; 64];
        loop {
            match self.receiver.read(&mut bytes) {
                Ok(0) => return requests,
                Ok(count) => requests += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return requests,
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

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}
