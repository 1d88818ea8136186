//! Carries out several runs of one command, one after the other, each with new connections. Used by
//! the search and by the sweep.
//!
//! A run begins when the server has closed the connections of the one before, so that no backlog is
//! left. With `--record DIR`, each run is a record of its own: `DIR/01`, `DIR/02`. A signal ends
//! the run that goes on, and the series; between two runs it is kept until the next one would
//! begin.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::load::args::{LoadArgs, Place};
use crate::cli::load::measure::{self, Measured, measure};
use crate::load::judge::assertion::Condition;
use crate::load::judge::verdict::Judged;
use crate::load::plan::schedule::RateOverTime;
use crate::reactor::signals::Noted;
use crate::record::description::{Description, OptionValue};
use crate::report::progress::Style;
use crate::search::goal::Load;

/// The options of the series that a run of it does not have.
const OF_SERIES: [&str; 8] = [
    "find-max",
    "goal-duration",
    "goal-sum",
    "exceed-ratio",
    "width",
    "search-rates",
    "search-time",
    "sweep",
];

/// Several runs of a command.
#[derive(Debug)]
pub(super) struct Series<'a> {
    args: &'a LoadArgs,
    signals: Noted,
    begun: Instant,
    /// Number of runs so far.
    runs: u32,
}

impl<'a> Series<'a> {
    /// Begins a series. From now on a signal ends no run without its report.
    pub(super) fn start(args: &'a LoadArgs) -> io::Result<Series<'a>> {
        Ok(Series {
            args,
            signals: Noted::start()?,
            begun: Instant::now(),
            runs: 0,
        })
    }

    /// Returns the time since the beginning.
    pub(super) fn spent(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns whether a signal asked to end the series.
    pub(super) fn is_interrupted(&self) -> bool {
        self.signals.any()
    }

    /// Returns whether the progress is to be shown.
    pub(super) fn shows_progress(&self) -> bool {
        self.args.progress != Style::None
    }

    /// Carries out a run, and returns its number and its judged result. `duration` contains the
    /// warm-up. Fails when the run could not be carried out, or not recorded.
    pub(super) fn run(
        &mut self,
        load: Load,
        duration: Duration,
        conditions: &[Condition],
    ) -> anyhow::Result<(u32, Judged)> {
        self.runs += 1;
        let args = self.one(load, duration, conditions)?;
        let Measured {
            judged, failure, ..
        } = measure(&args)?;
        match (failure, &judged.summary.unrecorded) {
            (Some(failure), _) => Err(failure),
            (None, Some(lacks)) => bail!("the record of run {} is incomplete: {lacks}", self.runs),
            (None, None) => Ok((self.runs, judged)),
        }
    }

    /// Returns the options of one run.
    fn one(
        &self,
        load: Load,
        duration: Duration,
        conditions: &[Condition],
    ) -> anyhow::Result<LoadArgs> {
        let mut args = self.args.clone();
        let rate = load.rate().context("the rate is too high")?;
        args.rate = Some(RateOverTime::Constant(rate));
        args.duration = Some(duration);
        args.assert = conditions.to_vec();
        args.place = match self.runs {
            1 => Place::First,
            _ => Place::Later,
        };
        args.record = self.args.record.as_ref().map(|folder| {
            let name = format!("{:02}", self.runs);
            folder.join(name)
        });
        // The lines of each interval would hide the line of each run.
        args.progress = match self.args.progress {
            Style::Plain | Style::None => Style::None,
            style @ (Style::Auto | Style::Live) => style,
        };
        let one = |text: String| OptionValue::One(text);
        let mut set = |name: &str, value| args.given.insert(name.to_string(), value);
        for name in OF_SERIES {
            set(name, OptionValue::Absent);
        }
        set("rate", one(load.per_second().to_string()));
        set(
            "duration",
            one(humantime::format_duration(duration).to_string()),
        );
        let conditions = conditions.iter().map(Condition::to_string);
        set("assert", OptionValue::Several(conditions.collect()));
        if let Some(folder) = &args.record {
            set("record", one(folder.display().to_string()));
        }
        Ok(args)
    }

    /// Returns the servers as they were typed.
    pub(super) fn target(&self) -> String {
        let targets = self.args.targets.iter().map(ToString::to_string);
        match self.args.targets.is_empty() {
            true => "a built-in server".to_string(),
            false => targets.collect::<Vec<String>>().join(", "),
        }
    }

    /// Describes the series.
    pub(super) fn description(&self) -> Description {
        let options: BTreeMap<String, OptionValue> = self.args.given.clone();
        measure::description(self.args, options)
    }

    /// Writes a file of the record, if there is one.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let Some(folder) = &self.args.record else {
            return Ok(());
        };
        let path = folder.join(name);
        let cannot = || format!("cannot write {}", path.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        fs::write(&path, text).with_context(cannot)
    }
}
