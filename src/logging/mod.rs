//! Writes the log to standard error, and to a file if one is named. Logging never blocks its
//! caller.
//!
//! ```text
//!   info!() ─► simplelog (text) ─► Lines ─┬─► queue ─► writer thread ─► standard error
//!   report_error(), panics ───────────────┴─► queue ─► writer thread ─► --log-file
//! ```
//!
//! Each output has its own bounded [`queue`] and its own [`writer`], so that an output that stalls
//! delays neither the other one nor any thread of the program. Lines that an output does not accept
//! are dropped and counted. Their count is written in their place as soon as the output accepts
//! lines again, to the other outputs at the end, and as a metric. The process ends after its last
//! line is written, or after a bounded time.
//!
//! On a terminal, lines can stay below the log, see [`footer`].
//!
//! A panic is logged as well, on every output. In the sandbox it has no backtrace, since collecting
//! one would violate the sandbox.

pub mod footer;
pub mod line;
pub mod queue;
pub mod stamp;
pub mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use log::{Level, LevelFilter};
use simplelog::{Config, ConfigBuilder, WriteLogger};

use crate::logging::footer::FooterLine;
use crate::logging::line::Style;
use crate::logging::queue::Urgency;
use crate::logging::stamp::record;
use crate::logging::writer::Output;
use crate::units::{agreeing, counted};

/// Maximum time to wait for a writer to enter the sandbox before the program continues. If its
/// output has stalled, a writer enters the sandbox as soon as its current write returns.
const CONFINE_WAIT: Duration = Duration::from_secs(1);

/// Standard error. `None`: its writer could not be started.
static STDERR: OnceLock<Option<Output>> = OnceLock::new();
static LOG_FILE: OnceLock<Output> = OnceLock::new();

/// Whether the writers have been requested to enter the sandbox. A backtrace opens files, for which
/// the sandbox ends the process.
static IS_CONFINED: AtomicBool = AtomicBool::new(false);

/// Starts the log. A file is appended to, so that the log of an earlier run is not lost.
pub fn start(level: LevelFilter, file: Option<&Path>) -> anyhow::Result<()> {
    stderr().context("cannot start the log")?;
    if let Some(path) = file {
        let output = Output::file(path, notice)?;
        // The log is started once, so no file is set yet.
        LOG_FILE.get_or_init(|| output);
    }
    WriteLogger::init(level, config(), Lines::default()).context("cannot start the log")
}

/// Writes an error message as the last line of standard error, and to the log file. Characters that
/// would break the line or control the terminal, which names of files may contain, are escaped.
pub fn report_error(text: &str) {
    let text = &escaped(text);
    match stderr() {
        Some(stderr) => stderr.message(text),
        None => {
            let _ = writeln!(io::stderr(), "upcase: {text}");
        }
    }
    if let Some(file) = LOG_FILE.get() {
        file.line(&record(Level::Error, text), Urgency::Urgent);
    }
}

fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// Installs a hook that logs each panic in any thread.
pub fn install_panic_hook() {
    panic::set_hook(Box::new(log_panic));
}

/// Returns whether there is a log file.
pub fn has_file() -> bool {
    LOG_FILE.get().is_some()
}

/// Reopens the log file, for one that was renamed.
pub fn reopen() {
    if let Some(file) = LOG_FILE.get() {
        file.reopen();
    }
}

/// Shows these lines below the log on standard error, in place of those before; none erases them.
/// Standard error must be a terminal that can move its cursor.
pub fn show_footer(lines: Vec<FooterLine>) {
    if let Some(stderr) = stderr() {
        stderr.footer(lines);
    }
}

/// Erases the lines below the log, and waits until they are erased, for a bounded time.
pub fn erase_footer() {
    if let Some(stderr) = stderr() {
        stderr.footer(Vec::new());
        stderr.flush();
    }
}

/// Makes every writer call `enter`, with the folders in which it must still be able to open files.
pub fn confine(
    enter: impl Fn(&[PathBuf]) -> anyhow::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    IS_CONFINED.store(true, Ordering::SeqCst);
    for output in outputs() {
        let entered = output.run(enter.clone());
        if let Ok(result) = entered.recv_timeout(CONFINE_WAIT) {
            result.with_context(|| format!("cannot confine the writer of {}", output.name()))?;
        }
    }
    Ok(())
}

/// Returns how many lines were dropped since the start, of all outputs together.
pub fn dropped() -> u64 {
    outputs().map(Output::dropped).sum()
}

/// Writes the queued lines, for a bounded time, as the last action of a process.
pub fn finish() {
    for output in outputs() {
        let dropped = output.dropped();
        if dropped > 0 {
            let lines = counted(dropped, "log line");
            let were = agreeing(dropped, "was", "were");
            let text = format!("{lines} in total {were} not written to {}", output.name());
            notice(output.name(), Level::Warn, &text);
        }
    }
    for output in outputs() {
        output.flush();
    }
}

fn outputs() -> impl Iterator<Item = &'static Output> {
    let stderr = STDERR.get().and_then(Option::as_ref);
    stderr.into_iter().chain(LOG_FILE.get())
}

fn stderr() -> Option<&'static Output> {
    let start = || Output::stderr(style_of_stderr(), notice).ok();
    STDERR.get_or_init(start).as_ref()
}

/// Writes a message about one output to all others.
fn notice(concerned: &str, level: Level, text: &str) {
    let line = record(level, text);
    for output in outputs().filter(|output| output.name() != concerned) {
        output.line(&line, Urgency::Urgent);
    }
}

fn style_of_stderr() -> Style {
    let stderr = io::stderr();
    let wants_color = env::var_os("NO_COLOR").is_none()
        && env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
    match (is_journal(), stderr.is_terminal() && wants_color) {
        (true, _) => Style::Journal,
        (false, true) => Style::Color,
        (false, false) => Style::Plain,
    }
}

/// Returns whether standard error is the stream to the journal that systemd has set up:
/// JOURNAL_STREAM holds its device and inode. See systemd.exec(5).
fn is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|stream| stream.split_once(':'));
    let Some((device, inode)) = named else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = stderr.and_then(|stderr| stderr.metadata());
    metadata
        .is_ok_and(|stderr| device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino()))
}

/// Returns the settings for `2026-01-31T12:00:00.123Z [INFO] text`: the time is UTC, and the source
/// of a line is left out. Records of libraries are left out: the line editor logs every key.
fn config() -> Config {
    ConfigBuilder::new()
        .add_filter_allow_str("upcase")
        .set_time_format_custom(stamp::TIME)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// Assembles the pieces that simplelog writes into lines, and passes each line to every output.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Write for Lines {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(piece);
        if self.0.ends_with(b"\n") {
            let line = String::from_utf8_lossy(&self.0);
            outputs().for_each(|output| output.line(&line, Urgency::Ordinary));
            self.0.clear();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        outputs().for_each(|output| {
            output.flush();
        });
        Ok(())
    }
}

/// Writes a panic to every output, and waits until it is written, since the process may end. The
/// log crate is not used, since its lock may be held by the thread that panics.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(|place| format!(" at {place}"));
    let mut text = format!(
        "thread {name} panicked{}: {}: this is a bug in upcase, please report it",
        place.unwrap_or_default(),
        said.unwrap_or("no message").replace('\n', " "),
    );
    let wants_backtrace = env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    if IS_CONFINED.load(Ordering::SeqCst) && wants_backtrace {
        text += " (a backtrace needs --sandbox off)";
    } else if wants_backtrace {
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("\n{backtrace}");
        }
    }
    let line = record(Level::Error, &text);
    if stderr().is_none() {
        let _ = io::stderr().write_all(line.as_bytes());
    }
    for output in outputs() {
        output.line(&line, Urgency::Urgent);
    }
    for output in outputs() {
        output.flush();
    }
}
