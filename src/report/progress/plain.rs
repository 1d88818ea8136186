//! The progress of a run as lines of text, for a log or a terminal that cannot move its cursor.
//! Pure.

use std::time::Duration;

use crate::load::latency::Latency;
use crate::load::plan::{Plan, Stop};
use crate::load::results::recorder::{Interval, Tag};
use crate::report::progress::figures::{Asked, Figures, rates};
use crate::units::{counted, grouped};

/// The time between two lines unless `--progress plain` asks for one in each interval.
const STEP: Duration = Duration::from_secs(10);

/// The length of a run up to which there are no lines unless `--progress plain` asks for them.
const SHORT: Duration = Duration::from_secs(20);

/// The lines about a run.
#[derive(Debug)]
pub struct PlainLines {
    connections: u32,
    asked: Asked,
    stop: Stop,
    /// The time between two lines; zero: a line for each interval.
    step: Duration,
    /// The time from which the next line is due, after the start of the run.
    next: Duration,
    /// The response times since the last line.
    response: Latency,
    /// The time of the last line, after the start of the run.
    from: Duration,
    /// Number of messages that were verified by then.
    verified: u64,
}

impl PlainLines {
    /// Returns lines for each interval of a run.
    pub fn of_each_interval(plan: &Plan) -> PlainLines {
        PlainLines {
            connections: plan.connections,
            asked: Asked::of(plan),
            stop: plan.stop,
            step: Duration::ZERO,
            next: Duration::ZERO,
            response: Latency::default(),
            from: Duration::ZERO,
            verified: 0,
        }
    }

    /// Returns lines at steps of `STEP`; `None` for a run that is known to be short.
    pub fn in_steps(plan: &Plan) -> Option<PlainLines> {
        let next = match plan.stop {
            Stop::After(duration) if duration <= SHORT => return None,
            Stop::After(_) => STEP,
            Stop::Messages(_) => SHORT,
        };
        Some(PlainLines {
            step: STEP,
            next,
            ..PlainLines::of_each_interval(plan)
        })
    }

    /// Adds an interval. Returns the line about it and the intervals since the last line, if one is
    /// due.
    pub fn note(&mut self, interval: &Interval) -> Option<String> {
        self.response.merge(&interval.response);
        if interval.to < self.next {
            return None;
        }
        let line = self.line(interval);
        if !self.step.is_zero() {
            let steps = interval.to.as_secs() / self.step.as_secs().max(1) + 1;
            self.next = Duration::from_secs(steps.saturating_mul(self.step.as_secs()));
        }
        self.response = Latency::default();
        self.from = interval.to;
        self.verified = interval.identity.counts.verified;
        Some(line)
    }

    fn line(&self, interval: &Interval) -> String {
        let asked = self.asked.between(self.from, interval.to);
        let (phase, asked) = match interval.tag {
            Tag::Warmup => ("warm-up", asked),
            Tag::Run => ("running", asked),
            Tag::Drain => ("ending", None),
        };
        let stage = match interval.tag {
            Tag::Warmup | Tag::Run => self.asked.stage_at(interval.from),
            Tag::Drain => None,
        };
        let verified = interval.identity.counts.verified;
        let seconds = interval.to.saturating_sub(self.from).as_secs_f64();
        let achieved = match seconds > 0.0 {
            true => verified.saturating_sub(self.verified) as f64 / seconds,
            false => 0.0,
        };
        let figures = Figures::new(&self.response, interval);
        let mut parts: Vec<String> = stage.into_iter().collect();
        parts.push(rates(achieved, asked, " messages/s"));
        parts.extend(figures.times());
        let outstanding = counted(figures.outstanding, "message");
        parts.push(format!("{outstanding} outstanding"));
        let all = counted(self.connections, "connection");
        parts.push(format!("{} of {all} up", grouped(interval.up)));
        parts.extend(figures.faults());
        let done = self.done(interval.to, verified);
        format!("{phase}, {done}: {}", parts.join(", "))
    }

    /// Returns the words for the part of the run that is done: `10 s of 60 s`.
    fn done(&self, time: Duration, verified: u64) -> String {
        let time = seconds(time);
        match self.stop {
            Stop::After(duration) => format!("{time} of {}", seconds(duration)),
            Stop::Messages(messages) => {
                let all = counted(messages, "message");
                format!("{time}, {} of {all}", grouped(verified))
            }
        }
    }
}

/// Returns a time in seconds with at most two decimals: `10 s`, `0.25 s`.
fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::load::plan::Pace;
    use crate::load::plan::Pacing;
    use crate::load::plan::schedule::{Arrivals, Rate};
    use crate::load::results::ErrorKind;
    use crate::report::progress::figures::tests::response;

    fn plan(stop: Stop) -> Plan {
        Plan {
            connections: 50,
            ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 1)), stop)
        }
    }

    /// Returns the interval of one second that ends at `to`.
    fn second(to: u64, verified: u64) -> Interval {
        let mut interval = Interval {
            from: Duration::from_secs(to - 1),
            to: Duration::from_secs(to) + Duration::from_micros(30),
            up: 50,
            response: response((1..=100).map(|_| to)),
            ..Interval::default()
        };
        interval.identity.counts.verified = verified;
        interval
    }

    #[test]
    fn a_line_for_each_interval_has_everything() {
        let mut plan = plan(Stop::After(Duration::from_secs(60)));
        plan.pace = Pace::Open {
            rate: Rate::parse("2000").unwrap(),
            arrivals: Arrivals::Constant,
            pacing: Pacing::Global,
        };
        let mut lines = PlainLines::of_each_interval(&plan);
        assert_eq!(
            lines.note(&second(1, 0)).unwrap(),
            "running, 1 s of 60 s: 0 of 2,000 messages/s, p50 1.00 µs, max 1.00 µs, \
             0 messages outstanding, 50 of 50 connections up"
        );
        let mut last = second(2, 0);
        (last.tag, last.to) = (Tag::Drain, Duration::from_millis(1_250));
        last.from = last.to;
        last.response = response([]);
        last.errors = [(ErrorKind::Reset, 1)].into();
        (last.identity.outstanding, last.identity.counts.errored) = (1, 2);
        lines.from = last.to;
        assert_eq!(
            lines.note(&last).unwrap(),
            "ending, 1.25 s of 60 s: 0 messages/s, no replies, 1 message outstanding, \
             50 of 50 connections up, 1 connection reset, 2 messages lost"
        );
    }

    #[test]
    fn lines_that_nobody_asked_for_are_few_and_cover_all_intervals() {
        let short = plan(Stop::After(Duration::from_secs(20)));
        assert!(PlainLines::in_steps(&short).is_none());
        for (stop, due) in [
            (Stop::After(Duration::from_secs(25)), vec![10, 20]),
            (Stop::Messages(1_000), vec![20]),
        ] {
            let mut lines = PlainLines::in_steps(&plan(stop)).unwrap();
            let noted = (1..=25).filter_map(|to| Some((to, lines.note(&second(to, 10 * to))?)));
            let (times, lines): (Vec<u64>, Vec<String>) = noted.unzip();
            assert_eq!(times, due);
            let last = lines.last().unwrap();
            assert!(last.contains(": 10 messages/s, p50 "), "{last}");
            assert!(last.contains("µs, p99 20.0 µs, "), "{last}");
        }
        // Intervals that are longer than a step.
        let long = plan(Stop::Messages(0));
        let mut lines = PlainLines::in_steps(&long).unwrap();
        let line = lines.note(&second(60, 0)).unwrap();
        assert!(
            line.starts_with("running, 60 s, 0 of 0 messages: 0 messages/s, "),
            "{line}"
        );
        assert!(lines.note(&second(69, 0)).is_none());
        assert!(lines.note(&second(70, 0)).is_some());
    }
}
