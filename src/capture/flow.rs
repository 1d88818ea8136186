//! One connection as a bystander sees it: who opened it, what each segment does in it, and whether
//! all was well in the end. Pure: fields in, meaning out; the words are made elsewhere.
//!
//! ```text
//!   SYN ──► SYN,ACK ──► ACK ──► requests and replies ──► FIN and its ACK, each side ──► ended
//!                                                   └──► RST ───────────────────────► ended
//! ```
//!
//! Nothing here is the connection's own state machine: a bystander may come late, miss segments, or
//! see them in another order, and must say what it saw and no more.
//!
//! A segment is first placed: what its receiver would drop changes nothing but a count. Of what is
//! accepted, each end keeps an account ([`Side::account`]), and in the end the two accounts decide
//! the conclusion: "all well" needs a proof from both ([`AllWell`]), "wrong" needs a finding that
//! the capture shows, and everything else is incomplete.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::capture::account::{AllWell, Conclusion};
use crate::capture::analysis::{Analysis, Credit, Window, analyse};
pub use crate::capture::finding::{Fault, Finding, Note, Role};
use crate::capture::segment::{Flags, Segment};
use crate::capture::side::{GoesOn, OtherSyn, Place, Side, SideRemains, TIMED_MAX};
use crate::capture::stream::{Aside, Comparison, Difference, Expect};
use crate::units::nanoseconds;

/// Which packet of the capture, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the capture, from 1.
    pub number: u64,
    /// Since 1970.
    pub time: Duration,
}

/// The number of a flow in its capture, from 1, in the order of their first segments.
pub type FlowNumber = u64;

/// What a segment does in its conversation.
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
        /// Where it begins in its stream.
        offset: i64,
        /// Bytes of the other side that it acknowledges for the first time.
        acknowledges: u32,
        /// FIN comes with it.
        closes: bool,
        /// The other side's FIN was seen before.
        after_fin: bool,
    },
    /// FIN without payload.
    Closes {
        /// No FIN of the other side was seen before.
        first: bool,
        /// It acknowledges the FIN of the other side for the first time.
        acknowledges_fin: bool,
    },
    /// Nothing but an acknowledgment.
    Acknowledges {
        /// Bytes of the other side acknowledged for the first time.
        bytes: u32,
        /// The other side's FIN among them.
        fin: bool,
        /// Both sides are closed now.
        ends: bool,
    },
    /// RST.
    Resets,
    /// An RST after both sides have closed.
    ResetsNothing,
}

/// What a flow says of one of its segments.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Who sent it.
    pub from: Role,
    /// The first sequence number of either side, to tell relative ones.
    pub bases: (u32, u32),
    /// In tshark's words.
    pub analysis: Analysis,
    /// In this conversation.
    pub meaning: Meaning,
    /// It lies outside the window of its receiver, which drops it: it changes nothing.
    pub outside: bool,
    /// Its window, in the header and in bytes.
    pub window: Window,
    /// The payload is larger than any segment between these two can be: the kernel cuts it later.
    pub offloaded: bool,
    /// The first wrong byte of a reply, when this segment brought it.
    pub difference: Option<Difference>,
    /// The first byte that this segment sends again with another value.
    pub altered: Option<Difference>,
}

/// Times that only a bystander can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// From SYN to the acknowledgment that completes the handshake.
    Handshake(Duration),
    /// From the last byte of a request to the first byte of its reply.
    Reply(Duration),
    /// From bytes of one side to their acknowledgment.
    Acknowledged(Duration),
}

/// One connection.
#[derive(Debug)]
pub struct Flow {
    client: Side,
    server: Side,
    handshake: Handshake,
    /// From SYN to the client's first acknowledgment.
    round_trip: Option<Duration>,
    comparison: Comparison,
    requests: VecDeque<Request>,
    findings: Vec<Finding>,
    first_closer: Option<Role>,
    reset: Option<Reset>,
    /// RSTs after which the connection went on: the sender of the first one, and its packet.
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
    /// It has the number that its receiver expects: the connection is over. Another number within
    /// the window is only answered (RFC 5961, section 3), unless the capture lacks what lies before
    /// it: then the connection is over if it does not go on.
    exact: bool,
}

#[derive(Clone, Copy, Debug)]
enum Handshake {
    /// The SYN was not seen.
    Missed,
    /// SYN at this time.
    Opened(Duration),
    /// SYN,ACK after a SYN at this time.
    Accepted(Duration),
    Complete,
}

/// A request whose reply is awaited. On the wire a message ends with a pushed segment.
#[derive(Clone, Copy, Debug)]
struct Request {
    start: u64,
    end: u64,
    /// When its last byte was seen, once it was.
    complete: Option<Duration>,
    /// Its reply began before.
    answered_early: bool,
}

/// The effect of a segment that its receiver accepts.
struct Effect {
    meaning: Meaning,
    difference: Option<Difference>,
    altered: Option<Difference>,
}

/// The judgement on a connection, once nothing more comes.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Faults, and gaps in the capture.
    pub findings: Vec<Finding>,
    /// Anything out of the ordinary that changed nothing.
    pub notes: Vec<Note>,
    /// The conclusion from both.
    pub conclusion: Conclusion,
}

/// What is kept of a connection that has ended and was reported, for the segments that come again
/// and for the next connection between the same ports.
#[derive(Clone, Copy, Debug)]
pub struct Remains {
    client: SideRemains,
    server: SideRemains,
    /// The side that reset it; `None` when both sides closed.
    reset: Option<Role>,
    established: bool,
    /// In nanoseconds.
    last_time: u64,
}

impl Remains {
    /// Returns the time of its last segment.
    pub fn last_time(&self) -> Duration {
        Duration::from_nanos(self.last_time)
    }

    /// Returns the connection as it ended, between these addresses.
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
    /// Returns a flow that begins with this segment. `server_port`: the port that shows which end
    /// is the server; when neither end or both have it, a SYN decides, and without one the lower
    /// port. `expect`: the expected replies.
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

    /// Returns what is to be kept when the flow is over; `None` when it has not ended.
    pub fn remains(&self) -> Option<Remains> {
        let reset = self.reset.filter(|reset| reset.exact);
        if !self.has_ended() {
            return None;
        }
        Some(Remains {
            client: SideRemains::of(&self.client),
            server: SideRemains::of(&self.server),
            reset: reset.map(|reset| reset.from),
            established: self.is_established(),
            last_time: nanoseconds(self.last_time),
        })
    }

    /// Returns the address of an end.
    pub fn address(&self, role: Role) -> SocketAddr {
        self.side(role).address
    }

    /// The address of an end as it is written.
    pub fn name(&self, role: Role) -> &str {
        &self.side(role).name
    }

    /// The MSS that this end announced.
    pub fn mss(&self, role: Role) -> Option<u16> {
        self.side(role).syn.and_then(|syn| syn.mss)
    }

    /// The smaller of both, which neither may exceed; `None` unless both SYNs were seen.
    pub fn mss_in_force(&self) -> Option<u16> {
        let announced = |role| {
            let side = self.side(role);
            let default = MSS_DEFAULT[usize::from(side.address.is_ipv6())];
            side.syn.map(|syn| syn.mss.unwrap_or(default))
        };
        Some(announced(Role::Client)?.min(announced(Role::Server)?))
    }

    /// The payload of a full segment: the MSS less the timestamps, when both use them (RFC 7323).
    pub fn payload_max(&self) -> Option<u16> {
        let timestamps = |role| self.side(role).syn.is_some_and(|syn| syn.timestamps);
        let both = timestamps(Role::Client) && timestamps(Role::Server);
        Some(
            self.mss_in_force()?
                .saturating_sub(if both { 12 } else { 0 }),
        )
    }

    /// Returns the bytes that this end sent, as far as is known, whether the capture holds them or
    /// not.
    pub fn bytes(&self, role: Role) -> u64 {
        self.side(role).account().length()
    }

    /// Who sent the first FIN.
    pub fn first_closer(&self) -> Option<Role> {
        self.first_closer
    }

    /// Whether SYN, SYN,ACK and ACK were seen.
    pub fn is_established(&self) -> bool {
        matches!(self.handshake, Handshake::Complete)
    }

    /// Whether nothing more is to come: both sides closed and acknowledged, or a reset.
    pub fn has_ended(&self) -> bool {
        self.reset.is_some_and(|reset| reset.exact) || self.has_closed()
    }

    /// Returns true when both sides closed and both FINs were acknowledged.
    fn has_closed(&self) -> bool {
        self.client.is_closed() && self.server.is_closed()
    }

    /// Returns true when both sides closed and all their bytes were acknowledged: an RST then loses
    /// nothing, even when the capture lacks the acknowledgment of a FIN.
    fn has_said_all(&self) -> bool {
        self.client.has_said_all() && self.server.has_said_all()
    }

    /// When its last segment was seen.
    pub fn last_time(&self) -> Duration {
        self.last_time
    }

    /// How many segments it had.
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// Whether this SYN opens another connection between the same ports.
    pub fn is_reused_by(&self, segment: &Segment<'_>) -> bool {
        let opens = segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
        let role = self.role_of(segment);
        let other = self
            .side(role)
            .base()
            .is_some_and(|base| base != segment.seq);
        // A SYN belongs to nothing that was seen before it but its own answer.
        let late = matches!(self.handshake, Handshake::Missed) && self.server.syn.is_none();
        // After it was refused, the same SYN is another attempt.
        opens && (other || late || self.was_refused())
    }

    /// Returns true when its SYN was answered by an RST.
    fn was_refused(&self) -> bool {
        self.reset.is_some_and(|reset| reset.exact) && self.server.stream.is_none()
    }

    /// Returns true when a segment can belong to this connection after its end. An RST that cannot
    /// belong to it belongs to no other one either.
    pub fn owns(&self, segment: &Segment<'_>) -> bool {
        // A segment that acknowledges something belongs to an attempt that was not refused.
        let is_later = self.was_refused() && segment.flags.has(Flags::ACK);
        let is_inside = self.place(segment) == Place::Inside;
        segment.flags.has(Flags::RST) || (is_inside && !is_later)
    }

    /// Returns true when this segment shows that the conversation goes on in another connection
    /// between the same ports, of which the capture has no SYN.
    pub fn is_left_by(&self, segment: &Segment<'_>) -> bool {
        let from = self.role_of(segment);
        let (sender, receiver) = (self.side(from), self.side(from.other()));
        if segment.flags.has(Flags::SYN) && segment.flags.has(Flags::ACK) {
            // A SYN,ACK follows nothing but its SYN, or what begins with its own numbers.
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
            || (is_outside && sender.goes_on(segment, receiver) == Some(GoesOn::Elsewhere))
    }

    /// Hands over the segments of the two ends that may belong to another connection.
    pub fn hand_over(&mut self) -> [(SocketAddr, Vec<(u32, Aside)>); 2] {
        let of = |side: &mut Side| (side.address, side.hand_over());
        [of(&mut self.client), of(&mut self.server)]
    }

    /// Begins with segments that the connection before it handed over.
    pub fn take_over(&mut self, handed: [(SocketAddr, Vec<(u32, Aside)>); 2], now: Duration) {
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

    /// The next segment of this flow. Times are appended to `timings`.
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

    /// Returns true when its receiver drops it.
    fn is_outside(&mut self, from: Role, segment: &Segment<'_>) -> bool {
        if self.place(segment) == Place::Inside {
            return false;
        }
        let (sender, receiver) = self.sides(from);
        if sender.goes_on(segment, receiver) == Some(GoesOn::AfterGap) {
            sender.resume(segment);
            receiver.recall();
        }
        self.place(segment) == Place::Outside
    }

    /// Begins the server's stream with its other SYN,ACK when the client acknowledges that one.
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

    /// Takes note of a segment that its receiver drops.
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

    /// Takes in a segment that its receiver accepts.
    fn take(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        (analysis, window): (Analysis, Window),
        timings: &mut Vec<Timing>,
    ) -> Effect {
        let (closer_before, had_ended) = (self.first_closer, self.has_ended());
        let had_said_all = self.has_said_all();
        let acknowledges = self.take_acknowledgment(from, packet, segment, window, timings);
        let shakes = self.shake(from, packet, segment, timings);
        self.go_on_after_reset(segment);
        let offset = self.side(from).offset(segment.seq);
        let (altered, after_fin) = self.take_payload(from, packet, segment, analysis, timings);
        let wrong = self.compare();
        self.take_end(from, packet, segment);
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

    /// Drops all buffers: holes stay holes, and bytes that were not compared stay so.
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

    /// Returns the judgement on it, once nothing more comes.
    pub fn judge(&mut self) -> Judgement {
        self.finish_streams();
        let mut findings = Vec::new();
        let mut add = |packet, fault| findings.push(Finding { packet, fault });
        // A connection that was refused has no more of a handshake.
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
        let is_wrong = findings.iter().any(|finding| !finding.fault.is_absence());
        let conclusion = match AllWell::prove(&request, &reply, compared) {
            _ if is_wrong => Conclusion::Wrong,
            Some(proof) if findings.is_empty() => Conclusion::AllWell(proof),
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
            if account.lacks_fin_alone() {
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
        // The server has what it acknowledged; when it closes without an answer, none will come.
        let acknowledged = asked.min(request.acknowledged);
        let unanswered = match reply.fin {
            Some(fin) => acknowledged.saturating_sub(fin),
            None => 0,
        };
        let open = asked.saturating_sub(answered) - unanswered;
        // With holes on both sides it may be another connection that goes on behind them.
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
            notes.extend(doubted.map(|packet| Note::Doubted(role, packet)));
            if side.was_acknowledged_unsent() {
                notes.push(Note::AcknowledgedUnsent(role.other()));
            }
        }
        let challenged = self.challenged;
        notes.extend(challenged.map(|(role, packet)| Note::Challenged(role, packet)));
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

    /// The side that sends and the one that receives.
    fn sides(&mut self, from: Role) -> (&mut Side, &mut Side) {
        match from {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        }
    }

    /// The part that a segment has in the handshake.
    fn shake(
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
            // Sent again, it is the last one whose round trip the handshake measures.
            (Handshake::Missed | Handshake::Opened(_) | Handshake::Accepted(_), Role::Client)
                if syn && !ack =>
            {
                self.handshake = match self.server.syn {
                    None => Handshake::Opened(packet.time),
                    Some(_) => Handshake::Accepted(packet.time),
                };
                Some(Meaning::Opens)
            }
            // Both open at once, and the capture lacks its SYN.
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
                // Without a SYN,ACK it was missed: the client has seen it, or would not go on.
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

    /// What the segment acknowledges for the first time, in sequence numbers.
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

    /// Cancels a reset whose RST is not at the expected number when the connection goes on after
    /// it.
    fn go_on_after_reset(&mut self, segment: &Segment<'_>) {
        let Some(reset) = self.reset.filter(|reset| !reset.exact) else {
            return;
        };
        // Its receiver answers such an RST with an acknowledgment, in any case.
        let is_answer = self.role_of(segment) != reset.from && segment.span() == 0;
        if !segment.flags.has(Flags::RST) && !is_answer {
            self.reset = None;
            self.challenged.get_or_insert((reset.from, reset.packet));
        }
    }

    /// Returns the first byte that was sent before with another value, and whether there are bytes
    /// after the FIN.
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
        // A keep-alive's byte is no data, and may have any value (RFC 9293, section 3.8.4).
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

    /// Times a request when it is complete, a reply when it begins.
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
                // A reply that begins before its request ends has no delay to be told.
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

    /// Without both SYNs nobody knows which bytes belong together.
    fn is_comparable(&self) -> bool {
        self.client.begins() && self.server.begins()
    }

    /// Lays the reply against the request as far as both have come, and lets go what is not needed
    /// any more. Tells the first wrong byte and its packet.
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

    fn take_end(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) {
        if segment.flags.has(Flags::RST) {
            let before = self.reset.is_some_and(|reset| reset.exact);
            if !before && !self.has_said_all() {
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
            // A FIN with the number of the SYN, or an earlier one, closes nothing: it is taken.
            let end = side.offset(segment.seq.wrapping_add(segment.span())) - 1;
            let Ok(end) = u64::try_from(end) else { return };
            let contradicts = side.close(end, packet.time);
            self.first_closer.get_or_insert(from);
            if contradicts {
                self.find_after_fin(from, packet.number);
            }
        }
    }

    /// Something has a number after that of the FIN. A FIN at the first number that is known may
    /// have had that of a SYN which the capture lacks: then it closed nothing.
    fn find_after_fin(&mut self, from: Role, packet: u64) {
        let side = self.side(from);
        if side.has_syn() || side.fin() != Some(0) {
            self.find(packet, Fault::AfterFin(from));
        }
    }

    /// A fault is told once, with the first packet that shows it.
    fn find(&mut self, packet: u64, fault: Fault) {
        let mut told = self.findings.iter();
        if !told.any(|finding| finding.fault.is_like(&fault)) {
            self.findings.push(Finding {
                packet: Some(packet),
                fault,
            });
        }
    }
}

/// What a side takes that announces no MSS, in bytes, for IPv4 and IPv6 (RFC 9293, section 3.7.1).
const MSS_DEFAULT: [u16; 2] = [536, 1220];

/// Room for waiting requests that an idle connection may keep.
const REQUESTS_IDLE: usize = 4;
