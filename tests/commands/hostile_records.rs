//! Tests `report` with records that somebody has changed: numbers of any size, missing fields and
//! lines. Whatever a file says, the command prints a report or one line that says what is wrong.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use upcase::load::plan::random::{Purpose, RandomStream};

use crate::common::{Ended, upcase};
use crate::record::{Folder, SHORT, record};

/// Maximum memory of a report in KiB.
const MEMORY_MOST: u64 = 2 << 20;

/// Numbers that are the same for the same seed.
struct Numbers {
    random: RandomStream,
    place: u64,
}

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers {
            random: RandomStream::new(seed, Purpose::Bytes, 0),
            place: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.place += 1;
        self.random.at(self.place)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Returns another value for a field, mostly one of the same type, since a field of a wrong
    /// type is refused before it is used.
    fn instead_of(&mut self, value: &Value) -> Value {
        let whole = [
            0,
            1,
            2,
            1000,
            999_999_999,
            1_000_000_000,
            1 << 32,
            i64::MAX as u64,
        ];
        let largest = [
            u32::MAX.into(),
            u64::MAX,
            u64::MAX - 1,
            u64::MAX / 1_000_000_000,
        ];
        let broken = [
            0.0, 0.5, -0.5, -1.0, 1e-308, -1e308, 1e308, 1e18, 1e9, 100.0,
        ];
        let others = [
            json!(-1),
            json!(i64::MIN),
            json!(true),
            json!(null),
            json!("<b>"),
            json!({}),
        ];
        let choice = self.next() as usize;
        match value {
            _ if self.below(6) == 0 => others[choice % others.len()].clone(),
            Value::Number(number) if number.is_u64() => match self.below(2) {
                0 => json!(whole[choice % whole.len()]),
                _ => json!(largest[choice % largest.len()]),
            },
            Value::Number(_) => json!(broken[choice % broken.len()]),
            Value::Bool(is_set) => json!(!is_set),
            Value::Null => json!(whole[choice % whole.len()]),
            other => other.clone(),
        }
    }

    /// Changes one value somewhere in `value`.
    fn change(&mut self, value: &mut Value) {
        // Closer to the root there are fewer values, which would hardly ever be chosen.
        let is_here = self.below(12) == 0;
        match value {
            Value::Object(fields) if !fields.is_empty() && !is_here => {
                let place = self.below(fields.len());
                let key = fields.keys().nth(place).unwrap().clone();
                match self.below(20) {
                    0 => drop(fields.remove(&key)),
                    _ => self.change(&mut fields[&key]),
                }
            }
            Value::Array(items) if !items.is_empty() && !is_here => {
                let place = self.below(items.len());
                match self.below(10) {
                    0 => drop(items.remove(place)),
                    1 => items.push(items[place].clone()),
                    _ => self.change(&mut items[place]),
                }
            }
            _ => *value = self.instead_of(value),
        }
    }

    /// Changes a file of a record.
    fn change_file(&mut self, name: &str, text: &str) -> String {
        if name.ends_with(".json") {
            let mut value = serde_json::from_str(text).unwrap();
            self.change(&mut value);
            return value.to_string();
        }
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        let place = self.below(lines.len());
        match (self.below(6), serde_json::from_str(&lines[place])) {
            (0, _) => drop(lines.remove(place)),
            (1, _) => lines.insert(place, lines[place].clone()),
            (_, Ok(mut value)) => {
                self.change(&mut value);
                lines[place] = value.to_string();
            }
            (_, Err(_)) => {
                let mut fields: Vec<String> = lines[place].split(',').map(str::to_string).collect();
                let field = self.below(fields.len());
                fields[field] = self.instead_of(&json!(1.0)).to_string();
                lines[place] = fields.join(",");
            }
        }
        lines.join("\n") + "\n"
    }
}

/// Changes a record that was made with these arguments of `load` in `count` ways, and reports each.
fn check(arguments: &str, first_seed: u64, count: u64) {
    let folder = Folder::new();
    record(&folder, arguments);
    let names = [
        "measured.json",
        "run.json",
        "intervals.jsonl",
        "response.hlog",
    ];
    let texts = names.map(|name| fs::read_to_string(folder.path().join(name)).unwrap());
    for seed in first_seed..first_seed + count {
        let mut numbers = Numbers::new(seed);
        // Most of what is computed from a record is in the first of them.
        let which = [0, 0, 0, 1, 2, 2, 3][numbers.below(7)];
        let path = folder.path().join(names[which]);
        let mut changed = texts[which].clone();
        for _ in 0..=numbers.below(3) {
            changed = numbers.change_file(names[which], &changed);
        }
        fs::write(&path, &changed).unwrap();
        let formats = ["text", "json", "html", "csv", "hgrm", "bencher", "otava"];
        let format = formats[numbers.below(formats.len())];
        let ended = report(&folder, format);
        let is_in_order = matches!(ended.code, Some(0 | 1 | 3 | 4));
        let has_reason = ended.code != Some(3) || ended.stderr.lines().count() == 1;
        assert!(
            is_in_order && has_reason && !ended.stderr.contains("panicked"),
            "seed {seed}, {format}, {}: {ended:#?}",
            names[which],
        );
        fs::write(&path, &texts[which]).unwrap();
    }
}

fn report(folder: &Folder, format: &str) -> Ended {
    let upcase = upcase(&format!("report {} --format {format}", folder.name()));
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit -v {MEMORY_MOST} && exec \"$0\" \"$@\""),
    ]);
    command.arg(upcase.get_program()).args(upcase.get_args());
    Ended::from(command.output().unwrap())
}

const FEATURES: [&str; 2] = [
    "--warmup 200ms --timeout 1s --kernel-timestamps --churn 20",
    "--threads 2 --arrivals poisson",
];

#[test]
fn no_number_in_a_record_breaks_a_report() {
    for (number, arguments) in (0..).zip(FEATURES) {
        check(&format!("{SHORT} {arguments}"), number * 1_000_000, 60);
    }
}

#[test]
#[ignore = "three minutes; see .ci/long"]
fn no_number_in_a_record_breaks_a_report_in_thousands_of_tries() {
    for (number, arguments) in (0..).zip(FEATURES) {
        check(
            &format!("{SHORT} {arguments}"),
            number * 1_000_000 + 1000,
            3000,
        );
    }
}
