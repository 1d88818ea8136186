//! The limit on the open descriptors of this process, and the descriptors that its parts need.

use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a load run opens in addition to those of its connections: epoll instance, timer
/// and pipes of two reactors, a listener, and some for the libraries.
pub const DESCRIPTOR_RESERVE: u64 = 32;

/// Descriptors of one reactor: its epoll instance, its timer, and its pipe for requests, including
/// the ends that other threads hold.
pub const DESCRIPTORS_OF_A_REACTOR: u64 = 6;

/// Additional descriptors of a reactor that handles signals: two more pipes, and one end of a pipe
/// for each of four signals.
pub const DESCRIPTORS_OF_SIGNALS: u64 = 8;

/// Descriptors that a server reserves for purposes other than clients: signals, the log, the
/// libraries.
pub const DESCRIPTOR_SPARE: u64 = 16;

/// Returns the number of open descriptors, including inherited ones.
pub fn open_descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Raises the soft limit of RLIMIT_NOFILE to the hard limit, and returns it. See setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
