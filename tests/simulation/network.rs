//! Simulates the network, the server in it, and the client's sockets, in virtual time.
//! The engine of the load generator runs on it instead of the kernel.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use upcase::load::engine::world::{KernelTimes, Socket, Timer, World};
use upcase::load::results::ErrorKind;
use upcase::load::results::evidence::Path;
use upcase::load::results::step::{Failure, Step};
use upcase::reactor::slots::Token;
use upcase::stream::{Hints, Stream};

use crate::chance::Chance;
use crate::faults::Faults;

/// An event of the network that lies in the future.
#[derive(Debug)]
pub enum Happening {
    /// The handshake of a connection is over.
    Connected(usize),
    Refused(usize),
    /// The server's bytes arrive.
    Arrives(usize, Vec<u8>),
    /// The client's bytes leave its send buffer.
    Taken(usize, usize),
    /// The server's FIN arrives.
    Ends(usize),
    Resets(usize),
    /// The server dies: all connections are reset.
    Dies,
    Timer(Timer),
    /// A request to stop.
    Stop,
}

/// The client's end of a connection, as its kernel sees it.
#[derive(Debug, Default)]
pub struct End {
    pub token: Option<Token>,
    target: Option<SocketAddr>,
    up: bool,
    refused: bool,
    reset: bool,
    pub inbound: VecDeque<u8>,
    pub ended: bool,
    pub room: usize,
    short_of_room: bool,
    fin_sent: bool,
    pub closed: bool,
    /// The number of bytes that the server has received and answers, and the offset of the first
    /// wrong one, if there is one.
    served: u64,
    pub wrong_at: Option<u64>,
    /// The number of bytes that the client has read, and of those before its FIN the number before
    /// the first wrong one.
    delivered: u64,
    pub right: u64,
    /// The fault that the client must report for the bytes that it has read.
    pub fault: Option<ErrorKind>,
    last_arrival: Option<Instant>,
    pub edges: Hints,
    /// The state of its path in the kernel, as of the acknowledgments that have arrived.
    pub path: Path,
    /// The time at which data left last, and the bytes in the send buffer with the times at which
    /// they leave.
    left_at: Option<Instant>,
    leaving: VecDeque<(Instant, u64)>,
    /// The last window: the time at which it leaves, and its bytes.
    window: Option<(Instant, u64)>,
    /// Future acknowledgments: their times, their round trips, and the bytes that they acknowledge.
    acknowledgments: VecDeque<(Instant, Duration, u64)>,
}

/// The network and the server in it.
#[derive(Debug)]
pub struct Net {
    pub begun: Instant,
    /// The target that may be slow or die.
    pub last_target: SocketAddr,
    pub happenings: BTreeMap<(Instant, u64), Happening>,
    pub order: u64,
    pub ends: Vec<End>,
    pub chance: Chance,
    pub faults: Faults,
    pub ever_up: bool,
    /// The maximum number of bytes that a connection may have in flight.
    pub in_flight_most: u64,
    /// The number of calls that were made to fail.
    pub failed: BTreeMap<Step, u64>,
    /// The time of the server's last close, and the number of its closes.
    pub closed: (Option<Instant>, usize),
}

/// The error of a call that was made to fail.
pub const ENOBUFS: i32 = 105;

/// The world of the engine: virtual time, and the network.
#[derive(Clone, Debug)]
pub struct Virtual {
    /// The CPU time of the client.
    pub worked: Rc<Cell<Duration>>,
    pub now: Rc<Cell<Instant>>,
    pub net: Rc<RefCell<Net>>,
}

#[derive(Debug)]
pub struct Wire {
    number: usize,
    world: Virtual,
}

impl End {
    /// Records that the client has read this many more bytes.
    fn was_read(&mut self, count: u64) {
        self.delivered += count;
        if !self.fin_sent {
            self.right = self.delivered.min(self.wrong_at.unwrap_or(u64::MAX));
        }
        // Bytes after the client's FIN are counted, and no longer compared.
        let differs = !self.fin_sent && self.right < self.delivered.min(self.served);
        let fault = match differs {
            true => Some(ErrorKind::WrongReply),
            false if self.delivered > self.served => Some(ErrorKind::SurplusBytes),
            false => None,
        };
        self.fault = self.fault.or(fault);
    }
}

impl Virtual {
    /// Advances the time while the client works.
    pub fn spend(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.worked.set(self.worked.get() + time);
    }
}

impl Net {
    /// Makes one in [`Faults::fails`] calls of this step fail.
    fn may_fail(&mut self, step: Step) -> io::Result<()> {
        if self.faults.fails > 0 && self.chance.one_in(self.faults.fails) {
            *self.failed.entry(step).or_default() += 1;
            return Err(io::Error::from_raw_os_error(ENOBUFS));
        }
        Ok(())
    }

    /// Returns how much longer than usual the path takes for what is sent now and its reply, whose
    /// acknowledgment arrives with it.
    fn delayed(&mut self, number: usize, now: Instant) -> Duration {
        /// The smallest retransmission timeout.
        const RTO: Duration = Duration::from_millis(200);
        let path = &mut self.ends[number].path;
        path.segments += 1;
        if self.faults.loses > 0 && self.chance.one_in(self.faults.loses) {
            path.resent += 1;
            path.resent_in_vain += 1;
            return RTO;
        }
        self.longer(now)
    }

    /// Returns how much longer than usual the path is now.
    fn longer(&self, now: Instant) -> Duration {
        match self.faults.way {
            Some((from, length, longer)) if now >= self.begun + from => {
                let is_over = now >= self.begun + from + length;
                if is_over { Duration::ZERO } else { longer }
            }
            _ => Duration::ZERO,
        }
    }

    /// Sends bytes, a window in each round trip. Returns the time at which the last ones leave.
    fn leave(&mut self, number: usize, bytes: u64, now: Instant, round_trip: Duration) -> Instant {
        let end = &mut self.ends[number];
        let most = self.faults.window;
        let mut left = bytes;
        loop {
            let open = end.window.filter(|(at, _)| *at + round_trip > now);
            let (at, used) = match open {
                None => (now, 0),
                Some((at, used)) if used == most => (at + round_trip, 0),
                Some(window) => window,
            };
            let count = left.min(most - used);
            let leaves = at.max(now);
            end.window = Some((at, used + count));
            end.leaving.push_back((leaves, count));
            // The kernel of the server acknowledges also while its program is frozen.
            let acknowledged = (leaves + round_trip, round_trip, count);
            end.acknowledgments.push_back(acknowledged);
            left -= count;
            if left == 0 {
                return leaves;
            }
        }
    }

    /// Returns whether the server of a connection is dead.
    fn is_dead(&self, target: SocketAddr, now: Instant) -> bool {
        let dead = |(from, length): (Duration, Option<Duration>)| {
            let from = self.begun + from;
            now >= from && length.is_none_or(|length| now < from + length)
        };
        target == self.last_target && self.faults.dies.is_some_and(dead)
    }

    /// Returns the time at which the server's FIN arrives at a client that has closed; `None`:
    /// never.
    fn next_close(&mut self, at: Instant) -> Option<Instant> {
        let (gap, most) = self.faults.closes;
        if self.closed.1 == most {
            return None;
        }
        if gap.is_zero() {
            return Some(at);
        }
        let at = self.closed.0.map_or(at, |last| at.max(last + gap));
        self.closed = (Some(at), self.closed.1 + 1);
        Some(at)
    }

    pub fn later(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    /// Returns a time, or the end of the freeze if the time lies behind its beginning.
    fn thawed(&self, at: Instant) -> Instant {
        match self.faults.freeze {
            Some((from, length)) if at >= self.begun + from => at.max(self.begun + from + length),
            _ => at,
        }
    }

    /// Lets the server read what a client sent, and reply.
    fn serve(&mut self, number: usize, bytes: &[u8], now: Instant) {
        let (least, most) = self.faults.delay;
        let mut at = now + self.chance.microseconds(least, most);
        let (count, slower) = self.faults.slow;
        if number < count {
            at += slower;
        }
        if self.ends[number].target == Some(self.last_target) {
            at += self.faults.slow_target;
        }
        at = self.thawed(at);
        let spoil = self.faults.spoils > 0 && self.chance.one_in(self.faults.spoils);
        let mut reply = bytes.to_ascii_uppercase();
        if spoil {
            let place = self.chance.below(reply.len() as u64) as usize;
            reply[place] ^= 1 << self.chance.below(8);
        }
        let end = &mut self.ends[number];
        if spoil && end.wrong_at.is_none() {
            let differs = reply
                .iter()
                .zip(bytes)
                .position(|(a, b)| *a != b.to_ascii_uppercase());
            end.wrong_at = differs.map(|place| end.served + place as u64);
        }
        end.served += bytes.len() as u64;
        at = at.max(end.last_arrival.unwrap_or(at));
        while !reply.is_empty() {
            let length = self.chance.between(1, self.faults.segment as u64) as usize;
            let rest = reply.split_off(length.min(reply.len()));
            self.later(at, Happening::Arrives(number, reply));
            reply = rest;
            at += Duration::from_nanos(self.chance.below(2000));
        }
        if self.faults.adds > 0 && self.chance.one_in(self.faults.adds) {
            // No byte of a right reply is a small letter, so this one is wrong also where a byte is
            // due.
            at += self.chance.microseconds(0, 100);
            self.later(at, Happening::Arrives(number, vec![b'x']));
            let end = &mut self.ends[number];
            end.wrong_at.get_or_insert(end.served);
        }
        if self.faults.resets > 0 && self.chance.one_in(self.faults.resets) {
            self.later(at, Happening::Resets(number));
        } else if self.faults.ends > 0 && self.chance.one_in(self.faults.ends) {
            self.later(at, Happening::Ends(number));
        }
        self.ends[number].last_arrival = Some(at);
    }

    /// Applies an event to the client's end, and adds to the edges that epoll would report.
    pub fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Connected(number) => {
                self.ever_up = true;
                let end = &mut self.ends[number];
                end.up = true;
                end.edges.writable = true;
            }
            Happening::Refused(number) => {
                let end = &mut self.ends[number];
                end.refused = true;
                end.edges = ALL;
            }
            Happening::Arrives(number, bytes) => {
                let end = &mut self.ends[number];
                if !end.reset {
                    end.inbound.extend(bytes);
                    end.edges.readable = true;
                }
            }
            Happening::Taken(number, count) => {
                let end = &mut self.ends[number];
                end.room += count;
                if std::mem::take(&mut end.short_of_room) {
                    end.edges.writable = true;
                }
            }
            Happening::Ends(number) => {
                let end = &mut self.ends[number];
                end.ended = true;
                end.edges.readable = true;
                end.edges.exceptional = true;
                end.edges.ended = true;
            }
            Happening::Resets(number) => {
                let end = &mut self.ends[number];
                end.reset = true;
                end.inbound.clear();
                end.edges = ALL;
            }
            Happening::Dies => {
                let target = Some(self.last_target);
                let up = self.ends.iter().enumerate();
                let up = up.filter(|(_, end)| end.up && end.target == target);
                let up: Vec<usize> = up.map(|(number, _)| number).collect();
                for number in up {
                    self.happens(Happening::Resets(number));
                }
            }
            Happening::Timer(_) | Happening::Stop => {}
        }
    }
}

const ALL: Hints = Hints {
    readable: true,
    writable: true,
    exceptional: true,
    ended: true,
};

impl Stream for Wire {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut net = self.world.net.borrow_mut();
        self.world.spend(net.faults.calls.0);
        let end = &mut net.ends[self.number];
        if end.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = end.inbound.len().min(buffer.len());
        if count == 0 && !end.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in end.inbound.drain(..count).enumerate() {
            buffer[place] = byte;
        }
        end.was_read(count as u64);
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut net = self.world.net.borrow_mut();
        self.world.spend(net.faults.calls.1);
        let now = self.world.now();
        let end = &mut net.ends[self.number];
        assert!(
            end.up && !end.fin_sent,
            "bytes on a connection that accepts none"
        );
        if end.reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(end.room);
        end.room -= count;
        end.short_of_room = count < bytes.len();
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // While the server is frozen its window closes, and the send buffer stays full.
        let passed = net.chance.microseconds(5, 50);
        let delayed = net.delayed(self.number, now);
        let leaves = net.leave(self.number, count as u64, now, passed + delayed);
        let taken = net.thawed(leaves + passed + delayed);
        net.later(taken, Happening::Taken(self.number, count));
        net.serve(self.number, &bytes[..count], taken);
        let end = &net.ends[self.number];
        let in_flight = end.served.saturating_sub(end.delivered);
        let most = net.in_flight_most;
        assert!(in_flight <= most, "{in_flight} bytes in flight, of {most}");
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let now = self.world.now();
        let mut net = self.world.net.borrow_mut();
        let number = self.number;
        let end = &mut net.ends[number];
        if end.reset {
            return Err(io::ErrorKind::NotConnected.into());
        }
        net.may_fail(Step::Finish)?;
        let end = &mut net.ends[number];
        end.fin_sent = true;
        let at = end.last_arrival.unwrap_or(now).max(now);
        let at = at + net.chance.microseconds(10, 100);
        if let Some(at) = net.next_close(at) {
            net.later(at, Happening::Ends(number));
        }
        Ok(())
    }
}

impl Socket for Wire {
    fn is_up(&self) -> io::Result<bool> {
        let net = self.world.net.borrow();
        let end = &net.ends[self.number];
        if end.refused {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(end.up)
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        self.world.net.borrow_mut().may_fail(Step::Linger)
    }

    fn path(&self) -> io::Result<Path> {
        let mut net = self.world.net.borrow_mut();
        net.may_fail(Step::ReadInfo)?;
        let end = &mut net.ends[self.number];
        assert!(!end.fin_sent, "the path is sampled after FIN");
        let now = self.world.now.get();
        while let Some((at, round_trip, bytes)) = end.acknowledgments.front()
            && *at <= now
        {
            let path = &mut end.path;
            path.round_trip = path.round_trip * 7 / 8 + *round_trip / 8;
            path.round_trip_least = path.round_trip_least.min(*round_trip);
            path.acknowledged += 1;
            path.acknowledged_bytes += bytes;
            end.acknowledgments.pop_front();
        }
        while let Some((at, _)) = end.leaving.front()
            && *at <= now
        {
            end.left_at = Some(*at);
            end.leaving.pop_front();
        }
        Ok(Path {
            unsent_bytes: end.leaving.iter().map(|(_, bytes)| bytes).sum(),
            quiet: end.left_at.map_or(Duration::ZERO, |at| now - at),
            ..end.path
        })
    }

    fn keep_times(&mut self) -> io::Result<()> {
        self.world.net.borrow_mut().may_fail(Step::KeepTimes)
    }

    fn times(&mut self, _: u64) -> io::Result<Option<KernelTimes>> {
        Ok(None)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The simulation itself may be over, and being dropped.
        if let Ok(mut net) = self.world.net.try_borrow_mut() {
            net.ends[self.number].closed = true;
        }
    }
}

impl World for Virtual {
    type Socket = Wire;

    fn now(&self) -> Instant {
        // Reading the clock takes time.
        self.spend(Duration::from_nanos(30));
        self.now.get()
    }

    fn cpu(&self) -> Duration {
        self.worked.get()
    }

    fn connect(&mut self, target: SocketAddr, _: Option<SocketAddr>) -> Result<Wire, Failure> {
        let now = self.now();
        let mut net = self.net.borrow_mut();
        for step in [Step::Open, Step::Configure, Step::Bind] {
            if let Err(error) = net.may_fail(step) {
                // The failed connection has a number of its own, too.
                let closed = true;
                net.ends.push(End {
                    closed,
                    ..End::default()
                });
                return Err(Failure { step, error });
            }
        }
        let number = net.ends.len();
        let room = net.faults.room;
        let round_trip = net.chance.microseconds(20, 200) + net.longer(now);
        net.ends.push(End {
            target: Some(target),
            room,
            path: Path {
                round_trip,
                round_trip_least: round_trip,
                ..Path::default()
            },
            ..End::default()
        });
        let at = now + round_trip;
        // A refusal before any connection is up ends the run, which other tests cover.
        let refuses = net.faults.refuses;
        let refused = net.ever_up && refuses > 0 && net.chance.one_in(refuses);
        let happening = match refused || net.is_dead(target, at) {
            true => Happening::Refused(number),
            false => Happening::Connected(number),
        };
        net.later(at, happening);
        let world = self.clone();
        Ok(Wire { number, world })
    }

    fn register(&mut self, socket: &mut Wire, token: Token) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        net.may_fail(Step::Register)?;
        net.ends[socket.number].token = Some(token);
        Ok(())
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        let at = deadline.max(self.now.get());
        self.net.borrow_mut().later(at, Happening::Timer(timer));
    }
}
