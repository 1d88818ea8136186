//! Tests runs with random plans and random faults: every message is accounted for, and the same
//! seed gives the same report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use upcase::load::judge::verdict::Judged;
use upcase::load::plan::Stop;
use upcase::load::results::ErrorKind;
use upcase::load::results::recorder::{Interval, Recorder};
use upcase::report::json;

use crate::chance::Chance;
use crate::faults::faults;
use crate::plans::{in_stages, plan};
use crate::run::Simulation;
use crate::stages;

/// The last seed whose plan has no rate profile. With a higher one, each schedule that has a time
/// gets one.
const SEEDS_PLAIN: u64 = 1500;

/// Prints how to repeat a run if it panics, wherever it does.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: UPCASE_SEED={} cargo test --test simulation", self.0);
        }
    }
}

/// Carries out a run with a random plan and random faults; returns its report.
fn run(seed: u64, begun: Instant) -> (String, Judged) {
    let _replay = Replay(seed);
    let mut chance = Chance::new(seed);
    let (mut plan, faults) = (plan(&mut chance), faults(&mut chance));
    if seed > SEEDS_PLAIN {
        plan = in_stages(plan);
    }
    plan.record = seed.is_multiple_of(3);
    let mut stops = Vec::new();
    if chance.one_in(5) {
        stops.push(chance.microseconds(0, 200_000));
        if chance.one_in(2) {
            stops.push(stops[0] + chance.microseconds(0, 20_000));
        }
    }
    let (done, rest) = Simulation::new(seed, begun, plan, faults, &stops).run();
    for results in [&done.recorder.run, &done.recorder.warmup] {
        let counts = results.counts;
        assert_eq!(
            counts.scheduled,
            counts.settled(),
            "seed {seed}: {counts:?}"
        );
        assert_eq!(results.response.count(), counts.settled(), "seed {seed}");
        assert_eq!(results.lateness.count(), counts.settled(), "seed {seed}");
    }
    let counts = done.recorder.counts();
    if let Stop::Messages(total) = rest.plan.stop {
        assert!(counts.scheduled <= total, "seed {seed}: {counts:?}");
    }
    rest.check_faults(seed, &done);
    rest.check_calls(seed, &done);
    rest.check_targets(seed, &done);
    rest.check_ways(seed, &done);
    stages::check_sums(seed, &rest.plan, &done);
    rest.check_verified(seed, counts);
    for interval in &rest.intervals {
        let identity = interval.identity;
        let settled = identity.counts.settled();
        assert_eq!(identity.due, settled + identity.outstanding, "seed {seed}");
    }
    let has_times = rest
        .intervals
        .iter()
        .all(|interval| interval.times.is_some());
    assert!(has_times || !rest.plan.record, "seed {seed}");
    check_times_so_far(seed, &rest.intervals, &done.recorder);
    let judged = rest.judged(done);
    let report = json::render(&judged, &[], 0);
    if seed.is_multiple_of(10) {
        let again = json::render(&read_again(&judged), &[], 0);
        assert_eq!(again, report, "seed {seed}");
    }
    (report, judged)
}

/// Checks that the times which the intervals report are in the end those of the result.
fn check_times_so_far(seed: u64, intervals: &[Interval], recorder: &Recorder) {
    let Some(times) = intervals.last().and_then(|last| last.times.as_ref()) else {
        return;
    };
    for (times, results) in [
        (&times.run, &recorder.run),
        (&times.warmup, &recorder.warmup),
    ] {
        for (found, expected) in [
            (&times.response, &results.response),
            (&times.service, &results.service),
            (&times.lateness, &results.lateness),
            (&times.blocked, &results.blocked),
            (&times.own, &results.own),
        ] {
            assert_eq!(found.known(), expected.known(), "seed {seed}");
            assert_eq!(found.censored(), expected.censored(), "seed {seed}");
        }
    }
}

/// Returns the result as it is after it was written to a file and read again.
fn read_again(judged: &Judged) -> Judged {
    let text = serde_json::to_string(&judged.summary).unwrap();
    Judged::new(serde_json::from_str(&text).unwrap(), &[], Vec::new())
}

#[test]
fn nothing_vanishes_in_fifteen_hundred_runs_with_faults() {
    let begun = Instant::now();
    let seeds = match std::env::var("UPCASE_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=SEEDS_PLAIN,
    };
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let all = seeds.clone().count();
    for seed in seeds {
        let (_, judged) = run(seed, begun);
        let (results, warmup) = (&judged.summary.results, &judged.summary.warmup);
        let mut see = |name: &str, count| *seen.entry(name.to_string()).or_default() += count;
        see(judged.findings.verdict.name(), 1);
        for counts in [results.counts, warmup.counts] {
            see("verified messages", counts.verified);
            see("mismatched messages", counts.mismatched);
            see("errored messages", counts.errored);
            see("timed out messages", counts.timed_out);
            see("unanswered messages", counts.unanswered);
        }
        for (kind, count) in &results.errors {
            see(&kind.to_string(), *count);
            if let ErrorKind::Call(..) = kind {
                see("failed calls", *count);
            }
        }
    }
    println!("{seen:#?}");
    for name in [
        "verified messages",
        "mismatched messages",
        "errored messages",
        "timed out messages",
        "unanswered messages",
        "surplus bytes",
        "failed calls",
    ] {
        let count = seen.get(name).copied().unwrap_or(0);
        let is_seen = all < 1000 || count > 100;
        assert!(is_seen, "the runs are to show everything: {count} {name}");
    }
}

#[test]
fn nothing_vanishes_in_two_hundred_runs_of_which_many_have_a_profile() {
    let begun = Instant::now();
    let seeds = SEEDS_PLAIN + 1..=SEEDS_PLAIN + 200;
    let has_stages = |seed| run(seed, begun).1.summary.plan.profile.is_some();
    let profiles = seeds.filter(|seed| has_stages(*seed)).count();
    assert!(profiles > 40, "the runs are to show everything: {profiles}");
}

#[test]
fn the_same_seed_is_the_same_report() {
    for seed in (1..=100).chain(SEEDS_PLAIN + 1..=SEEDS_PLAIN + 20) {
        let (one, _) = run(seed, Instant::now());
        let (two, _) = run(seed, Instant::now() + Duration::from_secs(7));
        assert_eq!(one, two, "seed {seed}");
    }
}
