//! Fuzzes `sniff --read`: any bytes are a capture file, which is read, followed, judged and printed
//! as JSON, as text and as Markdown.
//!
//! Properties:
//! - Nothing panics.
//! - A file whose reader reports a fault, a packet that cannot be read, or dropped packets is never
//!   "all well", and every record of the file is counted.
//! - Each line of the JSON is an object with its kind and its schema. The last one, and no other,
//!   is the verdict; it agrees with the segments and flows before it. What is "all well" has no
//!   finding, what is wrong has one that says so, and what is incomplete has one as well.
//! - The text ends with that verdict, and has no character that controls a terminal.
//! - If replies need not be the requests in upper case, no verdict is worse for it.
//! - A file in pieces is read as it is in one piece, and a file that is cut yields the packets
//!   before the cut. (In some kinds of pcap, the length of record headers is determined from the
//!   records that have arrived: these are excluded, and so are compressed files.)

#![no_main]

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use upcase::echo::Expect;
use upcase::sniff::analyzer::Analyzer;
use upcase::sniff::file::linktype::Link;
use upcase::sniff::file::pcapng;
use upcase::sniff::file::record::Unreadable;
use upcase::sniff::file::{Next, Reader};
use upcase::sniff::flow::account::{COMPLETE, INCOMPLETE, WRONG};
use upcase::sniff::print::calendar::Calendar;
use upcase::sniff::print::document::{Document, Format};
use upcase::sniff::print::results::Verdict;
use upcase::sniff::print::transcript::Style;
use upcase::sniff::{self, Stop};

fuzz_target!(|file: &[u8]| check(file));

fn check(file: &[u8]) {
    let records = read(Cursor::new(file.to_vec()));
    check_pieces(file, &records);
    let documents = [
        document(file, Format::Json, Expect::Upper),
        document(file, Format::Text { color: false }, Expect::Upper),
        document(file, Format::Markdown, Expect::Anything),
    ];
    let refused = documents.iter().filter(|one| one.is_none()).count();
    let [
        Some((verdict, json)),
        Some((same, text)),
        Some((lenient, _)),
    ] = documents
    else {
        assert_eq!(refused, 3, "one format is refused, and another is not");
        assert!(records.has_fault, "refused, but it can be read");
        return;
    };
    assert_eq!(format!("{verdict:?}"), format!("{same:?}"));
    assert!(lenient.is_good() || !verdict.is_good(), "{lenient:?}");
    check_against_records(&verdict, &records);
    check_json(&json, &verdict);
    check_text(&text, &verdict);
}

/// A frame: its time, link type and bytes, its length on the wire, and the bytes of its trailer.
type Frame = (Duration, Result<Link, Unreadable>, Vec<u8>, usize, usize);

/// What a file holds, as its reader returns it.
#[derive(Debug, Default, PartialEq)]
struct Records {
    frames: Vec<Frame>,
    dropped: u64,
    has_fault: bool,
}

/// Returns the records of a file up to its end or to its first fault.
fn read(input: impl Read + Send + 'static) -> Records {
    let mut records = Records::default();
    let Ok(mut reader) = Reader::new(input) else {
        records.has_fault = true;
        return records;
    };
    loop {
        match reader.next_frame() {
            Next::Frame(frame) => records.frames.push((
                frame.time,
                frame.link,
                frame.bytes.to_vec(),
                frame.on_wire,
                frame.trailer,
            )),
            Next::Description(_) => {}
            Next::Starved => {
                if reader.refill().is_err() {
                    records.has_fault = true;
                    break;
                }
            }
            Next::End => break,
            Next::Fault(_) => {
                records.has_fault = true;
                break;
            }
        }
    }
    records.dropped = reader.dropped();
    records
}

/// Returns the verdict on a file and its document; `None`: the file is refused.
fn document(file: &[u8], format: Format, expect: Expect) -> Option<(Verdict, String)> {
    let style = Style {
        relative: false,
        width: 60,
    };
    let document = Document::new(format, style, Calendar::utc()).detailed(true);
    let mut page = Vec::<u8>::new();
    let analyzer = Analyzer::new(document, false, None, &mut page).expecting(expect);
    let stopped = AtomicBool::new(false);
    let until = (Stop::default(), &stopped);
    let input = Cursor::new(file.to_vec());
    let verdict = sniff::read(input, "file", None, until, analyzer).ok()?;
    let page = String::from_utf8(page).expect("every format is UTF-8");
    Some((verdict, page))
}

fn check_against_records(verdict: &Verdict, records: &Records) {
    let is_unreadable = |link: &Result<Link, Unreadable>| match link {
        Ok(_) | Err(Unreadable::NoPacket) => false,
        Err(_) => true,
    };
    let has_unreadable = records.frames.iter().any(|frame| is_unreadable(&frame.1));
    if records.has_fault || has_unreadable || records.dropped > 0 {
        assert!(!verdict.is_good(), "{records:?}");
    }
    assert_eq!(verdict.packets, records.frames.len() as u64);
    assert_eq!(verdict.dropped, records.dropped);
}

fn check_json(document: &str, verdict: &Verdict) {
    let lines = document.lines();
    let objects: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let (last, others) = objects.split_last().expect("there is a verdict");
    // Whether each flow is wrong. A flow that was reported is reported again if it is wrong.
    let mut flows: BTreeMap<u64, bool> = BTreeMap::new();
    let mut previous = 0;
    for object in &objects {
        assert!(object["schema"].is_string(), "{object}");
    }
    for object in others {
        match object["kind"].as_str() {
            Some("segment") => {
                let number = number(object, "number");
                assert!(previous < number && number <= verdict.packets, "{object}");
                previous = number;
            }
            Some("flow") => {
                let conclusion = conclusion_of(object, false, 0);
                *flows.entry(number(object, "flow")).or_default() |= conclusion == WRONG;
            }
            _ => panic!("{object} before the verdict"),
        }
    }
    assert_eq!(last["kind"], "verdict");
    let wrong_flows = flows.values().filter(|is_wrong| **is_wrong).count();
    assert_eq!(number(last, "flows"), flows.len() as u64);
    assert_eq!(number(last, "flows_at_fault"), wrong_flows as u64);
    let conclusion = conclusion_of(last, wrong_flows > 0, verdict.dropped);
    assert_eq!(conclusion, verdict.name());
    assert_eq!(conclusion == COMPLETE, verdict.is_good());
}

fn number(object: &Value, field: &str) -> u64 {
    object[field].as_u64().expect(field)
}

/// Returns the conclusion of a flow or of the verdict, which must be the one that follows from its
/// findings, or from wrong flows and dropped packets without a finding in this object.
fn conclusion_of(object: &Value, has_wrong_flow: bool, dropped: u64) -> &'static str {
    let findings = object["findings"].as_array().expect("a list");
    // Of the findings of flows, the verdict holds only some.
    let is_flow = object["kind"] == "flow";
    let is_wrong =
        |finding: &Value| finding["class"] == WRONG && (is_flow || finding["flow"].is_null());
    let conclusion = if has_wrong_flow || findings.iter().any(is_wrong) {
        WRONG
    } else if !findings.is_empty() || dropped > 0 {
        INCOMPLETE
    } else {
        COMPLETE
    };
    assert_eq!(object["verdict"], conclusion, "{object}");
    assert_eq!(object["ok"], conclusion == COMPLETE, "{object}");
    conclusion
}

fn check_text(text: &str, verdict: &Verdict) {
    let last = text.lines().last().expect("there is a verdict");
    assert!(last.starts_with("verdict: "), "{last}");
    assert_eq!(last == "verdict: all well", verdict.is_good(), "{last}");
    let is_control = |character: char| character.is_control() && character != '\n';
    assert!(!text.contains(is_control), "{text:?}");
}

/// Compares what is read of a file in one piece, in pieces, and of its beginning. The last byte
/// determines the size of the pieces and the place of the cut.
fn check_pieces(file: &[u8], whole: &Records) {
    const NANOSECONDS: [[u8; 4]; 2] = [[0x4d, 0x3c, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d]];
    let is_pcapng = file.starts_with(&pcapng::MAGIC);
    if !is_pcapng && !NANOSECONDS.iter().any(|magic| file.starts_with(magic)) {
        return;
    }
    let chance = usize::from(file.last().copied().unwrap_or_default());
    let pieces = Pieces {
        rest: Cursor::new(file.to_vec()),
        size: 1 + chance % 64,
    };
    assert_eq!(read(pieces), *whole);
    let cut = file.len() * chance / 256;
    let beginning = read(Cursor::new(file[..cut].to_vec()));
    assert!(whole.frames.starts_with(&beginning.frames), "cut at {cut}");
}

/// An input that returns at most `size` bytes a time, as a pipe may.
struct Pieces {
    rest: Cursor<Vec<u8>>,
    size: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.size.min(buffer.len());
        self.rest.read(&mut buffer[..most])
    }
}
