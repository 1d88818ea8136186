//! Renders a sweep as one HTML page: the curve of the response times over the rate, what was
//! achieved, and the table. Pure.
//!
//! Invariants: the page is one file, and refers to nothing outside of it. Every text that does not
//! come from this file is escaped. The curve goes through measured values only, and is interrupted
//! where a percentile is not known.

use std::fmt::Write;

use crate::load::latency::Bound;
use crate::load::latency::percentile::Percentile;
use crate::record::description::Description;
use crate::report::page::chart::{self, Chart, Key, Places, Values};
use crate::report::page::columns::number;
use crate::report::page::escape::escape;
use crate::report::page::scale::{self, Axis, Tick};
use crate::report::page::words::{UNKNOWN, known};
use crate::report::page::{document, script, tables};
use crate::search::goal::Load;
use crate::sweep::{Point, Sweep};
use crate::units::rate;

/// What the style sheet of the report does not have.
const STYLE: &str = "\
    .dots { stroke: var(--line); stroke-width: 8; stroke-linecap: round; }\n\
    td.word, thead th:last-child { text-align: left; }\n";

/// The curves, with their classes in the style sheet.
const CURVES: [(&str, &str, Percentile); 4] = [
    ("p50", "s0", Percentile::STANDARD[0]),
    ("p90", "s1", Percentile::STANDARD[1]),
    ("p99", "s2", Percentile::STANDARD[2]),
    ("p99.9", "s3", Percentile::STANDARD[3]),
];

/// A place of a figure with its value, if it is known.
type Place = (f64, Option<(f64, bool)>);

/// Returns the page.
pub fn render(sweep: &Sweep, run: &Description) -> String {
    let title = sweep.headline();
    let head = format!(
        "<header>\n<p class=\"kicker\">upcase load --sweep</p>\n<h1>{}</h1>\n\
         <p class=\"when\">{}; {} on {}; upcase {}</p>\n</header>\n",
        escape(&title),
        escape(&sweep.target),
        escape(&run.begun.utc),
        escape(&run.host.name),
        escape(&run.version)
    );
    let note = run.note.as_deref().map_or(String::new(), |note| {
        format!("<p class=\"user-note\">{}</p>\n", escape(note))
    });
    let (across, ticks) = axis(sweep);
    // Each word stays on one line, if a line can hold it.
    let words = run.command.split(' ');
    let words = words.map(|word| format!("<span>{}</span>", escape(word)));
    let body = [
        head,
        "<main>\n".to_string(),
        note,
        times(sweep, &across, &ticks),
        achieved(sweep, &across, &ticks),
        table(sweep),
        notes(sweep),
        format!(
            "<h2>Command</h2>\n<pre>{}</pre>\n</main>\n",
            words.collect::<Vec<String>>().join(" ")
        ),
    ];
    document(
        &format!("{title}: upcase load"),
        STYLE,
        &body.concat(),
        script(),
    )
}

/// Returns the axis of the rates that were asked for.
fn axis(sweep: &Sweep) -> (Axis, Vec<Tick>) {
    let most = sweep.loads.last().map_or(1.0, |load| load.per_second());
    scale::amounts(most, false, scale::number)
}

/// Returns the figure of the response times.
fn times(sweep: &Sweep, across: &Axis, ticks: &[Tick]) -> String {
    let title = "Response times over the rate";
    let all = sweep.points.iter().flat_map(|point| {
        let curves = CURVES.iter();
        curves.filter_map(|(.., percentile)| Some(number(point.time(*percentile)?.value)))
    });
    let all: Vec<f64> = all.collect();
    let (low, high) = (
        all.iter().copied().reduce(f64::min),
        all.iter().copied().reduce(f64::max),
    );
    let (Some(low), Some(high)) = (low, high) else {
        return chart::nothing("times", title, "No percentile is known.");
    };
    let (up, labels) = scale::durations(low, high, 10);
    let mut chart = marked(sweep, across);
    for (name, class, percentile) in CURVES {
        let places = sweep.points.iter().map(|point| {
            let found = point.time(percentile);
            let found = found.map(|found| (up.at(number(found.value)), found.at_least));
            (across.at(point.load.per_second()), found)
        });
        let places: Vec<Place> = places.collect();
        if places.iter().any(|(_, found)| found.is_some()) {
            chart.drawing.push_str(&curve(class, &places));
            chart.keys.push(Key::line(name, class));
        }
    }
    let is_bounded = |bound: Bound| bound.at_least;
    let mut bounds = sweep.points.iter().flat_map(|point| &point.times);
    if bounds.any(|(_, found)| found.is_some_and(is_bounded)) {
        let name = "dashed: lower bounds, since messages had no reply";
        chart.keys.push(Key::fixed(name, "s0 bound"));
    }
    chart.id = "times";
    chart.title = title;
    chart.caption =
        "The time from the instant at which a message was due to its whole reply, that \
                     a share of the messages did not exceed, at each rate that was asked for."
            .to_string();
    chart.facts = facts(sweep);
    chart.unit = "time; across: messages/s asked for";
    chart.across = ticks.to_vec();
    chart.up = labels;
    chart.values = Values {
        places: Some(places_of(sweep, across)),
        names: CURVES.iter().map(|(name, ..)| *name).collect(),
        rows: rows(sweep, |point| {
            let curves = CURVES.iter();
            let times = curves.map(|(.., percentile)| known(point.time(*percentile)));
            times.collect()
        }),
    };
    chart.render()
}

/// Returns the figure of what was achieved.
fn achieved(sweep: &Sweep, across: &Axis, ticks: &[Tick]) -> String {
    let asked = |point: &Point| across.at(point.load.per_second());
    let places = sweep
        .points
        .iter()
        .map(|point| (asked(point), Some((across.at(point.achieved), false))));
    let places: Vec<Place> = places.collect();
    let mut chart = marked(sweep, across);
    let (from, to) = (
        (chart::x(0.0), chart::y(0.0)),
        (chart::x(1.0), chart::y(1.0)),
    );
    let all = format!("M{} {}L{} {}", from.0, from.1, to.0, to.1);
    chart.drawing.push_str(&chart::path("limit", &all));
    chart.drawing.push_str(&curve("s0", &places));
    chart.keys.push(Key::fixed("achieved", "s0"));
    chart.id = "achieved";
    chart.title = "Rate achieved over the rate";
    chart.caption = "Messages per second with a correct reply. On the dotted diagonal, it is the \
                     rate that was asked for."
        .to_string();
    let rates = sweep.points.iter().map(|point| {
        let achieved = rate(point.achieved);
        format!("{achieved} of {}", point.load)
    });
    chart.facts = format!(
        "Messages per second achieved of those asked for: {}.",
        rates.collect::<Vec<String>>().join(", ")
    );
    chart.unit = "messages/s; across: asked for";
    chart.across = ticks.to_vec();
    chart.up = ticks.to_vec();
    chart.values = Values {
        places: Some(places_of(sweep, across)),
        names: vec!["achieved"],
        rows: rows(sweep, |point| vec![format!("{}/s", rate(point.achieved))]),
    };
    chart.render()
}

/// Returns a tall figure with marks at the runs that the server or the generator limited.
fn marked(sweep: &Sweep, across: &Axis) -> Chart {
    let mut chart = Chart {
        is_tall: true,
        ..Chart::default()
    };
    let at = |point: &Point| across.at(point.load.per_second());
    let exceeded = sweep.points.iter().filter(|point| point.is_exceeded());
    let lines: String = exceeded.map(|point| chart::upright(at(point))).collect();
    if !lines.is_empty() {
        chart.drawing.push_str(&chart::path("limit", &lines));
        let name = "dotted: server-bound, or failed";
        chart.keys.push(Key::fixed(name, "limit"));
    }
    let half = sweep
        .loads
        .windows(2)
        .next()
        .map_or(0.0, |pair| match pair {
            [one, other] => across.at(other.per_second() - one.per_second()) / 2.0,
            _ => 0.0,
        });
    let limited = sweep.points.iter().filter(|point| point.is_of_generator());
    let bands = limited.map(|point| {
        let (from, to) = (at(point) - half, at(point) + half);
        chart::band(from.max(0.0), to.min(1.0))
    });
    let bands: String = bands.collect();
    if !bands.is_empty() {
        chart.drawing.push_str(&chart::path("shade", &bands));
        chart.legend =
            "<p class=\"legend\">Shaded: the numbers are not those of the server, since \
                        the generator was the limit, or the run is inconclusive.</p>\n"
                .to_string();
    }
    chart
}

/// Returns a line through the known values, with a dot at each. Between values of which one is a
/// lower bound, it is dashed.
fn curve(class: &str, places: &[Place]) -> String {
    let (mut exact, mut bound, mut dots) = (String::new(), String::new(), String::new());
    let mut before: Option<(i64, i64, bool)> = None;
    for (at, found) in places {
        let x = chart::x(*at);
        let Some((value, at_least)) = found else {
            before = None;
            continue;
        };
        let y = chart::y(*value);
        if let Some((from, level, was_at_least)) = before {
            let path = match *at_least || was_at_least {
                true => &mut bound,
                false => &mut exact,
            };
            // Writing to a string cannot fail.
            let _ = write!(path, "M{from} {level}L{x} {y}");
        }
        let _ = write!(dots, "M{x} {y}h0");
        before = Some((x, y, *at_least));
    }
    format!(
        "<g class=\"{class}\">{}{}{}</g>",
        chart::path("line", &exact),
        chart::path("line bound", &bound),
        chart::path("dots", &dots)
    )
}

fn places_of(sweep: &Sweep, across: &Axis) -> Places {
    let at = |point: &Point| across.at(point.load.per_second());
    let name = |point: &Point| format!("{}/s", point.load);
    Places {
        at: sweep.points.iter().map(at).collect(),
        names: sweep.points.iter().map(name).collect(),
    }
}

fn rows(sweep: &Sweep, row: impl Fn(&Point) -> Vec<String>) -> Vec<Vec<String>> {
    sweep.points.iter().map(row).collect()
}

fn facts(sweep: &Sweep) -> String {
    let points = sweep.points.iter().map(|point| {
        let times = CURVES
            .iter()
            .filter_map(|(name, _, percentile)| {
                let found = point.time(*percentile);
                found.map(|_| format!("{name} {}", known(found)))
            })
            .collect::<Vec<String>>();
        format!("at {}/s {}", point.load, times.join(", "))
    });
    format!(
        "Response times: {}.",
        points.collect::<Vec<String>>().join("; ")
    )
}

fn table(sweep: &Sweep) -> String {
    let points = sweep.percentiles.iter().map(ToString::to_string);
    let heads = ["rate", "achieved"].map(str::to_string).into_iter();
    let heads = heads.chain(points);
    let heads = heads.chain(["max", "verdict"].map(str::to_string));
    let heads: Vec<String> = heads.collect();
    let mut html = "<h2>All runs</h2>\n".to_string() + &tables::begin("All runs", &heads);
    for point in &sweep.points {
        let times = sweep.percentiles.iter().map(|it| point.time(*it));
        let times = times.chain([point.longest]);
        let times = times.map(|found| format!("<td>{}</td>", escape(&known(found))));
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}/s</th><td>{}/s</td>{}<td class=\"word\">{}</td></tr>",
            point.load,
            escape(&rate(point.achieved)),
            times.collect::<String>(),
            escape(&point.verdict())
        );
    }
    let missing: Vec<&Load> = sweep.loads.iter().skip(sweep.points.len()).collect();
    for load in missing {
        let cells = format!("<td>{UNKNOWN}</td>").repeat(heads.len().saturating_sub(2));
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{load}/s</th>{cells}<td class=\"word\">not run</td></tr>"
        );
    }
    html + tables::END
}

fn notes(sweep: &Sweep) -> String {
    let notes = sweep.notes();
    if notes.is_empty() {
        return String::new();
    }
    let items = notes
        .iter()
        .map(|note| format!("<li>{}</li>\n", escape(note)));
    format!("<h2>Notes</h2>\n<ul>\n{}</ul>\n", items.collect::<String>())
}
