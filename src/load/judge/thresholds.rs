//! The thresholds of the verdict, each with its unit and its reason, and the functions that compare
//! a measured part of a response with them. Pure.

use std::time::Duration;

use crate::load::latency::{Bound, Latency};
use crate::load::results::VISIBLE_LATENESS;
use crate::load::results::summary::Summary;
use crate::units::share;

/// The highest percentile at which a visible part of the generator makes a run client-bound. Where
/// it is visible only above, the run is valid up to a lower percentile.
pub(super) const JUDGED_MOST: f64 = 99.0;

/// Divisor of the response: a lateness above the quotient, and above [`VISIBLE_LATENESS`], is
/// visible in a result.
pub(super) const LATE_SHARE: u32 = 20;

/// The share of messages that may wait for a connection without an effect on a 99th percentile.
pub(super) const WAITED: f64 = 0.01;

/// Number of waiting messages below which that share proves nothing, unless it is more than half.
pub(super) const WAITED_FEW: u64 = 10;

/// The share of its time for which a thread may wait for a CPU.
pub(super) const STARVED: f64 = 0.10;

/// Minimum total or single absence that counts: a shorter one is in the range of the scheduler's
/// time slices, and proves nothing in so short a run.
pub(super) const STARVED_LEAST: Duration = Duration::from_millis(10);

/// The share of its time for which the generator of a closed loop may be absent: the rate is too
/// low by the same share.
pub(super) const AWAY: f64 = 1.0 / LATE_SHARE as f64;

/// The share of its time above which a thread has no idle time left for further work.
pub(super) const SATURATED: f64 = 0.90;

/// The busy share above which the CPU time per message is close to its minimum: a thread that
/// sleeps a lot spends most of its CPU time on waking up.
pub(super) const LOADED: f64 = 0.50;

/// The factor by which the CPU time per message of a thread that sleeps a lot may exceed its
/// minimum: 6 µs become up to 60 µs.
pub(super) const WAKING: f64 = 10.0;

/// The share of segments that may be lost or late without an effect on a 99.9th percentile.
pub(super) const DISTURBED: f64 = 0.001;

/// The smallest retransmission timeout (TCP_RTO_MIN).
pub(super) const RTO_MIN: Duration = Duration::from_millis(200);

/// The share of its time for which a connection may be limited by a buffer or a window.
pub(super) const LIMITED: f64 = 0.10;

/// Returns a time that is summed over all connections, as a share of their total time.
pub(super) fn of_all_time(time: Duration, summary: &Summary) -> f64 {
    share(
        time,
        summary
            .times
            .sending
            .saturating_mul(summary.plan.connections),
    )
}

/// Returns a part of the response at the highest supported percentile, with the name of that
/// percentile, if the part is visible in the response.
pub(super) fn visible(part: &Latency, summary: &Summary) -> Option<(&'static str, Bound)> {
    let (point, part) = highest(part)?;
    let (_, response) = highest(&summary.results.response)?;
    let seen = part.value > VISIBLE_LATENESS && part.value > response.value / LATE_SHARE;
    seen.then_some((point, part))
}

/// Returns the highest percentile up to the 99th that the samples support; of few samples, the
/// maximum.
pub(super) fn highest(latency: &Latency) -> Option<(&'static str, Bound)> {
    let distribution = latency.distribution()?;
    let points = [("p99", 99.0), ("p90", 90.0), ("p50", 50.0)];
    let supported = points
        .into_iter()
        .find_map(|(point, percentile)| Some((point, distribution.percentile(percentile)?)));
    supported.or(Some(("max", distribution.longest())))
}

/// Returns whether the receive windows of the peers were closed for a significant part of the time.
pub(super) fn window_was_closed(summary: &Summary) -> bool {
    of_all_time(summary.evidence.network.window_limited, summary) > LIMITED
}
