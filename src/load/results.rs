//! What a run has measured: every message of every connection has its place here. Pure data.
//!
//! Invariant: scheduled = verified + mismatched + errored + timed out + unanswered + outstanding;
//! at the end of a run nothing is outstanding.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::load::connection::Message;
use crate::load::latency::Latency;
use crate::load::payload::Difference;
use crate::load::step::Step;
use crate::load::world::KernelTimes;

/// Wrong bytes that are kept with their places: enough to see a pattern, and never a flood.
pub const DIFFERENCES_MAX: usize = 1000;

/// Lateness that can be seen in a result: twenty times what an idle machine needs to wake up.
pub const LATE: Duration = Duration::from_millis(1);

/// The measurements of a run, or of its warm-up, or of one thread.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Connections and messages.
    pub counts: Counts,
    /// From when a message was due until the last byte of its reply was read.
    pub response: Latency,
    /// From the send that took its last byte until then.
    pub service: Latency,
    /// The same of the first message of each connection: the server may have had to accept it yet.
    pub first: Latency,
    /// From when a message was due until that send: blocked and own together.
    pub lateness: Latency,
    /// The part of it in which no connection was free, or the socket took no bytes.
    pub blocked: Latency,
    /// The part of it in which the message could have been sent, and was not yet.
    pub own: Latency,
    /// Messages that waited for a free connection for longer than [`LATE`], and not because the run
    /// was behind.
    pub waited: u64,
    /// From the call of connect(2) until the connection was up.
    pub connect: Latency,
    /// What broke connections, by kind.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first wrong byte of each connection that had one, with the number of that connection;
    /// at most [`DIFFERENCES_MAX`].
    pub differences: Vec<(u32, Difference)>,
    /// The first and the last send.
    pub sends: Option<Sends>,
    /// The parts of a response by the kernel's own times, of the connections that have them.
    pub parts: Option<Box<Parts>>,
}

/// Where the time of a response went: the four follow each other, and their sum is the response.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// From when the message was due until the send that took its last byte.
    pub lateness: Latency,
    /// From there until its last byte was handed to the device.
    pub send_queue: Latency,
    /// From there until the last segment of the reply came off the device.
    pub wire_and_server: Latency,
    /// From there until the reply was read.
    pub receive_queue: Latency,
    /// Parts that were negative by more than [`CLOCK_SLACK`], which no part should be.
    pub negative: u64,
}

/// What may lie between two readings of two clocks that are taken for one moment.
pub const CLOCK_SLACK: Duration = Duration::from_micros(2);

/// How a run went, or one thread of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Places for connections that had one.
    pub lines_up: u32,
    /// From the end of the warm-up to the end of sending.
    pub sending: Duration,
    /// The same, or from the first reply to the last when that is longer: a server that lags
    /// behind must not look faster for it, and one that answers late, but steadily, not slower.
    pub elapsed: Duration,
    /// Messages that were verified while others were still due, those of the warm-up included.
    pub verified_in_time: u64,
    /// The messages that were due and not settled, of a run with a rate that came to its last
    /// quarter.
    pub backlog: Option<Backlog>,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// When messages were due from.
    pub start: Option<Instant>,
}

/// Messages that were due and not settled yet, at the end of the first quarter of a run and in the
/// last one. A backlog that shrinks again does not grow, so of the last quarter the least counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// At the end of the first quarter.
    pub first: u64,
    /// The least in the last quarter.
    pub last: u64,
    /// Messages that were due between the two quarters.
    pub due: u64,
}

/// The share by which a backlog may grow in a run whose queue merely wanders.
const WANDERING: f64 = 0.002;

/// Standard deviations by which it may grow by chance, when as many messages are on their way as a
/// Poisson distribution has.
const BY_CHANCE: f64 = 4.0;

/// The two ends of the row of sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sends {
    /// The first one.
    pub first: Send,
    /// The last one.
    pub last: Send,
}

/// One send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// When it took the last byte of its message.
    pub at: Instant,
    /// How late that was.
    pub lateness: Duration,
}

/// What became of connections and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that came up, those that were opened anew included.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Messages that were due.
    pub scheduled: u64,
    /// Messages whose reply is right in every byte.
    pub verified: u64,
    /// Messages whose reply is wrong.
    pub mismatched: u64,
    /// Messages lost with their connection.
    pub errored: u64,
    /// Messages whose reply came too late, or not in time.
    pub timed_out: u64,
    /// Messages without a complete reply at the end.
    pub unanswered: u64,
    /// Bytes of verified messages, one way.
    pub verified_bytes: u64,
}

/// What became of the messages of one target.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Messages alone: connections are not counted here.
    pub counts: Counts,
    /// As in [`Results`].
    pub response: Latency,
    /// As in [`Results`].
    pub service: Latency,
}

/// How a message ended that was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its reply is wrong.
    Mismatched,
    /// Its connection broke.
    Errored,
    /// It became too old.
    TimedOut,
    /// The run ended.
    Unanswered,
}

/// What can break a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Nothing listens, or the connection was made with itself.
    Refused,
    /// No connection within [`crate::load::plan::PATIENCE`], or the kernel gave the peer up.
    TimedOut,
    /// The server reset the connection.
    Reset,
    /// The server closed its side before the run did.
    ClosedEarly,
    /// The server took the connection, and ended it before it sent a byte.
    ClosedAtOnce,
    /// A reply was wrong.
    WrongReply,
    /// Bytes came that answer nothing.
    SurplusBytes,
    /// The server did not close its side in time, see [`crate::load::plan::Plan::close_patience`].
    NotClosed,
    /// No local port is left for this pair of addresses.
    NoPort,
    /// This host does not have the local address of the plan.
    NoSource,
    /// Any other error of a call, by its step and its errno.
    Call(Step, i32),
}

impl ErrorKind {
    /// Returns the kind of an error of a call that was made at this step.
    pub fn at(step: Step, error: &io::Error) -> Self {
        match (error.kind(), step) {
            (io::ErrorKind::ConnectionRefused, _) => ErrorKind::Refused,
            (io::ErrorKind::TimedOut, _) => ErrorKind::TimedOut,
            // Only a connection that was up can be reset: before, a reset means that it was
            // refused.
            (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, Step::Connect) => {
                ErrorKind::ClosedAtOnce
            }
            (
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NotConnected
                | io::ErrorKind::BrokenPipe,
                Step::Connect | Step::Send | Step::Receive | Step::Finish,
            ) => ErrorKind::Reset,
            (io::ErrorKind::AddrNotAvailable, Step::Connect) => ErrorKind::NoPort,
            (io::ErrorKind::AddrNotAvailable, Step::Bind) => ErrorKind::NoSource,
            _ => ErrorKind::Call(step, error.raw_os_error().unwrap_or(0)),
        }
    }

    /// Returns whether a server that has gone away, or a way to it that was cut, causes this error.
    pub fn is_absence(self) -> bool {
        use nix::libc::{EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH};
        match self {
            ErrorKind::Refused
            | ErrorKind::TimedOut
            | ErrorKind::Reset
            | ErrorKind::ClosedEarly => true,
            ErrorKind::Call(Step::Connect | Step::Send | Step::Receive, errno) => {
                [EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH].contains(&errno)
            }
            _ => false,
        }
    }

    /// Returns whether this machine lacked something for a moment, so that the next attempt may
    /// succeed.
    pub fn is_shortage(self) -> bool {
        use nix::libc::{EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
        let ErrorKind::Call(_, errno) = self else {
            return false;
        };
        [EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC].contains(&errno)
    }

    /// Returns whether this machine lacked something that a new connection needs, so that no
    /// server has a part in it.
    pub fn is_own_lack(self) -> bool {
        match self {
            ErrorKind::NoPort | ErrorKind::NoSource => true,
            ErrorKind::Call(step, _) => step <= Step::KeepTimes && self.is_shortage(),
            _ => false,
        }
    }

    /// Returns advice, where it does not depend on the server.
    pub fn remedy(self) -> Option<&'static str> {
        use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
        Some(match self {
            ErrorKind::ClosedAtOnce => {
                "the server may take no more connections from one address (its \
                 --max-connections-per-ip): ask for fewer --connections, or name more --source \
                 addresses"
            }
            ErrorKind::NoPort => {
                "use fewer --connections, name more --source addresses or targets, or raise a \
                 small --churn; or end replaced connections with --close rst: one that was closed \
                 in order holds its local port (of sysctl net.ipv4.ip_local_port_range) in \
                 TIME_WAIT for a minute"
            }
            ErrorKind::NoSource => {
                "name --source addresses that this host has: `ip address` lists them"
            }
            ErrorKind::Call(Step::Open, EMFILE) => "raise `ulimit -Hn`, or use fewer --connections",
            ErrorKind::Call(Step::Open, ENFILE) => "raise sysctl fs.file-max",
            ErrorKind::Call(Step::Register, ENOSPC) => "raise sysctl fs.epoll.max_user_watches",
            ErrorKind::Call(_, ENOBUFS | ENOMEM) => {
                "the kernel has no memory for more: use fewer --connections, or smaller buffers \
                 (--send-buffer, --recv-buffer; sysctl net.ipv4.tcp_mem)"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Refused => write!(f, "connection refused"),
            ErrorKind::TimedOut => write!(f, "timed out"),
            ErrorKind::Reset => write!(f, "connection reset"),
            ErrorKind::ClosedEarly => write!(f, "closed early by the server"),
            ErrorKind::ClosedAtOnce => write!(f, "closed at once by the server"),
            ErrorKind::WrongReply => write!(f, "wrong reply"),
            ErrorKind::SurplusBytes => write!(f, "surplus bytes"),
            ErrorKind::NotClosed => write!(f, "not closed by the server"),
            ErrorKind::NoPort => write!(f, "no local port left"),
            ErrorKind::NoSource => write!(f, "the source is no address of this host"),
            ErrorKind::Call(step, errno) => {
                write!(f, "{step}: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl Results {
    /// A message was answered rightly. Returns its service: that and its response are recorded by
    /// [`Books`].
    ///
    /// [`Books`]: crate::load::books::Books
    #[inline]
    pub fn verified(&mut self, message: &Message, response: Duration) -> Duration {
        self.counts.verified(message);
        let lateness = message.lateness().unwrap_or_default();
        self.sent(message, lateness);
        let service = response.saturating_sub(lateness);
        if message.is_first() {
            self.first.record(service);
        }
        service
    }

    /// A message was answered at `now`, and the kernel told its own times.
    pub fn parts(&mut self, message: &Message, times: KernelTimes, now: Instant) {
        let sent = message.due + message.lateness().unwrap_or_default();
        let ends = [message.due, sent, times.sent, times.received, now];
        let parts = self.parts.get_or_insert_default();
        let places = [
            &mut parts.lateness,
            &mut parts.send_queue,
            &mut parts.wire_and_server,
            &mut parts.receive_queue,
        ];
        for (place, ends) in places.into_iter().zip(ends.windows(2)) {
            place.record(ends[1].saturating_duration_since(ends[0]));
            let negative = ends[0].saturating_duration_since(ends[1]);
            parts.negative += u64::from(negative > CLOCK_SLACK);
        }
    }

    /// A message ended otherwise, `age` after it was due: its times are known to be at least what
    /// they are then.
    pub fn lost(&mut self, loss: Loss, message: &Message, age: Duration) {
        self.counts.lost(loss);
        self.response.record_at_least(age);
        match message.lateness() {
            Some(lateness) => {
                self.sent(message, lateness);
                self.service.record_at_least(age.saturating_sub(lateness));
            }
            None => self.never_sent(message.own(age), age),
        }
    }

    /// A message ended that was never given to a connection. `own`: for how long it could have
    /// been.
    pub fn lost_waiting(&mut self, loss: Loss, own: Duration, age: Duration) {
        self.counts.lost(loss);
        self.response.record_at_least(age);
        self.never_sent(own, age);
    }

    /// Adds what another thread measured.
    pub fn merge(&mut self, other: &Results) {
        self.counts.merge(&other.counts);
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.first.merge(&other.first);
        self.lateness.merge(&other.lateness);
        self.blocked.merge(&other.blocked);
        self.own.merge(&other.own);
        self.waited += other.waited;
        self.connect.merge(&other.connect);
        for (kind, count) in &other.errors {
            *self.errors.entry(*kind).or_default() += count;
        }
        self.differences.extend(&other.differences);
        self.differences.truncate(DIFFERENCES_MAX);
        if let Some(theirs) = &other.parts {
            self.parts.get_or_insert_default().merge(theirs);
        }
        if let Some(theirs) = other.sends {
            self.add_send(theirs.first);
            self.add_send(theirs.last);
        }
    }

    /// A connection broke, or did not come up.
    pub fn error(&mut self, kind: ErrorKind) {
        *self.errors.entry(kind).or_default() += 1;
    }

    /// A byte was wrong.
    pub fn difference(&mut self, connection: u32, difference: Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push((connection, difference));
        }
    }

    /// Counts the lateness of a message that was sent in full.
    fn sent(&mut self, message: &Message, lateness: Duration) {
        let own = message.own(lateness).min(lateness);
        self.waited += u64::from(message.waited() > LATE);
        self.lateness.record(lateness);
        self.own.record(own);
        self.blocked.record(lateness - own);
        let at = message.due + lateness;
        self.add_send(Send { at, lateness });
    }

    fn never_sent(&mut self, own: Duration, age: Duration) {
        self.lateness.record_at_least(age);
        // For so long it could have been sent, and was not: that is known.
        self.waited += u64::from(age.saturating_sub(own) > LATE);
        self.own.record(own.min(age));
        self.blocked.record_at_least(age.saturating_sub(own));
    }

    fn add_send(&mut self, send: Send) {
        let sends = self.sends.get_or_insert(Sends {
            first: send,
            last: send,
        });
        if send.at < sends.first.at {
            sends.first = send;
        }
        if send.at >= sends.last.at {
            sends.last = send;
        }
    }
}

impl Backlog {
    /// Returns the share of the messages due between the two quarters by which it grew; `None`: it
    /// did not, or it may have been chance. `slow`: how long the slowest of a hundred replies take.
    pub fn growth(&self, slow: Duration, sending: Duration) -> Option<f64> {
        let grown = self.last as f64 - self.first as f64;
        let share = grown / self.due.max(1) as f64;
        let is_chance = grown < BY_CHANCE * ((self.first + self.last) as f64).sqrt();
        // Where replies take so long, more and more are on their way until the first ones come.
        let is_filling = slow > sending / 4;
        (share > WANDERING && !is_chance && !is_filling).then_some(share)
    }
}

impl Course {
    /// Adds that of another thread.
    pub fn merge(&mut self, other: &Course) {
        self.lines_up += other.lines_up;
        self.sending = self.sending.max(other.sending);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.verified_in_time += other.verified_in_time;
        self.backlog = self
            .backlog
            .zip(other.backlog)
            .map(|(ours, theirs)| Backlog {
                first: ours.first + theirs.first,
                last: ours.last + theirs.last,
                due: ours.due + theirs.due,
            });
        self.interrupted |= other.interrupted;
        self.start = self.start.min(other.start);
    }
}

impl Parts {
    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Parts) {
        self.lateness.merge(&other.lateness);
        self.send_queue.merge(&other.send_queue);
        self.wire_and_server.merge(&other.wire_and_server);
        self.receive_queue.merge(&other.receive_queue);
        self.negative += other.negative;
    }
}

impl Tally {
    /// Counts a message that was answered rightly.
    pub fn verified(&mut self, message: &Message, response: Duration) {
        self.counts.verified(message);
        self.response.record(response);
        let lateness = message.lateness().unwrap_or_default();
        self.service.record(response.saturating_sub(lateness));
    }

    /// Counts a message that ended otherwise, `age` after it was due. `lateness`: until it was
    /// sent, if it was.
    pub fn lost(&mut self, loss: Loss, lateness: Option<Duration>, age: Duration) {
        self.counts.lost(loss);
        self.response.record_at_least(age);
        if let Some(lateness) = lateness {
            self.service.record_at_least(age.saturating_sub(lateness));
        }
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Tally) {
        self.counts.merge(&other.counts);
        self.response.merge(&other.response);
        self.service.merge(&other.service);
    }
}

impl Counts {
    /// Counts a message that was answered rightly.
    #[inline]
    pub fn verified(&mut self, message: &Message) {
        self.verified += 1;
        self.verified_bytes += message.size();
    }

    /// Counts a message that ended otherwise.
    pub fn lost(&mut self, loss: Loss) {
        *match loss {
            Loss::Mismatched => &mut self.mismatched,
            Loss::Errored => &mut self.errored,
            Loss::TimedOut => &mut self.timed_out,
            Loss::Unanswered => &mut self.unanswered,
        } += 1;
    }

    /// Messages whose fate is sealed.
    pub fn settled(&self) -> u64 {
        self.verified + self.mismatched + self.errored + self.timed_out + self.unanswered
    }

    /// Adds those of another thread, or another part of the run.
    pub fn merge(&mut self, other: &Counts) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.scheduled += other.scheduled;
        self.verified += other.verified;
        self.mismatched += other.mismatched;
        self.errored += other.errored;
        self.timed_out += other.timed_out;
        self.unanswered += other.unanswered;
        self.verified_bytes += other.verified_bytes;
    }
}
