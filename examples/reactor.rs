//! The smallest correct echo server on mio, to be read before the rest of upcase.
//!
//! ```text
//! cargo run --example reactor -- 127.0.0.1:12000
//! ```
//!
//! A loop that works in a demonstration still loses bytes or hangs in service when it breaks one
//! of these rules. Each is marked with its number where the code obeys it.
//!
//! 1. Readiness is a hint. Only the result of a call decides what a socket can do.
//! 2. mio is edge-triggered: an event is not repeated. So a connection reads until the kernel says
//!    `WouldBlock`; a short read does not say that there is no more.
//! 3. A connection that always has data must not starve the others. It has a budget a turn; when
//!    that is spent it waits in a queue, because no event will report it again, and the poll does
//!    not wait while the queue has entries.
//! 4. A client that sends and does not read must not fill the memory. While bytes are pending, its
//!    connection is not read: TCP's receive window passes the back-pressure on to the client.
//! 5. The end of the stream closes one direction only (half-close). It is read after all bytes
//!    before it, and the connection is closed after they were answered.
//! 6. The batch of events may name a connection that was closed earlier in the same turn, while a
//!    new one has its slot already. So a token carries a generation beside the slot's index. Here
//!    only a connection's own event closes it; but the first timeout or limit that is added closes
//!    others, and the generation keeps that harmless.
//! 7. When accept fails because descriptors or memory have run out, the clients in the accept queue
//!    cause no further event: the server tries again on its own. Accepting has a budget as well.
//!
//! What upcase has beyond this: limits, deadlines, draining, counters, and no memory for idle
//! connections. See the picture in `src/lib.rs`.

use std::collections::VecDeque;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use nix::libc::{EBADF, EFAULT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOTSOCK};
use slab::Slab;

/// The token of the listener; no connection ever has this slot.
const LISTENER: Token = Token(usize::MAX);

/// Bytes that one read may return.
const BUFFER: usize = 16 * 1024;

/// Bytes that a connection may read in one turn: about four reads, so that a turn with a thousand
/// busy connections takes some tens of milliseconds.
const BUDGET: usize = 64 * 1024;

/// Clients that may be accepted in one turn.
const ACCEPT_BUDGET: usize = 256;

/// The time after which accepting is tried again when descriptors or memory had run out.
const RETRY: Duration = Duration::from_millis(100);

/// Half of the bits of a token are the index of a slot, the other half its generation.
const HALF: u32 = usize::BITS / 2;

fn main() -> io::Result<()> {
    let address = env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:12000".to_string());
    let address = address.parse().map_err(|_| {
        io::Error::other(format!("{address} is no address such as 127.0.0.1:12000"))
    })?;
    let mut server = Server::bind(address)?;
    println!("listening on {}", server.address()?);
    loop {
        server.turn()?;
    }
}

/// An echo server with one thread.
#[derive(Debug)]
pub struct Server {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    connections: Slab<Connection>,
    generation: usize,
    /// Connections that spent their budget.
    queue: VecDeque<Token>,
    buffer: Vec<u8>,
    accept_queue: AcceptQueue,
}

/// The state of the listener's accept queue, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptQueue {
    /// Empty: an event reports the next client.
    Empty,
    /// It may hold clients that no event will report.
    Filled,
    /// It holds clients, and descriptors or memory have run out.
    Blocked,
}

impl Server {
    /// Listens on an address; port 0 is any free port.
    pub fn bind(address: SocketAddr) -> io::Result<Server> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Server {
            poll,
            events: Events::with_capacity(1024),
            listener,
            connections: Slab::new(),
            generation: 0,
            queue: VecDeque::new(),
            buffer: vec![0; BUFFER],
            accept_queue: AcceptQueue::Empty,
        })
    }

    /// Returns the address on which the server listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for events and serves the connections that may be ready, once each.
    pub fn turn(&mut self) -> io::Result<()> {
        let timeout = match self.accept_queue {
            _ if !self.queue.is_empty() => Some(Duration::ZERO), // Rule 3.
            AcceptQueue::Filled => Some(Duration::ZERO),
            AcceptQueue::Blocked => Some(RETRY), // Rule 7.
            AcceptQueue::Empty => None,
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        // Those that spend their budget in this turn are queued for the next one.
        let queued = self.queue.len();
        let ready: Vec<Token> = self.events.iter().map(|event| event.token()).collect();
        for token in ready {
            match token {
                LISTENER => self.accept_queue = AcceptQueue::Filled,
                token => self.serve(token),
            }
        }
        for _ in 0..queued {
            if let Some(token) = self.queue.pop_front() {
                if let Some(connection) = self.connection(token) {
                    connection.is_queued = false;
                }
                self.serve(token);
            }
        }
        match self.accept_queue {
            AcceptQueue::Empty => Ok(()),
            AcceptQueue::Filled | AcceptQueue::Blocked => self.accept(),
        }
    }

    /// Accepts clients within the budget. Fails when the listener cannot be used any more.
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPT_BUDGET {
            match self.listener.accept() {
                Ok((stream, _)) => self.register(stream),
                // Rule 2: the next client is a new event.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_queue = AcceptQueue::Empty;
                    return Ok(());
                }
                Err(error) => match error.raw_os_error() {
                    Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) => {
                        self.accept_queue = AcceptQueue::Blocked;
                        return Ok(());
                    }
                    Some(EBADF | EFAULT | EINVAL | ENOTSOCK) => return Err(error),
                    // The error of one client, which accept(2) passes on, or an interrupted call.
                    _ => {}
                },
            }
        }
        self.accept_queue = AcceptQueue::Filled;
        Ok(())
    }

    fn register(&mut self, mut stream: TcpStream) {
        self.generation = (self.generation + 1) % (1 << HALF);
        let slot = self.connections.vacant_entry();
        let token = Token(self.generation << HALF | slot.key());
        // An edge for writing arrives only after a write fell short, so registering for it at once
        // costs nothing.
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if registry.register(&mut stream, token, interest).is_ok() {
            slot.insert(Connection {
                stream,
                token,
                pending: Vec::new(),
                is_queued: false,
            });
        }
    }

    /// Serves a connection within its budget.
    fn serve(&mut self, token: Token) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(connection) = self.connection(token)
            && !connection.is_queued
        {
            match connection.serve(&mut buffer) {
                Ok(Next::Wait) => {}
                Ok(Next::Queue) => {
                    connection.is_queued = true;
                    self.queue.push_back(token);
                }
                // Dropping the stream closes it. A failure of one connection is no failure of the
                // server.
                Ok(Next::Close) | Err(_) => {
                    self.connections.remove(slot_of(token));
                }
            }
        }
        self.buffer = buffer;
    }

    /// Returns the connection of a token, unless it was closed (rule 6).
    fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(slot_of(token))?;
        (connection.token == token).then_some(connection)
    }
}

fn slot_of(token: Token) -> usize {
    token.0 & ((1 << HALF) - 1)
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    token: Token,
    /// Bytes that were read and converted and that the kernel has not accepted yet.
    pending: Vec<u8>,
    is_queued: bool,
}

/// What a connection needs after it was served.
enum Next {
    /// An event.
    Wait,
    /// Another turn.
    Queue,
    /// To be closed.
    Close,
}

impl Connection {
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        let mut budget = BUDGET;
        loop {
            // Rule 1: whatever the event said, what is pending goes first, and then it is read.
            if !self.flush()? {
                return Ok(Next::Wait); // Rule 4: an event follows when the socket has room.
            }
            if budget == 0 {
                return Ok(Next::Queue); // Rule 3.
            }
            let most = buffer.len().min(budget);
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => return Ok(Next::Close), // Rule 5: all before it has been answered.
                Ok(count) => {
                    budget -= count;
                    buffer[..count].make_ascii_uppercase();
                    self.pending.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what is pending; returns whether nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
