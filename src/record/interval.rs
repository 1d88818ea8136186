//! One interval of a run as a line of JSON: of the interval log, and of a record. Pure.
//!
//! Counts are those since the start of the run, so that a reader that misses a line loses no count.
//! Percentiles are those of the interval alone. Names and units are stable: within a `schema`,
//! fields are added but never changed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::latency::percentile::{Percentile, with_standard};
use crate::load::results::Counts;
use crate::load::results::recorder::{Interval, Tag, Times};
use crate::report::outcomes::{Outcomes, errors};
use crate::report::percentiles::{Percentiles, percentiles};

/// The format of the lines.
const SCHEMA: &str = "upcase.interval/1";

/// The figures of an interval that do not come from the engine.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The client's process and host at the end of the interval.
    pub client: Client,
    /// The metrics of the server: the last that were fetched; `None` when they are not fetched.
    pub server: Option<BTreeMap<String, f64>>,
}

/// The client's process and host; `None` for a figure that the kernel does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// CPU time of the process since its start, in seconds.
    pub cpu_s: Option<f64>,
    /// Memory of the process in RAM.
    pub resident_bytes: Option<u64>,
    /// Open descriptors of the process.
    pub descriptors: Option<u64>,
    /// Segments that TCP retransmitted on the host since its start, for all programs.
    pub segments_resent: Option<u64>,
}

/// A line as it is written.
#[derive(Serialize)]
struct Line {
    schema: &'static str,
    tag: &'static str,
    from_s: f64,
    to_s: f64,
    /// The stage of the profile in which the interval begins, counted from 1; `null` without a
    /// profile and in the drain.
    stage: Option<usize>,
    connections: u32,
    /// Since the start, as are the fields up to `outstanding`; due = the sum of the others.
    due: u64,
    #[serde(flatten)]
    outcomes: Outcomes,
    outstanding: u64,
    /// The part of these messages that was due in the warm-up.
    warmup: Part,
    /// Since the start, as are the fields up to `targets`.
    verified_bytes: u64,
    connections_opened: u64,
    connections_failed: u64,
    errors: BTreeMap<String, u64>,
    targets: Vec<Part>,
    client: Client,
    /// `null`: no metrics of the server are fetched.
    server: Option<BTreeMap<String, f64>>,
    /// Times of this interval alone, as are those below.
    response_us: Percentiles,
    /// `null`, as are those below, in an interval log of a run that is not recorded.
    service_us: Option<Percentiles>,
    lateness_us: Option<Percentiles>,
    blocked_us: Option<Percentiles>,
    own_us: Option<Percentiles>,
}

/// A part of the messages: those of the warm-up, or those of one of several targets since the
/// warm-up.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Messages that were due.
    pub scheduled: u64,
    /// The outcomes of these messages.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Bytes of verified messages.
    pub verified_bytes: u64,
}

/// A line as it is read: the fields that a report needs.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Read {
    /// The format, `upcase.interval/1`.
    pub schema: String,
    /// The part of the run.
    pub tag: Tag,
    /// In seconds since the start of the run.
    pub from_s: f64,
    /// In seconds since the start of the run.
    pub to_s: f64,
    /// Connections that were up.
    pub connections: u32,
    /// Messages, as in [`crate::load::results::recorder::Identity`].
    pub due: u64,
    /// The outcomes of these messages.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Messages without an outcome.
    pub outstanding: u64,
    /// The part of these messages that was due in the warm-up.
    pub warmup: Part,
    /// Bytes of verified messages.
    pub verified_bytes: u64,
    /// Connections that were established.
    pub connections_opened: u64,
    /// Attempts to connect that failed.
    pub connections_failed: u64,
    /// Broken connections and failed attempts, by cause.
    pub errors: BTreeMap<String, u64>,
    /// The messages of each of several targets since the warm-up.
    pub targets: Vec<Part>,
    /// The client's process and host.
    pub client: Client,
    /// Percentiles of the part of the lateness in which no connection was free.
    pub blocked_us: Option<BTreeMap<String, serde_json::Value>>,
    /// Percentiles of the generator's own part of the lateness.
    pub own_us: Option<BTreeMap<String, serde_json::Value>>,
}

/// Returns the line of an interval, with a newline. `times`: those of the interval alone. It has
/// the standard percentiles in addition to `points`, so that every line can be read.
pub fn line(
    interval: &Interval,
    times: Option<&Times>,
    surroundings: &Surroundings,
    points: &[Percentile],
) -> String {
    let counts = &interval.identity.counts;
    let points = &with_standard(points);
    let line = Line {
        schema: SCHEMA,
        tag: interval.tag.name(),
        from_s: interval.from.as_secs_f64(),
        to_s: interval.to.as_secs_f64(),
        stage: interval.stage.map(|index| index + 1),
        connections: interval.up,
        due: interval.identity.due,
        outcomes: Outcomes::of(counts),
        outstanding: interval.identity.outstanding,
        warmup: Part::of(&interval.warmup),
        verified_bytes: counts.verified_bytes,
        connections_opened: counts.opened,
        connections_failed: counts.failed,
        errors: errors(&interval.errors),
        targets: interval.targets.iter().map(Part::of).collect(),
        client: surroundings.client,
        server: surroundings.server.clone(),
        response_us: percentiles(&interval.response, points),
        service_us: times.map(|times| percentiles(&times.service, points)),
        lateness_us: times.map(|times| percentiles(&times.lateness, points)),
        blocked_us: times.map(|times| percentiles(&times.blocked, points)),
        own_us: times.map(|times| percentiles(&times.own, points)),
    };
    // The object holds only numbers and strings, so the serialization cannot fail.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

impl Part {
    fn of(counts: &Counts) -> Part {
        Part {
            scheduled: counts.scheduled,
            outcomes: Outcomes::of(counts),
            verified_bytes: counts.verified_bytes,
        }
    }

    /// Returns the counts of the messages that have an outcome.
    pub fn settled(&self) -> Counts {
        self.outcomes.counts(self.verified_bytes)
    }
}

impl Read {
    /// Reads a line. The error is one sentence.
    pub fn parse(line: &str) -> Result<Read, String> {
        let read: Read = serde_json::from_str(line).map_err(|error| error.to_string())?;
        match read.schema == SCHEMA {
            true => Ok(read),
            false => Err(format!(
                "not of the format {SCHEMA}, but of {}",
                read.schema
            )),
        }
    }
}

/// Returns a percentile of a line that was read, if it has it.
pub fn point(of: &Option<BTreeMap<String, serde_json::Value>>, key: &str) -> Option<Duration> {
    let microseconds = of.as_ref()?.get(key)?.as_f64()?;
    Duration::try_from_secs_f64(microseconds / 1e6).ok()
}
