//! `upcase duel`: loads two servers in turn, each for a slice of time with fresh connections, and
//! prints how they differ.
//!
//! A slice is a run like that of `load`, judged by the same rules. One whose numbers are not those
//! of its server takes no part in the comparison, and is counted. A slice that a signal cut short
//! does not count. A slice that cannot be carried out ends the duel: what is complete is compared
//! and printed, then the error names the slice.
//!
//! Invariant: both servers get the same load. A name is resolved once, so that all slices of a
//! server have one address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, Args};
use log::info;

use crate::address::{Address, Host, Zone};
use crate::cli::comparison::{ComparisonArgs, outcome};
use crate::cli::load::args::{LoadArgs, Place};
use crate::cli::load::measure::{Measured, in_effect, measure, reachable, sources};
use crate::cli::numbers::{integer, positive_duration};
use crate::cli::output::{COULD_NOT_RUN, Outcome};
use crate::cli::plan::{self, PlanArgs};
use crate::cli::values::Target;
use crate::compare::Comparison;
use crate::compare::duel::{Duel, Side, Slice, slices};
use crate::compare::run::Run;
use crate::load::judge::verdict::{Judged, Verdict};
use crate::reactor::signals::Noted;
use crate::record::description::OptionValue;
use crate::report::progress::figures::time;
use crate::units::rate;

/// The options of a duel that are none of a slice.
const OF_DUEL: [&str; 4] = ["rounds", "slice", "fail-if", "format"];

#[derive(Debug, Args)]
#[command(
    override_usage = "upcase duel [OPTIONS] <TARGET_A> <TARGET_B>",
    mut_args(in_a_duel)
)]
pub(super) struct DuelArgs {
    /// Number of rounds, in each of which both servers are loaded once; at 95 % at least 4 are
    /// needed to show a difference
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = integer::<u32>(1, 10_000))]
    rounds: u32,
    /// Time to load one server for before the other one has its turn, including the warm-up
    #[arg(long, value_name = "TIME", value_parser = positive_duration, default_value = "3s")]
    slice: Duration,
    #[command(flatten)]
    comparison: ComparisonArgs,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    pub(super) load: LoadArgs,
}

/// Returns an option of `load` with what it means in a duel. Those that have no meaning there are
/// hidden, and refused by [`DuelArgs::check`] with the reason.
fn in_a_duel(arg: Arg) -> Arg {
    let help = match arg.get_id().as_str() {
        "targets" => {
            "The servers A and B: HOST, HOST:PORT, [IPv6]:PORT or [fe80::1%eth0]:PORT; port 12000 \
             if none is given; the same one twice shows the variation of the machine"
        }
        "allow" => {
            "Compare also slices with this verdict: client-bound, inconclusive or failed; they are \
             left out otherwise, since their numbers are not those of the server"
        }
        "record" => {
            "Keep the slices in this directory, which must be new or empty: DIR/01-a, DIR/02-b, \
             ..., which `upcase report` and `upcase compare` read"
        }
        "duration" | "messages" | "interval_log" | "assert" => return arg.hide(true),
        _ => return arg,
    };
    arg.help(help).long_help(None)
}

impl DuelArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        let load = &self.load;
        if load.targets.len() != 2 {
            return Err(format!(
                "a duel is between two servers, and {} given: duel TARGET_A TARGET_B",
                match load.targets.len() {
                    0 => "none is".to_string(),
                    1 => "one is".to_string(),
                    several => format!("{several} are"),
                }
            ));
        }
        let length = "--slice is the length of a run in a duel";
        let refused = [
            ("--duration", load.duration.is_some(), length),
            ("--messages", load.messages.is_some(), length),
            ("a profile of --rate", load.profile().is_some(), length),
            (
                "--interval-log",
                load.interval_log.is_some(),
                "--record DIR keeps the intervals of all slices",
            ),
            (
                "--assert",
                !load.assert.is_empty(),
                "--fail-if has the conditions of a comparison",
            ),
        ];
        if let Some((option, _, instead)) = refused.iter().find(|(_, is_given, _)| *is_given) {
            return Err(format!("duel does not take {option}: {instead}"));
        }
        if load.warmup >= self.slice {
            return Err(format!(
                "--warmup {} must be shorter than --slice {}",
                humantime::format_duration(load.warmup),
                humantime::format_duration(self.slice)
            ));
        }
        if load.server_metrics.is_some() && load.record.is_none() {
            let reason = "the metrics are kept nowhere else";
            return Err(format!("--server-metrics needs --record DIR: {reason}"));
        }
        let mut slice = load.clone();
        slice.targets.truncate(1);
        slice.check()
    }

    /// Returns the target of a server as it was typed.
    fn target(&self, side: Side) -> String {
        let target = self.load.targets.get(side.place());
        target.map_or(String::new(), ToString::to_string)
    }

    /// Returns a slice in words: `round 2 of 10, B 127.0.0.1:12000`.
    fn described(&self, slice: Slice) -> String {
        let (round, rounds, side) = (slice.round, self.rounds, slice.side);
        let (name, target) = (side.name(), self.target(side));
        format!("round {round} of {rounds}, {name} {target}")
    }

    /// Returns the options of a slice.
    fn of_slice(&self, slice: Slice, target: &Target) -> LoadArgs {
        let mut args = self.load.clone();
        let named = vec![self.target(slice.side)];
        args.given
            .retain(|name, _| !OF_DUEL.contains(&name.as_str()));
        let mut set = |option: &str, value| args.given.insert(option.to_string(), value);
        let length = humantime::format_duration(self.slice).to_string();
        set("duration", OptionValue::One(length));
        set("targets", OptionValue::Several(named));
        args.targets = vec![target.clone()];
        args.duration = Some(self.slice);
        args.place = match slice.number {
            1 => Place::First,
            _ => Place::Later,
        };
        let name = slice.name(self.rounds);
        if let Some(folder) = &mut args.record {
            folder.push(name);
            let folder = folder.display().to_string();
            args.given
                .insert("record".to_string(), OptionValue::One(folder));
        }
        args
    }
}

/// The slices that were carried out.
#[derive(Debug, Default)]
struct Done {
    /// The runs of A and of B.
    runs: [Vec<Run>; 2],
    /// Whether a signal ended the duel.
    is_interrupted: bool,
    /// Whether a record lacks a part of its run.
    is_record_incomplete: bool,
    /// Why a slice could not be carried out.
    failure: Option<anyhow::Error>,
}

pub(super) fn run(args: DuelArgs) -> anyhow::Result<Outcome> {
    if args.plan.print_plan {
        let run = LoadArgs {
            duration: Some(args.slice), // There is no default to set.
            ..args.load
        };
        return plan::show("duel", &in_effect(&run));
    }
    let from = sources(&args.load.source)?;
    let resolved = |target: &Target| Ok(exact(reachable(target, &from)?));
    let targets = args.load.targets.iter().map(resolved);
    let targets = targets.collect::<anyhow::Result<Vec<Target>>>()?;
    let Done {
        runs: [a, b],
        is_interrupted,
        is_record_incomplete,
        failure,
    } = carry_out(&args, &targets)?;
    if let (Some(folder), false) = (&args.load.record, b.is_empty()) {
        let folder = folder.display();
        info!("`upcase compare {folder}/*-a --with {folder}/*-b` compares the slices once more");
    }
    // Without a slice of each server, there is nothing to print but the error.
    let failure = match failure {
        Some(error) if a.is_empty() || b.is_empty() => return Err(error),
        failure => failure,
    };
    let metrics = args.comparison.metrics(&args.load.percentiles);
    let comparison = Comparison::new(a, b, &metrics, &args.comparison.fail_if).of_duel(Duel {
        targets: [Side::A, Side::B].map(|side| args.target(side)),
        rounds: args.rounds,
        slice: args.slice,
    });
    let outcome = match judged(&comparison) {
        // Not what was asked for: fewer slices than planned were compared.
        _ if is_interrupted => Outcome::Inconclusive,
        _ if is_record_incomplete => Outcome::Bad,
        outcome => outcome,
    };
    let code = match failure {
        Some(_) => COULD_NOT_RUN,
        None => outcome.exit_code(),
    };
    args.comparison.print(&comparison, code)?;
    failure.map_or(Ok(outcome), Err)
}

/// Returns the outcome that the conditions lead to; a server without a slice that can be compared
/// is a fault if slices failed, and otherwise leaves the question open.
fn judged(comparison: &Comparison) -> Outcome {
    let is_missing = |runs: &&[Run]| runs.iter().all(|run| run.left_out.is_some());
    let sets = comparison.sets().map(|(_, runs)| runs);
    let missing = || sets.iter().filter(|runs| is_missing(runs));
    let any_failed = missing().any(|runs| runs.iter().any(|run| run.verdict == Verdict::Failed));
    match outcome(comparison) {
        Outcome::Bad => Outcome::Bad,
        _ if any_failed => Outcome::Bad,
        _ if missing().next().is_some() => Outcome::Inconclusive,
        outcome => outcome,
    }
}

/// Carries out the slices until the last one, a signal, or one that cannot be carried out.
fn carry_out(args: &DuelArgs, targets: &[Target]) -> anyhow::Result<Done> {
    let signals = Noted::start().context("cannot set up signal handling")?;
    let metrics = args.comparison.metrics(&args.load.percentiles);
    let mut done = Done::default();
    for slice in slices(args.rounds) {
        let place = slice.side.place();
        let (Some(target), Some(runs)) = (targets.get(place), done.runs.get_mut(place)) else {
            continue;
        };
        let slice_args = args.of_slice(slice, target);
        let measured = match measure(&slice_args) {
            Ok(measured) if !measured.judged.summary.times.interrupted => measured,
            Err(error) if !signals.any() => {
                let name = args.described(slice);
                done.failure = Some(error.context(format!("{name} could not be carried out")));
                break;
            }
            Ok(_) | Err(_) => {
                done.is_interrupted = true;
                break;
            }
        };
        let Measured {
            judged,
            description,
            failure: _, // A built-in server, which no slice has.
        } = measured;
        info!("{}: {}", args.described(slice), figures(&judged));
        done.is_record_incomplete |= judged.summary.lacks_a_file();
        let name = slice_args.record.unwrap_or(slice.name(args.rounds).into());
        let run = Run::judged(name, description, &judged, &metrics, &args.load.allow);
        runs.push(run);
        if signals.any() {
            done.is_interrupted = slice.number < 2 * args.rounds;
            break;
        }
    }
    Ok(done)
}

/// Returns the figures of a slice in a line: `49,312/s, p50 118 µs, p99 410 µs, valid`.
fn figures(judged: &Judged) -> String {
    let summary = &judged.summary;
    let mut figures = vec![format!("{}/s", rate(summary.achieved_rate()))];
    if let Some(all) = summary.results.response.distribution() {
        let found = [50.0, 99.0].map(|point| (point, all.percentile(point)));
        let known = found
            .into_iter()
            .filter_map(|(point, bound)| Some((point, bound?)));
        figures.extend(known.map(|(point, bound)| format!("p{point} {}", time(bound))));
    }
    figures.push(judged.findings.verdict.to_string());
    figures.join(", ")
}

/// Returns a target that is exactly this address.
fn exact(address: SocketAddr) -> Target {
    let zone = match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            Some(Zone(address.scope_id().to_string()))
        }
        _ => None,
    };
    Target(Address {
        host: Host::Ip(address.ip(), zone),
        port: Some(address.port()),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::args::Cli;

    /// The options of a duel.
    const TAKEN: &str = "\
        allow arrivals churn close connect_rate connections depth drain expect fail_if \
        format interval kernel_timestamps label mss note pacing payload percentiles plan \
        print_plan progress rate record recv_buffer rounds seed send_buffer server_metrics size \
        slice source spin targets think threads timeout warmup";

    /// A new option of a run either has an effect on a slice and is listed here, or is refused.
    #[test]
    fn every_option_of_a_run_is_decided_about() {
        let command = Cli::command();
        let duel = command.find_subcommand("duel").unwrap();
        let shown = duel.get_arguments().filter(|arg| !arg.is_hide_set());
        let mut shown: Vec<&str> = shown.map(|arg| arg.get_id().as_str()).collect();
        shown.sort_unstable();
        assert_eq!(shown.join(" "), TAKEN);
    }
}
