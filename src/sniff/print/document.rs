//! Writes the report on a capture (segments, flows and the verdict) as text for a terminal or as
//! Markdown, or has it written as JSON. Pure: it takes values and appends characters to a string.
//!
//! Every packet time has a date and a zone. Text and Markdown print both before the first packet,
//! and again where the date or the zone changes; JSON has them with each packet. On a terminal,
//! long lines are broken at a field or a word; elsewhere lines are not broken.
//!
//! Text from outside (payload, file names) can neither control a terminal nor be interpreted as
//! Markdown or HTML.

use crate::report::columns::{self, Line, paragraph};
use crate::sniff::flow::Role;
use crate::sniff::flow::account::Conclusion;
use crate::sniff::packet::segment::Flags;
use crate::sniff::print::calendar::Calendar;
use crate::sniff::print::results::{Ended, Verdict};
use crate::sniff::print::text::{list, padded, put, visible};
use crate::sniff::print::transcript::{self, DescribedSegment, Quoting, Style};
use crate::sniff::print::{json, markdown};
use crate::units::{agreeing, counted, grouped, short};

/// Column at which the sentence of a packet begins: below its time.
const MARGIN: usize = 7;

/// The indent of the rows on which a line about a flow continues, in columns.
const FLOW_MARGIN: usize = 8;

/// Columns for the number of a packet, so that the times are aligned.
const NUMBER_WIDTH: usize = 5;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a terminal.
    Text {
        /// Whether ANSI colours are used.
        color: bool,
    },
    /// JSON, one object a line.
    Json,
    /// A Markdown document.
    Markdown,
}

/// Writes the document of a capture piece by piece.
#[derive(Clone, Debug)]
pub struct Document {
    format: Format,
    style: Style,
    calendar: Calendar,
    detailed: bool,
    columns: Option<usize>,
}

impl Document {
    /// Returns a document in this format, with times of this calendar.
    pub fn new(format: Format, style: Style, calendar: Calendar) -> Document {
        Document {
            format,
            style,
            calendar,
            detailed: false,
            columns: None,
        }
    }

    /// Sets whether text and Markdown also show TCP timestamps, SACK blocks and the unscaled
    /// window; JSON always has them.
    pub fn detailed(self, detailed: bool) -> Document {
        Document { detailed, ..self }
    }

    /// Sets the width of the terminal, in columns; `None` for no limit.
    pub fn columns(self, columns: Option<usize>) -> Document {
        Document { columns, ..self }
    }

    /// Writes the beginning of the document.
    pub fn begin(&self, out: &mut String) {
        if self.format == Format::Markdown {
            out.push_str("# A conversation, packet by packet\n");
        }
    }

    /// Writes one segment.
    pub fn segment(&mut self, out: &mut String, described: &DescribedSegment<'_>) {
        let date = self.calendar.set_time(described.packet.time);
        match self.format {
            Format::Json => json::segment(out, described, &self.style, &self.calendar),
            Format::Markdown => {
                if let Some(date) = date {
                    put!(out, "\n## ", date.as_str(), "\n");
                }
                self.segment_markdown(out, described);
            }
            Format::Text { color } => {
                if let Some(date) = date {
                    paragraph(out, self.columns, MARGIN, &date);
                }
                self.segment_text(out, described, color);
            }
        }
    }

    /// Writes a finished flow with its findings.
    pub fn flow(&self, out: &mut String, ended: &Ended<'_>) {
        if self.format == Format::Json {
            json::flow(out, ended);
            return;
        }
        let (number, flow, judgement) = (ended.number, ended.flow, ended.judgement);
        let (client, server) = (flow.name(Role::Client), flow.name(Role::Server));
        let verdict = match judgement.conclusion {
            Conclusion::Complete(_) => "all well",
            Conclusion::Incomplete => "incomplete",
            Conclusion::Wrong => "something is wrong",
        };
        if self.format == Format::Markdown {
            // Some Markdown renderers replace `:1234:` outside of a code span with a picture.
            put!(out, "\n## Flow ", number, ": `", client, "` to `", server);
            put!(out, "`: ", verdict, "\n\n");
        } else {
            let line = format!("flow {number}: {client} > {server}: {verdict}");
            paragraph(out, self.columns, FLOW_MARGIN, &line);
        }
        let described = |mss: Option<u16>| mss.map_or("none".to_string(), |mss| mss.to_string());
        let established = if flow.is_established() {
            "complete"
        } else {
            "not complete"
        };
        self.item(
            out,
            format!(
                "handshake {established}; MSS {} of the client, {} of the server, {} in force",
                described(flow.mss(Role::Client)),
                described(flow.mss(Role::Server)),
                described(flow.mss_in_force()),
            ),
        );
        let closer = match flow.first_closer() {
            Some(role) => format!("closed first by the {}", role.name()),
            None => "not closed by FIN".to_string(),
        };
        self.item(
            out,
            format!(
                "{}, {}, {}, {closer}",
                counted(flow.segments(), "segment"),
                counted(flow.bytes(Role::Client), "request byte"),
                counted(flow.bytes(Role::Server), "reply byte"),
            ),
        );
        for finding in &judgement.findings {
            let word = match (finding.fault.is_gap(), ended.lossy) {
                (true, true) => "NOT SEEN (packets were dropped)",
                (true, false) => "INCOMPLETE",
                (false, _) => "WRONG",
            };
            let packet = finding.packet.map(|packet| format!(" (packet {packet})"));
            let packet = packet.unwrap_or_default();
            self.item(out, format!("{word}: {}{packet}", finding.fault));
        }
        for note in &judgement.notes {
            self.item(out, format!("note: {note}"));
        }
    }

    /// Writes the verdict on the whole capture.
    pub fn verdict(&self, out: &mut String, verdict: &Verdict) {
        if self.format == Format::Json {
            json::verdict(out, verdict);
            return;
        }
        if self.format == Format::Markdown {
            out.push_str("\n## Verdict\n\n");
        }
        self.line(
            out,
            format!(
                "{}, {}, {} at fault, {} incomplete",
                counted(verdict.packets, "packet"),
                counted(verdict.flows, "flow"),
                grouped(verdict.flows_at_fault),
                grouped(verdict.flows_incomplete),
            ),
        );
        for delay in &verdict.delays {
            if let Some([p50, p99, max]) = delay.points {
                let [p50, p99, max] = [short(p50), short(p99), short(max)];
                let (title, count) = (delay.title, grouped(delay.count));
                self.line(
                    out,
                    format!("{title}: p50 {p50}, p99 {p99}, max {max} of {count}"),
                );
            }
        }
        if verdict.dropped > 0 {
            let dropped = counted(verdict.dropped, "packet");
            let were = agreeing(verdict.dropped, "was", "were");
            self.line(
                out,
                format!(
                    "{dropped} {were} dropped before being captured: what is missing above may \
                     be among them"
                ),
            );
        }
        if verdict.reported_early > 0 {
            let early = counted(verdict.reported_early, "ended flow");
            let were = agreeing(verdict.reported_early, "was", "were");
            self.line(
                out,
                format!("{early} {were} reported early: there are too many to keep"),
            );
        }
        for note in &verdict.notes {
            self.line(out, format!("note: {note}"));
        }
        for fault in &verdict.faults {
            let packet = fault.packet.map(|packet| format!("packet {packet}: "));
            let packet = packet.unwrap_or_default();
            let word = ["WRONG", "INCOMPLETE"][usize::from(fault.absence)];
            self.line(out, format!("{word}: {packet}{}", fault.text));
        }
        let word = match (verdict.is_wrong(), verdict.is_good()) {
            (true, _) => "something is wrong, see above",
            (false, true) => "all well",
            (false, false) => {
                "incomplete, see above: nothing was found wrong, but not everything was captured"
            }
        };
        self.line(out, format!("verdict: {word}"));
    }

    /// Writes a statement about a flow, below its name.
    fn item(&self, out: &mut String, text: String) {
        self.statement(out, "      ", text);
    }

    /// Writes a statement about the whole capture.
    fn line(&self, out: &mut String, text: String) {
        self.statement(out, "", text);
    }

    /// Writes a line with a margin; in Markdown, an item of a list.
    fn statement(&self, out: &mut String, margin: &str, text: String) {
        let mut seen = String::from(margin);
        visible(&mut seen, &text);
        if self.format == Format::Markdown {
            out.push_str("- ");
            markdown::escape(out, seen.trim_start());
            out.push('\n');
        } else {
            paragraph(out, self.columns, margin.len() + 2, &seen);
        }
    }

    fn segment_text(&self, out: &mut String, described: &DescribedSegment<'_>, color: bool) {
        let (seen, flow) = (described.seen, described.flow);
        let shade = |code: &'static str| if color { code } else { "" };
        let (dim, plain) = (shade("\x1b[2m"), shade("\x1b[0m"));
        let mut line = Line::begin(out, self.columns, MARGIN);
        let narrow = columns::is_narrow(self.columns);
        let places = if narrow { 1 } else { NUMBER_WIDTH };
        line.written("", |out| padded(out, described.packet.number, ' ', places));
        line.code(dim);
        line.written("  ", |out| {
            self.calendar.time_of_day(out, described.packet.time)
        });
        line.part("  ", flow.name(seen.from));
        line.written(" ", |out| put!(out, "> ", flow.name(seen.from.other())));
        if self.columns.is_some() && !line.holds("  ", &self.fields_in_one(described)) {
            line.next_row();
        }
        self.fields(&mut line, described);
        if !seen.analysis.is_empty() {
            line.code(shade("\x1b[0;33m"));
            line.written("  ", |out| {
                out.push('[');
                list(out, seen.analysis.names(), ", ");
                out.push(']');
            });
            line.code(dim);
        }
        let tint = match seen.from {
            _ if seen.difference.or(seen.altered).is_some() => "\x1b[1;31m",
            Role::Client => "\x1b[36m",
            Role::Server => "\x1b[32m",
        };
        line.code(plain);
        line.next_row();
        line.code(shade(tint));
        line.words_with(|out| {
            transcript::sentence(out, described, &self.style, Quoting::Plain);
        });
        line.code(plain);
        line.end();
    }

    /// Writes the flags, numbers and options of the header.
    fn fields(&self, line: &mut Line<'_>, described: &DescribedSegment<'_>) {
        let segment = described.segment;
        line.written("  ", |out| list(out, segment.flags.names(), ","));
        line.written("  ", |out| put!(out, "seq ", self.style.seq(described)));
        if segment.flags.has(Flags::ACK) {
            line.written(" ", |out| put!(out, "ack ", self.style.ack(described)));
        }
        line.written(" ", |out| put!(out, "len ", segment.length));
        line.written(" ", |out| {
            out.push_str("win ");
            transcript::window(out, described);
            if self.detailed && transcript::scaled_window(described).is_some() {
                put!(out, " [", segment.window, "]");
            }
        });
        if self.detailed || segment.flags.has(Flags::SYN) {
            self.options(line, described);
        }
    }

    fn options(&self, line: &mut Line<'_>, described: &DescribedSegment<'_>) {
        let options = &described.segment.options;
        if let Some(mss) = options.mss {
            line.written(" ", |out| put!(out, "MSS ", mss));
        }
        if let Some(shift) = options.window_scale {
            line.written(" ", |out| put!(out, "scale ", shift));
        }
        if options.sack_permitted {
            line.part(" ", "SACK");
        }
        match options.timestamps {
            Some((value, echo)) if self.detailed => {
                line.written(" ", |out| put!(out, "TSval ", value));
                line.written(" ", |out| put!(out, "TSecr ", echo));
            }
            Some(_) => line.part(" ", "timestamps"),
            None => {}
        }
        for range in options.sack.iter().flatten() {
            let (first, end) = self.style.sack(described, *range);
            line.written(" ", |out| put!(out, "SACK ", first, "-", end));
        }
        if options.cut {
            line.part(" ", "(further options cut off by the capture)");
        }
    }

    /// Returns the fields as a single line.
    fn fields_in_one(&self, described: &DescribedSegment<'_>) -> String {
        let mut fields = String::new();
        self.fields(&mut Line::begin(&mut fields, None, 0), described);
        fields
    }

    fn segment_markdown(&self, out: &mut String, described: &DescribedSegment<'_>) {
        let (seen, flow) = (described.seen, described.flow);
        put!(out, "\n**", described.packet.number, ".** ");
        self.calendar.time_of_day(out, described.packet.time);
        let (source, target) = (flow.name(seen.from), flow.name(seen.from.other()));
        put!(
            out,
            ", flow ",
            described.number,
            ", `",
            source,
            "` to `",
            target
        );
        let fields = self.fields_in_one(described);
        put!(out, "`: `", fields.as_str(), "`");
        if !seen.analysis.is_empty() {
            let mut names = String::new();
            list(&mut names, seen.analysis.names(), ", ");
            out.push_str(" *");
            markdown::escape(out, &names);
            out.push('*');
        }
        out.push_str("  \n");
        transcript::sentence(out, described, &self.style, Quoting::Markdown);
        out.push('\n');
    }
}
