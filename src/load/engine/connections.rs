//! What the engine does with connections: opens, replaces, loses and closes them.
//!
//! A line whose connection broke is opened anew after a while, which doubles with every failure; a
//! line whose server answered wrongly is given up.

use std::io;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::load::connection::Connection;
use crate::load::dial::Dial;
use crate::load::engine::{Engine, Peer, Phase, Stage};
use crate::load::plan::{
    BACKOFF_FIRST, BACKOFF_LAST, CALL_BYTES, CLOSE_PATIENCE, Close, PATIENCE, Pace, TURN_BYTES,
    TURN_CONNECTIONS,
};
use crate::load::random::{Dice, Purpose};
use crate::load::results::{ErrorKind, Loss};
use crate::load::world::{Socket, Timer, World};
use crate::reactor::slots::Token;
use crate::stream::Received;

impl<S: Socket> Engine<S> {
    /// Opens the connections that are due, as many as a turn may.
    pub(super) fn dial<W: World<Socket = S>>(&mut self, world: &mut W) -> anyhow::Result<()> {
        self.dial_again = false;
        for _ in 0..TURN_CONNECTIONS {
            match self.dialer.next(world.now()) {
                Dial::Now(line) => self.open(world, line as usize, self.part.member(line))?,
                Dial::At(due) => {
                    if self.dial_due.replace(due) != Some(due) {
                        world.set_timer(due, Timer::Dial);
                    }
                    return Ok(());
                }
                Dial::Full | Dial::Finished => return Ok(()),
            }
        }
        self.dial_again = true;
        Ok(())
    }

    pub(super) fn open<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        number: u32,
    ) -> anyhow::Result<()> {
        let Some((target, source)) = self.plan.route(self.part.member(line as u32)) else {
            bail!("no target is named");
        };
        let now = world.now();
        if self.stage == Stage::Connecting {
            self.last_progress = now;
        }
        let opened = world.connect(target, source);
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return self.not_opened(world, line, &error),
        };
        let token = self.peers.insert(Peer {
            socket,
            connection: Connection::new(self.payload.source(number)),
            line: line as u32,
            number,
            phase: Phase::Connecting,
            since: now,
            syns_resent: 0,
            messages: 0,
            thinking: 0,
            offered: false,
        });
        self.lines[line].token = Some(token);
        if let Some(peer) = self.peers.get_mut(token) {
            world.watch(&mut peer.socket, token)?;
        }
        Ok(())
    }

    /// A connection did not come up.
    pub(super) fn not_opened<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        error: &io::Error,
    ) -> anyhow::Result<()> {
        let kind = ErrorKind::of(error);
        self.books.run.counts.failed += 1;
        self.books.run.error(kind);
        if self.first_failure.is_none() {
            self.first_failure = Some(self.failure(line, error));
        }
        if self.stage == Stage::Connecting {
            self.dialer.settled();
            // Every target was tried, in vain: whether there is a run is for all threads to say.
            let tried = self.dialer.tried() as usize >= self.plan.targets.len();
            if self.books.run.counts.opened == 0 && tried && self.dialer.under_way() == 0 {
                self.dialer.give_up();
            }
        }
        self.reopen_later(world, line, world.now());
        Ok(())
    }

    /// A connection under way will not come up.
    fn give_up_peer<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        error: &io::Error,
    ) -> anyhow::Result<()> {
        match self.remove(token) {
            Some(peer) => self.not_opened(world, peer.line as usize, error),
            None => Ok(()),
        }
    }

    fn failure(&self, line: usize, error: &io::Error) -> String {
        let route = self.plan.route(self.part.member(line as u32));
        let target = route.map_or(String::new(), |(target, _)| target.to_string());
        match ErrorKind::of(error) {
            ErrorKind::Refused => format!(
                "nothing listens at {target} (connection refused): start `upcase serve --listen \
                 {target}` there, or name another target"
            ),
            _ => format!("cannot connect to {target}: {error}"),
        }
    }

    /// Gives a connection its turn.
    #[inline(always)]
    pub(super) fn serve<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
    ) -> anyhow::Result<()> {
        let Some(peer) = self.peers.get(token) else {
            return Ok(());
        };
        match peer.phase {
            Phase::Connecting => return self.look_whether_up(world, token),
            Phase::Up => self.read(world, token),
            Phase::Closing => self.await_end(token),
        }
        Ok(())
    }

    pub(super) fn look_whether_up<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
    ) -> anyhow::Result<()> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        match peer.socket.is_up() {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) => return self.give_up_peer(world, token, &error),
        }
        let now = world.now();
        self.clock = now;
        if peer.number < self.plan.kernel_timestamps {
            peer.socket.keep_times()?;
        }
        if let Ok(path) = peer.socket.path() {
            peer.syns_resent = u32::try_from(path.resent).unwrap_or(u32::MAX);
            self.evidence.network.came_up(&path);
        }
        let results = &mut self.books.run;
        results.counts.opened += 1;
        results
            .connect
            .record(now.saturating_duration_since(peer.since));
        peer.phase = Phase::Up;
        peer.since = now;
        let line = &mut self.lines[peer.line as usize];
        line.has_been_up = true;
        self.up += 1;
        self.last_progress = now;
        if self.stage == Stage::Connecting {
            self.dialer.settled();
        }
        if self.is_under_way() {
            self.offer(token, now);
        }
        // The event that told may have told more: bytes, or the end.
        self.peers.requeue(token);
        Ok(())
    }

    /// A connection broke; another one takes its place, unless the server's replies are wrong.
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
        self.books.run.error(kind);
        let mut loss = match kind {
            ErrorKind::WrongReply => Loss::Mismatched,
            _ => Loss::Errored,
        };
        for message in peer.connection.messages() {
            if !message.timed_out {
                self.outstanding -= 1;
                self.books.lost(loss, message, now);
            }
            // The first one is wrong, those behind it are lost with their connection.
            loss = Loss::Errored;
        }
        match kind {
            ErrorKind::WrongReply | ErrorKind::SurplusBytes => {
                let quota = std::mem::take(&mut self.lines[peer.line as usize].quota);
                self.quota_left = self.quota_left.saturating_sub(quota);
            }
            _ => self.reopen_later(world, peer.line as usize, now),
        }
    }

    /// Takes a connection out, and books what it went through.
    pub(super) fn remove(&mut self, token: Token) -> Option<Peer<S>> {
        let peer = self.peers.remove(token)?;
        if peer.phase == Phase::Up {
            self.up -= 1;
        }
        if peer.phase != Phase::Connecting
            && let Ok(path) = peer.socket.path()
        {
            self.evidence.network.ended(peer.syns_resent.into(), &path);
        }
        let line = &mut self.lines[peer.line as usize];
        if line.token == Some(token) {
            line.token = None;
        }
        Some(peer)
    }

    /// Opens a line anew after a while that grows with its failures, and differs from line to line:
    /// a server that comes back is not met by all at once.
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
        let longest = BACKOFF_FIRST.saturating_mul(1 << failures.min(10));
        let dice = Dice::new(self.plan.seed, Purpose::Backoff, line as u64);
        let jitter = 0.5 + dice.unit(failures.into()) / 2.0;
        self.down += 1;
        world.set_timer(
            now + longest.min(BACKOFF_LAST).mul_f64(jitter),
            Timer::Reopen(line),
        );
    }

    pub(super) fn reopen<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
    ) -> anyhow::Result<()> {
        self.down -= 1;
        if !self.wants_connections() || self.lines[line].token.is_some() {
            return Ok(());
        }
        self.open_next(world, line)
    }

    /// Opens a connection that takes another one's place.
    pub(super) fn open_next<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
    ) -> anyhow::Result<()> {
        let number = self.next_number;
        self.next_number = number.wrapping_add(self.part.of);
        self.open(world, line, number)
    }

    /// Ends a connection that has had its messages, and opens the next one of its line.
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
        let ended = match churn.close {
            Close::Fin => {
                self.up -= 1;
                peer.phase = Phase::Closing;
                peer.since = self.clock;
                peer.socket.shutdown_write()
            }
            Close::Rst => {
                let reset = peer.socket.reset_on_close();
                self.remove(token);
                reset
            }
        };
        self.lines[line].token = None;
        if let Err(error) = ended {
            self.end(token, Some(ErrorKind::of(&error)));
        }
        if self.wants_connections() {
            // Who thinks between messages thinks before the next connection as well.
            let think = match self.plan.pace {
                Pace::Closed { think } => think,
                Pace::Open { .. } => Duration::ZERO,
            };
            self.down += 1;
            world.set_timer(self.clock + think, Timer::Reopen(line));
        }
    }

    /// Reads until the server's FIN, within the budget of a turn. Replies that come too late to
    /// count are passed over.
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
                Err(error) => return self.end(token, Some(ErrorKind::of(&error))),
            }
        }
        self.peers.requeue(token);
    }

    /// A connection is closed; with an error, not in order.
    pub(super) fn end(&mut self, token: Token, error: Option<ErrorKind>) {
        if self.remove(token).is_some()
            && let Some(kind) = error
        {
            self.books.run.error(kind);
        }
    }

    pub(super) fn give_up_closing(&mut self) {
        if self.stage == Stage::Closing {
            for token in self.peers.tokens() {
                self.end(token, Some(ErrorKind::NotClosed));
            }
        }
    }

    /// Connections that do not come up, or do not end, are given up.
    pub(super) fn look_at_peers<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        now: Instant,
    ) -> anyhow::Result<()> {
        let too_old = |peer: &Peer<S>| match peer.phase {
            Phase::Connecting => now >= peer.since + PATIENCE,
            Phase::Closing => now >= peer.since + CLOSE_PATIENCE,
            Phase::Up => false,
        };
        for token in self.peers.tokens() {
            let Some(peer) = self.peers.get(token).filter(|peer| too_old(peer)) else {
                continue;
            };
            if peer.phase == Phase::Closing {
                self.end(token, Some(ErrorKind::NotClosed));
            } else {
                self.give_up_peer(world, token, &io::ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }

    /// While nothing comes up for a long time, no more connections are tried.
    pub(super) fn give_up_connecting<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        now: Instant,
    ) -> anyhow::Result<()> {
        if now < self.last_progress + PATIENCE || self.dialer.under_way() == 0 {
            return Ok(());
        }
        let untried = u64::from(self.dialer.give_up());
        self.books.run.counts.failed += untried;
        for _ in 0..untried {
            self.books.run.error(ErrorKind::TimedOut);
        }
        for token in self.peers.tokens() {
            let connecting = |peer: &&Peer<S>| peer.phase == Phase::Connecting;
            if self.peers.get(token).filter(connecting).is_some() {
                self.give_up_peer(world, token, &io::ErrorKind::TimedOut.into())?;
            }
        }
        Ok(())
    }
}
