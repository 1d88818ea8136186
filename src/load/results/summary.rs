//! The result of a load run. Pure data: measuring cannot print, and printing cannot measure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::engine::ThreadResult;
use crate::load::plan::schedule::Rate;
use crate::load::plan::{Pace, Plan, Stop};
use crate::load::results::evidence::Evidence;
use crate::load::results::stages::StageResult;
use crate::load::results::targets::Target;
use crate::load::results::{Results, RunTimes, VISIBLE_LATENESS};
use crate::server::stats::Totals;
use crate::sys::cpu_sample::CpuUsage;
use crate::units::share;

/// The result of a load run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The plan of the run.
    pub plan: Arc<Plan>,
    /// Outcomes and times after the warm-up.
    pub results: Results,
    /// Outcomes and times of the warm-up.
    pub warmup: Results,
    /// Evidence about the generator itself and the network.
    pub evidence: Evidence,
    /// The times of the run.
    pub times: RunTimes,
    /// The history of each target, in the order of the plan.
    pub targets: Vec<Target>,
    /// The results of the stages of the profile; empty without one, and where they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageResult>,
    /// The index of the stage of a profile that this is the result of; `None`: of the run.
    #[serde(skip)]
    pub stage: Option<usize>,
    /// Whether every target is an address of this host, so that no network takes part.
    pub is_local: bool,
    /// The totals of the server in this process, if the run had one.
    pub own_server: Option<Totals>,
    /// The error that left the interval log incomplete, if there was one.
    pub unlogged: Option<String>,
    /// What the record of this run lacks, and why, if it lacks anything.
    pub unrecorded: Option<String>,
    /// What is missing from this result because it was read from records that do not form a whole
    /// run, one sentence each.
    pub gaps: Vec<String>,
    /// Whether the run, or a part of it, ended without a result, so that this one goes only as far
    /// as its record: the outcome of the outstanding messages is not known.
    pub unfinished: bool,
}

impl Summary {
    /// Returns the result of a run that measured nothing.
    pub fn empty(plan: &Arc<Plan>) -> Summary {
        Summary {
            plan: Arc::clone(plan),
            results: Results::default(),
            warmup: Results::default(),
            evidence: Evidence::default(),
            times: RunTimes::default(),
            targets: plan.targets.iter().map(|_| Target::default()).collect(),
            stages: Vec::new(),
            stage: None,
            is_local: false,
            own_server: None,
            unlogged: None,
            unrecorded: None,
            gaps: Vec::new(),
            unfinished: false,
        }
    }

    /// Returns the result of one thread.
    pub fn new(plan: &Arc<Plan>, done: ThreadResult, machine: CpuUsage) -> Summary {
        Summary {
            results: done.recorder.run,
            warmup: done.recorder.warmup,
            evidence: Evidence {
                machine,
                ..done.evidence
            },
            times: done.times,
            targets: done.targets,
            stages: done.stages,
            ..Summary::empty(plan)
        }
    }

    /// Adds the result of another thread.
    pub fn add(&mut self, done: ThreadResult, machine: CpuUsage) {
        let plan = Arc::clone(&self.plan);
        self.merge(&Summary::new(&plan, done, machine));
    }

    /// Adds the result of another part of the run, which took place at the same time: of a thread,
    /// or of another machine. The plan stays as it is.
    pub fn merge(&mut self, other: &Summary) {
        let Summary {
            plan: _,
            results,
            warmup,
            evidence,
            times,
            targets,
            stages,
            stage: _,
            is_local: _,
            own_server: _,
            unlogged,
            unrecorded,
            gaps,
            unfinished,
        } = other;
        self.results.merge(results);
        self.warmup.merge(warmup);
        self.evidence.merge(evidence);
        self.times.merge(times);
        for (target, other) in self.targets.iter_mut().zip(targets) {
            target.merge(other);
        }
        for (stage, other) in self.stages.iter_mut().zip(stages) {
            stage.merge(other);
        }
        self.unlogged = self.unlogged.take().or(unlogged.clone());
        self.unrecorded = self.unrecorded.take().or(unrecorded.clone());
        self.gaps.extend_from_slice(gaps);
        self.unfinished |= *unfinished;
    }

    /// Adds the result of a part of the run that another process carried out at the same time. What
    /// the threads of one process share is added here.
    pub fn merge_part(&mut self, other: &Summary) {
        let mut evidence = std::mem::take(&mut self.evidence);
        evidence.merge_part(&other.evidence);
        let mut stages = std::mem::take(&mut self.stages);
        for (stage, other) in stages.iter_mut().zip(&other.stages) {
            stage.merge_part(other);
        }
        self.merge(other);
        (self.evidence, self.stages) = (evidence, stages);
        self.is_local &= other.is_local;
        self.own_server = match (self.own_server.take(), other.own_server) {
            (Some(mut ours), Some(theirs)) => {
                ours += theirs;
                Some(ours)
            }
            (ours, theirs) => ours.or(theirs),
        };
    }

    /// Adds the result of a later part of the run, which was carried out by itself after this one.
    pub fn append(&mut self, later: &Summary) {
        let (response, service) = (self.results.response.clone(), self.results.service.clone());
        let (times, targets) = (self.times, self.targets.clone());
        let stages = std::mem::take(&mut self.stages);
        self.merge_part(later);
        self.stages = [stages, later.stages.clone()].concat();
        self.targets = targets;
        let resumed = later.times.start;
        for (target, later) in self.targets.iter_mut().zip(&later.targets) {
            target.append(later, resumed);
        }
        // Side by side, the blocks of both parts would be merged.
        let of_later = &later.results;
        self.results.response = response.followed_by(&of_later.response);
        self.results.service = service.followed_by(&of_later.service);
        self.times = times.followed_by(&later.times);
    }

    /// Returns whether a file about the run, which was asked for, could not be written in full.
    pub fn lacks_a_file(&self) -> bool {
        self.unlogged.is_some() || self.unrecorded.is_some()
    }

    /// Changes every instant of the result in the same way: to the clock of another machine.
    pub fn shift(&mut self, to: impl Fn(Instant) -> Instant) {
        self.times.start = self.times.start.map(&to);
        if let Some(sends) = &mut self.results.sends {
            sends.first.at = to(sends.first.at);
            sends.last.at = to(sends.last.at);
        }
        for target in &mut self.targets {
            target.shift(&to);
        }
        for stage in &mut self.stages {
            stage.times.start = stage.times.start.map(&to);
            if let Some(sends) = &mut stage.results.sends {
                sends.first.at = to(sends.first.at);
                sends.last.at = to(sends.last.at);
            }
        }
    }

    /// Returns a stage of the profile as the result of a run of its own, with the rate of the stage
    /// and its own evidence; `None`: there is no such stage, or its results are not known. Of the
    /// targets it has the absences in the stage.
    pub fn of_stage(&self, index: usize) -> Option<Summary> {
        let (profile, measured) = (self.plan.profile.as_ref()?, self.stages.get(index)?);
        let (stage, (from, to)) = (profile.stage(index)?, profile.span(index)?);
        let mut plan = self.plan.as_ref().clone();
        plan.profile = profile.only(index).filter(|_| !stage.is_constant());
        plan.stop = Stop::After(stage.length());
        plan.warmup = plan.warmup.clamp(from, to) - from;
        if let Pace::Open { rate, .. } = &mut plan.pace {
            let mean = u64::midpoint(stage.from.millionths(), stage.to.millionths());
            *rate = Rate::of_millionths(mean);
        }
        let span = self.times.start.map(|start| (start + from, start + to));
        let targets = self.targets.iter();
        let targets = targets.map(|target| match span {
            Some((from, to)) => target.between(from, to),
            None => target.clone(),
        });
        let mut times = measured.times;
        times.lines_up = plan.connections;
        Some(Summary {
            results: measured.results.clone(),
            evidence: measured.evidence.clone(),
            times,
            targets: targets.collect(),
            stage: Some(index),
            is_local: self.is_local,
            own_server: self.own_server,
            gaps: self.gaps.clone(),
            unfinished: self.unfinished,
            ..Summary::empty(&Arc::new(plan))
        })
    }

    /// Returns the length of the longest stall of the server, see [`crate::load::results::stalls`].
    pub fn stall(&self) -> Option<Duration> {
        let service = self.results.service.distribution()?;
        self.evidence.silences.stall(&service)
    }

    /// Returns an upper bound of the time that a thread of the generator waited for a CPU on which
    /// the run's own server was running: all of its waits, but at most the CPU time of that server.
    /// Zero without such a server.
    pub fn waited_for_own_server(&self) -> Duration {
        let machine = &self.evidence.machine;
        match self.own_server {
            None => Duration::ZERO,
            Some(_) => {
                let waited = self.time_of_a_thread().mul_f64(machine.starved);
                waited.min(machine.process.saturating_sub(machine.cpu))
            }
        }
    }

    /// Returns the share of its time for which a thread of the generator waited for a CPU that was
    /// used by other processes than the run's own server.
    pub fn starved_by_others(&self) -> f64 {
        let excused = share(self.waited_for_own_server(), self.time_of_a_thread());
        (self.evidence.machine.starved - excused).max(0.0)
    }

    /// Returns the time for which each thread was measured.
    fn time_of_a_thread(&self) -> Duration {
        self.evidence.machine.wall / self.plan.threads.max(1)
    }

    /// Returns the number of lines that never had a connection.
    pub fn not_opened(&self) -> u32 {
        self.plan.connections.saturating_sub(self.times.lines_up)
    }

    /// Returns the number of verified messages per second; 0 when there were none.
    pub fn achieved_rate(&self) -> f64 {
        per_second(self.results.counts.verified as f64, self.times.elapsed)
    }

    /// Returns by how many seconds the responses of a run with a rate became longer per second of
    /// the run, as they do in a queue that is filled faster than it is drained; `None`: they did
    /// not, or not significantly, or the run had no rate, or one that changed: with the rate, the
    /// responses and the number of messages in flight change as well.
    ///
    /// The trend of the responses detects a queue that grows evenly, however slowly. A queue that
    /// fluctuates while it grows is detected by its minimum in the last quarter of the run.
    pub fn growth(&self) -> Option<f64> {
        self.asked_rate()?;
        let profile = self.plan.profile.as_ref();
        if profile.is_some_and(|profile| !profile.is_constant()) {
            return None;
        }
        let drift = self.results.response.drift();
        let drift = drift
            .filter(|drift| drift.slope > 0.0 && drift.growth() > VISIBLE_LATENESS.as_secs_f64());
        let slope = drift.map(|drift| drift.slope);
        let left = self.times.backlog.and_then(|backlog| {
            let slow = self.results.response.distribution()?.nearest(99.0).value;
            backlog.growth(slow, self.times.sending)
        });
        let grown = slope.into_iter().chain(left).reduce(f64::max);
        grown.map(|grown| grown.min(1.0))
    }

    /// Returns a target's share of the scheduled messages; 0 when there were none.
    pub fn share_of(&self, target: &Target) -> f64 {
        let all = self.results.counts.scheduled.max(1);
        target.tally.counts.scheduled as f64 / all as f64
    }

    /// Returns the number of scheduled messages that never got a connection and that any target
    /// could have served.
    pub fn scheduled_for_none(&self) -> u64 {
        let scheduled = |target: &Target| target.tally.counts.scheduled;
        let of_targets: u64 = self.targets.iter().map(scheduled).sum();
        self.results.counts.scheduled.saturating_sub(of_targets)
    }

    /// Returns the requested number of messages per second, of a profile its mean after the
    /// warm-up; `None` in a closed loop.
    pub fn asked_rate(&self) -> Option<f64> {
        match (&self.plan.profile, self.plan.pace) {
            (_, Pace::Closed { .. }) => None,
            (Some(profile), _) => Some(profile.mean_rate(self.plan.warmup, profile.length())),
            (None, Pace::Open { rate, .. }) => Some(rate.per_second()),
        }
    }

    /// Returns the number of messages per second in the schedule as it was drawn: with Poisson
    /// arrivals it differs a little from the requested one. `None` in a closed loop.
    pub fn scheduled_rate(&self) -> Option<f64> {
        let open = matches!(self.plan.pace, Pace::Open { .. });
        open.then(|| per_second(self.results.counts.scheduled as f64, self.times.sending))
    }

    /// Returns the share of the scheduled rate at which messages were verified: 1 when all were and
    /// the server kept up; `None` in a closed loop, and when nothing was due.
    ///
    /// Where responses grow by g seconds per second, the server answers in one second the messages
    /// that became due in 1 - g seconds. That is the share, however long replies take and however
    /// many messages are in flight at the beginning and at the end. Messages without a reply at the
    /// end are then the rest of the queue. Without growth they count as missing; lost messages
    /// always do. Of an unfinished run nothing of this is known.
    pub fn rate_share(&self) -> Option<f64> {
        if self.unfinished {
            return None;
        }
        self.scheduled_rate().filter(|rate| *rate > 0.0)?;
        let counts = &self.results.counts;
        let lost = counts.mismatched + counts.errored + counts.timed_out;
        let without = |missing: u64| 1.0 - missing as f64 / counts.scheduled.max(1) as f64;
        Some(match self.growth() {
            None => without(lost + counts.unanswered),
            Some(growth) => without(lost).min(1.0 - growth),
        })
    }

    /// Returns the number of verified bytes per second, in one direction.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(
            self.results.counts.verified_bytes as f64,
            self.times.elapsed,
        )
    }

    /// Returns the generator's CPU time per verified message, while messages were due.
    pub fn cpu_a_message(&self) -> Duration {
        let verified = self.times.verified_in_time.max(1);
        self.evidence.machine.cpu.div_f64(verified as f64)
    }

    /// Returns the share of its time in which a thread of the generator was busy: if it sleeps
    /// between messages, its CPU time; if it spins, the turns in which it did something.
    pub fn busy(&self) -> f64 {
        let machine = &self.evidence.machine;
        if self.plan.spin {
            share(self.evidence.worked, machine.wall)
        } else {
            machine.busy
        }
    }
}

fn per_second(count: f64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        count / time.as_secs_f64()
    }
}
