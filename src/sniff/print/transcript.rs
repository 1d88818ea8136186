//! Describes a segment in one sentence: what it means in its conversation, with the numbers. Pure.
//!
//! Counts are written with commas and with their nouns in singular or plural. Sequence numbers,
//! offsets and the values of header fields are names, and are written without commas.

use std::fmt::Write;

use crate::sniff::flow::analysis::Analysis;
use crate::sniff::flow::{Flow, FlowNumber, Meaning, Observation, Packet, Role};
use crate::sniff::packet::segment::{Flags, Segment};
use crate::sniff::print::markdown::code_span;
use crate::sniff::print::text::{list, put, visible_but};
use crate::units::{agreeing, counted};

/// A segment to be described, and all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct DescribedSegment<'a> {
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
    pub fn seq(&self, described: &DescribedSegment<'_>) -> u32 {
        self.from(described.segment.seq, described.seen.bases.0)
    }

    /// Returns the acknowledgment number of a segment, as it is shown.
    pub fn ack(&self, described: &DescribedSegment<'_>) -> u32 {
        self.from(described.segment.ack, described.seen.bases.1)
    }

    /// Returns a range that a segment reports as received (SACK), with the numbers that are shown.
    pub fn sack(&self, described: &DescribedSegment<'_>, (first, end): (u32, u32)) -> (u32, u32) {
        let base = described.seen.bases.1;
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
pub fn sentence(
    out: &mut String,
    described: &DescribedSegment<'_>,
    style: &Style,
    quoting: Quoting,
) {
    let (segment, seen) = (described.segment, described.seen);
    put!(out, "The ", seen.from.name());
    if seen.outside {
        let other = seen.from.other().name();
        put!(out, " sends a segment outside the window of the ", other);
        out.push_str(", as far as the capture shows: it is dropped and changes nothing");
        return rest(out, described, style, quoting);
    }
    if let Some(special) = special(seen.analysis) {
        put!(out, " ", special);
        return rest(out, described, style, quoting);
    }
    let (seq, ack) = (style.seq(described), style.ack(described));
    match seen.meaning {
        Meaning::Opens => {
            put!(
                out,
                " opens the connection: its initial sequence number is ",
                seq
            );
            mss(out, segment);
        }
        Meaning::Accepts => {
            let of = ack.wrapping_sub(1);
            put!(
                out,
                " accepts the connection: it acknowledges ",
                of,
                " + 1 and sends its own SYN, ",
                seq
            );
            mss(out, segment);
        }
        Meaning::Begins => begins(out, described.flow, ack),
        Meaning::Carries { .. } => carries(out, described, style, quoting),
        Meaning::Closes {
            first,
            acknowledges_fin,
        } => closes(out, seen.from, (first, acknowledges_fin), (seq, ack)),
        Meaning::Acknowledges { bytes, fin, ends } => {
            acknowledges(out, seen.from, bytes, fin, ends, ack);
        }
        Meaning::Resets => out.push_str(" resets the connection."),
        Meaning::ResetsNothing => {
            out.push_str(" resets a connection that both sides have closed: this has no effect.");
        }
    }
}

/// Returns the beginning of the sentence for a segment that is out of the ordinary.
fn special(analysis: Analysis) -> Option<&'static str> {
    if analysis.is_empty() {
        return None;
    }
    let described = [
        (
            Analysis::REUSED_PORTS,
            "opens a new connection between the same ports",
        ),
        (
            Analysis::ZERO_WINDOW_PROBE_ACK,
            "answers the probe: its window is still zero",
        ),
        (
            Analysis::ZERO_WINDOW_PROBE,
            "sends one byte to probe whether the window has opened",
        ),
        (Analysis::KEEP_ALIVE_ACK, "answers the keep-alive"),
        (
            Analysis::KEEP_ALIVE,
            "sends a keep-alive to check that the peer is alive",
        ),
        (
            Analysis::SPURIOUS_RETRANSMISSION,
            "retransmits what was acknowledged already (spurious retransmission)",
        ),
        (
            Analysis::FAST_RETRANSMISSION,
            "retransmits after duplicate acknowledgments (fast retransmission)",
        ),
        (
            Analysis::RETRANSMISSION,
            "retransmits what was not acknowledged (retransmission)",
        ),
        (
            Analysis::OUT_OF_ORDER,
            "sent this before a segment that was captured earlier (out of order)",
        ),
        (
            Analysis::LOST_SEGMENT,
            "continues, but a segment before this one is not in the capture (lost segment)",
        ),
        (
            Analysis::DUPLICATE_ACK,
            "repeats its acknowledgment (duplicate ACK)",
        ),
        (Analysis::WINDOW_UPDATE, "advertises a new window"),
        (
            Analysis::ZERO_WINDOW,
            "advertises a zero window: it cannot accept more bytes now",
        ),
    ];
    let found = described.into_iter().find(|(word, _)| analysis.has(*word));
    found.map(|(_, text)| text)
}

/// Appends the window in bytes, or in brackets the value of the header field when its scale is not
/// known.
pub fn window(out: &mut String, described: &DescribedSegment<'_>) {
    match scaled_window(described) {
        Some(bytes) => put!(out, bytes),
        None => put!(out, "[", described.segment.window, "]"),
    }
}

/// Returns the window in bytes; `None` when its scale is not known, and for a SYN, whose window is
/// never scaled (RFC 7323, section 2.2).
pub fn scaled_window(described: &DescribedSegment<'_>) -> Option<u32> {
    let is_syn = described.segment.flags.has(Flags::SYN);
    described.seen.window.scaled.filter(|_| !is_syn)
}

/// Appends the numbers of a segment that is out of the ordinary.
fn rest(out: &mut String, described: &DescribedSegment<'_>, style: &Style, quoting: Quoting) {
    let (segment, seq, ack) = (
        described.segment,
        style.seq(described),
        style.ack(described),
    );
    if segment.length > 0 {
        out.push_str(": ");
        bytes(out, segment.length, seq);
        out.push_str(": ");
        payload(out, segment, style, quoting);
    } else if segment.span() > 0 || described.seen.outside {
        out.push_str(": ");
        list(out, segment.flags.names(), ",");
        put!(out, " ", seq);
    } else {
        put!(out, ": it expects ", ack, " next, and its window is ");
        window(out, described);
    }
    wrong(out, described.seen, quoting);
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
            ", and it accepts segments of up to ",
            mss,
            bytes_after(mss),
            " (MSS)"
        );
    }
    out.push('.');
}

fn begins(out: &mut String, flow: &Flow, ack: u32) {
    let of = ack.wrapping_sub(1);
    put!(
        out,
        " acknowledges ",
        of,
        " + 1: the connection is established"
    );
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
    put!(out, ": its FIN has sequence number ", seq, ".");
}

fn carries(out: &mut String, described: &DescribedSegment<'_>, style: &Style, quoting: Quoting) {
    let (segment, seen) = (described.segment, described.seen);
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
    bytes(out, segment.length, style.seq(described));
    put!(out, " (offset ", offset, "): ");
    payload(out, segment, style, quoting);
    if acknowledges > 0 {
        let ack = style.ack(described);
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
        (closes, "; the segment has a FIN"),
        (after_fin, "; it has bytes beyond the FIN"),
        (
            seen.offloaded,
            "; larger than one segment can be (segmentation offload)",
        ),
        (window_full, "; it fills the peer's receive window"),
    ] {
        if applies {
            out.push_str(text);
        }
    }
    wrong(out, seen, quoting);
    out.push('.');
}

fn wrong(out: &mut String, seen: &Observation, quoting: Quoting) {
    let described = [
        ("WRONG", seen.difference),
        ("DIFFERENT CONTENT", seen.altered),
    ];
    for (word, difference) in described {
        let Some(difference) = difference else {
            continue;
        };
        put!(out, "; ", word, " at offset ", difference.offset, ": ");
        let bytes = difference.bytes();
        match quoting {
            Quoting::Plain => out.push_str(&bytes),
            Quoting::Markdown => code_span(out, &bytes),
        }
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
