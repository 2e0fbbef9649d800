//! How fast the store commits, forgets and loads: rows/s for groups of several sizes, 128-byte payloads.
//! `cargo bench -p tidegate-tests --bench commit`; the data folder is in `TMPDIR`, which must be on the medium in question.

#![allow(clippy::unwrap_used, missing_docs)] // a benchmark may stop

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use tempfile::TempDir;
use tidegate::store::Store;
use tidegate::store::sqlite::{Opened, Sizes, open};
use tidegate_engine::event::Op;
use tidegate_engine::id::{LaneId, Seq};
use tidegate_engine::message::Message;
use tidegate_tests::store_contract::message_with;

const PAYLOAD_BYTES: usize = 128;

/// A store and a stream of messages for it.
struct Bench {
    opened: Opened,
    template: Message,
    next: u64,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let opened = open(dir.path(), &[("all", "cloud")], Sizes::for_spool(8 << 30)).unwrap();
        let template = (*message_with(0, &"x".repeat(PAYLOAD_BYTES))).clone();
        Self { opened, template, next: 1, _dir: dir }
    }

    fn lane(&self) -> LaneId {
        self.opened.lanes[0]
    }

    fn inserts(&mut self, rows: u64) -> Vec<Op> {
        let lane = self.lane();
        let first = self.next;
        self.next += rows;
        (first..self.next)
            .map(|n| {
                let mut message = self.template.clone();
                message.id.seq = Seq(n);
                Op::Insert { lane, message: Arc::new(message) }
            })
            .collect()
    }

    fn commit(&mut self, ops: &[Op]) {
        self.opened.store.commit(ops).unwrap();
        self.opened.store.upkeep(false);
    }
}

fn commits(criterion: &mut Criterion) {
    for (name, with_forgets) in [("insert", false), ("insert and forget", true)] {
        let mut group = criterion.benchmark_group(name);
        for rows in [1_u64, 10, 100, 1_000] {
            let mut bench = Bench::new();
            group.throughput(Throughput::Elements(rows)).bench_function(rows.to_string(), |b| {
                b.iter_custom(|times| {
                    let mut spent = std::time::Duration::ZERO;
                    for _ in 0..times {
                        let mut ops = bench.inserts(rows);
                        if with_forgets {
                            // What was inserted a moment ago leaves, as in a route that keeps up.
                            let last = bench.next.saturating_sub(rows + 1_000);
                            let lane = bench.lane();
                            ops.extend(
                                (last.saturating_sub(rows) + 1..=last)
                                    .map(|n| Op::Forget { lane, seq: Seq(n) }),
                            );
                        }
                        let start = std::time::Instant::now();
                        bench.commit(&ops);
                        spent += start.elapsed();
                    }
                    spent
                });
            });
        }
        group.finish();
    }
}

fn loads(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    for _ in 0..200 {
        let ops = bench.inserts(1_000);
        bench.commit(&ops);
    }
    let lane = bench.lane();
    let mut group = criterion.benchmark_group("load");
    for rows in [256_u64, 4_096] {
        group.throughput(Throughput::Elements(rows)).bench_function(rows.to_string(), |b| {
            let mut after = 0;
            b.iter_batched(
                || {
                    after = (after + rows) % 190_000;
                    Seq(after)
                },
                |after| {
                    let page = bench
                        .opened
                        .store
                        .load(lane, after, usize::try_from(rows).unwrap(), usize::MAX)
                        .unwrap();
                    assert_eq!(page.messages.len() as u64, rows);
                    page
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, commits, loads);
criterion_main!(benches);
