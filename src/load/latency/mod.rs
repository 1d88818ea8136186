//! Records all durations of a run in histograms, and computes percentiles and their confidence
//! intervals. Pure.
//!
//! The response time of a message without a reply is unknown, but it is at least the age of the
//! message. Such a sample is *censored*. It is counted among the others at its age, so that a
//! server that stops answering does not look fast, and every percentile from the first censored
//! sample on is a lower bound.
//!
//! A percentile is returned only when at least [`BEYOND`] samples lie beyond it. Where the samples
//! are also kept in blocks of the run, the 95 % confidence interval of the true percentile can be
//! computed. It follows from the ranks of the samples, with the number of samples reduced to the
//! number of independent samples that carry as much information (Woodruff 1952; `statistics.rs`).
//! An interval that would not be reliable is withheld, and the reason is returned instead.

pub mod blocks;
pub mod encoded;
pub mod percentile;
pub mod recent;
pub mod statistics;

use std::borrow::Cow;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::latency::blocks::{Block, Blocks};
use crate::load::latency::recent::{RecentSamples, bucket_min, bucket_of};
use crate::load::latency::statistics::{CONFIDENCE, EffectiveSamples, Share, Trend};
use crate::units::nanoseconds;

/// Number of significant decimal digits of a histogram: a value is known to one part in a thousand.
const DIGITS: u8 = 3;

/// Minimum number of samples beyond a percentile: with fewer, its value is hardly known.
pub const BEYOND: u64 = 10;

/// Percentiles that are judged together. The samples beyond a higher one are among those beyond a
/// lower one, so they cannot contain more independent events.
const PRINTED_PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// The change over a run, as a share of the median, above which the samples have no common
/// distribution whose percentiles could be computed.
const DRIFT: f64 = 0.1;

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// A histogram of durations in nanoseconds. It grows with the longest duration, so that none is cut
/// off.
#[derive(Clone, Debug)]
pub struct Latency {
    known: Histogram<u64>,
    /// The censored samples; `None` before the first, which saves memory in the usual case.
    censored: Option<Box<Censored>>,
    longest: u64,
    /// The samples grouped by the time at which they were recorded; `None` when that is not kept.
    blocks: Option<Box<Blocks>>,
}

#[derive(Clone, Debug)]
struct Censored {
    histogram: Histogram<u64>,
    least: u64,
}

/// A duration that was measured, or a lower bound of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The duration.
    pub value: Duration,
    /// Whether the duration is a lower bound: the true value is the same or longer.
    pub at_least: bool,
}

/// The two ends of the 95 % confidence interval of a percentile. The upper end is `None` when it
/// lies among censored samples.
pub type Interval = (Duration, Option<Duration>);

/// The reason why a confidence interval cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The samples are not kept in blocks.
    NoBlocks,
    /// There are no samples, or too few blocks to show how much they differ.
    TooShort,
    /// The samples grow or fall over the run.
    Trend,
    /// Neighbouring parts of the run are correlated at every size of the parts.
    Correlated,
    /// The samples beyond the percentile come from too few independent events.
    FewEvents,
}

/// All samples of a [`Latency`], ordered by duration.
#[derive(Debug)]
pub struct Distribution<'a> {
    /// Borrowed unless censored samples had to be added: a copy takes up to 200 KB.
    all: Cow<'a, Histogram<u64>>,
    /// The number of samples that are shorter than every censored one.
    known: u64,
    longest: Bound,
}

/// What the confidence intervals of the percentiles of a [`Latency`] follow from.
#[derive(Debug)]
pub struct Intervals<'a> {
    all: Distribution<'a>,
    blocks: &'a Blocks,
    /// Whether the samples have no common distribution, because they grow or fall over the run.
    is_drifting: bool,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            known: histogram(),
            censored: None,
            longest: 0,
            blocks: None,
        }
    }
}

impl Withheld {
    /// Returns the name of the reason in machine-readable reports.
    pub fn name(self) -> &'static str {
        match self {
            Withheld::NoBlocks => "no-blocks",
            Withheld::TooShort => "too-short",
            Withheld::Trend => "trend",
            Withheld::Correlated => "correlated",
            Withheld::FewEvents => "few-events",
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("a supported number of digits")
}

impl Latency {
    /// Creates an empty histogram that keeps its samples in blocks as well. Measured durations may
    /// be added only with [`take`](Latency::take).
    pub fn in_blocks() -> Latency {
        Latency {
            blocks: Some(Box::default()),
            ..Latency::default()
        }
    }

    /// Counts a measured duration.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        debug_assert!(
            self.blocks.is_none(),
            "the sample would be missing from its block"
        );
        let nanoseconds = nanoseconds(duration);
        self.longest = self.longest.max(nanoseconds);
        count(&mut self.known, nanoseconds);
    }

    /// Counts a measured duration `times` times.
    pub fn record_many(&mut self, duration: Duration, times: u64) {
        let nanoseconds = nanoseconds(duration);
        self.longest = self.longest.max(nanoseconds);
        add_many(&mut self.known, nanoseconds, times);
    }

    /// Counts a censored sample: a duration that is known to be at least `age`.
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
        if let Some(blocks) = &mut self.blocks {
            blocks.record(bucket_of(nanoseconds));
        }
    }

    /// Moves measured durations in nanoseconds out of `recent` into the histogram and the open
    /// block, and counts them in `also` as well.
    pub fn take(&mut self, recent: &mut RecentSamples, mut also: Option<&mut Latency>) {
        let longest = recent.take_largest();
        self.longest = self.longest.max(longest);
        if let Some(also) = &mut also {
            also.longest = also.longest.max(longest);
        }
        let mut block = Block::default();
        recent.drain(|step, count| {
            add_many(&mut self.known, bucket_min(step), count.into());
            if let Some(also) = &mut also {
                add_many(&mut also.known, bucket_min(step), count.into());
            }
            block.push(step, count.into());
        });
        if let Some(blocks) = &mut self.blocks {
            blocks.add(&block);
        }
    }

    /// Ends the open block. Returns when the next one ends, as a time after the beginning of the
    /// first; `None` without blocks.
    pub fn end_block(&mut self) -> Option<Duration> {
        self.blocks.as_mut().map(|blocks| blocks.end())
    }

    /// Returns when the open block ends, as a time after the beginning of the first; `None` without
    /// blocks.
    pub fn open_until(&self) -> Option<Duration> {
        self.blocks.as_ref().map(|blocks| blocks.open_until())
    }

    /// Adds the samples of another histogram.
    pub fn merge(&mut self, other: &Latency) {
        let Latency {
            known,
            censored,
            longest,
            blocks,
        } = other;
        self.longest = self.longest.max(*longest);
        add(&mut self.known, known);
        match (&mut self.censored, censored) {
            (_, None) => {}
            (None, Some(theirs)) => self.censored = Some(theirs.clone()),
            (Some(ours), Some(theirs)) => {
                ours.least = ours.least.min(theirs.least);
                add(&mut ours.histogram, &theirs.histogram);
            }
        }
        match (&mut self.blocks, blocks) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            // The blocks would hold only a part of the samples.
            (Some(_), None) if other.count() > 0 => self.blocks = None,
            _ => {}
        }
    }

    /// Returns the samples, without the blocks in which they were recorded.
    pub fn without_blocks(&self) -> Latency {
        Latency {
            known: self.known.clone(),
            censored: self.censored.clone(),
            longest: self.longest,
            blocks: None,
        }
    }

    /// Returns the samples that were added since `earlier`, a state of this histogram. The longest
    /// and the least of them are known as precisely as their steps.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let censored = self.censored.as_ref().map(|all| {
            let before = earlier.censored.as_ref();
            difference(&all.histogram, before.map(|before| &before.histogram))
        });
        let known = difference(&self.known, Some(&earlier.known));
        Latency::from_histograms(known, censored)
    }

    /// Creates a histogram from its measured and its censored samples.
    pub fn from_histograms(known: Histogram<u64>, censored: Option<Histogram<u64>>) -> Latency {
        let censored = censored.filter(|censored| !censored.is_empty());
        let longest = censored.as_ref().map_or(0, Histogram::max).max(known.max());
        Latency {
            known,
            censored: censored.map(|histogram| {
                let least = histogram.lowest_equivalent(histogram.min());
                Box::new(Censored { histogram, least })
            }),
            longest,
            blocks: None,
        }
    }

    /// Returns the measured samples.
    pub fn known(&self) -> &Histogram<u64> {
        &self.known
    }

    /// Returns the censored samples; `None` when there are none.
    pub fn censored(&self) -> Option<&Histogram<u64>> {
        Some(&self.censored.as_ref()?.histogram)
    }

    /// Calls `call` for each step of durations that has samples, in ascending order, first those
    /// that were measured and then the censored ones: with the least duration of the step in
    /// nanoseconds, the number of samples, and whether they are censored.
    pub fn each(&self, mut call: impl FnMut(u64, u64, bool)) {
        let histograms = [(Some(&self.known), false), (self.censored(), true)];
        for (histogram, is_censored) in histograms {
            let Some(histogram) = histogram else { continue };
            for step in histogram.iter_recorded() {
                let least = histogram.lowest_equivalent(step.value_iterated_to());
                call(least, step.count_at_value(), is_censored);
            }
        }
    }

    /// Returns these samples and those of a later part of the same run. The blocks of the later
    /// part follow those of this one.
    pub fn followed_by(&self, later: &Latency) -> Latency {
        let mut both = self.without_blocks();
        both.merge(later);
        if let (Some(first), Some(then)) = (&self.blocks, &later.blocks) {
            let mut blocks = first.clone();
            blocks.append(then);
            both.blocks = Some(blocks);
        }
        both
    }

    /// Returns whether both hold the same samples, to the precision of their steps.
    pub fn has_same_samples(&self, other: &Latency) -> bool {
        let samples = |latency: &Latency| {
            let mut samples = Vec::new();
            latency.each(|least, count, is_censored| samples.push((least, count, is_censored)));
            samples
        };
        samples(self) == samples(other)
    }

    /// Returns the number of samples, including censored ones.
    pub fn count(&self) -> u64 {
        let censored = self.censored.as_ref();
        self.known.len() + censored.map_or(0, |censored| censored.histogram.len())
    }

    /// Returns the ordered samples, for percentiles; `None` when there are no samples.
    pub fn distribution(&self) -> Option<Distribution<'_>> {
        let mut all = Cow::Borrowed(&self.known);
        let mut known = all.len();
        if let Some(censored) = &self.censored {
            // A measured sample in the bucket of the shortest censored one may be longer than that,
            // so it is not counted as known.
            let bucket = self.known.lowest_equivalent(censored.least);
            known = match bucket {
                0 => 0,
                bucket => self.known.count_between(0, bucket - 1),
            };
            add(all.to_mut(), &censored.histogram);
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

    /// Returns the 95 % confidence interval of the true percentile, or why there is none.
    pub fn interval(&self, percentile: f64) -> Result<Interval, Withheld> {
        self.intervals()?.of(percentile)
    }

    /// Returns what the confidence intervals of all percentiles follow from, or why there are none.
    pub fn intervals(&self) -> Result<Intervals<'_>, Withheld> {
        let blocks = self.blocks.as_ref().ok_or(Withheld::NoBlocks)?;
        let all = self.distribution().ok_or(Withheld::TooShort)?;
        let is_drifting = drift(&all, blocks).is_some();
        Ok(Intervals {
            all,
            blocks,
            is_drifting,
        })
    }

    /// Returns the trend of the samples over the run, if it is statistically significant and
    /// changes them by more than a tenth of their median, so that they have no common distribution.
    pub fn drift(&self) -> Option<Trend> {
        drift(&self.distribution()?, self.blocks.as_ref()?)
    }

    /// Returns the trend of the samples over the run, in seconds, computed from the means of its
    /// blocks; `None` when it is not statistically significant, or without blocks. See
    /// [`statistics::trend`] for the error rate of the test.
    pub fn trend(&self) -> Option<Trend> {
        trend(&self.distribution()?, self.blocks.as_ref()?)
    }
}

impl Intervals<'_> {
    /// Returns the 95 % confidence interval of the true percentile, or why there is none.
    pub fn of(&self, percentile: f64) -> Result<Interval, Withheld> {
        let all = &self.all;
        let effective_samples =
            effective_samples(all, self.blocks, percentile).ok_or(Withheld::TooShort)?;
        if self.is_drifting {
            return Err(Withheld::Trend);
        }
        // The number of independent samples below the true percentile is binomially distributed.
        // The percentile lies between two samples if that number lies between their ranks.
        let independent =
            effective_samples.samples / (effective_samples.factor * effective_samples.factor);
        let share = percentile / 100.0;
        let expected = independent * share;
        let spread = CONFIDENCE * (expected * (1.0 - share)).sqrt();
        let low = (expected - spread).floor();
        let high = (expected + spread).ceil() + 1.0;
        if high > independent {
            return Err(match effective_samples.is_correlated {
                true => Withheld::Correlated,
                false => Withheld::FewEvents,
            });
        }
        let rank = |part: f64| (part / independent * all.count() as f64) as u64;
        let low = all.sample(rank(low).max(1));
        let high = all.sample(rank(high).clamp(1, all.count()));
        Ok((low.value, (!high.at_least).then_some(high.value)))
    }
}

/// Returns the samples of `all` without those of an earlier state of the same histogram.
fn difference(all: &Histogram<u64>, before: Option<&Histogram<u64>>) -> Histogram<u64> {
    let mut left = all.clone();
    if let Some(before) = before {
        left.subtract(before)
            .expect("an earlier state has no sample that a later one lacks");
    }
    left
}

fn drift(all: &Distribution, blocks: &Blocks) -> Option<Trend> {
    let median = all.nearest(50.0).value.as_secs_f64();
    trend(all, blocks).filter(|trend| trend.growth() > median * DRIFT)
}

fn trend(all: &Distribution, blocks: &Blocks) -> Option<Trend> {
    let mut trend = statistics::trend(&blocks.means(all.nearest(99.0).value))?;
    trend.slope /= SECOND;
    Some(trend)
}

/// Returns how many independent samples carry as much information about a percentile as all
/// samples; `None` when the run is too short to compute that.
fn effective_samples(
    all: &Distribution,
    blocks: &Blocks,
    percentile: f64,
) -> Option<EffectiveSamples> {
    let mut events_most = f64::INFINITY;
    let lower = PRINTED_PERCENTILES
        .into_iter()
        .filter(|lower| *lower < percentile);
    let mut found = None;
    for percentile in lower.chain([percentile]) {
        let mut effective_samples =
            statistics::effective_samples(&shares(all, blocks, percentile))?;
        let beyond = 1.0 - percentile / 100.0;
        effective_samples.samples = effective_samples.samples.min(events_most / beyond);
        events_most = effective_samples.samples * beyond;
        found = Some(effective_samples);
    }
    found
}

/// Returns for each block the number of its samples and of those beyond a percentile. The step of
/// the percentile may hold many samples: it counts as beyond if the total beyond is then closer to
/// the share that the percentile defines.
fn shares(all: &Distribution, blocks: &Blocks, percentile: f64) -> Vec<Share> {
    let step = bucket_of(nanoseconds(all.nearest(percentile).value));
    let step = step - step % blocks.width();
    let next = step + blocks.width();
    let below = |step: usize| match bucket_min(step) {
        0 => 0,
        least => all.all.count_between(0, least - 1),
    };
    let wanted = all.count() as f64 * percentile / 100.0;
    let distance = |below: u64| (below as f64 - wanted).abs();
    let (before, with) = (below(step), below(next));
    let with_step = before > 0 && (with == all.count() || distance(before) < distance(with));
    blocks.shares(if with_step { step } else { next })
}

#[inline]
fn count(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram
        .record(nanoseconds)
        .expect("a histogram that grows takes every value");
}

fn add_many(histogram: &mut Histogram<u64>, nanoseconds: u64, times: u64) {
    histogram
        .record_n(nanoseconds, times)
        .expect("a histogram that grows takes every value");
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from)
        .expect("a histogram that grows takes every value");
}

impl Distribution<'_> {
    /// Returns the samples, with the censored ones at their age.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.all
    }

    /// Returns the number of samples.
    pub fn count(&self) -> u64 {
        self.all.len()
    }

    /// Returns the longest sample.
    pub fn longest(&self) -> Bound {
        self.longest
    }

    /// Returns the mean; with censored samples, a lower bound of the mean.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.all.mean().round() as u64)
    }

    /// Returns the smallest sample that at least `percentile` percent of the samples do not exceed;
    /// `None` when fewer than [`BEYOND`] samples lie beyond it.
    pub fn percentile(&self, percentile: f64) -> Option<Bound> {
        let rank = self.rank(percentile);
        (self.count() >= rank + BEYOND).then(|| self.sample(rank))
    }

    /// Returns the number of samples that are longer than `duration`. Samples in the same bucket,
    /// which differ from it by at most one part in a thousand, are not counted.
    pub fn beyond(&self, duration: Duration) -> u64 {
        let nanoseconds = nanoseconds(duration);
        match self.all.highest_equivalent(nanoseconds).checked_add(1) {
            Some(above) if nanoseconds < self.all.max() => {
                self.all.count_between(above, self.all.max())
            }
            _ => 0,
        }
    }

    /// Returns the sample with `longer` samples above it in the order; `None` when there are no
    /// more than `longer` samples.
    pub fn below_longest(&self, longer: u64) -> Option<Bound> {
        let rank = self.count().checked_sub(longer).filter(|rank| *rank > 0)?;
        Some(self.sample(rank))
    }

    /// Returns the same as [`percentile`](Distribution::percentile), however few samples lie beyond
    /// it.
    pub fn nearest(&self, percentile: f64) -> Bound {
        self.sample(self.rank(percentile))
    }

    fn rank(&self, percentile: f64) -> u64 {
        let rank = (self.count() as f64 * percentile / 100.0).ceil() as u64;
        rank.clamp(1, self.count())
    }

    /// Returns the percentile above which values are lower bounds; `None` when there are no
    /// censored samples.
    pub fn at_least_from(&self) -> Option<f64> {
        (self.known < self.count()).then(|| self.known as f64 / self.count() as f64 * 100.0)
    }

    /// Returns the sample of this rank, counted from 1.
    fn sample(&self, rank: u64) -> Bound {
        let at_least = rank > self.known;
        // The quantile in the middle of the rank, so that rounding cannot select a neighbour.
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

    fn of(nanoseconds: impl IntoIterator<Item = u64>) -> Latency {
        let mut latency = Latency::default();
        for value in nanoseconds {
            latency.record(Duration::from_nanos(value));
        }
        latency
    }

    fn percentile(latency: &Latency, percentile: f64) -> Option<Bound> {
        latency.distribution()?.percentile(percentile)
    }

    #[test]
    fn percentiles_are_known_to_one_part_in_a_thousand() {
        let latency = of((1..=100_000).map(|microseconds| microseconds * 1000));
        for (requested, microseconds) in [(50.0, 50_000.0), (99.0, 99_000.0), (99.9, 99_900.0)] {
            let found = percentile(&latency, requested).unwrap();
            let value = found.value.as_secs_f64() * 1e6;
            assert!(
                (value / microseconds - 1.0).abs() < 1e-3,
                "p{requested}: {value}"
            );
            assert!(!found.at_least);
        }
        assert!(Latency::default().distribution().is_none());
    }

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        for (count, requested, supported) in [
            (19, 50.0, false),
            (20, 50.0, true),
            (999, 99.0, false),
            (1000, 99.0, true),
            (9_999, 99.9, false),
            (10_000, 99.9, true),
        ] {
            let found = percentile(&of(1..=count), requested);
            assert_eq!(found.is_some(), supported, "p{requested} of {count}");
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
        // For 10 s 1,000 messages a second are answered in 1 ms; the messages of the next 5 s are
        // unanswered, and the run waits one second more.
        let mut latency = of(std::iter::repeat_n(1_000_000, 10_000));
        for millisecond in 0..5000 {
            latency.record_at_least(Duration::from_millis(1000 + millisecond));
        }
        let distribution = latency.distribution().unwrap();
        let p50 = distribution.percentile(50.0).unwrap();
        assert!(!p50.at_least);
        let p99 = distribution.percentile(99.0).unwrap();
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
            requested in 1.0f64..95.0,
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
            let rank = ((sorted.len() as f64 * requested / 100.0).ceil() as usize).max(1);
            if let Some(found) = percentile(&latency, requested) {
                let (found, truth) = (found.value.as_nanos() as f64, sorted[rank - 1] as f64);
                prop_assert!(found <= truth * 1.001 + 1.0, "{found} > {truth}");
            }
            if let Some(Bound { value, at_least: false }) = percentile(&latency, requested) {
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
}
