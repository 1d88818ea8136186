//! The books of one thread: what belongs to the warm-up, what to the result, and what happened
//! since the last interval was told. Pure.
//!
//! A message belongs to where it was due, not to where it was answered: a warm-up that ends in a
//! stall does not leave the stall to nobody.
//!
//! Responses are recorded once, as those since the last interval; when an interval is told, and at
//! the end, they are added to the results. With several targets they are recorded for their target
//! as well.

use std::time::{Duration, Instant};

use crate::load::connection::Message;
use crate::load::latency::Latency;
use crate::load::results::{Counts, Loss, Results, Tally};
use crate::load::world::KernelTimes;

/// The measurements of one thread.
#[derive(Clone, Debug)]
pub struct Books {
    /// Messages due before this belong to the warm-up.
    warm: Instant,
    /// What the warm-up measured; of it, connections are not a part.
    pub warmup: Results,
    /// What the run measured.
    pub run: Results,
    /// Responses since the last interval: of the warm-up's messages, and of the run's.
    recent: [Latency; 2],
    /// The run's messages by target; empty when there is only one.
    tallies: Vec<Tally>,
}

/// How it went in a stretch of a run.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// Which part of the run it belongs to.
    pub tag: Tag,
    /// Its ends, after the start of the run.
    pub from: Duration,
    /// See `from`.
    pub to: Duration,
    /// Connections that are up.
    pub up: u32,
    /// What became of the messages that were due since the start.
    pub identity: Identity,
    /// Responses that were completed in this stretch.
    pub response: Latency,
}

/// Nothing vanishes: at any time
/// due = verified + mismatched + errored + timed out + unanswered + outstanding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Messages that were due so far.
    pub due: u64,
    /// What became of them.
    pub counts: Counts,
    /// Those among them that wait for a connection or for their reply.
    pub outstanding: u64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// What is due here is not part of the result.
    Warmup,
    /// The run itself.
    #[default]
    Run,
    /// Nothing new is due.
    Drain,
}

impl Tag {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Tag::Warmup => "warmup",
            Tag::Run => "run",
            Tag::Drain => "drain",
        }
    }
}

impl Books {
    /// Empty ones, of a run with so many targets.
    pub fn new(warm: Instant, targets: usize) -> Books {
        let several = if targets > 1 { targets } else { 0 };
        Books {
            warm,
            warmup: Results::default(),
            run: Results::default(),
            recent: Default::default(),
            tallies: vec![Tally::default(); several],
        }
    }

    /// The warm-up ends then.
    pub fn set_warm(&mut self, warm: Instant) {
        self.warm = warm;
    }

    /// When the warm-up ends.
    pub fn warm(&self) -> Instant {
        self.warm
    }

    /// A message of this target is due and is dealt with from now on.
    #[inline]
    pub fn scheduled(&mut self, due: Instant, target: usize) {
        self.of(due).0.counts.scheduled += 1;
        if let Some(tally) = self.tally(target, due) {
            tally.counts.scheduled += 1;
        }
    }

    /// A message of a closed loop that was never begun is not sent.
    pub fn withdrawn(&mut self, message: &Message, target: usize) {
        self.of(message.due).0.counts.scheduled -= 1;
        if let Some(tally) = self.tally(target, message.due) {
            tally.counts.scheduled -= 1;
        }
    }

    /// A message was answered rightly, so long after it was due.
    #[inline]
    pub fn verified(&mut self, message: &Message, target: usize, response: Duration) {
        let (results, recent) = self.of(message.due);
        recent.record(response);
        results.verified(message, response);
        if let Some(tally) = self.tally(target, message.due) {
            tally.verified(message, response);
        }
    }

    /// The kernel's own times of a message that was answered rightly.
    pub fn parts(&mut self, message: &Message, times: KernelTimes, now: Instant) {
        self.of(message.due).0.parts(message, times, now);
    }

    /// A message ended otherwise.
    pub fn lost(&mut self, loss: Loss, message: &Message, target: usize, now: Instant) {
        let age = now.saturating_duration_since(message.due);
        let (results, recent) = self.of(message.due);
        recent.record_at_least(age);
        results.lost(loss, message, age);
        if let Some(tally) = self.tally(target, message.due) {
            tally.lost(loss, message.lateness(), age);
        }
    }

    /// A message ended that never got a connection, though one was free for it since `free`.
    /// `target`: where it was to go, if that was decided.
    pub fn lost_waiting(
        &mut self,
        loss: Loss,
        due: Instant,
        target: Option<usize>,
        free: Option<Instant>,
        now: Instant,
    ) {
        let sendable = free.map(|since| since.max(due));
        let own = sendable.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let age = now.saturating_duration_since(due);
        let (results, recent) = self.of(due);
        results.counts.scheduled += 1;
        recent.record_at_least(age);
        results.lost_waiting(loss, own, age);
        if let Some(tally) = target.and_then(|target| self.tally(target, due)) {
            tally.counts.scheduled += 1;
            tally.lost(loss, None, age);
        }
    }

    /// The counts of warm-up and run together.
    pub fn counts(&self) -> Counts {
        let mut counts = self.run.counts;
        counts.merge(&self.warmup.counts);
        counts
    }

    /// Verified messages of warm-up and run: asked for in every turn.
    pub fn verified_so_far(&self) -> u64 {
        self.run.counts.verified + self.warmup.counts.verified
    }

    /// Takes the responses since this was last called, and adds them to the results.
    pub fn take_recent(&mut self) -> Latency {
        let [warmup, mut run] = std::mem::take(&mut self.recent);
        self.warmup.response.merge(&warmup);
        self.run.response.merge(&run);
        run.merge(&warmup);
        run
    }

    /// Takes what became of the run's messages by target, once all responses were taken.
    pub fn take_tallies(&mut self) -> Vec<Tally> {
        match self.tallies.is_empty() {
            true => vec![Tally {
                counts: self.run.counts,
                response: self.run.response.clone(),
                service: self.run.service.clone(),
            }],
            false => std::mem::take(&mut self.tallies),
        }
    }

    /// Returns where the messages of a target are counted, if there are several and this one is not
    /// of the warm-up.
    #[inline]
    fn tally(&mut self, target: usize, due: Instant) -> Option<&mut Tally> {
        let tally = self.tallies.get_mut(target)?;
        (due >= self.warm).then_some(tally)
    }

    #[inline]
    fn of(&mut self, due: Instant) -> (&mut Results, &mut Latency) {
        let [warmup, run] = &mut self.recent;
        if due < self.warm {
            (&mut self.warmup, warmup)
        } else {
            (&mut self.run, run)
        }
    }
}

impl Interval {
    /// What a thread adds to later intervals once it has ended with this one.
    pub fn ended(&self) -> Interval {
        Interval {
            up: 0,
            response: Latency::default(),
            ..self.clone()
        }
    }

    /// Adds the same stretch of another thread.
    pub fn merge(&mut self, other: &Interval) {
        self.tag = self.tag.min(other.tag);
        self.from = self.from.max(other.from);
        self.to = self.to.max(other.to);
        self.up += other.up;
        self.identity.due += other.identity.due;
        self.identity.counts.merge(&other.identity.counts);
        self.identity.outstanding += other.identity.outstanding;
        self.response.merge(&other.response);
    }
}
