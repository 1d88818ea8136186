//! Signals: handlers are installed before the first thread starts, and notify reactors.
//!
//! A signal handler may do little more than write to a descriptor, and the handlers here do only
//! that. Each signal writes a byte of its own, so that a second one is not lost when it arrives in
//! the same turn as the first. See signal-safety(7).
//!
//! ```text
//!   prepare      SIGTERM and SIGINT end the process, whatever its parent has set
//!   Requests     a socket pair of one reactor: signals, and other threads' Remotes  serve
//!   Relay        a thread that passes signals on to several reactors                load, sniff
//!   Noted        a flag for the time of several runs with a Relay each              load, duel
//!   stop_flag    for work without a reactor: the second signal ends the process     send, sniff
//! ```
//!
//! With a relay, a thread that is blocked in a write to a stalled output does not keep the process
//! alive: the third signal ends it. `serve` never blocks outside its reactor.
//!
//! A process may be started with signals blocked or ignored by its parent. SIGTERM, SIGINT and
//! SIGUSR1 work all the same. A SIGHUP that is ignored stays ignored, as nohup(1) requires.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag::{
    BorrowSignalSafe, register, register_conditional_default, register_conditional_shutdown,
};
use signal_hook::low_level::{emulate_default_handler, pipe, unregister};

use crate::sys::thread;

/// Requests, as the bytes that are written to a reactor. A signal handler writes [`STOP`].
const STOP: u8 = b'X';
const DRAIN: u8 = b'D';
const REPORT: u8 = b'R';
const WAKE: u8 = b'W';

/// Number of signals that a [`Relay`] leaves to the reactors: the first makes them drain, the
/// second makes them stop at once.
const LEFT_TO_REACTORS: u32 = 2;

/// True while no command handles SIGTERM and SIGINT: they end the process.
static END_PROCESS: AtomicBool = AtomicBool::new(true);

/// Sets the signal dispositions and the mask that the commands expect, whatever the parent process
/// left. Must be called before the first thread starts.
///
/// SIGXFSZ is caught, so that a write beyond the limit on the size of files is an error like any
/// other: EFBIG, setrlimit(2).
pub fn prepare() -> io::Result<()> {
    thread::unblock(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    for signal in [SIGTERM, SIGINT] {
        end_process_on(signal, &END_PROCESS)?;
    }
    Ok(())
}

/// Makes a signal end the process while `condition` is set.
fn end_process_on<T>(signal: i32, condition: T) -> io::Result<SigId>
where
    T: BorrowSignalSafe<AtomicBool> + Send + Sync + 'static,
{
    if std::process::id() == 1 {
        // The kernel does not apply the default action of a signal to the first process of a
        // container.
        register_conditional_shutdown(signal, 128 + signal, condition)
    } else {
        register_conditional_default(signal, condition)
    }
}

/// Returns the signals that end a command which must not outlive its terminal.
fn ends() -> impl Iterator<Item = i32> {
    let hangup = (!thread::is_ignored(SIGHUP)).then_some(SIGHUP);
    [SIGTERM, SIGINT].into_iter().chain(hangup)
}

/// The receiving end of the requests to one reactor.
#[derive(Debug)]
pub struct Requests {
    receiver: UnixStream,
    sender: std::os::unix::net::UnixStream,
    registered: Vec<SigId>,
}

/// Number of requests, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// Requests by a signal, and by [`Remote::stop`].
    pub signals: usize,
    /// Requests by [`Remote::drain`].
    pub drains: usize,
    /// Requests by [`Remote::report`].
    pub reports: usize,
}

/// Sends requests to a reactor from another thread.
#[derive(Debug)]
pub struct Remote(std::os::unix::net::UnixStream);

impl Remote {
    /// Requests a stop, as a signal does. A reactor that has ended needs no request, so that errors
    /// are ignored.
    pub fn stop(&self) {
        let _ = (&self.0).write(&[STOP]);
    }

    /// Requests a drain. A second request does not shorten it.
    pub fn drain(&self) {
        let _ = (&self.0).write(&[DRAIN]);
    }

    /// Wakes the reactor without a request.
    pub fn wake(&self) {
        let _ = (&self.0).write(&[WAKE]);
    }

    /// Requests a snapshot.
    pub fn report(&self) {
        let _ = (&self.0).write(&[REPORT]);
    }
}

impl Requests {
    /// Creates a socket pair that no signal writes to yet. Errors: see socketpair(2).
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

    /// Makes each delivery of this signal a request, until this is dropped.
    pub fn register(&mut self, signal: i32) -> io::Result<()> {
        let id = pipe::register(signal, self.sender.try_clone()?)?;
        self.registered.push(id);
        Ok(())
    }

    /// Makes each SIGTERM and SIGINT a request, for as long as the process lives.
    pub fn register_ends(&mut self) -> io::Result<()> {
        self.register(SIGTERM)?;
        self.register(SIGINT)?;
        END_PROCESS.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Makes each SIGHUP a request from now on, unless it is ignored.
    pub fn register_hangup(&mut self) -> io::Result<()> {
        match thread::is_ignored(SIGHUP) {
            true => Ok(()),
            false => self.register(SIGHUP),
        }
    }

    /// Returns a handle with which another thread sends requests.
    pub fn remote(&self) -> io::Result<Remote> {
        Ok(Remote(self.sender.try_clone()?))
    }

    /// Returns the source to register with the poll.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.receiver
    }

    /// Returns the requests that arrived since the last call.
    pub fn take(&mut self) -> Requested {
        let mut requested = Requested::default();
        let mut bytes = [0; 64];
        loop {
            match self.receiver.read(&mut bytes) {
                Ok(0) => return requested,
                Ok(count) => {
                    for byte in &bytes[..count] {
                        match *byte {
                            DRAIN => requested.drains += 1,
                            REPORT => requested.reports += 1,
                            WAKE => {}
                            _ => requested.signals += 1,
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return requested,
            }
        }
    }
}

/// Passes signals on to reactors from a thread of its own. After it is dropped, SIGTERM and SIGINT
/// end the process, if they did before.
#[derive(Debug)]
pub struct Relay {
    registered: Vec<SigId>,
    /// Whether SIGTERM and SIGINT ended the process before.
    ended_process: bool,
}

/// Notes SIGTERM, SIGINT and SIGHUP for a command that carries out several runs, each with a
/// [`Relay`]: between two runs they do not end the process. After it is dropped, SIGTERM and SIGINT
/// end the process.
#[derive(Debug)]
pub struct Noted {
    flag: Arc<AtomicBool>,
    registered: Vec<SigId>,
}

impl Noted {
    /// Notes each signal from now on.
    pub fn start() -> io::Result<Noted> {
        let mut noted = Noted {
            flag: Arc::new(AtomicBool::new(false)),
            registered: Vec::new(),
        };
        for signal in ends() {
            let id = register(signal, Arc::clone(&noted.flag))?;
            noted.registered.push(id);
        }
        END_PROCESS.store(false, Ordering::SeqCst);
        Ok(noted)
    }

    /// Returns whether a signal has arrived.
    pub fn any(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        END_PROCESS.store(true, Ordering::SeqCst);
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

impl Relay {
    /// Passes each SIGTERM, SIGINT and SIGHUP on to these reactors as a request to stop; the third
    /// signal ends the process.
    pub fn start(reactors: Arc<[Remote]>) -> io::Result<Relay> {
        let (mut receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        let mut relay = Relay {
            registered: Vec::new(),
            ended_process: END_PROCESS.load(Ordering::SeqCst),
        };
        for signal in ends() {
            let id = pipe::register(signal, sender.try_clone()?)?;
            relay.registered.push(id);
        }
        let pass_on = move || {
            let mut count = 0;
            while receiver.read_exact(&mut [0]).is_ok() {
                count += 1;
                if count > LEFT_TO_REACTORS {
                    let _ = emulate_default_handler(SIGTERM);
                }
                reactors.iter().for_each(Remote::stop);
            }
        };
        std::thread::Builder::new()
            .name("signals".to_string())
            .spawn(pass_on)?;
        END_PROCESS.store(false, Ordering::SeqCst);
        Ok(relay)
    }
}

impl Drop for Relay {
    /// Removes the handlers and with them the last sender, which ends the thread.
    fn drop(&mut self) {
        END_PROCESS.store(self.ended_process, Ordering::SeqCst);
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

/// Returns a flag for work that blocks outside a reactor. SIGINT, SIGTERM or SIGHUP sets it; a
/// second signal ends the process at once.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in ends() {
        end_process_on(signal, Arc::clone(&flag))?;
        register(signal, Arc::clone(&flag))?;
    }
    END_PROCESS.store(false, Ordering::SeqCst);
    Ok(flag)
}

/// Returns a descriptor that becomes readable when SIGINT, SIGTERM or SIGHUP arrives, for work that
/// waits for other descriptors as well. If [`stop_flag`] was called before, its flag is set before
/// the descriptor becomes readable.
pub fn stop_pipe() -> io::Result<std::os::unix::net::UnixStream> {
    let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    for signal in ends() {
        pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

impl Drop for Requests {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}
