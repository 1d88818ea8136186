//! `upcase compare`: reads two sets of recorded runs, and prints how they differ.

use std::io::stdout;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::output::{Outcome, print};
use crate::cli::values::{Percentiles, percentiles};
use crate::compare;
use crate::compare::Comparison;
use crate::compare::condition::{self, Condition};
use crate::compare::metric::Metric;
use crate::compare::run::Run;
use crate::load::judge::verdict::Verdict;
use crate::record::reader::Recorded;
use crate::sys::terminal;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Directories that `load --record` has written: the runs of A. Without --with two of them: a
    /// run A and a run B
    ///
    /// The run is the unit: each run gives one value for each metric, and the 95 % interval of the
    /// ratio B/A comes from the variation between runs. Samples of different runs are never put
    /// together: those of one run resemble each other, so that an interval from them would be far
    /// too narrow. Each row is judged by itself: of twenty rows without any difference, one is
    /// called different on average.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// The runs of B; at 95 % at least 4 against 4 runs are needed, better 10 against 10, recorded
    /// in turn (A, B, A, B)
    #[arg(long, value_name = "DIR", num_args = 1..)]
    with: Vec<PathBuf>,
    /// Percentiles of the response times to compare
    #[arg(
        long,
        value_name = "P,...",
        value_parser = percentiles,
        default_value = "50,90,99,99.9"
    )]
    percentiles: Percentiles,
    /// Condition such as 'p99 slower by 5%' or 'rate slower by 2%': exit code 1 if the runs show
    /// that it is met, 4 if they leave it undecided; may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition))]
    fail_if: Vec<Condition>,
    /// Compare also runs with this verdict: client-bound, inconclusive or failed; they are left out
    /// otherwise, since their numbers are not those of the server
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    allow: Vec<Verdict>,
    /// Format of the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a person
    Text,
    /// One JSON object on one line
    Json,
    /// A page that needs no network: the table, and the values of all runs
    Html,
    /// A table for a pull request
    Markdown,
}

impl CompareArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.with.is_empty() && self.folders.len() != 2 {
            return Err(match self.folders.len() {
                1 => "a second run is missing: compare A B, or compare A... --with B...",
                _ => "which runs are A, and which are B? compare A... --with B...",
            }
            .to_string());
        }
        let all: Vec<&PathBuf> = self.folders.iter().chain(&self.with).collect();
        for (place, folder) in all.iter().enumerate() {
            if all[..place].contains(folder) {
                let name = folder.display();
                return Err(format!("{name} is given twice, and each run counts once"));
            }
        }
        Ok(())
    }

    /// Returns the directories of A and of B.
    fn sets(&self) -> (&[PathBuf], &[PathBuf]) {
        match self.with.is_empty() {
            true => self.folders.split_at(self.folders.len().min(1)),
            false => (&self.folders, &self.with),
        }
    }

    /// Returns what is compared: the rate, the percentiles, and what the conditions are about.
    fn metrics(&self) -> Vec<Metric> {
        let points = self.percentiles.0.iter().copied().map(Metric::Response);
        let named = self.fail_if.iter().map(|condition| condition.metric);
        let mut metrics: Vec<Metric> = [Metric::Rate].into_iter().chain(points).collect();
        metrics.extend(named);
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }
}

pub(super) fn run(args: CompareArgs) -> anyhow::Result<Outcome> {
    let metrics = args.metrics();
    // One record after the other: its histograms are dropped before the next one is read.
    let read = |folder: &PathBuf| one(folder, &metrics, &args.allow);
    let read = |folders: &[PathBuf]| folders.iter().map(read).collect::<anyhow::Result<Vec<_>>>();
    let (a, b) = args.sets();
    let comparison = Comparison::new(read(a)?, read(b)?, &metrics, &args.fail_if);
    let outcome = outcome(&comparison);
    print(&match args.format {
        Format::Text => compare::text::render(&comparison, terminal::columns(&stdout())),
        Format::Json => compare::json::render(&comparison, outcome.exit_code()),
        Format::Html => compare::page::render(&comparison),
        Format::Markdown => compare::markdown::render(&comparison),
    })?;
    Ok(outcome)
}

fn one(folder: &Path, metrics: &[Metric], allowed: &[Verdict]) -> anyhow::Result<Run> {
    Ok(Run::new(Recorded::read(folder)?, metrics, allowed))
}

fn outcome(comparison: &Comparison) -> Outcome {
    if comparison.any(condition::Outcome::Met) {
        Outcome::Bad
    } else if comparison.any(condition::Outcome::Undecided) {
        Outcome::Inconclusive
    } else {
        Outcome::Good
    }
}
