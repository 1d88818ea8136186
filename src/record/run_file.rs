//! The files `run.json` and `measured.json` of a recorded run.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::load::plan::Plan;
use crate::load::plan::schedule::Part;
use crate::load::results::summary::Summary;
use crate::record::description::{Begun, Description};

/// The format of `run.json`.
const RUN_SCHEMA: &str = "upcase.run/1";

/// The format of `measured.json`. It mirrors the types of the program, so that it changes more
/// often than the other files.
const MEASURED_SCHEMA: &str = "upcase.measured/1";

/// The largest number of a record: 2^53, up to which programs that read JSON know each integer. In
/// nanoseconds this is a hundred days, in bytes nine petabytes.
const NUMBER_MOST: f64 = (1u64 << 53) as f64;

/// The fields whose numbers may have any value: the report, which is only shown, and parts of the
/// plan.
const UNCHECKED: [&str; 4] = ["report", "seed", "messages", "Messages"];

/// The content of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// The format.
    pub schema: String,
    /// What the run is.
    #[serde(flatten)]
    pub description: Description,
    /// Which part of a larger run it is.
    pub part: Part,
    /// The plan that follows from the options, with the addresses of the targets.
    pub plan: Plan,
    /// The time from which messages were due; `None` until all connections were up.
    pub started: Option<Begun>,
    /// The JSON report of the run, once it has ended.
    pub report: Option<Value>,
}

/// The content of `measured.json`.
#[derive(Serialize, Deserialize)]
struct Measured {
    schema: String,
    summary: Summary,
}

/// The fields by which the format of any version is recognized.
#[derive(Deserialize)]
struct Format {
    schema: String,
    #[serde(default)]
    version: String,
}

impl RunFile {
    /// Describes a run that is about to begin.
    pub fn new(description: Description, plan: &Plan) -> RunFile {
        RunFile {
            schema: RUN_SCHEMA.to_string(),
            description,
            part: Part::WHOLE,
            plan: plan.clone(),
            started: None,
            report: None,
        }
    }

    /// Writes the file, replacing an earlier state of it as a whole.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // The description consists of numbers and strings, so the serialization cannot fail.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        replace(path, &(text + "\n"))
    }

    /// Reads the file.
    pub fn read(path: &Path) -> Result<RunFile, Unreadable> {
        read(path, RUN_SCHEMA)
    }
}

/// Writes everything that a run measured.
pub fn write_measured(path: &Path, summary: &Summary) -> io::Result<()> {
    let measured = Measured {
        schema: MEASURED_SCHEMA.to_string(),
        summary: summary.clone(),
    };
    let text = serde_json::to_string(&measured).map_err(io::Error::other)?;
    replace(path, &(text + "\n"))
}

/// The reason why a file cannot be read, as one sentence without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has the format of another version.
    OtherFormat(String),
    /// It is missing or damaged.
    Damaged(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::OtherFormat(reason) | Unreadable::Damaged(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Unreadable {}

/// Reads everything that a run measured.
pub fn read_measured(path: &Path) -> Result<Summary, Unreadable> {
    read::<Measured>(path, MEASURED_SCHEMA).map(|measured| measured.summary)
}

fn read<T: DeserializeOwned>(path: &Path, schema: &str) -> Result<T, Unreadable> {
    let damaged = |error: &dyn fmt::Display| Unreadable::Damaged(error.to_string());
    let text = fs::read_to_string(path).map_err(|error| damaged(&error))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
    let format = Format::deserialize(&value).map_err(|error| damaged(&error))?;
    if format.schema != schema {
        let by = match format.version.as_str() {
            "" => String::new(),
            version => format!(", written by upcase {version}"),
        };
        return Err(Unreadable::OtherFormat(format!(
            "it has the format {}{by}; upcase {} reads {schema}",
            format.schema,
            env!("CARGO_PKG_VERSION")
        )));
    }
    check_numbers(&value).map_err(|error| damaged(&error))?;
    serde_json::from_value(value).map_err(|error| damaged(&error))
}

/// Checks that all numbers of a file are such that sums and products of them cannot overflow: none
/// is negative or above [`NUMBER_MOST`]. Left out are those in [`UNCHECKED`].
fn check_numbers(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(0.0..=NUMBER_MOST) => Ok(()),
            _ => Err(format!("{number} cannot be a number of a run")),
        },
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(fields) => {
            let computed = fields
                .iter()
                .filter(|(key, _)| !UNCHECKED.contains(&key.as_str()));
            let mut checked = computed.map(|(_, field)| check_numbers(field));
            checked.try_for_each(|checked| checked)
        }
        _ => Ok(()),
    }
}

/// Replaces a file so that a reader finds either the earlier content or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&unfinished, path)
    };
    write().inspect_err(|_| {
        // What was written of it only takes up room.
        let _ = fs::remove_file(&unfinished);
    })
}
