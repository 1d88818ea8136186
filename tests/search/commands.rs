//! Tests `load --find-max` and `load --sweep` as a user sees them: usage, reports, records, exit
//! codes and signals. The goals are small, so that a search takes a second or two; nothing here
//! depends on the speed of the machine.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{Ended, Process, Temporary, run, upcase};

/// A search of few and short trials. The built-in server holds the objective at these rates.
const SMALL: &str =
    "--connections 5 --goal-duration 200ms --goal-sum 400ms --search-rates 100..400";

/// An objective that holds on any machine.
const HOLDS: &str = "--find-max p50<100s";

/// An objective that never holds.
const FAILS: &str = "--find-max p50<1ns";

/// With these verdicts allowed, the objective alone decides about a trial.
const ANY: &str = "--allow client-bound,server-bound,network-bound,inconclusive,failed";

/// A directory of records, which does not exist yet; it is removed when this is dropped.
struct Records(PathBuf);

impl Records {
    fn new() -> Records {
        Records(Temporary::new(b"").0.with_extension("records"))
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn search(arguments: &str) -> Ended {
    run(&format!("load {SMALL} {ANY} {arguments}"))
}

#[test]
fn an_objective_that_holds_at_the_highest_rate_is_a_lower_bound() {
    let report = search(&format!("{HOLDS} --format json")).expect(0).json();
    assert_eq!(report["schema"], "upcase.search/1");
    assert_eq!(report["end"], "holds-at-highest");
    assert_eq!(report["relevant_lower_bound"], 400.0);
    assert_eq!(report["relevant_upper_bound"], Value::Null);
    assert_eq!(report["goal"]["objective"][0], "p50<100s");
    assert_eq!(report["goal"]["final_trial_duration_s"], 0.2);
    assert_eq!(report["run"]["options"]["find-max"][0], "p50<100s");
    let throughput = report["conditional_throughput"].as_f64().unwrap();
    assert!((1.0..=404.0).contains(&throughput), "{throughput}");
    let trials = report["trials"].as_array().unwrap();
    let rates: Vec<f64> = trials
        .iter()
        .map(|trial| trial["rate"].as_f64().unwrap())
        .collect();
    assert_eq!(rates[..3], [100.0, 200.0, 400.0]);
    assert!(rates[3..].iter().all(|rate| *rate == 400.0), "{rates:?}");
    for trial in trials {
        assert_eq!(trial["outcome"], "good", "{trial}");
        assert_eq!(trial["objective"][0]["holds"], true);
    }
    let text = search(HOLDS).expect(0).stdout;
    for part in [
        "goal         p50<100s; final trial duration 200ms, duration sum 400ms, exceed ratio 0.5",
        "lower bound  400 messages/s, the relevant lower bound",
        "upper bound  there is no relevant upper bound",
        "400/s, the highest rate of the search, holds p50<100s: a lower bound",
        "-> search higher: --search-rates",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_objective_that_fails_at_the_lowest_rate_is_a_failure() {
    let ended = search(FAILS).expect(1);
    assert!(
        ended
            .stdout
            .contains("100/s, the lowest rate of the search, does not hold p50<1ns"),
        "{ended:#?}"
    );
    let log = ended.stderr;
    assert!(log.contains("trial 1: 100/s for "), "{log}");
    assert!(log.contains("bad; p50<1ns: "), "{log}");
    assert_eq!(log.matches("no target was given").count(), 1, "{log}");
    // Several conditions: all must hold.
    let both = format!("{HOLDS} {FAILS} --format json -q");
    let report = search(&both).expect(1).json();
    let conditions = report["trials"][0]["objective"].as_array().unwrap();
    let holds: Vec<&Value> = conditions.iter().map(|it| &it["holds"]).collect();
    assert_eq!(holds, [true, false]);
}

#[test]
fn each_trial_of_a_recorded_search_is_a_record() {
    let records = Records::new();
    let folder = records.0.display();
    search(&format!("{HOLDS} --record {folder} --warmup 50ms")).expect(0);
    let report: Value =
        serde_json::from_str(&fs::read_to_string(records.0.join("search.json")).unwrap()).unwrap();
    for trial in report["trials"].as_array().unwrap() {
        let name = format!("{:02}", trial["number"].as_u64().unwrap());
        let one = run(&format!("report {folder}/{name} --format json"));
        let one = one.json();
        let options = &one["runs"][0]["options"];
        assert_eq!(options["assert"][0], "p50<100s");
        assert_eq!(options["find-max"], Value::Null);
        let rate: f64 = options["rate"].as_str().unwrap().parse().unwrap();
        assert_eq!(rate, trial["rate"].as_f64().unwrap());
        assert_eq!(one["assertions"][0]["holds"], true);
    }
}

#[test]
fn a_search_that_a_signal_ends_reports_what_is_known() {
    let arguments = "--connections 5 --search-rates 100..200 --goal-duration 60s --goal-sum 60s";
    let mut search = Process::piped(upcase(&format!("load {arguments} {HOLDS} {ANY}")));
    // The third trial would take a minute.
    search.wait_for_stderr("trial 1");
    search.signal(Signal::SIGINT);
    let ended = search.ended().expect(4);
    assert!(
        ended.stdout.contains("a signal ended the search"),
        "{ended:#?}"
    );
}

#[test]
fn a_server_that_is_away_cannot_be_searched() {
    let address = crate::common::unused_address();
    let ended = run(&format!("load {address} {SMALL} {HOLDS}")).expect(3);
    assert!(ended.stderr.contains("cannot connect") || ended.stderr.contains("refused"));
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_search_out_of_time_is_inconclusive() {
    let ended = search(&format!("{HOLDS} --search-time 400ms")).expect(4);
    assert!(
        ended
            .stdout
            .contains("the time ended before the search did"),
        "{ended:#?}"
    );
}

#[test]
fn a_sweep_is_a_table_a_page_and_records() {
    let records = Records::new();
    let folder = records.0.display();
    let sweep = "load --connections 5 --sweep 100..300:3 --duration 200ms";
    let ended = run(&format!("{sweep} {ANY} --record {folder} --note <b>")).expect(0);
    for part in [
        "sweep        3 runs of 200ms from 100 to 300 messages/s",
        "run 3",
        "200/s",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {ended:#?}");
    }
    let read = |name: &str| fs::read_to_string(records.0.join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("sweep.json")).unwrap();
    assert_eq!(report["schema"], "upcase.sweep/1");
    assert_eq!(report["rates"], serde_json::json!([100.0, 200.0, 300.0]));
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    for point in points {
        assert!(
            point["response_us"]["p50"].as_f64().unwrap() > 0.0,
            "{point}"
        );
    }
    let page = read("sweep.html");
    for part in ["id=\"times\"", "id=\"achieved\"", "&lt;b&gt;", "All runs"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<b>") && !page.contains("href=\"http"));
    run(&format!("report {folder}/02 --format json")).json();
    let html = run(&format!("{sweep} {ANY} --format html"))
        .expect(0)
        .stdout;
    assert!(html.starts_with("<!DOCTYPE html>"), "{html}");
}

#[test]
fn wrong_replies_fail_a_sweep() {
    // The built-in server answers in upper case.
    let sweep = "load --connections 5 --sweep 100..200:2 --duration 200ms --expect same";
    let ended = run(sweep).expect(1);
    assert!(
        ended.stdout.contains("the server sent wrong replies"),
        "{ended:#?}"
    );
}

#[test]
fn options_that_do_not_fit_are_refused() {
    for (arguments, told) in [
        ("--find-max p99<1ms --rate 5", "--rate"),
        ("--find-max p99<1ms --duration 5s", "--duration"),
        ("--find-max p99<1ms --messages 5", "--messages"),
        ("--find-max p99<1ms --assert p99<1ms", "--assert"),
        ("--find-max p99<1ms --sweep 1..2:2", "--sweep"),
        ("--find-max p99<1ms --interval-log /tmp/x", "--interval-log"),
        ("--find-max p99", "not a condition"),
        ("--sweep 1..2:2 --rate 5", "--rate"),
        ("--sweep 1..2", "the number of rates is missing"),
        ("--width 5%", "--width needs --find-max"),
        (
            "--goal-sum 5s --sweep 1..2:2",
            "--goal-sum needs --find-max",
        ),
        (
            "--search-rates 5..1 --find-max errors=0",
            "5 is more than 1",
        ),
        (
            "--find-max errors=0 --goal-duration 20s --goal-sum 10s",
            "--goal-sum 10s is shorter than one trial of --goal-duration 20s",
        ),
        (
            "--find-max errors=0 --search-time 5s",
            "--search-time 5s is shorter than --goal-sum 10s",
        ),
        ("--format html", "--format html needs --sweep"),
        (
            "--find-max errors=0 --format html",
            "--format html needs --sweep",
        ),
        (
            "--sweep 1..2:2 --warmup 6s",
            "--warmup 6s must be shorter than --duration 5s",
        ),
    ] {
        let ended = run(&format!("load {arguments}")).expect(2);
        assert!(ended.stderr.contains(told), "{arguments}: {ended:#?}");
    }
}
