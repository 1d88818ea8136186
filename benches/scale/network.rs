//! A network namespace for one benchmark: it has only a loopback interface, and its sysctls can be
//! set without a change to the machine's. It is removed when it is dropped. Namespaces that a
//! killed benchmark left behind are removed by the next one.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

const PREFIX: &str = "upcase-scale-";

/// The sysctls that are set in the namespace, for many connections between few addresses.
pub const SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.core.somaxconn", "65535"),
    ("net.ipv4.tcp_max_syn_backlog", "65535"),
];

/// The namespace.
#[derive(Debug)]
pub struct Network {
    name: String,
}

impl Network {
    /// Creates the namespace; this needs root.
    pub fn build() -> anyhow::Result<Network> {
        sweep();
        let name = format!("{PREFIX}{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let network = Network { name };
        ip(&["-n", &network.name, "link", "set", "lo", "up"])?;
        for (key, value) in SYSCTLS {
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            let script = format!("echo {value} > {path}");
            ip(&["netns", "exec", &network.name, "sh", "-c", &script])
                .with_context(|| format!("cannot set {key} to {value}"))?;
        }
        Ok(network)
    }

    /// Returns a command that runs the program in the namespace. The process is replaced by the
    /// program, so its id is that of the program.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("no `ip` (package iproute2)")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), text.trim());
    }
    Ok(())
}

/// Removes the namespaces of benchmarks that no longer run.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX);
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
