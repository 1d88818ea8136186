//! Tests `load --record` and `report`: a record holds the run exactly, whatever ends it, and
//! several records are one run only if they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

use crate::common::{self, Ended, Process, Serve, Temporary, run, upcase};

/// A directory that does not exist yet, and is removed when this is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let file = Temporary::new(b"");
        Folder(file.0.with_extension("record"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.0.join(file)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Changes `run.json`.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.0.join("run.json");
        let mut run = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut run);
        fs::write(path, run.to_string()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Records a short run; returns its end.
pub fn record(folder: &Folder, arguments: &str) -> Ended {
    let name = folder.name();
    run(&format!(
        "load --record {name} --allow client-bound,inconclusive {arguments}"
    ))
    .expect(0)
}

pub const SHORT: &str = "--connections 10 --rate 500 --duration 600ms --interval 100ms";

#[test]
fn a_record_is_reported_as_the_run_was() {
    for arguments in [
        "--warmup 200ms --threads 2 --percentiles 75,99.99 --assert p75<10s",
        "--arrivals poisson --churn 5 --timeout 1s --kernel-timestamps",
        "--churn 18446744073709551615 --seed 18446744073709551615 --drain 365days",
    ] {
        let folder = Folder::new();
        let ended = record(&folder, &format!("{SHORT} {arguments} --format json"));
        let name = folder.name();
        let report = run(&format!("report {name} --format json")).expect(0);
        assert_eq!(report.json(), ended.json());
        let text = run(&format!("report {name}")).expect(0).stdout;
        assert!(text.starts_with("run          20"), "{text}");
        assert!(text.contains("messages     "), "{text}");
    }
}

#[test]
fn the_text_of_a_report_is_that_of_the_run() {
    let folder = Folder::new();
    let ended = record(
        &folder,
        &format!("{SHORT} --note note --label a=b --label c=d"),
    );
    let report = run(&format!("report {}", folder.name())).expect(0).stdout;
    let (described, rest) = report.split_at(report.find("target ").unwrap());
    assert_eq!(rest, ended.stdout);
    for line in [
        "note         note\n",
        "label        a=b\n",
        "label        c=d\n",
    ] {
        assert!(described.contains(line), "{described}");
    }
}

#[test]
fn the_description_says_what_the_run_was() {
    let folder = Folder::new();
    let ended = record(
        &folder,
        &format!("{SHORT} --note it's --label a=b --format json"),
    );
    let run: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("run.json")).unwrap()).unwrap();
    assert_eq!(run["schema"], "upcase.run/1");
    let options = &run["options"];
    assert_eq!(options["rate"], "500");
    assert_eq!(options["duration"], "600ms");
    assert_eq!(options["arrivals"], "constant");
    assert_eq!(options["depth"], "1");
    assert_eq!(options["spin"], false);
    assert_eq!(options["churn"], Value::Null);
    assert_eq!(run["note"], "it's");
    assert_eq!(run["labels"], json!({ "a": "b" }));
    let command = run["command"].as_str().unwrap();
    assert!(command.contains(r"--note 'it'\''s'"), "{command}");
    assert!(run["begun"]["unix_s"].as_f64() < run["started"]["unix_s"].as_f64());
    for text in ["/host/name", "/host/kernel", "/version", "/build"] {
        assert!(!run.pointer(text).unwrap().as_str().unwrap().is_empty());
    }
    assert!(run["sysctls"]["net.core.somaxconn"].is_string());
    assert_eq!(run["report"]["verdict"], ended.json()["verdict"]);
    // The report holds the same description.
    let described = &ended.json()["runs"][0];
    for key in ["options", "begun", "host", "command"] {
        assert_eq!(described[key], run[key]);
    }
}

#[test]
fn the_intervals_add_up() {
    let folder = Folder::new();
    let ended = record(&folder, &format!("{SHORT} --warmup 200ms --format json"));
    let report = ended.json();
    let lines = folder.lines("intervals.jsonl");
    assert!(lines.len() >= 6, "{}", lines.len());
    let last = lines.last().unwrap();
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap();
    let whole = count(&report, "verified") + count(&report["warmup"], "verified");
    assert_eq!(count(last, "verified"), whole);
    assert_eq!(count(last, "due"), whole);
    assert_eq!(last["warmup"]["verified"], report["warmup"]["verified"]);
    assert_eq!(last["connections_opened"], report["connections_opened"]);
    for name in [
        "response_us",
        "service_us",
        "lateness_us",
        "own_us",
        "blocked_us",
    ] {
        let counts = lines.iter().map(|line| count(&line[name], "count"));
        assert_eq!(counts.sum::<u64>(), whole, "{name}");
    }
    assert!(last["client"]["cpu_s"].as_f64() > Some(0.0));
    assert!(last["client"]["resident_bytes"].as_u64() > Some(1 << 20));
    assert_eq!(last["server"], Value::Null);
    let csv = run(&format!("report {} --format csv", folder.name()))
        .expect(0)
        .stdout;
    assert_eq!(csv.lines().count(), lines.len() + 1);
}

#[test]
fn the_metrics_of_the_server_are_recorded() {
    let page = common::unused_address();
    let serve = Serve::start(&format!("--metrics {page}"));
    let folder = Folder::new();
    record(
        &folder,
        &format!("{} {SHORT} --server-metrics http://{page}", serve.address()),
    );
    let lines = folder.lines("intervals.jsonl");
    let metrics = lines.iter().filter_map(|line| line["server"].as_object());
    let found = metrics.filter(|metrics| {
        let mut names = metrics.keys();
        names.any(|name| name.starts_with("upcase_"))
    });
    assert!(found.count() > 0, "{lines:#?}");
}

#[test]
fn other_programs_get_their_formats() {
    let folder = Folder::new();
    record(
        &folder,
        &format!("{SHORT} --label name=echo --label commit=abc"),
    );
    let name = folder.name();
    let format = |format: &str| run(&format!("report {name} --format {format}")).expect(0);
    let bencher = format("bencher").json();
    assert!(bencher["echo"]["rate (messages/s)"]["value"].as_f64() > Some(0.0));
    let github = format("github").json();
    let names = github
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["name"]);
    assert!(
        names.clone().any(|name| name == "echo: response p50"),
        "{github}"
    );
    assert!(
        !names.clone().any(|name| name == "echo: rate"),
        "more is better"
    );
    let otava = format("otava").stdout;
    let rows: Vec<Vec<&str>> = otava.lines().map(|row| row.split(',').collect()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].len(), rows[1].len());
    let column = rows[0]
        .iter()
        .position(|name| *name == "label_commit")
        .unwrap();
    assert_eq!(rows[1][column], "abc");
    let hgrm = format("hgrm").stdout;
    assert!(hgrm.contains("Total count    =          300]"), "{hgrm}");
}

#[test]
fn wrong_uses_are_refused_before_anything_is_written() {
    let folder = Folder::new();
    let name = folder.name();
    fs::create_dir(folder.path()).unwrap();
    fs::write(folder.path().join("mine"), "text").unwrap();
    let refused = |arguments: &str, text: &str| {
        let ended = run(&format!("load {arguments}")).expect(2);
        assert!(ended.stderr.contains(text), "{ended:#?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
    };
    refused(
        &format!("--record {name}"),
        "is not empty: name a new directory",
    );
    refused(&format!("--record {name}/mine"), "cannot be used");
    refused(
        "--label a=1 --label a=2",
        "--label a is given more than once",
    );
    refused("--label a", "use KEY=VALUE");
    refused(
        "--server-metrics http://h:1",
        "needs --record DIR or --interval-log FILE",
    );
    refused(
        "--server-metrics h:1 --record x",
        "not an address such as http://",
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let ended = run(&format!("report {name}")).expect(3);
    assert!(
        ended.stderr.contains("run.json: No such file"),
        "{ended:#?}"
    );
}

#[test]
fn a_record_of_another_version_is_refused_with_its_version() {
    let folder = Folder::new();
    record(&folder, SHORT);
    folder.edit(|run| {
        run["schema"] = json!("upcase.run/9");
        run["version"] = json!("7.0.0");
    });
    let ended = run(&format!("report {}", folder.name())).expect(3);
    let reported = "it has the format upcase.run/9, written by upcase 7.0.0; upcase";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn damage_is_named_and_the_rest_is_read() {
    let folder = Folder::new();
    record(&folder, SHORT);
    let path = folder.path().join("service.hlog");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[8] = "no sense";
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let ended = run(&format!("report {}", folder.name()));
    let ended = ended.expect(0); // Inconclusive runs are allowed.
    // Client-bound on a busy machine.
    assert!(!ended.stdout.contains("verdict      valid"), "{ended:#?}");
    for text in ["service.hlog, line 9: ", "service.hlog holds "] {
        assert!(ended.stdout.contains(text), "{ended:#?}");
    }
}

#[test]
fn parts_of_a_run_are_one_run() {
    let (one, two) = (Folder::new(), Folder::new());
    let parts = [&one, &two].map(|folder| record(folder, &format!("{SHORT} --format json")).json());
    let start = |folder: &Folder, unix_s: f64| {
        folder.edit(|run| run["started"]["unix_s"] = json!(unix_s));
    };
    let merged = || {
        let ended = run(&format!(
            "report {} {} --format json",
            one.name(),
            two.name()
        ));
        ended.json()
    };
    let sum = |key: &str| {
        parts
            .iter()
            .map(|part| part[key].as_u64().unwrap())
            .sum::<u64>()
    };
    start(&one, 1000.0);
    start(&two, 1000.6);
    let report = merged();
    assert_eq!(report["verified"], sum("verified"));
    assert_eq!(report["response_us"]["count"], sum("verified"));
    assert_eq!(report["duration_s"], 1.2);
    assert_eq!(report["runs"].as_array().unwrap().len(), 2);
    assert!(
        !report["evidence"]
            .to_string()
            .contains("nothing was recorded")
    );
    start(&two, 1000.0);
    let report = merged();
    assert_eq!(report["connections"], 20);
    assert_eq!(report["asked_rate"], 1000.0);
    assert_eq!(report["duration_s"], 0.6);
    start(&two, 1010.0);
    let report = merged();
    // Client-bound on a busy machine.
    assert_ne!(report["verdict"], "valid");
    let gap = "nothing was recorded for 9.40 s between";
    assert!(
        report["evidence"]["sentences"].to_string().contains(gap),
        "{report}"
    );
    two.edit(|run| run["options"]["rate"] = json!("600"));
    let differs = "the plans differ: rate is 500 in";
    assert!(
        merged()["evidence"]["sentences"]
            .to_string()
            .contains(differs)
    );
}

/// Kills a recorded run at some moment; checks that at most one interval is lost, and that every
/// file can be read. Returns the number of its intervals.
fn kill_and_check(target: &str, after: Duration, check: impl Fn(&Folder)) -> usize {
    let folder = Folder::new();
    let arguments = "--connections 5 --rate 2000 --duration 60s --interval 10ms";
    let mut load = Process::start(upcase(&format!(
        "load {target} {arguments} --record {}",
        folder.name()
    )));
    // The record begins a moment after the process.
    common::until("the record has begun", || {
        folder.path().join("run.json").exists()
    });
    thread::sleep(after);
    load.signal(Signal::SIGKILL);
    load.wait();
    let ended = run(&format!("report {} --format json", folder.name())).expect(4);
    let report = ended.json();
    let reported = report["evidence"]["sentences"].to_string();
    assert!(
        reported.contains("the run ended without a summary"),
        "{reported}"
    );
    assert!(!reported.contains("line "), "a line is damaged: {reported}");
    let text = fs::read_to_string(folder.path().join("intervals.jsonl")).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let intervals = whole.lines().filter(|line| !line.is_empty()).count();
    let logged = fs::read_to_string(folder.path().join("response.hlog")).unwrap();
    let logged = logged.rfind('\n').map_or("", |end| &logged[..end]);
    let logged = logged
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    let logged = logged.count();
    assert!(
        logged == intervals || logged == intervals + 1,
        "{logged} and {intervals}"
    );
    if intervals > 0 {
        let last: Value = serde_json::from_str(whole.lines().last().unwrap()).unwrap();
        assert_eq!(report["verified"], last["verified"]);
        // Of an interval that was being written, nothing counts.
        assert_eq!(report["response_us"]["count"], last["verified"]);
        assert_eq!(report["scheduled"], last["due"]);
    }
    assert_eq!(report["rate_share"], Value::Null);
    let text = run(&format!("report {}", folder.name())).expect(4).stdout;
    assert!(!text.contains("every reply verified"), "{text}");
    check(&folder);
    intervals
}

#[test]
fn a_run_that_is_killed_is_reported_as_far_as_it_went() {
    let serve = Serve::start("");
    let target = serve.address().to_string();
    let moments = [0, 1, 50, 333].map(Duration::from_millis);
    let intervals = moments.map(|after| kill_and_check(&target, after, |_| {}));
    assert!(intervals[3] > 5, "{intervals:?}");
}

/// A program that reads a log with HdrHistogram_c and prints the number of its samples.
const READER_IN_C: &str = r#"
#include <stdio.h>
#include "hdr_histogram.h"
#include "hdr_histogram_log.h"
int main(int argc, char **argv) {
    struct hdr_log_reader reader;
    hdr_timespec at, length;
    FILE *file = fopen(argv[1], "r");
    long long count = 0;
    int rc = hdr_log_reader_init(&reader);
    if (rc == 0) rc = hdr_log_read_header(&reader, file);
    while (rc == 0) {
        struct hdr_histogram *one = NULL;
        rc = hdr_log_read(&reader, file, &one, &at, &length);
        if (rc != 0) break;
        count += one->total_count;
        hdr_close(one);
    }
    if (rc != EOF) { printf("error %d\n", rc); return 1; }
    printf("%lld\n", count);
    (void)argc;
    return 0;
}
"#;

/// A program that does the same with the Python reader.
const READER_IN_PYTHON: &str = r#"
import sys
from hdrh.log import HistogramLogReader
from hdrh.histogram import HdrHistogram
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3600 * 10**9, 3))
count = 0
while True:
    one = reader.get_next_interval_histogram()
    if one is None:
        break
    count += one.get_total_count()
print(count)
"#;

/// The source of HdrHistogram_c and of zlib, which `.ci/run` unpacks from a package of npm.
const SOURCE_OF_READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/hdr/package");

/// The files of both that the reader consists of.
const FILES_OF_READER: [&str; 15] = [
    "HdrHistogram_c/src/hdr_encoding.c",
    "HdrHistogram_c/src/hdr_histogram.c",
    "HdrHistogram_c/src/hdr_histogram_log.c",
    "HdrHistogram_c/src/hdr_time.c",
    "zlib/adler32.c",
    "zlib/compress.c",
    "zlib/crc32.c",
    "zlib/deflate.c",
    "zlib/inffast.c",
    "zlib/inflate.c",
    "zlib/inftrees.c",
    "zlib/infback.c",
    "zlib/trees.c",
    "zlib/uncompr.c",
    "zlib/zutil.c",
];

/// The readers of other projects: each as a command that is followed by the name of a log.
fn readers(folder: &Folder) -> Vec<Vec<String>> {
    fs::create_dir_all(folder.path()).unwrap();
    let name = |file: &str| folder.path().join(file).display().to_string();
    let mut readers = Vec::new();
    let source = Path::new(SOURCE_OF_READER);
    if source.exists() && common::installed("cc") {
        fs::write(name("reader.c"), READER_IN_C).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-w", "-D_GNU_SOURCE", "-o", &name("reader")]);
        for include in ["HdrHistogram_c/src", "zlib"] {
            compiler.arg("-I").arg(source.join(include));
        }
        compiler.arg(name("reader.c"));
        compiler.args(FILES_OF_READER.map(|file| source.join(file)));
        let output = compiler.arg("-lm").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        readers.push(vec![name("reader")]);
    } else {
        common::skip("no source of HdrHistogram_c, or no C compiler");
    }
    let python = Command::new("python3").args(["-c", "import hdrh"]).output();
    if python.is_ok_and(|output| output.status.success()) {
        fs::write(name("reader.py"), READER_IN_PYTHON).unwrap();
        readers.push(vec!["python3".to_string(), name("reader.py")]);
    } else {
        common::skip("no Python with the package hdrhistogram");
    }
    readers
}

/// Checks that every reader counts each message of each log once.
fn check_readers(folder: &Folder, readers: &[Vec<String>], expected: u64) {
    for reader in readers {
        for log in ["response.hlog", "service.hlog", "lateness.hlog"] {
            let mut command = Command::new(&reader[0]);
            command.args(&reader[1..]).arg(folder.path().join(log));
            let output = command.output().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).trim().to_string();
            assert!(output.status.success(), "{reader:?}: {output:?}");
            assert_eq!(printed, expected.to_string(), "{reader:?}, {log}");
        }
    }
}

#[test]
fn readers_of_other_projects_count_each_message_once() {
    let tools = Folder::new();
    let readers = readers(&tools);
    let folder = Folder::new();
    let report = record(&folder, &format!("{SHORT} --warmup 200ms --format json")).json();
    let count = |of: &Value| of["verified"].as_u64().unwrap();
    let all = count(&report) + count(&report["warmup"]);
    check_readers(&folder, &readers, all);
}

#[test]
#[ignore = "four minutes: 200 runs that are killed"]
fn a_run_that_is_killed_at_any_moment_leaves_files_that_every_reader_opens() {
    let tools = Folder::new();
    let readers = readers(&tools);
    let serve = Serve::start("");
    let target = serve.address().to_string();
    let seed = std::env::var("UPCASE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let kills = std::env::var("UPCASE_KILLS").map_or(200, |kills| kills.parse().unwrap());
    println!("UPCASE_SEED={seed}");
    let mut state: u64 = seed;
    let mut intervals = 0;
    for _ in 0..kills {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_micros((state >> 33) % 600_000);
        intervals += kill_and_check(&target, after, |folder| {
            for reader in &readers {
                for log in ["response.hlog", "service.hlog", "lateness.hlog"] {
                    let mut command = Command::new(&reader[0]);
                    command.args(&reader[1..]).arg(folder.path().join(log));
                    let output = command.output().unwrap();
                    assert!(output.status.success(), "{reader:?} {log}: {output:?}");
                }
            }
        });
    }
    println!("{kills} runs were killed; {intervals} intervals were read");
    assert!(intervals > 10 * kills, "{intervals}");
}

#[test]
fn a_disk_that_fills_ends_the_record_and_not_the_run() {
    if !nix::unistd::geteuid().is_root() || !common::installed("unshare") {
        return common::skip("a small disk needs root and unshare");
    }
    let sizes = ["80k", "140k", "200k", "320k"];
    let runs = sizes.map(|size| (size, thread::spawn(move || on_a_disk_of(size))));
    for (size, run) in runs {
        let Some((codes, text, log)) = run.join().unwrap() else {
            return common::skip("cannot mount a small disk");
        };
        assert!(log.contains("No space left on device"), "{size}: {log}");
        assert_eq!(codes[0], "code 1", "{size}: {text} {log}");
        // Whatever still fitted, the report names what is missing.
        assert!(
            ["code 1", "code 4"].contains(&codes[1].as_str()),
            "{size}: {text} {log}"
        );
        let lacks = "the record is incomplete: ";
        assert!(
            text.contains(lacks) && text.contains(" lacks "),
            "{size}: {text}"
        );
        assert!(
            text.contains("1,000 scheduled = 1,000 verified"),
            "the run went on: {text}"
        );
        assert!(!text.contains(", line "), "no line is damaged: {text}");
        assert_eq!(
            text.matches("every reply verified").count(),
            1,
            "{size}: {text}"
        );
    }
}

/// Records a run on a disk of this size, and reports it. Returns the two exit codes, what was
/// printed, and the log; `None` if no such disk can be made.
fn on_a_disk_of(size: &str) -> Option<(Vec<String>, String, String)> {
    let folder = Folder::new();
    fs::create_dir(folder.path()).unwrap();
    let name = folder.name();
    let program = env!("CARGO_BIN_EXE_upcase");
    // A disk of its own, which only these commands see.
    let script = format!(
        "mount -t tmpfs -o size={size} none {name} || exit 99
         {program} load --connections 5 --rate 500 --duration 2s --interval 10ms --record {name}/r \
             --allow client-bound
         echo code $?
         {program} report {name}/r
         echo code $?"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let codes = text.lines().filter(|line| line.starts_with("code"));
    let codes = codes.map(str::to_string).collect();
    (output.status.code() != Some(99)).then_some((codes, text, log))
}

/// The load of the tests of cost: 20,000 messages a second.
const MANY: &str = "--connections 100 --rate 20000 --allow client-bound,inconclusive";

#[test]
#[ignore = "ten minutes; see .ci/long"]
fn a_long_record_takes_no_more_memory_than_a_short_one() {
    let serve = Serve::start("");
    let folder = Folder::new();
    let minutes: u64 = std::env::var("UPCASE_MINUTES").map_or(10, |text| text.parse().unwrap());
    let (target, name) = (serve.address(), folder.name());
    let arguments = format!("load {target} {MANY} --duration {minutes}m --record {name}");
    let mut load = Process::start(upcase(&arguments));
    let resident = |at: Duration| {
        thread::sleep(at);
        load.resident()
    };
    let first = resident(Duration::from_secs(60));
    let last = resident(Duration::from_secs(60 * (minutes - 1) - 5));
    assert!(load.wait().success(), "{}", load.stderr());
    println!("resident: {first} bytes after a minute, {last} at the end");
    assert!(last <= first + (1 << 20), "{first} and {last}");
}

#[test]
#[ignore = "two minutes; see .ci/long"]
fn recording_costs_next_to_nothing() {
    const PAIRS: usize = 10;
    let serve = Serve::start("");
    let target = serve.address();
    // User and system time of the whole process, which is the only child that ends meanwhile.
    let cpu = |is_recorded: bool| {
        let folder = Folder::new();
        let record = match is_recorded {
            true => format!("--record {}", folder.name()),
            false => String::new(),
        };
        let before = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        run(&format!("load {target} {MANY} --duration 5s {record}")).expect(0);
        let after = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let time = |usage: &Usage| {
            let time = usage.user_time() + usage.system_time();
            time.num_microseconds() as f64 / 1e6
        };
        time(&after) - time(&before)
    };
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|pair| {
            // The order alternates, so that a drift of the machine affects both alike.
            let first = cpu(pair % 2 == 0);
            let second = cpu(pair % 2 == 1);
            match pair % 2 {
                0 => first / second,
                _ => second / first,
            }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let median = (ratios[PAIRS / 2 - 1] + ratios[PAIRS / 2]) / 2.0;
    println!("CPU time recorded to not recorded: median {median:.4} of {ratios:.3?}");
    assert!(median <= 1.02, "{median}");
}
