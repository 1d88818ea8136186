//! The plans of the runs: drawn at random, or a steady schedule.

use std::time::Duration;

use upcase::load::plan::payload::Content;
use upcase::load::plan::profile::{Level, Profile, Stage};
use upcase::load::plan::schedule::{Arrivals, Rate};
use upcase::load::plan::sizes::Sizes;
use upcase::load::plan::{Churn, Close, Pace, Pacing, Plan, Stop};

use crate::chance::Chance;

const PACINGS: [Pacing; 3] = [Pacing::Global, Pacing::FirstFree, Pacing::PerConnection];

pub fn plan(chance: &mut Chance) -> Plan {
    let duration = chance.microseconds(20_000, 300_000);
    let timeout = chance.one_in(3).then(|| Duration::from_millis(3));
    let open = chance.one_in(3);
    let total = chance.one_in(3);
    let pace = if open || chance.one_in(2) {
        let rates = ["333.3", "1000", "7777.7", "50000"];
        Pace::Open {
            rate: Rate::parse(rates[chance.below(4) as usize]).unwrap(),
            arrivals: [Arrivals::Constant, Arrivals::Poisson][chance.below(2) as usize],
            pacing: PACINGS[chance.below(3) as usize],
        }
    } else {
        let think = chance.microseconds(0, 2000);
        Pace::Closed {
            think: if chance.one_in(2) {
                think
            } else {
                Duration::ZERO
            },
        }
    };
    let stop = if total {
        Stop::Messages(chance.between(1, 500))
    } else {
        Stop::After(duration)
    };
    let churn = Churn {
        messages: chance.between(1, 10),
        close: [Close::Fin, Close::Rst][chance.below(2) as usize],
    };
    let target = |port: u64| format!("10.77.0.1:{}", 12_000 + port);
    let targets = match chance.one_in(3) {
        true => 0..chance.between(2, 4),
        false => 0..1,
    };
    Plan {
        targets: targets.map(|port| target(port).parse().unwrap()).collect(),
        // Few connections, so that a run is short; or more than fit into a group, or into its
        // buffer.
        connections: match chance.one_in(8) {
            true => chance.between(9, 80),
            false => chance.between(1, 8),
        } as u32,
        connect_rate: chance.one_in(4).then_some(1000),
        pace,
        depth: chance.between(1, 4) as u32,
        sizes: match chance.below(12) {
            0..4 => Sizes::Fixed(64),
            4 => Sizes::Fixed(8000),
            5..8 => Sizes::Uniform(1, 3000),
            _ => Sizes::Mixed(vec![(10, 90.0), (20_000, 10.0)]),
        },
        content: [Content::Text, Content::Bytes][chance.below(2) as usize].clone(),
        seed: chance.below(u64::MAX),
        warmup: if total || chance.one_in(2) {
            Duration::ZERO
        } else {
            duration / 4
        },
        drain: chance.microseconds(0, 50_000),
        timeout,
        churn: chance.one_in(3).then_some(churn),
        spin: chance.one_in(4),
        interval: chance.microseconds(10_000, 100_000),
        kernel_timestamps: chance.below(4) as u32,
        ..Plan::new(target(0).parse().unwrap(), stop)
    }
}

/// Returns the plan; if it has a schedule with a time, the rate becomes a ramp, a pause and a
/// constant rate.
pub fn in_stages(mut plan: Plan) -> Plan {
    let (
        Pace::Open {
            arrivals, pacing, ..
        },
        Stop::After(time),
    ) = (plan.pace, plan.stop)
    else {
        return plan;
    };
    let rates = [("0.5", "3000"), ("0", "0"), ("1500", "1500")];
    let stages = rates.map(|(from, to)| {
        let [from, to] = [from, to].map(|rate| Level::parse(rate).unwrap());
        Stage::new(from, to, time / 3).unwrap()
    });
    plan.set_rate(Profile::new(stages).unwrap().into(), arrivals, pacing);
    plan
}

/// Returns a schedule of 1,000 messages a second over a hundred connections.
pub fn steady(seconds: u64, pacing: Pacing) -> Plan {
    let stop = Stop::After(Duration::from_secs(seconds));
    Plan {
        connections: 100,
        pace: Pace::Open {
            rate: Rate::parse("1000").unwrap(),
            arrivals: Arrivals::Constant,
            pacing,
        },
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    }
}
