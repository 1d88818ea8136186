//! Renders the result of a load run as one JSON object. Names and units are stable: within a
//! `schema`, fields are added but never changed.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::echo::Expect;
use crate::load::judge::assertion::Outcome;
use crate::load::judge::verdict::{Findings, Judged, JudgedStage};
use crate::load::latency::Latency;
use crate::load::latency::percentile::Percentile;
use crate::load::plan::schedule::Arrivals;
use crate::load::plan::{Pace, Pacing, Stop};
use crate::load::results::evidence::{self, Network};
use crate::load::results::summary::Summary;
use crate::load::results::{Counts, Results};
use crate::record::description::Description;
use crate::report::outcomes::{Outcomes, errors};
use crate::report::percentiles::{Percentiles, microseconds, percentiles};
use crate::server::stats::{CloseReason, Totals};
use crate::sys::cpu_sample::HostCounters;
use crate::units::share;

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    target: String,
    targets: Vec<String>,
    /// The results of each target, in the order of `targets`.
    per_target: Vec<PerTarget>,
    /// Scheduled messages that never got a connection and that any target could have served.
    scheduled_for_none: u64,
    /// Number requested; the numbers that were established and that failed follow.
    connections: u32,
    connections_opened: u64,
    connections_failed: u64,
    connections_not_opened: u32,
    threads: u32,
    size: String,
    depth: u32,
    payload: &'static str,
    expect: Expect,
    seed: u64,
    /// The rates of the stages as they are typed; `null` at a constant rate and in a closed loop.
    profile: Option<String>,
    arrivals: Option<Arrivals>,
    pacing: Option<Pacing>,
    think_s: Option<f64>,
    duration_s: Option<f64>,
    messages: Option<u64>,
    warmup_s: f64,
    drain_s: f64,
    timeout_s: Option<f64>,
    #[serde(flatten)]
    fates: MessageOutcomes,
    warmup: MessageOutcomes,
    elapsed_s: f64,
    asked_rate: Option<f64>,
    /// Messages per second in the schedule as it was drawn.
    scheduled_rate: Option<f64>,
    achieved_rate: f64,
    /// The share of the scheduled rate that was answered correctly; `null` in a closed loop.
    rate_share: Option<f64>,
    bytes_per_second: f64,
    response_us: Percentiles,
    service_us: Percentiles,
    lateness_us: Percentiles,
    blocked_us: Percentiles,
    own_us: Percentiles,
    connect_us: Percentiles,
    /// The parts of the responses; `null` without --kernel-timestamps.
    kernel: Option<ResponseParts>,
    sends: Option<Sends>,
    errors: BTreeMap<String, u64>,
    first_difference: Option<Difference>,
    differences: Vec<Difference>,
    interrupted: bool,
    own_server: Option<OwnServer>,
    verdict: &'static str,
    /// The percentile above which the numbers of a valid run are the generator's.
    valid_up_to: Option<String>,
    evidence: Evidence,
    assertions: Vec<Assertion>,
    /// The stages of the profile; empty without one, and where they are not known.
    stages: Vec<Stage>,
    /// Whether the exit code is 0.
    ok: bool,
    /// 0: all is well; 1: something is wrong; 4: inconclusive, or the generator was the limit.
    exit_code: u8,
    /// Why the record of the run is incomplete; `null`: it is complete, or there is none.
    unrecorded: Option<String>,
    /// What the run was: when, where, by which build, with which options. Several, if the result is
    /// merged from several records.
    runs: &'a [Description],
}

/// The results of one target. Times are in seconds after the start, and negative before the first
/// message.
#[derive(Serialize)]
struct PerTarget {
    target: String,
    connections_opened: u64,
    connections_failed: u64,
    /// Its share of all scheduled messages of the run.
    share: f64,
    #[serde(flatten)]
    fates: MessageOutcomes,
    response_us: Percentiles,
    service_us: Percentiles,
    errors: BTreeMap<String, u64>,
    /// The beginning of its last absence, if no connection to it was up at the end; else `null`.
    gone_s: Option<f64>,
    /// The beginning and the end of the longest absence that ended.
    away_s: Option<(f64, f64)>,
    /// The time at which the last byte of a reply arrived.
    last_reply_s: Option<f64>,
    /// Messages sent to it that had no reply when the run closed its connections.
    without_reply: u64,
}

/// scheduled = verified + mismatched + errored + timed_out + unanswered (+ outstanding).
#[derive(Serialize)]
struct MessageOutcomes {
    scheduled: u64,
    #[serde(flatten)]
    outcomes: Outcomes,
}

/// The parts of each response, on the connections for which the kernel records timestamps.
#[derive(Serialize)]
struct ResponseParts {
    connections: u32,
    lateness_us: Percentiles,
    send_queue_us: Percentiles,
    wire_and_server_us: Percentiles,
    receive_queue_us: Percentiles,
    /// Number of parts below -2 µs.
    negative: u64,
}

#[derive(Serialize)]
struct Sends {
    /// In seconds after the start, as is `last_s`.
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
    /// The share of its time in which the busiest thread of the generator worked. `starved`: the
    /// largest share in which a thread waited for a CPU.
    busy: f64,
    starved: f64,
    /// CPU time of all threads of the generator, per verified message.
    cpu_us_per_message: f64,
    stolen_s: f64,
    /// Upper bound of the time for which the generator waited for a CPU used by the run's own
    /// server.
    waited_for_own_server_s: f64,
    turns_us: Percentiles,
    /// By how many seconds the responses became longer per second of the run; `null`: they did not,
    /// or it may be chance.
    growth: Option<f64>,
    silence_s: f64,
    /// The share of its time for which the most affected thread should have worked and was not
    /// given CPU time. `longest_absence_s`: the longest such time of any thread.
    absent: f64,
    longest_absence_s: f64,
    /// The time for which the CPU quota of the process's cgroup was used up.
    throttled_s: f64,
    /// For each message that was outstanding while its thread was absent: the length of that
    /// absence.
    held_us: Percentiles,
    segments: u64,
    segments_resent: u64,
    segments_resent_in_vain: u64,
    segments_out_of_order: u64,
    syns_resent: u64,
    /// Number of failed readings of TCP_INFO; the fields about segments, SYNs and limits lack their
    /// values.
    tcp_info_unread: u64,
    /// The share of the time with data in flight, as is `buffer_limited`.
    window_limited: f64,
    buffer_limited: f64,
    way: PathStatistics,
    /// The round trips of probes; `null`: all targets are on this host.
    probe: Option<Probe>,
    host: Host,
}

/// TCP counters of this host while messages were due; they include the connections of other
/// programs.
#[derive(Serialize)]
struct Host {
    segments_came_twice: u64,
    timeouts: u64,
    syns_resent: u64,
    listen_overflows: u64,
}

/// Probes that the kernels of the targets answer, sent from before the first message on.
#[derive(Serialize)]
struct Probe {
    how: Vec<String>,
    /// Number of targets on other hosts that were probed: of many, the first few.
    targets: u32,
    /// Number of these that never answered.
    silent: u32,
    least_us: Option<f64>,
    /// Number of answered probes among those that were sent while messages were due.
    answered: u64,
    lost: u64,
    round_trip_us: Percentiles,
    growth_us: Percentiles,
}

/// TCP's information about the paths of the connections while messages were due.
#[derive(Serialize)]
struct PathStatistics {
    /// The growth of the round trip above the smallest one of its connection, sampled over time.
    growth_us: Percentiles,
    /// The mean deviation of the round trip, in the same samples.
    deviation_us: Percentiles,
    /// Number of samples that found segments retransmitted since the previous sample.
    looks_resent: u64,
    /// The largest delivery rate of one connection, in bytes per second.
    delivery_rate: u64,
    /// Messages without a reply after 100 ms, those of them that were examined, and those of the
    /// examined ones that the server's kernel had not acknowledged.
    under_way: u64,
    under_way_examined: u64,
    under_way_unacknowledged: u64,
}

/// The result of a stage of the profile: of the messages that were due in it, with the evidence
/// that was measured during it. Fields mean what they mean in the report of a run.
#[derive(Serialize)]
struct Stage {
    /// Counted from 1.
    stage: usize,
    /// The rate and the length in the form of `--rate`.
    rate: String,
    from_rate: f64,
    to_rate: f64,
    length_s: f64,
    #[serde(flatten)]
    fates: MessageOutcomes,
    connections_opened: u64,
    connections_failed: u64,
    elapsed_s: f64,
    asked_rate: Option<f64>,
    scheduled_rate: Option<f64>,
    achieved_rate: f64,
    rate_share: Option<f64>,
    response_us: Percentiles,
    service_us: Percentiles,
    lateness_us: Percentiles,
    blocked_us: Percentiles,
    own_us: Percentiles,
    errors: BTreeMap<String, u64>,
    /// `null`: the stage is a pause.
    verdict: Option<&'static str>,
    valid_up_to: Option<String>,
    evidence: Option<Evidence>,
}

#[derive(Serialize)]
struct Assertion {
    demand: String,
    found: String,
    holds: bool,
    /// Whether the assertion does not hold, but the number is the generator's.
    undecided: bool,
}

/// Returns the JSON object as one line, with a newline. `runs`: the descriptions of the run, or of
/// its parts. `exit_code`: the exit code of the command.
pub fn render(judged: &Judged, runs: &[Description], exit_code: u8) -> String {
    // The object holds only numbers and strings, so the serialization cannot fail.
    serde_json::to_string(&report(judged, runs, exit_code)).unwrap_or_default() + "\n"
}

fn report<'a>(judged: &Judged, runs: &'a [Description], exit_code: u8) -> Report<'a> {
    let summary = &judged.summary;
    let Summary { plan, results, .. } = summary;
    let (duration_s, messages) = match plan.stop {
        Stop::After(duration) => (Some(duration.as_secs_f64()), None),
        Stop::Messages(messages) => (None, Some(messages)),
    };
    let (arrivals, pacing, think) = pace(plan.pace);
    let differences = differences(results);
    let times = |latency: &Latency| percentiles(latency, &plan.percentiles);
    Report {
        schema: "upcase.load/1",
        target: plan
            .targets
            .first()
            .map_or(String::new(), ToString::to_string),
        targets: plan.targets.iter().map(ToString::to_string).collect(),
        per_target: per_target(summary),
        scheduled_for_none: summary.scheduled_for_none(),
        connections: plan.connections,
        connections_opened: results.counts.opened,
        connections_failed: results.counts.failed,
        connections_not_opened: summary.not_opened(),
        threads: plan.threads,
        size: plan.sizes.to_string(),
        depth: plan.depth,
        payload: plan.content.kind(),
        expect: plan.expect,
        seed: plan.seed,
        profile: plan.profile.as_ref().map(ToString::to_string),
        arrivals,
        pacing,
        think_s: think,
        duration_s,
        messages,
        warmup_s: plan.warmup.as_secs_f64(),
        drain_s: plan.drain.as_secs_f64(),
        timeout_s: plan.timeout.map(|timeout| timeout.as_secs_f64()),
        fates: fates(&results.counts),
        warmup: fates(&summary.warmup.counts),
        elapsed_s: summary.times.elapsed.as_secs_f64(),
        asked_rate: summary.asked_rate(),
        scheduled_rate: summary.scheduled_rate(),
        achieved_rate: summary.achieved_rate(),
        rate_share: summary.rate_share(),
        bytes_per_second: summary.bytes_per_second(),
        response_us: times(&results.response),
        service_us: times(&results.service),
        lateness_us: times(&results.lateness),
        blocked_us: times(&results.blocked),
        own_us: times(&results.own),
        connect_us: times(&results.connect),
        kernel: parts(summary),
        sends: sends(summary),
        errors: errors(&results.errors),
        first_difference: differences.first().copied(),
        differences,
        interrupted: summary.times.interrupted,
        own_server: summary.own_server.as_ref().map(own_server),
        verdict: judged.findings.verdict.name(),
        valid_up_to: judged.findings.valid_up_to.map(|it| it.to_string()),
        evidence: evidence(summary, &judged.findings),
        assertions: judged.assertions.iter().map(assertion).collect(),
        stages: judged.stages.iter().map(stage).collect(),
        ok: judged.is_good(),
        exit_code,
        unrecorded: summary.unrecorded.clone(),
        runs,
    }
}

fn pace(pace: Pace) -> (Option<Arrivals>, Option<Pacing>, Option<f64>) {
    match pace {
        Pace::Closed { think } => (None, None, Some(think.as_secs_f64())),
        Pace::Open {
            arrivals, pacing, ..
        } => (Some(arrivals), Some(pacing), None),
    }
}

fn fates(counts: &Counts) -> MessageOutcomes {
    MessageOutcomes {
        scheduled: counts.scheduled,
        outcomes: Outcomes::of(counts),
    }
}

fn per_target(summary: &Summary) -> Vec<PerTarget> {
    let after_start = |at: Instant| {
        let start = summary.times.start.unwrap_or(at);
        let before = start.saturating_duration_since(at).as_secs_f64();
        at.saturating_duration_since(start).as_secs_f64() - before
    };
    let times = |latency: &Latency| percentiles(latency, &summary.plan.percentiles);
    let targets = summary.plan.targets.iter().zip(&summary.targets);
    targets
        .map(|(address, target)| PerTarget {
            target: address.to_string(),
            connections_opened: target.opened,
            connections_failed: target.failed,
            share: summary.share_of(target),
            fates: fates(&target.tally.counts),
            response_us: times(&target.tally.response),
            service_us: times(&target.tally.service),
            errors: errors(&target.errors),
            gone_s: target.gone.map(|gone| after_start(gone.from)),
            away_s: target
                .away
                .map(|(away, end)| (after_start(away.from), after_start(end))),
            last_reply_s: target.last_reply.map(after_start),
            without_reply: target.silence.map_or(0, |silence| silence.messages),
        })
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

fn parts(summary: &Summary) -> Option<ResponseParts> {
    let parts = summary.results.parts.as_ref()?;
    let times = |latency: &Latency| percentiles(latency, &summary.plan.percentiles);
    Some(ResponseParts {
        connections: summary.plan.kernel_timestamps.min(summary.plan.connections),
        lateness_us: times(&parts.lateness),
        send_queue_us: times(&parts.send_queue),
        wire_and_server_us: times(&parts.wire_and_server),
        receive_queue_us: times(&parts.receive_queue),
        negative: parts.negative,
    })
}

fn sends(summary: &Summary) -> Option<Sends> {
    let (start, sends) = (summary.times.start?, summary.results.sends?);
    let after = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
    Some(Sends {
        first_s: after(sends.first.at),
        last_s: after(sends.last.at),
        first_lateness_us: microseconds(sends.first.lateness),
        last_lateness_us: microseconds(sends.last.lateness),
    })
}

fn stage(judged: &JudgedStage) -> Stage {
    let JudgedStage {
        stage,
        summary,
        findings,
    } = judged;
    let results = &summary.results;
    let times = |latency: &Latency| percentiles(latency, &summary.plan.percentiles);
    let findings = findings.as_ref();
    let valid_up_to = findings.and_then(|findings| findings.valid_up_to);
    Stage {
        stage: summary.stage.map_or(0, |index| index + 1),
        rate: stage.to_string(),
        from_rate: stage.from.per_second(),
        to_rate: stage.to.per_second(),
        length_s: stage.length().as_secs_f64(),
        fates: fates(&results.counts),
        connections_opened: results.counts.opened,
        connections_failed: results.counts.failed,
        elapsed_s: summary.times.elapsed.as_secs_f64(),
        asked_rate: summary.asked_rate().filter(|_| !stage.is_pause()),
        scheduled_rate: summary.scheduled_rate(),
        achieved_rate: summary.achieved_rate(),
        rate_share: summary.rate_share(),
        response_us: times(&results.response),
        service_us: times(&results.service),
        lateness_us: times(&results.lateness),
        blocked_us: times(&results.blocked),
        own_us: times(&results.own),
        errors: errors(&results.errors),
        verdict: findings.map(|findings| findings.verdict.name()),
        valid_up_to: valid_up_to.map(|point| point.to_string()),
        evidence: findings.map(|findings| evidence(summary, findings)),
    }
}

fn evidence(summary: &Summary, findings: &Findings) -> Evidence {
    let seen = &summary.evidence;
    let points = &summary.plan.percentiles;
    Evidence {
        sentences: findings.evidence.clone(),
        advice: findings.advice.clone(),
        busy: summary.busy(),
        starved: seen.machine.starved,
        cpu_us_per_message: microseconds(summary.cpu_a_message()),
        stolen_s: seen.machine.stolen.as_secs_f64(),
        waited_for_own_server_s: summary.waited_for_own_server().as_secs_f64(),
        turns_us: percentiles(&seen.turns, points),
        growth: summary.growth(),
        silence_s: seen.silence.as_secs_f64(),
        absent: seen.absences.share(),
        longest_absence_s: seen.absences.longest.as_secs_f64(),
        throttled_s: seen.machine.throttled.as_secs_f64(),
        held_us: percentiles(&seen.absences.held, points),
        segments: seen.network.segments,
        segments_resent: seen.network.resent,
        segments_resent_in_vain: seen.network.resent_in_vain,
        segments_out_of_order: seen.network.out_of_order,
        syns_resent: seen.network.syns_resent,
        tcp_info_unread: seen.network.unread.values().sum(),
        window_limited: share(seen.network.window_limited, seen.network.busy),
        buffer_limited: share(seen.network.buffer_limited, seen.network.busy),
        way: way(&seen.network, points),
        probe: seen.probe.as_ref().map(|it| probe(it, points)),
        host: host(&seen.machine.host),
    }
}

fn host(host: &HostCounters) -> Host {
    Host {
        segments_came_twice: host.came_twice,
        timeouts: host.timeouts,
        syns_resent: host.syns_resent,
        listen_overflows: host.queue_overflows,
    }
}

fn probe(probe: &evidence::Probe, points: &[Percentile]) -> Probe {
    Probe {
        how: probe.how.clone(),
        targets: probe.targets,
        silent: probe.silent,
        least_us: probe.least.map(microseconds),
        answered: probe.round_trips.count(),
        lost: probe.lost,
        round_trip_us: percentiles(&probe.round_trips, points),
        growth_us: percentiles(&probe.growth, points),
    }
}

fn way(network: &Network, points: &[Percentile]) -> PathStatistics {
    PathStatistics {
        growth_us: percentiles(&network.growth, points),
        deviation_us: percentiles(&network.deviation, points),
        looks_resent: network.looks_resent,
        delivery_rate: network.delivery_rate,
        under_way: network.under_way,
        under_way_examined: network.examined,
        under_way_unacknowledged: network.unacknowledged,
    }
}

fn assertion(assertion: &crate::load::judge::assertion::Assertion) -> Assertion {
    Assertion {
        demand: assertion.condition.clone(),
        found: assertion.found.clone(),
        holds: assertion.holds(),
        undecided: assertion.outcome == Outcome::Undecided,
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
