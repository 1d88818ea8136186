//! The stages of a rate profile as rows: what was asked for, what was achieved, the response times
//! and the verdict. Pure.
//!
//! Invariant: every stage has a row. What is not known, and what a pause does not have, is a dash.

use crate::load::judge::verdict::{JudgedStage, Verdict};
use crate::load::latency::Bound;
use crate::load::latency::percentile::Percentile;
use crate::report::columns::width;
use crate::units::{rate, short};

/// The text of a cell without a value.
const NONE: &str = "-";

/// The text between two cells of a row.
const GAP: &str = "  ";

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 13;

/// The stages as a table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The names of the columns.
    pub heads: Vec<String>,
    /// The cells of each stage.
    pub rows: Vec<Vec<String>>,
    /// What limited the stages that are not valid, one sentence each.
    pub remarks: Vec<String>,
}

impl Table {
    /// Returns the table of these stages.
    pub fn of(stages: &[JudgedStage]) -> Table {
        let Some(first) = stages.first() else {
            return Table::default();
        };
        let points = first.summary.plan.percentiles.iter();
        let heads = ["stage", "rate", "asked/s", "achieved/s"].map(str::to_string);
        let heads = heads.into_iter().chain(points.map(Percentile::to_string));
        let last = ["max", "verdict"].map(str::to_string);
        Table {
            heads: heads.chain(last).collect(),
            rows: stages.iter().map(cells).collect(),
            remarks: stages.iter().filter_map(remark).collect(),
        }
    }
}

/// Returns the lines about the stages; empty without any. Where the table is too wide for the
/// columns, the cells of a row become a list.
pub fn render(stages: &[JudgedStage], columns: Option<usize>) -> String {
    let Table {
        heads,
        rows,
        remarks,
    } = Table::of(stages);
    let mut text = String::new();
    let table: Vec<&Vec<String>> = [&heads].into_iter().chain(&rows).collect();
    let widths = (0..heads.len()).map(|column| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| width(cell)).max().unwrap_or(0)
    });
    let widths: Vec<usize> = widths.collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
    match columns.is_none_or(|columns| whole <= columns) {
        true if rows.is_empty() => {}
        true => {
            for row in table {
                text += &(line(row, &widths) + "\n");
            }
        }
        false => rows.iter().for_each(|row| text += &list(&heads, row)),
    }
    for remark in remarks {
        text += &format!("{:MARGIN$}{remark}\n", "");
    }
    text
}

/// Returns a row of the table.
fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths);
    let padded = cells.map(|(cell, all)| {
        let space = all.saturating_sub(width(cell));
        format!("{cell}{:space$}", "")
    });
    let line = padded.collect::<Vec<String>>().join(GAP);
    line.trim_end().to_string()
}

/// Returns a row as a list: `stage 2 5000:20s: asked/s 5,000, achieved/s 5,000, p50 93.0 µs, ...`.
fn list(heads: &[String], row: &[String]) -> String {
    let mut named = heads.iter().zip(row);
    let mut first = || named.next().map_or(NONE, |(_, cell)| cell.as_str());
    let (number, rate) = (first(), first());
    let others = named.filter(|(_, cell)| *cell != NONE);
    let others = others.map(|(head, cell)| format!("{head} {cell}"));
    let others = others.collect::<Vec<String>>().join(", ");
    let label = format!("stage {number}");
    format!("{label:MARGIN$}{rate}: {others}\n")
}

fn cells(judged: &JudgedStage) -> Vec<String> {
    let JudgedStage {
        stage,
        summary,
        findings,
    } = judged;
    let response = summary.results.response.distribution();
    let response = response.as_ref();
    let points = summary.plan.percentiles.iter();
    let time = |point: &Percentile| response?.percentile(point.percent()).map(bound);
    let times = points
        .map(time)
        .chain([response.map(|all| bound(all.longest()))]);
    let times = times.map(|cell| cell.unwrap_or(NONE.to_string()));
    let per_second = |value: f64| match stage.is_pause() {
        true => NONE.to_string(),
        false => rate(value),
    };
    let number = summary.stage.map_or(0, |index| index + 1);
    let first = [
        number.to_string(),
        stage.to_string(),
        per_second(summary.asked_rate().unwrap_or_default()),
        per_second(summary.achieved_rate()),
    ];
    let verdict = match findings {
        None => "pause".to_string(),
        Some(findings) => match findings.valid_up_to {
            None => findings.verdict.to_string(),
            Some(point) => format!("{} up to {point}", findings.verdict),
        },
    };
    first.into_iter().chain(times).chain([verdict]).collect()
}

fn bound(bound: Bound) -> String {
    let sign = if bound.at_least { ">= " } else { "" };
    format!("{sign}{}", short(bound.value))
}

/// Returns why a stage is not valid.
fn remark(judged: &JudgedStage) -> Option<String> {
    let findings = judged.findings.as_ref()?;
    let number = judged.summary.stage? + 1;
    (findings.verdict != Verdict::Valid)
        .then(|| format!("stage {number}: {}", findings.evidence.join("; ")))
}
