//! `upcase load`: one run, or with `--find-max` and `--sweep` many of them, and the report.

pub(super) mod args;
mod many;
pub(super) mod measure;
mod search;
mod series;
mod sweep;

use std::io::stdout;

use crate::cli::load::args::{Format, LoadArgs};
use crate::cli::load::measure::measure;
use crate::cli::output::{Outcome, print};
use crate::report;
use crate::sys::terminal;

/// Carries out the run that the options describe, and prints its report.
pub(super) fn run(args: LoadArgs) -> anyhow::Result<Outcome> {
    if args.many.is_search() {
        return search::run(&args);
    }
    if let Some(rates) = args.many.sweep {
        return sweep::run(&args, rates);
    }
    let measured = measure(&args)?;
    print(&match args.format {
        Format::Text | Format::Html => {
            report::text::render(&measured.judged, terminal::columns(&stdout()))
        }
        Format::Json => measured.json(),
    })?;
    let outcome = measured.outcome();
    measured.failure.map_or(Ok(outcome), Err)
}
