//! Random numbers that are the same for the same seed, the byte streams of the clients, and the
//! agenda of scheduled actions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;

use upcase::load::plan::random::{Purpose, RandomStream};

/// A sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Chance {
    random: RandomStream,
    thrown: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Chance {
        let random = RandomStream::new(seed, Purpose::Gaps, u64::MAX);
        Chance { random, thrown: 0 }
    }

    /// Returns a number from 0 to below `end`.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        ((u128::from(self.random.at(self.thrown)) * u128::from(end)) >> 64) as u64
    }

    /// Returns true once in so many times on average; 0: never.
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

/// The scheduled actions, ordered by time; those of the same time in the order of scheduling.
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

    /// Returns the time of the next action.
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

/// The period of the text of which every client sends a part. So no run has to store what was sent.
const PERIOD: u64 = 8191;
const READ_BYTES_MAX: u64 = 4096;

/// A random text with all byte values, and the same text in upper case.
static TEXT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let random = RandomStream::new(0, Purpose::Bytes, 0);
    let plain: Vec<u8> = (0..PERIOD + READ_BYTES_MAX)
        .map(|place| random.at(place % PERIOD) as u8)
        .collect();
    let upper = plain.iter().map(|&byte| upper_case(byte)).collect();
    (plain, upper)
});

/// Converts a byte to upper case. It is written out so that it shares no code with the server.
pub fn upper_case(byte: u8) -> u8 {
    match byte {
        97..=122 => byte - 32,
        _ => byte,
    }
}

/// Returns the bytes that a client with this key sends from this place of its stream.
pub fn sent_bytes(key: u64, from: u64, count: usize) -> &'static [u8] {
    let place = ((key + from) % PERIOD) as usize;
    &TEXT.0[place..place + count]
}

/// Returns the expected reply to these bytes.
pub fn reply_bytes(key: u64, from: u64, count: usize) -> &'static [u8] {
    let place = ((key + from) % PERIOD) as usize;
    &TEXT.1[place..place + count]
}
