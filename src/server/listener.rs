//! A listening socket and its queue of clients, for edge-triggered epoll.
//!
//! The kernel reports a new client once. So the listener remembers that its queue may hold more,
//! also when accept(2) fails because descriptors have run out: after that, no event comes, even
//! when descriptors are free again. Whoever owns it retries on every close and on a timer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use nix::libc;

use crate::reactor::slots::Token;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    token: Token,
    queue: Queue,
    /// How long the next pause lasts.
    pause: Duration,
    pauses: (Duration, Duration),
}

/// What is known of the kernel's queue of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// Nobody waits; an event will tell of the next one.
    Empty,
    /// Somebody may wait.
    Filled,
    /// Somebody waits, and descriptors or memory ran out.
    Paused,
}

/// What trying to accept found.
#[derive(Debug)]
pub enum Accepted {
    /// A client.
    Client(TcpStream, SocketAddr),
    /// Nobody waits, or it is known to be useless to try now.
    Nobody,
    /// A client that was lost before it was accepted. The next may be well.
    Lost(io::Error),
    /// Resources ran out just now. Try again after this pause, or when a connection closes.
    Exhausted(io::Error, Duration),
}

impl Listener {
    /// Takes over a socket that listens. `pauses`: the first and the longest.
    pub fn new(
        socket: TcpListener,
        token: Token,
        pauses: (Duration, Duration),
    ) -> io::Result<Self> {
        Ok(Listener {
            address: socket.local_addr()?,
            token,
            socket,
            queue: Queue::Empty,
            pause: pauses.0,
            pauses,
        })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name under which it is registered.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The socket, to be registered.
    pub fn source(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// An event said that a client waits.
    pub fn note(&mut self) {
        if self.queue == Queue::Empty {
            self.queue = Queue::Filled;
        }
    }

    /// Ends a pause: a descriptor may be free again.
    pub fn retry(&mut self) {
        if self.queue == Queue::Paused {
            self.queue = Queue::Filled;
        }
    }

    /// Whether accepting now could give a client.
    pub fn is_filled(&self) -> bool {
        self.queue == Queue::Filled
    }

    /// Whether every client that came has been accepted.
    pub fn is_empty(&self) -> bool {
        self.queue == Queue::Empty
    }

    /// Accepts one client. An error is one that makes the listener useless.
    pub fn accept(&mut self) -> io::Result<Accepted> {
        if self.queue != Queue::Filled {
            return Ok(Accepted::Nobody);
        }
        let error = match self.socket.accept() {
            Ok((stream, peer)) => {
                self.pause = self.pauses.0;
                return Ok(Accepted::Client(stream, peer));
            }
            Err(error) => error,
        };
        match Severity::of(&error) {
            Severity::Nobody => {
                self.queue = Queue::Empty;
                Ok(Accepted::Nobody)
            }
            Severity::ThatClient => Ok(Accepted::Lost(error)),
            Severity::Resources => {
                self.queue = Queue::Paused;
                let pause = self.pause;
                self.pause = (pause * 2).min(self.pauses.1);
                Ok(Accepted::Exhausted(error, pause))
            }
            Severity::Fatal => Err(error),
        }
    }
}

/// What an error of accept(2) says, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Nobody,
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
            Some(libc::EAGAIN) => Severity::Nobody,
            Some(
                libc::EINTR
                | libc::ECONNABORTED
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
            // EPERM: a security module forbids it for now, and the client stays in the queue.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => {
                Severity::Resources
            }
            _ => Severity::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_make_the_socket_useless_are_fatal() {
        let severity = |errno| Severity::of(&io::Error::from_raw_os_error(errno));
        assert_eq!(severity(libc::EAGAIN), Severity::Nobody);
        assert_eq!(severity(libc::ECONNABORTED), Severity::ThatClient);
        assert_eq!(severity(libc::EMFILE), Severity::Resources);
        assert_eq!(severity(libc::EBADF), Severity::Fatal);
        assert_eq!(severity(libc::EINVAL), Severity::Fatal);
    }
}
