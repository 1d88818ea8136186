//! Parses link headers: the first header of each link type, Ethernet types, and the tags between
//! Ethernet and IP. Pure.

use crate::sniff::file::linktype::Link;
use crate::sniff::packet::bytes::{Bytes, Unread, u16_at, u32_at};
use crate::sniff::packet::layer::{Layer, State, Step};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The largest value of Ethernet's type field that is a length and not a type (IEEE 802.3).
const LENGTH_MAX: u16 = 1500;

/// The kinds of virtual networks, for [`State::enter`].
const VLAN: u8 = 1;
const SERVICE: u8 = 2;

/// Parses the first header of a frame.
pub fn link<'a>(link: Link, bytes: Bytes<'a>) -> Result<Step<'a>, Unread> {
    let (layer, length) = match link {
        Link::Ethernet => (Layer::Ethernet, 0),
        Link::NetAnalyzer => (Layer::Ethernet, 4),
        Link::Ip => (Layer::Ip, 0),
        Link::Null => return address_family(bytes),
        Link::Enc => (Layer::Ip, 12),
        // The packet is stored with its header as it was before compression.
        Link::Slip => (Layer::Ip, 16),
        Link::Llc => (Layer::Llc, 0),
        Link::Fddi => (Layer::Llc, 13),
        Link::Mpls => (Layer::Mpls, 0),
        Link::PppOverEthernet => (Layer::Pppoe, 0),
        Link::Ppp => return point_to_point(bytes),
        Link::PppWithDirection => return point_to_point_with_direction(bytes),
        Link::CiscoHdlc => return typed(bytes, 2, 4),
        Link::CiscoHdlcWithDirection => return typed(bytes, 3, 5),
        Link::Cooked => return typed(bytes, 14, 16),
        Link::Cooked2 => return typed(bytes, 0, 20),
        Link::Firewire => return typed(bytes, 16, 18),
        Link::Infiniband => return typed(bytes, 40, 44),
        Link::Pflog => return packet_filter_log(bytes),
        Link::Nflog => return netfilter_log(bytes),
        Link::Ppi => return named(bytes, (2, 2), 4),
        Link::Pktap => return named(bytes, (0, 4), 8),
    };
    Ok(Step::Next(layer, bytes.skip(length, WHAT)?))
}

const WHAT: &str = "the link header";

/// Parses an address family, in the byte order of a BSD host or in network byte order: IPv4 is 2 on
/// all systems, IPv6 has five numbers.
fn address_family(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let (head, rest) = bytes.take(4, WHAT)?;
    let number = u32_at(head, 0);
    match number.min(number.swap_bytes()) {
        2 | 10 | 23 | 24 | 28 | 30 => Ok(Step::Next(Layer::Ip, rest)),
        _ => Err(Unread::NotTcp),
    }
}

/// Parses a header of `length` bytes with an Ethernet type at offset `place`.
fn typed(bytes: Bytes<'_>, place: usize, length: usize) -> Result<Step<'_>, Unread> {
    let (head, rest) = bytes.take(length, WHAT)?;
    // The cooked header of Linux numbers two frame formats of IEEE 802.3 with small values.
    let layer = match u16_at(head, place) {
        4 => Layer::Llc,
        kind if kind <= LENGTH_MAX => return Err(Unread::NotTcp),
        kind => Layer::EtherType(kind),
    };
    Ok(Step::Next(layer, rest))
}

/// Parses PPP, or Cisco HDLC, which has other values where PPP in HDLC-like framing has `ff 03`.
fn point_to_point(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const UNICAST: u8 = 0x0f;
    const BROADCAST: u8 = 0x8f;
    match bytes.peek(0) {
        Some(UNICAST | BROADCAST) => typed(bytes, 2, 4),
        _ => Ok(Step::Next(Layer::Ppp, bytes)),
    }
}

/// Parses PPP with a direction, which is a byte of its own or replaces the address byte.
fn point_to_point_with_direction(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const CONTROL: u8 = 3;
    let length = if bytes.peek(1) == Some(CONTROL) { 2 } else { 1 };
    Ok(Step::Next(Layer::Ppp, bytes.skip(length, WHAT)?))
}

/// Parses a log entry of the BSD packet filter: the length without padding, then the address
/// family.
fn packet_filter_log(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let (head, _) = bytes.take(1, WHAT)?;
    let length = usize::from(head[0]).next_multiple_of(4);
    Ok(Step::Next(Layer::Ip, bytes.skip(length, WHAT)?))
}

/// Parses a log entry of netfilter, which is a list of attributes. Their lengths and types are in
/// the byte order of the host that captured, which the header does not name, so both orders are
/// tried: in the wrong one, the attributes do not fit the packet.
fn netfilter_log(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const HEAD: usize = 4;
    let rest = bytes.skip(HEAD, WHAT)?;
    let read = nflog_payload(rest, u16::from_le_bytes);
    let payload = read.or_else(|| nflog_payload(rest, u16::from_be_bytes));
    let Some(payload) = payload else {
        let why = "the netfilter log entry contains no packet".to_string();
        return Err(if bytes.is_cut() {
            Unread::Cut
        } else {
            Unread::Malformed(why)
        });
    };
    match payload.peek(0).map(|first| first >> 4) {
        Some(4 | 6) => Ok(Step::Next(Layer::Ip, payload)),
        _ => Err(Unread::NotTcp),
    }
}

fn nflog_payload(bytes: Bytes<'_>, order: fn([u8; 2]) -> u16) -> Option<Bytes<'_>> {
    const PAYLOAD: u16 = 9;
    const KINDS: u16 = 64;
    let mut rest = bytes;
    while !rest.captured.is_empty() {
        let (head, value) = rest.take(4, WHAT).ok()?;
        let length = usize::from(order([head[0], head[1]]));
        let kind = order([head[2], head[3]]);
        if length < 4 || length > rest.on_wire || kind >= KINDS {
            return None;
        }
        if kind == PAYLOAD {
            return Some(value.limit(length - 4));
        }
        rest = rest.skip(length.next_multiple_of(4), WHAT).ok()?;
    }
    None
}

/// Parses a little-endian header that contains its own length, and the link type of the frame that
/// follows it.
fn named(
    bytes: Bytes<'_>,
    (place, size): (usize, usize),
    link_place: usize,
) -> Result<Step<'_>, Unread> {
    let (head, _) = bytes.take(link_place + 4, WHAT)?;
    let field = |place: usize, size: usize| {
        let bytes = head[place..place + size].iter().rev();
        bytes.fold(0, |number, byte| (number << 8) | u32::from(*byte))
    };
    let (length, number) = (field(place, size) as usize, field(link_place, 4));
    let rest = bytes.skip(length.max(link_place + 4), WHAT)?;
    match Link::from_number(number) {
        // A header that names a link type is not nested in another one.
        None | Some(Link::Ppi | Link::Pktap) => {
            Err(Unread::NotDissected("frames of an unsupported link type"))
        }
        Some(inner) => link(inner, rest),
    }
}

/// Parses Ethernet: two addresses, then a type, or the length of what follows in IEEE 802.2.
pub fn ethernet(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let (head, rest) = bytes.take(14, "an Ethernet header")?;
    let kind = u16_at(head, 12);
    if kind > LENGTH_MAX {
        return Ok(Step::Next(Layer::EtherType(kind), rest));
    }
    let rest = rest.limit(usize::from(kind));
    Ok(Step::Next(Layer::Llc, rest))
}

/// Parses the header that an Ethernet type names.
pub fn ether_type<'a>(kind: u16, bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let layer = match kind {
        IPV4 | IPV6 => Layer::Ip,
        0x8100 | 0x88a8 | 0x9100 | 0x9200 => return tag(bytes, state),
        0x8847 | 0x8848 => Layer::Mpls,
        0x8864 => Layer::Pppoe,
        0x880b => Layer::Ppp,
        0x6558 => Layer::Ethernet,
        0x8870 => Layer::Llc,
        0x88e7 => return provider_backbone(bytes, state),
        // VN-tag, IEEE 802.1BR; HSR, IEC 62439-3: four bytes, then the type.
        0x8926 | 0x892f => return shim(bytes, 4),
        // Cisco metadata: version, length, an option of 4 bytes, then the type.
        0x8909 => return shim(bytes, 6),
        0x894f => return service_function(bytes),
        0x88e5 => return Err(Unread::NotDissected("MACsec")),
        0x8903 => return Err(Unread::NotDissected("FabricPath")),
        0x22f3 => return Err(Unread::NotDissected("TRILL")),
        0x4305 => return Err(Unread::NotDissected("batman-adv")),
        0x876b => return Err(Unread::NotDissected("TCP/IP compression (VJ)")),
        0xdada => return Err(Unread::NotDissected("a tag of an Ethernet switch (EDSA)")),
        _ => return Err(Unread::NotTcp),
    };
    Ok(Step::Next(layer, bytes))
}

/// Parses a tag of `length` bytes that is followed by an Ethernet type.
fn shim(bytes: Bytes<'_>, length: usize) -> Result<Step<'_>, Unread> {
    let (head, rest) = bytes.take(length + 2, "a tag")?;
    type_or_length(u16_at(head, length), rest)
}

fn type_or_length(kind: u16, rest: Bytes<'_>) -> Result<Step<'_>, Unread> {
    if kind > LENGTH_MAX {
        return Ok(Step::Next(Layer::EtherType(kind), rest));
    }
    Ok(Step::Next(Layer::Llc, rest.limit(usize::from(kind))))
}

/// Parses the tag of a VLAN (IEEE 802.1Q): priority and number, then another type.
fn tag<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, rest) = bytes.take(4, "a VLAN tag")?;
    // Number 0 is a priority without a VLAN.
    match u32::from(u16_at(head, 0) & 0x0fff) {
        0 => {}
        number => state.enter(VLAN, number),
    }
    type_or_length(u16_at(head, 2), rest)
}

/// Parses the tag of IEEE 802.1ah: the number of a service, then the customer's whole frame.
fn provider_backbone<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, rest) = bytes.take(4, "a service tag")?;
    state.enter(SERVICE, u32_at(head, 0) & 0x00ff_ffff);
    Ok(Step::Next(Layer::Ethernet, rest))
}

/// Parses NSH (RFC 8300): its length in words of four bytes, and its own protocol numbers.
fn service_function(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "a network service header";
    let (head, _) = bytes.take(8, WHAT)?;
    let rest = bytes.skip(usize::from(u16_at(head, 0) & 0x3f) * 4, WHAT)?;
    next_protocol(head[3], rest)
}

/// Returns the header that a protocol number names in NSH and in the generic extension of VXLAN,
/// which share these numbers.
pub fn next_protocol(number: u8, rest: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let layer = match number {
        1 | 2 => Layer::Ip,
        3 => Layer::Ethernet,
        4 => Layer::EtherType(0x894f),
        5 => Layer::Mpls,
        _ => return Err(Unread::NotTcp),
    };
    Ok(Step::Next(layer, rest))
}

/// Parses IEEE 802.2: two access points and a control byte. In SNAP, an organization and a type
/// follow.
pub fn llc(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const SNAP: u8 = 0xaa;
    const IP: u8 = 0x06;
    const UNNUMBERED: u8 = 0x03;
    let (head, rest) = bytes.take(3, "an LLC header")?;
    match *head {
        [SNAP, SNAP, UNNUMBERED] => snap(rest),
        [IP, IP, UNNUMBERED] => Ok(Step::Next(Layer::Ip, rest)),
        _ => Err(Unread::NotTcp),
    }
}

fn snap(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "a SNAP header";
    let (head, rest) = bytes.take(5, WHAT)?;
    let kind = u16_at(head, 3);
    match (&head[..3], kind) {
        // Ethernet types, also of bridged frames (RFC 1042, IEEE 802.1H).
        ([0, 0, 0] | [0, 0, 0xf8], kind) => Ok(Step::Next(Layer::EtherType(kind), rest)),
        // Bridged Ethernet in ATM, RFC 2684: two bytes of padding first.
        ([0, 0x80, 0xc2], 1 | 7) => Ok(Step::Next(Layer::Ethernet, rest.skip(2, WHAT)?)),
        _ => Err(Unread::NotTcp),
    }
}
