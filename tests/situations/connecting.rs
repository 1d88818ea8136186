//! Situations in which connecting is slow or fails, because of the server, the network or the
//! client.

use std::fs;

use super::faults::{backlog_overflows, healthy, over_a_link};
use super::{Bench, CLOSED, FAILED, NETWORK, OPEN, SERVER, STARVED, Situation, VALID, ms};
use crate::common::lab::alone;
use crate::common::program::{Lanes, Program, Work};
use crate::common::report::Report;

/// Commands that drop one of five SYNs that arrive at a host.
const DROP_SYNS: &[&str] = &[
    "nft add table inet test",
    "nft add chain inet test input { type filter hook input priority 0 ; }",
    "nft add rule inet test input tcp flags syn numgen random mod 5 < 1 drop",
];

pub const OPEN_LOOPS: &[Situation] = &[
    Situation {
        name: "accepting limited to 50/s at the start",
        right: &[VALID, SERVER],
        names_cause: |report| report.verdict() == SERVER || names_connecting(report),
        why: "connecting was slow because of the server",
        inject: |bench| {
            let arguments = "--connections 60 --connect-rate 100 --rate 500 --duration 1s";
            slow_to_accept(bench, 8, arguments)
        },
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "SYNs are lost",
        right: &[VALID, NETWORK],
        names_cause: |report| report.verdict() == NETWORK || names_connecting(report),
        why: "connecting was slow because of the network",
        inject: |bench| {
            let arguments = "--connections 50 --rate 500 --duration 1s";
            over_a_link(bench, (DROP_SYNS, &[]), arguments)
        },
        ..OPEN
    },
    Situation {
        name: "local ports used up by churn",
        right: &[FAILED],
        names_cause: names_only_ports,
        why: "the client has no port for the next connection, whatever the server does",
        inject: |bench| {
            let arguments = "--connections 20 --churn 1 --rate 200 --duration 2s";
            few_ports(bench, arguments)
        },
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "connections are opened slowly on purpose",
        right: &[VALID],
        why: "the run waits for them before its first message",
        inject: |bench| {
            healthy(
                bench,
                "--connections 50 --connect-rate 50 --rate 500 --duration 1s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "churn",
        right: &[VALID],
        why: "replacing connections is ordinary work for both ends",
        inject: |bench| {
            healthy(
                bench,
                "--connections 50 --churn 5 --rate 1000 --duration 2s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "server at its connection cap",
        right: &[FAILED],
        why: "connections beyond the limit wait in the accept queue, and are not answered",
        inject: |bench| capped(bench, "--connections 100 --rate 500 --duration 1s"),
        ..OPEN
    },
    Situation {
        name: "19,000 connections with few messages",
        right: &[VALID],
        why: "they delay each other while they are opened and closed, not while messages are sent",
        inject: |bench| {
            let arguments = "--connections 19000 --connect-rate 8000 --rate 5000 --duration 2s";
            over_a_link(bench, (&[], &[]), arguments)
        },
        ..OPEN
    },
];

pub const CLOSED_LOOPS: &[Situation] = &[
    Situation {
        name: "closed loop: accepting limited to 50/s with churn",
        right: &[SERVER, VALID],
        names_cause: |report| report.verdict() == SERVER || names_connecting(report),
        why: "the server set the pace, by how fast it accepts",
        inject: |bench| slow_to_accept(bench, 128, "--connections 20 --churn 5 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: backlog overflows with churn",
        right: &[SERVER, FAILED],
        why: "the server's accept queue has room for one, and connections wait for a second SYN",
        inject: |bench| {
            backlog_overflows(bench, "--connections 5 --churn 5 --duration 3s --drain 4s")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: local ports used up by churn",
        right: &[FAILED],
        names_cause: names_only_ports,
        why: "the client has no port for the next connection, whatever the server does",
        inject: |bench| few_ports(bench, "--connections 20 --churn 1 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: churn",
        right: &[VALID],
        when_busy: STARVED,
        why: "replacing connections is ordinary work for both ends",
        inject: |bench| healthy(bench, "--connections 20 --churn 100 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: SYNs are lost with churn",
        right: &[NETWORK],
        why: "one of five new connections waits for a second SYN",
        inject: |bench| {
            let arguments = "--connections 20 --churn 20 --duration 2s --drain 8s";
            over_a_link(bench, (DROP_SYNS, &[]), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: server at its connection cap",
        right: &[FAILED],
        why: "connections beyond the limit wait in the accept queue, and are not answered",
        inject: |bench| capped(bench, "--connections 100 --duration 1s"),
        ..CLOSED
    },
];

/// Returns whether the report says that connecting was slow.
fn names_connecting(report: &Report) -> bool {
    report.contains_any(&["connecting", "accepted", "accepts"])
}

/// Returns whether the report names the ports of the client's machine, and does not blame the
/// server.
fn names_only_ports(report: &Report) -> bool {
    let servers = [
        "no free connection",
        "the queue grew",
        "the server set",
        "accepts too slowly",
    ];
    report.contains_any(&["local port", "ports of this machine"]) && !report.contains_any(&servers)
}

/// Runs against a server that accepts 50 connections per second and has this backlog.
fn slow_to_accept(bench: &Bench, backlog: i32, arguments: &str) -> Option<Report> {
    let program = Program {
        accepting: ms(20),
        backlog,
        ..Program::of(Lanes::Apart, Work::Always(ms(1)), bench.seed)
    };
    bench.load_on(program, arguments)
}

/// Runs on a host with only 100 local ports.
fn few_ports(bench: &Bench, arguments: &str) -> Option<Report> {
    alone(|| {
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(range, "20000 20099").unwrap();
        // Ports of closed connections stay in use for a minute, as between two machines.
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0").unwrap();
        healthy(bench, arguments)
    })?
}

/// Runs against a server that accepts at most 50 connections at the same time.
fn capped(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve_with("--max-connections 50");
    bench.load(serve.address(), arguments)
}
