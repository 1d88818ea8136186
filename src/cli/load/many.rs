//! The options of `upcase load` that make a command of many runs: `--find-max` and `--sweep`.

use std::time::Duration;

use clap::Args;

use crate::cli::load::args::LoadArgs;
use crate::cli::numbers::{decimal, integer, positive_duration};
use crate::cli::values::rate;
use crate::load::judge::assertion::Condition;
use crate::load::plan::schedule::RateOverTime;
use crate::search::goal::{Goal, Load, Range};
use crate::search::strategy::Strategy;
use crate::search::{GOAL_DEFAULT, SHORT_TRIAL, TIME_DEFAULT, TRIALS_DEFAULT};

/// The default of `--duration` for each run of a sweep.
const SWEEP_DURATION_DEFAULT: Duration = Duration::from_secs(5);

/// The lowest rate of a search by default, in messages per second.
const LEAST_DEFAULT: f64 = 100.0;

/// The highest rate of a search by default, in messages per second: more than a generator and a
/// server with a thread each can do.
const MOST_DEFAULT: f64 = 1e6;

/// The share of a long trial in which the messages that the objective needs are due at the lowest
/// rate: the trials there are still shorter than a long one.
const FILLED: f64 = 0.8;

/// The greatest width, in relation to 1: a wider interval would say nothing.
const WIDTH_MOST: f64 = 0.9;

/// The options that conflict with a command of many runs: each run has a rate of its own, and one
/// file for all of them would be overwritten.
const CONFLICTS: [&str; 5] = ["rate", "messages", "think", "assert", "interval_log"];

#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct ManyArgs {
    /// Search the highest rate that holds this condition, one that --assert takes, such as p99<1ms
    /// (RFC 9971); may be repeated: all must hold
    ///
    /// A trial is a run at one rate, with new connections. It is bad when the condition fails, when
    /// messages are lost, and when the responses become longer through the whole trial. Short
    /// trials approach the highest rate, and long ones confirm the relevant lower bound, which
    /// holds the objective, and the relevant upper bound, which does not. A trial whose condition
    /// fails while the generator is the limit is discarded, and repeated. Exit code 0: both bounds
    /// are within the width, or the highest rate holds; 1: the lowest rate does not; 4:
    /// inconclusive.
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition),
          conflicts_with_all = CONFLICTS, conflicts_with_all = ["duration", "sweep"])]
    pub(super) find_max: Vec<Condition>,
    /// Goal final trial duration: shorter trials are short ones; needs --find-max [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    goal_duration: Option<Duration>,
    /// Goal duration sum: time of the long trials at a rate that decides about it; needs --find-max
    /// [default: 10s, as long as five trials]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    goal_sum: Option<Duration>,
    /// Goal exceed ratio: the share of that time in which trials may be bad, 0 to less than 1;
    /// needs --find-max [default: 0.5]
    #[arg(long, value_name = "RATIO", value_parser = exceed_ratio)]
    exceed_ratio: Option<f64>,
    /// Goal width: the largest difference of the relevant bounds, such as 5% or 0.05; needs
    /// --find-max [default: 5%]
    #[arg(long, value_name = "SHARE", value_parser = goal_width)]
    width: Option<f64>,
    /// Lowest and highest rate of the search; needs --find-max [default: from 100, or from the rate
    /// at which a trial has enough messages for the percentiles, to 1000000]
    #[arg(long, value_name = "LOW..HIGH", value_parser = rates)]
    search_rates: Option<Range>,
    /// Maximum time of the search; needs --find-max [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    search_time: Option<Duration>,
    /// Make N runs of --duration at rates from LOW to HIGH, in equal steps, each with new
    /// connections: a table of the response times, and a curve with --format html; exit code 0
    /// whatever the verdicts, but 1 if replies were wrong, and 4 if the generator limited a run
    #[arg(long, value_name = "LOW..HIGH:N", value_parser = sweep_rates,
          conflicts_with_all = CONFLICTS)]
    pub(super) sweep: Option<SweepRates>,
}

/// The rates of a sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SweepRates {
    range: Range,
    steps: u32,
}

impl SweepRates {
    /// Returns the rates, from the lowest to the highest one, in equal steps.
    pub(super) fn loads(self) -> impl Iterator<Item = Load> {
        let SweepRates { range, steps } = self;
        let (least, most) = (range.least.per_second(), range.most.per_second());
        let step = (most - least) / f64::from(steps.saturating_sub(1).max(1));
        (0..steps).map(move |place| Load::new(least + step * f64::from(place)))
    }
}

impl ManyArgs {
    /// Returns the options of the first of the runs; `None` when there is only one, to which these
    /// options do not apply.
    pub(super) fn first_run(&self, args: &LoadArgs) -> Option<LoadArgs> {
        let (load, duration) = match self.sweep {
            Some(sweep) => (sweep.range.least, sweep_duration(args)),
            // A trial is as long as the warm-up and the goal ask for.
            None if self.is_search() => {
                let trial = self.goal().final_trial;
                (
                    self.strategy().range.least,
                    args.warmup.saturating_add(trial),
                )
            }
            None => return None,
        };
        Some(LoadArgs {
            rate: load.rate().map(RateOverTime::Constant),
            duration: Some(duration),
            ..args.clone()
        })
    }

    /// Returns whether a search is asked for.
    pub(super) fn is_search(&self) -> bool {
        !self.find_max.is_empty()
    }

    /// Returns the search goal.
    pub(super) fn goal(&self) -> Goal {
        let final_trial = self.goal_duration.unwrap_or(GOAL_DEFAULT.final_trial);
        let trials = || final_trial.saturating_mul(TRIALS_DEFAULT);
        Goal {
            final_trial,
            duration_sum: self.goal_sum.unwrap_or_else(trials),
            exceed_ratio: self.exceed_ratio.unwrap_or(GOAL_DEFAULT.exceed_ratio),
            width: self.width.unwrap_or(GOAL_DEFAULT.width),
        }
    }

    /// Returns what the search may do.
    pub(super) fn strategy(&self) -> Strategy {
        let final_trial = self.goal().final_trial;
        let needed = self.find_max.iter().map(Condition::messages_needed);
        let messages_least = needed.max().unwrap_or(0);
        let filled = messages_least as f64 / (FILLED * final_trial.as_secs_f64());
        let most = Load::new(MOST_DEFAULT);
        let default = || Range {
            least: Load::new(filled.max(LEAST_DEFAULT).ceil()).min(most),
            most,
        };
        Strategy {
            range: self.search_rates.unwrap_or_else(default),
            short_trial: SHORT_TRIAL.min(final_trial / 4),
            messages_least,
            time_most: self.search_time.unwrap_or(TIME_DEFAULT),
        }
    }

    /// Refuses options that have no effect, and goals that contradict themselves.
    pub(super) fn check(&self) -> Result<(), String> {
        let alone = [
            ("--goal-duration", self.goal_duration.is_some()),
            ("--goal-sum", self.goal_sum.is_some()),
            ("--exceed-ratio", self.exceed_ratio.is_some()),
            ("--width", self.width.is_some()),
            ("--search-rates", self.search_rates.is_some()),
            ("--search-time", self.search_time.is_some()),
        ];
        if !self.is_search()
            && let Some((option, _)) = alone.iter().find(|(_, is_given)| *is_given)
        {
            return Err(format!(
                "{option} needs --find-max, such as --find-max 'p99<1ms'"
            ));
        }
        let mut conditions = self.find_max.iter();
        if let Some(condition) = conditions.find(|condition| condition.check_stage(None).is_err()) {
            return Err(format!(
                "--find-max {condition} is about a stage, and a trial has one rate: leave the \
                 stage out"
            ));
        }
        let (goal, time) = (self.goal(), self.strategy().time_most);
        let shown = humantime::format_duration;
        if goal.duration_sum < goal.final_trial {
            return Err(format!(
                "--goal-sum {} is shorter than one trial of --goal-duration {}",
                shown(goal.duration_sum),
                shown(goal.final_trial)
            ));
        }
        if time < goal.duration_sum {
            return Err(format!(
                "--search-time {} is shorter than --goal-sum {}, which one rate needs",
                shown(time),
                shown(goal.duration_sum)
            ));
        }
        Ok(())
    }
}

/// Returns the length of each run of a sweep.
pub(super) fn sweep_duration(args: &LoadArgs) -> Duration {
    args.duration.unwrap_or(SWEEP_DURATION_DEFAULT)
}

/// Reads a share such as `0.05` or `5%`.
fn share(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    let number: f64 = decimal(number.trim_end())?.parse().ok()?;
    Some(number * factor)
}

fn exceed_ratio(text: &str) -> Result<f64, String> {
    share(text)
        .filter(|ratio| (0.0..1.0).contains(ratio))
        .ok_or_else(|| "not a share from 0 to less than 1, such as 0.5 or 50%".to_string())
}

fn goal_width(text: &str) -> Result<f64, String> {
    const LEAST: f64 = 0.001;
    share(text)
        .filter(|width| (LEAST..=WIDTH_MOST).contains(width))
        .ok_or_else(|| "not a share from 0.1% to 90%, such as 5% or 0.05".to_string())
}

/// Reads two rates, such as `1000..50000`.
fn rates(text: &str) -> Result<Range, String> {
    let (least, most) = text
        .split_once("..")
        .ok_or("not two rates such as 1000..50000")?;
    let load = |text: &str| rate(text).map(|rate| Load::new(rate.per_second()));
    let range = Range {
        least: load(least)?,
        most: load(most)?,
    };
    match range.least <= range.most {
        true => Ok(range),
        false => Err(format!("{least} is more than {most}")),
    }
}

/// Reads the rates of a sweep, such as `1000..50000:10`.
fn sweep_rates(text: &str) -> Result<SweepRates, String> {
    let (range, steps) = text
        .rsplit_once(':')
        .ok_or("the number of rates is missing: 1000..50000:10")?;
    let (range, steps) = (rates(range)?, integer::<u32>(2, 1000)(steps)?);
    match range.least < range.most {
        true => Ok(SweepRates { range, steps }),
        false => Err("the lowest and the highest rate are equal".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_are_read_and_nonsense_is_refused() {
        let range = rates("1k..50,000").unwrap();
        assert_eq!(range.least, Load::new(1000.0));
        assert_eq!(range.most, Load::new(50_000.0));
        for bad in ["", "1000", "2..1", "0..5", "a..b", "1..99999999", "-1..5"] {
            assert!(rates(bad).is_err(), "{bad}");
        }
        let sweep = sweep_rates("1000..50000:8").unwrap();
        let loads: Vec<f64> = sweep.loads().map(Load::per_second).collect();
        assert_eq!(
            loads,
            [1e3, 8e3, 15e3, 22e3, 29e3, 36e3, 43e3, 50e3],
            "equal steps"
        );
        for bad in ["1..2", "1..2:1", "1..2:x", "5..5:3", "1..2:1001"] {
            assert!(sweep_rates(bad).is_err(), "{bad}");
        }
        assert_eq!(goal_width("5%"), Ok(0.05));
        assert_eq!(goal_width("0.1"), Ok(0.1));
        assert_eq!(exceed_ratio("0"), Ok(0.0));
        for bad in ["0", "0.05%", "95%", "x", "nan", "-5%"] {
            assert!(goal_width(bad).is_err(), "{bad}");
        }
        for bad in ["1", "100%", "-0.1", "inf", ""] {
            assert!(exceed_ratio(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lowest_rate_has_the_messages_that_the_objective_needs() {
        let strategy = |conditions: &[&str]| {
            let parse = |text: &&str| text.parse().unwrap();
            let args = ManyArgs {
                find_max: conditions.iter().map(parse).collect(),
                ..ManyArgs::default()
            };
            args.strategy()
        };
        assert_eq!(strategy(&["errors=0"]).range.least, Load::new(100.0));
        assert_eq!(strategy(&["p99<1ms"]).range.least, Load::new(625.0));
        let both = strategy(&["p99.9<1ms", "p50<1ms"]);
        assert_eq!(both.range.least, Load::new(6250.0));
        assert_eq!(both.messages_least, 10_000);
    }
}
