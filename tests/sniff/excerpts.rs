//! Tests excerpts, the files that `sniff --read --write` writes: they hold the packets of the
//! selected flows, in the format of the original and with everything that is in their records.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::files::{Blocks, Frames, NANOSECONDS, Shape, frames_of, gzip, timed};
use crate::common::sniff_output::{objects, of_kind};
use crate::common::wrap::{self, talk};
use crate::common::{Ended, Temporary, run, run_with_input, sniff, tshark, upcase};
use serde_json::Value;

/// Returns all frames of a capture, and those of its first conversation. The capture holds two
/// conversations whose packets alternate, the second with a server on port 12001, and between them
/// packets that are not TCP.
fn mixed() -> (Frames, Frames) {
    let first = talk(40_000).into_iter().map(|ip| wrap::plain(&ip));
    let second = talk(40_001).into_iter().map(|mut ip| {
        // The server's port is the destination port in the client's packets, the source port in its
        // own.
        let place = if ip[15] == 2 { 23 } else { 21 };
        ip[place] += 1;
        wrap::plain(&ip)
    });
    let udp = wrap::plain(&wrap::ipv4(17, &wrap::udp(53, 50_000, &[1; 40])));
    let all: Vec<Vec<u8>> = first
        .zip(second)
        .flat_map(|(one, other)| [one, other, udp.clone()])
        .collect();
    let all = timed(&all);
    let own = all.iter().step_by(3).cloned().collect();
    (all, own)
}

/// Runs `sniff` on a file, and returns its output and the excerpt that it writes of port 12000.
fn excerpt(file: &[u8]) -> (Ended, Vec<u8>) {
    let (file, kept) = (
        Temporary::new(file),
        Temporary::new(b"what was here before"),
    );
    let options = format!("--port 12000 --format json --write {}", kept.0.display());
    let ended = sniff(&file, &options);
    (ended, fs::read(&kept.0).unwrap())
}

/// Returns the objects of a document without the numbers of packets.
fn said(document: &str) -> Vec<Value> {
    let mut objects = objects(document);
    for object in &mut objects {
        for key in ["number", "packet", "packets"] {
            if let Some(number) = object.get_mut(key) {
                *number = Value::Null;
            }
        }
        let findings = object.get_mut("findings").and_then(Value::as_array_mut);
        for finding in findings.into_iter().flatten() {
            finding["packet"] = Value::Null;
        }
    }
    objects
}

/// Checks that the document of an excerpt equals that of the whole file, except for packet numbers.
#[track_caller]
fn says_the_same(ended: &Ended, kept: &[u8]) {
    let again = sniff(&Temporary::new(kept), "--port 12000 --format json");
    assert_eq!(again.code, ended.code);
    assert_eq!(said(&again.stdout), said(&ended.stdout));
}

#[test]
fn an_excerpt_of_a_pcap_file_is_the_file_without_the_other_packets() {
    let (all, own) = mixed();
    for big_endian in [false, true] {
        for magic in [0xa1b2_c3d4, NANOSECONDS] {
            for link in [1, 0x2400_0001] {
                let shape = Shape {
                    big_endian,
                    magic,
                    cut: 3,
                    ..Shape::plain(link)
                };
                let (ended, kept) = excerpt(&shape.file(&all));
                let ended = ended.expect(0);
                assert!(kept == shape.file(&own), "{shape:x?}");
                says_the_same(&ended, &kept);
                let (_, unpacked) = excerpt(&gzip(&shape.file(&all)));
                assert!(unpacked == kept, "{shape:x?}");
            }
        }
    }
}

/// An excerpt of a pcap file of any variant is a standard pcap file: few programs read the other
/// variants, and they detect the variant by the first packets, which may differ in an excerpt.
#[test]
fn an_excerpt_of_an_odd_pcap_file_is_an_ordinary_one() {
    let (all, own) = mixed();
    let plain = Shape {
        cut: 3,
        ..Shape::plain(1)
    };
    for (magic, version, swapped, extra) in [
        (0xa1b2_cd34, (2, 4), false, 8),
        (0xa1b2_c3d4, (2, 4), false, 4),
        (0xa1b2_c3d4, (2, 2), true, 0),
        (0xa1b2_c3d4, (2, 3), true, 0),
    ] {
        let shape = Shape {
            magic,
            version,
            swapped,
            extra,
            ..plain
        };
        let (_, kept) = excerpt(&shape.file(&all));
        assert!(kept == plain.file(&own), "{shape:x?}");
    }
}

/// Returns a file of two sections, the second in the other byte order, with interfaces of two link
/// types, comments and statistics. With `every` it holds names and the packets of both
/// conversations, otherwise only the packets of the first one.
fn sections(every: bool) -> Vec<u8> {
    let (all, own) = mixed();
    let kept = if every { &all } else { &own };
    let mut file = Vec::new();
    for big_endian in [false, true] {
        let mut blocks = Blocks::new(big_endian);
        let offset = blocks.long(1_600_000_000);
        blocks.interface(1, &[(2, b"eth0"), (9, &[0x80 | 20]), (14, &offset)]);
        blocks.interface(101, &[(9, &[12])]);
        if every {
            // Names: no packet needs them.
            blocks.block(4, &[0; 4]);
        }
        for (number, (_, frame)) in (1..).zip(kept) {
            match number % 3 {
                0 => blocks.packet_with(0, number << 10, frame, &[(1, b"a comment")]),
                1 => blocks.packet(0, number << 10, frame),
                _ => blocks.packet(1, number << 30, &frame[14..]),
            }
        }
        let drops = blocks.long(0);
        blocks.statistics(1, 5, &[(5, &drops)]);
        file.extend(blocks.file);
    }
    file
}

#[test]
fn an_excerpt_of_a_pcapng_file_keeps_the_blocks_as_they_are() {
    let all = sections(false);
    let (ended, kept) = excerpt(&all);
    assert!(
        kept == all,
        "nothing is left out of a file of these packets"
    );
    says_the_same(&ended, &kept);
    let (ended, kept) = excerpt(&sections(true));
    assert!(kept.len() < sections(true).len());
    says_the_same(&ended, &kept);

    // A section length is not copied, since a section of an excerpt has another length.
    let mut reported = all.clone();
    reported[16..24].copy_from_slice(&(all.len() as u64 / 2).to_le_bytes());
    let (_, kept) = excerpt(&reported);
    assert!(kept == all);
}

#[test]
fn tshark_reads_an_excerpt_as_it_reads_the_packets_in_the_whole_file() {
    if !tshark::is_there() {
        return;
    }
    let fields = |file: &Path| {
        let mut command = Command::new("tshark");
        command
            .arg("-r")
            .arg(file)
            .args(["-Y", "tcp.port == 12000"]);
        command.args(["-T", "fields"]);
        for field in [
            "frame.time_epoch",
            "frame.len",
            "frame.cap_len",
            "frame.encap_type",
            "frame.interface_id",
            "frame.comment",
            "ip.src",
            "tcp.srcport",
            "tcp.seq_raw",
            "tcp.ack_raw",
            "tcp.flags",
            "tcp.len",
        ] {
            command.args(["-e", field]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (all, _) = mixed();
    let nanoseconds = Shape {
        magic: NANOSECONDS,
        cut: 3,
        ..Shape::plain(1)
    };
    for file in [nanoseconds.file(&all), sections(true)] {
        let (_, kept) = excerpt(&file);
        let theirs = [file, kept].map(|file| fields(&Temporary::new(&file).0));
        assert!(theirs[0].lines().count() >= 9);
        assert_eq!(theirs[0], theirs[1]);
    }
}

/// Packets that may belong to a flow and cannot be read, and fragments, are kept, because the
/// verdict reports them.
#[test]
fn packets_in_the_verdict_are_kept() {
    let (mut all, _) = mixed();
    all[9].1.truncate(14 + 30);
    let mut cut = all[12].1.clone();
    cut[14 + 6] = 0x20;
    all[12].1 = cut;
    let mut blocks = Blocks::new(false);
    blocks.interface(1, &[]);
    blocks.interface(127, &[]);
    for (number, (_, frame)) in (0..).zip(&all) {
        blocks.packet(0, number, frame);
    }
    blocks.packet(1, 99, &[0; 40]);
    let (ended, kept) = excerpt(&blocks.file);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    says_the_same(&ended, &kept);
    assert_eq!(frames_of(&Temporary::new(&kept).0).len(), 10);
}

#[test]
fn drops_that_a_file_declares_are_declared_by_its_excerpt() {
    for big_endian in [false, true] {
        let (all, _) = mixed();
        let mut blocks = Blocks::new(big_endian);
        blocks.interface(1, &[]);
        for (number, (_, frame)) in (0..).zip(&all) {
            // With packets of the flow, of the other flow, and of no flow.
            let drops = blocks.long([0, 1, 0, 2, 0, 4, 8, 0, 0][number % 9]);
            // Several packets have the same time.
            blocks.packet_with(0, number as u64 / 4, frame, &[(4, &drops)]);
        }
        let (ended, kept) = excerpt(&blocks.file);
        let verdict = |ended: &Ended| of_kind(&objects(&ended.stdout), "verdict")[0].clone();
        let again = sniff(&Temporary::new(&kept), "--port 12000 --format json");
        assert_eq!((ended.code, again.code), (Some(4), Some(4)));
        assert_eq!(verdict(&ended)["dropped"], 45);
        assert_eq!(verdict(&again)["dropped"], 45);
    }
}

#[test]
fn an_excerpt_goes_through_a_pipe() {
    let (all, own) = mixed();
    let file = Temporary::new(&Shape::plain(1).file(&all));
    let path = file.0.display();
    let mut writer = upcase(&format!("sniff --read {path} --port 12000 --write -"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = upcase("sniff --read -");
    reader.stdin(Stdio::from(writer.stdout.take().unwrap()));
    let reported = Ended::from(reader.output().unwrap()).expect(0).stdout;
    let output = writer.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let transcript = String::from_utf8(output.stderr).unwrap();
    assert!(transcript.contains("verdict: all well"), "{transcript}");
    assert!(reported.contains("9 packets, 1 flow"), "{reported}");

    // From standard input, with an option that ends the run early.
    let kept = Temporary::new(b"");
    let options = format!(
        "--read - --port 12000 --count 10 --write {}",
        kept.0.display()
    );
    let whole = Shape::plain(1).file(&all);
    run_with_input(&format!("sniff {options}"), whole.chunks(700)).expect(4);
    assert_eq!(fs::read(&kept.0).unwrap(), Shape::plain(1).file(&own[..4]));
}

#[test]
fn the_file_that_is_read_is_not_written_over() {
    let (all, _) = mixed();
    let whole = Shape::plain(1).file(&all);
    let file = Temporary::new(&whole);
    let path = file.0.display();
    let link = Temporary::new(b"");
    fs::remove_file(&link.0).unwrap();
    fs::hard_link(&file.0, &link.0).unwrap();
    let reported = "upcase: --write: this file is the one being read: use another one\n";
    for command in [
        format!("exec \"$0\" sniff --read {path} --write {path}"),
        format!(
            "exec \"$0\" sniff --read {path} --write {}",
            link.0.display()
        ),
        format!("exec \"$0\" sniff --read {path} --write - >> {path}"),
        format!("exec \"$0\" sniff --read - --write {path} < {path}"),
    ] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command, env!("CARGO_BIN_EXE_upcase")]);
        let ended = Ended::from(shell.output().unwrap()).expect(3);
        assert_eq!(ended.stderr, reported, "{command}");
        assert_eq!(fs::read(&file.0).unwrap(), whole, "{command}");
    }
    // Another file is not overwritten either when there is nothing to read.
    let (empty, other) = (Temporary::new(b""), Temporary::new(b"precious"));
    let options = format!("--write {}", other.0.display());
    sniff(&empty, &options).expect(3);
    assert_eq!(fs::read(&other.0).unwrap(), b"precious");
}

#[test]
fn a_failed_write_is_a_fault_and_does_not_end_the_transcript() {
    let (all, _) = mixed();
    let many: Frames = all.iter().cycle().take(20_000).cloned().collect();
    let file = Temporary::new(&Shape::plain(1).file(&many));
    let ended = sniff(&file, "--brief --port 12000 --write /dev/full").expect(1);
    let reported = "packets from here on are not written: No space left on device";
    assert!(ended.stdout.contains(reported), "{}", ended.stdout);
    assert!(ended.stdout.contains("20,000 packets"), "{}", ended.stdout);
    let ended = run(&format!(
        "sniff --read {} --write /nowhere/file",
        file.0.display()
    ));
    let ended = ended.expect(3);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("cannot write /nowhere/file"),
        "{}",
        ended.stderr
    );
}
