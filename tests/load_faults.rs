//! Tests `upcase load` while its own system calls fail: strace makes the nth call of a kind return
//! an error. A call that fails for one connection costs at most that connection and is reported
//! with its errno and its count, and the run continues. Only a call at the start may end the run,
//! with one line.
//!
//! `UPCASE_FAULT=epoll_ctl` runs only the calls whose name begins with this text.

mod common;

use std::fs;
use std::process::Command;

use common::{ANY_PACE, Ended, Serve, Temporary, run};

/// Options of a run of the sweep: 400 messages over twenty connections, each replaced after five.
const RUN: &str = "--connections 20 --churn 5 --messages 400 --kernel-timestamps=4";

/// What a failing call may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// An attempt to connect, or some evidence: every message is verified all the same.
    NoMessage,
    /// The messages in flight on one connection.
    Messages,
}

/// A system call, its error, the text that reports the error, what it may cost, and more options.
struct Fault {
    call: &'static str,
    error: &'static str,
    reported: &'static str,
    cost: Cost,
    more: &'static str,
}

const fn fault(call: &'static str, cost: Cost, more: &'static str) -> Fault {
    Fault {
        call,
        error: "ENOMEM",
        reported: "Cannot allocate memory",
        cost,
        more,
    }
}

#[rustfmt::skip]
const FAULTS: [Fault; 11] = [
    fault("epoll_ctl", Cost::NoMessage, ""),
    fault("setsockopt", Cost::NoMessage, ""),
    fault("setsockopt", Cost::NoMessage, "--close rst --mss 1000"),
    fault("getsockopt", Cost::NoMessage, ""),
    fault("getpeername", Cost::NoMessage, ""),
    fault("getsockname", Cost::NoMessage, ""),
    fault("socket", Cost::NoMessage, ""),
    fault("bind", Cost::NoMessage, "--source 127.0.0.1"),
    fault("shutdown", Cost::NoMessage, ""),
    fault("sendto", Cost::Messages, ""),
    fault("recvmsg", Cost::Messages, ""),
];

/// Runs `load` while calls of one kind fail; returns its output and the number of failed calls of
/// connections.
fn under(call: &str, error: &str, when: &str, arguments: &str) -> (Ended, u64) {
    let log = Temporary::new(b"");
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(&log.0);
    command.args(["-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:error={error}:when={when}")]);
    command.arg(env!("CARGO_BIN_EXE_upcase"));
    command.args(arguments.split_whitespace());
    let ended = Ended::from(command.output().unwrap());
    // strace counts the calls of each thread separately. The first thread makes none for a
    // connection.
    let log = fs::read_to_string(&log.0).unwrap();
    let thread = |line: &str| line.split_whitespace().next().map(str::parse::<u32>);
    let main = log.lines().filter_map(|line| thread(line)?.ok()).min();
    // An empty send tests whether the signal pipe is a socket, and a send of a single byte wakes
    // another thread: neither belongs to a connection.
    let faults = log.lines().filter(|line| line.ends_with("(INJECTED)"));
    let faults = faults.filter(|line| !line.contains("\"\", 0") && !line.contains("\", 1, "));
    let faults = faults.filter(|line| thread(line).and_then(Result::ok) != main);
    (ended, faults.count() as u64)
}

/// Returns the number of faults in a report: errors by errno, and evidence that could not be read.
fn reported(report: &serde_json::Value, text: &str) -> u64 {
    let errors = report["errors"].as_object().unwrap().iter();
    let reported = errors.filter(|(kind, _)| kind.contains(text));
    let errors: u64 = reported.map(|(_, count)| count.as_u64().unwrap()).sum();
    errors + report["evidence"]["tcp_info_unread"].as_u64().unwrap()
}

/// Runs a case; returns whether the fault hit a connection, and not the start of the process.
fn check(fault: &Fault, when: &str, serve: &Serve) -> bool {
    let Fault {
        call, error, more, ..
    } = fault;
    let arguments = format!(
        "load {} {RUN} {more} {ANY_PACE} --format json -q",
        serve.address()
    );
    let (ended, faults) = under(call, error, when, &arguments);
    let case = format!("{call}:error={error}:when={when} {more}");
    assert!(!ended.stderr.contains("panicked"), "{case}: {ended:?}");
    if ended.code == Some(3) {
        // A call at the start failed; the one line names it.
        assert!(ended.stderr.contains("os error"), "{case}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{case}: {ended:?}");
        return false;
    }
    assert!(matches!(ended.code, Some(0 | 1)), "{case}: {ended:?}");
    let report = ended.json();
    assert_eq!(
        reported(&report, fault.reported),
        faults,
        "{case}: {report:#}"
    );
    let (verified, errored) = (&report["verified"], &report["errored"]);
    let lost = errored.as_u64().unwrap();
    match fault.cost {
        Cost::NoMessage => assert_eq!(verified, 400, "{case}: {report:#}"),
        Cost::Messages => assert!(lost <= faults, "{case}: {report:#}"),
    }
    true
}

#[test]
#[ignore = "sweeps system calls under strace"]
fn a_call_that_fails_costs_one_connection_and_is_reported() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let wanted = std::env::var("UPCASE_FAULT").unwrap_or_default();
    let serve = Serve::start("");
    for fault in FAULTS
        .iter()
        .filter(|fault| fault.call.starts_with(&wanted))
    {
        let mut hit = 0;
        for when in [
            "1", "2", "3", "4", "5", "8", "12", "25", "40", "9..14", "60+9",
        ] {
            hit += usize::from(check(fault, when, &serve));
        }
        println!(
            "{} {}: {hit} of 11 hit a connection",
            fault.call, fault.more
        );
        assert!(
            hit >= 6,
            "{}: too few calls of connections failed",
            fault.call
        );
    }
}

/// The check before the run creates its sockets in another thread.
#[test]
fn a_source_that_goes_away_is_named_without_a_port() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    for (target, source) in [("127.0.0.1:9", "127.0.0.1"), ("[::1]:9", "::1")] {
        let arguments = format!("load {target} --source {source} --connections 1");
        let (ended, _) = under("bind", "EADDRNOTAVAIL", "1", &arguments);
        let reported =
            format!("upcase: --source {source} is not an address of this host: `ip address`");
        let line = ended.expect(3).stderr;
        assert!(line.starts_with(&reported), "{line}");
    }
}

/// The server of the run closes its listener when accept(2) reports an error that means that it is
/// no listener: connections that were not accepted yet are reset.
#[test]
fn what_was_measured_is_reported_also_when_the_server_of_the_run_fails() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let failure = "upcase: the built-in server failed: cannot accept on 127.0.0.1:";
    for (when, is_measured) in [("3", true), ("1", false)] {
        let arguments = "load --connections 5 --duration 300ms --format json";
        let (ended, faults) = under("accept4", "EBADF", when, arguments);
        assert_eq!(faults, 1, "{ended:?}");
        let ended = ended.expect(3);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with(failure), "{ended:?}");
        if is_measured {
            let report = ended.json();
            assert_eq!(report["exit_code"], 3, "{report:#}");
            assert!(report["verified"].as_u64().unwrap() > 0, "{report:#}");
            assert!(report["own_server"].is_object(), "{report:#}");
        } else if !ended.stdout.is_empty() {
            // All clients may be connected before the first one is accepted: then the run begins.
            assert_eq!(ended.json()["verified"], 0, "{ended:?}");
        }
    }
}

#[test]
#[ignore = "runs under strace"]
fn timers_that_cannot_be_set_make_a_run_coarse_and_end_none() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let serve = Serve::start("");
    for when in ["1", "3", "1+", "2+3"] {
        let run = "--connections 10 --rate 200 --duration 1s --format json -q";
        let arguments = format!("load {} {run}", serve.address());
        let (ended, faults) = under("timerfd_settime", "ENOMEM", when, &arguments);
        assert!(matches!(ended.code, Some(0 | 4)), "{when}: {ended:?}");
        assert!(faults > 0, "{when}: no call was made to fail");
        assert_eq!(ended.json()["verified"], 200, "{when}: {ended:?}");
    }
    // Without faults a run against the same server is on time.
    let arguments = format!(
        "load {} --connections 10 --messages 100 {ANY_PACE}",
        serve.address()
    );
    run(&arguments).expect(0);
}
