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
//! - `unanswered` holds the messages that end after `received`, oldest first.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use crate::load::payload::{Difference, Payload, Source};
use crate::stream::{Hints, Readiness, Received, Stream};

/// The state of one connection.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    readiness: Readiness,
    received: u64,
    sent: u64,
    queued: u64,
    unanswered: VecDeque<Message>,
}

/// A message whose reply is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it was to be sent.
    pub due: Instant,
    /// Where its first byte stands, and where its last one ends.
    start: u64,
    end: u64,
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte is not the upper case of the byte that was sent at its place.
    Differs(Difference),
    /// A byte came that answers nothing: this is its offset.
    Surplus(u64),
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
            unanswered: VecDeque::new(),
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Adds a message of `size` bytes to what is to be sent.
    pub fn queue(&mut self, size: usize, due: Instant) {
        let start = self.queued;
        self.queued += size as u64;
        self.unanswered.push_back(Message {
            due,
            start,
            end: self.queued,
        });
    }

    /// Takes back the messages of which no byte was sent, and tells how many.
    pub fn withdraw(&mut self) -> u64 {
        let mut withdrawn = 0;
        while let Some(last) = self.unanswered.back()
            && last.start >= self.sent
        {
            self.queued = last.start;
            self.unanswered.pop_back();
            withdrawn += 1;
        }
        withdrawn
    }

    /// Whether more could be sent at once.
    pub fn can_transmit(&self) -> bool {
        self.sent < self.queued && self.readiness.is_writable()
    }

    /// Sends what is queued, as far as the kernel takes it and about `budget` bytes; tells how many
    /// bytes were sent.
    pub fn transmit(
        &mut self,
        stream: &mut impl Stream,
        payload: &Payload,
        scratch: &mut [u8],
        budget: usize,
    ) -> io::Result<usize> {
        let before = self.sent;
        while self.can_transmit() && self.sent - before < budget as u64 {
            let length = (self.queued - self.sent).min(scratch.len() as u64) as usize;
            let bytes = &mut scratch[..length];
            payload.fill(self.source, self.sent, bytes);
            self.sent += self.readiness.send(stream, bytes)? as u64;
        }
        Ok((self.sent - before) as usize)
    }

    /// Reads once into `scratch`. What is read is to be checked by [`Connection::accept`].
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
        complete.then(|| self.unanswered.pop_front())?
    }

    /// How many messages have no complete reply.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }
}
