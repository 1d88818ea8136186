//! Serving: who is ready gets a turn, within its budget and within that of all together.
//!
//! A turn has two halves, reading and answering, and clients go through them in groups: some are
//! read from, one after the other into the one buffer, then all of these are answered.
//!
//! ```text
//!   events   a b c d … │ read a b c d … │ answer a b c d … │ read …
//! ```
//!
//! Measured (`cargo bench --bench compare`): groups take 2 to 4 % less CPU time a message of 64
//! bytes, and a sixth less of 16 KiB, presumably since the kernel's code for reading and that for
//! sending drive each other out of the nearest caches. The first of a group waits until the others
//! were read from, as it would wait behind them if it were not the first.
//!
//! When few are ready each of them has a large read: a transfer is then a matter of fewer calls,
//! acknowledgments and wake-ups, and nobody else waits for it.
//!
//! A return from a function behind a system call costs far more. With one such return a message in
//! place of none, a message costs a fifth more, in this loop and in the bare one of
//! `benches/peers/epoll.rs` alike; and the calls that follow take longer in the kernel. Presumably
//! the processor's memory for returns is out of step from then on. So both halves are inlined, down
//! to the call, and the wait as well: from one turn of the loop to the next nothing returns behind
//! a call that every message needs.
//!
//! Whoever needs more than one short read has the whole turn at once.
//!
//! Invariant: between its halves a client is left alone, and no turn of the loop ends there.

use std::io;

use log::warn;

use crate::reactor::slots::Token;
use crate::server::connection::{Half, Progress};
use crate::server::engine::{Engine, Unanswered};
use crate::server::stats::CloseReason;
use crate::server::world::{Socket, World};
use crate::stream::Hints;

impl<S: Socket> Engine<S> {
    /// A client may be ready.
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
            // Two events of one client in a turn: epoll tells no such thing.
            self.answer_now(world);
            self.serve_once(world, token);
        } else if self.may_serve(token) {
            self.read(world, token);
        }
    }

    /// Whether a client may have its turn now. When there is no time left for it, it goes to the
    /// queue; and who waits there gets one budget in each turn of the loop, and no more.
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

    /// The first half of a client's turn, or the whole of it.
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

    /// Where it is seldom, or once for a whole group.
    #[inline(never)]
    pub(super) fn answer_now(&mut self, world: &mut impl World<Socket = S>) {
        self.answer_all(world);
    }

    /// The second half of the turn of everybody who was read from.
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

    /// Those who waited in the queue when this turn of the loop began, each once.
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

    /// Gives a client its whole turn, unless it has to wait for it.
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

    /// Gives a client another turn, or closes it when there is no memory for that.
    fn requeue(&mut self, token: Token) {
        if let Err(error) = self.clients.try_requeue(token) {
            self.close_failed(token, io::Error::from(error).kind());
        }
    }

    #[cold]
    fn close_failed(&mut self, token: Token, kind: io::ErrorKind) {
        if let Some(untold) = self.warnings.failed.happened(self.now) {
            let label = &self.label;
            warn!("{label}connection {token} is reset: {kind}{untold}");
        }
        self.close(token, CloseReason::Failed);
    }

    /// A client has had its turn. Before it, so many bytes had been sent in all.
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
