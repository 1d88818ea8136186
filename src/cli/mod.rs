//! The command line: parses the arguments, runs the command, and determines the exit code. Each
//! command has its own file or folder.

mod args;
mod compare;
mod comparison;
mod duel;
mod given;
mod load;
mod numbers;
mod options;
mod output;
mod plan;
mod plan_text;
mod report;
mod send;
mod serve;
mod sniff;
mod usage;
mod values;

use std::ffi::OsString;
use std::{env, io};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use log::LevelFilter;

pub use crate::cli::args::Cli;
use crate::cli::args::Command;
pub use crate::cli::output::{COULD_NOT_RUN, Outcome, USAGE, UsageError};
use crate::cli::plan::Refused;
use crate::logging::{self, report_error};

/// Prints an error of the command line, or the text of a help or version option, and returns the
/// exit code.
fn report(error: &clap::Error, command: &clap::Command, arguments: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                report_error(&format!("cannot write to standard output: {error}"));
                COULD_NOT_RUN
            }
            _ => 0,
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print(); // To standard error.
            USAGE
        }
        _ => {
            report_error(&usage::describe(error, command, arguments));
            USAGE
        }
    }
}

impl Cli {
    /// Parses the arguments of this process. On an error, or for a help or version option, prints
    /// the message and returns the exit code as an error.
    pub fn read() -> Result<Cli, u8> {
        let arguments = usage::joined(env::args_os());
        let mut command = usage::prepared(Cli::command());
        let parsed = plan::matches(&mut command, &arguments);
        let parsed = parsed.and_then(|matches| {
            let mut cli = Cli::from_arg_matches(&matches).map_err(Refused::Usage)?;
            if let Some(run) = cli.command.run_args() {
                run.given = given::options(&command, &matches);
            }
            Ok(cli)
        });
        let cli = parsed.map_err(|refused| match refused {
            Refused::Usage(error) => report(&error, &command, &arguments),
            Refused::Plan(error) => {
                report_error(&error);
                USAGE
            }
            Refused::Unreadable(error) => {
                report_error(&error);
                COULD_NOT_RUN
            }
        })?;
        if let Err(error) = cli.check() {
            report_error(&format!(
                "{error} (see upcase {} --help)",
                cli.command.name()
            ));
            return Err(USAGE);
        }
        Ok(cli)
    }

    /// Runs the command. An error means that it could not run.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let level = match (self.log.verbose, self.log.quiet) {
            (true, _) => LevelFilter::Debug,
            (_, true) => LevelFilter::Error,
            _ => LevelFilter::Info,
        };
        logging::start(level, self.log.log_file.as_deref())?;
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Send(args) => send::run(args),
            Command::Load(args) => load::run(*args),
            Command::Sniff(args) => sniff::run(args, self.log.verbose),
            Command::Report(args) => report::run(args),
            Command::Compare(args) => compare::run(args),
            Command::Duel(args) => duel::run(*args),
        }
    }
}
