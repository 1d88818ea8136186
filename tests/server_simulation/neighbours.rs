//! Other shards of the same server, which share its cap: they take places, give them back, and
//! stand in the line for them, as the dice say.

use std::sync::Arc;

use upcase::server::places::{Places, Shards, room};

use crate::kernel::{Happening, State};

/// The number of the shard that is simulated whole.
pub const ENGINE: usize = 0;

/// So many others there are.
const OTHERS: usize = 3;

/// What one of them holds.
#[derive(Clone, Copy, Debug, Default)]
struct Neighbour {
    held: usize,
    waits: bool,
}

/// All of them, and what they share with the engine.
#[derive(Debug)]
pub struct Neighbours {
    pub places: Arc<Places>,
    cap: usize,
    others: [Neighbour; OTHERS],
    /// The engine was granted a place, and is to have a turn.
    pub is_engine_woken: bool,
    /// How often it was.
    pub wakes: u64,
    are_calm: bool,
}

impl Neighbours {
    pub fn new(cap: usize) -> Neighbours {
        Neighbours {
            places: Arc::new(Places::new(cap, OTHERS + 1)),
            cap,
            others: Default::default(),
            is_engine_woken: false,
            wakes: 0,
            are_calm: false,
        }
    }

    /// The places that they hold.
    pub fn held(&self) -> usize {
        self.others.iter().map(|other| other.held).sum()
    }

    /// Whether a shard with so many clients and others in its queue must have been woken.
    pub fn has_room(&self, open: usize) -> bool {
        open + self.held() + room(self.cap) <= self.cap
    }

    /// These were granted places. What one does not need it leaves to the others.
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
                // It has left the line meanwhile, and its place to the others.
                continue;
            }
            if !needs || self.are_calm {
                self.places.leave(shard, &mut woken);
            } else {
                let is_granted = self.places.take_in_turn(shard, &mut woken);
                assert!(is_granted, "it was woken for nothing");
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

    /// All of them go, and nobody new comes to them.
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
    /// A client comes to another shard, or goes.
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
