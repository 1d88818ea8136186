//! Durations as a person reads them. Pure.

use std::time::Duration;

/// Three significant digits and a unit: `850 ns`, `12.3 µs`, `1.04 ms`, `2.50 s`.
pub fn short(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos() as f64;
    let (value, unit) = match nanoseconds {
        n if n < 999.5 => (n, "ns"),
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let decimals = match value {
        v if unit == "ns" || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 ns"),
            (850, "850 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (999_400, "999 µs"),
            (999_600, "1.00 ms"),
            (1_040_000, "1.04 ms"),
            (99_960_000, "100 ms"),
            (2_500_000_000, "2.50 s"),
            (123_000_000_000, "123 s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
