//! Renders a comparison as text for a person. Pure.

use std::fmt::{self, Write};

use crate::compare::{Comparison, Row};
use crate::report::columns::{is_narrow, width};
use crate::report::text::fitted;

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 13;

/// The text between two cells of the table.
const GAP: &str = "  ";

/// The cells of a row.
type Cells = [String; 6];

/// Returns the text, for a terminal with this number of columns.
pub fn render(comparison: &Comparison, columns: Option<usize>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, comparison, columns);
    text
}

fn write(out: &mut String, comparison: &Comparison, columns: Option<usize>) -> fmt::Result {
    let mut page = String::new();
    if let Some(heading) = comparison.heading() {
        line(&mut page, "duel", &heading)?;
    }
    for (name, described) in comparison.described_sets() {
        line(&mut page, name, &described)?;
    }
    for difference in &comparison.differences {
        let label = match difference.is_expected {
            true => "compared",
            false => "differs",
        };
        line(&mut page, label, &difference.to_string())?;
    }
    for (name, folder, reason) in comparison.left_out() {
        let text = format!("{folder} of {name} is left out, {reason}");
        line(&mut page, "left out", &text)?;
    }
    for note in &comparison.notes {
        line(&mut page, "note", note)?;
    }
    page += "\n";
    table(&mut page, &comparison.rows, columns)?;
    if !comparison.conditions.is_empty() {
        page += "\n";
    }
    for condition in &comparison.conditions {
        line(&mut page, "fail-if", &condition.to_string())?;
    }
    *out += &fitted(&page, columns);
    Ok(())
}

/// Writes a line with its label. A text of a record may contain anything, also the end of a line.
fn line(page: &mut String, label: &str, text: &str) -> fmt::Result {
    let text = text.replace(char::is_control, "?");
    writeln!(page, "{label:MARGIN$}{text}")
}

fn cells(row: &Row) -> Cells {
    let [a, b] = row.medians();
    let (ratio, interval) = row.shown_ratio();
    let metric = row.metric.to_string();
    [metric, a, b, ratio, interval, row.word.to_string()]
}

/// Writes the table, or a sentence for each row where the table would be too wide.
fn table(page: &mut String, rows: &[Row], columns: Option<usize>) -> fmt::Result {
    let heads = ["", "A", "B", "B/A", "95 % interval", ""].map(str::to_string);
    let cells: Vec<Cells> = rows.iter().map(cells).collect();
    let lines = || [&heads].into_iter().chain(&cells);
    let mut widths = [0; 6];
    for line in lines() {
        for (widest, cell) in widths.iter_mut().zip(line) {
            *widest = width(cell).max(*widest);
        }
    }
    widths[0] = widths[0].max(MARGIN - GAP.len());
    let whole: usize = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
    if is_narrow(columns) || columns.is_some_and(|columns| whole > columns) {
        for [metric, a, b, ratio, interval, word] in &cells {
            let ratio = match ratio == interval {
                true => String::new(),
                false => format!(", B/A {ratio} {interval}"),
            };
            let text = format!("{word}: A {a}, B {b}{ratio}");
            line(page, metric, &text)?;
        }
        return Ok(());
    }
    for line in lines() {
        let mut text = String::new();
        for (place, (cell, column)) in line.iter().zip(widths).enumerate() {
            let pad = " ".repeat(column.saturating_sub(width(cell)));
            let gap = if place == 0 { "" } else { GAP };
            // Names and words are left-aligned, numbers right-aligned.
            let (before, after) = match place {
                0 | 5 => ("", pad.as_str()),
                _ => (pad.as_str(), ""),
            };
            write!(text, "{gap}{before}{cell}{after}")?;
        }
        writeln!(page, "{}", text.trim_end())?;
    }
    Ok(())
}
