//! The deadlines of the clients, by kind: stall, idle, linger and keep-alive. Pure.

pub mod timer_wheel;

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::server::deadlines::timer_wheel::TimerWheel;
use crate::server::keepalive::Keepalive;
use crate::server::limits::Limits;

/// The timer wheels, one for each kind of deadline.
#[derive(Debug)]
pub struct Deadlines {
    /// The stall checks of clients that were sent something.
    pub stalls: Option<StallDeadlines>,
    /// The idle timeouts of all clients.
    pub idles: Option<TimerWheel<()>>,
    /// The linger times of clients that were sent FIN.
    pub lingers: TimerWheel<()>,
    /// The keep-alive of all clients that have been connected for a while.
    pub keepalive: Option<Keepalive>,
}

/// The stall checks of clients that were sent something, in two wheels: nearly all clients need
/// only a check without a target, and take a third of the memory of those with a target to reach.
#[derive(Debug)]
pub struct StallDeadlines {
    checks: TimerWheel<()>,
    targets: TimerWheel<AckTarget>,
}

/// The number of bytes that a client must have acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct AckTarget {
    /// Bytes acknowledged since the connection began.
    pub bytes: u64,
    /// Number of checks that are left to reach the target.
    pub checks_left: u8,
}

/// Number of checks in a stall timeout.
pub const CHECKS_PER_TIMEOUT: u8 = 4;

impl Deadlines {
    /// Returns the wheels, none for a timeout that is not set. Ticks are counted from `now`.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Deadlines {
            stalls: limits
                .stall_timeout
                .map(|time| StallDeadlines::new(time / u32::from(CHECKS_PER_TIMEOUT), now)),
            idles: limits.idle_timeout.map(|time| TimerWheel::new(time, now)),
            lingers: TimerWheel::new(limits.linger, now),
            keepalive: Keepalive::new(limits, now),
        }
    }
}

impl StallDeadlines {
    fn new(length: Duration, start: Instant) -> StallDeadlines {
        StallDeadlines {
            checks: TimerWheel::new(length, start),
            targets: TimerWheel::new(length, start),
        }
    }

    /// Adds a client to be checked at `deadline`, with its target if it has one. Returns as
    /// [`TimerWheel::add`] does.
    pub fn add(
        &mut self,
        deadline: Instant,
        token: Token,
        target: Option<AckTarget>,
    ) -> Result<Option<Instant>, TryReserveError> {
        match target {
            None => self.checks.add(deadline, token, ()),
            Some(target) => self.targets.add(deadline, token, target),
        }
    }

    /// Removes clients that are gone, see [`TimerWheel::sweep`].
    pub fn sweep(&mut self, there: usize, is_there: impl Fn(Token) -> bool) {
        self.checks.sweep(there, &is_there);
        self.targets.sweep(there, is_there);
    }

    /// Removes and returns the next client that is due, see [`TimerWheel::pop`].
    pub fn pop(&mut self, now: Instant) -> Option<(Token, Option<AckTarget>)> {
        if let Some((token, ())) = self.checks.pop(now) {
            return Some((token, None));
        }
        let (token, target) = self.targets.pop(now)?;
        Some((token, Some(target)))
    }

    /// Returns the times of the timers to set, if any. Must be called after the last
    /// [`StallDeadlines::pop`].
    pub fn next_timer(&mut self) -> [Option<Instant>; 2] {
        [self.checks.next_timer(), self.targets.next_timer()]
    }
}
