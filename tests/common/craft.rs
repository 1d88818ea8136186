//! Builds TCP/IP packets, the packets of whole connections, and capture files of any length.

use std::time::Duration;

use upcase::sniff::file::Writer;

/// The fields of a TCP segment between the client and the server; its IPv4 packet has no checksums.
#[derive(Clone, Copy, Debug)]
pub struct Crafted {
    pub from_client: bool,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub length: usize,
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

pub fn craft(client_port: u16, segment: Crafted) -> Vec<u8> {
    let options: &[u8] = match segment.flags & SYN {
        0 => &[],
        _ => &[2, 4, 0x05, 0xb4, 3, 3, 2, 0], // MSS 1460, window scale 2.
    };
    let headers = 40 + options.len();
    let mut ip = vec![0x45, 0];
    ip.extend(((headers + segment.length) as u16).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    let (client, server) = ([10, 77, 0, 2], [10, 77, 0, 1]);
    let mut ports = [client_port.to_be_bytes(), 12000_u16.to_be_bytes()];
    if segment.from_client {
        ip.extend([client, server].concat());
    } else {
        ip.extend([server, client].concat());
        ports.reverse();
    }
    ip.extend(ports.concat());
    ip.extend(segment.seq.to_be_bytes());
    ip.extend(segment.ack.to_be_bytes());
    ip.extend([(((20 + options.len()) / 4) << 4) as u8, segment.flags]);
    ip.extend(segment.window.to_be_bytes());
    ip.extend([0; 4]);
    ip.extend(options);
    ip.resize(headers + segment.length, b'X');
    ip
}

/// The packets of one connection in order. Sequence numbers advance automatically, and each packet
/// acknowledges everything that the peer has sent before.
#[derive(Clone, Debug)]
pub struct Talk {
    client_port: u16,
    /// The next sequence numbers of client and server.
    next: [u32; 2],
    pub packets: Vec<Vec<u8>>,
}

impl Talk {
    /// Begins with a handshake, whose SYNs have these sequence numbers.
    pub fn open(client_port: u16, client: u32, server: u32) -> Talk {
        let mut talk = Talk {
            client_port,
            next: [client, server],
            packets: Vec::new(),
        };
        talk.put(true, SYN, (client, 0), 0);
        talk.next[0] = client.wrapping_add(1);
        talk.say(false, SYN | ACK, 0);
        talk.say(true, ACK, 0);
        talk
    }

    /// Adds the next segment of one side.
    pub fn say(&mut self, from_client: bool, flags: u8, length: usize) {
        let (me, peer) = if from_client { (0, 1) } else { (1, 0) };
        let (seq, ack) = (self.next[me], self.next[peer]);
        self.put(from_client, flags, (seq, ack), length);
        let span = length as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next[me] = seq.wrapping_add(span);
    }

    /// Adds any segment; the sequence numbers do not advance.
    pub fn put(&mut self, from_client: bool, flags: u8, (seq, ack): (u32, u32), length: usize) {
        let segment = Crafted {
            from_client,
            flags,
            seq,
            ack,
            window: 1000,
            length,
        };
        self.packets.push(craft(self.client_port, segment));
    }

    /// Adds an orderly close, which the client begins.
    pub fn close(&mut self) {
        self.say(true, FIN | ACK, 0);
        self.say(false, FIN | ACK, 0);
        self.say(true, ACK, 0);
    }
}

/// Returns a pcapng file with so many packets: short echo connections without any fault, many of
/// them at the same time.
pub fn capture_of(packets: usize) -> Vec<u8> {
    const AT_A_TIME: usize = 100;
    const EXCHANGES: u32 = 10;
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, 101, "wire").expect("memory can be written");
    let mut time = Duration::from_secs(1_800_000_000);
    let mut count = 0;
    let mut first_port = 0;
    'file: loop {
        let conversations: Vec<Vec<Vec<u8>>> = (first_port..first_port + AT_A_TIME)
            .map(|port| conversation(1024 + (port % 60_000) as u16, port as u32, EXCHANGES))
            .collect();
        first_port += AT_A_TIME;
        for place in 0..conversations[0].len() {
            for conversation in &conversations {
                time += Duration::from_micros(10);
                writer
                    .write(time, &conversation[place])
                    .expect("memory can be written");
                count += 1;
                if count == packets {
                    break 'file;
                }
            }
        }
        // `sniff` prints an ended connection when the time for late packets is over.
        time += Duration::from_secs(1);
    }
    file
}

/// Returns the packets of a handshake, exchanges of 64 bytes and an orderly close.
fn conversation(port: u16, base: u32, exchanges: u32) -> Vec<Vec<u8>> {
    let (client, server) = (base.wrapping_mul(7919), base.wrapping_mul(104_729));
    let mut talk = Talk::open(port, client, server);
    for _ in 0..exchanges {
        talk.say(true, PSH | ACK, 64);
        talk.say(false, PSH | ACK, 64);
        talk.say(true, ACK, 0);
    }
    talk.close();
    talk.packets
}
