//! A histogram for the samples of a few milliseconds that is emptied again and again. Recording a
//! sample and draining it cost time in proportion to the samples, not to the size of a whole
//! histogram. Pure.
//!
//! A sample is stored by its *step*, the index of its bucket. Values below 2,048 have a step each;
//! above that, each octave has 1,024 steps, so that a value is known to one part in a thousand, as
//! in a histogram of three significant digits. 56,320 steps cover every 64-bit value.

/// Number of steps per octave, as a power of two.
const OCTAVE_BITS: u32 = 10;

/// Number of steps that share one mark bit: a cache line of counts.
const GROUP: usize = 16;

/// Number of groups whose marks share one word.
const WORD: usize = u64::BITS as usize;

/// Counts of samples by step. The memory grows with the largest sample.
#[derive(Clone, Debug, Default)]
pub struct RecentSamples {
    counts: Vec<u32>,
    /// One bit for each group of steps, set if the group may hold samples.
    marks: Vec<u64>,
    largest: u64,
}

/// Returns the step of a value.
#[inline]
pub fn bucket_of(value: u64) -> usize {
    let octave = (u64::BITS - 1 - (value | 1).leading_zeros()).saturating_sub(OCTAVE_BITS);
    ((octave as usize) << OCTAVE_BITS) + (value >> octave) as usize
}

/// Returns the smallest value of a step.
pub fn bucket_min(step: usize) -> u64 {
    let octave = octave_of(step);
    ((step - (octave << OCTAVE_BITS)) as u64) << octave
}

/// Returns the mean of the least and the largest value of `width` steps that begin with `step`, all
/// of one octave.
pub fn steps_middle(step: usize, width: usize) -> f64 {
    let values = width as f64 * (1u64 << octave_of(step)) as f64;
    bucket_min(step) as f64 + (values - 1.0) / 2.0
}

fn octave_of(step: usize) -> usize {
    (step >> OCTAVE_BITS).saturating_sub(1)
}

impl RecentSamples {
    /// Counts a sample.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.largest = self.largest.max(value);
        let step = bucket_of(value);
        let group = step / GROUP;
        match (self.counts.get_mut(step), self.marks.get_mut(group / WORD)) {
            (Some(count), Some(marks)) => {
                *count += 1;
                *marks |= 1 << (group % WORD);
            }
            _ => self.grow(value),
        }
    }

    /// Allocates room for the step of a sample, and counts the sample.
    #[cold]
    fn grow(&mut self, value: u64) {
        let words = bucket_of(value) / GROUP / WORD + 1;
        self.marks.resize(words, 0);
        self.counts.resize(words * WORD * GROUP, 0);
        self.record(value);
    }

    /// Returns the largest sample since this was last called; 0 when there was none.
    pub fn take_largest(&mut self) -> u64 {
        std::mem::take(&mut self.largest)
    }

    /// Removes all samples: calls `call` for each step that has samples, in ascending order, with
    /// the step and the number of its samples.
    pub fn drain(&mut self, mut call: impl FnMut(usize, u32)) {
        for (word, marks) in self.marks.iter_mut().enumerate() {
            while *marks != 0 {
                let group = word * WORD + marks.trailing_zeros() as usize;
                *marks &= *marks - 1;
                let first = group * GROUP;
                let counts = self.counts.get_mut(first..first + GROUP);
                for (place, count) in counts.into_iter().flatten().enumerate() {
                    if *count > 0 {
                        call(first + place, std::mem::take(count));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn anything() -> impl Strategy<Value = u64> {
        (0u32..64, any::<u64>()).prop_map(|(bits, value)| value >> bits)
    }

    proptest! {
        #[test]
        fn a_step_holds_its_values_to_one_part_in_a_thousand(value in anything()) {
            let step = bucket_of(value);
            prop_assert!(step < 56_320);
            let least = bucket_min(step);
            prop_assert!(least <= value && (value - least) as f64 <= value as f64 / 1024.0);
            prop_assert!(least == 0 || bucket_of(least - 1) == step - 1);
            prop_assert!((steps_middle(step, 1) - value as f64).abs() <= value as f64 / 1000.0);
        }

        #[test]
        fn what_is_recorded_comes_out_once_and_in_order(
            mut values in prop::collection::vec(anything(), 0..100),
        ) {
            let mut recent = RecentSamples::default();
            let mut again = Vec::new();
            for _ in 0..2 {
                values.iter().for_each(|value| recent.record(*value));
                again.clear();
                recent.drain(|step, count| {
                    again.extend(std::iter::repeat_n(step, count as usize));
                });
                prop_assert_eq!(recent.take_largest(), values.iter().copied().max().unwrap_or(0));
            }
            values.sort_unstable();
            let steps: Vec<usize> = values.iter().map(|value| bucket_of(*value)).collect();
            prop_assert_eq!(again, steps);
            recent.drain(|_, _| panic!("it is empty"));
        }
    }
}
