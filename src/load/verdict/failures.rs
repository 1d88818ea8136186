//! Finds what makes a run fail: lost messages and connections, and servers that went away. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use crate::load::results::{Counts, ErrorKind};
use crate::load::summary::Summary;
use crate::load::targets::Target;
use crate::units::{counted, grouped};

/// Returns when a server was away and how its connections failed, and advice.
pub(super) fn absence(
    address: &SocketAddr,
    target: &Target,
    summary: &Summary,
) -> Option<(String, String)> {
    let look = || {
        format!(
            "see why the server at {address} went away: its last lines, its exit code, the log of \
             its kernel (out of memory), or what was done to its host"
        )
    };
    if let Some(gone) = target.gone {
        let (at, how) = (told(gone.from, summary), gone.how);
        let since = match gone.since {
            None => String::new(),
            Some(since) if since == how => " ever since".to_string(),
            Some(since) => format!(", {since} since"),
        };
        let sentence = format!("the server at {address} went away {at}: {how}{since}");
        return Some((sentence, look()));
    }
    if let Some(silence) = target.stopped() {
        let messages = counted(silence.messages, "message");
        if let Some(mute) = silence.mute {
            let sentence = format!(
                "of the connections to the server at {address}, {} never had a reply while others \
                 did: {messages} sent on them",
                grouped(mute)
            );
            let advice = format!(
                "ask for fewer --connections: the server at {address} may serve no more at a time \
                 (its --max-connections) and leave the others in its queue"
            );
            return Some((sentence, advice));
        }
        let at = told(silence.from, summary);
        let stopped = match target.last_reply {
            Some(_) => format!("stopped answering {at}"),
            None => "never answered".to_string(),
        };
        let sentence =
            format!("the server at {address} {stopped}: {messages} sent to it had no reply");
        let advice = format!(
            "see whether the server at {address} is stopped or stuck, or the way to it is cut"
        );
        return Some((sentence, advice));
    }
    if let Some((away, end)) = target.away {
        let (from, to, how) = (told(away.from, summary), told(end, summary), away.how);
        let since = away.since.filter(|since| *since != how);
        let since = since.map_or(String::new(), |since| format!(", then {since}"));
        let sentence =
            format!("the server at {address} went away {from} and came back {to}: {how}{since}");
        return Some((sentence, look()));
    }
    never_up(address, target)
}

/// Returns why no connection to a target was established, and advice, unless the cause is this
/// machine.
fn never_up(address: &SocketAddr, target: &Target) -> Option<(String, String)> {
    let mut kinds = target.errors.keys();
    let kind = kinds.find(|kind| target.opened == 0 && kind.is_absence())?;
    Some(match kind {
        ErrorKind::Refused => (
            format!("nothing listens at {address} ({kind})"),
            format!("start `upcase serve --listen {address}` there, or leave that target out"),
        ),
        _ => (
            format!("no connection to {address} came up: {kind}"),
            format!("see whether {address} can be reached: its host, its port, firewalls between"),
        ),
    })
}

/// Returns which resources this machine lacked for connections to a target.
pub(super) fn own_lack(address: &SocketAddr, target: &Target) -> Option<String> {
    let lacks = target.errors.iter().filter(|(kind, _)| kind.is_own_lack());
    let lacks = lacks.map(|(kind, count)| format!("{kind} ({} times)", grouped(*count)));
    let lacks: Vec<String> = lacks.collect();
    (!lacks.is_empty()).then(|| {
        format!(
            "this machine could not open connections to {address}: {}; what waited for them did \
             not wait for the server",
            lacks.join(", ")
        )
    })
}

/// Formats a time of a run for a person.
fn told(at: Instant, summary: &Summary) -> String {
    match summary.course.start.filter(|start| *start <= at) {
        Some(start) => format!("at {:.2} s", (at - start).as_secs_f64()),
        None => "before the first message".to_string(),
    }
}

/// Returns the messages that were answered wrongly or not at all, and the connections that failed.
pub(super) fn failures(summary: &Summary) -> Vec<String> {
    let results = &summary.results;
    let mut counts = results.counts;
    counts.merge(&summary.warmup.counts);
    let Counts {
        mismatched,
        errored,
        timed_out,
        unanswered,
        failed,
        ..
    } = counts;
    let mut said = Vec::new();
    let mut say = |count: u64, noun: &str, what: [&str; 2]| {
        if count > 0 {
            let what = what[usize::from(count != 1)];
            said.push(format!("{} {what}", counted(count, noun)));
        }
    };
    let was = ["was answered wrongly", "were answered wrongly"];
    say(mismatched, "message", was);
    let was = [
        "was lost with its connection",
        "were lost with their connections",
    ];
    say(errored, "message", was);
    say(timed_out, "message", ["timed out"; 2]);
    let was = [
        "was not answered by the end",
        "were not answered by the end",
    ];
    say(unanswered, "message", was);
    say(failed, "attempt", ["to connect failed"; 2]);
    if !ended_before_its_start(summary) {
        let was = ["was never up", "were never up"];
        say(summary.not_opened().into(), "connection", was);
    }
    let broken: u64 = results.errors.values().sum();
    say(broken.saturating_sub(failed), "connection", ["broke"; 2]);
    said
}

/// Returns why nothing was measured, if that is so.
pub(super) fn nothing_measured(summary: &Summary) -> Option<&'static str> {
    if summary.course.start.is_none() {
        Some("the run ended before its first message was due")
    } else if summary.results.counts.scheduled == 0 {
        Some("no message was due after the warm-up")
    } else {
        None
    }
}

/// Returns whether a signal ended the run while its connections were being established: those that
/// were not up yet are no failure.
fn ended_before_its_start(summary: &Summary) -> bool {
    summary.course.interrupted && summary.course.start.is_none()
}
