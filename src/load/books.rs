//! The books of one thread: what belongs to the warm-up, what to the result, and what happened
//! since the last interval was told. Pure.
//!
//! A message belongs to where it was due, not to where it was answered: a warm-up that ends in a
//! stall does not leave the stall to nobody.
//!
//! A response is recorded once, among the recent ones. When a block of the run or an interval ends,
//! the recent ones are added to the results, to the open block and to the interval. So is a
//! service. With several targets both are recorded for their target as well.

use std::time::{Duration, Instant};

use crate::load::connection::Message;
use crate::load::latency::Latency;
use crate::load::recent::Recent;
use crate::load::results::{Counts, Loss, Results, Tally};
use crate::load::world::KernelTimes;
use crate::units::nanoseconds;

/// The measurements of one thread.
#[derive(Clone, Debug)]
pub struct Books {
    /// Messages due before this belong to the warm-up.
    warm: Instant,
    /// What the warm-up measured; of it, connections are not a part.
    pub warmup: Results,
    /// What the run measured.
    pub run: Results,
    /// What is not in the results yet: of the warm-up's messages, and of the run's.
    recent: [Parts; 2],
    /// Responses since the last interval, without the recent ones.
    stretch: Latency,
    /// When the first block began.
    blocks_from: Instant,
    /// When the open block ends; `None`: not at all, or blocks have not begun.
    block_end: Option<Instant>,
    /// The run's messages by target; empty when there is only one.
    tallies: Vec<Tally>,
}

/// Durations in nanoseconds that are recorded in blocks.
#[derive(Clone, Debug, Default)]
struct Parts {
    response: Recent,
    service: Recent,
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
            run: Results {
                response: Latency::in_blocks(),
                service: Latency::in_blocks(),
                ..Results::default()
            },
            recent: Default::default(),
            stretch: Latency::default(),
            blocks_from: warm,
            block_end: None,
            tallies: vec![Tally::default(); several],
        }
    }

    /// Sets when the warm-up ends, and when the first block of the run begins: the latter at the
    /// same time in every thread.
    pub fn set_warm(&mut self, warm: Instant, blocks_from: Instant) {
        self.warm = warm;
        self.blocks_from = blocks_from;
        self.block_end = self.run.response.open_until().map(|end| blocks_from + end);
    }

    /// Ends the blocks that are over. Returns whether there were any.
    #[inline]
    pub fn end_blocks(&mut self, now: Instant) -> bool {
        let is_over = self.block_end.is_some_and(|end| now >= end);
        if is_over {
            self.next_block(now);
        }
        is_over
    }

    /// Leaves the open block open for good: nothing new is due.
    pub fn stop_blocks(&mut self) {
        self.block_end = None;
    }

    #[cold]
    fn next_block(&mut self, now: Instant) {
        self.gather();
        while self.block_end.is_some_and(|end| now >= end) {
            self.run.service.end_block();
            let end = self.run.response.end_block();
            self.block_end = end.map(|end| self.blocks_from + end);
        }
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
        recent.response.record(nanoseconds(response));
        let service = results.verified(message, response);
        recent.service.record(nanoseconds(service));
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
        self.of(message.due).0.lost(loss, message, age);
        self.stretch.record_at_least(age);
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
        let results = self.of(due).0;
        results.counts.scheduled += 1;
        results.lost_waiting(loss, own, age);
        self.stretch.record_at_least(age);
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

    /// Takes the responses since this was last called, and adds all recent samples to the results.
    pub fn take_recent(&mut self) -> Latency {
        self.gather();
        std::mem::take(&mut self.stretch)
    }

    fn gather(&mut self) {
        let results = [&mut self.warmup, &mut self.run];
        for (results, recent) in results.into_iter().zip(&mut self.recent) {
            let stretch = Some(&mut self.stretch);
            results.response.take(&mut recent.response, stretch);
            results.service.take(&mut recent.service, None);
        }
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
    fn of(&mut self, due: Instant) -> (&mut Results, &mut Parts) {
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
