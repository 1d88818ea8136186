//! A load with a new connection for every message: connect, echo, close in order.
//!
//! The client closes first, so that TIME_WAIT is on its side. On the loopback the kernel reuses
//! such ports after a second (sysctl net.ipv4.tcp_tw_reuse).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Context;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, socket_with, sockopt,
};

use crate::case::Case;
use crate::client::{BUFFER_BYTES, Bounds, EVENTS, Load, Times, record};

/// A fixed number of places, each with one connection after the other.
pub struct Churn {
    case: Case,
    target: SocketAddr,
    epoll: OwnedFd,
    places: Vec<Option<Link>>,
    message: Box<[u8]>,
    buffer: Box<[u8]>,
}

struct Link {
    socket: OwnedFd,
    began: Instant,
    is_sent: bool,
    awaited: usize,
}

impl Churn {
    /// Creates the load; opens no connection yet.
    pub fn new(target: SocketAddr, case: Case) -> anyhow::Result<Churn> {
        Ok(Churn {
            case,
            target,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            places: (0..case.connections).map(|_| None).collect(),
            message: (b'a'..=b'z').cycle().take(case.bytes).collect(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        })
    }

    fn open(&mut self, place: usize) -> anyhow::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &self.target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            failed => failed.with_context(|| format!("cannot connect to {}", self.target))?,
        }
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(place as u64), both)?;
        self.places[place] = Some(Link {
            socket,
            began: Instant::now(),
            is_sent: false,
            awaited: self.case.bytes,
        });
        Ok(())
    }

    /// Handles the events of a connection. Returns true when the server has closed the connection.
    fn advance(&mut self, place: usize, flags: EventFlags) -> anyhow::Result<bool> {
        let Some(link) = &mut self.places[place] else {
            return Ok(false);
        };
        if !link.is_sent && flags.contains(EventFlags::OUT) {
            // The send buffer of a new socket has room for a small message.
            rustix::net::send(&link.socket, &self.message, SendFlags::NOSIGNAL)
                .context("a connection was not established")?;
            link.is_sent = true;
        }
        if !flags.contains(EventFlags::IN) {
            return Ok(false);
        }
        loop {
            match rustix::net::recv(&link.socket, &mut *self.buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(true),
                Ok((count, _)) => {
                    link.awaited -= count;
                    if link.awaited == 0 {
                        rustix::net::shutdown(&link.socket, Shutdown::Write)?;
                    }
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Load for Churn {
    fn run(&mut self, bounds: Bounds, times: &mut Times) -> anyhow::Result<u64> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let (mut begun, mut ended) = (0, 0);
        while begun < bounds.messages.min(self.places.len() as u64) {
            self.open(begun as usize)?;
            begun += 1;
        }
        while ended < begun {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(Errno::INTR) => continue,
                waited => waited?,
            };
            for event in &events {
                let flags = event.flags;
                let place = event.data.u64() as usize;
                if !self.advance(place, flags)? {
                    continue;
                }
                ended += 1;
                let now = Instant::now();
                if let Some(link) = self.places[place].take() {
                    record(times, link.began, now);
                }
                if now < bounds.end && begun < bounds.messages {
                    self.open(place)?;
                    begun += 1;
                }
            }
        }
        Ok(ended)
    }
}
