//! Whose doing it was that connections came up slowly, or were served late. Pure.
//!
//! The kernels alone take part in a handshake. A SYN is sent again after a second (RFC 6298), when
//! it or its answer was lost, or when the queue of connections that the server has not accepted is
//! full: a full queue drops SYNs, and nothing else. A connection that waits in that queue is up for
//! the client, so a server that accepts slowly shows in the first reply on each connection.

use std::time::Duration;

use crate::load::latency::Latency;
use crate::load::summary::Summary;
use crate::load::verdict::thresholds::{DISTURBED, LATE_SHARE, highest, of_all_time};
use crate::units::{counted, grouped, short};

/// Connecting takes one round trip; one beyond this is slow on any way on earth.
const SLOW: Duration = Duration::from_millis(500);

/// The wait for the answer to the first SYN (TCP_TIMEOUT_INIT).
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// The first reply on a connection is slow when it takes longer than this, ...
const FIRST_SLOW: Duration = Duration::from_millis(10);

/// ... and so many times as long as others.
const FIRST_TIMES: u32 = 10;

/// Returns what follows from SYNs that had to be sent again, if the waits for that are a part of
/// the time that counts. Where no network takes part, it is the server's doing; otherwise it is not
/// known whose.
pub(super) fn costly_syns(summary: &Summary) -> Option<String> {
    let waits = SYN_AGAIN.saturating_mul(summary.evidence.network.syns_resent as u32);
    let is_seen = of_all_time(waits, summary) > 1.0 / f64::from(LATE_SHARE);
    is_seen.then(|| syns_alone_resent(summary)).flatten()
}

/// Returns what there is to say of slow connecting, and decides no verdict.
pub(super) fn slow_connecting(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let took = took(summary)?;
    if network.syns_resent == 0 {
        let (_, connect) = highest(&summary.results.connect)?;
        let is_slow = connect.value > SLOW && connect.value > network.least_round_trip() * 10;
        let said = format!(
            "connecting was slow, {took}, though no SYN was sent again: the way, or this machine"
        );
        return is_slow
            .then_some(said)
            .or_else(|| slow_first_replies(summary));
    }
    syns_alone_resent(summary).or_else(|| {
        Some(format!(
            "{} and {} of {} were sent again, so they were lost on the way: connecting took {took}",
            counted(network.syns_resent, "SYN"),
            grouped(network.resent),
            counted(network.segments, "other segment"),
        ))
    })
}

/// Returns what follows from SYNs that were sent again while hardly any other segment was, or where
/// no network takes part.
fn syns_alone_resent(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let disturbed = network.resent as f64 / network.segments.max(1) as f64;
    let took = took(summary)?;
    // Data that was sent before the server accepted is sent again as well.
    let is_queue = summary.is_local || disturbed <= DISTURBED;
    (network.syns_resent > 0 && is_queue).then(|| {
        format!(
            "{} had to be sent again, and of {} {}: the server's queue of connections to be \
             accepted was full, it accepts too slowly{}; connecting took {took}",
            counted(network.syns_resent, "SYN"),
            counted(network.segments, "other segment"),
            match network.resent {
                0 => "none".to_string(),
                resent => grouped(resent).to_string(),
            },
            match summary.is_local {
                true => "",
                false => ", or something on the way drops SYNs",
            }
        )
    })
}

/// Returns that first replies were slow, where connections are replaced: otherwise there are too
/// few to say so.
fn slow_first_replies(summary: &Summary) -> Option<String> {
    summary.plan.churn.as_ref()?;
    let median = |of: &Latency| Some(of.distribution()?.percentile(50.0)?.value);
    let first = median(&summary.results.first)?;
    let any = median(&summary.results.service)?;
    (first > FIRST_SLOW && first > any * FIRST_TIMES).then(|| {
        format!(
            "the first reply on a connection took p50 {}, and any p50 {}: the server accepts \
             connections slowly, or is slow to begin with one",
            short(first),
            short(any)
        )
    })
}

fn took(summary: &Summary) -> Option<String> {
    let (point, connect) = highest(&summary.results.connect)?;
    Some(format!("{point} {}", short(connect.value)))
}
