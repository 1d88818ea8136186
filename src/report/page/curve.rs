//! The percentile curve of the response and the service times, on the axis that is usual for it:
//! 1/(1-p), logarithmic, so that each further nine has the same width. Pure.
//!
//! Invariant: the curve goes through measured values only and ends at the longest one. From the
//! first sample that is a lower bound on, it is marked as one; beyond the last percentile that
//! enough samples support, it is drawn faintly.

use std::fmt::Write;

use crate::load::judge::verdict::Judged;
use crate::load::latency::{BEYOND, Bound, Distribution};
use crate::report::page::chart::{self, Chart, Key, Places, Values};
use crate::report::page::columns::number;
use crate::report::page::scale::{self, Axis, Tick};
use crate::report::page::words::{UNKNOWN, bound, percentiles};
use crate::units::counted;

/// Number of points of the curve.
const POINTS: usize = 240;

/// Maximum number of nines on the axis.
const NINES: i32 = 12;

/// One point of a curve.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// The number of nines of its percentile: log10(1/(1-p)).
    nines: f64,
    value: Bound,
    /// Whether fewer samples lie beyond it than a percentile needs.
    is_faint: bool,
}

/// A curve with its name and its class in the style sheet.
struct Curve {
    name: &'static str,
    class: &'static str,
    points: Vec<Point>,
}

/// Returns the figure.
pub fn render(judged: &Judged) -> String {
    let title = "Percentiles of the whole run";
    let results = &judged.summary.results;
    let measured = [
        ("response", "s0", results.response.distribution()),
        ("service", "s1", results.service.distribution()),
    ];
    let counts = measured
        .iter()
        .filter_map(|(.., all)| Some(all.as_ref()?.count()));
    let Some(count) = counts.max() else {
        return chart::nothing(
            "curve",
            title,
            "No message ended: there are no times to show.",
        );
    };
    let across = Axis::linear(0.0, last_nines(count));
    let curve = |(name, class, all): &(&'static str, &'static str, Option<Distribution>)| {
        let points = points(all.as_ref()?, last_nines(count));
        Some(Curve {
            name,
            class,
            points,
        })
    };
    let curves: Vec<Curve> = measured.iter().filter_map(curve).collect();
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let values = all().map(|point| number(point.value.value));
    let (low, high) = (values.clone().reduce(f64::min), values.reduce(f64::max));
    let (up, labels) = scale::durations(low.unwrap_or(1.0), high.unwrap_or(1.0), 10);
    let marks = marks(judged, &across);
    let lines = curves.iter().map(|curve| draw(curve, &across, &up));
    let mut keys: Vec<Key> = curves
        .iter()
        .map(|it| Key::line(it.name, it.class))
        .collect();
    keys.extend(marks.keys);
    if all().any(|point| point.is_faint) {
        keys.push(Key::fixed(
            "faint: hardly known, fewer than 10 samples beyond",
            "s0 faint",
        ));
    }
    let chart = Chart {
        id: "curve",
        title,
        caption: caption(judged),
        facts: facts(judged),
        unit: "time",
        is_tall: true,
        across: ticks(&across, count),
        up: labels,
        drawing: marks.drawing + &lines.collect::<String>(),
        keys,
        legend: String::new(),
        values: hover(&curves, &across),
    };
    chart.render()
}

/// Returns the nines at which the longest of so many samples is drawn: in the middle of its rank.
fn last_nines(count: u64) -> f64 {
    (count as f64 * 2.0).log10().min(f64::from(NINES) + 1.0)
}

/// Returns the points of a curve on a grid that ends at `last`, up to its own longest sample.
fn points(all: &Distribution, last: f64) -> Vec<Point> {
    let count = all.count() as f64;
    let own_last = last_nines(all.count());
    let supported = (count / BEYOND as f64).log10();
    let grid = (0..=POINTS).map(|place| place as f64 / POINTS as f64 * last);
    let inner = grid.take_while(|nines| *nines < own_last * 0.999_999);
    let inner = inner.map(|nines| (nines, all.nearest(percent(nines))));
    let longest = (own_last, all.longest());
    let points = inner.chain([longest]).map(|(nines, value)| Point {
        nines,
        value,
        is_faint: nines > supported,
    });
    points.collect()
}

/// Returns the percentile with a number of nines.
fn percent(nines: f64) -> f64 {
    100.0 * (1.0 - 10f64.powf(-nines))
}

/// Returns the number of nines of a percentile.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-15).log10()
}

fn draw(curve: &Curve, across: &Axis, up: &Axis) -> String {
    let mut lines = String::new();
    let is_alike = |one: &Point, other: &Point| {
        (one.value.at_least, one.is_faint) == (other.value.at_least, other.is_faint)
    };
    let mut before: Option<&Point> = None;
    for part in curve.points.chunk_by(is_alike) {
        let mut path = String::new();
        for point in before.into_iter().chain(part) {
            let x = chart::x(across.at(point.nines));
            let y = chart::y(up.at(number(point.value.value)));
            let command = if path.is_empty() { 'M' } else { 'L' };
            // Writing to a string cannot fail.
            let _ = write!(path, "{command}{x} {y}");
        }
        let Some(last) = part.last() else { continue };
        if before.is_none() && part.len() == 1 {
            path.push_str("h1");
        }
        let bound = if last.value.at_least { " bound" } else { "" };
        let faint = if last.is_faint { " faint" } else { "" };
        lines.push_str(&chart::path(&format!("line{bound}{faint}"), &path));
        before = Some(last);
    }
    format!("<g class=\"{}\">{lines}</g>", curve.class)
}

/// Marks on the curve that concern all of its lines.
struct Marks {
    drawing: String,
    keys: Vec<Key>,
}

fn marks(judged: &Judged, across: &Axis) -> Marks {
    let mut marks = Marks {
        drawing: String::new(),
        keys: Vec::new(),
    };
    let response = judged.summary.results.response.distribution();
    if let Some(from) = response.and_then(|all| all.at_least_from()) {
        let band = chart::band(across.at(nines(from)), 1.0);
        marks.drawing.push_str(&chart::path("shade", &band));
        let name = "lower bounds: the true response is longer";
        marks.keys.push(Key::fixed(name, "s0 bound"));
    }
    if let Some(point) = judged.findings.valid_up_to {
        let line = chart::upright(across.at(nines(point.percent())));
        marks.drawing.push_str(&chart::path("limit", &line));
        let name = "right of it: the generator's own delays";
        marks.keys.push(Key::fixed(name, "limit"));
    }
    marks
}

/// Returns the labels of the axis, the most important ones first.
fn ticks(across: &Axis, count: u64) -> Vec<Tick> {
    let tick = |at: f64, label: &str| Tick {
        at: across.at(at),
        label: label.to_string(),
    };
    let last = last_nines(count);
    let mut ticks = vec![tick(last, "max")];
    let shown = |place: f64| place < last - 0.02;
    for exponent in (1..=NINES).map(f64::from).filter(|place| shown(*place)) {
        // With `exponent` nines the percentile needs two digits fewer after the point.
        let digits = (exponent as usize).saturating_sub(2);
        ticks.push(tick(exponent, &format!("p{:.digits$}", percent(exponent))));
    }
    for (percentile, label) in [(50.0, "p50"), (0.0, "min"), (75.0, "p75")] {
        if shown(nines(percentile)) {
            ticks.push(tick(nines(percentile), label));
        }
    }
    ticks
}

fn hover(curves: &[Curve], across: &Axis) -> Values {
    let longest = curves.iter().max_by_key(|curve| curve.points.len());
    let points = longest
        .map(|curve| curve.points.as_slice())
        .unwrap_or_default();
    let last = points.len().saturating_sub(1);
    let name = |(place, point): (usize, &Point)| match place == last {
        true => "longest".to_string(),
        false => {
            let digits = point.nines.ceil().clamp(1.0, 12.0) as usize;
            format!("p{:.digits$}", percent(point.nines))
        }
    };
    let value = |curve: &Curve, place: usize| {
        let point = curve.points.get(place);
        point.map_or(UNKNOWN.to_string(), |point| bound(point.value))
    };
    let row = |place| curves.iter().map(|curve| value(curve, place)).collect();
    Values {
        places: Some(Places {
            at: points.iter().map(|point| across.at(point.nines)).collect(),
            names: points.iter().enumerate().map(name).collect(),
        }),
        names: curves.iter().map(|curve| curve.name).collect(),
        rows: (0..points.len()).map(row).collect(),
    }
}

fn caption(judged: &Judged) -> String {
    let mut caption = "The time that a share of the messages did not exceed. Response: from the \
                       instant at which a message was due; service: from its send."
        .to_string();
    let response = &judged.summary.results.response;
    if let Some(from) = response.distribution().and_then(|all| all.at_least_from()) {
        let _ = write!(
            caption,
            " From the {from:.4} % point on (dashed, shaded), the response is known only to be at \
             least as long: messages had no correct reply, and count with their age."
        );
    }
    if let Some(point) = judged.findings.valid_up_to {
        let _ = write!(
            caption,
            " The run is valid up to {point}: above it, the times are those of the generator."
        );
    }
    caption
}

fn facts(judged: &Judged) -> String {
    let results = &judged.summary.results;
    let count = counted(results.response.count(), "response time");
    format!(
        "Percentile curve of {count}. Response: {}. Service: {}.",
        percentiles(&results.response),
        percentiles(&results.service)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::latency::Latency;

    #[test]
    fn a_curve_ends_at_the_longest_sample() {
        for count in [1, 2, 19, 1000, 100_000] {
            let mut latency = Latency::default();
            (1..=count).for_each(|time| latency.record(Duration::from_micros(time)));
            let all = latency.distribution().unwrap();
            let points = points(&all, last_nines(count));
            let last = points.last().unwrap();
            assert_eq!(last.value, all.longest(), "{count}");
            assert_eq!(last.nines, last_nines(count));
            let is_sorted = points.windows(2).all(|pair| {
                pair[0].nines < pair[1].nines && pair[0].value.value <= pair[1].value.value
            });
            assert!(is_sorted, "{count}: {points:?}");
        }
    }

    #[test]
    fn percentiles_are_at_their_nines() {
        for (percentile, expected) in [(0.0, 0.0), (90.0, 1.0), (99.9, 3.0)] {
            assert!((nines(percentile) - expected).abs() < 1e-9, "{percentile}");
            assert!(
                (percent(expected) - percentile).abs() < 1e-9,
                "{percentile}"
            );
        }
        assert!(nines(100.0) >= 15.0);
        let across = Axis::linear(0.0, last_nines(60_000));
        let labels: Vec<String> = ticks(&across, 60_000)
            .into_iter()
            .map(|it| it.label)
            .collect();
        let expected = [
            "max", "p90", "p99", "p99.9", "p99.99", "p99.999", "p50", "min", "p75",
        ];
        assert_eq!(labels, expected);
    }
}
