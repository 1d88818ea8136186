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
//! Each end keeps an account of what is accepted ([`Side::account`]). At the end the two accounts
//! decide the conclusion: "all well" needs a proof from both ([`Proof`]), "wrong" needs a finding
//! that the capture shows, and everything else is incomplete.

pub mod account;
pub mod analysis;
pub mod finding;
pub mod flows;
pub mod retired;
pub mod side;
pub mod stream;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::echo::Difference;
use crate::sniff::flow::account::{Conclusion, Proof};
use crate::sniff::flow::analysis::{Analysis, Credit, Window, analyse};
pub use crate::sniff::flow::finding::{Fault, Finding, Note, Role};
use crate::sniff::flow::side::{Continuation, OtherSyn, Place, RetainedSide, Side, TIMED_MAX};
use crate::sniff::flow::stream::{Comparison, Expect, SetAsideSegment};
use crate::sniff::packet::segment::{Flags, Segment};
use crate::units::nanoseconds;

/// A packet of the capture, by its number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Position in the capture, from 1.
    pub number: u64,
    /// Time of capture, since the Unix epoch.
    pub time: Duration,
}

/// The number of a flow in its capture, from 1, in the order of their first segments.
pub type FlowNumber = u64;

/// The meaning of a segment in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The client's SYN.
    Opens,
    /// The server's SYN, which acknowledges the client's.
    Accepts,
    /// The acknowledgment that completes the handshake.
    Begins,
    /// Payload.
    Carries {
        /// Offset of its first byte in the sender's stream.
        offset: i64,
        /// Number of the peer's bytes that it acknowledges for the first time.
        acknowledges: u32,
        /// Whether the segment also has a FIN.
        closes: bool,
        /// Whether it has bytes after the sender's own FIN.
        after_fin: bool,
    },
    /// FIN without payload.
    Closes {
        /// Whether the sender is the first end to close.
        first: bool,
        /// Whether it acknowledges the peer's FIN for the first time.
        acknowledges_fin: bool,
    },
    /// A segment that only acknowledges.
    Acknowledges {
        /// Number of the peer's bytes acknowledged for the first time, its FIN not included.
        bytes: u32,
        /// Whether it acknowledges the peer's FIN for the first time.
        fin: bool,
        /// Whether both sides are closed now and were not before.
        ends: bool,
    },
    /// RST.
    Resets,
    /// An RST after both sides closed and all their bytes were acknowledged.
    ResetsNothing,
}

/// The result of [`Flow::observe`] for one segment.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The end that sent it.
    pub from: Role,
    /// The sequence numbers of the SYNs of the sender and of its peer, from which relative numbers
    /// count. Without a SYN it is the number before the first known byte, or 0 if there is none.
    pub bases: (u32, u32),
    /// The analysis flags, with the names of tshark.
    pub analysis: Analysis,
    /// The meaning of the segment in its connection.
    pub meaning: Meaning,
    /// Whether the segment lies outside the window of its receiver, which drops it: it changes
    /// nothing.
    pub outside: bool,
    /// The receive window that it announces, as in the header and in bytes.
    pub window: Window,
    /// Whether the payload is larger than any segment of this connection can be: it is split after
    /// the point of capture (segmentation offload).
    pub offloaded: bool,
    /// The first wrong byte of a reply, if this segment brought it.
    pub difference: Option<Difference>,
    /// The first byte of this segment that was sent before with another value.
    pub altered: Option<Difference>,
}

/// A time between two segments, measured at the point of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Time from the SYN to the acknowledgment that completes the handshake.
    Handshake(Duration),
    /// Time from the last byte of a request to the first byte of its reply.
    Reply(Duration),
    /// Time from bytes of one side to their acknowledgment.
    Acknowledged(Duration),
}

/// One connection, as far as the capture shows it.
#[derive(Debug)]
pub struct Flow {
    client: Side,
    server: Side,
    handshake: Handshake,
    /// Time from the last SYN to the client's first acknowledgment.
    round_trip: Option<Duration>,
    comparison: Comparison,
    requests: VecDeque<Request>,
    findings: Vec<Finding>,
    first_closer: Option<Role>,
    reset: Option<Reset>,
    /// The first RST after which the connection went on: its sender and its packet.
    challenged: Option<(Role, u64)>,
    segments: u64,
    first_packet: Option<u64>,
    last_time: Duration,
}

/// An RST that its receiver may have accepted.
#[derive(Clone, Copy, Debug)]
struct Reset {
    from: Role,
    packet: u64,
    /// Whether its sequence number is exactly the one that its receiver expects, so that the
    /// connection is over. Any other number within the window is only answered with a challenge ACK
    /// (RFC 5961, section 3), unless the capture lacks the bytes before it: then the connection is
    /// over if it does not go on.
    exact: bool,
}

#[derive(Clone, Copy, Debug)]
enum Handshake {
    /// The SYN was not seen.
    Missed,
    /// A SYN was seen at this time.
    Opened(Duration),
    /// A SYN,ACK was seen, and a SYN at this time.
    Accepted(Duration),
    Complete,
}

/// A request whose reply is awaited. On the wire a message ends with a segment that has the PSH
/// flag.
#[derive(Clone, Copy, Debug)]
struct Request {
    start: u64,
    end: u64,
    /// Time of its last byte; `None` until that was seen.
    complete: Option<Duration>,
    /// Whether its reply began before the request was complete.
    answered_early: bool,
}

/// The effect of a segment on its connection.
struct Effect {
    meaning: Meaning,
    difference: Option<Difference>,
    altered: Option<Difference>,
}

/// The judgement on a connection after its last segment.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Faults, and gaps in the capture.
    pub findings: Vec<Finding>,
    /// Anomalies that had no effect.
    pub notes: Vec<Note>,
    /// The conclusion from the findings and from the accounts of both directions.
    pub conclusion: Conclusion,
}

/// The state that is kept of a connection which has ended and was reported. It recognises late
/// segments, and distinguishes them from those of the next connection between the same ports.
#[derive(Clone, Copy, Debug)]
pub struct RetainedFlow {
    client: RetainedSide,
    server: RetainedSide,
    /// The side that reset the connection; `None` when both sides closed it.
    reset: Option<Role>,
    established: bool,
    /// Time of the last segment since the Unix epoch, in nanoseconds.
    last_time: u64,
}

impl RetainedFlow {
    /// Returns the time of its last segment.
    pub fn last_time(&self) -> Duration {
        Duration::from_nanos(self.last_time)
    }

    /// Returns a flow in the state in which the connection ended, between these addresses.
    pub fn revive(&self, client: SocketAddr, server: SocketAddr) -> Flow {
        let (client, server) = (
            self.client.revive(client, self.last_time()),
            self.server.revive(server, self.last_time()),
        );
        Flow {
            handshake: match self.established {
                true => Handshake::Complete,
                false => Handshake::Missed,
            },
            reset: self.reset.map(|from| Reset {
                from,
                packet: 0,
                exact: true,
            }),
            last_time: self.last_time(),
            ..Flow::between(client, server, Expect::Anything)
        }
    }
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
        Flow::between(Side::new(client), Side::new(server), expect)
    }

    fn between(client: Side, server: Side, expect: Expect) -> Flow {
        Flow {
            client,
            server,
            handshake: Handshake::Missed,
            round_trip: None,
            comparison: Comparison::new(expect),
            requests: VecDeque::new(),
            findings: Vec::new(),
            first_closer: None,
            reset: None,
            challenged: None,
            segments: 0,
            first_packet: None,
            last_time: Duration::ZERO,
        }
    }

    /// Returns the state to keep after the flow is over; `None` when it has not ended.
    pub fn retain(&self) -> Option<RetainedFlow> {
        let reset = self.reset.filter(|reset| reset.exact);
        if !self.has_ended() {
            return None;
        }
        Some(RetainedFlow {
            client: RetainedSide::of(&self.client),
            server: RetainedSide::of(&self.server),
            reset: reset.map(|reset| reset.from),
            established: self.is_established(),
            last_time: nanoseconds(self.last_time),
        })
    }

    /// Returns the address of an end.
    pub fn address(&self, role: Role) -> SocketAddr {
        self.side(role).address
    }

    /// Returns the address of an end as text.
    pub fn name(&self, role: Role) -> &str {
        &self.side(role).name
    }

    /// Returns the MSS that this end announced in its SYN.
    pub fn mss(&self, role: Role) -> Option<u16> {
        self.side(role).syn.and_then(|syn| syn.mss)
    }

    /// Returns the smaller of the two MSS values, which neither end may exceed; `None` unless both
    /// SYNs were seen.
    pub fn mss_in_force(&self) -> Option<u16> {
        let announced = |role| {
            let side = self.side(role);
            let default = MSS_DEFAULT[usize::from(side.address.is_ipv6())];
            side.syn.map(|syn| syn.mss.unwrap_or(default))
        };
        Some(announced(Role::Client)?.min(announced(Role::Server)?))
    }

    /// Returns the payload of a full segment: the MSS less the 12 bytes of the timestamps option,
    /// when both ends use it (RFC 7323).
    pub fn payload_max(&self) -> Option<u16> {
        let timestamps = |role| self.side(role).syn.is_some_and(|syn| syn.timestamps);
        let both = timestamps(Role::Client) && timestamps(Role::Server);
        Some(
            self.mss_in_force()?
                .saturating_sub(if both { 12 } else { 0 }),
        )
    }

    /// Returns the number of bytes that this end sent, as far as it is known, including those that
    /// the capture lacks.
    pub fn bytes(&self, role: Role) -> u64 {
        self.side(role).account().length()
    }

    /// Returns the end that sent the first FIN.
    pub fn first_closer(&self) -> Option<Role> {
        self.first_closer
    }

    /// Returns whether SYN, SYN,ACK and ACK were seen.
    pub fn is_established(&self) -> bool {
        matches!(self.handshake, Handshake::Complete)
    }

    /// Returns whether the connection is over: both sides closed and both FINs were acknowledged,
    /// or one side reset it.
    pub fn has_ended(&self) -> bool {
        self.reset.is_some_and(|reset| reset.exact) || self.has_closed()
    }

    /// Returns true when both sides closed and both FINs were acknowledged.
    fn has_closed(&self) -> bool {
        self.client.is_closed() && self.server.is_closed()
    }

    /// Returns true when both sides closed and all their bytes were acknowledged: an RST then loses
    /// nothing, even when the capture lacks the acknowledgment of a FIN.
    fn all_acknowledged(&self) -> bool {
        self.client.all_acknowledged() && self.server.all_acknowledged()
    }

    /// Returns the time of its last segment.
    pub fn last_time(&self) -> Duration {
        self.last_time
    }

    /// Returns the number of its segments.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Returns whether this SYN opens another connection between the same ports.
    pub fn is_reused_by(&self, segment: &Segment<'_>) -> bool {
        let opens = segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
        let role = self.role_of(segment);
        let other = self
            .side(role)
            .base()
            .is_some_and(|base| base != segment.seq);
        // The only segment before a SYN that can belong to its connection is its SYN,ACK.
        let late = matches!(self.handshake, Handshake::Missed) && self.server.syn.is_none();
        // After the connection was refused, the same SYN is another attempt.
        opens && (other || late || self.was_refused())
    }

    /// Returns true when its SYN was answered by an RST.
    fn was_refused(&self) -> bool {
        self.reset.is_some_and(|reset| reset.exact) && self.server.stream.is_none()
    }

    /// Returns true when a segment can belong to this connection after its end. An RST always
    /// counts as part of it: an RST cannot begin another connection.
    pub fn owns(&self, segment: &Segment<'_>) -> bool {
        // A segment with an acknowledgment belongs to a later attempt, which was not refused.
        let is_later = self.was_refused() && segment.flags.has(Flags::ACK);
        let is_inside = self.place(segment) == Place::Inside;
        segment.flags.has(Flags::RST) || (is_inside && !is_later)
    }

    /// Returns true when this segment belongs to another connection between the same ports, whose
    /// SYN the capture lacks.
    pub fn belongs_to_other_connection(&self, segment: &Segment<'_>) -> bool {
        let from = self.role_of(segment);
        let (sender, receiver) = (self.side(from), self.side(from.other()));
        if segment.flags.has(Flags::SYN) && segment.flags.has(Flags::ACK) {
            // If no SYN was seen, a SYN,ACK whose numbers differ from the known ones belongs to
            // another connection.
            let other = |side: &Side, base| side.base().is_some_and(|known| known != base);
            let is_other =
                other(sender, segment.seq) || other(receiver, segment.ack.wrapping_sub(1));
            return is_other && !sender.has_syn() && !receiver.has_syn();
        }
        if self.prefers_other_syn(segment) {
            return false;
        }
        let is_outside = self.place(segment) == Place::Outside;
        let follows_other_syn = match from {
            Role::Client => receiver.goes_on_from_other_syn(segment.ack),
            Role::Server => sender.goes_on_from_other_syn(segment.seq),
        };
        self.acknowledges_other_syn(segment)
            || follows_other_syn
            || (is_outside
                && sender.continuation(segment, receiver) == Some(Continuation::Elsewhere))
    }

    /// Removes the segments that both ends set aside, and returns them with their sequence numbers:
    /// they may belong to the next connection.
    pub fn hand_over(&mut self) -> [(SocketAddr, Vec<(u32, SetAsideSegment)>); 2] {
        let of = |side: &mut Side| (side.address, side.hand_over());
        [of(&mut self.client), of(&mut self.server)]
    }

    /// Adds the segments that `Flow::hand_over` returned for the previous connection.
    pub fn take_over(
        &mut self,
        handed: [(SocketAddr, Vec<(u32, SetAsideSegment)>); 2],
        now: Duration,
    ) {
        for (address, aside) in handed {
            let side = match address == self.client.address {
                true => &mut self.client,
                false => &mut self.server,
            };
            side.take_over(aside, now);
        }
    }

    fn place(&self, segment: &Segment<'_>) -> Place {
        let from = self.role_of(segment);
        self.side(from).place(segment, self.side(from.other()))
    }

    /// Processes the next segment of this flow. Appends the times that it completes to `timings`.
    pub fn observe(
        &mut self,
        packet: Packet,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> Observation {
        let from = self.role_of(segment);
        self.segments += 1;
        self.first_packet.get_or_insert(packet.number);
        self.last_time = packet.time;
        self.side_mut(from).last_packet = Some(packet.number);
        self.prefer_other_syn(segment);
        let outside = self.is_outside(from, segment);
        let is_mark = segment.flags.has(Flags::SYN.with(Flags::RST));
        let round_trip = self.round_trip;
        let (sender, receiver) = self.sides(from);
        let credit = match outside {
            false => Credit::All,
            true if !is_mark && receiver.may_have_acknowledged(segment) => Credit::Acknowledgment,
            true => Credit::Nothing,
        };
        let directions = (&mut sender.direction, &mut receiver.direction);
        let analysis = analyse(segment, packet.time, directions, round_trip, credit);
        let window = sender.direction.window_of(segment, &receiver.direction);
        let effect = match outside {
            true => self.pass_over(from, packet, segment),
            false => self.take(from, packet, segment, (analysis, window), timings),
        };
        let base = |side: &Side| side.base().unwrap_or(0);
        Observation {
            from,
            bases: (base(self.side(from)), base(self.side(from.other()))),
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

    /// Returns true when the receiver drops the segment. A segment with which the connection goes
    /// on after a gap in the capture extends the window first.
    fn is_outside(&mut self, from: Role, segment: &Segment<'_>) -> bool {
        if self.place(segment) == Place::Inside {
            return false;
        }
        let (sender, receiver) = self.sides(from);
        if sender.continuation(segment, receiver) == Some(Continuation::AfterGap) {
            sender.resume(segment);
            receiver.recall();
        }
        self.place(segment) == Place::Outside
    }

    /// Makes the server's stream begin after its other SYN,ACK, which has a different number, when
    /// the client acknowledges that one.
    fn prefer_other_syn(&mut self, segment: &Segment<'_>) {
        if self.prefers_other_syn(segment) {
            self.server.begin_with_other(segment.ack.wrapping_sub(1));
        }
    }

    fn prefers_other_syn(&self, segment: &Segment<'_>) -> bool {
        self.acknowledges_other_syn(segment)
            && self.server.other_syn.is_some_and(|other| other.answers)
            && self.server.may_begin_with_other()
            && self.client.strays.count == 0
    }

    /// Returns true when the client acknowledges a SYN,ACK with another number than the first one.
    fn acknowledges_other_syn(&self, segment: &Segment<'_>) -> bool {
        let other = self.server.other_syn.map(|other| other.seq);
        self.role_of(segment) == Role::Client
            && segment.flags.has(Flags::ACK)
            && other == Some(segment.ack.wrapping_sub(1))
    }

    /// Records a segment that its receiver drops.
    fn pass_over(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) -> Effect {
        let side = self.side_mut(from);
        side.pass_over(segment, packet.number);
        let (syn, ack) = (segment.flags.has(Flags::SYN), segment.flags.has(Flags::ACK));
        if syn && ack && from == Role::Server {
            let seq = segment.seq;
            let again = self.server.other_syn.filter(|other| other.seq == seq);
            self.server.other_syn = Some(OtherSyn {
                seq,
                answers: segment.length == 0 && self.client.may_answer(segment),
                count: again.map_or(1, |other| other.count + 1),
            });
        }
        let side = self.side(from);
        let meaning = if segment.flags.has(Flags::RST) {
            Meaning::Resets
        } else if syn && ack {
            Meaning::Accepts
        } else if syn {
            Meaning::Opens
        } else if segment.length > 0 {
            Meaning::Carries {
                offset: side.offset(segment.seq),
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
    fn take(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        (analysis, window): (Analysis, Window),
        timings: &mut Vec<Timing>,
    ) -> Effect {
        let (closer_before, had_ended) = (self.first_closer, self.has_ended());
        let had_said_all = self.all_acknowledged();
        let acknowledges = self.take_acknowledgment(from, packet, segment, window, timings);
        let shakes = self.advance_handshake(from, packet, segment, timings);
        self.go_on_after_reset(segment);
        let offset = self.side(from).offset(segment.seq);
        let (altered, after_fin) = self.take_payload(from, packet, segment, analysis, timings);
        let wrong = self.compare();
        self.process_close(from, packet, segment);
        let fin_acknowledged = acknowledges > 0 && self.side(from.other()).is_closed();
        let meaning = match shakes {
            Some(meaning) => meaning,
            None if segment.flags.has(Flags::RST) && had_said_all => Meaning::ResetsNothing,
            None if segment.flags.has(Flags::RST) => Meaning::Resets,
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

    /// Returns the bytes of memory that its buffers take.
    pub fn cost(&self) -> usize {
        let requests = self.requests.capacity() * size_of::<Request>();
        self.client.cost() + self.server.cost() + requests
    }

    /// Drops all buffers: holes then count as missing, and bytes that were not compared stay so.
    pub fn give_up(&mut self) {
        self.finish_streams();
        self.requests = VecDeque::new();
        self.client.give_up();
        self.server.give_up();
    }

    fn finish_streams(&mut self) {
        for side in [&mut self.client, &mut self.server] {
            if let Some(stream) = &mut side.stream {
                stream.finish();
            }
        }
        self.compare();
    }

    /// Returns the judgement on the connection, once no segment can follow.
    pub fn judge(&mut self) -> Judgement {
        self.finish_streams();
        let mut findings = Vec::new();
        let mut add = |packet, fault| findings.push(Finding { packet, fault });
        // The handshake of a refused connection ends with its SYN.
        let refused = self.reset.is_some() && self.server.stream.is_none();
        match (self.client.has_syn(), self.server.has_syn(), self.handshake) {
            (true, _, _) if refused => {}
            (false, _, _) => add(self.first_packet, Fault::NoSyn),
            (_, false, _) => add(self.first_packet, Fault::NoSynAck),
            (_, _, Handshake::Complete) => {}
            _ => add(self.first_packet, Fault::NoHandshakeAck),
        }
        findings.extend(self.findings.iter().copied());
        if let Some(Reset { from, packet, .. }) = self.reset {
            findings.push(Finding {
                packet: Some(packet),
                fault: Fault::Reset(from),
            });
        }
        self.judge_sides(&mut findings);
        self.judge_replies(&mut findings);
        let (request, reply) = (self.client.account(), self.server.account());
        let compared = match self.comparison.expect() {
            Expect::Anything => None,
            Expect::Upper | Expect::Same => Some(self.comparison.compared()),
        };
        let is_wrong = findings.iter().any(|finding| !finding.fault.is_gap());
        let conclusion = match Proof::prove(&request, &reply, compared) {
            _ if is_wrong => Conclusion::Wrong,
            Some(proof) if findings.is_empty() => Conclusion::Complete(proof),
            _ => Conclusion::Incomplete,
        };
        Judgement {
            findings,
            notes: self.notes(),
            conclusion,
        }
    }

    /// Adds the findings about each direction alone.
    fn judge_sides(&self, findings: &mut Vec<Finding>) {
        for (role, side) in [(Role::Client, &self.client), (Role::Server, &self.server)] {
            let mut add = |fault| {
                findings.push(Finding {
                    packet: side.last_packet,
                    fault,
                });
            };
            let account = side.account();
            let is_unfollowed = side.has_syn() && !side.begins();
            let sent = account.length_max() > 0 || account.fin.is_some();
            if is_unfollowed && sent {
                add(Fault::NotAfterSyn(role));
            } else if let Some(missing) = account.missing() {
                add(Fault::NotCaptured(role, missing));
            }
            if self.reset.is_some() {
                continue;
            }
            if account.lacks_only_fin() {
                add(Fault::FinNotCaptured(role));
            } else if account.fin.is_none() {
                add(Fault::NotClosed(role));
            }
            let open = account.unacknowledged();
            if open > 0 {
                add(Fault::Unacknowledged(role, open));
            }
        }
    }

    /// Adds the findings about the replies to the requests.
    fn judge_replies(&self, findings: &mut Vec<Finding>) {
        let (request, reply) = (self.client.account(), self.server.account());
        if self.comparison.expect() == Expect::Anything {
            return;
        }
        let mut add = |bytes, fault| {
            if bytes > 0 {
                findings.push(Finding {
                    packet: None,
                    fault,
                });
            }
        };
        if !self.is_comparable() {
            let answered = reply.length();
            return add(answered, Fault::Unchecked(answered));
        }
        let (asked, answered) = (request.length_min(), reply.length());
        // The server received what it acknowledged. If it closes without a reply to that, there
        // will be none.
        let acknowledged = asked.min(request.acknowledged);
        let unanswered = match reply.fin {
            Some(fin) => acknowledged.saturating_sub(fin),
            None => 0,
        };
        let open = asked.saturating_sub(answered) - unanswered;
        // With holes in both directions, the bytes after them may belong to another connection.
        let (unanswered, open) = match (request.missing(), reply.missing()) {
            (Some(_), Some(_)) => (0, open + unanswered),
            _ => (unanswered, open),
        };
        let beyond = answered.saturating_sub(request.length_max());
        let surplus = match reply.captured == answered {
            true => beyond,
            false => {
                let stream = self.server.stream.as_ref();
                stream.map_or(0, |stream| stream.captured_from(request.length_max()))
            }
        };
        let mut unchecked = asked
            .min(answered)
            .saturating_sub(self.comparison.compared());
        let surplus = match (request.missing(), reply.missing()) {
            (Some(_), Some(_)) => {
                unchecked += surplus;
                0
            }
            _ => surplus,
        };
        add(unanswered, Fault::Unanswered(unanswered));
        add(open, Fault::NotAnsweredYet(open));
        add(surplus, Fault::Surplus(surplus));
        add(unchecked, Fault::Unchecked(unchecked));
    }

    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for (role, side) in [(Role::Client, &self.client), (Role::Server, &self.server)] {
            let strays = side.strays;
            if strays.count > 0 {
                notes.push(Note::Outside {
                    role,
                    count: strays.count,
                    first: strays.first,
                });
            }
            let doubted = side.doubted.filter(|_| side.account().missing().is_some());
            notes.extend(doubted.map(|packet| Note::UncertainByte(role, packet)));
            if side.was_acknowledged_unsent() {
                notes.push(Note::AcknowledgedUnsent(role.other()));
            }
        }
        let challenged = self.challenged;
        notes.extend(challenged.map(|(role, packet)| Note::ChallengedReset(role, packet)));
        notes
    }

    fn role_of(&self, segment: &Segment<'_>) -> Role {
        if segment.source == self.client.address {
            Role::Client
        } else {
            Role::Server
        }
    }

    fn side(&self, role: Role) -> &Side {
        match role {
            Role::Client => &self.client,
            Role::Server => &self.server,
        }
    }

    fn side_mut(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        }
    }

    /// Returns the sending side and the receiving side.
    fn sides(&mut self, from: Role) -> (&mut Side, &mut Side) {
        match from {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        }
    }

    /// Advances the handshake. Returns the meaning of the segment if it is a part of the handshake.
    fn advance_handshake(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> Option<Meaning> {
        let (syn, ack) = (segment.flags.has(Flags::SYN), segment.flags.has(Flags::ACK));
        if segment.flags.has(Flags::RST) {
            return None;
        }
        if syn {
            self.side_mut(from).begin(segment);
        }
        match (self.handshake, from) {
            // If the SYN is retransmitted, the handshake is timed from the last one.
            (Handshake::Missed | Handshake::Opened(_) | Handshake::Accepted(_), Role::Client)
                if syn && !ack =>
            {
                self.handshake = match self.server.syn {
                    None => Handshake::Opened(packet.time),
                    Some(_) => Handshake::Accepted(packet.time),
                };
                Some(Meaning::Opens)
            }
            // A simultaneous open, and the capture lacks the client's SYN.
            (Handshake::Missed, Role::Client) if syn && ack => {
                self.handshake = Handshake::Opened(packet.time);
                Some(Meaning::Accepts)
            }
            (_, Role::Server) if syn && ack => {
                if let Handshake::Opened(time) = self.handshake {
                    self.handshake = Handshake::Accepted(time);
                }
                Some(Meaning::Accepts)
            }
            (Handshake::Opened(begun) | Handshake::Accepted(begun), Role::Client) if ack => {
                // If no SYN,ACK was seen, the capture lacks it: without one the client would not
                // acknowledge.
                let round_trip = packet.time.saturating_sub(begun);
                self.round_trip.get_or_insert(round_trip);
                let base = self.server.base()?;
                if let Handshake::Opened(_) = self.handshake {
                    return None;
                }
                self.handshake = Handshake::Complete;
                timings.push(Timing::Handshake(round_trip));
                let bare = segment.span() == 0 && segment.ack == base.wrapping_add(1);
                bare.then_some(Meaning::Begins)
            }
            _ => None,
        }
    }

    /// Processes the acknowledgment of a segment. Returns how many sequence numbers it acknowledges
    /// for the first time.
    fn take_acknowledgment(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        window: Window,
        timings: &mut Vec<Timing>,
    ) -> u32 {
        let is_reset = segment.flags.has(Flags::RST);
        if !segment.flags.has(Flags::ACK) || is_reset {
            return 0;
        }
        let side = self.side_mut(from.other());
        let timed = |taken| timings.push(Timing::Acknowledged(taken));
        let acknowledges = side.acknowledge(segment.ack, packet.time, timed);
        side.grant(segment.ack, window);
        acknowledges
    }

    /// Cancels a reset whose RST does not have the expected number, if this segment shows that the
    /// connection went on after it.
    fn go_on_after_reset(&mut self, segment: &Segment<'_>) {
        let Some(reset) = self.reset.filter(|reset| !reset.exact) else {
            return;
        };
        // A bare acknowledgment from its receiver may be the challenge ACK, and shows nothing.
        let is_answer = self.role_of(segment) != reset.from && segment.span() == 0;
        if !segment.flags.has(Flags::RST) && !is_answer {
            self.reset = None;
            self.challenged.get_or_insert((reset.from, reset.packet));
        }
    }

    /// Adds the payload of a segment to its stream. Returns the first byte that was sent before
    /// with another value, and whether there are bytes after the FIN.
    fn take_payload(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        analysis: Analysis,
        timings: &mut Vec<Timing>,
    ) -> (Option<Difference>, bool) {
        if segment.flags.has(Flags::RST) {
            return (None, false);
        }
        let side = self.side_mut(from);
        let syn = u32::from(segment.flags.has(Flags::SYN));
        let start = segment.seq.wrapping_add(syn);
        if syn == 0 || segment.length > 0 {
            side.speak(start);
        }
        // The byte of a keep-alive is not data, and may have any value (RFC 9293, section 3.8.4).
        if segment.length == 0 || analysis.has(Analysis::KEEP_ALIVE) {
            return (None, false);
        }
        let probes_window = analysis.has(Analysis::ZERO_WINDOW_PROBE);
        if !probes_window && side.may_be_keep_alive(segment) {
            side.doubted.get_or_insert(packet.number);
            return (None, false);
        }
        let fin = side.fin();
        let stream = side.begin_at(start);
        let before = stream.delivered();
        let end = stream.offset(start) + i64::from(segment.length);
        let beyond = fin.map_or(0, |fin| (end - fin as i64).clamp(0, segment.length.into()));
        let length = segment.length - beyond as u32;
        let payload = &segment.payload[..segment.payload.len().min(length as usize)];
        let altered = stream.add((start, length), packet.number, payload);
        let after = stream.delivered();
        side.has_sent(packet.time);
        if after > before {
            self.time(from, packet.time, segment, (before, after), timings);
        }
        if let Some(difference) = altered {
            self.find(packet.number, Fault::Altered(from, difference));
        }
        if beyond > 0 {
            self.find_after_fin(from, packet.number);
        }
        (altered, beyond > 0)
    }

    /// Records when a request is complete, and measures the delay of a reply when it begins.
    fn time(
        &mut self,
        from: Role,
        now: Duration,
        segment: &Segment<'_>,
        (before, after): (u64, u64),
        timings: &mut Vec<Timing>,
    ) {
        let side = self.side_mut(from);
        let end = side.offset(segment.seq.wrapping_add(segment.span()));
        side.time(u64::try_from(end).unwrap_or(0), now);
        if from == Role::Server {
            while let Some(request) = self.requests.front_mut()
                && request.start < after
            {
                // A reply that begins before its request ends has no delay.
                match request.complete {
                    None => {
                        request.answered_early = true;
                        break;
                    }
                    Some(_) if request.answered_early => {}
                    Some(complete) => timings.push(Timing::Reply(now.saturating_sub(complete))),
                }
                self.requests.pop_front();
            }
            if self.requests.is_empty() && self.requests.capacity() > REQUESTS_IDLE {
                self.requests = VecDeque::new();
            }
            return;
        }
        let complete = segment.flags.has(Flags::PSH).then_some(now);
        let room = self.requests.len() < TIMED_MAX;
        match self.requests.back_mut() {
            Some(request) if request.complete.is_none() && request.end == before => {
                request.end = after;
                request.complete = complete;
            }
            _ if room => self.requests.push_back(Request {
                start: before,
                end: after,
                complete,
                answered_early: false,
            }),
            _ => {}
        }
    }

    /// Returns whether both streams begin with a SYN that was seen. Otherwise it is unknown which
    /// bytes of the two streams correspond.
    fn is_comparable(&self) -> bool {
        self.client.begins() && self.server.begins()
    }

    /// Compares the reply with the request as far as both have been received, and drops the bytes
    /// that are not needed any more. Returns the first wrong byte and its packet.
    fn compare(&mut self) -> Option<(u64, Difference)> {
        let comparable = self.is_comparable() && self.comparison.expect() != Expect::Anything;
        let (request, reply) = (&mut self.client.stream, &mut self.server.stream);
        let mut wrong = None;
        let mut compared = u64::MAX;
        if comparable && let (Some(request), Some(reply)) = (&request, &reply) {
            wrong = self.comparison.advance(request, reply);
            compared = self.comparison.offset();
        }
        for stream in [request, reply].into_iter().flatten() {
            stream.release(compared);
        }
        if let Some((packet, difference)) = wrong {
            self.find(packet, Fault::WrongReply(difference));
        }
        wrong
    }

    fn process_close(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) {
        if segment.flags.has(Flags::RST) {
            let before = self.reset.is_some_and(|reset| reset.exact);
            if !before && !self.all_acknowledged() {
                self.reset = Some(Reset {
                    from,
                    packet: packet.number,
                    exact: self.side(from).is_expected(segment.seq),
                });
            }
            return;
        }
        if segment.flags.has(Flags::FIN) {
            let side = self.side_mut(from);
            // A FIN at the number of the SYN, or before it, closes nothing: that number is taken.
            let end = side.offset(segment.seq.wrapping_add(segment.span())) - 1;
            let Ok(end) = u64::try_from(end) else { return };
            let contradicts = side.close(end, packet.time);
            self.first_closer.get_or_insert(from);
            if contradicts {
                self.find_after_fin(from, packet.number);
            }
        }
    }

    /// Adds the finding that this side sent something after its FIN. There is none when the capture
    /// lacks the SYN and the FIN has the first known number: that may be the number of the SYN, and
    /// then the FIN closed nothing.
    fn find_after_fin(&mut self, from: Role, packet: u64) {
        let side = self.side(from);
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
}

/// MSS of a side that announces none, in bytes, for IPv4 and IPv6 (RFC 9293, section 3.7.1).
const MSS_DEFAULT: [u16; 2] = [536, 1220];

/// Maximum capacity of the queue of requests that an idle connection keeps.
const REQUESTS_IDLE: usize = 4;
