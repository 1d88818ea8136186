//! Plan files: the options of a command as TOML, and back. Pure.
//!
//! Each option of a file becomes the arguments that one would type for it, and clap parses them. So
//! the rules about names, values and conflicts are those of the command line, and have one place.
//!
//! Invariant: what [`render`] returns, [`read`] turns into arguments with the same meaning.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::record::description::OptionValue;

/// Arguments that are about the command line itself, and are no part of a plan.
const OF_COMMAND_LINE: [&str; 4] = ["help", "version", "plan", "print_plan"];

/// An option of a plan file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name of clap's argument.
    pub(super) id: String,
    /// The line of the file in which its value begins, from 1.
    pub(super) line: usize,
    /// The arguments that mean the same.
    pub(super) words: Vec<String>,
}

/// Returns whether an argument can be an option of a plan.
pub(super) fn is_option(arg: &Arg) -> bool {
    !OF_COMMAND_LINE.contains(&arg.get_id().as_str())
}

/// Returns the options of a plan file for a command that is built. The error names the line, and
/// what is wrong.
pub(super) fn read(text: &str, command: &Command) -> Result<Vec<Entry>, String> {
    let line_at = |offset: usize| {
        let before = text.as_bytes().iter().take(offset);
        1 + before.filter(|byte| **byte == b'\n').count()
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        let message = error.message().replace(char::is_control, " ");
        format!("line {line}: not valid TOML: {message}")
    })?;
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let line = line_at(key.span().start);
        let refused = |error: String| format!("line {line}: {error}");
        let arg = find(key.get_ref(), command).map_err(refused)?;
        let words = words(arg, value).map_err(refused)?;
        entries.push(Entry {
            id: arg.get_id().to_string(),
            line,
            words,
        });
    }
    Ok(entries)
}

/// Returns the name of an option in a file.
fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(arg.get_id().as_str())
}

fn find<'a>(key: &str, command: &'a Command) -> Result<&'a Arg, String> {
    let mut options = command.get_arguments().filter(|arg| is_option(arg));
    if let Some(arg) = options.find(|arg| name(arg) == key) {
        return Ok(arg);
    }
    let shown: String = key.chars().filter(|c| !c.is_control()).take(80).collect();
    if OF_COMMAND_LINE.contains(&key.replace('-', "_").as_str()) {
        return Err(format!(
            "{shown} belongs on the command line, not in a plan"
        ));
    }
    let options = command.get_arguments();
    let options = options.filter(|arg| is_option(arg) && !arg.is_hide_set());
    let distance = |arg: &Arg| distance(key, name(arg));
    let nearest = options.min_by_key(|arg| distance(arg));
    let nearest = nearest.filter(|arg| distance(arg) <= (name(arg).len() / 3).max(1));
    Err(match nearest {
        Some(arg) => format!("there is no option {shown}: did you mean {}?", name(arg)),
        None => format!("{} has no option {shown}", command.get_name()),
    })
}

/// Returns the arguments for an option.
fn words(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let name = name(arg);
    let value = value.get_ref();
    let takes_values = arg.get_action().takes_values();
    let may_lack_value = arg
        .get_num_args()
        .is_some_and(|count| count.min_values() == 0);
    match value {
        DeValue::Boolean(is_on) if !takes_values || may_lack_value && !arg.is_positional() => {
            return Ok(is_on.then(|| format!("--{name}")).into_iter().collect());
        }
        _ if !takes_values && scalar(value).is_none() => {
            return Err(format!("{name} is true or false"));
        }
        _ => {}
    }
    let texts = texts(arg, value)?;
    if !arg.is_positional() {
        let word = |text: &String| format!("--{name}={text}");
        return Ok(texts.iter().map(word).collect());
    }
    match texts.iter().find(|text| text.starts_with('-')) {
        // On the command line it would be an option.
        Some(text) => {
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            Err(format!("'{text}' is not the name of a host"))
        }
        None => Ok(texts),
    }
}

/// Returns the values of an option as texts.
fn texts(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let name = name(arg);
    let needs = |what: &str| format!("{name} needs {what}");
    let value_name = arg.get_value_names().and_then(<[_]>::first);
    let value_name = value_name.map_or("", |name| name.as_str());
    let is_repeatable = matches!(arg.get_action(), ArgAction::Append);
    match value {
        DeValue::Array(items) if is_repeatable || value_name.ends_with(",...") => {
            let items = items.iter().map(|item| scalar(item.get_ref()));
            let items: Option<Vec<String>> = items.collect();
            let items = items.ok_or_else(|| needs("texts or numbers in its list"))?;
            match is_repeatable {
                true => Ok(items),
                false => Ok(vec![items.join(",")]),
            }
        }
        DeValue::Table(pairs) if value_name == "KEY=VALUE" => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &str = AsRef::<str>::as_ref(key.get_ref());
                Some(format!("{key}={}", scalar(value.get_ref())?))
            };
            let pairs: Option<Vec<String>> = pairs.iter().map(pair).collect();
            pairs.ok_or_else(|| needs("texts or numbers in its table"))
        }
        value => match scalar(value) {
            Some(text) => Ok(vec![text]),
            None if is_repeatable => Err(needs("a text or a number, or a list of them")),
            None => Err(needs("one text or number")),
        },
    }
}

/// Returns a value that is no collection as one would type it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(is_true) => Some(is_true.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Returns the number of characters to insert, delete, replace, or exchange with their neighbour,
/// to get from one text to the other.
fn distance(one: &str, other: &str) -> usize {
    // Longer names are no option of any command.
    const LENGTH_MOST: usize = 64;
    let [one, other] = [one, other].map(|text| text.chars().take(LENGTH_MOST).collect::<Vec<_>>());
    // Three rows of the table of distances between beginnings of the texts: the last two are known.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, a) in one.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, b) in other.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let insert = at(&next, column).min(at(&last, column + 1)) + 1;
            let mut least = insert.min(at(&last, column) + usize::from(a != b));
            let neighbours = row.checked_sub(1).zip(column.checked_sub(1));
            if let Some((row, column)) = neighbours
                && one.get(row) == Some(b)
                && other.get(column) == Some(a)
            {
                least = least.min(at(&before, column).saturating_add(1));
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

/// Returns options as a plan file for a command. Those that are not given are left out.
pub(super) fn render(command: &str, options: &BTreeMap<String, OptionValue>) -> String {
    let mut text = format!("# `upcase {command} --plan FILE` has these options.\n");
    for (name, value) in options {
        let value = match value {
            OptionValue::Flag(is_on) => is_on.to_string(),
            OptionValue::One(value) => one(value),
            OptionValue::Several(values) => {
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                format!("[{}]", values.join(", "))
            }
            OptionValue::Absent => continue,
        };
        text += &format!("{name} = {value}\n");
    }
    text
}

/// Returns a value as a number where it has the form of one, and otherwise as a text.
fn one(value: &str) -> String {
    let number = value.parse::<i64>().ok();
    match number.filter(|number| number.to_string() == value) {
        Some(number) => number.to_string(),
        None => quoted(value),
    }
}

/// Returns a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
