//! The tables: all figures of the run in numbers. Pure.
//!
//! Invariant: a number is in a cell as it was measured; what is not known is a dash. A table that
//! is wider than the page is moved within its own box.

use std::fmt::Write;

use crate::load::judge::verdict::Judged;
use crate::load::latency::Latency;
use crate::load::latency::percentile::Percentile;
use crate::load::results::Counts;
use crate::load::results::summary::Summary;
use crate::load::results::targets::Target;
use crate::report::page::columns::{Cause, Columns};
use crate::report::page::escape::escape;
use crate::report::page::words::{UNKNOWN, bound, known, percent};
use crate::report::stages;
use crate::units::{grouped, rate, share, short, throughput, with_interval};

/// The number of columns up to which a table has half of a wide page.
const COLUMNS_HALF: usize = 4;

/// A table: its title, its heads and its rows. The first column names the rows.
struct Table {
    title: &'static str,
    note: String,
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Returns the section.
pub fn render(judged: &Judged, columns: &Columns) -> String {
    let summary = &judged.summary;
    let points = &summary.plan.percentiles;
    let tables = [
        Some(times(judged, points)),
        stages(judged),
        parts(summary, points),
        Some(messages(summary)),
        Some(client(summary)),
        Some(network(summary)),
        targets(summary),
        errors(summary, columns),
        mismatches(summary),
    ];
    let tables = tables.into_iter().flatten().map(|table| table.render());
    format!(
        "<section id=\"figures\">\n<h2>All figures</h2>\n<div class=\"tables\">\n{}</div>\n\
         </section>\n",
        tables.collect::<String>()
    )
}

impl Table {
    fn render(&self) -> String {
        let title = escape(self.title);
        let class = if self.heads.len() > COLUMNS_HALF {
            " class=\"wide\""
        } else {
            ""
        };
        let mut html = format!(
            "<div{class}>\n<h3>{title}</h3>\n{}",
            begin(self.title, &self.heads)
        );
        for row in &self.rows {
            html.push_str("<tr>");
            for (place, cell) in row.iter().enumerate() {
                let cell = escape(cell);
                let _ = match place {
                    0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(html, "<td>{cell}</td>"),
                };
            }
            html.push_str("</tr>\n");
        }
        html.push_str(END);
        if !self.note.is_empty() {
            let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(&self.note));
        }
        html + "</div>\n"
    }
}

/// The end of a table and of its box.
pub const END: &str = "</tbody>\n</table>\n</div>\n";

/// Returns the beginning of a table in a box of its own, up to its first row.
pub fn begin(title: &str, heads: &[impl AsRef<str>]) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">\n<table>\n",
        escape(title)
    );
    if !heads.is_empty() {
        html.push_str("<thead><tr>");
        for head in heads {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(head.as_ref()));
        }
        html.push_str("</tr></thead>\n");
    }
    html + "<tbody>\n"
}

fn heads(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Returns the table of the stages of a profile.
fn stages(judged: &Judged) -> Option<Table> {
    let stages::Table {
        heads,
        rows,
        remarks,
    } = stages::Table::of(&judged.stages);
    let note = "Times are responses of the messages that were due in the stage.".to_string();
    (!rows.is_empty()).then(|| Table {
        title: "Stages",
        note: [vec![note], remarks].concat().join(" "),
        heads,
        rows,
    })
}

/// Returns the heads of a table of durations.
fn time_heads(points: &[Percentile]) -> Vec<String> {
    let points = points.iter().map(Percentile::to_string);
    let names = heads(&["", "samples"]).into_iter().chain(points);
    names.chain(heads(&["max", "mean"])).collect()
}

/// Returns a row of a table of durations, with 95 % intervals where they are known.
fn time_row(name: &str, latency: &Latency, points: &[Percentile]) -> Vec<String> {
    let all = latency.distribution();
    let cell = |percentile: f64| {
        let found = all.as_ref()?.percentile(percentile)?;
        Some(match latency.interval(percentile) {
            Ok(interval) => {
                let sign = if found.at_least { "≥ " } else { "" };
                sign.to_string() + &with_interval(found.value, interval)
            }
            Err(_) => bound(found),
        })
    };
    let points = points.iter().map(|point| cell(point.percent()));
    let is_bounded = all
        .as_ref()
        .is_some_and(|all| all.at_least_from().is_some());
    let sign = if is_bounded { "≥ " } else { "" };
    let mean = all
        .as_ref()
        .map(|all| format!("{sign}{}", short(all.mean())));
    let longest = all.as_ref().map(|all| bound(all.longest()));
    let cells = points.chain([longest, mean]);
    let cells = cells.map(|cell| cell.unwrap_or(UNKNOWN.to_string()));
    let names = [name.to_string(), grouped(latency.count()).to_string()];
    names.into_iter().chain(cells).collect()
}

fn times(judged: &Judged, points: &[Percentile]) -> Table {
    let results = &judged.summary.results;
    let rows = [
        ("response", &results.response),
        ("service", &results.service),
        ("first service", &results.first),
        ("lateness", &results.lateness),
        ("blocked", &results.blocked),
        ("own", &results.own),
        ("connect", &results.connect),
    ];
    let mut note = "In brackets: the 95 % interval of the true percentile. A dash: fewer than 10 \
                    samples lie beyond the percentile. ≥: messages had no correct reply, and \
                    count with their age."
        .to_string();
    if let Some(point) = judged.findings.valid_up_to {
        let _ = write!(note, " Above {point} the times are those of the generator.");
    }
    Table {
        title: "Times",
        note,
        heads: time_heads(points),
        rows: rows
            .iter()
            .map(|(name, of)| time_row(name, of, points))
            .collect(),
    }
}

fn parts(summary: &Summary, points: &[Percentile]) -> Option<Table> {
    let parts = summary.results.parts.as_ref()?;
    let rows = [
        ("lateness", &parts.lateness),
        ("send queue", &parts.send_queue),
        ("network and server", &parts.wire_and_server),
        ("receive queue", &parts.receive_queue),
    ];
    Some(Table {
        title: "Parts of the responses by the kernel's timestamps",
        note: match parts.negative {
            0 => String::new(),
            count => format!(
                "{} parts are below -2 µs: the clocks disagree, so do not trust these times.",
                grouped(count)
            ),
        },
        heads: time_heads(points),
        rows: rows
            .iter()
            .map(|(name, of)| time_row(name, of, points))
            .collect(),
    })
}

fn messages(summary: &Summary) -> Table {
    let columns = [&summary.warmup.counts, &summary.results.counts];
    let row = |name: &str, of: fn(&Counts) -> u64| {
        let cells = columns.map(|counts| grouped(of(counts)).to_string());
        [name.to_string()].into_iter().chain(cells).collect()
    };
    let met = summary.plan.expect.met();
    Table {
        title: "Messages and connections",
        note: format!(
            "Scheduled = {met} + mismatched + errored + timed out + unanswered. Connections are \
             those of the whole run."
        ),
        heads: heads(&["", "warm-up", "run"]),
        rows: vec![
            row("scheduled", |counts| counts.scheduled),
            row(met, |counts| counts.verified),
            row("mismatched", |counts| counts.mismatched),
            row("errored", |counts| counts.errored),
            row("timed out", |counts| counts.timed_out),
            row("unanswered", |counts| counts.unanswered),
            row(&format!("{met} bytes, each way"), |counts| {
                counts.verified_bytes
            }),
            row("connections opened", |counts| counts.opened),
            row("connection attempts failed", |counts| counts.failed),
        ],
    }
}

/// Returns a table of names and values.
fn pairs(title: &'static str, rows: impl IntoIterator<Item = (&'static str, String)>) -> Table {
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_string(), value]);
    Table {
        title,
        note: String::new(),
        heads: Vec::new(),
        rows: rows.collect(),
    }
}

fn client(summary: &Summary) -> Table {
    let (seen, machine) = (&summary.evidence, &summary.evidence.machine);
    let optional = |found: Option<f64>| found.map_or(UNKNOWN.to_string(), rate);
    let share = summary.rate_share();
    let share = share.map(|share| format!("{:.4} %", share * 100.0));
    let rows = [
        ("messages/s asked", optional(summary.asked_rate())),
        ("messages/s scheduled", optional(summary.scheduled_rate())),
        ("messages/s achieved", rate(summary.achieved_rate())),
        (
            "share of the schedule",
            share.unwrap_or(UNKNOWN.to_string()),
        ),
        ("bytes/s, each way", throughput(summary.bytes_per_second())),
        ("time of sending", short(summary.times.sending)),
        (
            "time over which the rate counts",
            short(summary.times.elapsed),
        ),
        ("busiest thread, of its time", percent(summary.busy())),
        ("waited for a CPU, of its time", percent(machine.starved)),
        ("CPU time per message", short(summary.cpu_a_message())),
        ("absent, of its time", percent(seen.absences.share())),
        ("longest absence", short(seen.absences.longest)),
        ("CPU time taken by the hypervisor", short(machine.stolen)),
        ("time without CPU quota", short(machine.throttled)),
    ];
    pairs("Rate and client", rows)
}

fn network(summary: &Summary) -> Table {
    let network = &summary.evidence.network;
    let count = |count: u64| grouped(count).to_string();
    let of_time = |time| percent(share(time, network.busy));
    let rows = [
        (
            "longest silence of the server",
            short(summary.evidence.silence),
        ),
        ("segments with data", count(network.segments)),
        ("segments retransmitted", count(network.resent)),
        (
            "segments retransmitted in vain",
            count(network.resent_in_vain),
        ),
        (
            "segments received out of order",
            count(network.out_of_order),
        ),
        ("SYNs retransmitted", count(network.syns_resent)),
        (
            "limited by the server's window, of the time in flight",
            of_time(network.window_limited),
        ),
        (
            "limited by the send buffer, of the time in flight",
            of_time(network.buffer_limited),
        ),
    ];
    pairs("Network", rows)
}

fn targets(summary: &Summary) -> Option<Table> {
    let targets = summary.plan.targets.iter().zip(&summary.targets);
    if targets.len() < 2 {
        return None;
    }
    let row = |(address, target): (&std::net::SocketAddr, &Target)| {
        let all = target.tally.response.distribution();
        let point = |percentile| known(all.as_ref().and_then(|all| all.percentile(percentile)));
        let errors = target.errors.values().copied().fold(0, u64::saturating_add);
        vec![
            address.to_string(),
            grouped(target.tally.counts.scheduled).to_string(),
            grouped(target.tally.counts.verified).to_string(),
            point(50.0),
            point(90.0),
            point(99.0),
            known(all.as_ref().map(|all| all.longest())),
            grouped(errors).to_string(),
        ]
    };
    let names = [
        "target",
        "scheduled",
        summary.plan.expect.met(),
        "p50",
        "p90",
        "p99",
        "max",
        "errors",
    ];
    Some(Table {
        title: "Targets",
        note: "The times are responses.".to_string(),
        heads: heads(&names),
        rows: targets.map(row).collect(),
    })
}

/// Returns the causes of errors: their counts, and when they occurred if that is known.
fn errors(summary: &Summary, columns: &Columns) -> Option<Table> {
    let kinds = summary.results.errors.iter();
    let counted = kinds.map(|(kind, count)| (kind.to_string(), *count));
    let mut rows: Vec<(String, u64)> = counted.collect();
    for (cause, found) in &columns.causes {
        if !rows.iter().any(|(known, _)| known == cause) {
            rows.push((cause.clone(), found.count));
        }
    }
    let when = |cause: &str| match columns.causes.get(cause) {
        Some(Cause { from, to, .. }) => [format!("{from:.1} s"), format!("{to:.1} s")],
        None => [UNKNOWN.to_string(), UNKNOWN.to_string()],
    };
    let row = |(cause, count): (String, u64)| {
        let [from, to] = when(&cause);
        vec![cause, grouped(count).to_string(), from, to]
    };
    (!rows.is_empty()).then(|| Table {
        title: "Errors by cause",
        note: "Broken connections and failed attempts to connect. The times are the beginning of \
               the first interval and the end of the last interval that have one."
            .to_string(),
        heads: heads(&["cause", "connections", "from", "to"]),
        rows: rows.into_iter().map(row).collect(),
    })
}

/// Maximum number of wrong bytes that are listed.
const MISMATCHES_MAX: usize = 20;

fn mismatches(summary: &Summary) -> Option<Table> {
    let differences = &summary.results.differences;
    let shown = differences.iter().take(MISMATCHES_MAX);
    let row = |(connection, difference): &(u32, crate::echo::Difference)| {
        vec![
            format!("connection {connection}"),
            format!("at {difference}"),
        ]
    };
    (!differences.is_empty()).then(|| Table {
        title: "Wrong bytes",
        note: match differences.len().saturating_sub(MISMATCHES_MAX) {
            0 => String::new(),
            more => format!("And on {} more connections.", grouped(more as u64)),
        },
        heads: heads(&["connection", "first wrong byte"]),
        rows: shown.map(row).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_and_named() {
        let table = Table {
            title: "Errors",
            note: "a < b".to_string(),
            heads: heads(&["cause", "count"]),
            rows: vec![vec!["<script>".to_string(), "1".to_string()]],
        };
        let html = table.render();
        assert!(
            html.contains("<th scope=\"row\">&lt;script&gt;</th><td>1</td>"),
            "{html}"
        );
        assert!(html.contains("a &lt; b"), "{html}");
    }

    #[test]
    fn a_row_of_times_has_a_cell_for_each_head() {
        let empty = Latency::default();
        let points = &Percentile::STANDARD;
        let row = time_row("response", &empty, points);
        assert_eq!(row.len(), time_heads(points).len());
        assert_eq!(row[..3], ["response", "0", "–"]);
    }
}
