//! `upcase load`: its options, the run that they describe, and its report.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, slice};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use log::{debug, info, warn};

use crate::address::happy_eyeballs::{self, ConnectParameters};
use crate::address::resolve::{display_ip, means_not_local};
use crate::cli::given;
use crate::cli::numbers::{duration, integer, positive_duration};
use crate::cli::options::{BufferArgs, MssArg, options, resolve};
use crate::cli::output::{COULD_NOT_RUN, Outcome, print};
use crate::cli::values::{
    Label, Percentiles, Source, Target, interval, label, message_sizes, percentiles, rate, source,
    target,
};
use crate::echo::Expect;
use crate::load::judge::assertion::Condition;
use crate::load::judge::verdict::{Judged, RunOutcome, Verdict};
use crate::load::own_server::{OwnServer, Served};
use crate::load::plan::payload::Content;
use crate::load::plan::schedule::{Arrivals, Rate};
use crate::load::plan::sizes::Sizes;
use crate::load::plan::{Churn, Close, Pace, Pacing, Plan, Stop};
use crate::load::preflight::{self, Routes};
use crate::load::results::summary::Summary;
use crate::load::{self, RunProgress};
use crate::record::description::{Description, OptionValue};
use crate::record::interval_writer::{IntervalFiles, IntervalWriter, Written};
use crate::record::observer::{MetricsUrl, Observer};
use crate::record::writer::{self, Recording};
use crate::report;
use crate::report::progress::{Progress, Style};
use crate::sys::{files, socket, terminal};

/// The default of `--duration`.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Servers to test, used in turn: HOST, HOST:PORT, [IPv6]:PORT or [fe80::1%eth0]:PORT; port
    /// 12000 if none is given [default: a built-in server, in this process]
    #[arg(value_name = "TARGET", value_parser = target)]
    targets: Vec<Target>,
    /// Number of concurrent connections; all are established before the first message
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = integer::<u32>(1, 10_000_000))]
    connections: u32,
    /// Messages per second over all connections, such as 5000 or 333.3, on a schedule that does not
    /// wait for the server [default: closed loop, the next message when a reply is complete]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<Rate>,
    /// Distribution of the gaps between scheduled messages; needs --rate [default: constant]
    #[arg(long, value_enum)]
    arrivals: Option<Arrivals>,
    /// How a scheduled message is assigned to a connection; needs --rate [default: global]
    #[arg(long, value_enum)]
    pacing: Option<Pacing>,
    /// In a closed loop, the time between a reply and the next message
    #[arg(long, value_name = "TIME", value_parser = positive_duration, conflicts_with = "rate")]
    think: Option<Duration>,
    /// Do not sleep in the last 60 µs before a message is due: sends within a microsecond of its
    /// time, and uses a whole CPU from about 15,000 messages/s on; needs --rate
    #[arg(long)]
    spin: bool,
    /// Bytes of a message: one size such as 64 or 16KiB (1 to 1GiB), a range such as 64..1500, or
    /// shares such as 64:90%,16KiB:10%
    #[arg(long, value_name = "SIZE", value_parser = message_sizes, default_value = "64")]
    size: Sizes,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 65_536))]
    depth: u32,
    /// Time to send for, including the warm-up [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    duration: Option<Duration>,
    /// Total number of messages, in a closed loop divided evenly among the connections; the run
    /// ends early when no reply arrives for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = integer::<u64>(1, u64::MAX))]
    messages: Option<u64>,
    /// Exclude messages that are due within this time after the start from the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s",
          conflicts_with = "messages")]
    warmup: Duration,
    /// Maximum time to wait at the end for outstanding replies; and then, but at least 5 s, for the
    /// server to close the next connection
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    drain: Duration,
    /// Age at which a message counts as timed out; it is given up then or at most a tenth of that
    /// time later (1 ms to 100 ms), and is recorded with the age that it has reached
    /// [default: none]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    timeout: Option<Duration>,
    /// Connections to open per second at the start [default: as fast as they are established]
    #[arg(long, value_name = "N", value_parser = integer::<u32>(1, u32::MAX.into()))]
    connect_rate: Option<u32>,
    /// Replace each connection with a new one after this many messages
    #[arg(long, value_name = "N", value_parser = integer::<u64>(1, u64::MAX))]
    churn: Option<u64>,
    /// How to close a connection that is replaced; needs --churn [default: fin]
    #[arg(long, value_enum)]
    close: Option<Close>,
    /// Threads that share the connections and the schedule, each with its own event loop
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 1024))]
    threads: u32,
    #[command(flatten)]
    mss: MssArg,
    #[command(flatten)]
    buffers: BufferArgs,
    /// Local addresses to connect from, used in turn; a link-local one with its interface:
    /// fe80::1%eth0
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = source)]
    source: Vec<Source>,
    /// Content of the messages: `text`, printable ASCII with a lower-case letter in every message;
    /// `bytes`, all 256 values; or a file, repeated as often as needed
    #[arg(long, value_name = "text|bytes|FILE", default_value = "text")]
    payload: PathBuf,
    /// Replies that are correct: a server that is no upcase may return messages unchanged, or with
    /// other bytes
    #[arg(long, value_enum, default_value_t)]
    expect: Expect,
    /// Seed from which the bytes, sizes and gaps are computed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = integer::<u64>(0, u64::MAX))]
    seed: u64,
    /// Split each response time of the first N connections by the kernel's send and receive
    /// timestamps (SO_TIMESTAMPING)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "8",
          value_parser = integer::<u32>(1, u32::MAX.into()))]
    kernel_timestamps: Option<u32>,
    /// Condition that the result must meet, else exit code 1; may be repeated: p99<2ms,
    /// service.p50<1ms, errors=0, rate>=0.999
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition))]
    assert: Vec<Condition>,
    /// Accept this verdict as success: exit code 0 instead of 1, or instead of 4 for client-bound
    /// and inconclusive
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    allow: Vec<Verdict>,
    /// Time between two reports of progress, in the log (-v) and in the interval log
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    interval: Duration,
    /// Write one JSON object per interval to this file, one per line, including warm-up and drain
    #[arg(long, value_name = "FILE")]
    interval_log: Option<PathBuf>,
    /// Keep the run in this directory, which must be new or empty: its description, the times as
    /// HdrHistogram logs, and a JSON object for each interval; `upcase report DIR` reads it
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Text to keep with the result: in the record and in the JSON report
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Label to keep with the result; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Label>,
    /// Fetch the metrics of the server once an interval, from its `--metrics` address such as
    /// http://10.0.0.1:9100/metrics, for the record or the interval log
    #[arg(long, value_name = "URL", value_parser = clap::value_parser!(MetricsUrl))]
    server_metrics: Option<MetricsUrl>,
    /// Percentiles to print and to judge, such as 50,90,99,99.99: numbers above 0 and below 100
    /// with up to 6 decimals, at most 16 of them
    #[arg(long, value_name = "P,...", value_parser = percentiles, default_value = "50,90,99,99.9")]
    percentiles: Percentiles,
    /// How to show the progress of the run on standard error
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The options as they were given, for the description of the run.
    #[arg(skip)]
    pub(super) given: BTreeMap<String, OptionValue>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a person
    Text,
    /// One JSON object on one line
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
                "--warmup {warmup} must be shorter than --duration {duration}"
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
                "--connections {} is fewer than the {} targets: each needs at least one",
                self.connections,
                self.targets.len()
            ));
        }
        self.progress.check()?;
        self.check_record()?;
        if self.rate.is_none() && self.assert.iter().any(Condition::is_about_rate) {
            return Err("--assert rate needs --rate: a closed loop has no schedule".to_string());
        }
        Ok(())
    }

    /// Refuses a directory for the record that contains something, and labels with the same key.
    fn check_record(&self) -> Result<(), String> {
        if let Some(folder) = self.record.as_deref().filter(|folder| folder.exists()) {
            let name = folder.display();
            match writer::is_empty(folder) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(format!(
                        "--record {name} is not empty: name a new directory"
                    ));
                }
                Err(error) => return Err(format!("--record {name} cannot be used: {error}")),
            }
        }
        if let (Some(folder), Some(log)) = (&self.record, &self.interval_log)
            && log.starts_with(folder)
        {
            return Err(format!(
                "--interval-log {} lies in the directory of --record, which must be empty",
                log.display()
            ));
        }
        let keys = self.label.iter().map(|label| &label.key);
        for (place, key) in keys.clone().enumerate() {
            if keys.clone().skip(place + 1).any(|other| other == key) {
                return Err(format!("--label {key} is given more than once"));
            }
        }
        Ok(())
    }

    /// Refuses options that have no effect without another one.
    fn check_needs(&self) -> Result<(), String> {
        let (no_rate, no_churn) = (self.rate.is_none(), self.churn.is_none());
        let schedule = "--rate, such as --rate 5000: without it there is no schedule";
        let churn = "--churn, such as --churn 10: without it no connection is replaced";
        let record = "--record DIR or --interval-log FILE: the metrics are kept nowhere else";
        let no_record = self.record.is_none() && self.interval_log.is_none();
        let needs = [
            ("--arrivals", self.arrivals.is_some() && no_rate, schedule),
            ("--pacing", self.pacing.is_some() && no_rate, schedule),
            ("--spin", self.spin && no_rate, schedule),
            ("--close", self.close.is_some() && no_churn, churn),
            (
                "--server-metrics",
                self.server_metrics.is_some() && no_record,
                record,
            ),
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
    let log = args.interval_log.as_deref().map(interval_log).transpose()?;
    let own_server = targets.is_empty().then(|| own_server(&sources));
    let own_server = own_server.transpose()?;
    targets.extend(own_server.as_ref().map(OwnServer::address));
    let plan = plan(&args, targets, sources, content);
    let description = describe(&args);
    let recording = args.record.as_deref();
    let recording = recording.map(|folder| Recording::begin(folder, description.clone(), &plan));
    let files = IntervalFiles::new(recording.transpose()?, log, plan.percentiles.clone());
    let outputs = Outputs::start(&args, files)?;
    match socket::option_mismatches(&plan.options) {
        Ok(option_mismatches) => option_mismatches
            .iter()
            .for_each(|mismatch| warn!("{mismatch}")),
        Err(error) => warn!("cannot check the socket options that the kernel grants: {error}"),
    }
    if let Some(hint) = hint {
        warn!("{hint}");
    }
    let measured = carry_out(plan, args.progress, outputs.as_ref());
    let served = match (own_server, &measured) {
        (None, _) => Served::default(),
        (Some(server), Ok(_)) => server.stop(),
        (Some(server), Err(_)) => server.stop_at_once(),
    };
    match (measured, served.failure) {
        // If the run's own server failed, that is why the run failed.
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(error),
        (Ok(mut summary), failure) => {
            let written = outputs.map(|outputs| outputs.writer.finish());
            let written: Written = written.unwrap_or_default();
            summary.own_server = served.totals;
            summary.unlogged = written.unlogged;
            summary.unrecorded = written.unrecorded;
            let judge = |summary| Judged::new(summary, &args.assert, args.allow.clone());
            let is_failed = failure.is_some();
            let render = |judged: &Judged| {
                report::json::render(
                    judged,
                    slice::from_ref(&description),
                    code(judged, is_failed),
                )
            };
            let judged = recorded(summary, written.recording, judge, render);
            print(&match args.format {
                Format::Text => report::text::render(&judged, terminal::columns(&stdout())),
                Format::Json => render(&judged),
            })?;
            failure.map_or(Ok(outcome(&judged)), Err)
        }
    }
}

/// Returns the outcome of a command whose result is that of a run.
pub(super) fn outcome(judged: &Judged) -> Outcome {
    match judged.standing() {
        RunOutcome::Good => Outcome::Good,
        RunOutcome::Wrong => Outcome::Bad,
        RunOutcome::Inconclusive => Outcome::Inconclusive,
    }
}

/// Returns the exit code after a run.
fn code(judged: &Judged, is_failed: bool) -> u8 {
    match is_failed {
        true => COULD_NOT_RUN,
        false => outcome(judged).exit_code(),
    }
}

/// Completes the record of a run, if there is one, and judges the run.
fn recorded(
    mut summary: Summary,
    recording: Option<Recording>,
    judge: impl Fn(Summary) -> Judged,
    render: impl Fn(&Judged) -> String,
) -> Judged {
    let Some(recording) = recording else {
        return judge(summary);
    };
    let folder = recording.folder().display().to_string();
    summary.unrecorded = recording.incomplete().map(str::to_string);
    let judged = judge(summary);
    match recording.finish(&judged.summary, &render(&judged)) {
        None => {
            info!("the run is recorded in {folder}: `upcase report {folder}` prints its report");
            judged
        }
        // Only now is it known that the record lacks the result.
        Some(lacks) if judged.summary.unrecorded.is_none() => judge(Summary {
            unrecorded: Some(lacks),
            ..judged.summary
        }),
        Some(_) => judged,
    }
}

/// Returns the value of an option as it would be typed.
fn named(value: impl ValueEnum) -> OptionValue {
    let name = value.to_possible_value();
    OptionValue::One(name.map_or(String::new(), |name| name.get_name().to_string()))
}

/// Describes the run that the command line asks for, with the defaults that depend on other
/// options.
fn describe(args: &LoadArgs) -> Description {
    let mut options = args.given.clone();
    let mut set = |option: &str, value: OptionValue| {
        options.insert(option.to_string(), value);
    };
    if args.messages.is_none() && args.duration.is_none() {
        let duration = humantime::format_duration(DURATION_DEFAULT).to_string();
        set("duration", OptionValue::One(duration));
    }
    if let Pace::Open {
        arrivals, pacing, ..
    } = pace(args)
    {
        set("arrivals", named(arrivals));
        set("pacing", named(pacing));
    }
    if args.churn.is_some() {
        set("close", named(args.close.unwrap_or_default()));
    }
    let labels = args.label.iter();
    let labels = labels.map(|label| (label.key.clone(), label.value.clone()));
    // The program is named as it is installed, not as it was found.
    let program = [OsString::from(env!("CARGO_PKG_NAME"))].into_iter();
    let command = given::quoted(program.chain(env::args_os().skip(1)));
    Description::new(command, options, args.note.clone(), labels.collect())
}

fn own_server(sources: &[SocketAddr]) -> anyhow::Result<OwnServer> {
    if let Some(source) = sources.iter().find(|source| !source.is_ipv4()) {
        let source = display_ip(*source);
        bail!("--source {source} cannot reach a server on 127.0.0.1: name a TARGET");
    }
    let server = OwnServer::start()?;
    let address = server.address();
    info!("no target was given: testing a built-in server on {address}");
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
        options: options(&args.mss, &args.buffers),
        connections: args.connections,
        connect_rate: args.connect_rate,
        threads: args.threads,
        pace: pace(args),
        depth: args.depth,
        sizes: args.size.clone(),
        content,
        expect: args.expect,
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
            close: args.close.unwrap_or_default(),
        }),
        spin: args.spin,
        kernel_timestamps: args.kernel_timestamps.unwrap_or(0),
        interval: args.interval,
        percentiles: args.percentiles.0.clone(),
        record: args.record.is_some(),
    }
}

fn pace(args: &LoadArgs) -> Pace {
    let Some(rate) = args.rate else {
        let think = args.think.unwrap_or_default();
        return Pace::Closed { think };
    };
    Pace::Open {
        rate,
        arrivals: args.arrivals.unwrap_or_default(),
        pacing: args.pacing.unwrap_or_default(),
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
        bail!("the payload {name} is too large: at most 64MiB");
    }
    if text.is_empty() {
        bail!("the payload {name} is empty: use a file with at least one byte");
    }
    Ok(Content::Given(text.into()))
}

/// What writes the intervals of a run to files, and observes what surrounds them.
struct Outputs {
    observer: Observer,
    writer: IntervalWriter,
}

impl Outputs {
    /// Starts both threads; `None` when no file is to have the intervals.
    fn start(args: &LoadArgs, files: IntervalFiles) -> anyhow::Result<Option<Outputs>> {
        if !files.any() {
            return Ok(None);
        }
        Ok(Some(Outputs {
            observer: Observer::start(args.server_metrics.clone(), args.interval)?,
            writer: IntervalWriter::start(files)?,
        }))
    }
}

fn carry_out(plan: Plan, style: Style, outputs: Option<&Outputs>) -> anyhow::Result<Summary> {
    let mut progress = Progress::new(&plan, style);
    let summary = load::run(plan, |event| match event {
        RunProgress::Started(start) => {
            if let Some(outputs) = outputs {
                outputs.writer.started(start);
            }
        }
        RunProgress::Snapshot(snapshot) => progress.show(&snapshot),
        RunProgress::Interval(interval) => {
            debug!("{}", report::text::interval(interval));
            if let Some(Outputs { observer, writer }) = outputs {
                writer.write(interval, observer.observe());
            }
            progress.note(interval);
        }
    })?;
    if let Some(probe) = &summary.evidence.probe {
        debug!("{}", report::text::probe(probe, &summary.plan.percentiles));
    }
    Ok(summary)
}

/// Opens the interval log. Each interval is one write(2), so that it is kept if this process dies.
fn interval_log(path: &Path) -> anyhow::Result<File> {
    let file = files::create(path);
    file.with_context(|| format!("cannot write the interval log {}", path.display()))
}

/// Returns the local addresses, after checking that this host has each of them.
fn sources(typed: &[Source]) -> anyhow::Result<Vec<SocketAddr>> {
    let checked = |source: &Source| {
        let address = source
            .address()
            .with_context(|| format!("cannot use --source {source}"))?;
        match socket::check_source(address) {
            Ok(()) => Ok(address),
            Err(error) if means_not_local(&error) => bail!(
                "--source {source} is not an address of this host: `ip address` lists its addresses"
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
        [] => bail!("{target} has no address of the same family as every --source"),
        [only] => Ok(only),
        [..] => {
            let terms = ConnectParameters {
                source: sources.first().copied(),
                options: &socket::Options::default(),
                timeout: PROBE_TIME,
            };
            match happy_eyeballs::connect(&addresses, &terms) {
                Ok((_, address)) => Ok(address),
                Err(failures) => bail!(
                    "cannot connect to {target}: {}",
                    happy_eyeballs::reasons(&failures, PROBE_TIME)
                ),
            }
        }
    }
}
