//! Side by side: each contender is compared with the first one, the two alone. Slices of time
//! alternate between them, and are compared cycle by cycle, since the machine's speed drifts, and
//! drifts for both. After some cycles both are started anew, and each such start gives one ratio: a
//! program differs from itself by some hundredths between two starts, which no number of slices of
//! one start averages out.
//!
//! Two slices of one and the same server, one behind the other, differ by 10 to 15 % (standard
//! deviation), be they of 20 or of 200 ms: client and server are about as fast, and which of them
//! has its work waiting in large batches, and which one has it trickling in, changes from slice to
//! slice (the same server made 0.002 to 0.7 waits a message). So slices are short, and many; and
//! two servers alone have more of them in the same time than six that take turns.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::case::Case;
use crate::client::Report;
use crate::common::machine;
use crate::contender::{Client, Contender, Cores, Server};
use crate::ratio::{self, Median};

/// How many median round trips a slice must hold.
const SLICE_ROUND_TRIPS: u32 = 10;

/// So close the ends of an interval are to be.
pub const CLOSE: f64 = 0.05;

/// How long it may go on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cores: Cores,
    /// At least so many starts.
    pub starts: usize,
    /// Of each contender in a start: so many slices as fit.
    pub length: Duration,
    /// No more starts of a pair after this time, or after twice as long where there is no interval
    /// yet.
    pub bound: Duration,
    /// The part of the cores' time that others may take in a start that counts.
    pub foreign_most: f64,
}

/// Whose CPU time is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// Who takes part: the server, its client, and how the tables call the two.
pub type Entrant = (Server, Client, String);

/// What a slice showed.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    report: Report,
    server_cpu: Duration,
}

/// What came of a comparison.
#[derive(Debug)]
pub struct Comparison {
    pub case: Case,
    pub side: Side,
    /// What the others are measured by.
    pub base: String,
    pub pairs: Vec<Pair>,
    /// Who could not take part, and why.
    pub absent: Vec<(String, String)>,
}

/// One contender beside the base.
#[derive(Debug)]
pub struct Pair {
    pub name: String,
    side: Side,
    /// Those that count.
    starts: Vec<Start>,
    /// Starts that do not: others used the CPUs.
    pub discarded: usize,
    /// What others used of the CPUs in each start.
    foreign: Vec<f64>,
}

/// What one start of both showed.
#[derive(Debug)]
struct Start {
    /// The length of a slice.
    slice: Duration,
    /// The slices of the base and of the other.
    cycles: Vec<[Slice; 2]>,
}

/// Compares servers under one load, by their CPU time, or clients, by theirs.
pub fn compare(
    case: Case,
    side: Side,
    entrants: &[Entrant],
    settings: &Settings,
) -> anyhow::Result<Comparison> {
    let [base, others @ ..] = entrants else {
        bail!("nobody is named");
    };
    if others.is_empty() {
        bail!("a comparison takes two: the first is what the others are measured by");
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
        // Who cannot be had at all is told, not an error.
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

fn start(entrant: &Entrant, case: Case, settings: &Settings) -> anyhow::Result<Contender> {
    Contender::start(entrant.0, entrant.1, case, settings.cores)
}

impl Pair {
    /// Measures two that were just started, and starts them anew until enough is known.
    fn new(
        side: Side,
        case: Case,
        entrants: [&Entrant; 2],
        mut running: [Contender; 2],
        settings: &Settings,
    ) -> anyhow::Result<Pair> {
        let end = Instant::now() + settings.bound;
        // An interval is worth as much time again.
        let last = end + settings.bound;
        let mut pair = Pair {
            name: entrants[1].2.clone(),
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
                start(entrants[0], case, settings)?,
                start(entrants[1], case, settings)?,
            ];
        }
    }

    /// Some cycles of both, which were just started.
    fn measure(&mut self, running: &mut [Contender; 2], settings: &Settings) -> anyhow::Result<()> {
        let mut slice = self.side.least_slice();
        for contender in &mut *running {
            // The first slice warms it up, and tells how long the others must be.
            let p50 = contender.slice(slice)?.report.p50;
            slice = slice.max(p50 * SLICE_ROUND_TRIPS);
        }
        let count = settings.length.div_duration_f64(slice).ceil() as usize;
        let mut cycles = Vec::with_capacity(count);
        let before = Use::so_far(running, settings.cores)?;
        for number in 0..count {
            let [base, other] = &mut *running;
            // Neither is always the first.
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

    /// The CPU time a message as a multiple of the base's: the median of the starts, each with the
    /// median of its cycles. `None`: there are too few.
    pub fn ratio(&self) -> Option<Median> {
        let of_start = |start: &Start| {
            let ratios = start.cycles.iter();
            let ratios = ratios.map(|[base, other]| other.cost(self.side) / base.cost(self.side));
            ratio::middle(&ratios.collect::<Vec<_>>())
        };
        let ratios: Vec<f64> = self.starts.iter().filter_map(of_start).collect();
        Median::of(&ratios)
    }

    /// Whether the ratio is known from so many starts, and closely.
    pub fn is_resolved(&self, starts: usize) -> bool {
        let is_close = |ratio: Median| ratio.is_within(CLOSE);
        self.starts.len() >= starts && self.ratio().is_some_and(is_close)
    }

    /// Starts that count.
    pub fn starts(&self) -> usize {
        self.starts.len()
    }

    /// What others used of the CPUs in a start, at the median.
    pub fn foreign(&self) -> Option<f64> {
        ratio::middle(&self.foreign)
    }

    /// The length of a slice, at the median of the starts.
    pub fn slice(&self) -> Option<Duration> {
        let lengths: Vec<f64> = self
            .starts
            .iter()
            .map(|it| it.slice.as_secs_f64())
            .collect();
        ratio::middle(&lengths).map(Duration::from_secs_f64)
    }

    /// The slices of the base.
    pub fn base(&self) -> impl Iterator<Item = &Slice> {
        self.cycles().map(|[base, _]| base)
    }

    /// The slices of the other.
    pub fn other(&self) -> impl Iterator<Item = &Slice> {
        self.cycles().map(|[_, other]| other)
    }

    fn cycles(&self) -> impl Iterator<Item = &[Slice; 2]> {
        self.starts.iter().flat_map(|start| &start.cycles)
    }
}

impl Side {
    /// The least length of a slice: short, so that there are many. The load generator opens its
    /// connections anew for each.
    fn least_slice(self) -> Duration {
        Duration::from_millis(match self {
            Side::Server => 50,
            Side::Client => 200,
        })
    }
}

impl Contender {
    /// One slice of it.
    fn slice(&mut self, length: Duration) -> anyhow::Result<Slice> {
        let before = self.server.cpu()?;
        let report = self.load(length.as_millis() as u64, u64::MAX)?;
        let server_cpu = self.server.cpu()? - before;
        Ok(Slice { report, server_cpu })
    }
}

impl Slice {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.report.messages as f64 / self.report.elapsed.as_secs_f64()
    }

    /// CPU time a message in microseconds.
    pub fn cost(&self, side: Side) -> f64 {
        let cpu = match side {
            Side::Server => self.server_cpu,
            Side::Client => self.report.cpu,
        };
        micros(cpu) / self.report.messages.max(1) as f64
    }

    /// The median round trip in microseconds.
    pub fn p50(&self) -> f64 {
        micros(self.report.p50)
    }

    /// The 99th percentile in microseconds.
    pub fn p99(&self) -> f64 {
        micros(self.report.p99)
    }
}

/// The time of two cores in which they were not idle, and the part of it that is ours.
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

    /// The part of both cores' time that others have used since then.
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
