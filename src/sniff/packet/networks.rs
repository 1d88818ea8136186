//! Separates conversations that have the same addresses and ports, but are in different virtual
//! networks. Pure.
//!
//! Two VLANs or two overlays may use the same addresses, and a capture of both sides of a router or
//! of a tunnel shows each packet twice, in different networks. As one conversation, such segments
//! could not be analysed, so each conversation has a *lane*, a number that separates it from the
//! others.
//!
//! The network of a conversation is what its two directions have in common: VLANs, services of IEEE
//! 802.1ah, VXLAN, Geneve and NVGRE. Labels of MPLS and tunnels of GTP differ by direction, and so
//! do tags where a switch mirrors one direction with its tag and the other without. So a lane has a
//! network for each direction, which is that of the first segment of the direction. A segment
//! belongs to the lane that has its network in its direction; else to one in which no segment of
//! that direction was seen yet, preferably one whose other direction is in the same network; else
//! it begins a new lane.
//!
//! A capture without virtual networks must not pay for this: until the first segment in one
//! arrives, each conversation only marks the directions in which it was seen, in a byte that many
//! conversations share. A collision there can put a direction into a lane of its own.
//!
//! Memory is bounded: the conversation that was seen first is forgotten first, and when it is seen
//! again it begins with the first lane, which is the right one unless it had several.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;

/// Maximum number of conversations that are known at once: as many as may be tracked, and as many
/// that have ended. Each takes some 120 bytes.
const CONVERSATIONS_MAX: usize = 64 * 1024;

/// Maximum number of lanes of one conversation. Segments in a further network belong to the last
/// one.
const LANES_MAX: usize = 64;

/// The network of a direction in which no segment was seen yet.
const NOT_SEEN: u64 = 0;

/// The networks of a lane, by direction: from the lower port to the higher one, and back.
type Lane = [u64; 2];

/// Addresses and ports of both endpoints, the lower one first, so that both directions have the
/// same value. They are stored as numbers, which are hashed in half the time: the addresses, then
/// the ports and the address family in the lower 33 bits.
pub type Ends = (u128, u128, u64);

/// Number of bytes that mark the directions of conversations outside of all networks.
const HEARD_BYTES: usize = 1 << 16;

/// The network of a direction that is outside of all virtual networks.
const OUTSIDE: u64 = 1;

/// The lanes of all conversations.
#[derive(Debug)]
pub struct Networks {
    /// True while no segment in a virtual network was seen.
    is_plain: bool,
    /// Directions in which segments were seen while `is_plain` was true, as bits, by a hash of the
    /// conversation.
    heard: Box<[u8]>,
    conversations: HashMap<Ends, Lanes, RandomState>,
    begun: VecDeque<Ends>,
}

impl Default for Networks {
    fn default() -> Networks {
        Networks {
            is_plain: true,
            heard: vec![0; HEARD_BYTES].into_boxed_slice(),
            conversations: HashMap::default(),
            begun: VecDeque::new(),
        }
    }
}

/// The lanes of a conversation; nearly all conversations have one.
#[derive(Debug)]
struct Lanes {
    first: Lane,
    more: Vec<Lane>,
}

impl Networks {
    /// Returns the lane of a segment. `network`: a hash of the virtual networks around it, or 0.
    pub fn lane(&mut self, source: SocketAddr, target: SocketAddr, network: u32) -> u16 {
        let (place, direction) = heard_at(source, target);
        if self.is_plain && network == 0 {
            self.heard[place] |= 1 << direction;
            return 0;
        }
        self.is_plain = false;
        self.lane_in_networks(ends(source, target), place, direction, network)
    }

    fn lane_in_networks(
        &mut self,
        ends: Ends,
        place: usize,
        direction: usize,
        network: u32,
    ) -> u16 {
        let network = u64::from(network) + OUTSIDE;
        if let Some(lanes) = self.conversations.get_mut(&ends) {
            return lanes.find(direction, network);
        }
        if self.begun.len() >= CONVERSATIONS_MAX
            && let Some(oldest) = self.begun.pop_front()
        {
            self.conversations.remove(&oldest);
        }
        let heard = |direction: usize| match self.heard[place] & (1 << direction) {
            0 => NOT_SEEN,
            _ => OUTSIDE,
        };
        let mut lanes = Lanes {
            first: [heard(0), heard(1)],
            more: Vec::new(),
        };
        let lane = lanes.find(direction, network);
        self.conversations.insert(ends, lanes);
        self.begun.push_back(ends);
        lane
    }
}

/// Returns the index of a conversation in `heard`, and the direction of this segment. The ports
/// alone separate nearly all conversations of one server.
fn heard_at(source: SocketAddr, target: SocketAddr) -> (usize, usize) {
    let (from, to) = (source.port(), target.port());
    let direction = match from == to {
        false => usize::from(from > to),
        true => usize::from(source > target),
    };
    let mixed = usize::from(from) ^ usize::from(to) ^ low_bits(source) ^ low_bits(target);
    (mixed % HEARD_BYTES, direction)
}

fn low_bits(address: SocketAddr) -> usize {
    let [.., a, b] = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()).to_be_bytes(),
        IpAddr::V6(ip) => (ip.to_bits() as u64).to_be_bytes(),
    };
    usize::from(a) << 8 | usize::from(b)
}

impl Lanes {
    fn find(&mut self, direction: usize, network: u64) -> u16 {
        if self.first[direction] == network {
            return 0;
        }
        let lanes = || std::iter::once(&self.first).chain(&self.more);
        let is_here = |lane: &Lane| lane[direction] == network;
        let is_open = |lane: &Lane| lane[direction] == NOT_SEEN;
        let is_answered = |lane: &Lane| is_open(lane) && lane[1 - direction] == network;
        let known = lanes()
            .position(is_here)
            .or_else(|| lanes().position(is_answered))
            .or_else(|| lanes().position(is_open));
        let place = known.unwrap_or_else(|| {
            if self.more.len() + 1 < LANES_MAX {
                self.more.push([NOT_SEEN; 2]);
            }
            self.more.len()
        });
        match place {
            0 => self.first[direction] = network,
            place => self.more[place - 1][direction] = network,
        }
        place as u16
    }
}

/// Returns the endpoints of a segment, which are the same for both directions.
pub fn ends(source: SocketAddr, target: SocketAddr) -> Ends {
    let (low, high) = (source.min(target), source.max(target));
    let bits = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let ports = (u64::from(low.port()) << 16) | u64::from(high.port());
    let family = u64::from(low.is_ipv6()) << 32;
    (bits(low), bits(high), family | ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lanes of segments, each given by whether the client sent it, and by its network.
    fn lanes(segments: &[(bool, u32)]) -> Vec<u16> {
        let client = SocketAddr::from(([10, 0, 0, 2], 4000));
        let server = SocketAddr::from(([10, 0, 0, 1], 12_000));
        let mut networks = Networks::default();
        let lane = |&(from_client, network): &(bool, u32)| match from_client {
            true => networks.lane(client, server, network),
            false => networks.lane(server, client, network),
        };
        segments.iter().map(lane).collect()
    }

    #[test]
    fn the_same_network_in_both_directions_is_a_lane() {
        let both = [
            (true, 5),
            (true, 6),
            (false, 5),
            (false, 6),
            (true, 6),
            (true, 5),
        ];
        assert_eq!(lanes(&both), [0, 1, 0, 1, 1, 0]);
        let tagged_and_not = [(true, 0), (true, 5), (false, 5), (false, 0), (true, 5)];
        assert_eq!(lanes(&tagged_and_not), [0, 1, 1, 0, 1]);
    }

    #[test]
    fn directions_in_different_networks_are_one_lane() {
        assert_eq!(
            lanes(&[(true, 5), (false, 0), (true, 5), (false, 0)]),
            [0; 4]
        );
        assert_eq!(
            lanes(&[(false, 7), (true, 8), (false, 7), (true, 8)]),
            [0; 4]
        );
    }

    #[test]
    fn lanes_and_conversations_are_bounded() {
        let segments: Vec<(bool, u32)> = (0..1000).map(|network| (true, network)).collect();
        assert_eq!(
            lanes(&segments).into_iter().max(),
            Some(LANES_MAX as u16 - 1)
        );
        let mut networks = Networks::default();
        let server = SocketAddr::from(([10, 0, 0, 1], 12_000));
        for number in 0..200_000_u32 {
            let client = SocketAddr::from((number.to_be_bytes(), 4000));
            assert_eq!(networks.lane(client, server, 3), 0);
        }
        assert_eq!(networks.conversations.len(), CONVERSATIONS_MAX);
        assert_eq!(networks.begun.len(), CONVERSATIONS_MAX);
    }
}
