//! Rate limiting of log lines: a condition that repeats is logged at most once per second. Pure:
//! time is an argument.

use std::fmt;
use std::time::{Duration, Instant};

use crate::units::grouped;

/// Minimum time between two lines about one condition.
const PAUSE: Duration = Duration::from_secs(1);

/// The rate limiter of one condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    untold: u64,
}

/// Number of times that the condition occurred and was not logged, since it was logged last: for
/// the end of the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold(u64);

impl Seldom {
    /// Records that the condition occurred. If it is to be logged, returns the number of times that
    /// it was not logged since the last line.
    pub fn happened(&mut self, now: Instant) -> Option<Untold> {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(Untold(std::mem::take(&mut self.untold)))
    }
}

/// Nothing, or ` (and 12 times more since this was told)`.
impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (and once more since this was told)"),
            count => {
                let count = grouped(count);
                write!(f, " (and {count} times more since this was told)")
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
        let mut seldom = Seldom::default();
        assert_eq!(seldom.happened(start).unwrap().to_string(), "");
        for ms in [1, 500, 999] {
            assert_eq!(seldom.happened(start + Duration::from_millis(ms)), None);
        }
        let told = seldom.happened(start + PAUSE).unwrap().to_string();
        assert_eq!(told, " (and 3 times more since this was told)");
        assert_eq!(seldom.happened(start + 2 * PAUSE).unwrap().to_string(), "");
        assert_eq!(
            Untold(1).to_string(),
            " (and once more since this was told)"
        );
        let often = " (and 2,000 times more since this was told)";
        assert_eq!(Untold(2000).to_string(), often);
    }
}
