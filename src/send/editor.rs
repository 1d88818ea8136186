//! Reads lines that a user types at a terminal, with a prompt and line editing (rustyline).
//!
//! A terminal in canonical mode passes on at most 4,095 bytes of a line, and adds the bytes of an
//! arrow key to the line. The editor has neither limitation.
//!
//! rustyline blocks until a line is complete, but the caller must notice a dead server while it
//! waits. So rustyline runs in a [`Worker`]: the caller requests a line, polls the descriptor of
//! the editor together with its others, and takes the result. When the caller ends first, the
//! thread is not joined, and [`Editor::stop`] restores the settings of the terminal.

use std::collections::VecDeque;
use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use log::warn;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor as LineEditor};

use crate::send::lines::NextLine;
use crate::sys::terminal::Settings;
use crate::sys::worker::Worker;

const PROMPT: &str = "> ";

/// The result of one prompt.
type Answer = Result<String, ReadlineError>;

/// A terminal with a line editor.
#[derive(Debug)]
pub struct Editor {
    /// The thread that shows the prompt and returns the line that was typed.
    prompt: Worker<(), Answer>,
    /// Whether a line was requested whose result was not taken yet.
    is_prompting: bool,
    has_ended: bool,
    lines: VecDeque<Vec<u8>>,
    /// The settings of the terminal before the editor changed them.
    settings: Settings,
}

impl Editor {
    /// Returns an editor on standard input and output; `None` when they are not both a terminal
    /// that can move its cursor.
    pub fn open() -> io::Result<Option<Editor>> {
        let is_able = env::var_os("TERM").is_some_and(|term| term != "dumb" && !term.is_empty());
        if !is_able || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let settings = Settings::of_standard_input()?;
        // A line of a pasted text is sent like a line that was typed.
        let config = Config::builder()
            .bracketed_paste(false)
            .auto_add_history(true)
            .build();
        let editor = LineEditor::<(), MemHistory>::with_history(config, MemHistory::new());
        let mut editor = editor.map_err(io::Error::other)?;
        let prompt = Worker::start("editor", move |()| editor.readline(PROMPT))?;
        Ok(Some(Editor {
            prompt,
            is_prompting: false,
            has_ended: false,
            lines: VecDeque::new(),
            settings,
        }))
    }

    /// Returns the next line if it was received already; otherwise shows the prompt.
    pub fn take(&mut self) -> NextLine {
        if let Some(line) = self.lines.pop_front() {
            return NextLine::Line(line);
        }
        if self.has_ended {
            return NextLine::End;
        }
        if !self.is_prompting {
            self.prompt.submit(());
            self.is_prompting = true;
        }
        NextLine::NotYet
    }

    /// Receives the result of the prompt; blocks unless the descriptor is readable. Control-C ends
    /// the input, as Control-D does.
    pub fn fill(&mut self) -> io::Result<()> {
        let answer = self.prompt.take()?;
        self.is_prompting = false;
        match answer {
            Ok(text) => self.lines.extend(text.split('\n').map(Vec::from)),
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => self.has_ended = true,
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => warn!(
                "the line is not valid UTF-8 and was dropped: send such bytes from a file or a pipe"
            ),
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }

    /// Restores the settings of the terminal if a prompt is still shown. Returns whether one was:
    /// the cursor is then still in its line.
    pub fn stop(&mut self) -> bool {
        let is_left = std::mem::replace(&mut self.is_prompting, false);
        if is_left {
            self.settings.restore();
        }
        self.has_ended = true;
        is_left
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl AsFd for Editor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.prompt.as_fd()
    }
}
