//! Samples TCP_INFO of the engine's connections while messages are due: of some connections in
//! turn, and of those with messages that have been unanswered for long.

use std::time::Instant;

use crate::load::engine::world::Socket;
use crate::load::engine::{Engine, Phase, Stage};
use crate::load::plan::SAMPLE_CONNECTIONS;
use crate::load::results::evidence::EXAMINE_AGE;

/// Maximum number of connections whose TCP_INFO is read in one scan for unacknowledged messages;
/// the others are assumed to be like them.
const EXAMINED_MAX: u32 = 32;

impl<S: Socket> Engine<S> {
    /// Reads TCP_INFO of some connections, at each call of the next ones in turn. Does nothing
    /// before the end of the warm-up, and after sending has ended.
    pub(super) fn sample_paths(&mut self, now: Instant) {
        if self.stage != Stage::Running || now < self.recorder.warmup_end() {
            return;
        }
        for _ in 0..self.lines.len().min(SAMPLE_CONNECTIONS) {
            self.scan_state.line = (self.scan_state.line + 1) % self.lines.len();
            let token = self.lines[self.scan_state.line].token;
            let peer = token.and_then(|token| self.peers.get_mut(token));
            if let Some(peer) = peer.filter(|peer| peer.phase == Phase::Up) {
                let network = &mut self.evidence.network;
                network.sample(&mut peer.seen, peer.socket.path());
            }
        }
    }

    /// Finds messages that have become so old since the scan before that they should be
    /// acknowledged, and records whether they are.
    pub(super) fn scan_unacknowledged(&mut self, now: Instant) {
        let Some(until) = now.checked_sub(EXAMINE_AGE) else {
            return;
        };
        let from = std::mem::replace(&mut self.scan_state.sent_before, until);
        let from = from.max(self.recorder.warmup_end());
        let network = &mut self.evidence.network;
        let mut left = EXAMINED_MAX;
        for peer in self.peers.iter().filter(|peer| peer.phase == Phase::Up) {
            let sent = peer.connection.messages();
            let sent = sent.filter_map(|message| Some((message.sent_at()?, message.end())));
            let old = sent.filter(|(at, _)| (from..until).contains(at));
            let old: Vec<u64> = old.map(|(_, end)| end).collect();
            if old.is_empty() {
                continue;
            }
            let path = match left.checked_sub(1) {
                None => None,
                Some(less) => {
                    left = less;
                    network.read(peer.socket.path())
                }
            };
            network.add_under_way(&old, path.as_ref());
        }
    }
}
