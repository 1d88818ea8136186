//! Rate profiles: rates that change during a run, in stages. Pure.
//!
//! A stage is a ramp from one rate to another, or a constant rate; a constant rate of 0 is a pause.
//! In a stage of length L, t after its beginning, `from·t + (to − from)·t² / 2L` messages have
//! become due. N(t) is the sum of this over the stages, and message k is due at the last instant t
//! with N(t) ≤ k: after a pause, and not before it. That instant lies in the stage to which the
//! message belongs: it is not before the beginning of the stage, and before its end.
//!
//! Messages are counted in quanta, of which each stage has a whole number: a quantum becomes due in
//! half a nanosecond at a rate of a millionth of a message per second. So N(t) is computed in
//! integers, without an error. Its inverse is the solution of a quadratic equation in floating
//! point, of which the integers then find the nanosecond.
//!
//! Invariants:
//! - due(k) is the largest whole number of nanoseconds t with N(t) ≤ k; so it grows with k.
//! - the number of messages due before t is N(t), rounded up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Number of quanta in a message.
pub const QUANTA: u128 = 2 * MILLION as u128 * SECOND as u128;

/// Number of millionths of a message per second in a message per second.
const MILLION: u64 = 1_000_000;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The highest rate of a stage, in messages per second. No machine sends that many over sockets.
pub const RATE_MAX: u64 = 10_000_000;

/// Maximum number of stages. Each has histograms of its own in every thread, of about a megabyte.
pub const STAGES_MAX: usize = 100;

/// Maximum length of a profile. Its nanoseconds are written to records as JSON numbers, of which
/// readers know 53 bits.
pub const LENGTH_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// A rate that may be 0, exact to a millionth of a message per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    millionths: u64,
}

/// A stretch of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The rate at its beginning.
    pub from: Level,
    /// The rate that it approaches at its end.
    pub to: Level,
    /// Its length, in nanoseconds; above 0.
    length: u64,
}

/// A sequence of stages. A clone costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Profile {
    stages: Arc<[Placed]>,
}

/// A stage with its place in the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    stage: Stage,
    /// Its beginning in nanoseconds.
    begins: u64,
    /// The quanta that have become due by then.
    before: u128,
}

impl Level {
    /// Parses a decimal number with at most 6 decimals, such as `0`, `1000` or `333.3`.
    pub fn parse(text: &str) -> Option<Level> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || decimals.len() > 6 || !digits(whole) || !digits(decimals) {
            return None;
        }
        let millionths = format!("{whole}{decimals:0<6}").parse().ok()?;
        (millionths <= RATE_MAX * MILLION).then_some(Level { millionths })
    }

    /// Returns the rate in millionths of a message per second.
    pub fn millionths(self) -> u64 {
        self.millionths
    }

    /// Returns the number of messages per second.
    pub fn per_second(self) -> f64 {
        self.millionths as f64 / MILLION as f64
    }

    /// Returns the sum of two rates.
    fn plus(self, other: Level) -> Level {
        Level {
            millionths: self.millionths.saturating_add(other.millionths),
        }
    }
}

/// Formats the rate in decimals: `2000`, `333.3`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = (self.millionths / MILLION).to_string();
        if let rest @ 1.. = self.millionths % MILLION {
            text += &format!(".{rest:06}");
            text.truncate(text.trim_end_matches('0').len());
        }
        f.pad(&text)
    }
}

impl Stage {
    /// Returns a stage. The error is one sentence.
    pub fn new(from: Level, to: Level, length: Duration) -> Result<Stage, String> {
        if length.is_zero() {
            return Err("a stage must be longer than 0".to_string());
        }
        if length > LENGTH_MAX {
            return Err(TOO_LONG.to_string());
        }
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Ok(Stage { from, to, length })
    }

    /// Returns the length.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.length)
    }

    /// Returns whether the rate does not change.
    pub fn is_constant(&self) -> bool {
        self.from == self.to
    }

    /// Returns whether no message is due in the stage.
    pub fn is_pause(&self) -> bool {
        self.quanta() == 0
    }

    /// Returns the quanta that become due in the stage.
    fn quanta(&self) -> u128 {
        let (from, to) = (self.from.millionths, self.to.millionths);
        (u128::from(from) + u128::from(to)) * u128::from(self.length)
    }

    /// Returns the quanta that have become due `time` nanoseconds after its beginning, rounded up.
    fn quanta_by(&self, time: u64) -> u128 {
        let (from, to) = (self.from.millionths, self.to.millionths);
        let (time, length) = (u128::from(time), u128::from(self.length));
        let even = 2 * u128::from(from) * time;
        // The change of the rate, multiplied by the time twice and divided by the length, without a
        // product of more than 128 bits.
        let change = u128::from(from.abs_diff(to)) * time;
        let (whole, rest) = (change / length, change % length * time);
        let sloped = whole * time + rest / length;
        match from <= to {
            true => even + sloped + u128::from(rest % length > 0),
            false => even.saturating_sub(sloped),
        }
    }

    /// Returns the last whole nanosecond after its beginning at which at most this many quanta have
    /// become due, of the `quanta` that become due in all.
    fn time_of(&self, quanta: u128) -> u64 {
        let (from, to) = (self.from.millionths, self.to.millionths);
        if from == to {
            let time = quanta / (2 * u128::from(from)).max(1);
            return u64::try_from(time).unwrap_or(u64::MAX);
        }
        let length = self.length as f64;
        let change = from.abs_diff(to) as f64;
        // The solution for a rate that rises from `low`, in a form in which nothing cancels out. A
        // rate that falls is one that rises, seen from the end.
        let risen = |low: u64, quanta: u128| {
            let (low, quanta) = (low as f64, quanta as f64);
            quanta / (low + (low * low + change * quanta / length).sqrt())
        };
        let guess = match from < to {
            true => risen(from, quanta),
            false => length - risen(to, self.quanta().saturating_sub(quanta)),
        };
        let mut time = (guess.max(0.0) as u64).min(self.length - 1);
        while time > 0 && self.quanta_by(time) > quanta {
            time -= 1;
        }
        while time + 1 < self.length && self.quanta_by(time + 1) <= quanta {
            time += 1;
        }
        time
    }
}

const TOO_LONG: &str = "at most 100 days";

impl Profile {
    /// Puts stages one after the other. The error is one sentence.
    pub fn new(stages: impl IntoIterator<Item = Stage>) -> Result<Profile, String> {
        let profile = Profile::of(stages);
        if profile.stages.len() > STAGES_MAX {
            return Err(format!("at most {STAGES_MAX} stages"));
        }
        if profile.length() > LENGTH_MAX {
            return Err(format!("{TOO_LONG} in all"));
        }
        if profile.quanta() == 0 {
            return Err("no message is ever due: the rate is 0 throughout".to_string());
        }
        Ok(profile)
    }

    fn of(stages: impl IntoIterator<Item = Stage>) -> Profile {
        let (mut begins, mut before) = (0u64, 0u128);
        let placed = stages.into_iter().map(|stage| {
            let placed = Placed {
                stage,
                begins,
                before,
            };
            begins = begins.saturating_add(stage.length);
            before += stage.quanta();
            placed
        });
        Profile {
            stages: placed.collect(),
        }
    }

    /// Parses stages that are separated by commas, such as `100..5000:30s,5000:60s`. `level` reads
    /// a rate, and `length` a time. The error is one sentence.
    pub fn parse(
        text: &str,
        level: impl Fn(&str) -> Result<Level, String>,
        length: impl Fn(&str) -> Result<Duration, String>,
    ) -> Result<Profile, String> {
        let stage = |piece: &str| {
            let (rates, time) = piece.split_once(':').ok_or_else(|| {
                format!("'{piece}' has no length, such as 5000:20s or 100..5000:60s")
            })?;
            let (from, to) = match rates.split_once("..") {
                Some((from, to)) => (level(from.trim())?, level(to.trim())?),
                None => {
                    let level = level(rates.trim())?;
                    (level, level)
                }
            };
            Stage::new(from, to, length(time.trim())?)
        };
        let stages = text.split(',').map(|piece| stage(piece.trim()));
        Profile::new(stages.collect::<Result<Vec<Stage>, String>>()?)
    }

    /// Returns whether all stages have the same constant rate.
    pub fn is_constant(&self) -> bool {
        let first = self.stages().next().map(|stage| stage.from);
        let mut levels = self.stages().flat_map(|stage| [stage.from, stage.to]);
        levels.all(|level| Some(level) == first)
    }

    /// Returns the stages in order.
    pub fn stages(&self) -> impl ExactSizeIterator<Item = &Stage> + Clone {
        self.stages.iter().map(|placed| &placed.stage)
    }

    /// Returns a stage, counted from 0.
    pub fn stage(&self, index: usize) -> Option<&Stage> {
        self.stages.get(index).map(|placed| &placed.stage)
    }

    /// Returns the profile that has only this stage.
    pub fn only(&self, index: usize) -> Option<Profile> {
        self.stage(index).map(|stage| Profile::of([*stage]))
    }

    /// Returns the beginning and the end of a stage, as times after the start of the run.
    pub fn span(&self, index: usize) -> Option<(Duration, Duration)> {
        let placed = self.stages.get(index)?;
        let begins = Duration::from_nanos(placed.begins);
        Some((begins, begins + placed.stage.length()))
    }

    /// Returns the index of the stage to which a time after the start belongs; times after the end
    /// belong to the last stage.
    pub fn stage_at(&self, time: Duration) -> usize {
        let begun = |placed: &Placed| Duration::from_nanos(placed.begins) <= time;
        self.stages.partition_point(begun).saturating_sub(1)
    }

    /// Returns the length of all stages together.
    pub fn length(&self) -> Duration {
        let last = self.stages.last();
        last.map_or(Duration::ZERO, |last| {
            Duration::from_nanos(last.begins).saturating_add(last.stage.length())
        })
    }

    /// Returns the mean rate between two times after the start, in messages per second. No message
    /// is due after the end.
    pub fn mean_rate(&self, from: Duration, to: Duration) -> f64 {
        let due = |time: Duration| {
            let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.quanta_by(time)
        };
        let messages = due(to).saturating_sub(due(from)) as f64 / QUANTA as f64;
        messages / to.saturating_sub(from).as_secs_f64().max(1e-9)
    }

    /// Returns the number of messages that are due before this time, in nanoseconds.
    pub fn count_before(&self, time: u64) -> u64 {
        let messages = self.quanta_by(time).div_ceil(QUANTA);
        u64::try_from(messages).unwrap_or(u64::MAX)
    }

    /// Returns the time, in nanoseconds, at which this many quanta have become due; after the last
    /// of them, the end of the profile.
    pub fn time_of(&self, quanta: u128) -> u64 {
        let begun = self
            .stages
            .partition_point(|placed| placed.before <= quanta);
        let Some(placed) = begun.checked_sub(1).and_then(|last| self.stages.get(last)) else {
            return 0;
        };
        let within = quanta - placed.before;
        match within < placed.stage.quanta() {
            true => placed.begins.saturating_add(placed.stage.time_of(within)),
            false => placed.begins.saturating_add(placed.stage.length),
        }
    }

    /// Returns the profile of two parts of a run side by side: the sum of their rates. `None`:
    /// their stages do not begin and end together.
    pub fn plus(&self, other: &Profile) -> Option<Profile> {
        let stages = self.stages().zip(other.stages());
        let is_alike = stages.clone().all(|(one, two)| one.length == two.length);
        (is_alike && self.stages.len() == other.stages.len()).then(|| {
            Profile::of(stages.map(|(one, two)| Stage {
                from: one.from.plus(two.from),
                to: one.to.plus(two.to),
                length: one.length,
            }))
        })
    }

    /// Returns the profile of two parts of a run one after the other.
    pub fn followed_by(&self, later: &Profile) -> Profile {
        Profile::of(self.stages().chain(later.stages()).copied())
    }

    fn quanta(&self) -> u128 {
        let last = self.stages.last();
        last.map_or(0, |last| last.before + last.stage.quanta())
    }

    /// Returns the quanta that have become due by a time, in nanoseconds, rounded up.
    fn quanta_by(&self, time: u64) -> u128 {
        let begun = self.stages.partition_point(|placed| placed.begins <= time);
        let last = begun.checked_sub(1).and_then(|last| self.stages.get(last));
        last.map_or(0, |placed| {
            let within = (time - placed.begins).min(placed.stage.length);
            placed.before + placed.stage.quanta_by(within)
        })
    }
}

/// Formats the stage as it is typed: `5000:20s`, `100..5000:1m`.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = humantime::format_duration(self.length()).to_string();
        let length = length.replace(' ', "");
        match self.is_constant() {
            true => write!(f, "{}:{length}", self.from),
            false => write!(f, "{}..{}:{length}", self.from, self.to),
        }
    }
}

/// Formats the profile as it is typed: `100..5000:30s,5000:1m`.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, stage) in self.stages().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{stage}")?;
        }
        Ok(())
    }
}

/// Parses a profile as it is displayed.
impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Profile, String> {
        let level = |text: &str| Level::parse(text).ok_or(format!("'{text}' is not a rate"));
        let length = |text: &str| {
            let time = humantime::parse_duration(text);
            time.map_err(|error| format!("'{text}' is not a time: {error}"))
        };
        Profile::parse(text, level, length)
    }
}

impl TryFrom<String> for Profile {
    type Error = String;

    fn try_from(text: String) -> Result<Profile, String> {
        text.parse()
    }
}

impl From<Profile> for String {
    fn from(profile: Profile) -> String {
        profile.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(text: &str) -> Profile {
        text.parse().unwrap()
    }

    /// Returns profiles of all kinds: of rates from a millionth to the highest, and lengths from a
    /// nanosecond to a month.
    fn profiles() -> impl Strategy<Value = Profile> {
        let level = (any::<u64>(), 20u32..64, 0u8..8).prop_map(|(bits, shift, kind)| match kind {
            0 => Level { millionths: 0 },
            1 => Level {
                millionths: bits % 10_000 * MILLION,
            },
            _ => Level {
                millionths: (bits >> shift).min(RATE_MAX * MILLION),
            },
        });
        let length = (any::<u64>(), 12u32..64).prop_map(|(bits, shift)| (bits >> shift).max(1));
        let stage = (level.clone(), level, any::<bool>(), length);
        let stage = stage.prop_map(|(from, to, is_constant, length)| Stage {
            from,
            to: if is_constant { from } else { to },
            length: length.min(30 * 24 * 3600 * SECOND),
        });
        let stages = prop::collection::vec(stage, 1..5);
        stages.prop_filter_map("without a message", |stages| Profile::new(stages).ok())
    }

    /// Returns twice the length of the stage multiplied by N(t), in quanta: exact, if it fits.
    fn exact(stage: &Stage, time: u64) -> Option<i128> {
        let (from, to) = (stage.from.millionths, stage.to.millionths);
        let (from, to) = (i128::from(from), i128::from(to));
        let (time, length) = (i128::from(time), i128::from(stage.length));
        let even = 2 * from * time;
        let sloped = (to - from).checked_mul(time)?.checked_mul(time)?;
        even.checked_mul(length)?.checked_add(sloped)
    }

    proptest! {
        #[test]
        fn message_k_is_due_in_the_last_nanosecond_by_which_k_are_due(
            profile in profiles(), part in 0.0f64..1.0, many in any::<u64>(),
        ) {
            let all = profile.count_before(u64::MAX);
            for k in [(all as f64 * part) as u64, many % all, 0, all - 1].map(|k| k.min(all - 1)) {
                let at = profile.time_of(u128::from(k) * QUANTA);
                // Message k is not among those due before `at`, and is among those due by then.
                prop_assert!(profile.count_before(at) <= k);
                prop_assert!(profile.count_before(at + 1) > k);
                prop_assert!(Duration::from_nanos(at) < profile.length());
            }
            let end = Duration::from_nanos(profile.time_of(u128::from(all) * QUANTA));
            prop_assert_eq!(end, profile.length());
        }

        #[test]
        fn a_stage_is_computed_as_in_wide_integers(profile in profiles(), part in 0.0f64..1.0) {
            for stage in profile.stages() {
                let time = (stage.length as f64 * part) as u64;
                if let Some(exact) = exact(stage, time) {
                    let length = i128::from(stage.length);
                    let rounded = exact.div_euclid(length) + i128::from(exact % length > 0);
                    prop_assert_eq!(stage.quanta_by(time) as i128, rounded);
                }
                prop_assert_eq!(stage.quanta_by(stage.length), stage.quanta());
            }
        }

        #[test]
        fn times_grow_with_the_quanta_and_stay_in_their_stage(
            profile in profiles(), parts in prop::collection::vec(0.0f64..1.0, 2..20),
        ) {
            let all = profile.quanta();
            let mut quanta: Vec<u128> = parts.iter().map(|it| (all as f64 * it) as u128).collect();
            quanta.sort_unstable();
            let times: Vec<u64> = quanta.iter().map(|it| profile.time_of(*it)).collect();
            prop_assert!(times.is_sorted());
            for (quanta, time) in quanta.iter().zip(times).filter(|(quanta, _)| **quanta < all) {
                let begun = profile.stages.iter().rposition(|placed| placed.before <= *quanta);
                prop_assert_eq!(Some(profile.stage_at(Duration::from_nanos(time))), begun);
            }
        }

        #[test]
        fn a_profile_is_read_as_it_is_shown(profile in profiles()) {
            let shown = profile.to_string();
            prop_assert_eq!(shown.parse::<Profile>(), Ok(profile), "{}", shown);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.,:smh]{0,40}", other in ".{0,40}") {
            for text in [text, other] {
                if let Ok(profile) = text.parse::<Profile>() {
                    prop_assert!(profile.time_of(u128::MAX) > 0);
                    prop_assert!(profile.mean_rate(Duration::ZERO, Duration::MAX) > 0.0);
                }
            }
        }
    }

    #[test]
    fn the_counts_of_a_ramps_seconds_are_those_of_the_integral_to_within_one() {
        let ramp = profile("100..5000:20s");
        assert_eq!(ramp.count_before(u64::MAX), 51_000);
        let second = Duration::from_secs(1);
        assert_eq!(ramp.mean_rate(Duration::ZERO, 20 * second), 2550.0);
        assert_eq!(ramp.mean_rate(10 * second, 12 * second), 2795.0);
        let due: Vec<u64> = (0..51_000u128).map(|k| ramp.time_of(k * QUANTA)).collect();
        for second in 0..20u64 {
            let span = second * SECOND..(second + 1) * SECOND;
            let count = due.iter().filter(|due| span.contains(*due)).count() as f64;
            // The integral of 100 + 245 t.
            let integral = 100.0 + 245.0 * (second as f64 + 0.5);
            assert!((count - integral).abs() < 1.0, "{second}: {count}");
        }
    }

    #[test]
    fn a_message_is_due_after_a_pause_and_not_before_it() {
        let due = |text: &str, k: u128| profile(text).time_of(k * QUANTA) as f64 / 1e9;
        let steps = "1000:1s,0:2s,1000:1s";
        assert_eq!(due(steps, 999), 0.999);
        assert_eq!(due(steps, 1000), 3.0);
        assert_eq!(due("0:5s,1000:1s", 0), 5.0);
        let down = "100..0:2s,0:1s,0..100:2s";
        assert_eq!(due(down, 0), 0.0);
        assert!((due(down, 99) - 1.8).abs() < 1e-9, "{}", due(down, 99));
        assert_eq!(due(down, 100), 3.0);
        assert!((due(down, 101) - 3.2).abs() < 1e-9);
        assert_eq!(profile(down).count_before(u64::MAX), 200);
    }

    #[test]
    fn profiles_are_read_and_nonsense_is_refused() {
        for (text, shown) in [
            ("1000:10s", "1000:10s"),
            ("0..5000:60s", "0..5000:1m"),
            ("5000..0.5:90s, 1.50:1500ms", "5000..0.5:1m30s,1.5:1s500ms"),
            ("7..7:1s", "7:1s"),
        ] {
            assert_eq!(profile(text).to_string(), shown);
        }
        for (bad, named) in [
            ("1000", "'1000' has no length"),
            ("1000:10s,5", "'5' has no length"),
            ("1000:10s,", "'' has no length"),
            ("1..2..3:1s", "'2..3' is not a rate"),
            ("..3:1s", "'' is not a rate"),
            ("10000001:1s", "'10000001' is not a rate"),
            ("1.1234567:1s", "'1.1234567' is not a rate"),
            ("5:0s", "longer than 0"),
            ("5:x", "'x' is not a time"),
            ("5:101d", "at most 100 days"),
            ("5:60d,5:60d", "at most 100 days in all"),
            ("0:1s,0..0:2s", "no message is ever due"),
        ] {
            let error = bad.parse::<Profile>().unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
        let many = vec!["5:1s"; STAGES_MAX + 1].join(",");
        assert_eq!(many.parse::<Profile>().unwrap_err(), "at most 100 stages");
    }

    #[test]
    fn profiles_of_parts_add_up() {
        let (one, two) = (profile("0..10:1s,5:2s"), profile("2..3:1s,0.5:2s"));
        assert_eq!(one.plus(&two), Some(profile("2..13:1s,5.5:2s")));
        assert_eq!(one.plus(&profile("1:1s")), None);
        assert_eq!(one.plus(&profile("1:1s,1:3s")), None);
        let both = one.followed_by(&two);
        assert_eq!(both, profile("0..10:1s,5:2s,2..3:1s,0.5:2s"));
        assert_eq!(both.span(3).unwrap().1, Duration::from_secs(6));
    }
}
