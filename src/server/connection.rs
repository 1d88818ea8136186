//! One client of the server, as a state machine: reads, converts, answers and closes. Pure: the
//! socket is an argument, so the same code runs on the kernel and on scripted streams.
//!
//! ```text
//!        Open ── FIN received ──► closed: Finished
//!        │  ▲      down: idle timeout, or the server stops and the client is silent or out of time
//!        ▼  │      up: the client has sent more after all
//!      Finishing ── all answered, FIN sent ──► Lingering ── FIN received, or
//!                                                           the linger time is over ──► closed
//! ```
//!
//! The client's FIN is read when everything before it has been answered, so only closing remains:
//! close(2) sends our FIN after the replies that are still in the kernel's send buffer.
//!
//! An error of the socket closes the connection from every state, with the reason of that error.
//! The owner may also close the connection between two turns, because the client acknowledges too
//! little.
//!
//! Invariants:
//! - Bytes are sent in the order in which they were received, each converted once.
//! - While bytes are pending nothing is read, so at most one read's worth is ever pending.
//! - A connection without pending bytes owns no buffer.

use std::io;

use crate::echo::convert;
use crate::server::stats::{CloseReason, Traffic};
use crate::stream::{Hints, Readiness, Received, Stream};

/// The state of one client. It is kept small: there may be very many.
#[derive(Debug)]
pub struct Connection {
    pending: Option<Box<[Pending; 1]>>,
    readiness: Readiness,
    phase: Phase,
}

/// Converted bytes that the kernel has not taken yet: those from `sent` on.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
}

impl Pending {
    /// Copies these bytes. Fails when there is no memory for them. `Box::try_new` is not stable, so
    /// the box, which keeps [`Connection`] small, is made from a vector of one element.
    #[inline(never)]
    fn copy(bytes: &[u8]) -> io::Result<Box<[Pending; 1]>> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len())?;
        copy.extend_from_slice(bytes);
        let mut one = Vec::new();
        one.try_reserve_exact(1)?;
        one.push(Pending {
            bytes: copy,
            sent: 0,
        });
        // Its capacity is its length, so nothing is allocated here.
        let one: Result<Box<[Pending; 1]>, _> = one.into_boxed_slice().try_into();
        one.map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// FIN is to be sent; on last call, even if the client still sends.
    Finishing {
        reason: CloseReason,
        last_call: bool,
    },
    /// FIN was sent: bytes that still arrive cannot be answered.
    Lingering {
        reason: CloseReason,
        over: bool,
    },
}

/// The outcome of a connection's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more can be done now; an event will follow.
    Waiting,
    /// The budget is spent. No event will follow, so the connection must be given another turn.
    Unfinished,
    /// FIN was sent in this turn: the client's time to close its side begins. There may be no
    /// event, so the connection must be given another turn.
    Lingers,
    /// The connection has ended.
    Closed(CloseReason),
    /// The connection has ended for a reason that no client causes: [`CloseReason::Failed`].
    Failed(io::ErrorKind),
}

impl Progress {
    #[cold]
    fn of_error(error: &io::Error) -> Progress {
        match CloseReason::of_error(error) {
            CloseReason::Failed => Progress::Failed(error.kind()),
            reason => Progress::Closed(reason),
        }
    }
}

/// The outcome of the first half of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// This number of bytes was read. They must be answered before the next call for this
    /// connection.
    Read(usize),
    /// The whole turn is over.
    Whole(Progress),
}

impl Default for Connection {
    fn default() -> Self {
        Connection::new()
    }
}

impl Connection {
    /// Returns the state of a client that was just accepted.
    pub fn new() -> Self {
        Connection {
            pending: None,
            readiness: Readiness::new(),
            phase: Phase::Open,
        }
    }

    /// Records an event.
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Begins a turn with one read into `buffer`. The bytes read must then be given to
    /// [`Connection::answer`]. If there is, or may be, more to do than that, does all of it, like
    /// [`Connection::serve`].
    #[inline(always)]
    pub fn begin(
        &mut self,
        stream: &mut impl Stream,
        buffer: &mut [u8],
        budget: usize,
        traffic: &mut Traffic,
    ) -> Half {
        if self.phase != Phase::Open || self.pending.is_some() {
            return Half::Whole(self.serve(stream, buffer, budget, traffic));
        }
        match self.receive(stream, buffer, traffic) {
            Ok(Received::Bytes(count)) if count < budget && !self.readiness.is_readable() => {
                Half::Read(count)
            }
            Ok(Received::Bytes(count)) => {
                let answered = self.answer(stream, &mut buffer[..count], traffic);
                Half::Whole(match answered {
                    Progress::Waiting => {
                        self.serve(stream, buffer, budget.saturating_sub(count), traffic)
                    }
                    over => over,
                })
            }
            Ok(Received::End) => Half::Whole(Progress::Closed(CloseReason::Finished)),
            Ok(Received::Blocked) => Half::Whole(Progress::Waiting),
            Err(error) => Half::Whole(Progress::of_error(&error)),
        }
    }

    /// Runs the second half of a turn: converts the bytes that were read, and sends them.
    #[inline(always)]
    pub fn answer(
        &mut self,
        stream: &mut impl Stream,
        bytes: &mut [u8],
        traffic: &mut Traffic,
    ) -> Progress {
        match self.reply(stream, bytes, traffic) {
            Ok(()) => Progress::Waiting,
            Err(error) => Progress::of_error(&error),
        }
    }

    /// Does what can be done now without blocking, until `budget` bytes have been received (rounded
    /// up to whole reads). `scratch` is overwritten; its length is the maximum of one read.
    pub fn serve(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        budget: usize,
        traffic: &mut Traffic,
    ) -> Progress {
        self.advance(stream, scratch, budget, traffic)
            .unwrap_or_else(|error| Progress::of_error(&error))
    }

    /// Decides whether a client of a stopping server is to be sent FIN; to be called at regular
    /// intervals. `is_quiet`: no byte was received or sent for long enough. On last call, clients
    /// that are not silent are sent FIN too. The next [`Connection::serve`] carries out the
    /// decision.
    pub fn check_drain(&mut self, is_quiet: bool, last_call: bool) {
        let is_silent = is_quiet && self.pending.is_none();
        // A client that has sent FIN is answered to the end: its input is finite.
        let last_call = last_call && !self.readiness.has_peer_ended();
        match &mut self.phase {
            Phase::Open if is_silent || last_call => {
                self.phase = Phase::Finishing {
                    reason: CloseReason::Stopped,
                    last_call,
                };
            }
            Phase::Finishing {
                last_call: called, ..
            } => *called |= last_call,
            Phase::Open | Phase::Lingering { .. } => {}
        }
    }

    /// Ends a connection that has been idle for too long: the next [`Connection::serve`] sends FIN,
    /// unless the client has sent more by then.
    pub fn end_idle(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Finishing {
                reason: CloseReason::Idle,
                last_call: false,
            };
        }
    }

    /// Ends the client's time to close its side: the next [`Connection::serve`] closes the
    /// connection.
    pub fn end_linger(&mut self) {
        if let Phase::Lingering { over, .. } = &mut self.phase {
            *over = true;
        }
    }

    /// Reads once more, and returns the reason for which the connection ends now. The caller must
    /// close the socket.
    pub fn cut(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        traffic: &mut Traffic,
    ) -> CloseReason {
        if self.pending.is_some() {
            return CloseReason::Cut;
        }
        match (self.ask(stream, scratch, traffic), self.phase) {
            (Ok(Received::Bytes(_)), Phase::Lingering { .. }) => CloseReason::Late,
            (Ok(Received::Bytes(_)), _) => CloseReason::Cut,
            (Ok(_), Phase::Lingering { reason, .. }) => reason,
            (Ok(Received::End), _) => CloseReason::Finished,
            (Ok(Received::Blocked), _) => CloseReason::Stopped,
            (Err(error), _) => CloseReason::of_error(&error),
        }
    }

    /// Returns the number of bytes received and converted that the kernel has not taken yet.
    pub fn pending(&self) -> usize {
        let pending = self.pending.as_ref();
        pending.map_or(0, |pending| pending[0].bytes.len() - pending[0].sent)
    }

    fn advance(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        budget: usize,
        traffic: &mut Traffic,
    ) -> io::Result<Progress> {
        let budget_end = traffic.bytes_in + budget as u64;
        while traffic.bytes_in < budget_end {
            if !self.flush(stream, traffic)? {
                return Ok(Progress::Waiting);
            }
            match self.phase {
                Phase::Open => match self.receive(stream, scratch, traffic)? {
                    Received::Bytes(count) => {
                        self.reply(stream, &mut scratch[..count], traffic)?;
                    }
                    Received::End => return Ok(Progress::Closed(CloseReason::Finished)),
                    Received::Blocked => return Ok(Progress::Waiting),
                },
                // Bytes that no event has reported yet are answered first.
                Phase::Finishing { reason, last_call } => {
                    let found = match last_call {
                        true => Received::Blocked,
                        false => self.ask(stream, scratch, traffic)?,
                    };
                    match found {
                        Received::Bytes(count) => {
                            self.phase = Phase::Open;
                            self.reply(stream, &mut scratch[..count], traffic)?;
                        }
                        Received::End => return Ok(Progress::Closed(CloseReason::Finished)),
                        Received::Blocked => return self.send_fin(stream, reason),
                    }
                }
                Phase::Lingering { reason, over } => {
                    let found = match over {
                        true => self.ask(stream, scratch, traffic)?,
                        false => self.receive(stream, scratch, traffic)?,
                    };
                    match found {
                        Received::Bytes(_) if over => {
                            return Ok(Progress::Closed(CloseReason::Late));
                        }
                        Received::Bytes(_) => {
                            self.phase = Phase::Lingering {
                                reason: CloseReason::Late,
                                over,
                            };
                        }
                        Received::Blocked if !over => return Ok(Progress::Waiting),
                        Received::Blocked | Received::End => return Ok(Progress::Closed(reason)),
                    }
                }
            }
        }
        Ok(Progress::Unfinished)
    }

    /// Reads even if no event has reported that there is something to read.
    fn ask(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        traffic: &mut Traffic,
    ) -> io::Result<Received> {
        self.readiness.note(Hints {
            readable: true,
            writable: false,
            exceptional: true,
            ended: false,
        });
        self.receive(stream, scratch, traffic)
    }

    fn send_fin(&mut self, stream: &mut impl Stream, reason: CloseReason) -> io::Result<Progress> {
        stream.shutdown_write()?;
        self.phase = Phase::Lingering {
            reason,
            over: false,
        };
        Ok(Progress::Lingers)
    }

    /// Sends the pending bytes. Returns false when some of them are still pending.
    fn flush(&mut self, stream: &mut impl Stream, traffic: &mut Traffic) -> io::Result<bool> {
        let Some(pending) = &mut self.pending else {
            return Ok(true);
        };
        let [pending] = &mut **pending;
        let sent = self
            .readiness
            .send(stream, &pending.bytes[pending.sent..])?;
        traffic.bytes_out += sent as u64;
        pending.sent += sent;
        let done = pending.sent == pending.bytes.len();
        if done {
            self.pending = None;
        }
        Ok(done)
    }

    #[inline(always)]
    fn receive(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        traffic: &mut Traffic,
    ) -> io::Result<Received> {
        let received = self.readiness.recv(stream, scratch)?;
        if let Received::Bytes(count) = received {
            traffic.bytes_in += count as u64;
        }
        Ok(received)
    }

    /// Converts the bytes and sends them at once; copies only those that the kernel does not take.
    #[inline(always)]
    fn reply(
        &mut self,
        stream: &mut impl Stream,
        bytes: &mut [u8],
        traffic: &mut Traffic,
    ) -> io::Result<()> {
        convert(bytes);
        let sent = self.readiness.send(stream, bytes)?;
        traffic.bytes_out += sent as u64;
        if sent < bytes.len() {
            self.pending = Some(Pending::copy(&bytes[sent..])?);
        }
        Ok(())
    }
}
