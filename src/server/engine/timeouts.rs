//! Timeouts in the engine: for clients that stall, are idle, or do not close their side.
//!
//! A client that is owed bytes must acknowledge all of them, or a minimum number, in each stall
//! timeout. A client that was sent something is checked a quarter of that time later. If nothing is
//! outstanding then, no more checks follow until something is sent again: so a client that behaves
//! costs one system call per quarter of the timeout, and only while it is active. Otherwise the
//! client gets a target, a number of acknowledged bytes to reach within four checks; when it
//! reaches the target, it gets the next one. So a client that takes nothing more is found within
//! five quarters of the timeout.
//!
//! The time for which a client has been silent is read from the kernel, which keeps the times of
//! the last segments in both directions.

use std::collections::TryReserveError;
use std::time::{Duration, Instant};

use log::warn;

use crate::reactor::slots::Token;
use crate::server::deadlines::timer_wheel::TimerWheel;
use crate::server::deadlines::{AckTarget, CHECKS_PER_TIMEOUT, StallDeadlines};
use crate::server::engine::world::{Output, Socket, Timer, World};
use crate::server::engine::{Engine, set};
use crate::server::stats::CloseReason;
use crate::units::counted;

impl<S: Socket> Engine<S> {
    /// Schedules the first stall check of a client that was sent something, unless one is
    /// scheduled.
    #[inline]
    pub(super) fn begin_stall(&mut self, world: &mut impl World, token: Token) {
        if self.deadlines.stalls.is_some()
            && let Some(client) = self.clients.get_mut(token)
            && !client.has_stall_check
        {
            client.has_stall_check = true;
            self.watch_output(world, token, None);
        }
    }

    fn watch_output(&mut self, world: &mut impl World, token: Token, target: Option<AckTarget>) {
        let time = self.limits.stall_timeout.unwrap_or_default() / u32::from(CHECKS_PER_TIMEOUT);
        if let Some(stalls) = &mut self.deadlines.stalls {
            stalls.sweep(self.clients.len(), |token| {
                self.clients.get(token).is_some()
            });
            let deadline = stalls.add(self.now + time, token, target);
            self.armed_for(world, token, deadline, Timer::Stall);
        }
    }

    pub(super) fn end_stalled(&mut self, world: &mut impl World) {
        let due = |engine: &mut Self| engine.deadlines.stalls.as_mut()?.pop(engine.now);
        while let Some((token, target)) = due(self) {
            let Some(output) = self.output(token) else {
                if let Some(client) = self.clients.get_mut(token) {
                    client.has_stall_check = false;
                }
                continue;
            };
            match target.filter(|target| output.acknowledged < target.bytes) {
                Some(AckTarget { checks_left: 1, .. }) => self.close_stalled(token, output),
                Some(AckTarget { bytes, checks_left }) => {
                    let checks_left = checks_left - 1;
                    self.watch_output(world, token, Some(AckTarget { bytes, checks_left }));
                }
                None => self.set_target(world, token, output),
            }
        }
        let next = self
            .deadlines
            .stalls
            .as_mut()
            .map(StallDeadlines::next_timer);
        for deadline in next.into_iter().flatten() {
            set(world, deadline, Timer::Stall);
        }
    }

    /// Sets the number of bytes that a client must acknowledge: all that is outstanding now, or the
    /// minimum. If nothing is outstanding, no more checks follow.
    fn set_target(&mut self, world: &mut impl World, token: Token, output: Output) {
        if let Some(client) = self.clients.get_mut(token) {
            client.has_stall_check = output.outstanding > 0;
        }
        if output.outstanding > 0 {
            let least = output.outstanding.min(self.limits.least_progress());
            let target = AckTarget {
                bytes: output.acknowledged + least,
                checks_left: CHECKS_PER_TIMEOUT,
            };
            self.watch_output(world, token, Some(target));
        }
    }

    fn close_stalled(&mut self, token: Token, output: Output) {
        if let Some(suppressed) = self.warnings.stalled.record(self.now) {
            let Output {
                acknowledged,
                outstanding,
                ..
            } = output;
            warn!(
                "{}connection {token} is reset: it acknowledges its replies too slowly \
                 (--stall-timeout, --min-rate); {} acknowledged, {} outstanding{suppressed}",
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
        if let Some(idles) = &mut self.deadlines.idles {
            idles.sweep(self.clients.len(), |token| {
                self.clients.get(token).is_some()
            });
            let deadline = idles.add(self.now + time, token, ());
            self.armed_for(world, token, deadline, Timer::Idle);
        }
    }

    pub(super) fn end_idle(&mut self, world: &mut impl World<Socket = S>) {
        let due = |engine: &mut Self| engine.deadlines.idles.as_mut()?.pop(engine.now);
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
        let next = self
            .deadlines
            .idles
            .as_mut()
            .and_then(TimerWheel::next_timer);
        set(world, next, Timer::Idle);
    }

    /// Starts the linger time of a client that was sent FIN.
    pub(super) fn begin_linger(&mut self, world: &mut impl World, token: Token) {
        let deadline = self.now + self.limits.linger;
        let deadline = self.deadlines.lingers.add(deadline, token, ());
        self.armed_for(world, token, deadline, Timer::Linger);
    }

    pub(super) fn end_lingers(&mut self, world: &mut impl World<Socket = S>) {
        while let Some((token, ())) = self.deadlines.lingers.pop(self.now) {
            if let Some(client) = self.clients.get_mut(token) {
                client.connection.end_linger();
                self.serve_once(world, token);
            }
        }
        let next = self.deadlines.lingers.next_timer();
        set(world, next, Timer::Linger);
    }

    /// Sets the timer for a client that was added to a timer wheel, or closes the client if there
    /// was no memory to add it.
    #[inline]
    fn armed_for(
        &mut self,
        world: &mut impl World,
        token: Token,
        deadline: Result<Option<Instant>, TryReserveError>,
        timer: Timer,
    ) {
        match deadline {
            Ok(deadline) => set(world, deadline, timer),
            Err(error) => self.close_unserved(token, &error.into()),
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
