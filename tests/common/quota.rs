//! Limits the CPU time of processes by a control group of version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::skip;

/// The period over which the kernel enforces a quota, in microseconds: its default.
const PERIOD_US: u32 = 100_000;

/// A control group whose processes may use a share of one CPU. It is removed when it is dropped.
#[derive(Debug)]
pub struct Quota(PathBuf);

impl Quota {
    /// Creates a group that is limited to so many percent of one CPU. `None`: this is impossible
    /// here, and the reason has been printed.
    pub fn percent(percent: u32) -> Option<Quota> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some((root, is_second)) = root() else {
            skip("no control group for CPU time can be made");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = Quota(root.join(format!("upcase-test-{}-{number}", std::process::id())));
        let limit = PERIOD_US * percent / 100;
        let made = fs::create_dir(&group.0).and_then(|()| {
            if is_second {
                fs::write(group.0.join("cpu.max"), format!("{limit} {PERIOD_US}"))
            } else {
                fs::write(group.0.join("cpu.cfs_quota_us"), limit.to_string())
            }
        });
        if let Err(error) = made {
            skip(&format!("no control group with a quota: {error}"));
            return None;
        }
        Some(group)
    }

    /// Returns the command, changed to run in the group.
    pub fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        within.arg(self.0.join("cgroup.procs"));
        within.arg(command.get_program()).args(command.get_args());
        within
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Returns the root of the groups that limit CPU time, and whether they are of version 2.
fn root() -> Option<(PathBuf, bool)> {
    let first = Path::new("/sys/fs/cgroup/cpu");
    if first.join("cpu.shares").exists() {
        return Some((first.into(), false));
    }
    let second = Path::new("/sys/fs/cgroup");
    // This fails if it is enabled already or if we have no permission. The latter shows when a
    // group is created.
    let _ = fs::write(second.join("cgroup.subtree_control"), "+cpu");
    second
        .join("cgroup.controllers")
        .exists()
        .then(|| (second.into(), true))
}
