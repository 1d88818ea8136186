//! Tells a capture: frame by frame to segments, flows, sentences and a verdict. Pure but for the
//! output that it is given.

use std::io::{self, Write};
use std::time::Duration;

use crate::capture::document::{CaptureFault, Delay, Document, Verdict};
use crate::capture::file::Frame;
use crate::capture::flow::{Packet, Timing};
use crate::capture::flows::{BYTES_MAX, Flows};
use crate::capture::segment::{Unread, parse};
use crate::capture::transcript::Told;
use crate::load::latency::Latency;

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
    flows: Flows,
    verdict: Verdict,
    delays: Delays,
    timings: Vec<Timing>,
    text: String,
    unreadable: u64,
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
            flows: Flows::new(port, BYTES_MAX),
            verdict: Verdict::default(),
            delays: Delays::default(),
            timings: Vec::new(),
            text,
            unreadable: 0,
            output,
        }
    }

    /// Packets told so far, of any kind.
    pub fn packets(&self) -> u64 {
        self.verdict.packets
    }

    /// Flows that have ended so far.
    pub fn flows_ended(&self) -> u64 {
        self.flows.ended()
    }

    /// The next frame of the capture.
    pub fn frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        self.verdict.packets += 1;
        let packet = Packet {
            number: self.verdict.packets,
            time: frame.time,
        };
        let link = match frame.link {
            Ok(link) => link,
            Err(number) => {
                let text = match number {
                    -1 => "the file does not describe its interface".to_string(),
                    _ => format!("link type {number} cannot be read"),
                };
                self.unreadable(packet.number, text);
                return Ok(());
            }
        };
        let segment = match parse(link, frame.bytes, frame.on_wire) {
            Ok(segment) => segment,
            Err(Unread::NotTcp) => return Ok(()),
            Err(unread) => {
                self.unreadable(packet.number, unread.to_string());
                return Ok(());
            }
        };
        let ports = [segment.source.port(), segment.target.port()];
        if self.port.is_some_and(|port| !ports.contains(&port)) {
            return Ok(());
        }
        let (number, flow, seen) = self.flows.observe(packet, &segment, &mut self.timings);
        if !self.brief {
            let told = Told {
                packet,
                segment: &segment,
                number,
                flow,
                seen: &seen,
            };
            self.document.segment(&mut self.text, &told);
        }
        self.take_timings();
        self.tell_finished();
        self.write_when_much()
    }

    /// Time has passed without a packet.
    pub fn pass_time(&mut self, now: Duration) -> io::Result<()> {
        self.flows.expire(now);
        self.tell_finished();
        self.write()
    }

    /// A packet cannot be read. The first ones are kept, the others counted.
    fn unreadable(&mut self, packet: u64, text: String) {
        self.unreadable += 1;
        if self.unreadable <= FINDINGS_MAX as u64 {
            self.fault(Some(packet), text);
        }
    }

    /// Something is wrong with the capture itself.
    pub fn fault(&mut self, packet: Option<u64>, text: String) {
        self.verdict.faults.push(CaptureFault { packet, text });
    }

    /// What is captured cannot be written to its file any more. The telling goes on.
    pub fn not_kept(&mut self, error: &io::Error) {
        let text = format!("what is captured from here on is not in its file: {error}");
        self.fault(Some(self.verdict.packets), text);
    }

    /// The kernel had no room for so many packets until now. What is missing in a flow that is told
    /// from now on may be among them.
    pub fn dropped(&mut self, packets: u64) {
        self.verdict.dropped = packets;
    }

    /// Tells the flows that are left, and the verdict.
    pub fn finish(mut self) -> io::Result<Verdict> {
        self.flows.finish_all();
        self.tell_finished();
        let cut_short = self.flows.cut_short();
        if cut_short > 0 {
            let text = format!("{cut_short} flows were told before their end: too many at once");
            self.fault(None, text);
        }
        let more = self.unreadable.saturating_sub(FINDINGS_MAX as u64);
        if more > 0 {
            self.fault(None, format!("{more} more packets cannot be read"));
        }
        if self.verdict.flows == 0 {
            self.fault(None, "no connection was seen".to_string());
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
        self.write()?;
        Ok(self.verdict)
    }

    /// Writes what has gathered.
    pub fn write(&mut self) -> io::Result<()> {
        self.output.write_all(self.text.as_bytes())?;
        self.text.clear();
        self.output.flush()
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
        for mut finished in self.flows.take_finished() {
            let findings = finished.flow.judge();
            let lossy = self.verdict.dropped > 0;
            self.verdict.flows += 1;
            self.verdict.flows_at_fault += u64::from(!findings.is_empty());
            let number = finished.number;
            let _ = self
                .document
                .flow(&mut self.text, number, &finished.flow, &findings, lossy);
            let room = FINDINGS_MAX.saturating_sub(self.verdict.findings.len());
            let kept = findings.into_iter().take(room);
            self.verdict
                .findings
                .extend(kept.map(|finding| (number, finding)));
        }
    }
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
