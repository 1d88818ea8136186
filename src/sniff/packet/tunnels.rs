//! Parses tunnels: PPP, PPPoE, MPLS, GRE, and the tunnels that UDP carries, by their ports. Pure.
//!
//! A port number is a guess: when the header after it makes no sense, the packet is not faulty, but
//! is counted by the name of the tunnel as not dissected.

use crate::sniff::packet::bytes::{Bytes, Unread, u16_at, u32_at};
use crate::sniff::packet::layer::{Layer, State, Step};
use crate::sniff::packet::links::next_protocol;

/// Kinds of virtual networks, for [`State::enter`]. Only numbers that are the same in both
/// directions identify a network: labels of MPLS and tunnels of GTP have one for each direction, so
/// that only their presence counts.
const VXLAN: u8 = 16;
const GENEVE: u8 = 17;
const NVGRE: u8 = 18;
const LABELLED: u8 = 19;

/// Parses PPP (RFC 1661). The address and control bytes of HDLC may precede it, and the protocol
/// may have been compressed to one byte, which is then odd.
pub fn ppp(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "a PPP header";
    let framed = bytes.captured.starts_with(&[0xff, 0x03]);
    let bytes = bytes.skip(if framed { 2 } else { 0 }, WHAT)?;
    let (head, short) = bytes.take(1, WHAT)?;
    let (protocol, rest) = match head[0] & 1 {
        1 => (u16::from(head[0]), short),
        _ => {
            let (head, rest) = bytes.take(2, WHAT)?;
            (u16_at(head, 0), rest)
        }
    };
    let layer = match protocol {
        0x0021 | 0x0057 => Layer::Ip,
        0x0281 | 0x0283 => Layer::Mpls,
        0x002d | 0x002f => return Err(Unread::NotDissected("TCP/IP compression (VJ)")),
        0x0031 => return bridged(rest),
        0x003d => return Err(Unread::NotDissected("PPP multilink")),
        0x0053 | 0x0055 => return Err(Unread::NotDissected("PPP encryption")),
        0x0061..=0x0069 | 0x0003 | 0x0005 => {
            return Err(Unread::NotDissected("PPP header compression"));
        }
        0x00fb | 0x00fd => return Err(Unread::NotDissected("PPP compression")),
        _ => return Err(Unread::NotTcp),
    };
    Ok(Step::Next(layer, rest))
}

/// Parses a bridged frame (RFC 3518): flags and the kind of link, then the frame.
fn bridged(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const ETHERNET: u8 = 1;
    let (head, rest) = bytes.take(2, "a PPP bridging header")?;
    match head[1] {
        ETHERNET => Ok(Step::Next(Layer::Ethernet, rest)),
        _ => Err(Unread::NotDissected("PPP bridging")),
    }
}

/// Parses PPPoE (RFC 2516): version, code, session and length, then PPP.
pub fn pppoe(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let (head, rest) = bytes.take(6, "a PPPoE header")?;
    if head[0] != 0x11 || head[1] != 0 {
        return Err(Unread::NotTcp);
    }
    let rest = rest.limit(u16_at(head, 4).into());
    Ok(Step::Next(Layer::Ppp, rest))
}

/// Parses MPLS (RFC 3032): labels up to the bottom of the stack. The payload has no type. Its first
/// half byte shows whether it is IP; 0 is a control word of Ethernet (RFC 4448); payloads with
/// other values are Ethernet without a control word when the bytes look like it.
pub fn mpls<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const PSEUDOWIRE: &str = "an MPLS pseudowire";
    state.enter(LABELLED, 0);
    let (mut label, mut rest) = bytes.take(4, "a label of MPLS")?;
    while label[2] & 1 == 0 {
        (label, rest) = rest.take(4, "a label of MPLS")?;
    }
    let (head, _) = rest.take(1, "the payload after the MPLS labels")?;
    if is_ip(rest) || matches!(head[0] >> 4, 4 | 6) && !is_ethernet(rest) {
        return Ok(Step::Next(Layer::Ip, rest));
    }
    let behind_control_word = rest.skip(4, PSEUDOWIRE);
    if head[0] >> 4 == 0
        && let Ok(frame) = behind_control_word
        && is_ethernet(frame)
    {
        return Ok(Step::Next(Layer::Ethernet, frame));
    }
    if is_ethernet(rest) {
        return Ok(Step::Next(Layer::Ethernet, rest));
    }
    // The associated channel (RFC 4385) carries measurements of the network itself.
    match head[0] >> 4 {
        1 => Err(Unread::NotTcp),
        _ => Err(Unread::NotDissected(PSEUDOWIRE)),
    }
}

/// Returns true when the bytes begin with an IP header whose length fits the packet.
fn is_ip(bytes: Bytes<'_>) -> bool {
    let Some(head) = bytes.captured.get(..6) else {
        return false;
    };
    match head[0] >> 4 {
        4 => (20..=bytes.on_wire).contains(&u16_at(head, 2).into()) && head[0] & 15 >= 5,
        6 => usize::from(u16_at(head, 4)) + 40 <= bytes.on_wire,
        _ => false,
    }
}

/// Returns true when the bytes look like an Ethernet frame with a type that is usual in a
/// pseudowire.
fn is_ethernet(bytes: Bytes<'_>) -> bool {
    let Some(kind) = bytes.captured.get(12..15) else {
        return false;
    };
    let version = kind[2] >> 4;
    match u16_at(kind, 0) {
        0x0800 => version == 4,
        0x86dd => version == 6,
        0x0806 | 0x8100 | 0x88a8 | 0x8863 | 0x8864 | 0x8847 | 0x88cc => true,
        _ => false,
    }
}

/// Parses GRE (RFC 2784 and 2890); version 1 is that of PPTP (RFC 2637).
pub fn gre<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const WHAT: &str = "a GRE header";
    let (head, _) = bytes.take(4, WHAT)?;
    let (flags, kind) = (u16_at(head, 0), u16_at(head, 2));
    let has = |bit: u16| usize::from(flags & bit != 0);
    let (checksum, routing, key, sequence) = (has(0x8000), has(0x4000), has(0x2000), has(0x1000));
    if routing > 0 {
        return Err(Unread::NotDissected("GRE with routes"));
    }
    let version = flags & 7;
    let acknowledgment = if version == 1 { has(0x0080) } else { 0 };
    let length = 4 + 4 * (checksum + key + sequence + acknowledgment);
    let (head, rest) = bytes.take(length, WHAT)?;
    match (version, kind) {
        (1, 0x880b) => return Ok(Step::Next(Layer::Ppp, rest)),
        (0, _) => {}
        _ => return Err(Unread::NotDissected("GRE of an unknown version")),
    }
    match kind {
        0x6558 => {
            // NVGRE, RFC 7637: the first three bytes of the key are the network.
            if key > 0 {
                state.enter(NVGRE, u32_at(head, 4 + 4 * checksum) >> 8);
            }
            Ok(Step::Next(Layer::Ethernet, rest))
        }
        // WCCP: version 2 has four more bytes, and IP never begins like them.
        0x883e => match rest.peek(0).map(|first| first >> 4) {
            Some(4) => Ok(Step::Next(Layer::Ip, rest)),
            _ => Ok(Step::Next(Layer::Ip, rest.skip(4, WHAT)?)),
        },
        // ERSPAN: types I and II; type I has no header.
        0x88be => Ok(Step::Next(Layer::Ethernet, rest.skip(8 * sequence, WHAT)?)),
        0x22eb => erspan(rest),
        kind => Ok(Step::Next(Layer::EtherType(kind), rest)),
    }
}

/// Parses ERSPAN, type III: a flag announces eight more bytes.
fn erspan(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "an ERSPAN header";
    let (head, rest) = bytes.take(12, WHAT)?;
    let more = usize::from(head[11] & 1) * 8;
    Ok(Step::Next(Layer::Ethernet, rest.skip(more, WHAT)?))
}

/// Parses UDP, which carries a tunnel when one of its ports is the port of a tunnel.
pub fn udp<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, mut rest) = bytes.take(8, "a UDP header").map_err(|_| Unread::NotTcp)?;
    let (from, to) = (u16_at(head, 0), u16_at(head, 2));
    if let payload @ 1.. = usize::from(u16_at(head, 4)).saturating_sub(8) {
        rest = rest.limit(payload);
    }
    if rest.on_wire == 0 {
        return Err(Unread::NotTcp);
    }
    let (name, step) = match to {
        4789 | 8472 => ("VXLAN", vxlan(rest, state)),
        4790 => ("VXLAN-GPE", vxlan_extended(rest, state)),
        6081 => ("Geneve", geneve(rest, state)),
        6635 => ("MPLS in UDP", Ok(Step::Next(Layer::Mpls, rest))),
        4754 => ("GRE in UDP", Ok(Step::Next(Layer::Gre, rest))),
        4341 => ("LISP", ip_after(rest, 8, "LISP")),
        _ => return udp_both_ways(from, to, rest),
    };
    step.map_err(|unread| unread.guessed(name))
}

/// Parses the tunnels whose port may be that of the sender as well.
fn udp_both_ways(from: u16, to: u16, rest: Bytes<'_>) -> Result<Step<'_>, Unread> {
    let is = |port| from == port || to == port;
    let (name, step) = if is(2152) {
        ("GTP-U", gtp(rest))
    } else if is(1701) {
        ("L2TP", l2tp(rest))
    } else if is(3544) {
        ("Teredo", teredo(rest))
    } else {
        return Err(udp_unopened(&is, rest));
    };
    step.map_err(|unread| unread.guessed(name))
}

/// Returns the fault for a datagram in UDP that is not parsed: a known tunnel, or not TCP.
fn udp_unopened(is: &impl Fn(u16) -> bool, rest: Bytes<'_>) -> Unread {
    // IKE and keep-alives share the port of ESP (RFC 3948).
    let is_esp = rest.on_wire > 8 && !rest.captured.starts_with(&[0; 4]);
    Unread::NotDissected(match () {
        () if is(4500) && is_esp => "ESP (encrypted) in UDP",
        () if is(51820) && rest.captured.starts_with(&[4, 0, 0, 0]) => "WireGuard (encrypted)",
        () if is(1194) => "OpenVPN (encrypted)",
        () if is(6080) => "GUE",
        () if is(5247) => "CAPWAP",
        () if is(37008) => "TZSP",
        () if is(2268) => "AMT",
        () => return Unread::NotTcp,
    })
}

/// Parses VXLAN (RFC 7348): a flag shows that the number of the network is valid.
fn vxlan<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, rest) = bytes.take(8, "a VXLAN header")?;
    if head[0] & 0x08 == 0 {
        return Err(Unread::NotDissected("VXLAN"));
    }
    state.enter(VXLAN, u32_at(head, 4) >> 8);
    Ok(Step::Next(Layer::Ethernet, rest))
}

/// Parses VXLAN's generic protocol extension: another flag shows that the header names the protocol
/// of what follows.
fn vxlan_extended<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    let (head, _) = bytes.take(8, "a VXLAN header")?;
    if head[0] & 0x04 == 0 {
        return vxlan(bytes, state);
    }
    state.enter(VXLAN, u32_at(head, 4) >> 8);
    next_protocol(head[3], bytes.skip(8, "a VXLAN header")?)
}

/// Parses Geneve (RFC 8926): options, and the Ethernet type of what follows.
fn geneve<'a>(bytes: Bytes<'a>, state: &mut State) -> Result<Step<'a>, Unread> {
    const WHAT: &str = "a Geneve header";
    let (head, _) = bytes.take(8, WHAT)?;
    if head[0] >> 6 != 0 {
        return Err(Unread::NotDissected("Geneve"));
    }
    state.enter(GENEVE, u32_at(head, 4) >> 8);
    let rest = bytes.skip(8 + usize::from(head[0] & 0x3f) * 4, WHAT)?;
    Ok(Step::Next(Layer::EtherType(u16_at(head, 2)), rest))
}

/// Parses GTP-U (3GPP TS 29.281): only type 255 carries a packet of a user.
fn gtp(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "a GTP-U header";
    const USER_PACKET: u8 = 255;
    let (head, mut rest) = bytes.take(8, WHAT)?;
    let (version, is_prime) = (head[0] >> 5, head[0] & 0x10 == 0);
    if version != 1 || is_prime {
        return Err(Unread::NotDissected("GTP-U"));
    }
    if head[1] != USER_PACKET {
        return Err(Unread::NotTcp);
    }
    rest = rest.limit(u16_at(head, 2).into());
    if head[0] & 0x07 != 0 {
        let (fields, behind) = rest.take(4, WHAT)?;
        // The last field names an extension only when its flag is set.
        let mut next = if head[0] & 0x04 != 0 { fields[3] } else { 0 };
        rest = behind;
        while next != 0 {
            let words = rest.peek(0).map_or(1, usize::from).max(1);
            let (extension, behind) = rest.take(words * 4, WHAT)?;
            next = extension[words * 4 - 1];
            rest = behind;
        }
    }
    ip_after(rest, 0, "GTP-U")
}

/// Parses L2TP (RFC 2661): flags show which fields are present; data messages carry PPP.
fn l2tp(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "an L2TP header";
    let (head, _) = bytes.take(2, WHAT)?;
    let flags = u16_at(head, 0);
    let has = |bit: u16| usize::from(flags & bit != 0);
    if flags & 0x8000 != 0 {
        return Err(Unread::NotTcp);
    }
    if flags & 15 != 2 {
        return Err(Unread::NotDissected("L2TP"));
    }
    let fields = 6 + 2 * has(0x4000) + 4 * has(0x0800);
    let (head, rest) = bytes.take(fields + 2 * has(0x0200), WHAT)?;
    let padding = match flags & 0x0200 {
        0 => 0,
        _ => usize::from(u16_at(head, fields)),
    };
    Ok(Step::Next(Layer::Ppp, rest.skip(padding, WHAT)?))
}

/// Parses Teredo (RFC 4380): IPv6, possibly after an authentication and the origin of the packet.
fn teredo(bytes: Bytes<'_>) -> Result<Step<'_>, Unread> {
    const WHAT: &str = "a Teredo header";
    let mut rest = bytes;
    if rest.captured.starts_with(&[0, 1]) {
        let (head, _) = rest.take(4, WHAT)?;
        let length = 13 + usize::from(head[2]) + usize::from(head[3]);
        rest = rest.skip(length, WHAT)?;
    }
    if rest.captured.starts_with(&[0, 0]) {
        rest = rest.skip(8, WHAT)?;
    }
    ip_after(rest, 0, "Teredo")
}

/// Parses IP after a header of `header` bytes; anything else is counted as not dissected.
fn ip_after<'a>(bytes: Bytes<'a>, header: usize, name: &'static str) -> Result<Step<'a>, Unread> {
    let rest = bytes.skip(header, name)?;
    match rest.peek(0).map(|first| first >> 4) {
        Some(4 | 6) => Ok(Step::Next(Layer::Ip, rest)),
        None if rest.is_cut() => Err(Unread::Cut),
        _ => Err(Unread::NotDissected(name)),
    }
}
