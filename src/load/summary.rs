//! The result of a load run. Pure data: measuring cannot print, and printing cannot measure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::engine::Done;
use crate::load::evidence::{Evidence, Machine, share};
use crate::load::plan::{Pace, Plan};
use crate::load::results::Results;
use crate::server::stats::Totals;

/// A silence that cannot be a pause of scheduling or of a delayed acknowledgment.
const STALL: Duration = Duration::from_millis(100);

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
    /// Places for connections that had one.
    pub lines_up: u32,
    /// From the end of the warm-up to the end of sending.
    pub sending: Duration,
    /// The same, or from the first reply to the last when that is longer: a server that lags
    /// behind must not look faster for it, and one that answers late, but steadily, not slower.
    pub elapsed: Duration,
    /// Messages that were verified while others were still due, those of the warm-up included.
    pub verified_in_time: u64,
    /// Messages that were due in the middle half of the sending.
    pub middle_due: u64,
    /// Replies that came in it.
    pub middle_verified: u64,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// When messages were due from.
    pub start: Option<Instant>,
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
            lines_up: done.lines_up,
            sending: done.sending,
            elapsed: done.elapsed,
            verified_in_time: done.verified_in_time,
            middle_due: done.middle_due,
            middle_verified: done.middle_verified,
            interrupted: done.interrupted,
            start: done.start,
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
        self.lines_up += done.lines_up;
        self.sending = self.sending.max(done.sending);
        self.elapsed = self.elapsed.max(done.elapsed);
        self.verified_in_time += done.verified_in_time;
        self.middle_due += done.middle_due;
        self.middle_verified += done.middle_verified;
        self.interrupted |= done.interrupted;
        self.start = self.start.min(done.start);
    }

    /// The longest silence, when it was no pause between replies: longer than a tenth of a second,
    /// and than ten replies as a rule take.
    pub fn stall(&self) -> Option<Duration> {
        let silence = self.evidence.silence;
        let service = self.results.service.distribution();
        let median = service.map_or(Duration::ZERO, |service| service.nearest(50.0).value);
        (silence > STALL && silence > median.saturating_mul(10)).then_some(silence)
    }

    /// Places for connections that never had one.
    pub fn not_opened(&self) -> u32 {
        self.plan.connections.saturating_sub(self.lines_up)
    }

    /// Verified messages a second; 0 when there were none.
    pub fn achieved_rate(&self) -> f64 {
        per_second(self.results.counts.verified as f64, self.elapsed)
    }

    /// Replies by messages due in the middle half of the sending. Whatever is on its way at both of
    /// its ends cancels out: it is 1 also where replies take long, or some longer than others, and
    /// less where the server does not keep up. `None`: no message was due.
    pub fn kept_up(&self) -> Option<f64> {
        (self.middle_due > 0).then(|| self.middle_verified as f64 / self.middle_due as f64)
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
        open.then(|| per_second(self.results.counts.scheduled as f64, self.sending))
    }

    /// Achieved by scheduled rate, 1 when the server kept up; `None` in a closed loop, and when
    /// nothing was due.
    pub fn rate_share(&self) -> Option<f64> {
        let scheduled = self.scheduled_rate().filter(|rate| *rate > 0.0)?;
        Some(self.achieved_rate() / scheduled)
    }

    /// Verified bytes a second, one way.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.results.counts.verified_bytes as f64, self.elapsed)
    }

    /// CPU time of the generator for each message, while messages were due.
    pub fn cpu_a_message(&self) -> Duration {
        let verified = self.verified_in_time.max(1);
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
