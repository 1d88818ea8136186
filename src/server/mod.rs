//! The server: shards, each with a reactor and listeners of its own, started and stopped together.
//!
//! One shard is one thread, and nothing in it is shared. With more, the kernel spreads the clients
//! over them (SO_REUSEPORT), and they meet only on the [`board`], when somebody asks how it stands.
//! Signals come to the first shard, which passes them on.

pub mod activation;
pub mod admission;
pub mod board;
pub mod connection;
pub mod engine;
pub mod http;
pub mod kernel;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod monitor;
pub mod patience;
pub mod sandbox;
pub mod seldom;
pub mod stats;
pub mod vitals;
pub mod watch;
pub mod world;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use log::{info, warn};
use mio::net::{TcpListener, TcpStream};

use crate::reactor::Event;
use crate::reactor::signals::Remote;
use crate::server::activation::Notifier;
use crate::server::board::Board;
use crate::server::engine::Engine;
use crate::server::kernel::{Kernel, Owner};
use crate::server::limits::Limits;
use crate::server::sandbox::{Role, Sandbox};
use crate::server::stats::Totals;
use crate::server::world::Timer;
use crate::socket::{self, Regrant};

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
    /// The listener of this number: first those of our own, then those that were handed over.
    fn open(&self, shard: usize, index: usize, address: SocketAddr) -> io::Result<(Opened, Owner)> {
        if let Some(handed) = index.checked_sub(self.listen.len()) {
            let socket = self.inherited[handed].try_clone()?;
            let opened = socket::adopt(socket, &self.options, self.backlog)?;
            return Ok((opened, Owner::Manager));
        }
        let reuse_port = self.reuse_port || self.shards > 1;
        if shard == 0 && !self.reuse_port {
            // Shards must share the port among themselves, and are to find out who else has it.
            socket::check_free(address)?;
        }
        let owner = match self.reuse_port && kernel::migrates() {
            true => Owner::Group,
            false => Owner::Ourselves,
        };
        let opened = socket::listen(address, &self.options, self.backlog, reuse_port)?;
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
    /// Those to whom it passes on a request to stop.
    others: Vec<Remote>,
    notifier: Notifier,
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
        let remotes = |shards: &[Shard]| -> io::Result<Vec<Remote>> {
            let remote = |shard: &Shard| shard.world.reactor.remote();
            shards.iter().map(remote).collect()
        };
        let board = Arc::new(Board::new(remotes(&shards)?));
        let others = remotes(&shards[1..])?;
        shards[0].others = others;
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

    /// SIGINT and SIGTERM of this process stop this server; on SIGUSR1 it tells how it stands.
    pub fn obey_signals(&mut self) -> io::Result<()> {
        let reactor = &mut self.shards[0].world.reactor;
        reactor.stop_on_signals()?;
        reactor.report_on_signal()
    }

    /// Tells this service manager when it is ready, and when it is asked to stop.
    pub fn notify(&mut self, notifier: Notifier) {
        self.shards[0].notifier = notifier;
    }

    /// Every shard enters this sandbox before it begins to serve.
    pub fn confine(&mut self, sandbox: &Sandbox) {
        for shard in &mut self.shards {
            shard.sandbox = sandbox.clone();
        }
    }

    /// A handle that stops this server from another thread.
    pub fn remote(&self) -> io::Result<Remote> {
        self.shards[0].world.reactor.remote()
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
            let other = other.unwrap_or_else(|_| Some(io::Error::other("a shard broke off")));
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
            *address = real.with_context(|| format!("cannot listen on {asked}"))?;
        }
        let label = match config.shards {
            1 => String::new(),
            _ => format!("shard {number}: "),
        };
        let limits = config.limits.share(number, config.shards);
        Ok(Shard {
            number,
            engine: Engine::new(label, limits, addresses, Instant::now()),
            world,
            others: Vec::new(),
            notifier: Notifier::default(),
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
        let _presence = Presence {
            board,
            shard: self.number,
        };
        let outcome = self.serve(board);
        if outcome.is_err() {
            self.engine.cut(&mut self.world);
            board.drain();
        }
        if let Some(sum) = board.leave(self.number, self.engine.snapshot()) {
            info!("{sum}");
        }
        outcome.err().or(self.engine.into_failure())
    }

    /// One turn after the other. The first shard stays until the others have left: it takes the
    /// signals for all.
    fn serve(&mut self, board: &Board) -> io::Result<()> {
        self.sandbox
            .enter(Role::Reactor)
            .map_err(io::Error::other)?;
        self.notifier.ready();
        let mut has_failed = false;
        while !self.engine.is_done() || self.number == 0 && !board.is_first_alone() {
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
                if !engine.is_stopping() {
                    self.notifier.stopping();
                }
                self.others.iter().for_each(Remote::stop);
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
            Event::Inquiry => board.inquire(),
        }
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

/// A shard that breaks off leaves the board all the same.
struct Presence<'a> {
    board: &'a Board,
    shard: usize,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.board.lose(self.shard);
            self.board.drain();
        }
    }
}
