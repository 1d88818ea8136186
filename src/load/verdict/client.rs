//! What shows that the generator itself was the limit of a run, and up to which percentile it was
//! not. Pure.
//!
//! The part of the generator in a response is what its own lateness and its absences are at the
//! same percentile, with the wait for connections whose replies it was not there to read: it is
//! judged wherever a percentile is printed. What they cannot explain is not its doing, however busy
//! it was.

use std::time::Duration;

use crate::load::latency::Latency;
use crate::load::results::LATE;
use crate::load::summary::Summary;
use crate::load::verdict::thresholds::{
    AWAY, JUDGED_MOST, LATE_SHARE, LIMITED, LOADED, POINTS, SATURATED, STARVED, STARVED_LEAST,
    of_all_time, visible, window_was_closed,
};
use crate::units::short;

/// The part of the generator in the response at a percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// The percentile, by the name that is printed.
    pub(super) point: &'static str,
    /// For how long the generator itself held messages up.
    pub(super) own: Duration,
    /// The response.
    pub(super) response: Duration,
}

/// Returns what shows that the generator did not keep its own time.
pub(super) fn client_limits(summary: &Summary) -> Vec<String> {
    let mut said = match summary.asked_rate() {
        Some(rate) => limits_of_a_schedule(summary, rate),
        None => limits_of_a_closed_loop(summary),
    };
    if !said.is_empty() {
        said.extend(explanations(summary));
    }
    said.extend(full_buffers(summary));
    said
}

/// Returns the lowest printed percentile at which the generator has a part that can be seen; of a
/// schedule with too few samples for any, the longest.
pub(super) fn first_visible(summary: &Summary) -> Option<Part> {
    let excused = summary.waited_for_own_server();
    let is_visible = |part: &Part| {
        part.own > LATE && part.own > part.response / LATE_SHARE && part.own > excused
    };
    let mut parts = parts(summary).peekable();
    match parts.peek() {
        Some(_) => parts.find(is_visible),
        None if summary.asked_rate().is_some() => longest(summary).filter(is_visible),
        None => None,
    }
}

/// Returns the highest printed percentile below this one.
pub(super) fn point_below(point: &str) -> Option<(&'static str, f64)> {
    let place = POINTS.iter().position(|(name, _)| *name == point)?;
    POINTS.get(place.checked_sub(1)?).copied()
}

/// Returns whether the generator had neither time left nor an excuse for it.
pub(super) fn has_no_time(summary: &Summary) -> bool {
    summary.busy() + away(summary) > SATURATED
}

/// Returns the part of the generator at each percentile that the samples support.
fn parts(summary: &Summary) -> impl Iterator<Item = Part> {
    let points = POINTS.iter();
    points.filter_map(|&(point, percentile)| part(point, percentile, summary))
}

fn longest(summary: &Summary) -> Option<Part> {
    let longest = |latency: &Latency| Some(latency.distribution()?.longest().value);
    let held = longest(&summary.evidence.absences.held);
    let response = longest(&summary.results.response)?;
    let own = longest(&summary.results.own).max(held).unwrap_or_default();
    Some(Part {
        point: "max",
        own: own.min(response),
        response,
    })
}

/// Returns the part of the generator in the response at a percentile that the samples support.
fn part(point: &'static str, percentile: f64, summary: &Summary) -> Option<Part> {
    let results = &summary.results;
    let response = results.response.distribution()?;
    let value = response.percentile(percentile)?.value;
    let longer = (response.count() as f64 * (1.0 - percentile / 100.0)) as u64;
    let above = |latency: &Latency| {
        let distribution = latency.distribution()?;
        Some(distribution.below_longest(longer)?.value)
    };
    let held = above(&summary.evidence.absences.held);
    let own = above(&results.own).max(held).unwrap_or_default();
    // Messages wait for a connection until the replies before them are read. Where the generator's
    // absences are most of a service, that wait is its own as well.
    let service = above(&results.service).unwrap_or_default();
    let is_turnover = held.is_some_and(|held| held > service / 2);
    let blocked = above(&results.blocked).filter(|_| is_turnover);
    Some(Part {
        point,
        own: (own + blocked.unwrap_or_default()).min(value),
        response: value,
    })
}

/// Returns the share of its time for which the busiest thread was ready or due to work and was not
/// let run, by the kernel's count of waits for a CPU or by the run's own account; without waits for
/// the run's own server.
fn away(summary: &Summary) -> f64 {
    let excused = summary.evidence.machine.starved - summary.starved_by_others();
    let absent = summary.evidence.absences.share() - excused;
    summary.starved_by_others().max(absent)
}

fn limits_of_a_schedule(summary: &Summary, rate: f64) -> Vec<String> {
    let mut said = Vec::new();
    let visible = first_visible(summary).filter(|part| is_judged(part.point));
    if let Some(part) = visible {
        said.push(format!(
            "the generator sent late by its own doing: {} {} of {}",
            part.point,
            short(part.own),
            short(part.response)
        ));
    }
    // What is too short for a sentence of its own is not, in a thread that has no time left.
    let mut judged = parts(summary).filter(|part| is_judged(part.point));
    let is_late = judged.any(|part| part.own > part.response / LATE_SHARE);
    if has_no_time(summary) && is_late {
        said.push(format!(
            "the generator had no time left: it was busy for {:.0} % of it, and ready for {:.0} %",
            summary.busy() * 100.0,
            away(summary) * 100.0
        ));
    }
    // A server that is too slow as well hides that: the generator waits for it now and then.
    let scheduled = summary.scheduled_rate().unwrap_or(rate);
    let needed = scheduled * summary.cpu_a_message().as_secs_f64();
    let is_loaded = summary.busy() + away(summary) > LOADED;
    if is_loaded && needed > f64::from(summary.plan.threads) {
        said.push(format!(
            "the generator needs {} of CPU a message: for this rate {needed:.1} CPUs",
            short(summary.cpu_a_message())
        ));
    }
    said
}

/// A closed loop sends when replies come, so it has no lateness of its own: a generator that is
/// away holds up replies, and the rate with them.
fn limits_of_a_closed_loop(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let time = summary.evidence.absences.watched.mul_f64(away(summary));
    if away(summary) > AWAY && time > STARVED_LEAST {
        said.push(format!(
            "the generator was not let run for {:.0} % of its time, and busy for {:.0} %: it set \
             the pace",
            away(summary) * 100.0,
            summary.busy() * 100.0
        ));
    }
    if let Some(part) = first_visible(summary).filter(|part| is_judged(part.point)) {
        said.push(format!(
            "the generator was away while messages were outstanding: {} {} of {}",
            part.point,
            short(part.own),
            short(part.response)
        ));
    }
    said
}

/// Returns whether a part that is seen there makes the run the generator's own.
fn is_judged(point: &str) -> bool {
    let mut points = POINTS.iter();
    let percentile = points.find(|(name, _)| *name == point);
    percentile.is_none_or(|(_, percentile)| *percentile <= JUDGED_MOST)
}

/// Returns what held the generator up, as far as the kernel tells.
fn explanations(summary: &Summary) -> Vec<String> {
    let mut said = Vec::new();
    let machine = &summary.evidence.machine;
    let starved = summary.starved_by_others();
    if starved > STARVED {
        said.push(format!(
            "the generator waited for a CPU for {:.0} % of its time{}",
            starved * 100.0,
            match summary.own_server {
                Some(_) => ", its own server's share left out",
                None => "",
            }
        ));
    }
    if machine.throttled > LATE {
        said.push(format!(
            "the CPU quota of its cgroup was used up for {} (cpu.max)",
            short(machine.throttled)
        ));
    }
    let longest = summary.evidence.absences.longest;
    if longest > STARVED_LEAST && starved <= STARVED && machine.throttled <= LATE {
        said.push(format!(
            "the generator was stopped, or its machine: it was away for {} at once, and did not \
             wait for a CPU",
            short(longest)
        ));
    }
    said
}

/// Returns whether its own send buffers held messages up.
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
            "its send buffers were full for {:.0} % of the time (--send-buffer)",
            limited * 100.0
        ))
    } else if asked.is_some_and(|asked| asked < largest) && !window_was_closed(summary) {
        // The kernel counts that time in ticks of its clock, and none on a fast link.
        Some(format!(
            "its send buffers hold less than a message (--send-buffer): blocked {point} {}",
            short(blocked.value)
        ))
    } else {
        None
    }
}
