//! Every number that bounds the server's work or memory, with its unit and its reason.

use std::time::Duration;

const KIB: usize = 1024;

/// The limits of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one read may take. It is also the most that a connection can have pending, since
    /// a connection with pending bytes is not read: what a client that never reads costs.
    pub read_bytes: usize,
    /// Bytes that one connection may have echoed in a turn before the others get theirs: a fast
    /// peer must not hold the loop.
    pub turn_bytes: usize,
    /// Clients that one listener may accept in a turn, so that a storm of connects leaves time for
    /// those who are already connected.
    pub turn_accepts: usize,
    /// Pauses before accepting is tried again when descriptors or memory have run out: the first,
    /// doubled each time up to the last. A close retries at once; this is for descriptors that
    /// someone else frees.
    pub accept_pause: (Duration, Duration),
    /// How often a stopping server looks which connections have fallen silent. One that moved no
    /// byte from one look to the next has been answered in full and is closed; this is longer than
    /// the gaps within a transfer.
    pub drain_look: Duration,
    /// How long a client may take to close its side after a stopping server has closed its own.
    /// Closing the socket sooner would reset a client that is still sending.
    pub linger: Duration,
    /// How long a stopping server takes more from clients that do not fall silent, and how long a
    /// client may take none of its replies before it is cut.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            read_bytes: 64 * KIB,
            turn_bytes: 256 * KIB,
            turn_accepts: 256,
            accept_pause: (Duration::from_millis(10), Duration::from_millis(100)),
            drain_look: Duration::from_millis(200),
            linger: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
