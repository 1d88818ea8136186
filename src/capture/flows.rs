//! All connections of a capture, told apart by their ends. Pure.
//!
//! Memory is bounded: a connection that has ended is reported after the time in which bytes that
//! were captured late may still come, and when there are too many, the oldest is reported earlier.
//! When too many bytes are kept, the connections that keep the most drop theirs: what they wait for
//! is reported as missing or not compared.
//!
//! A connection that has ended and was reported is remembered for as long as TIME-WAIT lasts
//! ([`RetiredFlows`]). A segment that comes again revives it: it has its number again, and is
//! reported again only if the segment shows a fault. A segment that cannot belong to it begins
//! another connection.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::capture::account::Conclusion;
use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, FlowNumber, Judgement, Observation, Packet, Role, Timing};
use crate::capture::networks::{self, Ends};
use crate::capture::retired::{Retired, RetiredFlows};
use crate::capture::segment::Segment;
use crate::capture::stream::{Aside, Expect};

/// Connections that are followed at once. Each takes 1.9 KiB (`tests/sniff_memory.rs`), and the
/// bytes that it keeps.
pub const FLOWS_MAX: usize = 32 * 1024;

/// Bytes that one connection may keep, for earlier ones, for the other direction or for an
/// acknowledgment: what two kernels hold in flight by default, and half as much again, both ways.
const FLOW_BYTES_MAX: usize = 32 << 20;

/// Bytes that all connections together may keep: eight that each keep as much as one may, or some
/// KiB of each when there are as many as can be.
pub const BYTES_MAX: usize = 256 << 20;

/// How long a connection is followed after its end: a capture may hold bytes after what
/// acknowledges them, and a last acknowledgment that was lost is asked for again within the
/// retransmission timeout, which begins at one second or less (RFC 6298).
const STRAGGLERS: Duration = Duration::from_secs(3);

/// A flow that is over, to be told.
#[derive(Debug)]
pub struct Finished {
    /// Which one.
    pub number: FlowNumber,
    /// What is known of it.
    pub flow: Flow,
    /// The judgement on it.
    pub judgement: Judgement,
    /// True when it was reported before, and a segment that came later shows a fault.
    pub is_told: bool,
    /// True when it was reported before, with a fault.
    pub was_wrong: bool,
}

/// The flows that are followed.
#[derive(Debug)]
pub struct Flows {
    server_port: Option<u16>,
    expect: Expect,
    /// What all flows keep, and may keep, in bytes.
    bytes: usize,
    bytes_max: usize,
    flows: Slab<Followed>,
    /// By a hash that is fast, and seeded: who is captured chooses the ports, and sees no hashes.
    places: HashMap<Ends, usize, RandomState>,
    /// Flows that have ended, and when; some are gone already.
    ended: VecDeque<(Duration, Place)>,
    /// All flows in the order of their beginning; some are gone already.
    begun: VecDeque<Place>,
    finished: Vec<Finished>,
    retired: RetiredFlows,
    next_number: FlowNumber,
    ended_count: u64,
    cut_short: u64,
    told_early: u64,
}

#[derive(Debug)]
struct Followed {
    ends: Ends,
    number: FlowNumber,
    flow: Flow,
    /// What was remembered of it after its report; `None` unless it was revived.
    told: Option<Retired>,
}

/// Where a flow is, and its number: the place may be another's by now.
type Place = (usize, FlowNumber);

/// What a flow hands over to the next one between the same ends.
type HandedOver = [(SocketAddr, Vec<(u32, Aside)>); 2];

/// The origin of the flow of a segment.
enum Origin {
    /// It is followed already.
    Followed(usize),
    /// It was reported, and is followed again.
    Revived(Retired),
    /// The segment begins it.
    New,
    /// The segment begins it, or continues what the flow before it counted as strays.
    After(HandedOver),
    /// The segment begins it between the ports of an earlier one.
    Reused,
}

impl Flows {
    /// No flow yet. `server_port`: see [`Flow::new`]. `bytes_max`: how many bytes all flows may
    /// keep, [`BYTES_MAX`] but for tests.
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
            told_early: 0,
        }
    }

    /// Returns these flows with another expectation of what replies must be.
    pub fn expecting(self, expect: Expect) -> Flows {
        Flows { expect, ..self }
    }

    /// The next segment of the capture: what it is, and the flow it belongs to.
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
            Origin::After(handed) => {
                let place = self.begin(ends, segment);
                let flow = &mut self.flows[place].flow;
                flow.take_over(handed, packet.time);
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
            flow.give_up();
        }
        self.bytes = self.bytes - cost + flow.cost();
        if self.bytes > self.bytes_max {
            self.give_up_much();
        }
        let Followed { number, flow, .. } = &self.flows[place];
        (*number, flow, observation)
    }

    /// Finds the flow of a segment. A flow that is followed and cannot have sent it is finished.
    fn origin(&mut self, ends: &Ends, now: Duration, segment: &Segment<'_>) -> Origin {
        if let Some(place) = self.places.get(ends).copied() {
            let flow = &self.flows[place].flow;
            let is_reused = flow.is_reused_by(segment);
            let has_ended = flow.has_ended();
            let is_left = match has_ended {
                true => !flow.owns(segment),
                false => flow.is_left_by(segment),
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
            let handed = self.flows[place].flow.hand_over();
            self.bytes = self.bytes - cost + self.flows[place].flow.cost();
            self.finish(place);
            return Origin::After(handed);
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

    /// Flows that keep more than half of the average keep nothing any more. That sets free at least
    /// half of all bytes, and who keeps little is left alone.
    fn give_up_much(&mut self) {
        let share = self.bytes / self.flows.len() / 2;
        for (_, Followed { flow, .. }) in &mut self.flows {
            if flow.cost() > share {
                self.bytes -= flow.cost();
                flow.give_up();
            }
        }
    }

    /// Flows whose stragglers have had their time are finished.
    pub fn expire(&mut self, now: Duration) {
        while let Some(&(time, (place, number))) = self.ended.front()
            && now.saturating_sub(time) >= STRAGGLERS
        {
            self.ended.pop_front();
            let Some(flow) = self.current((place, number)) else {
                continue;
            };
            // A straggler begins the time anew: retransmissions come at ever longer intervals.
            let last = flow.last_time();
            if last > time {
                self.ended.push_back((last, (place, number)));
            } else {
                self.finish(place);
            }
        }
    }

    /// The capture is over, and so are all flows.
    pub fn finish_all(&mut self) {
        while let Some(begun) = self.begun.pop_front() {
            if self.current(begun).is_some() {
                self.finish(begun.0);
            }
        }
    }

    /// The flows that were finished since the last call.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// What all flows keep, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many flows have ended, told or not.
    pub fn ended(&self) -> u64 {
        self.ended_count
    }

    /// How many that had ended were told before their stragglers had had their time.
    pub fn told_early(&self) -> u64 {
        self.told_early
    }

    /// How many were told before their time, because there were too many.
    pub fn cut_short(&self) -> u64 {
        self.cut_short
    }

    fn begin(&mut self, ends: Ends, segment: &Segment<'_>) -> usize {
        let number = self.next_number;
        self.next_number += 1;
        let flow = Flow::new(segment, self.server_port, self.expect);
        self.follow(ends, number, flow, None)
    }

    /// Follows a flow again that was reported.
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
        told: Option<Retired>,
    ) -> usize {
        if self.flows.len() >= FLOWS_MAX {
            self.make_room();
        }
        let place = self.flows.insert(Followed {
            ends,
            number,
            flow,
            told,
        });
        self.places.insert(ends, place);
        self.begun.push_back((place, number));
        place
    }

    /// Finishes the flow that ended first, or else the one that began first.
    fn make_room(&mut self) {
        while let Some((_, ended)) = self.ended.pop_front() {
            if self.current(ended).is_some() {
                self.told_early += 1;
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
            told,
        } = self.flows.remove(place);
        self.places.remove(&ends);
        self.bytes -= flow.cost();
        let judgement = flow.judge();
        let was_wrong = told.is_some_and(|told| told.is_wrong);
        let is_wrong = judgement.conclusion == Conclusion::Wrong;
        if let Some(remains) = flow.remains() {
            let low = flow.address(Role::Client) < flow.address(Role::Server);
            let retired = Retired {
                number,
                remains,
                is_wrong: is_wrong || was_wrong,
                client_is_low: low,
            };
            self.retired.add(&ends, retired);
        }
        if told.is_none() || (is_wrong && !was_wrong) {
            self.finished.push(Finished {
                number,
                flow,
                judgement,
                is_told: told.is_some(),
                was_wrong,
            });
        }
        if self.begun.len() > 2 * FLOWS_MAX {
            let flows = &self.flows;
            self.begun.retain(|begun| current(flows, *begun).is_some());
        }
    }

    /// The flow, unless it is finished.
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
    retired.remains.revive(client, server)
}

/// Returns the ends of a segment; its lane stands above the ports and the family.
fn ends(segment: &Segment<'_>) -> Ends {
    let (low, high, ports) = networks::ends(segment.source, segment.target);
    (low, high, ports | u64::from(segment.lane) << 33)
}
