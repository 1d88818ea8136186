//! Describes the command line as it was given, so that a run can be repeated from its record: each
//! option with its value, and the whole line quoted for a shell.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::plan_text;
use crate::record::description::OptionValue;

/// Returns every option of the command that was typed, with its value, by its name without the two
/// hyphens; arguments without a name by the name of their field.
pub(super) fn options(root: &Command, matches: &ArgMatches) -> BTreeMap<String, OptionValue> {
    let typed = matches.subcommand();
    let found = typed.and_then(|(name, matches)| Some((root.find_subcommand(name)?, matches)));
    let Some((command, matches)) = found else {
        return BTreeMap::new();
    };
    let arguments = command.get_arguments();
    // The options of a plan file count as typed.
    let arguments = arguments.filter(|arg| plan_text::is_option(arg));
    let named = arguments.map(|arg| {
        let id = arg.get_id().as_str();
        (
            arg.get_long().unwrap_or(id).to_string(),
            value(arg, matches),
        )
    });
    named.collect()
}

fn value(arg: &Arg, matches: &ArgMatches) -> OptionValue {
    let id = arg.get_id().as_str();
    if !arg.get_action().takes_values() {
        let is_given = matches.try_get_one::<bool>(id).ok().flatten();
        return OptionValue::Flag(is_given.copied().unwrap_or(false));
    }
    let Some(raw) = matches.try_get_raw(id).ok().flatten() else {
        return OptionValue::Absent;
    };
    let mut values: Vec<String> = raw
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let is_list =
        arg.get_value_delimiter().is_some() || matches!(arg.get_action(), ArgAction::Append);
    match values.len() {
        1 if !is_list => OptionValue::One(values.remove(0)),
        _ => OptionValue::Several(values),
    }
}

/// Returns a command line quoted for a POSIX shell.
pub(super) fn quoted(arguments: impl Iterator<Item = OsString>) -> String {
    let is_plain = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%^".contains(&byte);
        !text.is_empty() && text.bytes().all(plain)
    };
    let quoted = arguments.map(|argument| {
        let text = argument.to_string_lossy().into_owned();
        match is_plain(&text) {
            true => text,
            false => format!("'{}'", text.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    fn given(line: &str) -> BTreeMap<String, OptionValue> {
        let mut root = Cli::command();
        let matches = root.try_get_matches_from_mut(line.split(' ')).unwrap();
        options(&root, &matches)
    }

    #[test]
    fn options_are_described_with_their_defaults() {
        let options = given("upcase load 10.0.0.1 10.0.0.2:9 --rate 5 --spin --source 10.0.0.3");
        let one = |text: &str| OptionValue::One(text.to_string());
        assert_eq!(options["rate"], one("5"));
        assert_eq!(options["connections"], one("1000"));
        assert_eq!(options["spin"], OptionValue::Flag(true));
        assert_eq!(options["churn"], OptionValue::Absent);
        let list = |texts: &[&str]| {
            OptionValue::Several(texts.iter().map(|text| text.to_string()).collect())
        };
        assert_eq!(options["targets"], list(&["10.0.0.1", "10.0.0.2:9"]));
        assert_eq!(options["source"], list(&["10.0.0.3"]));
        assert_eq!(options["assert"], OptionValue::Absent);
        assert!(!options.contains_key("help"));
    }

    #[test]
    fn a_command_line_is_quoted_for_a_shell() {
        let line = [
            "upcase",
            "load",
            "--note",
            "it's 5 o'clock",
            "--assert",
            "p99<2ms",
            "",
        ];
        let quoted = quoted(line.into_iter().map(OsString::from));
        let expected = r"upcase load --note 'it'\''s 5 o'\''clock' --assert 'p99<2ms' ''";
        assert_eq!(quoted, expected);
    }
}
