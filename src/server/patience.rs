//! Which clients have until when to do what. Pure.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::server::keepalive::Keepalive;
use crate::server::limits::Limits;
use crate::server::watch::Watch;

/// The wheels of deadlines.
#[derive(Debug)]
pub struct Patience {
    /// Clients that were sent something.
    pub stalls: Option<Stalls>,
    /// All clients.
    pub idles: Option<Watch<()>>,
    /// Clients that were sent FIN.
    pub lingers: Watch<()>,
    /// The keep-alive of all clients that have been connected for a while.
    pub keepalive: Option<Keepalive>,
}

/// Clients that were sent something, in two wheels: nearly all of them are only to be looked at,
/// and take a quarter of the memory of those that have a mark to reach.
#[derive(Debug)]
pub struct Stalls {
    looks: Watch<()>,
    marks: Watch<Mark>,
}

/// What a client must have acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// In bytes since its connection began.
    pub bytes: u64,
    /// How many more times its client is looked at until then.
    pub looks_left: u8,
}

/// A stall timeout is so many looks.
pub const LOOKS: u8 = 4;

impl Patience {
    /// Without a timeout there is no wheel. Ticks are counted from `now`.
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

    /// Adds a client to be checked, or to have reached its mark, at `deadline`. When a timer is to
    /// be set, returns its time. As [`Watch::add`].
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

    /// As [`Watch::sweep`].
    pub fn sweep(&mut self, there: usize, is_there: impl Fn(Token) -> bool) {
        self.looks.sweep(there, &is_there);
        self.marks.sweep(there, is_there);
    }

    /// As [`Watch::pop`].
    pub fn pop(&mut self, now: Instant) -> Option<(Token, Option<Mark>)> {
        if let Some((token, ())) = self.looks.pop(now) {
            return Some((token, None));
        }
        let (token, mark) = self.marks.pop(now)?;
        Some((token, Some(mark)))
    }

    /// After the last [`Stalls::pop`]: when timers are to be set, tells for when.
    pub fn to_set(&mut self) -> [Option<Instant>; 2] {
        [self.looks.to_set(), self.marks.to_set()]
    }
}
