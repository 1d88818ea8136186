//! Tests stopping and restarting `serve`: no client loses replies or a connection by it.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::crowd::{Crowd, Habit};
use common::{Process, Serve, lab, peers, until, upcase};
use nix::sys::signal::Signal;
use upcase::units::grouped;

#[test]
fn sigterm_amid_three_hundred_transfers_loses_no_byte() {
    stop_amid_transfers(300, 30);
}

#[test]
#[ignore = "10,600 descriptors"]
fn sigterm_amid_five_thousand_transfers_loses_no_byte() {
    lab::alone(|| stop_amid_transfers(5000, 300));
}

/// Sends SIGTERM while this many clients are in mid-transfer and this many wait in the accept
/// queue.
fn stop_amid_transfers(clients: usize, waiting: usize) {
    const FIRST: u64 = 8 << 10;
    const DRAIN: Duration = Duration::from_secs(30);
    let whole = Habit {
        bytes: 160 << 10,
        closes: true,
        reads: true,
        buffers: Some(16 << 10),
    };
    let mut serve = Serve::start("--send-buffer 16KiB --recv-buffer 16KiB --drain-timeout 30s");
    let mut crowd = Crowd::new(Habit {
        bytes: FIRST,
        closes: false,
        ..whole
    });
    crowd.join_all(clients, serve.address());
    crowd.until("each has had its first replies", |clients| {
        clients.iter().all(|client| client.received == FIRST)
    });

    // A stopped process accepts no client and sends no reply.
    peers::halt(&serve.process);
    crowd.join_all(waiting, serve.address());
    crowd.change(whole);
    crowd.until("each has sent more", |all| {
        let (old, new) = all.split_at(clients);
        old.iter().all(|client| client.sent > FIRST) && new.iter().all(|client| client.sent > 0)
    });
    let half_done = |sent: u64| sent < whole.bytes;
    assert!(crowd.clients.iter().all(|client| half_done(client.sent)));
    serve.process.signal(Signal::SIGTERM);
    serve.process.signal(Signal::SIGCONT);
    let begun = Instant::now();

    crowd.until_all_have_ended();
    let served = crowd.clients.iter();
    let served = served
        .filter(|client| client.is_served(whole.bytes))
        .count();
    let all = clients + waiting;
    assert_eq!(served, all, "{}", crowd.summary());
    let totals = serve.ends(0);
    let bytes = grouped(all as u64 * whole.bytes);
    let all = grouped(all as u64);
    let expected = format!(
        "accepted {all}, closed {all} (finished {all}), {bytes} bytes in, {bytes} bytes out"
    );
    assert_eq!(totals, expected);
    println!("{all} clients served, stopped after {:?}", begun.elapsed());
    assert!(begun.elapsed() < DRAIN);
}

#[test]
fn a_client_that_pauses_in_its_transfer_is_not_taken_for_one_that_has_ended() {
    const PAUSE: Duration = Duration::from_millis(600);
    // A round whose pause the machine lengthened shows nothing, and is repeated.
    let shown = (0..10).any(|_| {
        let mut serve = Serve::start("--drain-timeout 30s");
        let mut client = serve.connect();
        client.write_all(b"first half, ").unwrap();
        assert_eq!(common::read(&mut client, 12), b"FIRST HALF, ");
        let begun = Instant::now();
        serve.process.signal(Signal::SIGTERM);
        // A lost segment, or a turn on a busy machine, takes this long.
        thread::sleep(PAUSE);
        client.write_all(b"second half").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let pause = begun.elapsed();
        let mut rest = Vec::new();
        let outcome = client.read_to_end(&mut rest);
        if pause > PAUSE + Duration::from_millis(200) {
            return false;
        }
        outcome.expect("no reset");
        assert_eq!(rest, b"SECOND HALF");
        assert_eq!(
            serve.ends(0),
            "accepted 1, closed 1 (finished 1), 23 bytes in, 23 bytes out"
        );
        true
    });
    assert!(shown, "this machine pauses too often");
}

#[test]
#[ignore = "ten seconds; needs root"]
fn restarts_under_a_thousand_connects_a_second_lose_nobody_where_the_kernel_passes_them_on() {
    lab::alone(|| {
        fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").unwrap();
        for arguments in ["--shards 1", "--shards 2"] {
            let slow = restart_under_connects(arguments);
            assert_eq!(slow, 0, "a SYN was lost");
        }
    });
}

#[test]
#[ignore = "ten seconds; needs root"]
fn restarts_under_a_thousand_connects_a_second_reset_nobody_where_it_does_not() {
    lab::alone(|| {
        fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "0").unwrap();
        restart_under_connects("--shards 1");
    });
}

/// Restarts the server under a steady rate of connects, and checks that every client is served.
/// Returns the number of clients that took so long that a SYN must have been lost.
fn restart_under_connects(arguments: &str) -> usize {
    const BYTES: u64 = 1000;
    let mut crowd = Crowd::new(Habit {
        bytes: BYTES,
        closes: true,
        reads: true,
        buffers: None,
    });
    let arguments = format!("serve --listen 127.0.0.1:12000 --reuse-port {arguments}");
    let start = || Serve::launch(upcase(&arguments), 1);
    let joined = AtomicUsize::new(0);
    let first = start();
    let address = first.address();
    thread::scope(|scope| {
        let restarts = scope.spawn(|| restart(first, start, &joined));
        let begun = Instant::now();
        while !restarts.is_finished() {
            let due = begun.elapsed().as_millis() as usize;
            for _ in crowd.clients.len()..due {
                crowd.join(address);
            }
            joined.store(crowd.clients.len(), Ordering::Relaxed);
            crowd.turn(Duration::from_millis(1));
        }
        let rate = crowd.clients.len() as f64 / begun.elapsed().as_secs_f64();
        crowd.until_all_have_ended();
        println!("{arguments}: {rate:.0} connects a second");
        restarts.join().unwrap().stop();
    });
    let served = crowd
        .clients
        .iter()
        .filter(|client| client.is_served(BYTES));
    assert_eq!(served.count(), crowd.clients.len(), "{}", crowd.summary());
    let times = crowd
        .clients
        .iter()
        .map(|client| client.end.unwrap().0 - client.begun);
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    // The kernel retransmits a SYN after a second, see RFC 6298.
    let slow = times
        .iter()
        .filter(|&&time| time > Duration::from_millis(900));
    let slow = slow.count();
    println!(
        "{} clients, all served; from connect to FIN: median {:?}, slowest {:?}, {slow} over 0.9 s",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    slow
}

/// Starts another server and drains the old one, several times in a row. Returns the last server.
fn restart(first: Serve, start: impl Fn() -> Serve, joined: &AtomicUsize) -> Serve {
    const RESTARTS: usize = 5;
    const CLIENTS_BETWEEN: usize = 700;
    let mut server = first;
    for _ in 0..RESTARTS {
        let goal = joined.load(Ordering::Relaxed) + CLIENTS_BETWEEN;
        until("more clients have connected", || {
            joined.load(Ordering::Relaxed) >= goal
        });
        let old = std::mem::replace(&mut server, start());
        println!("  {}", old.stop());
    }
    server
}

#[test]
fn two_signals_in_one_turn_are_two() {
    let mut serve = Serve::start("--drain-timeout 1h");
    let mut client = serve.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(common::read(&mut client, 5), b"HELLO");
    thread::scope(|scope| {
        // The client is never silent for long: only the second signal ends this server soon.
        scope.spawn(|| {
            let mut client = &client;
            while client.write_all(b"ping").is_ok() && matches!(client.read(&mut [0; 4]), Ok(1..)) {
            }
        });
        peers::halt(&serve.process);
        // Of two equal signals the kernel keeps one for a stopped process, see signal(7).
        serve.process.signal(Signal::SIGTERM);
        serve.process.signal(Signal::SIGINT);
        serve.process.signal(Signal::SIGCONT);
        let status = serve.process.wait();
        assert!(matches!(status.code(), Some(0 | 1)), "{status:?}");
    });
    serve.process.wait_for_stderr("second request to stop");
}

#[test]
#[ignore = "measures milliseconds, and loads the machine"]
fn a_second_signal_ends_within_fifty_milliseconds_also_under_load() {
    let limit = Duration::from_millis(50);
    let idle = time_of_ends(Load::None, Arrival::Apart);
    let loaded = time_of_ends(Load::Full, Arrival::Apart);
    let together = time_of_ends(Load::Full, Arrival::Together);
    assert!(idle <= limit, "idle: {idle:?}");
    assert!(loaded <= limit, "loaded: {loaded:?}");
    assert!(together <= limit, "in one turn: {together:?}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    None,
    /// Eight bulk streams, and 1,000 connections with one message at a time.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// The second signal is sent after the server has logged the first one.
    Apart,
    /// Both are sent while the process is stopped.
    Together,
}

/// Returns the time from the second signal to the end of the process that a third of the rounds
/// kept. The load alone takes all of two processors, and the rest of the machine takes its share.
fn time_of_ends(load: Load, arrival: Arrival) -> Duration {
    const ROUNDS: usize = 9;
    let time = |_| time_to_end(load, arrival);
    let mut times: Vec<Duration> = (0..ROUNDS).map(time).collect();
    times.sort_unstable();
    println!("load {load:?}, signals {arrival:?}: {times:?}");
    times[ROUNDS / 3]
}

fn time_to_end(load: Load, arrival: Arrival) -> Duration {
    let mut serve = Serve::start("--drain-timeout 1h");
    let target = serve.address();
    let client = |arguments: &str| {
        let load = format!("load {target} {arguments} --duration 1h -v --interval 50ms");
        Process::piped(upcase(&load))
    };
    let clients = match load {
        Load::None => vec![client("--connections 1 --think 1h")],
        Load::Full => vec![
            client("--connections 8 --size 1MiB --depth 2"),
            client("--connections 1000"),
        ],
    };
    clients
        .iter()
        .for_each(|client| peers::intervals(client, 2));
    if arrival == Arrival::Together {
        peers::halt(&serve.process);
    }
    serve.process.signal(Signal::SIGTERM);
    if arrival == Arrival::Apart {
        serve.process.wait_for_stderr("stopping: ");
    }
    let begun = Instant::now();
    serve.process.signal(Signal::SIGINT);
    serve.process.signal(Signal::SIGCONT);
    serve.process.child().wait().unwrap();
    begun.elapsed()
}
