//! Reads a recorded run: its description, its result, and its course over time.
//!
//! A run that ended without a summary, since its process was killed or its disk was full, is read
//! as far as its intervals go. Its result then has no evidence about the generator and the network,
//! and says so. A line that cannot be read costs nothing but itself: it is named, and the others
//! count.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::load::latency::Latency;
use crate::load::results::summary::Summary;
use crate::load::results::{Counts, Results, RunTimes};
use crate::record::hlog::{self, Log, LogInterval};
use crate::record::interval::{Outcomes, Read, point};
use crate::record::run_file::{RunFile, read_measured};
use crate::record::series::Moment;
use crate::record::{INTERVALS, LOGS, MEASURED, RUN};
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
    pub series: Vec<Moment>,
}

/// The files of a record that grow during the run.
struct Course {
    logs: [Log; 3],
    lines: Vec<Read>,
    problems: Vec<String>,
}

impl Recorded {
    /// Reads the record in a directory. Fails when it contains no description of a run that this
    /// version can read.
    pub fn read(folder: &Path) -> anyhow::Result<Recorded> {
        let path = folder.join(RUN);
        let run = RunFile::read(&path)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let course = Course::read(folder);
        let series = course.series();
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
        let mut summary = summary.unwrap_or_else(|| course.summary(&run));
        let name = folder.display();
        let mut gaps: Vec<String> = Vec::new();
        if !is_whole {
            gaps.push(course.unfinished());
        } else if summary.unrecorded.is_none() {
            gaps.extend(course.missing(&summary));
        }
        gaps.extend(course.problems.iter().cloned());
        let named = gaps.into_iter().map(|gap| format!("{name}: {gap}"));
        summary.gaps.extend(named);
        Ok(Recorded {
            folder: folder.to_path_buf(),
            run,
            summary,
            series,
        })
    }
}

impl Course {
    fn read(folder: &Path) -> Course {
        let mut problems = Vec::new();
        let mut text = |name: &str| {
            let read = fs::read(folder.join(name));
            let read = read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            read.unwrap_or_else(|error| {
                problems.push(format!("cannot read {name}: {error}"));
                String::new()
            })
        };
        let logs = LOGS.map(|(name, _)| hlog::parse(&text(name)));
        let intervals = text(INTERVALS);
        for ((name, _), log) in LOGS.iter().zip(&logs) {
            let of_log = log.problems.iter();
            problems.extend(of_log.map(|problem| format!("{name}, {problem}")));
        }
        let whole = intervals.rfind('\n').map_or("", |end| &intervals[..end]);
        let mut lines = Vec::new();
        for (number, line) in whole.lines().enumerate() {
            match Read::parse(line) {
                Ok(read) => lines.push(read),
                Err(error) => {
                    problems.push(format!("{INTERVALS}, line {}: {error}", number + 1));
                }
            }
        }
        Course {
            logs,
            lines,
            problems,
        }
    }

    /// Returns the intervals that all files have.
    fn series(&self) -> Vec<Moment> {
        let mut moments = Vec::new();
        let mut before: Option<&Read> = None;
        let empty = LogInterval::default();
        for (place, line) in self.lines.iter().enumerate() {
            let times = |log: &Log| {
                let interval = log.intervals.get(place).unwrap_or(&empty);
                let mut times = interval.warmup.clone();
                times.merge(&interval.run);
                times
            };
            let [response, service, lateness] = [0, 1, 2].map(|log| times(&self.logs[log]));
            moments.push(Moment {
                response,
                service,
                lateness,
                ..moment(line, before)
            });
            before = Some(line);
        }
        moments
    }

    /// Returns the result as far as the intervals show it.
    fn summary(&self, run: &RunFile) -> Summary {
        let times = |log: usize, of: fn(&LogInterval) -> &Latency| {
            let mut sum = Latency::default();
            let intervals = self.logs[log].intervals.iter();
            intervals.for_each(|interval| sum.merge(of(interval)));
            sum
        };
        let results = |counts: Counts, of: fn(&LogInterval) -> &Latency| Results {
            counts,
            response: times(0, of),
            service: times(1, of),
            lateness: times(2, of),
            ..Results::default()
        };
        let last = self.lines.last();
        let warmup = last.map_or(Counts::default(), |last| settled(&last.warmup));
        let counts = last.map_or(Counts::default(), |last| counts(last, &warmup));
        let to = last.map_or(Duration::ZERO, |last| seconds(last.to_s));
        let sending = to.saturating_sub(run.plan.warmup);
        let started = run.started.as_ref();
        Summary {
            results: results(counts, |interval| &interval.run),
            warmup: results(warmup, |interval| &interval.warmup),
            times: RunTimes {
                // Which lines never had a connection is not recorded: none is blamed for it.
                lines_up: run.plan.connections,
                sending,
                elapsed: sending,
                verified_in_time: counts.verified + warmup.verified,
                backlog: None,
                interrupted: true,
                start: started.map(|at| monotonic::instant((at.monotonic_s * 1e9) as i64)),
            },
            ..Summary::empty(&Arc::new(run.plan.clone()))
        }
    }

    /// Describes a run without a summary.
    fn unfinished(&self) -> String {
        let Some(last) = self.lines.last() else {
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
    fn missing(&self, summary: &Summary) -> Vec<String> {
        let Results {
            response,
            service,
            lateness,
            ..
        } = &summary.results;
        let pairs = LOGS
            .iter()
            .zip(&self.logs)
            .zip([response, service, lateness]);
        let differs = pairs.filter_map(|(((name, _), log), result)| {
            let mut sum = Latency::default();
            log.intervals
                .iter()
                .for_each(|interval| sum.merge(&interval.run));
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
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
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

/// Returns an interval without its histograms. Counts are the differences to the line before.
fn moment(line: &Read, before: Option<&Read>) -> Moment {
    let more = |of: fn(&Read) -> u64| of(line).saturating_sub(before.map_or(0, of));
    let (from, to) = (seconds(line.from_s), seconds(line.to_s));
    let errors = line.errors.iter().filter_map(|(cause, count)| {
        let earlier = before.and_then(|before| before.errors.get(cause));
        let count = count.saturating_sub(earlier.copied().unwrap_or(0));
        (count > 0).then(|| (cause.clone(), count))
    });
    let cpu = line
        .client
        .cpu_s
        .zip(before.and_then(|before| before.client.cpu_s));
    let resent = line.client.segments_resent;
    let resent = resent.zip(before.and_then(|before| before.client.segments_resent));
    Moment {
        tag: line.tag,
        from,
        to,
        up: line.connections,
        due: more(|line| line.due),
        verified: more(|line| line.verified),
        lost: more(Read::lost),
        outstanding: line.outstanding,
        opened: more(|line| line.connections_opened),
        failed: more(|line| line.connections_failed),
        errors: errors.collect(),
        resent: resent.map(|(now, before)| now.saturating_sub(before)),
        cpu: cpu.map(|(now, before)| (now - before) / (to - from).as_secs_f64().max(1e-9)),
        resident_bytes: line.client.resident_bytes,
        blocked_p99: point(&line.blocked_us, "p99"),
        own_p99: point(&line.own_us, "p99"),
        ..Moment::default()
    }
}
