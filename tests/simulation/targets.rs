//! Tests runs with several targets: the share of the messages that each gets, and that a slow or
//! dead target does not delay the others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use upcase::load::judge::verdict::{Judged, Verdict};
use upcase::load::plan::{Pacing, Plan};
use upcase::load::results::targets::Target;

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::{Simulation, carry_out};

/// Returns a schedule of 1,000 messages a second for this many targets, with ten connections to
/// each.
fn several(targets: u16, pacing: Pacing) -> Plan {
    let address = |port: u16| SocketAddr::from(([10, 77, 0, 1], 12_000 + port));
    Plan {
        targets: (0..targets).map(address).collect(),
        connections: u32::from(targets) * 10,
        ..steady(10, pacing)
    }
}

fn shares(judged: &Judged) -> Vec<u64> {
    let targets = judged.summary.targets.iter();
    targets
        .map(|target| target.tally.counts.scheduled)
        .collect()
}

#[test]
fn targets_of_different_speed_have_equal_shares_unless_the_first_free_is_asked_for() {
    // Ten connections send fifty messages a second to a target that takes 200 ms for each.
    let faults = Faults {
        slow_target: Duration::from_millis(200),
        ..quick()
    };
    let median = |target: &Target| target.tally.response.distribution().unwrap().nearest(50.0);
    let judged = carry_out(several(2, Pacing::Global), faults.clone());
    assert_eq!(shares(&judged), [5000, 5000]);
    let [fast, slow] = &judged.summary.targets[..] else {
        panic!("two targets");
    };
    // The fast target is not delayed by the other one, which is visibly overloaded.
    assert_eq!(fast.tally.counts.verified, 5000);
    let longest = fast.tally.response.distribution().unwrap().longest().value;
    assert!(longest < Duration::from_millis(1), "{longest:?}");
    let slow_median = median(slow);
    assert!(
        slow_median.value > Duration::from_secs(1),
        "{slow_median:?}"
    );
    assert_ne!(judged.findings.verdict, Verdict::ClientBound, "{judged:?}");

    let judged = carry_out(several(2, Pacing::FirstFree), faults.clone());
    let [fast, slow] = shares(&judged)[..] else {
        panic!("two targets");
    };
    assert!(fast > 9000 && fast + slow == 10_000, "{fast} and {slow}");
    let judged = carry_out(several(2, Pacing::PerConnection), faults);
    assert_eq!(shares(&judged), [5000, 5000]);
}

#[test]
fn the_messages_of_a_target_that_is_away_wait_for_it_and_no_others_do() {
    let died = Duration::from_secs(4);
    let faults = Faults {
        dies: Some((died, None)),
        ..quick()
    };
    let judged = carry_out(several(3, Pacing::Global), faults);
    assert_eq!(shares(&judged), [3334, 3333, 3333]);
    let [one, two, dead] = &judged.summary.targets[..] else {
        panic!("three targets");
    };
    for well in [one, two] {
        assert_eq!(well.tally.counts.verified, well.tally.counts.scheduled);
        let longest = well.tally.response.distribution().unwrap().longest().value;
        assert!(longest < Duration::from_millis(1), "{longest:?}");
    }
    let counts = dead.tally.counts;
    let answered = died.as_secs() * 1000 / 3;
    assert!(counts.verified.abs_diff(answered) < 10, "{counts:?}");
    assert!(
        counts.unanswered.abs_diff(3333 - answered) < 10,
        "{counts:?}"
    );
    assert_eq!(judged.findings.verdict, Verdict::Failed);
}

#[test]
fn threads_that_share_connections_unevenly_give_equal_shares_all_the_same() {
    // Thread 0 has no connection to the last target: lines 0, 2, 4, 6 of seven.
    for (threads, connections, targets) in [(2, 7, 3), (3, 10, 4), (4, 5, 2), (2, 3, 3)] {
        let plan = Plan {
            connections,
            threads,
            ..several(targets, Pacing::Global)
        };
        let mut all = vec![Target::default(); targets.into()];
        for thread in 0..threads {
            let plan = plan.clone();
            let run = Simulation::of_thread(thread, 1, Instant::now(), plan, quick(), &[]);
            let (done, _) = run.run();
            all.iter_mut()
                .zip(&done.targets)
                .for_each(|(all, target)| all.merge(target));
        }
        let counts = all.iter().map(|target| target.tally.counts.scheduled);
        let (least, most) = (counts.clone().min().unwrap(), counts.clone().max().unwrap());
        assert!(
            most - least <= 1 && counts.sum::<u64>() == 10_000,
            "{least} to {most}"
        );
        assert!(all.iter().all(|target| target.tally.counts.unanswered == 0));
    }
}
