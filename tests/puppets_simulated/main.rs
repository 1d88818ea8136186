//! Tests the server's engine on the simulated kernel of `server_simulation/` with the scripted
//! clients of `common/puppets.txt`. `puppets.rs` plays the same scripts on the real kernel, so the
//! simulation cannot deviate from what it simulates.
//!
//! Each script is played first without disturbances, then many times with random ones. A failure
//! prints how to repeat it: `UPCASE_PUPPET=name` plays only the scripts whose name contains this,
//! `UPCASE_PUPPET_SEED=n` only with the disturbances of this seed.

#[path = "../common/mod.rs"]
mod common;
mod stage;
mod terms;
mod wire;

// The modules of the simulation, whose random choice of clients is not used.
#[path = "../server_simulation/chance.rs"]
mod chance;
#[allow(dead_code)]
#[path = "../server_simulation/clients.rs"]
mod clients;
#[allow(dead_code)]
#[path = "../server_simulation/kernel.rs"]
mod kernel;
#[allow(dead_code)]
#[path = "../server_simulation/neighbours.rs"]
mod neighbours;
#[allow(dead_code)]
#[path = "../server_simulation/rules.rs"]
mod rules;
#[allow(dead_code)]
#[path = "../server_simulation/run.rs"]
mod run;
#[allow(dead_code)]
#[path = "../server_simulation/swarm.rs"]
mod swarm;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use chance::Chance;
use common::puppet::Script;
use common::puppet::play::play;
use common::puppet::read::scripts;
use common::totals::Totals;
use run::{Ended, Simulation};
use stage::Model;
use terms::{Disturbances, read_arguments};

/// The environment variable that selects scripts by a part of their name.
const PUPPET: &str = "UPCASE_PUPPET";

/// The environment variable that selects a single seed.
const SEED: &str = "UPCASE_PUPPET_SEED";

/// Number of seeds with which each script is played.
const DISTURBANCES: u64 = 24;

const THREADS: usize = 2;

const SCRIPTS: &str = include_str!("../common/puppets.txt");

#[test]
fn every_puppet_ends_as_on_the_real_kernel() {
    play_all(&[None]);
}

#[test]
fn every_puppet_ends_so_in_any_weather() {
    let seed = std::env::var(SEED).ok();
    let seeds: Vec<Option<u64>> = match seed {
        Some(seed) => vec![Some(seed.parse().expect("a seed is a number"))],
        None => (0..DISTURBANCES).map(Some).collect(),
    };
    play_all(&seeds);
}

/// Plays each script without disturbances (`None`), or with those of each seed.
fn play_all(seeds: &[Option<u64>]) {
    let begun = Instant::now();
    let wanted = std::env::var(PUPPET).unwrap_or_default();
    let mut scripts = scripts(SCRIPTS).unwrap();
    assert!(scripts.len() >= 100, "{} scripts", scripts.len());
    scripts.retain(|script| script.name.contains(&wanted));
    let next = AtomicUsize::new(0);
    let (faults, sum) = (Mutex::new(Vec::new()), Mutex::new(Ended::default()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for &seed in seeds {
                        match perform(script, seed) {
                            Ok(ended) => *sum.lock().unwrap() += ended,
                            Err(fault) => faults.lock().unwrap().push(fault),
                        }
                    }
                }
            });
        }
    });
    let (faults, sum) = (faults.into_inner().unwrap(), sum.into_inner().unwrap());
    let plays = scripts.len() * seeds.len();
    let (events, seconds) = (sum.events.sum(), begun.elapsed().as_secs_f64());
    println!(
        "{plays} plays, {events} events in {seconds:.1} s; {}",
        sum.totals
    );
    let shown = faults.len().min(30);
    let count = faults.len();
    assert!(
        faults.is_empty(),
        "{count} faults:\n{}",
        faults[..shown].join("\n")
    );
}

/// Plays one script once; the error text says how to repeat it.
fn perform(script: &Script, seed: Option<u64>) -> Result<Ended, String> {
    let played = catch_unwind(AssertUnwindSafe(|| perform_once(script, seed)));
    let played = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>();
        Err(text.map_or("it panicked".to_string(), String::clone))
    });
    played.map_err(|fault| {
        let name = &script.name;
        let again = seed.map_or(String::new(), |seed| format!(" {SEED}={seed}"));
        format!(
            "{name}: {fault}\n  again: {PUPPET}={name}{again} cargo test --test puppets_simulated"
        )
    })
}

fn perform_once(script: &Script, seed: Option<u64>) -> Result<Ended, String> {
    let (mut limits, mut buffers) = read_arguments(&script.arguments)?;
    let mut chance = Chance::new(seed.unwrap_or_default());
    let disturbances = match seed {
        None => Disturbances::fair(),
        Some(_) => Disturbances::draw(&mut chance, script, &mut limits, &mut buffers),
    };
    let simulation = Simulation::new(1, limits, disturbances.faults.clone(), chance.clone());
    let mut model = Model::new(simulation, buffers, disturbances, chance);
    // After a failed script this unwinds: the simulation would report the abrupt end as the
    // server's fault.
    let played = play(script, &mut model).unwrap_or_else(|fault| resume_unwind(Box::new(fault)));
    let ended = model.finish();
    let totals: Totals = ended.totals.to_string().parse()?;
    script.judge(&played, &totals)?;
    Ok(ended)
}
