//! Parses and evaluates the assertions that a user makes about a run, such as `p99<2ms`,
//! `service.p50<=1ms`, `errors=0` and `rate>=0.999`, or about a stage of its rate profile, such as
//! `stage[2].p99<2ms`. Pure.
//!
//! An assertion about an unknown value does not hold: a percentile has too few samples, or it is
//! known only as a lower bound that does not decide the comparison.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::load::latency::{BEYOND, Bound, Latency};
use crate::load::plan::profile::Profile;
use crate::load::results::{Counts, Results};
use crate::units::{counted, short};

/// An assertion as the user wrote it, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    /// The index of the stage that it is about, from 0; `None`: the run.
    stage: Option<usize>,
    subject: Subject,
    comparison: Comparison,
}

/// A condition that was evaluated against the results of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    /// The text of the condition.
    pub condition: String,
    /// The measured value, with its unit.
    pub found: String,
    /// The outcome of the evaluation.
    pub outcome: Outcome,
}

/// The outcome of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The condition holds.
    Holds,
    /// The condition does not hold.
    Fails,
    /// The measured value does not meet the condition, but the load generator and not the server is
    /// responsible for it.
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    /// A statistic of a duration, compared with a bound.
    Time(Metric, Statistic, Duration),
    /// A number, compared with a bound.
    Number(Quantity, f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Response,
    Service,
    Lateness,
    Own,
    Blocked,
    Connect,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Percentile(f64),
    Max,
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    /// Broken connections and messages lost for any reason.
    Errors,
    Mismatched,
    TimedOut,
    Unanswered,
    Verified,
    /// The share of the scheduled rate that was answered.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

const FORM: &str = "not a condition such as p99<2ms, service.p50<=1ms, errors=0 or rate>=0.999";

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        if text.contains(',') {
            return Err("more than one condition: repeat --assert for each".to_string());
        }
        let start = text.find(['<', '>', '=']).ok_or(FORM)?;
        let (name, rest) = text.split_at(start);
        let (stage, name) = stage(name.trim())?;
        let operators = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
            ("=", Comparison::Equal),
        ];
        let (bound, comparison) = operators
            .iter()
            .find_map(|(sign, comparison)| Some((rest.strip_prefix(sign)?, *comparison)))
            .ok_or(FORM)?;
        if bound.starts_with(['<', '>', '=']) {
            return Err(format!(
                "'{rest}' does not begin with a valid operator: use <, <=, =, >= or >"
            ));
        }
        let condition = Condition {
            text: text.to_string(),
            stage,
            subject: subject(name, bound.trim())?,
            comparison,
        };
        condition.check_that_it_can_hold(name, bound.trim())?;
        Ok(condition)
    }
}

/// Returns the index of the stage that the name of a value begins with, from 0, and the rest of it.
/// Stages are counted from 1.
fn stage(name: &str) -> Result<(Option<usize>, &str), String> {
    const STAGE: &str = "a stage is written as stage[1], counted from 1, as in stage[1].p99<2ms";
    let Some(number) = name.strip_prefix("stage") else {
        return Ok((None, name));
    };
    let number = number.strip_prefix('[').ok_or(STAGE)?;
    let (number, rest) = number.split_once("].").ok_or(STAGE)?;
    let index = number.parse::<usize>().ok();
    let index = index
        .and_then(|number| number.checked_sub(1))
        .ok_or(STAGE)?;
    Ok((Some(index), rest))
}

fn subject(name: &str, bound: &str) -> Result<Subject, String> {
    if let Some(quantity) = quantity(name) {
        let bound = bound.parse().ok().filter(|bound: &f64| bound.is_finite());
        let bound = bound.ok_or_else(|| format!("the bound of {name} is not a number"))?;
        return Ok(Subject::Number(quantity, bound));
    }
    let (metric, statistic) = name.split_once('.').unwrap_or(("", name));
    // The percentile itself may contain a point: `p99.9`.
    let (metric, statistic) = match metric_of(metric) {
        Some(metric) => (metric, statistic),
        None => (Metric::Response, name),
    };
    let statistic = statistic_of(statistic).ok_or_else(|| {
        format!(
            "unknown metric {name}: use p50, p99.9, max or mean, optionally prefixed with \
            response., service., lateness., own., blocked. or connect.; or errors, mismatched, \
            timed_out, unanswered, verified or rate"
        )
    })?;
    let bound = humantime::parse_duration(bound)
        .map_err(|_| format!("the bound of {name} is not a time such as 2ms"))?;
    Ok(Subject::Time(metric, statistic, bound))
}

fn quantity(name: &str) -> Option<Quantity> {
    Some(match name {
        "errors" => Quantity::Errors,
        "mismatched" => Quantity::Mismatched,
        "timed_out" => Quantity::TimedOut,
        "unanswered" => Quantity::Unanswered,
        "verified" => Quantity::Verified,
        "rate" => Quantity::Rate,
        _ => return None,
    })
}

fn metric_of(name: &str) -> Option<Metric> {
    Some(match name {
        "" | "response" => Metric::Response,
        "service" => Metric::Service,
        "lateness" => Metric::Lateness,
        "own" => Metric::Own,
        "blocked" => Metric::Blocked,
        "connect" => Metric::Connect,
        _ => return None,
    })
}

fn statistic_of(name: &str) -> Option<Statistic> {
    match name {
        "max" => return Some(Statistic::Max),
        "mean" => return Some(Statistic::Mean),
        _ => {}
    }
    let percentile: f64 = name.strip_prefix('p')?.parse().ok()?;
    (percentile > 0.0 && percentile < 100.0).then_some(Statistic::Percentile(percentile))
}

impl Condition {
    /// Refuses conditions that no run can meet: a measured value is hardly ever exactly equal to a
    /// bound, and nothing is less than zero.
    fn check_that_it_can_hold(&self, name: &str, bound: &str) -> Result<(), String> {
        let (is_measured, is_zero) = match self.subject {
            Subject::Time(_, _, bound) => (true, bound.is_zero()),
            Subject::Number(Quantity::Rate, bound) => (true, bound <= 0.0),
            Subject::Number(_, number) if number < 0.0 || number.fract() != 0.0 => {
                return Err(format!(
                    "{bound} is not a number of messages: use a whole number"
                ));
            }
            Subject::Number(_, bound) => (false, bound == 0.0),
        };
        match self.comparison {
            Comparison::Equal if is_measured => {
                let use_this = match self.subject {
                    Subject::Number(..) => ">=",
                    Subject::Time(..) => "<=",
                };
                Err(format!(
                    "a measured value is almost never exactly {bound}: use {use_this}, as in \
                     {name}{use_this}{bound}"
                ))
            }
            Comparison::Less if is_zero => Err(format!(
                "nothing is less than {bound}, so this cannot hold: use <= or a larger bound"
            )),
            _ => Ok(()),
        }
    }

    /// Returns the index of the stage that the condition is about, from 0; `None`: it is about the
    /// run.
    pub fn stage(&self) -> Option<usize> {
        self.stage
    }

    /// Refuses a condition about a stage that a run with this profile does not have.
    pub fn check_stage(&self, profile: Option<&Profile>) -> Result<(), String> {
        let Some(index) = self.stage else {
            return Ok(());
        };
        let (text, number) = (&self.text, index + 1);
        match profile.map(|profile| profile.stages().len()) {
            None => Err(format!(
                "--assert {text} is about a stage, and the run has no profile with stages, such as \
                 --rate 1000:10s,5000:10s"
            )),
            Some(stages) if index >= stages => Err(format!(
                "--assert {text}: there is no stage {number}, the profile of --rate has {}",
                counted(stages as u64, "stage")
            )),
            Some(_) => Ok(()),
        }
    }

    /// Returns the assertion about a stage whose results are not known.
    pub fn unknown(&self) -> Assertion {
        Assertion {
            condition: self.text.clone(),
            found: "not known".to_string(),
            outcome: Outcome::Undecided,
        }
    }

    /// Returns whether the condition is about the rate, which only an open loop has.
    pub fn is_about_rate(&self) -> bool {
        matches!(self.subject, Subject::Number(Quantity::Rate, _))
    }

    /// Returns the number of messages below which the condition cannot hold, since a percentile has
    /// too few samples.
    pub fn messages_needed(&self) -> u64 {
        match self.subject {
            Subject::Time(Metric::Connect, ..) | Subject::Number(..) => 0,
            Subject::Time(_, Statistic::Percentile(percentile), _) => {
                // Without the rounding, the difference to 100 would be off by a billionth.
                let beyond = ((100.0 - percentile) * 1e9).round() / 1e11;
                (BEYOND as f64 / beyond).ceil() as u64
            }
            Subject::Time(_, Statistic::Max | Statistic::Mean, _) => 1,
        }
    }

    /// Returns whether the condition is about a time or a rate that the load generator may have
    /// caused, in a run whose results are valid up to this percentile.
    pub fn is_beyond(&self, percentile: f64) -> bool {
        match self.subject {
            Subject::Time(_, Statistic::Percentile(asked), _) => asked > percentile,
            Subject::Time(_, Statistic::Max, _) => percentile < 100.0,
            Subject::Time(_, Statistic::Mean, _) | Subject::Number(Quantity::Rate, _) => {
                percentile == 0.0
            }
            Subject::Number(..) => false,
        }
    }

    /// Evaluates the condition against the results of a run. `rate` is the share of the scheduled
    /// rate that was answered.
    pub fn check(&self, results: &Results, rate: Option<f64>) -> Assertion {
        let (found, holds) = match self.subject {
            Subject::Time(metric, statistic, bound) => {
                self.hold_time(metric.of(results), statistic, bound)
            }
            Subject::Number(quantity, bound) => {
                let found = quantity.of(results, rate);
                // Rounded down to a millionth, so that a share below a bound is not shown as equal.
                let shown = (found * 1e6).floor() / 1e6;
                (shown.to_string(), self.comparison.holds(&found, &bound))
            }
        };
        Assertion {
            condition: self.text.clone(),
            found,
            outcome: match holds {
                true => Outcome::Holds,
                false => Outcome::Fails,
            },
        }
    }

    fn hold_time(
        &self,
        latency: &Latency,
        statistic: Statistic,
        bound: Duration,
    ) -> (String, bool) {
        let Some(distribution) = latency.distribution() else {
            return ("no samples".to_string(), false);
        };
        let found = match statistic {
            Statistic::Max => Some(distribution.longest()),
            Statistic::Mean => Some(Bound {
                value: distribution.mean(),
                at_least: distribution.at_least_from().is_some(),
            }),
            Statistic::Percentile(percentile) => distribution.percentile(percentile),
        };
        match found {
            None => {
                let samples = distribution.count();
                (format!("too few samples ({samples})"), false)
            }
            Some(Bound { value, at_least }) if at_least => {
                // The true value may be anything above the bound.
                let upwards = matches!(self.comparison, Comparison::AtLeast | Comparison::More);
                let holds = upwards && self.comparison.holds(&value, &bound);
                (format!(">= {}", short(value)), holds)
            }
            Some(Bound { value, .. }) => (short(value), self.comparison.holds(&value, &bound)),
        }
    }
}

impl Metric {
    fn of(self, results: &Results) -> &Latency {
        match self {
            Metric::Response => &results.response,
            Metric::Service => &results.service,
            Metric::Lateness => &results.lateness,
            Metric::Own => &results.own,
            Metric::Blocked => &results.blocked,
            Metric::Connect => &results.connect,
        }
    }
}

impl Quantity {
    fn of(self, results: &Results, rate: Option<f64>) -> f64 {
        let Counts {
            mismatched,
            errored,
            timed_out,
            unanswered,
            verified,
            ..
        } = results.counts;
        let count = match self {
            Quantity::Rate => return rate.unwrap_or(0.0),
            Quantity::Mismatched => mismatched,
            Quantity::TimedOut => timed_out,
            Quantity::Unanswered => unanswered,
            Quantity::Verified => verified,
            Quantity::Errors => {
                let broken: u64 = results.errors.values().sum();
                broken.max(mismatched + errored) + timed_out + unanswered
            }
        };
        count as f64
    }
}

impl Comparison {
    fn holds<T: PartialOrd>(self, found: &T, bound: &T) -> bool {
        match self {
            Comparison::Less => found < bound,
            Comparison::AtMost => found <= bound,
            Comparison::Equal => found == bound,
            Comparison::AtLeast => found >= bound,
            Comparison::More => found > bound,
        }
    }
}

impl Assertion {
    /// Returns whether the condition holds.
    pub fn holds(&self) -> bool {
        self.outcome == Outcome::Holds
    }

    /// Returns this assertion with the outcome [`Outcome::Undecided`].
    pub fn undecided(self) -> Assertion {
        Assertion {
            outcome: Outcome::Undecided,
            ..self
        }
    }
}

/// Formats the condition as it was written.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = match self.outcome {
            Outcome::Holds => "holds",
            Outcome::Fails => "does not hold",
            Outcome::Undecided => "is undecided, since the value may be the generator's",
        };
        write!(f, "{}: {holds}, found {}", self.condition, self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str, results: &Results) -> Assertion {
        condition
            .parse::<Condition>()
            .unwrap()
            .check(results, Some(0.9995))
    }

    #[test]
    fn conditions_are_read_and_nonsense_is_refused() {
        for good in [
            "p99<2ms",
            "p99.9 <= 2ms",
            "service.p50<1ms",
            "connect.max<1s",
            "own.p99.9<1ms",
            "mean>1us",
            "errors=0",
            "errors==0",
            "rate>=0.999",
            "unanswered<5",
            "blocked.max<=0ms",
            "stage[1].p99.9<2ms",
            "stage[12].own.max <= 1ms",
            "stage[2].rate>=0.99",
            "stage[2].errors=0",
        ] {
            assert!(good.parse::<Condition>().is_ok(), "{good}");
        }
        for (bad, told) in [
            ("p99=2ms", "use <=, as in p99<=2ms"),
            ("service.p50 == 1ms", "use <=, as in service.p50<=1ms"),
            ("max=1s", "use <=, as in max<=1s"),
            ("rate=0.999", "use >=, as in rate>=0.999"),
            ("errors<0", "nothing is less than 0"),
            ("p99<0ms", "nothing is less than 0ms"),
            ("errors=1.5", "1.5 is not a number of messages"),
            ("errors<=-1", "-1 is not a number of messages"),
            ("p99=<2ms", "'=<2ms' does not begin with a valid operator"),
            ("p99=>2ms", "does not begin with a valid operator"),
            ("p100<1ms", "unknown metric p100"),
            ("p99<2ms,errors=0", "repeat --assert for each"),
            ("stage[0].p99<2ms", "counted from 1"),
            ("stage[1]p99<2ms", "a stage is written as stage[1]"),
            ("stage[x].p99<2ms", "a stage is written as stage[1]"),
            ("stage2.p99<2ms", "a stage is written as stage[1]"),
            ("stage[1].p99=2ms", "as in p99<=2ms"),
            ("stage[1].x<2ms", "unknown metric x"),
        ] {
            let error = bad.parse::<Condition>().unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
        for bad in [
            "",
            "p99",
            "p99<",
            "p99<2",
            "p100<1ms",
            "p0<1ms",
            "x.p50<1ms",
            "p99!2ms",
            "errors=a",
            "rate>=nan",
            "max",
            "<2ms",
            "p-1<1ms",
        ] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_percentile_needs_messages_beyond_it() {
        let needed = |text: &str| text.parse::<Condition>().unwrap().messages_needed();
        for (text, expected) in [
            ("p50<1ms", 20),
            ("p99<1ms", 1000),
            ("service.p99.99<1ms", 100_000),
            ("max<1ms", 1),
            ("connect.p99<1ms", 0),
            ("errors=0", 0),
        ] {
            assert_eq!(needed(text), expected, "{text}");
            let mut results = Results::default();
            results
                .response
                .record_many(Duration::from_nanos(1), expected);
            results
                .service
                .record_many(Duration::from_nanos(1), expected);
            let holds = check(text, &results).holds();
            assert!(holds || text.starts_with("connect"), "{text}");
        }
    }

    #[test]
    fn a_lower_bound_holds_upwards_only() {
        let mut results = Results::default();
        for _ in 0..1000 {
            results.response.record(Duration::from_millis(1));
            results.response.record_at_least(Duration::from_secs(1));
        }
        assert!(check("p40<2ms", &results).holds());
        assert!(!check("p99<2ms", &results).holds());
        assert!(!check("p99<2s", &results).holds(), "it may be more");
        assert!(check("p99>900ms", &results).holds());
        assert_eq!(check("p99<2s", &results).found, ">= 1.00 s");
        assert_eq!(check("p99.9<1s", &results).found, "too few samples (2000)");
        assert!(check("rate>=0.999", &results).holds());
        assert!(check("errors=0", &results).holds());
        assert_eq!(check("service.p50<1s", &results).found, "no samples");
    }
}
