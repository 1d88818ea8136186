//! Whose doing it was that connections came up slowly. It decides no verdict by itself: where
//! messages waited for connections, they were blocked. Pure.
//!
//! The kernels alone take part in a handshake. A SYN is sent again after a second (RFC 6298), when
//! it or its answer was lost, or when the queue of connections that the server has not accepted is
//! full: a full queue drops SYNs, and nothing else.

use std::time::Duration;

use crate::load::summary::Summary;
use crate::load::verdict::thresholds::{DISTURBED, highest};
use crate::units::{counted, grouped, short};

/// Connecting takes one round trip; one beyond this is slow on any way on earth.
const SLOW: Duration = Duration::from_millis(500);

/// Returns what there is to say of slow connecting.
pub(super) fn slow_connecting(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let (point, connect) = highest(&summary.results.connect)?;
    let took = format!("{point} {}", short(connect.value));
    if network.syns_resent == 0 {
        let is_slow = connect.value > SLOW && connect.value > network.least_round_trip() * 10;
        return is_slow.then(|| {
            format!(
                "connecting was slow, {took}, though no SYN was sent again: the way, or this \
                 machine"
            )
        });
    }
    let resent = counted(network.syns_resent, "SYN").to_string();
    let disturbed = network.resent as f64 / network.segments.max(1) as f64;
    Some(if disturbed > DISTURBED {
        format!(
            "{resent} and {} of {} were sent again, so they were lost on the way: connecting took \
             {took}",
            grouped(network.resent),
            counted(network.segments, "other segment"),
        )
    } else {
        format!(
            "{resent} had to be sent again, and of {} {}: the server's queue of connections to be \
             accepted was full, it accepts too slowly; connecting took {took}",
            counted(network.segments, "other segment"),
            match network.resent {
                0 => "none".to_string(),
                resent => grouped(resent).to_string(),
            }
        )
    })
}
