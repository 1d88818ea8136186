//! Merges recorded runs that are parts of one: of several machines at the same time, or one after
//! the other. Pure.
//!
//! Histograms and counts are added, percentiles never. Parts whose times coincide ran side by side:
//! their rates and connections add up. Others followed each other: their lengths add up, and the
//! time between them is no part of the run.
//!
//! Whatever keeps the parts from forming one whole run is named, and decides the verdict: options
//! that differ, a part that is missing or given twice, a gap, an overlap, a late start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::load::plan::{Pace, Plan, Stop};
use crate::load::results::summary::Summary;
use crate::record::course::{Course, seconds};
use crate::record::description::{Description, OptionValue};
use crate::record::reader::Recorded;
use crate::record::series::Moment;
use crate::units::short;

/// Options that may differ between the parts of a run, since they do not change its load.
const FREE_OPTIONS: [&str; 10] = [
    "record",
    "note",
    "label",
    "source",
    "interval-log",
    "log-file",
    "format",
    "seed",
    "progress",
    "percentiles",
];

/// The difference of two times up to which they count as the same, in seconds: parts are started by
/// hand or by a script.
const SLACK: f64 = 1.0;

/// Several records as one run.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The result.
    pub summary: Summary,
    /// The course over time, from the start of the first part.
    pub series: Series,
    /// The descriptions of the parts, in the order of their start.
    pub runs: Vec<Description>,
}

/// The courses of the parts as one.
#[derive(Clone, Debug)]
pub struct Series {
    /// The course of each part, and how long after the first one it started.
    parts: Vec<(Course, Duration)>,
    is_parallel: bool,
}

/// The times of a part in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: f64,
    to: f64,
}

/// Merges the parts of a run; `None` when there are none.
pub fn merge(mut parts: Vec<Recorded>) -> Option<Merged> {
    parts.sort_by(|one, other| span(one).from.total_cmp(&span(other).from));
    let gaps = [differences(&parts), numbers(&parts), times(&parts)].concat();
    let is_parallel = coincide(&parts);
    let runs = parts.iter().map(|part| part.run.description.clone());
    let runs = runs.collect();
    let origin = span(parts.first()?).from;
    let mut parts = parts.into_iter();
    let first = parts.next()?;
    let mut summary = first.summary;
    let mut courses = vec![(first.course, Duration::ZERO)];
    for part in parts {
        let later = Duration::try_from_secs_f64(span(&part).from - origin).unwrap_or_default();
        let (ours, theirs) = (summary.times.start, part.summary.times.start);
        let mut other = part.summary;
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            // The clocks of two machines have nothing in common but the time of day.
            other.shift(|at| match at.checked_duration_since(theirs) {
                Some(since) => ours + later + since,
                None => (ours + later).checked_sub(theirs - at).unwrap_or(ours),
            });
        }
        let plan = together(&summary.plan, &other.plan, is_parallel);
        match is_parallel {
            true => summary.merge(&other),
            false => summary.append(&other),
        }
        summary.plan = Arc::new(plan);
        courses.push((part.course, later));
    }
    summary.gaps.splice(0..0, gaps);
    Some(Merged {
        summary,
        series: Series {
            parts: courses,
            is_parallel,
        },
        runs,
    })
}

impl Series {
    /// Returns the number of intervals.
    pub fn count(&self) -> usize {
        let counts = self.parts.iter().map(|(course, _)| course.lines.len());
        match self.is_parallel {
            true => counts.max().unwrap_or(0),
            false => counts.sum(),
        }
    }

    /// Returns the beginning of the first interval and the end of the last.
    pub fn span(&self) -> (Duration, Duration) {
        let lines = self.parts.iter().flat_map(|(course, later)| {
            let lines = course.lines.iter();
            lines.map(|line| (*later + seconds(line.from_s), *later + seconds(line.to_s)))
        });
        let from = lines.clone().map(|(from, _)| from).min();
        let to = lines.map(|(_, to)| to).max();
        (from.unwrap_or_default(), to.unwrap_or_default())
    }

    /// Returns the intervals one after the other. Of parts side by side, the intervals with the
    /// same index are added.
    pub fn moments(&self) -> impl Iterator<Item = Moment> {
        (0..self.count()).filter_map(|place| match self.is_parallel {
            true => self.beside(place),
            false => self.following(place),
        })
    }

    fn beside(&self, place: usize) -> Option<Moment> {
        let parts = self.parts.iter();
        let moments = parts.filter_map(|(course, later)| moved(course.moment(place)?, *later));
        moments.reduce(|mut sum, moment| {
            sum.merge(&moment);
            sum
        })
    }

    fn following(&self, mut place: usize) -> Option<Moment> {
        for (course, later) in &self.parts {
            match place.checked_sub(course.lines.len()) {
                None => return moved(course.moment(place)?, *later),
                Some(rest) => place = rest,
            }
        }
        None
    }
}

fn moved(moment: Moment, later: Duration) -> Option<Moment> {
    Some(Moment {
        from: moment.from + later,
        to: moment.to + later,
        ..moment
    })
}

fn span(part: &Recorded) -> Span {
    let begun = part.run.started.as_ref();
    let from = begun.map_or(part.run.description.begun.unix_s, |begun| begun.unix_s);
    let length = part.summary.plan.warmup + part.summary.times.sending;
    Span {
        from,
        to: from + length.as_secs_f64(),
    }
}

/// Returns whether the parts ran side by side: each shares more than half of its time with the
/// first.
fn coincide(parts: &[Recorded]) -> bool {
    let Some(first) = parts.first().map(span) else {
        return false;
    };
    parts.iter().map(span).all(|span| {
        let shared = first.to.min(span.to) - first.from.max(span.from);
        let shorter = (first.to - first.from).min(span.to - span.from);
        shared * 2.0 > shorter
    })
}

/// Names gaps, overlaps and late starts.
fn times(parts: &[Recorded]) -> Vec<String> {
    let is_parallel = coincide(parts);
    let pairs = parts.iter().zip(parts.iter().skip(1));
    let named = pairs.filter_map(|(one, other)| {
        let (before, after) = (span(one), span(other));
        let (one, other) = (one.folder.display(), other.folder.display());
        let apart = match is_parallel {
            true => after.from - before.from,
            false => after.from - before.to,
        };
        let time = Duration::try_from_secs_f64(apart.abs()).unwrap_or_default();
        match is_parallel {
            true if apart > SLACK => Some(format!("{other} started {} after {one}", short(time))),
            false if apart > SLACK => Some(format!(
                "nothing was recorded for {} between {one} and {other}",
                short(time)
            )),
            false if apart < -SLACK => {
                Some(format!("{one} and {other} overlap by {}", short(time)))
            }
            _ => None,
        }
    });
    named.collect()
}

/// Names the options in which a part differs from the first.
fn differences(parts: &[Recorded]) -> Vec<String> {
    let Some((first, others)) = parts.split_first() else {
        return Vec::new();
    };
    let mut sentences = Vec::new();
    for other in others {
        let (ours, theirs) = (
            &first.run.description.options,
            &other.run.description.options,
        );
        let names = ours
            .keys()
            .chain(theirs.keys().filter(|name| !ours.contains_key(*name)));
        for name in names.filter(|name| !FREE_OPTIONS.contains(&name.as_str())) {
            let value = |of: &BTreeMap<String, OptionValue>| {
                let value = of.get(name).cloned();
                value.unwrap_or(OptionValue::Absent)
            };
            let (ours, theirs) = (value(ours), value(theirs));
            if ours != theirs {
                sentences.push(format!(
                    "the plans differ: {name} is {ours} in {}, and {theirs} in {}",
                    first.folder.display(),
                    other.folder.display()
                ));
            }
        }
        let (ours, theirs) = (
            &first.run.description.version,
            &other.run.description.version,
        );
        if ours != theirs {
            sentences.push(format!(
                "upcase {ours} recorded {}, and upcase {theirs} {}",
                first.folder.display(),
                other.folder.display()
            ));
        }
    }
    sentences
}

/// Names parts that are missing, and parts that are given twice.
fn numbers(parts: &[Recorded]) -> Vec<String> {
    let of = parts.iter().map(|part| part.run.part.of).max().unwrap_or(1);
    if of <= 1 {
        return Vec::new();
    }
    let count = |index| {
        let same = parts.iter().filter(|part| part.run.part.index == index);
        same.count()
    };
    let indices = |wanted: fn(usize) -> bool| {
        let found = (0..of).filter(|index| wanted(count(*index)));
        let found: Vec<String> = found.map(|index| index.to_string()).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let mut sentences = Vec::new();
    if let Some(missing) = indices(|count| count == 0) {
        sentences.push(format!(
            "of {of} parts these are missing: {missing} (counted from 0)"
        ));
    }
    if let Some(twice) = indices(|count| count > 1) {
        sentences.push(format!(
            "of {of} parts these are given more than once: {twice}"
        ));
    }
    if parts.iter().any(|part| part.run.part.of != of) {
        sentences.push("the parts belong to runs with different numbers of parts".to_string());
    }
    sentences
}

/// Returns the plan of two parts together.
fn together(one: &Plan, other: &Plan, is_parallel: bool) -> Plan {
    let mut plan = one.clone();
    plan.stop = match (one.stop, other.stop) {
        (Stop::Messages(one), Stop::Messages(other)) => Stop::Messages(one + other),
        (Stop::After(one), Stop::After(other)) if !is_parallel => Stop::After(one + other),
        (stop, _) => stop,
    };
    if !is_parallel {
        return plan;
    }
    plan.connections += other.connections;
    plan.threads += other.threads;
    plan.sources.extend_from_slice(&other.sources);
    if let (Pace::Open { rate, .. }, Pace::Open { rate: more, .. }) = (&mut plan.pace, other.pace) {
        *rate = rate.plus(more);
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::load::latency::Latency;
    use crate::load::latency::encoded::encode;
    use crate::load::plan::schedule::Part;
    use crate::record::description::{Begun, Host};
    use crate::record::interval::Read;
    use crate::record::run_file::RunFile;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun(unix_s: f64) -> Begun {
        Begun {
            utc: String::new(),
            unix_s,
            monotonic_s: unix_s / 3.0,
        }
    }

    /// Returns part `index` of `of`, which was sending from `from` to `to`.
    fn part(index: u32, of: u32, from: f64, to: f64) -> Recorded {
        let description = Description {
            version: "0.1.0".to_string(),
            build: String::new(),
            command: String::new(),
            options: BTreeMap::new(),
            begun: begun(from),
            host: Host {
                name: String::new(),
                kernel: String::new(),
                cpu: None,
                cpus: 1,
            },
            sysctls: BTreeMap::new(),
            note: None,
            labels: BTreeMap::new(),
        };
        let plan = Plan::new(([127, 0, 0, 1], 1).into(), Stop::After(SECOND));
        let mut run = RunFile::new(description, &plan);
        run.part = Part { index, of };
        run.started = Some(begun(from));
        let mut summary = Summary::empty(&plan.into());
        summary.times.sending = Duration::from_secs_f64(to - from);
        Recorded {
            folder: PathBuf::from(format!("part{index}")),
            run,
            summary,
            course: Course {
                lines: vec![Read {
                    to_s: 1.0,
                    due: 1,
                    ..Read::default()
                }],
                ..Course::default()
            },
        }
    }

    fn gaps(parts: Vec<Recorded>) -> Vec<String> {
        merge(parts).unwrap().summary.gaps
    }

    proptest! {
        #[test]
        fn eight_parts_are_the_histogram_of_their_union(
            parts in prop::collection::vec(
                prop::collection::vec((0u64..1 << 40, any::<bool>()), 0..50), 8),
            is_parallel: bool,
        ) {
            let mut union = Latency::default();
            let mut recorded = Vec::new();
            for (index, samples) in parts.iter().enumerate() {
                let from = if is_parallel { 0.0 } else { index as f64 * 10.0 };
                let mut part = part(index as u32, 8, from, from + 10.0);
                for (nanoseconds, is_known) in samples {
                    let duration = Duration::from_nanos(*nanoseconds);
                    for latency in [&mut union, &mut part.summary.results.response] {
                        match is_known {
                            true => latency.record(duration),
                            false => latency.record_at_least(duration),
                        }
                    }
                }
                recorded.push(part);
            }
            let merged = merge(recorded).unwrap();
            let response = &merged.summary.results.response;
            prop_assert_eq!(encode(response.known()), encode(union.known()));
            prop_assert_eq!(response.censored().map(encode), union.censored().map(encode));
            prop_assert!(merged.summary.gaps.is_empty(), "{:?}", merged.summary.gaps);
        }
    }

    #[test]
    fn parts_that_are_missing_or_given_twice_are_named() {
        let parts = [0, 1, 3, 3].map(|index| part(index, 5, 0.0, 10.0));
        assert_eq!(
            gaps(parts.to_vec()),
            [
                "of 5 parts these are missing: 2, 4 (counted from 0)",
                "of 5 parts these are given more than once: 3"
            ]
        );
    }

    #[test]
    fn gaps_overlaps_and_late_starts_are_named() {
        let pair = |from, to| vec![part(1, 1, from, to), part(0, 1, 0.0, 10.0)];
        let none: [&str; 0] = [];
        assert_eq!(gaps(pair(10.5, 20.0)), none);
        let gap = "nothing was recorded for 5.00 s between part0 and part1";
        assert_eq!(gaps(pair(15.0, 25.0)), [gap]);
        assert_eq!(gaps(pair(7.0, 17.0)), ["part0 and part1 overlap by 3.00 s"]);
        assert_eq!(gaps(pair(0.5, 10.5)), none);
        assert_eq!(gaps(pair(2.0, 12.0)), ["part1 started 2.00 s after part0"]);
    }

    #[test]
    fn options_that_differ_are_named_unless_they_do_not_matter() {
        let with = |option: &str, value: &str| {
            let mut part = part(1, 1, 0.0, 10.0);
            let value = OptionValue::One(value.to_string());
            part.run
                .description
                .options
                .insert(option.to_string(), value);
            part
        };
        let first = part(0, 1, 0.0, 10.0);
        let none: [&str; 0] = [];
        assert_eq!(gaps(vec![first.clone(), with("note", "x")]), none);
        let differs = "the plans differ: rate is not given in part0, and 5 in part1";
        assert_eq!(gaps(vec![first, with("rate", "5")]), [differs]);
    }

    #[test]
    fn parts_side_by_side_add_up_and_others_follow_each_other() {
        let merged = |from| merge(vec![part(0, 1, 0.0, 10.0), part(1, 1, from, from + 10.0)]);
        let beside = merged(0.0).unwrap();
        assert_eq!(beside.summary.plan.connections, 2);
        assert_eq!(beside.summary.times.sending, 10 * SECOND);
        let moments: Vec<Moment> = beside.series.moments().collect();
        assert_eq!(moments.len(), 1);
        assert_eq!(moments[0].due, 2);
        let after = merged(10.0).unwrap();
        assert_eq!(after.summary.plan.connections, 1);
        assert_eq!(after.summary.times.sending, 20 * SECOND);
        let moments: Vec<Moment> = after.series.moments().collect();
        assert_eq!(moments.len(), 2);
        assert_eq!(moments[1].from, 10 * SECOND);
        assert_eq!(after.series.span(), (Duration::ZERO, 11 * SECOND));
    }
}
