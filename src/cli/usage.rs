//! Formats errors of the command line, each as one plain sentence.
//!
//! clap detects the error and its kind; the sentence is composed here from the parts of the error:
//! what happened, with which value, and what to do, on one line. Two properties of all options are
//! set here as well, since they determine which error is found: a value may begin with `-`, so that
//! `-5` is refused as a number and not parsed as an option; and `--kernel-timestamps 5` means the
//! same as `--kernel-timestamps=5`, since a bare number is no target.

use std::error::Error as _;
use std::ffi::OsString;

use clap::builder::ValueHint;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};

/// Returns the command with option values that may begin with `-`. Names of files and of interfaces
/// are excluded: any text may be such a name, so an option that follows would be parsed as the
/// value.
pub(super) fn prepared(command: Command) -> Command {
    let may_begin_with_hyphen = |arg: Arg| {
        let takes_values = arg.get_action().takes_values() && !arg.is_positional();
        let is_name = arg.get_value_hint() == ValueHint::AnyPath || arg.get_id() == "interface";
        match takes_values && !is_name {
            true => arg.allow_hyphen_values(true),
            false => arg,
        }
    };
    command.mut_subcommands(|one| one.mut_args(may_begin_with_hyphen))
}

fn name_of(command: &Command) -> String {
    command.get_name().to_string()
}

/// Joins `--kernel-timestamps 5` to one argument: its value is optional, and clap reads an optional
/// value only behind `=`.
pub(super) fn joined(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == ',')
    };
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        match joined.last_mut() {
            Some(last)
                if last == "--kernel-timestamps" && argument.to_str().is_some_and(is_number) =>
            {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// Returns the sentence for an error, followed by the command that shows more help.
pub(super) fn describe(error: &Error, command: &Command, arguments: &[OsString]) -> String {
    let typed = Typed::new(error, command, arguments);
    let sentence = match error.kind() {
        ErrorKind::UnknownArgument => typed.unknown_argument(),
        ErrorKind::InvalidSubcommand => typed.unknown_command(),
        ErrorKind::MissingSubcommand => {
            format!("the command is missing: {}", one_of(&typed.commands()))
        }
        ErrorKind::MissingRequiredArgument => typed.missing(),
        ErrorKind::ArgumentConflict => typed.conflict(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => typed.invalid_value(error),
        ErrorKind::NoEquals => format!("write {}=VALUE", typed.option()),
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues => {
            format!("{} takes no value '{}'", typed.option(), typed.value())
        }
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_string(),
        _ => in_one_line(&error.to_string()),
    };
    let sentence = sentence.replace(char::is_control, "?");
    match typed.command {
        Some(command) => format!("{sentence} (see upcase {} --help)", command.get_name()),
        None => format!("{sentence} (see upcase --help)"),
    }
}

/// Returns the argument that an error is about, without its value: `--rate`.
pub(super) fn option_of(error: &Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => bare(text),
        Some(ContextValue::Strings(texts)) => {
            texts.first().map_or(String::new(), |text| bare(text))
        }
        _ => String::new(),
    }
}

/// An error together with the command line.
struct Typed<'a> {
    error: &'a Error,
    root: &'a Command,
    /// The command that was typed, when there is one.
    command: Option<&'a Command>,
}

impl<'a> Typed<'a> {
    fn new(error: &'a Error, root: &'a Command, arguments: &[OsString]) -> Typed<'a> {
        let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
        Typed {
            error,
            root,
            command: words.find_map(|word| root.find_subcommand(word)),
        }
    }

    /// Returns all strings of one part of the error.
    fn all(&self, kind: ContextKind) -> Vec<String> {
        match self.error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn first(&self, kind: ContextKind) -> Option<String> {
        self.all(kind).into_iter().next()
    }

    fn value(&self) -> String {
        self.first(ContextKind::InvalidValue).unwrap_or_default()
    }

    /// Returns the argument of the error in the form of the help text: `--rate <N>`.
    fn argument(&self) -> String {
        self.first(ContextKind::InvalidArg).unwrap_or_default()
    }

    /// Returns the argument of the error without its value: `--rate`.
    fn option(&self) -> String {
        bare(&self.argument())
    }

    fn commands(&self) -> Vec<String> {
        self.root.get_subcommands().map(name_of).collect()
    }

    fn missing(&self) -> String {
        let missing = self.all(ContextKind::InvalidArg);
        let alternatives = |text: &String| {
            let group = text
                .strip_prefix('<')
                .and_then(|text| text.strip_suffix('>'));
            match group.filter(|group| group.contains('|')) {
                Some(group) => group.replace('|', " or "),
                None => text.clone(),
            }
        };
        let missing: Vec<String> = missing.iter().map(alternatives).collect();
        match missing.join(", ") {
            target if target == "<TARGET>" => "TARGET is missing: HOST or HOST:PORT".to_string(),
            missing => format!("{missing} is missing"),
        }
    }

    fn unknown_command(&self) -> String {
        let typed = self.first(ContextKind::InvalidSubcommand);
        let typed = typed.unwrap_or_default();
        match self.first(ContextKind::SuggestedSubcommand) {
            Some(similar) => format!("there is no command '{typed}': did you mean {similar}?"),
            None => format!(
                "there is no command '{typed}': write {}",
                one_of(&self.commands())
            ),
        }
    }

    fn unknown_argument(&self) -> String {
        let typed = self.argument();
        if !typed.starts_with('-') {
            return self.unknown_positional(&typed);
        }
        let similar = self.first(ContextKind::SuggestedArg);
        let owner = self.owner_of(&typed);
        let related = |similar: &&String| {
            let (similar, typed) = (
                similar.trim_start_matches('-'),
                typed.trim_start_matches('-'),
            );
            similar.contains(typed) || typed.contains(similar)
        };
        let similar = similar
            .as_ref()
            .filter(|similar| owner.is_none() || related(similar));
        let mut sentence = match (owner, self.command) {
            (Some(owner), Some(command)) => {
                format!(
                    "{typed} is an option of {owner}, not of {}",
                    command.get_name()
                )
            }
            _ => format!("there is no option {typed}"),
        };
        // Names of this option in other servers.
        const LISTEN: [&str; 7] = [
            "--port",
            "-p",
            "-l",
            "--host",
            "--bind",
            "--addr",
            "--address",
        ];
        let name = self.command.map(name_of).unwrap_or_default();
        if let Some(similar) = similar {
            sentence.push_str(&format!(": did you mean {similar}?"));
        } else if name == "serve" && LISTEN.contains(&typed.as_str()) {
            sentence.push_str(": to listen on an address, use --listen ADDR:PORT");
        } else if name == "send" {
            sentence.push_str("; put a message that begins with - after --, as in -- -5");
        }
        sentence
    }

    /// Returns the other command that has this option.
    fn owner_of(&self, typed: &str) -> Option<String> {
        let name = typed.strip_prefix("--")?;
        let has_it = |command: &&Command| {
            let mut args = command.get_arguments();
            args.any(|arg| arg.get_long() == Some(name))
        };
        self.root.get_subcommands().find(has_it).map(name_of)
    }

    fn unknown_positional(&self, typed: &str) -> String {
        let name = self.command.map(name_of).unwrap_or_default();
        let is_address = typed.contains([':', '.', '*']) || typed.parse::<u16>().is_ok();
        let advice = match name.as_str() {
            "serve" if is_address => format!(": to listen on an address, use --listen {typed}"),
            "sniff" => format!(": for a file use --read {typed}, for an interface --interface"),
            _ => String::new(),
        };
        format!("{name} takes no argument '{typed}'{advice}")
    }

    fn conflict(&self) -> String {
        let option = self.option();
        let others = self.all(ContextKind::PriorArg);
        let others: Vec<String> = others.iter().map(|other| bare(other)).collect();
        match others.iter().all(|other| *other == option) {
            true => format!("{option} is given more than once"),
            false => format!("{option} cannot be used with {}", one_of(&others)),
        }
    }

    fn invalid_value(&self, error: &Error) -> String {
        let (value, argument) = (self.value(), self.argument());
        let valid = self.all(ContextKind::ValidValue);
        if value.is_empty() || is_option(&value) {
            let needed = match (valid.is_empty(), error.source()) {
                (false, _) => format!(": {}", one_of(&valid)),
                (true, Some(reason)) => format!(": {reason}"),
                (true, None) => String::new(),
            };
            let found = match value.is_empty() {
                true => String::new(),
                false => format!(", and {value} follows"),
            };
            return format!("'{argument}' needs a value{found}{needed}");
        }
        let reason = match error.source() {
            Some(reason) => reason.to_string(),
            None => format!("write {}", one_of(&valid)),
        };
        format!("invalid value '{value}' for '{argument}': {reason}")
    }
}

/// Returns whether a value looks like an option: `-v`, `--rate`.
fn is_option(value: &str) -> bool {
    let name = value.trim_start_matches('-');
    value.starts_with('-') && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Returns an argument without its value: `--rate` of `--rate <N>`.
fn bare(argument: &str) -> String {
    let end = argument.find([' ', '[', '=']).filter(|&end| end > 0);
    argument[..end.unwrap_or(argument.len())].to_string()
}

/// Returns `a`, `a or b`, `a, b or c`.
fn one_of(texts: &[String]) -> String {
    match texts {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// Returns clap's message up to its first blank line, as one line.
fn in_one_line(text: &str) -> String {
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    words.join(" ").trim_start_matches("error: ").to_string()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn clap_accepts_the_prepared_command() {
        prepared(Cli::command()).debug_assert();
    }

    #[test]
    fn every_number_size_and_time_may_begin_with_a_hyphen() {
        let command = prepared(Cli::command());
        for subcommand in command.get_subcommands() {
            let options = subcommand.get_arguments().filter(|arg| {
                let names = arg.get_value_names().unwrap_or_default();
                let is_free = |name: &str| {
                    ["PATH", "FILE", "DIR", "IF"]
                        .iter()
                        .any(|n| name.contains(n))
                };
                !arg.is_positional()
                    && arg.get_action().takes_values()
                    && !names.iter().any(|name| is_free(name))
            });
            for option in options {
                assert!(option.is_allow_hyphen_values_set(), "{option}");
            }
        }
    }

    #[test]
    fn a_number_belongs_to_kernel_timestamps() {
        let joined = |text: &str| {
            let words = text.split(' ').map(OsString::from);
            let joined = joined(words);
            let words: Vec<_> = joined.iter().map(|word| word.to_string_lossy()).collect();
            words.join(" ")
        };
        for (typed, read) in [
            ("load --kernel-timestamps 5", "load --kernel-timestamps=5"),
            (
                "load --kernel-timestamps 1k h",
                "load --kernel-timestamps=1k h",
            ),
            ("load --kernel-timestamps -1", "load --kernel-timestamps=-1"),
            (
                "load --kernel-timestamps host",
                "load --kernel-timestamps host",
            ),
            (
                "load --kernel-timestamps 1.2.3.4",
                "load --kernel-timestamps 1.2.3.4",
            ),
            ("load --kernel-timestamps -v", "load --kernel-timestamps -v"),
            ("load --kernel-timestamps", "load --kernel-timestamps"),
        ] {
            assert_eq!(joined(typed), read);
        }
    }
}
