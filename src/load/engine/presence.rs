//! Measures the absence of a thread of the run: the time in which it should have worked, and was
//! not given CPU time. Pure.
//!
//! The time of a thread has three parts. It works (its CPU time); it waits for an event or for its
//! next timer; the rest is *absence*: another process had its CPU, the quota of its cgroup was used
//! up, it was stopped, or the host had the CPU. The kernel's run-queue counter covers only the
//! first of these causes. The difference covers all of them:
//!
//! ```text
//!   absent = wall − CPU time − waits, each counted up to the deadline at which it was to end
//! ```
//!
//! If an event ends a wait, the delay of the wake-up counts as part of the wait, since the time at
//! which the event occurred is not known. In a closed loop the engine therefore sets a timer every
//! [`CHECK`], so that an absence is known to about that precision; in an open loop the messages
//! that become due have the same effect.
//!
//! An absence delays the replies that arrive while it lasts, and not those that the server has yet
//! to send. The thread reads the delayed ones when it runs again, so an absence is held against the
//! replies that are read until the end of the turn after the one that detects it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::load::results::VISIBLE_LATENESS;
use crate::load::results::evidence::Absences;

/// The period of the timer whose lateness shows an absence in a closed loop. A thread of a closed
/// loop usually wakes up for thousands of replies per second, so this costs it less than a
/// hundredth.
pub const CHECK: Duration = Duration::from_millis(10);

/// The account of how one thread spent its time.
#[derive(Debug)]
pub struct Presence {
    /// The time at which the last turn ended and the current wait began.
    waiting_since: Instant,
    /// The sum of the waits since the last check.
    waited: Duration,
    /// The time of the last check.
    since: Instant,
    cpu: Duration,
    /// Number of replies that had been read at the last check, and when the current wait began.
    read_at_check: u64,
    read_at_wait: u64,
    /// Whether the current turn began late.
    woke_late: bool,
    /// The last absence, while the replies that it delayed are being read.
    aftermath: Option<Aftermath>,
    /// The last absences that were visible, each with the time of the check that detected it.
    recent: VecDeque<(Instant, Duration)>,
    absences: Absences,
}

/// Maximum number of absences in `recent`. A thread that is absent all the time has one at every
/// check, so these are at least those of the last half second.
const RECENT_MOST: usize = 64;

/// The messages that an absence may have delayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exposed {
    /// Number of replies that have been read so far.
    pub read: u64,
    /// Number of messages whose replies are awaited.
    pub outstanding: u64,
    /// Number of messages that wait for a connection, and so for the reply of another message.
    pub waiting: u64,
}

/// An absence whose delayed replies are being read.
#[derive(Debug)]
struct Aftermath {
    absent: Duration,
    /// The counts at the check, but `read`: the number of replies read before the absence.
    exposed: Exposed,
    /// Number of turns that have yet to end.
    turns: u32,
}

impl Presence {
    /// Creates an account that starts now. `cpu`: the CPU time of the thread so far.
    pub fn new(now: Instant, cpu: Duration) -> Presence {
        Presence {
            waiting_since: now,
            waited: Duration::ZERO,
            since: now,
            cpu,
            read_at_check: 0,
            read_at_wait: 0,
            woke_late: false,
            aftermath: None,
            recent: VecDeque::new(),
            absences: Absences::default(),
        }
    }

    /// Records that a turn ends and a wait begins. `read`: the number of replies that have been
    /// read so far.
    #[inline]
    pub fn begin_wait(&mut self, now: Instant, read: u64) {
        self.waiting_since = now;
        self.read_at_wait = read;
        self.woke_late = false;
        if self.aftermath.is_some() {
            self.end_turn_after(read);
        }
    }

    /// Records the end of a wait that was to last until `deadline` at most. Returns whether it
    /// ended so late that a check is due.
    #[inline]
    pub fn end_wait(&mut self, now: Instant, deadline: Instant) -> bool {
        let deadline = deadline.max(self.waiting_since);
        let is_late = now.saturating_duration_since(deadline) > VISIBLE_LATENESS;
        // A short delay is the normal cost of a wake-up, not an absence.
        let end = if is_late { deadline } else { now };
        self.waited += end.saturating_duration_since(self.waiting_since);
        self.woke_late = is_late;
        is_late
    }

    /// Adds the time since the last check to the account. An absence longer than
    /// [`VISIBLE_LATENESS`] is recorded for each message that it delayed.
    pub fn check(&mut self, now: Instant, cpu: Duration, exposed: Exposed) {
        let wall = now.saturating_duration_since(self.since);
        let worked = cpu.saturating_sub(self.cpu);
        let absent = wall.saturating_sub(worked + self.waited);
        self.absences.watched += wall;
        self.absences.absent += absent;
        self.absences.longest = self.absences.longest.max(absent);
        if absent > VISIBLE_LATENESS {
            if self.recent.len() == RECENT_MOST {
                self.recent.pop_front();
            }
            self.recent.push_back((now, absent));
            self.settle(exposed.read);
            // An absence during a wait began after the replies of the turn before. Others began at
            // an unknown time since the last check.
            let read = match self.woke_late {
                true => self.read_at_wait,
                false => self.read_at_check,
            };
            self.aftermath = Some(Aftermath {
                absent,
                exposed: Exposed { read, ..exposed },
                turns: 2,
            });
        }
        self.waited = Duration::ZERO;
        self.since = now;
        self.cpu = cpu;
        self.read_at_check = exposed.read;
    }

    /// Returns how much of the time from `since` to the last check the thread was absent, as far as
    /// absences are remembered.
    pub fn absent_since(&self, since: Instant) -> Duration {
        let within = |(end, absent): &(Instant, Duration)| {
            let after = end.saturating_duration_since(since);
            after.min(*absent)
        };
        self.recent.iter().map(within).sum()
    }

    #[cold]
    fn end_turn_after(&mut self, read: u64) {
        if let Some(aftermath) = &mut self.aftermath {
            aftermath.turns -= 1;
            if aftermath.turns == 0 {
                self.settle(read);
            }
        }
    }

    /// Records the last absence for the messages that it delayed, if that has not been done yet.
    fn settle(&mut self, read: u64) {
        let Some(Aftermath {
            absent, exposed, ..
        }) = self.aftermath.take()
        else {
            return;
        };
        let late = exposed.outstanding.min(read - exposed.read);
        if late > 0 {
            // A message that waits for a connection waits longer if any reply is read late.
            let delayed = late + exposed.waiting;
            self.absences.held.record_many(absent, delayed);
        }
    }

    /// Ends the account, since no further reply will be read: those of all messages that were
    /// outstanding at the last absence may have arrived in it.
    pub fn end(&mut self) {
        self.settle(u64::MAX);
    }

    /// Returns the account so far, and begins a new one. The messages that the last absence delayed
    /// are counted in the new one as far as their replies are still being read.
    pub fn take(&mut self) -> Absences {
        std::mem::take(&mut self.absences)
    }

    /// Ends the account and returns it.
    pub fn finish(mut self) -> Absences {
        self.end();
        self.absences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const NONE: Exposed = Exposed {
        read: 0,
        outstanding: 0,
        waiting: 0,
    };

    /// Returns the account of a thread that works for 1 ms in every turn and wakes up late by
    /// `away`. Each turn reads two replies, while five messages are outstanding.
    fn account(turns: u32, away: Duration) -> Absences {
        let start = Instant::now();
        let (mut now, mut cpu) = (start, Duration::ZERO);
        let mut presence = Presence::new(now, cpu);
        let mut exposed = Exposed {
            outstanding: 5,
            ..NONE
        };
        for _ in 0..turns {
            presence.begin_wait(now, exposed.read);
            let deadline = now + 9 * MS;
            now = deadline + away;
            if presence.end_wait(now, deadline) {
                presence.check(now, cpu, exposed);
            }
            exposed.read += 2;
            now += MS;
            cpu += MS;
        }
        presence.begin_wait(now, exposed.read);
        presence.check(now, cpu, exposed);
        presence.finish()
    }

    #[test]
    fn waiting_and_working_are_no_absence() {
        let absences = account(100, Duration::ZERO);
        assert_eq!(absences.absent, Duration::ZERO);
        assert_eq!(absences.watched, 1000 * MS);
        assert_eq!(absences.held.count(), 0);
        // A wake-up takes a while.
        assert_eq!(account(100, MS / 10).absent, Duration::ZERO);
    }

    #[test]
    fn what_is_late_by_more_than_waking_up_is_absence() {
        let absences = account(10, 90 * MS);
        assert_eq!(absences.absent, 900 * MS);
        assert_eq!(absences.watched, 1000 * MS);
        assert_eq!(absences.longest, 90 * MS);
        // The next absence ends the aftermath of the one before, so one turn is counted for each.
        // After the last one no second turn ends.
        assert_eq!(absences.held.count(), 9 * 2 + 5);
    }

    #[test]
    fn an_absence_is_held_against_the_replies_that_are_read_after_it() {
        for (outstanding, waiting, read, delayed) in [
            (100, 0, [3, 1], 4),
            (3, 0, [3, 1], 3),
            (100, 50, [3, 1], 54),
            (100, 50, [0, 0], 0),
            (0, 50, [3, 1], 0),
        ] {
            let start = Instant::now();
            let mut presence = Presence::new(start, Duration::ZERO);
            let mut exposed = Exposed {
                read: 1000,
                outstanding,
                waiting,
            };
            presence.begin_wait(start, exposed.read);
            let woken = start + 15 * MS;
            assert!(presence.end_wait(woken, start + 10 * MS));
            presence.check(woken, Duration::ZERO, exposed);
            for read in read.into_iter().chain([7]) {
                exposed.read += read;
                presence.begin_wait(woken, exposed.read);
                presence.end_wait(woken, woken);
            }
            let held = presence.finish().held;
            assert_eq!(held.count(), delayed, "{outstanding} {waiting} {read:?}");
        }
    }

    #[test]
    fn absences_are_remembered_for_a_while() {
        let start = Instant::now();
        let mut presence = Presence::new(start, Duration::ZERO);
        for number in 1..=100 {
            // Absent for all of the time.
            presence.check(start + 10 * number * MS, Duration::ZERO, NONE);
        }
        let absent = |after: u32| presence.absent_since(start + after * MS);
        assert_eq!(absent(1000), Duration::ZERO);
        assert_eq!(absent(995), 5 * MS);
        assert_eq!(absent(900), 100 * MS);
        assert_eq!(absent(0), 10 * RECENT_MOST as u32 * MS);
    }

    #[test]
    fn a_stop_within_a_turn_is_seen_and_work_is_not() {
        let start = Instant::now();
        let mut presence = Presence::new(start, Duration::ZERO);
        // A turn of half a second with CPU time for a fifth of it.
        presence.begin_wait(start + 500 * MS, 0);
        presence.end_wait(start + 500 * MS, start + 10 * MS);
        let exposed = Exposed {
            outstanding: 1,
            ..NONE
        };
        presence.check(start + 500 * MS, 100 * MS, exposed);
        let absences = presence.finish();
        assert_eq!(absences.absent, 400 * MS);
        assert_eq!(absences.held.count(), 1, "its reply may have arrived");
    }
}
