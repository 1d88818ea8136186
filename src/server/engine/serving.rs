//! Serving: gives each ready client its turn, within its own budget and a common one for all
//! clients.
//!
//! The turn of a client has two halves, reading and answering, and clients go through them in
//! groups: some are read from, one after the other into the one buffer, then all of these are
//! answered.
//!
//! ```text
//!   events   a b c d … │ read a b c d … │ answer a b c d … │ read …
//! ```
//!
//! Measured (`cargo bench --bench compare`): groups take 2 to 4 % less CPU time per message of 64
//! bytes, and a sixth less per message of 16 KiB, presumably because the kernel's code for
//! receiving and its code for sending evict each other from the innermost caches. The first client
//! of a group waits until the others have been read from, as it would wait behind them if it were
//! not the first.
//!
//! When few clients are ready, each of them has a large read: a transfer then needs fewer system
//! calls, acknowledgments and wake-ups, and no other client waits for it.
//!
//! Returning from a function after a system call costs far more. One such return per message, where
//! there was none, makes a message a fifth more expensive, in this loop and in the bare one of
//! `benches/peers/epoll.rs` alike; and the system calls that follow take longer in the kernel.
//! Presumably the processor's return predictor is out of step after a system call. So both halves
//! are inlined, down to the system call. The poll returns through mio: one such return for the
//! whole batch, not one per message.
//!
//! A client that needs more than one short read gets its whole turn at once.
//!
//! Invariant: nothing else happens to a client between its two halves, and both are in one turn of
//! the loop.

use std::io;

use log::warn;

use crate::reactor::slots::Token;
use crate::server::connection::{Half, Progress};
use crate::server::engine::world::{Socket, World};
use crate::server::engine::{Engine, Unanswered};
use crate::server::stats::CloseReason;
use crate::stream::Hints;

impl<S: Socket> Engine<S> {
    /// Handles an event of a client, which may be ready.
    #[inline(always)]
    pub(super) fn on_client(
        &mut self,
        world: &mut impl World<Socket = S>,
        token: Token,
        hints: Hints,
    ) {
        let Some(client) = self.clients.get_mut(token) else {
            self.totals.stale_events += 1;
            return;
        };
        client.connection.note(hints);
        if client.is_unanswered {
            // Two events of one client in a turn, which epoll does not report.
            self.answer_now(world);
            self.serve_once(world, token);
        } else if self.may_serve(token) {
            self.read(world, token);
        }
    }

    /// Returns whether a client may be served now. Puts it into the queue if the budget of the
    /// whole turn is spent, or if other clients must be served first. A client in the queue gets
    /// one budget in each turn of the loop, and no more.
    #[inline(always)]
    fn may_serve(&mut self, token: Token) -> bool {
        if self.is_behind || self.is_turn_spent() {
            self.requeue(token);
            return false;
        }
        !self.clients.is_requeued(token)
    }

    fn is_turn_spent(&self) -> bool {
        self.totals.traffic.bytes_in - self.bytes_before >= self.limits.whole_turn_bytes
    }

    /// Runs the first half of a client's turn, or the whole of it.
    #[inline(always)]
    fn read(&mut self, world: &mut impl World<Socket = S>, token: Token) {
        let has_room = self.read_end + self.read_bytes <= self.scratch.len();
        if !has_room || self.unanswered.len() == self.limits.group_clients {
            self.answer_now(world);
        }
        let begin = self.read_end;
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let sent = self.totals.traffic.bytes_out;
        let half = client.connection.begin(
            &mut client.socket,
            &mut self.scratch[begin..begin + self.read_bytes],
            self.limits.turn_bytes,
            &mut self.totals.traffic,
        );
        match half {
            Half::Read(count) => {
                client.is_unanswered = true;
                self.read_end += count;
                let end = self.read_end;
                self.unanswered.push(Unanswered { token, end });
            }
            Half::Whole(progress) => self.conclude(world, token, progress, sent),
        }
    }

    /// Calls `answer_all`, not inlined: for callers that run rarely, or once for a whole group.
    #[inline(never)]
    pub(super) fn answer_now(&mut self, world: &mut impl World<Socket = S>) {
        self.answer_all(world);
    }

    /// Runs the second half of the turn of every client that was read from.
    #[inline(always)]
    pub(super) fn answer_all(&mut self, world: &mut impl World<Socket = S>) {
        let mut begin = 0;
        for place in 0..self.unanswered.len() {
            let Unanswered { token, end } = self.unanswered[place];
            if let Some(client) = self.clients.get_mut(token) {
                client.is_unanswered = false;
                let sent = self.totals.traffic.bytes_out;
                let progress = client.connection.answer(
                    &mut client.socket,
                    &mut self.scratch[begin..end],
                    &mut self.totals.traffic,
                );
                self.conclude(world, token, progress, sent);
            }
            begin = end;
        }
        self.unanswered.clear();
        self.read_end = 0;
    }

    /// Serves the clients that were in the queue when this turn of the loop began, each once, until
    /// the budget of the whole turn is spent.
    pub(super) fn serve_unfinished(&mut self, world: &mut impl World<Socket = S>) {
        self.bytes_before = self.totals.traffic.bytes_in;
        while self.unfinished > 0 && !self.is_turn_spent() {
            self.unfinished -= 1;
            if let Some(token) = self.clients.next_requeued() {
                self.serve(world, token);
            }
        }
        self.is_behind = self.unfinished > 0;
    }

    /// Gives a client its whole turn, unless it has to wait in the queue.
    pub(super) fn serve_once(&mut self, world: &mut impl World<Socket = S>, token: Token) {
        if self.may_serve(token) {
            self.serve(world, token);
        }
    }

    #[inline(never)]
    fn serve(&mut self, world: &mut impl World<Socket = S>, token: Token) {
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let sent = self.totals.traffic.bytes_out;
        let progress = client.connection.serve(
            &mut client.socket,
            &mut self.scratch[..self.read_bytes],
            self.limits.turn_bytes,
            &mut self.totals.traffic,
        );
        self.conclude(world, token, progress, sent);
    }

    /// Puts a client into the queue for another turn, or closes it when there is no memory for
    /// that.
    fn requeue(&mut self, token: Token) {
        if let Err(error) = self.clients.try_requeue(token) {
            self.close_failed(token, io::Error::from(error).kind());
        }
    }

    #[cold]
    fn close_failed(&mut self, token: Token, kind: io::ErrorKind) {
        if let Some(suppressed) = self.warnings.failed.record(self.now) {
            let label = &self.label;
            warn!("{label}connection {token} is reset: {kind}{suppressed}");
        }
        self.close(token, CloseReason::Failed);
    }

    /// Handles the outcome of a client's turn. `sent` is the total of bytes sent before the turn.
    #[inline(always)]
    fn conclude(
        &mut self,
        world: &mut impl World<Socket = S>,
        token: Token,
        progress: Progress,
        sent: u64,
    ) {
        match progress {
            Progress::Waiting => {}
            Progress::Unfinished => self.requeue(token),
            Progress::Lingers => {
                self.requeue(token);
                self.begin_linger(world, token);
            }
            Progress::Closed(reason) => return self.close(token, reason),
            Progress::Failed(kind) => return self.close_failed(token, kind),
        }
        if self.totals.traffic.bytes_out != sent {
            self.begin_stall(world, token);
        }
    }
}
