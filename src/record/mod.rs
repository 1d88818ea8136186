//! Keeps the results of load runs in directories, and reads them again.
//!
//! ```text
//!   DIR/run.json        what the run was: options, machine, time; at the end, its report
//!   DIR/response.hlog   response times, a histogram for each interval   (HdrHistogram log)
//!   DIR/service.hlog    service times
//!   DIR/lateness.hlog   lateness
//!   DIR/intervals.jsonl counts, percentiles and the client's figures of each interval
//!   DIR/measured.json   everything that was measured, for `upcase report`; written at the end
//! ```
//!
//! Invariants: the files grow by whole intervals, each of which is one write(2) for each file, so
//! the end of the process at any moment loses at most the current interval. `run.json` contains a
//! report only once all other files are complete. The histograms of a log add up to those of the
//! result exactly.

pub mod course;
pub mod description;
pub mod hlog;
pub mod interval;
pub mod interval_writer;
pub mod merge;
pub mod observer;
pub mod reader;
pub mod run_file;
pub mod series;
pub mod writer;

/// The names of the logs, and what their values are.
pub const LOGS: [(&str, &str); 3] = [
    (
        "response.hlog",
        "response times: from when a message was due to its whole reply",
    ),
    (
        "service.hlog",
        "service times: from the send of a message to its whole reply",
    ),
    (
        "lateness.hlog",
        "lateness: from when a message was due to its send",
    ),
];

/// The name of the file with one JSON object per interval.
pub const INTERVALS: &str = "intervals.jsonl";

/// The name of the file that describes the run.
pub const RUN: &str = "run.json";

/// The name of the file with everything that was measured.
pub const MEASURED: &str = "measured.json";

/// Returns the lines of a file that grows. A line at the end that has no line end is left out: it
/// was being written when the process ended, and is no fault of the file.
fn whole_lines(text: &str) -> std::str::Lines<'_> {
    text.rfind('\n').map_or("", |end| &text[..end]).lines()
}
