//! Tests the response times: what a freeze, slow connections, the order of the calls and timeouts
//! do to them.

use std::time::Duration;

use upcase::load::judge::verdict::{Judged, Verdict};
use upcase::load::plan::{GROUP_CONNECTIONS, Pace, Pacing, Plan, Stop};

use crate::faults::{Faults, quick};
use crate::plans::steady;
use crate::run::carry_out;

/// Returns a percentile of the response time in seconds, and whether it is a lower bound.
fn response(judged: &Judged, percentile: f64) -> (f64, bool) {
    let distribution = judged.summary.results.response.distribution().unwrap();
    let bound = distribution.percentile(percentile).unwrap();
    (bound.value.as_secs_f64(), bound.at_least)
}

#[test]
fn a_freeze_of_a_second_in_ten_is_a_p99_of_nine_tenths() {
    let second = Duration::from_secs(1);
    let judged = carry_out(
        steady(10, Pacing::Global),
        Faults {
            freeze: Some((4 * second, second)),
            ..quick()
        },
    );
    let (p99, at_least) = response(&judged, 99.0);
    assert!((p99 - 0.9).abs() < 0.005 && !at_least, "{p99}");
    // The service time covers the hundred messages that were sent into the freeze, and not the rest
    // that waited for a connection: it is the number that hides the freeze.
    let service = judged.summary.results.service.distribution().unwrap();
    let hidden = service.percentile(90.0).unwrap().value;
    assert!(hidden < Duration::from_millis(1), "{hidden:?}");
    assert_eq!(judged.findings.verdict, Verdict::ServerBound);
}

#[test]
fn a_server_that_dies_for_the_last_third_is_a_p99_of_at_least_that() {
    let second = Duration::from_secs(1);
    let judged = carry_out(
        steady(15, Pacing::Global),
        Faults {
            freeze: Some((10 * second, 1000 * second)),
            ..quick()
        },
    );
    let (p99, at_least) = response(&judged, 99.0);
    assert!(p99 >= 4.85 && at_least, "{p99}");
    // The last message that is answered is sent a tenth of a millisecond before the freeze.
    let counts = judged.summary.results.counts;
    assert_eq!(counts.scheduled, 15_000);
    assert!((4990..=5010).contains(&counts.unanswered), "{counts:?}");
    assert_eq!(judged.findings.verdict, Verdict::Failed);
    assert!(!judged.is_good());
}

#[test]
fn ninety_slow_connections_of_a_hundred_are_seen_when_each_has_its_line() {
    let slow = (90, Duration::from_millis(50));
    let judged = carry_out(
        steady(10, Pacing::PerConnection),
        Faults { slow, ..quick() },
    );
    let (p50, _) = response(&judged, 50.0);
    assert!((p50 / 0.0502 - 1.0).abs() < 0.01, "{p50}");
}

#[test]
fn a_reply_waits_for_other_reads_and_not_for_other_sends_before_it_is_read() {
    // Two messages on each connection; the first replies of all arrive at once.
    let connections = GROUP_CONNECTIONS as u32;
    let stop = Stop::Messages(u64::from(2 * connections));
    let plan = Plan {
        connections,
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    };
    let (read, send) = (Duration::from_micros(1), Duration::from_micros(20));
    let faults = Faults {
        freeze: Some((Duration::ZERO, Duration::from_millis(10))),
        calls: (read, send),
        ..quick()
    };
    let results = carry_out(plan, faults).summary.results;
    // The first messages are due one send after the other, and their replies arrive all at once. If
    // the replies are read one directly after the other, the first message has waited longest, less
    // the time of the reads; with sends between the reads, all would have waited equally long.
    let response = results.response.distribution().unwrap();
    let spread = response.longest().value - response.nearest(51.0).value;
    let others = connections - 1;
    let expected = (send - read) * others;
    let error = spread.abs_diff(expected);
    assert!(error < read / 2 * others, "{spread:?} for {expected:?}");
    // The last of the second messages waits for all others, which is the run's own lateness.
    let own = results.own.distribution().unwrap().longest().value;
    assert!(own >= send * others, "{own:?}");
}

#[test]
fn a_message_is_given_up_at_its_timeout_or_a_tenth_later() {
    let milliseconds = Duration::from_millis;
    for (timeout, most) in [
        (3, 4.0),
        (20, 22.0),
        (100, 110.0),
        (700, 770.0),
        (3000, 3100.0),
    ] {
        let think = milliseconds(10);
        for pace in [steady(6, Pacing::Global).pace, Pace::Closed { think }] {
            let plan = Plan {
                pace,
                timeout: Some(milliseconds(timeout)),
                drain: milliseconds(2 * timeout),
                ..steady(6, Pacing::Global)
            };
            let faults = Faults {
                freeze: Some((milliseconds(1000), milliseconds(100_000))),
                ..quick()
            };
            let judged = carry_out(plan, faults);
            let results = &judged.summary.results;
            let distribution = results.response.distribution().unwrap();
            // Above the answered messages the distribution holds only those that timed out.
            let answered = results.counts.verified as f64 / distribution.count() as f64 * 100.0;
            let first = distribution.nearest(answered + 1e-6);
            let [first, last] = [first, distribution.longest()].map(|bound| {
                assert!(bound.at_least, "{timeout} ms, {pace:?}");
                bound.value.as_secs_f64() * 1e3
            });
            println!(
                "{timeout} ms: {first:.2} to {last:.2} ms, {:?}",
                results.counts
            );
            assert!(results.counts.timed_out >= 100, "{:?}", results.counts);
            // The histogram has a resolution of a thousandth; a wake-up takes a moment.
            assert!(
                first > timeout as f64 * 0.999,
                "{timeout} ms: {first}, {pace:?}"
            );
            assert!(last < most + 0.1, "{timeout} ms: {last}, {pace:?}");
        }
    }
}
