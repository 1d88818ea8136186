//! The timerfd that wakes the poll at an absolute instant.
//!
//! mio rounds a poll timeout up to whole milliseconds, late by 0.9 ms at the median; a timerfd is
//! late by microseconds. It is armed with an absolute time of `CLOCK_MONOTONIC`, so that a
//! thread that is preempted between reading the clock and arming it does not shift the deadline.
//! See timerfd_create(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A descriptor that becomes readable at the instant for which it is armed.
#[derive(Debug)]
pub struct DeadlineTimer {
    timer: TimerFd,
    armed: Option<Instant>,
    /// One moment as an `Instant` and as a reading of `CLOCK_MONOTONIC`: std does not convert them.
    anchor: (Instant, Duration),
}

impl DeadlineTimer {
    /// Creates a timer that is not armed. Errors: see timerfd_create(2).
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // In this order, a preemption between the two makes timers late and never early.
        let now = Instant::now();
        let reading = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
        Ok(DeadlineTimer {
            timer,
            armed: None,
            anchor: (now, Duration::from(reading)),
        })
    }

    /// Arms the timer for `deadline`, which may have passed, or disarms it (`None`). Makes a system
    /// call only if the deadline changes.
    ///
    /// The descriptor is never read: arming it again clears it, and each expiration is a new edge.
    #[inline]
    pub fn arm(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match deadline == self.armed {
            true => Ok(()),
            false => self.set(deadline),
        }
    }

    /// Arms the timer for `deadline` unless it is armed for an earlier one.
    pub fn arm_at_least(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match (deadline, self.armed) {
            (None, _) => Ok(()),
            (Some(deadline), Some(armed)) if armed <= deadline => Ok(()),
            (deadline, _) => self.arm(deadline),
        }
    }

    fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match deadline {
            None => self.timer.unset()?,
            Some(deadline) => {
                let since_anchor = deadline.saturating_duration_since(self.anchor.0);
                let expiration = Expiration::OneShot(TimeSpec::from(self.anchor.1 + since_anchor));
                self.timer
                    .set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
        }
        self.armed = deadline;
        Ok(())
    }

    /// Records that the timer expired, so that the same deadline can be armed again.
    pub fn expired(&mut self) {
        self.armed = None;
    }
}

impl AsRawFd for DeadlineTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }
}
