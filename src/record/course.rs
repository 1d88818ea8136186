//! The course of a recorded run over time: the files that grow during the run. Histograms are
//! decoded only when their interval is asked for, so that a run of an hour takes some tens of
//! megabytes of memory, and not gigabytes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::record::hlog::{self, Log, LoggedInterval};
use crate::record::interval::{Read, point};
use crate::record::series::Moment;
use crate::record::{INTERVALS, LOGS, whole_lines};

/// The course of a run.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// The logs in the order of [`LOGS`].
    pub logs: [Log; 3],
    /// The lines of the intervals.
    pub lines: Vec<Read>,
    /// What could not be read, one sentence each.
    pub problems: Vec<String>,
    /// Number of connections of the plan. So many may be opened before the start.
    pub connections: u64,
}

impl Course {
    /// Reads the course of a run with this number of connections. What cannot be read is left out
    /// and named.
    pub fn read(folder: &Path, connections: u32) -> Course {
        let mut problems = Vec::new();
        let mut text = |name: &str| {
            let read = fs::read(folder.join(name));
            let read = read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            read.unwrap_or_else(|error| {
                problems.push(format!("cannot read {name}: {error}"));
                String::new()
            })
        };
        let mut logs = LOGS.map(|(name, _)| hlog::parse(&text(name)));
        let intervals = text(INTERVALS);
        for ((name, _), log) in LOGS.iter().zip(&logs) {
            let of_log = log.problems.iter();
            problems.extend(of_log.map(|problem| format!("{name}, {problem}")));
        }
        let mut lines: Vec<Read> = Vec::new();
        for (number, line) in whole_lines(&intervals).enumerate() {
            match Read::parse(line) {
                Ok(read) => lines.push(read),
                Err(error) => {
                    problems.push(format!("{INTERVALS}, line {}: {error}", number + 1));
                    // Counts go on in the next line, and histograms stay in their places.
                    let before = lines.last().cloned().unwrap_or_default();
                    lines.push(Read {
                        from_s: before.to_s,
                        ..before
                    });
                }
            }
        }
        // Of an interval that was being written when the process ended, only what all files have
        // counts.
        logs.iter_mut().for_each(|log| log.truncate(lines.len()));
        Course {
            logs,
            lines,
            problems,
            connections: connections.into(),
        }
    }

    /// Returns the interval with this index, of those in [`lines`](Course::lines).
    pub fn moment(&self, place: usize) -> Option<Moment> {
        let line = self.lines.get(place)?;
        let before = place
            .checked_sub(1)
            .and_then(|before| self.lines.get(before));
        let times = |log: &Log| {
            let interval = log.intervals.get(place);
            interval.map(LoggedInterval::times).unwrap_or_default()
        };
        let [response, service, lateness] = [0, 1, 2].map(|log| times(&self.logs[log]));
        let counted = self.without_times(line, before);
        Some(Moment {
            response,
            service,
            lateness,
            ..counted
        })
    }

    /// Returns an interval without its histograms. Counts are the differences to the line before.
    fn without_times(&self, line: &Read, before: Option<&Read>) -> Moment {
        let more = |of: fn(&Read) -> u64| of(line).saturating_sub(before.map_or(0, of));
        // Those that were opened before the start are no reconnects.
        let first = if before.is_none() {
            self.connections
        } else {
            0
        };
        let opened = more(|line| line.connections_opened).saturating_sub(first);
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
            verified: more(|line| line.outcomes.verified),
            lost: more(|line| line.outcomes.lost()),
            outstanding: line.outstanding,
            opened,
            failed: more(|line| line.connections_failed),
            errors: errors.collect(),
            resent: resent.map(|(now, before)| now.saturating_sub(before)),
            cpu: cpu.map(|(now, before)| {
                (now - before) / to.saturating_sub(from).as_secs_f64().max(1e-9)
            }),
            resident_bytes: line.client.resident_bytes,
            blocked_p99: point(&line.blocked_us, "p99"),
            own_p99: point(&line.own_us, "p99"),
            ..Moment::default()
        }
    }
}

/// The longest time in a record, in seconds: 30 years. A file may contain any number, and sums of
/// times must not overflow.
const SECONDS_MOST: f64 = 1e9;

/// Returns a time of a record.
pub fn seconds(seconds: f64) -> Duration {
    let seconds = seconds.clamp(0.0, SECONDS_MOST);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
