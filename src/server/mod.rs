//! The server's loop: one thread, one reactor, a table of clients.
//!
//! One turn:
//!
//! ```text
//!   turn       blocks, unless a client waits in the queue or a listener may have more
//!   events     a client that is ready is served; a listener takes note
//!   unfinished the clients whose budget ran out in an earlier turn, each once
//!   accept     new clients, at most so many
//! ```
//!
//! Stopping: those who wait to be accepted are accepted, the listeners close, every client is
//! answered until it falls silent, or until it has had its time, and then gets FIN (see
//! [`connection`]). A second request to stop cuts all that is left.
//!
//! Invariant: accepted = clients in the table + closed, by reason.

pub mod connection;
pub mod limits;
pub mod listener;
pub mod stats;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::{debug, error, info, warn};
use mio::net::TcpStream;

use crate::reactor::signals::Stopper;
use crate::reactor::slots::{Slots, Token};
use crate::reactor::{Event, Reactor, Wait};
use crate::server::connection::{Connection, Look, Progress};
use crate::server::limits::Limits;
use crate::server::listener::{Accepted, Listener};
use crate::server::stats::{CloseReason, Totals};
use crate::socket;
use crate::stream::Hints;

/// A condition that repeats is told at most so often.
const WARNING_PAUSE: Duration = Duration::from_secs(1);

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// For every connection, by inheritance from its listener.
    pub options: socket::Options,
    /// How many clients may wait to be accepted; `None`: [`socket::BACKLOG_DEFAULT`].
    pub backlog: Option<u32>,
    /// What bounds its work and memory.
    pub limits: Limits,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    reactor: Reactor<Timer>,
    listeners: Vec<Listener>,
    clients: Slots<Client>,
    /// The one buffer that every read goes into.
    scratch: Box<[u8]>,
    limits: Limits,
    totals: Totals,
    /// Since when.
    stopping: Option<Instant>,
    /// While stopping: how many bytes clients with pending ones had acknowledged at the last look.
    acknowledged: HashMap<Token, u64>,
    /// A timer is set that ends the pause in accepting.
    retry_is_set: bool,
    last_warning: Option<Instant>,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    connection: Connection,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    RetryAccept,
    Look,
}

impl Server {
    /// Listens on every address of the configuration, or on none: the first that fails is the
    /// error. Clients are accepted by the kernel from here on, and served by [`Server::run`].
    pub fn bind(config: &Config) -> anyhow::Result<Server> {
        let reactor = Reactor::new().context("cannot set up the event loop")?;
        let mut listeners = Vec::new();
        for (index, &address) in config.listen.iter().enumerate() {
            let listener = listen(&reactor, config, Token::fixed(index as u32), address)
                .with_context(|| format!("cannot listen on {address}"))?;
            listeners.push(listener);
        }
        Ok(Server {
            reactor,
            listeners,
            clients: Slots::default(),
            scratch: vec![0; config.limits.read_bytes].into_boxed_slice(),
            limits: config.limits,
            totals: Totals::default(),
            stopping: None,
            acknowledged: HashMap::new(),
            retry_is_set: false,
            last_warning: None,
        })
    }

    /// Where it listens, with the real ports.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(Listener::address)
    }

    /// SIGINT and SIGTERM of this process stop this server.
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        self.reactor.stop_on_signals()
    }

    /// A handle that stops this server from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        self.reactor.stopper()
    }

    /// Serves until it is stopped and all clients are done with. Only a failure of the poll or of a
    /// listener is an error.
    pub fn run(mut self) -> io::Result<Totals> {
        while !self.is_done() {
            let unfinished = self.clients.requeued();
            self.reactor.turn(self.wait())?;
            while let Some(event) = self.reactor.next_event() {
                match event {
                    Event::Io(token, hints) => self.on_io(token, hints),
                    Event::Timer(timer) => self.on_timer(timer),
                    Event::Stop => self.on_stop(),
                }
            }
            for _ in 0..unfinished {
                if let Some(token) = self.clients.next_requeued() {
                    self.serve(token);
                }
            }
            self.accept()?;
        }
        debug_assert_eq!(self.totals.accepted, self.totals.closed_in_all());
        Ok(self.totals)
    }

    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.clients.is_empty() && self.listeners.is_empty()
    }

    fn wait(&self) -> Wait {
        if self.clients.requeued() > 0 || self.listeners.iter().any(Listener::is_filled) {
            Wait::Never
        } else {
            Wait::Block
        }
    }

    fn on_io(&mut self, token: Token, hints: Hints) {
        if let Some(client) = self.clients.get_mut(token) {
            client.connection.note(hints);
            if !self.clients.is_requeued(token) {
                self.serve(token);
            }
        } else if token.is_fixed() {
            let mut listeners = self.listeners.iter_mut();
            if let Some(listener) = listeners.find(|listener| listener.token() == token) {
                listener.note();
            }
        } else {
            self.totals.stale_events += 1;
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::RetryAccept => {
                self.retry_is_set = false;
                self.retry_accept();
            }
            Timer::Look => self.look(),
        }
    }

    fn on_stop(&mut self) {
        let clients = self.clients.len();
        if self.stopping.is_some() {
            if clients > 0 {
                info!("stopping at once: {clients} clients are closed");
            }
            self.cut();
            return;
        }
        if clients > 0 {
            info!("stopping: {clients} clients are served to their end");
        }
        let now = Instant::now();
        self.stopping = Some(now);
        self.reactor
            .set_timer(now + self.limits.drain_look, Timer::Look);
        // The queue may hold clients whose event is still to come: ask the kernel itself.
        self.listeners.iter_mut().for_each(Listener::note);
    }

    /// Gives a client its turn.
    fn serve(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(token) else {
            return;
        };
        let progress = client.connection.serve(
            &mut client.stream,
            &mut self.scratch,
            self.limits.turn_bytes,
            &mut self.totals.traffic,
        );
        match progress {
            Progress::Waiting => {}
            Progress::Unfinished => self.clients.requeue(token),
            Progress::Closed(reason) => self.close(token, reason),
        }
    }

    /// The one place where a connection ends. Dropping the socket takes it out of epoll as well.
    fn close(&mut self, token: Token, reason: CloseReason) {
        if let Some(client) = self.clients.remove(token) {
            self.totals.count_close(reason);
            let unsent = client.connection.pending();
            debug!(
                "connection {token} closed: {}, {unsent} bytes unsent",
                reason.name()
            );
            drop(client);
            self.retry_accept();
        }
    }

    fn retry_accept(&mut self) {
        self.listeners.iter_mut().for_each(Listener::retry);
    }

    /// Accepts from each listener up to its share of the turn. One that is stopping is emptied and
    /// then closed: closing it sooner would reset the clients in its queue.
    fn accept(&mut self) -> io::Result<()> {
        let mut listeners = std::mem::take(&mut self.listeners);
        for listener in &mut listeners {
            self.accept_from(listener)?;
        }
        listeners.retain(|listener| !(self.stopping.is_some() && listener.is_empty()));
        self.listeners = listeners;
        Ok(())
    }

    fn accept_from(&mut self, listener: &mut Listener) -> io::Result<()> {
        for _ in 0..self.limits.turn_accepts {
            match listener.accept() {
                Ok(Accepted::Client(stream, peer)) => self.welcome(stream, peer),
                Ok(Accepted::Nobody) => break,
                Ok(Accepted::Lost(error)) => debug!("a client was lost in the queue: {error}"),
                Ok(Accepted::Exhausted(error, pause)) => {
                    self.warn_exhausted(&error);
                    // One timer at a time: a close retries as well, and would leave another.
                    if !self.retry_is_set {
                        self.retry_is_set = true;
                        self.reactor
                            .set_timer(Instant::now() + pause, Timer::RetryAccept);
                    }
                    break;
                }
                Err(error) => {
                    error!("cannot accept on {}: {error}", listener.address());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.totals.accepted += 1;
        let token = self.clients.insert(Client {
            stream,
            connection: Connection::new(),
        });
        debug!("connection {token} accepted from {peer}");
        if let Some(client) = self.clients.get_mut(token)
            && let Err(error) = self.reactor.add_stream(&mut client.stream, token)
        {
            warn!("cannot watch the connection of {peer}: {error}");
            self.close(token, CloseReason::Failed);
        }
    }

    fn warn_exhausted(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self
            .last_warning
            .is_none_or(|last| now >= last + WARNING_PAUSE)
        {
            self.last_warning = Some(now);
            let open = self.clients.len();
            warn!(
                "no new clients for now, {open} are open: {error}; those who come wait. \
                 Raise the limit on descriptors (ulimit -n, LimitNOFILE=)"
            );
        }
    }

    /// A stopping server looks which of its clients have fallen silent, or have had their time.
    fn look(&mut self) {
        let Limits {
            linger,
            drain_look,
            drain_timeout,
            ..
        } = self.limits;
        let looks = |time: Duration| time.as_nanos().div_ceil(drain_look.as_nanos()) as u16;
        let now = Instant::now();
        let look = Look {
            linger: looks(linger),
            stall: looks(drain_timeout),
            last_call: self
                .stopping
                .is_some_and(|since| now >= since + drain_timeout),
        };
        for token in self.clients.tokens() {
            if let Some(client) = self.clients.get_mut(token) {
                // The kernel's own buffer is large: a slow reader empties it for a long time before
                // it takes more.
                if client.connection.pending() > 0 {
                    let acknowledged = socket::bytes_acknowledged(&client.stream).unwrap_or(0);
                    if self.acknowledged.insert(token, acknowledged) != Some(acknowledged) {
                        client.connection.note_progress();
                    }
                }
                client.connection.look(look);
                self.serve(token);
            }
        }
        self.reactor.set_timer(now + drain_look, Timer::Look);
    }

    /// Ends everything now.
    fn cut(&mut self) {
        self.listeners.clear();
        for token in self.clients.tokens() {
            let owed = |client: &mut Client| client.connection.pending() > 0;
            let reason = match self.clients.get_mut(token).is_some_and(owed) {
                true => CloseReason::Cut,
                false => CloseReason::Stopped,
            };
            self.close(token, reason);
        }
    }
}

fn listen(
    reactor: &Reactor<Timer>,
    config: &Config,
    token: Token,
    address: SocketAddr,
) -> io::Result<Listener> {
    let (socket, regrants) = socket::listen(address, &config.options, config.backlog)?;
    for regrant in regrants {
        warn!("{regrant}");
    }
    let mut listener = Listener::new(socket, token, config.limits.accept_pause)?;
    reactor.add_reader(listener.source(), token)?;
    Ok(listener)
}
