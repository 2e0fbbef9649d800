//! A process that the store's tests start, look at and kill. Not for people.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a test's other half: it talks on stdout and fails loudly

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use tidegate::store::Store;
use tidegate::store::sqlite::{Sizes, open};
use tidegate_engine::event::{Op, StoreFault};
use tidegate_engine::id::Seq;
use tidegate_tests::store_contract::message_with;
use tidegate_tests::store_history::History;

const ROUTES: &[(&str, &str)] = &[("all", "cloud")];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["commit", dir] => commit(Path::new(dir)),
        ["hold", dir] => hold(Path::new(dir)),
        ["fill", dir, rows] => fill(Path::new(dir), rows.parse().unwrap()),
        ["drain", dir] => drain(Path::new(dir)),
        ["full", dir] => full(Path::new(dir)),
        ref other => panic!("unknown order: {other:?}"),
    }
}

/// Says a line that the test is waiting for.
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// Commits for ever, and says the number of each commit after it is done.
fn commit(dir: &Path) {
    let mut opened = open(dir, ROUTES, Sizes { wal_bytes: 256 << 10, ..Sizes::for_spool(64 << 20) }).unwrap();
    let mut history = History::default();
    for n in 1_u64.. {
        opened.store.commit(&history.commit(opened.lanes[0])).unwrap();
        opened.store.upkeep(n % 7 == 0);
        say(format_args!("{n}"));
    }
}

/// Holds the directory until it is killed.
fn hold(dir: &Path) {
    let opened = open(dir, ROUTES, Sizes::for_spool(64 << 20)).unwrap();
    say(format_args!("open"));
    loop {
        std::thread::park();
        assert!(!opened.lanes.is_empty());
    }
}

/// Fills a directory with rows and waits to be killed, with what is in the WAL still in it.
fn fill(dir: &Path, rows: u64) {
    let mut opened = open(dir, ROUTES, Sizes::for_spool(1 << 30)).unwrap();
    let lane = opened.lanes[0];
    let payload = "x".repeat(128);
    for first in (1..=rows).step_by(4_000) {
        let ops: Vec<Op> = (first..(first + 4_000).min(rows + 1))
            .map(|n| Op::Insert { lane, message: message_with(n, &payload) })
            .collect();
        opened.store.commit(&ops).unwrap();
        opened.store.upkeep(false);
    }
    say(format_args!("filled"));
    loop {
        std::thread::park();
    }
}

/// Opens a directory, says what it found, how long that took in milliseconds and how much memory, in KiB; then reads, and says
/// how much memory that took.
fn drain(dir: &Path) {
    let start = Instant::now();
    let mut opened = open(dir, ROUTES, Sizes::for_spool(1 << 30)).unwrap();
    let took = start.elapsed().as_millis();
    let lane = opened.recovered.lanes[0];
    say(format_args!("{} {} {took} {}", lane.rows, lane.last.0, peak_kib()));
    let (mut after, mut rows) = (Seq(0), 0);
    loop {
        let page = opened.store.load(opened.lanes[0], after, 256, 1 << 20).unwrap();
        let Some(upto) = page.upto else { break };
        let forget: Vec<Op> =
            page.messages.iter().map(|m| Op::Forget { lane: opened.lanes[0], seq: m.id.seq }).collect();
        if rows < 100_000 {
            opened.store.commit(&forget).unwrap();
            opened.store.upkeep(false);
        }
        rows += page.messages.len();
        after = upto;
    }
    say(format_args!("{rows} {}", peak_kib()));
}

/// Runs a store on a medium of 8 MiB that it and somebody else fill.
fn full(medium: &Path) {
    const BALLAST_BYTES: u64 = 1 << 20;
    let dir = medium.join("data");
    let sizes = Sizes { file_bytes: 1 << 30, wal_bytes: 256 << 10, ballast_bytes: BALLAST_BYTES };
    let held_back = || std::fs::metadata(dir.join("ballast")).unwrap().len();
    let others = medium.join("somebody-elses");
    std::fs::write(&others, vec![0; 2 << 20]).unwrap();

    let mut opened = open(&dir, ROUTES, sizes).unwrap();
    let lane = opened.lanes[0];
    assert_eq!(held_back(), BALLAST_BYTES);
    let payload = "x".repeat(1_000);
    let mut next = 0;
    let mut waiting = VecDeque::new();
    for round in 0..6 {
        // Until it is full...
        loop {
            let seqs: Vec<u64> = (next + 1..=next + 20).collect();
            next += 20;
            let ops: Vec<Op> =
                seqs.iter().map(|n| Op::Insert { lane, message: message_with(*n, &payload) }).collect();
            match opened.store.commit(&ops) {
                Ok(()) => waiting.extend(seqs),
                Err(StoreFault::Full) => break,
                Err(other) => panic!("{other:?}"),
            }
            opened.store.upkeep(false);
        }
        assert_eq!(held_back(), 0, "it is needed now");
        assert!(waiting.len() > 1_500, "full in round {round} with {} rows", waiting.len());
        // ...somebody else takes what is left...
        let mut rest = std::fs::OpenOptions::new().append(true).open(&others).unwrap();
        while rest.write_all(&[0; 4_096]).is_ok() {}
        // ...the gateway is started again...
        if round % 2 == 1 {
            drop(opened);
            opened = open(&dir, ROUTES, sizes).unwrap();
            assert_eq!(opened.recovered.lanes[0].rows, waiting.len() as u64);
        }
        // ...and what waits can leave all the same.
        while waiting.len() > 200 {
            let ops: Vec<Op> = waiting.drain(..50).map(|n| Op::Forget { lane, seq: Seq(n) }).collect();
            opened.store.commit(&ops).unwrap();
            opened.store.upkeep(false);
        }
        say(format_args!("round {round}: emptied"));
    }
    std::fs::remove_file(&others).unwrap();
    let start = Instant::now();
    while held_back() != BALLAST_BYTES {
        assert!(start.elapsed().as_secs() < 20, "the room is not taken back");
        next += 1;
        match opened.store.commit(&[Op::Insert { lane, message: message_with(next, "") }]) {
            Ok(()) => waiting.push_back(next),
            // It asks once a second; until then only the room in the file is used.
            Err(fault) => assert_eq!(fault, StoreFault::Full),
        }
        opened.store.upkeep(false);
    }
    drop(opened);
    let mut opened = open(&dir, ROUTES, sizes).unwrap();
    let found = tidegate_tests::store_contract::seqs(&mut opened.store, lane);
    assert!(found.iter().eq(waiting.iter()), "{} rows are there, {} should be", found.len(), waiting.len());
    say(format_args!("well"));
}

/// The most memory that this process had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
