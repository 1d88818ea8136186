//! The live line of a load run, on a terminal only: nothing of it goes anywhere else.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::Glance;
use crate::load::books::Interval;
use crate::load::plan::{Plan, Stop};
use crate::units::short;

/// The line. It vanishes when this is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections: u32,
    stop: Stop,
    last: Option<(Instant, u64)>,
    p99: String,
}

impl Progress {
    /// A line on standard error; `None` when that is not a terminal.
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
            stop: plan.stop,
            last: None,
            p99: String::new(),
        })
    }

    /// Keeps what the last interval showed.
    pub fn note(&mut self, interval: &Interval) {
        let distribution = interval.response.distribution();
        let p99 = distribution.and_then(|all| all.percentile(99.0));
        self.p99 = p99.map_or(String::new(), |found| {
            let sign = if found.bound.at_least { ">= " } else { "" };
            format!(", p99 {sign}{}", short(found.bound.value))
        });
    }

    /// Draws what a look at the run showed.
    pub fn show(&mut self, glance: &Glance) {
        let up = HumanCount(glance.up.into());
        let line = match glance.start {
            None => format!(
                "connecting: {up}/{} up",
                HumanCount(self.connections.into())
            ),
            Some(start) => format!(
                "{up} connections, {} messages/s{}, {}",
                HumanCount(self.rate(glance)),
                self.p99,
                self.left(start.elapsed(), glance.verified),
            ),
        };
        self.bar.set_message(line);
        self.bar.tick();
    }

    /// Messages a second since the last look.
    fn rate(&mut self, glance: &Glance) -> u64 {
        let now = Instant::now();
        let (before, verified) = self
            .last
            .replace((now, glance.verified))
            .unwrap_or((now, 0));
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        if seconds > 0.0 {
            (glance.verified.saturating_sub(verified) as f64 / seconds) as u64
        } else {
            0
        }
    }

    fn left(&self, running: Duration, verified: u64) -> String {
        match self.stop {
            Stop::After(duration) => match duration.saturating_sub(running) {
                Duration::ZERO => "waiting for what is outstanding".to_string(),
                left => format!("{} s left", left.as_secs_f64().ceil()),
            },
            Stop::Messages(messages) => {
                let left = messages.saturating_sub(verified);
                format!("{} messages left", HumanCount(left))
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
