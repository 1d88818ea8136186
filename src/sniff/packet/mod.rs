//! Finds the TCP segment in a frame: removes the headers one after the other, and reassembles
//! fragments of IP packets. Pure.
//!
//! Bounds: at most `HEADERS_MAX` headers of a frame are parsed, and reassembled IP packets are
//! nested at most `NESTED_MAX` deep. Packets of a protocol that may carry TCP and is not dissected
//! are counted by its name, not skipped silently.

pub mod bytes;
pub mod fragments;
pub mod ip;
pub mod layer;
pub mod links;
pub mod networks;
pub mod segment;
pub mod tunnels;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::sniff::file::linktype::Link;
use crate::sniff::packet::bytes::{Bytes, Unread, u16_at, u32_at};
use crate::sniff::packet::fragments::{Fragments, Lost};
use crate::sniff::packet::layer::{Fragment, Layer, State, Step};
use crate::sniff::packet::networks::Networks;
use crate::sniff::packet::segment::{Segment, segment};

/// Maximum number of headers that are parsed in one frame: enough for every tunnel in use within
/// another one, and a bound for a frame that consists only of headers.
const HEADERS_MAX: u32 = 64;

/// Maximum depth of reassembled packets, each within the one before.
const NESTED_MAX: u32 = 4;

const TOO_DEEP: &str = "headers nested too deeply";

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A frame to be dissected.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The number of the frame in the capture.
    pub number: u64,
    /// The time at which it was captured.
    pub time: Duration,
    /// The type of the first header.
    pub link: Link,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// The length of the frame on the wire, in bytes.
    pub on_wire: usize,
    /// Length of a frame check sequence that may be at the end, in bytes.
    pub trailer: usize,
}

/// Dissects the frames of one capture.
#[derive(Debug, Default)]
pub struct Dissector {
    /// The TCP port of interest; `None` for all ports.
    port: Option<u16>,
    fragments: Fragments,
    networks: Networks,
    /// The IP packet that was reassembled last.
    whole: Vec<u8>,
    undissected: BTreeMap<&'static str, u64>,
}

/// The result of parsing the headers of a frame.
enum End<'a> {
    Tcp(Bytes<'a>),
    Fragment(Box<Fragment>, Bytes<'a>),
}

impl Dissector {
    /// Returns a dissector for a new capture. With a port, fragments of other ports are skipped.
    pub fn new(port: Option<u16>) -> Dissector {
        Dissector {
            port,
            ..Dissector::default()
        }
    }

    /// Returns the segment in a frame, or in the IP packet that the frame completes.
    pub fn dissect<'a>(&'a mut self, frame: &Captured<'a>) -> Result<Segment<'a>, Unread> {
        let bytes = Bytes::new(frame.bytes, frame.on_wire);
        if let Some((ends, tcp)) = shortcut(frame.link, bytes) {
            return with_lane(&mut self.networks, segment(ends, tcp)?, 0);
        }
        let mut state = State::new(frame.trailer);
        let end = links::link(frame.link, bytes).and_then(|step| walk(step, &mut state));
        match end {
            Ok(End::Tcp(tcp)) => {
                with_lane(&mut self.networks, segment(state.ends, tcp)?, state.network)
            }
            Ok(End::Fragment(fragment, bytes)) => {
                let at = (frame.number, frame.time);
                self.put_together(&fragment, bytes, state, at)
            }
            Err(unread) => Err(self.count(unread)),
        }
    }

    /// Adds a fragment and returns the segment in the packet that it completes. Such a packet may
    /// in turn be a fragment, of a packet in a tunnel.
    fn put_together(
        &mut self,
        fragment: &Fragment,
        bytes: Bytes<'_>,
        mut state: State,
        at: (u64, Duration),
    ) -> Result<Segment<'_>, Unread> {
        let mut layer = self.add(fragment, bytes, at)?;
        for _ in 0..NESTED_MAX {
            let (number, v6, on_wire) = layer;
            let bytes = Bytes::new(&self.whole, on_wire);
            let step = Step::Next(Layer::Protocol { number, v6 }, bytes);
            let (fragment, bytes) = match walk(step, &mut state) {
                Ok(End::Fragment(fragment, bytes)) => (fragment, bytes),
                Ok(End::Tcp(tcp)) => {
                    let start = tcp.captured.as_ptr() as usize - self.whole.as_ptr() as usize;
                    let captured = &self.whole[start..start + tcp.captured.len()];
                    let tcp = Bytes::new(captured, tcp.on_wire);
                    let segment = segment(state.ends, tcp)?;
                    return with_lane(&mut self.networks, segment, state.network);
                }
                Err(unread) => return Err(self.count(unread)),
            };
            let bytes = (bytes.captured.to_vec(), bytes.on_wire);
            layer = self.add(&fragment, Bytes::new(&bytes.0, bytes.1), at)?;
        }
        Err(self.count(Unread::NotDissected(TOO_DEEP)))
    }

    /// Adds a fragment. When it completes its packet, stores the payload in `whole`, and returns
    /// its protocol number, whether it is of IPv6, and its length on the wire.
    fn add(
        &mut self,
        fragment: &Fragment,
        bytes: Bytes<'_>,
        at: (u64, Duration),
    ) -> Result<(u8, bool, usize), Unread> {
        if fragment.offset == 0 && self.is_foreign(fragment, bytes) {
            self.fragments.ignore(fragment.key, at);
            return Err(Unread::NotTcp);
        }
        let whole = self.fragments.add(fragment, bytes, at)?;
        self.whole = whole.captured;
        let v6 = fragment.key.ends.0.is_ipv6();
        Ok((whole.protocol, v6, whole.on_wire))
    }

    /// Returns true when a first fragment has other TCP ports than the one of interest, or UDP
    /// ports that belong to no tunnel.
    fn is_foreign(&self, fragment: &Fragment, bytes: Bytes<'_>) -> bool {
        match (fragment.protocol, bytes.captured.get(..4)) {
            (TCP, Some(ports)) => self
                .port
                .is_some_and(|port| ![u16_at(ports, 0), u16_at(ports, 2)].contains(&port)),
            (UDP, Some(_)) => {
                let mut state = State::new(0);
                matches!(tunnels::udp(bytes, &mut state), Err(Unread::NotTcp))
            }
            _ => false,
        }
    }

    fn count(&mut self, unread: Unread) -> Unread {
        if let Unread::NotDissected(what) = unread {
            *self.undissected.entry(what).or_default() += 1;
        }
        unread
    }

    /// Ends the capture and gives up the packets of which fragments are missing.
    pub fn finish(&mut self) {
        self.fragments.finish();
    }

    /// Returns the packets that were given up since the last call. Packets without their first
    /// fragment, which has the ports, are only counted where most of them do not matter: those of
    /// UDP, of which few are tunnels, and those of TCP when only one port is of interest.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        let mut lost = self.fragments.take_lost();
        lost.retain(|lost| {
            let what = match lost.protocol {
                _ if lost.has_first => return true,
                UDP => "UDP fragments without the first one",
                TCP if self.port.is_some() => "TCP fragments without the first one",
                _ => return true,
            };
            *self.undissected.entry(what).or_default() += u64::from(lost.fragments);
            false
        });
        lost
    }

    /// Returns the name of each protocol that may carry TCP and was not dissected, with the number
    /// of its packets.
    pub fn undissected(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.undissected.iter().map(|(what, count)| (*what, *count))
    }
}

/// Returns the segment with the lane of its virtual network (see `networks`).
fn with_lane<'a>(
    networks: &mut Networks,
    mut segment: Segment<'a>,
    network: u32,
) -> Result<Segment<'a>, Unread> {
    segment.lane = networks.lane(segment.source, segment.target, network);
    Ok(segment)
}

/// Returns the addresses and the bytes of a segment in an unfragmented IPv4 packet without options,
/// directly after the link header: nearly all frames are of this kind, and parsing them header by
/// header takes three times as long. The result is equal to that of `walk`, or `None`; a test
/// compares them.
#[inline]
fn shortcut<'a>(link: Link, bytes: Bytes<'a>) -> Option<((IpAddr, IpAddr), Bytes<'a>)> {
    const HEADER: usize = 20;
    let start = match link {
        Link::Ethernet if bytes.captured.get(12..14)? == [0x08, 0x00] => 14,
        Link::Ip => 0,
        _ => return None,
    };
    let head = bytes.captured.get(start..start + HEADER)?;
    let claimed = usize::from(u16_at(head, 2));
    let is_whole = u16_at(head, 6) & 0x3fff == 0;
    if head[0] != 0x45 || head[9] != TCP || !is_whole {
        return None;
    }
    if claimed < HEADER || claimed > bytes.on_wire - start {
        return None;
    }
    let end = bytes.captured.len().min(start + claimed);
    let address = |place| IpAddr::V4(Ipv4Addr::from_bits(u32_at(head, place)));
    let tcp = Bytes {
        captured: &bytes.captured[start + HEADER..end],
        on_wire: claimed - HEADER,
    };
    Some(((address(12), address(16)), tcp))
}

/// Returns the segment in a single frame, without reassembly.
pub fn parse(link: Link, frame: &[u8], on_wire: usize) -> Result<Segment<'_>, Unread> {
    let mut state = State::new(0);
    let step = links::link(link, Bytes::new(frame, on_wire))?;
    match walk(step, &mut state)? {
        End::Tcp(tcp) => segment(state.ends, tcp),
        End::Fragment(..) => Err(Unread::Fragment),
    }
}

/// Parses one header after the other, up to a segment or a fragment.
fn walk<'a>(mut step: Step<'a>, state: &mut State) -> Result<End<'a>, Unread> {
    for _ in 0..HEADERS_MAX {
        let (layer, bytes) = match step {
            Step::Next(layer, bytes) => (layer, bytes),
            Step::Tcp(bytes) => return Ok(End::Tcp(bytes)),
            Step::Fragment(fragment, bytes) => return Ok(End::Fragment(fragment, bytes)),
        };
        step = match layer {
            Layer::Ethernet => links::ethernet(bytes),
            Layer::EtherType(kind) => links::ether_type(kind, bytes, state),
            Layer::Llc => links::llc(bytes),
            Layer::Ip => ip::ip(bytes, state),
            Layer::Protocol { number, v6 } => ip::protocol(number, v6, bytes, state),
            Layer::Udp => tunnels::udp(bytes, state),
            Layer::Ppp => tunnels::ppp(bytes),
            Layer::Pppoe => tunnels::pppoe(bytes),
            Layer::Gre => tunnels::gre(bytes, state),
            Layer::Mpls => tunnels::mpls(bytes, state),
        }?;
    }
    Err(Unread::NotDissected(TOO_DEEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn the_long_way(link: Link, bytes: Bytes<'_>) -> Option<((IpAddr, IpAddr), Bytes<'_>)> {
        let mut state = State::new(0);
        let step = links::link(link, bytes).ok()?;
        match walk(step, &mut state) {
            Ok(End::Tcp(tcp)) if state.network == 0 => Some((state.ends, tcp)),
            _ => None,
        }
    }

    #[test]
    fn the_shortcut_says_what_the_longer_way_says() {
        let mut ip = vec![
            0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ip.extend([7; 45]);
        let frame = [&[2; 12][..], &[8, 0], &ip].concat();
        let mut taken = 0;
        for (link, frame) in [(Link::Ip, &ip), (Link::Ethernet, &frame)] {
            for place in 0..frame.len() {
                for value in 0..=u8::MAX {
                    let mut frame = frame.clone();
                    frame[place] = value;
                    for captured in [frame.len(), frame.len() - 10, 44, 34, 33, 20, 19] {
                        let bytes = Bytes::new(&frame[..captured.min(frame.len())], frame.len());
                        if let Some(short) = shortcut(link, bytes) {
                            assert_eq!(Some(short), the_long_way(link, bytes));
                            taken += 1;
                        }
                    }
                }
            }
        }
        assert!(taken > 100_000, "{taken}");
    }
}
