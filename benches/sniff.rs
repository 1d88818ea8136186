//! Benchmarks `upcase sniff` against tshark: packets per second when both print every packet of the
//! same capture file, one program after the other in one run of the benchmark; and the memory that
//! `upcase sniff` takes for a file of ten times as many packets.
//!
//! The ratio is the median over pairs of runs: the speed of the machine drifts, but within a pair
//! it is nearly the same for both programs.

#[path = "../tests/common/craft.rs"]
mod craft;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PACKETS: usize = 100_000;
const PAIRS: usize = 7;

fn main() {
    let path = std::env::temp_dir().join(format!("upcase-bench-{}.pcapng", std::process::id()));
    std::fs::write(&path, craft::capture_of(PACKETS)).expect("the file can be written");
    let upcase = || upcase(&path);
    let (once, _) = time(upcase());
    println!("upcase sniff: {PACKETS} packets transcribed in {once:.3?}");
    if Command::new("tshark")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        compare(&path);
    } else {
        println!("no tshark to compare with");
    }
    std::fs::write(&path, craft::capture_of(10 * PACKETS)).expect("the file can be written");
    let (taken, resident) = time(upcase());
    println!(
        "{} packets: {taken:.3?}, {} KiB of memory at the most",
        10 * PACKETS,
        resident / 1024
    );
    let _ = std::fs::remove_file(&path);
}

fn upcase(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upcase"));
    command.args(["sniff", "--read"]).arg(path);
    command
}

fn compare(path: &Path) {
    let mut ratios = Vec::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (our_time, our_memory) = time(upcase(path));
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(path);
        let (their_time, their_memory) = time(tshark);
        ratios.push(their_time.as_secs_f64() / our_time.as_secs_f64());
        ours.push((our_time, our_memory));
        theirs.push((their_time, their_memory));
    }
    ratios.sort_by(f64::total_cmp);
    for (name, mut runs) in [("upcase sniff", ours), ("tshark", theirs)] {
        runs.sort_unstable();
        let (median, memory) = runs[PAIRS / 2];
        let rate = PACKETS as f64 / median.as_secs_f64();
        println!(
            "{name}: {rate:.0} packets/s, {} KiB of memory at the most",
            memory / 1024
        );
    }
    println!(
        "ratio: {:.1} times tshark's packets a second, median of {PAIRS} pairs, from {:.1} to {:.1}",
        ratios[PAIRS / 2],
        ratios[0],
        ratios[PAIRS - 1]
    );
}

/// Runs a command to its end; returns how long it took and its peak resident memory in bytes.
fn time(mut command: Command) -> (Duration, u64) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        if child.try_wait().expect("it is ours").is_some() {
            return (begun.elapsed(), peak);
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
}
