//! A row of bars, one for each of the last intervals: the upper end of its response times on a
//! logarithmic scale. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::short;

/// The time that the bars cover.
const COVERED: Duration = Duration::from_secs(60);

/// Minimum number of intervals that the bars cover, even if that takes longer.
const INTERVALS_MIN: usize = 8;

/// The least ratio of the longest time to the shortest that fills the scale: small differences stay
/// small.
const RATIO_MIN: f64 = 10.0;

/// The bars, from the lowest to the highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', '-', ':', '=', '+', '*', '#'];

/// The times of the last intervals.
#[derive(Debug)]
pub struct Recent {
    interval: Duration,
    /// Number of intervals that are kept.
    kept: usize,
    /// One time for each interval, the newest last; `None` if no message ended in the interval.
    times: VecDeque<Option<Duration>>,
    /// Number of intervals that were added.
    added: usize,
}

impl Recent {
    /// Returns an empty row for intervals of this length.
    pub fn new(interval: Duration) -> Recent {
        let intervals = COVERED.as_secs_f64() / interval.as_secs_f64().max(1e-3);
        Recent {
            interval,
            kept: (intervals.ceil() as usize).max(INTERVALS_MIN),
            times: VecDeque::new(),
            added: 0,
        }
    }

    /// Adds the time of an interval.
    pub fn push(&mut self, time: Option<Duration>) {
        if self.times.len() == self.kept {
            self.times.pop_front();
        }
        self.times.push_back(time);
        self.added += 1;
    }

    /// Returns the time that all bars cover, in words: `60 s`, `8m`.
    pub fn covered(&self) -> String {
        let covered = self.interval.as_secs_f64() * self.kept as f64;
        match covered.round() as u64 {
            seconds if seconds <= 120 => format!("{seconds} s"),
            seconds => {
                let whole = Duration::from_secs(seconds / 60 * 60);
                humantime::format_duration(whole).to_string()
            }
        }
    }

    /// Returns the times, at most this number of them: where there are more, each is the longest of
    /// some intervals in succession. These are the same ones in the next picture, as long as their
    /// number is, so the oldest and the newest group may be incomplete.
    fn grouped(&self, columns: usize) -> Vec<Option<Duration>> {
        let columns = columns.max(1);
        let size = match self.times.len() <= columns {
            true => 1,
            false => self.times.len().div_ceil(columns.saturating_sub(1).max(1)),
        };
        let first = self.added - self.times.len();
        let mut groups: Vec<Option<Duration>> = Vec::new();
        for (number, time) in (first..).zip(&self.times) {
            match groups.last_mut() {
                Some(group) if number % size != 0 => *group = (*group).max(*time),
                _ => groups.push(*time),
            }
        }
        groups.split_off(groups.len().saturating_sub(columns))
    }

    /// Returns the bars, at most this number of them.
    pub fn bars(&self, columns: usize, has_unicode: bool) -> String {
        let times = self.grouped(columns);
        let Some((least, most)) = range(&times) else {
            return String::new();
        };
        let bars = if has_unicode { BARS } else { ASCII_BARS };
        let bar = |time: &Option<Duration>| time.map_or(' ', |time| bars[level(time, least, most)]);
        times.iter().map(bar).collect()
    }

    /// Returns the shortest and the longest of the times in words: `95.0 µs to 12.3 ms`; `None` if
    /// they do not differ.
    pub fn range(&self) -> Option<String> {
        let (least, most) = range(&self.times)?;
        (least < most).then(|| format!("{} to {}", short(least), short(most)))
    }
}

fn range<'a>(
    times: impl IntoIterator<Item = &'a Option<Duration>>,
) -> Option<(Duration, Duration)> {
    times.into_iter().flatten().fold(None, |range, time| {
        let (least, most) = range.unwrap_or((*time, *time));
        Some((least.min(*time), most.max(*time)))
    })
}

/// Returns the index of the bar for a time, on a scale from `least` to `most`.
fn level(time: Duration, least: Duration, most: Duration) -> usize {
    let ratio = |time: Duration| {
        let least = least.as_nanos().max(1) as f64;
        (time.as_nanos().max(1) as f64 / least).max(1.0)
    };
    let share = ratio(time).ln() / ratio(most).max(RATIO_MIN).ln();
    // A whole power of ten is not rounded down because its logarithm is.
    ((share * BARS.len() as f64 + 1e-9) as usize).min(BARS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(interval_ms: u64, microseconds: &[u64]) -> Recent {
        let mut recent = Recent::new(Duration::from_millis(interval_ms));
        for time in microseconds {
            recent.push((*time > 0).then(|| Duration::from_micros(*time)));
        }
        recent
    }

    #[test]
    fn the_scale_is_logarithmic_and_spans_at_least_a_decade() {
        let decades = recent(1000, &[1, 10, 100, 1_000, 10_000]);
        assert_eq!(decades.bars(60, true), "▁▃▅▇█");
        assert_eq!(decades.bars(60, false), "_-=*#");
        assert_eq!(decades.range().unwrap(), "1.00 µs to 10.0 ms");
        assert_eq!(recent(1000, &[7]).range(), None);
        // Noise looks like noise.
        assert_eq!(recent(1000, &[100, 105, 95, 110]).bars(60, true), "▁▁▁▁");
        assert_eq!(recent(1000, &[100, 200]).bars(60, true), "▁▃");
    }

    #[test]
    fn an_interval_without_replies_is_a_gap() {
        let gap = recent(1000, &[10, 0, 100]);
        assert_eq!(gap.bars(60, true), "▁ █");
        let none = recent(1000, &[0, 0]);
        assert_eq!((none.bars(60, true), none.range()), (String::new(), None));
    }

    #[test]
    fn a_minute_is_covered_and_fits_the_columns() {
        for (interval_ms, kept, covered) in [
            (10, 6_000, "60 s"),
            (100, 600, "60 s"),
            (1_000, 60, "60 s"),
            (7_000, 9, "63 s"),
            (60_000, 8, "8m"),
        ] {
            let times: Vec<u64> = (1..=7_000).collect();
            let recent = recent(interval_ms, &times);
            assert_eq!(recent.times.len(), kept);
            assert_eq!(recent.covered(), covered);
            for columns in [1, 2, 8, 20, 59, 60, 200] {
                let shown = recent.grouped(columns);
                assert!(shown.len() <= columns, "{} of {columns}", shown.len());
                let last = Duration::from_micros(7_000);
                assert_eq!(shown.last(), Some(&Some(last)), "{interval_ms} {columns}");
            }
        }
    }

    #[test]
    fn groups_stay_the_same_while_time_passes() {
        let mut times = vec![10; 100];
        times[70] = 1_000;
        for count in 90..100 {
            let shown = recent(1000, &times[..count]).bars(31, true);
            assert_eq!(shown.matches('█').count(), 1, "{shown}");
            assert_eq!(shown.matches('▁').count(), shown.chars().count() - 1);
        }
    }
}
