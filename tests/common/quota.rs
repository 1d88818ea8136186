//! A control group with a limit on CPU time, of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::skip;

/// How often the kernel gives out a quota: its default.
const PERIOD_US: u32 = 100_000;

/// A group whose processes may use a share of one CPU; removed with its test.
#[derive(Debug)]
pub struct Quota(PathBuf);

impl Quota {
    /// So many percent of one CPU. `None`: it cannot be done here, and the test has said so.
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

    /// A command that runs in the group.
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

/// The root of the groups that limit CPU time, and whether they are of the second version.
fn root() -> Option<(PathBuf, bool)> {
    let first = Path::new("/sys/fs/cgroup/cpu");
    if first.join("cpu.shares").exists() {
        return Some((first.into(), false));
    }
    let second = Path::new("/sys/fs/cgroup");
    // Refused where it is allowed already, or not to us; making the group tells.
    let _ = fs::write(second.join("cgroup.subtree_control"), "+cpu");
    second
        .join("cgroup.controllers")
        .exists()
        .then(|| (second.into(), true))
}
