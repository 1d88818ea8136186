//! Writes the record of a run while the run goes on.
//!
//! When a file cannot be written, the record ends at the interval before, in all files, and the run
//! goes on. The report of the run then names the time from which the record is missing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use log::warn;

use crate::load::latency::percentile::Percentile;
use crate::load::plan::Plan;
use crate::load::results::recorder::{Interval, TimesSoFar};
use crate::load::results::summary::Summary;
use crate::record::description::{Begun, Description};
use crate::record::hlog::{self, LogInterval};
use crate::record::interval::{self, Surroundings};
use crate::record::run_file::{RunFile, write_measured};
use crate::record::{INTERVALS, LOGS, MEASURED, RUN};

/// The record of a run that is being written.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    run: RunFile,
    /// The logs in the order of [`LOGS`], then the intervals.
    files: Vec<Appended>,
    /// The base of the times in the logs.
    begun: Instant,
    start: Option<Instant>,
    so_far: Arc<TimesSoFar>,
    points: Vec<Percentile>,
    incomplete: Option<String>,
}

/// A file that grows by whole pieces.
#[derive(Debug)]
struct Appended {
    file: File,
    /// The size of the file, and the one before the last piece.
    size: u64,
    before: u64,
}

impl Recording {
    /// Begins to record a run in a directory, which must be new or empty. Fails when a file cannot
    /// be created.
    pub fn begin(folder: &Path, description: Description, plan: &Plan) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let cannot = || format!("cannot record the run in {}", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        if !is_empty(folder).with_context(cannot)? {
            bail!("{}: the directory is not empty", cannot());
        }
        let headers = LOGS.map(|(name, what)| (name, hlog::header(&description.begun, what)));
        let headers = headers.into_iter().chain([(INTERVALS, String::new())]);
        let files = headers.map(|(name, text)| Appended::create(&folder.join(name), &text));
        let files = files.collect::<io::Result<Vec<_>>>().with_context(cannot)?;
        let run = RunFile::new(description, plan);
        run.write(&folder.join(RUN)).with_context(cannot)?;
        Ok(Recording {
            folder: folder.to_path_buf(),
            run,
            files,
            begun,
            start: None,
            so_far: Arc::default(),
            points: plan.percentiles.clone(),
            incomplete: None,
        })
    }

    /// Records that messages are due from `start` on.
    pub fn started(&mut self, start: Instant) {
        self.start = Some(start);
        self.run.started = Some(Begun::at(start));
        let written = self.run.write(&self.folder.join(RUN));
        self.check(written, Duration::ZERO);
    }

    /// Records an interval, whose `times` must be known.
    pub fn interval(&mut self, interval: &Interval, surroundings: &Surroundings) {
        let Some(times) = &interval.times else {
            return;
        };
        let warmup = times.warmup.since(&self.so_far.warmup);
        let run = times.run.since(&self.so_far.run);
        self.so_far = Arc::clone(times);
        if self.incomplete.is_some() {
            return;
        }
        let connecting = self
            .start
            .map(|start| start.saturating_duration_since(self.begun));
        let from = connecting.unwrap_or_default() + interval.from;
        let length = interval.to.saturating_sub(interval.from);
        let mut all = run.clone();
        all.merge(&warmup);
        let pairs = [
            (warmup.response, run.response),
            (warmup.service, run.service),
            (warmup.lateness, run.lateness),
        ];
        let logs = pairs.map(|(warmup, run)| {
            hlog::lines(&LogInterval {
                from,
                length,
                warmup,
                run,
            })
        });
        let line = interval::line(interval, Some(&all), surroundings, &self.points);
        let written = self.append(logs.iter().chain([&line]));
        self.check(written, interval.from);
    }

    /// Completes the record with the result of the run and its JSON report. Returns why the record
    /// is incomplete, if it is.
    pub fn finish(mut self, summary: &Summary, report: &str) -> Option<String> {
        // Some file systems report only now that they could not keep what was written.
        let mut files = self.files.iter();
        let kept = files.try_for_each(|file| file.file.sync_data());
        self.check(kept, Duration::ZERO);
        let mut written = write_measured(&self.folder.join(MEASURED), summary);
        if written.is_ok() {
            self.run.report = serde_json::from_str(report).ok();
            written = self.run.write(&self.folder.join(RUN));
        }
        if let Err(error) = written
            && self.incomplete.is_none()
        {
            let folder = self.folder.display();
            warn!("cannot write the result of the run to {folder}: {error}");
            self.incomplete = Some(format!("{folder} lacks the result of the run: {error}"));
        }
        self.incomplete
    }

    /// Returns why the record is incomplete, if it is by now.
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    /// Appends a piece to each file, or to none.
    fn append<'a>(&mut self, pieces: impl Iterator<Item = &'a String>) -> io::Result<()> {
        for file in &mut self.files {
            file.before = file.size;
        }
        let mut pairs = self.files.iter_mut().zip(pieces);
        let written = pairs.try_for_each(|(file, piece)| file.append(piece));
        if written.is_err() {
            self.files.iter_mut().for_each(Appended::take_back);
        }
        written
    }

    fn check(&mut self, written: io::Result<()>, from: Duration) {
        let Err(error) = written else { return };
        if self.incomplete.is_none() {
            let folder = self.folder.display();
            warn!("cannot write the record {folder}, which ends here: {error}");
            let from = from.as_secs_f64();
            let lacks = format!("{folder} lacks what was measured from {from:.1} s on: {error}");
            self.incomplete = Some(lacks);
        }
    }
}

/// Returns whether a directory has no entries.
pub fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

impl Appended {
    fn create(path: &Path, text: &str) -> io::Result<Appended> {
        let file = File::options().append(true).create_new(true).open(path)?;
        let mut appended = Appended {
            file,
            size: 0,
            before: 0,
        };
        appended.append(text)?;
        Ok(appended)
    }

    fn append(&mut self, piece: &str) -> io::Result<()> {
        // One write(2), unless the disk fills up within it.
        self.file.write_all(piece.as_bytes())?;
        self.size += piece.len() as u64;
        Ok(())
    }

    /// Removes the last piece, as far as it was written.
    fn take_back(&mut self) {
        // Without this the file ends within a line, which every reader of ours tolerates.
        if self.file.set_len(self.before).is_ok() {
            self.size = self.before;
        }
    }
}
