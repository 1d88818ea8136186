//! The result of a load run as a page for a person, and its intervals as a line each.

use std::fmt::{self, Write};

use indicatif::HumanCount;

use crate::load::books::Interval;
use crate::load::latency::{Bound, Latency};
use crate::load::payload::Difference;
use crate::load::plan::{Close, Pace, Pacing, Plan, Stop};
use crate::load::results::{Counts, Parts, Results};
use crate::load::schedule::Arrivals;
use crate::load::summary::Summary;
use crate::load::verdict::{Judged, Verdict};
use crate::units::{short, with_interval};

/// The percentiles that are shown.
const POINTS: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Where the text of a line begins, after its name.
const MARGIN: usize = 13;

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
            format!("{rate} messages/s, {arrivals}{pacing}")
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
        summary.course.elapsed.as_secs_f64(),
    )
}

fn write_times(page: &mut String, summary: &Summary) -> fmt::Result {
    let results = &summary.results;
    let mut rows = vec![("response", &results.response)];
    if summary.asked_rate().is_some() {
        rows.extend([
            ("service", &results.service),
            ("lateness", &results.lateness),
            ("  blocked", &results.blocked),
            ("  own", &results.own),
        ]);
    }
    rows.push(("connect", &results.connect));
    write_table(page, &rows)?;
    write_unsupported(page, &rows)?;
    if let Some(parts) = &results.parts {
        write_parts(page, parts, summary)?;
    }
    if let Some(stall) = summary.stall() {
        let stall = short(stall);
        writeln!(
            page,
            "{:MARGIN$}there was a stall of {stall}: the intervals assume independent samples, and \
             are too narrow",
            ""
        )?;
    }
    Ok(())
}

/// Where the time of a response went, by the kernel's own times.
fn write_parts(page: &mut String, parts: &Parts, summary: &Summary) -> fmt::Result {
    let connections = summary.plan.kernel_timestamps.min(summary.plan.connections);
    let count = grouped(parts.lateness.count());
    writeln!(
        page,
        "kernel       {count} responses of the first {connections} connections, in four parts",
    )?;
    let rows = [
        ("  lateness", &parts.lateness),
        ("  send queue", &parts.send_queue),
        ("  on the way", &parts.wire_and_server),
        ("  recv queue", &parts.receive_queue),
    ];
    write_table(page, &rows)?;
    write_unsupported(page, &rows)?;
    match parts.negative {
        0 => Ok(()),
        count => writeln!(
            page,
            "{:MARGIN$}{count} parts were below -2 µs: the clocks disagree, trust none of these",
            ""
        ),
    }
}

/// The percentiles with their 95 % intervals, one duration a row.
fn write_table(page: &mut String, rows: &[(&str, &Latency)]) -> fmt::Result {
    let mut table = vec![POINTS.map(|(point, _)| point.to_string()).to_vec()];
    table[0].push("max".to_string());
    table.extend(rows.iter().map(|(_, latency)| cells(latency)));
    let names = [""].into_iter().chain(rows.iter().map(|(name, _)| *name));
    let width = |column: usize| {
        let cells = table.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=POINTS.len()).map(width).collect();
    for (name, row) in names.zip(&table) {
        let mut line = format!("{name:MARGIN$}");
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(page, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A row of the table; `-` is what too few samples support.
fn cells(latency: &Latency) -> Vec<String> {
    let distribution = latency.distribution();
    let cell = |percentile| {
        let found = distribution.as_ref()?.percentile(percentile)?;
        let sign = sign(found.bound);
        Some(sign.to_string() + &with_interval(found.bound.value, found.interval))
    };
    let points = POINTS.iter().map(|(_, percentile)| cell(*percentile));
    let longest = distribution.as_ref().map(|all| bound(all.longest()));
    points
        .chain([longest])
        .map(|cell| cell.unwrap_or("-".to_string()))
        .collect()
}

/// What the table leaves out, and why: rows of which the same is to be said are said together.
fn write_unsupported(page: &mut String, rows: &[(&str, &Latency)]) -> fmt::Result {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, latency) in rows {
        let count = grouped(latency.count());
        let reason = match unsupported(latency) {
            Some(point) => format!("{point}: not supported, {count} samples"),
            None if latency.count() == 0 => "no samples".to_string(),
            None => continue,
        };
        let name = name.trim_start();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    for (reason, names) in reasons {
        writeln!(page, "{:MARGIN$}{reason} ({})", "", names.join(", "))?;
    }
    Ok(())
}

/// The first percentile that too few samples support, if there are any.
fn unsupported(latency: &Latency) -> Option<&'static str> {
    let distribution = latency.distribution()?;
    let mut points = POINTS.iter();
    let unknown = points.find(|(_, percentile)| distribution.percentile(*percentile).is_none());
    unknown.map(|(point, _)| *point)
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
    format!("{}{}", sign(bound), short(bound.value))
}

fn sign(bound: Bound) -> &'static str {
    if bound.at_least { ">= " } else { "" }
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
    let ended = if judged.summary.course.interrupted {
        ", ended by a signal"
    } else {
        ""
    };
    let allowed = if judged.allowed.contains(&findings.verdict) {
        ", allowed"
    } else {
        ""
    };
    let churn = judged.summary.plan.churn;
    let verified = match findings.verdict {
        Verdict::Failed => "",
        _ if churn.is_some_and(|churn| churn.close == Close::Rst) => ": every reply verified",
        _ => ": every reply verified, every connection closed in order",
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
