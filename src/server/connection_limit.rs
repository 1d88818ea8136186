//! The limits on clients that the shards of one server share, in total and per address. Pure: the
//! shards to wake are returned.
//!
//! A place is the permission to have one client. The kernel distributes clients over the shards by
//! a hash, so the limit cannot be divided beforehand: one shard would be full, and its clients
//! would wait, while others have room. A shard takes a place before it accepts a client, and gives
//! it back when no client could be accepted, or when the client has gone.
//!
//! ```text
//!   free places           take and give are one atomic operation each, and nothing else
//!   none left             the shard joins a waiting list, once, and is woken by the grant of one
//!   enough are free again each shard on that list, from its front, is granted one, which is not
//!                         free for the others: a shard whose clients leave cannot keep its places
//! ```
//!
//! A shard on the waiting list has clients in its accept queue, so it needs the place that it is
//! granted; if it ends before it takes the place, [`ConnectionLimit::leave`] gives the place back.
//!
//! Invariants: taken + granted is at most the limit. A shard on the waiting list has no grant. When
//! enough places are free, the list is empty: a shard that gives a place back checks the list
//! afterwards, and a shard that joins the list checks for free places afterwards (both `SeqCst`),
//! so that at least one of the two sees the other.
//!
//! A server of one shard uses none of this.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of clients by address, in all shards.
pub type Addresses = Mutex<HashMap<IpAddr, u32>>;

/// Part of the limit that must be free before a full server accepts again: one of ROOM parts, and
/// at most ROOM_MOST places, since free places may stay empty while clients wait.
const ROOM: usize = 64;
const ROOM_MOST: usize = 16;

/// Returns the number of places of a limit that must be free before a full server accepts again.
pub fn room(cap: usize) -> usize {
    (cap / ROOM).clamp(1, ROOM_MOST)
}

/// Maximum number of shards.
pub const SHARDS_MOST: usize = 256;

/// The places of one server.
#[derive(Debug)]
pub struct ConnectionLimit {
    cap: usize,
    /// Number of places that are taken or granted.
    taken: AtomicUsize,
    /// Whether a shard is on the waiting list.
    is_contended: AtomicBool,
    line: Mutex<WaitingList>,
    addresses: Arc<Addresses>,
}

#[derive(Debug)]
struct WaitingList {
    /// Shards that wait for a place, in the order in which they joined. Its capacity never grows.
    waiting: VecDeque<usize>,
    /// Shards that were granted a place and have not taken it.
    granted: Shards,
}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shards([u64; SHARDS_MOST / 64]);

impl ConnectionLimit {
    /// Returns `cap` places for at most `shards` shards.
    pub fn new(cap: usize, shards: usize) -> ConnectionLimit {
        ConnectionLimit {
            cap,
            taken: AtomicUsize::new(0),
            is_contended: AtomicBool::new(false),
            line: Mutex::new(WaitingList {
                waiting: VecDeque::with_capacity(shards),
                granted: Shards::default(),
            }),
            addresses: Arc::default(),
        }
    }

    /// Returns the number of places that are taken or granted.
    pub fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// Returns the number of clients by address.
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// Takes a place for a client of this shard. Returns false when there is none now, and puts the
    /// shard on the waiting list: from then on it must call [`ConnectionLimit::take_in_turn`],
    /// until that returns true. Adds to `woken` the shards that must be woken.
    #[inline]
    pub fn take(&self, shard: usize, woken: &mut Shards) -> bool {
        (!self.is_contended.load(SeqCst) && self.take_free()) || self.take_in_turn(shard, woken)
    }

    fn take_free(&self) -> bool {
        let more = |taken| (taken < self.cap).then_some(taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, more).is_ok()
    }

    /// Takes a place like [`ConnectionLimit::take`], for a shard that may have been granted one: it
    /// then takes that one.
    #[cold]
    pub fn take_in_turn(&self, shard: usize, woken: &mut Shards) -> bool {
        let mut line = self.line();
        if line.granted.remove(shard) || (line.waiting.is_empty() && self.take_free()) {
            return true;
        }
        if !line.waiting.contains(&shard) {
            line.waiting.push_back(shard);
        }
        self.is_contended.store(true, SeqCst);
        self.grant(&mut line, woken);
        woken.remove(shard);
        line.granted.remove(shard)
    }

    /// Gives a place back.
    #[inline]
    pub fn give(&self, woken: &mut Shards) {
        self.taken.fetch_sub(1, SeqCst);
        if self.is_contended.load(SeqCst) {
            self.grant(&mut self.line(), woken);
        }
    }

    /// Removes this shard from the waiting list, since no client waits there; a place that was
    /// granted to it is free again.
    #[cold]
    pub fn leave(&self, shard: usize, woken: &mut Shards) {
        let mut line = self.line();
        line.waiting.retain(|&waiting| waiting != shard);
        if line.granted.remove(shard) {
            self.taken.fetch_sub(1, SeqCst);
        }
        self.grant(&mut line, woken);
    }

    /// If enough places are free, grants one to each shard on the waiting list, as long as there
    /// are any.
    #[cold]
    fn grant(&self, line: &mut WaitingList, woken: &mut Shards) {
        if self.cap.saturating_sub(self.taken()) >= room(self.cap) {
            while !line.waiting.is_empty() && self.take_free() {
                if let Some(shard) = line.waiting.pop_front() {
                    line.granted.insert(shard);
                    woken.insert(shard);
                }
            }
        }
        self.is_contended.store(!line.waiting.is_empty(), SeqCst);
    }

    /// Locks the waiting list. A thread that panicked while it held the lock has left no change
    /// half done.
    fn line(&self) -> MutexGuard<'_, WaitingList> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shards {
    /// Adds a shard.
    pub fn insert(&mut self, shard: usize) {
        self.0[shard / 64] |= 1 << (shard % 64);
    }

    /// Removes a shard. Returns false when it was not in the set.
    pub fn remove(&mut self, shard: usize) -> bool {
        let bit = 1 << (shard % 64);
        let was_there = self.0[shard / 64] & bit != 0;
        self.0[shard / 64] &= !bit;
        was_there
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; SHARDS_MOST / 64]
    }

    /// Returns the shards of the set.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..SHARDS_MOST).filter(move |shard| self.0[shard / 64] & (1 << (shard % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    fn shards(numbers: &[usize]) -> Shards {
        let mut shards = Shards::default();
        numbers.iter().for_each(|&number| shards.insert(number));
        shards
    }

    #[test]
    fn a_place_goes_to_the_shard_that_has_waited_longest_and_to_no_other() {
        let places = ConnectionLimit::new(2, 3);
        let mut woken = Shards::default();
        assert!(places.take(0, &mut woken));
        assert!(places.take(0, &mut woken));
        assert!(!places.take(1, &mut woken));
        assert!(!places.take(2, &mut woken));
        assert!(!places.take(0, &mut woken));
        assert!(woken.is_empty());
        places.give(&mut woken);
        assert_eq!(std::mem::take(&mut woken), shards(&[1]));
        assert!(
            !places.take_in_turn(0, &mut woken),
            "its client left, and it waits"
        );
        assert!(places.take_in_turn(1, &mut woken));
        places.give(&mut woken);
        places.give(&mut woken);
        assert_eq!(std::mem::take(&mut woken), shards(&[2, 0]));
        places.leave(2, &mut woken);
        assert!(places.take(1, &mut woken), "2 has left it");
        assert!(!places.take(1, &mut woken));
        assert!(places.take_in_turn(0, &mut woken));
        assert_eq!(places.taken(), 2);
    }

    #[test]
    fn a_full_server_of_several_shards_waits_for_some_room() {
        let places = ConnectionLimit::new(256, 2);
        let mut woken = Shards::default();
        (0..256).for_each(|_| assert!(places.take(0, &mut woken)));
        assert!(!places.take(1, &mut woken));
        for _ in 0..3 {
            places.give(&mut woken);
            assert!(woken.is_empty(), "four places are to be free");
        }
        places.give(&mut woken);
        assert_eq!(woken, shards(&[1]));
    }

    /// A flag that wakes a thread.
    #[derive(Default)]
    struct Bell(Mutex<bool>, Condvar);

    impl Bell {
        fn ring(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }

        fn wait(&self) {
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut rang = self.0.lock().unwrap();
            while !std::mem::take(&mut *rang) {
                assert!(Instant::now() < deadline, "it waits, and nobody wakes it");
                rang = self.1.wait_timeout(rang, Duration::from_secs(1)).unwrap().0;
            }
        }
    }

    /// Runs the work of one shard: clients connect, and some leave, at the latest when the shard
    /// has to wait.
    fn run_shard(
        places: &ConnectionLimit,
        shard: usize,
        bells: &[Bell],
        open: &AtomicUsize,
        cap: usize,
    ) {
        const CLIENTS: usize = 3000;
        let ring = |woken: &mut Shards| {
            let woken = std::mem::take(woken);
            woken.iter().for_each(|shard| bells[shard].ring());
        };
        let (mut held, mut is_waiting, mut woken) = (0, false, Shards::default());
        let leave = |held: &mut usize, woken: &mut Shards| {
            open.fetch_sub(1, SeqCst);
            *held -= 1;
            places.give(woken);
        };
        for client in 0..CLIENTS {
            loop {
                let has_place = match is_waiting {
                    false => places.take(shard, &mut woken),
                    true => places.take_in_turn(shard, &mut woken),
                };
                ring(&mut woken);
                is_waiting = !has_place;
                if has_place {
                    break;
                }
                if held > 0 {
                    leave(&mut held, &mut woken);
                    ring(&mut woken);
                } else {
                    bells[shard].wait();
                }
            }
            held += 1;
            assert!(open.fetch_add(1, SeqCst) < cap, "more than the cap");
            if client % 3 == shard % 3 {
                leave(&mut held, &mut woken);
                ring(&mut woken);
            }
        }
        while held > 0 {
            leave(&mut held, &mut woken);
            ring(&mut woken);
        }
        places.leave(shard, &mut woken);
        ring(&mut woken);
    }

    #[test]
    fn threads_never_exceed_the_cap_and_none_sleeps_while_there_is_room() {
        for cap in [1, 2, 5, 200] {
            const SHARDS: usize = 4;
            let (places, open) = (ConnectionLimit::new(cap, SHARDS), AtomicUsize::new(0));
            let bells: Vec<Bell> = (0..SHARDS).map(|_| Bell::default()).collect();
            thread::scope(|scope| {
                for shard in 0..SHARDS {
                    let (places, bells, open) = (&places, &bells, &open);
                    scope.spawn(move || run_shard(places, shard, bells, open, cap));
                }
            });
            assert_eq!((places.taken(), open.into_inner()), (0, 0));
        }
    }
}
