//! Decides when the next connection is to be opened. Pure: time is an argument.
//!
//! Connection k is due at start + k / rate, in whole nanoseconds computed from k, so that rounding
//! errors do not add up. Invariant: at most `window` attempts to connect are in progress.

use std::time::{Duration, Instant};

use crate::load::plan::schedule::Part;

/// The schedule by which connections 0, 1, ... are opened, in their order.
#[derive(Debug)]
pub struct Dialer {
    start: Instant,
    /// Connections a second, over all threads; `None`: as fast as the window allows.
    rate: Option<u32>,
    /// The part of all connections that this dialer opens.
    part: Part,
    connections: u32,
    window: usize,
    tried: u32,
    in_progress: usize,
}

/// The next action of a dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Open the connection with this number.
    Now(u32),
    /// Wait until this time, at which the next connection is due.
    At(Instant),
    /// Wait until an attempt in progress succeeds or fails.
    Full,
    /// Nothing: all connections were tried.
    Finished,
}

impl Dialer {
    /// Creates a dialer that has opened nothing. The first of all connections is due at `start`.
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
            in_progress: 0,
        }
    }

    /// Returns the next action. With [`Dial::Now`] the attempt counts as in progress until
    /// [`Dialer::attempt_ended`] is called.
    pub fn next(&mut self, now: Instant) -> Dial {
        if self.tried == self.connections {
            return Dial::Finished;
        }
        if self.in_progress == self.window {
            return Dial::Full;
        }
        let due = self.due(self.tried);
        if due > now {
            return Dial::At(due);
        }
        self.tried += 1;
        self.in_progress += 1;
        Dial::Now(self.tried - 1)
    }

    /// Records that an attempt has succeeded or failed.
    pub fn attempt_ended(&mut self) {
        self.in_progress -= 1;
    }

    /// Returns the number of attempts in progress.
    pub fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// Returns the number of connections that were tried.
    pub fn tried(&self) -> u32 {
        self.tried
    }

    /// Stops trying further connections, and returns how many were not tried.
    pub fn give_up(&mut self) -> u32 {
        let untried = self.connections - self.tried;
        self.tried = self.connections;
        untried
    }

    /// Returns whether all connections were tried and no attempt is in progress.
    pub fn is_finished(&self) -> bool {
        self.tried == self.connections && self.in_progress == 0
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
        dialer.attempt_ended();
        assert_eq!(dialer.next(start), Dial::Now(2));
        assert_eq!(dialer.next(start), Dial::Finished);
        assert!(!dialer.is_finished());
        dialer.attempt_ended();
        dialer.attempt_ended();
        assert!(dialer.is_finished());
    }
}
