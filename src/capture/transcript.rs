//! Describes a segment in one sentence: what it means in its conversation, with the numbers. Pure.
//!
//! Counts are written with commas and with their nouns in singular or plural. Sequence numbers,
//! offsets and the values of header fields are names, and are written without commas.

use std::fmt::Write;

use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, FlowNumber, Meaning, Observation, Packet, Role};
use crate::capture::markdown::code_span;
use crate::capture::segment::{Flags, Segment};
use crate::capture::text::{list, put, visible_but};
use crate::units::{agreeing, counted};

/// A segment to be described, and all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The packet that carried it.
    pub packet: Packet,
    /// Its fields.
    pub segment: &'a Segment<'a>,
    /// The number of the flow that it belongs to.
    pub number: FlowNumber,
    /// The state of that flow.
    pub flow: &'a Flow,
    /// The flow's observation of the segment.
    pub seen: &'a Observation,
}

/// The options that sentences are written with.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// True when sequence numbers are shown relative to the first one of each side.
    pub relative: bool,
    /// Maximum number of payload bytes that are shown.
    pub width: usize,
}

impl Style {
    /// Returns the sequence number of a segment, as it is shown.
    pub fn seq(&self, told: &Told<'_>) -> u32 {
        self.from(told.segment.seq, told.seen.bases.0)
    }

    /// Returns the acknowledgment number of a segment, as it is shown.
    pub fn ack(&self, told: &Told<'_>) -> u32 {
        self.from(told.segment.ack, told.seen.bases.1)
    }

    /// Returns a range that a segment reports as received (SACK), with the numbers that are shown.
    pub fn sack(&self, told: &Told<'_>, (first, end): (u32, u32)) -> (u32, u32) {
        let base = told.seen.bases.1;
        (self.from(first, base), self.from(end, base))
    }

    fn from(&self, number: u32, base: u32) -> u32 {
        if self.relative {
            number.wrapping_sub(base)
        } else {
            number
        }
    }
}

/// The form in which payload bytes are set apart from the words around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// In quotes.
    Plain,
    /// In quotes and a code span, in which nothing has a meaning for Markdown and HTML.
    Markdown,
}

/// Appends the sentence that describes a segment.
pub fn sentence(out: &mut String, told: &Told<'_>, style: &Style, quoting: Quoting) {
    let (segment, seen) = (told.segment, told.seen);
    put!(out, "The ", seen.from.name());
    if seen.outside {
        let other = seen.from.other().name();
        put!(out, " sends what lies outside the window of the ", other);
        out.push_str(", as far as the capture shows: it is dropped and changes nothing");
        return rest(out, told, style, quoting);
    }
    if let Some(special) = special(seen.analysis) {
        put!(out, " ", special);
        return rest(out, told, style, quoting);
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
        Meaning::Carries { .. } => carries(out, told, style, quoting),
        Meaning::Closes {
            first,
            acknowledges_fin,
        } => closes(out, seen.from, (first, acknowledges_fin), (seq, ack)),
        Meaning::Acknowledges { bytes, fin, ends } => {
            acknowledges(out, seen.from, bytes, fin, ends, ack);
        }
        Meaning::Resets => out.push_str(" resets the connection."),
        Meaning::ResetsNothing => {
            out.push_str(" resets what both sides have closed already: it changes nothing.");
        }
    }
}

/// Returns the beginning of the sentence for a segment that is out of the ordinary.
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
        (Analysis::WINDOW_UPDATE, "announces a new window"),
        (
            Analysis::ZERO_WINDOW,
            "closes its window: it can take no more bytes now",
        ),
    ];
    let found = told.into_iter().find(|(word, _)| analysis.has(*word));
    found.map(|(_, text)| text)
}

/// Appends the window in bytes, or in brackets the value of the header field when its scale is not
/// known.
pub fn window(out: &mut String, told: &Told<'_>) {
    match scaled_window(told) {
        Some(bytes) => put!(out, bytes),
        None => put!(out, "[", told.segment.window, "]"),
    }
}

/// Returns the window in bytes; `None` when its scale is not known, and for a SYN, whose window is
/// never scaled (RFC 7323, section 2.2).
pub fn scaled_window(told: &Told<'_>) -> Option<u32> {
    let is_syn = told.segment.flags.has(Flags::SYN);
    told.seen.window.scaled.filter(|_| !is_syn)
}

/// Appends the numbers of a segment that is out of the ordinary.
fn rest(out: &mut String, told: &Told<'_>, style: &Style, quoting: Quoting) {
    let (segment, seq, ack) = (told.segment, style.seq(told), style.ack(told));
    if segment.length > 0 {
        out.push_str(": ");
        bytes(out, segment.length, seq);
        out.push_str(": ");
        payload(out, segment, style, quoting);
    } else if segment.span() > 0 || told.seen.outside {
        out.push_str(": ");
        list(out, segment.flags.names(), ",");
        put!(out, " ", seq);
    } else {
        put!(out, ": it expects ", ack, " next, and its window is ");
        window(out, told);
    }
    wrong(out, told.seen, quoting);
    out.push('.');
}

/// Appends a number of bytes, and their sequence numbers.
fn bytes(out: &mut String, length: u32, seq: u32) {
    put!(out, counted(length, "byte"), ", ", seq);
    if length > 1 {
        put!(out, " to ", seq.wrapping_add(length - 1));
    }
}

/// Returns the noun for a number of bytes that is written without commas, as a header field is.
fn bytes_after(count: u16) -> &'static str {
    agreeing(count.into(), " byte", " bytes")
}

fn mss(out: &mut String, segment: &Segment<'_>) {
    if let Some(mss) = segment.options.mss {
        put!(
            out,
            ", and it takes segments of ",
            mss,
            bytes_after(mss),
            " (MSS)"
        );
    }
    out.push('.');
}

fn begins(out: &mut String, flow: &Flow, ack: u32) {
    let of = ack.wrapping_sub(1);
    put!(out, " acknowledges ", of, " + 1: the connection begins");
    if let Some(mss) = flow.mss_in_force() {
        put!(out, ", with an MSS of ", mss);
        if let Some(most) = flow.payload_max().filter(|most| *most < mss) {
            put!(
                out,
                ", which leaves ",
                most,
                bytes_after(most),
                " of payload"
            );
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

fn carries(out: &mut String, told: &Told<'_>, style: &Style, quoting: Quoting) {
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
    let verb = match seen.from {
        Role::Client => " sends ",
        Role::Server => " answers with ",
    };
    out.push_str(verb);
    bytes(out, segment.length, style.seq(told));
    put!(out, " (offset ", offset, "): ");
    payload(out, segment, style, quoting);
    if acknowledges > 0 {
        let ack = style.ack(told);
        put!(
            out,
            "; it acknowledges ",
            counted(acknowledges, "byte"),
            " and expects ",
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
    wrong(out, seen, quoting);
    out.push('.');
}

fn wrong(out: &mut String, seen: &Observation, quoting: Quoting) {
    let quoted = |byte: u8| {
        let plain = format!("'{}'", byte.escape_ascii());
        let mut text = String::new();
        match quoting {
            Quoting::Plain => return plain,
            Quoting::Markdown => code_span(&mut text, &plain),
        }
        text
    };
    let told = [("WRONG", seen.difference), ("OTHER CONTENT", seen.altered)];
    for (word, difference) in told {
        let Some(difference) = difference else {
            continue;
        };
        let (found, expected) = (quoted(difference.found), quoted(difference.expected));
        put!(out, "; ", word, " at offset ", difference.offset, ": ");
        put!(out, found.as_str(), ", not ", expected.as_str());
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
        (_, fin) => {
            let bytes = counted(bytes, "byte");
            put!(out, " acknowledges ", bytes, " of the ", other);
            let (and, end) = if fin { (" and its FIN", "") } else { ("", ".") };
            put!(out, and, ": it expects ", ack, " next", end);
        }
    }
    match (fin, ends) {
        (true, true) => out.push_str(": both sides are closed."),
        (true, false) => out.push('.'),
        (false, _) => {}
    }
}

/// Appends the payload in quotes, escaped, up to the maximum number of bytes.
fn payload(out: &mut String, segment: &Segment<'_>, style: &Style, quoting: Quoting) {
    if segment.payload.is_empty() {
        return out.push_str("(not captured)");
    }
    let shown = &segment.payload[..segment.payload.len().min(style.width)];
    let cut = shown.len() < segment.length as usize;
    match quoting {
        Quoting::Plain => quoted(out, shown),
        Quoting::Markdown => {
            let mut text = String::new();
            quoted(&mut text, shown);
            code_span(out, &text);
        }
    }
    if cut {
        out.push('…');
    }
}

fn quoted(out: &mut String, shown: &[u8]) {
    out.push('"');
    // A loop without an early exit processes many bytes at a time.
    let plain = shown
        .iter()
        .fold(true, |plain, &byte| plain & is_plain(byte));
    match std::str::from_utf8(shown) {
        Ok(text) if plain => out.push_str(text),
        _ => escape(out, shown),
    }
    out.push('"');
}

/// Returns true for a byte that is written as it is, as nearly all are.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// Appends UTF-8 as it is, except for characters that would end the quotes, control the terminal or
/// be invisible, which are escaped; other bytes are written by their values.
fn escape(out: &mut String, bytes: &[u8]) {
    for part in bytes.utf8_chunks() {
        visible_but(out, part.valid(), |character| {
            matches!(character, '"' | '\\')
        });
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}
