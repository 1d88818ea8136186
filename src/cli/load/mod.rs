//! `upcase load`: one run, or with `--find-max` and `--sweep` many of them, and the report.

pub(super) mod args;
pub(super) mod command;
mod many;
pub(super) mod measure;
mod search;
mod series;
mod sweep;

use std::collections::BTreeMap;
use std::io::stdout;

use crate::cli::load::command::{Format, LoadCommand};
use crate::cli::load::many::sweep_duration;
use crate::cli::load::measure::{in_effect, measure};
use crate::cli::output::{Outcome, print};
use crate::cli::plan;
use crate::record::description::OptionValue;
use crate::report;
use crate::sys::terminal;

/// Carries out the run that the options describe, and prints its report.
pub(super) fn run(args: LoadCommand) -> anyhow::Result<Outcome> {
    if args.plan.print_plan {
        return plan::show("load", &options(&args));
    }
    if args.many.is_search() {
        return search::run(&args);
    }
    if let Some(rates) = args.many.sweep {
        return sweep::run(&args, rates);
    }
    let measured = measure(&args.run)?;
    print(&match args.format {
        Format::Text | Format::Html => {
            report::text::render(&measured.judged, terminal::columns(&stdout()))
        }
        Format::Json => measured.json(),
    })?;
    let outcome = measured.outcome();
    measured.failure.map_or(Ok(outcome), Err)
}

/// Returns the options of the command with their values, for a plan file that reads back as given.
fn options(args: &LoadCommand) -> BTreeMap<String, OptionValue> {
    let mut options = in_effect(&args.run);
    if args.run.messages.is_some() {
        // A number of messages has no warm-up, and its default must not be read as given.
        options.remove("warmup");
    }
    if args.many.is_search() {
        // The search decides how long a trial is.
        options.remove("duration");
    } else if args.many.sweep.is_some() {
        let duration = humantime::format_duration(sweep_duration(&args.run));
        options.insert(
            "duration".to_string(),
            OptionValue::One(duration.to_string()),
        );
    }
    options
}
