//! The distribution of message sizes. Pure: random bits are passed in as an argument.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A distribution of sizes, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sizes {
    /// All messages have this size.
    Fixed(usize),
    /// Uniformly distributed from the first to the last, both included.
    Uniform(usize, usize),
    /// Several sizes, each with its share of all messages in percent; the shares add up to 100.
    Mixed(Vec<(usize, f64)>),
}

impl Sizes {
    /// Returns the size that 64 random bits select.
    #[inline]
    pub fn of(&self, chance: u64) -> usize {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Uniform(first, last) => {
                let count = (last - first + 1) as u128;
                first + ((u128::from(chance) * count) >> u64::BITS) as usize
            }
            Sizes::Mixed(shares) => mixed(shares, chance),
        }
    }

    /// Returns the smallest size.
    pub fn smallest(&self) -> usize {
        match self {
            Sizes::Fixed(size) | Sizes::Uniform(size, _) => *size,
            Sizes::Mixed(shares) => shares.iter().map(|(size, _)| *size).min().unwrap_or(0),
        }
    }

    /// Returns the largest size.
    pub fn largest(&self) -> usize {
        match self {
            Sizes::Fixed(size) | Sizes::Uniform(_, size) => *size,
            Sizes::Mixed(shares) => shares.iter().map(|(size, _)| *size).max().unwrap_or(0),
        }
    }
}

fn mixed(shares: &[(usize, f64)], chance: u64) -> usize {
    let mut left = chance as f64 / 2f64.powi(64) * 100.0;
    for (size, share) in shares {
        if left < *share {
            return *size;
        }
        left -= share;
    }
    shares.last().map_or(0, |(size, _)| *size)
}

/// Formats the sizes as they are typed: `64`, `64..1500`, `64:90%,16384:10%`.
impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size}"),
            Sizes::Uniform(first, last) => write!(f, "{first}..{last}"),
            Sizes::Mixed(shares) => {
                for (place, (size, share)) in shares.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{size}:{share}%")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::random::{Purpose, RandomStream};

    fn drawn(sizes: &Sizes) -> Vec<usize> {
        let random = RandomStream::new(1, Purpose::Sizes, 0);
        (0..100_000)
            .map(|place| sizes.of(random.at(place)))
            .collect()
    }

    #[test]
    fn a_uniform_size_reaches_both_ends_and_has_their_mean() {
        let sizes = drawn(&Sizes::Uniform(64, 1500));
        assert_eq!(sizes.iter().min(), Some(&64));
        assert_eq!(sizes.iter().max(), Some(&1500));
        let mean = sizes.iter().sum::<usize>() as f64 / 1e5;
        assert!((mean - 782.0).abs() < 10.0, "{mean}");
        assert_eq!(Sizes::Uniform(5, 5).of(u64::MAX), 5);
    }

    #[test]
    fn mixed_sizes_have_their_shares() {
        let sizes = Sizes::Mixed(vec![(64, 90.0), (16384, 10.0)]);
        let small = drawn(&sizes).iter().filter(|size| **size == 64).count();
        assert!((89_400..90_600).contains(&small), "{small}");
        assert_eq!((sizes.of(0), sizes.of(u64::MAX)), (64, 16384));
        assert_eq!(sizes.to_string(), "64:90%,16384:10%");
        assert_eq!(sizes.smallest(), 64);
    }
}
