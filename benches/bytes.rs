//! Benchmarks the work that is done on every byte in user space: the server's conversion to upper
//! case, and how the load generator fills a payload and checks a reply. Results are bytes per
//! second for the sizes of a small message, of a segment and of full reads.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use upcase::echo::convert;
use upcase::load::plan::payload::{Content, Payload};

const SIZES: [usize; 4] = [64, 1448, 64 * 1024, 256 * 1024];

fn bytes(criterion: &mut Criterion) {
    let payload = Payload::new(&Content::Text, 1, 64);
    let source = payload.source(7);
    let mut group = criterion.benchmark_group("bytes");
    for size in SIZES {
        let mut message = vec![0; size];
        payload.fill(source, 0, &mut message);
        let reply = message.to_ascii_uppercase();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("convert", size), |bencher| {
            bencher.iter(|| convert(black_box(&mut message[..])));
        });
        group.bench_function(BenchmarkId::new("fill", size), |bencher| {
            bencher.iter(|| payload.fill(source, black_box(0), &mut message));
        });
        group.bench_function(BenchmarkId::new("check", size), |bencher| {
            bencher.iter(|| payload.check(source, black_box(0), black_box(&reply)));
        });
    }
    group.finish();
}

criterion_group!(benches, bytes);
criterion_main!(benches);
