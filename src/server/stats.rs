//! What the server counts: every client by the reason for its end, every byte by direction.
//!
//! Invariant: accepted = open + the sum of closed over all reasons.

use std::fmt;
use std::io;
use std::ops::AddAssign;

/// Why a connection ended. A peer's fault is data like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed its side and every byte was answered.
    Finished,
    /// The client reset the connection, or vanished behind a reset.
    Reset,
    /// The kernel gave the peer up: ETIMEDOUT.
    TimedOut,
    /// The server stopped; every byte that came before its FIN was answered.
    Stopped,
    /// The same, and the client sent more after that FIN, to which there is no answer.
    Late,
    /// The server stopped, and could not deliver what it owed this client.
    Cut,
    /// A system call failed in a way that no peer causes.
    Failed,
}

impl CloseReason {
    /// All of them, in the order in which they are told.
    pub const ALL: [CloseReason; 7] = [
        CloseReason::Finished,
        CloseReason::Reset,
        CloseReason::TimedOut,
        CloseReason::Stopped,
        CloseReason::Late,
        CloseReason::Cut,
        CloseReason::Failed,
    ];

    /// The reason behind an error of recv(2), send(2) or shutdown(2).
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

    /// The reason in words.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Finished => "finished",
            CloseReason::Reset => "reset",
            CloseReason::TimedOut => "timed out",
            CloseReason::Stopped => "stopped",
            CloseReason::Late => "late",
            CloseReason::Cut => "cut",
            CloseReason::Failed => "failed",
        }
    }
}

/// Bytes that went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received from clients.
    pub bytes_in: u64,
    /// Accepted by the kernel for clients.
    pub bytes_out: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// The totals of one server since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Clients accepted.
    pub accepted: u64,
    /// Bytes of all clients, those that are gone included.
    pub traffic: Traffic,
    /// Events that were meant for a connection already closed.
    pub stale_events: u64,
    closed: [u64; CloseReason::ALL.len()],
}

impl Totals {
    /// Counts the end of a connection.
    pub fn count_close(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// How many connections ended for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// How many connections ended.
    pub fn closed_in_all(&self) -> u64 {
        self.closed.iter().sum()
    }
}

/// One line: `accepted 3, closed 3 (finished 2, reset 1), 120 bytes in, 120 bytes out`.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepted {}, closed {}",
            self.accepted,
            self.closed_in_all()
        )?;
        let reasons: Vec<String> = CloseReason::ALL
            .iter()
            .filter(|&&reason| self.closed(reason) > 0)
            .map(|&reason| format!("{} {}", reason.name(), self.closed(reason)))
            .collect();
        if !reasons.is_empty() {
            write!(f, " ({})", reasons.join(", "))?;
        }
        let Traffic {
            bytes_in,
            bytes_out,
        } = self.traffic;
        write!(f, ", {bytes_in} bytes in, {bytes_out} bytes out")
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
    fn every_reason_has_its_own_place_in_the_order_of_all() {
        for (place, &reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
