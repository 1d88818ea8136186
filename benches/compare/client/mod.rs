//! The bare client: a process that loads one server, and sleeps between its slices. It does not
//! verify replies, so that it costs little compared with the server.
//!
//! It reads commands from standard input and answers each with a line:
//!
//! ```text
//!   (started)    ready
//!   200 5000     messages, nanoseconds, CPU nanoseconds, p50 and p99 in nanoseconds, of 200 ms or
//!                5000 messages, whichever was reached first
//! ```
//!
//! A run ends when the last reply has arrived, so nothing is in flight between two runs.

mod churn;
mod steady;

use std::fmt;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::case::Case;
use crate::client::churn::Churn;
use crate::client::steady::Steady;
use crate::common::machine;

const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS: usize = 1024;

/// The longest round trip that is recorded; longer ones count as this.
const LONGEST_NS: u64 = 60_000_000_000;

/// The limits of a run: no message is sent after this time or after this many messages.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    end: Instant,
    messages: u64,
}

/// The result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Number of messages that were answered.
    pub messages: u64,
    /// Time from the first message to the last reply.
    pub elapsed: Duration,
    /// CPU time of the client during the run.
    pub cpu: Duration,
    /// Median of the round trips; 0 if they are not recorded.
    pub p50: Duration,
    /// 99th percentile of the round trips.
    pub p99: Duration,
}

/// The histogram of the round trips, if they are recorded.
type Times = Option<Histogram<u64>>;

/// Carries out the commands on standard input until it ends.
pub fn run(target: SocketAddr, case: Case, records: bool) -> anyhow::Result<()> {
    let mut load: Box<dyn Load> = if case.churn {
        Box::new(Churn::new(target, case)?)
    } else {
        Box::new(Steady::connect(target, case)?)
    };
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (milliseconds, messages) = line.split_once(' ').context("two numbers")?;
        let mut times = match records {
            true => Some(Histogram::new_with_bounds(1, LONGEST_NS, 3)?),
            false => None,
        };
        let cpu = machine::own_cpu()?;
        let start = Instant::now();
        let bounds = Bounds {
            end: start + Duration::from_millis(milliseconds.parse()?),
            messages: messages.parse()?,
        };
        let messages = load.run(bounds, &mut times)?;
        let quantile = |q| {
            let times = times.as_ref();
            Duration::from_nanos(times.map_or(0, |times| times.value_at_quantile(q)))
        };
        let report = Report {
            messages,
            elapsed: start.elapsed(),
            cpu: machine::own_cpu()? - cpu,
            p50: quantile(0.5),
            p99: quantile(0.99),
        };
        println!("{report}");
    }
    Ok(())
}

/// A kind of load.
trait Load {
    /// Sends messages and receives replies; returns how many messages were answered.
    fn run(&mut self, bounds: Bounds, times: &mut Times) -> anyhow::Result<u64>;
}

/// Records a round trip.
fn record(times: &mut Times, sent: Instant, now: Instant) {
    if let Some(times) = times {
        times.saturating_record((now - sent).as_nanos() as u64);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { messages, .. } = self;
        let [elapsed, cpu, p50, p99] =
            [self.elapsed, self.cpu, self.p50, self.p99].map(|time| time.as_nanos());
        write!(f, "{messages} {elapsed} {cpu} {p50} {p99}")
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Report> {
        let numbers: Vec<u64> = line
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{line:?} is no report"))?;
        let [messages, elapsed, cpu, p50, p99] = numbers[..] else {
            anyhow::bail!("{line:?} is no report");
        };
        let [elapsed, cpu, p50, p99] = [elapsed, cpu, p50, p99].map(Duration::from_nanos);
        Ok(Report {
            messages,
            elapsed,
            cpu,
            p50,
            p99,
        })
    }
}
