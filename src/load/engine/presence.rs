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
    absences: Absences,
}

impl Presence {
    /// Creates an account that starts now. `cpu`: the CPU time of the thread so far.
    pub fn new(now: Instant, cpu: Duration) -> Presence {
        Presence {
            waiting_since: now,
            waited: Duration::ZERO,
            since: now,
            cpu,
            absences: Absences::default(),
        }
    }

    /// Records that a turn ends and a wait begins.
    #[inline]
    pub fn begin_wait(&mut self, now: Instant) {
        self.waiting_since = now;
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
        is_late
    }

    /// Adds the time since the last check to the account. An absence longer than
    /// [`VISIBLE_LATENESS`] is recorded for each of the `outstanding` messages, which could not be
    /// sent or whose replies could not be read during that time.
    pub fn check(&mut self, now: Instant, cpu: Duration, outstanding: u64) {
        let wall = now.saturating_duration_since(self.since);
        let worked = cpu.saturating_sub(self.cpu);
        let absent = wall.saturating_sub(worked + self.waited);
        self.absences.watched += wall;
        self.absences.absent += absent;
        self.absences.longest = self.absences.longest.max(absent);
        if absent > VISIBLE_LATENESS && outstanding > 0 {
            self.absences.held.record_many(absent, outstanding);
        }
        self.waited = Duration::ZERO;
        self.since = now;
        self.cpu = cpu;
    }

    /// Ends the account and returns it.
    pub fn finish(self) -> Absences {
        self.absences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Returns the account of a thread that works for 1 ms in every turn and wakes up late by
    /// `away`.
    fn account(turns: u32, away: Duration) -> Absences {
        let start = Instant::now();
        let (mut now, mut cpu) = (start, Duration::ZERO);
        let mut presence = Presence::new(now, cpu);
        for _ in 0..turns {
            presence.begin_wait(now);
            let deadline = now + 9 * MS;
            now = deadline + away;
            presence.end_wait(now, deadline);
            now += MS;
            cpu += MS;
            presence.check(now, cpu, 3);
        }
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
        assert_eq!(
            absences.held.count(),
            30,
            "every message that waited meanwhile"
        );
    }

    #[test]
    fn a_stop_within_a_turn_is_seen_and_work_is_not() {
        let start = Instant::now();
        let mut presence = Presence::new(start, Duration::ZERO);
        // A turn of half a second with CPU time for a fifth of it.
        presence.begin_wait(start + 500 * MS);
        presence.end_wait(start + 500 * MS, start + 10 * MS);
        presence.check(start + 500 * MS, 100 * MS, 1);
        assert_eq!(presence.finish().absent, 400 * MS);
    }
}
