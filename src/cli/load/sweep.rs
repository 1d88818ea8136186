//! `upcase load --sweep`: carries out a run at each rate, and prints the curve.

use std::io::stdout;

use anyhow::anyhow;
use log::info;

use crate::causes;
use crate::cli::load::command::{Format, LoadCommand};
use crate::cli::load::many::{SweepRates, sweep_duration};
use crate::cli::load::series::Series;
use crate::cli::output::{COULD_NOT_RUN, Outcome, print};
use crate::sweep::{Point, Sweep, json, page, text};
use crate::sys::terminal;

/// The files of a record that have the report of the sweep.
const JSON: &str = "sweep.json";
const PAGE: &str = "sweep.html";

/// Carries out the runs, and prints the report.
pub(super) fn run(args: &LoadCommand, rates: SweepRates) -> anyhow::Result<Outcome> {
    let mut series = Series::start(&args.run)?;
    let description = series.description();
    let mut sweep = Sweep {
        target: series.target(),
        loads: rates.loads().collect(),
        duration: sweep_duration(&args.run),
        percentiles: args.run.percentiles.0.clone(),
        points: Vec::new(),
        is_interrupted: false,
        failure: None,
    };
    carry_out(&mut series, &mut sweep);
    if let (Some(failure), true) = (&sweep.failure, sweep.points.is_empty()) {
        return Err(anyhow!("{failure}"));
    }
    let outcome = outcome(&sweep);
    let code = outcome.map_or(COULD_NOT_RUN, Outcome::exit_code);
    let json = json::render(&sweep, &description, code);
    let page = || page::render(&sweep, &description);
    print(&match args.format {
        Format::Text => text::render(&sweep, terminal::columns(&stdout())),
        Format::Json => json.clone(),
        Format::Html => page(),
    })?;
    if let Some(folder) = &args.run.record {
        series.write(JSON, &json)?;
        series.write(PAGE, &page())?;
        let page = folder.join(PAGE);
        info!("the curve is in {}", page.display());
    }
    outcome.ok_or_else(|| anyhow!("{}", sweep.failure.unwrap_or_default()))
}

fn carry_out(series: &mut Series, sweep: &mut Sweep) {
    for load in sweep.loads.clone() {
        if series.is_interrupted() {
            sweep.is_interrupted = true;
            return;
        }
        match series.run(load, sweep.duration, &[]) {
            Err(error) => {
                sweep.failure = Some(causes::with_causes(&error));
                return;
            }
            Ok((_, judged)) if judged.summary.times.interrupted => {
                sweep.is_interrupted = true;
                return;
            }
            Ok((number, judged)) => {
                let point = Point::new(number, load, &judged);
                if series.shows_progress() {
                    info!("{}", text::progress(&point));
                }
                sweep.points.push(point);
            }
        }
    }
}

/// Returns the outcome of the command; `None`: a run could not be carried out.
fn outcome(sweep: &Sweep) -> Option<Outcome> {
    match sweep {
        _ if sweep.failure.is_some() => None,
        _ if sweep.has_wrong_replies() => Some(Outcome::Bad),
        _ if sweep.is_open() => Some(Outcome::Inconclusive),
        _ => Some(Outcome::Good),
    }
}
