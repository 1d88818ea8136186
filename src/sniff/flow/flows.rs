//! Follows all connections of a capture, distinguished by their addresses and ports. Pure.
//!
//! Memory is bounded. A connection that has ended is reported after the time in which late segments
//! may still arrive; when there are too many connections, the oldest is reported earlier. When too
//! many bytes are buffered, the connections that buffer the most drop their buffers: what they
//! waited for is reported as missing or not compared.
//!
//! A connection that has ended and was reported is remembered for as long as TIME-WAIT lasts
//! ([`RetiredFlows`]). A late segment revives it: it has its number again, and is reported again
//! only if the segment shows a fault. A segment that cannot belong to it begins another connection.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::echo::Expect;
use crate::sniff::flow::account::Conclusion;
use crate::sniff::flow::analysis::Analysis;
use crate::sniff::flow::retired::{Retired, RetiredFlows};
use crate::sniff::flow::reuse::SetAside;
use crate::sniff::flow::{Flow, FlowNumber, Judgement, Observation, Packet, Role, Timing};
use crate::sniff::packet::networks::{self, Ends};
use crate::sniff::packet::segment::Segment;

/// Maximum number of connections that are followed at once. Each takes 1.9 KiB
/// (`tests/sniff_memory.rs`), and the bytes that it buffers.
pub const FLOWS_MAX: usize = 32 * 1024;

/// Maximum number of bytes that one connection may buffer until earlier bytes, the other direction
/// or an acknowledgment arrive: one and a half times what two kernels hold in flight by default, in
/// both directions.
const FLOW_BYTES_MAX: usize = 32 << 20;

/// Maximum number of bytes that all connections together may buffer: eight times the maximum of one
/// connection, or some KiB for each of [`FLOWS_MAX`].
pub const BYTES_MAX: usize = 256 << 20;

/// Time for which a connection is followed after its end. A capture may hold bytes after their
/// acknowledgment, and when a last acknowledgment was lost, the peer retransmits within its
/// retransmission timeout, which begins at one second or less (RFC 6298).
const LATE_SEGMENTS_TIME: Duration = Duration::from_secs(3);

/// A flow that is over, to be reported.
#[derive(Debug)]
pub struct Finished {
    /// The number of the flow.
    pub number: FlowNumber,
    /// The flow itself.
    pub flow: Flow,
    /// The judgement on it.
    pub judgement: Judgement,
    /// Whether it was reported before, and a later segment shows a fault.
    pub was_reported: bool,
    /// Whether it was reported before, with a fault.
    pub was_wrong: bool,
}

/// The flows of a capture that are followed.
#[derive(Debug)]
pub struct Flows {
    server_port: Option<u16>,
    expect: Expect,
    /// Number of bytes that all flows buffer, and may buffer.
    bytes: usize,
    bytes_max: usize,
    flows: Slab<Followed>,
    /// The slot of each flow, by its ends. The hash is fast and seeded: captured hosts choose the
    /// ports, but do not see the hashes.
    places: HashMap<Ends, usize, RandomState>,
    /// Flows that have ended, with the time of their end; some are removed already.
    ended: VecDeque<(Duration, Place)>,
    /// All flows in the order in which they began; some are removed already.
    begun: VecDeque<Place>,
    finished: Vec<Finished>,
    retired: RetiredFlows,
    next_number: FlowNumber,
    ended_count: u64,
    cut_short: u64,
    reported_early: u64,
}

#[derive(Debug)]
struct Followed {
    ends: Ends,
    number: FlowNumber,
    flow: Flow,
    /// The state that was remembered of it after its report; `None` unless it was revived.
    reported: Option<Retired>,
}

/// The slot of a flow, and its number: another flow may have taken the slot since.
type Place = (usize, FlowNumber);

/// The flow to which a segment belongs.
enum Origin {
    /// A flow that is followed, in this slot.
    Followed(usize),
    /// A flow that was reported, and is followed again.
    Revived(Retired),
    /// A new flow.
    New,
    /// A new flow, to which segments that the previous flow counted as strays may belong as well.
    After(SetAside),
    /// A new flow between the ports of an earlier one.
    Reused,
}

impl Flows {
    /// Returns an empty set of flows. `server_port`: see [`Flow::new`]. `bytes_max`: the number of
    /// bytes that all flows may buffer, [`BYTES_MAX`] except in tests.
    pub fn new(server_port: Option<u16>, bytes_max: usize) -> Flows {
        Flows {
            server_port,
            expect: Expect::default(),
            bytes: 0,
            bytes_max,
            flows: Slab::new(),
            places: HashMap::default(),
            ended: VecDeque::new(),
            begun: VecDeque::new(),
            finished: Vec::new(),
            retired: RetiredFlows::default(),
            next_number: 1,
            ended_count: 0,
            cut_short: 0,
            reported_early: 0,
        }
    }

    /// Returns these flows with another expectation of what replies must be.
    pub fn expecting(self, expect: Expect) -> Flows {
        Flows { expect, ..self }
    }

    /// Processes the next segment of the capture. Returns the number of its flow, the flow, and the
    /// observation of the segment.
    pub fn observe(
        &mut self,
        packet: Packet,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> (FlowNumber, &Flow, Observation) {
        self.expire(packet.time);
        let ends = ends(segment);
        let origin = self.origin(&ends, packet.time, segment);
        let is_reuse = matches!(origin, Origin::Reused);
        let place = match origin {
            Origin::Followed(place) => place,
            Origin::Revived(retired) => self.revive(ends, retired, segment, packet.time),
            Origin::New | Origin::Reused => self.begin(ends, segment),
            Origin::After(set_aside) => {
                let place = self.begin(ends, segment);
                let flow = &mut self.flows[place].flow;
                flow.adopt_set_aside(set_aside, packet.time);
                self.bytes += flow.cost();
                place
            }
        };
        let Followed { number, flow, .. } = &mut self.flows[place];
        let (had_ended, cost) = (flow.has_ended(), flow.cost());
        let mut observation = flow.observe(packet, segment, timings);
        if is_reuse {
            observation.analysis.add(Analysis::REUSED_PORTS);
        }
        if flow.has_ended() && !had_ended {
            self.ended.push_back((packet.time, (place, *number)));
            self.ended_count += 1;
        }
        if flow.cost() > FLOW_BYTES_MAX {
            flow.drop_buffers();
        }
        self.bytes = self.bytes - cost + flow.cost();
        if self.bytes > self.bytes_max {
            self.drop_largest_buffers();
        }
        let Followed { number, flow, .. } = &self.flows[place];
        (*number, flow, observation)
    }

    /// Finds the flow of a segment. A flow that is followed, and to which it cannot belong, is
    /// finished.
    fn origin(&mut self, ends: &Ends, now: Duration, segment: &Segment<'_>) -> Origin {
        if let Some(place) = self.places.get(ends).copied() {
            let flow = &self.flows[place].flow;
            let is_reused = flow.is_reused_by(segment);
            let has_ended = flow.has_ended();
            let is_left = match has_ended {
                true => !flow.owns(segment),
                false => flow.belongs_to_other_connection(segment),
            };
            if !is_reused && !is_left {
                return Origin::Followed(place);
            }
            if is_reused || has_ended {
                self.finish(place);
                return match is_reused {
                    true => Origin::Reused,
                    false => Origin::New,
                };
            }
            let cost = self.flows[place].flow.cost();
            let set_aside = self.flows[place].flow.take_set_aside();
            self.bytes = self.bytes - cost + self.flows[place].flow.cost();
            self.finish(place);
            return Origin::After(set_aside);
        }
        let Some(retired) = self.retired.get(ends, now) else {
            return Origin::New;
        };
        let flow = revived(retired, segment);
        if flow.is_reused_by(segment) {
            Origin::Reused
        } else if flow.owns(segment) {
            Origin::Revived(*retired)
        } else {
            Origin::New
        }
    }

    /// Drops the buffers of all flows that buffer more than half of the average. That frees at
    /// least half of all bytes, and flows that buffer little are not affected.
    fn drop_largest_buffers(&mut self) {
        let share = self.bytes / self.flows.len() / 2;
        for (_, Followed { flow, .. }) in &mut self.flows {
            if flow.cost() > share {
                self.bytes -= flow.cost();
                flow.drop_buffers();
            }
        }
    }

    /// Finishes the ended flows for which the time for late segments is over.
    pub fn expire(&mut self, now: Duration) {
        while let Some(&(time, (place, number))) = self.ended.front()
            && now.saturating_sub(time) >= LATE_SEGMENTS_TIME
        {
            self.ended.pop_front();
            let Some(flow) = self.current((place, number)) else {
                continue;
            };
            // A late segment restarts the time: retransmissions follow at ever longer intervals.
            let last = flow.last_time();
            if last > time {
                self.ended.push_back((last, (place, number)));
            } else {
                self.finish(place);
            }
        }
    }

    /// Finishes all flows, at the end of the capture.
    pub fn finish_all(&mut self) {
        while let Some(begun) = self.begun.pop_front() {
            if self.current(begun).is_some() {
                self.finish(begun.0);
            }
        }
    }

    /// Returns the flows that were finished since the last call.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Returns the number of bytes that all flows buffer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of flows that have ended, reported or not.
    pub fn ended(&self) -> u64 {
        self.ended_count
    }

    /// Returns the number of ended flows that were reported before the time for late segments was
    /// over.
    pub fn reported_early(&self) -> u64 {
        self.reported_early
    }

    /// Returns the number of flows that were reported before they ended, because there were too
    /// many.
    pub fn cut_short(&self) -> u64 {
        self.cut_short
    }

    fn begin(&mut self, ends: Ends, segment: &Segment<'_>) -> usize {
        let number = self.next_number;
        self.next_number += 1;
        let flow = Flow::new(segment, self.server_port, self.expect);
        self.follow(ends, number, flow, None)
    }

    /// Follows a reported flow again.
    fn revive(
        &mut self,
        ends: Ends,
        retired: Retired,
        segment: &Segment<'_>,
        now: Duration,
    ) -> usize {
        self.retired.remove(&ends);
        let flow = revived(&retired, segment);
        let place = self.follow(ends, retired.number, flow, Some(retired));
        self.ended.push_back((now, (place, retired.number)));
        place
    }

    fn follow(
        &mut self,
        ends: Ends,
        number: FlowNumber,
        flow: Flow,
        reported: Option<Retired>,
    ) -> usize {
        if self.flows.len() >= FLOWS_MAX {
            self.make_room();
        }
        let place = self.flows.insert(Followed {
            ends,
            number,
            flow,
            reported,
        });
        self.places.insert(ends, place);
        self.begun.push_back((place, number));
        place
    }

    /// Finishes the flow that ended first or, if none has ended, the one that began first.
    fn make_room(&mut self) {
        while let Some((_, ended)) = self.ended.pop_front() {
            if self.current(ended).is_some() {
                self.reported_early += 1;
                return self.finish(ended.0);
            }
        }
        while let Some(begun) = self.begun.pop_front() {
            if self.current(begun).is_some() {
                self.cut_short += 1;
                return self.finish(begun.0);
            }
        }
    }

    fn finish(&mut self, place: usize) {
        let Followed {
            ends,
            number,
            mut flow,
            reported,
        } = self.flows.remove(place);
        self.places.remove(&ends);
        self.bytes -= flow.cost();
        let judgement = flow.judge();
        let was_wrong = reported.is_some_and(|reported| reported.is_wrong);
        let is_wrong = judgement.conclusion == Conclusion::Wrong;
        if let Some(state) = flow.retain() {
            let low = flow.address(Role::Client) < flow.address(Role::Server);
            let retired = Retired {
                number,
                state,
                is_wrong: is_wrong || was_wrong,
                client_is_low: low,
            };
            self.retired.add(&ends, retired);
        }
        if reported.is_none() || (is_wrong && !was_wrong) {
            self.finished.push(Finished {
                number,
                flow,
                judgement,
                was_reported: reported.is_some(),
                was_wrong,
            });
        }
        if self.begun.len() > 2 * FLOWS_MAX {
            let flows = &self.flows;
            self.begun.retain(|begun| current(flows, *begun).is_some());
        }
    }

    /// Returns the flow, unless it is finished.
    fn current(&self, place: Place) -> Option<&Flow> {
        current(&self.flows, place)
    }
}

fn current(flows: &Slab<Followed>, (place, number): Place) -> Option<&Flow> {
    let followed = flows.get(place)?;
    (followed.number == number).then_some(&followed.flow)
}

/// Returns a connection that was reported, in the state in which a segment may revive it.
fn revived(retired: &Retired, segment: &Segment<'_>) -> Flow {
    let (a, b) = (segment.source, segment.target);
    let (client, server) = match (a < b) == retired.client_is_low {
        true => (a, b),
        false => (b, a),
    };
    retired.state.revive(client, server)
}

/// Returns the ends of a segment, with its lane in the bits above the ports and the address family.
fn ends(segment: &Segment<'_>) -> Ends {
    let (low, high, ports) = networks::ends(segment.source, segment.target);
    (low, high, ports | u64::from(segment.lane) << 33)
}
