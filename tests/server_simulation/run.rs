//! One run of the simulation: the server's engine on a simulated kernel, turn by turn.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use upcase::reactor::Wait;
use upcase::server::engine::Engine;
use upcase::server::engine::world::{Timer, World};
use upcase::server::limits::Limits;
use upcase::server::stats::{CloseReason, Totals};

use crate::chance::Chance;
use crate::kernel::{Events, Happening, Notification, SimKernel, SimSocket, State};
use crate::neighbours::{ENGINE, OtherShards};
use crate::rules::Context;
use crate::swarm::{Faults, draw_limits};

/// Time that a turn takes in addition to its calls, in nanoseconds.
const TURN_TIME: u64 = 200;

/// The results of one run, or the sums of many.
#[derive(Debug, Default)]
pub struct Ended {
    pub events: Events,
    pub broken: u64,
    /// Number of checks of how long a connection had to wait.
    pub waited: u64,
    /// Number of turns with large reads.
    pub larges: u64,
    /// Number of keep-alive probes, and of clients that answered none.
    pub probes: u64,
    pub vanished: u64,
    /// Number of times that the engine was woken because another shard left a place to it.
    pub woken: u64,
    pub totals: Totals,
}

impl AddAssign for Ended {
    fn add_assign(&mut self, other: Ended) {
        self.events += other.events;
        self.broken += other.broken;
        self.waited += other.waited;
        self.larges += other.larges;
        self.probes += other.probes;
        self.vanished += other.vanished;
        self.woken += other.woken;
        self.totals += other.totals;
    }
}

impl Ended {
    /// Returns the situations that the random choices should have produced and have not.
    pub fn never_seen(&self) -> Vec<&'static str> {
        let totals = &self.totals;
        let ends = CloseReason::ALL.map(|reason| (reason.name(), totals.closed(reason)));
        let rest = [
            ("a listener breaks", self.broken),
            ("a connection waits for its turn", self.waited),
            ("a turn with large reads", self.larges),
            ("a silent client is probed", self.probes),
            ("a client answers no probe", self.vanished),
            ("another shard frees a reservation", self.woken),
            ("a stale event", totals.stale_events),
            ("a client is lost in the queue", totals.lost),
            ("clients are reset in the queue", totals.reset_in_queue),
            ("the server is full", totals.full.count),
            ("descriptors or memory run out", totals.exhausted.count),
        ];
        let seen = ends.into_iter().chain(rest);
        let unseen = seen.filter(|&(_, count)| count == 0);
        unseen.map(|(name, _)| name).collect()
    }
}

/// A server engine and its simulated kernel.
pub struct Simulation {
    pub kernel: SimKernel,
    engine: Engine<SimSocket>,
    batch: Vec<Notification>,
    /// Number of consecutive turns without sleep in which nothing was delivered and nothing called.
    idle_turns: u32,
}

impl Simulation {
    pub fn new(listeners: usize, limits: Limits, faults: Faults, chance: Chance) -> Simulation {
        let kernel = SimKernel::new(listeners, limits, faults, chance);
        let addresses: Vec<SocketAddr> = (0..listeners)
            .map(|number| SocketAddr::from(([127, 0, 0, 1], 7000 + number as u16)))
            .collect();
        let now = kernel.now();
        Simulation {
            engine: Engine::new(String::new(), limits, &addresses, now),
            kernel,
            batch: Vec::new(),
            idle_turns: 0,
        }
    }

    /// Creates a run in which everything is chosen at random from the seed.
    pub fn draw(seed: u64) -> Simulation {
        let mut chance = Chance::new(seed);
        let mut limits = draw_limits(&mut chance);
        let mut faults = Faults::draw(&mut chance);
        if chance.one_in(16) {
            // Only with such a limit does a full server wait for room of more than one place.
            limits.max_connections = chance.pick(&[130, 200]);
        }
        faults.crowd(limits.max_connections);
        let has_neighbours = limits.max_connections < 1000 && chance.one_in(2);
        let listeners = chance.pick(&[1, 1, 2, 3]);
        let ends_in_peace = chance.one_in(2);
        let at = chance.pick(&[1, 10, 100, 1000]) * 1_000_000;
        let at = chance.between((0, at));
        let second = chance.pick(&[0, 1, 1_000_000, 50_000_000]);
        let has_second = chance.one_in(3);
        let mut simulation = Simulation::new(listeners, limits, faults, chance);
        if has_neighbours {
            simulation.share();
        }
        let mut state = simulation.state();
        state.begin();
        if ends_in_peace {
            state.later(at, Happening::Calm);
        } else {
            state.later(at, Happening::Stop);
            if has_second {
                state.later(at + second, Happening::Stop);
            }
        }
        drop(state);
        simulation
    }

    /// Adds other shards that share the engine's connection limit.
    fn share(&mut self) {
        let mut state = self.kernel.0.borrow_mut();
        let neighbours = OtherShards::new(state.limits.max_connections);
        self.engine.share(Arc::clone(&neighbours.places), ENGINE);
        state.neighbours = Some(neighbours);
        state.later(0, Happening::Neighbour);
    }

    pub fn state(&self) -> std::cell::RefMut<'_, State> {
        self.kernel.0.borrow_mut()
    }

    pub fn is_done(&self) -> bool {
        self.engine.is_done()
    }

    /// Plays the run to its end. After the end of faults and new clients every connection must
    /// drain; then the server is stopped.
    pub fn run(mut self) -> Ended {
        let mut turns_left = u64::MAX;
        while !self.engine.is_done() {
            self.turn();
            let state = self.state();
            if state.is_calm && turns_left == u64::MAX {
                turns_left = state.work_left();
            }
            if turns_left == 0 {
                state.fails_check(None, "the connections do not drain");
            }
            turns_left -= u64::from(turns_left != u64::MAX);
        }
        self.finish()
    }

    /// Checks the state at the end and returns the results.
    pub fn finish(self) -> Ended {
        let snapshot = self.engine.snapshot();
        // This precedes the end of the engine, which returns all its places.
        let state = self.state();
        if let Some(neighbours) = &state.neighbours
            && neighbours.places.taken() != neighbours.held()
        {
            let text = format!("it holds reservations that it does not need: {neighbours:?}");
            state.fails_check(None, &text);
        }
        drop(state);
        let failure = self.engine.into_failure();
        let state = self.kernel.0.borrow();
        state.check_snapshot(&snapshot);
        if failure.is_some() != state.ledger.has_broken {
            state.fails_check(None, &format!("it ends with {failure:?}"));
        }
        if !state.open.is_empty() {
            state.fails_check(None, "sockets are left open");
        }
        Ended {
            events: state.events,
            broken: u64::from(failure.is_some()),
            waited: state.ledger.waited,
            larges: state.ledger.larges,
            probes: state.ledger.probes_sent,
            vanished: state.ledger.vanished,
            woken: state.neighbours.as_ref().map_or(0, |it| it.wakes),
            totals: snapshot.totals,
        }
    }

    /// Carries out a turn of the event loop.
    pub fn turn(&mut self) {
        let events = self.state().events;
        let is_asleep = self.wait();
        let mut stops = std::mem::take(&mut self.state().stops);
        let timers = self.take_timers();
        let mut batch = std::mem::take(&mut self.batch);
        self.state().collect(&mut batch);
        self.begin_turn(batch.len());
        while stops > 0 {
            stops -= 1;
            self.stop();
        }
        for _ in 0..timers {
            self.timer();
        }
        for &reported in &batch {
            self.event(reported);
        }
        self.batch = batch;
        self.call_engine(Context::Finish, |engine, kernel| engine.finish_turn(kernel));
        self.end_turn();
        let is_vain = !is_asleep && self.state().events == events;
        self.idle_turns = if is_vain { self.idle_turns + 1 } else { 0 };
        if self.idle_turns > 2 {
            self.state()
                .fails_check(None, "the loop runs without doing anything");
        }
    }

    /// Lets time pass as the engine's wait demands. Returns whether the server slept.
    fn wait(&mut self) -> bool {
        let wait = self.engine.wait();
        let mut state = self.state();
        state.now += TURN_TIME;
        state.happen();
        state.stop_when_drained();
        if wait == Wait::Never {
            return false;
        }
        if !state.has_news() {
            state.check_sleep();
        }
        while !state.has_news() {
            let Some(next) = state.agenda.next() else {
                state.fails_check(None, "the server sleeps for ever");
            };
            state.now = state.now.max(next);
            state.happen();
            state.stop_when_drained();
        }
        true
    }

    /// Returns the number of timers to deliver in this turn: all that are due, or none if they are
    /// postponed to another turn.
    fn take_timers(&mut self) -> usize {
        let mut state = self.state();
        let postponed = state.faults.postponed;
        match state.chance.one_in(postponed) {
            true => 0,
            false => state.due.len(),
        }
    }

    fn begin_turn(&mut self, ready: usize) {
        self.engine.begin_turn(&self.kernel, ready);
        self.state().begin_turn();
    }

    pub fn stop(&mut self) {
        let mut state = self.state();
        let context = match state.ledger.stopping {
            Some(_) => Context::Cut,
            None => Context::Stop,
        };
        let began = state.ledger.turn_began;
        state.ledger.stopping.get_or_insert(began);
        state.events.timers += 1;
        drop(state);
        self.call_engine(context, |engine, kernel| engine.on_stop(kernel));
        if context == Context::Cut && !self.engine.is_done() {
            self.state()
                .fails_check(None, "the second request did not stop the server");
        }
    }

    fn timer(&mut self) {
        let mut state = self.state();
        let Some(timer) = state.due.pop_front() else {
            return;
        };
        state.events.timers += 1;
        state.ledger.timer_came(timer);
        if timer == Timer::RetryAccept {
            state
                .listeners
                .iter_mut()
                .for_each(|listener| listener.is_paused = false);
        }
        drop(state);
        let context = match timer {
            Timer::DrainEnd => Context::Cut,
            _ => Context::Timer(timer),
        };
        self.call_engine(context, |engine, kernel| engine.on_timer(kernel, timer));
    }

    pub fn event(&mut self, reported: Notification) {
        self.state().deliver(reported);
        self.call_engine(Context::Event, |engine, kernel| {
            engine.on_io(kernel, reported.token, reported.hints);
        });
    }

    /// Calls the engine, and checks its counters against the simulated sockets if connections have
    /// changed.
    fn call_engine(
        &mut self,
        context: Context,
        what: impl FnOnce(&mut Engine<SimSocket>, &mut SimKernel),
    ) {
        let mut state = self.state();
        state.begin_entry(context);
        let before = (state.ledger.accepted, state.open.len());
        drop(state);
        what(&mut self.engine, &mut self.kernel);
        let state = self.kernel.0.borrow();
        if before != (state.ledger.accepted, state.open.len()) {
            state.check_snapshot(&self.engine.snapshot());
        }
    }

    fn end_turn(&mut self) {
        let mut state = self.kernel.0.borrow_mut();
        state.check_turn();
        let is_near_cap = state.open.len() + 8 >= state.limits.max_connections;
        if is_near_cap || state.ledger.turn.is_multiple_of(8) {
            let snapshot = self.engine.snapshot();
            state.check_snapshot(&snapshot);
            let fulls = snapshot.totals.full.count;
            state.ledger.is_full |= fulls > state.ledger.fulls;
            state.ledger.fulls = fulls;
        }
        if self.engine.is_stopping() && state.ledger.stopping.is_none() {
            // Only a broken listener makes the server stop without a request.
            if !state.listeners.iter().any(|listener| listener.is_broken) {
                state.fails_check(None, "the server stops without a request");
            }
            let began = state.ledger.turn_began;
            state.ledger.stopping = Some(began);
        }
    }

    /// Carries out turns until this time has passed, for clients that the test controls. The server
    /// stays asleep while nothing is to be reported to it.
    pub fn advance(&mut self, time: Duration) {
        let end = self.state().now + time.as_nanos() as u64;
        while !self.engine.is_done() {
            let mut state = self.state();
            if state.has_news() || self.engine.wait() == Wait::Never {
                drop(state);
                self.turn();
                continue;
            }
            state.check_sleep();
            let next = state.agenda.next().unwrap_or(u64::MAX);
            state.now = state.now.max(next.min(end));
            if next > end {
                return;
            }
            state.happen();
        }
    }
}
