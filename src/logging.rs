//! The log: to standard error, and to a file when one is named.

use std::fs::OpenOptions;
use std::io::{IsTerminal, LineWriter, stderr};
use std::path::Path;

use anyhow::Context;
use log::LevelFilter;
use simplelog::{
    ColorChoice, CombinedLogger, Config, ConfigBuilder, SharedLogger, TermLogger, TerminalMode,
    WriteLogger,
};
use time::macros::format_description;

/// Starts the log. A file is appended to, so that the log of an earlier run is not lost.
pub fn start(level: LevelFilter, file: Option<&Path>) -> anyhow::Result<()> {
    let color = if stderr().is_terminal() {
        ColorChoice::Auto
    } else {
        ColorChoice::Never
    };
    let mut loggers: Vec<Box<dyn SharedLogger>> = vec![TermLogger::new(
        level,
        config(),
        TerminalMode::Stderr,
        color,
    )];
    if let Some(path) = file {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the log file {}", path.display()))?;
        loggers.push(WriteLogger::new(level, config(), LineWriter::new(file)));
    }
    CombinedLogger::init(loggers).context("cannot start the log")
}

/// `2026-01-31T12:00:00.123Z [INFO] text`: the time is UTC, and the source of a line is no concern
/// of its reader.
fn config() -> Config {
    ConfigBuilder::new()
        .set_time_format_custom(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}
