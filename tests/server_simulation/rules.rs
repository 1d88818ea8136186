//! The oracle of the simulation: what the server is allowed and required to do. It uses no state of
//! the server: the simulated kernel knows which bytes have arrived, which were answered and which
//! acknowledged. From that follows which calls are allowed, and for which reason a connection may
//! be closed.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use nix::libc;
use upcase::server::engine::world::Timer;
use upcase::server::limits::{KEEPALIVE_PROBES, Limits};
use upcase::server::stats::{CloseReason, Snapshot};
use upcase::stream::Hints;

use crate::kernel::{End, State};

/// The entry point of the engine that is being called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    Stop,
    /// The second request to stop, or the end of the drain timeout.
    Cut,
    Timer(Timer),
    Event,
    Finish,
}

/// Permitted lateness of any deadline in nanoseconds: turns take time.
const SLACK: u64 = 3_000_000;

/// Maximum number of timers set for one timer wheel, each for an earlier time than the one before.
const TIMERS_MAX: u32 = 8;

/// Number of calls, more than any single event can cause, at which a check for endless loops fails.
const CALLS_MAX: u64 = 1_000_000;

/// Facts about the whole server.
#[derive(Debug)]
pub struct Ledger {
    pub context: Context,
    pub turn: u64,
    pub turn_began: u64,
    pub calls: u64,
    /// The number of calls when the engine was last called.
    entry_call: u64,
    pub stopping: Option<u64>,
    pub accepted: u64,
    pub lost: u64,
    pub reset_in_queue: u64,
    pub stale: u64,
    /// Bytes that were read and not yet accepted by the kernel, of all connections.
    pub pending: u64,
    pub closed: [u64; CloseReason::ALL.len()],
    pub has_broken: bool,
    /// Whether the server has reported that it is at its connection limit.
    pub is_full: bool,
    /// Number of times that it has reported that.
    pub fulls: u64,
    pub least_progress: u64,
    timers: [u32; 9],
    /// The times of the probes within the last probe gap.
    probed: VecDeque<u64>,
    /// Number of probes in all.
    pub probes_sent: u64,
    /// Number of clients that answered no probe.
    pub vanished: u64,
    /// Number of occasions on which the server may read from each socket once without an event.
    probes: u64,
    /// The connection that is being served, and the number of bytes read from it.
    current: Option<usize>,
    serve_bytes: u64,
    /// The connections that have spent their budget in this turn, and in the previous one.
    spent: Vec<usize>,
    queued: Vec<usize>,
    /// The connections that were served in this turn for an event, or from the queue.
    served: Vec<usize>,
    /// Whether this turn had a large read.
    is_large: bool,
    /// Number of turns with large reads.
    pub larges: u64,
    waiting: Option<Waiting>,
    /// Number of checks of how long a connection had to wait.
    pub waited: u64,
    networks: Vec<(IpAddr, u32)>,
    next_audit: u64,
}

/// A ready connection that has spent its budget; and for each connection, the number of bytes read
/// and of events delivered up to then.
#[derive(Debug)]
struct Waiting {
    number: usize,
    others: Vec<(u64, u64)>,
}

/// Facts about one connection.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Readiness of the socket as far as the server can know it: the rules of [`upcase::stream`].
    pub may_read: bool,
    pub may_write: bool,
    pub to_end: bool,
    probe: u64,
    pub got_end: bool,
    error: Option<CloseReason>,
    pub resets: bool,
    /// The time of the last probe.
    probed_at: Option<u64>,
    /// The reason for which FIN is to be sent: the connection was found silent, or the time for
    /// draining is nearly over. A later read clears it.
    silent_for: Option<CloseReason>,
    fin: Option<Fin>,
    is_over_share: bool,
    accepted_at: u64,
    /// The number of the last call that found nothing to read.
    blocked_call: u64,
    /// Number of events delivered for the connection, in all and in this turn, and bytes of this
    /// turn.
    reported: u64,
    turn: u64,
    turn_bytes: u64,
    turn_told: u64,
    /// Whether the connection was read in a scan of the draining server, and not for an event.
    turn_looked: bool,
    /// The time since which replies have been unacknowledged and no acknowledgment has arrived.
    stuck_since: u64,
    /// The time since which at least the minimum progress has been unacknowledged, and less than
    /// that was acknowledged.
    slow_since: u64,
    slow_from: u64,
    owed_until: u64,
    samples: VecDeque<Sample>,
}

/// The server's FIN.
#[derive(Clone, Copy, Debug)]
struct Fin {
    reason: CloseReason,
    at: u64,
    /// Number of bytes that had been read by then.
    read: u64,
}

/// A sample that the server took of a client's output.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: u64,
    acked: u64,
    owed: u64,
}

impl Ledger {
    pub fn new(limits: &Limits) -> Ledger {
        let seconds = limits.stall_timeout.unwrap_or_default().as_secs_f64();
        Ledger {
            context: Context::Finish,
            turn: 0,
            turn_began: 0,
            calls: 0,
            entry_call: 0,
            stopping: None,
            accepted: 0,
            lost: 0,
            reset_in_queue: 0,
            stale: 0,
            pending: 0,
            closed: Default::default(),
            has_broken: false,
            is_full: false,
            fulls: 0,
            least_progress: ((limits.min_rate as f64 * seconds) as u64).max(1),
            timers: [0; 9],
            probed: VecDeque::new(),
            probes_sent: 0,
            vanished: 0,
            probes: 0,
            current: None,
            serve_bytes: 0,
            spent: Vec::new(),
            queued: Vec::new(),
            served: Vec::new(),
            is_large: false,
            larges: 0,
            waiting: None,
            waited: 0,
            networks: Vec::new(),
            next_audit: 0,
        }
    }

    pub fn timer_came(&mut self, timer: Timer) {
        self.timers[timer as usize] -= 1;
    }
}

impl Facts {
    pub fn new(now: u64) -> Facts {
        Facts {
            may_read: false,
            may_write: true,
            to_end: false,
            probe: 0,
            got_end: false,
            error: None,
            resets: false,
            probed_at: None,
            silent_for: None,
            fin: None,
            is_over_share: false,
            accepted_at: now,
            blocked_call: 0,
            reported: 0,
            turn: 0,
            turn_bytes: 0,
            turn_told: 0,
            turn_looked: false,
            stuck_since: now,
            slow_since: now,
            slow_from: 0,
            owed_until: now,
            samples: VecDeque::new(),
        }
    }

    /// Records that an event is delivered to the server.
    pub fn note(&mut self, hints: Hints, turn: u64) {
        self.begin_turn(turn);
        self.reported += 1;
        self.turn_told += 1;
        self.may_read |= hints.readable;
        self.may_write |= hints.writable;
        self.to_end |= hints.exceptional;
    }

    fn begin_turn(&mut self, turn: u64) {
        if self.turn != turn {
            self.turn = turn;
            self.turn_bytes = 0;
            self.turn_told = 0;
            self.turn_looked = false;
        }
    }

    /// Records the error of a failed call as the reason for which the connection ends.
    pub fn failed(&mut self, errno: i32) {
        self.error = Some(match errno {
            libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN => CloseReason::Reset,
            libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH => CloseReason::TimedOut,
            _ => CloseReason::Failed,
        });
    }
}

impl End {
    /// Returns the number of bytes that were read and must be answered.
    fn answerable(&self) -> u64 {
        self.facts.fin.map_or(self.read, |fin| fin.read)
    }

    pub fn pending(&self) -> u64 {
        self.answerable() - self.sent
    }

    /// Returns the number of reply bytes that the client has not acknowledged.
    fn owed(&self) -> u64 {
        self.answerable() - self.acked
    }

    /// Records that the client has acknowledged more.
    pub fn progressed(&mut self, now: u64, least: u64) {
        let owed = self.owed();
        let facts = &mut self.facts;
        facts.stuck_since = now;
        if owed == 0 {
            facts.owed_until = now;
        }
        if owed < least || self.acked - facts.slow_from >= least {
            facts.slow_since = now;
            facts.slow_from = self.acked;
        }
    }

    /// Records a sample that the server takes of the output.
    fn sampled(&mut self, now: u64, timeout: Option<Duration>) {
        let sample = Sample {
            at: now,
            acked: self.acked,
            owed: self.owed(),
        };
        let samples = &mut self.facts.samples;
        samples.push_back(sample);
        // The samples of the last stall timeout are kept, and one before them.
        let enough = nanos(timeout.unwrap_or_default()).saturating_sub(QUARTERS);
        while samples
            .get(1)
            .is_some_and(|second| second.at + enough <= now)
        {
            samples.pop_front();
        }
    }
}

/// Number of parts in which a stall timeout is checked. Each is rounded down to a nanosecond, so
/// this is also the maximum error in nanoseconds.
const QUARTERS: u64 = 4;

pub fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Returns the maximum lateness of a deadline in a timer wheel of this length.
fn lateness(length: Duration) -> u64 {
    nanos(length / 64).max(1_000_000) + SLACK
}

/// Returns how many places of the limit must be free before a full server accepts again.
fn room_of(cap: usize) -> usize {
    (cap / 64).clamp(1, 16)
}

/// Checks a condition of one connection, and prints all facts about the connection if it is false.
macro_rules! require {
    ($state:expr, $number:expr, $condition:expr, $($text:tt)+) => {
        if !$condition {
            $state.fails_check(Some($number), &format!($($text)+));
        }
    };
}

impl State {
    #[cold]
    pub fn fails_check(&self, number: Option<usize>, text: &str) -> ! {
        let end = number.map(|number| &self.ends[number]);
        panic!(
            "{text}\n  at {} ns, turn {}, {:?}, {} open\n  {end:#?}\n  {:?}\n  {:?}",
            self.now,
            self.ledger.turn,
            self.ledger.context,
            self.open.len(),
            self.limits,
            self.faults
        );
    }

    /// Returns the budget of a turn: the server rounds it up to whole reads of this length.
    fn budget(&self, read_bytes: usize) -> u64 {
        (self.limits.turn_bytes + read_bytes - 1) as u64
    }

    /// Begins a call of the engine.
    pub fn begin_entry(&mut self, context: Context) {
        self.end_serve();
        self.ledger.context = context;
        self.ledger.entry_call = self.ledger.calls;
        let asks = matches!(
            context,
            Context::Cut | Context::Timer(Timer::DrainCheck | Timer::Idle | Timer::Linger)
        );
        self.ledger.probes += u64::from(asks);
    }

    /// Ends the service of the current connection, which may still be ready.
    fn end_serve(&mut self) {
        let bytes = std::mem::take(&mut self.ledger.serve_bytes);
        let Some(number) = self.ledger.current.take() else {
            return;
        };
        if bytes >= self.limits.turn_bytes as u64 {
            self.ledger.spent.push(number);
        }
        let end = &self.ends[number];
        let is_ready = end.facts.may_read && end.is_readable() && end.pending() == 0;
        if is_ready && !end.is_closed && self.ledger.waiting.is_none() {
            let others = self.ends.iter().map(|end| (end.read, end.facts.reported));
            let others = others.collect();
            self.ledger.waiting = Some(Waiting { number, others });
        }
    }

    fn serves(&mut self, number: usize) {
        self.ledger.calls += 1;
        let is_finite = self.ledger.calls < self.ledger.entry_call + CALLS_MAX;
        require!(self, number, is_finite, "calls without an end");
        if self.ledger.current != Some(number) {
            self.end_serve();
            self.ledger.current = Some(number);
            self.check_place(number);
            let waiting = self.ledger.waiting.as_ref();
            if waiting.is_some_and(|it| it.number == number) {
                self.check_fairness();
            }
        }
        let end = &self.ends[number];
        let is_open = end.is_accepted && !end.is_closed;
        require!(self, number, is_open, "a call on a closed socket");
        let is_well = end.facts.error.is_none();
        require!(self, number, is_well, "a call after an error");
    }

    /// Checks that a connection that has spent its budget is served again only after the events of
    /// the others. Otherwise it would overtake waiting connections whenever it sends a piece of
    /// that size.
    fn check_place(&self, number: usize) {
        let is_late = matches!(self.ledger.context, Context::Finish | Context::Cut);
        let is_in_order = is_late || !self.ledger.queued.contains(&number);
        require!(self, number, is_in_order, "it overtakes waiting clients");
    }

    /// Checks that a ready connection waits for less than two budgets of every other connection:
    /// for a turn of it that ended before its budget was spent, and for the next turn.
    fn check_fairness(&mut self) {
        let Some(waiting) = self.ledger.waiting.take() else {
            return;
        };
        // A connection that is cut is not served any more, only read a last time.
        if self.ledger.context == Context::Cut {
            return;
        }
        let number = waiting.number;
        self.ledger.waited += 1;
        for (end, (read, reported)) in self.ends.iter().zip(waiting.others) {
            let read = end.read - read;
            let reported = end.facts.reported - reported;
            let reported = if self.faults.split == 0 && self.faults.spurious == 0 {
                1
            } else {
                reported
            };
            // It may have waited through a turn with large reads.
            let budgets = self.budget(self.limits.large_read_bytes) * reported.max(1);
            let is_fair = read < self.limits.turn_bytes as u64 + budgets;
            require!(
                self,
                number,
                is_fair,
                "it waited for {read} bytes of another client"
            );
        }
    }

    pub fn check_recv(&mut self, number: usize, length: usize) {
        self.serves(number);
        let end = &self.ends[number];
        let is_registered = end.token.is_some();
        require!(self, number, is_registered, "a read before registration");
        require!(
            self,
            number,
            end.pending() == 0,
            "a read while bytes are pending"
        );
        let is_allowed = [self.limits.read_bytes, self.limits.large_read_bytes].contains(&length);
        require!(self, number, is_allowed, "a read of {length} bytes");
        self.ledger.is_large |= length > self.limits.read_bytes;
        let is_ready = matches!(self.ledger.context, Context::Event | Context::Finish);
        if is_ready && !self.ledger.served.contains(&number) {
            self.ledger.served.push(number);
        }
        require!(self, number, !end.facts.got_end, "a read after the end");
        if !end.facts.may_read {
            let is_asked = end.facts.probe < self.ledger.probes;
            require!(self, number, is_asked, "a read that cannot return data");
            let facts = &mut self.ends[number].facts;
            facts.probe = self.ledger.probes;
            facts.may_read = true;
            facts.to_end = true;
        }
    }

    pub fn check_blocked_read(&mut self, number: usize) {
        let facts = &mut self.ends[number].facts;
        facts.may_read = false;
        facts.blocked_call = self.ledger.calls;
    }

    pub fn check_read(&mut self, number: usize, count: usize) {
        let (now, turn) = (self.now, self.ledger.turn);
        let least = self.ledger.least_progress;
        let budget = self.budget(match self.ledger.is_large {
            true => self.limits.large_read_bytes,
            false => self.limits.read_bytes,
        });
        let end = &mut self.ends[number];
        if end.facts.fin.is_none() {
            self.ledger.pending += count as u64;
            if end.owed() < least + count as u64 {
                end.facts.slow_since = now;
                end.facts.slow_from = end.acked;
            }
        }
        self.ledger.serve_bytes += count as u64;
        let facts = &mut end.facts;
        facts.silent_for = None;
        facts.begin_turn(turn);
        facts.turn_bytes += count as u64;
        facts.turn_looked |= self.ledger.context == Context::Timer(Timer::DrainCheck);
        let (at_once, in_turn) = (self.ledger.serve_bytes, facts.turn_bytes);
        // epoll reports a source once in a turn; with these faults it may be reported several
        // times.
        let is_plain = self.faults.split == 0 && self.faults.spurious == 0;
        let reported = match is_plain {
            true => 1,
            false => facts.turn_told.max(1),
        };
        // The scan of the draining server, which is rare, adds to the event.
        let in_turn_max = budget * (reported + u64::from(facts.turn_looked));
        require!(self, number, at_once <= budget, "{at_once} bytes at once");
        let is_fair = in_turn <= in_turn_max;
        require!(self, number, is_fair, "{in_turn} bytes in a turn");
    }

    pub fn check_send(&mut self, number: usize, bytes: &[u8]) {
        self.serves(number);
        let end = &self.ends[number];
        let (pending, count) = (end.pending(), bytes.len() as u64);
        require!(self, number, count > 0, "a write of nothing");
        let may_write = end.facts.may_write;
        require!(self, number, may_write, "a write that cannot succeed");
        require!(self, number, !end.shut, "a write after FIN");
        require!(
            self,
            number,
            count <= pending,
            "{count} bytes, but {pending} are pending"
        );
        let is_right = self.is_right(number, bytes);
        require!(self, number, is_right, "wrong bytes: {bytes:?}");
    }

    pub fn check_sent(&mut self, number: usize, count: u64) {
        self.ledger.pending -= count;
        let end = &mut self.ends[number];
        if end.sent - count == end.acked {
            end.facts.stuck_since = self.now;
        }
    }

    /// Checks that a probe is sent only to a client that has been silent for long enough and after
    /// a pause, and that there are few probes at a time.
    pub fn check_probe(&mut self, number: usize) {
        self.ledger.calls += 1;
        let in_time = self.ledger.context == Context::Timer(Timer::Probe);
        require!(self, number, in_time, "a probe outside its timer");
        let time = nanos(self.limits.keepalive.unwrap_or(Duration::MAX));
        let pause = nanos(self.limits.keepalive_pause());
        let (began, now) = (self.ledger.turn_began, self.now);
        let end = &self.ends[number];
        let is_silent = now - end.heard_at >= time / 16 * 13;
        require!(self, number, is_silent, "a probe of a client that sent");
        let is_unanswered = end.probes < KEEPALIVE_PROBES;
        require!(self, number, is_unanswered, "more probes than the limit");
        let is_new = end.facts.probed_at.is_none_or(|at| at + pause <= began);
        require!(self, number, is_new, "a probe before the pause was over");
        self.ends[number].facts.probed_at = Some(began);
        self.ledger.probes_sent += 1;
        let gap = nanos(self.limits.probe_gap);
        let probed = &mut self.ledger.probed;
        probed.retain(|&at| at + gap > began);
        probed.push_back(began);
        let gaps = (time / gap).max(1) as usize;
        let (least, most) = self.limits.probe_burst;
        let wanted = (10 * self.open.len()).div_ceil(gaps);
        let most = wanted.clamp(least, most);
        let are_few = self.ledger.probed.len() <= most;
        require!(self, number, are_few, "too many probes in a burst");
    }

    /// Records a sample of a client's output, which may show that FIN is to be sent. The FIN may
    /// have to wait for a later turn.
    pub fn sampled(&mut self, number: usize) {
        let (now, stall_timeout) = (self.now, self.limits.stall_timeout);
        let is_last_call = self.is_last_call();
        let idle_timeout = nanos(self.limits.idle_timeout.unwrap_or(Duration::MAX));
        let drain_silence = nanos(self.limits.drain_silence);
        let end = &mut self.ends[number];
        end.sampled(now, stall_timeout);
        let quiet = now - end.quiet_since();
        let is_idle = end.owed() == 0 && quiet >= idle_timeout;
        let is_done_with = end.pending() == 0 && quiet >= drain_silence;
        let found = match self.ledger.context {
            Context::Timer(Timer::Idle) if is_idle => Some(CloseReason::Idle),
            Context::Timer(Timer::DrainCheck) if is_done_with || is_last_call => {
                Some(CloseReason::Stopped)
            }
            _ => None,
        };
        end.facts.silent_for = end.facts.silent_for.or(found);
    }

    /// Checks that FIN is sent only once, for a reason, and after all replies.
    pub fn check_shutdown(&mut self, number: usize) {
        self.serves(number);
        let end = &self.ends[number];
        let pending = end.pending();
        require!(self, number, end.facts.fin.is_none(), "a second FIN");
        require!(self, number, pending == 0, "FIN before {pending} bytes");
        require!(
            self,
            number,
            !end.facts.got_end,
            "closing sends FIN as well"
        );
        let Some(reason) = end.facts.silent_for else {
            self.fails_check(Some(number), "FIN for no reason");
        };
        if !self.is_last_call() {
            self.check_silent(number);
        }
        let end = &mut self.ends[number];
        end.facts.fin = Some(Fin {
            reason,
            at: self.ledger.turn_began,
            read: end.read,
        });
    }

    /// Checks that the call before this one was a read of this connection that found nothing.
    fn check_silent(&self, number: usize) {
        let is_silent = self.ends[number].facts.blocked_call + 1 == self.ledger.calls;
        require!(self, number, is_silent, "FIN or close without a last read");
    }

    /// Returns whether so little of the drain timeout is left that even connections that are not
    /// silent get FIN.
    fn is_last_call(&self) -> bool {
        let drain = self.limits.drain_timeout;
        let last_call = drain.saturating_sub(self.limits.linger.min(drain / 2));
        let since = self.ledger.stopping;
        since.is_some_and(|since| self.ledger.turn_began >= since + nanos(last_call))
    }

    /// Checks that a connection is closed for a reason, and that the conditions of this reason
    /// hold.
    pub fn check_drop(&mut self, number: usize) {
        self.ledger.calls += 1;
        let end = &self.ends[number];
        let is_open = end.is_accepted && !end.is_closed;
        require!(self, number, is_open, "closed twice");
        let reason = self.reason(number);
        self.check_reason(number, reason);
        let end = &self.ends[number];
        let resets = matches!(
            reason,
            CloseReason::TimedOut
                | CloseReason::Stalled
                | CloseReason::Refused
                | CloseReason::Cut
                | CloseReason::Failed
        );
        let is_so = end.facts.resets == resets;
        require!(
            self,
            number,
            is_so,
            "{reason:?}, but the wrong one of FIN and RST is sent"
        );
        let has_vanished = reason == CloseReason::TimedOut && end.facts.error.is_none();
        for &other in &self.open {
            let crowd = &mut self.ends[other as usize].crowd;
            *crowd = self.open.len().max(*crowd);
        }
        let end = &self.ends[number];
        let ledger = &mut self.ledger;
        ledger.vanished += u64::from(has_vanished);
        ledger.pending -= end.pending();
        ledger.closed[reason as usize] += 1;
        let network = network(end.address.ip());
        for (_, open) in ledger.networks.iter_mut().filter(|it| it.0 == network) {
            *open -= 1;
        }
        ledger.waiting.take_if(|it| it.number == number);
        if ledger.current == Some(number) {
            ledger.current = None;
            ledger.serve_bytes = 0;
        }
    }

    fn reason(&self, number: usize) -> CloseReason {
        let end = &self.ends[number];
        let is_cut = self.ledger.context == Context::Cut;
        match (end.facts.error, end.token, end.facts.fin) {
            (Some(reason), ..) => reason,
            (None, None, _) => CloseReason::Refused,
            _ if is_cut && end.pending() > 0 => CloseReason::Cut,
            _ if self.ledger.context == Context::Timer(Timer::Stall) && end.facts.resets => {
                CloseReason::Stalled
            }
            _ if self.ledger.context == Context::Timer(Timer::Probe) && end.facts.resets => {
                CloseReason::TimedOut
            }
            (.., Some(fin)) if end.read > fin.read => CloseReason::Late,
            (.., Some(fin)) => fin.reason,
            _ if end.facts.got_end => CloseReason::Finished,
            _ if is_cut => CloseReason::Stopped,
            _ => self.fails_check(Some(number), "closed for no reason"),
        }
    }

    fn check_reason(&self, number: usize, reason: CloseReason) {
        let end = &self.ends[number];
        let facts = &end.facts;
        let is_refused = reason == CloseReason::Refused;
        let is_so = facts.is_over_share == is_refused;
        require!(
            self,
            number,
            is_so,
            "{reason:?}, over the limit of its address: {}",
            !is_so
        );
        match reason {
            CloseReason::Finished => {
                let all = end.arrived == end.read && end.read == end.sent && facts.got_end;
                require!(self, number, all, "finished before all was answered");
            }
            CloseReason::Idle | CloseReason::Stopped | CloseReason::Late => {
                require!(
                    self,
                    number,
                    end.pending() == 0,
                    "closed with bytes pending"
                );
                self.check_lingered(number);
            }
            CloseReason::Stalled => self.check_stalled(number),
            CloseReason::TimedOut if end.facts.error.is_none() => self.check_vanished(number),
            _ => {}
        }
    }

    fn check_lingered(&self, number: usize) {
        let facts = &self.ends[number].facts;
        match (facts.fin, self.ledger.context) {
            (None, Context::Cut) => self.check_silent(number),
            (_, Context::Cut) => {}
            (None, _) => self.fails_check(Some(number), "closed without FIN"),
            (Some(fin), _) => {
                let over = fin.at + nanos(self.limits.linger);
                let is_over = facts.got_end || over <= self.ledger.turn_began;
                require!(self, number, is_over, "its linger time is not over");
            }
        }
    }

    /// Checks that there was a whole stall timeout in which the client acknowledged neither all
    /// replies nor the minimum progress.
    fn check_stalled(&self, number: usize) {
        let end = &self.ends[number];
        let timeout = nanos(self.limits.stall_timeout.unwrap_or(Duration::MAX)) - QUARTERS;
        let is_stalled = end.facts.samples.iter().any(|sample| {
            let least = sample.owed.min(self.ledger.least_progress);
            sample.at + timeout <= self.now && end.acked - sample.acked < least
        });
        require!(self, number, is_stalled, "it acknowledged enough");
    }

    /// Checks that the client has answered none of its probes and had enough time for each.
    fn check_vanished(&self, number: usize) {
        let end = &self.ends[number];
        let pause = nanos(self.limits.keepalive_pause());
        let began = self.ledger.turn_began;
        let was_probed = end.probes >= KEEPALIVE_PROBES
            && end.facts.probed_at.is_some_and(|at| at + pause <= began);
        require!(self, number, was_probed, "it was not probed often enough");
    }

    pub fn check_accept(&mut self, number: usize) {
        self.ledger.calls += 1;
        let elsewhere = self.neighbours.as_ref().map_or(0, |it| it.held());
        let (cap, open) = (self.limits.max_connections, self.open.len() + elsewhere);
        let listener = &self.listeners[number];
        let fault = if !listener.is_open || listener.is_broken {
            "an accept at a closed listener"
        } else if listener.attempts >= self.limits.turn_accepts {
            "more accepts than a turn allows"
        } else if listener.is_paused {
            "an accept during a pause"
        } else if open >= cap {
            "an accept beyond the limit"
        } else if self.ledger.is_full && self.neighbours.is_none() && open + room_of(cap) > cap {
            "an accept before there is room"
        } else {
            self.ledger.is_full = false;
            return;
        };
        self.fails_check(None, &format!("{fault}\n  {listener:?}"));
    }

    pub fn check_accepted(&mut self, number: usize) {
        let most = self.limits.max_connections_per_ip.unwrap_or(u32::MAX);
        let ledger = &mut self.ledger;
        ledger.accepted += 1;
        let end = &mut self.ends[number];
        let network = network(end.address.ip());
        let place = ledger.networks.iter().position(|it| it.0 == network);
        let place = place.unwrap_or_else(|| {
            ledger.networks.push((network, 0));
            ledger.networks.len() - 1
        });
        ledger.networks[place].1 += 1;
        end.facts.is_over_share = ledger.networks[place].1 > most;
        end.facts.accepted_at = ledger.turn_began;
    }

    /// Checks that a listener that is closed in order has an empty accept queue.
    pub fn check_close(&mut self, number: usize) {
        let listener = &self.listeners[number];
        let is_quiesced = listener.quiesced_at.is_some_and(|until| until <= self.now);
        let in_order = is_quiesced && listener.queue.is_empty();
        let is_allowed = in_order || listener.is_broken || self.ledger.context == Context::Cut;
        if !listener.is_open || !is_allowed {
            self.fails_check(None, &format!("a listener is closed\n  {listener:?}"));
        }
        self.ledger.has_broken |= listener.is_broken;
    }

    /// Checks that few timers are set at a time, because they cannot be cancelled.
    pub fn check_timer(&mut self, timer: Timer) {
        let set = &mut self.ledger.timers[timer as usize];
        *set += 1;
        let most = match timer {
            Timer::RetryAccept | Timer::DrainCheck | Timer::DrainEnd | Timer::Scan => 1,
            Timer::Stall | Timer::Idle | Timer::Linger | Timer::Probe => TIMERS_MAX,
            Timer::Quiesced => self.listeners.len() as u32,
        };
        if *set > most {
            let text = format!("{set} timers of {timer:?} are set");
            self.fails_check(None, &text);
        }
    }

    /// Checks, while the server sleeps, that an event will report everything that could be done
    /// now.
    pub fn check_sleep(&self) {
        for number in self.open.iter().map(|&number| number as usize) {
            let end = &self.ends[number];
            if !end.is_reported() || end.token.is_none() {
                continue;
            }
            let (is_pending, got_end) = (end.pending() > 0, end.facts.got_end);
            let is_stranded = end.is_readable() && !got_end && !is_pending;
            require!(
                self,
                number,
                !is_stranded,
                "the server sleeps, but data can be read"
            );
            let is_unsent = is_pending && end.is_writable();
            require!(
                self,
                number,
                !is_unsent,
                "the server sleeps, but data can be sent"
            );
            let is_ended = got_end && !is_pending;
            require!(
                self,
                number,
                !is_ended,
                "the server sleeps, but the client ended"
            );
        }
        let cap = self.limits.max_connections;
        let has_room = match &self.neighbours {
            Some(neighbours) => neighbours.has_room(self.open.len()),
            None => !self.ledger.is_full || self.open.len() + room_of(cap) <= cap,
        };
        let is_retry_set = self.ledger.timers[Timer::RetryAccept as usize] > 0;
        for listener in &self.listeners {
            let is_known = listener.is_open && listener.is_reported() && !listener.queue.is_empty();
            if is_known && has_room && !(listener.is_paused && is_retry_set) {
                self.fails_check(
                    None,
                    &format!("the server sleeps, but clients wait\n  {listener:?}"),
                );
            }
        }
    }

    pub fn begin_turn(&mut self) {
        self.end_serve();
        self.ledger.turn += 1;
        self.ledger.turn_began = self.now;
        self.ledger.queued = std::mem::take(&mut self.ledger.spent);
        for listener in &mut self.listeners {
            listener.attempts = 0;
        }
    }

    /// Checks the limits of a turn at its end.
    pub fn check_turn(&mut self) {
        self.end_serve();
        self.ledger.queued.clear();
        let served = self.ledger.served.len();
        if self.ledger.is_large && served > self.limits.large_read_clients {
            self.fails_check(None, &format!("large reads in a turn of {served}"));
        }
        self.ledger.larges += u64::from(self.ledger.is_large);
        self.ledger.is_large = false;
        self.ledger.served.clear();
        if let Some(since) = self.ledger.stopping
            && self.now > since + nanos(self.limits.drain_timeout) + SLACK
        {
            self.fails_check(None, "the drain timeout is over");
        }
        if self.now >= self.ledger.next_audit {
            self.ledger.next_audit = self.now + 1_000_000;
            for number in self.open.iter().map(|&number| number as usize) {
                self.audit(number);
            }
        }
    }

    /// Checks that a connection does not stay open longer than the limits allow.
    fn audit(&self, number: usize) {
        let end = &self.ends[number];
        let (facts, now) = (&end.facts, self.now);
        if end.is_over() || end.token.is_none() {
            return;
        }
        if let Some(timeout) = self.limits.stall_timeout {
            let (whole, late) = (nanos(timeout), 6 * lateness(timeout / 4));
            let is_owed = end.sent > end.acked;
            let is_stuck = is_owed && now > facts.stuck_since + whole * 5 / 4 + late;
            require!(
                self,
                number,
                !is_stuck,
                "it acknowledges nothing, and stays open"
            );
            let is_slow = is_owed && now > facts.slow_since + 2 * whole + 2 * late;
            require!(
                self,
                number,
                !is_slow,
                "it acknowledges too little, and stays open"
            );
        }
        if let Some(time) = self.limits.keepalive {
            let since = end.heard_at.max(facts.accepted_at);
            let end_at = since + nanos(self.limits.keepalive_end().unwrap_or_default());
            // There is a check for each probe, one at the end, and one when the connection was
            // scheduled. Each may be late by a tick of the timer wheel and by all connections that
            // existed then.
            let tick = nanos(time / 256).max(1_000_000) + SLACK;
            let crowd = end.crowd.max(self.open.len());
            let burst = nanos(self.limits.probe_gap) * (1 + crowd as u64);
            let late = (KEEPALIVE_PROBES as u64 + 2) * (tick + burst);
            let is_gone = end.owed() == 0 && now > end_at + late;
            require!(self, number, !is_gone, "it has vanished, and stays open");
        }
        if let Some(fin) = facts.fin {
            let linger = self.limits.linger;
            let is_over = now > fin.at + nanos(linger) + 2 * lateness(linger);
            require!(self, number, !is_over, "its linger time is over");
        } else if let Some(timeout) = self.limits.idle_timeout {
            let over_at = end.quiet_since().max(facts.accepted_at) + nanos(timeout);
            // A connection with unacknowledged replies when its time was over gets another timeout.
            let at = match facts.owed_until > over_at {
                true => facts.owed_until + nanos(timeout),
                false => over_at,
            };
            let is_idle = end.owed() == 0 && now > at + 2 * lateness(timeout);
            require!(self, number, !is_idle, "it is idle, and stays open");
        }
    }

    /// Checks the server's counters.
    pub fn check_snapshot(&self, snapshot: &Snapshot) {
        let (totals, ledger) = (&snapshot.totals, &self.ledger);
        let closed = CloseReason::ALL.map(|reason| totals.closed(reason));
        let said = (totals.accepted, snapshot.open, snapshot.pending_bytes);
        let known = (ledger.accepted, self.open.len() as u64, ledger.pending);
        if said != known || closed != ledger.closed {
            let closed = format!("{closed:?}, expected {:?}", ledger.closed);
            self.fails_check(
                None,
                &format!("counters {said:?}, expected {known:?}, {closed}"),
            );
        }
        let said = (totals.stale_events, totals.lost, totals.reset_in_queue);
        let known = (ledger.stale, ledger.lost, ledger.reset_in_queue);
        if said != known {
            self.fails_check(None, &format!("counters {said:?}, expected {known:?}"));
        }
        if totals.accepted != totals.closed_in_all() + snapshot.open {
            self.fails_check(None, "accepted is not the sum of open and closed");
        }
    }
}

/// Returns the network by which the connections of an address are counted: /64 for IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let mut segments = six.segments();
            segments[4..].fill(0);
            IpAddr::V6(Ipv6Addr::from(segments))
        }
    }
}
