//! Measurements of the load generator itself and of the network, on which the verdict of a run is
//! based. Pure data.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::latency::Latency;
use crate::load::results::pairs;
use crate::load::results::stalls::Silences;
use crate::sys::cpu_sample::CpuUsage;
use crate::units::share;

/// The measurements of the generator and the network while messages were due.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// CPU time and scheduling of the generator's threads.
    pub machine: CpuUsage,
    /// TCP_INFO of the connections.
    pub network: Network,
    /// The paths to the targets, measured with packets that the targets' kernels answer; `None`
    /// when all targets are on this host.
    pub probe: Option<Probe>,
    /// Durations of the turns in which something was done, from the end of a wait to the next wait.
    pub turns: Latency,
    /// Sum of these durations.
    pub worked: Duration,
    /// The longest time in which messages were outstanding and no byte of a reply arrived.
    pub silence: Duration,
    /// The silences that may be stalls of the server.
    pub silences: Silences,
    /// Times in which the threads should have worked and were not running.
    pub absences: Absences,
}

/// Times in which a thread should have worked and was not running, see
/// [`crate::load::engine::presence`]. For several threads, `watched` and `absent` are those of the
/// thread that was absent for the largest share of its time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Absences {
    /// The time that the other values cover.
    pub watched: Duration,
    /// The part of this time in which the thread was absent.
    pub absent: Duration,
    /// The longest absence of any thread.
    pub longest: Duration,
    /// The absences longer than [`crate::load::results::VISIBLE_LATENESS`] of all threads, each
    /// counted once for every message that it delayed.
    pub held: Latency,
}

impl Absences {
    /// Returns the share of its time in which the thread was absent.
    pub fn share(&self) -> f64 {
        share(self.absent, self.watched)
    }

    /// Adds the absences of the same thread in another part of its time.
    fn add_time(&mut self, other: &Absences) {
        let Absences {
            watched,
            absent,
            longest,
            held,
        } = other;
        self.watched += *watched;
        self.absent += *absent;
        self.longest = self.longest.max(*longest);
        self.held.merge(held);
    }

    /// Adds the absences of another thread.
    pub fn merge(&mut self, other: &Absences) {
        let is_larger = other.share() > self.share();
        let Absences {
            watched,
            absent,
            longest,
            held,
        } = other;
        if is_larger {
            self.watched = *watched;
            self.absent = *absent;
        }
        self.longest = self.longest.max(*longest);
        self.held.merge(held);
    }
}

/// Round trips of packets that the kernels of the targets answer. They depend neither on the server
/// program nor on delayed acknowledgments, so they distinguish a queue on the path from a slow
/// server even where TCP's round trips cannot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Probe {
    /// The kinds of packets that were sent to the targets, each kind once.
    pub how: Vec<String>,
    /// The number of probed hosts: the first few of the targets' hosts, without this host.
    pub targets: u32,
    /// The number of probed hosts that never answered.
    pub silent: u32,
    /// The number of packets that were sent while messages were due and were not answered within
    /// [`PROBE_LOST`]. Packets whose answers the target's rate limit may suppress are not counted.
    pub lost: u64,
    /// The smallest round trip to any target, including packets that were sent before the first
    /// message.
    pub least: Option<Duration>,
    /// Round trips of the packets that were sent while messages were due and were answered.
    pub round_trips: Latency,
    /// The amounts by which these round trips exceeded the smallest one so far of their target.
    pub growth: Latency,
}

impl Probe {
    /// Adds the probes of another part of the run.
    pub fn merge(&mut self, other: &Probe) {
        let Probe {
            how,
            targets,
            silent,
            lost,
            least,
            round_trips,
            growth,
        } = other;
        for kind in how {
            if !self.how.contains(kind) {
                self.how.push(kind.clone());
            }
        }
        self.targets = self.targets.max(*targets);
        self.silent = self.silent.max(*silent);
        self.lost += *lost;
        self.least = self.least.into_iter().chain(*least).min();
        self.round_trips.merge(round_trips);
        self.growth.merge(growth);
    }
}

/// The time after which a packet without an answer counts as lost.
pub const PROBE_LOST: Duration = Duration::from_secs(1);

/// Minimum number of round trips beyond a percentile. It is lower than that for messages, since
/// packets are sent at equal intervals and there are fewer of them.
const PROBES_BEYOND: f64 = 5.0;

impl Probe {
    /// Returns the amount by which the round trip exceeded the smallest one, at a percentile of the
    /// time; `None` when too few packets were answered.
    pub fn growth_at(&self, percentile: f64) -> Option<Duration> {
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
    /// Segments that the peer has acknowledged.
    pub acknowledged: u64,
    /// Bytes that the peer has acknowledged.
    pub acknowledged_bytes: u64,
    /// Bytes that the kernel holds and has not sent yet.
    pub unsent_bytes: u64,
    /// Retransmitted segments, SYNs included.
    pub resent: u64,
    /// Spurious retransmissions: the peer had received the segment before.
    pub resent_in_vain: u64,
    /// Segments with data that arrived out of order: an earlier segment of the peer was lost, or
    /// took a slower path.
    pub out_of_order: u64,
    /// The time since data was last sent.
    pub quiet: Duration,
    /// The time in which data was in flight.
    pub busy: Duration,
    /// The part of `busy` in which the peer's receive window limited sending.
    pub window_limited: Duration,
    /// The part of `busy` in which the send buffer limited sending.
    pub buffer_limited: Duration,
    /// The smoothed round-trip time, measured with acknowledgments.
    pub round_trip: Duration,
    /// The mean deviation of the round-trip time.
    pub round_trip_deviation: Duration,
    /// The smallest round-trip time.
    pub round_trip_least: Duration,
    /// The most recent rate at which data was acknowledged, in bytes a second.
    pub delivery_rate: u64,
}

/// The time after its send at which an unanswered message is examined. A message that waits for a
/// retransmission waits for at least 200 ms (TCP_RTO_MIN), so a scan every 100 ms examines each of
/// those once.
pub const EXAMINE_AGE: Duration = Duration::from_millis(100);

/// The time by which the peer may delay an acknowledgment, in addition to the round trip. Linux
/// delays it for 40 ms, rounded to ticks of its clock, or for a round trip when that is longer.
pub const ACK_DELAY_MAX: Duration = Duration::from_millis(50);

/// The counters of a connection that are added up over a stage of a rate profile, or over its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    segments: u64,
    resent: u64,
    resent_in_vain: u64,
    out_of_order: u64,
    busy: Duration,
    window_limited: Duration,
    buffer_limited: Duration,
    round_trips: Duration,
}

/// The counters of a connection's TCP_INFO when that was last read. It is kept small, since every
/// connection has one, and there may be very many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastSample {
    /// Retransmitted SYNs.
    syns_resent: u32,
    /// See [`Path::acknowledged`].
    acknowledged: u32,
    /// See [`Path::resent`].
    resent: u32,
    /// The smoothed round-trip time in microseconds.
    round_trip: u32,
    /// The number of samples since then in which nothing more was acknowledged.
    in_vain: u32,
}

/// Sums and distributions over the paths of all connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Network {
    /// See [`Path::segments`]. The sum over all connections, like the other counters.
    pub segments: u64,
    /// See [`Path::resent`]; without SYNs and without spurious retransmissions.
    pub resent: u64,
    /// See [`Path::resent_in_vain`].
    pub resent_in_vain: u64,
    /// See [`Path::out_of_order`].
    pub out_of_order: u64,
    /// Retransmitted SYNs: they were lost, or the server's accept queue was full.
    pub syns_resent: u64,
    /// See [`Path::busy`].
    pub busy: Duration,
    /// See [`Path::window_limited`].
    pub window_limited: Duration,
    /// See [`Path::buffer_limited`].
    pub buffer_limited: Duration,
    /// The sum, over all segments with data, of the smallest round-trip time of their connection.
    pub round_trips: Duration,
    /// The amounts by which the round-trip time exceeded the smallest one of its connection,
    /// sampled from the connections in turn. So a percentile is one of time, not of messages.
    pub growth: Latency,
    /// The mean deviation of the round-trip time in the same samples.
    pub deviation: Latency,
    /// The number of these samples that found segments retransmitted since the sample before.
    pub looks_resent: u64,
    /// The largest rate at which one connection delivered data, in bytes a second.
    pub delivery_rate: u64,
    /// Messages that had no reply [`EXAMINE_AGE`] after they were sent.
    pub under_way: u64,
    /// The number of these messages that were examined.
    pub examined: u64,
    /// The number of examined messages that the peer had not acknowledged.
    pub unacknowledged: u64,
    /// The number of failed reads of TCP_INFO, by errno. Each one is missing in the values above:
    /// at the beginning of a connection, in a sample, or at its end.
    pub unread: BTreeMap<i32, u64>,
}

impl Path {
    /// Returns the mean round trip of the last `acknowledged` segments, which changed the smoothed
    /// round trip from `before`, in microseconds, to its current value.
    ///
    /// The kernel gives each new round trip a weight of one eighth (RFC 6298). The share that
    /// `before` still has in the current value is subtracted, so that a few segments suffice to
    /// show that the path has become longer. When one acknowledgment covers several segments, the
    /// kernel adds fewer round trips than `acknowledged`; the result is then closer to the smoothed
    /// round trip.
    fn recent_round_trip(&self, before: u32, acknowledged: u32) -> Duration {
        let left = 0.875f64.powf(acknowledged.into());
        let now = self.round_trip.as_micros() as f64;
        let recent = (now - f64::from(before) * left) / (1.0 - left);
        Duration::from_nanos((recent * 1000.0) as u64)
    }

    /// Returns whether a message that ends at offset `end` was sent, and has not been acknowledged
    /// for longer than the peer's kernel may delay an acknowledgment.
    ///
    /// The age of the message is not a criterion: its bytes may have waited in the send buffer, and
    /// been sent one window at a time. So the time counts from when data was last sent, including
    /// other messages and retransmissions. A segment that is lost among others shows in the counts
    /// of retransmitted and out-of-order segments instead.
    fn is_overdue(&self, end: u64) -> bool {
        let is_late = self.quiet > self.round_trip_least * 2 + ACK_DELAY_MAX;
        is_late && self.unsent_bytes == 0 && self.acknowledged_bytes < end
    }

    /// Returns the counters, without the SYNs that were retransmitted.
    fn counters(&self, syns_resent: u32) -> PathCounters {
        let in_vain = u64::from(syns_resent) + self.resent_in_vain;
        let segments = u32::try_from(self.segments).unwrap_or(u32::MAX);
        PathCounters {
            segments: self.segments,
            resent: self.resent.saturating_sub(in_vain),
            resent_in_vain: self.resent_in_vain,
            out_of_order: self.out_of_order,
            busy: self.busy,
            window_limited: self.window_limited,
            buffer_limited: self.buffer_limited,
            round_trips: self.round_trip_least.saturating_mul(segments),
        }
    }

    fn seen(&self) -> LastSample {
        LastSample {
            syns_resent: 0,
            acknowledged: small(self.acknowledged),
            resent: small(self.resent),
            round_trip: small(self.round_trip.as_micros() as u64),
            in_vain: 0,
        }
    }
}

/// Truncates a counter to 32 bits, the width of most counters in the kernel.
fn small(number: u64) -> u32 {
    number as u32
}

impl Network {
    /// Returns the TCP_INFO if it could be read, and counts the error otherwise.
    pub fn read(&mut self, path: io::Result<Path>) -> Option<Path> {
        let unread = &mut self.unread;
        let note = |error: &io::Error| {
            let errno = error.raw_os_error().unwrap_or(0);
            *unread.entry(errno).or_default() += 1;
        };
        path.inspect_err(note).ok()
    }

    /// Counts the retransmitted SYNs of a connection that has come up, and returns its counters.
    pub fn connection_opened(&mut self, path: io::Result<Path>) -> LastSample {
        let Some(path) = self.read(path) else {
            return LastSample::default();
        };
        self.syns_resent += path.resent;
        LastSample {
            syns_resent: small(path.resent),
            ..path.seen()
        }
    }

    /// Adds a sample of a connection that is up.
    pub fn sample(&mut self, seen: &mut LastSample, path: io::Result<Path>) {
        if let Some(path) = self.read(path) {
            self.add_sample(seen, &path);
        }
    }

    fn add_sample(&mut self, seen: &mut LastSample, path: &Path) {
        let acknowledged = small(path.acknowledged).wrapping_sub(seen.acknowledged);
        if acknowledged == 0 {
            // The next acknowledged segment shows the round trip for all of these samples.
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
        *seen = LastSample {
            syns_resent: seen.syns_resent,
            ..path.seen()
        };
    }

    /// Adds the counters of a connection up to its FIN, without those that were `counted` already.
    /// Later segments are left out, since no message depends on them.
    pub fn ended(&mut self, mut seen: LastSample, counted: PathCounters, path: io::Result<Path>) {
        let Some(path) = self.read(path) else {
            return;
        };
        self.add_sample(&mut seen, &path);
        self.add(&path.counters(seen.syns_resent), &counted);
    }

    /// Adds the counters of a connection that goes on, without those that were `counted` already,
    /// and returns which ones are counted now.
    pub fn count(
        &mut self,
        seen: LastSample,
        counted: PathCounters,
        path: io::Result<Path>,
    ) -> PathCounters {
        let Some(path) = self.read(path) else {
            return counted;
        };
        let counters = path.counters(seen.syns_resent);
        self.add(&counters, &counted);
        counters
    }

    /// Adds the growth of counters.
    fn add(&mut self, now: &PathCounters, before: &PathCounters) {
        self.segments += now.segments.saturating_sub(before.segments);
        self.resent += now.resent.saturating_sub(before.resent);
        let in_vain = now.resent_in_vain.saturating_sub(before.resent_in_vain);
        self.resent_in_vain += in_vain;
        self.out_of_order += now.out_of_order.saturating_sub(before.out_of_order);
        self.busy += now.busy.saturating_sub(before.busy);
        self.window_limited += now.window_limited.saturating_sub(before.window_limited);
        self.buffer_limited += now.buffer_limited.saturating_sub(before.buffer_limited);
        self.round_trips += now.round_trips.saturating_sub(before.round_trips);
    }

    /// Adds messages of one connection that have no reply [`EXAMINE_AGE`] after they were sent,
    /// each by the offset of its end, with the TCP_INFO of their connection if it was read.
    pub fn add_under_way(&mut self, ends: &[u64], path: Option<&Path>) {
        self.under_way += ends.len() as u64;
        if let Some(path) = path {
            self.examined += ends.len() as u64;
            let unacknowledged = ends.iter().filter(|end| path.is_overdue(**end));
            self.unacknowledged += unacknowledged.count() as u64;
        }
    }

    /// Returns an estimate of how many messages were not acknowledged for so long that they, or
    /// their acknowledgments, must have been lost or delayed on the path: the share of the examined
    /// messages, multiplied by the number of all messages that had no reply after [`EXAMINE_AGE`].
    pub fn delayed_messages(&self) -> u64 {
        let share = self.unacknowledged as f64 / self.examined.max(1) as f64;
        (share * self.under_way as f64) as u64
    }

    /// Returns the mean time for which a segment with data was in flight beyond the smallest round
    /// trip, without the time limited by the send buffer or the receive window.
    pub fn held_up(&self) -> Duration {
        let limited = self.window_limited + self.buffer_limited;
        let time = self.busy.saturating_sub(limited + self.round_trips);
        time.div_f64(self.segments.max(1) as f64)
    }

    /// Returns the mean of the connections' smallest round trips, weighted by segments; zero when
    /// no segment was sent.
    pub fn least_round_trip(&self) -> Duration {
        self.round_trips.div_f64(self.segments.max(1) as f64)
    }

    /// Adds the connections of another thread.
    pub fn merge(&mut self, other: &Network) {
        let Network {
            segments,
            resent,
            resent_in_vain,
            out_of_order,
            syns_resent,
            busy,
            window_limited,
            buffer_limited,
            round_trips,
            growth,
            deviation,
            looks_resent,
            delivery_rate,
            under_way,
            examined,
            unacknowledged,
            unread,
        } = other;
        self.segments += *segments;
        self.resent += *resent;
        self.resent_in_vain += *resent_in_vain;
        self.out_of_order += *out_of_order;
        self.syns_resent += *syns_resent;
        self.busy += *busy;
        self.window_limited += *window_limited;
        self.buffer_limited += *buffer_limited;
        self.round_trips += *round_trips;
        self.growth.merge(growth);
        self.deviation.merge(deviation);
        self.looks_resent += *looks_resent;
        self.delivery_rate = self.delivery_rate.max(*delivery_rate);
        self.under_way += *under_way;
        self.examined += *examined;
        self.unacknowledged += *unacknowledged;
        pairs::add(&mut self.unread, unread);
    }
}

impl Evidence {
    /// Adds what the same thread measured in an earlier stage of the run, without the silences: a
    /// silence that reaches over the end of a stage is one of the run.
    pub fn add_stage(&mut self, stage: &Evidence) {
        let Evidence {
            machine: _,
            network,
            probe: _,
            turns,
            worked,
            silence: _,
            silences: _,
            absences,
        } = stage;
        self.network.merge(network);
        self.turns.merge(turns);
        self.worked += *worked;
        self.absences.add_time(absences);
    }

    /// Adds the evidence of a part of the run that another process carried out at the same time.
    /// What the threads of one process share is added here.
    pub fn merge_part(&mut self, other: &Evidence) {
        let process = self.machine.process + other.machine.process;
        self.merge(other);
        self.machine.process = process;
        match (&mut self.probe, &other.probe) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (ours, theirs) => *ours = ours.take().or(theirs.clone()),
        }
    }

    /// Adds the evidence of another thread.
    pub fn merge(&mut self, other: &Evidence) {
        let Evidence {
            machine,
            network,
            probe: _,
            turns,
            worked,
            silence,
            silences,
            absences,
        } = other;
        self.machine.merge(machine);
        self.network.merge(network);
        self.turns.merge(turns);
        self.worked += *worked;
        self.silence = self.silence.max(*silence);
        self.silences.merge(silences);
        self.absences.merge(absences);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Returns a connection before and after its last segments, which took these round trips after
    /// ten of 1 ms.
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

    /// Returns the number of samples and the growth after `idle` samples without a new
    /// acknowledgment and one with `round_trips`.
    fn growth(round_trips: &[Duration], idle: u64) -> (u64, Duration) {
        let (before, path) = after(round_trips);
        let mut network = Network::default();
        let mut seen = before.seen();
        for _ in 0..idle {
            network.sample(&mut seen, Ok(before));
        }
        assert_eq!(network.growth.count(), 0);
        network.sample(&mut seen, Ok(path));
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
        // One acknowledgment for several segments shows a smaller growth, never a larger one.
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
            assert_eq!(path.is_overdue(1000), is_held_up, "{path:?}");
        }
        let mut network = Network::default();
        let messages = [1000; 10];
        network.add_under_way(&messages[..4], Some(&path(999, 0, MILLISECOND)));
        network.add_under_way(&messages[..4], Some(&path(1000, 0, MILLISECOND)));
        network.add_under_way(&messages[..2], None);
        assert_eq!(network.delayed_messages(), 5, "half of ten");
    }

    #[test]
    fn a_percentile_of_the_way_needs_five_probes_beyond_it() {
        let mut probe = Probe::default();
        assert_eq!(probe.growth_at(50.0), None);
        for number in 1..=50 {
            probe.growth.record(number * MILLISECOND);
            assert_eq!(probe.growth_at(50.0).is_some(), number >= 10, "{number}");
            assert_eq!(probe.growth_at(90.0).is_some(), number >= 50, "{number}");
        }
        assert_eq!(probe.growth_at(99.0), None);
        let way = probe.growth_at(90.0).unwrap();
        assert!(way.abs_diff(45 * MILLISECOND) < MILLISECOND / 10, "{way:?}");
    }
}
