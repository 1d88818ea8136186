//! The machine on which this process runs: its name, kernel and CPUs.

use std::fs;
use std::thread;

use nix::sys::utsname::uname;

/// Returns the name of this host, uname(2).
pub fn name() -> String {
    let name = uname().map(|name| name.nodename().to_string_lossy().into_owned());
    name.unwrap_or_default()
}

/// Returns the name and the release of the kernel: `Linux 6.18.0`.
pub fn kernel() -> String {
    let kernel = uname().map(|name| {
        let (system, release) = (name.sysname(), name.release());
        format!("{} {}", system.to_string_lossy(), release.to_string_lossy())
    });
    kernel.unwrap_or_default()
}

/// Returns the model of the CPUs, proc_cpuinfo(5); `None` when the kernel does not name it, as on
/// most ARM machines.
pub fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, model) = fields.find(|(name, _)| name.trim() == "model name")?;
    Some(model.trim().to_string())
}

/// Returns the number of CPUs that this process may use.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name_a_kernel_and_a_cpu() {
        assert!(!name().is_empty());
        assert!(kernel().starts_with("Linux "));
        assert!(cpus() >= 1);
    }
}
