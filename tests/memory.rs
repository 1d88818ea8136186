//! Tests a server whose memory runs out: prlimit(1) changes its limit on data from outside while it
//! runs. A client for which memory is missing is reset or waits; all others are served.

mod common;

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::crowd::{Crowd, End, Habit};
use common::totals::Totals;
use common::{Serve, expect_fin, read};

const MIB: u64 = 1 << 20;

/// Changes the soft limit on the data of a running server. Address space would not do: the
/// allocator has 64 MiB of it in reserve for each thread.
fn limit(serve: &Serve, bytes: &str) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &serve.process.id().to_string()]);
    prlimit.arg(format!("--data={bytes}:"));
    assert!(prlimit.status().expect("prlimit").success());
}

/// Limits the server to its present data and this many bytes more.
fn leave(serve: &Serve, bytes: u64) {
    let path = format!("/proc/{}/status", serve.process.id());
    let status = fs::read_to_string(path).unwrap();
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let data = data.and_then(|data| data.trim().strip_suffix(" kB"));
    let data: u64 = data.unwrap().parse().unwrap();
    limit(serve, &(data * 1024 + bytes).to_string());
}

fn ping(client: &mut TcpStream) {
    client.write_all(b"ping").unwrap();
    assert_eq!(read(client, 4), b"PING");
}

#[test]
fn clients_without_memory_are_reset_and_others_are_served() {
    const CLIENTS: usize = 200;
    // Each client that never reads has 64 KiB of replies pending in the server: 12 MiB together.
    let serve = Serve::start("--send-buffer 4KiB --stall-timeout off");
    let mut well = serve.connect();
    ping(&mut well);
    leave(&serve, 4 * MIB);
    let mut crowd = Crowd::new(Habit {
        bytes: 4 * MIB,
        closes: false,
        reads: false,
        buffers: Some(64 << 10),
    });
    crowd.join_all(CLIENTS, serve.address());
    // Clients that do not read notice a reset when they write.
    crowd.until("some are reset", |clients| {
        clients.iter().filter(|client| client.end.is_some()).count() >= 20
    });
    for _ in 0..10 {
        ping(&mut well);
        crowd.turn(Duration::from_millis(1));
    }
    for (_, end) in crowd.clients.iter().filter_map(|client| client.end) {
        assert!(matches!(end, End::Broken(_)), "{}", crowd.summary());
    }
    serve.process.wait_for_stderr("is reset: out of memory");
    assert!(crowd.open() >= 10, "{}", crowd.summary());
    limit(&serve, "unlimited");
    let mut newcomer = serve.connect();
    ping(&mut newcomer);
    for mut client in [well, newcomer] {
        client.shutdown(Shutdown::Write).unwrap();
        expect_fin(&mut client);
    }
    crowd.break_off();
    let totals: Totals = serve.stop().parse().unwrap();
    assert!(totals.balance(), "{totals:?}");
    assert_eq!(totals.closed("finished"), 2, "{totals:?}");
    assert!(totals.closed("failed") >= 20, "{totals:?}");
}

#[test]
fn without_memory_for_the_slab_new_clients_wait_until_there_is_some() {
    const CLIENTS: usize = 6000;
    upcase::sys::descriptor_limit::raise_descriptor_limit().unwrap();
    let serve = Serve::start("--idle-timeout 1h");
    let mut well = serve.connect();
    ping(&mut well);
    leave(&serve, 0);
    let mut crowd = Crowd::new(Habit {
        bytes: 1,
        closes: false,
        reads: true,
        buffers: None,
    });
    crowd.join_all(CLIENTS, serve.address());
    for _ in 0..100 {
        crowd.turn(Duration::from_millis(5));
        ping(&mut well);
    }
    let served = crowd.clients.iter().filter(|it| it.received == 1).count();
    println!("{served} of {CLIENTS} were served without more memory");
    let said = serve.process.stderr();
    assert!(said.contains("memory"), "{said}");
    limit(&serve, "unlimited");
    crowd.until("all others are served", |clients| {
        clients
            .iter()
            .all(|it| it.received == 1 || it.end.is_some())
    });
    let reset = CLIENTS - crowd.open();
    println!("{reset} were reset, which could not be registered");
    ping(&mut serve.connect());
    crowd.break_off();
    drop(well);
    let totals: Totals = serve.stop().parse().unwrap();
    assert!(totals.balance(), "{totals:?}");
    assert_eq!(totals.closed("failed"), reset as u64, "{totals:?}");
}
