//! What two sets of runs differ in, apart from what they measured: options, versions, machines.
//! Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::compare::run::Run;
use crate::record::description::{Description, OptionValue};
use crate::record::merge::FREE_OPTIONS;
use crate::units::counted;

/// The value of what a run does not have.
const ABSENT: &str = "not given";

/// Something that is not the same in all runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Its values in the runs of A, each with the number of those runs.
    pub a: Vec<(String, usize)>,
    /// Its values in the runs of B.
    pub b: Vec<(String, usize)>,
    /// Whether it may be what the comparison is about: the targets and the labels. Anything else
    /// makes the runs less comparable.
    pub is_expected: bool,
}

/// A property of a run: its name, its value, and whether it may differ.
type Property = (String, String, bool);

/// Returns what is not the same in all runs of both sets.
pub fn differences(a: &[Run], b: &[Run]) -> Vec<Difference> {
    let mut found: BTreeMap<(bool, String), [BTreeMap<String, usize>; 2]> = BTreeMap::new();
    for (side, runs) in [a, b].into_iter().enumerate() {
        for (name, value, is_expected) in runs.iter().flat_map(properties) {
            // What is expected comes first.
            let sides = found.entry((!is_expected, name)).or_default();
            *sides[side].entry(value).or_default() += 1;
        }
    }
    let differs = |((is_fault, name), sides): ((bool, String), [BTreeMap<String, usize>; 2])| {
        let [a, b] = [(a, 0), (b, 1)].map(|(runs, side)| with_absent(&sides[side], runs.len()));
        let mut values: Vec<&String> = a.iter().chain(&b).map(|(value, _)| value).collect();
        values.sort_unstable();
        values.dedup();
        (values.len() > 1).then_some(Difference {
            name,
            a,
            b,
            is_expected: !is_fault,
        })
    };
    found.into_iter().filter_map(differs).collect()
}

/// Returns the values of a property in a set, with the runs that do not have it.
fn with_absent(values: &BTreeMap<String, usize>, runs: usize) -> Vec<(String, usize)> {
    let known: usize = values.values().sum();
    let absent = runs.saturating_sub(known);
    let absent = (absent > 0).then(|| (ABSENT.to_string(), absent));
    let values = values.iter().map(|(value, count)| (value.clone(), *count));
    values.chain(absent).collect()
}

fn properties(run: &Run) -> Vec<Property> {
    let Description {
        version,
        build,
        command: _,
        options,
        begun: _,
        host,
        sysctls,
        note: _,
        labels,
    } = &run.description;
    let mut properties = vec![("target".to_string(), run.target.clone(), true)];
    let mut add = |name: &str, value: &str, is_expected| {
        properties.push((name.to_string(), value.to_string(), is_expected));
    };
    for (name, value) in labels {
        add(&format!("label {name}"), value, true);
    }
    for (name, value) in options {
        if !FREE_OPTIONS.contains(&name.as_str()) && *value != OptionValue::Absent {
            add(&format!("--{name}"), &value.to_string(), false);
        }
    }
    let end = match run.is_interrupted {
        true => "a signal",
        false => "the plan",
    };
    add("ended by", end, false);
    add("version of upcase", version, false);
    add("build", build, false);
    add("host", &host.name, false);
    add("kernel", &host.kernel, false);
    add("CPU", host.cpu.as_deref().unwrap_or("not known"), false);
    add("number of CPUs", &host.cpus.to_string(), false);
    for (name, value) in sysctls {
        add(name, value, false);
    }
    properties
}

impl Difference {
    /// Returns the name, the values in A and those in B, as they are shown.
    pub fn cells(&self) -> [String; 3] {
        let (a, b) = (Difference::side(&self.a), Difference::side(&self.b));
        [self.name.clone(), a, b]
    }

    /// Returns the values of one set in words: `1`, or `1 (4 runs), 2 (1 run)`.
    fn side(values: &[(String, usize)]) -> String {
        match values {
            [] => "no run".to_string(),
            [(value, _)] => value.clone(),
            several => {
                let several = several.iter().map(|(value, count)| {
                    let runs = counted(*count as u64, "run");
                    format!("{value} ({runs})")
                });
                several.collect::<Vec<String>>().join(", ")
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [name, a, b] = self.cells();
        write!(f, "{name}: {a} in A, {b} in B")
    }
}
