//! Situations of `load` whose truth is known, because the test made it: what is done to the server,
//! to the network or to the generator, and which words of the verdict are right then. Above all, a
//! run whose numbers are not the server's is never `valid`.
//!
//! The server has CPU 0 and the generator CPU 1, so that what is done to one does not touch the
//! other. `tests/blame.rs` holds `load` against a part of them in `.ci/run`, `tests/truth.rs`
//! against all of them, many times, by hand.
//!
//! Nothing is read but the JSON report, so that `UPCASE_JUDGED=PATH` can be any build of `load`.

// Each test file uses a part of this.
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
use std::time::Duration;

use crate::common::lab::{Lab, done, words};
use crate::common::peers::{intervals, pinned, pinned_among_others, settle};
use crate::common::program::Program;
use crate::common::report::Report;
use crate::common::{self, Process, Serve, upcase};

pub const SERVER_CPU: u32 = 0;
pub const CLIENT_CPU: u32 = 1;

pub const VALID: &str = "valid";
/// The word for a run whose far tail alone is the client's, however the percentile is told.
pub const VALID_UP_TO: &str = "valid up to";
pub const CLIENT: &str = "client-bound";
pub const NETWORK: &str = "network-bound";
pub const SERVER: &str = "server-bound";
pub const FAILED: &str = "failed";
pub const INCONCLUSIVE: &str = "inconclusive";

/// Every word that a run may end with.
pub const WORDS: [&str; 7] = [
    VALID,
    VALID_UP_TO,
    CLIENT,
    NETWORK,
    SERVER,
    FAILED,
    INCONCLUSIVE,
];

/// Of a closed loop whose pace the server set: its numbers are the server's, and it was the limit.
pub const PACE_OF_SERVER: &[&str] = &[VALID, SERVER];

/// Of a closed loop that would take both CPUs, when busy loops take a half of them.
pub const STARVED: Option<&[&str]> = Some(&[CLIENT, SERVER]);

/// What sets the pace of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A schedule that does not wait.
    Open,
    /// Each reply asks for the next message.
    Closed,
}

/// What is done, what it must be called, and why.
#[derive(Clone, Copy)]
pub struct Situation {
    pub name: &'static str,
    pub pace: Pace,
    /// The words that are right. [`INCONCLUSIVE`] is never wrong; every other word blames the wrong
    /// side.
    pub right: &'static [&'static str],
    /// The words that are right on a busy machine, where they are others: by default
    /// `client-bound` as well, unless messages were lost or wrong.
    pub when_busy: Option<&'static [&'static str]>,
    /// Whether the report tells what a right word alone does not: who set the pace, what the
    /// reader must know beside a `valid`.
    pub tells: fn(&Report) -> bool,
    /// Whether it is of the selection that `.ci/run` holds `load` against.
    pub is_selected: bool,
    pub why: &'static str,
    /// `None`: it cannot be done here, and that has been said.
    pub inject: fn(&Bench) -> Option<Report>,
}

/// What most open loops have in common.
pub const OPEN: Situation = Situation {
    name: "",
    pace: Pace::Open,
    right: &[],
    when_busy: None,
    tells: |_| true,
    is_selected: false,
    why: "",
    inject: |_| None,
};

/// What most closed loops have in common.
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

/// How a word stands to the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Right,
    /// The report does not decide, and says so.
    Inconclusive,
    /// It blames the wrong side.
    WrongSide,
    /// It trusts numbers that are not the server's.
    FalseValid,
}

impl Situation {
    /// Judges the word of a report. On a busy machine the generator shares its CPU with a busy
    /// loop, so that it may have its part in everything.
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
        let has_told = others.is_some() || word == CLIENT && may_be_client || (self.tells)(report);
        match word {
            INCONCLUSIVE => Mark::Inconclusive,
            _ if is_right && has_told => Mark::Right,
            VALID | VALID_UP_TO => Mark::FalseValid,
            _ => Mark::WrongSide,
        }
    }

    /// Whether a wrong word may be the machine's noise: the report puts it down to the client, to
    /// which nothing was done.
    pub fn may_be_noise(&self, report: &Report) -> bool {
        !self.right.contains(&CLIENT) && matches!(word(report), CLIENT | INCONCLUSIVE)
    }
}

/// The word of a report, one of [`WORDS`]. How far it holds stands in the word itself, or in a
/// field beside it.
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

/// Where situations are made.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Whether busy loops share both CPUs with server and generator, which have no place before
    /// others then.
    pub is_busy: bool,
    /// What is drawn is drawn from this.
    pub seed: u64,
}

impl Bench {
    /// A command on one CPU.
    pub fn pinned(&self, cpu: u32, command: &Command) -> Command {
        if self.is_busy {
            pinned_among_others(cpu, command)
        } else {
            pinned(cpu, command)
        }
    }

    /// The place of a thread of the test's own beside the server.
    pub fn beside_server(&self) -> (u32, bool) {
        (SERVER_CPU, !self.is_busy)
    }

    /// A server on its CPU.
    pub fn serve(&self) -> Serve {
        self.serve_with("")
    }

    /// The same with these further arguments.
    pub fn serve_with(&self, arguments: &str) -> Serve {
        let serve = upcase(&format!("serve --listen 127.0.0.1:0 {arguments}"));
        Serve::launch(self.pinned(SERVER_CPU, &serve), 1)
    }

    /// The command of a run, not yet on its CPU.
    pub fn command(&self, target: impl Display, arguments: &str) -> Command {
        judged(&format!(
            "load --format json {target} --seed {} {arguments}",
            self.seed
        ))
    }

    /// A run on its CPU, under way.
    pub fn begin(&self, target: impl Display, arguments: &str) -> Process {
        Process::piped(self.pinned(CLIENT_CPU, &self.command(target, arguments)))
    }

    /// A run on its CPU, to its end.
    pub fn load(&self, target: impl Display, arguments: &str) -> Option<Report> {
        Some(Report::of(self.begin(target, arguments).ended()))
    }

    /// A run against a server that takes its time by a program.
    pub fn load_on(&self, program: Program, arguments: &str) -> Option<Report> {
        let (cpu, first) = self.beside_server();
        let server = program.start(cpu, first);
        let report = self.load(server.address, arguments);
        println!("    {}", server.stop());
        report
    }

    /// A run between two hosts, of which something is done to each before.
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

    /// A run to which something is done when it has told two intervals of 200 ms, by a thread
    /// beside the server: on the generator's CPU it would have to wait for the generator.
    pub fn load_and(
        &self,
        target: impl Display,
        arguments: &str,
        act: impl FnOnce(&Process) + Send,
    ) -> Option<Report> {
        let told = format!("{arguments} -v --interval 200ms");
        let mut load = self.begin(target, &told);
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

/// The build of `load` that is held against the truth.
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

/// How often a situation is made whose word may be the machine's noise.
const ATTEMPTS: u64 = 3;

/// Holds `load` against situations, each at most [`ATTEMPTS`] times; one of them alone when the
/// variable holds its name.
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
            let Some(report) = (situation.inject)(&bench) else {
                break;
            };
            let (verdict, sentences) = (report.verdict(), report.sentences());
            println!("    {verdict}: {sentences}");
            if situation.mark(&report, false) == Mark::Right {
                break;
            }
            if attempt == ATTEMPTS || !situation.may_be_noise(&report) {
                wrong.push(format!("{name}: {verdict}, {sentences}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether the machine has what every situation needs; says so if not.
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
