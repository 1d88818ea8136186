//! Durations of a run, every one of them, and what may be said of them. Pure.
//!
//! A message without a reply has no response, but it has an age, and its response is at least that.
//! Such a sample is *censored*. It takes its place among the others at its age, so that a server
//! that stops answering cannot look fast; and every percentile from the first censored sample on is
//! a lower bound.
//!
//! A percentile is told only when at least [`BEYOND`] samples lie beyond it, and with the interval
//! that holds the true one with 95 % confidence, from the ranks of the samples alone (order
//! statistics; no shape is assumed, but that samples are independent).

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant decimal digits that are kept: a value is known to one part in a thousand.
const DIGITS: u8 = 3;

/// Samples that must lie beyond a percentile: fewer say next to nothing about it.
pub const BEYOND: u64 = 10;

/// Standard deviations on either side that hold 95 % of a normal distribution.
const CONFIDENCE: f64 = 1.96;

/// Durations in nanoseconds. It grows with the longest of them: none is cut off.
#[derive(Clone, Debug)]
pub struct Latency {
    known: Histogram<u64>,
    /// What lasted at least so long; none as a rule, so nothing is held for them.
    censored: Option<Box<Censored>>,
    longest: u64,
}

#[derive(Clone, Debug)]
struct Censored {
    histogram: Histogram<u64>,
    least: u64,
}

/// A duration that was measured, or one that is only known to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The duration.
    pub value: Duration,
    /// It is a lower bound: the truth is this or more.
    pub at_least: bool,
}

/// A percentile, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The percentile of the samples.
    pub bound: Bound,
    /// The 95 % interval of the true one; without an upper end when that lies among censored
    /// samples.
    pub interval: (Duration, Option<Duration>),
}

/// All samples in their order.
#[derive(Debug)]
pub struct Distribution {
    all: Histogram<u64>,
    /// How many of the smallest samples are known.
    known: u64,
    longest: Bound,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            known: histogram(),
            censored: None,
            longest: 0,
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("a supported number of digits")
}

impl Latency {
    /// Counts a duration that was measured.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = nanoseconds(duration);
        self.longest = self.longest.max(nanoseconds);
        count(&mut self.known, nanoseconds);
    }

    /// Counts a duration that was measured so many times.
    pub fn record_many(&mut self, duration: Duration, times: u64) {
        let nanoseconds = nanoseconds(duration);
        self.longest = self.longest.max(nanoseconds);
        let recorded = self.known.record_n(nanoseconds, times);
        recorded.expect("a histogram that grows takes every value");
    }

    /// Counts a duration of which only the beginning was seen.
    pub fn record_at_least(&mut self, age: Duration) {
        let nanoseconds = nanoseconds(age);
        self.longest = self.longest.max(nanoseconds);
        let censored = self.censored.get_or_insert_with(|| {
            Box::new(Censored {
                histogram: histogram(),
                least: nanoseconds,
            })
        });
        censored.least = censored.least.min(nanoseconds);
        count(&mut censored.histogram, nanoseconds);
    }

    /// Adds the samples of another.
    pub fn merge(&mut self, other: &Latency) {
        self.longest = self.longest.max(other.longest);
        add(&mut self.known, &other.known);
        match (&mut self.censored, &other.censored) {
            (_, None) => {}
            (None, Some(theirs)) => self.censored = Some(theirs.clone()),
            (Some(ours), Some(theirs)) => {
                ours.least = ours.least.min(theirs.least);
                add(&mut ours.histogram, &theirs.histogram);
            }
        }
    }

    /// How many samples there are, censored ones included.
    pub fn count(&self) -> u64 {
        let censored = self.censored.as_ref();
        self.known.len() + censored.map_or(0, |censored| censored.histogram.len())
    }

    /// The samples in their order, to be asked for percentiles; `None` when there are none.
    pub fn distribution(&self) -> Option<Distribution> {
        let mut all = self.known.clone();
        let mut known = all.len();
        if let Some(censored) = &self.censored {
            // A known sample in the same bucket may be the longer one: it is not counted as known.
            let bucket = self.known.lowest_equivalent(censored.least);
            known = match bucket {
                0 => 0,
                bucket => self.known.count_between(0, bucket - 1),
            };
            add(&mut all, &censored.histogram);
        }
        let longest = Bound {
            value: Duration::from_nanos(self.longest),
            at_least: known < all.len(),
        };
        (!all.is_empty()).then_some(Distribution {
            all,
            known,
            longest,
        })
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[inline]
fn count(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram
        .record(nanoseconds)
        .expect("a histogram that grows takes every value");
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from)
        .expect("a histogram that grows takes every value");
}

impl Distribution {
    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.all.len()
    }

    /// The longest sample.
    pub fn longest(&self) -> Bound {
        self.longest
    }

    /// The mean; with censored samples, a lower bound of it.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.all.mean().round() as u64)
    }

    /// The duration that so many of a hundred do not exceed; `None` when too few samples lie
    /// beyond it.
    pub fn percentile(&self, percentile: f64) -> Option<Estimate> {
        let (count, rank) = (self.count(), self.rank(percentile));
        let share = percentile / 100.0;
        if count < rank + BEYOND {
            return None;
        }
        // The true percentile lies between two samples with the chance that a binomial variable,
        // the number of samples below it, lies between their ranks.
        let expected = count as f64 * share;
        let spread = CONFIDENCE * (expected * (1.0 - share)).sqrt();
        let low = ((expected - spread).floor() as u64).max(1);
        let high = ((expected + spread).ceil() as u64 + 1).min(count);
        Some(Estimate {
            bound: self.sample(rank),
            interval: (
                self.sample(low).value,
                (high <= self.known).then(|| self.sample(high).value),
            ),
        })
    }

    /// Returns how many samples are longer than this; of those that are so to one part in a
    /// thousand, none.
    pub fn beyond(&self, duration: Duration) -> u64 {
        let nanoseconds = nanoseconds(duration);
        match self.all.highest_equivalent(nanoseconds).checked_add(1) {
            Some(above) if nanoseconds < self.all.max() => {
                self.all.count_between(above, self.all.max())
            }
            _ => 0,
        }
    }

    /// Returns the sample than which so many are longer; `None` when there are no more than these.
    pub fn below_longest(&self, longer: u64) -> Option<Bound> {
        let rank = self.count().checked_sub(longer).filter(|rank| *rank > 0)?;
        Some(self.sample(rank))
    }

    /// The sample that so many of a hundred do not exceed, however few there are.
    pub fn nearest(&self, percentile: f64) -> Bound {
        self.sample(self.rank(percentile))
    }

    fn rank(&self, percentile: f64) -> u64 {
        let rank = (self.count() as f64 * percentile / 100.0).ceil() as u64;
        rank.clamp(1, self.count())
    }

    /// The percentile from which on values are lower bounds; `None`: all are known.
    pub fn at_least_from(&self) -> Option<f64> {
        (self.known < self.count()).then(|| self.known as f64 / self.count() as f64 * 100.0)
    }

    /// The sample of this rank, from 1.
    fn sample(&self, rank: u64) -> Bound {
        let at_least = rank > self.known;
        // In the middle of the rank, where no rounding reaches its neighbours.
        let quantile = (rank as f64 - 0.5) / self.count() as f64;
        let value = self.all.value_at_quantile(quantile);
        let value = if at_least {
            self.all.lowest_equivalent(value)
        } else {
            value.min(nanoseconds(self.longest.value))
        };
        Bound {
            value: Duration::from_nanos(value),
            at_least,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::random::{Dice, Purpose};

    fn of(nanoseconds: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::default();
        for value in nanoseconds {
            latency.record(Duration::from_nanos(value));
        }
        latency
    }

    fn percentile(latency: &Latency, percentile: f64) -> Option<Bound> {
        let estimate = latency.distribution()?.percentile(percentile);
        estimate.map(|estimate| estimate.bound)
    }

    #[test]
    fn percentiles_are_known_to_one_part_in_a_thousand() {
        let latency = of((1..=100_000).map(|microseconds| microseconds * 1000));
        for (asked, microseconds) in [(50.0, 50_000.0), (99.0, 99_000.0), (99.9, 99_900.0)] {
            let found = percentile(&latency, asked).unwrap();
            let value = found.value.as_secs_f64() * 1e6;
            assert!(
                (value / microseconds - 1.0).abs() < 1e-3,
                "p{asked}: {value}"
            );
            assert!(!found.at_least);
        }
        assert!(Latency::default().distribution().is_none());
    }

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        for (count, asked, supported) in [
            (19, 50.0, false),
            (20, 50.0, true),
            (999, 99.0, false),
            (1000, 99.0, true),
            (9_999, 99.9, false),
            (10_000, 99.9, true),
        ] {
            let found = percentile(&of(1..=count), asked);
            assert_eq!(found.is_some(), supported, "p{asked} of {count}");
        }
    }

    #[test]
    fn the_longest_is_never_cut_off() {
        let mut latency = Latency::default();
        latency.record(Duration::from_micros(3));
        latency.record(Duration::MAX);
        let longest = latency.distribution().unwrap().longest();
        assert!(longest.value > Duration::from_secs(500 * 365 * 86_400));
        let longest = of([100_000_000_000_001]).distribution().unwrap().longest();
        assert_eq!(longest.value, Duration::from_nanos(100_000_000_000_001));
    }

    #[test]
    fn a_dead_tail_makes_lower_bounds() {
        // 10 s at 1,000/s answered in 1 ms, then 5 s unanswered, seen for one second more.
        let mut latency = of(std::iter::repeat_n(1_000_000, 10_000));
        for millisecond in 0..5000 {
            latency.record_at_least(Duration::from_millis(1000 + millisecond));
        }
        let distribution = latency.distribution().unwrap();
        let p50 = distribution.percentile(50.0).unwrap().bound;
        assert!(!p50.at_least);
        let p99 = distribution.percentile(99.0).unwrap().bound;
        assert!(p99.at_least);
        assert!((p99.value.as_secs_f64() - 5.85).abs() < 0.01, "{p99:?}");
        assert!(distribution.longest().at_least);
        let from = distribution.at_least_from().unwrap();
        assert!((from - 200.0 / 3.0).abs() < 0.01, "{from}");
    }

    proptest! {
        #[test]
        fn a_percentile_with_censored_samples_never_exceeds_the_truth(
            truths in prop::collection::vec(
                (1u64..1_000_000, prop::option::of(0.0f64..1.0)), 30..200,
            ),
            asked in 1.0f64..95.0,
        ) {
            let mut latency = Latency::default();
            for (truth, seen) in &truths {
                match seen {
                    None => latency.record(Duration::from_nanos(*truth)),
                    Some(part) => {
                        let age = (*truth as f64 * part) as u64;
                        latency.record_at_least(Duration::from_nanos(age));
                    }
                }
            }
            let mut sorted: Vec<u64> = truths.iter().map(|(truth, _)| *truth).collect();
            sorted.sort_unstable();
            let rank = ((sorted.len() as f64 * asked / 100.0).ceil() as usize).max(1);
            if let Some(found) = percentile(&latency, asked) {
                let (found, truth) = (found.value.as_nanos() as f64, sorted[rank - 1] as f64);
                prop_assert!(found <= truth * 1.001 + 1.0, "{found} > {truth}");
            }
            if let Some(Bound { value, at_least: false }) = percentile(&latency, asked) {
                let (found, truth) = (value.as_nanos() as f64, sorted[rank - 1] as f64);
                prop_assert!(found >= truth * 0.999 - 1.0, "known, and {found} < {truth}");
            }
        }

        #[test]
        fn merging_is_counting_together(
            one in prop::collection::vec(1u64..1 << 40, 20..50),
            two in prop::collection::vec(1u64..1 << 40, 20..50),
            censored in prop::collection::vec(1u64..1 << 40, 0..5),
        ) {
            let mut together = of(one.iter().chain(&two).copied());
            let (mut merged, mut other) = (of(one), of(two));
            for age in censored {
                together.record_at_least(Duration::from_nanos(age));
                other.record_at_least(Duration::from_nanos(age));
            }
            merged.merge(&other);
            let (merged, together) = (merged.distribution(), together.distribution());
            let (merged, together) = (merged.unwrap(), together.unwrap());
            prop_assert_eq!(merged.percentile(50.0), together.percentile(50.0));
            prop_assert_eq!(merged.longest(), together.longest());
            prop_assert_eq!(merged.at_least_from(), together.at_least_from());
        }
    }

    #[test]
    fn the_interval_holds_the_truth_in_95_of_100_runs() {
        // Uniform samples, so that the true percentile is known: 20 ... 2,000 runs of each kind.
        for (count, asked) in [(20, 50.0), (1000, 99.0), (2000, 90.0)] {
            let runs = 2000;
            let held = (0..runs).filter(|run| {
                let dice = Dice::new(11, Purpose::Gaps, *run);
                let latency = of((0..count).map(|place| (dice.unit(place) * 1e9) as u64));
                let distribution = latency.distribution().unwrap();
                let (low, high) = distribution.percentile(asked).unwrap().interval;
                let truth = Duration::from_secs_f64(asked / 100.0);
                low.mul_f64(0.999) <= truth && truth <= high.unwrap().mul_f64(1.001)
            });
            let held = held.count() as f64 / runs as f64;
            assert!(held >= 0.94, "p{asked} of {count}: {held}");
        }
    }
}
