//! Accepting clients, pausing when resources run out, and closing the listeners.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::{Level, debug, error, log_enabled, warn};

use crate::reactor::slots::Token;
use crate::server::engine::Engine;
use crate::server::engine::world::{Socket, Timer, World};
use crate::server::listener::{Accepted, Listener};
use crate::server::stats::CloseReason;
use crate::sys::errno;
use crate::units::counted;

impl<S: Socket> Engine<S> {
    /// Accepts clients from each listener, up to its limit per turn. A listener of a stopping
    /// server is closed once its accept queue is empty: closing it sooner would reset the clients
    /// in the queue.
    pub(super) fn accept(&mut self, world: &mut impl World<Socket = S>) {
        if self.listeners.iter().flatten().any(Listener::is_due) {
            self.accept_in_turns(world);
        }
    }

    #[inline(never)]
    fn accept_in_turns(&mut self, world: &mut impl World<Socket = S>) {
        // Each turn begins with another listener, so that none takes all the places that become
        // free.
        let count = self.listeners.len();
        self.first_listener = (self.first_listener + 1) % count.max(1);
        for place in 0..count {
            let number = (self.first_listener + place) % count;
            if let Some(listener) = &mut self.listeners[number] {
                listener.begin_last_accept(self.now);
            }
            self.accept_from(world, number);
            let listener = self.listeners[number].as_ref();
            if listener.is_some_and(Listener::is_spent) {
                self.close_listener(world, number);
            }
        }
    }

    /// Wakes the shards that may accept clients again, since clients of this shard have left.
    #[inline(always)]
    pub(super) fn wake_others(&mut self, world: &mut impl World) {
        if let Some(woken) = self.admission.take_woken() {
            woken.iter().for_each(|shard| world.wake(shard));
        }
    }

    #[inline(always)]
    fn accept_from(&mut self, world: &mut impl World<Socket = S>, number: usize) {
        for _ in 0..self.limits.turn_accepts {
            let Some(listener) = self.listeners[number].as_mut().filter(|it| it.is_filled()) else {
                return;
            };
            let (open, full) = (self.clients.len(), &mut self.totals.full);
            let was_full = self.admission.full_for(self.now).is_some();
            if !self.admission.take(open, self.now, full) {
                if !was_full {
                    self.warn_full();
                }
                return;
            }
            let wants_address = self.admission.counts_addresses() || log_enabled!(Level::Debug);
            let accepted = listener.record(match self.clients.reserve() {
                Ok(()) => world.accept(number, wants_address),
                Err(error) => Err(error.into()),
            });
            if !matches!(accepted, Accepted::Client(_)) {
                self.admission.give_back();
            }
            match accepted {
                Accepted::Client((socket, address)) => {
                    self.end_exhaustion();
                    self.add_client(world, socket, address);
                }
                Accepted::QueueEmpty => return self.end_exhaustion(),
                Accepted::Interrupted => {}
                Accepted::Lost(error) => {
                    self.totals.lost += 1;
                    debug!("a client was lost before it was accepted: {error}");
                }
                Accepted::Exhausted(error, pause) => return self.pause(world, &error, pause),
                Accepted::Broken(error) => return self.fail_listener(world, number, error),
            }
        }
    }

    /// Pauses accepting, since descriptors or memory have run out.
    fn pause(&mut self, world: &mut impl World, error: &io::Error, pause: Duration) {
        if self.exhausted_since.is_none() {
            self.exhausted_since = Some(self.now);
            self.totals.exhausted.count += 1;
        }
        if let Some(suppressed) = self.warnings.exhausted.record(self.now) {
            let (label, open) = (&self.label, self.clients.len());
            let open = counted(open as u64, "client");
            warn!(
                "{label}accepting is paused with {open} connected: {error}; new clients wait in \
                 the accept queue{}{suppressed}",
                advice(error)
            );
        }
        // At most one timer is set: a close retries as well, and a failed retry would set another
        // one.
        if !self.retry_is_set {
            self.retry_is_set = true;
            world.set_timer(self.now + pause, Timer::RetryAccept);
        }
    }

    /// Ends the pauses of the listeners: a connection was closed or the time is over, so accepting
    /// may succeed again.
    pub(super) fn retry_accept(&mut self) {
        for listener in self.listeners.iter_mut().flatten() {
            listener.retry();
        }
    }

    fn end_exhaustion(&mut self) {
        self.totals.exhausted.time += self.exhausted_for();
        self.exhausted_since = None;
    }

    pub(super) fn exhausted_for(&self) -> Duration {
        let since = self.exhausted_since.unwrap_or(self.now);
        self.now.saturating_duration_since(since)
    }

    /// Closes a listener that failed, and stops the server in order: without this listener it is
    /// not what it was started as.
    fn fail_listener(
        &mut self,
        world: &mut impl World<Socket = S>,
        number: usize,
        error: io::Error,
    ) {
        if let Some(listener) = &self.listeners[number] {
            let (label, address) = (&self.label, listener.address());
            let text = format!("cannot accept on {address}: {error}");
            error!("{label}{text}");
            let failure = io::Error::new(error.kind(), text);
            self.failure.get_or_insert(failure);
        }
        self.close_listener(world, number);
        if !self.is_stopping() {
            self.on_stop(world);
        }
    }

    /// Makes the listeners take no new connections, since the server stops.
    pub(super) fn quiesce(&mut self, world: &mut impl World<Socket = S>) {
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if let Some(listener) = listener {
                let until = self.now + world.quiesce(number);
                listener.quiesce(until);
                world.set_timer(until, Timer::Quiesced);
            }
        }
    }

    pub(super) fn close_listener(&mut self, world: &mut impl World<Socket = S>, number: usize) {
        let Some(listener) = self.listeners[number].take() else {
            return;
        };
        let waiting = world.close(number);
        self.totals.reset_in_queue += waiting;
        if waiting > 0 {
            let (label, address) = (&self.label, listener.address());
            let waiting = counted(waiting, "client");
            warn!("{label}listener {address} is closed; reset in its accept queue: {waiting}");
        }
    }

    fn warn_full(&mut self) {
        if let Some(suppressed) = self.warnings.full.record(self.now) {
            let (label, cap) = (&self.label, self.admission.cap());
            let open = counted(cap as u64, "connection");
            warn!(
                "{label}accepting is paused: {open} open, the limit (--max-connections, or \
                 descriptors); new clients wait in the accept queue{suppressed}"
            );
        }
    }

    pub(super) fn warn_refused(&mut self, address: SocketAddr, open: u32) {
        if let Some(suppressed) = self.warnings.refused.record(self.now) {
            let (label, open) = (&self.label, counted(open, "connection"));
            warn!(
                "{label}{address} is reset: its address has {open} open, the limit of \
                 --max-connections-per-ip{suppressed}"
            );
        }
    }

    #[cold]
    pub(super) fn close_unserved(&mut self, token: Token, error: &io::Error) {
        if let Some(suppressed) = self.warnings.unserved.record(self.now) {
            let label = &self.label;
            warn!(
                "{label}connection {token} is reset, nothing is left to serve it: \
                 {error}{suppressed}"
            );
        }
        self.close(token, CloseReason::Failed);
    }
}

/// Returns advice for the user on an error; empty if there is none.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(errno::EMFILE) => "; raise the limit on descriptors (ulimit -n, LimitNOFILE=)",
        Some(errno::ENFILE) => "; raise sysctl fs.file-max",
        _ => "",
    }
}
