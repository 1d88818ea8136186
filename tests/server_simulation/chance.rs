//! Chance that is the same for the same seed: dice that are thrown one after the other, the bytes
//! of the clients, and the agenda of what is to come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;

use upcase::load::random::{Dice, Purpose};

/// Dice that are thrown one after the other.
#[derive(Clone, Debug)]
pub struct Chance {
    dice: Dice,
    thrown: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Chance {
        let dice = Dice::new(seed, Purpose::Gaps, u64::MAX);
        Chance { dice, thrown: 0 }
    }

    /// From 0 to below `end`.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        ((u128::from(self.dice.at(self.thrown)) * u128::from(end)) >> 64) as u64
    }

    /// True once in so many times; 0: never.
    #[inline]
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    #[inline]
    pub fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// What is to come, by its time; at equal times in the order in which it was put down.
#[derive(Debug)]
pub struct Agenda<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    order: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    order: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub fn new() -> Agenda<T> {
        Agenda {
            heap: BinaryHeap::new(),
            order: 0,
        }
    }

    pub fn put(&mut self, at: u64, what: T) {
        let order = self.order;
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order, what }));
    }

    /// When the next thing comes.
    #[inline]
    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    pub fn take(&mut self, now: u64) -> Option<T> {
        self.next().filter(|&at| at <= now)?;
        self.heap.pop().map(|Reverse(entry)| entry.what)
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

/// The bytes of a client are a part of one long text, so that no run has to keep them.
const PERIOD: u64 = 8191;
const READ_BYTES_MAX: u64 = 4096;

/// All bytes there are, in any order, and what they are in upper case.
static TEXT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let dice = Dice::new(0, Purpose::Bytes, 0);
    let plain: Vec<u8> = (0..PERIOD + READ_BYTES_MAX)
        .map(|place| dice.at(place % PERIOD) as u8)
        .collect();
    let upper = plain.iter().map(|&byte| upper_case(byte)).collect();
    (plain, upper)
});

/// Written out, so that it has nothing in common with the server.
pub fn upper_case(byte: u8) -> u8 {
    match byte {
        97..=122 => byte - 32,
        _ => byte,
    }
}

/// What a client with this key sends from this place of its stream on.
pub fn sent_bytes(key: u64, from: u64, count: usize) -> &'static [u8] {
    let place = ((key + from) % PERIOD) as usize;
    &TEXT.0[place..place + count]
}

/// What it is to get for it.
pub fn reply_bytes(key: u64, from: u64, count: usize) -> &'static [u8] {
    let place = ((key + from) % PERIOD) as usize;
    &TEXT.1[place..place + count]
}
