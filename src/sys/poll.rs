//! Waits for descriptors outside a reactor, poll(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits until one of the descriptors is readable, has ended or is broken, and returns the index of
/// the first such descriptor; `None` when `time` has elapsed. Without a time, waits without limit.
/// A signal does not end the wait. Errors: see poll(2).
pub fn readable(descriptors: &[BorrowedFd], time: Option<Duration>) -> io::Result<Option<usize>> {
    wait(descriptors, PollFlags::IN, time)
}

/// Waits as [`readable`] does, until one of the descriptors is writable.
pub fn writable(descriptors: &[BorrowedFd], time: Option<Duration>) -> io::Result<Option<usize>> {
    wait(descriptors, PollFlags::OUT, time)
}

fn wait(
    descriptors: &[BorrowedFd],
    flags: PollFlags,
    time: Option<Duration>,
) -> io::Result<Option<usize>> {
    let end = time.map(|time| Instant::now() + time);
    let polled = descriptors
        .iter()
        .map(|one| PollFd::from_borrowed_fd(*one, flags));
    let mut polled: Vec<PollFd> = polled.collect();
    loop {
        let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
        let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
        match rustix::event::poll(&mut polled, rest.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(polled.iter().position(|one| !one.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
