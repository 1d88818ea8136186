//! Follows one connection through a capture: which end opened it, what each of its segments does,
//! and the judgement on it at the end. Pure: it takes parsed segments and returns values;
//! `transcript` and `document` put them into words.
//!
//! ```text
//!   SYN ──► SYN,ACK ──► ACK ──► requests and replies ──► FIN and its ACK, each side ──► ended
//!                                                   └──► RST ───────────────────────► ended
//! ```
//!
//! This is not a TCP state machine: a passive observer may begin in the middle of a connection,
//! miss segments or see them out of order. It reports only what the capture shows.
//!
//! Each segment is first checked against the window of its receiver. One that the receiver would
//! drop is counted and otherwise ignored, unless a later acknowledgment shows that it was accepted.
//! Each end keeps an account of what is accepted ([`account`]). At the end the two accounts decide
//! the conclusion: "all well" needs a proof from both, "wrong" needs a finding that the capture
//! shows, and everything else is incomplete.
//!
//! This file has the connection itself and the path of a segment through it. The parts of a
//! connection have files of their own: the two endpoints (`sides`, [`side`], [`stream`]), the
//! `handshake`, the `exchange` of requests and replies, and the `close`. On top of it are the
//! decision to which connection a segment belongs (`reuse`), the judgement (`judge`), the memory of
//! ended connections ([`retired`]), and all connections of a capture ([`flows`]).

pub mod account;
pub mod analysis;
mod close;
mod exchange;
pub mod finding;
pub mod flows;
mod handshake;
mod judge;
mod observation;
pub mod retired;
mod reuse;
pub mod side;
mod sides;
pub mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use crate::echo::{Difference, Expect};
use crate::sniff::flow::analysis::{Analysis, Credit, Window, analyse};
use crate::sniff::flow::close::Close;
use crate::sniff::flow::exchange::Exchange;
pub use crate::sniff::flow::finding::{Fault, Finding, Judgement, Note, Role};
use crate::sniff::flow::handshake::Handshake;
pub use crate::sniff::flow::observation::{Meaning, Observation, Packet, Timing};
use crate::sniff::flow::side::Side;
use crate::sniff::flow::sides::Sides;
use crate::sniff::packet::segment::{Flags, Segment};

/// The number of a flow in its capture, from 1, in the order of their first segments.
pub type FlowNumber = u64;

/// MSS of a side that announces none, in bytes, for IPv4 and IPv6 (RFC 9293, section 3.7.1).
const MSS_DEFAULT: [u16; 2] = [536, 1220];

/// One connection, as far as the capture shows it.
#[derive(Debug)]
pub struct Flow {
    sides: Sides,
    handshake: Handshake,
    exchange: Exchange,
    close: Close,
    findings: Vec<Finding>,
    segments: u64,
    first_packet: Option<u64>,
    last_time: Duration,
}

/// The effect of a segment on its connection.
struct Effect {
    meaning: Meaning,
    difference: Option<Difference>,
    altered: Option<Difference>,
}

impl Flow {
    /// Returns a flow that begins with this segment. `server_port`: the port by which the server is
    /// known. When neither end or both have it, a SYN decides, and without one the end with the
    /// lower port is the server. `expect`: the expected replies.
    pub fn new(first: &Segment<'_>, server_port: Option<u16>, expect: Expect) -> Flow {
        let (source, target) = (first.source, first.target);
        let (syn, ack) = (first.flags.has(Flags::SYN), first.flags.has(Flags::ACK));
        let is_server = |port: u16| server_port == Some(port);
        let from_client = match (is_server(source.port()), is_server(target.port())) {
            (true, false) => false,
            (false, true) => true,
            _ if syn => !ack,
            _ => source.port() >= target.port(),
        };
        let (client, server) = if from_client {
            (source, target)
        } else {
            (target, source)
        };
        let sides = Sides {
            client: Side::new(client),
            server: Side::new(server),
        };
        Flow::between(sides, expect)
    }

    /// Returns a flow between these endpoints of which no segment was seen yet.
    fn between(sides: Sides, expect: Expect) -> Flow {
        Flow {
            sides,
            handshake: Handshake::default(),
            exchange: Exchange::new(expect),
            close: Close::default(),
            findings: Vec::new(),
            segments: 0,
            first_packet: None,
            last_time: Duration::ZERO,
        }
    }

    /// Returns the address of an end.
    pub fn address(&self, role: Role) -> SocketAddr {
        self.sides.get(role).address
    }

    /// Returns the address of an end as text.
    pub fn name(&self, role: Role) -> &str {
        &self.sides.get(role).name
    }

    /// Returns the MSS that this end announced in its SYN.
    pub fn mss(&self, role: Role) -> Option<u16> {
        self.sides.get(role).syn.and_then(|syn| syn.mss)
    }

    /// Returns the smaller of the two MSS values, which neither end may exceed; `None` unless both
    /// SYNs were seen.
    pub fn mss_in_force(&self) -> Option<u16> {
        let announced = |role| {
            let side = self.sides.get(role);
            let default = MSS_DEFAULT[usize::from(side.address.is_ipv6())];
            side.syn.map(|syn| syn.mss.unwrap_or(default))
        };
        Some(announced(Role::Client)?.min(announced(Role::Server)?))
    }

    /// Returns the payload of a full segment: the MSS less the 12 bytes of the timestamps option,
    /// when both ends use it (RFC 7323).
    pub fn payload_max(&self) -> Option<u16> {
        let timestamps = |role| self.sides.get(role).syn.is_some_and(|syn| syn.timestamps);
        let both = timestamps(Role::Client) && timestamps(Role::Server);
        let option = if both { 12 } else { 0 };
        Some(self.mss_in_force()?.saturating_sub(option))
    }

    /// Returns the number of bytes that this end sent, as far as it is known, including those that
    /// the capture lacks.
    pub fn bytes(&self, role: Role) -> u64 {
        self.sides.get(role).account().length()
    }

    /// Returns the end that sent the first FIN.
    pub fn first_closer(&self) -> Option<Role> {
        self.close.first_closer()
    }

    /// Returns whether SYN, SYN,ACK and ACK were seen.
    pub fn is_established(&self) -> bool {
        self.handshake.is_complete()
    }

    /// Returns whether the connection is over: both sides closed and both FINs were acknowledged,
    /// or one side reset it.
    pub fn has_ended(&self) -> bool {
        let have_closed = self.sides.client.is_closed() && self.sides.server.is_closed();
        self.close.reset_by().is_some() || have_closed
    }

    /// Returns the time of its last segment.
    pub fn last_time(&self) -> Duration {
        self.last_time
    }

    /// Returns the number of its segments.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Processes the next segment of this flow. Appends the times that it completes to `timings`.
    pub fn observe(
        &mut self,
        packet: Packet,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> Observation {
        let from = self.sides.role_of(segment);
        self.segments += 1;
        self.first_packet.get_or_insert(packet.number);
        self.last_time = packet.time;
        self.sides.get_mut(from).last_packet = Some(packet.number);
        self.sides.prefer_other_syn(segment);
        let outside = !self.sides.check_window(from, segment);
        let is_mark = segment.flags.has(Flags::SYN.with(Flags::RST));
        let (sender, receiver) = self.sides.pair_mut(from);
        let credit = match outside {
            false => Credit::All,
            true if !is_mark && receiver.may_have_acknowledged(segment) => Credit::Acknowledgment,
            true => Credit::Nothing,
        };
        let directions = (&mut sender.direction, &mut receiver.direction);
        let round_trip = self.handshake.round_trip();
        let analysis = analyse(segment, packet.time, directions, round_trip, credit);
        let window = sender.direction.window_of(segment, &receiver.direction);
        let effect = match outside {
            true => self.process_dropped(from, packet, segment),
            false => self.process_accepted(from, packet, segment, (analysis, window), timings),
        };
        let base = |role| self.sides.get(role).base().unwrap_or(0);
        Observation {
            from,
            bases: (base(from), base(from.other())),
            analysis,
            meaning: effect.meaning,
            outside,
            window,
            offloaded: self
                .payload_max()
                .is_some_and(|most| segment.length > u32::from(most)),
            difference: effect.difference,
            altered: effect.altered,
        }
    }

    /// Records a segment that its receiver drops.
    fn process_dropped(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) -> Effect {
        self.sides.record_outside(from, packet.number, segment);
        let (syn, ack) = (segment.flags.has(Flags::SYN), segment.flags.has(Flags::ACK));
        let meaning = if segment.flags.has(Flags::RST) {
            Meaning::Resets
        } else if syn && ack {
            Meaning::Accepts
        } else if syn {
            Meaning::Opens
        } else if segment.length > 0 {
            Meaning::Carries {
                offset: self.sides.get(from).offset(segment.seq),
                acknowledges: 0,
                closes: segment.flags.has(Flags::FIN),
                after_fin: false,
            }
        } else if segment.flags.has(Flags::FIN) {
            Meaning::Closes {
                first: false,
                acknowledges_fin: false,
            }
        } else {
            Meaning::Acknowledges {
                bytes: 0,
                fin: false,
                ends: false,
            }
        };
        Effect {
            meaning,
            difference: None,
            altered: None,
        }
    }

    /// Processes a segment that its receiver accepts.
    fn process_accepted(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        (analysis, window): (Analysis, Window),
        timings: &mut Vec<Timing>,
    ) -> Effect {
        let (closer_before, had_ended) = (self.first_closer(), self.has_ended());
        let had_acknowledged_all = self.sides.all_acknowledged();
        let now = packet.time;
        let acknowledges = self.process_acknowledgment(from, now, segment, window, timings);
        let sides = &mut self.sides;
        let handshake = self.handshake.advance(sides, from, now, segment, timings);
        self.close.cancel_reset(from, segment);
        let side = self.sides.get_mut(from);
        let offset = side.offset(segment.seq);
        let (altered, after_fin) = self
            .exchange
            .add(side, from, packet, segment, analysis, timings);
        if let Some(difference) = altered {
            self.find(packet.number, Fault::Altered(from, difference));
        }
        if after_fin {
            self.find_after_fin(from, packet.number);
        }
        let wrong = self.compare();
        if self.close.process(&mut self.sides, from, packet, segment) {
            self.find_after_fin(from, packet.number);
        }
        let fin_acknowledged = acknowledges > 0 && self.sides.get(from.other()).is_closed();
        let is_reset = segment.flags.has(Flags::RST);
        let meaning = match handshake {
            Some(meaning) => meaning,
            None if is_reset && had_acknowledged_all => Meaning::ResetsNothing,
            None if is_reset => Meaning::Resets,
            None if segment.length > 0 => Meaning::Carries {
                offset,
                acknowledges: acknowledges - u32::from(fin_acknowledged),
                closes: segment.flags.has(Flags::FIN),
                after_fin,
            },
            None if segment.flags.has(Flags::FIN) => Meaning::Closes {
                first: closer_before.is_none_or(|closer| closer == from),
                acknowledges_fin: fin_acknowledged,
            },
            None => Meaning::Acknowledges {
                bytes: acknowledges - u32::from(fin_acknowledged),
                fin: fin_acknowledged,
                ends: self.has_ended() && !had_ended,
            },
        };
        Effect {
            meaning,
            difference: wrong
                .filter(|(number, _)| *number == packet.number)
                .map(|(_, difference)| difference),
            altered,
        }
    }

    /// Processes the acknowledgment of a segment. Returns how many sequence numbers it acknowledges
    /// for the first time.
    fn process_acknowledgment(
        &mut self,
        from: Role,
        now: Duration,
        segment: &Segment<'_>,
        window: Window,
        timings: &mut Vec<Timing>,
    ) -> u32 {
        if !segment.flags.has(Flags::ACK) || segment.flags.has(Flags::RST) {
            return 0;
        }
        let side = self.sides.get_mut(from.other());
        let timed = |taken| timings.push(Timing::Acknowledged(taken));
        let acknowledges = side.acknowledge(segment.ack, now, timed);
        side.grant(segment.ack, window);
        acknowledges
    }

    /// Compares the reply with the request as far as both have been received. Returns the first
    /// wrong byte and its packet.
    fn compare(&mut self) -> Option<(u64, Difference)> {
        let wrong = self.exchange.compare(&mut self.sides);
        if let Some((packet, difference)) = wrong {
            self.find(packet, Fault::WrongReply(difference));
        }
        wrong
    }

    /// Adds the finding that this side sent something after its FIN. There is none when the capture
    /// lacks the SYN and the FIN has the first known number: that may be the number of the SYN, and
    /// then the FIN closed nothing.
    fn find_after_fin(&mut self, from: Role, packet: u64) {
        let side = self.sides.get(from);
        if side.has_syn() || side.fin() != Some(0) {
            self.find(packet, Fault::AfterFin(from));
        }
    }

    /// Adds a fault, once, with the first packet that shows it.
    fn find(&mut self, packet: u64, fault: Fault) {
        let mut reported = self.findings.iter();
        if !reported.any(|finding| finding.fault.is_like(&fault)) {
            self.findings.push(Finding {
                packet: Some(packet),
                fault,
            });
        }
    }

    /// Returns the bytes of memory that its buffers take.
    pub fn cost(&self) -> usize {
        self.sides.client.cost() + self.sides.server.cost() + self.exchange.cost()
    }

    /// Drops all buffers: holes then count as missing, and bytes that were not compared stay so.
    pub fn drop_buffers(&mut self) {
        self.finish_streams();
        self.exchange.drop_requests();
        self.sides.client.drop_buffers();
        self.sides.server.drop_buffers();
    }

    /// Ends both streams: their holes are missing bytes from now on.
    fn finish_streams(&mut self) {
        for side in [&mut self.sides.client, &mut self.sides.server] {
            if let Some(stream) = &mut side.stream {
                stream.finish();
            }
        }
        self.compare();
    }
}
