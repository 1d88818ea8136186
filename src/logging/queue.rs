//! The bounded queue between the threads that log and the thread that writes.
//!
//! Pushing never waits for the output. When the queue is full, new lines are dropped and counted
//! until half of it has been written. Then their count is queued in their place, so that a reader
//! sees where lines are missing:
//!
//! ```text
//!   push ──► line line line ... (full) ┊ dropped: 812 ┊
//!   next ──► line line line ... line   "812 lines were dropped"   line line
//! ```
//!
//! Invariant: `bytes` is the total length of the queued lines, at most [`CAPACITY_BYTES`], and
//! `URGENT_BYTES` more with urgent lines, unless a single line is longer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum total length of the queued lines, in bytes: a burst of some 40,000 lines, which a
/// terminal shows within seconds. It limits the memory that a stalled reader costs.
pub const CAPACITY_BYTES: usize = 4 << 20;

/// Additional bytes for urgent lines, the last messages of a process.
const URGENT_BYTES: usize = 64 << 10;

/// Maximum time that a flush waits for one more line to be written. A reader that takes longer has
/// stalled.
const FLUSH_PAUSE: Duration = Duration::from_millis(500);

/// Maximum number of such waits in a flush: a slow reader delays the end of the process by at most
/// five seconds.
const FLUSH_PAUSES: u32 = 10;

/// The urgency of a line, which decides whether it may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// The line may be dropped.
    Ordinary,
    /// The line is among the last of the process, and has reserved space.
    Urgent,
}

/// An instruction for the writer.
#[derive(Debug, PartialEq, Eq)]
pub enum Order<T> {
    /// Write this line.
    Line(String),
    /// Write that this number of lines was dropped here.
    Dropped(u64),
    /// Run a task other than writing.
    Task(T),
}

/// The queue of one output. `T` is the type of the writer's other tasks.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    /// Signalled when there is an order.
    filled: Condvar,
    /// Signalled when all orders have been carried out.
    idle: Condvar,
}

#[derive(Debug)]
struct State<T> {
    orders: VecDeque<Order<T>>,
    bytes: usize,
    /// Whether the queue has overflowed and has not been written down to half of its capacity
    /// since.
    is_full: bool,
    /// Dropped lines whose number has not been written to the output yet.
    dropped: u64,
    dropped_in_all: u64,
    /// True while the writer carries out an order.
    is_busy: bool,
    /// Orders that were carried out.
    done: u64,
}

impl<T> Queue<T> {
    /// Returns an empty queue.
    pub fn new() -> Self {
        Queue {
            state: Mutex::new(State {
                orders: VecDeque::new(),
                bytes: 0,
                is_full: false,
                dropped: 0,
                dropped_in_all: 0,
                is_busy: false,
                done: 0,
            }),
            filled: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    /// Adds a line, or drops and counts it.
    pub fn push(&self, line: String, urgency: Urgency) {
        let mut state = self.state();
        let (is_closed, room) = match urgency {
            Urgency::Ordinary => (state.is_full, CAPACITY_BYTES),
            Urgency::Urgent => (false, CAPACITY_BYTES + URGENT_BYTES),
        };
        let is_over = state.bytes > 0 && state.bytes + line.len() > room;
        if is_closed || is_over {
            state.is_full = true;
            state.dropped += 1;
            state.dropped_in_all += 1;
            return;
        }
        if let Some(count) = state.take_dropped() {
            state.orders.push_back(Order::Dropped(count));
        }
        state.bytes += line.len();
        state.orders.push_back(Order::Line(line));
        self.filled.notify_one();
    }

    /// Adds a task. It is never dropped.
    pub fn push_task(&self, task: T) {
        self.state().orders.push_back(Order::Task(task));
        self.filled.notify_one();
    }

    /// Waits for the next order and returns it. The order before it counts as carried out.
    pub fn next(&self) -> Order<T> {
        let mut state = self.state();
        state.done += u64::from(state.is_busy);
        state.is_busy = false;
        loop {
            if let Some(order) = state.take() {
                state.is_busy = true;
                return order;
            }
            self.idle.notify_all();
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts a line that the output refused.
    pub fn count_dropped(&self) {
        self.state().dropped_in_all += 1;
    }

    /// Returns how many lines were dropped since the start.
    pub fn dropped_in_all(&self) -> u64 {
        self.state().dropped_in_all
    }

    /// Waits until all orders have been carried out, unless the output stalls. Returns whether they
    /// have.
    pub fn flush(&self) -> bool {
        let mut state = self.state();
        for _ in 0..FLUSH_PAUSES {
            let before = state.done;
            state = self
                .idle
                .wait_timeout_while(state, FLUSH_PAUSE, |state| !state.is_idle())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if state.is_idle() || state.done == before {
                break;
            }
        }
        state.is_idle()
    }

    /// Returns the state. A poisoned lock is no error: a thread that panicked while it held the
    /// lock has left the state consistent.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue::new()
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<Order<T>> {
        let order = self.orders.pop_front();
        if let Some(Order::Line(line)) = &order {
            self.bytes -= line.len();
            self.is_full &= self.bytes > CAPACITY_BYTES / 2;
        }
        order.or_else(|| self.take_dropped().map(Order::Dropped))
    }

    fn take_dropped(&mut self) -> Option<u64> {
        let dropped = std::mem::take(&mut self.dropped);
        Some(dropped).filter(|&count| count > 0)
    }

    fn is_idle(&self) -> bool {
        self.orders.is_empty() && self.dropped == 0 && !self.is_busy
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const LINE: usize = 1 << 10;
    const LINES: usize = CAPACITY_BYTES / LINE;

    fn line(number: usize) -> String {
        format!("{number:>LINE$}")
    }

    /// Returns the orders that the writer would get before it has to wait.
    fn written(queue: &Queue<()>) -> Vec<Order<()>> {
        let mut state = queue.state();
        std::iter::from_fn(|| state.take()).collect()
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_in_its_place() {
        let queue: Queue<()> = Queue::new();
        for number in 0..LINES + 7 {
            queue.push(line(number), Urgency::Ordinary);
        }
        assert_eq!(queue.dropped_in_all(), 7);
        // The queue takes lines again when half of it is written, and not before.
        for number in 0..LINES / 2 - 1 {
            assert_eq!(queue.next(), Order::Line(line(number)));
        }
        queue.push(line(0), Urgency::Ordinary);
        assert_eq!(queue.dropped_in_all(), 8);
        assert_eq!(queue.next(), Order::Line(line(LINES / 2 - 1)));
        queue.push(line(1_000_000), Urgency::Ordinary);
        assert_eq!(queue.dropped_in_all(), 8);
        let rest = written(&queue);
        let mut expected: Vec<_> = (LINES / 2..LINES).map(line).map(Order::Line).collect();
        expected.extend([Order::Dropped(8), Order::Line(line(1_000_000))]);
        assert!(rest == expected, "{} orders", rest.len());
    }

    #[test]
    fn the_last_words_have_room_of_their_own_and_a_bound() {
        let queue: Queue<()> = Queue::new();
        for number in 0..LINES + 1 {
            queue.push(line(number), Urgency::Ordinary);
        }
        for number in 0..LINES {
            queue.push(line(number), Urgency::Urgent);
        }
        let urgent = URGENT_BYTES / LINE;
        assert_eq!(queue.dropped_in_all() as usize, 1 + LINES - urgent);
        let rest = written(&queue);
        assert_eq!(rest[LINES], Order::Dropped(1));
        assert_eq!(rest[LINES + 1], Order::Line(line(0)));
        assert_eq!(rest.last(), Some(&Order::Dropped((LINES - urgent) as u64)));
        // A line that is larger than the whole queue is written when nothing else waits.
        queue.push("x".repeat(2 * CAPACITY_BYTES), Urgency::Ordinary);
        assert_eq!(written(&queue).len(), 1);
    }

    #[test]
    fn a_flush_waits_for_a_writer_that_works_and_not_for_one_that_has_stalled() {
        let queue: Arc<Queue<()>> = Arc::new(Queue::new());
        assert!(queue.flush(), "nothing was pushed");
        queue.push(line(1), Urgency::Ordinary);
        assert!(!queue.flush(), "nobody writes");
        let writer = Arc::clone(&queue);
        thread::spawn(move || while let Order::Line(_) = writer.next() {});
        assert!(queue.flush());
        queue.push_task(());
    }
}
