//! Writes the results as Markdown: to standard output while the benchmark runs, and at the end to
//! `benches/RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::common::machine;
use crate::ratio;
use crate::slices::{CLOSE, Comparison, Pair, Settings, Side, Slice};

/// The document so far.
#[derive(Debug, Default)]
pub struct Results {
    text: String,
}

impl Results {
    /// Creates the document with a description of the method.
    pub fn new(settings: &Settings) -> Results {
        let Settings {
            cores,
            starts,
            length,
            bound,
            foreign_most,
        } = settings;
        let mut results = Results::default();
        results.add(&format!(
            "# Side by side\n\n\
             Written by `cargo bench --bench compare`, {}.\n\n\
             Each contender is compared with the same base, two programs at a time. Both servers \
             run on core {}, each with its own client on core {} whose connections stay open; a \
             server or client sleeps outside its slices. The slices of the two alternate, and so \
             does their order. A slice lasts at least ten median round trips and 50 ms, or 200 ms \
             for the load generator. A ratio is that of the two slices of one cycle. When each \
             program has run for {} ms, or for one longer slice, both are restarted, since the \
             figures of a program differ by a few percent between two starts, presumably because \
             of its placement in memory. The median of the ratios of a start is one figure; the \
             table has the median of these figures and, in brackets, its 95 % confidence interval, \
             by rank. There are at least {starts} starts, and more until the ratio is known within \
             ±{:.0} %, or for {} s, after which the table marks it as not resolved. A start in \
             which other processes used more than {:.0} % of the two cores does not count. CPU is \
             the server's own time, user and system, from its CPU clock. `upcase serve` has its \
             defaults: all limits, counters and timeouts, and a sandbox, which no other contender \
             has; `no sandbox` is the same with `--sandbox off`. On a shared machine, absolute \
             figures mean little; ratios are meaningful.\n",
            machine::name(),
            cores.server,
            cores.client,
            length.as_millis(),
            CLOSE * 100.0,
            bound.as_secs(),
            foreign_most * 100.0,
        ));
        results
    }

    /// Adds text, such as a paragraph, a table or a heading.
    pub fn add(&mut self, text: &str) {
        println!("{text}");
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Adds a row of a table.
    pub fn row(&mut self, cells: &[String]) {
        let row = format!("| {} |", cells.join(" | "));
        self.add(&row);
    }

    /// Begins a table with its head.
    pub fn head(&mut self, cells: &[&str]) {
        self.row(&cells.iter().map(|it| (*it).to_string()).collect::<Vec<_>>());
        let line: Vec<String> = cells.iter().map(|_| "---".to_string()).collect();
        self.row(&line);
    }

    /// Adds the table of a comparison and its bars.
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
        let ratio = format!("to {}", comparison.base);
        let beside = format!("{} beside it", comparison.base);
        self.head(&[
            "",
            &ratio,
            &cpu,
            &beside,
            &rate,
            "p50 µs",
            "p99 µs",
            "starts",
            "slices",
            "others, %",
        ]);
        for pair in &comparison.pairs {
            self.row(&cells(pair, comparison.side, starts));
        }
        for (name, why) in &comparison.absent {
            self.add(&format!("\n{name}: {why}"));
        }
        self.add(&format!("\n```text\n{}```\n", bars(comparison)));
    }

    /// Writes the document to its file.
    pub fn write(&self) -> std::io::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        fs::write(path, &self.text)
    }
}

fn cells(pair: &Pair, side: Side, starts: usize) -> Vec<String> {
    let ratio = match pair.ratio() {
        None => "-".to_string(),
        Some(ratio) if pair.is_resolved(starts) => ratio.to_string(),
        Some(ratio) => format!("{ratio}, **not resolved**"),
    };
    let discarded = match pair.discarded {
        0 => String::new(),
        count => format!(", {count} discarded"),
    };
    let slice = pair.slice().unwrap_or_default().as_millis();
    let cost = |slice: &Slice| slice.cost(side);
    vec![
        pair.name.clone(),
        ratio,
        median(pair.other().map(cost), 2),
        median(pair.base().map(cost), 2),
        median(pair.other().map(Slice::rate), 0),
        median(pair.other().map(Slice::p50), 1),
        median(pair.other().map(Slice::p99), 1),
        format!("{}{discarded}", pair.starts()),
        format!("{} of {slice} ms", pair.other().count()),
        format!("{:.1}", pair.foreign().unwrap_or_default() * 100.0),
    ]
}

fn median(figures: impl Iterator<Item = f64>, digits: usize) -> String {
    match ratio::middle(&figures.collect::<Vec<_>>()) {
        Some(figure) => format!("{figure:.digits$}"),
        None => "-".to_string(),
    }
}

/// Draws a bar for the ratio of each contender, with its interval at the end.
fn bars(comparison: &Comparison) -> String {
    const WIDTH_OF_ONE: f64 = 20.0;
    const LONGEST: usize = 60;
    let what = match comparison.side {
        Side::Server => "server",
        Side::Client => "client",
    };
    let length = |ratio: f64| ((ratio * WIDTH_OF_ONE).round() as usize).min(LONGEST);
    let mut text = format!(
        "CPU of the {what}: █ up to the interval of the ratio, ▒ in it\n{:>14} {} 1\n",
        comparison.base,
        "█".repeat(length(1.0))
    );
    for pair in &comparison.pairs {
        let Some(ratio) = pair.ratio() else {
            continue;
        };
        let (low, high) = (length(ratio.low), length(ratio.high));
        let bar = "█".repeat(low) + &"▒".repeat(high - low);
        let _ = writeln!(text, "{:>14} {bar} {:.2}", pair.name, ratio.middle);
    }
    text
}
