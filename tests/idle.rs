//! Tests the cost of ten thousand idle connections with timeouts on: almost no system calls between
//! the keep-alive probes, which take three calls for each connection in two minutes.

mod common;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::crowd::{Crowd, Habit};
use common::{Process, Serve, TIMEOUT, Temporary, lab};
use nix::sys::signal::Signal;

const CLIENTS: usize = 10_000;

/// Time of sleep after which the server counts as idle: longer than a quarter of the stall timeout
/// and its granularity, so that it has checked what was sent.
const SETTLED: Duration = Duration::from_secs(9);

const WINDOW: Duration = Duration::from_secs(20);

#[test]
#[ignore = "a minute and a half, and 20,000 descriptors"]
fn ten_thousand_idle_connections_cost_at_most_one_system_call_a_second() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    lab::alone(|| {
        for shards in [1, 2] {
            let arguments = format!("--idle-timeout 10m --shards {shards}");
            let calls = calls_while_idle(&arguments);
            println!("{arguments}: {calls} system calls in {WINDOW:?}, one client's included");
            // The count is that of all shards together, which is stricter than required.
            assert!(calls <= WINDOW.as_secs(), "{calls}");
        }
    });
}

fn calls_while_idle(arguments: &str) -> u64 {
    let serve = Serve::start(arguments);
    let mut crowd = Crowd::new(Habit {
        bytes: 64,
        closes: false,
        reads: true,
        buffers: None,
    });
    crowd.join_all(CLIENTS, serve.address());
    crowd.until("each has had its reply", |clients| {
        clients.iter().all(|client| client.received == 64)
    });
    wait_until_settled(&serve.process);
    let calls = system_calls(&serve);
    crowd.turn(Duration::ZERO);
    assert_eq!(crowd.open(), CLIENTS, "{}", crowd.summary());
    crowd.break_off();
    calls
}

/// Waits until the process has slept for [`SETTLED`] without a wake-up.
fn wait_until_settled(process: &Process) {
    let deadline = Instant::now() + 3 * TIMEOUT;
    let (mut sleeps, mut since) = (process.sleeps(), Instant::now());
    while since.elapsed() < SETTLED {
        assert!(
            Instant::now() < deadline,
            "the process does not become idle"
        );
        thread::sleep(Duration::from_millis(100));
        if process.sleeps() != sleeps {
            (sleeps, since) = (process.sleeps(), Instant::now());
        }
    }
}

/// Counts the system calls of [`WINDOW`] and those of one more client, which show that calls are
/// counted.
fn system_calls(serve: &Serve) -> u64 {
    let table = Temporary::new(b"");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&table.0);
    strace.args(["-p", &serve.process.id().to_string()]);
    let mut strace = Process::start(strace);
    strace.wait_for_stderr("attached");
    thread::sleep(WINDOW);
    let mut client = serve.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(common::read(&mut client, 5), b"HELLO");
    strace.signal(Signal::SIGINT);
    strace.wait();
    let counted = fs::read_to_string(&table.0).unwrap();
    print!("{counted}");
    let total = counted.lines().find(|line| line.ends_with("total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    calls.expect("the last client's calls at least")
}
