//! Determines what set the pace of a closed loop in which no other limit was found. In a closed
//! loop the next message waits for the reply, so the rate is that of the slowest part of the cycle.
//! Pure.
//!
//! No part is named only because no other was found. The generator is named by its CPU time, and
//! the think time by the plan. The server is named if there is evidence for it: its receive window
//! was closed, or replies took longer than the path while there was no queue on the path. A probe
//! that the server's kernel answers shows the latter. The round trips that TCP measures do not,
//! below [`ACK_DELAY_MAX`], since an acknowledgment may be delayed to be sent with the reply.

use std::time::Duration;

use crate::load::judge::connecting::costly_syns;
use crate::load::judge::thresholds::{SATURATED, window_was_closed};
use crate::load::latency::Latency;
use crate::load::results::evidence::ACK_DELAY_MAX;
use crate::load::results::summary::Summary;
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
    let response = median(&summary.results.response);
    if think > response {
        return Ok(format!(
            "the think time, {}, set the pace: a reply took {}",
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
            "the network path set the pace: a reply took {}, of which a round trip takes {}; \
             {idle}",
            short(service),
            short(least)
        ));
    }
    let probe = summary.evidence.probe.as_ref();
    let grown = match probe.and_then(|probe| probe.growth_at(50.0)) {
        Some(longer) => longer,
        None => median(&network.growth),
    };
    if grown + ACK_DELAY_MAX < service || grown < service / 2 {
        return Ok(format!(
            "the server set the pace: a reply took {}, a round trip {}, and {idle}",
            short(service),
            short(least + grown)
        ));
    }
    Err(format!(
        "the server or a queue on the path set the pace: a reply took {} and carried the \
         acknowledgment of its message; a round trip takes {} when the path is idle, and {idle}",
        short(service),
        short(least)
    ))
}

fn median(latency: &Latency) -> Duration {
    let distribution = latency.distribution();
    distribution.map_or(Duration::ZERO, |all| all.nearest(50.0).value)
}
