//! Benchmarks the cost of TCP_NOTSENT_LOWAT: throughput, and the server's CPU time per byte, for
//! several values compared with none, under three loads.
//!
//! All servers run at the same time and are loaded one after the other, in another order in each
//! round. Ratios are computed within a round, because the speed of the machine drifts.

#[path = "../tests/common/mod.rs"]
mod common;

use common::ratio::Median;
use common::{Serve, run};

const VALUES: [&str; 6] = ["off", "16KiB", "64KiB", "128KiB", "256KiB", "512KiB"];
const LOADS: [(&str, &str); 3] = [
    ("4 x 1 MiB", "--connections 4 --size 1MiB"),
    ("100 x 16 KiB", "--connections 100 --size 16KiB"),
    ("1000 x 64 B", "--connections 1000 --size 64"),
];
const ROUNDS: usize = 11;

fn main() {
    let servers = VALUES.map(|value| Serve::start(&format!("-q --notsent-lowat {value}")));
    for (name, arguments) in LOADS {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut figures = [(0.0, 0.0); VALUES.len()];
            for place in 0..VALUES.len() {
                let value = (place + round) % VALUES.len();
                figures[value] = measure(&servers[value], arguments);
            }
            rounds.push(figures);
        }
        let plain: Vec<f64> = rounds.iter().map(|figures| figures[0].0 / 1e6).collect();
        println!(
            "{name}: {:.0} MB/s without it",
            Median::of(&plain).expect("enough rounds")
        );
        for (value, size) in VALUES.iter().enumerate().skip(1) {
            let ratio = |part: fn(&(f64, f64)) -> f64| {
                let ratios = rounds.iter().map(|it| part(&it[value]) / part(&it[0]));
                Median::of(&ratios.collect::<Vec<_>>()).expect("enough rounds")
            };
            println!(
                "  {size:>7}: throughput {:.3}, server's CPU a byte {:.3}",
                ratio(|figures| figures.0),
                ratio(|figures| figures.1)
            );
        }
    }
}

/// Returns bytes per second, and the server's clock ticks per byte.
fn measure(server: &Serve, arguments: &str) -> (f64, f64) {
    let ticks = server.process.cpu_ticks();
    let arguments = format!(
        "load {} {arguments} --duration 1s --format json -q \
         --allow client-bound,server-bound,network-bound,failed",
        server.address()
    );
    let report = run(&arguments).expect(0).json();
    let ticks = server.process.cpu_ticks() - ticks;
    let rate = report["bytes_per_second"].as_f64().expect("a number");
    let bytes = rate * report["elapsed_s"].as_f64().expect("a number");
    (rate, ticks as f64 / bytes)
}
