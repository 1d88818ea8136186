//! Builds frames: a short TCP connection, and an IP packet in every link type and tunnel that
//! `sniff` decodes.

use super::craft::{ACK, PSH, Talk};

/// Returns the packets of a short echo connection without faults: a handshake, one message and its
/// reply, an orderly close.
pub fn talk(client_port: u16) -> Vec<Vec<u8>> {
    let mut talk = Talk::open(client_port, 1000, 5000);
    talk.say(true, PSH | ACK, 50);
    talk.say(false, PSH | ACK, 50);
    talk.say(true, ACK, 0);
    talk.close();
    talk.packets
}

/// An encapsulation of an IP packet: its name, the link type of the frame, and how to build it.
pub struct Wrap {
    pub name: &'static str,
    pub link: u16,
    pub wrap: fn(&[u8]) -> Vec<u8>,
    /// Whether tshark, with its defaults, finds the segment too.
    pub tshark: bool,
}

impl Wrap {
    /// Returns whether the encapsulation can carry an IPv6 packet as well.
    pub fn carries_ipv6(&self) -> bool {
        !["minimal encapsulation", "AH of TCP"].contains(&self.name)
    }
}

/// Returns the EtherType of an IP packet.
fn kind(ip: &[u8]) -> [u8; 2] {
    if ip[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    }
}

/// Returns the protocol number of an IP packet as the payload of another one.
fn number(ip: &[u8]) -> u8 {
    if ip[0] >> 4 == 4 { 4 } else { 41 }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

const ADDRESSES: [u8; 12] = [2, 10, 77, 0, 0, 1, 2, 10, 77, 0, 0, 2];

/// Builds an Ethernet frame.
pub fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    join(&[&ADDRESSES, &kind, payload])
}

/// Builds an Ethernet frame with an IP packet.
pub fn plain(ip: &[u8]) -> Vec<u8> {
    ethernet(kind(ip), ip)
}

/// Builds an IPv4 packet between two routers.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    ip.extend(payload);
    ip
}

/// Builds an IPv6 packet between two routers.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    for last in [1, 2] {
        ip.extend([
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]);
    }
    ip.extend(payload);
    ip
}

/// Builds a UDP datagram without a checksum.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    join(&[
        &from.to_be_bytes(),
        &to.to_be_bytes(),
        &length.to_be_bytes(),
        &[0, 0],
        payload,
    ])
}

/// Returns the segment of an IPv4 packet in an IPv6 packet.
pub fn to_ipv6(ip: &[u8]) -> Vec<u8> {
    let mut other = ipv6(6, &ip[20..]);
    (other[23], other[39]) = (ip[15], ip[19]);
    other
}

/// Inserts a header between the IPv6 header and that of TCP; its first byte is the next protocol's
/// number.
fn with_extension(ip: &[u8], number: u8, header: &[u8]) -> Vec<u8> {
    let mut other = ip.to_vec();
    other[6] = number;
    other.splice(40..40, header.iter().copied());
    let length = (other.len() - 40) as u16;
    other[4..6].copy_from_slice(&length.to_be_bytes());
    other
}

/// Builds a frame with an IPv6 extension header. An IPv4 packet is converted to IPv6 first, since
/// it cannot have such a header.
fn in_ipv6(ip: &[u8], number: u8, header: &[u8]) -> Vec<u8> {
    let ip = if ip[0] >> 4 == 4 {
        to_ipv6(ip)
    } else {
        ip.to_vec()
    };
    plain(&with_extension(&ip, number, header))
}

/// Adds a routing header of this type. Its route ends at the packet's destination, while the header
/// of the packet has the address of another hop.
fn with_route(ip: &[u8], kind: u8) -> Vec<u8> {
    let ip = if ip[0] >> 4 == 4 {
        to_ipv6(ip)
    } else {
        ip.to_vec()
    };
    let (target, mut hop) = (ip[24..40].to_vec(), ip.clone());
    let other = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99];
    hop[24..40].copy_from_slice(&other);
    // Segment routing lists the last segment first.
    let header = match kind {
        4 => join(&[&[6, 4, 4, 1, 1, 0, 0, 0], &target, &other]),
        _ => join(&[&[6, 4, kind, 1, 0, 0, 0, 0], &other, &target]),
    };
    plain(&with_extension(&hop, 43, &header))
}

fn with_source_route(ip: &[u8], option: u8) -> Vec<u8> {
    let ip = if ip[0] >> 4 == 4 {
        ip.to_vec()
    } else {
        return plain(ip);
    };
    let mut other = ip.clone();
    let target = ip[16..20].to_vec();
    other[19] = 99;
    other[0] = 0x48;
    let route = join(&[&[1, option, 11, 4, 10, 77, 0, 98], &target]);
    other.splice(20..20, route);
    let length = other.len() as u16;
    other[2..4].copy_from_slice(&length.to_be_bytes());
    plain(&other)
}

fn vxlan(ip: &[u8], port: u16) -> Vec<u8> {
    let frame = join(&[&[8, 0, 0, 0, 0, 0, 42, 0], &plain(ip)]);
    plain(&ipv4(17, &udp(40_000, port, &frame)))
}

fn snap(ip: &[u8]) -> Vec<u8> {
    join(&[&[0xaa, 0xaa, 3, 0, 0, 0], &kind(ip), ip])
}

fn with_length(payload: &[u8]) -> Vec<u8> {
    ethernet((payload.len() as u16).to_be_bytes(), payload)
}

fn ppp(ip: &[u8]) -> Vec<u8> {
    let protocol = if ip[0] >> 4 == 4 { 0x21 } else { 0x57 };
    join(&[&[0, protocol], ip])
}

fn pppoe(ip: &[u8]) -> Vec<u8> {
    let ppp = ppp(ip);
    join(&[&[0x11, 0, 0, 7], &(ppp.len() as u16).to_be_bytes(), &ppp])
}

fn gre(flags: [u8; 2], kind: [u8; 2], fields: &[u8], payload: &[u8]) -> Vec<u8> {
    plain(&ipv4(47, &join(&[&flags, &kind, fields, payload])))
}

fn gtp(flags: u8, extension: &[u8], ip: &[u8]) -> Vec<u8> {
    let length = ((extension.len() + ip.len()) as u16).to_be_bytes();
    let payload = join(&[&[flags, 255], &length, &[0, 0, 0, 9], extension, ip]);
    plain(&ipv4(17, &udp(2152, 2152, &payload)))
}

fn nflog(ip: &[u8], order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let family = if ip[0] >> 4 == 4 { 2 } else { 10 };
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = join(&[&order(4 + value.len() as u16), &order(kind), value]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let mut frame = vec![family, 0, 0, 5];
    frame.extend(attribute(1, &[8, 0, 1, 0])); // Packet header.
    frame.extend(attribute(10, b"prefix\0"));
    frame.extend(attribute(9, ip));
    // The padding after the last attribute is left out.
    frame.truncate(frame.len() - (ip.len().next_multiple_of(4) - ip.len()));
    frame
}

fn ppi(ip: &[u8]) -> Vec<u8> {
    join(&[&[0, 0, 8, 0, 1, 0, 0, 0], &plain(ip)])
}

fn pktap(ip: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 108];
    (header[0], header[4], header[8]) = (108, 1, 1);
    join(&[&header, &plain(ip)])
}

fn l2tp(flags: [u8; 2], fields: &[u8], ip: &[u8]) -> Vec<u8> {
    let payload = join(&[&flags, fields, &[0xff, 3], &ppp(ip)]);
    plain(&ipv4(17, &udp(1701, 1701, &payload)))
}

/// Builds several tunnels, one within the other.
fn nested(ip: &[u8]) -> Vec<u8> {
    let vxlan = vxlan(ip, 4789);
    let tagged = ethernet([0x81, 0], &join(&[&[0, 7], &vxlan[12..]]));
    let gre = join(&[&[0x20, 0, 0x65, 0x58, 0, 0, 5, 0], &tagged]);
    let inner = ipv6(47, &gre);
    let outer = ipv4(41, &inner);
    join(&[
        &ADDRESSES,
        &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x88, 0x47],
        &[0, 1, 1, 64],
        &outer,
    ])
}

macro_rules! wraps {
    ($($link:literal $tshark:literal $name:literal $wrap:expr;)*) => {
        [$(Wrap { name: $name, link: $link, wrap: $wrap, tshark: $tshark != 0 }),*]
    };
}

/// All encapsulations: link type, whether it is compared with tshark (1) or not (0), name, builder.
pub const WRAPS: [Wrap; 72] = wraps! {
    1 1 "Ethernet" plain;
    1 1 "VLAN" |ip| ethernet([0x81, 0], &join(&[&[0, 7], &kind(ip), ip]));
    1 1 "QinQ" |ip| ethernet([0x88, 0xa8], &join(&[&[0, 7, 0x81, 0, 0, 8], &kind(ip), ip]));
    1 1 "LLC and SNAP" |ip| with_length(&snap(ip));
    1 1 "VLAN, LLC and SNAP" |ip| {
        let length = ((ip.len() + 8) as u16).to_be_bytes();
        ethernet([0x81, 0], &join(&[&[0, 7], &length, &snap(ip)]))
    };
    1 1 "padding" |ip| join(&[&plain(ip), &[0; 9]]);
    1 1 "one label" |ip| ethernet([0x88, 0x47], &join(&[&[0, 1, 1, 64], ip]));
    1 1 "three labels" |ip| {
        ethernet([0x88, 0x48], &join(&[&[0, 1, 0, 64, 0, 2, 0, 64, 0, 3, 0x41, 64], ip]))
    };
    1 1 "pseudowire with a control word" |ip| {
        ethernet([0x88, 0x47], &join(&[&[0, 1, 1, 64, 0, 0, 0, 9], &plain(ip)]))
    };
    1 0 "pseudowire" |ip| ethernet([0x88, 0x47], &join(&[&[0, 1, 1, 64], &plain(ip)]));
    1 1 "PPPoE" |ip| ethernet([0x88, 0x64], &pppoe(ip));
    1 1 "service tag" |ip| ethernet([0x88, 0xe7], &join(&[&[0, 0, 0, 9], &plain(ip)]));
    1 1 "HSR" |ip| ethernet([0x89, 0x2f], &join(&[&[0, 40, 0, 1], &kind(ip), ip]));
    1 1 "GRE" |ip| gre([0, 0], kind(ip), &[], ip);
    1 1 "GRE with all fields" |ip| {
        gre([0xb0, 0], kind(ip), &[0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1], ip)
    };
    1 1 "NVGRE" |ip| gre([0x20, 0], [0x65, 0x58], &[0, 0, 5, 0], &plain(ip));
    1 1 "GRE with Ethernet" |ip| gre([0, 0], [0x65, 0x58], &[], &plain(ip));
    1 1 "PPTP" |ip| {
        let ppp = join(&[&[0xff, 3], &ppp(ip)]);
        let length = (ppp.len() as u16).to_be_bytes();
        let fields = [length[0], length[1], 0, 7, 0, 0, 0, 1];
        gre([0x30, 1], [0x88, 0x0b], &fields, &ppp)
    };
    1 1 "ERSPAN II" |ip| {
        let fields = [0, 0, 0, 1, 0x10, 5, 0, 1, 0, 0, 0, 0];
        gre([0x10, 0], [0x88, 0xbe], &fields, &plain(ip))
    };
    1 1 "GRE with MPLS" |ip| gre([0, 0], [0x88, 0x47], &[0, 1, 1, 64], ip);
    1 1 "IP in IPv4" |ip| plain(&ipv4(number(ip), ip));
    1 1 "IP in IPv6" |ip| plain(&ipv6(number(ip), ip));
    1 1 "IP in IP in IP" |ip| plain(&ipv4(4, &ipv4(41, &ipv6(number(ip), ip))));
    1 0 "minimal encapsulation" |ip| {
        let addresses = [&ip[16..20], &ip[12..16]].concat();
        plain(&ipv4(55, &join(&[&[6, 0x80, 0, 0], &addresses, &ip[20..]])))
    };
    1 1 "AH" |ip| plain(&ipv4(51, &join(&[&[number(ip), 4], &[0; 22], ip])));
    1 1 "AH of TCP" |ip| {
        let mut other = ip.to_vec();
        other[9] = 51;
        other.splice(20..20, join(&[&[6, 4], &[0; 22]]));
        let length = (other.len() as u16).to_be_bytes();
        other[2..4].copy_from_slice(&length);
        plain(&other)
    };
    1 1 "EtherIP" |ip| plain(&ipv4(97, &join(&[&[0x30, 0], &plain(ip)])));
    1 1 "MPLS in IP" |ip| plain(&ipv4(137, &join(&[&[0, 1, 1, 64], ip])));
    1 1 "Ethernet in IPv6" |ip| plain(&ipv6(143, &plain(ip)));
    1 1 "VXLAN" |ip| vxlan(ip, 4789);
    1 0 "VXLAN of Linux" |ip| vxlan(ip, 8472);
    1 1 "VXLAN-GPE" |ip| {
        let next = if ip[0] >> 4 == 4 { 1 } else { 2 };
        let payload = join(&[&[0x0c, 0, 0, next, 0, 0, 42, 0], ip]);
        plain(&ipv4(17, &udp(40_000, 4790, &payload)))
    };
    1 1 "Geneve" |ip| {
        let header = [2, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 3, 1, 0, 0, 0, 0];
        plain(&ipv6(17, &udp(40_000, 6081, &join(&[&header, &plain(ip)]))))
    };
    1 1 "Geneve with IP" |ip| {
        let payload = join(&[&[0, 0], &kind(ip), &[0, 0, 42, 0], ip]);
        plain(&ipv4(17, &udp(40_000, 6081, &payload)))
    };
    1 1 "GTP-U" |ip| gtp(0x30, &[], ip);
    1 1 "GTP-U with a number" |ip| gtp(0x32, &[0, 1, 0, 0], ip);
    1 1 "GTP-U with extensions" |ip| gtp(0x34, &[0, 0, 0, 0x85, 1, 0x10, 9, 0], ip);
    1 1 "MPLS in UDP" |ip| plain(&ipv4(17, &udp(50_000, 6635, &join(&[&[0, 1, 1, 64], ip]))));
    1 1 "GRE in UDP" |ip| plain(&ipv4(17, &udp(50_000, 4754, &join(&[&[0, 0], &kind(ip), ip]))));
    1 1 "LISP" |ip| plain(&ipv4(17, &udp(50_000, 4341, &join(&[&[0; 8], ip]))));
    1 1 "L2TP" |ip| l2tp([0, 2], &[0, 1, 0, 2], ip);
    1 1 "L2TP with all fields" |ip| {
        let length = ((14 + 2 + 2 + 2 + ip.len()) as u16).to_be_bytes();
        l2tp([0x4a, 2], &join(&[&length, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 2, 9, 9]]), ip)
    };
    1 1 "Teredo" |ip| {
        let ip = if ip[0] >> 4 == 4 { to_ipv6(ip) } else { ip.to_vec() };
        let head = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        plain(&ipv4(17, &udp(50_000, 3544, &join(&[&head, &ip]))))
    };
    1 1 "hop-by-hop options" |ip| in_ipv6(ip, 0, &[6, 0, 1, 4, 0, 0, 0, 0]);
    1 1 "destination options" |ip| in_ipv6(ip, 60, &[6, 0, 1, 4, 0, 0, 0, 0]);
    1 1 "two extension headers" |ip| {
        in_ipv6(ip, 0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0])
    };
    1 1 "a fragment that is all of it" |ip| in_ipv6(ip, 44, &[6, 0, 0, 0, 0, 0, 0, 1]);
    1 1 "routing header 0" |ip| with_route(ip, 0);
    1 1 "segment routing" |ip| with_route(ip, 4);
    1 1 "loose source route" |ip| with_source_route(ip, 131);
    1 1 "strict source route" |ip| with_source_route(ip, 137);
    1 1 "six headers" nested;
    0 1 "BSD loopback" |ip| join(&[&[if ip[0] >> 4 == 4 { 2 } else { 24 }, 0, 0, 0], ip]);
    108 1 "OpenBSD loopback" |ip| join(&[&[0, 0, 0, if ip[0] >> 4 == 4 { 2 } else { 24 }], ip]);
    8 0 "SLIP" |ip| join(&[&[0; 16], ip]);
    9 1 "PPP" |ip| ppp(ip);
    9 1 "PPP with address and control" |ip| join(&[&[0xff, 3], &ppp(ip)]);
    9 1 "PPP with a short protocol" |ip| join(&[&[0xff, 3], &ppp(ip)[1..]]);
    50 1 "PPP in HDLC" |ip| join(&[&[0xff, 3], &ppp(ip)]);
    50 1 "Cisco HDLC in serial PPP" |ip| join(&[&[0x0f, 0], &kind(ip), ip]);
    51 1 "PPPoE at once" pppoe;
    104 1 "Cisco HDLC" |ip| join(&[&[0x0f, 0], &kind(ip), ip]);
    204 1 "PPP with direction" |ip| join(&[&[1, 0xff, 3], &ppp(ip)]);
    166 0 "PPP of pppd" |ip| join(&[&[1, 3], &ppp(ip)]);
    100 1 "ATM" snap;
    10 1 "FDDI" |ip| join(&[&[0x50], &ADDRESSES, &snap(ip)]);
    219 0 "labels at once" |ip| join(&[&[0, 1, 1, 64], ip]);
    239 1 "NFLOG" |ip| nflog(ip, u16::to_le_bytes);
    239 0 "NFLOG of a big-endian host" |ip| nflog(ip, u16::to_be_bytes);
    192 1 "PPI" ppi;
    258 1 "PKTAP" pktap;
    138 1 "IEEE 1394" |ip| join(&[&[7; 16], &kind(ip), ip]);
};
