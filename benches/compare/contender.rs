//! Starts the participants of the comparison: a server on one core, and its client on another core.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::case::Case;
use crate::client::Report;
use crate::common::process::Process;
use crate::common::upcase;
use crate::peers;

/// A server of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// `upcase serve` with its defaults.
    Upcase,
    /// `upcase serve` without its sandbox, which no other server has either.
    NoSandbox,
    Epoll,
    Tokio,
    Threads,
    Libuv,
    Go,
    /// Another build of `upcase`, whose path is in the environment variable UPCASE_OTHER.
    Other,
}

/// A client of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The bare client, which records its round trips.
    Timing,
    /// The bare client, which records nothing.
    Bare,
    /// The load generator of upcase.
    Load,
}

/// The core of the servers, and the core of their clients and of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub server: usize,
    pub client: usize,
}

/// A server and its client, both running.
#[derive(Debug)]
pub struct Contender {
    pub server: Process,
    pub client: Process,
}

impl Contender {
    /// Starts a server and its client; returns when all connections are established.
    pub fn start(
        server: Server,
        client: Client,
        case: Case,
        cores: Cores,
    ) -> anyhow::Result<Contender> {
        let mut server = Process::start_on(cores.server, &mut server.command()?)?;
        let address = server.address()?;
        let mut client = Process::start_on(cores.client, &mut client.command(address, case)?)?;
        client
            .hear()
            .context("the connections were not established")?;
        Ok(Contender { server, client })
    }

    /// Loads the server for a time or with so many messages, whichever limit is reached first.
    pub fn load(&mut self, milliseconds: u64, messages: u64) -> anyhow::Result<Report> {
        self.client
            .write_line(&format!("{milliseconds} {messages}"))?;
        self.client.hear()?.parse()
    }
}

impl Server {
    /// Returns the server's name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Server::Upcase => "upcase serve",
            Server::NoSandbox => "no sandbox",
            Server::Epoll => "raw epoll",
            Server::Tokio => "tokio",
            Server::Threads => "threads",
            Server::Libuv => "libuv",
            Server::Go => "Go",
            Server::Other => "other upcase",
        }
    }

    /// Returns the command that starts the server, which is compiled first where necessary. An
    /// error if the server is not available on this machine.
    pub fn command(self) -> anyhow::Result<Command> {
        let (program, arguments): (PathBuf, &[&str]) = match self {
            Server::Upcase => return Ok(upcase::serve(upcase::program())),
            Server::NoSandbox => {
                let mut serve = upcase::serve(upcase::program());
                serve.args(["--sandbox", "off"]);
                return Ok(serve);
            }
            Server::Other => {
                let other = std::env::var_os("UPCASE_OTHER").context("UPCASE_OTHER is not set")?;
                return Ok(upcase::serve(other));
            }
            Server::Epoll => (std::env::current_exe()?, &["peer", "epoll"]),
            Server::Tokio => (std::env::current_exe()?, &["peer", "tokio"]),
            Server::Threads => (std::env::current_exe()?, &["peer", "threads"]),
            Server::Libuv => (build("uv.c", &["cc", "-O3", "-o"], &["-luv"])?, &[]),
            Server::Go => (build("echo.go", &["go", "build", "-o"], &[])?, &[]),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }
}

impl Client {
    /// Returns the command that starts the client for this server.
    pub fn command(self, target: SocketAddr, case: Case) -> anyhow::Result<Command> {
        let word = match self {
            Client::Timing => "timing",
            Client::Bare => "bare",
            Client::Load => "load",
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["client", word, &target.to_string(), &case.to_string()]);
        Ok(command)
    }
}

/// Runs a peer in Rust, in a process that was started by the command of [`Server::command`].
pub fn serve(peer: &str) -> anyhow::Result<()> {
    match peer {
        "epoll" => peers::epoll::serve(Duration::ZERO)?,
        "tokio" => peers::tokio::serve()?,
        "threads" => peers::threads::serve()?,
        _ => bail!("no peer is called {peer}"),
    }
    Ok(())
}

/// Returns a path for a temporary file of this benchmark.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compare-{}-{name}", std::process::id()))
}

/// Compiles a peer, unless its program is newer than its source; returns the path of the program.
fn build(source: &str, compiler: &[&str], libraries: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(source);
    let program = folder.join(
        source
            .with_extension("peer")
            .file_name()
            .context("a name")?,
    );
    let modified = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    if modified(&program) > modified(&source) {
        return Ok(program);
    }
    let output = Command::new(compiler[0])
        .args(&compiler[1..])
        .arg(&program)
        .arg(&source)
        .args(libraries)
        .env("GOCACHE", folder.join("go-cache"))
        .output()
        .with_context(|| format!("{} is not installed", compiler[0]))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let why = text.lines().find(|line| line.contains("rror"));
        bail!("not built: {}", why.unwrap_or("no reason given").trim());
    }
    Ok(program)
}
