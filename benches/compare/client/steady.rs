//! A load whose connections stay open, each with a fixed number of messages in flight.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::case::Case;
use crate::client::{BUFFER_BYTES, Bounds, EVENTS, Load, Times, record};

/// The connections, and one buffer for each direction.
pub struct Steady {
    case: Case,
    epoll: OwnedFd,
    links: Vec<Link>,
    events: Vec<Event>,
    message: Box<[u8]>,
    buffer: Box<[u8]>,
}

struct Link {
    socket: OwnedFd,
    writable: bool,
    /// Number of bytes still to be sent.
    unsent: usize,
    /// Number of bytes of the oldest unfinished reply that have not arrived.
    awaited: usize,
    /// Send times of the messages in flight, oldest first; empty if times are not recorded.
    sent: VecDeque<Instant>,
}

impl Steady {
    /// Opens all connections.
    pub fn connect(target: SocketAddr, case: Case) -> anyhow::Result<Steady> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let mut links = Vec::with_capacity(case.connections);
        for number in 0..case.connections {
            let socket = TcpStream::connect(target)
                .with_context(|| format!("connection {number} to {target}"))?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, EventData::new_u64(number as u64), both)?;
            links.push(Link {
                socket: socket.into(),
                writable: true,
                unsent: 0,
                awaited: case.bytes,
                sent: VecDeque::with_capacity(case.depth),
            });
        }
        Ok(Steady {
            case,
            epoll,
            links,
            events: Vec::with_capacity(EVENTS),
            message: (b'a'..=b'z').cycle().take(BUFFER_BYTES).collect(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    /// Sends the first messages of a run; returns how many.
    fn begin(&mut self, bounds: Bounds, times: &Times) -> anyhow::Result<u64> {
        let mut begun = 0;
        let depth = self.case.depth as u64;
        for link in &mut self.links {
            let count = depth.min(bounds.messages - begun);
            begun += count;
            link.queue(count as usize, self.case, times, Instant::now());
            link.send(&self.message)?;
        }
        Ok(begun)
    }
}

impl Load for Steady {
    fn run(&mut self, bounds: Bounds, times: &mut Times) -> anyhow::Result<u64> {
        let mut begun = self.begin(bounds, times)?;
        let mut answered = 0;
        let mut now = Instant::now();
        while answered < begun {
            self.events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
                Err(Errno::INTR) => continue,
                waited => waited?,
            };
            if times.is_none() {
                now = Instant::now();
            }
            for event in &self.events {
                let flags = event.flags;
                let link = &mut self.links[event.data.u64() as usize];
                link.writable |= flags.contains(EventFlags::OUT);
                let count = link.receive(&mut self.buffer, self.case.bytes)?;
                if count > 0 {
                    answered += count as u64;
                    if times.is_some() {
                        now = Instant::now();
                    }
                    link.book(count, times, now);
                    if now < bounds.end && begun < bounds.messages {
                        let count = (bounds.messages - begun).min(count as u64);
                        begun += count;
                        link.queue(count as usize, self.case, times, now);
                    }
                }
                link.send(&self.message)?;
            }
        }
        Ok(answered)
    }
}

impl Link {
    fn queue(&mut self, count: usize, case: Case, times: &Times, now: Instant) {
        self.unsent += count * case.bytes;
        if times.is_some() {
            self.sent.extend(std::iter::repeat_n(now, count));
        }
    }

    fn book(&mut self, count: usize, times: &mut Times, now: Instant) {
        for sent in self.sent.drain(..count.min(self.sent.len())) {
            record(times, sent, now);
        }
    }

    fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        while self.writable && self.unsent > 0 {
            let bytes = &message[..self.unsent.min(message.len())];
            let sent = match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => 0,
                sent => sent?,
            };
            self.writable = sent == bytes.len();
            self.unsent -= sent;
        }
        Ok(())
    }

    /// Reads until the kernel has no more data; returns how many replies were completed.
    fn receive(&mut self, buffer: &mut [u8], bytes: usize) -> anyhow::Result<usize> {
        let mut complete = 0;
        loop {
            let count = match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => bail!("the server closed a connection"),
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(complete),
                Err(error) => return Err(error.into()),
            };
            let mut left = count;
            while left >= self.awaited {
                left -= self.awaited;
                self.awaited = bytes;
                complete += 1;
            }
            self.awaited -= left;
            if count < buffer.len() {
                return Ok(complete);
            }
        }
    }
}
