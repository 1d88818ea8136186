//! A duel: two servers that are loaded in turn, each for a slice of time, and then compared. Pure.
//!
//! Invariant: a round has one slice of each server, and the order is reversed from round to round
//! (A B, B A, A B, ...), so that a steady change of the machine affects both servers alike.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::compare::run::Run;
use crate::units::counted;

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that is compared with.
    A,
    /// The server that is compared.
    B,
}

/// A run of a duel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its number in the order of time, from 1.
    pub number: u32,
    /// The number of its round, from 1.
    pub round: u32,
    /// The server that it loads.
    pub side: Side,
}

/// A duel that was carried out, in full or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duel {
    /// The targets of A and of B, as they were typed.
    pub targets: [String; 2],
    /// The number of rounds that were to be carried out.
    pub rounds: u32,
    /// The length of a slice.
    pub slice: Duration,
}

impl Side {
    /// Returns the name of the set of runs: `A`, `B`.
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "A",
            Side::B => "B",
        }
    }

    /// Returns the place of the server among the two.
    pub fn place(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

impl Slice {
    /// Returns the name of the slice, by which the slices of a duel sort in the order of time:
    /// `01-a`.
    pub fn name(self, rounds: u32) -> String {
        let digits = (2 * rounds).to_string().len().max(2);
        let side = self.side.name().to_lowercase();
        format!("{:0digits$}-{side}", self.number)
    }
}

/// Returns the slices of a duel in the order of time.
pub fn slices(rounds: u32) -> impl Iterator<Item = Slice> {
    let of_round = |round: u32| {
        let order = match round % 2 {
            1 => [Side::A, Side::B],
            _ => [Side::B, Side::A],
        };
        let slice = move |(place, side)| Slice {
            number: 2 * (round - 1) + place,
            round,
            side,
        };
        (1..).zip(order).map(slice)
    };
    (1..=rounds).flat_map(of_round)
}

impl Duel {
    /// Returns the number of slices of the whole duel.
    pub fn slices(&self) -> usize {
        2 * self.rounds as usize
    }

    /// Says what was done, from the runs of A and of B.
    pub fn described(&self, a: &[Run], b: &[Run]) -> String {
        let slice = humantime::format_duration(self.slice);
        let done = a.len() + b.len();
        let rounds = counted(self.rounds, "round");
        let done = match self.slices() {
            all if done == all => format!("{rounds} of {slice}"),
            all => format!("{done} of {all} slices of {slice}, since the duel ended early"),
        };
        let [a_target, b_target] = &self.targets;
        let discarded = discarded(a.iter().chain(b));
        let count: usize = discarded.values().sum();
        let reasons = match discarded.len() {
            0 => String::new(),
            1 => format!(" ({})", discarded.keys().copied().collect::<String>()),
            _ => {
                let reasons = discarded.iter();
                let reasons = reasons.map(|(verdict, count)| format!("{count} {verdict}"));
                format!(" ({})", reasons.collect::<Vec<String>>().join(", "))
            }
        };
        format!("{done}, A = {a_target}, B = {b_target}, discarded: {count}{reasons}")
    }
}

/// Returns the numbers of slices that are left out of the comparison, by verdict.
pub fn discarded<'a>(runs: impl Iterator<Item = &'a Run>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for run in runs.filter(|run| run.left_out.is_some()) {
        *counts.entry(run.verdict.name()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::load::judge::verdict::Verdict;
    use crate::record::description::Description;

    #[test]
    fn the_order_is_reversed_from_round_to_round() {
        let names: Vec<String> = slices(3).map(|slice| slice.name(3)).collect();
        assert_eq!(names, ["01-a", "02-b", "03-b", "04-a", "05-a", "06-b"]);
        let rounds: Vec<u32> = slices(3).map(|slice| slice.round).collect();
        assert_eq!(rounds, [1, 1, 2, 2, 3, 3]);
        let last = slices(50).last().unwrap();
        assert_eq!(last.name(50), "100-a");
        assert_eq!(slices(50).next().unwrap().name(50), "001-a");
    }

    #[test]
    fn a_steady_change_affects_both_sides_alike() {
        for rounds in (2..40).step_by(2) {
            let times = |side| slices(rounds).filter(move |slice| slice.side == side);
            let sum = |side| times(side).map(|slice| slice.number).sum::<u32>();
            assert_eq!(sum(Side::A), sum(Side::B));
        }
    }

    fn run(verdict: Verdict) -> Run {
        let left_out = (verdict != Verdict::Valid).then(|| "a reason".to_string());
        Run {
            folder: PathBuf::from("01-a"),
            description: Description::new(String::new(), BTreeMap::new(), None, BTreeMap::new()),
            target: String::new(),
            is_interrupted: false,
            verdict,
            doubt: None,
            left_out,
            values: Vec::new(),
        }
    }

    #[test]
    fn what_was_done_is_one_sentence() {
        use Verdict::{ClientBound, Failed, Valid};
        let duel = Duel {
            targets: ["a:1".to_string(), "b:2".to_string()],
            rounds: 2,
            slice: Duration::from_millis(1500),
        };
        let described = |a: &[Verdict], b: &[Verdict]| {
            let [a, b] = [a, b].map(|runs| runs.iter().copied().map(run).collect::<Vec<Run>>());
            duel.described(&a, &b)
        };
        let two = [Valid; 2];
        assert_eq!(
            described(&two, &two),
            "2 rounds of 1s 500ms, A = a:1, B = b:2, discarded: 0"
        );
        assert_eq!(
            described(&two, &[ClientBound, Valid]),
            "2 rounds of 1s 500ms, A = a:1, B = b:2, discarded: 1 (client-bound)"
        );
        assert_eq!(
            described(&[Failed], &[ClientBound; 2]),
            "3 of 4 slices of 1s 500ms, since the duel ended early, A = a:1, B = b:2, \
             discarded: 3 (2 client-bound, 1 failed)"
        );
    }
}
