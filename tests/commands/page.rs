//! Tests the page of `report --format html`: as a file, and as Chromium shows it. The page of
//! `compare` and that of a sweep are shown as well.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::record::{Folder, record};
use crate::common::peers::slow_server;
use crate::common::{self, Temporary, run};

/// Writes the page of a recorded run; returns it.
fn page_of(folder: &Folder, into: &Temporary) -> String {
    let report = run(&format!("report {} --format html", folder.name()));
    assert!(matches!(report.code, Some(0 | 1 | 4)), "{report:#?}");
    fs::write(&into.0, &report.stdout).unwrap();
    report.stdout
}

const RUN: &str = "--connections 10 --rate 300 --duration 700ms --interval 100ms";

#[test]
fn a_page_is_one_file_that_refers_to_nothing_and_escapes_everything() {
    let folder = Folder::new();
    record(
        &folder,
        &format!("{RUN} --note <script>alert(1)</script> --label a=\"<b>&"),
    );
    let page = page_of(&folder, &Temporary::new(b""));
    assert!(page.starts_with("<!DOCTYPE html>\n"));
    assert!(page.len() < 1_000_000, "{}", page.len());
    for text in [
        "<script>alert",
        "<b>",
        "src=",
        "href=\"http",
        "url(http",
        "@import",
    ] {
        assert!(!page.contains(text), "{text}");
    }
    for text in [
        "&lt;script&gt;alert(1)",
        "Content-Security-Policy",
        "role=\"img\"",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

/// Returns the page of a comparison of two runs with different options.
fn page_of_a_comparison() -> Temporary {
    let (a, b) = (Folder::new(), Folder::new());
    record(&a, RUN);
    record(&b, &format!("{RUN} --size 100 --label commit=abc"));
    let html = Temporary(Temporary::new(b"").0.with_extension("html"));
    let allow = "--allow client-bound,inconclusive --format html";
    let compared = run(&format!("compare {} {} {allow}", a.name(), b.name())).expect(0);
    fs::write(&html.0, compared.stdout).unwrap();
    html
}

/// Returns the page of a sweep beyond what the server can do: it has one connection, and answers a
/// message at a time.
fn page_of_a_sweep() -> Temporary {
    let address = slow_server(Duration::from_millis(2));
    let html = Temporary(Temporary::new(b"").0.with_extension("html"));
    let sweep = format!("load {address} --connections 2 --sweep 100..900:5 --duration 1s");
    let ended = run(&format!("{sweep} --format html"));
    fs::write(&html.0, ended.stdout).unwrap();
    html
}

#[test]
#[ignore = "a minute, with Chromium"]
fn a_browser_shows_every_page_as_it_should_be() {
    let chromium = common::installed("chromium");
    let python = Command::new("python3")
        .args(["-c", "import websocket"])
        .output();
    if !chromium || !python.is_ok_and(|output| output.status.success()) {
        return common::skip("no chromium, or no Python with the package websocket-client");
    }
    let slow = "--connections 50 --messages 200 --payload bytes --interval 50ms";
    let pages = [
        RUN,
        "--connections 1 --messages 1",
        "--connections 20 --duration 500ms --interval 20ms --churn 3 --warmup 100ms",
        slow,
        "--rate 1000 --duration 1s --interval 10ms --note \
         one-word-that-is-longer-than-the-screen-of-a-telephone-is-wide-must-be-broken",
    ];
    let mut files: Vec<Temporary> = pages
        .iter()
        .map(|arguments| {
            let (folder, file) = (Folder::new(), Temporary::new(b""));
            record(&folder, arguments);
            let page = Temporary(file.0.with_extension("html"));
            page_of(&folder, &page);
            page
        })
        .collect();
    files.push(page_of_a_comparison());
    files.push(page_of_a_sweep());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/look.py");
    let look = |files: &[&Temporary]| {
        let mut look = Command::new("python3");
        look.arg(script).args(files.iter().map(|file| &file.0));
        let output = look.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{printed}");
        (output.status.code(), printed)
    };
    let files: Vec<&Temporary> = files.iter().collect();
    assert_eq!(look(&files).0, Some(0));
    // What it finds when something is wrong.
    let wrong = Temporary(Temporary::new(b"").0.with_extension("html"));
    let text = "<body>one<p style='position:absolute;margin:0;top:8px;left:9px'>two</p>\
                <img src='http://127.0.0.1:9/'><script>console.log(1)</script>\
                <div class='area'><svg></svg></div><p style='margin-left:2000px'>far</p>";
    fs::write(&wrong.0, text).unwrap();
    let (code, printed) = look(&[&wrong]);
    assert_eq!(code, Some(1));
    for fault in [
        "overlaps",
        "leaves the page",
        "requests",
        "console",
        "has no name",
        "sideways",
    ] {
        assert!(printed.contains(fault), "{fault}: {printed}");
    }
}
