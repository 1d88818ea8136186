//! The server's last line, read back: who was accepted, how each client ended, how many bytes.

use std::collections::BTreeMap;
use std::str::FromStr;

/// `accepted 3, closed 3 (finished 2, reset 1), 120 bytes in, 120 bytes out`. What may stand behind
/// that is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub accepted: u64,
    /// Clients by the reason for their end; only reasons that occurred.
    pub closed: BTreeMap<String, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Totals {
    /// How many clients ended for this reason.
    pub fn closed(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or(0)
    }

    /// Whether every client that was accepted has ended for a reason, and no byte came from
    /// nowhere.
    pub fn balance(&self) -> bool {
        self.accepted == self.closed.values().sum::<u64>() && self.bytes_out <= self.bytes_in
    }
}

impl FromStr for Totals {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        read(line).ok_or_else(|| format!("these are no totals: {line}"))
    }
}

fn read(line: &str) -> Option<Totals> {
    let (accepted, rest) = line.strip_prefix("accepted ")?.split_once(", closed ")?;
    let (ended, rest) = rest.split_at(rest.find([' ', ','])?);
    let ended: u64 = ended.parse().ok()?;
    let (reasons, rest) = match rest.strip_prefix(" (") {
        Some(rest) => rest.split_once(')')?,
        None => ("", rest),
    };
    let closed: Option<BTreeMap<String, u64>> = reasons
        .split(", ")
        .filter(|reason| !reason.is_empty())
        .map(|reason| {
            let (name, count) = reason.rsplit_once(' ')?;
            Some((name.to_string(), count.parse().ok()?))
        })
        .collect();
    let closed = closed?;
    if closed.values().sum::<u64>() != ended {
        return None;
    }
    let (bytes_in, rest) = rest.strip_prefix(", ")?.split_once(" bytes in, ")?;
    let (bytes_out, _) = rest.split_once(" bytes out")?;
    Some(Totals {
        accepted: accepted.parse().ok()?,
        closed,
        bytes_in: bytes_in.parse().ok()?,
        bytes_out: bytes_out.parse().ok()?,
    })
}
