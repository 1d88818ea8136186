//! The plan of a load run: all its parameters, decided before it starts and not changed by it.
//! Pure.

pub mod payload;
pub mod profile;
pub mod random;
pub mod schedule;
pub mod sizes;

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::echo::Expect;
use crate::load::latency::percentile::Percentile;
use crate::load::plan::payload::Content;
use crate::load::plan::profile::Profile;
use crate::load::plan::schedule::{Arrivals, End, Part, Rate, RateOverTime};
use crate::load::plan::sizes::Sizes;
use crate::sys::socket::Options;
use crate::units::nanoseconds;

/// The parameters of a load run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Addresses of the servers, used in turn; at least one.
    pub targets: Vec<SocketAddr>,
    /// Local addresses with port 0, used in turn; if empty, the kernel chooses.
    pub sources: Vec<SocketAddr>,
    /// Socket options of every connection.
    pub options: Options,
    /// Number of concurrent connections; all are up before the first message.
    pub connections: u32,
    /// Connections opened per second before the first message; `None`: as fast as
    /// [`CONNECT_WINDOW`] allows.
    pub connect_rate: Option<u32>,
    /// Number of threads that share the connections and the schedule.
    pub threads: u32,
    /// The rule by which messages become due.
    pub pace: Pace,
    /// The rates of an open loop, if they change during the run: the run stops sending at their
    /// end, and the rate in `pace` is their mean. `None`: the rate in `pace` throughout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Maximum number of messages in flight on a connection.
    pub depth: u32,
    /// Sizes of the messages, in bytes.
    pub sizes: Sizes,
    /// Content of the messages.
    #[serde(with = "payload::content")]
    pub content: Content,
    /// The rule by which replies are verified.
    #[serde(default)]
    pub expect: Expect,
    /// The seed of everything random.
    pub seed: u64,
    /// The condition after which the run stops sending.
    pub stop: Stop,
    /// Messages that are due within this time after the start are not part of the result.
    pub warmup: Duration,
    /// Maximum time for which the run waits for outstanding messages after its sending time is
    /// over.
    pub drain: Duration,
    /// The age at which a message is given up; `None`: no message is.
    pub timeout: Option<Duration>,
    /// The replacement of connections during the run; `None`: they are not replaced.
    pub churn: Option<Churn>,
    /// Whether a thread polls without sleeping during the last [`SPIN`] before a message is due.
    pub spin: bool,
    /// Number of connections for which the kernel's timestamps are recorded.
    pub kernel_timestamps: u32,
    /// The length of the intervals at which the run reports its progress.
    pub interval: Duration,
    /// The percentiles that are printed and judged, in ascending order.
    pub percentiles: Vec<Percentile>,
    /// Whether the reports of progress contain all times so far, for a record of the run.
    pub record: bool,
}

/// The rule by which messages become due: a closed loop, or a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// A fixed time after the previous reply: the server sets the pace.
    Closed {
        /// The time between a reply and the next message in the same slot of the connection's
        /// `depth`.
        think: Duration,
    },
    /// By a schedule, which does not depend on the server.
    Open {
        /// Messages per second over all connections; the mean of them if the plan has a profile.
        rate: Rate,
        /// The distribution of the gaps between messages.
        arrivals: Arrivals,
        /// The rule by which a connection is chosen for a message.
        pacing: Pacing,
    },
}

/// The rule by which a scheduled message is assigned to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pacing {
    /// The targets in turn, and there the connection that has been free longest.
    #[default]
    Global,
    /// The connection that has been free longest at any target: faster targets get more.
    FirstFree,
    /// A separate schedule for each connection.
    PerConnection,
}

/// The condition after which a run stops sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After this many messages in total.
    Messages(u64),
}

/// The replacement of connections during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Churn {
    /// Number of messages after which a connection is replaced.
    pub messages: u64,
    /// The way in which it is closed.
    pub close: Close,
}

/// The way in which the run closes a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Close {
    /// A FIN before the server's, which leaves the local port in TIME_WAIT.
    #[default]
    Fin,
    /// A reset, which leaves no socket in TIME_WAIT.
    Rst,
}

/// Maximum number of connection attempts in progress. The accept queue of the server must hold
/// them: a SYN that finds it full is retransmitted only after a second.
pub const CONNECT_WINDOW: usize = 512;

/// The time without progress after which the run gives up: no connection is established, or no byte
/// of a reply arrives in a run that is to send a number of messages.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The minimum time without the end of any connection, since the run sent its last FIN or the last
/// connection ended, after which the server is considered not to close; see
/// [`Plan::close_timeout`].
pub const CLOSE_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// A connection that ends within this time after it was established, without a byte of a reply,
/// counts as closed at once: a server that accepts no more connections closes with its first
/// segment, which arrives one round trip later.
pub const EARLY_CLOSE: Duration = Duration::from_millis(500);

/// The period at which connections are checked for expired timeouts, and TCP_INFO of some is
/// sampled: a disturbance of one second appears in ten samples.
pub const SCAN_PERIOD: Duration = Duration::from_millis(100);

/// Number of connections whose TCP_INFO is read per sample; the connections take turns. A reading
/// takes about 1 µs, so that all of them together take less than a thousandth of a CPU.
pub const SAMPLE_CONNECTIONS: usize = 16;
/// Divisor of the timeout: a message may exceed its timeout by the quotient before it is given up.
/// A scan of thousands of connections takes a while, so there is not one for each message.
pub const OVERDUE: u32 = 10;
/// The lower bound of that quotient, see [`Plan::overdue`].
pub const OVERDUE_LEAST: Duration = Duration::from_millis(1);

/// The time between the moment at which all connections are up and the first message; within it all
/// threads learn of the start.
pub const START_DELAY: Duration = Duration::from_millis(5);

/// The time that an idle CPU usually needs at most to wake up. A run that spins does not sleep for
/// this long before a message is due.
pub const SPIN: Duration = Duration::from_micros(60);

/// The wait before the first attempt to reopen a broken connection; it doubles with every failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The upper bound of that wait: a run reconnects within a second to a server that is back.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Maximum number of bytes in one read or write.
pub const CALL_BYTES: usize = 64 * 1024;

/// Number of connections that are read one after the other before their replies are recorded: the
/// size of a group in the server.
pub const GROUP_CONNECTIONS: usize = 32;

/// The size of the buffer that all connections share; it holds the replies of a group until they
/// are recorded.
pub const SCRATCH_BYTES: usize = 4 * CALL_BYTES;

/// Maximum number of bytes that one connection may receive in a turn, and maximum number that it
/// may send, before the others are served.
pub const TURN_BYTES: usize = 256 * 1024;

/// Maximum number of connections that are opened or continued in one turn before the next poll, so
/// that replies do not wait behind a long queue of first messages of other connections.
pub const TURN_CONNECTIONS: usize = 64;

/// Maximum number of messages that are sent one after the other before replies are read again.
pub const TURN_MESSAGES: usize = 64;

impl Plan {
    /// Returns the simplest plan: small messages over one connection in a closed loop, every reply
    /// verified.
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
            profile: None,
            depth: 1,
            sizes: Sizes::Fixed(64),
            content: Content::Text,
            expect: Expect::Upper,
            seed: 1,
            stop,
            warmup: Duration::ZERO,
            drain: Duration::from_secs(1),
            timeout: None,
            churn: None,
            spin: false,
            kernel_timestamps: 0,
            interval: Duration::from_secs(1),
            percentiles: Percentile::STANDARD.to_vec(),
            record: false,
        }
    }

    /// Sets the rates of an open loop, and with those of a profile its mean and its length.
    pub fn set_rate(&mut self, rate: RateOverTime, arrivals: Arrivals, pacing: Pacing) {
        let mean = match rate {
            RateOverTime::Constant(rate) => rate,
            RateOverTime::Profile(profile) => {
                let mean = profile.mean_rate(Duration::ZERO, profile.length());
                self.stop = Stop::After(profile.length());
                self.profile = Some(profile);
                Rate::of_millionths((mean * 1e6) as u64)
            }
        };
        self.pace = Pace::Open {
            rate: mean,
            arrivals,
            pacing,
        };
    }

    /// Returns the rates of an open loop; `None` for a closed loop.
    pub fn rate_over_time(&self) -> Option<RateOverTime> {
        match (&self.profile, self.pace) {
            (_, Pace::Closed { .. }) => None,
            (Some(profile), Pace::Open { .. }) => Some(profile.clone().into()),
            (None, Pace::Open { rate, .. }) => Some(rate.into()),
        }
    }

    /// Returns the share of the connections and of the schedule that a thread has.
    pub fn part(&self, thread: u32) -> Part {
        Part {
            index: thread,
            of: self.threads,
        }
    }

    /// Returns how many messages a line is to send in a closed loop; `None`: no limit. A total is
    /// divided evenly; the first lines take the remainder.
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

    /// Returns the end of the schedule of an open loop.
    pub fn schedule_end(&self) -> End {
        match self.stop {
            Stop::After(duration) => End::Before(nanoseconds(duration)),
            Stop::Messages(messages) => End::Number(messages),
        }
    }

    /// Returns the length of the schedule of an open loop, if the parameters alone determine it;
    /// `None`: it is not known before the gaps are drawn.
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

    /// Returns by how much a message may exceed its timeout before it is given up, provided that
    /// the run itself is not late: a tenth of the timeout, but at least [`OVERDUE_LEAST`] and at
    /// most [`SCAN_PERIOD`].
    pub fn overdue(&self) -> Duration {
        let timeout = self.timeout.unwrap_or_default();
        (timeout / OVERDUE).clamp(OVERDUE_LEAST, SCAN_PERIOD)
    }

    /// Returns how long the run waits without the end of any connection before it gives up closing:
    /// a server that may take long to answer may take as long to close.
    pub fn close_timeout(&self) -> Duration {
        CLOSE_TIMEOUT_MIN.max(self.drain)
    }

    /// Returns the number of queues in which the messages of a schedule wait. Each queue has its
    /// own connections: line k belongs to queue k mod that number.
    pub fn queues(&self, pacing: Pacing) -> u32 {
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        match pacing {
            Pacing::Global => targets.min(self.connections).max(1),
            Pacing::FirstFree => 1,
            Pacing::PerConnection => self.connections,
        }
    }

    /// Returns the index in `targets` of the server that the messages in the queue of this line are
    /// sent to; `None`: that of the connection that takes the message.
    pub fn target_of_queue(&self, line: u32) -> Option<usize> {
        let Pace::Open { pacing, .. } = self.pace else {
            return Some(self.target_of(line));
        };
        let is_shared = pacing == Pacing::FirstFree && self.targets.len() > 1;
        (!is_shared).then(|| self.target_of(line))
    }

    /// Returns the index in `targets` of the server that a line uses.
    #[inline(always)]
    pub fn target_of(&self, line: u32) -> usize {
        match self.targets.len() {
            0 | 1 => 0, // Called for every reply, and a division is not free.
            targets => line as usize % targets,
        }
    }

    /// Returns the target and the source of a line. Every pair of the two is used before one is
    /// used again.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_a_profile_is_written_as_before_there_were_any() {
        let mut plan = Plan::new(([127, 0, 0, 1], 1).into(), Stop::Messages(1));
        let rate = Rate::parse("333.3").unwrap();
        plan.set_rate(rate.into(), Arrivals::Poisson, Pacing::Global);
        let text = serde_json::to_string(&plan).unwrap();
        assert!(!text.contains("profile"), "{text}");
        let read: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(read.rate_over_time(), Some(rate.into()));
        assert_eq!(read.stop, Stop::Messages(1));
        let profile: Profile = "0..100:30s,50:1m30s".parse().unwrap();
        plan.set_rate(profile.clone().into(), Arrivals::Constant, Pacing::Global);
        let text = serde_json::to_string(&plan).unwrap();
        assert!(
            text.contains("\"profile\":\"0..100:30s,50:1m30s\""),
            "{text}"
        );
        let read: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!(read.rate_over_time(), Some(profile.into()));
        assert_eq!(read.span(), Some(Duration::from_secs(120)));
        for bad in ["0..100:30s", "-1:30s", "5:1h,"] {
            let text = text.replace("0..100:30s,50:1m30s", bad);
            assert_eq!(
                serde_json::from_str::<Plan>(&text).is_ok(),
                bad.starts_with('0')
            );
        }
    }
}
