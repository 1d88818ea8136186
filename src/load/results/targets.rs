//! The history of each target of a run: attempts and errors by kind, and the absences of its
//! server. Pure.
//!
//! A server is *away* from the first connection that it lost, or from its last reply if that
//! arrived later, for as long as no connection to it is up:
//!
//! ```text
//!   never up ── a connection comes up ──► up ◄─────────────── one comes up ────────────┐
//!                                          │                                           │
//!                                          └── the last one is lost, or none is up ──► away
//!                                              and an attempt fails
//! ```
//!
//! Only errors that a missing server causes count for that (`ErrorKind::may_be_server_down`): not
//! those of this machine, and not wrong replies. A server process that is stopped loses no
//! connection. It is *silent*: messages have no reply, and the last byte arrived long ago.
//!
//! Invariant: failed attempts and broken connections are always counted both here and in the
//! results.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::results::stalls::STALL_LEAST;
use crate::load::results::{ErrorKind, TargetResults, pairs};
use crate::sys::monotonic;

/// A server that has just lost its last connection may be connected again shortly: it is not absent
/// before an attempt has failed, or this time has passed.
const MOMENT: Duration = Duration::from_millis(100);

/// The history of one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// Connections that were established.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Outcomes and times of its messages after the warm-up.
    pub tally: TargetResults,
    /// Causes of broken connections and failed attempts, by kind.
    #[serde(with = "pairs")]
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The absence that lasted until the run closed its connections.
    pub gone: Option<Absence>,
    /// The longest absence that ended because a connection was established, and its end.
    #[serde(with = "monotonic::optional_end")]
    pub away: Option<(Absence, Instant)>,
    /// The messages that were never answered, if there are any.
    pub silence: Option<Silence>,
    /// The time at which bytes of a reply last arrived.
    #[serde(with = "monotonic::optional")]
    pub last_reply: Option<Instant>,
    /// Number of connections that are up.
    #[serde(skip)]
    up: u32,
    /// The losses since a connection was last established, as the absence that they form if no
    /// connection is left.
    #[serde(skip)]
    losses: Option<Absence>,
}

/// A time in which no connection to a server was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// The time at which it began.
    #[serde(with = "monotonic")]
    pub from: Instant,
    /// The error that broke the first connection, or with which the first attempt failed.
    pub how: ErrorKind,
    /// The error of the last attempt that failed since then.
    pub since: Option<ErrorKind>,
}

/// Messages that were sent and had no reply when the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// The time of the last reply of this server, or the due time of the oldest of these messages
    /// if that is later.
    #[serde(with = "monotonic")]
    pub from: Instant,
    /// The time at which the run gave them up.
    #[serde(with = "monotonic")]
    pub to: Instant,
    /// The part of this time in which the thread that would have read replies did not run.
    pub absent: Duration,
    /// The number of messages.
    pub messages: u64,
    /// Number of connections on which they were sent, if none of these ever had a reply while
    /// others did.
    pub mute: Option<u32>,
}

/// The messages of a target that were sent and have no reply when its connections are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The time at which the oldest of them was due.
    pub oldest: Instant,
    /// The number of messages.
    pub messages: u64,
    /// Number of connections on which they were sent, if none of these ever had a reply.
    pub mute: Option<u32>,
}

impl Silence {
    /// Returns for how long the server was silent while its replies would have been read.
    pub fn length(&self) -> Duration {
        let length = self.to.saturating_duration_since(self.from);
        length.saturating_sub(self.absent)
    }
}

impl Target {
    /// Returns the silence at the end of the run, if it is more than a slow reply: longer than a
    /// tenth of a second, and longer than ten times the median service time of this target.
    pub fn stopped(&self) -> Option<Silence> {
        let service = self.tally.service.distribution();
        let median = service.map_or(Duration::ZERO, |service| service.nearest(50.0).value);
        let least = STALL_LEAST.max(median.saturating_mul(10));
        self.silence.filter(|silence| silence.length() > least)
    }

    /// Records that a connection was established.
    pub fn connection_opened(&mut self, now: Instant) {
        self.opened += 1;
        if let Some(absence) = self.losses.take()
            && self.up == 0
            && absence.since.is_some()
        {
            let longest = self.away.map(|(away, end)| end - away.from);
            if longest.is_none_or(|longest| now - absence.from > longest) {
                self.away = Some((absence, now));
            }
        }
        self.up += 1;
    }

    /// Records that a connection is no longer up, for whatever reason.
    pub fn went_down(&mut self) {
        self.up = self.up.saturating_sub(1);
    }

    /// Records that an established connection broke.
    pub fn lost(&mut self, kind: ErrorKind, now: Instant) {
        self.error(kind);
        if kind.may_be_server_down() {
            self.losses.get_or_insert(Absence {
                from: now,
                how: kind,
                since: None,
            });
        }
        self.extend();
    }

    /// Records that an attempt to connect failed.
    pub fn failed(&mut self, kind: ErrorKind, now: Instant) {
        self.failed += 1;
        self.error(kind);
        if !kind.may_be_server_down() || self.opened == 0 || self.up > 0 {
            return;
        }
        let losses = self.losses.get_or_insert(Absence {
            from: now,
            how: kind,
            since: None,
        });
        losses.since = Some(kind);
        self.extend();
    }

    /// Records an error.
    pub fn error(&mut self, kind: ErrorKind) {
        *self.errors.entry(kind).or_default() += 1;
    }

    /// Records that the run closes its connections; their end is no absence from now on. `waiting`:
    /// the messages that have no reply.
    pub fn conclude(&mut self, now: Instant, waiting: Option<Waiting>) {
        let gone = self.losses.take().filter(|_| self.up == 0);
        self.gone = gone.filter(|gone| gone.since.is_some() || now - gone.from > MOMENT);
        self.silence = waiting.map(|waiting| Silence {
            from: self
                .last_reply
                .map_or(waiting.oldest, |last| last.max(waiting.oldest)),
            to: now,
            absent: Duration::ZERO,
            messages: waiting.messages,
            mute: waiting.mute.filter(|_| self.last_reply.is_some()),
        });
    }

    /// Adds the history that another thread has of this target: a server is away only when it is
    /// away for all threads.
    pub fn merge(&mut self, other: &Target) {
        let Target {
            opened,
            failed,
            tally,
            errors,
            gone,
            away,
            silence,
            last_reply,
            up: _,
            losses: _,
        } = other;
        self.gone = match (self.gone, *gone) {
            (Some(mine), Some(theirs)) => Some(Absence {
                from: mine.from.max(theirs.from),
                since: mine.since.or(theirs.since),
                ..mine
            }),
            (Some(gone), None) if *opened == 0 => Some(gone),
            (None, Some(gone)) if self.opened == 0 => Some(gone),
            _ => None,
        };
        self.away = match (self.away, *away) {
            (Some((mine, end)), Some((theirs, other_end))) => {
                let (from, end) = (mine.from.max(theirs.from), end.min(other_end));
                (from < end).then_some((Absence { from, ..mine }, end))
            }
            (Some(away), None) if *opened == 0 => Some(away),
            (None, Some(away)) if self.opened == 0 => Some(away),
            _ => None,
        };
        self.last_reply = self.last_reply.max(*last_reply);
        self.silence = match (self.silence, *silence) {
            (Some(mine), Some(theirs)) => Some(Silence {
                from: mine.from.max(theirs.from),
                to: mine.to.max(theirs.to),
                absent: mine.absent.max(theirs.absent),
                messages: mine.messages + theirs.messages,
                mute: mine
                    .mute
                    .zip(theirs.mute)
                    .map(|(mine, theirs)| mine + theirs),
            }),
            (mine, theirs) => mine.or(theirs),
        };
        if let (Some(silence), Some(last)) = (&mut self.silence, self.last_reply) {
            silence.from = silence.from.max(last);
        }
        self.tally.merge(tally);
        self.opened += *opened;
        self.failed += *failed;
        pairs::add(&mut self.errors, errors);
    }

    /// Adds the history of the same target in a later part of the run, which began at `resumed`. A
    /// server that was gone at the end of this part and was connected in the later one was away
    /// until then.
    pub fn append(&mut self, later: &Target, resumed: Option<Instant>) {
        let returned = self.gone.zip(resumed).filter(|_| later.opened > 0);
        let away = [self.away, later.away, returned].into_iter().flatten();
        let longest = away.max_by_key(|(away, end)| end.saturating_duration_since(away.from));
        let (gone, silence) = (later.gone, later.silence.or(self.silence));
        let gone = gone.or(self.gone.filter(|_| later.opened == 0));
        self.merge(later);
        self.away = longest;
        self.gone = gone;
        self.silence = silence;
    }

    /// Returns the history as far as it concerns the time between two instants: an absence that is
    /// over, and a silence, only if they overlap with it.
    pub fn between(&self, from: Instant, to: Instant) -> Target {
        let mut target = self.clone();
        target.away = self
            .away
            .filter(|(away, end)| away.from < to && *end > from);
        target.gone = self.gone.filter(|gone| gone.from < to);
        target.silence = self.silence.filter(|silence| silence.from < to);
        target
    }

    /// Changes every instant in the same way.
    pub fn shift(&mut self, to: &impl Fn(Instant) -> Instant) {
        let moved = |absence: Absence| Absence {
            from: to(absence.from),
            ..absence
        };
        self.gone = self.gone.map(moved);
        self.away = self.away.map(|(away, end)| (moved(away), to(end)));
        self.silence = self.silence.map(|silence| Silence {
            from: to(silence.from),
            to: to(silence.to),
            ..silence
        });
        self.last_reply = self.last_reply.map(to);
    }

    /// Moves the beginning of the absence to the last reply: a server that still replied after a
    /// loss was not away yet.
    fn extend(&mut self) {
        if let (Some(losses), Some(last)) = (&mut self.losses, self.last_reply) {
            losses.from = losses.from.max(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_is_away_from_the_first_loss_and_as_long_as_nothing_is_up() {
        let start = Instant::now();
        let mut target = Target::default();
        target.connection_opened(start);
        target.connection_opened(start);
        target.went_down();
        target.lost(ErrorKind::Reset, start + SECOND);
        let mut early = target.clone();
        early.conclude(start + SECOND, None);
        assert_eq!(early.gone, None, "one connection is still up");
        let mut only = early.clone();
        only.went_down();
        only.lost(ErrorKind::Reset, start + SECOND);
        only.conclude(start + SECOND, None);
        assert_eq!(only.gone, None, "it may come up again at once");
        target.went_down();
        target.lost(ErrorKind::ClosedEarly, start + 2 * SECOND);
        target.failed(ErrorKind::Refused, start + 3 * SECOND);
        let absence = Absence {
            from: start + SECOND,
            how: ErrorKind::Reset,
            since: Some(ErrorKind::Refused),
        };
        let mut late = target.clone();
        late.conclude(start + 4 * SECOND, None);
        assert_eq!(late.gone, Some(absence));
        target.connection_opened(start + 5 * SECOND);
        target.conclude(start + 6 * SECOND, None);
        assert_eq!(target.gone, None);
        assert_eq!(target.away, Some((absence, start + 5 * SECOND)));
        assert_eq!((target.opened, target.failed), (3, 1));
    }

    #[test]
    fn what_is_no_fault_of_the_server_is_no_absence() {
        let start = Instant::now();
        let mut target = Target::default();
        target.failed(ErrorKind::Refused, start);
        target.connection_opened(start);
        target.went_down();
        target.lost(ErrorKind::WrongReply, start + SECOND);
        target.failed(ErrorKind::NoPort, start + SECOND);
        target.conclude(start + 2 * SECOND, None);
        assert_eq!((target.gone, target.away), (None, None));
    }

    #[test]
    fn a_server_that_is_here_for_one_thread_is_not_away() {
        let start = Instant::now();
        let (mut one, mut two) = (Target::default(), Target::default());
        one.connection_opened(start);
        two.connection_opened(start);
        one.went_down();
        one.lost(ErrorKind::Reset, start + SECOND);
        one.conclude(start + 2 * SECOND, None);
        two.conclude(start + 2 * SECOND, None);
        assert!(one.gone.is_some());
        one.merge(&two);
        assert_eq!(one.gone, None);
    }

    #[test]
    fn a_silence_begins_with_the_last_reply_of_any_thread() {
        let start = Instant::now();
        let (mut one, mut two) = (Target::default(), Target::default());
        one.conclude(
            start + 9 * SECOND,
            Some(Waiting {
                oldest: start,
                messages: 2,
                mute: None,
            }),
        );
        two.last_reply = Some(start + 8 * SECOND);
        two.conclude(start + 9 * SECOND, None);
        one.merge(&two);
        let silence = one.silence.unwrap();
        assert_eq!((silence.length(), silence.messages), (SECOND, 2));
    }
}
