//! Tells a capture: frame by frame to segments, flows, sentences and a verdict. Pure but for the
//! output that it is given.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::capture::account::Conclusion;
use crate::capture::bytes::Unread;
use crate::capture::dissect::{Captured, Dissector};
use crate::capture::document::{CaptureFault, Delay, Document, Ended, Verdict};
use crate::capture::file::Frame;
use crate::capture::flow::{Packet, Timing};
use crate::capture::flows::{BYTES_MAX, Flows};
use crate::capture::fragments::Lost;
use crate::capture::record::Unreadable;
use crate::capture::stream::Expect;
use crate::capture::transcript::Told;
use crate::load::latency::Latency;
use crate::units::{agreeing, counted};

/// Findings and faults that are kept for the verdict; all are counted, and flows tell their own.
const FINDINGS_MAX: usize = 1000;

/// Characters that are gathered before they are written.
const OUTPUT_BYTES: usize = 64 * 1024;

/// A telling under way.
#[derive(Debug)]
pub struct Teller<W> {
    document: Document,
    /// Flows and the verdict only.
    brief: bool,
    /// Segments of other ports are passed over.
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
    /// Packets that cannot be read, by the reason: how many, and the first one.
    unread_kinds: BTreeMap<Unreadable, (u64, u64)>,
    output: W,
}

#[derive(Debug, Default)]
struct Delays {
    reply: Latency,
    handshake: Latency,
    acknowledgment: Latency,
}

impl<W: Write> Teller<W> {
    /// Begins the document. `server_port` says who is the server where no SYN does.
    pub fn new(document: Document, brief: bool, port: Option<u16>, output: W) -> Teller<W> {
        let mut text = String::new();
        document.begin(&mut text);
        Teller {
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

    /// Returns this teller with another expectation of what replies must be.
    pub fn expecting(mut self, expect: Expect) -> Teller<W> {
        self.flows = self.flows.expecting(expect);
        self.verdict.expect = expect;
        self
    }

    /// Numbers and counts packets of the flows only, as a live capture has no others.
    pub fn number_flows_only(mut self) -> Teller<W> {
        self.is_live = true;
        self
    }

    /// Returns the packets so far: of any kind from a file, of the flows in a live capture.
    pub fn packets(&self) -> u64 {
        self.verdict.packets
    }

    /// Flows that have ended so far.
    pub fn flows_ended(&self) -> u64 {
        self.flows.ended()
    }

    /// Takes the next frame of the capture. Returns true when it belongs to the flows, or may, and
    /// so is to be kept; in a live capture only such frames have a number.
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
                self.tell_lost();
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
            let told = Told {
                packet,
                segment: &segment,
                number: flow_number,
                flow,
                seen: &seen,
            };
            self.document.segment(&mut self.text, &told);
        }
        self.take_timings();
        self.tell_finished();
        self.write_when_much()?;
        Ok(true)
    }

    /// Takes note of a frame that gives no segment. Returns true when it may belong to a flow.
    fn unread(&mut self, number: u64, unread: Unread) -> bool {
        match unread {
            Unread::NotTcp | Unread::Unopened(_) => return false,
            Unread::Fragment => {}
            unread => {
                let absence = matches!(unread, Unread::Cut);
                self.unreadable(number, absence, unread.to_string());
            }
        }
        self.verdict.packets = number;
        true
    }

    /// Takes note of a packet whose kind cannot be read: all packets of a kind are one fault.
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

    /// Time has passed without a packet.
    pub fn pass_time(&mut self, now: Duration) -> io::Result<()> {
        self.flows.expire(now);
        self.tell_finished();
        self.write()
    }

    /// Takes note of a packet that cannot be read. The first ones are kept, the others counted.
    /// `absence`: the packet may be intact, but its contents are not known.
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

    /// Something is wrong with the capture itself.
    pub fn fault(&mut self, packet: Option<u64>, text: String) {
        self.verdict.faults.push(CaptureFault {
            packet,
            absence: false,
            text,
        });
    }

    /// Takes note of something that the capture lacks, so that not everything can be judged.
    pub fn lack(&mut self, packet: Option<u64>, text: String) {
        self.verdict.faults.push(CaptureFault {
            packet,
            absence: true,
            text,
        });
    }

    /// Packets cannot be kept any more. The telling goes on, unless their reader has gone away: it
    /// has what it needs.
    pub fn not_kept(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            let text = "who read the packets went away, and the capture ended there";
            self.lack(None, text.to_string());
            return self.abandon();
        }
        let text = format!("packets from here on are not kept: {error}");
        self.fault(Some(self.verdict.packets), text);
    }

    /// So many packets were dropped until now before they could be captured. What is missing in a
    /// flow whose verdict is printed later may be among them.
    pub fn dropped(&mut self, packets: u64) {
        self.verdict.dropped = packets;
    }

    /// Takes note of the places at which a file declares that packets were dropped.
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
    fn tell_lost(&mut self) {
        for lost in self.dissector.take_lost() {
            self.unreadable(lost.packet, true, fragments_missing(&lost));
        }
    }

    /// Reports what was not dissected, and why packets could not be read, kind by kind.
    fn tell_unread(&mut self) {
        self.dissector.finish();
        self.tell_lost();
        for (why, (count, first)) in std::mem::take(&mut self.unread_kinds) {
            let more = match count - 1 {
                0 => String::new(),
                more => {
                    let are = agreeing(more, "is", "are");
                    format!(", nor {are} {}", counted(more, "more such packet"))
                }
            };
            self.lack(Some(first), format!("{why}{more}"));
        }
        for (what, count) in self.dissector.unopened() {
            let (packets, were) = (counted(count, "packet"), agreeing(count, "was", "were"));
            let text = format!("{packets} in {what} {were} not looked into");
            self.verdict.notes.push(text);
        }
    }

    /// Takes note that the reader of the output has gone away: the capture may end here.
    pub fn abandon(&mut self) {
        self.verdict.abandoned = true;
    }

    /// Takes note that the capture has ended, so that a reader that has gone away missed nothing.
    pub fn saw_all(&mut self) {
        self.verdict.abandoned = false;
    }

    /// Returns whether the reader of the output has gone away.
    pub fn is_abandoned(&self) -> bool {
        self.verdict.abandoned
    }

    /// Tells the flows that are left, and the verdict.
    pub fn finish(mut self) -> io::Result<Verdict> {
        self.tell_unread();
        self.flows.finish_all();
        self.tell_finished();
        let cut_short = self.flows.cut_short();
        if cut_short > 0 {
            let (flows, were) = (
                counted(cut_short, "flow"),
                agreeing(cut_short, "was", "were"),
            );
            let text = format!("{flows} {were} told before the end: too many at once");
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
        self.verdict.told_early = self.flows.told_early();
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
                "bytes to their acknowledgment",
                acknowledgment,
            ),
        ];
        let _ = self.document.verdict(&mut self.text, &self.verdict);
        let abandoned = self.verdict.abandoned;
        self.write()?;
        // A reader that goes away now missed nothing.
        self.verdict.abandoned = abandoned;
        Ok(self.verdict)
    }

    /// Writes what has gathered. A reader that has gone away has seen enough, and is no error.
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

    fn write_when_much(&mut self) -> io::Result<()> {
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

    fn tell_finished(&mut self) {
        for finished in self.flows.take_finished() {
            let (number, judgement) = (finished.number, &finished.judgement);
            let verdict = &mut self.verdict;
            if !finished.is_told {
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
            let _ = self.document.flow(&mut self.text, &ended);
        }
    }
}

/// Returns what is missing, and of which packet.
fn fragments_missing(lost: &Lost) -> String {
    let (from, to) = lost.key.ends;
    let (came, id) = (lost.fragments, lost.key.id);
    let (fragments, were) = (
        counted(came, "fragment"),
        agreeing(came.into(), "was", "were"),
    );
    format!(
        "{fragments} {were} captured of the IP packet {id} from {from} to {to}, and others are \
         missing: it is not put together"
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
