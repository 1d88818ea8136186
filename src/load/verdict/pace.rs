//! Determines what set the pace of a closed loop in which no other limit was found. In a closed
//! loop the next message waits for the reply, so the rate is that of the slowest part of the cycle.
//! Pure.
//!
//! No part is named only because no other was found. The generator is named by its CPU time, and
//! the think time by the plan. The server is named if there is evidence for it: its receive window
//! was closed, or replies took longer than the path while there was no queue on the path. A probe
//! that the server's kernel answers shows the latter. The round trips that TCP measures do not,
//! below [`HELD_BACK`], since an acknowledgment may be delayed to be sent with the reply.

use std::time::Duration;

use crate::load::evidence::HELD_BACK;
use crate::load::latency::Latency;
use crate::load::summary::Summary;
use crate::load::verdict::connecting::costly_syns;
use crate::load::verdict::thresholds::{SATURATED, window_was_closed};
use crate::units::short;

/// Returns what set the pace; an error when the measurements do not show it.
pub(super) fn pace(summary: &Summary) -> Result<String, String> {
    let busy = summary.busy();
    if busy > SATURATED {
        return Ok(format!(
            "the generator was busy for {:.0} % of its time: it set the pace, and the rate is a \
             lower bound of the server's",
            busy * 100.0
        ));
    }
    // On this host, retransmitted SYNs were already attributed to the server by `server_limits`.
    if let Some(lost) = costly_syns(summary) {
        return Err(lost);
    }
    let think = summary.plan.think();
    let median = |of: &Latency| {
        let distribution = of.distribution();
        distribution.map_or(Duration::ZERO, |all| all.nearest(50.0).value)
    };
    let response = median(&summary.results.response);
    if think > response {
        return Ok(format!(
            "the time to think, {}, set the pace: a reply took {}",
            short(think),
            short(response)
        ));
    }
    let idle = format!(
        "the generator was busy for {:.0} % of its time",
        busy * 100.0
    );
    if window_was_closed(summary) {
        return Ok(format!(
            "the server set the pace: its receive window was closed, and {idle}"
        ));
    }
    let network = &summary.evidence.network;
    let service = median(&summary.results.service);
    let least = network.least_round_trip();
    if summary.is_local {
        return Ok(format!(
            "the server set the pace: a reply took {} on this machine, and {idle}",
            short(service)
        ));
    }
    if service < least * 2 {
        return Ok(format!(
            "the way set the pace: a reply took {}, of which the way itself takes {}; {idle}",
            short(service),
            short(least)
        ));
    }
    let probe = summary.evidence.probe.as_ref();
    let grown = match probe.and_then(|probe| probe.way_at(50.0)) {
        Some(longer) => longer,
        None => median(&network.growth),
    };
    if grown + HELD_BACK < service || grown < service / 2 {
        return Ok(format!(
            "the server set the pace: a reply took {}, the way {}, and {idle}",
            short(service),
            short(least + grown)
        ));
    }
    Err(format!(
        "the server set the pace, or a queue on the way: a reply took {}, and its acknowledgment \
         came with it; the way takes {} when it is idle, and {idle}",
        short(service),
        short(least)
    ))
}
