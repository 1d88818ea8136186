//! A search that is over, in the words of RFC 9971. Pure.

use std::time::Duration;

use crate::search::database::{Bounds, Database};
use crate::search::goal::Goal;
use crate::search::strategy::{Ending, Strategy};
use crate::search::trial::{Outcome, TrialReport};
use crate::units::{counted, rate};

/// A search.
#[derive(Clone, Debug)]
pub struct Search {
    /// The servers, as they were typed.
    pub target: String,
    /// The conditions of the objective.
    pub objective: Vec<String>,
    /// The goal.
    pub goal: Goal,
    /// What the search might do.
    pub strategy: Strategy,
    /// The trials, in their order.
    pub trials: Vec<TrialReport>,
    /// The relevant bounds.
    pub bounds: Bounds,
    /// The conditional throughput, in messages per second.
    pub conditional_throughput: Option<f64>,
    /// The reason for the end.
    pub ending: Ending,
    /// The error of the trial that could not be carried out.
    pub failure: Option<String>,
    /// The time that the search took.
    pub spent: Duration,
}

impl Search {
    /// Takes what a database says about the bounds.
    pub fn conclude(&mut self, database: &Database, ending: Ending, spent: Duration) {
        self.bounds = database.bounds();
        self.conditional_throughput = database.conditional_throughput();
        self.ending = ending;
        self.spent = spent;
    }

    /// Returns the number of trials that do not count.
    pub fn discarded(&self) -> usize {
        let trials = self.trials.iter();
        trials
            .filter(|trial| trial.outcome == Outcome::Discarded)
            .count()
    }

    /// Returns the conditions in words: `p99<1ms and errors=0`.
    pub fn objective(&self) -> String {
        self.objective.join(" and ")
    }

    /// Returns what the search found, in a sentence.
    pub fn result(&self) -> String {
        let objective = self.objective();
        let Bounds { lower, upper } = self.bounds;
        let per_second = |load: Option<_>| load.map_or("?".to_string(), |load| format!("{load}/s"));
        let (low, high) = (per_second(lower), per_second(upper));
        let known = match (lower, upper) {
            (None, None) => "no bound is known".to_string(),
            (Some(_), None) => format!("{low} holds it, and no upper bound is known"),
            (None, Some(_)) => format!("{high} does not hold it, and no lower bound is known"),
            (Some(_), Some(_)) => {
                format!("{low} holds it, and {high} does not, which is not within the width")
            }
        };
        match self.ending {
            Ending::Found => {
                format!("the highest rate that holds {objective} is between {low} and {high}")
            }
            Ending::HoldsAtMost => format!(
                "{low}, the highest rate of the search, holds {objective}: a lower bound of what \
                 the server can do"
            ),
            Ending::FailsAtLeast => {
                format!("{high}, the lowest rate of the search, does not hold {objective}")
            }
            Ending::GeneratorLimit(load) => {
                format!("the generator is the limit at {load}/s; {known}")
            }
            Ending::OutOfTime => format!("the time ended before the search did; {known}"),
            Ending::Interrupted => format!("a signal ended the search; {known}"),
            Ending::Failed => {
                let failure = self.failure.as_deref().unwrap_or("the reason is not known");
                format!("a trial could not be carried out: {failure}; {known}")
            }
        }
    }

    /// Returns what to do after an end without both bounds.
    pub fn advice(&self) -> Option<&'static str> {
        match self.ending {
            Ending::Found | Ending::Interrupted | Ending::Failed => None,
            Ending::HoldsAtMost => Some("search higher: --search-rates LOW..HIGH"),
            Ending::FailsAtLeast => Some(
                "search lower with --search-rates LOW..HIGH, where trials become longer to have \
                 enough messages for a percentile; or find out why it fails: `upcase load --rate`",
            ),
            Ending::GeneratorLimit(_) => Some(
                "run the generator on another machine, give it a CPU of its own or more --threads; \
                 --allow client-bound counts its trials all the same",
            ),
            Ending::OutOfTime => Some("allow more with --search-time, or use a larger --width"),
        }
    }

    /// Returns the number of trials and the time, in words.
    pub fn effort(&self) -> String {
        let discarded = match self.discarded() {
            0 => String::new(),
            some => format!(", {some} of them discarded"),
        };
        let trials = counted(self.trials.len() as u64, "trial");
        format!("{trials}{discarded}, in {:.0} s", self.spent.as_secs_f64())
    }

    /// Returns the goal in the words of RFC 9971.
    pub fn goal(&self) -> String {
        let Goal {
            final_trial,
            duration_sum,
            exceed_ratio,
            width,
        } = self.goal;
        let time = humantime::format_duration;
        format!(
            "{}; final trial duration {}, duration sum {}, exceed ratio {exceed_ratio}, width {} %",
            self.objective(),
            time(final_trial),
            time(duration_sum),
            rate(width * 100.0)
        )
    }
}
