//! One run as a comparison sees it: what it was, whether its numbers are those of the server, and
//! one value for each metric. It comes from a record, or from a run that has just ended. Pure.
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
    /// The directory of its record; the name of a run that is not recorded.
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
    /// Judges a recorded run. A part of a run is left out, and so is a run whose numbers are not
    /// those of the server, unless its verdict is allowed.
    pub fn recorded(recorded: Recorded, metrics: &[Metric], allowed: &[Verdict]) -> Run {
        let Recorded {
            folder,
            run,
            summary,
            course: _,
        } = recorded;
        let judged = Judged::new(summary, &[], Vec::new());
        let whole = Run::judged(folder, run.description, &judged, metrics, allowed);
        match run.part.of {
            0 | 1 => whole,
            of => Run {
                left_out: Some(format!("it is a part of a run on {of} machines, not a run")),
                ..whole
            },
        }
    }

    /// Returns a run that was judged. One whose numbers are not those of the server is left out,
    /// unless its verdict is allowed.
    pub fn judged(
        folder: PathBuf,
        description: Description,
        judged: &Judged,
        metrics: &[Metric],
        allowed: &[Verdict],
    ) -> Run {
        let verdict = judged.findings.verdict;
        let is_allowed = |verdict| allowed.contains(&verdict);
        let evidence = judged.findings.evidence.first().cloned();
        let gap = judged.summary.gaps.first().cloned();
        let left_out = match verdict {
            _ if says_nothing(verdict) && !is_allowed(verdict) => {
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
            let value = value(judged, *metric, is_allowed(Verdict::ClientBound));
            (*metric, value)
        };
        Run {
            folder,
            description,
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

/// Returns whether a run with this verdict says nothing about its server.
pub fn says_nothing(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::ClientBound | Verdict::Failed | Verdict::Inconclusive
    )
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::load::latency::percentile::Percentile;
    use crate::load::plan::{Plan, Stop};

    /// Returns a run with 1,000 responses of a millisecond, and then some without a reply.
    fn judged(unanswered: u32) -> Judged {
        let target = "127.0.0.1:7".parse().unwrap();
        let plan = Arc::new(Plan::new(target, Stop::Messages(1)));
        let mut summary = Summary::empty(&plan);
        summary.times.elapsed = Duration::from_secs(2);
        summary.results.counts.verified = 1000;
        let response = &mut summary.results.response;
        response.record_many(Duration::from_millis(1), 1000);
        (0..unanswered).for_each(|_| response.record_at_least(Duration::from_secs(1)));
        Judged::new(summary, &[], Vec::new())
    }

    fn found(judged: &Judged, metric: &str, is_generator_allowed: bool) -> Result<f64, Lack> {
        value(judged, metric.parse().unwrap(), is_generator_allowed)
    }

    #[test]
    fn a_value_is_measured_or_missing_with_its_reason() {
        let run = judged(0);
        assert_eq!(found(&run, "rate", false), Ok(500.0));
        // A histogram knows a time to one part in a thousand.
        let p99 = found(&run, "p99", false).unwrap();
        assert!((p99 / 1000.0 - 1.0).abs() < 1e-3, "{p99}");
        assert_eq!(found(&run, "p99.9", false), Err(Lack::TooFewSamples));
        let run = judged(100);
        assert!(found(&run, "p50", false).is_ok());
        assert_eq!(found(&run, "p99", false), Err(Lack::LowerBound));
    }

    #[test]
    fn what_is_above_the_valid_percentiles_is_no_value() {
        let mut run = judged(0);
        run.findings.valid_up_to = Some(Percentile::STANDARD[1]);
        assert!(found(&run, "p90", false).is_ok());
        assert_eq!(found(&run, "p95", false), Err(Lack::OfGenerator));
        assert!(found(&run, "p95", true).is_ok());
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let mut run = judged(0);
        run.summary.times.elapsed = Duration::ZERO;
        assert_eq!(found(&run, "rate", false), Err(Lack::Zero));
        run.summary.results.response = Default::default();
        run.summary
            .results
            .response
            .record_many(Duration::ZERO, 100);
        assert_eq!(found(&run, "p50", false), Err(Lack::Zero));
    }
}
