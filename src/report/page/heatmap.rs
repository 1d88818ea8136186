//! The heat map of the response times: columns of time, rows of a logarithmic axis of durations,
//! and a colour for the number of messages in each cell. Pure.
//!
//! Invariant: every message of every column is in a cell; cells that hold messages without a reply
//! are outlined, since the true times are longer.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::report::page::chart::{self, Chart, Key, Values};
use crate::report::page::columns::{CELLS_A_DECADE, Cell, Column, Columns, Point, Times};
use crate::report::page::escape::escape;
use crate::report::page::scale::{self, Axis, Tick};
use crate::report::page::words::{UNKNOWN, bound};
use crate::units::{counted, grouped};

/// The number of colours.
const COLOURS: usize = 10;

/// Maximum number of rows; of more, neighbours are joined.
const ROWS_MAX: i32 = 96;

/// Minimum number of rows: one decade.
const ROWS_MIN: i32 = CELLS_A_DECADE;

/// The rows of the map, of which each has one or more neighbouring cells.
#[derive(Clone, Copy, Debug)]
struct Rows {
    /// The first cell of the lowest row.
    lowest: i32,
    /// The number of cells in a row.
    joined: i32,
    /// The number of rows.
    count: i32,
}

/// The colours of the counts.
#[derive(Clone, Debug)]
struct Colours {
    /// The smallest count of each colour that is used.
    least: Vec<u64>,
    /// The largest count.
    most: u64,
}

/// Returns the figure. The axis of time is that of all figures of the section, and so is the shade
/// of the columns that are not part of the result. `stages`: the names of the stages, as HTML for
/// the space above the drawing.
pub fn render(
    columns: &Columns,
    time: &Axis,
    across: Vec<Tick>,
    shade: &str,
    stages: &str,
) -> String {
    let title = "Response times: heat map";
    let Some(rows) = Rows::of(columns) else {
        return chart::nothing("heat", title, "No message ended in an interval.");
    };
    let map = columns.list.iter().map(|column| rows.join(column));
    let map: Vec<BTreeMap<i32, Cell>> = map.collect();
    let counts = map.iter().flat_map(BTreeMap::values).map(|cell| cell.count);
    let colours = Colours::new(counts.max().unwrap_or(1));
    let axis = rows.axis();
    let has_bounds = map.iter().flat_map(BTreeMap::values).any(|it| it.at_least);
    let values = columns.list.iter().map(|column| values(&column.response));
    let keys = match has_bounds {
        true => vec![Key::fixed(
            "outlined: messages without a reply, at least as long",
            "bound-cell",
        )],
        false => Vec::new(),
    };
    let chart = Chart {
        id: "heat",
        title,
        caption: format!(
            "Each cell counts the messages that ended in its column ({}), with a response time in \
             its row.",
            columns.length()
        ),
        facts: facts(columns),
        unit: "response time",
        is_tall: true,
        across,
        up: scale::decades(&axis, 12),
        drawing: shade.to_string() + &draw(columns, time, &map, rows, &colours),
        keys,
        legend: colours.legend() + stages,
        values: Values {
            places: None,
            names: vec!["messages", "p50", "p99", "longest"],
            rows: values.collect(),
        },
    };
    chart.render()
}

/// Returns the values of a column, in the order of their names.
fn values(times: &Times) -> Vec<String> {
    let longest = times.longest.map_or(UNKNOWN.to_string(), bound);
    let text = |point: Option<Point>| point.map_or(UNKNOWN.to_string(), Point::text);
    let count = grouped(times.count).to_string();
    vec![count, text(times.p50), text(times.p99), longest]
}

fn facts(columns: &Columns) -> String {
    let count = columns.list.iter().map(|column| column.response.count);
    let count = count.fold(0, u64::saturating_add);
    let (from, to) = columns.span();
    let mut facts = format!(
        "Heat map of {} from {from:.0} to {to:.0} s.",
        counted(count, "response time")
    );
    let longest = |column: &&Column| column.response.longest.map(|it| it.value);
    if let Some(slowest) = columns.list.iter().max_by_key(longest)
        && let Some(longest) = slowest.response.longest
    {
        let _ = write!(
            facts,
            " The longest is {}, from {}.",
            bound(longest),
            slowest.when()
        );
    }
    facts
}

fn draw(
    columns: &Columns,
    time: &Axis,
    map: &[BTreeMap<i32, Cell>],
    rows: Rows,
    colours: &Colours,
) -> String {
    let mut fills = vec![String::new(); COLOURS];
    let mut outlines = String::new();
    for (place, (column, cells)) in columns.list.iter().zip(map).enumerate() {
        let (left, right) = (chart::x(time.at(column.from)), chart::x(time.at(column.to)));
        let right = right.max(left + 1);
        for (row, cell) in cells {
            let (bottom, top) = (rows.edge(*row), rows.edge(row + 1));
            let (width, height) = (right - left, bottom - top);
            let rectangle = format!("M{left} {top}h{width}v{height}h-{width}z");
            if let Some(fill) = fills.get_mut(colours.of(cell.count)) {
                fill.push_str(&rectangle);
            }
            let is_bound = |place: Option<usize>, row: i32| {
                let cell = map.get(place?)?.get(&row)?;
                cell.at_least.then_some(())
            };
            let edges = [
                (
                    is_bound(Some(place), row + 1),
                    format!("M{left} {top}h{width}"),
                ),
                (
                    is_bound(Some(place), row - 1),
                    format!("M{left} {bottom}h{width}"),
                ),
                (
                    is_bound(place.checked_sub(1), *row),
                    format!("M{left} {top}v{height}"),
                ),
                (
                    is_bound(Some(place + 1), *row),
                    format!("M{right} {top}v{height}"),
                ),
            ];
            let outer = edges
                .into_iter()
                .filter(|(inside, _)| cell.at_least && inside.is_none());
            outlines.extend(outer.map(|(_, edge)| edge));
        }
    }
    let classes = (0..COLOURS).map(|colour| format!("cell h{colour}"));
    let cells = classes
        .zip(&fills)
        .map(|(class, fill)| chart::path(&class, fill));
    cells.collect::<String>() + &chart::path("bound-cell", &outlines)
}

impl Rows {
    /// Returns the rows that hold all cells; `None` if there are none.
    fn of(columns: &Columns) -> Option<Rows> {
        let cells = columns.list.iter().flat_map(|column| column.cells.keys());
        let lowest = cells.clone().min().copied()?;
        let highest = cells.max().copied()?;
        let count = highest - lowest + 1;
        let short = (ROWS_MIN - count).max(0);
        let joined = (count + ROWS_MAX - 1) / ROWS_MAX;
        let lowest = lowest - short / 2;
        Some(Rows {
            lowest,
            joined,
            count: (count + short + joined - 1) / joined,
        })
    }

    /// Returns the cells of a column by row.
    fn join(&self, column: &Column) -> BTreeMap<i32, Cell> {
        let mut rows: BTreeMap<i32, Cell> = BTreeMap::new();
        for (place, cell) in &column.cells {
            let row = rows.entry((place - self.lowest) / self.joined).or_default();
            row.count = row.count.saturating_add(cell.count);
            row.at_least |= cell.at_least;
        }
        rows
    }

    /// Returns the position of the lower edge of a row in the drawing.
    fn edge(&self, row: i32) -> i64 {
        chart::y(f64::from(row) / f64::from(self.count))
    }

    /// Returns the axis of the durations.
    fn axis(&self) -> Axis {
        let duration = |row: i32| {
            let cell = self.lowest + row * self.joined;
            10f64.powf(f64::from(cell) / f64::from(CELLS_A_DECADE))
        };
        Axis::log(duration(0), duration(self.count))
    }
}

impl Colours {
    /// Returns colours for counts from 1 to `most`, each of them for a multiple of the counts of
    /// the one before.
    fn new(most: u64) -> Colours {
        let least = |colour: usize| {
            let part = colour as f64 / COLOURS as f64;
            (most as f64 + 1.0).powf(part).ceil() as u64
        };
        let mut least: Vec<u64> = (0..COLOURS).map(least).collect();
        least.retain(|count| *count <= most.max(1));
        least.dedup();
        Colours { least, most }
    }

    /// Returns the colour of a count. The colours that are used are spread over all colours.
    fn of(&self, count: u64) -> usize {
        let step = self.least.partition_point(|least| *least <= count);
        self.spread(step.saturating_sub(1))
    }

    fn spread(&self, step: usize) -> usize {
        match self.least.len() {
            0 | 1 => COLOURS - 1,
            steps => step * (COLOURS - 1) / (steps - 1),
        }
    }

    fn legend(&self) -> String {
        let ends = self.least.iter().skip(1).map(|next| next - 1);
        let ends = ends.chain([self.most]);
        let mut html = "<div class=\"legend\"><span>messages in a cell</span>".to_string();
        for (step, (from, to)) in self.least.iter().zip(ends).enumerate() {
            let colour = self.spread(step);
            let range = match *from < to {
                true => format!("{} to {}", grouped(*from), grouped(to)),
                false => grouped(*from).to_string(),
            };
            let _ = write!(
                html,
                "<span class=\"key\"><svg class=\"patch\" viewBox=\"0 0 12 12\" \
                 aria-hidden=\"true\"><path class=\"h{colour}\" d=\"M0 0h12v12H0z\"/></svg>\
                 {}</span>",
                escape(&range)
            );
        }
        html + "</div>\n"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_count_has_a_colour_and_more_messages_none_below(most in 1u64.., one in 1u64..) {
            let colours = Colours::new(most);
            let (one, other) = (one.min(most), most);
            prop_assert!(colours.of(one) <= colours.of(other));
            prop_assert_eq!(colours.of(other), COLOURS - 1);
            prop_assert!(colours.legend().contains("</span>"));
        }

        #[test]
        fn every_message_is_in_a_row(
            cells in prop::collection::btree_map(0i32..232, 1u64..1 << 40, 1..50),
        ) {
            let cell = |(place, count)| (place, Cell { count, at_least: false });
            let cells: BTreeMap<i32, Cell> = cells.into_iter().map(cell).collect();
            let all: u64 = cells.values().map(|cell| cell.count).sum();
            let column = Column { cells, ..Column::default() };
            let columns = Columns { list: vec![column], ..Columns::default() };
            let rows = Rows::of(&columns).unwrap();
            prop_assert!((ROWS_MIN..=ROWS_MAX).contains(&rows.count), "{rows:?}");
            let joined = rows.join(&columns.list[0]);
            prop_assert_eq!(joined.values().map(|cell| cell.count).sum::<u64>(), all);
            prop_assert!(joined.keys().all(|row| (0..rows.count).contains(row)), "{rows:?}");
        }
    }
}
