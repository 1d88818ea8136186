//! The environment of the engine: a clock, connections and timers. Pure: the kernel implements
//! these traits, and so does the simulated network of the tests.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::results::evidence::Path;
use crate::load::results::step::Failure;
use crate::reactor::slots::Token;
use crate::stream::Stream;

/// The environment of one thread.
pub trait World {
    /// The type of its connections.
    type Socket: Socket;

    /// Reads the clock, which is monotonic.
    fn now(&self) -> Instant;

    /// Returns the CPU time of this thread so far.
    fn cpu(&self) -> Duration;

    /// Starts to connect. After an event, [`Socket::is_up`] returns the outcome.
    fn connect(
        &mut self,
        target: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<Self::Socket, Failure>;

    /// Registers the connection: its events carry this token from now on.
    fn register(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// Sets a timer that fires when `deadline` has passed. It cannot be cancelled.
    fn set_timer(&mut self, deadline: Instant, timer: Timer);
}

/// A connection, which is closed when it is dropped.
pub trait Socket: Stream {
    /// Returns whether the connection is established; an error when the attempt has failed.
    fn is_up(&self) -> io::Result<bool>;

    /// Makes a later close a reset: SO_LINGER with a time of 0, socket(7).
    fn reset_on_close(&mut self) -> io::Result<()>;

    /// Returns the kernel's information about the path of the connection: its TCP_INFO.
    fn path(&self) -> io::Result<Path>;

    /// Turns on the kernel's timestamps for this connection, which has sent nothing yet.
    fn keep_times(&mut self) -> io::Result<()>;

    /// Returns the kernel's timestamps of the message that ends at this offset and whose reply was
    /// read last; `None`: the kernel has none.
    fn times(&mut self, end: u64) -> io::Result<Option<KernelTimes>>;
}

/// The kernel's timestamps of a message and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTimes {
    /// The time at which the last byte of the message was handed to the device.
    pub sent: Instant,
    /// The time at which the last segment of the reply was received from the device.
    pub received: Instant,
}

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Another connection is due.
    Dial,
    /// A message of this connection is due in a closed loop.
    Think(Token, Instant),
    /// A line is to be reopened.
    Reopen(usize),
    /// Scan all connections for expired timeouts.
    Scan,
    /// Check the thread of a closed loop for absence.
    Presence,
    /// A message may have become older than its timeout.
    TimeOut,
    /// End the current interval and report it.
    Interval,
    /// A quarter of the time for sending is over.
    FirstQuarterEnds,
    /// Three quarters of the time for sending are over.
    LastQuarterBegins,
    /// A stage of the rate profile is over.
    StageEnd,
    /// Further connections are due whose counters belong to the stage that has ended.
    StagePaths,
    /// The time for sending is over.
    RunEnd,
    /// The time to wait for outstanding messages is over.
    DrainEnd,
    /// The time for closing is over.
    CloseEnd,
}
