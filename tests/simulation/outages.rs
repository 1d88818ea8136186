//! Tests how a run reports a server that dies or stops, and that it survives system calls that
//! fail.

use std::time::{Duration, Instant};

use upcase::load::judge::verdict::RunOutcome;
use upcase::load::plan::{Pacing, Plan};

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::{Simulation, carry_out};

#[test]
fn a_server_that_dies_is_named_with_the_time_and_what_it_did() {
    let (died, second) = (Duration::from_millis(1500), Duration::from_secs(1));
    let of = |dies| {
        let faults = Faults {
            dies: Some(dies),
            ..quick()
        };
        carry_out(steady(10, Pacing::Global), faults)
    };
    let judged = of((died, None));
    let reported = judged.findings.evidence.join("\n");
    let expected = "the server at 10.77.0.1:12000 went away at 1.49 s: connection reset, \
                    connection refused since";
    let near = expected.replace("1.49", "1.50");
    assert!(
        reported.contains(expected) || reported.contains(&near),
        "{reported}"
    );
    let advice = judged.findings.advice.join("\n");
    assert!(
        advice.contains("find out why the server at 10.77.0.1:12000 went away"),
        "{advice}"
    );
    assert!(!advice.contains("--rate"), "{advice}");
    assert_eq!(judged.standing(), RunOutcome::Wrong);
    // A server that is back is reported as away in between.
    let judged = of((died, Some(3 * second)));
    let reported = judged.findings.evidence.join("\n");
    assert!(reported.contains("and came back at 4."), "{reported}");
}

#[test]
fn a_server_that_stops_is_named_with_the_time_of_its_last_reply() {
    let second = Duration::from_secs(1);
    let faults = Faults {
        freeze: Some((4 * second, 1000 * second)),
        ..quick()
    };
    let judged = carry_out(steady(10, Pacing::Global), faults);
    let reported = judged.findings.evidence.join("\n");
    assert!(
        reported.contains("the server at 10.77.0.1:12000 stopped answering at 3.99 s")
            || reported.contains("the server at 10.77.0.1:12000 stopped answering at 4.00 s"),
        "{reported}"
    );
    let advice = judged.findings.advice.join("\n");
    assert!(advice.contains("is stopped or stuck"), "{advice}");
    assert!(!advice.contains("--rate"), "{advice}");
}

#[test]
fn a_run_whose_only_connection_fails_at_first_for_want_of_memory_goes_on() {
    // One of three calls fails: some attempts are needed until one succeeds.
    let faults = Faults {
        fails: 3,
        ..quick()
    };
    let plan = Plan {
        connections: 1,
        ..steady(20, Pacing::Global)
    };
    let mut failed = 0;
    for seed in 1..=10 {
        let (plan, faults) = (plan.clone(), faults.clone());
        let (done, rest) = Simulation::new(seed, Instant::now(), plan, faults, &[]).run();
        rest.check_calls(seed, &done);
        let counts = done.recorder.run.counts;
        assert!(counts.verified > 0, "seed {seed}: {counts:?}");
        failed += counts.failed;
    }
    assert!(failed > 0);
}
