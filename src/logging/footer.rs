//! Lines that stay below the log on a terminal, and are replaced in place. Pure: text and sizes in,
//! the bytes for the terminal out.
//!
//! ```text
//!   2026-01-31T12:00:00.123Z [INFO] text     the log
//!   running     █████░░░ 62 %                the footer
//!   rate        1,998 of 2,000 messages/s
//!   _                                        the cursor
//! ```
//!
//! The cursor stays at the beginning of the row below the footer, so that whatever another program
//! writes, or the terminal echoes, begins in a row of its own and is erased with the footer.
//!
//! A terminal that is made narrower wraps the rows that do not fit any more. So each row ends with
//! a line feed, and the rows to erase are counted from the widths of the lines that are shown and
//! the columns that the terminal has by then. While the footer is written, wrapping is off: a line
//! that is too wide is cut.

/// A line of a footer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FooterLine {
    /// The text, which may contain escape sequences for colours.
    pub text: String,
    /// The number of columns that it occupies.
    pub columns: usize,
}

/// The size of a terminal. Both numbers are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of columns.
    pub columns: usize,
    /// Number of rows.
    pub rows: usize,
}

/// The lines below the log.
#[derive(Debug, Default)]
pub struct Footer {
    lines: Vec<FooterLine>,
    /// The number of columns of each line on the screen.
    shown: Vec<usize>,
}

/// Erases the row of the cursor, ECMA-48 EL.
const ERASE_ROW: &str = "\x1b[2K";
/// Erases everything from the cursor to the end of the screen, ECMA-48 ED.
const ERASE_BELOW: &str = "\x1b[J";
/// Turns the wrapping of long lines off and on, DECAWM.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";

impl Footer {
    /// Returns whether the terminal shows no footer and is to show none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.shown.is_empty()
    }

    /// Replaces the lines. Returns what is to be written to a terminal of this size.
    pub fn replaced(&mut self, lines: Vec<FooterLine>, size: Option<Size>) -> String {
        self.lines = lines;
        match self.is_empty() {
            true => String::new(),
            false => self.drawn("", size),
        }
    }

    /// Returns what is to be written to a terminal of this size so that a line of the log appears
    /// above the footer. The line ends with a line feed.
    pub fn with_log_line(&mut self, log_line: &str, size: Option<Size>) -> String {
        self.drawn(log_line, size)
    }

    /// Records that the state of the terminal is unknown: nothing is erased before the next draw.
    pub fn forget(&mut self) {
        self.shown.clear();
    }

    fn drawn(&mut self, log_line: &str, size: Option<Size>) -> String {
        let mut out = match self.rows(size) {
            0 => String::new(),
            // CUU of ECMA-48.
            rows => format!("\x1b[{rows}A\r"),
        };
        if !log_line.is_empty() {
            out += ERASE_BELOW;
            out += log_line;
        }
        // One row is left for the cursor.
        let (columns, rows) = match size {
            Some(size) => (size.columns, size.rows.saturating_sub(1)),
            None => (usize::MAX, usize::MAX),
        };
        let lines = self.lines.iter().take(rows);
        let shown = lines.clone().map(|line| line.columns.min(columns));
        self.shown = shown.collect();
        if !self.shown.is_empty() {
            out += WRAP_OFF;
            for line in lines {
                // A row is erased before it is written: the cursor stays in the last column of a
                // row that is full, where erasing would take the last character away.
                out += ERASE_ROW;
                out += &line.text;
                out.push('\n');
            }
            out += WRAP_ON;
        }
        // Fewer rows than before may have been written.
        out + ERASE_BELOW
    }

    /// Returns the number of rows that the footer occupies on a terminal of this size.
    fn rows(&self, size: Option<Size>) -> usize {
        let rows = |columns: &usize| match size {
            Some(size) => columns.div_ceil(size.columns.max(1)).max(1),
            None => 1,
        };
        self.shown.iter().map(rows).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(texts: &[&str]) -> Vec<FooterLine> {
        let line = |text: &&str| FooterLine {
            text: text.to_string(),
            columns: text.len(),
        };
        texts.iter().map(line).collect()
    }

    fn size(columns: usize, rows: usize) -> Option<Size> {
        Some(Size { columns, rows })
    }

    #[test]
    fn lines_are_replaced_in_place_and_leave_nothing_behind() {
        let mut footer = Footer::default();
        assert!(footer.is_empty());
        let wide = size(80, 24);
        assert_eq!(
            footer.replaced(lines(&["one", "two"]), wide),
            "\x1b[?7l\x1b[2Kone\n\x1b[2Ktwo\n\x1b[?7h\x1b[J"
        );
        assert_eq!(
            footer.replaced(lines(&["1"]), wide),
            "\x1b[2A\r\x1b[?7l\x1b[2K1\n\x1b[?7h\x1b[J"
        );
        assert_eq!(footer.replaced(Vec::new(), wide), "\x1b[1A\r\x1b[J");
        assert!(footer.is_empty());
    }

    #[test]
    fn a_line_of_the_log_appears_above() {
        let mut footer = Footer::default();
        footer.replaced(lines(&["one"]), None);
        assert_eq!(
            footer.with_log_line("log\n", None),
            "\x1b[1A\r\x1b[Jlog\n\x1b[?7l\x1b[2Kone\n\x1b[?7h\x1b[J"
        );
        footer.forget();
        assert!(
            footer
                .with_log_line("log\n", None)
                .starts_with("\x1b[Jlog\n")
        );
    }

    #[test]
    fn rows_that_a_narrower_terminal_has_wrapped_are_erased() {
        let mut footer = Footer::default();
        footer.replaced(lines(&["a line of 21 columns.", ""]), size(80, 24));
        assert!(
            footer
                .replaced(Vec::new(), size(10, 24))
                .starts_with("\x1b[4A")
        );
        // What was cut is not wrapped.
        footer.replaced(lines(&["a line of 21 columns."]), size(10, 24));
        assert!(
            footer
                .replaced(Vec::new(), size(80, 24))
                .starts_with("\x1b[1A")
        );
        // A terminal with few rows shows the first lines.
        assert!(
            !footer
                .replaced(lines(&["one", "two"]), size(80, 2))
                .contains("two")
        );
        assert!(
            footer
                .replaced(Vec::new(), size(80, 2))
                .starts_with("\x1b[1A")
        );
    }

    /// A change of the log, of the footer, or of the terminal.
    #[derive(Clone, Debug)]
    enum Change {
        Log(String),
        Lines(Vec<String>),
        Columns(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        let text = || "[a-z]{1,120}";
        prop_oneof![
            text().prop_map(Change::Log),
            prop::collection::vec(text(), 0..8).prop_map(Change::Lines),
            (20_usize..120).prop_map(Change::Columns),
        ]
    }

    /// Returns a line as a terminal shows it that does not wrap: the last column is overwritten.
    fn cut(line: &str, columns: usize) -> String {
        match line.len() > columns {
            true => format!("{}{}", &line[..columns - 1], &line[line.len() - 1..]),
            false => line.to_string(),
        }
    }

    proptest! {
        /// The terminal is the emulator of asciinema, which wraps lines as most terminals do.
        #[test]
        fn the_log_is_intact_above_the_footer(changes in prop::collection::vec(change(), 1..40)) {
            let (mut columns, rows) = (80, 60);
            let mut terminal = avt::Vt::new(columns, rows);
            // The screen is full: this terminal keeps the empty rows at its end when it wraps.
            let mut log: Vec<String> = (0..rows).map(|number| number.to_string()).collect();
            log.iter().for_each(|line| drop(terminal.feed_str(&format!("{line}\r\n"))));
            let mut footer = Footer::default();
            let mut shown: Vec<String> = Vec::new();
            for change in changes {
                let size = Some(Size { columns, rows });
                let written = match change {
                    Change::Log(line) => {
                        let written = footer.with_log_line(&format!("{line}\n"), size);
                        log.push(line);
                        written
                    }
                    Change::Lines(texts) => {
                        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                        footer.replaced(lines(&texts), size)
                    }
                    Change::Columns(changed) => {
                        columns = changed;
                        terminal.resize(columns, rows);
                        continue;
                    }
                };
                terminal.feed_str(&written.replace('\n', "\r\n"));
                shown = footer.lines.iter().map(|line| cut(&line.text, columns)).collect();
            }
            let mut found = terminal.text();
            while found.last().is_some_and(String::is_empty) {
                found.pop();
            }
            let expected: Vec<String> = log.into_iter().chain(shown).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
