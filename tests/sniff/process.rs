//! Tests `upcase sniff` as a process: the documented conversation, every kind of file, bad files,
//! live captures, wrong servers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::common::files::{self, Frames, Shape};
use crate::common::lab::{Lab, SERVER};
use crate::common::sniff_output::{objects, of_kind, sniffed};
use crate::common::{
    self, ANY_PACE, Ended, Process, Serve, Temporary, run, run_with_input, sniff, tshark, upcase,
};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use serde_json::Value;

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/uppercase-echo-python.pcap"
);

#[test]
fn the_documented_conversation_is_reported_with_its_numbers() {
    let ended = run(&format!("sniff --read {SAMPLE} --format json")).expect(0);
    let objects = objects(&ended.stdout);
    // Sequence number, acknowledgment, flags and length, as tshark prints them with absolute
    // numbers.
    let expected = [
        (2908245614_u64, 0_u64, "SYN", 0_u64),
        (2032013574, 2908245615, "SYN,ACK", 0),
        (2908245615, 2032013575, "ACK", 0),
        (2908245615, 2032013575, "PSH,ACK", 24),
        (2032013575, 2908245639, "ACK", 0),
        (2032013575, 2908245639, "PSH,ACK", 24),
        (2908245639, 2032013599, "ACK", 0),
        (2908245639, 2032013599, "PSH,ACK", 24),
        (2032013599, 2908245663, "PSH,ACK", 24),
        (2908245663, 2032013623, "ACK", 0),
        (2908245663, 2032013623, "FIN,ACK", 0),
        (2032013623, 2908245664, "FIN,ACK", 0),
        (2908245664, 2032013624, "ACK", 0),
    ];
    let segments = of_kind(&objects, "segment");
    assert_eq!(segments.len(), expected.len());
    for (place, (segment, (seq, ack, flags, length))) in segments.iter().zip(expected).enumerate() {
        assert_eq!(segment["number"], place + 1);
        assert_eq!(segment["seq"], seq);
        assert_eq!(segment["ack"], ack);
        assert_eq!(segment["flags"], flags);
        assert_eq!(segment["len"], length);
        assert_eq!(segment["analysis"], Value::Array(Vec::new()));
    }
    assert_eq!(
        (&segments[0]["mss"], &segments[1]["mss"]),
        (&1460.into(), &1460.into())
    );
    assert_eq!(segments[0]["time"], "1795332190.534722000");
    let flow = of_kind(&objects, "flow")[0];
    assert_eq!(flow["closed_first_by"], "client");
    assert_eq!(flow["mss"]["in_force"], 1460);
    let verdict = of_kind(&objects, "verdict")[0];
    assert_eq!(
        (&verdict["ok"], &verdict["flows"]),
        (&true.into(), &1.into())
    );
    assert_eq!(verdict["reply_delay_us"]["count"], 2);
}

#[test]
fn the_sentences_carry_the_numbers_and_the_messages() {
    let reported = run(&format!("sniff --read {SAMPLE}")).expect(0).stdout;
    for sentence in [
        "The client opens the connection: its initial sequence number is 2908245614",
        "The server accepts the connection: it acknowledges 2908245614 + 1 and sends its own SYN, \
         2032013574",
        "The client acknowledges 2032013574 + 1: the connection is established, with an MSS of \
         1460, which leaves",
        "(offset 0): \"Yahel Jacoby, Yoav Tamir\"",
        "(offset 0): \"YAHEL JACOBY, YOAV TAMIR\"",
        "(offset 24): \"ID ONE: 30A, ID TWO: 31B\"; it acknowledges 24 bytes and expects 29082456",
        "The client closes its side: its FIN has sequence number 2908245663.",
        "The server acknowledges the client's FIN, 2908245663 + 1, and closes its own side",
        "The client acknowledges the server's FIN, 2032013623 + 1: both sides are closed.",
        "flow 1: 10.77.0.2:42394 > 10.77.0.1:12000: all well",
        "closed first by the client",
        "verdict: all well",
    ] {
        assert!(reported.contains(sentence), "{sentence}: {reported}");
    }
    assert!(!reported.contains('\u{1b}'), "no colour without a terminal");

    let relative = run(&format!("sniff --read {SAMPLE} --relative"))
        .expect(0)
        .stdout;
    assert!(
        relative.contains("it acknowledges 0 + 1 and sends its own SYN, 0"),
        "{relative}"
    );
    let markdown = run(&format!("sniff --read {SAMPLE} --format markdown"))
        .expect(0)
        .stdout;
    assert!(markdown.starts_with("# "), "{markdown}");
    assert!(markdown.contains("**13.** "), "{markdown}");
    let brief = run(&format!("sniff --read {SAMPLE} --brief"))
        .expect(0)
        .stdout;
    assert!(brief.starts_with("flow 1: "), "{brief}");
    let other = run(&format!("sniff --read {SAMPLE} --port 80"))
        .expect(4)
        .stdout;
    assert!(other.contains("13 packets, 0 flows"), "{other}");
}

/// Returns the IP packets of the sample.
fn sample() -> Frames {
    let frames = files::frames_of(Path::new(SAMPLE)).into_iter();
    frames
        .map(|(time, frame)| (time, frame[14..].to_vec()))
        .collect()
}

/// Returns a pcap file of IP packets, each after the header of its link.
fn pcap(packets: &Frames, shape: Shape) -> Vec<u8> {
    let header: Vec<u8> = match shape.link {
        1 => [&[0; 12][..], &[0x08, 0x00]].concat(),
        113 => [&[0; 14][..], &[0x08, 0x00]].concat(),
        276 => [&[0x08, 0x00][..], &[0; 18]].concat(),
        0 => vec![2, 0, 0, 0],
        108 => vec![0, 0, 0, 2],
        _ => Vec::new(),
    };
    shape.file(&framed(packets, &header))
}

/// Returns each packet after this header.
fn framed(packets: &Frames, header: &[u8]) -> Frames {
    let packets = packets.iter();
    packets
        .map(|(time, ip)| (*time, [header, ip].concat()))
        .collect()
}

#[test]
fn every_kind_of_file_gives_the_same_output() {
    let original = run(&format!("sniff --read {SAMPLE} --format json"))
        .expect(0)
        .stdout;
    let packets = sample();
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            for link in [1, 113, 276, 12, 14, 101, 228, 0, 108] {
                let mut shape = Shape {
                    big_endian,
                    ..Shape::plain(link)
                };
                if nanoseconds {
                    shape.magic = files::NANOSECONDS;
                }
                let file = Temporary::new(&pcap(&packets, shape));
                let reported = sniff(&file, "--format json").expect(0).stdout;
                assert!(
                    reported == original,
                    "{big_endian} {nanoseconds} {link}: {reported}"
                );
            }
        }
    }
    let file = Temporary::new(&files::pcapng(101, &packets));
    assert_eq!(sniff(&file, "--format json").expect(0).stdout, original);

    // A pipe delivers a file in pieces, here of one byte.
    let file = files::pcapng(101, &packets);
    let ended = run_with_input("sniff --read - --format json", file.chunks(1));
    assert_eq!(ended.stdout, original);
}

#[test]
fn tags_of_a_vlan_are_passed_over() {
    let original = run(&format!("sniff --read {SAMPLE} --format json"))
        .expect(0)
        .stdout;
    let ipv4 = [0x08, 0x00];
    let tag = |kind: u16, id: u8| [kind.to_be_bytes(), [0x20, id]].concat();
    let tags = [
        tag(0x8100, 7),                            // 802.1Q
        [tag(0x88a8, 7), tag(0x8100, 8)].concat(), // 802.1ad, QinQ
        [tag(0x9100, 7), tag(0x8100, 8)].concat(), // QinQ before its standard
        [tag(0x8100, 7), tag(0x8100, 8)].concat(),
    ];
    for tags in tags {
        // On Ethernet the tags are between the addresses and the type; on a cooked link, whose type
        // is 802.1Q, they follow its header.
        let ethernet = [&[0; 12][..], &tags, &ipv4].concat();
        let cooked = [&[0; 14][..], &tags, &ipv4].concat();
        let cooked2 = [&tags[..2], &[0; 18], &tags[2..], &ipv4].concat();
        for (link, header) in [(1, ethernet), (113, cooked), (276, cooked2)] {
            let file = Shape::plain(link).file(&framed(&sample(), &header));
            let reported = sniff(&Temporary::new(&file), "--format json");
            assert!(reported.expect(0).stdout == original, "{link}, {header:x?}");
        }
    }
}

#[test]
fn what_is_readable_of_a_bad_file_is_reported_and_the_packet_is_named() {
    let packets = sample();
    let whole = pcap(&packets, Shape::plain(101));
    let cut = Temporary::new(&whole[..whole.len() - 5]);
    let reported = sniff(&cut, "").expect(4).stdout;
    assert!(
        reported.contains("The server answers with 24 bytes"),
        "{reported}"
    );
    assert!(reported.contains("packet 13: "), "{reported}");
    assert!(reported.contains("it ends within a packet"), "{reported}");

    // A snap length that cuts headers: 30 bytes were kept of packet 4.
    let mut kept = Vec::new();
    for (number, (time, ip)) in packets.iter().enumerate() {
        let one = pcap(&vec![(*time, ip.clone())], Shape::plain(101));
        if number != 3 {
            kept.extend(&one[24..]);
            continue;
        }
        let mut record = one[24..40 + 30].to_vec();
        record[8..12].copy_from_slice(&30_u32.to_le_bytes());
        kept.extend(record);
    }
    let mut file = whole[..24].to_vec();
    file.extend(kept);
    let reported = sniff(&Temporary::new(&file), "").expect(4).stdout;
    assert!(
        reported.contains("packet 4: its headers are cut off (snap length)"),
        "{reported}"
    );
    assert!(
        reported.contains("24 bytes of the client are not in the capture"),
        "{reported}"
    );

    let damaged = |number: usize, code: i32, change: &dyn Fn(&mut Vec<u8>)| {
        let mut packets = packets.clone();
        change(&mut packets[number].1);
        let file = Temporary::new(&pcap(&packets, Shape::plain(101)));
        sniff(&file, "").expect(code).stdout
    };
    let reported = damaged(5, 1, &|ip| {
        ip[2..4].copy_from_slice(&2000_u16.to_be_bytes())
    });
    assert!(
        reported.contains("packet 6: malformed: the IP header claims 2,000 bytes"),
        "{reported}"
    );
    let reported = damaged(5, 4, &|ip| ip[6] |= 0x20);
    assert!(
        reported.contains("packet 6: 1 fragment was captured of the IP packet"),
        "{reported}"
    );
    let reported = damaged(5, 1, &|ip| ip[32] = 0x10);
    assert!(reported.contains("packet 6: malformed: "), "{reported}");
    let reported = damaged(5, 1, &|ip| ip[52 + 7] = b'x');
    assert!(
        reported.contains("the reply is wrong at offset 7: 'x' (0x78)"),
        "{reported}"
    );
    assert!(reported.contains("(packet 6)"), "{reported}");
}

#[test]
fn files_that_are_no_captures_are_errors() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "is not a capture: it is empty"),
        (
            b"hello, this is no capture at all, but it is long enough",
            "is not a capture",
        ),
        (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "it ends within its header"),
        (
            &[0x0a, 0x0d, 0x0d, 0x0a, 1, 2, 3, 4],
            "it ends within its header",
        ),
    ];
    for (bytes, reported) in cases {
        let ended = sniff(&Temporary::new(bytes), "").expect(3);
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(reported), "{}", ended.stderr);
    }
    let ended = run("sniff --read /nowhere/file").expect(3);
    assert!(
        ended.stderr.contains("cannot read /nowhere/file"),
        "{}",
        ended.stderr
    );
    run("sniff").expect(2);
    run("sniff --interface lo --read file").expect(2);
    let ended = run("sniff --interface nowhere0").expect(3);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

/// Number of fuzz cases: thousands in a release build, which `.ci/run` tests as well.
const FUZZ_CASES: u32 = if cfg!(debug_assertions) { 200 } else { 20_000 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(FUZZ_CASES))]

    #[test]
    fn no_file_makes_it_panic(
        ng: bool,
        link in prop::sample::select(vec![1_u32, 113, 276, 101, 0]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let packets = sample();
        let mut file = match ng {
            true => files::pcapng(101, &packets),
            false => pcap(&packets, Shape::plain(link)),
        };
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = sniffed(file);
    }

    #[test]
    fn no_packet_makes_it_panic(ip in prop::collection::vec(any::<u8>(), 0..120), version: bool) {
        let mut ip = ip;
        if let Some(first) = ip.first_mut() {
            *first = if version { 0x45 } else { 0x60 };
        }
        if ip.len() > 20 {
            ip[if version { 9 } else { 6 }] = 6;
        }
        let _ = sniffed(pcap(&vec![(Duration::ZERO, ip)], Shape::plain(101)));
    }
}

#[test]
fn the_untouched_sample_is_good_in_this_process_too() {
    let (verdict, _) = sniffed(pcap(&sample(), Shape::plain(1))).unwrap();
    assert!(verdict.is_good(), "{verdict:#?}");
}

/// Returns whether this process may capture; if not, reports why the test is skipped.
#[track_caller]
fn may_capture() -> bool {
    let ended = run("sniff --interface lo --duration 1ms");
    let may = ended.code != Some(3);
    if !may {
        common::skip(&format!("no live capture: {}", ended.stderr.trim()));
    }
    may
}

/// Starts a capture, and returns when it has begun. The packets that it waits for may be among
/// those that the kernel drops, so it ends after a time in any case.
fn listen(interface: &str, port: u16, arguments: &str) -> Process {
    let timeout = common::TIMEOUT.as_secs();
    let mut command = upcase(&format!("sniff --interface {interface} --port {port}"));
    command.args(["--format", "json", "--duration", &format!("{timeout}s")]);
    command.args(arguments.split_whitespace());
    let sniff = Process::piped(command);
    sniff.wait_for_stderr("capturing");
    sniff
}

/// Ends a capture, after a signal if there is one; returns its exit code and its document.
fn reported(mut sniff: Process, signal: Option<Signal>) -> (Option<i32>, Vec<Value>) {
    if let Some(signal) = signal {
        sniff.signal(signal);
    }
    let ended = sniff.ended();
    (ended.code, objects(&ended.stdout))
}

#[test]
fn a_server_that_is_wrong_in_one_byte_is_convicted() {
    if !may_capture() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        let mut offset = 0;
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let mut reply = bytes[..count].to_ascii_uppercase();
            if (offset..offset + count).contains(&21) {
                reply[21 - offset] = b'!';
            }
            offset += count;
            stream.write_all(&reply).unwrap();
        }
    });
    let sniff = listen("lo", address.port(), "--flows 1");
    let mut client = common::connect(address);
    for message in [b"first message", b"other message"] {
        client.write_all(message).unwrap();
        common::read(&mut client, message.len());
    }
    client.shutdown(Shutdown::Write).unwrap();
    common::expect_fin(&mut client);
    let (code, objects) = reported(sniff, None);
    assert_eq!(code, Some(1));
    let finding = &of_kind(&objects, "verdict")[0]["findings"][0];
    assert_eq!(finding["flow"], 1);
    assert_eq!(finding["offset"], 21);
    let packet = &finding["packet"];
    let segments = of_kind(&objects, "segment");
    let guilty = segments
        .iter()
        .find(|segment| segment["number"] == *packet)
        .unwrap();
    assert_eq!(guilty["src"], address.to_string());
    assert!(
        guilty["text"].as_str().unwrap().contains("OTHER ME!SAGE"),
        "{guilty}"
    );
}

#[test]
fn ipv6_and_all_interfaces_are_captured() {
    if !may_capture() {
        return;
    }
    let serve = Serve::launch(upcase("serve --listen [::1]:0"), 1);
    let address: SocketAddr = serve.address();
    let sniff = listen("any", address.port(), "--flows 1");
    run(&format!("send {address} hello")).expect(0);
    let (code, objects) = reported(sniff, None);
    assert_eq!(code, Some(0));
    let numbers = of_kind(&objects, "segment").len();
    assert!((9..=12).contains(&numbers), "each packet once: {numbers}");
}

#[test]
fn a_thousand_connections_are_all_judged() {
    if !may_capture() {
        return;
    }
    let serve = Serve::start("");
    let sniff = listen("lo", serve.address().port(), "--brief");
    run(&format!(
        "load {} --connections 1000 --messages 5000 {ANY_PACE}",
        serve.address()
    ))
    .expect(0);
    // Every connection is closed by now: all packets of the run have passed.
    let (code, objects) = reported(sniff, Some(Signal::SIGINT));
    let verdict = of_kind(&objects, "verdict")[0];
    if verdict["dropped"] == 0 {
        assert_eq!(verdict["flows"], 1000);
        assert_eq!(of_kind(&objects, "flow").len(), 1000);
        assert_eq!(code, Some(0), "{verdict}");
        assert_eq!(verdict["reply_delay_us"]["count"], 5000);
    } else {
        let findings = verdict["findings"].as_array().unwrap();
        let excused = |finding: &Value| finding["perhaps_dropped"] == true;
        assert!(findings.iter().all(excused), "{verdict}");
    }
}

#[test]
fn the_wire_is_faster_than_the_client() {
    if !may_capture() {
        return;
    }
    let serve = Serve::start("");
    let sniff = listen("lo", serve.address().port(), "--brief --flows 4");
    let load = format!(
        "load {} --connections 4 --messages 20000 --format json {ANY_PACE}",
        serve.address()
    );
    let report = run(&load).expect(0).json();
    let (_, objects) = reported(sniff, None);
    let wire = of_kind(&objects, "verdict")[0]["reply_delay_us"]["p50"]
        .as_f64()
        .unwrap();
    let client = report["response_us"]["p50"].as_f64().unwrap();
    println!(
        "p50: {client} µs at the client, {wire} µs on the wire, {} µs its own",
        client - wire
    );
    assert!(wire < client, "{wire} on the wire, {client} at the client");
}

#[test]
fn without_permission_the_capability_is_named() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("only root can drop its capabilities");
    }
    let mut command = upcase("sniff --interface lo");
    // The build folder may be accessible to root only, so a copy of the binary is run.
    let copy = Temporary::new(&std::fs::read(env!("CARGO_BIN_EXE_upcase")).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&copy.0, mode).unwrap();
    command = {
        let mut other = Command::new(&copy.0);
        other.args(command.get_args()).uid(65534).gid(65534);
        other
    };
    let ended = Ended::from(command.output().unwrap()).expect(3);
    assert!(
        ended.stderr.contains("needs the capability CAP_NET_RAW"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("sudo setcap cap_net_raw+ep "),
        "{}",
        ended.stderr
    );
}

#[test]
fn between_two_hosts_the_document_and_the_file_agree_with_tshark() {
    let Some(lab) = Lab::build() else { return };
    if !tshark::is_there() {
        return;
    }
    let command = upcase(&format!("serve --listen {SERVER}:12000"));
    let serve = Serve::launch(lab.on_server(&command), 1);
    let file = Temporary::new(b"");
    let arguments = format!(
        "sniff --interface wire --flows 1 --duration {}s --write {}",
        common::TIMEOUT.as_secs(),
        file.0.display()
    );
    let mut sniff = Process::piped(lab.on_server(&upcase(&arguments)));
    sniff.wait_for_stderr("capturing");
    let mut send = upcase(&format!("send {SERVER}:12000"));
    send.args(["Yahel Jacoby, Yoav Tamir", "id one: 30a, id two: 31b"]);
    Ended::from(lab.on_client(&send).output().unwrap()).expect(0);
    let document = sniff.ended().expect(0).stdout;
    serve.stop();
    for sentence in [
        "with an MSS of 1460, which leaves 1448 bytes of payload",
        "\"Yahel Jacoby, Yoav Tamir\"",
        "\"ID ONE: 30A, ID TWO: 31B\"",
        "both sides are closed",
        "verdict: all well",
    ] {
        assert!(document.contains(sentence), "{sentence}: {document}");
    }
    let disagreements = tshark::disagreements(&file.0);
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

#[test]
fn a_full_disk_does_not_take_the_verdict_with_it() {
    if !may_capture() {
        return;
    }
    let serve = Serve::start("");
    let sniff = listen("lo", serve.address().port(), "--flows 1 --write /dev/full");
    run(&format!("send {} hello", serve.address())).expect(0);
    let (code, objects) = reported(sniff, None);
    assert_eq!(code, Some(1));
    let verdict = of_kind(&objects, "verdict")[0];
    assert_eq!(
        (&verdict["flows"], &verdict["flows_at_fault"]),
        (&1.into(), &0.into())
    );
    let finding = verdict["findings"][0]["text"].as_str().unwrap();
    assert!(finding.contains("No space left on device"), "{finding}");
}
