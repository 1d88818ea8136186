//! Side by side: slices of time that alternate between the contenders, and are compared cycle by
//! cycle, since the machine's speed drifts, and drifts for all.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::client::Report;
use crate::common::machine;
use crate::contender::{Client, Contender, Cores, Server};
use crate::ratio::Median;

/// The least length of a slice, and how many median round trips it must hold.
const SLICE: Duration = Duration::from_millis(200);
const SLICE_ROUND_TRIPS: u32 = 10;

/// So close the ends of an interval are to be.
pub const CLOSE: f64 = 0.05;

/// How long it may go on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub cores: Cores,
    /// At least so many cycles.
    pub cycles: usize,
    /// No more cycles after this time.
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

/// The slices of one contender, by cycle; `None`: others used the CPUs.
#[derive(Debug)]
pub struct Series {
    pub name: String,
    slices: Vec<Option<Slice>>,
    /// What others used of the CPUs in each.
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
    let mut running = Vec::new();
    let mut comparison = Comparison {
        case,
        side,
        series: Vec::new(),
        absent: Vec::new(),
        slice: SLICE,
    };
    for (server, client, name) in contenders {
        match Contender::start(*server, *client, case, settings.cores) {
            Ok(contender) => {
                running.push(contender);
                comparison.series.push(Series {
                    name: name.clone(),
                    slices: Vec::new(),
                    foreign: Vec::new(),
                });
            }
            Err(why) => comparison.absent.push((name.clone(), format!("{why:#}"))),
        }
    }
    // The first slice of each warms it up, and the second tells how long the others must be.
    for contender in &mut running {
        contender.load(SLICE.as_millis() as u64, u64::MAX)?;
        let report = contender.load(SLICE.as_millis() as u64, u64::MAX)?;
        comparison.slice = comparison.slice.max(report.p50 * SLICE_ROUND_TRIPS);
    }
    let end = Instant::now() + settings.bound;
    for cycle in 0.. {
        let enough = cycle >= settings.cycles && comparison.is_resolved(settings.cycles);
        if enough || Instant::now() >= end {
            break;
        }
        for place in 0..running.len() {
            let number = (cycle + place) % running.len();
            let (slice, foreign) = slice(&mut running[number], comparison.slice, settings.cores)?;
            let is_ours = foreign <= settings.foreign_most;
            let series = &mut comparison.series[number];
            series.slices.push(is_ours.then_some(slice));
            series.foreign.push(foreign);
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
    /// Whether the ratio of every contender to the first is known from so many pairs, and closely.
    pub fn is_resolved(&self, pairs: usize) -> bool {
        (1..self.series.len()).all(|number| {
            let ratios = self.ratios(number);
            ratios.len() >= pairs && Median::of(&ratios).is_some_and(|it| it.is_within(CLOSE))
        })
    }

    /// What others used of the CPUs in a slice, at the median.
    pub fn foreign(&self) -> Option<f64> {
        let all = self.series.iter().flat_map(|series| &series.foreign);
        Some(Median::of(&all.copied().collect::<Vec<_>>())?.middle)
    }

    /// The CPU time a message as multiples of the first contender's in the same cycle.
    pub fn ratios(&self, number: usize) -> Vec<f64> {
        let base = self.series.first().map_or(&[][..], |base| &base.slices);
        let pairs = base.iter().zip(&self.series[number].slices);
        pairs
            .filter_map(|(base, other)| {
                Some(other.as_ref()?.cost(self.side) / base.as_ref()?.cost(self.side))
            })
            .collect()
    }
}

impl Series {
    /// Slices that do not count.
    pub fn discarded(&self) -> usize {
        self.slices.iter().filter(|slice| slice.is_none()).count()
    }

    /// Slices that count.
    pub fn kept(&self) -> usize {
        self.slices.len() - self.discarded()
    }

    /// The median over the slices that count.
    pub fn median(&self, figure: impl Fn(&Slice) -> f64) -> Option<Median> {
        let figures: Vec<f64> = self.slices.iter().flatten().map(figure).collect();
        Median::of(&figures)
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
