//! Finds evidence that the network was the limit of a run. Pure.
//!
//! TCP measures round trips by acknowledgments, which may be delayed for up to [`ACK_DELAY_MAX`] to
//! be sent with the reply: below that, a slower path cannot be distinguished from a server
//! that takes as long.

use std::time::Duration;

use crate::load::judge::thresholds::{DISTURBED, RTO_MIN, highest};
use crate::load::latency::{BEYOND, Latency};
use crate::load::results::evidence::{ACK_DELAY_MAX, EXAMINE_AGE};
use crate::load::results::summary::Summary;
use crate::units::{counted, grouped, short};

/// The percentiles at which the path is compared with the service.
const POINTS: [(&str, f64); 3] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)];

/// Minimum delay in a queue on the path that is visible in a result: above the delay of a late
/// wake-up.
const QUEUED: Duration = Duration::from_millis(1);

/// Returns evidence that segments were lost or delayed on the path.
pub(super) fn network_limits(summary: &Summary) -> Vec<String> {
    let evidence = [
        resent(summary),
        unacknowledged(summary),
        grown(summary),
        probed(summary),
        held_up(summary),
    ];
    evidence.into_iter().flatten().collect()
}

/// Returns evidence from retransmitted segments and from segments received out of order.
fn resent(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    // A spurious retransmission means that a segment was late or that its acknowledgment was lost.
    // It counts if service times reach the retransmission timeout: then a reply may have waited for
    // one.
    let late = highest(&summary.results.service).is_some_and(|(_, late)| late.value >= RTO_MIN);
    let in_vain = if late { network.resent_in_vain } else { 0 };
    let disturbed = network.resent + network.out_of_order + in_vain;
    is_disturbed(disturbed, network.segments).then(|| {
        format!(
            "of {}, {} were retransmitted, and {} arrived out of order",
            counted(network.segments, "segment"),
            grouped(network.resent + in_vain),
            grouped(network.out_of_order)
        )
    })
}

/// Returns evidence from messages that were not acknowledged. An acknowledgment is sent with the
/// reply if the server replies at once: so a lost reply shows here too, and causes a spurious
/// retransmission of its message.
fn unacknowledged(summary: &Summary) -> Option<String> {
    let messages = summary.evidence.network.delayed_messages();
    let scheduled = summary.results.counts.scheduled;
    is_disturbed(messages, scheduled).then(|| {
        format!(
            "{:.1} % of the messages were not acknowledged within {}: they, or their \
             acknowledgments, were lost or delayed on the path",
            messages as f64 / scheduled as f64 * 100.0,
            short(EXAMINE_AGE)
        )
    })
}

fn is_disturbed(count: u64, of: u64) -> bool {
    count >= BEYOND && count as f64 > DISTURBED * of as f64
}

/// Returns evidence that the round-trip time grew. Its percentiles are of the time, those of the
/// service are of the messages: in a closed loop, few messages are sent while the path is slow.
fn grown(summary: &Summary) -> Option<String> {
    let (growth, service) = (&summary.evidence.network.growth, &summary.results.service);
    POINTS.iter().find_map(|&(point, percentile)| {
        let grown = growth.distribution()?.percentile(percentile)?.value;
        is_grown(grown, nearest(service, percentile)).then(|| {
            format!(
                "the round-trip time of TCP exceeded its minimum by {} at {point} of the time",
                short(grown)
            )
        })
    })
}

/// Returns evidence that the path grew as measured by probes, which the server's kernel answers:
/// they wait for nothing but other packets.
fn probed(summary: &Summary) -> Option<String> {
    let probe = summary.evidence.probe.as_ref()?;
    POINTS.iter().find_map(|&(point, percentile)| {
        let longer = probe.growth_at(percentile)?;
        let service = nearest(&summary.results.service, percentile);
        (longer > QUEUED && longer > service / 2).then(|| {
            format!(
                "the round trip of probes exceeded its minimum, {}, by {} at {point} of the time",
                short(probe.least.unwrap_or_default()),
                short(longer)
            )
        })
    })
}

/// Returns what is not known of the path because probes were not answered.
pub(super) fn unanswered_probes(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let Some(probe) = &summary.evidence.probe else {
        return sentences;
    };
    if probe.silent > 0 {
        sentences.push(format!(
            "{} of {} did not answer probes ({}): a queue on the path of less than {} is not \
             detected",
            grouped(probe.silent),
            counted(probe.targets, "target"),
            probe.how.join(", "),
            short(ACK_DELAY_MAX)
        ));
    } else if probe.lost > 0 {
        sentences.push(format!(
            "{} of {} to the kernels of the targets, or the answers to them, were lost",
            grouped(probe.lost),
            counted(probe.lost + probe.round_trips.count(), "probe")
        ));
    }
    sentences
}

/// Returns evidence from the time that segments were in flight. It includes losses in a queue of
/// this machine itself, which no TCP counter shows.
fn held_up(summary: &Summary) -> Option<String> {
    let way = summary.evidence.network.held_up();
    is_grown(way, nearest(&summary.results.service, 50.0)).then(|| {
        format!(
            "segments were in flight for {} longer than a round trip takes",
            short(way)
        )
    })
}

/// Returns whether the round trip of TCP grew by more than an acknowledgment may be delayed, and by
/// more than half of a service time.
fn is_grown(growth: Duration, service: Duration) -> bool {
    growth > ACK_DELAY_MAX && growth > service / 2
}

fn nearest(latency: &Latency, percentile: f64) -> Duration {
    let distribution = latency.distribution();
    distribution.map_or(Duration::ZERO, |all| all.nearest(percentile).value)
}
