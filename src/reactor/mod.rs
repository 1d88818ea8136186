//! The reactor: waits for the kernel and says what happened. Its users pull; it never calls them.
//!
//! One turn, as every loop on it is written:
//!
//! ```text
//!   ┌─► turn ──── blocks in epoll_wait, unless its user still has work in a queue
//!   │    next ─── requests to stop, then timers that are due, then readiness of sources
//!   │    next ─── ... until None
//!   └─── the user's leftovers
//! ```
//!
//! Everything is edge-triggered: what [`Event::Io`] says once is not said again, and its flags are
//! hints (see [`crate::stream`]). The poll itself has no timeout: an alarm on a timerfd wakes it
//! for the earliest timer, with microseconds in place of whole milliseconds. Only where arming the
//! alarm fails does a timeout take its place: one call that fails ends no run.

pub mod alarm;
pub mod signals;
pub mod slots;
pub mod timers;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Poll};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use signal_hook::consts::SIGUSR1;

use crate::reactor::alarm::Alarm;
use crate::reactor::signals::{Asked, Relay, Remote, Requests};
use crate::reactor::slots::Token;
use crate::reactor::timers::{Due, Timers};
use crate::stream::Hints;

/// How many events one turn takes from the kernel; the rest comes with the next turn.
const EVENTS_PER_TURN: usize = 1024;

/// Waiting no time at all.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The reactor's own sources, at the end of the fixed tokens.
const ALARM: Token = Token::fixed(u32::MAX);
const REQUESTS: Token = Token::fixed(u32::MAX - 1);
const INQUIRIES: Token = Token::fixed(u32::MAX - 2);
const HANGUPS: Token = Token::fixed(u32::MAX - 3);

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// A request to stop: SIGINT, SIGTERM or a [`Remote`]. Each one is told, none merged.
    Stop,
    /// A [`Remote`] asks it to come to an end in order.
    Drain,
    /// A [`Remote`] asks how it stands.
    Report,
    /// A person asks how it stands: SIGUSR1.
    Inquiry,
    /// SIGHUP, where it does not stop the reactor.
    Hangup,
    /// A timer that was set with this key is due.
    Timer(K),
    /// A source may be ready.
    Io(Token, Hints),
}

/// Whether a turn may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until something happens.
    Block,
    /// Until something happens or this instant has come.
    Until(Instant),
    /// Not at all: the caller has work left.
    Never,
}

/// Poll, timers and signals of one thread. `K` is what its user calls its timers.
#[derive(Debug)]
pub struct Reactor<K> {
    poll: Poll,
    ready: Vec<(Token, Hints)>,
    next_ready: usize,
    /// Something may have happened that is no readiness of a source.
    has_own: bool,
    timers: Timers<K>,
    due: Option<Due>,
    alarm: Alarm,
    requests: Requests,
    /// SIGUSR1, when it means anything here.
    inquiries: Option<Requests>,
    /// Requests of SIGHUP, unless it is ignored.
    hangups: Option<Requests>,
    relay: Option<Relay>,
    asked: Asked,
    inquired: usize,
    hung_up: usize,
}

impl<K> Reactor<K> {
    /// A reactor without sources. Errors are those of epoll_create1(2), timerfd_create(2) and
    /// socketpair(2), as a rule a full descriptor table.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new()?;
        let mut requests = Requests::new()?;
        poll.registry().register(
            &mut SourceFd(&alarm.as_raw_fd()),
            to_mio(ALARM),
            Interest::READABLE,
        )?;
        poll.registry()
            .register(requests.source(), to_mio(REQUESTS), Interest::READABLE)?;
        Ok(Reactor {
            poll,
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            next_ready: 0,
            has_own: false,
            timers: Timers::default(),
            due: None,
            alarm,
            requests,
            inquiries: None,
            hangups: None,
            relay: None,
            asked: Asked::default(),
            inquired: 0,
            hung_up: 0,
        })
    }

    /// Makes SIGINT, SIGTERM and SIGHUP of this process [`Event::Stop`] of this reactor. The third
    /// one ends the process, even when the thread of the reactor is blocked.
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        self.relay = Some(Relay::start(Arc::new([self.remote()?]))?);
        Ok(())
    }

    /// Makes SIGINT and SIGTERM of this process [`Event::Stop`] of this reactor, and of any other
    /// that calls this. For use where nothing blocks but the reactor. SIGHUP stops the reactor as
    /// well (`true`), or becomes [`Event::Hangup`].
    pub fn obey_signals(&mut self, stops_on_hangup: bool) -> io::Result<()> {
        self.requests.register_ends()?;
        if stops_on_hangup {
            return self.requests.register_hangup();
        }
        let mut hangups = Requests::new()?;
        hangups.register_hangup()?;
        self.add_requests(&mut hangups, HANGUPS)?;
        self.hangups = Some(hangups);
        Ok(())
    }

    /// SIGUSR1 of this process becomes [`Event::Inquiry`] of this reactor.
    pub fn report_on_signal(&mut self) -> io::Result<()> {
        let mut inquiries = Requests::new()?;
        inquiries.register(SIGUSR1)?;
        self.add_requests(&mut inquiries, INQUIRIES)?;
        self.inquiries = Some(inquiries);
        Ok(())
    }

    fn add_requests(&self, requests: &mut Requests, token: Token) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(requests.source(), to_mio(token), Interest::READABLE)
    }

    /// A handle for another thread.
    pub fn remote(&self) -> io::Result<Remote> {
        self.requests.remote()
    }

    /// Registers a connection, for both directions and urgent data, once and for its whole life.
    ///
    /// An edge for writing comes only after a write fell short, so this costs nothing later. An
    /// edge for urgent data must be known because a read stops before the mark.
    ///
    /// The call is made here, inlined, as that in `wait` is, and so is all of accepting: of
    /// a connection that comes and goes with one message, that is a hundredth of the CPU time.
    #[inline(always)]
    pub fn add_stream(&self, source: &impl AsFd, token: Token) -> io::Result<()> {
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP;
        let data = EventData::new_u64(token.to_bits());
        epoll::add(self.poll.registry(), source, data, both | EventFlags::ET)?;
        Ok(())
    }

    /// Registers a source that is only read: a listener.
    pub fn add_reader(&self, source: &mut impl Source, token: Token) -> io::Result<()> {
        self.poll
            .registry()
            .register(source, to_mio(token), Interest::READABLE)
    }

    /// Takes a source out. Events of it may still stand in the current batch.
    pub fn remove(&self, source: &mut impl Source) -> io::Result<()> {
        self.poll.registry().deregister(source)
    }

    /// Sets a timer; it cannot be taken back.
    pub fn set_timer(&mut self, deadline: Instant, key: K) {
        self.timers.set(deadline, key);
    }

    /// Waits until something happened. Being interrupted by a signal is not an error.
    #[inline(always)]
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let timer = self.timers.next_deadline();
        let (deadline, armed, timeout) = match wait {
            Wait::Block => (timer, self.alarm.arm(timer), None),
            Wait::Until(end) => {
                let earlier = timer.filter(|timer| *timer < end).unwrap_or(end);
                (Some(earlier), self.alarm.arm(Some(earlier)), None)
            }
            // An alarm that rings early does no harm, and is not armed anew in every turn.
            Wait::Never => (None, self.alarm.arm_at_least(timer), Some(&AT_ONCE)),
        };
        match armed {
            Ok(()) => self.wait(timeout),
            Err(_) => self.wait_without_alarm(deadline, timeout),
        }
    }

    /// Sets up a turn whose alarm could not be armed: the poll itself has a timeout, which wakes it
    /// a millisecond late at most, and the timers are checked whatever woke it.
    #[cold]
    fn wait_without_alarm(
        &mut self,
        deadline: Option<Instant>,
        timeout: Option<&Timespec>,
    ) -> io::Result<()> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        self.wait(timeout.or(left.as_ref()))?;
        self.has_own = true;
        self.due = Some(self.timers.due(Instant::now()));
        Ok(())
    }

    /// Waits for the kernel, and sorts what it tells: what is the reactor's own, and what is its
    /// user's.
    ///
    /// The call is made here, inlined, and not by mio and libc: with a return from a function
    /// behind the wait, the kernel took 0.2 µs longer for the recv(2) that followed, of 1.3, and
    /// 0.6 for the send(2), of 11 (`server::engine::serving` tells more).
    #[inline(always)]
    fn wait(&mut self, timeout: Option<&Timespec>) -> io::Result<()> {
        let mut buffer = [const { MaybeUninit::uninit() }; EVENTS_PER_TURN];
        let events = loop {
            match epoll::wait(self.poll.registry(), &mut buffer, timeout) {
                Ok((events, _)) => break events,
                Err(Errno::INTR) => {}
                Err(error) => return Err(cannot_wait(error)),
            }
        };
        self.ready.clear();
        self.next_ready = 0;
        for event in events {
            let token = Token::from_bits(event.data.u64());
            match token {
                ALARM | REQUESTS | INQUIRIES | HANGUPS => self.take_own(token),
                _ => self.ready.push((token, hints(event.flags))),
            }
        }
        Ok(())
    }

    /// How many sources may be ready in this turn.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The next thing that happened in this turn; `None` when all was told.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event<K>> {
        if self.has_own
            && let Some(event) = self.next_own()
        {
            return Some(event);
        }
        let &(token, hints) = self.ready.get(self.next_ready)?;
        self.next_ready += 1;
        Some(Event::Io(token, hints))
    }

    /// The next thing that is no readiness of a source.
    #[cold]
    fn next_own(&mut self) -> Option<Event<K>> {
        let requests = [
            (&mut self.asked.signals, Event::Stop),
            (&mut self.asked.drains, Event::Drain),
            (&mut self.asked.reports, Event::Report),
            (&mut self.inquired, Event::Inquiry),
            (&mut self.hung_up, Event::Hangup),
        ];
        for (count, request) in requests {
            if *count > 0 {
                *count -= 1;
                return Some(request);
            }
        }
        if let Some(due) = self.due {
            if let Some(key) = self.timers.pop(due) {
                return Some(Event::Timer(key));
            }
            self.due = None;
        }
        self.has_own = false;
        None
    }

    /// One of the reactor's own sources is ready.
    #[cold]
    fn take_own(&mut self, source: Token) {
        self.has_own = true;
        match source {
            ALARM => {
                self.alarm.rang();
                self.due = Some(self.timers.due(Instant::now()));
            }
            REQUESTS => {
                let asked = self.requests.take();
                self.asked.signals += asked.signals;
                self.asked.drains += asked.drains;
                self.asked.reports += asked.reports;
            }
            HANGUPS => {
                let hangups = self.hangups.as_mut();
                self.hung_up += hangups.map_or(0, |requests| requests.take().signals);
            }
            _ => {
                let inquiries = self.inquiries.as_mut();
                self.inquired += inquiries.map_or(0, |requests| requests.take().signals);
            }
        }
    }
}

#[cold]
fn cannot_wait(error: Errno) -> io::Error {
    let error = io::Error::from(error);
    let text = format!("cannot wait for events: {error}");
    io::Error::new(error.kind(), text)
}

fn to_mio(token: Token) -> mio::Token {
    mio::Token(token.to_bits() as usize)
}

/// See epoll_ctl(2). What says that something failed permits a try in both directions.
fn hints(flags: EventFlags) -> Hints {
    let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
    let exceptional = ended || flags.intersects(EventFlags::PRI | EventFlags::ERR);
    Hints {
        readable: exceptional || flags.intersects(EventFlags::IN),
        writable: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
        exceptional,
        ended,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// All that happens until `count` events have come.
    fn told(reactor: &mut Reactor<&'static str>, count: usize) -> Vec<Event<&'static str>> {
        let mut events = Vec::new();
        while events.len() < count {
            reactor.turn(Wait::Block).unwrap();
            events.extend(std::iter::from_fn(|| reactor.next_event()));
        }
        events
    }

    #[test]
    fn hints_say_what_the_flags_permit() {
        let told = |flags| {
            let Hints {
                readable,
                writable,
                exceptional,
                ended,
            } = hints(flags);
            [readable, writable, exceptional, ended]
        };
        let (y, n) = (true, false);
        assert_eq!(told(EventFlags::IN), [y, n, n, n]);
        assert_eq!(told(EventFlags::OUT), [n, y, n, n]);
        assert_eq!(told(EventFlags::PRI), [y, n, y, n]);
        assert_eq!(told(EventFlags::IN | EventFlags::RDHUP), [y, n, y, y]);
        assert_eq!(told(EventFlags::ERR), [y, y, y, n]);
        assert_eq!(told(EventFlags::HUP), [y, y, y, y]);
    }

    #[test]
    fn timers_wake_the_poll_in_their_order() {
        let mut reactor = Reactor::new().unwrap();
        let now = Instant::now();
        reactor.set_timer(now + Duration::from_millis(2), "second");
        reactor.set_timer(now + Duration::from_micros(100), "first");
        reactor.set_timer(now - Duration::from_secs(1), "overdue");
        let events = told(&mut reactor, 3);
        assert_eq!(events, ["overdue", "first", "second"].map(Event::Timer));
        assert!(now.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn every_request_to_stop_is_told_even_within_one_turn() {
        let mut reactor: Reactor<&str> = Reactor::new().unwrap();
        let remote = reactor.remote().unwrap();
        remote.stop();
        remote.report();
        remote.stop();
        let events = told(&mut reactor, 3);
        assert_eq!(events, [Event::Stop, Event::Stop, Event::Report]);
    }

    #[test]
    fn a_turn_that_may_not_wait_does_not() {
        let mut reactor: Reactor<&str> = Reactor::new().unwrap();
        reactor.turn(Wait::Never).unwrap();
        assert_eq!(reactor.next_event(), None);
    }
}
