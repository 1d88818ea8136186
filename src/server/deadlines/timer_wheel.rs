//! A timer wheel: deadlines by token, none further away than a given length. Pure: time is an
//! argument.
//!
//! The length is divided into ticks, and each tick has a list. Deadlines are rounded up to the next
//! tick, so that at most one timer fires per tick, however many entries there are. Entries are not
//! removed early: when a deadline is reached whose connection has closed, or does not need it any
//! more, the owner ignores it. So a deadline costs an active connection nothing. The entries of
//! closed connections are removed when they may outnumber the others.
//!
//! When memory is short, a token is not added, and the error reports that.
//!
//! Invariants: no deadline is reported early. A timer of the reactor is set whenever the wheel has
//! an entry, and another one only for an earlier time.

use std::collections::{TryReserveError, VecDeque};
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;

/// Default number of ticks in a length.
const TICKS: u32 = 64;

/// Number of entries of closed connections that are tolerated in any case.
const SWEEP_LEAST: usize = 1024;

/// A timer wheel of tokens, each with a deadline and a value.
#[derive(Debug)]
pub struct TimerWheel<T> {
    /// The lists of the ticks, from `first` on.
    lists: VecDeque<Vec<(Token, T)>>,
    first: u64,
    /// Number of entries in all lists.
    count: usize,
    tick_nanos: u64,
    start: Instant,
    /// The time of the timer that is set, if one is.
    armed_for: Option<Instant>,
}

impl<T> TimerWheel<T> {
    /// Returns a wheel for deadlines up to this length away.
    pub fn new(length: Duration, start: Instant) -> Self {
        TimerWheel::with_ticks(length, TICKS, start)
    }

    /// Returns a wheel for deadlines up to this length away, divided into this number of ticks.
    pub fn with_ticks(length: Duration, ticks: u32, start: Instant) -> Self {
        let tick = (length / ticks).max(Duration::from_millis(1));
        TimerWheel {
            lists: VecDeque::new(),
            first: 0,
            count: 0,
            tick_nanos: tick.as_nanos() as u64,
            start,
            armed_for: None,
        }
    }

    /// Adds a deadline for this token. Returns the time of the timer to set, if any. Fails when
    /// there is no memory.
    pub fn add(
        &mut self,
        deadline: Instant,
        token: Token,
        value: T,
    ) -> Result<Option<Instant>, TryReserveError> {
        let since_start = deadline.saturating_duration_since(self.start).as_nanos() as u64;
        let tick = since_start.div_ceil(self.tick_nanos);
        if self.lists.is_empty() {
            self.first = tick;
        }
        while tick < self.first {
            self.lists.try_reserve(1)?;
            self.lists.push_front(Vec::new());
            self.first -= 1;
        }
        let place = (tick - self.first) as usize;
        while self.lists.len() <= place {
            self.lists.try_reserve(1)?;
            self.lists.push_back(Vec::new());
        }
        let list = &mut self.lists[place];
        list.try_reserve(1)?;
        list.push((token, value));
        self.count += 1;
        Ok(self.next_timer())
    }

    /// Removes the entries of closed connections if they may outnumber the others. `there`: number
    /// of open connections.
    pub fn sweep(&mut self, there: usize, is_there: impl Fn(Token) -> bool) {
        if self.count > 2 * there + SWEEP_LEAST {
            for list in &mut self.lists {
                list.retain(|(token, _)| is_there(*token));
                list.shrink_to_fit();
            }
            self.count = self.lists.iter().map(Vec::len).sum();
        }
    }

    /// Removes and returns the next entry whose deadline is reached at `now`. After a timer has
    /// fired, this must be called until it returns `None`: until then the timer counts as set, so
    /// that tokens that are added during that time set no other.
    pub fn pop(&mut self, now: Instant) -> Option<(Token, T)> {
        while self.at(self.first) <= now
            && let Some(list) = self.lists.front_mut()
        {
            if let Some(entry) = list.pop() {
                self.count -= 1;
                return Some(entry);
            }
            self.lists.pop_front();
            self.first += 1;
        }
        self.armed_for = self.armed_for.filter(|&deadline| deadline > now);
        None
    }

    /// Returns the time of the timer to set, if any. Must be called after the last
    /// [`TimerWheel::pop`].
    pub fn next_timer(&mut self) -> Option<Instant> {
        let ahead = self.lists.iter().position(|list| !list.is_empty())?;
        let deadline = self.at(self.first + ahead as u64);
        if self.armed_for.is_some_and(|armed| armed <= deadline) {
            return None;
        }
        self.armed_for = Some(deadline);
        self.armed_for
    }

    fn at(&self, tick: u64) -> Instant {
        self.start + Duration::from_nanos(tick * self.tick_nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reactor::slots::Slots;

    #[test]
    fn one_timer_at_a_time_for_the_next_tick() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut slots = Slots::default();
        let (a, b, c) = (slots.insert('a'), slots.insert('b'), slots.insert('c'));
        let mut wheel = TimerWheel::new(Duration::from_millis(640), start);

        assert_eq!(
            wheel.add(at(645), a, 1),
            Ok(Some(at(650))),
            "ticks are 10 ms"
        );
        assert_eq!(wheel.add(at(700), b, 2), Ok(None), "a timer is set");
        assert_eq!(
            wheel.add(at(101), c, 3),
            Ok(Some(at(110))),
            "that one is earlier"
        );
        assert_eq!(wheel.pop(at(109)), None);
        assert_eq!(wheel.pop(at(110)), Some((c, 3)));
        assert_eq!(wheel.pop(at(110)), None);
        assert_eq!(wheel.next_timer(), Some(at(650)));
        assert_eq!(wheel.pop(at(700)), Some((a, 1)));
        assert_eq!(wheel.pop(at(700)), Some((b, 2)));
        assert_eq!(wheel.pop(at(700)), None);
        assert_eq!(wheel.next_timer(), None, "nobody waits");
    }

    #[test]
    fn a_token_added_while_others_are_taken_sets_no_timer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut slots = Slots::default();
        let (a, b) = (slots.insert('a'), slots.insert('b'));
        let mut wheel = TimerWheel::new(Duration::from_millis(640), start);
        assert_eq!(wheel.add(at(100), a, 1), Ok(Some(at(100))));
        assert_eq!(wheel.add(at(100), b, 1), Ok(None));
        for _ in 0..2 {
            let (token, _) = wheel.pop(at(100)).unwrap();
            assert_eq!(
                wheel.add(at(200), token, 2),
                Ok(None),
                "it is not known yet for when"
            );
        }
        assert_eq!(wheel.pop(at(100)), None);
        assert_eq!(wheel.next_timer(), Some(at(200)));
    }

    #[test]
    fn those_that_are_gone_do_not_pile_up() {
        let start = Instant::now();
        let mut slots = Slots::default();
        let stays = slots.insert(());
        let mut wheel = TimerWheel::new(Duration::from_secs(3600), start);
        for number in 0..100_000 {
            let token = if number == 500 {
                stays
            } else {
                slots.insert(())
            };
            let deadline = start + Duration::from_millis(number);
            let _ = wheel.add(deadline, token, ());
            wheel.sweep(1, |token| token == stays);
            slots.remove(token).filter(|()| token != stays);
            assert!(wheel.count <= 2 + SWEEP_LEAST, "{}", wheel.count);
        }
        let end = start + Duration::from_secs(7200);
        let left: Vec<Token> = std::iter::from_fn(|| wheel.pop(end))
            .map(|it| it.0)
            .collect();
        assert!(left.contains(&stays));
    }

    proptest! {
        #[test]
        fn nobody_comes_early_or_more_than_a_tick_late(
            times in prop::collection::vec((0u64..2000, 0u64..640), 0..200),
        ) {
            const TICK: Duration = Duration::from_millis(10);
            let start = Instant::now();
            let mut slots = Slots::default();
            let mut wheel = TimerWheel::new(TICK * TICKS, start);
            let (mut now, mut timers, mut waiting) = (start, Vec::new(), 0);
            for (wait, length) in times {
                let until = now + Duration::from_millis(wait);
                // The timers that fire before the next addition.
                while let Some(timer) = timers.iter().copied().filter(|&at| at <= until).min() {
                    timers.retain(|&at| at != timer);
                    while let Some((_, deadline)) = wheel.pop(timer) {
                        prop_assert!(deadline <= timer && timer < deadline + TICK);
                        waiting -= 1;
                    }
                    timers.extend(wheel.next_timer());
                }
                now = until;
                let deadline = now + Duration::from_millis(length);
                timers.extend(wheel.add(deadline, slots.insert(()), deadline).unwrap());
                waiting += 1;
                prop_assert!(!timers.is_empty() && timers.len() <= 8, "{timers:?}");
            }
            while let Some(timer) = timers.pop() {
                while wheel.pop(timer).is_some() {
                    waiting -= 1;
                }
                timers.extend(wheel.next_timer());
            }
            prop_assert_eq!(waiting, 0);
        }
    }
}
