//! The time format of log lines, and complete lines for messages that bypass the `log` crate.

use log::Level;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The format of `2026-01-31T12:00:00.123Z`, which is UTC.
pub const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Returns a plain line with the current time.
pub fn record(level: Level, text: &str) -> String {
    let now = OffsetDateTime::now_utc().format(TIME).unwrap_or_default();
    format!("{now} [{level}] {text}\n")
}
