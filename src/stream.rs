//! The interface of a non-blocking byte stream, and the rules of edge-triggered readiness in one
//! place.
//!
//! An edge-triggered epoll reports a change once, and nothing more until the next change, so a
//! reader or writer must remember whether the kernel may still have bytes or room for it.
//! [`Readiness`] keeps that state for one connection. Its rules come from epoll(7),
//! "edge-triggered", and from measurements:
//!
//! - A flag of an event is a hint. It permits an attempt; only the result of the attempt decides.
//! - `EWOULDBLOCK`, a short read or a short write mean that the kernel has no more bytes, or no
//!   more room, and that another event will follow. After `EINTR` the call is repeated.
//! - A short read is not conclusive in two cases: data and FIN may share one event, and a read
//!   stops before an urgent mark. Once an event has reported either, reads continue until
//!   `EWOULDBLOCK` or the end of the stream.
//!
//! Invariant: while a direction is marked as not ready, no system call is made for it.

use std::io;

/// The operations of a non-blocking TCP socket that connections use.
///
/// The kernel's sockets implement it, and so do the scripted streams of the tests.
pub trait Stream {
    /// Receives into `buffer`; 0 is the end of the stream. See recv(2).
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends a prefix of `bytes` and returns its length. See send(2).
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends FIN after everything sent so far. See shutdown(2), `SHUT_WR`.
    fn shutdown_write(&mut self) -> io::Result<()>;
}

/// The flags of one event of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// A read may return bytes, the end of the stream or an error.
    pub readable: bool,
    /// A write may be accepted, or return an error.
    pub writable: bool,
    /// The peer's FIN, an urgent mark or an error is queued: a short read is not conclusive.
    pub exceptional: bool,
    /// The peer's FIN has arrived: the bytes that can still be read are finite.
    pub ended: bool,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The number of bytes that were read, at least one.
    Bytes(usize),
    /// The peer's FIN: no byte follows.
    End,
    /// There is nothing to read now. An event will follow when there is.
    Blocked,
}

/// The readiness of one connection, as it is known between events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    readable: bool,
    writable: bool,
    read_to_end: bool,
    peer_ended: bool,
}

impl Readiness {
    /// Returns the state of a new socket: writable, since its send buffer is empty, and not
    /// readable until its first event.
    ///
    /// Registering a socket with epoll reports what is there already, so nothing is missed.
    pub fn new() -> Self {
        Readiness {
            readable: false,
            writable: true,
            read_to_end: false,
            peer_ended: false,
        }
    }

    /// Records the flags of an event. It sets flags only: they are cleared by the results of reads
    /// and writes.
    #[inline]
    pub fn note(&mut self, hints: Hints) {
        self.readable |= hints.readable;
        self.writable |= hints.writable;
        self.read_to_end |= hints.exceptional;
        self.peer_ended |= hints.ended;
    }

    /// Returns whether an event has reported the peer's FIN.
    pub fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    /// Returns whether a read may return something.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Returns whether a write may be accepted, so that it is worthwhile to prepare bytes for it.
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

    /// Writes once, if there may be room, and returns the number of bytes that were accepted. After
    /// fewer bytes than given, an event will follow when there is room again.
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

/// Classifies the result of a system call. The outer `None` means that it was interrupted and has
/// to be repeated, the inner `None` that it would block.
#[inline(always)]
fn settled(result: io::Result<usize>) -> Option<io::Result<Option<usize>>> {
    match result {
        Ok(count) => Some(Ok(Some(count))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Ok(None)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        Err(error) => Some(Err(error)),
    }
}
