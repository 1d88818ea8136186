//! The command line, in two steps: what was typed, and what was meant. Nothing past this file sees
//! a value that was not checked.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytesize::ByteSize;
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use log::{LevelFilter, info, warn};

use crate::load::own::OwnServer;
use crate::load::payload::Alphabet;
use crate::load::plan::{Plan, Stop};
use crate::load::summary::Summary;
use crate::load::{Load, Step, preflight};
use crate::progress::{Progress, TICK};
use crate::report;
use crate::send::{self, Errand};
use crate::server::limits::Limits;
use crate::server::stats::CloseReason;
use crate::server::{self, Server};
use crate::{logging, process, socket};

/// How a command ended that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All well: exit code 0.
    Good,
    /// Something is wrong, and was said: exit code 1.
    Bad,
}

/// A TCP echo pair for measuring and teaching TCP: the server answers in upper case
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_required = true,
    after_help = "Exit codes: 0 all well; 1 carried out, and something is wrong; 2 wrong usage; \
                  3 could not run."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send back every byte that comes, ASCII letters in upper case
    Serve(ServeArgs),
    /// Send messages and print the replies
    Send(SendArgs),
    /// Load a server with many connections, verify every reply, measure its response
    Load(LoadArgs),
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Tell more: every connection, every message
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Tell errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Keep the log in this file as well (appended)
    #[arg(long, global = true, value_name = "PATH")]
    log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where to listen, IPv4 or [IPv6]; port 0: any free one; may be repeated
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address,
          default_value = "127.0.0.1:12000")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    mss: MssArg,
    #[command(flatten)]
    buffers: BufferArgs,
    /// Clients that may wait to be accepted [default: 4096, or what the kernel allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    backlog: Option<u32>,
    /// Leave Nagle's algorithm on; otherwise TCP_NODELAY is set
    #[arg(long)]
    nagle: bool,
}

#[derive(Debug, Args)]
struct SendArgs {
    /// The server, as address or name with port
    #[arg(value_name = "TARGET", value_parser = target)]
    target: Target,
    /// What to send, one reply each [default: the lines of standard input]
    #[arg(value_name = "MESSAGE")]
    messages: Vec<OsString>,
    #[command(flatten)]
    mss: MssArg,
    /// How long to wait for the connection, for each part of a reply, and for the end
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "10s")]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// The server, as address or name with port [default: one of its own, in this process]
    #[arg(value_name = "TARGET", value_parser = target)]
    target: Option<Target>,
    /// Connections; all are up before the first message and stay up to the end
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    connections: u32,
    /// Bytes of a message, such as 64 or 16KiB (1 to 1GiB)
    #[arg(long, value_name = "SIZE", value_parser = message_size, default_value = "64")]
    size: usize,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,
    /// How long to send [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    duration: Option<Duration>,
    /// How many messages to send in all, dealt evenly to the connections; given up when no reply
    /// comes for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    messages: Option<u64>,
    /// Connections to open a second [default: as fast as they come up]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: Option<u32>,
    #[command(flatten)]
    mss: MssArg,
    #[command(flatten)]
    buffers: BufferArgs,
    /// Local addresses, used in turn
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// What the messages are made of
    #[arg(long, value_enum, default_value_t = PayloadArg::Text)]
    payload: PayloadArg,
    /// What the bytes of the messages are computed from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
struct MssArg {
    /// TCP_MAXSEG, 88 to 32767: the largest segment, both ways. A segment carries 12 bytes less,
    /// which go to timestamps
    #[arg(long, value_name = "BYTES", value_parser = mss)]
    mss: Option<u16>,
}

#[derive(Debug, Args)]
struct BufferArgs {
    /// SO_RCVBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    recv_buffer: Option<usize>,
    /// SO_SNDBUF, such as 64KiB; the kernel doubles it for its own bookkeeping
    #[arg(long, value_name = "SIZE", value_parser = buffer_size)]
    send_buffer: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PayloadArg {
    /// Printable ASCII with lower-case letters in every message
    Text,
    /// All 256 byte values
    Bytes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A page for a person
    Text,
    /// One object on one line
    Json,
}

/// A server as it was named: `HOST:PORT`, not looked up yet.
#[derive(Clone, Debug)]
struct Target(String);

impl Cli {
    /// Reads the arguments of this process. On an error or a call for help, prints it and gives the
    /// exit code.
    pub fn read() -> Result<Cli, u8> {
        Cli::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let _ = error.print();
                0
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = error.print();
                2
            }
            _ => {
                say(&one_line(&error));
                2
            }
        })
    }

    /// Carries the command out. An error: it could not run.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let level = match (self.log.verbose, self.log.quiet) {
            (true, _) => LevelFilter::Debug,
            (_, true) => LevelFilter::Error,
            _ => LevelFilter::Info,
        };
        logging::start(level, self.log.log_file.as_deref())?;
        match self.command {
            Command::Serve(args) => serve(args),
            Command::Send(args) => send(args),
            Command::Load(args) => load(args),
        }
    }
}

/// Tells a person what went wrong, on one line of standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "upcase: {text}");
}

fn serve(args: ServeArgs) -> anyhow::Result<Outcome> {
    let descriptors = process::raise_descriptor_limit().context("cannot read RLIMIT_NOFILE")?;
    let mut server = Server::bind(&server::Config {
        listen: args.listen,
        options: options(&args.mss, Some(&args.buffers), args.nagle),
        backlog: args.backlog,
        limits: Limits::default(),
    })?;
    server.stop_on_signals()?;
    let listening: String = server
        .addresses()
        .map(|address| format!("listening on {address}\n"))
        .collect();
    print(&listening)?;
    info!("serving, with at most {descriptors} descriptors");
    let totals = server.run().context("the server failed")?;
    info!("stopped: {totals}");
    Ok(match totals.closed(CloseReason::Cut) {
        0 => Outcome::Good,
        _ => Outcome::Bad,
    })
}

fn send(args: SendArgs) -> anyhow::Result<Outcome> {
    let errand = Errand {
        targets: resolve(&args.target)?,
        messages: args
            .messages
            .into_iter()
            .map(OsString::into_encoded_bytes)
            .collect(),
        options: options(&args.mss, None, false),
        timeout: args.timeout,
    };
    let good = send::run(&errand, io::stdin().lock(), &mut io::stdout().lock())?;
    Ok(if good { Outcome::Good } else { Outcome::Bad })
}

fn load(args: LoadArgs) -> anyhow::Result<Outcome> {
    let (own_server, target) = match &args.target {
        Some(named) => (None, reachable(named, &args.source)?),
        None => {
            preflight::check(args.connections, args.source.len(), 2)?;
            let server = OwnServer::start()?;
            let address = server.address();
            info!("no target was named: loading a server of this run's own on {address}");
            (Some(server), address)
        }
    };
    preflight::check(args.connections, args.source.len(), 1)?;
    let plan = plan(&args, target);
    for regrant in socket::regrants(&plan.options)? {
        warn!("{regrant}");
    }
    let mut summary = carry_out(plan)?;
    if let Some(server) = own_server {
        summary.own_server = Some(server.stop()?);
    }
    print(&match args.format {
        Format::Text => report::text::render(&summary),
        Format::Json => report::json::render(&summary),
    })?;
    Ok(if summary.is_good() {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

fn plan(args: &LoadArgs, target: SocketAddr) -> Plan {
    let ten_seconds = Duration::from_secs(10);
    Plan {
        target,
        sources: args.source.clone(),
        options: options(&args.mss, Some(&args.buffers), false),
        connections: args.connections,
        connect_rate: args.connect_rate,
        size: args.size,
        depth: args.depth,
        stop: match args.messages {
            Some(messages) => Stop::Messages(messages),
            None => Stop::After(args.duration.unwrap_or(ten_seconds)),
        },
        alphabet: match args.payload {
            PayloadArg::Text => Alphabet::Text,
            PayloadArg::Bytes => Alphabet::Bytes,
        },
        seed: args.seed,
    }
}

fn carry_out(plan: Plan) -> anyhow::Result<Summary> {
    let mut progress = Progress::new(&plan);
    let mut load = Load::new(plan, progress.is_some().then_some(TICK))?;
    loop {
        match load.advance()? {
            Step::Done(summary) => return Ok(*summary),
            Step::UnderWay(snapshot) => {
                if let Some(progress) = &mut progress {
                    progress.show(&snapshot);
                }
            }
        }
    }
}

fn options(mss: &MssArg, buffers: Option<&BufferArgs>, nagle: bool) -> socket::Options {
    socket::Options {
        mss: mss.mss,
        recv_buffer: buffers.and_then(|buffers| buffers.recv_buffer),
        send_buffer: buffers.and_then(|buffers| buffers.send_buffer),
        nagle,
    }
}

fn resolve(Target(target): &Target) -> anyhow::Result<Vec<SocketAddr>> {
    socket::resolve(target).with_context(|| format!("cannot find the host of {target}"))
}

/// One address of a target, for all connections: of the sources' family, and of several the first
/// at which something listens.
fn reachable(target: &Target, sources: &[IpAddr]) -> anyhow::Result<SocketAddr> {
    let Target(name) = target;
    let mut addresses = resolve(target)?;
    addresses.retain(|address| sources.iter().all(|ip| ip.is_ipv4() == address.is_ipv4()));
    match addresses[..] {
        [] => bail!("{name} has no address of the family of every --source"),
        [only] => Ok(only),
        [first, ..] => {
            let probe = |address: &&SocketAddr| {
                let options = socket::Options::default();
                socket::connect_blocking(**address, &options, Duration::from_secs(3)).is_ok()
            };
            Ok(*addresses.iter().find(probe).unwrap_or(&first))
        }
    }
}

/// Writes to standard output. A reader that has gone away is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// An error of the command line on one line: what clap says before its first blank line, and its
/// tip when it has one.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraphs: Vec<&str> = text.split("\n\n").collect();
    let tip = paragraphs
        .iter()
        .find(|part| part.trim_start().starts_with("tip:"));
    let said = paragraphs.first().into_iter().chain(tip);
    let lines: Vec<String> = said
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let line = lines.join("; ");
    format!("{} (see --help)", line.trim_start_matches("error: "))
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "not an address with a port, such as 127.0.0.1:12000 or [::1]:12000".to_string()
    })
}

/// `HOST:PORT`: the port is a number from 1 to 65535, and a host of digits and dots, or one in
/// brackets, is an address.
fn target(text: &str) -> Result<Target, String> {
    const FORM: &str = "not a host with a port, such as 10.77.0.1:12000, [::1]:12000 or host:12000";
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port: u16 = port
        .parse()
        .map_err(|_| "the port is not a number up to 65535")?;
    if port == 0 {
        return Err("nothing can listen on port 0".to_string());
    }
    let looks_like_address =
        host.chars().all(|c| c.is_ascii_digit() || c == '.') || host.contains([':', '[', ']']);
    if looks_like_address && text.parse::<SocketAddr>().is_err() {
        return Err(FORM.to_string());
    }
    Ok(Target(text.to_string()))
}

fn mss(text: &str) -> Result<u16, String> {
    let (least, most) = (socket::MSS_RANGE.start(), socket::MSS_RANGE.end());
    text.parse()
        .ok()
        .filter(|mss| socket::MSS_RANGE.contains(mss))
        .ok_or_else(|| format!("the kernel takes {least} to {most} bytes"))
}

fn buffer_size(text: &str) -> Result<usize, String> {
    size(text, 1, i32::MAX as u64)
}

fn message_size(text: &str) -> Result<usize, String> {
    size(text, 1, ByteSize::gib(1).as_u64())
}

fn size(text: &str, least: u64, most: u64) -> Result<usize, String> {
    let size: ByteSize = text.parse()?;
    let bytes = size.as_u64();
    if !(least..=most).contains(&bytes) {
        return Err(format!("{bytes} is not in {least}..={most} bytes"));
    }
    usize::try_from(bytes).map_err(|error| error.to_string())
}

fn positive_duration(text: &str) -> anyhow::Result<Duration> {
    let duration = humantime::parse_duration(text)?;
    if duration.is_zero() {
        return Err(anyhow!("it must be longer than 0"));
    }
    Ok(duration)
}
