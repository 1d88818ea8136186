//! A segment in words: one sentence on what it means in its conversation, with the numbers. Pure.

use std::fmt::{self, Write};

use crate::capture::analysis::Analysis;
use crate::capture::flow::{Flow, Meaning, Observation, Role};
use crate::capture::segment::Segment;

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
    pub fn seq(&self, segment: &Segment<'_>, seen: &Observation) -> u32 {
        self.from(segment.seq, seen.bases.0)
    }

    /// The acknowledgment of a segment as it is to be told.
    pub fn ack(&self, segment: &Segment<'_>, seen: &Observation) -> u32 {
        self.from(segment.ack, seen.bases.1)
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
pub fn sentence(
    out: &mut String,
    segment: &Segment<'_>,
    seen: &Observation,
    flow: &Flow,
    style: &Style,
) -> fmt::Result {
    let who = seen.from.name();
    if let Some(special) = special(seen.analysis) {
        write!(out, "The {who} {special}")?;
        return rest(out, segment, seen, style);
    }
    let (seq, ack) = (style.seq(segment, seen), style.ack(segment, seen));
    match seen.meaning {
        Meaning::Opens => {
            write!(out, "The {who} opens: its first sequence number is {seq}")?;
            mss(out, segment)
        }
        Meaning::Accepts => {
            let of = ack.wrapping_sub(1);
            write!(
                out,
                "The {who} accepts: it acknowledges {of} + 1 and sends its own SYN, {seq}"
            )?;
            mss(out, segment)
        }
        Meaning::Begins => begins(out, seen.from, flow, ack),
        Meaning::Carries { .. } => carries(out, segment, seen, style),
        Meaning::Closes {
            first,
            acknowledges_fin,
        } => closes(out, seen.from, (first, acknowledges_fin), (seq, ack)),
        Meaning::Acknowledges { bytes, fin, ends } => {
            acknowledges(out, seen.from, bytes, fin, ends, ack)
        }
        Meaning::Resets => write!(out, "The {who} resets the connection."),
    }
}

/// What is told first of a segment that is out of the ordinary.
fn special(analysis: Analysis) -> Option<&'static str> {
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
fn rest(out: &mut String, segment: &Segment<'_>, seen: &Observation, style: &Style) -> fmt::Result {
    let (seq, ack) = (style.seq(segment, seen), style.ack(segment, seen));
    if segment.length > 0 {
        let last = seq.wrapping_add(segment.length - 1);
        write!(out, ": {} bytes, {seq} to {last}: ", segment.length)?;
        payload(out, segment, style)?;
    } else if segment.span() > 0 {
        write!(out, ": {} {seq}", segment.flags)?;
    } else {
        write!(out, ": it expects {ack} next, window {}", segment.window)?;
    }
    wrong(out, seen)?;
    out.write_char('.')
}

fn mss(out: &mut String, segment: &Segment<'_>) -> fmt::Result {
    match segment.options.mss {
        Some(mss) => write!(out, ", and it takes segments of {mss} bytes (MSS)."),
        None => out.write_char('.'),
    }
}

fn begins(out: &mut String, from: Role, flow: &Flow, ack: u32) -> fmt::Result {
    let (who, of) = (from.name(), ack.wrapping_sub(1));
    write!(
        out,
        "The {who} acknowledges {of} + 1: the connection begins"
    )?;
    match (flow.mss_in_force(), flow.payload_max()) {
        (Some(mss), Some(most)) if most < mss => {
            write!(
                out,
                ", with an MSS of {mss}, which leaves {most} bytes of payload"
            )?;
        }
        (Some(mss), _) => write!(out, ", with an MSS of {mss}")?,
        _ => {}
    }
    out.write_char('.')
}

fn closes(
    out: &mut String,
    from: Role,
    (first, acknowledges_fin): (bool, bool),
    (seq, ack): (u32, u32),
) -> fmt::Result {
    let (who, other) = (from.name(), from.other().name());
    match (first, acknowledges_fin) {
        (true, _) => write!(out, "The {who} closes its side")?,
        (false, true) => {
            let fin = ack.wrapping_sub(1);
            write!(
                out,
                "The {who} acknowledges the {other}'s FIN, {fin} + 1, and closes its own"
            )?;
            write!(out, " side")?;
        }
        (false, false) => write!(out, "The {who} closes its side too")?,
    }
    write!(out, ": its FIN takes number {seq}.")
}

fn carries(
    out: &mut String,
    segment: &Segment<'_>,
    seen: &Observation,
    style: &Style,
) -> fmt::Result {
    let Meaning::Carries {
        offset,
        acknowledges,
        closes,
        after_fin,
    } = seen.meaning
    else {
        return Ok(());
    };
    let seq = style.seq(segment, seen);
    let last = seq.wrapping_add(segment.length - 1);
    let verb = match seen.from {
        Role::Client => "sends",
        Role::Server => "answers with",
    };
    let (who, bytes) = (seen.from.name(), segment.length);
    write!(
        out,
        "The {who} {verb} {bytes} bytes, {seq} to {last} (offset {offset}): "
    )?;
    payload(out, segment, style)?;
    if acknowledges > 0 {
        let ack = style.ack(segment, seen);
        write!(
            out,
            "; it acknowledges {acknowledges} bytes and expects {ack} next"
        )?;
    }
    if closes {
        write!(out, "; FIN comes with it")?;
    }
    if after_fin {
        write!(out, "; it comes after the FIN")?;
    }
    if seen.offloaded {
        write!(
            out,
            "; larger than a segment can be: the kernel cuts it later (offload)"
        )?;
    }
    if seen.analysis.has(Analysis::WINDOW_FULL) {
        write!(out, "; it fills the window of the other side")?;
    }
    wrong(out, seen)?;
    out.write_char('.')
}

fn wrong(out: &mut String, seen: &Observation) -> fmt::Result {
    let told = [("WRONG", seen.difference), ("OTHER CONTENT", seen.altered)];
    for (word, difference) in told {
        let Some(difference) = difference else {
            continue;
        };
        write!(
            out,
            "; {word} at offset {}: '{}', not '{}'",
            difference.offset,
            difference.found.escape_ascii(),
            difference.expected.escape_ascii()
        )?;
    }
    Ok(())
}

fn acknowledges(
    out: &mut String,
    from: Role,
    bytes: u32,
    fin: bool,
    ends: bool,
    ack: u32,
) -> fmt::Result {
    let (who, other) = (from.name(), from.other().name());
    match (bytes, fin) {
        (0, false) => write!(
            out,
            "The {who} acknowledges nothing new: it expects {ack} next."
        )?,
        (0, true) => write!(
            out,
            "The {who} acknowledges the {other}'s FIN, {} + 1",
            ack.wrapping_sub(1)
        )?,
        (_, false) => write!(
            out,
            "The {who} acknowledges {bytes} bytes of the {other}: it expects {ack} next."
        )?,
        (_, true) => write!(
            out,
            "The {who} acknowledges {bytes} bytes of the {other} and its FIN: it expects {ack} next"
        )?,
    }
    match (fin, ends) {
        (true, true) => write!(out, ": both sides are closed."),
        (true, false) => out.write_char('.'),
        (false, _) => Ok(()),
    }
}

/// The payload in quotes, escaped, as much of it as is to be shown.
pub fn payload(out: &mut String, segment: &Segment<'_>, style: &Style) -> fmt::Result {
    if segment.payload.is_empty() {
        return write!(out, "(not captured)");
    }
    let shown = &segment.payload[..segment.payload.len().min(style.width)];
    out.push('"');
    match std::str::from_utf8(shown) {
        Ok(text) if shown.iter().all(|&byte| is_plain(byte)) => out.push_str(text),
        _ => escape(out, shown)?,
    }
    out.push('"');
    if shown.len() < segment.length as usize {
        write!(out, "…")?;
    }
    Ok(())
}

/// Bytes that stand for themselves, as nearly all do.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// UTF-8 as it is, but for what would end the quotes or play with the terminal; other bytes by
/// their values.
fn escape(out: &mut String, bytes: &[u8]) -> fmt::Result {
    for part in bytes.utf8_chunks() {
        let mut rest = part.valid();
        while let Some(place) = rest.find(is_special) {
            out.push_str(&rest[..place]);
            let special = rest[place..].chars().next().unwrap_or_default();
            write!(out, "{}", special.escape_default())?;
            rest = &rest[place + special.len_utf8()..];
        }
        out.push_str(rest);
        for byte in part.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
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
