//! All connections of a capture, told apart by their ends. Pure.
//!
//! Memory is bounded: a connection that has ended is told when its stragglers have had their time,
//! and when there are too many, the oldest is told before its time. When too many bytes are kept,
//! those that keep much keep none any more: what they wait for is told as missing or not compared.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;

use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, FlowNumber, Observation, Packet, Timing};
use crate::capture::segment::Segment;

/// Connections that are followed at once. Each takes two to three KiB, and the bytes that it keeps.
const FLOWS_MAX: usize = 32 * 1024;

/// Bytes that one connection may keep, for earlier ones, for the other direction or for an
/// acknowledgment: what two kernels hold in flight by default, and half as much again, both ways.
const FLOW_BYTES_MAX: usize = 32 << 20;

/// Bytes that all connections together may keep: eight that each keep as much as one may, or some
/// KiB of each when there are as many as can be.
pub const BYTES_MAX: usize = 256 << 20;

/// How long a segment may come after the end of its connection: a last acknowledgment that was
/// lost is asked for again within the retransmission timeout, which begins at one second or less
/// (RFC 6298).
const STRAGGLERS: Duration = Duration::from_secs(3);

/// A flow that is over, to be told.
#[derive(Debug)]
pub struct Finished {
    /// Which one.
    pub number: FlowNumber,
    /// What is known of it.
    pub flow: Flow,
}

/// The flows that are followed.
#[derive(Debug)]
pub struct Flows {
    server_port: Option<u16>,
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
}

/// Where a flow is, and its number: the place may be another's by now.
type Place = (usize, FlowNumber);

/// Both addresses, the smaller one first: the same for both directions. As numbers, which are
/// hashed in half the time: the addresses, then the ports and the family.
type Ends = (u128, u128, u64);

impl Flows {
    /// No flow yet. `server_port`: see [`Flow::new`]. `bytes_max`: how many bytes all flows may
    /// keep, [`BYTES_MAX`] but for tests.
    pub fn new(server_port: Option<u16>, bytes_max: usize) -> Flows {
        Flows {
            server_port,
            bytes: 0,
            bytes_max,
            flows: Slab::new(),
            places: HashMap::default(),
            ended: VecDeque::new(),
            begun: VecDeque::new(),
            finished: Vec::new(),
            next_number: 1,
            ended_count: 0,
            cut_short: 0,
            told_early: 0,
        }
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
        let known = self.places.get(&ends).copied();
        let reused = known.filter(|&place| self.flows[place].flow.is_reused_by(segment));
        if let Some(place) = reused {
            self.finish(place);
        }
        let place = match known {
            Some(place) if reused.is_none() => place,
            _ => self.begin(ends, segment),
        };
        let Followed { number, flow, .. } = &mut self.flows[place];
        let (had_ended, cost) = (flow.has_ended(), flow.cost());
        let mut observation = flow.observe(packet, segment, timings);
        if reused.is_some() {
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
        if self.flows.len() >= FLOWS_MAX {
            self.make_room();
        }
        let number = self.next_number;
        self.next_number += 1;
        let flow = Flow::new(segment, self.server_port);
        let place = self.flows.insert(Followed { ends, number, flow });
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
        let Followed { ends, number, flow } = self.flows.remove(place);
        self.places.remove(&ends);
        self.bytes -= flow.cost();
        self.finished.push(Finished { number, flow });
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

fn ends(segment: &Segment<'_>) -> Ends {
    let (a, b) = (segment.source, segment.target);
    let (low, high) = (a.min(b), a.max(b));
    let bits = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let ports = (u64::from(low.port()) << 16) | u64::from(high.port());
    let family = u64::from(low.is_ipv6()) << 32;
    (bits(low), bits(high), family | ports)
}
