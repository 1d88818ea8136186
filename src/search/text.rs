//! Renders a search as text for a person. Pure.

use crate::load::judge::assertion::Assertion;
use crate::report::grid::{Grid, Side};
use crate::report::text::fitted;
use crate::search::database::Bounds;
use crate::search::report::Search;
use crate::search::trial::TrialReport;
use crate::units::rate;

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 13;

/// Returns the text, for a terminal with this number of columns.
pub fn render(search: &Search, columns: Option<usize>) -> String {
    let mut page = String::new();
    let mut line = |label: &str, text: &str| page += &format!("{label:MARGIN$}{text}\n");
    line("target", &search.target);
    line("goal", &search.goal());
    let range = search.strategy.range;
    let rates = format!("{} to {} messages/s", range.least, range.most);
    line("rates", &rates);
    page += "\n";
    page += &grid(search).lines(MARGIN, columns);
    for trial in &search.trials {
        if let Some(reason) = &trial.reason {
            let label = format!("trial {}", trial.number);
            page += &format!("{label:MARGIN$}{}: {reason}\n", trial.outcome.name());
        }
    }
    page += "\n";
    let mut line = |label: &str, text: &str| page += &format!("{label:MARGIN$}{text}\n");
    let Bounds { lower, upper } = search.bounds;
    let named = |rate: Option<String>, name: &str| match rate {
        Some(rate) => format!("{rate} messages/s, the {name}"),
        None => format!("there is no {name}"),
    };
    let lower = lower.map(|load| load.to_string());
    let upper = upper.map(|load| load.to_string());
    let throughput = search.conditional_throughput.map(rate);
    line("lower bound", &named(lower, "relevant lower bound"));
    line("upper bound", &named(upper, "relevant upper bound"));
    line("throughput", &named(throughput, "conditional throughput"));
    line("result", &search.result());
    if let Some(advice) = search.advice() {
        line("", &format!("-> {advice}"));
    }
    line("", &search.effort());
    fitted(&page, columns)
}

/// Returns what is known about a trial, in a line of the log.
pub fn progress(trial: &TrialReport) -> String {
    let found = trial.objective.iter().map(found);
    let reason = trial.reason.iter().cloned();
    format!(
        "trial {}: {}/s for {}: {}; {}",
        trial.number,
        trial.load,
        humantime::format_duration(trial.duration),
        trial.outcome.name(),
        found.chain(reason).collect::<Vec<String>>().join("; ")
    )
}

fn found(assertion: &Assertion) -> String {
    format!("{}: {}", assertion.condition, assertion.found)
}

fn grid(search: &Search) -> Grid {
    let head = |text: &str, side| (text.to_string(), side);
    let mut heads = vec![
        head("", Side::Left),
        head("rate", Side::Right),
        head("achieved", Side::Right),
        head("time", Side::Right),
    ];
    heads.extend(search.objective.iter().map(|it| head(it, Side::Right)));
    heads.extend([head("verdict", Side::Left), head("outcome", Side::Left)]);
    Grid {
        heads,
        rows: search.trials.iter().map(row).collect(),
    }
}

fn row(trial: &TrialReport) -> Vec<String> {
    let mut cells = vec![
        format!("trial {}", trial.number),
        format!("{}/s", trial.load),
        format!("{}/s", rate(trial.achieved)),
        humantime::format_duration(trial.duration).to_string(),
    ];
    let found = trial.objective.iter();
    cells.extend(found.map(|assertion| assertion.found.clone()));
    cells.push(trial.verdict.to_string());
    cells.push(trial.outcome.name().to_string());
    cells
}
