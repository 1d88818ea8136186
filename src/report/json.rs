//! The result of a load run as one JSON object, and its intervals as one each. Names and units are
//! stable: a field is added, never changed, without a new `schema`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::load::books::Interval as Stretch;
use crate::load::evidence::share;
use crate::load::latency::{Distribution, Estimate, Latency};
use crate::load::payload::Content;
use crate::load::plan::{Pace, Pacing, Stop};
use crate::load::results::{Counts, Results};
use crate::load::schedule::Arrivals;
use crate::load::summary::Summary;
use crate::load::verdict::Judged;
use crate::server::stats::{CloseReason, Totals};

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    target: String,
    targets: Vec<String>,
    /// Asked for; how many attempts came up and how many failed is told beside it.
    connections: u32,
    connections_opened: u64,
    connections_failed: u64,
    connections_not_opened: u32,
    threads: u32,
    size: String,
    depth: u32,
    payload: &'static str,
    seed: u64,
    arrivals: Option<&'static str>,
    pacing: Option<&'static str>,
    think_s: Option<f64>,
    duration_s: Option<f64>,
    messages: Option<u64>,
    warmup_s: f64,
    drain_s: f64,
    timeout_s: Option<f64>,
    #[serde(flatten)]
    fates: Fates,
    warmup: Fates,
    elapsed_s: f64,
    asked_rate: Option<f64>,
    /// What the schedule held as it was drawn.
    scheduled_rate: Option<f64>,
    achieved_rate: f64,
    bytes_per_second: f64,
    response_us: Percentiles,
    service_us: Percentiles,
    lateness_us: Percentiles,
    blocked_us: Percentiles,
    own_us: Percentiles,
    connect_us: Percentiles,
    /// With --kernel-timestamps.
    kernel: Option<Parts>,
    sends: Option<Sends>,
    errors: BTreeMap<String, u64>,
    first_difference: Option<Difference>,
    differences: Vec<Difference>,
    interrupted: bool,
    own_server: Option<OwnServer>,
    verdict: &'static str,
    evidence: Evidence,
    assertions: Vec<Assertion>,
    ok: bool,
}

/// scheduled = verified + mismatched + errored + timed_out + unanswered (+ outstanding).
#[derive(Serialize)]
struct Fates {
    scheduled: u64,
    verified: u64,
    mismatched: u64,
    errored: u64,
    timed_out: u64,
    unanswered: u64,
}

/// Microseconds; `null` when nothing was measured, or too few samples lie beyond.
#[derive(Serialize)]
struct Percentiles {
    count: u64,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p99_9: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    /// 95 %; the upper end is `null` where it is not known.
    intervals: Intervals,
    /// The percentile from which on values are lower bounds; `null`: all are known.
    at_least_from: Option<f64>,
}

#[derive(Serialize)]
struct Intervals {
    p50: Option<(f64, Option<f64>)>,
    p90: Option<(f64, Option<f64>)>,
    p99: Option<(f64, Option<f64>)>,
    p99_9: Option<(f64, Option<f64>)>,
}

/// Of the connections whose times the kernel keeps: the parts of each response.
#[derive(Serialize)]
struct Parts {
    connections: u32,
    lateness_us: Percentiles,
    send_queue_us: Percentiles,
    wire_and_server_us: Percentiles,
    receive_queue_us: Percentiles,
    /// Parts below -2 µs.
    negative: u64,
}

#[derive(Serialize)]
struct Sends {
    /// Seconds after the start.
    first_s: f64,
    last_s: f64,
    first_lateness_us: f64,
    last_lateness_us: f64,
}

#[derive(Clone, Copy, Serialize)]
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

#[derive(Serialize)]
struct Evidence {
    sentences: Vec<String>,
    advice: Vec<String>,
    /// Shares of the time of the generator's threads.
    busy: f64,
    starved: f64,
    /// CPU time of all threads of the generator, for each verified message.
    cpu_us_per_message: f64,
    stolen_s: f64,
    turns_us: Percentiles,
    /// Replies by messages due in the middle half of the sending.
    kept_up: Option<f64>,
    silence_s: f64,
    segments: u64,
    segments_resent: u64,
    segments_resent_in_vain: u64,
    segments_out_of_order: u64,
    syns_resent: u64,
    /// Of the time with data in flight.
    window_limited: f64,
    buffer_limited: f64,
}

#[derive(Serialize)]
struct Assertion {
    demand: String,
    found: String,
    holds: bool,
}

/// A line of the interval log.
#[derive(Serialize)]
struct Interval {
    schema: &'static str,
    tag: &'static str,
    from_s: f64,
    to_s: f64,
    connections: u32,
    /// Since the start, as all that follows: due = the sum of the others.
    due: u64,
    verified: u64,
    mismatched: u64,
    errored: u64,
    timed_out: u64,
    unanswered: u64,
    outstanding: u64,
    /// Of this stretch alone.
    response_us: Percentiles,
}

/// The object, on one line, with its end.
pub fn render(judged: &Judged) -> String {
    line(&report(judged))
}

/// An interval, on one line, with its end.
pub fn interval(stretch: &Stretch) -> String {
    let Counts {
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        ..
    } = stretch.identity.counts;
    line(&Interval {
        schema: "upcase.interval/1",
        tag: stretch.tag.name(),
        from_s: stretch.from.as_secs_f64(),
        to_s: stretch.to.as_secs_f64(),
        connections: stretch.up,
        due: stretch.identity.due,
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        outstanding: stretch.identity.outstanding,
        response_us: percentiles(&stretch.response),
    })
}

fn line(object: &impl Serialize) -> String {
    // Numbers and strings only: nothing in it can fail to become JSON.
    serde_json::to_string(object).unwrap_or_default() + "\n"
}

fn report(judged: &Judged) -> Report {
    let summary = &judged.summary;
    let Summary { plan, results, .. } = summary;
    let (duration_s, messages) = match plan.stop {
        Stop::After(duration) => (Some(duration.as_secs_f64()), None),
        Stop::Messages(messages) => (None, Some(messages)),
    };
    let (arrivals, pacing, think) = pace(plan.pace);
    let differences = differences(results);
    Report {
        schema: "upcase.load/1",
        target: plan
            .targets
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
        targets: plan.targets.iter().map(ToString::to_string).collect(),
        connections: plan.connections,
        connections_opened: results.counts.opened,
        connections_failed: results.counts.failed,
        connections_not_opened: summary.not_opened(),
        threads: plan.threads,
        size: plan.sizes.to_string(),
        depth: plan.depth,
        payload: match plan.content {
            Content::Text => "text",
            Content::Bytes => "bytes",
            Content::Given(_) => "file",
        },
        seed: plan.seed,
        arrivals,
        pacing,
        think_s: think,
        duration_s,
        messages,
        warmup_s: plan.warmup.as_secs_f64(),
        drain_s: plan.drain.as_secs_f64(),
        timeout_s: plan.timeout.map(|timeout| timeout.as_secs_f64()),
        fates: fates(results),
        warmup: fates(&summary.warmup),
        elapsed_s: summary.course.elapsed.as_secs_f64(),
        asked_rate: summary.asked_rate(),
        scheduled_rate: summary.scheduled_rate(),
        achieved_rate: summary.achieved_rate(),
        bytes_per_second: summary.bytes_per_second(),
        response_us: percentiles(&results.response),
        service_us: percentiles(&results.service),
        lateness_us: percentiles(&results.lateness),
        blocked_us: percentiles(&results.blocked),
        own_us: percentiles(&results.own),
        connect_us: percentiles(&results.connect),
        kernel: parts(summary),
        sends: sends(summary),
        errors: errors(results),
        first_difference: differences.first().copied(),
        differences,
        interrupted: summary.course.interrupted,
        own_server: summary.own_server.as_ref().map(own_server),
        verdict: judged.findings.verdict.name(),
        evidence: evidence(judged),
        assertions: judged.assertions.iter().map(assertion).collect(),
        ok: judged.is_good(),
    }
}

fn pace(pace: Pace) -> (Option<&'static str>, Option<&'static str>, Option<f64>) {
    match pace {
        Pace::Closed { think } => (None, None, Some(think.as_secs_f64())),
        Pace::Open {
            arrivals, pacing, ..
        } => {
            let arrivals = match arrivals {
                Arrivals::Constant => "constant",
                Arrivals::Poisson => "poisson",
            };
            let pacing = match pacing {
                Pacing::Global => "global",
                Pacing::PerConnection => "per-connection",
            };
            (Some(arrivals), Some(pacing), None)
        }
    }
}

fn fates(results: &Results) -> Fates {
    let Counts {
        scheduled,
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        ..
    } = results.counts;
    Fates {
        scheduled,
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
    }
}

fn errors(results: &Results) -> BTreeMap<String, u64> {
    let errors = results.errors.iter();
    errors
        .map(|(kind, count)| (kind.to_string(), *count))
        .collect()
}

fn differences(results: &Results) -> Vec<Difference> {
    let differences = results.differences.iter();
    differences
        .map(|(connection, found)| Difference {
            connection: *connection,
            offset: found.offset,
            expected: found.expected,
            found: found.found,
        })
        .collect()
}

fn parts(summary: &Summary) -> Option<Parts> {
    let parts = summary.results.parts.as_ref()?;
    Some(Parts {
        connections: summary.plan.kernel_timestamps.min(summary.plan.connections),
        lateness_us: percentiles(&parts.lateness),
        send_queue_us: percentiles(&parts.send_queue),
        wire_and_server_us: percentiles(&parts.wire_and_server),
        receive_queue_us: percentiles(&parts.receive_queue),
        negative: parts.negative,
    })
}

fn sends(summary: &Summary) -> Option<Sends> {
    let (start, sends) = (summary.course.start?, summary.results.sends?);
    let after = |at: std::time::Instant| at.saturating_duration_since(start).as_secs_f64();
    Some(Sends {
        first_s: after(sends.first.at),
        last_s: after(sends.last.at),
        first_lateness_us: microseconds(sends.first.lateness),
        last_lateness_us: microseconds(sends.last.lateness),
    })
}

fn percentiles(latency: &Latency) -> Percentiles {
    let distribution = latency.distribution();
    let all = distribution.as_ref();
    let [p50, p90, p99, p99_9] =
        [50.0, 90.0, 99.0, 99.9].map(|percentile| all?.percentile(percentile));
    let value = |found: Option<Estimate>| Some(microseconds(found?.bound.value));
    let interval = |found: Option<Estimate>| {
        let (low, high) = found?.interval;
        Some((microseconds(low), high.map(microseconds)))
    };
    Percentiles {
        count: latency.count(),
        p50: value(p50),
        p90: value(p90),
        p99: value(p99),
        p99_9: value(p99_9),
        max: all.map(|all| microseconds(all.longest().value)),
        mean: all.map(|all| microseconds(all.mean())),
        intervals: Intervals {
            p50: interval(p50),
            p90: interval(p90),
            p99: interval(p99),
            p99_9: interval(p99_9),
        },
        at_least_from: all.and_then(Distribution::at_least_from),
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

fn evidence(judged: &Judged) -> Evidence {
    let seen = &judged.summary.evidence;
    Evidence {
        sentences: judged.findings.evidence.clone(),
        advice: judged.findings.advice.clone(),
        busy: judged.summary.busy(),
        starved: seen.machine.starved,
        cpu_us_per_message: microseconds(judged.summary.cpu_a_message()),
        stolen_s: seen.machine.stolen.as_secs_f64(),
        turns_us: percentiles(&seen.turns),
        kept_up: judged.summary.kept_up(),
        silence_s: seen.silence.as_secs_f64(),
        segments: seen.network.segments,
        segments_resent: seen.network.resent,
        segments_resent_in_vain: seen.network.resent_in_vain,
        segments_out_of_order: seen.network.out_of_order,
        syns_resent: seen.network.syns_resent,
        window_limited: share(seen.network.window_limited, seen.network.busy),
        buffer_limited: share(seen.network.buffer_limited, seen.network.busy),
    }
}

fn assertion(assertion: &crate::load::assertion::Assertion) -> Assertion {
    Assertion {
        demand: assertion.demand.clone(),
        found: assertion.found.clone(),
        holds: assertion.holds,
    }
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
