//! Joins the intervals of a recorded run to as many columns as the width of a figure can show.
//! Pure.
//!
//! Invariant: a joined column has the sums of the counts and the merged histograms of its
//! intervals, so its percentiles are those of all of its messages and never a mean of percentiles.
//! Of the lateness and its parts, which are recorded as percentiles, it has the largest ones. Two
//! parts of the run do not share a column, unless one of them is too short to be seen: an interval
//! that is much shorter than those before, such as the remainder of the drain, is joined to the one
//! before it. Its counts per second would be large and mean nothing.

use std::time::Duration;

use crate::load::latency::Latency;
use crate::record::series::Moment;
use crate::report::page::columns::{Cause, Column, Columns, Point, Times, cells};
use crate::report::page::scale::round_up;

/// Number of intervals up to which each has a column of its own, and about the maximum number of
/// columns of a longer run.
const COLUMNS_MAX: usize = 300;

/// The factor by which an interval is shorter than another one if it is too short to be seen.
const SHORT: f64 = 4.0;

/// Joins intervals that are in memory together; they need not be in order.
#[cfg(test)]
pub fn join(series: &[Moment]) -> Columns {
    let mut moments: Vec<&Moment> = series.iter().collect();
    moments.sort_by_key(|moment| moment.from);
    let from = moments.first().map_or(Duration::ZERO, |first| first.from);
    let to = moments.iter().map(|moment| moment.to).max();
    let mut joiner = Joiner::new(moments.len(), from, to.unwrap_or(from));
    moments.into_iter().for_each(|moment| joiner.add(moment));
    joiner.finish()
}

/// Joins the intervals of a run one after the other, so that only the open column holds histograms.
#[derive(Clone, Debug)]
pub struct Joiner {
    width: Option<f64>,
    /// The length of the longest interval so far.
    longest: f64,
    open: Option<Open>,
    done: Columns,
}

/// A column whose last interval has not been added yet.
#[derive(Clone, Debug)]
struct Open {
    /// The number of the column; `None`: it is that of one interval.
    place: Option<f64>,
    column: Column,
    response: Latency,
    /// CPU time, and the time in which it was used, of the intervals that know it.
    cpu: (f64, f64),
}

impl Joiner {
    /// Prepares columns for a number of intervals between two times.
    pub fn new(intervals: usize, from: Duration, to: Duration) -> Joiner {
        let least = to.saturating_sub(from).as_secs_f64() / COLUMNS_MAX as f64;
        let width = round_up(least, &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]);
        Joiner {
            width: (intervals > COLUMNS_MAX).then_some(width),
            longest: 0.0,
            open: None,
            done: Columns {
                joined: (intervals > COLUMNS_MAX).then_some(width),
                ..Columns::default()
            },
        }
    }

    /// Adds the next interval.
    pub fn add(&mut self, moment: &Moment) {
        let middle = f64::midpoint(moment.from.as_secs_f64(), moment.to.as_secs_f64());
        let place = self.width.map(|width| (middle / width).floor());
        let length = moment.length().as_secs_f64();
        let is_short = length * SHORT < self.longest;
        let gap_most = self.longest / SHORT;
        let is_open = |open: &Open| {
            let is_same = place.is_some() && open.place == place && open.column.tag == moment.tag;
            let gap = moment.from.as_secs_f64() - open.column.to;
            is_same || is_short && gap < gap_most
        };
        if !self.open.as_ref().is_some_and(is_open) {
            self.close();
        }
        let open = self.open.get_or_insert_with(|| Open::new(place, moment));
        open.add(moment);
        self.longest = self.longest.max(length);
        self.add_causes(moment);
    }

    fn add_causes(&mut self, moment: &Moment) {
        let (from, to) = (moment.from.as_secs_f64(), moment.to.as_secs_f64());
        for (cause, count) in moment.errors.iter().filter(|(_, count)| **count > 0) {
            let first = Cause { count: 0, from, to };
            let known = self.done.causes.entry(cause.clone()).or_insert(first);
            known.count = known.count.saturating_add(*count);
            known.from = known.from.min(from);
            known.to = known.to.max(to);
        }
    }

    /// Returns the columns.
    pub fn finish(mut self) -> Columns {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.done.list.push(open.close());
        }
    }
}

impl Open {
    fn new(place: Option<f64>, first: &Moment) -> Open {
        Open {
            place,
            column: Column {
                tag: first.tag,
                from: first.from.as_secs_f64(),
                ..Column::default()
            },
            response: Latency::default(),
            cpu: (0.0, 0.0),
        }
    }

    fn add(&mut self, moment: &Moment) {
        let column = &mut self.column;
        let length = moment.length().as_secs_f64();
        let errors = moment.errors.values().copied().fold(0, u64::saturating_add);
        column.to = column.to.max(moment.to.as_secs_f64());
        column.length += length;
        column.up = moment.up;
        column.outstanding = column.outstanding.max(moment.outstanding);
        for (sum, count) in [
            (&mut column.due, moment.due),
            (&mut column.verified, moment.verified),
            (&mut column.lost, moment.lost),
            (&mut column.opened, moment.opened),
            (&mut column.errors, errors),
        ] {
            *sum = sum.saturating_add(count);
        }
        if let Some(resent) = moment.resent {
            column.resent = Some(column.resent.unwrap_or(0).saturating_add(resent));
        }
        column.resident_bytes = column.resident_bytes.max(moment.resident_bytes);
        column.blocked_p99 = column.blocked_p99.max(moment.blocked_p99);
        column.own_p99 = column.own_p99.max(moment.own_p99);
        if let Some(cpu) = moment.cpu.filter(|cpu| cpu.is_finite() && *cpu >= 0.0) {
            self.cpu = (self.cpu.0 + cpu * length, self.cpu.1 + length);
        }
        let lateness = moment.lateness.distribution();
        let lateness = lateness.map(|all| Point::of(&all, 99.0));
        let found = [column.lateness_p99, lateness].into_iter().flatten();
        column.lateness_p99 = found.max_by_key(|point| point.bound.value);
        self.response.merge(&moment.response);
    }

    fn close(self) -> Column {
        let (used, time) = self.cpu;
        Column {
            cpu: (time > 0.0).then(|| used / time),
            response: Times::of(&self.response),
            cells: cells(&self.response),
            ..self.column
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::results::recorder::Tag;
    use crate::report::page::columns::cell_of;

    fn interval(tag: Tag, from: u64, milliseconds: &[u64]) -> Moment {
        let mut moment = Moment {
            tag,
            from: Duration::from_secs(from),
            to: Duration::from_secs(from + 1),
            due: 2,
            verified: milliseconds.len() as u64,
            cpu: Some(0.5),
            ..Moment::default()
        };
        for time in milliseconds {
            moment.response.record(Duration::from_millis(*time));
        }
        moment
    }

    #[test]
    fn a_short_run_has_a_column_for_each_interval() {
        let series: Vec<Moment> = (0..60).map(|at| interval(Tag::Run, at, &[1])).collect();
        let columns = join(&series);
        assert_eq!((columns.list.len(), columns.joined), (60, None));
        assert_eq!(columns.describe(), "A column is an interval of 1 s.");
        assert_eq!(columns.span(), (0.0, 60.0));
        assert!(join(&[]).list.is_empty());
        assert_eq!(join(&[]).span(), (0.0, 0.0));
    }

    #[test]
    fn an_hour_is_joined_by_merging_histograms() {
        let tag = |at| if at < 30 { Tag::Warmup } else { Tag::Run };
        let (slow, fast) = ([900; 30], [1; 10]);
        let times = |at| match at {
            1800 => &slow[..],
            at if at % 12 == 5 => &fast[..],
            _ => &[],
        };
        let mut joiner = Joiner::new(3600, Duration::ZERO, Duration::from_secs(3600));
        (0..3600).for_each(|at| joiner.add(&interval(tag(at), at, times(at))));
        let columns = joiner.finish();
        assert_eq!(columns.joined, Some(12.0));
        assert_eq!(
            columns.list.len(),
            301,
            "two for the column in which the warm-up ends"
        );
        let due: u64 = columns.list.iter().map(|column| column.due).sum();
        assert_eq!(due, 7200);
        let slow = columns
            .list
            .iter()
            .find(|column| column.from == 1800.0)
            .unwrap();
        assert_eq!((slow.to, slow.length, slow.cpu), (1812.0, 12.0, Some(0.5)));
        assert_eq!(slow.response.count, 40);
        assert_eq!(slow.response.p50.unwrap().bound.value.as_millis(), 900);
        assert!(slow.response.p99.unwrap().is_faint, "40 samples");
        assert_eq!(slow.response.longest.unwrap().value.as_millis(), 900);
        assert_eq!(slow.cells[&cell_of(900_000_000)].count, 30);
    }

    #[test]
    fn a_remainder_is_joined_to_the_interval_before() {
        let remainder = Moment {
            to: Duration::from_millis(3001),
            lost: 5,
            ..interval(Tag::Drain, 3, &[])
        };
        let series = [
            interval(Tag::Run, 0, &[1]),
            interval(Tag::Run, 1, &[1]),
            interval(Tag::Drain, 2, &[]),
            remainder,
        ];
        let columns = join(&series);
        assert_eq!(columns.list.len(), 3);
        let last = columns.list.last().unwrap();
        assert_eq!((last.from, last.to, last.lost), (2.0, 3.001, 5));
        assert_eq!(columns.describe(), "A column is an interval of 1 s.");
    }

    proptest! {
        #[test]
        fn no_message_is_left_out(
            times in prop::collection::vec((0u64..100_000, 0u64..5000, 0u64..1_000_000), 0..700),
        ) {
            let series: Vec<Moment> = times
                .iter()
                .map(|(from, length, count)| Moment {
                    from: Duration::from_millis(*from),
                    to: Duration::from_millis(from + length),
                    due: *count,
                    ..Moment::default()
                })
                .collect();
            let columns = join(&series);
            let due: u64 = columns.list.iter().map(|column| column.due).sum();
            prop_assert_eq!(due, times.iter().map(|(.., count)| count).sum::<u64>());
            prop_assert!(columns.list.windows(2).all(|pair| pair[0].from <= pair[1].from));
        }
    }
}
