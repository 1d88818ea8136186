//! Situations in which the network path loses, delays, reorders or limits packets, or is only long.

use super::faults::{DROP_SOME, LONG_QUEUE, POLICED, SHORT_QUEUE, link_cut, over_a_link};
use super::{Bench, CLOSED, FAILED, NETWORK, OPEN, Situation, VALID, ms};
use crate::common::lab::Lab;
use crate::common::path::{Path, Way};
use crate::common::report::Report;

/// Commands that drop a share of the packets with a payload that arrive at a host.
macro_rules! drop {
    ($share:literal) => {
        &[
            "nft add table inet test",
            "nft add chain inet test input { type filter hook input priority 0 ; }",
            concat!(
                "nft add rule inet test input meta length > 60 numgen random mod 1000 < ",
                $share,
                " drop"
            ),
        ]
    };
}

const DROP_HALF_A_PERCENT: &[&str] = drop!("5");
const DROP_3_PERCENT: &[&str] = drop!("30");
const DROP_5_PERCENT: &[&str] = drop!("50");

/// A limit of the link from the server, of which 500 replies of 1,000 bytes per second use 85 %.
const NARROW_REPLIES: &[&str] = &["tc qdisc add dev wire root tbf rate 5mbit burst 2kb limit 1mb"];

pub const OPEN_LOOPS: &[Situation] = &[
    Situation {
        name: "loss of 0.5 % of the replies",
        right: &[NETWORK],
        why: "the server retransmits them after 200 ms",
        inject: |bench| {
            let done = (&[][..], DROP_HALF_A_PERCENT);
            over_a_link(
                bench,
                done,
                "--connections 100 --rate 2000 --duration 3s --drain 10s",
            )
        },
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "loss of 3 % both ways",
        right: &[NETWORK],
        why: "packets of both directions are dropped",
        inject: |bench| {
            let done = (DROP_3_PERCENT, DROP_3_PERCENT);
            over_a_link(
                bench,
                done,
                "--connections 100 --rate 1000 --duration 2s --drain 10s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "round trip of 200 ms more for 1 of 4 s",
        right: &[NETWORK],
        why: "packets are delayed on the path for a quarter of the run",
        inject: |bench| spike(bench, "--connections 200 --rate 500 --duration 4s"),
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "reply link at 85 %",
        right: &[NETWORK, VALID],
        names_cause: |report| report.verdict() == NETWORK || names_the_path(report),
        why: "the queueing delay of the link causes the tail of the response times",
        inject: |bench| {
            let arguments = "--connections 200 --rate 500 --arrivals poisson --size 1000 \
                             --duration 3s --drain 5s";
            over_a_link(bench, (NARROW_REPLIES, &[]), arguments)
        },
        ..OPEN
    },
    Situation {
        name: "long way",
        right: &[VALID],
        why: "a constant round trip of 40 ms is no fault",
        inject: |bench| long_way(bench, "--connections 50 --rate 500 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "slow start over a long way",
        right: &[VALID, NETWORK],
        why: "a new connection needs several round trips for 64 KiB",
        inject: |bench| {
            let arguments = "--connections 50 --rate 50 --size 64KiB --churn 4 --duration 2s \
                             --drain 5s";
            long_way(bench, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "reordered packets",
        right: &[NETWORK],
        why: "one of twenty packets is overtaken by others",
        inject: |bench| {
            let arguments = "--connections 20 --rate 100 --size 16KiB --duration 2s --drain 5s";
            reordered(bench, arguments)
        },
        ..OPEN
    },
];

pub const CLOSED_LOOPS: &[Situation] = &[
    Situation {
        name: "closed loop: link of 10 Mbit/s with a long queue",
        right: &[NETWORK],
        why: "the link is always busy, and its queueing delay is part of every round trip",
        inject: |bench| {
            let arguments = "--connections 100 --size 1000 --duration 2s --drain 10s";
            over_a_link(bench, (&[], LONG_QUEUE), arguments)
        },
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: link of 10 Mbit/s with a short queue",
        right: &[NETWORK],
        why: "the link drops packets beyond its rate",
        inject: |bench| {
            let arguments = "--connections 100 --size 1000 --duration 2s --drain 10s";
            over_a_link(bench, (&[], SHORT_QUEUE), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: link of 10 Mbit/s that few use",
        right: &[NETWORK],
        why: "ten connections fill it, with a round trip of 9 ms",
        inject: |bench| {
            let arguments = "--connections 10 --size 1000 --duration 2s --drain 10s";
            over_a_link(bench, (&[], LONG_QUEUE), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: narrow link of the replies",
        right: &[NETWORK],
        why: "the link is always busy, and its queueing delay is part of every round trip",
        inject: |bench| {
            let arguments = "--connections 50 --size 1000 --duration 2s --drain 10s";
            over_a_link(bench, (NARROW_REPLIES, &[]), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: link with a rate that is policed",
        right: &[NETWORK],
        why: "a hop on the path drops packets beyond its rate",
        inject: |bench| {
            let arguments = "--connections 100 --size 1000 --duration 2s --drain 20s";
            over_a_link(bench, (POLICED, &[]), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: think time over a link of 10 Mbit/s",
        right: &[VALID],
        names_cause: |report| report.contains_any(&["think"]),
        why: "the think time set the pace, and the link is idle for most of the time",
        inject: |bench| {
            let arguments = "--connections 20 --think 50ms --duration 2s";
            over_a_link(bench, (&[], LONG_QUEUE), arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: loss",
        right: &[NETWORK],
        why: "one of fifty packets is dropped on its way to the server",
        inject: |bench| {
            over_a_link(
                bench,
                (DROP_SOME, &[]),
                "--connections 50 --duration 2s --drain 10s",
            )
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: loss of replies",
        right: &[NETWORK],
        why: "one of fifty packets is dropped on its way to the client",
        inject: |bench| {
            over_a_link(
                bench,
                (&[], DROP_SOME),
                "--connections 50 --duration 2s --drain 10s",
            )
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: loss of 5 %",
        right: &[NETWORK],
        why: "packets are dropped on their way to the server",
        inject: |bench| {
            let done = (DROP_5_PERCENT, &[][..]);
            over_a_link(bench, done, "--connections 50 --duration 2s --drain 10s")
        },
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: loss of 3 % both ways",
        right: &[NETWORK],
        why: "packets of both directions are dropped",
        inject: |bench| {
            let done = (DROP_3_PERCENT, DROP_3_PERCENT);
            over_a_link(bench, done, "--connections 50 --duration 2s --drain 10s")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: loss of 0.5 % of the replies",
        right: &[NETWORK],
        why: "the server retransmits them after 200 ms",
        inject: |bench| {
            let done = (&[][..], DROP_HALF_A_PERCENT);
            over_a_link(bench, done, "--connections 20 --duration 2s --drain 10s")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: round trip of 200 ms more for 1 of 4 s",
        right: &[NETWORK],
        why: "packets are delayed on the path for a quarter of the run",
        inject: |bench| spike(bench, "--connections 20 --duration 4s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: long way",
        right: &[VALID, NETWORK],
        names_cause: |report| report.verdict() == NETWORK || names_the_path(report),
        why: "the round trip of 40 ms set the pace, and not the server",
        inject: |bench| long_way(bench, "--connections 50 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: reordered packets",
        right: &[NETWORK],
        why: "one of twenty packets is overtaken by others",
        inject: |bench| {
            reordered(
                bench,
                "--connections 20 --size 16KiB --duration 2s --drain 5s",
            )
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: link cut",
        right: &[FAILED],
        why: "nothing arrives any more",
        inject: |bench| link_cut(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
];

/// Returns whether the report names the path between the two ends.
fn names_the_path(report: &Report) -> bool {
    report.contains_any(&[
        "path",
        "round trip",
        "round-trip",
        "network",
        "link",
        "queue",
    ])
}

/// Runs over an emulated path.
pub fn over_a_path(bench: &Bench, requests: Way, replies: Way, arguments: &str) -> Option<Report> {
    let path = Path {
        requests,
        replies,
        seed: bench.seed,
    };
    let lab = Lab::with_path(path, bench.beside_server());
    bench.load_over(lab, (&[], &[]), arguments)
}

/// Runs over a path of 20 ms in each direction.
pub fn long_way(bench: &Bench, arguments: &str) -> Option<Report> {
    let way = Way {
        delay: ms(20),
        ..Way::default()
    };
    over_a_path(bench, way, way, arguments)
}

/// Runs over a path that delays packets by 100 ms in each direction, from 1 s until 2 s.
fn spike(bench: &Bench, arguments: &str) -> Option<Report> {
    let way = Way {
        spike: Some((ms(1000), ms(2000), ms(100))),
        ..Way::default()
    };
    over_a_path(bench, way, way, arguments)
}

/// Runs over a path on which one of twenty packets with a payload is delayed by 10 ms more.
fn reordered(bench: &Bench, arguments: &str) -> Option<Report> {
    let way = Way {
        delay: ms(5),
        late: Some((0.05, ms(10))),
        ..Way::default()
    };
    over_a_path(bench, way, way, arguments)
}
