//! Tests the captures that `sniff` reads: every kind of file, link type, tunnel and fragment, whose
//! transcript must equal that of the plain conversation; and each of them truncated, damaged and at
//! its limits.

use std::io::{Cursor, Write};
use std::process::Command;
use std::time::Duration;

use crate::common::files::{self, Blocks, Shape, gzip};
use crate::common::sniff_output::{findings, objects, of_kind, sniffed};
use crate::common::wrap::{self, WRAPS, talk};
use crate::common::{self, Process, Temporary, run, upcase};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use serde_json::Value;
use upcase::sniff::file::foreign::ForeignFile;
use upcase::sniff::file::linktype::Link;
use upcase::sniff::file::{FileFault, Next, Reader, Writer};
use upcase::sniff::packet::bytes::Unread;
use upcase::sniff::packet::parse;

const PORT: u16 = 40_000;

/// Returns the packets of a conversation, in IPv4 or in IPv6.
fn conversation(v6: bool) -> Vec<Vec<u8>> {
    let packets = talk(PORT).into_iter();
    packets
        .map(|ip| if v6 { wrap::to_ipv6(&ip) } else { ip })
        .collect()
}

/// Returns a pcapng file of frames, a millisecond apart.
fn pcapng(link: u16, frames: &[Vec<u8>]) -> Vec<u8> {
    files::pcapng(link, &files::timed(frames))
}

/// Returns the segments of a document without the numbers and times of their packets.
fn segments(objects: &[Value]) -> Vec<Value> {
    let segments = objects.iter().filter(|value| value["kind"] == "segment");
    let without_number = segments.cloned().map(|mut value| {
        value["number"] = Value::Null;
        value["time"] = Value::Null;
        value["date"] = Value::Null;
        value
    });
    without_number.collect()
}

/// Checks that the segments of a file are those of the plain conversation, and that the verdict is
/// good.
#[track_caller]
fn is_the_conversation(name: &str, file: Vec<u8>, v6: bool) {
    let (_, plain) = sniffed(pcapng(101, &conversation(v6))).unwrap();
    let (verdict, reported) = sniffed(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(verdict.is_good(), "{name}: {verdict:#?}");
    assert_eq!(verdict.notes, [""; 0], "{name}");
    assert_eq!(segments(&reported), segments(&plain), "{name}");
    assert_eq!(segments(&reported).len(), 9, "{name}");
}

fn case(name: &str) -> String {
    format!("{}/tests/data/sniff/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_case_that_was_read_wrongly_is_read() {
    for name in [
        "tsresol-2-to-minus-20.pcapng",
        "obsolete-packet-block.pcapng",
        "linktype-field-with-fcs-bit.pcap",
        "modified-a1b2cd34-big-endian.pcap",
        "gzip.pcap.gz",
        "tunnel-vxlan.pcap",
        "tunnel-ipip.pcap",
        "pppoe.pcap",
        "ethernet-llc-snap.pcap",
        "reply-in-two-ip-fragments.pcap",
        "ip-source-route-pending.pcap",
    ] {
        let objects = objects(
            &run(&format!("sniff --format json --read {}", case(name)))
                .expect(0)
                .stdout,
        );
        let reported: Vec<&Value> = of_kind(&objects, "segment");
        assert_eq!(reported.len(), 9, "{name}");
        assert_eq!(of_kind(&objects, "flow").len(), 1, "{name}");
        assert_eq!(reported[0]["src"], "10.77.0.2:40000", "{name}");
        assert_eq!(reported[0]["dst"], "10.77.0.1:12000", "{name}");
        assert_eq!(
            of_kind(&objects, "verdict")[0]["notes"],
            serde_json::json!([]),
            "{name}"
        );
        let time = reported[0]["time"].as_str().unwrap();
        assert!(time.starts_with("1700000000.000000"), "{name}: {time}");
        let handshake = &of_kind(&objects, "verdict")[0]["handshake_us"]["p50"];
        assert!(
            (1990.0..2010.0).contains(&handshake.as_f64().unwrap()),
            "{name}: {handshake}"
        );
    }
    let reported = run(&format!(
        "sniff --read {}",
        case("snaplen-68-cuts-syn-options.pcap")
    ))
    .stdout;
    // The date is on the line before the first packet.
    let line = |number: usize| reported.lines().nth(1 + 2 * number).unwrap_or_default();
    for syn in [line(0), line(1)] {
        assert!(
            syn.contains("MSS 1460 SACK (further options cut off by the capture)"),
            "{syn}"
        );
    }
    assert!(!line(2).contains("cut off"), "{reported}");
    assert!(!reported.contains("headers are cut"), "{reported}");
}

#[test]
fn every_link_type_and_tunnel_is_looked_into() {
    for wrap in &WRAPS {
        for v6 in [false, true] {
            if v6 && !wrap.carries_ipv6() {
                continue;
            }
            let frames: Vec<Vec<u8>> = conversation(v6).iter().map(|ip| (wrap.wrap)(ip)).collect();
            let is_v6 = v6 || is_made_ipv6(wrap.name);
            is_the_conversation(wrap.name, pcapng(wrap.link, &frames), is_v6);
        }
    }
}

/// Returns whether the headers exist in IPv6 only: an IPv4 packet is converted to IPv6 for them.
fn is_made_ipv6(name: &str) -> bool {
    [
        "hop-by-hop options",
        "destination options",
        "two extension headers",
        "a fragment that is all of it",
        "routing header 0",
        "segment routing",
        "Teredo",
    ]
    .contains(&name)
}

#[test]
fn conversations_in_different_networks_are_reported_apart() {
    let tagged = |number: u8| {
        move |ip: &Vec<u8>| wrap::ethernet([0x81, 0], &[&[0, number, 8, 0], &ip[..]].concat())
    };
    let overlay = |number: u8| {
        move |ip: &Vec<u8>| {
            let payload = [&[8, 0, 0, 0, 0, 0, number, 0], &wrap::plain(ip)[..]].concat();
            wrap::plain(&wrap::ipv4(17, &wrap::udp(9, 4789, &payload)))
        }
    };
    let plain = |ip: &Vec<u8>| wrap::plain(ip);
    let tunnel = |ip: &Vec<u8>| wrap::plain(&wrap::ipv4(4, ip));
    let labels =
        |ip: &Vec<u8>| wrap::ethernet([0x88, 0x47], &[&[0, ip[15], 1, 64], &ip[..]].concat());
    type Way<'a> = &'a dyn Fn(&Vec<u8>) -> Vec<u8>;
    // Each packet is captured twice, as on both sides of a router, of a trunk, of a tunnel.
    let twice: [[Way<'_>; 2]; 6] = [
        [&tagged(5), &tagged(6)],
        [&plain, &tagged(6)],
        [&overlay(1), &plain],
        [&overlay(1), &overlay(2)],
        [&plain, &tunnel],
        [&labels, &plain],
    ];
    for (number, ways) in twice.iter().enumerate() {
        let packets = conversation(false).into_iter();
        let frames: Vec<Vec<u8>> = packets.flat_map(|ip| ways.map(|way| way(&ip))).collect();
        let (verdict, reported) = sniffed(pcapng(1, &frames)).unwrap();
        assert!(verdict.is_good(), "{number}: {verdict:#?}");
        assert_eq!(verdict.flows, 2, "{number}");
        let analyses = of_kind(&reported, "segment")
            .into_iter()
            .map(|segment| &segment["analysis"]);
        assert!(
            analyses
                .into_iter()
                .all(|words| words == &serde_json::json!([])),
            "{number}"
        );
    }
    // VLAN tags in one direction only, as on the mirror port of a switch.
    let frames: Vec<Vec<u8>> = conversation(false)
        .iter()
        .map(|ip| {
            if ip[15] == 2 {
                tagged(5)(ip)
            } else {
                plain(ip)
            }
        })
        .collect();
    is_the_conversation("a tag in one direction", pcapng(1, &frames), false);
}

#[test]
fn truncated_packets_are_reported_as_truncated_not_malformed() {
    for wrap in &WRAPS {
        for ip in [&conversation(false)[0], &conversation(false)[3]] {
            let frame = (wrap.wrap)(ip);
            let link = Link::from_number(wrap.link.into()).unwrap();
            let whole = parse(link, &frame, frame.len()).unwrap();
            for length in 0..frame.len() {
                match parse(link, &frame[..length], frame.len()) {
                    Ok(segment) => assert_eq!(segment.length, whole.length, "{}", wrap.name),
                    Err(Unread::Malformed(why)) => panic!("{} at {length}: {why}", wrap.name),
                    Err(_) => {}
                }
            }
        }
    }
}

#[test]
fn a_route_that_is_used_up_leaves_the_destination_as_it_is() {
    for (name, place, value) in [
        ("loose source route", 14 + 20 + 3, 12),
        ("routing header 0", 14 + 40 + 3, 0),
        ("segment routing", 14 + 40 + 3, 0),
    ] {
        let wrap = WRAPS.iter().find(|wrap| wrap.name == name).unwrap();
        let mut frame = (wrap.wrap)(&conversation(false)[0]);
        assert!(
            parse(Link::Ethernet, &frame, frame.len())
                .unwrap()
                .target
                .to_string()
                != ""
        );
        frame[place] = value;
        let target = parse(Link::Ethernet, &frame, frame.len())
            .unwrap()
            .target
            .ip()
            .to_string();
        assert!(
            target.ends_with("99") || target.ends_with("::63"),
            "{name}: {target}"
        );
    }
}

/// Returns frames of protocols that may carry TCP and that `sniff` cannot decode, with their names.
fn closed() -> Vec<(&'static str, Vec<u8>)> {
    let secret = [9; 40];
    let ip = |protocol| wrap::plain(&wrap::ipv4(protocol, &secret));
    let udp = |port| wrap::plain(&wrap::ipv4(17, &wrap::udp(50_000, port, &secret)));
    let ppp = |protocol: [u8; 2]| {
        let payload = [&[0x11, 0, 0, 1, 0, 42], &protocol[..], &secret].concat();
        wrap::ethernet([0x88, 0x64], &payload)
    };
    let wireguard = wrap::udp(1, 51820, &[4, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    vec![
        ("ESP (encrypted)", ip(50)),
        ("IPComp (compressed)", ip(108)),
        ("L2TPv3", ip(115)),
        ("SwIPe (encrypted)", ip(53)),
        ("the encapsulation of RFC 1241", ip(98)),
        ("a private encryption (IP protocol 99)", ip(99)),
        ("ROHC (compressed)", ip(142)),
        ("ESP (encrypted) in UDP", udp(4500)),
        (
            "WireGuard (encrypted)",
            wrap::plain(&wrap::ipv4(17, &wireguard)),
        ),
        ("OpenVPN (encrypted)", udp(1194)),
        ("GUE", udp(6080)),
        ("CAPWAP", udp(5247)),
        ("PPP multilink", ppp([0, 0x3d])),
        ("PPP compression", ppp([0, 0xfd])),
        ("PPP encryption", ppp([0, 0x53])),
        ("TCP/IP compression (VJ)", ppp([0, 0x2d])),
        ("MACsec", wrap::ethernet([0x88, 0xe5], &secret)),
        ("TRILL", wrap::ethernet([0x22, 0xf3], &secret)),
        // On the port of a tunnel, with a header that is not supported.
        (
            "VXLAN",
            wrap::plain(&wrap::ipv4(17, &wrap::udp(9, 4789, &[0; 20]))),
        ),
        (
            "GTP-U",
            wrap::plain(&wrap::ipv4(
                17,
                &wrap::udp(9, 2152, &[0x50, 255, 0, 9, 1, 1, 1, 1]),
            )),
        ),
        (
            "GRE with routes",
            wrap::plain(&wrap::ipv4(47, &[0x40, 0, 8, 0, 0, 0, 0, 0])),
        ),
    ]
}

#[test]
fn what_is_not_looked_into_is_counted_by_its_name() {
    for (name, frame) in closed() {
        let mut frames = conversation(false);
        frames.iter_mut().for_each(|ip| *ip = wrap::plain(ip));
        frames.insert(3, frame.clone());
        let (verdict, _) = sniffed(pcapng(1, &frames)).unwrap();
        let note = format!("1 packet in {name} was not dissected");
        assert_eq!(verdict.notes, [note], "{name}");
        assert!(verdict.is_good(), "a remark, no fault: {name}");
        frames.extend(vec![frame; 8]);
        let (verdict, _) = sniffed(pcapng(1, &frames)).unwrap();
        assert_eq!(
            verdict.notes,
            [format!("9 packets in {name} were not dissected")]
        );
    }
    // These frames carry no TCP.
    let udp = wrap::plain(&wrap::ipv4(17, &wrap::udp(53, 50_000, &[1; 40])));
    let keep_alive = wrap::plain(&wrap::ipv4(17, &wrap::udp(4500, 4500, &[0xff])));
    let ike = wrap::plain(&wrap::ipv4(17, &wrap::udp(4500, 4500, &[0; 28])));
    let icmp = wrap::plain(&wrap::ipv4(1, &[8; 40]));
    let arp = wrap::ethernet([8, 6], &[1; 28]);
    let discovery = wrap::ethernet([0x88, 0x63], &[0x11, 9, 0, 0, 0, 0]);
    let frames = [udp, keep_alive, ike, icmp, arp, discovery];
    let (verdict, _) = sniffed(pcapng(1, &frames)).unwrap();
    assert_eq!(verdict.notes, [""; 0]);
    assert_eq!(
        verdict.faults.len(),
        1,
        "no connection, and nothing else: {verdict:?}"
    );
    // AppleTalk on the loopback of macOS.
    let (verdict, _) = sniffed(pcapng(0, &[vec![16, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]])).unwrap();
    assert_eq!(verdict.faults.len(), 1, "{verdict:?}");
}

#[test]
fn a_frame_of_nothing_but_headers_comes_to_an_end() {
    let mut ip = conversation(false)[0].clone();
    for _ in 0..500 {
        ip = wrap::ipv4(4, &ip);
    }
    let (verdict, _) = sniffed(pcapng(101, &[ip])).unwrap();
    let note = "1 packet in headers nested too deeply was not dissected";
    assert_eq!(verdict.notes, [note]);
}

/// Splits an IPv4 packet into fragments with `size` bytes of payload.
fn fragments(ip: &[u8], size: usize) -> Vec<Vec<u8>> {
    let length = ip.len() - 20;
    let starts = (0..length).step_by(size);
    starts
        .map(|start| {
            let end = (start + size).min(length);
            let mut fragment = [&ip[..20], &ip[20 + start..20 + end]].concat();
            let total = fragment.len() as u16;
            fragment[2..4].copy_from_slice(&total.to_be_bytes());
            let more = if end < length { 0x2000 } else { 0 };
            let place = (start / 8) as u16 | more;
            fragment[6..8].copy_from_slice(&place.to_be_bytes());
            fragment
        })
        .collect()
}

/// Splits an IPv6 packet into fragments with `size` bytes of payload.
fn fragments6(ip: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &ip[40..];
    let starts = (0..payload.len()).step_by(size);
    starts
        .map(|start| {
            let end = (start + size).min(payload.len());
            let place = (start as u16) | u16::from(end < payload.len());
            let mut fragment = ip[..40].to_vec();
            fragment.extend([ip[6], 0]);
            fragment.extend(place.to_be_bytes());
            fragment.extend([0, 1, 2, 3]);
            fragment.extend(&payload[start..end]);
            fragment[6] = 44;
            let length = (fragment.len() - 40) as u16;
            fragment[4..6].copy_from_slice(&length.to_be_bytes());
            fragment
        })
        .collect()
}

/// Returns the conversation, with a distinct identification in each IPv4 packet.
fn identified(v6: bool) -> Vec<Vec<u8>> {
    let packets = conversation(v6).into_iter().enumerate();
    packets
        .map(|(number, mut ip)| {
            if !v6 {
                ip[5] = number as u8 + 1;
            }
            ip
        })
        .collect()
}

#[test]
fn fragments_are_put_together_in_any_order() {
    for size in [8, 24, 40] {
        for (v6, backwards, doubled) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, false),
            (false, false, true),
        ] {
            let mut frames = Vec::new();
            for ip in identified(v6) {
                let mut parts = if v6 {
                    fragments6(&ip, size)
                } else {
                    fragments(&ip, size)
                };
                if backwards {
                    parts.reverse();
                }
                // A second copy of an unfragmented packet would be a retransmitted segment.
                let copies = if doubled && parts.len() > 1 { 2 } else { 1 };
                frames.extend(parts.into_iter().flat_map(|part| vec![part; copies]));
            }
            let name = format!("{size} {v6} {backwards} {doubled}");
            is_the_conversation(&name, pcapng(101, &frames), v6);
        }
    }
}

#[test]
fn tunnels_in_fragments_and_fragments_in_tunnels_are_put_together() {
    let outer = |ip: &[u8], number: usize| {
        let frame = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &wrap::plain(ip)].concat();
        let mut outer = wrap::ipv4(17, &wrap::udp(9, 4789, &frame));
        outer[5] = number as u8 + 1;
        outer
    };
    let mut frames = Vec::new();
    for (number, ip) in identified(false).iter().enumerate() {
        for (part, inner) in fragments(ip, 16).iter().enumerate() {
            frames.extend(fragments(&outer(inner, 10 * number + part), 32));
        }
    }
    is_the_conversation("both", pcapng(101, &frames), false);
}

#[test]
fn fragments_that_are_missing_or_contradict_are_reported() {
    let reply = 4;
    let reported = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut frames = Vec::new();
        for (number, ip) in identified(false).iter().enumerate() {
            let mut parts = if number == reply {
                fragments(ip, 24)
            } else {
                vec![ip.clone()]
            };
            if number == reply {
                change(&mut parts);
            }
            frames.extend(parts);
        }
        let (verdict, _) = sniffed(pcapng(101, &frames)).unwrap();
        assert!(!verdict.is_good());
        let faults = verdict
            .faults
            .iter()
            .map(|fault| (fault.packet, fault.text.clone()));
        faults.collect::<Vec<_>>()
    };
    let faults = reported(&|parts| drop(parts.remove(1)));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].0, Some(5));
    let text = "2 fragments were captured of the IP packet 5 from 10.77.0.1 to 10.77.0.2, and \
                others are missing: it cannot be reassembled";
    assert_eq!(faults[0].1, text);
    // A second copy of a fragment, with different content.
    let faults = reported(&|parts| {
        let mut other = parts[1].clone();
        other[30] = b'?';
        parts.insert(2, other);
    });
    assert_eq!(faults[0].0, Some(7), "{faults:?}");
    let contradict = "IP fragments contradict each other and are not reassembled: ";
    let text = format!("{contradict}bytes 24 to 48 were repeated with different content");
    assert_eq!(faults[0].1, text);
    // A fragment that begins within another one.
    let faults = reported(&|parts| {
        let mut other = parts[1].clone();
        other[7] -= 1;
        parts.insert(2, other);
    });
    let text = format!("{contradict}bytes 16 to 40 overlap bytes 24 to 48");
    assert_eq!(faults[0].1, text);
}

#[test]
fn every_kind_of_pcap_is_read() {
    let frames: Vec<Vec<u8>> = conversation(false)
        .iter()
        .map(|ip| wrap::plain(ip))
        .collect();
    let frames = files::timed(&frames);
    for big_endian in [false, true] {
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d, 0xa1b2_cd34] {
            let versions = [
                ((2, 4), false),
                ((2, 3), false),
                ((2, 3), true),
                ((2, 2), true),
            ];
            for (version, swapped) in versions.into_iter().chain([((2, 1), true)]) {
                for link in [1, 0x0400_0001, 0x4400_0001, 0xf7ff_0001] {
                    let extras: &[usize] = match magic {
                        0xa1b2_c3d4 => &[0, 8, 4],
                        0xa1b2_cd34 => &[8, 12],
                        _ => &[0],
                    };
                    for &extra in extras {
                        let shape = Shape {
                            big_endian,
                            magic,
                            version,
                            swapped,
                            link,
                            extra,
                            cut: 7,
                        };
                        is_the_conversation(&format!("{shape:x?}"), shape.file(&frames), false);
                    }
                }
            }
        }
    }
}

#[test]
fn a_frame_check_sequence_is_no_part_of_a_packet_without_a_length() {
    let mut ip = conversation(false)[3].clone();
    ip[2..4].copy_from_slice(&[0, 0]);
    let frame = [&wrap::plain(&ip)[..], &[1, 2, 3, 4]].concat();
    for (link, length) in [(0x2400_0001, 50), (1, 54)] {
        let frames = files::timed(std::slice::from_ref(&frame));
        let (_, reported) = sniffed(Shape::plain(link).file(&frames)).unwrap();
        assert_eq!(of_kind(&reported, "segment")[0]["len"], length);
    }
}

#[test]
fn every_kind_of_packet_block_is_read_in_either_byte_order() {
    for big_endian in [false, true] {
        let mut blocks = Blocks::new(big_endian);
        blocks.interface(1, &[(2, b"eth0"), (9, &[0x80 | 20])]);
        blocks.interface(101, &[(9, &[9]), (13, &[32])]);
        for (number, ip) in (0..).zip(&conversation(false)) {
            match number % 4 {
                0 => blocks.packet(0, number << 20, &wrap::plain(ip)),
                1 => blocks.obsolete_packet(1, 0xffff, number * 1_000_000_000, ip),
                2 => blocks.simple_packet(&wrap::plain(ip)),
                _ => blocks.packet(1, number * 1_000_000_000, ip),
            }
        }
        is_the_conversation("blocks", blocks.file, false);
    }
}

#[test]
fn times_have_the_resolution_and_the_offset_of_their_interface() {
    let ip = &conversation(false)[0];
    for big_endian in [false, true] {
        for (resolution, ticks) in [
            (0, 2),
            (3, 2_500),
            (6, 2_500_000),
            (9, 2_500_000_000),
            (12, 2_500_000_000_000),
            (18, 2_500_000_000_000_000_000),
            (0x80, 2),
            (0x81, 5),
            (0x80 | 20, 5 << 19),
            (0x80 | 60, 5 << 59),
        ] {
            for offset in [0, 1_600_000_000, -2, -1] {
                let mut blocks = Blocks::new(big_endian);
                let seconds = blocks.long(offset as u64);
                blocks.interface(101, &[(9, &[resolution]), (14, &seconds)]);
                blocks.packet(0, ticks, ip);
                let (_, reported) = sniffed(blocks.file).unwrap();
                let half = if [0, 0x80].contains(&resolution) {
                    0
                } else {
                    5
                };
                let expected = format!("{}.{half}00000000", 2 + offset);
                assert_eq!(
                    of_kind(&reported, "segment")[0]["time"],
                    expected,
                    "{resolution:#x}"
                );
            }
        }
    }
}

#[test]
fn absurd_times_are_reported_as_the_nearest_that_can_be() {
    for (resolution, offset, ticks, expected) in [
        (6, -3, 2_999_999, "0.000000000"),
        (6, i64::MIN, 0, "0.000000000"),
        (0, i64::MAX, u64::MAX, "253402300799.000000000"),
        (0, 0, u64::MAX, "253402300799.000000000"),
    ] {
        let mut blocks = Blocks::new(true);
        let seconds = blocks.long(offset as u64);
        blocks.interface(101, &[(9, &[resolution]), (14, &seconds)]);
        blocks.packet(0, ticks, &conversation(false)[0]);
        let (verdict, reported) = sniffed(blocks.file).unwrap();
        assert_eq!(of_kind(&reported, "segment")[0]["time"], expected);
        let note = "1 time before 1970 or after 9999 is shown as the nearest time in that range";
        assert_eq!(verdict.notes, [note]);
    }
    for resolution in 0..=u8::MAX {
        for ticks in [0, 1, u64::MAX] {
            let mut blocks = Blocks::new(false);
            blocks.interface(101, &[(9, &[resolution])]);
            blocks.packet(0, ticks, &conversation(false)[0]);
            sniffed(blocks.file).unwrap();
        }
    }
}

#[test]
fn blocks_without_packets_are_skipped_whatever_their_size() {
    let mut blocks = Blocks::new(false);
    blocks.interface(101, &[]);
    for (number, ip) in (0..).zip(&conversation(false)) {
        // Names, statistics, secrets, and an unknown block type.
        let kind = [4, 5, 10, 0x7777_7777][number as usize % 4];
        blocks.block(
            kind,
            &vec![7; [0, 100, 1 << 20, 3 << 20][number as usize / 3 % 4]],
        );
        blocks.packet(0, number, ip);
    }
    is_the_conversation("large blocks", blocks.file, false);

    // A packet that is too long is reported, and the packets after it are read.
    let mut blocks = Blocks::new(false);
    blocks.interface(101, &[]);
    blocks.packet(0, 0, &vec![0x45; 5 << 20]);
    conversation(false)
        .iter()
        .for_each(|ip| blocks.packet(0, 0, ip));
    let (verdict, reported) = sniffed(blocks.file).unwrap();
    assert_eq!(of_kind(&reported, "segment").len(), 9);
    let fault = &verdict.faults[0];
    assert_eq!(fault.packet, Some(1));
    assert!(
        fault.text.starts_with("it has 5,242,912 bytes"),
        "{}",
        fault.text
    );
}

#[test]
fn a_block_that_contradicts_itself_is_named() {
    let reported = |change: &dyn Fn(&mut Blocks)| {
        let mut blocks = Blocks::new(false);
        blocks.interface(101, &[]);
        blocks.packet(0, 0, &conversation(false)[0]);
        change(&mut blocks);
        let (verdict, _) = sniffed(blocks.file).unwrap();
        let fault = verdict
            .faults
            .iter()
            .find(|fault| fault.packet == Some(2))
            .unwrap();
        fault.text.clone()
    };
    let text = reported(&|blocks| blocks.packet(7, 0, &[0x45; 40]));
    assert_eq!(text, "the file does not describe its interface, number 7");
    let text = reported(&|blocks| {
        let body = [blocks.words(&[0, 0, 0, 99, 99]), vec![0x45; 40]].concat();
        blocks.block(6, &body);
    });
    assert_eq!(
        text,
        "it claims 99 captured bytes, but its block has room for 40"
    );
    let text = reported(&|blocks| {
        blocks.packet(0, 0, &[0x45; 40]);
        let end = blocks.file.len() - 4;
        blocks.file[end] += 4;
    });
    assert!(
        text.contains("a block of 72 bytes whose trailing length is 76"),
        "{text}"
    );
    let text = reported(&|blocks| {
        let words = blocks.words(&[6, 8, 8]);
        blocks.file.extend(words);
    });
    assert!(
        text.contains("a block of 8 bytes, which is too short"),
        "{text}"
    );
    let text = reported(&|blocks| {
        let before = blocks.file.len();
        blocks.section();
        blocks.file[before + 12] = 2;
    });
    assert!(text.contains("a section of version 2.0, not 1"), "{text}");
}

/// An unsupported link type is reported by name, once for all its packets.
#[test]
fn link_types_that_are_not_read_are_refused_by_name() {
    for (link, name) in [
        (127, "link type 127 (IEEE802_11_RADIOTAP) is not supported"),
        (105, "link type 105 (IEEE802_11) is not supported"),
        (253, "link type 253 (NETLINK) is not supported"),
        (
            150,
            "link type 150 (USER, for private use) is not supported",
        ),
        (60_000, "unknown link type 60000 is not supported"),
    ] {
        let (verdict, _) = sniffed(pcapng(link, &conversation(false))).unwrap();
        let text = format!("{name}; 8 more packets are unreadable for the same reason");
        assert_eq!(verdict.faults[0].text, text);
        assert_eq!(verdict.faults[0].packet, Some(1));
    }
}

#[test]
fn packets_have_the_numbers_that_wireshark_gives_them() {
    let mut blocks = Blocks::new(false);
    blocks.interface(101, &[]);
    blocks.interface(127, &[]);
    let ip = &conversation(false)[0];
    blocks.block(4, &[0; 4]); // Names: no number.
    blocks.packet(1, 0, &[0; 40]); // 1: not read.
    blocks.packet(0, 0, &wrap::ipv4(1, &[0; 8])); // 2: not TCP.
    blocks.block(9, b"__REALTIME_TIMESTAMP=1442201985410017\nMESSAGE=x\n"); // 3: the journal.
    blocks.block(0xbad, &[0, 0, 0x7e, 0xd9, 1, 2, 3, 4]); // 4: a custom block.
    blocks.block(0x4000_0bad, &[0, 0, 0x7e, 0xd9, 1, 2, 3, 4]); // 5.
    blocks.obsolete_packet(0, 0xffff, 0, ip); // 6.
    blocks.block(5, &[0; 12]); // Statistics: no number.
    blocks.simple_packet(ip); // 7.
    blocks.packet(0, 0, ip); // 8.
    let file = Temporary::new(&blocks.file);
    let reported = run(&format!("sniff --format json --read {}", file.0.display()));
    let objects = objects(&reported.stdout);
    let numbers: Vec<u64> = of_kind(&objects, "segment")
        .iter()
        .map(|segment| segment["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [6, 7, 8]);
    assert_eq!(of_kind(&objects, "verdict")[0]["packets"], 8);
    if common::tshark::is_there() {
        let theirs: Vec<u64> = common::tshark::tshark(&file.0).into_keys().collect();
        assert_eq!(numbers, theirs);
    }
}

/// Returns the number of drops that a file declares, and the findings of the verdict.
#[track_caller]
fn declared(build: impl Fn(&mut Blocks)) -> (u64, Vec<String>) {
    let reported = [false, true].map(|big_endian| {
        let mut blocks = Blocks::new(big_endian);
        blocks.interface(101, &[]);
        blocks.interface(101, &[]);
        build(&mut blocks);
        let (verdict, reported) = sniffed(blocks.file).unwrap();
        assert_eq!(verdict.is_good(), verdict.dropped == 0, "{verdict:#?}");
        assert!(!verdict.is_wrong(), "{verdict:#?}");
        let word = if verdict.dropped == 0 {
            "all well"
        } else {
            "incomplete"
        };
        assert_eq!(of_kind(&reported, "verdict")[0]["verdict"], word);
        assert_eq!(of_kind(&reported, "verdict")[0]["dropped"], verdict.dropped);
        (verdict.dropped, findings(&reported))
    });
    assert_eq!(reported[0], reported[1]);
    reported[0].clone()
}

/// Adds the packets of the conversation, each with its drop count from `drops`.
fn with_drops(blocks: &mut Blocks, drops: &[Option<u64>]) {
    for (number, ip) in (0..).zip(&conversation(false)) {
        let drops = drops.get(number as usize).copied().flatten();
        let value = blocks.long(drops.unwrap_or(0));
        let option: &[(u16, &[u8])] = match drops {
            None => &[],
            Some(_) => &[(2, &[0; 4]), (4, &value)],
        };
        blocks.packet_with(0, number, ip, option);
    }
}

#[test]
fn packets_that_the_file_declares_as_dropped_make_it_incomplete() {
    let by_packets = [None, Some(0), Some(2), None, Some(3)];
    let (count, reported) = declared(|blocks| with_drops(blocks, &by_packets));
    let sentence = "5 packets were dropped on interface 0, as its Enhanced Packet Blocks declare \
                    (epb_dropcount), that of packet 3 first";
    assert_eq!((count, &reported[..]), (5, &[sentence.to_string()][..]));

    // Statistics of several kinds; the last block of an interface counts.
    let statistics = |blocks: &mut Blocks, interface, options: &[(u16, u64)]| {
        let options: Vec<_> = options
            .iter()
            .map(|(code, value)| (*code, blocks.long(*value)))
            .collect();
        let options: Vec<_> = options
            .iter()
            .map(|(code, value)| (*code, &value[..]))
            .collect();
        blocks.statistics(interface, 99, &options);
    };
    let sentence = |count: &str, interface: u32| {
        format!(
            "{count} dropped on interface {interface}, as its Interface Statistics Block declares"
        )
    };
    for (options, count) in [
        (&[(5, 1)][..], 1),
        (&[(7, 1)], 1),
        (&[(4, 90), (5, 2), (6, 80), (7, 3), (8, 77)], 5),
        (&[(6, 80), (8, 77)], 3),
        // Not delivered yet, but in the buffers of the system, which dropped none.
        (&[(6, 80), (7, 0), (8, 77)], 0),
        (&[(4, 90), (6, 80)], 0),
        (&[], 0),
    ] {
        let (dropped, reported) = declared(|blocks| {
            with_drops(blocks, &[]);
            statistics(blocks, 1, options);
        });
        assert_eq!(dropped, count, "{options:?}");
        let were = if count == 1 {
            "1 packet was"
        } else {
            &format!("{count} packets were")
        };
        let expected: Vec<String> = (count > 0).then(|| sentence(were, 1)).into_iter().collect();
        assert_eq!(reported, expected, "{options:?}");
    }
    let (count, reported) = declared(|blocks| {
        statistics(blocks, 0, &[(7, 2)]);
        with_drops(blocks, &[]);
        statistics(blocks, 0, &[(7, 3)]);
        statistics(blocks, 1, &[(7, 4)]);
    });
    assert_eq!(count, 7);
    assert_eq!(
        reported,
        [sentence("3 packets were", 0), sentence("4 packets were", 1)]
    );

    // Packet blocks and statistics count the same packets, so the larger count is taken.
    for (of_statistics, count) in [(5, 5), (6, 6), (4, 5), (0, 5)] {
        let (dropped, reported) = declared(|blocks| {
            with_drops(blocks, &by_packets);
            statistics(blocks, 0, &[(7, of_statistics)]);
        });
        assert_eq!((dropped, reported.len()), (count, 1), "{reported:?}");
    }
}

#[test]
fn drops_are_declared_by_the_obsolete_block_as_well_and_in_every_section() {
    let obsolete = |blocks: &mut Blocks, drops: [u16; 2]| {
        for (number, ip) in (0..).zip(&conversation(false)) {
            blocks.obsolete_packet(0, drops[number as usize % 2], number, ip);
        }
    };
    let (count, reported) = declared(|blocks| obsolete(blocks, [0, 2]));
    let sentence = "8 packets were dropped on interface 0, as its Packet Blocks declare (drops \
                    count), that of packet 2 first";
    assert_eq!((count, &reported[..]), (8, &[sentence.to_string()][..]));
    // 0xffff means that the count is unknown.
    let (count, reported) = declared(|blocks| obsolete(blocks, [0xffff, 0]));
    assert_eq!((count, reported.len()), (0, 0));

    let (count, reported) = declared(|blocks| {
        with_drops(blocks, &[Some(1)]);
        blocks.section();
        blocks.interface(101, &[]);
        let drops = blocks.long(1);
        blocks.statistics(0, 99, &[(5, &drops)]);
    });
    assert_eq!(count, 2);
    let both = [
        "1 packet was dropped on interface 0 of section 1, as its Enhanced Packet Blocks declare \
         (epb_dropcount), that of packet 1 first",
        "1 packet was dropped on interface 0 of section 2, as its Interface Statistics Block \
         declares",
    ];
    assert_eq!(reported, both);
}

#[test]
fn a_live_capture_declares_in_its_file_what_the_kernel_dropped() {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 101, "wire").unwrap();
    for (time, ip) in files::timed(&conversation(false)) {
        writer.write(time, &ip).unwrap();
    }
    writer.drops(Duration::from_secs(1_700_000_001), 3).unwrap();
    let (verdict, reported) = sniffed(file).unwrap();
    assert_eq!((verdict.dropped, verdict.is_good()), (3, false));
    let sentence =
        "3 packets were dropped on interface 0, as its Interface Statistics Block declares";
    assert_eq!(findings(&reported), [sentence]);
}

/// Arbitrary counts, counts of interfaces that are not described, and truncated options.
#[test]
fn odd_declarations_of_drops_are_counted_and_never_too_much() {
    let mut blocks = Blocks::new(false);
    blocks.interface(101, &[]);
    with_drops(&mut blocks, &[Some(u64::MAX), Some(u64::MAX)]);
    let most = blocks.long(u64::MAX);
    blocks.statistics(0, 1, &[(5, &most), (7, &most)]);
    blocks.statistics(77, 1, &[(7, &most)]);
    // Options that are too short, without an end, or beyond the block.
    blocks.statistics(0, 2, &[(7, &[1; 4])]);
    let words = blocks.words(&[0, 0, 0, 0x0008_0007, 9]);
    blocks.block(5, &words);
    blocks.block(5, &[0; 8]);
    let (verdict, _) = sniffed(blocks.file).unwrap();
    assert_eq!(verdict.dropped, u64::MAX);
    assert_eq!(verdict.faults.len(), 2, "{verdict:#?}");
}

#[test]
fn drops_are_shown_with_what_is_missing() {
    let mut blocks = Blocks::new(false);
    blocks.interface(101, &[]);
    let drops = blocks.long(1);
    for (number, ip) in (0..).zip(&conversation(false)) {
        match number {
            3 => {}
            4 => blocks.packet_with(0, number, ip, &[(4, &drops)]),
            _ => blocks.packet(0, number, ip),
        }
    }
    let file = Temporary::new(&blocks.file);
    let reported = common::sniff(&file, "").expect(4).stdout;
    for line in [
        "      NOT SEEN (packets were dropped): 50 bytes of the client are not in the capture",
        "1 packet was dropped before being captured: what is missing above may be among them",
        "INCOMPLETE: 1 packet was dropped on interface 0, as its Enhanced Packet Blocks declare",
    ] {
        assert!(reported.contains(line), "{line}: {reported}");
    }
}

#[test]
fn gzip_is_read_in_one_piece_and_in_several() {
    let file = pcapng(101, &conversation(false));
    is_the_conversation("gzip", gzip(&file), false);
    for cut in [3, 30, file.len() / 2] {
        let members = [gzip(&file[..cut]), gzip(&file[cut..])].concat();
        is_the_conversation("two members", members, false);
    }
    // Truncated: the part before the cut is read.
    let whole = gzip(&file);
    let (verdict, reported) = sniffed(whole[..whole.len() - 9].to_vec()).unwrap();
    assert!(!verdict.is_good());
    assert!(!of_kind(&reported, "segment").is_empty());
    // Damaged in the checksum at its end.
    let mut damaged = whole.clone();
    let place = damaged.len() - 6;
    damaged[place] ^= 1;
    let (_, reported) = sniffed(damaged).unwrap();
    assert_eq!(
        findings(&reported),
        ["file: it is compressed by gzip, and damaged"]
    );
    assert!(sniffed(gzip(b"no capture at all, but long enough for one")).is_err());
}

/// Wherever a compressed file is truncated or changed, the result is a verdict or a one-line error
/// that names the fault once.
#[test]
fn what_is_wrong_with_a_compression_is_said_once() {
    let whole = gzip(&pcapng(101, &conversation(false)));
    let missing = "it is compressed by gzip, and its end is missing";
    let damaged = "it is compressed by gzip, and damaged";
    let mut refused = 0;
    for cut in 2..whole.len() {
        match sniffed(whole[..cut].to_vec()) {
            Err(error) => {
                refused += 1;
                assert_eq!(error.to_string(), format!("cannot read file: {missing}"));
            }
            Ok((verdict, reported)) => {
                assert!(!verdict.is_wrong() && !verdict.is_good(), "{verdict:#?}");
                let text = format!("file: {missing}");
                assert!(findings(&reported).contains(&text), "{cut}: {reported:#?}");
            }
        }
    }
    assert!(refused > 10, "{refused}");
    // Start at the data, behind the header, which holds a name and a time.
    for place in 10..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x10;
        let text = match sniffed(changed) {
            Err(error) => error.to_string(),
            Ok((verdict, _)) => match verdict.faults.last() {
                Some(fault) => fault.text.clone(),
                // The padding bits of the last byte have no meaning.
                None if verdict.is_good() => continue,
                None => panic!("{place}: {verdict:#?}"),
            },
        };
        let is_named = text.ends_with(missing) || text.ends_with(damaged);
        assert!(is_named || !text.contains("gzip"), "{place}: {text}");
    }
}

/// Returns true when a text has a plural after the number one.
fn has_a_plural_of_one(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut pairs = words.windows(2);
    pairs.any(|pair| {
        pair[0] == "1"
            && pair[1]
                .trim_end_matches([',', '.', ':', ';'])
                .ends_with('s')
    })
}

/// Messages use the singular after the number one.
#[test]
fn counts_of_one_have_no_plural() {
    assert!(has_a_plural_of_one("it has 1 bytes, and"));
    assert!(!has_a_plural_of_one("11 bytes, 1 byte"));
    let ip = conversation(false)[3].clone();
    let with = |length: u16, change: &dyn Fn(&mut Vec<u8>)| {
        let mut ip = ip.clone();
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip.truncate(length.max(20).into());
        change(&mut ip);
        ip
    };
    let mut syn = conversation(false)[0].clone();
    syn[20 + 20 + 2..20 + 20 + 4].copy_from_slice(&[0, 1]);
    let packet = |ip: Vec<u8>| {
        let mut blocks = Blocks::new(false);
        blocks.interface(101, &[]);
        blocks.packet(0, 0, &ip);
        blocks
    };
    let mut overlong = packet(ip.clone());
    let words = overlong.words(&[0, 0, 0, 1, 1]);
    overlong.block(6, &words);
    let mut short = packet(ip.clone());
    let words = short.words(&[6, 1, 1]);
    short.file.extend(words);
    for (blocks, line) in [
        (
            packet(with(1, &|_| {})),
            "the IP header claims 1 byte, less than its own 20",
        ),
        (
            packet(with(21, &|ip| ip[6] = 0x20)),
            "a fragment that is not the last has 1 byte, not a multiple of 8",
        ),
        (
            packet(with(21, &|_| {})),
            "a TCP header takes 20 bytes, and the packet has 1 left",
        ),
        (packet(syn), "it accepts segments of up to 1 byte (MSS)"),
        (
            overlong,
            "it claims 1 captured byte, but its block has room for 0",
        ),
        (short, "a block of 1 byte, which is too short"),
    ] {
        let text = common::sniff(&Temporary::new(&blocks.file), "").stdout;
        assert!(text.contains(line), "{line}: {text}");
        assert!(!has_a_plural_of_one(&text), "{text}");
    }
}

#[test]
fn other_compressions_are_named_with_the_command() {
    for (magic, name) in [
        (&b"\x28\xb5\x2f\xfd"[..], "zstd -dc"),
        (b"\x50\x2a\x4d\x18", "zstd -dc"),
        (b"\x04\x22\x4d\x18", "lz4 -dc"),
        (b"\xfd7zXZ\0", "xz -dc"),
        (b"BZh9", "bzip2 -dc"),
        (b"PK\x03\x04", "unzip -p"),
        (b"\x1f\x9d\x90", "gzip -dc"),
        (b"snoop\0\0\0", "editcap -F pcapng"),
    ] {
        let file = Temporary::new(&[magic, &[0; 40]].concat());
        let path = file.0.display();
        let ended = run(&format!("sniff --read {path}")).expect(3);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        let command = format!("{name} {path}");
        assert!(ended.stderr.contains(&command), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("| upcase sniff --read -"),
            "{}",
            ended.stderr
        );
    }
    let empty = Reader::new(Cursor::new(Vec::new())).err().unwrap();
    assert!(
        matches!(empty, FileFault::NotACapture(ForeignFile::Empty)),
        "{empty:?}"
    );
}

#[test]
fn interfaces_are_bounded_in_memory_and_what_exceeds_the_bound_is_named() {
    let mut blocks = Blocks::new(false);
    let ip = &conversation(false)[0];
    // 30 MB of interface blocks of the minimum length.
    for _ in 0..1_500_000 {
        let body = [blocks.halves(&[101, 0]), blocks.words(&[0])].concat();
        blocks.block(1, &body);
    }
    blocks.packet(65_535, 0, ip);
    blocks.packet(65_536, 0, ip);
    blocks.packet(1_499_999, 0, ip);
    blocks.packet(1_500_000, 0, ip);
    let file = Temporary::new(&blocks.file);
    let command = format!("sniff --format json --read {}", file.0.display());
    // The file is read from a pipe that stays open: memory is measured while `sniff` waits.
    let fifo = Fifo::new();
    let mut sniff = Process::piped(upcase(&format!("sniff --read {}", fifo.path())));
    let mut writer = fifo.writer();
    writer.write_all(&blocks.file).unwrap();
    common::until("the first segment is printed", || sniff.sleeps() > 0);
    let peak = sniff.peak_resident().expect("it runs");
    println!(
        "{} KiB at the peak, over 30 MB of interface blocks",
        peak / 1024
    );
    assert!(peak < 20 << 20, "{peak} bytes");
    drop(writer);
    sniff.ended();
    let objects = objects(&run(&command).stdout);
    assert_eq!(of_kind(&objects, "segment").len(), 1);
    let findings = of_kind(&objects, "verdict")[0]["findings"]
        .as_array()
        .unwrap();
    let texts: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding["text"].as_str())
        .collect();
    let more = "its interface number exceeds the limit of 65,536 interfaces in a section; 1 more \
                packet is unreadable for the same reason";
    assert!(texts.contains(&more), "{texts:?}");
    let unknown = "the file does not describe its interface, number 1500000";
    assert!(texts.contains(&unknown), "{texts:?}");
}

/// A FIFO of one test.
struct Fifo(Temporary);

impl Fifo {
    fn new() -> Fifo {
        let file = Temporary::new(b"");
        std::fs::remove_file(&file.0).unwrap();
        let made = Command::new("mkfifo").arg(&file.0).status().unwrap();
        assert!(made.success());
        Fifo(file)
    }

    fn path(&self) -> String {
        self.0.0.display().to_string()
    }

    /// Opens the FIFO for writing; waits for the reader.
    fn writer(&self) -> std::fs::File {
        std::fs::OpenOptions::new()
            .write(true)
            .open(&self.0.0)
            .unwrap()
    }
}

/// Returns a capture that ends in the middle of the conversation.
fn beginning() -> Vec<u8> {
    pcapng(101, &conversation(false)[..5])
}

#[test]
fn the_first_signal_ends_a_quiet_pipe_with_its_verdict() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for bytes in [
            Vec::new(),
            beginning()[..10].to_vec(),
            beginning(),
            gzip(&beginning()),
        ] {
            let fifo = Fifo::new();
            let mut sniff = Process::piped(upcase(&format!("sniff --read {}", fifo.path())));
            let mut writer = fifo.writer();
            writer.write_all(&bytes).unwrap();
            ends_at_once(&mut sniff, signal);
            drop(writer);

            let mut command = upcase("sniff --read -");
            let (read, write) = nix::unistd::pipe().unwrap();
            command.stdin(read);
            let mut sniff = Process::piped(command);
            std::fs::File::from(write.try_clone().unwrap())
                .write_all(&bytes)
                .unwrap();
            ends_at_once(&mut sniff, signal);
            drop(write);
        }
    }
}

#[test]
fn a_fifo_that_nobody_writes_to_is_left_at_the_first_signal() {
    let fifo = Fifo::new();
    let mut sniff = Process::piped(upcase(&format!("sniff --read {}", fifo.path())));
    ends_at_once(&mut sniff, Signal::SIGINT);
    // Without a signal it keeps waiting, and reads from a writer that opens the FIFO later.
    let mut sniff = Process::piped(upcase(&format!("sniff --read {}", fifo.path())));
    waits(&sniff);
    fifo.writer()
        .write_all(&pcapng(101, &conversation(false)))
        .unwrap();
    assert!(sniff.ended().expect(0).stdout.contains("verdict: all well"));
}

/// Sends the signal once all input was read, and checks that the process ends with its verdict.
#[track_caller]
fn ends_at_once(sniff: &mut Process, signal: Signal) {
    waits(sniff);
    sniff.signal(signal);
    let ended = sniff.ended();
    assert!(matches!(ended.code, Some(1 | 4)), "{ended:?}");
    assert!(ended.stdout.contains("verdict: "), "{}", ended.stdout);
}

/// Waits until the process waits in poll, with its signal handlers installed.
#[track_caller]
fn waits(sniff: &Process) {
    let path = format!("/proc/{}/wchan", sniff.id());
    common::until("it waits for its input", || {
        std::fs::read_to_string(&path).is_ok_and(|place| place.contains("poll"))
    });
}

/// Number of fuzz cases: thousands in a release build, which `.ci/run` tests as well.
const FUZZ_CASES: u32 = if cfg!(debug_assertions) { 300 } else { 20_000 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(FUZZ_CASES))]

    #[test]
    fn no_damage_to_any_frame_makes_it_panic(
        place in 0..WRAPS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let wrap = &WRAPS[place];
        let mut frames = Vec::new();
        for ip in identified(false) {
            let mut frame = (wrap.wrap)(&ip);
            for (place, value) in &changes {
                let place = place.index(frame.len());
                frame[place] = *value;
            }
            if is_cut {
                frame.truncate(cut.index(frame.len()));
            }
            frames.push(frame);
        }
        sniffed(pcapng(wrap.link, &frames)).unwrap();
    }

    #[test]
    fn no_damage_to_any_file_makes_it_panic(
        big_endian: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        kind in 0..3,
    ) {
        let mut blocks = Blocks::new(big_endian);
        blocks.interface(101, &[(9, &[6]), (14, &[0; 8]), (13, &[4])]);
        for (number, ip) in (0..).zip(&conversation(false)) {
            match number % 3 {
                0 => blocks.packet(0, number, ip),
                1 => blocks.obsolete_packet(0, 3, number, ip),
                _ => blocks.simple_packet(ip),
            }
        }
        let shape = Shape {
            big_endian,
            magic: 0xa1b2_cd34,
            version: (2, 3),
            extra: 8,
            ..Shape::plain(101)
        };
        let mut file = match kind {
            0 => blocks.file,
            1 => shape.file(&files::timed(&conversation(false))),
            _ => gzip(&blocks.file),
        };
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        let _ = sniffed(file);
    }

    #[test]
    fn a_file_in_pieces_is_read_as_it_is_in_one(
        sizes in prop::collection::vec(1..200_usize, 1..50),
    ) {
        let file = pcapng(101, &conversation(false));
        let mut pieces = sizes.into_iter().cycle();
        let mut rest = Cursor::new(file);
        let input = Pieces(move |buffer: &mut [u8]| {
            let size = pieces.next().unwrap_or(1).min(buffer.len());
            std::io::Read::read(&mut rest, &mut buffer[..size])
        });
        let mut reader = Reader::new(input).unwrap();
        let mut frames = Vec::new();
        loop {
            match reader.next_frame() {
                Next::Frame(frame) => frames.push(frame.bytes.to_vec()),
                Next::Starved => reader.refill().unwrap(),
                Next::End => break,
                Next::Description(_) => {}
                Next::Fault(fault) => panic!("{fault}"),
            }
        }
        prop_assert_eq!(frames, conversation(false));
    }
}

/// A reader that calls a function for each read.
struct Pieces<F>(F);

impl<F: FnMut(&mut [u8]) -> std::io::Result<usize>> std::io::Read for Pieces<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0(buffer)
    }
}
