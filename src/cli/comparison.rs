//! The options and the output of a comparison, which every command that compares runs has.

use std::io::stdout;

use clap::{Args, ValueEnum};

use crate::cli::output::{Outcome, print};
use crate::cli::values::Percentiles;
use crate::compare;
use crate::compare::Comparison;
use crate::compare::condition::{self, Condition};
use crate::compare::metric::Metric;
use crate::sys::terminal;

#[derive(Debug, Args)]
pub(super) struct ComparisonArgs {
    /// Condition such as 'p99 slower by 5%' or 'rate slower by 2%': exit code 1 if the runs show
    /// that it is met, 4 if they leave it undecided; may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition))]
    pub(super) fail_if: Vec<Condition>,
    /// Format of the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// Text for a person
    Text,
    /// One JSON object on one line
    Json,
    /// A page that needs no network: the table, and the values of all runs
    Html,
    /// A table for a pull request
    Markdown,
}

impl ComparisonArgs {
    /// Returns what is compared: the rate, the percentiles, and what the conditions are about.
    pub(super) fn metrics(&self, percentiles: &Percentiles) -> Vec<Metric> {
        let points = percentiles.0.iter().copied().map(Metric::Response);
        let named = self.fail_if.iter().map(|condition| condition.metric);
        let mut metrics: Vec<Metric> = [Metric::Rate].into_iter().chain(points).collect();
        metrics.extend(named);
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    }

    /// Prints a comparison that leads to this exit code.
    pub(super) fn print(&self, comparison: &Comparison, exit_code: u8) -> anyhow::Result<()> {
        print(&match self.format {
            Format::Text => compare::text::render(comparison, terminal::columns(&stdout())),
            Format::Json => compare::json::render(comparison, exit_code),
            Format::Html => compare::page::render(comparison),
            Format::Markdown => compare::markdown::render(comparison),
        })
    }
}

/// Returns the outcome that the conditions lead to.
pub(super) fn outcome(comparison: &Comparison) -> Outcome {
    if comparison.any(condition::Outcome::Met) {
        Outcome::Bad
    } else if comparison.any(condition::Outcome::Undecided) {
        Outcome::Inconclusive
    } else {
        Outcome::Good
    }
}
