//! The result of a load run as a page for a person.

use std::fmt::{self, Write};
use std::time::Duration;

use indicatif::HumanCount;

use crate::load::payload::Difference;
use crate::load::plan::Stop;
use crate::load::summary::Summary;

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
        "connections  {} opened, {} failed",
        grouped(counts.opened.into()),
        grouped(counts.failed.into()),
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

/// Three significant digits and a unit: `850 ns`, `12.3 µs`, `1.04 ms`, `2.50 s`.
pub fn short(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos() as f64;
    let (value, unit) = match nanoseconds {
        n if n < 999.5 => (n, "ns"),
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let decimals = match value {
        v if unit == "ns" || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 ns"),
            (850, "850 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (999_400, "999 µs"),
            (999_600, "1.00 ms"),
            (1_040_000, "1.04 ms"),
            (99_960_000, "100 ms"),
            (2_500_000_000, "2.50 s"),
            (123_000_000_000, "123 s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(short(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
