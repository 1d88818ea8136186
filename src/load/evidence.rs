//! What a run knows of its own side and of the network: the grounds of its verdict. Pure data.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::load::latency::Latency;
use crate::load::stalls::Silences;

/// What was seen while messages were due.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The threads of the generator.
    pub machine: Machine,
    /// The connections, as the kernel saw them.
    pub network: Network,
    /// The ways to the targets, as packets see them that their kernels answer; `None`: all targets
    /// are on this host.
    pub probe: Option<Probe>,
    /// Times of a turn of the loop, from the end of a wait to the next one.
    pub turns: Latency,
    /// All turns together in which something was done.
    pub worked: Duration,
    /// The longest time in which messages were outstanding and no byte of a reply came.
    pub silence: Duration,
    /// The silences that may be stalls of the server.
    pub silences: Silences,
    /// How long the threads were away.
    pub absences: Absences,
}

/// How long a thread was away, see [`crate::load::presence`]; of several threads, the one that was
/// away for the largest part of its time.
#[derive(Clone, Debug, Default)]
pub struct Absences {
    /// The time that was accounted for.
    pub watched: Duration,
    /// The part of it for which the thread was away.
    pub absent: Duration,
    /// The longest absence.
    pub longest: Duration,
    /// Of every message of every thread that was outstanding while its thread was away for longer
    /// than [`crate::load::results::LATE`]: for how long.
    pub held: Latency,
}

impl Absences {
    /// Returns the share of its time for which the thread was away.
    pub fn share(&self) -> f64 {
        share(self.absent, self.watched)
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Absences) {
        if other.share() > self.share() {
            self.watched = other.watched;
            self.absent = other.absent;
        }
        self.longest = self.longest.max(other.longest);
        self.held.merge(&other.held);
    }
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
    /// CPU time of the whole process meanwhile: that of the threads above, and of a server that the
    /// run has of its own. Of several threads, the largest.
    pub process: Duration,
    /// The time for which the CPU quota of the process's cgroup, or of one above it, was used up:
    /// throttled_usec in cpu.stat, see cgroups(7).
    pub throttled: Duration,
    /// CPU time that the host took from this machine, of all CPUs: steal in /proc/stat.
    pub stolen: Duration,
    /// What TCP counted on this host meanwhile.
    pub host: Host,
}

/// What TCP counted of all connections of this host, those of other programs among them: so it
/// decides nothing. See TcpExt in /proc/net/netstat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Segments that came though they had come before: TCPDSACKOldSent, TCPDSACKOfoSent. Their
    /// acknowledgment was lost, or came too late.
    pub came_twice: u64,
    /// Timeouts after which a segment was sent again: TCPTimeouts.
    pub timeouts: u64,
    /// SYNs that were sent again: TCPSynRetrans.
    pub syns_resent: u64,
    /// SYNs and connections that found the queue of a listener here full: ListenOverflows.
    pub queue_overflows: u64,
}

impl Host {
    /// Returns what was counted between an earlier reading and this one.
    pub fn since(&self, earlier: &Host) -> Host {
        Host {
            came_twice: self.came_twice.saturating_sub(earlier.came_twice),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            syns_resent: self.syns_resent.saturating_sub(earlier.syns_resent),
            queue_overflows: self.queue_overflows.saturating_sub(earlier.queue_overflows),
        }
    }

    /// Takes the larger of each: threads count the same host over nearly the same time.
    fn merge(&mut self, other: &Host) {
        self.came_twice = self.came_twice.max(other.came_twice);
        self.timeouts = self.timeouts.max(other.timeouts);
        self.syns_resent = self.syns_resent.max(other.syns_resent);
        self.queue_overflows = self.queue_overflows.max(other.queue_overflows);
    }
}

/// The round trips of packets that the kernels of the targets answer. No program and no delayed
/// acknowledgment has a part in them, so they tell a queue on the way from a slow server also where
/// TCP cannot.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// How the targets were asked; where that is not the same for all, each way once.
    pub how: Vec<&'static str>,
    /// Targets on other hosts that were asked: of many, the first few.
    pub targets: u32,
    /// Those of them that never answered.
    pub silent: u32,
    /// Packets that were sent while messages were due and were not answered within
    /// [`PROBE_LOST`], other than those whose answers the target limits.
    pub lost: u64,
    /// The smallest round trip, that of packets before the first message included; of several
    /// targets, the smallest of all.
    pub least: Option<Duration>,
    /// The round trips of the answered ones.
    pub round_trips: Latency,
    /// How far they stood above the smallest one of their target.
    pub growth: Latency,
}

/// A packet that was not answered for so long is lost.
pub const PROBE_LOST: Duration = Duration::from_secs(1);

/// Packets that must lie beyond a percentile of their round trips: they are sent at even times, and
/// fewer than messages.
const PROBES_BEYOND: f64 = 5.0;

impl Probe {
    /// Returns how far the way stood above its smallest round trip at a percentile of the time;
    /// `None`: too few packets were answered to know.
    pub fn way_at(&self, percentile: f64) -> Option<Duration> {
        let growth = self.growth.distribution()?;
        let beyond = growth.count() as f64 * (100.0 - percentile) / 100.0;
        (beyond >= PROBES_BEYOND).then(|| growth.nearest(percentile).value)
    }
}

/// TCP_INFO of one connection, see tcp(7) and linux/tcp.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Segments with data that were sent.
    pub segments: u64,
    /// Segments that the other side has acknowledged.
    pub acknowledged: u64,
    /// Bytes of them.
    pub acknowledged_bytes: u64,
    /// Bytes that the kernel holds and has not sent yet.
    pub unsent_bytes: u64,
    /// Segments that were sent again.
    pub resent: u64,
    /// Those of them that the other side had already: nothing was lost.
    pub resent_in_vain: u64,
    /// Segments with data that came out of their order: what the other side sent was lost, or took
    /// another way.
    pub out_of_order: u64,
    /// How long no data has been sent.
    pub quiet: Duration,
    /// Time with data in flight.
    pub busy: Duration,
    /// The part of it in which the peer's window was the limit.
    pub window_limited: Duration,
    /// The part of it in which the send buffer was the limit.
    pub buffer_limited: Duration,
    /// The smoothed round-trip time by acknowledgment.
    pub round_trip: Duration,
    /// Its mean deviation.
    pub round_trip_deviation: Duration,
    /// The smallest one seen.
    pub round_trip_least: Duration,
    /// Bytes a second at which data was acknowledged last.
    pub delivery_rate: u64,
}

/// A message that has been under way for so long is examined: one that waits for its resending does
/// so for 200 ms (TCP_RTO_MIN) and longer, so a look every 100 ms finds each of those, once.
pub const UNDER_WAY: Duration = Duration::from_millis(100);

/// What an acknowledgment may be held back for, beyond the round trip: Linux waits for 40 ms, in
/// ticks of its clock, or for a round trip when that is longer.
pub const HELD_BACK: Duration = Duration::from_millis(50);

/// The counters of a connection's TCP_INFO when that was last read. It is kept small: every
/// connection has one, and there may be very many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// SYNs that were sent again.
    syns_resent: u32,
    /// See [`Path::acknowledged`].
    acknowledged: u32,
    /// See [`Path::resent`].
    resent: u32,
    /// The smoothed round trip in microseconds.
    round_trip: u32,
    /// The looks since then that found nothing newly acknowledged.
    in_vain: u32,
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
    /// How far the round-trip time stood above the smallest one of its connection, in looks at
    /// connections in turn: a percentile is one of the time, not of the messages.
    pub growth: Latency,
    /// The mean deviation of the round-trip time in the same looks.
    pub deviation: Latency,
    /// Those of the looks that found segments sent again since the look before.
    pub looks_resent: u64,
    /// The largest rate at which one connection delivered data, in bytes a second.
    pub delivery_rate: u64,
    /// Messages that were under way for [`UNDER_WAY`] and longer.
    pub under_way: u64,
    /// Those of them that were examined.
    pub examined: u64,
    /// Those of the examined that the other side had not acknowledged.
    pub unacknowledged: u64,
    /// TCP_INFO that could not be read, by errno: so often a connection is missing above, at its
    /// beginning, in a look or at its end.
    pub unread: BTreeMap<i32, u64>,
}

impl Machine {
    /// Adds those of another thread. What the host took is the same for all of them.
    pub fn merge(&mut self, other: &Machine) {
        self.cpu += other.cpu;
        self.wall += other.wall;
        self.busy = self.busy.max(other.busy);
        self.starved = self.starved.max(other.starved);
        self.process = self.process.max(other.process);
        self.throttled = self.throttled.max(other.throttled);
        self.stolen = self.stolen.max(other.stolen);
        self.host.merge(&other.host);
    }
}

impl Path {
    /// The mean round trip of the last of `acknowledged` segments, which moved the smoothed one
    /// from `before`, in microseconds, to where it is.
    ///
    /// The kernel gives each new round trip an eighth of the weight (RFC 6298). What the smoothed
    /// one still holds of the time before is taken out again, so that few segments suffice to show
    /// a way that has grown. A segment that did not count by itself, because one acknowledgment was
    /// for several, only makes the result differ less from the smoothed one.
    fn recent_round_trip(&self, before: u32, acknowledged: u32) -> Duration {
        let left = 0.875f64.powf(acknowledged.into());
        let now = self.round_trip.as_micros() as f64;
        let recent = (now - f64::from(before) * left) / (1.0 - left);
        Duration::from_nanos((recent * 1000.0) as u64)
    }

    /// Returns whether a message with this end was sent, and not acknowledged for longer than the
    /// kernel of the other side may hold an acknowledgment back.
    ///
    /// The age of the message does not tell: its bytes may have waited in the send buffer, and left
    /// a window at a time. So it counts from when data was sent last, also of other messages or
    /// again: what is lost amid others shows in the segments that are sent again, or come out of
    /// order.
    fn holds_up(&self, end: u64) -> bool {
        let is_late = self.quiet > self.round_trip_least * 2 + HELD_BACK;
        is_late && self.unsent_bytes == 0 && self.acknowledged_bytes < end
    }

    fn seen(&self) -> Seen {
        Seen {
            syns_resent: 0,
            acknowledged: small(self.acknowledged),
            resent: small(self.resent),
            round_trip: small(self.round_trip.as_micros() as u64),
            in_vain: 0,
        }
    }
}

/// The kernel counts in 32 bits.
fn small(number: u64) -> u32 {
    number as u32
}

impl Network {
    /// Returns what was read; takes note when it could not be.
    pub fn read(&mut self, path: io::Result<Path>) -> Option<Path> {
        let unread = &mut self.unread;
        let note = |error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(0);
            *unread.entry(errno).or_default() += 1;
        };
        path.inspect_err(note).ok()
    }

    /// Adds a connection that came up, perhaps after sending SYNs again.
    pub fn came_up(&mut self, path: io::Result<Path>) -> Seen {
        let Some(path) = self.read(path) else {
            return Seen::default();
        };
        self.syns_resent += path.resent;
        Seen {
            syns_resent: small(path.resent),
            ..path.seen()
        }
    }

    /// Takes a look at a connection that is up.
    pub fn look(&mut self, seen: &mut Seen, path: io::Result<Path>) {
        if let Some(path) = self.read(path) {
            self.add_look(seen, &path);
        }
    }

    fn add_look(&mut self, seen: &mut Seen, path: &Path) {
        let acknowledged = small(path.acknowledged).wrapping_sub(seen.acknowledged);
        if acknowledged == 0 {
            // What is on its way meanwhile tells when it is acknowledged, for all of that time.
            seen.in_vain = seen.in_vain.saturating_add(1);
            return;
        }
        let looks = u64::from(seen.in_vain) + 1;
        let growth = path.recent_round_trip(seen.round_trip, acknowledged);
        let growth = growth.saturating_sub(path.round_trip_least);
        self.growth.record_many(growth, looks);
        self.deviation.record_many(path.round_trip_deviation, looks);
        self.looks_resent += u64::from(small(path.resent) != seen.resent);
        self.delivery_rate = self.delivery_rate.max(path.delivery_rate);
        *seen = Seen {
            syns_resent: seen.syns_resent,
            ..path.seen()
        };
    }

    /// Adds what a connection went through from when it came up until its FIN: what follows that
    /// is no matter of the messages.
    pub fn ended(&mut self, mut seen: Seen, path: io::Result<Path>) {
        let Some(path) = self.read(path) else {
            return;
        };
        self.add_look(&mut seen, &path);
        self.segments += path.segments;
        let in_vain = u64::from(seen.syns_resent) + path.resent_in_vain;
        self.resent += path.resent.saturating_sub(in_vain);
        self.resent_in_vain += path.resent_in_vain;
        self.out_of_order += path.out_of_order;
        self.busy += path.busy;
        self.window_limited += path.window_limited;
        self.buffer_limited += path.buffer_limited;
        let segments = u32::try_from(path.segments).unwrap_or(u32::MAX);
        self.round_trips += path.round_trip_least.saturating_mul(segments);
    }

    /// Adds messages that have been under way for [`UNDER_WAY`] and longer, each as the end of its
    /// bytes, and the TCP_INFO of their connection if it was read.
    pub fn add_under_way(&mut self, ends: &[u64], path: Option<&Path>) {
        self.under_way += ends.len() as u64;
        if let Some(path) = path {
            self.examined += ends.len() as u64;
            let unacknowledged = ends.iter().filter(|end| path.holds_up(**end));
            self.unacknowledged += unacknowledged.count() as u64;
        }
    }

    /// Returns how many messages were not acknowledged for so long that they, or what answered
    /// them, must have been lost or held up on the way: the share of those that were examined,
    /// times all that were under way for long.
    pub fn held_up_messages(&self) -> u64 {
        let share = self.unacknowledged as f64 / self.examined.max(1) as f64;
        (share * self.under_way as f64) as u64
    }

    /// The mean time for which a segment with data was on its way, beyond the smallest round trip
    /// and by no fault of a buffer or a window.
    pub fn held_up(&self) -> Duration {
        let limited = self.window_limited + self.buffer_limited;
        let time = self.busy.saturating_sub(limited + self.round_trips);
        time.div_f64(self.segments.max(1) as f64)
    }

    /// Returns the mean of the smallest round trips, weighted by segments; zero when none was sent.
    pub fn least_round_trip(&self) -> Duration {
        self.round_trips.div_f64(self.segments.max(1) as f64)
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
        self.deviation.merge(&other.deviation);
        self.looks_resent += other.looks_resent;
        self.delivery_rate = self.delivery_rate.max(other.delivery_rate);
        self.under_way += other.under_way;
        self.examined += other.examined;
        self.unacknowledged += other.unacknowledged;
        for (errno, count) in &other.unread {
            *self.unread.entry(*errno).or_default() += count;
        }
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
        self.silences.merge(&other.silences);
        self.absences.merge(&other.absences);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A connection whose last segments took so long each, after ten of 1 ms.
    fn after(round_trips: &[Duration]) -> (Path, Path) {
        let before = Path {
            acknowledged: 10,
            round_trip: MILLISECOND,
            round_trip_least: MILLISECOND,
            ..Path::default()
        };
        let mut path = before;
        for round_trip in round_trips {
            path.round_trip = path.round_trip * 7 / 8 + *round_trip / 8;
            path.acknowledged += 1;
        }
        (before, path)
    }

    /// The growth that a look finds after some looks that found nothing new.
    fn growth(round_trips: &[Duration], idle: u64) -> (u64, Duration) {
        let (before, path) = after(round_trips);
        let mut network = Network::default();
        let mut seen = before.seen();
        for _ in 0..idle {
            network.look(&mut seen, Ok(before));
        }
        assert_eq!(network.growth.count(), 0);
        network.look(&mut seen, Ok(path));
        let growth = network.growth.distribution().unwrap();
        (growth.count(), growth.longest().value)
    }

    #[test]
    fn one_segment_shows_how_long_the_way_is_now() {
        for segments in [1, 2, 10, 100] {
            let (looks, grown) = growth(&vec![201 * MILLISECOND; segments], 0);
            let error = grown.abs_diff(200 * MILLISECOND);
            assert!(
                looks == 1 && error < MILLISECOND / 10,
                "{segments}: {grown:?}"
            );
        }
        let (_, grown) = growth(&[MILLISECOND; 3], 0);
        assert!(grown < MILLISECOND / 100, "{grown:?}");
        // One acknowledgment for several segments shows less, and never more.
        let (before, mut path) = after(&[201 * MILLISECOND]);
        path.acknowledged += 3;
        let recent = path.recent_round_trip(before.seen().round_trip, 4);
        assert!(
            path.round_trip < recent && recent < 201 * MILLISECOND,
            "{recent:?}"
        );
    }

    #[test]
    fn a_look_that_finds_nothing_new_counts_when_there_is_something() {
        assert_eq!(growth(&[MILLISECOND], 6).0, 7);
    }

    #[test]
    fn a_message_is_held_up_when_no_acknowledgment_can_be_held_back_for_so_long() {
        let path = |acknowledged_bytes, unsent_bytes, round_trip_least| Path {
            acknowledged_bytes,
            unsent_bytes,
            round_trip_least,
            quiet: 110 * MILLISECOND,
            ..Path::default()
        };
        for (path, is_held_up) in [
            (path(999, 0, MILLISECOND), true),
            (path(1000, 0, MILLISECOND), false),
            (path(999, 1, MILLISECOND), false),
            (path(999, 0, 29 * MILLISECOND), true),
            (path(999, 0, 31 * MILLISECOND), false),
        ] {
            assert_eq!(path.holds_up(1000), is_held_up, "{path:?}");
        }
        let mut network = Network::default();
        let messages = [1000; 10];
        network.add_under_way(&messages[..4], Some(&path(999, 0, MILLISECOND)));
        network.add_under_way(&messages[..4], Some(&path(1000, 0, MILLISECOND)));
        network.add_under_way(&messages[..2], None);
        assert_eq!(network.held_up_messages(), 5, "half of ten");
    }

    #[test]
    fn a_percentile_of_the_way_needs_five_probes_beyond_it() {
        let mut probe = Probe::default();
        assert_eq!(probe.way_at(50.0), None);
        for number in 1..=50 {
            probe.growth.record(number * MILLISECOND);
            assert_eq!(probe.way_at(50.0).is_some(), number >= 10, "{number}");
            assert_eq!(probe.way_at(90.0).is_some(), number >= 50, "{number}");
        }
        assert_eq!(probe.way_at(99.0), None);
        let way = probe.way_at(90.0).unwrap();
        assert!(way.abs_diff(45 * MILLISECOND) < MILLISECOND / 10, "{way:?}");
    }
}
