//! One connection of a load run: sends messages, checks replies byte by byte, and determines which
//! message each reply completes. Pure: the socket and the time are arguments.
//!
//! Positions are counted in bytes from the start of the connection. A reply is as long as its
//! message, so positions are the same in both directions:
//!
//! ```text
//!   0 ........ received ........ sent ........ queued
//!     verified          in flight      to be sent
//! ```
//!
//! Invariants:
//! - received ≤ sent ≤ queued; a received byte beyond `sent` is a fault, not a reply.
//! - `unanswered` holds the messages that end after `received`, oldest first. Of the first
//!   `offered` of them at least one byte was passed to send(2); the first `complete` the kernel has
//!   accepted in full.

use std::io;
use std::time::{Duration, Instant};

use crate::echo::Difference;
use crate::load::engine::inline_queue::InlineQueue;
use crate::load::plan::payload::{Payload, Source};
use crate::stream::{Hints, Readiness, Received, Stream};

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    readiness: Readiness,
    received: u64,
    sent: u64,
    queued: u64,
    unanswered: InlineQueue<Message>,
    offered: u32,
    complete: u32,
}

/// A message whose reply is awaited. It is kept small, since every connection may have one, and
/// there may be very many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The time at which it was to be sent.
    pub due: Instant,
    /// The time from which it was due and its connection was free, so that it could be sent.
    sendable: After,
    /// The time of the first send(2) with a byte of it, or the time at which it was queued while
    /// the socket was not writable.
    offered: After,
    /// The time at which the send that took its last byte began.
    sent: After,
    /// The offset of its end in the stream of the connection, and its length in bytes.
    end: u64,
    size: u32,
    /// Whether the message has been counted as lost. Its reply is awaited nevertheless, and
    /// checked.
    pub timed_out: bool,
}

/// A time in nanoseconds after the message was due. It is half the size of an `Instant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct After(u64);

impl After {
    /// An event that has not happened yet.
    const NEVER: After = After(u64::MAX);

    #[inline]
    fn new(due: Instant, at: Instant) -> After {
        if at <= due {
            return After(0); // The usual case in a closed loop; it saves the subtraction.
        }
        After(at.duration_since(due).as_nanos() as u64)
    }

    fn known(self) -> Option<Duration> {
        (self != After::NEVER).then(|| Duration::from_nanos(self.0))
    }
}

/// An error in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte is not the one that is expected in reply to the byte that was sent at its offset.
    Differs(Difference),
    /// A byte arrived before the byte at its offset was sent. The value is this offset.
    Surplus(u64),
}

impl Message {
    /// Returns how long the message waited for a free connection.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.sendable.0)
    }

    /// Returns the time from when the message was due to the beginning of the send that took its
    /// last byte; `None` while bytes are unsent.
    pub fn lateness(&self) -> Option<Duration> {
        self.sent.known()
    }

    /// Returns when the send that took its last byte began; `None` while bytes are unsent.
    pub fn sent_at(&self) -> Option<Instant> {
        Some(self.due + self.lateness()?)
    }

    /// Returns the part of its lateness that the load generator caused: the time in which it could
    /// be sent, and was not offered to the kernel. `age` is the time since it was due.
    pub fn own(&self, age: Duration) -> Duration {
        let offered = self.offered.known().unwrap_or(age);
        offered.saturating_sub(self.waited())
    }

    /// Returns the offset of its end in the stream of its connection.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns its length in bytes.
    pub fn size(&self) -> u64 {
        self.size.into()
    }

    /// Returns whether it is the first message of its connection.
    pub fn is_first(&self) -> bool {
        self.start() == 0
    }

    /// Returns the offset of its first byte.
    fn start(&self) -> u64 {
        self.end - self.size()
    }
}

impl Connection {
    /// Creates the state of a connection that has sent nothing.
    pub fn new(source: Source) -> Self {
        Connection {
            source,
            readiness: Readiness::new(),
            received: 0,
            sent: 0,
            queued: 0,
            unanswered: InlineQueue::default(),
            offered: 0,
            complete: 0,
        }
    }

    /// Records the readiness that an event reports.
    #[inline(always)]
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Adds a message of `size` bytes, less than 4 GiB, to those that [`Connection::transmit`]
    /// sends. It could have been sent since `sendable`.
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

    /// Removes the messages of which no byte was sent, and calls `show` for each that has not timed
    /// out.
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

    /// Returns whether the kernel has accepted all queued bytes.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.queued
    }

    /// Returns whether bytes are queued and the socket is writable.
    pub fn can_transmit(&self) -> bool {
        !self.is_flushed() && self.readiness.is_writable()
    }

    /// Sends queued bytes until the kernel accepts no more or about `budget` bytes were sent.
    /// Returns the number of bytes that were sent. `clock` is read before every send.
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

    /// Records that the bytes up to `end` are passed to the kernel at `now`.
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

    /// Reads once into `scratch`. The caller passes the bytes to [`Connection::accept`] or
    /// [`Connection::pass_over`].
    #[inline(always)]
    pub fn receive(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        self.readiness.recv(stream, scratch)
    }

    /// Checks bytes that were read. After a fault the rest of the stream cannot be assigned to
    /// messages.
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

    /// Returns whether these bytes, in which [`Connection::accept`] found a fault, belong to the
    /// first reply and obey the other rule. `offset`: that of their first byte.
    pub fn obeys_other_rule(&self, offset: u64, reply: &[u8], payload: &Payload) -> bool {
        let is_first = self.unanswered.front().is_some_and(Message::is_first);
        let owed = usize::try_from(self.sent - offset).unwrap_or(usize::MAX);
        let reply = &reply[..owed.min(reply.len())];
        is_first && payload.obeys_other_rule(self.source, offset, reply)
    }

    /// Returns the number of bytes that were received and accepted.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Counts received bytes without checking them. Returns false when more bytes were received
    /// than sent.
    pub fn pass_over(&mut self, count: usize) -> bool {
        self.received += count as u64;
        self.received <= self.sent
    }

    /// Removes and returns the oldest message if its reply is complete.
    pub fn next_answered(&mut self) -> Option<Message> {
        let complete = self.unanswered.front()?.end <= self.received;
        if !complete {
            return None;
        }
        self.offered -= 1;
        self.complete -= 1;
        self.unanswered.pop_front()
    }

    /// Returns whether a byte of a reply has arrived.
    pub fn has_replies(&self) -> bool {
        self.received > 0
    }

    /// Returns the number of messages without a complete reply.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Returns the messages without a complete reply, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.unanswered.iter()
    }

    /// Marks the messages that were due before `deadline` as timed out, and calls `show` for each
    /// that was not marked before.
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
