//! What a run measured. Pure data: measuring cannot print, and printing cannot measure.
//!
//! Invariant at the end of a run:
//! scheduled = verified + mismatched + errored + timed out + unanswered.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::load::connection::Fault;
use crate::load::latency::Latency;
use crate::load::payload::Difference;
use crate::load::plan::Plan;
use crate::server::stats::Totals;

/// The result of a load run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was to be done.
    pub plan: Plan,
    /// What became of it.
    pub results: Results,
    /// From the first message to the end of sending, or to the last reply when that came later.
    pub elapsed: Duration,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// What the server of this process counted, when the run had one.
    pub own_server: Option<Totals>,
}

/// What a run has measured so far.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Connections and messages.
    pub counts: Counts,
    /// From when a message was due until the last byte of its reply was read.
    pub response: Latency,
    /// What broke connections, by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first wrong byte, and the number of the connection it came on.
    pub first_difference: Option<(u32, Difference)>,
}

/// What became of connections and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that came up.
    pub opened: u32,
    /// Connections that did not.
    pub failed: u32,
    /// Messages that were to be sent.
    pub scheduled: u64,
    /// Messages whose reply is right in every byte.
    pub verified: u64,
    /// Messages whose reply is wrong.
    pub mismatched: u64,
    /// Messages lost with their connection.
    pub errored: u64,
    /// Messages whose reply came too late; none in a closed loop, which waits for each.
    pub timed_out: u64,
    /// Messages without a complete reply at the end.
    pub unanswered: u64,
    /// Bytes of verified messages, one way.
    pub verified_bytes: u64,
}

/// What can break a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Nothing listens.
    Refused,
    /// No connection within [`crate::load::plan::PATIENCE`], or the kernel gave the peer up.
    TimedOut,
    /// The server reset the connection.
    Reset,
    /// The server closed its side before the run did.
    ClosedEarly,
    /// A reply was wrong.
    WrongReply,
    /// Bytes came that answer nothing.
    SurplusBytes,
    /// The server did not close its side within [`crate::load::plan::CLOSE_PATIENCE`].
    NotClosed,
    /// No local port is left for this pair of addresses.
    NoPort,
    /// Any other error, by its errno.
    Os(i32),
}

impl ErrorKind {
    /// The kind of an error of a socket call.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe => ErrorKind::Reset,
            io::ErrorKind::AddrNotAvailable => ErrorKind::NoPort,
            _ => ErrorKind::Os(error.raw_os_error().unwrap_or(0)),
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Refused => write!(f, "connection refused"),
            ErrorKind::TimedOut => write!(f, "timed out"),
            ErrorKind::Reset => write!(f, "connection reset"),
            ErrorKind::ClosedEarly => write!(f, "closed early by the server"),
            ErrorKind::WrongReply => write!(f, "wrong reply"),
            ErrorKind::SurplusBytes => write!(f, "surplus bytes"),
            ErrorKind::NotClosed => write!(f, "not closed by the server"),
            ErrorKind::NoPort => write!(f, "no local port left"),
            ErrorKind::Os(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl Summary {
    /// Whether everything that was to be done was done, and every byte was right.
    pub fn is_good(&self) -> bool {
        let counts = &self.results.counts;
        counts.opened == self.plan.connections
            && counts.scheduled > 0
            && counts.verified == counts.scheduled
            && self.results.errors.is_empty()
    }

    /// Verified messages a second; 0 when there were none.
    pub fn achieved_rate(&self) -> f64 {
        self.per_second(self.results.counts.verified)
    }

    /// Verified bytes a second, one way.
    pub fn bytes_per_second(&self) -> f64 {
        self.per_second(self.results.counts.verified_bytes)
    }

    fn per_second(&self, count: u64) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            count as f64 / self.elapsed.as_secs_f64()
        }
    }
}

impl Results {
    /// A message was answered rightly.
    pub fn verified(&mut self, bytes: usize, response: Duration) {
        self.counts.verified += 1;
        self.counts.verified_bytes += bytes as u64;
        self.response.record(response);
    }

    /// So many connections were not even tried, since nothing came of those before them.
    pub fn not_tried(&mut self, connections: u32) {
        if connections > 0 {
            self.counts.failed += connections;
            *self.errors.entry(ErrorKind::TimedOut).or_default() += u64::from(connections);
        }
    }

    /// A connection broke, and so many messages with it.
    pub fn broke(&mut self, kind: ErrorKind, messages: u64) {
        *self.errors.entry(kind).or_default() += 1;
        let mismatched = u64::from(kind == ErrorKind::WrongReply).min(messages);
        self.counts.mismatched += mismatched;
        self.counts.errored += messages - mismatched;
    }

    /// A reply was wrong: what that means for its connection.
    pub fn fault(&mut self, connection: u32, fault: Fault) -> ErrorKind {
        match fault {
            Fault::Surplus(_) => ErrorKind::SurplusBytes,
            Fault::Differs(difference) => {
                self.first_difference
                    .get_or_insert((connection, difference));
                ErrorKind::WrongReply
            }
        }
    }

    /// Connections that were not opened, nor failed: the run ended before.
    pub fn not_opened(&self, asked: u32) -> u32 {
        asked - self.counts.opened - self.counts.failed
    }

    /// Messages that have no fate yet.
    pub fn outstanding(&self) -> u64 {
        let Counts {
            scheduled,
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
            ..
        } = self.counts;
        scheduled - verified - mismatched - errored - timed_out - unanswered
    }
}
