//! Situations with one fault each in an open loop, and the side that the verdict must blame.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Bench, CLIENT, FAILED, NETWORK, OPEN, SERVER, Situation, VALID};
use super::{CLIENT_CPU, SERVER_CPU, ms};
use crate::common::lab::{self, Lab, done, words};
use crate::common::peers::{
    busy_loops, echo_while, freeze, halt, intervals, proxy, server, slow_server,
};
use crate::common::report::Report;
use crate::common::{Process, Serve, upcase};

pub const FAULTS: &[Situation] = &[
    Situation {
        name: "nothing",
        right: &[VALID],
        why: "nothing was delayed",
        inject: |bench| healthy(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "delayed connections",
        right: &[VALID],
        why: "slow replies are allowed: every message was sent in time, and was answered",
        inject: |bench| {
            delayed_connections(
                bench,
                "--connections 100 --rate 500 --duration 2s --pacing per-connection",
            )
        },
        ..OPEN
    },
    Situation {
        name: "server stopped for a while",
        right: &[SERVER],
        why: "messages were outstanding and found no free connection, and no reply arrived",
        inject: |bench| server_stopped_for_a_while(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "server stopped until the end",
        right: &[FAILED],
        why: "messages were not answered",
        inject: |bench| server_stopped_until_the_end(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "server slowed",
        right: &[SERVER],
        why: "it can answer 200 messages a second, and 400 were requested",
        inject: |bench| {
            server_slowed(
                bench,
                "--connections 20 --rate 400 --duration 2s --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "server without a CPU",
        right: &[SERVER, FAILED],
        why: "busy loops on its CPU leave it less than the rate needs",
        inject: |bench| {
            server_without_a_cpu(
                bench,
                "--connections 50 --rate 500 --duration 2s --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "receive window closed",
        right: &[SERVER],
        why: "it reads more slowly than messages arrive",
        inject: |bench| {
            receive_window_closed(
                bench,
                "--connections 10 --rate 50 --duration 2s --size 64KiB --drain 10s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "backlog overflows with churn",
        right: &[SERVER, FAILED],
        why: "it accepts 50 connections a second, and 200 were requested",
        inject: |bench| {
            backlog_overflows(
                bench,
                "--connections 10 --churn 1 --rate 200 --duration 2s --drain 3s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "descriptor table full",
        right: &[FAILED],
        why: "connections that it cannot accept are never answered",
        inject: |bench| descriptor_table_full(bench, "--connections 100 --rate 1000 --duration 1s"),
        ..OPEN
    },
    Situation {
        name: "resets",
        right: &[FAILED],
        why: "messages were lost with their connections",
        inject: |bench| resets(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "server closes early",
        right: &[FAILED],
        why: "an unexpected FIN breaks the connection",
        inject: |bench| server_closes_early(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "server dies",
        right: &[FAILED],
        why: "messages were lost, and no program listens any more",
        inject: |bench| server_dies(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "wrong bytes",
        right: &[FAILED],
        why: "a wrong reply does not count as a reply",
        inject: |bench| wrong_bytes(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "client without a CPU",
        right: &[CLIENT],
        why: "busy loops on its CPU make it late",
        inject: |bench| {
            client_with_hogs(
                bench,
                3,
                "--connections 20 --rate 20000 --duration 1s --drain 30s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "client without a CPU at the end",
        right: &[CLIENT],
        why: "messages that it did not send by the end are its own, and no failure",
        inject: |bench| {
            client_without_a_cpu_at_the_end(
                bench,
                "--connections 20 --rate 40000 --duration 1s --drain 10ms",
            )
        },
        ..OPEN
    },
    Situation {
        name: "own server on the same CPU",
        right: &[VALID, SERVER],
        why: "a run shares its CPUs with a built-in server by design",
        inject: |bench| {
            load_of_its_own(
                bench,
                "--connections 100 --rate 10000 --duration 2s --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "own server and busy loops on the same CPU",
        right: &[CLIENT],
        why: "the CPU time of other processes is not that of the built-in server",
        inject: |bench| {
            own_server_and_busy_loops(
                bench,
                "--connections 200 --rate 500 --duration 2s --drain 30s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "client that spins without a CPU",
        right: &[CLIENT],
        why: "spinning does not help a thread that gets no CPU time",
        inject: |bench| {
            client_with_hogs(
                bench,
                1,
                "--connections 20 --rate 1000 --duration 2s --drain 20s --spin",
            )
        },
        ..OPEN
    },
    Situation {
        name: "client asked for too much",
        right: &[CLIENT],
        why: "no thread sends two million messages a second",
        inject: |bench| {
            healthy(
                bench,
                "--connections 1000 --rate 2000000 --duration 200ms --drain 60s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "client stopped for a while",
        right: &[CLIENT],
        why: "a tenth of the messages could be sent, and were not",
        inject: |bench| client_stopped_for_a_while(bench, USUAL),
        ..OPEN
    },
    Situation {
        name: "small send buffer",
        right: &[CLIENT],
        why: "its own send buffer delays a message, not the server's receive window",
        inject: |bench| {
            let arguments = "--connections 4 --rate 100 --duration 2s --size 1MiB \
                             --send-buffer 4KiB --drain 30s";
            healthy(bench, arguments)
        },
        ..OPEN
    },
    Situation {
        name: "loss",
        right: &[NETWORK],
        why: "one of fifty packets is dropped on its way to the server",
        inject: |bench| {
            over_a_link(
                bench,
                (DROP_SOME, &[]),
                "--connections 50 --rate 2000 --duration 3s --drain 10s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "loss of replies",
        right: &[NETWORK],
        why: "one of fifty packets is dropped on its way to the client",
        inject: |bench| {
            over_a_link(
                bench,
                (&[], DROP_SOME),
                "--connections 50 --rate 2000 --duration 3s --drain 10s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "narrow link with a short queue",
        right: &[NETWORK],
        why: "the link drops packets beyond its rate",
        inject: |bench| {
            over_a_link(
                bench,
                (&[], SHORT_QUEUE),
                "--connections 100 --rate 1500 --duration 2s --size 1000 --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "narrow link with a long queue",
        right: &[NETWORK],
        why: "the queueing delay of the link is part of every round trip",
        inject: |bench| {
            over_a_link(
                bench,
                (&[], LONG_QUEUE),
                "--connections 200 --rate 1500 --duration 2s --size 1000 --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "link with a rate that is policed",
        right: &[NETWORK],
        why: "a hop on the path drops packets beyond its rate",
        inject: |bench| {
            over_a_link(
                bench,
                (POLICED, &[]),
                "--connections 100 --rate 1500 --duration 2s --size 1000 --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "several threads without a CPU",
        right: &[CLIENT],
        why: "four threads and busy loops share one CPU",
        inject: |bench| {
            client_with_hogs(
                bench,
                3,
                "--connections 100 --threads 4 --rate 500 --duration 2s --drain 20s",
            )
        },
        ..OPEN
    },
    Situation {
        name: "link cut",
        right: &[FAILED],
        why: "nothing arrives any more",
        inject: |bench| link_cut(bench, USUAL),
        ..OPEN
    },
];

/// The arguments of most runs.
const USUAL: &str = "--connections 20 --rate 1000 --duration 2s";

pub fn healthy(bench: &Bench, arguments: &str) -> Option<Report> {
    bench.load(bench.serve().address(), arguments)
}

/// Runs through a proxy that delays each message by 50 ms on nine of ten connections.
pub fn delayed_connections(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    let before = move |place: &mut usize, _: &[u8]| {
        if !place.is_multiple_of(10) {
            thread::sleep(ms(50));
        }
    };
    let address = proxy(serve.address(), |place| place, before, |_, reply| reply);
    bench.load(address, arguments)
}

pub fn server_stopped_for_a_while(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    bench.load_and(serve.address(), arguments, |_| {
        freeze(&serve.process, ms(500));
    })
}

pub fn server_stopped_until_the_end(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    bench.load_and(serve.address(), arguments, |_| halt(&serve.process))
}

/// Runs against a server that takes 5 ms for each message, one after the other.
pub fn server_slowed(bench: &Bench, arguments: &str) -> Option<Report> {
    bench.load(slow_server(ms(5)), arguments)
}

pub fn server_without_a_cpu(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    let _hogs = busy_loops(SERVER_CPU, 3);
    bench.load(serve.address(), arguments)
}

/// Runs against a server that reads 4 KiB in 2 ms, through a small receive buffer.
pub fn receive_window_closed(bench: &Bench, arguments: &str) -> Option<Report> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(100).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    thread::sleep(ms(2));
                    bytes[..count].make_ascii_uppercase();
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    bench.load(address, arguments)
}

/// Runs against a server that accepts 50 connections per second, with a backlog of one.
pub fn backlog_overflows(bench: &Bench, arguments: &str) -> Option<Report> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || echo_while(stream, |_, _| true));
            thread::sleep(ms(20));
        }
    });
    bench.load(address, arguments)
}

pub fn descriptor_table_full(bench: &Bench, arguments: &str) -> Option<Report> {
    let mut limited = Command::new("sh");
    limited.args([
        "-c",
        "ulimit -n 40; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_upcase"),
    ]);
    limited.args(["serve", "--listen", "127.0.0.1:0"]);
    let serve = Serve::launch(limited, 1);
    bench.load(serve.address(), arguments)
}

/// Runs against a server that resets every connection after 20 messages.
pub fn resets(bench: &Bench, arguments: &str) -> Option<Report> {
    let address = server(|_, stream| {
        let socket = Socket::from(stream.try_clone().unwrap());
        echo_while(stream, |count, _| count < 20);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    bench.load(address, arguments)
}

/// Runs against a server that closes every connection in order after 20 messages.
pub fn server_closes_early(bench: &Bench, arguments: &str) -> Option<Report> {
    let address = server(|_, stream| echo_while(stream, |count, _| count < 20));
    bench.load(address, arguments)
}

pub fn server_dies(bench: &Bench, arguments: &str) -> Option<Report> {
    let mut serve = bench.serve();
    bench.load_and(serve.address(), arguments, |_| {
        serve.process.child().kill().unwrap();
    })
}

/// Runs against a server that flips one bit of one reply.
pub fn wrong_bytes(bench: &Bench, arguments: &str) -> Option<Report> {
    let address = server(|place, stream| {
        echo_while(stream, |count, reply| {
            if place == 3 && count == 10 {
                reply[5] ^= 1;
            }
            true
        });
    });
    bench.load(address, arguments)
}

/// Runs with busy loops on the client's CPU. With this many the client may get the CPU only once in
/// ten milliseconds, and then sends a message on each connection.
pub fn client_with_hogs(bench: &Bench, count: usize, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    let _hogs = busy_loops(CLIENT_CPU, count);
    bench.load(serve.address(), arguments)
}

fn client_without_a_cpu_at_the_end(bench: &Bench, arguments: &str) -> Option<Report> {
    let report = client_with_hogs(bench, 3, arguments)?;
    assert!(report.number("unanswered") > 0.0);
    Some(report)
}

/// Runs `load` with a server of its own, both on one CPU.
pub fn load_of_its_own(bench: &Bench, arguments: &str) -> Option<Report> {
    bench.load("", arguments)
}

pub fn own_server_and_busy_loops(bench: &Bench, arguments: &str) -> Option<Report> {
    let _hogs = busy_loops(CLIENT_CPU, 2);
    load_of_its_own(bench, arguments)
}

pub fn client_stopped_for_a_while(bench: &Bench, arguments: &str) -> Option<Report> {
    let serve = bench.serve();
    bench.load_and(serve.address(), arguments, |load| {
        freeze(load, ms(200));
    })
}

/// Runs over a link between two hosts, after commands on the server's and on the client's host.
pub fn over_a_link(bench: &Bench, done: (&[&str], &[&str]), arguments: &str) -> Option<Report> {
    bench.load_over(Lab::build(), done, arguments)
}

/// Commands that drop one of fifty packets with a payload that arrive at a host.
pub const DROP_SOME: &[&str] = &[
    "nft add table inet test",
    "nft add chain inet test input { type filter hook input priority 0 ; }",
    "nft add rule inet test input meta length > 60 numgen random mod 50 < 1 drop",
];

pub const SHORT_QUEUE: &[&str] =
    &["tc qdisc add dev wire root tbf rate 10mbit burst 16kb limit 20kb"];

pub const LONG_QUEUE: &[&str] =
    &["tc qdisc add dev wire root tbf rate 10mbit burst 16kb limit 2mb"];

/// Commands that drop packets that arrive above a rate.
pub const POLICED: &[&str] = &[
    "nft add table inet test",
    "nft add chain inet test input { type filter hook input priority 0 ; }",
    "nft add rule inet test input limit rate over 1000 kbytes/second burst 20 kbytes drop",
];

pub fn link_cut(bench: &Bench, arguments: &str) -> Option<Report> {
    let lab = Lab::build()?;
    let target = format!("{}:12000", lab::SERVER);
    let serve = upcase(&format!("serve --listen {target}"));
    let _serve = Serve::launch(lab.on_server(&serve), 1);
    let arguments = format!("{arguments} -v --interval 200ms");
    let mut load = Process::piped(lab.on_client(&bench.command(target, &arguments)));
    intervals(&load, 2);
    done(lab.on_server(&words("ip link set wire down")));
    Some(Report::of(load.ended()))
}
