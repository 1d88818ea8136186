//! Tests `sniff` on small captures, each with one irregularity, and what it must report of them.

use std::io::Write;
use std::net::TcpListener;

use crate::common::sniff_output::{findings, objects, of_kind};
use crate::common::{self, Process, run, tshark, upcase};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Returns the exit code of `sniff` on a capture of `data/sniff`, and the objects that it prints.
fn sniff(name: &str, options: &str) -> (Option<i32>, Vec<Value>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sniff");
    let ended = run(&format!(
        "sniff --read {folder}/{name} --format json {options}"
    ));
    (ended.code, objects(&ended.stdout))
}

/// Returns the packets that have analysis words, with these words.
fn words(objects: &[Value]) -> Vec<(u64, String)> {
    let reported = of_kind(objects, "segment").into_iter().map(|segment| {
        let words = segment["analysis"].as_array().unwrap().iter();
        let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
        (segment["number"].as_u64().unwrap(), words.join(" "))
    });
    reported.filter(|(_, words)| !words.is_empty()).collect()
}

#[track_caller]
fn has_words(objects: &[Value], expected: &[(u64, &str)]) {
    let expected: Vec<(u64, String)> = expected
        .iter()
        .map(|(number, words)| (*number, (*words).to_string()))
        .collect();
    assert_eq!(words(objects), expected);
}

#[test]
fn windows_are_scaled_only_when_both_syns_carry_the_option() {
    let (_, objects) = sniff("window-scale-offered-not-accepted.pcap", "");
    has_words(&objects, &[(4, "window_full")]);
}

fn path(name: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sniff");
    std::path::Path::new(folder).join(name)
}

fn verdicts(objects: &[Value]) -> Vec<String> {
    let flows = of_kind(objects, "flow").into_iter();
    let verdicts = flows.map(|flow| flow["verdict"].as_str().unwrap().to_string());
    verdicts.collect()
}

#[test]
fn bytes_that_the_capture_lacks_are_named_by_their_side() {
    let both = [
        "9 bytes of the client are not in the capture, though they were sent",
        "9 bytes of the server are not in the capture, though they were sent",
        "9 bytes of the reply were not compared",
    ];
    for (name, expected) in [
        ("data-of-both-sides-missing-before-fin.pcap", &both[..]),
        ("reply-missing-before-fin.pcap", &both[1..]),
    ] {
        let (code, objects) = sniff(name, "");
        assert_eq!(
            (code, findings(&objects)),
            (Some(4), expected.iter().map(|s| s.to_string()).collect())
        );
        let verdict = &of_kind(&objects, "verdict")[0];
        assert_eq!(verdict["verdict"], "incomplete");
        assert_eq!(
            (&verdict["flows_incomplete"], &verdict["flows_at_fault"]),
            (&1.into(), &0.into())
        );
        assert_eq!(sniff(name, "--allow incomplete").0, Some(0));
        assert_eq!(sniff(name, "--expect none").0, Some(4));
    }
}

#[test]
fn the_number_of_an_rst_is_no_part_of_the_stream() {
    let name = "syn-retried-same-isn-after-rst-low-server-isn.pcap";
    let (code, objects) = sniff(name, "");
    assert_eq!(verdicts(&objects), ["wrong", "all well"]);
    assert_eq!(findings(&objects), ["the server reset the connection"]);
    assert_eq!(code, Some(1));
    has_words(&objects, &[(3, "reused_ports")]);
}

#[test]
fn an_rst_outside_the_window_is_named_and_changes_nothing() {
    let (code, objects) = sniff("stray-rst-out-of-window.pcap", "");
    assert_eq!(code, Some(0));
    has_words(&objects, &[]);
    let rst = &of_kind(&objects, "segment")[6];
    assert_eq!(rst["out_of_window"], true);
    let text = rst["text"].as_str().unwrap();
    assert!(text.contains("outside the window of the client"), "{text}");
    let notes = &of_kind(&objects, "flow")[0]["notes"];
    let note = notes[0].as_str().unwrap();
    assert!(
        note.starts_with("1 segment of the server lies outside"),
        "{note}"
    );
    assert!(note.ends_with("(packet 7)"), "{note}");
}

#[test]
fn a_second_syn_ack_that_is_not_acknowledged_changes_nothing() {
    let (code, objects) = sniff("second-synack-other-isn.pcap", "");
    assert_eq!(code, Some(0));
    has_words(&objects, &[(3, "lost_segment")]);
}

#[test]
fn ports_that_are_used_again_are_reported_whenever_that_is() {
    for seconds in [2, 4] {
        let (code, objects) = sniff(&format!("ports-reused-{seconds}s-after-close.pcap"), "");
        assert_eq!(code, Some(0));
        assert_eq!(verdicts(&objects), ["all well", "all well"]);
        has_words(&objects, &[(10, "reused_ports")]);
    }
}

#[test]
fn a_segment_that_comes_again_belongs_to_its_connection() {
    let (code, objects) = sniff("fin-again-4s-after-close.pcap", "");
    assert_eq!(code, Some(0));
    has_words(&objects, &[(10, "retransmission"), (11, "duplicate_ack")]);
    assert_eq!(verdicts(&objects), ["all well"]);
    let flows = of_kind(&objects, "segment").into_iter();
    assert!(
        flows
            .map(|segment| segment["flow"].clone())
            .all(|flow| flow == 1)
    );
}

#[test]
fn words_follow_the_rules_also_where_tshark_errs() {
    for (name, code, expected) in [
        (
            "first-of-direction-below-peers-ack.pcap",
            4,
            &[(2, "spurious_retransmission")][..],
        ),
        (
            "sack-hole-resent-not-at-ack.pcap",
            4,
            &[
                (5, "lost_segment"),
                (10, "duplicate_ack"),
                (11, "duplicate_ack"),
                (12, "duplicate_ack"),
                (13, "fast_retransmission"),
                (14, "fast_retransmission"),
                (15, "fast_retransmission"),
            ][..],
        ),
        ("time-goes-back.pcap", 4, &[(6, "out_of_order")][..]),
    ] {
        let (ended, objects) = sniff(name, "");
        assert_eq!(ended, Some(code), "{name}");
        has_words(&objects, expected);
    }
}

#[test]
fn every_case_agrees_with_tshark_but_for_the_table() {
    if !tshark::is_there() {
        return;
    }
    for (name, excused) in [
        ("data-of-both-sides-missing-before-fin.pcap", 0),
        ("reply-missing-before-fin.pcap", 0),
        ("syn-retried-same-isn-after-rst-low-server-isn.pcap", 2),
        ("stray-rst-out-of-window.pcap", 2),
        ("window-scale-offered-not-accepted.pcap", 0),
        ("ports-reused-2s-after-close.pcap", 0),
        ("ports-reused-4s-after-close.pcap", 0),
        ("fin-again-4s-after-close.pcap", 0),
        ("first-of-direction-below-peers-ack.pcap", 0),
        ("sack-hole-resent-not-at-ack.pcap", 2),
        ("time-goes-back.pcap", 1),
        ("second-synack-other-isn.pcap", 3),
    ] {
        let (differences, table) = tshark::disagreements_and_excuses(&path(name));
        assert!(differences.is_empty(), "{name}: {differences:#?}");
        assert_eq!(table, excused, "{name}");
    }
}

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/uppercase-echo-python.pcap"
);

#[test]
fn a_capture_that_is_stopped_in_the_middle_is_incomplete() {
    for count in 1..13 {
        let ended = run(&format!("sniff --read {SAMPLE} --count {count}")).expect(4);
        assert!(
            ended.stdout.contains("verdict: incomplete, see above"),
            "{}",
            ended.stdout
        );
        run(&format!(
            "sniff --read {SAMPLE} --count {count} --allow incomplete"
        ))
        .expect(0);
    }
    run(&format!("sniff --read {SAMPLE} --count 13")).expect(0);
    run(&format!("sniff --read {SAMPLE} --port 80")).expect(4);
    run(&format!("sniff --read {SAMPLE} --allow anything")).expect(2);
    // A wrong capture stays wrong, whatever is allowed.
    run(&format!("sniff --read {SAMPLE} --expect same")).expect(1);
    run(&format!(
        "sniff --read {SAMPLE} --expect same --allow incomplete"
    ))
    .expect(1);
    run(&format!("sniff --read {SAMPLE} --expect none")).expect(0);
}

#[test]
fn a_live_capture_that_is_stopped_in_the_middle_is_incomplete() {
    if run("sniff --interface lo --duration 1ms").code == Some(3) {
        return common::skip("no live capture");
    }
    for (options, code) in [("", 4), ("--allow incomplete", 0)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let command = upcase(&format!("sniff --interface lo --port {port} {options}"));
        let mut sniff = Process::piped(command);
        sniff.wait_for_stderr("capturing");
        let mut client = common::connect(address);
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        common::read(&mut server, 5);
        server.write_all(b"HELLO").unwrap();
        common::read(&mut client, 5);
        sniff.signal(Signal::SIGINT);
        let ended = sniff.ended();
        assert_eq!(ended.code, Some(code), "{ended:#?}");
        assert!(
            ended.stdout.contains("the client did not close its side"),
            "{ended:#?}"
        );
    }
}

/// A missing byte or FIN is not replaced by another one that has its sequence number.
#[test]
fn what_stands_in_the_place_of_a_missing_number_is_not_taken_for_it() {
    for (name, reported) in [
        (
            "fin-at-syn-number.pcap",
            "the FIN of the server is not in the capture",
        ),
        (
            "fin-at-syn-number-client.pcap",
            "the FIN of the client is not in the capture",
        ),
        (
            "keep-alive-byte-over-a-missing-one.pcap",
            "1 byte of the server is not in the capture",
        ),
    ] {
        for options in ["", "--expect none"] {
            let (code, objects) = sniff(name, options);
            let findings = findings(&objects);
            assert_eq!(code, Some(4), "{name} {options}: {findings:?}");
            let was_reported = findings.iter().any(|text| text.starts_with(reported));
            assert!(was_reported, "{name} {options}: {findings:?}");
        }
    }
}

/// A connection whose SYN is missing is distinguished from the one before it, or neither is judged
/// wrong.
#[test]
fn a_missing_syn_between_two_connections_blames_nobody() {
    let name = "ports-reused-syn-missing.pcap";
    let (code, objects) = sniff(name, "");
    assert_eq!(verdicts(&objects), ["incomplete", "incomplete"]);
    assert_eq!(code, Some(4));
    let (code, _) = sniff("ports-reused-both-syns-missing.pcap", "");
    assert_eq!(code, Some(4));
}
