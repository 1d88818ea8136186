//! The program: reads the command line, carries it out, says how it ended.

use std::process::ExitCode;

use upcase::cli::{self, Cli, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    ExitCode::from(match cli.run() {
        Ok(Outcome::Good) => 0,
        Ok(Outcome::Bad) => 1,
        Err(error) => {
            cli::say(&format!("{error:#}"));
            3
        }
    })
}
