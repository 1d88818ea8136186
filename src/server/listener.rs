//! The state of a listening socket's accept queue, as far as edge-triggered epoll reports it. Pure.
//!
//! The kernel reports a new client once. So the listener remembers that its queue may hold more,
//! also when accept(2) fails because descriptors have run out: after that, no event follows, even
//! when descriptors are free again. The owner of the listener retries on every close and on a
//! timer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::sys::errno;

/// The state of one listening socket and its accept queue.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    state: State,
    /// Length of the next pause.
    pause: Duration,
    pauses: (Duration, Duration),
}

/// The stage of a listener between its start and its close, with the state of its accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Clients connect, and an event reports each of them.
    Open(Queue),
    /// No new client can connect. Handshakes that were in progress have completed by this time.
    Quiesced(Queue, Instant),
    /// All clients have arrived, and accept(2) is tried for those whose event has not been reported
    /// yet. The listener closes once the queue is empty.
    LastAsked(Queue),
}

/// The state of the kernel's accept queue, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// The queue is empty; an event will report the next client.
    Empty,
    /// The queue may hold a client.
    Filled,
    /// The queue holds a client, but descriptors or memory have run out.
    Paused,
}

/// The outcome of an attempt to accept a client.
#[derive(Debug)]
pub enum Accepted<C> {
    /// A client was accepted.
    Client(C),
    /// The queue is empty.
    QueueEmpty,
    /// A signal interrupted the call. Try again.
    Interrupted,
    /// A client was lost before it was accepted. The next one may be fine.
    Lost(io::Error),
    /// Descriptors or memory have run out. Try again after this pause, or when a connection closes.
    Exhausted(io::Error, Duration),
    /// The listener cannot be used any more.
    Broken(io::Error),
}

impl Listener {
    /// Returns a listener whose queue may hold clients that connected before. `pauses`: the first
    /// and the longest.
    pub fn new(address: SocketAddr, pauses: (Duration, Duration)) -> Self {
        Listener {
            address,
            state: State::Open(Queue::Filled),
            pause: pauses.0,
            pauses,
        }
    }

    /// Returns the address listened on, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the state of the queue, mutably.
    fn queue(&mut self) -> &mut Queue {
        match &mut self.state {
            State::Open(queue) | State::Quiesced(queue, _) | State::LastAsked(queue) => queue,
        }
    }

    /// Records that the queue may hold a client.
    pub fn note(&mut self) {
        let queue = self.queue();
        *queue = queue.noted();
    }

    /// Ends a pause: a descriptor may be free again.
    pub fn retry(&mut self) {
        let queue = self.queue();
        if *queue == Queue::Paused {
            *queue = Queue::Filled;
        }
    }

    /// Returns whether accepting now could give a client.
    pub fn is_filled(&self) -> bool {
        match self.state {
            State::Open(queue) | State::Quiesced(queue, _) | State::LastAsked(queue) => {
                queue == Queue::Filled
            }
        }
    }

    /// Records that no new client can connect from now on, and that by `until` all handshakes in
    /// progress have completed. The queue may hold clients that no event has reported yet.
    pub fn quiesce(&mut self, until: Instant) {
        let queue = *self.queue();
        self.state = State::Quiesced(queue.noted(), until);
    }

    /// Marks the queue as possibly filled, once, when all clients have arrived: an event may be
    /// late when more sources are ready than one poll returns, and closing would reset those
    /// clients.
    pub fn begin_last_accept(&mut self, now: Instant) {
        if let State::Quiesced(queue, until) = self.state
            && until <= now
        {
            self.state = State::LastAsked(queue.noted());
        }
    }

    /// Returns whether there may be work: clients to accept, or the listener to close.
    pub fn is_due(&self) -> bool {
        match self.state {
            State::Open(queue) => queue == Queue::Filled,
            State::Quiesced(..) | State::LastAsked(_) => true,
        }
    }

    /// Returns whether every client that could connect has been accepted.
    pub fn is_spent(&self) -> bool {
        self.state == State::LastAsked(Queue::Empty)
    }

    /// Updates the state by the result of an attempt to accept, and returns what it means.
    pub fn record<C>(&mut self, attempt: io::Result<C>) -> Accepted<C> {
        let error = match attempt {
            Ok(client) => {
                self.pause = self.pauses.0;
                return Accepted::Client(client);
            }
            Err(error) => error,
        };
        match Severity::of(&error) {
            Severity::QueueEmpty => {
                *self.queue() = Queue::Empty;
                Accepted::QueueEmpty
            }
            Severity::Interrupted => Accepted::Interrupted,
            Severity::ThatClient => Accepted::Lost(error),
            Severity::Resources => {
                *self.queue() = Queue::Paused;
                let pause = self.pause;
                self.pause = (pause * 2).min(self.pauses.1);
                Accepted::Exhausted(error, pause)
            }
            Severity::Fatal => Accepted::Broken(error),
        }
    }
}

impl Queue {
    /// Returns the state of the queue after a client may have arrived. That does not end a pause.
    fn noted(self) -> Queue {
        match self {
            Queue::Empty | Queue::Filled => Queue::Filled,
            Queue::Paused => Queue::Paused,
        }
    }
}

/// The consequence of an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    QueueEmpty,
    Interrupted,
    /// Only this client is lost; the next one may be fine. Linux passes on pending network errors
    /// of the new socket here, see accept(2), "Error handling".
    ThatClient,
    /// The client stays in the queue until resources are free again.
    Resources,
    Fatal,
}

impl Severity {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // EAGAIN, or the error of a `World` that did not call the kernel.
            _ if error.kind() == io::ErrorKind::WouldBlock => Severity::QueueEmpty,
            Some(errno::EINTR) => Severity::Interrupted,
            Some(
                errno::ECONNABORTED
                | errno::EPROTO
                | errno::ENETDOWN
                | errno::ENETUNREACH
                | errno::EHOSTDOWN
                | errno::EHOSTUNREACH
                | errno::ENONET
                | errno::ENOPROTOOPT
                | errno::EOPNOTSUPP
                | errno::ETIMEDOUT,
            ) => Severity::ThatClient,
            Some(errno::EBADF | errno::EINVAL | errno::ENOTSOCK | errno::EFAULT) => Severity::Fatal,
            // Descriptors, memory, a security module that forbids it for now: the client stays in
            // the queue.
            _ => Severity::Resources,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_spent_once_the_kernel_was_asked_after_all_had_arrived() {
        let now = Instant::now();
        let pause = Duration::from_millis(1);
        let mut listener = Listener::new(([127, 0, 0, 1], 1).into(), (pause, pause));
        let accept = |listener: &mut Listener, errno: i32| {
            listener.record::<()>(Err(io::Error::from_raw_os_error(errno)));
        };
        accept(&mut listener, errno::EAGAIN);
        assert!(!listener.is_due() && !listener.is_spent());
        listener.quiesce(now + pause);
        assert!(listener.is_filled(), "an event may be late");
        accept(&mut listener, errno::EAGAIN);
        listener.begin_last_accept(now);
        assert!(listener.is_due() && !listener.is_filled() && !listener.is_spent());
        listener.begin_last_accept(now + pause);
        assert!(listener.is_filled());
        accept(&mut listener, errno::EMFILE);
        listener.note();
        assert!(!listener.is_filled() && !listener.is_spent());
        listener.retry();
        assert!(listener.is_filled());
        accept(&mut listener, errno::EAGAIN);
        listener.begin_last_accept(now + pause);
        assert!(listener.is_spent(), "the kernel is asked once");
    }

    #[test]
    fn only_errors_that_make_the_socket_useless_are_fatal() {
        let severity = |errno| Severity::of(&io::Error::from_raw_os_error(errno));
        assert_eq!(severity(errno::EAGAIN), Severity::QueueEmpty);
        let blocked = io::ErrorKind::WouldBlock.into();
        assert_eq!(Severity::of(&blocked), Severity::QueueEmpty);
        assert_eq!(severity(errno::EINTR), Severity::Interrupted);
        assert_eq!(severity(errno::ECONNABORTED), Severity::ThatClient);
        assert_eq!(severity(errno::EMFILE), Severity::Resources);
        assert_eq!(severity(errno::EBADF), Severity::Fatal);
        assert_eq!(severity(errno::EINVAL), Severity::Fatal);
    }
}
