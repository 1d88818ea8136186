//! Plan files: `--plan FILE` and `--print-plan` of the commands that carry out runs.
//!
//! The options of the file are parsed by themselves first, so that an error in the file is reported
//! with its name. Then they are parsed together with the command line, which takes precedence: an
//! option of the file gives way if the command line has that option, or one that conflicts with it.
//! An option that may be repeated is replaced as a whole.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Error};

use crate::cli::output::{Outcome, print};
use crate::cli::plan_text::{self, Entry};
use crate::cli::usage;
use crate::record::description::OptionValue;

/// Maximum size of a plan file in bytes: far more than all options take.
const PLAN_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Take the options in this file as well: TOML with the same names, such as connections = 1000,
    /// assert = ["p99<2ms"], spin = true; an option of the command line replaces that of the file,
    /// and those that cannot be used with it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Print the options in effect as a plan file, and do nothing else
    #[arg(long)]
    pub(super) print_plan: bool,
}

/// The reason why a command line is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The command line is wrong.
    Usage(Error),
    /// The plan file is wrong.
    Plan(String),
    /// The plan file cannot be read.
    Unreadable(String),
}

/// Parses a command line, together with the plan file that it names.
pub(super) fn matches(root: &mut Command, arguments: &[OsString]) -> Result<ArgMatches, Refused> {
    let typed = root.try_get_matches_from_mut(arguments);
    let typed = typed.map_err(Refused::Usage)?;
    let Some((name, path)) = plan_of(&typed) else {
        return Ok(typed);
    };
    let file = path.display();
    let bytes = bytes(path);
    let bytes = bytes
        .map_err(|error| Refused::Unreadable(format!("cannot read the plan {file}: {error}")))?;
    let wrong = |error: String| Refused::Plan(format!("{file}, {error}"));
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| wrong("line 1: not valid TOML: it is not UTF-8".to_string()))?;
    together(root, arguments, name, &text).map_err(|refused| match refused {
        Refused::Plan(error) => wrong(error),
        refused => refused,
    })
}

/// Returns the name of the command and its plan file, if the command line names one.
fn plan_of(typed: &ArgMatches) -> Option<(&str, &Path)> {
    let (name, typed) = typed.subcommand()?;
    let plan = typed.try_get_one::<PathBuf>("plan").ok()??;
    Some((name, plan))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(PLAN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > PLAN_BYTES_MAX {
        true => Err(io::Error::other("it is larger than 1MiB")),
        false => Ok(bytes),
    }
}

/// Parses a command line together with the text of a plan file for a command, which must be the one
/// of the command line.
fn together(
    root: &mut Command,
    arguments: &[OsString],
    name: &str,
    text: &str,
) -> Result<ArgMatches, Refused> {
    let typed = root.try_get_matches_from_mut(arguments);
    let typed = typed.map_err(Refused::Usage)?;
    let entries = match root.find_subcommand(name) {
        Some(command) => plan_text::read(text, command).map_err(Refused::Plan)?,
        None => Vec::new(),
    };
    check_alone(root, name, &entries)?;
    let kept: Vec<Entry> = match (root.find_subcommand(name), typed.subcommand_matches(name)) {
        (Some(command), Some(typed)) => kept(entries, command, typed),
        _ => Vec::new(),
    };
    // The file's options come first, since after `--` there are no more options.
    let (before, after) = split(arguments, name);
    let all = before.iter().cloned().chain([OsString::from(name)]);
    let all = all.chain(words(&kept)).chain(after.iter().cloned());
    root.try_get_matches_from_mut(all).map_err(Refused::Usage)
}

/// Checks that the options of a file are right by themselves. The error names the line.
fn check_alone(root: &mut Command, name: &str, entries: &[Entry]) -> Result<(), Refused> {
    let program = [env!("CARGO_PKG_NAME"), name].map(OsString::from);
    let alone: Vec<OsString> = program.into_iter().chain(words(entries)).collect();
    let parsed = root.try_get_matches_from_mut(&alone);
    let Err(error) = parsed else {
        return Ok(());
    };
    let sentence = usage::describe(&error, root, &alone);
    let command = root.find_subcommand(name);
    let line = command.and_then(|command| line_of(&error, entries, command));
    let line = line.unwrap_or(1);
    Err(Refused::Plan(format!("line {line}: {sentence}")))
}

fn words(entries: &[Entry]) -> Vec<OsString> {
    let words = entries.iter().flat_map(|entry| entry.words.iter());
    words.map(OsString::from).collect()
}

/// Returns the line of the option that an error is about.
fn line_of(error: &Error, entries: &[Entry], command: &Command) -> Option<usize> {
    let option = usage::option_of(error);
    let is_it = |arg: &&Arg| match arg.get_long() {
        Some(long) => option.strip_prefix("--") == Some(long),
        None => arg.is_positional() && !option.starts_with('-'),
    };
    let arg = command.get_arguments().find(is_it)?;
    let mut entries = entries.iter();
    let entry = entries.find(|entry| arg.get_id() == entry.id.as_str())?;
    Some(entry.line)
}

/// Returns the options of the file that the command line does not replace.
fn kept(entries: Vec<Entry>, command: &Command, typed: &ArgMatches) -> Vec<Entry> {
    let is_typed = |arg: &&Arg| {
        let source = typed.value_source(arg.get_id().as_str());
        source == Some(ValueSource::CommandLine)
    };
    let typed: Vec<&Arg> = command.get_arguments().filter(is_typed).collect();
    let is_replaced = |entry: &Entry| typed.iter().any(|arg| replaces(arg, entry, command));
    let entries = entries.into_iter();
    entries.filter(|entry| !is_replaced(entry)).collect()
}

/// Returns whether an argument of the command line replaces an option of the file.
fn replaces(typed: &Arg, entry: &Entry, command: &Command) -> bool {
    let conflicts = |one: &Arg, other: &str| {
        let mut others = command.get_arg_conflicts_with(one).into_iter();
        others.any(|arg| arg.get_id() == other)
    };
    let mut args = command.get_arguments();
    let of_file = args.find(|arg| arg.get_id() == entry.id.as_str());
    typed.get_id() == entry.id.as_str()
        || conflicts(typed, &entry.id)
        || of_file.is_some_and(|arg| conflicts(arg, typed.get_id().as_str()))
}

/// Returns the arguments before the name of the command, and those after it.
fn split<'a>(arguments: &'a [OsString], name: &str) -> (&'a [OsString], &'a [OsString]) {
    // The only option of the program itself that has a value.
    let is_value = |place: usize| {
        let before = place
            .checked_sub(1)
            .and_then(|before| arguments.get(before));
        before.is_some_and(|before| before == "--log-file")
    };
    let mut places = (1..arguments.len()).filter(|place| !is_value(*place));
    let is_name =
        |place: &usize| arguments.get(*place).map(OsString::as_os_str) == Some(OsStr::new(name));
    let place = places.find(is_name).unwrap_or(arguments.len());
    let (before, after) = arguments.split_at(place);
    (before, after.get(1..).unwrap_or_default())
}

/// Prints options as a plan file for a command.
pub(super) fn show(
    command: &str,
    options: &BTreeMap<String, OptionValue>,
) -> anyhow::Result<Outcome> {
    print(&plan_text::render(command, options))?;
    Ok(Outcome::Good)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};
    use proptest::prelude::*;

    use super::*;
    use crate::cli::args::Cli;
    use crate::cli::given;

    /// Returns the options of a command line with a plan, with their values; or the error.
    fn options(line: &[&str], plan: &str) -> Result<BTreeMap<String, OptionValue>, String> {
        let words = ["upcase"].iter().chain(line).map(OsString::from);
        let words: Vec<OsString> = words.collect();
        let mut root = usage::prepared(Cli::command());
        let name = line.first().copied().unwrap_or_default();
        let matches = together(&mut root, &words, name, plan);
        let matches = matches.map_err(|refused| match refused {
            Refused::Usage(error) => usage::describe(&error, &root, &words),
            Refused::Plan(error) | Refused::Unreadable(error) => error,
        })?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        Ok(given::options(&root, &matches))
    }

    fn shown(line: &[&str], plan: &str, option: &str) -> String {
        options(line, plan).unwrap()[option].to_string()
    }

    #[test]
    fn every_type_of_toml_is_the_value_that_one_would_type() {
        for (plan, option, value) in [
            ("rate = 333.3", "rate", "333.3"),
            ("rate = \"5k\"", "rate", "5k"),
            ("connections = 1_000", "connections", "1000"),
            ("spin = true\nrate = 5", "spin", "on"),
            ("spin = false", "spin", "off"),
            ("kernel-timestamps = true", "kernel-timestamps", "8"),
            ("kernel-timestamps = 3", "kernel-timestamps", "3"),
            (
                "kernel-timestamps = false",
                "kernel-timestamps",
                "not given",
            ),
            ("percentiles = [50, 99.9]", "percentiles", "50,99.9"),
            ("percentiles = \"50,99.9\"", "percentiles", "50,99.9"),
            ("targets = [\"a\", \"b:5\"]", "targets", "a, b:5"),
            ("targets = \"a\"", "targets", "a"),
            ("targets = []", "targets", "not given"),
            ("source = [\"::1\", \"::2\"]", "source", "::1, ::2"),
            ("source = \"::1,::2\"", "source", "::1, ::2"),
            ("label = [\"a=1\", \"b=x y\"]", "label", "a=1, b=x y"),
            ("[label]\nb = \"x y\"\na = 1", "label", "a=1, b=x y"),
            ("note = \"--spin\"", "note", "--spin"),
            ("verbose = true", "verbose", "on"),
        ] {
            assert_eq!(shown(&["load"], plan, option), value, "{plan}");
        }
    }

    #[test]
    fn the_command_line_takes_precedence() {
        let plan = "duration = \"5s\"\nwarmup = \"1s\"\nassert = [\"errors=0\", \"p50<1s\"]\n\
                    targets = [\"a\", \"b\"]\nrate = 5\nverbose = true";
        for (line, option, value) in [
            (&["load"][..], "duration", "5s"),
            (&["load", "--duration", "7s"], "duration", "7s"),
            // A list is replaced as a whole.
            (&["load", "--assert", "p99<2s"], "assert", "p99<2s"),
            (&["load", "c"], "targets", "c"),
            (&["load", "--", "c"], "targets", "c"),
            // What conflicts gives way, in either direction.
            (&["load", "--messages", "5"], "duration", "not given"),
            (&["load", "--messages", "5"], "warmup", "0s"),
            (&["load", "--think", "1s"], "rate", "not given"),
            (&["load", "-q"], "verbose", "off"),
        ] {
            assert_eq!(shown(line, plan, option), value, "{line:?}");
        }
        let before = ["--log-file", "load", "load"].map(OsString::from);
        let all: Vec<OsString> = [OsString::from("upcase")]
            .into_iter()
            .chain(before)
            .collect();
        let (before, after) = split(&all, "load");
        assert_eq!((before.len(), after.len()), (3, 0));
    }

    #[test]
    fn errors_name_the_line_and_the_option() {
        for (plan, error) in [
            (
                "\nconnectoins = 5",
                "line 2: there is no option connectoins: did you mean connections?",
            ),
            ("zzz = 1\naaa = 1", "line 1: load has no option zzz"),
            (
                "rate = 5\nconnections = 0",
                "line 2: invalid value '0' for '--connections <N>': at least 1 \
                 (see upcase load --help)",
            ),
            (
                "duration = \"1s\"\nmessages = 5",
                "line 1: --duration cannot be used with --messages (see upcase load --help)",
            ),
            (
                "spin = \"yes\"",
                "line 1: --spin takes no value 'yes' (see upcase load --help)",
            ),
            ("spin = []", "line 1: spin is true or false"),
            ("depth = [1]", "line 1: depth needs one text or number"),
            (
                "depth = 1979-05-27",
                "line 1: depth needs one text or number",
            ),
            (
                "assert = [[1]]",
                "line 1: assert needs texts or numbers in its list",
            ),
            (
                "label.a.b = 1",
                "line 1: label needs texts or numbers in its table",
            ),
            ("targets = \"-v\"", "line 1: '-v' is not the name of a host"),
            (
                "plan = \"x\"",
                "line 1: plan belongs on the command line, not in a plan",
            ),
            (
                "help = true",
                "line 1: help belongs on the command line, not in a plan",
            ),
            (
                "rate = 1\nrate = 2",
                "line 2: not valid TOML: duplicate key",
            ),
        ] {
            assert_eq!(options(&["load"], plan).unwrap_err(), error, "{plan}");
        }
    }

    fn word(of: &[&'static str]) -> impl Strategy<Value = Option<String>> + use<> {
        let words: Vec<String> = of.iter().map(|word| word.to_string()).collect();
        proptest::option::of(proptest::sample::select(words))
    }

    /// Returns a command line of `load` without conflicts.
    fn lines() -> impl Strategy<Value = Vec<String>> {
        let pace = word(&["--rate=5k", "--rate=333.3", "--think=1ms"]);
        let end = word(&[
            "--messages=18446744073709551615",
            "--duration=1m 30s",
            "--warmup=1s",
        ]);
        let sizes = word(&[
            "--size=1..9",
            "--size=64:90%,16KiB:10%",
            "--depth=7",
            "--mss=88",
        ]);
        let flags = word(&[
            "--kernel-timestamps",
            "--kernel-timestamps=3",
            "-v",
            "--quiet",
        ]);
        let lists = word(&["--source=::1,::2", "--allow=failed", "--percentiles=1,99.9"]);
        let free = (
            "\\PC*",
            any::<String>(),
            proptest::collection::vec("[a-z]{1,3}", 0..3),
        );
        (pace, end, sizes, flags, lists, free).prop_map(|(pace, end, sizes, flags, lists, free)| {
            let (note, label, targets) = free;
            let chosen = [pace, end, sizes, flags, lists].into_iter().flatten();
            let free = [
                format!("--note={note}"),
                format!("--label=a={label}"),
                "--assert=p99<2ms".to_string(),
                "--assert=errors=0".to_string(),
            ];
            chosen.chain(free).chain(targets).collect()
        })
    }

    proptest! {
        #[test]
        fn a_printed_plan_reads_back_as_the_same(line in lines()) {
            let line = line.iter().map(String::as_str);
            let line: Vec<&str> = ["load"].into_iter().chain(line).collect();
            let mut given = options(&line, "").unwrap();
            let read_back = |given: &BTreeMap<String, OptionValue>| {
                options(&["load"], &plan_text::render("load", given))
            };
            if given["messages"] != OptionValue::Absent {
                given.remove("warmup"); // As `load --print-plan` does.
            }
            let mut again = read_back(&given).unwrap();
            if given["messages"] != OptionValue::Absent {
                again.remove("warmup");
            }
            prop_assert_eq!(again, given);
        }

        #[test]
        fn no_text_is_more_than_an_error_of_one_line(text in "(\\PC|[\\n=\\[\\]{}\".,#]){0,60}") {
            if let Err(error) = options(&["load"], &text) {
                prop_assert!(error.starts_with("line "), "{}", error);
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }

        #[test]
        fn no_value_is_more_than_an_error_of_one_line(
            name in proptest::sample::select(&["size", "label", "targets", "spin", "rate"][..]),
            text in any::<String>(),
        ) {
            let one = BTreeMap::from([(name.to_string(), OptionValue::One(text))]);
            if let Err(error) = options(&["load"], &plan_text::render("load", &one)) {
                prop_assert!(error.starts_with("line 2: "), "{}", error);
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }
    }
}
