//! A trial that was carried out: what its run shows about the load. Pure.
//!
//! | the run | the trial |
//! |---|---|
//! | messages were lost, wrong or not answered (verdict `failed`) | bad |
//! | nothing was measured (`inconclusive`) | discarded |
//! | the generator limited it, and the objective failed or the queue grew | discarded |
//! | the objective failed | bad |
//! | the objective is undecided, since the value may be the generator's | discarded |
//! | the objective holds, and the queue grew through the whole run | bad: it would fail later |
//! | the objective holds | good, whatever else the verdict reports |
//!
//! A trial in which the generator delayed messages is good if its objective holds all the same: a
//! response begins when its message was due, so that the delays of the generator only make it
//! longer, and the server got every message of the schedule. A verdict that is allowed (`--allow`)
//! is passed over, and the objective decides.

use std::time::Duration;

use crate::load::judge::assertion::{self, Assertion};
use crate::load::judge::verdict::{Judged, Verdict};
use crate::search::goal::Load;
use crate::units::short;

/// What a trial shows about its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The load held the objective.
    Good,
    /// It did not.
    Bad,
    /// Nothing: the trial does not count.
    Discarded,
}

/// A trial, as the report shows it.
#[derive(Clone, Debug)]
pub struct TrialReport {
    /// Its number, from 1.
    pub number: u32,
    /// The offered load.
    pub load: Load,
    /// The intended duration, without the warm-up.
    pub duration: Duration,
    /// Whether it is as long as the goal's final trials.
    pub is_long: bool,
    /// Messages per second that were verified.
    pub achieved: f64,
    /// The conditions of the objective, with the values that were found.
    pub objective: Vec<Assertion>,
    /// The verdict about the run.
    pub verdict: Verdict,
    /// What the trial shows.
    pub outcome: Outcome,
    /// The evidence for a bad or discarded trial that the values of the objective do not explain.
    pub reason: Option<String>,
}

impl Outcome {
    /// Returns what a run shows about its load.
    pub fn of(judged: &Judged) -> Outcome {
        let verdict = judged.findings.verdict;
        let is_allowed = judged.allowed.contains(&verdict);
        let any = |outcome| {
            let mut assertions = judged.assertions.iter();
            assertions.any(|assertion| assertion.outcome == outcome)
        };
        if judged.summary.times.interrupted {
            return Outcome::Discarded;
        }
        let fails = any(assertion::Outcome::Fails);
        let is_open = any(assertion::Outcome::Undecided);
        let grew = judged.summary.growth().is_some();
        match verdict {
            Verdict::Failed if !is_allowed => Outcome::Bad,
            Verdict::Inconclusive if !is_allowed => Outcome::Discarded,
            Verdict::ClientBound if !is_allowed => match fails || is_open || grew {
                true => Outcome::Discarded,
                false => Outcome::Good,
            },
            _ if fails => Outcome::Bad,
            _ if is_open => Outcome::Discarded,
            Verdict::ServerBound if !is_allowed && grew => Outcome::Bad,
            _ => Outcome::Good,
        }
    }

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Good => "good",
            Outcome::Bad => "bad",
            Outcome::Discarded => "discarded",
        }
    }
}

impl TrialReport {
    /// Returns the report of a trial from its run.
    pub fn new(
        number: u32,
        (load, duration): (Load, Duration),
        is_long: bool,
        judged: &Judged,
    ) -> TrialReport {
        let outcome = Outcome::of(judged);
        let is_explained = match outcome {
            Outcome::Good => true,
            Outcome::Bad => {
                let mut assertions = judged.assertions.iter();
                assertions.any(|assertion| assertion.outcome == assertion::Outcome::Fails)
            }
            Outcome::Discarded => false,
        };
        let growth = judged.summary.growth().filter(|_| outcome == Outcome::Bad);
        let reason = match growth {
            _ if judged.summary.times.interrupted => Some("a signal ended it".to_string()),
            Some(growth) if judged.findings.verdict == Verdict::ServerBound => Some(format!(
                "the queue grew: responses became longer by {} each second",
                short(Duration::from_secs_f64(growth))
            )),
            _ => judged.findings.evidence.first().cloned(),
        };
        TrialReport {
            number,
            load,
            duration,
            is_long,
            achieved: judged.summary.achieved_rate(),
            objective: judged.assertions.clone(),
            verdict: judged.findings.verdict,
            outcome,
            reason: reason.filter(|_| !is_explained),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::load::plan::{Plan, Stop};
    use crate::load::results::summary::Summary;

    /// Returns a run with 2,000 responses of a millisecond, with a verdict.
    fn judged(verdict: Verdict, condition: &str, allowed: &[Verdict]) -> Judged {
        let target = "127.0.0.1:7".parse().unwrap();
        let plan = Arc::new(Plan::new(target, Stop::Messages(1)));
        let mut summary = Summary::empty(&plan);
        let response = &mut summary.results.response;
        response.record_many(Duration::from_millis(1), 2000);
        let conditions = [condition.parse().unwrap()];
        let mut judged = Judged::new(summary, &conditions, allowed.to_vec());
        judged.findings.verdict = verdict;
        judged.assertions = vec![conditions[0].check(&judged.summary.results, None)];
        judged
    }

    #[test]
    fn the_verdict_and_the_objective_decide() {
        let (holds, fails) = ("p99<2ms", "p99<1us");
        for (verdict, condition, expected) in [
            (Verdict::Valid, holds, Outcome::Good),
            (Verdict::Valid, fails, Outcome::Bad),
            (Verdict::Failed, holds, Outcome::Bad),
            (Verdict::ClientBound, holds, Outcome::Good),
            (Verdict::ClientBound, fails, Outcome::Discarded),
            (Verdict::Inconclusive, holds, Outcome::Discarded),
            (Verdict::NetworkBound, holds, Outcome::Good),
            (Verdict::NetworkBound, fails, Outcome::Bad),
            (Verdict::ServerBound, holds, Outcome::Good),
        ] {
            let found = Outcome::of(&judged(verdict, condition, &[]));
            assert_eq!(found, expected, "{verdict} {condition}");
            let objective = match condition == holds {
                true => Outcome::Good,
                false => Outcome::Bad,
            };
            let found = Outcome::of(&judged(verdict, condition, &[verdict]));
            assert_eq!(found, objective, "{verdict} allowed, {condition}");
        }
        let mut interrupted = judged(Verdict::Valid, holds, &[]);
        interrupted.summary.times.interrupted = true;
        assert_eq!(Outcome::of(&interrupted), Outcome::Discarded);
    }

    #[test]
    fn an_objective_that_the_generator_may_have_failed_is_discarded() {
        let mut run = judged(Verdict::Valid, "p99<1us", &[]);
        run.assertions = vec![run.assertions[0].clone().undecided()];
        assert_eq!(Outcome::of(&run), Outcome::Discarded);
    }

    #[test]
    fn a_reason_is_given_where_the_values_give_none() {
        let run = judged(Verdict::Valid, "p99<1us", &[]);
        let load = (Load::new(100.0), Duration::from_secs(2));
        assert_eq!(TrialReport::new(1, load, true, &run).reason, None);
        let mut run = judged(Verdict::ClientBound, "p99<1us", &[]);
        run.findings.evidence = vec!["busy".to_string()];
        let trial = TrialReport::new(1, load, true, &run);
        assert_eq!(trial.reason.as_deref(), Some("busy"));
    }
}
