//! Renders a recorded run as one HTML page: the verdict with its evidence, the figures, the plan
//! and all numbers. Pure: data in, text out.
//!
//! Invariants: the page is one file, and refers to nothing outside of it; its own policy forbids
//! requests. Everything can be read without the script, which only shows values under the pointer.
//! Every text that does not come from the sources of this folder is escaped. The size is bounded by
//! the width of a figure, not by the length of the run.
//!
//! | idea | file |
//! |---|---|
//! | the verdict and the figures that stand out | `verdict` |
//! | the columns of a figure over time, and how intervals become columns | `columns`, `join` |
//! | axes, round labels, labels that do not overlap | `scale` |
//! | the frame of a figure, in SVG and HTML | `chart` |
//! | the percentile curve, the heat map, the lines over time | `curve`, `heatmap`, `timeline` |
//! | the plan, the command and the machine | `plan` |
//! | the tables of all figures | `tables` |

pub mod chart;
pub mod columns;
pub mod curve;
pub mod escape;
pub mod heatmap;
pub mod join;
pub mod plan;
pub mod scale;
pub mod tables;
pub mod timeline;
pub mod verdict;
pub mod words;

use crate::load::judge::verdict::Judged;
use crate::record::description::Description;
use crate::report::page::columns::Columns;
use crate::report::page::escape::escape;

/// The style sheet of the page.
const STYLE: &str = include_str!("style.css");

/// The script of the page, which shows the values of the figures under the pointer.
const SCRIPT: &str = include_str!("script.js");

/// The policy of the page: no request, no content from anywhere else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:; base-uri 'none'; form-action 'none'";

/// Returns the page: one self-contained HTML file. `runs`: the descriptions of the run or of its
/// parts. `columns`: the course of the run, as a [`join::Joiner`] joins its intervals.
pub fn render(judged: &Judged, runs: &[Description], columns: &Columns) -> String {
    let summary = &judged.summary;
    let plan = &summary.plan;
    let title = format!(
        "{}: upcase load {}",
        judged.findings.verdict,
        plan::targets(summary)
    );
    let body = [
        plan::head(summary, runs),
        "<main>\n".to_string(),
        verdict::render(judged),
        "<section id=\"percentiles\">\n<h2>Response times</h2>\n".to_string(),
        curve::render(judged),
        "</section>\n".to_string(),
        timeline::render(columns, plan.profile.as_ref()),
        plan::render(runs),
        tables::render(judged, columns),
        "</main>\n".to_string(),
    ];
    document(&title, "", &body.concat(), SCRIPT)
}

/// Returns the script that shows the values of the figures under the pointer.
pub fn script() -> &'static str {
    SCRIPT
}

/// Returns a page with the style sheet and the policy of this one. `title` is escaped here, `style`
/// is added to the sheet, `body` is HTML, and a `script` may be empty.
pub fn document(title: &str, style: &str, body: &str, script: &str) -> String {
    let script = match script {
        "" => String::new(),
        script => format!("<script>\n{script}</script>\n"),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>\n{STYLE}{style}</style>\n\
         </head>\n<body>\n{body}{script}</body>\n</html>\n",
        escape(title),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::load::plan::{Plan, Stop};
    use crate::load::results::recorder::Tag;
    use crate::load::results::summary::Summary;
    use crate::record::series::Moment;
    use crate::report::page::columns::{Cell, Column};
    use crate::report::page::join::join;

    /// The limit for an hour's run.
    const BYTES_MAX: usize = 1_000_000;

    fn page(change: impl FnOnce(&mut Summary), columns: &Columns) -> String {
        let target = "127.0.0.1:7".parse().unwrap();
        let plan = Arc::new(Plan::new(target, Stop::Messages(1)));
        let mut summary = Summary::empty(&plan);
        change(&mut summary);
        let judged = Judged::new(summary, &[], Vec::new());
        render(&judged, &[], columns)
    }

    #[test]
    fn a_run_that_measured_nothing_has_a_page() {
        let html = page(|summary| summary.times.lines_up = 1, &Columns::default());
        assert!(html.starts_with("<!DOCTYPE html>"));
        assert!(html.contains("> inconclusive</span></h2>"));
        assert!(!html.contains("<svg viewBox"));
    }

    #[test]
    fn a_page_refers_to_nothing_outside_of_it() {
        let one = |summary: &mut Summary| {
            let time = Duration::from_micros(180);
            summary.results.response.record(time);
            summary.unlogged = Some("<script src='//example.org'>".to_string());
        };
        let moment = Moment {
            to: Duration::from_secs(1),
            verified: 1,
            ..Moment::default()
        };
        let html = page(one, &join(&[moment]));
        for reference in [
            "src=\"", "url(", "@import", "http://", "https://", "<img", "<script ",
        ] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert_eq!(html.matches("href=").count(), 1, "the empty icon");
        let drawings = html.matches("<svg viewBox").count();
        assert_eq!(html.matches("role=\"img\" aria-label=\"").count(), drawings);
        assert!(drawings > 3, "{drawings}");
    }

    #[test]
    fn an_hour_with_every_cell_filled_is_small_enough() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let mut column = |at: u32| {
            let mut cell = |place| {
                let count = 1 << (random() % 20);
                (
                    place,
                    Cell {
                        count,
                        at_least: at > 290,
                    },
                )
            };
            let cells: BTreeMap<i32, Cell> = (36..120).map(&mut cell).collect();
            let from = f64::from(at) * 12.0;
            Column {
                from,
                to: from + 12.0,
                length: 12.0,
                due: 200_000 + random() % 90_000,
                verified: 200_000 + random() % 90_000,
                outstanding: random() % 10_000,
                lost: random() % 100,
                resent: Some(random() % 100),
                cpu: Some(random() as f64 / 1e9),
                resident_bytes: Some(random()),
                lateness_p99: None,
                own_p99: Some(Duration::from_nanos(random())),
                blocked_p99: Some(Duration::from_nanos(random())),
                cells,
                ..Column::default()
            }
        };
        let columns = Columns {
            list: (0..300).map(&mut column).collect(),
            joined: Some(12.0),
            ..Columns::default()
        };
        let html = page(|_| (), &columns);
        assert!(html.len() < BYTES_MAX, "{} bytes", html.len());
    }

    fn moments() -> impl Strategy<Value = Moment> {
        let nanoseconds = prop_oneof![0..1000_u64, any::<u64>()];
        let samples = prop::collection::vec((nanoseconds.clone(), any::<bool>()), 0..4);
        let times = (nanoseconds.clone(), nanoseconds, 0..3_u8);
        let counts = (any::<u64>(), any::<u32>(), any::<Option<u64>>());
        let cpu = any::<Option<f64>>();
        (times, counts, cpu, samples, any::<String>()).prop_map(
            |((from, to, tag), (count, up, known), cpu, samples, cause)| {
                let mut moment = Moment {
                    tag: [Tag::Warmup, Tag::Run, Tag::Drain][usize::from(tag)],
                    from: Duration::from_nanos(from),
                    to: Duration::from_nanos(to),
                    up,
                    due: count,
                    verified: count,
                    lost: count,
                    outstanding: count,
                    opened: count,
                    failed: count,
                    errors: BTreeMap::from([(cause, count)]),
                    resent: known,
                    cpu,
                    resident_bytes: known,
                    own_p99: known.map(Duration::from_nanos),
                    blocked_p99: known.map(Duration::from_nanos),
                    ..Moment::default()
                };
                for (time, is_known) in samples {
                    let time = Duration::from_nanos(time);
                    match is_known {
                        true => moment.response.record(time),
                        false => moment.response.record_at_least(time),
                    }
                    moment.lateness.record(time);
                }
                moment
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_intervals_have_a_page(series in prop::collection::vec(moments(), 0..6)) {
            let all = |summary: &mut Summary| {
                for moment in &series {
                    summary.results.response.merge(&moment.response);
                    summary.results.lateness.merge(&moment.lateness);
                }
            };
            let html = page(all, &join(&series));
            prop_assert!(html.ends_with("</html>\n"));
            prop_assert_eq!(html.matches("<script").count(), 1);
            for wrong in ["NaN", "inf%", "-inf"] {
                prop_assert!(!html.contains(wrong), "{wrong}");
            }
        }
    }
}
