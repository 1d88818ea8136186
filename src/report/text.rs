//! Renders the result of a load run as a page of text for a person, and each of its intervals as a
//! line.
//!
//! On a terminal every line fits: the table of times becomes a list where it would be too wide, and
//! other lines are wrapped.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use crate::echo::Expect;
use crate::load::judge::verdict::{Judged, Verdict};
use crate::load::latency::percentile::Percentile;
use crate::load::latency::{Bound, Latency, Withheld};
use crate::load::plan::schedule::Arrivals;
use crate::load::plan::{Close, Pace, Pacing, Plan, Stop};
use crate::load::results::evidence::Probe;
use crate::load::results::recorder::Interval;
use crate::load::results::summary::Summary;
use crate::load::results::targets::Target;
use crate::load::results::{Counts, ResponseParts, Results};
use crate::record::description::Description;
use crate::report::columns::{self, Line};
use crate::report::stages;
use crate::units::{counted, grouped, rate, short, throughput, with_interval};

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 13;

/// The text between two cells of the table.
const GAP: &str = "  ";

/// The text of a cell whose percentile too few samples support.
const UNKNOWN: &str = "-";

/// Maximum number of wrong bytes that are shown one by one.
const MISMATCHES_SHOWN: usize = 10;

/// The number of columns of the terminal, if the page is printed on one.
type Columns = Option<usize>;

/// Returns the page, for a terminal with this number of columns.
pub fn render(judged: &Judged, columns: Columns) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, judged, columns);
    fitted(&page, columns)
}

/// Returns lines that fit into a terminal. They may contain texts of a record, which may be
/// anything: a terminal must not obey them.
pub fn fitted(page: &str, columns: Columns) -> String {
    let mut fitted = String::new();
    for line in page.lines() {
        let line = line.replace(char::is_control, "?");
        columns::paragraph(&mut fitted, columns, MARGIN, &line);
    }
    fitted
}

/// Returns what recorded runs were: when, where, by which build, with which note and labels.
pub fn describe(runs: &[Description], columns: Columns) -> String {
    let mut page = String::new();
    for run in runs {
        let Description { host, begun, .. } = run;
        let cpu = host
            .cpu
            .as_deref()
            .map_or(String::new(), |cpu| format!(" ({cpu})"));
        let mut lines = vec![format!(
            "run          {} on {}: {}{cpu}, {}; upcase {} ({})",
            begun.utc,
            host.name,
            counted(host.cpus as u64, "CPU"),
            host.kernel,
            run.version,
            run.build
        )];
        lines.extend(run.note.iter().map(|note| format!("note         {note}")));
        let labels = run.labels.iter();
        lines.extend(labels.map(|(key, value)| format!("label        {key}={value}")));
        // A note with several lines is one line here.
        let lines = lines.iter().map(|line| line.replace(char::is_control, "?"));
        lines.for_each(|line| page += &(line + "\n"));
    }
    fitted(&page, columns)
}

/// Returns an interval as one line, with the standard percentiles.
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
        "{} {:.2} to {:.2} s: {} due = {} answered + {} lost + {} outstanding, {} up; response {}",
        interval.tag.name(),
        interval.from.as_secs_f64(),
        interval.to.as_secs_f64(),
        grouped(interval.identity.due),
        grouped(verified),
        grouped(lost),
        grouped(interval.identity.outstanding),
        grouped(interval.up),
        brief(&interval.response),
    )
}

/// Returns the results of the probes of a run as one line, with these percentiles.
pub fn probe(probe: &Probe, percentiles: &[Percentile]) -> String {
    let mut line = format!(
        "probes ({}): {} answered, {} lost",
        probe.how.join(", "),
        grouped(probe.round_trips.count()),
        grouped(probe.lost)
    );
    let Some(round_trips) = probe.round_trips.distribution() else {
        return line;
    };
    let mut add = |name: &str, time| line += &format!("{name} {}", short(time));
    add("; round trip min", probe.least.unwrap_or_default());
    for point in percentiles {
        if probe.growth_at(point.percent()).is_some() {
            let time = round_trips.nearest(point.percent()).value;
            add(&format!(", {point}"), time);
        }
    }
    add(", max", round_trips.longest().value);
    line
}

fn write(page: &mut String, judged: &Judged, columns: Columns) -> fmt::Result {
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
            left => format!(", {} never established", grouped(left)),
        },
    )?;
    if !plan.warmup.is_zero() {
        writeln!(
            page,
            "warm-up      {}",
            outcomes(&summary.warmup.counts, summary.plan.expect)
        )?;
    }
    writeln!(
        page,
        "messages     {}",
        outcomes(&results.counts, summary.plan.expect)
    )?;
    writeln!(page, "rate         {}", achieved(summary))?;
    write_times(page, judged, columns)?;
    write_targets(page, summary, columns)?;
    page.push_str(&stages::render(&judged.stages, columns));
    if plan.profile.is_some() && judged.stages.is_empty() {
        writeln!(
            page,
            "stages       not known: the run ended before its first message, or without a result"
        )?;
    }
    for (kind, count) in &results.errors {
        writeln!(
            page,
            "error        {kind}: {}",
            counted(*count, "connection")
        )?;
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
        ", a built-in server"
    } else {
        ""
    };
    let targets: Vec<String> = plan.targets.iter().map(ToString::to_string).collect();
    writeln!(page, "target       {}{own}", targets.join(", "))?;
    let stop = match plan.stop {
        Stop::After(duration) => humantime::format_duration(duration).to_string(),
        Stop::Messages(messages) => counted(messages, "message").to_string(),
    };
    let threads = match plan.threads {
        1 => String::new(),
        threads => format!(", {threads} threads"),
    };
    let sizes = match plan.sizes.to_string() {
        size if size == "1" => "1 byte".to_string(),
        sizes => format!("{sizes} bytes"),
    };
    let expect = match plan.expect {
        Expect::Upper => "",
        Expect::Same => ", replies unchanged",
        Expect::Anything => ", replies not compared",
    };
    writeln!(
        page,
        "plan         {}, {sizes} per message, depth {}, {stop}, {}{threads}{expect}",
        counted(plan.connections, "connection"),
        grouped(plan.depth),
        pace(plan),
    )
}

fn pace(plan: &Plan) -> String {
    match plan.pace {
        Pace::Closed { think } if think.is_zero() => "closed loop".to_string(),
        Pace::Closed { think } => format!("closed loop, think time {}", short(think)),
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
                Pacing::FirstFree => ", the first free connection",
                Pacing::PerConnection => ", a schedule for each connection",
            };
            match &plan.profile {
                Some(profile) => format!("rate {profile}, {arrivals}{pacing}"),
                None => format!("{rate} messages/s, {arrivals}{pacing}"),
            }
        }
    }
}

fn outcomes(counts: &Counts, expect: Expect) -> String {
    let timed_out = match counts.timed_out {
        0 => String::new(),
        count => format!(" + {} timed out", grouped(count)),
    };
    let outstanding = match counts.scheduled.saturating_sub(counts.settled()) {
        0 => String::new(),
        count => format!(" + {} outstanding", grouped(count)),
    };
    format!(
        "{} scheduled = {} {} + {} mismatched + {} errored{timed_out} + {} unanswered\
         {outstanding}",
        grouped(counts.scheduled),
        grouped(counts.verified),
        expect.met(),
        grouped(counts.mismatched),
        grouped(counts.errored),
        grouped(counts.unanswered),
    )
}

fn achieved(summary: &Summary) -> String {
    let reached = match summary.rate_share() {
        None => String::new(),
        Some(share) => format!(" ({:.4} % of the schedule)", share * 100.0),
    };
    format!(
        "{} messages/s{reached}, {} each way, over {}",
        rate(summary.achieved_rate()),
        throughput(summary.bytes_per_second()),
        short(summary.times.elapsed),
    )
}

fn write_times(page: &mut String, judged: &Judged, columns: Columns) -> fmt::Result {
    let summary = &judged.summary;
    let (percentiles, results) = (&summary.plan.percentiles, &summary.results);
    let valid_up_to = judged.findings.valid_up_to;
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
    write_table(page, &rows, percentiles, valid_up_to, columns)?;
    if let Some(point) = valid_up_to {
        writeln!(
            page,
            "{:MARGIN$}* above {point} the times are those of the generator",
            ""
        )?;
    }
    write_unsupported(page, &rows, percentiles)?;
    write_withheld(page, &rows, percentiles)?;
    if let Some(parts) = &results.parts {
        write_parts(page, parts, summary, columns)?;
    }
    Ok(())
}

/// Writes the parts of the responses by the kernel's timestamps.
fn write_parts(
    page: &mut String,
    parts: &ResponseParts,
    summary: &Summary,
    columns: Columns,
) -> fmt::Result {
    let plan = &summary.plan;
    let connections = plan.kernel_timestamps.min(plan.connections);
    writeln!(
        page,
        "kernel       {} of the first {}, in four parts",
        counted(parts.lateness.count(), "response"),
        counted(connections, "connection"),
    )?;
    let rows = [
        ("  lateness", &parts.lateness),
        ("  send queue", &parts.send_queue),
        ("  net+server", &parts.wire_and_server),
        ("  recv queue", &parts.receive_queue),
    ];
    write_table(page, &rows, &plan.percentiles, None, columns)?;
    write_unsupported(page, &rows, &plan.percentiles)?;
    match parts.negative {
        0 => Ok(()),
        count => writeln!(
            page,
            "{:MARGIN$}{} below -2 µs: the clocks disagree, so do not trust these times",
            "",
            counted(count, "part"),
        ),
    }
}

/// The highest percentile that is shown for each target, in percent: a target has only a part of
/// the samples.
const TARGET_MOST: f64 = 99.0;

/// Writes how the messages were shared among several targets, and a row for each target; where the
/// table is too wide, the cells of a row become a list. The failures of a target follow its row.
fn write_targets(page: &mut String, summary: &Summary, columns: Columns) -> fmt::Result {
    let targets = summary.plan.targets.iter().zip(&summary.targets);
    if targets.len() < 2 {
        return Ok(());
    }
    writeln!(page, "targets      {}", sharing(summary))?;
    let percentiles = summary.plan.percentiles.iter().copied();
    let percentiles = percentiles.filter(|point| point.percent() <= TARGET_MOST);
    let percentiles: Vec<Percentile> = percentiles.collect();
    let heads = ["", "scheduled", summary.plan.expect.met()];
    let heads = heads.map(str::to_string).into_iter();
    let heads = heads.chain(percentiles.iter().map(ToString::to_string));
    let mut table = vec![heads.chain(["max".to_string()]).collect::<Vec<String>>()];
    table.extend(targets.map(|(address, target)| target_cells(address, target, &percentiles)));
    let width = |column: usize| {
        let cells = table.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
    let is_table = columns.is_none_or(|columns| whole <= columns);
    if is_table {
        write_target(page, &table[0], &widths)?;
    }
    for (row, target) in table[1..].iter().zip(&summary.targets) {
        match is_table {
            true => write_target(page, row, &widths)?,
            false => list_target(page, &table[0], row, columns)?,
        }
        if let Some(trouble) = trouble(target) {
            writeln!(page, "{:MARGIN$}{trouble}", "")?;
        }
    }
    if table.iter().flatten().any(|cell| cell == UNKNOWN) {
        let left_out = "percentiles that too few samples support are left out";
        writeln!(page, "{:MARGIN$}{left_out}", "")?;
    }
    Ok(())
}

/// Returns how the messages were shared among the targets.
fn sharing(summary: &Summary) -> String {
    let how = match summary.plan.pace {
        Pace::Closed { .. } => "each connection followed the pace of its target",
        Pace::Open { pacing, .. } => match pacing {
            Pacing::Global => "messages were sent to the targets in turn",
            Pacing::FirstFree => "each message was sent on the first free connection of all",
            Pacing::PerConnection => "each connection had its own schedule",
        },
    };
    let counts = summary
        .targets
        .iter()
        .map(|target| target.tally.counts.scheduled);
    let (least, most) = (counts.clone().min(), counts.max());
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
    let percent =
        |count: u64| count as f64 * 100.0 / summary.results.counts.scheduled.max(1) as f64;
    // Threads that a signal ends may differ by one message.
    let shares = match most - least <= u64::from(summary.plan.threads) {
        true => "equal shares".to_string(),
        false => format!(
            "from {:.1} to {:.1} % of the messages",
            percent(least),
            percent(most)
        ),
    };
    match summary.scheduled_for_none() {
        0 => format!("{how}: {shares}"),
        none => format!(
            "{how}: {shares}; {} never got a connection",
            counted(none, "message")
        ),
    }
}

/// Returns the cells of a target's row.
fn target_cells(address: &SocketAddr, target: &Target, percentiles: &[Percentile]) -> Vec<String> {
    let Counts {
        scheduled,
        verified,
        ..
    } = target.tally.counts;
    let distribution = target.tally.response.distribution();
    let all = distribution.as_ref();
    let time = |point: &Percentile| Some(bound(all?.percentile(point.percent())?));
    let longest = all.map(|all| bound(all.longest()));
    let times = percentiles.iter().map(time).chain([longest]);
    let times = times.map(|cell| cell.unwrap_or(UNKNOWN.to_string()));
    let counts = [scheduled, verified].map(|count| grouped(count).to_string());
    let cells = [address.to_string()].into_iter().chain(counts);
    cells.chain(times).collect()
}

/// Writes a row of the targets' table. Counts are right-aligned, all other cells left-aligned.
fn write_target(page: &mut String, row: &[String], widths: &[usize]) -> fmt::Result {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        match column {
            1 | 2 => write!(line, "{cell:>width$}{GAP}")?,
            _ => write!(line, "{cell:width$}{GAP}")?,
        }
    }
    writeln!(page, "{}", line.trim_end())
}

/// Writes a row of the targets' table as a list.
fn list_target(
    page: &mut String,
    names: &[String],
    row: &[String],
    columns: Columns,
) -> fmt::Result {
    let ([_, _, met, points @ ..], [address, scheduled, count, times @ ..]) = (names, row) else {
        return Ok(());
    };
    writeln!(page, "{address}")?;
    writeln!(page, "{:MARGIN$}{scheduled} scheduled, {count} {met}", "")?;
    write_list(page, "", points, times, columns);
    Ok(())
}

/// Returns the failures of a target: messages that were not verified, and connections with errors.
fn trouble(target: &Target) -> Option<String> {
    let Counts {
        mismatched,
        errored,
        timed_out,
        unanswered,
        ..
    } = target.tally.counts;
    let outcomes = [
        (mismatched, "mismatched"),
        (errored, "errored"),
        (timed_out, "timed out"),
        (unanswered, "unanswered"),
    ];
    let outcomes = outcomes.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<String> = outcomes
        .map(|(count, outcome)| format!("{} {outcome}", grouped(*count)))
        .collect();
    if target.failed > 0 || !target.errors.is_empty() {
        let opened = counted(target.opened, "connection");
        parts.push(format!(
            "{opened} opened, {} failed",
            grouped(target.failed)
        ));
    }
    let errors = target.errors.iter();
    parts.extend(errors.map(|(kind, count)| format!("{kind} {}", grouped(*count))));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Writes the percentiles with their 95 % intervals, one duration per row; where the table is too
/// wide, each duration becomes a list. Percentiles above `valid_up_to` are marked.
fn write_table(
    page: &mut String,
    rows: &[(&str, &Latency)],
    percentiles: &[Percentile],
    valid_up_to: Option<Percentile>,
    columns: Columns,
) -> fmt::Result {
    let mark = |is_beyond: bool| if is_beyond { "*" } else { "" };
    let is_beyond = |point: &Percentile| valid_up_to.is_some_and(|up_to| *point > up_to);
    let heads = percentiles.iter();
    let heads = heads.map(|point| format!("{point}{}", mark(is_beyond(point))));
    let max = format!("max{}", mark(valid_up_to.is_some()));
    let mut table = vec![heads.chain([max]).collect::<Vec<String>>()];
    table.extend(rows.iter().map(|(_, latency)| cells(latency, percentiles)));
    let names = [""].into_iter().chain(rows.iter().map(|(name, _)| *name));
    let width = |column: usize| {
        let cells = table.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=percentiles.len()).map(width).collect();
    let whole = MARGIN + widths.iter().sum::<usize>() + GAP.len() * percentiles.len();
    if columns.is_some_and(|columns| columns < whole) {
        for ((name, _), row) in rows.iter().zip(&table[1..]) {
            write_list(page, name, &table[0], row, columns);
        }
        return Ok(());
    }
    for (name, row) in names.zip(&table) {
        let mut line = format!("{name:MARGIN$}");
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}{GAP}")?;
        }
        writeln!(page, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Minimum width of a name in a list, without a mark: that of the standard percentile p99.9.
const NAME_WIDTH: usize = 5;

/// Writes one duration as a list: as many percentiles per row as fit, but one per row on a narrow
/// terminal. Percentiles that too few samples support are omitted.
fn write_list(
    page: &mut String,
    name: &str,
    points: &[String],
    cells: &[String],
    columns: Columns,
) {
    let widths = points.iter().map(|name| name.trim_end_matches('*').len());
    let width = widths.max().unwrap_or(0).max(NAME_WIDTH);
    let known = points
        .iter()
        .zip(cells)
        .filter(|(_, cell)| *cell != UNKNOWN);
    let mut line = Line::begin(page, columns, MARGIN);
    line.part("", &format!("{name:MARGIN$}"));
    for (place, (point, cell)) in known.enumerate() {
        let gap = if place == 0 { "" } else { GAP };
        if columns::is_narrow(columns) {
            line.next_row();
            line.part("", &format!("{point:width$} "));
            line.words(cell);
        } else {
            line.part(gap, &format!("{point} {cell}"));
        }
    }
    line.end();
}

/// Returns a row of the table, with `-` for percentiles that too few samples support.
fn cells(latency: &Latency, percentiles: &[Percentile]) -> Vec<String> {
    let distribution = latency.distribution();
    let cell = |point: &Percentile| {
        let found = distribution.as_ref()?.percentile(point.percent())?;
        Some(match latency.interval(point.percent()) {
            Ok(interval) => sign(found).to_string() + &with_interval(found.value, interval),
            Err(_) => bound(found),
        })
    };
    let longest = distribution.as_ref().map(|all| bound(all.longest()));
    let points = percentiles.iter().map(cell);
    points
        .chain([longest])
        .map(|cell| cell.unwrap_or(UNKNOWN.to_string()))
        .collect()
}

/// Writes what the table omits, and why. Rows with the same reason share a line.
fn write_unsupported(
    page: &mut String,
    rows: &[(&str, &Latency)],
    percentiles: &[Percentile],
) -> fmt::Result {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (name, latency) in rows {
        let count = counted(latency.count(), "sample");
        let reason = match unsupported(latency, percentiles) {
            Some(point) => format!("{point}: not supported by {count}"),
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

/// Writes which percentiles have no interval, and why. That the samples of a row are not kept in
/// blocks is not reported.
fn write_withheld(
    page: &mut String,
    rows: &[(&str, &Latency)],
    percentiles: &[Percentile],
) -> fmt::Result {
    let named = rows
        .iter()
        .map(|(name, latency)| (name.trim_start(), withheld(latency, percentiles)));
    let named: Vec<(&str, Vec<(Percentile, Withheld)>)> = named.collect();
    for reason in WITHHELD {
        let of_row = |(name, withheld): &(&str, Vec<(Percentile, Withheld)>)| {
            let points = withheld.iter().filter(|(_, found)| *found == reason);
            let points: Vec<String> = points.map(|(point, _)| point.to_string()).collect();
            (!points.is_empty()).then(|| format!("{name} {}", points.join(", ")))
        };
        let sentences: Vec<String> = named.iter().filter_map(of_row).collect();
        if !sentences.is_empty() {
            let sentences = sentences.join("; ");
            writeln!(
                page,
                "{:MARGIN$}no interval: {} ({sentences})",
                "",
                why(reason)
            )?;
        }
    }
    Ok(())
}

/// Returns the percentiles that are printed without an interval, each with the reason.
fn withheld(latency: &Latency, percentiles: &[Percentile]) -> Vec<(Percentile, Withheld)> {
    let Some(all) = latency.distribution() else {
        return Vec::new();
    };
    let printed = percentiles.iter().copied();
    let printed = printed.filter(|point| all.percentile(point.percent()).is_some());
    let reason = |point: Percentile| latency.interval(point.percent()).err();
    let reasons = printed.filter_map(|point| Some((point, reason(point)?)));
    reasons.collect()
}

/// The reasons for a missing interval that depend on the run, not on the kind of duration.
const WITHHELD: [Withheld; 4] = [
    Withheld::TooShort,
    Withheld::Trend,
    Withheld::Correlated,
    Withheld::FewEvents,
];

fn why(reason: Withheld) -> &'static str {
    match reason {
        Withheld::NoBlocks => "the times of the samples were not recorded",
        Withheld::TooShort => "the run is too short to show how much its parts differ",
        Withheld::Trend => "the times grow or fall through the run",
        Withheld::Correlated => "the times fluctuate too slowly for a run of this length",
        Withheld::FewEvents => {
            "the samples beyond the percentile come from too few independent events"
        }
    }
}

/// Returns the first percentile that too few samples support, if there is one.
fn unsupported(latency: &Latency, percentiles: &[Percentile]) -> Option<Percentile> {
    let distribution = latency.distribution()?;
    let mut points = percentiles.iter().copied();
    points.find(|point| distribution.percentile(point.percent()).is_none())
}

/// Formats the standard percentiles and the maximum in one line, without intervals.
fn brief(latency: &Latency) -> String {
    let Some(distribution) = latency.distribution() else {
        return "-".to_string();
    };
    let points = Percentile::STANDARD.iter().filter_map(|point| {
        let found = distribution.percentile(point.percent())?;
        Some(format!("{point} {}", bound(found)))
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
        writeln!(
            page,
            "mismatch     {}",
            format_args!("connection {connection} at {difference}")
        )?;
    }
    match results.differences.len().saturating_sub(MISMATCHES_SHOWN) {
        0 => Ok(()),
        more => writeln!(
            page,
            "mismatch     and on {} (--format json)",
            counted(more as u64, "more connection")
        ),
    }
}

fn write_verdict(page: &mut String, judged: &Judged) -> fmt::Result {
    for assertion in &judged.assertions {
        writeln!(page, "assertion    {assertion}")?;
    }
    let findings = &judged.findings;
    let ended = if judged.summary.times.interrupted {
        ", ended by a signal"
    } else {
        ""
    };
    let allowed = if judged.allowed.contains(&findings.verdict) {
        ", allowed"
    } else {
        ""
    };
    let up_to = findings.valid_up_to;
    let up_to = up_to.map_or(String::new(), |point| format!(" up to {point}"));
    let Plan { churn, expect, .. } = *judged.summary.plan;
    let counts = &judged.summary.results.counts;
    let closed = match churn {
        Some(churn) if churn.close == Close::Rst => "",
        _ => ", every connection closed cleanly",
    };
    let verified = match findings.verdict {
        Verdict::Failed => String::new(),
        _ if counts.scheduled == 0 || counts.verified < counts.scheduled => String::new(),
        _ if !judged.summary.gaps.is_empty() => String::new(),
        _ if expect == Expect::Anything => format!(": no reply verified{closed}"),
        _ => format!(": every reply verified{closed}"),
    };
    writeln!(
        page,
        "verdict      {}{up_to}{allowed}{verified}{ended}",
        findings.verdict
    )?;
    if let Some(error) = &judged.summary.unlogged {
        writeln!(page, "             the interval log is incomplete: {error}")?;
    }
    if let Some(lacks) = &judged.summary.unrecorded {
        writeln!(page, "             the record is incomplete: {lacks}")?;
    }
    for sentence in &findings.evidence {
        writeln!(page, "             {sentence}")?;
    }
    for advice in &findings.advice {
        writeln!(page, "             advice: {advice}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::latency::percentile::parse_list;

    #[test]
    fn a_table_has_the_percentiles_that_were_asked_for() {
        let mut latency = Latency::default();
        latency.record_many(Duration::from_micros(1), 20_000);
        let rows = [("response", &latency)];
        let percentiles = parse_list("75,99,99.9,99.99").unwrap();
        let page = |valid_up_to, columns| {
            let mut page = String::new();
            write_table(&mut page, &rows, &percentiles, valid_up_to, columns).unwrap();
            write_unsupported(&mut page, &rows, &percentiles).unwrap();
            page
        };
        assert_eq!(
            page(Some(percentiles[1]), None),
            "             p75      p99      p99.9*   p99.99*  max*\n\
             response     1.00 µs  1.00 µs  1.00 µs  -        1.00 µs\n\
             \x20            p99.99: not supported by 20,000 samples (response)\n"
        );
        let narrow = page(None, Some(40));
        for row in ["\n  p75    1.00 µs\n", "\n  max    1.00 µs\n"] {
            assert!(narrow.contains(row), "{narrow}");
        }
    }

    #[test]
    fn the_row_of_a_target_has_the_percentiles_that_it_is_given() {
        let mut target = Target::default();
        for _ in 0..100 {
            target.tally.response.record(Duration::from_micros(1));
        }
        let address: SocketAddr = "10.77.0.1:12000".parse().unwrap();
        let cells = target_cells(&address, &target, &parse_list("75,99").unwrap());
        assert_eq!(
            cells,
            ["10.77.0.1:12000", "0", "0", "1.00 µs", "-", "1.00 µs"]
        );
    }

    #[test]
    fn a_line_of_probes_has_the_percentiles_that_are_known() {
        let probe = |seen: &Probe| probe(seen, &Percentile::STANDARD);
        let milliseconds = Duration::from_millis;
        let mut seen = Probe {
            how: vec!["ICMP echo".to_string()],
            lost: 2,
            ..Probe::default()
        };
        assert_eq!(probe(&seen), "probes (ICMP echo): 0 answered, 2 lost");
        seen.least = Some(milliseconds(1));
        for number in 1..=50 {
            seen.round_trips.record(milliseconds(number + 1));
            seen.growth.record(milliseconds(number));
        }
        let text = "probes (ICMP echo): 50 answered, 2 lost; \
                    round trip min 1.00 ms, p50 26.0 ms, p90 46.0 ms, max 51.0 ms";
        assert_eq!(probe(&seen), text);
    }
}
