//! Situations for testing the verdict of `load`, whose correct verdict is known because the test
//! makes them: what is done to the server, to the network or to the generator, and which words of
//! the verdict are then right. Above all, a run whose numbers are not the server's must never be
//! `valid`.
//!
//! The server has CPU 0 and the generator CPU 1, so that a disturbance of one does not affect the
//! other. `tests/blame.rs` tests `load` in a part of the situations in `.ci/run`; `tests/truth.rs`
//! tests it in all of them, many times, when it is started manually.
//!
//! Only the JSON report is read, so that `UPCASE_JUDGED=PATH` can name any build of `load`.

// Each test file uses only a part of this.
#![allow(dead_code)]

pub mod clients;
pub mod connecting;
pub mod faults;
pub mod networks;
pub mod servers;

use std::fmt::Display;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::lab::{Lab, done, words};
use crate::common::peers::{intervals, pinned, pinned_among_others, settle};
use crate::common::program::Program;
use crate::common::report::Report;
use crate::common::witness::Witness;
use crate::common::{self, Process, Serve, upcase};

pub const SERVER_CPU: u32 = 0;
pub const CLIENT_CPU: u32 = 1;

pub const VALID: &str = "valid";
/// The word for a run of which only the far tail is due to the client. The percentile is ignored.
pub const VALID_UP_TO: &str = "valid up to";
pub const CLIENT: &str = "client-bound";
pub const NETWORK: &str = "network-bound";
pub const SERVER: &str = "server-bound";
pub const FAILED: &str = "failed";
pub const INCONCLUSIVE: &str = "inconclusive";

/// All words of a verdict.
pub const WORDS: [&str; 7] = [
    VALID,
    VALID_UP_TO,
    CLIENT,
    NETWORK,
    SERVER,
    FAILED,
    INCONCLUSIVE,
];

/// The right words for a closed loop whose pace the server set: the numbers are the server's, and
/// the server was the limit.
pub const PACE_OF_SERVER: &[&str] = &[VALID, SERVER];

/// The right words for a closed loop that would use both CPUs, while busy loops take half of them.
pub const STARVED: Option<&[&str]> = Some(&[CLIENT, SERVER]);

/// The pace of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A schedule that does not wait for replies.
    Open,
    /// Each reply triggers the next message.
    Closed,
}

/// A disturbance, the right words for it, and the reason.
#[derive(Clone, Copy)]
pub struct Situation {
    pub name: &'static str,
    pub pace: Pace,
    /// The right words. [`INCONCLUSIVE`] is never wrong; any other word blames the wrong side.
    pub right: &'static [&'static str],
    /// The right words on a busy machine if they differ. By default, `client-bound` is added there,
    /// unless messages were lost or wrong.
    pub when_busy: Option<&'static [&'static str]>,
    /// Checks whether the report says what a right word alone does not: for example what set the
    /// pace, or what a reader must know in addition to `valid`.
    pub names_cause: fn(&Report) -> bool,
    /// Whether the situation is part of the selection that `.ci/run` tests.
    pub is_selected: bool,
    pub why: &'static str,
    /// Makes the situation and runs `load` in it. `None`: this is impossible here, and the reason
    /// has been printed.
    pub inject: fn(&Bench) -> Option<Report>,
}

/// The common fields of most open loops.
pub const OPEN: Situation = Situation {
    name: "",
    pace: Pace::Open,
    right: &[],
    when_busy: None,
    names_cause: |_| true,
    is_selected: false,
    why: "",
    inject: |_| None,
};

/// The common fields of most closed loops.
pub const CLOSED: Situation = Situation {
    pace: Pace::Closed,
    ..OPEN
};

/// Returns all situations.
pub fn all() -> impl Iterator<Item = &'static Situation> {
    let tables = [
        faults::FAULTS,
        servers::OPEN_LOOPS,
        networks::OPEN_LOOPS,
        clients::OPEN_LOOPS,
        connecting::OPEN_LOOPS,
        servers::CLOSED_LOOPS,
        networks::CLOSED_LOOPS,
        clients::CLOSED_LOOPS,
        connecting::CLOSED_LOOPS,
    ];
    tables.into_iter().flatten()
}

/// The assessment of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Right,
    /// The report does not decide and says so.
    Inconclusive,
    /// The report blames the wrong side.
    WrongSide,
    /// The report calls numbers valid that are not the server's.
    FalseValid,
}

impl Situation {
    /// Assesses the word of a report. On a busy machine the generator shares its CPU with a busy
    /// loop, so that it may contribute to any result.
    pub fn mark(&self, report: &Report, is_busy: bool) -> Mark {
        let word = word(report);
        let may_be_client = is_busy && self.right != [FAILED];
        let others = self.when_busy.filter(|_| is_busy);
        let is_right = match others {
            Some(words) => words.contains(&word),
            None => {
                self.right.contains(&word)
                    || word == VALID_UP_TO && self.right.contains(&VALID)
                    || word == CLIENT && may_be_client
            }
        };
        let has_named_cause =
            others.is_some() || word == CLIENT && may_be_client || (self.names_cause)(report);
        match word {
            INCONCLUSIVE => Mark::Inconclusive,
            _ if is_right && has_named_cause => Mark::Right,
            VALID | VALID_UP_TO => Mark::FalseValid,
            _ => Mark::WrongSide,
        }
    }

    /// Returns whether a wrong word may be due to noise of the machine: the report blames the
    /// client, or does not decide, although the client was not disturbed.
    pub fn may_be_noise(&self, report: &Report) -> bool {
        !self.right.contains(&CLIENT) && matches!(word(report), CLIENT | INCONCLUSIVE)
    }
}

/// Returns the word of a report, one of [`WORDS`]. The percentile up to which a run is valid is in
/// the word itself or in a field beside it.
pub fn word(report: &Report) -> &'static str {
    let verdict = report.verdict();
    let field = |path: &str| {
        report
            .0
            .pointer(path)
            .is_some_and(|field| field.is_string())
    };
    let is_limited = verdict.starts_with(VALID_UP_TO)
        || verdict == VALID && (field("/valid_up_to") || field("/evidence/valid_up_to"));
    if is_limited {
        return VALID_UP_TO;
    }
    let known = WORDS.into_iter().find(|word| *word == verdict);
    known.unwrap_or_else(|| panic!("a word that no situation knows: {verdict}"))
}

/// The environment in which situations are made.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Whether busy loops share both CPUs with server and generator, which then have normal
    /// priority.
    pub is_busy: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

impl Bench {
    /// Returns the command, changed to run on one CPU.
    pub fn pinned(&self, cpu: u32, command: &Command) -> Command {
        if self.is_busy {
            pinned_among_others(cpu, command)
        } else {
            pinned(cpu, command)
        }
    }

    /// Returns the CPU, and whether to use real-time priority, for a thread of the test beside the
    /// server.
    pub fn beside_server(&self) -> (u32, bool) {
        (SERVER_CPU, !self.is_busy)
    }

    /// Starts a server on its CPU.
    pub fn serve(&self) -> Serve {
        self.serve_with("")
    }

    /// Starts a server on its CPU with these further arguments.
    pub fn serve_with(&self, arguments: &str) -> Serve {
        let serve = upcase(&format!("serve --listen 127.0.0.1:0 {arguments}"));
        Serve::launch(self.pinned(SERVER_CPU, &serve), 1)
    }

    /// Returns the command of a run, not yet bound to a CPU.
    pub fn command(&self, target: impl Display, arguments: &str) -> Command {
        judged(&format!(
            "load --format json {target} --seed {} {arguments}",
            self.seed
        ))
    }

    /// Starts a run on its CPU.
    pub fn begin(&self, target: impl Display, arguments: &str) -> Process {
        Process::piped(self.pinned(CLIENT_CPU, &self.command(target, arguments)))
    }

    /// Carries out a run on its CPU.
    pub fn load(&self, target: impl Display, arguments: &str) -> Option<Report> {
        Some(Report::of(self.begin(target, arguments).ended()))
    }

    /// Carries out a run against a server whose delays follow a program.
    pub fn load_on(&self, program: Program, arguments: &str) -> Option<Report> {
        let (cpu, first) = self.beside_server();
        let server = program.start(cpu, first);
        let report = self.load(server.address, arguments);
        println!("    {}", server.stop());
        report
    }

    /// Carries out a run between two hosts, after commands on the server's and on the client's
    /// host.
    pub fn load_over(
        &self,
        lab: Option<Lab>,
        (server, client): (&[&str], &[&str]),
        arguments: &str,
    ) -> Option<Report> {
        let lab = lab?;
        let target = format!("{}:12000", common::lab::SERVER);
        let serve = upcase(&format!("serve --listen {target}"));
        let serve = Serve::launch(self.pinned(SERVER_CPU, &lab.on_server(&serve)), 1);
        for command in server {
            done(lab.on_server(&words(command)));
        }
        for command in client {
            done(lab.on_client(&words(command)));
        }
        let load = lab.on_client(&self.command(target, arguments));
        let report = Report::of(Process::piped(self.pinned(CLIENT_CPU, &load)).ended());
        drop(serve);
        Some(report)
    }

    /// Carries out a run that is disturbed when it has printed two intervals of 200 ms. The
    /// disturbing thread runs beside the server: on the generator's CPU it would have to wait for
    /// the generator.
    pub fn load_and(
        &self,
        target: impl Display,
        arguments: &str,
        act: impl FnOnce(&Process) + Send,
    ) -> Option<Report> {
        let reported = format!("{arguments} -v --interval 200ms");
        let mut load = self.begin(target, &reported);
        intervals(&load, 2);
        let (cpu, first) = self.beside_server();
        let settle_and_act = || {
            settle(cpu, first);
            act(&load);
        };
        let outcome = thread::scope(|scope| scope.spawn(settle_and_act).join());
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
        Some(Report::of(load.ended()))
    }
}

/// Returns a command for the build of `load` that is tested.
fn judged(arguments: &str) -> Command {
    match std::env::var_os("UPCASE_JUDGED") {
        None => upcase(arguments),
        Some(path) => {
            let mut command = Command::new(PathBuf::from(path));
            command.args(arguments.split_whitespace());
            command
        }
    }
}

/// Maximum number of attempts of a situation while its wrong word may be noise of the machine.
const ATTEMPTS: u64 = 3;

/// The share of the time of a run for which the host may take a CPU from a quiet machine: a 99th
/// percentile shows more.
const HOST_SHARE: f64 = 0.01;

/// Returns whether the host took so much CPU time during a run of this length that the run may be
/// client-bound, whatever else was done to it: by its steal time, or by the time for which a
/// witness saw the generator's CPU do nothing. The latter decides nothing where the generator is to
/// be blamed anyway: its busy loops may use up the time of all real-time threads, sched(7).
pub fn is_disturbed(
    situation: &Situation,
    report: &Report,
    witnessed: Duration,
    elapsed: Duration,
) -> bool {
    let stolen = report.number("evidence/stolen_s");
    let witnessed = match situation.right.contains(&CLIENT) {
        true => 0.0,
        false => witnessed.as_secs_f64(),
    };
    stolen.max(witnessed) > HOST_SHARE * elapsed.as_secs_f64()
}

/// Starts a witness of the generator's CPU.
pub fn witness() -> Witness {
    Witness::start(CLIENT_CPU)
}

/// Tests the verdict of `load` in situations, each at most [`ATTEMPTS`] times. A wrong word that
/// [may be noise](Situation::may_be_noise) decides nothing while the host takes CPU time. If the
/// environment variable is set, only the situation with that name is tested.
pub fn judge(variable: &str, situations: impl Iterator<Item = &'static Situation>) {
    if !can_be_made() {
        return;
    }
    let only = std::env::var(variable).ok();
    let mut wrong = Vec::new();
    for situation in situations {
        let name = situation.name;
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        println!(
            "{name}: {} ({})",
            situation.right.join(" or "),
            situation.why
        );
        for attempt in 1..=ATTEMPTS {
            let bench = Bench {
                is_busy: false,
                seed: attempt,
            };
            let (begun, witness) = (Instant::now(), witness());
            let report = (situation.inject)(&bench);
            let witnessed = witness.end();
            let Some(report) = report else {
                break;
            };
            let is_disturbed = is_disturbed(situation, &report, witnessed, begun.elapsed());
            let (verdict, sentences) = (report.verdict(), report.sentences());
            println!("    {verdict}: {sentences}");
            if situation.mark(&report, false) == Mark::Right {
                break;
            }
            if !situation.may_be_noise(&report) || attempt == ATTEMPTS && !is_disturbed {
                wrong.push(format!("{name}: {verdict}, {sentences}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns whether the machine has what every situation needs; prints what is missing if not.
pub fn can_be_made() -> bool {
    let has_cpus = thread::available_parallelism().unwrap().get() >= 2;
    let can = has_cpus && common::installed("taskset");
    if !can {
        common::skip("no two CPUs and taskset");
    }
    can
}

pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn us(microseconds: u64) -> Duration {
    Duration::from_micros(microseconds)
}
