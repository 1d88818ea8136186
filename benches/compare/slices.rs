//! Side by side: slices of time that alternate between the contenders, and are compared cycle by
//! cycle, since the machine's speed drifts, and drifts for all. After a few cycles all of them are
//! started anew, and each such start gives one ratio: a program differs from itself by some
//! hundredths between two starts, which no number of slices of one start averages out.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::client::Report;
use crate::common::machine;
use crate::contender::{Client, Contender, Cores, Server};
use crate::ratio::{self, Median};

/// The least length of a slice, and how many median round trips it must hold.
const SLICE: Duration = Duration::from_millis(200);
const SLICE_ROUND_TRIPS: u32 = 10;

/// So close the ends of an interval are to be.
pub const CLOSE: f64 = 0.05;

/// How long it may go on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cores: Cores,
    /// At least so many starts.
    pub starts: usize,
    /// Cycles of a start, when slices have their least length; fewer when they are longer.
    pub cycles: usize,
    /// No more starts after this time, or after twice as long where there is no interval yet.
    pub bound: Duration,
    /// The part of the cores' time that others may take in a slice that counts.
    pub foreign_most: f64,
}

/// Whose CPU time is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// What a slice showed.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    report: Report,
    server_cpu: Duration,
}

/// The slices of one contender, by start and cycle; `None`: others used the CPUs.
#[derive(Debug)]
pub struct Series {
    pub name: String,
    starts: Vec<Vec<Option<Slice>>>,
    /// What others used of the CPUs in each slice.
    foreign: Vec<f64>,
}

/// What came of a comparison. The first series is what the others are measured by.
#[derive(Debug)]
pub struct Comparison {
    pub case: Case,
    pub side: Side,
    pub series: Vec<Series>,
    /// Who could not take part, and why.
    pub absent: Vec<(String, String)>,
    /// The length of a slice.
    pub slice: Duration,
}

/// Compares servers under one load, by their CPU time, or clients, by theirs.
pub fn compare(
    case: Case,
    side: Side,
    contenders: &[(Server, Client, String)],
    settings: &Settings,
) -> anyhow::Result<Comparison> {
    let end = Instant::now() + settings.bound;
    let mut comparison = Comparison {
        case,
        side,
        series: Vec::new(),
        absent: Vec::new(),
        slice: SLICE,
    };
    let (mut present, mut running) = (Vec::new(), Vec::new());
    for (server, client, name) in contenders {
        // Who cannot be had at all is told, not an error.
        match Contender::start(*server, *client, case, settings.cores) {
            Ok(contender) => {
                present.push((*server, *client));
                running.push(contender);
                comparison.series.push(Series::new(name));
            }
            Err(why) => comparison.absent.push((name.clone(), format!("{why:#}"))),
        }
    }
    // An interval is worth as much time again.
    let last = end + settings.bound;
    while !running.is_empty() {
        comparison.measure(&mut running, settings)?;
        let now = Instant::now();
        let is_over = now >= last || now >= end && comparison.has_intervals();
        running.clear();
        if is_over || comparison.is_resolved(settings.starts) {
            break;
        }
        for &(server, client) in &present {
            running.push(Contender::start(server, client, case, settings.cores)?);
        }
    }
    Ok(comparison)
}

/// One slice of one contender, and the part of the CPUs' time that others used meanwhile.
fn slice(
    contender: &mut Contender,
    length: Duration,
    cores: Cores,
) -> anyhow::Result<(Slice, f64)> {
    let cores = [cores.server, cores.client];
    let ours = |contender: &Contender| -> anyhow::Result<Duration> {
        Ok(contender.server.cpu()? + contender.client.cpu()? + machine::own_cpu()?)
    };
    let (start, idle) = (Instant::now(), machine::idle(&cores)?);
    let (ours_before, server_before) = (ours(contender)?, contender.server.cpu()?);
    let report = contender.load(length.as_millis() as u64, u64::MAX)?;
    let server_cpu = contender.server.cpu()? - server_before;
    let ours = ours(contender)? - ours_before;
    let idle = machine::idle(&cores)?.saturating_sub(idle);
    let cores_time = start.elapsed() * cores.len() as u32;
    let foreign = cores_time.saturating_sub(idle).saturating_sub(ours);
    let foreign = foreign.as_secs_f64() / cores_time.as_secs_f64();
    Ok((Slice { report, server_cpu }, foreign))
}

impl Comparison {
    /// Some cycles of all contenders, which were just started.
    fn measure(&mut self, running: &mut [Contender], settings: &Settings) -> anyhow::Result<()> {
        for contender in &mut *running {
            // The first slice warms it up, and tells how long the others must be.
            let report = contender.load(self.slice.as_millis() as u64, u64::MAX)?;
            self.slice = self.slice.max(report.p50 * SLICE_ROUND_TRIPS);
        }
        let number = self.starts();
        for series in &mut self.series {
            series.starts.push(Vec::new());
        }
        let cycles = (SLICE * settings.cycles as u32).div_duration_f64(self.slice);
        let cycles = cycles.ceil() as usize;
        for round in number * cycles..(number + 1) * cycles {
            for place in 0..running.len() {
                // Nobody is always the first, nor always behind the same one.
                let place = match round % 2 {
                    0 => place,
                    _ => running.len() - place,
                };
                let turn = (round + place) % running.len();
                let (slice, foreign) = slice(&mut running[turn], self.slice, settings.cores)?;
                let counts = foreign <= settings.foreign_most;
                self.series[turn].add(counts.then_some(slice), foreign);
            }
        }
        Ok(())
    }

    /// Starts so far.
    pub fn starts(&self) -> usize {
        self.series.first().map_or(0, |base| base.starts.len())
    }

    /// Whether the ratio of every contender to the first is known from so many starts, and closely.
    pub fn is_resolved(&self, starts: usize) -> bool {
        let is_close = |number: usize| {
            let ratios = self.ratios(number);
            ratios.len() >= starts && Median::of(&ratios).is_some_and(|it| it.is_within(CLOSE))
        };
        self.starts() >= starts && (1..self.series.len()).all(is_close)
    }

    /// Whether there is an interval for every ratio.
    fn has_intervals(&self) -> bool {
        (1..self.series.len()).all(|number| Median::of(&self.ratios(number)).is_some())
    }

    /// What others used of the CPUs in a slice, at the median.
    pub fn foreign(&self) -> Option<f64> {
        let all = self.series.iter().flat_map(|series| &series.foreign);
        ratio::middle(&all.copied().collect::<Vec<_>>())
    }

    /// The CPU time a message as a multiple of the first contender's: the median of each start.
    pub fn ratios(&self, number: usize) -> Vec<f64> {
        let base = self.series.first().map_or(&[][..], |base| &base.starts);
        let starts = base.iter().zip(&self.series[number].starts);
        starts
            .filter_map(|(base, other)| ratio::middle(&self.pairs(base, other)))
            .collect()
    }

    /// The ratios of the cycles of one start.
    fn pairs(&self, base: &[Option<Slice>], other: &[Option<Slice>]) -> Vec<f64> {
        let pairs = base.iter().zip(other);
        pairs
            .filter_map(|(base, other)| {
                Some(other.as_ref()?.cost(self.side) / base.as_ref()?.cost(self.side))
            })
            .collect()
    }
}

impl Series {
    fn new(name: &str) -> Series {
        Series {
            name: name.to_string(),
            starts: Vec::new(),
            foreign: Vec::new(),
        }
    }

    /// Adds a slice to the last start.
    fn add(&mut self, slice: Option<Slice>, foreign: f64) {
        if let Some(start) = self.starts.last_mut() {
            start.push(slice);
        }
        self.foreign.push(foreign);
    }

    /// Slices that do not count.
    pub fn discarded(&self) -> usize {
        self.slices().filter(|slice| slice.is_none()).count()
    }

    /// Slices that count.
    pub fn kept(&self) -> usize {
        self.slices().flatten().count()
    }

    /// The median over the slices that count.
    pub fn median(&self, figure: impl Fn(&Slice) -> f64) -> Option<f64> {
        let figures: Vec<f64> = self.slices().flatten().map(figure).collect();
        ratio::middle(&figures)
    }

    fn slices(&self) -> impl Iterator<Item = &Option<Slice>> {
        self.starts.iter().flatten()
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

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
