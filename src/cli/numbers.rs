//! Parses numbers, sizes and times as users type them. Pure.
//!
//! One parser for each kind of value serves every option of that kind, so that all options accept
//! the same forms and refuse a value with the same words: the form of such a value, or the bound
//! that it exceeds ("at least 1", "at most 65,536"). Every parser treats a leading `-` as a sign,
//! since the options accept such values instead of parsing `-5` as another option.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;

use crate::units::grouped;

/// The longest time that can be given. The limit keeps arithmetic with instants from overflowing.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns a parser of whole numbers within bounds: `1000`, `1,000` or `1k`.
pub(super) fn integer<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = whole(text, least, most)?;
        T::try_from(number).map_err(|_| at_most(most))
    }
}

fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    const FORM: &str = "not a whole number such as 1000";
    let at_least = || format!("at least {}", grouped(least));
    if text.strip_prefix('-').is_some_and(begins_with_digit) {
        return Err(at_least());
    }
    let (digits, factor) = scaled(text);
    let digits = ungrouped(digits).ok_or(FORM)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FORM.to_string());
    }
    // A number that is too large for the type exceeds every bound.
    let number = digits.parse().ok();
    let number = number.and_then(|number: u64| number.checked_mul(factor));
    match number {
        Some(number) if number < least => Err(at_least()),
        Some(number) if number <= most => Ok(number),
        _ => Err(at_most(most)),
    }
}

fn at_most(most: u64) -> String {
    format!("at most {}", grouped(most))
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

/// Separates a number from its suffix: k, M or G.
fn scaled(text: &str) -> (&str, u64) {
    let scales = [
        ("k", 1_000),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    let found = scales
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    found.unwrap_or((text, 1))
}

/// Removes the separators from `1,000,000` or `1_000_000`; `None` if they do not separate
/// thousands, as in `1,5`.
fn ungrouped(text: &str) -> Option<String> {
    let mut groups = text.split([',', '_']);
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let is_grouped = (1..=3).contains(&first.len()) && rest.iter().all(|group| group.len() == 3);
    (rest.is_empty() || is_grouped).then(|| first.to_string() + &rest.concat())
}

/// Reads a decimal number with the forms of [`integer`], and returns it as plain digits, with a
/// point where it has decimals: `1.5k` is `1500`. `None`: it has another form.
pub(super) fn decimal(text: &str) -> Option<String> {
    let (number, factor) = scaled(text);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let whole = ungrouped(whole)?;
    let places = factor.ilog10() as usize;
    let decimals = format!("{decimals:0<places$}");
    let (shifted, rest) = decimals.split_at_checked(places)?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(&whole) || !is_number(shifted) || !is_number(rest) {
        return None;
    }
    let digits = format!("{whole}{shifted}.{rest}");
    Some(digits.trim_end_matches('.').to_string())
}

/// Reads a number of bytes within bounds: `64`, `64KiB`. `example` is a valid value for the error.
pub(super) fn bytes(text: &str, least: u64, most: u64, example: &str) -> Result<u64, String> {
    let form = || format!("not a size such as {example}");
    let at_least = || format!("at least {}", Bytes(least));
    if text.strip_prefix('-').is_some_and(begins_with_digit) {
        return Err(at_least());
    }
    let number = text.trim_end_matches(|c: char| c.is_alphabetic() || c == ' ');
    let unit = text[number.len()..].trim();
    let is_whole = number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole && number.parse::<f64>().is_ok() && (unit.is_empty() || unit == "B") {
        return Err("a whole number of bytes".to_string());
    }
    let size = match text.parse::<ByteSize>() {
        Ok(size) => size.as_u64(),
        // Only digits, and more than the type holds.
        Err(_) if is_whole && unit.is_empty() && !number.is_empty() => u64::MAX,
        Err(_) => return Err(form()),
    };
    match size {
        size if size < least => Err(at_least()),
        size if size > most => Err(format!("at most {}", Bytes(most))),
        size => Ok(size),
    }
}

/// A size with its unit, without rounding: `1 byte`, `1GiB`, `2147483647 bytes`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let exact = |(_, shift): &&(&str, u32)| self.0 > 0 && self.0.trailing_zeros() >= *shift;
        match (self.0, units.iter().find(exact)) {
            (1, _) => write!(f, "1 byte"),
            (bytes, Some((unit, shift))) => write!(f, "{}{unit}", bytes >> shift),
            (bytes, None) => write!(f, "{bytes} bytes"),
        }
    }
}

/// Reads a time that may be zero: `10s`, `500ms`, `1m 30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    time(text, "10s or 500ms")
}

/// Reads a time longer than zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    longer_than_zero(text, "10s or 500ms")
}

/// Reads a time longer than zero, or `off`.
pub(super) fn duration_or_off(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        _ => match longer_than_zero(text, "30s, or off") {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.ends_with("off") => Err(error),
            Err(error) => Err(format!("{error}, or off")),
        },
    }
}

fn longer_than_zero(text: &str, example: &str) -> Result<Duration, String> {
    const ZERO: &str = "it must be longer than 0";
    match time(text, example) {
        Ok(Duration::ZERO) => Err(ZERO.to_string()),
        Err(error) if error == NEGATIVE => Err(ZERO.to_string()),
        other => other,
    }
}

const NEGATIVE: &str = "it must be at least 0s";

fn time(text: &str, example: &str) -> Result<Duration, String> {
    let too_long = || format!("at most {} days", DURATION_MAX.as_secs() / (24 * 3600));
    if text.strip_prefix('-').is_some_and(begins_with_digit) {
        return Err(NEGATIVE.to_string());
    }
    match humantime::parse_duration(text) {
        Ok(time) if time > DURATION_MAX => Err(too_long()),
        Ok(time) => Ok(time),
        Err(humantime::DurationError::NumberOverflow) => Err(too_long()),
        Err(_) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            Err(format!("the unit is missing: {text}s or {text}ms"))
        }
        Err(_) => Err(format!("not a time such as {example}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers_have_one_form_and_bounds_in_words() {
        let read = integer::<u32>(1, 10_000_000);
        for (text, number) in [
            ("1", 1),
            ("1000", 1000),
            ("1,000", 1000),
            ("1_000_000", 1_000_000),
            ("1k", 1000),
            ("10K", 10_000),
            ("10M", 10_000_000),
            ("0005", 5),
        ] {
            assert_eq!(read(text), Ok(number), "{text}");
        }
        for (text, message) in [
            ("0", "at least 1"),
            ("-1", "at least 1"),
            ("-5k", "at least 1"),
            ("10000001", "at most 10,000,000"),
            ("1G", "at most 10,000,000"),
            ("99999999999999999999999", "at most 10,000,000"),
            ("99999999999999999999G", "at most 10,000,000"),
            ("abc", "not a whole number such as 1000"),
            ("", "not a whole number such as 1000"),
            ("k", "not a whole number such as 1000"),
            ("1,5", "not a whole number such as 1000"),
            ("1,0000", "not a whole number such as 1000"),
            (",100", "not a whole number such as 1000"),
            ("1000,000", "not a whole number such as 1000"),
            ("1.5", "not a whole number such as 1000"),
            ("1e3", "not a whole number such as 1000"),
            ("-v", "not a whole number such as 1000"),
            ("٣", "not a whole number such as 1000"),
        ] {
            assert_eq!(read(text), Err(message.to_string()), "{text}");
        }
        assert_eq!(
            integer::<u64>(0, u64::MAX)("18446744073709551615"),
            Ok(u64::MAX)
        );
        assert_eq!(
            integer::<u16>(0, 65535)("-1"),
            Err("at least 0".to_string())
        );
    }

    #[test]
    fn decimals_take_the_forms_of_whole_numbers() {
        for (text, digits) in [
            ("5000", "5000"),
            ("333.3", "333.3"),
            ("5,000", "5000"),
            ("5,000.5", "5000.5"),
            ("1.5k", "1500"),
            ("2k", "2000"),
            ("1.2345k", "1234.5"),
            ("0.5M", "0500000"),
        ] {
            assert_eq!(decimal(text).as_deref(), Some(digits), "{text}");
        }
        for bad in [
            "", "k", ".5", "-1", "1e3", "1.2.3", "x", "+1", "5,00", "1.x",
        ] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_units_and_bounds_in_words() {
        let read = |text: &str| bytes(text, 1, 1 << 30, "64KiB");
        for (text, size) in [
            ("64", 64),
            ("16KiB", 16 << 10),
            ("1.5KiB", 1536),
            ("64k", 64_000),
            ("64 KiB", 64 << 10),
            ("5B", 5),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(read(text), Ok(size), "{text}");
        }
        for (text, message) in [
            ("0", "at least 1 byte"),
            ("-1", "at least 1 byte"),
            ("-64KiB", "at least 1 byte"),
            ("0KiB", "at least 1 byte"),
            ("1025MiB", "at most 1GiB"),
            ("99999999999999999999", "at most 1GiB"),
            ("1.5", "a whole number of bytes"),
            ("1.5B", "a whole number of bytes"),
            ("abc", "not a size such as 64KiB"),
            ("", "not a size such as 64KiB"),
            ("64x", "not a size such as 64KiB"),
            ("KiB", "not a size such as 64KiB"),
            ("--rate", "not a size such as 64KiB"),
        ] {
            assert_eq!(read(text), Err(message.to_string()), "{text}");
        }
        assert_eq!(Bytes(i32::MAX as u64).to_string(), "2147483647 bytes");
        assert_eq!(Bytes(1 << 40).to_string(), "1TiB");
    }

    #[test]
    fn times_have_units_and_bounds_in_words() {
        assert_eq!(positive_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(positive_duration("365days").is_ok());
        for (text, message) in [
            ("0s", "it must be longer than 0"),
            ("-1s", "it must be longer than 0"),
            ("1", "the unit is missing: 1s or 1ms"),
            ("2.5", "the unit is missing: 2.5s or 2.5ms"),
            ("1x", "not a time such as 10s or 500ms"),
            ("never", "not a time such as 10s or 500ms"),
            ("", "not a time such as 10s or 500ms"),
            ("-x", "not a time such as 10s or 500ms"),
            ("366days", "at most 365 days"),
            ("500000000000years", "at most 365 days"),
            ("99999999999999999999999s", "at most 365 days"),
        ] {
            assert_eq!(positive_duration(text), Err(message.to_string()), "{text}");
        }
        assert_eq!(duration("-1s"), Err("it must be at least 0s".to_string()));
    }

    #[test]
    fn a_time_may_be_off() {
        assert_eq!(duration_or_off("off"), Ok(None));
        assert_eq!(duration_or_off("2s"), Ok(Some(Duration::from_secs(2))));
        for (text, message) in [
            ("never", "not a time such as 30s, or off"),
            ("0", "it must be longer than 0, or off"),
            ("-1s", "it must be longer than 0, or off"),
            ("30", "the unit is missing: 30s or 30ms, or off"),
        ] {
            assert_eq!(duration_or_off(text), Err(message.to_string()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_read_as_it_is_printed(number: u64) {
            let read = integer::<u64>(0, u64::MAX);
            prop_assert_eq!(read(&number.to_string()), Ok(number));
            prop_assert_eq!(read(&grouped(number).to_string()), Ok(number));
            prop_assert_eq!(bytes(&number.to_string(), 0, u64::MAX, ""), Ok(number));
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"[-0-9.,_kKMGBis ]{0,12}|.{0,12}") {
            let _ = integer::<u16>(1, 65535)(&text);
            let _ = decimal(&text);
            let _ = bytes(&text, 1, 1 << 30, "64");
            let _ = duration_or_off(&text);
        }
    }
}
