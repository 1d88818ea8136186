//! Opens, replaces and closes the connections of the engine, and handles broken ones.
//!
//! A line whose connection broke is reopened after a backoff time that doubles with every failure.
//! A line whose server sent a wrong reply is given up.
//!
//! A system call that fails for one connection does not end the run: the connection is closed and
//! counted by the step and the errno, and its line is reopened. A failed read of TCP_INFO does not
//! even end the connection; it is counted as missing evidence.

use std::io;
use std::time::{Duration, Instant};

use crate::address::without_port;
use crate::load::engine::connection::Connection;
use crate::load::engine::dialer::Dial;
use crate::load::engine::world::{Socket, Timer, World};
use crate::load::engine::{Engine, Peer, Phase, Stage};
use crate::load::plan::random::{Purpose, RandomStream};
use crate::load::plan::{
    BACKOFF_MAX, BACKOFF_MIN, CALL_BYTES, Close, EARLY_CLOSE, PROGRESS_TIMEOUT, Pace, TURN_BYTES,
    TURN_CONNECTIONS,
};
use crate::load::results::evidence::LastSample;
use crate::load::results::step::{Failure, Step};
use crate::load::results::targets::Target;
use crate::load::results::{ErrorKind, Loss};
use crate::reactor::slots::Token;
use crate::stream::Received;

impl<S: Socket> Engine<S> {
    /// Opens the connections that are due, at most [`TURN_CONNECTIONS`] of them.
    pub(super) fn dial<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.dial_again = false;
        for _ in 0..TURN_CONNECTIONS {
            match self.dialer.next(world.now()) {
                Dial::Now(line) => self.open(world, line as usize, self.part.member(line)),
                Dial::At(due) => {
                    if self.dial_due.replace(due) != Some(due) {
                        world.set_timer(due, Timer::Dial);
                    }
                    return;
                }
                Dial::Full | Dial::Finished => return,
            }
        }
        self.dial_again = true;
    }

    /// Opens a connection with this number for a line.
    pub(super) fn open<W: World<Socket = S>>(&mut self, world: &mut W, line: usize, number: u32) {
        let Some((target, source)) = self.plan.route(self.part.member(line as u32)) else {
            let error = io::ErrorKind::InvalidInput.into();
            let step = Step::Open;
            return self.not_opened(world, line, &Failure { step, error });
        };
        let now = world.now();
        if self.stage == Stage::Connecting {
            self.last_progress = now;
        }
        let opened = world.connect(target, source);
        let socket = match opened {
            Ok(socket) => socket,
            Err(failure) => return self.not_opened(world, line, &failure),
        };
        let token = self.peers.insert(Peer {
            socket,
            connection: Connection::new(self.payload.source(number)),
            line: line as u32,
            number,
            phase: Phase::Connecting,
            since: now,
            seen: LastSample::default(),
            messages: 0,
            thinking: 0,
            offered: false,
        });
        self.lines[line].token = Some(token);
        if let Some(peer) = self.peers.get_mut(token)
            && let Err(error) = world.register(&mut peer.socket, token)
        {
            self.give_up_peer(world, token, Step::Register, error);
        }
    }

    /// Records that a connection could not be opened, and schedules the next attempt.
    pub(super) fn not_opened<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        failure: &Failure,
    ) {
        let kind = ErrorKind::at(failure.step, &failure.error);
        let now = world.now();
        self.recorder.not_opened(kind);
        self.target(line as u32).failed(kind, now);
        self.shortage |= kind.is_shortage();
        self.note_first_failure(line, failure);
        if self.stage == Stage::Connecting {
            self.dialer.attempt_ended();
            // Every target was tried without success: the thread stops, and whether the run starts
            // depends on the other threads. An attempt that failed for lack of a resource on this
            // machine says nothing about the targets.
            let tried = self.dialer.tried() as usize >= self.plan.targets.len();
            let none_up = self.recorder.run.counts.opened == 0 && !self.shortage;
            if none_up && tried && self.dialer.in_progress() == 0 {
                self.dialer.give_up();
            }
        }
        self.reopen_later(world, line, now);
    }

    /// Removes a connection that was being opened and has failed.
    fn give_up_peer<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        step: Step,
        error: io::Error,
    ) {
        if let Some(peer) = self.remove(token) {
            self.not_opened(world, peer.line as usize, &Failure { step, error });
        }
    }

    /// Records why the first connection to each target failed, while no connection has come up.
    fn note_first_failure(&mut self, line: usize, failure: &Failure) {
        /// Maximum number of targets in the error, which is one line.
        const SHOWN: usize = 4;
        let place = self.place_of(line as u32);
        let known = self.first_failures.iter().any(|(known, _)| *known == place);
        let is_full = self.first_failures.len() >= SHOWN;
        if self.recorder.run.counts.opened == 0 && !known && !is_full {
            let why = self.failure(line, failure);
            self.first_failures.push((place, why));
        }
    }

    fn failure(&self, line: usize, failure: &Failure) -> String {
        let route = self.plan.route(self.part.member(line as u32));
        let target = route.map_or(String::new(), |(target, _)| target.to_string());
        let source = route.and_then(|(_, source)| source);
        let kind = ErrorKind::at(failure.step, &failure.error);
        match (kind, source) {
            (ErrorKind::Refused, _) => format!(
                "no server listens at {target} (connection refused): start `upcase serve --listen \
                 {target}` there, or use another target"
            ),
            (ErrorKind::TimedOut, _) => format!(
                "no answer from {target}: the host is down, a firewall drops the packets, or the \
                 server's accept queue is full"
            ),
            (ErrorKind::ClosedAtOnce, _) => format!(
                "the server at {target} closed the connection at once: it may have reached its \
                 limit for this address (its --max-connections-per-ip)"
            ),
            (ErrorKind::NoSource, Some(source)) => format!(
                "--source {} is not an address of this host: `ip address` lists its addresses",
                without_port(source)
            ),
            _ => {
                let what = match kind {
                    ErrorKind::Call(Step::Connect, _) => failure.error.to_string(),
                    _ => kind.to_string(),
                };
                let remedy = kind.remedy();
                let remedy = remedy.map_or(String::new(), |remedy| format!("; {remedy}"));
                format!("cannot connect to {target}: {what}{remedy}")
            }
        }
    }

    /// Returns the history of the target of a line.
    pub(super) fn target(&mut self, line: u32) -> &mut Target {
        let place = self.place_of(line);
        &mut self.targets[place]
    }

    /// Handles a connection that may be ready, depending on its phase.
    #[inline(always)]
    pub(super) fn serve<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let Some(peer) = self.peers.get(token) else {
            return;
        };
        match peer.phase {
            Phase::Connecting => self.finish_connect(world, token),
            Phase::Up => self.read(world, token),
            Phase::Closing => self.await_end(token),
        }
    }

    pub(super) fn finish_connect<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        match peer.socket.is_up() {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => return self.give_up_peer(world, token, Step::Connect, error),
        }
        let now = world.now();
        self.clock = now;
        if peer.number < self.plan.kernel_timestamps
            && let Err(error) = peer.socket.keep_times()
        {
            return self.give_up_peer(world, token, Step::KeepTimes, error);
        }
        peer.seen = self.evidence.network.connection_opened(peer.socket.path());
        self.recorder
            .opened(now.saturating_duration_since(peer.since));
        peer.phase = Phase::Up;
        peer.since = now;
        let place = self.plan.target_of(self.part.member(peer.line));
        self.targets[place].connection_opened(now);
        let line = &mut self.lines[peer.line as usize];
        line.has_been_up = true;
        self.up += 1;
        self.last_progress = now;
        if self.stage == Stage::Connecting {
            self.dialer.attempt_ended();
        }
        if self.is_under_way() {
            self.offer(token, now);
        }
        // The event may have reported bytes or the end of the stream as well.
        self.peers.requeue(token);
    }

    /// Handles a broken connection: its messages are lost, and another connection takes its place
    /// unless the server's replies are wrong.
    pub(super) fn lose<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        kind: ErrorKind,
    ) {
        let now = world.now();
        let Some(peer) = self.remove(token) else {
            return;
        };
        let at_once = !peer.connection.has_replies() && now < peer.since + EARLY_CLOSE;
        let kind = match kind {
            ErrorKind::Reset | ErrorKind::ClosedEarly if at_once => ErrorKind::ClosedAtOnce,
            _ => kind,
        };
        self.recorder.error(kind);
        self.target(peer.line).lost(kind, now);
        let mut loss = match kind {
            kind if kind.is_wrong_reply() => Loss::Mismatched,
            _ => Loss::Errored,
        };
        let target = self.place_of(peer.line);
        for message in peer.connection.messages() {
            if !message.timed_out {
                self.outstanding -= 1;
                self.recorder.lost(loss, message, target, now);
            }
            // The reply to the first message is wrong; the later messages are lost with the
            // connection.
            loss = Loss::Errored;
        }
        if kind.is_wrong_reply() || kind == ErrorKind::SurplusBytes {
            let quota = std::mem::take(&mut self.lines[peer.line as usize].quota);
            self.quota_left = self.quota_left.saturating_sub(quota);
        } else {
            self.reopen_later(world, peer.line as usize, now);
        }
    }

    /// Removes a connection. If it is up, its TCP_INFO is added to the evidence; for a connection
    /// that is closing, that was done before its FIN.
    pub(super) fn remove(&mut self, token: Token) -> Option<Peer<S>> {
        let peer = self.peers.remove(token)?;
        if peer.phase == Phase::Up {
            self.up -= 1;
            let counted = self.counted(peer.line, peer.number);
            let path = peer.socket.path();
            self.evidence.network.ended(peer.seen, counted, path);
            self.target(peer.line).went_down();
        }
        let line = &mut self.lines[peer.line as usize];
        if line.token == Some(token) {
            line.token = None;
        }
        Some(peer)
    }

    /// Schedules the reopening of a line after a backoff time that grows with its failures. The
    /// time has a jitter, so that a server that is back is not reconnected by all lines at once.
    pub(super) fn reopen_later<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        now: Instant,
    ) {
        if !self.wants_connections() {
            return;
        }
        let failures = self.lines[line].failures;
        self.lines[line].failures = failures.saturating_add(1);
        let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(10));
        let random = RandomStream::new(self.plan.seed, Purpose::Backoff, line as u64);
        let jitter = 0.5 + random.unit(failures.into()) / 2.0;
        self.down += 1;
        world.set_timer(
            now + longest.min(BACKOFF_MAX).mul_f64(jitter),
            Timer::Reopen(line),
        );
    }

    pub(super) fn reopen<W: World<Socket = S>>(&mut self, world: &mut W, line: usize) {
        self.down -= 1;
        if self.wants_connections() && self.lines[line].token.is_none() {
            self.open_next(world, line);
        }
    }

    /// Opens a connection that replaces another one on its line.
    pub(super) fn open_next<W: World<Socket = S>>(&mut self, world: &mut W, line: usize) {
        let number = self.next_number;
        self.next_number = number.wrapping_add(self.part.of);
        self.open(world, line, number);
    }

    /// Ends a connection that has sent all its messages and received the replies, and schedules the
    /// next one of its line.
    pub(super) fn replace_when_spent<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let Some(churn) = self.plan.churn else { return };
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        if peer.phase != Phase::Up || peer.left(&self.plan) > 0 || peer.connection.unanswered() > 0
        {
            return;
        }
        let line = peer.line as usize;
        let failed = match churn.close {
            Close::Fin => {
                let finished = self.send_fin(token, self.clock);
                let failed = finished
                    .err()
                    .map(|error| ErrorKind::at(Step::Finish, &error));
                self.target(line as u32).went_down();
                if failed.is_some() {
                    self.end(token, failed);
                }
                None
            }
            Close::Rst => {
                let prepared = peer.socket.reset_on_close();
                self.remove(token);
                prepared
                    .err()
                    .map(|error| ErrorKind::at(Step::Linger, &error))
            }
        };
        self.lines[line].token = None;
        if let Some(kind) = failed {
            self.recorder.error(kind);
            self.target(line as u32).error(kind);
        }
        if self.wants_connections() {
            // The think time of a closed loop also applies before the next connection.
            let think = match self.plan.pace {
                Pace::Closed { think } => think,
                Pace::Open { .. } => Duration::ZERO,
            };
            self.down += 1;
            world.set_timer(self.clock + think, Timer::Reopen(line));
        }
    }

    /// Sends our FIN. TCP_INFO is read before, since it counts a FIN and its retransmissions like
    /// data although no message waits for them.
    pub(super) fn send_fin(&mut self, token: Token, now: Instant) -> io::Result<()> {
        let Some(peer) = self.peers.get(token) else {
            return Ok(());
        };
        let counted = self.counted(peer.line, peer.number);
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let path = peer.socket.path();
        self.evidence.network.ended(peer.seen, counted, path);
        self.up -= 1;
        peer.phase = Phase::Closing;
        peer.since = now;
        peer.socket.shutdown_write()
    }

    /// Reads until the server's FIN, within the budget of a turn. Replies that arrive now are not
    /// counted.
    pub(super) fn await_end(&mut self, token: Token) {
        let begin = self.read_end();
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let free = &mut self.scratch[begin..begin + CALL_BYTES];
        let mut budget = TURN_BYTES;
        while budget > 0 {
            match peer.connection.receive(&mut peer.socket, free) {
                Ok(Received::Bytes(count)) if peer.connection.pass_over(count) => {
                    budget = budget.saturating_sub(count);
                }
                Ok(Received::Bytes(_)) => return self.end(token, Some(ErrorKind::SurplusBytes)),
                Ok(Received::Blocked) => return,
                Ok(Received::End) => return self.end(token, None),
                Err(error) => {
                    return self.end(token, Some(ErrorKind::at(Step::Receive, &error)));
                }
            }
        }
        self.peers.requeue(token);
    }

    /// Removes a connection that has ended; `error` is the reason if it did not close in order.
    pub(super) fn end(&mut self, token: Token, error: Option<ErrorKind>) {
        let Some(peer) = self.remove(token) else {
            return;
        };
        self.has_closed = true;
        if let Some(kind) = error {
            self.recorder.error(kind);
            self.target(peer.line).error(kind);
        }
    }

    pub(super) fn give_up_closing(&mut self) {
        if self.stage == Stage::Closing {
            for token in self.peers.tokens() {
                self.end(token, Some(ErrorKind::NotClosed));
            }
        }
    }

    /// Gives up connections whose opening or closing has exceeded its timeout.
    pub(super) fn scan_connections<W: World<Socket = S>>(&mut self, world: &mut W, now: Instant) {
        let close_timeout = self.plan.close_timeout();
        let too_old = |peer: &Peer<S>| match peer.phase {
            Phase::Connecting => now >= peer.since + PROGRESS_TIMEOUT,
            Phase::Closing => now >= peer.since + close_timeout,
            Phase::Up => false,
        };
        for token in self.peers.tokens() {
            let Some(peer) = self.peers.get(token).filter(|peer| too_old(peer)) else {
                continue;
            };
            if peer.phase == Phase::Closing {
                self.end(token, Some(ErrorKind::NotClosed));
            } else {
                self.give_up_peer(world, token, Step::Connect, io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Gives up all connections that are not up, including untried ones, when for
    /// [`PROGRESS_TIMEOUT`] none has come up and no attempt was started.
    pub(super) fn give_up_connecting<W: World<Socket = S>>(&mut self, world: &mut W, now: Instant) {
        if now < self.last_progress + PROGRESS_TIMEOUT || self.dialer.in_progress() == 0 {
            return;
        }
        let tried = self.dialer.tried();
        let untried = self.dialer.give_up();
        self.recorder.run.counts.failed += u64::from(untried);
        for line in tried..tried + untried {
            self.recorder.run.error(ErrorKind::TimedOut);
            self.target(line).failed(ErrorKind::TimedOut, now);
        }
        for token in self.peers.tokens() {
            let connecting = |peer: &&Peer<S>| peer.phase == Phase::Connecting;
            if self.peers.get(token).filter(connecting).is_some() {
                self.give_up_peer(world, token, Step::Connect, io::ErrorKind::TimedOut.into());
            }
        }
    }
}
