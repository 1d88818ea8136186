//! Tests rate profiles from the outside: what was due by when, the stages in every kind of report,
//! and a server that freezes in one of them.

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::record::{Folder, record};
use crate::common::peers::{server, slow_server};
use crate::common::report::{Report, calm, load};
use crate::common::{ANY_PACE, Temporary, run};

/// Returns the stages of a JSON report.
fn stages(report: &Value) -> Vec<Value> {
    report["stages"].as_array().cloned().unwrap_or_default()
}

fn texts<'a>(stages: &'a [Value], name: &str) -> Vec<&'a str> {
    let texts = stages.iter().map(|stage| stage[name].as_str());
    texts.map(Option::unwrap_or_default).collect()
}

/// Runs a ramp, and checks that the number of messages that became due in each interval is that of
/// the integral of the rate to within one. Returns the report.
fn ramp(from: f64, to: f64, seconds: f64, options: &str) -> Report {
    let log = Temporary::new(b"");
    let report = load(&format!(
        "{ANY_PACE} --connections 50 --rate {from}..{to}:{seconds}s {options} --interval-log {}",
        log.0.display()
    ));
    let text = fs::read_to_string(&log.0).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let integral = |at: f64| {
        let at = at.min(seconds);
        from * at + (to - from) * at * at / (2.0 * seconds)
    };
    let (mut before, mut due_before) = (0.0, 0);
    for line in &lines {
        let (to, due) = (
            line["to_s"].as_f64().unwrap(),
            line["due"].as_u64().unwrap(),
        );
        let counted = (due - due_before) as f64;
        let expected = integral(to) - integral(before);
        assert!(
            (counted - expected).abs() <= 1.0 + 1e-3,
            "{to}: {counted} {expected}"
        );
        let is_draining = line["tag"] == "drain";
        assert_eq!(
            line["stage"].as_u64(),
            (!is_draining).then_some(1),
            "{line}"
        );
        (before, due_before) = (to, due);
    }
    assert!((due_before as f64 - integral(seconds)).abs() <= 1.0);
    assert_eq!(report.count("scheduled"), due_before);
    report
}

#[test]
fn a_ramp_counts_as_its_integral_in_every_interval() {
    let report = ramp(100.0, 2000.0, 2.0, "--interval 250ms --threads 2");
    assert_eq!(report.count("scheduled"), 2100);
    assert_eq!(report.number("asked_rate"), 1050.0);
    assert_eq!(report.0["profile"], "100..2000:2s");
    assert_eq!(report.number("duration_s"), 2.0);
}

#[test]
#[ignore = "20 s"]
fn a_ramp_to_5000_counts_as_its_integral_in_every_second() {
    let report = ramp(100.0, 5000.0, 20.0, "");
    assert_eq!(report.count("scheduled"), 51_000);
    assert_eq!(report.count("verified"), 51_000);
}

/// Runs three stages against a server that stops answering for 400 ms when it has read this many
/// messages: those of the first stage and a few of the second.
fn frozen_in_the_second_stage() -> Report {
    let (read, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
    let address = server(move |_, mut stream| {
        let mut bytes = [0; 64];
        while stream.read_exact(&mut bytes).is_ok() {
            let number = read.fetch_add(1, Ordering::SeqCst);
            let answering = gate.lock().unwrap();
            if number == 220 {
                thread::sleep(Duration::from_millis(400));
            }
            drop(answering);
            bytes.make_ascii_uppercase();
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    load(&format!(
        "{address} --connections 20 --rate 300:600ms,300..600:1s,300:600ms"
    ))
}

#[test]
fn a_server_that_freezes_in_the_second_stage_fails_that_stage_alone() {
    let (report, ()) = calm(|| (frozen_in_the_second_stage(), ()));
    let stages = stages(&report.0);
    assert_eq!(
        texts(&stages, "rate"),
        ["300:600ms", "300..600:1s", "300:600ms"]
    );
    let verdicts = texts(&stages, "verdict");
    // On a busy machine the client may have been late as well, which precedes.
    if !report.was_disturbed() {
        assert_eq!(verdicts[1], "server-bound", "{:#}", stages[1]);
    }
    assert!(
        ["server-bound", "client-bound"].contains(&verdicts[1]),
        "{:#}",
        stages[1]
    );
    let silence = stages[1]["evidence"]["silence_s"].as_f64().unwrap();
    assert!(silence > 0.35, "{silence}");
    for place in [0, 2] {
        let verdict = verdicts[place];
        assert!(
            ["valid", "client-bound"].contains(&verdict),
            "{:#}",
            stages[place]
        );
        let silence = stages[place]["evidence"]["silence_s"].as_f64().unwrap();
        assert!(silence < 0.35, "{silence}");
    }
    let scheduled = stages
        .iter()
        .map(|stage| stage["scheduled"].as_u64().unwrap());
    assert_eq!(scheduled.collect::<Vec<u64>>(), [180, 450, 180]);
}

#[test]
fn a_stage_with_a_rate_that_the_server_cannot_answer_is_bound_by_it() {
    // At most 1,000 messages a second. The queue is gone before the last stage.
    let run = || {
        let address = slow_server(Duration::from_millis(1));
        let rates = "100:400ms,1500:800ms,0:1s,100:400ms";
        let report = load(&format!("{address} --connections 700 --rate {rates}"));
        (report, ())
    };
    let (report, ()) = calm(run);
    let stages = stages(&report.0);
    let verdicts = texts(&stages, "verdict");
    let growth = stages[1]["evidence"]["growth"].as_f64();
    assert!(growth.is_some_and(|growth| growth > 0.1), "{:#}", stages[1]);
    for place in [0, 3] {
        assert_eq!(
            stages[place]["evidence"]["growth"],
            Value::Null,
            "{:#}",
            stages[place]
        );
    }
    if !report.was_disturbed() {
        assert_eq!(verdicts[1], "server-bound", "{:#}", stages[1]);
    }
    assert_eq!(verdicts[2], "");
}

const STEPS: &str = "--connections 10 --rate 200:300ms,0:100ms,200..600:400ms --interval 100ms";

#[test]
fn a_record_has_the_stages_and_so_has_its_page() {
    let folder = Folder::new();
    let assert = "--assert stage[1].errors=0 --assert stage[3].p50<10s";
    let ended = record(&folder, &format!("{STEPS} {assert}"));
    let name = folder.name();
    let report = run(&format!("report {name}")).expect(0).stdout;
    let (_, rest) = report.split_at(report.find("target ").unwrap());
    assert_eq!(rest, ended.stdout);
    for line in [
        "\n1      200:300ms",
        "\n2      0:100ms",
        "pause\n",
        "\n3      200..600:400ms",
    ] {
        assert!(rest.contains(line), "{line} in {rest}");
    }
    assert!(rest.contains("stage[3].p50<10s: holds"), "{rest}");
    let json = run(&format!("report {name} --format json"))
        .expect(0)
        .json();
    let stages = stages(&json);
    let scheduled = |stage: &Value| stage["scheduled"].as_u64().unwrap();
    assert_eq!(
        stages.iter().map(scheduled).collect::<Vec<u64>>(),
        [60, 0, 160]
    );
    assert_eq!(stages[1]["verdict"], Value::Null);
    let html = run(&format!("report {name} --format html"))
        .expect(0)
        .stdout;
    // Two boundaries between three stages, in every figure that is drawn over time.
    let boundaries = html.split("class=\"boundary\" d=\"").skip(1);
    let lines = boundaries.map(|path| path.split('"').next().unwrap().matches('M').count());
    let lines: Vec<usize> = lines.collect();
    assert!(
        lines.len() > 3 && lines.iter().all(|lines| *lines == 2),
        "{lines:?}"
    );
    for text in [
        "<h3>Stages</h3>",
        ">3: 200..600:400ms</span>",
        ">pause</td>",
    ] {
        assert!(html.contains(text), "{text}");
    }
    for format in ["csv", "hgrm", "bencher", "github", "otava"] {
        run(&format!("report {name} --format {format}")).expect(0);
    }
    let unknown = "--assert stage[4].p50<1s";
    let refused = run(&format!("report {name} {unknown}")).expect(2);
    assert!(
        refused.stderr.contains("there is no stage 4"),
        "{}",
        refused.stderr
    );
}

#[test]
fn parts_of_a_run_merge_stage_by_stage_if_their_stages_are_the_same() {
    let folders = [Folder::new(), Folder::new(), Folder::new()];
    let other = STEPS.replace("0:100ms", "0:200ms");
    thread::scope(|scope| {
        for (folder, options) in folders.iter().zip([STEPS, STEPS, &other]) {
            scope.spawn(move || record(folder, options));
        }
    });
    let [one, two, other] = folders.each_ref().map(Folder::name);
    let report = |folders: &str| run(&format!("report {folders} --format json")).json();
    let merged = stages(&report(&format!("{one} {two}")));
    let rates = ["400:300ms", "0:100ms", "400..1200:400ms"];
    assert_eq!(texts(&merged, "rate"), rates);
    assert_eq!(merged[2]["scheduled"], 320);
    assert_eq!(merged[2]["asked_rate"], 800.0);
    let merged = report(&format!("{one} {other}"));
    assert!(stages(&merged).is_empty());
    let sentences = merged["evidence"]["sentences"].to_string();
    assert!(sentences.contains("so no stage is shown"), "{sentences}");
}
