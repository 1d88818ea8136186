//! Parses IPv4, IPv6 with its extension headers, and the headers that IP protocol numbers name.
//! Pure.
//!
//! The addresses of a packet are those of its conversation: while a source route is pending, the
//! destination is the route's last address, not the next hop that the header names (RFC 791, RFC
//! 8200 section 4.4, RFC 8754).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sniff::packet::bytes::{Bytes, Unread, u16_at, u32_at};
use crate::sniff::packet::layer::{Fragment, FragmentKey, Layer, State, Step};
use crate::units::counted;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: &str = "ESP (encrypted)";

/// Parses an IP header, whose first half byte is the version.
pub fn ip<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, _) = bytes.take(1, "an IP header")?;
    state.enter_ip();
    match head[0] >> 4 {
        4 => ipv4(bytes, state),
        6 => ipv6(bytes, state),
        version => Err(Unread::Malformed(format!("unknown IP version {version}"))),
    }
}

/// Cuts `bytes` to the length that a packet's header claims, `claimed`. Records in `state` when
/// that is more than there is.
fn packet<'a>(bytes: Bytes<'a>, claimed: usize, state: &mut State) -> Bytes<'a> {
    if claimed > bytes.on_wire && state.overrun.is_none() {
        state.overrun = Some((claimed, bytes.on_wire));
    }
    bytes.limit(claimed)
}

/// Returns the length of a packet whose length field is 0: the length exceeds the field, since the
/// segmentation offload of the sender's kernel has not cut the packet yet. A frame check sequence
/// is not part of it.
fn length_without_field(bytes: Bytes<'_>, state: &State) -> usize {
    bytes.on_wire.saturating_sub(state.trailer)
}

fn ipv4<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const WHAT: &str = "an IPv4 header";
    let (head, _) = bytes.take(20, WHAT)?;
    let length = usize::from(head[0] & 15) * 4;
    if length < 20 {
        return Err(Unread::Malformed(format!(
            "an IPv4 header of {length} bytes"
        )));
    }
    let claimed = match usize::from(u16_at(head, 2)) {
        0 => length_without_field(bytes, state),
        claimed => claimed,
    };
    if claimed < length {
        let bytes = counted(claimed as u64, "byte");
        let why = format!("the IP header claims {bytes}, less than its own {length}");
        return Err(Unread::Malformed(why));
    }
    let (head, rest) = packet(bytes, claimed, state).take(length, WHAT)?;
    let address = |place| IpAddr::V4(Ipv4Addr::from_bits(u32_at(head, place)));
    let (source, target) = (address(12), address(16));
    state.ends = (source, target);
    if let Some(last) = pending_route(&head[20..]) {
        state.ends.1 = IpAddr::V4(last);
    }
    let (protocol, place) = (head[9], u16_at(head, 6));
    let (offset, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
    if offset == 0 && !more {
        let number = protocol;
        return Ok(Step::Next(Layer::Protocol { number, v6: false }, rest));
    }
    let key = FragmentKey {
        ends: (source, target),
        id: u16_at(head, 4).into(),
        protocol,
        network: state.network,
    };
    fragment(key, (offset, more), protocol, rest, state)
}

/// Returns the last address of a source route that has hops left (RFC 791, section 3.1).
fn pending_route(mut options: &[u8]) -> Option<Ipv4Addr> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    loop {
        let length = match *options {
            [] | [END, ..] | [_] => return None,
            [NO_OPERATION, ..] => 1,
            [_, length, ..] => usize::from(length),
        };
        let (option, rest) = options.split_at_checked(length.max(1))?;
        options = rest;
        if length < 7 || !matches!(option[0], LOOSE | STRICT) {
            if length == 0 {
                return None;
            }
            continue;
        }
        // The pointer counts from 1, and points beyond the end of a route that is used up.
        let is_pending = usize::from(option[2]) + 3 <= length;
        let last = 3 + (length - 3) / 4 * 4 - 4;
        return is_pending.then(|| Ipv4Addr::from_bits(u32_at(option, last)));
    }
}

fn ipv6<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const LENGTH: usize = 40;
    const WHAT: &str = "an IPv6 header";
    let (head, _) = bytes.take(LENGTH, WHAT)?;
    // A length of 0 is that of a jumbogram (RFC 2675).
    let claimed = match usize::from(u16_at(head, 4)) {
        0 => length_without_field(bytes, state),
        payload => payload + LENGTH,
    };
    state.ends = (address6(head, 8), address6(head, 24));
    let rest = packet(bytes, claimed, state).skip(LENGTH, WHAT)?;
    let number = head[6];
    Ok(Step::Next(Layer::Protocol { number, v6: true }, rest))
}

fn address6(bytes: &[u8], place: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[place..place + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// Parses the header that an IP protocol number names.
pub fn protocol<'a>(
    number: u8,
    v6: bool,
    bytes: Bytes<'a>,
    state: &mut State,
) -> Result<Step<'a>, Unread> {
    match number {
        TCP => {
            state.check_lengths()?;
            Ok(Step::Tcp(bytes))
        }
        UDP => Ok(Step::Next(Layer::Udp, bytes)),
        4 | 41 | 94 => Ok(Step::Next(Layer::Ip, bytes)),
        47 => Ok(Step::Next(Layer::Gre, bytes)),
        51 => authentication(v6, bytes),
        55 => minimal(bytes, state),
        // EtherIP, RFC 3378.
        97 => Ok(Step::Next(Layer::Ethernet, bytes.skip(2, "EtherIP")?)),
        137 => Ok(Step::Next(Layer::Mpls, bytes)),
        143 => Ok(Step::Next(Layer::Ethernet, bytes)),
        // Hop-by-hop, destination, mobility, host identity, shim6.
        0 | 60 | 135 | 139 | 140 if v6 => {
            let (head, _) = bytes.take(8, "an IPv6 extension header")?;
            let length = (usize::from(head[1]) + 1) * 8;
            next(head[0], bytes, length)
        }
        43 if v6 => routing(bytes, state),
        44 if v6 => fragment6(bytes, state),
        _ => Err(undissected(number)),
    }
}

/// Returns the header that follows an extension header of `length` bytes.
fn next(number: u8, bytes: Bytes<'_>, length: usize) -> Result<Step<'_>, Unread> {
    let rest = bytes.skip(length, "an IPv6 extension header")?;
    Ok(Step::Next(Layer::Protocol { number, v6: true }, rest))
}

/// Returns the fault for a protocol that is not parsed: `NotDissected` if it may carry TCP, else
/// `NotTcp`.
fn undissected(number: u8) -> Unread {
    Unread::NotDissected(match number {
        50 => ESP,
        53 => "SwIPe (encrypted)",
        56 => "TLSP (encrypted)",
        57 => "SKIP (encrypted)",
        98 => "the encapsulation of RFC 1241",
        99 => "a private encryption (IP protocol 99)",
        108 => "IPComp (compressed)",
        115 => "L2TPv3",
        142 => "ROHC (compressed)",
        _ => return Unread::NotTcp,
    })
}

/// Returns true when the packet may carry TCP, so that its fragments are worth keeping.
fn may_carry_tcp(protocol: u8, v6: bool) -> bool {
    let read = matches!(
        protocol,
        TCP | UDP | 4 | 41 | 47 | 51 | 55 | 94 | 97 | 137 | 143
    );
    let extension = v6 && matches!(protocol, 0 | 43 | 44 | 60 | 135 | 139 | 140);
    read || extension
}

/// Parses an authentication header (RFC 4302). What follows it is not encrypted.
fn authentication(v6: bool, bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "an authentication header";
    let (head, _) = bytes.take(12, WHAT)?;
    let rest = bytes.skip((usize::from(head[1]) + 2) * 4, WHAT)?;
    let number = head[0];
    Ok(Step::Next(Layer::Protocol { number, v6 }, rest))
}

/// Parses a header of minimal encapsulation (RFC 2004), which holds the original addresses.
fn minimal<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const WHAT: &str = "a header of minimal encapsulation";
    let (head, mut rest) = bytes.take(8, WHAT)?;
    let address = |bytes, place| IpAddr::V4(Ipv4Addr::from_bits(u32_at(bytes, place)));
    state.ends.1 = address(head, 4);
    if head[1] & 0x80 != 0 {
        let (source, behind) = rest.take(4, WHAT)?;
        state.ends.0 = address(source, 0);
        rest = behind;
    }
    let number = head[0];
    Ok(Step::Next(Layer::Protocol { number, v6: false }, rest))
}

/// Parses a routing header. While segments are left, the destination is the last of them.
fn routing<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const WHAT: &str = "an IPv6 routing header";
    let (head, _) = bytes.take(8, WHAT)?;
    let (head, _) = bytes.take((usize::from(head[1]) + 1) * 8, WHAT)?;
    let (kind, left) = (head[2], head[3]);
    let last = match kind {
        // Source route (RFC 2460); mobile IPv6 (RFC 6275), which has one address.
        0 | 2 => head.len().checked_sub(16).filter(|place| *place >= 8),
        // Segment routing (RFC 8754): the last segment is the first in the list.
        4 => Some(8).filter(|place| place + 16 <= head.len()),
        _ => None,
    };
    if left > 0 {
        let compressed = (kind == 3).then(|| compressed_route(head, state.ends.1));
        let plain = last.map(|place| address6(head, place));
        if let Some(target) = plain.or(compressed.flatten()) {
            state.ends.1 = target;
        }
    }
    next(head[0], bytes, head.len())
}

/// Returns the last address of a route whose addresses share their beginning with the destination,
/// RFC 6554.
fn compressed_route(head: &[u8], target: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(target) = target else {
        return None;
    };
    let (shared, padding) = (usize::from(head[4] & 15), usize::from(head[5] >> 4));
    let end = head.len().checked_sub(padding)?;
    let start = end.checked_sub(16 - shared).filter(|start| *start >= 8)?;
    let mut octets = target.octets();
    octets[shared..].copy_from_slice(&head[start..end]);
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

fn fragment6<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, rest) = bytes.take(8, "an IPv6 fragment header")?;
    let (number, place) = (head[0], u16_at(head, 2));
    let (offset, more) = (usize::from(place & 0xfff8), place & 1 != 0);
    if offset == 0 && !more {
        return Ok(Step::Next(Layer::Protocol { number, v6: true }, rest));
    }
    let key = FragmentKey {
        ends: state.ends,
        id: u32_at(head, 4),
        protocol: 0,
        network: state.network,
    };
    fragment(key, (offset, more), number, rest, state)
}

fn fragment<'a>(
    key: FragmentKey,
    (offset, more): (usize, bool),
    protocol: u8,
    bytes: Bytes<'a>,
    state: &State,
) -> Result<Step<'a>, Unread> {
    if !may_carry_tcp(protocol, key.ends.0.is_ipv6()) {
        return Err(undissected(protocol));
    }
    state.check_lengths()?;
    let fragment = Fragment {
        key,
        offset,
        more,
        protocol,
    };
    Ok(Step::Fragment(Box::new(fragment), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_route_with_hops_left_ends_at_its_last_address() {
        let last = Some(Ipv4Addr::new(10, 0, 0, 9));
        let route = |kind, pointer| [1, kind, 11, pointer, 10, 0, 0, 8, 10, 0, 0, 9, 0];
        for kind in [131, 137] {
            assert_eq!(pending_route(&route(kind, 4)), last);
            assert_eq!(pending_route(&route(kind, 8)), last);
            assert_eq!(pending_route(&route(kind, 12)), None, "used up");
        }
        assert_eq!(pending_route(&route(7, 4)), None, "a recorded route");
        for faulty in [
            &[131, 0, 4][..],
            &[131, 1],
            &[131],
            &[131, 40, 4, 1],
            &[131, 3, 4],
        ] {
            assert_eq!(pending_route(faulty), None, "{faulty:?}");
        }
    }
}
