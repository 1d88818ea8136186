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

/// Returns a size in bytes with a decimal unit and three significant digits: `12.3 MB`.
pub fn bytes(bytes: f64) -> String {
    let (divisor, unit) = match bytes {
        bytes if bytes < 999.5 => return format!("{bytes:.0} B"),
        bytes if bytes < 999.5e3 => (1e3, "kB"),
        bytes if bytes < 999.5e6 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let value = bytes / divisor;
    let digits = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
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
        let sizes = [512.0, 12_345.0, 1e8].map(bytes);
        assert_eq!(sizes, ["512 B", "12.3 kB", "100 MB"]);
        assert_eq!(percent(0.123), "12.3 %");
        assert_eq!(percentiles(&Latency::default()), "no samples");
    }
}
