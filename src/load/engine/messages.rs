//! Assigns the messages of the engine to connections, sends them, and records their replies.
//!
//! A connection that can take another message is *offered* to the pacer, once. So the pacer assigns
//! each message of the schedule to the connection that has waited longest for one.
//!
//! From one system call to the next all functions are inlined, for the reason given in
//! `server/engine/serving.rs`.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::echo::Expect;
use crate::load::engine::connection::Fault;
use crate::load::engine::pacer::{Dispatch, Free, Pacer};
use crate::load::engine::world::{Socket, Timer, World};
use crate::load::engine::{Engine, Member, Peer, Phase, Stage};
use crate::load::plan::random::{Purpose, RandomStream};
use crate::load::plan::{CALL_BYTES, GROUP_CONNECTIONS, Pace, TURN_BYTES, TURN_MESSAGES};
use crate::load::results::stalls::{STALL_LEAST, Silence, WAITS_MAX};
use crate::load::results::step::Step;
use crate::load::results::{ErrorKind, Loss};
use crate::reactor::slots::{Slots, Token};
use crate::stream::Received;

impl<S: Socket> Engine<S> {
    /// Sends the messages of the schedule that are due and have a free connection, at most
    /// [`TURN_MESSAGES`] of them.
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

    /// Calls [`Engine::send_due`] if a message has become due by the last reading of the clock.
    pub(super) fn send_due_by_now<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.next_due().is_some_and(|due| due <= self.clock) {
            self.finish_now(world);
            self.send_due(world);
        }
    }

    /// Sends a message on its connection, unless the message has exceeded its timeout.
    pub(super) fn dispatch<W: World<Socket = S>>(&mut self, world: &mut W, dispatch: Dispatch) {
        let Dispatch {
            token,
            due,
            free_since,
            ..
        } = dispatch;
        let now = self.clock;
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let line = peer.line;
        peer.offered = false;
        self.busy = true;
        let age = now.saturating_duration_since(due);
        if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
            let (target, free) = (Some(self.place_of(line)), Some(free_since));
            self.recorder
                .lost_waiting(Loss::TimedOut, due, target, free, now);
            return self.offer(token, free_since);
        }
        let pacer = self.pacer.as_mut();
        let sendable = pacer.map_or(due, |pacer| pacer.sendable(&dispatch, now));
        self.queue(token, due, sendable, now);
        self.transmit_now(world, token);
        self.offer(token, free_since);
    }

    /// Sends what was queued. A message longer than the budget of a turn is continued in the next
    /// turn: the socket is still writable, so no event will report it.
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

    /// Adds a message to the queue of a connection.
    #[inline(always)]
    pub(super) fn queue(&mut self, token: Token, due: Instant, sendable: Instant, now: Instant) {
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let random = RandomStream::new(self.plan.seed, Purpose::Sizes, peer.number.into());
        let size = self.plan.sizes.of(random.at(peer.messages));
        peer.messages += 1;
        peer.connection.queue(size, due, sendable, now);
        let line = peer.line;
        self.recorder.scheduled(due, self.place_of(line));
        if self.outstanding == 0 {
            self.last_progress = now;
            self.last_reply = now;
        }
        self.outstanding += 1;
    }

    /// Sends queued bytes of a connection, as far as `budget` and the kernel allow.
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
        let sent = sent.map_err(|error| ErrorKind::at(Step::Send, &error))?;
        *budget = budget.saturating_sub(sent);
        Ok(())
    }

    /// Carries out the first round of a connection's turn: reads from it once.
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

    /// Returns the offset in the buffer at which the bytes of the group end. There is always room
    /// for a read after it.
    #[inline(always)]
    pub(super) fn read_end(&self) -> usize {
        self.group.last().map_or(0, |last| last.end)
    }

    /// Calls [`Engine::finish_group`] without inlining it, where calls are rare or made once per
    /// group.
    #[inline(never)]
    pub(super) fn finish_now<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.finish_group(world);
    }

    /// Carries out the other two rounds of the connections in the group: records their replies,
    /// then sends the messages that became due by that.
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

    /// Sends what is queued and reads what is left, within the budget of a turn. `at` is when the
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

    /// Reads once, into the buffer from `begin` on, and reads the clock if bytes arrived. Returns
    /// their number.
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
            Err(error) => Err(ErrorKind::at(Step::Receive, &error)),
        }
    }

    /// Checks the reply bytes in this range of the buffer, which were read at `now`, and records
    /// the messages that they complete.
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
        let place = self.plan.target_of(self.part.member(peer.line));
        self.targets[place].last_reply = Some(now);
        let offset = peer.connection.received();
        let reply = &self.scratch[bytes.clone()];
        let checked = peer.connection.accept(reply, &self.payload);
        let mut failed = None;
        while let Some(message) = peer.connection.next_answered() {
            // A message that has timed out is counted already.
            if !message.timed_out {
                self.outstanding -= 1;
                let age = now.saturating_duration_since(message.due);
                if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
                    self.recorder.lost(Loss::TimedOut, &message, place, now);
                } else {
                    self.recorder.verified(&message, place, age);
                    match peer.socket.times(message.end()) {
                        Ok(None) => {}
                        Ok(Some(times)) => self.recorder.parts(&message, times, now),
                        Err(error) => failed = Some(ErrorKind::at(Step::ReadTimes, &error)),
                    }
                    if message.due >= self.recorder.warmup_end() {
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
        checked.map_err(|fault| self.fault(token, fault, offset, bytes))?;
        if let Some(kind) = failed {
            return Err(kind);
        }
        if self.stage == Stage::Running {
            self.refill(world, token, Some(now));
        }
        Ok(())
    }

    /// Queues as many messages of a closed loop as may be in flight. They are due at `due`, when
    /// their slots became free; `None` is the current time.
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

    /// Sends a message of a closed loop whose think time is over.
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

    /// Adds a connection to the free ones of the pacer if it can take a message and was not added
    /// before.
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

    /// Returns the kind of error of a wrong reply, and records the wrong byte. The bytes that were
    /// read begin at `offset` of the stream.
    #[cold]
    fn fault(&mut self, token: Token, fault: Fault, offset: u64, bytes: Range<usize>) -> ErrorKind {
        let (Fault::Differs(difference), Some(peer)) = (fault, self.peers.get_mut(token)) else {
            return ErrorKind::SurplusBytes;
        };
        self.recorder.run.difference(peer.number, difference);
        let reply = &self.scratch[bytes];
        let obeys_other = peer
            .connection
            .obeys_other_rule(offset, reply, &self.payload);
        match self.plan.expect {
            Expect::Upper if obeys_other => ErrorKind::UnchangedReply,
            Expect::Same if obeys_other => ErrorKind::ConvertedReply,
            _ => ErrorKind::WrongReply,
        }
    }

    /// Ends a silence, since bytes of a reply have arrived or the run stops waiting for them.
    pub(super) fn end_silence(&mut self, now: Instant) {
        if self.is_under_way() && self.outstanding > 0 {
            let since = self.last_reply.max(self.recorder.warmup_end());
            let silence = now.saturating_duration_since(since);
            self.evidence.silence = self.evidence.silence.max(silence);
            if silence >= STALL_LEAST
                && let Some(silence) = self.silence(since, now)
            {
                self.evidence.silences.add(silence);
            }
            self.note_stage_silence(now);
        }
        self.last_reply = now;
        self.last_progress = now;
    }

    /// Returns a silence with the messages that were in flight during it. Before the first correct
    /// reply, the server may be slow, but has not stalled.
    #[inline(never)]
    pub(super) fn silence(&self, since: Instant, now: Instant) -> Option<Silence> {
        self.first_verified?;
        let step = 1 + self.outstanding as usize / WAITS_MAX;
        let messages = self
            .peers
            .iter()
            .flat_map(|peer| peer.connection.messages());
        let sent = messages
            .filter(|message| !message.timed_out)
            .filter_map(|message| Some(message.due + message.lateness()?))
            .filter(|sent| *sent < now);
        let waits = sent.step_by(step).map(|sent| {
            let before = since.saturating_duration_since(sent);
            (before, now.saturating_duration_since(sent))
        });
        Some(Silence {
            length: now.saturating_duration_since(since),
            waits: waits.collect(),
            weight: step as f64,
        })
    }

    /// Gives up the messages that have exceeded the timeout, and sets the timer for the next ones.
    /// The timer is set at least [`Plan::overdue`] ahead, so a message may exceed its timeout by
    /// that time.
    ///
    /// [`Plan::overdue`]: crate::load::plan::Plan::overdue
    pub(super) fn time_out<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        let Some(timeout) = self.plan.timeout.filter(|_| self.is_under_way()) else {
            return;
        };
        if let Some(latest) = now.checked_sub(timeout) {
            self.end_due_by(latest, Loss::TimedOut, now);
        }
        let oldest_of = |peer: &Peer<S>| {
            let mut messages = peer.connection.messages();
            Some(messages.find(|message| !message.timed_out)?.due)
        };
        let oldest = self.peers.iter().filter_map(oldest_of).min();
        let waiting = self.pacer.as_ref().and_then(Pacer::oldest);
        // Messages that are due later than `now` time out later than `now + timeout`.
        let oldest = oldest.into_iter().chain(waiting).chain([now]).min();
        let next = oldest.unwrap_or(now) + timeout;
        world.set_timer(next.max(now + self.plan.overdue()), Timer::TimeOut);
    }

    /// Ends the messages without an outcome that were due at `latest` or earlier, with or without a
    /// connection.
    pub(super) fn end_due_by(&mut self, latest: Instant, loss: Loss, now: Instant) {
        let deadline = latest + Duration::from_nanos(1);
        let (plan, part) = (&self.plan, self.part);
        let (recorder, outstanding) = (&mut self.recorder, &mut self.outstanding);
        for peer in self.peers.iter_mut() {
            let target = plan.target_of(part.member(peer.line));
            peer.connection.time_out(deadline, |message| {
                *outstanding -= 1;
                recorder.lost(loss, message, target, now);
            });
        }
        if let Some(pacer) = &mut self.pacer {
            let lives = |token| is_up(&self.peers, token);
            pacer.give_up(deadline, lives, |queue, due, free| {
                let target = plan.target_of_queue(part.member(queue as u32));
                recorder.lost_waiting(loss, due, target, free, now);
            });
        }
    }
}

fn is_up<S>(peers: &Slots<Peer<S>>, token: Token) -> bool {
    peers.get(token).is_some_and(|peer| peer.phase == Phase::Up)
}
