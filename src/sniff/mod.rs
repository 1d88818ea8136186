//! Prints packet captures as annotated transcripts: reads packets from a file, or live from an
//! interface, and writes what each TCP segment does, and a verdict on each connection.
//!
//! ```text
//!   file ─┐
//!         ├─► frame ─► segment ─► flow (analysis, stream) ─► transcript ─► document
//!   live ─┘     └────► file (--write): of a live capture in pcapng, of a file in its own format
//! ```
//!
//! `input` reads a file, and `pcap` and `pcapng` parse its formats. A frame is a chain of headers,
//! of any length and order, that ends in a segment: `dissect` follows the chain, `links`, `ip` and
//! `tunnels` parse the headers, `fragments` reassembles IP packets, and `networks` separates
//! conversations that have the same addresses.

pub mod analyzer;
pub mod file;
pub mod flow;
pub mod live;
pub mod packet;
pub mod print;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use log::info;
use mio::unix::SourceFd;

use crate::reactor::slots::Token;
use crate::reactor::{Event, Reactor, Wait};
use crate::sniff::analyzer::Analyzer;
use crate::sniff::file::{FileFault, Next, Reader, Writer};
use crate::sniff::live::Capture;
use crate::sniff::print::results::Verdict;
use crate::units::{agreeing, counted};

/// Conditions that end a capture, in addition to a signal; `None`: no such condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    /// Number of packets after which the capture ends.
    pub packets: Option<u64>,
    /// Time after which a live capture ends.
    pub duration: Option<Duration>,
    /// Number of ended flows after which the capture ends.
    pub flows: Option<u64>,
}

/// The file that the packets of the flows are written to.
#[derive(Debug)]
pub enum PacketOutput {
    /// A file of this name, which is created once the capture has begun.
    At(PathBuf),
    /// This file, which is open already.
    To(File),
}

impl PacketOutput {
    /// Returns true when `other` is the same regular file: a capture cannot be written to the file
    /// that it is read from.
    pub fn is(&self, other: &File) -> bool {
        let own = match self {
            PacketOutput::At(path) => fs::metadata(path),
            PacketOutput::To(file) => file.metadata(),
        };
        match (own, other.metadata()) {
            (Ok(own), Ok(other)) => {
                own.is_file() && (own.dev(), own.ino()) == (other.dev(), other.ino())
            }
            // The file does not exist yet, or opening it will report why it cannot be written.
            _ => false,
        }
    }

    fn open(self) -> anyhow::Result<File> {
        match self {
            PacketOutput::To(file) => Ok(file),
            PacketOutput::At(path) => {
                let name = path.display();
                File::create(&path).with_context(|| format!("cannot write {name}"))
            }
        }
    }
}

/// Maximum number of packets that one turn processes before it polls for signals and timers again.
const TURN_PACKETS: usize = 1024;

/// Interval at which a live capture flushes its output and finishes flows that have ended.
const TICK: Duration = Duration::from_millis(200);

/// Prints the transcript of a capture file until its end, or until `stop` or `stopped` ends it, and
/// writes the packets of its flows to `keep`. Fails if nothing can be read from the file.
pub fn read<W: Write>(
    input: impl Read + Send + 'static,
    name: &str,
    keep: Option<PacketOutput>,
    (stop, stopped): (Stop, &AtomicBool),
    analyzer: Analyzer<W>,
) -> anyhow::Result<Verdict> {
    let reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(_) if stopped.load(Ordering::Relaxed) => return Ok(analyzer.finish()?),
        Err(fault @ FileFault::NotACapture(_)) => {
            bail!("{name} is not a capture: {}", with_name(&fault, name))
        }
        Err(FileFault::Io(error)) => bail!("cannot read {name}: {error}"),
        Err(fault) => bail!("cannot read {name}: {fault}"),
    };
    let mut reading = Reading {
        reader,
        excerpt: None,
        stop,
        stopped,
        analyzer,
    };
    if let Some(keep) = keep {
        reading.reader = reading.reader.with_descriptions();
        let mut file = BufWriter::new(keep.open()?);
        file.write_all(&reading.reader.header())?;
        reading.excerpt = Some(file);
    }
    if let Some(fault) = reading.run()? {
        let last = reading.analyzer.packets();
        if last == 0 && !fault.is_cut() {
            bail!("cannot read {name}: {fault}");
        }
        let text = format!("{name}: {fault}");
        reading.analyzer.lack(Some(last + 1), text);
    }
    reading.finish()
}

/// A capture file whose transcript is being printed.
struct Reading<'a, W> {
    reader: Reader,
    /// The file that the packets of the flows are written to; `None` if there is none, or a write
    /// to it failed.
    excerpt: Option<BufWriter<File>>,
    stop: Stop,
    stopped: &'a AtomicBool,
    analyzer: Analyzer<W>,
}

impl<W: Write> Reading<'_, W> {
    /// Prints the transcript as far as the file can be read. Returns the fault that ended it before
    /// the end of the file, if there was one.
    fn run(&mut self) -> anyhow::Result<Option<FileFault>> {
        while !is_enough(&self.stop, &self.analyzer) && !self.is_stopped() {
            match self.reader.next_frame() {
                // The reader of the output has closed it, and packets are left.
                Next::Frame(_) if self.analyzer.is_abandoned() => break,
                Next::Frame(frame) => {
                    let is_wanted = self.analyzer.frame(&frame)?;
                    self.analyzer.dropped(self.reader.dropped());
                    self.keep_last(is_wanted);
                }
                Next::Description(record) => {
                    let kept = self.excerpt.as_mut().map(|file| file.write_all(record));
                    self.check_write(kept);
                }
                Next::End => {
                    self.analyzer.reached_end();
                    break;
                }
                Next::Starved => {
                    // The next read may block, so the output so far is written first.
                    self.analyzer.write()?;
                    self.flush();
                    match self.reader.refill() {
                        Ok(()) => {}
                        Err(_) if self.is_stopped() => break,
                        Err(fault) => return Ok(Some(fault)),
                    }
                }
                Next::Fault(fault) => return Ok(Some(fault)),
            }
        }
        Ok(None)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Writes the last packet to the excerpt if it is wanted. Of an unwanted packet, only the
    /// number of dropped packets that it declares is written.
    fn keep_last(&mut self, is_wanted: bool) {
        let Some(file) = &mut self.excerpt else {
            return;
        };
        let kept = match is_wanted {
            true => self.reader.write_last(file),
            false => match self.reader.drops_before_last() {
                Some(record) => file.write_all(&record),
                None => Ok(()),
            },
        };
        self.check_write(Some(kept));
    }

    fn flush(&mut self) {
        let kept = self.excerpt.as_mut().map(BufWriter::flush);
        self.check_write(kept);
    }

    /// Stops writing the excerpt if a write to it failed, and reports the error.
    fn check_write(&mut self, kept: Option<io::Result<()>>) {
        if let Some(Err(error)) = kept {
            self.excerpt = None;
            self.analyzer.write_failed(&error);
        }
    }

    fn finish(mut self) -> anyhow::Result<Verdict> {
        let kept = self.excerpt.as_mut().map(BufWriter::flush);
        let is_unread = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        // A broken pipe is not reported: the transcript is complete, and the program that read the
        // packets needs no more of them.
        if !matches!(&kept, Some(Err(error)) if is_unread(error)) {
            self.check_write(kept);
        }
        self.analyzer.dropped(self.reader.dropped());
        self.analyzer.declared(self.reader.drops());
        let clamped = self.reader.clamped();
        if clamped > 0 {
            let (times, are) = (counted(clamped, "time"), agreeing(clamped, "is", "are"));
            self.analyzer.note(format!(
                "{times} before 1970 or after 9999 {are} shown as the nearest time in that range"
            ));
        }
        Ok(self.analyzer.finish()?)
    }
}

/// Returns the text of a fault, in which the placeholder `FILE` is replaced by the name of the
/// file.
fn with_name(fault: &FileFault, name: &str) -> String {
    let file = if name == STANDARD_INPUT {
        String::new()
    } else {
        format!(" {name}")
    };
    fault.to_string().replace(" FILE", &file)
}

/// The name of standard input in messages.
pub const STANDARD_INPUT: &str = "standard input";

/// Captures the TCP packets of `port` on `interface` and prints their transcript until `stop` or a
/// signal ends the capture.
pub fn live<W: Write>(
    interface: &str,
    port: u16,
    keep: Option<PacketOutput>,
    stop: Stop,
    analyzer: Analyzer<W>,
) -> anyhow::Result<Verdict> {
    let capture = Capture::start(interface, port)?;
    let mut reactor = Reactor::new().context("cannot set up the event loop")?;
    reactor.stop_on_signals()?;
    reactor.add_reader(&mut SourceFd(&capture.as_raw_fd()), Token::fixed(0))?;
    let file = match keep {
        None => None,
        Some(keep) => {
            let output = BufWriter::new(keep.open()?);
            Some(Writer::new(output, capture.link_number(), interface)?)
        }
    };
    info!("capturing TCP port {port} on {interface}");
    let live = Live {
        reactor,
        capture,
        file,
        stop,
        analyzer: analyzer.number_flows_only(),
        readable: true,
    };
    live.run()
}

struct Live<W> {
    reactor: Reactor<Timer>,
    capture: Capture,
    file: Option<Writer<BufWriter<File>>>,
    stop: Stop,
    analyzer: Analyzer<W>,
    /// True while the socket may hold more packets: readiness is edge-triggered, and is not
    /// reported again.
    readable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Tick,
    End,
}

impl<W: Write> Live<W> {
    fn run(mut self) -> anyhow::Result<Verdict> {
        let now = Instant::now();
        self.reactor.set_timer(now + TICK, Timer::Tick);
        if let Some(duration) = self.stop.duration {
            self.reactor.set_timer(now + duration, Timer::End);
        }
        let mut stopped = false;
        while !stopped && !self.is_enough() {
            let wait = if self.readable {
                Wait::Never
            } else {
                Wait::Block
            };
            self.reactor.turn(wait)?;
            while let Some(event) = self.reactor.next_event() {
                match event {
                    Event::Io(..) => self.readable = true,
                    Event::Stop | Event::Timer(Timer::End) => stopped = true,
                    Event::Timer(Timer::Tick) => self.tick()?,
                    Event::Drain | Event::Report | Event::Inquiry | Event::Hangup => {}
                }
            }
            self.take_packets(TURN_PACKETS)?;
        }
        self.drain_socket()?;
        let dropped = self.capture.dropped()?;
        self.keep_drops(dropped);
        self.flush();
        let were = agreeing(dropped, "was", "were");
        info!(
            "{} {were} dropped by the kernel",
            counted(dropped, "packet")
        );
        self.analyzer.dropped(dropped);
        Ok(self.analyzer.finish()?)
    }

    fn is_enough(&self) -> bool {
        self.analyzer.is_abandoned() || is_enough(&self.stop, &self.analyzer)
    }

    /// Flushes the packets that are kept, so that a program that reads the file during the capture
    /// sees them.
    fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Writer::flush) {
            self.write_failed(&error);
        }
    }

    /// Writes the number of dropped packets to the file, so that its readers know of them as well.
    fn keep_drops(&mut self, dropped: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let file = self.file.as_mut().filter(|_| dropped > 0);
        let kept = file.map(|file| file.drops(now.unwrap_or_default(), dropped));
        if let Some(Err(error)) = kept {
            self.write_failed(&error);
        }
    }

    /// Stops writing packets to the file, and reports the error.
    fn write_failed(&mut self, error: &io::Error) {
        self.file = None;
        self.analyzer.write_failed(error);
    }

    /// Processes the packets that arrived before the end of the capture, unless another signal to
    /// stop arrives.
    fn drain_socket(&mut self) -> anyhow::Result<()> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = end.unwrap_or_default();
        while self.readable && !self.is_enough() {
            if self.take_packets(TURN_PACKETS)? >= end {
                return Ok(());
            }
            self.reactor.turn(Wait::Never)?;
            while let Some(event) = self.reactor.next_event() {
                if event == Event::Stop {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        self.reactor.set_timer(Instant::now() + TICK, Timer::Tick);
        self.flush();
        self.analyzer.dropped(self.capture.dropped()?);
        // The packets that wait in the socket are older than the clock: no flow expires before
        // them.
        let now = match self.readable {
            true => Duration::ZERO,
            false => SystemTime::now().duration_since(UNIX_EPOCH)?,
        };
        self.analyzer.expire(now)?;
        Ok(())
    }

    /// Processes up to `most` packets. Returns the time of the last one, or zero if there was none.
    fn take_packets(&mut self, most: usize) -> anyhow::Result<Duration> {
        let mut time = Duration::ZERO;
        for _ in 0..most {
            if self.is_enough() {
                break;
            }
            let Some(frame) = self.capture.next_frame()? else {
                self.readable = false;
                break;
            };
            time = frame.time;
            if !self.analyzer.frame(&frame)? {
                continue;
            }
            let file = self.file.as_mut();
            let kept = file.map(|file| file.write(frame.time, frame.bytes));
            if let Some(Err(error)) = kept {
                self.write_failed(&error);
            }
        }
        Ok(time)
    }
}

fn is_enough<W: Write>(stop: &Stop, analyzer: &Analyzer<W>) -> bool {
    let packets = stop
        .packets
        .is_some_and(|count| analyzer.packets() >= count);
    packets
        || stop
            .flows
            .is_some_and(|count| analyzer.flows_ended() >= count)
}
