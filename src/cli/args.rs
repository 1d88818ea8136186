//! Defines the command line: the commands, and the options that all of them have.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cli::compare::CompareArgs;
use crate::cli::duel::DuelArgs;
use crate::cli::load::args::LoadArgs;
use crate::cli::load::command::LoadCommand;
use crate::cli::report::ReportArgs;
use crate::cli::send::SendArgs;
use crate::cli::serve::ServeArgs;
use crate::cli::sniff::SniffArgs;

/// A TCP echo pair for measuring and teaching TCP: the server answers in upper case
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_required = true,
    after_help = "Exit codes: 0 success; 1 completed, but a fault was found; 2 wrong usage; \
                  3 could not run; 4 inconclusive."
)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Echo every byte that is received, with ASCII letters in upper case
    Serve(ServeArgs),
    /// Send messages and print the replies
    Send(SendArgs),
    /// Load a server with many connections, verify every reply, measure its response
    Load(Box<LoadCommand>),
    /// Show TCP conversations packet by packet, live or from a file, and check them for faults
    Sniff(SniffArgs),
    /// Print the report of a recorded run, or of several that are parts of one
    Report(ReportArgs),
    /// Compare two recorded runs, or two sets of them: is B faster or slower than A?
    Compare(CompareArgs),
    /// Load two servers in turn and compare them: which of them is faster?
    Duel(Box<DuelArgs>),
}

impl Command {
    /// Returns the name of the command as it is typed.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Command::Serve(_) => "serve",
            Command::Send(_) => "send",
            Command::Load(_) => "load",
            Command::Sniff(_) => "sniff",
            Command::Report(_) => "report",
            Command::Compare(_) => "compare",
            Command::Duel(_) => "duel",
        }
    }

    /// Returns the options of the runs that the command carries out, if it does.
    pub(super) fn run_args(&mut self) -> Option<&mut LoadArgs> {
        match self {
            Command::Load(args) => Some(&mut args.run),
            Command::Duel(args) => Some(&mut args.load),
            Command::Serve(_)
            | Command::Send(_)
            | Command::Sniff(_)
            | Command::Report(_)
            | Command::Compare(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Log more: every connection, every message
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "quiet",
        display_order = 100
    )]
    pub(super) verbose: bool,
    /// Log errors only
    #[arg(short, long, global = true, display_order = 100)]
    pub(super) quiet: bool,
    /// Append the log to this file as well; `serve` reopens it on SIGHUP
    #[arg(long, global = true, value_name = "PATH", display_order = 100)]
    pub(super) log_file: Option<PathBuf>,
}

impl Cli {
    /// Checks what the parser of a single option cannot check. The error describes the fault.
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.command {
            Command::Serve(args) => args.check(),
            Command::Load(args) => args.check(),
            Command::Sniff(args) => args.check(),
            Command::Compare(args) => args.check(),
            Command::Duel(args) => args.check(),
            Command::Send(_) | Command::Report(_) => Ok(()),
        }
    }
}
