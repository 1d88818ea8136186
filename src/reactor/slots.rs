//! The table of connections: tokens that cannot be mistaken, and the queue of unfinished work.
//!
//! The kernel may still report a connection that was closed earlier in the same batch of events,
//! and a slab gives the freed place to the next one at once. So a token carries a generation
//! beside the index, and a token of an earlier generation finds nothing.
//!
//! A connection that spent its budget is requeued, since edge-triggered epoll will not report it
//! again. Invariant: a connection stands in that queue at most once.

use std::collections::VecDeque;
use std::fmt;

use slab::Slab;

/// The name of an event source: a place in the table and the generation that lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// Generation 0 is never given to a connection: it names the sources that are always there.
const FIXED: u32 = 0;

impl Token {
    /// The token of a source that lives outside any table: a listener, an alarm.
    pub const fn fixed(index: u32) -> Self {
        Token {
            index,
            generation: FIXED,
        }
    }

    /// Whether this is not the token of a connection.
    pub fn is_fixed(self) -> bool {
        self.generation == FIXED
    }

    /// The place in the table; a connection that comes later may have the same.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The token as the 64 bits that the kernel hands back.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`Token::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        Token {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// As a person reads it in the log: generations count up, so that of a connection is its number.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.generation)
    }
}

/// Connections by token, and those of them that are owed another turn.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Slab<Entry<T>>,
    requeued: VecDeque<Token>,
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    requeued: bool,
    value: T,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots {
            entries: Slab::new(),
            requeued: VecDeque::new(),
            generation: FIXED,
        }
    }
}

impl<T> Slots<T> {
    /// Adds a connection. The table holds at most `u32::MAX`, far above any descriptor limit.
    pub fn insert(&mut self, value: T) -> Token {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == FIXED {
            self.generation += 1;
        }
        let index = self.entries.insert(Entry {
            generation: self.generation,
            requeued: false,
            value,
        });
        Token {
            index: index as u32,
            generation: self.generation,
        }
    }

    /// The connection of this token; `None` when it is gone.
    pub fn get(&self, token: Token) -> Option<&T> {
        self.entries
            .get(token.index as usize)
            .filter(|entry| entry.generation == token.generation)
            .map(|entry| &entry.value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.entry(token).map(|entry| &mut entry.value)
    }

    /// Takes a connection out; `None` when it is gone already.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.entry(token)?;
        Some(self.entries.remove(token.index as usize).value)
    }

    /// Asks for another turn for this connection. Asking twice is asking once.
    pub fn requeue(&mut self, token: Token) {
        if let Some(entry) = self.entry(token)
            && !entry.requeued
        {
            entry.requeued = true;
            self.requeued.push_back(token);
        }
    }

    /// Whether this connection waits in the queue, so that its events need not be served now.
    pub fn is_requeued(&mut self, token: Token) -> bool {
        self.entry(token).is_some_and(|entry| entry.requeued)
    }

    /// How many places the queue holds, closed connections included.
    pub fn requeued(&self) -> usize {
        self.requeued.len()
    }

    /// The connection that has waited longest in the queue; `None` when that one is gone.
    pub fn next_requeued(&mut self) -> Option<Token> {
        let token = self.requeued.pop_front()?;
        self.entry(token)?.requeued = false;
        Some(token)
    }

    /// Every token, in the order of the table.
    pub fn tokens(&self) -> Vec<Token> {
        let token = |(index, entry): (usize, &Entry<T>)| Token {
            index: index as u32,
            generation: entry.generation,
        };
        self.entries.iter().map(token).collect()
    }

    /// Every connection, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| &entry.value)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, token: Token) -> Option<&mut Entry<T>> {
        self.entries
            .get_mut(token.index as usize)
            .filter(|entry| entry.generation == token.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_closed_connection_finds_nothing_in_its_reused_slot() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");

        assert_eq!(first.index, second.index, "the slab reuses the place");
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn a_generation_is_never_that_of_the_fixed_sources() {
        let mut slots = Slots {
            generation: u32::MAX,
            ..Slots::default()
        };
        assert!(!slots.insert(()).is_fixed());
        assert!(Token::fixed(7).is_fixed());
    }

    #[test]
    fn bits_and_back() {
        let mut slots = Slots::default();
        slots.insert(());
        let token = slots.insert(());
        assert_eq!(Token::from_bits(token.to_bits()), token);
    }

    #[test]
    fn a_connection_is_queued_once_and_a_closed_one_is_passed_over() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        slots.requeue(a);
        slots.requeue(a);
        slots.requeue(b);
        slots.remove(a);

        assert_eq!(slots.requeued(), 2);
        assert_eq!(slots.next_requeued(), None, "a is gone");
        assert!(slots.is_requeued(b));
        assert_eq!(slots.next_requeued(), Some(b));
        assert!(!slots.is_requeued(b));
    }
}
