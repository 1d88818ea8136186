//! The server: shards, each with a reactor and listeners of its own, started and stopped together.
//!
//! One shard is one thread, and nothing in it is shared. With more, the kernel spreads the clients
//! over them (SO_REUSEPORT); they share the count of the [`places`] for clients, and meet on the
//! [`board`] when somebody asks how it stands.
//!
//! All shards are alike: signals come to each of them. SIGTERM and SIGINT stop each one; what
//! needs one answer (SIGUSR1, SIGHUP) is taken up by the first that is still there. A shard that
//! fails, by a panic as well, resets its clients and has the others drain:
//!
//! ```text
//!   shard 0   serve ── panic ─► reset its clients ─► drain all ─► leave ─┐
//!   shard 1   serve ────────────────────────────────► drain ─► leave ───┴─► run returns why
//! ```

pub mod activation;
pub mod admission;
pub mod board;
pub mod connection;
pub mod engine;
pub mod http;
pub mod keepalive;
pub mod kernel;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod monitor;
pub mod patience;
pub mod places;
pub mod sandbox;
pub mod seldom;
pub mod stats;
pub mod vitals;
pub mod watch;
pub mod world;

use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use log::{info, warn};
use mio::net::{TcpListener, TcpStream};

use crate::logging;
use crate::reactor::Event;
use crate::reactor::signals::Remote;
use crate::resolve::cannot;
use crate::server::activation::Notifier;
use crate::server::board::Board;
use crate::server::engine::Engine;
use crate::server::kernel::{Kernel, Owner};
use crate::server::limits::Limits;
use crate::server::places::Places;
use crate::server::sandbox::{Role, Sandbox};
use crate::server::stats::{Snapshot, Totals};
use crate::server::world::Timer;
use crate::socket::{self, Families, Regrant};

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// Sockets that listen already and stay their giver's, see [`activation`].
    pub inherited: Vec<Arc<std::net::TcpListener>>,
    /// For every connection, by inheritance from its listener.
    pub options: socket::Options,
    /// How many clients may wait to be accepted; `None`: [`socket::BACKLOG_DEFAULT`].
    pub backlog: Option<u32>,
    /// Other processes may listen on the same ports.
    pub reuse_port: bool,
    /// Reactors, each in a thread of its own; at least 1.
    pub shards: usize,
    /// What bounds the work and memory of all shards together.
    pub limits: Limits,
}

impl Config {
    /// One shard with the default limits.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Config {
            listen,
            inherited: Vec::new(),
            options: socket::Options {
                unsent_most: Some(limits::UNSENT_MOST),
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
    /// Returns whose clients a listener takes, by its place in `listen`. An IPv6 wildcard takes
    /// IPv4 clients as well, as it does by default elsewhere (Linux, Go, the standard library),
    /// unless an IPv4 address has the same port: then both can be listened on.
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

    /// The listener of this number: first those of our own, then those that were handed over.
    fn open(&self, shard: usize, index: usize, address: SocketAddr) -> io::Result<(Opened, Owner)> {
        if let Some(handed) = index.checked_sub(self.listen.len()) {
            let socket = self.inherited[handed].try_clone()?;
            let opened = socket::adopt(socket, &self.options, self.backlog)?;
            return Ok((opened, Owner::Manager));
        }
        let reuse_port = self.reuse_port || self.shards > 1;
        let families = self.families(index);
        if shard == 0 && !self.reuse_port {
            // Shards must share the port among themselves, and are to find out who else has it.
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

/// A listening socket, and what was not granted as asked.
type Opened = (TcpListener, Vec<Regrant>);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    shards: Vec<Shard>,
    addresses: Vec<SocketAddr>,
    board: Arc<Board>,
}

/// Stops a server from another thread.
#[derive(Debug)]
pub struct Stopper(Vec<Remote>);

impl Stopper {
    /// Asks the server to stop, just as a signal would.
    pub fn stop(&self) {
        self.0.iter().for_each(Remote::stop);
    }
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    /// What it counted.
    pub totals: Totals,
    /// Why it could not go on, when it could not: the poll, or a listener.
    pub failure: Option<io::Error>,
}

/// One reactor with what it serves.
#[derive(Debug)]
struct Shard {
    number: usize,
    world: Kernel,
    engine: Engine<TcpStream>,
    notifier: Arc<Notifier>,
    sandbox: Sandbox,
}

impl Server {
    /// Listens on every address of the configuration, or on none: the first that fails is the
    /// error. Clients are accepted by the kernel from here on, and served by [`Server::run`].
    pub fn bind(config: &Config) -> anyhow::Result<Server> {
        let mut addresses = config.listen.clone();
        for socket in &config.inherited {
            let address = socket.local_addr();
            addresses.push(address.context("a socket that was handed over has no address")?);
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
        let board = Arc::new(Board::new(all));
        Ok(Server {
            shards,
            addresses,
            board,
        })
    }

    /// Where it listens, with the real ports.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().copied()
    }

    /// Makes SIGINT and SIGTERM of this process stop this server, and SIGUSR1 log its state. SIGHUP
    /// makes it open the log file again, or stops it when there is none.
    pub fn obey_signals(&mut self, has_log_file: bool) -> io::Result<()> {
        for shard in &mut self.shards {
            shard.world.reactor.obey_signals(!has_log_file)?;
            shard.world.reactor.report_on_signal()?;
        }
        Ok(())
    }

    /// Notifies this service manager when all shards are ready, and when the first begins to stop.
    pub fn notify(&mut self, notifier: Notifier) {
        let notifier = Arc::new(notifier.for_shards(self.shards.len()));
        for shard in &mut self.shards {
            shard.notifier = Arc::clone(&notifier);
        }
    }

    /// Every shard enters this sandbox before it begins to serve.
    pub fn confine(&mut self, sandbox: &Sandbox) {
        for shard in &mut self.shards {
            shard.sandbox = sandbox.clone();
        }
    }

    /// A handle that stops this server from another thread.
    pub fn stopper(&self) -> io::Result<Stopper> {
        let remotes = self.shards.iter();
        let remotes = remotes.map(|shard| shard.world.reactor.remote());
        Ok(Stopper(remotes.collect::<io::Result<_>>()?))
    }

    /// Where another thread can ask how it stands.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Serves until it is stopped and all clients are done with. An error: the threads could not be
    /// started.
    pub fn run(self) -> io::Result<Ended> {
        let board = self.board;
        let mut shards = self.shards.into_iter();
        let first = shards.next().ok_or(io::ErrorKind::InvalidInput)?;
        let others: Vec<_> = shards
            .map(|shard| shard.start(Arc::clone(&board)))
            .collect::<io::Result<_>>()?;
        let mut failure = first.run(&board);
        for other in others {
            let other = other.join();
            let other = other.unwrap_or_else(|_| Some(io::Error::other("a thread was lost")));
            failure = failure.or(other);
        }
        Ok(Ended {
            totals: board.sum().totals,
            failure,
        })
    }
}

impl Shard {
    /// Listens on these addresses, and replaces them by the real ones.
    fn bind(number: usize, addresses: &mut [SocketAddr], config: &Config) -> anyhow::Result<Shard> {
        let mut world = Kernel::new().context("cannot set up the event loop")?;
        for (index, address) in addresses.iter_mut().enumerate() {
            let asked = *address;
            let real = listen(&mut world, config, number, index, asked);
            *address = real.map_err(|error| cannot("listen", asked, error))?;
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

    /// Runs it in a thread of its own.
    fn start(self, board: Arc<Board>) -> io::Result<JoinHandle<Option<io::Error>>> {
        thread::Builder::new()
            .name(format!("shard {}", self.number))
            .spawn(move || self.run(&board))
    }

    /// Serves to the end, and leaves its last word on the board. Tells why it could not go on, when
    /// it could not; the others come to an end then as well.
    fn run(mut self, board: &Board) -> Option<io::Error> {
        let served = panic::catch_unwind(AssertUnwindSafe(|| self.serve(board)));
        let outcome = served.unwrap_or_else(|_| {
            let text = format!("shard {} broke off, see above", self.number);
            Err(io::Error::other(text))
        });
        let snapshot = match outcome {
            Ok(()) => Some(self.engine.snapshot()),
            Err(_) => self.cut_all(),
        };
        if outcome.is_err() {
            self.notifier.stopping();
            board.drain();
        }
        match snapshot {
            Some(snapshot) => {
                if let Some(sum) = board.leave(self.number, snapshot) {
                    info!("{sum}");
                }
            }
            None => board.lose(self.number),
        }
        outcome.err().or(self.engine.into_failure())
    }

    /// Resets every client that is still owed something. After a panic the state may be such that
    /// this panics too: then closing the sockets is all that can be done, and the count is lost.
    fn cut_all(&mut self) -> Option<Snapshot> {
        let cut = || {
            self.engine.cut(&mut self.world);
            self.engine.snapshot()
        };
        panic::catch_unwind(AssertUnwindSafe(cut)).ok()
    }

    /// Runs one turn after the other.
    fn serve(&mut self, board: &Board) -> io::Result<()> {
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
                self.on_event(event, board);
            }
            self.engine.finish_turn(&mut self.world);
            if self.engine.has_failed() && !has_failed {
                has_failed = true;
                board.drain();
            }
        }
        Ok(())
    }

    #[inline]
    fn on_event(&mut self, event: Event<Timer>, board: &Board) {
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
                if let Some(sum) = board.answer(self.number, engine.snapshot()) {
                    info!("{sum}");
                }
            }
            Event::Inquiry if board.is_first(self.number) => board.inquire(),
            Event::Hangup if board.is_first(self.number) => logging::reopen(),
            Event::Inquiry | Event::Hangup => {}
        }
    }
}

/// The shards share the places for clients, and wake each other when there are some again.
fn share_places(shards: &mut [Shard], remotes: &Arc<[Remote]>, cap: usize) {
    let places = Arc::new(Places::new(cap, shards.len()));
    for shard in shards {
        shard.world.join(Arc::clone(remotes));
        shard.engine.share(Arc::clone(&places), shard.number);
    }
}

/// Adds this listener to the world of this shard, and tells its real address.
fn listen(
    world: &mut Kernel,
    config: &Config,
    shard: usize,
    index: usize,
    address: SocketAddr,
) -> io::Result<SocketAddr> {
    let ((listener, regrants), owner) = config.open(shard, index, address)?;
    for regrant in regrants.iter().filter(|_| shard == 0) {
        warn!("{regrant}");
    }
    let real = listener.local_addr()?;
    let token = Engine::<TcpStream>::listener_token(index);
    world.add_listener(listener, owner, token)?;
    Ok(real)
}
