//! What is known of a listening socket's queue of clients, under edge-triggered epoll. Pure.
//!
//! The kernel reports a new client once. So the listener remembers that its queue may hold more,
//! also when accept(2) fails because descriptors have run out: after that, no event comes, even
//! when descriptors are free again. Whoever owns it retries on every close and on a timer.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::libc;

/// One listening socket's queue.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    state: State,
    /// How long the next pause lasts.
    pause: Duration,
    pauses: (Duration, Duration),
}

/// The stage of a listener, from its first client to its last, with its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Clients come, and an event tells of each.
    Open(Queue),
    /// Nobody new can come. Those who were coming have arrived at this time.
    Hushed(Queue, Instant),
    /// All have arrived, and the kernel is asked for those whose event has not come yet. It closes
    /// once nobody waits.
    LastAsked(Queue),
}

/// The content of the kernel's queue of clients, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// Nobody waits; an event will tell of the next one.
    Empty,
    /// Somebody may wait.
    Filled,
    /// Somebody waits, and descriptors or memory ran out.
    Paused,
}

/// What an attempt to accept means.
#[derive(Debug)]
pub enum Accepted<C> {
    /// A client.
    Client(C),
    /// Nobody waits.
    Nobody,
    /// A signal came. Try again.
    Interrupted,
    /// A client that was lost before it was accepted. The next may be well.
    Lost(io::Error),
    /// Resources ran out just now. Try again after this pause, or when a connection closes.
    Exhausted(io::Error, Duration),
    /// The listener is of no use any more.
    Broken(io::Error),
}

impl Listener {
    /// A listener about whose queue nothing is known: somebody may have come before. `pauses`: the
    /// first and the longest.
    pub fn new(address: SocketAddr, pauses: (Duration, Duration)) -> Self {
        Listener {
            address,
            state: State::Open(Queue::Filled),
            pause: pauses.0,
            pauses,
        }
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the queue, to be changed.
    fn queue(&mut self) -> &mut Queue {
        match &mut self.state {
            State::Open(queue) | State::Hushed(queue, _) | State::LastAsked(queue) => queue,
        }
    }

    /// Takes note that a client may wait.
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
            State::Open(queue) | State::Hushed(queue, _) | State::LastAsked(queue) => {
                queue == Queue::Filled
            }
        }
    }

    /// Takes note that nobody new can come from now on, and that by `until` all who were coming
    /// have arrived. The queue may hold clients whose event is still to come.
    pub fn hush(&mut self, until: Instant) {
        let queue = *self.queue();
        self.state = State::Hushed(queue.noted(), until);
    }

    /// Once all who were coming have arrived, the kernel is asked for them: an event may be late,
    /// when more sources are ready than one wait returns, and closing would reset those clients.
    pub fn ask_at_the_end(&mut self, now: Instant) {
        if let State::Hushed(queue, until) = self.state
            && until <= now
        {
            self.state = State::LastAsked(queue.noted());
        }
    }

    /// Returns whether there may be something to do: clients to accept, or an end to make.
    pub fn is_due(&self) -> bool {
        match self.state {
            State::Open(queue) => queue == Queue::Filled,
            State::Hushed(..) | State::LastAsked(_) => true,
        }
    }

    /// Returns whether every client that could come has been accepted.
    pub fn is_spent(&self) -> bool {
        self.state == State::LastAsked(Queue::Empty)
    }

    /// Learns from an attempt to accept.
    pub fn learn<C>(&mut self, attempt: io::Result<C>) -> Accepted<C> {
        let error = match attempt {
            Ok(client) => {
                self.pause = self.pauses.0;
                return Accepted::Client(client);
            }
            Err(error) => error,
        };
        match Severity::of(&error) {
            Severity::Nobody => {
                *self.queue() = Queue::Empty;
                Accepted::Nobody
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
    /// Returns the queue when a client may have come to it. A pause is not ended by that.
    fn noted(self) -> Queue {
        match self {
            Queue::Empty | Queue::Filled => Queue::Filled,
            Queue::Paused => Queue::Paused,
        }
    }
}

/// What an error of accept(2) says, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Nobody,
    Interrupted,
    /// Only the one client is lost; the next may be well. Linux passes on pending network errors
    /// of the new socket here, see accept(2), "Error handling".
    ThatClient,
    /// The client stays in the queue until there is room for it.
    Resources,
    Fatal,
}

impl Severity {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // EAGAIN, or the word of a world that does not ask the kernel.
            _ if error.kind() == io::ErrorKind::WouldBlock => Severity::Nobody,
            Some(libc::EINTR) => Severity::Interrupted,
            Some(
                libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ETIMEDOUT,
            ) => Severity::ThatClient,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => Severity::Fatal,
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
            listener.learn::<()>(Err(io::Error::from_raw_os_error(errno)));
        };
        accept(&mut listener, libc::EAGAIN);
        assert!(!listener.is_due() && !listener.is_spent());
        listener.hush(now + pause);
        assert!(listener.is_filled(), "an event may be late");
        accept(&mut listener, libc::EAGAIN);
        listener.ask_at_the_end(now);
        assert!(listener.is_due() && !listener.is_filled() && !listener.is_spent());
        listener.ask_at_the_end(now + pause);
        assert!(listener.is_filled());
        accept(&mut listener, libc::EMFILE);
        listener.note();
        assert!(!listener.is_filled() && !listener.is_spent());
        listener.retry();
        assert!(listener.is_filled());
        accept(&mut listener, libc::EAGAIN);
        listener.ask_at_the_end(now + pause);
        assert!(listener.is_spent(), "the kernel is asked once");
    }

    #[test]
    fn only_errors_that_make_the_socket_useless_are_fatal() {
        let severity = |errno| Severity::of(&io::Error::from_raw_os_error(errno));
        assert_eq!(severity(libc::EAGAIN), Severity::Nobody);
        let blocked = io::ErrorKind::WouldBlock.into();
        assert_eq!(Severity::of(&blocked), Severity::Nobody);
        assert_eq!(severity(libc::EINTR), Severity::Interrupted);
        assert_eq!(severity(libc::ECONNABORTED), Severity::ThatClient);
        assert_eq!(severity(libc::EMFILE), Severity::Resources);
        assert_eq!(severity(libc::EBADF), Severity::Fatal);
        assert_eq!(severity(libc::EINVAL), Severity::Fatal);
    }
}
