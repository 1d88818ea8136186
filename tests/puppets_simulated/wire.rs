//! What a client's kernel holds and the server's has no room for: bytes, urgent ones among them,
//! and FIN, in their order.

use std::collections::VecDeque;

use crate::kernel::Coming;

/// A segment over the loopback interface takes at most so much.
pub const SEGMENT_MOST: usize = 65_483;

/// One client's way to the server.
#[derive(Debug)]
pub struct Wire {
    bytes: VecDeque<u8>,
    /// The places of urgent bytes in the stream.
    urgent: VecDeque<usize>,
    /// The place of the first of `bytes`.
    place: usize,
    /// The client's send buffer.
    capacity: usize,
    segment: usize,
    /// The last segment waits until it is full, or followed by FIN.
    is_corked: bool,
    shares_fin: bool,
    is_lost: bool,
    fin: Fin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    No,
    Waits,
    Sent,
}

impl Wire {
    /// A way with this send buffer, in segments of at most so many bytes.
    pub fn new(capacity: usize, segment: usize) -> Wire {
        Wire {
            bytes: VecDeque::new(),
            urgent: VecDeque::new(),
            place: 0,
            capacity,
            segment,
            is_corked: false,
            shares_fin: false,
            is_lost: false,
            fin: Fin::No,
        }
    }

    /// Whether the client has shut its side.
    pub fn is_shut(&self) -> bool {
        self.fin != Fin::No
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.bytes.is_empty() && self.fin != Fin::Waits
    }

    /// Takes a prefix, and tells its length.
    pub fn take(&mut self, bytes: &[u8], is_urgent: bool, is_corked: bool) -> usize {
        let count = bytes.len().min(self.capacity - self.bytes.len());
        self.bytes.extend(&bytes[..count]);
        if is_urgent && count > 0 {
            self.urgent.push_back(self.place + self.bytes.len() - 1);
        }
        self.is_corked = is_corked;
        count
    }

    /// FIN comes behind the rest.
    pub fn shut(&mut self) {
        if self.fin == Fin::No {
            self.fin = Fin::Waits;
            self.shares_fin = std::mem::take(&mut self.is_corked);
        }
    }

    /// What is on its way finds nobody: bytes are answered by RST.
    pub fn lose(&mut self) {
        self.is_lost |= !self.bytes.is_empty();
        self.bytes.clear();
        self.urgent.clear();
        if self.fin == Fin::Waits {
            self.fin = Fin::Sent;
        }
    }

    /// Whether bytes were lost.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// FIN shares the segment of the bytes before it.
    pub fn fin_is_next(&self) -> bool {
        self.shares_fin && self.bytes.is_empty() && self.fin == Fin::Waits
    }

    /// What arrives next where there is room for so many bytes.
    pub fn next(&mut self, room: usize) -> Option<Coming> {
        if self.bytes.is_empty() {
            let waits = self.fin == Fin::Waits;
            return waits.then(|| {
                self.fin = Fin::Sent;
                Coming::Fin
            });
        }
        if self.urgent.front() == Some(&self.place) {
            self.urgent.pop_front();
            self.place += 1;
            return self.bytes.pop_front().map(Coming::Urgent);
        }
        let until_urgent = self.urgent.front().map(|&place| place - self.place);
        let until_urgent = until_urgent.unwrap_or(usize::MAX);
        let count = self.bytes.len().min(self.segment).min(until_urgent);
        if self.is_corked && count < self.segment {
            return None;
        }
        let count = count.min(room);
        self.place += count;
        (count > 0).then(|| Coming::Bytes(self.bytes.drain(..count).collect()))
    }
}
