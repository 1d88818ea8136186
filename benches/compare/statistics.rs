//! Medians with intervals from ranks alone: no shape is assumed. Pure.

/// A median and its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// The lower end of the interval.
    pub low: f64,
    /// The median.
    pub middle: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// The chance that the true median lies outside of the interval.
const RISK: f64 = 0.05;

impl Median {
    /// The median of a sample with its 95 % interval; `None`: the sample is too small for one.
    pub fn of(mut sample: Vec<f64>) -> Option<Median> {
        sample.sort_by(f64::total_cmp);
        let rank = rank(sample.len())?;
        let half = sample.len() / 2;
        let middle = match sample.len() % 2 {
            0 => (sample[half - 1] + sample[half]) / 2.0,
            _ => sample[half],
        };
        Some(Median {
            low: sample[rank],
            middle,
            high: sample[sample.len() - 1 - rank],
        })
    }

    /// Whether both ends of the interval are so close to the median, as a part of it.
    pub fn is_within(&self, part: f64) -> bool {
        let most = self.middle * part;
        self.middle - self.low <= most && self.high - self.middle <= most
    }
}

/// The largest k such that the median lies between the k-th smallest and the k-th largest of
/// `count` values, from 0, with 95 %: how many of them fall below it is binomial.
fn rank(count: usize) -> Option<usize> {
    let mut chance = 0.5f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut rank = None;
    for k in 0..count / 2 {
        below += chance;
        if below * 2.0 > RISK {
            break;
        }
        rank = Some(k);
        chance *= (count - k) as f64 / (k + 1) as f64;
    }
    rank
}
