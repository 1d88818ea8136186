//! Properties of a terminal: its size, what it can show, and its settings.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// The settings of the terminal that is standard input.
#[derive(Debug)]
pub struct Settings(Termios);

impl Settings {
    /// Reads the settings. Errors: see tcgetattr(3).
    pub fn of_standard_input() -> io::Result<Settings> {
        Ok(Settings(tcgetattr(io::stdin())?))
    }

    /// Restores the settings. TCSANOW, since the other actions of tcsetattr(3) wait until the
    /// terminal has transmitted all output, which never happens when no program reads from its
    /// other end.
    pub fn restore(&self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Returns the number of columns of the terminal that this stream is connected to; `None` when it
/// is not a terminal, or the terminal does not report its size.
pub fn columns(stream: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream.as_fd()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Returns the numbers of columns and rows of the terminal that this stream is connected to; `None`
/// when it is not a terminal, or the terminal does not report its size.
pub fn size(stream: &impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stream.as_fd()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Returns whether TERM names no kind of terminal, or `dumb`, one that cannot move its cursor.
pub fn is_dumb() -> bool {
    let term = std::env::var_os("TERM");
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Returns whether the locale has the encoding UTF-8, by the variables of locale(7): LC_ALL,
/// LC_CTYPE, LANG, of which the first that is not empty counts.
pub fn has_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(std::env::var_os);
    let locale = locale.into_iter().flatten().find(|name| !name.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Returns whether to use colours on this stream: it is a terminal that supports them, and the user
/// has not disabled them with NO_COLOR (<https://no-color.org>).
pub fn has_color(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !dumb && set("NO_COLOR").is_none()
}
