//! Admission control: limits the number of clients, in total and per client address. Pure.
//!
//! At the limit no client is refused: accepting pauses, and new clients wait in the accept queue.
//! It resumes when a small part of the limit is free again, so that a full server does not start
//! and stop accepting with every client. A client whose address is at its limit is refused, since
//! letting it wait would only delay the clients behind it in the queue.
//!
//! Both limits are those of the whole server. Its shards share them, see
//! [`crate::server::connection_limit`]; a server of one shard counts by itself.
//!
//! Invariant: of the shared places, a shard holds as many as it has clients, and one more while it
//! accepts a client.

use std::collections::TryReserveError;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::server::connection_limit::{
    Addresses as SharedAddresses, ConnectionLimit, Shards, room,
};
use crate::server::stats::Pauses;

/// The state of admission control.
#[derive(Debug)]
pub struct Admission {
    cap: usize,
    full_since: Option<Instant>,
    /// The shared places; `None` when this is the only shard.
    share: Option<Share>,
    addresses: Option<Addresses>,
}

/// The places that one shard holds, of those that all shards share.
#[derive(Debug)]
struct Share {
    places: Arc<ConnectionLimit>,
    shard: usize,
    /// Number of places that this shard holds.
    held: usize,
    /// Whether this shard waits for a place, or was granted one that it has not taken.
    is_waiting: bool,
    /// Shards that were granted places and must be woken.
    woken: Shards,
}

/// The number of clients by address, in all shards, and the address of each client of this shard by
/// its slot in the table.
#[derive(Debug)]
struct Addresses {
    most: u32,
    open: Arc<SharedAddresses>,
    places: Vec<Option<IpAddr>>,
}

/// The result of counting a client's address.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// The client is within the limit.
    Admitted,
    /// The address has this number of connections already, which is its limit.
    OverLimit(u32),
    /// The client could not be counted, since there was no memory.
    OutOfMemory(TryReserveError),
}

impl Admission {
    /// Returns the state for at most `cap` clients in total and `of_one_address` of each address.
    pub fn new(cap: usize, of_one_address: Option<u32>) -> Self {
        Admission {
            cap,
            full_since: None,
            share: None,
            addresses: of_one_address.map(|most| Addresses {
                most,
                open: Arc::default(),
                places: Vec::new(),
            }),
        }
    }

    /// Shares the limits with the other shards from now on; `shard` is the number of this one.
    pub fn share(&mut self, places: Arc<ConnectionLimit>, shard: usize) {
        if let Some(addresses) = &mut self.addresses {
            addresses.open = Arc::clone(places.addresses());
        }
        self.share = Some(Share {
            places,
            shard,
            held: 0,
            is_waiting: false,
            woken: Shards::default(),
        });
    }

    /// Takes a place for one more client besides the `open` ones. Returns false when the server is
    /// full: from the limit on, until enough places are free. Counts the pauses in accepting.
    #[inline]
    pub fn take(&mut self, open: usize, now: Instant, pauses: &mut Pauses) -> bool {
        let has_place = match &mut self.share {
            None => self.has_room(open),
            Some(share) => share.take(),
        };
        match self.full_since {
            None if !has_place => {
                self.full_since = Some(now);
                pauses.count += 1;
            }
            Some(since) if has_place => {
                self.full_since = None;
                pauses.time += now.saturating_duration_since(since);
            }
            _ => {}
        }
        has_place
    }

    #[inline]
    fn has_room(&self, open: usize) -> bool {
        match self.full_since {
            None => open < self.cap,
            Some(_) => open + room(self.cap) <= self.cap,
        }
    }

    /// Gives a place back, for which no client could be accepted or whose client has gone.
    #[inline]
    pub fn give_back(&mut self) {
        if let Some(share) = &mut self.share {
            share.give();
        }
    }

    /// Stops waiting for a place, since no client waits here any more: a place granted to this
    /// shard becomes free for the others.
    pub fn stop_waiting(&mut self, now: Instant, pauses: &mut Pauses) {
        if let Some(share) = &mut self.share
            && share.is_waiting
        {
            share.leave();
            let since = self.full_since.take().unwrap_or(now);
            pauses.time += now.saturating_duration_since(since);
        }
    }

    /// Returns the shards that were granted places since the last call and must be woken, if any.
    #[inline]
    pub fn take_woken(&mut self) -> Option<Shards> {
        let share = self.share.as_mut()?;
        match share.woken.is_empty() {
            true => None,
            false => Some(std::mem::take(&mut share.woken)),
        }
    }

    /// Returns the maximum number of clients in all shards.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Returns how long the server has been full; `None` when it is not.
    pub fn full_for(&self, now: Instant) -> Option<Duration> {
        let since = self.full_since?;
        Some(now.saturating_duration_since(since))
    }

    /// Returns whether clients are counted by address, so that the address of every client is
    /// needed.
    pub fn counts_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    /// Counts the client in the slot `place` under its address until it leaves, even when the
    /// address is at its limit already.
    pub fn enter(&mut self, place: usize, address: IpAddr) -> Entry {
        let Some(addresses) = &mut self.addresses else {
            return Entry::Admitted;
        };
        match addresses.enter(place, network(address)) {
            Ok(open) if open > addresses.most => Entry::OverLimit(open - 1),
            Ok(_) => Entry::Admitted,
            Err(error) => Entry::OutOfMemory(error),
        }
    }

    /// Removes the client in the slot `place` from the counts.
    #[inline]
    pub fn leave(&mut self, place: usize) {
        self.give_back();
        if let Some(addresses) = &mut self.addresses {
            addresses.leave(place);
        }
    }
}

impl Share {
    #[inline]
    fn take(&mut self) -> bool {
        let woken = &mut self.woken;
        let has_place = match self.is_waiting {
            false => self.places.take(self.shard, woken),
            true => self.places.take_in_turn(self.shard, woken),
        };
        self.held += usize::from(has_place);
        self.is_waiting = !has_place;
        has_place
    }

    #[inline]
    fn give(&mut self) {
        self.held -= 1;
        self.places.give(&mut self.woken);
    }

    fn leave(&mut self) {
        self.is_waiting = false;
        self.places.leave(self.shard, &mut self.woken);
    }
}

/// Gives all places back when a shard fails. It wakes no shard for them: the others are woken to
/// drain.
impl Drop for Share {
    fn drop(&mut self) {
        while self.held > 0 {
            self.give();
        }
        self.leave();
    }
}

impl Addresses {
    /// Counts a client, and returns the number of clients of its network.
    fn enter(&mut self, place: usize, network: IpAddr) -> Result<u32, TryReserveError> {
        if self.places.len() <= place {
            self.places.try_reserve(place + 1 - self.places.len())?;
            self.places.resize(place + 1, None);
        }
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        all.try_reserve(1)?;
        let open = all.entry(network).or_default();
        *open += 1;
        self.places[place] = Some(network);
        Ok(*open)
    }

    fn leave(&mut self, place: usize) {
        let Some(network) = self.places.get_mut(place).and_then(Option::take) else {
            return;
        };
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&network) {
            *open -= 1;
            if *open == 0 {
                all.remove(&network);
            }
        }
    }
}

/// Removes the clients from the counts that are still there when a shard fails.
impl Drop for Addresses {
    fn drop(&mut self) {
        for place in 0..self.places.len() {
            self.leave(place);
        }
    }
}

/// Returns the part of an address that is counted: an IPv4 address, or the /64 of an IPv6 address,
/// since one user of IPv6 has at least a /64 (RFC 6177). An IPv4-mapped IPv6 address, as a
/// dual-stack socket that was handed over reports it, is an IPv4 address.
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
        assert!(admission.take(255, at(0), &mut pauses));
        assert!(!admission.take(256, at(1), &mut pauses));
        assert!(
            !admission.take(253, at(2), &mut pauses),
            "four places are to be free"
        );
        assert_eq!(admission.full_for(at(3)), Some(Duration::from_secs(2)));
        assert!(admission.take(252, at(4), &mut pauses));
        assert_eq!((pauses.count, pauses.time), (1, Duration::from_secs(3)));

        let mut one = Admission::new(1, None);
        assert!(!one.take(1, at(0), &mut pauses));
        assert!(one.take(0, at(0), &mut pauses));
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut admission = Admission::new(10, Some(2));
        assert_eq!(admission.enter(0, address("10.0.0.1")), Entry::Admitted);
        assert_eq!(admission.enter(1, address("10.0.0.1")), Entry::Admitted);
        assert_eq!(admission.enter(2, address("10.0.0.1")), Entry::OverLimit(2));
        assert_eq!(admission.enter(3, address("10.0.0.2")), Entry::Admitted);
        admission.leave(2);
        admission.leave(2);
        assert_eq!(
            admission.enter(2, address("10.0.0.1")),
            Entry::OverLimit(2),
            "left once"
        );
        admission.leave(2);
        admission.leave(0);
        assert_eq!(admission.enter(0, address("10.0.0.1")), Entry::Admitted);

        assert_eq!(admission.enter(4, address("2001:db8::1")), Entry::Admitted);
        assert_eq!(admission.enter(5, address("2001:db8::2")), Entry::Admitted);
        assert_eq!(
            admission.enter(6, address("2001:db8::3")),
            Entry::OverLimit(2),
            "of the same /64"
        );
        assert_eq!(
            admission.enter(7, address("2001:db8:0:1::1")),
            Entry::Admitted
        );
        assert_eq!(
            admission.enter(8, address("::ffff:10.0.0.3")),
            Entry::Admitted
        );
        assert_eq!(
            admission.enter(9, address("::ffff:10.0.0.4")),
            Entry::Admitted,
            "another address"
        );
    }
}
