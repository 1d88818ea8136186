//! One recorded run as a comparison sees it: what it was, whether its numbers are those of the
//! server, and one value for each metric. Pure.
//!
//! Invariant: a value is a measured one, above 0. A lower bound, and a percentile that the run does
//! not support, are no value.

use std::path::PathBuf;

use crate::compare::metric::Metric;
use crate::load::judge::verdict::{Judged, Verdict};
use crate::load::latency::Distribution;
use crate::load::results::summary::Summary;
use crate::record::description::Description;
use crate::record::reader::Recorded;
use crate::report::percentiles::microseconds;

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The directory of its record.
    pub folder: PathBuf,
    /// What it was.
    pub description: Description,
    /// Its targets.
    pub target: String,
    /// Whether a signal ended it before its plan did.
    pub is_interrupted: bool,
    /// The verdict about it.
    pub verdict: Verdict,
    /// Why its numbers may not be those of the server; `None`: they are.
    pub doubt: Option<String>,
    /// Why the run is left out of the comparison; `None`: it takes part.
    pub left_out: Option<String>,
    /// Its value of each metric.
    pub values: Vec<(Metric, Result<f64, Lack>)>,
}

/// The reason why a run has no value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Too few samples lie beyond the percentile.
    TooFewSamples,
    /// The percentile is a lower bound, since messages were not answered.
    LowerBound,
    /// The run is valid up to a lower percentile only.
    OfGenerator,
    /// The value is 0.
    Zero,
}

impl Lack {
    /// Returns the reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Lack::TooFewSamples => "too few samples lie beyond",
            Lack::LowerBound => "a lower bound is none, and messages were not answered",
            Lack::OfGenerator => "the generator's part shows from a lower percentile on",
            Lack::Zero => "0 has no ratio",
        }
    }
}

impl Run {
    /// Judges a recorded run. One whose numbers are not those of the server is left out, unless its
    /// verdict is allowed.
    pub fn new(recorded: Recorded, metrics: &[Metric], allowed: &[Verdict]) -> Run {
        let Recorded {
            folder,
            run,
            summary,
            course: _,
        } = recorded;
        let judged = Judged::new(summary, &[], Vec::new());
        let verdict = judged.findings.verdict;
        let is_allowed = |verdict| allowed.contains(&verdict);
        let evidence = judged.findings.evidence.first().cloned();
        let gap = judged.summary.gaps.first().cloned();
        let left_out = match verdict {
            _ if run.part.of > 1 => Some(format!(
                "it is a part of a run on {} machines, not a run",
                run.part.of
            )),
            Verdict::ClientBound | Verdict::Failed | Verdict::Inconclusive
                if !is_allowed(verdict) =>
            {
                let evidence = evidence.as_deref().unwrap_or("no reason is known");
                Some(format!("{verdict}: {evidence}"))
            }
            _ if !is_allowed(Verdict::Inconclusive) => gap.clone(),
            _ => None,
        };
        let doubt = match verdict {
            Verdict::Valid | Verdict::ServerBound => gap,
            _ => gap.or(evidence),
        };
        let find = |metric: &Metric| {
            let value = value(&judged, *metric, is_allowed(Verdict::ClientBound));
            (*metric, value)
        };
        Run {
            folder,
            description: run.description,
            target: target(&judged.summary),
            is_interrupted: judged.summary.times.interrupted,
            verdict,
            doubt,
            left_out,
            values: metrics.iter().map(find).collect(),
        }
    }

    /// Returns the value of a metric; `None` when the run is left out.
    pub fn value(&self, metric: Metric) -> Option<Result<f64, Lack>> {
        let mut values = self.values.iter();
        let (_, value) = values.find(|(of, _)| *of == metric)?;
        self.left_out.is_none().then_some(*value)
    }
}

fn target(summary: &Summary) -> String {
    if summary.own_server.is_some() {
        return "a built-in server".to_string();
    }
    let targets = summary.plan.targets.iter().map(ToString::to_string);
    targets.collect::<Vec<String>>().join(", ")
}

/// Returns the value of a metric of a run.
fn value(judged: &Judged, metric: Metric, is_generator_allowed: bool) -> Result<f64, Lack> {
    let summary = &judged.summary;
    let value = match metric {
        Metric::Rate => summary.achieved_rate(),
        Metric::Response(point) => {
            let valid_up_to = judged.findings.valid_up_to;
            if valid_up_to.is_some_and(|valid| point > valid) && !is_generator_allowed {
                return Err(Lack::OfGenerator);
            }
            let all = summary.results.response.distribution();
            let find = |all: &Distribution| all.percentile(point.percent());
            let bound = all.as_ref().and_then(find).ok_or(Lack::TooFewSamples)?;
            if bound.at_least {
                return Err(Lack::LowerBound);
            }
            microseconds(bound.value)
        }
    };
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(Lack::Zero),
    }
}
