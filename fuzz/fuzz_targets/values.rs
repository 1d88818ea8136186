//! Fuzzes the values that a user types: addresses, rates, sizes, numbers, times, percentiles and
//! conditions. The first byte of the input chooses the place on the command line, from `A` on in
//! the order of `PLACES`; the rest is the text at that place. Every text is read as an address, a
//! rate, a list of percentiles and a condition as well.
//!
//! Properties:
//! - Nothing panics, neither in the parser nor in the output of the parsed value.
//! - A refusal has a reason, on one line unless the text itself has several.
//! - An address, an IP address, a rate, a size, a number and a percentile are read as the same
//!   value from the form in which they are displayed.
//! - A condition is evaluated without measurements, and is then named as it was typed.
//!
//! The parsers of options are private. They are called by parsing a command line; a parsed value is
//! found in the `Debug` output of the options.

#![no_main]

use std::cell::RefCell;
use std::error::Error as _;

use clap::{Command, CommandFactory, Error, FromArgMatches};
use libfuzzer_sys::fuzz_target;
use upcase::address::{Address, Zone, parse_ip};
use upcase::cli::Cli;
use upcase::load::judge::assertion::Condition;
use upcase::load::latency::percentile::{Percentile, parse_list};
use upcase::load::plan::schedule::Rate;
use upcase::load::plan::sizes::Sizes;
use upcase::load::results::Results;
use upcase::units::grouped;

fuzz_target!(|input: &[u8]| check(input));

/// The places of a command line at which a text is parsed: the arguments before it, and the option
/// in its own argument. Add new ones at the end, so that the corpus keeps its meaning.
const PLACES: &[(&[&str], &str)] = &[
    (&["serve"], "--listen="),
    (&["serve"], "--metrics="),
    (&["serve"], "--mss="),
    (&["serve"], "--recv-buffer="),
    (&["serve"], "--notsent-lowat="),
    (&["serve"], "--backlog="),
    (&["serve"], "--shards="),
    (&["serve"], "--max-connections="),
    (&["serve"], "--idle-timeout="),
    (&["serve"], "--stall-timeout="),
    (&["serve"], "--min-rate="),
    (&["serve"], "--keepalive="),
    (&["serve"], "--drain-timeout="),
    (&["serve"], "--turn-bytes="),
    (&["load", "--"], ""),
    (&["load"], "--connections="),
    (&["load"], "--rate="),
    (&["load"], "--think="),
    (&["load"], "--size="),
    (&["load"], "--messages="),
    (&["load"], "--warmup="),
    (&["load"], "--source="),
    (&["load"], "--seed="),
    (&["load"], "--kernel-timestamps="),
    (&["load"], "--assert="),
    (&["load"], "--allow="),
    (&["load"], "--interval="),
    (&["sniff", "--read=-"], "--port="),
    (&["sniff", "--read=-"], "--width="),
    (&["send", "--"], ""),
    (&["send", "host"], "--timeout="),
    (&["load"], "--percentiles="),
];

fn check(input: &[u8]) {
    let Some((&chosen, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let (before, option) = PLACES[usize::from(chosen.wrapping_sub(b'A')) % PLACES.len()];
    let argument = format!("{option}{text}");
    if let Err(error) = parsed(before, &argument) {
        check_refusal(text, &error);
    }
    check_address(text);
    check_rate(text);
    check_percentiles(text);
    check_condition(text);
    check_number(text);
    check_sizes(chosen, text);
}

thread_local! {
    /// The command line's definition, which takes longer to build than an argument to parse.
    static COMMAND: RefCell<Command> = RefCell::new(Cli::command());
}

/// Parses a command line; returns the `Debug` output of the options.
fn parsed(before: &[&str], argument: &str) -> Result<String, Error> {
    let mut words = vec!["upcase"];
    words.extend(before);
    words.push(argument);
    COMMAND.with_borrow_mut(|command| {
        let matches = command.try_get_matches_from_mut(words)?;
        let cli = Cli::from_arg_matches(&matches)?;
        Ok(format!("{cli:?}"))
    })
}

fn check_refusal(text: &str, error: &Error) {
    let Some(reason) = error.source() else {
        // An error of clap's own, such as a value that is none of several words.
        return;
    };
    let reason = reason.to_string();
    assert!(!reason.is_empty());
    let has_control = |text: &str| text.contains(char::is_control);
    assert!(has_control(text) || !has_control(&reason), "{reason:?}");
}

fn check_address(text: &str) {
    if let Ok(address) = Address::parse(text) {
        assert!(!address.covers(&address));
        assert_eq!(Address::parse(&address.to_string()), Ok(address));
    }
    if let Ok((ip, zone)) = parse_ip(text) {
        let shown = match &zone {
            Some(Zone(zone)) => format!("{ip}%{zone}"),
            None => ip.to_string(),
        };
        assert_eq!(parse_ip(&shown), Ok((ip, zone)));
    }
}

fn check_rate(text: &str) {
    /// A rate that is below the maximum of `--rate`, even after rounding.
    const ALLOWED: f64 = 9_999_999.0;
    let Some(rate) = Rate::parse(text) else {
        return;
    };
    let shown = rate.to_string();
    let again = Rate::parse(&shown.replace(',', "")).expect("the form of a rate is read");
    // The same rate may be another fraction.
    for messages in [1, 3, 1_000, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(again.time_of(messages), rate.time_of(messages), "{shown}");
    }
    if rate.per_second() < ALLOWED {
        let option = format!("--rate={shown}");
        assert!(parsed(&["load"], &option).is_ok(), "{option}");
    }
}

fn check_percentiles(text: &str) {
    let Ok(list) = parse_list(text) else {
        return;
    };
    assert!(list.is_sorted_by(|one, next| one < next), "{list:?}");
    for percentile in list {
        let (name, percent) = (percentile.to_string(), percentile.percent());
        assert_eq!(name.parse::<Percentile>(), Ok(percentile));
        assert_eq!(percent.to_string().parse::<Percentile>(), Ok(percentile));
    }
}

fn check_condition(text: &str) {
    let Ok(condition) = text.parse::<Condition>() else {
        return;
    };
    assert_eq!(text.parse::<Condition>(), Ok(condition.clone()));
    let nothing = Results::default();
    for rate in [None, Some(0.5)] {
        let assertion = condition.check(&nothing, rate);
        assert_eq!(assertion.condition, text);
        assert!(assertion.to_string().starts_with(text));
    }
    // The lower the percentile up to which a run is valid, the more conditions are beyond it.
    assert!(condition.is_beyond(0.0) || !condition.is_beyond(100.0));
}

/// Checks that a number with separated thousands is read.
fn check_number(text: &str) {
    let bytes = text.bytes().take(8);
    let number = bytes.fold(0_u64, |number, byte| (number << 8) | u64::from(byte));
    let option = format!("--seed={}", grouped(number));
    let options = parsed(&["load"], &option).expect(&option);
    assert!(options.contains(&format!(" seed: {number},")), "{options}");
}

/// Checks that message sizes are read from the form in which they are displayed. The sizes and
/// their shares are made from the bytes of the text.
fn check_sizes(chosen: u8, text: &str) {
    const SIZE_MAX: usize = 1 << 30;
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().map(|byte| usize::from(*byte));
        1 + bytes.fold(0_usize, |number, byte| (number << 8) | byte) % SIZE_MAX
    };
    let (first, rest) = text.as_bytes().split_at(text.len().min(4));
    let (second, rest) = rest.split_at(rest.len().min(4));
    let (first, second) = (number(first), number(second));
    let share = f64::from(rest.first().copied().unwrap_or_default()) * 100.0 / 255.0;
    let sizes = match chosen % 3 {
        0 => Sizes::Fixed(first),
        1 => Sizes::Uniform(first.min(second), first.max(second)),
        _ => Sizes::Mixed(vec![(first, share), (second, 100.0 - share)]),
    };
    let option = format!("--size={sizes}");
    let options = parsed(&["load"], &option).expect(&option);
    assert!(options.contains(&format!(" size: {sizes:?},")), "{options}");
}
