//! Renders a comparison as one JSON object. Names and units are stable: within a `schema`, fields
//! are added but never changed. Times are in microseconds. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::condition::Checked;
use crate::compare::differences::Difference;
use crate::compare::duel::{Duel, discarded};
use crate::compare::ratio::median;
use crate::compare::run::Run;
use crate::compare::{Comparison, Row};

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    a: Vec<OneRun<'a>>,
    b: Vec<OneRun<'a>>,
    /// The duel that the runs were made for; `null`: they were recorded before.
    duel: Option<OneDuel<'a>>,
    differences: Vec<Differs<'a>>,
    notes: &'a [String],
    metrics: Vec<OneMetric<'a>>,
    conditions: Vec<OneCondition<'a>>,
    /// Whether the exit code is 0.
    ok: bool,
    /// 0: all is well; 1: a condition is met; 4: a condition is undecided.
    exit_code: u8,
}

#[derive(Serialize)]
struct OneRun<'a> {
    directory: String,
    begun: &'a str,
    host: &'a str,
    target: &'a str,
    version: &'a str,
    labels: &'a BTreeMap<String, String>,
    verdict: &'static str,
    /// Why the run is left out; `null`: it takes part.
    left_out: Option<&'a str>,
    /// The value of each metric; `null`: not known.
    values: BTreeMap<String, Option<f64>>,
}

#[derive(Serialize)]
struct OneDuel<'a> {
    /// The target of A.
    a: &'a str,
    b: &'a str,
    rounds: u32,
    slice_s: f64,
    /// The number of slices that are complete; two a round, unless the duel ended early.
    slices: usize,
    /// The numbers of slices that are left out, by verdict.
    discarded: BTreeMap<&'static str, usize>,
}

/// Something that is not the same in all runs.
#[derive(Serialize)]
struct Differs<'a> {
    name: &'a str,
    a: Vec<Share<'a>>,
    b: Vec<Share<'a>>,
    /// Whether it may be what the comparison is about: the targets and the labels.
    expected: bool,
}

#[derive(Serialize)]
struct Share<'a> {
    value: &'a str,
    runs: usize,
}

#[derive(Serialize)]
struct OneMetric<'a> {
    metric: String,
    unit: &'static str,
    /// The median of the runs of A; `null`: no run has a value.
    a: Option<f64>,
    b: Option<f64>,
    /// The ratio of B to A and its 95 % interval; `null`: too few runs.
    ratio: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    word: &'static str,
    /// The values of the runs that have one.
    a_values: &'a [f64],
    b_values: &'a [f64],
}

#[derive(Serialize)]
struct OneCondition<'a> {
    condition: &'a str,
    outcome: &'static str,
    reason: &'a str,
}

/// Returns the object, on one line.
pub fn render(comparison: &Comparison, exit_code: u8) -> String {
    let report = Report {
        schema: "upcase.compare/1",
        a: comparison.a.iter().map(one_run).collect(),
        b: comparison.b.iter().map(one_run).collect(),
        duel: comparison
            .duel
            .as_ref()
            .map(|duel| one_duel(duel, comparison)),
        differences: comparison.differences.iter().map(differs).collect(),
        notes: &comparison.notes,
        metrics: comparison.rows.iter().map(one_metric).collect(),
        conditions: comparison.conditions.iter().map(one_condition).collect(),
        ok: exit_code == 0,
        exit_code,
    };
    // The report consists of numbers and strings, so the serialization cannot fail.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn one_duel<'a>(duel: &'a Duel, comparison: &Comparison) -> OneDuel<'a> {
    let [a, b] = &duel.targets;
    let runs = || comparison.a.iter().chain(&comparison.b);
    OneDuel {
        a,
        b,
        rounds: duel.rounds,
        slice_s: duel.slice.as_secs_f64(),
        slices: runs().count(),
        discarded: discarded(runs()),
    }
}

fn one_run(run: &Run) -> OneRun<'_> {
    let values = run.values.iter();
    OneRun {
        directory: run.folder.display().to_string(),
        begun: &run.description.begun.utc,
        host: &run.description.host.name,
        target: &run.target,
        version: &run.description.version,
        labels: &run.description.labels,
        verdict: run.verdict.name(),
        left_out: run.left_out.as_deref(),
        values: values
            .map(|(metric, value)| (metric.key(), value.ok()))
            .collect(),
    }
}

fn shares(values: &[(String, usize)]) -> Vec<Share<'_>> {
    let shares = values.iter();
    shares
        .map(|(value, runs)| Share { value, runs: *runs })
        .collect()
}

fn differs(difference: &Difference) -> Differs<'_> {
    Differs {
        name: &difference.name,
        a: shares(&difference.a),
        b: shares(&difference.b),
        expected: difference.is_expected,
    }
}

fn one_metric(row: &Row) -> OneMetric<'_> {
    OneMetric {
        metric: row.metric.key(),
        unit: row.metric.unit(),
        a: median(&row.a),
        b: median(&row.b),
        ratio: row.ratio.map(|ratio| ratio.estimate),
        low: row.ratio.map(|ratio| ratio.low),
        high: row.ratio.map(|ratio| ratio.high),
        word: row.word.name(),
        a_values: &row.a,
        b_values: &row.b,
    }
}

fn one_condition(checked: &Checked) -> OneCondition<'_> {
    OneCondition {
        condition: &checked.condition,
        outcome: checked.outcome.name(),
        reason: &checked.reason,
    }
}
