//! Renders the course of a recorded run as a table of comma-separated values, one row per interval
//! (RFC 4180). Pure.

use std::fmt::Write;
use std::time::Duration;

use crate::load::latency::percentile::Percentile;
use crate::load::latency::{Bound, Latency};
use crate::record::series::Moment;
use crate::report::percentiles::microseconds;

/// The columns before those of the percentiles.
const COLUMNS: &str = "tag,from_s,to_s,connections,due,verified,lost,outstanding,opened,failed,\
                       errors,segments_resent,cpu,resident_bytes";

/// Returns the table. A cell is empty where a figure is not known. A percentile that is only a
/// lower bound has a column beside it that is 1.
pub fn render(series: impl Iterator<Item = Moment>, points: &[Percentile]) -> String {
    let mut table = COLUMNS.to_string();
    for name in ["response", "service", "lateness"] {
        for point in points {
            let key = point.key();
            let _ = write!(table, ",{name}_{key}_us,{name}_{key}_at_least");
        }
        let _ = write!(table, ",{name}_max_us");
    }
    table.push_str("\r\n");
    for moment in series {
        write_row(&mut table, &moment, points);
    }
    table
}

fn write_row(table: &mut String, moment: &Moment, points: &[Percentile]) {
    let known = |figure: Option<u64>| figure.map_or(String::new(), |figure| figure.to_string());
    let errors: u64 = moment.errors.values().sum();
    // Writing to a string cannot fail.
    let _ = write!(
        table,
        "{},{:.6},{:.6},{},{},{},{},{},{},{},{errors},{},{},{}",
        moment.tag.name(),
        moment.from.as_secs_f64(),
        moment.to.as_secs_f64(),
        moment.up,
        moment.due,
        moment.verified,
        moment.lost,
        moment.outstanding,
        moment.opened,
        moment.failed,
        known(moment.resent),
        moment.cpu.map_or(String::new(), |cpu| format!("{cpu:.4}")),
        known(moment.resident_bytes),
    );
    for latency in [&moment.response, &moment.service, &moment.lateness] {
        write_times(table, latency, points);
    }
    table.push_str("\r\n");
}

fn write_times(table: &mut String, latency: &Latency, points: &[Percentile]) {
    let distribution = latency.distribution();
    let us = |duration: Duration| microseconds(duration).to_string();
    for point in points {
        let found: Option<Bound> = distribution
            .as_ref()
            .and_then(|all| all.percentile(point.percent()));
        let _ = match found {
            Some(Bound { value, at_least }) => {
                write!(table, ",{},{}", us(value), u8::from(at_least))
            }
            None => write!(table, ",,"),
        };
    }
    let longest = distribution.map_or(String::new(), |all| us(all.longest().value));
    let _ = write!(table, ",{longest}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let mut known = Moment {
            due: 3,
            cpu: Some(0.25),
            resent: Some(1),
            ..Moment::default()
        };
        for milliseconds in 1..=40 {
            known.response.record(Duration::from_millis(milliseconds));
        }
        known.response.record_at_least(Duration::from_secs(1));
        let table = render(
            [Moment::default(), known].into_iter(),
            &Percentile::STANDARD,
        );
        let rows: Vec<Vec<&str>> = table
            .split_terminator("\r\n")
            .map(|row| row.split(',').collect())
            .collect();
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
        let cell = |row: usize, name: &str| {
            let column = rows[0].iter().position(|head| *head == name).unwrap();
            rows[row][column]
        };
        assert_eq!(cell(1, "response_p50_us"), "");
        assert_eq!(cell(1, "cpu"), "");
        assert_eq!(cell(2, "cpu"), "0.2500");
        assert_eq!(cell(2, "response_p50_at_least"), "0");
        assert_eq!(cell(2, "response_max_us"), "1000000");
    }
}
