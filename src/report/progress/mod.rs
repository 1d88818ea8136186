//! Shows the progress of a load run on standard error: on a terminal as a few lines that are
//! updated in place below the log, elsewhere as lines of the log.
//!
//! The writer of the log draws the live view, with a few escape sequences (`logging/footer.rs`),
//! since that needs less than a library that draws from another thread: indicatif joins its rows,
//! so a resize wraps them anew and takes lines of the log along, and ratatui's inline viewport has
//! a fixed height and asks the terminal for the cursor's position through standard input.
//!
//! ```text
//!   snapshots, 5 a second ─┬─► Connecting ─► a line of the log every 10 s
//!                          └─► View ─► lines ─► footer of the log       (live)
//!   intervals ─────────────┬─► View
//!                          └─► PlainLines ─► lines of the log           (plain)
//! ```

pub mod connecting;
pub mod figures;
pub mod layout;
pub mod plain;
pub mod sparkline;
pub mod view;

use std::io::{IsTerminal, stderr};
use std::time::Instant;

use clap::ValueEnum;
use log::info;

use crate::load::ProgressSnapshot;
use crate::load::plan::Plan;
use crate::load::results::recorder::Interval;
use crate::logging;
use crate::report::progress::connecting::Connecting;
use crate::report::progress::layout::Look;
use crate::report::progress::plain::PlainLines;
use crate::report::progress::view::View;
use crate::sys::terminal;

/// The number of columns of a terminal that does not report its size.
const COLUMNS_DEFAULT: usize = 80;

/// The way in which the progress of a run is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// `live` on a terminal; elsewhere a line of the log every 10 s, in runs of more than 20 s
    #[default]
    Auto,
    /// A few lines that are updated in place; standard error must be a terminal
    Live,
    /// A line of the log for each interval
    Plain,
    /// Nothing, apart from the log's lines about connecting
    None,
}

/// The display of the progress of a run. The live view is erased when this is dropped.
#[derive(Debug)]
pub struct Progress {
    connecting: Connecting,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Live(Box<Live>),
    Plain(Box<PlainLines>),
    None,
}

/// The live view of a run, on the terminal that is standard error.
#[derive(Debug)]
struct Live {
    view: View,
    has_unicode: bool,
    has_color: bool,
}

impl Style {
    /// Checks that standard error can show this style. The error names the reason.
    pub fn check(self) -> Result<(), String> {
        let reason = match self {
            Style::Auto | Style::Plain | Style::None => return Ok(()),
            Style::Live if !stderr().is_terminal() => "which standard error is not",
            Style::Live if terminal::is_dumb() => "and TERM names none that can move its cursor",
            Style::Live => return Ok(()),
        };
        Err(format!(
            "--progress live needs a terminal, {reason}: --progress plain writes lines instead"
        ))
    }
}

impl Progress {
    /// Begins to show a run that is about to connect.
    pub fn new(plan: &Plan, style: Style) -> Progress {
        let can_be_live = stderr().is_terminal() && !terminal::is_dumb();
        let live = || Display::Live(Box::new(Live::new(plan)));
        let plain = |lines| Display::Plain(Box::new(lines));
        Progress {
            connecting: Connecting::new(plan),
            display: match style {
                Style::Auto | Style::Live if can_be_live => live(),
                Style::Auto => PlainLines::in_steps(plan).map_or(Display::None, plain),
                Style::Live | Style::Plain => plain(PlainLines::of_each_interval(plan)),
                Style::None => Display::None,
            },
        }
    }

    /// Adds an interval that is over.
    pub fn note(&mut self, interval: &Interval) {
        match &mut self.display {
            Display::Live(live) => live.view.note(interval),
            Display::Plain(lines) => {
                if let Some(line) = lines.note(interval) {
                    info!("{line}");
                }
            }
            Display::None => {}
        }
    }

    /// Shows a snapshot of the run.
    pub fn show(&mut self, snapshot: &ProgressSnapshot) {
        match &mut self.display {
            Display::Live(live) => live.show(snapshot),
            Display::Plain(_) | Display::None => self.connecting.note(snapshot),
        }
    }
}

impl Live {
    fn new(plan: &Plan) -> Live {
        Live {
            view: View::new(plan, Instant::now()),
            has_unicode: terminal::has_unicode(),
            has_color: terminal::has_color(&stderr()),
        }
    }

    fn show(&mut self, snapshot: &ProgressSnapshot) {
        let now = Instant::now();
        self.view.show(snapshot, now);
        let look = Look {
            columns: terminal::columns(&stderr()).unwrap_or(COLUMNS_DEFAULT),
            has_unicode: self.has_unicode,
            has_color: self.has_color,
        };
        logging::show_footer(self.view.lines(now, look));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        logging::erase_footer();
    }
}
