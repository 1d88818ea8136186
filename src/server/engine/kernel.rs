//! The implementation of `World` by the kernel: its clock, listeners and sockets, and the reactor's
//! timers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};

use crate::reactor::Reactor;
use crate::reactor::signals::Remote;
use crate::reactor::slots::Token;
use crate::server::engine::world::{Output, Socket, Timer, World};
use crate::sys::socket;
use crate::sys::sysctl;

/// Time that handshakes in progress may still take when no new one can begin: a round trip within a
/// continent. Each stop waits for this time.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// The world of one reactor.
#[derive(Debug)]
pub struct Kernel {
    /// The reactor, which reports the events and keeps the timers.
    pub reactor: Reactor<Timer>,
    /// The listeners by number; `None` once closed.
    listeners: Vec<Option<ListenerSocket>>,
    /// The handles of the server's shards by number; empty for a server of one shard.
    shards: Arc<[Remote]>,
}

/// A listening socket.
#[derive(Debug)]
struct ListenerSocket {
    socket: TcpListener,
    owner: Owner,
    is_quiesced: bool,
}

/// The owner of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process: the clients in the accept queue are lost when it closes the socket.
    Ourselves,
    /// This process, while other processes listen on the same port (SO_REUSEPORT). When the socket
    /// is closed, the kernel passes the accept queue on to them: net.ipv4.tcp_migrate_req is set.
    Group,
    /// The process that passed the socket on: the accept queue outlives this process, and is for
    /// the next one.
    Manager,
}

impl Kernel {
    /// Returns a world without listeners.
    pub fn new() -> io::Result<Kernel> {
        Ok(Kernel {
            reactor: Reactor::new()?,
            listeners: Vec::new(),
            shards: Arc::new([]),
        })
    }

    /// Sets the handles of the server's shards, by number.
    pub fn join(&mut self, shards: Arc<[Remote]>) {
        self.shards = shards;
    }

    /// Adds a listener, and registers it with the reactor under this token.
    pub fn add_listener(
        &mut self,
        mut socket: TcpListener,
        owner: Owner,
        token: Token,
    ) -> io::Result<()> {
        self.reactor.add_reader(&mut socket, token)?;
        self.listeners.push(Some(ListenerSocket {
            socket,
            owner,
            is_quiesced: false,
        }));
        Ok(())
    }
}

impl World for Kernel {
    type Socket = TcpStream;

    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[inline(always)]
    fn accept(
        &mut self,
        listener: usize,
        wants_address: bool,
    ) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        match &self.listeners[listener] {
            Some(entry) if !(entry.is_quiesced && entry.owner == Owner::Manager) => {
                socket::accept(&entry.socket, wants_address)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    #[inline(always)]
    fn register(&mut self, socket: &mut TcpStream, token: Token) -> io::Result<()> {
        self.reactor.add_stream(&*socket, token)
    }

    fn quiesce(&mut self, listener: usize) -> Duration {
        let Some(entry) = &mut self.listeners[listener] else {
            return Duration::ZERO;
        };
        entry.is_quiesced = true;
        match entry.owner {
            Owner::Ourselves if socket::drop_syns(&entry.socket).is_err() => Duration::ZERO,
            // Clients that still connect to a socket of the group are served as well.
            Owner::Ourselves | Owner::Group => HANDSHAKE,
            Owner::Manager => Duration::ZERO,
        }
    }

    fn close(&mut self, listener: usize) -> u64 {
        let Some(mut entry) = self.listeners[listener].take() else {
            return 0;
        };
        match entry.owner {
            Owner::Ourselves => socket::accept_queue_length(&entry.socket).unwrap_or(0),
            Owner::Group => 0,
            Owner::Manager => {
                // The socket stays open elsewhere, so closing our descriptor would leave it
                // registered with our epoll. An error would mean that it is not registered.
                let _ = self.reactor.remove(&mut entry.socket);
                0
            }
        }
    }

    fn wake(&mut self, shard: usize) {
        if let Some(shard) = self.shards.get(shard) {
            shard.wake();
        }
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        self.reactor.set_timer(deadline, timer);
    }
}

impl Socket for TcpStream {
    fn output(&self) -> io::Result<Output> {
        let info = socket::tcp_info(self)?;
        Ok(Output {
            acknowledged: info.acknowledged(),
            outstanding: info.outstanding(),
            quiet: info.quiet(),
            heard: info.heard(),
            unanswered: info.unanswered(),
        })
    }

    fn probe(&mut self) -> io::Result<()> {
        socket::probe(self)
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        socket::reset_on_close(self)
    }
}

/// Returns whether the kernel passes the accept queue of a listener that closes on to other
/// listeners of its port: net.ipv4.tcp_migrate_req, Linux 5.14.
pub fn migrates() -> bool {
    sysctl::read_number("net.ipv4.tcp_migrate_req") == Some(1)
}
