//! Situations in which the load generator is starved, throttled or stopped, or limited by its own
//! send buffer.

use std::thread;

use super::faults::{client_stopped_for_a_while, client_with_hogs, healthy};
use super::{Bench, CLIENT, CLIENT_CPU, CLOSED, OPEN, Situation, VALID, VALID_UP_TO, ms};
use crate::common::Process;
use crate::common::peers::{busy_loops_among_others, freeze, pinned_among_others};
use crate::common::quota::Quota;
use crate::common::report::Report;

pub const OPEN_LOOPS: &[Situation] = &[
    Situation {
        name: "client stopped once for 16 ms in 4 s",
        right: &[VALID_UP_TO],
        why: "0.4 % of the messages were late, so p99.9 is the client's own and p99 is not",
        inject: |bench| {
            let arguments = "--connections 100 --rate 2500 --duration 4s";
            let serve = bench.serve();
            bench.load_and(serve.address(), arguments, |load| {
                freeze(load, ms(16));
            })
        },
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "client stopped for 5 ms again and again",
        right: &[CLIENT, VALID_UP_TO],
        why: "the client itself delays one of twenty messages",
        inject: |bench| stop_and_go(bench, 5, "--connections 50 --rate 1000 --duration 3s"),
        ..OPEN
    },
    Situation {
        name: "client among busy loops",
        right: &[CLIENT, VALID_UP_TO],
        why: "three busy loops of the same priority make its sends late",
        inject: |bench| among_others(bench, "--connections 50 --rate 2000 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "client with a quota of 5 %",
        right: &[CLIENT],
        why: "it is throttled when it has used up its CPU time",
        inject: |bench| throttled(bench, 5, "--connections 20 --rate 2000 --duration 2s"),
        ..OPEN
    },
];

pub const CLOSED_LOOPS: &[Situation] = &[
    Situation {
        name: "closed loop: client without a CPU",
        right: &[CLIENT],
        why: "busy loops leave it little CPU time: the server waits for it",
        inject: |bench| client_with_hogs(bench, 3, "--connections 20 --duration 2s --drain 20s"),
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: client without a CPU that thinks",
        right: &[CLIENT],
        why: "it thinks for 50 ms, and waits for a CPU for longer",
        inject: |bench| {
            let arguments = "--connections 20 --think 50ms --duration 2s --drain 20s";
            client_with_hogs(bench, 3, arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: several threads without a CPU",
        right: &[CLIENT],
        why: "four threads and busy loops share one CPU",
        inject: |bench| {
            let arguments = "--connections 100 --threads 4 --duration 2s --drain 20s";
            client_with_hogs(bench, 3, arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: client with a quota of 2 %",
        right: &[CLIENT],
        why: "it is throttled for nearly all of its time",
        inject: |bench| throttled(bench, 2, "--connections 20 --duration 2s --drain 20s"),
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: client with a quota of 30 %",
        right: &[CLIENT],
        why: "it could use the CPU all the time, and is throttled for two thirds of it",
        inject: |bench| throttled(bench, 30, "--connections 100 --duration 2s --drain 20s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: client stopped for a while",
        right: &[CLIENT],
        why: "it was stopped for a tenth of the run",
        inject: |bench| client_stopped_for_a_while(bench, "--connections 20 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: client stopped again and again",
        right: &[CLIENT],
        why: "it was stopped for an eighth of the run",
        inject: |bench| stop_and_go(bench, 25, "--connections 20 --duration 3s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: small send buffer",
        right: &[CLIENT, VALID],
        names_cause: |report| report.verdict() == CLIENT || names_the_generator(report),
        why: "its own send buffer delays a message, and it is busy filling it",
        inject: |bench| {
            let arguments = "--connections 4 --duration 2s --size 1MiB --send-buffer 4KiB \
                             --drain 30s";
            healthy(bench, arguments)
        },
        ..CLOSED
    },
];

/// Returns whether the report says that the generator set the pace.
pub fn names_the_generator(report: &Report) -> bool {
    report.contains_any(&["generator set the pace", "it set the pace"])
}

/// Stops the client for this number of milliseconds of every hundred, fifteen times.
fn stop_and_go(bench: &Bench, milliseconds: u64, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    bench.load_and(serve.address(), arguments, |load| {
        for _ in 0..15 {
            freeze(load, ms(milliseconds));
            thread::sleep(ms(100 - milliseconds));
        }
    })
}

/// Runs the client with three busy loops of the same priority on one CPU.
fn among_others(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    let _hogs = busy_loops_among_others(CLIENT_CPU, 3);
    let load = pinned_among_others(CLIENT_CPU, &bench.command(serve.address(), arguments));
    Some(Report::of(Process::piped(load).ended()))
}

/// Limits the client to this percentage of its CPU.
fn throttled(bench: &Bench, percent: u32, arguments: &str) -> Option<Report> {
    let quota = Quota::percent(percent)?;
    let serve = bench.serve();
    let load = quota.within(&bench.command(serve.address(), arguments));
    // A quota does not apply to processes with real-time priority.
    let load = pinned_among_others(CLIENT_CPU, &load);
    Some(Report::of(Process::piped(load).ended()))
}
