//! The reactor: waits for events with [`mio::Poll`] and returns them one by one. Its users pull
//! events; it has no callbacks.
//!
//! One turn, as every loop on it is written:
//!
//! ```text
//!   ┌─► turn ──────── waits in Poll::poll, or only polls while its user has work in a queue
//!   │    next_event ─ requests to stop, then timers that are due, then readiness of sources
//!   │    next_event ─ ... until None
//!   └─── the user's queued work
//! ```
//!
//! mio is edge-triggered: an [`Event::Io`] is not repeated, and its flags are hints (see
//! [`crate::stream`]). mio rounds timeouts up to whole milliseconds, so a poll that waits has none:
//! a timerfd wakes it at the earliest deadline, late by microseconds (see [`crate::sys::timerfd`]).
//! Only when arming the timerfd fails does the poll get a timeout: one failed call ends no run.

pub mod interrupt;
pub mod signals;
pub mod slots;
pub mod timers;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use signal_hook::consts::SIGUSR1;

use crate::reactor::signals::{Relay, Remote, Requested, Requests};
use crate::reactor::slots::Token;
use crate::reactor::timers::{Due, Timers};
use crate::stream::Hints;
use crate::sys::timerfd::DeadlineTimer;

/// Maximum number of events that one turn takes from the kernel; the others follow in the next.
const EVENTS_PER_TURN: usize = 1024;

/// Tokens of the reactor's own sources, at the end of the fixed tokens.
const TIMERFD: Token = Token::fixed(u32::MAX);
const REQUESTS: Token = Token::fixed(u32::MAX - 1);
const INQUIRIES: Token = Token::fixed(u32::MAX - 2);
const HANGUPS: Token = Token::fixed(u32::MAX - 3);

/// An event of one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// A request to stop: SIGINT, SIGTERM, SIGHUP where it stops the reactor, or [`Remote::stop`].
    /// Every request is an event of its own.
    Stop,
    /// A request of a [`Remote`] to drain.
    Drain,
    /// A request of a [`Remote`] for a snapshot.
    Report,
    /// SIGUSR1: a person wants the state in the log.
    Inquiry,
    /// SIGHUP, where it does not stop the reactor.
    Hangup,
    /// The timer that was set with this key is due.
    Timer(K),
    /// The source may be ready.
    Io(Token, Hints),
}

/// The time for which a turn may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until an event arrives.
    Block,
    /// Until an event arrives, at the latest until this instant.
    Until(Instant),
    /// Not at all: the caller has work left.
    Never,
}

/// Poll, timers and signals of one thread. `K` is the type of its user's timer keys.
#[derive(Debug)]
pub struct Reactor<K> {
    poll: Poll,
    /// The buffer of [`Poll::poll`].
    events: Events,
    /// The events of this turn that belong to the user's sources.
    ready: Vec<(Token, Hints)>,
    next_ready: usize,
    /// Set when requests or timers may be pending.
    has_own: bool,
    timers: Timers<K>,
    due: Option<Due>,
    timerfd: DeadlineTimer,
    requests: Requests,
    /// SIGUSR1, where it is handled.
    inquiries: Option<Requests>,
    /// SIGHUP, where it does not stop the reactor and is not ignored.
    hangups: Option<Requests>,
    relay: Option<Relay>,
    requested: Requested,
    inquired: usize,
    hung_up: usize,
}

impl<K> Reactor<K> {
    /// Creates a reactor without sources. Errors are those of epoll_create1(2), timerfd_create(2)
    /// and socketpair(2), most often a full descriptor table.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let timerfd = DeadlineTimer::new()?;
        let mut requests = Requests::new()?;
        poll.registry().register(
            &mut SourceFd(&timerfd.as_raw_fd()),
            to_mio(TIMERFD),
            Interest::READABLE,
        )?;
        poll.registry()
            .register(requests.source(), to_mio(REQUESTS), Interest::READABLE)?;
        Ok(Reactor {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            next_ready: 0,
            has_own: false,
            timers: Timers::default(),
            due: None,
            timerfd,
            requests,
            inquiries: None,
            hangups: None,
            relay: None,
            requested: Requested::default(),
            inquired: 0,
            hung_up: 0,
        })
    }

    /// Delivers SIGINT, SIGTERM and SIGHUP as [`Event::Stop`]. The third signal ends the process,
    /// even while the thread of the reactor is blocked.
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        self.relay = Some(Relay::start(Arc::new([self.remote()?]))?);
        Ok(())
    }

    /// Delivers SIGINT and SIGTERM as [`Event::Stop`], to this reactor and to every other one that
    /// calls this. For threads that block nowhere but in the reactor. SIGHUP is delivered as
    /// [`Event::Stop`] as well (`true`), or as [`Event::Hangup`].
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

    /// Delivers SIGUSR1 as [`Event::Inquiry`].
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

    /// Returns a handle with which another thread sends requests to this reactor.
    pub fn remote(&self) -> io::Result<Remote> {
        self.requests.remote()
    }

    /// Registers a connection for reading, writing and urgent data, once for its whole life.
    ///
    /// An edge for writing arrives only after a write fell short, so that this costs nothing later.
    /// Urgent data needs its edge because a read stops before the mark.
    #[inline(always)]
    pub fn add_stream(&self, source: &impl AsFd, token: Token) -> io::Result<()> {
        self.poll.registry().register(
            &mut SourceFd(&source.as_fd().as_raw_fd()),
            to_mio(token),
            Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY,
        )
    }

    /// Registers a source that is only read: a listener.
    pub fn add_reader(&self, source: &mut impl Source, token: Token) -> io::Result<()> {
        self.poll
            .registry()
            .register(source, to_mio(token), Interest::READABLE)
    }

    /// Deregisters a source. The current turn may still return events of it.
    pub fn remove(&self, source: &mut impl Source) -> io::Result<()> {
        self.poll.registry().deregister(source)
    }

    /// Sets a timer; timers cannot be cancelled.
    pub fn set_timer(&mut self, deadline: Instant, key: K) {
        self.timers.set(deadline, key);
    }

    /// Begins a turn: waits for events as `wait` allows. A signal that interrupts the wait is not
    /// an error.
    #[inline(always)]
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let timer = self.timers.next_deadline();
        let (deadline, armed, timeout) = match wait {
            Wait::Block => (timer, self.timerfd.arm(timer), None),
            Wait::Until(end) => {
                let earlier = timer.filter(|timer| *timer < end).unwrap_or(end);
                (Some(earlier), self.timerfd.arm(Some(earlier)), None)
            }
            // A timerfd that expires early does no harm, and is not armed again in every turn.
            Wait::Never => (None, self.timerfd.arm_at_least(timer), Some(Duration::ZERO)),
        };
        match armed {
            Ok(()) => self.wait(timeout),
            Err(_) => self.wait_without_timerfd(deadline, timeout),
        }
    }

    /// Waits in a turn whose timerfd could not be armed: the poll has a timeout, which is late by
    /// up to a millisecond, and the timers are checked whatever ended the wait.
    #[cold]
    fn wait_without_timerfd(
        &mut self,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        self.wait(timeout.or(left))?;
        self.has_own = true;
        self.due = Some(self.timers.due(Instant::now()));
        Ok(())
    }

    /// Waits for events, and separates those of the reactor's own sources from the user's.
    #[inline(always)]
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        while let Err(error) = self.poll.poll(&mut self.events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(cannot_wait(error));
            }
        }
        self.ready.clear();
        self.next_ready = 0;
        let mut has_own = false;
        for event in &self.events {
            let token = Token::from_bits(event.token().0 as u64);
            match token {
                TIMERFD | REQUESTS | INQUIRIES | HANGUPS => has_own = true,
                _ => self.ready.push((token, hints(event))),
            }
        }
        if has_own {
            self.take_own();
        }
        Ok(())
    }

    /// Returns how many sources may be ready in this turn.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Returns the next event of this turn; `None` after the last one.
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

    /// Returns the next request or timer.
    #[cold]
    fn next_own(&mut self) -> Option<Event<K>> {
        let requests = [
            (&mut self.requested.signals, Event::Stop),
            (&mut self.requested.drains, Event::Drain),
            (&mut self.requested.reports, Event::Report),
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

    /// Reads the reactor's own sources that are ready.
    #[cold]
    fn take_own(&mut self) {
        self.has_own = true;
        for event in &self.events {
            match Token::from_bits(event.token().0 as u64) {
                TIMERFD => {
                    self.timerfd.expired();
                    self.due = Some(self.timers.due(Instant::now()));
                }
                REQUESTS => {
                    let requested = self.requests.take();
                    self.requested.signals += requested.signals;
                    self.requested.drains += requested.drains;
                    self.requested.reports += requested.reports;
                }
                HANGUPS => {
                    let hangups = self.hangups.as_mut();
                    self.hung_up += hangups.map_or(0, |requests| requests.take().signals);
                }
                INQUIRIES => {
                    let inquiries = self.inquiries.as_mut();
                    self.inquired += inquiries.map_or(0, |requests| requests.take().signals);
                }
                _ => {}
            }
        }
    }
}

#[cold]
fn cannot_wait(error: io::Error) -> io::Error {
    let text = format!("cannot wait for events: {error}");
    io::Error::new(error.kind(), text)
}

fn to_mio(token: Token) -> mio::Token {
    mio::Token(token.to_bits() as usize)
}

/// Converts the flags of an event. An error permits an attempt in both directions.
fn hints(event: &mio::event::Event) -> Hints {
    let ended = event.is_read_closed();
    let failed = event.is_error();
    let exceptional = ended || failed || event.is_priority();
    Hints {
        readable: exceptional || event.is_readable(),
        writable: failed || event.is_writable() || event.is_write_closed(),
        exceptional,
        ended,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::mem;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    /// Returns all events until there are `count` of them.
    fn collect(reactor: &mut Reactor<&'static str>, count: usize) -> Vec<Event<&'static str>> {
        let mut events = Vec::new();
        while events.len() < count {
            reactor.turn(Wait::Block).unwrap();
            events.extend(std::iter::from_fn(|| reactor.next_event()));
        }
        events
    }

    /// Returns the hints of a TCP connection after an action of its peer, as
    /// `[readable, writable, exceptional, ended]`.
    fn hints_after(act: impl FnOnce(TcpStream)) -> [bool; 4] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let mut reactor: Reactor<&str> = Reactor::new().unwrap();
        reactor.add_stream(&connection, Token::fixed(0)).unwrap();
        act(peer);
        // The first edge may be older than what the peer did, and be for writing only.
        let hints = loop {
            reactor.turn(Wait::Block).unwrap();
            match reactor.next_event() {
                Some(Event::Io(_, hints)) if hints.readable => break hints,
                event => assert!(matches!(event, None | Some(Event::Io(..))), "{event:?}"),
            }
        };
        [
            hints.readable,
            hints.writable,
            hints.exceptional,
            hints.ended,
        ]
    }

    #[test]
    fn hints_show_the_state_of_a_connection() {
        let (y, n) = (true, false);
        let sent = hints_after(|mut peer| {
            peer.write_all(b"a").unwrap();
            mem::forget(peer);
        });
        assert_eq!(sent, [y, y, n, n]);
        let half_closed = hints_after(|peer| {
            peer.shutdown(Shutdown::Write).unwrap();
            mem::forget(peer);
        });
        assert_eq!(half_closed, [y, y, y, y]);
        let urgent = hints_after(|peer| {
            SockRef::from(&peer).send_out_of_band(b"!").unwrap();
            mem::forget(peer);
        });
        assert_eq!(urgent, [y, y, y, n]);
        let reset = hints_after(|peer| {
            SockRef::from(&peer)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        });
        assert_eq!(reset, [y, y, y, y]);
    }

    #[test]
    fn timers_wake_the_poll_in_the_order_of_their_deadlines() {
        let mut reactor = Reactor::new().unwrap();
        let now = Instant::now();
        reactor.set_timer(now + Duration::from_millis(2), "second");
        reactor.set_timer(now + Duration::from_micros(100), "first");
        reactor.set_timer(now - Duration::from_secs(1), "overdue");
        let events = collect(&mut reactor, 3);
        assert_eq!(events, ["overdue", "first", "second"].map(Event::Timer));
        assert!(now.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn every_request_to_stop_is_an_event_even_within_one_turn() {
        let mut reactor: Reactor<&str> = Reactor::new().unwrap();
        let remote = reactor.remote().unwrap();
        remote.stop();
        remote.report();
        remote.stop();
        let events = collect(&mut reactor, 3);
        assert_eq!(events, [Event::Stop, Event::Stop, Event::Report]);
    }

    #[test]
    fn a_turn_that_may_not_wait_does_not() {
        let mut reactor: Reactor<&str> = Reactor::new().unwrap();
        reactor.turn(Wait::Never).unwrap();
        assert_eq!(reactor.next_event(), None);
    }
}
