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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::judge::verdict::Verdict;
    use crate::report::columns::width;
    use crate::search::goal::{Load, Range};
    use crate::search::strategy::{Ending, Strategy};
    use crate::search::trial::Outcome;
    use crate::search::{GOAL_DEFAULT, SHORT_TRIAL, TIME_DEFAULT};

    fn search(ending: Ending, bounds: Bounds) -> Search {
        let trial = |number, outcome| TrialReport {
            number,
            load: Load::new(2000.0),
            duration: Duration::from_secs(2),
            is_long: true,
            achieved: 1999.5,
            objective: Vec::new(),
            verdict: Verdict::ClientBound,
            outcome,
            reason: Some("it was \x1b busy".to_string()),
        };
        Search {
            target: "10.0.0.2:12000".to_string(),
            objective: vec!["p99<1ms".to_string(), "errors=0".to_string()],
            goal: GOAL_DEFAULT,
            strategy: Strategy {
                range: Range {
                    least: Load::new(100.0),
                    most: Load::new(1e6),
                },
                short_trial: SHORT_TRIAL,
                messages_least: 1000,
                time_most: TIME_DEFAULT,
            },
            trials: vec![trial(1, Outcome::Good), trial(2, Outcome::Discarded)],
            bounds,
            conditional_throughput: bounds.lower.map(Load::per_second),
            ending,
            failure: None,
            spent: Duration::from_secs(31),
        }
    }

    #[test]
    fn every_end_is_named_with_what_is_known() {
        let (low, high) = (Some(Load::new(2000.0)), Some(Load::new(2100.0)));
        let limit = Ending::GeneratorLimit(Load::new(2100.0));
        for (ending, lower, upper, expected) in [
            (
                Ending::Found,
                low,
                high,
                "and errors=0 is between 2,000/s and 2,100/s",
            ),
            (
                Ending::HoldsAtMost,
                low,
                None,
                "2,000/s, the highest rate of the search, holds",
            ),
            (
                Ending::FailsAtLeast,
                None,
                high,
                "the lowest rate of the search, does not hold",
            ),
            (
                limit,
                low,
                None,
                "the generator is the limit at 2,100/s; 2,000/s holds it, and no",
            ),
            (
                Ending::OutOfTime,
                None,
                None,
                "ended before the search did; no bound is known",
            ),
            (
                Ending::Interrupted,
                low,
                high,
                "which is not within the width",
            ),
            (
                Ending::Failed,
                None,
                high,
                "2,100/s does not hold it, and no lower bound",
            ),
        ] {
            let search = search(ending, Bounds { lower, upper });
            let text = render(&search, None);
            assert!(text.contains(expected), "{expected}: {text}");
            assert!(
                text.contains("2 trials, 1 of them discarded, in 31 s"),
                "{text}"
            );
            assert_eq!(
                text.contains("there is no conditional"),
                lower.is_none(),
                "{text}"
            );
            assert!(!text.contains('\x1b'), "a terminal must not obey it");
        }
    }

    #[test]
    fn it_fits_into_a_terminal() {
        let search = search(Ending::OutOfTime, Bounds::default());
        for columns in [20, 40, 80, 120] {
            let text = render(&search, Some(columns));
            assert!(text.lines().all(|line| width(line) <= columns), "{text}");
        }
    }
}
