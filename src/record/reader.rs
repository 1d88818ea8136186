//! Reads a recorded run: its description, its result, and its course over time.
//!
//! A run that ended without a summary, since its process was killed or its disk was full, is read
//! as far as its intervals go. Its result then has no evidence about the generator and the network,
//! and says so. A line that cannot be read costs nothing but itself: it is named, and the others
//! count.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::load::latency::Latency;
use crate::load::results::summary::Summary;
use crate::load::results::{Counts, Results, RunTimes};
use crate::record::course::{Course, seconds};
use crate::record::hlog::Log;
use crate::record::interval::{Outcomes, Read};
use crate::record::run_file::{RunFile, read_measured};
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
        let run = RunFile::read(&path)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let course = Course::read(folder, run.plan.connections);
        let summary = match run.report {
            None => None,
            Some(_) => {
                let path = folder.join(MEASURED);
                let measured = read_measured(&path)
                    .map_err(|error| anyhow!("{error}"))
                    .with_context(|| format!("cannot read {}", path.display()));
                Some(measured?)
            }
        };
        let is_whole = summary.is_some();
        let mut summary = summary.unwrap_or_else(|| summary_so_far(&course, &run));
        let name = folder.display();
        let mut gaps: Vec<String> = Vec::new();
        if !is_whole {
            gaps.push(unfinished(&course));
        } else if summary.unrecorded.is_none() {
            gaps.extend(missing(&course, &summary));
        }
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
    let warmup = last.map_or(Counts::default(), |last| settled(&last.warmup));
    let counts = last.map_or(Counts::default(), |last| counts(last, &warmup));
    let to = last.map_or(Duration::ZERO, |last| seconds(last.to_s));
    let sending = to.saturating_sub(run.plan.warmup);
    let started = run.started.as_ref();
    Summary {
        results: results(counts, |log| &log.run),
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
        sentence += &format!("; {cause}: {}", counted(*count, "connection"));
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
        let is_same = sum.known() == result.known() && sum.censored() == result.censored();
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

/// Returns the counts of messages of which all have an outcome.
fn settled(outcomes: &Outcomes) -> Counts {
    let Outcomes {
        scheduled: _,
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        verified_bytes,
    } = *outcomes;
    let counts = Counts {
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        verified_bytes,
        ..Counts::default()
    };
    Counts {
        scheduled: counts.settled(),
        ..counts
    }
}

/// Returns the counts of the run, without the messages of the warm-up and those without an outcome.
fn counts(last: &Read, warmup: &Counts) -> Counts {
    let all = settled(&Outcomes {
        scheduled: 0,
        verified: last.verified.saturating_sub(warmup.verified),
        mismatched: last.mismatched.saturating_sub(warmup.mismatched),
        errored: last.errored.saturating_sub(warmup.errored),
        timed_out: last.timed_out.saturating_sub(warmup.timed_out),
        unanswered: last.unanswered.saturating_sub(warmup.unanswered),
        verified_bytes: last.verified_bytes.saturating_sub(warmup.verified_bytes),
    });
    Counts {
        opened: last.connections_opened,
        failed: last.connections_failed,
        ..all
    }
}
