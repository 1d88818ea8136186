//! Random numbers that are the same for the same seed.

use std::time::Duration;

use upcase::load::plan::random::{Purpose, RandomStream};

/// Random numbers that are drawn one after the other.
#[derive(Clone, Debug)]
pub struct Chance {
    random: RandomStream,
    thrown: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Chance {
        let random = RandomStream::new(seed, Purpose::Gaps, u64::MAX);
        Chance { random, thrown: 0 }
    }

    /// Returns a number from 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        self.random.at(self.thrown) % end
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn microseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_nanos(self.between(least * 1000, most * 1000))
    }
}
