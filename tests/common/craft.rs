//! Packets made by hand, and a capture file of as many as are wanted.

use std::time::Duration;

use upcase::capture::file::Writer;

/// A TCP segment in an IPv4 packet between the two hosts; checksums are left out.
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

/// A pcapng file of so many packets: short echo conversations, many at a time, all well.
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
        // Ended conversations are told after their stragglers' time.
        time += Duration::from_secs(1);
    }
    file
}

/// A handshake, exchanges of 64 bytes and an orderly close.
fn conversation(port: u16, base: u32, exchanges: u32) -> Vec<Vec<u8>> {
    const LENGTH: u32 = 64;
    let (client, server) = (base.wrapping_mul(7919), base.wrapping_mul(104_729));
    let mut packets = Vec::new();
    let mut put = |from_client, flags, seq, ack, length| {
        packets.push(craft(
            port,
            Crafted {
                from_client,
                flags,
                seq,
                ack,
                window: 1000,
                length,
            },
        ));
    };
    put(true, SYN, client, 0, 0);
    put(false, SYN | ACK, server, client.wrapping_add(1), 0);
    put(true, ACK, client.wrapping_add(1), server.wrapping_add(1), 0);
    let at = |base: u32, exchange: u32| base.wrapping_add(1 + exchange * LENGTH);
    for exchange in 0..exchanges {
        let (from, back) = (at(client, exchange), at(server, exchange));
        let after = at(client, exchange + 1);
        put(true, PSH | ACK, from, back, LENGTH as usize);
        put(false, PSH | ACK, back, after, LENGTH as usize);
        put(true, ACK, after, at(server, exchange + 1), 0);
    }
    let (client, server) = (at(client, exchanges), at(server, exchanges));
    put(true, FIN | ACK, client, server, 0);
    put(false, FIN | ACK, server, client.wrapping_add(1), 0);
    put(true, ACK, client.wrapping_add(1), server.wrapping_add(1), 0);
    packets
}
