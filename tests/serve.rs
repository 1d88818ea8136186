//! Tests `upcase serve` as a process: real sockets, signals, limits.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Serve, connect, expect_fin, noise, read, run, until, upcase};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send};
use std::os::fd::AsRawFd;
use upcase::server::limits::Limits;
use upcase::server::stats::CloseReason;
use upcase::server::{Config, Server};

#[test]
fn answers_every_byte_value_in_order_and_then_closes() {
    let serve = Serve::start("");
    let mut client = serve.connect();
    let bytes: Vec<u8> = (0..=255).collect();
    client.write_all(&bytes).unwrap();
    assert_eq!(read(&mut client, 256), bytes.to_ascii_uppercase());
    client.write_all("grüße, ß und ÿ".as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "GRüßE, ß UND ÿ");
    assert_eq!(
        serve.stop(),
        "accepted 1, closed 1 (finished 1), 274 bytes in, 274 bytes out"
    );
}

#[test]
fn logs_one_line_for_each_listener_and_serves_both_families() {
    let command = upcase("serve --listen 127.0.0.1:0 --listen [::1]:0");
    let serve = Serve::launch(command, 2);
    for &address in &serve.addresses {
        let mut client = connect(address);
        client.write_all(b"abc").unwrap();
        assert_eq!(read(&mut client, 3), b"ABC");
    }
    assert!(serve.addresses[1].is_ipv6());
}

#[test]
fn every_byte_comes_back_when_the_client_sends_it_all_and_half_closes_before_it_reads() {
    let serve = Serve::start("");
    common::exchange_and_close(&serve.connect(), &noise(8 << 20));
}

#[test]
fn bytes_behind_an_urgent_mark_are_not_stranded() {
    let serve = Serve::start("");
    let mut client = serve.connect();
    client.write_all(b"abc").unwrap();
    send(client.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
    client.write_all(b"def").unwrap();
    assert_eq!(read(&mut client, 6), b"ABCDEF");
}

/// Sends without reading, until the kernel has accepted nothing for a while although the server had
/// time. Returns the number of bytes sent.
fn send_until_full(client: &mut TcpStream) -> usize {
    client.set_nonblocking(true).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut accepted = 0;
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(300) {
        match client.write(&chunk) {
            Ok(count) => {
                accepted += count;
                full_since = Instant::now();
                assert!(accepted < 100 << 20, "the server reads without limit");
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    client.set_nonblocking(false).unwrap();
    accepted
}

#[test]
fn a_client_that_never_reads_stops_being_read_and_holds_up_nobody() {
    let serve = Serve::start("");
    let mut greedy = serve.connect();
    let accepted = send_until_full(&mut greedy);
    let mut other = serve.connect();
    other.write_all(b"hello").unwrap();
    assert_eq!(read(&mut other, 5), b"HELLO");
    assert!(
        serve.process.resident() < 12 << 20,
        "{} bytes",
        serve.process.resident()
    );

    // The client reads now, and nothing was lost.
    greedy.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    greedy.read_to_end(&mut replies).unwrap();
    assert_eq!(replies.len(), accepted);
    assert!(replies.iter().all(|&byte| byte == b'X'));
}

#[test]
fn a_client_that_resets_is_counted_so() {
    let serve = Serve::start("-v");
    let client = serve.connect();
    let client = socket2::Socket::from(client);
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    serve.process.wait_for_stderr("closed: reset");
    assert_eq!(
        serve.stop(),
        "accepted 1, closed 1 (reset 1), 0 bytes in, 0 bytes out"
    );
}

#[test]
fn out_of_descriptors_it_neither_spins_nor_loses_clients() {
    let serve = Serve::start("");
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--nofile=50:", "--pid", &serve.process.id().to_string()]);
    assert!(prlimit.status().expect("prlimit").success());
    let mut clients: Vec<TcpStream> = (0..60).map(|_| serve.connect()).collect();
    serve.process.wait_for_stderr("Too many open files");
    let ticks = serve.process.cpu_ticks();
    thread::sleep(Duration::from_millis(500));
    let spent = serve.process.cpu_ticks() - ticks;
    assert!(spent <= 5, "{spent} of 50 ticks spent waiting");
    assert!(
        serve
            .process
            .stderr()
            .matches("Too many open files")
            .count()
            <= 3,
        "{}",
        serve.process.stderr()
    );

    // The accepted clients are served; when they close, the waiting ones are.
    for mut client in clients.drain(..25) {
        client.write_all(b"first").unwrap();
        assert_eq!(read(&mut client, 5), b"FIRST");
    }
    for client in &mut clients[..25] {
        client.write_all(b"second").unwrap();
        assert_eq!(read(client, 6), b"SECOND");
    }

    // After many connects and closes the server is woken no more often than before.
    for _ in 0..200 {
        clients.push(serve.connect());
        clients.swap_remove(0);
    }
    let sleeps = serve.process.sleeps();
    thread::sleep(Duration::from_millis(500));
    let woken = serve.process.sleeps() - sleeps;
    assert!(woken <= 60, "woken {woken} times in half a second");
}

#[test]
fn sigterm_serves_waiting_clients_and_answers_what_is_in_transfer() {
    let mut serve = Serve::start("--send-buffer 16KiB");
    let bytes = noise(4 << 20);
    let client = serve.connect();
    let mut idle = serve.connect();
    let mut waiting = thread::scope(|scope| {
        let mut sender = client.try_clone().unwrap();
        let bytes = &bytes;
        scope.spawn(move || sender.write_all(bytes).unwrap());
        let mut reply = read(&mut client.try_clone().unwrap(), 1 << 20);
        // A stopped process accepts no client: this one is in the accept queue at the signal.
        serve.process.signal(Signal::SIGSTOP);
        let mut waiting = serve.connect();
        waiting.write_all(b"i was in the queue").unwrap();
        serve.process.signal(Signal::SIGTERM);
        serve.process.signal(Signal::SIGCONT);
        (&client).read_to_end(&mut reply).unwrap();
        assert!(reply == bytes.to_ascii_uppercase(), "{} bytes", reply.len());
        waiting
    });
    assert_eq!(read(&mut waiting, 18), b"I WAS IN THE QUEUE");
    expect_fin(&mut waiting);
    expect_fin(&mut idle);
    assert!(
        TcpStream::connect(serve.address()).is_err(),
        "it still accepts clients"
    );
    drop((client, waiting, idle));
    let totals = serve.ends(0);
    assert!(
        totals.starts_with("accepted 3, closed 3 (stopped 3)"),
        "{totals}"
    );
}

#[test]
fn a_client_that_is_slow_to_read_gets_all_its_replies_after_sigterm() {
    let mut serve = Serve::start("");
    let mut client = serve.connect();
    let sent = send_until_full(&mut client);
    client.shutdown(Shutdown::Write).unwrap();
    serve.process.signal(Signal::SIGTERM);
    serve.process.wait_for_stderr("stopping");
    let mut received = 0;
    let mut part = vec![0; 256 * 1024];
    // This takes over a second and many checks of the server: a client that reads is not cut.
    while received < sent {
        thread::sleep(Duration::from_millis(50));
        received += client.read(&mut part).expect("no reset");
    }
    expect_fin(&mut client);
    let totals = serve.ends(0);
    assert!(
        totals.starts_with("accepted 1, closed 1 (finished 1)"),
        "{totals}"
    );
}

#[test]
fn a_client_that_never_falls_silent_has_its_time_and_is_not_reset() {
    let limits = Limits {
        drain_look: Duration::from_millis(20),
        drain_silence: Duration::from_millis(20),
        drain_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::bind(&Config {
        limits,
        ..Config::new(vec!["127.0.0.1:0".parse().unwrap()])
    })
    .unwrap();
    let mut client = connect(server.addresses().next().unwrap());
    let remote = server.stopper().unwrap();
    let server = thread::spawn(move || server.run());
    client.write_all(b"ping").unwrap();
    assert_eq!(read(&mut client, 4), b"PING");
    remote.stop();
    // Messages and replies alternate until the server's FIN arrives instead of a reply.
    let mut answered = 0;
    loop {
        client.write_all(b"ping").expect("no reset");
        let mut reply = [0; 4];
        match client.read(&mut reply).expect("no reset") {
            4 => answered += 1,
            0 => break,
            other => panic!("{other} bytes"),
        }
    }
    drop(client);
    let totals = server.join().unwrap().unwrap().totals;
    assert!(answered > 10, "{answered}");
    let in_order = totals.closed(CloseReason::Late) + totals.closed(CloseReason::Stopped);
    assert_eq!(in_order, 1, "{totals}");
    assert_eq!(totals.traffic.bytes_out, 4 * (answered + 1));
}

#[test]
fn a_second_signal_ends_at_once_and_says_who_was_cut() {
    let mut serve = Serve::start("");
    let mut client = serve.connect();
    send_until_full(&mut client);
    serve.process.signal(Signal::SIGTERM);
    serve.process.wait_for_stderr("stopping");
    let begun = Instant::now();
    serve.process.signal(Signal::SIGINT);
    let totals = serve.ends(1);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert!(totals.contains("(cut 1)"), "{totals}");
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_3() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = run(&format!("serve --listen 127.0.0.1:0 --listen {address}")).expect(3);
    assert_eq!(ended.stdout, "", "no address is printed unless all listen");
    assert_eq!(
        ended.stderr,
        format!(
            "upcase: cannot listen on {address}: Address already in use (os error 98); `ss -ltnp` \
             shows the program that uses it. Two servers can share a port if both have \
             --reuse-port\n"
        )
    );
}

#[test]
fn what_the_kernel_cuts_is_a_warning_with_the_sysctl() {
    let serve = Serve::start("--recv-buffer 1GiB --send-buffer 1GiB --backlog 1000000");
    for (sysctl, asked) in [
        ("net.core.rmem_max", "1073741824"),
        ("net.core.wmem_max", "1073741824"),
        ("net.core.somaxconn", "1000000"),
    ] {
        let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
        let limit = fs::read_to_string(path).unwrap();
        serve.process.wait_for_stderr(&format!(
            "requested {asked}, the kernel granted {}; the limit is sysctl {sysctl}",
            limit.trim()
        ));
    }
}

#[test]
fn the_log_goes_to_a_file_as_well() {
    let path = std::env::temp_dir().join(format!("upcase-log-{}", std::process::id()));
    let serve = Serve::start(&format!("--log-file {}", path.display()));
    serve.stop();
    let log = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let last = log.lines().last().unwrap();
    assert!(
        last.ends_with("stopped: accepted 0, closed 0, 0 bytes in, 0 bytes out"),
        "{log}"
    );
}

#[test]
fn two_hundred_clients_with_messages_of_all_sizes_do_not_disturb_each_other() {
    let serve = Serve::start("");
    let mut clients: Vec<(TcpStream, Vec<u8>)> = (0..200)
        .map(|number| (serve.connect(), noise(1 + number * 37)))
        .collect();
    for round in b"xyz".iter().copied() {
        for (client, bytes) in &mut clients {
            bytes.push(round);
            client.write_all(bytes).unwrap();
        }
        for (client, bytes) in &mut clients {
            assert!(read(client, bytes.len()) == bytes.to_ascii_uppercase());
        }
    }
    for (client, _) in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        expect_fin(client);
    }
    until("all clients have left", || {
        let path = format!("/proc/{}/fd", serve.process.id());
        fs::read_dir(path).unwrap().count() < 20
    });
    let totals = serve.stop();
    assert!(
        totals.starts_with("accepted 200, closed 200 (finished 200)"),
        "{totals}"
    );
}
