//! Runs the load generator in place of the bare client, with the same commands on standard input.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use upcase::load;
use upcase::load::plan::sizes::Sizes;
use upcase::load::plan::{Plan, Stop};

use crate::case::Case;
use crate::client::Report;

/// Carries out the commands on standard input until it ends. The load generator opens its
/// connections for every run; this is not part of the reported time.
pub fn run(target: SocketAddr, case: Case) -> anyhow::Result<()> {
    println!("ready");
    for line in io::stdin().lines() {
        let line = line?;
        let (milliseconds, messages) = line.split_once(' ').context("two numbers")?;
        let stop = match messages.parse()? {
            u64::MAX => Stop::After(Duration::from_millis(milliseconds.parse()?)),
            messages => Stop::Messages(messages),
        };
        let plan = Plan {
            connections: u32::try_from(case.connections)?,
            depth: u32::try_from(case.depth)?,
            sizes: Sizes::Fixed(case.bytes),
            ..Plan::new(target, stop)
        };
        let summary = load::run(plan, |_| {})?;
        let service = summary.results.service.distribution();
        let quantile = |q| {
            let found = service.as_ref().and_then(|it| it.percentile(q));
            found.map_or(Duration::ZERO, |it| it.value)
        };
        let report = Report {
            messages: summary.results.counts.verified,
            elapsed: summary.times.elapsed,
            cpu: summary.evidence.machine.cpu,
            p50: quantile(50.0),
            p99: quantile(99.0),
        };
        println!("{report}");
    }
    Ok(())
}
