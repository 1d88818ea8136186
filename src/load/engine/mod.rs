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
//! Connections are served in groups, in three rounds: all are read from, then the replies of all
//! are booked, then all send what that made due. So a reply waits for other reads before it is
//! read, and not for other sends, which take longer: that wait is put down to the server. A message
//! of a closed loop waits for its round instead, and that is put down to the run itself. And it
//! takes less CPU time, for the reason that `server/engine/serving.rs` tells. Between its rounds a
//! connection is left alone: whatever else is to be done, the group is finished before it.
//!
//! A *line* is a place for a connection: when the connection breaks, or is replaced on purpose,
//! another takes its place. A line is given up for good when its server answered wrongly.
//!
//! Invariant at any time, in the arithmetic of the schedule on the left and in the state of the
//! connections on the right:
//! due by now = verified + mismatched + errored + timed out + unanswered + outstanding.

mod connections;
mod messages;
mod ways;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::books::{Books, Identity, Interval, Tag};
use crate::load::connection::Connection;
use crate::load::dial::Dialer;
use crate::load::evidence::{Evidence, Seen};
use crate::load::pacer::Pacer;
use crate::load::payload::Payload;
use crate::load::plan::{
    CONNECT_WINDOW, GROUP_CONNECTIONS, LOOK, PATIENCE, Plan, SCRATCH_BYTES, SPIN, Stop,
    TURN_CONNECTIONS,
};
use crate::load::presence::{CHECK, Presence};
use crate::load::results::{Backlog, Course, ErrorKind, Loss};
use crate::load::schedule::Part;
use crate::load::step::Step;
use crate::load::targets::{Target, Waiting};
use crate::load::world::{Socket, Timer, World};
use crate::reactor::Wait;
use crate::reactor::slots::{Slots, Token};
use crate::stream::Hints;

/// One thread's part of a run.
#[derive(Debug)]
pub struct Engine<S> {
    plan: Arc<Plan>,
    part: Part,
    payload: Payload,
    stage: Stage,
    interrupted: bool,
    /// The reasons why connections never came up, one sentence a target.
    first_failures: Vec<(usize, String)>,
    /// True when an attempt failed for lack of something that may be available the next time.
    shortage: bool,
    /// The history of each target, in the order of the plan.
    targets: Vec<Target>,
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
    /// Who was read from in this group, in this order, with its bytes in the buffer.
    group: Vec<Member>,
    books: Books,
    evidence: Evidence,
    looks: Looks,
    /// Messages given to connections whose fate is open.
    outstanding: u64,
    /// The last reading of the clock.
    clock: Instant,
    turn_began: Instant,
    /// Something was done in this turn.
    busy: bool,
    look_next: Instant,
    presence: Presence,
    /// When the next timer for it is due; only a closed loop has one.
    presence_next: Option<Instant>,
    start: Option<Instant>,
    sending_ended: Option<Instant>,
    /// Whether all was sent that was to be.
    came_to_its_end: bool,
    first_verified: Option<Instant>,
    last_verified: Option<Instant>,
    verified_in_time: Option<u64>,
    /// Messages that were due and not settled, and those that were due in all, when the first
    /// quarter of the sending ended.
    first_quarter: (u64, u64),
    /// From the last quarter on.
    backlog: Option<Backlog>,
    /// When something last went forward: a connection came up, a byte of a reply arrived, a message
    /// went out while nothing was outstanding.
    last_progress: Instant,
    last_reply: Instant,
    /// The end of the wait for outstanding messages, once the timer for it has come.
    drain_end: Instant,
    drain_is_due: bool,
    /// The end of reading what came while the run was held up, once the timer has come.
    drain_grace: Option<Instant>,
    /// While connections are closed: the time of the last FIN, or of the last connection that
    /// ended.
    last_close: Instant,
    /// True when a connection has ended in this turn.
    has_closed: bool,
    /// True when the time for closing may be over, which is judged after this turn has handled its
    /// events.
    close_is_due: bool,
    told_until: Instant,
    tell_next: Instant,
    told: VecDeque<Interval>,
}

/// A connection between the rounds of its turn.
#[derive(Clone, Copy, Debug)]
struct Member {
    token: Token,
    /// Where in the buffer its bytes end; they begin where those of the one before end.
    end: usize,
    /// When they were read.
    at: Instant,
}

/// How far the looks have come.
#[derive(Clone, Copy, Debug)]
struct Looks {
    /// The line whose connection was sampled last.
    line: usize,
    /// Messages that were sent before this were examined, if they were under way for long.
    sent_before: Instant,
}

impl Looks {
    fn new(now: Instant) -> Looks {
        Looks {
            line: 0,
            sent_before: now,
        }
    }
}

/// A place for a connection.
#[derive(Debug)]
struct Line {
    token: Option<Token>,
    /// Messages it may still send in a closed loop.
    quota: u64,
    /// Attempts since a connection of this line was last up.
    failures: u16,
    has_been_up: bool,
}

impl Line {
    fn new(quota: u64) -> Line {
        Line {
            token: None,
            quota,
            failures: 0,
            has_been_up: false,
        }
    }
}

/// One connection and its socket. It is kept small: there may be very many.
#[derive(Debug)]
struct Peer<S> {
    socket: S,
    connection: Connection,
    line: u32,
    number: u32,
    phase: Phase,
    /// When this phase began.
    since: Instant,
    /// The counters of its TCP_INFO when that was last read.
    seen: Seen,
    /// Messages queued so far.
    messages: u64,
    /// Slots whose next message is not due yet.
    thinking: u32,
    /// The pacer knows that it is free.
    offered: bool,
}

impl<S> Peer<S> {
    /// How many more messages this connection may take.
    fn left(&self, plan: &Plan) -> u64 {
        let most = plan.churn.map_or(u64::MAX, |churn| churn.messages);
        most - self.messages
    }
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
    /// How it went.
    pub course: Course,
    /// The history of each target, in the order of the plan.
    pub targets: Vec<Target>,
}

impl<S: Socket> Engine<S> {
    /// A part of a run that has not begun.
    pub fn new<W: World<Socket = S>>(plan: Arc<Plan>, thread: u32, world: &mut W) -> Self {
        let now = world.now();
        world.set_timer(now + LOOK, Timer::Look);
        let part = plan.part(thread);
        let count = part.share(plan.connections.into()) as u32;
        let quota = |index| plan.quota(part.member(index)).unwrap_or(u64::MAX);
        let lines: Vec<Line> = (0..count).map(|index| Line::new(quota(index))).collect();
        let quotas = lines.iter().map(|line| line.quota);
        let mut payload = Payload::new(&plan.content, plan.seed, plan.sizes.smallest());
        if !plan.verify {
            payload = payload.unverified();
        }
        let window = (CONNECT_WINDOW / part.of as usize).max(1);
        Engine {
            payload,
            stage: Stage::Connecting,
            interrupted: false,
            first_failures: Vec::new(),
            shortage: false,
            targets: vec![Target::default(); plan.targets.len().max(1)],
            dialer: Dialer::new(now, plan.connect_rate, part, count, window),
            dial_again: true,
            dial_due: None,
            quota_left: quotas.fold(0u64, u64::saturating_add),
            lines,
            peers: Slots::default(),
            up: 0,
            down: 0,
            next_number: plan.connections.saturating_add(part.index),
            pacer: None,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            group: Vec::with_capacity(GROUP_CONNECTIONS),
            books: Books::new(now, plan.targets.len()),
            evidence: Evidence::default(),
            looks: Looks::new(now),
            outstanding: 0,
            clock: now,
            turn_began: now,
            busy: false,
            look_next: now + LOOK,
            presence: Presence::new(now, world.cpu()),
            presence_next: None,
            start: None,
            sending_ended: None,
            came_to_its_end: false,
            first_verified: None,
            last_verified: None,
            verified_in_time: None,
            first_quarter: (0, 0),
            backlog: None,
            last_progress: now,
            last_reply: now,
            drain_end: now,
            drain_is_due: false,
            drain_grace: None,
            last_close: now,
            has_closed: false,
            close_is_due: false,
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
        self.busy = false;
        let deadline = self.next_deadline();
        self.excuse_absence(deadline);
        // One that spins is awake already when something is due.
        let spun = if self.plan.spin { SPIN } else { Duration::ZERO };
        if self.is_under_way() && self.presence.wakes(self.clock, deadline - spun) {
            self.check_presence(world);
        }
        self.send_due(world);
    }

    /// The end of a turn: connections that spent their budget go on, others are opened, and what
    /// follows from all that happened is done.
    #[inline(always)]
    pub fn end_turn<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.finish_group(world);
        if self.peers.requeued() > 0 {
            self.serve_requeued(world);
        }
        if self.stage == Stage::Connecting {
            self.dial(world);
        }
        self.move_on(world);
        let mut ended = self.turn_began;
        if self.is_under_way() && self.busy {
            ended = world.now();
            let took = ended.saturating_duration_since(self.turn_began);
            self.evidence.turns.record(took);
            self.evidence.worked += took;
            if self.books.end_blocks(ended) {
                self.note_backlog(ended);
            }
        }
        self.presence.rests(ended);
    }

    /// Those who spent their budget, or have their first messages to send.
    #[inline(never)]
    fn serve_requeued<W: World<Socket = S>>(&mut self, world: &mut W) {
        for _ in 0..self.peers.requeued().min(TURN_CONNECTIONS) {
            if let Some(token) = self.peers.next_requeued() {
                self.busy = true;
                self.serve(world, token);
                self.send_due_by_now(world);
            }
        }
        self.finish_now(world);
    }

    /// A connection may be ready.
    #[inline(always)]
    pub fn on_io<W: World<Socket = S>>(&mut self, world: &mut W, token: Token, hints: Hints) {
        self.busy = true;
        if let Some(peer) = self.peers.get_mut(token) {
            peer.connection.note(hints);
            if !self.peers.is_requeued(token) {
                self.serve(world, token);
                self.send_due_by_now(world);
            }
        }
    }

    /// A timer is due.
    pub fn on_timer<W: World<Socket = S>>(&mut self, world: &mut W, timer: Timer) {
        self.busy = true;
        self.finish_now(world);
        match timer {
            Timer::Dial => {} // Dialling is done in every turn.
            Timer::Think(token, due) => self.think_over(world, token, due),
            Timer::Reopen(line) => self.reopen(world, line),
            Timer::Look => self.look(world),
            Timer::Presence => self.watch_presence(world),
            Timer::TimeOut => self.time_out(world),
            // One that was overtaken by the end of the run has nothing to tell.
            Timer::Interval if world.now() < self.tell_next => {}
            Timer::Interval => self.tell(world),
            Timer::RunEnd if self.stage == Stage::Running => {
                self.came_to_its_end = true;
                self.drain(world);
            }
            Timer::DrainEnd => self.drain_is_due = true,
            Timer::CloseEnd => self.close_is_due = true,
            Timer::FirstQuarterEnds => self.first_quarter = self.behind(world.now()),
            Timer::LastQuarterBegins => self.begin_last_quarter(world.now()),
            Timer::RunEnd => {}
        }
    }

    /// The first request ends the run in order, the second at once.
    pub fn on_stop<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.finish_now(world);
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
        let blocks_from = start + self.plan.warmup;
        self.pacer = Pacer::new(&self.plan, self.part, start);
        // A closed loop has no schedule that could wait for the others.
        let start = if self.pacer.is_some() { start } else { now };
        self.stage = Stage::Running;
        self.start = Some(start);
        self.last_progress = start;
        self.told_until = start;
        self.books.set_warm(start + self.plan.warmup, blocks_from);
        if let Stop::After(duration) = self.plan.stop {
            world.set_timer(start + duration, Timer::RunEnd);
        }
        if let Some(span) = self.plan.span().filter(|_| self.pacer.is_some()) {
            let quarter = span.saturating_sub(self.plan.warmup) / 4;
            let warm = start + self.plan.warmup;
            world.set_timer(warm + quarter, Timer::FirstQuarterEnds);
            world.set_timer(warm + quarter * 3, Timer::LastQuarterBegins);
        }
        if let Some(timeout) = self.plan.timeout {
            world.set_timer(start + timeout, Timer::TimeOut);
        }
        self.tell_next = self.next_interval(start);
        world.set_timer(self.tell_next, Timer::Interval);
        self.presence = Presence::new(now, world.cpu());
        if self.pacer.is_none() {
            self.watch_presence(world);
        }
        for line in 0..self.lines.len() {
            match self.lines[line].token {
                Some(token) if self.pacer.is_none() => self.peers.requeue(token),
                Some(token) => self.offer(token, start),
                None => self.reopen_later(world, line, now),
            }
        }
    }

    /// Returns why no connection of this thread can come up; `None` when one has been up, or when
    /// something was lacking that may be available the next time.
    pub fn unreachable(&self) -> Option<String> {
        if self.books.run.counts.opened > 0 || self.shortage {
            return None;
        }
        let why = self.first_failures.iter().map(|(_, why)| why.as_str());
        Some(why.collect::<Vec<_>>().join("; "))
    }

    /// Returns when its last FIN was sent, or its last connection ended, while it closes.
    pub fn last_close(&self) -> Instant {
        self.last_close
    }

    /// Takes note that another thread closed a connection at this time: the server is at work, and
    /// has not come to the connections of this thread yet.
    pub fn note_close(&mut self, at: Instant) {
        self.last_close = self.last_close.max(at);
    }

    /// An interval that is over.
    pub fn take_interval(&mut self) -> Option<Interval> {
        self.told.pop_front()
    }

    /// Returns the connections that are up, or those left to be closed, and the messages that were
    /// verified so far.
    pub fn progress(&self) -> (u32, u64) {
        let connections = match self.stage {
            Stage::Closing => self.peers.len() as u32,
            _ => self.up,
        };
        (connections, self.books.verified_so_far())
    }

    /// How it stands at `now`: what is due in the arithmetic of the schedule, and what is
    /// outstanding as counted from the connections themselves.
    pub fn identity(&mut self, now: Instant) -> Identity {
        let counts = self.books.counts();
        let (taken, waiting) = match &mut self.pacer {
            Some(pacer) => (pacer.taken(), pacer.waiting(now)),
            None => (counts.scheduled, 0),
        };
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

    /// Returns how many messages were due and are not settled, and how many were due in all, of a
    /// run with a rate.
    fn behind(&mut self, now: Instant) -> (u64, u64) {
        let Some(pacer) = &mut self.pacer else {
            return (0, 0);
        };
        let waiting = pacer.waiting(now);
        (self.outstanding + waiting, pacer.taken() + waiting)
    }

    fn begin_last_quarter(&mut self, now: Instant) {
        let ((first, due_first), (last, due)) = (self.first_quarter, self.behind(now));
        let due = due.saturating_sub(due_first);
        self.backlog = Some(Backlog { first, last, due });
    }

    fn note_backlog(&mut self, now: Instant) {
        if self.stage != Stage::Running || self.backlog.is_none() {
            return;
        }
        let (behind, _) = self.behind(now);
        if let Some(backlog) = &mut self.backlog {
            backlog.last = backlog.last.min(behind);
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
    pub fn finish(mut self) -> Done {
        self.books.take_recent();
        for (target, tally) in self.targets.iter_mut().zip(self.books.take_tallies()) {
            target.tally = tally;
        }
        let lines_up = self.lines.iter().filter(|line| line.has_been_up).count();
        let warm = self.books.warm();
        let since_warm = |at: Option<Instant>| match (self.start, at) {
            (Some(_), Some(at)) => at.saturating_duration_since(warm),
            _ => Duration::ZERO,
        };
        // A schedule is as long as it says, however late a timer ended it; its last message has a
        // gap behind it as every other one.
        let span = self.plan.span().filter(|_| self.came_to_its_end);
        let span = span.map(|span| span.saturating_sub(self.plan.warmup));
        let sending = span.unwrap_or_else(|| since_warm(self.sending_ended));
        let verified = self.books.verified_so_far();
        let replying = match (self.first_verified, self.last_verified) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        };
        self.evidence.absences = self.presence.finish();
        Done {
            evidence: self.evidence,
            course: Course {
                lines_up: lines_up as u32,
                sending,
                elapsed: sending.max(replying),
                verified_in_time: self.verified_in_time.unwrap_or(verified),
                backlog: self.backlog,
                interrupted: self.interrupted,
                start: self.start,
            },
            books: self.books,
            targets: self.targets,
        }
    }

    /// The loop is woken by what is due and by the next look at the latest. If it comes later, it
    /// was itself away meanwhile, and cannot say that nobody answered.
    fn excuse_absence(&mut self, deadline: Instant) {
        let away = self.clock.saturating_duration_since(deadline);
        self.last_reply = (self.last_reply + away).min(self.clock);
    }

    /// Returns when the wait for events was to end at the latest.
    fn next_deadline(&self) -> Instant {
        let deadlines = [self.next_due(), self.presence_next];
        deadlines
            .into_iter()
            .flatten()
            .fold(self.look_next, Instant::min)
    }

    /// Returns the place in the plan of the target of a line.
    #[inline(always)]
    fn place_of(&self, line: u32) -> usize {
        self.plan.target_of(self.part.member(line))
    }

    /// Whether lines that have no connection are to get one.
    fn wants_connections(&self) -> bool {
        let pacer = self.pacer.as_ref();
        match self.stage {
            Stage::Running => true,
            Stage::Draining => pacer.is_some_and(|pacer| !pacer.is_exhausted()),
            _ => false,
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

impl<S: Socket> Engine<S> {
    /// The transitions that follow from what a turn brought.
    fn move_on<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.stage == Stage::Connecting && self.dialer.is_finished() {
            self.stage = Stage::Ready;
            self.last_progress = world.now();
        }
        match self.stage {
            Stage::Running if self.is_finished() => {
                self.came_to_its_end = matches!(self.plan.stop, Stop::Messages(_));
                self.close(world);
            }
            Stage::Draining if self.is_settled() => self.close(world),
            Stage::Draining if std::mem::take(&mut self.drain_is_due) => self.end_drain(world),
            _ => {}
        }
        if self.stage == Stage::Closing {
            self.close_on(world);
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
        self.books.stop_blocks();
        self.verified_in_time = Some(self.books.verified_so_far());
        self.drain_end = now + self.plan.drain;
        world.set_timer(self.drain_end, Timer::DrainEnd);
        if let Some(pacer) = &mut self.pacer {
            return pacer.cut(now);
        }
        // What has not begun to be sent in a closed loop is not sent any more, and was never due.
        let (books, outstanding) = (&mut self.books, &mut self.outstanding);
        for peer in self.peers.iter_mut() {
            let target = self.plan.target_of(self.part.member(peer.line));
            peer.connection.withdraw(|message| {
                *outstanding -= 1;
                books.withdrawn(message, target);
            });
        }
    }

    /// Ends the wait for outstanding messages. A run that was held up itself first reads what has
    /// come meanwhile: as long as each turn brings some of it, and no longer than it was held up.
    fn end_drain<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        let late = self.turn_began.saturating_duration_since(self.drain_end);
        let grace = *self.drain_grace.get_or_insert(self.turn_began + late);
        if self.last_reply > self.turn_began && now < grace {
            world.set_timer(now, Timer::DrainEnd);
        } else {
            self.close(world);
        }
    }

    /// Settles every message, and closes in order: our FIN first, then the server's.
    fn close<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        self.conclude_targets(now);
        if self.is_under_way() {
            self.check_presence(world);
            self.presence_next = None;
            self.sending_ended.get_or_insert(now);
            self.settle(now);
        }
        self.stage = Stage::Closing;
        for line in 0..self.lines.len() {
            let Some(token) = self.lines[line].token else {
                continue;
            };
            let Some(peer) = self.peers.get_mut(token) else {
                continue;
            };
            match peer.phase {
                Phase::Connecting => {
                    self.remove(token);
                }
                Phase::Closing => {}
                Phase::Up => match self.send_fin(token, now) {
                    Ok(()) => self.peers.requeue(token),
                    Err(error) => self.end(token, Some(ErrorKind::at(Step::Finish, &error))),
                },
            }
        }
        // Counting a long row of messages takes a while, and so does sending many a FIN.
        self.last_close = world.now();
        let end = self.last_close + self.plan.close_patience();
        world.set_timer(end, Timer::CloseEnd);
    }

    /// Continues closing while connections end. It is given up when none has ended for a while,
    /// which is judged after all events of a turn: a run that got no CPU must not conclude that the
    /// server did not close.
    fn close_on<W: World<Socket = S>>(&mut self, world: &mut W) {
        if std::mem::take(&mut self.has_closed) {
            self.last_close = world.now();
        }
        if std::mem::take(&mut self.close_is_due) {
            let end = self.last_close + self.plan.close_patience();
            match end > world.now() {
                true => world.set_timer(end, Timer::CloseEnd),
                false => self.give_up_closing(),
            }
        }
        if self.peers.is_empty() {
            self.stage = Stage::Done;
        }
    }

    /// Records the state of the targets before the run closes its connections.
    fn conclude_targets(&mut self, now: Instant) {
        let mut waiting: Vec<Option<Waiting>> = vec![None; self.targets.len()];
        for peer in self.peers.iter().filter(|peer| peer.phase == Phase::Up) {
            let place = self.place_of(peer.line);
            let Some(oldest) = peer.connection.messages().map(|message| message.due).min() else {
                continue;
            };
            let all = waiting[place].get_or_insert(Waiting {
                oldest,
                messages: 0,
                mute: Some(0),
            });
            all.oldest = all.oldest.min(oldest);
            all.messages += peer.connection.messages().count() as u64;
            let is_mute = !peer.connection.has_replies();
            all.mute = all.mute.filter(|_| is_mute).map(|mute| mute + 1);
        }
        for (target, waiting) in self.targets.iter_mut().zip(waiting) {
            target.conclude(now, waiting);
        }
    }

    /// What is outstanding now is unanswered for good.
    fn settle(&mut self, now: Instant) {
        self.end_silence(now);
        if let Some(pacer) = &mut self.pacer {
            pacer.cut(now);
        }
        self.end_due_by(now, Loss::Unanswered, now);
        let interval = self.interval(now);
        self.told.push_back(interval);
    }

    /// Ends the interval.
    fn tell<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        let now = world.now();
        loop {
            let interval = self.interval(now);
            self.told.push_back(interval);
            self.told_until = now;
            self.tell_next = self.next_interval(self.tell_next.min(now));
            // All threads tell the same row of intervals, also one that slept through some.
            if self.tell_next > now {
                break;
            }
        }
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

    /// Adds the time since the last check to the account of this thread's time, and sets the timer
    /// for the next check.
    fn watch_presence<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        self.check_presence(world);
        let next = world.now() + CHECK;
        self.presence_next = Some(next);
        world.set_timer(next, Timer::Presence);
    }

    #[inline(never)]
    fn check_presence<W: World<Socket = S>>(&mut self, world: &W) {
        let (now, cpu) = (world.now(), world.cpu());
        // Those that wait for a connection are held up as well: what would free one is not read.
        let waiting = self.pacer.as_mut().map_or(0, |pacer| pacer.waiting(now));
        self.presence.check(now, cpu, self.outstanding + waiting);
    }

    /// Looks over all connections for what has become too old.
    fn look<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        match self.stage {
            Stage::Connecting | Stage::Ready => self.give_up_connecting(world, now),
            Stage::Running | Stage::Draining => {
                self.check_presence(world);
                self.sample_paths(now);
                self.look_for_unacknowledged(now);
                self.look_at_peers(world, now);
                if self.is_stuck(now) {
                    self.drain(world);
                }
            }
            Stage::Closing | Stage::Done => return,
        }
        self.look_next = now + LOOK;
        world.set_timer(self.look_next, Timer::Look);
    }

    /// In a run that waits for a number of messages: whether it waits in vain.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let silent = now.saturating_duration_since(self.last_progress) >= PATIENCE;
        let total = matches!(self.plan.stop, Stop::Messages(_));
        if self.stage != Stage::Running || !total || !silent {
            return false;
        }
        let oldest = self.pacer.as_ref().and_then(Pacer::oldest);
        let waits = oldest.is_some_and(|due| now.saturating_duration_since(due) >= PATIENCE);
        let thinks = self.peers.iter().any(|peer| peer.thinking > 0);
        let has_more = self.pacer.is_none() && self.quota_left > 0 && !thinks;
        self.outstanding > 0 || waits || has_more || self.up == 0
    }
}
