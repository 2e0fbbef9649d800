//! Opening: directories that are not ours to use, files that are not ours to touch, and what a fresh start leaves behind.

use crate::{ROUTES, child, sizes};
use rusqlite::Connection;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use tidegate::store::Store;
use tidegate::store::sqlite::{OpenError, open};
use tidegate_engine::event::Op;
use tidegate_engine::id::Seq;
use tidegate_tests::store_contract::{insert, seqs};

fn refusal(dir: &Path) -> OpenError {
    open(dir, ROUTES, sizes()).unwrap_err()
}

#[test]
fn a_missing_directory_is_made_for_nobody_else_to_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("var/lib/tidegate");
    drop(open(&path, ROUTES, sizes()).unwrap());
    for made in [&path, &dir.path().join("var")] {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
    }
    for file in ["lock", "epoch", "tidegate.db"] {
        assert_eq!(fs::metadata(path.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_second_instance_is_told_the_directory_and_who_has_it() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut other = child(&["hold", path]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let error = refusal(dir.path());
    let pid = other.id();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(matches!(error, OpenError::Busy { pid: Some(p), .. } if p == pid), "{error}");
    let text = error.to_string();
    assert!(text.contains(path) && text.contains(&pid.to_string()), "{text}");
    // The lock ends with its process, whatever stands in the file.
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
}

#[test]
fn two_stores_in_one_process_exclude_one_another_too() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path(), ROUTES, sizes()).unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Busy { .. }));
    drop(first);
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
}

#[test]
fn a_directory_with_foreign_content_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made there");
    // A lock file of somebody else does not make it ours.
    fs::write(dir.path().join("lock"), "apt").unwrap();
    assert!(matches!(refusal(dir.path()), OpenError::Foreign { .. }));
    assert_eq!(fs::read(dir.path().join("lock")).unwrap(), b"apt");
}

#[test]
fn an_empty_mount_point_and_a_start_that_was_cut_short_are_ours() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("lock"), "").unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
    // What other parts keep there later, and a lock file that somebody removed, change nothing.
    fs::write(dir.path().join("out.jsonl"), "{}").unwrap();
    fs::remove_file(dir.path().join("lock")).unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
}

#[test]
fn a_lock_file_that_a_power_cut_left_without_its_bytes_is_ours() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
    let lock = fs::read(dir.path().join("lock")).unwrap();
    fs::write(dir.path().join("lock"), vec![0; lock.len()]).unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
    assert_eq!(fs::read(dir.path().join("lock")).unwrap(), lock);
}

#[test]
fn a_directory_that_cannot_be_written_says_so() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(refusal(&file), OpenError::NotADirectory { .. }));
    // Below a file nothing can be made, whoever asks.
    let error = refusal(&file.join("data"));
    assert!(matches!(error, OpenError::Directory { .. }), "{error}");
    // Nor in /proc, not even by root.
    let link = dir.path().join("link");
    symlink("/proc/self/task", &link).unwrap();
    let error = refusal(&link.join("data"));
    assert!(error.to_string().contains("link/data"), "{error}");
}

#[test]
fn a_database_of_a_later_version_is_not_touched() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
    let path = dir.path().join("tidegate.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn another_programs_database_is_not_touched() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("lock"), "tidegate\n1\n").unwrap();
    let path = dir.path().join("tidegate.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE bookmark (url)").unwrap();
    let before = fs::read(&path).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::OtherDatabase { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_setting_that_does_not_hold_stops_the_start() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
    let path = dir.path().join("tidegate.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM").unwrap();
    drop(db);
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::Pragma { name: "page_size", .. }), "{error}");
}

#[test]
fn the_file_is_in_wal_mode_and_says_whose_it_is() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path(), ROUTES, sizes()).unwrap();
    // As an operator would, while the gateway runs.
    let db = Connection::open(dir.path().join("tidegate.db")).unwrap();
    let text = |name| {
        db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(text("journal_mode"), "wal".to_owned().into());
    assert_eq!(text("application_id"), 0x5469_6465_i64.into());
    assert_eq!(text("user_version"), 2_i64.into());
    assert_eq!(text("page_size"), 4_096_i64.into());
    drop(opened);
}

#[test]
fn people_can_read_what_waits_while_the_gateway_runs() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(dir.path(), ROUTES, sizes()).unwrap();
    let lane = opened.lanes[0];
    opened.store.commit(&[insert(lane, 1), insert(lane, 2)]).unwrap();
    let db = Connection::open(dir.path().join("tidegate.db")).unwrap();
    let mut select =
        db.prepare("SELECT route, seq, received, device, CAST(payload AS TEXT) FROM waiting").unwrap();
    let mut rows = select.query([]).unwrap();
    let row = rows.next().unwrap().unwrap();
    let column = |n| row.get::<_, rusqlite::types::Value>(n).unwrap();
    assert_eq!(column(0), "all".to_owned().into());
    assert_eq!(column(1), 1_i64.into());
    assert_eq!(column(2), "2023-11-14 22:13:20".to_owned().into());
    assert_eq!(column(3), "dev-1".to_owned().into());
    assert_eq!(column(4), "reading 1".to_owned().into());
    // A reader that stays does not stop the writer.
    opened.store.commit(&[insert(lane, 3), Op::Forget { lane, seq: Seq(1) }]).unwrap();
    opened.store.upkeep(true);
    assert_eq!(seqs(&mut opened.store, lane), [2, 3]);
}

#[test]
fn epochs_ascend_though_the_database_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(dir.path(), ROUTES, sizes()).unwrap();
    assert!(opened.epoch > 0 && opened.epoch < 1 << 31);
    opened.store.commit(&[insert(opened.lanes[0], 77)]).unwrap();
    let first = opened.epoch;
    drop(opened);
    assert_eq!(open(dir.path(), ROUTES, sizes()).unwrap().epoch, first + 1);
    fs::remove_file(dir.path().join("tidegate.db")).unwrap();
    let opened = open(dir.path(), ROUTES, sizes()).unwrap();
    assert_eq!(opened.epoch, first + 2);
    assert!(opened.recovered.last > Seq(77), "what is found again later has its place before what comes now");
    let jumped = opened.recovered.last;
    drop(opened);
    assert_eq!(open(dir.path(), ROUTES, sizes()).unwrap().recovered.last, jumped, "once");
    // And though the epoch file is lost or damaged.
    fs::remove_file(dir.path().join("epoch")).unwrap();
    assert_eq!(open(dir.path(), ROUTES, sizes()).unwrap().epoch, first + 4);
    fs::write(dir.path().join("epoch"), [0xFF, 0, 1]).unwrap();
    assert_eq!(open(dir.path(), ROUTES, sizes()).unwrap().epoch, first + 5);
}

#[test]
fn two_new_directories_begin_with_different_epochs() {
    let epoch = || open(TempDir::new().unwrap().path(), ROUTES, sizes()).unwrap().epoch;
    // One in two thousand million would be bad luck.
    assert_ne!(epoch(), epoch());
}

#[test]
fn sqlite_has_no_known_wal_bug() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[test]
fn lives_that_do_not_end_in_order_are_counted_until_one_does() {
    let dir = TempDir::new().unwrap();
    let bad_lives = || {
        let opened = open(dir.path(), ROUTES, sizes()).unwrap();
        (opened.recovered.bad_lives, opened.store)
    };
    for expected in 0..3 {
        let (found, store) = bad_lives();
        assert_eq!(found, expected);
        drop(store);
    }
    let (found, store) = bad_lives();
    assert_eq!(found, 3);
    store.close();
    assert_eq!(bad_lives().0, 0);
    // The first versions did not count.
    fs::write(dir.path().join("epoch"), "9 5\n").unwrap();
    assert_eq!(bad_lives().0, 0);
}
