//! What this process may hold: the limit on open descriptors.

use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a run opens beside those of its connections: poll, timer and pipes of two
/// reactors, a listener, and some for the libraries.
pub const DESCRIPTOR_RESERVE: u64 = 32;

/// Poll, timer and the pipe of requests of one reactor, with the ends that others hold.
pub const DESCRIPTORS_OF_A_REACTOR: u64 = 6;

/// Further descriptors of a reactor that takes signals: two more pipes, and an end of a pipe for
/// each of four signals.
pub const DESCRIPTORS_OF_SIGNALS: u64 = 8;

/// Descriptors that a server keeps free for what is not a client: signals, the log, the
/// libraries.
pub const DESCRIPTOR_SPARE: u64 = 16;

/// How many descriptors are open now, those that were inherited included.
pub fn open_descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Raises the soft limit of RLIMIT_NOFILE to the hard one, and tells it. See setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
