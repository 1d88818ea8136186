//! The server: starts and stops the shards, each of which is one thread with a reactor and
//! listeners of its own.
//!
//! Each shard serves its clients alone. If there are several, the kernel distributes the clients
//! over them (SO_REUSEPORT). They share the [`connection_limit`], and the
//! collector of [`metrics::snapshots`]; nothing else.
//!
//! All shards are alike, and every shard receives every signal. SIGTERM and SIGINT stop each shard.
//! A signal that needs one answer (SIGUSR1, SIGHUP) is handled by the shard with the lowest number
//! among those that still run. A shard that fails, also by a panic, resets its clients and makes
//! the others drain:
//!
//! ```text
//!   shard 0   serve ── panic ─► reset its clients ─► drain all ─► leave ─┐
//!   shard 1   serve ────────────────────────────────► drain ─► leave ───┴─► run returns the error
//! ```

pub mod admission;
pub mod connection;
pub mod connection_limit;
pub mod deadlines;
pub mod engine;
pub mod keepalive;
pub mod limits;
pub mod listener;
pub mod log_limit;
pub mod metrics;
pub mod stats;

use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use log::{info, warn};
use mio::net::{TcpListener, TcpStream};

use crate::address::resolve::bind_error;
use crate::logging;
use crate::reactor::Event;
use crate::reactor::signals::Remote;
use crate::server::connection_limit::ConnectionLimit;
use crate::server::engine::Engine;
use crate::server::engine::kernel;
use crate::server::engine::kernel::{Kernel, Owner};
use crate::server::engine::world::Timer;
use crate::server::limits::Limits;
use crate::server::metrics::snapshots::Snapshots;
use crate::server::stats::{Snapshot, Totals};
use crate::sys::sandbox::{Role, Sandbox};
use crate::sys::socket::{self, Families, OptionMismatch};
use crate::sys::systemd::Notifier;

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses to listen on; port 0 means any free port.
    pub listen: Vec<SocketAddr>,
    /// Listening sockets that another process passed on and still owns, see
    /// [`crate::sys::systemd`].
    pub inherited: Vec<Arc<std::net::TcpListener>>,
    /// Socket options of every connection, which inherits them from its listener.
    pub options: socket::Options,
    /// Maximum number of clients in the accept queue of a listener; `None`:
    /// [`socket::BACKLOG_DEFAULT`], and unchanged for an inherited socket.
    pub backlog: Option<u32>,
    /// Whether other processes may listen on the same ports (SO_REUSEPORT).
    pub reuse_port: bool,
    /// Number of reactors, each in a thread of its own; at least 1.
    pub shards: usize,
    /// Limits on the work and memory of all shards together.
    pub limits: Limits,
}

impl Config {
    /// Returns a configuration of one shard with the default limits.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Config {
            listen,
            inherited: Vec::new(),
            options: socket::Options {
                notsent_lowat: Some(limits::UNSENT_MOST),
                ..socket::Options::default()
            },
            backlog: None,
            reuse_port: false,
            shards: 1,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Returns the address families that the listener at this index of `listen` accepts. A listener
    /// on the IPv6 wildcard address accepts IPv4 clients as well, as is the default elsewhere
    /// (Linux, Go, the standard library), unless an IPv4 address has the same port: then both can
    /// be listened on.
    pub fn families(&self, index: usize) -> Families {
        let port = self.listen[index].port();
        let inherited = self.inherited.iter();
        let inherited = inherited.filter_map(|socket| socket.local_addr().ok());
        let mut others = self.listen.iter().copied().chain(inherited);
        match others.any(|other| other.is_ipv4() && other.port() == port) {
            true => Families::Ipv6,
            false => Families::Both,
        }
    }

    /// Opens the listener with this index: those of `listen` come first, then the inherited
    /// sockets.
    fn open(&self, shard: usize, index: usize, address: SocketAddr) -> io::Result<(Opened, Owner)> {
        if let Some(handed) = index.checked_sub(self.listen.len()) {
            let socket = self.inherited[handed].try_clone()?;
            let opened = socket::adopt(socket, &self.options, self.backlog)?;
            return Ok((opened, Owner::Manager));
        }
        let reuse_port = self.reuse_port || self.shards > 1;
        let families = self.families(index);
        if shard == 0 && !self.reuse_port {
            // The shards share the port by SO_REUSEPORT, with which binding succeeds even if
            // another process has the port in the same way. This check finds that process.
            socket::check_free(address, families)?;
        }
        let owner = match self.reuse_port && kernel::migrates() {
            true => Owner::Group,
            false => Owner::Ourselves,
        };
        let opened = socket::listen(address, families, &self.options, self.backlog, reuse_port)?;
        Ok((opened, owner))
    }
}

/// A listening socket, and the options that the kernel did not grant as requested.
type Opened = (TcpListener, Vec<OptionMismatch>);

/// A server whose listeners are open.
#[derive(Debug)]
pub struct Server {
    shards: Vec<Shard>,
    addresses: Vec<SocketAddr>,
    snapshots: Arc<Snapshots>,
}

/// A handle that stops a server from another thread.
#[derive(Debug)]
pub struct Stopper(Vec<Remote>);

impl Stopper {
    /// Requests a stop, as SIGTERM does.
    pub fn stop(&self) {
        self.0.iter().for_each(Remote::stop);
    }
}

/// The outcome of a server's run.
#[derive(Debug)]
pub struct Ended {
    /// The totals of all shards.
    pub totals: Totals,
    /// The error that ended a shard, if one did: of the poll, of a listener, or of the shard
    /// itself.
    pub failure: Option<io::Error>,
}

/// A reactor with the engine that serves its clients.
#[derive(Debug)]
struct Shard {
    number: usize,
    world: Kernel,
    engine: Engine<TcpStream>,
    notifier: Arc<Notifier>,
    sandbox: Sandbox,
}

impl Server {
    /// Listens on every address of the configuration. If one of them fails, returns its error and
    /// listens on none. The kernel completes the handshakes of clients from here on;
    /// [`Server::run`] serves them.
    pub fn bind(config: &Config) -> anyhow::Result<Server> {
        let mut addresses = config.listen.clone();
        for socket in &config.inherited {
            let address = socket.local_addr();
            let address = address.context("cannot get the address of a socket from LISTEN_FDS")?;
            addresses.push(address);
        }
        let mut shards = Vec::new();
        for number in 0..config.shards {
            shards.push(Shard::bind(number, &mut addresses, config)?);
        }
        let remotes = shards.iter().map(|shard| shard.world.reactor.remote());
        let all: Arc<[Remote]> = remotes.collect::<io::Result<Vec<_>>>()?.into();
        if config.shards > 1 {
            share_places(&mut shards, &all, config.limits.max_connections);
        }
        let snapshots = Arc::new(Snapshots::new(all));
        Ok(Server {
            shards,
            addresses,
            snapshots,
        })
    }

    /// Returns the addresses listened on, with the actual ports.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().copied()
    }

    /// Makes SIGINT and SIGTERM of this process stop this server, and SIGUSR1 log its state. SIGHUP
    /// reopens the log file, or stops the server when there is none.
    pub fn obey_signals(&mut self, has_log_file: bool) -> io::Result<()> {
        for shard in &mut self.shards {
            shard.world.reactor.obey_signals(!has_log_file)?;
            shard.world.reactor.report_on_signal()?;
        }
        Ok(())
    }

    /// Makes the shards notify the service manager when all of them are ready, and when the first
    /// one begins to stop.
    pub fn notify(&mut self, notifier: Notifier) {
        let notifier = Arc::new(notifier.for_shards(self.shards.len()));
        for shard in &mut self.shards {
            shard.notifier = Arc::clone(&notifier);
        }
    }

    /// Sets the sandbox that every shard enters before it begins to serve.
    pub fn confine(&mut self, sandbox: &Sandbox) {
        for shard in &mut self.shards {
            shard.sandbox = sandbox.clone();
        }
    }

    /// Returns a handle that stops this server from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        let remotes = self.shards.iter();
        let remotes = remotes.map(|shard| shard.world.reactor.remote());
        Ok(Stopper(remotes.collect::<io::Result<_>>()?))
    }

    /// Returns the collector from which another thread can request snapshots.
    pub fn snapshots(&self) -> Arc<Snapshots> {
        Arc::clone(&self.snapshots)
    }

    /// Serves until the server has been stopped and all connections are closed. Returns an error
    /// when there is no shard or a thread cannot be started.
    pub fn run(self) -> io::Result<Ended> {
        let snapshots = self.snapshots;
        let mut shards = self.shards.into_iter();
        let first = shards.next().ok_or(io::ErrorKind::InvalidInput)?;
        let others: Vec<_> = shards
            .map(|shard| shard.start(Arc::clone(&snapshots)))
            .collect::<io::Result<_>>()?;
        let mut failure = first.run(&snapshots);
        for other in others {
            let other = other.join();
            let lost = |_| Some(io::Error::other("a shard's thread ended without a result"));
            let other = other.unwrap_or_else(lost);
            failure = failure.or(other);
        }
        Ok(Ended {
            totals: snapshots.sum().totals,
            failure,
        })
    }
}

impl Shard {
    /// Opens the listeners of a shard on these addresses, and replaces the addresses by the actual
    /// ones.
    fn bind(number: usize, addresses: &mut [SocketAddr], config: &Config) -> anyhow::Result<Shard> {
        let mut world = Kernel::new().context("cannot set up the event loop")?;
        for (index, address) in addresses.iter_mut().enumerate() {
            let asked = *address;
            let real = listen(&mut world, config, number, index, asked);
            *address = real.map_err(|error| bind_error("listen", asked, error))?;
        }
        let label = match config.shards {
            1 => String::new(),
            _ => format!("shard {number}: "),
        };
        let limits = config.limits.share(config.shards);
        Ok(Shard {
            number,
            engine: Engine::new(label, limits, addresses, Instant::now()),
            world,
            notifier: Arc::default(),
            sandbox: Sandbox::none(),
        })
    }

    /// Runs the shard in a thread of its own.
    fn start(self, snapshots: Arc<Snapshots>) -> io::Result<JoinHandle<Option<io::Error>>> {
        thread::Builder::new()
            .name(format!("shard {}", self.number))
            .spawn(move || self.run(&snapshots))
    }

    /// Serves until the shard ends, and leaves its final snapshot with the collector. Returns the
    /// error that ended the shard, if one did; the other shards drain then as well.
    fn run(mut self, snapshots: &Snapshots) -> Option<io::Error> {
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve(snapshots)));
        let outcome = served.unwrap_or_else(|_| {
            let text = format!("shard {} panicked, see above", self.number);
            Err(io::Error::other(text))
        });
        let snapshot = match outcome {
            Ok(()) => Some(self.engine.snapshot()),
            Err(_) => self.cut_all(),
        };
        if outcome.is_err() {
            self.notifier.stopping();
            snapshots.drain();
        }
        match snapshot {
            Some(snapshot) => {
                if let Some(sum) = snapshots.leave(self.number, snapshot) {
                    info!("{sum}");
                }
            }
            None => snapshots.mark_failed(self.number),
        }
        outcome.err().or(self.engine.into_failure())
    }

    /// Closes every connection, with a reset where the client is still owed something. Returns the
    /// final snapshot. After a panic the state may be such that this panics too: then the sockets
    /// are only dropped, the counts are lost, and the result is `None`.
    fn cut_all(&mut self) -> Option<Snapshot> {
        let cut = || {
            self.engine.cut(&mut self.world);
            self.engine.snapshot()
        };
        panic::catch_unwind(AssertUnwindSafe(cut)).ok()
    }

    /// Runs the event loop until the engine is done.
    fn serve(&mut self, snapshots: &Snapshots) -> io::Result<()> {
        self.sandbox
            .enter(Role::Reactor)
            .map_err(io::Error::other)?;
        self.notifier.ready();
        let mut has_failed = false;
        while !self.engine.is_done() {
            self.world.reactor.turn(self.engine.wait())?;
            let ready = self.world.reactor.ready();
            self.engine.begin_turn(&self.world, ready);
            while let Some(event) = self.world.reactor.next_event() {
                self.on_event(event, snapshots);
            }
            self.engine.finish_turn(&mut self.world);
            if self.engine.has_failed() && !has_failed {
                has_failed = true;
                snapshots.drain();
            }
        }
        Ok(())
    }

    #[inline]
    fn on_event(&mut self, event: Event<Timer>, snapshots: &Snapshots) {
        let (engine, world) = (&mut self.engine, &mut self.world);
        match event {
            Event::Io(token, hints) => engine.on_io(world, token, hints),
            Event::Timer(timer) => engine.on_timer(world, timer),
            Event::Stop => {
                self.notifier.stopping();
                engine.on_stop(world);
            }
            Event::Drain if engine.is_stopping() => {}
            Event::Drain => {
                self.notifier.stopping();
                engine.on_stop(world);
            }
            Event::Report => {
                if let Some(sum) = snapshots.answer(self.number, engine.snapshot()) {
                    info!("{sum}");
                }
            }
            Event::Inquiry if snapshots.is_first(self.number) => snapshots.request(),
            Event::Hangup if snapshots.is_first(self.number) => logging::reopen(),
            Event::Inquiry | Event::Hangup => {}
        }
    }
}

/// Makes the shards share one count of places for clients, and wake each other when places are free
/// again.
fn share_places(shards: &mut [Shard], remotes: &Arc<[Remote]>, cap: usize) {
    let places = Arc::new(ConnectionLimit::new(cap, shards.len()));
    for shard in shards {
        shard.world.join(Arc::clone(remotes));
        shard.engine.share(Arc::clone(&places), shard.number);
    }
}

/// Adds this listener to the world of this shard, and returns its actual address.
fn listen(
    world: &mut Kernel,
    config: &Config,
    shard: usize,
    index: usize,
    address: SocketAddr,
) -> io::Result<SocketAddr> {
    let ((listener, option_mismatches), owner) = config.open(shard, index, address)?;
    for mismatch in option_mismatches.iter().filter(|_| shard == 0) {
        warn!("{mismatch}");
    }
    let real = listener.local_addr()?;
    let token = Engine::<TcpStream>::listener_token(index);
    world.add_listener(listener, owner, token)?;
    Ok(real)
}
