//! Properties of a terminal: its width, whether it shows colours, and its settings.

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

/// Returns whether to use colours on this stream: it is a terminal that supports them, and the user
/// has not disabled them with NO_COLOR (<https://no-color.org>).
pub fn has_color(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !dumb && set("NO_COLOR").is_none()
}
