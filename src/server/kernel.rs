//! The world as it is: the kernel's clock, its listeners and sockets, and the reactor's timers.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};

use crate::reactor::Reactor;
use crate::reactor::signals::Remote;
use crate::reactor::slots::Token;
use crate::server::world::{Output, Socket, Timer, World};
use crate::socket;

/// How long handshakes that have begun may still take when no new one can begin: a round trip
/// within a continent. Each stop waits for so long.
const HANDSHAKE: Duration = Duration::from_millis(50);

/// The world of one reactor.
#[derive(Debug)]
pub struct Kernel {
    /// What happens in it.
    pub reactor: Reactor<Timer>,
    /// By number; `None` when it is closed.
    doors: Vec<Option<Door>>,
    /// The shards of this server by their numbers; empty for a server of one shard.
    shards: Arc<[Remote]>,
}

/// A listening socket.
#[derive(Debug)]
struct Door {
    socket: TcpListener,
    owner: Owner,
    is_hushed: bool,
}

/// To whom a listening socket belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// To this process: what is in its queue when it closes is lost.
    Ourselves,
    /// To this process, and others listen on the same port (SO_REUSEPORT), to whom the kernel gives
    /// what is in the queue: net.ipv4.tcp_migrate_req is set.
    Group,
    /// To the process that passed it on: its queue lives on without us, and is for the next one.
    Manager,
}

impl Kernel {
    /// A world without listeners.
    pub fn new() -> io::Result<Kernel> {
        Ok(Kernel {
            reactor: Reactor::new()?,
            doors: Vec::new(),
            shards: Arc::new([]),
        })
    }

    /// Sets the shards of its server, by their numbers.
    pub fn join(&mut self, shards: Arc<[Remote]>) {
        self.shards = shards;
    }

    /// Adds a listener, which is watched under this token from now on.
    pub fn add_listener(
        &mut self,
        mut socket: TcpListener,
        owner: Owner,
        token: Token,
    ) -> io::Result<()> {
        self.reactor.add_reader(&mut socket, token)?;
        self.doors.push(Some(Door {
            socket,
            owner,
            is_hushed: false,
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
        match &self.doors[listener] {
            Some(door) if !(door.is_hushed && door.owner == Owner::Manager) => {
                socket::accept(&door.socket, wants_address)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    #[inline(always)]
    fn watch(&mut self, socket: &mut TcpStream, token: Token) -> io::Result<()> {
        self.reactor.add_stream(&*socket, token)
    }

    fn hush(&mut self, listener: usize) -> Duration {
        let Some(door) = &mut self.doors[listener] else {
            return Duration::ZERO;
        };
        door.is_hushed = true;
        match door.owner {
            Owner::Ourselves if socket::drop_syns(&door.socket).is_err() => Duration::ZERO,
            // Whoever still comes to a socket of the group is served as well.
            Owner::Ourselves | Owner::Group => HANDSHAKE,
            Owner::Manager => Duration::ZERO,
        }
    }

    fn close(&mut self, listener: usize) -> u64 {
        let Some(mut door) = self.doors[listener].take() else {
            return 0;
        };
        match door.owner {
            Owner::Ourselves => socket::clients_in_queue(&door.socket).unwrap_or(0),
            Owner::Group => 0,
            Owner::Manager => {
                // It lives on, so closing our descriptor would leave its events in our epoll. An
                // error would say that they are not there.
                let _ = self.reactor.remove(&mut door.socket);
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

/// Whether the kernel passes the queue of a listener that closes on to others of its port:
/// net.ipv4.tcp_migrate_req, Linux 5.14.
pub fn migrates() -> bool {
    let path = "/proc/sys/net/ipv4/tcp_migrate_req";
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}
