//! What is whole in a damaged database comes back, once, under its own id; what is not is reported.

use crate::{ROUTES, sizes};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tidegate::store::sqlite::{Opened, SqliteStore, open};
use tidegate::store::{Salvage, Store};
use tidegate_engine::event::{LossReason, Op, RecordKey, RecordKind};
use tidegate_engine::id::{LaneId, Seq};
use tidegate_tests::store_contract::{forget, insert, message_with, seqs};

const PAGE: usize = 4_096;

fn reopen(dir: &Path) -> Opened {
    open(dir, ROUTES, sizes()).unwrap()
}

/// A store of so many rows, closed.
fn filled(dir: &Path, rows: u64) -> LaneId {
    let mut opened = reopen(dir);
    let lane = opened.lanes[0];
    for first in (1..=rows).step_by(100) {
        let payload = |n: u64| format!("{n} {}", "x".repeat(200));
        let batch = first..(first + 100).min(rows + 1);
        let ops: Vec<Op> =
            batch.map(|n| Op::Insert { lane, message: message_with(n, &payload(n)) }).collect();
        opened.store.commit(&ops).unwrap();
    }
    let key = RecordKey { kind: RecordKind::Session, key: "client".into() };
    opened.store.commit(&[Op::Put { key, value: "state".into() }]).unwrap();
    lane
}

fn spoil(dir: &Path, page: usize) {
    let path = dir.join("tidegate.db");
    let mut file = fs::read(&path).unwrap();
    file[page * PAGE..(page + 1) * PAGE].fill(0xEE);
    fs::write(&path, file).unwrap();
}

/// Salvages to the end; gives how many messages are said to be lost.
fn salvage(store: &mut SqliteStore) -> u64 {
    let mut lost = 0;
    for _ in 0..10_000 {
        match store.salvage() {
            Salvage::More => {}
            Salvage::Lost(losses) => {
                assert!(losses.iter().all(|(loss, _)| loss.reason == LossReason::Damaged));
                lost += losses.iter().map(|(loss, _)| loss.count).sum::<u64>();
            }
            Salvage::Nothing | Salvage::Done(_) => return lost,
            Salvage::Later => panic!("salvaging does not go on"),
        }
    }
    panic!("salvaging does not end")
}

#[test]
fn what_is_whole_comes_back_and_what_is_not_is_counted() {
    let dir = TempDir::new().unwrap();
    let lane = filled(dir.path(), 2_000);
    spoil(dir.path(), 0); // Nothing of it can be opened any more,
    spoil(dir.path(), 30); // and some rows are gone.
    let mut opened = reopen(dir.path());
    assert!(opened.quarantined.is_some());
    let kept: Vec<_> =
        opened.recovered.records.iter().filter(|(key, _)| key.kind == RecordKind::Session).collect();
    assert_eq!(kept.len(), 1, "the session is there before anybody connects");
    let orphan = opened.orphans[0].clone();
    assert!(orphan.salvaged && orphan.route == "all" && orphan.upstream == "cloud");
    assert!(opened.recovered.lanes.is_empty(), "nothing is told of what is not complete");
    // New messages are taken meanwhile.
    let new = opened.recovered.last.0 + 1;
    opened.store.commit(&[insert(lane, new)]).unwrap();
    let lost = salvage(&mut opened.store);
    let found = seqs(&mut opened.store, orphan.lane);
    assert!((5..40).contains(&lost), "{lost}");
    assert_eq!(found.len() as u64 + lost, 2_000);
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]) && *found.last().unwrap() < new);
    assert_eq!(seqs(&mut opened.store, lane), [new]);
    assert_eq!((opened.progress.now().salvaged, opened.progress.now().lost), (found.len() as u64, lost));
    let report = fs::read_to_string(opened.quarantined.unwrap().join("report.txt")).unwrap();
    assert!(report.contains(&format!("{lost} of 2000 messages are lost")), "{report}");
}

#[test]
fn a_salvage_that_is_interrupted_goes_on_and_doubles_nothing() {
    let dir = TempDir::new().unwrap();
    filled(dir.path(), 3_000);
    spoil(dir.path(), 0);
    let mut told = 0;
    let mut opened = reopen(dir.path());
    loop {
        let step = opened.store.salvage();
        drop(opened);
        opened = reopen(dir.path());
        match step {
            // The note of a loss stays until the ledger has taken it; here nobody takes it.
            Salvage::Lost(losses) => told += losses.len(),
            Salvage::Nothing => break,
            _ => {}
        }
        assert!(told <= 1, "nothing was lost");
        if opened.recovered.lanes.iter().any(|state| state.rows == 3_000) {
            break; // Complete: the next start tells the engine as of any other lane.
        }
        // Two steps a life: taking the old database up and looking at some of it.
        opened.store.salvage();
    }
    let orphan = opened.orphans.iter().find(|orphan| orphan.salvaged).unwrap();
    assert_eq!(seqs(&mut opened.store, orphan.lane), (1..=3_000).collect::<Vec<_>>());
}

#[test]
fn what_left_before_the_damage_does_not_come_back() {
    let dir = TempDir::new().unwrap();
    let lane = filled(dir.path(), 1_000);
    let mut opened = reopen(dir.path());
    opened.store.commit(&(1..=900).map(|n| forget(lane, n)).collect::<Vec<_>>()).unwrap();
    drop(opened);
    // The schema: the list of free pages stands before it and stays.
    let path = dir.path().join("tidegate.db");
    let mut file = fs::read(&path).unwrap();
    file[100..PAGE].fill(0xEE);
    fs::write(&path, file).unwrap();
    let mut opened = reopen(dir.path());
    assert_eq!(salvage(&mut opened.store), 0);
    assert_eq!(seqs(&mut opened.store, opened.orphans[0].lane), (901..=1_000).collect::<Vec<_>>());
}

#[test]
fn a_wal_that_is_cut_is_noticed() {
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let lane = opened.lanes[0];
    for n in 1..=50 {
        opened.store.commit(&[insert(lane, n)]).unwrap();
    }
    // As a killed process leaves it.
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let wal = fs::OpenOptions::new().write(true).open(copy.path().join("tidegate.db-wal")).unwrap();
    wal.set_len(wal.metadata().unwrap().len() / 2).unwrap();
    let mut again = reopen(copy.path());
    assert!(again.quarantined.is_some());
    let lost = salvage(&mut again.store);
    let found = seqs(&mut again.store, again.orphans[0].lane);
    assert!(lost > 0 && found.len() as u64 + lost == 50, "{lost} {found:?}");
}

#[test]
fn damage_that_is_met_while_running_asks_for_a_new_start() {
    let dir = TempDir::new().unwrap();
    let lane = filled(dir.path(), 2_000);
    spoil(dir.path(), 40);
    let mut opened = reopen(dir.path());
    assert!(opened.quarantined.is_none(), "the start reads no rows");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    opened.store.when_damaged(move || _ = count.fetch_add(1, Ordering::Relaxed));
    assert!(opened.store.load(lane, Seq(0), 2_000, usize::MAX).is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    drop(opened);
    let mut opened = reopen(dir.path());
    assert!(opened.quarantined.is_some());
    let lost = salvage(&mut opened.store);
    assert_eq!(seqs(&mut opened.store, opened.orphans[0].lane).len() as u64 + lost, 2_000);
}

#[test]
fn of_salvaged_databases_the_newest_four_are_kept() {
    let dir = TempDir::new().unwrap();
    for _ in 0..7 {
        filled(dir.path(), 10);
        spoil(dir.path(), 0);
        let mut opened = reopen(dir.path());
        salvage(&mut opened.store);
        let lane = opened.orphans[0].lane;
        let all = seqs(&mut opened.store, lane);
        opened.store.commit(&all.iter().map(|n| forget(lane, *n)).collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 4);
}
