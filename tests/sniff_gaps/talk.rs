//! Builds TCP connections of many shapes as packets, and computes the truth about any part of them.
//!
//! A connection is made from a seed. Every packet has its position as an offset of the stream. So
//! the truth about a capture of some of the packets is computed without sequence numbers and
//! without the code under test.

use std::time::Duration;

/// A generator of pseudo-random numbers, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// The offset of the SYN's sequence number, which precedes the first byte.
pub const BEFORE: u64 = u64::MAX;

/// The payload byte of a keep-alive probe, which no message contains.
pub const GARBAGE: u8 = 0;

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// A packet of a connection, and its position in the streams.
#[derive(Clone, Debug)]
pub struct Packet {
    pub time: Duration,
    pub bytes: Vec<u8>,
    /// The number of the connection in the capture.
    pub connection: usize,
    pub from: usize,
    pub flags: u8,
    /// The offset of its payload; [`BEFORE`]: it has the sequence number of the SYN.
    pub offset: u64,
    pub length: u64,
    /// The offset that it acknowledges; a FIN counts as one.
    pub acknowledges: Option<u64>,
}

/// The TCP options in the SYNs and segments of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Options {
    None,
    Mss,
    All,
}

/// A connection that is being built.
#[derive(Clone, Debug)]
pub struct Talk {
    pub connection: usize,
    pub port: u16,
    pub v6: bool,
    pub options: Options,
    /// The receive window of each side.
    pub window: u64,
    pub isn: [u32; 2],
    /// The bytes that each side has sent so far.
    pub streams: [Vec<u8>; 2],
    /// The offset up to which each side has acknowledged its peer's stream; a FIN counts as one.
    pub acknowledged: [u64; 2],
    pub closed: [bool; 2],
    pub time: Duration,
    pub packets: Vec<Packet>,
}

impl Talk {
    pub fn new(random: &mut Rng, connection: usize, port: u16) -> Talk {
        let isn = |random: &mut Rng| match random.roll(3) {
            // The sequence numbers wrap within the connection.
            0 => u32::MAX - random.roll(3000) as u32,
            1 => random.roll(5000) as u32,
            _ => random.roll(1 << 32) as u32,
        };
        Talk {
            connection,
            port,
            v6: random.one_in(3),
            options: [Options::None, Options::Mss, Options::All][random.roll(3) as usize],
            window: [60_000, 60_000, 1_600][random.roll(3) as usize],
            isn: [isn(random), isn(random)],
            streams: [Vec::new(), Vec::new()],
            acknowledged: [0, 0],
            closed: [false, false],
            time: Duration::from_secs(1_700_000_000)
                + Duration::from_micros(random.roll(5_000_000)),
            packets: Vec::new(),
        }
    }

    /// Adds a segment with this part of the stream, or an empty one with this offset.
    pub fn put(&mut self, from: usize, flags: u8, (offset, length): (u64, u64)) {
        self.time += Duration::from_micros(700);
        let peer = 1 - from;
        let before = u64::from(flags & SYN != 0);
        let seq = self.isn[from].wrapping_add(1).wrapping_add(offset as u32);
        let acknowledges = (flags & ACK != 0).then_some(self.acknowledged[from]);
        let ack = acknowledges.map_or(0, |end| {
            self.isn[peer].wrapping_add(1).wrapping_add(end as u32)
        });
        let range = offset as usize..(offset + length) as usize;
        let payload = self.streams[from].get(range).unwrap_or(&[]);
        let header = Header {
            from,
            port: self.port,
            v6: self.v6,
            options: self.options,
            seq: seq.wrapping_sub(before as u32),
            ack,
            flags,
            window: self.raw_window(flags),
        };
        let bytes = header.packet(payload, None);
        self.push(bytes, from, flags, (offset, length), acknowledges);
    }

    /// Returns the window field of the header. With all options, it is scaled by a shift of 2.
    fn raw_window(&self, flags: u8) -> u16 {
        let shift = match self.options {
            Options::All if flags & SYN == 0 => 2,
            _ => 0,
        };
        (self.window >> shift) as u16
    }

    fn push(
        &mut self,
        bytes: Vec<u8>,
        from: usize,
        flags: u8,
        (offset, length): (u64, u64),
        acknowledges: Option<u64>,
    ) {
        self.packets.push(Packet {
            time: self.time,
            bytes,
            connection: self.connection,
            from,
            flags,
            offset,
            length,
            acknowledges,
        });
    }

    /// Adds the handshake.
    pub fn open(&mut self) {
        self.put(CLIENT, SYN, (0, 0));
        self.put(SERVER, SYN | ACK, (0, 0));
        self.put(CLIENT, ACK, (0, 0));
    }

    /// Adds a simultaneous open.
    pub fn open_at_once(&mut self) {
        self.put(CLIENT, SYN, (0, 0));
        self.put(SERVER, SYN, (0, 0));
        self.put(CLIENT, SYN | ACK, (0, 0));
        self.put(SERVER, SYN | ACK, (0, 0));
        self.put(CLIENT, ACK, (0, 0));
    }

    /// Adds a SYN that is refused; the next SYN has the same sequence number or another one.
    pub fn is_refused(&mut self, random: &mut Rng) {
        self.put(CLIENT, SYN, (0, 0));
        self.time += Duration::from_micros(700);
        let header = Header {
            from: SERVER,
            port: self.port,
            v6: self.v6,
            options: Options::None,
            seq: 0,
            ack: self.isn[CLIENT].wrapping_add(1),
            flags: RST | ACK,
            window: 0,
        };
        let bytes = header.packet(&[], None);
        self.push(bytes, SERVER, RST | ACK, (0, 0), None);
        self.time += Duration::from_millis(500 + random.roll(5000));
        if random.one_in(2) {
            self.isn[CLIENT] = self.isn[CLIENT].wrapping_add(64_000);
            self.connection += 1;
        }
    }

    /// Adds a keep-alive probe: the last acknowledged sequence number again, without payload or
    /// with one byte that is not part of the stream. The peer may answer.
    pub fn probe(&mut self, random: &mut Rng, from: usize) {
        if self.acknowledged[1 - from] < self.next(from) {
            self.acknowledge(1 - from);
        }
        for _ in 0..1 + random.roll(2) {
            self.time += Duration::from_secs(1 + random.roll(75));
            let payload = &[GARBAGE][..random.roll(2) as usize];
            self.put_odd(from, ACK, self.next(from).wrapping_sub(1), payload);
            if random.one_in(2) {
                self.put(1 - from, ACK, (self.next(1 - from), 0));
            }
        }
    }

    /// Adds a FIN with the sequence number of the SYN: its receiver drops it, so it closes nothing.
    pub fn close_at_syn(&mut self, from: usize) {
        self.put_odd(from, FIN | ACK, BEFORE, &[]);
    }

    /// Adds a segment whose payload and FIN are not part of the stream.
    fn put_odd(&mut self, from: usize, flags: u8, offset: u64, payload: &[u8]) {
        self.time += Duration::from_micros(700);
        let acknowledges = self.acknowledged[from];
        let number = |side: usize, offset: u64| {
            let first: u32 = self.isn[side].wrapping_add(1);
            first.wrapping_add(offset as u32)
        };
        let header = Header {
            from,
            port: self.port,
            v6: self.v6,
            options: self.options,
            seq: number(from, offset),
            ack: number(1 - from, acknowledges),
            flags,
            window: self.raw_window(flags),
        };
        let bytes = header.packet(payload, None);
        self.push(bytes, from, ACK, (offset, 0), Some(acknowledges));
    }

    /// Adds an acknowledgment of everything that the peer has sent.
    pub fn acknowledge(&mut self, from: usize) {
        self.hear(from);
        self.put(from, ACK, (self.next(from), 0));
    }

    /// Marks everything that the peer has sent as received.
    fn hear(&mut self, from: usize) {
        self.acknowledged[from] = self.next(1 - from);
    }

    /// Returns the next offset of a side.
    fn next(&self, from: usize) -> u64 {
        self.streams[from].len() as u64 + u64::from(self.closed[from])
    }

    /// Sends bytes in segments; some of them are lost on the path and retransmitted.
    pub fn send(&mut self, random: &mut Rng, from: usize, bytes: &[u8]) {
        self.hear(from);
        let start = self.streams[from].len();
        self.streams[from].extend_from_slice(bytes);
        let mut lost = Vec::new();
        let mut place = start;
        while place < self.streams[from].len() {
            let rest = self.streams[from].len() - place;
            let length = rest.min(1 + random.roll(700) as usize);
            let segment = (place as u64, length as u64);
            // A single byte without PSH could be that of a keep-alive probe.
            let push = if length == rest || length == 1 {
                PSH
            } else {
                0
            };
            self.put(from, ACK | push, segment);
            let is_last = length == rest;
            let is_small = self.window < 10_000;
            if random.one_in(8) && !is_last && !is_small {
                lost.push(segment);
            }
            let flying = segment.0 + segment.1 - self.acknowledged[1 - from];
            if is_small && flying + 700 > self.window {
                self.acknowledged[1 - from] = segment.0 + segment.1;
                self.put(1 - from, ACK, (self.next(1 - from), 0));
            }
            if random.one_in(10) {
                self.put(from, ACK | push, segment);
            }
            place += length;
        }
        for (offset, length) in lost {
            self.report_hole((1 - from, offset), offset + length);
            self.time += Duration::from_millis(200 + random.roll(900));
            let whole = random.one_in(2);
            let length = if whole { length } else { length.div_ceil(2) };
            self.put(from, ACK | PSH, (offset, length));
            let sent = self.packets.len();
            let segment = self.packets[..sent].iter().rev().find(|packet| {
                packet.from == from && packet.offset == offset && packet.length > length
            });
            if let Some(rest) = segment.map(|packet| packet.length - length) {
                self.put(from, ACK | PSH, (offset + length, rest));
            }
        }
    }

    /// Acknowledges the bytes before a hole, and reports by SACK the bytes behind it.
    fn report_hole(&mut self, (from, hole): (usize, u64), end: u64) {
        if self.options != Options::All || self.acknowledged[from] > hole {
            return;
        }
        self.acknowledged[from] = hole;
        let base = self.isn[1 - from].wrapping_add(1);
        let number = |offset: u64| base.wrapping_add(offset as u32);
        let sack = (number(end), number(self.streams[1 - from].len() as u64));
        for _ in 0..3 {
            self.time += Duration::from_micros(100);
            let next = self.next(from);
            let header = Header {
                from,
                port: self.port,
                v6: self.v6,
                options: self.options,
                seq: self.isn[from].wrapping_add(1).wrapping_add(next as u32),
                ack: number(hole),
                flags: ACK,
                window: self.raw_window(ACK),
            };
            let bytes = header.packet(&[], Some(sack));
            self.push(bytes, from, ACK, (next, 0), Some(hole));
        }
    }

    /// Adds a FIN without bytes.
    pub fn close(&mut self, from: usize) {
        self.hear(from);
        let end = self.streams[from].len() as u64;
        self.put(from, FIN | ACK, (end, 0));
        self.closed[from] = true;
    }

    /// Adds a FIN with bytes.
    pub fn close_with(&mut self, from: usize, bytes: &[u8]) {
        self.hear(from);
        let start = self.streams[from].len() as u64;
        self.streams[from].extend_from_slice(bytes);
        self.put(from, FIN | PSH | ACK, (start, bytes.len() as u64));
        self.closed[from] = true;
    }

    /// Adds a simultaneous close: the two FINs cross on the path.
    pub fn close_at_once(&mut self) {
        self.hear(CLIENT);
        self.hear(SERVER);
        for from in [CLIENT, SERVER] {
            let end = self.streams[from].len() as u64;
            self.put(from, FIN | ACK, (end, 0));
        }
        self.closed = [true, true];
        self.acknowledge(CLIENT);
        self.acknowledge(SERVER);
    }
}

/// The fields of the headers of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub from: usize,
    pub port: u16,
    pub v6: bool,
    pub options: Options,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
}

impl Header {
    /// Builds the IP packet; checksums are left out.
    pub fn packet(&self, payload: &[u8], sack: Option<(u32, u32)>) -> Vec<u8> {
        let mut options: Vec<u8> = Vec::new();
        if self.flags & SYN != 0 && self.options != Options::None {
            options.extend([2, 4, 0x05, 0xb4]);
        }
        if self.flags & SYN != 0 && self.options == Options::All {
            options.extend([1, 3, 3, 2, 4, 2, 1, 1]);
        }
        if self.options == Options::All {
            options.extend([1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
        }
        if let Some((left, right)) = sack {
            options.extend([1, 1, 5, 10]);
            options.extend(left.to_be_bytes());
            options.extend(right.to_be_bytes());
        }
        let mut ports = [self.port.to_be_bytes(), 12_000_u16.to_be_bytes()];
        let mut hosts = [2_u8, 1];
        if self.from == SERVER {
            ports.reverse();
            hosts.reverse();
        }
        let tcp = 20 + options.len() + payload.len();
        let mut bytes = Vec::new();
        if self.v6 {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((tcp as u16).to_be_bytes());
            bytes.extend([6, 64]);
            for host in hosts {
                bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + tcp as u16).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            for host in hosts {
                bytes.extend([10, 77, 0, host]);
            }
        }
        bytes.extend(ports.concat());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([((20 + options.len()) as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(payload);
        bytes
    }
}

/// A capture: the packets of one or several connections in the order of time.
#[derive(Clone, Debug)]
pub struct Capture {
    pub packets: Vec<Packet>,
    /// The bytes that the two sides of each connection sent.
    pub streams: Vec<[Vec<u8>; 2]>,
    pub isn: Vec<[u32; 2]>,
    /// Whether replies are the requests in upper case.
    pub is_echo: bool,
    pub shape: &'static str,
}

impl Capture {
    fn of(talks: Vec<Talk>, is_echo: bool, shape: &'static str) -> Capture {
        let streams = talks.iter().map(|talk| talk.streams.clone()).collect();
        let isn = talks.iter().map(|talk| talk.isn).collect();
        let mut packets: Vec<Packet> = talks.into_iter().flat_map(|talk| talk.packets).collect();
        packets.sort_by_key(|packet| packet.time);
        Capture {
            packets,
            streams,
            isn,
            is_echo,
            shape,
        }
    }
}

fn message(random: &mut Rng, most: u64) -> Vec<u8> {
    let length = 1 + random.roll(most);
    (0..length).map(|_| b'a' + random.roll(26) as u8).collect()
}

/// Adds a request and its reply, and sometimes a keep-alive probe before them.
fn exchange(talk: &mut Talk, random: &mut Rng, most: u64) {
    if random.one_in(6) {
        let from = random.roll(2) as usize;
        talk.probe(random, from);
    }
    let request = message(random, most);
    talk.send(random, CLIENT, &request);
    if random.one_in(2) {
        talk.acknowledge(SERVER);
    }
    talk.send(random, SERVER, &request.to_ascii_uppercase());
    if random.one_in(2) {
        talk.acknowledge(CLIENT);
    }
}

/// Ends a connection in one of several ways.
fn end(talk: &mut Talk, random: &mut Rng) {
    match random.roll(5) {
        0 => {
            talk.close(CLIENT);
            talk.close(SERVER);
            talk.acknowledge(CLIENT);
        }
        1 => {
            talk.close(SERVER);
            talk.close(CLIENT);
            talk.acknowledge(SERVER);
        }
        2 => {
            talk.close(CLIENT);
            talk.acknowledge(SERVER);
            talk.time += Duration::from_millis(300);
            if random.one_in(4) {
                let from = random.roll(2) as usize;
                talk.probe(random, from);
            }
            talk.close(SERVER);
            talk.acknowledge(CLIENT);
        }
        3 => talk.close_at_once(),
        // A half-close: FIN is in the last request, and the reply follows.
        _ => {
            let request = message(random, 100);
            talk.close_with(CLIENT, &request);
            talk.acknowledge(SERVER);
            talk.send(random, SERVER, &request.to_ascii_uppercase());
            talk.close_with(SERVER, &[]);
            talk.acknowledge(CLIENT);
        }
    }
}

fn ordinary(random: &mut Rng, connection: usize, port: u16, most: u64) -> Talk {
    let mut talk = Talk::new(random, connection, port);
    match random.one_in(8) {
        true => talk.open_at_once(),
        false => talk.open(),
    }
    for _ in 0..random.roll(4) {
        exchange(&mut talk, random, most);
    }
    end(&mut talk, random);
    talk
}

/// The port of the client, or of the first one if there are several.
const PORT: u16 = 40_000;

/// Maximum distance between the sequence numbers of a connection and those of the next one on the
/// same ports for which, if both SYNs are missing, it could be the same connection behind a gap.
const NEAR: u64 = 1 << 20;

/// The shape of two connections of which the second begins within [`NEAR`].
pub const USED_AGAIN_NEARBY: &str = "ports used again, numbers nearby";

/// Builds a connection without data; a probe or a FIN that is dropped may follow the handshake.
fn empty(random: &mut Rng) -> Capture {
    let mut talk = Talk::new(random, 0, PORT);
    talk.open();
    if random.one_in(3) {
        let from = random.roll(2) as usize;
        match random.one_in(2) {
            true => talk.close_at_syn(from),
            false => talk.probe(random, from),
        }
    }
    end(&mut talk, random);
    Capture::of(vec![talk], true, "empty")
}

/// Builds a connection in which only one side sends data, and probes now and then.
fn one_sided(random: &mut Rng, most: u64) -> Capture {
    let mut talk = Talk::new(random, 0, PORT);
    talk.open();
    let from = random.roll(2) as usize;
    for _ in 0..1 + random.roll(3) {
        let bytes = message(random, most);
        talk.send(random, from, &bytes);
        talk.acknowledge(1 - from);
        if random.one_in(3) {
            talk.probe(random, from);
        }
    }
    talk.close(from);
    talk.close(1 - from);
    talk.acknowledge(from);
    Capture::of(vec![talk], false, "one-sided")
}

/// Builds a connection whose first attempt is refused.
fn refused_first(random: &mut Rng, most: u64) -> Capture {
    let mut talk = Talk::new(random, 0, PORT);
    talk.is_refused(random);
    talk.open();
    exchange(&mut talk, random, most);
    end(&mut talk, random);
    let refused = Talk {
        streams: [Vec::new(), Vec::new()],
        packets: Vec::new(),
        ..talk.clone()
    };
    let talks = match talk.connection {
        0 => vec![talk],
        _ => vec![refused, talk],
    };
    Capture::of(talks, true, "refused first")
}

/// Builds two connections between the same ports, one after the other.
fn used_again(random: &mut Rng, most: u64) -> Capture {
    let first = ordinary(random, 0, PORT, most);
    let mut again = Talk::new(random, 1, PORT);
    again.v6 = first.v6;
    again.time = first.time + Duration::from_millis(100 + random.roll(9000));
    let is_near = random.one_in(2);
    for side in [CLIENT, SERVER] {
        let end = first.isn[side].wrapping_add(first.next(side) as u32 + 1);
        let further = match is_near {
            true => random.roll(NEAR),
            false => 10_000_000,
        };
        again.isn[side] = end.wrapping_add(further as u32);
    }
    again.open();
    exchange(&mut again, random, most);
    end(&mut again, random);
    let shape = match is_near {
        true => USED_AGAIN_NEARBY,
        false => "ports used again",
    };
    Capture::of(vec![first, again], true, shape)
}

/// Builds a capture of any shape; `most` is the maximum length of a message in bytes.
pub fn capture(random: &mut Rng, most: u64) -> Capture {
    match random.roll(6) {
        0 => empty(random),
        1 => one_sided(random, most),
        2 => refused_first(random, most),
        3 => used_again(random, most),
        4 => {
            let talks = (0..3).map(|place| ordinary(random, place, PORT + place as u16, most));
            Capture::of(talks.collect(), true, "interleaved")
        }
        _ => Capture::of(vec![ordinary(random, 0, PORT, most)], true, "ordinary"),
    }
}

/// The truth about a connection of which some packets are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Whether any packet is captured.
    pub is_there: bool,
    /// Whether all packets are captured that show that all is well.
    pub is_whole: bool,
    /// Number of bytes of each side that no captured packet contains.
    pub missing: [u64; 2],
    pub has_syn: [bool; 2],
    /// Whether a packet has the number after the SYN, as its own or as its acknowledgment.
    pub follows: [bool; 2],
    pub has_fin: [bool; 2],
    /// Whether everything was acknowledged, including the FIN.
    pub all_acknowledged: [bool; 2],
    pub has_reset: bool,
}

impl Truth {
    pub fn of(packets: &[&Packet], streams: &[Vec<u8>; 2]) -> Truth {
        let mut truth = Truth {
            is_there: !packets.is_empty(),
            ..Truth::default()
        };
        let mut covered = streams.clone().map(|stream| vec![false; stream.len()]);
        let mut acknowledged = [0, 0];
        let (mut shaken, mut accepted) = (false, false);
        for packet in packets {
            let from = packet.from;
            if packet.flags & RST != 0 {
                truth.has_reset = true;
                continue;
            }
            shaken |= accepted && from == CLIENT && packet.flags & ACK != 0;
            truth.has_syn[from] |= packet.flags & SYN != 0;
            truth.has_fin[from] |= packet.flags & FIN != 0;
            accepted |=
                truth.has_syn[CLIENT] && from == SERVER && packet.flags & (SYN | ACK) == SYN | ACK;
            let range = packet.offset as usize..(packet.offset + packet.length) as usize;
            if packet.length > 0 {
                covered[from][range].fill(true);
            }
            truth.follows[from] |= packet.offset == 0 && packet.flags & SYN == 0;
            truth.follows[1 - from] |= packet.acknowledges == Some(0);
            let end = packet.acknowledges.unwrap_or(0);
            acknowledged[1 - from] = end.max(acknowledged[1 - from]);
        }
        for side in [CLIENT, SERVER] {
            truth.missing[side] = covered[side].iter().filter(|there| !**there).count() as u64;
        }
        for side in [CLIENT, SERVER] {
            let end = streams[side].len() as u64 + 1;
            truth.all_acknowledged[side] = acknowledged[side] == end;
        }
        let closed = |side: usize| {
            truth.has_syn[side] && truth.has_fin[side] && truth.all_acknowledged[side]
        };
        truth.is_whole = shaken && truth.missing == [0, 0] && closed(CLIENT) && closed(SERVER);
        truth
    }
}
