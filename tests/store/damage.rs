//! The medium damages what it holds: single rows, records, the file.

use crate::{ROUTES, sizes};
use rusqlite::{Connection, params};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tidegate::store::Store;
use tidegate::store::sqlite::{Opened, open};
use tidegate_engine::event::{Op, RecordKey, RecordKind, StoreFault};
use tidegate_engine::id::Seq;
use tidegate_tests::store_contract::{insert, message_with, seqs};

fn reopen(dir: &Path) -> Opened {
    open(dir, ROUTES, sizes()).unwrap()
}

fn sql(dir: &Path) -> Connection {
    Connection::open(dir.join("tidegate.db")).unwrap()
}

#[test]
fn a_change_in_any_column_is_noticed_and_the_row_moved_away() {
    let changes = [
        "bytes = bytes + 1",
        "epoch = epoch + 1",
        "received_ms = 0",
        "synchronised = 1 - synchronised",
        "qos = 2",
        "retain = 1",
        "duplicate = 1",
        "source = 1",
        "device = 'dev-9'",
        "device = ''",
        "topic = topic || 'x'",
        "topic = CAST(x'FF' AS TEXT)",
        "properties = x'01'",
        "payload = x''",
        "payload = CAST(payload || x'00' AS BLOB)",
        "checksum = checksum + 1",
        "checksum = -1",
        "device = 'dev-', topic = '1' || topic",
        "key = key + 1000",
    ];
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let lane = opened.lanes[0];
    let rows = changes.len() as u64;
    // Every second row is damaged.
    opened.store.commit(&(1..=2 * rows).map(|n| insert(lane, n)).collect::<Vec<_>>()).unwrap();
    drop(opened);
    let db = sql(dir.path());
    for (n, change) in (1_i64..).step_by(2).zip(changes) {
        let key = i64::from(lane.0) << 48 | n;
        let changed =
            db.execute(&format!("UPDATE message SET {change} WHERE key = ?1"), params![key]).unwrap();
        assert_eq!(changed, 1, "{change}");
    }
    drop(db);

    let mut opened = reopen(dir.path());
    let page = opened.store.load(lane, Seq(0), 10_000, usize::MAX).unwrap();
    let found: Vec<u64> = page.messages.iter().map(|m| m.id.seq.0).collect();
    assert_eq!(found, (2..=2 * rows).step_by(2).collect::<Vec<_>>());
    assert_eq!(page.damaged, rows);
    assert_eq!(page.upto, Some(Seq(1_000 + 2 * rows - 1)), "damaged rows are looked at too");
    // They are kept for whoever wants to look, and no longer in the way.
    assert_eq!(seqs(&mut opened.store, lane), found);
    drop(opened);
    let kept: i64 =
        sql(dir.path()).query_row("SELECT count(*) FROM damaged_message", [], |row| row.get(0)).unwrap();
    assert_eq!(kept.cast_unsigned(), rows);
    assert_eq!(reopen(dir.path()).recovered.lanes[0].rows, rows);
}

#[test]
fn a_flipped_bit_in_the_file_is_noticed() {
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let lane = opened.lanes[0];
    let ops: Vec<Op> =
        (1..=3).map(|n| Op::Insert { lane, message: message_with(n, &format!("needle-{n}")) }).collect();
    opened.store.commit(&ops).unwrap();
    drop(opened);
    let path = dir.path().join("tidegate.db");
    let mut file = fs::read(&path).unwrap();
    let at = file.windows(8).position(|w| w == b"needle-2").unwrap();
    file[at + 3] ^= 0x10;
    fs::write(&path, file).unwrap();
    let mut opened = reopen(dir.path());
    let page = opened.store.load(lane, Seq(0), 10, usize::MAX).unwrap();
    assert_eq!(page.messages.iter().map(|m| m.id.seq.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!((page.damaged, page.upto), (1, Some(Seq(3))));
}

#[test]
fn a_page_of_nothing_but_damage_still_leads_on() {
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let lane = opened.lanes[0];
    opened.store.commit(&(1..=10).map(|n| insert(lane, n)).collect::<Vec<_>>()).unwrap();
    drop(opened);
    sql(dir.path()).execute("UPDATE message SET checksum = 0 WHERE key & 255 < 9", []).unwrap();
    let mut opened = reopen(dir.path());
    let page = opened.store.load(lane, Seq(0), 4, usize::MAX).unwrap();
    assert_eq!((page.messages.len(), page.damaged, page.upto), (0, 4, Some(Seq(4))));
    assert_eq!(opened.store.load(lane, Seq(4), 100, usize::MAX).unwrap().damaged, 4);
    assert_eq!(seqs(&mut opened.store, lane), [9, 10]);
}

#[test]
fn a_damaged_record_is_moved_away_and_counted() {
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let put = |name: &'static str| Op::Put {
        key: RecordKey { kind: RecordKind::Session, key: name.into() },
        value: "state".into(),
    };
    opened.store.commit(&[put("a"), put("b"), put("c")]).unwrap();
    drop(opened);
    sql(dir.path()).execute("UPDATE record SET value = x'00' WHERE key = x'62'", []).unwrap();
    let opened = reopen(dir.path());
    let keys: Vec<_> = opened.recovered.records.iter().map(|(key, _)| key.key.clone()).collect();
    assert_eq!((keys, opened.damaged_records), (vec!["a".into(), "c".into()], 1));
    drop(opened);
    assert_eq!(reopen(dir.path()).damaged_records, 0);
}

#[test]
fn a_file_of_garbage_goes_to_quarantine_and_the_gateway_goes_on() {
    let dir = TempDir::new().unwrap();
    let first = reopen(dir.path()).epoch;
    let path = dir.path().join("tidegate.db");
    for round in 0..3 {
        let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n * 31 + round) as u8).collect();
        fs::write(&path, &garbage).unwrap();
        fs::write(dir.path().join("tidegate.db-wal"), b"not a wal").unwrap();
        let mut opened = reopen(dir.path());
        let kept = opened.quarantined.unwrap();
        assert!(kept.starts_with(dir.path().join("quarantine")));
        assert_eq!(fs::read(kept.join("tidegate.db")).unwrap(), garbage, "as it was");
        assert_eq!(fs::read(kept.join("tidegate.db-wal")).unwrap(), b"not a wal");
        assert_eq!(opened.epoch, first + 1 + u64::from(round));
        opened.store.commit(&[insert(opened.lanes[0], opened.recovered.last.0 + 1)]).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 3);
    assert_eq!(reopen(dir.path()).quarantined, None);
}

#[test]
fn damage_to_any_table_that_the_start_reads_goes_to_quarantine() {
    for table in ["sqlite_schema", "meta", "lane", "record"] {
        let dir = TempDir::new().unwrap();
        drop(reopen(dir.path()));
        let db = sql(dir.path());
        let root: i64 = match table {
            "sqlite_schema" => 1,
            _ => db
                .query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0))
                .unwrap(),
        };
        drop(db);
        let path = dir.path().join("tidegate.db");
        let mut file = fs::read(&path).unwrap();
        let page = (usize::try_from(root).unwrap() - 1) * 4_096;
        // Behind the file's header, where the page's own begins.
        let header = if root == 1 { 100 } else { 0 };
        file[page + header..page + 4_096].fill(0xEE);
        fs::write(&path, &file).unwrap();
        let mut opened = reopen(dir.path());
        assert!(opened.quarantined.is_some(), "{table}");
        opened.store.commit(&[insert(opened.lanes[0], opened.recovered.last.0 + 1)]).unwrap();
    }
}

#[test]
fn damage_met_while_running_is_said_and_the_next_start_begins_afresh() {
    let dir = TempDir::new().unwrap();
    let mut opened = reopen(dir.path());
    let lane = opened.lanes[0];
    let payload = "x".repeat(1_000);
    let ops: Vec<Op> = (1..=500).map(|n| Op::Insert { lane, message: message_with(n, &payload) }).collect();
    opened.store.commit(&ops).unwrap();
    drop(opened);
    let path = dir.path().join("tidegate.db");
    let mut file = fs::read(&path).unwrap();
    let middle = file.len() / 2 / 4_096 * 4_096;
    file[middle..middle + 4_096].fill(0xEE);
    fs::write(&path, &file).unwrap();

    let mut opened = reopen(dir.path());
    assert!(opened.quarantined.is_none());
    assert_eq!(opened.recovered.lanes[0].rows, 500, "counting does not read rows");
    let fault = opened.store.load(lane, Seq(0), 500, usize::MAX).unwrap_err();
    assert!(matches!(&fault, StoreFault::Failed(text) if text.contains("quarantine")), "{fault:?}");
    drop(opened);
    let opened = reopen(dir.path());
    assert!(opened.quarantined.is_some());
    drop(opened);
    assert_eq!(reopen(dir.path()).quarantined, None);
}
