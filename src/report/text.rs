//! The result of a load run as a page for a person, and its intervals as a line each.

use std::fmt::{self, Write};
use std::time::Duration;

use indicatif::HumanCount;

use crate::load::books::Interval;
use crate::load::latency::{Bound, Latency};
use crate::load::payload::Difference;
use crate::load::plan::{Pace, Pacing, Plan, Stop};
use crate::load::results::{Counts, Results};
use crate::load::schedule::Arrivals;
use crate::load::summary::Summary;
use crate::load::verdict::{Judged, Verdict};
use crate::units::short;

/// The percentiles that are shown.
const POINTS: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// A silence that makes the samples before and after it anything but independent.
const STALL: Duration = Duration::from_millis(100);

/// Wrong bytes that are shown one by one.
const MISMATCHES_SHOWN: usize = 10;

/// The page.
pub fn render(judged: &Judged) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, judged);
    page
}

/// An interval, on one line.
pub fn interval(interval: &Interval) -> String {
    let Counts {
        verified,
        mismatched,
        errored,
        timed_out,
        unanswered,
        ..
    } = interval.identity.counts;
    let lost = mismatched + errored + timed_out + unanswered;
    format!(
        "{} {:.2} to {:.2} s: {} due = {} verified + {} lost + {} outstanding, {} up; response {}",
        interval.tag.name(),
        interval.from.as_secs_f64(),
        interval.to.as_secs_f64(),
        grouped(interval.identity.due),
        grouped(verified),
        grouped(lost),
        grouped(interval.identity.outstanding),
        grouped(interval.up.into()),
        brief(&interval.response),
    )
}

fn write(page: &mut String, judged: &Judged) -> fmt::Result {
    let summary = &judged.summary;
    let Summary { plan, results, .. } = summary;
    write_plan(page, summary)?;
    writeln!(
        page,
        "connections  {} opened, {} failed{}",
        grouped(results.counts.opened),
        grouped(results.counts.failed),
        match summary.not_opened() {
            0 => String::new(),
            left => format!(", {} never up", grouped(left.into())),
        },
    )?;
    if !plan.warmup.is_zero() {
        writeln!(page, "warm-up      {}", fates(&summary.warmup.counts))?;
    }
    writeln!(page, "messages     {}", fates(&results.counts))?;
    writeln!(page, "rate         {}", rate(summary))?;
    write_times(page, summary)?;
    for (kind, count) in &results.errors {
        writeln!(page, "error        {kind}: {} connections", grouped(*count))?;
    }
    write_mismatches(page, results)?;
    if let Some(totals) = &summary.own_server {
        writeln!(page, "server       {totals}")?;
    }
    write_verdict(page, judged)
}

fn write_plan(page: &mut String, summary: &Summary) -> fmt::Result {
    let plan = &summary.plan;
    let own = if summary.own_server.is_some() {
        ", a server of this run's own"
    } else {
        ""
    };
    let targets: Vec<String> = plan.targets.iter().map(ToString::to_string).collect();
    writeln!(page, "target       {}{own}", targets.join(", "))?;
    let stop = match plan.stop {
        Stop::After(duration) => humantime::format_duration(duration).to_string(),
        Stop::Messages(messages) => format!("{} messages", grouped(messages)),
    };
    let threads = match plan.threads {
        1 => String::new(),
        threads => format!(", {threads} threads"),
    };
    writeln!(
        page,
        "plan         {} connections, {} bytes a message, depth {}, {stop}, {}{threads}",
        grouped(plan.connections.into()),
        plan.sizes,
        plan.depth,
        pace(plan),
    )
}

fn pace(plan: &Plan) -> String {
    match plan.pace {
        Pace::Closed { think } if think.is_zero() => "closed loop".to_string(),
        Pace::Closed { think } => format!("closed loop, {} to think", short(think)),
        Pace::Open {
            rate,
            arrivals,
            pacing,
        } => {
            let arrivals = match arrivals {
                Arrivals::Constant => "constant",
                Arrivals::Poisson => "Poisson arrivals",
            };
            let pacing = match pacing {
                Pacing::Global => "",
                Pacing::PerConnection => ", a line for each connection",
            };
            format!("{} messages/s, {arrivals}{pacing}", rate.per_second())
        }
    }
}

fn fates(counts: &Counts) -> String {
    let timed_out = match counts.timed_out {
        0 => String::new(),
        count => format!(" + {} timed out", grouped(count)),
    };
    format!(
        "{} scheduled = {} verified + {} mismatched + {} errored{timed_out} + {} unanswered",
        grouped(counts.scheduled),
        grouped(counts.verified),
        grouped(counts.mismatched),
        grouped(counts.errored),
        grouped(counts.unanswered),
    )
}

fn rate(summary: &Summary) -> String {
    let reached = match summary.rate_share() {
        None => String::new(),
        Some(share) => format!(" ({:.4} % of the schedule)", share * 100.0),
    };
    let achieved = summary.achieved_rate();
    let achieved = if achieved < 1000.0 {
        format!("{achieved:.1}")
    } else {
        grouped(achieved.round() as u64).to_string()
    };
    format!(
        "{achieved} messages/s{reached}, {:.2} MB/s each way, over {:.2} s",
        summary.bytes_per_second() / 1e6,
        summary.elapsed.as_secs_f64(),
    )
}

fn write_times(page: &mut String, summary: &Summary) -> fmt::Result {
    let results = &summary.results;
    write_time(page, "response", &results.response)?;
    if summary.asked_rate().is_some() {
        write_time(page, "service", &results.service)?;
        write_time(page, "lateness", &results.lateness)?;
        write_time(page, "  blocked", &results.blocked)?;
        write_time(page, "  own", &results.own)?;
    }
    write_time(page, "connect", &results.connect)?;
    if summary.evidence.silence > STALL {
        writeln!(
            page,
            "             the intervals assume independent samples, and there was a stall of {}: \
             they are too narrow",
            short(summary.evidence.silence)
        )?;
    }
    Ok(())
}

/// The percentiles with their intervals; those that too few samples support are named.
fn write_time(page: &mut String, name: &str, latency: &Latency) -> fmt::Result {
    let Some(distribution) = latency.distribution() else {
        return writeln!(page, "{name:<12} no samples");
    };
    write!(page, "{name:<12}")?;
    let mut unsupported = None;
    for (point, percentile) in POINTS {
        match distribution.percentile(percentile) {
            None => {
                unsupported.get_or_insert(point);
            }
            Some(found) => {
                let (low, high) = found.interval;
                let high = high.map_or("?".to_string(), short);
                write!(
                    page,
                    " {point} {} [{}, {high}]  ",
                    bound(found.bound),
                    short(low)
                )?;
            }
        }
    }
    write!(page, " max {}", bound(distribution.longest()))?;
    if let Some(point) = unsupported {
        let count = grouped(distribution.count());
        write!(page, "   {point}: not supported, {count} samples")?;
    }
    writeln!(page)
}

/// The percentiles alone.
fn brief(latency: &Latency) -> String {
    let Some(distribution) = latency.distribution() else {
        return "-".to_string();
    };
    let points = POINTS.iter().filter_map(|(point, percentile)| {
        let found = distribution.percentile(*percentile)?;
        Some(format!("{point} {}", bound(found.bound)))
    });
    let max = format!("max {}", bound(distribution.longest()));
    points.chain([max]).collect::<Vec<_>>().join(" ")
}

fn bound(bound: Bound) -> String {
    let sign = if bound.at_least { ">= " } else { "" };
    format!("{sign}{}", short(bound.value))
}

fn write_mismatches(page: &mut String, results: &Results) -> fmt::Result {
    for (connection, difference) in results.differences.iter().take(MISMATCHES_SHOWN) {
        writeln!(page, "mismatch     {}", mismatch(*connection, difference))?;
    }
    match results.differences.len().saturating_sub(MISMATCHES_SHOWN) {
        0 => Ok(()),
        more => writeln!(
            page,
            "mismatch     and on {more} more connections (--format json)"
        ),
    }
}

fn mismatch(connection: u32, difference: &Difference) -> String {
    let Difference {
        offset,
        expected,
        found,
    } = difference;
    format!(
        "connection {connection} at byte {offset}: '{}' (0x{found:02x}), not '{}' \
         (0x{expected:02x})",
        found.escape_ascii(),
        expected.escape_ascii(),
    )
}

fn write_verdict(page: &mut String, judged: &Judged) -> fmt::Result {
    for assertion in &judged.assertions {
        writeln!(page, "assertion    {assertion}")?;
    }
    let findings = &judged.findings;
    let ended = if judged.summary.interrupted {
        ", ended by a signal"
    } else {
        ""
    };
    let allowed = if judged.allowed.contains(&findings.verdict) {
        ", allowed"
    } else {
        ""
    };
    let verified = if findings.verdict != Verdict::Failed {
        ": every reply verified, every connection closed in order"
    } else {
        ""
    };
    writeln!(
        page,
        "verdict      {}{allowed}{verified}{ended}",
        findings.verdict
    )?;
    if let Some(error) = &judged.summary.unlogged {
        writeln!(
            page,
            "             the interval log is not complete: {error}"
        )?;
    }
    for sentence in &findings.evidence {
        writeln!(page, "             {sentence}")?;
    }
    for advice in &findings.advice {
        writeln!(page, "             advice: {advice}")?;
    }
    Ok(())
}

fn grouped(count: u64) -> HumanCount {
    HumanCount(count)
}
