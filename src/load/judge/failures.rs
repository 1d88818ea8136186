//! Finds what makes a run fail: lost messages and connections, and servers that went away. Pure.

use std::net::SocketAddr;
use std::time::Instant;

use crate::load::results::summary::Summary;
use crate::load::results::targets::Target;
use crate::load::results::{Counts, ErrorKind};
use crate::units::{counted, grouped};

/// Returns when a server was away and how its connections failed, and advice.
pub(super) fn absence(
    address: &SocketAddr,
    target: &Target,
    summary: &Summary,
) -> Option<(String, String)> {
    let look = || {
        format!(
            "find out why the server at {address} went away: its last log lines, its exit code, \
             the kernel log of its host (out of memory), or changes to its host"
        )
    };
    if let Some(gone) = target.gone {
        let (at, how) = (time_in_run(gone.from, summary), gone.how);
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
                "of the connections to the server at {address}, {} never received a reply while \
                 others did: {messages} sent on them",
                grouped(mute)
            );
            let advice = format!(
                "use fewer --connections: the server at {address} may serve no more at a time (its \
                 --max-connections) and leave the others in its accept queue"
            );
            return Some((sentence, advice));
        }
        let at = time_in_run(silence.from, summary);
        let stopped = match target.last_reply {
            Some(_) => format!("stopped answering {at}"),
            None => "never answered".to_string(),
        };
        let sentence =
            format!("the server at {address} {stopped}: {messages} sent to it had no reply");
        let advice = format!(
            "check whether the server at {address} is stopped or stuck, or the network path to it \
             is interrupted"
        );
        return Some((sentence, advice));
    }
    if let Some((away, end)) = target.away {
        let (from, to, how) = (
            time_in_run(away.from, summary),
            time_in_run(end, summary),
            away.how,
        );
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
    let kind = kinds.find(|kind| target.opened == 0 && kind.may_be_server_down())?;
    Some(match kind {
        ErrorKind::Refused => (
            format!("no server listens at {address} ({kind})"),
            format!("start `upcase serve --listen {address}` there, or omit this target"),
        ),
        _ => (
            format!("no connection to {address} could be established: {kind}"),
            format!("check whether {address} can be reached: its host, its port, any firewall"),
        ),
    })
}

/// Returns which resources this machine lacked for connections to a target.
pub(super) fn own_lack(address: &SocketAddr, target: &Target) -> Option<String> {
    let lacks = target
        .errors
        .iter()
        .filter(|(kind, _)| kind.is_local_shortage());
    let lacks = lacks.map(|(kind, count)| format!("{kind} ({})", counted(*count, "time")));
    let lacks: Vec<String> = lacks.collect();
    (!lacks.is_empty()).then(|| {
        format!(
            "this machine could not open connections to {address}: {}; messages waited for \
             connections, not for the server",
            lacks.join(", ")
        )
    })
}

/// Formats a time of a run for a person.
fn time_in_run(at: Instant, summary: &Summary) -> String {
    match summary.times.start.filter(|start| *start <= at) {
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
    let mut sentences = Vec::new();
    let mut say = |count: u64, noun: &str, what: [&str; 2]| {
        if count > 0 {
            let what = what[usize::from(count != 1)];
            sentences.push(format!("{} {what}", counted(count, noun)));
        }
    };
    let was = ["had a wrong reply", "had wrong replies"];
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
        let was = ["was never established", "were never established"];
        say(summary.not_opened().into(), "connection", was);
    }
    let broken: u64 = results.errors.values().sum();
    say(broken.saturating_sub(failed), "connection", ["broke"; 2]);
    sentences
}

/// Returns why nothing was measured, if that is so.
pub(super) fn nothing_measured(summary: &Summary) -> Option<&'static str> {
    if summary.times.start.is_none() {
        Some("the run ended before its first message was due")
    } else if summary.results.counts.scheduled == 0 {
        Some(match summary.stage {
            Some(_) => "no message was due in the stage, or all of them in the warm-up",
            None => "no message was due after the warm-up",
        })
    } else {
        None
    }
}

/// Returns whether a signal ended the run while its connections were being established: those that
/// were not up yet are no failure.
fn ended_before_its_start(summary: &Summary) -> bool {
    summary.times.interrupted && summary.times.start.is_none()
}
