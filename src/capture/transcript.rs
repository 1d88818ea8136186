//! A segment in words: one sentence on what it means in its conversation, with the numbers. Pure.

use std::fmt::Write;

use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, FlowNumber, Meaning, Observation, Packet, Role};
use crate::capture::segment::Segment;
use crate::capture::text::{list, put};

/// A segment to be told, and all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Which packet brought it.
    pub packet: Packet,
    /// Its fields.
    pub segment: &'a Segment<'a>,
    /// The flow that it belongs to.
    pub number: FlowNumber,
    /// What is known of that.
    pub flow: &'a Flow,
    /// What it is in it.
    pub seen: &'a Observation,
}

/// How sentences are made.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Sequence numbers are told from the first one of each side.
    pub relative: bool,
    /// Bytes of payload that are shown.
    pub width: usize,
}

impl Style {
    /// The sequence number of a segment as it is to be told.
    pub fn seq(&self, told: &Told<'_>) -> u32 {
        self.from(told.segment.seq, told.seen.bases.0)
    }

    /// The acknowledgment of a segment as it is to be told.
    pub fn ack(&self, told: &Told<'_>) -> u32 {
        self.from(told.segment.ack, told.seen.bases.1)
    }

    fn from(&self, number: u32, base: u32) -> u32 {
        if self.relative {
            number.wrapping_sub(base)
        } else {
            number
        }
    }
}

/// Writes the sentence.
pub fn sentence(out: &mut String, told: &Told<'_>, style: &Style) {
    let (segment, seen) = (told.segment, told.seen);
    put!(out, "The ", seen.from.name());
    if let Some(special) = special(seen.analysis) {
        put!(out, " ", special);
        return rest(out, told, style);
    }
    let (seq, ack) = (style.seq(told), style.ack(told));
    match seen.meaning {
        Meaning::Opens => {
            put!(out, " opens: its first sequence number is ", seq);
            mss(out, segment);
        }
        Meaning::Accepts => {
            let of = ack.wrapping_sub(1);
            put!(
                out,
                " accepts: it acknowledges ",
                of,
                " + 1 and sends its own SYN, ",
                seq
            );
            mss(out, segment);
        }
        Meaning::Begins => begins(out, told.flow, ack),
        Meaning::Carries { .. } => carries(out, told, style),
        Meaning::Closes {
            first,
            acknowledges_fin,
        } => closes(out, seen.from, (first, acknowledges_fin), (seq, ack)),
        Meaning::Acknowledges { bytes, fin, ends } => {
            acknowledges(out, seen.from, bytes, fin, ends, ack);
        }
        Meaning::Resets => out.push_str(" resets the connection."),
    }
}

/// What is told first of a segment that is out of the ordinary.
fn special(analysis: Analysis) -> Option<&'static str> {
    if analysis.is_empty() {
        return None;
    }
    let told = [
        (
            Analysis::REUSED_PORTS,
            "opens a new connection between the same ports",
        ),
        (
            Analysis::ZERO_WINDOW_PROBE_ACK,
            "answers the probe: its window is still closed",
        ),
        (
            Analysis::ZERO_WINDOW_PROBE,
            "probes with one byte whether the window has opened",
        ),
        (Analysis::KEEP_ALIVE_ACK, "answers that it is still there"),
        (
            Analysis::KEEP_ALIVE,
            "asks whether the other side is still there",
        ),
        (
            Analysis::SPURIOUS_RETRANSMISSION,
            "sends again what was acknowledged already (spurious retransmission)",
        ),
        (
            Analysis::FAST_RETRANSMISSION,
            "sends again what the duplicate acknowledgments ask for (fast retransmission)",
        ),
        (
            Analysis::RETRANSMISSION,
            "sends again what was not acknowledged (retransmission)",
        ),
        (
            Analysis::OUT_OF_ORDER,
            "sent this earlier than it arrives here (out of order)",
        ),
        (
            Analysis::LOST_SEGMENT,
            "sends on, but a segment before this one is not in the capture (lost segment)",
        ),
        (
            Analysis::DUPLICATE_ACK,
            "repeats its acknowledgment (duplicate ACK)",
        ),
        (Analysis::WINDOW_UPDATE, "tells a new window"),
        (
            Analysis::ZERO_WINDOW,
            "closes its window: it can take no more bytes now",
        ),
    ];
    let found = told.into_iter().find(|(word, _)| analysis.has(*word));
    found.map(|(_, text)| text)
}

/// The numbers behind a special segment.
fn rest(out: &mut String, told: &Told<'_>, style: &Style) {
    let (segment, seq, ack) = (told.segment, style.seq(told), style.ack(told));
    if segment.length > 0 {
        let last = seq.wrapping_add(segment.length - 1);
        put!(
            out,
            ": ",
            segment.length,
            " bytes, ",
            seq,
            " to ",
            last,
            ": "
        );
        payload(out, segment, style);
    } else if segment.span() > 0 {
        out.push_str(": ");
        list(out, segment.flags.names(), ",");
        put!(out, " ", seq);
    } else {
        put!(out, ": it expects ", ack, " next, window ", segment.window);
    }
    wrong(out, told.seen);
    out.push('.');
}

fn mss(out: &mut String, segment: &Segment<'_>) {
    if let Some(mss) = segment.options.mss {
        put!(out, ", and it takes segments of ", mss, " bytes (MSS)");
    }
    out.push('.');
}

fn begins(out: &mut String, flow: &Flow, ack: u32) {
    let of = ack.wrapping_sub(1);
    put!(out, " acknowledges ", of, " + 1: the connection begins");
    if let Some(mss) = flow.mss_in_force() {
        put!(out, ", with an MSS of ", mss);
        if let Some(most) = flow.payload_max().filter(|most| *most < mss) {
            put!(out, ", which leaves ", most, " bytes of payload");
        }
    }
    out.push('.');
}

fn closes(
    out: &mut String,
    from: Role,
    (first, acknowledges_fin): (bool, bool),
    (seq, ack): (u32, u32),
) {
    match (first, acknowledges_fin) {
        (true, _) => out.push_str(" closes its side"),
        (false, true) => {
            let (other, fin) = (from.other().name(), ack.wrapping_sub(1));
            put!(
                out,
                " acknowledges the ",
                other,
                "'s FIN, ",
                fin,
                " + 1, and closes its own side"
            );
        }
        (false, false) => out.push_str(" closes its side too"),
    }
    put!(out, ": its FIN takes number ", seq, ".");
}

fn carries(out: &mut String, told: &Told<'_>, style: &Style) {
    let (segment, seen) = (told.segment, told.seen);
    let Meaning::Carries {
        offset,
        acknowledges,
        closes,
        after_fin,
    } = seen.meaning
    else {
        return;
    };
    let (seq, bytes) = (style.seq(told), segment.length);
    let last = seq.wrapping_add(bytes - 1);
    let verb = match seen.from {
        Role::Client => " sends ",
        Role::Server => " answers with ",
    };
    put!(
        out,
        verb,
        bytes,
        " bytes, ",
        seq,
        " to ",
        last,
        " (offset ",
        offset,
        "): "
    );
    payload(out, segment, style);
    if acknowledges > 0 {
        let ack = style.ack(told);
        put!(
            out,
            "; it acknowledges ",
            acknowledges,
            " bytes and expects ",
            ack,
            " next"
        );
    }
    let window_full = seen.analysis.has(Analysis::WINDOW_FULL);
    for (applies, text) in [
        (closes, "; FIN comes with it"),
        (after_fin, "; it comes after the FIN"),
        (
            seen.offloaded,
            "; larger than a segment can be: the kernel cuts it later (offload)",
        ),
        (window_full, "; it fills the window of the other side"),
    ] {
        if applies {
            out.push_str(text);
        }
    }
    wrong(out, seen);
    out.push('.');
}

fn wrong(out: &mut String, seen: &Observation) {
    let told = [("WRONG", seen.difference), ("OTHER CONTENT", seen.altered)];
    for (word, difference) in told {
        let Some(difference) = difference else {
            continue;
        };
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "; {word} at offset {}: '{}', not '{}'",
            difference.offset,
            difference.found.escape_ascii(),
            difference.expected.escape_ascii()
        );
    }
}

fn acknowledges(out: &mut String, from: Role, bytes: u32, fin: bool, ends: bool, ack: u32) {
    let other = from.other().name();
    match (bytes, fin) {
        (0, false) => put!(out, " acknowledges nothing new: it expects ", ack, " next."),
        (0, true) => put!(
            out,
            " acknowledges the ",
            other,
            "'s FIN, ",
            ack.wrapping_sub(1),
            " + 1"
        ),
        (_, false) => {
            put!(out, " acknowledges ", bytes, " bytes of the ", other);
            put!(out, ": it expects ", ack, " next.");
        }
        (_, true) => {
            put!(out, " acknowledges ", bytes, " bytes of the ", other);
            put!(out, " and its FIN: it expects ", ack, " next");
        }
    }
    match (fin, ends) {
        (true, true) => out.push_str(": both sides are closed."),
        (true, false) => out.push('.'),
        (false, _) => {}
    }
}

/// The payload in quotes, escaped, as much of it as is to be shown.
fn payload(out: &mut String, segment: &Segment<'_>, style: &Style) {
    if segment.payload.is_empty() {
        return out.push_str("(not captured)");
    }
    let shown = &segment.payload[..segment.payload.len().min(style.width)];
    out.push('"');
    // Without an early end this is done many bytes at a time.
    let plain = shown
        .iter()
        .fold(true, |plain, &byte| plain & is_plain(byte));
    match std::str::from_utf8(shown) {
        Ok(text) if plain => out.push_str(text),
        _ => escape(out, shown),
    }
    out.push('"');
    if shown.len() < segment.length as usize {
        out.push('…');
    }
}

/// Bytes that stand for themselves, as nearly all do.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// UTF-8 as it is, but for what would end the quotes or play with the terminal; other bytes by
/// their values.
fn escape(out: &mut String, bytes: &[u8]) {
    for part in bytes.utf8_chunks() {
        let mut rest = part.valid();
        while let Some(place) = rest.find(is_special) {
            out.push_str(&rest[..place]);
            let special = rest[place..].chars().next().unwrap_or_default();
            out.extend(special.escape_default());
            rest = &rest[place + special.len_utf8()..];
        }
        out.push_str(rest);
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

/// Characters that would end the quotes or play with the terminal.
fn is_special(character: char) -> bool {
    let invisible = matches!(
        character,
        '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    );
    invisible || matches!(character, '"' | '\\') || character.is_control()
}
