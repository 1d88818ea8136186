//! Renders the distribution of the response times in the text format that the plotters of
//! HdrHistogram read (`.hgrm`). Pure.

use std::fmt::Write;

use crate::load::latency::Latency;

/// Number of rows for each halving of the distance to 100 %, as other programs print them.
const TICKS: u32 = 5;

/// The divisor of the values: nanoseconds in a millisecond.
const MILLISECOND: f64 = 1e6;

/// Returns the table, in milliseconds. Messages without a reply count with their age; the last line
/// then names the lowest percentile that is a lower bound.
pub fn render(response: &Latency) -> String {
    let mut table = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n".to_string();
    let Some(distribution) = response.distribution() else {
        return table + "#[Total count = 0]\n";
    };
    let all = distribution.histogram();
    let mut count = 0;
    // Writing to a string cannot fail.
    for step in all.iter_quantiles(TICKS) {
        let value = step.value_iterated_to() as f64 / MILLISECOND;
        let quantile = step.quantile_iterated_to();
        count += step.count_since_last_iteration();
        let _ = match quantile < 1.0 {
            true => writeln!(
                table,
                "{value:12.3} {quantile:14.12} {count:10} {:14.2}",
                1.0 / (1.0 - quantile)
            ),
            false => writeln!(table, "{value:12.3} {quantile:14.12} {count:10}"),
        };
    }
    let _ = writeln!(
        table,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {:12}]",
        all.mean() / MILLISECOND,
        all.stdev() / MILLISECOND,
        distribution.longest().value.as_secs_f64() * 1e3,
        all.len(),
    );
    if let Some(from) = distribution.at_least_from() {
        let _ = writeln!(
            table,
            "#[Lower bounds from percentile {from} on: messages had no reply]"
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_table_ends_with_all_messages() {
        let mut latency = Latency::default();
        for milliseconds in 1..=1000 {
            latency.record(Duration::from_millis(milliseconds));
        }
        let table = render(&latency);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let last = rows.last().unwrap();
        assert_eq!(last[1..], ["1.000000000000", "1000"]);
        let median = rows.iter().find(|row| row[1] == "0.500000000000").unwrap();
        assert!(median[0].starts_with("500."), "{median:?}");
        assert_eq!(median[2..], ["500", "2.00"]);
        assert!(table.contains("Total count    =         1000]"), "{table}");
        assert_eq!(render(&Latency::default()).lines().count(), 3);
    }

    #[test]
    fn lower_bounds_are_named() {
        let mut latency = Latency::default();
        latency.record_many(Duration::from_millis(1), 99);
        latency.record_at_least(Duration::from_secs(1));
        assert!(render(&latency).contains("Lower bounds from percentile 99"));
    }
}
