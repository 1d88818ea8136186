//! Situations with slow, irregular or broken servers, in which the measured times are the server's.

use std::net::SocketAddr;

use super::clients::names_the_generator;
use super::faults::{
    delayed_connections, descriptor_table_full, healthy, load_of_its_own,
    own_server_and_busy_loops, receive_window_closed, resets, server_closes_early, server_dies,
    server_slowed, server_stopped_for_a_while, server_stopped_until_the_end, server_without_a_cpu,
    wrong_bytes,
};
use super::{
    Bench, CLIENT, CLOSED, FAILED, OPEN, PACE_OF_SERVER, SERVER, STARVED, Situation, VALID,
};
use super::{ms, us};
use crate::common::program::{Lanes, Program, Work};
use crate::common::report::Report;

/// Times of replies of which one in a hundred takes half a second and all others a millisecond.
pub const TAIL: Work = Work::Some(0.01, ms(500), ms(1));
/// Times of replies whose p99 is ten times their median.
pub const LOGNORMAL: Work = Work::Lognormal(us(1600), 1.0);
pub const UNIFORM: Work = Work::Uniform(ms(100));

/// The time between two pauses, and their length.
const PERIODIC: (Work, Work) = (Work::Always(ms(270)), Work::Always(ms(30)));
const RANDOM: (Work, Work) = (Work::Exponential(ms(250)), Work::Exponential(ms(15)));

pub const OPEN_LOOPS: &[Situation] = &[
    Situation {
        name: "one of a hundred replies takes 500 ms",
        right: &[VALID],
        why: "a slow reply is no stall, not even during the drain",
        inject: |bench| apart(bench, TAIL, "--connections 100 --rate 500 --duration 2s"),
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "one of ten replies takes 150 ms, at 5/s",
        right: &[VALID],
        why: "at such a rate there are long times without a reply anyway",
        inject: |bench| {
            let work = Work::Some(0.1, ms(150), ms(1));
            apart(bench, work, "--connections 10 --rate 5 --duration 4s")
        },
        ..OPEN
    },
    Situation {
        name: "lognormal replies at 5,000/s",
        right: &[VALID],
        why: "the client's lateness is a hundredth of the response",
        inject: |bench| {
            apart(
                bench,
                LOGNORMAL,
                "--connections 200 --rate 5000 --duration 2s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "replies of 0 to 100 ms",
        right: &[VALID],
        why: "every message is answered in its usual time: those at the end are no backlog",
        inject: |bench| apart(bench, UNIFORM, "--connections 100 --rate 500 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "rate 1 % above the knee",
        right: &[SERVER],
        why: "the queue grows through the whole run, however slowly",
        inject: |bench| in_turn(bench, KNEE, "--connections 200 --rate 1010 --duration 4s"),
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "rate 5 % above the knee",
        right: &[SERVER],
        why: "the queue grows through the whole run",
        inject: |bench| in_turn(bench, KNEE, "--connections 400 --rate 1050 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "rate 1 % below the knee",
        right: &[VALID],
        why: "the server keeps up, with nothing to spare",
        inject: |bench| in_turn(bench, KNEE, "--connections 200 --rate 990 --duration 4s"),
        ..OPEN
    },
    Situation {
        name: "M/M/1 at 0.7",
        right: &[VALID],
        why: "a queue that grows and shrinks is normal for a server",
        inject: |bench| {
            let work = Work::Exponential(ms(1));
            let arguments = "--connections 200 --rate 700 --arrivals poisson --duration 3s";
            in_turn(bench, work, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "periodic pauses of the server",
        right: &[VALID],
        why: "each lasts for 30 ms, and connections are free",
        inject: |bench| {
            let arguments = "--connections 100 --rate 1000 --duration 2s";
            pauses(bench, PERIODIC, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "random pauses of the server",
        right: &[VALID],
        why: "they last for 15 ms on average, and connections are free",
        inject: |bench| pauses(bench, RANDOM, "--connections 200 --rate 1000 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "first replies are slow",
        right: &[VALID],
        why: "the server takes 200 ms for the first message of a connection, and connections are \
              free",
        inject: |bench| first(bench, "--connections 200 --rate 300 --duration 2s"),
        ..OPEN
    },
    Situation {
        name: "too few connections for the replies",
        right: &[SERVER],
        why: "ten connections carry 50 messages a second at 200 ms each, and 100 are requested",
        inject: |bench| {
            let work = Work::Always(ms(200));
            let arguments = "--connections 10 --rate 100 --duration 2s --drain 10s";
            apart(bench, work, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "service that grows to 0.8 of the knee",
        right: &[VALID],
        why: "the server slows down with every message, but keeps up to the end",
        inject: |bench| {
            let work = Work::Ramp(us(100), us(800), ms(3000));
            in_turn(bench, work, "--connections 100 --rate 1000 --duration 3s")
        },
        ..OPEN
    },
    Situation {
        name: "two targets of 0.3 and 200 ms",
        right: &[VALID],
        names_cause: |report| {
            report.has_equal_shares() || report.contains_any(&["of the messages"])
        },
        why: "both get equal shares, or the report has the number of messages of each",
        inject: |bench| two_targets(bench, "--connections 100 --rate 400 --duration 2s"),
        is_selected: true,
        ..OPEN
    },
    Situation {
        name: "messages time out",
        right: &[FAILED],
        why: "one of a hundred replies arrives after its timeout",
        inject: |bench| {
            let arguments = "--connections 100 --rate 500 --duration 2s --timeout 100ms";
            apart(bench, TAIL, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "20,000 messages a second",
        right: &[VALID],
        why: "both ends keep up",
        inject: |bench| healthy(bench, "--connections 100 --rate 20000 --duration 1s"),
        ..OPEN
    },
];

pub const CLOSED_LOOPS: &[Situation] = &[
    Situation {
        name: "closed loop: nothing",
        right: &[VALID],
        when_busy: STARVED,
        why: "nothing was delayed",
        inject: |bench| healthy(bench, "--connections 10 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: one connection",
        right: &[VALID],
        when_busy: STARVED,
        why: "each message waits for the one before it, and nothing was delayed",
        inject: |bench| healthy(bench, "--connections 1 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: generator that is busy all the time",
        right: &[VALID],
        when_busy: STARVED,
        names_cause: names_the_generator,
        why: "the rate is a lower bound of the server's rate",
        inject: |bench| healthy(bench, "--connections 10 --size 16 --depth 64 --duration 1s"),
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: many in flight",
        right: &[VALID],
        when_busy: STARVED,
        why: "both ends work as fast as they can",
        inject: |bench| healthy(bench, "--connections 50 --depth 8 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: large messages",
        right: &[VALID],
        when_busy: STARVED,
        why: "both ends work as fast as they can",
        inject: |bench| healthy(bench, "--connections 4 --size 1MiB --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: own server on the same CPU",
        right: &[VALID],
        when_busy: STARVED,
        why: "a run shares its CPUs with a built-in server by design",
        inject: |bench| load_of_its_own(bench, "--connections 100 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: own server and busy loops on the same CPU",
        right: &[CLIENT],
        why: "the CPU time of other processes is not that of the built-in server",
        inject: |bench| own_server_and_busy_loops(bench, "--connections 100 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: server of 1 ms in turn",
        right: PACE_OF_SERVER,
        why: "the server is always busy, and answers a thousand messages a second",
        inject: |bench| in_turn(bench, KNEE, "--connections 20 --duration 1500ms"),
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: server that sleeps in turn",
        right: PACE_OF_SERVER,
        why: "the server takes 5 ms for each message, one after the other",
        inject: |bench| server_slowed(bench, "--connections 20 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: replies of 20 ms",
        right: PACE_OF_SERVER,
        why: "every message takes the server 20 ms, while wire and client are idle",
        inject: |bench| {
            let work = Work::Always(ms(20));
            apart(bench, work, "--connections 50 --duration 1500ms")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: delayed connections",
        right: PACE_OF_SERVER,
        why: "nine of ten connections wait 50 ms for each reply",
        inject: |bench| delayed_connections(bench, "--connections 50 --duration 1500ms"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: server without a CPU",
        right: PACE_OF_SERVER,
        why: "busy loops on its CPU delay every reply",
        inject: |bench| server_without_a_cpu(bench, "--connections 50 --duration 2s --drain 20s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: receive window closed",
        right: PACE_OF_SERVER,
        why: "the server reads more slowly than messages arrive",
        inject: |bench| {
            let arguments = "--connections 10 --duration 2s --size 64KiB --drain 10s";
            receive_window_closed(bench, arguments)
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: server stopped for a while",
        right: PACE_OF_SERVER,
        why: "no reply arrived for half a second, because the server was stopped",
        inject: |bench| server_stopped_for_a_while(bench, "--connections 20 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: server stopped until the end",
        right: &[FAILED],
        why: "messages were not answered",
        inject: |bench| server_stopped_until_the_end(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: one of a hundred replies takes 500 ms",
        right: PACE_OF_SERVER,
        why: "a slow reply is no stall",
        inject: |bench| apart(bench, TAIL, "--connections 100 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: one connection with a slow tail",
        right: PACE_OF_SERVER,
        why: "one of ten replies takes 150 ms",
        inject: |bench| {
            let work = Work::Some(0.1, ms(150), ms(1));
            apart(bench, work, "--connections 1 --duration 2s")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: lognormal replies",
        right: PACE_OF_SERVER,
        why: "every message takes the server some time",
        inject: |bench| apart(bench, LOGNORMAL, "--connections 20 --duration 1500ms"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: replies of 0 to 100 ms",
        right: PACE_OF_SERVER,
        why: "every message takes the server some time",
        inject: |bench| apart(bench, UNIFORM, "--connections 50 --duration 1500ms"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: exponential service in turn",
        right: PACE_OF_SERVER,
        why: "the server is always busy",
        inject: |bench| {
            let work = Work::Exponential(ms(1));
            in_turn(bench, work, "--connections 20 --duration 1500ms")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: service that grows",
        right: PACE_OF_SERVER,
        why: "the server is always busy, and becomes slower and slower",
        inject: |bench| {
            let work = Work::Ramp(us(200), us(2000), ms(2000));
            in_turn(bench, work, "--connections 20 --duration 2s")
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: periodic pauses of the server",
        right: PACE_OF_SERVER,
        why: "no reply arrives for 30 ms of every 300 ms",
        inject: |bench| pauses(bench, PERIODIC, "--connections 20 --duration 1500ms"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: random pauses of the server",
        right: PACE_OF_SERVER,
        why: "no reply arrives for 15 ms on average, four times a second",
        inject: |bench| pauses(bench, RANDOM, "--connections 20 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: first replies are slow",
        right: PACE_OF_SERVER,
        why: "the server takes 200 ms for the first message of a connection",
        inject: |bench| first(bench, "--connections 50 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: two targets of 0.3 and 200 ms",
        right: PACE_OF_SERVER,
        names_cause: |report| report.shares().len() == 2,
        why: "the report has the number of messages of each target",
        inject: |bench| two_targets(bench, "--connections 40 --duration 2s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: think time",
        right: &[VALID],
        names_cause: |report| report.contains_any(&["think"]),
        why: "the think time set the pace",
        inject: |bench| healthy(bench, "--connections 20 --think 50ms --duration 1500ms"),
        is_selected: true,
        ..CLOSED
    },
    Situation {
        name: "closed loop: messages time out",
        right: &[FAILED],
        why: "one of a hundred replies arrives after its timeout",
        inject: |bench| {
            apart(
                bench,
                TAIL,
                "--connections 100 --duration 2s --timeout 100ms",
            )
        },
        ..CLOSED
    },
    Situation {
        name: "closed loop: resets",
        right: &[FAILED],
        why: "messages were lost with their connections",
        inject: |bench| resets(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: server closes early",
        right: &[FAILED],
        why: "an unexpected FIN breaks the connection",
        inject: |bench| server_closes_early(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: server dies",
        right: &[FAILED],
        why: "messages were lost, and no program listens any more",
        inject: |bench| server_dies(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: wrong bytes",
        right: &[FAILED],
        why: "a wrong reply does not count as a reply",
        inject: |bench| wrong_bytes(bench, "--connections 20 --duration 1s"),
        ..CLOSED
    },
    Situation {
        name: "closed loop: descriptor table full",
        right: &[FAILED],
        why: "connections that it cannot accept are never answered",
        inject: |bench| descriptor_table_full(bench, "--connections 100 --duration 1s"),
        ..CLOSED
    },
];

/// The time of a message for a server that handles at most 1,000 messages a second, one by one.
pub const KNEE: Work = Work::Always(ms(1));

/// Runs against a server whose messages do not wait for each other.
pub fn apart(bench: &Bench, work: Work, arguments: &str) -> Option<Report> {
    bench.load_on(Program::of(Lanes::Apart, work, bench.seed), arguments)
}

/// Runs against a server that handles one message after the other.
pub fn in_turn(bench: &Bench, work: Work, arguments: &str) -> Option<Report> {
    bench.load_on(Program::of(Lanes::InTurn, work, bench.seed), arguments)
}

/// Runs against a server that pauses as a whole from time to time.
fn pauses(bench: &Bench, pauses: (Work, Work), arguments: &str) -> Option<Report> {
    let program = Program {
        pauses: Some(pauses),
        ..Program::of(Lanes::Apart, Work::Always(us(200)), bench.seed)
    };
    bench.load_on(program, arguments)
}

/// Runs against a server that takes 200 ms for the first message of each connection.
fn first(bench: &Bench, arguments: &str) -> Option<Report> {
    let program = Program {
        first: ms(200),
        ..Program::of(Lanes::Apart, Work::Always(us(200)), bench.seed)
    };
    bench.load_on(program, arguments)
}

/// Runs against two servers, of which one takes 700 times as long as the other.
pub fn two_targets(bench: &Bench, arguments: &str) -> Option<Report> {
    let (cpu, first) = bench.beside_server();
    let start = |work| Program::of(Lanes::Apart, Work::Always(work), bench.seed).start(cpu, first);
    let (fast, slow) = (start(us(300)), start(ms(200)));
    let targets: [SocketAddr; 2] = [fast.address, slow.address];
    let report = bench.load(format!("{} {}", targets[0], targets[1]), arguments);
    println!("    fast {}", fast.stop());
    println!("    slow {}", slow.stop());
    report
}
