//! What an event costs in the pure core: nanoseconds per byte and per event. `cargo bench -p sse-proxy`
#![allow(missing_docs, reason = "what the benchmark harness generates has none")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sse_proxy::sse::Boundary;
use sse_proxy::stream::{Framing, Millis, Opening, Pair, Policy};
use sse_proxy::wire::body::Body;
use sse_proxy::wire::chunked::{self, Decoder, Piece};

/// An event with this many bytes of data.
fn event(data_bytes: usize) -> Vec<u8> {
    format!("id: 1234567\nevent: tick\ndata: {}\n\n", "x".repeat(data_bytes)).into_bytes()
}

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("boundary scan");
    for size in SIZES {
        let event = event(size);
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &event, |bencher, event| {
            let mut boundary = Boundary::default();
            bencher.iter(|| boundary.scan(black_box(event)));
        });
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk decode");
    for size in SIZES {
        let mut wire = Vec::new();
        chunked::encode(&event(size), &mut wire);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &wire, |bencher, wire| {
            let mut decoder = Decoder::default();
            bencher.iter(|| {
                let mut input = black_box(wire.as_slice());
                while let Ok(Some(Piece::Data(data))) = decoder.next(&mut input) {
                    black_box(data);
                }
            });
        });
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk encode");
    for size in SIZES {
        let event = event(size);
        let mut out = Vec::with_capacity(2 * event.len());
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(size), &event, |bencher, event| {
            bencher.iter(|| {
                out.clear();
                chunked::encode(black_box(event), &mut out);
            });
        });
    }
}

/// A read from the upstream to the bytes for the client: decode, scan, deadlines, encode.
fn pass(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event through the core");
    for size in SIZES {
        let mut wire = Vec::new();
        chunked::encode(&event(size), &mut wire);
        let opening = Opening {
            policy: Arc::new(Policy::default()),
            body: Body::Chunked(Decoder::default()),
            framing: Framing::Chunked,
            identity: true,
            random: 0.5,
            lifetime: None,
        };
        let mut pair = Pair::new(opening, Millis(0));
        let mut out = Vec::with_capacity(2 * wire.len());
        let mut now = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::from_parameter(size), &wire, |bencher, wire| {
            bencher.iter(|| {
                now += 1;
                out.clear();
                let progress = pair.upstream_data(black_box(wire), Millis(now), &mut out);
                pair.wrote(true, false, Millis(now));
                progress
            });
        });
    }
}

criterion_group!(benches, scan, decode, encode, pass);
criterion_main!(benches);
