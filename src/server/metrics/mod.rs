//! The HTTP server of the metrics page: a thread of its own, with a reactor of its own. It shares
//! only the collector of snapshots with the shards, ends with the process, and does not delay the
//! end of the process.
//!
//! A client has two seconds in all, and when there are too many clients, the newest replaces the
//! one that has been connected for longest. So a client that sends its request at once gets its
//! reply, however slow or numerous the others are.

pub mod http;
pub mod page;
pub mod snapshots;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use log::{error, warn};
use mio::net::{TcpListener, TcpStream};

use crate::address::resolve::bind_error;
use crate::logging;
use crate::reactor::slots::{Slots, Token};
use crate::reactor::{Event, Reactor, Wait};
use crate::server::limits::Limits;
use crate::server::listener::{Accepted, Listener};
use crate::server::log_limit::LogLimit;
use crate::server::metrics::http::{Content, Exchange, Progress, Resource};
use crate::server::metrics::page::Page;
use crate::server::metrics::snapshots::Snapshots;
use crate::sys::descriptor_limit;
use crate::sys::process_stats;
use crate::sys::sandbox::{Role, Sandbox};
use crate::sys::socket::{self, Families, Options};
use crate::units::counted;

/// Maximum duration of an exchange, from the connection to its end.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of clients at a time: a few scrapers, a load balancer, a person.
const CLIENTS_MAX: usize = 16;

/// Number of descriptors that the metrics server needs: reactor, listener, two files, clients, and
/// one more for a client that is accepted before another is closed.
pub const DESCRIPTORS: u64 =
    descriptor_limit::DESCRIPTORS_OF_A_REACTOR + 3 + CLIENTS_MAX as u64 + 1;

/// Pauses in accepting when descriptors have run out, the first and the longest.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

const LISTENER: Token = Token::fixed(0);

/// The server of the metrics page.
#[derive(Debug)]
pub struct MetricsServer {
    reactor: Reactor<()>,
    socket: TcpListener,
    listener: Listener,
    /// Time at which to try again, after descriptors had run out.
    retry: Option<Instant>,
    clients: Slots<Client>,
    /// The clients and the times at which they were accepted, the oldest first. Clients that are
    /// gone may still be listed.
    arrivals: VecDeque<(Instant, Token)>,
    process_stats: process_stats::Source,
    exhausted: LogLimit,
}

#[derive(Debug)]
struct Client {
    socket: TcpStream,
    exchange: Exchange,
}

/// The server that the page describes.
#[derive(Debug)]
pub struct Subject {
    /// The collector of the snapshots of the shards.
    pub snapshots: Arc<Snapshots>,
    /// Number of shards.
    pub shards: usize,
    /// The limits of the whole process.
    pub limits: Limits,
}

impl MetricsServer {
    /// Listens at this address. With `reuse_port` other processes may do so at the same address,
    /// and any of them may get a request. Files under /proc are opened here, and none later.
    pub fn bind(address: SocketAddr, reuse_port: bool) -> anyhow::Result<MetricsServer> {
        let process_stats = process_stats::Source::open();
        let process_stats =
            process_stats.context("cannot read /proc, which the metrics need: mount it")?;
        let bind = || -> io::Result<MetricsServer> {
            let options = Options::default();
            let (mut socket, _) =
                socket::listen(address, Families::Both, &options, None, reuse_port)?;
            let reactor = Reactor::new()?;
            reactor.add_reader(&mut socket, LISTENER)?;
            Ok(MetricsServer {
                reactor,
                listener: Listener::new(socket.local_addr()?, ACCEPT_PAUSE),
                socket,
                retry: None,
                clients: Slots::default(),
                arrivals: VecDeque::new(),
                process_stats,
                exhausted: LogLimit::default(),
            })
        };
        bind().map_err(|error| bind_error("serve metrics", address, error))
    }

    /// Returns the address listened on, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves the page from a thread of its own, in this sandbox, until the process ends.
    pub fn start(mut self, subject: Subject, sandbox: Sandbox) -> io::Result<()> {
        let serve = move || {
            let confined = sandbox.enter(Role::Metrics);
            let Err(error) = confined.and_then(|()| Ok(self.run(&subject)?));
            error!("the metrics page is no longer served: {error}");
        };
        thread::Builder::new()
            .name("metrics".to_string())
            .spawn(serve)?;
        Ok(())
    }

    fn run(&mut self, subject: &Subject) -> io::Result<Infallible> {
        loop {
            self.reactor.turn(self.wait())?;
            while let Some(event) = self.reactor.next_event() {
                match event {
                    Event::Io(LISTENER, _) => self.listener.note(),
                    Event::Io(token, hints) => {
                        if let Some(client) = self.clients.get_mut(token) {
                            client.exchange.note(hints);
                            self.serve(token, subject);
                        }
                    }
                    // This reactor is sent no requests and sets no timers.
                    Event::Timer(())
                    | Event::Stop
                    | Event::Drain
                    | Event::Report
                    | Event::Inquiry
                    | Event::Hangup => {}
                }
            }
            let now = Instant::now();
            self.end_late(now);
            self.accept(now)?;
        }
    }

    fn wait(&self) -> Wait {
        let first = self.arrivals.front();
        let deadline = first.map(|(arrival, _)| *arrival + EXCHANGE_TIMEOUT);
        match self.retry.into_iter().chain(deadline).min() {
            _ if self.listener.is_filled() => Wait::Never,
            Some(next) => Wait::Until(next),
            None => Wait::Block,
        }
    }

    fn serve(&mut self, token: Token, subject: &Subject) {
        let Some(Client { socket, exchange }) = self.clients.get_mut(token) else {
            return;
        };
        let find = |resource| subject.content(resource, &self.process_stats);
        if exchange.serve(socket, find) == Progress::Over {
            self.clients.remove(token);
            self.listener.retry();
        }
    }

    /// Ends the exchanges whose time is over.
    fn end_late(&mut self, now: Instant) {
        while let Some(&(arrival, _)) = self.arrivals.front()
            && arrival + EXCHANGE_TIMEOUT <= now
        {
            self.end_oldest();
        }
    }

    fn end_oldest(&mut self) {
        let oldest = self.arrivals.pop_front();
        if let Some(mut client) = oldest.and_then(|(_, token)| self.clients.remove(token)) {
            client.exchange.end(&mut client.socket);
            self.listener.retry();
        }
    }

    /// Accepts waiting clients, at most as many as there is room for: each is served in the next
    /// turn, before another could replace it. Returns an error when the listener has failed.
    fn accept(&mut self, now: Instant) -> io::Result<()> {
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            self.listener.retry();
        }
        for _ in 0..CLIENTS_MAX {
            if !self.listener.is_filled() {
                break;
            }
            match self.listener.record(self.socket.accept()) {
                Accepted::Client((socket, _)) => self.add_client(socket, now),
                Accepted::QueueEmpty | Accepted::Interrupted | Accepted::Lost(_) => {}
                Accepted::Exhausted(error, pause) => {
                    self.retry = Some(now + pause);
                    if let Some(suppressed) = self.exhausted.record(now) {
                        warn!("the metrics page accepts no clients for now: {error}{suppressed}");
                    }
                }
                Accepted::Broken(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add_client(&mut self, socket: TcpStream, now: Instant) {
        while self.clients.len() >= CLIENTS_MAX {
            self.end_oldest();
        }
        let token = self.clients.insert(Client {
            socket,
            exchange: Exchange::default(),
        });
        self.arrivals.push_back((now, token));
        if let Some(client) = self.clients.get_mut(token)
            && self.reactor.add_stream(&client.socket, token).is_err()
        {
            self.clients.remove(token);
        }
    }
}

impl Subject {
    fn content(&self, resource: Resource, process_stats: &process_stats::Source) -> Content {
        let answer = self.snapshots.collect();
        let (snapshot, silent) = (answer.sum, answer.silent);
        match resource {
            Resource::Metrics => {
                let page = Page {
                    snapshot: &snapshot,
                    shards: self.shards,
                    silent,
                    limits: &self.limits,
                    process_stats: &process_stats.read(),
                    log_lines_dropped: logging::dropped(),
                };
                let text = page.text();
                Content {
                    is_well: text.is_ok(),
                    kind: page::KIND,
                    text: text.unwrap_or_else(|error| format!("{error}\n")),
                }
            }
            Resource::Health => Content {
                is_well: !snapshot.is_stopping && silent == 0,
                kind: "text/plain",
                text: match (snapshot.is_stopping, silent) {
                    (true, _) => "stopping\n".to_string(),
                    (false, 0) => "ok\n".to_string(),
                    (false, silent) => {
                        format!(
                            "{} did not respond in time\n",
                            counted(silent as u64, "shard")
                        )
                    }
                },
            },
        }
    }
}
