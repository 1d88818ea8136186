//! The result of a load run. Pure data: measuring cannot print, and printing cannot measure.

use std::sync::Arc;
use std::time::Duration;

use crate::load::engine::Done;
use crate::load::evidence::{Evidence, Machine, share};
use crate::load::plan::{Pace, Plan};
use crate::load::results::{Course, LATE, Results};
use crate::load::targets::Target;
use crate::server::stats::Totals;

/// The result of a load run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was to be done.
    pub plan: Arc<Plan>,
    /// What became of it, after the warm-up.
    pub results: Results,
    /// What became of the warm-up's messages.
    pub warmup: Results,
    /// What the run saw of itself and of the network.
    pub evidence: Evidence,
    /// How it went.
    pub course: Course,
    /// The history of each target, in the order of the plan.
    pub targets: Vec<Target>,
    /// Whether every target is an address of this host, so that no network takes part.
    pub is_local: bool,
    /// What the server of this process counted, when the run had one.
    pub own_server: Option<Totals>,
    /// Why the interval log is not complete, when it is not.
    pub unlogged: Option<String>,
}

impl Summary {
    /// The result of one thread.
    pub fn new(plan: &Arc<Plan>, done: Done, machine: Machine) -> Summary {
        Summary {
            plan: Arc::clone(plan),
            results: done.books.run,
            warmup: done.books.warmup,
            evidence: Evidence {
                machine,
                ..done.evidence
            },
            course: done.course,
            targets: done.targets,
            is_local: false,
            own_server: None,
            unlogged: None,
        }
    }

    /// Adds that of another thread.
    pub fn add(&mut self, done: Done, machine: Machine) {
        self.results.merge(&done.books.run);
        self.warmup.merge(&done.books.warmup);
        self.evidence.merge(&done.evidence);
        self.evidence.machine.merge(&machine);
        self.course.merge(&done.course);
        for (target, other) in self.targets.iter_mut().zip(&done.targets) {
            target.merge(other);
        }
    }

    /// Returns the length of the longest stall of the server, see [`crate::load::stalls`].
    pub fn stall(&self) -> Option<Duration> {
        let service = self.results.service.distribution()?;
        self.evidence.silences.stall(&service)
    }

    /// Returns how long a thread of the generator may have waited for the CPU while the run's own
    /// server had it: all of its waits, up to the CPU time of that server. Zero without such a
    /// server.
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

    /// Returns the share of its time for which a thread of the generator waited for a CPU that
    /// other processes than the run's own server had.
    pub fn starved_by_others(&self) -> f64 {
        let excused = share(self.waited_for_own_server(), self.time_of_a_thread());
        (self.evidence.machine.starved - excused).max(0.0)
    }

    /// Returns for how long each thread was measured.
    fn time_of_a_thread(&self) -> Duration {
        self.evidence.machine.wall / self.plan.threads.max(1)
    }

    /// Places for connections that never had one.
    pub fn not_opened(&self) -> u32 {
        self.plan.connections.saturating_sub(self.course.lines_up)
    }

    /// Verified messages a second; 0 when there were none.
    pub fn achieved_rate(&self) -> f64 {
        per_second(self.results.counts.verified as f64, self.course.elapsed)
    }

    /// Returns by how many seconds the responses of a run with a rate became longer in each second
    /// of it, as they do in a queue that gets more than is taken out of it; `None`: they did not,
    /// or not so that it could be seen, or the run had no rate.
    ///
    /// The trend of the responses tells a queue that grows evenly, however slowly. One that grows
    /// and wanders is told by what is left of it even at its least in the last quarter of the run.
    pub fn growth(&self) -> Option<f64> {
        self.asked_rate()?;
        let drift = self.results.response.drift();
        let drift = drift.filter(|drift| drift.slope > 0.0 && drift.growth() > LATE.as_secs_f64());
        let slope = drift.map(|drift| drift.slope);
        let left = self.course.backlog.and_then(|backlog| {
            let slow = self.results.response.distribution()?.nearest(99.0).value;
            backlog.growth(slow, self.course.sending)
        });
        let grown = slope.into_iter().chain(left).reduce(f64::max);
        grown.map(|grown| grown.min(1.0))
    }

    /// Returns a target's share of the scheduled messages; 0 when there were none.
    pub fn share_of(&self, target: &Target) -> f64 {
        let all = self.results.counts.scheduled.max(1);
        target.tally.counts.scheduled as f64 / all as f64
    }

    /// Returns how many messages never got a connection, and would have gone to whichever target
    /// had one.
    pub fn scheduled_for_none(&self) -> u64 {
        let scheduled = |target: &Target| target.tally.counts.scheduled;
        let of_targets: u64 = self.targets.iter().map(scheduled).sum();
        self.results.counts.scheduled.saturating_sub(of_targets)
    }

    /// Messages a second that were asked for; `None` in a closed loop.
    pub fn asked_rate(&self) -> Option<f64> {
        match self.plan.pace {
            Pace::Open { rate, .. } => Some(rate.per_second()),
            Pace::Closed { .. } => None,
        }
    }

    /// Messages a second that the schedule held as it was drawn: with Poisson arrivals not quite
    /// what was asked for. `None` in a closed loop.
    pub fn scheduled_rate(&self) -> Option<f64> {
        let open = matches!(self.plan.pace, Pace::Open { .. });
        open.then(|| per_second(self.results.counts.scheduled as f64, self.course.sending))
    }

    /// Returns the share of the scheduled rate at which messages were verified, 1 when all were and
    /// the server kept up; `None` in a closed loop, and when nothing was due.
    ///
    /// Where responses grow by g seconds each second, a second of the run answers what was due in
    /// 1 - g of a second: that is the share, however long replies take and however many are on
    /// their way at either end. Messages that are without a reply at the end are then the rest of
    /// the queue; otherwise they are missing, as lost ones always are.
    pub fn rate_share(&self) -> Option<f64> {
        self.scheduled_rate().filter(|rate| *rate > 0.0)?;
        let counts = &self.results.counts;
        let lost = counts.mismatched + counts.errored + counts.timed_out;
        let without = |missing: u64| 1.0 - missing as f64 / counts.scheduled.max(1) as f64;
        Some(match self.growth() {
            None => without(lost + counts.unanswered),
            Some(growth) => without(lost).min(1.0 - growth),
        })
    }

    /// Verified bytes a second, one way.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(
            self.results.counts.verified_bytes as f64,
            self.course.elapsed,
        )
    }

    /// CPU time of the generator for each message, while messages were due.
    pub fn cpu_a_message(&self) -> Duration {
        let verified = self.course.verified_in_time.max(1);
        self.evidence.machine.cpu.div_f64(verified as f64)
    }

    /// The share of its time in which a thread of the generator was at work: where it sleeps, its
    /// CPU time; where it spins, its turns with something in them.
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
