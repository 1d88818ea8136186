//! `upcase load --find-max`: carries out the trials that the search chooses, and prints its report.

use std::io::stdout;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use log::info;

use crate::causes;
use crate::cli::load::command::{Format, LoadCommand};
use crate::cli::load::series::Series;
use crate::cli::output::{COULD_NOT_RUN, Outcome, print};
use crate::load::judge::assertion::Condition;
use crate::search::database::{Bounds, Database, Trial};
use crate::search::goal::Load;
use crate::search::report::Search;
use crate::search::strategy::{Ending, Step};
use crate::search::trial::{Outcome as Shown, TrialReport};
use crate::search::{json, text};
use crate::sys::terminal;

/// The file of a record that has the report of the search.
const FILE: &str = "search.json";

/// The pause after a trial that was not good: the server has closed all connections by then, but it
/// or its host may have work left.
const PAUSE: Duration = Duration::from_millis(200);

/// Carries out the search, and prints its report.
pub(super) fn run(args: &LoadCommand) -> anyhow::Result<Outcome> {
    let mut series = Series::start(&args.run)?;
    let description = series.description();
    let objective = args.many.find_max.iter().map(Condition::to_string);
    let mut search = Search {
        target: series.target(),
        objective: objective.collect(),
        goal: args.many.goal(),
        strategy: args.many.strategy(),
        trials: Vec::new(),
        bounds: Bounds::default(),
        conditional_throughput: None,
        ending: Ending::Interrupted,
        failure: None,
        spent: Duration::ZERO,
    };
    carry_out(args, &mut series, &mut search);
    if let (Some(failure), true) = (&search.failure, search.trials.is_empty()) {
        return Err(anyhow!("{failure}"));
    }
    let outcome = outcome(search.ending);
    let code = outcome.map_or(COULD_NOT_RUN, Outcome::exit_code);
    let json = json::render(&search, &description, code);
    print(&match args.format {
        Format::Json => json.clone(),
        Format::Text | Format::Html => text::render(&search, terminal::columns(&stdout())),
    })?;
    series.write(FILE, &json)?;
    outcome.ok_or_else(|| anyhow!("{}", search.failure.unwrap_or_default()))
}

/// Carries out trials until the search ends.
fn carry_out(args: &LoadCommand, series: &mut Series, search: &mut Search) {
    let mut database = Database::new(search.goal);
    let ending = loop {
        if series.is_interrupted() {
            break Ending::Interrupted;
        }
        let (load, duration) = match search.strategy.next(&database, series.spent()) {
            Step::Trial(load, duration) => (load, duration),
            Step::End(ending) => break ending,
        };
        match trial(args, series, (load, duration)) {
            Err(error) => {
                search.failure = Some(causes::with_causes(&error));
                break Ending::Failed;
            }
            Ok(trial) => {
                if series.shows_progress() {
                    info!("{}", text::progress(&trial));
                }
                note(&mut database, &trial);
                if trial.outcome != Shown::Good {
                    thread::sleep(PAUSE);
                }
                search.trials.push(trial);
            }
        }
    };
    search.conclude(&database, ending, series.spent());
}

/// Carries out a trial.
fn trial(
    args: &LoadCommand,
    series: &mut Series,
    (load, duration): (Load, Duration),
) -> anyhow::Result<TrialReport> {
    let is_long = duration >= args.many.goal().final_trial;
    let with_warmup = duration.saturating_add(args.run.warmup);
    let (number, judged) = series.run(load, with_warmup, &args.many.find_max)?;
    Ok(TrialReport::new(number, (load, duration), is_long, &judged))
}

/// Adds a trial to the database, if it counts.
fn note(database: &mut Database, trial: &TrialReport) {
    match trial.outcome {
        Shown::Discarded => database.discard(trial.load),
        outcome @ (Shown::Good | Shown::Bad) => database.add(Trial {
            load: trial.load,
            duration: trial.duration,
            is_good: outcome == Shown::Good,
            forwarding_rate: trial.achieved,
        }),
    }
}

/// Returns the outcome of the command; `None`: a trial could not be carried out.
fn outcome(ending: Ending) -> Option<Outcome> {
    match ending {
        Ending::Found | Ending::HoldsAtMost => Some(Outcome::Good),
        Ending::FailsAtLeast => Some(Outcome::Bad),
        Ending::GeneratorLimit(_) | Ending::OutOfTime | Ending::Interrupted => {
            Some(Outcome::Inconclusive)
        }
        Ending::Failed => None,
    }
}
