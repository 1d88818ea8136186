//! Instructions in user space of a whole run, start and end included, as callgrind counts them.

use std::process::Command;

/// Its program.
pub const PROGRAM: &str = "valgrind";

/// What counts the command that follows as arguments.
pub fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command
}

/// The count, as its log tells it; `None`: not yet.
pub fn instructions(log: &str) -> Option<u64> {
    let count = |line: &str| line.split_once("Collected : ")?.1.trim().parse().ok();
    log.lines().find_map(count)
}
