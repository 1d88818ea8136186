//! Many clients in one thread: each sends bytes of a fixed pattern, and reads its replies or never
//! does. Afterwards the outcome of each connection and its times can be examined.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::libc::EINPROGRESS;
use socket2::{Domain, SockRef, Socket, Type};

use super::TIMEOUT;

/// Maximum number of bytes that one client sends or reads before the next client is served.
const PART: usize = 64 << 10;

/// The behaviour of the clients of a crowd.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// Number of bytes that each client sends.
    pub bytes: u64,
    /// Whether the client sends FIN after them.
    pub closes: bool,
    /// Whether the client reads replies.
    pub reads: bool,
    /// SO_RCVBUF and SO_SNDBUF; `None`: the kernel's own.
    pub buffers: Option<usize>,
}

/// The clients and their event loop.
#[derive(Debug)]
pub struct Crowd {
    habit: Habit,
    poll: Poll,
    events: Events,
    pub clients: Vec<Client>,
    /// Numbers of the clients that may have more to do without another event.
    unfinished: VecDeque<usize>,
    lower: Vec<u8>,
    upper: Vec<u8>,
    scratch: Vec<u8>,
}

/// A client of the crowd.
#[derive(Debug)]
pub struct Client {
    socket: Option<TcpStream>,
    /// Time at which its connect began.
    pub begun: Instant,
    /// Time at which the kernel last accepted bytes from it.
    pub moved: Instant,
    pub sent: u64,
    pub received: u64,
    pub end: Option<(Instant, End)>,
    has_closed: bool,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server sent FIN.
    Finished,
    /// A received byte differs from the expected one.
    Wrong,
    Broken(ErrorKind),
}

impl Client {
    /// Returns whether so many bytes were sent, all were echoed, and FIN followed.
    pub fn is_served(&self, bytes: u64) -> bool {
        let end = self.end.map(|(_, end)| end);
        end == Some(End::Finished) && (self.sent, self.received) == (bytes, bytes)
    }
}

impl Crowd {
    pub fn new(habit: Habit) -> Crowd {
        // The length of the pattern has no factor in common with the size of any buffer.
        let lower: Vec<u8> = (0..PART + 23)
            .map(|place| b'a' + (place % 23) as u8)
            .collect();
        Crowd {
            habit,
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            unfinished: VecDeque::new(),
            upper: lower.to_ascii_uppercase(),
            lower,
            scratch: vec![0; PART],
        }
    }

    /// Adds a client. Its connect may still be in progress on return.
    pub fn join(&mut self, address: SocketAddr) {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, None).unwrap();
        if let Some(bytes) = self.habit.buffers {
            socket.set_recv_buffer_size(bytes).unwrap();
            socket.set_send_buffer_size(bytes).unwrap();
        }
        let begun = Instant::now();
        if let Err(error) = socket.connect(&address.into()) {
            assert_eq!(error.raw_os_error(), Some(EINPROGRESS), "{error}");
        }
        let mut socket = TcpStream::from_std(socket.into());
        let token = Token(self.clients.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut socket, token, interest).unwrap();
        self.clients.push(Client {
            socket: Some(socket),
            begun,
            moved: begun,
            sent: 0,
            received: 0,
            end: None,
            has_closed: false,
        });
    }

    /// Adds this number of clients; the crowd is served in between.
    pub fn join_all(&mut self, count: usize, address: SocketAddr) {
        for number in 1..=count {
            self.join(address);
            if number % 64 == 0 {
                self.turn(Duration::ZERO);
            }
        }
    }

    /// Changes the behaviour of all clients; the sizes of their buffers stay.
    pub fn change(&mut self, habit: Habit) {
        self.habit = habit;
        self.unfinished = (0..self.clients.len()).collect();
    }

    /// Polls once and serves the clients that are ready. Waits for events for at most `timeout`.
    pub fn turn(&mut self, timeout: Duration) {
        let is_busy = !self.unfinished.is_empty();
        let timeout = if is_busy { Duration::ZERO } else { timeout };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            outcome => outcome.unwrap(),
        }
        let ready = self.events.iter().map(|event| event.token().0);
        self.unfinished.extend(ready);
        for _ in 0..self.unfinished.len() {
            let Some(number) = self.unfinished.pop_front() else {
                return;
            };
            match self.serve(number) {
                Ok(true) => self.unfinished.push_back(number),
                Ok(false) => {}
                Err(error) => self.end(number, End::Broken(error.kind())),
            }
        }
    }

    /// Serves the clients until a condition is true.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&[Client]) -> bool) {
        let deadline = Instant::now() + 4 * TIMEOUT;
        while !condition(&self.clients) {
            let summary = || self.summary();
            assert!(
                Instant::now() < deadline,
                "gave up waiting: {what}; {}",
                summary()
            );
            self.turn(Duration::from_millis(5));
        }
    }

    /// Serves the clients until all connections have ended.
    #[track_caller]
    pub fn until_all_have_ended(&mut self) {
        self.until("all have ended", |clients| {
            clients.iter().all(|client| client.end.is_some())
        });
    }

    /// Returns the number of clients whose connection has not ended.
    pub fn open(&self) -> usize {
        let open = self.clients.iter().filter(|client| client.end.is_none());
        open.count()
    }

    /// Returns a text with the number of connections for each kind of end.
    pub fn summary(&self) -> String {
        let mut kinds: Vec<(End, usize)> = Vec::new();
        for (_, end) in self.clients.iter().filter_map(|client| client.end) {
            match kinds.iter_mut().find(|(kind, _)| *kind == end) {
                Some((_, count)) => *count += 1,
                None => kinds.push((end, 1)),
            }
        }
        format!(
            "{} clients, {} open, {kinds:?}",
            self.clients.len(),
            self.open()
        )
    }

    /// Returns the local port of a connected client.
    pub fn local_port(&self, number: usize) -> u16 {
        let socket = self.clients[number].socket.as_ref().expect("it is open");
        socket.local_addr().unwrap().port()
    }

    /// Closes all connections at once, with RST.
    pub fn break_off(self) {
        for socket in self.clients.into_iter().filter_map(|client| client.socket) {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Sends and reads one part for a client. Returns true if there may be more to do.
    fn serve(&mut self, number: usize) -> io::Result<bool> {
        let client = &mut self.clients[number];
        let Some(socket) = &mut client.socket else {
            return Ok(false);
        };
        let mut more = false;
        let left = self.habit.bytes.saturating_sub(client.sent);
        let left = left.min(PART as u64) as usize;
        if left > 0 {
            let from = pattern_place(number, client.sent);
            match socket.write(&self.lower[from..from + left]) {
                Ok(count) => {
                    client.sent += count as u64;
                    client.moved = Instant::now();
                    more |= count == left;
                }
                Err(error) => is_for_later(error)?,
            }
        }
        if self.habit.closes && client.sent == self.habit.bytes && !client.has_closed {
            client.has_closed = true;
            socket.shutdown(Shutdown::Write)?;
        }
        if self.habit.reads {
            match socket.read(&mut self.scratch) {
                Ok(0) => self.end(number, End::Finished),
                Ok(count) => {
                    let from = pattern_place(number, client.received);
                    client.received += count as u64;
                    more = true;
                    if self.scratch[..count] != self.upper[from..from + count] {
                        self.end(number, End::Wrong);
                    }
                }
                Err(error) => is_for_later(error)?,
            }
        }
        Ok(more)
    }

    fn end(&mut self, number: usize, end: End) {
        let client = &mut self.clients[number];
        client.socket = None;
        client.end.get_or_insert((Instant::now(), end));
    }
}

/// Returns the place in the pattern of a byte of the stream; each client begins at another letter.
fn pattern_place(client: usize, offset: u64) -> usize {
    ((offset + client as u64) % 23) as usize
}

/// Ignores the errors that mean "nothing now" or "not connected yet".
fn is_for_later(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
