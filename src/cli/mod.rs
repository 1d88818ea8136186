//! The command line: what was typed becomes what is meant, is carried out, and ends in an exit
//! code.

mod args;
mod values;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use clap::error::ErrorKind;
use log::{LevelFilter, debug, error, info, warn};

use crate::capture::document::{Document, Format as DocumentFormat};
use crate::capture::teller::Teller;
use crate::capture::transcript::Style;
pub use crate::cli::args::Cli;
use crate::cli::args::{
    AllowArg, ArrivalsArg, BufferArgs, CloseArg, Command, DURATION_DEFAULT, Format, LoadArgs,
    MssArg, PacingArg, PatienceArgs, SandboxArg, SendArgs, ServeArgs, SniffArgs, SniffFormat,
};
use crate::cli::values::Target;
use crate::load::own::OwnServer;
use crate::load::payload::Content;
use crate::load::plan::{Churn, Close, Pace, Pacing, Plan, Stop};
use crate::load::schedule::Arrivals;
use crate::load::summary::Summary;
use crate::load::verdict::{self, Judged, Verdict};
use crate::load::{self, News, preflight};
use crate::progress::Progress;
use crate::reactor::signals::stop_flag;
use crate::report;
use crate::send::{self, Errand};
use crate::server::activation::{self, Notifier};
use crate::server::limits::Limits;
use crate::server::monitor::{self, Monitor, Subject};
use crate::server::sandbox::Sandbox;
use crate::server::stats::CloseReason;
use crate::server::{self, Ended, Server, kernel};
use crate::socket::Options;
use crate::{capture, logging, process, socket};

/// The port of an upcase server, unless said otherwise.
const PORT: u16 = 12000;

/// Where `serve` listens, unless it is told or given sockets.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// How a command ended that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All well: exit code 0.
    Good,
    /// Something is wrong, and was said: exit code 1.
    Bad,
}

impl Cli {
    /// Reads the arguments of this process. On an error or a call for help, prints it and gives the
    /// exit code.
    pub fn read() -> Result<Cli, u8> {
        let cli = Cli::try_parse().map_err(|error| match error.kind() {
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
        })?;
        if let Err(error) = cli.check() {
            say(&format!("{error} (see --help)"));
            return Err(2);
        }
        Ok(cli)
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
            Command::Load(args) => load(*args),
            Command::Sniff(args) => sniff(args),
        }
    }
}

/// Tells a person what went wrong, on one line of standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "upcase: {text}");
}

fn serve(args: ServeArgs) -> anyhow::Result<Outcome> {
    let descriptors = process::raise_descriptor_limit().context("cannot read RLIMIT_NOFILE")?;
    let (metrics, wanted) = (args.metrics, args.sandbox);
    let config = server_config(args, descriptors)?;
    let mut server = Server::bind(&config)?;
    server.obey_signals().context("cannot take signals")?;
    server.notify(Notifier::from_env());
    let monitor = metrics
        .map(|address| Monitor::bind(address, config.reuse_port))
        .transpose()?;
    let sandbox = match wanted {
        SandboxArg::Auto => Sandbox::raise(),
        SandboxArg::On => Sandbox::raise().complete()?,
        SandboxArg::Off => Sandbox::none(),
    };
    server.confine(&sandbox);
    print(&where_it_is(&server, monitor.as_ref()))?;
    if let Some(monitor) = monitor {
        let subject = Subject {
            board: server.board(),
            shards: config.shards,
            limits: config.limits,
        };
        let started = monitor.start(subject, sandbox.clone());
        started.context("cannot serve metrics")?;
    }
    info!("{sandbox}");
    let most = config.limits.max_connections;
    info!("serving at most {most} clients at a time");
    let Ended { totals, failure } = server.run().context("cannot start the shards")?;
    info!("stopped: {totals}");
    if let Some(error) = failure {
        return Err(error).context("the server failed");
    }
    if totals.accepted != totals.closed_in_all() {
        error!("the books do not balance: this is a fault of upcase, please report it");
        return Ok(Outcome::Bad);
    }
    Ok(match totals.closed(CloseReason::Cut) + totals.turned_away {
        0 => Outcome::Good,
        _ => Outcome::Bad,
    })
}

/// One line for each address.
fn where_it_is(server: &Server, monitor: Option<&Monitor>) -> String {
    let listening = server.addresses();
    let mut lines: String = listening
        .map(|address| format!("listening on {address}\n"))
        .collect();
    if let Some(monitor) = monitor {
        let address = monitor.address();
        lines.push_str(&format!("metrics on http://{address}/metrics\n"));
    }
    lines
}

fn server_config(mut args: ServeArgs, descriptors: u64) -> anyhow::Result<server::Config> {
    let inherited: Vec<_> = activation::sockets()?.into_iter().map(Arc::new).collect();
    if args.listen.is_empty() && inherited.is_empty() {
        args.listen.push(LISTEN_DEFAULT);
    }
    let room = room_for_clients(&args, inherited.len(), descriptors)?;
    let most = args.limits.max_connections.unwrap_or(room);
    if most < args.shards {
        bail!(
            "{most} clients are less than --shards {}: each takes at least one",
            args.shards
        );
    }
    if most > room {
        warn!(
            "--max-connections {most} is more than the limit on descriptors leaves room for, \
             {room}: raise that limit (ulimit -n, LimitNOFILE=)"
        );
    }
    if args.reuse_port && !kernel::migrates() {
        warn!(
            "--reuse-port: clients that are connecting while a server stops must try again after \
             a second; with sysctl net.ipv4.tcp_migrate_req=1 the kernel passes them on"
        );
    }
    Ok(server::Config {
        options: Options {
            keepalive: args.patience.keepalive.0,
            user_timeout: user_timeout(&args.patience),
            unsent_most: args.notsent_lowat.0,
            ..options(&args.mss, Some(&args.buffers), args.nagle)
        },
        listen: args.listen,
        inherited,
        backlog: args.backlog,
        reuse_port: args.reuse_port,
        shards: args.shards,
        limits: Limits {
            max_connections: most,
            max_connections_per_ip: args.limits.max_connections_per_ip,
            idle_timeout: args.patience.idle_timeout.0,
            stall_timeout: args.patience.stall_timeout.0,
            min_rate: args.patience.min_rate,
            turn_bytes: args.fairness.turn_bytes,
            turn_accepts: args.fairness.turn_accepts,
            drain_timeout: args.patience.drain_timeout,
            ..Limits::default()
        },
    })
}

/// TCP_USER_TIMEOUT ends what the stall timeout does not see: connections that are closed, and
/// whose last replies nobody takes. It must not come first, since it resets a slow reader whose
/// window stays shut for so long; and it puts an end to the questions of the keepalive as well.
fn user_timeout(patience: &PatienceArgs) -> Option<Duration> {
    const STALL_TIMEOUTS: u32 = 4;
    let stall = patience.stall_timeout.0?.saturating_mul(STALL_TIMEOUTS);
    let keepalive = patience.keepalive.0.map(socket::keepalive_end);
    Some(stall.max(keepalive.unwrap_or_default()))
}

/// How many clients the limit on descriptors leaves room for.
fn room_for_clients(args: &ServeArgs, inherited: usize, descriptors: u64) -> anyhow::Result<usize> {
    let shards = args.shards as u64;
    let listeners = (args.listen.len() + inherited) as u64 * shards;
    let reactors = process::DESCRIPTORS_OF_A_REACTOR * shards;
    let metrics = args.metrics.map_or(0, |_| monitor::DESCRIPTORS);
    let ours = reactors + listeners + metrics;
    let own = process::open_descriptors() + ours + process::DESCRIPTOR_SPARE;
    match descriptors.saturating_sub(own) {
        0 => bail!(
            "the limit on descriptors, {descriptors} (RLIMIT_NOFILE), leaves no room for clients: \
             the server itself needs {own}"
        ),
        room => Ok(room as usize),
    }
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
    let ends_here = if args.targets.is_empty() { 2 } else { 1 };
    let pairs = args.source.len().max(1) * args.targets.len().max(1);
    preflight::check(args.connections, args.threads, pairs, ends_here)?;
    let (own_server, targets) = if args.targets.is_empty() {
        if let Some(source) = args.source.iter().find(|source| !source.is_ipv4()) {
            bail!("--source {source} cannot reach a server on 127.0.0.1: name a TARGET");
        }
        let server = OwnServer::start()?;
        let address = server.address();
        info!("no target was named: loading a server of this run's own on {address}");
        (Some(server), vec![address])
    } else {
        let targets = args.targets.iter();
        let targets = targets.map(|named| reachable(named, &args.source));
        (None, targets.collect::<anyhow::Result<_>>()?)
    };
    let plan = plan(&args, targets)?;
    for regrant in socket::regrants(&plan.options)? {
        warn!("{regrant}");
    }
    let mut summary = carry_out(plan, args.interval_log.as_deref())?;
    if let Some(server) = own_server {
        summary.own_server = Some(server.stop()?);
    }
    let judged = judged(summary, &args);
    print(&match args.format {
        Format::Text => report::text::render(&judged),
        Format::Json => report::json::render(&judged),
    })?;
    Ok(if judged.is_good() {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

fn plan(args: &LoadArgs, targets: Vec<SocketAddr>) -> anyhow::Result<Plan> {
    Ok(Plan {
        targets,
        sources: args.source.clone(),
        options: options(&args.mss, Some(&args.buffers), false),
        connections: args.connections,
        connect_rate: args.connect_rate,
        threads: args.threads,
        pace: pace(args),
        depth: args.depth,
        sizes: args.size.clone(),
        content: content(&args.payload)?,
        verify: true,
        seed: args.seed,
        stop: match args.messages {
            Some(messages) => Stop::Messages(messages),
            None => Stop::After(args.duration.unwrap_or(DURATION_DEFAULT)),
        },
        warmup: args.warmup,
        drain: args.drain,
        timeout: args.timeout,
        churn: args.churn.map(|messages| Churn {
            messages,
            close: match args.close {
                CloseArg::Fin => Close::Fin,
                CloseArg::Rst => Close::Rst,
            },
        }),
        spin: args.spin,
        kernel_timestamps: args.kernel_timestamps.unwrap_or(0),
        interval: args.interval,
    })
}

fn pace(args: &LoadArgs) -> Pace {
    let Some(rate) = args.rate else {
        let think = args.think.unwrap_or_default();
        return Pace::Closed { think };
    };
    Pace::Open {
        rate,
        arrivals: match args.arrivals {
            ArrivalsArg::Constant => Arrivals::Constant,
            ArrivalsArg::Poisson => Arrivals::Poisson,
        },
        pacing: match args.pacing {
            PacingArg::Global => Pacing::Global,
            PacingArg::PerConnection => Pacing::PerConnection,
        },
    }
}

/// What the messages are made of. A file is read before anything starts.
fn content(payload: &Path) -> anyhow::Result<Content> {
    match payload.to_str() {
        Some("text") => return Ok(Content::Text),
        Some("bytes") => return Ok(Content::Bytes),
        _ => {}
    }
    let name = payload.display();
    let text = fs::read(payload).with_context(|| format!("cannot read the payload {name}"))?;
    if text.is_empty() {
        bail!("the payload {name} is empty: name a file with at least one byte");
    }
    Ok(Content::Given(text.into()))
}

fn carry_out(plan: Plan, log: Option<&Path>) -> anyhow::Result<Summary> {
    let mut log = log.map(interval_log).transpose()?;
    let mut progress = Progress::new(&plan);
    let mut failure = None;
    let summary = load::run(plan, |news| match news {
        News::Glance(glance) => {
            if let Some(progress) = &mut progress {
                progress.show(&glance);
            }
        }
        News::Interval(interval) => {
            debug!("{}", report::text::interval(interval));
            if let Some(progress) = &mut progress {
                progress.note(interval);
            }
            if let Some(file) = &mut log
                && let Err(error) = file.write_all(report::json::interval(interval).as_bytes())
            {
                warn!("the interval log ends here: {error}");
                failure = Some(error);
                log = None;
            }
        }
    })?;
    match failure {
        // The result is told all the same, but whoever asked for the log must know.
        Some(error) => Ok(Summary {
            unlogged: Some(error.to_string()),
            ..summary
        }),
        None => Ok(summary),
    }
}

/// Each interval is one write: what was told stays, whatever happens to this process.
fn interval_log(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path);
    file.with_context(|| format!("cannot write the interval log {}", path.display()))
}

fn judged(summary: Summary, args: &LoadArgs) -> Judged {
    let rate = summary.rate_share();
    let demands = args.assert.iter();
    let allowed = args.allow.iter().map(|allow| match allow {
        AllowArg::ClientBound => Verdict::ClientBound,
        AllowArg::NetworkBound => Verdict::NetworkBound,
        AllowArg::ServerBound => Verdict::ServerBound,
        AllowArg::Failed => Verdict::Failed,
    });
    Judged {
        findings: verdict::judge(&summary),
        assertions: demands
            .map(|demand| demand.hold(&summary.results, rate))
            .collect(),
        allowed: allowed.collect(),
        summary,
    }
}

fn sniff(args: SniffArgs) -> anyhow::Result<Outcome> {
    let output = io::stdout();
    let color = output.is_terminal();
    let document = Document {
        format: match args.format {
            SniffFormat::Text => DocumentFormat::Text { color },
            SniffFormat::Json => DocumentFormat::Json,
            SniffFormat::Markdown => DocumentFormat::Markdown,
        },
        style: Style {
            relative: args.relative,
            width: args.width.into(),
        },
    };
    let stop = capture::Stop {
        packets: args.count,
        duration: args.duration,
        flows: args.flows,
    };
    let told = match (args.interface, args.read) {
        (Some(interface), _) => {
            let port = args.port.unwrap_or(PORT);
            let teller = Teller::new(document, args.brief, Some(port), output);
            capture::live(&interface, port, args.write, stop, teller)
        }
        (None, path) => {
            let path = path.unwrap_or_default();
            let name = path.display().to_string();
            let teller = Teller::new(document, args.brief, args.port, output);
            let stopped = stop_flag()?;
            if path.as_os_str() == "-" {
                capture::read(io::stdin(), "standard input", stop, &stopped, teller)
            } else {
                let file = File::open(&path).with_context(|| format!("cannot read {name}"))?;
                capture::read(file, &name, stop, &stopped, teller)
            }
        }
    };
    match told {
        Ok(verdict) if verdict.is_good() => Ok(Outcome::Good),
        Ok(_) => Ok(Outcome::Bad),
        // Whoever read the document has seen enough; there is nobody to tell the verdict.
        Err(error) if is_broken_pipe(&error) => Ok(Outcome::Bad),
        Err(error) => Err(error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn options(mss: &MssArg, buffers: Option<&BufferArgs>, nagle: bool) -> Options {
    Options {
        mss: mss.mss,
        recv_buffer: buffers.and_then(|buffers| buffers.recv_buffer),
        send_buffer: buffers.and_then(|buffers| buffers.send_buffer),
        nagle,
        ..Options::default()
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
