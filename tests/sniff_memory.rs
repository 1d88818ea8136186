//! Tests the memory of `sniff` at its limits, as the kernel counts it: with as many connections as
//! it follows at once, as many bytes as it keeps, as many ended connections as it remembers.
//!
//! Packets are written to a pipe as they are made, so that only the process under test grows.

mod common;

use std::io::{BufWriter, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::craft::{ACK, Crafted, FIN, PSH, SYN, craft};
use common::{TIMEOUT, upcase};
use upcase::sniff::flow::flows::{BYTES_MAX, FLOWS_MAX};
use upcase::sniff::flow::retired::RETIRED_MAX;

/// Memory of the process before it follows a connection, and what its allocator does not return.
const BASE: usize = 24 << 20;

/// A `sniff` that reads what is written to it.
struct Fed {
    child: Child,
    pipe: BufWriter<ChildStdin>,
    written: u64,
    time: Duration,
}

impl Fed {
    fn start() -> Fed {
        let mut child = upcase("sniff --read - --brief --format json")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = BufWriter::with_capacity(1 << 16, child.stdin.take().unwrap());
        let mut run_with_input = Fed {
            child,
            pipe,
            written: 0,
            time: Duration::from_secs(1_700_000_000),
        };
        let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101];
        run_with_input.write(&header.map(u32::to_le_bytes).concat());
        run_with_input
    }

    fn write(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).unwrap();
        self.written += bytes.len() as u64;
    }

    /// Writes a segment of the connection of this number: each has an address and a port of its
    /// own.
    fn put(&mut self, connection: usize, segment: Crafted) {
        let mut ip = craft(1024 + (connection % 60_000) as u16, segment);
        let host = [1 + (connection / 60_000) as u8, 3];
        let place = if segment.from_client { 14 } else { 18 };
        ip[place..place + 2].copy_from_slice(&host);
        let length = ip.len() as u32;
        let time = [self.time.as_secs() as u32, self.time.subsec_micros()];
        let record = [time[0], time[1], length, length].map(u32::to_le_bytes);
        self.write(&record.concat());
        self.write(&ip);
    }

    fn say(&mut self, connection: usize, from_client: bool, flags: u8, place: (u32, u32, usize)) {
        let (seq, ack, length) = place;
        self.put(
            connection,
            Crafted {
                from_client,
                flags,
                seq: if from_client { 1000 + seq } else { 5000 + seq },
                ack: if from_client { 5000 + ack } else { 1000 + ack },
                window: 60_000,
                length,
            },
        );
    }

    fn open(&mut self, connection: usize) {
        self.say(connection, true, SYN, (0, 0, 0));
        self.say(connection, false, SYN | ACK, (0, 1, 0));
        self.say(connection, true, ACK, (1, 1, 0));
    }

    /// Returns the maximum of the resident memory, in bytes, once everything was read.
    fn resident(mut self) -> usize {
        self.pipe.flush().unwrap();
        let of = |name: &str, key: &str| -> u64 {
            let path = format!("/proc/{}/{name}", self.child.id());
            let text = std::fs::read_to_string(path).unwrap();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            let number = line.split_whitespace().nth(1).unwrap();
            number.parse().unwrap()
        };
        let start = Instant::now();
        while of("io", "rchar:") < self.written {
            assert!(start.elapsed() < TIMEOUT, "it does not continue reading");
            sleep(Duration::from_millis(10));
        }
        // The last bytes may be read and not processed yet; a few packets make no difference.
        let peak = of("status", "VmHWM:") as usize * 1024;
        drop(self.pipe);
        self.child.wait().unwrap();
        peak
    }
}

#[track_caller]
fn is_within(what: &str, peak: usize, bound: usize) {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "{what}: {:.0} MiB resident, at most {:.0}",
        mib(peak),
        mib(bound)
    );
    assert!(peak <= bound, "{what}: {peak} bytes, not {bound}");
}

/// Maximum memory of a connection that keeps no bytes.
const FLOW: usize = 2 * 1024;

#[test]
#[ignore = "it fills the tables; .ci/run does it"]
fn as_many_connections_as_are_followed() {
    let mut sniff = Fed::start();
    for connection in 0..FLOWS_MAX {
        sniff.open(connection);
        // Pipelined requests, whose replies and acknowledgments arrive late: the requests to be
        // timed accumulate.
        for message in 0..20 {
            let seq = 1 + message * 10;
            sniff.say(connection, true, PSH | ACK, (seq, 1, 10));
        }
    }
    for connection in 0..FLOWS_MAX {
        sniff.say(connection, false, PSH | ACK, (1, 201, 200));
        sniff.say(connection, true, ACK, (201, 201, 0));
    }
    // Requests that wait for a reply count as kept bytes.
    is_within(
        "waiting requests",
        sniff.resident(),
        BASE + FLOWS_MAX * FLOW + BYTES_MAX,
    );

    let mut sniff = Fed::start();
    for connection in 0..FLOWS_MAX {
        sniff.open(connection);
        sniff.say(connection, true, PSH | ACK, (1, 1, 10));
        sniff.say(connection, false, PSH | ACK, (1, 11, 10));
        sniff.say(connection, true, ACK, (11, 11, 0));
    }
    is_within("connections", sniff.resident(), BASE + FLOWS_MAX * FLOW);
}

#[test]
#[ignore = "it fills the tables; .ci/run does it"]
fn as_many_bytes_as_are_kept() {
    // Messages without an acknowledgment: in the smallest pieces, and in large ones.
    for (connections, length, each) in [(4096, 1, 600), (4096, 1000, 80), (256, 1400, 1000)] {
        let mut sniff = Fed::start();
        for connection in 0..connections {
            sniff.open(connection);
        }
        for message in 0..each {
            for connection in 0..connections {
                let seq = 1 + message * length as u32;
                sniff.say(connection, true, PSH | ACK, (seq, 1, length));
            }
        }
        let what = format!("{connections} connections, {each} x {length} bytes each");
        is_within(
            &what,
            sniff.resident(),
            BASE + BYTES_MAX + connections * FLOW,
        );
    }
}

#[test]
#[ignore = "it fills the tables; .ci/run does it"]
fn as_many_ended_connections_as_are_remembered() {
    let mut sniff = Fed::start();
    for connection in 0..RETIRED_MAX + 20_000 {
        sniff.time += Duration::from_micros(900);
        sniff.open(connection);
        sniff.say(connection, true, FIN | ACK, (1, 1, 0));
        sniff.say(connection, false, FIN | ACK, (1, 2, 0));
        sniff.say(connection, true, ACK, (2, 2, 0));
    }
    const RETIRED: usize = 192;
    const FOLLOWED: usize = 4000;
    let bound = BASE + RETIRED_MAX * RETIRED + FOLLOWED * FLOW;
    is_within("ended connections", sniff.resident(), bound);
}
