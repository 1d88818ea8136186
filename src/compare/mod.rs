//! Compares two sets of runs, A and B. Pure.
//!
//! The run is the unit. Each run gives one value for each metric, and how much these values vary
//! from run to run decides what can be said. The samples of different runs are never put together:
//! within a run they resemble each other far more than those of another run, so that an interval
//! computed from them would be much too narrow.
//!
//! | idea | file |
//! |---|---|
//! | the ratio of two sets, with its interval | `ratio` |
//! | the metrics, and the word for a ratio | `metric` |
//! | conditions under which a comparison fails | `condition` |
//! | a run: its values, and whether they are those of the server | `run` |
//! | options, versions and machines that differ | `differences` |
//! | a duel, which makes the runs itself | `duel` |
//! | the outputs | `text`, `json`, `markdown`, `page` |
//!
//! Invariants: a run counts once. A run that is left out, and a value that is missing, is named.

pub mod condition;
pub mod differences;
pub mod duel;
pub mod json;
pub mod markdown;
pub mod metric;
pub mod page;
pub mod ratio;
pub mod run;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::condition::{Checked, Condition, Outcome};
use crate::compare::differences::{Difference, differences};
use crate::compare::duel::Duel;
use crate::compare::metric::{Metric, Word};
use crate::compare::ratio::{Ratio, median, ratio};
use crate::compare::run::{Lack, Run, says_nothing};
use crate::units::{agreeing, counted};

/// The ratio of the numbers of runs above which they are unequal.
const UNEQUAL: f64 = 1.5;

/// A comparison of two sets of runs.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The set that is compared with.
    pub a: Vec<Run>,
    /// The set that is compared.
    pub b: Vec<Run>,
    /// What is not the same in all runs.
    pub differences: Vec<Difference>,
    /// What limits the comparison, one sentence each.
    pub notes: Vec<String>,
    /// A row for each metric.
    pub rows: Vec<Row>,
    /// The conditions, and whether they are met.
    pub conditions: Vec<Checked>,
    /// The duel that the runs were made for; `None`: they were recorded before.
    pub duel: Option<Duel>,
}

/// The comparison in one metric.
#[derive(Clone, Debug)]
pub struct Row {
    /// The metric.
    pub metric: Metric,
    /// The values of the runs of A.
    pub a: Vec<f64>,
    /// The values of the runs of B.
    pub b: Vec<f64>,
    /// The ratio of B to A; `None`: too few runs.
    pub ratio: Option<Ratio>,
    /// What it shows.
    pub word: Word,
}

impl Comparison {
    /// Compares two sets of runs, and checks the conditions.
    pub fn new(
        mut a: Vec<Run>,
        mut b: Vec<Run>,
        metrics: &[Metric],
        conditions: &[Condition],
    ) -> Comparison {
        leave_out_repeated(a.iter_mut().chain(&mut b));
        let rows: Vec<Row> = metrics
            .iter()
            .map(|metric| Row::new(*metric, &a, &b))
            .collect();
        let check = |condition: &Condition| {
            let row = rows.iter().find(|row| row.metric == condition.metric);
            condition.check(row.and_then(|row| row.ratio))
        };
        Comparison {
            differences: differences(&a, &b),
            notes: notes(&a, &b, &rows),
            conditions: conditions.iter().map(check).collect(),
            rows,
            a,
            b,
            duel: None,
        }
    }

    /// Returns the comparison as that of a duel.
    pub fn of_duel(self, duel: Duel) -> Comparison {
        Comparison {
            duel: Some(duel),
            ..self
        }
    }

    /// Returns what was done, if the runs are those of a duel.
    pub fn heading(&self) -> Option<String> {
        let duel = self.duel.as_ref()?;
        Some(duel.described(&self.a, &self.b))
    }

    /// Returns both sets with their names, and in words: the runs with their directories, in a duel
    /// with its target.
    pub fn described_sets(&self) -> [(&'static str, String); 2] {
        let targets = self.duel.as_ref().map(|duel| &duel.targets);
        let described = |place: usize, runs: &[Run]| match targets {
            Some(targets) => format!("{}: {}", targets[place], described(runs)),
            None => {
                let folders = runs.iter().map(|run| run.folder.display().to_string());
                let folders = folders.collect::<Vec<String>>().join(", ");
                format!("{}: {folders}", described(runs))
            }
        };
        [("A", described(0, &self.a)), ("B", described(1, &self.b))]
    }

    /// Returns both sets with their names.
    pub fn sets(&self) -> [(&'static str, &[Run]); 2] {
        [("A", &self.a), ("B", &self.b)]
    }

    /// Returns the runs that are left out: the name of the set, the directory, and the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (&'static str, String, &str)> {
        self.sets().into_iter().flat_map(|(name, runs)| {
            runs.iter().filter_map(move |run| {
                let reason = run.left_out.as_deref()?;
                Some((name, run.folder.display().to_string(), reason))
            })
        })
    }

    /// Returns whether a condition has this outcome.
    pub fn any(&self, outcome: Outcome) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| condition.outcome == outcome)
    }
}

impl Row {
    fn new(metric: Metric, a: &[Run], b: &[Run]) -> Row {
        let known = |runs: &[Run]| -> Vec<f64> {
            let values = runs.iter().filter_map(|run| run.value(metric));
            values.filter_map(Result::ok).collect()
        };
        let (a, b) = (known(a), known(b));
        let ratio = ratio(&a, &b);
        Row {
            metric,
            word: Word::of(metric, ratio),
            ratio,
            a,
            b,
        }
    }

    /// Returns the medians of A and B as they are shown; `-`: no run has a value.
    pub fn medians(&self) -> [String; 2] {
        [&self.a, &self.b].map(|values| {
            let shown = median(values).map(|value| self.metric.shown(value));
            shown.unwrap_or("-".to_string())
        })
    }

    /// Returns the ratio and its interval as they are shown; `-`: too few runs.
    pub fn shown_ratio(&self) -> (String, String) {
        let unknown = || ("-".to_string(), "-".to_string());
        self.ratio.map_or_else(unknown, metric::shown)
    }
}

/// Describes a set in words: `5 runs (4 valid, 1 server-bound)`.
pub fn described(runs: &[Run]) -> String {
    let part = runs.iter().filter(|run| run.left_out.is_none());
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for run in part.clone() {
        *verdicts.entry(run.verdict.name()).or_default() += 1;
    }
    let verdicts = verdicts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"));
    let verdicts = match verdicts.collect::<Vec<String>>().join(", ") {
        none if none.is_empty() => none,
        verdicts => format!(" ({verdicts})"),
    };
    let left = runs.iter().filter(|run| run.left_out.is_some()).count();
    let left = match left {
        0 => String::new(),
        left => format!(", {left} left out"),
    };
    format!("{}{verdicts}{left}", counted(part.count() as u64, "run"))
}

/// Leaves out records of a run that is already there: counted twice, it would make an interval too
/// narrow.
fn leave_out_repeated<'a>(runs: impl Iterator<Item = &'a mut Run>) {
    let mut known = BTreeMap::new();
    for run in runs {
        let begun = &run.description.begun;
        let host = run.description.host.name.clone();
        let identity = (host, begun.utc.clone(), begun.monotonic_s.to_bits());
        let first = known.entry(identity).or_insert_with(|| run.folder.clone());
        if *first != run.folder {
            run.left_out = Some(format!("it is the same run as {}", first.display()));
        }
    }
}

/// Returns what limits a comparison.
fn notes(a: &[Run], b: &[Run], rows: &[Row]) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, runs) in [("A", a), ("B", b)] {
        let part = runs.iter().filter(|run| run.left_out.is_none());
        for run in part.filter(|run| run.doubt.is_some()) {
            notes.push(format!(
                "{} of {name} is {}: {}",
                run.folder.display(),
                run.verdict,
                run.doubt.as_deref().unwrap_or_default()
            ));
        }
        notes.extend(left_out(name, runs));
        notes.extend(lacks(rows, name, runs));
    }
    if rows.iter().any(|row| row.word == Word::TooFewRuns) {
        notes.push(
            "a difference at 95 % takes at least 4 against 4 runs with a value, or 3 against 5"
                .to_string(),
        );
    }
    notes.extend(unequal(rows));
    notes.extend(sequence(a, b));
    notes
}

/// Says how many runs of a set are left out, and how they can be compared.
fn left_out(name: &str, runs: &[Run]) -> Option<String> {
    let left = runs.iter().filter(|run| run.left_out.is_some());
    let count = left.clone().count();
    let verdicts: BTreeSet<&str> = left
        .filter(|run| says_nothing(run.verdict))
        .map(|run| run.verdict.name())
        .collect();
    let verdicts = verdicts.into_iter().collect::<Vec<&str>>().join(",");
    let advice = match verdicts.as_str() {
        "" => String::new(),
        verdicts => format!("; --allow {verdicts} compares them as well"),
    };
    (count > 0).then(|| {
        format!(
            "{count} of {} of {name} {} left out, and may be the slow ones{advice}",
            counted(runs.len() as u64, "run"),
            agreeing(count as u64, "is", "are")
        )
    })
}

/// Names the runs of a set that have no value of some metrics, with the reason.
fn lacks(rows: &[Row], name: &str, runs: &[Run]) -> Vec<String> {
    let mut reasons: BTreeMap<(Lack, u64), Vec<String>> = BTreeMap::new();
    for row in rows {
        let mut counts: BTreeMap<Lack, u64> = BTreeMap::new();
        for value in runs.iter().filter_map(|run| run.value(row.metric)) {
            if let Err(lack) = value {
                *counts.entry(lack).or_default() += 1;
            }
        }
        for reason in counts {
            reasons
                .entry(reason)
                .or_default()
                .push(row.metric.to_string());
        }
    }
    let sentence = |((lack, count), metrics): ((Lack, u64), Vec<String>)| {
        let runs = counted(count, "run");
        let has = agreeing(count, "has", "have");
        let (metrics, reason) = (metrics.join(", "), lack.words());
        format!("{runs} of {name} {has} no value of {metrics}: {reason}")
    };
    reasons.into_iter().map(sentence).collect()
}

/// Names numbers of runs that are too unequal: if the smaller set varies more, its variation alone
/// is called a difference in up to one of six comparisons.
fn unequal(rows: &[Row]) -> Option<String> {
    let is_unequal = |row: &&Row| {
        let (fewer, more) = (
            row.a.len().min(row.b.len()) as f64,
            row.a.len().max(row.b.len()) as f64,
        );
        row.ratio.is_some() && more > UNEQUAL * fewer
    };
    let row = rows.iter().find(is_unequal)?;
    Some(format!(
        "{} of A against {} of B: if the smaller set varies more, that alone can look like a \
         difference, so record equal numbers of runs",
        counted(row.a.len() as u64, "run"),
        row.b.len()
    ))
}

/// Names sets of which one ended before the other began.
fn sequence(a: &[Run], b: &[Run]) -> Option<String> {
    let part = |runs: &[Run]| {
        let part = runs.iter().filter(|run| run.left_out.is_none());
        let times = part.map(|run| run.description.begun.unix_s.max(0.0).to_bits());
        times.collect::<BTreeSet<u64>>()
    };
    let (a, b) = (part(a), part(b));
    let is_before = |one: &BTreeSet<u64>, other: &BTreeSet<u64>| one.last() < other.first();
    let sides = match (is_before(&a, &b), is_before(&b, &a)) {
        _ if a.len() < 2 || b.len() < 2 => return None,
        (true, _) => ("A", "B"),
        (_, true) => ("B", "A"),
        _ => return None,
    };
    Some(format!(
        "all runs of {} were before those of {}: a change of the machine in between looks like a \
         difference, so alternate the runs (A, B, A, B)",
        sides.0, sides.1
    ))
}
