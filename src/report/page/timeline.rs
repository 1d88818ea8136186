//! The figures over time: messages, outstanding messages, errors, lateness, CPU and memory. All
//! have the same columns and the same axis of time, one below the other. Pure.
//!
//! Invariant: a line has one level for each column, and a gap where the value is not known.

use std::fmt::Write;
use std::time::Duration;

use crate::load::latency::Bound;
use crate::load::plan::profile::Profile;
use crate::load::results::recorder::Tag;
use crate::report::page::chart::{self, Chart, Key, Places, Values};
use crate::report::page::columns::{Column, Columns, Point, number};
use crate::report::page::heatmap;
use crate::report::page::scale::{self, Axis, Tick};
use crate::report::page::words::{UNKNOWN, bound};
use crate::units::{bytes, grouped, rate};

/// Maximum number of labels beside a row of lines.
const LABELS_MAX: usize = 6;

/// The factor by which an axis is longer than its values need, so that no line lies on its end.
const ROOM: f64 = 1.03;

/// The classes of the lines in the style sheet.
const CLASSES: [&str; 4] = ["s0", "s1", "s2", "s3"];

/// A value of a line.
#[derive(Clone, Debug)]
struct Value {
    number: f64,
    text: String,
    /// Whether it is a lower bound.
    at_least: bool,
    /// Whether it is hardly known.
    is_faint: bool,
}

/// A line: its name, and its value in each column.
struct Line {
    name: &'static str,
    values: Vec<Option<Value>>,
}

/// The kind of the vertical axis.
#[derive(Clone, Copy)]
enum Kind {
    /// Durations, logarithmic.
    Durations,
    /// Whole numbers from 0.
    Counts,
    /// Amounts from 0, with their labels.
    Amounts(fn(f64) -> String),
}

/// What is drawn in a row, apart from its lines.
struct Row {
    id: &'static str,
    title: &'static str,
    caption: &'static str,
    unit: &'static str,
    kind: Kind,
}

/// The section: its columns, and the axis of time that its figures share.
struct Section<'a> {
    columns: &'a Columns,
    time: Axis,
    across: Vec<Tick>,
    shade: String,
    /// The names of the stages of a profile, for the space above a drawing.
    stages: String,
}

/// Returns the section; empty if the run has no intervals. The boundaries of the stages of a
/// profile are marked in every figure.
pub fn render(columns: &Columns, profile: Option<&Profile>) -> String {
    if columns.list.is_empty() {
        return "<section id=\"time\">\n<h2>Over time</h2>\n<p>The run has no intervals, so there \
                is nothing to show over time.</p>\n</section>\n"
            .to_string();
    }
    let (from, to) = columns.span();
    let (time, across) = scale::time(from, to);
    let middle = |column: &Column| f64::midpoint(column.from, column.to);
    let list = columns.list.iter();
    let places = Places {
        at: list.clone().map(|column| time.at(middle(column))).collect(),
        names: list.map(Column::when).collect(),
    };
    let marks = boundaries(profile, &time);
    let section = Section {
        columns,
        time,
        across,
        shade: shade(columns, &time) + &chart::path("boundary", &marks),
        stages: ruler(profile, &time),
    };
    let figures = [
        section.heat(),
        section.responses(),
        section.messages(),
        section.outstanding(),
        section.troubles(),
        section.connections(),
        section.lateness(),
        section.cpu(),
        section.memory(),
    ];
    format!(
        "<section id=\"time\"{}>\n<h2>Over time</h2>\n<p>{}</p>\n{}</section>\n",
        places.data(),
        introduction(columns, &section.stages),
        figures.concat()
    )
}

fn introduction(columns: &Columns, stages: &str) -> String {
    let mut text = format!(
        "All figures share the columns and the axis, the time after the start of the run. {}",
        columns.describe()
    );
    if !stages.is_empty() {
        text.push_str(" Dashed upright lines: the boundaries between the stages of the rate.");
    }
    let has = |tag| columns.list.iter().any(|column| column.tag == tag);
    let shaded = match (has(Tag::Warmup), has(Tag::Drain)) {
        (true, true) => "the warm-up, and at the end the wait for outstanding messages",
        (true, false) => "the warm-up",
        (false, true) => "the wait for outstanding messages at the end",
        (false, false) => return text,
    };
    let _ = write!(text, " Shaded: {shaded}.");
    text
}

/// Returns the bands of the columns that are not part of the result.
fn shade(columns: &Columns, time: &Axis) -> String {
    let outside = columns.list.iter().filter(|column| column.tag != Tag::Run);
    let bands = outside.map(|column| chart::band(time.at(column.from), time.at(column.to)));
    chart::path("shade", &bands.collect::<String>())
}

/// Returns lines at the boundaries between the stages of a profile.
fn boundaries(profile: Option<&Profile>, time: &Axis) -> String {
    let begins = spans(profile).skip(1);
    let lines = begins.map(|(_, from, _)| chart::upright(time.at(from)));
    lines.collect()
}

/// Returns the names of the stages of a profile, each above its part of the drawing; empty for a
/// profile of one stage.
fn ruler(profile: Option<&Profile>, time: &Axis) -> String {
    let stages = profile.map_or(0, |profile| profile.stages().len());
    if stages < 2 {
        return String::new();
    }
    let mut html = "<div class=\"stages\" role=\"img\" aria-label=\"The stages\">".to_string();
    for (stage, from, to) in spans(profile) {
        let (from, to) = (time.at(from) * 100.0, time.at(to) * 100.0);
        let _ = write!(
            html,
            "<span style=\"left:{from:.2}%;width:{:.2}%\" title=\"{stage}\">{stage}</span>",
            to - from,
        );
    }
    html + "</div>\n"
}

/// Returns the stages of a profile in words, with their beginning and their end in seconds.
fn spans(profile: Option<&Profile>) -> impl Iterator<Item = (String, f64, f64)> {
    let stages = profile.into_iter().flat_map(|profile| {
        let stages = profile.stages().enumerate();
        stages.filter_map(|(index, stage)| Some((index, stage, profile.span(index)?)))
    });
    stages.map(|(index, stage, (from, to))| {
        let name = format!("{}: {stage}", index + 1);
        (name, from.as_secs_f64(), to.as_secs_f64())
    })
}

impl Section<'_> {
    fn line(&self, name: &'static str, value: impl Fn(&Column) -> Option<Value>) -> Line {
        Line {
            name,
            values: self.columns.list.iter().map(value).collect(),
        }
    }

    fn heat(&self) -> String {
        let across = self.across.clone();
        heatmap::render(self.columns, &self.time, across, &self.shade, &self.stages)
    }

    fn responses(&self) -> String {
        let row = Row {
            id: "responses",
            title: "Response times",
            caption: "Percentiles of the messages that ended in a column. Dashed: a lower bound, \
                      since messages had no reply. Faint, and marked with ~: fewer than 10 \
                      messages lie beyond the percentile, so it is hardly known.",
            unit: "response time",
            kind: Kind::Durations,
        };
        let lines = [
            self.line("p50", |column| column.response.p50.map(Value::point)),
            self.line("p99", |column| column.response.p99.map(Value::point)),
            self.line("longest", |column| {
                column.response.longest.map(Value::bound)
            }),
        ];
        self.row(&row, &lines)
    }

    fn messages(&self) -> String {
        let row = Row {
            id: "messages",
            title: "Messages: asked and achieved",
            caption: "Messages that became due, and messages whose reply was correct, per second.",
            unit: "messages per second",
            kind: Kind::Amounts(scale::number),
        };
        let lines = [
            self.line("asked", |column| Value::per_second(column, column.due)),
            self.line("achieved", |column| {
                Value::per_second(column, column.verified)
            }),
        ];
        self.row(&row, &lines)
    }

    fn outstanding(&self) -> String {
        let row = Row {
            id: "outstanding",
            title: "Messages: outstanding",
            caption: "Messages that were due and had no outcome at the end of an interval; of \
                      joined intervals, the largest number.",
            unit: "messages",
            kind: Kind::Counts,
        };
        let lines = [self.line("outstanding", |it| Some(Value::count(it.outstanding)))];
        self.row(&row, &lines)
    }

    fn troubles(&self) -> String {
        let row = Row {
            id: "errors",
            title: "Errors, reconnects and retransmits",
            caption: "Messages that ended without a correct reply; broken connections and failed \
                      attempts to connect; connections that were established after the start; \
                      segments that TCP on the client's host sent again.",
            unit: "per second",
            kind: Kind::Amounts(scale::number),
        };
        let lines = [
            self.line("lost messages", |column| {
                Value::per_second(column, column.lost)
            }),
            self.line("errors", |column| Value::per_second(column, column.errors)),
            self.line("reconnects", |column| {
                Value::per_second(column, column.opened)
            }),
            self.line("retransmits", |column| {
                Value::per_second(column, column.resent?)
            }),
        ];
        let values = lines.iter().flat_map(|line| line.values.iter().flatten());
        if values.clone().all(|value| value.number == 0.0) {
            let is_known = self
                .columns
                .list
                .iter()
                .any(|column| column.resent.is_some());
            let none = match is_known {
                true => {
                    "None in any interval: no message was lost, no connection broke, none was \
                         opened after the start, and no segment was sent again."
                }
                false => {
                    "None in any interval: no message was lost, no connection broke, and none \
                          was opened after the start. Retransmits are not known."
                }
            };
            return chart::nothing(row.id, row.title, none);
        }
        self.row(&row, &lines)
    }

    fn connections(&self) -> String {
        let row = Row {
            id: "connections",
            title: "Connections",
            caption: "Connections that were up at the end of an interval.",
            unit: "connections",
            kind: Kind::Counts,
        };
        let lines = [self.line("up", |column| Some(Value::count(column.up.into())))];
        self.row(&row, &lines)
    }

    fn lateness(&self) -> String {
        let row = Row {
            id: "lateness",
            title: "Lateness of the client",
            caption: "99th percentiles of the time from when a message was due to its send, and of \
                      its two parts: no connection was free (blocked), or the client itself was \
                      late (own). Of joined intervals, the largest one. Faint: hardly known.",
            unit: "time",
            kind: Kind::Durations,
        };
        let exact = |value| Bound {
            value,
            at_least: false,
        };
        let part = |name, of: fn(&Column) -> Option<Duration>| {
            self.line(name, move |column| of(column).map(exact).map(Value::bound))
        };
        let lines = [
            self.line("lateness", |column| column.lateness_p99.map(Value::point)),
            part("blocked", |column| column.blocked_p99),
            part("own", |column| column.own_p99),
        ];
        self.row(&row, &lines)
    }

    fn cpu(&self) -> String {
        let row = Row {
            id: "cpu",
            title: "CPU of the client",
            caption: "CPU time of the client's process per second: 1 is one CPU.",
            unit: "CPUs",
            kind: Kind::Amounts(rate),
        };
        let value = |cpu| Value::exact(cpu, format!("{cpu:.2}"));
        self.row(&row, &[self.line("CPU", |column| column.cpu.map(value))])
    }

    fn memory(&self) -> String {
        let row = Row {
            id: "memory",
            title: "Memory of the client",
            caption: "Memory of the client's process in RAM.",
            unit: "bytes",
            kind: Kind::Amounts(label_bytes),
        };
        let value = |resident: u64| Value::exact(resident as f64, bytes(resident as f64));
        self.row(
            &row,
            &[self.line("resident", |it| it.resident_bytes.map(value))],
        )
    }

    /// Returns a figure with lines; one without a value in any column says so.
    fn row(&self, row: &Row, lines: &[Line]) -> String {
        let values = || lines.iter().flat_map(|line| line.values.iter().flatten());
        if values().next().is_none() {
            let nothing = "Not recorded in this run.";
            return chart::nothing(row.id, row.title, nothing);
        }
        let numbers = values().map(|value| value.number);
        let (up, labels) = row.kind.axis(numbers);
        let drawn = lines.iter().zip(CLASSES);
        let drawing = drawn.map(|(line, class)| self.draw(line, class, &up));
        let keys = lines.iter().zip(CLASSES);
        let key = if lines.len() > 1 {
            Key::line
        } else {
            Key::fixed
        };
        let texts = |place| lines.iter().map(move |line| line.text(place)).collect();
        let chart = Chart {
            id: row.id,
            title: row.title,
            caption: row.caption.to_string(),
            facts: facts(row, lines),
            unit: row.unit,
            is_tall: false,
            across: self.across.clone(),
            up: labels,
            drawing: self.shade.clone() + &drawing.collect::<String>(),
            keys: keys.map(|(line, class)| key(line.name, class)).collect(),
            legend: self.stages.clone(),
            values: Values {
                places: None,
                names: lines.iter().map(|line| line.name).collect(),
                rows: (0..self.columns.list.len()).map(texts).collect(),
            },
        };
        chart.render()
    }

    fn draw(&self, line: &Line, class: &str, up: &Axis) -> String {
        let path = |at_least, is_faint| {
            let is_part = |value: &&Value| (value.at_least, value.is_faint) == (at_least, is_faint);
            let steps = self.columns.list.iter().zip(&line.values);
            let steps = steps.map(|(column, value)| {
                let value = value.as_ref().filter(is_part);
                let level = value.map(|value| up.at(value.number));
                (self.time.at(column.from), self.time.at(column.to), level)
            });
            chart::steps(steps)
        };
        let parts = [
            chart::path("line steps", &path(false, false)),
            chart::path("line steps faint", &path(false, true)),
            chart::path("line steps bound", &path(true, false)),
            chart::path("line steps bound faint", &path(true, true)),
        ];
        format!("<g class=\"{class}\">{}</g>", parts.concat())
    }
}

/// Returns an axis label for a size in bytes.
fn label_bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes >= 1e9 => format!("{} GB", rate(bytes / 1e9)),
        bytes if bytes >= 1e6 => format!("{} MB", rate(bytes / 1e6)),
        bytes if bytes >= 1e3 => format!("{} kB", rate(bytes / 1e3)),
        bytes => format!("{} B", rate(bytes)),
    }
}

/// Returns the range of each line in words.
fn facts(row: &Row, lines: &[Line]) -> String {
    let range = |line: &Line| {
        let values = || line.values.iter().flatten();
        let low = values().min_by(|one, other| one.number.total_cmp(&other.number))?;
        let high = values().max_by(|one, other| one.number.total_cmp(&other.number))?;
        Some(match low.text == high.text {
            true => format!("{} {}", line.name, low.text),
            false => format!("{} from {} to {}", line.name, low.text, high.text),
        })
    };
    let ranges: Vec<String> = lines.iter().filter_map(range).collect();
    format!("{} over time: {}.", row.title, ranges.join("; "))
}

impl Kind {
    fn axis(self, numbers: impl Iterator<Item = f64> + Clone) -> (Axis, Vec<Tick>) {
        let high = numbers.clone().fold(0.0, f64::max);
        match self {
            Kind::Durations => {
                let positive = numbers.filter(|number| *number > 0.0);
                let low = positive.reduce(f64::min).unwrap_or(1e3);
                scale::durations(low / ROOM, high * ROOM, LABELS_MAX)
            }
            Kind::Counts => scale::amounts(high * ROOM, true, scale::number),
            Kind::Amounts(label) => scale::amounts(high * ROOM, false, label),
        }
    }
}

impl Line {
    fn text(&self, place: usize) -> String {
        let value = self.values.get(place).and_then(Option::as_ref);
        value.map_or(UNKNOWN.to_string(), |value| value.text.clone())
    }
}

impl Value {
    fn bound(found: Bound) -> Value {
        Value {
            number: number(found.value),
            text: bound(found),
            at_least: found.at_least,
            is_faint: false,
        }
    }

    fn point(found: Point) -> Value {
        Value {
            text: found.text(),
            is_faint: found.is_faint,
            ..Value::bound(found.bound)
        }
    }

    fn exact(number: f64, text: String) -> Value {
        Value {
            number,
            text,
            at_least: false,
            is_faint: false,
        }
    }

    fn count(count: u64) -> Value {
        Value::exact(count as f64, grouped(count).to_string())
    }

    /// Returns a count of this column per second; `None` for a column without length.
    fn per_second(column: &Column, count: u64) -> Option<Value> {
        let number = column.per_second(count)?;
        Some(Value::exact(number, format!("{}/s", rate(number))))
    }
}
