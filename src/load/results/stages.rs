//! The results of the stages of a rate profile: those of a run, and those of one thread while the
//! run goes on. Pure.
//!
//! A message belongs to the stage in which it was due, whenever it is answered; one that was due in
//! the warm-up belongs to none. What happens to connections, and what is measured of the generator
//! and the network, belongs to the stage in which it happens, and after the last stage to that one.
//!
//! The samples of a stage are kept in blocks, as those of a run are, which begin with the stage: so
//! it is known whether its responses became longer. They move there at the end of a block. Those
//! that arrive after the end of the stage belong to its last block.
//!
//! Invariant: the counts of messages of all stages add up to those of the run.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::engine::connection::Message;
use crate::load::latency::Latency;
use crate::load::latency::recent::RecentSamples;
use crate::load::results::evidence::Evidence;
use crate::load::results::{ErrorKind, Loss, Results, RunTimes};
use crate::units::nanoseconds;

/// The result of a stage, in the form of the result of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StageResult {
    /// Outcomes and times of the messages that were due in the stage; connections that were opened
    /// and errors that occurred in it.
    pub results: Results,
    /// Evidence about the generator and the network during the stage.
    pub evidence: Evidence,
    /// The times of the stage. `start` is that of the run, and `lines_up` is not measured: whether
    /// a connection was ever established is a matter of the run.
    pub times: RunTimes,
}

impl StageResult {
    /// Adds the same stage of a part of the run that another process carried out at the same time.
    pub fn merge_part(&mut self, other: &StageResult) {
        self.results.merge(&other.results);
        self.evidence.merge_part(&other.evidence);
        self.times.merge(&other.times);
    }

    /// Adds the same stage of another thread.
    pub fn merge(&mut self, other: &StageResult) {
        let StageResult {
            results,
            evidence,
            times,
        } = other;
        self.results.merge(results);
        self.evidence.merge(evidence);
        self.times.merge(times);
    }
}

/// The stages of one thread of a run; none for a run without a profile.
#[derive(Clone, Debug, Default)]
pub struct StageRecorder {
    list: Vec<Recorded>,
    /// The index of the stage in which connections are opened and break; `None` before the start
    /// and after the end.
    current: Option<usize>,
}

/// The results of a stage in one thread.
#[derive(Clone, Debug)]
struct Recorded {
    /// The time from which its messages are due.
    from: Instant,
    /// The beginning of its first block, and the end of the open one while blocks are ended.
    blocks_from: Instant,
    block_end: Option<Instant>,
    results: Results,
    /// The responses and the service times that are not in the results yet.
    response: RecentSamples,
    service: RecentSamples,
    /// The times at which the first and the last of its messages were verified.
    verified: Option<(Instant, Instant)>,
}

impl StageRecorder {
    /// Creates the recorder of stages that begin at these times. Before `warmup_end` nothing is
    /// recorded.
    pub fn new(begins: impl IntoIterator<Item = Instant>, warmup_end: Instant) -> StageRecorder {
        let recorded = |from: Instant| Recorded {
            from,
            blocks_from: from.max(warmup_end),
            block_end: None,
            results: Results {
                response: Latency::in_blocks(),
                service: Latency::in_blocks(),
                ..Results::default()
            },
            response: RecentSamples::default(),
            service: RecentSamples::default(),
            verified: None,
        };
        StageRecorder {
            list: begins.into_iter().map(recorded).collect(),
            current: None,
        }
    }

    /// Returns whether the run has no profile.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Enters the stage with this index; `None`: the run is over.
    pub fn enter(&mut self, stage: Option<usize>) {
        self.stop_blocks();
        self.current = stage;
        if let Some(stage) = self.now() {
            let end = stage.results.response.open_until();
            stage.block_end = end.map(|end| stage.blocks_from + end);
        }
    }

    /// Ends the blocks of the current stage whose time is over. Returns whether there were any.
    pub fn end_blocks(&mut self, now: Instant) -> bool {
        let Some(stage) = self.now() else {
            return false;
        };
        let is_over = stage.block_end.is_some_and(|end| now >= end);
        if is_over {
            stage.gather();
        }
        while stage.block_end.is_some_and(|end| now >= end) {
            stage.results.service.end_block();
            let end = stage.results.response.end_block();
            stage.block_end = end.map(|end| stage.blocks_from + end);
        }
        is_over
    }

    /// Stops ending blocks, for when no new message will be due in the stage.
    pub fn stop_blocks(&mut self) {
        if let Some(stage) = self.now() {
            stage.block_end = None;
        }
    }

    /// Counts a message that was due at this time.
    pub fn scheduled(&mut self, due: Instant) {
        if let Some(stage) = self.of(due) {
            stage.results.counts.scheduled += 1;
        }
    }

    /// Records a message with a correct reply.
    pub fn verified(&mut self, message: &Message, response: Duration) {
        let Some(stage) = self.of(message.due) else {
            return;
        };
        let service = stage.results.verified(message, response);
        stage.response.record(nanoseconds(response));
        stage.service.record(nanoseconds(service));
        let at = message.due + response;
        stage.verified = match stage.verified {
            None => Some((at, at)),
            Some((first, last)) => Some((first.min(at), last.max(at))),
        };
    }

    /// Records a message that ended without a correct reply, `age` after it was due.
    pub fn lost(&mut self, loss: Loss, message: &Message, age: Duration) {
        if let Some(stage) = self.of(message.due) {
            stage.results.lost(loss, message, age);
        }
    }

    /// Records a message that ended before it was given to a connection. `own`: the time for which
    /// it could have been sent.
    pub fn lost_waiting(&mut self, loss: Loss, due: Instant, own: Duration, age: Duration) {
        if let Some(stage) = self.of(due) {
            stage.results.counts.scheduled += 1;
            stage.results.lost_waiting(loss, own, age);
        }
    }

    /// Counts a connection that broke, or was not established, now.
    pub fn error(&mut self, kind: ErrorKind) {
        if let Some(stage) = self.now() {
            stage.results.error(kind);
        }
    }

    /// Counts a failed attempt to connect.
    pub fn failed(&mut self) {
        if let Some(stage) = self.now() {
            stage.results.counts.failed += 1;
        }
    }

    /// Counts a connection that was established after this time.
    pub fn opened(&mut self, time: Duration) {
        if let Some(stage) = self.now() {
            stage.results.counts.opened += 1;
            stage.results.connect.record(time);
        }
    }

    /// Returns for each stage its results, and the time from the first verified reply to a message
    /// of it to the last.
    pub fn finish(self) -> impl Iterator<Item = (Results, Duration)> {
        self.list.into_iter().map(|mut stage| {
            stage.gather();
            let replying = stage.verified.map(|(first, last)| last - first);
            (stage.results, replying.unwrap_or_default())
        })
    }

    fn of(&mut self, due: Instant) -> Option<&mut Recorded> {
        let begun = self.list.partition_point(|stage| stage.from <= due);
        self.list.get_mut(begun.checked_sub(1)?)
    }

    fn now(&mut self) -> Option<&mut Recorded> {
        self.list.get_mut(self.current?)
    }
}

impl Recorded {
    /// Moves the recent samples to the results and their open block.
    fn gather(&mut self) {
        self.results.response.take(&mut self.response, None);
        self.results.service.take(&mut self.service, None);
    }
}
