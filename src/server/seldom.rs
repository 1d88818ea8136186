//! Conditions that repeat are told once a second at most. Pure: time comes in as an argument.

use std::fmt;
use std::time::{Duration, Instant};

use crate::units::grouped;

/// The time between two lines about the same.
const PAUSE: Duration = Duration::from_secs(1);

/// One condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    untold: u64,
}

/// How often it happened since it was told last, this time not counted: for the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold(u64);

impl Seldom {
    /// It happened. When it is to be told, tells how often it was not.
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
