//! Rate limiting of log lines: a condition that repeats is logged at most once per second. Pure:
//! time is an argument.

use std::fmt;
use std::time::{Duration, Instant};

use crate::units::grouped;

/// Minimum time between two lines about one condition.
const PAUSE: Duration = Duration::from_secs(1);

/// The rate limiter of one condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLimit {
    last: Option<Instant>,
    suppressed: u64,
}

/// Number of times that the condition occurred and was not logged, since it was logged last: for
/// the end of the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed(u64);

impl LogLimit {
    /// Records that the condition occurred. If it is to be logged, returns the number of times that
    /// it was not logged since the last line.
    pub fn record(&mut self, now: Instant) -> Option<Suppressed> {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(Suppressed(std::mem::take(&mut self.suppressed)))
    }
}

/// Nothing, or ` (repeated 12 times since the last such line)`.
impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (repeated once since the last such line)"),
            count => {
                let count = grouped(count);
                write!(f, " (repeated {count} times since the last such line)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_second_and_nothing_is_forgotten() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.record(start).unwrap().to_string(), "");
        for ms in [1, 500, 999] {
            assert_eq!(limit.record(start + Duration::from_millis(ms)), None);
        }
        let suffix = limit.record(start + PAUSE).unwrap().to_string();
        assert_eq!(suffix, " (repeated 3 times since the last such line)");
        assert_eq!(limit.record(start + 2 * PAUSE).unwrap().to_string(), "");
        assert_eq!(
            Suppressed(1).to_string(),
            " (repeated once since the last such line)"
        );
        let often = " (repeated 2,000 times since the last such line)";
        assert_eq!(Suppressed(2000).to_string(), often);
    }
}
