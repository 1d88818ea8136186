//! Tests the verdict: whether the client, the server or the network limited a run.

use std::time::{Duration, Instant};

use upcase::load::judge::assertion::Condition;
use upcase::load::judge::verdict::{Judged, RunOutcome, Verdict, judge};
use upcase::load::latency::percentile::parse_list;
use upcase::load::plan::schedule::{Arrivals, Rate};
use upcase::load::plan::sizes::Sizes;
use upcase::load::plan::{Pace, Pacing, Plan};
use upcase::server::stats::Totals;
use upcase::sys::cpu_sample::CpuUsage;

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::{Simulation, carry_out};

/// Carries out a run whose every send takes so long that the messages behind it are late.
fn slow_client() -> Judged {
    let faults = Faults {
        calls: (Duration::ZERO, Duration::from_millis(2)),
        ..quick()
    };
    let plan = Plan {
        pace: Pace::Open {
            rate: Rate::parse("300").unwrap(),
            arrivals: Arrivals::Poisson,
            pacing: Pacing::Global,
        },
        ..steady(10, Pacing::Global)
    };
    carry_out(plan, faults)
}

#[test]
fn a_client_that_was_stopped_is_blamed_as_far_as_it_is_seen() {
    let second = Duration::from_secs(1);
    let stopped = |plan, length, delay| {
        let faults = Faults {
            away: Some((second, length)),
            delay,
            ..quick()
        };
        carry_out(plan, faults).findings
    };
    let closed = || Plan {
        pace: Pace::Closed {
            think: Duration::ZERO,
        },
        ..steady(4, Pacing::Global)
    };
    // For an eighth of the time, no reply was read: the rate is that much too low.
    let findings = stopped(closed(), second / 2, (20_000, 20_000));
    assert_eq!(findings.verdict, Verdict::ClientBound, "{findings:?}");
    // A hundred of 20,000 replies waited, or eighty of 10,000 messages.
    for plan in [closed(), steady(10, Pacing::Global)] {
        let findings = stopped(plan, Duration::from_millis(80), (20_000, 20_000));
        assert_eq!(findings.verdict, Verdict::Valid, "{findings:?}");
        let up_to = findings.valid_up_to.map(|it| it.to_string());
        assert_eq!(up_to.as_deref(), Some("p99"), "{findings:?}");
    }
    // Six hundred of 10,000 messages waited.
    let plan = steady(10, Pacing::Global);
    let findings = stopped(plan, second * 3 / 5, (100, 100));
    assert_eq!(findings.verdict, Verdict::ClientBound, "{findings:?}");
}

#[test]
fn a_client_is_blamed_whatever_is_printed() {
    let second = Duration::from_secs(1);
    let stopped = |printed, length, delay| {
        let faults = Faults {
            away: Some((second, length)),
            delay,
            ..quick()
        };
        let plan = Plan {
            percentiles: parse_list(printed).unwrap(),
            ..steady(10, Pacing::Global)
        };
        carry_out(plan, faults).findings
    };
    // Eighty of 10,000 messages waited: p99 is the server's. Where no percentile below p99.9 is
    // printed, that one is named.
    for (printed, valid) in [
        ("50,90,99.9", "p90"),
        ("90,99,99.5,99.99", "p99"),
        ("99.9,99.99", "p99"),
    ] {
        let findings = stopped(printed, Duration::from_millis(80), (20_000, 20_000));
        assert_eq!(findings.verdict, Verdict::Valid, "{findings:?}");
        let up_to = findings.valid_up_to.map(|it| it.to_string());
        assert_eq!(up_to.as_deref(), Some(valid), "{findings:?}");
    }
    // Six hundred of 10,000 messages waited: p99 is the client's.
    for printed in ["50", "99.9", "50,99"] {
        let findings = stopped(printed, second * 3 / 5, (100, 100));
        assert_eq!(findings.verdict, Verdict::ClientBound, "{findings:?}");
    }
}

#[test]
fn a_closed_loop_says_who_set_the_pace() {
    let closed = |think| Plan {
        pace: Pace::Closed { think },
        ..steady(2, Pacing::Global)
    };
    let milliseconds = Duration::from_millis;
    let pace = |plan, faults| {
        let findings = carry_out(plan, faults).findings;
        assert_eq!(findings.verdict, Verdict::Valid, "{findings:?}");
        findings.evidence.join("; ")
    };
    let said = pace(closed(milliseconds(50)), quick());
    assert!(said.contains("the think time, 50.0 ms"), "{said}");
    let slow = Faults {
        delay: (100_000, 200_000),
        ..quick()
    };
    let said = pace(closed(Duration::ZERO), slow.clone());
    assert!(said.contains("the server set the pace"), "{said}");
    // All replies stop at once: that is not the effect of slow replies.
    let frozen = Faults {
        freeze: Some((milliseconds(700), milliseconds(500))),
        ..quick()
    };
    let findings = carry_out(closed(milliseconds(1)), frozen).findings;
    assert_eq!(findings.verdict, Verdict::ServerBound, "{findings:?}");
    let said = findings.evidence.join("; ");
    assert!(said.contains("no reply arrived for"), "{said}");
}

/// Returns a run as a schedule and as a closed loop.
fn both_loops(seconds: u64) -> [Plan; 2] {
    let open = steady(seconds, Pacing::Global);
    let think = Duration::from_millis(5);
    let pace = Pace::Closed { think };
    [open.clone(), Plan { pace, ..open }]
}

#[test]
fn a_longer_path_makes_a_run_network_bound() {
    let second = Duration::from_secs(1);
    for plan in both_loops(8) {
        let longer = |longer| {
            let faults = Faults {
                way: Some((4 * second, 2 * second, longer)),
                ..quick()
            };
            let findings = carry_out(plan.clone(), faults).findings;
            (findings.verdict, findings.evidence.join("; "))
        };
        let (verdict, said) = longer(second / 5);
        assert_eq!(verdict, Verdict::NetworkBound, "{said}");
        let grown = "the round-trip time of TCP exceeded its minimum by 200 ms at p90";
        assert!(said.contains(grown), "{said}");
        // The peer may have delayed an acknowledgment for this long.
        let (verdict, said) = longer(second / 25);
        assert_eq!(verdict, Verdict::Valid, "{said}");
    }
}

#[test]
fn replies_that_were_lost_are_the_networks() {
    for plan in both_loops(20) {
        let lost = |loses| {
            let faults = Faults { loses, ..quick() };
            let findings = carry_out(plan.clone(), faults).findings;
            (findings.verdict, findings.evidence.join("; "))
        };
        let (verdict, said) = lost(200);
        assert_eq!(verdict, Verdict::NetworkBound, "{said}");
        assert!(
            said.contains("were not acknowledged within 100 ms"),
            "{said}"
        );
        let (verdict, said) = lost(2000);
        assert_eq!(verdict, Verdict::Valid, "{said}");
    }
}

#[test]
fn a_large_message_takes_its_time_over_a_long_way_and_nothing_is_held_up() {
    // A window leaves every 30 ms: the last of five after 120 ms, the last of seven after 180 ms.
    // So a sample after 100 to 200 ms may find that the message has left and is not acknowledged
    // yet.
    let milliseconds = Duration::from_millis;
    let window = 10_000;
    for (windows, loses, expected) in [
        (1, 0, Verdict::Valid),
        (5, 0, Verdict::Valid),
        (6, 0, Verdict::Valid),
        (7, 0, Verdict::Valid),
        // A lost message is delayed.
        (1, 100, Verdict::NetworkBound),
    ] {
        let faults = Faults {
            way: Some((Duration::ZERO, milliseconds(100_000), milliseconds(30))),
            window,
            loses,
            ..quick()
        };
        let plan = Plan {
            pace: Pace::Open {
                rate: Rate::parse("100").unwrap(),
                arrivals: Arrivals::Poisson,
                pacing: Pacing::Global,
            },
            sizes: Sizes::Fixed(windows * window as usize),
            ..steady(20, Pacing::Global)
        };
        let judged = carry_out(plan, faults);
        let said = judged.findings.evidence.join("; ");
        let network = &judged.summary.evidence.network;
        println!(
            "{windows}: {} of {} examined are not acknowledged: {said}",
            network.unacknowledged, network.examined
        );
        assert_eq!(judged.findings.verdict, expected, "{windows}: {said}");
        assert_eq!(network.unacknowledged > 0, loses > 0, "{windows}: {said}");
        let is_examined = network.examined > 100;
        assert_eq!(is_examined, windows > 1, "{windows}: {network:?}");
    }
}

#[test]
fn slow_replies_and_the_drain_are_no_stalls() {
    let plan = |rate: &str| Plan {
        pace: Pace::Open {
            rate: Rate::parse(rate).unwrap(),
            arrivals: Arrivals::Poisson,
            pacing: Pacing::Global,
        },
        ..steady(20, Pacing::Global)
    };
    for seed in 0..20 {
        // One connection of a hundred answers half a second late.
        for rate in ["5", "500"] {
            let faults = Faults {
                slow: (1, Duration::from_millis(500)),
                ..quick()
            };
            let simulation = Simulation::new(seed, Instant::now(), plan(rate), faults, &[]);
            let (done, rest) = simulation.run();
            let judged = rest.judged(done);
            assert_eq!(judged.summary.stall(), None, "seed {seed}, {rate}/s");
        }
    }
}

#[test]
fn a_run_that_its_client_limited_is_inconclusive_unless_that_is_allowed() {
    let judged = slow_client();
    assert_eq!(judged.findings.verdict, Verdict::ClientBound);
    assert_eq!(judged.standing(), RunOutcome::Inconclusive);
    let advice = judged.findings.advice.join("\n");
    for word in ["another machine", "--spin", "--allow client-bound"] {
        assert!(advice.contains(word), "{word} in {advice}");
    }
    let rate = judged.summary.rate_share();
    let demand: Condition = "p99<1us".parse().unwrap();
    let assertions = vec![demand.check(&judged.summary.results, rate)];
    let allowed = vec![Verdict::ClientBound];
    let wrong = Judged {
        assertions,
        ..judged.clone()
    };
    assert_eq!(wrong.standing(), RunOutcome::Wrong);
    let mut unlogged = judged.clone();
    unlogged.summary.unlogged = Some("no space".to_string());
    assert_eq!(unlogged.standing(), RunOutcome::Wrong);
    let good = Judged::new(judged.summary, &[], allowed);
    assert_eq!(good.standing(), RunOutcome::Good);
    assert!(!good.findings.advice.join("\n").contains("--allow"));
    assert!(good.is_good());
}

/// Judges a run again, as if its threads and its own server had got this CPU time.
fn with_own_server(judged: &Judged, machine: CpuUsage) -> Verdict {
    let mut summary = judged.summary.clone();
    summary.own_server = Some(Totals::default());
    summary.evidence.machine = machine;
    judge(&summary).verdict
}

#[test]
fn a_server_of_the_runs_own_excuses_waits_for_its_cpu_and_no_other() {
    let seconds = Duration::from_secs_f64;
    // Its server had the CPU for half of the time, and the generator waited as long.
    let shared = CpuUsage {
        cpu: seconds(1.0),
        wall: seconds(2.0),
        busy: 0.5,
        starved: 0.5,
        process: seconds(2.0),
        ..CpuUsage::default()
    };
    let late = slow_client();
    assert_ne!(with_own_server(&late, shared), Verdict::ClientBound);
    // The server had no CPU time, so other processes must have had it.
    let hogged = CpuUsage {
        process: shared.cpu,
        ..shared
    };
    assert_eq!(with_own_server(&late, hogged), Verdict::ClientBound);
    // No process had it: the generator was stopped, or slow by itself.
    let idle = CpuUsage {
        starved: 0.0,
        ..shared
    };
    assert_eq!(with_own_server(&late, idle), Verdict::ClientBound);
    // The CPU time that the generator itself needs is not excused by sharing.
    let prompt = carry_out(steady(2, Pacing::Global), quick());
    assert_eq!(with_own_server(&prompt, shared), Verdict::Valid);
    let saturated = CpuUsage {
        busy: 0.95,
        starved: 0.05,
        ..shared
    };
    assert_eq!(with_own_server(&prompt, saturated), Verdict::ClientBound);
}
