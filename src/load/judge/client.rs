//! Finds evidence that the generator itself was the limit of a run, and the percentile up to which
//! it was not. Pure.
//!
//! The generator's part in a response is its own lateness and its absences at the same percentile,
//! plus the wait for connections whose replies it did not read because it was absent. It is judged
//! at every percentile that is printed, and at the standard ones up to p99 even if they are not:
//! whether a run is client-bound does not depend on what is printed. Delays that these parts cannot
//! explain are not attributed to the generator, however busy it was.

use std::fmt;
use std::time::Duration;

use crate::load::judge::thresholds::{
    AWAY, JUDGED_MOST, LATE_SHARE, LIMITED, LOADED, SATURATED, STARVED, STARVED_LEAST, WAKING,
    of_all_time, visible, window_was_closed,
};
use crate::load::latency::Latency;
use crate::load::latency::percentile::Percentile;
use crate::load::plan::Plan;
use crate::load::results::VISIBLE_LATENESS;
use crate::load::results::summary::Summary;
use crate::units::short;

/// The generator's part in the response at a point of its distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// The point.
    pub(super) point: Point,
    /// The time for which the generator itself held messages up.
    pub(super) own: Duration,
    /// The response at this point.
    pub(super) response: Duration,
}

/// A point of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// A percentile.
    At(Percentile),
    /// The longest sample.
    Max,
}

/// Formats the point as it is printed: `p99.9` or `max`.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::At(percentile) => percentile.fmt(f),
            Point::Max => f.pad("max"),
        }
    }
}

/// Returns evidence that the generator or its send buffers held messages up.
pub(super) fn client_limits(summary: &Summary) -> Vec<String> {
    let mut sentences = match summary.asked_rate() {
        Some(rate) => limits_of_a_schedule(summary, rate),
        None => limits_of_a_closed_loop(summary),
    };
    if !sentences.is_empty() {
        sentences.extend(explanations(summary));
    }
    sentences.extend(full_buffers(summary));
    sentences
}

/// Returns the generator's part at the lowest judged percentile at which it is visible; for a
/// schedule with too few samples for any percentile, at the maximum.
pub(super) fn first_visible(summary: &Summary) -> Option<Part> {
    let excused = summary.waited_for_own_server();
    let is_visible = |part: &Part| {
        part.own > VISIBLE_LATENESS && part.own > part.response / LATE_SHARE && part.own > excused
    };
    let mut parts = parts(summary).peekable();
    match parts.peek() {
        Some(_) => parts.find(is_visible),
        None if summary.asked_rate().is_some() => longest(summary).filter(is_visible),
        None => None,
    }
}

/// Returns the highest printed percentile below this point; if none is printed below, the highest
/// judged one. `None`: the point is the maximum or the lowest percentile.
pub(super) fn percentile_below(point: Point, plan: &Plan) -> Option<Percentile> {
    let Point::At(point) = point else { return None };
    let below = |list: &[Percentile]| list.iter().copied().filter(|it| *it < point).max();
    below(&plan.percentiles).or_else(|| below(&judged_percentiles(plan)))
}

/// Returns the percentiles at which the generator's part is judged, in ascending order.
fn judged_percentiles(plan: &Plan) -> Vec<Percentile> {
    let standard = Percentile::STANDARD.into_iter();
    let always = standard.filter(|percentile| percentile.percent() <= JUDGED_MOST);
    let mut judged: Vec<Percentile> = plan.percentiles.iter().copied().chain(always).collect();
    judged.sort();
    judged.dedup();
    judged
}

/// Returns whether the generator had no idle time, waits for the run's own server excluded.
pub(super) fn has_no_time(summary: &Summary) -> bool {
    summary.busy() + away(summary) > SATURATED
}

/// Returns the generator's part at each judged percentile that the samples support.
fn parts(summary: &Summary) -> impl Iterator<Item = Part> {
    let percentiles = judged_percentiles(&summary.plan).into_iter();
    percentiles.filter_map(|percentile| part(percentile, summary))
}

fn longest(summary: &Summary) -> Option<Part> {
    let longest = |latency: &Latency| Some(latency.distribution()?.longest().value);
    let held = longest(&summary.evidence.absences.held);
    let response = longest(&summary.results.response)?;
    let own = longest(&summary.results.own).max(held).unwrap_or_default();
    Some(Part {
        point: Point::Max,
        own: own.min(response),
        response,
    })
}

/// Returns the generator's part in the response at a percentile, if the samples support it.
fn part(percentile: Percentile, summary: &Summary) -> Option<Part> {
    let results = &summary.results;
    let response = results.response.distribution()?;
    let percent = percentile.percent();
    let value = response.percentile(percent)?.value;
    let longer = (response.count() as f64 * (1.0 - percent / 100.0)) as u64;
    let above = |latency: &Latency| {
        let distribution = latency.distribution()?;
        Some(distribution.below_longest(longer)?.value)
    };
    let held = above(&summary.evidence.absences.held);
    let own = above(&results.own).max(held).unwrap_or_default();
    // A message waits for a connection until the previous replies are read. Where an absence of the
    // generator is longer than half of a service time, that wait is its own doing as well.
    let service = above(&results.service).unwrap_or_default();
    let is_turnover = held.is_some_and(|held| held > service / 2);
    let blocked = above(&results.blocked).filter(|_| is_turnover);
    Some(Part {
        point: Point::At(percentile),
        own: (own + blocked.unwrap_or_default()).min(value),
        response: value,
    })
}

/// Returns the share of its time for which the most affected thread had work to do but was not
/// running: by the kernel's run-queue wait or by the run's own account of absences, whichever is
/// more. Waits for the run's own server are excluded.
fn away(summary: &Summary) -> f64 {
    let excused = summary.evidence.machine.starved - summary.starved_by_others();
    let absent = summary.evidence.absences.share() - excused;
    summary.starved_by_others().max(absent)
}

fn limits_of_a_schedule(summary: &Summary, rate: f64) -> Vec<String> {
    let mut sentences = Vec::new();
    let visible = first_visible(summary).filter(|part| is_judged(part.point));
    if let Some(part) = visible {
        sentences.push(format!(
            "the generator itself delayed messages: {} {} of a response of {}",
            part.point,
            short(part.own),
            short(part.response)
        ));
    }
    // In a thread without idle time, a part that is too short to be reported above counts as well.
    let mut judged = parts(summary).filter(|part| is_judged(part.point));
    let is_late = judged.any(|part| part.own > part.response / LATE_SHARE);
    if has_no_time(summary) && is_late {
        sentences.push(format!(
            "the generator had no idle time: it was busy for {:.0} % of its time, and had work but \
             did not run for {:.0} %",
            summary.busy() * 100.0,
            away(summary) * 100.0
        ));
    }
    // If the server is too slow as well, the generator has idle time while it waits for replies.
    let scheduled = summary.scheduled_rate().unwrap_or(rate);
    let needed = scheduled * summary.cpu_a_message().as_secs_f64();
    let is_loaded = summary.busy() + away(summary) > LOADED;
    let overstated = if is_loaded { 1.0 } else { WAKING };
    if needed > overstated * f64::from(summary.plan.threads) {
        sentences.push(format!(
            "the generator needs {} of CPU time per message: {needed:.1} CPUs for this rate",
            short(summary.cpu_a_message())
        ));
    }
    sentences
}

/// Returns evidence that the generator limited a closed loop. Such a loop sends when replies
/// arrive, so it has no lateness of its own: an absence of the generator delays replies, and so
/// lowers the rate.
fn limits_of_a_closed_loop(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let time = summary.evidence.absences.watched.mul_f64(away(summary));
    if away(summary) > AWAY && time > STARVED_LEAST {
        sentences.push(format!(
            "the generator had work but did not run for {:.0} % of its time, and was busy for \
             {:.0} %: it set the pace",
            away(summary) * 100.0,
            summary.busy() * 100.0
        ));
    }
    if let Some(part) = first_visible(summary).filter(|part| is_judged(part.point)) {
        sentences.push(format!(
            "the generator did not run while messages were outstanding: {} {} of a response of {}",
            part.point,
            short(part.own),
            short(part.response)
        ));
    }
    sentences
}

/// Returns whether a part that is visible at this point makes a run client-bound.
fn is_judged(point: Point) -> bool {
    match point {
        Point::At(percentile) => percentile.percent() <= JUDGED_MOST,
        Point::Max => true,
    }
}

/// Returns what held the generator up, as far as the kernel's counters show it.
fn explanations(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let machine = &summary.evidence.machine;
    let starved = summary.starved_by_others();
    if starved > STARVED {
        sentences.push(format!(
            "the generator waited for a CPU for {:.0} % of its time{}",
            starved * 100.0,
            match summary.own_server {
                Some(_) => ", not counting the waits for the built-in server",
                None => "",
            }
        ));
    }
    if machine.throttled > VISIBLE_LATENESS {
        sentences.push(format!(
            "the CPU quota of its cgroup was used up for {} (cpu.max)",
            short(machine.throttled)
        ));
    }
    let longest = summary.evidence.absences.longest;
    if longest > STARVED_LEAST && starved <= STARVED && machine.throttled <= VISIBLE_LATENESS {
        sentences.push(format!(
            "the generator or its machine was stopped: it did not run for {} at a stretch, and did \
             not wait for a CPU",
            short(longest)
        ));
    }
    sentences
}

/// Returns evidence that the client's own send buffers held messages up, if there is any.
fn full_buffers(summary: &Summary) -> Option<String> {
    let network = &summary.evidence.network;
    let (point, blocked) = visible(&summary.results.blocked, summary)?;
    let limited = of_all_time(network.buffer_limited, summary);
    let (asked, largest) = (
        summary.plan.options.send_buffer,
        summary.plan.sizes.largest(),
    );
    if limited > LIMITED {
        Some(format!(
            "the generator's send buffers were full for {:.0} % of the time (--send-buffer)",
            limited * 100.0
        ))
    } else if asked.is_some_and(|asked| asked < largest) && !window_was_closed(summary) {
        // The kernel counts that time in clock ticks, which yields zero on a fast link.
        Some(format!(
            "the generator's send buffers hold less than a message (--send-buffer): blocked \
             {point} {}",
            short(blocked.value)
        ))
    } else {
        None
    }
}
