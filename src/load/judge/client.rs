//! Finds evidence that the generator itself was the limit of a run, and the percentile up to which
//! it was not. Pure.
//!
//! The generator's part in a response is its own lateness and its absences at the same percentile,
//! plus the wait for connections whose replies it did not read because it was absent. It is judged
//! at every percentile that is printed. Delays that these cannot explain are not attributed to the
//! generator, however busy it was.

use std::time::Duration;

use crate::load::judge::thresholds::{
    AWAY, JUDGED_MOST, LATE_SHARE, LIMITED, LOADED, POINTS, SATURATED, STARVED, STARVED_LEAST,
    of_all_time, visible, window_was_closed,
};
use crate::load::latency::Latency;
use crate::load::results::VISIBLE_LATENESS;
use crate::load::results::summary::Summary;
use crate::units::short;

/// The generator's part in the response at a percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// The name of the percentile, as it is printed.
    pub(super) point: &'static str,
    /// The time for which the generator itself held messages up.
    pub(super) own: Duration,
    /// The response at this percentile.
    pub(super) response: Duration,
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

/// Returns the generator's part at the lowest printed percentile at which it is visible; for a
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

/// Returns the next lower printed percentile.
pub(super) fn point_below(point: &str) -> Option<(&'static str, f64)> {
    let place = POINTS.iter().position(|(name, _)| *name == point)?;
    POINTS.get(place.checked_sub(1)?).copied()
}

/// Returns whether the generator had no idle time, waits for the run's own server excluded.
pub(super) fn has_no_time(summary: &Summary) -> bool {
    summary.busy() + away(summary) > SATURATED
}

/// Returns the generator's part at each percentile that the samples support.
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

/// Returns the generator's part in the response at a percentile, if the samples support it.
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
    // A message waits for a connection until the previous replies are read. Where an absence of the
    // generator is longer than half of a service time, that wait is its own doing as well.
    let service = above(&results.service).unwrap_or_default();
    let is_turnover = held.is_some_and(|held| held > service / 2);
    let blocked = above(&results.blocked).filter(|_| is_turnover);
    Some(Part {
        point,
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
    // If the server is too slow as well, the generator has some idle time while it waits for
    // replies.
    let scheduled = summary.scheduled_rate().unwrap_or(rate);
    let needed = scheduled * summary.cpu_a_message().as_secs_f64();
    let is_loaded = summary.busy() + away(summary) > LOADED;
    if is_loaded && needed > f64::from(summary.plan.threads) {
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

/// Returns whether a part that is visible at this percentile makes a run client-bound.
fn is_judged(point: &str) -> bool {
    let mut points = POINTS.iter();
    let percentile = points.find(|(name, _)| *name == point);
    percentile.is_none_or(|(_, percentile)| *percentile <= JUDGED_MOST)
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
