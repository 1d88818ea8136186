//! Formats a log line for each kind of output. Pure.
//!
//! Every record is formatted once, as [`PLAIN`](Style::Plain) text:
//! `2026-01-31T12:00:00.123Z [INFO] text`. The other styles are derived from that text:
//!
//! ```text
//! Plain    2026-01-31T12:00:00.123Z [INFO] text     a file, a pipe
//! Color    the same, with the level in colour       a terminal
//! Journal  <6>text                                  the journal of systemd, which has the time
//! ```
//!
//! The number is the priority of syslog(3), which sd-daemon(3) defines for standard error.

use log::Level;

/// The form of a line on an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Time, level and text.
    Plain,
    /// Like `Plain`, with escape sequences for the level.
    Color,
    /// Priority and text.
    Journal,
}

/// Converts a plain line to this style. A line without a level, such as the second line of a
/// record, stays as it is, and gets the level `Info` in the journal.
pub fn styled(style: Style, line: &str) -> String {
    let parts = parts(line);
    match (style, parts) {
        (Style::Plain, _) | (Style::Color, None) => line.to_string(),
        (Style::Color, Some((time, level, text))) => {
            let color = color(level);
            format!("{time} \x1b[{color}m[{level}] \x1b[0m{text}")
        }
        (Style::Journal, Some((_, level, text))) => format!("<{}>{text}", priority(level)),
        (Style::Journal, None) => format!("<{}>{line}", priority(Level::Info)),
    }
}

/// Returns the last message of a command that failed: `upcase: TEXT`, or its form for the journal.
pub fn message(style: Style, text: &str) -> String {
    match style {
        Style::Plain | Style::Color => format!("upcase: {text}\n"),
        Style::Journal => format!("<{}>{text}\n", priority(Level::Error)),
    }
}

/// Splits a plain line into time, level and text.
fn parts(line: &str) -> Option<(&str, Level, &str)> {
    let (time, rest) = line.split_once(" [")?;
    let (level, text) = rest.split_once("] ")?;
    let is_time = time.ends_with('Z') && !time.contains(' ');
    Some((time, level.parse().ok()?, text)).filter(|_| is_time)
}

/// Returns the priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Returns the foreground colour, ECMA-48.
fn color(level: Level) -> u8 {
    match level {
        Level::Error => 31,
        Level::Warn => 33,
        Level::Info => 34,
        Level::Debug => 36,
        Level::Trace => 37,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_output_has_its_form() {
        let line = "2026-01-31T12:00:00.123Z [WARN] a [b] c: d\n";
        assert_eq!(styled(Style::Plain, line), line);
        assert_eq!(styled(Style::Journal, line), "<4>a [b] c: d\n");
        assert_eq!(
            styled(Style::Color, line),
            "2026-01-31T12:00:00.123Z \x1b[33m[WARN] \x1b[0ma [b] c: d\n"
        );
        for (level, priority) in [("ERROR", 3), ("INFO", 6), ("DEBUG", 7)] {
            let line = format!("2026-01-31T12:00:00.123Z [{level}] text\n");
            assert_eq!(styled(Style::Journal, &line), format!("<{priority}>text\n"));
        }
    }

    #[test]
    fn a_line_without_a_level_is_shown_as_it_is() {
        for line in ["second line\n", "a list [INFO] of words\n", "Z [NONE] x\n"] {
            assert_eq!(styled(Style::Color, line), line);
            assert_eq!(styled(Style::Journal, line), format!("<6>{line}"));
        }
        assert_eq!(message(Style::Plain, "no"), "upcase: no\n");
        assert_eq!(message(Style::Journal, "no"), "<3>no\n");
    }
}
