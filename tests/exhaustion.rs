//! Tests a server whose descriptors run out and become available again: prlimit(1) changes its soft
//! limit from outside while it runs.
//!
//! `UPCASE_SEED=n` repeats the random run.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::log::check_rate;
use common::totals::Totals;
use common::{Serve, expect_fin, read, until};
use nix::sys::signal::Signal;

/// Maximum time that a client may wait once a descriptor is free.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

/// Changes the soft limit on descriptors of a running server.
fn limit(serve: &Serve, descriptors: usize) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &serve.process.id().to_string()]);
    prlimit.arg(format!("--nofile={descriptors}:"));
    assert!(prlimit.status().expect("prlimit").success());
}

/// Returns the descriptor that the server's next client would get. With this number as its limit,
/// the server cannot accept another client.
fn next_descriptor(serve: &Serve) -> usize {
    let path = format!("/proc/{}/fd", serve.process.id());
    let open = fs::read_dir(path).unwrap();
    let open = open.map(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .parse()
            .unwrap()
    });
    let open: BTreeSet<usize> = open.collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

fn ping(client: &mut TcpStream) {
    client.write_all(b"ping").unwrap();
    assert_eq!(read(client, 4), b"PING");
}

fn leave(mut client: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    expect_fin(&mut client);
}

fn totals(serve: Serve) -> Totals {
    let totals: Totals = serve.stop().parse().unwrap();
    assert!(totals.balance(), "{totals:?}");
    totals
}

/// Connects clients that send a message while the server cannot accept them.
fn connect_waiting(serve: &Serve, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let mut client = serve.connect();
        client.write_all(b"wait").unwrap();
        client
    };
    (0..count).map(connect).collect()
}

#[test]
fn waiting_clients_are_served_when_descriptors_are_free_again() {
    const ROUNDS: usize = 5;
    let serve = Serve::start("");
    let mut clients: Vec<TcpStream> = (0..10).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        let full = next_descriptor(&serve);
        limit(&serve, full);
        let mut waiting = connect_waiting(&serve, 20);
        // Connected clients are served as before.
        clients.iter_mut().for_each(ping);
        assert_eq!(next_descriptor(&serve), full, "a client was accepted");
        let room = Instant::now();
        limit(&serve, 1000);
        for client in &mut waiting {
            assert_eq!(read(client, 4), b"WAIT");
        }
        waits.push(room.elapsed());
        clients.extend(waiting);
    }
    println!("waits of clients that connected without room: {waits:?}");
    waits.sort();
    assert!(waits[ROUNDS / 2] <= SERVED_WITHIN, "{waits:?}");
    serve.process.wait_for_stderr("accepting is paused with");
    clients.into_iter().for_each(leave);
    check_rate(&serve.process.stderr()).unwrap();
    let totals = totals(serve);
    assert_eq!(totals.closed("finished"), 10 + 20 * ROUNDS as u64);
}

#[test]
fn without_descriptors_it_sleeps_and_says_so_once_a_second() {
    let serve = Serve::start("");
    let mut client = serve.connect();
    ping(&mut client);
    limit(&serve, next_descriptor(&serve));
    let mut waiting = connect_waiting(&serve, 50);
    serve.process.wait_for_stderr("accepting is paused with");
    let (begun, ticks, sleeps) = (
        Instant::now(),
        serve.process.cpu_ticks(),
        serve.process.sleeps(),
    );
    thread::sleep(Duration::from_millis(2300));
    let seconds = begun.elapsed().as_secs_f64();
    let ticks = (serve.process.cpu_ticks() - ticks) as f64 / seconds;
    let sleeps = (serve.process.sleeps() - sleeps) as f64 / seconds;
    println!("without descriptors: {ticks:.1} ticks and {sleeps:.1} sleeps a second");
    assert!(ticks <= 3.0, "{ticks} of 100 ticks a second");
    assert!(sleeps <= 40.0, "woken {sleeps} times a second");
    let log = serve.process.stderr();
    check_rate(&log).unwrap();
    let reported = log.matches("accepting is paused with").count();
    assert!((2..=4).contains(&reported), "{log}");

    // When one client closes, its descriptor serves the waiting clients one after the other.
    leave(client);
    for mut client in waiting.drain(..) {
        assert_eq!(read(&mut client, 4), b"WAIT");
        leave(client);
    }
    assert_eq!(totals(serve).closed("finished"), 51);
}

#[test]
fn a_limit_below_the_open_descriptors_keeps_connected_clients() {
    let serve = Serve::start("");
    let mut clients: Vec<TcpStream> = (0..20).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    limit(&serve, 0);
    let mut waiting = connect_waiting(&serve, 5);
    for _ in 0..10 {
        clients.iter_mut().for_each(ping);
    }
    clients.drain(..10).for_each(leave);
    limit(&serve, 1000);
    for client in &mut waiting {
        assert_eq!(read(client, 4), b"WAIT");
    }
    clients.into_iter().chain(waiting).for_each(leave);
    assert_eq!(totals(serve).closed("finished"), 25);
}

#[test]
fn stopped_without_descriptors_it_serves_its_queue_all_the_same() {
    let mut serve = Serve::start("");
    let mut clients: Vec<TcpStream> = (0..5).map(|_| serve.connect()).collect();
    clients.iter_mut().for_each(ping);
    limit(&serve, next_descriptor(&serve));
    let waiting = connect_waiting(&serve, 5);
    serve.process.wait_for_stderr("accepting is paused with");
    serve.process.signal(Signal::SIGTERM);
    for mut client in clients {
        expect_fin(&mut client);
    }
    for mut client in waiting {
        assert_eq!(read(&mut client, 4), b"WAIT");
        leave(client);
    }
    let totals: Totals = serve.ends(0).parse().unwrap();
    assert!(totals.balance(), "{totals:?}");
    assert_eq!((totals.accepted, totals.bytes_out), (10, 40), "{totals:?}");
}

#[test]
fn changing_limits_lose_no_client() {
    const CLIENTS: usize = 8;
    const VISITS: usize = 150;
    let seed = std::env::var("UPCASE_SEED").ok();
    let seed = seed.map_or(1, |seed| seed.parse().expect("UPCASE_SEED is a number"));
    println!("UPCASE_SEED={seed}");
    let serve = Serve::start("");
    // After it has served a client, the server has opened all descriptors of its own.
    let mut first = serve.connect();
    ping(&mut first);
    let base = next_descriptor(&serve) - 1;
    leave(first);
    let left = AtomicUsize::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..VISITS {
                    let mut client = serve.connect();
                    ping(&mut client);
                    leave(client);
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut state: u64 = seed;
        while left.load(Ordering::Relaxed) > 0 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let spare = (state >> 33) as usize % (CLIENTS + 2);
            limit(&serve, base + spare);
        }
    });
    until("all clients have left", || next_descriptor(&serve) == base);
    check_rate(&serve.process.stderr()).unwrap();
    let totals = totals(serve);
    assert_eq!(totals.closed("finished"), 1 + (CLIENTS * VISITS) as u64);
}
