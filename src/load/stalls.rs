//! Times in which no reply came though messages were on their way: whether they are stalls of the
//! server, or the slow replies that its other times let expect. Pure.
//!
//! A long silence alone says nothing: a single slow reply at a low rate, or the last one of the
//! drain, is a silence as well. So each message that was on its way is asked how likely it was to
//! be on its way for so much longer, given how long it had been already:
//!
//! ```text
//!   surprise = Σ −ln( S(age at the end) / S(age at the beginning) )
//! ```
//!
//! with S(t), the share of the run's messages that were in service for longer than t. A slow reply
//! that had been slow before adds next to nothing; twenty messages that were all to be answered in
//! a millisecond add up to what cannot be chance.

use std::time::Duration;

use crate::load::latency::Distribution;

/// A silence below this is no stall: it may be a pause of scheduling, or a delayed acknowledgment
/// (40 ms) with what follows from it.
pub const STALL_LEAST: Duration = Duration::from_millis(100);

/// The surprise from which on a silence is a stall: one in five hundred million by chance, so that
/// even of a million silences none is.
const SURPRISE: f64 = 20.0;

/// Silences of a thread that are kept: those in which messages lost the most time together.
const KEPT: usize = 16;

/// Messages of a silence that are kept with their ages; of more, every so many-th.
pub const WAITS_MAX: usize = 1000;

/// A time without a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// Its length.
    pub length: Duration,
    /// Of messages that were sent and had no reply: how long ago they were sent when the silence
    /// began (zero: later), and when it ended.
    pub waits: Vec<(Duration, Duration)>,
    /// How many messages each of these stands for.
    pub weight: f64,
}

/// The silences of a run that may be stalls.
#[derive(Clone, Debug, Default)]
pub struct Silences(Vec<Silence>);

impl Silence {
    /// The time that messages lost in it, all together.
    fn lost(&self) -> f64 {
        let waits = self.waits.iter().map(|(from, to)| *to - *from);
        waits.sum::<Duration>().as_secs_f64() * self.weight
    }

    /// Returns how little it is to be expected from the times of service, in natural logarithms.
    fn surprise(&self, service: &Distribution) -> f64 {
        let longer = |age| (service.beyond(age) as f64).max(0.5);
        let waits = self.waits.iter();
        let each = waits.map(|(from, to)| (longer(*from) / longer(*to)).ln());
        each.sum::<f64>() * self.weight
    }
}

impl Silences {
    /// Adds one.
    pub fn add(&mut self, silence: Silence) {
        self.0.push(silence);
        if self.0.len() > KEPT {
            self.0
                .sort_by(|one, other| other.lost().total_cmp(&one.lost()));
            self.0.truncate(KEPT);
        }
    }

    /// Adds those of another thread. A server that stopped stopped for all of them, so each thread
    /// sees its own part.
    pub fn merge(&mut self, other: &Silences) {
        other.0.iter().for_each(|silence| self.add(silence.clone()));
    }

    /// Returns the length of the longest stall, given how long messages were in service.
    pub fn stall(&self, service: &Distribution) -> Option<Duration> {
        let stalls = self.0.iter();
        let stalls = stalls.filter(|silence| silence.surprise(service) > SURPRISE);
        stalls.map(|silence| silence.length).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::latency::Latency;

    const MS: Duration = Duration::from_millis(1);

    fn silence(waits: &[(u32, u32)]) -> Silences {
        let mut silences = Silences::default();
        let waits: Vec<_> = waits
            .iter()
            .map(|(from, to)| (MS * *from, MS * *to))
            .collect();
        silences.add(Silence {
            length: waits.iter().map(|(from, to)| *to - *from).max().unwrap(),
            waits,
            weight: 1.0,
        });
        silences
    }

    /// A thousand replies: all in a millisecond but `slow` of them, which take 500 ms.
    fn service(slow: u32) -> Distribution {
        let mut latency = Latency::default();
        latency.record_many(MS, (1000 - slow).into());
        latency.record_many(500 * MS, slow.into());
        latency.distribution().unwrap()
    }

    #[test]
    fn slow_replies_are_no_stall() {
        // The last of a drain, which had been slow before the others were answered.
        let drain = silence(&[(200, 500), (290, 500), (100, 400), (50, 500)]);
        assert_eq!(drain.stall(&service(10)), None);
        // One that is on its way alone at a low rate.
        assert_eq!(silence(&[(0, 500)]).stall(&service(10)), None);
        assert_eq!(silence(&[(0, 500)]).stall(&service(1)), None);
    }

    #[test]
    fn many_messages_that_stop_at_once_are_a_stall() {
        let waits: Vec<_> = (0..20).map(|_| (0, 500)).collect();
        assert_eq!(silence(&waits).stall(&service(20)), Some(500 * MS));
    }

    #[test]
    fn those_in_which_most_was_lost_are_kept() {
        let mut silences = Silences::default();
        for length in 1..=100 {
            let waits = vec![(Duration::ZERO, MS * length)];
            silences.add(Silence {
                length: MS * length,
                waits,
                weight: 1.0,
            });
        }
        assert_eq!(silences.0.len(), KEPT);
        assert!(silences.0.iter().any(|silence| silence.length == 100 * MS));
    }
}
