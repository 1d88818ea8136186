//! An echo server as a minimal epoll loop: no limits, no timeouts, and no counters except of its
//! own system calls. It shows the practical limit of epoll.
//!
//! All code between two system calls is inlined: returning from a function right after a system
//! call costs this loop a fifth of its speed.
//!
//! The loop is edge-triggered, registers every socket once, does not read to EAGAIN after a short
//! read, and converts in place in one shared buffer. Only bytes that the kernel does not accept at
//! once are copied.

use std::io::{self, BufRead};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};

const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS: usize = 1024;

/// The event data of the listener and of standard input. For a client it is the descriptor.
const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;

/// A client: its socket and the bytes that are still to be sent to it.
struct Client {
    socket: OwnedFd,
    pending: Vec<u8>,
    writable: bool,
}

/// Numbers of system calls so far.
#[derive(Default)]
struct Calls {
    wait: u64,
    recv: u64,
    send: u64,
}

struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// The clients, indexed by descriptor.
    clients: Vec<Option<Client>>,
    buffer: Box<[u8]>,
    calls: Calls,
    /// Time for which the CPU is kept busy after each read.
    work: Duration,
}

/// Serves until standard input ends. For each line of input, prints the numbers of its system
/// calls. After each read it keeps the CPU busy for `work`: per message, when a client has one
/// message in flight.
pub fn serve(work: Duration) -> io::Result<()> {
    let listener = super::listener()?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let readable = EventFlags::IN | EventFlags::ET;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), readable)?;
    epoll::add(
        &epoll,
        io::stdin(),
        EventData::new_u64(INPUT),
        EventFlags::IN,
    )?;
    let mut server = Server {
        epoll,
        listener: listener.into(),
        clients: Vec::new(),
        buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        calls: Calls::default(),
        work,
    };
    server.run()
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(Errno::INTR) => continue,
                waited => waited?,
            };
            self.calls.wait += 1;
            let mut has_new_clients = false;
            for event in &events {
                let flags = event.flags;
                match event.data.u64() {
                    LISTENER => has_new_clients = true,
                    INPUT if !self.print_counters()? => return Ok(()),
                    INPUT => {}
                    client => self.serve(client as usize, flags),
                }
            }
            // Only after the batch: it may still hold events of a closed descriptor, which a new
            // client could get.
            if has_new_clients {
                self.accept()?;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Err(Errno::AGAIN) => return Ok(()),
                accepted => accepted?,
            };
            let number = socket.as_raw_fd() as usize;
            epoll::add(
                &self.epoll,
                &socket,
                EventData::new_u64(number as u64),
                both,
            )?;
            if number >= self.clients.len() {
                self.clients.resize_with(number + 1, || None);
            }
            self.clients[number] = Some(Client {
                socket,
                pending: Vec::new(),
                writable: true,
            });
        }
    }

    #[inline(always)]
    fn serve(&mut self, number: usize, flags: EventFlags) {
        let Some(client) = &mut self.clients[number] else {
            return;
        };
        client.writable |= flags.contains(EventFlags::OUT);
        if client
            .echo(flags, &mut self.buffer, &mut self.calls, self.work)
            .is_err()
        {
            self.clients[number] = None;
        }
    }

    /// Reads a line of standard input and prints the counters. Returns false when the input has
    /// ended.
    fn print_counters(&self) -> io::Result<bool> {
        let mut line = String::new();
        let length = io::stdin().lock().read_line(&mut line)?;
        let Calls { wait, recv, send } = self.calls;
        println!("{wait} {recv} {send}");
        Ok(length > 0)
    }
}

impl Client {
    /// Echoes what can be read. Returns an error when the connection has ended, in order or not.
    #[inline(always)]
    fn echo(
        &mut self,
        flags: EventFlags,
        buffer: &mut [u8],
        calls: &mut Calls,
        work: Duration,
    ) -> Result<(), Errno> {
        // Data and a FIN may arrive in one event.
        let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        loop {
            if !self.pending.is_empty() {
                let pending = std::mem::take(&mut self.pending);
                self.send(&pending, calls)?;
                if !self.pending.is_empty() {
                    return Ok(());
                }
            }
            calls.recv += 1;
            let count = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => {
                    rustix::net::shutdown(&self.socket, Shutdown::Write)?;
                    return Err(Errno::PIPE);
                }
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            };
            if !work.is_zero() {
                keep_busy(work);
            }
            let bytes = &mut buffer[..count];
            bytes.make_ascii_uppercase();
            self.send(bytes, calls)?;
            if count < buffer.len() && !ends {
                return Ok(());
            }
        }
    }

    #[inline(always)]
    fn send(&mut self, bytes: &[u8], calls: &mut Calls) -> Result<(), Errno> {
        let mut sent = 0;
        if self.writable {
            calls.send += 1;
            sent = match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => 0,
                sent => sent?,
            };
            self.writable = sent == bytes.len();
        }
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}

fn keep_busy(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}
