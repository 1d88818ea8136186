//! The slab of connections: tokens with generations, and the queue of connections that are owed
//! another turn.
//!
//! The kernel may report a connection that was closed earlier in the same batch of events, and a
//! slab reuses the freed slot at once. So a token carries a generation beside the index, and a
//! token of an earlier generation finds nothing.
//!
//! When memory is short, [`Slots::reserve`] and [`Slots::try_requeue`] return an error instead of
//! ending the process, and inserting into a reserved slot needs no memory. That is why this table
//! does not use the crate `slab`, which cannot return that error.
//!
//! A connection that spent its budget is requeued, because edge-triggered epoll does not report it
//! again.
//!
//! Invariants: a connection is in the queue at most once. The vacant slots form a list that begins
//! at `vacant`; the slot that was freed last is reused first.

use std::collections::{TryReserveError, VecDeque};
use std::fmt;

/// Identifies an event source: the index of its slot and the generation of the connection in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// The generation of sources that are in no table. No connection ever has it.
const FIXED: u32 = 0;

impl Token {
    /// Returns the token of a source that is in no table: a listener, a timerfd.
    pub const fn fixed(index: u32) -> Self {
        Token {
            index,
            generation: FIXED,
        }
    }

    /// Returns whether the source is in no table, and so is not a connection.
    pub fn is_fixed(self) -> bool {
        self.generation == FIXED
    }

    /// Returns the index of the slot, which a later connection may reuse.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Returns the token as the 64 bits that epoll returns with an event.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Returns the token that [`Token::to_bits`] made these bits of.
    pub fn from_bits(bits: u64) -> Self {
        Token {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// Formats the generation, which is the number of the connection in the log: generations count up.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.generation)
    }
}

/// A slab of connections by token, and the queue of those that are owed another turn.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Vec<Entry<T>>,
    /// The first vacant slot, or the length of the table.
    vacant: u32,
    len: usize,
    requeued: VecDeque<Token>,
    generation: u32,
}

/// A slot of the table.
#[derive(Debug)]
struct Entry<T> {
    /// The generation of the connection; in a vacant slot, the index of the next vacant slot.
    generation: u32,
    requeued: bool,
    value: Option<T>,
}

/// Number of slots by which the table grows when memory is too short to double it.
const GROWTH_LEAST: usize = 64;

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots {
            entries: Vec::new(),
            vacant: 0,
            len: 0,
            requeued: VecDeque::new(),
            generation: FIXED,
        }
    }
}

impl<T> Slots<T> {
    /// Reserves a slot, so that the next [`Slots::insert`] needs no memory. Fails if memory is
    /// short.
    #[inline(always)]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        let is_end = self.vacant as usize == self.entries.len();
        match is_end && self.entries.len() == self.entries.capacity() {
            false => Ok(()),
            true => self.grow(),
        }
    }

    #[cold]
    fn grow(&mut self) -> Result<(), TryReserveError> {
        let doubled = self.entries.try_reserve(1);
        doubled.or_else(|_| self.entries.try_reserve_exact(GROWTH_LEAST))
    }

    /// Inserts a connection and returns its token. The table holds up to `u32::MAX` connections,
    /// far more than any limit on descriptors.
    pub fn insert(&mut self, value: T) -> Token {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == FIXED {
            self.generation += 1;
        }
        let index = self.vacant;
        let entry = Entry {
            generation: self.generation,
            requeued: false,
            value: Some(value),
        };
        match self.entries.get_mut(index as usize) {
            Some(place) => self.vacant = std::mem::replace(place, entry).generation,
            None => {
                self.entries.push(entry);
                self.vacant = self.entries.len() as u32;
            }
        }
        self.len += 1;
        Token {
            index,
            generation: self.generation,
        }
    }

    /// Returns the connection of this token; `None` if it was removed.
    pub fn get(&self, token: Token) -> Option<&T> {
        self.entries
            .get(token.index as usize)
            .filter(|entry| entry.generation == token.generation)
            .and_then(|entry| entry.value.as_ref())
    }

    /// Returns the connection of this token for modification; `None` if it was removed.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.entry(token)?.value.as_mut()
    }

    /// Removes a connection and returns it; `None` if it was removed before.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let vacant = self.vacant;
        let entry = self.entry(token)?;
        let value = entry.value.take()?;
        entry.requeued = false;
        entry.generation = vacant;
        self.vacant = token.index;
        self.len -= 1;
        Some(value)
    }

    /// Queues a connection as [`Slots::requeue`] does. Fails if memory is short; the connection is
    /// then not in the queue.
    #[inline]
    pub fn try_requeue(&mut self, token: Token) -> Result<(), TryReserveError> {
        self.requeued.try_reserve(1)?;
        self.requeue(token);
        Ok(())
    }

    /// Queues a connection for another turn, unless it is queued already.
    pub fn requeue(&mut self, token: Token) {
        if let Some(entry) = self.entry(token)
            && !entry.requeued
        {
            entry.requeued = true;
            self.requeued.push_back(token);
        }
    }

    /// Returns whether a connection is queued, so that its events need not be served now.
    pub fn is_requeued(&mut self, token: Token) -> bool {
        self.entry(token).is_some_and(|entry| entry.requeued)
    }

    /// Returns the length of the queue, removed connections included.
    pub fn requeued(&self) -> usize {
        self.requeued.len()
    }

    /// Takes the connection that was queued first; `None` if the queue is empty or that connection
    /// was removed.
    pub fn next_requeued(&mut self) -> Option<Token> {
        let token = self.requeued.pop_front()?;
        self.entry(token)?.requeued = false;
        Some(token)
    }

    /// Returns all tokens in the order of their slots.
    pub fn tokens(&self) -> Vec<Token> {
        let next = |token: &Token| self.next_from(token.index() + 1);
        std::iter::successors(self.next_from(0), next).collect()
    }

    /// Returns the token of the first connection whose slot is `from` or a later one.
    pub fn next_from(&self, from: usize) -> Option<Token> {
        let rest = self.entries.get(from..)?;
        let place = rest.iter().position(|entry| entry.value.is_some())?;
        Some(Token {
            index: (from + place) as u32,
            generation: rest[place].generation,
        })
    }

    /// Returns all connections in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|entry| entry.value.as_ref())
    }

    /// Returns all connections in the order of their slots, for modification.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.value.as_mut())
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the slot of this token. It may be a vacant slot whose next index equals the token's
    /// generation: such a slot has no value and is not queued.
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
    fn places_are_taken_again_in_any_order_and_stale_tokens_find_nothing() {
        let mut slots = Slots::default();
        let mut there: Vec<(Token, u32)> = Vec::new();
        let mut gone = Vec::new();
        for round in 0..2000_u32 {
            if round % 7 < 4 {
                slots.reserve().unwrap();
                there.push((slots.insert(round), round));
            } else {
                let place = (round as usize * 31) % there.len();
                let (token, value) = there.swap_remove(place);
                assert_eq!(slots.remove(token), Some(value));
                gone.push(token);
            }
            assert_eq!(slots.len(), there.len());
        }
        assert!(
            there
                .iter()
                .all(|(token, value)| slots.get(*token) == Some(value))
        );
        assert!(gone.iter().all(|&token| slots.get_mut(token).is_none()));
        assert!(gone.iter().all(|&token| slots.remove(token).is_none()));
        let mut tokens: Vec<Token> = there.iter().map(|it| it.0).collect();
        tokens.sort_by_key(|token| token.index());
        assert_eq!(slots.tokens(), tokens);
        assert_eq!(slots.iter().count(), there.len());
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
