//! Whether the verdict of `load` blames the right one: the table below holds faults that are done
//! to the server, to the network and to the generator itself, and what each must be called. Above
//! all, a run that its own client limited is never `valid`.
//!
//! Real time, real links and pinned CPUs: ignored by default, run by `.ci/run`. The server has CPU
//! 0 and the generator CPU 1, so that what is done to one does not touch the other. One fault
//! alone: `UPCASE_FAULT='the name' cargo test --release --test blame -- --ignored the_verdict`.
//!
//! On a machine that others use, a run may honestly be client-bound. It is done again, at most
//! three times in all, when the fault is not the client's and the report says that the client was
//! late by its own doing; the last attempt counts.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::lab::{Lab, SERVER};
use common::peers::{
    freeze, halt, hogs, intervals, pinned, proxy, send_and_spoil, server, slow_server,
};
use common::report::Report;
use common::{Process, Serve, Temporary, until, upcase};
use socket2::{Domain, Socket, Type};

const SERVER_CPU: u32 = 0;
const CLIENT_CPU: u32 = 1;

/// What is done, what it must be called, and why.
struct Fault {
    name: &'static str,
    verdicts: &'static [&'static str],
    why: &'static str,
    /// `None`: it cannot be done here, and that has been said.
    inject: fn() -> Option<Report>,
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "nothing",
        verdicts: &["valid"],
        why: "nobody was held up",
        inject: nothing,
    },
    Fault {
        name: "delayed connections",
        verdicts: &["valid"],
        why: "a server may take its time: every message went out in time, and was answered",
        inject: delayed_connections,
    },
    Fault {
        name: "server stopped for a while",
        verdicts: &["server-bound"],
        why: "messages were outstanding and found no free connection, and no reply came",
        inject: server_stopped_for_a_while,
    },
    Fault {
        name: "server stopped until the end",
        verdicts: &["failed"],
        why: "messages were not answered",
        inject: server_stopped_until_the_end,
    },
    Fault {
        name: "server slowed",
        verdicts: &["server-bound"],
        why: "it does 200 messages a second and was asked for 400",
        inject: server_slowed,
    },
    Fault {
        name: "server without a CPU",
        verdicts: &["server-bound", "failed"],
        why: "busy loops on its CPU leave it less than the rate needs",
        inject: server_without_a_cpu,
    },
    Fault {
        name: "receive window closed",
        verdicts: &["server-bound"],
        why: "it reads more slowly than messages come",
        inject: receive_window_closed,
    },
    Fault {
        name: "backlog overflows with churn",
        verdicts: &["server-bound", "failed"],
        why: "it accepts 50 connections a second and was asked for 200",
        inject: backlog_overflows,
    },
    Fault {
        name: "descriptor table full",
        verdicts: &["failed"],
        why: "connections that it cannot accept are never answered",
        inject: descriptor_table_full,
    },
    Fault {
        name: "resets",
        verdicts: &["failed"],
        why: "messages were lost with their connections",
        inject: resets,
    },
    Fault {
        name: "server closes early",
        verdicts: &["failed"],
        why: "a FIN that nobody asked for breaks the connection",
        inject: server_closes_early,
    },
    Fault {
        name: "server dies",
        verdicts: &["failed"],
        why: "messages were lost, and nothing listens any more",
        inject: server_dies,
    },
    Fault {
        name: "wrong bytes",
        verdicts: &["failed"],
        why: "a reply that is wrong is no reply",
        inject: wrong_bytes,
    },
    Fault {
        name: "client without a CPU",
        verdicts: &["client-bound"],
        why: "busy loops on its CPU make it late",
        inject: client_without_a_cpu,
    },
    Fault {
        name: "client that spins without a CPU",
        verdicts: &["client-bound"],
        why: "being awake does not help one that is not let run",
        inject: client_that_spins_without_a_cpu,
    },
    Fault {
        name: "client asked for too much",
        verdicts: &["client-bound"],
        why: "no thread sends two million messages a second",
        inject: client_asked_for_too_much,
    },
    Fault {
        name: "client stopped for a while",
        verdicts: &["client-bound"],
        why: "a tenth of the messages could be sent, and were not",
        inject: client_stopped_for_a_while,
    },
    Fault {
        name: "small send buffer",
        verdicts: &["client-bound"],
        why: "its own buffer holds a message up, not the server's window",
        inject: small_send_buffer,
    },
    Fault {
        name: "loss",
        verdicts: &["network-bound"],
        why: "one of fifty packets is dropped on its way to the server",
        inject: loss,
    },
    Fault {
        name: "loss of replies",
        verdicts: &["network-bound"],
        why: "one of fifty packets is dropped on its way to the client",
        inject: loss_of_replies,
    },
    Fault {
        name: "narrow link with a short queue",
        verdicts: &["network-bound"],
        why: "the link drops what is beyond its rate",
        inject: narrow_link_with_a_short_queue,
    },
    Fault {
        name: "narrow link with a long queue",
        verdicts: &["network-bound"],
        why: "the queue of the link stands in every round trip",
        inject: narrow_link_with_a_long_queue,
    },
    Fault {
        name: "link with a rate that is policed",
        verdicts: &["network-bound"],
        why: "a hop on the way drops what is beyond its rate",
        inject: policed_link,
    },
    Fault {
        name: "several threads without a CPU",
        verdicts: &["client-bound"],
        why: "four threads and busy loops share one CPU",
        inject: several_threads_without_a_cpu,
    },
    Fault {
        name: "link cut",
        verdicts: &["failed"],
        why: "nothing arrives any more",
        inject: link_cut,
    },
];

const ATTEMPTS: usize = 3;

#[test]
#[ignore = "two minutes, pinned to two CPUs"]
fn the_verdict_is_right_for_every_fault() {
    if thread::available_parallelism().unwrap().get() < 2 || !common::installed("taskset") {
        return common::skip("no two CPUs and taskset");
    }
    let only = std::env::var("UPCASE_FAULT").ok();
    let mut wrong = Vec::new();
    for fault in FAULTS {
        if only.as_ref().is_some_and(|only| only != fault.name) {
            continue;
        }
        println!(
            "{}: {} ({})",
            fault.name,
            fault.verdicts.join(" or "),
            fault.why
        );
        for attempt in 1..=ATTEMPTS {
            let Some(report) = (fault.inject)() else {
                break;
            };
            let verdict = report.verdict();
            println!("    {verdict}: {}", report.sentences());
            if fault.verdicts.contains(&verdict) {
                break;
            }
            // A fault of the client that is not seen is never put down to noise.
            let of_client = fault.verdicts.contains(&"client-bound");
            let noise = !of_client && report.sentences().contains("by its own doing");
            if attempt == ATTEMPTS || !noise {
                wrong.push(format!("{}: {verdict}, {}", fault.name, report.sentences()));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_holds_faults_of_every_kind() {
    let of = |verdict: &str| {
        let faults = FAULTS
            .iter()
            .filter(|fault| fault.verdicts.contains(&verdict));
        faults.count()
    };
    assert!(FAULTS.len() >= 12);
    for verdict in [
        "valid",
        "client-bound",
        "network-bound",
        "server-bound",
        "failed",
    ] {
        assert!(of(verdict) >= 2, "{verdict}");
    }
}

/// A server on its CPU.
fn serve() -> Serve {
    Serve::launch(pinned(SERVER_CPU, &upcase("serve --listen 127.0.0.1:0")), 1)
}

/// A run on its CPU, under way.
fn begin(target: SocketAddr, arguments: &str) -> Process {
    let load = upcase(&format!("load --format json {target} {arguments}"));
    Process::piped(pinned(CLIENT_CPU, &load))
}

/// A run on its CPU, to its end.
fn load(target: SocketAddr, arguments: &str) -> Option<Report> {
    Some(Report::of(begin(target, arguments).ended()))
}

/// What most runs ask for.
const USUAL: &str = "--connections 20 --rate 1000 --duration 2s";

/// The same, told five times a second.
const TOLD: &str = "--connections 20 --rate 1000 --duration 2s -v --interval 200ms";

fn nothing() -> Option<Report> {
    load(serve().address(), USUAL)
}

fn delayed_connections() -> Option<Report> {
    let serve = serve();
    let delay = Duration::from_millis(50);
    let before = move |place: &mut usize, _: &[u8]| {
        if !place.is_multiple_of(10) {
            thread::sleep(delay);
        }
    };
    let address = proxy(serve.address(), |place| place, before, |_, reply| reply);
    let arguments = "--connections 100 --rate 500 --duration 2s --pacing per-connection";
    load(address, arguments)
}

fn server_stopped_for_a_while() -> Option<Report> {
    let serve = serve();
    let mut load = begin(serve.address(), TOLD);
    intervals(&load, 2);
    freeze(&serve.process, Duration::from_millis(500));
    Some(Report::of(load.ended()))
}

fn server_stopped_until_the_end() -> Option<Report> {
    let serve = serve();
    let mut load = begin(serve.address(), TOLD);
    intervals(&load, 2);
    halt(&serve.process);
    Some(Report::of(load.ended()))
}

fn server_slowed() -> Option<Report> {
    let address = slow_server(Duration::from_millis(5));
    load(
        address,
        "--connections 20 --rate 400 --duration 2s --drain 20s",
    )
}

fn server_without_a_cpu() -> Option<Report> {
    let serve = serve();
    let _hogs = hogs(SERVER_CPU, 3);
    let arguments = "--connections 50 --rate 500 --duration 2s --drain 20s";
    load(serve.address(), arguments)
}

fn receive_window_closed() -> Option<Report> {
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
                    thread::sleep(Duration::from_millis(2));
                    bytes[..count].make_ascii_uppercase();
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    load(
        address,
        "--connections 10 --rate 50 --duration 2s --size 64KiB --drain 10s",
    )
}

fn backlog_overflows() -> Option<Report> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || send_and_spoil(stream, |_, _| true));
            thread::sleep(Duration::from_millis(20));
        }
    });
    load(
        address,
        "--connections 20 --churn 1 --rate 200 --duration 2s --drain 8s",
    )
}

fn descriptor_table_full() -> Option<Report> {
    let mut limited = Command::new("sh");
    limited.args([
        "-c",
        "ulimit -n 40; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_upcase"),
    ]);
    limited.args(["serve", "--listen", "127.0.0.1:0"]);
    let serve = Serve::launch(limited, 1);
    load(
        serve.address(),
        "--connections 100 --rate 1000 --duration 1s",
    )
}

fn resets() -> Option<Report> {
    let address = server(|_, stream| {
        let socket = Socket::from(stream.try_clone().unwrap());
        send_and_spoil(stream, |count, _| count < 20);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    load(address, USUAL)
}

fn server_closes_early() -> Option<Report> {
    let address = server(|_, stream| send_and_spoil(stream, |count, _| count < 20));
    load(address, USUAL)
}

fn server_dies() -> Option<Report> {
    let mut serve = serve();
    let mut load = begin(serve.address(), TOLD);
    intervals(&load, 2);
    serve.process.child().kill().unwrap();
    Some(Report::of(load.ended()))
}

fn wrong_bytes() -> Option<Report> {
    let address = server(|place, stream| {
        send_and_spoil(stream, |count, reply| {
            if place == 3 && count == 10 {
                reply[5] ^= 1;
            }
            true
        });
    });
    load(address, USUAL)
}

fn client_without_a_cpu() -> Option<Report> {
    let serve = serve();
    let _hogs = hogs(CLIENT_CPU, 3);
    // It may get the CPU once in ten milliseconds, and send 20 messages then: 2,000 a second.
    load(
        serve.address(),
        "--connections 20 --rate 20000 --duration 1s --drain 30s",
    )
}

fn client_that_spins_without_a_cpu() -> Option<Report> {
    let serve = serve();
    let _hogs = hogs(CLIENT_CPU, 1);
    load(
        serve.address(),
        "--connections 20 --rate 1000 --duration 2s --drain 20s --spin",
    )
}

fn client_asked_for_too_much() -> Option<Report> {
    let serve = serve();
    let arguments = "--connections 1000 --rate 2000000 --duration 200ms --drain 60s";
    load(serve.address(), arguments)
}

fn client_stopped_for_a_while() -> Option<Report> {
    let serve = serve();
    let mut load = begin(serve.address(), TOLD);
    intervals(&load, 2);
    freeze(&load, Duration::from_millis(200));
    Some(Report::of(load.ended()))
}

fn small_send_buffer() -> Option<Report> {
    let serve = serve();
    let arguments = "--connections 4 --rate 100 --duration 2s --size 1MiB --send-buffer 4KiB \
                     --drain 30s";
    load(serve.address(), arguments)
}

/// Runs `load` over a link between two hosts, after `inject` has been done on the host where its
/// commands run.
fn over_a_link(server: &[&str], client: &[&str], arguments: &str) -> Option<Report> {
    let lab = Lab::build()?;
    let serve = upcase(&format!("serve --listen {SERVER}:12000"));
    let serve = Serve::launch(pinned(SERVER_CPU, &lab.on_server(&serve)), 1);
    for command in server {
        done(lab.on_server(&words(command)));
    }
    for command in client {
        done(lab.on_client(&words(command)));
    }
    let load = upcase(&format!("load --format json {SERVER}:12000 {arguments}"));
    let mut load = Process::piped(pinned(CLIENT_CPU, &lab.on_client(&load)));
    let report = Report::of(load.ended());
    drop(serve);
    Some(report)
}

fn words(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Commands that drop one of fifty packets that arrive on a host.
const DROP_SOME: &[&str] = &[
    "nft add table inet test",
    "nft add chain inet test input { type filter hook input priority 0 ; }",
    "nft add rule inet test input meta length > 60 numgen random mod 50 < 1 drop",
];

fn loss() -> Option<Report> {
    over_a_link(
        DROP_SOME,
        &[],
        "--connections 50 --rate 2000 --duration 3s --drain 10s",
    )
}

fn loss_of_replies() -> Option<Report> {
    over_a_link(
        &[],
        DROP_SOME,
        "--connections 50 --rate 2000 --duration 3s --drain 10s",
    )
}

fn narrow_link_with_a_short_queue() -> Option<Report> {
    let link = ["tc qdisc add dev wire root tbf rate 10mbit burst 16kb limit 20kb"];
    let arguments = "--connections 100 --rate 1500 --duration 2s --size 1000 --drain 20s";
    over_a_link(&[], &link, arguments)
}

fn narrow_link_with_a_long_queue() -> Option<Report> {
    let link = ["tc qdisc add dev wire root tbf rate 10mbit burst 16kb limit 2mb"];
    let arguments = "--connections 200 --rate 1500 --duration 2s --size 1000 --drain 20s";
    over_a_link(&[], &link, arguments)
}

fn policed_link() -> Option<Report> {
    let police = [
        "nft add table inet test",
        "nft add chain inet test input { type filter hook input priority 0 ; }",
        "nft add rule inet test input limit rate over 1000 kbytes/second burst 20 kbytes drop",
    ];
    let arguments = "--connections 100 --rate 1500 --duration 2s --size 1000 --drain 20s";
    over_a_link(&police, &[], arguments)
}

fn several_threads_without_a_cpu() -> Option<Report> {
    let serve = serve();
    let _hogs = hogs(CLIENT_CPU, 3);
    let arguments = "--connections 100 --threads 4 --rate 500 --duration 2s --drain 20s";
    load(serve.address(), arguments)
}

fn link_cut() -> Option<Report> {
    let lab = Lab::build()?;
    let serve = upcase(&format!("serve --listen {SERVER}:12000"));
    let _serve = Serve::launch(lab.on_server(&serve), 1);
    let load = upcase(&format!("load --format json {SERVER}:12000 {TOLD}"));
    let mut load = Process::piped(lab.on_client(&load));
    intervals(&load, 2);
    done(lab.on_server(&words("ip link set wire down")));
    Some(Report::of(load.ended()))
}

/// The first line of /proc/stat when so many hundredths of a second were stolen, always as long.
fn stat(stolen: u32) -> Vec<u8> {
    format!("cpu  1 0 1 1 0 0 0 {stolen:08} 0 0\n").into_bytes()
}

#[test]
fn what_the_host_takes_is_seen_and_printed() {
    // The run sees a /proc/stat of its own: no host can be asked to take a CPU away.
    let told = Temporary::new(&stat(100));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&told.0)
        .unwrap();
    let script = "mount --bind \"$1\" /proc/stat || exit 77; shift; exec \"$@\"";
    for format in ["json", "text"] {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(&told.0);
        command.arg(env!("CARGO_BIN_EXE_upcase"));
        command
            .args(["load", "--format", format])
            .args(TOLD.split_whitespace());
        file.write_all_at(&stat(100), 0).unwrap();
        let mut load = Process::piped(command);
        until("messages flow, or it cannot be done", || {
            load.stderr().contains("run ") || load.child().try_wait().unwrap().is_some()
        });
        file.write_all_at(&stat(250), 0).unwrap();
        let ended = load.ended();
        if !matches!(ended.code, Some(0 | 1)) {
            return common::skip(&format!("no mount of its own: {}", ended.stderr));
        }
        let sentence = "the host took 1.50 s of CPU time from this machine";
        assert!(ended.stdout.contains(sentence), "{}", ended.stdout);
        if format == "json" {
            assert_eq!(Report::of(ended).number("evidence/stolen_s"), 1.5);
        }
    }
}
