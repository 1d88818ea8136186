//! Conditions under which a comparison fails, such as `p99 slower by 5%`. Pure.
//!
//! A condition is met only if the runs show it: the whole interval of the ratio lies beyond the
//! bound. It is not met if the whole interval lies on the other side. Otherwise the runs do not
//! decide it.

use std::fmt;
use std::str::FromStr;

use crate::compare::metric::Metric;
use crate::compare::ratio::Ratio;

/// A condition as it was typed, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    /// The metric that it is about.
    pub metric: Metric,
    /// The bound of the ratio of B to A.
    bound: f64,
    /// Whether ratios above the bound meet the condition; else those below.
    is_above: bool,
}

/// A condition that was checked against a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The text of the condition.
    pub condition: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The reason in words.
    pub reason: String,
}

/// The outcome of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The runs show that the condition is met.
    Met,
    /// The runs show that it is not met.
    NotMet,
    /// The runs show neither.
    Undecided,
}

const FORM: &str = "not a condition such as 'p99 slower by 5%' or 'rate slower by 2%'";

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        if text.contains(',') {
            return Err("more than one condition: repeat --fail-if for each".to_string());
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let (metric, direction, share) = match words[..] {
            [metric, direction, "by", share] => (metric, direction, share.strip_suffix('%')),
            [metric, direction, "by", share, "%"] => (metric, direction, Some(share)),
            _ => return Err(FORM.to_string()),
        };
        let is_slower = match direction {
            "slower" => true,
            "faster" => false,
            _ => return Err(FORM.to_string()),
        };
        let metric: Metric = metric.parse()?;
        let share = share.and_then(percent).ok_or(FORM)?;
        let is_above = is_slower != metric.is_more_better();
        if !is_above && share >= 1.0 {
            return Err(format!(
                "{metric} cannot be {direction} by {} % or more: use less than 100%",
                share * 100.0
            ));
        }
        Ok(Condition {
            text: words.join(" "),
            metric,
            bound: if is_above { 1.0 + share } else { 1.0 - share },
            is_above,
        })
    }
}

/// Reads a number of percent as a share.
fn percent(digits: &str) -> Option<f64> {
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = digits.parse().ok().filter(|_| is_number)?;
    Some(number / 100.0)
}

impl Condition {
    /// Checks the condition against the ratio of B to A in its metric; `None`: too few runs.
    pub fn check(&self, ratio: Option<Ratio>) -> Checked {
        let bound = self.bound;
        let (outcome, reason) = match ratio {
            None => (Outcome::Undecided, "too few runs have a value".to_string()),
            Some(Ratio { low, high, .. }) => {
                let (is_met, is_not_met) = match self.is_above {
                    true => (low > bound, high <= bound),
                    false => (high < bound, low >= bound),
                };
                let interval = format!("B/A is between {low:.4} and {high:.4}, the bound {bound}");
                match (is_met, is_not_met) {
                    (true, _) => (Outcome::Met, interval),
                    (_, true) => (Outcome::NotMet, interval),
                    _ => (
                        Outcome::Undecided,
                        interval + ": more runs narrow the interval",
                    ),
                }
            }
        };
        Checked {
            condition: self.text.clone(),
            outcome,
            reason,
        }
    }
}

impl Outcome {
    /// Returns the outcome as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Met => "met",
            Outcome::NotMet => "not met",
            Outcome::Undecided => "undecided",
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.name();
        write!(f, "{}: {outcome}, {}", self.condition, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(condition: &str, low: f64, high: f64) -> Outcome {
        let ratio = Ratio {
            estimate: low.midpoint(high),
            low,
            high,
        };
        let condition: Condition = condition.parse().unwrap();
        condition.check(Some(ratio)).outcome
    }

    #[test]
    fn a_condition_has_three_outcomes() {
        for (condition, low, high, expected) in [
            ("p99 slower by 5%", 1.06, 1.2, Outcome::Met),
            ("p99 slower by 5 %", 1.05, 1.2, Outcome::Undecided),
            ("p99 slower by 5%", 0.9, 1.05, Outcome::NotMet),
            ("p99 slower by 5%", 0.5, 0.6, Outcome::NotMet),
            ("p99 faster by 5%", 0.5, 0.6, Outcome::Met),
            ("p99 faster by 5%", 0.9, 0.96, Outcome::Undecided),
            ("p99.9  faster by 5%", 0.96, 1.5, Outcome::NotMet),
            ("rate slower by 2.5%", 0.9, 0.97, Outcome::Met),
            ("rate slower by 2.5%", 0.9, 0.98, Outcome::Undecided),
            ("rate slower by 2.5%", 0.98, 2.0, Outcome::NotMet),
            ("rate faster by 200%", 3.5, 4.0, Outcome::Met),
            ("p50 slower by 0%", 1.0, 1.0, Outcome::NotMet),
        ] {
            let found = outcome(condition, low, high);
            assert_eq!(found, expected, "{condition}, {low} to {high}");
        }
        let condition: Condition = "p99  slower by 5 %".parse().unwrap();
        let undecided = "p99 slower by 5 %: undecided, too few runs have a value";
        assert_eq!(condition.check(None).to_string(), undecided);
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for bad in [
            "",
            "p99",
            "p99 slower",
            "p99 slower by",
            "p99 slower by 5",
            "p99 slower by %",
            "p99 slower by x%",
            "p99 slower by -5%",
            "p99 slower by inf%",
            "p99 slower by 1e3%",
            "p99 slower by 1.2.3%",
            "p99 slow by 5%",
            "p99 slower than 5%",
        ] {
            assert_eq!(bad.parse::<Condition>(), Err(FORM.to_string()), "{bad}");
        }
        for (bad, text) in [
            ("p100 slower by 5%", "unknown metric p100: use rate"),
            ("max slower by 5%", "unknown metric max: use rate"),
            ("rate slower by 100%", "cannot be slower by 100 %"),
            ("p99 faster by 250%", "cannot be faster by 250 %"),
            ("p99 slower by 5%,rate slower by 5%", "repeat --fail-if"),
        ] {
            let error = bad.parse::<Condition>().unwrap_err();
            assert!(error.contains(text), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_condition_or_refused(
            text in r"p[0-9.]{1,3} slower by [0-9.%]{0,4}|.{0,20}",
        ) {
            if let Ok(condition) = text.parse::<Condition>() {
                prop_assert!(condition.bound >= 0.0);
            }
        }
    }
}
