//! The environment of the engine, as traits: a clock, sockets and timers. Pure: the kernel
//! implements them, and so does the simulated kernel of the tests.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::stream::Stream;

/// The environment of one reactor. Its listeners are numbered from 0.
pub trait World {
    /// The socket of a connection; dropping it closes the connection.
    type Socket: Socket;

    /// Returns the current time, which never goes back.
    fn now(&self) -> Instant;

    /// Accepts the client that has waited longest in the accept queue of this listener. Returns its
    /// address only if it is wanted, since that takes time. See accept(2).
    fn accept(
        &mut self,
        listener: usize,
        wants_address: bool,
    ) -> io::Result<(Self::Socket, Option<SocketAddr>)>;

    /// Registers a client, whose events are reported with this token from now on.
    fn register(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// Stops new clients from connecting to this listener. Returns the time for which handshakes in
    /// progress may still complete.
    fn quiesce(&mut self, listener: usize) -> Duration;

    /// Closes a listener. Returns the number of clients in its accept queue that lose their
    /// connection.
    fn close(&mut self, listener: usize) -> u64;

    /// Wakes another shard of this server: it may accept clients again.
    fn wake(&mut self, shard: usize);

    /// Sets a timer, which becomes an event when `deadline` has passed; it cannot be cancelled.
    fn set_timer(&mut self, deadline: Instant, timer: Timer);
}

/// A client's socket.
pub trait Socket: Stream {
    /// Returns the state of the client's output.
    fn output(&self) -> io::Result<Output>;

    /// Makes the kernel send a keep-alive probe now, unless something is outstanding: a segment
    /// without bytes that the client's kernel must answer (RFC 9293, 3.8.4).
    fn probe(&mut self) -> io::Result<()>;

    /// Makes closing the socket reset the connection: SO_LINGER with a time of 0, socket(7).
    fn reset_on_close(&mut self) -> io::Result<()>;
}

/// The kernel's data on the bytes that it was given for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Bytes that the client has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that the kernel has taken and the client has not acknowledged.
    pub outstanding: u64,
    /// Time since a byte was last received or sent.
    pub quiet: Duration,
    /// Time since a segment was last received; one without bytes counts as well.
    pub heard: Duration,
    /// Keep-alive probes that the kernel has sent since then.
    pub unanswered: u32,
}

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Accepting is tried again.
    RetryAccept,
    /// Clients that were sent something are due for a stall check.
    Stall,
    /// Clients that may have been silent for too long are checked.
    Idle,
    /// The time of clients to close their side is over.
    Linger,
    /// Silent clients are checked, and probed if they have been silent for long enough.
    Probe,
    /// The table is scanned for clients that the keep-alive has not enrolled yet.
    Scan,
    /// Handshakes in progress at a listener that closes have completed.
    Quiesced,
    /// The clients of a stopping server are checked.
    DrainCheck,
    /// The drain of a stopping server ends.
    DrainEnd,
}
