//! The search for the highest rate that holds an objective, as RFC 9971 (MLRsearch) defines it.
//! Pure: the trials are runs of `load`, which are carried out elsewhere.
//!
//! | idea | file |
//! |---|---|
//! | the goal of a search, and loads | `goal` |
//! | trials, the classification of a load, relevant bounds | `database` |
//! | the next trial, or the end | `strategy` |
//! | what a run shows about its load | `trial` |
//! | a search that is over | `report` |
//! | the outputs | `text`, `json` |

pub mod database;
pub mod goal;
pub mod json;
pub mod report;
pub mod strategy;
pub mod text;
pub mod trial;

use std::time::Duration;

use crate::search::goal::Goal;

/// The number of long trials that the default duration sum consists of.
pub const TRIALS_DEFAULT: u32 = 5;

/// The default goal. Trials of 2 s have enough messages for a p99 from some hundred messages per
/// second on. Of five trials at a load, 10 s together, three decide: a single one that is disturbed
/// does not, also where an overload before it already spoiled the first one. The bounds are within
/// 5 %, about what differs from run to run on an ordinary machine. In the simulated searches of the
/// tests this takes 20 to 90 s.
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
