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

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::capture::analysis::{Analysis, Direction, analyse, is_after};
use crate::capture::segment::{Flags, Options, Segment};
use crate::capture::stream::{Comparison, Difference, Reassembly};

/// Messages and acknowledgments of one direction that may be timed at once. Beyond it some are not
/// timed; nothing else depends on it.
const TIMED_MAX: usize = 1024;

/// Which end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that opened it.
    Client,
    /// The one that was called.
    Server,
}

impl Role {
    /// The other end.
    pub fn other(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    /// As a word in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
        }
    }
}

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
    /// The payload is larger than any segment between these two can be: the kernel cuts it later.
    pub offloaded: bool,
    /// The first wrong byte of a reply, when this segment brought it.
    pub difference: Option<Difference>,
    /// The first byte that this segment sends again with another value.
    pub altered: Option<Difference>,
}

/// Something that was not well, and the packet that shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The number of the packet; `None` when no single one shows it. What the handshake lacks is
    /// told with the first packet of the flow.
    pub packet: Option<u64>,
    /// What it is.
    pub fault: Fault,
}

/// What can be wrong with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No SYN was seen.
    NoSyn,
    /// No SYN,ACK was seen.
    NoSynAck,
    /// The handshake was never completed.
    NoHandshakeAck,
    /// A reply byte is not the upper case of its request byte.
    WrongReply(Difference),
    /// This side sent a byte again with another value, before it was acknowledged.
    Altered(Role, Difference),
    /// So many bytes were asked and not answered.
    Unanswered(u64),
    /// So many bytes answer nothing.
    Surplus(u64),
    /// So many sequence numbers of this side were not acknowledged.
    Unacknowledged(Role, u32),
    /// So many bytes of this side are not in the capture, though they were sent.
    NotCaptured(Role, u64),
    /// So many reply bytes could not be compared.
    Unchecked(u64),
    /// This side sent more after its FIN.
    AfterFin(Role),
    /// This side reset the connection.
    Reset(Role),
    /// This side never closed.
    NotClosed(Role),
}

impl Fault {
    /// Whether it says that something did not come, which a capture that lost packets cannot tell.
    pub fn is_absence(&self) -> bool {
        match self {
            Fault::WrongReply(_)
            | Fault::Altered(..)
            | Fault::Surplus(_)
            | Fault::AfterFin(_)
            | Fault::Reset(_) => false,
            Fault::NoSyn
            | Fault::NoSynAck
            | Fault::NoHandshakeAck
            | Fault::Unanswered(_)
            | Fault::Unacknowledged(..)
            | Fault::NotCaptured(..)
            | Fault::Unchecked(_)
            | Fault::NotClosed(_) => true,
        }
    }

    /// Whether it is of the same kind and side, wherever in the streams.
    fn is_like(&self, other: &Fault) -> bool {
        match (self, other) {
            (Fault::WrongReply(_), Fault::WrongReply(_)) => true,
            (Fault::Altered(role, _), Fault::Altered(other, _)) => role == other,
            _ => self == other,
        }
    }

    /// Where in the streams it is, if it has a place.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Fault::WrongReply(difference) | Fault::Altered(_, difference) => {
                Some(difference.offset)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoSyn => write!(f, "the capture has no SYN: it begins in the middle"),
            Fault::NoSynAck => write!(f, "the server's SYN,ACK is missing"),
            Fault::NoHandshakeAck => write!(f, "the handshake was not completed"),
            Fault::WrongReply(Difference {
                offset,
                expected,
                found,
            }) => write!(
                f,
                "the reply is wrong at offset {offset}: '{}' (0x{found:02x}), not '{}' \
                 (0x{expected:02x})",
                found.escape_ascii(),
                expected.escape_ascii()
            ),
            Fault::Altered(
                role,
                Difference {
                    offset,
                    expected,
                    found,
                },
            ) => write!(
                f,
                "the {} sends offset {offset} again with other content: '{}' (0x{found:02x}), not \
                 '{}' (0x{expected:02x})",
                role.name(),
                found.escape_ascii(),
                expected.escape_ascii()
            ),
            Fault::Unanswered(bytes) => write!(f, "{bytes} bytes were not answered"),
            Fault::Surplus(bytes) => write!(f, "{bytes} bytes of the server answer nothing"),
            Fault::Unacknowledged(role, count) => {
                write!(
                    f,
                    "{count} sequence numbers of the {} were not acknowledged",
                    role.name()
                )
            }
            Fault::NotCaptured(role, bytes) => write!(
                f,
                "{bytes} bytes of the {} are not in the capture, though they were sent",
                role.name()
            ),
            Fault::Unchecked(bytes) => write!(f, "{bytes} bytes of the reply were not compared"),
            Fault::AfterFin(role) => write!(f, "the {} sent more after its FIN", role.name()),
            Fault::Reset(role) => write!(f, "the {} reset the connection", role.name()),
            Fault::NotClosed(role) => write!(f, "the {} did not close its side", role.name()),
        }
    }
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
    reset: bool,
    segments: u64,
    first_packet: Option<u64>,
    last_time: Duration,
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

/// One end, and what it sent.
#[derive(Debug)]
struct Side {
    address: SocketAddr,
    /// The address as it is written, a dozen times for each connection.
    name: String,
    direction: Direction,
    /// The sequence number of the SYN, or the one before the first byte seen.
    base: Option<u32>,
    syn: Option<Options>,
    stream: Option<Reassembly>,
    /// The number after the FIN.
    fin_end: Option<u32>,
    /// The highest acknowledgment of the other side.
    acknowledged: Option<u32>,
    /// The number of the last packet it sent.
    last_packet: Option<u64>,
    /// Segments whose acknowledgment is awaited: the number after each, and when it was sent.
    timed: VecDeque<(u32, Duration)>,
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

impl Side {
    fn new(address: SocketAddr) -> Self {
        Side {
            address,
            name: address.to_string(),
            direction: Direction::default(),
            base: None,
            syn: None,
            stream: None,
            fin_end: None,
            acknowledged: None,
            last_packet: None,
            timed: VecDeque::new(),
        }
    }

    /// Sequence numbers that were acknowledged though they were never seen.
    fn acknowledged_unseen(&self) -> u64 {
        match (self.direction.next(), self.acknowledged) {
            (Some(next), Some(ack)) if is_after(ack, next) => ack.wrapping_sub(next).into(),
            _ => 0,
        }
    }

    /// Whether its FIN was acknowledged.
    fn is_closed(&self) -> bool {
        match (self.fin_end, self.acknowledged) {
            (Some(end), Some(ack)) => !is_after(end, ack),
            _ => false,
        }
    }
}

impl Flow {
    /// A flow that begins with this segment. `server_port`: who is the server when no SYN says it;
    /// otherwise the end with the lower port is.
    pub fn new(first: &Segment<'_>, server_port: Option<u16>) -> Flow {
        let (source, target) = (first.source, first.target);
        let (syn, ack) = (first.flags.has(Flags::SYN), first.flags.has(Flags::ACK));
        let from_client = match (syn, ack, server_port) {
            (true, ack, _) => !ack,
            (_, _, Some(port)) if source.port() == port => false,
            (_, _, Some(port)) if target.port() == port => true,
            _ => source.port() >= target.port(),
        };
        let (client, server) = if from_client {
            (source, target)
        } else {
            (target, source)
        };
        Flow {
            client: Side::new(client),
            server: Side::new(server),
            handshake: Handshake::Missed,
            round_trip: None,
            comparison: Comparison::default(),
            requests: VecDeque::new(),
            findings: Vec::new(),
            first_closer: None,
            reset: false,
            segments: 0,
            first_packet: None,
            last_time: Duration::ZERO,
        }
    }

    /// The address of an end as it is written.
    pub fn name(&self, role: Role) -> &str {
        &self.side(role).name
    }

    /// The MSS that this end announced.
    pub fn mss(&self, role: Role) -> Option<u16> {
        self.side(role).syn.and_then(|options| options.mss)
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
        let timestamps = |role| {
            let syn = self.side(role).syn;
            syn.is_some_and(|options| options.timestamps.is_some())
        };
        let both = timestamps(Role::Client) && timestamps(Role::Server);
        Some(
            self.mss_in_force()?
                .saturating_sub(if both { 12 } else { 0 }),
        )
    }

    /// Bytes that this end sent, as far as is known.
    pub fn bytes(&self, role: Role) -> u64 {
        self.side(role)
            .stream
            .as_ref()
            .map_or(0, Reassembly::delivered)
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
        self.reset || (self.client.is_closed() && self.server.is_closed())
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
        let other = self.side(role).base.is_some_and(|base| base != segment.seq);
        // A SYN belongs to nothing that was seen before it but its own answer.
        let late = matches!(self.handshake, Handshake::Missed) && self.server.syn.is_none();
        opens && (other || late)
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
        let (closer_before, had_ended) = (self.first_closer, self.has_ended());
        let round_trip = self.round_trip;
        let (sender, receiver) = self.sides(from);
        let analysis = analyse(
            segment,
            packet.time,
            &mut sender.direction,
            &mut receiver.direction,
            round_trip,
        );
        let acknowledges = self.take_acknowledgment(from, packet, segment, timings);
        let shakes = self.shake(from, packet, segment, timings);
        let after_fin = self.sends_after_fin(from, packet, segment);
        let offset = self.base_stream(from, segment).offset(segment.seq);
        let altered = self.take_payload(from, packet, segment, timings);
        // A keep-alive's byte is no data, and may have any value (RFC 9293, section 3.8.4).
        let altered = altered.filter(|_| !analysis.has(Analysis::KEEP_ALIVE));
        if let Some(difference) = altered {
            self.find(packet.number, Fault::Altered(from, difference));
        }
        let wrong = self.compare();
        self.take_end(from, packet, segment);
        let fin_acknowledged = acknowledges > 0 && self.side(from.other()).is_closed();
        let meaning = match shakes {
            Some(meaning) => meaning,
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
        let base = |side: &Side| side.base.unwrap_or(0);
        Observation {
            from,
            bases: (base(self.side(from)), base(self.side(from.other()))),
            analysis,
            meaning,
            offloaded: self
                .payload_max()
                .is_some_and(|most| segment.length > u32::from(most)),
            difference: wrong
                .filter(|(number, _)| *number == packet.number)
                .map(|(_, difference)| difference),
            altered,
        }
    }

    /// What it costs to keep what is kept of its bytes.
    pub fn cost(&self) -> usize {
        let streams = [&self.client.stream, &self.server.stream];
        streams.into_iter().flatten().map(Reassembly::cost).sum()
    }

    /// Keeps no bytes any more: holes stay holes, and what was not compared will not be.
    pub fn give_up(&mut self) {
        self.finish_streams();
        for side in [&mut self.client, &mut self.server] {
            if let Some(stream) = &mut side.stream {
                stream.forget();
            }
        }
    }

    fn finish_streams(&mut self) {
        for side in [&mut self.client, &mut self.server] {
            if let Some(stream) = &mut side.stream {
                stream.finish();
            }
        }
        self.compare();
    }

    /// Everything that was not well, now that nothing more comes.
    pub fn judge(&mut self) -> Vec<Finding> {
        self.finish_streams();
        let mut findings = Vec::new();
        let mut add = |packet, fault| findings.push(Finding { packet, fault });
        match (&self.client.syn, &self.server.syn, self.handshake) {
            (None, _, _) => add(self.first_packet, Fault::NoSyn),
            (_, None, _) => add(self.first_packet, Fault::NoSynAck),
            (_, _, Handshake::Complete) => {}
            _ => add(self.first_packet, Fault::NoHandshakeAck),
        }
        findings.extend(self.findings.iter().copied());
        let mut add = |packet, fault| findings.push(Finding { packet, fault });
        let reset = self.reset;
        for (role, side) in [(Role::Client, &self.client), (Role::Server, &self.server)] {
            let stream = side.stream.as_ref();
            let missing = stream.map_or(0, Reassembly::missing) + side.acknowledged_unseen();
            if missing > 0 {
                add(side.last_packet, Fault::NotCaptured(role, missing));
            }
            if side.fin_end.is_none() && !reset {
                add(side.last_packet, Fault::NotClosed(role));
            }
            let first = side.base.map(|base| base.wrapping_add(1));
            let open = match (side.direction.next(), side.acknowledged.or(first)) {
                (Some(next), Some(ack)) if is_after(next, ack) => next.wrapping_sub(ack),
                _ => 0,
            };
            if open > 0 && !reset {
                add(side.last_packet, Fault::Unacknowledged(role, open));
            }
        }
        let (asked, answered) = (self.bytes(Role::Client), self.bytes(Role::Server));
        let [unanswered, surplus, unchecked] = match self.is_comparable() {
            true => [
                asked.saturating_sub(answered),
                answered.saturating_sub(asked),
                self.comparison.unchecked(),
            ],
            false => [0, 0, answered],
        };
        for (bytes, fault) in [
            (unanswered, Fault::Unanswered(unanswered)),
            (surplus, Fault::Surplus(surplus)),
            (unchecked, Fault::Unchecked(unchecked)),
        ] {
            if bytes > 0 {
                add(None, fault);
            }
        }
        findings
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
        if syn && !segment.flags.has(Flags::RST) {
            let side = self.side_mut(from);
            side.base = Some(segment.seq);
            side.syn = Some(segment.options);
            side.stream
                .get_or_insert_with(|| Reassembly::new(segment.seq.wrapping_add(1)));
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
            (_, Role::Server) if syn && ack => {
                if let Handshake::Opened(time) = self.handshake {
                    self.handshake = Handshake::Accepted(time);
                }
                Some(Meaning::Accepts)
            }
            (Handshake::Opened(begun) | Handshake::Accepted(begun), Role::Client)
                if ack && !segment.flags.has(Flags::RST) =>
            {
                // Without a SYN,ACK it was missed: the client has seen it, or would not go on.
                let round_trip = packet.time.saturating_sub(begun);
                self.round_trip.get_or_insert(round_trip);
                let base = self.server.base?;
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
        timings: &mut Vec<Timing>,
    ) -> u32 {
        if !segment.flags.has(Flags::ACK) {
            return 0;
        }
        let side = self.side_mut(from.other());
        // A SYN is no byte: what counts begins after it.
        let first = side.base.map_or(segment.ack, |base| base.wrapping_add(1));
        let before = *side.acknowledged.get_or_insert(first);
        if !is_after(segment.ack, before) {
            return 0;
        }
        side.acknowledged = Some(segment.ack);
        while let Some(&(end, sent)) = side.timed.front()
            && !is_after(end, segment.ack)
        {
            side.timed.pop_front();
            let taken = packet.time.saturating_sub(sent);
            timings.push(Timing::Acknowledged(taken));
        }
        let fin = side.fin_end == Some(segment.ack);
        if let Some(stream) = &mut side.stream {
            let end = segment.ack.wrapping_sub(u32::from(fin));
            let syn_only = stream.offset(end) <= 0;
            if !syn_only
                && side
                    .fin_end
                    .is_none_or(|fin_end| !is_after(segment.ack, fin_end))
            {
                stream.acknowledged(end, packet.time);
            }
        }
        segment.ack.wrapping_sub(before)
    }

    fn sends_after_fin(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) -> bool {
        let end = segment.seq.wrapping_add(segment.length);
        let after = match self.side(from).fin_end {
            Some(fin_end) => segment.length > 0 && is_after(end, fin_end.wrapping_sub(1)),
            None => false,
        };
        if after {
            self.find(packet.number, Fault::AfterFin(from));
        }
        after
    }

    /// The stream of this side; the first segment seen of it tells where it begins.
    fn base_stream(&mut self, from: Role, segment: &Segment<'_>) -> &mut Reassembly {
        let side = self.side_mut(from);
        side.base.get_or_insert(segment.seq.wrapping_sub(1));
        side.stream
            .get_or_insert_with(|| Reassembly::new(segment.seq))
    }

    /// Tells the first byte that was sent before with another value.
    fn take_payload(
        &mut self,
        from: Role,
        packet: Packet,
        segment: &Segment<'_>,
        timings: &mut Vec<Timing>,
    ) -> Option<Difference> {
        if segment.length == 0 || segment.flags.has(Flags::RST) {
            return None;
        }
        let fin_end = self.side(from).fin_end;
        let stream = self.base_stream(from, segment);
        let before = stream.delivered();
        let mut start = segment
            .seq
            .wrapping_add(u32::from(segment.flags.has(Flags::SYN)));
        if fin_end.is_some_and(|end| !is_after(end, start)) {
            start = start.wrapping_sub(1); // The FIN took a number, and is no byte.
        }
        let place = (start, segment.length);
        let altered = stream.add(place, packet.number, segment.payload);
        let after = stream.delivered();
        if after > before {
            self.time(from, packet.time, segment, (before, after), timings);
        }
        altered
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
        if side.timed.len() < TIMED_MAX {
            let end = segment.seq.wrapping_add(segment.span());
            side.timed.push_back((end, now));
        }
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
        self.client.syn.is_some() && self.server.syn.is_some()
    }

    /// Lays the reply against the request as far as both have come, and lets go what is not needed
    /// any more. Tells the first wrong byte and its packet.
    fn compare(&mut self) -> Option<(u64, Difference)> {
        let comparable = self.is_comparable();
        let (request, reply) = (&mut self.client.stream, &mut self.server.stream);
        let (Some(request), Some(reply)) = (request, reply) else {
            return None;
        };
        let mut wrong = None;
        let mut compared = u64::MAX;
        if comparable {
            wrong = self.comparison.advance(request, reply);
            compared = self.comparison.offset();
        }
        request.release(compared);
        reply.release(compared);
        if let Some((packet, difference)) = wrong {
            self.find(packet, Fault::WrongReply(difference));
        }
        wrong
    }

    fn take_end(&mut self, from: Role, packet: Packet, segment: &Segment<'_>) {
        if segment.flags.has(Flags::RST) {
            self.reset = true;
            self.find(packet.number, Fault::Reset(from));
            return;
        }
        if segment.flags.has(Flags::FIN) {
            let side = self.side_mut(from);
            side.fin_end = Some(segment.seq.wrapping_add(segment.span()));
            self.first_closer.get_or_insert(from);
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
