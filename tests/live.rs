//! Tests live captures of `sniff` on links of the lab: which packets the filter in the kernel
//! passes, which packets are numbered, and that `--write` keeps the frames as they were on the
//! wire.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::files::frames_of;
use common::lab::{Lab, SERVER};
use common::sniff_output;
use common::wrap::{self, WRAPS, talk};
use common::{Ended, Process, Serve, Temporary, run, tshark, upcase};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A script that sends frames, one a line in hexadecimal, out of an interface.
const INJECT: &str = "
import socket, sys
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind((sys.argv[1], 0))
for line in sys.stdin:
    sender.send(bytes.fromhex(line))
";

/// A script that creates an interface without link headers, and makes packets arrive there.
const TUNNEL: &str = "
import fcntl, os, struct, subprocess, sys
tunnel = os.open('/dev/net/tun', os.O_RDWR)
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 1, 0x1000
fcntl.ioctl(tunnel, TUNSETIFF, struct.pack('16sH22x', b'tunnel', IFF_TUN | IFF_NO_PI))
subprocess.run(['ip', 'link', 'set', 'tunnel', 'up'], check=True)
print('up', flush=True)
for line in sys.stdin:
    os.write(tunnel, bytes.fromhex(line))
print('done', flush=True)
sys.stdin.close()
import time
time.sleep(60)
";

fn hexadecimal(frames: &[Vec<u8>]) -> String {
    let digits = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = frames.iter().map(digits).collect();
    lines.join("\n") + "\n"
}

/// Sends frames from the client's host.
fn inject(lab: &Lab, frames: &[Vec<u8>]) {
    let mut python = Command::new("python3");
    python.args(["-c", INJECT, "wire"]);
    let mut python = lab
        .on_client(&python)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    input.write_all(hexadecimal(frames).as_bytes()).unwrap();
    drop(input);
    assert!(python.wait().unwrap().success());
}

/// Starts a capture on a host of the lab; it ends after this many flows.
fn listen(command: Command, flows: usize, file: &Temporary) -> Process {
    let mut command = command;
    let timeout = common::TIMEOUT.as_secs();
    command.args([
        "--flows",
        &flows.to_string(),
        "--duration",
        &format!("{timeout}s"),
    ]);
    command.arg("--write").arg(&file.0);
    let sniff = Process::piped(command);
    sniff.wait_for_stderr("capturing");
    sniff
}

/// Returns the frames that were kept, without their times.
fn frames(file: &Temporary) -> Vec<Vec<u8>> {
    frames_of(&file.0)
        .into_iter()
        .map(|(_, frame)| frame)
        .collect()
}

fn objects(ended: &Ended, kind: &str) -> Vec<Value> {
    let objects = sniff_output::objects(&ended.stdout).into_iter();
    objects.filter(|value| value["kind"] == kind).collect()
}

/// Returns the numbers of the segments in a document.
fn numbers(ended: &Ended) -> Vec<u64> {
    let segments = objects(ended, "segment");
    segments
        .iter()
        .filter_map(|segment| segment["number"].as_u64())
        .collect()
}

/// Returns frames that belong to no flow of the capture: other ports, other protocols.
fn noise() -> Vec<Vec<u8>> {
    let mut other = talk(7)[0].clone();
    other[22..24].copy_from_slice(&80_u16.to_be_bytes());
    let listener_report = wrap::ipv6(0, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]);
    let tunnelled = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &wrap::plain(&other)].concat();
    vec![
        wrap::plain(&other),
        wrap::ethernet([8, 6], &[1; 28]),
        wrap::plain(&wrap::ipv4(17, &wrap::udp(53, 9, &[1; 20]))),
        wrap::plain(&listener_report),
        wrap::plain(&wrap::ipv4(17, &wrap::udp(9, 4789, &tunnelled))),
        wrap::plain(&wrap::ipv4(50, &[7; 60])),
    ]
}

#[test]
fn frames_are_kept_as_they_were_on_the_wire_and_only_those_of_flows_are_numbered() {
    let Some(lab) = Lab::build() else { return };
    if !common::installed("python3") {
        return common::skip("no python3");
    }
    let (mut sent, mut own, mut of_tshark) = (noise(), Vec::new(), 0);
    let ethernet = WRAPS.iter().filter(|wrap| wrap.link == 1);
    let mut flows = 0;
    for (port, wrap) in (20_000..).zip(ethernet) {
        let frames: Vec<Vec<u8>> = talk(port).iter().map(|ip| (wrap.wrap)(ip)).collect();
        of_tshark += if wrap.tshark { frames.len() } else { 0 };
        own.extend(frames.clone());
        sent.extend(frames);
        sent.extend(noise());
        flows += 1;
    }
    let command = upcase("sniff --interface wire --port 12000 --format json");
    let files = [Temporary::new(b""), Temporary::new(b"")];
    let sniffs = [
        listen(lab.on_server(&command), flows, &files[0]),
        listen(lab.on_client(&command), flows, &files[1]),
    ];
    inject(&lab, &sent);
    for (mut sniff, file) in sniffs.into_iter().zip(&files) {
        let ended = sniff.ended().expect(0);
        // Frames that the hosts themselves send, such as neighbour discovery, are not kept either.
        let kept = frames(file);
        for (number, (kept, own)) in kept.iter().zip(&own).enumerate() {
            assert_eq!(kept, own, "frame {}", number + 1);
        }
        assert_eq!(kept.len(), own.len());
        let all: Vec<u64> = (1..=own.len() as u64).collect();
        assert_eq!(numbers(&ended), all);
        let verdict = &objects(&ended, "verdict")[0];
        assert_eq!(verdict["packets"], own.len());
        assert_eq!(verdict["flows"], flows);
        if tshark::is_there() {
            assert_eq!(tshark::tshark(&file.0).len(), of_tshark);
        }
        let again = run(&format!("sniff --format json --read {}", file.0.display())).expect(0);
        assert_eq!(numbers(&again), all);
    }
}

#[test]
fn fragments_of_a_segment_are_captured_with_it() {
    let Some(lab) = Lab::build() else { return };
    if !common::installed("python3") {
        return common::skip("no python3");
    }
    let (mut sent, mut own) = (Vec::new(), 0);
    for (id, ip) in (1..).zip(talk(20_000)) {
        for foreign in [false, true] {
            let mut payload = ip[20..].to_vec();
            if foreign {
                // Neither of its ports is that of the server.
                payload[..4].copy_from_slice(&[0, 1, 0, 2]);
            }
            let (first, second) = payload.split_at(16);
            for (part, place) in [(first, 0x2000_u16), (second, 2)] {
                let mut fragment = wrap::ipv4(6, part);
                fragment[12..20].copy_from_slice(&ip[12..20]);
                fragment[4..6].copy_from_slice(&[u8::from(foreign), id]);
                fragment[6..8].copy_from_slice(&place.to_be_bytes());
                sent.push(wrap::plain(&fragment));
                own += usize::from(!foreign);
            }
        }
    }
    let command = upcase("sniff --interface wire --port 12000 --format json");
    let file = Temporary::new(b"");
    let mut sniff = listen(lab.on_server(&command), 1, &file);
    inject(&lab, &sent);
    let ended = sniff.ended().expect(0);
    assert_eq!(
        numbers(&ended),
        (1..=9).map(|segment| 2 * segment).collect::<Vec<u64>>()
    );
    assert_eq!(frames(&file).len(), own);
    if tshark::is_there() {
        let disagreements = tshark::disagreements(&file.0);
        assert!(disagreements.is_empty(), "{disagreements:#?}");
    }
}

#[test]
fn each_kind_of_interface_has_its_link_type() {
    let Some(lab) = Lab::build() else { return };
    let command = upcase(&format!("serve --listen {SERVER}:12000"));
    let serve = Serve::launch(lab.on_server(&command), 1);
    for (interface, link, on_loopback) in [
        ("wire", "Ethernet", false),
        ("lo", "Ethernet", true),
        ("any", "Linux cooked-mode capture v2", false),
        ("any", "Linux cooked-mode capture v2", true),
    ] {
        let command = upcase(&format!("sniff --interface {interface} --format json"));
        let file = Temporary::new(b"");
        let mut sniff = listen(lab.on_server(&command), 1, &file);
        let send = upcase(&format!("send {SERVER}:12000 hello"));
        let mut send = if on_loopback {
            lab.on_server(&send)
        } else {
            lab.on_client(&send)
        };
        Ended::from(send.output().unwrap()).expect(0);
        let ended = sniff.ended().expect(0);
        let numbers = numbers(&ended);
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<u64>>());
        assert!(
            (9..=12).contains(&numbers.len()),
            "each packet once: {numbers:?}"
        );
        assert_eq!(frames(&file).len(), numbers.len());
        if !tshark::is_there() {
            continue;
        }
        let disagreements = tshark::disagreements(&file.0);
        assert!(disagreements.is_empty(), "{interface}: {disagreements:#?}");
        let kinds = Command::new("capinfos").arg("-E").arg(&file.0).output();
        if let Ok(kinds) = kinds {
            let text = String::from_utf8_lossy(&kinds.stdout).into_owned();
            assert!(text.contains(link), "{interface}: {text}");
        }
    }
    serve.stop();
}

#[test]
fn an_interface_without_link_headers_is_captured_as_ip() {
    let Some(lab) = Lab::build() else { return };
    if !common::installed("python3") || !Path::new("/dev/net/tun").exists() {
        return common::skip("no python3 or no /dev/net/tun");
    }
    let mut python = Command::new("python3");
    python.args(["-c", TUNNEL]);
    let mut python = lab.on_server(&python);
    let mut python = python
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(python.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "up\n");
    let command = upcase("sniff --interface tunnel --format json");
    let file = Temporary::new(b"");
    let mut sniff = listen(lab.on_server(&command), 1, &file);
    let mut input = python.stdin.take().unwrap();
    input
        .write_all(hexadecimal(&talk(20_000)).as_bytes())
        .unwrap();
    drop(input);
    let ended = sniff.ended().expect(0);
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!(numbers(&ended), (1..=9).collect::<Vec<u64>>());
    assert_eq!(frames(&file), talk(20_000));
}

#[test]
fn a_signal_ends_a_capture_in_which_nothing_passes() {
    let Some(lab) = Lab::build() else { return };
    let command = upcase("sniff --interface wire --format json");
    let file = Temporary::new(b"");
    let mut sniff = listen(lab.on_server(&command), 1, &file);
    sniff.signal(Signal::SIGTERM);
    let ended = sniff.ended();
    assert!(matches!(ended.code, Some(1 | 4)), "{ended:?}");
    assert_eq!(objects(&ended, "verdict")[0]["packets"], 0);
    assert_eq!(frames(&file).len(), 0);
}
