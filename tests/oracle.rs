//! Tests `upcase sniff` against tshark as the reference: on captures of real traffic, on damaged
//! copies of them and on crafted packets, every field and every analysis word of every segment must
//! agree.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::craft::{ACK, Crafted, FIN, PSH, SYN, craft};
use common::files::{Frames, frames_of, pcapng, timed};
use common::lab::{Lab, SERVER};
use common::wrap::{self, WRAPS, talk};
use common::{ANY_PACE, Process, Serve, Temporary, tshark, upcase};
use nix::sys::signal::Signal;

/// Starts a capture on the server's host, which lasts until a signal.
fn capture(lab: &Lab, file: &Path) -> Process {
    let arguments = format!("sniff --interface wire --brief --write {}", file.display());
    let mut command = lab.on_server(&upcase(&arguments));
    command.stdout(std::process::Stdio::null());
    let sniff = Process::start(command);
    sniff.wait_for_stderr("capturing");
    sniff
}

fn end(mut sniff: Process) {
    sniff.signal(Signal::SIGINT);
    sniff.wait();
    assert!(
        sniff.stderr().contains(" 0 packets were dropped"),
        "{}",
        sniff.stderr()
    );
}

/// Runs `load` over the link while it is captured. A server with a small buffer closes its window.
fn capture_load(lab: &Lab, file: &Path, serve: &str, load: &str) {
    let command = upcase(&format!("serve --listen {SERVER}:12000 {serve}"));
    let serve = Serve::launch(lab.on_server(&command), 1);
    let sniff = capture(lab, file);
    let command = upcase(&format!(
        "load {SERVER}:12000 {load} {ANY_PACE},server-bound"
    ));
    let output = lab.on_client(&command).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    end(sniff);
    serve.stop();
}

/// The link types of frames that begin with Ethernet, and with IP.
const ETHERNET: u16 = 1;
const IP: u16 = 101;

#[track_caller]
fn agrees(file: &Path, what: &str) {
    let (disagreements, excused) = tshark::disagreements_and_excuses(file);
    println!("{what}: {excused} differences are in the table");
    assert!(
        disagreements.is_empty(),
        "{what}: {} packets, first: {:#?}",
        disagreements.len(),
        &disagreements[..disagreements.len().min(5)]
    );
}

/// Damages a capture as a bad network and a bad capture do: packets are lost, duplicated and
/// delayed.
fn mangle(frames: &Frames, seed: u64) -> Frames {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chance = |one_in: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20).is_multiple_of(one_in)
    };
    let mut mangled: Frames = Vec::new();
    let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
    for (place, (time, bytes)) in frames.iter().enumerate() {
        late.retain(|(until, bytes)| {
            let due = *until <= place;
            if due {
                mangled.push((*time, bytes.clone()));
            }
            !due
        });
        if chance(30) {
            continue;
        }
        if chance(30) {
            late.push((place + 1 + usize::from(chance(2)) * 7, bytes.clone()));
            continue;
        }
        if chance(40) {
            late.push((place + 1 + usize::from(chance(2)) * 40, bytes.clone()));
        }
        mangled.push((*time, bytes.clone()));
    }
    // Pauses in some places: the analysis of a delayed packet depends on its delay.
    let mut shift = Duration::ZERO;
    for (time, _) in &mut mangled {
        if chance(25) {
            shift += Duration::from_millis(if chance(2) { 2 } else { 30 });
        }
        *time += shift;
    }
    mangled
}

#[test]
fn mangled_captures_are_reported_as_by_tshark() {
    let Some(lab) = Lab::build() else { return };
    if !tshark::is_there() {
        return;
    }
    let (file, mangled) = (Temporary::new(b""), Temporary::new(b""));
    for (serve, load) in [
        ("", "--connections 4 --size 5000 --messages 200 --depth 2"),
        (
            "--recv-buffer 4KiB --send-buffer 4KiB",
            "--connections 2 --size 20000 --messages 30 --recv-buffer 4KiB --mss 536",
        ),
    ] {
        capture_load(&lab, &file.0, serve, load);
        agrees(&file.0, &format!("as captured, {load}"));
        let frames = frames_of(&file.0);
        for seed in 1..=8 {
            std::fs::write(&mangled.0, pcapng(ETHERNET, &mangle(&frames, seed))).unwrap();
            agrees(&mangled.0, &format!("seed {seed}, {load}"));
        }
    }
}

#[test]
fn a_network_that_loses_packets_is_reported_as_by_tshark() {
    let Some(lab) = Lab::build() else { return };
    if !tshark::is_there() {
        return;
    }
    if !common::installed("nft") {
        return common::skip("no nft (package nftables)");
    }
    let rules = "add table inet loss; \
                 add chain inet loss in { type filter hook input priority 0; }; \
                 add rule inet loss in tcp dport 12000 numgen random mod 100 < 5 drop; \
                 add rule inet loss in tcp sport 12000 numgen random mod 100 < 5 drop";
    for host in [Lab::on_server, Lab::on_client] {
        let mut nft = Command::new("nft");
        nft.arg(rules);
        let output = host(&lab, &nft).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let file = Temporary::new(b"");
    let load = "--connections 5 --size 30000 --messages 50 --mss 1000";
    capture_load(&lab, &file.0, "", load);
    agrees(&file.0, "5 % loss");
}

/// A script of clients with rare behaviour, each on a connection of its own.
const ODD_CLIENTS: &str = "
import socket, struct, time
SERVER = ('10.77.0.1', 12000)

def connect(**options):
    client = socket.socket()
    if 'buffer' in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options['buffer'])
    if 'port' in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(('10.77.0.2', options['port']))
    client.connect(SERVER)
    return client

# Keep-alives: nothing is said for a while.
client = connect()
client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
client.sendall(b'hello')
client.recv(5)
time.sleep(2.5)
client.close()

# A window that closes, is probed and opens again.
client = connect(buffer=4096)
client.sendall(b'x' * 40000)
time.sleep(2)
left = 40000
while left:
    left -= len(client.recv(1000))
client.close()

# Resets: with replies unread, and on purpose.
client = connect()
client.sendall(b'never read')
time.sleep(0.2)
client.close()
client = connect()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
client.close()

# The same port once more, after a reset, and a half-close.
for message in (b'once', b'once more'):
    client = connect(port=45678)
    client.sendall(message)
    client.recv(100)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    client.close()
client = connect()
client.sendall(b'and then FIN')
client.shutdown(socket.SHUT_WR)
while client.recv(100):
    pass
";

#[test]
fn odd_clients_are_reported_as_by_tshark() {
    let Some(lab) = Lab::build() else { return };
    if !tshark::is_there() || !common::installed("python3") {
        return common::skip("no tshark or no python3");
    }
    let command = upcase(&format!("serve --listen {SERVER}:12000 --send-buffer 4KiB"));
    let serve = Serve::launch(lab.on_server(&command), 1);
    let file = Temporary::new(b"");
    let sniff = capture(&lab, &file.0);
    let mut python = Command::new("python3");
    python.args(["-c", ODD_CLIENTS]);
    let output = lab.on_client(&python).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    end(sniff);
    serve.stop();
    agrees(&file.0, "odd clients");
    // Check that the rare behaviour did occur.
    let reported = tshark::sniff(&file.0);
    for word in [
        "keep_alive",
        "keep_alive_ack",
        "zero_window",
        "window_update",
        "window_full",
        "reused_ports",
    ] {
        let seen = reported
            .values()
            .any(|reported| reported.words.iter().any(|other| other == word));
        assert!(seen, "{word} did not occur");
    }
    assert!(
        reported
            .values()
            .any(|reported| reported.flags.contains("RST"))
    );
}

/// A sequence of numbers that looks random and is the same for the same seed.
struct Rng(u64);

impl Rng {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

/// Returns a conversation of two ends that ignore the protocol: they repeat themselves, jump ahead,
/// close their windows, probe, and acknowledge arbitrary numbers. Sequence numbers begin anywhere,
/// also directly before they wrap.
fn nonsense(random: &mut Rng, flow: u16) -> Frames {
    let first = random.roll(1 << 32) as u32;
    let base = [first, u32::MAX - random.roll(3000) as u32];
    let mut time = Duration::from_millis(1_000_000 + u64::from(flow) * 60_000);
    let mut frames = Vec::new();
    let mut next = base.map(|base| base.wrapping_add(1));
    let mut acked = next;
    let mut put = |time: Duration, segment: Crafted| {
        frames.push((time, craft(20_000 + flow, segment)));
    };
    let segment = |from_client, flags, seq, ack, window, length| Crafted {
        from_client,
        flags,
        seq,
        ack,
        window,
        length,
    };
    put(time, segment(true, SYN, base[0], 0, 1000, 0));
    time += Duration::from_millis(2);
    put(time, segment(false, SYN | ACK, base[1], next[0], 1000, 0));
    time += Duration::from_millis(2);
    put(time, segment(true, ACK, next[0], next[1], 250, 0));
    let mut windows = [250_u16, 1000];
    for _ in 0..60 {
        time += Duration::from_micros(100 << random.roll(10));
        let (me, peer) = if random.roll(2) == 0 { (0, 1) } else { (1, 0) };
        let from_client = me == 0;
        let length = [0, 0, 0, 1, 10, 1000][random.roll(6) as usize];
        let seq = match random.roll(12) {
            0 => next[me].wrapping_sub(1),
            1 => next[me].wrapping_sub(10),
            2 => next[me].wrapping_add(10),
            3 => acked[peer],
            _ => next[me],
        };
        if random.roll(3) == 0 {
            acked[me] = next[peer];
        }
        if random.roll(5) == 0 {
            windows[me] = [0, 0, 250, 400, 1000][random.roll(5) as usize];
        }
        let push = if length > 0 { PSH } else { 0 };
        put(
            time,
            segment(from_client, ACK | push, seq, acked[me], windows[me], length),
        );
        let end = seq.wrapping_add(length as u32);
        if (end.wrapping_sub(next[me]) as i32) > 0 {
            next[me] = end;
        }
    }
    put(time, segment(true, FIN | ACK, next[0], next[1], 250, 0));
    put(
        time,
        segment(false, FIN | ACK, next[1], next[0].wrapping_add(1), 250, 0),
    );
    put(
        time,
        segment(
            true,
            ACK,
            next[0].wrapping_add(1),
            next[1].wrapping_add(1),
            250,
            0,
        ),
    );
    frames
}

#[test]
fn nonsense_is_reported_as_by_tshark() {
    if !tshark::is_there() {
        return;
    }
    let file = Temporary::new(b"");
    let mut random = Rng(0x5eed_5eed);
    let frames: Frames = (0..300)
        .flat_map(|flow| nonsense(&mut random, flow))
        .collect();
    std::fs::write(&file.0, pcapng(IP, &frames)).unwrap();
    agrees(&file.0, "nonsense");
    let reported = tshark::sniff(&file.0);
    for word in tshark::WORDS.iter().filter(|word| **word != "reused_ports") {
        let seen = reported
            .values()
            .any(|reported| reported.words.iter().any(|other| other == word));
        assert!(seen, "{word} did not occur");
    }
}

#[test]
fn every_link_type_and_tunnel_is_reported_as_by_tshark() {
    if !tshark::is_there() {
        return;
    }
    // All in one file, since tshark takes long to start: a section and a connection for each.
    let (mut bytes, mut names) = (Vec::new(), Vec::new());
    for (port, wrap) in (20_000..).zip(&WRAPS) {
        for v6 in [false, true] {
            let packets = talk(if v6 { port + 1000 } else { port }).into_iter();
            let packets = packets.map(|ip| if v6 { wrap::to_ipv6(&ip) } else { ip });
            let frames: Vec<Vec<u8>> = packets.map(|ip| (wrap.wrap)(&ip)).collect();
            if wrap.tshark && (!v6 || wrap.carries_ipv6()) {
                bytes.extend(pcapng(wrap.link, &timed(&frames)));
                names.extend(vec![wrap.name; frames.len()]);
            }
        }
    }
    let file = Temporary::new(&bytes);
    let disagreements = tshark::disagreements(&file.0);
    let differ = disagreements
        .iter()
        .map(|(number, theirs, ours)| (names[*number as usize - 1], number, theirs, ours));
    let differ: Vec<_> = differ.collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(
        tshark::sniff(&file.0).len(),
        names.len(),
        "every frame has a segment"
    );
}

#[test]
fn fragments_are_reported_as_by_tshark() {
    if !tshark::is_there() {
        return;
    }
    let file = Temporary::new(b"");
    for (size, order) in [(16, [0, 1]), (24, [1, 0])] {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for (id, ip) in (1..).zip(talk(20_000)) {
            let payload = &ip[20..];
            let mut parts = payload.chunks(size).enumerate().map(|(number, part)| {
                let mut fragment = wrap::ipv4(6, part);
                fragment[12..20].copy_from_slice(&ip[12..20]);
                let is_last = (number + 1) * size >= payload.len();
                let place = (number * size / 8) as u16 | if is_last { 0 } else { 0x2000 };
                fragment[4..6].copy_from_slice(&[0, id]);
                fragment[6..8].copy_from_slice(&place.to_be_bytes());
                wrap::plain(&fragment)
            });
            let mut parts: Vec<Vec<u8>> = parts.by_ref().collect();
            if order == [1, 0] {
                parts.reverse();
            }
            frames.extend(parts);
        }
        let mut bytes = Vec::new();
        bytes.extend(pcapng(ETHERNET, &timed(&frames)));
        std::fs::write(&file.0, bytes).unwrap();
        agrees(&file.0, &format!("fragments of {size} bytes, {order:?}"));
        assert_eq!(tshark::sniff(&file.0).len(), 9);
    }
}
