//! Tests `upcase load` as a process: against `upcase serve`, against a server of its own, and
//! against servers that answer wrongly, late or not at all.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::lab::alone;
use common::peers::{freeze, halt, intervals, server};
use common::report::Report;
use common::terminal::{Terminal, screen};
use common::{ANY_PACE, Process, Serve, TIMEOUT, run, until, upcase};
use nix::sys::signal::Signal;
use serde_json::json;
use upcase::units::grouped;

/// Replies in upper case until the client closes; `change` may alter a reply, whose offset it
/// receives.
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

/// Runs `load` with `--format json`, checks the exit code and that every message has one outcome.
/// On a shared machine the client may be the bottleneck: that is not tested here, so it is allowed.
#[track_caller]
fn load(arguments: &str, code: i32) -> Report {
    let command = format!("load --format json {ANY_PACE} {arguments}");
    Report::of(run(&command).expect(code))
}

#[test]
fn without_a_target_it_loads_a_server_of_its_own_and_says_so() {
    let ended = run(&format!(
        "load --connections 50 --duration 300ms {ANY_PACE}"
    ))
    .expect(0);
    assert!(
        ended
            .stderr
            .contains("testing a built-in server on 127.0.0.1:")
    );
    assert!(
        ended.stdout.contains(", a built-in server\n"),
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
    let bytes = grouped(400_u32 * 20 * 1024);
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
        // A message has arrived, so the other connections must be in the accept queue already.
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

/// Starts a server that returns what it receives unchanged.
fn plain_echo() -> SocketAddr {
    server(|_, mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_server_that_does_not_convert_is_caught_at_once() {
    let address = plain_echo();
    let report = load(
        &format!("{address} --connections 3 --duration 10s --size 1"),
        1,
    );
    assert_eq!(report.count("mismatched"), 3);
    assert_eq!(report.count("verified"), 0);
    assert_eq!(report.0["first_difference"]["offset"], 0);
    let errors = json!({ "first reply unchanged, not in upper case": 3 });
    assert_eq!(report.0["errors"], errors);
    let advice = report.0["evidence"]["advice"].to_string();
    assert!(advice.contains("use --expect same"), "{advice}");
}

#[test]
fn a_server_with_another_rule_is_verified_by_that_rule() {
    let address = plain_echo();
    let arguments = format!("{address} --connections 3 --messages 300 --size 1..300");
    for payload in ["text", "bytes"] {
        let arguments = format!("{arguments} --payload {payload}");
        let report = load(&format!("{arguments} --expect same"), 0);
        assert_eq!(report.count("verified"), 300);
        assert_eq!(report.0["expect"], "same");
        assert_eq!(report.0["errors"], json!({}));
    }
    // Of a wrong byte in the middle it is not said that another rule holds.
    let address = server(|_, mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            message[5] ^= 1;
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    });
    let report = load(&format!("{address} --connections 1 --expect same"), 1);
    assert_eq!(report.0["errors"], json!({ "wrong reply": 1 }));
    assert_eq!(report.0["first_difference"]["offset"], 5);

    let ended = run(&format!(
        "load {address} --connections 1 --messages 100 --expect none {ANY_PACE}"
    ));
    let text = ended.expect(0).stdout;
    for reported in [
        "closed loop, replies not compared",
        "100 scheduled = 100 answered + 0 mismatched",
        ": no reply verified, every connection closed cleanly",
        "nothing was verified: with --expect none ",
    ] {
        assert!(text.contains(reported), "{text}");
    }
}

#[test]
fn a_server_that_converts_is_named_where_it_should_not() {
    let report = load("--connections 2 --expect same", 1);
    let errors = json!({ "first reply in upper case, not unchanged": 2 });
    assert_eq!(report.0["errors"], errors);
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
    // Each of two clients is sent the reply of the other.
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
        "no response time is known"
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
    assert!(refused > 0, "reconnecting was attempted: {errors:?}");
    let broken: u64 = errors.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(broken - refused, 20, "{errors:?}");
}

#[test]
fn a_signal_ends_the_run_in_order_and_prints_the_report() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serve = Serve::start("");
        let arguments = format!(
            "load --format json {} --connections 10 --duration 1h {ANY_PACE}",
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
        thread::sleep(TIMEOUT);
    });
    let command = upcase(&format!("load {address} --connections 2 --duration 1h"));
    let mut load = Process::piped(command);
    let hears = |event| assert_eq!(events.recv_timeout(TIMEOUT), Ok(event));
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
    let address = common::unused_address();
    let ended = run(&format!("load {address}")).expect(3);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let reported = format!("no server listens at {address} (connection refused)");
    assert!(ended.stderr.contains(&reported), "{}", ended.stderr);
}

#[test]
fn too_few_descriptors_are_said_before_anything_starts() {
    let ended = run("load 127.0.0.1:9 --connections 10000000").expect(3);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("10,000,000 connections need 10,000,0")
    );
    assert!(ended.stderr.contains("(RLIMIT_NOFILE)"));

    let ended = run("load --connections 9000000").expect(3);
    assert!(
        ended.stderr.contains("both ends are in this process"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("need 18,000,0"), "{}", ended.stderr);
}

/// Returns everything that `load` writes to a terminal with this number of columns, as standard
/// error, in a run of less than a second.
fn shown(columns: u16, arguments: &str, variables: &[(&str, &str)]) -> String {
    let terminal = Terminal::with_columns(columns);
    let command = format!("load --connections 5 --duration 900ms --interval 200ms {ANY_PACE}");
    let mut command = upcase(&format!("{command} {arguments}"));
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    command.envs(variables.iter().copied());
    command.stdout(Stdio::null()).stderr(terminal.slave());
    let mut child = command.spawn().unwrap();
    drop(command);
    let shown = terminal.shown();
    // What a busy machine makes of such a short run does not matter here.
    assert!(child.wait().unwrap().code().is_some(), "{shown}");
    shown
}

#[test]
fn the_live_view_stays_below_the_log_and_leaves_nothing_behind() {
    for columns in [20, 80, 200] {
        let shown = shown(columns, "-v", &[]);
        // The last picture, and the screen after the run.
        let (running, _) = shown.rsplit_once("\u{1b}[?7h").unwrap();
        let running = screen(columns, running).join("\n");
        for part in ["5 of 5 ", " up", "/s", "p50 ", "p99 ", " µs", "▁"] {
            assert!(running.contains(part), "{part} in {running}");
        }
        let log = screen(columns, &shown);
        assert!(log.len() > 4, "{log:?}");
        for line in log {
            let is_whole = line.starts_with("20") && line.contains("Z [") && line.len() > 40;
            assert!(is_whole, "{line}");
        }
    }
}

#[test]
fn the_live_view_adapts_to_the_terminal() {
    assert!(shown(80, "", &[]).contains("\u{1b}[36m"));
    assert!(!shown(80, "", &[("NO_COLOR", "1")]).contains("\u{1b}[36m"));
    let ascii = shown(80, "-q", &[("LC_ALL", "C")]);
    assert!(ascii.is_ascii() && ascii.contains("[###"), "{ascii}");
    for (arguments, variables) in [
        ("", [("TERM", "dumb")]),
        ("--progress plain", [("NO_COLOR", "1")]),
        ("--progress none", [("NO_COLOR", "1")]),
    ] {
        let plain = shown(80, arguments, &variables);
        assert!(!plain.contains('\u{1b}'), "{plain}");
    }
}

#[test]
fn without_a_terminal_the_progress_is_a_line_for_each_interval_if_asked_for() {
    let command = format!("load --connections 5 --duration 900ms --interval 200ms {ANY_PACE}");
    let ended = run(&format!("{command} --progress plain"));
    let lines = ended
        .stderr
        .lines()
        .filter(|line| line.contains("[INFO] running, 0."));
    assert!(lines.count() >= 3, "{}", ended.stderr);
    assert!(ended.stderr.contains(" s of 0.9 s: "), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(" messages/s, p50 "),
        "{}",
        ended.stderr
    );
    for quiet in ["-q --progress plain", "-q", "--progress none", ""] {
        let ended = run(&format!("{command} {quiet}"));
        assert!(!ended.stderr.contains("running, "), "{}", ended.stderr);
    }
    let ended = run(&format!("{command} --progress live")).expect(2);
    let reason = "--progress live needs a terminal, which standard error is not";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
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
                thread::sleep(TIMEOUT);
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
        thread::sleep(TIMEOUT);
        drop(stream);
    });
    let arguments = format!("load {address} --connections 1000 --connect-rate 100");
    let mut command = upcase(&arguments);
    command.stdout(Stdio::null());
    let mut load = Process::start(command);
    // The client has seen its first connection established when it opens the third one.
    (0..3).for_each(|_| events.recv_timeout(TIMEOUT).unwrap());
    load.signal(Signal::SIGTERM);
    thread::sleep(Duration::from_millis(500));
    let switches = load.sleeps();
    let ticks = load.cpu_ticks();
    assert!(ticks <= 20, "{ticks} of 50 ticks, asleep {switches} times");
    load.signal(Signal::SIGTERM);
    assert_eq!(load.wait().code(), Some(1));
}

#[test]
fn a_signal_while_connecting_on_a_terminal_ends_in_a_report() {
    // The accept queue of this listener is soon full: the other connections stay in progress.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(3).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let terminal = Terminal::new();
    let mut command = upcase(&format!("load {address} --connections 50"));
    command.stdout(Stdio::piped()).stderr(terminal.slave());
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
    assert!(report.contains("never established"), "{report}");
}

#[test]
fn a_run_that_its_client_limited_is_exit_code_4() {
    let serve = Serve::start("");
    // Runs `load`, stops its process for a while, and returns its output; `more` are more options.
    let stopped = |more: &str| {
        let arguments = format!(
            "{} --connections 10 --rate 500 --duration 1s",
            serve.address()
        );
        let arguments = format!("load {arguments} --drain 20s -v --interval 100ms {more}");
        let mut load = Process::piped(upcase(&arguments));
        intervals(&load, 2);
        freeze(&load, Duration::from_millis(300));
        load.ended()
    };
    let page = stopped("").expect(4).stdout;
    assert!(page.contains("verdict      client-bound"), "{page}");
    for word in ["another machine", "--spin", "--allow client-bound"] {
        assert!(page.contains(word), "{word} in {page}");
    }
    let report = Report::of(stopped("--format json").expect(4));
    assert_eq!(report.verdict(), "client-bound");
    assert_eq!(report.0["exit_code"], 4);
    stopped("--allow client-bound").expect(0);
    let page = stopped("--assert p99<1us").expect(4).stdout;
    assert!(page.contains("p99<1us: is undecided"), "{page}");
    stopped(&format!("--assert p99<1us {ANY_PACE}")).expect(1);
    stopped("--assert verified<1").expect(1);
}

/// Runs `body` on a host of its own whose only local ports are 40000 and 40001.
fn with_two_ports(body: impl FnOnce() + Send) {
    alone(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap();
        body();
    });
}

#[test]
fn a_connection_that_meets_itself_is_refused() {
    with_two_ports(|| {
        // No server listens on port 40000, which is the first local port that the kernel chooses.
        for _ in 0..3 {
            let ended = run("load 127.0.0.1:40000 --connections 2 -q").expect(3);
            let reported = "no server listens at 127.0.0.1:40000 (connection refused)";
            assert!(ended.stderr.contains(reported), "{}", ended.stderr);
            let ended = run("send 127.0.0.1:40000 hello").expect(3);
            assert!(
                ended.stderr.contains("connection refused"),
                "{}",
                ended.stderr
            );
        }
        // A plain socket does connect to itself there. Had a run above closed such a connection in
        // order, it would be in TIME_WAIT, and the port in use.
        let stream = TcpStream::connect("127.0.0.1:40000").expect("it connects to itself");
        assert_eq!(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    });
}

#[test]
fn no_local_port_left_is_explained_at_the_start_and_amid_a_run() {
    with_two_ports(|| {
        let serve = Serve::launch(upcase("serve --listen 127.0.0.1:12000"), 1);
        let (first, second) = (serve.connect(), serve.connect());
        let ended = run("load 127.0.0.1:12000 --connections 1 -q").expect(3);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        // With a reset its port is free at once.
        let linger = socket2::SockRef::from(&second).set_linger(Some(Duration::ZERO));
        linger.unwrap();
        drop(second);
        let report = load("127.0.0.1:12000 --connections 2 --duration 200ms", 1);
        assert_eq!(report.count("connections_not_opened"), 1, "{}", report.0);
        let advice = report.0["evidence"]["advice"].to_string();
        for reported in [&ended.stderr, &advice] {
            assert!(
                reported.contains("net.ipv4.ip_local_port_range"),
                "{reported}"
            );
            assert!(reported.contains("--source"), "{reported}");
        }
        assert!(
            ended.stderr.contains("no local port left"),
            "{}",
            ended.stderr
        );
        drop(first);
    });
}

#[test]
fn local_ports_used_up_by_churn_are_a_lack_of_this_machine() {
    for pace in ["--rate 100", ""] {
        // Twenty ports, each of which a closed connection holds for a minute.
        alone(|| {
            for (name, value) in [
                ("ip_local_port_range", "40000 40019"),
                ("tcp_tw_reuse", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
            }
            let _serve = Serve::launch(upcase("serve --listen 127.0.0.1:12000"), 1);
            let arguments = "load 127.0.0.1:12000 --connections 4 --churn 1 --duration 1s";
            let page = run(&format!("{arguments} {pace}")).expect(1).stdout;
            let sentence = "this machine could not open connections to 127.0.0.1:12000: no local \
                            port left (";
            for part in [
                "20 opened",
                "20 verified",
                "verdict      failed",
                sentence,
                "advice: use fewer --connections, more --source addresses",
                "net.ipv4.ip_local_port_range",
            ] {
                assert!(page.contains(part), "{part} in {page}");
            }
            for blame in [
                "no free connection",
                "not reached",
                "no reply",
                "went away",
                "the server set the pace",
                "delays the server",
            ] {
                assert!(!page.contains(blame), "{blame} in {page}");
            }
        });
    }
}

#[test]
fn a_source_that_is_none_of_this_host_is_named() {
    let ended = run("load --source 1.2.3.4 --connections 2").expect(3);
    let reported = "--source 1.2.3.4 is not an address of this host";
    assert!(ended.stderr.contains(reported), "{}", ended.stderr);
}

#[test]
fn what_cannot_be_read_is_said_before_anything_starts() {
    for arguments in [
        "load --payload /no/such",
        "load --interval-log /no/such/file",
    ] {
        let ended = run(arguments).expect(3);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("/no/such"), "{}", ended.stderr);
    }
}

#[test]
fn a_server_that_takes_no_more_from_an_address_is_named_as_such() {
    let serve = Serve::start("--max-connections-per-ip 1");
    let _first = serve.connect();
    let arguments = format!("load {} --connections 2 --duration 300ms", serve.address());
    let ended = run(&arguments);
    // A reset that arrives before the run checks a connection counts as a failure to connect.
    assert!(matches!(ended.code, Some(1 | 3)), "{ended:?}");
    let reported = ended.stdout + &ended.stderr;
    assert!(reported.contains("at once"), "{reported}");
    assert!(reported.contains("--max-connections-per-ip"), "{reported}");
}

#[test]
fn each_of_several_targets_has_its_row() {
    let (serve, unused_address) = (Serve::start(""), common::unused_address());
    let address = serve.address();
    let arguments =
        format!("{address} {unused_address} --connections 10 --rate 500 --duration 300ms");
    let page = run(&format!("load {arguments}")).expect(1).stdout;
    let row = |of: SocketAddr| {
        let of = of.to_string();
        let mut rows = page.lines().skip_while(|row| !row.starts_with(&of));
        let (row, next) = (rows.next().unwrap_or_else(|| panic!("{page}")), rows.next());
        (row[of.len()..].trim().to_string(), next.unwrap_or_default())
    };
    let (counts, next) = row(address);
    assert!(counts.starts_with("75        75  "), "{page}");
    assert!(
        !next.contains("opened"),
        "this target had no failures: {page}"
    );
    let (counts, next) = row(unused_address);
    assert!(counts.starts_with("75         0  "), "{page}");
    let trouble = "             75 unanswered; 0 connections opened, ";
    assert!(
        next.starts_with(trouble) && next.contains("; connection refused "),
        "{page}"
    );
    assert!(
        page.contains(&format!("no server listens at {unused_address}")),
        "{page}"
    );
    let report = load(&arguments, 1);
    let of = |place: usize, name: &str| report.count(&format!("per_target/{place}/{name}"));
    assert_eq!(
        (of(0, "connections_opened"), of(0, "connections_failed")),
        (5, 0)
    );
    assert_eq!(of(1, "connections_opened"), 0);
    assert_eq!(
        of(1, "connections_failed"),
        report.count("connections_failed")
    );
    for count in ["scheduled", "verified", "unanswered", "response_us/count"] {
        assert_eq!(of(0, count) + of(1, count), report.count(count));
    }
    assert_eq!((of(0, "verified"), of(1, "unanswered")), (75, 75));
}

#[test]
fn shares_are_equal_by_target_unless_asked_otherwise() {
    // Three connections to a target that takes 200 ms for a message: at most fifteen a second.
    let (fast, slow) = (server(|_, stream| echo(stream, |_, _| {})), slowed(200));
    let targets = format!("{fast} {slow} --connections 6 --duration 2s");
    let shares = |report: &Report| {
        [0, 1].map(|place| report.count(&format!("per_target/{place}/scheduled")))
    };
    let report = load(&format!("{targets} --rate 20"), 0);
    assert_eq!(shares(&report), [20, 20]);
    assert_eq!(report.number("per_target/0/share"), 0.5);
    assert!(report.time("per_target/1/response_us/max") >= Duration::from_millis(200));
    // Of more than it can take, the slow target gets what it takes, and the run keeps the rate.
    let ended = run(&format!(
        "load {targets} --rate 60 --pacing first-free --format json"
    ));
    let report = Report::of(ended);
    let [of_fast, of_slow] = shares(&report);
    assert!(of_slow <= 3 * (2 * 5 + 1), "{of_slow} of 200 ms each");
    assert_eq!(of_fast + of_slow, 120);
    assert_eq!(report.0["pacing"], "first-free");
}

/// Starts a server that holds every message for this many milliseconds.
fn slowed(milliseconds: u64) -> SocketAddr {
    server(move |_, stream| {
        echo(stream, |_, _| {
            thread::sleep(Duration::from_millis(milliseconds))
        });
    })
}

#[test]
#[ignore = "ten seconds"]
fn a_server_that_is_killed_or_stopped_amid_a_run_is_named_with_its_time() {
    for (stop, reported, advice) in [
        (false, "went away at ", "find out why the server at "),
        (true, "stopped answering at ", "is stopped or stuck"),
    ] {
        let mut serve = Serve::start("");
        let address = serve.address();
        let arguments = "--connections 10 --rate 500 --duration 1500ms -v --interval 100ms";
        let mut load = Process::piped(upcase(&format!("load {address} {arguments}")));
        intervals(&load, 4);
        match stop {
            true => halt(&serve.process),
            false => serve.process.child().kill().unwrap(),
        }
        if stop {
            // A second signal ends the wait for closes, which never arrive.
            until("it waits for closes", || load.stderr().contains("drain "));
            load.signal(Signal::SIGTERM);
            load.signal(Signal::SIGTERM);
        }
        let page = load.ended().expect(1).stdout;
        let sentence = format!("the server at {address} {reported}");
        let (_, rest) = page
            .split_once(&sentence)
            .unwrap_or_else(|| panic!("{page}"));
        let at: f64 = rest.split(' ').next().unwrap().parse().unwrap();
        assert!(rest.contains(" s: ") && (0.2..1.5).contains(&at), "{page}");
        assert!(page.contains(advice), "{page}");
        assert!(!page.contains("lower --rate"), "{page}");
    }
}

#[test]
fn connections_beyond_the_cap_of_a_server_are_reported_from_one_that_stopped() {
    let serve = Serve::start("--max-connections 5");
    let arguments = "--connections 8 --duration 500ms --drain 200ms";
    let page = run(&format!("load {} {arguments}", serve.address())).expect(1);
    let sentence = format!(
        "of the connections to the server at {}, 3 never received a reply while others did: 3 \
         messages sent on them",
        serve.address()
    );
    assert!(page.stdout.contains(&sentence), "{}", page.stdout);
    assert!(page.stdout.contains("--max-connections"), "{}", page.stdout);
    assert!(
        !page.stdout.contains("stopped answering"),
        "{}",
        page.stdout
    );
}

#[test]
fn how_long_connecting_takes_is_said_when_it_takes_long() {
    let serve = Serve::start("");
    let arguments = "--connections 5000 --connect-rate 10 --duration 1s";
    let mut load = Process::piped(upcase(&format!("load {} {arguments}", serve.address())));
    load.wait_for_stderr("connecting will take 8m 20s: 5,000 connections at 10 per second");
    // The first connection is opened only when signals are handled.
    common::until("a connection is open", || {
        !serve.log_state("accepted").contains("accepted 0")
    });
    load.signal(Signal::SIGINT);
    let page = load.ended().expect(4).stdout;
    assert!(
        page.contains("verdict      inconclusive, ended by a signal"),
        "{page}"
    );
    let ended = run(&format!(
        "load {} --connections 5 --duration 100ms {ANY_PACE}",
        serve.address()
    ))
    .expect(0);
    assert!(!ended.stderr.contains("connecting"), "{}", ended.stderr);
}

#[test]
fn advice_on_descriptors_can_be_followed() {
    let ended = run("load 127.0.0.1:9 --connections 9999999").expect(3);
    assert!(
        ended.stderr.contains("`sysctl -w fs.nr_open="),
        "{}",
        ended.stderr
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 30; exec \"$0\" load --connections 10"]);
    command.arg(env!("CARGO_BIN_EXE_upcase"));
    let ended = common::Ended::from(command.output().unwrap()).expect(3);
    assert!(!ended.stderr.contains("or fewer"), "{}", ended.stderr);
    assert!(ended.stderr.contains("`ulimit -Hn "), "{}", ended.stderr);
}

#[test]
fn half_of_the_local_ports_is_said_to_be_slow_with_the_sources_that_help() {
    alone(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
        let hint = "addresses with --source ADDR,ADDR,... make it fast";
        let ended = run(&format!(
            "load --connections 60 --duration 100ms {ANY_PACE}"
        ))
        .expect(0);
        assert!(
            ended.stderr.contains(&format!("2 {hint}")),
            "{}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains("60 % of the 100 local ports"),
            "{}",
            ended.stderr
        );
        let sources = "--source 127.0.0.2,127.0.0.3";
        let ended = run(&format!(
            "load --connections 60 --duration 100ms {ANY_PACE} {sources}"
        ))
        .expect(0);
        assert!(!ended.stderr.contains(hint), "{}", ended.stderr);
    });
}

#[test]
#[ignore = "ten seconds"]
fn a_server_that_goes_on_closing_is_waited_for_by_all_threads() {
    // The server closes a connection every three seconds: the two of the first thread, and then
    // that of the second thread, for which nothing happens for nine seconds. The source address
    // shows the thread.
    let closed = std::sync::Arc::new(std::sync::Mutex::new(0));
    let address = server(move |_, stream| {
        let held = stream.try_clone().unwrap();
        let is_last = held.peer_addr().unwrap().ip().to_string() == "127.0.0.3";
        echo(stream, |_, _| {});
        loop {
            let mut closed = closed.lock().unwrap();
            if !is_last || *closed == 2 {
                thread::sleep(Duration::from_secs(3));
                *closed += 1;
                return drop(held);
            }
            drop(closed);
            thread::sleep(Duration::from_millis(10));
        }
    });
    let arguments = "--threads 2 --source 127.0.0.2,127.0.0.3 --connections 3 --messages 30";
    let report = load(&format!("{address} {arguments}"), 0);
    assert_eq!(report.verdict(), "valid");
    assert_eq!(report.0["errors"], serde_json::json!({}));
}
