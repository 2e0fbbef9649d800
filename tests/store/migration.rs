//! Databases of earlier versions: brought to this one's shape at the start, whatever they hold, and equal to a new one then.

use crate::{ROUTES, sizes};
use rusqlite::{Connection, params};
use std::path::Path;
use tempfile::TempDir;
use tidegate::store::Store;
use tidegate::store::sqlite::open;
use tidegate::store::sqlite::reader::{Reader, Wanted};
use tidegate_engine::id::LetterId;
use tidegate_tests::store_contract::{insert, message, seqs};

/// Each version's schema, as it was released.
const SCHEMAS: [&str; 1] = [include_str!("schema/1.sql")];

/// A directory as version `number` left it, with one dead letter.
fn left_by(number: usize, dir: &Path) {
    std::fs::write(dir.join("lock"), "tidegate\n1\n").unwrap();
    std::fs::write(dir.join("epoch"), "7 3\n").unwrap();
    let db = Connection::open(dir.join("tidegate.db")).unwrap();
    db.execute_batch("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL;").unwrap();
    db.execute_batch(SCHEMAS[number - 1]).unwrap();
    db.pragma_update(None, "application_id", 0x5469_6465).unwrap();
    db.pragma_update(None, "user_version", number.cast_signed() as i64).unwrap();
    let m = message(3);
    db.execute(
        "INSERT INTO dead_letter (buried_ms, route, reason, seq, bytes, epoch, received_ms, synchronised, qos, retain,
                                  duplicate, source, device, topic, payload, checksum)
         VALUES (9, 'all', 'no route', 3, ?1, 7, ?2, 1, 1, 0, 0, 0, ?3, ?4, ?5, 0)",
        params![
            m.footprint().cast_signed(),
            m.received.unix_ms,
            m.device.as_str(),
            m.topic.as_str(),
            &m.payload[..]
        ],
    )
    .unwrap();
}

/// Every table with its columns, every index and view.
fn shape(dir: &Path) -> Vec<String> {
    let db = Connection::open(dir.join("tidegate.db")).unwrap();
    let mut shape = Vec::new();
    let mut objects = db
        .prepare("SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2")
        .unwrap();
    let objects = objects.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    for (kind, name) in objects.unwrap().map(Result::unwrap) {
        shape.push(format!("{kind} {name}"));
        let mut columns = db.prepare(&format!("PRAGMA table_xinfo({name})")).unwrap();
        let columns = columns.query_map([], |row| {
            Ok(format!(
                "  {:?} {:?} {:?} {:?} {:?}",
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, bool>(3)?,
                row.get::<_, Option<String>>(4)?,
                row.get::<_, i64>(5)?
            ))
        });
        shape.extend(columns.unwrap().map(Result::unwrap));
    }
    shape
}

#[test]
fn an_older_database_gets_the_shape_of_a_new_one_and_keeps_what_it_holds() {
    let new = TempDir::new().unwrap();
    drop(open(new.path(), ROUTES, sizes()).unwrap());
    for number in 1..=SCHEMAS.len() {
        let old = TempDir::new().unwrap();
        left_by(number, old.path());
        assert!(Reader::open(old.path()).is_err(), "what it cannot understand is not read");
        let mut opened = open(old.path(), ROUTES, sizes()).unwrap();
        assert!(opened.quarantined.is_none());
        assert_eq!(opened.epoch, 8);
        let lane = opened.lanes[0];
        opened.store.commit(&[insert(lane, 10)]).unwrap();
        assert_eq!(seqs(&mut opened.store, lane), [10]);
        assert_eq!(opened.store.letters(&[LetterId(1)], usize::MAX).unwrap().len(), 1);
        drop(opened);
        assert_eq!(shape(old.path()), shape(new.path()), "from version {number}");
        let letters = Reader::open(old.path()).unwrap().dead(&Wanted::default(), 0).unwrap().found;
        assert_eq!((letters.len(), letters[0].attempts, letters[0].first.is_some()), (1, 0, false));
        assert_eq!(letters[0].reason, "no route");
    }
}
