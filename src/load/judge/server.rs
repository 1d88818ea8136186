//! Finds evidence that the server was the limit of a run. Pure.

use std::time::Duration;

use crate::load::judge::connecting::costly_syns;
use crate::load::judge::thresholds::{WAITED, WAITED_FEW, of_all_time, visible, window_was_closed};
use crate::load::results::Results;
use crate::load::results::summary::Summary;
use crate::units::short;

/// Returns evidence that the server did not keep up.
pub(super) fn server_limits(summary: &Summary) -> Vec<String> {
    let mut sentences = Vec::new();
    let network = &summary.evidence.network;
    if let Some((point, blocked)) = visible(&summary.results.blocked, summary)
        && let Some(share) = waited(&summary.results)
    {
        sentences.push(format!(
            "{:.1} % of the messages found no free connection in time: blocked {point} {}{}",
            share * 100.0,
            if blocked.at_least { ">= " } else { "" },
            short(blocked.value)
        ));
    }
    if let Some(growth) = summary.growth() {
        let grown = |seconds: f64| short(Duration::from_secs_f64(growth * seconds));
        let length = summary.times.sending.as_secs_f64();
        let whole = match summary.stage {
            Some(_) => "stage",
            None => "run",
        };
        sentences.push(format!(
            "the queue grew through the whole {whole}: responses became longer by {} each second, \
             so {:.2} % of the rate was answered; one twice as long would make them {} longer",
            grown(1.0),
            (1.0 - growth) * 100.0,
            grown(length),
        ));
    }
    if window_was_closed(summary) {
        sentences.push(format!(
            "the server's receive window was closed for {:.0} % of the time",
            of_all_time(network.window_limited, summary) * 100.0
        ));
    }
    sentences.extend(costly_syns(summary).filter(|_| summary.is_local));
    if let Some(stall) = summary.stall() {
        sentences.push(format!(
            "no reply arrived for {} while messages were outstanding that are usually answered \
             sooner",
            short(stall)
        ));
    }
    sentences
}

/// Returns the share of messages that waited for a free connection, if it is significant. The time
/// that a large message needs to pass through the socket does not count as such a wait.
fn waited(results: &Results) -> Option<f64> {
    let (waited, all) = (results.waited, results.counts.scheduled);
    let share = waited as f64 / all.max(1) as f64;
    (share > WAITED && (waited >= WAITED_FEW || share > 0.5)).then_some(share)
}
