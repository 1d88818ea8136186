//! Tests `compare`: words, conditions and formats from records whose values are known.
//!
//! The records are copies of one short run, each with another time of its begin, and with values
//! that are changed in `measured.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::record::Folder;
use crate::common::{Ended, run, upcase};

/// A directory with records.
struct Records(Folder);

/// The options of the run from which all others are made.
const OPTIONS: &str = "--connections 10 --rate 5000 --duration 300ms";

/// On a busy machine, any verdict about it is as good.
const ANY_VERDICT: &str = "--allow client-bound,network-bound,server-bound,inconclusive,failed";

/// The short run from which all others are made: the content of its files, by name.
fn original() -> &'static BTreeMap<String, String> {
    static ORIGINAL: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let folder = Folder::new();
        let load = format!("load --record {} {OPTIONS} {ANY_VERDICT}", folder.name());
        run(&load).expect(0);
        let files = fs::read_dir(folder.path()).unwrap();
        let file = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            (name, fs::read_to_string(path).unwrap())
        };
        files.map(|entry| file(entry.unwrap().path())).collect()
    })
}

impl Records {
    fn new() -> Records {
        let folder = Folder::new();
        fs::create_dir(folder.path()).unwrap();
        Records(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a run that takes `slow` times as long as the original; returns its directory.
    fn make(&self, name: &str, slow: f64, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut files = original().clone();
        let parsed = |name: &str| serde_json::from_str(&files[name]).unwrap();
        let [mut run, mut measured]: [Value; 2] = ["run.json", "measured.json"].map(parsed);
        let begun = f64::from(
            name.bytes()
                .fold(0_u32, |sum, byte| sum * 31 + u32::from(byte)),
        );
        run["begun"]["monotonic_s"] = json!(begun);
        let elapsed = &mut measured["summary"]["times"]["elapsed"];
        let nanoseconds =
            elapsed["secs"].as_f64().unwrap() * 1e9 + elapsed["nanos"].as_f64().unwrap();
        let nanoseconds = (nanoseconds * slow) as u64;
        *elapsed = json!({
            "secs": nanoseconds / 1_000_000_000,
            "nanos": nanoseconds % 1_000_000_000,
        });
        change(&mut run, &mut measured);
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        files.insert("run.json".to_string(), run.to_string());
        files.insert("measured.json".to_string(), measured.to_string());
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        folder.display().to_string()
    }

    /// Makes some runs whose times differ by up to 1 %; returns their directories.
    fn set(&self, name: &str, runs: u32, slow: f64) -> String {
        let names = (0..runs).map(|number| {
            let vary = 1.0 + f64::from(number * 7 % 10) / 1000.0;
            self.make(&format!("{name}{number}"), slow * vary, |_, _| ())
        });
        names.collect::<Vec<String>>().join(" ")
    }
}

/// The verdicts of runs on a busy machine.
const ANY: &str = "--allow client-bound,inconclusive,failed";

fn compare(arguments: &str) -> Ended {
    run(&format!("compare {arguments} {ANY}"))
}

/// Returns the comparison in a metric.
fn metric<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut metrics = report["metrics"].as_array().unwrap().iter();
    metrics.find(|metric| metric["metric"] == name).unwrap()
}

#[test]
fn a_slower_set_is_called_slower() {
    let records = Records::new();
    let (a, b) = (records.set("a", 5, 1.0), records.set("b", 5, 1.2));
    let report = compare(&format!("{a} --with {b} --format json"))
        .expect(0)
        .json();
    assert_eq!(report["schema"], "upcase.compare/1");
    let rate = metric(&report, "rate");
    assert_eq!(rate["word"], "slower");
    let ratio = rate["ratio"].as_f64().unwrap();
    assert!((ratio * 1.2 - 1.0).abs() < 0.01, "{ratio}");
    assert!(rate["low"].as_f64().unwrap() < ratio && ratio < rate["high"].as_f64().unwrap());
    assert_eq!(rate["a_values"].as_array().unwrap().len(), 5);
    assert_eq!(metric(&report, "p50")["word"], "no difference shown");
    assert_eq!(metric(&report, "p50")["ratio"], 1.0);
    let other = compare(&format!("{b} --with {a} --format json"))
        .expect(0)
        .json();
    assert_eq!(metric(&other, "rate")["word"], "faster");
    let text = compare(&format!("{a} --with {b}")).expect(0).stdout;
    let row = text.lines().find(|line| line.starts_with("rate ")).unwrap();
    assert!(row.contains("0.83") && row.ends_with("  slower"), "{text}");
}

#[test]
fn few_runs_show_nothing_but_their_figures() {
    let records = Records::new();
    let (a, b) = (records.set("a", 3, 1.0), records.set("b", 3, 2.0));
    let report = compare(&format!("{a} --with {b} --format json"))
        .expect(0)
        .json();
    let rate = metric(&report, "rate");
    assert_eq!(rate["word"], "too few runs");
    assert_eq!(rate["ratio"], Value::Null);
    assert!(rate["a"].as_f64() > rate["b"].as_f64());
    let (one, other) = (records.path("a0"), records.path("b0"));
    let two = format!("{} {}", one.display(), other.display());
    let text = compare(&two).expect(0).stdout;
    assert_eq!(text.matches("  too few runs\n").count(), 5, "{text}");
    assert!(
        text.contains("at least 4 against 4 runs with a value"),
        "{text}"
    );
    assert!(!text.contains('['), "no interval: {text}");
}

/// Runs `compare` with conditions, which contain spaces.
fn with_conditions(arguments: &str, conditions: &[&str]) -> Ended {
    let mut command = upcase(&format!("compare {arguments} {ANY}"));
    for condition in conditions {
        command.args(["--fail-if", condition]);
    }
    Ended::from(command.output().unwrap())
}

#[test]
fn a_condition_is_met_or_not_or_undecided() {
    let records = Records::new();
    let (a, b) = (records.set("a", 5, 1.0), records.set("b", 5, 1.2));
    let both = format!("{a} --with {b}");
    for (conditions, code, outcome) in [
        (&["rate slower by 5%"][..], 1, "met"),
        (&["rate slower by 30%"], 0, "not met"),
        (&["p75 slower by 5%"], 0, "not met"),
        (&["rate slower by 16.7%"], 4, "undecided"),
        (
            &["rate slower by 16.7%", "rate slower by 5%"],
            1,
            "undecided",
        ),
    ] {
        let ended = with_conditions(&both, conditions).expect(code);
        let expected = format!("fail-if      {}: {outcome}, ", conditions[0]);
        assert!(ended.stdout.contains(&expected), "{ended:#?}");
    }
    let json = format!("{both} --format json");
    let report = with_conditions(&json, &["rate slower by 5%"])
        .expect(1)
        .json();
    assert_eq!(report["conditions"][0]["outcome"], "met");
    assert_eq!(
        (&report["exit_code"], &report["ok"]),
        (&json!(1), &json!(false))
    );
    let few = format!(
        "{} {}",
        records.path("a0").display(),
        records.path("b0").display()
    );
    let ended = with_conditions(&few, &["rate slower by 5%"]).expect(4);
    assert!(
        ended.stdout.contains("undecided, too few runs"),
        "{ended:#?}"
    );
}

#[test]
fn what_differs_is_named() {
    let records = Records::new();
    let a = records.set("a", 2, 1.0);
    let b = records.make("b", 1.0, |run, _| {
        run["options"]["depth"] = json!("7");
        run["options"]["note"] = json!("free");
        run["options"]["record"] = json!("elsewhere");
        run["host"]["kernel"] = json!("Linux \u{1b}[31m9.9");
        run["version"] = json!("9.9.9");
        run["labels"] = json!({ "commit": "abc" });
    });
    let text = compare(&format!("{a} --with {b}")).expect(0).stdout;
    for line in [
        "differs      --depth: 1 in A, 7 in B\n",
        "compared     label commit: not given in A, abc in B\n",
        "in A, 9.9.9 in B\n",
        "in A, Linux ?[31m9.9 in B\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(text.matches("differs ").count(), 3, "{text}");
    let report = compare(&format!("{a} --with {b} --format json"))
        .expect(0)
        .json();
    let differences = report["differences"].as_array().unwrap();
    let depth = differences.iter().find(|one| one["name"] == "--depth");
    let side = json!([{ "value": "1", "runs": 2 }]);
    assert_eq!(depth.unwrap()["a"], side);
}

#[test]
fn runs_that_say_nothing_about_the_server_are_left_out() {
    let records = Records::new();
    let lost = |_: &mut Value, measured: &mut Value| {
        measured["summary"]["results"]["counts"]["errored"] = json!(5);
        measured["summary"]["results"]["counts"]["scheduled"] = json!(1505);
    };
    let a = records.make("a", 1.0, lost);
    let b = records.make("b", 1.0, |run, _| run["report"] = Value::Null);
    let report = run(&format!("compare {a} {b} --format json"))
        .expect(0)
        .json();
    let left = |set: &str| report[set][0]["left_out"].as_str().unwrap_or_default();
    assert!(left("a").starts_with("failed: "), "{report}");
    assert!(left("b").contains("ended without a summary"), "{report}");
    assert_eq!(metric(&report, "rate")["a"], Value::Null);
    let ended = run(&format!("compare {a} {b}")).expect(0);
    let reported = format!("left out     {a} of A is left out, failed: ");
    assert!(ended.stdout.contains(&reported), "{ended:#?}");
    let advice = "1 of 1 run of A is left out, and may be the slow ones; --allow failed compares";
    assert!(ended.stdout.contains(advice), "{ended:#?}");
    let allowed = run(&format!("compare {a} {b} --allow failed --format json"))
        .expect(0)
        .json();
    assert_eq!(allowed["a"][0]["left_out"], Value::Null);
    assert!(
        allowed["notes"][0]
            .as_str()
            .unwrap()
            .contains(" of A is failed: "),
        "{allowed}"
    );
}

#[test]
fn a_run_counts_once() {
    let records = Records::new();
    let a = records.make("a", 1.0, |_, _| ());
    let copy = records.make("copy", 1.0, |run, _| {
        let of_a = fs::read_to_string(format!("{a}/run.json")).unwrap();
        *run = serde_json::from_str(&of_a).unwrap();
    });
    let report = compare(&format!("{a} {copy} --format json"))
        .expect(0)
        .json();
    let reason = report["b"][0]["left_out"].as_str().unwrap();
    assert_eq!(reason, format!("it is the same run as {a}"));
}

#[test]
fn a_percentile_without_samples_is_no_value() {
    let records = Records::new();
    let both = format!(
        "{} --with {}",
        records.set("a", 4, 1.0),
        records.set("b", 4, 1.0)
    );
    let options = "--percentiles 50,99.99 --format json";
    let report = compare(&format!("{both} {options}")).expect(0).json();
    assert_eq!(metric(&report, "p99_99")["a"], Value::Null);
    assert_eq!(metric(&report, "p99_99")["word"], "too few runs");
    assert_eq!(metric(&report, "p50")["word"], "no difference shown");
    let notes = report["notes"].to_string();
    let reported = "4 runs of A have no value of p99.99: too few samples lie beyond";
    assert!(notes.contains(reported), "{notes}");
}

#[test]
fn sets_one_after_the_other_are_named() {
    let records = Records::new();
    let at = |name: &str, second: f64| {
        records.make(name, 1.0, |run, _| run["begun"]["unix_s"] = json!(second))
    };
    let (a, b) = ([at("a", 1.0), at("c", 2.0)], [at("d", 3.0), at("e", 4.0)]);
    let reported = "all runs of A were before those of B";
    let text = compare(&format!("{} --with {}", a.join(" "), b.join(" ")))
        .expect(0)
        .stdout;
    assert!(text.contains(reported), "{text}");
    let text = compare(&format!("{} {} --with {} {}", a[0], b[0], a[1], b[1]))
        .expect(0)
        .stdout;
    assert!(!text.contains("were before"), "{text}");
}

#[test]
fn unequal_numbers_of_runs_are_named() {
    let records = Records::new();
    let both = format!(
        "{} --with {}",
        records.set("a", 4, 1.0),
        records.set("b", 7, 1.0)
    );
    let text = compare(&both).expect(0).stdout;
    assert!(text.contains("4 runs of A against 7 of B: "), "{text}");
}

#[test]
fn a_markdown_table_is_one() {
    use pulldown_cmark::{Event, Options, Parser, Tag};
    let records = Records::new();
    let a = records.set("a", 4, 1.0);
    let b = records.make("b", 1.0, |run, _| {
        run["options"]["size"] = json!("<b>|`x`\n\n# head");
    });
    let page = compare(&format!("{a} --with {b} --format markdown"))
        .expect(0)
        .stdout;
    let (mut rows, mut other) = (0, 0);
    for event in Parser::new_ext(&page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::TableRow) => rows += 1,
            Event::Html(_) | Event::InlineHtml(_) | Event::Code(_) => other += 1,
            Event::Start(Tag::Heading { .. }) => other += 1,
            _ => {}
        }
    }
    assert_eq!((rows, other), (5, 0), "{page}");
}

#[test]
fn a_page_refers_to_nothing_and_escapes_everything() {
    let records = Records::new();
    let hostile = |run: &mut Value, _: &mut Value| {
        run["options"]["size"] = json!("<script>alert(1)</script>");
        run["host"]["name"] = json!("\"><b onload='x'>");
        run["labels"] = json!({ "<i>": "</td>" });
    };
    let (a, b) = (records.set("a", 5, 1.0), records.make("b", 1.2, hostile));
    let ended = with_conditions(
        &format!("{a} --with {b} --format html"),
        &["p99 slower by 5%"],
    );
    let page = ended.expect(4).stdout;
    assert!(page.starts_with("<!DOCTYPE html>\n") && page.ends_with("</html>\n"));
    for text in ["<script", "<b ", "<i>", "src=", "http:", "url(", "@import"] {
        assert!(!page.contains(text), "{text}");
    }
    for text in [
        "&lt;script&gt;alert(1)",
        "<strong>undecided</strong>",
        "Content-Security-Policy",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(
        page.matches("role=\"img\"").count(),
        page.matches("<svg").count()
    );
    assert!(page.matches("<circle").count() >= 6, "{page}");
}

#[test]
fn wrong_uses_are_refused() {
    let refused = |arguments: &str, text: &str| {
        let ended = run(&format!("compare {arguments}")).expect(2);
        assert!(ended.stderr.contains(text), "{ended:#?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
    };
    refused("a", "a second run is missing: compare A B");
    refused("a b c", "which runs are A, and which are B?");
    refused("a b a --with c", "a is given twice");
    refused("a b --with b/", "b/ is given twice");
    refused("a b --percentiles 100", "not a percentile");
    refused("a b --allow good", "good");
    let mut command = upcase("compare a b --fail-if");
    let ended = Ended::from(command.arg("p99 is slower").output().unwrap()).expect(2);
    assert!(
        ended.stderr.contains("such as 'p99 slower by 5%'"),
        "{ended:#?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
    assert_eq!(run("compare").code, Some(2));
}

#[test]
fn directories_that_are_no_records_cannot_be_compared() {
    let records = Records::new();
    let a = records.make("a", 1.0, |_, _| ());
    let empty = records.0.name();
    let ended = run(&format!("compare {a} {empty}")).expect(3);
    assert!(
        ended.stderr.contains("run.json: No such file"),
        "{ended:#?}"
    );
    assert_eq!(ended.stdout, "");
}
