//! tshark as the oracle: what it says of each segment of a file, laid beside what `sniff` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::{run, skip};

/// What is compared of a segment: numbers, flags and words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub seq: u64,
    pub ack: u64,
    pub flags: String,
    pub length: u64,
    pub words: Vec<String>,
    /// Bytes were acknowledged before that had not been seen sent, on this connection.
    pub acked_unseen: bool,
}

pub const WORDS: [&str; 14] = [
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "out_of_order",
    "lost_segment",
    "duplicate_ack",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "window_full",
    "window_update",
    "keep_alive",
    "keep_alive_ack",
    "reused_ports",
];

const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// Whether tshark is there; otherwise the test says why it is skipped.
#[track_caller]
pub fn is_there() -> bool {
    let there = super::installed("tshark");
    if !there {
        skip("no tshark");
    }
    there
}

/// What tshark tells of each TCP segment, by packet number.
pub fn tshark(file: &Path) -> BTreeMap<u64, Told> {
    let mut command = Command::new("tshark");
    command.args(["-r", file.to_str().unwrap(), "-Y", "tcp", "-T", "fields"]);
    command.args(["-E", "separator=;"]);
    for field in [
        "frame.number",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.flags",
        "tcp.len",
    ] {
        command.args(["-e", field]);
    }
    for word in WORDS {
        command.args(["-e", &format!("tcp.analysis.{word}")]);
    }
    command.args(["-e", "tcp.srcport", "-e", "tcp.stream"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut unseen = Unseen::default();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(';').collect();
            let [.., port, stream] = fields[..] else {
                panic!("{line}");
            };
            let (number, mut told) = parse(&fields);
            told.acked_unseen = unseen.take(stream, port, &told);
            (number, told)
        })
        .collect()
}

/// The streams in which bytes were acknowledged that had not been seen, or not in order.
#[derive(Default)]
struct Unseen {
    /// By stream and sender: the number after the last byte that was seen in order.
    seen: BTreeMap<(String, String), u32>,
    streams: BTreeSet<String>,
}

impl Unseen {
    fn take(&mut self, stream: &str, port: &str, told: &Told) -> bool {
        let (seq, ack) = (told.seq as u32, told.ack as u32);
        let marks = u32::from(told.flags.contains("SYN")) + u32::from(told.flags.contains("FIN"));
        let end = seq.wrapping_add(told.length as u32).wrapping_add(marks);
        let after = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
        let peers = self
            .seen
            .iter()
            .filter(|((of, from), _)| of == stream && from != port);
        if peers.into_iter().any(|(_, &seen)| after(ack, seen)) {
            self.streams.insert(stream.to_string());
        }
        let key = (stream.to_string(), port.to_string());
        let seen = self.seen.entry(key).or_insert(end);
        if !after(seq, *seen) && after(end, *seen) {
            *seen = end;
        }
        self.streams.contains(stream)
    }
}

fn parse(fields: &[&str]) -> (u64, Told) {
    let number = |place: usize| fields[place].parse().unwrap_or(0);
    let bits = u8::from_str_radix(fields[3].trim_start_matches("0x"), 16).unwrap_or(0);
    let set = FLAGS
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & 1 << bit != 0);
    let flags: Vec<&str> = set.map(|(_, name)| *name).collect();
    let mut words: Vec<String> = WORDS
        .iter()
        .zip(&fields[5..])
        .filter(|(_, value)| !value.is_empty())
        .map(|(word, _)| (*word).to_string())
        .collect();
    // It calls the special kinds by the general name as well.
    if words.iter().any(|word| word.ends_with("_retransmission")) {
        words.retain(|word| word != "retransmission");
    }
    let told = Told {
        seq: number(1),
        ack: number(2),
        flags: flags.join(","),
        length: number(4),
        words,
        acked_unseen: false,
    };
    (number(0), told)
}

/// What `sniff` tells of each segment, by packet number; whatever its verdict.
pub fn sniff(file: &Path) -> BTreeMap<u64, Told> {
    let ended = run(&format!("sniff --format json --read {}", file.display()));
    assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.stderr);
    let lines = ended.stdout.lines();
    let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    let segments = values.filter(|value| value["kind"] == "segment");
    segments
        .map(|value| {
            let words = value["analysis"].as_array().unwrap().iter();
            let told = Told {
                seq: value["seq"].as_u64().unwrap(),
                ack: value["ack"].as_u64().unwrap(),
                flags: value["flags"].as_str().unwrap().to_string(),
                length: value["len"].as_u64().unwrap(),
                words: words
                    .map(|word| word.as_str().unwrap().to_string())
                    .collect(),
                acked_unseen: false,
            };
            (value["number"].as_u64().unwrap(), told)
        })
        .collect()
}

/// Where ours differs and is right:
///
/// | tshark | ours |
/// |---|---|
/// | fast_retransmission | another kind of repetition |
/// | another kind of repetition | fast_retransmission |
///
/// Why: after an acknowledgment of bytes that it did not see, tshark writes -1 over its count of
/// duplicate ACKs. Later it takes the mark for a large number, and says "fast" without a single
/// duplicate ACK; or it has forgotten those that it had counted, of which there were enough. Ours
/// counts them, whatever was not seen.
///
/// (tshark also takes a sequence number of exactly 0 for "none yet". That needs a connection which
/// passes 0 at the end of a segment: the fixed seeds do not meet it.)
fn is_excused(theirs: &Told, ours: &Told) -> bool {
    let kinds = ["fast_retransmission", "retransmission", "out_of_order"];
    let of_kind = |told: &Told| -> (Vec<String>, Vec<String>) {
        let words = told.words.iter().cloned();
        words.partition(|word| kinds.contains(&word.as_str()))
    };
    let ((their_kind, their_rest), (our_kind, our_rest)) = (of_kind(theirs), of_kind(ours));
    let fast = |kind: &[String]| kind == ["fast_retransmission"];
    theirs.acked_unseen
        && their_kind.len() == 1
        && our_kind.len() == 1
        && fast(&their_kind) != fast(&our_kind)
        && their_rest == our_rest
        && (theirs.seq, theirs.ack, theirs.length) == (ours.seq, ours.ack, ours.length)
}

/// The packets of which the two say different things: number, tshark's, ours.
pub fn disagreements(file: &Path) -> Vec<(u64, Option<Told>, Option<Told>)> {
    let (theirs, ours) = (tshark(file), sniff(file));
    assert!(
        !theirs.is_empty(),
        "tshark tells nothing of {}",
        file.display()
    );
    let mut numbers: Vec<u64> = theirs.keys().chain(ours.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let differ = |theirs: &Option<Told>, ours: &Option<Told>| match (theirs, ours) {
        (Some(theirs), Some(ours)) => {
            let mut theirs_alone = theirs.clone();
            theirs_alone.acked_unseen = false;
            theirs_alone != *ours && !is_excused(theirs, ours)
        }
        _ => true,
    };
    numbers
        .into_iter()
        .map(|number| {
            (
                number,
                theirs.get(&number).cloned(),
                ours.get(&number).cloned(),
            )
        })
        .filter(|(_, theirs, ours)| differ(theirs, ours))
        .collect()
}
