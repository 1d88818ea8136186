//! Durations of a run, every one of them, in a histogram. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant decimal digits that are kept: a value is known to one part in a thousand.
const DIGITS: u8 = 3;

/// A histogram of durations in nanoseconds. It grows with the longest of them: none is cut off.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            histogram: Histogram::new(DIGITS).expect("a supported number of digits"),
        }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.histogram
            .record(nanoseconds)
            .expect("a histogram that grows takes every value");
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The duration that so many of a hundred do not exceed; `None` when nothing was counted.
    pub fn percentile(&self, percentile: f64) -> Option<Duration> {
        (!self.histogram.is_empty())
            .then(|| Duration::from_nanos(self.histogram.value_at_percentile(percentile)))
    }

    /// The mean; `None` when nothing was counted.
    pub fn mean(&self) -> Option<Duration> {
        (!self.histogram.is_empty())
            .then(|| Duration::from_nanos(self.histogram.mean().round() as u64))
    }

    /// The longest; `None` when nothing was counted.
    pub fn max(&self) -> Option<Duration> {
        self.percentile(100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_known_to_one_part_in_a_thousand() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile(50.0), None);
        for microseconds in 1..=10_000 {
            latency.record(Duration::from_micros(microseconds));
        }
        for (percentile, microseconds) in [(50.0, 5_000.0), (99.0, 9_900.0), (99.9, 9_990.0)] {
            let value = latency.percentile(percentile).unwrap().as_secs_f64() * 1e6;
            assert!(
                (value / microseconds - 1.0).abs() < 1e-3,
                "p{percentile}: {value}"
            );
        }
    }

    #[test]
    fn the_longest_is_never_cut_off() {
        let mut latency = Latency::default();
        latency.record(Duration::from_micros(3));
        latency.record(Duration::MAX);
        assert!(latency.max().unwrap() > Duration::from_secs(500 * 365 * 86_400));
        latency = Latency::default();
        latency.record(Duration::from_secs(100_000));
        let max = latency.max().unwrap().as_secs_f64();
        assert!((max / 1e5 - 1.0).abs() < 1e-3, "{max}");
    }
}
