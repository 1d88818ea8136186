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
pub const FREE_OPTIONS: [&str; 16] = [
    "allow",
    "assert",
    "format",
    "interval-log",
    "label",
    "log-file",
    "note",
    "percentiles",
    "progress",
    "quiet",
    "record",
    "seed",
    "server-metrics",
    "source",
    "targets",
    "verbose",
];

/// Maximum number of parts that are listed in one sentence.
const LISTED_MOST: usize = 10;

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
    parts: Vec<Part>,
    /// The length of an interval, for several parts side by side; `None`: their intervals follow
    /// each other as they were recorded.
    step: Option<Duration>,
}

/// The course of one part.
#[derive(Clone, Debug)]
struct Part {
    course: Course,
    /// The time by which it started after the first part.
    later: Duration,
    /// Whether an earlier part was carried out by the same host, whose figures count once.
    shares_host: bool,
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
    let gaps = [
        differences(&parts),
        targets(&parts),
        numbers(&parts),
        times(&parts),
    ];
    let is_parallel = coincide(&parts);
    let runs = parts.iter().map(|part| part.run.description.clone());
    let runs = runs.collect();
    let origin = span(parts.first()?).from;
    let mut parts = parts.into_iter();
    let first = parts.next()?;
    let mut hosts = vec![first.run.description.host.name.clone()];
    let mut summary = first.summary;
    let step = summary.plan.interval;
    let mut courses = vec![Part {
        course: first.course,
        later: Duration::ZERO,
        shares_host: false,
    }];
    for part in parts {
        let later = seconds(span(&part).from - origin);
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
        let (ours, theirs) = (summary.stages.len(), other.stages.len());
        let do_fit = plan.profile.is_some() && ours > 0 && theirs > 0;
        if ours + theirs > 0 && !do_fit {
            summary.stages.clear();
            other.stages.clear();
            summary.gaps.push(format!(
                "the stages of {} and of the parts before it do not fit together, so no stage is \
                 shown",
                part.folder.display()
            ));
        }
        match is_parallel {
            true => summary.merge_part(&other),
            false => summary.append(&other),
        }
        summary.plan = Arc::new(plan);
        let host = part.run.description.host.name;
        courses.push(Part {
            course: part.course,
            later,
            shares_host: hosts.contains(&host),
        });
        hosts.push(host);
    }
    summary.gaps.splice(0..0, gaps.concat());
    Some(Merged {
        summary,
        series: Series {
            parts: courses,
            step: (is_parallel && hosts.len() > 1).then_some(step),
        },
        runs,
    })
}

impl Series {
    /// Returns the number of intervals.
    pub fn count(&self) -> usize {
        match self.step {
            Some(step) => self.cells(step).len(),
            None => self.parts.iter().map(|part| part.course.lines.len()).sum(),
        }
    }

    /// Returns the beginning of the first interval and the end of the last.
    pub fn span(&self) -> (Duration, Duration) {
        let times = self.parts.iter().flat_map(|part| {
            let lines = part.course.lines.iter();
            lines.map(|line| {
                (
                    part.later + seconds(line.from_s),
                    part.later + seconds(line.to_s),
                )
            })
        });
        let from = times.clone().map(|(from, _)| from).min();
        let to = times.map(|(_, to)| to).max();
        (from.unwrap_or_default(), to.unwrap_or_default())
    }

    /// Returns the intervals one after the other. Those of parts side by side are added in steps of
    /// an interval, each where its middle is.
    pub fn moments(&self) -> Box<dyn Iterator<Item = Moment> + '_> {
        let Some(step) = self.step else {
            let each = self.parts.iter().flat_map(|part| {
                let places = 0..part.course.lines.len();
                places.filter_map(|place| part.moment(place))
            });
            return Box::new(each);
        };
        let cells = self.cells(step);
        Box::new(cells.into_iter().filter_map(move |(cell, places)| {
            let moment = self.added(&places)?;
            let from = step.saturating_mul(cell);
            Some(Moment {
                from,
                to: from + step,
                ..moment
            })
        }))
    }

    /// Returns for each step that has intervals their places: of which part, and which interval.
    fn cells(&self, step: Duration) -> BTreeMap<u32, Vec<(usize, usize)>> {
        let mut cells: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, part) in self.parts.iter().enumerate() {
            for (place, line) in part.course.lines.iter().enumerate() {
                let middle = part.later + seconds(f64::midpoint(line.from_s, line.to_s));
                let cell = middle.as_nanos() / step.as_nanos().max(1);
                let cell = u32::try_from(cell).unwrap_or(u32::MAX);
                cells.entry(cell).or_default().push((number, place));
            }
        }
        cells
    }

    /// Returns the sum of intervals: those of one part follow each other, and the parts are beside
    /// each other.
    fn added(&self, places: &[(usize, usize)]) -> Option<Moment> {
        let mut sum: Option<Moment> = None;
        for of_part in places.chunk_by(|one, other| one.0 == other.0) {
            let mut joined: Option<Moment> = None;
            for (number, place) in of_part {
                let moment = self.parts.get(*number)?.moment(*place)?;
                match &mut joined {
                    Some(joined) => joined.append(&moment),
                    None => joined = Some(moment),
                }
            }
            match (&mut sum, joined) {
                (_, None) => {}
                (Some(sum), Some(joined)) => sum.merge(&joined),
                (None, joined) => sum = joined,
            }
        }
        sum
    }
}

impl Part {
    fn moment(&self, place: usize) -> Option<Moment> {
        let moment = self.course.moment(place)?;
        Some(Moment {
            from: moment.from + self.later,
            to: moment.to + self.later,
            resent: match self.shares_host {
                true => moment.resent.map(|_| 0),
                false => moment.resent,
            },
            ..moment
        })
    }
}

fn span(part: &Recorded) -> Span {
    let begun = part.run.started.as_ref();
    let from = begun.map_or(part.run.description.begun.unix_s, |begun| begun.unix_s);
    let from = from.clamp(0.0, LATEST);
    let last = part.course.lines.last();
    let length = match part.summary.unfinished {
        true => last.map_or(Duration::ZERO, |last| seconds(last.to_s)),
        false => {
            let sending = part.summary.times.sending;
            part.summary.plan.warmup.saturating_add(sending)
        }
    };
    Span {
        from,
        to: from + length.as_secs_f64(),
    }
}

/// The latest time of a part, in seconds since 1970: in the year 5138.
const LATEST: f64 = 1e11;

/// Returns whether the parts ran side by side: each shares more than half of its time with the
/// first that has any.
fn coincide(parts: &[Recorded]) -> bool {
    let spans = || parts.iter().map(span).filter(|span| span.to > span.from);
    let Some(first) = spans().next() else {
        return true;
    };
    spans().all(|span| {
        let shared = first.to.min(span.to) - first.from.max(span.from);
        let shorter = (first.to - first.from).min(span.to - span.from);
        shared * 2.0 > shorter
    })
}

/// Names gaps, overlaps and late starts.
fn times(parts: &[Recorded]) -> Vec<String> {
    let Some((first, others)) = parts.split_first() else {
        return Vec::new();
    };
    let is_parallel = coincide(parts);
    let mut sentences = Vec::new();
    // The part that ends last so far.
    let mut before = first;
    for part in others {
        let (one, other) = (before.folder.display(), part.folder.display());
        let apart = match is_parallel {
            true => span(part).from - span(first).from,
            false => span(part).from - span(before).to,
        };
        let time = short(seconds(apart.abs()));
        match is_parallel {
            true if apart > SLACK => {
                let first = first.folder.display();
                sentences.push(format!("{other} started {time} after {first}"));
            }
            false if apart > SLACK => {
                let between = format!("between {one} and {other}");
                sentences.push(format!("nothing was recorded for {time} {between}"));
            }
            false if apart < -SLACK => {
                sentences.push(format!("{one} and {other} overlap by {time}"));
            }
            _ => {}
        }
        if span(part).to > span(before).to {
            before = part;
        }
    }
    sentences
}

/// Names targets that differ. A built-in server is another one in each part.
fn targets(parts: &[Recorded]) -> Vec<String> {
    let Some((first, others)) = parts.split_first() else {
        return Vec::new();
    };
    let differs = |part: &&Recorded| {
        let is_built_in = |part: &Recorded| part.summary.own_server.is_some();
        let is_other = part.summary.plan.targets != first.summary.plan.targets;
        is_other && !(is_built_in(first) && is_built_in(part))
    };
    let shown = |part: &Recorded| {
        let targets = part.summary.plan.targets.iter();
        targets
            .map(ToString::to_string)
            .collect::<Vec<String>>()
            .join(", ")
    };
    let others = others.iter().filter(differs);
    let named = others.map(|part| {
        format!(
            "the targets differ: {} in {}, and {} in {}",
            shown(first),
            first.folder.display(),
            shown(part),
            part.folder.display()
        )
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
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for part in parts {
        *counts.entry(part.run.part.index).or_default() += 1;
    }
    let listed = |indices: &mut dyn Iterator<Item = u32>| {
        let mut some: Vec<String> = Vec::new();
        for index in indices {
            if some.len() == LISTED_MOST {
                some.push("and more".to_string());
                break;
            }
            some.push(index.to_string());
        }
        (!some.is_empty()).then(|| some.join(", "))
    };
    let missing = listed(&mut (0..of).filter(|index| !counts.contains_key(index)));
    let repeated = counts.iter().filter(|(_, count)| **count > 1);
    let twice = listed(&mut repeated.map(|(index, _)| *index));
    let mut sentences = Vec::new();
    if let Some(missing) = missing {
        sentences.push(format!(
            "of {of} parts these are missing: {missing} (counted from 0)"
        ));
    }
    if let Some(twice) = twice {
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
        (Stop::Messages(one), Stop::Messages(other)) => Stop::Messages(one.saturating_add(other)),
        (Stop::After(one), Stop::After(other)) if !is_parallel => {
            Stop::After(one.saturating_add(other))
        }
        (stop, _) => stop,
    };
    if !is_parallel {
        let profiles = one.profile.as_ref().zip(other.profile.as_ref());
        plan.profile = profiles.map(|(ours, theirs)| ours.followed_by(theirs));
        return plan;
    }
    plan.connections = plan.connections.saturating_add(other.connections);
    plan.threads = plan.threads.saturating_add(other.threads);
    plan.sources.extend_from_slice(&other.sources);
    if let (Pace::Open { rate, .. }, Pace::Open { rate: more, .. }) = (&mut plan.pace, other.pace) {
        *rate = rate.plus(more);
    }
    let profiles = one.profile.as_ref().zip(other.profile.as_ref());
    plan.profile = profiles.and_then(|(ours, theirs)| ours.plus(theirs));
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
        // Each is late for the first, though not for the one before.
        let chain = (0..4).map(|index| part(index, 1, 0.9 * f64::from(index), 10.0));
        assert_eq!(gaps(chain.collect()).len(), 2);
        // What an earlier part covers is no gap.
        let within = vec![
            part(0, 1, 0.0, 100.0),
            part(1, 1, 10.0, 20.0),
            part(2, 1, 101.0, 300.0),
        ];
        assert_eq!(gaps(within), ["part0 and part1 overlap by 90.0 s"]);
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
    fn a_part_without_a_message_spoils_nothing() {
        let mut killed = part(1, 1, 0.2, 0.2);
        killed.run.started = None;
        killed.summary.times.start = None;
        killed.summary.unfinished = true;
        killed.course.lines.clear();
        let mut whole = part(0, 1, 0.0, 10.0);
        whole.summary.times.start = Some(std::time::Instant::now());
        for parts in [vec![whole.clone(), killed.clone()], vec![killed, whole]] {
            let merged = merge(parts).unwrap().summary;
            assert_eq!(merged.times.sending, 10 * SECOND);
            assert_eq!(merged.plan.connections, 2);
            assert!(merged.times.start.is_some() && merged.unfinished);
        }
    }

    #[test]
    fn the_intervals_of_one_record_stay_as_they_are() {
        let mut only = part(0, 1, 0.0, 10.0);
        let line = |from_s, to_s| Read {
            from_s,
            to_s,
            ..Read::default()
        };
        only.course.lines = vec![line(0.0, 0.25), line(0.25, 1.0), line(1.0, 1.001)];
        let series = merge(vec![only]).unwrap().series;
        let times = series.moments().map(|moment| (moment.from, moment.to));
        let times: Vec<(u128, u128)> = times
            .map(|(from, to)| (from.as_millis(), to.as_millis()))
            .collect();
        assert_eq!(times, [(0, 250), (250, 1000), (1000, 1001)]);
        assert_eq!(series.count(), 3);
    }

    #[test]
    fn intervals_of_parts_that_start_apart_have_their_length() {
        let with_lines = |index, from: f64| {
            let mut part = part(index, 1, from, from + 3.0);
            let line = |second: u64| Read {
                from_s: second as f64,
                to_s: second as f64 + 1.0,
                due: 1000 * (second + 1),
                ..Read::default()
            };
            part.course.lines = (0..3).map(line).collect();
            part
        };
        for offset in [0.0, 0.3, 0.9] {
            let merged = merge(vec![with_lines(0, 0.0), with_lines(1, offset)]).unwrap();
            let moments: Vec<Moment> = merged.series.moments().collect();
            assert_eq!(moments.len(), merged.series.count());
            assert!(moments.iter().all(|moment| moment.length() == SECOND));
            assert_eq!(moments.iter().map(|moment| moment.due).sum::<u64>(), 6000);
            assert!(moments.iter().all(|moment| moment.due <= 2000), "{offset}");
            let pairs = moments.windows(2);
            assert!(pairs.clone().all(|pair| pair[0].to <= pair[1].from));
        }
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
