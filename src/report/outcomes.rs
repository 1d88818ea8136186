//! The outcomes of messages and the causes of errors, as JSON objects have them. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::results::{Counts, ErrorKind};

/// Numbers of messages by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Messages whose reply is correct.
    pub verified: u64,
    /// Messages whose reply is wrong.
    pub mismatched: u64,
    /// Messages lost with their connection.
    pub errored: u64,
    /// Messages that exceeded the timeout.
    pub timed_out: u64,
    /// Messages without a complete reply at the end.
    pub unanswered: u64,
}

impl Outcomes {
    /// Returns the outcomes among these counts.
    pub fn of(counts: &Counts) -> Outcomes {
        let Counts {
            opened: _,
            failed: _,
            scheduled: _,
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
            verified_bytes: _,
        } = *counts;
        Outcomes {
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
        }
    }

    /// Returns the outcomes since an earlier moment of the same run.
    pub fn since(&self, earlier: &Outcomes) -> Outcomes {
        Outcomes {
            verified: self.verified.saturating_sub(earlier.verified),
            mismatched: self.mismatched.saturating_sub(earlier.mismatched),
            errored: self.errored.saturating_sub(earlier.errored),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
        }
    }

    /// Returns the number of messages that ended without a correct reply.
    pub fn lost(&self) -> u64 {
        let others = [self.errored, self.timed_out, self.unanswered];
        others
            .into_iter()
            .fold(self.mismatched, u64::saturating_add)
    }

    /// Returns counts of messages that have these outcomes, and of no others.
    pub fn counts(&self, verified_bytes: u64) -> Counts {
        let Outcomes {
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
        } = *self;
        Counts {
            scheduled: verified.saturating_add(self.lost()),
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
            verified_bytes,
            ..Counts::default()
        }
    }
}

/// Returns the number of errors by the name of their cause.
pub fn errors(errors: &BTreeMap<ErrorKind, u64>) -> BTreeMap<String, u64> {
    errors
        .iter()
        .map(|(kind, count)| (kind.to_string(), *count))
        .collect()
}
