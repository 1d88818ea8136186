//! Renders a sweep as text for a person. Pure.

use crate::load::latency::Bound;
use crate::report::grid::{Grid, Side};
use crate::report::text::fitted;
use crate::sweep::{Point, Sweep};
use crate::units::{rate, short};

/// The column at which the text of a line begins, after its label.
const MARGIN: usize = 13;

/// Returns the text, for a terminal with this number of columns.
pub fn render(sweep: &Sweep, columns: Option<usize>) -> String {
    let mut page = String::new();
    let line = |label: &str, text: &str| format!("{label:MARGIN$}{text}\n");
    page += &line("target", &sweep.target);
    page += &line("sweep", &sweep.headline());
    page += "\n";
    page += &grid(sweep).lines(MARGIN, columns);
    let notes = sweep.notes();
    if !notes.is_empty() {
        page += "\n";
    }
    for note in notes {
        page += &line("note", &note);
    }
    fitted(&page, columns)
}

/// Returns what is known about a run, in a line of the log.
pub fn progress(point: &Point) -> String {
    let times = point.times.iter();
    let times = times.filter_map(|(percentile, found)| {
        let found = time((*found)?);
        Some(format!("{percentile} {found}"))
    });
    format!(
        "run {}: {}/s, achieved {}/s, {}: {}",
        point.number,
        point.load,
        rate(point.achieved),
        times.collect::<Vec<String>>().join(", "),
        point.verdict()
    )
}

fn grid(sweep: &Sweep) -> Grid {
    let head = |text: &str, side| (text.to_string(), side);
    let mut heads = vec![
        head("", Side::Left),
        head("rate", Side::Right),
        head("achieved", Side::Right),
    ];
    let points = sweep.percentiles.iter().map(ToString::to_string);
    heads.extend(points.map(|point| head(&point, Side::Right)));
    heads.extend([head("max", Side::Right), head("verdict", Side::Left)]);
    let row = |point: &Point| {
        let mut cells = vec![
            format!("run {}", point.number),
            format!("{}/s", point.load),
            format!("{}/s", rate(point.achieved)),
        ];
        let times = sweep.percentiles.iter().map(|it| point.time(*it));
        let times = times.chain([point.longest]);
        cells.extend(times.map(|found| found.map_or("-".to_string(), time)));
        cells.push(point.verdict());
        cells
    };
    Grid {
        heads,
        rows: sweep.points.iter().map(row).collect(),
    }
}

fn time(bound: Bound) -> String {
    let sign = if bound.at_least { ">= " } else { "" };
    format!("{sign}{}", short(bound.value))
}
