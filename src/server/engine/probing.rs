//! Keep-alive in the engine: enrols new clients, probes silent ones and resets those that have
//! vanished. [`crate::server::keepalive`] decides when; the calls are made here.

use log::{debug, warn};

use crate::reactor::slots::Token;
use crate::server::engine::world::{Socket, Timer, World};
use crate::server::engine::{Engine, set};
use crate::server::keepalive::{Keepalive, Verdict};
use crate::server::limits::KEEPALIVE_PROBES;
use crate::server::stats::CloseReason;

/// Number of slots of the table that one part of a scan covers: 0.1 ms of work.
const SCAN_SLOTS: usize = 16_384;

impl<S: Socket> Engine<S> {
    /// Starts the regular scans of the table, since a client has connected.
    #[inline(always)]
    pub(super) fn begin_keepalive(&mut self, world: &mut impl World) {
        if let Some(keepalive) = &mut self.deadlines.keepalive {
            set(world, keepalive.begin_scans(self.now), Timer::Scan);
        }
    }

    /// Scans a part of the table, and enrols the clients that connected since the previous scan.
    pub(super) fn scan(&mut self, world: &mut impl World) {
        let Some(keepalive) = &mut self.deadlines.keepalive else {
            return;
        };
        if self.clients.is_empty() {
            return keepalive.end_scans();
        }
        keepalive.sweep(self.clients.len(), |token| {
            self.clients.get(token).is_some()
        });
        let begin = keepalive.scan_from();
        // A deadline is returned only if it is earlier than those before: one timer, for the last.
        let mut earliest = None;
        let mut next = self.clients.next_from(begin);
        while let Some(token) = next.filter(|token| token.index() < begin + SCAN_SLOTS) {
            if let Some(client) = self.clients.get_mut(token)
                && !client.is_enrolled
                // If there is no memory for this client, the next scan tries it again.
                && let Ok(deadline) = keepalive.enrol(token, self.now)
            {
                client.is_enrolled = true;
                earliest = deadline.or(earliest);
            }
            next = self.clients.next_from(token.index() + 1);
        }
        set(world, earliest, Timer::Probe);
        let deadline = keepalive.scanned(next.map(Token::index), self.now);
        set(world, Some(deadline), Timer::Scan);
    }

    /// Checks clients that may have been silent for long enough, and probes those that have been.
    pub(super) fn probe_silent(&mut self, world: &mut impl World<Socket = S>) {
        let Some(keepalive) = &mut self.deadlines.keepalive else {
            return;
        };
        let mut left = keepalive.begin_burst(self.now, self.clients.len());
        while left > 0
            && let Some(keepalive) = &mut self.deadlines.keepalive
            && let Some(token) = keepalive.take_due()
        {
            // Connections that are closed cost no call; counting them would delay the others.
            if self.clients.get(token).is_some() {
                left -= 1;
                self.check_client(world, token);
            }
        }
        let next = self.deadlines.keepalive.as_mut().map(Keepalive::next_timer);
        for deadline in next.into_iter().flatten() {
            set(world, deadline, Timer::Probe);
        }
    }

    fn check_client(&mut self, world: &mut impl World<Socket = S>, token: Token) {
        let output = self.output(token);
        let Some(keepalive) = &mut self.deadlines.keepalive else {
            return;
        };
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let verdict = output.map(|output| keepalive.judge(token, &output));
        let after = match verdict {
            Some(Verdict::Vanished) => return self.close_vanished(token),
            Some(Verdict::Wait(time)) => time,
            Some(Verdict::Probe) => {
                if let Err(error) = client.socket.probe() {
                    debug!("connection {token} cannot be probed: {error}");
                }
                keepalive.pause()
            }
            None => keepalive.pause(),
        };
        match keepalive.reschedule(token, self.now, after) {
            Ok(deadline) => set(world, deadline, Timer::Probe),
            // The next scan enrols it again.
            Err(_) => client.is_enrolled = false,
        }
    }

    fn close_vanished(&mut self, token: Token) {
        if let Some(suppressed) = self.warnings.vanished.record(self.now) {
            let label = &self.label;
            warn!(
                "{label}connection {token} is reset: it has answered none of {KEEPALIVE_PROBES} \
                 keep-alive probes (--keepalive){suppressed}"
            );
        }
        self.close(token, CloseReason::TimedOut);
    }
}
