//! What a segment is in the course of its flow, in tshark's words. Pure.
//!
//! The rules are those of a passive observer, who sees neither end's mind: a segment that does not
//! advance is a retransmission, and of which kind is judged from acknowledgments and from times.
//! They follow what Wireshark documents under "TCP Analysis", so that both can be laid side by
//! side; where this differs, the tests list the reason.
//!
//! Sequence numbers wrap; all comparisons are by distance (RFC 9293, section 3.4).

use std::time::Duration;

use crate::capture::segment::{Flags, Segment};

/// A fast retransmission follows the last duplicate acknowledgment within this time.
const FAST_RETRANSMISSION: Duration = Duration::from_millis(20);

/// Without a handshake to measure the round trip, a segment that fills a hole within this time was
/// reordered, and later retransmitted.
const REORDERED_WITHIN: Duration = Duration::from_millis(3);

/// A set of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Analysis(u16);

macro_rules! words {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $name:literal;)*) => {
        impl Analysis {
            $($(#[$doc])* pub const $constant: Analysis = Analysis(1 << $bit);)*
            const NAMES: &[(Analysis, &str)] = &[$((Analysis::$constant, $name)),*];
        }
    };
}

words! {
    /// Bytes that were sent before, and not acknowledged yet.
    RETRANSMISSION = 0, "retransmission";
    /// The same, at once after the third acknowledgment of what came before.
    FAST_RETRANSMISSION = 1, "fast_retransmission";
    /// Bytes that were acknowledged already.
    SPURIOUS_RETRANSMISSION = 2, "spurious_retransmission";
    /// Bytes that come after later ones, too soon for a retransmission.
    OUT_OF_ORDER = 3, "out_of_order";
    /// It begins beyond the bytes seen so far: some are missing.
    LOST_SEGMENT = 4, "lost_segment";
    /// It repeats the acknowledgment and nothing else.
    DUPLICATE_ACK = 5, "duplicate_ack";
    /// Its sender cannot take any byte.
    ZERO_WINDOW = 6, "zero_window";
    /// One byte, to see whether the window has opened.
    ZERO_WINDOW_PROBE = 7, "zero_window_probe";
    /// The answer: still closed.
    ZERO_WINDOW_PROBE_ACK = 8, "zero_window_probe_ack";
    /// It fills the receiver's window to the last byte.
    WINDOW_FULL = 9, "window_full";
    /// It changes the window and nothing else.
    WINDOW_UPDATE = 10, "window_update";
    /// It asks whether the peer is still there.
    KEEP_ALIVE = 11, "keep_alive";
    /// The answer.
    KEEP_ALIVE_ACK = 12, "keep_alive_ack";
    /// A new connection between the same ports.
    REUSED_PORTS = 13, "reused_ports";
}

impl Analysis {
    /// Whether any of these applies.
    pub fn has(self, words: Analysis) -> bool {
        self.0 & words.0 != 0
    }

    /// Whether none applies.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The words.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = Analysis::NAMES
            .iter()
            .filter(move |(word, _)| self.has(*word));
        set.map(|(_, name)| *name)
    }

    /// Adds words.
    pub fn add(&mut self, words: Analysis) {
        self.0 |= words.0;
    }
}

/// What was seen of one direction of a flow.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// The number after the highest one sent, and when that was sent.
    next: Option<(u32, Duration)>,
    /// The acknowledgment of the last segment, and when that was sent.
    last_ack: Option<(u32, Duration)>,
    duplicate_acks: u32,
    /// The ranges that its last segment with any reported beyond its acknowledgment.
    sack: [Option<(u32, u32)>; 4],
    /// The window of the last segment, as in its header.
    window: Option<u16>,
    /// Whether that segment was a SYN, whose window is never scaled.
    window_of_syn: bool,
    scale: Scale,
    last: Analysis,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scale {
    /// No SYN was seen.
    #[default]
    Unknown,
    /// Its SYN has no such option: windows stand as they are.
    Absent,
    Shift(u8),
}

impl Direction {
    /// The number after the highest one sent so far.
    pub fn next(&self) -> Option<u32> {
        self.next.map(|(next, _)| next)
    }
}

/// What `segment` is, sent at `now` in the direction `sender`, with `receiver` the other one.
/// `round_trip`: what the handshake took, if it was seen.
pub fn analyse(
    segment: &Segment<'_>,
    now: Duration,
    sender: &mut Direction,
    receiver: &mut Direction,
    round_trip: Option<Duration>,
) -> Analysis {
    let mut words = of_position(segment, sender, receiver);
    if Some(segment.ack) != sender.last_ack.map(|(ack, _)| ack) {
        sender.duplicate_acks = 0;
    }
    if segment.span() > 0 && !words.has(Analysis::KEEP_ALIVE) {
        words.add(of_repetition(segment, now, sender, receiver, round_trip));
    }
    sender.take(segment, now, words);
    words
}

/// The words that follow from where the segment stands and what it acknowledges.
fn of_position(segment: &Segment<'_>, sender: &mut Direction, receiver: &Direction) -> Analysis {
    let plain = !segment
        .flags
        .has(Flags::SYN.with(Flags::FIN).with(Flags::RST));
    let at_next = sender.next() == Some(segment.seq);
    let mut words = Analysis::default();
    if segment.length == 1 && at_next && receiver.window == Some(0) {
        return Analysis::ZERO_WINDOW_PROBE;
    }
    if segment.window == 0 && plain {
        words.add(Analysis::ZERO_WINDOW);
    }
    if let Some(next) = sender.next() {
        if is_after(segment.seq, next) && !segment.flags.has(Flags::RST) {
            words.add(Analysis::LOST_SEGMENT);
        }
        if segment.length <= 1 && segment.seq == next.wrapping_sub(1) && plain {
            words.add(Analysis::KEEP_ALIVE);
        }
    }
    if segment.length > 0 && plain && Some(end(segment)) == receiver.window_edge() {
        words.add(Analysis::WINDOW_FULL);
    }
    let repeats_ack = sender.last_ack.is_some_and(|(ack, _)| ack == segment.ack);
    if segment.length > 0 || !plain || !at_next || !repeats_ack {
        return words;
    }
    let same_window = sender.window == Some(segment.window);
    match segment.window {
        0 if same_window && receiver.last.has(Analysis::ZERO_WINDOW_PROBE) => {
            words.add(Analysis::ZERO_WINDOW_PROBE_ACK);
        }
        0 => {}
        _ if !same_window => words.add(Analysis::WINDOW_UPDATE),
        _ if receiver.last.has(Analysis::KEEP_ALIVE) => words.add(Analysis::KEEP_ALIVE_ACK),
        _ => {
            sender.duplicate_acks += 1;
            words.add(Analysis::DUPLICATE_ACK);
        }
    }
    words
}

/// Which kind of repetition it is, if it is one. A segment that begins before the highest number
/// sent, and does not only go on from a probe's byte, brings nothing new.
fn of_repetition(
    segment: &Segment<'_>,
    now: Duration,
    sender: &Direction,
    receiver: &Direction,
    round_trip: Option<Duration>,
) -> Analysis {
    let Some((next, next_time)) = sender.next else {
        return Analysis::default();
    };
    let acknowledged = receiver.last_ack.filter(|(ack, _)| *ack != 0);
    if let Some((ack, _)) = acknowledged
        && segment.length > 0
        && !is_after(end(segment), ack)
    {
        return Analysis::SPURIOUS_RETRANSMISSION;
    }
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
    /// The first number that the other side may not send: the acknowledgment and the window.
    fn window_edge(&self) -> Option<u32> {
        let (ack, _) = self.last_ack?;
        let window = u32::from(self.window?);
        let shift = match self.scale {
            Scale::Unknown => return None,
            Scale::Shift(shift) if !self.window_of_syn => shift,
            Scale::Shift(_) | Scale::Absent => 0,
        };
        Some(ack.wrapping_add(window << shift))
    }

    /// Whether it reports bytes beyond a hole, and this segment is none of those bytes.
    fn reports_hole_at(&self, segment: &Segment<'_>) -> bool {
        let mut ranges = self.sack.iter().flatten().peekable();
        let within = |&(first, end): &(u32, u32)| {
            !is_after(first, segment.seq) && !is_after(self::end(segment), end)
        };
        ranges.peek().is_some() && !ranges.any(within)
    }

    /// Takes note of a segment that was sent in this direction.
    fn take(&mut self, segment: &Segment<'_>, now: Duration, words: Analysis) {
        let next = segment.seq.wrapping_add(segment.span());
        let advances = self.next().is_none_or(|highest| is_after(next, highest));
        if advances && !words.has(Analysis::ZERO_WINDOW_PROBE) {
            self.next = Some((next, now));
        }
        if segment.flags.has(Flags::SYN) {
            let shift = segment.options.window_scale;
            self.scale = shift.map_or(Scale::Absent, Scale::Shift);
        }
        self.sack = segment.options.sack;
        self.window = Some(segment.window);
        self.window_of_syn = segment.flags.has(Flags::SYN);
        self.last_ack = Some((segment.ack, now));
        self.last = words;
    }
}

/// Whether `a` comes after `b`, by the shorter way around.
pub fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// The number after the last byte of payload.
fn end(segment: &Segment<'_>) -> u32 {
    segment.seq.wrapping_add(segment.length)
}
