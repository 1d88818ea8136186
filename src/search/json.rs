//! Renders a search as one JSON object. Names and units are stable: within a `schema`, fields are
//! added but never changed. Rates are in messages per second. Pure.

use serde::Serialize;

use crate::load::judge::assertion::{Assertion, Outcome};
use crate::record::description::Description;
use crate::search::report::Search;
use crate::search::strategy::Ending;
use crate::search::trial::TrialReport;

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    run: &'a Description,
    target: &'a str,
    goal: OneGoal<'a>,
    /// The relevant bounds; `null`: there is none.
    relevant_lower_bound: Option<f64>,
    relevant_upper_bound: Option<f64>,
    conditional_throughput: Option<f64>,
    /// `found`, `holds-at-highest`, `fails-at-lowest`, `generator-limit`, `out-of-time`,
    /// `interrupted` or `failed`.
    end: &'static str,
    /// The rate at which the generator is the limit; `null`: the search did not end for that.
    generator_limit: Option<f64>,
    result: String,
    advice: Option<&'static str>,
    discarded: usize,
    elapsed_s: f64,
    trials: Vec<OneTrial<'a>>,
    /// Whether the exit code is 0.
    ok: bool,
    /// 0: found, or the highest rate holds the objective; 1: the lowest rate does not; 3: a trial
    /// could not be carried out; 4: inconclusive.
    exit_code: u8,
}

#[derive(Serialize)]
struct OneGoal<'a> {
    objective: &'a [String],
    final_trial_duration_s: f64,
    duration_sum_s: f64,
    exceed_ratio: f64,
    width: f64,
    lowest_rate: f64,
    highest_rate: f64,
    time_most_s: f64,
}

#[derive(Serialize)]
struct OneTrial<'a> {
    number: u32,
    rate: f64,
    /// Without the warm-up.
    duration_s: f64,
    /// Whether it is as long as the goal's final trials.
    long: bool,
    achieved: f64,
    objective: Vec<OneCondition<'a>>,
    verdict: &'static str,
    /// `good`, `bad` or `discarded`.
    outcome: &'static str,
    /// Why, if the values of the objective do not show it.
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct OneCondition<'a> {
    condition: &'a str,
    found: &'a str,
    /// `null`: undecided, since the value may be the generator's.
    holds: Option<bool>,
}

/// Returns the object, on one line.
pub fn render(search: &Search, run: &Description, exit_code: u8) -> String {
    let goal = &search.goal;
    let range = search.strategy.range;
    let limit = match search.ending {
        Ending::GeneratorLimit(load) => Some(load.per_second()),
        _ => None,
    };
    let report = Report {
        schema: "upcase.search/1",
        run,
        target: &search.target,
        goal: OneGoal {
            objective: &search.objective,
            final_trial_duration_s: goal.final_trial.as_secs_f64(),
            duration_sum_s: goal.duration_sum.as_secs_f64(),
            exceed_ratio: goal.exceed_ratio,
            width: goal.width,
            lowest_rate: range.least.per_second(),
            highest_rate: range.most.per_second(),
            time_most_s: search.strategy.time_most.as_secs_f64(),
        },
        relevant_lower_bound: search.bounds.lower.map(|load| load.per_second()),
        relevant_upper_bound: search.bounds.upper.map(|load| load.per_second()),
        conditional_throughput: search.conditional_throughput,
        end: end(search.ending),
        generator_limit: limit,
        result: search.result(),
        advice: search.advice(),
        discarded: search.discarded(),
        elapsed_s: search.spent.as_secs_f64(),
        trials: search.trials.iter().map(one_trial).collect(),
        ok: exit_code == 0,
        exit_code,
    };
    // The report consists of numbers and strings, so the serialization cannot fail.
    serde_json::to_string(&report).unwrap_or_default() + "\n"
}

fn end(ending: Ending) -> &'static str {
    match ending {
        Ending::Found => "found",
        Ending::HoldsAtMost => "holds-at-highest",
        Ending::FailsAtLeast => "fails-at-lowest",
        Ending::GeneratorLimit(_) => "generator-limit",
        Ending::OutOfTime => "out-of-time",
        Ending::Interrupted => "interrupted",
        Ending::Failed => "failed",
    }
}

fn one_trial(trial: &TrialReport) -> OneTrial<'_> {
    OneTrial {
        number: trial.number,
        rate: trial.load.per_second(),
        duration_s: trial.duration.as_secs_f64(),
        long: trial.is_long,
        achieved: trial.achieved,
        objective: trial.objective.iter().map(one_condition).collect(),
        verdict: trial.verdict.name(),
        outcome: trial.outcome.name(),
        reason: trial.reason.as_deref(),
    }
}

fn one_condition(assertion: &Assertion) -> OneCondition<'_> {
    OneCondition {
        condition: &assertion.condition,
        found: &assertion.found,
        holds: match assertion.outcome {
            Outcome::Holds => Some(true),
            Outcome::Fails => Some(false),
            Outcome::Undecided => None,
        },
    }
}
