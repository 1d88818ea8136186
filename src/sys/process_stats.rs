//! The kernel's figures on this process: CPU time, memory, threads and descriptors. The files of
//! proc_pid(5) are opened once and read repeatedly, which still works when the process may not open
//! files any more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// The open files that the figures are read from.
#[derive(Debug)]
pub struct Source {
    status: File,
    descriptors: File,
    started: Option<f64>,
}

/// The figures at one moment; `None` for those that the kernel does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system time of all threads, those that have ended included: getrusage(2).
    pub cpu_seconds: Option<f64>,
    /// Memory in RAM: VmRSS.
    pub resident_bytes: Option<u64>,
    /// Address space: VmSize.
    pub virtual_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors, which the kernel reports as the size of /proc/self/fd since Linux 6.2.
    pub open_descriptors: Option<u64>,
    /// The soft limit of RLIMIT_NOFILE.
    pub most_descriptors: Option<u64>,
    /// Start time of the process, in seconds since 1970.
    pub started: Option<f64>,
}

impl Source {
    /// Opens the files. The error names the file that is missing.
    pub fn open() -> io::Result<Source> {
        let open = |path: &str| {
            let missing =
                |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
            File::open(path).map_err(missing)
        };
        Ok(Source {
            status: open("/proc/self/status")?,
            descriptors: open("/proc/self/fd")?,
            started: started(),
        })
    }

    /// Returns the current figures.
    pub fn read(&self) -> ProcessStats {
        let status = self.status().unwrap_or_default();
        let number = |name| number(&status, name);
        let bytes = |name| Some(number(name)? * 1024);
        let size = self.descriptors.metadata().map(|folder| folder.len());
        let limit = getrlimit(Resource::RLIMIT_NOFILE);
        ProcessStats {
            cpu_seconds: cpu_seconds(),
            resident_bytes: bytes("VmRSS"),
            virtual_bytes: bytes("VmSize"),
            threads: number("Threads"),
            open_descriptors: size.ok().filter(|&count| count > 0),
            most_descriptors: limit.ok().map(|(soft, _)| soft),
            started: self.started,
        }
    }

    /// Returns the content of the status file, which the kernel generates anew for a read from the
    /// beginning.
    fn status(&self) -> io::Result<String> {
        let mut bytes = [0; 8192];
        let count = self.status.read_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }
}

/// Returns the number in the line `Name: 12 kB` or `Name: 12` of proc_pid_status(5).
fn number(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    value.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = usage.user_time() + usage.system_time();
    Some(time.num_microseconds() as f64 / 1e6)
}

/// Returns the start time of the process in seconds since 1970: its start in clock ticks after the
/// boot, field 22 of proc_pid_stat(5), added to the time of the boot, `btime` of proc_stat(5).
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(boot.trim().parse::<f64>().ok()? + ticks / per_second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn every_figure_is_reported_and_is_read_anew() {
        let source = Source::open().unwrap();
        let before = source.read();
        let held: Vec<File> = (0..5).map(|_| File::open("/dev/null").unwrap()).collect();
        // Without `black_box`, the optimiser would remove this memory.
        let memory = black_box(vec![1_u8; 64 << 20]);
        let after = source.read();
        assert!(after.resident_bytes.unwrap() >= memory.len() as u64);
        assert!(after.virtual_bytes >= after.resident_bytes);
        assert!(after.cpu_seconds > before.cpu_seconds);
        assert!(after.threads.unwrap() >= 1);
        // Other tests of this process open and close descriptors as well: at least these are open.
        let open = after.open_descriptors.unwrap_or(u64::MAX);
        assert!(open >= held.len() as u64, "{before:?} {after:?}");
        assert!(after.most_descriptors.unwrap() >= after.open_descriptors.unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - after.started.unwrap();
        // The time of the boot is in whole seconds.
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
