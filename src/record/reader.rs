//! Reads a recorded run: its description, its result, and its course over time.
//!
//! A run that ended without a summary, since its process was killed or its disk was full, is read
//! as far as its intervals go. Its result then has no evidence about the generator and the network,
//! and says so. A line that cannot be read costs nothing but itself: it is named, and the others
//! count.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::load::latency::Latency;
use crate::load::plan::Plan;
use crate::load::results::recorder::Tag;
use crate::load::results::summary::Summary;
use crate::load::results::targets::Target;
use crate::load::results::{Counts, ErrorKind, Results, RunTimes};
use crate::record::course::{Course, seconds};
use crate::record::hlog::Log;
use crate::record::interval::Read;
use crate::record::run_file::{RunFile, Unreadable, read_measured};
use crate::record::{LOGS, MEASURED, RUN};
use crate::sys::monotonic;
use crate::units::{counted, grouped};

/// A recorded run.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The directory.
    pub folder: PathBuf,
    /// What the run is.
    pub run: RunFile,
    /// Its result.
    pub summary: Summary,
    /// Its course over time.
    pub course: Course,
}

impl Recorded {
    /// Reads the record in a directory. Fails when it contains no description of a run that this
    /// version can read.
    pub fn read(folder: &Path) -> anyhow::Result<Recorded> {
        let path = folder.join(RUN);
        let cannot = |path: &Path| format!("cannot read {}", path.display());
        let run = RunFile::read(&path).with_context(|| cannot(&path))?;
        let course = Course::read(folder, run.plan.connections);
        let mut gaps: Vec<String> = Vec::new();
        let mut measured = None;
        if run.report.is_some() {
            let path = folder.join(MEASURED);
            match read_measured(&path) {
                Ok(summary) => measured = Some(summary),
                Err(error @ Unreadable::OtherFormat(_)) => {
                    return Err(error).with_context(|| cannot(&path));
                }
                Err(error) => gaps.push(format!("cannot read {MEASURED}: {error}")),
            }
        }
        let mut summary = match measured {
            Some(summary) => {
                gaps.extend(missing(&course, &summary));
                summary
            }
            None => {
                gaps.push(unfinished(&course));
                summary_so_far(&course, &run)
            }
        };
        let name = folder.display();
        gaps.extend(course.problems.iter().cloned());
        let named = gaps.into_iter().map(|gap| format!("{name}: {gap}"));
        summary.gaps.extend(named);
        Ok(Recorded {
            folder: folder.to_path_buf(),
            run,
            summary,
            course,
        })
    }
}

/// Returns the result as far as the intervals show it.
fn summary_so_far(course: &Course, run: &RunFile) -> Summary {
    let results = |counts: Counts, times: fn(&Log) -> &Latency| {
        let [response, service, lateness] = course.logs.each_ref().map(|log| times(log).clone());
        Results {
            counts,
            response,
            service,
            lateness,
            ..Results::default()
        }
    };
    let last = course.lines.last();
    let warmup = last.map_or(Counts::default(), |last| last.warmup.settled());
    let counts = last.map_or(Counts::default(), counts);
    // No message was due in the drain.
    let mut lines = course.lines.iter().rev();
    let sent = lines.find(|line| line.tag != Tag::Drain);
    let to = sent.map_or(Duration::ZERO, |line| seconds(line.to_s));
    let sending = to.saturating_sub(run.plan.warmup);
    let started = run.started.as_ref();
    let named = last.map_or(Vec::new(), errors);
    Summary {
        unfinished: true,
        targets: targets(last, &counts, &run.plan),
        results: Results {
            errors: named.into_iter().collect(),
            ..results(counts, |log| &log.run)
        },
        warmup: results(warmup, |log| &log.warmup),
        times: RunTimes {
            // Which lines never had a connection is not recorded: none is blamed for it.
            lines_up: run.plan.connections,
            sending,
            elapsed: sending,
            verified_in_time: counts.verified + warmup.verified,
            backlog: None,
            interrupted: false,
            start: started.map(|at| monotonic::instant((at.monotonic_s * 1e9) as i64)),
        },
        ..Summary::empty(&Arc::new(run.plan.clone()))
    }
}

/// Returns the errors whose kind the line names.
fn errors(last: &Read) -> Vec<(ErrorKind, u64)> {
    let errors = last.errors.iter();
    let named = errors.filter_map(|(name, count)| Some((ErrorKind::named(name)?, *count)));
    named.collect()
}

/// Returns the history of each target as far as the last line shows it.
fn targets(last: Option<&Read>, counts: &Counts, plan: &Plan) -> Vec<Target> {
    let is_only = plan.targets.len() == 1;
    let of_place = |place: usize| {
        let of_line = last.and_then(|last| last.targets.get(place));
        let mut target = Target::default();
        target.tally.counts = match of_line {
            _ if is_only => *counts,
            Some(part) => part.settled(),
            None => Counts::default(),
        };
        if is_only {
            (target.opened, target.failed) = (counts.opened, counts.failed);
        }
        target
    };
    (0..plan.targets.len()).map(of_place).collect()
}

/// Describes a run without a summary.
fn unfinished(course: &Course) -> String {
    let Some(last) = course.lines.last() else {
        return "the run ended without a summary, before its first interval".to_string();
    };
    let mut sentence = format!(
        "the run ended without a summary: the figures are those of its first {:.1} s, and {} \
         had no outcome then",
        last.to_s,
        counted(last.outstanding, "message")
    );
    for (cause, count) in &last.errors {
        sentence += &format!("; {cause}: {}", grouped(*count));
    }
    sentence
}

/// Returns which logs do not hold the messages of the result.
fn missing(course: &Course, summary: &Summary) -> Vec<String> {
    let Results {
        response,
        service,
        lateness,
        ..
    } = &summary.results;
    let pairs = LOGS
        .iter()
        .zip(&course.logs)
        .zip([response, service, lateness]);
    let differs = pairs.filter_map(|(((name, _), log), result)| {
        let sum = &log.run;
        let is_same = sum.has_same_samples(result);
        (!is_same).then(|| {
            format!(
                "{name} holds {} of the run, and the result {}",
                counted(sum.count(), "message"),
                grouped(result.count())
            )
        })
    });
    differs.collect()
}

/// Returns the counts of the run, without the messages of the warm-up. Those without an outcome
/// are among the scheduled ones.
fn counts(last: &Read) -> Counts {
    let (all, warmup) = (&last.outcomes, &last.warmup);
    let bytes = last.verified_bytes.saturating_sub(warmup.verified_bytes);
    Counts {
        opened: last.connections_opened,
        failed: last.connections_failed,
        scheduled: last.due.saturating_sub(warmup.scheduled),
        ..all.since(&warmup.outcomes).counts(bytes)
    }
}
