//! The lines of the live view: a label and its text, cut or continued so that they fit a terminal
//! of any width. Pure.
//!
//! On a narrow terminal the labels are left out, and a line of several parts continues in the next
//! row.
//!
//! Invariant: no line is wider than the columns.

use crate::logging::footer::FooterLine;
use crate::report::columns::{is_narrow, width};
use crate::report::progress::sparkline::Recent;

/// What a terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Number of columns.
    pub columns: usize,
    /// Whether it shows characters beyond ASCII.
    pub has_unicode: bool,
    /// Whether it shows colours.
    pub has_color: bool,
}

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 12;

/// Maximum number of columns of a bar, and of the bars of the last intervals.
const BAR_MAX: usize = 60;

/// Minimum number of columns of a bar: a shorter one shows nothing.
const BAR_MIN: usize = 4;

/// The columns that are reserved for the text after the bar, with labels and without, so that the
/// bar has the same length for most of the time.
const AFTER_BAR: [usize; 2] = [16, 9];

/// The meaning of a part of a line, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tint {
    /// Ordinary text.
    Text,
    /// The label of a line.
    Label,
    /// A bar.
    Bar,
    /// Something that went wrong.
    Fault,
}

/// Lines under construction.
#[derive(Debug)]
pub struct Lines {
    look: Look,
    done: Vec<FooterLine>,
}

impl Lines {
    /// Returns no lines yet.
    pub fn new(look: Look) -> Lines {
        Lines {
            look,
            done: Vec::new(),
        }
    }

    /// Returns the lines.
    pub fn done(self) -> Vec<FooterLine> {
        self.done
    }

    /// Returns whether the terminal is wide enough for labels.
    pub fn has_labels(&self) -> bool {
        !is_narrow(Some(self.look.columns))
    }

    /// Returns the number of columns for the text of a line.
    pub fn room(&self) -> usize {
        match self.has_labels() {
            true => self.look.columns - MARGIN,
            false => self.look.columns,
        }
    }

    /// Adds a line of parts of ordinary text, separated by commas.
    pub fn add(&mut self, label: &str, parts: Vec<String>) {
        self.add_tinted(label, parts, Tint::Text);
    }

    /// Adds a line of parts, separated by commas.
    pub fn add_tinted(&mut self, label: &str, parts: Vec<String>, tint: Tint) {
        let room = self.room();
        let (mut label, mut row) = (label, String::new());
        let last = parts.len().saturating_sub(1);
        for (number, mut part) in parts.into_iter().enumerate() {
            if number < last {
                part.push(',');
            }
            if !row.is_empty() && width(&row) + 1 + width(&part) > room {
                self.row(label, &[(tint, &row)]);
                (label, row) = ("", String::new());
            }
            if !row.is_empty() {
                row.push(' ');
            }
            row += &part;
        }
        self.row(label, &[(tint, &row)]);
    }

    /// Adds a bar of which a share is filled, with a text after it.
    pub fn add_bar(&mut self, label: &str, share: f64, text: &str) {
        let [long, short] = AFTER_BAR;
        let reserved = if self.has_labels() { long } else { short };
        let left = self.room().saturating_sub(width(text).max(reserved) + 1);
        let brackets = if self.look.has_unicode { 0 } else { 2 };
        let cells = left.min(BAR_MAX).saturating_sub(brackets);
        if cells < BAR_MIN {
            return self.row(label, &[(Tint::Text, text)]);
        }
        let bar = bar(share, cells, self.look.has_unicode);
        self.row(
            label,
            &[(Tint::Bar, &bar), (Tint::Text, &format!(" {text}"))],
        );
    }

    /// Adds the bars of the last intervals.
    pub fn add_bars(&mut self, recent: &Recent) {
        let label = format!("last {}", recent.covered());
        let bars = recent.bars(self.room().min(BAR_MAX), self.look.has_unicode);
        self.row(&label, &[(Tint::Bar, &bars)]);
    }

    /// Adds a row. What does not fit is cut.
    fn row(&mut self, label: &str, parts: &[(Tint, &str)]) {
        let mut line = FooterLine::default();
        if self.has_labels() {
            self.append(&mut line, Tint::Label, &format!("{label:<MARGIN$}"));
        }
        for (tint, text) in parts {
            self.append(&mut line, *tint, text);
        }
        self.done.push(line);
    }

    /// Appends as much of a text as fits.
    fn append(&self, line: &mut FooterLine, tint: Tint, text: &str) {
        let (text, mark) = match self.look.has_unicode {
            true => (text.to_string(), '…'),
            false => (text.replace('µ', "u"), '~'),
        };
        let text = cut(text, self.look.columns - line.columns, mark);
        line.columns += width(&text);
        let color = match tint {
            _ if !self.look.has_color || text.is_empty() => "",
            Tint::Text => "",
            Tint::Label => "\x1b[2m",
            Tint::Bar => "\x1b[36m",
            Tint::Fault => "\x1b[31m",
        };
        let end = if color.is_empty() { "" } else { "\x1b[0m" };
        line.text += &format!("{color}{text}{end}");
    }
}

/// Returns a text if it fits into the columns, else the beginning that fits, and a mark.
fn cut(mut text: String, columns: usize, mark: char) -> String {
    if width(&text) <= columns {
        return text;
    }
    while width(&text) + 1 > columns && text.pop().is_some() {}
    if columns > 0 {
        text.push(mark);
    }
    text
}

fn bar(share: f64, cells: usize, has_unicode: bool) -> String {
    let filled = ((share.clamp(0.0, 1.0) * cells as f64) as usize).min(cells);
    let bar = |full: &str, empty: &str| full.repeat(filled) + &empty.repeat(cells - filled);
    match has_unicode {
        true => bar("█", "░"),
        false => format!("[{}]", bar("#", "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_a_share() {
        assert_eq!(bar(0.0, 4, true), "░░░░");
        assert_eq!(bar(0.5, 4, true), "██░░");
        assert_eq!(bar(7.0, 4, true), "████");
        assert_eq!(bar(f64::NAN, 4, false), "[----]");
        assert_eq!(bar(0.25, 4, false), "[#---]");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, columns, shown) in [
            ("12.3 µs", 7, "12.3 µs"),
            ("12.3 µs", 6, "12.3 …"),
            ("12.3 µs", 1, "…"),
            ("12.3 µs", 0, ""),
            ("漢字", 4, "漢字"),
            ("漢字", 3, "漢…"),
            ("漢字", 2, "…"),
        ] {
            assert_eq!(cut(text.to_string(), columns, '…'), shown);
        }
    }
}
