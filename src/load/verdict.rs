//! What a run is worth: whether its numbers are those of the server, or whose they are. Pure: from
//! what was measured to one word, the sentences that show it, and advice.
//!
//! When several hold, the first of these counts: failed, client-bound, network-bound, server-bound.
//! A run that its own client limited says nothing of the server, so that comes before the blame of
//! anybody else. A closed loop asks for no rate, so it can only be valid or failed, and the busier
//! side is named.

use std::fmt;
use std::time::Duration;

use crate::load::assertion::Assertion;
use crate::load::evidence::share;
use crate::load::latency::{BEYOND, Bound, Latency};
use crate::load::results::{Counts, LATE, Results};
use crate::load::summary::Summary;
use crate::units::short;

/// What a run is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The numbers are those of the server.
    Valid,
    /// The generator was late: the numbers are its own.
    ClientBound,
    /// The network lost or delayed what was sent.
    NetworkBound,
    /// The server did not keep up.
    ServerBound,
    /// Messages were lost, wrong or not answered.
    Failed,
}

/// A verdict, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The word.
    pub verdict: Verdict,
    /// The sentences, those that decided first.
    pub evidence: Vec<String>,
    /// What to do about it; empty when nothing is to be done.
    pub advice: Vec<String>,
}

/// The result and what is to be thought of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The result.
    pub summary: Summary,
    /// What it is worth, and why.
    pub findings: Findings,
    /// What was demanded of it, and whether that holds.
    pub assertions: Vec<Assertion>,
    /// Verdicts that are taken for good.
    pub allowed: Vec<Verdict>,
}

impl Judged {
    /// Whether the run can be trusted, or was allowed what it is, and everything demanded holds.
    pub fn is_good(&self) -> bool {
        let verdict = self.findings.verdict;
        let allowed = verdict == Verdict::Valid || self.allowed.contains(&verdict);
        allowed
            && self.summary.unlogged.is_none()
            && self.assertions.iter().all(|assertion| assertion.holds)
    }
}

/// A lateness beyond [`LATE`] can be seen in a result if it is such a part of the response.
const LATE_SHARE: u32 = 20;

/// The share of messages that may have waited for a connection, as a 99th percentile sees it, ...
const WAITED: f64 = 0.01;

/// ... unless they are too few to say anything.
const WAITED_FEW: u64 = 10;

/// The part of its time for which a thread may have waited for a CPU.
const STARVED: f64 = 0.10;

/// The part of its time beyond which a thread has none left for what comes next.
const SATURATED: f64 = 0.90;

/// The part of its time beyond which its CPU time a message is about the least it can do with: one
/// that sleeps a lot spends most of it on waking up.
const LOADED: f64 = 0.50;

/// The share of segments that may be lost or late before a 99.9th percentile shows it.
const DISTURBED: f64 = 0.001;

/// The smallest retransmission timeout (TCP_RTO_MIN).
const RTO_MIN: Duration = Duration::from_millis(200);

/// The part of its time in which a buffer or window may hold up a connection.
const LIMITED: f64 = 0.10;

/// An acknowledgment may be held back for 40 ms (TCP_DELACK_MIN); a round trip that grew beyond
/// that was held up on its way.
const GROWN: Duration = Duration::from_millis(50);

/// The share of the scheduled rate below which it was not reached; replies may bunch a little.
const REACHED: f64 = 0.99;

impl Verdict {
    /// Its name, as it is printed and as `--allow` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::ClientBound => "client-bound",
            Verdict::NetworkBound => "network-bound",
            Verdict::ServerBound => "server-bound",
            Verdict::Failed => "failed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Findings {
    fn new(verdict: Verdict, evidence: Vec<String>, advice: &[&str]) -> Findings {
        Findings {
            verdict,
            evidence,
            advice: advice.iter().map(|advice| advice.to_string()).collect(),
        }
    }
}

/// Judges a run.
pub fn judge(summary: &Summary) -> Findings {
    let open = summary.asked_rate().is_some();
    let mut findings = match failures(summary) {
        evidence if !evidence.is_empty() => Findings::new(Verdict::Failed, evidence, &[]),
        _ if open => judge_open(summary),
        _ => Findings::new(Verdict::Valid, vec![busier(summary)], &[]),
    };
    if open && findings.verdict == Verdict::Failed && summary.results.counts.scheduled > 0 {
        // What else was seen may be why.
        let bound = judge_open(summary);
        if bound.verdict != Verdict::Valid {
            findings.advice.extend(bound.advice);
            findings.evidence.extend(bound.evidence);
        }
    }
    findings.evidence.extend(asides(summary));
    findings
}

fn judge_open(summary: &Summary) -> Findings {
    let client = client_limits(summary);
    if !client.is_empty() {
        let advice = [
            "give the generator a CPU of its own, more --threads, a lower --rate, or another \
             machine",
        ];
        return Findings::new(Verdict::ClientBound, client, &advice);
    }
    let network = network_limits(summary);
    if !network.is_empty() {
        let advice = ["look at the links between the two machines, and at their queues"];
        return Findings::new(Verdict::NetworkBound, network, &advice);
    }
    let server = server_limits(summary);
    if !server.is_empty() {
        let advice = [
            "ask for a lower --rate, give it more --connections or --depth if the way is long, or \
             look at what holds the server up",
        ];
        return Findings::new(Verdict::ServerBound, server, &advice);
    }
    let kept = "every message went out in time, and every reply was right";
    Findings::new(Verdict::Valid, vec![kept.to_string()], &[])
}

/// What was not answered, or wrongly, or never came up.
fn failures(summary: &Summary) -> Vec<String> {
    let results = &summary.results;
    let mut counts = results.counts;
    counts.merge(&summary.warmup.counts);
    let Counts {
        mismatched,
        errored,
        timed_out,
        unanswered,
        failed,
        ..
    } = counts;
    let mut said = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    };
    say(mismatched, "messages were answered wrongly");
    say(errored, "messages were lost with their connections");
    say(timed_out, "messages timed out");
    say(unanswered, "messages were not answered by the end");
    say(failed, "attempts to connect failed");
    say(summary.not_opened().into(), "connections were never up");
    let broken: u64 = results.errors.values().sum();
    say(broken.saturating_sub(failed), "connections broke");
    if summary.results.counts.scheduled == 0 {
        said.push("no message was due after the warm-up".to_string());
    }
    said
}

/// What shows that the generator did not keep its own time.
fn client_limits(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let (machine, network) = (&summary.evidence.machine, &summary.evidence.network);
    if let Some((point, late)) = visible(&summary.results.own, summary) {
        said.push(format!(
            "the generator sent late by its own doing: {point} {}",
            short(late.value)
        ));
    }
    if machine.starved > STARVED {
        said.push(format!(
            "the generator waited for a CPU for {:.0} % of its time",
            machine.starved * 100.0
        ));
    }
    if summary.busy() + machine.starved > SATURATED {
        said.push(format!(
            "the generator had no time left: it was busy for {:.0} % of it, and ready for {:.0} %",
            summary.busy() * 100.0,
            machine.starved * 100.0
        ));
    }
    // A server that is too slow as well hides that: the generator waits for it now and then.
    let needed = summary.scheduled_rate().unwrap_or(0.0) * summary.cpu_a_message().as_secs_f64();
    if summary.busy() + machine.starved > LOADED && needed > f64::from(summary.plan.threads) {
        said.push(format!(
            "the generator needs {} of CPU a message: for this rate {needed:.1} CPUs",
            short(summary.cpu_a_message())
        ));
    }
    if let Some((point, blocked)) = visible(&summary.results.blocked, summary) {
        let limited = of_all_time(network.buffer_limited, summary);
        let (asked, largest) = (
            summary.plan.options.send_buffer,
            summary.plan.sizes.largest(),
        );
        if limited > LIMITED {
            said.push(format!(
                "its send buffers were full for {:.0} % of the time (--send-buffer)",
                limited * 100.0
            ));
        } else if asked.is_some_and(|asked| asked < largest) && !window_was_closed(summary) {
            // The kernel counts that time in ticks of its clock, and none on a fast link.
            said.push(format!(
                "its send buffers hold less than a message (--send-buffer): blocked {point} {}",
                short(blocked.value)
            ));
        }
    }
    said
}

/// What shows that segments were lost, or held up on their way.
fn network_limits(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let network = &summary.evidence.network;
    // A segment sent again in vain was late, or its acknowledgment was lost; in the latter case
    // somebody waited for a retransmission.
    let late = highest(&summary.results.service).is_some_and(|(_, late)| late.value >= RTO_MIN);
    let in_vain = if late { network.resent_in_vain } else { 0 };
    let disturbed = network.resent + network.out_of_order + in_vain;
    if disturbed >= BEYOND && disturbed as f64 > DISTURBED * network.segments as f64 {
        said.push(format!(
            "{} of {} segments were sent again, and {} came out of order",
            network.resent + in_vain,
            network.segments,
            network.out_of_order
        ));
    }
    let median = |latency: &Latency| latency.distribution()?.percentile(50.0);
    if let Some(growth) = median(&network.growth).map(|growth| growth.bound.value)
        && let Some(service) = median(&summary.results.service).map(|service| service.bound.value)
        && growth > GROWN
        && growth > service / 2
    {
        said.push(format!(
            "the round-trip time of TCP stood {} above its smallest value",
            short(growth)
        ));
    }
    // A queue that drops what this machine itself puts into it shows in no counter of TCP.
    if let Some(service) = median(&summary.results.service).map(|service| service.bound.value)
        && let way = network.held_up()
        && way > GROWN
        && way > service / 2
    {
        said.push(format!(
            "segments were on their way for {} longer than a round trip takes",
            short(way)
        ));
    }
    said
}

/// What shows that the server did not keep up.
fn server_limits(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let network = &summary.evidence.network;
    if let Some((point, blocked)) = visible(&summary.results.blocked, summary)
        && let Some(share) = waited(&summary.results)
    {
        said.push(format!(
            "{:.1} % of the messages found no free connection in time: blocked {point} {}{}",
            share * 100.0,
            if blocked.at_least { ">= " } else { "" },
            short(blocked.value)
        ));
    }
    if let Some(reached) = summary.kept_up().filter(|reached| *reached < REACHED)
        && summary.course.middle_due - summary.course.middle_verified >= BEYOND
    {
        said.push(format!(
            "the rate was not reached: {:.1} % as many replies as messages were due in the middle \
             half of the run",
            reached * 100.0
        ));
    }
    if window_was_closed(summary) {
        said.push(format!(
            "the server's receive window was closed for {:.0} % of the time",
            of_all_time(network.window_limited, summary) * 100.0
        ));
    }
    if let Some(stall) = summary.stall() {
        said.push(format!(
            "no reply came for {} while messages were outstanding",
            short(stall)
        ));
    }
    said
}

/// The share of messages that waited for a free connection, if that is worth a word. What a message
/// needs to get through the socket by its size alone is not such a wait.
fn waited(results: &Results) -> Option<f64> {
    let (waited, all) = (results.waited, results.counts.scheduled);
    let share = waited as f64 / all.max(1) as f64;
    (share > WAITED && (waited >= WAITED_FEW || share > 0.5)).then_some(share)
}

fn window_was_closed(summary: &Summary) -> bool {
    of_all_time(summary.evidence.network.window_limited, summary) > LIMITED
}

/// A time of all connections together as a share of the time that they had.
fn of_all_time(time: Duration, summary: &Summary) -> f64 {
    share(time, summary.course.sending * summary.plan.connections)
}

/// A part of the response that can be seen in it, with the percentile at which it was looked for.
fn visible(part: &Latency, summary: &Summary) -> Option<(&'static str, Bound)> {
    let (point, part) = highest(part)?;
    let (_, response) = highest(&summary.results.response)?;
    let seen = part.value > LATE && part.value > response.value / LATE_SHARE;
    seen.then_some((point, part))
}

/// The highest percentile up to the 99th that the samples support; of a few, the longest.
fn highest(latency: &Latency) -> Option<(&'static str, Bound)> {
    let distribution = latency.distribution()?;
    let points = [("p99", 99.0), ("p90", 90.0), ("p50", 50.0)];
    let supported = points.into_iter().find_map(|(point, percentile)| {
        let found = distribution.percentile(percentile)?;
        Some((point, found.bound))
    });
    supported.or(Some(("max", distribution.longest())))
}

/// In a closed loop: which side had less time left.
fn busier(summary: &Summary) -> String {
    let busy = summary.busy() * 100.0;
    if busy > 90.0 {
        format!("the generator was busy for {busy:.0} % of its time: it set the pace")
    } else {
        format!("the generator was busy for {busy:.0} % of its time: the server set the pace")
    }
}

/// What decides nothing, and should be known.
fn asides(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let evidence = &summary.evidence;
    if evidence.machine.stolen > Duration::ZERO {
        said.push(format!(
            "the host took {} of CPU time from this machine",
            short(evidence.machine.stolen)
        ));
    }
    if evidence.network.syns_resent > 0 {
        said.push(format!(
            "{} SYNs were sent again: they were lost, or the server's queue was full",
            evidence.network.syns_resent
        ));
    }
    said
}
