//! The state of parsing the headers of a frame one after the other. Pure.
//!
//! A frame is a chain of headers, and each of them names the next one. One function per header
//! parses it and returns a [`Step`]; `dissect` follows the steps until it reaches TCP. No header is
//! treated by its position in the chain: IP within Ethernet within VXLAN within IP is parsed by the
//! same loop, so every encapsulation that is known works within every other one.

use std::net::{IpAddr, Ipv4Addr};

use crate::sniff::packet::bytes::{Bytes, Unread};
use crate::units::{counted, grouped};

/// The next header to be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet: two addresses and a type or length.
    Ethernet,
    /// The header that an Ethernet type names.
    EtherType(u16),
    /// IEEE 802.2, with or without SNAP.
    Llc,
    /// IP; its first half byte is the version.
    Ip,
    /// The header that an IP protocol number names; `v6`: in an IPv6 packet, which has extension
    /// headers.
    Protocol {
        /// The number (IANA, protocol numbers).
        number: u8,
        /// True when it is in an IPv6 packet.
        v6: bool,
    },
    /// UDP, which carries tunnels on certain ports.
    Udp,
    /// PPP, with or without the address and control bytes of HDLC.
    Ppp,
    /// A session packet of PPPoE.
    Pppoe,
    /// GRE.
    Gre,
    /// A stack of MPLS labels.
    Mpls,
}

/// The result of parsing a header.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// Another header.
    Next(Layer, Bytes<'a>),
    /// A TCP header and what follows it.
    Tcp(Bytes<'a>),
    /// A fragment of an IP packet. It is large and rare, so it is boxed to keep the other steps
    /// small.
    Fragment(Box<Fragment>, Bytes<'a>),
}

/// A fragment of an IP packet, as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identity of its packet.
    pub key: FragmentKey,
    /// Offset of its bytes in the payload of that packet, in bytes.
    pub offset: usize,
    /// True when it is not the last fragment.
    pub more: bool,
    /// The protocol number of the reassembled payload.
    pub protocol: u8,
}

/// The identity of an IP packet: what all its fragments have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Addresses of sender and receiver.
    pub ends: (IpAddr, IpAddr),
    /// The identification that the sender gave the packet.
    pub id: u32,
    /// The protocol number; 0 in IPv6, where it is no part of the identity.
    pub protocol: u8,
    /// Hash of the virtual networks around the packet, see [`State::network`].
    pub network: u32,
}

/// The state of parsing a frame, after the headers that were parsed so far.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Addresses of sender and receiver in the last IP header.
    pub ends: (IpAddr, IpAddr),
    /// Hash of the virtual networks around the packet (VLAN and VXLAN numbers and the like) and of
    /// the tunnels around it; 0 when there are none.
    pub network: u32,
    /// True when an IP header was parsed, so that a further one is inside a tunnel.
    pub is_inner: bool,
    /// Length of a frame check sequence that may be at the end of the frame, in bytes.
    pub trailer: usize,
    /// Length in the first IP header that claims more bytes than there are, and the number of bytes
    /// that there are.
    pub overrun: Option<(usize, usize)>,
}

impl State {
    /// Returns the state before the first header.
    pub fn new(trailer: usize) -> State {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        State {
            ends: (nowhere, nowhere),
            network: 0,
            is_inner: false,
            trailer,
            overrun: None,
        }
    }

    /// Adds a virtual network to the hash; `kind` distinguishes VLANs from VXLANs and so on.
    pub fn enter(&mut self, kind: u8, number: u32) {
        const PRIME: u32 = 0x0100_0193;
        let mixed = self.network ^ (u32::from(kind) << 24) ^ number;
        self.network = mixed.wrapping_add(1).wrapping_mul(PRIME).max(1);
    }

    /// Records that an IP header is parsed. A packet inside the packet of a tunnel is in another
    /// network than the same packet before or after the tunnel.
    pub fn enter_ip(&mut self) {
        const INNER: u8 = 32;
        if self.is_inner {
            self.enter(INNER, 0);
        }
        self.is_inner = true;
    }

    /// Fails if one of the IP headers so far claimed more bytes than there are.
    pub fn check_lengths(&self) -> Result<(), Unread> {
        match self.overrun {
            None => Ok(()),
            Some((claimed, there)) => {
                let bytes = counted(claimed as u64, "byte");
                let why = format!(
                    "the IP header claims {bytes}, but the packet has {}",
                    grouped(there as u64)
                );
                Err(Unread::Malformed(why))
            }
        }
    }
}
