//! Which message of a schedule goes to which connection, and when. Pure: time comes in as an
//! argument.
//!
//! *Free* is a connection with fewer than `depth` messages in flight, all of them accepted by the
//! kernel in full. A message that is due and finds no free connection waits; it is late, and never
//! skipped.
//!
//! - Global: the next message of the schedule goes to the connection that has been free the
//!   longest.
//! - Per connection: the next message of a line goes to the connection of that line alone.
//!
//! What waits is not stored: it is the stretch of the schedule between what is due and what was
//! taken. Invariant: due by now = taken + waiting, in the schedule's own arithmetic.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use crate::load::plan::{Pace, Pacing, Plan};
use crate::load::schedule::{Cursor, Part, Series};
use crate::reactor::slots::Token;

/// Deals the messages of one thread.
#[derive(Debug)]
pub struct Pacer {
    start: Instant,
    taken: u64,
    queue: Queue,
}

/// A connection that can take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// The connection.
    pub token: Token,
    /// Its place among the lines of this thread.
    pub line: usize,
    /// Since when.
    pub since: Instant,
}

/// A message that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// On this connection.
    pub token: Token,
    /// When it was due.
    pub due: Instant,
    /// Since when the connection has been free.
    pub free_since: Instant,
}

#[derive(Debug)]
enum Queue {
    Global {
        line: Line,
        free: VecDeque<Free>,
    },
    PerConnection {
        lines: Vec<Line>,
        /// Those that have not ended.
        open: usize,
        /// The lines that are free, by the time of their next message.
        free: BinaryHeap<Reverse<Waiting>>,
    },
}

/// Messages in the order in which they are taken.
#[derive(Debug)]
struct Line {
    series: Series,
    next: Cursor,
    /// The first message that was not due when that was last asked, and how many lie between.
    ahead: Cursor,
    waiting: u64,
}

impl Line {
    fn new(series: Series) -> Line {
        let next = series.start();
        Line {
            series,
            next,
            ahead: next,
            waiting: 0,
        }
    }

    fn due(&self) -> Option<Duration> {
        self.series.due(self.next)
    }

    fn advance(&mut self) {
        self.series.advance(&mut self.next);
        match self.waiting.checked_sub(1) {
            Some(left) => self.waiting = left,
            None => self.ahead = self.next,
        }
    }

    fn waiting(&mut self, elapsed: Duration) -> u64 {
        if let Some(waiting) = self.series.count(self.next, elapsed) {
            return waiting;
        }
        while self
            .series
            .due(self.ahead)
            .is_some_and(|due| due <= elapsed)
        {
            self.series.advance(&mut self.ahead);
            self.waiting += 1;
        }
        self.waiting
    }
}

/// A free line whose next message is not due yet, or was not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    due: Duration,
    free: Free,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.free.line).cmp(&(other.due, other.free.line))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Pacer {
    /// The messages of one thread's part; none is due before `start`. `None`: a closed loop has no
    /// schedule.
    pub fn new(plan: &Plan, part: Part, start: Instant) -> Option<Pacer> {
        let Pace::Open {
            rate,
            arrivals,
            pacing,
        } = plan.pace
        else {
            return None;
        };
        let end = plan.schedule_end();
        let queue = match pacing {
            Pacing::Global => Queue::Global {
                line: Line::new(Series::new(rate, arrivals, plan.seed, end, part)),
                free: VecDeque::new(),
            },
            Pacing::PerConnection => {
                let of = plan.connections;
                let series =
                    |index| Series::line(rate, arrivals, plan.seed, end, Part { index, of });
                let numbers = (part.index..of).step_by(part.of as usize);
                let lines: Vec<Line> = numbers.map(series).map(Line::new).collect();
                Queue::PerConnection {
                    open: open(&lines),
                    lines,
                    free: BinaryHeap::new(),
                }
            }
        };
        Some(Pacer {
            start,
            taken: 0,
            queue,
        })
    }

    /// A connection can take a message.
    pub fn free(&mut self, connection: Free) {
        match &mut self.queue {
            Queue::Global { free, .. } => free.push_back(connection),
            Queue::PerConnection { lines, free, .. } => {
                free.extend(lines.get(connection.line).and_then(|line| {
                    let due = line.due()?;
                    let free = connection;
                    Some(Reverse(Waiting { due, free }))
                }));
            }
        }
    }

    /// When the next message is due for which a connection is free; `None`: while none is.
    pub fn next_due(&self) -> Option<Instant> {
        let due = match &self.queue {
            Queue::Global { line, free } => {
                free.front()?;
                line.due()?
            }
            Queue::PerConnection { free, .. } => free.peek()?.0.due,
        };
        Some(self.start + due)
    }

    /// Takes the next message that is due and has a free connection. `lives` tells whether a
    /// connection still stands: one that broke while it was free is forgotten.
    pub fn take(&mut self, now: Instant, lives: impl Fn(Token) -> bool) -> Option<Dispatch> {
        while self.next_due()? <= now {
            let (due, free) = match &mut self.queue {
                Queue::Global { line, free } => {
                    let free = free.pop_front()?;
                    if !lives(free.token) {
                        continue;
                    }
                    let due = line.due()?;
                    line.advance();
                    (due, free)
                }
                Queue::PerConnection { lines, open, free } => {
                    let Reverse(Waiting { due, free }) = free.pop()?;
                    if !lives(free.token) {
                        continue;
                    }
                    let line = lines.get_mut(free.line)?;
                    line.advance();
                    *open -= usize::from(line.due().is_none());
                    (due, free)
                }
            };
            self.taken += 1;
            return Some(Dispatch {
                token: free.token,
                due: self.start + due,
                free_since: free.since,
            });
        }
        None
    }

    /// How many messages were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How many messages are due by now and were not taken.
    pub fn waiting(&mut self, now: Instant) -> u64 {
        let elapsed = now.checked_duration_since(self.start);
        let Some(elapsed) = elapsed else { return 0 };
        match &mut self.queue {
            Queue::Global { line, .. } => line.waiting(elapsed),
            Queue::PerConnection { lines, .. } => {
                lines.iter_mut().map(|line| line.waiting(elapsed)).sum()
            }
        }
    }

    /// When the oldest message was due that was not taken; `None`: the schedule has ended.
    pub fn oldest(&self) -> Option<Instant> {
        let due = match &self.queue {
            Queue::Global { line, .. } => line.due(),
            Queue::PerConnection { lines, .. } => lines.iter().filter_map(Line::due).min(),
        };
        due.map(|due| self.start + due)
    }

    /// Takes the messages that were due before `deadline` and found no connection; each is shown
    /// with the time since when one has been free for it, if one is.
    pub fn give_up(
        &mut self,
        deadline: Instant,
        lives: impl Fn(Token) -> bool,
        mut show: impl FnMut(Instant, Option<Instant>),
    ) {
        let (start, taken) = (self.start, &mut self.taken);
        let mut give_up = |line: &mut Line, free: Option<Instant>| {
            while let Some(due) = line.due()
                && start + due < deadline
            {
                line.advance();
                *taken += 1;
                show(start + due, free);
            }
        };
        match &mut self.queue {
            Queue::Global { line, free } => {
                let free = free.iter().find(|free| lives(free.token));
                give_up(line, free.map(|free| free.since));
            }
            Queue::PerConnection { lines, free, .. } => {
                let mut since = vec![None; lines.len()];
                for Reverse(Waiting { free, .. }) in free.iter() {
                    if let Some(since) = since.get_mut(free.line).filter(|_| lives(free.token)) {
                        *since = Some(free.since);
                    }
                }
                for (line, since) in lines.iter_mut().zip(since) {
                    give_up(line, since);
                }
            }
        }
        self.recount();
    }

    /// Ends the schedule: what is not due by now will not be due any more.
    pub fn cut(&mut self, now: Instant) {
        // A message that is due just now is due.
        let end = now.saturating_duration_since(self.start) + Duration::from_nanos(1);
        match &mut self.queue {
            Queue::Global { line, .. } => line.series.cut(end),
            Queue::PerConnection { lines, .. } => {
                lines.iter_mut().for_each(|line| line.series.cut(end));
            }
        }
        self.recount();
    }

    /// Whether every message of the schedule was taken.
    pub fn is_exhausted(&self) -> bool {
        match &self.queue {
            Queue::Global { line, .. } => line.due().is_none(),
            Queue::PerConnection { open, .. } => *open == 0,
        }
    }

    /// Sets right what depends on the lines' next messages, after these have changed.
    fn recount(&mut self) {
        if let Queue::PerConnection {
            lines,
            open: left,
            free,
        } = &mut self.queue
        {
            *left = open(lines);
            let waiting = std::mem::take(free).into_iter();
            free.extend(waiting.filter_map(|Reverse(Waiting { free, .. })| {
                let due = lines.get(free.line)?.due()?;
                Some(Reverse(Waiting { due, free }))
            }));
        }
    }
}

fn open(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.due().is_some()).count()
}
