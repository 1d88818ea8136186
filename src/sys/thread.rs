//! Signals and descriptors of single threads, and the signal dispositions that a process inherits.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};

/// Unblocks signals for this thread and the threads that it starts: a parent process may have left
/// them blocked. Errors: see pthread_sigmask(3).
pub fn unblock(signals: &[i32]) -> io::Result<()> {
    let signals = signals.iter().map(|&number| Signal::try_from(number));
    let signals: SigSet = signals.collect::<Result<_, _>>()?;
    Ok(signals.thread_unblock()?)
}

/// Returns whether this process ignores a signal, for example because nohup(1) started it.
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

/// Blocks all signals in this thread, so that other threads handle them, and gives it a table of
/// descriptors of its own.
pub fn isolate() {
    // A container may refuse both calls, which costs only time.
    let _ = SigSet::all().thread_block();
    let _ = unshare(CloneFlags::CLONE_FILES);
}
