//! The process is killed at any moment, or comes back to a long backlog.

use crate::{ROUTES, child, sizes};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use tempfile::TempDir;
use tidegate::store::sqlite::open;
use tidegate_tests::store_contract::seqs;
use tidegate_tests::store_history::History;

/// Ends the child even when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> (Running, BufReader<ChildStdout>) {
    let mut child = child(args).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (Running(child), lines)
}

fn line(from: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn kill_nine_at_any_moment_loses_nothing_that_was_committed() {
    for round in 0..12 {
        let dir = TempDir::new().unwrap();
        let (running, mut lines) = start(&["commit", dir.path().to_str().unwrap()]);
        for _ in 0..1 + round * 17 {
            assert_ne!(line(&mut lines), "", "the child has ended");
        }
        drop(running); // SIGKILL, in the middle of whatever it does
        let mut done = 1 + round * 17;
        done += lines.lines().map_while(Result::ok).filter(|l| !l.is_empty()).count();

        let mut opened = open(dir.path(), ROUTES, sizes()).unwrap();
        assert_eq!(opened.quarantined, None);
        let mut history = History::default();
        for _ in 0..done {
            history.commit(opened.lanes[0]);
        }
        let found = seqs(&mut opened.store, opened.lanes[0]);
        // The commit that ran when the kill came: all of it or nothing.
        let before: Vec<u64> = history.waiting.iter().copied().collect();
        history.commit(opened.lanes[0]);
        let after: Vec<u64> = history.waiting.iter().copied().collect();
        assert!(found == before || found == after, "after {done} commits {} rows were found", found.len());
        let rows = opened.recovered.lanes.first().map_or(0, |lane| lane.rows);
        assert_eq!(rows, found.len() as u64);
    }
}

#[test]
fn a_million_waiting_rows_delay_no_start_and_fill_no_memory() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let (running, mut lines) = start(&["fill", path, "1000000"]);
    assert_eq!(line(&mut lines), "filled");
    drop(running);
    let (_running, mut lines) = start(&["drain", path]);
    let opened: Vec<u64> = line(&mut lines).split(' ').map(|n| n.parse().unwrap()).collect();
    let read: Vec<u64> = line(&mut lines).split(' ').map(|n| n.parse().unwrap()).collect();
    let (took_ms, peak_kib) = (opened[2], opened[3]);
    println!("opened in {took_ms} ms with {peak_kib} KiB; read and partly drained with {} KiB", read[1]);
    assert_eq!(opened[..2], [1_000_000, 1_000_000]);
    assert_eq!(read[0], 1_000_000);
    // The process itself has some 8 MiB; the backlog has 300.
    assert!(peak_kib < 24 << 10, "opening took {peak_kib} KiB");
    assert!(read[1] < 32 << 10, "reading took {} KiB", read[1]);
}
