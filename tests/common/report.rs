//! The JSON report of a load run, and repetition of runs that a busy machine has spoiled.

use std::time::Duration;

use super::{Ended, run};

/// The report of a run whose sums were checked.
#[derive(Clone, Debug)]
pub struct Report(pub serde_json::Value);

/// The possible outcomes of a message.
const OUTCOMES: [&str; 5] = [
    "verified",
    "mismatched",
    "errored",
    "timed_out",
    "unanswered",
];

/// Maximum number of runs while the machine's CPUs were taken by others.
const ATTEMPTS: u32 = 3;

/// Runs `load` with `--format json` to its end, whatever its verdict.
#[track_caller]
pub fn load(arguments: &str) -> Report {
    Report::of(run(&format!("load --format json {arguments}")))
}

/// Repeats an experiment, up to [`ATTEMPTS`] runs in all, while its report shows that other
/// processes or the host took the CPUs: such a run measures the machine. The last attempt must meet
/// the same demands as the first.
pub fn calm<T>(mut experiment: impl FnMut() -> (Report, T)) -> (Report, T) {
    for _ in 1..ATTEMPTS {
        let (report, more) = experiment();
        if !report.was_disturbed() {
            return (report, more);
        }
        let (starved, stolen) = (
            report.number("evidence/starved"),
            report.number("evidence/stolen_s"),
        );
        println!("once more: starved for {starved:.3} of the time, {stolen} s stolen");
    }
    experiment()
}

/// Repeats, like [`calm`], a run that needs only its arguments.
#[track_caller]
pub fn load_undisturbed(arguments: &str) -> Report {
    calm(|| (load(arguments), ())).0
}

impl Report {
    /// Checks that every message has one outcome and that the report agrees with the exit code.
    #[track_caller]
    pub fn of(ended: Ended) -> Report {
        assert!(matches!(ended.code, Some(0 | 1 | 4)), "{ended:#?}");
        let report = Report(ended.json());
        let sum: u64 = OUTCOMES.iter().map(|fate| report.count(fate)).sum();
        assert_eq!(report.count("scheduled"), sum, "{}", report.0);
        assert_eq!(report.0["schema"], "upcase.load/1");
        assert_eq!(report.0["ok"], ended.code == Some(0), "{}", report.0);
        assert_eq!(
            report.0["exit_code"],
            ended.code.unwrap_or(-1),
            "{}",
            report.0
        );
        report
    }

    /// Returns a whole number by its path, such as `warmup/scheduled`.
    #[track_caller]
    pub fn count(&self, path: &str) -> u64 {
        let found = self.0.pointer(&format!("/{path}")).and_then(|n| n.as_u64());
        found.unwrap_or_else(|| panic!("{path} in {:#}", self.0))
    }

    /// Returns a number by its path, such as `response_us/p99`.
    #[track_caller]
    pub fn number(&self, path: &str) -> f64 {
        let found = self.0.pointer(&format!("/{path}")).and_then(|n| n.as_f64());
        found.unwrap_or_else(|| panic!("{path} in {:#}", self.0))
    }

    /// Returns a time by its path, which has the unit microseconds.
    #[track_caller]
    pub fn time(&self, path: &str) -> Duration {
        Duration::from_secs_f64(self.number(path) / 1e6)
    }

    /// Returns the word of the verdict.
    pub fn verdict(&self) -> &str {
        self.0["verdict"].as_str().unwrap_or_default()
    }

    /// Returns the sentences that explain the verdict.
    pub fn sentences(&self) -> String {
        let sentences = self.0["evidence"]["sentences"].as_array();
        let sentences = sentences.into_iter().flatten();
        let texts: Vec<&str> = sentences.filter_map(|text| text.as_str()).collect();
        texts.join("; ")
    }

    /// Returns whether a sentence or an advice contains any of these texts, ignoring case.
    pub fn contains_any(&self, texts: &[&str]) -> bool {
        let evidence = &self.0["evidence"];
        let lists = [&evidence["sentences"], &evidence["advice"]];
        let said = lists
            .iter()
            .flat_map(|list| list.as_array().into_iter().flatten());
        let mut said = said.filter_map(|text| text.as_str()).map(str::to_lowercase);
        said.any(|said| texts.iter().any(|text| said.contains(&text.to_lowercase())))
    }

    /// Returns whether the report has a number of messages for each target, and these numbers
    /// differ by at most a fiftieth.
    pub fn has_equal_shares(&self) -> bool {
        let targets = self.0["per_target"].as_array();
        let of = |target: &serde_json::Value| {
            let mut names = ["scheduled", "messages", "verified"].into_iter();
            names.find_map(|name| target[name].as_f64())
        };
        let counts: Option<Vec<f64>> = targets.into_iter().flatten().map(of).collect();
        counts.is_some_and(|counts| {
            let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
            let most = counts.iter().copied().fold(0.0, f64::max);
            most - least <= most / 50.0
        })
    }

    /// Returns the share of the messages of each target.
    pub fn shares(&self) -> Vec<f64> {
        let targets = self.0["per_target"].as_array();
        let shares = targets.into_iter().flatten();
        shares
            .filter_map(|target| target["share"].as_f64())
            .collect()
    }

    /// Returns whether a thread of the run waited for a CPU for more than a fiftieth of its time,
    /// or the host stole more than a fiftieth.
    pub fn was_disturbed(&self) -> bool {
        let elapsed = self.number("elapsed_s");
        self.number("evidence/starved") > 0.02 || self.number("evidence/stolen_s") > elapsed * 0.02
    }
}
