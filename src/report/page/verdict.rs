//! The top of the page: the verdict with what it means, its evidence and advice, the assertions,
//! and the few figures that a reader wants first. Pure.
//!
//! The word and a symbol carry the verdict; the colour only repeats them.

use std::fmt::Write;

use crate::echo::Expect;
use crate::load::judge::assertion::{Assertion, Outcome};
use crate::load::judge::verdict::{Findings, Judged, RunOutcome, Verdict};
use crate::report::page::escape::escape;
use crate::report::page::words::{UNKNOWN, bound, known, percent};
use crate::units::{counted, grouped, rate, short, throughput};

/// Returns the section.
pub fn render(judged: &Judged) -> String {
    let findings = &judged.findings;
    let (class, symbol) = look(findings.verdict);
    let mut html = format!(
        "<section id=\"verdict\" class=\"verdict {class}\">\n<h2>{symbol}<span>\
         <span class=\"kicker\">Verdict</span> {}{}</span></h2>\n<p class=\"meaning\">{}</p>\n\
         <p class=\"exit\">{}</p>\n",
        findings.verdict,
        suffix(judged),
        escape(&meaning(findings)),
        exit(judged)
    );
    let summary = &judged.summary;
    let warnings = [
        ("interval log", &summary.unlogged),
        ("record", &summary.unrecorded),
    ];
    for (name, lack) in warnings {
        if let Some(lack) = lack {
            let lack = escape(lack);
            let _ = writeln!(
                html,
                "<p class=\"warning\">The {name} is incomplete: {lack}</p>"
            );
        }
    }
    html.push_str(&list("Evidence", "evidence", &findings.evidence));
    html.push_str(&list("Advice", "advice", &findings.advice));
    html.push_str(&assertions(&judged.assertions));
    html.push_str("</section>\n");
    html + &tiles(judged)
}

/// Returns the class of the section in the style sheet and the symbol of a verdict.
fn look(verdict: Verdict) -> (&'static str, String) {
    let (class, shape) = match verdict {
        Verdict::Valid => (
            "good",
            "<circle cx=\"16\" cy=\"16\" r=\"14\"/><path d=\"M9 17l5 5 9-11\"/>",
        ),
        Verdict::ClientBound | Verdict::Inconclusive => (
            "open",
            "<path class=\"body\" d=\"M16 3l14 26H2z\"/><path d=\"M16 13v8m0 3v1\"/>",
        ),
        Verdict::NetworkBound | Verdict::ServerBound | Verdict::Failed => (
            "wrong",
            "<path class=\"body\" d=\"M10 2h12l8 8v12l-8 8H10l-8-8V10z\"/>\
             <path d=\"M11 11l10 10m0-10L11 21\"/>",
        ),
    };
    let symbol =
        format!("<svg class=\"symbol\" viewBox=\"0 0 32 32\" aria-hidden=\"true\">{shape}</svg>");
    (class, symbol)
}

/// Returns what follows the word of the verdict.
fn suffix(judged: &Judged) -> String {
    let findings = &judged.findings;
    let mut suffix = match findings.valid_up_to {
        Some(point) => format!(" up to {point}"),
        None => String::new(),
    };
    if judged.allowed.contains(&findings.verdict) {
        suffix.push_str(", allowed");
    }
    if judged.summary.times.interrupted {
        suffix.push_str(", ended by a signal");
    }
    suffix
}

/// Returns the exit code of the run, and why it differs from that of the verdict.
fn exit(judged: &Judged) -> String {
    let fails = |it: &Assertion| it.outcome == Outcome::Fails;
    let (code, reason) = match judged.standing() {
        RunOutcome::Good if judged.allowed.contains(&judged.findings.verdict) => {
            (0, ", since such a run is allowed")
        }
        RunOutcome::Good => (0, ""),
        RunOutcome::Inconclusive if judged.findings.verdict == Verdict::Valid => {
            (4, ", since an assertion is undecided")
        }
        RunOutcome::Inconclusive => (4, ""),
        RunOutcome::Wrong if judged.assertions.iter().any(fails) => {
            (1, ": an assertion does not hold")
        }
        RunOutcome::Wrong if judged.findings.verdict == Verdict::Valid => {
            (1, ", since a file of the run is incomplete")
        }
        RunOutcome::Wrong => (1, ""),
    };
    format!("Exit code {code}{reason}.")
}

fn meaning(findings: &Findings) -> String {
    let meaning = match findings.verdict {
        Verdict::Valid => match findings.valid_up_to {
            None => "The numbers are those of the server.",
            Some(point) => {
                return format!(
                    "Up to {point} the numbers are those of the server; above it, those of the \
                     load generator."
                );
            }
        },
        Verdict::ClientBound => {
            "The load generator was late: the numbers are its own, not the server's."
        }
        Verdict::NetworkBound => "The network lost or delayed what was sent.",
        Verdict::ServerBound => "The server did not keep up, or stopped for a while.",
        Verdict::Inconclusive => "The measurements do not show what limited the run.",
        Verdict::Failed => "Messages or connections were lost, wrong or not answered.",
    };
    meaning.to_string()
}

fn list(title: &str, class: &str, sentences: &[String]) -> String {
    if sentences.is_empty() {
        return String::new();
    }
    let items = sentences
        .iter()
        .map(|it| format!("<li>{}</li>\n", escape(it)));
    format!(
        "<h3>{title}</h3>\n<ul class=\"{class}\">\n{}</ul>\n",
        items.collect::<String>()
    )
}

fn assertions(assertions: &[Assertion]) -> String {
    if assertions.is_empty() {
        return String::new();
    }
    let mut html = "<h3>Assertions</h3>\n<ul class=\"assertions\">\n".to_string();
    for assertion in assertions {
        let (class, word) = match assertion.outcome {
            Outcome::Holds => ("good", "holds"),
            Outcome::Fails => ("wrong", "does not hold"),
            Outcome::Undecided => ("open", "undecided: the value may be the generator's"),
        };
        let _ = writeln!(
            html,
            "<li class=\"{class}\"><code>{}</code> <strong>{word}</strong>, found {}</li>",
            escape(&assertion.condition),
            escape(&assertion.found)
        );
    }
    html + "</ul>\n"
}

/// A figure that stands out: its name, its value and what explains it.
struct Tile {
    name: &'static str,
    value: String,
    note: String,
}

fn tiles(judged: &Judged) -> String {
    let tiles = times(judged).into_iter().chain(counts(judged));
    let tile = |Tile { name, value, note }: Tile| {
        format!(
            "<div><dt>{name}</dt><dd class=\"value\">{}</dd><dd class=\"note\">{}</dd></div>\n",
            escape(&value),
            escape(&note)
        )
    };
    format!(
        "<dl class=\"tiles\" aria-label=\"Key figures\">\n{}</dl>\n",
        tiles.map(tile).collect::<String>()
    )
}

fn times(judged: &Judged) -> Vec<Tile> {
    let response = &judged.summary.results.response;
    let all = response.distribution();
    let tile = |name, percentile: f64| {
        let found = all.as_ref().and_then(|all| all.percentile(percentile));
        let interval = found.and_then(|_| response.interval(percentile).ok());
        let note = match (found, interval) {
            (None, _) => "too few messages".to_string(),
            (Some(_), None) => String::new(),
            (Some(_), Some((low, high))) => {
                let high = high.map_or("?".to_string(), short);
                format!("95 %: {} to {high}", short(low))
            }
        };
        Tile {
            name,
            value: known(found),
            note,
        }
    };
    let longest = all.as_ref().map(|all| bound(all.longest()));
    let from = all.as_ref().and_then(|all| all.at_least_from());
    let note = from.map_or(String::new(), |from| {
        format!("lower bounds from {from:.4} % on")
    });
    vec![
        tile("Response p50", 50.0),
        tile("Response p99", 99.0),
        Tile {
            name: "Longest response",
            value: longest.unwrap_or(UNKNOWN.to_string()),
            note,
        },
    ]
}

fn counts(judged: &Judged) -> [Tile; 3] {
    let summary = &judged.summary;
    let counts = &summary.results.counts;
    let lost = counts.settled().saturating_sub(counts.verified);
    let broken = summary.results.errors.values().copied();
    let broken = broken.fold(0, u64::saturating_add);
    let asked = match (summary.asked_rate(), summary.rate_share()) {
        (Some(asked), Some(share)) => format!("{} of {} asked", percent(share), rate(asked)),
        (Some(asked), None) => format!("{} asked", rate(asked)),
        (None, _) => "closed loop".to_string(),
    };
    [
        Tile {
            name: "Messages per second",
            value: rate(summary.achieved_rate()),
            note: format!("{asked}, {}", throughput(summary.bytes_per_second())),
        },
        Tile {
            name: match summary.plan.expect {
                Expect::Anything => "Messages answered",
                Expect::Upper | Expect::Same => "Messages verified",
            },
            value: grouped(counts.verified).to_string(),
            note: format!("of {} scheduled", grouped(counts.scheduled)),
        },
        Tile {
            name: "Messages lost",
            value: grouped(lost).to_string(),
            note: counted(broken, "connection error").to_string(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_and_assertions_are_escaped() {
        let hostile = "<script>".to_string();
        let assertion = Assertion {
            condition: "p99<2ms".to_string(),
            found: hostile.clone(),
            outcome: Outcome::Fails,
        };
        let html = list("Evidence", "evidence", &[hostile]) + &assertions(&[assertion]);
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("p99&lt;2ms"), "{html}");
        assert!(html.contains("does not hold"));
    }

    #[test]
    fn every_verdict_has_a_meaning() {
        let verdicts = [
            Verdict::Valid,
            Verdict::ClientBound,
            Verdict::NetworkBound,
            Verdict::ServerBound,
            Verdict::Inconclusive,
            Verdict::Failed,
        ];
        let meanings = verdicts.map(|verdict| {
            meaning(&Findings {
                verdict,
                valid_up_to: None,
                evidence: Vec::new(),
                advice: Vec::new(),
            })
        });
        let distinct: std::collections::BTreeSet<&String> = meanings.iter().collect();
        assert_eq!(distinct.len(), verdicts.len());
    }
}
