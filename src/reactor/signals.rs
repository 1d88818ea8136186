//! Signals: taken from the process once, before its first thread, and handed to reactors.
//!
//! Signal handlers may do little more than write to a descriptor, and that is all that is done
//! here. Because every delivery leaves a byte of its own, a second signal is not lost when it
//! comes within the same turn as the first. See signal-safety(7).
//!
//! ```text
//!   prepare      SIGTERM and SIGINT end the process, however it was started
//!   Requests     a pipe of one reactor: signals, and a Remote of another thread     serve
//!   Relay        a thread that passes signals on to several reactors                load, sniff
//!   stop_flag    for work without a reactor: the second signal ends the process     send, sniff
//! ```
//!
//! With a relay, a thread that is blocked in a write to a stalled output does not keep the process
//! alive: the third signal ends it. `serve` has nothing that blocks.
//!
//! A process may be started with signals blocked or ignored by its parent. SIGTERM, SIGINT and
//! SIGUSR1 work all the same. A SIGHUP that is ignored stays ignored, as nohup(1) requires.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mio::net::UnixStream;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag::{
    BorrowSignalSafe, register, register_conditional_default, register_conditional_shutdown,
};
use signal_hook::low_level::{emulate_default_handler, pipe, unregister};

/// What a signal handler writes; a [`Remote`] that asks to stop writes the same.
const STOP: u8 = b'X';
const DRAIN: u8 = b'D';
const REPORT: u8 = b'R';
const WAKE: u8 = b'W';

/// Signals of a [`Relay`] for which the reactors end the process: in order, then at once.
const LEFT_TO_REACTORS: u32 = 2;

/// True while no command handles SIGTERM and SIGINT: they end the process.
static END_PROCESS: AtomicBool = AtomicBool::new(true);

/// Sets the signals of this process to the state that the commands expect, whatever its parent
/// left. To be called before the first thread starts.
///
/// SIGXFSZ is caught, so that a write beyond the limit on the size of files is an error like any
/// other: EFBIG, setrlimit(2).
pub fn prepare() -> io::Result<()> {
    let ours = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ];
    ours.into_iter().collect::<SigSet>().thread_unblock()?;
    register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    for signal in [SIGTERM, SIGINT] {
        end_process_on(signal, &END_PROCESS)?;
    }
    Ok(())
}

/// Makes a signal end the process while the condition holds.
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

/// Returns whether this process ignores SIGHUP, for example since it was started by nohup(1).
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}

/// Returns the signals that end a command which is not to outlive its terminal.
fn ends() -> impl Iterator<Item = i32> {
    let hangup = (!is_hangup_ignored()).then_some(SIGHUP);
    [SIGTERM, SIGINT].into_iter().chain(hangup)
}

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

    /// Wakes the reactor, without any request.
    pub fn wake(&self) {
        let _ = (&self.0).write(&[WAKE]);
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

    /// Makes each SIGTERM and SIGINT a request, for as long as the process lives.
    pub fn register_ends(&mut self) -> io::Result<()> {
        self.register(SIGTERM)?;
        self.register(SIGINT)?;
        END_PROCESS.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Makes each SIGHUP a request from now on, unless it is ignored.
    pub fn register_hangup(&mut self) -> io::Result<()> {
        match is_hangup_ignored() {
            true => Ok(()),
            false => self.register(SIGHUP),
        }
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
                            WAKE => {}
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

/// Passes signals on to reactors for as long as it exists, from a thread of its own. Afterwards
/// SIGTERM and SIGINT end the process.
#[derive(Debug)]
pub struct Relay {
    registered: Vec<SigId>,
}

impl Relay {
    /// Makes each SIGTERM, SIGINT and SIGHUP a request to these reactors to stop; the third one
    /// ends the process.
    pub fn start(reactors: Arc<[Remote]>) -> io::Result<Relay> {
        let (mut receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        let mut relay = Relay {
            registered: Vec::new(),
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
        thread::Builder::new()
            .name("signals".to_string())
            .spawn(pass_on)?;
        END_PROCESS.store(false, Ordering::SeqCst);
        Ok(relay)
    }
}

impl Drop for Relay {
    /// Drops the registration, and with it the last sender, which ends the thread.
    fn drop(&mut self) {
        END_PROCESS.store(true, Ordering::SeqCst);
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

/// Returns a flag for work that blocks outside a reactor: SIGINT, SIGTERM or SIGHUP sets it, and a
/// second one ends the process at once, as it would without the flag.
pub fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in ends() {
        end_process_on(signal, Arc::clone(&flag))?;
        register(signal, Arc::clone(&flag))?;
    }
    END_PROCESS.store(false, Ordering::SeqCst);
    Ok(flag)
}

/// Returns a descriptor that becomes readable when SIGINT, SIGTERM or SIGHUP comes, so that work
/// which waits for another one can wait for this one as well. Where it is made after [`stop_flag`],
/// the flag is set before the descriptor becomes readable.
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
