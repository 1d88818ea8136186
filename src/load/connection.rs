//! One connection of a load run: sends messages, checks replies byte by byte, knows which message
//! each reply completes. Pure: the socket and the time come in as arguments.
//!
//! Positions are counted in bytes from the start of the connection, on both sides the same:
//!
//! ```text
//!   0 ........ received ........ sent ........ queued
//!     verified          in flight      to be sent
//! ```
//!
//! Invariants:
//! - received ≤ sent ≤ queued; a byte beyond `sent` is a difference, not a reply.
//! - `unanswered` holds the messages that end after `received`, oldest first; the kernel was
//!   offered the first `offered` of them, and the first `complete` it has accepted in full.

use std::io;
use std::time::{Duration, Instant};

use crate::load::payload::{Difference, Payload, Source};
use crate::load::row::Row;
use crate::stream::{Hints, Readiness, Received, Stream};

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    readiness: Readiness,
    received: u64,
    sent: u64,
    queued: u64,
    unanswered: Row<Message>,
    offered: u32,
    complete: u32,
}

/// A message whose reply is awaited. It is kept small: every connection has one, and there may be
/// very many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it was to be sent.
    pub due: Instant,
    /// When it was due and could be sent: its connection was free.
    sendable: After,
    /// When the kernel was first asked to take it, or was known not to take it.
    offered: After,
    /// When the send began that took its last byte.
    sent: After,
    /// Where its last byte ends, and how many it has.
    end: u64,
    size: u32,
    /// Its fate is sealed: it is too old. The reply is awaited all the same, and checked.
    pub timed_out: bool,
}

/// A time as nanoseconds after the message was due: half of what an `Instant` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct After(u64);

impl After {
    /// It has not come yet.
    const NEVER: After = After(u64::MAX);

    #[inline]
    fn new(due: Instant, at: Instant) -> After {
        if at <= due {
            return After(0); // In a closed loop nearly always, and subtracting is not free.
        }
        After(at.duration_since(due).as_nanos() as u64)
    }

    fn known(self) -> Option<Duration> {
        (self != After::NEVER).then(|| Duration::from_nanos(self.0))
    }
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte is not the upper case of the byte that was sent at its place.
    Differs(Difference),
    /// A byte came that answers nothing: this is its offset.
    Surplus(u64),
}

impl Message {
    /// How long it waited for a free connection.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.sendable.0)
    }

    /// From when it was due until the send began that took its last byte; `None`: bytes are left.
    pub fn lateness(&self) -> Option<Duration> {
        self.sent.known()
    }

    /// Returns when the send began that took its last byte; `None`: bytes are left.
    pub fn sent_at(&self) -> Option<Instant> {
        Some(self.due + self.lateness()?)
    }

    /// The part of its lateness that is the run's own doing, when it is `age` old: it could be
    /// sent, and was not.
    pub fn own(&self, age: Duration) -> Duration {
        let offered = self.offered.known().unwrap_or(age);
        offered.saturating_sub(self.waited())
    }

    /// Where its last byte ends in its connection's stream.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size.into()
    }

    /// Returns whether it is the first of its connection.
    pub fn is_first(&self) -> bool {
        self.start() == 0
    }

    /// Where its first byte stands.
    fn start(&self) -> u64 {
        self.end - self.size()
    }
}

impl Connection {
    /// A connection that has sent nothing.
    pub fn new(source: Source) -> Self {
        Connection {
            source,
            readiness: Readiness::new(),
            received: 0,
            sent: 0,
            queued: 0,
            unanswered: Row::default(),
            offered: 0,
            complete: 0,
        }
    }

    /// Takes note of an event.
    #[inline(always)]
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Adds a message of `size` bytes, less than 4 GiB, to what is to be sent at once; it was
    /// `sendable` since then.
    pub fn queue(&mut self, size: usize, due: Instant, sendable: Instant, now: Instant) {
        let blocked = !self.readiness.is_writable();
        self.queued += size as u64;
        self.unanswered.push_back(Message {
            due,
            sendable: After::new(due, sendable),
            offered: match blocked {
                true => After::new(due, now),
                false => After::NEVER,
            },
            sent: After::NEVER,
            end: self.queued,
            size: size as u32,
            timed_out: false,
        });
    }

    /// Takes back the messages of which no byte was sent, and shows each whose fate is open.
    pub fn withdraw(&mut self, mut show: impl FnMut(&Message)) {
        while let Some(last) = self.unanswered.back()
            && last.start() >= self.sent
        {
            self.queued = last.start();
            if !last.timed_out {
                show(last);
            }
            self.unanswered.pop_back();
        }
        self.offered = self.offered.min(self.unanswered.len() as u32);
    }

    /// Whether everything queued was accepted by the kernel.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.queued
    }

    /// Whether more could be sent at once.
    pub fn can_transmit(&self) -> bool {
        !self.is_flushed() && self.readiness.is_writable()
    }

    /// Sends what is queued, as far as the kernel takes it and about `budget` bytes; tells how many
    /// bytes were sent. `clock` is read before every send.
    #[inline(always)]
    pub fn transmit(
        &mut self,
        stream: &mut impl Stream,
        payload: &Payload,
        scratch: &mut [u8],
        budget: usize,
        mut clock: impl FnMut() -> Instant,
    ) -> io::Result<usize> {
        let before = self.sent;
        while self.can_transmit() && self.sent - before < budget as u64 {
            let length = (self.queued - self.sent).min(scratch.len() as u64) as usize;
            let bytes = &mut scratch[..length];
            payload.fill(self.source, self.sent, bytes);
            let now = clock();
            self.offer(self.sent + length as u64, now);
            self.sent += self.readiness.send(stream, bytes)? as u64;
            while let Some(message) = self.unanswered.get_mut(self.complete as usize)
                && message.end <= self.sent
            {
                message.sent = After::new(message.due, now);
                self.complete += 1;
            }
        }
        Ok((self.sent - before) as usize)
    }

    /// The kernel is asked to take the bytes up to `end`.
    fn offer(&mut self, end: u64, now: Instant) {
        while let Some(message) = self.unanswered.get_mut(self.offered as usize)
            && message.start() < end
        {
            if message.offered == After::NEVER {
                message.offered = After::new(message.due, now);
            }
            self.offered += 1;
        }
    }

    /// Reads once into `scratch`. What is read is to be checked by [`Connection::accept`].
    #[inline(always)]
    pub fn receive(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        self.readiness.recv(stream, scratch)
    }

    /// Checks bytes that were read. After a fault the stream cannot be trusted any more.
    pub fn accept(&mut self, reply: &[u8], payload: &Payload) -> Result<(), Fault> {
        let owed = usize::try_from(self.sent - self.received).unwrap_or(usize::MAX);
        let (reply, surplus) = reply.split_at(owed.min(reply.len()));
        payload
            .check(self.source, self.received, reply)
            .map_err(|difference| {
                self.received = difference.offset;
                Fault::Differs(difference)
            })?;
        self.received += reply.len() as u64;
        if surplus.is_empty() {
            Ok(())
        } else {
            Err(Fault::Surplus(self.received))
        }
    }

    /// Counts bytes that are not looked at any more. False: they are more than were sent.
    pub fn pass_over(&mut self, count: usize) -> bool {
        self.received += count as u64;
        self.received <= self.sent
    }

    /// Takes the oldest message whose reply is complete.
    pub fn next_answered(&mut self) -> Option<Message> {
        let complete = self.unanswered.front()?.end <= self.received;
        if !complete {
            return None;
        }
        self.offered -= 1;
        self.complete -= 1;
        self.unanswered.pop_front()
    }

    /// Returns whether a byte of a reply has come.
    pub fn has_replies(&self) -> bool {
        self.received > 0
    }

    /// How many messages have no complete reply.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// The messages without a complete reply, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.unanswered.iter()
    }

    /// Gives up the messages that were due before `deadline`, and shows each.
    pub fn time_out(&mut self, deadline: Instant, mut show: impl FnMut(&Message)) {
        let old = self.unanswered.iter_mut();
        for message in old.take_while(|message| message.due < deadline) {
            if !message.timed_out {
                message.timed_out = true;
                show(message);
            }
        }
    }
}
