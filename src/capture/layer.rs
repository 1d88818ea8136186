//! The state that is passed along while the headers of a frame are taken off one by one. Pure.
//!
//! A frame is a chain of headers, and each of them names the next one. One function per header
//! takes it off and returns a [`Step`]; `dissect` goes from step to step until it reaches TCP. No
//! header is treated by its place in the chain: IP within Ethernet within VXLAN within IP is the
//! same loop, so every encapsulation that is known works within every other one.

use std::net::{IpAddr, Ipv4Addr};

use crate::capture::bytes::{Bytes, Unread};
use crate::units::{counted, grouped};

/// The header that comes next.
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
        /// True when it stands in an IPv6 packet.
        v6: bool,
    },
    /// UDP, which carries tunnels on certain ports.
    Udp,
    /// PPP, with or without the address and control bytes of HDLC.
    Ppp,
    /// PPPoE, a session.
    Pppoe,
    /// GRE.
    Gre,
    /// Labels of MPLS.
    Mpls,
}

/// The result of parsing a header.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// Another header.
    Next(Layer, Bytes<'a>),
    /// A TCP header and what follows it.
    Tcp(Bytes<'a>),
    /// A part of an IP packet. It is large and rare; boxed, it keeps the other steps small.
    Fragment(Box<Fragment>, Bytes<'a>),
}

/// A part of an IP packet, as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The packet that it is a part of.
    pub key: FragmentKey,
    /// Where its bytes begin in that packet.
    pub offset: usize,
    /// True when it is not the last one.
    pub more: bool,
    /// The protocol number that the parts carry together.
    pub protocol: u8,
}

/// What the parts of one IP packet have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Sender and receiver.
    pub ends: (IpAddr, IpAddr),
    /// The sender's number for the packet.
    pub id: u32,
    /// The protocol number; 0 in IPv6, where it is no part of the identity.
    pub protocol: u8,
    /// [`State::network`].
    pub network: u32,
}

/// The state of a frame after the headers that were taken off.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Sender and receiver by the last IP header.
    pub ends: (IpAddr, IpAddr),
    /// A hash of the virtual networks around the packet: VLAN and VXLAN numbers and the like, and
    /// that it is in a tunnel; 0 when there are none.
    pub network: u32,
    /// True when it is within an IP packet.
    pub is_inner: bool,
    /// Bytes of a frame check sequence that may stand at the end of the frame.
    pub trailer: usize,
    /// An IP header that claims more bytes than there are: the claimed number, and the real one.
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

    /// Enters a virtual network; `kind` distinguishes VLANs from VXLANs and so on.
    pub fn enter(&mut self, kind: u8, number: u32) {
        const PRIME: u32 = 0x0100_0193;
        let mixed = self.network ^ (u32::from(kind) << 24) ^ number;
        self.network = mixed.wrapping_add(1).wrapping_mul(PRIME).max(1);
    }

    /// Enters an IP header. A packet inside the packet of a tunnel is in another network than the
    /// same packet before or after the tunnel.
    pub fn enter_ip(&mut self) {
        const INNER: u8 = 32;
        if self.is_inner {
            self.enter(INNER, 0);
        }
        self.is_inner = true;
    }

    /// Fails if an IP header on the way claimed more bytes than there are.
    pub fn check_lengths(&self) -> Result<(), Unread> {
        match self.overrun {
            None => Ok(()),
            Some((said, there)) => {
                let bytes = counted(said as u64, "byte");
                let why = format!(
                    "IP speaks of {bytes}, and there are {}",
                    grouped(there as u64)
                );
                Err(Unread::Malformed(why))
            }
        }
    }
}
