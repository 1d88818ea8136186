//! The server's counters: clients by the reason for their end, bytes by direction, turns by their
//! duration. Pure.
//!
//! Invariant: accepted = open + the sum of closed over all reasons.

use std::fmt;
use std::io;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{counted, grouped};

/// The reason for which a connection ended. An error that a peer causes is counted like any other
/// reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// The client closed its side and every byte was answered.
    Finished,
    /// The client reset the connection: ECONNRESET, EPIPE, ECONNABORTED or ENOTCONN.
    Reset,
    /// The client could not be reached: ETIMEDOUT, EHOSTUNREACH or ENETUNREACH, or it answered no
    /// keep-alive probe.
    TimedOut,
    /// The client was silent for the idle timeout, and was owed nothing.
    Idle,
    /// The client acknowledged too little of what it was owed, see `stall_timeout` of the limits.
    Stalled,
    /// The address of the client had the maximum number of connections.
    Refused,
    /// The server stopped; every byte that arrived before its FIN was answered.
    Stopped,
    /// The client sent bytes after the server's FIN, and they were not answered.
    Late,
    /// The server stopped, and could not deliver what it owed this client.
    Cut,
    /// A system call failed in a way that no peer causes.
    Failed,
}

impl CloseReason {
    /// All reasons, in the order in which they are reported.
    pub const ALL: [CloseReason; 10] = [
        CloseReason::Finished,
        CloseReason::Reset,
        CloseReason::TimedOut,
        CloseReason::Idle,
        CloseReason::Stalled,
        CloseReason::Refused,
        CloseReason::Stopped,
        CloseReason::Late,
        CloseReason::Cut,
        CloseReason::Failed,
    ];

    /// Returns the reason for an error of recv(2), send(2) or shutdown(2).
    pub fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected => CloseReason::Reset,
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => CloseReason::TimedOut,
            _ => CloseReason::Failed,
        }
    }

    /// Returns whether the connection is closed by RST. FIN would mean that the reply is complete;
    /// besides, a stalled client would keep its kernel memory, a refused one would leave a socket
    /// in TIME_WAIT here, and the kernel would retransmit to one that has vanished.
    pub fn resets(self) -> bool {
        match self {
            CloseReason::TimedOut
            | CloseReason::Stalled
            | CloseReason::Refused
            | CloseReason::Cut
            | CloseReason::Failed => true,
            CloseReason::Finished
            | CloseReason::Reset
            | CloseReason::Idle
            | CloseReason::Stopped
            | CloseReason::Late => false,
        }
    }

    /// Returns whether the server ends with exit code 1 because of such a connection: it stopped
    /// before it had delivered what it owed.
    pub fn is_failure(self) -> bool {
        match self {
            CloseReason::Cut => true,
            CloseReason::Finished
            | CloseReason::Reset
            | CloseReason::TimedOut
            | CloseReason::Idle
            | CloseReason::Stalled
            | CloseReason::Refused
            | CloseReason::Stopped
            | CloseReason::Late
            | CloseReason::Failed => false,
        }
    }

    /// Returns the reason in words.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Finished => "finished",
            CloseReason::Reset => "reset",
            CloseReason::TimedOut => "timed out",
            CloseReason::Idle => "idle",
            CloseReason::Stalled => "stalled",
            CloseReason::Refused => "refused",
            CloseReason::Stopped => "stopped",
            CloseReason::Late => "late",
            CloseReason::Cut => "cut",
            CloseReason::Failed => "failed",
        }
    }
}

/// Numbers of bytes that the server received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes of replies that the kernel has taken.
    pub bytes_out: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Traffic {
            bytes_in,
            bytes_out,
        } = other;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }
}

/// The pauses in accepting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pauses {
    /// Number of pauses.
    pub count: u64,
    /// Total duration of the pauses.
    pub time: Duration,
}

impl AddAssign for Pauses {
    fn add_assign(&mut self, other: Self) {
        let Pauses { count, time } = other;
        self.count += count;
        self.time += time;
    }
}

/// A histogram with N buckets by powers of two: bucket k counts the values up to 2^k and above the
/// bucket before; the last bucket counts all that are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log2Histogram<const N: usize> {
    /// Number of values in each bucket.
    pub counts: [u64; N],
    /// Sum of the values.
    pub sum: u64,
}

impl<const N: usize> Log2Histogram<N> {
    /// Counts a value.
    #[inline]
    pub fn count(&mut self, value: u64) {
        let place = u64::BITS - value.saturating_sub(1).leading_zeros();
        self.counts[(place as usize).min(N - 1)] += 1;
        self.sum += value;
    }
}

impl<const N: usize> Default for Log2Histogram<N> {
    fn default() -> Self {
        Log2Histogram {
            counts: [0; N],
            sum: 0,
        }
    }
}

impl<const N: usize> AddAssign for Log2Histogram<N> {
    fn add_assign(&mut self, other: Self) {
        let Log2Histogram { counts, sum } = other;
        for (count, more) in self.counts.iter_mut().zip(counts) {
            *count += more;
        }
        self.sum += sum;
    }
}

/// Histograms of the turns of the event loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// Number of events served: up to 1, 2, 4 and so on to 1024, and more.
    pub events: Log2Histogram<12>,
    /// Microseconds from the first event to the end of the turn: up to 1, 2, 4 and so on to a
    /// second, and more.
    pub micros: Log2Histogram<22>,
}

impl AddAssign for Turns {
    fn add_assign(&mut self, other: Self) {
        let Turns { events, micros } = other;
        self.events += events;
        self.micros += micros;
    }
}

/// The totals of one server since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Clients accepted.
    pub accepted: u64,
    /// Bytes of all clients, including those that are gone.
    pub traffic: Traffic,
    /// Events that were meant for a connection already closed.
    pub stale_events: u64,
    /// Clients that were lost before they could be accepted.
    pub lost: u64,
    /// Clients that were in the accept queue when their listener closed.
    pub reset_in_queue: u64,
    /// Pauses in accepting because the server was full.
    pub full: Pauses,
    /// Pauses in accepting because descriptors or memory had run out.
    pub exhausted: Pauses,
    /// Turns of the event loop, by events and by duration. They are not part of a recorded run.
    #[serde(skip)]
    pub turns: Turns,
    closed: [u64; CloseReason::ALL.len()],
}

impl Totals {
    /// Counts the end of a connection.
    pub fn count_close(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// Returns the number of connections that ended for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Returns the number of clients that the server failed, see [`CloseReason::is_failure`]; those
    /// that it reset in the accept queue are among them.
    pub fn failures(&self) -> u64 {
        let reasons = CloseReason::ALL.into_iter();
        let failures = reasons.filter(|reason| reason.is_failure());
        failures.map(|reason| self.closed(reason)).sum::<u64>() + self.reset_in_queue
    }

    /// Returns the number of connections that ended.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Totals {
            accepted,
            traffic,
            stale_events,
            lost,
            reset_in_queue,
            full,
            exhausted,
            turns,
            closed,
        } = other;
        self.accepted += accepted;
        self.traffic += traffic;
        self.stale_events += stale_events;
        self.lost += lost;
        self.reset_in_queue += reset_in_queue;
        self.full += full;
        self.exhausted += exhausted;
        self.turns += turns;
        for (closed, more) in self.closed.iter_mut().zip(closed) {
            *closed += more;
        }
    }
}

/// The state of a server at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The totals since the start.
    pub totals: Totals,
    /// Clients that are connected.
    pub open: u64,
    /// Bytes received, converted and not yet taken by the kernel.
    pub pending_bytes: u64,
    /// Whether the server was asked to stop; in a sum over shards, whether at least one of them
    /// was.
    pub is_stopping: bool,
}

impl AddAssign for Snapshot {
    fn add_assign(&mut self, other: Self) {
        let Snapshot {
            totals,
            open,
            pending_bytes,
            is_stopping,
        } = other;
        self.totals += totals;
        self.open += open;
        self.pending_bytes += pending_bytes;
        self.is_stopping |= is_stopping;
    }
}

/// One line: `2 open, 0 bytes pending, accepted 5, closed 3 (finished 3), ...`.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot {
            totals,
            open,
            pending_bytes,
            is_stopping: _,
        } = self;
        let (open, pending) = (grouped(*open), counted(*pending_bytes, "byte"));
        write!(f, "{open} open, {pending} pending, {totals}")
    }
}

/// One line: `accepted 3, closed 3 (finished 2, reset 1), 120 bytes in, 120 bytes out`.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepted {}, closed {}",
            grouped(self.accepted),
            grouped(self.closed_in_all())
        )?;
        let reasons: Vec<String> = CloseReason::ALL
            .iter()
            .filter(|&&reason| self.closed(reason) > 0)
            .map(|&reason| format!("{} {}", reason.name(), grouped(self.closed(reason))))
            .collect();
        if !reasons.is_empty() {
            write!(f, " ({})", reasons.join(", "))?;
        }
        let Traffic {
            bytes_in,
            bytes_out,
        } = self.traffic;
        let (bytes_in, bytes_out) = (counted(bytes_in, "byte"), counted(bytes_out, "byte"));
        write!(f, ", {bytes_in} in, {bytes_out} out")?;
        if self.reset_in_queue > 0 {
            let reset_in_queue = grouped(self.reset_in_queue);
            write!(f, ", {reset_in_queue} reset in the accept queue")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_name_only_the_reasons_that_occurred() {
        let mut totals = Totals {
            accepted: 3,
            ..Totals::default()
        };
        totals.count_close(CloseReason::Finished);
        totals.count_close(CloseReason::Finished);
        totals.count_close(CloseReason::Reset);
        assert_eq!(
            totals.to_string(),
            "accepted 3, closed 3 (finished 2, reset 1), 0 bytes in, 0 bytes out"
        );
    }

    #[test]
    fn values_are_counted_by_powers_of_two() {
        let mut histogram = Log2Histogram::<4>::default();
        for value in [0, 1, 2, 3, 4, 5, 1000] {
            histogram.count(value);
        }
        assert_eq!((histogram.counts, histogram.sum), ([2, 1, 2, 2], 1015));
    }

    #[test]
    fn every_reason_has_its_own_place_in_the_order_of_all() {
        for (place, &reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
