//! Renders the result of a run in the formats of services that keep results over many runs and warn
//! of changes. Pure.
//!
//! - Bencher Metric Format: benchmark, measure, value with its interval.
//! - github-action-benchmark: a list of values of which smaller ones are better, so without the
//!   rate.
//! - Apache Otava: a row of comma-separated values for each run, with its time and attributes.
//!
//! A label `name` of the run becomes the name of the benchmark.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::load::judge::verdict::Judged;
use crate::record::description::Description;
use crate::report::percentiles::microseconds;

/// The name of the benchmark unless a label says otherwise.
const NAME: &str = "upcase load";

/// The label that names the benchmark.
const NAME_LABEL: &str = "name";

/// A figure of a run.
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    interval: Option<(f64, f64)>,
    is_smaller_better: bool,
}

/// Returns an object in the Bencher Metric Format.
pub fn bencher(judged: &Judged, runs: &[Description]) -> String {
    let measure = |figure: Figure| {
        let mut value = json!({ "value": figure.value });
        if let Some((low, high)) = figure.interval {
            value["lower_value"] = json!(low);
            value["upper_value"] = json!(high);
        }
        let name = format!("{} ({})", figure.name, figure.unit);
        (name, value)
    };
    let measures: serde_json::Map<String, Value> =
        figures(judged).into_iter().map(measure).collect();
    json!({ name(runs): measures }).to_string() + "\n"
}

/// Returns a list for github-action-benchmark, `customSmallerIsBetter`.
pub fn github(judged: &Judged, runs: &[Description]) -> String {
    let verdict = format!("verdict: {}", judged.findings.verdict);
    let figures = figures(judged).into_iter();
    let figures = figures.filter(|figure| figure.is_smaller_better);
    let list = figures.map(|figure| {
        let mut entry = json!({
            "name": format!("{}: {}", name(runs), figure.name),
            "unit": figure.unit,
            "value": figure.value,
            "extra": verdict,
        });
        if let Some((low, high)) = figure.interval {
            entry["range"] = json!(format!("{low} to {high}"));
        }
        entry
    });
    Value::Array(list.collect()).to_string() + "\n"
}

/// Returns two rows of comma-separated values for Apache Otava: the names and the values.
pub fn otava(judged: &Judged, runs: &[Description]) -> String {
    let mut columns: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| columns.push((name.to_string(), value));
    if let Some(run) = runs.first() {
        add("time", run.begun.utc.clone());
        add("name", name(runs));
        add("version", run.version.clone());
        add("host", run.host.name.clone());
        let labels: BTreeMap<_, _> = run.labels.iter().collect();
        for (label, value) in labels.into_iter().filter(|(label, _)| *label != NAME_LABEL) {
            add(&format!("label_{label}"), value.clone());
        }
    }
    add("verdict", judged.findings.verdict.to_string());
    for figure in figures(judged) {
        let unit = figure.unit.replace('/', "_per_").replace('µ', "u");
        let name = figure.name.replace([' ', '.'], "_");
        add(&format!("{name}_{unit}"), figure.value.to_string());
    }
    let row = |cells: Vec<&String>| {
        let cells = cells.into_iter().map(|cell| quoted(cell));
        cells.collect::<Vec<String>>().join(",") + "\n"
    };
    let (names, values) = columns.iter().map(|(name, value)| (name, value)).unzip();
    row(names) + &row(values)
}

fn name(runs: &[Description]) -> String {
    let label = runs.first().and_then(|run| run.labels.get(NAME_LABEL));
    label.cloned().unwrap_or(NAME.to_string())
}

/// Returns a cell as RFC 4180 requires it.
fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_string(),
    }
}

/// Returns the figures of a run. A percentile that too few samples support is left out, and so is
/// one that is only a lower bound: the others would be compared with it as if it were a value.
fn figures(judged: &Judged) -> Vec<Figure> {
    let summary = &judged.summary;
    let counts = &summary.results.counts;
    let mut figures = Vec::new();
    let rows = [
        ("response", &summary.results.response),
        ("service", &summary.results.service),
    ];
    for (name, latency) in rows {
        let distribution = latency.distribution();
        for point in &summary.plan.percentiles {
            let bound = distribution
                .as_ref()
                .and_then(|all| all.percentile(point.percent()));
            let Some(bound) = bound.filter(|bound| !bound.at_least) else {
                continue;
            };
            let interval = latency.interval(point.percent()).ok();
            figures.push(Figure {
                name: format!("{name} {point}"),
                unit: "µs",
                value: microseconds(bound.value),
                interval: interval
                    .and_then(|(low, high)| Some((microseconds(low), microseconds(high?)))),
                is_smaller_better: true,
            });
        }
    }
    let single = |name: &str, unit, value, is_smaller_better| Figure {
        name: name.to_string(),
        unit,
        value,
        interval: None,
        is_smaller_better,
    };
    let lost = counts.scheduled.saturating_sub(counts.verified);
    figures.push(single("rate", "messages/s", summary.achieved_rate(), false));
    figures.push(single("not verified", "messages", lost as f64, true));
    let cpu = microseconds(summary.cpu_a_message());
    if cpu > 0.0 {
        figures.push(single("client CPU", "µs/message", cpu, true));
    }
    figures
}
