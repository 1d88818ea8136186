//! Simulates the other shards of the same server, which share its connection limit: they take
//! places, return them, and queue for them, at random.

use std::sync::Arc;

use upcase::server::connection_limit::{ConnectionLimit, Shards, room};

use crate::kernel::{Happening, State};

/// The number of the shard whose engine is simulated in full.
pub const ENGINE: usize = 0;

/// Number of the other shards.
const OTHERS: usize = 3;

/// The state of another shard.
#[derive(Clone, Copy, Debug, Default)]
struct Neighbour {
    held: usize,
    waits: bool,
}

/// All other shards, and the places that they share with the engine.
#[derive(Debug)]
pub struct OtherShards {
    pub places: Arc<ConnectionLimit>,
    cap: usize,
    others: [Neighbour; OTHERS],
    /// Whether the engine was granted a place and must get a turn.
    pub is_engine_woken: bool,
    /// Number of times that the engine was granted a place.
    pub wakes: u64,
    are_calm: bool,
}

impl OtherShards {
    pub fn new(cap: usize) -> OtherShards {
        OtherShards {
            places: Arc::new(ConnectionLimit::new(cap, OTHERS + 1)),
            cap,
            others: Default::default(),
            is_engine_woken: false,
            wakes: 0,
            are_calm: false,
        }
    }

    /// Returns the number of places that the other shards hold.
    pub fn held(&self) -> usize {
        self.others.iter().map(|other| other.held).sum()
    }

    /// Returns whether there is so much room that a shard with this many connections, and with
    /// clients in its accept queue, must have been woken.
    pub fn has_room(&self, open: usize) -> bool {
        open + self.held() + room(self.cap) <= self.cap
    }

    /// Handles the grant of places to these shards. A place that a shard does not need is left to
    /// the others.
    pub fn wake(&mut self, woken: Shards, needs: bool) {
        let mut woken = woken;
        while let Some(shard) = woken.iter().next() {
            woken.remove(shard);
            if shard == ENGINE {
                self.is_engine_woken = true;
                self.wakes += 1;
                continue;
            }
            let other = &mut self.others[shard - 1];
            if !std::mem::take(&mut other.waits) {
                // In the meantime the shard has left the queue and its place to the others.
                continue;
            }
            if !needs || self.are_calm {
                self.places.leave(shard, &mut woken);
            } else {
                let is_granted = self.places.take_in_turn(shard, &mut woken);
                assert!(is_granted, "it was woken without a grant");
                other.held += 1;
            }
        }
    }

    fn take(&mut self, number: usize, needs: bool) {
        let mut woken = Shards::default();
        let shard = number + 1;
        match self.places.take(shard, &mut woken) {
            true => self.others[number].held += 1,
            false => self.others[number].waits = true,
        }
        self.wake(woken, needs);
    }

    fn give(&mut self, number: usize, needs: bool) {
        if self.others[number].held > 0 {
            self.others[number].held -= 1;
            let mut woken = Shards::default();
            self.places.give(&mut woken);
            self.wake(woken, needs);
        }
    }

    /// Returns all places of the other shards, which take none from now on.
    pub fn calm(&mut self) {
        self.are_calm = true;
        for number in 0..OTHERS {
            if std::mem::take(&mut self.others[number].waits) {
                let mut woken = Shards::default();
                self.places.leave(number + 1, &mut woken);
                self.wake(woken, false);
            }
            while self.others[number].held > 0 {
                self.give(number, false);
            }
        }
    }
}

impl State {
    /// Lets a client connect to another shard, or leave it.
    pub fn neighbour_acts(&mut self) {
        let Some(neighbours) = self.neighbours.as_mut().filter(|it| !it.are_calm) else {
            return;
        };
        let number = self.chance.below(OTHERS as u64) as usize;
        let needs = !self.chance.one_in(4);
        match self.chance.one_in(2) {
            true if !neighbours.others[number].waits => neighbours.take(number, needs),
            _ => neighbours.give(number, needs),
        }
        let gap = self.chance.between((1000, 500_000));
        self.later(gap, Happening::Neighbour);
    }
}
