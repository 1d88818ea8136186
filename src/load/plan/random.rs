//! Random numbers as a function of (seed, stream, place). Pure: there is no generator state, so a
//! message does not depend on when, or on which thread, it was made.
//!
//! The mixing function is that of SplitMix64 (Steele, Lea and Flood 2014).

/// Odd, and close to 2^64 divided by the golden ratio: consecutive counters differ in many bits.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The purpose of a stream of random numbers. Streams of different purposes are independent of each
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The bytes of a connection.
    Bytes,
    /// The sizes of a connection's messages.
    Sizes,
    /// The gaps between arrivals.
    Gaps,
    /// The jitter of a line's waits before it reconnects.
    Backoff,
}

/// An endless stream of random numbers, each addressed by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomStream {
    key: u64,
}

impl RandomStream {
    /// Returns the stream of one member, such as a connection by its number.
    pub fn new(seed: u64, purpose: Purpose, member: u64) -> RandomStream {
        let stream = mix(member.wrapping_add(STEP)) ^ mix(purpose as u64);
        RandomStream {
            key: mix(seed ^ stream),
        }
    }

    /// Returns the number at a place: 64 random bits.
    #[inline]
    pub fn at(self, place: u64) -> u64 {
        mix(self.key.wrapping_add(place.wrapping_mul(STEP)))
    }

    /// Returns the number at a place, uniformly distributed above 0 and up to 1.
    pub fn unit(self, place: u64) -> f64 {
        const BITS: u32 = f64::MANTISSA_DIGITS;
        ((self.at(place) >> (u64::BITS - BITS)) + 1) as f64 / (1u64 << BITS) as f64
    }
}

/// A bijection of 64 bits in which every input bit reaches every output bit: the finalizer of
/// SplitMix64.
#[inline]
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_other_members_and_purposes_are_others() {
        let streams = [
            RandomStream::new(1, Purpose::Bytes, 0),
            RandomStream::new(2, Purpose::Bytes, 0),
            RandomStream::new(1, Purpose::Bytes, 1),
            RandomStream::new(1, Purpose::Sizes, 0),
        ];
        let mut first: Vec<u64> = streams.iter().map(|random| random.at(0)).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), streams.len());
    }

    #[test]
    fn the_unit_interval_is_filled_evenly_and_never_zero() {
        let random = RandomStream::new(7, Purpose::Gaps, 0);
        let mut tenths = [0; 10];
        for place in 0..100_000 {
            let unit = random.unit(place);
            assert!(unit > 0.0 && unit <= 1.0);
            tenths[((unit * 10.0) as usize).min(9)] += 1;
        }
        // Six standard deviations of a count with mean 10,000.
        for count in tenths {
            assert!((9_430..10_570).contains(&count), "{tenths:?}");
        }
    }
}
