//! The engine of the load generator: the state machine of one thread of a run. Pure: clock, sockets
//! and timers are an argument, so the same code runs on the kernel and, in virtual time, on the
//! simulated network of the tests.
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
//! In a turn, messages that are due are sent first. Then events are handled, and between two events
//! messages that have become due are sent. Then connections that spent their budget continue. The
//! clock is read before every send and after every read that returned bytes. One reading per turn
//! would not suffice: in a batch of a thousand events, it would be a millisecond old at the last of
//! them.
//!
//! Connections are served in groups, in three rounds: all are read from, then the replies of all
//! are recorded, then all send the messages that became due by that. So a reply waits only for
//! other reads before it is read, and not for sends, which take longer; this wait counts as time of
//! the server. A message of a closed loop waits for the third round instead, and this wait counts
//! as time of the run itself. Groups also take less CPU time, for the reason given in
//! `server/engine/serving.rs`. A group completes its three rounds before the engine does any other
//! work.
//!
//! A *line* is a slot for a connection: when the connection breaks, or is replaced on purpose,
//! another takes its place. A line is given up for good when its server sent a wrong reply.
//!
//! Invariant at any time, with the left side computed from the schedule and the right side from the
//! state of the connections:
//! due by now = verified + mismatched + errored + timed out + unanswered + outstanding.

pub mod connection;
mod connections;
pub mod dialer;
pub mod inline_queue;
pub mod kernel;
mod messages;
pub mod pacer;
mod paths;
pub mod presence;
pub mod profile_stages;
mod stages;
pub mod world;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::engine::connection::Connection;
use crate::load::engine::dialer::Dialer;
use crate::load::engine::pacer::Pacer;
use crate::load::engine::presence::{CHECK, Exposed, Presence};
use crate::load::engine::profile_stages::ProfileStages;
use crate::load::engine::world::{Socket, Timer, World};
use crate::load::plan::payload::Payload;
use crate::load::plan::schedule::Part;
use crate::load::plan::{
    CONNECT_WINDOW, GROUP_CONNECTIONS, PROGRESS_TIMEOUT, Plan, SCAN_PERIOD, SCRATCH_BYTES, SPIN,
    Stop, TURN_CONNECTIONS,
};
use crate::load::results::evidence::{Evidence, LastSample};
use crate::load::results::recorder::{Identity, Interval, Recorder, Tag, TimesSoFar};
use crate::load::results::stages::StageResult;
use crate::load::results::step::Step;
use crate::load::results::targets::{Target, Waiting};
use crate::load::results::{Backlog, ErrorKind, Loss, RunTimes};
use crate::reactor::Wait;
use crate::reactor::slots::{Slots, Token};
use crate::stream::Hints;

/// The state of one thread's part of a run.
#[derive(Debug)]
pub struct Engine<S> {
    plan: Arc<Plan>,
    part: Part,
    payload: Payload,
    stage: Stage,
    interrupted: bool,
    /// The reasons why no connection came up, one sentence per target, with the index of the
    /// target.
    first_failures: Vec<(usize, String)>,
    /// Whether an attempt failed for lack of a resource that may be available the next time.
    shortage: bool,
    /// The history of each target, in the order of the plan.
    targets: Vec<Target>,
    dialer: Dialer,
    /// Whether more connections are due than one turn may open.
    dial_again: bool,
    /// The time at which the next connection is due, once a timer is set for it.
    dial_due: Option<Instant>,
    lines: Vec<Line>,
    /// The sum of the quotas of the lines, in a closed loop with a total number of messages.
    quota_left: u64,
    peers: Slots<Peer<S>>,
    /// Number of connections that are up.
    up: u32,
    /// Number of lines that wait to be reopened.
    down: usize,
    /// The number of the next connection that replaces another one.
    next_number: u32,
    pacer: Option<Pacer>,
    /// The buffer that all reads and writes share.
    scratch: Box<[u8]>,
    /// The connections of the current group, in the order in which they were read from, with the
    /// position of their bytes in the buffer.
    group: Vec<Member>,
    recorder: Recorder,
    /// The evidence of the run, or of the current stage of its profile; the silences are always
    /// those of the run.
    evidence: Evidence,
    /// The stages of the profile; `None` before the start, and without a profile.
    profile_stages: Option<Box<ProfileStages>>,
    scan_state: ScanState,
    /// Number of messages that were given to connections and have no outcome.
    outstanding: u64,
    /// The last reading of the clock.
    clock: Instant,
    turn_began: Instant,
    /// Whether something was done in this turn.
    busy: bool,
    next_scan: Instant,
    presence: Presence,
    /// The time at which the next timer for `presence` is due; only a closed loop has one.
    presence_next: Option<Instant>,
    start: Option<Instant>,
    sending_ended: Option<Instant>,
    /// Whether sending ended at the planned time or number of messages.
    completed: bool,
    first_verified: Option<Instant>,
    last_verified: Option<Instant>,
    verified_in_time: Option<u64>,
    /// The number of messages that were due without an outcome, and of all that were due, when the
    /// first quarter of the sending ended.
    first_quarter: (u64, u64),
    /// The backlog; `None` before the last quarter of the sending.
    backlog: Option<Backlog>,
    /// The time of the last progress: an attempt to connect was started before the run, a
    /// connection came up, a byte of a reply arrived, or a message was queued while nothing was
    /// outstanding.
    last_progress: Instant,
    last_reply: Instant,
    /// The end of the wait for outstanding messages.
    drain_end: Instant,
    drain_is_due: bool,
    /// The end of reading replies that arrived while the run itself was delayed, once the wait for
    /// outstanding messages has ended.
    drain_grace: Option<Instant>,
    /// The time of the last FIN that was sent, or of the last connection that ended, while
    /// connections are closed.
    last_close: Instant,
    /// Whether a connection has ended in this turn.
    has_closed: bool,
    /// Whether the timer for closing is due. The timeout is checked after this turn has handled its
    /// events.
    close_is_due: bool,
    reported_until: Instant,
    next_report: Instant,
    intervals: VecDeque<Interval>,
}

/// A connection between the rounds of its turn.
#[derive(Clone, Copy, Debug)]
struct Member {
    token: Token,
    /// The offset in the buffer at which its bytes end; they begin where those of the member before
    /// end.
    end: usize,
    /// The time at which they were read.
    at: Instant,
}

/// The positions of the periodic scans of connections.
#[derive(Clone, Copy, Debug)]
struct ScanState {
    /// The line whose connection was sampled last.
    line: usize,
    /// The send time before which messages have been scanned for missing acknowledgments.
    sent_before: Instant,
}

impl ScanState {
    fn new(now: Instant) -> ScanState {
        ScanState {
            line: 0,
            sent_before: now,
        }
    }
}

/// A slot for a connection.
#[derive(Debug)]
struct Line {
    token: Option<Token>,
    /// Number of messages that it may still send in a closed loop.
    quota: u64,
    /// Number of failures since the last reply on this line.
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

/// One connection and its socket. It is kept small, since there may be very many.
#[derive(Debug)]
struct Peer<S> {
    socket: S,
    connection: Connection,
    line: u32,
    number: u32,
    phase: Phase,
    /// The time at which this phase began.
    since: Instant,
    /// The counters of its TCP_INFO when that was last read.
    seen: LastSample,
    /// Number of messages queued so far.
    messages: u64,
    /// Number of messages of a closed loop whose think time is not over.
    thinking: u32,
    /// Whether it is among the free connections of the pacer.
    offered: bool,
}

impl<S> Peer<S> {
    /// Returns how many more messages this connection may take.
    fn left(&self, plan: &Plan) -> u64 {
        let most = plan.churn.map_or(u64::MAX, |churn| churn.messages);
        most - self.messages
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Up,
    /// Our FIN is sent, and the server's is awaited.
    Closing,
}

/// The stage of a thread's part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Connections are being opened.
    Connecting,
    /// All connections are up or have failed: the run can start.
    Ready,
    /// Messages are sent, and replies are received.
    Running,
    /// No new message is due; outstanding ones are awaited.
    Draining,
    /// Connections are being closed.
    Closing,
    /// All connections are closed.
    Done,
}

/// The result of one thread.
#[derive(Debug)]
pub struct ThreadResult {
    /// The results of messages and connections.
    pub recorder: Recorder,
    /// The measurements of the thread itself and of the network.
    pub evidence: Evidence,
    /// The durations and the end of the run.
    pub times: RunTimes,
    /// The history of each target, in the order of the plan.
    pub targets: Vec<Target>,
    /// The results of the stages of the profile; empty without one.
    pub stages: Vec<StageResult>,
}

impl<S: Socket> Engine<S> {
    /// Creates the engine of one thread, in the stage [`Stage::Connecting`].
    pub fn new<W: World<Socket = S>>(plan: Arc<Plan>, thread: u32, world: &mut W) -> Self {
        let now = world.now();
        world.set_timer(now + SCAN_PERIOD, Timer::Scan);
        let part = plan.part(thread);
        let count = part.share(plan.connections.into()) as u32;
        let quota = |index| plan.quota(part.member(index)).unwrap_or(u64::MAX);
        let lines: Vec<Line> = (0..count).map(|index| Line::new(quota(index))).collect();
        let quotas = lines.iter().map(|line| line.quota);
        let payload = Payload::new(&plan.content, plan.seed, plan.sizes.smallest());
        let payload = payload.expecting(plan.expect);
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
            recorder: Recorder::new(now, plan.targets.len()),
            evidence: Evidence::default(),
            profile_stages: None,
            scan_state: ScanState::new(now),
            outstanding: 0,
            clock: now,
            turn_began: now,
            busy: false,
            next_scan: now + SCAN_PERIOD,
            presence: Presence::new(now, world.cpu()),
            presence_next: None,
            start: None,
            sending_ended: None,
            completed: false,
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
            reported_until: now,
            next_report: now,
            intervals: VecDeque::new(),
            part,
            plan,
        }
    }

    /// Returns the stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns how long the next turn may wait for events.
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

    /// Begins a turn: sends the messages that are due, before anything is read.
    pub fn begin_turn<W: World<Socket = S>>(&mut self, world: &mut W) {
        self.turn_began = world.now();
        self.clock = self.turn_began;
        self.busy = false;
        let deadline = self.next_deadline();
        self.excuse_absence(deadline);
        // A thread that spins ends its wait `SPIN` before the deadline.
        let spun = if self.plan.spin { SPIN } else { Duration::ZERO };
        if self.is_under_way() && self.presence.end_wait(self.clock, deadline - spun) {
            self.check_presence(world);
        }
        self.send_due(world);
    }

    /// Ends a turn: continues connections that spent their budget, opens connections that are due,
    /// and changes the stage if necessary.
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
            if self.recorder.end_blocks(ended) {
                self.note_backlog(ended);
            }
        }
        let read = self.recorder.verified_so_far();
        self.presence.begin_wait(ended, read);
    }

    /// Serves the connections that spent their budget, or have their first messages to send.
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

    /// Handles an event of a connection.
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

    /// Handles a timer that is due.
    pub fn on_timer<W: World<Socket = S>>(&mut self, world: &mut W, timer: Timer) {
        self.busy = true;
        self.finish_now(world);
        match timer {
            Timer::Dial => {} // `end_turn` opens connections in every turn.
            Timer::Think(token, due) => self.think_over(world, token, due),
            Timer::Reopen(line) => self.reopen(world, line),
            Timer::Scan => self.scan(world),
            Timer::Presence => self.watch_presence(world),
            Timer::TimeOut => self.time_out(world),
            // The end of the run has ended this interval before its timer.
            Timer::Interval if world.now() < self.next_report => {}
            Timer::Interval => self.end_interval(world),
            Timer::RunEnd if self.stage == Stage::Running => {
                self.completed = true;
                self.drain(world);
            }
            Timer::DrainEnd => self.drain_is_due = true,
            Timer::CloseEnd => self.close_is_due = true,
            Timer::FirstQuarterEnds => self.first_quarter = self.behind(world.now()),
            Timer::LastQuarterBegins => self.begin_last_quarter(world.now()),
            Timer::StageEnd => self.end_stages(world),
            Timer::StagePaths => self.count_stage_paths(world),
            Timer::RunEnd => {}
        }
    }

    /// Handles a request to stop: the first ends the run in order, the second at once.
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

    /// Starts the run, once all connections that could be opened are up. Messages are due from
    /// `start` on.
    pub fn start<W: World<Socket = S>>(&mut self, world: &mut W, start: Instant) {
        if self.stage != Stage::Ready {
            return;
        }
        let now = world.now();
        let blocks_from = start + self.plan.warmup;
        self.pacer = Pacer::new(&self.plan, self.part, start);
        // A closed loop has no schedule that must begin at the same time in all threads.
        let start = if self.pacer.is_some() { start } else { now };
        self.stage = Stage::Running;
        self.start = Some(start);
        self.last_progress = start;
        self.reported_until = start;
        self.recorder
            .set_warmup_end(start + self.plan.warmup, blocks_from);
        if let Stop::After(duration) = self.plan.stop {
            world.set_timer(start + duration, Timer::RunEnd);
        }
        if self.plan.profile.is_some() {
            self.begin_stages(world, start);
        } else if let Some(span) = self.plan.span().filter(|_| self.pacer.is_some()) {
            self.watch_backlog(world, start + self.plan.warmup, start + span);
        }
        if let Some(timeout) = self.plan.timeout {
            world.set_timer(start + timeout, Timer::TimeOut);
        }
        self.next_report = self.next_interval(start);
        world.set_timer(self.next_report, Timer::Interval);
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

    /// Returns why no connection of this thread can be opened; `None` when one has been up, or when
    /// an attempt failed for lack of a resource that may be available the next time.
    pub fn unreachable(&self) -> Option<String> {
        if self.recorder.run.counts.opened > 0 || self.shortage {
            return None;
        }
        let why = self.first_failures.iter().map(|(_, why)| why.as_str());
        Some(why.collect::<Vec<_>>().join("; "))
    }

    /// Returns when the last FIN was sent, or the last connection ended, in the stage
    /// [`Stage::Closing`].
    pub fn last_close(&self) -> Instant {
        self.last_close
    }

    /// Records that another thread closed a connection at this time, which extends the timeout for
    /// closing: the server is working, and has not handled the connections of this thread yet.
    pub fn note_close(&mut self, at: Instant) {
        self.last_close = self.last_close.max(at);
    }

    /// Returns the oldest interval that is over and was not taken.
    pub fn take_interval(&mut self) -> Option<Interval> {
        self.intervals.pop_front()
    }

    /// Returns the number of connections that are up, or that are left to be closed, and the number
    /// of messages that were verified so far.
    pub fn progress(&self) -> (u32, u64) {
        let connections = match self.stage {
            Stage::Closing => self.peers.len() as u32,
            _ => self.up,
        };
        (connections, self.recorder.verified_so_far())
    }

    /// Returns the counts at `now`. The messages that are due are computed from the schedule, and
    /// the outstanding ones are counted on the connections.
    pub fn identity(&mut self, now: Instant) -> Identity {
        let counts = self.recorder.counts();
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

    /// Returns the number of messages that are due without an outcome, and of all that were due, in
    /// an open loop; zeros in a closed loop.
    fn behind(&mut self, now: Instant) -> (u64, u64) {
        let Some(pacer) = &mut self.pacer else {
            return (0, 0);
        };
        let waiting = pacer.waiting(now);
        (self.outstanding + waiting, pacer.taken() + waiting)
    }

    /// Sets the timers that measure the growth of the backlog between two times.
    fn watch_backlog<W: World<Socket = S>>(&self, world: &mut W, from: Instant, to: Instant) {
        let quarter = to.saturating_duration_since(from) / 4;
        world.set_timer(from + quarter, Timer::FirstQuarterEnds);
        world.set_timer(from + quarter * 3, Timer::LastQuarterBegins);
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

    /// Returns all times so far, for a run whose intervals report them.
    fn times_so_far(&mut self) -> Option<Arc<TimesSoFar>> {
        let times = self.plan.record.then(|| self.recorder.times_so_far());
        times.map(Arc::new)
    }

    /// Returns the interval that ends now, with all times so far.
    fn interval(&mut self, now: Instant, times: Option<Arc<TimesSoFar>>) -> Interval {
        let start = self.start.unwrap_or(now);
        let (from, to) = (self.reported_until, now.max(self.reported_until));
        let response = self.recorder.take_recent();
        Interval {
            tag: match self.stage {
                Stage::Running if from < self.recorder.warmup_end() => Tag::Warmup,
                Stage::Running => Tag::Run,
                _ => Tag::Drain,
            },
            from: from.saturating_duration_since(start),
            to: to.saturating_duration_since(start),
            stage: self.stage_at(from),
            up: self.up,
            identity: self.identity(now),
            response,
            warmup: self.recorder.warmup.counts,
            errors: self.recorder.errors(),
            targets: self.recorder.counts_of_targets(),
            times,
        }
    }

    /// Returns the result of the thread.
    pub fn finish(mut self) -> ThreadResult {
        self.recorder.take_recent();
        for (target, tally) in self.targets.iter_mut().zip(self.recorder.take_tallies()) {
            target.tally = tally;
        }
        let lines_up = self.lines.iter().filter(|line| line.has_been_up).count();
        let warmup_end = self.recorder.warmup_end();
        let since_warmup = |at: Option<Instant>| match (self.start, at) {
            (Some(_), Some(at)) => at.saturating_duration_since(warmup_end),
            _ => Duration::ZERO,
        };
        // A schedule counts with its planned length, however late a timer ended it. That includes
        // the gap after its last message.
        let span = self.plan.span().filter(|_| self.completed);
        let span = span.map(|span| span.saturating_sub(self.plan.warmup));
        let sending = span.unwrap_or_else(|| since_warmup(self.sending_ended));
        let verified = self.recorder.verified_so_far();
        let replying = match (self.first_verified, self.last_verified) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        };
        self.evidence.absences = self.presence.finish();
        let mut times = RunTimes {
            lines_up: lines_up as u32,
            sending,
            elapsed: sending.max(replying),
            verified_in_time: self.verified_in_time.unwrap_or(verified),
            backlog: self.backlog,
            interrupted: self.interrupted,
            start: self.start,
        };
        let stages = self.profile_stages.take();
        let stages = stages.map(|stages| {
            let ended = self.sending_ended.filter(|_| !self.completed);
            let recorded = std::mem::take(self.recorder.stages());
            stages.finish(&mut self.evidence, &mut times, recorded, ended)
        });
        ThreadResult {
            evidence: self.evidence,
            times,
            recorder: self.recorder,
            targets: self.targets,
            stages: stages.unwrap_or_default(),
        }
    }

    /// Moves the time of the last reply forward by the time for which this turn began after
    /// `deadline`. The event loop wakes up at the deadline at the latest. If it began later, the
    /// thread was not running, and may have missed replies that arrived.
    fn excuse_absence(&mut self, deadline: Instant) {
        let away = self.clock.saturating_duration_since(deadline);
        self.last_reply = (self.last_reply + away).min(self.clock);
    }

    /// Returns the time at which the wait for events should end at the latest.
    fn next_deadline(&self) -> Instant {
        let deadlines = [self.next_due(), self.presence_next];
        deadlines
            .into_iter()
            .flatten()
            .fold(self.next_scan, Instant::min)
    }

    /// Returns the index in the plan of the target of a line.
    #[inline(always)]
    fn place_of(&self, line: u32) -> usize {
        self.plan.target_of(self.part.member(line))
    }

    /// Returns whether lines without a connection are to be reopened.
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

    /// Returns when the next message is due that has a free connection.
    fn next_due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running | Stage::Draining => self.pacer.as_ref()?.next_due(),
            _ => None,
        }
    }
}

impl<S: Socket> Engine<S> {
    /// Changes the stage if the events of the turn require it.
    fn move_on<W: World<Socket = S>>(&mut self, world: &mut W) {
        if self.stage == Stage::Connecting && self.dialer.is_finished() {
            self.stage = Stage::Ready;
            self.last_progress = world.now();
        }
        match self.stage {
            Stage::Running if self.is_finished() => {
                self.completed = matches!(self.plan.stop, Stop::Messages(_));
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

    /// Returns whether every message that was due has an outcome.
    fn is_settled(&self) -> bool {
        let exhausted = self.pacer.as_ref().is_none_or(Pacer::is_exhausted);
        self.outstanding == 0 && exhausted
    }

    /// Returns whether the run is over before its time: all messages of a total have an outcome, or
    /// all lines were given up.
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

    /// Begins the stage [`Stage::Draining`]: no new message is due, and outstanding ones are
    /// awaited for a limited time.
    fn drain<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        self.end_interval(world);
        self.stage = Stage::Draining;
        self.sending_ended = Some(now);
        self.recorder.stop_blocks();
        self.verified_in_time = Some(self.recorder.verified_so_far());
        self.drain_end = now + self.plan.drain;
        world.set_timer(self.drain_end, Timer::DrainEnd);
        if let Some(pacer) = &mut self.pacer {
            return pacer.cut(now);
        }
        // Messages of a closed loop of which no byte was sent are withdrawn: they do not count as
        // due.
        let (recorder, outstanding) = (&mut self.recorder, &mut self.outstanding);
        for peer in self.peers.iter_mut() {
            let target = self.plan.target_of(self.part.member(peer.line));
            peer.connection.withdraw(|message| {
                *outstanding -= 1;
                recorder.withdrawn(message, target);
            });
        }
    }

    /// Ends the wait for outstanding messages. If the thread woke up late, it first reads the
    /// replies that arrived during the delay: as long as each turn reads some, and at most for the
    /// length of the delay.
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

    /// Ends every message, and begins to close the connections in order: our FIN first, then the
    /// server's.
    fn close<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        if self.is_under_way() {
            self.check_presence(world);
        }
        self.conclude_targets(now);
        if self.is_under_way() {
            self.presence.end();
            self.presence_next = None;
            self.sending_ended.get_or_insert(now);
            self.settle(now);
        }
        self.stage = Stage::Closing;
        self.recorder.stages().enter(None);
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
        // Read anew, since ending many messages and sending many FINs takes some time.
        self.last_close = world.now();
        let end = self.last_close + self.plan.close_timeout();
        world.set_timer(end, Timer::CloseEnd);
    }

    /// Continues the stage [`Stage::Closing`]. Connections that are left are given up when none has
    /// ended for a timeout. This is checked after all events of a turn, so that a thread that was
    /// not running does not conclude that the server did not close.
    fn close_on<W: World<Socket = S>>(&mut self, world: &mut W) {
        if std::mem::take(&mut self.has_closed) {
            self.last_close = world.now();
        }
        if std::mem::take(&mut self.close_is_due) {
            let end = self.last_close + self.plan.close_timeout();
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
            if let Some(silence) = &mut target.silence {
                silence.absent = self.presence.absent_since(silence.from);
            }
        }
    }

    /// Counts all outstanding messages as unanswered, and ends the last interval.
    fn settle(&mut self, now: Instant) {
        self.end_silence(now);
        if let Some(pacer) = &mut self.pacer {
            pacer.cut(now);
        }
        self.end_due_by(now, Loss::Unanswered, now);
        let times = self.times_so_far();
        let interval = self.interval(now, times);
        self.intervals.push_back(interval);
    }

    /// Ends the current interval, and sets the timer for the next.
    fn end_interval<W: World<Socket = S>>(&mut self, world: &mut W) {
        if !self.is_under_way() {
            return;
        }
        let now = world.now();
        // After a stop of the process there are many intervals at once, which share the times.
        let times = self.times_so_far();
        loop {
            let interval = self.interval(now, times.clone());
            self.intervals.push_back(interval);
            self.reported_until = now;
            self.next_report = self.next_interval(self.next_report.min(now));
            // All threads must return the same number of intervals, even a thread that was not
            // running during some of them.
            if self.next_report > now {
                break;
            }
        }
        world.set_timer(self.next_report, Timer::Interval);
    }

    /// Returns the end of the interval that begins now. An interval ends at the end of the warm-up,
    /// and at the end of a stage of the profile.
    fn next_interval(&self, now: Instant) -> Instant {
        let start = self.start.unwrap_or(now);
        let interval = self.plan.interval.as_nanos().max(1);
        let past = now.saturating_duration_since(start).as_nanos() / interval;
        let next = Duration::from_nanos(u64::try_from((past + 1) * interval).unwrap_or(u64::MAX));
        let stages = self.profile_stages.as_ref();
        let stage_end = stages.and_then(|stages| stages.end_after(now));
        let next = stage_end.map_or(start + next, |end| end.min(start + next));
        let warmup_end = self.recorder.warmup_end();
        if now < warmup_end {
            next.min(warmup_end)
        } else {
            next
        }
    }

    /// Adds the time since the last check to the record of this thread's absences, and sets the
    /// timer for the next check.
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
        let exposed = Exposed {
            read: self.recorder.verified_so_far(),
            outstanding: self.outstanding,
            waiting: self.pacer.as_mut().map_or(0, |pacer| pacer.waiting(now)),
        };
        self.presence.check(now, cpu, exposed);
    }

    /// Carries out the periodic scan: samples paths, and gives up what has exceeded its timeout.
    fn scan<W: World<Socket = S>>(&mut self, world: &mut W) {
        let now = world.now();
        match self.stage {
            Stage::Connecting | Stage::Ready => self.give_up_connecting(world, now),
            Stage::Running | Stage::Draining => {
                self.check_presence(world);
                self.sample_paths(now);
                self.scan_unacknowledged(now);
                self.scan_connections(world, now);
                if self.is_stuck(now) {
                    self.drain(world);
                }
            }
            Stage::Closing | Stage::Done => return,
        }
        self.next_scan = now + SCAN_PERIOD;
        world.set_timer(self.next_scan, Timer::Scan);
    }

    /// Returns whether a run with a total number of messages has made no progress for
    /// [`PROGRESS_TIMEOUT`], although messages or connections are awaited.
    fn is_stuck(&mut self, now: Instant) -> bool {
        let silent = now.saturating_duration_since(self.last_progress) >= PROGRESS_TIMEOUT;
        let total = matches!(self.plan.stop, Stop::Messages(_));
        if self.stage != Stage::Running || !total || !silent {
            return false;
        }
        let oldest = self.pacer.as_ref().and_then(Pacer::oldest);
        let waits =
            oldest.is_some_and(|due| now.saturating_duration_since(due) >= PROGRESS_TIMEOUT);
        let thinks = self.peers.iter().any(|peer| peer.thinking > 0);
        let has_more = self.pacer.is_none() && self.quota_left > 0 && !thinks;
        self.outstanding > 0 || waits || has_more || self.up == 0
    }
}
