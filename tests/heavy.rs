//! Tests memory, system calls per message and timing at full scale, which take long or much of the
//! machine: ignored by default, run one at a time by `.ci/run` on a release build.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{ANY_PACE, Process, Serve, noise, run};
use nix::sys::signal::Signal;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

#[test]
#[ignore = "takes 30,000 descriptors"]
fn fifteen_thousand_connections_in_twelve_megabytes() {
    let serve = Serve::start("");
    let before = serve.process.resident();
    let mut peak = 0;
    let arguments = format!(
        "load {} --connections 15000 --messages 150000 --format json {ANY_PACE}",
        serve.address()
    );
    let report = thread::scope(|scope| {
        let load = scope.spawn(move || run(&arguments).expect(0).json());
        while !load.is_finished() {
            peak = peak.max(serve.process.resident());
            thread::sleep(std::time::Duration::from_millis(10));
        }
        load.join().unwrap()
    });
    println!("server's resident memory: {before} bytes at start, {peak} at its peak");
    assert_eq!(report["connections_opened"], 15_000);
    assert_eq!(report["verified"], 150_000);
    assert!(peak < 12 << 20, "{peak} bytes");
}

#[test]
#[ignore = "about half a minute: 64 MiB through a window of a few KiB"]
fn sixty_four_mebibytes_and_fin_through_the_smallest_send_buffer() {
    let serve = Serve::start("--send-buffer 4KiB");
    common::exchange_and_close(&serve.connect(), &noise(64 << 20));
    serve.stop();
}

#[test]
#[ignore = "needs strace, and a quiet machine for a fair number of messages"]
fn at_most_two_and_a_tenth_system_calls_a_message() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let serve = Serve::start("");
    let table = std::env::temp_dir().join(format!("upcase-strace-{}", std::process::id()));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&table);
    strace.args(["-p", &serve.process.id().to_string()]);
    let mut strace = Process::start(strace);
    strace.wait_for_stderr("attached");
    let arguments = format!(
        "load {} --messages 200000 --format json {ANY_PACE}",
        serve.address()
    );
    let report = run(&arguments).expect(0).json();
    strace.signal(Signal::SIGINT);
    strace.wait();
    let counted = fs::read_to_string(&table).unwrap();
    fs::remove_file(&table).unwrap();
    let table = counted;
    let calls = |line: &str| line.split_whitespace().nth(3)?.parse::<f64>().ok();
    let total = table
        .lines()
        .find(|line| line.ends_with("total"))
        .and_then(calls)
        .unwrap();
    let messages = report["verified"].as_f64().unwrap();
    println!("{table}{:.3} system calls a message", total / messages);
    assert!(total / messages <= 2.1, "{table}");
}

#[test]
#[ignore = "writes and transcribes a file of a million packets"]
fn memory_stays_flat_for_a_file_of_a_million_packets() {
    const PACKETS_OF_A_CONNECTION: u64 = 36;
    let mut peaks = Vec::new();
    for packets in [100_000, 1_000_000] {
        let path = std::env::temp_dir().join(format!("upcase-heavy-{}", std::process::id()));
        fs::write(&path, common::craft::capture_of(packets)).unwrap();
        let mut command = common::upcase(&format!("sniff --read {} --brief", path.display()));
        let verdict = path.with_extension("reported");
        command.stdout(fs::File::create(&verdict).unwrap());
        let mut sniff = Process::start(command);
        let mut peak = 0;
        while sniff.child().try_wait().unwrap().is_none() {
            peak = sniff.peak_resident().unwrap_or(0).max(peak);
            thread::sleep(std::time::Duration::from_millis(1));
        }
        let reported = fs::read_to_string(&verdict).unwrap();
        let all = upcase::units::counted(packets as u64, "packet");
        assert!(
            reported.contains(&format!("{all}, ")),
            "the end is not reported"
        );
        fs::remove_file(&path).unwrap();
        fs::remove_file(&verdict).unwrap();
        println!("{packets} packets: {peak} bytes at the peak");
        peaks.push(peak);
    }
    // Ended connections are kept for the length of TIME-WAIT: less than a hundred bytes each, in a
    // table that may be half empty. Nothing else grows.
    let ended = (1_000_000 - 100_000) / PACKETS_OF_A_CONNECTION;
    assert!(peaks[1] < peaks[0] + ended * 256, "{peaks:?}");
}

#[test]
#[ignore = "measures microseconds: the machine must be otherwise idle"]
fn a_paced_client_measures_what_a_bare_one_does() {
    const SETS: usize = 8;
    let serve = Serve::start("");
    // The machine is shared: one undisturbed set of rounds is enough.
    let good = (0..SETS).any(|_| {
        let (service, lateness) = paced_to_bare(serve.address());
        println!("paced to bare, median: service {service:.3}, lateness asleep {lateness:.3}");
        (0.85..=1.15).contains(&service) && lateness <= 1.5
    });
    let (spinning, bare) = after_a_bare_client(serve.address(), "--spin");
    let spinning = spinning["own_us"]["p50"].as_f64().unwrap();
    println!("own lateness p50 {spinning} us spinning, bare {bare:?}");
    assert!(good, "in none of {SETS} sets");
    assert!(spinning < bare.lateness / 4.0, "{spinning}, {bare:?}");
}

/// Returns the service time and the own lateness of a paced client, each as a multiple of those of
/// a bare (blocking) client: the medians of several rounds.
fn paced_to_bare(target: SocketAddr) -> (f64, f64) {
    const ROUNDS: usize = 9;
    let mut ratios: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let (report, bare) = after_a_bare_client(target, "");
            let service = report["service_us"]["p50"].as_f64().unwrap();
            let late = report["own_us"]["p50"].as_f64().unwrap();
            println!("service p50 {service} us, own lateness p50 {late} us asleep, {bare:?}");
            (service / bare.service, late / bare.lateness)
        })
        .collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let service = ratios[ROUNDS / 2].0;
    ratios.sort_by(|a, b| a.1.total_cmp(&b.1));
    (service, ratios[ROUNDS / 2].1)
}

/// Returns the report of a paced run over one connection, and the results of a blocking client that
/// sends at the same pace. They run one after the other: in parallel, the sends of one would decide
/// whether the other finds the server awake or asleep.
fn after_a_bare_client(target: SocketAddr, arguments: &str) -> (serde_json::Value, Bare) {
    let bare = bare_client(target, 1500);
    let arguments = format!(
        "load {target} --connections 1 --rate 1000 --messages 1500 --format json \
         {ANY_PACE},server-bound {arguments}"
    );
    (run(&arguments).expect(0).json(), bare)
}

/// Results of a blocking client: medians in microseconds.
#[derive(Debug)]
struct Bare {
    service: f64,
    lateness: f64,
}

/// Measures a blocking client. A timerfd wakes it, as it wakes the paced client: nanosleep(2) would
/// add the thread's timer slack.
fn bare_client(target: SocketAddr, messages: u32) -> Bare {
    let mut stream = TcpStream::connect(target).unwrap();
    stream.set_nodelay(true).unwrap();
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap();
    let (mut round_trips, mut lateness) = (Vec::new(), Vec::new());
    let mut bytes = [b'x'; 64];
    let start = Instant::now();
    for number in 1..=messages {
        let due = start + Duration::from_millis(1) * number;
        let ahead = due.saturating_duration_since(Instant::now());
        if !ahead.is_zero() {
            let alarm = Expiration::OneShot(ahead.into());
            timer.set(alarm, TimerSetTimeFlags::empty()).unwrap();
            timer.wait().unwrap();
        }
        let sent = Instant::now();
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        round_trips.push(sent.elapsed());
        lateness.push(sent.saturating_duration_since(due));
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    Bare {
        service: median(&mut round_trips),
        lateness: median(&mut lateness),
    }
}
