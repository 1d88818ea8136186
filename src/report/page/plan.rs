//! What was run: the head of the page, the plan with the command that repeats it, and the machine.
//! Pure.
//!
//! Invariant: everything here may be worded by a user or a host, so all of it is escaped, isolated
//! in its direction, and broken where it would be wider than the page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::load::results::summary::Summary;
use crate::record::description::{Description, OptionValue};
use crate::report::page::escape::escape;
use crate::report::page::words::UNKNOWN;
use crate::units::counted;

/// Maximum number of targets that the head names.
const TARGETS_MAX: usize = 4;

/// Returns the head of the page.
pub fn head(summary: &Summary, runs: &[Description]) -> String {
    let mut html = format!(
        "<header>\n<p class=\"kicker\">upcase load</p>\n<h1>{}</h1>\n",
        user(&targets(summary))
    );
    if let Some(first) = runs.first() {
        let _ = writeln!(
            html,
            "<p class=\"when\"><time datetime=\"{0}\">{0}</time> · {1} · upcase {2}{3}</p>",
            escape(&first.begun.utc),
            user(&first.host.name),
            escape(&first.version),
            match runs.len() {
                1 => String::new(),
                runs => format!(" · {} merged", counted(runs as u64, "record")),
            }
        );
    }
    let notes: BTreeSet<&String> = runs.iter().filter_map(|run| run.note.as_ref()).collect();
    for note in notes {
        let _ = writeln!(html, "<p class=\"user-note\">{}</p>", user(note));
    }
    let labels = runs.iter().flat_map(|run| &run.labels);
    let labels: BTreeSet<(&String, &String)> = labels.collect();
    if !labels.is_empty() {
        let label = |(key, value): (&String, &String)| {
            let (key, value) = (user(key), user(value));
            format!("<div><dt>{key}</dt><dd>{value}</dd></div>\n")
        };
        let labels = labels.into_iter().map(label).collect::<String>();
        let _ = writeln!(
            html,
            "<dl class=\"labels\" aria-label=\"Labels\">\n{labels}</dl>"
        );
    }
    html + "</header>\n"
}

/// Returns the targets of a run in words.
pub fn targets(summary: &Summary) -> String {
    let targets = &summary.plan.targets;
    let shown: Vec<String> = targets
        .iter()
        .take(TARGETS_MAX)
        .map(ToString::to_string)
        .collect();
    let own = match summary.own_server {
        Some(_) => " (a built-in server)",
        None => "",
    };
    match targets.len().saturating_sub(TARGETS_MAX) {
        0 => shown.join(", ") + own,
        more => format!(
            "{} and {}",
            shown.join(", "),
            counted(more as u64, "more target")
        ),
    }
}

/// Returns the section with the plan and the machine.
pub fn render(runs: &[Description]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut html = "<section id=\"plan\">\n<h2>Plan</h2>\n".to_string();
    let commands: BTreeSet<&String> = runs.iter().map(|run| &run.command).collect();
    let repeat = match commands.len() {
        1 => "Repeat it with:",
        _ => "Repeat them with:",
    };
    let _ = writeln!(html, "<p>{repeat}</p>");
    for command in commands {
        let _ = writeln!(html, "<pre><code>{}</code></pre>", words(command));
    }
    html.push_str("<h3>Every option with its value</h3>\n");
    html.push_str(&definitions(&options(runs)));
    html.push_str("<h3>Machine</h3>\n");
    html.push_str(&definitions(&machine(runs)));
    html.push_str("<h3>Settings of the kernel</h3>\n");
    html.push_str(&definitions(&alike(runs, |run| run.sysctls.clone())));
    html + "</section>\n"
}

/// Returns a command with an element for each word, so that a line ends between two words.
fn words(command: &str) -> String {
    let words = command
        .split(' ')
        .map(|word| format!("<span>{}</span>", escape(word)));
    words.collect::<Vec<String>>().join(" ")
}

fn options(runs: &[Description]) -> Vec<(String, String)> {
    alike(runs, |run| {
        let options = run.options.iter();
        options
            .map(|(name, found)| (name.clone(), value(found)))
            .collect()
    })
}

fn value(value: &OptionValue) -> String {
    match value {
        OptionValue::Flag(true) => "yes".to_string(),
        OptionValue::Flag(false) => "no".to_string(),
        OptionValue::One(value) => value.clone(),
        OptionValue::Several(values) if values.is_empty() => UNKNOWN.to_string(),
        OptionValue::Several(values) => values.join(", "),
        OptionValue::Absent => UNKNOWN.to_string(),
    }
}

fn machine(runs: &[Description]) -> Vec<(String, String)> {
    let names = ["begun", "host", "kernel", "CPU", "CPUs", "upcase", "build"];
    let values = |run: &Description| {
        [
            run.begun.utc.clone(),
            run.host.name.clone(),
            run.host.kernel.clone(),
            run.host.cpu.clone().unwrap_or(UNKNOWN.to_string()),
            run.host.cpus.to_string(),
            run.version.clone(),
            run.build.clone(),
        ]
    };
    let named = |run: &Description| {
        let names = names.iter().map(|name| name.to_string());
        names.zip(values(run)).collect()
    };
    let mut found: BTreeMap<String, String> = alike(runs, named).into_iter().collect();
    let ordered = names.iter().filter_map(|name| found.remove_entry(*name));
    ordered.collect()
}

/// Returns the values of all runs by name. Where runs differ, each distinct value is followed by
/// the numbers of its runs.
fn alike(
    runs: &[Description],
    of: impl Fn(&Description) -> BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, Vec<(String, Vec<usize>)>> = BTreeMap::new();
    for (run, values) in runs.iter().map(of).enumerate() {
        for (name, value) in values {
            let known = all.entry(name).or_default();
            match known.iter_mut().find(|(known, _)| *known == value) {
                Some((_, numbers)) => numbers.push(run + 1),
                None => known.push((value, vec![run + 1])),
            }
        }
    }
    let joined = |values: Vec<(String, Vec<usize>)>| {
        let texts = values.into_iter().map(|(value, numbers)| {
            let is_common = numbers.len() == runs.len();
            let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
            match is_common {
                true => value,
                false => format!("{value} (run {})", numbers.join(", ")),
            }
        });
        texts.collect::<Vec<String>>().join("; ")
    };
    all.into_iter()
        .map(|(name, values)| (name, joined(values)))
        .collect()
}

fn definitions(values: &[(String, String)]) -> String {
    let value = |(name, value): &(String, String)| {
        let (name, value) = (user(name), user(value));
        format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")
    };
    let values = values.iter().map(value).collect::<String>();
    format!("<dl class=\"options\">\n{values}</dl>\n")
}

/// Returns a text of a user as HTML. Its direction does not affect the text around it.
fn user(text: &str) -> String {
    format!("<bdi>{}</bdi>", escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::description::{Begun, Host};

    fn run(seed: &str, label: &str) -> Description {
        Description {
            version: "0.1.0".to_string(),
            build: "x86_64-linux, release".to_string(),
            command: format!("upcase load --note '{label}'"),
            options: BTreeMap::from([
                ("seed".to_string(), OptionValue::One(seed.to_string())),
                ("spin".to_string(), OptionValue::Flag(false)),
                ("timeout".to_string(), OptionValue::Absent),
            ]),
            begun: Begun {
                utc: "2026-11-30T12:00:00.000000Z".to_string(),
                unix_s: 0.0,
                monotonic_s: 0.0,
            },
            host: Host {
                name: label.to_string(),
                kernel: label.to_string(),
                cpu: None,
                cpus: 2,
            },
            sysctls: BTreeMap::new(),
            note: Some(label.to_string()),
            labels: BTreeMap::from([(label.to_string(), label.to_string())]),
        }
    }

    #[test]
    fn runs_that_differ_are_named() {
        let values = options(&[run("1", "a"), run("2", "a")]);
        let expected = [
            ("seed", "1 (run 1); 2 (run 2)"),
            ("spin", "no"),
            ("timeout", "–"),
        ];
        let expected = expected.map(|(name, value)| (name.to_string(), value.to_string()));
        assert_eq!(values, expected);
    }

    #[test]
    fn nothing_of_a_user_is_markup() {
        let hostile = run("1", "</code><script>alert(1)</script>");
        let html = render(&[hostile]);
        assert!(!html.contains("<script"), "{html}");
        assert!(
            html.contains("<span>--note</span> <span>&#39;&lt;/code&gt;"),
            "{html}"
        );
    }
}
