//! Keep-alive: decides when a silent client is probed, and when it is considered gone. Pure.
//!
//! The kernel can do all of this alone (SO_KEEPALIVE), but then it resets healthy clients in large
//! numbers. Its timers are as coarse as an eighth of their time: all clients that fell silent
//! within two seconds are probed in one tick of its clock. A burst larger than a host's queue
//! (net.core.netdev_max_backlog, 1,000 packets) loses the rest of the probes, and a lost probe is
//! repeated in the next burst. So here the server requests each probe, and the kernel sends it:
//!
//! ```text
//!   last segment of the client                                                  reset
//!       │◄─ 13/16 to 15/16 of time ─►│◄─ pause ─►│◄─ pause ─►│◄─ pause ─►│◄─ pause ─►│
//!       ▼                         probe 1     probe 2     probe 3     probe 4        ▼
//! ```
//!
//! - **Spread.** The first probe is sent 13/16 to 15/16 of the time after the last
//!   segment, depending on the token, so that clients that connected together are not probed
//!   together. The last sixteenth absorbs what delays probes (the ticks of the timer wheel, the
//!   queue), so that a client that has vanished is reset after time + 4 pauses at the latest.
//! - **Paced.** Clients that are due wait in a queue, from which at most one burst is taken in each
//!   gap. Bursts grow with the number of clients, so that all of them can be probed within the
//!   eighth of the time over which they are spread; but a burst never exceeds what a host queues.
//! - **No state.** The kernel keeps the time of the last segment, and counts the probes that it has
//!   sent since then (`tcpi_probes`). So the server keeps nothing of a client but its entry in the
//!   wheel, and a probe that this host could not send does not count against the client.
//!
//! A short connection costs nothing: new clients are found by a scan of the table, four times in
//! each `time`, and only then added to the wheel.
//!
//! Invariant: an enrolled client is either in the wheel or in the queue, once.

use std::collections::{TryReserveError, VecDeque};
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::server::deadlines::timer_wheel::TimerWheel;
use crate::server::engine::world::Output;
use crate::server::limits::{KEEPALIVE_PROBES, Limits};

/// Number of scans of the table for new clients in each `time`.
const SCANS: u32 = 4;

/// Time of the first probe, in parts of `time`, of which there are PARTS: at least FIRST_LEAST, and
/// less than FIRST_SPREAD more.
const FIRST_LEAST: u32 = 13;
const FIRST_SPREAD: u32 = 2;
const PARTS: u32 = 16;

/// Number of ticks of the wheel in each `time`: five of them are less than the last sixteenth.
const TICKS: u32 = 256;

/// Number of times that all clients can be checked in each `time`: one such check takes less than
/// the eighth of it over which they are spread.
const BURST_FACTOR: usize = 10;

/// The schedule of the probes.
#[derive(Debug)]
pub struct Keepalive {
    time: Duration,
    pause: Duration,
    burst: (usize, usize),
    gap: Duration,
    /// The times at which enrolled clients are to be checked.
    wheel: TimerWheel<()>,
    /// Clients that are due for a check.
    due: VecDeque<Token>,
    /// The earliest time of the next burst.
    next_burst: Instant,
    /// Whether there was no memory for another client in the queue.
    is_short: bool,
    /// The time of the next burst's timer, if one is set.
    burst_set_for: Option<Instant>,
    /// The slot at which the scan continues; `None`: no scan is scheduled, since there was no
    /// client.
    next_slot: Option<usize>,
}

/// The time of a timer that must be set, if any. The error: there was no memory to add a client to
/// the wheel.
type Set = Result<Option<Instant>, TryReserveError>;

/// The action for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is alive, or subject to another timeout: check it again after this time.
    Wait(Duration),
    /// The client is to be probed.
    Probe,
    /// The client has answered none of [`KEEPALIVE_PROBES`] probes.
    Vanished,
}

impl Keepalive {
    /// Returns the schedule; `None` when the limits have no keep-alive. Ticks are counted from
    /// `now`.
    pub fn new(limits: &Limits, now: Instant) -> Option<Keepalive> {
        let time = limits.keepalive?;
        Some(Keepalive {
            time,
            pause: limits.keepalive_pause(),
            burst: limits.probe_burst,
            gap: limits.probe_gap,
            wheel: TimerWheel::with_ticks(time, TICKS, now),
            due: VecDeque::new(),
            next_burst: now,
            is_short: false,
            burst_set_for: None,
            next_slot: None,
        })
    }

    /// Returns how long this client may be silent before it is probed.
    fn silence(&self, token: Token) -> Duration {
        // Fibonacci hashing, by the golden ratio: consecutive connections are spread far apart, and
        // all of them evenly.
        let spread = (token.to_bits() >> 32).wrapping_mul(0x9e37_79b9) as u32;
        let spread = f64::from(spread) / (1u64 << 32) as f64 * f64::from(FIRST_SPREAD);
        self.time
            .mul_f64((f64::from(FIRST_LEAST) + spread) / f64::from(PARTS))
    }

    /// Returns the action for a client whose output has this state in the kernel.
    pub fn judge(&self, token: Token, output: &Output) -> Verdict {
        // The kernel retransmits outstanding bytes, and sends no probes while there are any.
        if output.outstanding > 0 {
            return Verdict::Wait(self.pause);
        }
        let left = self.silence(token).saturating_sub(output.heard);
        if !left.is_zero() {
            Verdict::Wait(left)
        } else if output.unanswered >= KEEPALIVE_PROBES {
            Verdict::Vanished
        } else {
            Verdict::Probe
        }
    }

    /// Returns the time after a probe at which its client is checked again.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Starts the scans if none is scheduled, since there is a client. Returns the time of the
    /// timer to set, if any.
    #[inline]
    pub fn begin_scans(&mut self, now: Instant) -> Option<Instant> {
        if self.next_slot.is_some() {
            return None;
        }
        self.next_slot = Some(0);
        Some(now + self.time / SCANS)
    }

    /// Returns the slot at which the scan continues.
    pub fn scan_from(&self) -> usize {
        self.next_slot.unwrap_or(0)
    }

    /// Records that the scan has reached this slot; `None`: the end of the table. Returns the time
    /// of the timer to set for the next part.
    pub fn scanned(&mut self, to: Option<usize>, now: Instant) -> Instant {
        self.next_slot = Some(to.unwrap_or(0));
        match to {
            Some(_) => now + self.gap,
            None => now + self.time / SCANS,
        }
    }

    /// Stops the scans, since no client is left. The next client starts them again.
    pub fn end_scans(&mut self) {
        self.next_slot = None;
    }

    /// Enrols a new client, to be checked when it may have been silent for long enough, given that
    /// it connected after the previous scan. Returns as [`TimerWheel::add`] does.
    pub fn enrol(&mut self, token: Token, now: Instant) -> Set {
        let age_most = self.time / SCANS + self.time / PARTS;
        let time = self.silence(token).saturating_sub(age_most);
        self.wheel.add(now + time, token, ())
    }

    /// Adds an enrolled client to the wheel again, to be checked after this time. Returns as
    /// [`TimerWheel::add`] does.
    pub fn reschedule(&mut self, token: Token, now: Instant, after: Duration) -> Set {
        self.wheel.add(now + after, token, ())
    }

    /// Removes clients that are gone from the wheel, see [`TimerWheel::sweep`].
    pub fn sweep(&mut self, there: usize, is_there: impl Fn(Token) -> bool) {
        self.wheel.sweep(there, is_there);
    }

    /// Handles a timer. Returns how many clients may be checked now; [`Keepalive::take_due`]
    /// returns them one by one.
    pub fn begin_burst(&mut self, now: Instant, clients: usize) -> usize {
        self.is_short = self.due.try_reserve(1).is_err();
        // Clients for which the queue has no room stay in the wheel until the next burst.
        while self.due.len() < self.due.capacity()
            && let Some((token, ())) = self.wheel.pop(now)
        {
            self.due.push_back(token);
            self.is_short = self.due.try_reserve(1).is_err();
        }
        self.burst_set_for = self.burst_set_for.filter(|&deadline| deadline > now);
        if now < self.next_burst {
            return 0;
        }
        self.next_burst = now + self.gap;
        let gaps = (self.time.as_nanos() / self.gap.as_nanos().max(1)).max(1) as usize;
        let wanted = (BURST_FACTOR * clients).div_ceil(gaps);
        wanted.clamp(self.burst.0, self.burst.1)
    }

    /// Removes and returns the next client that is due.
    pub fn take_due(&mut self) -> Option<Token> {
        self.due.pop_front()
    }

    /// Returns the times of the timers to set after a burst, if any.
    pub fn next_timer(&mut self) -> [Option<Instant>; 2] {
        let is_to_set = (!self.due.is_empty() || self.is_short) && self.burst_set_for.is_none();
        let burst = is_to_set.then_some(self.next_burst);
        self.burst_set_for = self.burst_set_for.or(burst);
        [self.wheel.next_timer(), burst]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::slots::Slots;

    const MS: Duration = Duration::from_millis(1);

    /// Returns the kernel's state of a client that is owed nothing.
    fn output(heard: Duration, unanswered: u32) -> Output {
        Output {
            acknowledged: 0,
            outstanding: 0,
            quiet: heard,
            heard,
            unanswered,
        }
    }

    fn keepalive(time: Duration, now: Instant) -> Keepalive {
        let limits = Limits {
            keepalive: Some(time),
            ..Limits::default()
        };
        Keepalive::new(&limits, now).unwrap()
    }

    /// Returns when each of these clients, which fell silent at the same time, is probed, in
    /// milliseconds.
    fn probe_times(time: Duration, clients: usize) -> Vec<u64> {
        let start = Instant::now();
        let mut keepalive = keepalive(time, start);
        let mut slots = Slots::default();
        for _ in 0..clients {
            let _ = keepalive.enrol(slots.insert(()), start).unwrap();
        }
        let mut times = Vec::new();
        for ms in 0.. {
            let now = start + MS * ms;
            for _ in 0..keepalive.begin_burst(now, clients) {
                let Some(token) = keepalive.take_due() else {
                    break;
                };
                match keepalive.judge(token, &output(now - start, 0)) {
                    Verdict::Wait(left) => drop(keepalive.reschedule(token, now, left).unwrap()),
                    Verdict::Probe => times.push(u64::from(ms)),
                    Verdict::Vanished => panic!("it was not probed"),
                }
            }
            if times.len() == clients {
                return times;
            }
        }
        unreachable!("it ends when all were probed")
    }

    #[test]
    fn clients_that_fell_silent_at_once_are_probed_in_time_and_in_small_bursts() {
        // The clock of a kernel may tick every 10 ms, and it queues 1,000 packets.
        const TICK: u64 = 10;
        for (seconds, clients, most) in [(120, 19_000, 160), (20, 19_000, 160), (4, 19_000, 480)] {
            let time = Duration::from_secs(seconds);
            let times = probe_times(time, clients);
            let (first, last) = (times[0], times[clients - 1]);
            let ms = seconds * 1000;
            assert!(first >= ms * 13 / 16, "{first} of {ms}");
            assert!(last <= ms * 31 / 32, "{last} of {ms}");
            let in_tick = |at: &u64| {
                times
                    .iter()
                    .filter(|it| (*at..at + TICK).contains(it))
                    .count()
            };
            let peak = times.iter().step_by(97).map(in_tick).max();
            println!("{clients} clients in {seconds} s: at most {peak:?} in {TICK} ms");
            assert!(peak <= Some(most), "{peak:?}");
        }
    }

    #[test]
    fn a_client_is_probed_four_times_before_it_is_given_up_and_an_answer_ends_that() {
        let start = Instant::now();
        let keepalive = keepalive(Duration::from_secs(16), start);
        let token = Slots::default().insert(());
        let judge = |seconds, unanswered| {
            keepalive.judge(token, &output(Duration::from_secs(seconds), unanswered))
        };
        assert!(matches!(judge(12, 0), Verdict::Wait(left) if left > Duration::ZERO));
        assert_eq!(judge(15, 0), Verdict::Probe);
        assert_eq!(judge(27, 3), Verdict::Probe);
        assert_eq!(judge(31, 4), Verdict::Vanished);
        assert!(matches!(judge(4, 0), Verdict::Wait(left) if left > Duration::from_secs(8)));
        let owed = Output {
            outstanding: 1,
            ..output(Duration::from_secs(100), 9)
        };
        let watched_elsewhere = Verdict::Wait(Duration::from_secs(4));
        assert_eq!(keepalive.judge(token, &owed), watched_elsewhere);
    }
}
