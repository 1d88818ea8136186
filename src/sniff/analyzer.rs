//! Turns the frames of a capture into a document: dissects each frame, passes its segment to its
//! flow, and writes the transcript and the verdict. Pure, except for the output that it is given.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::echo::Expect;
use crate::load::latency::Latency;
use crate::sniff::file::Frame;
use crate::sniff::file::record::Unreadable;
use crate::sniff::flow::account::Conclusion;
use crate::sniff::flow::flows::{BYTES_MAX, Flows};
use crate::sniff::flow::{Packet, Timing};
use crate::sniff::packet::bytes::Unread;
use crate::sniff::packet::fragments::Lost;
use crate::sniff::packet::{Captured, Dissector};
use crate::sniff::print::document::Document;
use crate::sniff::print::results::{CaptureFault, Delay, Ended, Verdict};
use crate::sniff::print::transcript::DescribedSegment;
use crate::units::{agreeing, counted};

/// Maximum number of findings and of faults that are kept for the verdict. All are counted, and
/// each flow reports its own in full.
const FINDINGS_MAX: usize = 1000;

/// Size of the buffered text at which it is written to the output, in bytes.
const OUTPUT_BYTES: usize = 64 * 1024;

/// The document of a capture that is being read.
#[derive(Debug)]
pub struct Analyzer<W> {
    document: Document,
    /// True when only the flows and the verdict are written, not the segments.
    brief: bool,
    /// The port of the server; segments of other ports are skipped. `None`: all ports.
    port: Option<u16>,
    dissector: Dissector,
    /// True for a live capture, in which only packets of its flows have numbers.
    is_live: bool,
    flows: Flows,
    verdict: Verdict,
    delays: Delays,
    timings: Vec<Timing>,
    text: String,
    unreadable: u64,
    /// Packets that cannot be read, by the reason: their number, and the number of the first one.
    unread_kinds: BTreeMap<Unreadable, (u64, u64)>,
    output: W,
}

#[derive(Debug, Default)]
struct Delays {
    reply: Latency,
    handshake: Latency,
    acknowledgment: Latency,
}

impl<W: Write> Analyzer<W> {
    /// Begins the document. `port`: the port that shows which endpoint is the server; segments of
    /// other ports are skipped. Without it, a SYN shows which is the server, or else the lower
    /// port.
    pub fn new(document: Document, brief: bool, port: Option<u16>, output: W) -> Analyzer<W> {
        let mut text = String::new();
        document.begin(&mut text);
        Analyzer {
            document,
            brief,
            port,
            dissector: Dissector::new(port),
            is_live: false,
            flows: Flows::new(port, BYTES_MAX),
            verdict: Verdict::default(),
            delays: Delays::default(),
            timings: Vec::new(),
            text,
            unreadable: 0,
            unread_kinds: BTreeMap::new(),
            output,
        }
    }

    /// Sets the expected content of replies.
    pub fn expecting(mut self, expect: Expect) -> Analyzer<W> {
        self.flows = self.flows.expecting(expect);
        self.verdict.expect = expect;
        self
    }

    /// Numbers and counts only the packets of the flows, as a live capture has no others.
    pub fn number_flows_only(mut self) -> Analyzer<W> {
        self.is_live = true;
        self
    }

    /// Returns the number of packets so far: of any kind from a file, of the flows in a live
    /// capture.
    pub fn packets(&self) -> u64 {
        self.verdict.packets
    }

    /// Returns the number of flows that have ended so far.
    pub fn flows_ended(&self) -> u64 {
        self.flows.ended()
    }

    /// Processes the next frame of the capture. Returns true when it belongs to the flows, or may,
    /// and so is to be kept; in a live capture only such frames have a number.
    pub fn frame(&mut self, frame: &Frame<'_>) -> io::Result<bool> {
        let number = self.verdict.packets + 1;
        let packet = Packet {
            number,
            time: frame.time,
        };
        if !self.is_live {
            self.verdict.packets = number;
        }
        let link = match frame.link {
            Ok(link) => link,
            Err(why) => {
                self.unreadable_kind(number, why);
                return Ok(why != Unreadable::NoPacket);
            }
        };
        let captured = Captured {
            number,
            time: frame.time,
            link,
            bytes: frame.bytes,
            on_wire: frame.on_wire,
            trailer: frame.trailer,
        };
        let segment = match self.dissector.dissect(&captured) {
            Ok(segment) => segment,
            Err(unread) => {
                let may_belong = self.unread(number, unread);
                self.report_lost_fragments();
                return Ok(may_belong);
            }
        };
        let ports = [segment.source.port(), segment.target.port()];
        if self.port.is_some_and(|port| !ports.contains(&port)) {
            return Ok(false);
        }
        self.verdict.packets = number;
        let (flow_number, flow, seen) = self.flows.observe(packet, &segment, &mut self.timings);
        if !self.brief {
            let described = DescribedSegment {
                packet,
                segment: &segment,
                number: flow_number,
                flow,
                seen: &seen,
            };
            self.document.segment(&mut self.text, &described);
        }
        self.take_timings();
        self.report_finished();
        self.write_if_full()?;
        Ok(true)
    }

    /// Records a frame that has no segment. Returns true when it may belong to a flow.
    fn unread(&mut self, number: u64, unread: Unread) -> bool {
        match unread {
            Unread::NotTcp | Unread::NotDissected(_) => return false,
            Unread::Fragment => {}
            unread => {
                let absence = matches!(unread, Unread::Cut);
                self.unreadable(number, absence, unread.to_string());
            }
        }
        self.verdict.packets = number;
        true
    }

    /// Records a packet that cannot be read for a reason which it shares with others: all of them
    /// are reported as one fault.
    fn unreadable_kind(&mut self, number: u64, why: Unreadable) {
        if why == Unreadable::NoPacket {
            return;
        }
        if self.unread_kinds.len() >= FINDINGS_MAX && !self.unread_kinds.contains_key(&why) {
            self.unreadable += 1;
            return;
        }
        self.unread_kinds.entry(why).or_insert((0, number)).0 += 1;
    }

    /// Reports the flows that have expired at this time, and writes the output, though no packet
    /// has arrived.
    pub fn expire(&mut self, now: Duration) -> io::Result<()> {
        self.flows.expire(now);
        self.report_finished();
        self.write()
    }

    /// Records a packet that cannot be read. The first `FINDINGS_MAX` are kept as faults, the
    /// others counted. `absence`: the packet may be intact, but its contents are not known.
    fn unreadable(&mut self, packet: u64, absence: bool, text: String) {
        self.unreadable += 1;
        if self.unreadable <= FINDINGS_MAX as u64 {
            let packet = Some(packet);
            self.verdict.faults.push(CaptureFault {
                packet,
                absence,
                text,
            });
        }
    }

    /// Records a fault of the capture itself.
    pub fn fault(&mut self, packet: Option<u64>, text: String) {
        self.verdict.faults.push(CaptureFault {
            packet,
            absence: false,
            text,
        });
    }

    /// Records something that the capture lacks, so that not everything can be judged.
    pub fn lack(&mut self, packet: Option<u64>, text: String) {
        self.verdict.faults.push(CaptureFault {
            packet,
            absence: true,
            text,
        });
    }

    /// Records that packets cannot be kept any more. The transcript continues, unless the program
    /// that read the packets has closed the pipe: it has what it needs.
    pub fn write_failed(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            let text = "the reader of the packets closed the pipe, and the capture ended there";
            self.lack(None, text.to_string());
            return self.abandon();
        }
        let text = format!("packets from here on are not written: {error}");
        self.fault(Some(self.verdict.packets), text);
    }

    /// Sets the number of packets that were dropped until now before they could be captured. What
    /// is missing in a flow whose verdict is printed later may be among them.
    pub fn dropped(&mut self, packets: u64) {
        self.verdict.dropped = packets;
    }

    /// Records the places at which a file declares that packets were dropped.
    pub fn declared(&mut self, places: Vec<String>) {
        for place in places {
            self.lack(None, place);
        }
    }

    /// Adds a remark on the capture, which is no fault.
    pub fn note(&mut self, text: String) {
        self.verdict.notes.push(text);
    }

    /// Reports the IP packets that could not be reassembled.
    fn report_lost_fragments(&mut self) {
        for lost in self.dissector.take_lost() {
            self.unreadable(lost.packet, true, fragments_missing(&lost));
        }
    }

    /// Reports the protocols that were not dissected, and the packets that could not be read, by
    /// reason.
    fn report_unread(&mut self) {
        self.dissector.finish();
        self.report_lost_fragments();
        for (why, (count, first)) in std::mem::take(&mut self.unread_kinds) {
            let more = match count - 1 {
                0 => String::new(),
                more => {
                    let are = agreeing(more, "is", "are");
                    let packets = counted(more, "more packet");
                    format!("; {packets} {are} unreadable for the same reason")
                }
            };
            self.lack(Some(first), format!("{why}{more}"));
        }
        for (what, count) in self.dissector.undissected() {
            let (packets, were) = (counted(count, "packet"), agreeing(count, "was", "were"));
            let text = format!("{packets} in {what} {were} not dissected");
            self.verdict.notes.push(text);
        }
    }

    /// Records that the reader of the output has closed it: the capture may end here.
    pub fn abandon(&mut self) {
        self.verdict.abandoned = true;
    }

    /// Records that the capture has been read to its end: a reader that has closed the output
    /// missed nothing.
    pub fn reached_end(&mut self) {
        self.verdict.abandoned = false;
    }

    /// Returns whether the reader has closed the output before the end of the capture.
    pub fn is_abandoned(&self) -> bool {
        self.verdict.abandoned
    }

    /// Reports the remaining flows, and writes and returns the verdict.
    pub fn finish(mut self) -> io::Result<Verdict> {
        self.report_unread();
        self.flows.finish_all();
        self.report_finished();
        let cut_short = self.flows.cut_short();
        if cut_short > 0 {
            let (flows, were) = (
                counted(cut_short, "flow"),
                agreeing(cut_short, "was", "were"),
            );
            let text = format!("{flows} {were} reported before the end: too many at once");
            self.lack(None, text);
        }
        let more = self.unreadable.saturating_sub(FINDINGS_MAX as u64);
        if more > 0 {
            let packets = counted(more, "more packet");
            self.lack(None, format!("{packets} cannot be read"));
        }
        if self.verdict.flows == 0 {
            self.lack(None, "no connection was seen".to_string());
        }
        self.verdict.reported_early = self.flows.reported_early();
        let Delays {
            reply,
            handshake,
            acknowledgment,
        } = &self.delays;
        self.verdict.delays = vec![
            delay("reply_delay", "request to reply on the wire", reply),
            delay("handshake", "handshake", handshake),
            delay(
                "acknowledgment",
                "data to its acknowledgment",
                acknowledgment,
            ),
        ];
        self.document.verdict(&mut self.text, &self.verdict);
        let abandoned = self.verdict.abandoned;
        self.write()?;
        // A reader that closes the output now missed nothing.
        self.verdict.abandoned = abandoned;
        Ok(self.verdict)
    }

    /// Writes the buffered text. A reader that has closed the output has seen enough, and is no
    /// error.
    pub fn write(&mut self) -> io::Result<()> {
        let written = self.output.write_all(self.text.as_bytes());
        self.text.clear();
        match written.and_then(|()| self.output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.abandon();
                Ok(())
            }
            other => other,
        }
    }

    fn write_if_full(&mut self) -> io::Result<()> {
        if self.text.len() < OUTPUT_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn take_timings(&mut self) {
        for timing in self.timings.drain(..) {
            match timing {
                Timing::Reply(time) => self.delays.reply.record(time),
                Timing::Handshake(time) => self.delays.handshake.record(time),
                Timing::Acknowledged(time) => self.delays.acknowledgment.record(time),
            }
        }
    }

    fn report_finished(&mut self) {
        for finished in self.flows.take_finished() {
            let (number, judgement) = (finished.number, &finished.judgement);
            let verdict = &mut self.verdict;
            if !finished.was_reported {
                verdict.flows += 1;
                let is_incomplete = judgement.conclusion == Conclusion::Incomplete;
                verdict.flows_incomplete += u64::from(is_incomplete);
            }
            let is_wrong = judgement.conclusion == Conclusion::Wrong;
            verdict.flows_at_fault += u64::from(is_wrong && !finished.was_wrong);
            let room = FINDINGS_MAX.saturating_sub(verdict.findings.len());
            let kept = judgement.findings.iter().take(room);
            let kept = kept.map(|finding| (number, *finding));
            verdict.findings.extend(kept);
            let ended = Ended {
                number,
                flow: &finished.flow,
                judgement,
                lossy: verdict.dropped > 0,
            };
            self.document.flow(&mut self.text, &ended);
        }
    }
}

/// Returns the text of the fault for an IP packet of which fragments are missing.
fn fragments_missing(lost: &Lost) -> String {
    let (from, to) = lost.key.ends;
    let (came, id) = (lost.fragments, lost.key.id);
    let (fragments, were) = (
        counted(came, "fragment"),
        agreeing(came.into(), "was", "were"),
    );
    format!(
        "{fragments} {were} captured of the IP packet {id} from {from} to {to}, and others are \
         missing: it cannot be reassembled"
    )
}

fn delay(name: &'static str, title: &'static str, latency: &Latency) -> Delay {
    let points = latency.distribution().map(|all| {
        [
            all.nearest(50.0).value,
            all.nearest(99.0).value,
            all.longest().value,
        ]
    });
    Delay {
        name,
        title,
        count: latency.count(),
        points,
    }
}
