//! A queue of timers, ordered by deadline. Pure: time is an argument.
//!
//! Timers cannot be cancelled. One that is no longer needed fires all the same, and its owner sees
//! from its own state that there is nothing to do; so activity on a connection costs its timers
//! nothing. Timers with equal deadlines fire in the order in which they were set.
//!
//! Invariant: a timer that is set while timers fire waits for the next turn, so that a timer that
//! sets itself again cannot hold up the loop.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A priority queue of deadlines, each with the key that its owner chose.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<Entry<K>>>,
    next_order: u64,
}

/// The timers that may fire in one turn: those due at an instant and set before it.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    now: Instant,
    order_end: u64,
}

#[derive(Debug)]
struct Entry<K> {
    deadline: Instant,
    order: u64,
    key: K,
}

/// Room that is reserved at once: a reactor rarely has more timers, so that setting one needs no
/// memory when that is short.
const TIMERS_USUAL: usize = 64;

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers {
            heap: BinaryHeap::with_capacity(TIMERS_USUAL),
            next_order: 0,
        }
    }
}

impl<K> Timers<K> {
    /// Sets a timer: [`Timers::pop`] returns `key` once `deadline` has passed.
    pub fn set(&mut self, deadline: Instant, key: K) {
        self.heap.push(Reverse(Entry {
            deadline,
            order: self.next_order,
            key,
        }));
        self.next_order += 1;
    }

    /// Returns the earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.deadline)
    }

    /// Returns which timers may fire in a turn that began at `now`.
    pub fn due(&self, now: Instant) -> Due {
        Due {
            now,
            order_end: self.next_order,
        }
    }

    /// Removes the next timer that fires in this turn, and returns its key.
    pub fn pop(&mut self, due: Due) -> Option<K> {
        let Reverse(first) = self.heap.peek()?;
        if first.deadline > due.now || first.order >= due.order_end {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.key)
    }
}

impl<K> Ord for Entry<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.deadline, self.order).cmp(&(other.deadline, other.order))
    }
}

impl<K> PartialOrd for Entry<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K> Eq for Entry<K> {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fired<K>(timers: &mut Timers<K>, now: Instant) -> Vec<K> {
        let due = timers.due(now);
        std::iter::from_fn(|| timers.pop(due)).collect()
    }

    #[test]
    fn fires_by_deadline_and_equal_deadlines_in_the_order_set() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(at(20), "late");
        timers.set(at(10), "first");
        timers.set(at(10), "second");

        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert_eq!(fired(&mut timers, at(9)), Vec::<&str>::new());
        assert_eq!(fired(&mut timers, at(10)), ["first", "second"]);
        assert_eq!(fired(&mut timers, at(30)), ["late"]);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn a_timer_that_sets_itself_again_waits_for_the_next_turn() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(start, ());
        let due = timers.due(start);
        assert_eq!(timers.pop(due), Some(()));
        timers.set(start, ());
        assert_eq!(timers.pop(due), None);
        assert_eq!(fired(&mut timers, start), [()]);
    }
}
