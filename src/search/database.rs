//! The trials of a search, and what they show about each load, as RFC 9971 defines it. Pure.
//!
//! A load is a *lower bound* if it stays one whatever its missing trials bring, an *upper bound* if
//! it fails whatever they bring, and *undecided* otherwise. A greater load may be a lower bound
//! although a smaller one is an upper bound. Therefore the *relevant* bounds are the smallest upper
//! bound and the greatest lower bound below it.
//!
//! Invariant: the classification depends on the sums of the durations alone, not on the order of
//! the trials. Trials that were discarded do not take part in it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::search::goal::{Goal, Load};

/// A trial that showed something about its load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// The offered load.
    pub load: Load,
    /// The duration that was intended.
    pub duration: Duration,
    /// Whether the objective held.
    pub is_good: bool,
    /// Messages per second that were answered correctly.
    pub forwarding_rate: f64,
}

/// What is known about a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The load holds the objective.
    LowerBound,
    /// The load does not hold the objective.
    UpperBound,
    /// More trials are needed.
    Undecided,
}

/// The relevant bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The relevant lower bound.
    pub lower: Option<Load>,
    /// The relevant upper bound.
    pub upper: Option<Load>,
}

/// The trials at one load.
#[derive(Clone, Debug, Default)]
pub struct LoadTrials {
    /// Sums of the durations of long and of short trials.
    good_long: Duration,
    bad_long: Duration,
    good_short: Duration,
    bad_short: Duration,
    /// The long trials.
    long: Vec<Trial>,
    /// Number of trials that were discarded since the last one that was not.
    discarded: u32,
}

/// The trials of a search.
#[derive(Clone, Debug)]
pub struct Database {
    goal: Goal,
    loads: BTreeMap<Load, LoadTrials>,
}

impl Database {
    /// Returns a database without trials.
    pub fn new(goal: Goal) -> Database {
        Database {
            goal,
            loads: BTreeMap::new(),
        }
    }

    /// Returns the goal.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// Adds a trial.
    pub fn add(&mut self, trial: Trial) {
        let is_long = trial.duration >= self.goal.final_trial;
        let trials = self.loads.entry(trial.load).or_default();
        trials.discarded = 0;
        let sum = match (is_long, trial.is_good) {
            (true, true) => &mut trials.good_long,
            (true, false) => &mut trials.bad_long,
            (false, true) => &mut trials.good_short,
            (false, false) => &mut trials.bad_short,
        };
        *sum = sum.saturating_add(trial.duration);
        if is_long {
            trials.long.push(trial);
        }
    }

    /// Counts a trial that showed nothing about its load.
    pub fn discard(&mut self, load: Load) {
        let trials = self.loads.entry(load).or_default();
        trials.discarded = trials.discarded.saturating_add(1);
    }

    /// Returns the loads with trials, from the smallest one.
    pub fn loads(&self) -> impl DoubleEndedIterator<Item = (Load, &LoadTrials)> {
        self.loads.iter().map(|(load, trials)| (*load, trials))
    }

    /// Returns what is known about a load.
    pub fn class(&self, load: Load) -> Class {
        let trials = self.loads.get(&load);
        trials.map_or(Class::Undecided, |trials| trials.class(&self.goal))
    }

    /// Returns the relevant bounds.
    pub fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::default();
        for (load, trials) in self.loads() {
            match trials.class(&self.goal) {
                Class::Undecided => {}
                Class::LowerBound => bounds.lower = Some(load),
                Class::UpperBound => {
                    bounds.upper = Some(load);
                    break;
                }
            }
        }
        bounds
    }

    /// Returns the conditional throughput: the forwarding rate at the relevant lower bound that
    /// only the share of the exceed ratio of the time of its long trials may fall short of. Missing
    /// time counts as time without an answer. `None` without a relevant lower bound.
    pub fn conditional_throughput(&self) -> Option<f64> {
        let trials = self.loads.get(&self.bounds().lower?)?;
        let mut long: Vec<&Trial> = trials.long.iter().collect();
        // The best trials first: good before bad, then by rate.
        long.sort_by(|one, other| {
            let by_rate = other.forwarding_rate.total_cmp(&one.forwarding_rate);
            other.is_good.cmp(&one.is_good).then(by_rate)
        });
        let whole = trials.good_long.saturating_add(trials.bad_long);
        let whole = seconds(whole.max(self.goal.duration_sum));
        let mut left = whole * (1.0 - self.goal.exceed_ratio);
        let mut found = None;
        for trial in long {
            if found.is_some() && left <= 0.0 {
                return found;
            }
            found = Some(trial.forwarding_rate);
            left -= seconds(trial.duration);
        }
        if left > 0.0 { Some(0.0) } else { found }
    }
}

impl LoadTrials {
    /// Returns what these trials show. The two estimates are those of RFC 9971: the trials that are
    /// missing to the duration sum are all good, or all bad. Short trials count where bad ones
    /// exceed the share that the good ones allow.
    pub fn class(&self, goal: &Goal) -> Class {
        let ratio = goal.exceed_ratio;
        let good_long = seconds(self.good_long);
        let balanced = seconds(self.good_short) * ratio / (1.0 - ratio);
        let excess = (seconds(self.bad_short) - balanced).max(0.0);
        let bad = seconds(self.bad_long) + excess;
        let whole = (good_long + bad).max(seconds(goal.duration_sum));
        let allowed = whole * ratio;
        let (at_best, at_worst) = (bad <= allowed, whole - good_long <= allowed);
        match (at_best, at_worst) {
            (true, true) => Class::LowerBound,
            (false, false) => Class::UpperBound,
            _ => Class::Undecided,
        }
    }

    /// Returns whether more of the time of all trials was good than bad; `None` without trials.
    pub fn inclination(&self) -> Option<bool> {
        let good = self.good_long.saturating_add(self.good_short);
        let bad = self.bad_long.saturating_add(self.bad_short);
        let any = !good.is_zero() || !bad.is_zero();
        any.then_some(good > bad)
    }

    /// Returns whether there are long trials.
    pub fn has_long(&self) -> bool {
        !self.long.is_empty()
    }

    /// Returns the number of trials that were discarded since the last one that was not.
    pub fn discarded(&self) -> u32 {
        self.discarded
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        final_trial: Duration::from_secs(2),
        duration_sum: Duration::from_secs(6),
        exceed_ratio: 0.5,
        width: 0.05,
    };

    /// Returns a database with trials: load, duration in seconds, and whether it was good.
    fn database(trials: &[(f64, f64, bool)]) -> Database {
        let mut database = Database::new(GOAL);
        for (load, seconds, is_good) in trials {
            database.add(Trial {
                load: Load::new(*load),
                duration: Duration::from_secs_f64(*seconds),
                is_good: *is_good,
                forwarding_rate: *load,
            });
        }
        database
    }

    fn class(trials: &[(f64, bool)]) -> Class {
        let trials = trials.iter().map(|(time, good)| (1.0, *time, *good));
        database(&trials.collect::<Vec<_>>()).class(Load::new(1.0))
    }

    #[test]
    fn two_of_three_long_trials_decide() {
        let (good, bad) = ((2.0, true), (2.0, false));
        assert_eq!(class(&[]), Class::Undecided);
        assert_eq!(class(&[good]), Class::Undecided);
        assert_eq!(class(&[good, good]), Class::LowerBound);
        assert_eq!(class(&[bad, bad]), Class::UpperBound);
        assert_eq!(class(&[good, bad]), Class::Undecided);
        assert_eq!(class(&[bad, good, good]), Class::LowerBound);
        assert_eq!(class(&[good, bad, bad]), Class::UpperBound);
    }

    #[test]
    fn short_trials_alone_never_make_a_lower_bound() {
        let short = [(0.5, true); 100];
        assert_eq!(class(&short), Class::Undecided);
        assert_eq!(class(&[(0.5, false); 6]), Class::Undecided);
        assert_eq!(class(&[(0.5, false); 7]), Class::UpperBound);
        // As many good ones as bad ones count for nothing.
        let mixed = [(0.5, false), (0.5, true)].repeat(50);
        assert_eq!(class(&mixed), Class::Undecided);
    }

    #[test]
    fn a_lower_bound_above_an_upper_bound_is_not_relevant() {
        let (good, bad) = (true, false);
        let trials = [
            (100.0, 4.0, good),
            (200.0, 4.0, good),
            (300.0, 4.0, bad),
            (400.0, 4.0, good),
            (500.0, 4.0, bad),
        ];
        let bounds = database(&trials).bounds();
        assert_eq!(bounds.lower, Some(Load::new(200.0)));
        assert_eq!(bounds.upper, Some(Load::new(300.0)));
        let bounds = database(&trials[3..]).bounds();
        assert_eq!(bounds.lower, Some(Load::new(400.0)));
        let bounds = database(&trials[2..4]).bounds();
        assert_eq!((bounds.lower, bounds.upper), (None, Some(Load::new(300.0))));
    }

    #[test]
    fn the_conditional_throughput_is_that_of_a_typical_trial() {
        let mut database = Database::new(GOAL);
        assert_eq!(database.conditional_throughput(), None);
        for (is_good, forwarding_rate) in [(true, 97.0), (false, 100.0), (true, 99.0)] {
            database.add(Trial {
                load: Load::new(100.0),
                duration: Duration::from_secs(2),
                is_good,
                forwarding_rate,
            });
        }
        // Half of six seconds: the two good trials, the better one first.
        assert_eq!(database.conditional_throughput(), Some(97.0));
    }

    #[test]
    fn a_discarded_trial_decides_nothing() {
        let mut database = database(&[(100.0, 2.0, true)]);
        let load = Load::new(100.0);
        database.discard(load);
        database.discard(load);
        let (_, trials) = database.loads().next().unwrap();
        assert_eq!((trials.discarded(), trials.has_long()), (2, true));
        assert_eq!(database.class(load), Class::Undecided);
        assert_eq!(database.bounds(), Bounds::default());
    }
}
