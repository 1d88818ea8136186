//! A byte stream that never blocks, and the rules of edge-triggered readiness, obeyed in one place.
//!
//! epoll says "something happened" once and then is silent until something happens again, so
//! whoever reads or writes must know when the kernel has nothing more to say. [`Readiness`] keeps
//! that knowledge for one connection. Its rules (epoll(7), "edge-triggered", and measurements):
//!
//! - A flag of an event is a hint. It permits a try; only the result of the try decides.
//! - `EWOULDBLOCK`, a short read or a short write mean that the kernel is drained and that another
//!   edge will come. `EINTR` means nothing at all: try again.
//! - Two things make a short read not final: data and FIN may share one event, and a read stops
//!   before an urgent mark. Once an event spoke of either, reads go on to `EWOULDBLOCK` or the end.
//!
//! Invariant: while a direction is marked not ready, no system call is made in it.

use std::io;

/// What the connections need of a TCP socket in non-blocking mode.
///
/// The kernel's sockets implement it, and so do the scripted ones of the tests.
pub trait Stream {
    /// Receives into `buffer`; 0 is the end of the stream. See recv(2).
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends a prefix of `bytes` and tells its length. See send(2).
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends FIN after everything sent so far. See shutdown(2), `SHUT_WR`.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

/// What one event said of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// A read may find bytes, the end or an error.
    pub readable: bool,
    /// A write may be accepted, or find an error.
    pub writable: bool,
    /// The peer's FIN, an urgent mark or an error is in the queue: a short read is not final.
    pub exceptional: bool,
    /// The peer's FIN has come: what can still be read is finite.
    pub ended: bool,
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The peer's FIN: no byte follows.
    End,
    /// Nothing now; an event will say when.
    Blocked,
}

/// What is known of one connection's readiness between events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    readable: bool,
    writable: bool,
    read_to_end: bool,
    peer_ended: bool,
}

impl Readiness {
    /// A fresh socket: writable, since its send buffer is empty, and silent until its first event.
    ///
    /// Registering a socket reports what is there already, so nothing is missed.
    pub fn new() -> Self {
        Readiness {
            readable: false,
            writable: true,
            read_to_end: false,
            peer_ended: false,
        }
    }

    /// Takes note of an event. Nothing is forgotten: a flag is cleared by results only.
    #[inline]
    pub fn note(&mut self, hints: Hints) {
        self.readable |= hints.readable;
        self.writable |= hints.writable;
        self.read_to_end |= hints.exceptional;
        self.peer_ended |= hints.ended;
    }

    /// Whether an event has told of the peer's FIN.
    pub fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// Whether a read may find something.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write may be accepted, so that it is worth while to prepare bytes for it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads once, if there may be something to read.
    #[inline(always)]
    pub fn recv(&mut self, stream: &mut impl Stream, buffer: &mut [u8]) -> io::Result<Received> {
        if !self.readable {
            return Ok(Received::Blocked);
        }
        let received = loop {
            if let Some(received) = settled(stream.recv(buffer)) {
                break received?;
            }
        };
        match received {
            None => {
                self.readable = false;
                Ok(Received::Blocked)
            }
            Some(0) => Ok(Received::End),
            Some(received) => {
                self.readable = received == buffer.len() || self.read_to_end;
                Ok(Received::Bytes(received))
            }
        }
    }

    /// Writes once, if there may be room. Fewer bytes than given: an event will say when to go on.
    #[inline(always)]
    pub fn send(&mut self, stream: &mut impl Stream, bytes: &[u8]) -> io::Result<usize> {
        if !self.writable || bytes.is_empty() {
            return Ok(0);
        }
        let sent = loop {
            if let Some(sent) = settled(stream.send(bytes)) {
                break sent?.unwrap_or(0);
            }
        };
        self.writable = sent == bytes.len();
        Ok(sent)
    }
}

/// What a call came to: `None` when it was interrupted and is to be made again, and in it `None`
/// when it would block.
#[inline(always)]
fn settled(result: io::Result<usize>) -> Option<io::Result<Option<usize>>> {
    match result {
        Ok(count) => Some(Ok(Some(count))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Ok(None)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        Err(error) => Some(Err(error)),
    }
}
