//! The median of repeated measurements, such as the ratios of alternating pairs, with its
//! confidence interval. Both are computed from ranks alone, so no distribution is assumed. Pure;
//! the benchmarks use it too.

// Each user needs only a part of this.
#![allow(dead_code)]

use std::fmt;

/// The median of some values, and two of the values that enclose the median of their distribution
/// in at least 95 of 100 cases, whatever the distribution is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

/// The probability that the true median lies outside of the interval.
const RISK: f64 = 0.05;

impl Median {
    /// Computes the median and its interval. `None`: there are fewer than six values, too few for
    /// an interval.
    pub fn of(values: &[f64]) -> Option<Median> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let left_out = left_out(count)?;
        Some(Median {
            low: sorted[left_out],
            middle: middle(&sorted)?,
            high: sorted[count - 1 - left_out],
        })
    }

    /// Returns whether neither end of the interval is further from the median than this part of it.
    pub fn is_within(&self, part: f64) -> bool {
        let most = self.middle * part;
        self.middle - self.low <= most && self.high - self.middle <= most
    }
}

impl fmt::Display for Median {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(3);
        let Median { low, middle, high } = self;
        write!(f, "{middle:.digits$} [{low:.digits$}, {high:.digits$}]")
    }
}

/// Returns the median alone. `None`: there are no values.
pub fn middle(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let upper = sorted.get(count / 2)?;
    Some((sorted[(count - 1) / 2] + upper) / 2.0)
}

/// Returns how many values can be left out at either end. Each value lies below the true median
/// with probability 1/2, so the number of values below it has a binomial distribution; both tails
/// together may have a probability of at most [`RISK`].
fn left_out(count: usize) -> Option<usize> {
    let mut chance = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut left_out = None;
    for k in 0..count / 2 {
        below += chance;
        if 2.0 * below > RISK {
            break;
        }
        left_out = Some(k);
        chance *= (count - k) as f64 / (k + 1) as f64;
    }
    left_out
}
