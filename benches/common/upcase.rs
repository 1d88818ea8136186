//! The commands with which the benchmarks start upcase.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Returns the path of the program of this build.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_upcase"))
}

/// Returns the command for `upcase serve` of this or another build. It listens on a free port of
/// the loopback and prints its address.
pub fn serve(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "-q", "--listen", "127.0.0.1:0"]);
    command
}
