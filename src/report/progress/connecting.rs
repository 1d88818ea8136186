//! Logs the progress of a run that is connecting, so that a run that has not begun yet is not
//! silent.

use std::time::{Duration, Instant};

use log::info;

use crate::load::ProgressSnapshot;
use crate::load::plan::Plan;
use crate::units::{counted, grouped};

/// The expected time of connecting above which the log announces it. A shorter wait needs no
/// explanation.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// Interval of the log lines while connections are being established.
const CONNECTING_LINE: Duration = Duration::from_secs(10);

/// The log lines about a run that is connecting.
#[derive(Debug)]
pub struct Connecting {
    connections: u32,
    begun: Instant,
    /// The time that connecting takes at the rate of `--connect-rate`.
    time: Duration,
    next: Instant,
}

impl Connecting {
    /// Records that connecting begins. If it will take longer than `ANNOUNCED`, logs the expected
    /// time.
    pub fn new(plan: &Plan) -> Connecting {
        let (begun, time) = (Instant::now(), connect_time(plan));
        if let Some(rate) = plan.connect_rate.filter(|_| time > ANNOUNCED) {
            info!(
                "connecting will take {}: {} at {} per second (--connect-rate); messages are sent \
                 once all are established",
                humantime::format_duration(Duration::from_secs(time.as_secs_f64().ceil() as u64)),
                counted(plan.connections, "connection"),
                grouped(rate),
            );
        }
        Connecting {
            connections: plan.connections,
            begun,
            time,
            next: begun + CONNECTING_LINE,
        }
    }

    /// Logs the number of connections that are up, at most once in `CONNECTING_LINE`, until the run
    /// has started.
    pub fn note(&mut self, snapshot: &ProgressSnapshot) {
        let now = Instant::now();
        if snapshot.start.is_some() || now < self.next {
            return;
        }
        self.next = now + CONNECTING_LINE;
        let (up, all) = (
            grouped(snapshot.up),
            counted(self.connections, "connection"),
        );
        let left = match self.time.saturating_sub(self.begun.elapsed()) {
            Duration::ZERO => String::new(),
            left => format!(", {} s left", left.as_secs_f64().ceil()),
        };
        info!("connecting: {up} of {all} established{left}");
    }
}

/// Returns the time that connecting takes at the rate of `--connect-rate`; zero without that
/// option.
pub fn connect_time(plan: &Plan) -> Duration {
    let seconds = |rate| f64::from(plan.connections.saturating_sub(1)) / f64::from(rate);
    Duration::from_secs_f64(plan.connect_rate.map_or(0.0, seconds))
}
