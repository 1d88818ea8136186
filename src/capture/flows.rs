//! All connections of a capture, told apart by their ends. Pure.
//!
//! Memory is bounded: a connection that has ended is told when its stragglers have had their time,
//! and when there are too many, the oldest is told before its time.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, Observation, Packet, Timing};
use crate::capture::segment::Segment;

/// Connections that are followed at once. Each takes one to two KiB, and up to 16 MiB when segments
/// of it are missing.
const FLOWS_MAX: usize = 32 * 1024;

/// How long a segment may come after the end of its connection: a last acknowledgment that was
/// lost is asked for again within the retransmission timeout, which begins at one second or less
/// (RFC 6298).
const STRAGGLERS: Duration = Duration::from_secs(3);

/// The number of a flow in its capture, from 1, in the order of their first segments.
pub type FlowNumber = u64;

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
    flows: HashMap<Ends, (FlowNumber, Flow)>,
    /// Flows that have ended, and when; some are gone already.
    ended: VecDeque<(Duration, FlowNumber, Ends)>,
    /// All flows in the order of their beginning; some are gone already.
    begun: VecDeque<(FlowNumber, Ends)>,
    finished: Vec<Finished>,
    next_number: FlowNumber,
    ended_count: u64,
    cut_short: u64,
    told_early: u64,
}

/// Both addresses, the smaller one first: the same for both directions. As numbers, which are
/// hashed in half the time: the addresses, then the ports and the family.
type Ends = (u128, u128, u64);

impl Flows {
    /// No flow yet. `server_port`: see [`Flow::new`].
    pub fn new(server_port: Option<u16>) -> Flows {
        Flows {
            server_port,
            flows: HashMap::new(),
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
        let known = self.flows.get(&ends);
        let reused = known.map(|(_, flow)| flow.is_reused_by(segment));
        if reused == Some(true) {
            self.finish(ends);
        }
        if reused != Some(false) {
            self.begin(ends, segment);
        }
        let (number, flow) = self.flows.get_mut(&ends).expect("it was just begun");
        let had_ended = flow.has_ended();
        let mut observation = flow.observe(packet, segment, timings);
        if reused == Some(true) {
            observation.analysis.add(Analysis::REUSED_PORTS);
        }
        if flow.has_ended() && !had_ended {
            self.ended.push_back((packet.time, *number, ends));
            self.ended_count += 1;
        }
        (*number, flow, observation)
    }

    /// Flows whose stragglers have had their time are finished.
    pub fn expire(&mut self, now: Duration) {
        while let Some(&(time, number, ends)) = self.ended.front()
            && now.saturating_sub(time) >= STRAGGLERS
        {
            self.ended.pop_front();
            if !self.is_current(number, ends) {
                continue;
            }
            // A straggler begins the time anew: retransmissions come at ever longer intervals.
            let last = self
                .flows
                .get(&ends)
                .map_or(time, |(_, flow)| flow.last_time());
            if last > time {
                self.ended.push_back((last, number, ends));
            } else {
                self.finish(ends);
            }
        }
    }

    /// The capture is over, and so are all flows.
    pub fn finish_all(&mut self) {
        while let Some((number, ends)) = self.begun.pop_front() {
            if self.is_current(number, ends) {
                self.finish(ends);
            }
        }
    }

    /// The flows that were finished since the last call.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
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

    fn begin(&mut self, ends: Ends, segment: &Segment<'_>) {
        if self.flows.len() >= FLOWS_MAX {
            self.make_room();
        }
        let number = self.next_number;
        self.next_number += 1;
        let flow = Flow::new(segment, self.server_port);
        self.flows.insert(ends, (number, flow));
        self.begun.push_back((number, ends));
    }

    /// Finishes the flow that ended first, or else the one that began first.
    fn make_room(&mut self) {
        while let Some((_, number, ends)) = self.ended.pop_front() {
            if self.is_current(number, ends) {
                self.told_early += 1;
                return self.finish(ends);
            }
        }
        while let Some((number, ends)) = self.begun.pop_front() {
            if self.is_current(number, ends) {
                self.cut_short += 1;
                return self.finish(ends);
            }
        }
    }

    fn finish(&mut self, ends: Ends) {
        if let Some((number, flow)) = self.flows.remove(&ends) {
            self.finished.push(Finished { number, flow });
        }
        if self.begun.len() > 2 * FLOWS_MAX {
            let flows = &self.flows;
            self.begun
                .retain(|(number, ends)| flows.get(ends).is_some_and(|(now, _)| now == number));
        }
    }

    fn is_current(&self, number: FlowNumber, ends: Ends) -> bool {
        let current = self.flows.get(&ends);
        current.is_some_and(|(current, _)| *current == number)
    }
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
