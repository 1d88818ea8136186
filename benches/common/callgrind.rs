//! Counts the instructions in user space of a whole run, start and end included, with callgrind.

use std::process::Command;

/// The program that has callgrind.
pub const PROGRAM: &str = "valgrind";

/// Returns the command that runs callgrind; the command to be counted is appended as arguments.
pub fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command
}

/// Extracts the count from callgrind's log. `None`: the count is not written yet.
pub fn instructions(log: &str) -> Option<u64> {
    let count = |line: &str| line.split_once("Collected : ")?.1.trim().parse().ok();
    log.lines().find_map(count)
}
