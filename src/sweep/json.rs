//! Renders a sweep as one JSON object. Names and units are stable: within a `schema`, fields are
//! added but never changed. Rates are in messages per second, times in microseconds. Pure.

use serde::Serialize;

use crate::record::description::Description;
use crate::report::percentiles::Percentiles;
use crate::sweep::{Point, Sweep};

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    run: &'a Description,
    target: &'a str,
    /// The rates that were asked for.
    rates: Vec<f64>,
    /// The time of each run, with its warm-up.
    duration_s: f64,
    /// The runs, one for each rate in the same order; fewer if the sweep ended early.
    points: Vec<OnePoint<'a>>,
    interrupted: bool,
    /// The error of the run that could not be carried out; `null`: all were.
    failure: Option<&'a str>,
    notes: Vec<String>,
    /// Whether the exit code is 0.
    ok: bool,
    /// 0: all runs were carried out; 1: replies were wrong; 3: a run could not be carried out; 4: a
    /// signal ended the sweep, or the generator limited a run.
    exit_code: u8,
}

#[derive(Serialize)]
struct OnePoint<'a> {
    number: u32,
    rate: f64,
    achieved: f64,
    /// The share of the schedule that was answered; `null`: nothing was due.
    share: Option<f64>,
    response_us: &'a Percentiles,
    verdict: &'static str,
    /// The percentile up to which the numbers are those of the server; `null`: all of them.
    valid_up_to: Option<f64>,
    evidence: Option<&'a str>,
}

/// Returns the object, on one line.
pub fn render(sweep: &Sweep, run: &Description, exit_code: u8) -> String {
    let report = Report {
        schema: "upcase.sweep/1",
        run,
        target: &sweep.target,
        rates: sweep.loads.iter().map(|load| load.per_second()).collect(),
        duration_s: sweep.duration.as_secs_f64(),
        points: sweep.points.iter().map(one_point).collect(),
        interrupted: sweep.is_interrupted,
        failure: sweep.failure.as_deref(),
        notes: sweep.notes(),
        ok: exit_code == 0,
        exit_code,
    };
    // The report consists of numbers and strings, so the serialization cannot fail.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn one_point(point: &Point) -> OnePoint<'_> {
    OnePoint {
        number: point.number,
        rate: point.load.per_second(),
        achieved: point.achieved,
        share: point.share,
        response_us: &point.response,
        verdict: point.verdict.name(),
        valid_up_to: point.valid_up_to.map(|point| point.percent()),
        evidence: point.evidence.as_deref(),
    }
}
