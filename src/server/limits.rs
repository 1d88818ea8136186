//! Every number that bounds the server's work or memory, with its unit and its reason. Pure.

use std::time::Duration;

const KIB: usize = 1024;

/// Default TCP_NOTSENT_LOWAT of every client, in bytes: the amount of replies that the kernel
/// buffers beyond the client's receive window. With it a client that never reads holds 0.6 MB of
/// kernel memory, without it 4.4 MB; 530 clients with 4.4 MB each use up all memory that TCP may
/// have. The value is that of a large read: with half of it the kernel does not take all of every
/// second large reply, and a message of 1 MiB takes 1.4 times the CPU time.
pub const UNSENT_MOST: u32 = LARGE_READ_BYTES as u32;

/// Number of unanswered keep-alive probes after which a client is considered gone.
pub const KEEPALIVE_PROBES: u32 = 4;

/// Maximum number of bytes of one read, for many ready clients and for few.
const READ_BYTES: usize = 64 * KIB;
const LARGE_READ_BYTES: usize = 256 * KIB;

/// The limits of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of clients at a time. At the limit, accepting pauses and new clients wait in
    /// the accept queue.
    pub max_connections: usize,
    /// Maximum number of clients of one IPv4 address or IPv6 /64 at a time; `None`: no limit, since
    /// the normal client is one machine that generates load.
    pub max_connections_per_ip: Option<u32>,
    /// Time for which a client that is owed nothing may be silent; `None`: no limit. A client that
    /// pauses does no harm, and the keep-alive finds those that have vanished.
    pub idle_timeout: Option<Duration>,
    /// Time in which a client that is owed bytes must acknowledge all of them, or at least
    /// `min_rate` times this time; if it does not, it is reset. The rule applies again after each
    /// such time. `None`: no limit; then clients that never read can hold kernel memory for ever.
    pub stall_timeout: Option<Duration>,
    /// Minimum rate of acknowledgment in bytes per second, see `stall_timeout`.
    pub min_rate: u64,
    /// Time for which a client may be silent before it is probed, [`KEEPALIVE_PROBES`] times with a
    /// pause of a quarter of this time after each probe; `None`: no probes. A client that answers
    /// no probe has lost its power or its network, and would otherwise hold its place for ever.
    pub keepalive: Option<Duration>,
    /// Minimum pause after a probe: with a shorter one a slow path would be mistaken for a dead
    /// one, since a round trip may take a second (RFC 6298).
    pub keepalive_pause_least: Duration,
    /// Maximum number of silent clients that are checked, and probed, at once; then none are for
    /// `probe_gap`. The first number applies to few clients; the maximum grows with them up to the
    /// second. The kernel sends the probes that are requested within one tick of its clock (1 to 10
    /// ms) together, and queues 1,000 packets: even in the longest tick only half of them are
    /// probes.
    pub probe_burst: (usize, usize),
    /// Time between two bursts, see `probe_burst`.
    pub probe_gap: Duration,
    /// Maximum number of bytes of one read.
    pub read_bytes: usize,
    /// Maximum number of bytes of one read when few clients are ready, at least `read_bytes`. It is
    /// also the maximum that a connection can have pending, since a connection with pending bytes
    /// is not read: the cost of a client that never reads. A message of 1 MiB in four reads takes a
    /// quarter less CPU time than in sixteen.
    pub large_read_bytes: usize,
    /// Maximum number of ready clients that have large reads: a turn of that many takes no longer
    /// than one of sixteen clients with small reads.
    pub large_read_clients: usize,
    /// Maximum number of bytes of one connection that are echoed in a turn before the others are
    /// served: a fast peer must not hold the event loop. One read's worth: beside eight fast peers
    /// the replies to a thousand other clients take 1.2 times as long as without them, 1.8 times
    /// with four reads, 2.5 times with sixteen; and the fast ones lose nothing by the limit (`cargo
    /// bench --bench fairness`).
    pub turn_bytes: usize,
    /// Maximum number of clients that are read from before they are answered, see
    /// `engine::serving`. With sixteen instead, each message of a thousand clients costs a fiftieth
    /// more, with four a tenth more; with 64 no less. The first client of a group waits for the
    /// short reads of the others: 20 µs.
    pub group_clients: usize,
    /// Maximum number of bytes of all connections that are echoed in a turn for its events, and as
    /// many again for the clients that are in the queue from earlier turns. This bounds the time
    /// that signals, timers and new clients wait. A client that has begun its own budget may use
    /// all of it.
    pub whole_turn_bytes: u64,
    /// Maximum number of clients that one listener accepts in a turn, so that a burst of connects
    /// leaves time for the clients that are already connected.
    pub turn_accepts: usize,
    /// Pauses before accepting is tried again when descriptors or memory have run out: the first,
    /// and the maximum up to which the pauses double. A close retries at once; the pauses are for
    /// descriptors that are freed elsewhere. The maximum is below the 100 ms within which a client
    /// is to be served.
    pub accept_pause: (Duration, Duration),
    /// Interval at which a stopping server checks which connections have fallen silent.
    pub drain_look: Duration,
    /// Time without a byte in either direction after which a stopping server considers a transfer
    /// finished, and sends FIN to the client. Shorter gaps are part of a transfer: a machine is
    /// busy, or a segment was lost and is retransmitted within a second (RFC 6298).
    pub drain_silence: Duration,
    /// Time in which a client must close its side after the server has closed its own. Closing the
    /// socket sooner would reset a client that is still sending.
    pub linger: Duration,
    /// Time for which a stopping server continues to serve. A client that has not fallen silent is
    /// sent FIN one `linger` before the end of it; a client that is owed bytes at the end is reset.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: usize::MAX,
            max_connections_per_ip: None,
            idle_timeout: None,
            stall_timeout: Some(Duration::from_secs(30)),
            min_rate: 512,
            keepalive: None,
            keepalive_pause_least: Duration::from_secs(1),
            probe_burst: (16, 50),
            probe_gap: Duration::from_millis(1),
            read_bytes: READ_BYTES,
            large_read_bytes: LARGE_READ_BYTES,
            large_read_clients: 4,
            turn_bytes: READ_BYTES,
            group_clients: 32,
            whole_turn_bytes: 4 << 20,
            turn_accepts: 256,
            accept_pause: (Duration::from_millis(10), Duration::from_millis(80)),
            drain_look: Duration::from_millis(200),
            drain_silence: Duration::from_secs(1),
            linger: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Returns the limits of one of `shards` shards. Amounts that the process may send at once are
    /// divided; the places for clients are shared, see
    /// [`connection_limit`](crate::server::connection_limit).
    pub fn share(self, shards: usize) -> Limits {
        let (least, most) = self.probe_burst;
        let share = |burst: usize| (burst / shards).max(1);
        Limits {
            probe_burst: (share(least), share(most)),
            ..self
        }
    }

    /// Returns the time between a probe and the next one.
    pub fn keepalive_pause(&self) -> Duration {
        (self.keepalive.unwrap_or_default() / 4).max(self.keepalive_pause_least)
    }

    /// Returns the maximum time between the last segment of a client that has vanished and its
    /// reset.
    pub fn keepalive_end(&self) -> Option<Duration> {
        Some(self.keepalive? + self.keepalive_pause() * KEEPALIVE_PROBES)
    }

    /// Returns the number of bytes that a client that is owed bytes must acknowledge in one
    /// `stall_timeout`.
    pub fn least_progress(&self) -> u64 {
        let seconds = self.stall_timeout.unwrap_or_default().as_secs_f64();
        // At least one byte: with a rate of 0 a client may be slow, but not silent.
        ((self.min_rate as f64 * seconds) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_together_send_no_larger_bursts_than_one() {
        let limits = Limits::default();
        assert_eq!(limits.share(1), limits);
        assert_eq!(limits.share(4).probe_burst, (4, 12));
        assert_eq!(limits.share(100).probe_burst, (1, 1));
    }
}
