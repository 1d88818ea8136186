//! What takes long, or much of the machine: ignored by default, run one at a time by `.ci/run` on
//! a release build.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Process, Serve, noise, run};
use nix::sys::signal::Signal;

#[test]
#[ignore = "takes 30,000 descriptors"]
fn fifteen_thousand_connections_in_twelve_megabytes() {
    let serve = Serve::start("");
    let before = serve.process.resident();
    let mut peak = 0;
    let arguments = format!(
        "load {} --connections 15000 --messages 150000 --format json",
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
    strace.says("attached");
    let arguments = format!("load {} --messages 200000 --format json", serve.address());
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
#[ignore = "writes and tells a file of a million packets"]
fn memory_stays_flat_for_a_file_of_a_million_packets() {
    let mut peaks = Vec::new();
    for packets in [100_000, 1_000_000] {
        let path = std::env::temp_dir().join(format!("upcase-heavy-{}", std::process::id()));
        fs::write(&path, common::craft::capture_of(packets)).unwrap();
        let mut command = common::upcase(&format!("sniff --read {} --brief", path.display()));
        let verdict = path.with_extension("told");
        command.stdout(fs::File::create(&verdict).unwrap());
        let mut sniff = Process::start(command);
        let mut peak = 0;
        while sniff.child().try_wait().unwrap().is_none() {
            peak = sniff.peak_resident().unwrap_or(0).max(peak);
            thread::sleep(std::time::Duration::from_millis(1));
        }
        let told = fs::read_to_string(&verdict).unwrap();
        assert!(told.contains(&format!("{packets} packets")), "{told}");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&verdict).unwrap();
        println!("{packets} packets: {peak} bytes at the peak");
        peaks.push(peak);
    }
    assert!(peaks[1] < peaks[0] * 3 / 2, "{peaks:?}");
}

#[test]
#[ignore = "measures microseconds: the machine must be left alone"]
fn a_paced_client_measures_what_a_bare_one_does() {
    const ROUNDS: usize = 9;
    let serve = Serve::start("");
    let mut ratios = Vec::new();
    let mut own = Vec::new();
    for _ in 0..ROUNDS {
        let (report, bare) = after_a_bare_client(serve.address(), "");
        let service = report["service_us"]["p50"].as_f64().unwrap();
        let late = report["own_us"]["p50"].as_f64().unwrap();
        println!("service p50 {service} us, bare {bare} us; own lateness p50 {late} us asleep");
        ratios.push(service / bare);
        own.push(late);
    }
    let (spinning, _) = after_a_bare_client(serve.address(), "--spin");
    let spinning = spinning["own_us"]["p50"].as_f64().unwrap();
    println!("own lateness p50 {spinning} us spinning");
    ratios.sort_by(f64::total_cmp);
    own.sort_by(f64::total_cmp);
    println!(
        "service to bare: {:.3} at the median of {ROUNDS}",
        ratios[ROUNDS / 2]
    );
    let median = ROUNDS / 2;
    assert!((0.85..=1.15).contains(&ratios[median]), "{ratios:?}");
    assert!(own[median] < 40.0, "{own:?}");
    assert!(spinning < 2.0, "{spinning}");
}

/// The report of a paced run over one connection, and the median round trip in microseconds of a
/// blocking client that sends at the same times. One after the other: side by side, each would find
/// the server awake or asleep by when the other sends.
fn after_a_bare_client(target: SocketAddr, arguments: &str) -> (serde_json::Value, f64) {
    let bare = bare_client(target, 1500);
    let arguments = format!(
        "load {target} --connections 1 --rate 1000 --messages 1500 --format json \
         --allow client-bound,server-bound {arguments}"
    );
    (run(&arguments).expect(0).json(), bare)
}

fn bare_client(target: SocketAddr, messages: u32) -> f64 {
    let mut stream = TcpStream::connect(target).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut round_trips = Vec::new();
    let mut bytes = [b'x'; 64];
    let start = Instant::now();
    for number in 0..messages {
        let due = start + Duration::from_millis(1) * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        round_trips.push(sent.elapsed());
    }
    round_trips.sort_unstable();
    round_trips[round_trips.len() / 2].as_secs_f64() * 1e6
}
