//! Tests the README against the program: every option with its default, the number of planted bugs,
//! and the width of its prose.

use crate::common::run;

const COMMANDS: [&str; 7] = [
    "serve", "send", "load", "sniff", "report", "compare", "duel",
];

const COLUMNS_MAX: usize = 100;

fn readme() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    std::fs::read_to_string(path).unwrap()
}

/// A row of the table of options.
struct Row {
    commands: Vec<String>,
    /// `--rate`, without its value.
    options: Vec<String>,
    default: String,
}

/// Returns the texts of a cell that are marked as code.
fn codes(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn rows(readme: &str) -> Vec<Row> {
    let table = readme
        .split("| command | option | default | meaning |")
        .nth(1);
    let lines = table.expect("the table of options").lines().skip(2);
    let lines = lines.take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let options = codes(cells[2]).filter(|code| code.starts_with('-'));
        let option = |code: &str| code.split([' ', '=', '[']).next().unwrap().to_string();
        Row {
            commands: match cells[1] {
                "all" => COMMANDS.map(str::to_string).to_vec(),
                named => codes(named).map(str::to_string).collect(),
            },
            options: options.map(option).collect(),
            default: cells[3].replace('`', ""),
        }
    };
    lines.map(row).collect()
}

/// Returns the options of a command with their defaults, from its help.
fn options_of(command: &str) -> Vec<(String, Option<String>)> {
    let help = run(&format!("{command} --help")).expect(0).stdout;
    let (_, help) = help.split_once("\nOptions:\n").unwrap();
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        // The text of an option may continue with the name of another one.
        let is_indented = line.starts_with(&" ".repeat(8));
        let line = line.trim();
        match (!is_indented && line.starts_with('-'), options.last_mut()) {
            (true, _) => {
                let long = line.split_whitespace().find(|word| word.starts_with("--"));
                let long = long.unwrap().split(['[', '=']).next().unwrap();
                options.push((long.to_string(), line.to_string()));
            }
            (false, Some((_, text))) => *text += &format!(" {line}"),
            (false, None) => {}
        }
    }
    let default = |text: &str| {
        let (_, default) = text.split_once("[default: ")?;
        let default = default.split(']').next()?;
        let first = default.split([' ', ',']).next()?;
        // Other defaults are sentences.
        let is_value = first == default || first.contains(|c: char| c.is_ascii_digit());
        is_value.then(|| first.to_string())
    };
    let options = options.into_iter();
    options
        .map(|(name, text)| {
            let default = default(&text);
            (name, default)
        })
        .collect()
}

#[test]
fn the_table_has_every_option_with_its_default() {
    let readme = readme();
    let rows = rows(&readme);
    let mut seen = 0;
    for command in COMMANDS {
        for (option, default) in options_of(command) {
            let short = match &option[..] {
                "--help" => continue,
                "--verbose" => "-v",
                "--quiet" => "-q",
                long => long,
            };
            let has = |row: &&Row| {
                let is_for = |command: &str| row.commands.iter().any(|named| named == command);
                // A row of the table says that `duel` has the options of `load`.
                let is_for_it = is_for(command) || (command == "duel" && is_for("load"));
                is_for_it && row.options.iter().any(|named| named == short)
            };
            let row = rows.iter().find(has);
            let row = row.unwrap_or_else(|| panic!("{command} {option} is not in the README"));
            if let Some(default) = default {
                let reported = &row.default;
                let was_reported = reported.split([' ', ',']).any(|word| word == default);
                assert!(
                    was_reported,
                    "{command} {option}: {default}, not {reported}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 70, "{seen} options");
    for row in &rows {
        for command in &row.commands {
            let known = options_of(command);
            for option in row.options.iter().filter(|option| option.starts_with("--")) {
                let is_known = known.iter().any(|(name, _)| name == option);
                assert!(is_known, "{command} has no {option}");
            }
        }
    }
}

#[test]
fn planted_bugs_are_counted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/planted");
    let bugs = ["load", "server"].map(|part| {
        let patches = std::fs::read_dir(format!("{folder}/{part}")).unwrap();
        patches.count()
    });
    let reported = format!("{} planted bugs", bugs.iter().sum::<usize>());
    assert!(readme().contains(&reported), "{reported}");
}

#[test]
fn prose_is_no_wider_than_code() {
    let mut is_code = false;
    let readme = readme();
    let wide = readme.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && !line.starts_with('|') && line.chars().count() > COLUMNS_MAX
    });
    assert_eq!(wide.collect::<Vec<_>>(), Vec::<&str>::new());
}
