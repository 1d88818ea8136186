//! What a load run is to do: decided before it starts, and not changed by it. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use crate::load::payload::Content;
use crate::load::schedule::{Arrivals, End, Part, Rate};
use crate::load::sizes::Sizes;
use crate::socket::Options;
use crate::units::nanoseconds;

/// A load run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The servers, used in turn; at least one.
    pub targets: Vec<SocketAddr>,
    /// Local addresses with port 0, used in turn; none: the kernel chooses.
    pub sources: Vec<SocketAddr>,
    /// Options of every connection.
    pub options: Options,
    /// How many connections there are at a time; all are up before the first message.
    pub connections: u32,
    /// Connections opened a second before the first message; `None`: as fast as the window allows.
    pub connect_rate: Option<u32>,
    /// Threads that share the connections and the schedule.
    pub threads: u32,
    /// When messages are due.
    pub pace: Pace,
    /// Messages in flight on a connection.
    pub depth: u32,
    /// Bytes of a message.
    pub sizes: Sizes,
    /// Which bytes are sent.
    pub content: Content,
    /// Whether replies are compared with what was sent. A benchmark measures what that costs; no
    /// run that a person starts goes without it.
    pub verify: bool,
    /// What everything random is computed from.
    pub seed: u64,
    /// When the run ends.
    pub stop: Stop,
    /// Messages due so soon after the start are not part of the result.
    pub warmup: Duration,
    /// How long the run waits for what is outstanding when its time is over.
    pub drain: Duration,
    /// The age at which a message is given up; `None`: at none.
    pub timeout: Option<Duration>,
    /// Replace connections while the run goes on.
    pub churn: Option<Churn>,
    /// Do not sleep during the last [`SPIN`] before a message is due.
    pub spin: bool,
    /// Of so many connections the kernel keeps its own times.
    pub kernel_timestamps: u32,
    /// How often the run tells how it goes.
    pub interval: Duration,
}

/// When messages are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So long after the reply before: the server sets the pace.
    Closed {
        /// The time between a reply and the next message in its place.
        think: Duration,
    },
    /// By a schedule: the server has to follow.
    Open {
        /// Messages a second over all connections.
        rate: Rate,
        /// How the gaps are spread.
        arrivals: Arrivals,
        /// Which connection a message goes to.
        pacing: Pacing,
    },
}

/// Which connection a scheduled message goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pacing {
    /// Of the target whose turn it is, the one that has been free the longest: every target gets
    /// the same number of messages, however long it takes for them.
    #[default]
    Global,
    /// Of all targets, the one that has been free the longest: the faster a target, the more
    /// messages it gets.
    FirstFree,
    /// Each connection has a line of its own, phases interleaved.
    PerConnection,
}

/// When a run stops sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After so many messages in all.
    Messages(u64),
}

/// How connections are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Churn {
    /// Messages of one connection.
    pub messages: u64,
    /// How it ends.
    pub close: Close,
}

/// How a connection is ended by the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Close {
    /// In order: our FIN, then the server's.
    #[default]
    Fin,
    /// At once: a reset, which leaves nothing in TIME_WAIT.
    Rst,
}

/// Connects under way at once. The kernel's queue of the server must hold them, and a SYN that
/// finds it full is sent again only after a second.
pub const CONNECT_WINDOW: usize = 512;

/// How long nothing may happen before what is awaited is given up: no connection comes up, or no
/// byte of a reply arrives in a run that waits for a number of messages.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The least time for which no connection may end, after the run has closed its side of it or of
/// the last one, before the server is said not to close; see [`Plan::close_patience`].
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A connection that ends so soon after it came up, without a byte of a reply, was closed at once:
/// a server that takes no more says so by the first segment that it sends, a round trip later.
pub const AT_ONCE: Duration = Duration::from_millis(500);

/// How often connections are looked over for what has become too old, and TCP_INFO of some is
/// read: a disturbance of a second is seen in ten of such samples.
pub const LOOK: Duration = Duration::from_millis(100);

/// Connections whose TCP_INFO is read at one such time, in turn. A reading takes about 1 µs, so
/// that all of them together take less than a thousandth of a CPU.
pub const SAMPLE_CONNECTIONS: usize = 16;
/// What a message may be older than its timeout before it is given up, as a part of that: looking
/// over thousands of connections takes a while, and so is not done for each message.
pub const OVERDUE: u32 = 10;
/// The least of such times, see [`Plan::overdue`].
pub const OVERDUE_LEAST: Duration = Duration::from_millis(1);

/// From the moment at which all connections are up to the first message: all threads have seen it.
pub const LEAD: Duration = Duration::from_millis(5);

/// What an idle CPU needs at most to wake, as a rule: for so long before a message is due a run
/// that spins does not sleep.
pub const SPIN: Duration = Duration::from_micros(60);

/// The first wait before a broken connection is opened again; it doubles with every failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(10);

/// The longest such wait: a server that is back is found again within a second.
pub const BACKOFF_LAST: Duration = Duration::from_secs(1);

/// Bytes that one read or write may take.
pub const CALL_BYTES: usize = 64 * 1024;

/// Connections that are read from, one after the other, before their replies are booked: as many
/// as in a group of the server.
pub const GROUP_CONNECTIONS: usize = 32;

/// The buffer that all connections share: the replies of a group wait in it to be booked.
pub const SCRATCH_BYTES: usize = 4 * CALL_BYTES;

/// Bytes that one connection may receive in a turn before the others get theirs.
pub const TURN_BYTES: usize = 256 * 1024;

/// Connections that are opened or continued in one turn before events are looked at again:
/// replies must not wait behind a long row of others' first messages.
pub const TURN_CONNECTIONS: usize = 64;

/// Messages that are sent one after the other before replies are looked at again.
pub const TURN_MESSAGES: usize = 64;

impl Plan {
    /// The plainest run: small messages over one connection in a closed loop, every reply verified.
    pub fn new(target: SocketAddr, stop: Stop) -> Plan {
        Plan {
            targets: vec![target],
            sources: Vec::new(),
            options: Options::default(),
            connections: 1,
            connect_rate: None,
            threads: 1,
            pace: Pace::Closed {
                think: Duration::ZERO,
            },
            depth: 1,
            sizes: Sizes::Fixed(64),
            content: Content::Text,
            verify: true,
            seed: 1,
            stop,
            warmup: Duration::ZERO,
            drain: Duration::from_secs(1),
            timeout: None,
            churn: None,
            spin: false,
            kernel_timestamps: 0,
            interval: Duration::from_secs(1),
        }
    }

    /// The connections of a part of this run.
    pub fn part(&self, thread: u32) -> Part {
        Part {
            index: thread,
            of: self.threads,
        }
    }

    /// How many messages a line is to send in a closed loop; `None`: no bound. A total is dealt
    /// evenly, the first lines taking what is left over.
    pub fn quota(&self, line: u32) -> Option<u64> {
        let line = Part {
            index: line,
            of: self.connections,
        };
        match self.stop {
            Stop::After(_) => None,
            Stop::Messages(messages) => Some(line.share(messages)),
        }
    }

    /// Where the schedule of an open loop ends.
    pub fn schedule_end(&self) -> End {
        match self.stop {
            Stop::After(duration) => End::Before(nanoseconds(duration)),
            Stop::Messages(messages) => End::Number(messages),
        }
    }

    /// How long the schedule of an open loop is, by its numbers alone; `None`: that is not known
    /// before it is drawn.
    pub fn span(&self) -> Option<Duration> {
        match (self.stop, self.pace) {
            (Stop::After(duration), _) => Some(duration),
            (
                Stop::Messages(messages),
                Pace::Open {
                    rate,
                    arrivals: Arrivals::Constant,
                    ..
                },
            ) => Some(Duration::from_nanos(rate.time_of(messages))),
            (Stop::Messages(_), _) => None,
        }
    }

    /// Returns the time between a reply and the next message of a closed loop.
    pub fn think(&self) -> Duration {
        match self.pace {
            Pace::Closed { think } => think,
            Pace::Open { .. } => Duration::ZERO,
        }
    }

    /// Returns what a message may be older than its timeout when it is given up, as long as the run
    /// itself is in time: a tenth of it, but not less than [`OVERDUE_LEAST`] and not more than
    /// [`LOOK`].
    pub fn overdue(&self) -> Duration {
        let timeout = self.timeout.unwrap_or_default();
        (timeout / OVERDUE).clamp(OVERDUE_LEAST, LOOK)
    }

    /// Returns how long the run waits for a close when none comes: a server that may take long to
    /// answer may take as long to close.
    pub fn close_patience(&self) -> Duration {
        CLOSE_PATIENCE.max(self.drain)
    }

    /// Returns how many queues the messages of a schedule wait in, each for connections of its own:
    /// line k belongs to queue k mod that number.
    pub fn queues(&self, pacing: Pacing) -> u32 {
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        match pacing {
            Pacing::Global => targets.min(self.connections).max(1),
            Pacing::FirstFree => 1,
            Pacing::PerConnection => self.connections,
        }
    }

    /// Returns the target of the messages in the queue of this line; `None`: that of whichever
    /// connection takes them.
    pub fn target_of_queue(&self, line: u32) -> Option<usize> {
        let Pace::Open { pacing, .. } = self.pace else {
            return Some(self.target_of(line));
        };
        let is_shared = pacing == Pacing::FirstFree && self.targets.len() > 1;
        (!is_shared).then(|| self.target_of(line))
    }

    /// Returns the place in `targets` of the server that a line uses.
    #[inline(always)]
    pub fn target_of(&self, line: u32) -> usize {
        match self.targets.len() {
            0 | 1 => 0, // Asked for with every reply, and a division is not free.
            targets => line as usize % targets,
        }
    }

    /// The addresses of a line: every pair of target and source is used before one is used again.
    pub fn route(&self, line: u32) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let line = line as usize;
        let target = self.targets.get(line % self.targets.len().max(1))?;
        let source = match self.sources.len() {
            0 => None,
            sources => self.sources.get(line / self.targets.len() % sources),
        };
        Some((*target, source.copied()))
    }
}
