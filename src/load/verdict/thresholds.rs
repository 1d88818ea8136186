//! The thresholds of the verdict, each with its unit and its reason, and how a measured part of a
//! response is held against them. Pure.

use std::time::Duration;

use crate::load::evidence::share;
use crate::load::latency::{Bound, Latency};
use crate::load::results::LATE;
use crate::load::summary::Summary;

/// The percentiles that are printed and judged.
pub(super) const POINTS: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// The highest percentile at which the generator's part makes a run its own. Where it is seen only
/// above, the run is valid up to there.
pub(super) const JUDGED_MOST: f64 = 99.0;

/// A lateness beyond [`LATE`] can be seen in a result if it is such a part of the response.
pub(super) const LATE_SHARE: u32 = 20;

/// The share of messages that may have waited for a connection, as a 99th percentile sees it, ...
pub(super) const WAITED: f64 = 0.01;

/// ... unless they are too few to say anything.
pub(super) const WAITED_FEW: u64 = 10;

/// The part of its time for which a thread may have waited for a CPU, ...
pub(super) const STARVED: f64 = 0.10;

/// ... unless it is less than the scheduler's time slices: in so short a run it says nothing.
pub(super) const STARVED_LEAST: Duration = Duration::from_millis(10);

/// The part of its time for which the generator of a closed loop may not be let run: the rate is
/// too low by as much.
pub(super) const AWAY: f64 = 1.0 / LATE_SHARE as f64;

/// The part of its time beyond which a thread has none left for what comes next.
pub(super) const SATURATED: f64 = 0.90;

/// The part of its time beyond which its CPU time a message is about the least it can do with: one
/// that sleeps a lot spends most of it on waking up.
pub(super) const LOADED: f64 = 0.50;

/// The share of segments that may be lost or late before a 99.9th percentile shows it.
pub(super) const DISTURBED: f64 = 0.001;

/// The smallest retransmission timeout (TCP_RTO_MIN).
pub(super) const RTO_MIN: Duration = Duration::from_millis(200);

/// The part of its time in which a buffer or window may hold up a connection.
pub(super) const LIMITED: f64 = 0.10;

/// A time of all connections together as a share of the time that they had.
pub(super) fn of_all_time(time: Duration, summary: &Summary) -> f64 {
    share(time, summary.course.sending * summary.plan.connections)
}

/// A part of the response that can be seen in it, with the percentile at which it was looked for.
pub(super) fn visible(part: &Latency, summary: &Summary) -> Option<(&'static str, Bound)> {
    let (point, part) = highest(part)?;
    let (_, response) = highest(&summary.results.response)?;
    let seen = part.value > LATE && part.value > response.value / LATE_SHARE;
    seen.then_some((point, part))
}

/// The highest percentile up to the 99th that the samples support; of a few, the longest.
pub(super) fn highest(latency: &Latency) -> Option<(&'static str, Bound)> {
    let distribution = latency.distribution()?;
    let points = [("p99", 99.0), ("p90", 90.0), ("p50", 50.0)];
    let supported = points
        .into_iter()
        .find_map(|(point, percentile)| Some((point, distribution.percentile(percentile)?)));
    supported.or(Some(("max", distribution.longest())))
}

/// Returns whether the receive windows of the peers were closed for a part of the time that
/// counts.
pub(super) fn window_was_closed(summary: &Summary) -> bool {
    of_all_time(summary.evidence.network.window_limited, summary) > LIMITED
}
