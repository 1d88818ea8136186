//! The stages of a rate profile as one thread goes through them: what was measured of the generator
//! and the network in each. Pure.
//!
//! At the end of a stage its evidence is put aside, and that of the next one begins. Counters of
//! TCP_INFO count over the life of a connection, and connections live through all stages: at the
//! end of a stage their growth since the stage before is counted. A silence that reaches over the
//! end of a stage is one silence of the run, and a part of it is one of each stage.
//!
//! Invariant: what the stages have counted adds up to what the run has counted.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::load::plan::profile::Profile;
use crate::load::results::RunTimes;
use crate::load::results::evidence::{Absences, Evidence, LastSample, Path, PathCounters};
use crate::load::results::stages::{StageRecorder, StageResult};
use crate::load::results::stalls::{Silence, Silences};

/// Maximum number of connections whose TCP_INFO is read in one turn at the end of a stage: a
/// reading takes about a microsecond, and no message must be late for it.
const PATHS_A_TURN: usize = 32;

/// The stages of a run in one thread.
#[derive(Debug)]
pub struct ProfileStages {
    /// The beginning and the end of each stage, without the warm-up.
    spans: Vec<(Instant, Instant)>,
    /// What was measured in the stages that have ended, except for the results of messages.
    ended: Vec<(Evidence, RunTimes)>,
    /// The silences of the current stage.
    silence: Duration,
    silences: Silences,
    /// Number of messages that were verified before the current stage.
    verified_before: u64,
    /// For each line, the counters that were counted in earlier stages, with the number of the
    /// connection.
    counted: Vec<(u32, PathCounters)>,
    /// The next line whose connection is to be counted in the stage that has ended last.
    line: usize,
}

impl ProfileStages {
    /// Returns the stages of a run that begins at `start`, at the beginning of the first stage.
    pub fn new(profile: &Profile, start: Instant, warmup_end: Instant, lines: usize) -> Self {
        let spans = (0..profile.stages().len()).filter_map(|index| profile.span(index));
        let spans = spans.map(|(from, to)| {
            let (from, to) = (start + from, start + to);
            (from.max(warmup_end).min(to), to)
        });
        ProfileStages {
            spans: spans.collect(),
            ended: Vec::new(),
            silence: Duration::ZERO,
            silences: Silences::default(),
            verified_before: 0,
            counted: vec![(0, PathCounters::default()); lines],
            line: lines,
        }
    }

    /// Returns the index of the current stage.
    pub fn current(&self) -> usize {
        self.ended.len()
    }

    /// Returns the beginning and the end of the current stage, without the warm-up.
    pub fn span(&self) -> Option<(Instant, Instant)> {
        self.spans.get(self.current()).copied()
    }

    /// Returns the end of the current stage, unless it is the last, which ends with the run.
    pub fn end(&self) -> Option<Instant> {
        let has_next = self.current() + 1 < self.spans.len();
        self.span().filter(|_| has_next).map(|(_, end)| end)
    }

    /// Returns the end of the stage to which a time belongs, unless that is the last one.
    pub fn end_after(&self, at: Instant) -> Option<Instant> {
        let (_, others) = self.spans.split_last()?;
        others.iter().map(|(_, end)| *end).find(|end| *end > at)
    }

    /// Ends the current stage: puts aside its evidence, and leaves in `evidence` only the silences,
    /// which are those of the run. `run` holds the backlog of the stage, and the number of messages
    /// that were verified in the run so far.
    pub fn end_stage(&mut self, evidence: &mut Evidence, absences: Absences, run: &RunTimes) {
        let of_run = Evidence {
            silence: evidence.silence,
            silences: std::mem::take(&mut evidence.silences),
            ..Evidence::default()
        };
        let of_stage = Evidence {
            silence: std::mem::take(&mut self.silence),
            silences: std::mem::take(&mut self.silences),
            absences,
            ..std::mem::replace(evidence, of_run)
        };
        let end = self.span().map(|(_, end)| end);
        let times = self.times(end, run);
        self.ended.push((of_stage, times));
        self.verified_before = run.verified_in_time;
        self.line = 0;
    }

    /// Ends the last stage that was reached, and returns the results of all. Adds the evidence of
    /// the earlier ones to that of the last, which makes it that of the run. `recorded`: the
    /// results of messages. `ended`: when sending ended, if that was before the end of the profile.
    pub fn finish(
        mut self,
        evidence: &mut Evidence,
        run: &mut RunTimes,
        recorded: StageRecorder,
        ended: Option<Instant>,
    ) -> Vec<StageResult> {
        let end = ended.or(self.span().map(|(_, end)| end));
        let times = self.times(end, run);
        // A run whose rate changes has no backlog that could be compared.
        run.backlog = None;
        let last = Evidence {
            silence: self.silence,
            silences: std::mem::take(&mut self.silences),
            ..evidence.clone()
        };
        for (earlier, _) in &self.ended {
            evidence.add_stage(earlier);
        }
        self.ended.push((last, times));
        let times = RunTimes {
            start: run.start,
            interrupted: run.interrupted,
            ..RunTimes::default()
        };
        let never_reached = std::iter::repeat_with(|| (Evidence::default(), times));
        let measured = self.ended.into_iter().chain(never_reached);
        let each = recorded.finish().zip(measured);
        let each = each.map(|((results, replying), (evidence, times))| StageResult {
            results,
            evidence,
            times: RunTimes {
                elapsed: times.sending.max(replying),
                ..times
            },
        });
        each.collect()
    }

    /// Returns the times of the current stage, which ends at this time.
    fn times(&self, end: Option<Instant>, run: &RunTimes) -> RunTimes {
        let from = self.span().map(|(from, _)| from);
        let sending = from.zip(end);
        let sending = sending.map(|(from, end)| end.saturating_duration_since(from));
        RunTimes {
            lines_up: 0,
            sending: sending.unwrap_or_default(),
            verified_in_time: run.verified_in_time.saturating_sub(self.verified_before),
            ..*run
        }
    }

    /// Returns when the part of a silence began that lies in the current stage.
    pub fn silent_since(&self, last_reply: Instant) -> Instant {
        let begun = self.span().map(|(from, _)| from);
        begun.map_or(last_reply, |begun| begun.max(last_reply))
    }

    /// Adds a silence of this length in the current stage, with its messages if it may be a stall.
    pub fn add_silence(&mut self, length: Duration, silence: Option<Silence>) {
        self.silence = self.silence.max(length);
        silence.into_iter().for_each(|it| self.silences.add(it));
    }

    /// Returns which counters of a connection were counted in earlier stages.
    pub fn counted(&self, line: u32, number: u32) -> PathCounters {
        match self.counted.get(line as usize) {
            Some((counted, counters)) if *counted == number => *counters,
            _ => PathCounters::default(),
        }
    }

    /// Returns the next lines whose connections are to be counted, and whether there are more.
    pub fn next_lines(&mut self) -> (Range<usize>, bool) {
        let from = self.line;
        self.line = (from + PATHS_A_TURN).min(self.counted.len());
        (from..self.line, self.line < self.counted.len())
    }

    /// Counts what a connection has done in the stage that has ended last.
    pub fn count(&mut self, line: u32, number: u32, seen: LastSample, path: io::Result<Path>) {
        let counted = self.counted(line, number);
        if let Some((evidence, _)) = self.ended.last_mut()
            && let Some(place) = self.counted.get_mut(line as usize)
        {
            *place = (number, evidence.network.count(seen, counted, path));
        }
    }
}
