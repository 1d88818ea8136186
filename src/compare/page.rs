//! Renders a comparison as one HTML page: the table, the values of all runs, and what limits the
//! comparison. Pure.
//!
//! Invariants: the page is one file, and refers to nothing outside of it. Every text that does not
//! come from this file is escaped.

use std::fmt::{self, Write};

use crate::compare::condition::Outcome;
use crate::compare::metric::{Metric, Word};
use crate::compare::ratio::median;
use crate::compare::run::Run;
use crate::compare::{Comparison, Row, described};
use crate::report::page::document;
use crate::report::page::escape::escape;
use crate::report::page::tables;

/// What the style sheet of the report does not have.
const STYLE: &str = "\
    h1 + p { max-width: none; }\n\
    td.word { color: var(--tone); font-weight: 600; text-align: left; }\n\
    td.text { text-align: left; white-space: normal; }\n\
    .plot { max-width: 44rem; }\n\
    .strip { display: block; width: 100%; height: 4.5rem; overflow: visible; }\n\
    .strip circle { fill: var(--line); fill-opacity: 0.55; }\n\
    .strip .median { stroke: var(--line); stroke-width: 3; }\n\
    .strip .rule { stroke: var(--rule); stroke-width: 1; }\n\
    .strip text { fill: var(--ink); font-size: 0.875rem; }\n\
    .ends { display: flex; justify-content: space-between; padding: 0 2% 0 6%; }\n";

/// The positions of the least and of the greatest value in a strip, in percent of its width.
const ENDS: (f64, f64) = (6.0, 98.0);

/// Returns the page.
pub fn render(comparison: &Comparison) -> String {
    let mut body = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut body, comparison);
    document(
        &format!("{}: {}", headline(comparison), command(comparison)),
        STYLE,
        &body,
        "",
    )
}

fn write(body: &mut String, comparison: &Comparison) -> fmt::Result {
    writeln!(
        body,
        "<header>\n<p class=\"kicker\">{}</p>\n<h1>{}</h1>",
        command(comparison),
        escape(&headline(comparison))
    )?;
    if let Some(heading) = comparison.heading() {
        writeln!(body, "<p class=\"when\">{}</p>", escape(&heading))?;
    }
    for (name, runs) in comparison.sets() {
        let described = described(runs);
        writeln!(body, "<p class=\"when\">{name}: {}</p>", escape(&described))?;
    }
    body.push_str("</header>\n<main>\n");
    write_conditions(body, comparison)?;
    write_table(body, comparison)?;
    body.push_str("<h2>The values of the runs</h2>\n");
    for row in &comparison.rows {
        write_strip(body, comparison, row)?;
    }
    write_limits(body, comparison)?;
    write_differences(body, comparison)?;
    write_runs(body, comparison)?;
    body.push_str("</main>\n");
    Ok(())
}

/// Returns the command that made the comparison.
fn command(comparison: &Comparison) -> &'static str {
    match comparison.duel {
        Some(_) => "upcase duel",
        None => "upcase compare",
    }
}

/// Returns what the comparison shows, in a few words.
fn headline(comparison: &Comparison) -> String {
    let shown = comparison
        .rows
        .iter()
        .filter(|row| matches!(row.word, Word::Faster | Word::Slower));
    let shown = shown.map(|row| format!("{} {}", row.metric, row.word));
    let shown: Vec<String> = shown.collect();
    let is_any = |word| comparison.rows.iter().any(|row| row.word == word);
    match shown[..] {
        [] if is_any(Word::NoDifference) => Word::NoDifference.to_string(),
        [] => Word::TooFewRuns.to_string(),
        _ => format!("B: {}", shown.join(", ")),
    }
}

fn write_conditions(body: &mut String, comparison: &Comparison) -> fmt::Result {
    if comparison.conditions.is_empty() {
        return Ok(());
    }
    body.push_str("<h2>Conditions to fail</h2>\n<ul class=\"assertions\">\n");
    for checked in &comparison.conditions {
        let class = match checked.outcome {
            Outcome::Met => "wrong",
            Outcome::NotMet => "good",
            Outcome::Undecided => "open",
        };
        writeln!(
            body,
            "<li class=\"{class}\">{}: <strong>{}</strong>, {}</li>",
            escape(&checked.condition),
            checked.outcome.name(),
            escape(&checked.reason)
        )?;
    }
    body.push_str("</ul>\n");
    Ok(())
}

fn begin_table(body: &mut String, title: &str, heads: &[&str]) -> fmt::Result {
    let table = tables::begin(title, heads);
    write!(body, "<h2>{}</h2>\n{table}", escape(title))
}

fn write_table(body: &mut String, comparison: &Comparison) -> fmt::Result {
    let heads = ["", "A", "B", "B/A", "95 % interval", ""];
    begin_table(body, "B in comparison with A", &heads)?;
    for row in &comparison.rows {
        let [a, b] = row.medians();
        let (ratio, interval) = row.shown_ratio();
        let tone = match row.word {
            Word::Faster => "good",
            Word::Slower => "wrong",
            Word::NoDifference | Word::TooFewRuns => "open",
        };
        writeln!(
            body,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{ratio}</td>\
             <td>{interval}</td><td class=\"word {tone}\">{}</td></tr>",
            row.metric,
            escape(&a),
            escape(&b),
            row.word
        )?;
    }
    body.push_str(tables::END);
    body.push_str(
        "<p class=\"note\">A and B: the median of the runs. The run is the unit: the interval \
         comes from the variation between runs, each row by itself.</p>\n",
    );
    Ok(())
}

/// Writes the values of all runs in one metric as points on two lines.
fn write_strip(body: &mut String, comparison: &Comparison, row: &Row) -> fmt::Result {
    let all = || row.a.iter().chain(&row.b).copied();
    let (Some(least), Some(most)) = (all().reduce(f64::min), all().reduce(f64::max)) else {
        return Ok(());
    };
    let at = |value: f64| {
        let share = match most > least {
            true => (value - least) / (most - least),
            false => 0.5,
        };
        ENDS.0 + share * (ENDS.1 - ENDS.0)
    };
    let metric = row.metric;
    let [a, b] = row.medians();
    writeln!(
        body,
        "<figure class=\"plot\">\n<figcaption><h3>{metric}</h3></figcaption>\n\
         <svg class=\"strip\" role=\"img\" aria-label=\"{metric}: median of A {}, of B {}; {}\">",
        escape(&a),
        escape(&b),
        row.word
    )?;
    for (place, (name, runs)) in comparison.sets().into_iter().enumerate() {
        let y = 30 + 40 * place;
        writeln!(
            body,
            "<g class=\"s{place}\"><text x=\"0\" y=\"{y}%\" dy=\"0.35em\">{name}</text>\
             <line class=\"rule\" x1=\"{}%\" x2=\"{}%\" y1=\"{y}%\" y2=\"{y}%\"/>",
            ENDS.0, ENDS.1
        )?;
        for run in runs {
            if let Some(Ok(value)) = run.value(metric) {
                let told = format!("{}: {}", run.folder.display(), metric.shown(value));
                writeln!(
                    body,
                    "<circle cx=\"{:.2}%\" cy=\"{y}%\" r=\"5\"><title>{}</title></circle>",
                    at(value),
                    escape(&told)
                )?;
            }
        }
        let values = if place == 0 { &row.a } else { &row.b };
        if let Some(median) = median(values) {
            let (x, from, to) = (at(median), y - 14, y + 14);
            writeln!(
                body,
                "<line class=\"median\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{from}%\" y2=\"{to}%\"/>"
            )?;
        }
        body.push_str("</g>\n");
    }
    let ends = [least, most].map(|end| metric.shown(end));
    writeln!(
        body,
        "</svg>\n<p class=\"ends unit\"><span>{}</span><span>{}</span></p>\n</figure>",
        escape(&ends[0]),
        escape(&ends[1])
    )
}

fn write_limits(body: &mut String, comparison: &Comparison) -> fmt::Result {
    let left_out: Vec<String> = comparison
        .left_out()
        .map(|(name, folder, reason)| format!("{folder} of {name} is left out, {reason}"))
        .collect();
    if left_out.is_empty() && comparison.notes.is_empty() {
        return Ok(());
    }
    body.push_str("<h2>What limits the comparison</h2>\n<ul>\n");
    for sentence in left_out.iter().chain(&comparison.notes) {
        writeln!(body, "<li>{}</li>", escape(sentence))?;
    }
    body.push_str("</ul>\n");
    Ok(())
}

fn write_differences(body: &mut String, comparison: &Comparison) -> fmt::Result {
    if comparison.differences.is_empty() {
        return Ok(());
    }
    begin_table(body, "What differs", &["", "A", "B"])?;
    for difference in &comparison.differences {
        let [name, a, b] = difference.cells();
        writeln!(
            body,
            "<tr><th scope=\"row\"><bdi>{}</bdi></th><td class=\"text\"><bdi>{}</bdi></td>\
             <td class=\"text\"><bdi>{}</bdi></td></tr>",
            escape(&name),
            escape(&a),
            escape(&b)
        )?;
    }
    body.push_str(tables::END);
    Ok(())
}

fn write_runs(body: &mut String, comparison: &Comparison) -> fmt::Result {
    let metrics: Vec<Metric> = comparison.rows.iter().map(|row| row.metric).collect();
    let names: Vec<String> = metrics.iter().map(Metric::to_string).collect();
    let mut heads = vec!["directory", "set", "begun", "verdict"];
    heads.extend(names.iter().map(String::as_str));
    begin_table(body, "All runs", &heads)?;
    for (name, runs) in comparison.sets() {
        for run in runs {
            write_run(body, name, run, &metrics)?;
        }
    }
    body.push_str(tables::END);
    Ok(())
}

fn write_run(body: &mut String, name: &str, run: &Run, metrics: &[Metric]) -> fmt::Result {
    write!(
        body,
        "<tr><th scope=\"row\"><bdi>{}</bdi></th><td>{name}</td><td>{}</td><td>{}</td>",
        escape(&run.folder.display().to_string()),
        escape(&run.description.begun.utc),
        run.verdict
    )?;
    for metric in metrics {
        let value = run.value(*metric).and_then(Result::ok);
        let shown = value.map_or("–".to_string(), |value| metric.shown(value));
        write!(body, "<td>{}</td>", escape(&shown))?;
    }
    body.push_str("</tr>\n");
    Ok(())
}
