//! The axes of the figures: where a value lies on one, and which round values it labels. Pure.
//!
//! Invariant: a position is between 0 and 1 whatever the value is, and the labels that are kept do
//! not overlap at the width for which they are kept.

use crate::units::{grouped, rate};

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// The longest duration that is recorded, 64 bits of nanoseconds.
const LONGEST: f64 = u64::MAX as f64;

/// Width of the drawing area on the narrowest page that is supported, 360 px wide, in pixels.
const NARROW: f64 = 232.0;

/// Width of the drawing area from which the labels of the wide page are shown, in pixels.
const WIDE: f64 = 500.0;

/// Width of a character of a label in pixels, with some reserve.
const CHARACTER: f64 = 7.2;

/// Minimum gap between two labels in pixels.
const GAP: f64 = 10.0;

/// Width of the room to the right of the drawing area in pixels.
const MARGIN: f64 = 18.0;

/// An axis between two values, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
}

/// A round value on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// The position on the axis, from 0 to 1.
    pub at: f64,
    /// The text of the value; empty where only a line is drawn.
    pub label: String,
}

/// The pages on which a label is shown, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Whether it is shown on a narrow page.
    pub narrow: bool,
    /// Whether it is shown on a wide page.
    pub wide: bool,
    /// Whether it ends at its value, since there is no room for the half of it beyond.
    pub ends: bool,
}

impl Axis {
    /// Returns a linear axis. Ends that are equal are moved apart.
    pub fn linear(low: f64, high: f64) -> Axis {
        let low = if low.is_finite() { low } else { 0.0 };
        let is_wide = high.is_finite() && high > low;
        let high = if is_wide { high } else { low + 1.0 };
        Axis {
            low,
            high,
            is_log: false,
        }
    }

    /// Returns a logarithmic axis. Ends that are equal are moved apart.
    pub fn log(low: f64, high: f64) -> Axis {
        let low = positive(low);
        let is_wide = high.is_finite() && high > low;
        let high = if is_wide { high } else { low * 2.0 };
        Axis {
            low,
            high,
            is_log: true,
        }
    }

    /// Returns the position of a value; values beyond an end are at this end.
    pub fn at(&self, value: f64) -> f64 {
        let at = match self.is_log {
            false => (value - self.low) / (self.high - self.low),
            true => (positive(value) / self.low).ln() / (self.high / self.low).ln(),
        };
        if at.is_nan() { 0.0 } else { at.clamp(0.0, 1.0) }
    }

    fn tick(&self, value: f64, label: String) -> Tick {
        Tick {
            at: self.at(value),
            label,
        }
    }
}

/// Returns a value that has a logarithm.
fn positive(value: f64) -> f64 {
    let is_positive = value.is_finite() && value > 0.0;
    if is_positive { value.max(1e-9) } else { 1e-9 }
}

/// Returns an axis for amounts from 0 to `most`, and four to six labels. `is_whole`: there are no
/// parts of what is counted.
pub fn amounts(most: f64, is_whole: bool, label: fn(f64) -> String) -> (Axis, Vec<Tick>) {
    let least = if is_whole { 4.0 } else { 1e-6 };
    let most = if most.is_finite() { most } else { least };
    let mut step = round_up(most.max(least) / 5.0, &[1.0, 2.0, 2.5, 5.0]);
    if is_whole {
        step = step.ceil();
    }
    let steps = (most.max(least) / step).ceil().max(1.0);
    let axis = Axis::linear(0.0, steps * step);
    let values = (0..=steps as u32).map(|place| f64::from(place) * step);
    let ticks = values.map(|value| axis.tick(value, label(value))).collect();
    (axis, ticks)
}

/// Returns a number for an axis: grouped, and from a million on with a decimal prefix.
pub fn number(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{} G", rate(value / 1e9)),
        value if value >= 1e6 => format!("{} M", rate(value / 1e6)),
        value => rate(value),
    }
}

/// Returns a logarithmic axis for durations in nanoseconds, with its ends at round values, and at
/// most `most` labels.
pub fn durations(low: f64, high: f64, most: usize) -> (Axis, Vec<Tick>) {
    let low = if low >= 1.0 { low.min(LONGEST) } else { 1.0 };
    let high = if high > low { high.min(LONGEST) } else { low };
    let steps = [1.0, 2.0, 5.0];
    let mut bottom = round_up(low, &steps);
    if bottom > low * 1.000_001 {
        bottom = round_up(bottom / 2.6, &steps);
    }
    let mut top = round_up(high, &steps);
    if top < bottom * 4.0 {
        bottom = round_up(bottom / 2.1, &steps).max(0.5);
        top = round_up(top * 1.9, &steps);
    }
    let axis = Axis::log(bottom, top);
    let ticks = decades(&axis, most);
    (axis, ticks)
}

/// Returns the ticks of a logarithmic axis of durations: at the powers of ten, and on a short axis
/// at their doubles and fives as well.
pub fn decades(axis: &Axis, most: usize) -> Vec<Tick> {
    let (first, last) = (axis.low.log10().floor(), axis.high.log10().ceil());
    let count = (axis.high / axis.low).log10();
    let mantissas: &[f64] = match count {
        count if count <= 2.2 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let exponents = (first as i32..=last as i32).map(|exponent| 10f64.powi(exponent));
    let values = exponents.flat_map(|power| mantissas.iter().map(move |it| it * power));
    let is_on = |value: &f64| *value >= axis.low * 0.999_999 && *value <= axis.high * 1.000_001;
    let values: Vec<f64> = values.filter(is_on).collect();
    let stride = values.len().div_ceil(most.max(1)).max(1);
    let label = |(place, value): (usize, &f64)| match place % stride {
        0 => axis.tick(*value, round_duration(*value)),
        _ => axis.tick(*value, String::new()),
    };
    values.iter().enumerate().map(label).collect()
}

/// Returns a round duration in nanoseconds without the digits that measured ones have: `50 ms`.
fn round_duration(nanoseconds: f64) -> String {
    let (divisor, unit) = match nanoseconds {
        n if n < 0.999e3 => (1.0, "ns"),
        n if n < 0.999e6 => (1e3, "µs"),
        n if n < 0.999e9 => (1e6, "ms"),
        _ => (SECOND, "s"),
    };
    format!("{} {unit}", number(nanoseconds / divisor))
}

/// Steps of an axis of time in seconds: round in minutes, hours and days as well.
const STEPS: [f64; 19] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
    14_400.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0,
];

/// Maximum number of gaps between the ticks of an axis of time.
const TIME_GAPS: f64 = 8.0;

/// Returns an axis of the time from the start of a run, in seconds, and its ticks. Those that leave
/// equal gaps when the others are left out come first.
pub fn time(from: f64, to: f64) -> (Axis, Vec<Tick>) {
    let axis = Axis::linear(from, to);
    let least = (axis.high - axis.low) / TIME_GAPS;
    let listed = STEPS.iter().copied().find(|step| *step >= least);
    let step = match listed {
        Some(step) if least > 0.5 => step,
        Some(_) => round_up(least, &[1.0, 2.0, 5.0]),
        None => round_up(least / 86_400.0, &[1.0, 2.0, 5.0]) * 86_400.0,
    };
    let first = (axis.low / step - 1e-6).ceil();
    let mut places: Vec<u32> = (0..=TIME_GAPS as u32).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.trailing_zeros()));
    let values = places
        .into_iter()
        .map(|place| (first + f64::from(place)) * step);
    let values = values.filter(|value| *value <= axis.high + step * 1e-6);
    let ticks = values.map(|value| axis.tick(value, seconds(value, step)));
    let ticks = ticks.collect();
    (axis, ticks)
}

/// Returns a time from the start of a run in the unit of the steps of its axis.
fn seconds(value: f64, step: f64) -> String {
    match step {
        step if step >= 86_400.0 => format!("{} d", grouped((value / 86_400.0).round() as u64)),
        step if step >= 3600.0 => format!("{} h", (value / 3600.0).round()),
        step if step >= 60.0 => format!("{} min", (value / 60.0).round()),
        _ => format!("{} s", rate(value.max(0.0))),
    }
}

/// Returns the smallest of `mantissas` times a power of ten that is not smaller than a value.
pub fn round_up(value: f64, mantissas: &[f64]) -> f64 {
    let value = positive(value);
    let power = 10f64.powf(value.log10().floor());
    let found = mantissas.iter().map(|it| it * power);
    let mut found = found.filter(|it| *it >= value * 0.999_999);
    found.next().unwrap_or(power * 10.0)
}

/// Returns where the labels along a horizontal axis are shown. Where two would overlap, the one
/// that comes first in the list is kept.
pub fn place(ticks: &[Tick]) -> Vec<Placed> {
    let ends = |tick: &Tick| label_width(tick) / 2.0 > (1.0 - tick.at) * NARROW + MARGIN;
    let ends: Vec<bool> = ticks.iter().map(ends).collect();
    let [narrow, wide] = [NARROW, WIDE].map(|width| fitting(ticks, &ends, width));
    let places = ends.into_iter().zip(narrow).zip(wide);
    let placed = |((ends, narrow), wide)| Placed { narrow, wide, ends };
    places.map(placed).collect()
}

fn fitting(ticks: &[Tick], ends: &[bool], width: f64) -> Vec<bool> {
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let mut fits = |(tick, ends): (&Tick, &bool)| {
        let (left, right) = extent(tick, *ends, width);
        let is_free = |it: &(f64, f64)| right + GAP <= it.0 || it.1 + GAP <= left;
        let fits = !tick.label.is_empty() && taken.iter().all(is_free);
        if fits {
            taken.push((left, right));
        }
        fits
    };
    ticks.iter().zip(ends).map(&mut fits).collect()
}

/// Returns the left and the right end of a label, in pixels from the left of the drawing area.
fn extent(tick: &Tick, ends: bool, width: f64) -> (f64, f64) {
    let label = label_width(tick);
    match ends {
        false => (tick.at * width - label / 2.0, tick.at * width + label / 2.0),
        true => (tick.at * width + MARGIN - label, tick.at * width + MARGIN),
    }
}

fn label_width(tick: &Tick) -> f64 {
    tick.label.chars().count() as f64 * CHARACTER
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the labels in the order of their positions.
    fn labels(ticks: &[Tick]) -> Vec<&str> {
        let mut ticks: Vec<&Tick> = ticks.iter().collect();
        ticks.sort_by(|one, other| one.at.total_cmp(&other.at));
        let labels = ticks.into_iter().map(|tick| tick.label.as_str());
        labels.filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn amounts_have_round_labels() {
        let (axis, ticks) = amounts(1010.0, false, number);
        assert_eq!(labels(&ticks), ["0", "250", "500", "750", "1,000", "1,250"]);
        assert!((axis.at(1000.0) - 0.8).abs() < 1e-9);
        let (_, ticks) = amounts(1.0, true, number);
        assert_eq!(labels(&ticks), ["0", "1", "2", "3", "4"]);
        let (_, ticks) = amounts(0.13, false, number);
        assert_eq!(labels(&ticks), ["0", "0.05", "0.1", "0.15"]);
        let (_, ticks) = amounts(4_000_000.0, true, number);
        assert_eq!(labels(&ticks), ["0", "1 M", "2 M", "3 M", "4 M"]);
    }

    #[test]
    fn durations_have_decades_or_parts_of_them() {
        let (_, ticks) = durations(12e3, 5.2e9, 10);
        let expected = ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"];
        assert_eq!(labels(&ticks), expected);
        let (_, ticks) = durations(1.2e6, 3e6, 10);
        assert_eq!(labels(&ticks), ["1 ms", "2 ms", "5 ms"]);
        let (_, ticks) = durations(1e3, 1e18, 6);
        assert!(labels(&ticks).len() <= 6, "{ticks:?}");
    }

    #[test]
    fn times_are_in_the_unit_of_their_steps() {
        assert_eq!(
            labels(&time(0.0, 1.0).1),
            ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]
        );
        let (_, ticks) = time(0.0, 65.0);
        assert_eq!(
            labels(&ticks),
            ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]
        );
        let (_, ticks) = time(0.0, 3601.2);
        let expected = [
            "0 min", "10 min", "20 min", "30 min", "40 min", "50 min", "60 min",
        ];
        assert_eq!(labels(&ticks), expected);
        assert_eq!(labels(&time(0.0, 86_400.0).1).last(), Some(&"24 h"));
    }

    proptest! {
        #[test]
        fn axes_take_every_value(low in any::<f64>(), high in any::<f64>(), value in any::<f64>()) {
            let times = durations(low, high, 8);
            let seconds = time(low, high);
            let amounts = amounts(high, false, number);
            for (axis, ticks) in [times, seconds, amounts] {
                prop_assert!((0.0..=1.0).contains(&axis.at(value)));
                prop_assert!(ticks.len() < 80, "{}", ticks.len());
                prop_assert!(ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.at)));
            }
        }

        #[test]
        fn every_axis_of_time_is_labelled(from in 0.0f64..1e6, span in 1e-3f64..1e7) {
            let (_, ticks) = time(from, from + span);
            prop_assert!((2..=9).contains(&ticks.len()), "{ticks:?}");
        }

        #[test]
        fn labels_that_are_kept_do_not_overlap(
            ticks in prop::collection::vec((0.0f64..=1.0, "[0-9a-z ]{0,9}"), 0..12),
        ) {
            let tick = |(at, label)| Tick { at, label };
            let ticks: Vec<Tick> = ticks.into_iter().map(tick).collect();
            let placed = place(&ticks);
            for (width, shown) in [(NARROW, 0), (WIDE, 1)] {
                let kept = ticks.iter().zip(&placed).filter(|(_, it)| [it.narrow, it.wide][shown]);
                let kept = kept.map(|(tick, it)| extent(tick, it.ends, width));
                let mut kept: Vec<(f64, f64)> = kept.collect();
                kept.sort_by(|one, other| one.0.total_cmp(&other.0));
                for pair in kept.windows(2) {
                    prop_assert!(pair[0].1 + GAP <= pair[1].0 + 1e-9, "{pair:?}");
                }
                for (_, right) in kept {
                    prop_assert!(right <= width + MARGIN + 1e-9);
                }
            }
        }
    }
}
