//! Tests keep-alive on the real kernel: idle clients stay connected, however many connected at
//! once, and clients that have vanished (nftables drops what they send) are reset within the
//! documented time.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::crowd::{Client, Crowd, End, Habit};
use common::totals::Totals;
use common::{Serve, lab};
use std::io::ErrorKind;

/// A test case: the options of `serve`, the numbers of clients, and the times that follow.
struct Case {
    arguments: &'static str,
    clients: usize,
    vanishing: usize,
    /// Time for which all clients are idle before some vanish.
    idle: Duration,
    /// Documented time until a vanished client is reset: `--keepalive` and four pauses between
    /// probes.
    end: Duration,
    /// Minimum time until a vanished client is reset.
    least: Duration,
}

/// Tolerance beyond the documented time: the machine may be busy, and the kernel's clock and the
/// test are coarse.
const LATE: Duration = Duration::from_millis(700);

/// Checks the time from when some clients vanish until they are reset, and that the others stay.
fn vanish(case: &Case) {
    let serve = Serve::start(case.arguments);
    let mut crowd = Crowd::new(Habit {
        bytes: 1,
        closes: false,
        reads: true,
        buffers: None,
    });
    crowd.join_all(case.clients, serve.address());
    let all_served = |clients: &[Client]| clients.iter().all(|client| client.received == 1);
    crowd.until("each has had its reply", all_served);
    let end = Instant::now() + case.idle;
    crowd.until("some rounds of probes", |_| end <= Instant::now());
    assert_eq!(crowd.open(), case.clients, "{}", crowd.summary());

    let ports: Vec<String> = (0..case.vanishing)
        .map(|number| crowd.local_port(number).to_string())
        .collect();
    drop_what_comes_from(&ports.join(", "), serve.address().port());
    let begun = Instant::now();
    crowd.until("the vanished clients are reset", |clients| {
        let vanished = &clients[..case.vanishing];
        vanished.iter().all(|client| client.end.is_some())
    });
    let ended = |client: &Client| {
        let (at, end) = client.end.expect("it has ended");
        assert_eq!(end, End::Broken(ErrorKind::ConnectionReset));
        at - begun
    };
    let took: Vec<Duration> = crowd.clients[..case.vanishing].iter().map(ended).collect();
    let (first, last) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    println!(
        "{}: {} of {} clients vanished, and were reset after {first:.2?} to {last:.2?}",
        case.arguments, case.vanishing, case.clients
    );
    assert!(*last <= case.end + LATE, "{last:?}");
    assert!(*first >= case.least, "{first:?}");
    assert_eq!(crowd.open(), case.clients - case.vanishing);
    crowd.change(Habit {
        bytes: 1,
        closes: true,
        reads: true,
        buffers: None,
    });
    crowd.until_all_have_ended();
    let totals: Totals = serve.stop().parse().unwrap();
    assert_eq!(totals.closed("timed out"), case.vanishing as u64);
    let finished = (case.clients - case.vanishing) as u64;
    assert_eq!(totals.closed("finished"), finished, "{totals:?}");
}

fn drop_what_comes_from(ports: &str, server: u16) {
    for rule in [
        "add table inet test",
        "add chain inet test input { type filter hook input priority 0 ; }",
        &format!("add rule inet test input tcp dport {server} tcp sport {{ {ports} }} drop"),
    ] {
        let status = Command::new("nft").arg(rule).status();
        assert!(status.expect("nft").success(), "{rule}");
    }
}

fn on_a_host_of_its_own(case: &Case) {
    if !common::installed("nft") {
        return common::skip("no nft (package nftables)");
    }
    lab::alone(|| vanish(case));
}

#[test]
fn vanished_clients_are_reset_after_four_probes() {
    // The last segment arrived at most a second before the rules were in force.
    on_a_host_of_its_own(&Case {
        arguments: "--keepalive 1s --stall-timeout 5s",
        clients: 200,
        vanishing: 20,
        idle: Duration::from_millis(1500),
        end: Duration::from_secs(1 + 4),
        least: Duration::from_millis(2_900),
    });
}

#[test]
#[ignore = "half a minute, and 19,000 descriptors each for server and clients"]
fn nineteen_thousand_idle_clients_stay_and_vanished_ones_are_found() {
    upcase::sys::descriptor_limit::raise_descriptor_limit().unwrap();
    // Three rounds of probes.
    on_a_host_of_its_own(&Case {
        arguments: "--keepalive 4s --stall-timeout 5s",
        clients: 19_000,
        vanishing: 1000,
        idle: Duration::from_secs(12),
        end: Duration::from_secs(4 + 4),
        least: Duration::from_secs(4),
    });
}
