//! Writes the intervals of a run to its files, in a thread of its own: a disk that is slow, or that
//! hangs, delays neither the run nor its display.
//!
//! Invariant: at most `WAITING_MAX` intervals of each part of the run wait to be written. When
//! there are more, the last two are joined, so that memory is bounded and nothing that was measured
//! is lost: the files then have one longer interval instead of two.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use crate::load::latency::percentile::Percentile;
use crate::load::results::recorder::Interval;
use crate::record::interval::{self, Surroundings};
use crate::record::writer::Recording;

/// Maximum number of intervals of a part of the run that wait to be written. A recorded one takes
/// two or three megabytes.
const WAITING_MAX: usize = 8;

/// Maximum time to wait at the end of a run until everything is written. The results are printed
/// then, also when the disk hangs.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// A thread that writes the intervals of a run.
#[derive(Debug)]
pub struct IntervalWriter {
    shared: Arc<Shared>,
    done: Receiver<IntervalFiles>,
    has_record: bool,
    has_log: bool,
}

/// The files to which the intervals of a run are written.
#[derive(Debug)]
pub struct IntervalFiles {
    recording: Option<Recording>,
    log: Option<File>,
    /// The percentiles of an interval.
    points: Vec<Percentile>,
    /// The error that ended the interval log.
    unlogged: Option<String>,
}

/// The result of the writing.
#[derive(Debug, Default)]
pub struct Written {
    /// The record, to be completed with the result; `None` when there is none, or its disk hangs.
    pub recording: Option<Recording>,
    /// What the record lacks because its disk hangs.
    pub unrecorded: Option<String>,
    /// What the interval log lacks, or the error that ended it.
    pub unlogged: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is to be written, in order.
#[derive(Debug, Default)]
struct State {
    start: Option<Instant>,
    waiting: VecDeque<(Interval, Surroundings)>,
    /// The beginning of the interval that is being written.
    writing_from: Option<Duration>,
    is_over: bool,
}

/// One piece of work of the thread.
enum Work {
    Start(Instant),
    Interval(Box<(Interval, Surroundings)>),
}

impl IntervalWriter {
    /// Starts the thread.
    pub fn start(files: IntervalFiles) -> io::Result<IntervalWriter> {
        let shared = Arc::new(Shared::default());
        let (sender, done) = mpsc::channel();
        let (has_record, has_log) = (files.recording.is_some(), files.log.is_some());
        let (own, mut files) = (Arc::clone(&shared), files);
        let write = move || {
            while let Some(work) = own.next() {
                files.write(work);
            }
            let _ = sender.send(files);
        };
        thread::Builder::new()
            .name("interval writer".to_string())
            .spawn(write)?;
        Ok(IntervalWriter {
            shared,
            done,
            has_record,
            has_log,
        })
    }

    /// Records that messages are due from `start` on.
    pub fn started(&self, start: Instant) {
        self.shared.change(|state| state.start = Some(start));
    }

    /// Queues an interval. Never waits for the disk.
    pub fn write(&self, interval: &Interval, surroundings: Surroundings) {
        self.shared
            .change(|state| state.push(interval, surroundings));
    }

    /// Ends the thread, and returns what it has written. If the disk hangs, the thread goes on.
    pub fn finish(self) -> Written {
        self.shared.change(|state| state.is_over = true);
        match self.done.recv_timeout(LAST_WRITES) {
            Ok(files) => Written {
                recording: files.recording,
                unrecorded: None,
                unlogged: files.unlogged,
            },
            Err(_) => {
                let lacks = self.shared.lock().lacks();
                Written {
                    recording: None,
                    unrecorded: self.has_record.then(|| lacks.clone()),
                    unlogged: self.has_log.then_some(lacks),
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// Waits for the next piece of work; `None` when there will be none.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        state.writing_from = None;
        loop {
            if let Some(work) = state.take() {
                return Some(work);
            }
            if state.is_over {
                return None;
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    /// Adds an interval, or joins it with the last one.
    fn push(&mut self, interval: &Interval, surroundings: Surroundings) {
        let is_full = self.waiting.len() >= WAITING_MAX;
        match self.waiting.back_mut() {
            Some((last, around)) if is_full && last.tag == interval.tag => {
                last.append(interval);
                *around = surroundings;
            }
            _ => self.waiting.push_back((interval.clone(), surroundings)),
        }
    }

    /// Describes what is not written yet.
    fn lacks(&self) -> String {
        let waiting = self.waiting.front().map(|(interval, _)| interval.from);
        let from = self.writing_from.or(waiting).unwrap_or_default();
        format!(
            "it lacks what was measured from {:.1} s on: its disk, or the reader of its pipe, has \
             not taken it for {} s",
            from.as_secs_f64(),
            LAST_WRITES.as_secs()
        )
    }

    fn take(&mut self) -> Option<Work> {
        if let Some(start) = self.start.take() {
            return Some(Work::Start(start));
        }
        let next = self.waiting.pop_front()?;
        self.writing_from = Some(next.0.from);
        Some(Work::Interval(Box::new(next)))
    }
}

impl IntervalFiles {
    /// Returns the files of a run; `points` are the percentiles of an interval.
    pub fn new(recording: Option<Recording>, log: Option<File>, points: Vec<Percentile>) -> Self {
        IntervalFiles {
            recording,
            log,
            points,
            unlogged: None,
        }
    }

    /// Returns whether there are any.
    pub fn any(&self) -> bool {
        self.recording.is_some() || self.log.is_some()
    }

    /// Writes to all files. An error ends that file, and not the run.
    fn write(&mut self, work: Work) {
        match work {
            Work::Start(start) => {
                if let Some(recording) = &mut self.recording {
                    recording.started(start);
                }
            }
            Work::Interval(work) => self.write_interval(&work.0, &work.1),
        }
    }

    fn write_interval(&mut self, interval: &Interval, surroundings: &Surroundings) {
        if let Some(recording) = &mut self.recording {
            recording.interval(interval, surroundings);
        }
        if let Some(file) = &mut self.log {
            let line = interval::line(interval, None, surroundings, &self.points);
            if let Err(error) = file.write_all(line.as_bytes()) {
                warn!("cannot write to the interval log, which ends here: {error}");
                self.unlogged = Some(error.to_string());
                self.log = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::results::recorder::Tag;

    fn interval(number: u64, tag: Tag, milliseconds: u64) -> Interval {
        let mut interval = Interval {
            tag,
            from: Duration::from_secs(number),
            to: Duration::from_secs(number + 1),
            up: number as u32,
            ..Interval::default()
        };
        interval.identity.due = number + 1;
        interval
            .response
            .record(Duration::from_millis(milliseconds));
        interval
    }

    proptest! {
        #[test]
        fn what_waits_is_bounded_and_complete(
            warmup in 0u64..30,
            run in 1u64..60,
            drain in 0u64..30,
            taken in prop::collection::vec(0usize..3, 120),
        ) {
            let tags = [(Tag::Warmup, warmup), (Tag::Run, run), (Tag::Drain, drain)];
            let tags = tags.into_iter().flat_map(|(tag, count)| (0..count).map(move |_| tag));
            let (mut state, mut written) = (State::default(), Vec::new());
            let mut due = 0;
            for (number, tag) in tags.enumerate() {
                state.push(&interval(number as u64, tag, 1), Surroundings::default());
                due += 1;
                prop_assert!(state.waiting.len() <= WAITING_MAX + 2);
                for _ in 0..taken[number] {
                    written.extend(state.waiting.pop_front());
                }
            }
            written.extend(state.waiting);
            let mut end = Duration::ZERO;
            let mut all = 0;
            for (interval, _) in &written {
                prop_assert_eq!(interval.from, end);
                end = interval.to;
                prop_assert_eq!(Duration::from_secs(interval.identity.due), end);
                let count = interval.response.count();
                prop_assert_eq!(Duration::from_secs(count), end - interval.from);
                all += count;
            }
            prop_assert_eq!(all, due);
        }
    }
}
