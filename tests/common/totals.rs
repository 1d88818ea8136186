//! Parses the server's last line, the totals: connections accepted and closed by reason, and bytes.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The totals of a line such as `accepted 3, closed 3 (finished 2, reset 1), 1,200 bytes in, 1 byte
/// out`. Any text after that is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub accepted: u64,
    /// Number of clients for each reason of closing; only reasons that occurred.
    pub closed: BTreeMap<String, u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Totals {
    /// Returns how many clients were closed for this reason.
    pub fn closed(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or(0)
    }

    /// Returns whether every accepted client was closed for a reason, and no more bytes were sent
    /// than received.
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
    let (ended, rest) = match rest.split_once(" (") {
        Some((ended, rest)) => (ended, rest),
        None => rest.split_once(", ")?,
    };
    let ended = number(ended)?;
    let (reasons, rest) = match rest.split_once("), ") {
        Some((reasons, rest)) => (reasons, rest),
        None => ("", rest),
    };
    let closed: Option<BTreeMap<String, u64>> = reasons
        .split(", ")
        .filter(|reason| !reason.is_empty())
        .map(|reason| {
            let (name, count) = reason.rsplit_once(' ')?;
            Some((name.to_string(), number(count)?))
        })
        .collect();
    let closed = closed?;
    if closed.values().sum::<u64>() != ended {
        return None;
    }
    let (bytes_in, rest) = rest.split_once(" in, ")?;
    let (bytes_out, _) = rest.split_once(" out")?;
    Some(Totals {
        accepted: number(accepted)?,
        closed,
        bytes_in: bytes(bytes_in)?,
        bytes_out: bytes(bytes_out)?,
    })
}

/// Parses a number of bytes: `1 byte`, `1,200 bytes`.
fn bytes(text: &str) -> Option<u64> {
    let (count, noun) = text.split_once(' ')?;
    let count = number(count)?;
    let right = if count == 1 { "byte" } else { "bytes" };
    (noun == right).then_some(count)
}

/// Parses a number whose thousands are separated by commas: `1,200`.
pub fn number(text: &str) -> Option<u64> {
    let mut groups = text.split(',');
    let first = groups.next()?;
    let right = groups.all(|group| group.len() == 3) && (1..=3).contains(&first.len());
    right.then(|| text.replace(',', "").parse().ok())?
}
