//! One endpoint of a connection: what it sent, what the peer acknowledged of it, and the window
//! that the peer granted. Pure.
//!
//! All positions are offsets in the stream of this endpoint, so that no number here wraps. The data
//! in a segment is used only if its receiver would accept the segment; see [`Side::is_acceptable`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::sniff::flow::account::Account;
use crate::sniff::flow::analysis::{Direction, RetainedDirection, Window};
use crate::sniff::flow::stream::{Reassembly, SetAsideSegment};
use crate::sniff::packet::segment::{Flags, Options, Segment};

/// Maximum number of segments of one direction whose time to acknowledgment is measured at once.
/// Segments beyond it are not timed; nothing else depends on it.
pub const TIMED_MAX: usize = 1024;

/// The largest shift of a window (RFC 7323, section 2.3).
const SHIFT_MAX: u32 = 14;

/// Capacity for timed segments that an idle connection may keep.
const TIMED_IDLE: usize = 8;

/// The options of a SYN that are kept.
#[derive(Clone, Copy, Debug)]
pub struct Syn {
    /// The maximum segment size.
    pub mss: Option<u16>,
    /// True when timestamps are offered or accepted.
    pub timestamps: bool,
}

impl Syn {
    /// Returns the options that are kept from all options of a SYN.
    pub fn of(options: &Options) -> Syn {
        Syn {
            mss: options.mss,
            timestamps: options.timestamps.is_some(),
        }
    }
}

/// Segments outside the window that did not become part of the stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strays {
    /// Number of these segments.
    pub count: u64,
    /// The number of the packet with the first of them.
    pub first: u64,
}

/// A segment outside the window that may be the first one after a gap in the capture.
#[derive(Clone, Copy, Debug)]
struct OutsideSegment {
    seq: u32,
    /// The sequence number after it.
    end: u32,
    /// Number of segments that followed one another without a gap.
    chain: u32,
}

/// Maximum distance of a segment beyond the window, or beyond the last byte when the window is not
/// known, at which it may still continue a connection, in bytes. When more than this is missing,
/// the segment is as likely to belong to another connection whose SYN is missing as well.
const GAP_MAX: i64 = 1 << 20;

/// The connection in which a conversation continues after segments outside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// This connection: the capture lacks what lies between, and the segment that opened the
    /// window.
    AfterGap,
    /// Another connection between the same ports, whose SYN is not in the capture.
    Elsewhere,
}

/// Minimum number of consecutive segments outside the window that are not strays, but continue the
/// conversation.
const CHAIN_MIN: u32 = 3;

/// A SYN,ACK whose sequence number is not the one that the stream begins with.
#[derive(Clone, Copy, Debug)]
pub struct OtherSyn {
    /// Its number.
    pub seq: u32,
    /// True when it answers the SYN that was seen, and not one of another connection.
    pub answers: bool,
    /// Number of times that it was captured.
    pub count: u64,
}

/// An endpoint of a connection, and what it sent.
#[derive(Debug)]
pub struct Side {
    /// Its address.
    pub address: SocketAddr,
    /// The address as text, which is needed a dozen times for each connection.
    pub name: String,
    /// The state from which the analysis of its segments is derived, such as retransmissions.
    pub direction: Direction,
    /// The options of its SYN.
    pub syn: Option<Syn>,
    /// True when its SYN was seen, and the stream begins after it.
    syn_seen: bool,
    /// True when a segment or an acknowledgment has the sequence number after the SYN: what follows
    /// belongs to that SYN, and not to another one that the capture lacks.
    syn_confirmed: bool,
    /// Another SYN,ACK than the one that the stream begins with.
    pub other_syn: Option<OtherSyn>,
    /// The bytes that it sent.
    pub stream: Option<Reassembly>,
    /// The offset of its FIN.
    fin: Option<u64>,
    /// The offset up to which the peer acknowledged what was seen sent, a FIN included; `None`
    /// before the first acknowledgment.
    acknowledged: Option<u64>,
    /// The highest offset beyond what was seen sent that the peer acknowledged; 0 when there is
    /// none.
    acknowledged_beyond: u64,
    /// The highest offset at which a segment of its own began, if that is beyond what had been seen
    /// sent before; 0 otherwise.
    highest_implied: u64,
    /// The offset at which the window ends that the peer granted; it never decreases.
    granted: Option<u64>,
    /// The number of the first packet whose byte was treated as that of a keep-alive, though it may
    /// be data.
    pub uncertain_byte: Option<u64>,
    /// Segments outside the window.
    pub strays: Strays,
    /// The last segment outside the window.
    outside: Option<OutsideSegment>,
    /// The number of the last packet it sent.
    pub last_packet: Option<u64>,
    /// Segments that await their acknowledgment: the offset after each, and the time of its packet.
    timed: VecDeque<(u64, Duration)>,
}

impl Side {
    /// Returns an endpoint of which nothing was seen yet.
    pub fn new(address: SocketAddr) -> Self {
        Side {
            address,
            name: address.to_string(),
            direction: Direction::default(),
            syn: None,
            syn_seen: false,
            syn_confirmed: false,
            other_syn: None,
            stream: None,
            fin: None,
            acknowledged: None,
            acknowledged_beyond: 0,
            highest_implied: 0,
            granted: None,
            uncertain_byte: None,
            strays: Strays::default(),
            outside: None,
            last_packet: None,
            timed: VecDeque::new(),
        }
    }

    /// Returns the sequence number of its SYN, or the one before the first byte that is known.
    pub fn base(&self) -> Option<u32> {
        let stream = self.stream.as_ref()?;
        Some(stream.start().wrapping_sub(1))
    }

    /// Returns true when its SYN was seen.
    pub fn has_syn(&self) -> bool {
        self.syn_seen
    }

    /// Returns true when its SYN was seen and what follows belongs to it, so that offset 0 is its
    /// first byte.
    pub fn starts_at_syn(&self) -> bool {
        self.syn_seen && self.syn_confirmed
    }

    /// Returns the offset of its FIN.
    pub fn fin(&self) -> Option<u64> {
        self.fin
    }

    /// Returns true when its FIN was acknowledged.
    pub fn is_closed(&self) -> bool {
        self.fin.is_some_and(|fin| self.acknowledged > Some(fin))
    }

    /// Returns true when its FIN was seen, and all bytes before it were acknowledged.
    pub fn all_acknowledged(&self) -> bool {
        self.fin.is_some_and(|fin| self.acknowledged >= Some(fin))
    }

    /// Returns the counts that are known of its stream.
    pub fn account(&self) -> Account {
        let stream = self.stream.as_ref();
        Account {
            starts_at_syn: self.starts_at_syn(),
            captured: stream.map_or(0, Reassembly::captured),
            sent: self.sent(),
            acknowledged: match self.fin {
                Some(_) => self.acknowledged.unwrap_or(0),
                None => self.acknowledged.unwrap_or(0).max(self.acknowledged_beyond),
            },
            highest_implied: self.highest_implied.max(self.acknowledged_beyond),
            fin: self.fin,
        }
    }

    /// Returns true when a segment of one byte may be a keep-alive: one repeats the last sequence
    /// number that was acknowledged with a byte of any value, and here the capture does not hold
    /// the byte that was sent first. The capture may lack the acknowledgment as well; but PSH is
    /// not set in a keep-alive, as it is at the end of a message. If the byte was data, it counts
    /// as not captured, and is not mistaken for another one.
    pub fn may_be_keep_alive(&self, segment: &Segment<'_>) -> bool {
        let marks = Flags::SYN.with(Flags::FIN);
        let acknowledged = self.acknowledged.unwrap_or(0).max(self.acknowledged_beyond);
        let (Some(stream), Ok(offset)) = (&self.stream, u64::try_from(self.offset(segment.seq)))
        else {
            return false;
        };
        segment.length == 1
            && !segment.flags.has(marks)
            && (offset < acknowledged || !segment.flags.has(Flags::PSH))
            && stream.lacks(offset)
    }

    /// Returns true when sequence numbers were acknowledged that it never sent.
    pub fn was_acknowledged_unsent(&self) -> bool {
        self.fin
            .is_some_and(|fin| self.acknowledged_beyond > fin + 1)
    }

    /// Returns the offset of a sequence number in its stream.
    pub fn offset(&self, seq: u32) -> i64 {
        self.stream.as_ref().map_or(0, |stream| stream.offset(seq))
    }

    /// Returns the offset after the highest byte that was seen.
    fn sent(&self) -> u64 {
        self.stream.as_ref().map_or(0, Reassembly::high)
    }

    /// Returns the offset after everything that was seen sent, a FIN included.
    fn end(&self) -> u64 {
        self.fin.map_or(0, |fin| fin + 1).max(self.sent())
    }

    /// Returns true when a segment of this endpoint may be a part of the connection: it lies within
    /// the window of `receiver`, or is a retransmission. A receiver drops any other segment
    /// (RFC 9293, section 3.10.7.4; RFC 5961).
    pub fn is_acceptable(&self, segment: &Segment<'_>, receiver: &Side) -> bool {
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            self.may_reset(segment, receiver)
        } else if flags.has(Flags::SYN) {
            self.may_begin(segment.seq) && (!flags.has(Flags::ACK) || receiver.may_answer(segment))
        } else {
            self.may_send(segment.seq)
                && (!flags.has(Flags::ACK) || receiver.may_be_acknowledged(segment.ack))
        }
    }

    /// Returns true when the receiver accepts an RST: one in the window; or, when nothing else of
    /// this endpoint was seen, one that acknowledges a number that the receiver sent.
    fn may_reset(&self, segment: &Segment<'_>, receiver: &Side) -> bool {
        let Some(stream) = &self.stream else {
            let Some(opened) = &receiver.stream else {
                return true;
            };
            let ack = opened.offset(segment.ack);
            return segment.flags.has(Flags::ACK) && (0..=receiver.end() as i64).contains(&ack);
        };
        let offset = stream.offset(segment.seq);
        match self.acknowledged {
            None => (-1..=self.end() as i64).contains(&offset),
            // A FIN and the RST that follows it may have the same number.
            Some(end) => {
                let fin = i64::from(self.fin.is_some_and(|fin| fin + 1 == end));
                (end as i64 - fin..=self.limit() as i64).contains(&offset)
            }
        }
    }

    /// Returns true when a SYN with this sequence number can be the beginning of this stream.
    fn may_begin(&self, seq: u32) -> bool {
        let first = seq.wrapping_add(1);
        match &self.stream {
            None => true,
            Some(stream) if stream.start() == first => true,
            Some(stream) => !self.syn_seen && stream.earlier(first).is_some(),
        }
    }

    /// Returns true when a SYN,ACK can answer the SYN of this stream.
    pub fn may_answer(&self, answer: &Segment<'_>) -> bool {
        let offset = self.offset(answer.ack);
        let first = if self.syn_seen { 0 } else { -GAP_MAX };
        self.stream.is_none() || (first..=self.end() as i64).contains(&offset)
    }

    fn may_send(&self, seq: u32) -> bool {
        let Some(stream) = &self.stream else {
            return true;
        };
        let first = if self.syn_seen { -1 } else { -GAP_MAX };
        (first..=self.limit() as i64).contains(&stream.offset(seq))
    }

    /// Returns true when an acknowledgment of this number can be an acknowledgment of this stream.
    fn may_be_acknowledged(&self, ack: u32) -> bool {
        let Some(stream) = &self.stream else {
            return true;
        };
        let offset = stream.offset(ack);
        let first = if self.syn_seen { -1 } else { -GAP_MAX };
        offset >= first && self.fin.is_none_or(|fin| offset <= fin as i64 + 1)
    }

    /// Returns the highest offset at which a segment may begin: the end of the window, or of the
    /// last segment, since the capture may lack the segment that opened the window.
    fn limit(&self) -> u64 {
        match self.granted {
            _ if self.fin.is_some() => self.end(),
            None => self.end() + GAP_MAX as u64,
            Some(granted) => self.end().max(granted),
        }
    }

    /// Returns the connection in which the conversation continues with a segment outside the
    /// window; `None` when the segment is a stray. It continues when this segment acknowledges the
    /// peer's last segment, which was outside the window as well, or follows others of this
    /// endpoint that were outside.
    pub fn continuation(&self, segment: &Segment<'_>, receiver: &Side) -> Option<Continuation> {
        let flags = segment.flags;
        if flags.has(Flags::SYN.with(Flags::RST)) || !flags.has(Flags::ACK) {
            return None;
        }
        let answers = receiver
            .outside
            .is_some_and(|outside| [outside.seq, outside.end].contains(&segment.ack));
        let chain = self.outside.filter(|outside| outside.end == segment.seq);
        let follows = chain.is_some_and(|outside| outside.chain + 1 >= CHAIN_MIN);
        if !answers && !follows {
            return None;
        }
        // What is acknowledged beyond a FIN was sent in another connection.
        let beyond = answers || !receiver.may_be_acknowledged(segment.ack);
        let is_over = self.fin.is_some() || receiver.fin.is_some_and(|_| beyond);
        let jumped = receiver.outside.filter(|_| answers);
        let is_near =
            self.is_near(segment.seq) && jumped.is_none_or(|outside| receiver.is_near(outside.seq));
        let has_other_syn = self.other_syn.is_some() || receiver.other_syn.is_some();
        match !is_over && is_near && !has_other_syn {
            true => Some(Continuation::AfterGap),
            false => Some(Continuation::Elsewhere),
        }
    }

    /// Returns true when a sequence number is not before the first one, and not far beyond the
    /// window.
    fn is_near(&self, seq: u32) -> bool {
        let last = self.limit() as i64 + GAP_MAX;
        self.stream.is_none() || (-1..=last).contains(&self.offset(seq))
    }

    /// Extends the window to this segment; the capture lacks the segment that opened it.
    pub fn resume(&mut self, segment: &Segment<'_>) {
        if let Ok(offset) = u64::try_from(self.offset(segment.seq)) {
            self.granted = self.granted.max(Some(offset));
            self.accept_set_aside(offset);
        }
    }

    /// Records that the conversation continues after a gap: the last segment of this endpoint
    /// outside the window is not a stray if it was an acknowledgment alone. A segment with bytes is
    /// a stray until its bytes are acknowledged.
    pub fn uncount_stray_ack(&mut self) {
        if self
            .outside
            .take()
            .is_some_and(|outside| outside.seq == outside.end)
        {
            self.strays.count = self.strays.count.saturating_sub(1);
        }
    }

    /// Returns true when a segment acknowledges an offset up to the end of what was seen sent.
    pub fn may_have_acknowledged(&self, segment: &Segment<'_>) -> bool {
        let offset = self.offset(segment.ack);
        segment.flags.has(Flags::ACK) && (0..=self.end() as i64).contains(&offset)
    }

    /// Begins the stream with its SYN. Bytes that were seen before the SYN are kept if they can
    /// follow it.
    pub fn begin_with_syn(&mut self, segment: &Segment<'_>) {
        let first = segment.seq.wrapping_add(1);
        self.syn = Some(Syn::of(&segment.options));
        let Some(stream) = &mut self.stream else {
            self.stream = Some(Reassembly::new(first));
            self.syn_seen = true;
            return;
        };
        if stream.start() == first {
            self.syn_seen = true;
        } else if let Some(bytes) = stream.earlier(first) {
            stream.begin_earlier(bytes);
            let shift = u64::from(bytes);
            for place in [&mut self.fin, &mut self.acknowledged, &mut self.granted] {
                *place = place.map(|offset| offset + shift);
            }
            for place in [&mut self.acknowledged_beyond, &mut self.highest_implied] {
                *place += if *place > 0 { shift } else { 0 };
            }
            self.timed.clear();
            self.syn_seen = true;
            self.syn_confirmed = bytes == 0;
        }
    }

    /// Returns the stream. A stream that has not begun begins at this sequence number, without a
    /// SYN.
    pub fn begin_at(&mut self, seq: u32) -> &mut Reassembly {
        self.stream.get_or_insert_with(|| Reassembly::new(seq))
    }

    /// Returns true when a sequence number is beyond all that was seen of this stream, and at the
    /// number of the other SYN or soon after it: then it belongs to the connection of that SYN.
    pub fn goes_on_from_other_syn(&self, seq: u32) -> bool {
        let Some(other) = self.other_syn else {
            return false;
        };
        let (first, end) = (self.offset(other.seq), self.end() as i64);
        let offset = self.offset(seq);
        first > end && (first..=first + GAP_MAX).contains(&offset)
    }

    /// Begins the stream after its other SYN, which was acknowledged and has this sequence number.
    pub fn restart_after_other_syn(&mut self, seq: u32) {
        self.stream = Some(Reassembly::new(seq.wrapping_add(1)));
        self.syn_seen = true;
        self.strays.count = 0;
        self.other_syn = None;
        self.outside = None;
        self.granted = None;
        self.highest_implied = 0;
    }

    /// Returns true when no byte and no acknowledgment confirms the SYN that was seen first, and no
    /// segment but the other SYN was outside the window.
    pub fn may_restart_after_other_syn(&self) -> bool {
        let others = self.other_syn.map_or(0, |other| other.count);
        self.acknowledged.is_none() && self.end() == 0 && self.strays.count == others
    }

    /// Processes an acknowledgment of the peer up to this sequence number, and passes the time to
    /// acknowledgment of each segment that it covers to `timed`. Returns how many sequence numbers
    /// are acknowledged for the first time.
    pub fn acknowledge(&mut self, ack: u32, now: Duration, mut timed: impl FnMut(Duration)) -> u32 {
        let offset = self.begin_at(ack).offset(ack);
        let Ok(end) = u64::try_from(offset) else {
            return 0;
        };
        self.syn_confirmed |= end == 0;
        let before = self.acknowledged.unwrap_or(0).max(self.acknowledged_beyond);
        self.accept_set_aside(end);
        match end <= self.end() {
            true => self.acknowledged = self.acknowledged.max(Some(end)),
            false => self.acknowledged_beyond = self.acknowledged_beyond.max(end),
        }
        self.acknowledged.get_or_insert(0);
        while let Some(&(sent_end, sent)) = self.timed.front()
            && sent_end <= end
        {
            self.timed.pop_front();
            timed(now.saturating_sub(sent));
        }
        if self.timed.is_empty() && self.timed.capacity() > TIMED_IDLE {
            self.timed = VecDeque::new();
        }
        self.settle(now);
        end.saturating_sub(before) as u32
    }

    /// Moves segments that were set aside into the stream, if they are acknowledged.
    fn accept_set_aside(&mut self, acknowledged: u64) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let (count, fin) = stream.accept_set_aside(acknowledged);
        self.strays.count = self.strays.count.saturating_sub(count);
        self.fin = self.fin.or(fin);
    }

    /// Compares the acknowledged offsets with what was seen sent, updates them, and passes them to
    /// the stream.
    fn settle(&mut self, now: Duration) {
        let beyond = self.acknowledged_beyond;
        if beyond > 0 && beyond <= self.end() {
            self.acknowledged = self.acknowledged.max(Some(beyond));
            self.acknowledged_beyond = 0;
        }
        let acknowledged = self.acknowledged.unwrap_or(0).max(beyond);
        if let Some(stream) = &mut self.stream {
            stream.acknowledged(acknowledged.min(stream.high()), now);
        }
    }

    /// Returns true when the receiver expects this sequence number next, as far as the capture
    /// shows: it is between what was acknowledged and the end of the bytes in order.
    pub fn is_expected(&self, seq: u32) -> bool {
        let Some(stream) = &self.stream else {
            return true;
        };
        let fin = self.fin.filter(|fin| *fin == stream.delivered());
        let end = fin.map_or(stream.delivered(), |fin| fin + 1);
        let first = self.acknowledged.map_or(-1, |end| end as i64 - 1);
        (first..=end as i64).contains(&stream.offset(seq))
    }

    /// Extends the window to what the peer grants with an acknowledgment.
    pub fn grant(&mut self, ack: u32, window: Window) {
        let bytes = match window.scaled {
            Some(bytes) => u64::from(bytes),
            None => (u64::from(window.raw) << SHIFT_MAX).min(GAP_MAX as u64),
        };
        if let Ok(offset) = u64::try_from(self.offset(ack)) {
            self.granted = self.granted.max(Some(offset + bytes));
        }
    }

    /// Records the sequence number of a segment of its own: everything before it was sent.
    pub fn record_seq(&mut self, seq: u32) {
        let Ok(offset) = u64::try_from(self.begin_at(seq).offset(seq)) else {
            return;
        };
        self.syn_confirmed |= offset == 0;
        if offset > self.end() {
            self.highest_implied = self.highest_implied.max(offset);
        }
    }

    /// Updates the acknowledged offsets after bytes were added to the stream.
    pub fn update_acknowledged(&mut self, now: Duration) {
        if self.acknowledged_beyond > 0 {
            self.settle(now);
        }
    }

    /// Starts to measure the time until a segment is acknowledged; `end` is the offset after it.
    pub fn time_acknowledgment(&mut self, end: u64, now: Duration) {
        if self.timed.len() < TIMED_MAX {
            self.timed.push_back((end, now));
        }
    }

    /// Sets the offset of its FIN. Returns whether that contradicts what was seen before.
    pub fn close(&mut self, offset: u64, now: Duration) -> bool {
        let contradicts = self.sent() > offset || self.fin.is_some_and(|fin| fin != offset);
        self.fin.get_or_insert(offset);
        self.settle(now);
        contradicts
    }

    /// Counts a segment outside the window, and sets it aside when it is beyond the window.
    pub fn record_outside(&mut self, segment: &Segment<'_>, packet: u64) {
        if self.strays.count == 0 {
            self.strays.first = packet;
        }
        self.strays.count += 1;
        let end = segment.seq.wrapping_add(segment.span());
        let chain = self
            .outside
            .filter(|outside| outside.end == segment.seq && end != segment.seq);
        self.outside = Some(OutsideSegment {
            seq: segment.seq,
            end,
            chain: chain.map_or(1, |outside| outside.chain + 1),
        });
        let (fin, ahead) = (segment.flags.has(Flags::FIN), self.limit());
        if segment.span() == 0 || segment.flags.has(Flags::SYN.with(Flags::RST)) {
            return;
        }
        if let Some(stream) = &mut self.stream
            && let Ok(offset) = u64::try_from(stream.offset(segment.seq))
            && offset > ahead
        {
            let place = (offset, segment.length);
            stream.set_aside(place, fin, packet, segment.payload);
        }
    }

    /// Removes and returns the segments that were set aside.
    pub fn take_set_aside(&mut self) -> Vec<(u32, SetAsideSegment)> {
        let aside = self.stream.as_mut().map(Reassembly::take_set_aside);
        let aside = aside.unwrap_or_default();
        self.strays.count = self.strays.count.saturating_sub(aside.len() as u64);
        aside
    }

    /// Begins the stream with segments that the connection before this one set aside.
    pub fn adopt_set_aside(&mut self, mut aside: Vec<(u32, SetAsideSegment)>, now: Duration) {
        let Some((nearest, _)) = aside.first() else {
            return;
        };
        let nearest = *nearest;
        aside.sort_by_key(|(seq, _)| seq.wrapping_sub(nearest) as i32);
        for (seq, aside) in aside {
            let stream = self.begin_at(seq);
            stream.add((seq, aside.length), aside.packet, &aside.bytes);
            let end = stream.offset(seq) + i64::from(aside.length);
            if aside.fin
                && let Ok(end) = u64::try_from(end)
            {
                self.close(end, now);
            }
        }
    }

    /// Returns the bytes of memory that its buffers take.
    pub fn cost(&self) -> usize {
        let stream = self.stream.as_ref().map_or(0, Reassembly::cost);
        stream + self.timed.capacity() * size_of::<(u64, Duration)>()
    }

    /// Drops all buffers.
    pub fn drop_buffers(&mut self) {
        self.timed = VecDeque::new();
        if let Some(stream) = &mut self.stream {
            stream.forget();
        }
    }
}

/// The state of an endpoint that is kept for late segments, after its connection was reported.
#[derive(Clone, Copy, Debug)]
pub struct RetainedSide {
    base: u32,
    /// Bytes of the stream, modulo 2^32.
    length: u32,
    /// True when its sequence numbers are known.
    has_base: bool,
    starts_at_syn: bool,
    closed: bool,
    direction: RetainedDirection,
}

impl RetainedSide {
    /// Returns the state that is kept of an endpoint.
    pub fn of(side: &Side) -> RetainedSide {
        RetainedSide {
            base: side.base().unwrap_or(0),
            has_base: side.stream.is_some(),
            length: side.fin.unwrap_or(side.sent()) as u32,
            starts_at_syn: side.starts_at_syn(),
            closed: side.is_closed(),
            direction: side.direction.retain(),
        }
    }

    /// Returns the endpoint as it was at its end, without its bytes.
    pub fn revive(&self, address: SocketAddr, last_time: Duration) -> Side {
        let length = u64::from(self.length);
        let stream = Reassembly::complete(self.base.wrapping_add(1), length);
        Side {
            stream: self.has_base.then_some(stream),
            syn_seen: self.starts_at_syn,
            syn_confirmed: self.starts_at_syn,
            fin: self.closed.then_some(length),
            acknowledged: Some(length + u64::from(self.closed)),
            direction: Direction::revive(self.direction, last_time),
            ..Side::new(address)
        }
    }
}
