//! Writes segments, flows and the verdict as JSON, one object a line. Each object begins with its
//! `kind` and its `schema`: within a schema, fields are added but never changed. Pure.

use std::collections::BTreeMap;
use std::ops::Not;

use serde::Serialize;

use crate::sniff::flow::account::{Conclusion, INCOMPLETE, WRONG};
use crate::sniff::flow::{FlowNumber, Role};
use crate::sniff::print::calendar::Calendar;
use crate::sniff::print::results::{CaptureFault, Delay, Ended, Verdict};
use crate::sniff::print::text::{list, padded, put};
use crate::sniff::print::transcript::{self, DescribedSegment, Quoting, Style};

/// The version of the objects.
const SCHEMA: &str = "upcase.sniff/1";

/// Bytes that are reserved for an object. A capture has millions of segments, and without these and
/// [`TEXT_BYTES`], a fifth of the time would go into buffers that grow.
const LINE_BYTES: usize = 1024;

/// Bytes that are reserved for the time, the date, the flags and the text of a segment.
const TEXT_BYTES: [usize; 4] = [32, 48, 64, 256];

#[derive(Serialize)]
struct Segment<'a> {
    kind: &'static str,
    schema: &'static str,
    /// The number of the packet.
    number: u64,
    /// Seconds since 1970. A string, since a JSON number is usually read with fewer digits.
    time: &'a str,
    /// That time in the format of RFC 3339; `null` after the year 9999.
    date: Option<&'a str>,
    flow: FlowNumber,
    from: &'static str,
    src: &'a str,
    dst: &'a str,
    seq: u32,
    ack: u32,
    flags: &'a str,
    len: u32,
    /// The window in the header.
    window: u16,
    /// The window in bytes; `null` when its scale is not known.
    window_scaled: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mss: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<u8>,
    #[serde(skip_serializing_if = "Not::not")]
    sack_permitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tsval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tsecr: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sack: Vec<(u32, u32)>,
    #[serde(skip_serializing_if = "Not::not")]
    options_cut: bool,
    #[serde(skip_serializing_if = "Not::not")]
    out_of_window: bool,
    analysis: Vec<&'static str>,
    text: &'a str,
}

#[derive(Serialize)]
struct Flow<'a> {
    kind: &'static str,
    schema: &'static str,
    flow: FlowNumber,
    client: &'a str,
    server: &'a str,
    ok: bool,
    verdict: &'static str,
    handshake: bool,
    mss: Mss,
    segments: u64,
    request_bytes: u64,
    reply_bytes: u64,
    closed_first_by: Option<&'static str>,
    findings: Vec<Finding>,
    notes: Vec<String>,
}

/// The maximum segment sizes that the sides announced, and the smaller one of them.
#[derive(Serialize)]
struct Mss {
    client: Option<u16>,
    server: Option<u16>,
    in_force: Option<u16>,
}

#[derive(Serialize)]
struct Finding {
    /// `null` when it concerns the capture itself.
    flow: Option<FlowNumber>,
    packet: Option<u64>,
    offset: Option<u64>,
    class: &'static str,
    /// Whether the missing packets may be among those that were dropped before the capture.
    perhaps_dropped: bool,
    text: String,
}

#[derive(Serialize)]
struct Conclusions<'a> {
    kind: &'static str,
    schema: &'static str,
    ok: bool,
    verdict: &'static str,
    expect: &'static str,
    packets: u64,
    flows: u64,
    flows_at_fault: u64,
    flows_incomplete: u64,
    dropped: u64,
    reported_early: u64,
    notes: &'a [String],
    findings: Vec<Finding>,
    #[serde(flatten)]
    delays: BTreeMap<String, Microseconds>,
}

#[derive(Serialize)]
struct Microseconds {
    count: u64,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

/// Appends a segment. The calendar must be set to its time.
pub fn segment(
    out: &mut String,
    described: &DescribedSegment<'_>,
    style: &Style,
    calendar: &Calendar,
) {
    let DescribedSegment {
        packet,
        segment,
        number,
        flow,
        seen,
    } = described;
    let [mut time, mut date, mut flags, mut text] = TEXT_BYTES.map(String::with_capacity);
    put!(&mut time, packet.time.as_secs(), ".");
    padded(&mut time, packet.time.subsec_nanos().into(), '0', 9);
    if calendar.has_date() {
        calendar.rfc3339(&mut date, packet.time);
    }
    list(&mut flags, segment.flags.names(), ",");
    transcript::sentence(&mut text, described, style, Quoting::Plain);
    let options = &segment.options;
    let object = Segment {
        kind: "segment",
        schema: SCHEMA,
        number: packet.number,
        time: &time,
        date: calendar.has_date().then_some(date.as_str()),
        flow: *number,
        from: seen.from.name(),
        src: flow.name(seen.from),
        dst: flow.name(seen.from.other()),
        seq: segment.seq,
        ack: segment.ack,
        flags: &flags,
        len: segment.length,
        window: segment.window,
        window_scaled: transcript::scaled_window(described),
        mss: options.mss,
        scale: options.window_scale,
        sack_permitted: options.sack_permitted,
        tsval: options.timestamps.map(|(value, _)| value),
        tsecr: options.timestamps.map(|(_, echo)| echo),
        sack: options.sack.iter().flatten().copied().collect(),
        options_cut: options.cut,
        out_of_window: seen.outside,
        analysis: seen.analysis.names().collect(),
        text: &text,
    };
    line(out, &object);
}

/// Appends a finished flow with its findings.
pub fn flow(out: &mut String, ended: &Ended<'_>) {
    let (flow, judgement) = (ended.flow, ended.judgement);
    let findings = judgement.findings.iter();
    let object = Flow {
        kind: "flow",
        schema: SCHEMA,
        flow: ended.number,
        client: flow.name(Role::Client),
        server: flow.name(Role::Server),
        ok: matches!(judgement.conclusion, Conclusion::Complete(_)),
        verdict: judgement.conclusion.name(),
        handshake: flow.is_established(),
        mss: Mss {
            client: flow.mss(Role::Client),
            server: flow.mss(Role::Server),
            in_force: flow.mss_in_force(),
        },
        segments: flow.segments(),
        request_bytes: flow.bytes(Role::Client),
        reply_bytes: flow.bytes(Role::Server),
        closed_first_by: flow.first_closer().map(Role::name),
        findings: findings
            .map(|finding| Finding::of_flow(ended.number, finding, ended.lossy))
            .collect(),
        notes: judgement.notes.iter().map(ToString::to_string).collect(),
    };
    line(out, &object);
}

/// Appends the verdict on the whole capture.
pub fn verdict(out: &mut String, verdict: &Verdict) {
    let faults = verdict.faults.iter().map(Finding::of_capture);
    let is_lossy = verdict.dropped > 0;
    let findings = verdict.findings.iter();
    let findings = findings.map(|(flow, finding)| Finding::of_flow(*flow, finding, is_lossy));
    let object = Conclusions {
        kind: "verdict",
        schema: SCHEMA,
        ok: verdict.is_good(),
        verdict: verdict.name(),
        expect: verdict.expect.name(),
        packets: verdict.packets,
        flows: verdict.flows,
        flows_at_fault: verdict.flows_at_fault,
        flows_incomplete: verdict.flows_incomplete,
        dropped: verdict.dropped,
        reported_early: verdict.reported_early,
        notes: &verdict.notes,
        findings: faults.chain(findings).collect(),
        delays: verdict.delays.iter().map(Microseconds::of).collect(),
    };
    line(out, &object);
}

impl Finding {
    fn of_flow(flow: FlowNumber, finding: &crate::sniff::flow::Finding, is_lossy: bool) -> Finding {
        let is_gap = finding.fault.is_gap();
        Finding {
            flow: Some(flow),
            packet: finding.packet,
            offset: finding.fault.offset(),
            class: class(is_gap),
            perhaps_dropped: is_lossy && is_gap,
            text: finding.fault.to_string(),
        }
    }

    fn of_capture(fault: &CaptureFault) -> Finding {
        Finding {
            flow: None,
            packet: fault.packet,
            offset: None,
            class: class(fault.absence),
            perhaps_dropped: false,
            text: fault.text.clone(),
        }
    }
}

/// Returns the class of a finding: incomplete or wrong.
fn class(is_gap: bool) -> &'static str {
    if is_gap { INCOMPLETE } else { WRONG }
}

impl Microseconds {
    /// Returns a delay in microseconds, and its name in JSON.
    fn of(delay: &Delay) -> (String, Microseconds) {
        let [p50, p99, max] = match delay.points {
            Some(points) => points.map(|time| Some(time.as_nanos() as f64 / 1e3)),
            None => [None; 3],
        };
        let count = delay.count;
        let values = Microseconds {
            count,
            p50,
            p99,
            max,
        };
        (format!("{}_us", delay.name), values)
    }
}

/// Appends an object as one line.
fn line(out: &mut String, object: &impl Serialize) {
    let mut bytes = Vec::with_capacity(LINE_BYTES);
    // Strings, numbers and lists of these can always be written as JSON, which is UTF-8.
    let _ = serde_json::to_writer(&mut bytes, object);
    out.push_str(str::from_utf8(&bytes).unwrap_or_default());
    out.push('\n');
}
