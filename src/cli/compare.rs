//! `upcase compare`: reads two sets of recorded runs, and prints how they differ.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::comparison::{ComparisonArgs, outcome};
use crate::cli::output::Outcome;
use crate::cli::values::{Percentiles, percentiles};
use crate::compare::Comparison;
use crate::compare::metric::Metric;
use crate::compare::run::Run;
use crate::load::judge::verdict::Verdict;
use crate::record::reader::Recorded;

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
    /// Compare also runs with this verdict: client-bound, inconclusive or failed; they are left out
    /// otherwise, since their numbers are not those of the server
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    allow: Vec<Verdict>,
    #[command(flatten)]
    comparison: ComparisonArgs,
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
}

pub(super) fn run(args: CompareArgs) -> anyhow::Result<Outcome> {
    let metrics = args.comparison.metrics(&args.percentiles);
    // One record after the other: its histograms are dropped before the next one is read.
    let read = |folder: &PathBuf| one(folder, &metrics, &args.allow);
    let read = |folders: &[PathBuf]| folders.iter().map(read).collect::<anyhow::Result<Vec<_>>>();
    let (a, b) = args.sets();
    let comparison = Comparison::new(read(a)?, read(b)?, &metrics, &args.comparison.fail_if);
    let outcome = outcome(&comparison);
    args.comparison.print(&comparison, outcome.exit_code())?;
    Ok(outcome)
}

fn one(folder: &Path, metrics: &[Metric], allowed: &[Verdict]) -> anyhow::Result<Run> {
    Ok(Run::recorded(Recorded::read(folder)?, metrics, allowed))
}
