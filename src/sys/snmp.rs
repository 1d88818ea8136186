//! Counters of this host in the tables of /proc/net, see proc_net(5): a line of names is followed
//! by a line of their values, and both begin with the name of the table.

use std::fs;

/// Returns the number of segments that TCP retransmitted in the network namespace of this process
/// since it exists: RetransSegs (RFC 4022). `None` when the kernel does not report it.
pub fn segments_resent() -> Option<u64> {
    let snmp = fs::read_to_string("/proc/self/net/snmp").ok()?;
    counter(&snmp, "Tcp:", "RetransSegs")
}

/// Returns a counter of a table by its name.
pub fn counter(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(table));
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
        assert_eq!(counter(text, "Tcp:", "RetransSegs"), Some(7));
        assert_eq!(counter(text, "Tcp:", "MaxConn"), None);
        assert_eq!(counter(text, "Tcp:", "Nothing"), None);
        assert_eq!(counter("Tcp: A\n", "Tcp:", "A"), None);
        assert!(segments_resent().is_some());
    }
}
