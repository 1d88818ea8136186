//! The document of a capture: what is told of segments, flows and the whole, as text for a
//! terminal, as Markdown, or as JSON, one object a line. Pure: meaning in, characters out.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::capture::flow::{Finding, Flow, FlowNumber, Role};
use crate::capture::segment::Flags;
use crate::capture::text::{list, padded, put};
use crate::capture::transcript::{self, Style, Told};
use crate::units::short;

/// What the document looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a terminal; coloured there.
    Text {
        /// With ANSI colours.
        color: bool,
    },
    /// One object a line.
    Json,
    /// A document to keep.
    Markdown,
}

/// Everything that is known of a finished capture.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Packets seen, of any kind.
    pub packets: u64,
    /// Flows told.
    pub flows: u64,
    /// Flows with a finding.
    pub flows_at_fault: u64,
    /// Packets that the kernel did not hand over.
    pub dropped: u64,
    /// Flows told before stragglers could come, since there were so many.
    pub told_early: u64,
    /// What was wrong with the capture itself.
    pub faults: Vec<CaptureFault>,
    /// What was wrong with flows: which, and what; as many as are kept.
    pub findings: Vec<(FlowNumber, Finding)>,
    /// Delays as the wire shows them.
    pub delays: Vec<Delay>,
}

/// Something wrong with the capture itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureFault {
    /// The number of the packet; `None` when it concerns the capture.
    pub packet: Option<u64>,
    /// What it is.
    pub text: String,
}

/// A distribution of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Its stable name in JSON, without the unit.
    pub name: &'static str,
    /// What it is, for a person.
    pub title: &'static str,
    /// How many there are.
    pub count: u64,
    /// The median, the 99th percentile and the longest; `None` when there are none.
    pub points: Option<[Duration; 3]>,
}

impl Verdict {
    /// Whether all was well.
    pub fn is_good(&self) -> bool {
        self.flows_at_fault == 0 && self.faults.is_empty()
    }
}

/// Writes a document piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// What it looks like.
    pub format: Format,
    /// How sentences are made.
    pub style: Style,
}

impl Document {
    /// What comes first.
    pub fn begin(&self, out: &mut String) {
        if self.format == Format::Markdown {
            out.push_str("# A conversation, packet by packet\n");
        }
    }

    /// One segment.
    pub fn segment(&self, out: &mut String, told: &Told<'_>) {
        match self.format {
            Format::Json => self.segment_json(out, told),
            Format::Markdown => self.segment_markdown(out, told),
            Format::Text { color } => self.segment_text(out, told, color),
        }
    }

    /// A flow that is over, with what was found. `lossy`: the kernel dropped packets of this
    /// capture, so that what did not come may have come.
    pub fn flow(
        &self,
        out: &mut String,
        number: FlowNumber,
        flow: &Flow,
        findings: &[Finding],
        lossy: bool,
    ) -> fmt::Result {
        if self.format == Format::Json {
            let value = flow_json(number, flow, findings, lossy);
            return writeln!(out, "{value}");
        }
        let markdown = self.format == Format::Markdown;
        let (head, item) = if markdown {
            ("\n## Flow", "- ")
        } else {
            ("flow", "      ")
        };
        let (client, server) = (flow.name(Role::Client), flow.name(Role::Server));
        let verdict = if findings.is_empty() {
            "all well"
        } else {
            "something is wrong"
        };
        writeln!(out, "{head} {number}: {client} > {server}: {verdict}")?;
        if markdown {
            writeln!(out)?;
        }
        let told = |mss: Option<u16>| mss.map_or("none".to_string(), |mss| mss.to_string());
        let established = if flow.is_established() {
            "complete"
        } else {
            "not complete"
        };
        writeln!(
            out,
            "{item}handshake {established}; MSS {} of the client, {} of the server, {} in force",
            told(flow.mss(Role::Client)),
            told(flow.mss(Role::Server)),
            told(flow.mss_in_force()),
        )?;
        let closer = match flow.first_closer() {
            Some(role) => format!("closed first by the {}", role.name()),
            None => "not closed by FIN".to_string(),
        };
        writeln!(
            out,
            "{item}{} segments, {} bytes of request, {} bytes of reply, {closer}",
            flow.segments(),
            flow.bytes(Role::Client),
            flow.bytes(Role::Server),
        )?;
        for finding in findings {
            let word = if lossy && finding.fault.is_absence() {
                "NOT SEEN (the kernel dropped packets)"
            } else {
                "WRONG"
            };
            write!(out, "{item}{word}: {}", finding.fault)?;
            match finding.packet {
                Some(packet) => writeln!(out, " (packet {packet})")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    /// The verdict on the whole.
    pub fn verdict(&self, out: &mut String, verdict: &Verdict) -> fmt::Result {
        if self.format == Format::Json {
            return writeln!(out, "{}", verdict_json(verdict));
        }
        let markdown = self.format == Format::Markdown;
        let (head, item) = if markdown {
            ("\n## Verdict\n\n- ", "- ")
        } else {
            ("", "")
        };
        let Verdict {
            packets,
            flows,
            flows_at_fault,
            dropped,
            ..
        } = verdict;
        writeln!(
            out,
            "{head}{packets} packets, {flows} flows, {flows_at_fault} of them at fault"
        )?;
        for delay in &verdict.delays {
            if let Some([p50, p99, max]) = delay.points {
                let [p50, p99, max] = [short(p50), short(p99), short(max)];
                let (title, count) = (delay.title, delay.count);
                writeln!(
                    out,
                    "{item}{title}: p50 {p50}, p99 {p99}, max {max} of {count}"
                )?;
            }
        }
        if *dropped > 0 {
            writeln!(
                out,
                "{item}the kernel dropped {dropped} packets before they could be captured: what is \
                 missing above may be among them"
            )?;
        }
        if verdict.told_early > 0 {
            let early = verdict.told_early;
            writeln!(
                out,
                "{item}{early} ended flows were told early: there are too many to keep"
            )?;
        }
        for fault in &verdict.faults {
            match fault.packet {
                Some(packet) => writeln!(out, "{item}WRONG: packet {packet}: {}", fault.text)?,
                None => writeln!(out, "{item}WRONG: {}", fault.text)?,
            }
        }
        let word = if verdict.is_good() {
            "all well"
        } else {
            "something is wrong, see above"
        };
        writeln!(out, "{item}verdict: {word}")
    }

    fn segment_text(&self, out: &mut String, told: &Told<'_>, color: bool) {
        let (seen, flow) = (told.seen, told.flow);
        let shade = |code: &'static str| if color { code } else { "" };
        let (dim, plain) = (shade("\x1b[2m"), shade("\x1b[0m"));
        padded(out, told.packet.number, ' ', 5);
        put!(out, "  ", dim);
        time_of_day(out, told.packet.time);
        let (source, target) = (flow.name(seen.from), flow.name(seen.from.other()));
        put!(out, "  ", source, " > ", target, "  ");
        self.fields(out, told);
        if !seen.analysis.is_empty() {
            put!(out, "  ", shade("\x1b[0;33m"), "[");
            list(out, seen.analysis.names(), ", ");
            put!(out, "]", dim);
        }
        let tint = match seen.from {
            _ if seen.difference.or(seen.altered).is_some() => "\x1b[1;31m",
            Role::Client => "\x1b[36m",
            Role::Server => "\x1b[32m",
        };
        put!(out, plain, "\n       ", shade(tint));
        transcript::sentence(out, told, &self.style);
        put!(out, plain, "\n");
    }

    /// Flags, numbers and options, as they stand in the header.
    fn fields(&self, out: &mut String, told: &Told<'_>) {
        let segment = told.segment;
        list(out, segment.flags.names(), ",");
        put!(out, "  seq ", self.style.seq(told));
        if segment.flags.has(Flags::ACK) {
            put!(out, " ack ", self.style.ack(told));
        }
        put!(out, " len ", segment.length, " win ", segment.window);
        if !segment.flags.has(Flags::SYN) {
            return;
        }
        let options = segment.options;
        if let Some(mss) = options.mss {
            put!(out, " MSS ", mss);
        }
        if let Some(shift) = options.window_scale {
            put!(out, " scale ", shift);
        }
        if options.sack_permitted {
            out.push_str(" SACK");
        }
        if options.timestamps.is_some() {
            out.push_str(" timestamps");
        }
    }

    fn segment_markdown(&self, out: &mut String, told: &Told<'_>) {
        let (seen, flow) = (told.seen, told.flow);
        put!(out, "\n**", told.packet.number, ".** ");
        time_of_day(out, told.packet.time);
        let (source, target) = (flow.name(seen.from), flow.name(seen.from.other()));
        put!(
            out,
            ", flow ",
            told.number,
            ", ",
            source,
            " to ",
            target,
            ": `"
        );
        self.fields(out, told);
        out.push('`');
        if !seen.analysis.is_empty() {
            out.push_str(" _");
            list(out, seen.analysis.names(), ", ");
            out.push('_');
        }
        out.push_str("  \n");
        let mut sentence = String::new();
        transcript::sentence(&mut sentence, told, &self.style);
        for character in sentence.chars() {
            if "`*_<>[]#|~".contains(character) {
                out.push('\\');
            }
            out.push(character);
        }
        out.push('\n');
    }

    /// Written by hand, in one pass: a capture has millions of these.
    fn segment_json(&self, out: &mut String, told: &Told<'_>) {
        let Told {
            packet,
            segment,
            number,
            flow,
            seen,
        } = told;
        put!(
            out,
            r#"{"kind":"segment","number":"#,
            packet.number,
            r#","time":""#
        );
        put!(out, packet.time.as_secs(), ".");
        // More digits than a JSON number is read with.
        padded(out, packet.time.subsec_nanos().into(), '0', 9);
        put!(
            out,
            r#"","flow":"#,
            *number,
            r#","from":""#,
            seen.from.name()
        );
        put!(out, r#"","src":""#, flow.name(seen.from));
        put!(out, r#"","dst":""#, flow.name(seen.from.other()));
        put!(out, r#"","seq":"#, segment.seq, r#","ack":"#, segment.ack);
        out.push_str(r#","flags":""#);
        list(out, segment.flags.names(), ",");
        put!(
            out,
            r#"","len":"#,
            segment.length,
            r#","window":"#,
            segment.window
        );
        if let Some(mss) = segment.options.mss {
            put!(out, r#","mss":"#, mss);
        }
        out.push_str(r#","analysis":["#);
        for (place, name) in seen.analysis.names().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            put!(out, comma, "\"", name, "\"");
        }
        let mut text = String::new();
        transcript::sentence(&mut text, told, &self.style);
        // Writing to a string cannot fail.
        let _ = writeln!(out, r#"],"text":{}}}"#, Value::from(text));
    }
}

fn flow_json(number: FlowNumber, flow: &Flow, findings: &[Finding], lossy: bool) -> Value {
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| finding_json(number, finding, lossy))
        .collect();
    json!({
        "kind": "flow",
        "flow": number,
        "client": flow.name(Role::Client),
        "server": flow.name(Role::Server),
        "ok": findings.is_empty(),
        "handshake": flow.is_established(),
        "mss": {
            "client": flow.mss(Role::Client),
            "server": flow.mss(Role::Server),
            "in_force": flow.mss_in_force(),
        },
        "segments": flow.segments(),
        "request_bytes": flow.bytes(Role::Client),
        "reply_bytes": flow.bytes(Role::Server),
        "closed_first_by": flow.first_closer().map(Role::name),
        "findings": findings,
    })
}

fn finding_json(flow: FlowNumber, finding: &Finding, lossy: bool) -> Value {
    json!({
        "flow": flow,
        "packet": finding.packet,
        "offset": finding.fault.offset(),
        "perhaps_dropped": lossy && finding.fault.is_absence(),
        "text": finding.fault.to_string(),
    })
}

fn verdict_json(verdict: &Verdict) -> Value {
    let faults = verdict.faults.iter().map(
        |fault| json!({ "flow": null, "packet": fault.packet, "offset": null, "text": fault.text }),
    );
    let findings = verdict
        .findings
        .iter()
        .map(|(flow, finding)| finding_json(*flow, finding, verdict.dropped > 0));
    let mut value = json!({
        "kind": "verdict",
        "ok": verdict.is_good(),
        "packets": verdict.packets,
        "flows": verdict.flows,
        "flows_at_fault": verdict.flows_at_fault,
        "dropped": verdict.dropped,
        "told_early": verdict.told_early,
        "findings": faults.chain(findings).collect::<Vec<_>>(),
    });
    for delay in &verdict.delays {
        let microseconds = |place: usize| {
            delay
                .points
                .map(|points| points[place].as_nanos() as f64 / 1e3)
        };
        value[format!("{}_us", delay.name)] = json!({
            "count": delay.count,
            "p50": microseconds(0),
            "p99": microseconds(1),
            "max": microseconds(2),
        });
    }
    value
}

/// Hours, minutes and seconds of the day, in UTC: `07:23:10.534722`.
fn time_of_day(out: &mut String, time: Duration) {
    let mut text = *b"00:00:00.000000";
    let seconds = (time.as_secs() % 86_400) as u32;
    for (mut value, places) in [
        (seconds / 3600, 0..2),
        (seconds / 60 % 60, 3..5),
        (seconds % 60, 6..8),
        (time.subsec_micros(), 9..15),
    ] {
        for place in places.rev() {
            text[place] += (value % 10) as u8;
            value /= 10;
        }
    }
    out.push_str(std::str::from_utf8(&text).unwrap_or_default());
}
