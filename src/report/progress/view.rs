//! The live view of a run: a few lines of text for a terminal of any width. Pure.
//!
//! ```text
//! running     ██████████████████████░░░░░░░░░░░░ 62 %, 6 s left
//! rate        1,998 of 2,000 messages/s
//! response    p50 112 µs, p99 1.04 ms (95.0 µs to 12.3 ms in the last 60 s)
//! last 60 s   ▁▁▂▁▁▁▇▁▁
//! open        50 of 50 connections up, 3 messages outstanding
//! errors      none
//! ```
//!
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::load::ProgressSnapshot;
use crate::load::plan::{Plan, Stop};
use crate::load::results::recorder::{Interval, Tag};
use crate::logging::footer::FooterLine;
use crate::report::columns::width;
use crate::report::progress::connecting::connect_time;
use crate::report::progress::figures::{Asked, Figures, rates};
use crate::report::progress::layout::{Lines, Look, Tint};
use crate::report::progress::sparkline::Recent;
use crate::units::{counted, grouped, share};

/// The time over which the achieved rate is averaged.
const RATE_TIME: Duration = Duration::from_secs(2);

/// The steps at the end of a run.
const STEPS: [&str; 2] = ["waiting for replies", "closing connections"];

/// The state of a run as the live view shows it.
#[derive(Debug)]
pub struct View {
    connections: u32,
    asked: Asked,
    stop: Stop,
    /// The length of the run, if the plan determines it.
    span: Option<Duration>,
    warmup: Duration,
    /// The time at which connecting began.
    begun: Instant,
    connect_time: Duration,
    snapshot: Option<ProgressSnapshot>,
    /// Times and numbers of verified messages, for the achieved rate.
    verified: VecDeque<(Instant, u64)>,
    /// The figures of the last interval.
    last: Option<Figures>,
    /// Whether the run has ended its sending, as far as the last interval shows.
    is_draining: bool,
    recent: Recent,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Running,
    /// Nothing is sent any more.
    Ending,
}

impl View {
    /// Returns the view of a run that begins to connect now.
    pub fn new(plan: &Plan, now: Instant) -> View {
        View {
            connections: plan.connections,
            asked: Asked::of(plan),
            stop: plan.stop,
            span: plan.span(),
            warmup: plan.warmup,
            begun: now,
            connect_time: connect_time(plan),
            snapshot: None,
            verified: VecDeque::new(),
            last: None,
            is_draining: false,
            recent: Recent::new(plan.interval),
        }
    }

    /// Adds an interval that is over.
    pub fn note(&mut self, interval: &Interval) {
        let figures = Figures::new(&interval.response, interval);
        self.recent.push(figures.tail.map(|tail| tail.bound.value));
        self.last = Some(figures);
        self.is_draining = interval.tag == Tag::Drain;
    }

    /// Adds a snapshot.
    pub fn show(&mut self, snapshot: &ProgressSnapshot, now: Instant) {
        self.snapshot = Some(*snapshot);
        let Some(start) = snapshot.start else { return };
        if self.verified.is_empty() {
            self.verified.push_back((start.min(now), 0));
        }
        self.verified.push_back((now, snapshot.verified));
        let is_old = |(time, _): &(Instant, u64)| now.saturating_duration_since(*time) >= RATE_TIME;
        while self.verified.get(1).is_some_and(is_old) {
            self.verified.pop_front();
        }
    }

    /// Returns the lines at a time.
    pub fn lines(&self, now: Instant, look: Look) -> Vec<FooterLine> {
        let Some(snapshot) = &self.snapshot else {
            return Vec::new();
        };
        let mut lines = Lines::new(look);
        match snapshot.start {
            None => self.connecting(&mut lines, snapshot, now),
            Some(start) => {
                let elapsed = now.saturating_duration_since(start);
                self.running(&mut lines, snapshot, elapsed);
            }
        }
        lines.done()
    }

    fn connecting(&self, lines: &mut Lines, snapshot: &ProgressSnapshot, now: Instant) {
        let (up, all) = (grouped(snapshot.up), grouped(self.connections));
        let (label, begin) = match lines.has_labels() {
            true => ("connecting:", ""),
            false => ("", "connecting: "),
        };
        let mut parts = vec![format!("{begin}{up}/{all} up")];
        let elapsed = now.saturating_duration_since(self.begun);
        match self.connect_time.saturating_sub(elapsed) {
            Duration::ZERO => {}
            left => parts.push(time_left(left)),
        }
        lines.add(label, parts);
    }

    fn running(&self, lines: &mut Lines, snapshot: &ProgressSnapshot, elapsed: Duration) {
        let phase = self.phase(snapshot, elapsed);
        let unit = if lines.has_labels() {
            " messages/s"
        } else {
            "/s"
        };
        match phase {
            Phase::Ending => {
                lines.add("ending", self.ending(snapshot));
            }
            Phase::WarmUp | Phase::Running => {
                self.progress(lines, phase, snapshot, elapsed);
                let (from, to) = self.window();
                let asked = self
                    .asked
                    .between(elapsed.saturating_sub(to - from), elapsed);
                let mut rates = vec![rates(self.achieved(), asked, unit)];
                rates.extend(self.asked.stage_at(elapsed));
                lines.add("rate", rates);
            }
        }
        if let Some(last) = &self.last {
            lines.add("response", self.times(last, lines.room()));
            lines.add_bars(&self.recent);
        }
        let all = match lines.has_labels() {
            true => counted(self.connections, "connection").to_string(),
            false => grouped(self.connections).to_string(),
        };
        let mut open = vec![format!("{} of {all} up", grouped(snapshot.up))];
        open.extend(
            self.last
                .as_ref()
                .map(|last| outstanding(last, lines.has_labels())),
        );
        lines.add("open", open);
        match self.last.as_ref().map(Figures::faults) {
            Some(faults) if !faults.is_empty() => lines.add_tinted("errors", faults, Tint::Fault),
            _ if lines.has_labels() => lines.add("errors", vec!["none".to_string()]),
            _ => lines.add("", vec!["no errors".to_string()]),
        }
    }

    /// Returns the words for the response times, with the range of their upper ends in the last
    /// minute if that fits.
    fn times(&self, last: &Figures, room: usize) -> Vec<String> {
        let mut times = last.times();
        let Some(range) = self.recent.range() else {
            return times;
        };
        let range = format!(" ({range} in the last {})", self.recent.covered());
        if let (Some(tail), true) = (times.last_mut(), last.tail.is_some()) {
            *tail += &range;
        }
        match width(&times.join(", ")) <= room {
            true => times,
            false => last.times(),
        }
    }

    /// Returns the words for what the run waits for.
    fn ending(&self, snapshot: &ProgressSnapshot) -> Vec<String> {
        let steps = match self.stop {
            Stop::Messages(messages) if snapshot.verified >= messages => &STEPS[1..],
            Stop::Messages(_) | Stop::After(_) => &STEPS[..],
        };
        steps.iter().map(|step| step.to_string()).collect()
    }

    fn phase(&self, snapshot: &ProgressSnapshot, elapsed: Duration) -> Phase {
        let is_over = match self.stop {
            Stop::After(duration) => elapsed >= duration,
            Stop::Messages(messages) => snapshot.verified >= messages,
        };
        match (is_over || self.is_draining, elapsed < self.warmup) {
            (true, _) => Phase::Ending,
            (false, true) => Phase::WarmUp,
            (false, false) => Phase::Running,
        }
    }

    /// Adds the bar, and the time that is left.
    fn progress(
        &self,
        lines: &mut Lines,
        phase: Phase,
        snapshot: &ProgressSnapshot,
        elapsed: Duration,
    ) {
        let done = match self.stop {
            Stop::After(duration) => share(elapsed, duration),
            Stop::Messages(messages) => snapshot.verified as f64 / messages.max(1) as f64,
        };
        let left = self.left(snapshot, elapsed);
        if lines.has_labels() {
            let label = if phase == Phase::WarmUp {
                "warm-up"
            } else {
                "running"
            };
            let percent = (done * 100.0) as u64;
            return lines.add_bar(label, done, &format!("{percent:>2} %, {left}"));
        }
        lines.add_bar("", done, &left);
        if phase == Phase::WarmUp {
            lines.add("", vec!["warm-up".to_string()]);
        }
    }

    /// Returns the words for what is left of the run: its time, as far as the plan or the achieved
    /// rate determines it, else its messages.
    fn left(&self, snapshot: &ProgressSnapshot, elapsed: Duration) -> String {
        if let Some(span) = self.span {
            return time_left(span.saturating_sub(elapsed));
        }
        let Stop::Messages(messages) = self.stop else {
            return String::new();
        };
        let messages = messages.saturating_sub(snapshot.verified);
        let asked = self.asked.between(Duration::ZERO, elapsed);
        let rate = asked.unwrap_or_else(|| self.achieved());
        match Duration::try_from_secs_f64(messages as f64 / rate) {
            Ok(left) => time_left(left),
            Err(_) => format!("{} left", counted(messages, "message")),
        }
    }

    /// Returns the beginning and the end of the time over which the achieved rate is averaged.
    fn window(&self) -> (Instant, Instant) {
        let times = [self.verified.front(), self.verified.back()];
        let [from, to] = times.map(|end| end.map_or(self.begun, |(time, _)| *time));
        (from, to)
    }

    /// Returns the number of verified messages a second in the last [`RATE_TIME`].
    fn achieved(&self) -> f64 {
        let (Some((from, before)), Some((to, verified))) =
            (self.verified.front(), self.verified.back())
        else {
            return 0.0;
        };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        match seconds > 0.0 {
            true => verified.saturating_sub(*before) as f64 / seconds,
            false => 0.0,
        }
    }
}

fn outstanding(last: &Figures, is_long: bool) -> String {
    match is_long {
        true => format!("{} outstanding", counted(last.outstanding, "message")),
        false => format!("{} outstanding", grouped(last.outstanding)),
    }
}

/// Returns the words for a time that is left: `9 s left`, `2m 5s left`.
fn time_left(left: Duration) -> String {
    match left.as_secs_f64().ceil() as u64 {
        seconds if seconds < 120 => format!("{seconds} s left"),
        seconds => {
            let left = Duration::from_secs(seconds);
            format!("{} left", humantime::format_duration(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::load::latency::Latency;
    use crate::load::plan::schedule::{Arrivals, Rate};
    use crate::load::plan::{Pace, Pacing};
    use crate::load::results::ErrorKind;
    use crate::report::progress::figures::tests::response;

    const LOOK: Look = Look {
        columns: 80,
        has_unicode: true,
        has_color: false,
    };

    fn plan(stop: Stop) -> Plan {
        Plan {
            connections: 50,
            pace: Pace::Open {
                rate: Rate::parse("2000").unwrap(),
                arrivals: Arrivals::Constant,
                pacing: Pacing::Global,
            },
            ..Plan::new(SocketAddr::from(([127, 0, 0, 1], 1)), stop)
        }
    }

    /// A view, and the time at which its run began.
    struct Shown {
        view: View,
        begun: Instant,
    }

    impl Shown {
        fn new(plan: &Plan) -> Shown {
            let begun = Instant::now();
            let view = View::new(plan, begun);
            Shown { view, begun }
        }

        /// Adds snapshots, two a second, of a run with this rate.
        fn run(&mut self, half_seconds: u32, rate: u64) {
            for number in 1..=half_seconds {
                let snapshot = ProgressSnapshot {
                    start: Some(self.begun),
                    up: 50,
                    verified: rate * u64::from(number) / 2,
                };
                let now = self.begun + Duration::from_millis(500) * number;
                self.view.show(&snapshot, now);
            }
        }

        fn note(&mut self, response: Latency, outstanding: u64, errors: &[(ErrorKind, u64)]) {
            let mut interval = Interval {
                response,
                errors: errors.iter().copied().collect(),
                ..Interval::default()
            };
            interval.identity.outstanding = outstanding;
            self.view.note(&interval);
        }

        fn lines(&self, half_seconds: u32, look: Look) -> Vec<FooterLine> {
            let now = self.begun + Duration::from_millis(500) * half_seconds;
            let lines = self.view.lines(now, look);
            for line in &lines {
                assert!(line.columns <= look.columns, "{line:?}");
                if !look.has_color {
                    assert_eq!(line.columns, width(&line.text), "{line:?}");
                }
            }
            lines
        }

        fn text(&self, half_seconds: u32, columns: usize) -> String {
            let lines = self.lines(half_seconds, Look { columns, ..LOOK });
            let lines = lines
                .iter()
                .map(|line| format!("{}\n", line.text.trim_end()));
            lines.collect()
        }
    }

    /// Returns the view of a run of 20 s, half of which is over.
    fn halfway(errors: &[(ErrorKind, u64)]) -> Shown {
        let mut shown = Shown::new(&plan(Stop::After(Duration::from_secs(20))));
        for (number, slowest) in [100, 200, 100, 90_000, 100, 150].into_iter().enumerate() {
            let slow = std::iter::repeat_n(slowest, 30);
            let response = response((0..1970).map(|_| 80).chain(slow));
            shown.note(response, number as u64, errors);
        }
        shown.run(20, 1998);
        shown
    }

    #[test]
    fn a_terminal_shows_everything_that_fits() {
        let shown = halfway(&[]);
        assert_eq!(
            shown.text(20, 80),
            "running     █████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░ 50 %, 10 s left\n\
             rate        1,998 of 2,000 messages/s\n\
             response    p50 80.1 µs, p99 150 µs (100 µs to 90.0 ms in the last 60 s)\n\
             last 60 s   ▁▁▁█▁▁\n\
             open        50 of 50 connections up, 5 messages outstanding\n\
             errors      none\n"
        );
        let wide = shown.text(20, 200);
        let bar = format!("{}{}", "█".repeat(30), "░".repeat(30));
        assert!(
            wide.starts_with(&format!("running     {bar} 50 %, 10 s left\n")),
            "{wide}"
        );
        assert_eq!(
            shown.text(20, 40),
            "███████████████░░░░░░░░░░░░░░░ 10 s left\n\
             1,998 of 2,000/s\n\
             p50 80.1 µs, p99 150 µs\n\
             ▁▁▁█▁▁\n\
             50 of 50 up, 5 outstanding\n\
             no errors\n"
        );
        assert_eq!(
            shown.text(20, 20),
            "█████░░░░░ 10 s left\n\
             1,998 of 2,000/s\n\
             p50 80.1 µs,\n\
             p99 150 µs\n\
             ▁▁▁█▁▁\n\
             50 of 50 up,\n\
             5 outstanding\n\
             no errors\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let errors = [
            (ErrorKind::ClosedAtOnce, u64::MAX / 4),
            (ErrorKind::NoSource, u64::MAX / 8),
            (ErrorKind::Reset, 3),
            (ErrorKind::Refused, 1),
        ];
        let mut shown = halfway(&errors);
        shown.view.connections = u32::MAX;
        shown.note(response([]), u64::MAX, &errors);
        for columns in (1..=130).chain([200, 1_000]) {
            for (has_unicode, has_color) in [(true, true), (true, false), (false, false)] {
                let look = Look {
                    columns,
                    has_unicode,
                    has_color,
                };
                let lines = shown.lines(20, look);
                assert!((6..=30).contains(&lines.len()), "{lines:?}");
                let text: String = lines.into_iter().map(|line| line.text).collect();
                assert_eq!(text.contains('\x1b'), has_color);
                assert_eq!(text.is_ascii(), !has_unicode, "{text}");
            }
        }
    }

    #[test]
    fn a_lower_bound_is_marked() {
        let mut shown = halfway(&[]);
        let mut times = response(1..=1000);
        for _ in 0..20 {
            times.record_at_least(Duration::from_secs(3));
        }
        shown.note(times, 20, &[(ErrorKind::Reset, 2)]);
        let text = shown.text(20, 80);
        assert!(
            text.contains("p50 510 µs, p99 >= 3.00 s (100 µs to 3.00 s in"),
            "{text}"
        );
        assert!(text.contains("errors      2 connection reset\n"), "{text}");
        let text = shown.text(20, 20);
        assert!(text.contains("\np99 >= 3.00 s\n"), "{text}");
        assert!(text.ends_with("2 connection reset\n"), "{text}");
    }

    #[test]
    fn a_run_that_connects_shows_one_line() {
        let mut plan = plan(Stop::Messages(0));
        plan.connect_rate = Some(7);
        let mut shown = Shown::new(&plan);
        assert_eq!(shown.text(0, 80), "");
        let snapshot = ProgressSnapshot {
            start: None,
            up: 5,
            verified: 0,
        };
        shown.view.show(&snapshot, shown.begun);
        assert!(
            shown
                .text(0, 80)
                .ends_with("connecting: 5/50 up, 7 s left\n")
        );
        assert_eq!(shown.text(4, 20), "connecting: 5/50 up,\n5 s left\n");
        assert_eq!(shown.text(20, 20), "connecting: 5/50 up\n");
        // A run without messages is over at once.
        shown.run(1, 0);
        assert!(
            shown
                .text(1, 20)
                .starts_with("closing connections\n50 of 50 up\nno errors\n")
        );
    }

    #[test]
    fn every_phase_shows_the_time_that_is_left() {
        let mut plan = plan(Stop::After(Duration::from_secs(300)));
        plan.warmup = Duration::from_secs(2);
        let mut shown = Shown::new(&plan);
        shown.run(2, 0);
        let text = shown.text(2, 80);
        assert!(text.starts_with("warm-up     ░░"), "{text}");
        assert!(
            text.contains(" 0 %, 4m 59s left\nrate        0 of 2,000 messages/s\n"),
            "{text}"
        );
        assert!(shown.text(2, 20).contains("4m 59s left\nwarm-up\n"));
        assert!(shown.text(4, 80).starts_with("running "));
        let ending = "ending      waiting for replies, closing connections\n";
        assert!(shown.text(600, 80).starts_with(ending));
        // A signal has ended the sending.
        shown.view.note(&Interval {
            tag: Tag::Drain,
            ..Interval::default()
        });
        assert!(shown.text(4, 80).starts_with(ending));
    }

    #[test]
    fn a_number_of_messages_takes_the_time_that_the_rate_lets_expect() {
        let mut plan = plan(Stop::Messages(10_000));
        let mut shown = Shown::new(&plan);
        shown.run(4, 1_000);
        assert!(
            shown.text(4, 80).contains(" 20 %, 3 s left\n"),
            "{}",
            shown.text(4, 80)
        );
        plan.pace = Pace::Closed {
            think: Duration::ZERO,
        };
        let mut shown = Shown::new(&plan);
        shown.run(4, 1_000);
        let text = shown.text(4, 80);
        assert!(
            text.contains(" 20 %, 8 s left\nrate        1,000 messages/s\n"),
            "{text}"
        );
        let mut shown = Shown::new(&plan);
        shown.run(4, 0);
        assert!(shown.text(4, 80).contains(" 0 %, 10,000 messages left\n"));
    }
}
