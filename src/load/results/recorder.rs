//! Records the outcomes and times of the messages of one thread, separately for the warm-up, the
//! result of the run, and the interval since the last report. Pure.
//!
//! A message is counted in the part of the run in which it was due, not in the one in which it was
//! answered. So a stall at the end of the warm-up is counted in full: each message that it delays
//! is counted in the part in which it was due.
//!
//! A response time is recorded once, among the recent samples. When a block of the run or an
//! interval ends, the recent samples are added to the results, to the open block and to the
//! interval. Service times are recorded in the same way, but not for the interval. With several
//! targets both times are recorded for the target as well, and with a rate profile for the stage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::engine::connection::Message;
use crate::load::engine::world::KernelTimes;
use crate::load::latency::Latency;
use crate::load::latency::recent::RecentSamples;
use crate::load::results::stages::StageRecorder;
use crate::load::results::{Counts, ErrorKind, Loss, Results, TargetResults, pairs};
use crate::units::nanoseconds;

/// The measurements of one thread.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// The end of the warm-up: messages due before it belong to the warm-up.
    warmup_end: Instant,
    /// The results of the warm-up, without connections.
    pub warmup: Results,
    /// The results of the run, with the connections of the warm-up.
    pub run: Results,
    /// The samples that are not in the results yet: those of the warm-up, and those of the run.
    recent: [ResponseParts; 2],
    /// Response times since the last interval, without those in `recent`.
    interval_response: Latency,
    /// The beginning of the first block.
    blocks_from: Instant,
    /// The end of the open block; `None` before blocks begin and after [`Recorder::stop_blocks`].
    block_end: Option<Instant>,
    /// The messages of the run by target; empty when there is only one target.
    tallies: Vec<TargetResults>,
    /// The messages of the run by stage of the profile; empty without one.
    stages: StageRecorder,
}

/// Recent durations in nanoseconds, to be added to the results and their blocks.
#[derive(Clone, Debug, Default)]
struct ResponseParts {
    response: RecentSamples,
    service: RecentSamples,
}

/// A snapshot of the counts, and the response times, of an interval of a run.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    /// The part of the run to which the interval belongs.
    pub tag: Tag,
    /// The beginning of the interval, as a time after the start of the run.
    pub from: Duration,
    /// The end of the interval, as a time after the start of the run.
    pub to: Duration,
    /// The index of the stage of the profile in which the interval begins; `None` without a
    /// profile, and when no message is due any more.
    pub stage: Option<usize>,
    /// Connections that are up.
    pub up: u32,
    /// The outcomes of the messages that were due since the start of the run.
    pub identity: Identity,
    /// Response times of the messages that ended in this interval; for a message that was not
    /// verified, its age as a lower bound.
    pub response: Latency,
    /// The outcomes of the messages that were due in the warm-up; `identity` includes them.
    pub warmup: Counts,
    /// Broken connections and failed attempts since the start of the run, by cause.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The outcomes of the messages of each target since the warm-up; empty when there is only one
    /// target.
    pub targets: Vec<Counts>,
    /// The times since the start of the run; `None` unless the plan asks for them.
    pub times: Option<Arc<TimesSoFar>>,
}

/// The times of all messages that have ended since the start of a run.
#[derive(Clone, Debug, Default)]
pub struct TimesSoFar {
    /// Those of the messages that were due in the warm-up.
    pub warmup: Times,
    /// Those of the others.
    pub run: Times,
}

/// The times of messages; see the fields of the same name of [`Results`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Times {
    pub response: Latency,
    pub service: Latency,
    pub lateness: Latency,
    pub blocked: Latency,
    pub own: Latency,
}

/// Counts that account for every message. At any time
/// due = verified + mismatched + errored + timed out + unanswered + outstanding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The number of messages that were due so far.
    pub due: u64,
    /// The outcomes of these messages.
    pub counts: Counts,
    /// The number of these messages that wait for a connection or for their reply.
    pub outstanding: u64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tag {
    /// The warm-up: messages that are due in it are not part of the result.
    Warmup,
    /// The run itself.
    #[default]
    Run,
    /// The wait for outstanding messages: no new message is due.
    Drain,
}

impl Tag {
    /// Returns the name of the part in the log.
    pub fn name(self) -> &'static str {
        match self {
            Tag::Warmup => "warmup",
            Tag::Run => "run",
            Tag::Drain => "drain",
        }
    }
}

impl Recorder {
    /// Creates an empty recorder for a run with `targets` targets.
    pub fn new(warmup_end: Instant, targets: usize) -> Recorder {
        let several = if targets > 1 { targets } else { 0 };
        Recorder {
            warmup_end,
            warmup: Results::default(),
            run: Results {
                response: Latency::in_blocks(),
                service: Latency::in_blocks(),
                ..Results::default()
            },
            recent: Default::default(),
            interval_response: Latency::default(),
            blocks_from: warmup_end,
            block_end: None,
            tallies: vec![TargetResults::default(); several],
            stages: StageRecorder::default(),
        }
    }

    /// Sets the end of the warm-up and the beginning of the first block of the run. The latter must
    /// be the same in every thread.
    pub fn set_warmup_end(&mut self, warmup_end: Instant, blocks_from: Instant) {
        self.warmup_end = warmup_end;
        self.blocks_from = blocks_from;
        self.block_end = self.run.response.open_until().map(|end| blocks_from + end);
    }

    /// Begins to record the stages of a profile.
    pub fn record_stages(&mut self, stages: StageRecorder) {
        self.stages = stages;
    }

    /// Returns the results of the stages.
    pub fn stages(&mut self) -> &mut StageRecorder {
        &mut self.stages
    }

    /// Ends the blocks of the run, and of its current stage, whose time is over. Returns whether
    /// there were any.
    #[inline]
    pub fn end_blocks(&mut self, now: Instant) -> bool {
        let is_over = self.block_end.is_some_and(|end| now >= end);
        if is_over {
            self.next_block(now);
        }
        match self.stages.is_empty() {
            true => is_over,
            false => self.stages.end_blocks(now) || is_over,
        }
    }

    /// Stops ending blocks, for when no new message will be due: all further samples belong to the
    /// open block.
    pub fn stop_blocks(&mut self) {
        self.block_end = None;
        self.stages.stop_blocks();
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

    /// Returns the end of the warm-up.
    pub fn warmup_end(&self) -> Instant {
        self.warmup_end
    }

    /// Counts a message of this target that is due and was given to a connection.
    #[inline]
    pub fn scheduled(&mut self, due: Instant, target: usize) {
        self.of(due).0.counts.scheduled += 1;
        if let Some(tally) = self.tally(target, due) {
            tally.counts.scheduled += 1;
        }
        if let Some(stages) = self.stages_of(due) {
            stages.scheduled(due);
        }
    }

    /// Removes a message of a closed loop from the count: no byte of it was sent, and none will be.
    pub fn withdrawn(&mut self, message: &Message, target: usize) {
        self.of(message.due).0.counts.scheduled -= 1;
        if let Some(tally) = self.tally(target, message.due) {
            tally.counts.scheduled -= 1;
        }
    }

    /// Records a message with a correct reply, and its response time.
    #[inline]
    pub fn verified(&mut self, message: &Message, target: usize, response: Duration) {
        let (results, recent) = self.of(message.due);
        recent.response.record(nanoseconds(response));
        let service = results.verified(message, response);
        recent.service.record(nanoseconds(service));
        if let Some(tally) = self.tally(target, message.due) {
            tally.verified(message, response);
        }
        if let Some(stages) = self.stages_of(message.due) {
            stages.verified(message, response);
        }
    }

    /// Records the kernel's timestamps of a message with a correct reply.
    pub fn parts(&mut self, message: &Message, times: KernelTimes, now: Instant) {
        self.of(message.due).0.parts(message, times, now);
    }

    /// Records a message that ended without a correct reply.
    pub fn lost(&mut self, loss: Loss, message: &Message, target: usize, now: Instant) {
        let age = now.saturating_duration_since(message.due);
        self.of(message.due).0.lost(loss, message, age);
        self.interval_response.record_at_least(age);
        if let Some(tally) = self.tally(target, message.due) {
            tally.lost(loss, message.lateness(), age);
        }
        if let Some(stages) = self.stages_of(message.due) {
            stages.lost(loss, message, age);
        }
    }

    /// Records a message that ended before it was given to a connection. `target` is the target of
    /// the message, if that was decided. `free` is the time from which a connection was free for
    /// it, if one was.
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
        self.interval_response.record_at_least(age);
        if let Some(tally) = target.and_then(|target| self.tally(target, due)) {
            tally.counts.scheduled += 1;
            tally.lost(loss, None, age);
        }
        if let Some(stages) = self.stages_of(due) {
            stages.lost_waiting(loss, due, own, age);
        }
    }

    /// Counts a connection that broke.
    pub fn error(&mut self, kind: ErrorKind) {
        self.run.error(kind);
        self.stages.error(kind);
    }

    /// Counts an attempt to connect that failed.
    pub fn not_opened(&mut self, kind: ErrorKind) {
        self.run.counts.failed += 1;
        self.stages.failed();
        self.error(kind);
    }

    /// Counts a connection that was established, `time` after the call of connect(2).
    pub fn opened(&mut self, time: Duration) {
        self.run.counts.opened += 1;
        self.run.connect.record(time);
        self.stages.opened(time);
    }

    /// Returns the sums of the counts of warm-up and run.
    pub fn counts(&self) -> Counts {
        let mut counts = self.run.counts;
        counts.merge(&self.warmup.counts);
        counts
    }

    /// Returns the number of verified messages of warm-up and run. It is called in every turn, so
    /// it does not merge all counts.
    pub fn verified_so_far(&self) -> u64 {
        self.run.counts.verified + self.warmup.counts.verified
    }

    /// Returns the response times since the last call, and adds all recent samples to the results.
    pub fn take_recent(&mut self) -> Latency {
        self.gather();
        std::mem::take(&mut self.interval_response)
    }

    /// Returns the errors of warm-up and run, by cause.
    pub fn errors(&self) -> BTreeMap<ErrorKind, u64> {
        let mut errors = self.warmup.errors.clone();
        pairs::add(&mut errors, &self.run.errors);
        errors
    }

    /// Returns the counts of each target since the warm-up; empty when there is only one.
    pub fn counts_of_targets(&self) -> Vec<Counts> {
        self.tallies.iter().map(|tally| tally.counts).collect()
    }

    /// Adds all recent samples to the results, and returns all times so far.
    pub fn times_so_far(&mut self) -> TimesSoFar {
        self.gather();
        TimesSoFar {
            warmup: Times::of(&self.warmup),
            run: Times::of(&self.run),
        }
    }

    fn gather(&mut self) {
        let results = [&mut self.warmup, &mut self.run];
        for (results, recent) in results.into_iter().zip(&mut self.recent) {
            let interval_response = Some(&mut self.interval_response);
            results
                .response
                .take(&mut recent.response, interval_response);
            results.service.take(&mut recent.service, None);
        }
    }

    /// Returns the outcomes of the messages of the run by target. [`Recorder::take_recent`] must
    /// have been called before.
    pub fn take_tallies(&mut self) -> Vec<TargetResults> {
        match self.tallies.is_empty() {
            true => vec![TargetResults {
                counts: self.run.counts,
                response: self.run.response.clone(),
                service: self.run.service.clone(),
            }],
            false => std::mem::take(&mut self.tallies),
        }
    }

    /// Returns the tally of a target; `None` when there is only one target, or when the message was
    /// due in the warm-up.
    #[inline]
    fn tally(&mut self, target: usize, due: Instant) -> Option<&mut TargetResults> {
        let tally = self.tallies.get_mut(target)?;
        (due >= self.warmup_end).then_some(tally)
    }

    /// Returns the stages; `None` without a profile, or when the message was due in the warm-up.
    #[inline]
    fn stages_of(&mut self, due: Instant) -> Option<&mut StageRecorder> {
        (!self.stages.is_empty() && due >= self.warmup_end).then_some(&mut self.stages)
    }

    #[inline]
    fn of(&mut self, due: Instant) -> (&mut Results, &mut ResponseParts) {
        let [warmup, run] = &mut self.recent;
        if due < self.warmup_end {
            (&mut self.warmup, warmup)
        } else {
            (&mut self.run, run)
        }
    }
}

impl Times {
    /// Returns the times of these results.
    pub fn of(results: &Results) -> Times {
        Times {
            response: results.response.without_blocks(),
            service: results.service.without_blocks(),
            lateness: results.lateness.clone(),
            blocked: results.blocked.clone(),
            own: results.own.clone(),
        }
    }

    /// Returns the times that were added since an earlier moment of the same run.
    pub fn since(&self, earlier: &Times) -> Times {
        Times {
            response: self.response.since(&earlier.response),
            service: self.service.since(&earlier.service),
            lateness: self.lateness.since(&earlier.lateness),
            blocked: self.blocked.since(&earlier.blocked),
            own: self.own.since(&earlier.own),
        }
    }

    /// Adds the times of another thread.
    pub fn merge(&mut self, other: &Times) {
        let Times {
            response,
            service,
            lateness,
            blocked,
            own,
        } = other;
        self.response.merge(response);
        self.service.merge(service);
        self.lateness.merge(lateness);
        self.blocked.merge(blocked);
        self.own.merge(own);
    }
}

impl Interval {
    /// Returns what a thread contributes to all intervals after this one, its last.
    pub fn ended(&self) -> Interval {
        Interval {
            up: 0,
            response: Latency::default(),
            ..self.clone()
        }
    }

    /// Appends the next interval of the same run.
    pub fn append(&mut self, next: &Interval) {
        let mut response = std::mem::take(&mut self.response);
        response.merge(&next.response);
        *self = Interval {
            from: self.from,
            tag: self.tag.min(next.tag),
            stage: self.stage,
            response,
            ..next.clone()
        };
    }

    /// Adds the same interval of another thread.
    pub fn merge(&mut self, other: &Interval) {
        let Interval {
            tag,
            from,
            to,
            stage,
            up,
            identity,
            response,
            warmup,
            errors,
            targets,
            times,
        } = other;
        self.tag = self.tag.min(*tag);
        self.from = self.from.max(*from);
        self.to = self.to.max(*to);
        self.stage = self.stage.or(*stage);
        self.up += *up;
        self.identity.due += identity.due;
        self.identity.counts.merge(&identity.counts);
        self.identity.outstanding += identity.outstanding;
        self.response.merge(response);
        self.warmup.merge(warmup);
        pairs::add(&mut self.errors, errors);
        if self.targets.is_empty() {
            self.targets.clone_from(targets);
        } else {
            for (counts, other) in self.targets.iter_mut().zip(targets) {
                counts.merge(other);
            }
        }
        // A thread that has reported no interval yet has no times.
        match (&mut self.times, times) {
            (_, None) => {}
            (None, Some(other)) => self.times = Some(Arc::clone(other)),
            (Some(times), Some(other)) => {
                let times = Arc::make_mut(times);
                times.warmup.merge(&other.warmup);
                times.run.merge(&other.run);
            }
        }
    }
}
