//! `upcase load`: one run, and its report.

pub(super) mod args;
pub(super) mod measure;

use std::io::stdout;

use crate::cli::load::args::{Format, LoadArgs};
use crate::cli::load::measure::measure;
use crate::cli::output::{Outcome, print};
use crate::report;
use crate::sys::terminal;

/// Carries out the run that the options describe, and prints its report.
pub(super) fn run(args: LoadArgs) -> anyhow::Result<Outcome> {
    let measured = measure(&args)?;
    print(&match args.format {
        Format::Text => report::text::render(&measured.judged, terminal::columns(&stdout())),
        Format::Json => measured.json(),
    })?;
    let outcome = measured.outcome();
    measured.failure.map_or(Ok(outcome), Err)
}
