//! Tests runs with random plans and random faults: every message is accounted for, and the same
//! seed gives the same report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use upcase::load::judge::verdict::Judged;
use upcase::load::plan::Stop;
use upcase::load::results::ErrorKind;

use crate::chance::Chance;
use crate::faults::faults;
use crate::plans::plan;
use crate::run::Simulation;

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
    let (plan, faults) = (plan(&mut chance), faults(&mut chance));
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
    rest.check_verified(seed, counts);
    for interval in &rest.intervals {
        let identity = interval.identity;
        let settled = identity.counts.settled();
        assert_eq!(identity.due, settled + identity.outstanding, "seed {seed}");
    }
    let judged = rest.judged(done);
    (upcase::report::json::render(&judged, 0), judged)
}

#[test]
fn nothing_vanishes_in_fifteen_hundred_runs_with_faults() {
    let begun = Instant::now();
    let seeds = match std::env::var("UPCASE_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=1500,
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
fn the_same_seed_is_the_same_report() {
    for seed in 1..=100 {
        let (one, _) = run(seed, Instant::now());
        let (two, _) = run(seed, Instant::now() + Duration::from_secs(7));
        assert_eq!(one, two, "seed {seed}");
    }
}
