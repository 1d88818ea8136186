//! The engine: serves the clients of one reactor, turn by turn. Pure: clock, sockets and timers are
//! arguments (`World`), so the same code runs on the kernel and on the simulated kernel of the
//! tests.
//!
//! One turn of the event loop:
//!
//! ```text
//!   begin      the clock is read
//!   events     timers fire; ready clients are served, in groups; ready listeners are marked
//!   unfinished clients that have been in the queue since an earlier turn are served, each once
//!   accept     new clients are accepted, up to a limit for each listener
//! ```
//!
//! A client whose budget ran out is put into the queue for the next turn. So is every client that
//! becomes ready after the turn has spent its own budget, which is counted in bytes. As long as
//! some clients in the queue wait for a second turn, every client that becomes ready joins the
//! queue behind them. So a ready client waits for less than two budgets of every other client: one
//! turn of that client that ended before its budget was spent, and the next turn.
//!
//! Stopping:
//!
//! ```text
//!   quiesce    no new connections; every listener drains its accept queue, then it is closed
//!   look       at regular intervals: every client that has fallen silent is sent FIN
//!   last call  every client that still sends is sent FIN as well, one `linger` before the end
//!   end        the rest is closed; a client that is owed bytes is reset, so that it notices it
//! ```
//!
//! A second request to stop ends everything at once. A listener that fails is a request to stop.
//!
//! Invariant: accepted = clients in the table + closed, summed over all reasons.

mod accepting;
pub mod kernel;
mod probing;
mod serving;
mod timeouts;
pub mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::reactor::Wait;
use crate::reactor::slots::{Slots, Token};
use crate::server::admission::{Admission, Entry};
use crate::server::connection::Connection;
use crate::server::connection_limit::ConnectionLimit;
use crate::server::deadlines::Deadlines;
use crate::server::engine::world::{Socket, Timer, World};
use crate::server::limits::Limits;
use crate::server::listener::Listener;
use crate::server::log_limit::LogLimit;
use crate::server::stats::{CloseReason, Snapshot, Totals};
use crate::stream::Hints;
use crate::units::counted;

/// The server's logic and state for one reactor.
#[derive(Debug)]
pub struct Engine<S> {
    /// Prefix of its log lines: empty, or `shard 2: `.
    label: String,
    limits: Limits,
    /// The listeners by number; `None` once closed.
    listeners: Vec<Option<Listener>>,
    /// Number of the listener that this turn accepts from first.
    first_listener: usize,
    clients: Slots<Client<S>>,
    admission: Admission,
    deadlines: Deadlines,
    /// The one buffer of all reads. The bytes of a group of clients lie in it one behind the other.
    scratch: Box<[u8]>,
    /// Maximum number of bytes of one read in this turn.
    read_bytes: usize,
    /// Clients that were read from and not answered yet, in the order of their bytes in `scratch`.
    unanswered: Vec<Unanswered>,
    /// End of the bytes of these clients in `scratch`.
    read_end: usize,
    totals: Totals,
    /// Time at which this turn began.
    now: Instant,
    /// Events served in this turn.
    events: u64,
    /// Clients that were in the queue when this turn began and have not been served since.
    unfinished: usize,
    /// Total of bytes received when the current budget of the whole turn began.
    bytes_before: u64,
    /// Whether clients that were in the queue in the last turn still wait, so that no other client
    /// may be served before them.
    is_behind: bool,
    /// Time of the request to stop, if there was one.
    stopping: Option<Instant>,
    /// The error that made the server stop, if one did.
    failure: Option<io::Error>,
    /// Whether a timer is set that ends the pause in accepting.
    retry_is_set: bool,
    exhausted_since: Option<Instant>,
    warnings: Warnings,
}

/// Rate limiters of the warnings, one for each condition.
#[derive(Debug, Default)]
struct Warnings {
    exhausted: LogLimit,
    full: LogLimit,
    refused: LogLimit,
    unserved: LogLimit,
    failed: LogLimit,
    stalled: LogLimit,
    vanished: LogLimit,
}

#[derive(Debug)]
struct Client<S> {
    socket: S,
    connection: Connection,
    /// Whether the client was read from and has not been answered yet, see [`serving`].
    is_unanswered: bool,
    /// Whether a stall check of the client is scheduled, see [`Deadlines`].
    has_stall_check: bool,
    /// Whether the keep-alive has enrolled the client, see [`probing`].
    is_enrolled: bool,
}

/// A client between the two halves of its turn.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    token: Token,
    /// End of its bytes in the buffer; they begin where those of the previous client end.
    end: usize,
}

impl<S: Socket> Engine<S> {
    /// Returns the engine of a server with listeners at these addresses, numbered from 0. `label`
    /// is the prefix of its log lines.
    pub fn new(label: String, limits: Limits, addresses: &[SocketAddr], now: Instant) -> Self {
        let listener = |&address| Some(Listener::new(address, limits.accept_pause));
        Engine {
            label,
            listeners: addresses.iter().map(listener).collect(),
            first_listener: 0,
            clients: Slots::default(),
            admission: Admission::new(limits.max_connections, limits.max_connections_per_ip),
            deadlines: Deadlines::new(&limits, now),
            scratch: vec![0; limits.read_bytes + limits.large_read_bytes].into_boxed_slice(),
            read_bytes: limits.read_bytes,
            unanswered: Vec::with_capacity(limits.group_clients),
            read_end: 0,
            limits,
            totals: Totals::default(),
            now,
            events: 0,
            unfinished: 0,
            bytes_before: 0,
            is_behind: false,
            stopping: None,
            failure: None,
            retry_is_set: false,
            exhausted_since: None,
            warnings: Warnings::default(),
        }
    }

    /// Shares the limits on clients with other shards; `shard` is the number of this one.
    pub fn share(&mut self, places: Arc<ConnectionLimit>, shard: usize) {
        self.admission.share(places, shard);
    }

    /// Returns the token under which a listener must be registered.
    pub fn listener_token(number: usize) -> Token {
        Token::fixed(number as u32)
    }

    /// Returns whether the server was stopped and all connections and listeners are closed.
    pub fn is_done(&self) -> bool {
        self.stopping.is_some()
            && self.clients.is_empty()
            && self.listeners.iter().all(Option::is_none)
    }

    /// Returns whether a listener has failed, because of which the server stops.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Returns whether the server was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Returns whether the next poll may block: not while a client is in the engine's queue, or can
    /// be accepted from an accept queue.
    pub fn wait(&self) -> Wait {
        let can_accept = self.admission.full_for(self.now).is_none();
        let is_filled = |listener: &Listener| listener.is_filled();
        if self.clients.requeued() > 0
            || can_accept && self.listeners.iter().flatten().any(is_filled)
        {
            Wait::Never
        } else {
            Wait::Block
        }
    }

    /// Begins a turn, in which the events of `ready` sources follow.
    pub fn begin_turn(&mut self, world: &impl World<Socket = S>, ready: usize) {
        self.now = world.now();
        self.events = 0;
        self.unfinished = self.clients.requeued();
        self.bytes_before = self.totals.traffic.bytes_in;
        let are_few = ready + self.unfinished <= self.limits.large_read_clients;
        self.read_bytes = match are_few {
            true => self.limits.large_read_bytes,
            false => self.limits.read_bytes,
        };
    }

    /// Handles an event: a source may be ready.
    #[inline(always)]
    pub fn on_io(&mut self, world: &mut impl World<Socket = S>, token: Token, hints: Hints) {
        self.events += 1;
        if !token.is_fixed() {
            self.on_client(world, token, hints);
        } else if let Some(Some(listener)) = self.listeners.get_mut(token.index()) {
            listener.note();
        }
    }

    /// Handles a timer that is due.
    #[cold]
    pub fn on_timer(&mut self, world: &mut impl World<Socket = S>, timer: Timer) {
        self.answer_now(world);
        match timer {
            Timer::RetryAccept => {
                self.retry_is_set = false;
                self.retry_accept();
            }
            Timer::Stall => self.end_stalled(world),
            Timer::Idle => self.end_idle(world),
            Timer::Linger => self.end_lingers(world),
            Timer::Probe => self.probe_silent(world),
            Timer::Scan => self.scan(world),
            // The end of the turn accepts the clients that have arrived.
            Timer::Quiesced => {}
            Timer::DrainCheck => self.check_drain(world),
            Timer::DrainEnd => self.end_drain(world),
        }
    }

    /// Handles a request to stop. The second one ends everything at once.
    #[cold]
    pub fn on_stop(&mut self, world: &mut impl World<Socket = S>) {
        self.answer_now(world);
        let (label, clients) = (&self.label, self.clients.len());
        if self.stopping.is_some() {
            if clients > 0 {
                info!(
                    "{label}second request to stop: {} closed at once",
                    counted(clients as u64, "client")
                );
            }
            self.cut(world);
            return;
        }
        if clients > 0 {
            let clients = counted(clients as u64, "client");
            info!("{label}stopping: draining {clients}");
        }
        self.stopping = Some(self.now);
        self.quiesce(world);
        world.set_timer(self.now + self.drain_check_interval(), Timer::DrainCheck);
        world.set_timer(self.now + self.limits.drain_timeout, Timer::DrainEnd);
    }

    /// Finishes a turn after its last event: answers the last group, serves the clients in the
    /// queue, and accepts new ones.
    #[inline(always)]
    pub fn finish_turn(&mut self, world: &mut impl World<Socket = S>) {
        self.answer_all(world);
        self.serve_unfinished(world);
        self.accept(world);
        self.wake_others(world);
        let took = world.now().saturating_duration_since(self.now);
        let micros = (took.as_nanos() as u64 + 500) / 1000;
        self.totals.turns.events.count(self.events);
        self.totals.turns.micros.count(micros);
    }

    /// Returns the current state of the server.
    pub fn snapshot(&self) -> Snapshot {
        let mut totals = self.totals;
        totals.full.time += self.admission.full_for(self.now).unwrap_or_default();
        totals.exhausted.time += self.exhausted_for();
        let pending = |client: &Client<S>| client.connection.pending() as u64;
        Snapshot {
            totals,
            open: self.clients.len() as u64,
            pending_bytes: self.read_end as u64 + self.clients.iter().map(pending).sum::<u64>(),
            is_stopping: self.is_stopping(),
        }
    }

    /// Returns the error that made the server stop, if one did.
    pub fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    /// Adds a client that was accepted. Its address is present if it was requested.
    #[inline(always)]
    fn add_client(
        &mut self,
        world: &mut impl World<Socket = S>,
        socket: S,
        address: Option<SocketAddr>,
    ) {
        self.totals.accepted += 1;
        let token = self.clients.insert(Client {
            socket,
            connection: Connection::new(),
            is_unanswered: false,
            has_stall_check: false,
            is_enrolled: false,
        });
        if let Some(address) = address {
            debug!("connection {token} accepted from {address}");
            match self.admission.enter(token.index(), address.ip()) {
                Entry::Admitted => {}
                Entry::OverLimit(open) => {
                    self.warn_refused(address, open);
                    return self.close(token, CloseReason::Refused);
                }
                Entry::OutOfMemory(error) => return self.close_unserved(token, &error.into()),
            }
        }
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        match world.register(&mut client.socket, token) {
            Ok(()) => {
                self.begin_idle(world, token);
                self.begin_keepalive(world);
            }
            Err(error) => self.close_unserved(token, &error),
        }
    }

    /// Closes a connection. Every connection ends here. Dropping the socket removes it from epoll
    /// as well.
    fn close(&mut self, token: Token, reason: CloseReason) {
        let Some(mut client) = self.clients.remove(token) else {
            return;
        };
        self.totals.count_close(reason);
        self.admission.leave(token.index());
        let unsent = counted(client.connection.pending() as u64, "byte");
        debug!(
            "connection {token} closed: {}, {unsent} unsent",
            reason.name()
        );
        if reason.resets()
            && let Err(error) = client.socket.reset_on_close()
        {
            debug!("connection {token} cannot be reset: {error}");
        }
        drop(client);
        self.retry_accept();
    }

    /// Checks every client of a stopping server, and sends FIN to those that have fallen silent or,
    /// on last call, still send.
    fn check_drain(&mut self, world: &mut impl World<Socket = S>) {
        let Some(since) = self.stopping else {
            return;
        };
        let last_call = self.limits.drain_timeout.saturating_sub(self.linger());
        let is_last_call = self.now >= since + last_call;
        let mut next = self.clients.next_from(0);
        while let Some(token) = next {
            next = self.clients.next_from(token.index() + 1);
            let output = self.output(token);
            let is_quiet = output.is_none_or(|it| it.quiet >= self.limits.drain_silence);
            if let Some(client) = self.clients.get_mut(token) {
                client.connection.check_drain(is_quiet, is_last_call);
                self.serve_once(world, token);
            }
        }
        world.set_timer(self.now + self.drain_check_interval(), Timer::DrainCheck);
    }

    /// Returns the interval between two such checks, at most an eighth of the drain timeout.
    fn drain_check_interval(&self) -> Duration {
        const LEAST: Duration = Duration::from_millis(1);
        self.limits
            .drain_look
            .min(self.limits.drain_timeout / 8)
            .max(LEAST)
    }

    /// Returns the time between the last call and the end of the drain: `linger`, but at most half
    /// of the drain timeout.
    fn linger(&self) -> Duration {
        self.limits.linger.min(self.limits.drain_timeout / 2)
    }

    fn end_drain(&mut self, world: &mut impl World<Socket = S>) {
        if !self.is_done() {
            let (label, clients) = (&self.label, self.clients.len());
            if clients > 0 {
                let clients = counted(clients as u64, "client");
                info!("{label}the drain timeout has expired: {clients} closed");
            }
            self.cut(world);
        }
    }

    /// Closes all listeners and all connections at once.
    pub fn cut(&mut self, world: &mut impl World<Socket = S>) {
        for number in 0..self.listeners.len() {
            self.close_listener(world, number);
        }
        let mut next = self.clients.next_from(0);
        while let Some(token) = next {
            next = self.clients.next_from(token.index() + 1);
            if let Some(client) = self.clients.get_mut(token) {
                let reason = client.connection.cut(
                    &mut client.socket,
                    &mut self.scratch[..self.read_bytes],
                    &mut self.totals.traffic,
                );
                self.close(token, reason);
            }
        }
        self.admission.stop_waiting(self.now, &mut self.totals.full);
        self.wake_others(world);
    }
}

/// Sets a timer if there is a deadline.
#[inline]
fn set(world: &mut impl World, deadline: Option<Instant>, timer: Timer) {
    if let Some(deadline) = deadline {
        world.set_timer(deadline, timer);
    }
}
