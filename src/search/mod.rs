//! The search for the highest rate that holds an objective, as RFC 9971 (MLRsearch) defines it.
//! Pure: the trials are carried out elsewhere.
//!
//! | idea | file |
//! |---|---|
//! | the goal of a search, and loads | `goal` |
//! | trials, the classification of a load, relevant bounds | `database` |
//! | the next trial, or the end | `strategy` |

pub mod database;
pub mod goal;
pub mod strategy;

use std::time::Duration;

use crate::search::goal::Goal;

/// The default goal. Trials of 2 s have enough messages for a p99 from some hundred messages per
/// second on. Of three trials at a load, 6 s together, two decide, so that a single disturbed one
/// does not. The bounds are within 5 %, which is about what differs from run to run on an ordinary
/// machine.
pub const GOAL_DEFAULT: Goal = Goal {
    final_trial: Duration::from_secs(2),
    duration_sum: Duration::from_secs(10),
    exceed_ratio: 0.5,
    width: 0.05,
};

/// The duration of a short trial, a quarter of a long one by default: long enough that a queue
/// shows that grows by a few percent of the rate.
pub const SHORT_TRIAL: Duration = Duration::from_millis(500);

/// The default of the time that a search may take: four times what it takes without disturbances.
pub const TIME_DEFAULT: Duration = Duration::from_secs(300);
