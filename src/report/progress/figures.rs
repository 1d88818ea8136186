//! The figures of a part of a run, and their words in the live view and in the plain lines. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use crate::load::latency::{Bound, Latency};
use crate::load::plan::Plan;
use crate::load::plan::schedule::RateOverTime;
use crate::load::results::recorder::Interval;
use crate::load::results::{Counts, ErrorKind};
use crate::units::{counted, grouped, rate, short};

/// Maximum number of kinds of errors that are shown by name.
const ERRORS_SHOWN: usize = 3;

/// The figures of an interval, or of several in succession.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The median of the response times; `None` when too few messages ended.
    pub median: Option<Bound>,
    /// The upper end of the response times; `None` when no message ended.
    pub tail: Option<Tail>,
    /// Messages that wait for a connection or for their reply.
    pub outstanding: u64,
    /// Messages that ended without a correct reply, since the start of the run.
    pub lost: u64,
    /// Errors since the start of the run, the most frequent kind first.
    pub errors: Vec<(ErrorKind, u64)>,
}

/// The upper end of some response times: the 99th percentile, or the longest when there are too few
/// for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// `p99` or `max`.
    pub name: &'static str,
    /// The time.
    pub bound: Bound,
}

impl Tail {
    /// Returns the upper end of the samples; `None` when there are none.
    pub fn of(response: &Latency) -> Option<Tail> {
        let all = response.distribution()?;
        let (name, bound) = match all.percentile(99.0) {
            Some(bound) => ("p99", bound),
            None => ("max", all.longest()),
        };
        Some(Tail { name, bound })
    }
}

impl Figures {
    /// Returns the figures at the end of an interval, with the response times of this and maybe
    /// earlier intervals.
    pub fn new(response: &Latency, last: &Interval) -> Figures {
        let distribution = response.distribution();
        let mut errors: Vec<_> = last.errors.iter().map(|(kind, n)| (*kind, *n)).collect();
        errors.sort_by_key(|(_, count)| Reverse(*count));
        Figures {
            median: distribution.and_then(|all| all.percentile(50.0)),
            tail: Tail::of(response),
            outstanding: last.identity.outstanding,
            lost: lost(&last.identity.counts),
            errors,
        }
    }

    /// Returns the words for the response times: `p50 112 µs`, `p99 >= 1.04 ms`.
    pub fn times(&self) -> Vec<String> {
        let median = self.median.map(|bound| ("p50", bound));
        let tail = self.tail.map(|tail| (tail.name, tail.bound));
        let times = median.into_iter().chain(tail);
        let times: Vec<_> = times
            .map(|(name, found)| format!("{name} {}", time(found)))
            .collect();
        match times.is_empty() {
            true => vec!["no replies".to_string()],
            false => times,
        }
    }

    /// Returns the words for what went wrong since the start of the run: `2 connection reset`,
    /// `5 messages lost`. The numbers are first, so that a narrow terminal cuts the names.
    pub fn faults(&self) -> Vec<String> {
        let (shown, others) = self.errors.split_at(self.errors.len().min(ERRORS_SHOWN));
        let named = shown.iter();
        let mut faults: Vec<_> = named
            .map(|(kind, count)| format!("{} {kind}", grouped(*count)))
            .collect();
        let others: u64 = others.iter().map(|(_, count)| count).sum();
        if others > 0 {
            faults.push(counted(others, "other error").to_string());
        }
        if self.lost > 0 {
            faults.push(format!("{} lost", counted(self.lost, "message")));
        }
        faults
    }
}

fn lost(counts: &Counts) -> u64 {
    counts.mismatched + counts.errored + counts.timed_out + counts.unanswered
}

/// Returns a time with the mark of a lower bound: `>= 1.04 ms`.
pub fn time(found: Bound) -> String {
    let mark = if found.at_least { ">= " } else { "" };
    format!("{mark}{}", short(found.value))
}

/// The rate that a plan asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    rates: Option<RateOverTime>,
}

impl Asked {
    /// Returns the rate of a plan.
    pub fn of(plan: &Plan) -> Asked {
        Asked {
            rates: plan.rate_over_time(),
        }
    }

    /// Returns the mean rate between two times after the start, in messages per second; `None` in a
    /// closed loop.
    pub fn between(&self, from: Duration, to: Duration) -> Option<f64> {
        Some(match self.rates.as_ref()? {
            RateOverTime::Constant(rate) => rate.per_second(),
            RateOverTime::Profile(profile) => profile.mean_rate(from, to.min(profile.length())),
        })
    }

    /// Returns the words for the stage at a time after the start, of several: `stage 2 of 3`.
    pub fn stage_at(&self, time: Duration) -> Option<String> {
        let Some(RateOverTime::Profile(profile)) = &self.rates else {
            return None;
        };
        let stages = profile.stages().len();
        let number = profile.stage_at(time) + 1;
        (stages > 1).then(|| format!("stage {number} of {stages}"))
    }
}

/// Returns the words for a rate: `1,998 of 2,000` followed by the unit.
pub fn rates(achieved: f64, asked: Option<f64>, unit: &str) -> String {
    let of = asked.map_or(String::new(), |asked| format!(" of {}", rate(asked)));
    format!("{}{of}{unit}", rate(achieved))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns response times of so many microseconds each.
    pub fn response(microseconds: impl IntoIterator<Item = u64>) -> Latency {
        let mut response = Latency::default();
        for time in microseconds {
            response.record(Duration::from_micros(time));
        }
        response
    }

    fn times(response: &Latency) -> String {
        Figures::new(response, &Interval::default())
            .times()
            .join(", ")
    }

    #[test]
    fn times_are_as_precise_as_their_number_allows() {
        assert_eq!(times(&response(1..=1000)), "p50 500 µs, p99 990 µs");
        assert_eq!(times(&response(1..=100)), "p50 50.0 µs, max 100 µs");
        assert_eq!(times(&response([7])), "max 7.00 µs");
        assert_eq!(times(&response([])), "no replies");
        let mut unanswered = response(1..=1000);
        for _ in 0..20 {
            unanswered.record_at_least(Duration::from_secs(1));
        }
        let times = times(&unanswered);
        assert_eq!(times, "p50 510 µs, p99 >= 1.00 s");
    }

    #[test]
    fn the_most_frequent_errors_are_named() {
        let mut last = Interval::default();
        assert!(Figures::new(&response([]), &last).faults().is_empty());
        last.errors = [
            (ErrorKind::Refused, 2),
            (ErrorKind::Reset, 4_000),
            (ErrorKind::NoPort, 1),
            (ErrorKind::TimedOut, 3),
        ]
        .into();
        last.identity.counts.errored = 1;
        let faults = Figures::new(&response([]), &last).faults();
        assert_eq!(
            faults.join(", "),
            "4,000 connection reset, 3 timed out, 2 connection refused, 1 other error, \
             1 message lost"
        );
    }

    #[test]
    fn rates_name_what_was_asked() {
        assert_eq!(rates(0.0, Some(2_000.0), "/s"), "0 of 2,000/s");
        assert_eq!(rates(0.25, None, " messages/s"), "0.25 messages/s");
    }
}
