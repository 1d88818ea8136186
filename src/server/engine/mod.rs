//! The server: what one reactor does, in a world that is given to it. Pure: the same code runs on
//! the kernel and on the simulated kernel of the tests.
//!
//! One turn:
//!
//! ```text
//!   begin      the time is read
//!   events     clients that are ready are served, in groups; a listener takes note; timers
//!   unfinished the clients that wait in the queue since an earlier turn, each once
//!   accept     new clients, at most so many
//! ```
//!
//! A client whose budget ran out goes to the queue, and so does everyone when the turn has had its
//! time, which is measured in bytes; as long as some of those in the queue wait for a second turn,
//! nobody passes them. So whoever is ready waits for less than two budgets of each other client:
//! for a turn of it that ended before its budget did, and for the next.
//!
//! Stopping:
//!
//! ```text
//!   hush       nobody new can come; who waits in the queue is accepted, then the listener closes
//!   look       again and again: a client that has fallen silent gets FIN
//!   last call  whoever still sends gets FIN as well, one linger before the end
//!   end        what is left is cut: a client that is owed bytes is reset, so that it knows
//! ```
//!
//! A second request to stop is the end. A listener that breaks is a request to stop.
//!
//! Invariant: accepted = clients in the table + closed, by reason.

mod accepting;
mod asking;
mod serving;
mod waiting;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::reactor::Wait;
use crate::reactor::slots::{Slots, Token};
use crate::server::admission::{Admission, Entry};
use crate::server::connection::Connection;
use crate::server::limits::Limits;
use crate::server::listener::Listener;
use crate::server::patience::Patience;
use crate::server::places::Places;
use crate::server::seldom::Seldom;
use crate::server::stats::{CloseReason, Snapshot, Totals};
use crate::server::world::{Socket, Timer, World};
use crate::stream::Hints;
use crate::units::counted;

/// One reactor's server.
#[derive(Debug)]
pub struct Engine<S> {
    /// How its lines in the log begin: nothing, or `shard 2: `.
    label: String,
    limits: Limits,
    /// By number; `None` when it is closed.
    listeners: Vec<Option<Listener>>,
    /// Whose turn it is to be accepted from first.
    first_listener: usize,
    clients: Slots<Client<S>>,
    admission: Admission,
    patience: Patience,
    /// The one buffer that every read goes into: with room for one, behind those of a group.
    scratch: Box<[u8]>,
    /// What a read may take in this turn.
    read_bytes: usize,
    /// Clients that were read from in this turn, in the order of their bytes in that buffer.
    unanswered: Vec<Unanswered>,
    /// Where their bytes end.
    read_end: usize,
    totals: Totals,
    /// When this turn began.
    now: Instant,
    /// Events served in this turn.
    events: u64,
    /// Clients that waited in the queue when this turn began.
    unfinished: usize,
    /// Bytes received by then.
    bytes_before: u64,
    /// Some of those who waited in the last turn still do, and nobody may pass them.
    is_behind: bool,
    /// Since when.
    stopping: Option<Instant>,
    /// Why the server cannot go on.
    failure: Option<io::Error>,
    /// A timer is set that ends the pause in accepting.
    retry_is_set: bool,
    exhausted_since: Option<Instant>,
    warnings: Warnings,
}

/// What may happen often, and is told seldom.
#[derive(Debug, Default)]
struct Warnings {
    exhausted: Seldom,
    full: Seldom,
    refused: Seldom,
    unwatched: Seldom,
    failed: Seldom,
    stalled: Seldom,
    vanished: Seldom,
}

#[derive(Debug)]
struct Client<S> {
    socket: S,
    connection: Connection,
    /// It was read from and is still to be answered, see [`serving`].
    is_unanswered: bool,
    /// Its output is looked at, see [`Patience`].
    is_watched: bool,
    /// True when the keep-alive has enrolled it, see [`asking`].
    is_enrolled: bool,
}

/// A client between the halves of its turn.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    token: Token,
    /// Where its bytes end in the buffer; they begin where those of the one before end.
    end: usize,
}

impl<S: Socket> Engine<S> {
    /// A server that listens at these addresses, numbered from 0. Its lines in the log begin with
    /// `label`.
    pub fn new(label: String, limits: Limits, addresses: &[SocketAddr], now: Instant) -> Self {
        let listener = |&address| Some(Listener::new(address, limits.accept_pause));
        Engine {
            label,
            listeners: addresses.iter().map(listener).collect(),
            first_listener: 0,
            clients: Slots::default(),
            admission: Admission::new(limits.max_connections, limits.max_connections_per_ip),
            patience: Patience::new(&limits, now),
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

    /// Shares its limits on clients with several shards; `shard` is the number of this one.
    pub fn share(&mut self, places: Arc<Places>, shard: usize) {
        self.admission.share(places, shard);
    }

    /// The name under which a listener is to be watched.
    pub fn listener_token(number: usize) -> Token {
        Token::fixed(number as u32)
    }

    /// Whether it was stopped and everybody is done with.
    pub fn is_done(&self) -> bool {
        self.stopping.is_some()
            && self.clients.is_empty()
            && self.listeners.iter().all(Option::is_none)
    }

    /// Whether it cannot go on.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether it is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether the next turn may sleep: not when a client waits in a queue of ours, or in one of
    /// the kernel's for us.
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

    /// A turn begins: the events of so many sources are told next.
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

    /// A source may be ready.
    #[inline(always)]
    pub fn on_io(&mut self, world: &mut impl World<Socket = S>, token: Token, hints: Hints) {
        self.events += 1;
        if !token.is_fixed() {
            self.on_client(world, token, hints);
        } else if let Some(Some(listener)) = self.listeners.get_mut(token.index()) {
            listener.note();
        }
    }

    /// A timer is due.
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
            Timer::Walk => self.walk(world),
            // The turn accepts them.
            Timer::Hushed => {}
            Timer::Look => self.look(world),
            Timer::DrainEnd => self.end_drain(world),
        }
    }

    /// A request to stop. The second one ends everything now.
    #[cold]
    pub fn on_stop(&mut self, world: &mut impl World<Socket = S>) {
        self.answer_now(world);
        let (label, clients) = (&self.label, self.clients.len());
        if self.stopping.is_some() {
            if clients > 0 {
                info!(
                    "{label}stopping at once: {} closed",
                    counted(clients as u64, "client")
                );
            }
            self.cut(world);
            return;
        }
        if clients > 0 {
            let clients = counted(clients as u64, "client");
            info!("{label}stopping: {clients} to be served to the end");
        }
        self.stopping = Some(self.now);
        self.hush(world);
        world.set_timer(self.now + self.look_pause(), Timer::Look);
        world.set_timer(self.now + self.limits.drain_timeout, Timer::DrainEnd);
    }

    /// The events of this turn were all told: those who waited get their turn, and new clients are
    /// accepted.
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

    /// How it stands.
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

    /// Why it could not go on, when it could not.
    pub fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    /// A new client, with its address if that was wanted.
    #[inline(always)]
    fn welcome(
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
            is_watched: false,
            is_enrolled: false,
        });
        if let Some(address) = address {
            debug!("connection {token} accepted from {address}");
            match self.admission.enter(token.index(), address.ip()) {
                Entry::Welcome => {}
                Entry::OverShare(open) => {
                    self.warn_refused(address, open);
                    return self.close(token, CloseReason::Refused);
                }
                Entry::OutOfMemory(error) => return self.close_unwatched(token, &error.into()),
            }
        }
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        match world.watch(&mut client.socket, token) {
            Ok(()) => {
                self.begin_idle(world, token);
                self.begin_keepalive(world);
            }
            Err(error) => self.close_unwatched(token, &error),
        }
    }

    /// The one place where a connection ends. Dropping the socket takes it out of epoll as well.
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
        // FIN would tell a client that this was all. One that stalls would also keep the memory of
        // the kernel that it holds; one that is refused would keep a port in TIME_WAIT here; to one
        // that has vanished it would be sent again and again.
        let is_broken_off = matches!(
            reason,
            CloseReason::TimedOut
                | CloseReason::Stalled
                | CloseReason::Refused
                | CloseReason::Cut
                | CloseReason::Failed
        );
        if is_broken_off && let Err(error) = client.socket.reset_on_close() {
            debug!("connection {token} cannot be reset: {error}");
        }
        drop(client);
        self.retry_accept();
    }

    /// A stopping server looks which of its clients have fallen silent, or have had their time.
    fn look(&mut self, world: &mut impl World<Socket = S>) {
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
                client.connection.look(is_quiet, is_last_call);
                self.serve_once(world, token);
            }
        }
        world.set_timer(self.now + self.look_pause(), Timer::Look);
    }

    /// A short drain is looked at as often as a long one.
    fn look_pause(&self) -> Duration {
        const LEAST: Duration = Duration::from_millis(1);
        self.limits
            .drain_look
            .min(self.limits.drain_timeout / 8)
            .max(LEAST)
    }

    /// In a short drain everybody gets half of the time.
    fn linger(&self) -> Duration {
        self.limits.linger.min(self.limits.drain_timeout / 2)
    }

    fn end_drain(&mut self, world: &mut impl World<Socket = S>) {
        if !self.is_done() {
            let (label, clients) = (&self.label, self.clients.len());
            if clients > 0 {
                let clients = counted(clients as u64, "client");
                info!("{label}the time for stopping is over: {clients} closed");
            }
            self.cut(world);
        }
    }

    /// Ends everything now.
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

/// Sets a timer, if there is one to be set.
#[inline]
fn set(world: &mut impl World, deadline: Option<Instant>, timer: Timer) {
    if let Some(deadline) = deadline {
        world.set_timer(deadline, timer);
    }
}
