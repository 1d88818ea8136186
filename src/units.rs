//! Durations as a person reads them. Pure.

use std::time::Duration;

/// Three significant digits and a unit: `850 ns`, `12.3 µs`, `1.04 ms`, `2.50 s`.
pub fn short(duration: Duration) -> String {
    let (divisor, unit) = unit(duration);
    format!("{} {unit}", digits(duration, divisor))
}

/// The same with an interval in the same unit, where that is near: `12.3 µs [12.1, 12.6]`; `?` is
/// an end that is not known.
pub fn with_interval(duration: Duration, (low, high): (Duration, Option<Duration>)) -> String {
    const NEAR: f64 = 9_999.5;
    let (divisor, _) = unit(duration);
    let low = digits(low, divisor);
    let high = match high {
        None => "?".to_string(),
        Some(high) if (high.as_nanos() as f64) < NEAR * divisor => digits(high, divisor),
        Some(high) => short(high),
    };
    format!("{} [{low}, {high}]", short(duration))
}

fn unit(duration: Duration) -> (f64, &'static str) {
    match duration.as_nanos() as f64 {
        n if n < 999.5 => (1.0, "ns"),
        n if n < 999.5e3 => (1e3, "µs"),
        n if n < 999.5e6 => (1e6, "ms"),
        _ => (1e9, "s"),
    }
}

fn digits(duration: Duration, divisor: f64) -> String {
    let value = duration.as_nanos() as f64 / divisor;
    let decimals = match value {
        v if divisor == 1.0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
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

    #[test]
    fn an_interval_is_in_the_unit_of_its_value() {
        let us = Duration::from_micros;
        assert_eq!(
            with_interval(us(1040), (us(990), Some(us(12_000)))),
            "1.04 ms [0.99, 12.0]"
        );
        assert_eq!(with_interval(us(5), (us(4), None)), "5.00 µs [4.00, ?]");
        let far = with_interval(us(5), (us(4), Some(us(1_000_000))));
        assert_eq!(far, "5.00 µs [4.00, 1.00 s]");
    }
}
