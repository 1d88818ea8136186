//! Which clients have until when to do what. Pure.

use std::time::Instant;

use crate::server::limits::Limits;
use crate::server::watch::Watch;

/// The wheels of deadlines.
#[derive(Debug)]
pub struct Patience {
    /// Clients that were sent something, and the mark of those that had something outstanding when
    /// they were looked at.
    pub stalls: Option<Watch<Option<Mark>>>,
    /// All clients.
    pub idles: Option<Watch<()>>,
    /// Clients that were sent FIN.
    pub lingers: Watch<()>,
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
                .map(|time| Watch::new(time / u32::from(LOOKS), now)),
            idles: limits.idle_timeout.map(|time| Watch::new(time, now)),
            lingers: Watch::new(limits.linger, now),
        }
    }
}
