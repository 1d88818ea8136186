//! What the engine does with messages: deals them to connections, sends them, books their replies.
//!
//! A connection that can take another message is *offered* to the pacer, once; with that every
//! message of the schedule finds the connection that has waited longest for one.
//!
//! From one system call to the next everything is inlined, for the reason that
//! `server/engine/serving.rs` tells.

use std::ops::Range;
use std::time::Instant;

use crate::load::connection::Fault;
use crate::load::engine::{Engine, Member, Peer, Phase, Stage};
use crate::load::pacer::{Dispatch, Free};
use crate::load::plan::{CALL_BYTES, GROUP_CONNECTIONS, Pace, TURN_BYTES, TURN_MESSAGES};
use crate::load::random::{Dice, Purpose};
use crate::load::results::{ErrorKind, Loss};
use crate::load::world::{Socket, Timer, World};
use crate::reactor::slots::{Slots, Token};
use crate::stream::Received;

impl<S: Socket> Engine<S> {
    /// Sends the messages of the schedule that are due and have a connection.
    pub(super) fn send_due<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        for _ in 0..TURN_MESSAGES {
            let Some(pacer) = &mut self.pacer else { return };
            let peers = &self.peers;
            let Some(dispatch) = pacer.take(self.clock, |token| is_up(peers, token)) else {
                return;
            };
            self.dispatch(world, dispatch);
            self.clock = world.now();
        }
    }

    /// The same, if a message has become due by the last reading of the clock.
    pub(super) fn send_due_by_now<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.next_due().is_some_and(|due| due <= self.clock) {
            self.finish_now(world);
            self.send_due(world);
        }
    }

    /// Gives a message to its connection, unless it is too old.
    pub(super) fn dispatch<W: World<Socket = S>>(&mut self, world: &mut W, dispatch: Dispatch) {
        let Dispatch {
            token,
            due,
            free_since,
        } = dispatch;
        let now = self.clock;
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        peer.offered = false;
        self.busy = true;
        let age = now.saturating_duration_since(due);
        if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
            let free = Some(free_since);
            self.books.lost_waiting(Loss::TimedOut, due, free, now);
            return self.offer(token, free_since);
        }
        let sendable = self.sendable(due, free_since, now);
        self.queue(token, due, sendable, now);
        self.transmit_now(world, token);
        self.offer(token, free_since);
    }

    /// Since when a message could be sent that goes out now.
    ///
    /// While a message waits that could be sent, the run is behind. Those that become due meanwhile
    /// find no free connection, because this one takes it only now; as far as they waited for the
    /// run itself, that is its own doing as well, and not the server's.
    fn sendable(&mut self, due: Instant, free_since: Instant, now: Instant) -> Instant {
        let sendable = due.max(free_since);
        let (from, to) = self.behind;
        if sendable <= to {
            self.behind = (from.min(sendable), now);
        } else if due >= to || now - sendable > to - from {
            self.behind = (sendable, now);
        }
        let own = to.min(sendable).saturating_duration_since(from.max(due));
        sendable - own
    }

    /// Sends what was just queued. What is longer than the budget of a turn goes on in the next
    /// one: the socket takes more, so no event will tell.
    fn transmit_now<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let mut budget = TURN_BYTES;
        if let Err(kind) = self.transmit(world, token, &mut budget) {
            return self.lose(world, token, kind);
        }
        let peer = self.peers.get(token);
        if peer.is_some_and(|peer| peer.connection.can_transmit()) {
            self.peers.requeue(token);
        }
    }

    /// Adds a message to those of a connection.
    #[inline(always)]
    pub(super) fn queue(&mut self, token: Token, due: Instant, sendable: Instant, now: Instant) {
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let dice = Dice::new(self.plan.seed, Purpose::Sizes, peer.number.into());
        let size = self.plan.sizes.of(dice.at(peer.messages));
        peer.messages += 1;
        peer.connection.queue(size, due, sendable, now);
        self.books.scheduled(due);
        if self.outstanding == 0 {
            self.last_progress = now;
            self.last_reply = now;
        }
        self.outstanding += 1;
    }

    /// Sends what is queued on a connection, as far as `budget` and the kernel allow.
    #[inline(always)]
    pub(super) fn transmit<W: World<Socket = S>>(
        &mut self,
        world: &W,
        token: Token,
        budget: &mut usize,
    ) -> Result<(), ErrorKind> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let (connection, socket) = (&mut peer.connection, &mut peer.socket);
        let (payload, scratch) = (&self.payload, &mut self.scratch[..CALL_BYTES]);
        let clock = &mut self.clock;
        let read_clock = || {
            *clock = world.now();
            *clock
        };
        let sent = connection.transmit(socket, payload, scratch, *budget, read_clock);
        *budget = budget.saturating_sub(sent.map_err(|error| ErrorKind::of(&error))?);
        Ok(())
    }

    /// The first round of a connection's turn: it is read from, once.
    #[inline(always)]
    pub(super) fn read<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let begin = self.read_end();
        let count = match self.receive(world, token, begin) {
            Ok(count) => count,
            Err(kind) => return self.lose(world, token, kind),
        };
        let (end, at) = (begin + count, self.clock);
        self.group.push(Member { token, end, at });
        let is_full = self.group.len() == GROUP_CONNECTIONS;
        if is_full || end + CALL_BYTES > self.scratch.len() {
            self.finish_now(world);
        }
    }

    /// Where the bytes of the group end in the buffer. Behind it there is always room for a read.
    #[inline(always)]
    pub(super) fn read_end(&self) -> usize {
        self.group.last().map_or(0, |last| last.end)
    }

    /// Where it is seldom, or once for a whole group.
    #[inline(never)]
    pub(super) fn finish_now<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.finish_group(world);
    }

    /// The other two rounds of all who were read from: replies are booked, and what that made due
    /// is sent.
    #[inline(always)]
    pub(super) fn finish_group<W: World<Socket = S>>(&mut self, world: &mut W) {
        let mut group = std::mem::take(&mut self.group);
        let mut begin = 0;
        for &Member { token, end, at } in &group {
            if let Err(kind) = self.book(world, token, begin..end, at) {
                self.lose(world, token, kind);
            }
            begin = end;
        }
        for Member { token, at, .. } in group.drain(..) {
            if let Err(kind) = self.exchange(world, token, at) {
                self.lose(world, token, kind);
            }
        }
        self.group = group;
    }

    /// Sends what is queued and reads what is left, within the budget of a turn. `at`: when the
    /// connection was last read from.
    #[inline(always)]
    fn exchange<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        at: Instant,
    ) -> Result<(), ErrorKind> {
        let mut free_since = at;
        if self.stage == Stage::Running {
            self.refill(world, token, None);
        }
        let (mut budget, mut send_budget) = (TURN_BYTES, TURN_BYTES);
        while budget > 0 {
            let before = send_budget;
            self.transmit(world, token, &mut send_budget)?;
            let count = self.receive(world, token, 0)?;
            self.book(world, token, 0..count, self.clock)?;
            if send_budget < before || count > 0 {
                free_since = self.clock;
            }
            if count == 0 {
                break;
            }
            budget = budget.saturating_sub(count);
        }
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        if budget == 0 || peer.connection.can_transmit() {
            self.peers.requeue(token);
        }
        self.offer(token, free_since);
        self.replace_when_spent(world, token);
        Ok(())
    }

    /// Reads once, into the buffer from `begin` on, and reads the clock when something has come.
    /// Tells how many bytes.
    #[inline(always)]
    fn receive<W: World<Socket = S>>(
        &mut self,
        world: &W,
        token: Token,
        begin: usize,
    ) -> Result<usize, ErrorKind> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(0);
        };
        let free = &mut self.scratch[begin..begin + CALL_BYTES];
        match peer.connection.receive(&mut peer.socket, free) {
            Ok(Received::Bytes(count)) => {
                self.clock = world.now();
                Ok(count)
            }
            Ok(Received::Blocked) => Ok(0),
            Ok(Received::End) => Err(ErrorKind::ClosedEarly),
            Err(error) => Err(ErrorKind::of(&error)),
        }
    }

    /// Books the bytes that were read at `now` and are there in the buffer, and what they complete.
    #[inline(always)]
    fn book<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        bytes: Range<usize>,
        now: Instant,
    ) -> Result<(), ErrorKind> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.end_silence(now);
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let reply = &self.scratch[bytes];
        let checked = peer.connection.accept(reply, &self.payload);
        while let Some(message) = peer.connection.next_answered() {
            // One that was given up has its fate already.
            if !message.timed_out {
                self.outstanding -= 1;
                let age = now.saturating_duration_since(message.due);
                if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
                    self.books.lost(Loss::TimedOut, &message, now);
                } else {
                    self.books.verified(&message, age);
                    if let Some(times) = peer.socket.times(message.end()) {
                        self.books.parts(&message, times, now);
                    }
                    if message.due >= self.books.warm() {
                        self.first_verified.get_or_insert(now);
                        self.last_verified = Some(now);
                    }
                }
            }
            self.lines[peer.line as usize].failures = 0;
            if let Pace::Closed { think } = self.plan.pace
                && !think.is_zero()
                && peer.left(&self.plan) > 0
            {
                peer.thinking += 1;
                world.set_timer(now + think, Timer::Think(token, now + think));
            }
        }
        let number = peer.number;
        checked.map_err(|fault| self.fault(number, fault))?;
        if self.stage == Stage::Running {
            self.refill(world, token, Some(now));
        }
        Ok(())
    }

    /// In a closed loop: queues as many messages as may be in flight. They are due when their slots
    /// became free; `None`: just now.
    #[inline(always)]
    pub(super) fn refill<W: World<Socket = S>>(
        &mut self,
        world: &W,
        token: Token,
        due: Option<Instant>,
    ) {
        if self.pacer.is_some() {
            return;
        }
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let line = &mut self.lines[peer.line as usize];
        let taken = peer.connection.unanswered() as u64 + u64::from(peer.thinking);
        let free = u64::from(self.plan.depth).saturating_sub(taken);
        let count = free.min(line.quota).min(peer.left(&self.plan));
        if count == 0 {
            return;
        }
        line.quota -= count;
        self.quota_left = self.quota_left.saturating_sub(count);
        let due = due.unwrap_or_else(|| world.now());
        for _ in 0..count {
            self.queue(token, due, due, due);
        }
    }

    /// A message is due whose predecessor was answered a while ago.
    pub(super) fn think_over<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        due: Instant,
    ) {
        let running = self.stage == Stage::Running;
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        peer.thinking -= 1;
        let line = &mut self.lines[peer.line as usize];
        if !running || peer.phase != Phase::Up || line.quota == 0 || peer.left(&self.plan) == 0 {
            return;
        }
        line.quota -= 1;
        self.quota_left = self.quota_left.saturating_sub(1);
        self.clock = world.now();
        self.queue(token, due, due, self.clock);
        self.transmit_now(world, token);
    }

    /// Tells the pacer of a connection that can take a message, once.
    pub(super) fn offer(&mut self, token: Token, since: Instant) {
        let Some(pacer) = &mut self.pacer else { return };
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let can_take = peer.phase == Phase::Up
            && peer.connection.is_flushed()
            && peer.connection.unanswered() < self.plan.depth as usize
            && peer.left(&self.plan) > 0;
        if can_take && !peer.offered {
            peer.offered = true;
            pacer.free(Free {
                token,
                line: peer.line as usize,
                since,
            });
        }
    }

    /// A reply was wrong: what that means for its connection.
    pub(super) fn fault(&mut self, connection: u32, fault: Fault) -> ErrorKind {
        match fault {
            Fault::Surplus(_) => ErrorKind::SurplusBytes,
            Fault::Differs(difference) => {
                self.books.run.difference(connection, difference);
                ErrorKind::WrongReply
            }
        }
    }

    /// Bytes of a reply have come, or will not come any more.
    pub(super) fn end_silence(&mut self, now: Instant) {
        if self.is_under_way() && self.outstanding > 0 {
            let since = self.last_reply.max(self.books.warm());
            let silence = now.saturating_duration_since(since);
            self.evidence.silence = self.evidence.silence.max(silence);
        }
        self.last_reply = now;
        self.last_progress = now;
    }

    /// Gives up what has become too old.
    pub(super) fn time_out(&mut self, now: Instant) {
        let Some(timeout) = self.plan.timeout else {
            return;
        };
        let Some(deadline) = now.checked_sub(timeout) else {
            return;
        };
        let books = &mut self.books;
        for peer in self.peers.iter_mut() {
            let outstanding = &mut self.outstanding;
            peer.connection.time_out(deadline, |message| {
                *outstanding -= 1;
                books.lost(Loss::TimedOut, message, now);
            });
        }
        self.give_up_waiting(Loss::TimedOut, deadline, now);
    }

    /// Ends the messages that were due before `deadline` and never got a connection.
    pub(super) fn give_up_waiting(&mut self, loss: Loss, deadline: Instant, now: Instant) {
        if let Some(pacer) = &mut self.pacer {
            let (peers, books) = (&self.peers, &mut self.books);
            let lives = |token| is_up(peers, token);
            pacer.give_up(deadline, lives, |due, free| {
                books.lost_waiting(loss, due, free, now);
            });
        }
    }
}

fn is_up<S>(peers: &Slots<Peer<S>>, token: Token) -> bool {
    peers.get(token).is_some_and(|peer| peer.phase == Phase::Up)
}
