//! The deadlines of the clients, by kind: stall, idle, linger and keep-alive. Pure.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::server::keepalive::Keepalive;
use crate::server::limits::Limits;
use crate::server::watch::Watch;

/// The timer wheels, one for each kind of deadline.
#[derive(Debug)]
pub struct Patience {
    /// The stall checks of clients that were sent something.
    pub stalls: Option<Stalls>,
    /// The idle timeouts of all clients.
    pub idles: Option<Watch<()>>,
    /// The linger times of clients that were sent FIN.
    pub lingers: Watch<()>,
    /// The keep-alive of all clients that have been connected for a while.
    pub keepalive: Option<Keepalive>,
}

/// The stall checks of clients that were sent something, in two wheels: nearly all clients need
/// only a check without a mark, and take a third of the memory of those that have a mark to reach.
#[derive(Debug)]
pub struct Stalls {
    looks: Watch<()>,
    marks: Watch<Mark>,
}

/// The number of bytes that a client must have acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Bytes acknowledged since the connection began.
    pub bytes: u64,
    /// Number of checks that are left to reach the mark.
    pub looks_left: u8,
}

/// Number of checks in a stall timeout.
pub const LOOKS: u8 = 4;

impl Patience {
    /// Returns the wheels, none for a timeout that is not set. Ticks are counted from `now`.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Patience {
            stalls: limits
                .stall_timeout
                .map(|time| Stalls::new(time / u32::from(LOOKS), now)),
            idles: limits.idle_timeout.map(|time| Watch::new(time, now)),
            lingers: Watch::new(limits.linger, now),
            keepalive: Keepalive::new(limits, now),
        }
    }
}

impl Stalls {
    fn new(length: Duration, start: Instant) -> Stalls {
        Stalls {
            looks: Watch::new(length, start),
            marks: Watch::new(length, start),
        }
    }

    /// Adds a client to be checked at `deadline`, with its mark if it has one. Returns as
    /// [`Watch::add`] does.
    pub fn add(
        &mut self,
        deadline: Instant,
        token: Token,
        mark: Option<Mark>,
    ) -> Result<Option<Instant>, TryReserveError> {
        match mark {
            None => self.looks.add(deadline, token, ()),
            Some(mark) => self.marks.add(deadline, token, mark),
        }
    }

    /// Removes clients that are gone, see [`Watch::sweep`].
    pub fn sweep(&mut self, there: usize, is_there: impl Fn(Token) -> bool) {
        self.looks.sweep(there, &is_there);
        self.marks.sweep(there, is_there);
    }

    /// Removes and returns the next client that is due, see [`Watch::pop`].
    pub fn pop(&mut self, now: Instant) -> Option<(Token, Option<Mark>)> {
        if let Some((token, ())) = self.looks.pop(now) {
            return Some((token, None));
        }
        let (token, mark) = self.marks.pop(now)?;
        Some((token, Some(mark)))
    }

    /// Returns the times of the timers to set, if any. Must be called after the last
    /// [`Stalls::pop`].
    pub fn to_set(&mut self) -> [Option<Instant>; 2] {
        [self.looks.to_set(), self.marks.to_set()]
    }
}
