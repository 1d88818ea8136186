//! Classifies each segment of a flow with the flags of Wireshark's TCP analysis. Pure.
//!
//! The rules are those of a passive observer, who does not know the state of either end: a segment
//! that does not advance the stream is a retransmission, and its kind is inferred from
//! acknowledgments and times. They follow what Wireshark documents under "TCP Analysis", so that
//! the results can be compared; where this module differs, the tests list the reason.
//!
//! Sequence numbers wrap; all comparisons are by distance (RFC 9293, section 3.4).

use std::time::Duration;

use crate::sniff::packet::segment::{Flags, Segment};

/// Maximum time from the last duplicate acknowledgment to a fast retransmission.
const FAST_RETRANSMISSION: Duration = Duration::from_millis(20);

/// Maximum time after the highest segment at which a segment that fills a hole counts as reordered;
/// later it counts as retransmitted. It applies when no handshake was seen to measure the round
/// trip.
const REORDERED_WITHIN: Duration = Duration::from_millis(3);

/// A set of analysis flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Analysis(u16);

macro_rules! flags {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $name:literal;)*) => {
        impl Analysis {
            $($(#[$doc])* pub const $constant: Analysis = Analysis(1 << $bit);)*
            const NAMES: &[(Analysis, &str)] = &[$((Analysis::$constant, $name)),*];
        }
    };
}

flags! {
    /// Bytes that were sent before, and not acknowledged yet.
    RETRANSMISSION = 0, "retransmission";
    /// A retransmission immediately after at least two duplicate acknowledgments.
    FAST_RETRANSMISSION = 1, "fast_retransmission";
    /// Bytes that were acknowledged already.
    SPURIOUS_RETRANSMISSION = 2, "spurious_retransmission";
    /// Bytes that arrive after later ones, too soon for a retransmission.
    OUT_OF_ORDER = 3, "out_of_order";
    /// A segment that begins beyond the bytes seen so far: some are missing.
    LOST_SEGMENT = 4, "lost_segment";
    /// A segment that only repeats the last acknowledgment.
    DUPLICATE_ACK = 5, "duplicate_ack";
    /// The sender's receive window is zero.
    ZERO_WINDOW = 6, "zero_window";
    /// One byte that probes whether the window has opened.
    ZERO_WINDOW_PROBE = 7, "zero_window_probe";
    /// The answer to a probe: the window is still closed.
    ZERO_WINDOW_PROBE_ACK = 8, "zero_window_probe_ack";
    /// A segment that fills the receiver's window to the last byte.
    WINDOW_FULL = 9, "window_full";
    /// A segment that only changes the window.
    WINDOW_UPDATE = 10, "window_update";
    /// A segment that checks whether the peer still answers.
    KEEP_ALIVE = 11, "keep_alive";
    /// The answer to a keep-alive.
    KEEP_ALIVE_ACK = 12, "keep_alive_ack";
    /// The SYN of a new connection between the same ports.
    REUSED_PORTS = 13, "reused_ports";
}

impl Analysis {
    /// Returns whether any of these flags is set.
    pub fn has(self, flags: Analysis) -> bool {
        self.0 & flags.0 != 0
    }

    /// Returns whether no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names of the flags.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = Analysis::NAMES
            .iter()
            .filter(move |(flag, _)| self.has(*flag));
        set.map(|(_, name)| *name)
    }

    /// Sets flags.
    pub fn add(&mut self, flags: Analysis) {
        self.0 |= flags.0;
    }
}

/// The state of one direction of a flow, from the segments seen so far.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// The sequence number after the highest one sent, and the time at which that was sent.
    next: Option<(u32, Duration)>,
    /// The sequence number after a segment outside the window, and the time of that segment. It
    /// becomes `next` when the connection goes on from there.
    outside: Option<(u32, Duration)>,
    /// The acknowledgment number of the last segment, and the time of that segment.
    last_ack: Option<(u32, Duration)>,
    duplicate_acks: u32,
    /// The SACK blocks of the last segment.
    sack: [Option<(u32, u32)>; 4],
    /// The window field of the last segment, not scaled.
    window: Option<u16>,
    /// Whether that segment was a SYN, whose window is never scaled.
    window_of_syn: bool,
    scale: Scale,
    last: Analysis,
}

/// The window scale option of one side's SYN (RFC 7323, section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scale {
    /// No SYN was seen.
    #[default]
    Unknown,
    /// The SYN has no such option.
    Absent,
    /// A SYN offers this shift; it applies only if the peer's SYN has the option as well.
    Offered(u8),
    /// A SYN,ACK with the option, which is sent only in answer to an offer.
    Agreed(u8),
}

/// The state that is kept of a direction after its connection was reported, to classify late
/// segments.
#[derive(Clone, Copy, Debug)]
pub struct RetainedDirection {
    next: u32,
    ack: u32,
    window: u16,
    scale: Scale,
    /// Whether anything was sent in this direction.
    has_sent: bool,
}

/// The receive window that a segment announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The value of the header field.
    pub raw: u16,
    /// Number of bytes that the sender accepts beyond its acknowledgment; `None` when the scale is
    /// unknown because the capture lacks a SYN. On a SYN it is the value of the header field
    /// (RFC 7323).
    pub scaled: Option<u32>,
}

impl Direction {
    /// Returns the sequence number after the highest one sent so far.
    pub fn next(&self) -> Option<u32> {
        self.next.map(|(next, _)| next)
    }

    /// Returns the state to keep for late segments.
    pub fn retain(&self) -> RetainedDirection {
        RetainedDirection {
            next: self.next().unwrap_or(0),
            ack: self.last_ack.map_or(0, |(ack, _)| ack),
            window: self.window.unwrap_or(0),
            scale: self.scale,
            has_sent: self.next.is_some(),
        }
    }

    /// Returns the direction in the state that was kept, with this time as that of its last
    /// segment.
    pub fn revive(retained: RetainedDirection, last_time: Duration) -> Direction {
        let has_sent = retained.has_sent;
        Direction {
            next: has_sent.then_some((retained.next, last_time)),
            last_ack: has_sent.then_some((retained.ack, last_time)),
            window: has_sent.then_some(retained.window),
            scale: retained.scale,
            ..Direction::default()
        }
    }

    /// Returns the window shift of this side, given the state of the other side. Both SYNs must
    /// carry the option, or neither side's windows are scaled (RFC 7323, section 2.2).
    fn shift(&self, other: &Direction) -> Option<u8> {
        match (self.scale, other.scale) {
            (Scale::Absent, _) | (_, Scale::Absent) => Some(0),
            (Scale::Agreed(shift), _) => Some(shift),
            (Scale::Offered(shift), Scale::Offered(_) | Scale::Agreed(_)) => Some(shift),
            (Scale::Offered(_), Scale::Unknown) | (Scale::Unknown, _) => None,
        }
    }

    /// Returns the window of a segment that this side sent.
    pub fn window_of(&self, segment: &Segment<'_>, other: &Direction) -> Window {
        let shift = match segment.flags.has(Flags::SYN) {
            true => Some(0),
            false => self.shift(other),
        };
        Window {
            raw: segment.window,
            scaled: shift.map(|shift| u32::from(segment.window) << shift),
        }
    }
}

/// Classifies a segment that was sent at `now` in the direction `sender`; `receiver` is the other
/// direction. `round_trip`: the duration of the handshake, if it was seen. `credit`: the parts of
/// the segment that change the state of its direction.
pub fn analyse(
    segment: &Segment<'_>,
    now: Duration,
    (sender, receiver): (&mut Direction, &mut Direction),
    round_trip: Option<Duration>,
    credit: Credit,
) -> Analysis {
    sender.go_on_from_outside(segment, receiver);
    let mut flags = of_position(segment, sender, receiver);
    if credit != Credit::Nothing && Some(segment.ack) != sender.last_ack.map(|(ack, _)| ack) {
        sender.duplicate_acks = 0;
    }
    if segment.span() > 0 && !flags.has(Analysis::KEEP_ALIVE) {
        flags.add(of_repetition(segment, now, sender, receiver, round_trip));
    }
    match credit {
        Credit::All => sender.record(segment, now, flags),
        Credit::Acknowledgment => {
            sender.record_outside(segment, now);
            sender.record_acknowledgment(segment, now, flags);
        }
        Credit::Nothing => sender.record_outside(segment, now),
    }
    flags
}

/// The parts of a segment that change the state of its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Everything.
    All,
    /// Only the acknowledgment and the window: the sequence number lies outside the window.
    Acknowledgment,
    /// Nothing: the acknowledgment cannot be valid either.
    Nothing,
}

/// Returns the flags that follow from the position of the segment and its acknowledgment.
fn of_position(segment: &Segment<'_>, sender: &mut Direction, receiver: &Direction) -> Analysis {
    let plain = !segment
        .flags
        .has(Flags::SYN.with(Flags::FIN).with(Flags::RST));
    let at_next = sender.next() == Some(segment.seq);
    let mut flags = Analysis::default();
    if segment.length == 1 && at_next && receiver.window == Some(0) {
        return Analysis::ZERO_WINDOW_PROBE;
    }
    if segment.window == 0 && plain {
        flags.add(Analysis::ZERO_WINDOW);
    }
    if let Some(next) = sender.next() {
        if is_after(segment.seq, next) && !segment.flags.has(Flags::RST) {
            flags.add(Analysis::LOST_SEGMENT);
        }
        if segment.length <= 1 && segment.seq == next.wrapping_sub(1) && plain {
            flags.add(Analysis::KEEP_ALIVE);
        }
    }
    if segment.length > 0 && plain && Some(end(segment)) == receiver.window_edge(sender) {
        flags.add(Analysis::WINDOW_FULL);
    }
    let repeats_ack = sender.last_ack.is_some_and(|(ack, _)| ack == segment.ack);
    if segment.length > 0 || !plain || !at_next || !repeats_ack {
        return flags;
    }
    let same_window = sender.window == Some(segment.window);
    match segment.window {
        0 if same_window && receiver.last.has(Analysis::ZERO_WINDOW_PROBE) => {
            flags.add(Analysis::ZERO_WINDOW_PROBE_ACK);
        }
        0 => {}
        _ if !same_window => flags.add(Analysis::WINDOW_UPDATE),
        _ if receiver.last.has(Analysis::KEEP_ALIVE) => flags.add(Analysis::KEEP_ALIVE_ACK),
        _ => {
            sender.duplicate_acks += 1;
            flags.add(Analysis::DUPLICATE_ACK);
        }
    }
    flags
}

/// Returns the kind of repetition, or no flag. A segment is a repetition when it begins before the
/// highest number sent, unless it continues from the byte of a window probe.
fn of_repetition(
    segment: &Segment<'_>,
    now: Duration,
    sender: &Direction,
    receiver: &Direction,
    round_trip: Option<Duration>,
) -> Analysis {
    let acknowledged = receiver.last_ack.filter(|(ack, _)| *ack != 0);
    if let Some((ack, _)) = acknowledged
        && segment.length > 0
        && !is_after(end(segment), ack)
    {
        return Analysis::SPURIOUS_RETRANSMISSION;
    }
    let Some((next, next_time)) = sender.next else {
        return Analysis::default();
    };
    let goes_on_from_probe = segment.length > 1 && segment.seq == next.wrapping_sub(1);
    if !is_after(next, segment.seq) || goes_on_from_probe {
        return Analysis::default();
    }
    if let Some((ack, ack_time)) = acknowledged
        && receiver.duplicate_acks >= 2
        && (ack == segment.seq || receiver.reports_hole_at(segment))
        && now.saturating_sub(ack_time) < FAST_RETRANSMISSION
    {
        return Analysis::FAST_RETRANSMISSION;
    }
    let reordered_within = round_trip.unwrap_or(REORDERED_WITHIN);
    let soon = now.saturating_sub(next_time) < reordered_within;
    if soon && next != segment.seq.wrapping_add(segment.span()) {
        return Analysis::OUT_OF_ORDER;
    }
    Analysis::RETRANSMISSION
}

impl Direction {
    /// Returns the first sequence number that the peer may not send: the acknowledgment plus the
    /// window.
    fn window_edge(&self, other: &Direction) -> Option<u32> {
        let (ack, _) = self.last_ack?;
        let window = u32::from(self.window?);
        let shift = match (self.window_of_syn, self.scale) {
            (true, _) => 0,
            // An offer whose answer the capture lacks was most likely accepted. The flags follow
            // tshark here; only the window itself is reported as unknown.
            (false, Scale::Offered(shift)) if other.scale == Scale::Unknown => shift,
            (false, _) => self.shift(other)?,
        };
        Some(ack.wrapping_add(window << shift))
    }

    /// Returns whether this direction reports bytes beyond a hole (SACK), and the segment is not
    /// among them.
    fn reports_hole_at(&self, segment: &Segment<'_>) -> bool {
        let mut ranges = self.sack.iter().flatten().peekable();
        let within = |&(first, end): &(u32, u32)| {
            !is_after(first, segment.seq) && !is_after(self::end(segment), end)
        };
        ranges.peek().is_some() && !ranges.any(within)
    }

    /// Accepts a segment outside the window as a part of the stream when its sender goes on from
    /// there, or when the peer acknowledges more than was sent within the window.
    fn go_on_from_outside(&mut self, segment: &Segment<'_>, receiver: &Direction) {
        let Some((outside, time)) = self.outside else {
            return;
        };
        let acknowledged = receiver.last_ack.map(|(ack, _)| ack);
        let beyond = |next| acknowledged.is_some_and(|ack| is_after(ack, next));
        if segment.seq == outside || self.next().is_none_or(beyond) {
            self.next = Some((outside, time));
            self.outside = None;
        }
    }

    /// Records a segment outside the window.
    fn record_outside(&mut self, segment: &Segment<'_>, now: Duration) {
        let end = segment.seq.wrapping_add(segment.span());
        let is_ahead = self.next().is_none_or(|next| is_after(end, next));
        if segment.span() > 0 && is_ahead && !segment.flags.has(Flags::RST) {
            self.outside = Some((end, now));
        }
    }

    /// Records a segment that was sent in this direction. The sequence number of an RST is not a
    /// part of the stream.
    fn record(&mut self, segment: &Segment<'_>, now: Duration, flags: Analysis) {
        if segment.flags.has(Flags::RST) {
            self.last = flags;
            return;
        }
        let next = segment.seq.wrapping_add(segment.span());
        let advances = self.next().is_none_or(|highest| is_after(next, highest));
        if advances && !flags.has(Analysis::ZERO_WINDOW_PROBE) {
            self.next = Some((next, now));
        }
        if segment.flags.has(Flags::SYN) {
            let answers = segment.flags.has(Flags::ACK);
            self.scale = match segment.options.window_scale {
                // The snap length cut the list of options, and this option may be in the missing
                // part.
                None if segment.options.cut => Scale::Unknown,
                None => Scale::Absent,
                Some(shift) if answers => Scale::Agreed(shift),
                Some(shift) => Scale::Offered(shift),
            };
        }
        self.record_acknowledgment(segment, now, flags);
    }

    fn record_acknowledgment(&mut self, segment: &Segment<'_>, now: Duration, flags: Analysis) {
        self.last = flags;
        self.sack = segment.options.sack;
        self.window = Some(segment.window);
        self.window_of_syn = segment.flags.has(Flags::SYN);
        self.last_ack = Some((segment.ack, now));
    }
}

/// Returns whether `a` is after `b` in sequence space (the shorter way around).
pub fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Returns the sequence number after the last byte of payload.
fn end(segment: &Segment<'_>) -> u32 {
    segment.seq.wrapping_add(segment.length)
}
