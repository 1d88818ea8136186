//! Shows the progress of a load run: on a terminal as a live line, which is written nowhere else;
//! without a terminal as an occasional log line while connections are being established, so that a
//! run that has not begun yet is not silent.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::info;

use crate::load::ProgressSnapshot;
use crate::load::plan::{Plan, Stop};
use crate::load::results::recorder::Interval;
use crate::report::columns::width;
use crate::sys::terminal;
use crate::units::{counted, grouped, short};

/// The expected time of connecting above which the log announces it. A shorter wait needs no
/// explanation.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// Interval of the log lines while connections are being established.
const CONNECTING_LINE: Duration = Duration::from_secs(10);

/// Returns the time that connecting takes at the rate of `--connect-rate`; zero without that
/// option.
fn connect_time(plan: &Plan) -> Duration {
    let seconds = |rate| f64::from(plan.connections - 1) / f64::from(rate);
    Duration::from_secs_f64(plan.connect_rate.map_or(0.0, seconds))
}

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
        let left = left(self.begun, self.time);
        let (up, all) = (
            grouped(snapshot.up),
            counted(self.connections, "connection"),
        );
        info!("connecting: {up} of {all} established{left}");
    }
}

/// Returns the rest of a time that began at `begun`, as text to append to a line; empty when none
/// is left.
fn left(begun: Instant, time: Duration) -> String {
    match time.saturating_sub(begun.elapsed()) {
        Duration::ZERO => String::new(),
        left => format!(", {} s left", left.as_secs_f64().ceil()),
    }
}

/// The progress line on a terminal. It is erased when this is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections: u32,
    begun: Instant,
    connect_time: Duration,
    stop: Stop,
    last: Option<(Instant, u64)>,
    p99: String,
}

impl Progress {
    /// Returns a line on standard error; `None` when that is not a terminal.
    pub fn new(plan: &Plan) -> Option<Progress> {
        if !stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Some(Progress {
            bar,
            connections: plan.connections,
            begun: Instant::now(),
            connect_time: connect_time(plan),
            stop: plan.stop,
            last: None,
            p99: String::new(),
        })
    }

    /// Stores the 99th percentile of the response time in an interval, which the line then shows.
    pub fn note(&mut self, interval: &Interval) {
        let distribution = interval.response.distribution();
        let p99 = distribution.and_then(|all| all.percentile(99.0));
        self.p99 = p99.map_or(String::new(), |found| {
            let sign = if found.at_least { ">= " } else { "" };
            format!("p99 {sign}{}", short(found.value))
        });
    }

    /// Draws a snapshot of the run.
    pub fn show(&mut self, snapshot: &ProgressSnapshot) {
        let parts = match snapshot.start {
            None => {
                let (up, all) = (grouped(snapshot.up), grouped(self.connections));
                let left = left(self.begun, self.connect_time);
                vec![format!("connecting: {up}/{all} up{left}")]
            }
            Some(start) => vec![
                format!("{} messages/s", grouped(self.rate(snapshot))),
                self.left(start.elapsed(), snapshot.verified),
                self.p99.clone(),
                counted(snapshot.up, "connection").to_string(),
            ],
        };
        self.bar
            .set_message(fitting(parts, terminal::columns(&stderr())));
        self.bar.tick();
    }

    /// Returns the number of verified messages a second since the previous snapshot.
    fn rate(&mut self, snapshot: &ProgressSnapshot) -> u64 {
        let now = Instant::now();
        let (before, verified) = self
            .last
            .replace((now, snapshot.verified))
            .unwrap_or((now, 0));
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        if seconds > 0.0 {
            (snapshot.verified.saturating_sub(verified) as f64 / seconds) as u64
        } else {
            0
        }
    }

    fn left(&self, running: Duration, verified: u64) -> String {
        match self.stop {
            Stop::After(duration) => match duration.saturating_sub(running) {
                Duration::ZERO => "waiting for replies and for connections to close".to_string(),
                left => format!("{} s left", left.as_secs_f64().ceil()),
            },
            Stop::Messages(messages) => match messages.saturating_sub(verified) {
                0 => "waiting for connections to close".to_string(),
                left => format!("{} left", counted(left, "message")),
            },
        }
    }
}

/// Joins as many of the parts as fit into one row, from the first on.
fn fitting(parts: Vec<String>, columns: Option<usize>) -> String {
    let mut line = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let gap = if line.is_empty() { "" } else { ", " };
        let needed = width(&line) + gap.len() + width(part);
        if !line.is_empty() && columns.is_some_and(|columns| needed > columns) {
            break;
        }
        line.push_str(gap);
        line.push_str(part);
    }
    line
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        let parts = || {
            let parts = ["1,000 messages/s", "3 s left", "", "1 connection"];
            parts.map(str::to_string).to_vec()
        };
        let whole = "1,000 messages/s, 3 s left, 1 connection";
        assert_eq!(fitting(parts(), None), whole);
        assert_eq!(fitting(parts(), Some(40)), whole);
        assert_eq!(fitting(parts(), Some(39)), "1,000 messages/s, 3 s left");
        assert_eq!(fitting(parts(), Some(20)), "1,000 messages/s");
    }
}
