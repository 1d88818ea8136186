//! The conversation on the wire, told packet by packet: from a file, or live on the reactor.
//!
//! ```text
//!   file ─┐
//!         ├─► frame ─► segment ─► flow (analysis, stream) ─► transcript ─► document
//!   live ─┘     └────► file (--write)
//! ```

pub mod analysis;
pub mod document;
pub mod file;
pub mod flow;
pub mod flows;
pub mod live;
pub mod segment;
pub mod stream;
pub mod teller;
pub mod text;
pub mod transcript;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use log::info;
use mio::unix::SourceFd;

use crate::capture::document::Verdict;
use crate::capture::file::{FileFault, Next, Reader, Writer};
use crate::capture::live::{Capture, LINK_NUMBER};
use crate::capture::teller::Teller;
use crate::reactor::slots::Token;
use crate::reactor::{Event, Reactor, Wait};

/// When a live capture stops, beside a signal; `None`: not for this.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    /// After so many packets.
    pub packets: Option<u64>,
    /// After this time.
    pub duration: Option<Duration>,
    /// When so many flows have ended.
    pub flows: Option<u64>,
}

/// Packets that are told in one turn before signals and timers are looked at.
const TURN_PACKETS: usize = 1024;

/// How often a live capture writes out what it told, and lets ended flows go.
const TICK: Duration = Duration::from_millis(200);

/// Tells a capture file until its end, or until `stopped`. A file of which nothing can be read is
/// an error.
pub fn read<W: Write>(
    input: impl Read + Send + 'static,
    name: &str,
    stop: Stop,
    stopped: &AtomicBool,
    mut teller: Teller<W>,
) -> anyhow::Result<Verdict> {
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(FileFault::Io(error)) => bail!("cannot read {name}: {error}"),
        Err(fault) => bail!("{name} is not a capture: {fault}"),
    };
    while !is_enough(&stop, &teller) && !stopped.load(Ordering::Relaxed) {
        let fault = match reader.next_frame() {
            Next::Frame(frame) => {
                teller.frame(&frame)?;
                continue;
            }
            Next::End => break,
            Next::Starved => {
                // Reading on may wait: what is known is told first.
                teller.write()?;
                match reader.refill() {
                    Ok(()) => continue,
                    Err(fault) => fault,
                }
            }
            Next::Fault(fault) => fault,
        };
        if teller.packets() == 0 && !matches!(fault, FileFault::Truncated) {
            bail!("{name} cannot be read: {fault}");
        }
        let last = teller.packets();
        teller.fault(Some(last + 1), format!("{name}: {fault}"));
        break;
    }
    Ok(teller.finish()?)
}

/// Captures and tells until it is to stop.
pub fn live<W: Write>(
    interface: &str,
    port: u16,
    keep: Option<PathBuf>,
    stop: Stop,
    teller: Teller<W>,
) -> anyhow::Result<Verdict> {
    let capture = Capture::start(interface, port)?;
    let mut reactor = Reactor::new().context("cannot set up the event loop")?;
    reactor.stop_on_signals()?;
    reactor.add_reader(&mut SourceFd(&capture.as_raw_fd()), Token::fixed(0))?;
    let file = match keep {
        None => None,
        Some(path) => {
            let file =
                File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            Some(Writer::new(BufWriter::new(file), LINK_NUMBER, interface)?)
        }
    };
    info!("capturing TCP port {port} on {interface}");
    let live = Live {
        reactor,
        capture,
        file,
        stop,
        teller,
        readable: true,
    };
    live.run()
}

struct Live<W> {
    reactor: Reactor<Timer>,
    capture: Capture,
    file: Option<Writer<BufWriter<File>>>,
    stop: Stop,
    teller: Teller<W>,
    /// The socket may hold more packets; an edge is not told twice.
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
        while !stopped && !is_enough(&self.stop, &self.teller) {
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
                    Event::Drain | Event::Report | Event::Inquiry => {}
                }
            }
            self.take_packets(TURN_PACKETS)?;
        }
        self.take_rest()?;
        if let Some(Err(error)) = self.file.as_mut().map(Writer::flush) {
            self.teller.not_kept(&error);
        }
        let dropped = self.capture.dropped()?;
        info!("{dropped} packets were dropped by the kernel");
        self.teller.dropped(dropped);
        Ok(self.teller.finish()?)
    }

    /// Tells what had come before the end, unless another request to stop comes.
    fn take_rest(&mut self) -> anyhow::Result<()> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = end.unwrap_or_default();
        while self.readable && !is_enough(&self.stop, &self.teller) {
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
        self.teller.dropped(self.capture.dropped()?);
        // Packets that still wait are older than the clock.
        let now = match self.readable {
            true => Duration::ZERO,
            false => SystemTime::now().duration_since(UNIX_EPOCH)?,
        };
        self.teller.pass_time(now)?;
        Ok(())
    }

    /// Tells up to so many packets, and gives the time of the last one.
    fn take_packets(&mut self, most: usize) -> anyhow::Result<Duration> {
        let mut time = Duration::ZERO;
        for _ in 0..most {
            if is_enough(&self.stop, &self.teller) {
                break;
            }
            let Some(frame) = self.capture.next_frame()? else {
                self.readable = false;
                break;
            };
            time = frame.time;
            let kept = self
                .file
                .as_mut()
                .map(|file| file.write(frame.time, frame.bytes));
            self.teller.frame(&frame)?;
            if let Some(Err(error)) = kept {
                self.file = None;
                self.teller.not_kept(&error);
            }
        }
        Ok(time)
    }
}

fn is_enough<W: Write>(stop: &Stop, teller: &Teller<W>) -> bool {
    let packets = stop.packets.is_some_and(|count| teller.packets() >= count);
    packets
        || stop
            .flows
            .is_some_and(|count| teller.flows_ended() >= count)
}
