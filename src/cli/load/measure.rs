//! Carries out one run: from options to a judged result, which is recorded if the options say so.
//! Used by every command that measures.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::slice;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use log::{debug, info, warn};

use crate::address::happy_eyeballs::{self, ConnectParameters};
use crate::address::resolve::{display_ip, means_not_local};
use crate::cli::given;
use crate::cli::load::args::{DURATION_DEFAULT, LoadArgs, Place};
use crate::cli::options::{options, resolve};
use crate::cli::output::{COULD_NOT_RUN, Outcome};
use crate::cli::values::{Source, Target};
use crate::load::judge::verdict::{Judged, RunOutcome};
use crate::load::own_server::{OwnServer, Served};
use crate::load::plan::payload::Content;
use crate::load::plan::{Churn, Pace, Plan, Stop};
use crate::load::preflight::{self, Routes};
use crate::load::results::summary::Summary;
use crate::load::{self, RunProgress};
use crate::record::description::{Description, OptionValue};
use crate::record::interval_writer::{IntervalFiles, IntervalWriter, Written};
use crate::record::observer::Observer;
use crate::record::writer::Recording;
use crate::report;
use crate::report::progress::{Progress, Style};
use crate::sys::{files, socket};

/// A run that was carried out.
#[derive(Debug)]
pub(in crate::cli) struct Measured {
    /// The result and its judgement.
    pub(in crate::cli) judged: Judged,
    /// The description of the run.
    pub(in crate::cli) description: Description,
    /// The error of the built-in server, if it failed.
    pub(in crate::cli) failure: Option<anyhow::Error>,
}

impl Measured {
    /// Returns the outcome that the verdict and the assertions lead to.
    pub(in crate::cli) fn outcome(&self) -> Outcome {
        outcome(&self.judged)
    }

    /// Returns the JSON report.
    pub(in crate::cli) fn json(&self) -> String {
        json(&self.judged, &self.description, self.failure.is_some())
    }
}

/// Carries out the run that the options describe. Fails when it could not be started or carried
/// out.
pub(in crate::cli) fn measure(args: &LoadArgs) -> anyhow::Result<Measured> {
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
    let own_server = targets.is_empty().then(|| own_server(&sources, args.place));
    let own_server = own_server.transpose()?;
    targets.extend(own_server.as_ref().map(OwnServer::address));
    let plan = plan(args, targets, sources, content);
    let description = describe(args);
    let recording = args.record.as_deref();
    let recording = recording.map(|folder| Recording::begin(folder, description.clone(), &plan));
    let files = IntervalFiles::new(recording.transpose()?, log, plan.percentiles.clone());
    let outputs = Outputs::start(args, files)?;
    if args.place != Place::Later {
        give_hints(&plan, hint);
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
            let render = |judged: &Judged| json(judged, &description, is_failed);
            let judged = recorded(summary, written.recording, judge, render);
            if let (Place::Only, Some(folder)) = (args.place, &args.record)
                && judged.summary.unrecorded.is_none()
            {
                let folder = folder.display();
                info!(
                    "the run is recorded in {folder}: `upcase report {folder}` prints its report"
                );
            }
            Ok(Measured {
                judged,
                description,
                failure,
            })
        }
    }
}

/// Writes to the log what a user may want to change about a plan.
fn give_hints(plan: &Plan, hint: Option<String>) {
    match socket::option_mismatches(&plan.options) {
        Ok(option_mismatches) => option_mismatches
            .iter()
            .for_each(|mismatch| warn!("{mismatch}")),
        Err(error) => warn!("cannot check the socket options that the kernel grants: {error}"),
    }
    if let Some(hint) = hint {
        warn!("{hint}");
    }
}

/// Returns the outcome of a command whose result is that of a run.
pub(in crate::cli) fn outcome(judged: &Judged) -> Outcome {
    match judged.standing() {
        RunOutcome::Good => Outcome::Good,
        RunOutcome::Wrong => Outcome::Bad,
        RunOutcome::Inconclusive => Outcome::Inconclusive,
    }
}

/// Returns the JSON report of a run.
fn json(judged: &Judged, description: &Description, is_failed: bool) -> String {
    let code = match is_failed {
        true => COULD_NOT_RUN,
        false => outcome(judged).exit_code(),
    };
    report::json::render(judged, slice::from_ref(description), code)
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
    summary.unrecorded = recording.incomplete().map(str::to_string);
    let judged = judge(summary);
    match recording.finish(&judged.summary, &render(&judged)) {
        None => judged,
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

/// Returns the options of a run with their values, also those that depend on other options.
pub(in crate::cli) fn in_effect(args: &LoadArgs) -> BTreeMap<String, OptionValue> {
    let mut options = args.given.clone();
    let mut set = |option: &str, value: OptionValue| {
        options.insert(option.to_string(), value);
    };
    if args.messages.is_none() && args.duration.is_none() && args.profile().is_none() {
        let duration = humantime::format_duration(DURATION_DEFAULT).to_string();
        set("duration", OptionValue::One(duration));
    }
    if args.rate.is_some() {
        set("arrivals", named(args.arrivals.unwrap_or_default()));
        set("pacing", named(args.pacing.unwrap_or_default()));
    }
    if args.churn.is_some() {
        set("close", named(args.close.unwrap_or_default()));
    }
    options
}

/// Describes the run that the command line asks for.
fn describe(args: &LoadArgs) -> Description {
    description(args, in_effect(args))
}

/// Describes what the command line asks for, with these options.
pub(super) fn description(args: &LoadArgs, options: BTreeMap<String, OptionValue>) -> Description {
    let labels = args.label.iter();
    let labels = labels.map(|label| (label.key.clone(), label.value.clone()));
    // The program is named as it is installed, not as it was found.
    let program = [OsString::from(env!("CARGO_PKG_NAME"))].into_iter();
    let command = given::quoted(program.chain(env::args_os().skip(1)));
    Description::new(command, options, args.note.clone(), labels.collect())
}

fn own_server(sources: &[SocketAddr], place: Place) -> anyhow::Result<OwnServer> {
    if let Some(source) = sources.iter().find(|source| !source.is_ipv4()) {
        let source = display_ip(*source);
        bail!("--source {source} cannot reach a server on 127.0.0.1: name a TARGET");
    }
    let server = OwnServer::start()?;
    if place != Place::Later {
        let address = server.address();
        info!("no target was given: testing a built-in server on {address}");
    }
    Ok(server)
}

fn plan(
    args: &LoadArgs,
    targets: Vec<SocketAddr>,
    sources: Vec<SocketAddr>,
    content: Content,
) -> Plan {
    let mut plan = Plan {
        targets,
        sources,
        options: options(&args.mss, &args.buffers),
        connections: args.connections,
        connect_rate: args.connect_rate,
        threads: args.threads,
        pace: Pace::Closed {
            think: args.think.unwrap_or_default(),
        },
        profile: None,
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
    };
    if let Some(rate) = args.rate.clone() {
        let (arrivals, pacing) = (args.arrivals, args.pacing);
        plan.set_rate(
            rate,
            arrivals.unwrap_or_default(),
            pacing.unwrap_or_default(),
        );
    }
    plan
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
pub(in crate::cli) fn sources(typed: &[Source]) -> anyhow::Result<Vec<SocketAddr>> {
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
pub(in crate::cli) fn reachable(
    target: &Target,
    sources: &[SocketAddr],
) -> anyhow::Result<SocketAddr> {
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
