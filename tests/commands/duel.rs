//! Tests `duel`: the order of its slices, what it keeps, how it ends, and whether its words are
//! right for servers whose difference is known.
//!
//! By design, a row of a comparison calls equal servers different in one of 20 duels. So a duel of
//! a server against itself is repeated when it does, and only three in succession are a fault: for
//! the two rows that are examined, chance does that in at most one of 1,000 tests.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use upcase::compare::ratio::ratio;

use super::record::Folder;
use crate::common::peers::server;
use crate::common::{Ended, Process, Serve, run, unused_address, upcase};

#[allow(dead_code)]
#[path = "../../benches/peers/mod.rs"]
mod peers;

/// On a busy machine, the client may be the limit.
const ANY: &str = "--allow client-bound,inconclusive";

/// A load under which a slice is short, and valid on most machines.
const LIGHT: &str = "--connections 4 --rate 500 --drain 200ms";

fn duel(a: SocketAddr, b: SocketAddr, arguments: &str) -> Ended {
    run(&format!("duel {a} {b} {ANY} {arguments}"))
}

/// Returns the comparison in a metric.
fn metric<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut metrics = report["metrics"].as_array().unwrap().iter();
    metrics.find(|metric| metric["metric"] == name).unwrap()
}

fn values(metric: &Value, side: &str) -> Vec<f64> {
    let values = metric[side].as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

/// Returns the directories of the runs of both sides in the order of their begin.
fn in_order(report: &Value) -> Vec<String> {
    let runs = ["a", "b"].map(|side| report[side].as_array().unwrap().clone());
    let mut runs = runs.concat();
    runs.sort_by_key(|run| run["begun"].as_str().unwrap().to_string());
    let names = runs.iter().map(|run| run["directory"].as_str().unwrap());
    names.map(str::to_string).collect()
}

#[test]
fn slices_alternate_and_their_records_give_the_same_comparison() {
    let (a, b, folder) = (Serve::start(""), Serve::start(""), Folder::new());
    let name = folder.name();
    // A buffer that the kernel does not grant is a hint, which is given once.
    let options = format!("{LIGHT} --rounds 3 --slice 100ms --send-buffer 1GiB --record {name}");
    let ended = duel(
        a.address(),
        b.address(),
        &format!("{options} --format json"),
    );
    let ended = ended.expect(0);
    let report = ended.json();
    let expected = ["01-a", "02-b", "03-b", "04-a", "05-a", "06-b"];
    assert_eq!(
        in_order(&report),
        expected.map(|slice| format!("{name}/{slice}"))
    );
    assert_eq!(
        report["duel"],
        json!({
            "a": a.address().to_string(), "b": b.address().to_string(), "rounds": 3,
            "slice_s": 0.1, "slices": 6, "discarded": {},
        })
    );
    assert_eq!(
        ended.stderr.matches("send buffer in bytes").count(),
        1,
        "{}",
        ended.stderr
    );
    for line in ["round 1 of 3, A ", "round 2 of 3, B ", "round 3 of 3, B "] {
        assert_eq!(ended.stderr.matches(line).count(), 1, "{}", ended.stderr);
    }
    let run_file = fs::read_to_string(folder.path().join("02-b/run.json")).unwrap();
    let run_file: Value = serde_json::from_str(&run_file).unwrap();
    let options = &run_file["options"];
    assert_eq!(options["duration"], "100ms");
    assert_eq!(options["targets"], json!([b.address().to_string()]));
    assert_eq!(options["rounds"], Value::Null);
    assert_eq!(options["record"], format!("{name}/02-b"));
    let of_side = |side: &str| {
        let names = expected.iter().filter(|slice| slice.ends_with(side));
        let names = names.map(|slice| format!("{name}/{slice}"));
        names.collect::<Vec<String>>().join(" ")
    };
    let sets = format!("{} --with {}", of_side("a"), of_side("b"));
    let again = run(&format!("compare {sets} {ANY} --format json")).expect(0);
    let again = again.json();
    assert_eq!(again["duel"], Value::Null);
    for part in ["a", "b", "metrics", "differences"] {
        assert_eq!(report[part], again[part]);
    }
}

#[test]
fn each_format_says_what_was_done() {
    let serve = Serve::start("");
    let address = serve.address();
    let options = format!("{LIGHT} --rounds 1 --slice 50ms");
    let said = format!("1 round of 50ms, A = {address}, B = {address}, discarded: 0");
    let text = duel(address, address, &options).expect(0).stdout;
    assert!(
        text.starts_with(&format!("duel         {said}\n")),
        "{text}"
    );
    assert!(
        text.contains(&format!("A            {address}: 1 run ")),
        "{text}"
    );
    let page = duel(address, address, &format!("{options} --format html"));
    let page = page.expect(0).stdout;
    assert!(
        page.contains("upcase duel</p>") && page.contains(&said),
        "{page}"
    );
    let table = duel(address, address, &format!("{options} --format markdown"));
    let table = table.expect(0).stdout;
    assert!(
        table.starts_with("- **duel**: 1 round of 50ms, A"),
        "{table}"
    );
    let condition = ["--fail-if", "rate slower by 5%"];
    let mut command = upcase(&format!("duel {address} {address} {ANY} {options}"));
    let undecided = Ended::from(command.args(condition).output().unwrap()).expect(4);
    assert!(
        undecided.stdout.contains("undecided, too few runs"),
        "{undecided:?}"
    );
}

#[test]
fn a_signal_ends_a_duel_with_what_is_complete() {
    let serve = Serve::start("");
    let address = serve.address();
    let options = format!("{LIGHT} {ANY} --rounds 300 --slice 200ms --format json");
    let mut process = Process::piped(upcase(&format!("duel {address} {address} {options}")));
    process.wait_for_stderr("round 2 of 300, B ");
    process.signal(Signal::SIGINT);
    let report = process.ended().expect(4).json();
    assert_eq!(report["exit_code"], 4);
    let slices = report["duel"]["slices"].as_u64().unwrap();
    assert!((3..600).contains(&slices), "{report}");
    assert_eq!(in_order(&report).len() as u64, slices);
    assert!(
        !report["differences"].to_string().contains("ended by"),
        "{report}"
    );
}

#[test]
fn a_slice_that_cannot_be_carried_out_is_named() {
    let (a, mut b) = (Serve::start(""), Serve::start(""));
    let options = format!("{LIGHT} --slice 200ms --rounds 300");
    let command = format!("duel {} {} {ANY} {options}", a.address(), b.address());
    let mut process = Process::piped(upcase(&command));
    // The next two slices are those of A.
    process.wait_for_stderr("round 2 of 300, B ");
    b.process.child().kill().unwrap();
    b.process.wait();
    let ended = process.ended().expect(3);
    assert!(
        ended.stdout.contains("since the duel ended early, A = "),
        "{ended:?}"
    );
    let error = ended.stderr.lines().last().unwrap();
    let named = format!(
        "B {} could not be carried out: no server listens",
        b.address()
    );
    assert!(
        error.starts_with("upcase: round ") && error.contains(&named),
        "{error}"
    );
    // Without a slice of each, nothing can be compared.
    let ended = duel(a.address(), unused_address(), &options).expect(3);
    assert_eq!(ended.stdout, "");
    assert!(
        ended.stderr.contains("upcase: round 1 of 300, B "),
        "{ended:?}"
    );
}

#[test]
fn a_server_whose_slices_all_fail_is_a_fault() {
    let serve = Serve::start("");
    let wrong = server(|_, mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            bytes[..count].fill(b'!');
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    let options = format!("{LIGHT} --rounds 2 --slice 100ms");
    let ended = duel(serve.address(), wrong, &options).expect(1);
    assert!(ended.stdout.contains("discarded: 2 (failed)"), "{ended:?}");
    let line = format!("B            {wrong}: 0 runs, 2 left out\n");
    assert!(ended.stdout.contains(&line), "{ended:?}");
}

/// The raw epoll loop of the benchmarks, in a process of its own.
struct RawLoop {
    _process: Process,
    address: SocketAddr,
}

impl RawLoop {
    /// Starts the loop, which keeps its CPU busy for so many microseconds per message.
    fn start(work: u32) -> RawLoop {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "duel::raw_loop_process";
        command.args([name, "--exact", "--ignored", "--nocapture", "-q"]);
        command.env("UPCASE_WORK_US", work.to_string());
        // The loop ends with its input.
        command.stdin(Stdio::piped());
        let mut process = Process::piped(command);
        let mut lines = BufReader::new(process.child().stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        // After a minute, the test harness of the process prints that a test takes long. It must
        // not find its output closed.
        thread::spawn(move || lines.for_each(drop));
        RawLoop {
            _process: process,
            address: address.unwrap(),
        }
    }
}

#[test]
#[ignore = "the process of RawLoop"]
fn raw_loop_process() {
    if let Ok(work) = std::env::var("UPCASE_WORK_US") {
        let work = Duration::from_micros(work.parse().unwrap());
        peers::epoll::serve(work).unwrap();
    }
}

/// Prints the rows of a duel.
fn show(name: &str, report: &Value) {
    for metric in report["metrics"].as_array().unwrap() {
        let [ratio, low, high] = ["ratio", "low", "high"].map(|key| metric[key].as_f64());
        let known = ratio.zip(low.zip(high));
        let shown = known.map(|(ratio, (low, high))| format!("{ratio:.3} [{low:.3}, {high:.3}]"));
        println!(
            "{name}: {} B/A {}, {}",
            metric["metric"],
            shown.unwrap_or_default(),
            metric["word"]
        );
    }
}

/// Checks that a server is not called different from itself in three duels in succession.
fn a_server_equals_itself(rounds: u32, slice: &str) {
    let serve = Serve::start("");
    let address = serve.address();
    let options = format!("--connections 1 --rounds {rounds} --slice {slice} --format json");
    let words = (1..=3).map(|number| {
        let report = duel(address, address, &options).expect(0).json();
        show(&format!("serve against itself, duel {number}"), &report);
        ["rate", "p50"].map(|name| metric(&report, name)["word"].clone())
    });
    let is_equal = |words: &[Value; 2]| words.iter().all(|word| word == "no difference shown");
    let mut seen = Vec::new();
    let found = words
        .inspect(|words| seen.push(words.clone()))
        .any(|words| is_equal(&words));
    assert!(found, "{seen:?}");
}

/// Checks the ratio of `serve` to the raw loop with 20 µs of added work a message.
///
/// With one connection in a closed loop, messages follow each other, so that the work is added to
/// the time from one message to the next, which is 1 / rate. The truth is computed from another
/// duel, with the loop without added work: for each of its runs, the rate that the work leaves.
/// It is known up to its own interval, so that both intervals must have a part in common. Other
/// programs may slow the machine down between the two duels: one of three such pairs suffices.
fn known_work_is_the_difference(rounds: u32, slice: &str) {
    const WORK_US: u32 = 20;
    let serve = Serve::start("");
    let (plain, slow) = (RawLoop::start(0), RawLoop::start(WORK_US));
    let options = format!("--connections 1 --rounds {rounds} --slice {slice} --format json");
    let against = |other: &RawLoop| {
        let ended = duel(serve.address(), other.address, &options);
        ended.expect(0).json()
    };
    let is_found = (1..=3).any(|_| {
        let (without, with) = (against(&plain), against(&slow));
        show("the raw loop against serve", &without);
        show("with 20 µs more a message", &with);
        for name in ["rate", "p50"] {
            assert_eq!(metric(&with, name)["word"], "slower", "{name}");
        }
        let rate = metric(&without, "rate");
        let work = f64::from(WORK_US) / 1e6;
        let left = values(rate, "b_values");
        let left: Vec<f64> = left.iter().map(|rate| 1.0 / (1.0 / rate + work)).collect();
        let truth = ratio(&values(rate, "a_values"), &left).expect("enough runs");
        let found = metric(&with, "rate");
        let [low, high] = ["low", "high"].map(|key| found[key].as_f64().unwrap());
        println!(
            "truth {:.3} [{:.3}, {:.3}]",
            truth.estimate, truth.low, truth.high
        );
        low <= truth.high && truth.low <= high
    });
    assert!(is_found, "see the ratios above");
}

#[test]
#[ignore = "half a minute at most"]
fn a_short_duel_finds_a_difference_only_where_there_is_one() {
    a_server_equals_itself(4, "500ms");
    known_work_is_the_difference(4, "1s");
}

#[test]
#[ignore = "two to four minutes"]
fn a_long_duel_finds_a_difference_only_where_there_is_one() {
    a_server_equals_itself(10, "3s");
    known_work_is_the_difference(10, "3s");
}
