//! The statistics of a duration in JSON, with the percentiles that a run was asked for. Pure.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::load::latency::percentile::Percentile;
use crate::load::latency::{Distribution, Interval, Latency, Withheld};

/// Statistics of a duration in microseconds; `null` when nothing was measured, or too few samples
/// lie beyond.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    count: u64,
    /// `p50`, `p99_9`: a field for each percentile, as in the objects below.
    #[serde(flatten)]
    values: ByPercentile<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    /// The 95 % intervals; an upper end is `null` where it is not known.
    intervals: ByPercentile<(f64, Option<f64>)>,
    /// The reason why a percentile has no interval: `too-short`, `trend`, `correlated`,
    /// `few-events`. `null`: no intervals are computed for this duration.
    intervals_withheld: Option<ByPercentile<&'static str>>,
    /// The percentile from which on values are lower bounds; `null`: all are exact.
    at_least_from: Option<f64>,
}

/// Values of some percentiles, in their order; `None`: there is no such value.
#[derive(Debug)]
struct ByPercentile<T>(Vec<(Percentile, Option<T>)>);

impl<T> ByPercentile<T> {
    /// Computes another value of each percentile that has one.
    fn map<U>(&self, compute: impl Fn(&T) -> Option<U>) -> ByPercentile<U> {
        let each = self.0.iter();
        let computed = each.map(|(point, value)| (*point, value.as_ref().and_then(&compute)));
        ByPercentile(computed.collect())
    }
}

impl<T: Serialize> Serialize for ByPercentile<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.iter();
        serializer.collect_map(fields.map(|(point, value)| (point.key(), value)))
    }
}

/// Returns the statistics of a duration, with these percentiles.
pub fn percentiles(latency: &Latency, points: &[Percentile]) -> Percentiles {
    let distribution = latency.distribution();
    let all = distribution.as_ref();
    let intervals = latency.intervals();
    let find = |point: Percentile| {
        let found = all?.percentile(point.percent())?;
        let intervals = intervals.as_ref().map_err(|withheld| *withheld);
        let interval = intervals.and_then(|intervals| intervals.of(point.percent()));
        Some((found.value, interval))
    };
    let found = points.iter().map(|point| (*point, find(*point)));
    let found: ByPercentile<(Duration, Result<Interval, Withheld>)> = ByPercentile(found.collect());
    let mut values = found.0.iter().filter_map(|(_, found)| found.as_ref());
    let is_kept = !values.any(|(_, interval)| *interval == Err(Withheld::NoBlocks));
    Percentiles {
        count: latency.count(),
        values: found.map(|(value, _)| Some(microseconds(*value))),
        max: all.map(|all| microseconds(all.longest().value)),
        mean: all.map(|all| microseconds(all.mean())),
        intervals: found.map(|(_, interval)| {
            let (low, high) = interval.ok()?;
            Some((microseconds(low), high.map(microseconds)))
        }),
        intervals_withheld: is_kept
            .then(|| found.map(|(_, interval)| Some(interval.err()?.name()))),
        at_least_from: all.and_then(Distribution::at_least_from),
    }
}

/// Returns a duration in microseconds.
pub fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::latency::percentile::parse_list;

    #[test]
    fn the_fields_of_the_standard_percentiles_are_stable() {
        let statistics = percentiles(&Latency::default(), &Percentile::STANDARD);
        let nothing = r#""p50":null,"p90":null,"p99":null,"p99_9":null"#;
        assert_eq!(
            serde_json::to_string(&statistics).unwrap(),
            format!(r#"{{"count":0,{nothing},"max":null,"mean":null,"intervals":{{{nothing}}},"#)
                + &format!(r#""intervals_withheld":{{{nothing}}},"at_least_from":null}}"#)
        );
    }

    #[test]
    fn each_percentile_has_its_fields() {
        let mut latency = Latency::default();
        latency.record_many(Duration::from_nanos(1000), 20_000);
        let statistics = percentiles(&latency, &parse_list("99.99,75").unwrap());
        // Two samples lie beyond p99.99, too few. Without blocks there are no intervals.
        assert_eq!(
            serde_json::to_string(&statistics).unwrap(),
            concat!(
                r#"{"count":20000,"p75":1.0,"p99_99":null,"max":1.0,"mean":1.0,"#,
                r#""intervals":{"p75":null,"p99_99":null},"intervals_withheld":null,"#,
                r#""at_least_from":null}"#
            )
        );
    }
}
