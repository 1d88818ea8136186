//! The result of a load run as one JSON object. Names and units are stable: a field is added, never
//! changed, without a new `schema`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::load::latency::Latency;
use crate::load::payload::Alphabet;
use crate::load::plan::Stop;
use crate::load::summary::Summary;
use crate::server::stats::{CloseReason, Totals};

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    target: String,
    /// Asked for; how many came up and how many failed is told beside it.
    connections: u32,
    connections_opened: u32,
    connections_failed: u32,
    connections_not_opened: u32,
    size: usize,
    depth: u32,
    payload: &'static str,
    seed: u64,
    duration_s: Option<f64>,
    messages: Option<u64>,
    scheduled: u64,
    verified: u64,
    mismatched: u64,
    errored: u64,
    timed_out: u64,
    unanswered: u64,
    elapsed_s: f64,
    achieved_rate: f64,
    bytes_per_second: f64,
    response_us: Percentiles,
    errors: BTreeMap<String, u64>,
    first_difference: Option<Difference>,
    interrupted: bool,
    own_server: Option<OwnServer>,
    ok: bool,
}

/// Microseconds; `null` when nothing was measured.
#[derive(Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
}

#[derive(Serialize)]
struct Difference {
    connection: u32,
    offset: u64,
    expected: u8,
    found: u8,
}

#[derive(Serialize)]
struct OwnServer {
    accepted: u64,
    closed: BTreeMap<&'static str, u64>,
    bytes_in: u64,
    bytes_out: u64,
}

/// The object, on one line, with its end.
pub fn render(summary: &Summary) -> String {
    // Numbers and strings only: nothing in it can fail to become JSON.
    let object = serde_json::to_string(&report(summary)).unwrap_or_default();
    object + "\n"
}

fn report(summary: &Summary) -> Report {
    let Summary { plan, results, .. } = summary;
    let counts = results.counts;
    let (duration_s, messages) = match plan.stop {
        Stop::After(duration) => (Some(duration.as_secs_f64()), None),
        Stop::Messages(messages) => (None, Some(messages)),
    };
    Report {
        schema: "upcase.load/1",
        target: plan.target.to_string(),
        connections: plan.connections,
        connections_opened: counts.opened,
        connections_failed: counts.failed,
        connections_not_opened: results.not_opened(plan.connections),
        size: plan.size,
        depth: plan.depth,
        payload: match plan.alphabet {
            Alphabet::Text => "text",
            Alphabet::Bytes => "bytes",
        },
        seed: plan.seed,
        duration_s,
        messages,
        scheduled: counts.scheduled,
        verified: counts.verified,
        mismatched: counts.mismatched,
        errored: counts.errored,
        timed_out: counts.timed_out,
        unanswered: counts.unanswered,
        elapsed_s: summary.elapsed.as_secs_f64(),
        achieved_rate: summary.achieved_rate(),
        bytes_per_second: summary.bytes_per_second(),
        response_us: percentiles(&results.response),
        errors: results
            .errors
            .iter()
            .map(|(kind, count)| (kind.to_string(), *count))
            .collect(),
        first_difference: results
            .first_difference
            .map(|(connection, found)| Difference {
                connection,
                offset: found.offset,
                expected: found.expected,
                found: found.found,
            }),
        interrupted: summary.interrupted,
        own_server: summary.own_server.as_ref().map(own_server),
        ok: summary.is_good(),
    }
}

fn percentiles(latency: &Latency) -> Percentiles {
    let at = |percentile| latency.percentile(percentile).map(microseconds);
    Percentiles {
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        p99_9: at(99.9),
        max: latency.max().map(microseconds),
        mean: latency.mean().map(microseconds),
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

fn own_server(totals: &Totals) -> OwnServer {
    OwnServer {
        accepted: totals.accepted,
        closed: CloseReason::ALL
            .iter()
            .map(|&reason| (reason.name(), totals.closed(reason)))
            .collect(),
        bytes_in: totals.traffic.bytes_in,
        bytes_out: totals.traffic.bytes_out,
    }
}
