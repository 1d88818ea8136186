//! Chooses the next trial of a search, or ends it. Pure: the time that was spent is an argument,
//! and the choice depends on nothing but the trials.
//!
//! The strategy has two parts, which alternate as often as needed:
//!
//! 1. *Approach*, with short trials. From the smallest load on, each load is twice the one before,
//!    until a trial is bad. Then the interval between the greatest load that seems good and the
//!    smallest one that seems bad is halved, in the logarithm, until it is within the width.
//! 2. *Confirm*, with long trials. The two ends of that interval, the lower one first, get full
//!    trials one after the other until each of them is classified. An end that turns out to be of
//!    the other kind is an end of a new interval, and the approach continues from there: next to it
//!    first, then at a distance that doubles with each step.
//!
//! Most trials are short, since only the two ends need proof. A single short trial that is wrong
//! costs time and does no harm: the search ends only with bounds that long trials have confirmed.
//!
//! A load whose trials are discarded again and again, with no trial that counted at a greater load,
//! is the limit of the generator. It takes the place of the upper end, which needs no confirmation.
//!
//! Invariants: each trial that counts either makes the interval smaller or counts towards the
//! classification of a load that is not classified yet. No trial begins that would exceed the time.

use std::time::Duration;

use crate::search::database::{Class, Database, LoadTrials};
use crate::search::goal::{Load, Range};

/// The number of trials in a row that are discarded at a load before the generator counts as its
/// limit. On a machine where other processes disturb every other trial, as many in a row are
/// discarded by chance at one load in sixty.
const DISCARDED_MOST: u32 = 6;

/// The greatest step between two loads while one end of the interval is missing, in the logarithm:
/// twice the load. A greater one would overload the server more than it needs to.
const STEP_MOST: f64 = std::f64::consts::LN_2;

/// The messages of a trial in relation to those that its objective needs: the number that a random
/// schedule draws differs by less.
const RESERVE: f64 = 1.1;

/// What a search may do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strategy {
    /// The loads.
    pub range: Range,
    /// The duration of a short trial.
    pub short_trial: Duration,
    /// The number of messages below which the objective cannot be judged. Trials are extended to
    /// have as many.
    pub messages_least: u64,
    /// The time that the search may take.
    pub time_most: Duration,
}

/// The next step of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A trial at this load, for this duration.
    Trial(Load, Duration),
    /// The end.
    End(Ending),
}

/// The reason why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both relevant bounds are known, and within the width.
    Found,
    /// The greatest load is a lower bound.
    HoldsAtMost,
    /// The smallest load is an upper bound.
    FailsAtLeast,
    /// The generator is the limit at this load.
    GeneratorLimit(Load),
    /// The time does not suffice for another trial.
    OutOfTime,
    /// A signal ended it.
    Interrupted,
    /// A trial could not be carried out.
    Failed,
}

/// What the trials of a load let expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    Good,
    Bad,
    /// The generator is the limit.
    Limited,
}

impl Strategy {
    /// Returns the next step. `spent` is the time since the search began.
    pub fn next(&self, database: &Database, spent: Duration) -> Step {
        let step = self.choose(database);
        match step {
            Step::Trial(_, duration) if spent.saturating_add(duration) > self.time_most => {
                Step::End(Ending::OutOfTime)
            }
            _ => step,
        }
    }

    fn choose(&self, database: &Database) -> Step {
        if let Some(load) = unfinished(database) {
            return self.confirm(database, load);
        }
        let hints = hints(database);
        let upper = hints.iter().find(|(_, hint)| *hint != Hint::Good).copied();
        let below = |load: Load| upper.is_none_or(|(upper, _)| load < upper);
        let is_lower = |(load, hint): &&(Load, Hint)| *hint == Hint::Good && below(*load);
        let lower = hints.iter().rev().find(is_lower).map(|(load, _)| *load);
        let class = |load| database.class(load);
        match (lower, upper) {
            (None, None) => self.approach(self.range.least),
            (None, Some((load, Hint::Limited))) if load == self.range.least => {
                Step::End(Ending::GeneratorLimit(load))
            }
            (None, Some((load, _))) if load == self.range.least => match class(load) {
                Class::UpperBound => Step::End(Ending::FailsAtLeast),
                _ => self.confirm(database, load),
            },
            (None, Some((load, _))) => self.approach(self.step_down(database, load)),
            (Some(load), None) if load == self.range.most => match class(load) {
                Class::LowerBound => Step::End(Ending::HoldsAtMost),
                _ => self.confirm(database, load),
            },
            (Some(load), None) => self.approach(self.step_up(database, load)),
            (Some(lower), Some((upper, hint))) => {
                if let Some(middle) = self.middle(database, lower, upper) {
                    return self.approach(middle);
                }
                match (class(lower), hint) {
                    (Class::Undecided, _) => self.confirm(database, lower),
                    (_, Hint::Limited) => Step::End(Ending::GeneratorLimit(upper)),
                    _ if class(upper) == Class::Undecided => self.confirm(database, upper),
                    _ => Step::End(Ending::Found),
                }
            }
        }
    }

    /// Returns a short trial.
    fn approach(&self, load: Load) -> Step {
        Step::Trial(load, self.extended(load, self.short_trial))
    }

    /// Returns a full trial.
    fn confirm(&self, database: &Database, load: Load) -> Step {
        Step::Trial(load, self.extended(load, database.goal().final_trial))
    }

    /// Returns a duration, extended so that the messages that the objective needs are due in it.
    fn extended(&self, load: Load, duration: Duration) -> Duration {
        let needed = self.messages_least as f64 * RESERVE / load.per_second();
        let milliseconds = (needed * 1e3).ceil().min(u64::MAX as f64) as u64;
        duration.max(Duration::from_millis(milliseconds))
    }

    /// Returns the load between two others; `None` if they are within the width, or so close that
    /// no load lies between them.
    fn middle(&self, database: &Database, lower: Load, upper: Load) -> Option<Load> {
        let goal = database.goal();
        if goal.is_within_width(lower, upper) {
            return None;
        }
        let middle = lower.moved(upper.above(lower) / 2.0, goal.width);
        (lower < middle && middle < upper).then_some(middle)
    }

    /// Returns a load above the greatest one. The step is twice the last one.
    fn step_up(&self, database: &Database, from: Load) -> Load {
        let before = database.loads().rev().find(|(load, _)| *load < from);
        let step = before.map(|(load, _)| from.above(load));
        self.step(database, from, step, 1.0)
    }

    /// Returns a load below the smallest one. The step is twice the last one.
    fn step_down(&self, database: &Database, from: Load) -> Load {
        let before = database.loads().find(|(load, _)| *load > from);
        let step = before.map(|(load, _)| load.above(from));
        self.step(database, from, step, -1.0)
    }

    fn step(&self, database: &Database, from: Load, last: Option<f64>, sign: f64) -> Load {
        let goal = database.goal();
        let least = goal.log_width().min(STEP_MOST);
        let step = last.map_or(STEP_MOST, |last| (2.0 * last).clamp(least, STEP_MOST));
        let moved = self.range.clamp(from.moved(sign * step, goal.width));
        // Next to the smallest loads, rounding may undo a step.
        match moved == from {
            false => moved,
            true if sign > 0.0 => self.range.most,
            true => self.range.least,
        }
    }
}

/// Returns the load whose classification has begun, and is not complete.
fn unfinished(database: &Database) -> Option<Load> {
    let goal = database.goal();
    let mut loads = database.loads();
    let found = loads.find(|(load, trials)| {
        trials.has_long()
            && trials.class(goal) == Class::Undecided
            && !is_limited(database, *load, trials)
    });
    found.map(|(load, _)| load)
}

/// Returns the loads about which something is known, from the smallest one.
fn hints(database: &Database) -> Vec<(Load, Hint)> {
    let hint = |(load, trials): (Load, &LoadTrials)| {
        let hint = match trials.class(database.goal()) {
            Class::LowerBound => Hint::Good,
            Class::UpperBound => Hint::Bad,
            Class::Undecided if is_limited(database, load, trials) => Hint::Limited,
            Class::Undecided => match trials.inclination()? {
                true => Hint::Good,
                false => Hint::Bad,
            },
        };
        Some((load, hint))
    };
    database.loads().filter_map(hint).collect()
}

/// Returns whether the generator is the limit at a load.
fn is_limited(database: &Database, load: Load, trials: &LoadTrials) -> bool {
    let counted = |(other, trials): (Load, &LoadTrials)| {
        other > load && trials.inclination().is_some() && trials.discarded() == 0
    };
    trials.discarded() >= DISCARDED_MOST && !database.loads().any(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::database::Trial;
    use crate::search::goal::Goal;

    const GOAL: Goal = Goal {
        final_trial: Duration::from_secs(2),
        duration_sum: Duration::from_secs(6),
        exceed_ratio: 0.5,
        width: 0.05,
    };

    fn strategy(least: f64, most: f64) -> Strategy {
        Strategy {
            range: Range {
                least: Load::new(least),
                most: Load::new(most),
            },
            short_trial: Duration::from_millis(500),
            messages_least: 0,
            time_most: Duration::from_secs(300),
        }
    }

    /// What a simulated trial shows; `None`: it is discarded.
    type Answer = Option<bool>;

    /// Carries out a search against a server that is a function; returns its end, the database and
    /// the trials.
    fn search(
        strategy: Strategy,
        mut answer: impl FnMut(f64, Duration) -> Answer,
    ) -> (Ending, Database, Vec<(Load, Duration)>) {
        let mut database = Database::new(GOAL);
        let (mut spent, mut trials) = (Duration::ZERO, Vec::new());
        loop {
            match strategy.next(&database, spent) {
                Step::End(ending) => return (ending, database, trials),
                Step::Trial(load, duration) => {
                    trials.push((load, duration));
                    spent += duration;
                    match answer(load.per_second(), duration) {
                        None => database.discard(load),
                        Some(is_good) => database.add(Trial {
                            load,
                            duration,
                            is_good,
                            forwarding_rate: load.per_second(),
                        }),
                    }
                }
            }
        }
    }

    #[test]
    fn a_clean_knee_is_found_with_few_trials() {
        for knee in [101.0, 777.7, 2500.0, 33_333.0, 999_000.0] {
            let (ending, database, trials) =
                search(strategy(100.0, 1e6), |load, _| Some(load <= knee));
            assert_eq!(ending, Ending::Found, "{knee}");
            let bounds = database.bounds();
            let (lower, upper) = (bounds.lower.unwrap(), bounds.upper.unwrap());
            assert!(lower.per_second() <= knee && knee < upper.per_second());
            assert!(GOAL.is_within_width(lower, upper));
            let long = trials.iter().filter(|(_, time)| *time == GOAL.final_trial);
            assert_eq!(long.count(), 4, "{trials:?}");
            assert!(trials.len() < 24, "{}", trials.len());
        }
    }

    #[test]
    fn both_ends_of_the_range_may_be_the_answer() {
        let (ending, database, _) = search(strategy(100.0, 5000.0), |_, _| Some(true));
        assert_eq!(ending, Ending::HoldsAtMost);
        assert_eq!(database.bounds().lower, Some(Load::new(5000.0)));
        let (ending, database, trials) = search(strategy(100.0, 5000.0), |_, _| Some(false));
        assert_eq!(ending, Ending::FailsAtLeast);
        assert_eq!(database.bounds().upper, Some(Load::new(100.0)));
        assert_eq!(trials.len(), 3);
        let (ending, ..) = search(strategy(100.0, 100.0), |_, _| Some(true));
        assert_eq!(ending, Ending::HoldsAtMost);
    }

    #[test]
    fn the_limit_of_the_generator_ends_the_search_next_to_it() {
        let limited = |load: f64, _| (load < 3000.0).then_some(true);
        let (ending, database, _) = search(strategy(100.0, 1e6), limited);
        let Ending::GeneratorLimit(limit) = ending else {
            panic!("{ending:?}");
        };
        let lower = database.bounds().lower.unwrap();
        assert!(lower.per_second() < 3000.0 && limit.per_second() >= 3000.0);
        assert!(GOAL.is_within_width(lower, limit));
        let (ending, ..) = search(strategy(100.0, 1e6), |_, _| None);
        assert_eq!(ending, Ending::GeneratorLimit(Load::new(100.0)));
        // A server whose knee lies below that limit is found as ever.
        let both = |load: f64, _| (load < 3000.0).then_some(load < 2000.0);
        assert_eq!(search(strategy(100.0, 1e6), both).0, Ending::Found);
    }

    #[test]
    fn a_disturbed_trial_is_repeated() {
        let mut count = 0;
        let (ending, database, _) = search(strategy(100.0, 1e6), |load, _| {
            count += 1;
            (count % 3 == 0).then_some(load < 2000.0)
        });
        assert_eq!(ending, Ending::Found);
        assert!(database.bounds().lower.unwrap().per_second() < 2000.0);
    }

    #[test]
    fn a_wrong_short_trial_costs_time_and_does_no_harm() {
        // Short trials at small loads are bad, and good above the knee.
        let (ending, database, trials) = search(strategy(100.0, 1e6), |load, time| {
            let is_short = time < GOAL.final_trial;
            Some((load < 2000.0) != (is_short && load > 250.0 && load < 2050.0))
        });
        assert_eq!(ending, Ending::Found, "{trials:?}");
        let bounds = database.bounds();
        assert!(bounds.lower.unwrap().per_second() < 2000.0);
        assert!(bounds.upper.unwrap().per_second() >= 2000.0);
    }

    #[test]
    fn trials_have_the_messages_that_the_objective_needs() {
        let mut strategy = strategy(10.0, 1e6);
        strategy.messages_least = 1000;
        let (_, _, trials) = search(strategy, |load, _| Some(load < 3000.0));
        for (load, duration) in trials {
            assert!(load.per_second() * duration.as_secs_f64() >= 1100.0);
        }
    }

    #[test]
    fn no_trial_exceeds_the_time() {
        let mut strategy = strategy(100.0, 1e6);
        strategy.time_most = Duration::from_secs(7);
        let (ending, _, trials) = search(strategy, |load, _| Some(load < 3000.0));
        assert_eq!(ending, Ending::OutOfTime);
        let spent: Duration = trials.iter().map(|(_, duration)| *duration).sum();
        assert!(spent <= strategy.time_most && spent > Duration::from_secs(5));
    }
}
