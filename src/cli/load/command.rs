//! The options of `upcase load`: those of a run, and what is done with one run or many.

use clap::{Args, ValueEnum};

use crate::cli::load::args::LoadArgs;
use crate::cli::load::many::ManyArgs;
use crate::cli::plan::PlanArgs;

/// The options of `upcase load` itself, besides those of a run.
#[derive(Debug, Args)]
pub(in crate::cli) struct LoadCommand {
    #[command(flatten)]
    pub(in crate::cli) run: LoadArgs,
    #[command(flatten)]
    pub(in crate::cli) many: ManyArgs,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) plan: PlanArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Text for a person
    Text,
    /// One JSON object on one line
    Json,
    /// The page of a sweep: its curve and its table, without need of a network
    Html,
}

impl LoadCommand {
    pub(in crate::cli) fn check(&self) -> Result<(), String> {
        self.many.check()?;
        if self.format == Format::Html && self.many.sweep.is_none() {
            return Err(
                "--format html needs --sweep: of a recorded run, `upcase report DIR --format html` \
                 makes a page"
                    .to_string(),
            );
        }
        match self.many.first_run(&self.run) {
            Some(first) => first.check(),
            None => self.run.check(),
        }
    }
}
