//! Reads the CPU time, run-queue wait, CPU throttling and steal time of a thread and its machine,
//! and the TCP counters of the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::load::evidence::{Host, Machine, share};

/// The TCP counters of the thread's network namespace, see proc_net(5).
const NETSTAT: &str = "/proc/thread-self/net/netstat";

/// One reading of the counters, by the thread that they describe.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    at: Instant,
    cpu: Duration,
    process: Duration,
    waited: Duration,
    throttled: Duration,
    stolen: Duration,
    host: Host,
}

impl Gauge {
    /// Reads the counters. A counter that this kernel does not provide is 0.
    pub fn read() -> Gauge {
        Gauge {
            at: Instant::now(),
            cpu: thread_cpu(),
            process: cpu_time(ClockId::CLOCK_PROCESS_CPUTIME_ID),
            waited: waited().unwrap_or_default(),
            throttled: throttled(),
            stolen: stolen().unwrap_or_default(),
            host: host(&fs::read_to_string(NETSTAT).unwrap_or_default()),
        }
    }

    /// Returns the differences since this reading. Must be called by the same thread.
    pub fn since(&self) -> Machine {
        let now = Gauge::read();
        let cpu = now.cpu.saturating_sub(self.cpu);
        let waited = now.waited.saturating_sub(self.waited);
        let wall = now.at.saturating_duration_since(self.at);
        Machine {
            cpu,
            wall,
            busy: share(cpu, wall),
            starved: share(waited, wall),
            process: now.process.saturating_sub(self.process),
            throttled: now.throttled.saturating_sub(self.throttled),
            stolen: now.stolen.saturating_sub(self.stolen),
            host: now.host.since(&self.host),
        }
    }
}

/// Returns the CPU time of this thread so far; zero where the kernel does not provide it.
pub fn thread_cpu() -> Duration {
    cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu_time(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// Returns the time that this thread has waited on a run queue: the second field, in nanoseconds,
/// see sched-stats in the kernel's documentation.
fn waited() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Returns the longest time for which the CPU quota of this process's cgroup, or of one of its
/// ancestors, was used up. Zero where there is no quota (cgroup version 2 only).
fn throttled() -> Duration {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let mut folder = Path::new("/sys/fs/cgroup").join(path.unwrap_or_default());
    let mut longest = Duration::ZERO;
    loop {
        let text = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("throttled_usec "));
        let microseconds = line.and_then(|number| number.trim().parse().ok());
        longest = longest.max(Duration::from_micros(microseconds.unwrap_or(0)));
        if !folder.pop() || !folder.starts_with("/sys/fs/cgroup") {
            return longest;
        }
    }
}

/// Returns the steal time of all CPUs: the eighth number of the first line, in ticks of a hundredth
/// of a second (USER_HZ), see proc_stat(5).
fn stolen() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks: u64 = text.split_whitespace().nth(8)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Parses the TCP counters: a line of names is followed by a line of their values.
fn host(netstat: &str) -> Host {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap_or_default().split_whitespace();
    let values = lines.next().unwrap_or_default().split_whitespace();
    let counters: Vec<(&str, &str)> = names.zip(values).collect();
    let count = |name: &str| -> u64 {
        let found = counters.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, value)| value.parse().unwrap_or(0))
    };
    Host {
        came_twice: count("TCPDSACKOldSent") + count("TCPDSACKOfoSent"),
        timeouts: count("TCPTimeouts"),
        syns_resent: count("TCPSynRetrans"),
        queue_overflows: count("ListenOverflows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_tcp_are_read_by_name() {
        let text = "TcpExt: DelayedACKs ListenOverflows TCPTimeouts TCPDSACKOldSent\n\
                    TcpExt: 1 2 3 4\n\
                    IpExt: InOctets ListenOverflows\n\
                    IpExt: 5 6\n";
        let expected = Host {
            came_twice: 4,
            timeouts: 3,
            syns_resent: 0,
            queue_overflows: 2,
        };
        assert_eq!(host(text), expected);
        assert_eq!(host("TcpExt:"), Host::default());
    }

    #[test]
    fn a_thread_that_works_is_seen_to_work() {
        let before = Gauge::read();
        let mut sum = 0u64;
        let end = Instant::now() + Duration::from_millis(30);
        while Instant::now() < end {
            sum = std::hint::black_box(sum + 1);
        }
        let machine = before.since();
        assert!(machine.wall >= Duration::from_millis(30));
        assert!(machine.cpu > Duration::from_millis(1), "{machine:?}");
        assert!(machine.cpu <= machine.wall, "{machine:?}");
    }
}
