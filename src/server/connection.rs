//! One client of the server: reads, converts, answers, ends. Pure: the socket comes in as an
//! argument, so the same code runs on the kernel and on scripted streams.
//!
//! ```text
//!        Open ── FIN of the client ──► closed: Finished
//!        │  ▲ the server stops and the client is silent or has had its time; it was idle too long
//!        ▼  │ it was not silent after all
//!      Finishing ── all answered, FIN sent ──► Lingering ── FIN of the client, or
//!                                                           the linger is over ──► closed
//! ```
//!
//! The client's FIN is read when everything before it has been answered, so closing is all that is
//! left to do: close(2) sends our FIN, behind what the kernel still holds of the replies.
//!
//! Any error of the socket closes from every state, with the reason of that error. Whoever owns the
//! connection may also close it between two turns, for taking too little of what it is owed.
//!
//! Invariants:
//! - Bytes go out in the order in which they came, each converted once.
//! - While bytes are pending nothing is read, so at most one read's worth is ever pending.
//! - A connection without pending bytes owns no buffer.

use std::io;

use multiversion::multiversion;

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
    /// the one box, which keeps [`Connection`] small, is made of a vector of one.
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
    /// Our FIN is to be sent; on last call, whatever the client still sends.
    Finishing {
        reason: CloseReason,
        last_call: bool,
    },
    /// Our FIN is sent: what still comes cannot be answered.
    Lingering {
        reason: CloseReason,
        over: bool,
    },
}

/// How a connection's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The kernel has nothing more for it; an event will come.
    Waiting,
    /// Its budget is spent; no event will come, so it must be given another turn.
    Unfinished,
    /// Our FIN was sent just now: the client's time to send its own begins. No event may come, so
    /// it must be given another turn.
    Lingers,
    /// It is over.
    Closed(CloseReason),
    /// The connection is over, for a reason that no client causes: [`CloseReason::Failed`].
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

/// How the first half of a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// So many bytes were read; they are to be answered before anything else happens to it.
    Read(usize),
    /// The turn is over.
    Whole(Progress),
}

impl Default for Connection {
    fn default() -> Self {
        Connection::new()
    }
}

impl Connection {
    /// A client that was just accepted.
    pub fn new() -> Self {
        Connection {
            pending: None,
            readiness: Readiness::new(),
            phase: Phase::Open,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Begins a turn: reads once into `buffer`, of which [`Connection::answer`] is to be given what
    /// was read. When there is, or may be, more to do than that, it does all of it, as
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

    /// The second half: converts what was read, and sends it.
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

    /// Does what can be done now without blocking, for at most `budget` bytes received (rounded up
    /// to whole reads). `scratch` is free to use; its length is the most that one read takes.
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

    /// A stopping server looks at this connection, at regular times: no byte has come or gone for
    /// long enough, or not. On last call, clients that do not fall silent have had their time. The
    /// next [`Connection::serve`] carries out what was decided.
    pub fn look(&mut self, is_quiet: bool, last_call: bool) {
        let is_silent = is_quiet && self.pending.is_none();
        // Who has sent FIN is answered to the end: there is one.
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

    /// It has been silent for too long. The next [`Connection::serve`] sends FIN, unless the client
    /// is not silent after all.
    pub fn end_idle(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Finishing {
                reason: CloseReason::Idle,
                last_call: false,
            };
        }
    }

    /// The client has had its time to close its side. The next [`Connection::serve`] closes ours.
    pub fn end_linger(&mut self) {
        if let Phase::Lingering { over, .. } = &mut self.phase {
            *over = true;
        }
    }

    /// It is to end now. Tells how, after one more look at what the client sent; the socket is to
    /// be closed after it.
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

    /// Bytes received and converted that the kernel has not taken yet.
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
                // What no event has told yet is answered first.
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

    /// Reads, whether an event has told that there is something or not.
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

    /// Sends what is pending; false when some of it still is.
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

    /// Converts and sends at once; only what the kernel does not take is copied.
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

/// Into upper case, ASCII alone; many bytes by the widest instructions that the machine has. For
/// few, a call costs more than they save.
#[inline(always)]
pub fn convert(bytes: &mut [u8]) {
    const MANY: usize = 4096;
    if bytes.len() < MANY {
        bytes.make_ascii_uppercase();
    } else {
        convert_many(bytes);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn convert_many(bytes: &mut [u8]) {
    bytes.make_ascii_uppercase();
}

#[cfg(test)]
mod tests {
    use super::convert;

    /// Byte by byte, written out.
    fn upper(byte: u8) -> u8 {
        match byte {
            97..=122 => byte - 32,
            _ => byte,
        }
    }

    #[test]
    fn every_byte_is_converted_wherever_it_stands() {
        let lengths = (0..130).chain(4090..4230).chain([65_536 + 17]);
        for length in lengths {
            for shift in [0, 1, 31] {
                let plain: Vec<u8> = (shift..shift + length).map(|byte| byte as u8).collect();
                let mut bytes = vec![b'x'; shift];
                bytes.extend_from_slice(&plain);
                convert(&mut bytes[shift..]);
                let expected: Vec<u8> = plain.iter().map(|&byte| upper(byte)).collect();
                assert_eq!(
                    bytes[shift..],
                    expected,
                    "{length} bytes, shifted by {shift}"
                );
                assert!(bytes[..shift].iter().all(|&byte| byte == b'x'));
            }
        }
    }
}
