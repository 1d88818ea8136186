//! How long a thread of the run was away: it should have worked, and was not let run. Pure.
//!
//! The time of a thread has three parts. It works (its CPU time); it waits for an event or for its
//! next timer; the rest is *absence*: another process had its CPU, the quota of its cgroup was used
//! up, it was stopped, or the host had the CPU. The kernel's counters tell the first of these
//! alone. The difference tells all of them:
//!
//! ```text
//!   absent = wall − CPU time − waits, each counted up to the deadline at which it was to end
//! ```
//!
//! What an event's wake-up was late by is part of the wait, since nobody knows when the event came.
//! So the engine has a timer every [`CHECK`] in a closed loop, and an absence is known to about
//! that time; in an open loop the messages that become due do the same.

use std::time::{Duration, Instant};

use crate::load::evidence::Absences;
use crate::load::results::LATE;

/// How often a closed loop has a timer to be late for. A thread of a closed loop is awake for
/// thousands of replies a second as a rule, so this costs it less than a hundredth.
pub const CHECK: Duration = Duration::from_millis(10);

/// The account of one thread's time.
#[derive(Debug)]
pub struct Presence {
    /// When the last turn ended; what follows is a wait.
    rested_from: Instant,
    /// Waits since the last check.
    waited: Duration,
    /// The last check.
    since: Instant,
    cpu: Duration,
    absences: Absences,
}

impl Presence {
    /// Begins an account. `cpu`: the CPU time of the thread so far.
    pub fn new(now: Instant, cpu: Duration) -> Presence {
        Presence {
            rested_from: now,
            waited: Duration::ZERO,
            since: now,
            cpu,
            absences: Absences::default(),
        }
    }

    /// Takes note that a turn ends, and a wait begins.
    #[inline]
    pub fn rests(&mut self, now: Instant) {
        self.rested_from = now;
    }

    /// Takes note that a wait ends which was to end at `deadline` at the latest. Returns whether it
    /// ended so late that a check is due.
    #[inline]
    pub fn wakes(&mut self, now: Instant, deadline: Instant) -> bool {
        let deadline = deadline.max(self.rested_from);
        let is_late = now.saturating_duration_since(deadline) > LATE;
        // A little is what waking up takes, and no absence.
        let end = if is_late { deadline } else { now };
        self.waited += end.saturating_duration_since(self.rested_from);
        is_late
    }

    /// Adds the time since the last check to the account. An absence that may be seen in a result
    /// counts for each of the `outstanding` messages, which could not be read or sent meanwhile.
    pub fn check(&mut self, now: Instant, cpu: Duration, outstanding: u64) {
        let wall = now.saturating_duration_since(self.since);
        let worked = cpu.saturating_sub(self.cpu);
        let absent = wall.saturating_sub(worked + self.waited);
        self.absences.watched += wall;
        self.absences.absent += absent;
        self.absences.longest = self.absences.longest.max(absent);
        if absent > LATE && outstanding > 0 {
            self.absences.held.record_many(absent, outstanding);
        }
        self.waited = Duration::ZERO;
        self.since = now;
        self.cpu = cpu;
    }

    /// Returns the account.
    pub fn finish(self) -> Absences {
        self.absences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A thread that works for 1 ms in every 10, and is away for `away` of them.
    fn account(turns: u32, away: Duration) -> Absences {
        let start = Instant::now();
        let (mut now, mut cpu) = (start, Duration::ZERO);
        let mut presence = Presence::new(now, cpu);
        for _ in 0..turns {
            presence.rests(now);
            let deadline = now + 9 * MS;
            now = deadline + away;
            presence.wakes(now, deadline);
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
        // Waking up takes a while.
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
        // A turn of half a second, of which it worked for a fifth.
        presence.rests(start + 500 * MS);
        presence.wakes(start + 500 * MS, start + 10 * MS);
        presence.check(start + 500 * MS, 100 * MS, 1);
        assert_eq!(presence.finish().absent, 400 * MS);
    }
}
