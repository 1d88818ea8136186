//! A simulated kernel: listeners and sockets under edge-triggered epoll, in virtual time.
//!
//! It behaves like Linux; where Linux may behave in several ways, one is chosen at random. Every
//! call of the server, and its state between turns, is checked against the rules of
//! [`crate::rules`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::libc;
use upcase::reactor::slots::Token;
use upcase::server::connection_limit::Shards;
use upcase::server::engine::world::{Output, Socket, Timer, World};
use upcase::server::limits::Limits;
use upcase::stream::{Hints, Stream};

use crate::chance::{Agenda, Chance, reply_bytes, sent_bytes, upper_case};
use crate::clients::Habit;
use crate::neighbours::OtherShards;
use crate::rules::{Facts, Ledger, nanos};
use crate::swarm::Faults;

/// Time that a system call of the server takes, in nanoseconds.
const CALL_TIME: u64 = 400;

/// The environment of the server. Clones are handles to the same state.
#[derive(Clone, Debug)]
pub struct SimKernel(pub Rc<RefCell<State>>);

/// The server's end of a connection.
#[derive(Debug)]
pub struct SimSocket {
    number: usize,
    kernel: SimKernel,
}

/// The whole state of the simulation. Times are nanoseconds since `epoch`.
#[derive(Debug)]
pub struct State {
    epoch: Instant,
    pub now: u64,
    pub limits: Limits,
    pub faults: Faults,
    pub chance: Chance,
    pub agenda: Agenda<Happening>,
    pub ends: Vec<End>,
    /// Numbers of the connections that were accepted and are not closed.
    pub open: Vec<u32>,
    pub listeners: Vec<ListeningSocket>,
    /// The other shards, if there are any.
    pub neighbours: Option<OtherShards>,
    /// The sources that epoll has to report, in its order.
    ready: VecDeque<Source>,
    /// Timers that are due and not yet delivered.
    pub due: VecDeque<Timer>,
    pub stops: u32,
    /// Whether the faults have ended, and all clients read everything and close in order.
    pub is_calm: bool,
    /// Numbers of the events delivered to the server, and of its calls.
    pub events: Events,
    pub ledger: Ledger,
}

/// Numbers of the events delivered to the server, and of its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Events of sources, including false ones.
    pub reported: u64,
    /// Timers set and timers delivered; requests to stop.
    pub timers: u64,
    pub accepts: u64,
    pub reads: u64,
    pub writes: u64,
    /// Samples of a client's output, and keep-alive probes.
    pub looks: u64,
    /// FIN, close, and the preparation of a reset.
    pub ends: u64,
}

impl Events {
    pub fn sum(&self) -> u64 {
        let calls = self.accepts + self.reads + self.writes + self.looks + self.ends;
        self.reported + self.timers + calls
    }
}

impl AddAssign for Events {
    fn add_assign(&mut self, other: Events) {
        self.reported += other.reported;
        self.timers += other.timers;
        self.accepts += other.accepts;
        self.reads += other.reads;
        self.writes += other.writes;
        self.looks += other.looks;
        self.ends += other.ends;
    }
}

/// A scheduled action.
#[derive(Clone, Copy, Debug)]
pub enum Happening {
    Connect,
    Act(u32),
    Take(u32),
    /// The next item in flight from a client that the test controls arrives.
    Arrive(u32),
    /// The send buffer has room again after a partial write.
    Room(u32),
    /// A client's kernel answers a probe.
    Answer(u32),
    GiveUp(u32),
    /// A client of another shard connects or leaves.
    Neighbour,
    /// Another number of descriptors is available.
    Descriptors,
    /// The system's memory is exhausted, or available again.
    Memory,
    Timer(Timer),
    Stop,
    Calm,
}

/// An event of a source, as delivered to the server. That of a connection has the connection's
/// number.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    pub token: Token,
    pub hints: Hints,
    end: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Listener(u32),
    End(u32),
}

/// A listening socket.
#[derive(Debug)]
pub struct ListeningSocket {
    pub queue: VecDeque<u32>,
    pub is_open: bool,
    is_ready: bool,
    /// The time until which clients may still connect, if the listener is about to close.
    pub quiesced_at: Option<u64>,
    pub is_broken: bool,
    /// Whether accept(2) failed for lack of resources, and nothing has changed since.
    pub is_paused: bool,
    /// Number of accepts in this turn.
    pub attempts: usize,
}

/// A connection with both of its ends.
#[derive(Debug)]
pub struct End {
    pub address: SocketAddr,
    pub token: Option<Token>,
    pub is_accepted: bool,
    pub is_closed: bool,
    is_ready: bool,
    key: u64,
    /// The bytes in either direction, only for a client that the test controls.
    literal: Option<Box<Literal>>,

    /// Number of the client's bytes that have arrived in this kernel, and of those that were read.
    pub arrived: u64,
    pub read: u64,
    mark: Option<u64>,
    pub fin: bool,
    broken: Broken,

    /// Number of bytes that this kernel has accepted, of those that were acknowledged, and of those
    /// that the client has read.
    pub sent: u64,
    pub acked: u64,
    pub taken: u64,
    no_space: bool,
    /// Whether a partial write was forced, so that room is reported only later.
    is_squeezed: bool,
    pub shut: bool,
    last_in: u64,
    last_out: u64,
    /// The arrival of the last segment, and the number of probes sent since then.
    pub heard_at: u64,
    pub probes: u32,
    /// Maximum number of connections open since then, sampled whenever a connection is closed.
    pub crowd: usize,

    pub facts: Facts,

    pub habit: Habit,
    /// Number of bytes that the client has still to send.
    pub left: u64,
    pub is_acting: bool,
    pub is_taking: bool,
    pub is_blocked: bool,
    pub has_seen_fin: bool,
    pub has_vanished: bool,
    pub resets_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// The next call returns this error.
    Untold(i32),
    Reported,
}

#[derive(Debug, Default)]
struct Literal {
    sent: Vec<u8>,
    /// The urgent byte.
    urgent: u8,
    replies: Vec<u8>,
    /// Items in flight, in the order of arrival.
    coming: VecDeque<Coming>,
}

/// An item in flight from a client that the test controls.
#[allow(dead_code)] // The scripted clients of another test make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coming {
    Bytes(Vec<u8>),
    Urgent(u8),
    Fin,
}

fn failure(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Notification {
    fn of_listener(number: u32) -> Notification {
        Notification {
            token: Token::fixed(number),
            hints: READABLE,
            end: None,
        }
    }
}

impl ListeningSocket {
    fn new() -> ListeningSocket {
        ListeningSocket {
            queue: VecDeque::new(),
            is_open: true,
            is_ready: false,
            quiesced_at: None,
            is_broken: false,
            is_paused: false,
            attempts: 0,
        }
    }

    /// Returns whether no edge is left to be reported.
    pub fn is_reported(&self) -> bool {
        !self.is_ready
    }
}

impl End {
    fn new(address: SocketAddr, key: u64, habit: Habit, now: u64) -> End {
        End {
            address,
            token: None,
            is_accepted: false,
            is_closed: false,
            is_ready: false,
            key,
            literal: None,
            arrived: 0,
            read: 0,
            mark: None,
            fin: false,
            broken: Broken::No,
            sent: 0,
            acked: 0,
            taken: 0,
            no_space: false,
            is_squeezed: false,
            shut: false,
            last_in: now,
            last_out: now,
            heard_at: now,
            probes: 0,
            crowd: 0,
            facts: Facts::new(now),
            left: habit.total,
            habit,
            is_acting: false,
            is_taking: false,
            is_blocked: false,
            has_seen_fin: false,
            has_vanished: false,
            resets_data: false,
        }
    }

    /// Returns whether the connection is closed or broken, so that nothing more can arrive.
    pub fn is_over(&self) -> bool {
        self.is_closed || self.broken != Broken::No
    }

    /// Returns whether no edge is left to be reported.
    pub fn is_reported(&self) -> bool {
        !self.is_ready
    }

    pub fn unread(&self) -> u64 {
        self.arrived - self.read
    }

    /// Returns whether a read would return data, FIN or an error.
    pub fn is_readable(&self) -> bool {
        self.unread() > 0 || self.fin || matches!(self.broken, Broken::Untold(_))
    }

    fn room(&self) -> u64 {
        let used = self.sent - self.acked;
        self.habit.send_buffer.saturating_sub(used)
    }

    /// Returns whether epoll reports room: as on Linux, when at least a third of the buffer is
    /// free.
    pub fn is_writable(&self) -> bool {
        let (room, used) = (self.room(), self.sent - self.acked);
        room > 0 && 2 * room >= used && !self.is_squeezed
    }

    fn hints(&self) -> Hints {
        let is_broken = self.broken != Broken::No;
        let exceptional = self.fin || is_broken || self.mark.is_some();
        Hints {
            readable: self.unread() > 0 || exceptional,
            writable: self.is_writable() || self.shut || is_broken,
            exceptional,
            ended: self.fin || is_broken,
        }
    }

    pub fn reported(&self, number: u32, hints: Hints) -> Option<Notification> {
        self.token.map(|token| Notification {
            token,
            hints,
            end: Some(number),
        })
    }

    /// Records the arrival of a segment of the client.
    fn heard(&mut self, now: u64) {
        self.heard_at = now;
        self.probes = 0;
        self.crowd = 0;
    }

    /// Returns the time at which a byte was last transferred in either direction.
    pub fn quiet_since(&self) -> u64 {
        self.last_in.max(self.last_out)
    }
}

/// The actions of the clients and of the network.
impl State {
    pub fn later(&mut self, after: u64, happening: Happening) {
        self.agenda.put(self.now + after, happening);
    }

    /// Connects a client. `None`: the listener is closed.
    pub fn connect(&mut self, listener: usize, address: SocketAddr, habit: Habit) -> Option<usize> {
        let it = &self.listeners[listener];
        if !it.is_open || it.quiesced_at.is_some_and(|until| self.now >= until) {
            return None;
        }
        let number = self.ends.len();
        let key = self.chance.below(1 << 20);
        self.ends.push(End::new(address, key, habit, self.now));
        self.listeners[listener].queue.push_back(number as u32);
        self.raise(Source::Listener(listener as u32));
        Some(number)
    }

    /// Delivers bytes of the client.
    pub fn arrive(&mut self, number: usize, count: u64) {
        let end = &mut self.ends[number];
        end.arrived += count;
        end.last_in = self.now;
        end.heard(self.now);
        self.raise(Source::End(number as u32));
    }

    /// Delivers an urgent byte. It is not part of the stream, and a read stops before it. An
    /// earlier urgent byte becomes an ordinary byte, unless it is the next one to be read: then it
    /// is skipped.
    pub fn arrive_urgent(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if end.mark.is_some_and(|mark| mark > end.read) {
            end.arrived += 1;
        }
        end.mark = Some(end.arrived);
        end.last_in = self.now;
        end.heard(self.now);
        self.raise(Source::End(number as u32));
    }

    pub fn arrive_fin(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if !end.is_over() && !end.fin {
            end.fin = true;
            end.heard(self.now);
            self.raise(Source::End(number as u32));
        }
    }

    pub fn arrive_reset(&mut self, number: usize) {
        let errno = match self.ends[number].fin {
            true => libc::EPIPE,
            false => libc::ECONNRESET,
        };
        self.break_end(number, errno);
    }

    /// Breaks the connection with this error. Unread bytes can be read before it, or are lost.
    pub fn break_end(&mut self, number: usize, errno: i32) {
        let is_lost = self.chance.one_in(2);
        let end = &mut self.ends[number];
        if end.is_over() {
            return;
        }
        end.broken = Broken::Untold(errno);
        if is_lost && !end.fin {
            end.arrived = end.read;
            end.mark = None;
        }
        self.raise(Source::End(number as u32));
    }

    /// Acknowledges all bytes that fit into the client's window.
    pub fn acknowledge(&mut self, number: usize) {
        let end = &mut self.ends[number];
        end.heard(self.now);
        let acked = end.sent.min(end.taken + end.habit.window);
        if acked <= end.acked {
            return;
        }
        end.acked = acked;
        if end.sent > end.acked {
            end.last_out = self.now;
        }
        end.progressed(self.now, self.ledger.least_progress);
        self.room_opens(number);
    }

    fn room_opens(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if end.no_space && end.is_writable() {
            end.no_space = false;
            self.raise(Source::End(number as u32));
        }
    }

    /// Raises an edge, which epoll will report.
    fn raise(&mut self, source: Source) {
        let is_ready = match source {
            Source::Listener(number) => &mut self.listeners[number as usize].is_ready,
            Source::End(number) => {
                let end = &mut self.ends[number as usize];
                if end.token.is_none() || end.is_closed {
                    return;
                }
                &mut end.is_ready
            }
        };
        if !std::mem::replace(is_ready, true) {
            self.ready.push_back(source);
        }
    }

    /// Carries out all scheduled actions that are due.
    pub fn happen(&mut self) {
        while let Some(happening) = self.agenda.take(self.now) {
            match happening {
                Happening::Connect => self.connect_next(),
                Happening::Act(number) => self.act(number as usize),
                Happening::Take(number) => self.take(number as usize),
                Happening::Arrive(number) => self.arrive_by_hand(number as usize),
                Happening::Room(number) => {
                    self.ends[number as usize].is_squeezed = false;
                    self.room_opens(number as usize);
                }
                Happening::Answer(number) => self.answer_probe(number as usize),
                Happening::GiveUp(number) => self.give_up(number as usize),
                Happening::Neighbour => self.neighbour_acts(),
                Happening::Descriptors => self.change_descriptors(),
                Happening::Memory => self.change_memory(),
                Happening::Timer(timer) => self.due.push_back(timer),
                Happening::Stop => self.stops += 1,
                Happening::Calm => self.calm(),
            }
        }
    }
}

/// The events of epoll.
impl State {
    /// Returns whether the poll would return at once.
    pub fn has_news(&self) -> bool {
        let is_woken = self
            .neighbours
            .as_ref()
            .is_some_and(|it| it.is_engine_woken);
        !self.ready.is_empty() || !self.due.is_empty() || self.stops > 0 || is_woken
    }

    /// Collects the events that one epoll_wait(2) returns.
    pub fn collect(&mut self, batch: &mut Vec<Notification>) {
        batch.clear();
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.is_engine_woken = false;
        }
        let capacity = self.chance.between((1, self.faults.batch)) as usize;
        for _ in 0..self.ready.len() {
            if batch.len() >= capacity {
                break;
            }
            match self.ready.pop_front() {
                Some(Source::Listener(number)) => self.report_listener(number, batch),
                Some(Source::End(number)) => self.report_end(number, batch),
                None => break,
            }
        }
        self.add_false_events(batch);
        if self.faults.shuffle {
            for place in 1..batch.len() {
                let other = self.chance.below(place as u64 + 1) as usize;
                batch.swap(place, other);
            }
        }
    }

    fn report_listener(&mut self, number: u32, batch: &mut Vec<Notification>) {
        let listener = &mut self.listeners[number as usize];
        listener.is_ready = false;
        if listener.is_open && !listener.queue.is_empty() {
            batch.push(Notification::of_listener(number));
        }
    }

    /// Reports a connection. The flags show its whole state, not only the edge.
    fn report_end(&mut self, number: u32, batch: &mut Vec<Notification>) {
        let end = &mut self.ends[number as usize];
        end.is_ready = false;
        if end.is_closed {
            return;
        }
        let hints = end.hints();
        if hints.readable && hints.writable && self.chance.one_in(self.faults.split) {
            // One half is reported now, the whole in this batch or in a later one.
            let readable = Hints {
                writable: false,
                ..hints
            };
            let half = self.chance.pick(&[readable, WRITABLE]);
            batch.extend(end.reported(number, half));
            self.raise(Source::End(number));
        } else if hints != Hints::default() {
            batch.extend(end.reported(number, hints));
        }
    }

    /// Adds false events, and events of closed sockets.
    fn add_false_events(&mut self, batch: &mut Vec<Notification>) {
        if self.chance.one_in(self.faults.spurious) && !self.open.is_empty() {
            let place = self.chance.below(self.open.len() as u64) as usize;
            let flags = self.chance.below(8);
            let number = self.open[place];
            let end = &self.ends[number as usize];
            let hints = Hints {
                readable: flags & 1 > 0,
                writable: flags & 2 > 0,
                exceptional: flags & 4 > 0,
                ended: end.fin,
            };
            batch.extend(end.reported(number, hints));
        }
        if self.chance.one_in(self.faults.spurious) {
            let listener = self.chance.below(self.listeners.len() as u64);
            batch.push(Notification::of_listener(listener as u32));
        }
        if self.chance.one_in(self.faults.stale) && !self.ends.is_empty() {
            let number = self.chance.below(self.ends.len() as u64) as u32;
            let end = &self.ends[number as usize];
            if end.is_closed {
                batch.extend(end.reported(number, EVERYTHING));
            }
        }
    }

    /// Records that this event is delivered to the server now.
    pub fn deliver(&mut self, reported: Notification) {
        self.events.reported += 1;
        if let Some(number) = reported.end {
            let end = &mut self.ends[number as usize];
            match end.is_closed {
                true => self.ledger.stale += 1,
                false => end.facts.note(reported.hints, self.ledger.turn),
            }
        }
    }
}

const READABLE: Hints = Hints {
    readable: true,
    writable: false,
    exceptional: false,
    ended: false,
};

const WRITABLE: Hints = Hints {
    readable: false,
    writable: true,
    exceptional: false,
    ended: false,
};

const EVERYTHING: Hints = Hints {
    readable: true,
    writable: true,
    exceptional: true,
    ended: true,
};

/// The system calls of the server.
impl State {
    /// Begins a call, which takes time. During that time scheduled actions may be carried out.
    fn begin_call(&mut self, count: fn(&mut Events) -> &mut u64) {
        *count(&mut self.events) += 1;
        self.now += CALL_TIME;
        if self.faults.interleave && self.agenda.next().is_some_and(|at| at <= self.now) {
            self.happen();
        }
    }

    /// Makes a call on a connection fail at random, whatever the state of the connection is.
    fn chance_fails(&mut self, number: usize) -> io::Result<()> {
        if self.chance.one_in(self.faults.interrupts) {
            return Err(failure(libc::EINTR));
        }
        if self.chance.one_in(self.faults.calls) {
            return Err(self.fails(number, libc::ENOMEM));
        }
        Ok(())
    }

    fn recv(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin_call(|it| &mut it.reads);
        self.check_recv(number, buffer.len());
        self.chance_fails(number)?;
        let end = &mut self.ends[number];
        if end.mark == Some(end.read) {
            end.mark = None;
        }
        let until_mark = end.mark.unwrap_or(end.arrived) - end.read;
        let count = (until_mark as usize).min(buffer.len());
        if count == 0 {
            return self.recv_nothing(number);
        }
        let bytes = match &end.literal {
            Some(literal) => &literal.sent[end.read as usize..][..count],
            None => sent_bytes(end.key, end.read, count),
        };
        buffer[..count].copy_from_slice(bytes);
        end.read += count as u64;
        end.facts.may_read = count == buffer.len() || end.facts.to_end;
        self.check_read(number, count);
        self.unblock(number);
        Ok(count)
    }

    /// Returns the result of a read without data. FIN precedes an error that came after it.
    fn recv_nothing(&mut self, number: usize) -> io::Result<usize> {
        let end = &mut self.ends[number];
        match end.broken {
            Broken::Untold(errno) if !end.fin => {
                end.broken = Broken::Reported;
                Err(self.fails(number, errno))
            }
            Broken::No if !end.fin => {
                self.check_blocked_read(number);
                Err(failure(libc::EAGAIN))
            }
            _ => {
                end.facts.got_end = true;
                Ok(0)
            }
        }
    }

    fn send(&mut self, number: usize, bytes: &[u8]) -> io::Result<usize> {
        self.begin_call(|it| &mut it.writes);
        self.check_send(number, bytes);
        self.chance_fails(number)?;
        let end = &mut self.ends[number];
        match end.broken {
            Broken::No => {}
            Broken::Untold(errno) => {
                end.broken = Broken::Reported;
                return Err(self.fails(number, errno));
            }
            Broken::Reported => return Err(self.fails(number, libc::EPIPE)),
        }
        let mut count = end.room().min(bytes.len() as u64);
        if count > 0 && !end.is_squeezed && self.chance.one_in(self.faults.squeezes) {
            count = self.chance.below(count);
            end.is_squeezed = true;
            let after = self.chance.between((1000, 1_000_000));
            let room = Happening::Room(number as u32);
            self.agenda.put(self.now + after, room);
        }
        end.no_space = count < bytes.len() as u64;
        end.facts.may_write = !end.no_space;
        if count == 0 {
            return Err(failure(libc::EAGAIN));
        }
        if let Some(literal) = &mut end.literal {
            literal.replies.extend(&bytes[..count as usize]);
        }
        end.sent += count;
        end.last_out = self.now;
        self.check_sent(number, count);
        let gap = self.chance.between((1000, 100_000));
        self.take_in(number, gap);
        Ok(count as usize)
    }

    fn shutdown(&mut self, number: usize) -> io::Result<()> {
        self.begin_call(|it| &mut it.ends);
        self.check_shutdown(number);
        if self.ends[number].broken != Broken::No {
            return Err(self.fails(number, libc::ENOTCONN));
        }
        self.ends[number].shut = true;
        self.take_in(number, CALL_TIME);
        Ok(())
    }

    /// Sends a keep-alive probe. Probe and answer may be lost, and a vanished client does not
    /// answer.
    fn probe(&mut self, number: usize) {
        self.begin_call(|it| &mut it.looks);
        self.check_probe(number);
        let end = &mut self.ends[number];
        if end.is_over() || end.sent > end.acked {
            return;
        }
        end.probes += 1;
        if !end.has_vanished && !self.chance.one_in(self.faults.lost_probes) {
            let after = self.chance.between((1000, 100_000));
            self.later(after, Happening::Answer(number as u32));
        }
    }

    fn answer_probe(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if !end.is_over() && !end.has_vanished {
            end.heard(self.now);
        }
    }

    /// Records that a call failed, which ends the connection.
    fn fails(&mut self, number: usize, errno: i32) -> io::Error {
        self.ends[number].facts.failed(errno);
        failure(errno)
    }

    fn drop_end(&mut self, number: usize) {
        self.begin_call(|it| &mut it.ends);
        self.check_drop(number);
        self.ends[number].is_closed = true;
        let place = self.open.iter().position(|&it| it as usize == number);
        if let Some(place) = place {
            self.open.swap_remove(place);
        }
        for listener in &mut self.listeners {
            listener.is_paused = false;
        }
    }

    fn accept(&mut self, number: usize) -> io::Result<usize> {
        self.begin_call(|it| &mut it.accepts);
        self.check_accept(number);
        let listener = &mut self.listeners[number];
        listener.attempts += 1;
        if self.chance.one_in(self.faults.fatal) {
            listener.is_broken = true;
            let errors = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK];
            return Err(failure(self.chance.pick(&errors)));
        }
        if self.chance.one_in(self.faults.interrupts) {
            return Err(failure(libc::EINTR));
        }
        // The descriptor is allocated first, so this fails with an empty accept queue as well.
        if let Some(errno) = self.lack_of_resources() {
            self.listeners[number].is_paused = true;
            return Err(failure(errno));
        }
        let Some(client) = self.listeners[number].queue.pop_front() else {
            return Err(failure(libc::EAGAIN));
        };
        let client = client as usize;
        if self.chance.one_in(self.faults.aborts) {
            self.ledger.lost += 1;
            self.ends[client].is_closed = true;
            return Err(failure(self.chance.pick(&LOST)));
        }
        self.ends[client].is_accepted = true;
        self.open.push(client as u32);
        self.check_accepted(client);
        Ok(client)
    }

    fn lack_of_resources(&mut self) -> Option<i32> {
        if self.open.len() >= self.faults.descriptors {
            return Some(libc::EMFILE);
        }
        let errors = [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPERM];
        self.faults.no_memory.then(|| self.chance.pick(&errors))
    }

    fn register(&mut self, number: usize, token: Token) -> io::Result<()> {
        self.begin_call(|it| &mut it.accepts);
        if self.chance.one_in(self.faults.registrations) {
            return Err(self.fails(number, libc::ENOSPC));
        }
        let end = &mut self.ends[number];
        assert_eq!(end.token, None, "registered twice");
        end.token = Some(token);
        if end.hints() != Hints::default() {
            self.raise(Source::End(number as u32));
        }
        Ok(())
    }

    fn close(&mut self, number: usize) -> u64 {
        self.begin_call(|it| &mut it.ends);
        self.check_close(number);
        let listener = &mut self.listeners[number];
        listener.is_open = false;
        let waiting = std::mem::take(&mut listener.queue);
        for &client in &waiting {
            self.ends[client as usize].is_closed = true;
        }
        self.ledger.reset_in_queue += waiting.len() as u64;
        waiting.len() as u64
    }
}

/// The errors of accept(2) for a client that was lost in the accept queue.
const LOST: [i32; 9] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENOPROTOOPT,
    libc::EOPNOTSUPP,
    libc::ETIMEDOUT,
];

impl SimKernel {
    pub fn new(listeners: usize, limits: Limits, faults: Faults, chance: Chance) -> Self {
        SimKernel(Rc::new(RefCell::new(State {
            epoch: Instant::now(),
            now: 0,
            ledger: Ledger::new(&limits),
            limits,
            faults,
            chance,
            agenda: Agenda::new(),
            ends: Vec::new(),
            open: Vec::new(),
            listeners: std::iter::repeat_with(ListeningSocket::new)
                .take(listeners)
                .collect(),
            neighbours: None,
            ready: VecDeque::new(),
            due: VecDeque::new(),
            stops: 0,
            is_calm: false,
            events: Events::default(),
        })))
    }
}

impl World for SimKernel {
    type Socket = SimSocket;

    fn now(&self) -> Instant {
        let mut state = self.0.borrow_mut();
        state.now += 30;
        state.epoch + Duration::from_nanos(state.now)
    }

    fn accept(
        &mut self,
        listener: usize,
        wants_address: bool,
    ) -> io::Result<(SimSocket, Option<SocketAddr>)> {
        let mut state = self.0.borrow_mut();
        let number = state.accept(listener)?;
        let kernel = self.clone();
        let address = wants_address.then_some(state.ends[number].address);
        Ok((SimSocket { number, kernel }, address))
    }

    fn register(&mut self, socket: &mut SimSocket, token: Token) -> io::Result<()> {
        self.0.borrow_mut().register(socket.number, token)
    }

    fn quiesce(&mut self, listener: usize) -> Duration {
        let mut state = self.0.borrow_mut();
        state.events.ends += 1;
        let grace = state.faults.grace;
        let until = state.ledger.turn_began + grace;
        state.listeners[listener].quiesced_at = Some(until);
        Duration::from_nanos(grace)
    }

    fn close(&mut self, listener: usize) -> u64 {
        self.0.borrow_mut().close(listener)
    }

    fn wake(&mut self, shard: usize) {
        let mut state = self.0.borrow_mut();
        let needs = !state.chance.one_in(4);
        let mut woken = Shards::default();
        woken.insert(shard);
        match &mut state.neighbours {
            Some(neighbours) => neighbours.wake(woken, needs),
            None => state.fails_check(None, "it wakes another shard, but there is none"),
        }
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        let mut state = self.0.borrow_mut();
        state.events.timers += 1;
        let at = nanos(deadline.saturating_duration_since(state.epoch));
        state.check_timer(timer);
        let at = at.max(state.now);
        state.agenda.put(at, Happening::Timer(timer));
    }
}

impl Stream for SimSocket {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.kernel.0.borrow_mut().recv(self.number, buffer)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kernel.0.borrow_mut().send(self.number, bytes)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.kernel.0.borrow_mut().shutdown(self.number)
    }
}

impl Socket for SimSocket {
    fn output(&self) -> io::Result<Output> {
        let mut state = self.kernel.0.borrow_mut();
        state.begin_call(|it| &mut it.looks);
        state.sampled(self.number);
        let now = state.now;
        let end = &state.ends[self.number];
        Ok(Output {
            acknowledged: end.acked,
            outstanding: end.sent - end.acked,
            quiet: Duration::from_nanos(now - end.quiet_since()),
            heard: Duration::from_nanos(now - end.heard_at),
            unanswered: end.probes,
        })
    }

    fn probe(&mut self) -> io::Result<()> {
        self.kernel.0.borrow_mut().probe(self.number);
        Ok(())
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        let mut state = self.kernel.0.borrow_mut();
        state.begin_call(|it| &mut it.ends);
        state.ends[self.number].facts.resets = true;
        Ok(())
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        // After a failed check there is nothing more to check.
        if !std::thread::panicking() {
            self.kernel.0.borrow_mut().drop_end(self.number);
        }
    }
}

/// Clients that the test controls: they send exactly the bytes that they are given.
impl State {
    pub fn connect_by_hand(&mut self, listener: usize, address: SocketAddr) -> Option<usize> {
        let number = self.connect(listener, address, Habit::BY_HAND)?;
        self.ends[number].literal = Some(Box::default());
        Some(number)
    }

    pub fn send_by_hand(&mut self, number: usize, bytes: &[u8]) {
        let end = &mut self.ends[number];
        if end.fin || end.is_over() {
            return;
        }
        if let Some(literal) = &mut end.literal {
            literal.sent.extend(bytes);
        }
        self.arrive(number, bytes.len() as u64);
    }

    pub fn urge_by_hand(&mut self, number: usize, byte: u8) {
        let end = &mut self.ends[number];
        if end.fin || end.is_over() {
            return;
        }
        if let Some(literal) = &mut end.literal {
            let before = std::mem::replace(&mut literal.urgent, byte);
            if let Some(mark) = end.mark.filter(|&mark| mark > end.read) {
                literal.sent.insert(mark as usize, before);
            }
        }
        self.arrive_urgent(number);
    }

    /// Sends an item that arrives after this time, possibly within a turn, and after all earlier
    /// items.
    #[allow(dead_code)] // The scripted clients of another test use it.
    pub fn come_by_hand(&mut self, number: usize, after: u64, what: Coming) {
        if let Some(literal) = &mut self.ends[number].literal {
            literal.coming.push_back(what);
            self.later(after, Happening::Arrive(number as u32));
        }
    }

    fn arrive_by_hand(&mut self, number: usize) {
        let literal = self.ends[number].literal.as_mut();
        match literal.and_then(|literal| literal.coming.pop_front()) {
            Some(Coming::Bytes(bytes)) => self.send_by_hand(number, &bytes),
            Some(Coming::Urgent(byte)) => self.urge_by_hand(number, byte),
            Some(Coming::Fin) => self.arrive_fin(number),
            None => {}
        }
    }

    /// Returns the number of bytes in flight.
    #[allow(dead_code)]
    pub fn coming(&self, number: usize) -> usize {
        let literal = self.ends[number].literal.as_ref();
        let length = |what: &Coming| match what {
            Coming::Bytes(bytes) => bytes.len(),
            Coming::Urgent(_) | Coming::Fin => 0,
        };
        literal.map_or(0, |it| it.coming.iter().map(length).sum())
    }

    /// Lets the client read up to so many bytes, and returns them.
    pub fn take_by_hand(&mut self, number: usize, count: u64) -> Vec<u8> {
        let end = &mut self.ends[number];
        let before = end.taken as usize;
        end.taken += count.min(end.sent - end.taken);
        let after = end.taken as usize;
        let literal = end.literal.as_ref();
        let bytes = literal.map(|it| it.replies[before..after].to_vec());
        self.acknowledge(number);
        bytes.unwrap_or_default()
    }

    /// Returns whether these are the bytes that the server must send next.
    pub fn is_right(&self, number: usize, bytes: &[u8]) -> bool {
        let end = &self.ends[number];
        match &end.literal {
            Some(literal) => {
                let expected = &literal.sent[end.sent as usize..][..bytes.len()];
                let expected = expected.iter().map(|&byte| upper_case(byte));
                expected.eq(bytes.iter().copied())
            }
            None => bytes == reply_bytes(end.key, end.sent, bytes.len()),
        }
    }
}
