//! What a run knows of its own side and of the network: the grounds of its verdict. Pure data.

use std::time::Duration;

use crate::load::latency::Latency;

/// What was seen while messages were due.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The threads of the generator.
    pub machine: Machine,
    /// The connections, as the kernel saw them.
    pub network: Network,
    /// Times of a turn of the loop, from the end of a wait to the next one.
    pub turns: Latency,
    /// All turns together in which something was done.
    pub worked: Duration,
    /// The longest time in which messages were outstanding and no byte of a reply came.
    pub silence: Duration,
}

/// What the threads of a run had of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// CPU time.
    pub cpu: Duration,
    /// The time of the thread for which that was counted; of several threads, the sum.
    pub wall: Duration,
    /// The share of its time in which a thread ran; of several, that of the busiest.
    pub busy: f64,
    /// The share of its time in which a thread was ready to run, and another one had its CPU; of
    /// several threads, the largest. See the second number of /proc/thread-self/schedstat.
    pub starved: f64,
    /// CPU time that the host took from this machine, of all CPUs: steal in /proc/stat.
    pub stolen: Duration,
}

/// TCP_INFO of one connection, see tcp(7) and linux/tcp.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Segments with data that were sent.
    pub segments: u64,
    /// Segments that were sent again.
    pub resent: u64,
    /// Those of them that the other side had already: nothing was lost.
    pub resent_in_vain: u64,
    /// Segments with data that came out of their order: what the other side sent was lost, or took
    /// another way.
    pub out_of_order: u64,
    /// Time with data in flight.
    pub busy: Duration,
    /// The part of it in which the peer's window was the limit.
    pub window_limited: Duration,
    /// The part of it in which the send buffer was the limit.
    pub buffer_limited: Duration,
    /// The smoothed round-trip time by acknowledgment.
    pub round_trip: Duration,
    /// The smallest one seen.
    pub round_trip_least: Duration,
}

/// The paths of all connections together.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Sums over all connections.
    pub segments: u64,
    /// See [`Path::resent`]; without SYNs, and without those in vain.
    pub resent: u64,
    /// See [`Path::resent_in_vain`].
    pub resent_in_vain: u64,
    /// See [`Path::out_of_order`].
    pub out_of_order: u64,
    /// SYNs that were sent again: lost, or the server's queue was full.
    pub syns_resent: u64,
    /// See [`Path::busy`].
    pub busy: Duration,
    /// See [`Path::window_limited`].
    pub window_limited: Duration,
    /// See [`Path::buffer_limited`].
    pub buffer_limited: Duration,
    /// The time that all segments with data had taken at the smallest round-trip time.
    pub round_trips: Duration,
    /// How far the round-trip time stood above its smallest value at the end of a connection.
    pub growth: Latency,
}

impl Machine {
    /// Adds those of another thread. What the host took is the same for all of them.
    pub fn merge(&mut self, other: &Machine) {
        self.cpu += other.cpu;

        self.wall += other.wall;
        self.busy = self.busy.max(other.busy);
        self.starved = self.starved.max(other.starved);
        self.stolen = self.stolen.max(other.stolen);
    }
}

impl Network {
    /// Adds a connection that came up after sending so many SYNs again.
    pub fn came_up(&mut self, path: &Path) {
        self.syns_resent += path.resent;
    }

    /// Adds what a connection went through from when it came up to its end.
    pub fn ended(&mut self, at_first: u64, path: &Path) {
        self.segments += path.segments;
        let in_vain = at_first + path.resent_in_vain;
        self.resent += path.resent.saturating_sub(in_vain);
        self.resent_in_vain += path.resent_in_vain;
        self.out_of_order += path.out_of_order;
        self.busy += path.busy;
        self.window_limited += path.window_limited;
        self.buffer_limited += path.buffer_limited;
        let segments = u32::try_from(path.segments).unwrap_or(u32::MAX);
        self.round_trips += path.round_trip_least.saturating_mul(segments);
        let growth = path.round_trip.saturating_sub(path.round_trip_least);
        self.growth.record(growth);
    }

    /// The mean time for which a segment with data was on its way, beyond the smallest round trip
    /// and by no fault of a buffer or a window.
    pub fn held_up(&self) -> Duration {
        let limited = self.window_limited + self.buffer_limited;
        let time = self.busy.saturating_sub(limited + self.round_trips);
        time.div_f64(self.segments.max(1) as f64)
    }

    /// Adds the connections of another thread.
    pub fn merge(&mut self, other: &Network) {
        self.segments += other.segments;
        self.resent += other.resent;
        self.resent_in_vain += other.resent_in_vain;
        self.out_of_order += other.out_of_order;
        self.syns_resent += other.syns_resent;
        self.busy += other.busy;
        self.window_limited += other.window_limited;
        self.buffer_limited += other.buffer_limited;
        self.round_trips += other.round_trips;
        self.growth.merge(&other.growth);
    }
}

impl Evidence {
    /// Adds what another thread saw.
    pub fn merge(&mut self, other: &Evidence) {
        self.machine.merge(&other.machine);
        self.network.merge(&other.network);
        self.turns.merge(&other.turns);
        self.worked += other.worked;
        self.silence = self.silence.max(other.silence);
    }
}

/// A part of a time; 0 of no time.
pub fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        0.0
    } else {
        part.as_secs_f64() / whole.as_secs_f64()
    }
}
