//! The load generator's loop: one thread, one reactor, many verified connections.
//!
//! ```text
//!   Connecting ── all up, or given up ──► Running ── time is over ──► Draining
//!       │                                    │                           │
//!       │                                    │ nothing is outstanding    │ the same, or given up
//!       │ a request to stop                  ▼                           │
//!       └────────────────────────────────► Closing ◄─────────────────────┘
//!                                             │ all closed, or given up
//!                                             ▼
//!                                            Done
//! ```
//!
//! A closed loop: each connection keeps `depth` messages in flight, and the next one is due when a
//! reply has been read in full. The clock is read after every read that brought bytes and never
//! kept for a turn: a batch of a thousand events would put a millisecond on the last of them.
//!
//! Invariant: scheduled = verified + mismatched + errored + timed out + outstanding; what is
//! outstanding when the connections are closed has become unanswered.

pub mod connection;
pub mod dial;
pub mod latency;
pub mod own;
pub mod payload;
pub mod plan;
pub mod preflight;
pub mod summary;

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mio::net::TcpStream;

use crate::load::connection::Connection;
use crate::load::dial::{Dial, Dialer};
use crate::load::payload::Payload;
use crate::load::plan::{
    CLOSE_PATIENCE, CONNECT_WINDOW, DRAIN, PATIENCE, Plan, SCRATCH_BYTES, Stop, TURN_BYTES,
    TURN_CONNECTIONS,
};
use crate::load::summary::{ErrorKind, Results, Summary};
use crate::reactor::slots::{Slots, Token};
use crate::reactor::{Event, Reactor, Wait};
use crate::socket;
use crate::stream::{Hints, Received, Stream};

/// A run under way.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    payload: Payload,
    reactor: Reactor<Timer>,
    dialer: Dialer,
    /// More connections are due than one turn may open.
    dial_again: bool,
    /// When the next connection is due, once a timer is set for it.
    dial_due: Option<Instant>,
    peers: Slots<Peer>,
    /// The one buffer of all reads and writes.
    scratch: Box<[u8]>,
    stage: Stage,
    results: Results,
    interrupted: bool,
    started: Option<Instant>,
    sending_ended: Option<Instant>,
    last_verified: Option<Instant>,
    /// When something last went forward: a connection came up, a byte of a reply arrived.
    last_progress: Instant,
    tick: Option<Duration>,
    ticked: bool,
}

/// One connection and its socket.
#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    connection: Connection,
    number: u32,
    phase: Phase,
    /// Messages it may still send.
    quota: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Up,
    /// Our FIN is sent.
    Closing,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connections come up.
    Connecting,
    /// Messages go out and come back.
    Running,
    /// No new message goes out.
    Draining,
    /// Connections are closed.
    Closing,
    /// Nothing is left.
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Another connection is due.
    Dial,
    /// Look whether something went forward.
    Patience,
    /// The time for sending is over.
    RunEnd,
    DrainEnd,
    CloseEnd,
    /// Whoever watches wants to know.
    Tick,
}

/// How a call of [`Load::advance`] ended.
#[derive(Debug)]
pub enum Step {
    /// The run goes on.
    UnderWay(Snapshot),
    /// The run is over.
    Done(Box<Summary>),
}

/// A look at a run under way.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Where it stands.
    pub stage: Stage,
    /// Connections that are up.
    pub up: u32,
    /// Messages verified so far.
    pub verified: u64,
    /// The 99th percentile of the response so far.
    pub p99: Option<Duration>,
    /// Time since the first message.
    pub running: Duration,
}

impl Load {
    /// Prepares a run; SIGINT and SIGTERM end it early from now on. With `tick`,
    /// [`Load::advance`] comes back that often.
    pub fn new(plan: Plan, tick: Option<Duration>) -> anyhow::Result<Load> {
        let mut reactor = Reactor::new().context("cannot set up the event loop")?;
        reactor.stop_on_signals()?;
        let now = Instant::now();
        reactor.set_timer(now + PATIENCE, Timer::Patience);
        if let Some(tick) = tick {
            reactor.set_timer(now + tick, Timer::Tick);
        }
        Ok(Load {
            payload: Payload::new(plan.alphabet, plan.seed, plan.size),
            dialer: Dialer::new(now, plan.connect_rate, plan.connections, CONNECT_WINDOW),
            dial_again: true,
            dial_due: None,
            plan,
            reactor,
            peers: Slots::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            stage: Stage::Connecting,
            results: Results::default(),
            interrupted: false,
            started: None,
            sending_ended: None,
            last_verified: None,
            last_progress: now,
            tick,
            ticked: false,
        })
    }

    /// Carries the run on until its next tick or its end. It is an error when no connection ever
    /// came up, or when the poll fails.
    pub fn advance(&mut self) -> anyhow::Result<Step> {
        while self.stage != Stage::Done {
            let unfinished = self.peers.requeued().min(TURN_CONNECTIONS);
            self.reactor.turn(self.wait())?;
            while let Some(event) = self.reactor.next_event() {
                match event {
                    Event::Io(token, hints) => self.on_io(token, hints)?,
                    Event::Timer(timer) => self.on_timer(timer)?,
                    Event::Stop => self.on_stop(),
                }
            }
            for _ in 0..unfinished {
                if let Some(token) = self.peers.next_requeued() {
                    self.serve(token)?;
                }
            }
            if self.stage == Stage::Connecting {
                self.dial()?;
            }
            self.move_on();
            if std::mem::take(&mut self.ticked) {
                return Ok(Step::UnderWay(self.snapshot()));
            }
        }
        Ok(Step::Done(Box::new(self.summary())))
    }

    fn wait(&self) -> Wait {
        let dial_again = self.stage == Stage::Connecting && self.dial_again;
        if self.peers.requeued() > 0 || dial_again {
            Wait::Never
        } else {
            Wait::Block
        }
    }

    fn on_io(&mut self, token: Token, hints: Hints) -> anyhow::Result<()> {
        if let Some(peer) = self.peers.get_mut(token) {
            peer.connection.note(hints);
            if !self.peers.is_requeued(token) {
                self.serve(token)?;
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer) -> anyhow::Result<()> {
        match timer {
            Timer::Dial => {} // The turn dials anyway.
            Timer::Patience => self.look_for_progress()?,
            Timer::RunEnd if self.stage == Stage::Running => self.drain(),
            Timer::DrainEnd if self.stage == Stage::Draining => self.close(),
            Timer::CloseEnd => self.give_up_closing(),
            Timer::RunEnd | Timer::DrainEnd => {}
            Timer::Tick => {
                self.ticked = true;
                if let Some(tick) = self.tick {
                    self.reactor.set_timer(Instant::now() + tick, Timer::Tick);
                }
            }
        }
        Ok(())
    }

    /// The first request ends the run in order, the second at once.
    fn on_stop(&mut self) {
        if self.interrupted {
            if self.stage != Stage::Closing {
                self.close();
            }
            self.give_up_closing();
            return;
        }
        self.interrupted = true;
        match self.stage {
            Stage::Connecting => self.close(),
            Stage::Running => self.drain(),
            Stage::Draining | Stage::Closing | Stage::Done => {}
        }
    }

    /// The transitions that follow from what a turn brought. In a running loop a connection that is
    /// not queued for a turn has a message in flight, or none left to send.
    fn move_on(&mut self) {
        if self.stage == Stage::Connecting && self.dialer.is_finished() {
            self.start();
        }
        let settled = self.results.outstanding() == 0;
        match self.stage {
            Stage::Running if settled && self.peers.requeued() == 0 => self.close(),
            Stage::Draining if settled => self.close(),
            Stage::Connecting | Stage::Running | Stage::Draining | Stage::Closing | Stage::Done => {
            }
        }
        if self.stage == Stage::Closing && self.peers.is_empty() {
            self.stage = Stage::Done;
        }
    }

    /// Opens the connections that are due, as many as a turn may.
    fn dial(&mut self) -> anyhow::Result<()> {
        self.dial_again = false;
        for _ in 0..TURN_CONNECTIONS {
            match self.dialer.next(Instant::now()) {
                Dial::Now(number) => self.open(number)?,
                Dial::At(due) => {
                    if self.dial_due.replace(due) != Some(due) {
                        self.reactor.set_timer(due, Timer::Dial);
                    }
                    return Ok(());
                }
                Dial::Full | Dial::Finished => return Ok(()),
            }
        }
        self.dial_again = true;
        Ok(())
    }

    fn open(&mut self, number: u32) -> anyhow::Result<()> {
        let source = self.plan.source(number);
        match socket::connect(self.plan.target, source, &self.plan.options) {
            Ok(stream) => {
                let token = self.peers.insert(Peer {
                    stream,
                    connection: Connection::new(self.payload.source(number)),
                    number,
                    phase: Phase::Connecting,
                    quota: 0,
                });
                if let Some(peer) = self.peers.get_mut(token) {
                    self.reactor.add_stream(&mut peer.stream, token)?;
                }
                Ok(())
            }
            Err(error) => self.not_opened(&error),
        }
    }

    /// Counts a connection that failed. While none has ever been up, there is nothing to run.
    fn not_opened(&mut self, error: &io::Error) -> anyhow::Result<()> {
        self.dialer.settled();
        self.results.counts.failed += 1;
        self.results.broke(ErrorKind::of(error), 0);
        if self.results.counts.opened == 0 {
            bail!("{}", self.unreachable(error));
        }
        Ok(())
    }

    fn unreachable(&self, error: &io::Error) -> String {
        let target = self.plan.target;
        match ErrorKind::of(error) {
            ErrorKind::Refused => format!(
                "nothing listens at {target} (connection refused): start `upcase serve --listen \
                 {target}` there, or name another target"
            ),
            _ => format!("cannot connect to {target}: {error}"),
        }
    }

    /// Gives a connection its turn.
    fn serve(&mut self, token: Token) -> anyhow::Result<()> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        match peer.phase {
            Phase::Connecting => return self.look_whether_up(token),
            Phase::Up => match self.exchange(token) {
                Ok(()) => {}
                Err(kind) => self.lose(token, kind),
            },
            Phase::Closing => self.await_end(token),
        }
        Ok(())
    }

    fn look_whether_up(&mut self, token: Token) -> anyhow::Result<()> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        match socket::connected(&peer.stream) {
            Ok(None) => Ok(()),
            Ok(Some(())) => {
                peer.phase = Phase::Up;
                self.dialer.settled();
                self.results.counts.opened += 1;
                self.last_progress = Instant::now();
                Ok(())
            }
            Err(error) => {
                self.peers.remove(token);
                self.not_opened(&error)
            }
        }
    }

    /// All connections that could be opened are up: the messages begin.
    fn start(&mut self) {
        let now = Instant::now();
        self.stage = Stage::Running;
        self.started = Some(now);
        self.last_progress = now;
        if let Stop::After(duration) = self.plan.stop {
            self.reactor.set_timer(now + duration, Timer::RunEnd);
        }
        let tokens = self.peers.tokens();
        for (position, &token) in tokens.iter().enumerate() {
            let quota = self.plan.quota(position as u32, tokens.len() as u32);
            if let Some(peer) = self.peers.get_mut(token) {
                peer.quota = quota.unwrap_or(u64::MAX);
            }
            self.peers.requeue(token);
        }
    }

    /// Sends what is due on a connection and reads what has come, within the budget of a turn.
    fn exchange(&mut self, token: Token) -> Result<(), ErrorKind> {
        let Some(peer) = self.peers.get_mut(token) else {
            return Ok(());
        };
        let running = self.stage == Stage::Running;
        if running {
            self.results.counts.scheduled += peer.refill(&self.plan, None);
        }
        let (mut budget, mut send_budget) = (TURN_BYTES, TURN_BYTES);
        while budget > 0 {
            let received = peer.transfer(&self.payload, &mut self.scratch, &mut send_budget)?;
            let Some(count) = received else {
                break;
            };
            let now = Instant::now();
            let checked = peer
                .connection
                .accept(&self.scratch[..count], &self.payload);
            while let Some(message) = peer.connection.next_answered() {
                self.results.verified(self.plan.size, now - message.due);
                self.last_verified = Some(now);
            }
            checked.map_err(|fault| self.results.fault(peer.number, fault))?;
            self.last_progress = now;
            if running {
                self.results.counts.scheduled += peer.refill(&self.plan, Some(now));
            }
            budget = budget.saturating_sub(count);
        }
        if budget == 0 || peer.connection.can_transmit() {
            self.peers.requeue(token);
        }
        Ok(())
    }

    /// A connection broke in the middle of the run.
    fn lose(&mut self, token: Token, kind: ErrorKind) {
        if let Some(peer) = self.peers.remove(token) {
            self.results
                .broke(kind, peer.connection.unanswered() as u64);
        }
    }

    /// Stops sending; what is in flight has a while to come back.
    fn drain(&mut self) {
        let now = Instant::now();
        self.stage = Stage::Draining;
        self.sending_ended = Some(now);
        self.reactor.set_timer(now + DRAIN, Timer::DrainEnd);
        // What has not begun to be sent is not sent any more, and was never in flight.
        for token in self.peers.tokens() {
            if let Some(peer) = self.peers.get_mut(token) {
                self.results.counts.scheduled -= peer.connection.withdraw();
            }
        }
    }

    /// Closes in order: our FIN first, then the server's.
    fn close(&mut self) {
        let now = Instant::now();
        self.stage = Stage::Closing;
        self.sending_ended.get_or_insert(now);
        self.results.counts.unanswered += self.results.outstanding();
        self.reactor
            .set_timer(now + CLOSE_PATIENCE, Timer::CloseEnd);
        for token in self.peers.tokens() {
            let Some(peer) = self.peers.get_mut(token) else {
                continue;
            };
            match peer.phase {
                Phase::Connecting => {
                    self.peers.remove(token);
                    self.dialer.settled();
                }
                Phase::Up | Phase::Closing => {
                    peer.phase = Phase::Closing;
                    match peer.stream.shutdown_write() {
                        Ok(()) => self.peers.requeue(token),
                        Err(error) => self.end(token, Some(ErrorKind::of(&error))),
                    }
                }
            }
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
            match peer.connection.receive(&mut peer.stream, &mut self.scratch) {
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
        if self.peers.remove(token).is_some()
            && let Some(kind) = error
        {
            self.results.broke(kind, 0);
        }
    }

    fn give_up_closing(&mut self) {
        for token in self.peers.tokens() {
            self.end(token, Some(ErrorKind::NotClosed));
        }
    }

    /// Gives up what nothing came of for a long time: connects, or the replies of a run that waits
    /// for a number of messages.
    fn look_for_progress(&mut self) -> anyhow::Result<()> {
        let deadline = self.last_progress + PATIENCE;
        let now = Instant::now();
        if now < deadline {
            self.reactor.set_timer(deadline, Timer::Patience);
            return Ok(());
        }
        match (self.stage, self.plan.stop) {
            (Stage::Connecting, _) => self.give_up_connecting()?,
            (Stage::Running, Stop::Messages(_)) => self.drain(),
            _ => return Ok(()),
        }
        self.reactor.set_timer(now + PATIENCE, Timer::Patience);
        Ok(())
    }

    fn give_up_connecting(&mut self) -> anyhow::Result<()> {
        let error = io::Error::from(io::ErrorKind::TimedOut);
        let untried = self.dialer.give_up();
        self.results.not_tried(untried);
        for token in self.peers.tokens() {
            let connecting = |peer: &mut Peer| peer.phase == Phase::Connecting;
            if self.peers.get_mut(token).is_some_and(connecting) {
                self.peers.remove(token);
                self.not_opened(&error)?;
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            stage: self.stage,
            up: (self.peers.len() - self.dialer.under_way()) as u32,
            verified: self.results.counts.verified,
            p99: self.results.response.percentile(99.0),
            running: self.started.map_or(Duration::ZERO, |start| start.elapsed()),
        }
    }

    fn summary(&self) -> Summary {
        // A server that stalls must not look faster for it: the time without replies counts too.
        let end = self.sending_ended.max(self.last_verified);
        let elapsed = match (self.started, end) {
            (Some(start), Some(end)) => end - start,
            _ => Duration::ZERO,
        };
        Summary {
            plan: self.plan.clone(),
            results: self.results.clone(),
            elapsed,
            interrupted: self.interrupted,
            own_server: None,
        }
    }
}

impl Peer {
    /// Queues as many messages as may be in flight, and tells how many. They are due when their
    /// slot became free; `None`: just now.
    fn refill(&mut self, plan: &Plan, due: Option<Instant>) -> u64 {
        let free = u64::from(plan.depth) - self.connection.unanswered() as u64;
        let count = free.min(self.quota);
        if count > 0 {
            let due = due.unwrap_or_else(Instant::now);
            for _ in 0..count {
                self.connection.queue(plan.size, due);
            }
            self.quota -= count;
        }
        count
    }

    /// Sends what is queued and reads once; `None`: nothing has come.
    fn transfer(
        &mut self,
        payload: &Payload,
        scratch: &mut [u8],
        send_budget: &mut usize,
    ) -> Result<Option<usize>, ErrorKind> {
        let Peer {
            connection, stream, ..
        } = self;
        let received = connection
            .transmit(stream, payload, scratch, *send_budget)
            .and_then(|sent| {
                *send_budget = send_budget.saturating_sub(sent);
                connection.receive(stream, scratch)
            })
            .map_err(|error| ErrorKind::of(&error))?;
        match received {
            Received::Bytes(count) => Ok(Some(count)),
            Received::Blocked => Ok(None),
            Received::End => Err(ErrorKind::ClosedEarly),
        }
    }
}
