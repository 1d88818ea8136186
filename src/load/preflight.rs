//! Checks that this machine can carry out a plan, before anything is started. A plan that does not
//! fit is refused with each limit that it exceeds, the limit's value and the command that raises
//! it; a plan that fits but will be slow gets a warning.

use anyhow::bail;

use crate::sys::descriptor_limit::{self, DESCRIPTOR_RESERVE, DESCRIPTORS_OF_A_REACTOR};
use crate::sys::sysctl;
use crate::units::{agreeing, counted, grouped};

/// The share of the local ports in use above which the kernel needs long to find a free one. From a
/// starting point that it chooses, connect(2) tries every second port, and the remaining ones only
/// when all of those are in use: with half of the ports taken an attempt tries thousands without
/// result, and connecting slows from 2,300 per second to 65.
const PORTS_IN_USE_SLOW: f64 = 0.5;

/// Numbers of addresses; connections are spread over all pairs of a target and a source.
#[derive(Clone, Copy, Debug)]
pub struct Routes {
    /// Number of servers; at least 1.
    pub targets: usize,
    /// Number of local addresses; at least 1, the one that the kernel chooses.
    pub sources: usize,
}

/// The limits on the number of descriptors.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// RLIMIT_NOFILE, the hard limit.
    process: u64,
    /// fs.nr_open, the largest value that RLIMIT_NOFILE may have; `None`: it cannot be read.
    nr_open: Option<u64>,
    /// fs.file-max, the limit for all processes together, which does not apply to root; `None`: it
    /// cannot be read.
    file_max: Option<u64>,
}

/// Raises the limit on descriptors as far as allowed. Returns an error when the plan needs more
/// descriptors, or more local ports than the pairs of addresses offer; returns a warning when the
/// ports suffice but connecting will be slow. `each`: the number of descriptors that a connection
/// takes in this process.
pub fn check(
    connections: u32,
    threads: u32,
    routes: Routes,
    each: u64,
) -> anyhow::Result<Option<String>> {
    let (connections, threads) = (u64::from(connections), u64::from(threads));
    let limits = Limits {
        process: descriptor_limit::raise_descriptor_limit()?,
        nr_open: sysctl::read_number("fs.nr_open"),
        file_max: sysctl::read_number("fs.file-max"),
    };
    let others = descriptor_limit::open_descriptors()
        + DESCRIPTOR_RESERVE
        + threads.saturating_mul(DESCRIPTORS_OF_A_REACTOR);
    if let Some(lack) = descriptor_shortage(connections, threads, each, others, limits) {
        bail!("{lack}");
    }
    let range = sysctl::read("net.ipv4.ip_local_port_range");
    let Some(ports) = range.and_then(|text| ports(&text)) else {
        return Ok(None);
    };
    if let Some(lack) = port_shortage(connections, routes, ports) {
        bail!("{lack}");
    }
    Ok(port_usage_warning(connections, routes, ports))
}

/// Returns why so many connections do not fit, and the remedy; `None` when they do fit. `others`:
/// the number of descriptors for other purposes than connections.
fn descriptor_shortage(
    connections: u64,
    threads: u64,
    each: u64,
    others: u64,
    limits: Limits,
) -> Option<String> {
    let needed = connections * each + others;
    let limit = limits.process;
    if needed <= limit {
        return None;
    }
    let both_ends = match each {
        1 => "",
        _ => " (both ends are in this process; a separate server would halve this)",
    };
    // A plan with fewer connections than threads would be refused as well.
    let fewer = match limit.saturating_sub(others) / each {
        most if most >= threads => format!("use --connections {most} or fewer, or "),
        _ if threads > 1 => "use fewer --threads, or ".to_string(),
        _ => String::new(),
    };
    let mut raise = String::new();
    for (name, value) in [
        ("fs.nr_open", limits.nr_open),
        ("fs.file-max", limits.file_max),
    ] {
        if let Some(value) = value.filter(|value| needed > *value) {
            raise += &format!("`sysctl -w {name}={needed}` (it is {value}), then ");
        }
    }
    Some(format!(
        "{} {} {}{both_ends}, and the limit is {} (RLIMIT_NOFILE): {fewer}raise it as root: \
         {raise}`ulimit -Hn {needed}`",
        counted(connections, "connection"),
        agreeing(connections, "needs", "need"),
        counted(needed, "descriptor"),
        grouped(limit),
    ))
}

/// Returns why the local ports do not suffice, and the remedy; `None` when they do. Each pair of a
/// local address and a target allows as many connections as there are local ports.
fn port_shortage(connections: u64, routes: Routes, ports: u64) -> Option<String> {
    let pairs = (routes.targets * routes.sources) as u64;
    if connections <= ports * pairs {
        return None;
    }
    let sources = connections.div_ceil(ports.max(1) * routes.targets as u64);
    Some(format!(
        "{} {} not fit into {} (sysctl net.ipv4.ip_local_port_range) for each pair of a local \
         address and a target: use {sources} addresses with --source ADDR,ADDR,... or more \
         targets",
        counted(connections, "connection"),
        agreeing(connections, "does", "do"),
        counted(ports, "local port"),
    ))
}

/// Returns a warning when so many ports will be in use that connecting is slow.
fn port_usage_warning(connections: u64, routes: Routes, ports: u64) -> Option<String> {
    let pairs = (routes.targets * routes.sources) as u64;
    let used = connections as f64 / (ports * pairs).max(1) as f64;
    if used < PORTS_IN_USE_SLOW {
        return None;
    }
    // The number of sources with which each pair has less than half of its ports in use.
    let least = (ports as f64 * PORTS_IN_USE_SLOW * routes.targets as f64).max(1.0);
    let sources = (connections as f64 / least).floor() as u64 + 1;
    Some(format!(
        "{} will use {:.0} % of the {} to a target (sysctl net.ipv4.ip_local_port_range): from \
         half on, the kernel needs long to find a free one, and connecting slows down; {sources} \
         addresses with --source ADDR,ADDR,... make it fast",
        counted(connections, "connection"),
        used * 100.0,
        counted(ports, "local port"),
    ))
}

/// Returns the size of a port range written as `first last`.
fn ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse);
    let (first, last): (u64, u64) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        process: 20_000,
        nr_open: Some(1_048_576),
        file_max: Some(9_000_000),
    };

    fn routes(targets: usize, sources: usize) -> Routes {
        Routes { targets, sources }
    }

    #[test]
    fn a_port_range_counts_both_of_its_ends() {
        assert_eq!(ports("32768\t60999\n"), Some(28232));
        assert_eq!(ports(""), None);
    }

    #[test]
    fn every_limit_in_the_way_is_named_with_its_value_and_the_line_that_raises_it() {
        assert_eq!(descriptor_shortage(9_978, 1, 2, 44, LIMITS), None);
        let lack = descriptor_shortage(9_979, 1, 2, 44, LIMITS).unwrap();
        assert!(lack.contains("--connections 9978 or fewer"), "{lack}");
        assert!(
            lack.ends_with("raise it as root: `ulimit -Hn 20002`"),
            "{lack}"
        );
        let lack = descriptor_shortage(1_000_000, 1, 2, 44, LIMITS).unwrap();
        let raise = "`sysctl -w fs.nr_open=2000044` (it is 1048576), then `ulimit -Hn 2000044`";
        assert!(lack.ends_with(raise), "{lack}");
        let lack = descriptor_shortage(9_500_000, 1, 1, 44, LIMITS).unwrap();
        assert!(
            lack.contains("`sysctl -w fs.file-max=9500044` (it is 9000000)"),
            "{lack}"
        );
    }

    #[test]
    fn no_advice_is_given_that_cannot_be_followed() {
        let narrow = Limits {
            process: 40,
            ..LIMITS
        };
        let lack = descriptor_shortage(10, 1, 2, 44, narrow).unwrap();
        assert!(!lack.contains("--connections 0"), "{lack}");
        assert!(!lack.contains("or fewer"), "{lack}");
        // Three connections would fit, but four threads need at least four.
        let narrow = Limits {
            process: 51,
            ..LIMITS
        };
        let lack = descriptor_shortage(10, 4, 2, 44, narrow).unwrap();
        assert!(lack.contains("use fewer --threads, or raise"), "{lack}");
    }

    #[test]
    fn the_sources_that_are_advised_suffice() {
        for (connections, targets, sources) in [(28_233, 1, 1), (100_000, 2, 1), (90_000, 1, 3)] {
            let lack = port_shortage(connections, routes(targets, sources), 28_232).unwrap();
            let before = lack.split(" addresses with --source").next().unwrap();
            let advised = before.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(advised > sources, "{lack}");
            assert_eq!(
                port_shortage(connections, routes(targets, advised), 28_232),
                None
            );
        }
    }

    #[test]
    fn half_of_the_ports_is_where_connecting_slows_down() {
        assert_eq!(port_usage_warning(14_115, routes(1, 1), 28_232), None);
        for (connections, targets, sources) in [(14_116, 1, 1), (28_232, 1, 1), (50_000, 2, 1)] {
            let hint = port_usage_warning(connections, routes(targets, sources), 28_232).unwrap();
            let before = hint.split(" addresses with --source").next().unwrap();
            let advised = before.rsplit(' ').next().unwrap().parse().unwrap();
            assert_eq!(
                port_usage_warning(connections, routes(targets, advised), 28_232),
                None
            );
        }
    }
}
