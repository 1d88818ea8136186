//! What the engine needs of the world: a clock, connections, timers. Pure: the kernel implements
//! it, and so does the simulated network of the tests.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::evidence::Path;
use crate::load::step::Failure;
use crate::reactor::slots::Token;
use crate::stream::Stream;

/// The world of one thread.
pub trait World {
    /// Its connections.
    type Socket: Socket;

    /// The time, read anew. It never goes back.
    fn now(&self) -> Instant;

    /// The CPU time of this thread so far.
    fn cpu(&self) -> Duration;

    /// Begins to connect. After an event [`Socket::is_up`] returns the outcome.
    fn connect(
        &mut self,
        target: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<Self::Socket, Failure>;

    /// Events of this connection come with this token from now on.
    fn watch(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// The timer comes back when `deadline` has passed; it cannot be taken back.
    fn set_timer(&mut self, deadline: Instant, timer: Timer);
}

/// A connection; dropping it closes it.
pub trait Socket: Stream {
    /// Whether the connection is up; an error when it cannot come up any more.
    fn is_up(&self) -> io::Result<bool>;

    /// Makes closing it a reset: SO_LINGER with a time of 0, socket(7).
    fn reset_on_close(&mut self) -> io::Result<()>;

    /// What the kernel knows of its way through the network.
    fn path(&self) -> io::Result<Path>;

    /// The kernel is to keep its own times of this connection, which has sent nothing.
    fn keep_times(&mut self) -> io::Result<()>;

    /// The kernel's times of a message that ends at this offset and whose reply was just read;
    /// `None`: it does not keep them.
    fn times(&mut self, end: u64) -> io::Result<Option<KernelTimes>>;
}

/// What the kernel saw of a message and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTimes {
    /// When the last byte of the message was handed to the device.
    pub sent: Instant,
    /// When the last segment of the reply came off the device.
    pub received: Instant,
}

/// What a time is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Another connection is due.
    Dial,
    /// A message of this connection is due in a closed loop.
    Think(Token, Instant),
    /// A line is to be opened anew.
    Reopen(usize),
    /// Look over all connections for what has become too old.
    Look,
    /// Check whether the thread of a closed loop came round in time.
    Presence,
    /// A message may have become older than its timeout.
    TimeOut,
    /// Tell how it goes.
    Interval,
    /// A quarter of the time for sending is over.
    FirstQuarterEnds,
    /// Three quarters of it are.
    LastQuarterBegins,
    /// The time for sending is over.
    RunEnd,
    /// The time for what is outstanding is over.
    DrainEnd,
    /// The time for closing is over.
    CloseEnd,
}
