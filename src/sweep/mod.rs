//! A sweep: runs at several rates, whose response times form a curve. Pure: the runs are those of
//! `load`.
//!
//! | idea | file |
//! |---|---|
//! | the curve as a table for a person, and as JSON | `text`, `json` |
//! | the curve as a page | `page` |
//!
//! Invariant: a run counts at the rate that was asked for; what was achieved stands beside it.

pub mod json;
pub mod page;
pub mod text;

use std::time::Duration;

use crate::load::judge::verdict::{Judged, Verdict};
use crate::load::latency::percentile::{self, Percentile};
use crate::load::latency::{Bound, Distribution};
use crate::report::percentiles::{Percentiles, percentiles};
use crate::search::goal::Load;
use crate::units::counted;

/// A sweep.
#[derive(Debug)]
pub struct Sweep {
    /// The servers, as they were typed.
    pub target: String,
    /// The rates that were asked for.
    pub loads: Vec<Load>,
    /// The time of each run, with its warm-up.
    pub duration: Duration,
    /// The percentiles to print.
    pub percentiles: Vec<Percentile>,
    /// The runs, one for each rate in the same order; fewer if the sweep ended early.
    pub points: Vec<Point>,
    /// Whether a signal ended the sweep.
    pub is_interrupted: bool,
    /// The error of the run that could not be carried out.
    pub failure: Option<String>,
}

/// One run of a sweep.
#[derive(Debug)]
pub struct Point {
    /// Its number, from 1.
    pub number: u32,
    /// The rate that was asked for.
    pub load: Load,
    /// Messages per second that were verified.
    pub achieved: f64,
    /// The share of the schedule that was answered.
    pub share: Option<f64>,
    /// Number of replies that were wrong.
    pub mismatched: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether the verdict is accepted as success.
    pub is_allowed: bool,
    /// The percentile up to which the numbers are those of the server; `None`: all of them.
    pub valid_up_to: Option<Percentile>,
    /// The first sentence of evidence for a verdict other than valid.
    pub evidence: Option<String>,
    /// Percentiles of the response times: the standard ones, and those to print.
    times: Vec<(Percentile, Option<Bound>)>,
    /// The longest response time.
    pub longest: Option<Bound>,
    /// Statistics of the response times for JSON.
    pub response: Percentiles,
}

impl Point {
    /// Returns the point of a run.
    pub fn new(number: u32, load: Load, judged: &Judged) -> Point {
        let summary = &judged.summary;
        let response = &summary.results.response;
        let all = response.distribution();
        let find = |point: Percentile| Some((point, all.as_ref()?.percentile(point.percent())));
        let asked = &summary.plan.percentiles;
        let points = percentile::with_standard(asked);
        let verdict = judged.findings.verdict;
        let evidence = judged.findings.evidence.first();
        Point {
            number,
            load,
            achieved: summary.achieved_rate(),
            share: summary.rate_share(),
            mismatched: summary.results.counts.mismatched,
            verdict,
            is_allowed: judged.allowed.contains(&verdict),
            valid_up_to: judged.findings.valid_up_to,
            evidence: evidence.filter(|_| verdict != Verdict::Valid).cloned(),
            times: points.into_iter().filter_map(find).collect(),
            longest: all.as_ref().map(Distribution::longest),
            response: percentiles(response, asked),
        }
    }

    /// Returns a percentile of the response times; `None`: too few samples lie beyond.
    pub fn time(&self, percentile: Percentile) -> Option<Bound> {
        let mut times = self.times.iter();
        times.find(|(point, _)| *point == percentile)?.1
    }

    /// Returns whether the numbers of this run are not those of the server.
    pub fn is_of_generator(&self) -> bool {
        let is_open = matches!(self.verdict, Verdict::ClientBound | Verdict::Inconclusive);
        is_open && !self.is_allowed
    }

    /// Returns whether the server did not hold the rate, or lost messages.
    pub fn is_exceeded(&self) -> bool {
        matches!(self.verdict, Verdict::ServerBound | Verdict::Failed)
    }

    /// Returns the verdict in words: `valid up to p90`.
    pub fn verdict(&self) -> String {
        match self.valid_up_to {
            Some(point) => format!("{} up to {point}", self.verdict),
            None => self.verdict.to_string(),
        }
    }
}

impl Sweep {
    /// Returns whether the server sent replies that were wrong.
    pub fn has_wrong_replies(&self) -> bool {
        let mut points = self.points.iter();
        points.any(|point| point.mismatched > 0 && !point.is_allowed)
    }

    /// Returns whether a part of the curve is missing, or is not that of the server.
    pub fn is_open(&self) -> bool {
        let mut points = self.points.iter();
        self.points.len() < self.loads.len()
            || self.is_interrupted
            || points.any(Point::is_of_generator)
    }

    /// Returns what limits the curve, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_interrupted {
            notes.push("a signal ended the sweep".to_string());
        }
        if let Some(failure) = &self.failure {
            notes.push(format!("a run could not be carried out: {failure}"));
        }
        if self.has_wrong_replies() {
            notes.push("the server sent wrong replies".to_string());
        }
        let limited = self.points.iter().filter(|point| point.is_of_generator());
        match limited.count() as u64 {
            0 => {}
            some => notes.push(format!(
                "the numbers of {} are not those of the server",
                counted(some, "run")
            )),
        }
        let evidence = self.points.iter().filter_map(|point| {
            let evidence = point.evidence.as_deref()?;
            Some(format!("{}/s, {}: {evidence}", point.load, point.verdict))
        });
        notes.extend(evidence);
        notes
    }

    /// Returns the sweep in a few words.
    pub fn headline(&self) -> String {
        let ends = [self.loads.first(), self.loads.last()];
        let [least, most] = ends.map(|load| load.map_or(String::new(), Load::to_string));
        let runs = counted(self.points.len() as u64, "run");
        let time = humantime::format_duration(self.duration);
        format!("{runs} of {time} from {least} to {most} messages/s")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::load::plan::{Plan, Stop};
    use crate::load::results::summary::Summary;
    use crate::record::description::Description;
    use crate::report::columns::width;

    /// Returns a run whose response time is known, with a verdict.
    fn point(number: u32, milliseconds: u64, verdict: Verdict) -> Point {
        let target = "127.0.0.1:7".parse().unwrap();
        let plan = Arc::new(Plan::new(target, Stop::Messages(1)));
        let mut summary = Summary::empty(&plan);
        let response = &mut summary.results.response;
        response.record_many(Duration::from_millis(milliseconds), 2000);
        if verdict == Verdict::Failed {
            (0..50).for_each(|_| response.record_at_least(Duration::from_secs(1)));
        }
        let mut judged = Judged::new(summary, &[], Vec::new());
        judged.findings.verdict = verdict;
        judged.findings.evidence = vec!["<because>".to_string()];
        Point::new(number, Load::new(1000.0 * f64::from(number)), &judged)
    }

    fn sweep() -> Sweep {
        Sweep {
            target: "a<b>".to_string(),
            loads: (1..=5)
                .map(|it| Load::new(1000.0 * f64::from(it)))
                .collect(),
            duration: Duration::from_secs(5),
            percentiles: Percentile::STANDARD.to_vec(),
            points: vec![
                point(1, 1, Verdict::Valid),
                point(2, 2, Verdict::ClientBound),
                point(3, 30, Verdict::ServerBound),
                point(4, 100, Verdict::Failed),
            ],
            is_interrupted: true,
            failure: None,
        }
    }

    #[test]
    fn the_text_has_every_run_and_fits_into_a_terminal() {
        let sweep = sweep();
        let text = text::render(&sweep, None);
        for part in [
            "run 3        3,000/s",
            "server-bound\n",
            ">= 1.00 s",
            "a signal ended the sweep",
            "the numbers of 1 run are not those of the server",
            "2,000/s, client-bound: <because>",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("valid: <because>"), "{text}");
        for columns in [20, 60, 100] {
            let text = text::render(&sweep, Some(columns));
            assert!(text.lines().all(|line| width(line) <= columns), "{text}");
        }
    }

    #[test]
    fn the_page_marks_what_is_not_the_servers() {
        let sweep = sweep();
        let run = Description::new(
            "a <b>".to_string(),
            Default::default(),
            None,
            Default::default(),
        );
        let page = page::render(&sweep, &run);
        for part in [
            "class=\"line bound\"",
            "class=\"shade\"",
            "dotted: server-bound, or failed",
            "<th scope=\"row\">5,000/s</th><td>–</td>",
            "not run</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            !page.contains("<because>") && !page.contains("<b>"),
            "escaped"
        );
        let nothing = Sweep {
            points: Vec::new(),
            ..sweep
        };
        assert!(page::render(&nothing, &run).contains("No percentile is known."));
    }

    #[test]
    fn a_sweep_is_open_where_the_curve_is_not_the_servers() {
        let mut sweep = sweep();
        assert!(sweep.is_open());
        sweep.is_interrupted = false;
        assert!(sweep.is_open(), "one rate is missing");
        sweep.points.push(point(5, 1, Verdict::ServerBound));
        assert!(sweep.is_open(), "the generator limited one");
        sweep.points[1].is_allowed = true;
        assert!(!sweep.is_open());
        assert!(!sweep.has_wrong_replies());
        sweep.points[0].mismatched = 1;
        assert!(sweep.has_wrong_replies());
    }
}
