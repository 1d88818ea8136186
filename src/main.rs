//! The entry point of the program: parses the command line, runs the command, and returns the exit
//! code.
//!
//! The handlers of signals and panics are installed before anything else, and the log is flushed at
//! the end, whatever the outcome.

use std::panic;
use std::process::ExitCode;

use upcase::causes;
use upcase::cli::{COULD_NOT_RUN, Cli, USAGE, UsageError};
use upcase::logging;
use upcase::reactor::signals;

fn main() -> ExitCode {
    logging::install_panic_hook();
    let code = panic::catch_unwind(run).unwrap_or(COULD_NOT_RUN);
    logging::finish();
    ExitCode::from(code)
}

fn run() -> u8 {
    if let Err(error) = signals::prepare() {
        logging::report_error(&format!("cannot prepare signals: {error}"));
        return COULD_NOT_RUN;
    }
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match cli.run() {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            logging::report_error(&causes::with_causes(&error));
            match error.is::<UsageError>() {
                true => USAGE,
                false => COULD_NOT_RUN,
            }
        }
    }
}
