//! A recorded run over time: one [`Moment`] per interval. Pure data.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::load::latency::Latency;
use crate::load::results::pairs;
use crate::load::results::recorder::Tag;

/// One interval of a recorded run. Counts and times are those of this interval alone, unless a
/// field says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The part of the run to which the interval belongs.
    pub tag: Tag,
    /// The beginning of the interval, as a time after the start of the run.
    pub from: Duration,
    /// The end of the interval, as a time after the start of the run.
    pub to: Duration,
    /// Connections that were up at its end.
    pub up: u32,
    /// Messages that became due.
    pub due: u64,
    /// Messages whose reply was correct.
    pub verified: u64,
    /// Messages that ended without a correct reply.
    pub lost: u64,
    /// Messages without an outcome at its end.
    pub outstanding: u64,
    /// Connections that were established; after the start of a run these are reconnects.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Broken connections and failed attempts, by cause.
    pub errors: BTreeMap<String, u64>,
    /// Segments that TCP retransmitted on the client's host; `None` if that is not known.
    pub resent: Option<u64>,
    /// CPU time of the client's process per second: 1 is one CPU. `None` if that is not known.
    pub cpu: Option<f64>,
    /// Memory of the client's process in RAM, in bytes, at its end.
    pub resident_bytes: Option<u64>,
    /// Response times of the messages that ended in it; with the ages of those without a reply.
    pub response: Latency,
    /// Service times.
    pub service: Latency,
    /// Lateness of the messages.
    pub lateness: Latency,
    /// The 99th percentile of the part of the lateness in which no connection was free.
    pub blocked_p99: Option<Duration>,
    /// The 99th percentile of the part of the lateness that is the generator's own.
    pub own_p99: Option<Duration>,
}

impl Moment {
    /// Adds the same interval of another part of the run, which took place at the same time.
    pub fn merge(&mut self, other: &Moment) {
        let Moment {
            tag,
            from,
            to,
            up,
            due,
            verified,
            lost,
            outstanding,
            opened,
            failed,
            errors,
            resent,
            cpu,
            resident_bytes,
            response,
            service,
            lateness,
            blocked_p99,
            own_p99,
        } = other;
        self.tag = self.tag.min(*tag);
        self.from = self.from.min(*from);
        self.to = self.to.max(*to);
        self.up += *up;
        self.due += *due;
        self.verified += *verified;
        self.lost += *lost;
        self.outstanding += *outstanding;
        self.opened += *opened;
        self.failed += *failed;
        pairs::add(&mut self.errors, errors);
        self.resent = sum(self.resent, *resent);
        self.cpu = self.cpu.zip(*cpu).map(|(one, other)| one + other);
        self.resident_bytes = sum(self.resident_bytes, *resident_bytes);
        self.response.merge(response);
        self.service.merge(service);
        self.lateness.merge(lateness);
        // The larger one is an upper bound of the percentile of both.
        self.blocked_p99 = self.blocked_p99.max(*blocked_p99);
        self.own_p99 = self.own_p99.max(*own_p99);
    }

    /// Adds the next interval of the same part of the run.
    pub fn append(&mut self, next: &Moment) {
        let (ours, theirs) = (self.length().as_secs_f64(), next.length().as_secs_f64());
        let cpu = self.cpu.zip(next.cpu).map(|(one, other)| {
            (one * ours + other * theirs) / (ours + theirs).max(f64::MIN_POSITIVE)
        });
        let Moment {
            to,
            up,
            outstanding,
            resident_bytes,
            ..
        } = *next;
        self.merge(next);
        self.cpu = cpu;
        (self.to, self.up, self.outstanding) = (to, up, outstanding);
        self.resident_bytes = resident_bytes;
    }

    /// Returns the length of the interval.
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// Returns the sum of two figures, if both are known.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.zip(other).map(|(one, other)| one + other)
}
