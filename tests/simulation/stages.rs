//! Tests the stages of a rate profile: what happens in one of them is the matter of that one.

use std::time::{Duration, Instant};

use upcase::load::engine::ThreadResult;
use upcase::load::judge::assertion::Condition;
use upcase::load::judge::verdict::{Judged, Verdict};
use upcase::load::plan::profile::Profile;
use upcase::load::plan::schedule::Arrivals;
use upcase::load::plan::{Pacing, Plan};
use upcase::load::results::Counts;
use upcase::load::results::evidence::Network;

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::{Simulation, carry_out};

const SECOND: Duration = Duration::from_secs(1);

const THREE: &str = "1000:2s,1000..2000:2s,1000:2s";

fn in_stages(profile: &str) -> Plan {
    let mut plan = steady(1, Pacing::Global);
    let profile = profile.parse::<Profile>();
    plan.set_rate(profile.unwrap().into(), Arrivals::Constant, Pacing::Global);
    plan
}

fn verdicts(judged: &Judged) -> Vec<Option<Verdict>> {
    let stages = judged.stages.iter();
    let verdicts = stages.map(|stage| stage.findings.as_ref().map(|it| it.verdict));
    verdicts.collect()
}

/// Checks that the stages add up to the run, except for the warm-up.
pub fn check_sums(seed: u64, plan: &Plan, done: &ThreadResult) {
    let expected = plan.profile.as_ref().map_or(0, |it| it.stages().len());
    // A run that ended before its start has no stages.
    let has_begun = done.times.start.is_some();
    assert_eq!(
        done.stages.len(),
        if has_begun { expected } else { 0 },
        "seed {seed}"
    );
    if done.stages.is_empty() {
        return;
    }
    let (mut counts, mut network) = (Counts::default(), Network::default());
    let (mut turns, mut worked, mut sending) = (0, Duration::ZERO, Duration::ZERO);
    let mut watched = Duration::ZERO;
    for stage in &done.stages {
        counts.merge(&stage.results.counts);
        network.merge(&stage.evidence.network);
        turns += stage.evidence.turns.count();
        worked += stage.evidence.worked;
        sending += stage.times.sending;
        watched += stage.evidence.absences.watched;
        assert_eq!(
            stage.results.response.count(),
            stage.results.counts.settled(),
            "seed {seed}"
        );
    }
    let run = done.recorder.run.counts;
    // Connections that are opened before the start belong to no stage.
    (counts.opened, counts.failed) = (run.opened, run.failed);
    assert_eq!(counts, run, "seed {seed}");
    let evidence = &done.evidence;
    assert_eq!(turns, evidence.turns.count(), "seed {seed}");
    assert_eq!(worked, evidence.worked, "seed {seed}");
    assert_eq!(watched, evidence.absences.watched, "seed {seed}");
    assert_eq!(sending, done.times.sending, "seed {seed}");
    let sums = |network: &Network| {
        let unread: u64 = network.unread.values().sum();
        (
            [network.segments, network.resent, network.out_of_order],
            [network.under_way, network.examined, network.unacknowledged],
            [network.busy, network.window_limited],
            [network.growth.count(), unread],
        )
    };
    // The SYNs were sent before the first stage.
    assert_eq!(sums(&network), sums(&evidence.network), "seed {seed}");
}

#[test]
fn a_server_that_freezes_in_a_stage_fails_that_stage_alone() {
    let freeze = |from: f64, length: f64| Faults {
        freeze: Some((SECOND.mul_f64(from), SECOND.mul_f64(length))),
        ..quick()
    };
    let (valid, server) = (Some(Verdict::Valid), Some(Verdict::ServerBound));
    let judged = carry_out(in_stages(THREE), freeze(2.5, 0.5));
    assert_eq!(verdicts(&judged), [valid, server, valid], "{judged:?}");
    let stage = &judged.stages[1].summary;
    assert!((490..=500).contains(&stage.stall().unwrap().as_millis()));
    assert_eq!(stage.results.counts.scheduled, 3000);
    // A part of a freeze that reaches over the end of a stage is the matter of the next one.
    let judged = carry_out(in_stages(THREE), freeze(3.6, 0.8));
    assert_eq!(verdicts(&judged), [valid, server, server], "{judged:?}");
    let stall = judged.stages[1].summary.stall().unwrap().as_millis();
    assert!((390..=410).contains(&stall), "{stall}");
    assert!((790..=800).contains(&judged.summary.stall().unwrap().as_millis()));
}

#[test]
fn a_client_that_is_stopped_in_a_stage_limits_that_stage_alone() {
    let faults = Faults {
        away: Some((SECOND * 5 / 2, SECOND / 2)),
        ..quick()
    };
    let judged = carry_out(in_stages(THREE), faults);
    let (valid, client) = (Some(Verdict::Valid), Some(Verdict::ClientBound));
    assert_eq!(verdicts(&judged), [valid, client, valid], "{judged:?}");
}

#[test]
fn a_path_that_is_longer_in_a_stage_limits_that_stage_alone() {
    let faults = Faults {
        way: Some((SECOND * 2, SECOND * 2, SECOND / 5)),
        ..quick()
    };
    let mut plan = in_stages("200:2s,200:2s,0:1s,200:2s");
    plan.connections = 400;
    let judged = carry_out(plan, faults);
    let (valid, network) = (Some(Verdict::Valid), Some(Verdict::NetworkBound));
    assert_eq!(
        verdicts(&judged),
        [valid, network, None, valid],
        "{judged:?}"
    );
}

#[test]
fn assertions_about_a_stage_are_about_its_messages() {
    let faults = Faults {
        freeze: Some((SECOND * 5 / 2, SECOND / 2)),
        ..quick()
    };
    let conditions = [
        ("p99<20ms", false),
        ("stage[1].p99<20ms", true),
        ("stage[2].p99<20ms", false),
        ("stage[2].max>=490ms", true),
        ("stage[2].verified=3000", true),
        ("stage[3].p99<20ms", true),
        ("stage[3].rate>=1", true),
    ];
    let parsed = conditions.map(|(text, _)| text.parse::<Condition>().unwrap());
    let plan = in_stages(THREE);
    let (done, rest) = Simulation::new(1, Instant::now(), plan.clone(), faults, &[]).run();
    let summary = rest.judged(done).summary;
    let judged = Judged::new(summary, &parsed, Vec::new());
    for ((text, holds), found) in conditions.into_iter().zip(&judged.assertions) {
        assert_eq!(found.holds(), holds, "{text}: {found}");
    }
    for (text, named) in [
        ("stage[4].p99<20ms", "there is no stage 4"),
        ("stage[1].p99<20ms", "has no profile"),
    ] {
        let profile = plan.profile.as_ref().filter(|_| text.contains('4'));
        let condition = text.parse::<Condition>().unwrap();
        let error = condition.check_stage(profile).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn the_warm_up_is_part_of_no_stage() {
    let mut plan = in_stages("1000:1s,1000..3000:2s");
    plan.warmup = SECOND * 3 / 2;
    let judged = carry_out(plan, quick());
    let scheduled = |index: usize| judged.stages[index].summary.results.counts.scheduled;
    // From 1.5 s on the rate is 1500/s, and after another 1.5 s it is 3000/s.
    assert_eq!((scheduled(0), scheduled(1)), (0, 3375));
    assert_eq!(judged.summary.results.counts.scheduled, 3375);
    assert_eq!(judged.summary.asked_rate(), Some(2250.0));
    let stage = &judged.stages[1].summary;
    assert_eq!(stage.times.sending, SECOND * 3 / 2);
    assert_eq!(stage.asked_rate(), Some(2250.0));
    let none = Some(Verdict::Inconclusive);
    assert_eq!(verdicts(&judged), [none, Some(Verdict::Valid)]);
}

#[test]
fn intervals_end_at_the_ends_of_stages_and_count_what_is_due_by_then() {
    let mut plan = in_stages("100..5000:2s,0:500ms,3000:1s");
    plan.interval = Duration::from_millis(400);
    let profile = plan.profile.clone().unwrap();
    let (_, rest) = Simulation::new(1, Instant::now(), plan, quick(), &[]).run();
    let mut ends = vec![0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.5, 2.8, 3.2, 3.5].into_iter();
    for interval in rest.intervals.iter().filter(|it| it.stage.is_some()) {
        let end = ends.next().unwrap();
        let to = interval.to.as_secs_f64();
        assert!((to - end).abs() < 0.001, "{to} {end}");
        assert_eq!(interval.stage, Some(profile.stage_at(interval.from)));
        let due = profile.count_before(interval.to.as_nanos() as u64 + 1);
        assert_eq!(interval.identity.due, due);
    }
    assert_eq!(ends.next(), None);
}

#[test]
fn the_stages_of_parts_add_up() {
    let summary = carry_out(in_stages(THREE), quick()).summary;
    let mut beside = summary.clone();
    beside.merge_part(&summary);
    for (sum, one) in beside.stages.iter().zip(&summary.stages) {
        let scheduled = one.results.counts.scheduled;
        assert_eq!(sum.results.counts.scheduled, 2 * scheduled);
        assert_eq!(sum.times.sending, one.times.sending);
    }
    let mut after = summary.clone();
    after.append(&summary);
    assert_eq!((beside.stages.len(), after.stages.len()), (3, 6));
}
