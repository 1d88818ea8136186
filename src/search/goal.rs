//! The goal of a search in the words of RFC 9971, and the loads that it may offer. Pure.

use std::fmt;
use std::time::Duration;

use crate::load::plan::schedule::Rate;
use crate::units::rate;

/// Loads in one message per second: a load is kept in thousandths.
const PARTS: f64 = 1e3;

/// The number of steps of a rounded load in the goal's width: rounding moves a load by at most an
/// eighth of the width.
const ROUNDED: f64 = 4.0;

/// An offered load in messages per second, in whole thousandths, so that equal loads are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load(u64);

/// A search goal of RFC 9971. The part of the goal loss ratio is taken by the objective: a trial is
/// *bad* when its objective failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// The goal final trial duration: shorter trials are *short*, the others are *long*.
    pub final_trial: Duration,
    /// The goal duration sum: the time of long trials that decides about a load.
    pub duration_sum: Duration,
    /// The goal exceed ratio: the share of that time in which trials of a lower bound may be bad.
    /// At least 0, less than 1.
    pub exceed_ratio: f64,
    /// The goal width: the largest difference of the relevant bounds, as a share of the upper one.
    /// Greater than 0, less than 1.
    pub width: f64,
}

/// The smallest and the greatest load of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest load.
    pub least: Load,
    /// The greatest load.
    pub most: Load,
}

impl Load {
    /// Returns the load that is nearest to a number of messages per second, at least a thousandth.
    pub fn new(per_second: f64) -> Load {
        Load(((per_second * PARTS).round() as u64).max(1))
    }

    /// Returns the number of messages per second.
    pub fn per_second(self) -> f64 {
        self.0 as f64 / PARTS
    }

    /// Returns the rate of a schedule; `None` if 64 bits cannot hold it.
    pub fn rate(self) -> Option<Rate> {
        let parts = PARTS as u64;
        Rate::parse(&format!("{}.{:03}", self.0 / parts, self.0 % parts))
    }

    /// Returns how far this load is above another one, in the natural logarithm.
    pub fn above(self, other: Load) -> f64 {
        (self.per_second() / other.per_second()).ln()
    }

    /// Returns this load multiplied by e to a power, rounded to a number with few digits. The
    /// rounding is fine in comparison with a width.
    pub fn moved(self, power: f64, width: f64) -> Load {
        let exact = self.per_second() * power.exp();
        let step = 10_f64.powf((exact * width / ROUNDED).log10().floor());
        Load::new((exact / step).round() * step)
    }
}

/// Formats the load as a rate: `2,380`, `333.3`.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&rate(self.per_second()))
    }
}

impl Goal {
    /// Returns whether two loads are no farther apart than the goal's width.
    pub fn is_within_width(&self, lower: Load, upper: Load) -> bool {
        let (lower, upper) = (lower.per_second(), upper.per_second());
        upper - lower <= self.width * upper
    }

    /// Returns the goal's width as a distance in the natural logarithm.
    pub fn log_width(&self) -> f64 {
        -(1.0 - self.width).ln()
    }
}

impl Range {
    /// Returns the load of the range that is nearest to a load.
    pub fn clamp(&self, load: Load) -> Load {
        load.min(self.most).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_rates_and_are_rounded_finely_enough() {
        assert_eq!(Load::new(2380.0).to_string(), "2,380");
        assert_eq!(Load::new(0.000_1).per_second(), 0.001);
        let rate = Load::new(333.3).rate().unwrap();
        assert_eq!(rate.to_string(), "333.3");
        for width in [0.001, 0.05, 0.5] {
            for place in 1..2000 {
                let exact = 0.37 * f64::from(place).powf(1.7);
                let moved = Load::new(exact).moved(0.0, width).per_second();
                let off = (moved / exact - 1.0).abs();
                assert!(off < width / 7.5 + 0.0005 / exact, "{exact}: {moved}");
            }
        }
        assert_eq!(Load::new(1000.0).moved(2_f64.ln(), 0.05), Load::new(2000.0));
        assert_eq!(Load::new(1000.0).moved(0.1, 0.05), Load::new(1110.0));
    }

    #[test]
    fn the_width_is_a_share_of_the_upper_load() {
        let goal = Goal {
            final_trial: Duration::from_secs(1),
            duration_sum: Duration::from_secs(1),
            exceed_ratio: 0.5,
            width: 0.05,
        };
        let upper = Load::new(1000.0);
        assert!(goal.is_within_width(Load::new(950.0), upper));
        assert!(!goal.is_within_width(Load::new(949.9), upper));
        let lower = upper.per_second() * (-goal.log_width()).exp();
        assert!((lower - 950.0).abs() < 1e-9);
    }
}
