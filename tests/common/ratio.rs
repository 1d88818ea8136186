//! What repeated measurements say, such as the ratios of alternating pairs: the median with its
//! interval, from ranks alone, so that no shape is assumed. Pure; the benchmarks use it too.

// Each of them uses a part of this.
#![allow(dead_code)]

use std::fmt;

/// The median of some values, and two of them that enclose the median of all such values in at
/// least 95 of 100 cases, whatever their distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

/// The chance that the true median lies outside of the interval.
const RISK: f64 = 0.05;

impl Median {
    /// `None`: there are fewer than six values, too few to enclose anything.
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

    /// Whether both ends of the interval are so close to the median, as a part of it.
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

/// The median alone; `None`: there are no values.
pub fn middle(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let upper = sorted.get(count / 2)?;
    Some((sorted[(count - 1) / 2] + upper) / 2.0)
}

/// How many values may be left out at either end. Each value lies below the median with 1/2, so the
/// number of those below is binomial, and both tails together may have the risk.
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
