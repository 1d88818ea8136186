//! Tests the limits and timeouts of `serve` as a process: connection limits, timeouts, the drain,
//! shards.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Serve, connect, expect_fin, noise, read, run, until, upcase};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

fn ping(client: &mut TcpStream) {
    client.write_all(b"ping").unwrap();
    assert_eq!(read(client, 4), b"PING");
}

/// Returns whether nothing to read arrives within a moment.
fn receives_nothing(client: &mut TcpStream) -> bool {
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let silent = client
        .peek(&mut [0])
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    client.set_read_timeout(Some(common::TIMEOUT)).unwrap();
    silent
}

/// Returns a client whose own buffers are small, so that it acknowledges in small steps.
fn small_client(serve: &Serve) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.connect(&serve.address().into()).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(common::TIMEOUT)).unwrap();
    client
}

/// Sends without reading until the connection fails or nothing can be sent for `timeout`. Returns
/// the error, if there is one.
fn send_until_error(client: &mut TcpStream, timeout: Duration) -> Option<ErrorKind> {
    client.set_nonblocking(true).unwrap();
    let mut progress = Instant::now();
    while progress.elapsed() < timeout {
        match client.write(&[b'x'; 4096]) {
            Ok(_) => progress = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Some(error.kind()),
        }
    }
    None
}

#[test]
fn at_the_connection_limit_new_clients_wait_for_a_free_slot() {
    let serve = Serve::start("--max-connections 3");
    let mut clients: Vec<TcpStream> = (0..8).map(|_| serve.connect()).collect();
    clients[..3].iter_mut().for_each(ping);
    for waiting in &mut clients[3..] {
        waiting.write_all(b"ping").unwrap();
    }
    assert!(receives_nothing(&mut clients[3]));
    for place in 0..5 {
        clients[place].shutdown(Shutdown::Write).unwrap();
        expect_fin(&mut clients[place]);
        assert_eq!(read(&mut clients[place + 3], 4), b"PING", "in their order");
    }
    serve
        .process
        .wait_for_stderr("the limit (--max-connections, or descriptors);");
    let said = serve.process.stderr();
    assert_eq!(
        said.matches("the limit (--max-connections, or descriptors);")
            .count(),
        1,
        "{said}"
    );
    drop(clients);
    let totals = serve.stop();
    assert!(totals.starts_with("accepted 8, closed 8"), "{totals}");
}

#[test]
fn a_server_at_its_limit_serves_waiting_clients_before_it_stops() {
    let mut serve = Serve::start("--max-connections 2");
    let mut clients: Vec<TcpStream> = (0..6).map(|_| serve.connect()).collect();
    for client in &mut clients {
        client.write_all(b"ping").unwrap();
    }
    assert_eq!(read(&mut clients[0], 4), b"PING");
    serve.process.signal(Signal::SIGTERM);
    for mut client in clients {
        let mut reply = Vec::new();
        let replied = client.read_to_end(&mut reply);
        assert!(
            replied.is_ok() && (reply == b"PING" || reply.is_empty()),
            "{replied:?}"
        );
    }
    let totals = serve.ends(0);
    assert!(
        totals.starts_with("accepted 6, closed 6 (stopped 6)"),
        "{totals}"
    );
}

#[test]
fn an_address_at_its_limit_is_refused_until_it_closes_connections() {
    let serve = Serve::launch(
        upcase("serve --listen 127.0.0.1:0 --listen [::1]:0 --max-connections-per-ip 2"),
        2,
    );
    let mut clients: Vec<TcpStream> = (0..2).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    for _ in 0..3 {
        let mut refused = serve.connect();
        let error = refused.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    ping(&mut connect(serve.addresses[1]));
    clients[0].shutdown(Shutdown::Write).unwrap();
    expect_fin(&mut clients[0]);
    ping(&mut serve.connect());
    serve.process.wait_for_stderr("is reset: its address");
    let said = serve.process.stderr();
    assert_eq!(
        said.matches("is reset: its address").count(),
        1,
        "once a second: {said}"
    );
    drop(clients);
    let totals = serve.stop();
    assert!(totals.contains("refused 3"), "{totals}");
}

#[test]
fn only_idle_clients_are_closed_by_the_idle_timeout() {
    let serve = Serve::start("--idle-timeout 400ms --send-buffer 8KiB --recv-buffer 8KiB");
    let mut idle = serve.connect();
    ping(&mut idle);
    // Replies are pending for this client, which does not read: the idle timeout does not apply.
    let mut owed = small_client(&serve);
    assert_eq!(
        send_until_error(&mut owed, Duration::from_millis(100)),
        None
    );
    let begun = Instant::now();
    let mut talker = serve.connect();
    while begun.elapsed() < Duration::from_millis(1200) {
        ping(&mut talker);
        thread::sleep(Duration::from_millis(100));
    }
    expect_fin(&mut idle);
    drop(idle);
    ping(&mut talker);
    expect_fin(&mut talker);
    drop(talker);
    owed.set_nonblocking(false).unwrap();
    owed.shutdown(Shutdown::Write).unwrap();
    let mut replies = Vec::new();
    owed.read_to_end(&mut replies).expect("it was not closed");
    let totals = serve.stop();
    assert!(totals.contains("(finished 1, idle 2)"), "{totals}");
}

#[test]
fn clients_below_the_minimum_rate_are_reset_and_slow_readers_are_not() {
    let serve = Serve::start(
        "--stall-timeout 1500ms --min-rate 8KiB --send-buffer 16KiB --recv-buffer 16KiB",
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut never = small_client(&serve);
            let error = send_until_error(&mut never, common::TIMEOUT);
            assert_eq!(error, Some(ErrorKind::ConnectionReset));
        });
        scope.spawn(|| {
            let mut drip = small_client(&serve);
            assert_eq!(
                send_until_error(&mut drip, Duration::from_millis(100)),
                None
            );
            drip.set_nonblocking(false).unwrap();
            // The reset is reported before the client has read the bytes that it still has.
            until("the drip is reset", || {
                drip.read_exact(&mut [0]).unwrap();
                let error = drip.take_error().unwrap();
                error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
            });
        });
        scope.spawn(|| {
            let slow = small_client(&serve);
            let bytes = noise(200 << 10);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&slow).write_all(&bytes).unwrap();
                    slow.shutdown(Shutdown::Write).unwrap();
                });
                // 40 KiB a second, five times the required rate, for more than three timeouts.
                let mut replies = Vec::<u8>::new();
                let mut part = [0; 4096];
                loop {
                    match (&slow).read(&mut part).expect("it is not reset") {
                        0 => break,
                        count => replies.extend(&part[..count]),
                    }
                    thread::sleep(Duration::from_millis(100));
                }
                assert!(
                    replies == bytes.to_ascii_uppercase(),
                    "{} bytes",
                    replies.len()
                );
            });
        });
    });
    let totals = serve.stop();
    assert!(totals.contains("(finished 1, stalled 2)"), "{totals}");
}

#[test]
fn the_drain_timeout_ends_active_and_stalled_clients() {
    let mut serve = Serve::start("--drain-timeout 1s");
    let mut owed = serve.connect();
    assert_eq!(
        send_until_error(&mut owed, Duration::from_millis(300)),
        None
    );
    let mut talker = serve.connect();
    ping(&mut talker);
    serve.process.signal(Signal::SIGTERM);
    let mut pongs = 0;
    loop {
        talker.write_all(b"ping").expect("no reset");
        match talker.read(&mut [0; 4]).expect("no reset") {
            0 => break,
            _ => pongs += 1,
        }
    }
    drop(talker);
    assert!(pongs > 10, "{pongs}");
    let totals = serve.ends(1);
    assert!(totals.contains("cut 1"), "{totals}");
    owed.set_nonblocking(false).unwrap();
    let replies = owed.read_to_end(&mut Vec::new());
    let error = replies.expect_err("a reset: FIN would say that this was all");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn shards_share_the_clients_and_add_up() {
    let serve = Serve::start("--shards 3");
    let mut clients: Vec<TcpStream> = (0..60).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    serve.process.signal(Signal::SIGUSR1);
    serve.process.wait_for_stderr(
        "60 open, 0 bytes pending, accepted 60, closed 0, 240 bytes in, 240 bytes out",
    );
    serve.process.signal(Signal::SIGTERM);
    for client in &mut clients {
        expect_fin(client);
    }
    drop(clients);
    for shard in 0..3 {
        let busy = format!("shard {shard}: stopping");
        assert!(
            serve.process.stderr().contains(&busy),
            "{}",
            serve.process.stderr()
        );
    }
    let totals = { serve }.ends(0);
    assert!(
        totals.starts_with("accepted 60, closed 60 (stopped 60)"),
        "{totals}"
    );
}

#[test]
fn a_second_signal_is_heard_when_the_first_shard_has_nobody_left() {
    let mut serve = Serve::start("--shards 8 --drain-timeout 1h");
    // The client is on one of eight shards; if that is the first one, this test shows nothing.
    let mut owed = serve.connect();
    assert_eq!(
        send_until_error(&mut owed, Duration::from_millis(100)),
        None
    );
    serve.process.signal(Signal::SIGTERM);
    let threads = format!("/proc/{}/task", serve.process.id());
    // Three threads are left: the first shard, the client's shard, and the writer of the log.
    until("the others have ended", || {
        fs::read_dir(&threads).unwrap().count() <= 3
    });
    serve.process.signal(Signal::SIGUSR1);
    serve.process.wait_for_stderr("1 open");
    serve.process.signal(Signal::SIGTERM);
    let totals = serve.ends(1);
    assert!(totals.contains("(cut 1)"), "{totals}");
}

#[test]
fn shards_do_not_share_a_port_with_another_process_unless_they_are_reported_to() {
    let serve = Serve::start("--shards 2");
    let address = serve.address();
    let ended = run(&format!("serve --listen {address} --shards 2")).expect(3);
    assert!(ended.stderr.contains("Address already in use"), "{ended:?}");
}

#[test]
fn every_client_has_a_keepalive_timer_unless_it_is_off() {
    // The field tr of proc_net_tcp: 2 is a keepalive timer.
    let timer = |serve: &Serve| {
        let client = serve.connect();
        let local = format!(":{:04X}", serve.address().port());
        let remote = format!(":{:04X}", client.local_addr().unwrap().port());
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = |line: &str| line.split_whitespace().map(str::to_string).collect();
        let rows = table.lines().map(fields).collect::<Vec<Vec<String>>>();
        let ours = |row: &&Vec<String>| row[1].ends_with(&local) && row[2].ends_with(&remote);
        rows.iter().find(ours).unwrap()[5][..2].to_string()
    };
    assert_eq!(timer(&Serve::start("")), "02");
    assert_eq!(timer(&Serve::start("--keepalive off")), "00");
}

#[test]
fn without_room_for_clients_it_says_so_and_does_not_start() {
    let binary = env!("CARGO_BIN_EXE_upcase");
    let script = format!("ulimit -n 20; exec {binary} serve --listen 127.0.0.1:0");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the limit on descriptors, 20"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_wrong_limit_is_one_line_and_exit_code_2() {
    for bad in [
        "--max-connections 0",
        "--max-connections-per-ip 0",
        "--idle-timeout 0s",
        "--stall-timeout never",
        "--min-rate 0",
        "--keepalive 10ms",
        "--drain-timeout off",
        "--turn-bytes 0",
        "--turn-accepts 0",
        "--shards 0",
        "--shards 1000",
    ] {
        let ended = run(&format!("serve --listen 127.0.0.1:0 {bad}")).expect(2);
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

/// Returns how many of these clients get a reply. All have sent a byte before.
fn answered(clients: &mut [TcpStream]) -> usize {
    let mut count = 0;
    for client in clients {
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        count += usize::from(client.read_exact(&mut [0]).is_ok());
    }
    count
}

#[test]
fn the_connection_limit_is_shared_by_all_shards() {
    const CAP: usize = 8;
    let serve = Serve::start("--shards 4 --max-connections 8");
    let connect = || {
        let mut client = serve.connect();
        client.write_all(b"q").unwrap();
        client
    };
    let mut clients: Vec<TcpStream> = (0..CAP).map(|_| connect()).collect();
    assert_eq!(answered(&mut clients), CAP);
    // The kernel distributes them over the shards; it does not matter whose clients leave.
    let mut waiting: Vec<TcpStream> = (0..3 * CAP).map(|_| connect()).collect();
    serve
        .process
        .wait_for_stderr("8 connections open, the limit (--max-connections, or descriptors);");
    assert!(waiting.iter_mut().all(receives_nothing), "beyond the limit");
    while !waiting.is_empty() {
        let mut first = clients.remove(0);
        first.shutdown(Shutdown::Write).unwrap();
        expect_fin(&mut first);
        drop(first);
        let mut served = None;
        until("a waiting client is served", || {
            served = waiting.iter_mut().position(|it| !hears_nothing_now(it));
            served.is_some()
        });
        let mut client = waiting.swap_remove(served.unwrap());
        assert_eq!(read(&mut client, 1), b"Q");
        clients.push(client);
    }
    drop(clients);
    let totals = serve.stop();
    assert!(totals.starts_with("accepted 32, closed 32"), "{totals}");
}

/// Returns whether there is nothing to read now.
fn hears_nothing_now(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let found = client.peek(&mut [0]);
    client.set_nonblocking(false).unwrap();
    found.is_err()
}

#[test]
fn fewer_clients_than_shards_may_be_allowed() {
    let serve = Serve::start("--shards 3 --max-connections 1");
    for _ in 0..20 {
        let mut client = serve.connect();
        ping(&mut client);
        client.shutdown(Shutdown::Write).unwrap();
        expect_fin(&mut client);
    }
    let totals = serve.stop();
    assert!(
        totals.starts_with("accepted 20, closed 20 (finished 20)"),
        "{totals}"
    );
}

#[test]
fn the_share_of_an_address_is_that_of_all_shards() {
    let serve = Serve::start("--shards 4 --max-connections-per-ip 3");
    let mut clients: Vec<TcpStream> = (0..3).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    for _ in 0..10 {
        let error = serve.connect().read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let reported = "its address has 3 connections open, the limit of --max-connections-per-ip";
    serve.process.wait_for_stderr(reported);
    let mut first = clients.remove(0);
    first.shutdown(Shutdown::Write).unwrap();
    expect_fin(&mut first);
    ping(&mut serve.connect());
    drop(clients);
    let totals = serve.stop();
    assert!(totals.contains("refused 10"), "{totals}");
}

#[test]
fn the_reported_limit_respects_the_descriptor_limit() {
    let serve = Serve::start("--max-connections 1000000");
    serve.process.wait_for_stderr("serving at most ");
    let said = serve.process.stderr();
    let room = said.split("allows only ").nth(1).expect(&said);
    let room = room.split(" clients; raise").next().expect(&said);
    assert!(
        said.contains(&format!("serving at most {room} clients")),
        "{said}"
    );
}
