//! The live line of a load run, on a terminal only: nothing of it goes anywhere else.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::plan::{Plan, Stop};
use crate::load::{Snapshot, Stage};
use crate::report::units::short;

/// How often the line is drawn: often enough to look alive, too seldom to cost anything.
pub const TICK: Duration = Duration::from_millis(200);

/// The line. It vanishes when this is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections: u32,
    stop: Stop,
    last: Option<(Duration, u64)>,
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
        })
    }

    /// Draws what a look at the run showed.
    pub fn show(&mut self, now: &Snapshot) {
        let rate = self.rate(now);
        let p99 = now.p99.map_or("-".to_string(), short);
        let line = match now.stage {
            Stage::Connecting => {
                format!(
                    "connecting: {}/{} up",
                    now.up,
                    HumanCount(self.connections.into())
                )
            }
            Stage::Running => format!(
                "{} connections, {} messages/s, p99 {p99}, {}",
                HumanCount(now.up.into()),
                HumanCount(rate),
                self.left(now),
            ),
            Stage::Draining => "waiting for what is in flight".to_string(),
            Stage::Closing | Stage::Done => "closing".to_string(),
        };
        self.bar.set_message(line);
        self.bar.tick();
    }

    /// Messages a second since the last look.
    fn rate(&mut self, now: &Snapshot) -> u64 {
        let (before, verified) = self.last.unwrap_or_default();
        self.last = Some((now.running, now.verified));
        let seconds = now.running.saturating_sub(before).as_secs_f64();
        if seconds > 0.0 {
            ((now.verified - verified) as f64 / seconds) as u64
        } else {
            0
        }
    }

    fn left(&self, now: &Snapshot) -> String {
        match self.stop {
            Stop::After(duration) => {
                let left = duration.saturating_sub(now.running);
                format!("{} s left", left.as_secs_f64().ceil())
            }
            Stop::Messages(messages) => {
                format!(
                    "{} messages left",
                    HumanCount(messages.saturating_sub(now.verified))
                )
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
