//! Compares the analysis of each segment of a file by `sniff` with that by tshark.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use super::{run, skip};

/// The fields of a segment that are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dissected {
    pub seq: u64,
    pub ack: u64,
    pub flags: String,
    pub length: u64,
    pub words: Vec<String>,
}

/// Circumstances of a segment that can explain a difference, from tshark's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The number that tshark gives to the connection.
    stream: u64,
    /// Whether, earlier on this connection, bytes were acknowledged that had not been captured.
    acked_unseen: bool,
    /// Whether the peer's last segment reported, by SACK, bytes after a hole, and this segment's
    /// bytes are not among them.
    hole_reported: bool,
    /// Whether an earlier packet of the file has a later time.
    time_went_back: bool,
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

/// Returns whether tshark is installed; prints that the test is skipped if not.
#[track_caller]
pub fn is_there() -> bool {
    let there = super::installed("tshark");
    if !there {
        skip("no tshark");
    }
    there
}

/// Returns tshark's analysis of each TCP segment, by packet number.
pub fn tshark(file: &Path) -> BTreeMap<u64, (Dissected, Situation)> {
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
    for field in [
        "tcp.options.sack_le",
        "tcp.options.sack_re",
        "frame.time_epoch",
        "tcp.srcport",
        "tcp.stream",
    ] {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut unseen = Unseen::default();
    let mut reported: BTreeMap<(String, String), Vec<(u32, u32)>> = BTreeMap::new();
    let mut latest = 0.0_f64;
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(';').collect();
            let [.., left, right, time, port, stream] = fields[..] else {
                panic!("{line}");
            };
            let (number, segment) = parse(&fields);
            // Some blocks of a pcapng file have no time.
            let time: f64 = time.parse().unwrap_or(latest);
            let edges = |list: &str| -> Vec<u32> {
                list.split(',')
                    .filter_map(|edge| edge.parse().ok())
                    .collect()
            };
            let ranges = edges(left).into_iter().zip(edges(right)).collect();
            reported.insert((stream.to_string(), port.to_string()), ranges);
            let peers = reported
                .iter()
                .filter(|((of, from), _)| of == stream && from != port);
            let ranges: Vec<(u32, u32)> = peers.flat_map(|(_, ranges)| ranges.clone()).collect();
            let seq = segment.seq as u32;
            let within =
                |&(left, right): &(u32, u32)| seq.wrapping_sub(left) < right.wrapping_sub(left);
            let situation = Situation {
                stream: stream.parse().unwrap(),
                acked_unseen: unseen.take(stream, port, &segment),
                hole_reported: !ranges.is_empty() && !ranges.iter().any(within),
                time_went_back: time < latest,
            };
            latest = latest.max(time);
            (number, (segment, situation))
        })
        .collect()
}

/// The streams in which bytes were acknowledged that had not been captured, or not in order.
#[derive(Default)]
struct Unseen {
    /// The sequence number after the last byte that was captured in order, by stream and sender.
    seen: BTreeMap<(String, String), u32>,
    streams: BTreeSet<String>,
}

impl Unseen {
    fn take(&mut self, stream: &str, port: &str, segment: &Dissected) -> bool {
        let (seq, ack) = (segment.seq as u32, segment.ack as u32);
        let marks =
            u32::from(segment.flags.contains("SYN")) + u32::from(segment.flags.contains("FIN"));
        let end = seq.wrapping_add(segment.length as u32).wrapping_add(marks);
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

fn parse(fields: &[&str]) -> (u64, Dissected) {
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
    // tshark marks the special kinds with the general word as well.
    if words.iter().any(|word| word.ends_with("_retransmission")) {
        words.retain(|word| word != "retransmission");
    }
    let reported = Dissected {
        seq: number(1),
        ack: number(2),
        flags: flags.join(","),
        length: number(4),
        words,
    };
    (number(0), reported)
}

/// Returns the analysis of each segment by `sniff`, by packet number, whatever the verdict is.
pub fn sniff(file: &Path) -> BTreeMap<u64, Dissected> {
    let reported = sniff_places(file).into_iter();
    reported
        .map(|(number, (reported, _))| (number, reported))
        .collect()
}

/// Returns the analysis of each segment by `sniff`, and whether the segment is outside the window.
fn sniff_places(file: &Path) -> BTreeMap<u64, (Dissected, bool)> {
    let ended = run(&format!("sniff --format json --read {}", file.display()));
    assert!(matches!(ended.code, Some(0 | 1 | 4)), "{}", ended.stderr);
    let lines = ended.stdout.lines();
    let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    let segments = values.filter(|value| value["kind"] == "segment");
    segments
        .map(|value| {
            let words = value["analysis"].as_array().unwrap().iter();
            let reported = Dissected {
                seq: value["seq"].as_u64().unwrap(),
                ack: value["ack"].as_u64().unwrap(),
                flags: value["flags"].as_str().unwrap().to_string(),
                length: value["len"].as_u64().unwrap(),
                words: words
                    .map(|word| word.as_str().unwrap().to_string())
                    .collect(),
            };
            let outside = value["out_of_window"] == true;
            (value["number"].as_u64().unwrap(), (reported, outside))
        })
        .collect()
}

/// Returns whether a difference is a known case in which `sniff` is right:
///
/// | tshark | `sniff` | when |
/// |---|---|---|
/// | fast_retransmission | another kind of retransmission | bytes were acknowledged unseen |
/// | another kind of retransmission | fast_retransmission | bytes were acknowledged unseen |
/// | another kind of retransmission | fast_retransmission | a hole is reported by SACK |
/// | retransmission | out_of_order | time runs backwards |
/// | reused_ports as well | | on SYN,ACK |
/// | retransmission | reused_ports | a SYN after the same one was refused |
/// | affected by a segment outside the window | not affected | after such a segment |
///
/// The reasons: after an acknowledgment of bytes that it did not see, tshark overwrites its count
/// of duplicate ACKs with -1. Later it takes this mark for a large number, and reports "fast"
/// without a single duplicate ACK; or it has lost the duplicate ACKs that it had counted, of which
/// there were enough. `sniff` keeps its count, whatever was not seen.
///
/// A segment that is sent immediately for a hole that SACK reports is a fast retransmission,
/// whether the hole begins at the acknowledgment or behind it (RFC 6675). tshark knows only the
/// first kind.
///
/// tshark computes the difference of two times as an unsigned number: a packet whose time is before
/// that of its predecessor appears to be late by centuries. `sniff` treats it as near.
///
/// A SYN opens a connection anew. The SYN,ACK belongs to the SYN that it answers, whatever its
/// sequence number is. A SYN that is repeated after an RST refused it is another attempt.
///
/// A segment that a receiver drops (RFC 9293, section 3.10.7.4) is not part of the stream, so that
/// `sniff` analyses the following segments without it. The effect on tshark lasts until the next
/// connection.
///
/// (tshark also takes a sequence number of exactly 0 for "none yet". That needs a connection which
/// passes 0 at the end of a segment: it does not occur with the fixed seeds.)
fn is_excused(
    theirs: &Dissected,
    ours: &Dissected,
    situation: &Situation,
    after_outside: bool,
) -> bool {
    if (theirs.seq, theirs.ack, theirs.length) != (ours.seq, ours.ack, ours.length) {
        return false;
    }
    if after_outside {
        return true;
    }
    let mut their_words = theirs.words.clone();
    if theirs.flags == "SYN,ACK" {
        their_words.retain(|word| word != "reused_ports");
    }
    let only = |words: &[String], word: &str| words == [word.to_string()];
    if their_words == ours.words {
        return true;
    }
    if theirs.flags == "SYN" && only(&ours.words, "reused_ports") {
        return only(&their_words, "retransmission");
    }
    let kinds = ["fast_retransmission", "retransmission", "out_of_order"];
    let of_kind = |words: &[String]| -> (Vec<String>, Vec<String>) {
        let words = words.iter().cloned();
        words.partition(|word| kinds.contains(&word.as_str()))
    };
    let ((their_kind, their_rest), (our_kind, our_rest)) =
        (of_kind(&their_words), of_kind(&ours.words));
    if their_kind.len() != 1 || our_kind.len() != 1 || their_rest != our_rest {
        return false;
    }
    let fast = |kind: &[String]| only(kind, "fast_retransmission");
    let late = situation.time_went_back
        && only(&their_kind, "retransmission")
        && only(&our_kind, "out_of_order");
    let hole = situation.hole_reported && fast(&our_kind);
    let unseen = situation.acked_unseen && fast(&their_kind) != fast(&our_kind);
    late || hole || unseen
}

/// A packet number, and the analyses of the packet by tshark and by `sniff`; `None`: there is none.
pub type Difference = (u64, Option<Dissected>, Option<Dissected>);

/// Returns the packets that the two analyse differently, without excused differences.
pub fn disagreements(file: &Path) -> Vec<Difference> {
    disagreements_and_excuses(file).0
}

/// Returns the packets that the two analyse differently, and the number of further differences that
/// the table of `is_excused` excuses.
pub fn disagreements_and_excuses(file: &Path) -> (Vec<Difference>, usize) {
    let (theirs, ours) = (tshark(file), sniff_places(file));
    assert!(
        !theirs.is_empty(),
        "tshark reports nothing about {}",
        file.display()
    );
    let mut numbers: Vec<u64> = theirs.keys().chain(ours.keys()).copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut streams_outside = BTreeSet::new();
    let (mut differences, mut excused) = (Vec::new(), 0);
    for number in numbers {
        let (theirs, ours) = (theirs.get(&number), ours.get(&number));
        if let (Some((theirs, situation)), Some((ours, outside))) = (theirs, ours) {
            if *outside {
                streams_outside.insert(situation.stream);
            }
            if theirs == ours {
                continue;
            }
            if is_excused(
                theirs,
                ours,
                situation,
                streams_outside.contains(&situation.stream),
            ) {
                excused += 1;
                continue;
            }
        }
        let copied = |segment: &Dissected| segment.clone();
        let theirs = theirs.map(|(theirs, _)| copied(theirs));
        differences.push((number, theirs, ours.map(|(ours, _)| copied(ours))));
    }
    (differences, excused)
}
