//! Every number that bounds the server's work or memory, with its unit and its reason. Pure.

use std::time::Duration;

const KIB: usize = 1024;

/// TCP_NOTSENT_LOWAT of every client, in bytes, unless the user says otherwise: what the kernel
/// takes of replies beyond the client's window. With it a client that never reads holds 0.6 MB of
/// the kernel's memory, without it 4.4 MB, of which 530 clients use up all that TCP may have. A
/// large read's worth: with half of it the kernel leaves a part of every second large reply behind,
/// and a message of 1 MiB takes 1.4 times the CPU time.
pub const UNSENT_MOST: u32 = LARGE_READ_BYTES as u32;

/// A client that leaves so many keep-alive probes unanswered is given up.
pub const KEEPALIVE_PROBES: u32 = 4;

/// What one read may take, of many clients and of few.
const READ_BYTES: usize = 64 * KIB;
const LARGE_READ_BYTES: usize = 256 * KIB;

/// The limits of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at a time; at the cap accepting pauses and who comes waits in the kernel's queue.
    pub max_connections: usize,
    /// Clients of one IPv4 address or IPv6 /64 at a time; `None`: no limit, since one machine that
    /// loads the server is the normal client.
    pub max_connections_per_ip: Option<u32>,
    /// How long a client that is owed nothing may be silent; `None`: for ever. A client that thinks
    /// does no harm, and the kernel's keepalive finds those that have vanished.
    pub idle_timeout: Option<Duration>,
    /// A client that is owed bytes must acknowledge all of them or at least `min_rate` times this
    /// time in each such time, or it is reset; `None`: it may take for ever. Otherwise clients that
    /// never read would hold the kernel's memory.
    pub stall_timeout: Option<Duration>,
    /// In bytes a second, see `stall_timeout`.
    pub min_rate: u64,
    /// How long a client may be silent before it is probed, [`KEEPALIVE_PROBES`] times with a pause
    /// of a quarter of this time after each; `None`: for ever. A client that answers no probe has
    /// lost its power or its network, and would keep its place for ever.
    pub keepalive: Option<Duration>,
    /// The shortest pause after a probe: a shorter one would take a slow path for a dead one, since
    /// a round trip may take a second (RFC 6298).
    pub keepalive_pause_least: Duration,
    /// Silent clients that may be checked, and probed, at once; then none for `probe_gap`. The
    /// first number is for few clients, and it grows with them up to the second. The kernel sends
    /// together the probes that are requested within one tick of its clock (1 to 10 ms), and queues
    /// 1,000 packets: even in the longest tick only half of them are probes.
    pub probe_burst: (usize, usize),
    /// See `probe_burst`.
    pub probe_gap: Duration,
    /// Bytes that one read may take.
    pub read_bytes: usize,
    /// Bytes that one read may take when few are ready, at least `read_bytes`. It is also the most
    /// that a connection can have pending, since a connection with pending bytes is not read: what
    /// a client that never reads costs. A MiB in four reads takes a quarter less of the CPU than in
    /// sixteen.
    pub large_read_bytes: usize,
    /// So many are few: a turn of theirs takes no longer than one for sixteen with small reads.
    pub large_read_clients: usize,
    /// Bytes that one connection may have echoed in a turn before the others get theirs: a fast
    /// peer must not hold the loop. One read's worth: beside eight fast peers the replies to a
    /// thousand others take 1.2 times as long, 1.8 with four reads, 2.5 with sixteen; and the fast
    /// ones lose nothing by it (`cargo bench --bench fairness`).
    pub turn_bytes: usize,
    /// Clients that may be read from before they are answered, see `engine::serving`. With sixteen
    /// each message of a thousand clients costs a fiftieth more, with four a tenth; with 64 no
    /// less. The first waits for the short reads of the others: 20 µs.
    pub group_clients: usize,
    /// Bytes that all connections together may have echoed in a turn for its events, and as many
    /// again for those who wait from earlier turns: so long do signals, timers and new clients wait
    /// at most. A budget that is begun is served to its end.
    pub whole_turn_bytes: u64,
    /// Clients that one listener may accept in a turn, so that a storm of connects leaves time for
    /// those who are already connected.
    pub turn_accepts: usize,
    /// Pauses before accepting is tried again when descriptors or memory have run out: the first,
    /// doubled each time up to the last. A close retries at once; this is for descriptors that
    /// someone else frees. The last is below the 100 ms within which a client is to be served.
    pub accept_pause: (Duration, Duration),
    /// How often a stopping server looks which connections have fallen silent.
    pub drain_look: Duration,
    /// A client for which no byte came or went for so long has ended what it was at, and is sent
    /// FIN by a stopping server. Shorter gaps are part of a transfer: a machine is busy, or a
    /// segment was lost and is sent again within a second (RFC 6298).
    pub drain_silence: Duration,
    /// How long a client may take to close its side after the server has closed its own. Closing
    /// the socket sooner would reset a client that is still sending.
    pub linger: Duration,
    /// How long a stopping server goes on serving. Who has not fallen silent gets FIN one `linger`
    /// before its end; who is owed bytes at its end is cut.
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
    /// Returns the part of one of so many shards. Amounts that the process may send at once are
    /// divided; the places for clients are shared, see [`places`](crate::server::places).
    pub fn share(self, shards: usize) -> Limits {
        let (least, most) = self.probe_burst;
        let share = |burst: usize| (burst / shards).max(1);
        Limits {
            probe_burst: (share(least), share(most)),
            ..self
        }
    }

    /// Returns how long after a probe the next one comes.
    pub fn keepalive_pause(&self) -> Duration {
        (self.keepalive.unwrap_or_default() / 4).max(self.keepalive_pause_least)
    }

    /// Returns how long after its last segment a client that has vanished is gone at the latest.
    pub fn keepalive_end(&self) -> Option<Duration> {
        Some(self.keepalive? + self.keepalive_pause() * KEEPALIVE_PROBES)
    }

    /// What a client that is owed bytes must acknowledge in one `stall_timeout`.
    pub fn least_progress(&self) -> u64 {
        let seconds = self.stall_timeout.unwrap_or_default().as_secs_f64();
        // At least something: with a rate of 0 a client may be slow, and not silent.
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
