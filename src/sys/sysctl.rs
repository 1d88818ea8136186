//! Settings of the kernel: the files under /proc/sys, proc_sys(5).

use std::fs;
use std::path::Path;

/// Returns the value of a setting such as `net.ipv4.ip_local_port_range`, without its line end;
/// `None` when this kernel does not have it, or it cannot be read.
pub fn read(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let value = fs::read_to_string(path).ok()?;
    Some(value.trim().to_string())
}

/// Returns the value of a setting that is one number.
pub fn read_number(name: &str) -> Option<u64> {
    read(name)?.parse().ok()
}
