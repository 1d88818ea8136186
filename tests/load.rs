//! `upcase load` from the outside: against our server, against its own, and against servers that
//! answer wrongly, late or not at all.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use common::peers::server;
use common::report::Report;
use common::{PATIENCE, Process, Serve, run, until, upcase};
use nix::sys::signal::Signal;

/// Answers in upper case until the end; `change` may spoil a reply, whose offset it gets.
fn echo(mut stream: TcpStream, change: impl Fn(usize, &mut Vec<u8>)) {
    let mut offset = 0;
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let mut reply = bytes[..count].to_ascii_uppercase();
        change(offset, &mut reply);
        offset += count;
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

/// Runs `load` with `--format json`, checks the exit code and that every message has one fate.
#[track_caller]
fn load(arguments: &str, code: i32) -> Report {
    Report::of(run(&format!("load --format json {arguments}")).expect(code))
}

#[test]
fn without_a_target_it_loads_a_server_of_its_own_and_says_so() {
    let ended = run("load --connections 50 --duration 300ms").expect(0);
    assert!(
        ended
            .stderr
            .contains("loading a server of this run's own on 127.0.0.1:")
    );
    assert!(
        ended.stdout.contains("a server of this run's own"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("50 opened, 0 failed"),
        "{}",
        ended.stdout
    );
    assert!(
        !ended.stderr.contains('\u{1b}'),
        "no progress line without a terminal"
    );
}

#[test]
fn both_ends_count_the_same_messages_and_bytes() {
    let report = load(
        "--connections 100 --messages 1050 --size 1000 --payload bytes",
        0,
    );
    assert_eq!(report.count("verified"), 1050);
    let server = &report.0["own_server"];
    assert_eq!(server["accepted"], 100);
    assert_eq!(server["closed"]["finished"], 100);
    assert_eq!(server["bytes_in"], 1_050_000);
    assert_eq!(server["bytes_out"], 1_050_000);
}

#[test]
fn a_total_of_messages_is_dealt_evenly() {
    let (sender, received) = mpsc::channel();
    let address = server(move |_, stream| {
        let mut total = 0;
        let count = std::cell::Cell::new(0);
        echo(stream, |_, reply| count.set(count.get() + reply.len()));
        total += count.get();
        sender.send(total).unwrap();
    });
    let report = load(
        &format!("{address} --connections 4 --messages 10 --size 100"),
        0,
    );
    assert_eq!(report.count("verified"), 10);
    let mut bytes: Vec<usize> = received.iter().take(4).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [200, 200, 300, 300]);
}

#[test]
fn depth_sizes_and_options_hold_against_a_small_window() {
    let serve = Serve::start("--recv-buffer 4KiB --send-buffer 4KiB");
    let arguments = "--connections 20 --messages 400 --size 20KiB --depth 7 --mss 536 \
                     --recv-buffer 8KiB --send-buffer 8KiB --connect-rate 200 --seed 9";
    let report = load(&format!("{} {arguments}", serve.address()), 0);
    assert_eq!(report.count("verified"), 400);
    let totals = serve.stop();
    let bytes = 400 * 20 * 1024;
    assert!(
        totals.ends_with(&format!("{bytes} bytes in, {bytes} bytes out")),
        "{totals}"
    );
}

#[test]
fn several_sources_are_used_in_turn() {
    let (sender, received) = mpsc::channel();
    let address = server(move |_, stream| {
        sender
            .send(stream.peer_addr().unwrap().ip().to_string())
            .unwrap();
        echo(stream, |_, _| {});
    });
    let sources = "--source 127.0.0.2,127.0.0.3";
    load(
        &format!("{address} --connections 4 --messages 4 {sources}"),
        0,
    );
    let mut peers: Vec<String> = received.iter().take(4).collect();
    peers.sort_unstable();
    assert_eq!(peers, ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
}

#[test]
fn all_connections_are_up_before_the_first_message() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let mut byte = [0; 1];
        first.read_exact(&mut byte).unwrap();
        // A message is here, so the others must be in the queue already.
        listener.set_nonblocking(true).unwrap();
        let others: Vec<_> = (0..2).map(|_| listener.accept()).collect();
        others.iter().all(Result::is_ok)
    });
    run(&format!(
        "load {address} --connections 3 --messages 3 --connect-rate 20"
    ))
    .expect(1);
    assert!(server.join().unwrap());
}

#[test]
fn a_server_that_does_not_convert_is_caught_at_once() {
    let address = server(|_, mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    let report = load(
        &format!("{address} --connections 3 --duration 10s --size 1"),
        1,
    );
    assert_eq!(report.count("mismatched"), 3);
    assert_eq!(report.count("verified"), 0);
    assert_eq!(report.0["first_difference"]["offset"], 0);
}

#[test]
fn a_wrong_byte_is_located_and_only_its_connection_is_closed() {
    let address = server(|number, stream| {
        echo(stream, |offset, reply| {
            let wrong = 1234;
            if number == 2 && (offset..offset + reply.len()).contains(&wrong) {
                reply[wrong - offset] ^= 1;
            }
        });
    });
    let report = load(
        &format!("{address} --connections 5 --messages 500 --size 100"),
        1,
    );
    assert_eq!(report.count("mismatched"), 1);
    assert_eq!(report.0["first_difference"]["offset"], 1234);
    assert_eq!(report.0["errors"]["wrong reply"], 1);
    assert_eq!(
        report.count("verified"),
        412,
        "100 on each of four, 12 before the wrong one"
    );
}

#[test]
fn the_reply_of_another_connection_is_noticed() {
    // Two clients, and each is sent what the other should get.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut one, _) = listener.accept().unwrap();
        let (mut two, _) = listener.accept().unwrap();
        let (mut a, mut b) = ([0; 64], [0; 64]);
        one.read_exact(&mut a).unwrap();
        two.read_exact(&mut b).unwrap();
        one.write_all(&b.to_ascii_uppercase()).unwrap();
        two.write_all(&a.to_ascii_uppercase()).unwrap();
        let _ = (one.read(&mut a), two.read(&mut b));
    });
    let report = load(&format!("{address} --connections 2 --messages 2"), 1);
    assert_eq!(report.count("mismatched"), 2);
}

#[test]
fn a_reply_that_nobody_asked_for_is_an_error() {
    let address = server(|_, stream| echo(stream, |_, reply| reply.push(b'!')));
    let report = load(&format!("{address} --connections 1 --messages 1"), 1);
    assert_eq!(report.0["errors"]["surplus bytes"], 1, "{}", report.0);
    assert_eq!(report.count("verified"), 1);
}

#[test]
fn a_server_that_never_answers_leaves_every_message_unanswered() {
    let address = server(|_, mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let report = load(
        &format!("{address} --connections 7 --depth 3 --duration 100ms"),
        1,
    );
    assert_eq!(report.count("unanswered"), 21);
    assert_eq!(report.count("verified"), 0);
    assert_eq!(
        report.0["response_us"]["at_least_from"], 0.0,
        "nothing is known"
    );
    assert_eq!(report.0["achieved_rate"], 0.0);
}

#[test]
fn a_server_that_dies_is_an_error_with_its_kind() {
    let mut serve = Serve::start("");
    let arguments = format!(
        "load --format json {} --connections 20 --duration 2s",
        serve.address()
    );
    let command = upcase(&arguments);
    let mut load = Process::piped(command);
    until("messages flow", || serve.process.cpu_ticks() > 5);
    serve.process.child().kill().unwrap();
    serve.process.wait();
    let report = Report::of(load.ended().expect(1));
    assert_eq!(report.count("errored"), 20);
    let errors = report.0["errors"].as_object().unwrap();
    let of = |kind: &str| errors.get(kind).map_or(0, |count| count.as_u64().unwrap());
    let refused = of("connection refused");
    assert!(refused > 0, "it was looked for again: {errors:?}");
    let broken: u64 = errors.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(broken - refused, 20, "{errors:?}");
}

#[test]
fn a_signal_ends_the_run_in_order_and_prints_the_report() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serve = Serve::start("");
        let arguments = format!(
            "load --format json {} --connections 10 --duration 1h",
            serve.address()
        );
        let command = upcase(&arguments);
        let mut load = Process::piped(command);
        until("messages flow", || serve.process.cpu_ticks() > 5);
        load.signal(signal);
        let report = Report::of(load.ended().expect(0));
        assert_eq!(report.0["interrupted"], true);
        assert!(report.count("verified") > 0);
        let totals = serve.stop();
        assert!(
            totals.starts_with("accepted 10, closed 10 (finished 10)"),
            "{totals}"
        );
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_server_that_keeps_its_side_open() {
    let (sender, events) = mpsc::channel();
    let address = server(move |_, stream| {
        let _held = stream.try_clone().unwrap();
        let started = sender.clone();
        echo(stream, move |offset, _| {
            if offset == 0 {
                started.send("message").unwrap();
            }
        });
        sender.send("end").unwrap();
        thread::sleep(PATIENCE);
    });
    let command = upcase(&format!("load {address} --connections 2 --duration 1h"));
    let mut load = Process::piped(command);
    let hears = |event| assert_eq!(events.recv_timeout(PATIENCE), Ok(event));
    hears("message");
    hears("message");
    load.signal(Signal::SIGTERM);
    hears("end");
    hears("end");
    load.signal(Signal::SIGTERM);
    let report = load.ended().expect(1).stdout;
    assert!(
        report.contains("not closed by the server: 2 connections"),
        "{report}"
    );
}

#[test]
fn nobody_listening_is_exit_code_3_and_one_line() {
    let address = common::deserted();
    let ended = run(&format!("load {address}")).expect(3);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let told = format!("nothing listens at {address} (connection refused)");
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
}

#[test]
fn too_few_descriptors_are_said_before_anything_starts() {
    let ended = run("load 127.0.0.1:9 --connections 10000000").expect(3);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("10000000 connections need 100000"));
    assert!(ended.stderr.contains("(RLIMIT_NOFILE)"));

    let ended = run("load --connections 9000000").expect(3);
    assert!(
        ended.stderr.contains("both ends are in this process"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("need 180000"), "{}", ended.stderr);
}

#[test]
fn a_progress_line_is_drawn_on_a_terminal_and_leaves_nothing_behind() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = upcase("load -q --connections 5 --duration 700ms --interval 200ms");
    command.stdout(Stdio::null());
    command.stderr(terminal.slave.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(terminal.slave);
    let mut shown = Vec::new();
    let mut bytes = [0; 4096];
    // Reading a terminal that its last user has closed is an error: the end.
    while let Ok(count @ 1..) = nix::unistd::read(&terminal.master, &mut bytes) {
        shown.extend_from_slice(&bytes[..count]);
    }
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    for part in ["5 connections", "messages/s", "p99", "s left"] {
        assert!(shown.contains(part), "{part} in {shown:?}");
    }
    assert!(
        shown.ends_with("\u{1b}[2K"),
        "the line is cleared: {shown:?}"
    );
}

#[test]
fn far_more_connections_than_a_turn_starts_all_send_their_only_message() {
    let report = load("--connections 2000 --messages 2000 --size 1", 0);
    assert_eq!(report.count("verified"), 2000);
}

#[test]
fn the_response_covers_the_wait_for_a_turn_also_when_a_message_fills_the_budget_of_one() {
    // In a closed loop, connections = rate x mean response, whatever the machine's speed.
    for size in ["64", "64KiB", "256KiB", "300KiB"] {
        let report = load(
            &format!("--connections 20 --duration 500ms --size {size}"),
            0,
        );
        let seconds = report.0["response_us"]["mean"].as_f64().unwrap() / 1e6;
        let in_flight = report.0["achieved_rate"].as_f64().unwrap() * seconds;
        assert!(
            (10.0..=21.0).contains(&in_flight),
            "size {size}: {in_flight} in flight"
        );
    }
}

#[test]
fn the_rate_of_a_server_that_stalls_counts_the_time_without_replies() {
    let address = server(|_, stream| {
        let answered = std::cell::Cell::new(0);
        echo(stream, |_, _| {
            answered.set(answered.get() + 1);
            if answered.get() == 10 {
                thread::sleep(PATIENCE);
            }
        });
    });
    let report = load(&format!("{address} --connections 1 --duration 400ms"), 1);
    assert_eq!(report.count("verified"), 9);
    assert!(
        report.0["elapsed_s"].as_f64().unwrap() >= 0.4,
        "{}",
        report.0
    );
}

#[test]
fn a_run_that_loses_all_connections_before_its_first_message_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        drop((first, listener));
    });
    let arguments = format!("{address} --connections 2 --connect-rate 2 --duration 1s");
    let begun = std::time::Instant::now();
    let report = load(&arguments, 1);
    server.join().unwrap();
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
    assert_eq!(report.count("verified"), 0);
}

#[test]
fn a_signal_while_connections_come_up_is_waited_out_in_sleep() {
    let (sender, events) = mpsc::channel();
    let address = server(move |_, stream| {
        sender.send(()).unwrap();
        thread::sleep(PATIENCE);
        drop(stream);
    });
    let arguments = format!("load {address} --connections 1000 --connect-rate 100");
    let mut command = upcase(&arguments);
    command.stdout(Stdio::null());
    let mut load = Process::start(command);
    events.recv_timeout(PATIENCE).unwrap();
    load.signal(Signal::SIGTERM);
    thread::sleep(std::time::Duration::from_millis(500));
    let switches = load.sleeps();
    let ticks = load.cpu_ticks();
    assert!(ticks <= 20, "{ticks} of 50 ticks, asleep {switches} times");
    load.signal(Signal::SIGTERM);
    assert_eq!(load.wait().code(), Some(1));
}

#[test]
fn a_signal_while_connecting_on_a_terminal_ends_in_a_report() {
    // A listener whose queue is full after a few: the other connections stay under way.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(3).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = upcase(&format!("load {address} --connections 50"));
    command.stdout(Stdio::piped());
    command.stderr(terminal.slave.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop((command, terminal.slave));
    let mut shown = Vec::new();
    let mut bytes = [0; 4096];
    let mut signalled = false;
    while let Ok(count @ 1..) = nix::unistd::read(&terminal.master, &mut bytes) {
        shown.extend_from_slice(&bytes[..count]);
        if !signalled && String::from_utf8_lossy(&shown).contains("connecting: ") {
            signalled = true;
            let id = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(id, Signal::SIGINT).unwrap();
        }
    }
    let mut report = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut report)
        .unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&shown)
    );
    assert!(report.contains("never up"), "{report}");
}
