//! Patience and its end: clients that stall, that idle, that do not close their side.
//!
//! A client that is owed bytes must acknowledge all of them, or a least number, in each stall
//! timeout. It costs a client that behaves one system call in a quarter of that time, and only
//! while it works: whoever was sent something is glanced at a little later, and if nothing of that
//! is outstanding the matter is closed. Otherwise what is outstanding now sets the mark which the
//! client must have acknowledged one stall timeout later. So a client that reads nothing is found
//! within five quarters of the stall timeout, or within twice that time if it began well.
//!
//! Silence is the kernel's to tell: it keeps the times of the last segments in either direction.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use log::warn;

use crate::reactor::slots::Token;
use crate::server::engine::Engine;
use crate::server::limits::Limits;
use crate::server::stats::CloseReason;
use crate::server::watch::Watch;
use crate::server::world::{Output, Socket, Timer, World};

/// Which clients have until when to do what. Without a timeout there is no wheel.
#[derive(Debug)]
pub(super) struct Patience {
    /// Clients that were sent something, to be glanced at; and those that were found with something
    /// outstanding, with the count of bytes that they must have acknowledged.
    stalls: Option<Watch<Option<NonZeroU64>>>,
    /// All clients.
    idles: Option<Watch<()>>,
    /// Clients that were sent FIN.
    lingers: Watch<()>,
}

impl Patience {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Patience {
            stalls: limits.stall_timeout.map(|time| Watch::new(time, now)),
            idles: limits.idle_timeout.map(|time| Watch::new(time, now)),
            lingers: Watch::new(limits.linger, now),
        }
    }
}

impl<S: Socket> Engine<S> {
    /// A client was sent something.
    #[inline]
    pub(super) fn begin_glance(&mut self, world: &mut impl World, token: Token) {
        if let Some(timeout) = self.limits.stall_timeout
            && let Some(client) = self.clients.get_mut(token)
            && !client.is_watched
        {
            client.is_watched = true;
            self.watch_output(world, token, timeout / 4, None);
        }
    }

    fn watch_output(
        &mut self,
        world: &mut impl World,
        token: Token,
        time: Duration,
        mark: Option<NonZeroU64>,
    ) {
        if let Some(stalls) = &mut self.patience.stalls {
            set(
                world,
                stalls.add(self.now + time, token, mark),
                Timer::Stall,
            );
        }
    }

    pub(super) fn end_stalled(&mut self, world: &mut impl World) {
        let due = |engine: &mut Self| engine.patience.stalls.as_mut()?.pop(engine.now);
        while let Some((token, mark)) = due(self) {
            if let Some(output) = self.output(token) {
                match mark {
                    Some(mark) if output.acknowledged < mark.get() => {
                        self.close_stalled(token, output);
                    }
                    _ => self.begin_stall(world, token, output),
                }
            }
        }
        let next = self.patience.stalls.as_mut().and_then(Watch::to_set);
        set(world, next, Timer::Stall);
    }

    /// What is outstanding now is to be acknowledged, all or enough of it.
    fn begin_stall(&mut self, world: &mut impl World, token: Token, output: Output) {
        let least = output.outstanding.min(self.limits.least_progress());
        let mark = NonZeroU64::new(output.acknowledged + least).filter(|_| least > 0);
        if let Some(client) = self.clients.get_mut(token) {
            client.is_watched = mark.is_some();
        }
        if let (Some(timeout), Some(_)) = (self.limits.stall_timeout, mark) {
            self.watch_output(world, token, timeout, mark);
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
                "connection {token} is reset: it takes too little of its replies \
                 (--stall-timeout, --min-rate); {acknowledged} bytes acknowledged, \
                 {outstanding} outstanding{untold}"
            );
        }
        self.close(token, CloseReason::Stalled);
    }

    /// A client came.
    pub(super) fn begin_idle(&mut self, world: &mut impl World, token: Token) {
        if let Some(timeout) = self.limits.idle_timeout {
            self.watch_silence(world, token, timeout);
        }
    }

    fn watch_silence(&mut self, world: &mut impl World, token: Token, time: Duration) {
        if let Some(idles) = &mut self.patience.idles {
            set(world, idles.add(self.now + time, token, ()), Timer::Idle);
        }
    }

    pub(super) fn end_idle(&mut self, world: &mut impl World<Socket = S>) {
        let due = |engine: &mut Self| engine.patience.idles.as_mut()?.pop(engine.now);
        let timeout = self.limits.idle_timeout.unwrap_or_default();
        while let Some((token, ())) = due(self) {
            let Some(output) = self.output(token) else {
                continue;
            };
            // Whoever is owed something is a case for the stall timeout.
            let is_idle = output.outstanding == 0 && output.quiet >= timeout;
            if is_idle && let Some(client) = self.clients.get_mut(token) {
                client.connection.end_idle();
                self.serve(world, token);
            }
            if self.clients.get(token).is_some() {
                let left = timeout.saturating_sub(output.quiet);
                let time = if left.is_zero() { timeout } else { left };
                self.watch_silence(world, token, time);
            }
        }
        let next = self.patience.idles.as_mut().and_then(Watch::to_set);
        set(world, next, Timer::Idle);
    }

    /// FIN was sent to a client.
    pub(super) fn begin_linger(&mut self, world: &mut impl World, token: Token) {
        let next = self
            .patience
            .lingers
            .add(self.now + self.limits.linger, token, ());
        set(world, next, Timer::Linger);
    }

    pub(super) fn end_lingers(&mut self, world: &mut impl World<Socket = S>) {
        while let Some((token, ())) = self.patience.lingers.pop(self.now) {
            if let Some(client) = self.clients.get_mut(token) {
                client.connection.end_linger();
                self.serve(world, token);
            }
        }
        let next = self.patience.lingers.to_set();
        set(world, next, Timer::Linger);
    }

    /// How the output of a client fares, what is pending here included; `None` when the client is
    /// gone. A socket that cannot tell has an error that its next read will find.
    fn output(&self, token: Token) -> Option<Output> {
        let client = self.clients.get(token)?;
        let output = client.socket.output().ok()?;
        Some(Output {
            outstanding: output.outstanding + client.connection.pending() as u64,
            ..output
        })
    }
}

fn set(world: &mut impl World, deadline: Option<Instant>, timer: Timer) {
    if let Some(deadline) = deadline {
        world.set_timer(deadline, timer);
    }
}
