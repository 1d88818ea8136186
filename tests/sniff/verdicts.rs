//! Tests the verdicts of `sniff` on crafted conversations, each with one irregularity: a good
//! conversation must be judged good, and a fault must be reported with its packet.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::craft::{ACK, FIN, PSH, SYN, Talk};
use crate::common::sniff_output::objects;
use crate::common::{self, run_with_input, upcase};
use serde_json::Value;
use upcase::echo::Expect;
use upcase::sniff::analyzer::Analyzer;
use upcase::sniff::file::Frame;
use upcase::sniff::file::linktype::Link;
use upcase::sniff::flow::flows::Flows;
use upcase::sniff::flow::{Fault, Packet};
use upcase::sniff::packet::parse;
use upcase::sniff::print::calendar::Calendar;
use upcase::sniff::print::document::{Document, Format};
use upcase::sniff::print::transcript::Style;

const PORT: u16 = 40_000;
const CLIENT: u32 = 1000;
const SERVER: u32 = 5000;

/// Packets with their arrival times, in milliseconds.
type Packets = Vec<(u64, Vec<u8>)>;

/// Returns the packets of a conversation, one every millisecond.
fn timed(talk: Talk) -> Packets {
    (0..).zip(talk.packets).collect()
}

/// Returns a conversation: handshake (1 to 3), a message of ten bytes, its acknowledgment, reply
/// and acknowledgment (4 to 7), another message the same way (8 to 11), FIN, FIN, acknowledgment
/// (12 to 14).
fn ordinary(client: u32, server: u32) -> Packets {
    let mut talk = Talk::open(PORT, client, server);
    for _ in 0..2 {
        talk.say(true, PSH | ACK, 10);
        talk.say(false, ACK, 0);
        talk.say(false, PSH | ACK, 10);
        talk.say(true, ACK, 0);
    }
    talk.close();
    timed(talk)
}

/// Returns the document about packets: every object, the verdict last.
fn sniffed(packets: &Packets, dropped: u64) -> Vec<Value> {
    sniffed_expecting(packets, dropped, Expect::Upper)
}

fn sniffed_expecting(packets: &Packets, dropped: u64, expect: Expect) -> Vec<Value> {
    let style = Style {
        relative: false,
        width: 60,
    };
    let document = Document::new(Format::Json, style, Calendar::utc());
    let mut reported = Vec::new();
    let analyzer = Analyzer::new(document, false, None, &mut reported);
    let mut analyzer = analyzer.expecting(expect);
    analyzer.dropped(dropped);
    for (time, bytes) in packets {
        let frame = Frame {
            time: Duration::from_millis(1_000_000 + time),
            link: Ok(Link::Ip),
            bytes,
            on_wire: usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            trailer: 0,
        };
        analyzer.frame(&frame).unwrap();
    }
    analyzer.finish().unwrap();
    objects(&String::from_utf8(reported).unwrap())
}

fn verdict(packets: &Packets) -> Value {
    sniffed(packets, 0).pop().unwrap()
}

#[track_caller]
fn is_well(packets: &Packets) {
    let verdict = verdict(packets);
    assert_eq!(verdict["ok"], true, "{verdict:#}");
    assert_eq!(verdict["flows"], 1, "{verdict:#}");
}

/// Returns the texts of the findings with their packets.
fn findings(verdict: &Value) -> Vec<(String, Option<u64>)> {
    let findings = verdict["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| {
            let text = finding["text"].as_str().unwrap().to_string();
            (text, finding["packet"].as_u64())
        })
        .collect()
}

#[test]
fn what_is_ordinary_is_well_wherever_its_numbers_lie() {
    is_well(&ordinary(CLIENT, SERVER));
    // The numbers wrap within the messages, at the FIN, after it.
    for distance in 0..25 {
        is_well(&ordinary(u32::MAX - distance, SERVER));
        is_well(&ordinary(CLIENT, u32::MAX - distance));
    }
}

#[test]
fn a_capture_may_hold_neighbours_the_other_way_round() {
    for place in 0..13 {
        let mut packets = ordinary(CLIENT, SERVER);
        let (first, second) = (packets[place].1.clone(), packets[place + 1].1.clone());
        (packets[place].1, packets[place + 1].1) = (second, first);
        is_well(&packets);
    }
}

#[test]
fn packets_that_come_twice_are_counted_once() {
    for place in 0..14 {
        let mut packets = ordinary(CLIENT, SERVER);
        let again = (packets[13].0 + 1, packets[place].1.clone());
        packets.push(again);
        is_well(&packets);
        let mut packets = ordinary(CLIENT, SERVER);
        let again = packets[place].clone();
        packets.insert(place + 1, again);
        is_well(&packets);
    }
}

#[test]
fn a_fin_that_is_sent_again_and_again_stays_in_its_connection() {
    let mut packets = ordinary(CLIENT, SERVER);
    let mut time = packets[13].0;
    for pause in [200, 400, 800, 1600, 2900, 2900] {
        time += pause;
        packets.push((time, packets[12].1.clone()));
        packets.push((time, packets[13].1.clone()));
    }
    is_well(&packets);
}

#[test]
fn a_wrong_byte_is_blamed_on_the_packet_that_brought_it() {
    // Packet 6 is a reply; captured in its place, and captured before or after its neighbours.
    for order in [[5, 6, 7], [4, 5, 6], [7, 6, 5]] {
        let mut packets = ordinary(CLIENT, SERVER);
        let bytes = &mut packets[5].1;
        let place = bytes.len() - 4;
        bytes[place] = b'!';
        let originals: Vec<Vec<u8>> = order
            .iter()
            .map(|&place| packets[place].1.clone())
            .collect();
        let mut places = order;
        places.sort_unstable();
        for (place, bytes) in places.iter().zip(originals) {
            packets[*place].1 = bytes;
        }
        let is_guilty = |bytes: &[u8]| bytes[bytes.len() - 4] == b'!';
        let guilty = packets.iter().position(|(_, bytes)| is_guilty(bytes));
        let guilty = guilty.unwrap() as u64;
        let reported = findings(&verdict(&packets));
        let expected = "the reply is wrong at offset 6: '!' (0x21), not 'X' (0x58)".to_string();
        assert_eq!(reported, [(expected, Some(guilty + 1))], "{order:?}");
    }
}

/// Returns a conversation: handshake (1 to 3), then messages without acknowledgment: ten bytes of
/// the client (4), ten more (5), and the segments under test (6, 7...); then replies and an orderly
/// end.
fn unacknowledged(client: u32, server: u32, odd: &[Vec<u8>]) -> Packets {
    let mut talk = Talk::open(PORT, client, server);
    talk.say(true, ACK, 10);
    talk.say(true, PSH | ACK, 10);
    talk.packets.extend_from_slice(odd);
    talk.say(false, ACK, 0);
    talk.say(false, PSH | ACK, 20);
    talk.say(true, ACK, 0);
    talk.close();
    timed(talk)
}

/// Returns a segment of the client or the server, this many bytes after the beginning of its
/// stream; if `change` is a place in it, the byte there is 'y' instead of 'X'.
fn segment(
    from_client: bool,
    (client, server): (u32, u32),
    (offset, length): (u32, usize),
    change: Option<usize>,
) -> Vec<u8> {
    let (c, s) = (client.wrapping_add(1), server.wrapping_add(1));
    let (base, ack) = if from_client { (c, s) } else { (s, c) };
    let mut talk = Talk::open(PORT, client, server);
    let seq = base.wrapping_add(offset);
    talk.put(from_client, PSH | ACK, (seq, ack), length);
    let mut bytes = talk.packets.pop().unwrap();
    if let Some(place) = change {
        bytes[40 + place] = b'y';
    }
    bytes
}

#[track_caller]
fn is_altered(packets: &Packets, side: &str, offset: u32, packet: u64) {
    let verdict = verdict(packets);
    let text = format!(
        "the {side} retransmits with different content at offset {offset}: \
         'y' (0x79), not 'X' (0x58)"
    );
    assert_eq!(findings(&verdict), [(text, Some(packet))], "{verdict:#}");
    let finding = &verdict["findings"][0];
    assert_eq!(
        (&finding["flow"], &finding["offset"]),
        (&1.into(), &offset.into())
    );
    assert_eq!(verdict["ok"], false);
}

#[test]
fn bytes_that_come_again_with_other_content_are_found() {
    // The numbers wrap before, within and after them.
    let places = (0..25).map(|distance| u32::MAX - distance);
    for client in places.chain([CLIENT]) {
        let ends = (client, SERVER);
        // Retransmissions of packet 5, of parts of packets 4 and 5, and of both.
        for (offset, length, place) in [(10, 10, 3), (5, 10, 2), (5, 10, 8), (0, 20, 19)] {
            let again = |change| segment(true, ends, (offset, length), change);
            is_well(&unacknowledged(client, SERVER, &[again(None)]));
            let packets = unacknowledged(client, SERVER, &[again(Some(place)), again(Some(0))]);
            is_altered(&packets, "client", offset + place as u32, 6);
        }
    }
    let reported = sniffed(
        &unacknowledged(
            CLIENT,
            SERVER,
            &[segment(true, (CLIENT, SERVER), (10, 10), Some(3))],
        ),
        0,
    );
    let text = reported[5]["text"].as_str().unwrap();
    assert!(
        text.contains("; DIFFERENT CONTENT at offset 13: 'y' (0x79), not 'X' (0x58)."),
        "{text}"
    );
}

#[test]
fn a_reply_that_comes_again_with_other_content_is_found() {
    let mut packets = ordinary(CLIENT, SERVER);
    let again = segment(false, (CLIENT, SERVER), (0, 10), Some(9));
    packets.insert(6, (5, again.clone()));
    is_altered(&packets, "server", 9, 7);
    // The first reply is acknowledged: the client has it, and drops what arrives after.
    let mut packets = ordinary(CLIENT, SERVER);
    packets.insert(7, (6, again));
    is_well(&packets);
}

#[test]
fn bytes_that_wait_for_earlier_ones_are_compared_too() {
    let ends = (CLIENT, SERVER);
    let mut packets = unacknowledged(CLIENT, SERVER, &[]);
    packets.swap(3, 4);
    packets.insert(4, (3, segment(true, ends, (15, 5), Some(4))));
    is_altered(&packets, "client", 19, 5);
}

#[test]
fn bytes_that_were_cut_off_are_not_taken_for_others() {
    let ends = (CLIENT, SERVER);
    // The retransmission is cut: the other byte is not in the capture.
    let mut again = segment(true, ends, (10, 10), Some(7));
    again.truncate(40 + 7);
    is_well(&unacknowledged(CLIENT, SERVER, &[again]));
    // The first transmission is cut.
    let again = segment(true, ends, (10, 10), Some(7));
    let mut packets = unacknowledged(CLIENT, SERVER, &[again]);
    packets[4].1.truncate(40 + 7);
    let reported = findings(&verdict(&packets));
    let texts: Vec<&str> = reported.iter().map(|(text, _)| text.as_str()).collect();
    let expected = [
        "3 bytes of the client are not in the capture, though they were sent",
        "3 bytes of the reply were not compared",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn the_byte_of_a_keep_alive_is_no_data() {
    let keep_alive = segment(true, (CLIENT, SERVER), (19, 1), Some(0));
    let packets = unacknowledged(CLIENT, SERVER, &[keep_alive]);
    assert_eq!(sniffed(&packets, 0)[5]["analysis"][0], "keep_alive");
    is_well(&packets);
}

#[test]
fn the_byte_of_a_window_probe_is_data() {
    for change in [None, Some(0)] {
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        let (c, s) = (CLIENT + 1, SERVER + 1);
        talk.say(false, ACK, 0);
        let window = talk.packets.last_mut().unwrap();
        window[34..36].fill(0);
        talk.packets
            .push(segment(true, (CLIENT, SERVER), (0, 1), None));
        talk.put(false, ACK, (s, c), 0);
        talk.say(true, PSH | ACK, 10);
        let message = talk.packets.last_mut().unwrap();
        if let Some(place) = change {
            message[40 + place] = b'y';
        }
        talk.say(false, PSH | ACK, 10);
        talk.say(true, ACK, 0);
        talk.close();
        let packets = timed(talk);
        assert_eq!(sniffed(&packets, 0)[4]["analysis"][0], "zero_window_probe");
        match change {
            None => is_well(&packets),
            Some(_) => is_altered(&packets, "client", 0, 7),
        }
    }
}

#[test]
fn bytes_that_are_kept_are_bounded_for_all_flows_together() {
    const BYTES_MAX: usize = 100_000;
    // Messages of 1000 bytes without an acknowledgment: one, many, many after a hole; then a reply.
    let talks = [(1, 0, 1), (2, 0, 60), (3, 10, 60)].map(|(port, hole, count)| {
        let mut talk = Talk::open(port, CLIENT, SERVER);
        for message in 0..count {
            let seq = CLIENT + 1 + hole + message * 1000;
            talk.put(true, PSH | ACK, (seq, SERVER + 1), 1000);
        }
        talk.packets
    });
    let replies = [1, 2, 3].map(|port| {
        let mut talk = Talk::open(port, CLIENT, SERVER);
        talk.put(false, PSH | ACK, (SERVER + 1, CLIENT + 1), 1000);
        talk.packets.split_off(3)
    });
    let mut flows = Flows::new(None, BYTES_MAX);
    for (number, bytes) in (1..).zip(talks.iter().chain(&replies).flatten()) {
        let time = Duration::from_millis(number);
        let segment = parse(Link::Ip, bytes, bytes.len()).unwrap();
        flows.observe(Packet { number, time }, &segment, &mut Vec::new());
        assert!(flows.bytes() <= BYTES_MAX);
    }
    flows.finish_all();
    let faults = flows
        .take_finished()
        .into_iter()
        .map(|finished| finished.judgement.findings);
    let not_compared: Vec<bool> = faults
        .map(|found| {
            found
                .iter()
                .any(|finding| matches!(finding.fault, Fault::Unchecked(_)))
        })
        .collect();
    assert_eq!(
        not_compared,
        [false, true, true],
        "flows that buffer little are still compared"
    );
}

#[test]
fn a_capture_that_begins_in_the_middle_convicts_nobody() {
    for first in 1..13 {
        let packets = ordinary(CLIENT, SERVER).split_off(first);
        let reported = findings(&verdict(&packets));
        assert!(!reported.is_empty(), "the capture lacks the handshake");
        for (text, _) in &reported {
            assert!(
                !text.contains("wrong") && !text.contains("answer no request"),
                "{reported:?}"
            );
        }
    }
}

#[test]
fn each_packet_that_is_missing_is_noticed() {
    for place in 0..14 {
        let mut packets = ordinary(CLIENT, SERVER);
        packets.remove(place);
        let reported = findings(&verdict(&packets));
        // A missing bare acknowledgment is no loss when a later one covers it.
        let bare = [2, 4, 6, 8, 10].contains(&place);
        assert_eq!(
            reported.is_empty(),
            bare,
            "without packet {}: {reported:?}",
            place + 1
        );
        assert!(
            !reported.iter().any(|(text, _)| text.contains("wrong")),
            "{reported:?}"
        );
    }
}

#[test]
fn what_the_handshake_lacks_is_reported_with_the_first_packet_of_its_flow() {
    let before = Talk::open(PORT + 1, CLIENT, SERVER).packets.remove(0);
    for (missing, text) in [
        (
            0..1,
            "the capture has no SYN: it begins in the middle of the connection",
        ),
        (1..2, "the server's SYN,ACK is missing"),
        (2..14, "the handshake was not completed"),
    ] {
        let mut packets = ordinary(CLIENT, SERVER);
        packets.drain(missing);
        packets.insert(0, (0, before.clone()));
        let reported = sniffed(&packets, 0);
        let flow = reported
            .iter()
            .rfind(|value| value["kind"] == "flow")
            .unwrap();
        let first = &flow["findings"][0];
        assert_eq!(
            (&first["text"], &first["packet"]),
            (&text.into(), &2.into())
        );
    }
}

#[test]
fn what_the_kernel_dropped_is_not_blamed_on_tcp() {
    let mut packets = ordinary(CLIENT, SERVER);
    packets.remove(5);
    let reported = sniffed(&packets, 1);
    let findings = reported.last().unwrap()["findings"]
        .as_array()
        .unwrap()
        .clone();
    assert!(!findings.is_empty());
    assert!(
        findings
            .iter()
            .all(|finding| finding["perhaps_dropped"] == true),
        "{findings:?}"
    );
}

#[test]
fn a_new_connection_on_the_ports_of_an_old_one_stands_for_itself() {
    let mut packets = ordinary(1 << 30, 3 << 30).split_off(5);
    packets.truncate(2);
    packets.extend(ordinary(CLIENT, SERVER));
    let reported = sniffed(&packets, 0);
    let flows: Vec<&Value> = reported
        .iter()
        .filter(|value| value["kind"] == "flow")
        .collect();
    assert_eq!(flows.len(), 2);
    assert_eq!(
        (&flows[0]["ok"], &flows[1]["ok"]),
        (&false.into(), &true.into())
    );
}

#[test]
fn the_delay_of_a_reply_is_reported_once_for_each_message() {
    let reported = verdict(&ordinary(CLIENT, SERVER));
    assert_eq!(reported["reply_delay_us"]["count"], 2);

    // A message in three segments, whose reply begins after the second: it has no delay.
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.say(true, ACK, 100);
    talk.say(true, ACK, 100);
    talk.say(false, ACK, 200);
    talk.say(true, PSH | ACK, 100);
    talk.say(false, PSH | ACK, 100);
    talk.say(true, PSH | ACK, 10);
    talk.say(false, PSH | ACK, 10);
    let reported = verdict(&timed(talk));
    assert_eq!(reported["reply_delay_us"]["count"], 1, "{reported:#}");
}

#[test]
fn a_pipe_is_reported_as_it_comes() {
    let sample = include_bytes!("../data/uppercase-echo-python.pcap");
    // If `sniff` printed nothing, this test would wait without end.
    let sniff = upcase("sniff --read - --format json");
    let mut child = Command::new("timeout")
        .arg(common::TIMEOUT.as_secs().to_string())
        .arg(sniff.get_program())
        .args(sniff.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    pipe.write_all(sample).unwrap();
    // The pipe stays open: only packets that have arrived can be printed now.
    for number in 1..=13 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["number"], number);
    }
    drop(pipe);
    assert_eq!(lines.count(), 2, "the flow and the verdict");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_section_header_with_options_may_come_in_pieces_and_in_big_endian() {
    let mut file = Vec::new();
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes()[..], &length, body, &length].concat()
    };
    let mut section = vec![0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0];
    section.extend([0xff; 8]);
    section.extend([0, 4, 0, 8]);
    section.extend(b"made up!");
    section.extend([0; 4]);
    file.extend(block(0x0a0d_0d0a, &section));
    // Link type 101, and time stamps that count from 100 seconds after 1970.
    let mut interface = vec![0, 101, 0, 0, 0, 0, 0, 0, 0, 14, 0, 8];
    interface.extend(100_i64.to_be_bytes());
    interface.extend([0; 4]);
    file.extend(block(1, &interface));
    for (time, bytes) in ordinary(CLIENT, SERVER) {
        let length = bytes.len() as u32;
        let mut packet = Vec::new();
        for field in [0, 0, time as u32 * 1000, length, length] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(&bytes);
        packet.resize(packet.len().next_multiple_of(4), 0);
        file.extend(block(6, &packet));
    }
    let reported = run_with_input("sniff --read - --format json", file.chunks(7)).expect(0);
    let first = &objects(&reported.stdout)[0];
    assert_eq!(first["time"], "100.000000000");
}

const RST: u8 = 4;

/// Returns the verdict of a capture in one word, and the texts of its findings.
fn judged(packets: &Packets) -> (String, Vec<String>) {
    let verdict = verdict(packets);
    let texts = findings(&verdict).into_iter().map(|(text, _)| text);
    (
        verdict["verdict"].as_str().unwrap().to_string(),
        texts.collect(),
    )
}

/// Returns the notes of the flows in a document.
fn notes(reported: &[Value]) -> Vec<String> {
    let flows = reported.iter().filter(|value| value["kind"] == "flow");
    let notes = flows.flat_map(|flow| flow["notes"].as_array().unwrap().clone());
    notes
        .map(|note| note.as_str().unwrap().to_string())
        .collect()
}

/// Returns the ordinary conversation with one more segment, after this many of its own.
fn with(after: usize, segment: (bool, u8, (u32, u32), usize)) -> Packets {
    let (from_client, flags, numbers, length) = segment;
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.put(from_client, flags, numbers, length);
    let mut packets = ordinary(CLIENT, SERVER);
    packets.insert(after, (packets[after - 1].0, talk.packets.pop().unwrap()));
    packets
}

#[test]
fn what_lies_outside_the_window_changes_nothing() {
    let (c, s) = (CLIENT + 1, SERVER + 1);
    // The windows are 4000 bytes, and after packet 7 ten bytes of each side are acknowledged.
    let far = |seq: u32| [seq + 5000, seq + 1_000_000, seq.wrapping_sub(100_000)];
    for (from_client, seq, ack) in [(true, c + 10, s + 10), (false, s + 10, c + 10)] {
        for seq in far(seq) {
            for (flags, length) in [
                (PSH | ACK, 7),
                (ACK, 0),
                (FIN | ACK, 0),
                (RST | ACK, 0),
                (RST, 0),
            ] {
                let packets = with(7, (from_client, flags, (seq, ack), length));
                is_well(&packets);
                let reported = sniffed(&packets, 0);
                assert_eq!(reported[7]["out_of_window"], true, "{}", reported[7]);
                let notes = notes(&reported);
                assert!(notes[0].contains("outside the window"), "{notes:?}");
                assert!(notes[0].ends_with("(packet 8)"), "{notes:?}");
                let later = reported[8..]
                    .iter()
                    .filter(|value| value["kind"] == "segment");
                for segment in later {
                    assert_eq!(segment["analysis"], Value::Array(Vec::new()), "{segment}");
                }
            }
        }
    }
    // An RST whose number was acknowledged already.
    is_well(&with(11, (false, RST, (s + 10, c), 0)));
    // An acknowledgment of bytes that were never sent is dropped with its segment.
    is_well(&with(13, (false, ACK, (s + 20, c + 9000), 0)));
}

#[test]
fn an_rst_within_the_window_ends_what_does_not_go_on() {
    let (c, s) = (CLIENT + 1, SERVER + 1);
    // At the number that is expected: the RST ends the connection.
    let packets = with(7, (false, RST | ACK, (s + 10, c + 10), 0));
    let (word, texts) = judged(&packets);
    assert_eq!(word, "wrong");
    assert!(
        texts.contains(&"the server reset the connection".to_string()),
        "{texts:?}"
    );
    // Beyond it: the RST is answered, and the connection continues (RFC 5961).
    let packets = with(7, (false, RST, (s + 500, 0), 0));
    is_well(&packets);
    let notes = notes(&sniffed(&packets, 0));
    assert!(
        notes[0].contains("the connection continued (packet 8)"),
        "{notes:?}"
    );
    // Or the capture lacks the bytes before it, and nothing follows.
    let mut packets = with(7, (false, RST, (s + 500, 0), 0));
    packets.truncate(8);
    assert_eq!(judged(&packets).0, "wrong");
}

#[test]
fn an_rst_after_both_sides_have_closed_changes_nothing() {
    let (c, s) = (CLIENT + 1, SERVER + 1);
    for pause in [1, 2000, 100_000] {
        let mut packets = ordinary(CLIENT, SERVER);
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        talk.put(true, RST, (c + 21, 0), 0);
        talk.put(false, RST, (s + 12_345, 0), 0);
        let time = packets[13].0 + pause;
        packets.extend(talk.packets.drain(3..).map(|packet| (time, packet)));
        is_well(&packets);
    }
}

#[test]
fn an_rst_at_the_end_is_no_fault_because_the_capture_lacks_an_acknowledgment() {
    for lacking in [10, 13] {
        let mut packets = ordinary(CLIENT, SERVER);
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        talk.put(true, RST, (CLIENT + 22, 0), 0);
        packets.push((20, talk.packets.pop().unwrap()));
        packets.remove(lacking);
        let expected = if lacking == 13 {
            "incomplete"
        } else {
            "all well"
        };
        let (word, texts) = judged(&packets);
        assert_eq!(word, expected, "{texts:?}");
    }
}

#[test]
fn an_ended_connection_is_remembered_for_as_long_as_time_wait() {
    let again = |pause: u64| {
        let mut packets = ordinary(CLIENT, SERVER);
        let time = packets[13].0 + pause;
        packets.push((time, packets[12].1.clone()));
        packets.push((time, packets[13].1.clone()));
        let reported = sniffed(&packets, 0);
        let flows: Vec<u64> = reported
            .iter()
            .filter(|value| value["kind"] == "segment")
            .map(|segment| segment["flow"].as_u64().unwrap())
            .collect();
        (flows[14], flows[15])
    };
    for pause in [0, 2_999, 3_001, 60_000, 239_000] {
        assert_eq!(again(pause), (1, 1), "{pause}");
    }
    assert_eq!(again(241_000), (2, 2));
}

#[test]
fn ports_that_are_used_again_are_reported_for_as_long_as_time_wait() {
    for (pause, word) in [(1, true), (4_000, true), (239_000, true), (241_000, false)] {
        let mut packets = ordinary(CLIENT, SERVER);
        let time = packets[13].0 + pause;
        let next = ordinary(CLIENT + 50_000, SERVER + 50_000);
        packets.extend(next.into_iter().map(|(at, packet)| (time + at, packet)));
        let reported = sniffed(&packets, 0);
        assert_eq!(reported.last().unwrap()["verdict"], "all well");
        let syn = reported.iter().find(|value| value["number"] == 15).unwrap();
        let names = syn["analysis"].as_array().unwrap();
        assert_eq!(names.contains(&"reused_ports".into()), word, "{pause}");
    }
}

#[test]
fn a_connection_without_its_syn_is_not_taken_for_stragglers_of_the_last_one() {
    for pause in [1, 4_000] {
        for first in 1..14 {
            let mut packets = ordinary(CLIENT, SERVER);
            let time = packets[13].0 + pause;
            let next = ordinary(CLIENT + 50_000, SERVER + 50_000).split_off(first);
            packets.extend(next.into_iter().map(|(at, packet)| (time + at, packet)));
            assert_eq!(judged(&packets).0, "incomplete", "{pause} {first}");
        }
    }
}

#[test]
fn bytes_after_the_fin_are_found_also_when_the_connection_was_reported() {
    for pause in [1, 10_000] {
        let mut packets = ordinary(CLIENT, SERVER);
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        talk.put(true, PSH | ACK, (CLIENT + 22, SERVER + 22), 5);
        packets.push((packets[13].0 + pause, talk.packets.pop().unwrap()));
        let reported = sniffed(&packets, 0);
        let verdict = reported.last().unwrap();
        assert_eq!(verdict["verdict"], "wrong", "{pause}: {verdict:#}");
        assert_eq!(
            (&verdict["flows"], &verdict["flows_at_fault"]),
            (&1.into(), &1.into())
        );
        let expected = ("the client sent more after its FIN".to_string(), Some(15));
        assert_eq!(findings(verdict), [expected]);
    }
}

#[test]
fn a_server_that_closes_without_an_answer_is_wrong() {
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.say(true, PSH | ACK, 10);
    talk.say(false, PSH | ACK, 6);
    talk.say(true, ACK, 0);
    let open = talk.clone();
    talk.close();
    let text = "4 bytes were not answered: the server acknowledged them and closed".to_string();
    assert_eq!(judged(&timed(talk)), ("wrong".to_string(), vec![text]));
    // As long as the server may still reply, the bytes are only not answered yet.
    let (word, texts) = judged(&timed(open));
    assert_eq!(word, "incomplete");
    let text = "4 bytes were not answered in this capture".to_string();
    assert!(texts.contains(&text), "{texts:?}");
}

#[test]
fn a_surplus_that_is_there_is_wrong_and_one_that_may_be_a_gap_is_not() {
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.say(true, PSH | ACK, 10);
    talk.say(false, PSH | ACK, 16);
    talk.close();
    let packets = timed(talk);
    let text = "6 bytes of the server answer no request".to_string();
    assert_eq!(judged(&packets), ("wrong".to_string(), vec![text]));
    let mut lacking = packets.clone();
    lacking.remove(4);
    let (word, texts) = judged(&lacking);
    assert_eq!(word, "incomplete", "{texts:?}");
}

#[test]
fn a_fin_that_the_capture_lacks_is_no_missing_byte() {
    let mut packets = ordinary(CLIENT, SERVER);
    packets.remove(11);
    let text = "the FIN of the client is not in the capture: a number after its last byte was \
                acknowledged";
    let (word, texts) = judged(&packets);
    assert_eq!(
        (word.as_str(), &texts[..]),
        ("incomplete", &[text.to_string()][..])
    );
}

#[test]
fn what_is_expected_of_replies_is_a_choice() {
    let reply = |bytes: &[u8]| {
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        talk.say(true, PSH | ACK, 4);
        talk.say(false, PSH | ACK, bytes.len());
        for (place, bytes) in [(3, &b"Abcd"[..]), (4, bytes)] {
            talk.packets[place].truncate(40);
            talk.packets[place].extend(bytes);
        }
        talk.close();
        timed(talk)
    };
    let word = |bytes: &[u8], expect| {
        let reported = sniffed_expecting(&reply(bytes), 0, expect);
        let verdict = reported.last().unwrap();
        assert_eq!(verdict["expect"], expect.name());
        verdict["verdict"].as_str().unwrap().to_string()
    };
    for (bytes, upper, same) in [
        (&b"ABCD"[..], "all well", "wrong"),
        (&b"Abcd"[..], "wrong", "all well"),
        (&b"ABC"[..], "wrong", "wrong"),
        (&b"ABCDE"[..], "wrong", "wrong"),
        (&b"HTTP/1.1 200 OK"[..], "wrong", "wrong"),
    ] {
        assert_eq!(word(bytes, Expect::Upper), upper);
        assert_eq!(word(bytes, Expect::Same), same);
        assert_eq!(word(bytes, Expect::Anything), "all well");
    }
    // Even when only TCP is checked, bytes that the capture lacks are missing.
    let mut lacking = reply(b"HTTP/1.1 200 OK");
    lacking.remove(4);
    let reported = sniffed_expecting(&lacking, 0, Expect::Anything);
    let verdict = reported.last().unwrap();
    assert_eq!(verdict["verdict"], "incomplete");
    let text = "15 bytes of the server are not in the capture, though they were sent";
    assert_eq!(findings(verdict), [(text.to_string(), Some(6))]);
}

#[test]
fn packets_that_the_kernel_dropped_make_a_capture_incomplete() {
    let reported = sniffed(&ordinary(CLIENT, SERVER), 1);
    assert_eq!(reported.last().unwrap()["verdict"], "incomplete");
    assert_eq!(reported.last().unwrap()["flows_incomplete"], 0);
}

#[test]
fn a_syn_that_was_refused_and_comes_again_is_another_attempt() {
    for (isn, pause) in [(CLIENT, 10), (CLIENT, 10_000), (CLIENT + 999, 10)] {
        let mut talk = Talk::open(PORT, CLIENT, SERVER);
        talk.packets.truncate(1);
        talk.put(false, RST | ACK, (0, CLIENT + 1), 0);
        let mut packets = timed(talk);
        let next = ordinary(isn, SERVER);
        packets.extend(next.into_iter().map(|(at, packet)| (pause + at, packet)));
        let reported = sniffed(&packets, 0);
        let flows: Vec<&str> = reported
            .iter()
            .filter(|value| value["kind"] == "flow")
            .map(|flow| flow["verdict"].as_str().unwrap())
            .collect();
        assert_eq!(flows, ["wrong", "all well"], "{isn} {pause}");
        assert_eq!(reported[2]["analysis"][0], "reused_ports");
    }
    // An RST that does not acknowledge the SYN refuses nothing.
    let mut packets = ordinary(CLIENT, SERVER);
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.put(false, RST | ACK, (0, CLIENT + 77), 0);
    talk.put(false, RST, (9, 0), 0);
    for packet in talk.packets.drain(3..) {
        packets.insert(1, (0, packet));
    }
    is_well(&packets);
}

#[test]
fn the_syn_ack_that_the_client_acknowledges_is_the_one_that_counts() {
    let mut packets = ordinary(CLIENT, SERVER);
    let mut talk = Talk::open(PORT, CLIENT, SERVER);
    talk.put(false, SYN | ACK, (SERVER + 700_000, CLIENT + 1), 0);
    let stray = talk.packets.pop().unwrap();
    packets.insert(1, (0, stray.clone()));
    is_well(&packets);
    let mut packets = ordinary(CLIENT, SERVER);
    packets.insert(2, (1, stray));
    is_well(&packets);
}
