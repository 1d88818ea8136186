//! Renders a comparison as Markdown for a pull request: a table, and what limits it. Pure.
//!
//! Invariant: every text that a user, a server or a host can word is escaped, and stays in its
//! line.

use std::fmt::Write;

use crate::compare::Comparison;
use crate::sniff::print::markdown;

/// Returns the document.
pub fn render(comparison: &Comparison) -> String {
    let mut page = String::new();
    if let Some(heading) = comparison.heading() {
        item(&mut page, "duel", &heading);
    }
    for (name, described) in comparison.described_sets() {
        item(&mut page, name, &described);
    }
    page += "\n| metric | A | B | B/A | 95 % interval | |\n|---|--:|--:|--:|--:|---|\n";
    for row in &comparison.rows {
        let [a, b] = row.medians();
        let (ratio, interval) = row.shown_ratio();
        let cells = [
            row.metric.to_string(),
            a,
            b,
            ratio,
            interval,
            row.word.to_string(),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| {} |", cells.map(|cell| escaped(&cell)).join(" | "));
    }
    page += "\n";
    for condition in &comparison.conditions {
        item(&mut page, "fail if", &condition.to_string());
    }
    for difference in &comparison.differences {
        let label = match difference.is_expected {
            true => "compared",
            false => "differs",
        };
        item(&mut page, label, &difference.to_string());
    }
    for (name, folder, reason) in comparison.left_out() {
        item(
            &mut page,
            "left out",
            &format!("{folder} of {name}, {reason}"),
        );
    }
    for note in &comparison.notes {
        item(&mut page, "note", note);
    }
    page.trim_end_matches('\n').to_string() + "\n"
}

/// Appends an item of a list.
fn item(page: &mut String, label: &str, text: &str) {
    let _ = writeln!(page, "- **{label}**: {}", escaped(text));
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    markdown::escape(&mut escaped, &text.replace(char::is_control, "?"));
    escaped
}
