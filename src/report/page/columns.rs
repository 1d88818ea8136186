//! A recorded run as a page shows it over time: columns, each with what is drawn of one or more of
//! its intervals. Pure data; `join` makes the columns.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::load::latency::{Bound, Distribution, Latency};
use crate::load::results::recorder::Tag;
use crate::report::page::words::bound;
use crate::units::nanoseconds;

/// Number of cells of the heat map for a factor of ten: one of them is 21 % longer than the one
/// below.
pub const CELLS_A_DECADE: i32 = 12;

/// The intervals of a run as columns, in the order of their times.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// The columns.
    pub list: Vec<Column>,
    /// The length of a column in seconds, if several intervals share one.
    pub joined: Option<f64>,
    /// The causes of broken connections and of failed attempts to connect.
    pub causes: BTreeMap<String, Cause>,
}

/// When connections broke, or attempts to connect failed, for one cause. Times are in seconds after
/// the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cause {
    /// Their number.
    pub count: u64,
    /// The beginning of the first interval that has one.
    pub from: f64,
    /// The end of the last interval that has one.
    pub to: f64,
}

/// One or more intervals of a run. Times are in seconds after the start of the run.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// The part of the run.
    pub tag: Tag,
    /// The beginning.
    pub from: f64,
    /// The end.
    pub to: f64,
    /// The time that its intervals cover.
    pub length: f64,
    /// Connections that were up at its end.
    pub up: u32,
    /// Messages that became due.
    pub due: u64,
    /// Messages whose reply was correct.
    pub verified: u64,
    /// Messages that ended without a correct reply.
    pub lost: u64,
    /// The largest number of messages without an outcome at the end of an interval.
    pub outstanding: u64,
    /// Connections that were established.
    pub opened: u64,
    /// Broken connections and failed attempts to connect.
    pub errors: u64,
    /// Retransmitted segments; `None` if no interval knows them.
    pub resent: Option<u64>,
    /// CPU time of the client per second; `None` if no interval knows it.
    pub cpu: Option<f64>,
    /// The largest memory of the client in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// Statistics of the response times.
    pub response: Times,
    /// The largest 99th percentile of an interval's lateness.
    pub lateness_p99: Option<Point>,
    /// The largest 99th percentile of an interval's `blocked` part of the lateness.
    pub blocked_p99: Option<Duration>,
    /// The largest 99th percentile of an interval's `own` part of the lateness.
    pub own_p99: Option<Duration>,
    /// The response times by cell of the heat map, see [`cell_of`].
    pub cells: BTreeMap<i32, Cell>,
}

/// Statistics of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// The number of samples.
    pub count: u64,
    /// The median.
    pub p50: Option<Point>,
    /// The 99th percentile.
    pub p99: Option<Point>,
    /// The longest sample.
    pub longest: Option<Bound>,
}

/// A percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its value.
    pub bound: Bound,
    /// Whether too few samples lie beyond it, so that it is hardly known.
    pub is_faint: bool,
}

/// The response times of a column that lie between two close bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Their number.
    pub count: u64,
    /// Whether one of them is a lower bound.
    pub at_least: bool,
}

impl Columns {
    /// Returns the beginning of the first column and the end of the last one, in seconds.
    pub fn span(&self) -> (f64, f64) {
        let from = self.list.first().map_or(0.0, |column| column.from);
        let ends = self.list.iter().map(|column| column.to);
        (from, ends.fold(from, f64::max))
    }

    /// Returns a sentence on how long a column is; empty without columns.
    pub fn describe(&self) -> String {
        match self.joined {
            _ if self.list.is_empty() => String::new(),
            Some(_) => format!(
                "A column is {} of the run; the histograms of its intervals are merged.",
                self.length()
            ),
            None => format!("A column is an interval of {}.", self.length()),
        }
    }

    /// Returns the length of a column in words; where they differ, that of the median.
    pub fn length(&self) -> String {
        let mut lengths: Vec<f64> = self.list.iter().map(|column| column.length).collect();
        lengths.sort_by(f64::total_cmp);
        let median = lengths.get(lengths.len() / 2).copied();
        duration(self.joined.or(median).unwrap_or(0.0))
    }
}

impl Column {
    /// Returns a count of this column per second.
    pub fn per_second(&self, count: u64) -> Option<f64> {
        (self.length > 0.0).then(|| count as f64 / self.length)
    }

    /// Returns the time of the column in words: `12 to 13 s`.
    pub fn when(&self) -> String {
        let digits = match self.to - self.from {
            length if length < 0.1 => 3,
            length if length < 1.0 => 2,
            length if length.fract() > 0.01 && length.fract() < 0.99 => 1,
            _ => 0,
        };
        format!("{:.digits$} to {:.digits$} s", self.from, self.to)
    }
}

/// Counts response times by cell of the heat map.
pub fn cells(response: &Latency) -> BTreeMap<i32, Cell> {
    let mut cells: BTreeMap<i32, Cell> = BTreeMap::new();
    response.each(|nanoseconds, count, at_least| {
        let cell = cells.entry(cell_of(nanoseconds)).or_default();
        cell.count = cell.count.saturating_add(count);
        cell.at_least |= at_least;
    });
    cells
}

/// Returns the cell of the heat map that contains a duration; the cell 0 begins at 1 ns.
pub fn cell_of(nanoseconds: u64) -> i32 {
    let decades = (nanoseconds.max(1) as f64).log10();
    (decades * f64::from(CELLS_A_DECADE) + 1e-9).floor() as i32
}

impl Point {
    /// Returns a percentile of durations.
    pub fn of(all: &Distribution, percentile: f64) -> Point {
        Point {
            bound: all.nearest(percentile),
            is_faint: all.percentile(percentile).is_none(),
        }
    }

    /// Returns the value as text, with a mark if it is hardly known.
    pub fn text(self) -> String {
        let mark = if self.is_faint { "~" } else { "" };
        format!("{mark}{}", bound(self.bound))
    }
}

impl Times {
    /// Returns the statistics of durations.
    pub fn of(latency: &Latency) -> Times {
        match latency.distribution() {
            None => Times::default(),
            Some(all) => Times {
                count: all.count(),
                p50: Some(Point::of(&all, 50.0)),
                p99: Some(Point::of(&all, 99.0)),
                longest: Some(all.longest()),
            },
        }
    }
}

/// Returns a length of time in words, without needless digits: `12 s`, `2 min`.
fn duration(seconds: f64) -> String {
    // Measured lengths differ from the planned ones by less than a hundredth.
    let unit = 10f64.powf(seconds.max(1e-9).log10().floor() - 1.0);
    let rounded = (seconds / unit).round() * unit;
    match (rounded * 1e6).round() / 1e6 {
        whole if whole >= 60.0 && whole % 60.0 == 0.0 => format!("{} min", whole / 60.0),
        other => format!("{other} s"),
    }
}

/// Returns a duration in nanoseconds as a number.
pub fn number(duration: Duration) -> f64 {
    nanoseconds(duration) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_round() {
        let lengths = [1.000_7, 12.0, 0.1, 300.0, 0.0].map(duration);
        assert_eq!(lengths, ["1 s", "12 s", "0.1 s", "5 min", "0 s"]);
    }

    #[test]
    fn cells_divide_a_decade_evenly() {
        assert_eq!(
            (cell_of(0), cell_of(1), cell_of(10), cell_of(1000)),
            (0, 0, 12, 36)
        );
        assert_eq!(
            (cell_of(9), cell_of(1_000_000), cell_of(999_999)),
            (11, 72, 71)
        );
        assert!(cell_of(u64::MAX) < 20 * CELLS_A_DECADE);
    }
}
