//! One client of the server: reads, converts, answers, ends. Pure: the socket comes in as an
//! argument, so the same code runs on the kernel and on scripted streams.
//!
//! ```text
//!                    FIN of the client             all answered
//!        Open ───────────────────────► ClientEnded ────────────► closed: Finished
//!        │  ▲ the server stops, and the client is silent, or has had its time
//!        ▼  │ it was not silent after all
//!      Finishing ── all answered, FIN sent ──► Lingering ── FIN of the client, or
//!                                                           the linger is over ──► closed: Stopped
//! ```
//!
//! A client of a stopping server that takes nothing of what is pending is closed as Cut.
//!
//! Any error of the socket closes from every state, with the reason of that error.
//!
//! Invariants:
//! - Bytes go out in the order in which they came, each converted once.
//! - While bytes are pending nothing is read, so at most one read's worth is ever pending.
//! - A connection without pending bytes owns no buffer.

use std::io;

use crate::server::stats::{CloseReason, Traffic};
use crate::stream::{Hints, Readiness, Received, Stream};

/// The state of one client.
#[derive(Debug)]
pub struct Connection {
    /// Converted bytes that the kernel has not taken yet: those from `pending_sent` on.
    pending: Vec<u8>,
    pending_sent: u32,
    readiness: Readiness,
    phase: Phase,
    /// Looks of a stopping server since a byte moved last.
    idle_looks: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    ClientEnded,
    /// Our FIN is to be sent; on last call, whatever the client still sends.
    Finishing {
        linger: u16,
        last_call: bool,
    },
    /// Our FIN is sent: what still comes cannot be answered.
    Lingering {
        looks_left: u16,
        late: bool,
    },
    /// It takes nothing of what is pending.
    Stalled,
}

/// How a stopping server looks at its clients, at regular times.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Looks that a client gets to close its side after our FIN.
    pub linger: u16,
    /// Looks after which a client that takes nothing is given up.
    pub stall: u16,
    /// Clients that do not fall silent have had their time.
    pub last_call: bool,
}

/// How a connection's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The kernel has nothing more for it; an event will come.
    Waiting,
    /// Its budget is spent; no event will come, so it must be given another turn.
    Unfinished,
    /// It is over.
    Closed(CloseReason),
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
            pending: Vec::new(),
            pending_sent: 0,
            readiness: Readiness::new(),
            phase: Phase::Open,
            idle_looks: 0,
        }
    }

    /// Takes note of an event.
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
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
        let before = *traffic;
        let progress = self
            .advance(stream, scratch, budget, traffic)
            .unwrap_or_else(|error| Progress::Closed(CloseReason::of_error(&error)));
        if *traffic != before {
            self.idle_looks = 0;
        }
        progress
    }

    /// A stopping server looks at this connection. The next [`Connection::serve`] carries out what
    /// was decided.
    pub fn look(&mut self, look: Look) {
        let silent = self.idle_looks > 0 && self.pending.is_empty();
        // Who has sent FIN is answered to the end: there is one.
        let last_call = look.last_call && !self.readiness.has_peer_ended();
        match &mut self.phase {
            Phase::Open if silent || last_call => {
                self.phase = Phase::Finishing {
                    linger: look.linger,
                    last_call,
                };
            }
            Phase::Finishing {
                last_call: called, ..
            } => *called |= last_call,
            Phase::Lingering { looks_left, .. } => *looks_left = looks_left.saturating_sub(1),
            Phase::Open | Phase::ClientEnded | Phase::Stalled => {}
        }
        if !self.pending.is_empty() && self.idle_looks >= look.stall {
            self.phase = Phase::Stalled;
        }
        self.idle_looks = self.idle_looks.saturating_add(1);
    }

    /// The client has acknowledged some of what the kernel took before: it is reading.
    pub fn note_progress(&mut self) {
        self.idle_looks = 0;
    }

    /// Bytes received and converted that the kernel has not taken yet.
    pub fn pending(&self) -> usize {
        self.pending.len() - self.pending_sent as usize
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
            if !self.flush(stream, traffic)? && self.phase != Phase::Stalled {
                return Ok(Progress::Waiting);
            }
            match self.phase {
                Phase::Open => match self.receive(stream, scratch, traffic)? {
                    Received::Bytes(count) => {
                        self.answer(stream, &mut scratch[..count], traffic)?;
                    }
                    Received::End => self.phase = Phase::ClientEnded,
                    Received::Blocked => return Ok(Progress::Waiting),
                },
                Phase::ClientEnded => {
                    stream.shutdown_write()?;
                    return Ok(Progress::Closed(CloseReason::Finished));
                }
                Phase::Finishing { linger, last_call } => {
                    if last_call || self.is_silent(stream, scratch, traffic)? {
                        stream.shutdown_write()?;
                        self.phase = Phase::Lingering {
                            looks_left: linger,
                            late: false,
                        };
                    }
                }
                Phase::Lingering { looks_left, late } => {
                    match self.receive(stream, scratch, traffic)? {
                        Received::Bytes(_) if looks_left == 0 => {
                            return Ok(Progress::Closed(CloseReason::Late));
                        }
                        Received::Bytes(_) => {
                            self.phase = Phase::Lingering {
                                looks_left,
                                late: true,
                            };
                        }
                        Received::Blocked if looks_left > 0 => return Ok(Progress::Waiting),
                        Received::Blocked | Received::End if late => {
                            return Ok(Progress::Closed(CloseReason::Late));
                        }
                        Received::Blocked | Received::End => {
                            return Ok(Progress::Closed(CloseReason::Stopped));
                        }
                    }
                }
                Phase::Stalled => return Ok(Progress::Closed(CloseReason::Cut)),
            }
        }
        Ok(Progress::Unfinished)
    }

    /// Asks the kernel itself, before FIN, whether the client has sent something that no event has
    /// told yet. What it has sent is answered first.
    fn is_silent(
        &mut self,
        stream: &mut impl Stream,
        scratch: &mut [u8],
        traffic: &mut Traffic,
    ) -> io::Result<bool> {
        self.readiness.note(Hints {
            readable: true,
            writable: false,
            exceptional: true,
            ended: false,
        });
        match self.receive(stream, scratch, traffic)? {
            Received::Blocked => return Ok(true),
            Received::Bytes(count) => {
                self.phase = Phase::Open;
                self.answer(stream, &mut scratch[..count], traffic)?;
            }
            Received::End => self.phase = Phase::ClientEnded,
        }
        Ok(false)
    }

    /// Sends what is pending; false when some of it still is.
    fn flush(&mut self, stream: &mut impl Stream, traffic: &mut Traffic) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        let rest = &self.pending[self.pending_sent as usize..];
        let sent = self.readiness.send(stream, rest)?;
        traffic.bytes_out += sent as u64;
        self.pending_sent += sent as u32;
        let done = self.pending_sent as usize == self.pending.len();
        if done {
            self.pending = Vec::new();
            self.pending_sent = 0;
        }
        Ok(done)
    }

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
    fn answer(
        &mut self,
        stream: &mut impl Stream,
        bytes: &mut [u8],
        traffic: &mut Traffic,
    ) -> io::Result<()> {
        bytes.make_ascii_uppercase();
        let sent = self.readiness.send(stream, bytes)?;
        traffic.bytes_out += sent as u64;
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}
