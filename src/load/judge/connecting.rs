//! Attributes slow connecting and slow first replies to the server or to the network. Pure.
//!
//! Only the kernels take part in a handshake. A SYN is retransmitted after a second (RFC 6298),
//! when it or its answer was lost, or when the server's accept queue is full: a full queue drops
//! SYNs, and nothing else. A connection that waits in that queue is established for the client, so
//! a server that accepts slowly shows in the first reply on each connection.

use std::time::Duration;

use crate::load::judge::thresholds::{DISTURBED, LATE_SHARE, highest, of_all_time};
use crate::load::latency::Latency;
use crate::load::results::summary::Summary;
use crate::units::{counted, grouped, short};

/// Connecting takes one round trip; a longer time than this is slow on any path on earth.
const SLOW: Duration = Duration::from_millis(500);

/// The initial retransmission timeout of a SYN (TCP_TIMEOUT_INIT).
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// Minimum time of a slow first reply on a connection.
const FIRST_SLOW: Duration = Duration::from_millis(10);

/// Minimum ratio of a slow first reply to the median service time.
const FIRST_TIMES: u32 = 10;

/// Returns what retransmitted SYNs show, if the waits for them are a significant part of the time.
/// Where no network is involved, the server is the cause; otherwise the cause is not known.
pub(super) fn costly_syns(summary: &Summary) -> Option<String> {
    let waits = SYN_AGAIN.saturating_mul(summary.evidence.network.syns_resent as u32);
    let is_seen = of_all_time(waits, summary) > 1.0 / f64::from(LATE_SHARE);
    is_seen.then(|| syns_alone_resent(summary)).flatten()
}

/// Returns a remark about slow connecting, which does not affect the verdict.
pub(super) fn slow_connecting(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let took = took(summary)?;
    if network.syns_resent == 0 {
        let (_, connect) = highest(&summary.results.connect)?;
        let is_slow = connect.value > SLOW && connect.value > network.least_round_trip() * 10;
        let sentences = format!(
            "connecting was slow, {took}, though no SYN was retransmitted: the path or this \
             machine is the cause"
        );
        return is_slow
            .then_some(sentences)
            .or_else(|| slow_first_replies(summary));
    }
    syns_alone_resent(summary).or_else(|| {
        Some(format!(
            "{} and {} of {} were retransmitted, so they were lost on the path: connecting took \
             {took}",
            counted(network.syns_resent, "SYN"),
            grouped(network.resent),
            counted(network.segments, "other segment"),
        ))
    })
}

/// Returns what retransmitted SYNs show when hardly any other segment was retransmitted, or when no
/// network is involved.
fn syns_alone_resent(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let disturbed = network.resent as f64 / network.segments.max(1) as f64;
    let took = took(summary)?;
    // With a full accept queue, data that the client sends before the server accepts is
    // retransmitted too.
    let is_queue = summary.is_local || disturbed <= DISTURBED;
    (network.syns_resent > 0 && is_queue).then(|| {
        format!(
            "{} had to be retransmitted, and of {} {}: the server's accept queue was full, it \
             accepts too slowly{}; connecting took {took}",
            counted(network.syns_resent, "SYN"),
            counted(network.segments, "other segment"),
            match network.resent {
                0 => "none".to_string(),
                resent => grouped(resent).to_string(),
            },
            match summary.is_local {
                true => "",
                false => ", or something on the path drops SYNs",
            }
        )
    })
}

/// Returns a remark about slow first replies, if connections are replaced: otherwise there are too
/// few of them.
fn slow_first_replies(summary: &Summary) -> Option<String> {
    summary.plan.churn.as_ref()?;
    let median = |of: &Latency| Some(of.distribution()?.percentile(50.0)?.value);
    let first = median(&summary.results.first)?;
    let any = median(&summary.results.service)?;
    (first > FIRST_SLOW && first > any * FIRST_TIMES).then(|| {
        format!(
            "the first reply on a connection took p50 {}, any reply p50 {}: the server accepts \
             connections slowly, or is slow to start serving one",
            short(first),
            short(any)
        )
    })
}

fn took(summary: &Summary) -> Option<String> {
    let (point, connect) = highest(&summary.results.connect)?;
    Some(format!("{point} {}", short(connect.value)))
}
