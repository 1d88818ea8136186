//! The options of a run, which several commands share, and what they must satisfy together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::numbers::{duration, integer, positive_duration};
use crate::cli::options::{BufferArgs, MssArg};
use crate::cli::values::{
    Label, Percentiles, Source, Target, interval, label, message_sizes, percentiles, rates, source,
    target,
};
use crate::echo::Expect;
use crate::load::judge::assertion::Condition;
use crate::load::judge::verdict::Verdict;
use crate::load::plan::profile::Profile;
use crate::load::plan::schedule::{Arrivals, RateOverTime};
use crate::load::plan::sizes::Sizes;
use crate::load::plan::{Close, Pacing};
use crate::record::description::OptionValue;
use crate::record::observer::MetricsUrl;
use crate::record::writer;
use crate::report::progress::Style;

/// The default of `--duration`.
pub(super) const DURATION_DEFAULT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct LoadArgs {
    /// Servers to test, used in turn: HOST, HOST:PORT, [IPv6]:PORT or [fe80::1%eth0]:PORT; port
    /// 12000 if none is given [default: a built-in server, in this process]
    #[arg(value_name = "TARGET", value_parser = target)]
    pub(in crate::cli) targets: Vec<Target>,
    /// Number of concurrent connections; all are established before the first message
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = integer::<u32>(1, 10_000_000))]
    pub(in crate::cli) connections: u32,
    /// Messages per second over all connections, such as 5000 or 333.3, on a schedule that does not
    /// wait for the server; or a profile of stages, constant rates and ramps with their times:
    /// 1000:10s,1000..5000:60s [default: closed loop, the next message when a reply is complete]
    #[arg(long, value_name = "RATE", value_parser = rates)]
    pub(in crate::cli) rate: Option<RateOverTime>,
    /// Distribution of the gaps between scheduled messages; needs --rate [default: constant]
    #[arg(long, value_enum)]
    pub(in crate::cli) arrivals: Option<Arrivals>,
    /// How a scheduled message is assigned to a connection; needs --rate [default: global]
    #[arg(long, value_enum)]
    pub(in crate::cli) pacing: Option<Pacing>,
    /// In a closed loop, the time between a reply and the next message
    #[arg(long, value_name = "TIME", value_parser = positive_duration, conflicts_with = "rate")]
    pub(in crate::cli) think: Option<Duration>,
    /// Do not sleep in the last 60 µs before a message is due: sends within a microsecond of its
    /// time, and uses a whole CPU from about 15,000 messages/s on; needs --rate
    #[arg(long)]
    pub(in crate::cli) spin: bool,
    /// Bytes of a message: one size such as 64 or 16KiB (1 to 1GiB), a range such as 64..1500, or
    /// shares such as 64:90%,16KiB:10%
    #[arg(long, value_name = "SIZE", value_parser = message_sizes, default_value = "64")]
    pub(in crate::cli) size: Sizes,
    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 65_536))]
    pub(in crate::cli) depth: u32,
    /// Time to send for, including the warm-up [default: 10s, or 5s with --sweep]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(in crate::cli) duration: Option<Duration>,
    /// Total number of messages, in a closed loop divided evenly among the connections; the run
    /// ends early when no reply arrives for 10 s
    #[arg(long, value_name = "N", conflicts_with = "duration",
          value_parser = integer::<u64>(1, u64::MAX))]
    pub(in crate::cli) messages: Option<u64>,
    /// Exclude messages that are due within this time after the start from the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s",
          conflicts_with = "messages")]
    pub(in crate::cli) warmup: Duration,
    /// Maximum time to wait at the end for outstanding replies; and then, but at least 5 s, for the
    /// server to close the next connection
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(in crate::cli) drain: Duration,
    /// Age at which a message counts as timed out; it is given up then or at most a tenth of that
    /// time later (1 ms to 100 ms), and is recorded with the age that it has reached
    /// [default: none]
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
    /// Connections to open per second at the start [default: as fast as they are established]
    #[arg(long, value_name = "N", value_parser = integer::<u32>(1, u32::MAX.into()))]
    pub(in crate::cli) connect_rate: Option<u32>,
    /// Replace each connection with a new one after this many messages
    #[arg(long, value_name = "N", value_parser = integer::<u64>(1, u64::MAX))]
    pub(in crate::cli) churn: Option<u64>,
    /// How to close a connection that is replaced; needs --churn [default: fin]
    #[arg(long, value_enum)]
    pub(in crate::cli) close: Option<Close>,
    /// Threads that share the connections and the schedule, each with its own event loop
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = integer::<u32>(1, 1024))]
    pub(in crate::cli) threads: u32,
    #[command(flatten)]
    pub(in crate::cli) mss: MssArg,
    #[command(flatten)]
    pub(in crate::cli) buffers: BufferArgs,
    /// Local addresses to connect from, used in turn; a link-local one with its interface:
    /// fe80::1%eth0
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = source)]
    pub(in crate::cli) source: Vec<Source>,
    /// Content of the messages: `text`, printable ASCII with a lower-case letter in every message;
    /// `bytes`, all 256 values; or a file, repeated as often as needed
    #[arg(long, value_name = "text|bytes|FILE", default_value = "text")]
    pub(in crate::cli) payload: PathBuf,
    /// Replies that are correct: a server that is no upcase may return messages unchanged, or with
    /// other bytes
    #[arg(long, value_enum, default_value_t)]
    pub(in crate::cli) expect: Expect,
    /// Seed from which the bytes, sizes and gaps are computed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = integer::<u64>(0, u64::MAX))]
    pub(in crate::cli) seed: u64,
    /// Split each response time of the first N connections by the kernel's send and receive
    /// timestamps (SO_TIMESTAMPING)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "8",
          value_parser = integer::<u32>(1, u32::MAX.into()))]
    pub(in crate::cli) kernel_timestamps: Option<u32>,
    /// Condition that the result must meet, else exit code 1; may be repeated: p99<2ms,
    /// service.p50<1ms, errors=0, rate>=0.999; of a stage of the profile: stage[2].p99<2ms
    #[arg(long, value_name = "CONDITION", value_parser = clap::value_parser!(Condition))]
    pub(in crate::cli) assert: Vec<Condition>,
    /// Accept this verdict as success: exit code 0 instead of 1, or instead of 4 for client-bound
    /// and inconclusive
    #[arg(long, value_name = "VERDICT,...", value_enum, value_delimiter = ',')]
    pub(in crate::cli) allow: Vec<Verdict>,
    /// Time between two reports of progress, in the log (-v) and in the interval log
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(in crate::cli) interval: Duration,
    /// Write one JSON object per interval to this file, one per line, including warm-up and drain
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) interval_log: Option<PathBuf>,
    /// Keep the run in this directory, which must be new or empty: its description, the times as
    /// HdrHistogram logs, and a JSON object for each interval; `upcase report DIR` reads it
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) record: Option<PathBuf>,
    /// Text to keep with the result: in the record and in the JSON report
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) note: Option<String>,
    /// Label to keep with the result; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(in crate::cli) label: Vec<Label>,
    /// Fetch the metrics of the server once an interval, from its `--metrics` address such as
    /// http://10.0.0.1:9100/metrics, for the record or the interval log
    #[arg(long, value_name = "URL", value_parser = clap::value_parser!(MetricsUrl))]
    pub(in crate::cli) server_metrics: Option<MetricsUrl>,
    /// Percentiles to print and to judge, such as 50,90,99,99.99: numbers above 0 and below 100
    /// with up to 6 decimals, at most 16 of them
    #[arg(long, value_name = "P,...", value_parser = percentiles, default_value = "50,90,99,99.9")]
    pub(in crate::cli) percentiles: Percentiles,
    /// How to show the progress of the run on standard error
    #[arg(long, value_enum, default_value_t)]
    pub(in crate::cli) progress: Style,
    /// The options as they were given, for the description of the run.
    #[arg(skip)]
    pub(in crate::cli) given: BTreeMap<String, OptionValue>,
    /// The run's place among the runs of its command.
    #[arg(skip)]
    pub(in crate::cli) place: Place,
}

/// The place of a run among the runs of one command, which decides what the run writes to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// The only run: hints about its options, and where its record is.
    #[default]
    Only,
    /// The first of several: hints only.
    First,
    /// A later one of several, to which the same hints apply: neither.
    Later,
}

impl LoadArgs {
    pub(in crate::cli) fn check(&self) -> Result<(), String> {
        self.check_length()?;
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
        let mut about_stages = self.assert.iter();
        about_stages.try_for_each(|condition| condition.check_stage(self.profile()))?;
        if self.rate.is_none() && self.assert.iter().any(Condition::is_about_rate) {
            return Err("--assert rate needs --rate: a closed loop has no schedule".to_string());
        }
        Ok(())
    }

    /// Returns `--duration`, or its default.
    pub(in crate::cli) fn duration(&self) -> Duration {
        self.duration.unwrap_or(DURATION_DEFAULT)
    }

    /// Returns the profile of the rates, if there is one.
    pub(in crate::cli) fn profile(&self) -> Option<&Profile> {
        match &self.rate {
            Some(RateOverTime::Profile(profile)) => Some(profile),
            Some(RateOverTime::Constant(_)) | None => None,
        }
    }

    /// Refuses a second length beside that of a profile, and a warm-up as long as the run.
    fn check_length(&self) -> Result<(), String> {
        let shown = humantime::format_duration;
        if let Some(profile) = self.profile() {
            let given = [
                ("--duration", self.duration.is_some()),
                ("--messages", self.messages.is_some()),
            ];
            let length = shown(profile.length());
            if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
                return Err(format!(
                    "{option} cannot be used with the profile of --rate, whose stages last {length}"
                ));
            }
            return match self.warmup >= profile.length() {
                true => Err(format!(
                    "--warmup {} must be shorter than the stages of --rate together, {length}",
                    shown(self.warmup)
                )),
                false => Ok(()),
            };
        }
        let duration = self.duration();
        if self.messages.is_none() && self.warmup >= duration {
            let (warmup, duration) = (shown(self.warmup), shown(duration));
            return Err(format!(
                "--warmup {warmup} must be shorter than --duration {duration}"
            ));
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
