//! The schedule: the time at which each message is due, decided before the run by rate, arrivals
//! and seed. Pure.
//!
//! A constant rate is a fraction of integers, and message k is due k / rate after the start. That
//! time is computed from k, not by adding a rounded period, so nothing drifts. Poisson gaps are a
//! function of the seed and k; each is rounded to whole nanoseconds.
//!
//! Where the rate follows a profile, N(t) messages are due before t, and message k is due at the
//! inverse of N at k ([`profile`](crate::load::plan::profile)). Poisson arrivals are those of a
//! constant rate on a clock on which one message is due per unit of time: the gaps of the seed are
//! added up there, and the inverse of N returns the time (inversion). Without a profile nothing of
//! this is computed.
//!
//! Threads share one schedule, and so do the queues of messages for different connections. With q
//! queues, message k belongs to queue k mod q. The messages of a queue are dealt to its connections
//! in turn, and each belongs to the thread that has the connection. Every queue therefore has an
//! equal share of the schedule, and of a queue's messages each thread has a share in proportion to
//! its connections. Which of the thread's connections sends a message is not decided here.
//!
//! With pacing per connection, each connection has a queue of its own: at a constant rate their
//! phases are interleaved; with Poisson arrivals each queue is an independent Poisson process, and
//! all of them together are one as well.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::load::plan::profile::{Profile, QUANTA};
use crate::load::plan::random::{Purpose, RandomStream};
use crate::units::{grouped, nanoseconds};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A number of messages per second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    messages: u64,
    /// The time, in nanoseconds, in which that many messages are due.
    nanoseconds: u64,
}

/// The rate of a run: constant, or in stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateOverTime {
    /// This rate throughout.
    Constant(Rate),
    /// The rates of a profile.
    Profile(Profile),
}

/// The distribution of the gaps between messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// All gaps are equal.
    #[default]
    Constant,
    /// Exponential gaps, as in the requests of many independent users: a Poisson process.
    Poisson,
}

/// One of several parts of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its index, from 0.
    pub index: u32,
    /// Number of parts, at least one.
    pub of: u32,
}

/// The messages of a schedule that belong to a part of it: of every `cycle` messages, `count` ones
/// that are `stride` apart, the first of which has the number `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    first: u64,
    stride: u64,
    count: u64,
    cycle: u64,
}

/// The messages of one part of a schedule.
#[derive(Clone, Debug)]
pub struct ScheduleIter {
    rate: RateOverTime,
    arrivals: Arrivals,
    gaps: RandomStream,
    /// The mean gap: in nanoseconds at a constant rate, in quanta of a message in a profile.
    mean_gap: f64,
    turns: Stride,
    /// The end: only messages that are due before this time, in nanoseconds, and whose numbers are
    /// below that number.
    before: u64,
    below: u64,
}

/// The end of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before this time after the start, in nanoseconds.
    Before(u64),
    /// Before the message of the whole schedule with this number.
    Number(u64),
}

/// A position in a series: its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of that message in the whole schedule.
    number: u64,
    /// Number of messages of this part that precede it in its cycle.
    turn: u64,
    /// The time at which it is due, in nanoseconds after the start, even if that is past the end.
    at: u64,
    /// In a profile, the quanta of messages that have become due by then; with Poisson arrivals,
    /// those that are due on average.
    quanta: u128,
}

impl Rate {
    /// Parses a decimal number of messages per second, such as `1000` or `333.3`.
    pub fn parse(text: &str) -> Option<Rate> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || decimals.len() > 6 || !digits(whole) || !digits(decimals) {
            return None;
        }
        let messages: u64 = format!("{whole}{decimals}").parse().ok()?;
        let nanoseconds = SECOND * 10u64.pow(decimals.len() as u32);
        (messages > 0).then_some(Rate {
            messages,
            nanoseconds,
        })
    }

    /// Returns the sum of two rates; of sums that 64 bits cannot hold, the nearest.
    pub fn plus(self, other: Rate) -> Rate {
        let nanoseconds = self.nanoseconds.max(other.nanoseconds);
        // Both are a second multiplied by a power of ten.
        let scaled = |rate: Rate| {
            rate.messages
                .saturating_mul(nanoseconds / rate.nanoseconds.max(1))
        };
        Rate {
            messages: scaled(self).saturating_add(scaled(other)),
            nanoseconds,
        }
    }

    /// Returns the number of messages per second.
    pub fn per_second(self) -> f64 {
        self.messages as f64 / self.nanoseconds as f64 * 1e9
    }

    /// Returns the time in which this many messages are due, in whole nanoseconds, rounded down.
    pub fn time_of(self, messages: u64) -> u64 {
        let time = u128::from(messages) * u128::from(self.nanoseconds) / u128::from(self.messages);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// Returns a rate in millionths of a message per second, but at least one of these.
    pub fn of_millionths(millionths: u64) -> Rate {
        Rate {
            messages: millionths.max(1),
            nanoseconds: SECOND * 1_000_000,
        }
    }

    /// Returns the mean gap in nanoseconds.
    fn mean_gap(self) -> f64 {
        self.nanoseconds as f64 / self.messages as f64
    }
}

impl RateOverTime {
    /// Returns the mean gap, in the unit of [`ScheduleIter::mean_gap`].
    fn mean_gap(&self) -> f64 {
        match self {
            RateOverTime::Constant(rate) => rate.mean_gap(),
            RateOverTime::Profile(_) => QUANTA as f64,
        }
    }
}

impl From<Rate> for RateOverTime {
    fn from(rate: Rate) -> RateOverTime {
        RateOverTime::Constant(rate)
    }
}

impl From<Profile> for RateOverTime {
    fn from(profile: Profile) -> RateOverTime {
        RateOverTime::Profile(profile)
    }
}

/// Formats the rate as [`Rate`] or [`Profile`] does.
impl fmt::Display for RateOverTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RateOverTime::Constant(rate) => rate.fmt(f),
            RateOverTime::Profile(profile) => profile.fmt(f),
        }
    }
}

/// Formats the rate in decimals, with the thousands grouped: `2,000`, `333.3`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.nanoseconds / SECOND;
        write!(f, "{}", grouped(self.messages / second))?;
        match self.messages % second {
            0 => Ok(()),
            rest => {
                let places = second.ilog10() as usize;
                let decimals = format!("{rest:0places$}");
                write!(f, ".{}", decimals.trim_end_matches('0'))
            }
        }
    }
}

impl Part {
    /// The only part of a whole.
    pub const WHOLE: Part = Part { index: 0, of: 1 };

    /// Returns the index in the whole of the member with index `place` in this part.
    pub fn member(self, place: u32) -> u32 {
        self.index + place * self.of
    }

    /// Returns how many of `things` belong to this part when they are dealt one by one.
    pub fn share(self, things: u64) -> u64 {
        let (index, of) = (u64::from(self.index), u64::from(self.of));
        things / of + u64::from(index < things % of)
    }
}

impl From<Part> for Stride {
    /// Returns every `of`th message.
    fn from(part: Part) -> Stride {
        Stride {
            first: part.index.into(),
            stride: part.of.into(),
            count: 1,
            cycle: part.of.into(),
        }
    }
}

impl Stride {
    /// Returns the number of queues of which a thread has connections. The thread's connection with
    /// index p belongs to the thread's queue with index p mod that number.
    pub fn queues_of(thread: Part, connections: u32, queues: u32) -> u32 {
        let apart = queues / common_divisor(queues, thread.of);
        apart.min(thread.share(connections.into()) as u32)
    }

    /// Returns the thread's messages of its queue with index `place`; the thread has connections of
    /// it.
    pub fn of_queue(thread: Part, connections: u32, queues: u32, place: u32) -> Stride {
        let first = thread.member(place);
        let queue = Part {
            index: first % queues,
            of: queues,
        };
        let apart = queues / common_divisor(queues, thread.of);
        let in_thread = Part {
            index: place,
            of: apart,
        };
        let turns = Stride {
            first: first.into(),
            stride: u64::from(apart) * u64::from(thread.of),
            count: in_thread.share(thread.share(connections.into())),
            cycle: u64::from(queues) * queue.share(connections.into()),
        };
        match turns.stride * turns.count == turns.cycle {
            true => Stride {
                count: 1,
                cycle: turns.stride,
                ..turns
            },
            false => turns,
        }
    }

    /// Returns how many messages lie between the last one of a cycle and the first of the next.
    #[inline]
    fn wrap(self) -> u64 {
        self.cycle - self.stride * (self.count - 1)
    }

    /// Returns how many messages of this part have numbers below this one.
    fn below(self, number: u64) -> u64 {
        let rest = (number % self.cycle).saturating_sub(self.first);
        number / self.cycle * self.count + rest.div_ceil(self.stride).min(self.count)
    }
}

fn common_divisor(one: u32, other: u32) -> u32 {
    match other {
        0 => one,
        _ => common_divisor(other, one % other),
    }
}

impl ScheduleIter {
    /// Returns the messages of a part of the schedule, up to `end`.
    pub fn new(
        rate: impl Into<RateOverTime>,
        arrivals: Arrivals,
        seed: u64,
        end: End,
        turns: impl Into<Stride>,
    ) -> Self {
        let (before, below) = match end {
            End::Before(time) => (time, u64::MAX),
            End::Number(number) => (u64::MAX, number),
        };
        let rate = rate.into();
        ScheduleIter {
            arrivals,
            gaps: RandomStream::new(seed, Purpose::Gaps, 0),
            mean_gap: rate.mean_gap(),
            rate,
            turns: turns.into(),
            before,
            below,
        }
    }

    /// Returns the messages of a connection that has a queue of its own.
    pub fn line(
        rate: impl Into<RateOverTime>,
        arrivals: Arrivals,
        seed: u64,
        end: End,
        line: Part,
    ) -> Self {
        let part = ScheduleIter::new(rate, arrivals, seed, end, line);
        match arrivals {
            Arrivals::Constant => part,
            Arrivals::Poisson => ScheduleIter {
                gaps: RandomStream::new(seed, Purpose::Gaps, 1 + u64::from(line.index)),
                mean_gap: part.rate.mean_gap() * f64::from(line.of),
                turns: Part::WHOLE.into(),
                below: match end {
                    End::Before(_) => u64::MAX,
                    End::Number(messages) => line.share(messages),
                },
                ..part
            },
        }
    }

    /// Returns a cursor at the first message.
    pub fn start(&self) -> Cursor {
        let mut cursor = Cursor {
            number: 0,
            turn: 0,
            at: 0,
            quanta: 0,
        };
        match (&self.rate, self.arrivals) {
            (RateOverTime::Constant(_), Arrivals::Constant) => {}
            (RateOverTime::Constant(_), Arrivals::Poisson) => cursor.at = self.gap(0),
            (RateOverTime::Profile(profile), _) => self.follow(profile, &mut cursor, 0),
        }
        self.forward(&mut cursor, self.turns.first);
        cursor
    }

    /// Returns the time after the start at which the message at the cursor is due; `None`: the
    /// series has ended.
    #[inline]
    pub fn due(&self, cursor: Cursor) -> Option<Duration> {
        let within = cursor.at < self.before && cursor.number < self.below;
        within.then(|| Duration::from_nanos(cursor.at))
    }

    /// Returns how many messages from the cursor on are due up to this time after the start, where
    /// a formula gives that number; `None`: they have to be counted one by one.
    pub fn count(&self, cursor: Cursor, elapsed: Duration) -> Option<u64> {
        if self.arrivals == Arrivals::Poisson {
            return None;
        }
        let elapsed = nanoseconds(elapsed);
        let last = elapsed.min(self.before.saturating_sub(1));
        let end = match &self.rate {
            // Message k is due by then if k * nanoseconds / messages, rounded down, is not beyond.
            RateOverTime::Constant(rate) => {
                let end = (u128::from(last) + 1) * u128::from(rate.messages);
                let end = end.div_ceil(u128::from(rate.nanoseconds));
                u64::try_from(end).unwrap_or(u64::MAX)
            }
            RateOverTime::Profile(profile) => profile.count_before(last.saturating_add(1)),
        };
        let end = end.min(self.below);
        Some(match self.before {
            0 => 0,
            _ => {
                let before = self.turns.below(cursor.number);
                self.turns.below(end).saturating_sub(before)
            }
        })
    }

    /// Advances the cursor to the next message of this part.
    #[inline]
    pub fn advance(&self, cursor: &mut Cursor) {
        cursor.turn += 1;
        let step = match cursor.turn < self.turns.count {
            true => self.turns.stride,
            false => {
                cursor.turn = 0;
                self.turns.wrap()
            }
        };
        self.forward(cursor, step);
    }

    /// Ends the series earlier: messages due at `end` or later no longer belong to it.
    pub fn cut(&mut self, end: Duration) {
        let end = nanoseconds(end);
        self.before = self.before.min(end);
    }

    fn forward(&self, cursor: &mut Cursor, messages: u64) {
        let first = cursor.number + 1;
        cursor.number += messages;
        match (&self.rate, self.arrivals) {
            (RateOverTime::Constant(rate), Arrivals::Constant) => {
                cursor.at = rate.time_of(cursor.number);
            }
            (RateOverTime::Constant(_), Arrivals::Poisson) => {
                for number in first..=cursor.number {
                    cursor.at = cursor.at.saturating_add(self.gap(number));
                }
            }
            (RateOverTime::Profile(profile), _) => self.follow(profile, cursor, first),
        }
    }

    /// Sets the time of the message at the cursor, whose number was changed: the gaps before the
    /// messages from `first` on are not in its quanta yet.
    #[inline(never)]
    fn follow(&self, profile: &Profile, cursor: &mut Cursor, first: u64) {
        cursor.quanta = match self.arrivals {
            Arrivals::Constant => u128::from(cursor.number) * QUANTA,
            Arrivals::Poisson => (first..=cursor.number)
                .fold(cursor.quanta, |quanta, number| quanta + self.quanta(number)),
        };
        cursor.at = profile.time_of(cursor.quanta);
    }

    /// Returns the exponential gap before a message in a profile, in quanta.
    fn quanta(&self, number: u64) -> u128 {
        (-self.gaps.unit(number).ln() * self.mean_gap).round() as u128
    }

    /// Returns the exponential gap before a message, in nanoseconds.
    fn gap(&self, number: u64) -> u64 {
        (-self.gaps.unit(number).ln() * self.mean_gap).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap()
    }

    fn profile(text: &str) -> Profile {
        text.parse().unwrap()
    }

    fn all(series: &ScheduleIter) -> Vec<u64> {
        let mut cursor = series.start();
        let mut dues = Vec::new();
        while let Some(due) = series.due(cursor) {
            dues.push(due.as_nanos() as u64);
            series.advance(&mut cursor);
        }
        dues
    }

    #[test]
    fn a_rate_is_a_decimal_number_above_zero() {
        assert_eq!(rate("333.3").per_second(), 333.3);
        assert_eq!(rate("7").per_second(), 7.0);
        assert_eq!(rate("0.001").per_second(), 0.001);
        for text in ["333.3", "0.000001", "20.05", "7"] {
            assert_eq!(rate(text).to_string(), text);
        }
        assert_eq!(rate("5.50").to_string(), "5.5");
        assert_eq!(rate("2000.50").to_string(), "2,000.5");
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "1e3",
            ".5",
            "1.2345678",
            "x",
            "1.x",
            "+1",
        ] {
            assert_eq!(Rate::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn in_a_time_there_are_rate_times_time_messages_to_within_one() {
        for text in ["1", "7", "333.3", "1001", "10000", "50000"] {
            for seconds in [1u64, 3, 10] {
                let end = End::Before(seconds * 1_000_000_000);
                let series = ScheduleIter::new(rate(text), Arrivals::Constant, 1, end, Part::WHOLE);
                let expected = rate(text).per_second() * seconds as f64;
                let count = all(&series).len() as f64;
                assert!((count - expected).abs() < 1.0 + 1e-6, "{text}: {count}");
            }
        }
    }

    proptest! {
        #[test]
        fn message_k_is_due_within_a_nanosecond_of_k_over_rate(
            whole in 1u64..10_000_000, decimals in 0u64..1000, k in 0u64..1_000_000_000,
        ) {
            let rate = rate(&format!("{whole}.{decimals:03}"));
            let end = End::Number(u64::MAX);
            let series = ScheduleIter::new(rate, Arrivals::Constant, 1, end, Part::WHOLE);
            let mut cursor = series.start();
            series.forward(&mut cursor, k);
            let at = u128::from(cursor.at);
            // at <= k / rate < at + 1, in integers: k * 1e12 / (messages per thousand seconds).
            let per_thousand_seconds = u128::from(whole * 1000 + decimals);
            let exact = u128::from(k) * 1_000_000_000_000;
            prop_assert!(at * per_thousand_seconds <= exact);
            prop_assert!(exact < (at + 1) * per_thousand_seconds);
        }

        #[test]
        fn the_parts_are_the_whole_without_overlap(
            seed: u64, parts in 1u32..9, poisson: bool, tenths in 1u64..100_000, steps: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let text = format!("{}.{}", tenths / 10, tenths % 10);
            let rate: RateOverTime = match steps {
                true => profile(&format!("0..{text}:1s,0:1s,{text}:99d")).into(),
                false => rate(&text).into(),
            };
            let end = End::Number(300);
            let rates = || rate.clone();
            let whole = all(&ScheduleIter::new(rates(), arrivals, seed, end, Part::WHOLE));
            for index in 0..parts {
                let part = Part { index, of: parts };
                let series = ScheduleIter::new(rates(), arrivals, seed, end, part);
                let expected = whole.iter().skip(index as usize).step_by(parts as usize);
                prop_assert_eq!(all(&series), expected.copied().collect::<Vec<_>>());
            }
            prop_assert_eq!(whole.len(), 300);
        }

        #[test]
        fn a_schedule_is_dealt_to_queues_and_threads_in_turn(
            seed: u64, poisson: bool, threads in 1u32..9, queues in 1u32..9, more in 0u32..30,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let connections = threads.max(queues) + more;
            let end = End::Number(300);
            let whole = all(&ScheduleIter::new(rate("999.9"), arrivals, seed, end, Part::WHOLE));
            // The connection of message k, computed one by one; then the messages of each thread.
            let line = |k: u32| {
                let of_queue = (k % queues..connections).step_by(queues as usize);
                let lines: Vec<u32> = of_queue.collect();
                lines[(k / queues) as usize % lines.len()]
            };
            for index in 0..threads {
                let thread = Part { index, of: threads };
                let lines: Vec<u32> = (index..connections).step_by(threads as usize).collect();
                let places = Stride::queues_of(thread, connections, queues);
                for place in 0..places {
                    // All connections with this index belong to one queue, and no others do.
                    let queue = lines[place as usize] % queues;
                    for (number, line) in lines.iter().enumerate() {
                        let is_here = number as u32 % places == place;
                        prop_assert_eq!(line % queues == queue, is_here);
                    }
                    let turns = Stride::of_queue(thread, connections, queues, place);
                    let series = ScheduleIter::new(rate("999.9"), arrivals, seed, end, turns);
                    let is_of_it = |k: &u32| k % queues == queue && line(*k) % threads == index;
                    let numbers = (0..300).filter(is_of_it);
                    let expected: Vec<u64> = numbers.map(|k| whole[k as usize]).collect();
                    prop_assert_eq!(all(&series), expected);
                }
            }
        }

        #[test]
        fn what_is_due_is_counted_as_it_would_be_one_by_one(
            tenths in 1u64..100_000_000, index in 0u32..5, more in 0u32..5, skipped in 0usize..50,
            queues in 1u32..5, lines in 0u32..20,
            elapsed in 0u64..100_000_000_000, end in 0u64..100_000_000_000, number in 0u64..500,
            by_number: bool, steps: bool,
        ) {
            let text = format!("{}.{}", tenths / 10, tenths % 10);
            let rate: RateOverTime = match steps && tenths <= 1_000_000 {
                true => profile(&format!("1..{text}:2s,0:3s,{text}:5s,{text}..0:50s")).into(),
                false => rate(&text).into(),
            };
            let thread = Part { index, of: index + 1 + more };
            let turns = Stride::of_queue(thread, thread.of.max(queues) + lines, queues, 0);
            let end = if by_number { End::Number(number) } else { End::Before(end) };
            let mut series = ScheduleIter::new(rate, Arrivals::Constant, 1, end, turns);
            series.below = series.below.min(1000);
            let mut cursor = series.start();
            for _ in 0..skipped {
                series.advance(&mut cursor);
            }
            let elapsed = Duration::from_nanos(elapsed);
            let counted = series.count(cursor, elapsed);
            let mut count = 0;
            while series.due(cursor).is_some_and(|due| due <= elapsed) {
                series.advance(&mut cursor);
                count += 1;
            }
            prop_assert_eq!(counted, Some(count));
        }
    }

    /// Tests whether these numbers are uniformly distributed between 0 and 1, with the statistic of
    /// Kolmogorov and Smirnov at a significance of 1e-4, whose critical value is 2.23 / sqrt(n).
    fn check_uniform(mut values: Vec<f64>, seed: u64) {
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let distance = values
            .iter()
            .zip(1..)
            .map(|(value, rank)| (value - f64::from(rank) / count).abs())
            .fold(0.0, f64::max);
        assert!(distance < 2.23 / count.sqrt(), "seed {seed}: {distance}");
    }

    /// Returns gaps with a mean of 1 as they are distributed if they are exponential.
    fn uniform(gaps: impl Iterator<Item = f64>) -> Vec<f64> {
        gaps.map(|gap| 1.0 - (-gap).exp()).collect()
    }

    #[test]
    fn poisson_gaps_pass_a_kolmogorov_smirnov_test_at_1e5_arrivals() {
        for seed in 1..=5 {
            let end = End::Number(100_000);
            let series =
                ScheduleIter::new(rate("10000"), Arrivals::Poisson, seed, end, Part::WHOLE);
            let dues = all(&series);
            let before = std::iter::once(0).chain(dues.iter().copied());
            let gaps = before.zip(&dues).map(|(before, due)| due - before);
            check_uniform(uniform(gaps.map(|gap| gap as f64 / 100_000.0)), seed);
        }
    }

    #[test]
    fn poisson_arrivals_of_a_ramp_pass_the_test_in_time_and_in_their_gaps() {
        // N(t) = 1000 t + 25 t^2, so 30,000 messages in 20 s on average.
        let due_by = |nanoseconds: u64| {
            let t = nanoseconds as f64 / 1e9;
            1000.0 * t + 25.0 * t * t
        };
        for seed in 1..=5 {
            let end = End::Before(20 * SECOND);
            let ramp = profile("1000..2000:20s");
            let series = ScheduleIter::new(ramp, Arrivals::Poisson, seed, end, Part::WHOLE);
            let dues = all(&series);
            let scatter = (dues.len() as f64 - 30_000.0) / 30_000f64.sqrt();
            assert!(scatter.abs() < 4.0, "seed {seed}: {}", dues.len());
            check_uniform(
                dues.iter().map(|due| due_by(*due) / 30_000.0).collect(),
                seed,
            );
            let before = std::iter::once(0).chain(dues.iter().copied());
            let gaps = before
                .zip(&dues)
                .map(|(before, due)| due_by(*due) - due_by(before));
            check_uniform(uniform(gaps), seed);
        }
    }

    #[test]
    fn connections_share_a_profile_evenly_and_independently() {
        let end = End::Before(10 * SECOND);
        let part = |index| Part { index, of: 50 };
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let lines = (0..50).map(|index| {
                let steps = profile("1000:4s,0:2s,2000:4s");
                all(&ScheduleIter::line(steps, arrivals, 7, end, part(index)))
            });
            let mut dues = lines.collect::<Vec<_>>().concat();
            dues.sort_unstable();
            assert!(
                dues.iter()
                    .all(|due| !(4 * SECOND..6 * SECOND).contains(due))
            );
            let due_by = |due: &u64| match *due as f64 / 1e9 {
                t if t < 4.0 => t * 1000.0,
                t => 4000.0 + (t - 6.0) * 2000.0,
            };
            check_uniform(dues.iter().map(|due| due_by(due) / 12_000.0).collect(), 7);
            let scatter = (dues.len() as f64 - 12_000.0) / 12_000f64.sqrt();
            match arrivals {
                Arrivals::Constant => assert_eq!(dues.len(), 12_000),
                Arrivals::Poisson => assert!(scatter.abs() < 4.0, "{}", dues.len()),
            }
        }
    }

    #[test]
    fn poisson_counts_of_seconds_scatter_as_their_mean() {
        let end = End::Before(1_000_000_000_000);
        let series = ScheduleIter::new(rate("100"), Arrivals::Poisson, 3, end, Part::WHOLE);
        let mut seconds = vec![0.0f64; 1000];
        for due in all(&series) {
            seconds[(due / 1_000_000_000) as usize] += 1.0;
        }
        let mean = seconds.iter().sum::<f64>() / 1000.0;
        let variance = seconds.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 999.0;
        assert!((mean - 100.0).abs() < 2.0, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.25, "{variance}");
    }

    #[test]
    fn a_series_that_is_cut_ends_there() {
        let end = End::Number(1000);
        let mut series = ScheduleIter::new(rate("1000"), Arrivals::Constant, 1, end, Part::WHOLE);
        series.cut(Duration::from_secs(5));
        assert_eq!(all(&series).len(), 1000);
        series.cut(Duration::from_millis(10));
        assert_eq!(all(&series).len(), 10);
    }
}
