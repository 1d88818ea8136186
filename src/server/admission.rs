//! Who may come in: how many clients in all, and how many of one address. Pure.
//!
//! At the cap nobody is turned away: accepting pauses, and who comes waits in the kernel's queue.
//! It goes on when a little room has gathered, so that a full server does not change its mind with
//! every client. A client of an address that has its share is refused, since no waiting would help
//! the others behind it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::server::stats::Pauses;

/// How much of the cap must be free before a full server accepts again: one part of so many, and
/// not more than so many places, which may stay empty while clients wait.
const ROOM: usize = 64;
const ROOM_MOST: usize = 16;

/// The state of the door.
#[derive(Debug)]
pub struct Admission {
    cap: usize,
    full_since: Option<Instant>,
    addresses: Option<Addresses>,
}

/// Clients by address, and the address of each by its place in the table.
#[derive(Debug)]
struct Addresses {
    most: u32,
    open: HashMap<IpAddr, u32>,
    places: Vec<Option<IpAddr>>,
}

impl Admission {
    /// For at most so many clients, and so many of each address.
    pub fn new(cap: usize, of_one_address: Option<u32>) -> Self {
        Admission {
            cap,
            full_since: None,
            addresses: of_one_address.map(|most| Addresses {
                most,
                open: HashMap::new(),
                places: Vec::new(),
            }),
        }
    }

    /// Whether the server is full with so many clients. Changes the state: true from the cap on
    /// until there is room. The pauses are counted.
    pub fn is_full(&mut self, open: usize, now: Instant, pauses: &mut Pauses) -> bool {
        match self.full_since {
            None if open >= self.cap => {
                self.full_since = Some(now);
                pauses.count += 1;
            }
            Some(since) if open + (self.cap / ROOM).clamp(1, ROOM_MOST) <= self.cap => {
                self.full_since = None;
                pauses.time += now.saturating_duration_since(since);
            }
            _ => {}
        }
        self.full_since.is_some()
    }

    /// How long the server has been full.
    pub fn full_for(&self, now: Instant) -> Option<Duration> {
        let since = self.full_since?;
        Some(now.saturating_duration_since(since))
    }

    /// Whether it must be told the addresses of all clients.
    pub fn counts_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    /// A client of this address takes this place in the table. False: its address has its share
    /// already. It is counted all the same until it leaves.
    pub fn enter(&mut self, place: usize, address: IpAddr) -> bool {
        let Some(addresses) = &mut self.addresses else {
            return true;
        };
        let network = network(address);
        let open = addresses.open.entry(network).or_default();
        *open += 1;
        if addresses.places.len() <= place {
            addresses.places.resize(place + 1, None);
        }
        addresses.places[place] = Some(network);
        *open <= addresses.most
    }

    /// The client at this place has gone.
    pub fn leave(&mut self, place: usize) {
        let Some(addresses) = &mut self.addresses else {
            return;
        };
        let Some(network) = addresses.places.get_mut(place).and_then(Option::take) else {
            return;
        };
        if let Some(open) = addresses.open.get_mut(&network) {
            *open -= 1;
            if *open == 0 {
                addresses.open.remove(&network);
            }
        }
    }
}

/// IPv4 in the clothes of IPv6 is IPv4, as on a socket for both that was handed over. One user of
/// IPv6 has a /64 at least (RFC 6177), so that is what counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_waits_for_some_room() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pauses = Pauses::default();
        let mut admission = Admission::new(256, None);
        assert!(!admission.is_full(255, at(0), &mut pauses));
        assert!(admission.is_full(256, at(1), &mut pauses));
        assert!(
            admission.is_full(253, at(2), &mut pauses),
            "four places are to be free"
        );
        assert_eq!(admission.full_for(at(3)), Some(Duration::from_secs(2)));
        assert!(!admission.is_full(252, at(4), &mut pauses));
        assert_eq!((pauses.count, pauses.time), (1, Duration::from_secs(3)));

        let mut one = Admission::new(1, None);
        assert!(one.is_full(1, at(0), &mut pauses));
        assert!(!one.is_full(0, at(0), &mut pauses));
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut admission = Admission::new(10, Some(2));
        assert!(admission.enter(0, address("10.0.0.1")));
        assert!(admission.enter(1, address("10.0.0.1")));
        assert!(!admission.enter(2, address("10.0.0.1")));
        assert!(admission.enter(3, address("10.0.0.2")));
        admission.leave(2);
        admission.leave(2);
        assert!(!admission.enter(2, address("10.0.0.1")), "left once");
        admission.leave(2);
        admission.leave(0);
        assert!(admission.enter(0, address("10.0.0.1")));

        assert!(admission.enter(4, address("2001:db8::1")));
        assert!(admission.enter(5, address("2001:db8::2")));
        assert!(
            !admission.enter(6, address("2001:db8::3")),
            "of the same /64"
        );
        assert!(admission.enter(7, address("2001:db8:0:1::1")));
        assert!(admission.enter(8, address("::ffff:10.0.0.3")));
        assert!(
            admission.enter(9, address("::ffff:10.0.0.4")),
            "another address"
        );
    }
}
