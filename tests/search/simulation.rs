//! Searches against simulated servers with a known knee: clean ones, ones that are disturbed now
//! and then, and ones that stay slow for a while after an overload. `UPCASE_SEARCH_SEED` repeats
//! one search.

use std::env;
use std::time::Duration;

use upcase::search::database::{Database, Trial};
use upcase::search::goal::{Goal, Load, Range};
use upcase::search::strategy::{Ending, Step, Strategy};
use upcase::search::{GOAL_DEFAULT, SHORT_TRIAL, TIME_DEFAULT};

use crate::common::program::Rng;

/// The number of searches against a kind of server.
const SEARCHES: u64 = 400;

/// The share of the searches in which the knee must lie between the relevant bounds.
const RIGHT: f64 = 19.0 / 20.0;

/// The time of a trial in addition to its duration: to connect, and to close the connections.
const AROUND: Duration = Duration::from_millis(300);

/// The further time of a bad trial: the backlog is answered.
const AROUND_BAD: Duration = Duration::from_secs(1);

/// A kind of server. The knee of a trial differs from the server's own by a random factor.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    /// The standard deviation of that factor.
    jitter: f64,
    /// Disturbances per second, each of which makes a trial bad.
    disturbances: f64,
    /// The share by which the knee is lower in the first trial after an overloaded one.
    hysteresis: f64,
    /// The share of trials that the generator limits.
    discarded: f64,
    /// The load from which the generator limits every trial, in knees.
    generator: Option<f64>,
}

/// A search that is over.
#[derive(Debug)]
struct Ended {
    ending: Ending,
    is_right: bool,
    trials: usize,
    time: Duration,
}

struct Server {
    kind: Kind,
    knee: f64,
    random: Rng,
    is_overloaded: bool,
}

impl Server {
    /// Returns whether a trial is good; `None`: it is discarded.
    fn trial(&mut self, load: f64, duration: Duration) -> Option<bool> {
        let Kind {
            jitter,
            disturbances,
            hysteresis,
            discarded,
            generator,
        } = self.kind;
        let is_limited = generator.is_some_and(|limit| load > limit * self.knee);
        if is_limited || self.random.unit() < discarded {
            return None;
        }
        // Twelve uniform numbers: close to a normal distribution.
        let sum: f64 = (0..12).map(|_| self.random.unit()).sum();
        let mut knee = self.knee * (1.0 + jitter * (sum - 6.0));
        if self.is_overloaded {
            knee *= 1.0 - hysteresis;
        }
        self.is_overloaded = load > self.knee;
        let calm = (-disturbances * duration.as_secs_f64()).exp();
        Some(load <= knee && self.random.unit() <= calm)
    }
}

fn search(kind: Kind, seed: u64) -> Ended {
    let mut random = Rng(seed);
    let (least, most) = (500.0_f64, 1e6_f64);
    let knee = 600.0 * (most / 1000.0).powf(random.unit());
    let mut server = Server {
        kind,
        knee,
        random,
        is_overloaded: false,
    };
    let strategy = Strategy {
        range: Range {
            least: Load::new(least),
            most: Load::new(most),
        },
        short_trial: SHORT_TRIAL,
        messages_least: 0,
        time_most: TIME_DEFAULT,
    };
    let goal: Goal = GOAL_DEFAULT;
    let mut database = Database::new(goal);
    let (mut time, mut trials) = (Duration::ZERO, 0);
    loop {
        let (load, duration) = match strategy.next(&database, time) {
            Step::Trial(load, duration) => (load, duration),
            Step::End(ending) => {
                let bounds = database.bounds();
                let is_above = bounds.lower.is_some_and(|it| it.per_second() <= knee);
                let is_below = bounds.upper.is_some_and(|it| knee <= it.per_second());
                return Ended {
                    ending,
                    is_right: is_above && is_below,
                    trials,
                    time,
                };
            }
        };
        trials += 1;
        time += duration + AROUND;
        match server.trial(load.per_second(), duration) {
            None => database.discard(load),
            Some(is_good) => {
                time += if is_good { Duration::ZERO } else { AROUND_BAD };
                database.add(Trial {
                    load,
                    duration,
                    is_good,
                    forwarding_rate: load.per_second().min(knee),
                });
            }
        }
    }
}

/// Carries out the searches against a kind of server, and prints what they took.
fn searches(name: &str, kind: Kind) -> Vec<Ended> {
    let one = env::var("UPCASE_SEARCH_SEED").ok();
    let one: Option<u64> = one.map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(1..=SEARCHES, |seed| seed..=seed);
    let ended: Vec<(u64, Ended)> = seeds.map(|seed| (seed, search(kind, seed))).collect();
    let wrong = ended.iter().filter(|(_, ended)| !ended.is_right);
    let wrong: Vec<u64> = wrong.map(|(seed, _)| *seed).collect();
    let mut times: Vec<Duration> = ended.iter().map(|(_, ended)| ended.time).collect();
    let mut trials: Vec<usize> = ended.iter().map(|(_, ended)| ended.trials).collect();
    times.sort();
    trials.sort();
    let (middle, last) = (ended.len() / 2, ended.len() - 1);
    println!(
        "{name}: {} of {} right; trials: median {}, most {}; time: median {:.0?}, longest {:.0?}; \
         not right with the seeds {:?}...",
        ended.len() - wrong.len(),
        ended.len(),
        trials[middle],
        trials[last],
        times[middle],
        times[last],
        &wrong[..wrong.len().min(20)]
    );
    ended.into_iter().map(|(_, ended)| ended).collect()
}

/// Asserts that the knee lay between the relevant bounds often enough, and that every search ended
/// within this time.
fn expect(name: &str, kind: Kind, time_most: Duration) {
    let ended = searches(name, kind);
    let right = ended.iter().filter(|ended| ended.is_right).count();
    assert!(
        right as f64 >= RIGHT * ended.len() as f64,
        "{name}: {right}"
    );
    // By chance, all trials at one load can be discarded.
    let found = ended.iter().filter(|ended| ended.ending == Ending::Found);
    assert!(found.count() + 2 >= ended.len(), "{name}");
    for ended in &ended {
        assert!(ended.time <= time_most, "{name}: {ended:?}");
    }
}

#[test]
fn a_clean_knee_is_found_within_a_minute() {
    let ended = searches("clean", Kind::default());
    assert!(ended.iter().all(|ended| ended.is_right));
    expect("clean", Kind::default(), Duration::from_secs(60));
}

#[test]
fn noise_and_hysteresis_do_not_move_the_bounds() {
    let noisy = Kind {
        jitter: 0.0025,
        disturbances: 0.03,
        ..Kind::default()
    };
    expect("noisy", noisy, Duration::from_secs(150));
    let slow_after_overload = Kind {
        hysteresis: 0.2,
        ..Kind::default()
    };
    let time = Duration::from_secs(120);
    expect("slow after an overload", slow_after_overload, time);
    let all = Kind {
        hysteresis: 0.1,
        discarded: 0.1,
        ..noisy
    };
    expect("all of it", all, Duration::from_secs(200));
}

#[test]
fn the_generator_ends_the_search_with_a_lower_bound() {
    let limited = Kind {
        generator: Some(0.7),
        discarded: 0.1,
        ..Kind::default()
    };
    for ended in searches("limited generator", limited) {
        assert!(
            matches!(ended.ending, Ending::GeneratorLimit(_)),
            "{ended:?}"
        );
        assert!(ended.time < Duration::from_secs(120), "{ended:?}");
    }
}
