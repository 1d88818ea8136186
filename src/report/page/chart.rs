//! The frame of a figure: its drawing in SVG, with the axes, the keys and the values for the script
//! around it. Pure.
//!
//! The drawing is stretched to the width of the page, and its lines keep their thickness. The
//! labels are HTML beside it, so that their size is that of the other text at every width, and a
//! reader can enlarge it. Labels that would overlap on a narrow page are shown on a wide one only.
//!
//! No library draws the figures. plotters, which was compared, draws whole pixels of one fixed
//! size, with the colours in every element: there are no classes for the colour schemes, no groups
//! to switch, no accessible name, and one element of 88 bytes for each cell of a heat map. The
//! 6,514 cells of an hour's run took 575 kB; here they take 128 kB, as one path for each colour.

use std::fmt::Write;

use crate::report::page::escape::escape;
use crate::report::page::scale::{self, Tick};

/// Width of the drawing area in its own units.
const WIDTH: f64 = 3000.0;

/// Height of the drawing area in its own units.
const HEIGHT: f64 = 1000.0;

/// A figure.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// The name of the figure in the page, for links to it.
    pub id: &'static str,
    /// The title.
    pub title: &'static str,
    /// What the figure shows.
    pub caption: String,
    /// The key facts in words: the accessible name of the drawing.
    pub facts: String,
    /// The unit of the vertical axis in words.
    pub unit: &'static str,
    /// Whether the figure is higher than a row of lines needs to be.
    pub is_tall: bool,
    /// Labels of the horizontal axis; the first ones are the most important ones.
    pub across: Vec<Tick>,
    /// Labels of the vertical axis.
    pub up: Vec<Tick>,
    /// The drawing: SVG elements.
    pub drawing: String,
    /// The keys of the drawing.
    pub keys: Vec<Key>,
    /// Further keys as HTML.
    pub legend: String,
    /// The values that the script shows.
    pub values: Values,
}

/// The key of a part of a drawing.
#[derive(Clone, Debug)]
pub struct Key {
    /// The name of the part.
    pub name: &'static str,
    /// The class of the part in the style sheet.
    pub class: &'static str,
    /// Whether the part can be hidden.
    pub is_switch: bool,
}

/// The values of a figure at each of its places, for the script.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// The places, if they are not those of all figures of the section.
    pub places: Option<Places>,
    /// The names of the values.
    pub names: Vec<&'static str>,
    /// The values at each place, as text.
    pub rows: Vec<Vec<String>>,
}

/// Places on a horizontal axis at which values are known.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Their positions from 0 to 1.
    pub at: Vec<f64>,
    /// Their names.
    pub names: Vec<String>,
}

/// Returns a position from 0 to 1 on the horizontal axis in units of the drawing.
pub fn x(at: f64) -> i64 {
    (at * WIDTH).round() as i64
}

/// Returns a position from 0 to 1 on the vertical axis in units of the drawing.
pub fn y(at: f64) -> i64 {
    ((1.0 - at) * HEIGHT).round() as i64
}

/// Returns a path that is a rectangle of the full height of the drawing between two positions.
pub fn band(from: f64, to: f64) -> String {
    let (from, to) = (x(from), x(to));
    format!("M{from} 0h{}v{HEIGHT}H{from}z", to - from)
}

/// Returns a path that has a vertical line of the full height at a position.
pub fn upright(at: f64) -> String {
    format!("M{} 0v{HEIGHT}", x(at))
}

/// Returns a path that is a horizontal line of the full width at a position.
pub fn level(at: f64) -> String {
    format!("M0 {}h{WIDTH}", y(at))
}

/// Returns a path through the values of neighbouring columns, each with its beginning and its end,
/// in steps. It is interrupted at gaps between columns and where there is no value.
pub fn steps(columns: impl IntoIterator<Item = (f64, f64, Option<f64>)>) -> String {
    let mut path = String::new();
    let mut pen: Option<(i64, i64)> = None;
    for (from, to, value) in columns {
        let (from, to) = (x(from), x(to));
        let Some(value) = value.map(y) else {
            pen = None;
            continue;
        };
        // Writing to a string cannot fail.
        let start = match pen {
            Some((end, level)) if (end - from).abs() <= 1 => {
                if level != value {
                    let _ = write!(path, "v{}", value - level);
                }
                end
            }
            _ => {
                let _ = write!(path, "M{from} {value}");
                from
            }
        };
        let _ = write!(path, "h{}", to - start);
        pen = Some((to, value));
    }
    path
}

/// Returns an element for a path; empty for an empty path.
pub fn path(class: &str, path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!("<path class=\"{class}\" d=\"{path}\"/>"),
    }
}

impl Chart {
    /// Returns the figure as HTML.
    pub fn render(&self) -> String {
        let (id, title) = (self.id, self.title);
        let (head, keys, values) = (
            heading(title, &self.caption),
            self.keys(),
            self.values.data(),
        );
        let (labels, drawing, legend) = (self.labels(), self.drawing(), &self.legend);
        let size = if self.is_tall { " tall" } else { "" };
        format!(
            "<figure class=\"plot{size}\" id=\"{id}\">\n{head}{keys}{legend}\
             <div class=\"chart\"{values}>\n{labels}{drawing}</div>\n</figure>\n"
        )
    }

    fn keys(&self) -> String {
        let keys = self.keys.iter().map(Key::render).collect::<String>();
        format!(
            "<div class=\"keys\"><span class=\"unit\">{}</span>{keys}</div>\n",
            escape(self.unit)
        )
    }

    /// Returns the labels of both axes. The accessible name of the drawing stands for them.
    fn labels(&self) -> String {
        let mut html = "<div class=\"up\" aria-hidden=\"true\">".to_string();
        for tick in self.up.iter().filter(|tick| !tick.label.is_empty()) {
            let (at, label) = (percent(tick.at), escape(&tick.label));
            let _ = write!(html, "<span style=\"bottom:{at}%\">{label}</span>");
        }
        html.push_str("</div>\n<div class=\"across\" aria-hidden=\"true\">");
        for (tick, place) in self.across.iter().zip(scale::place(&self.across)) {
            let shown = match (place.narrow, place.wide) {
                (true, true) => "",
                (true, false) => "only-narrow",
                (false, true) => "only-wide",
                (false, false) => continue,
            };
            let ends = if place.ends { " ends" } else { "" };
            let (at, label) = (percent(tick.at), escape(&tick.label));
            let class = format!("{shown}{ends}");
            let class = match class.trim_start() {
                "" => String::new(),
                class => format!(" class=\"{class}\""),
            };
            let _ = write!(html, "<span{class} style=\"left:{at}%\">{label}</span>");
        }
        html + "</div>\n"
    }

    fn drawing(&self) -> String {
        let across = self.across.iter().map(|tick| upright(tick.at));
        let up = self.up.iter().map(|tick| level(tick.at));
        let grid = path("grid", &across.chain(up).collect::<String>());
        format!(
            "<div class=\"area\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">{grid}{}</svg></div>\n",
            escape(&self.facts),
            self.drawing
        )
    }
}

/// Returns the title and the caption of a figure.
fn heading(title: &str, caption: &str) -> String {
    format!(
        "<figcaption><h3>{}</h3>{}</figcaption>\n",
        escape(title),
        match caption {
            "" => String::new(),
            caption => format!("<p>{}</p>", escape(caption)),
        }
    )
}

/// Returns a figure that has nothing to draw, with the reason.
pub fn nothing(id: &str, title: &str, reason: &str) -> String {
    let head = heading(title, reason);
    format!("<figure class=\"plot empty\" id=\"{id}\">\n{head}</figure>\n")
}

impl Key {
    /// Returns the key of a line that can be hidden.
    pub fn line(name: &'static str, class: &'static str) -> Key {
        Key {
            name,
            class,
            is_switch: true,
        }
    }

    /// Returns the key of something that is always shown.
    pub fn fixed(name: &'static str, class: &'static str) -> Key {
        Key {
            name,
            class,
            is_switch: false,
        }
    }

    fn render(&self) -> String {
        let Key { name, class, .. } = self;
        let name = escape(name);
        let swatch = format!(
            "<svg class=\"swatch\" viewBox=\"0 0 28 12\" aria-hidden=\"true\">\
             <path class=\"{class}\" d=\"M1 6h26\"/></svg>"
        );
        match self.is_switch {
            false => format!("<span class=\"key\">{swatch}{name}</span>"),
            true => format!(
                "<label class=\"key\"><input type=\"checkbox\" checked value=\"{class}\">\
                 {swatch}{name}</label>"
            ),
        }
    }
}

impl Values {
    /// Returns the attributes that hold the values.
    fn data(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let places = self.places.as_ref().map_or(String::new(), Places::data);
        let rows = self.rows.iter().map(|row| row.join("\t"));
        let rows = rows.collect::<Vec<String>>().join("\n");
        format!(
            "{places} data-names=\"{}\" data-values=\"{}\"",
            escape(&self.names.join("\t")),
            escape(&rows)
        )
    }
}

impl Places {
    /// Returns the attributes that hold the places.
    pub fn data(&self) -> String {
        let at = self.at.iter().map(|at| percent(*at));
        format!(
            " data-at=\"{}\" data-places=\"{}\"",
            at.collect::<Vec<String>>().join(" "),
            escape(&self.names.join("\t"))
        )
    }
}

/// Returns a position in percent, with two decimals at most.
fn percent(at: f64) -> String {
    let text = format!("{:.2}", at * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_interrupted_where_nothing_is_known() {
        let columns = [
            (0.0, 0.1, Some(0.0)),
            (0.1, 0.2, Some(0.5)),
            (0.2, 0.3, None),
            (0.3, 0.4, Some(1.0)),
            (0.5, 0.6, Some(1.0)),
        ];
        let expected = "M0 1000h300v-500h300M900 0h300M1500 0h300";
        assert_eq!(steps(columns), expected);
        assert_eq!(steps([]), "");
    }

    #[test]
    fn everything_in_a_figure_is_escaped() {
        let hostile = "</svg><script>";
        let chart = Chart {
            caption: hostile.to_string(),
            facts: hostile.to_string(),
            across: vec![Tick {
                at: 0.5,
                label: hostile.to_string(),
            }],
            up: vec![Tick {
                at: 0.5,
                label: hostile.to_string(),
            }],
            values: Values {
                names: vec!["a"],
                rows: vec![vec![hostile.to_string()]],
                ..Values::default()
            },
            ..Chart::default()
        };
        assert!(!chart.render().contains("<script"), "{}", chart.render());
        assert!(!nothing("none", "None", hostile).contains("<script"));
    }
}
