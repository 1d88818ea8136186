//! Observes whether a CPU runs what it should run: a thread of the highest priority that wakes up
//! every few milliseconds. When it wakes up late, the CPU did nothing for anybody: the host of this
//! machine had taken it, which the kernel's steal time does not always show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::peers::settle_with;

/// The time between two observations: at most a thousandth of the CPU's time goes into them.
const PERIOD: Duration = Duration::from_millis(2);

/// The delay of a wake-up that is usual.
const USUAL: Duration = Duration::from_micros(500);

/// The priority of the witness among real-time threads, above that of servers and generators.
const PRIORITY: u32 = 2;

/// A thread that observes a CPU until it is asked.
pub struct Witness {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Witness {
    /// Starts to observe a CPU.
    pub fn start(cpu: u32) -> Witness {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            settle_with(cpu, PRIORITY);
            lost_time(&seen)
        });
        Witness {
            ends,
            thread: Some(thread),
        }
    }

    /// Ends the observation. Returns for how long the CPU was away.
    pub fn end(mut self) -> Duration {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.map_or(Duration::ZERO, |thread| thread.join().unwrap())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn lost_time(ends: &AtomicBool) -> Duration {
    let mut lost = Duration::ZERO;
    while !ends.load(Ordering::Relaxed) {
        let due = Instant::now() + PERIOD;
        thread::sleep(PERIOD);
        let late = Instant::now().saturating_duration_since(due);
        if late > USUAL {
            lost += late;
        }
    }
    lost
}
