//! The words and numbers of the page that several of its parts share. Pure.

use crate::load::latency::percentile::Percentile;
use crate::load::latency::{Bound, Latency};
use crate::units::short;

/// The text of a value that is not known.
pub const UNKNOWN: &str = "–";

/// Returns a duration, or that it is at least as long.
pub fn bound(bound: Bound) -> String {
    let sign = if bound.at_least { "≥ " } else { "" };
    format!("{sign}{}", short(bound.value))
}

/// Returns a duration, or a dash if it is not known.
pub fn known(found: Option<Bound>) -> String {
    found.map_or(UNKNOWN.to_string(), bound)
}

/// Returns the percentiles and the maximum of durations in words: `p50 1.20 ms, p99 3.00 ms,
/// longest 12.0 ms`.
pub fn percentiles(latency: &Latency) -> String {
    let Some(all) = latency.distribution() else {
        return "no samples".to_string();
    };
    let points = Percentile::STANDARD.iter().filter_map(|point| {
        let found = all.percentile(point.percent())?;
        Some(format!("{point} {}", bound(found)))
    });
    let longest = format!("longest {}", bound(all.longest()));
    points.chain([longest]).collect::<Vec<_>>().join(", ")
}

/// Returns a share in percent: `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn values_have_signs_and_units() {
        let value = Duration::from_millis(5);
        let at_least = true;
        assert_eq!(bound(Bound { value, at_least }), "≥ 5.00 ms");
        assert_eq!(known(None), "–");
        assert_eq!(percent(0.123), "12.3 %");
        assert_eq!(percentiles(&Latency::default()), "no samples");
    }
}
