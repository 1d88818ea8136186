//! The loads that the servers are compared under.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;

/// A load: a number of connections, each with a number of messages of one size in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Connections at the same time.
    pub connections: usize,
    /// Bytes of a message.
    pub bytes: usize,
    /// Messages in flight on a connection.
    pub depth: usize,
    /// Whether every message has a connection of its own, which is opened before the message and
    /// closed in order after the reply.
    pub churn: bool,
}

const KIB: usize = 1024;

/// All cases of the comparison.
pub const ALL: [Case; 8] = [
    steady(1, 64, 1),
    steady(100, 64, 1),
    steady(1000, 64, 1),
    steady(10_000, 64, 1),
    steady(1000, 64, 16),
    steady(100, 16 * KIB, 1),
    steady(4, KIB * KIB, 1),
    Case {
        churn: true,
        ..steady(64, 64, 1)
    },
];

/// Returns a case whose connections stay open.
pub const fn steady(connections: usize, bytes: usize, depth: usize) -> Case {
    Case {
        connections,
        bytes,
        depth,
        churn: false,
    }
}

/// Formats the case as it is named on the command line: `1000x64x1`, or `64x64x1-churn`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            connections,
            bytes,
            depth,
            churn,
        } = self;
        let churn = if *churn { "-churn" } else { "" };
        write!(f, "{connections}x{bytes}x{depth}{churn}")
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Case> {
        let (numbers, churn) = match text.strip_suffix("-churn") {
            Some(numbers) => (numbers, true),
            None => (text, false),
        };
        let numbers: Vec<usize> = numbers
            .split('x')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("a case is CONNECTIONSxBYTESxDEPTH, and -churn")?;
        let [connections, bytes, depth] = numbers[..] else {
            anyhow::bail!("a case is CONNECTIONSxBYTESxDEPTH, and -churn");
        };
        Ok(Case {
            connections,
            bytes,
            depth,
            churn,
        })
    }
}
