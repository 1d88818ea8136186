//! Collects snapshots from the shards on request.
//!
//! Each request starts a round, in which every shard adds a snapshot at the start of its next
//! turn. Between requests this costs the shards nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::reactor::signals::Remote;
use crate::server::stats::Snapshot;

/// Time limit for the shards to answer. A shard answers at the start of a turn; one that takes
/// longer is counted with its previous snapshot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The round of a shard that has ended, higher than that of any request.
const LEFT: u64 = u64::MAX;

/// The latest snapshot of every shard.
#[derive(Debug)]
pub struct Snapshots {
    remotes: Arc<[Remote]>,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug)]
struct State {
    reports: Vec<ShardReport>,
    /// Number of requests so far.
    round: u64,
    /// Whether a person has requested the state (SIGUSR1) and it has not been returned yet.
    is_requested: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardReport {
    snapshot: Snapshot,
    /// The last round that this snapshot answers.
    round: u64,
}

/// The state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The sum of the snapshots of all shards.
    pub sum: Snapshot,
    /// Number of shards that did not answer in time, and are counted with their previous snapshots.
    pub silent: usize,
}

impl Snapshots {
    /// Returns the collector for the shards of these handles, in the order of their numbers.
    pub fn new(remotes: Arc<[Remote]>) -> Self {
        Snapshots {
            state: Mutex::new(State {
                reports: vec![ShardReport::default(); remotes.len()],
                round: 0,
                is_requested: false,
            }),
            remotes,
            answered: Condvar::new(),
        }
    }

    /// Requests a snapshot from every shard, and returns the sum. Blocks until all have answered or
    /// the time limit is over, so it must not be called from a shard's thread.
    pub fn collect(&self) -> Answer {
        let round = self.begin_round(false);
        let is_open = |state: &mut State| state.silent(round) > 0;
        let state = self
            .answered
            .wait_timeout_while(self.state(), ANSWER_TIMEOUT, is_open)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        Answer {
            sum: state.sum(),
            silent: state.silent(round),
        }
    }

    /// Returns the sum of the latest snapshots of all shards.
    pub fn sum(&self) -> Snapshot {
        self.state().sum()
    }

    /// Requests a snapshot from every shard on behalf of a person: [`Snapshots::answer`] returns
    /// the sum to the shard that answers last.
    pub fn request(&self) {
        self.begin_round(true);
    }

    fn begin_round(&self, is_requested: bool) -> u64 {
        let mut state = self.state();
        state.round += 1;
        state.is_requested |= is_requested;
        let round = state.round;
        drop(state);
        for remote in self.remotes.iter() {
            remote.report();
        }
        round
    }

    /// Records a shard's snapshot. Returns the sum if this is the last answer to a person's
    /// request.
    pub fn answer(&self, shard: usize, snapshot: Snapshot) -> Option<Snapshot> {
        let mut state = self.state();
        let round = state.round;
        state.reports[shard] = ShardReport { snapshot, round };
        self.finish_round(state)
    }

    /// Records the final snapshot of a shard, which has ended. Returns the sum like
    /// [`Snapshots::answer`].
    pub fn leave(&self, shard: usize, snapshot: Snapshot) -> Option<Snapshot> {
        let mut state = self.state();
        let round = LEFT;
        state.reports[shard] = ShardReport { snapshot, round };
        self.finish_round(state)
    }

    fn finish_round(&self, mut state: MutexGuard<'_, State>) -> Option<Snapshot> {
        if state.silent(state.round) > 0 {
            return None;
        }
        self.answered.notify_all();
        std::mem::take(&mut state.is_requested).then(|| state.sum())
    }

    /// Records that a shard has failed without a final snapshot: its previous one counts.
    pub fn mark_failed(&self, shard: usize) {
        self.state().reports[shard].round = LEFT;
    }

    /// Returns whether all shards with lower numbers have left, so that this one answers for the
    /// process.
    pub fn is_first(&self, shard: usize) -> bool {
        let has_left = |reports: &ShardReport| reports.round == LEFT;
        self.state().reports[..shard].iter().all(has_left)
    }

    /// Makes all shards drain, since one of them has failed.
    pub fn drain(&self) {
        self.remotes.iter().for_each(Remote::drain);
    }

    /// Locks the state. A thread that panicked while it held the lock has left no change half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the number of shards that have not answered this round.
    fn silent(&self, round: u64) -> usize {
        let is_silent = |reports: &&ShardReport| reports.round < round;
        self.reports.iter().filter(is_silent).count()
    }

    fn sum(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for reports in &self.reports {
            sum += reports.snapshot;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::signals::Requests;

    fn open(clients: u64) -> Snapshot {
        Snapshot {
            open: clients,
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_last_shard_completes_a_request_and_only_once() {
        let requests = Requests::new().unwrap();
        let remotes = (0..2).map(|_| requests.remote().unwrap()).collect();
        let snapshots = Snapshots::new(remotes);
        assert_eq!(snapshots.answer(0, open(1)), None, "nobody asked");
        snapshots.request();
        assert_eq!(snapshots.answer(0, open(2)), None, "shard 1 is to answer");
        assert_eq!(snapshots.answer(1, open(3)), Some(open(5)));
        assert_eq!(snapshots.answer(1, open(3)), None, "it was returned before");
        assert_eq!(snapshots.leave(0, open(0)), None);
        snapshots.request();
        assert_eq!(snapshots.answer(1, open(4)), Some(open(4)), "one has left");
        snapshots.request();
        let (sum, silent) = (open(4), 1);
        assert_eq!(
            snapshots.collect(),
            Answer { sum, silent },
            "it takes too long"
        );
        assert_eq!(
            snapshots.leave(1, open(0)),
            Some(open(0)),
            "it was the last"
        );
        let (sum, silent) = (open(0), 0);
        assert_eq!(
            snapshots.collect(),
            Answer { sum, silent },
            "nobody is waited for"
        );
    }
}
