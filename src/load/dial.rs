//! When the next connection is to be opened. Pure: time comes in as an argument.
//!
//! Connection k is due at start + k / rate, in whole nanoseconds computed from k, so that no error
//! adds up. Invariant: at most a window of connects is under way.

use std::time::{Duration, Instant};

use crate::load::schedule::Part;

/// Opens connections 0, 1, ... in their order.
#[derive(Debug)]
pub struct Dialer {
    start: Instant,
    /// Connections a second; `None`: as the window allows.
    rate: Option<u32>,
    /// Which ones of all connections these are.
    part: Part,
    connections: u32,
    window: usize,
    tried: u32,
    under_way: usize,
}

/// What is to be done about the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Open the one with this number.
    Now(u32),
    /// None is due before this time.
    At(Instant),
    /// Wait until one of those under way is up or has failed.
    Full,
    /// All were tried.
    Finished,
}

impl Dialer {
    /// Nothing is opened yet; the first of all connections is due at `start`.
    pub fn new(
        start: Instant,
        rate: Option<u32>,
        part: Part,
        connections: u32,
        window: usize,
    ) -> Self {
        Dialer {
            start,
            rate,
            part,
            connections,
            window,
            tried: 0,
            under_way: 0,
        }
    }

    /// Takes the next connection, if it is its time.
    pub fn next(&mut self, now: Instant) -> Dial {
        if self.tried == self.connections {
            return Dial::Finished;
        }
        if self.under_way == self.window {
            return Dial::Full;
        }
        let due = self.due(self.tried);
        if due > now {
            return Dial::At(due);
        }
        self.tried += 1;
        self.under_way += 1;
        Dial::Now(self.tried - 1)
    }

    /// One of those under way is up or has failed.
    pub fn settled(&mut self) {
        self.under_way -= 1;
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// How many were tried.
    pub fn tried(&self) -> u32 {
        self.tried
    }

    /// Tries no more of them, and tells how many that are.
    pub fn give_up(&mut self) -> u32 {
        let untried = self.connections - self.tried;
        self.tried = self.connections;
        untried
    }

    /// Whether all were tried and none is under way.
    pub fn is_finished(&self) -> bool {
        self.tried == self.connections && self.under_way == 0
    }

    fn due(&self, number: u32) -> Instant {
        let number = u64::from(self.part.member(number));
        let nanoseconds = |rate| number * 1_000_000_000 / u64::from(rate);
        self.start + Duration::from_nanos(self.rate.map_or(0, nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_due_at_the_rate_without_drift() {
        let start = Instant::now();
        let mut dialer = Dialer::new(start, Some(3), Part::WHOLE, 5, 10);
        let at = |nanoseconds| start + Duration::from_nanos(nanoseconds);
        assert_eq!(dialer.next(start), Dial::Now(0));
        assert_eq!(dialer.next(start), Dial::At(at(333_333_333)));
        assert_eq!(dialer.next(at(1_000_000_000)), Dial::Now(1));
        assert_eq!(dialer.next(at(1_000_000_000)), Dial::Now(2));
        assert_eq!(dialer.next(at(1_000_000_000)), Dial::Now(3));
        assert_eq!(dialer.next(at(1_000_000_000)), Dial::At(at(1_333_333_333)));
    }

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let start = Instant::now();
        let mut dialer = Dialer::new(start, None, Part::WHOLE, 3, 2);
        assert_eq!(dialer.next(start), Dial::Now(0));
        assert_eq!(dialer.next(start), Dial::Now(1));
        assert_eq!(dialer.next(start), Dial::Full);
        dialer.settled();
        assert_eq!(dialer.next(start), Dial::Now(2));
        assert_eq!(dialer.next(start), Dial::Finished);
        assert!(!dialer.is_finished());
        dialer.settled();
        dialer.settled();
        assert!(dialer.is_finished());
    }
}
