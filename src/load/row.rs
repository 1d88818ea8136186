//! A queue whose first element needs no memory of its own: of very many connections, most have one
//! message in flight at a time. Pure.
//!
//! Invariant: while there is no first element, there are no others.

use std::collections::VecDeque;

/// Elements in the order in which they came.
#[derive(Debug)]
pub struct Row<T> {
    first: Option<T>,
    #[expect(
        clippy::box_collection,
        reason = "8 bytes where there are no others, not 32"
    )]
    others: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Row<T> {
    fn default() -> Self {
        Row {
            first: None,
            others: None,
        }
    }
}

impl<T> Row<T> {
    /// Adds one at the end.
    pub fn push_back(&mut self, element: T) {
        if self.first.is_none() {
            self.first = Some(element);
        } else {
            self.others.get_or_insert_default().push_back(element);
        }
    }

    /// Takes the oldest.
    pub fn pop_front(&mut self) -> Option<T> {
        let next = self.others.as_mut().and_then(|others| others.pop_front());
        std::mem::replace(&mut self.first, next)
    }

    /// Takes the youngest.
    pub fn pop_back(&mut self) -> Option<T> {
        let last = self.others.as_mut().and_then(|others| others.pop_back());
        last.or_else(|| self.first.take())
    }

    /// The oldest.
    pub fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    /// The youngest.
    pub fn back(&self) -> Option<&T> {
        let last = self.others.as_ref().and_then(|others| others.back());
        last.or(self.first.as_ref())
    }

    /// The one at this place, from 0 for the oldest.
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.others.as_mut()?.get_mut(place),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.len());
        usize::from(self.first.is_some()) + others
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.first
            .iter()
            .chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// The same, to be changed.
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
            let (mut row, mut deque) = (Row::default(), VecDeque::new());
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
