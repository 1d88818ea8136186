//! What alternating pairs of measurements say: the median of their ratios, with its interval.

use std::fmt;

/// The median of some values, and two of them that enclose the median of all such values in at
/// least 95 of 100 cases, whatever their distribution.
#[derive(Clone, Copy, Debug)]
pub struct Median {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Median {
    /// Of at least six values: fewer enclose nothing with 95 %.
    pub fn of(values: &[f64]) -> Median {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        assert!(count >= 6, "{count} values");
        let left_out = left_out(count);
        Median {
            low: sorted[left_out],
            middle: (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
            high: sorted[count - 1 - left_out],
        }
    }
}

impl fmt::Display for Median {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(3);
        let Median { low, middle, high } = self;
        write!(f, "{middle:.digits$} [{low:.digits$}, {high:.digits$}]")
    }
}

/// How many values may be left out at either end. Each value lies below the median with 1/2, so the
/// number of those below is binomial, and both tails together may have 5 %.
fn left_out(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(count as i32);
    let mut tail = probability;
    let mut left_out = 0;
    loop {
        probability *= (count - left_out) as f64 / (left_out + 1) as f64;
        tail += probability;
        if 2.0 * tail > 0.05 {
            return left_out;
        }
        left_out += 1;
    }
}
