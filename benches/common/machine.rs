//! Reads from the kernel what machine this is and how busy its CPUs are.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::utsname::uname;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use time::OffsetDateTime;

/// Returns one line with today's date, the kernel and the CPUs.
pub fn name() -> String {
    let kernel = uname().map_or_else(
        |_| "unknown kernel".to_string(),
        |name| {
            let (system, release) = (name.sysname(), name.release());
            format!("{} {}", system.display(), release.display())
        },
    );
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = models.clone().count();
    let model = models.map(|(_, model)| model).next().unwrap_or("CPU");
    let today = OffsetDateTime::from(std::time::SystemTime::now()).date();
    format!("{today}, {kernel}, {count} × {model}")
}

/// Returns the CPU time of this process.
pub fn own_cpu() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Returns how long these CPUs have done nothing for any process since the machine started: see
/// /proc/stat in proc(5). The kernel counts in ticks, usually of 10 ms.
///
/// Where the kernel measures the time of interrupts (CONFIG_IRQ_TIME_ACCOUNTING; its count of hard
/// interrupts is then not 0), that time is not part of any process's time and counts as idle here.
/// Elsewhere it is part of the process that was interrupted.
pub fn idle(cores: &[usize]) -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")? as f64;
    let mut ticks = 0;
    for core in cores {
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let line = line.with_context(|| format!("no {name}in /proc/stat"))?;
        let fields: Vec<u64> = line.split(' ').filter_map(|it| it.parse().ok()).collect();
        let &[_, _, _, idle, waiting, hard, soft, ..] = &fields[..] else {
            bail!("{line:?} has too few numbers");
        };
        let interrupts = if hard > 0 { hard + soft } else { 0 };
        ticks += idle + waiting + interrupts;
    }
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_a_second))
}
