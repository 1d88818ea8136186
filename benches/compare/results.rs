//! What was found, in Markdown: on standard output as it comes, and in `benches/RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::common::machine;
use crate::ratio::Median;
use crate::slices::{CLOSE, Comparison, Settings, Side, Slice};

/// The document so far.
#[derive(Debug, Default)]
pub struct Results {
    text: String,
}

impl Results {
    /// Begins with how it was done.
    pub fn new(settings: &Settings) -> Results {
        let Settings {
            cores,
            starts,
            cycles,
            bound,
            foreign_most,
        } = settings;
        let mut results = Results::default();
        results.add(&format!(
            "# Side by side\n\n\
             Written by `cargo bench --bench compare`, {}.\n\n\
             All servers run at a time, on core {}, each with a client of its own on core {} whose \
             connections stay open; who is not in a slice sleeps. Slices of at least 200 ms and \
             ten median round trips go round, in an order that rotates and turns. A ratio is that \
             of two slices of one cycle. After {cycles} cycles, or fewer when slices are long, all \
             processes are started anew, since a program differs from itself by some hundredths \
             between two starts, presumably by where it lies in memory: the median of a start's \
             ratios is one figure, and the table has the median of these, and in brackets its 95 % \
             interval, by rank. There are at least {starts} starts, and more until every ratio is \
             known within ±{:.0} %, or for {} s, and then the table says so. A slice in which \
             others used more than {:.0} % of the two cores does not count. CPU is the server's \
             own, user and system, from its CPU clock. `upcase serve` has its defaults: all \
             limits, counters and timeouts. Absolute figures mean little on a machine that is \
             shared; ratios do.\n",
            machine::name(),
            cores.server,
            cores.client,
            CLOSE * 100.0,
            bound.as_secs(),
            foreign_most * 100.0,
        ));
        results
    }

    /// Adds a paragraph, a table, a heading.
    pub fn add(&mut self, text: &str) {
        println!("{text}");
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a row, or the beginning of a table.
    pub fn row(&mut self, cells: &[String]) {
        let row = format!("| {} |", cells.join(" | "));
        self.add(&row);
    }

    /// Begins a table.
    pub fn head(&mut self, cells: &[&str]) {
        self.row(&cells.iter().map(|it| (*it).to_string()).collect::<Vec<_>>());
        let line: Vec<String> = cells.iter().map(|_| "---".to_string()).collect();
        self.row(&line);
    }

    /// Adds a comparison with its bars.
    pub fn comparison(&mut self, comparison: &Comparison, starts: usize) {
        let case = comparison.case;
        let what = if case.churn { "connection" } else { "message" };
        let opened = if case.churn {
            ", one message a connection"
        } else {
            ""
        };
        self.add(&format!(
            "\n### {} connections, {} bytes, {} in flight{opened} (`{case}`)\n",
            case.connections, case.bytes, case.depth
        ));
        let cpu = format!("CPU µs a {what}");
        let rate = format!("{what}s/s");
        let base = comparison.series.first().map_or("", |base| &base.name);
        let ratio = format!("to {base}");
        self.head(&[
            "",
            &ratio,
            &cpu,
            &rate,
            "p50 µs",
            "p99 µs",
            "slices, discarded",
        ]);
        for number in 0..comparison.series.len() {
            self.row(&cells(comparison, number));
        }
        for (name, why) in &comparison.absent {
            self.add(&format!("\n{name}: {why}"));
        }
        self.add(&format!("\n```text\n{}```", bars(comparison)));
        let resolved = match comparison.is_resolved(starts) {
            true => "resolved",
            false => "**not resolved**",
        };
        let slice = comparison.slice.as_millis();
        let foreign = comparison.foreign().unwrap_or_default() * 100.0;
        self.add(&format!(
            "\n{resolved}; {} starts, slices of {slice} ms; others used {foreign:.1} % of the two \
             CPUs at the median\n",
            comparison.starts()
        ));
    }

    /// Writes the document.
    pub fn write(&self) -> std::io::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        fs::write(path, &self.text)
    }
}

fn cells(comparison: &Comparison, number: usize) -> Vec<String> {
    let series = &comparison.series[number];
    let side = comparison.side;
    let middle = |figure: Option<f64>, digits: usize| match figure {
        Some(figure) => format!("{figure:.digits$}"),
        None => "-".to_string(),
    };
    let ratio = Median::of(&comparison.ratios(number));
    vec![
        series.name.clone(),
        ratio.map_or("-".to_string(), |ratio| ratio.to_string()),
        middle(series.median(|slice| slice.cost(side)), 2),
        middle(series.median(Slice::rate), 0),
        middle(series.median(Slice::p50), 1),
        middle(series.median(Slice::p99), 1),
        format!("{}, {}", series.kept(), series.discarded()),
    ]
}

/// A bar for the ratio of each contender, its interval at the end.
fn bars(comparison: &Comparison) -> String {
    const WIDTH_OF_ONE: f64 = 20.0;
    const LONGEST: usize = 60;
    let what = match comparison.side {
        Side::Server => "server",
        Side::Client => "client",
    };
    let mut text = format!("CPU of the {what}: █ up to the interval of the ratio, ▒ in it\n");
    for (number, series) in comparison.series.iter().enumerate() {
        let Some(median) = Median::of(&comparison.ratios(number)) else {
            continue;
        };
        let length = |ratio: f64| ((ratio * WIDTH_OF_ONE).round() as usize).min(LONGEST);
        let (low, high) = (length(median.low), length(median.high));
        let bar = "█".repeat(low) + &"▒".repeat(high - low);
        let _ = writeln!(text, "{:>14} {bar} {:.2}", series.name, median.middle);
    }
    text
}
