//! Compares each contender with the first one, the base, while only these two run. Slices of time
//! alternate between the two, and the ratio is computed per cycle of two slices: the speed of the
//! machine drifts, but within a cycle it is nearly the same for both. After some cycles both are
//! started anew, and each such start gives one ratio: a program differs from itself by some
//! hundredths between two starts, and no number of slices of one start averages that out.
//!
//! Two consecutive slices of one and the same server differ by 10 to 15 % (standard deviation),
//! whether they last 20 or 200 ms. The reason: client and server are about equally fast, and from
//! slice to slice it changes whether the work arrives at a server in large batches or message by
//! message (the same server made 0.002 to 0.7 waits per message). So slices are short, and there
//! are many. With two servers at a time, each gets more slices in the same time than with six that
//! take turns.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::case::Case;
use crate::client::Report;
use crate::common::machine;
use crate::contender::{Client, Contender, Cores, Server};
use crate::ratio::{self, Median};

/// Number of median round trips that a slice must be able to hold.
const SLICE_ROUND_TRIPS: u32 = 10;

/// Maximum distance of either end of the interval from the median, as a part of the median.
pub const CLOSE: f64 = 0.05;

/// The cores and limits of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cores: Cores,
    /// Minimum number of starts.
    pub starts: usize,
    /// Time of each contender in a start, which is filled with slices.
    pub length: Duration,
    /// Time after which a pair is not started again; twice as long if there is no interval yet.
    pub bound: Duration,
    /// Maximum part of the cores' time that other processes may use in a start that counts.
    pub foreign_most: f64,
}

/// The process whose CPU time is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// A participant: the server, its client, and the name of the two in the tables.
pub type Participant = (Server, Client, String);

/// The measurements of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    report: Report,
    server_cpu: Duration,
}

/// The result of a comparison.
#[derive(Debug)]
pub struct Comparison {
    pub case: Case,
    pub side: Side,
    /// The name of the participant that the others are compared with.
    pub base: String,
    pub pairs: Vec<Pair>,
    /// The participants that are not available, each with the reason.
    pub absent: Vec<(String, String)>,
}

/// One contender beside the base.
#[derive(Debug)]
pub struct Pair {
    pub name: String,
    side: Side,
    /// The starts that count.
    starts: Vec<Start>,
    /// Number of starts that do not count, because other processes used the CPUs.
    pub discarded: usize,
    /// The part of the CPU time that other processes used in each start.
    foreign: Vec<f64>,
}

/// The measurements of one start of both contenders.
#[derive(Debug)]
struct Start {
    /// The length of a slice.
    slice: Duration,
    /// The slices of the base and of the other contender.
    cycles: Vec<[Slice; 2]>,
}

/// Compares servers by their CPU time, or clients by theirs, under one load.
pub fn compare(
    case: Case,
    side: Side,
    participants: &[Participant],
    settings: &Settings,
) -> anyhow::Result<Comparison> {
    let [base, others @ ..] = participants else {
        bail!("no contender is named");
    };
    if others.is_empty() {
        bail!("a comparison needs two contenders: the first is the base of the ratios");
    }
    let mut comparison = Comparison {
        case,
        side,
        base: base.2.clone(),
        pairs: Vec::new(),
        absent: Vec::new(),
    };
    for other in others {
        let both = [base, other];
        let first = start(base, case, settings)?;
        // A participant that is not available at all is listed as such; that is no error.
        match start(other, case, settings) {
            Ok(second) => {
                comparison
                    .pairs
                    .push(Pair::new(side, case, both, [first, second], settings)?)
            }
            Err(why) => comparison
                .absent
                .push((other.2.clone(), format!("{why:#}"))),
        }
    }
    Ok(comparison)
}

fn start(participant: &Participant, case: Case, settings: &Settings) -> anyhow::Result<Contender> {
    Contender::start(participant.0, participant.1, case, settings.cores)
}

impl Pair {
    /// Measures two contenders that were just started, and restarts them until the ratio is known
    /// well enough or the time is over.
    fn new(
        side: Side,
        case: Case,
        participants: [&Participant; 2],
        mut running: [Contender; 2],
        settings: &Settings,
    ) -> anyhow::Result<Pair> {
        let end = Instant::now() + settings.bound;
        // To get an interval at all, as much time again may be spent.
        let last = end + settings.bound;
        let mut pair = Pair {
            name: participants[1].2.clone(),
            side,
            starts: Vec::new(),
            discarded: 0,
            foreign: Vec::new(),
        };
        loop {
            pair.measure(&mut running, settings)?;
            drop(running);
            let now = Instant::now();
            let is_over = now >= last || now >= end && pair.ratio().is_some();
            if is_over || pair.is_resolved(settings.starts) {
                return Ok(pair);
            }
            running = [
                start(participants[0], case, settings)?,
                start(participants[1], case, settings)?,
            ];
        }
    }

    /// Measures some cycles of two contenders that were just started.
    fn measure(&mut self, running: &mut [Contender; 2], settings: &Settings) -> anyhow::Result<()> {
        let mut slice = self.side.least_slice();
        for contender in &mut *running {
            // The first slice warms the contender up, and shows how long the others must be.
            let p50 = contender.slice(slice)?.report.p50;
            slice = slice.max(p50 * SLICE_ROUND_TRIPS);
        }
        let count = settings.length.div_duration_f64(slice).ceil() as usize;
        let mut cycles = Vec::with_capacity(count);
        let before = Use::so_far(running, settings.cores)?;
        for number in 0..count {
            let [base, other] = &mut *running;
            // The two take turns in being first.
            cycles.push(if number % 2 == 0 {
                [base.slice(slice)?, other.slice(slice)?]
            } else {
                let other = other.slice(slice)?;
                [base.slice(slice)?, other]
            });
        }
        let foreign = Use::so_far(running, settings.cores)?.foreign_since(&before);
        self.foreign.push(foreign);
        if foreign > settings.foreign_most {
            self.discarded += 1;
        } else {
            self.starts.push(Start { slice, cycles });
        }
        Ok(())
    }

    /// Returns the CPU time per message as a multiple of the base's: the median over the starts of
    /// the median over a start's cycles. `None`: there are too few starts.
    pub fn ratio(&self) -> Option<Median> {
        let of_start = |start: &Start| {
            let ratios = start.cycles.iter();
            let ratios = ratios.map(|[base, other]| other.cost(self.side) / base.cost(self.side));
            ratio::middle(&ratios.collect::<Vec<_>>())
        };
        let ratios: Vec<f64> = self.starts.iter().filter_map(of_start).collect();
        Median::of(&ratios)
    }

    /// Returns whether there are this many starts and the ratio's interval is narrow enough.
    pub fn is_resolved(&self, starts: usize) -> bool {
        let is_close = |ratio: Median| ratio.is_within(CLOSE);
        self.starts.len() >= starts && self.ratio().is_some_and(is_close)
    }

    /// Returns the number of starts that count.
    pub fn starts(&self) -> usize {
        self.starts.len()
    }

    /// Returns the median over the starts of the part of the CPU time that other processes used.
    pub fn foreign(&self) -> Option<f64> {
        ratio::middle(&self.foreign)
    }

    /// Returns the median over the starts of a slice's length.
    pub fn slice(&self) -> Option<Duration> {
        let lengths: Vec<f64> = self
            .starts
            .iter()
            .map(|it| it.slice.as_secs_f64())
            .collect();
        ratio::middle(&lengths).map(Duration::from_secs_f64)
    }

    /// Returns the slices of the base.
    pub fn base(&self) -> impl Iterator<Item = &Slice> {
        self.cycles().map(|[base, _]| base)
    }

    /// Returns the slices of the other contender.
    pub fn other(&self) -> impl Iterator<Item = &Slice> {
        self.cycles().map(|[_, other]| other)
    }

    fn cycles(&self) -> impl Iterator<Item = &[Slice; 2]> {
        self.starts.iter().flat_map(|start| &start.cycles)
    }
}

impl Side {
    /// Returns the minimum length of a slice: short, so that there are many. It is longer for the
    /// load generator, which opens new connections for each slice.
    fn least_slice(self) -> Duration {
        Duration::from_millis(match self {
            Side::Server => 50,
            Side::Client => 200,
        })
    }
}

impl Contender {
    /// Runs one slice of the contender.
    fn slice(&mut self, length: Duration) -> anyhow::Result<Slice> {
        let before = self.server.cpu()?;
        let report = self.load(length.as_millis() as u64, u64::MAX)?;
        let server_cpu = self.server.cpu()? - before;
        Ok(Slice { report, server_cpu })
    }
}

impl Slice {
    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        self.report.messages as f64 / self.report.elapsed.as_secs_f64()
    }

    /// Returns the CPU time per message in microseconds.
    pub fn cost(&self, side: Side) -> f64 {
        let cpu = match side {
            Side::Server => self.server_cpu,
            Side::Client => self.report.cpu,
        };
        micros(cpu) / self.report.messages.max(1) as f64
    }

    /// Returns the median round trip in microseconds.
    pub fn p50(&self) -> f64 {
        micros(self.report.p50)
    }

    /// Returns the 99th percentile of the round trips in microseconds.
    pub fn p99(&self) -> f64 {
        micros(self.report.p99)
    }
}

/// A sample of the idle time of two cores, and of the CPU time of the benchmark's own processes.
struct Use {
    at: Instant,
    idle: Duration,
    ours: Duration,
}

impl Use {
    fn so_far(running: &[Contender], cores: Cores) -> anyhow::Result<Use> {
        let mut ours = machine::own_cpu()?;
        for contender in running {
            ours += contender.server.cpu()? + contender.client.cpu()?;
        }
        Ok(Use {
            at: Instant::now(),
            idle: machine::idle(&[cores.server, cores.client])?,
            ours,
        })
    }

    /// Returns the part of both cores' time that other processes have used since the earlier
    /// sample.
    fn foreign_since(&self, before: &Use) -> f64 {
        let both = 2 * (self.at - before.at);
        let idle = self.idle.saturating_sub(before.idle);
        let foreign = both.saturating_sub(idle + self.ours - before.ours);
        foreign.as_secs_f64() / both.as_secs_f64()
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
