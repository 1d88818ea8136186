//! What shows that the network was the limit of a run. Pure.
//!
//! TCP measures round trips by acknowledgments, and those may wait to ride on the reply for up to
//! [`HELD_BACK`]: below that a way that has grown cannot be told from a server that takes as long.

use std::time::Duration;

use crate::load::evidence::{HELD_BACK, UNDER_WAY};
use crate::load::latency::{BEYOND, Latency};
use crate::load::summary::Summary;
use crate::load::verdict::thresholds::{DISTURBED, RTO_MIN, highest};
use crate::units::{counted, grouped, short};

/// The percentiles at which the way is held against the service.
const POINTS: [(&str, f64); 3] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)];

/// A queue on the way that can be seen in a result: a machine that wakes late is not one.
const QUEUED: Duration = Duration::from_millis(1);

/// What shows that segments were lost, or held up on their way.
pub(super) fn network_limits(summary: &Summary) -> Vec<String> {
    let ways = [
        resent(summary),
        unacknowledged(summary),
        grown(summary),
        probed(summary),
        held_up(summary),
    ];
    ways.into_iter().flatten().collect()
}

/// Segments that were sent again, or came out of order.
fn resent(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    // A segment sent again in vain was late, or its acknowledgment was lost; in the latter case
    // somebody waited for a retransmission.
    let late = highest(&summary.results.service).is_some_and(|(_, late)| late.value >= RTO_MIN);
    let in_vain = if late { network.resent_in_vain } else { 0 };
    let disturbed = network.resent + network.out_of_order + in_vain;
    is_disturbed(disturbed, network.segments).then(|| {
        format!(
            "of {}, {} were sent again, and {} came out of order",
            counted(network.segments, "segment"),
            grouped(network.resent + in_vain),
            grouped(network.out_of_order)
        )
    })
}

/// Messages whose acknowledgment did not come. It rides on a reply that is sent at once: so a lost
/// reply shows in this way too, and its message is sent again in vain.
fn unacknowledged(summary: &Summary) -> Option<String> {
    let messages = summary.evidence.network.held_up_messages();
    let scheduled = summary.results.counts.scheduled;
    is_disturbed(messages, scheduled).then(|| {
        format!(
            "{:.1} % of the messages were not acknowledged within {}: they, or what answered them, \
             were lost or held up on the way",
            messages as f64 / scheduled as f64 * 100.0,
            short(UNDER_WAY)
        )
    })
}

fn is_disturbed(count: u64, of: u64) -> bool {
    count >= BEYOND && count as f64 > DISTURBED * of as f64
}

/// The growth of the round trip. It is one of the time, and the service is one of the messages: in
/// a closed loop a way that is slow for a tenth of the time has few of them.
fn grown(summary: &Summary) -> Option<String> {
    let (growth, service) = (&summary.evidence.network.growth, &summary.results.service);
    POINTS.iter().find_map(|&(point, percentile)| {
        let grown = growth.distribution()?.percentile(percentile)?.value;
        is_grown(grown, nearest(service, percentile)).then(|| {
            format!(
                "the round-trip time of TCP stood {} above its smallest value at {point} of the \
                 time",
                short(grown)
            )
        })
    })
}

/// The growth of the way as packets see it that the server's kernel answers: nothing waits in it
/// but packets.
fn probed(summary: &Summary) -> Option<String> {
    let probe = summary.evidence.probe.as_ref()?;
    POINTS.iter().find_map(|&(point, percentile)| {
        let longer = probe.way_at(percentile)?;
        let service = nearest(&summary.results.service, percentile);
        (longer > QUEUED && longer > service / 2).then(|| {
            format!(
                "a packet that the server's kernel answers was on its way for {} longer than the \
                 least, {}, at {point} of the time",
                short(longer),
                short(probe.least.unwrap_or_default())
            )
        })
    })
}

/// Returns what was not seen of the way, since packets that the targets' kernels answer were not
/// answered.
pub(super) fn unanswered_probes(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let Some(probe) = &summary.evidence.probe else {
        return said;
    };
    if probe.silent > 0 {
        said.push(format!(
            "{} of {} gave no answer to probes ({}): a queue on the way of less than {} is not \
             seen",
            grouped(probe.silent),
            counted(probe.targets, "target"),
            probe.how.join(", "),
            short(HELD_BACK)
        ));
    } else if probe.lost > 0 {
        said.push(format!(
            "{} of {} to the kernels of the targets were lost, or their answers were",
            grouped(probe.lost),
            counted(probe.lost + probe.round_trips.count(), "packet")
        ));
    }
    said
}

/// The time of segments on their way. A queue that drops what this machine itself puts into it
/// shows in no counter of TCP.
fn held_up(summary: &Summary) -> Option<String> {
    let way = summary.evidence.network.held_up();
    is_grown(way, nearest(&summary.results.service, 50.0)).then(|| {
        format!(
            "segments were on their way for {} longer than a round trip takes",
            short(way)
        )
    })
}

/// Returns whether TCP's way grew by more than acknowledgments may wait, and by half of what a
/// reply took.
fn is_grown(growth: Duration, service: Duration) -> bool {
    growth > HELD_BACK && growth > service / 2
}

fn nearest(latency: &Latency, percentile: f64) -> Duration {
    let distribution = latency.distribution();
    distribution.map_or(Duration::ZERO, |all| all.nearest(percentile).value)
}
