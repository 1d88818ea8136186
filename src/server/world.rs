//! What the engine needs of the world: a clock, clients, timers. Pure: the kernel implements it,
//! and so does the simulated kernel of the tests.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::reactor::slots::Token;
use crate::stream::Stream;

/// The world of one reactor. Its listeners are numbered from 0.
pub trait World {
    /// Its connections; dropping one closes it.
    type Socket: Socket;

    /// The time. It never goes back.
    fn now(&self) -> Instant;

    /// Takes the client that has waited longest at this listener; tells its address only when that
    /// is wanted, since it takes time to tell. See accept(2).
    fn accept(
        &mut self,
        listener: usize,
        wants_address: bool,
    ) -> io::Result<(Self::Socket, Option<SocketAddr>)>;

    /// Events of this client come with this token from now on.
    fn watch(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// No new client may come to this listener any more; those who are coming may arrive for the
    /// time that is returned.
    fn hush(&mut self, listener: usize) -> Duration;

    /// Closes a listener, and tells how many clients in its queue lose their connection with it.
    fn close(&mut self, listener: usize) -> u64;

    /// Wakes another shard of this server: it may accept clients again.
    fn wake(&mut self, shard: usize);

    /// The timer comes back when `deadline` has passed; it cannot be taken back.
    fn set_timer(&mut self, deadline: Instant, timer: Timer);
}

/// A client's socket.
pub trait Socket: Stream {
    /// How its output fares.
    fn output(&self) -> io::Result<Output>;

    /// Lets the kernel send a keep-alive probe now, unless something is outstanding: a segment
    /// without bytes that the client's kernel must answer (RFC 9293, 3.8.4).
    fn probe(&mut self) -> io::Result<()>;

    /// Makes closing it a reset: SO_LINGER with a time of 0, socket(7).
    fn reset_on_close(&mut self) -> io::Result<()>;
}

/// What the kernel knows of the bytes that it was given for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Bytes that the client has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that the kernel has taken and the client has not acknowledged.
    pub outstanding: u64,
    /// How long no byte has come, and none has gone out.
    pub quiet: Duration,
    /// How long no segment has come; one without bytes counts as well.
    pub heard: Duration,
    /// Keep-alive probes that the kernel has sent since then.
    pub unanswered: u32,
}

/// What a time is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Try to accept again.
    RetryAccept,
    /// A client was sent something a while ago, or has had its time to acknowledge it.
    Stall,
    /// A client has had its time to say something.
    Idle,
    /// A client has had its time to close its side.
    Linger,
    /// A silent client is to be probed, or has had its time to answer.
    Probe,
    /// The table is to be walked for clients that the keep-alive does not know yet.
    Walk,
    /// Those who were coming to a listener that closes have arrived.
    Hushed,
    /// A stopping server looks over its clients.
    Look,
    /// A stopping server has waited long enough.
    DrainEnd,
}
