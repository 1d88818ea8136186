//! Whether the verdict of `load` blames the right one: the table below holds faults that are done
//! to the server, to the network and to the generator itself, and what each must be called. Above
//! all, a run that its own client limited is never `valid`.
//!
//! Real time, real links and pinned CPUs: ignored by default, run by `.ci/run`. The server has CPU
//! 0 and the generator CPU 1, so that what is done to one does not touch the other. One fault
//! alone: `UPCASE_FAULT='the name' cargo test --release --test blame -- --ignored the_verdict`.
//!
//! On a machine that others use, a run may honestly be client-bound. It is done again, at most
//! three times in all, when the fault is not the client's and the report says that the client was
//! late by its own doing; the last attempt counts.

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
    let told = format!("the verdict for {} faults", faults.count());
    assert!(include_str!("../README.md").contains(&told), "{told}");
    for verdict in [VALID, CLIENT, NETWORK, SERVER, FAILED] {
        assert!(of(verdict) >= 2, "{verdict}");
    }
}

/// A run that is told five times a second.
const TOLD: &str = "--connections 20 --rate 1000 --duration 2s -v --interval 200ms";

/// The first line of /proc/stat when so many hundredths of a second were stolen, always as long.
fn stat(stolen: u32) -> Vec<u8> {
    format!("cpu  1 0 1 1 0 0 0 {stolen:08} 0 0\n").into_bytes()
}

#[test]
fn what_the_host_takes_is_seen_and_printed() {
    // The run sees a /proc/stat of its own: no host can be asked to take a CPU away.
    let told = Temporary::new(&stat(100));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&told.0)
        .unwrap();
    let script = "mount --bind \"$1\" /proc/stat || exit 77; shift; exec \"$@\"";
    for format in ["json", "text"] {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(&told.0);
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
