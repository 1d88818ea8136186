//! Lays out a table for a person: columns as wide as their cells, or a sentence for each row where
//! the table would be wider than the terminal. Pure.

use crate::report::columns::{is_narrow, width};

/// The text between two cells.
const GAP: &str = "  ";

/// The side of a column on which its cells begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A table. Every row has as many cells as there are heads.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    /// The heads of the columns, and where their cells begin.
    pub heads: Vec<(String, Side)>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// Returns the lines of the table, for a terminal with this number of columns. The first column
    /// is at least `margin` wide, with the gap behind it.
    pub fn lines(&self, margin: usize, columns: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| width(head)).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(cell).max(*widest);
            }
        }
        if let Some(first) = widths.first_mut() {
            *first = margin.saturating_sub(GAP.len()).max(*first);
        }
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let whole = widths.iter().sum::<usize>() + gaps;
        if is_narrow(columns) || columns.is_some_and(|columns| whole > columns) {
            return self.sentences(margin);
        }
        let heads = self.heads.iter().map(|(head, _)| head.as_str()).collect();
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(String::as_str).collect());
        let lines = [heads].into_iter().chain(rows);
        lines.map(|cells| self.line(&widths, cells)).collect()
    }

    fn line(&self, widths: &[usize], cells: Vec<&str>) -> String {
        let mut line = String::new();
        for (place, (cell, (column, (_, side)))) in cells
            .into_iter()
            .zip(widths.iter().zip(&self.heads))
            .enumerate()
        {
            let gap = if place == 0 { "" } else { GAP };
            let pad = " ".repeat(column.saturating_sub(width(cell)));
            line.push_str(gap);
            match side {
                Side::Left => line.extend([cell, pad.as_str()]),
                Side::Right => line.extend([pad.as_str(), cell]),
            }
        }
        line.trim_end().to_string() + "\n"
    }

    fn sentences(&self, margin: usize) -> String {
        let mut lines = String::new();
        for row in &self.rows {
            let mut cells = row.iter().zip(&self.heads);
            let Some((first, _)) = cells.next() else {
                continue;
            };
            let parts = cells.filter(|(cell, _)| !cell.is_empty());
            let parts = parts.map(|(cell, (head, _))| match head.as_str() {
                "" => cell.clone(),
                head => format!("{head} {cell}"),
            });
            let text = parts.collect::<Vec<String>>().join(", ");
            lines += &format!("{first:margin$}{text}\n");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_or_a_list() {
        let text = |text: &str| text.to_string();
        let grid = Grid {
            heads: vec![
                (text(""), Side::Left),
                (text("rate"), Side::Right),
                (text("verdict"), Side::Left),
            ],
            rows: vec![
                vec![text("run 1"), text("1,000/s"), text("valid")],
                vec![text("run 10"), text("5/s"), text("")],
            ],
        };
        let expected = concat!(
            "             rate  verdict\n",
            "run 1     1,000/s  valid\n",
            "run 10        5/s\n",
        );
        assert_eq!(grid.lines(10, Some(80)), expected);
        assert_eq!(grid.lines(10, None), expected);
        let expected = concat!(
            "run 1     rate 1,000/s, verdict valid\n",
            "run 10    rate 5/s\n",
        );
        assert_eq!(grid.lines(10, Some(40)), expected);
    }
}
