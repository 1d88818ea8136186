//! Tests that the verdict of `load` names the right cause of a fault: the table in
//! `situations/faults.rs` holds faults that are injected into the server, the network and the
//! generator itself, each with its right verdicts. Above all, a run that its own client limited is
//! never `valid`.
//!
//! Real time, real links and pinned CPUs: ignored by default, run by `.ci/run`. The server runs on
//! CPU 0 and the generator on CPU 1, so that a fault of one does not affect the other. For one
//! fault alone: `UPCASE_FAULT='the name' cargo test --release --test blame -- --ignored
//! the_verdict`.
//!
//! On a shared machine a run may rightly be judged client-bound. It is repeated, at most three
//! times in all, when its fault is not the client's and the report says that the client itself was
//! late; the last attempt counts.

mod common;
mod situations;

use std::os::unix::fs::FileExt;
use std::process::Command;

use common::report::Report;
use common::{Process, Temporary, until};
use situations::faults::FAULTS;
use situations::{CLIENT, FAILED, NETWORK, SERVER, VALID, judge};

#[test]
#[ignore = "two minutes, pinned to two CPUs"]
fn the_verdict_is_right_for_every_fault() {
    judge("UPCASE_FAULT", FAULTS.iter());
}

#[test]
fn the_table_holds_faults_of_every_kind() {
    let of = |verdict: &str| {
        let faults = FAULTS.iter().filter(|fault| fault.right.contains(&verdict));
        faults.count()
    };
    assert!(FAULTS.len() >= 12);
    let faults = FAULTS.iter().filter(|fault| fault.name != "nothing");
    let reported = format!("the verdict for {} faults", faults.count());
    assert!(
        include_str!("../README.md").contains(&reported),
        "{reported}"
    );
    for verdict in [VALID, CLIENT, NETWORK, SERVER, FAILED] {
        assert!(of(verdict) >= 2, "{verdict}");
    }
}

/// Options of a run that reports five times a second.
const TOLD: &str = "--connections 20 --rate 1000 --duration 2s -v --interval 200ms";

/// Returns the first line of /proc/stat with this steal time in hundredths of a second, always of
/// the same length.
fn stat(stolen: u32) -> Vec<u8> {
    format!("cpu  1 0 1 1 0 0 0 {stolen:08} 0 0\n").into_bytes()
}

#[test]
fn what_the_host_takes_is_seen_and_printed() {
    // The run sees a substitute for /proc/stat, since a test cannot make the host steal CPU time.
    let reported = Temporary::new(&stat(100));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&reported.0)
        .unwrap();
    let script = "mount --bind \"$1\" /proc/stat || exit 77; shift; exec \"$@\"";
    for format in ["json", "text"] {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(&reported.0);
        command.arg(env!("CARGO_BIN_EXE_upcase"));
        command
            .args(["load", "--format", format])
            .args(TOLD.split_whitespace());
        file.write_all_at(&stat(100), 0).unwrap();
        let mut load = Process::piped(command);
        until("messages flow, or it cannot be done", || {
            load.stderr().contains("run ") || load.child().try_wait().unwrap().is_some()
        });
        file.write_all_at(&stat(250), 0).unwrap();
        let ended = load.ended();
        if !matches!(ended.code, Some(0 | 1)) {
            return common::skip(&format!("no mount of its own: {}", ended.stderr));
        }
        let sentence = "the host took 1.50 s of CPU time from this machine";
        assert!(ended.stdout.contains(sentence), "{}", ended.stdout);
        if format == "json" {
            assert_eq!(Report::of(ended).number("evidence/stolen_s"), 1.5);
        }
    }
}
