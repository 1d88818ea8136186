//! Tests how often the printed 95 % confidence intervals hold, and how often a trend is found, in
//! simulated runs of servers whose true percentiles are known. Each test prints its table; all
//! draws are from `SEED`, so a table is the same each time.
//!
//! A run is recorded as the load generator records it: samples are counted in a histogram, and move
//! from there into the open block of the run when that block ends.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::time::Duration;

use upcase::load::latency::Latency;
use upcase::load::latency::recent::RecentSamples;
use upcase::load::plan::random::{Purpose, RandomStream};
use upcase::load::results::Backlog;

/// Seed of all draws.
const SEED: u64 = 20;

/// Number of runs of each kind of server whose intervals are compared with the true percentiles.
const RUNS: u64 = 200;

/// Number of runs of each kind of server in which a trend is tested for where there is none.
const QUIET_RUNS: u64 = 1000;

/// Minimum share of the printed intervals that must hold.
const HELD: f64 = 0.92;

/// Number of printed intervals of a kind below which their share is not significant.
const PRINTED_FEW: u64 = 20;

/// Maximum number of runs of a healthy server that may be judged to grow.
const FALSE_ALARMS: u64 = 3;

/// The percentiles that are tested.
const POINTS: [f64; 3] = [50.0, 90.0, 99.0];

/// The time at which a message was answered, and its response time, in seconds.
type Reply = (f64, f64);

/// The random numbers of one run for one purpose, one after the other.
#[derive(Clone, Copy)]
struct Chance {
    random: RandomStream,
    place: u64,
}

/// The random numbers of a run.
#[derive(Clone, Copy)]
struct Run {
    arrivals: Chance,
    service: Chance,
    pauses: Chance,
}

/// A kind of server, and the duration of its runs.
struct Kind {
    name: &'static str,
    seconds: f64,
    draw: fn(Run, f64) -> Vec<Reply>,
    /// The true percentiles; with `None` they are those of some hundred further runs together.
    truths: Option<[f64; 3]>,
    /// The percentiles of which every run must print an interval; for others it may be withheld.
    printed: &'static [f64],
}

impl Chance {
    fn unit(&mut self) -> f64 {
        self.place += 1;
        self.random.unit(self.place)
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.unit().ln() * mean
    }

    fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), self.unit());
        radius * (TAU * angle).cos()
    }

    /// Returns the times of a Poisson process with this rate a second, without end.
    fn times(mut self, rate: f64) -> impl Iterator<Item = f64> {
        let mut now = 0.0;
        std::iter::repeat_with(move || {
            now += self.exponential(1.0 / rate);
            now
        })
    }
}

impl Run {
    fn new(number: u64) -> Run {
        let chance = |stream| Chance {
            random: RandomStream::new(SEED, Purpose::Gaps, number * 3 + stream),
            place: 0,
        };
        Run {
            arrivals: chance(0),
            service: chance(1),
            pauses: chance(2),
        }
    }
}

/// Returns times at this constant rate a second, without end.
fn even(rate: f64) -> impl Iterator<Item = f64> {
    (0u64..).map(move |place| place as f64 / rate)
}

/// Returns the replies of a server to the messages that arrive within `seconds`. It handles one
/// message at a time, in the order of arrival. It begins no message in a pause, which has a
/// beginning and an end.
fn answer(
    seconds: f64,
    arrivals: impl Iterator<Item = f64>,
    mut service: impl FnMut() -> f64,
    pauses: impl Iterator<Item = (f64, f64)>,
) -> Vec<Reply> {
    let mut pauses = pauses.peekable();
    let mut free = 0.0f64;
    let reply = |at: f64| {
        let mut begins = at.max(free);
        while let Some((_, to)) = pauses.next_if(|(from, _)| *from <= begins) {
            begins = begins.max(to);
        }
        free = begins + service();
        (free, free - at)
    };
    arrivals.take_while(|at| *at < seconds).map(reply).collect()
}

/// Simulates an M/M/1 queue with this arrival rate and the utilization `share`.
fn busy(run: Run, seconds: f64, rate: f64, share: f64) -> Vec<Reply> {
    let mut service = run.service;
    let service = move || service.exponential(share / rate);
    answer(
        seconds,
        run.arrivals.times(rate),
        service,
        std::iter::empty(),
    )
}

/// Returns the percentiles of the response time of such a queue: an exponential distribution.
fn of_busy(rate: f64, share: f64) -> Option<[f64; 3]> {
    let mean = 1.0 / (rate / share - rate);
    Some(POINTS.map(|point| -(1.0 - point / 100.0).ln() * mean))
}

/// Draws independent response times around a millisecond, which grow by the share `growth` until
/// the end of the run.
fn independent(mut run: Run, seconds: f64, growth: f64) -> Vec<Reply> {
    let arrivals = even(1000.0).take_while(|at| *at < seconds);
    let reply = |at| {
        let response = 0.001 * run.service.normal().exp() * (1.0 + growth * at / seconds);
        (at + response, response)
    };
    arrivals.map(reply).collect()
}

/// Simulates a fast server that pauses.
fn pausing(run: Run, seconds: f64, pauses: impl Iterator<Item = (f64, f64)>) -> Vec<Reply> {
    let mut service = run.service;
    answer(
        seconds,
        even(1000.0),
        move || service.exponential(1e-4),
        pauses,
    )
}

/// Simulates a server with pauses at random times, `rate` a second, with exponential lengths.
fn random_pauses(run: Run, seconds: f64, rate: f64, mean: f64) -> Vec<Reply> {
    let mut lengths = run.pauses;
    lengths.place = 1 << 32;
    let pauses = run.pauses.times(rate);
    pausing(
        run,
        seconds,
        pauses.map(move |at| (at, at + lengths.exponential(mean))),
    )
}

/// Simulates a server with pauses of 50 ms, about one a second.
fn periodic_pauses(mut run: Run, seconds: f64) -> Vec<Reply> {
    // Not a multiple of the gap between two messages: each pause begins at another part of it.
    let period = 0.98713;
    let phase = run.pauses.unit() * period;
    let pauses = (-1..).map(move |number| phase + f64::from(number) * period);
    pausing(run, seconds, pauses.map(|from| (from, from + 0.05)))
}

/// Records the replies of a run of `seconds` as the load generator does.
fn keep(mut replies: Vec<Reply>, seconds: f64) -> Latency {
    replies.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    let (mut run, mut recent) = (Latency::in_blocks(), RecentSamples::default());
    let mut end = run.open_until();
    for (at, response) in replies {
        let at = Duration::from_secs_f64(at);
        if at.as_secs_f64() < seconds && end.is_some_and(|end| at >= end) {
            run.take(&mut recent, None);
            while end.is_some_and(|end| at >= end) {
                end = run.end_block();
            }
        }
        recent.record(Duration::from_secs_f64(response).as_nanos() as u64);
    }
    run.take(&mut recent, None);
    run
}

fn kinds() -> Vec<Kind> {
    let all = &POINTS[..];
    let kind = |name, seconds, draw, truths, printed| Kind {
        name,
        seconds,
        draw,
        truths,
        printed,
    };
    // The percentiles of a lognormal distribution, from standard normal deviates.
    let lognormal = [0.0, 1.281_552, 2.326_348].map(|deviate: f64| 0.001 * deviate.exp());
    vec![
        kind(
            "independent, lognormal",
            20.0,
            |run, s| independent(run, s, 0.0),
            Some(lognormal),
            all,
        ),
        kind(
            "M/M/1 at 0.7, 2,000/s",
            60.0,
            |run, s| busy(run, s, 2000.0, 0.7),
            of_busy(2000.0, 0.7),
            all,
        ),
        kind(
            "M/M/1 at 0.7, 1,000/s",
            20.0,
            |run, s| busy(run, s, 1000.0, 0.7),
            of_busy(1000.0, 0.7),
            &[50.0, 90.0],
        ),
        kind("periodic pauses", 20.0, periodic_pauses, None, all),
        kind(
            "random pauses, 2/s",
            60.0,
            |run, s| random_pauses(run, s, 2.0, 0.02),
            None,
            &[50.0, 90.0],
        ),
        kind(
            "random pauses, 1 in 2 s",
            60.0,
            |run, s| random_pauses(run, s, 0.5, 0.05),
            None,
            &[50.0, 90.0],
        ),
        kind(
            "ramp to the double",
            20.0,
            |run, s| independent(run, s, 1.0),
            None,
            &[],
        ),
    ]
}

#[test]
#[ignore = "half a minute of simulation"]
fn intervals_hold_or_are_withheld() {
    println!("seed {SEED}, {RUNS} runs each: intervals that hold, of those that are printed");
    let mut wrong = Vec::new();
    for (number, kind) in kinds().into_iter().enumerate() {
        let first = (number as u64 + 1) << 32;
        let truths = kind.truths.unwrap_or_else(|| {
            let mut all = Latency::default();
            for run in 0..RUNS {
                let replies = (kind.draw)(Run::new(first + (1 << 31) + run), kind.seconds);
                replies
                    .iter()
                    .for_each(|reply| all.record(Duration::from_secs_f64(reply.1)));
            }
            let all = all.distribution().unwrap();
            POINTS.map(|point| all.nearest(point).value.as_secs_f64())
        });
        let mut reported = [Printed::default(); 3];
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for run in 0..RUNS {
            let replies = (kind.draw)(Run::new(first + run), kind.seconds);
            let latency = keep(replies, kind.seconds);
            for (place, point) in POINTS.into_iter().enumerate() {
                match latency.interval(point) {
                    Ok((low, high)) => {
                        let truth = Duration::from_secs_f64(truths[place]);
                        let high = high.expect("every message was answered");
                        reported[place].all += 1;
                        reported[place].held +=
                            u64::from(low.mul_f64(0.999) <= truth && truth <= high.mul_f64(1.001));
                    }
                    Err(reason) => *reasons.entry(reason.name()).or_default() += 1,
                }
            }
        }
        print!("{:24}{:>3} s", kind.name, kind.seconds);
        for (point, Printed { all, held }) in POINTS.into_iter().zip(reported) {
            let share = held as f64 / all.max(1) as f64;
            print!("   p{point}: {:5.1} % of {all:3}", share * 100.0);
            if all >= PRINTED_FEW && share < HELD {
                wrong.push(format!("{} p{point}: does not hold", kind.name));
            }
            if kind.printed.contains(&point) && all < RUNS {
                wrong.push(format!("{} p{point}: withheld", kind.name));
            }
        }
        println!("   withheld: {reasons:?}");
        if kind.printed.is_empty() && reported.iter().any(|reported| reported.all > 0) {
            wrong.push(format!("{}: printed", kind.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The number of intervals that were printed, and of those that held.
#[derive(Clone, Copy, Default)]
struct Printed {
    all: u64,
    held: u64,
}

/// Returns the number of runs in which a falling trend is found, the number in which a growing one
/// is found, and the mean slope of the latter.
fn trends(
    draw: impl Fn(Run, f64) -> Vec<Reply>,
    seconds: f64,
    runs: u64,
    first: u64,
) -> ([u64; 2], f64) {
    let (mut found, mut slopes) = ([0; 2], 0.0);
    for run in 0..runs {
        let latency = keep(draw(Run::new((first << 32) + run), seconds), seconds);
        if let Some(trend) = latency.trend() {
            found[usize::from(trend.slope > 0.0)] += 1;
            slopes += trend.slope.max(0.0);
        }
    }
    (found, slopes / found[1].max(1) as f64)
}

/// Simulates a queue whose arrival rate is `share` times its capacity, at random or at even times.
fn asked_too_much(run: Run, seconds: f64, rate: f64, share: f64, random: bool) -> Vec<Reply> {
    let none = std::iter::empty();
    match random {
        true => busy(run, seconds, rate, share),
        false => answer(seconds, even(rate), || share / rate, none),
    }
}

/// Returns the number of runs in which the backlog is found to have grown.
fn growing_backlogs(
    draw: impl Fn(Run, f64) -> Vec<Reply>,
    seconds: f64,
    runs: u64,
    first: u64,
) -> u64 {
    let grows = |run: &u64| {
        let replies = draw(Run::new((first << 32) + run), seconds);
        let count = |is_before: &dyn Fn(&Reply) -> bool| {
            replies.iter().filter(|reply| is_before(reply)).count() as u64
        };
        let due = |time: f64| count(&|(at, response)| at - response < time);
        let behind = |time: f64| due(time) - count(&|(at, _)| *at < time);
        let last = (0..20).map(|place| behind(seconds * (0.75 + 0.0125 * f64::from(place))));
        let backlog = Backlog {
            first: behind(seconds * 0.25),
            last: last.min().unwrap(),
            due: due(seconds * 0.75) - due(seconds * 0.25),
        };
        let mut all = Latency::default();
        let responses = replies.iter().map(|reply| Duration::from_secs_f64(reply.1));
        responses.for_each(|response| all.record(response));
        let slow = all.distribution().unwrap().nearest(99.0).value;
        backlog
            .growth(slow, Duration::from_secs_f64(seconds))
            .is_some()
    };
    (0..runs).filter(grows).count() as u64
}

/// A function that draws the replies of a run of this many seconds.
type Draw = fn(Run, f64) -> Vec<Reply>;

/// Returns servers that keep up: name, seconds, and the maximum number of runs that may be judged
/// to grow.
fn quiet() -> Vec<(&'static str, f64, u64, Draw)> {
    vec![
        ("independent", 8.0, FALSE_ALARMS, |run, s| {
            independent(run, s, 0.0)
        }),
        ("M/M/1 at 0.95", 8.0, 20, |run, s| {
            busy(run, s, 1000.0, 0.95)
        }),
        ("M/M/1 at 0.7", 8.0, FALSE_ALARMS, |run, s| {
            busy(run, s, 1000.0, 0.7)
        }),
        ("M/M/1 at 0.7", 20.0, FALSE_ALARMS, |run, s| {
            busy(run, s, 1000.0, 0.7)
        }),
        ("M/M/1 at 0.9", 4.0, FALSE_ALARMS, |run, s| {
            busy(run, s, 1000.0, 0.9)
        }),
        ("M/M/1 at 0.9", 8.0, FALSE_ALARMS, |run, s| {
            busy(run, s, 1000.0, 0.9)
        }),
        ("M/M/1 at 0.9", 20.0, FALSE_ALARMS, |run, s| {
            busy(run, s, 1000.0, 0.9)
        }),
        ("periodic pauses", 8.0, FALSE_ALARMS, periodic_pauses),
        ("random pauses", 8.0, FALSE_ALARMS, |run, s| {
            random_pauses(run, s, 2.0, 0.02)
        }),
        ("slow, uniform to 1 s", 8.0, FALSE_ALARMS, |mut run, s| {
            even(200.0)
                .take_while(|at| *at < s)
                .map(|at| {
                    let r = run.service.unit();
                    (at + r, r)
                })
                .collect()
        }),
    ]
}

/// Returns servers that do not keep up: name, seconds, the minimum number of twenty runs in which
/// the trend or the backlog must be found, and the true slope where the queue is deterministic. A
/// random queue hardly above its capacity has no trend that can be distinguished from fluctuation:
/// its backlog shows the growth.
fn growing() -> Vec<(&'static str, f64, u64, Option<f64>, Draw)> {
    vec![
        (
            "D/D/1 at 1.01",
            8.0,
            20,
            Some(1.0 - 1.0 / 1.01),
            |run, s| asked_too_much(run, s, 1000.0, 1.01, false),
        ),
        ("D/D/1 at 2", 8.0, 20, Some(0.5), |run, s| {
            asked_too_much(run, s, 1000.0, 2.0, false)
        }),
        ("M/M/1 at 1.01, 10,000/s", 8.0, 10, None, |run, s| {
            asked_too_much(run, s, 10_000.0, 1.01, true)
        }),
        ("M/M/1 at 1.01, 100,000/s", 8.0, 19, None, |run, s| {
            asked_too_much(run, s, 100_000.0, 1.01, true)
        }),
        ("M/M/1 at 1.05", 8.0, 15, None, |run, s| {
            asked_too_much(run, s, 1000.0, 1.05, true)
        }),
        ("M/M/1 at 1.05", 20.0, 18, None, |run, s| {
            asked_too_much(run, s, 1000.0, 1.05, true)
        }),
        ("M/M/1 at 1.1", 4.0, 17, None, |run, s| {
            asked_too_much(run, s, 1000.0, 1.1, true)
        }),
        ("ramp by a half", 8.0, 20, None, |run, s| {
            independent(run, s, 0.5)
        }),
    ]
}

#[test]
#[ignore = "half a minute of simulation"]
fn a_queue_that_grows_is_found_and_no_other() {
    println!("seed {SEED}, trends found: falling, growing; and backlogs that grow");
    for (number, (name, seconds, most, draw)) in quiet().into_iter().enumerate() {
        let (found, _) = trends(draw, seconds, QUIET_RUNS, 100 + number as u64);
        let backlogs = growing_backlogs(draw, seconds, QUIET_RUNS, 100 + number as u64);
        println!("{name:24} {seconds:>3} s: {found:?}, {backlogs} of {QUIET_RUNS}");
        assert!(found[1] + backlogs <= most, "{name}");
    }
    for (number, (name, seconds, least, slope, draw)) in growing().into_iter().enumerate() {
        let (found, mean) = trends(draw, seconds, 20, 200 + number as u64);
        let backlogs = growing_backlogs(draw, seconds, 20, 200 + number as u64);
        println!("{name:24} {seconds:>3} s: {found:?} by {mean:.4} s a second, {backlogs} of 20");
        assert!(found[1].max(backlogs) >= least, "{name}");
        let is_right = slope.is_none_or(|slope| (mean / slope - 1.0).abs() < 0.02);
        assert!(is_right, "{name}: {mean}, not {slope:?}");
    }
}
