//! `upcase load`: its options, the run that they describe, and its report.

use std::fs::File;
use std::io::{Read, Write, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use log::{debug, info, warn};

use crate::cli::numbers::{duration, integer, positive_duration};
use crate::cli::options::{BufferArgs, MssArg, options, resolve};
use crate::cli::output::{COULD_NOT_RUN, Outcome, print};
use crate::cli::values::{Source, Target, interval, message_sizes, rate, source, target};
use crate::load::assertion::Demand;
use crate::load::own::{OwnServer, Served};
use crate::load::payload::Content;
use crate::load::plan::{Churn, Close, Pace, Pacing, Plan, Stop};
use crate::load::preflight::{self, Routes};
use crate::load::schedule::{Arrivals, Rate};
use crate::load::sizes::Sizes;
use crate::load::summary::Summary;
use crate::load::verdict::{Judged, Standing, Verdict};
use crate::load::{self, News};
use crate::progress::{Connecting, Progress};
use crate::race::{self, Terms};
use crate::resolve::{is_foreign, shown_ip};
use crate::{files, report, socket, terminal};

/// The default of `--duration`.
pub(super) const DURATION_DEFAULT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The servers, used in turn: HOST, HOST:PORT, [IPv6]:PORT or [fe80::1%eth0]:PORT; port 12000
    /// if none is given [default: a server of its own, in this process]
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(super) targets: Vec<Target>,
    /// Connections at a time; all are up before the first message
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = integer::<u32>(1, 10_000_000))]
    pub(super) connections: u32,
    /// Messages a second over all connections, such as 5000 or 333.3, by a schedule that does not
    /// wait for the server [default: closed loop, the next message when a reply is complete]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(super) rate: Option<Rate>,
    /// How the gaps between scheduled messages are spread; needs --rate [default: constant]
    #[arg(long, value_enum)]
    pub(super) arrivals: Option<ArrivalsArg>,
    /// Which connection a scheduled message goes to: `global`, the one that has been free the
    /// longest, of each target in turn; `first-free`, of all targets, so that the faster ones get
    /// more; or `per-connection`, each has a line of its own; needs --rate [default: global]
    #[arg(long, value_enum)]
    pub(super) pacing: Option<PacingArg>,
    /// In a closed loop, the time between a reply and the next message
    #[arg(long, value_name = "TIME", value_parser = positive_duration, conflicts_with = "rate")]
    pub(super) think: Option<Duration>,
    /// Do not sleep in the last 60 µs before a message is due: sends within a microsecond, and
    /// takes a whole CPU from some 15,000 messages/s on; needs --rate
    #[arg(long)]
    pub(super) spin: bool,
    /// Bytes of a message: one size such as 64 or 16KiB (1 to 1GiB), a range such as 64..1500, or
    /// shares such as 64:90%,16KiB:10%
    #[arg(long, value_name = "SIZE", value_parser = message_sizes, default_value = "64")]
    pub(super) size: Sizes,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 65_536))]
    pub(super) depth: u32,
    /// How long to send, the warm-up included [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) duration: Option<Duration>,
    /// How many messages to send in all, in a closed loop dealt evenly to the connections; given up
    /// when no reply comes for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = integer::<u64>(1, u64::MAX))]
    pub(super) messages: Option<u64>,
    /// Messages due so soon after the start are not part of the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s",
          conflicts_with = "messages")]
    pub(super) warmup: Duration,
    /// How long to wait at the end for what is outstanding; and then for a close of the server when
    /// none comes, at least 5 s
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(super) drain: Duration,
    /// The age at which a message counts as timed out; it is given up then or at most a tenth of
    /// that time later (1 ms to 100 ms), and counts at the age that it has reached [default: none]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(super) timeout: Option<Duration>,
    /// Connections to open a second at the start [default: as fast as they come up]
    #[arg(long, value_name = "N", value_parser = integer::<u32>(1, u32::MAX.into()))]
    pub(super) connect_rate: Option<u32>,
    /// Replace a connection by a new one after so many messages
    #[arg(long, value_name = "N", value_parser = integer::<u64>(1, u64::MAX))]
    pub(super) churn: Option<u64>,
    /// How a connection is ended that is replaced: in order, which leaves its port in TIME_WAIT, or
    /// by a reset; needs --churn [default: fin]
    #[arg(long, value_enum)]
    pub(super) close: Option<CloseArg>,
    /// Threads that share the connections and the schedule, each with a reactor of its own
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 1024))]
    pub(super) threads: u32,
    #[command(flatten)]
    pub(super) mss: MssArg,
    #[command(flatten)]
    pub(super) buffers: BufferArgs,
    /// Local addresses, used in turn; a link-local one with its interface: fe80::1%eth0
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = source)]
    pub(super) source: Vec<Source>,
    /// What the messages are made of: `text`, printable ASCII with a lower-case letter in every
    /// message; `bytes`, all 256 values; or a file, read round and round
    #[arg(long, value_name = "text|bytes|FILE", default_value = "text")]
    pub(super) payload: PathBuf,
    /// What bytes, sizes and gaps are computed from
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = integer::<u64>(0, u64::MAX))]
    pub(super) seed: u64,
    /// Of the first N connections, split each response by the kernel's own times of sending and
    /// receiving (SO_TIMESTAMPING)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "8",
          value_parser = integer::<u32>(1, u32::MAX.into()))]
    pub(super) kernel_timestamps: Option<u32>,
    /// Demand of the result, else exit code 1; may be repeated: p99<2ms, service.p50<1ms,
    /// errors=0, rate>=0.999
    #[arg(long, value_name = "DEMAND", value_parser = clap::value_parser!(Demand))]
    pub(super) assert: Vec<Demand>,
    /// Take this verdict for good as well: exit code 0 in place of 1, or of 4 for client-bound and
    /// inconclusive
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    pub(super) allow: Vec<AllowArg>,
    /// How often to report progress, in the log (-v) and in the interval log
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(super) interval: Duration,
    /// Write an object for every interval to this file, one a line, warm-up and drain included
    #[arg(long, value_name = "FILE")]
    pub(super) interval_log: Option<PathBuf>,
    /// How to print the report: a page for a person, or one object on one line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ArrivalsArg {
    Constant,
    Poisson,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PacingArg {
    Global,
    FirstFree,
    PerConnection,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CloseArg {
    Fin,
    Rst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum AllowArg {
    ClientBound,
    NetworkBound,
    ServerBound,
    Inconclusive,
    Failed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

impl LoadArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        let duration = self.duration.unwrap_or(DURATION_DEFAULT);
        if self.messages.is_none() && self.warmup >= duration {
            let (warmup, duration) = (
                humantime::format_duration(self.warmup),
                humantime::format_duration(duration),
            );
            return Err(format!(
                "--warmup {warmup} leaves nothing of --duration {duration}"
            ));
        }
        self.check_needs()?;
        if self.threads > self.connections {
            return Err(format!(
                "--threads {} is more than --connections {}",
                self.threads, self.connections
            ));
        }
        if self.targets.len() > self.connections as usize {
            return Err(format!(
                "--connections {} is fewer than the {} targets: some would have none",
                self.connections,
                self.targets.len()
            ));
        }
        if self.rate.is_none() && self.assert.iter().any(Demand::is_about_rate) {
            return Err("--assert rate needs --rate: a closed loop asks for none".to_string());
        }
        Ok(())
    }

    /// Refuses options that have no effect without another one.
    fn check_needs(&self) -> Result<(), String> {
        let (no_rate, no_churn) = (self.rate.is_none(), self.churn.is_none());
        let schedule = "--rate: without a rate there is no schedule, such as --rate 5000";
        let churn = "--churn: without it no connection is replaced, such as --churn 10";
        let needs = [
            ("--arrivals", self.arrivals.is_some() && no_rate, schedule),
            ("--pacing", self.pacing.is_some() && no_rate, schedule),
            ("--spin", self.spin && no_rate, schedule),
            ("--close", self.close.is_some() && no_churn, churn),
        ];
        match needs.iter().find(|(_, is_alone, _)| *is_alone) {
            Some((option, _, needed)) => Err(format!("{option} needs {needed}")),
            None => Ok(()),
        }
    }
}

pub(super) fn run(args: LoadArgs) -> anyhow::Result<Outcome> {
    socket::check_kernel()?;
    // Everything that the command line names is checked before anything is started.
    let content = content(&args.payload)?;
    let ends_here = if args.targets.is_empty() { 2 } else { 1 };
    let routes = Routes {
        targets: args.targets.len().max(1),
        sources: args.source.len().max(1),
    };
    let hint = preflight::check(args.connections, args.threads, routes, ends_here)?;
    let sources = sources(&args.source)?;
    let targets = args.targets.iter();
    let targets = targets.map(|named| reachable(named, &sources));
    let mut targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
    let mut log = match args.interval_log.as_deref() {
        Some(path) => Some(interval_log(path)?),
        None => None,
    };
    let own_server = match targets.is_empty() {
        true => Some(own_server(&sources)?),
        false => None,
    };
    targets.extend(own_server.as_ref().map(OwnServer::address));
    let plan = plan(&args, targets, sources, content);
    match socket::regrants(&plan.options) {
        Ok(regrants) => regrants.iter().for_each(|regrant| warn!("{regrant}")),
        Err(error) => warn!("what the kernel grants of the socket options is not known: {error}"),
    }
    if let Some(hint) = hint {
        warn!("{hint}");
    }
    let measured = carry_out(plan, &mut log);
    let served = match (own_server, &measured) {
        (None, _) => Served::default(),
        (Some(server), Ok(_)) => server.stop(),
        (Some(server), Err(_)) => server.break_off(),
    };
    match (measured, served.failure) {
        // If the run's own server failed, that is why the run failed.
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(error),
        (Ok(mut summary), failure) => {
            summary.own_server = served.totals;
            report(judged(summary, &args), args.format, failure)
        }
    }
}

/// Prints the report of a run, and returns the outcome or the failure of the run's own server.
fn report(
    judged: Judged,
    format: Format,
    failure: Option<anyhow::Error>,
) -> anyhow::Result<Outcome> {
    let outcome = match judged.standing() {
        Standing::Good => Outcome::Good,
        Standing::Wrong => Outcome::Bad,
        Standing::Inconclusive => Outcome::Inconclusive,
    };
    let code = match failure {
        Some(_) => COULD_NOT_RUN,
        None => outcome.exit_code(),
    };
    print(&match format {
        Format::Text => report::text::render(&judged, terminal::columns(&stdout())),
        Format::Json => report::json::render(&judged, code),
    })?;
    failure.map_or(Ok(outcome), Err)
}

fn own_server(sources: &[SocketAddr]) -> anyhow::Result<OwnServer> {
    if let Some(source) = sources.iter().find(|source| !source.is_ipv4()) {
        let source = shown_ip(*source);
        bail!("--source {source} cannot reach a server on 127.0.0.1: name a TARGET");
    }
    let server = OwnServer::start()?;
    let address = server.address();
    info!("no target was named: loading a server of this run's own on {address}");
    Ok(server)
}

fn plan(
    args: &LoadArgs,
    targets: Vec<SocketAddr>,
    sources: Vec<SocketAddr>,
    content: Content,
) -> Plan {
    Plan {
        targets,
        sources,
        options: options(&args.mss, Some(&args.buffers), false),
        connections: args.connections,
        connect_rate: args.connect_rate,
        threads: args.threads,
        pace: pace(args),
        depth: args.depth,
        sizes: args.size.clone(),
        content,
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
                Some(CloseArg::Rst) => Close::Rst,
                Some(CloseArg::Fin) | None => Close::Fin,
            },
        }),
        spin: args.spin,
        kernel_timestamps: args.kernel_timestamps.unwrap_or(0),
        interval: args.interval,
    }
}

fn pace(args: &LoadArgs) -> Pace {
    let Some(rate) = args.rate else {
        let think = args.think.unwrap_or_default();
        return Pace::Closed { think };
    };
    Pace::Open {
        rate,
        arrivals: match args.arrivals {
            Some(ArrivalsArg::Poisson) => Arrivals::Poisson,
            Some(ArrivalsArg::Constant) | None => Arrivals::Constant,
        },
        pacing: match args.pacing {
            Some(PacingArg::PerConnection) => Pacing::PerConnection,
            Some(PacingArg::FirstFree) => Pacing::FirstFree,
            Some(PacingArg::Global) | None => Pacing::Global,
        },
    }
}

/// Maximum size of a payload file in bytes. It is held in memory twice: as it is and in upper case.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// Returns the content of the messages. A file is read before anything starts.
fn content(payload: &Path) -> anyhow::Result<Content> {
    match payload.to_str() {
        Some("text") => return Ok(Content::Text),
        Some("bytes") => return Ok(Content::Bytes),
        _ => {}
    }
    let name = payload.display();
    let cannot = || format!("cannot read the payload {name}");
    let mut text = Vec::new();
    let file = File::open(payload).with_context(cannot)?;
    file.take(PAYLOAD_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .with_context(cannot)?;
    if text.len() as u64 > PAYLOAD_BYTES_MAX {
        bail!("the payload {name} is too long: at most 64MiB are read round and round");
    }
    if text.is_empty() {
        bail!("the payload {name} is empty: name a file with at least one byte");
    }
    Ok(Content::Given(text.into()))
}

fn carry_out(plan: Plan, log: &mut Option<File>) -> anyhow::Result<Summary> {
    let mut progress = Progress::new(&plan);
    let mut connecting = Connecting::new(&plan);
    let mut failure = None;
    let summary = load::run(plan, |news| match news {
        News::Glance(glance) => match &mut progress {
            Some(progress) => progress.show(&glance),
            None => connecting.note(&glance),
        },
        News::Interval(interval) => {
            debug!("{}", report::text::interval(interval));
            if let Some(progress) = &mut progress {
                progress.note(interval);
            }
            if let Some(file) = log
                && let Err(error) = file.write_all(report::json::interval(interval).as_bytes())
            {
                warn!("the interval log ends here: {error}");
                failure = Some(error);
                *log = None;
            }
        }
    })?;
    if let Some(probe) = &summary.evidence.probe {
        debug!("{}", report::text::probe(probe));
    }
    match failure {
        // The result is still reported, and so is the fact that the log is incomplete.
        Some(error) => Ok(Summary {
            unlogged: Some(error.to_string()),
            ..summary
        }),
        None => Ok(summary),
    }
}

/// Opens the interval log. Each interval is one write(2), so that it is kept if this process dies.
fn interval_log(path: &Path) -> anyhow::Result<File> {
    let file = files::create(path);
    file.with_context(|| format!("cannot write the interval log {}", path.display()))
}

fn judged(summary: Summary, args: &LoadArgs) -> Judged {
    let allowed = args.allow.iter().map(|allow| match allow {
        AllowArg::ClientBound => Verdict::ClientBound,
        AllowArg::NetworkBound => Verdict::NetworkBound,
        AllowArg::ServerBound => Verdict::ServerBound,
        AllowArg::Inconclusive => Verdict::Inconclusive,
        AllowArg::Failed => Verdict::Failed,
    });
    Judged::new(summary, &args.assert, allowed.collect())
}

/// Returns the local addresses, after checking that this host has each of them.
fn sources(typed: &[Source]) -> anyhow::Result<Vec<SocketAddr>> {
    let checked = |source: &Source| {
        let address = source
            .address()
            .with_context(|| format!("cannot use --source {source}"))?;
        match socket::check_source(address) {
            Ok(()) => Ok(address),
            Err(error) if is_foreign(&error) => bail!(
                "--source {source} is no address of this host: `ip address` lists those it has"
            ),
            Err(error) => Err(error).with_context(|| format!("cannot use --source {source}")),
        }
    };
    typed.iter().map(checked).collect()
}

/// Returns the address of a target that all connections use. It is of the sources' family; of
/// several addresses it is the one that answers first. If none does, the error lists each address
/// with the reason.
fn reachable(target: &Target, sources: &[SocketAddr]) -> anyhow::Result<SocketAddr> {
    const PROBE_TIME: Duration = Duration::from_secs(3);
    let mut addresses = resolve(target)?;
    addresses.retain(|address| sources.iter().all(|ip| ip.is_ipv4() == address.is_ipv4()));
    match addresses[..] {
        [] => bail!("{target} has no address of the family of every --source"),
        [only] => Ok(only),
        [..] => {
            let terms = Terms {
                source: sources.first().copied(),
                options: &socket::Options::default(),
                timeout: PROBE_TIME,
            };
            match race::connect(&addresses, &terms) {
                Ok((_, address)) => Ok(address),
                Err(failures) => bail!(
                    "cannot connect to {target}: {}",
                    race::reasons(&failures, PROBE_TIME)
                ),
            }
        }
    }
}
