//! Timeouts in the engine: for clients that stall, are idle, or do not close their side.
//!
//! A client that is owed bytes must acknowledge all of them, or a minimum number, in each stall
//! timeout. A client that was sent something is checked a quarter of that time later. If nothing is
//! outstanding then, no more checks follow until something is sent again: so a client that behaves
//! costs one system call per quarter of the timeout, and only while it is active. Otherwise the
//! client gets a mark, a number of acknowledged bytes to reach within four checks; when it reaches
//! the mark, it gets the next one. So a client that takes nothing more is found within five
//! quarters of the timeout.
//!
//! The time for which a client has been silent is read from the kernel, which keeps the times of
//! the last segments in both directions.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use log::warn;

use crate::reactor::slots::Token;
use crate::server::engine::{Engine, set};
use crate::server::patience::{LOOKS, Mark, Stalls};
use crate::server::stats::CloseReason;
use crate::server::watch::Watch;
use crate::server::world::{Output, Socket, Timer, World};
use crate::units::counted;

impl<S: Socket> Engine<S> {
    /// Schedules the first stall check of a client that was sent something, unless one is
    /// scheduled.
    #[inline]
    pub(super) fn begin_stall(&mut self, world: &mut impl World, token: Token) {
        if self.patience.stalls.is_some()
            && let Some(client) = self.clients.get_mut(token)
            && !client.is_watched
        {
            client.is_watched = true;
            self.watch_output(world, token, None);
        }
    }

    fn watch_output(&mut self, world: &mut impl World, token: Token, mark: Option<Mark>) {
        let time = self.limits.stall_timeout.unwrap_or_default() / u32::from(LOOKS);
        if let Some(stalls) = &mut self.patience.stalls {
            stalls.sweep(self.clients.len(), |token| {
                self.clients.get(token).is_some()
            });
            let deadline = stalls.add(self.now + time, token, mark);
            self.set_for(world, token, deadline, Timer::Stall);
        }
    }

    pub(super) fn end_stalled(&mut self, world: &mut impl World) {
        let due = |engine: &mut Self| engine.patience.stalls.as_mut()?.pop(engine.now);
        while let Some((token, mark)) = due(self) {
            let Some(output) = self.output(token) else {
                if let Some(client) = self.clients.get_mut(token) {
                    client.is_watched = false;
                }
                continue;
            };
            match mark.filter(|mark| output.acknowledged < mark.bytes) {
                Some(Mark { looks_left: 1, .. }) => self.close_stalled(token, output),
                Some(Mark { bytes, looks_left }) => {
                    let looks_left = looks_left - 1;
                    self.watch_output(world, token, Some(Mark { bytes, looks_left }));
                }
                None => self.set_mark(world, token, output),
            }
        }
        let next = self.patience.stalls.as_mut().map(Stalls::to_set);
        for deadline in next.into_iter().flatten() {
            set(world, deadline, Timer::Stall);
        }
    }

    /// Sets the number of bytes that a client must acknowledge: all that is outstanding now, or the
    /// minimum. If nothing is outstanding, no more checks follow.
    fn set_mark(&mut self, world: &mut impl World, token: Token, output: Output) {
        if let Some(client) = self.clients.get_mut(token) {
            client.is_watched = output.outstanding > 0;
        }
        if output.outstanding > 0 {
            let least = output.outstanding.min(self.limits.least_progress());
            let mark = Mark {
                bytes: output.acknowledged + least,
                looks_left: LOOKS,
            };
            self.watch_output(world, token, Some(mark));
        }
    }

    fn close_stalled(&mut self, token: Token, output: Output) {
        if let Some(untold) = self.warnings.stalled.happened(self.now) {
            let Output {
                acknowledged,
                outstanding,
                ..
            } = output;
            warn!(
                "{}connection {token} is reset: it takes too little of its replies \
                 (--stall-timeout, --min-rate); {} acknowledged, {} outstanding{untold}",
                self.label,
                counted(acknowledged, "byte"),
                counted(outstanding, "byte"),
            );
        }
        self.close(token, CloseReason::Stalled);
    }

    /// Starts the idle timeout of a new client.
    pub(super) fn begin_idle(&mut self, world: &mut impl World, token: Token) {
        if let Some(timeout) = self.limits.idle_timeout {
            self.watch_silence(world, token, timeout);
        }
    }

    fn watch_silence(&mut self, world: &mut impl World, token: Token, time: Duration) {
        if let Some(idles) = &mut self.patience.idles {
            idles.sweep(self.clients.len(), |token| {
                self.clients.get(token).is_some()
            });
            let deadline = idles.add(self.now + time, token, ());
            self.set_for(world, token, deadline, Timer::Idle);
        }
    }

    pub(super) fn end_idle(&mut self, world: &mut impl World<Socket = S>) {
        let due = |engine: &mut Self| engine.patience.idles.as_mut()?.pop(engine.now);
        let timeout = self.limits.idle_timeout.unwrap_or_default();
        while let Some((token, ())) = due(self) {
            let output = self.output(token);
            // A client that is owed bytes is subject to the stall timeout instead.
            let is_idle = output.is_some_and(|it| it.outstanding == 0 && it.quiet >= timeout);
            if is_idle && let Some(client) = self.clients.get_mut(token) {
                client.connection.end_idle();
                self.serve_once(world, token);
            }
            if self.clients.get(token).is_some() {
                let quiet = output.map_or(Duration::ZERO, |it| it.quiet);
                let left = timeout.saturating_sub(quiet);
                let time = if left.is_zero() { timeout } else { left };
                self.watch_silence(world, token, time);
            }
        }
        let next = self.patience.idles.as_mut().and_then(Watch::to_set);
        set(world, next, Timer::Idle);
    }

    /// Starts the linger time of a client that was sent FIN.
    pub(super) fn begin_linger(&mut self, world: &mut impl World, token: Token) {
        let deadline = self.now + self.limits.linger;
        let deadline = self.patience.lingers.add(deadline, token, ());
        self.set_for(world, token, deadline, Timer::Linger);
    }

    pub(super) fn end_lingers(&mut self, world: &mut impl World<Socket = S>) {
        while let Some((token, ())) = self.patience.lingers.pop(self.now) {
            if let Some(client) = self.clients.get_mut(token) {
                client.connection.end_linger();
                self.serve_once(world, token);
            }
        }
        let next = self.patience.lingers.to_set();
        set(world, next, Timer::Linger);
    }

    /// Sets the timer for a client that was added to a timer wheel, or closes the client if there
    /// was no memory to add it.
    #[inline]
    fn set_for(
        &mut self,
        world: &mut impl World,
        token: Token,
        deadline: Result<Option<Instant>, TryReserveError>,
        timer: Timer,
    ) {
        match deadline {
            Ok(deadline) => set(world, deadline, timer),
            Err(error) => self.close_unwatched(token, &error.into()),
        }
    }

    /// Returns the state of a client's output, including the bytes pending here; `None` when the
    /// client is gone or the kernel returns an error.
    pub(super) fn output(&self, token: Token) -> Option<Output> {
        let client = self.clients.get(token)?;
        let output = client.socket.output().ok()?;
        Some(Output {
            outstanding: output.outstanding + client.connection.pending() as u64,
            ..output
        })
    }
}
