//! The result of a load run as a page for a person.

use std::fmt::{self, Write};

use indicatif::HumanCount;

use crate::load::payload::Difference;
use crate::load::plan::Stop;
use crate::load::summary::Summary;
use crate::report::units::short;

/// The page.
pub fn render(summary: &Summary) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, summary);
    page
}

fn write(page: &mut String, summary: &Summary) -> fmt::Result {
    let Summary { plan, results, .. } = summary;
    let counts = results.counts;
    let own = if summary.own_server.is_some() {
        ", a server of this run's own"
    } else {
        ""
    };
    let stop = match plan.stop {
        Stop::After(duration) => humantime::format_duration(duration).to_string(),
        Stop::Messages(messages) => format!("{} messages", grouped(messages)),
    };
    writeln!(page, "target       {}{own}", plan.target)?;
    writeln!(
        page,
        "plan         {} connections, {} bytes a message, depth {}, {stop}, closed loop",
        grouped(plan.connections.into()),
        grouped(plan.size as u64),
        plan.depth,
    )?;
    writeln!(
        page,
        "connections  {} opened, {} failed{}",
        grouped(counts.opened.into()),
        grouped(counts.failed.into()),
        match results.not_opened(plan.connections) {
            0 => String::new(),
            left => format!(", {} not opened before the end", grouped(left.into())),
        },
    )?;
    writeln!(
        page,
        "messages     {} scheduled = {} verified + {} mismatched + {} errored + {} unanswered",
        grouped(counts.scheduled),
        grouped(counts.verified),
        grouped(counts.mismatched),
        grouped(counts.errored + counts.timed_out),
        grouped(counts.unanswered),
    )?;
    writeln!(
        page,
        "rate         {} messages/s, {:.2} MB/s each way, over {:.2} s",
        grouped(summary.achieved_rate().round() as u64),
        summary.bytes_per_second() / 1e6,
        summary.elapsed.as_secs_f64(),
    )?;
    writeln!(page, "response     {}", percentiles(summary))?;
    for (kind, count) in &results.errors {
        writeln!(page, "error        {kind}: {} connections", grouped(*count))?;
    }
    if let Some((connection, difference)) = &results.first_difference {
        writeln!(page, "mismatch     {}", mismatch(*connection, difference))?;
    }
    if let Some(totals) = &summary.own_server {
        writeln!(page, "server       {totals}")?;
    }
    writeln!(page, "result       {}", result(summary))
}

fn percentiles(summary: &Summary) -> String {
    let response = &summary.results.response;
    let points = [
        ("p50", 50.0),
        ("p90", 90.0),
        ("p99", 99.0),
        ("p99.9", 99.9),
        ("max", 100.0),
    ];
    let shown: Option<Vec<String>> = points
        .iter()
        .map(|(name, percentile)| {
            let duration = response.percentile(*percentile)?;
            Some(format!("{name} {}", short(duration)))
        })
        .collect();
    match shown {
        Some(shown) => shown.join("   "),
        None => "nothing was answered".to_string(),
    }
}

fn mismatch(connection: u32, difference: &Difference) -> String {
    let Difference {
        offset,
        expected,
        found,
    } = difference;
    format!(
        "first on connection {connection} at byte {offset}: '{}' (0x{found:02x}), \
         not '{}' (0x{expected:02x})",
        found.escape_ascii(),
        expected.escape_ascii(),
    )
}

fn result(summary: &Summary) -> String {
    let ended = if summary.interrupted {
        ", ended by a signal"
    } else {
        ""
    };
    let verdict = if summary.is_good() {
        "every reply verified, every connection closed in order"
    } else {
        "something is wrong, see above"
    };
    format!("{verdict}{ended}")
}

fn grouped(count: u64) -> HumanCount {
    HumanCount(count)
}
