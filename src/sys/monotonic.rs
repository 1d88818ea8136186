//! Instants as numbers that can be kept in a file: readings of CLOCK_MONOTONIC, clock_gettime(2).
//!
//! [`Instant`] reads the same clock but does not expose its value. Both are read once, at about the
//! same time, and every conversion uses that pair. So the difference of two instants is exact, and
//! a conversion there and back yields the same instant.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serializer};

static PAIR: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), read()));

fn read() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Returns the reading of the clock at an instant, in nanoseconds; negative before the boot.
pub fn reading(at: Instant) -> i64 {
    let (instant, reading) = *PAIR;
    let since = at.saturating_duration_since(instant).as_nanos() as i128;
    let before = instant.saturating_duration_since(at).as_nanos() as i128;
    let nanoseconds = reading.as_nanos() as i128 + since - before;
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}

/// Returns the instant of a reading of this clock or of that of another machine. An instant that
/// cannot be represented becomes the moment of the first call.
pub fn instant(nanoseconds: i64) -> Instant {
    let (instant, reading) = *PAIR;
    let offset = i128::from(nanoseconds) - reading.as_nanos() as i128;
    let distance = u64::try_from(offset.unsigned_abs()).unwrap_or(u64::MAX);
    let distance = Duration::from_nanos(distance);
    let found = match offset < 0 {
        true => instant.checked_sub(distance),
        false => instant.checked_add(distance),
    };
    found.unwrap_or(instant)
}

/// Writes an instant as the reading of the clock.
pub fn serialize<S: Serializer>(at: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(reading(*at))
}

/// Reads an instant that [`serialize`] has written.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
    i64::deserialize(deserializer).map(instant)
}

/// Converts an instant that may be missing.
pub mod optional {
    use super::*;

    /// Writes the reading of the clock, or null.
    pub fn serialize<S: Serializer>(at: &Option<Instant>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => to.serialize_some(&reading(*at)),
            None => to.serialize_none(),
        }
    }

    /// Reads what [`serialize`] has written.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Instant>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(instant))
    }
}

/// Converts a value with the instant at which it ended; both may be missing.
pub mod optional_end {
    use serde::Serialize;

    use super::*;

    /// Writes the value and the reading of the clock, or null.
    pub fn serialize<T: Serialize, S: Serializer>(
        ended: &Option<(T, Instant)>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let ended = ended.as_ref();
        ended.map(|(value, at)| (value, reading(*at))).serialize(to)
    }

    /// Reads what [`serialize`] has written.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<(T, Instant)>, D::Error> {
        let ended = Option::<(T, i64)>::deserialize(from)?;
        Ok(ended.map(|(value, at)| (value, instant(at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_the_same_after_a_conversion_there_and_back() {
        let now = Instant::now();
        for offset in [-3_600_000_000_000_i64, -1, 0, 1, 3_600_000_000_000] {
            let distance = Duration::from_nanos(offset.unsigned_abs());
            let at = if offset < 0 {
                now.checked_sub(distance).unwrap()
            } else {
                now + distance
            };
            assert_eq!(instant(reading(at)), at);
            assert_eq!(reading(at) - reading(now), offset);
        }
    }

    #[test]
    fn any_number_is_some_instant() {
        for reading in [i64::MIN, -1, 0, i64::MAX] {
            instant(reading);
        }
    }
}
