//! Whether this machine can carry a plan, asked before anything is started.

use std::fs;

use anyhow::bail;

use crate::process::{self, DESCRIPTOR_RESERVE, DESCRIPTORS_OF_A_REACTOR};

/// Raises the limit on descriptors as far as allowed, and refuses what needs more, or more local
/// ports than so many `pairs` of addresses have. `each`: the descriptors that a connection takes of
/// this process.
pub fn check(connections: u32, threads: u32, pairs: usize, each: u64) -> anyhow::Result<()> {
    check_descriptors(u64::from(connections), u64::from(threads), each)?;
    check_ports(u64::from(connections), pairs as u64)
}

fn check_descriptors(connections: u64, threads: u64, each: u64) -> anyhow::Result<()> {
    let limit = process::raise_descriptor_limit()?;
    let reactors = threads * DESCRIPTORS_OF_A_REACTOR;
    let others = process::open_descriptors() + DESCRIPTOR_RESERVE + reactors;
    let needed = connections * each + others;
    if needed > limit {
        let most = limit.saturating_sub(others) / each;
        let both_ends = match each {
            1 => "",
            _ => " (both ends are in this process; a server of its own would take half)",
        };
        bail!(
            "{connections} connections need {needed} descriptors{both_ends}, and the limit is \
             {limit} (RLIMIT_NOFILE): use --connections {most} or fewer, or raise it with \
             `ulimit -Hn {needed}`"
        );
    }
    Ok(())
}

/// Between two addresses and one port there are only as many connections as there are local ports.
fn check_ports(connections: u64, pairs: u64) -> anyhow::Result<()> {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let Some(ports) = fs::read_to_string(RANGE).ok().and_then(|text| ports(&text)) else {
        return Ok(());
    };
    if connections > ports * pairs {
        let needed = connections.div_ceil(ports);
        bail!(
            "{connections} connections need {needed} pairs of a local address and a target, of \
             {ports} ports each (sysctl net.ipv4.ip_local_port_range), and there are {pairs}: name \
             more with --source ADDR,ADDR,... or more targets"
        );
    }
    Ok(())
}

/// The size of a range written as `first last`.
fn ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse);
    let (first, last): (u64, u64) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_counts_both_of_its_ends() {
        assert_eq!(ports("32768\t60999\n"), Some(28232));
        assert_eq!(ports(""), None);
    }
}
