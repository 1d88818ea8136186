//! The send queue of a client's kernel: bytes for which the server's kernel has no room, including
//! urgent ones, and FIN, in their order.

use std::collections::VecDeque;

use crate::kernel::Coming;

/// Maximum number of bytes of a segment over the loopback interface.
pub const SEGMENT_MOST: usize = 65_483;

/// The path from one client to the server.
#[derive(Debug)]
pub struct Wire {
    bytes: VecDeque<u8>,
    /// The places of urgent bytes in the stream.
    urgent: VecDeque<usize>,
    /// The place in the stream of the first of `bytes`.
    place: usize,
    /// The size of the client's send buffer.
    capacity: usize,
    segment: usize,
    /// Whether the last segment waits until it is full or FIN follows.
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
    /// Creates a path with this send buffer, and with segments of at most so many bytes.
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

    /// Returns whether the client has shut down its side.
    pub fn is_shut(&self) -> bool {
        self.fin != Fin::No
    }

    /// Returns whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.bytes.is_empty() && self.fin != Fin::Waits
    }

    /// Accepts a prefix of the bytes and returns its length.
    pub fn take(&mut self, bytes: &[u8], is_urgent: bool, is_corked: bool) -> usize {
        let count = bytes.len().min(self.capacity - self.bytes.len());
        self.bytes.extend(&bytes[..count]);
        if is_urgent && count > 0 {
            self.urgent.push_back(self.place + self.bytes.len() - 1);
        }
        self.is_corked = is_corked;
        count
    }

    /// Appends FIN.
    pub fn shut(&mut self) {
        if self.fin == Fin::No {
            self.fin = Fin::Waits;
            self.shares_fin = std::mem::take(&mut self.is_corked);
        }
    }

    /// Drops everything in flight because the connection no longer exists; RST answers the bytes.
    pub fn lose(&mut self) {
        self.is_lost |= !self.bytes.is_empty();
        self.bytes.clear();
        self.urgent.clear();
        if self.fin == Fin::Waits {
            self.fin = Fin::Sent;
        }
    }

    /// Returns whether bytes were lost.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Returns whether FIN is next and shares the segment of the bytes before it.
    pub fn fin_is_next(&self) -> bool {
        self.shares_fin && self.bytes.is_empty() && self.fin == Fin::Waits
    }

    /// Returns the item that arrives next, if there is room for so many bytes.
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
