//! The product, as the benchmarks start it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The program of this build.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_upcase"))
}

/// `upcase serve` of this or another build, on a free port of the loopback, which it tells.
pub fn serve(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "-q", "--listen", "127.0.0.1:0"]);
    command
}
