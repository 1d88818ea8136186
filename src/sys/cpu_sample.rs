//! Reads the CPU time, run-queue wait, CPU throttling and steal time of a thread and its machine,
//! and the TCP counters of the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use serde::{Deserialize, Serialize};

use crate::sys::snmp;
use crate::units::share;

/// The TCP counters of the thread's network namespace, see proc_net(5).
const NETSTAT: &str = "/proc/thread-self/net/netstat";

/// One reading of the counters, by the thread that they describe.
#[derive(Clone, Copy, Debug)]
pub struct CpuSample {
    at: Instant,
    cpu: Duration,
    process: Duration,
    waited: Duration,
    throttled: Duration,
    stolen: Duration,
    host: HostCounters,
}

impl CpuSample {
    /// Reads the counters. A counter that this kernel does not provide is 0.
    pub fn read() -> CpuSample {
        CpuSample {
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
    pub fn since(&self) -> CpuUsage {
        let now = CpuSample::read();
        let cpu = now.cpu.saturating_sub(self.cpu);
        let waited = now.waited.saturating_sub(self.waited);
        let wall = now.at.saturating_duration_since(self.at);
        CpuUsage {
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

/// The CPU time of the threads of a run, and what kept them from running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// CPU time of the thread; of several threads, the sum.
    pub cpu: Duration,
    /// The wall-clock time in which `cpu` was used; of several threads, the sum.
    pub wall: Duration,
    /// The share of its wall-clock time in which a thread ran; of several threads, the largest.
    pub busy: f64,
    /// The share of its wall-clock time in which a thread waited on a run queue; of several
    /// threads, the largest. See the second number of /proc/thread-self/schedstat.
    pub starved: f64,
    /// CPU time of the whole process in the same time, which includes the server if the run started
    /// its own. Of several threads, the largest.
    pub process: Duration,
    /// The time in which the CPU quota of the process's cgroup, or of one of its ancestors, was
    /// used up: throttled_usec in cpu.stat, see cgroups(7).
    pub throttled: Duration,
    /// CPU time that the hypervisor took from this machine, over all CPUs: steal in /proc/stat.
    pub stolen: Duration,
    /// The TCP counters of this host over the same time.
    pub host: HostCounters,
}

/// TCP counters over all connections of this host. They include those of other programs, so the
/// verdict does not depend on them. See TcpExt in /proc/net/netstat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCounters {
    /// Segments that were received twice: TCPDSACKOldSent, TCPDSACKOfoSent. The acknowledgment of
    /// the first copy was lost or late.
    pub came_twice: u64,
    /// Retransmission timeouts: TCPTimeouts.
    pub timeouts: u64,
    /// Retransmitted SYNs: TCPSynRetrans.
    pub syns_resent: u64,
    /// SYNs and connections that found the accept queue of a listener on this host full:
    /// ListenOverflows.
    pub queue_overflows: u64,
}

impl CpuUsage {
    /// Adds the values of another thread. Those of the process and of the machine are the same for
    /// all threads, so the larger one is kept.
    pub fn merge(&mut self, other: &CpuUsage) {
        let CpuUsage {
            cpu,
            wall,
            busy,
            starved,
            process,
            throttled,
            stolen,
            host,
        } = other;
        self.cpu += *cpu;
        self.wall += *wall;
        self.busy = self.busy.max(*busy);
        self.starved = self.starved.max(*starved);
        self.process = self.process.max(*process);
        self.throttled = self.throttled.max(*throttled);
        self.stolen = self.stolen.max(*stolen);
        self.host.merge(host);
    }
}

impl HostCounters {
    /// Returns the differences between an earlier reading and this one.
    pub fn since(&self, earlier: &HostCounters) -> HostCounters {
        HostCounters {
            came_twice: self.came_twice.saturating_sub(earlier.came_twice),
            timeouts: self.timeouts.saturating_sub(earlier.timeouts),
            syns_resent: self.syns_resent.saturating_sub(earlier.syns_resent),
            queue_overflows: self.queue_overflows.saturating_sub(earlier.queue_overflows),
        }
    }

    /// Keeps the larger value of each counter, since all threads read the counters of the same host
    /// over nearly the same time.
    fn merge(&mut self, other: &HostCounters) {
        let HostCounters {
            came_twice,
            timeouts,
            syns_resent,
            queue_overflows,
        } = other;
        self.came_twice = self.came_twice.max(*came_twice);
        self.timeouts = self.timeouts.max(*timeouts);
        self.syns_resent = self.syns_resent.max(*syns_resent);
        self.queue_overflows = self.queue_overflows.max(*queue_overflows);
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

/// Parses the TCP counters. A counter that is missing is 0.
fn host(netstat: &str) -> HostCounters {
    let count = |name| snmp::counter(netstat, "TcpExt:", name).unwrap_or(0);
    HostCounters {
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
        let expected = HostCounters {
            came_twice: 4,
            timeouts: 3,
            syns_resent: 0,
            queue_overflows: 2,
        };
        assert_eq!(host(text), expected);
        assert_eq!(host("TcpExt:"), HostCounters::default());
    }

    #[test]
    fn a_thread_that_works_is_seen_to_work() {
        let before = CpuSample::read();
        let mut sum = 0u64;
        let end = Instant::now() + Duration::from_millis(30);
        while Instant::now() < end {
            sum = std::hint::black_box(sum + 1);
        }
        let machine = before.since();
        assert!(machine.wall >= Duration::from_millis(30));
        assert!(machine.cpu > Duration::from_millis(1), "{machine:?}");
        // The two clocks are read one after the other, and the thread may wait in between.
        assert!(machine.cpu <= machine.wall * 2, "{machine:?}");
    }
}
