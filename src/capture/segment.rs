//! Bytes to fields: what one captured frame says, if it is a TCP segment. Pure.
//!
//! Headers are read by etherparse, leniently: a capture may have cut the payload off, and then the
//! lengths of the headers still tell how much there was. A length that lies is a fault, and so is
//! a header that was cut.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

/// What a frame begins with, by its number in a capture file (LINKTYPE_*, tcpdump.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, LINKTYPE_ETHERNET; Linux' loopback looks like it.
    Ethernet,
    /// Linux cooked capture, LINKTYPE_LINUX_SLL.
    Cooked,
    /// Linux cooked capture, version 2, LINKTYPE_LINUX_SLL2.
    Cooked2,
    /// The IP header at once, LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6.
    Ip,
    /// Four bytes and the IP header: LINKTYPE_NULL and LINKTYPE_LOOP, the loopback of BSD.
    Null,
}

impl Link {
    /// The link type of this number; `None` when its frames cannot be read.
    pub fn from_number(number: i32) -> Option<Link> {
        match number {
            1 => Some(Link::Ethernet),
            113 => Some(Link::Cooked),
            276 => Some(Link::Cooked2),
            // 12 and 14 are the numbers of raw IP on some systems.
            12 | 14 | 101 | 228 | 229 => Some(Link::Ip),
            0 | 108 => Some(Link::Null),
            _ => None,
        }
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// Who is to get it.
    pub target: SocketAddr,
    /// The number of its first byte, or of its SYN.
    pub seq: u32,
    /// The number of the byte that its sender expects next; meaningful with ACK.
    pub ack: u32,
    /// SYN, ACK and so on.
    pub flags: Flags,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// Bytes of payload on the wire.
    pub length: u32,
    /// The payload as far as it was captured.
    pub payload: &'a [u8],
    /// What the options say.
    pub options: Options,
}

impl Segment<'_> {
    /// How many sequence numbers it takes: its payload, and one each for SYN and FIN.
    pub fn span(&self) -> u32 {
        let mark = |flag| u32::from(self.flags.has(flag));
        self.length
            .wrapping_add(mark(Flags::SYN))
            .wrapping_add(mark(Flags::FIN))
    }
}

/// The flags of a TCP header (RFC 9293, RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment is meaningful.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is meaningful.
    pub const URG: Flags = Flags(0x20);
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// The flags of a header's byte 13.
    pub fn from_bits(bits: u8) -> Flags {
        Flags(bits)
    }

    /// Whether any of these is set.
    pub fn has(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    /// Their names, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            let name = Flags::NAMES.get(bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
            name.copied()
        })
    }

    /// These and those.
    pub fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }
}

/// The options that matter here (RFC 9293, RFC 7323, RFC 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, on SYNs.
    pub mss: Option<u16>,
    /// The shift of the window, on SYNs; at most 14.
    pub window_scale: Option<u8>,
    /// Selective acknowledgments are welcome, on SYNs.
    pub sack_permitted: bool,
    /// The sender's clock, and the peer's as last seen.
    pub timestamps: Option<(u32, u32)>,
    /// Ranges that have come beyond the acknowledgment: first byte and the one after the last.
    pub sack: [Option<(u32, u32)>; 4],
}

/// Why a frame gives no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Another protocol: no matter here.
    NotTcp,
    /// A part of an IP packet; parts are not put together.
    Fragment,
    /// The capture ends within the headers.
    Cut,
    /// The headers contradict themselves or the frame.
    Malformed(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::NotTcp => write!(f, "not TCP"),
            Unread::Fragment => write!(f, "a fragment of an IP packet, which is not put together"),
            Unread::Cut => write!(f, "its headers are cut off (snap length)"),
            Unread::Malformed(why) => write!(f, "malformed: {why}"),
        }
    }
}

/// Reads a frame. `on_wire`: how long it was before the capture cut it.
pub fn parse(link: Link, frame: &[u8], on_wire: usize) -> Result<Segment<'_>, Unread> {
    let ip = strip_link(link, frame)?;
    let ip_on_wire = on_wire.max(frame.len()) - (frame.len() - ip.len());
    let cut = ip.len() < ip_on_wire;
    let fault = |why: String| {
        if cut {
            Unread::Cut
        } else {
            Unread::Malformed(why)
        }
    };
    let packet = LaxSlicedPacket::from_ip(ip).map_err(|error| fault(error.to_string()))?;
    let net = packet.net.as_ref().ok_or(Unread::NotTcp)?;
    let (addresses, ip_length, payload) = match net {
        LaxNetSlice::Ipv4(v4) => {
            let header = v4.header();
            let addresses = (
                IpAddr::V4(header.source_addr()),
                IpAddr::V4(header.destination_addr()),
            );
            (addresses, usize::from(header.total_len()), v4.payload())
        }
        LaxNetSlice::Ipv6(v6) => {
            let header = v6.header();
            let addresses = (
                IpAddr::V6(header.source_addr()),
                IpAddr::V6(header.destination_addr()),
            );
            let length = match header.payload_length() {
                0 => 0,
                length => usize::from(length) + header.slice().len(),
            };
            (addresses, length, v6.payload())
        }
        LaxNetSlice::Arp(_) => return Err(Unread::NotTcp),
    };
    if payload.ip_number != etherparse::IpNumber::TCP {
        return Err(Unread::NotTcp);
    }
    if payload.fragmented {
        return Err(Unread::Fragment);
    }
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        let why = packet.stop_err.map(|(error, _)| error.to_string());
        return Err(fault(why.unwrap_or_else(|| "no TCP header".to_string())));
    };
    // A length of 0 is a packet larger than the field can say: the offload of the sender's kernel.
    let ip_length = if ip_length == 0 {
        ip_on_wire
    } else {
        ip_length
    };
    if ip_length > ip_on_wire {
        let why = format!("IP speaks of {ip_length} bytes, and there are {ip_on_wire}");
        return Err(Unread::Malformed(why));
    }
    let headers = tcp.slice().as_ptr() as usize - ip.as_ptr() as usize + tcp.header_slice().len();
    let length = ip_length
        .checked_sub(headers)
        .ok_or_else(|| Unread::Malformed("the TCP header is longer than its packet".to_string()))?;
    Ok(segment(addresses, tcp, length))
}

fn segment<'a>((from, to): (IpAddr, IpAddr), tcp: &TcpSlice<'a>, length: usize) -> Segment<'a> {
    let payload = tcp.payload();
    Segment {
        source: SocketAddr::new(from, tcp.source_port()),
        target: SocketAddr::new(to, tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: Flags(tcp.header_slice()[13]),
        window: tcp.window_size(),
        length: length as u32,
        payload: &payload[..payload.len().min(length)],
        options: options(tcp),
    }
}

/// What can be read of the options: a faulty one ends the list, as it does for a receiver.
fn options(tcp: &TcpSlice<'_>) -> Options {
    let mut options = Options::default();
    for option in tcp.options_iterator().map_while(Result::ok) {
        match option {
            TcpOptionElement::MaximumSegmentSize(mss) => options.mss = Some(mss),
            // RFC 7323, section 2.3: a larger shift is read as 14.
            TcpOptionElement::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
            TcpOptionElement::SelectiveAcknowledgementPermitted => options.sack_permitted = true,
            TcpOptionElement::Timestamp(value, echo) => options.timestamps = Some((value, echo)),
            TcpOptionElement::SelectiveAcknowledgement(first, [a, b, c]) => {
                options.sack = [Some(first), a, b, c];
            }
            TcpOptionElement::Noop => {}
        }
    }
    options
}

/// What follows the link's header, if it is IP.
fn strip_link(link: Link, frame: &[u8]) -> Result<&[u8], Unread> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    let (mut ether_type, mut start) = match link {
        Link::Ethernet => (Some(12), 14),
        Link::Cooked => (Some(14), 16),
        Link::Cooked2 => (Some(0), 20),
        Link::Ip => (None, 0),
        Link::Null => (None, 4),
    };
    while let Some(place) = ether_type {
        let bytes = frame.get(place..place + 2).ok_or(Unread::Cut)?;
        match u16::from_be_bytes([bytes[0], bytes[1]]) {
            IPV4 | IPV6 => ether_type = None,
            // IEEE 802.1Q and 802.1ad: the tag, then the type again.
            0x8100 | 0x88a8 | 0x9100 => {
                ether_type = Some(start + 2);
                start += 4;
            }
            _ => return Err(Unread::NotTcp),
        }
    }
    frame
        .get(start..)
        .filter(|ip| !ip.is_empty())
        .ok_or(Unread::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_in_the_order_of_their_bits() {
        for (bits, names) in [
            (0x00, ""),
            (0x02, "SYN"),
            (0x10, "ACK"),
            (0x11, "FIN,ACK"),
            (0x12, "SYN,ACK"),
            (0x14, "RST,ACK"),
            (0x18, "PSH,ACK"),
            (0xff, "FIN,SYN,RST,PSH,ACK,URG,ECE,CWR"),
        ] {
            let told: Vec<&str> = Flags::from_bits(bits).names().collect();
            assert_eq!(told.join(","), names);
        }
    }
}
