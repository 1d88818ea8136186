//! Classifies times without a reply while messages were in flight: stalls of the server, or slow
//! replies that are expected given the other service times. Pure.
//!
//! The length of a silence alone proves nothing: a single slow reply at a low rate, or the last one
//! of the drain, causes a silence as well. Therefore each message that was in flight contributes
//! how unlikely it was to remain in flight until the end of the silence, given its age at the
//! beginning:
//!
//! ```text
//!   surprise = Σ −ln( S(age at the end) / S(age at the beginning) )
//! ```
//!
//! S(t) is the share of the run's messages that were in service for longer than t. A reply that was
//! slow already before the silence adds next to nothing; twenty messages whose replies usually take
//! a millisecond add up to a surprise that cannot be chance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::latency::Distribution;

/// Minimum length of a stall: a shorter silence may be a scheduling delay, or a delayed
/// acknowledgment (40 ms) and its consequences.
pub const STALL_LEAST: Duration = Duration::from_millis(100);

/// The surprise above which a silence is a stall: a probability of one in five hundred million, so
/// that no stall is expected by chance even among a million silences.
const SURPRISE: f64 = 20.0;

/// Maximum number of silences that are kept per thread: those in which messages lost the most time
/// in total.
const KEPT: usize = 16;

/// Maximum number of messages of a silence whose ages are kept; of more messages, every n-th is
/// kept.
pub const WAITS_MAX: usize = 1000;

/// A time without a reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// The length of the silence.
    pub length: Duration,
    /// The ages, since they were sent, of the messages without a reply: at the beginning of the
    /// silence (zero if sent later), and at its end.
    pub waits: Vec<(Duration, Duration)>,
    /// Number of messages that each entry of `waits` represents.
    pub weight: f64,
}

/// The silences of a run that may be stalls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Silences(Vec<Silence>);

impl Silence {
    /// Returns the time that all messages together lost in the silence, in seconds.
    fn lost(&self) -> f64 {
        let waits = self.waits.iter().map(|(from, to)| to.saturating_sub(*from));
        waits.sum::<Duration>().as_secs_f64() * self.weight
    }

    /// Returns how unexpected the silence is, given the service times: the sum in the module's
    /// docs, in natural logarithms.
    fn surprise(&self, service: &Distribution) -> f64 {
        let longer = |age| (service.beyond(age) as f64).max(0.5);
        let waits = self.waits.iter();
        let each = waits.map(|(from, to)| (longer(*from) / longer(*to)).ln());
        each.sum::<f64>() * self.weight
    }
}

impl Silences {
    /// Adds a silence.
    pub fn add(&mut self, silence: Silence) {
        self.0.push(silence);
        if self.0.len() > KEPT {
            self.0
                .sort_by(|one, other| other.lost().total_cmp(&one.lost()));
            self.0.truncate(KEPT);
        }
    }

    /// Adds the silences of another thread. When a server stops, each thread records a silence with
    /// its own messages.
    pub fn merge(&mut self, other: &Silences) {
        other.0.iter().for_each(|silence| self.add(silence.clone()));
    }

    /// Returns the length of the longest stall, given the distribution of the service times.
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

    /// Returns the service times of a thousand replies: 500 ms for `slow` of them, 1 ms for the
    /// others.
    fn service(slow: u32) -> Latency {
        let mut latency = Latency::default();
        latency.record_many(MS, (1000 - slow).into());
        latency.record_many(500 * MS, slow.into());
        latency
    }

    #[test]
    fn slow_replies_are_no_stall() {
        // The last replies of a drain, which were slow already before the silence.
        let drain = silence(&[(200, 500), (290, 500), (100, 400), (50, 500)]);
        assert_eq!(drain.stall(&service(10).distribution().unwrap()), None);
        // A single message in flight at a low rate.
        assert_eq!(
            silence(&[(0, 500)]).stall(&service(10).distribution().unwrap()),
            None
        );
        assert_eq!(
            silence(&[(0, 500)]).stall(&service(1).distribution().unwrap()),
            None
        );
    }

    #[test]
    fn many_messages_that_stop_at_once_are_a_stall() {
        let waits: Vec<_> = (0..20).map(|_| (0, 500)).collect();
        assert_eq!(
            silence(&waits).stall(&service(20).distribution().unwrap()),
            Some(500 * MS)
        );
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
