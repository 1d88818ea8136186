//! Compares the classification of loads with that of MLRsearch, the implementation by the authors
//! of RFC 9971, on random sequences of trials (`tests/data/search/classify.py`).

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use upcase::search::database::{Bounds, Class, Database, Trial};
use upcase::search::goal::{Goal, Load};

use crate::common;

/// A loss ratio up to which a trial is good, in thousandths.
const GOOD: u32 = 10;

/// One line of the script: a goal, trials, and the answers.
#[derive(Debug, Deserialize)]
struct Sequence(
    f64,
    f64,
    f64,
    Vec<(u32, f64, u32)>,
    String,
    Option<u32>,
    Option<u32>,
    Option<u32>,
);

fn load(number: u32) -> Load {
    Load::new(f64::from(number) + 1.0)
}

/// Compares the answers to one sequence.
fn check(line: &str) {
    let sequence: Sequence = serde_json::from_str(line).unwrap();
    let Sequence(trial, sum, exceed_ratio, trials, classes, lower, upper, loss) = sequence;
    let mut database = Database::new(Goal {
        final_trial: Duration::from_secs_f64(trial),
        duration_sum: Duration::from_secs_f64(sum),
        exceed_ratio,
        width: 0.05,
    });
    for (number, seconds, loss) in &trials {
        database.add(Trial {
            load: load(*number),
            duration: Duration::from_secs_f64(*seconds),
            is_good: *loss <= GOOD,
            forwarding_rate: 1000.0 - f64::from(*loss),
        });
    }
    let loads: BTreeSet<u32> = trials.iter().map(|(number, ..)| *number).collect();
    let found: String = loads
        .iter()
        .map(|number| match database.class(load(*number)) {
            Class::LowerBound => 'l',
            Class::UpperBound => 'u',
            Class::Undecided => '?',
        })
        .collect();
    assert_eq!(found, classes, "{line}");
    let bounds = Bounds {
        lower: lower.map(load),
        upper: upper.map(load),
    };
    assert_eq!(database.bounds(), bounds, "{line}");
    let throughput = loss.map(|loss| 1000.0 - f64::from(loss));
    assert_eq!(database.conditional_throughput(), throughput, "{line}");
}

#[test]
fn the_classification_is_that_of_mlrsearch() {
    let sequences = include_str!("../data/search/sequences.jsonl");
    assert_eq!(sequences.lines().count(), 1000);
    sequences.lines().for_each(check);
}

#[test]
#[ignore = "needs Python with the package MLRsearch"]
fn the_classification_is_that_of_mlrsearch_on_other_sequences() {
    let python = Command::new("python3")
        .args(["-c", "import MLRsearch"])
        .output();
    if !python.is_ok_and(|output| output.status.success()) {
        return common::skip("no Python with the package MLRsearch");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/search/classify.py");
    for (seed, count) in [("1", 1000), ("2", 1000), ("3", 1000)] {
        let mut classify = Command::new("python3");
        let output = classify.args([script, seed, &count.to_string()]).output();
        let lines = String::from_utf8(output.unwrap().stdout).unwrap();
        assert_eq!(lines.lines().count(), count, "seed {seed}");
        lines.lines().for_each(check);
        if seed == "1" {
            let stored = include_str!("../data/search/sequences.jsonl");
            assert_eq!(
                lines, stored,
                "the stored sequences are those of the script"
            );
        }
    }
}
