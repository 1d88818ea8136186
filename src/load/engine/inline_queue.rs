//! A queue that stores its first element inline and allocates only for further ones: of very many
//! connections, most have one message in flight at a time. Pure.
//!
//! Invariant: while there is no first element, there are no others.

use std::collections::VecDeque;

/// A queue of elements in the order in which they were added.
#[derive(Debug)]
pub struct InlineQueue<T> {
    first: Option<T>,
    #[expect(
        clippy::box_collection,
        reason = "8 bytes where there are no others, not 32"
    )]
    others: Option<Box<VecDeque<T>>>,
}

impl<T> Default for InlineQueue<T> {
    fn default() -> Self {
        InlineQueue {
            first: None,
            others: None,
        }
    }
}

impl<T> InlineQueue<T> {
    /// Adds an element at the end.
    pub fn push_back(&mut self, element: T) {
        if self.first.is_none() {
            self.first = Some(element);
        } else {
            self.others.get_or_insert_default().push_back(element);
        }
    }

    /// Removes and returns the oldest element.
    pub fn pop_front(&mut self) -> Option<T> {
        let next = self.others.as_mut().and_then(|others| others.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    /// Removes and returns the newest element.
    pub fn pop_back(&mut self) -> Option<T> {
        let last = self.others.as_mut().and_then(|others| others.pop_back());
        last.or_else(|| self.first.take())
    }

    /// Returns the oldest element.
    pub fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    /// Returns the newest element.
    pub fn back(&self) -> Option<&T> {
        let last = self.others.as_ref().and_then(|others| others.back());
        last.or(self.first.as_ref())
    }

    /// Returns the element at this index; the oldest has index 0.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.others.as_mut()?.get_mut(place),
        }
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.len());
        usize::from(self.first.is_some()) + others
    }

    /// Returns whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns an iterator over the elements, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.first
            .iter()
            .chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// Returns a mutable iterator over the elements, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let others = self.others.iter_mut();
        self.first
            .iter_mut()
            .chain(others.flat_map(|others| others.iter_mut()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_deque_does(steps in prop::collection::vec((0u8..4, 0usize..6), 0..60)) {
            let (mut row, mut deque) = (InlineQueue::default(), VecDeque::new());
            for (number, (step, place)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        row.push_back(number);
                        deque.push_back(number);
                    }
                    2 => prop_assert_eq!(row.pop_front(), deque.pop_front()),
                    _ => prop_assert_eq!(row.pop_back(), deque.pop_back()),
                }
                prop_assert_eq!(row.get_mut(place), deque.get_mut(place));
                prop_assert_eq!((row.front(), row.back()), (deque.front(), deque.back()));
                prop_assert_eq!((row.len(), row.is_empty()), (deque.len(), deque.is_empty()));
                prop_assert!(row.iter().eq(deque.iter()) && row.iter_mut().eq(deque.iter_mut()));
            }
        }
    }
}
