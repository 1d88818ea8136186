//! Lays out lines for the width of a terminal: a line is assembled from parts, and continues in the
//! next row, with an indent, where it would exceed the columns. Pure.
//!
//! Invariant: no row is wider than the columns. Apart from the row breaks, their indents and the
//! gaps that they replace, the text is the same as on one row. Without a number of columns (for a
//! pipe or a file) everything stays on one row.

use unicode_width::UnicodeWidthChar;

/// Minimum number of columns. A narrower terminal is treated as one of this width, so that the text
/// is readable when the window is widened.
pub const COLUMNS_MIN: usize = 20;

/// The number of columns below which a terminal is narrow: indents shrink there, since space
/// matters more than alignment.
const NARROW: usize = 60;

/// The largest indent in a narrow terminal, in columns.
const NARROW_INDENT: usize = 2;

/// A line under construction.
#[derive(Debug)]
pub struct Line<'a> {
    out: &'a mut String,
    columns: Option<usize>,
    /// Indent of each row after the first, in columns.
    indent: usize,
    /// Columns used in the current row.
    used: usize,
    /// Whether the current row has nothing but its indent yet.
    fresh: bool,
}

/// Returns whether a terminal with this number of columns is narrow.
pub fn is_narrow(columns: Option<usize>) -> bool {
    columns.is_some_and(|columns| columns < NARROW)
}

/// Returns the number of columns that a text occupies.
pub fn width(text: &str) -> usize {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.len();
    }
    text.chars().map(columns_of).sum()
}

fn columns_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Appends a line of words; rows after the first are indented by `indent` columns. Spaces at the
/// end of the text are omitted.
pub fn paragraph(out: &mut String, columns: Option<usize>, indent: usize, text: &str) {
    let text = text.trim_end_matches(' ');
    let mut line = Line::begin(out, columns, indent);
    let start = text.len() - text.trim_start_matches(' ').len();
    let (margin, text) = text.split_at(start);
    line.part("", &margin[..line.indent_of(start)]);
    line.words(text);
    line.end();
}

/// Appends a text of several lines, each as a paragraph with the same indent.
pub fn paragraphs(out: &mut String, columns: Option<usize>, indent: usize, text: &str) {
    for text in text.lines() {
        paragraph(out, columns, indent, text);
    }
}

impl<'a> Line<'a> {
    /// Begins a line.
    pub fn begin(out: &'a mut String, columns: Option<usize>, indent: usize) -> Line<'a> {
        let columns = columns.map(|columns| columns.max(COLUMNS_MIN));
        let mut line = Line {
            out,
            columns,
            indent,
            used: 0,
            fresh: true,
        };
        line.indent = line.indent_of(indent);
        line
    }

    /// Returns an indent, reduced if the terminal is narrow.
    fn indent_of(&self, indent: usize) -> usize {
        match is_narrow(self.columns) {
            true => indent.min(NARROW_INDENT),
            false => indent,
        }
    }

    /// Appends a part of zero width, such as the escape sequence of a colour.
    pub fn code(&mut self, code: &str) {
        self.out.push_str(code);
    }

    /// Appends a part, which stays in one row if a row can hold it. The gap before it is omitted at
    /// the beginning of a row.
    pub fn part(&mut self, gap: &str, text: &str) {
        let gap = if self.fresh { "" } else { gap };
        self.fresh = false;
        let Some(columns) = self.columns else {
            self.out.push_str(gap);
            return self.out.push_str(text);
        };
        let (before, needed) = (width(gap), width(text));
        if self.used + before + needed <= columns {
            self.out.push_str(gap);
            self.out.push_str(text);
            self.used += before + needed;
            return;
        }
        if self.used > self.indent {
            self.next_row();
            self.fresh = false;
        }
        self.broken(columns, text);
    }

    /// Appends a part that `write` produces. Without a number of columns, `write` appends to the
    /// output directly, and no temporary string is needed.
    pub fn written(&mut self, gap: &str, write: impl Fn(&mut String)) {
        if self.columns.is_some() {
            let mut text = String::new();
            write(&mut text);
            return self.part(gap, &text);
        }
        if !self.fresh {
            self.out.push_str(gap);
        }
        self.fresh = false;
        write(self.out);
    }

    /// Returns whether the current row has room for a gap and a text.
    pub fn holds(&self, gap: &str, text: &str) -> bool {
        let needed = width(gap) + width(text);
        self.columns
            .is_none_or(|columns| self.used + needed <= columns)
    }

    /// Appends words, each of which stays in one row if a row can hold it. All spaces are kept.
    pub fn words(&mut self, text: &str) {
        if self.columns.is_none() {
            return self.out.push_str(text);
        }
        text.split_inclusive(' ')
            .for_each(|word| self.part("", word));
    }

    /// Appends words that `write` produces.
    pub fn words_with(&mut self, write: impl Fn(&mut String)) {
        if self.columns.is_none() {
            return self.written("", write);
        }
        let mut text = String::new();
        write(&mut text);
        self.words(&text);
    }

    /// Begins the next row.
    pub fn next_row(&mut self) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', self.indent));
        self.used = self.indent;
        self.fresh = true;
    }

    /// Ends the line.
    pub fn end(self) {
        self.out.push('\n');
    }

    /// Appends a text, with a row break before each character that would exceed the row.
    fn broken(&mut self, columns: usize, text: &str) {
        for character in text.chars() {
            let needed = columns_of(character);
            if self.used + needed > columns {
                self.next_row();
            }
            self.out.push(character);
            self.used += needed;
            self.fresh = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn laid_out(columns: usize, text: &str) -> String {
        let mut out = String::new();
        paragraph(&mut out, Some(columns), 4, text);
        out
    }

    #[test]
    fn a_line_goes_on_where_a_word_would_exceed_the_columns() {
        let text =
            "      handshake complete; MSS 1460 of the client, 1460 of the server, 1460 in force";
        let printed = laid_out(60, text);
        assert_eq!(
            printed,
            concat!(
                "      handshake complete; MSS 1460 of the client, 1460 of \n",
                "    the server, 1460 in force\n",
            )
        );
        // Narrower: a smaller indent.
        assert_eq!(
            laid_out(30, "  abcdefghij abcdefghij abcdefghij"),
            concat!("  abcdefghij abcdefghij \n", "  abcdefghij\n",)
        );
        // A word that no row can hold is broken, and nothing of it is lost.
        assert_eq!(
            laid_out(20, "abcdefghijklmnopqrstuvwxyz"),
            "abcdefghijklmnopqrst\n  uvwxyz\n"
        );
    }

    #[test]
    fn characters_take_the_columns_that_a_terminal_gives_them() {
        assert_eq!(width("héllo"), 5);
        assert_eq!(width("漢字"), 4);
        assert_eq!(width("e\u{301}"), 1);
    }

    proptest! {
        #[test]
        fn rows_fit_and_nothing_is_lost(
            words in prop::collection::vec("[ -~é漢]{1,30}", 1..20),
            columns in 20_usize..120,
            indent in 0_usize..12,
        ) {
            let mut out = String::new();
            let mut line = Line::begin(&mut out, Some(columns), indent);
            words.iter().for_each(|word| line.words(word));
            let indent = line.indent;
            line.end();
            let mut text = String::new();
            for (number, row) in out.lines().enumerate() {
                prop_assert!(width(row) <= columns, "{row:?}");
                let margin = if number == 0 { 0 } else { indent };
                prop_assert!(row[..margin].chars().all(|space| space == ' '));
                text.push_str(&row[margin..]);
            }
            prop_assert_eq!(text, words.concat());
        }
    }
}
