//! Parses the JSON output of `sniff`, and runs `sniff` on a file within the process of the test.

use std::io::{Cursor, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use upcase::sniff::analyzer::Analyzer;
use upcase::sniff::print::calendar::Calendar;
use upcase::sniff::print::document::{Document, Format};
use upcase::sniff::print::results::Verdict;
use upcase::sniff::print::transcript::Style;
use upcase::sniff::{self, Stop};

/// Parses a document with one JSON object a line.
pub fn objects(document: &str) -> Vec<Value> {
    let lines = document.lines();
    lines
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects
        .iter()
        .filter(|value| value["kind"] == kind)
        .collect()
}

/// Returns the texts of the findings in the verdict.
pub fn findings(objects: &[Value]) -> Vec<String> {
    let verdict = of_kind(objects, "verdict")[0];
    let findings = verdict["findings"].as_array().unwrap().iter();
    let texts = findings.map(|finding| finding["text"].as_str().unwrap().to_string());
    texts.collect()
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `sniff` on the bytes of a capture file; returns the verdict and the objects of the
/// document.
pub fn sniffed(file: Vec<u8>) -> anyhow::Result<(Verdict, Vec<Value>)> {
    let style = Style {
        relative: false,
        width: 60,
    };
    let page = Page::default();
    let document = Document::new(Format::Json, style, Calendar::utc());
    let analyzer = Analyzer::new(document, false, None, page.clone());
    let stopped = AtomicBool::new(false);
    let until = (Stop::default(), &stopped);
    let verdict = sniff::read(Cursor::new(file), "file", None, until, analyzer)?;
    let text = String::from_utf8(page.0.lock().unwrap().clone())?;
    Ok((verdict, objects(&text)))
}
