//! The load generator: what one thread of a run does, in a world that is given to it. Pure: the
//! same code runs on the kernel and, in virtual time, on the simulated network of the tests.
//!
//! ```text
//!   Connecting ── all up, or given up ──► Ready ── start ──► Running ── time over ──► Draining
//!       │                                   │                   │                        │
//!       │        a request to stop          │    nothing left   │      nothing           │
//!       └───────────────────────────────────┴────────┐          │      outstanding,      │
//!                                                    ▼          ▼      or given up       │
//!                                                 Closing ◄─────┴────────────────────────┘
//!                                                    │ all closed, or given up
//!                                                    ▼
//!                                                  Done
//! ```
//!
//! A turn: messages that are due go out first, then events are served, and between two of them
//! messages that have become due; then the connections that spent their budget go on. The clock is
//! read before every send and after every read that brought bytes, and never kept for a turn: a
//! batch of a thousand events would put a millisecond on the last of them.
//!
//! A *line* is a place for a connection: when the connection breaks, or is replaced on purpose,
//! another takes its place. A line is given up for good when its server answered wrongly.
//!
//! Invariant at any time, in the arithmetic of the schedule on the left and in the state of the
//! connections on the right:
//! due by now = verified + mismatched + errored + timed out + unanswered + outstanding.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::load::books::{Books, Identity, Interval, Tag};
use crate::load::connection::{Connection, Fault};
use crate::load::dial::{Dial, Dialer};
use crate::load::evidence::Evidence;
use crate::load::pacer::{Dispatch, Free, Pacer};
use crate::load::payload::Payload;
use crate::load::plan::{
    BACKOFF_FIRST, BACKOFF_LAST, CLOSE_PATIENCE, CONNECT_WINDOW, Close, LOOK, PATIENCE, Pace, Plan,
    SCRATCH_BYTES, SPIN, Stop, TURN_BYTES, TURN_CONNECTIONS, TURN_MESSAGES,
};
use crate::load::random::{Dice, Purpose};
use crate::load::results::{ErrorKind, Loss};
use crate::load::schedule::Part;
use crate::load::world::{Socket, Timer, World};
use crate::reactor::Wait;
use crate::reactor::slots::{Slots, Token};
use crate::stream::{Hints, Received};

/// One thread's part of a run.
#[derive(Debug)]
pub struct Engine<S> {
    plan: Arc<Plan>,
    part: Part,
    payload: Payload,
    stage: Stage,
    interrupted: bool,
    dialer: Dialer,
    /// More connections are due than one turn may open.
    dial_again: bool,
    /// When the next connection is due, once a timer is set for it.
    dial_due: Option<Instant>,
    lines: Vec<Line>,
    /// The sum of their quotas in a closed loop that has a total.
    quota_left: u64,
    peers: Slots<Peer<S>>,
    /// Connections that are up.
    up: u32,
    /// Lines that wait to be opened anew.
    down: usize,
    /// The number of the next connection that takes another one's place.
    next_number: u32,
    pacer: Option<Pacer>,
    /// The one buffer of all reads and writes.
    scratch: Box<[u8]>,
    books: Books,
    evidence: Evidence,
    /// Messages given to connections whose fate is open.
    outstanding: u64,
    /// The last reading of the clock.
    clock: Instant,
    turn_began: Instant,
    start: Option<Instant>,
    sending_ended: Option<Instant>,
    last_verified: Option<Instant>,
    /// When something last went forward: a connection came up, a byte of a reply arrived, a message
    /// went out while nothing was outstanding.
    last_progress: Instant,
    last_reply: Instant,
    told_until: Instant,
    tell_next: Instant,
    told: VecDeque<Interval>,
}

/// A place for a connection.
#[derive(Debug)]
struct Line {
    token: Option<Token>,
    /// Messages it may still send in a closed loop.
    quota: u64,
    /// Attempts since a connection of this line was last up.
    failures: u32,
    has_been_up: bool,
}

/// One connection and its socket.
#[derive(Debug)]
struct Peer<S> {
    socket: S,
    connection: Connection,
    line: usize,
    number: u32,
    phase: Phase,
    /// When this phase began.
    since: Instant,
    /// SYNs that were sent again.
    syns_resent: u64,
    sizes: Dice,
    /// Messages queued so far, and how many more this connection may take.
    messages: u64,
    left: u64,
    /// Slots whose next message is not due yet.
    thinking: u32,
    /// The pacer knows that it is free.
    offered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Up,
    /// Our FIN is sent.
    Closing,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Connections come up.
    Connecting,
    /// All are up: the run can start.
    Ready,
    /// Messages go out and come back.
    Running,
    /// No new message is due.
    Draining,
    /// Connections are closed.
    Closing,
    /// Nothing is left.
    Done,
}

/// What one thread has done.
#[derive(Debug)]
pub struct Done {
    /// What it measured.
    pub books: Books,
    /// What it saw of itself and of the network.
    pub evidence: Evidence,
    /// Lines that had a connection.
    pub lines_up: u32,
    /// From the end of the warm-up to the end of sending, or to the last reply when that came
    /// later: a server that stalls must not look faster for it.
    pub elapsed: Duration,
    /// From the end of the warm-up to the end of sending.
    pub sending: Duration,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// When the run started.
    pub start: Option<Instant>,
}

impl<S: Socket> Engine<S> {
    /// A part of a run that has not begun.
    pub fn new<W: World<Socket = S>>(plan: Arc<Plan>, thread: u32, world: &mut W) -> Self {
        let now = world.now();
        world.set_timer(now + LOOK, Timer::Look);
        let part = plan.part(thread);
        let count = part.share(plan.connections.into()) as u32;
        let line = |index| Line {
            token: None,
            quota: plan.quota(part.index + index * part.of).unwrap_or(u64::MAX),
            failures: 0,
            has_been_up: false,
        };
        let lines: Vec<Line> = (0..count).map(line).collect();
        let quota_left = lines
            .iter()
            .fold(0u64, |sum, line| sum.saturating_add(line.quota));
        let window = (CONNECT_WINDOW / part.of as usize).max(1);
        Engine {
            payload: Payload::new(&plan.content, plan.seed, plan.sizes.smallest()),
            stage: Stage::Connecting,
            interrupted: false,
            dialer: Dialer::new(now, plan.connect_rate, part, count, window),
            dial_again: true,
            dial_due: None,
            lines,
            quota_left,
            peers: Slots::default(),
            up: 0,
            down: 0,
            next_number: plan.connections.saturating_add(part.index),
            pacer: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            books: Books::new(now),
            evidence: Evidence::default(),
            outstanding: 0,
            clock: now,
            turn_began: now,
            start: None,
            sending_ended: None,
            last_verified: None,
            last_progress: now,
            last_reply: now,
            told_until: now,
            tell_next: now,
            told: VecDeque::new(),
            part,
            plan,
        }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// How long the next turn may wait for events.
    pub fn wait(&self, now: Instant) -> Wait {
        let dial_again = self.stage == Stage::Connecting && self.dial_again;
        if self.peers.requeued() > 0 || dial_again || self.stage == Stage::Done {
            return Wait::Never;
        }
        match self.next_due() {
            None => Wait::Block,
            Some(due) if self.plan.spin && due <= now + SPIN => Wait::Never,
            Some(due) if self.plan.spin => Wait::Until(due - SPIN),
            Some(due) if due <= now => Wait::Never,
            Some(due) => Wait::Until(due),
        }
    }

    /// The beginning of a turn: what is due goes out before anything is read.
    pub fn begin_turn<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.turn_began = world.now();
        self.clock = self.turn_began;
        self.send_due(world);
    }

    /// The end of a turn: connections that spent their budget go on, others are opened, and what
    /// follows from all that happened is done.
    pub fn end_turn<W: World<Socket = S>>(&mut self, world: &mut W) -> anyhow::Result<()> {
        for _ in 0..self.peers.requeued().min(TURN_CONNECTIONS) {
            if let Some(token) = self.peers.next_requeued() {
                self.serve(world, token)?;
                self.send_due_by_now(world);
            }
        }
        if self.stage == Stage::Connecting {
            self.dial(world)?;
        }
        self.move_on(world);
        if self.is_under_way() {
            let took = world.now().saturating_duration_since(self.turn_began);
            self.evidence.turns.record(took);
        }
        Ok(())
    }

    /// A connection may be ready.
    pub fn on_io<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
        hints: Hints,
    ) -> anyhow::Result<()> {
        if let Some(peer) = self.peers.get_mut(token) {
            peer.connection.note(hints);
            if !self.peers.is_requeued(token) {
                self.serve(world, token)?;
                self.send_due_by_now(world);
            }
        }
        Ok(())
    }

    /// A timer is due.
    pub fn on_timer<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        timer: Timer,
    ) -> anyhow::Result<()> {
        match timer {
            Timer::Dial | Timer::Ready => {} // Looked at in every turn.
            Timer::Think(token, due) => self.think_over(world, token, due),
            Timer::Reopen(line) => self.reopen(world, line)?,
            Timer::Look => self.look(world)?,
            // One that was overtaken by the end of the run has nothing to tell.
            Timer::Interval if world.now() < self.tell_next => {}
            Timer::Interval => self.tell(world),
            Timer::RunEnd if self.stage == Stage::Running => self.drain(world),
            Timer::DrainEnd if self.stage == Stage::Draining => self.close(world),
            Timer::CloseEnd => self.give_up_closing(),
            Timer::RunEnd | Timer::DrainEnd => {}
        }
        Ok(())
    }

    /// The first request ends the run in order, the second at once.
    pub fn on_stop<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.interrupted {
            if self.stage < Stage::Closing {
                self.close(world);
            }
            self.give_up_closing();
            return;
        }
        self.interrupted = true;
        match self.stage {
            Stage::Connecting | Stage::Ready => self.close(world),
            Stage::Running => self.drain(world),
            Stage::Draining | Stage::Closing | Stage::Done => {}
        }
    }

    /// All connections that could be opened are up: messages are due from `start` on.
    pub fn start<W: World<Socket = S>>(&mut self, world: &mut W, start: Instant) {
        if self.stage != Stage::Ready {
            return;
        }
        let now = world.now();
        self.pacer = Pacer::new(&self.plan, self.part, start);
        // A closed loop has no schedule that could wait for the others.
        let start = if self.pacer.is_some() { start } else { now };
        self.stage = Stage::Running;
        self.start = Some(start);
        self.last_progress = start;
        self.told_until = start;
        self.books.set_warm(start + self.plan.warmup);
        if let Stop::After(duration) = self.plan.stop {
            world.set_timer(start + duration, Timer::RunEnd);
        }
        self.tell_next = self.next_interval(start);
        world.set_timer(self.tell_next, Timer::Interval);
        for line in 0..self.lines.len() {
            match self.lines[line].token {
                Some(token) if self.pacer.is_none() => self.peers.requeue(token),
                Some(token) => self.offer(token, start),
                None => self.reopen_later(world, line, now),
            }
        }
    }

    /// An interval that is over.
    pub fn take_interval(&mut self) -> Option<Interval> {
        self.told.pop_front()
    }

    /// Connections that are up, and messages that were verified so far.
    pub fn progress(&self) -> (u32, u64) {
        (self.up, self.books.counts().verified)
    }

    /// How it stands at `now`: what is due in the arithmetic of the schedule, and what is
    /// outstanding as counted from the connections themselves.
    pub fn identity(&mut self, now: Instant) -> Identity {
        let counts = self.books.counts();
        let waiting = self.pacer.as_mut().map_or(0, |pacer| pacer.waiting(now));
        let taken = self.pacer.as_ref().map_or(counts.scheduled, Pacer::taken);
        let unsettled = |peer: &Peer<S>| {
            let messages = peer.connection.messages();
            messages.filter(|message| !message.timed_out).count() as u64
        };
        let in_flight: u64 = self.peers.iter().map(unsettled).sum();
        Identity {
            due: taken + waiting,
            counts,
            outstanding: in_flight + waiting,
        }
    }

    /// The interval that ends now.
    fn interval(&mut self, now: Instant) -> Interval {
        let start = self.start.unwrap_or(now);
        let (from, to) = (self.told_until, now.max(self.told_until));
        Interval {
            tag: match self.stage {
                Stage::Running if from < self.books.warm() => Tag::Warmup,
                Stage::Running => Tag::Run,
                _ => Tag::Drain,
            },
            from: from.saturating_duration_since(start),
            to: to.saturating_duration_since(start),
            up: self.up,
            identity: self.identity(now),
            response: self.books.take_recent(),
        }
    }

    /// What was done.
    pub fn finish(self) -> Done {
        let lines_up = self.lines.iter().filter(|line| line.has_been_up).count();
        let warm = self.books.warm();
        let since_warm = |at: Option<Instant>| match (self.start, at) {
            (Some(_), Some(at)) => at.saturating_duration_since(warm),
            _ => Duration::ZERO,
        };
        // The last message of a schedule has its gap as every other one.
        let span = self.plan.span().filter(|_| !self.interrupted);
        let span = span.unwrap_or_default().saturating_sub(self.plan.warmup);
        Done {
            evidence: self.evidence,
            lines_up: lines_up as u32,
            elapsed: since_warm(self.sending_ended.max(self.last_verified)).max(span),
            sending: since_warm(self.sending_ended).max(span),
            interrupted: self.interrupted,
            start: self.start,
            books: self.books,
        }
    }

    fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Draining)
    }

    /// When a message is due that can be sent.
    fn next_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running | Stage::Draining => self.pacer.as_ref()?.next_due(),
            _ => None,
        }
    }
}

/// Messages.
impl<S: Socket> Engine<S> {
    /// Sends the messages of the schedule that are due and have a connection.
    fn send_due<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        for _ in 0..TURN_MESSAGES {
            let Some(pacer) = &mut self.pacer else { return };
            let peers = &self.peers;
            let lives = |token| {
                let peer = peers.get(token);
                peer.is_some_and(|peer| peer.phase == Phase::Up)
            };
            let Some(dispatch) = pacer.take(self.clock, lives) else {
                return;
            };
            self.dispatch(world, dispatch);
            self.clock = world.now();
        }
    }

    /// The same, if a message has become due by the last reading of the clock.
    fn send_due_by_now<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.next_due().is_some_and(|due| due <= self.clock) {
            self.send_due(world);
        }
    }

    /// Gives a message to its connection, unless it is too old.
    fn dispatch<W: World<Socket = S>>(&mut self, world: &mut W, dispatch: Dispatch) {
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
        let age = now.saturating_duration_since(due);
        if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
            let free = Some(free_since);
            self.books.lost_waiting(Loss::TimedOut, due, free, now);
            return self.offer(token, free_since);
        }
        self.queue(token, due, due.max(free_since), now);
        match self.transmit(world, token, &mut TURN_BYTES.clone()) {
            Ok(()) => self.offer(token, free_since),
            Err(kind) => self.lose(world, token, kind),
        }
    }

    /// Adds a message to those of a connection.
    fn queue(&mut self, token: Token, due: Instant, sendable: Instant, now: Instant) {
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let size = self.plan.sizes.of(peer.sizes.at(peer.messages));
        peer.messages += 1;
        peer.left -= 1;
        peer.connection.queue(size, due, sendable, now);
        self.books.scheduled(due);
        if self.outstanding == 0 {
            self.last_progress = now;
            self.last_reply = now;
        }
        self.outstanding += 1;
    }

    /// Sends what is queued on a connection, as far as `budget` and the kernel allow.
    fn transmit<W: World<Socket = S>>(
        &mut self,
        world: &W,
        token: Token,
        budget: &mut usize,
    ) -> Result<(), ErrorKind> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let (connection, socket) = (&mut peer.connection, &mut peer.socket);
        let (payload, scratch) = (&self.payload, &mut self.scratch);
        let clock = &mut self.clock;
        let read_clock = || {
            *clock = world.now();
            *clock
        };
        let sent = connection.transmit(socket, payload, scratch, *budget, read_clock);
        *budget = budget.saturating_sub(sent.map_err(|error| ErrorKind::of(&error))?);
        Ok(())
    }

    /// Sends what is queued and reads what has come, within the budget of a turn.
    fn exchange<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
    ) -> Result<(), ErrorKind> {
        if self.stage == Stage::Running {
            self.refill(world, token, None);
        }
        let (mut budget, mut send_budget) = (TURN_BYTES, TURN_BYTES);
        while budget > 0 {
            self.transmit(world, token, &mut send_budget)?;
            match self.receive(world, token)? {
                Some(count) => budget = budget.saturating_sub(count),
                None => break,
            }
        }
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        if budget == 0 || peer.connection.can_transmit() {
            self.peers.requeue(token);
        }
        self.offer(token, self.clock);
        self.replace_when_spent(world, token);
        Ok(())
    }

    /// Reads once and books what that completes; `None`: nothing has come.
    fn receive<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        token: Token,
    ) -> Result<Option<usize>, ErrorKind> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(None);
        };
        let received = peer
            .connection
            .receive(&mut peer.socket, &mut self.scratch)
            .map_err(|error| ErrorKind::of(&error))?;
        let count = match received {
            Received::Bytes(count) => count,
            Received::Blocked => return Ok(None),
            Received::End => return Err(ErrorKind::ClosedEarly),
        };
        let now = world.now();
        self.clock = now;
        self.end_silence(now);
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(None);
        };
        let reply = &self.scratch[..count];
        let checked = peer.connection.accept(reply, &self.payload);
        while let Some(message) = peer.connection.next_answered() {
            // One that was given up has its fate already.
            if !message.timed_out {
                self.outstanding -= 1;
                let age = now.saturating_duration_since(message.due);
                if self.plan.timeout.is_some_and(|timeout| age >= timeout) {
                    self.books.lost(Loss::TimedOut, &message, now);
                } else {
                    self.books.verified(&message, now);
                    self.last_verified = Some(now);
                }
            }
            if let Pace::Closed { think } = self.plan.pace
                && !think.is_zero()
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
        Ok(Some(count))
    }

    /// In a closed loop: queues as many messages as may be in flight. They are due when their slots
    /// became free; `None`: just now.
    fn refill<W: World<Socket = S>>(&mut self, world: &W, token: Token, due: Option<Instant>) {
        if self.pacer.is_some() {
            return;
        }
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let line = &mut self.lines[peer.line];
        let taken = peer.connection.unanswered() as u64 + u64::from(peer.thinking);
        let free = u64::from(self.plan.depth).saturating_sub(taken);
        let count = free.min(line.quota).min(peer.left);
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
    fn think_over<W: World<Socket = S>>(&mut self, world: &mut W, token: Token, due: Instant) {
        let running = self.stage == Stage::Running;
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        peer.thinking -= 1;
        let line = &mut self.lines[peer.line];
        if !running || peer.phase != Phase::Up || line.quota == 0 || peer.left == 0 {
            return;
        }
        line.quota -= 1;
        self.quota_left = self.quota_left.saturating_sub(1);
        self.clock = world.now();
        self.queue(token, due, due, self.clock);
        if let Err(kind) = self.transmit(world, token, &mut TURN_BYTES.clone()) {
            self.lose(world, token, kind);
        }
    }

    /// Tells the pacer of a connection that can take a message, once.
    fn offer(&mut self, token: Token, since: Instant) {
        let Some(pacer) = &mut self.pacer else { return };
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let can_take = peer.phase == Phase::Up
            && peer.connection.is_flushed()
            && peer.connection.unanswered() < self.plan.depth as usize
            && peer.left > 0;
        if can_take && !peer.offered {
            peer.offered = true;
            pacer.free(Free {
                token,
                line: peer.line,
                since,
            });
        }
    }

    /// A reply was wrong: what that means for its connection.
    fn fault(&mut self, connection: u32, fault: Fault) -> ErrorKind {
        match fault {
            Fault::Surplus(_) => ErrorKind::SurplusBytes,
            Fault::Differs(difference) => {
                self.books.run.difference(connection, difference);
                ErrorKind::WrongReply
            }
        }
    }

    /// Bytes of a reply have come, or will not come any more.
    fn end_silence(&mut self, now: Instant) {
        if self.is_under_way() && self.outstanding > 0 {
            let since = self.last_reply.max(self.books.warm());
            let silence = now.saturating_duration_since(since);
            self.evidence.silence = self.evidence.silence.max(silence);
        }
        self.last_reply = now;
        self.last_progress = now;
    }

    /// Gives up what has become too old.
    fn time_out(&mut self, now: Instant) {
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
    fn give_up_waiting(&mut self, loss: Loss, deadline: Instant, now: Instant) {
        if let Some(pacer) = &mut self.pacer {
            let free = pacer.free_since();
            let books = &mut self.books;
            pacer.give_up(deadline, |due| books.lost_waiting(loss, due, free, now));
        }
    }
}

/// Connections.
impl<S: Socket> Engine<S> {
    /// Opens the connections that are due, as many as a turn may.
    fn dial<W: World<Socket = S>>(&mut self, world: &mut W) -> anyhow::Result<()> {
        self.dial_again = false;
        for _ in 0..TURN_CONNECTIONS {
            match self.dialer.next(world.now()) {
                Dial::Now(line) => {
                    let number = self.part.index + line * self.part.of;
                    self.open(world, line as usize, number)?;
                }
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

    fn open<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        number: u32,
    ) -> anyhow::Result<()> {
        let route = self
            .plan
            .route(self.part.index + line as u32 * self.part.of);
        let Some((target, source)) = route else {
            bail!("no target is named");
        };
        let now = world.now();
        let opened = world.connect(target, source);
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return self.not_opened(world, line, &error),
        };

        let churn = self.plan.churn;
        let token = self.peers.insert(Peer {
            socket,
            connection: Connection::new(self.payload.source(number)),
            line,
            number,
            phase: Phase::Connecting,
            since: now,
            syns_resent: 0,
            sizes: Dice::new(self.plan.seed, Purpose::Sizes, number.into()),
            messages: 0,
            left: churn.map_or(u64::MAX, |churn| churn.messages),
            thinking: 0,
            offered: false,
        });
        self.lines[line].token = Some(token);
        if let Some(peer) = self.peers.get_mut(token) {
            world.watch(&mut peer.socket, token)?;
        }
        Ok(())
    }

    /// A connection did not come up. While none has ever been up, there is nothing to run.
    fn not_opened<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
        error: &io::Error,
    ) -> anyhow::Result<()> {
        let kind = ErrorKind::of(error);
        self.books.run.counts.failed += 1;
        self.books.run.error(kind);
        self.lines[line].token = None;
        if self.stage == Stage::Connecting {
            self.dialer.settled();
        }
        if self.books.run.counts.opened == 0 {
            bail!("{}", self.unreachable(line, error));
        }
        self.reopen_later(world, line, world.now());
        Ok(())
    }

    fn unreachable(&self, line: usize, error: &io::Error) -> String {
        let line = self.part.index + line as u32 * self.part.of;
        let target = self.plan.route(line).map(|(target, _)| target.to_string());
        let target = target.unwrap_or_default();
        match ErrorKind::of(error) {
            ErrorKind::Refused => format!(
                "nothing listens at {target} (connection refused): start `upcase serve --listen \
                 {target}` there, or name another target"
            ),
            _ => format!("cannot connect to {target}: {error}"),
        }
    }

    /// Gives a connection its turn.
    fn serve<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) -> anyhow::Result<()> {
        let Some(peer) = self.peers.get(token) else {
            return Ok(());
        };
        match peer.phase {
            Phase::Connecting => return self.look_whether_up(world, token),
            Phase::Up => {
                if let Err(kind) = self.exchange(world, token) {
                    self.lose(world, token, kind);
                }
            }
            Phase::Closing => self.await_end(token),
        }
        Ok(())
    }

    fn look_whether_up<W: World<Socket = S>>(
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
            Err(error) => {
                let line = peer.line;
                self.peers.remove(token);
                return self.not_opened(world, line, &error);
            }
        }
        let now = world.now();
        self.clock = now;
        if let Ok(path) = peer.socket.path() {
            peer.syns_resent = path.resent;
            self.evidence.network.came_up(&path);
        }
        let results = &mut self.books.run;
        results.counts.opened += 1;
        results
            .connect
            .record(now.saturating_duration_since(peer.since));
        peer.phase = Phase::Up;
        peer.since = now;
        let line = &mut self.lines[peer.line];
        line.failures = 0;
        line.has_been_up = true;
        self.up += 1;
        self.last_progress = now;
        match self.stage {
            Stage::Connecting => self.dialer.settled(),
            Stage::Running | Stage::Draining if self.pacer.is_some() => self.offer(token, now),
            Stage::Running => self.peers.requeue(token),
            _ => {}
        }
        Ok(())
    }

    /// A connection broke; another one takes its place, unless the server's replies are wrong.
    fn lose<W: World<Socket = S>>(&mut self, world: &mut W, token: Token, kind: ErrorKind) {
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
                let quota = std::mem::take(&mut self.lines[peer.line].quota);
                self.quota_left = self.quota_left.saturating_sub(quota);
            }
            _ => self.reopen_later(world, peer.line, now),
        }
    }

    /// Takes a connection out, and books what it went through.
    fn remove(&mut self, token: Token) -> Option<Peer<S>> {
        let peer = self.peers.remove(token)?;
        match peer.phase {
            Phase::Connecting => {}
            Phase::Up => self.up -= 1,
            Phase::Closing => {}
        }
        if peer.phase != Phase::Connecting
            && let Ok(path) = peer.socket.path()
        {
            self.evidence.network.ended(peer.syns_resent, &path);
        }
        let line = &mut self.lines[peer.line];
        if line.token == Some(token) {
            line.token = None;
        }
        Some(peer)
    }

    /// Opens a line anew after a while that grows with its failures, and differs from line to line:
    /// a server that comes back is not met by all at once.
    fn reopen_later<W: World<Socket = S>>(&mut self, world: &mut W, line: usize, now: Instant) {
        if self.stage != Stage::Running {
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

    fn reopen<W: World<Socket = S>>(&mut self, world: &mut W, line: usize) -> anyhow::Result<()> {
        self.down -= 1;
        if self.stage != Stage::Running || self.lines[line].token.is_some() {
            return Ok(());
        }
        self.open_next(world, line)
    }

    /// Opens a connection that takes another one's place.
    fn open_next<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        line: usize,
    ) -> anyhow::Result<()> {
        let number = self.next_number;
        self.next_number = number.wrapping_add(self.part.of);
        self.open(world, line, number)
    }

    /// Ends a connection that has had its messages, and opens the next one of its line.
    fn replace_when_spent<W: World<Socket = S>>(&mut self, world: &mut W, token: Token) {
        let Some(churn) = self.plan.churn else { return };
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        if peer.phase != Phase::Up || peer.left > 0 || peer.connection.unanswered() > 0 {
            return;
        }
        let line = peer.line;
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
        if self.stage == Stage::Running {
            self.down += 1;
            world.set_timer(self.clock, Timer::Reopen(line));
        }
    }

    /// Reads until the server's FIN, within the budget of a turn. Replies that come too late to
    /// count are passed over.
    fn await_end(&mut self, token: Token) {
        let Some(peer) = self.peers.get_mut(token) else {
            return;
        };
        let mut budget = TURN_BYTES;
        while budget > 0 {
            match peer.connection.receive(&mut peer.socket, &mut self.scratch) {
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
    fn end(&mut self, token: Token, error: Option<ErrorKind>) {
        if self.remove(token).is_some()
            && let Some(kind) = error
        {
            self.books.run.error(kind);
        }
    }
}

/// Stages.
impl<S: Socket> Engine<S> {
    /// The transitions that follow from what a turn brought.
    fn move_on<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.stage == Stage::Connecting && self.dialer.is_finished() {
            self.stage = Stage::Ready;
        }
        match self.stage {
            Stage::Running if self.is_finished() => self.close(world),
            Stage::Draining if self.is_settled() => self.close(world),
            _ => {}
        }
        if self.stage == Stage::Closing && self.peers.is_empty() {
            self.stage = Stage::Done;
        }
    }

    /// No message that was due has an open fate.
    fn is_settled(&self) -> bool {
        let exhausted = self.pacer.as_ref().is_none_or(Pacer::is_exhausted);
        self.outstanding == 0 && exhausted
    }

    /// A run is over before its time when nothing more can come of it: all messages of a total are
    /// settled, or all lines were given up.
    fn is_finished(&self) -> bool {
        let total = match self.plan.stop {
            Stop::After(_) => false,
            Stop::Messages(_) => {
                let left = self.pacer.is_none() && self.quota_left > 0;
                self.is_settled() && !left
            }
        };
        total || (self.peers.is_empty() && self.down == 0)
    }

    /// Nothing new is due; what is outstanding has a while to be settled.
    fn drain<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        self.tell(world);
        self.stage = Stage::Draining;
        self.sending_ended = Some(now);
        world.set_timer(now + self.plan.drain, Timer::DrainEnd);
        if let Some(pacer) = &mut self.pacer {
            return pacer.cut(now);
        }
        // What has not begun to be sent in a closed loop is not sent any more, and was never due.
        let (books, outstanding) = (&mut self.books, &mut self.outstanding);
        for peer in self.peers.iter_mut() {
            peer.connection.withdraw(|message| {
                *outstanding -= 1;
                books.withdrawn(message);
            });
        }
    }

    /// Settles every message, and closes in order: our FIN first, then the server's.
    fn close<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        if self.is_under_way() {
            self.sending_ended.get_or_insert(now);
            self.settle(now);
        }
        self.stage = Stage::Closing;
        world.set_timer(now + CLOSE_PATIENCE, Timer::CloseEnd);
        for token in self.peers.tokens() {
            let Some(peer) = self.peers.get_mut(token) else {
                continue;
            };
            match peer.phase {
                Phase::Connecting => {
                    self.remove(token);
                }
                Phase::Closing => {}
                Phase::Up => {
                    peer.phase = Phase::Closing;
                    peer.since = now;
                    self.up -= 1;
                    match peer.socket.shutdown_write() {
                        Ok(()) => self.peers.requeue(token),
                        Err(error) => self.end(token, Some(ErrorKind::of(&error))),
                    }
                }
            }
        }
    }

    /// What is outstanding now is unanswered for good.
    fn settle(&mut self, now: Instant) {
        self.end_silence(now);
        if let Some(pacer) = &mut self.pacer {
            pacer.cut(now);
        }
        self.give_up_waiting(Loss::Unanswered, now + Duration::from_nanos(1), now);
        let books = &mut self.books;
        for peer in self.peers.iter_mut() {
            peer.connection
                .time_out(now + Duration::from_nanos(1), |message| {
                    books.lost(Loss::Unanswered, message, now);
                });
        }
        self.outstanding = 0;
        let interval = self.interval(now);
        self.told.push_back(interval);
    }

    fn give_up_closing(&mut self) {
        if self.stage == Stage::Closing {
            for token in self.peers.tokens() {
                self.end(token, Some(ErrorKind::NotClosed));
            }
        }
    }

    /// Ends the interval.
    fn tell<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        let now = world.now();
        let interval = self.interval(now);
        self.told.push_back(interval);
        self.told_until = now;
        self.tell_next = self.next_interval(now);
        world.set_timer(self.tell_next, Timer::Interval);
    }

    /// The end of the interval that begins now: the warm-up ends with an interval.
    fn next_interval(&self, now: Instant) -> Instant {
        let start = self.start.unwrap_or(now);
        let interval = self.plan.interval.as_nanos().max(1);
        let past = now.saturating_duration_since(start).as_nanos() / interval;
        let next = Duration::from_nanos(u64::try_from((past + 1) * interval).unwrap_or(u64::MAX));
        let next = start + next;
        let warm = self.books.warm();
        if now < warm { next.min(warm) } else { next }
    }

    /// Looks over all connections for what has become too old.
    fn look<W: World<Socket = S>>(&mut self, world: &mut W) -> anyhow::Result<()> {
        let now = world.now();
        match self.stage {
            Stage::Connecting | Stage::Ready => self.give_up_connecting(world, now)?,
            Stage::Running | Stage::Draining => {
                self.time_out(now);
                self.look_at_peers(world, now)?;
                if self.is_stuck(now) {
                    self.drain(world);
                }
            }
            Stage::Closing | Stage::Done => return Ok(()),
        }
        world.set_timer(now + LOOK, Timer::Look);
        Ok(())
    }

    /// Connections that do not come up, or do not end, are given up.
    fn look_at_peers<W: World<Socket = S>>(
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
            } else if let Some(peer) = self.remove(token) {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                self.not_opened(world, peer.line, &error)?;
            }
        }
        Ok(())
    }

    /// In a run that waits for a number of messages: whether it waits in vain.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let silent = now.saturating_duration_since(self.last_progress) >= PATIENCE;
        let total = matches!(self.plan.stop, Stop::Messages(_));
        if self.stage != Stage::Running || !total || !silent {
            return false;
        }
        let waiting = self.pacer.as_mut().map_or(0, |pacer| pacer.waiting(now));
        self.outstanding > 0 || waiting > 0 || self.up == 0
    }

    /// While nothing comes up for a long time, no more connections are tried.
    fn give_up_connecting<W: World<Socket = S>>(
        &mut self,
        world: &mut W,
        now: Instant,
    ) -> anyhow::Result<()> {
        if now < self.last_progress + PATIENCE {
            return Ok(());
        }
        let untried = u64::from(self.dialer.give_up());
        self.books.run.counts.failed += untried;
        for _ in 0..untried {
            self.books.run.error(ErrorKind::TimedOut);
        }
        for token in self.peers.tokens() {
            let connecting = |peer: &&Peer<S>| peer.phase == Phase::Connecting;
            if let Some(line) = self.peers.get(token).filter(connecting).map(|p| p.line) {
                self.peers.remove(token);
                let error = io::Error::from(io::ErrorKind::TimedOut);
                self.not_opened(world, line, &error)?;
            }
        }
        Ok(())
    }
}
