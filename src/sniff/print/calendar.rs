//! Formats the times of packets: date, time of day and zone. Pure: the zone is an argument.
//!
//! A capture has millions of packets and few days, so each day is computed once. It is valid for as
//! long as the date and the offset from UTC stay the same: until midnight or a change of the
//! clocks, whichever is first. The time of day then takes a few divisions.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::sniff::print::text::{padded, put};

const SECONDS_OF_DAY: i64 = 86_400;

/// A formatter of times in one zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    /// A remark on the zone, shown after its name.
    remark: &'static str,
    day: Option<Day>,
}

/// A date with one offset from UTC.
#[derive(Clone, Debug)]
struct Day {
    /// The range of seconds since 1970 in which it is valid; the end is excluded.
    from: i64,
    until: i64,
    /// The second since 1970 at which the time of day is 00:00:00 at this offset.
    midnight: i64,
    /// The date: `2026-11-22`.
    date: String,
    /// The zone: `CET (UTC+01:00)`, `UTC`.
    zone: String,
    /// The end of a time in RFC 3339: `+01:00`, `Z`; `None` for an offset with seconds, as zones
    /// had until 1972, which that format cannot express.
    suffix: Option<String>,
}

/// The remark when the local zone is not known.
const UNKNOWN_ZONE: &str = ", as the local time zone is not known";

impl Calendar {
    /// Returns a calendar of this zone. `None`: the local zone is wanted but not known; times are
    /// then in UTC, and the remark reports that.
    pub fn new(zone: Option<TimeZone>) -> Calendar {
        Calendar {
            remark: if zone.is_none() { UNKNOWN_ZONE } else { "" },
            zone: zone.unwrap_or(TimeZone::UTC),
            day: None,
        }
    }

    /// Returns a calendar in UTC.
    pub fn utc() -> Calendar {
        Calendar::new(Some(TimeZone::UTC))
    }

    /// Sets the current time. Returns the line to print about the date and the zone when they
    /// differ from those of the time before.
    pub fn set_time(&mut self, time: Duration) -> Option<String> {
        let second = seconds(time);
        let before = match &self.day {
            Some(day) if (day.from..day.until).contains(&second) => return None,
            before => before.as_ref().map(|day| (&day.date, &day.zone)),
        };
        let day = Day::of(second, &self.zone);
        let changed = before != Some((&day.date, &day.zone));
        let text_of = match day.date.as_str() {
            "" => format!("After the year 9999: times in {}", day.zone),
            date => format!("{date}, times in {}{}", day.zone, self.remark),
        };
        self.day = Some(day);
        changed.then_some(text_of)
    }

    /// Appends the time of day, `07:23:10.534722`, of the current time.
    pub fn time_of_day(&self, out: &mut String, time: Duration) {
        let midnight = self.day.as_ref().map_or(0, |day| day.midnight);
        let mut text = *b"00:00:00.000000";
        let seconds = seconds(time).saturating_sub(midnight);
        if seconds >= SECONDS_OF_DAY {
            // This time is too late for a date: it is written in seconds since 1970.
            put!(out, time.as_secs());
            return;
        }
        let seconds = seconds.unsigned_abs() as u32;
        for (mut value, places) in [
            (seconds / 3600, 0..2),
            (seconds / 60 % 60, 3..5),
            (seconds % 60, 6..8),
            (time.subsec_micros(), 9..15),
        ] {
            for place in places.rev() {
                text[place] += (value % 10) as u8;
                value /= 10;
            }
        }
        out.push_str(std::str::from_utf8(&text).unwrap_or_default());
    }

    /// Returns whether the current time has a date.
    pub fn has_date(&self) -> bool {
        self.day.as_ref().is_some_and(|day| !day.date.is_empty())
    }

    /// Appends date, time and offset from UTC in the format of RFC 3339. The time must be the
    /// current one, and have a date.
    pub fn rfc3339(&self, out: &mut String, time: Duration) {
        let Some(day) = &self.day else { return };
        let Some(suffix) = &day.suffix else {
            let mut utc = Calendar::utc();
            utc.set_time(time);
            return utc.rfc3339(out, time);
        };
        put!(out, day.date.as_str(), "T");
        self.time_of_day(out, time);
        padded(out, u64::from(time.subsec_nanos() % 1000), '0', 3);
        out.push_str(suffix);
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

impl Day {
    fn of(second: i64, zone: &TimeZone) -> Day {
        let Ok(time) = Timestamp::from_second(second) else {
            return Day::beyond();
        };
        let info = zone.to_offset_info(time);
        let offset = info.offset();
        let shift = i64::from(offset.seconds());
        let midnight = (second + shift).div_euclid(SECONDS_OF_DAY) * SECONDS_OF_DAY - shift;
        let change = |time: Timestamp| time.as_second();
        let next = zone.following(time).next();
        let next = next.map_or(i64::MAX, |transition| change(transition.timestamp()));
        // The last change of the offset at or before this second.
        let after = Timestamp::from_second(second + 1).unwrap_or(time);
        let last = zone.preceding(after).next();
        let last = last.map_or(i64::MIN, |transition| change(transition.timestamp()));
        let date = offset.to_datetime(time).date();
        Day {
            from: midnight.max(last),
            until: midnight.saturating_add(SECONDS_OF_DAY).min(next),
            midnight,
            date: date.to_string(),
            zone: name(info.abbreviation(), offset),
            suffix: (offset.seconds() % 60 == 0).then(|| distance(offset, "Z")),
        }
    }

    /// Returns the day of all times that are too late for a date.
    fn beyond() -> Day {
        Day {
            from: Timestamp::MAX.as_second() + 1,
            until: i64::MAX,
            midnight: 0,
            date: String::new(),
            zone: "seconds since 1970".to_string(),
            suffix: Some(String::new()),
        }
    }
}

/// Returns the name of a zone and its offset from UTC: `CET (UTC+01:00)`. A zone without a name of
/// its own is named after its offset.
fn name(abbreviation: &str, offset: Offset) -> String {
    let distance = format!("UTC{}", distance(offset, ""));
    let named = abbreviation.starts_with(|first: char| first.is_ascii_alphabetic());
    match named && abbreviation != distance {
        true => format!("{abbreviation} ({distance})"),
        false => distance,
    }
}

/// Returns the offset from UTC as text, `+01:00`, or `zero` when it is 0.
fn distance(offset: Offset, zero: &str) -> String {
    let seconds = offset.seconds();
    if seconds == 0 {
        return zero.to_string();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let seconds = seconds.unsigned_abs();
    let mut text = format!("{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60);
    if !seconds.is_multiple_of(60) {
        // Writing to a string cannot fail.
        let _ = write!(text, ":{:02}", seconds % 60);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVEMBER_22: u64 = 1_795_332_190;

    /// Returns what is printed at these times: date and zone, and each time in both forms.
    fn printed(zone: TimeZone, times: &[u64]) -> Vec<String> {
        let mut calendar = Calendar::new(Some(zone));
        let mut lines = Vec::new();
        for &time in times {
            let time = Duration::new(time, 534_722_123);
            lines.extend(calendar.set_time(time));
            let (mut day, mut full) = (String::new(), String::new());
            calendar.time_of_day(&mut day, time);
            if calendar.has_date() {
                calendar.rfc3339(&mut full, time);
            }
            lines.push(format!("{day} {full}").trim_end().to_string());
        }
        lines
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn a_time_has_its_date_and_its_zone() {
        assert_eq!(
            printed(TimeZone::UTC, &[NOVEMBER_22]),
            [
                "2026-11-22, times in UTC",
                "07:23:10.534722 2026-11-22T07:23:10.534722123Z"
            ]
        );
        assert_eq!(
            printed(berlin(), &[NOVEMBER_22]),
            [
                "2026-11-22, times in CET (UTC+01:00)",
                "08:23:10.534722 2026-11-22T08:23:10.534722123+01:00"
            ]
        );
        let newfoundland = TimeZone::posix("<-0330>3:30").unwrap();
        assert_eq!(
            printed(newfoundland, &[0]),
            [
                "1969-12-31, times in UTC-03:30",
                "20:30:00.534722 1969-12-31T20:30:00.534722123-03:30"
            ]
        );
        let unknown = Calendar::new(None).set_time(Duration::ZERO);
        let text_of = "1970-01-01, times in UTC, as the local time zone is not known";
        assert_eq!(unknown.as_deref(), Some(text_of));
    }

    #[test]
    fn a_change_of_the_date_is_said_once_and_back_again() {
        let midnight = NOVEMBER_22 / 86_400 * 86_400 + 86_400;
        let times = [midnight - 1, midnight, midnight + 1, midnight - 1];
        assert_eq!(
            printed(TimeZone::UTC, &times),
            [
                "2026-11-22, times in UTC",
                "23:59:59.534722 2026-11-22T23:59:59.534722123Z",
                "2026-11-23, times in UTC",
                "00:00:00.534722 2026-11-23T00:00:00.534722123Z",
                "00:00:01.534722 2026-11-23T00:00:01.534722123Z",
                "2026-11-22, times in UTC",
                "23:59:59.534722 2026-11-22T23:59:59.534722123Z",
            ]
        );
    }

    #[test]
    fn a_change_of_the_clocks_is_said() {
        // 2026-10-25, 01:00:00 UTC: from 03:00 back to 02:00.
        let back = 1_792_890_000;
        assert_eq!(
            printed(berlin(), &[back - 1, back]),
            [
                "2026-10-25, times in CEST (UTC+02:00)",
                "02:59:59.534722 2026-10-25T02:59:59.534722123+02:00",
                "2026-10-25, times in CET (UTC+01:00)",
                "02:00:00.534722 2026-10-25T02:00:00.534722123+01:00",
            ]
        );
    }

    #[test]
    fn a_distance_with_seconds_is_no_rfc3339() {
        let monrovia = TimeZone::posix("LMT0:44:30").unwrap();
        assert_eq!(
            printed(monrovia, &[0]),
            [
                "1969-12-31, times in LMT (UTC-00:44:30)",
                "23:15:30.534722 1970-01-01T00:00:00.534722123Z"
            ]
        );
    }

    #[test]
    fn absurd_times_have_no_date() {
        for time in [400_000_000_000, i64::MAX as u64, u64::MAX] {
            let lines = printed(berlin(), &[time]);
            let text_of = "After the year 9999: times in seconds since 1970";
            assert_eq!(lines, [text_of.to_string(), time.to_string()]);
        }
    }
}
