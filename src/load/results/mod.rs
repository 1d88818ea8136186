//! The measurements of a run: every message of every connection is counted here. Pure data.
//!
//! Invariant: scheduled = verified + mismatched + errored + timed out + unanswered + outstanding;
//! at the end of a run nothing is outstanding.

pub mod evidence;
pub mod pairs;
pub mod recorder;
pub mod stages;
pub mod stalls;
pub mod step;
pub mod summary;
pub mod targets;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::echo::Difference;
use crate::load::engine::connection::Message;
use crate::load::engine::world::KernelTimes;
use crate::load::latency::Latency;
use crate::load::results::step::Step;
use crate::sys::monotonic;

/// Maximum number of wrong bytes that are kept with their offsets: enough to see a pattern, and a
/// bound on the memory.
pub const DIFFERENCES_MAX: usize = 1000;

/// The lateness above which a delay is visible in a result: twenty times what an idle machine needs
/// to wake up.
pub const VISIBLE_LATENESS: Duration = Duration::from_millis(1);

/// The measurements of a run, or of its warm-up, or of one thread.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Counts of connections and messages.
    pub counts: Counts,
    /// Time from when a message was due until the last byte of its reply was read.
    pub response: Latency,
    /// Time from the send that took the last byte of a message until the last byte of its reply was
    /// read.
    pub service: Latency,
    /// Service times of the first message of each connection, which the server may have had to
    /// accept first.
    pub first: Latency,
    /// Time from when a message was due until the send that took its last byte: blocked and own
    /// together.
    pub lateness: Latency,
    /// The part of the lateness in which no connection was free, or the socket accepted no bytes.
    pub blocked: Latency,
    /// The part of the lateness in which the message could have been sent but was not.
    pub own: Latency,
    /// Number of messages that waited for a free connection for longer than [`VISIBLE_LATENESS`],
    /// where the run itself was not behind its schedule.
    pub waited: u64,
    /// Time from the call of connect(2) until the connection was established.
    pub connect: Latency,
    /// Number of broken connections and failed attempts, by cause.
    #[serde(with = "pairs")]
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first wrong byte of each connection that received one, with the number of that
    /// connection; at most [`DIFFERENCES_MAX`].
    pub differences: Vec<(u32, Difference)>,
    /// The first and the last send.
    pub sends: Option<Sends>,
    /// The parts of the responses by the kernel's timestamps, for the connections that have them.
    pub parts: Option<Box<ResponseParts>>,
}

/// The parts of a response. The four follow one another, and their sum is the response.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResponseParts {
    /// Time from when the message was due until the send that took its last byte.
    pub lateness: Latency,
    /// Time from that send until the last byte of the message was handed to the device.
    pub send_queue: Latency,
    /// Time from there until the last segment of the reply was received from the device.
    pub wire_and_server: Latency,
    /// Time from there until the reply was read.
    pub receive_queue: Latency,
    /// Number of parts that were negative by more than [`CLOCK_SLACK`]; no part should be.
    pub negative: u64,
}

/// The accepted difference between two clocks that are read for the same moment.
pub const CLOCK_SLACK: Duration = Duration::from_micros(2);

/// The times of a run, or of one thread of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTimes {
    /// Number of lines that had a connection at some time.
    pub lines_up: u32,
    /// Time from the end of the warm-up to the end of sending.
    pub sending: Duration,
    /// The larger of `sending` and the time from the first verified reply to the last: a server
    /// that lags behind must not seem faster for it, and one that answers late, but steadily, must
    /// not seem slower.
    pub elapsed: Duration,
    /// Messages that were verified before sending ended, those of the warm-up included.
    pub verified_in_time: u64,
    /// The backlog; `None` for a run without a rate, or one that ended before its last quarter.
    pub backlog: Option<Backlog>,
    /// Whether a signal ended the run.
    pub interrupted: bool,
    /// The time from which messages were due.
    #[serde(with = "monotonic::optional")]
    pub start: Option<Instant>,
}

/// Messages that were due and not settled yet, at the end of the first quarter of a run and in the
/// last quarter. Of the last quarter the minimum counts, since a backlog that shrinks again does
/// not grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Their number at the end of the first quarter.
    pub first: u64,
    /// Their minimum in the last quarter.
    pub last: u64,
    /// Messages that became due between the two quarters.
    pub due: u64,
}

/// The growth of a backlog, as a share of the messages due, up to which it is taken for
/// fluctuation.
const WANDERING: f64 = 0.002;

/// The growth of a backlog up to which it is taken for chance, in standard deviations, if the
/// number of messages in flight has a Poisson distribution.
const BY_CHANCE: f64 = 4.0;

/// The first and the last send of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sends {
    /// The first send.
    pub first: Send,
    /// The last send.
    pub last: Send,
}

/// A send that completed a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// The time of the send that took the last byte of its message.
    #[serde(with = "monotonic")]
    pub at: Instant,
    /// The lateness of that message.
    pub lateness: Duration,
}

/// Outcomes of connections and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that were established, reopened ones included.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub failed: u64,
    /// Messages that were due.
    pub scheduled: u64,
    /// Messages whose reply is correct in every byte.
    pub verified: u64,
    /// Messages whose reply is wrong.
    pub mismatched: u64,
    /// Messages lost with their connection.
    pub errored: u64,
    /// Messages whose reply was not complete within the timeout.
    pub timed_out: u64,
    /// Messages without a complete reply at the end.
    pub unanswered: u64,
    /// Bytes of verified messages, in one direction.
    pub verified_bytes: u64,
}

/// Outcomes and times of the messages of one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TargetResults {
    /// Counts of messages only; connections are not counted here.
    pub counts: Counts,
    /// See [`Results::response`].
    pub response: Latency,
    /// See [`Results::service`].
    pub service: Latency,
}

/// The reason why a message was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its reply is wrong.
    Mismatched,
    /// Its connection broke before the reply was complete.
    Errored,
    /// It exceeded the timeout.
    TimedOut,
    /// The run ended before the reply was complete.
    Unanswered,
}

/// The cause of a broken connection or of a failed attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Nothing listens at the port, or the socket connected to itself.
    Refused,
    /// No connection within [`crate::load::plan::PROGRESS_TIMEOUT`], or the kernel's
    /// retransmissions timed out.
    TimedOut,
    /// The server reset the connection.
    Reset,
    /// The server closed its side before the run did.
    ClosedEarly,
    /// The server accepted the connection, and ended it before it sent a byte.
    ClosedAtOnce,
    /// A reply was wrong.
    WrongReply,
    /// The first reply was the message unchanged, and not in upper case.
    UnchangedReply,
    /// The first reply was the message in upper case, and not unchanged.
    ConvertedReply,
    /// Bytes arrived that belong to no message.
    SurplusBytes,
    /// The server did not close its side in time, see [`crate::load::plan::Plan::close_timeout`].
    NotClosed,
    /// No local port is free for this pair of addresses.
    NoPort,
    /// The local address of the plan is no address of this host.
    NoSource,
    /// Any other error of a system call, by its step and its errno.
    Call(Step, i32),
}

impl ErrorKind {
    /// Returns the kind of an error of a system call at this step.
    pub fn at(step: Step, error: &io::Error) -> Self {
        match (error.kind(), step) {
            (io::ErrorKind::ConnectionRefused, _) => ErrorKind::Refused,
            (io::ErrorKind::TimedOut, _) => ErrorKind::TimedOut,
            // At this step only an established connection can be reset: a reset in answer to the
            // SYN is reported as a refused connection.
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

    /// Returns the kind with this name, as it is displayed; `None` for the errors of other system
    /// calls.
    pub fn named(name: &str) -> Option<ErrorKind> {
        let kinds = [
            ErrorKind::Refused,
            ErrorKind::TimedOut,
            ErrorKind::Reset,
            ErrorKind::ClosedEarly,
            ErrorKind::ClosedAtOnce,
            ErrorKind::WrongReply,
            ErrorKind::UnchangedReply,
            ErrorKind::ConvertedReply,
            ErrorKind::SurplusBytes,
            ErrorKind::NotClosed,
            ErrorKind::NoPort,
            ErrorKind::NoSource,
        ];
        kinds.into_iter().find(|kind| kind.to_string() == name)
    }

    /// Returns whether the bytes of a reply were wrong.
    pub fn is_wrong_reply(self) -> bool {
        matches!(
            self,
            ErrorKind::WrongReply | ErrorKind::UnchangedReply | ErrorKind::ConvertedReply
        )
    }

    /// Returns whether this error can be caused by a server that is down, or by a path that is
    /// interrupted.
    pub fn may_be_server_down(self) -> bool {
        use crate::sys::errno::{EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH};
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

    /// Returns whether this machine temporarily lacked a resource, so that the next attempt may
    /// succeed.
    pub fn is_shortage(self) -> bool {
        use crate::sys::errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
        let ErrorKind::Call(_, errno) = self else {
            return false;
        };
        [EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC].contains(&errno)
    }

    /// Returns whether this machine lacked something that a new connection needs, so that no server
    /// is the cause.
    pub fn is_local_shortage(self) -> bool {
        match self {
            ErrorKind::NoPort | ErrorKind::NoSource => true,
            ErrorKind::Call(step, _) => step <= Step::KeepTimes && self.is_shortage(),
            _ => false,
        }
    }

    /// Returns advice that applies whatever the server is, if there is any.
    pub fn remedy(self) -> Option<&'static str> {
        use crate::sys::errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC};
        Some(match self {
            ErrorKind::ClosedAtOnce => {
                "the server may accept no more connections from one address (its \
                 --max-connections-per-ip): use fewer --connections, or more --source addresses"
            }
            ErrorKind::UnchangedReply => {
                "if the server is to return messages unchanged, use --expect same"
            }
            ErrorKind::ConvertedReply => {
                "if the server is to return messages in upper case, leave out --expect same"
            }
            ErrorKind::NoPort => {
                "use fewer --connections, more --source addresses or targets, or a larger --churn; \
                 or end replaced connections with --close rst: a connection closed with FIN holds \
                 its local port (of sysctl net.ipv4.ip_local_port_range) in TIME_WAIT for a minute"
            }
            ErrorKind::NoSource => {
                "use --source addresses that this host has: `ip address` lists them"
            }
            ErrorKind::Call(Step::Open, EMFILE) => "raise `ulimit -Hn`, or use fewer --connections",
            ErrorKind::Call(Step::Open, ENFILE) => "raise sysctl fs.file-max",
            ErrorKind::Call(Step::Register, ENOSPC) => "raise sysctl fs.epoll.max_user_watches",
            ErrorKind::Call(_, ENOBUFS | ENOMEM) => {
                "the kernel has no memory for more: use fewer --connections or smaller buffers \
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
            ErrorKind::UnchangedReply => write!(f, "first reply unchanged, not in upper case"),
            ErrorKind::ConvertedReply => write!(f, "first reply in upper case, not unchanged"),
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
    /// Counts a message whose reply is correct, and returns its service time. [`Recorder`] records
    /// the service and the response.
    ///
    /// [`Recorder`]: crate::load::results::recorder::Recorder
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

    /// Records the parts of a response by the kernel's timestamps; the reply was read at `now`.
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

    /// Counts a message that was not verified, `age` after it was due, and records its times as
    /// lower bounds.
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

    /// Counts a message that was not verified and was never given to a connection. `own`: the time
    /// for which it could have been sent.
    pub fn lost_waiting(&mut self, loss: Loss, own: Duration, age: Duration) {
        self.counts.lost(loss);
        self.response.record_at_least(age);
        self.never_sent(own, age);
    }

    /// Adds the measurements of another thread.
    pub fn merge(&mut self, other: &Results) {
        let Results {
            counts,
            response,
            service,
            first,
            lateness,
            blocked,
            own,
            waited,
            connect,
            errors,
            differences,
            sends,
            parts,
        } = other;
        self.counts.merge(counts);
        self.response.merge(response);
        self.service.merge(service);
        self.first.merge(first);
        self.lateness.merge(lateness);
        self.blocked.merge(blocked);
        self.own.merge(own);
        self.waited += *waited;
        self.connect.merge(connect);
        pairs::add(&mut self.errors, errors);
        self.differences.extend(differences);
        self.differences.truncate(DIFFERENCES_MAX);
        if let Some(theirs) = parts {
            self.parts.get_or_insert_default().merge(theirs);
        }
        if let Some(theirs) = *sends {
            self.add_send(theirs.first);
            self.add_send(theirs.last);
        }
    }

    /// Counts a connection that broke, or was not established.
    pub fn error(&mut self, kind: ErrorKind) {
        *self.errors.entry(kind).or_default() += 1;
    }

    /// Keeps the first wrong byte of a connection, unless there are [`DIFFERENCES_MAX`] already.
    pub fn difference(&mut self, connection: u32, difference: Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push((connection, difference));
        }
    }

    /// Records the lateness of a message that was sent in full.
    fn sent(&mut self, message: &Message, lateness: Duration) {
        let own = message.own(lateness).min(lateness);
        self.waited += u64::from(message.waited() > VISIBLE_LATENESS);
        self.lateness.record(lateness);
        self.own.record(own);
        self.blocked.record(lateness - own);
        let at = message.due + lateness;
        self.add_send(Send { at, lateness });
    }

    fn never_sent(&mut self, own: Duration, age: Duration) {
        self.lateness.record_at_least(age);
        // `own` is exact, not a lower bound: for that long the message could have been sent, and
        // was not.
        self.waited += u64::from(age.saturating_sub(own) > VISIBLE_LATENESS);
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
    /// Returns the growth of the backlog as a share of the messages due between the two quarters;
    /// `None`: it did not grow, or it may be chance. `slow`: the 99th percentile of the responses.
    pub fn growth(&self, slow: Duration, sending: Duration) -> Option<f64> {
        let grown = self.last as f64 - self.first as f64;
        let share = grown / self.due.max(1) as f64;
        let is_chance = grown < BY_CHANCE * ((self.first + self.last) as f64).sqrt();
        // With replies that take this long, the number in flight grows until the first ones arrive.
        let is_filling = slow > sending / 4;
        (share > WANDERING && !is_chance && !is_filling).then_some(share)
    }
}

impl RunTimes {
    /// Adds the times of another thread.
    pub fn merge(&mut self, other: &RunTimes) {
        let RunTimes {
            lines_up,
            sending,
            elapsed,
            verified_in_time,
            backlog,
            interrupted,
            start,
        } = other;
        self.lines_up += *lines_up;
        self.sending = self.sending.max(*sending);
        self.elapsed = self.elapsed.max(*elapsed);
        self.verified_in_time += *verified_in_time;
        self.backlog = self.backlog.zip(*backlog).map(|(ours, theirs)| Backlog {
            first: ours.first + theirs.first,
            last: ours.last + theirs.last,
            due: ours.due + theirs.due,
        });
        self.interrupted |= *interrupted;
        self.start = self.start.into_iter().chain(*start).min();
    }

    /// Returns the times of this part of a run and of a later one together. The backlogs of two
    /// schedules do not form one.
    pub fn followed_by(&self, later: &RunTimes) -> RunTimes {
        RunTimes {
            lines_up: self.lines_up.max(later.lines_up),
            sending: self.sending + later.sending,
            elapsed: self.elapsed + later.elapsed,
            verified_in_time: self.verified_in_time + later.verified_in_time,
            backlog: None,
            interrupted: later.interrupted,
            start: self.start.or(later.start),
        }
    }
}

impl ResponseParts {
    /// Adds the parts of another thread.
    pub fn merge(&mut self, other: &ResponseParts) {
        let ResponseParts {
            lateness,
            send_queue,
            wire_and_server,
            receive_queue,
            negative,
        } = other;
        self.lateness.merge(lateness);
        self.send_queue.merge(send_queue);
        self.wire_and_server.merge(wire_and_server);
        self.receive_queue.merge(receive_queue);
        self.negative += *negative;
    }
}

impl TargetResults {
    /// Counts a message whose reply is correct.
    pub fn verified(&mut self, message: &Message, response: Duration) {
        self.counts.verified(message);
        self.response.record(response);
        let lateness = message.lateness().unwrap_or_default();
        self.service.record(response.saturating_sub(lateness));
    }

    /// Counts a message that was not verified, `age` after it was due. `lateness`: `None` if the
    /// message was not sent in full.
    pub fn lost(&mut self, loss: Loss, lateness: Option<Duration>, age: Duration) {
        self.counts.lost(loss);
        self.response.record_at_least(age);
        if let Some(lateness) = lateness {
            self.service.record_at_least(age.saturating_sub(lateness));
        }
    }

    /// Adds the tally of another thread.
    pub fn merge(&mut self, other: &TargetResults) {
        let TargetResults {
            counts,
            response,
            service,
        } = other;
        self.counts.merge(counts);
        self.response.merge(response);
        self.service.merge(service);
    }
}

impl Counts {
    /// Counts a message whose reply is correct.
    #[inline]
    pub fn verified(&mut self, message: &Message) {
        self.verified += 1;
        self.verified_bytes += message.size();
    }

    /// Counts a message that was not verified.
    pub fn lost(&mut self, loss: Loss) {
        *match loss {
            Loss::Mismatched => &mut self.mismatched,
            Loss::Errored => &mut self.errored,
            Loss::TimedOut => &mut self.timed_out,
            Loss::Unanswered => &mut self.unanswered,
        } += 1;
    }

    /// Returns the number of messages whose outcome is known.
    pub fn settled(&self) -> u64 {
        self.verified + self.mismatched + self.errored + self.timed_out + self.unanswered
    }

    /// Adds the counts of another thread, or of another part of the run.
    pub fn merge(&mut self, other: &Counts) {
        let Counts {
            opened,
            failed,
            scheduled,
            verified,
            mismatched,
            errored,
            timed_out,
            unanswered,
            verified_bytes,
        } = other;
        self.opened += *opened;
        self.failed += *failed;
        self.scheduled += *scheduled;
        self.verified += *verified;
        self.mismatched += *mismatched;
        self.errored += *errored;
        self.timed_out += *timed_out;
        self.unanswered += *unanswered;
        self.verified_bytes += *verified_bytes;
    }
}
