//! Tests the end of a run: how long it waits for replies and for the server's FINs.

use std::rc::Rc;
use std::time::{Duration, Instant};

use upcase::load::engine::Stage;
use upcase::load::judge::verdict::{RunOutcome, Verdict};
use upcase::load::plan::{Pace, Pacing, Plan, Stop};
use upcase::load::results::ErrorKind;

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::{Simulation, carry_out};

#[test]
fn closing_goes_on_while_closes_come() {
    // A hundred closes, 200 ms apart: twenty seconds.
    let gap = Duration::from_millis(200);
    let faults = Faults {
        closes: (gap, usize::MAX),
        ..quick()
    };
    let judged = carry_out(steady(1, Pacing::Global), faults);
    assert_eq!(judged.findings.verdict, Verdict::Valid, "{judged:?}");
    assert!(judged.summary.results.errors.is_empty());
}

#[test]
fn closing_is_given_up_when_no_close_has_come_for_five_seconds_or_the_drain() {
    for (drain, seconds) in [(1, 5), (20, 20)] {
        let gap = Duration::from_millis(200);
        let faults = Faults {
            closes: (gap, 40),
            ..quick()
        };
        let plan = Plan {
            drain: Duration::from_secs(drain),
            ..steady(1, Pacing::Global)
        };
        let simulation = Simulation::new(1, Instant::now(), plan, faults, &[]);
        let (begun, now) = (Instant::now(), Rc::clone(&simulation.world.now));
        let (done, rest) = simulation.run();
        let not_closed = done.recorder.run.errors.get(&ErrorKind::NotClosed).copied();
        assert_eq!(not_closed, Some(60));
        // A second of sending, forty closes, and then nothing.
        let took = now.get() - begun;
        let least = Duration::from_secs(1) + gap * 39 + Duration::from_secs(seconds);
        assert!(
            took >= least && took < least + Duration::from_secs(1),
            "{took:?}"
        );
        assert_eq!(rest.judged(done).standing(), RunOutcome::Wrong);
    }
}

#[test]
fn replies_that_came_while_the_run_was_held_up_are_read_before_it_gives_up() {
    for seed in 1..=20 {
        let stop = Stop::After(Duration::from_secs(1));
        let plan = Plan {
            connections: 30,
            pace: Pace::Closed {
                think: Duration::from_secs(10),
            },
            ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
        };
        // All messages are answered half a second after the end of sending, within the drain of a
        // second.
        let faults = Faults {
            freeze: Some((Duration::ZERO, Duration::from_millis(1500))),
            ..quick()
        };
        let mut simulation = Simulation::new(seed, Instant::now(), plan, faults, &[]);
        while simulation.engine.stage() < Stage::Draining {
            simulation.step();
        }
        simulation.world.spend(Duration::from_secs(5));
        let (done, _) = simulation.run();
        let counts = done.recorder.run.counts;
        assert_eq!((counts.verified, counts.unanswered), (30, 0), "seed {seed}");
    }
}

#[test]
fn a_run_that_was_held_up_itself_while_closing_blames_nobody() {
    // Every read takes a fifth of a second: the closes wait for the run, for twenty seconds.
    let faults = Faults {
        calls: (Duration::from_millis(200), Duration::ZERO),
        ..quick()
    };
    let stop = Stop::Messages(100);
    let plan = Plan {
        connections: 100,
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    };
    let judged = carry_out(plan, faults);
    assert!(judged.summary.results.errors.is_empty(), "{judged:?}");
}
