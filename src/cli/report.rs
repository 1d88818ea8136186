//! `upcase report`: reads recorded runs, merges them, and prints their report.

use std::io::stdout;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::cli::load::measure::outcome;
use crate::cli::output::{Outcome, UsageError, print};
use crate::cli::values::{Percentiles, percentiles};
use crate::load::judge::assertion::Condition;
use crate::load::judge::verdict::{Judged, Verdict};
use crate::record::description::Description;
use crate::record::merge::{Merged, Series, merge};
use crate::record::reader::Recorded;
use crate::report;
use crate::report::page::columns::Columns;
use crate::report::page::join::Joiner;
use crate::sys::terminal;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Directories that `load --record` has written; several are parts of one run, side by side or
    /// one after the other
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Percentiles to print and to judge [default: those of the run]
    #[arg(long, value_name = "P,...", value_parser = percentiles)]
    percentiles: Option<Percentiles>,
    /// Condition that the result must meet, else exit code 1; may be repeated [default: those of
    /// the run]
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition))]
    assert: Vec<Condition>,
    /// Accept this verdict as success: exit code 0 instead of 1 or 4 [default: those of the run]
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    allow: Vec<Verdict>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a person, as `load` prints it
    Text,
    /// One JSON object on one line, as `load` prints it
    Json,
    /// A page that needs no network: verdict, figures over time, plan, all numbers
    Html,
    /// A row of comma-separated values for each interval
    Csv,
    /// The distribution of the response times, for the plotters of HdrHistogram
    Hgrm,
    /// Bencher Metric Format
    Bencher,
    /// The values of which smaller ones are better, for github-action-benchmark
    Github,
    /// A row of comma-separated values for the run, for Apache Otava
    Otava,
}

pub(super) fn run(args: ReportArgs) -> anyhow::Result<Outcome> {
    let parts = args.folders.iter().map(|folder| Recorded::read(folder));
    let parts = parts.collect::<anyhow::Result<Vec<_>>>()?;
    let Some(merged) = merge(parts) else {
        bail!("no directory is given");
    };
    let Merged {
        mut summary,
        series,
        runs,
    } = merged;
    if let Some(percentiles) = args.percentiles {
        let mut plan = summary.plan.as_ref().clone();
        plan.percentiles = percentiles.0;
        summary.plan = plan.into();
    }
    let points = summary.plan.percentiles.clone();
    for condition in &args.assert {
        let checked = condition.check_stage(summary.plan.profile.as_ref());
        checked.map_err(UsageError)?;
    }
    let conditions = chosen(args.assert, "assert", &runs, |text| text.parse().ok());
    let allowed = chosen(args.allow, "allow", &runs, |text| {
        Verdict::from_str(text, true).ok()
    });
    let judged = Judged::new(summary, &conditions, allowed);
    let outcome = outcome(&judged);
    print(&match args.format {
        Format::Text => {
            let columns = terminal::columns(&stdout());
            report::text::describe(&runs, columns) + &report::text::render(&judged, columns)
        }
        Format::Json => report::json::render(&judged, &runs, outcome.exit_code()),
        Format::Csv => report::csv::render(series.moments(), &points),
        Format::Html => report::page::render(&judged, &runs, &joined(&series)),
        Format::Hgrm => report::hgrm::render(&judged.summary.results.response),
        Format::Bencher => report::ci::bencher(&judged, &runs),
        Format::Github => report::ci::github(&judged, &runs),
        Format::Otava => report::ci::otava(&judged, &runs),
    })?;
    Ok(outcome)
}

/// Joins the intervals of a run to the columns of the figures, one interval at a time.
fn joined(series: &Series) -> Columns {
    let (from, to) = series.span();
    let mut joiner = Joiner::new(series.count(), from, to);
    series.moments().for_each(|moment| joiner.add(&moment));
    joiner.finish()
}

/// Returns the values of an option: those that were typed, or else those that the run was given.
fn chosen<T>(
    typed: Vec<T>,
    option: &str,
    runs: &[Description],
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    if !typed.is_empty() {
        return typed;
    }
    let recorded = runs.first().and_then(|run| run.options.get(option));
    let values = recorded.map(|value| value.values()).unwrap_or_default();
    values.iter().filter_map(|text| parse(text)).collect()
}
