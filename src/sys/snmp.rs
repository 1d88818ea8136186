//! TCP counters of this host in /proc/net/snmp, see proc_net(5).

use std::fs;

/// Returns the number of segments that TCP retransmitted in the network namespace of this process
/// since it exists: RetransSegs (RFC 4022). `None` when the kernel does not report it.
pub fn segments_resent() -> Option<u64> {
    counter(
        &fs::read_to_string("/proc/self/net/snmp").ok()?,
        "RetransSegs",
    )
}

/// Returns a counter of TCP: a line of names is followed by a line of their values.
fn counter(snmp: &str, name: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut counters = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = counters.find(|(known, _)| *known == name)?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: MaxConn RetransSegs InErrs\nTcp: -1 7 0\n";
        assert_eq!(counter(text, "RetransSegs"), Some(7));
        assert_eq!(counter(text, "MaxConn"), None);
        assert_eq!(counter(text, "Nothing"), None);
        assert_eq!(counter("Tcp: A\n", "A"), None);
        assert!(segments_resent().is_some());
    }
}
