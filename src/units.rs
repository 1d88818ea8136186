//! Formats durations, counts and rates for people, in one form for every command, and converts
//! durations to the numbers that are recorded. Pure.
//!
//! The thousands of a count are separated by commas, and its noun agrees with it: `1 client`,
//! `2,000 clients`. Numbers that identify something have no commas: ports, sequence numbers,
//! offsets, the numbers of packets and connections.

use std::fmt;
use std::time::Duration;

/// Returns a duration in nanoseconds, or the maximum of 64 bits (584 years) for a longer one.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a duration with three significant digits and a unit: `850 ns`, `12.3 µs`, `1.04 ms`,
/// `2.50 s`.
pub fn short(duration: Duration) -> String {
    let (divisor, unit) = unit(duration);
    format!("{} {unit}", digits(duration, divisor))
}

/// Returns a duration and an interval in the same unit: `12.3 µs [12.1, 12.6]`. An upper end of
/// more than three digits in that unit has a unit of its own; an unknown upper end is `?`.
pub fn with_interval(duration: Duration, (low, high): (Duration, Option<Duration>)) -> String {
    const NEAR: f64 = 999.5;
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
    match divisor == 1.0 || value >= 999.5 {
        true => grouped(value.round() as u64).to_string(),
        false => {
            let decimals = decimals(value);
            format!("{value:.decimals$}")
        }
    }
}

/// Returns the number of decimals with which a value from 1 to 1,000 has three significant digits.
fn decimals(value: f64) -> usize {
    match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    }
}

/// A count with its thousands separated: `2,000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped(u64);

/// A count and what is counted: `1 client`, `2,000 clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted<'a>(u64, &'a str);

/// Returns a count with its thousands separated by commas.
pub fn grouped(count: impl Into<u64>) -> Grouped {
    Grouped(count.into())
}

/// Returns a count with its noun, which is given in the singular: `entry` becomes `entries`,
/// `address` becomes `addresses`.
pub fn counted(count: impl Into<u64>, noun: &str) -> Counted<'_> {
    Counted(count.into(), noun)
}

/// Returns the word that agrees with a count: `was` or `were`, `it` or `them`.
pub fn agreeing<'a>(count: u64, one: &'a str, several: &'a str) -> &'a str {
    if count == 1 { one } else { several }
}

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twenty digits and six commas at most, written from the end.
        let mut text = [b','; 26];
        let (mut rest, mut start, mut digits) = (self.0, text.len(), 0);
        loop {
            start -= 1;
            if digits > 0 && digits % 3 == 0 {
                start -= 1;
            }
            text[start] = b'0' + (rest % 10) as u8;
            (rest, digits) = (rest / 10, digits + 1);
            if rest == 0 {
                break;
            }
        }
        f.pad(std::str::from_utf8(&text[start..]).unwrap_or_default())
    }
}

impl<'a> Counted<'a> {
    /// Returns the count, the stem of its noun, and the ending of the noun.
    pub fn parts(self) -> (u64, &'a str, &'static str) {
        let Counted(count, noun) = self;
        let stem = noun.strip_suffix('y');
        let stem = stem.filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
        match stem {
            _ if count == 1 => (count, noun, ""),
            Some(stem) => (count, stem, "ies"),
            None if noun.ends_with(['s', 'x']) || noun.ends_with("ch") => (count, noun, "es"),
            None => (count, noun, "s"),
        }
    }
}

impl fmt::Display for Counted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, stem, ending) = self.parts();
        write!(f, "{} {stem}{ending}", Grouped(count))
    }
}

/// Returns a rate in events a second: with separated thousands from 1,000 on; below that with at
/// most four significant digits, without trailing zeros: `166,446`, `333.3`, `50`, `0.25`.
pub fn rate(per_second: f64) -> String {
    if per_second >= 999.95 {
        return grouped(per_second.round() as u64).to_string();
    }
    let decimals = match per_second {
        r if r >= 99.995 => 1,
        r if r >= 9.9995 => 2,
        r if r >= 0.99995 => 3,
        _ => 4,
    };
    let text = format!("{per_second:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Returns a rate in bytes a second with a decimal unit, and three significant digits from 1 kB on:
/// `85 B/s`, `1.28 kB/s`, `10.7 MB/s`.
pub fn throughput(bytes_per_second: f64) -> String {
    match bytes_per_second {
        b if b < 999.5 => format!("{} B/s", rate(b)),
        b => bytes(b) + "/s",
    }
}

/// Returns a size in bytes with a decimal unit, and three significant digits from 1 kB on: `512 B`,
/// `12.3 MB`.
pub fn bytes(bytes: f64) -> String {
    let (divisor, unit) = match bytes {
        b if b < 999.5 => return format!("{b:.0} B"),
        b if b < 999.5e3 => (1e3, "kB"),
        b if b < 999.5e6 => (1e6, "MB"),
        b if b < 999.5e9 => (1e9, "GB"),
        _ => (1e12, "TB"),
    };
    let value = bytes / divisor;
    let decimals = decimals(value);
    format!("{value:.decimals$} {unit}")
}

/// Returns `part` as a share of `whole`; 0 when `whole` is zero.
pub fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        0.0
    } else {
        part.as_secs_f64() / whole.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_units() {
        let sizes = [512.0, 12_345.0, 1e8].map(bytes);
        assert_eq!(sizes, ["512 B", "12.3 kB", "100 MB"]);
    }

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
            (86_400_000_000_000, "86,400 s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn counts_are_grouped_and_agree_with_their_nouns() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (20_050, "20,050"),
            (1_000_000, "1,000,000"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(count).to_string(), text);
        }
        assert_eq!(format!("{:>7}", grouped(1_000_u32)), "  1,000");
        for (count, noun, text) in [
            (0_u64, "client", "0 clients"),
            (1, "client", "1 client"),
            (2_000, "client", "2,000 clients"),
            (1, "address", "1 address"),
            (3, "address", "3 addresses"),
            (2, "reply", "2 replies"),
            (2, "key", "2 keys"),
            (2, "branch", "2 branches"),
        ] {
            assert_eq!(counted(count, noun).to_string(), text);
        }
    }

    #[test]
    fn rates_and_throughput_have_the_digits_that_matter() {
        for (value, text) in [
            (166_446.4, "166,446"),
            (999.96, "1,000"),
            (333.33, "333.3"),
            (50.0, "50"),
            (2.5, "2.5"),
            (0.25, "0.25"),
            (0.0, "0"),
        ] {
            assert_eq!(rate(value), text);
        }
        for (value, text) in [
            (0.0, "0 B/s"),
            (84.6, "84.6 B/s"),
            (0.4, "0.4 B/s"),
            (999.6, "1.00 kB/s"),
            (1_280.0, "1.28 kB/s"),
            (10_652_544.0, "10.7 MB/s"),
            (999_600_000.0, "1.00 GB/s"),
            (25e12, "25.0 TB/s"),
        ] {
            assert_eq!(throughput(value), text);
        }
    }

    #[test]
    fn an_interval_is_in_the_unit_of_its_value() {
        let us = Duration::from_micros;
        assert_eq!(
            with_interval(us(1040), (us(990), Some(us(12_000)))),
            "1.04 ms [0.99, 12.0]"
        );
        assert_eq!(
            with_interval(us(198), (us(125), Some(us(1179)))),
            "198 µs [125, 1.18 ms]"
        );
        assert_eq!(with_interval(us(5), (us(4), None)), "5.00 µs [4.00, ?]");
        let far = with_interval(us(5), (us(4), Some(us(1_000_000))));
        assert_eq!(far, "5.00 µs [4.00, 1.00 s]");
    }
}
