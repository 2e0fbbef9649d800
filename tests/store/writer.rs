//! The writer thread: answers in order, ends in order, and is heard when it dies.

use crate::{ROUTES, sizes};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate::inbox::inbox;
use tidegate::store::sqlite::open;
use tidegate::store::writer::{Order, OrderError, StopError, Writer};
use tidegate::store::{Lanes, Page, Store};
use tidegate_engine::event::{Batch, Input, Letter, Op, StoreFault};
use tidegate_engine::id::{BatchId, LaneId, LetterId, Seq};
use tidegate_tests::store_contract::{insert, seqs};
use tokio::sync::{mpsc::Receiver, oneshot};

fn commit(n: u64, ops: Vec<Op>) -> Order {
    Order::Commit(Batch { id: BatchId(n), ops })
}

fn load(lane: LaneId) -> Order {
    Order::Load { lane, after: Seq(0), messages: 100, bytes: usize::MAX }
}

fn said(inputs: &mut Receiver<Input>) -> String {
    match inputs.blocking_recv() {
        Some(Input::Committed { batch }) => format!("committed {}", batch.0),
        Some(Input::CommitFailed { batch, fault }) => format!("failed {} {fault:?}", batch.0),
        Some(Input::Loaded { lane, messages, damaged: 0, note: None, upto }) => {
            format!("loaded {} {} {:?}", lane.0, messages.len(), upto.map(|s| s.0))
        }
        Some(Input::LoadFailed { lane, fault }) => format!("load failed {} {fault:?}", lane.0),
        other => format!("{other:?}"),
    }
}

#[test]
fn orders_are_answered_in_their_order_and_loads_see_what_was_ordered_before() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path(), ROUTES, sizes()).unwrap();
    let lane = opened.lanes[0];
    let (inbox, mut inputs) = inbox();
    let writer = Writer::start(opened.store, inbox).unwrap();
    writer.order(commit(1, vec![insert(lane, 1)])).unwrap();
    writer.order(load(lane)).unwrap();
    writer.order(commit(2, vec![insert(LaneId(999), 2)])).unwrap();
    writer.order(commit(3, vec![insert(lane, 3)])).unwrap();
    writer.order(load(lane)).unwrap();
    let (answer, lanes) = oneshot::channel();
    writer.order(Order::Lanes { routes: vec![("new".into(), "cloud".into())], answer }).unwrap();
    assert_eq!(said(&mut inputs), "committed 1");
    assert_eq!(said(&mut inputs), format!("loaded {} 1 Some(1)", lane.0));
    assert_eq!(said(&mut inputs), "failed 2 Failed(\"there is no lane 999\")");
    assert_eq!(said(&mut inputs), "committed 3");
    assert_eq!(said(&mut inputs), format!("loaded {} 2 Some(3)", lane.0));
    let lanes = lanes.blocking_recv().unwrap().unwrap();
    assert_eq!((lanes.ids.len(), lanes.orphans.len()), (1, 1));
}

#[test]
fn stopping_carries_out_what_was_ordered_and_gives_the_store_back() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path(), ROUTES, sizes()).unwrap();
    let lane = opened.lanes[0];
    let (inbox, mut inputs) = inbox();
    let writer = Writer::start(opened.store, inbox).unwrap();
    for n in 1..=50 {
        writer.order(commit(n, vec![insert(lane, n)])).unwrap();
    }
    let mut store = writer.stop().unwrap();
    assert_eq!(seqs(&mut store, lane).len(), 50);
    for n in 1..=50 {
        assert_eq!(said(&mut inputs), format!("committed {n}"));
    }
    drop(store);
    drop(open(dir.path(), ROUTES, sizes()).unwrap());
}

#[test]
fn when_the_driver_is_gone_the_thread_ends() {
    let dir = TempDir::new().unwrap();
    let opened = open(dir.path(), ROUTES, sizes()).unwrap();
    let lane = opened.lanes[0];
    let (inbox, inputs) = inbox();
    let writer = Writer::start(opened.store, inbox).unwrap();
    drop(inputs);
    let mut n = 0;
    while writer.order(commit(n, vec![insert(lane, n + 1)])) != Err(OrderError::Ended) {
        n += 1;
        std::thread::yield_now();
    }
    drop(writer.stop().unwrap());
}

/// Panics at the second commit, once it is told to go on.
struct Fragile {
    go: mpsc::Receiver<()>,
    commits: u32,
}

impl Store for Fragile {
    fn commit(&mut self, _: &[Op]) -> Result<(), StoreFault> {
        self.go.recv_timeout(Duration::from_secs(10)).unwrap();
        self.commits += 1;
        assert_ne!(self.commits, 2, "a bug");
        Ok(())
    }

    fn load(&mut self, _: LaneId, _: Seq, _: usize, _: usize) -> Result<Page, StoreFault> {
        Ok(Page::default())
    }

    fn lanes(&mut self, _: &[(&str, &str)]) -> Result<Lanes, StoreFault> {
        Ok(Lanes::default())
    }

    fn letters(&mut self, _: &[LetterId], _: usize) -> Result<Vec<Letter>, StoreFault> {
        Ok(Vec::new())
    }

    fn letters_there(&mut self, _: &[LetterId]) -> Result<Vec<LetterId>, StoreFault> {
        Ok(Vec::new())
    }
}

#[test]
fn a_panic_answers_whatever_waits_and_refuses_what_comes() {
    let (go, wait) = mpsc::channel();
    let (inbox, mut inputs) = inbox();
    let writer = Writer::start(Fragile { go: wait, commits: 0 }, inbox).unwrap();
    for n in 1..=3 {
        writer.order(commit(n, Vec::new())).unwrap();
    }
    writer.order(load(LaneId(1))).unwrap();
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(said(&mut inputs), "committed 1");
    for expected in ["failed 2", "failed 3", "load failed 1"] {
        let said = said(&mut inputs);
        assert!(said.starts_with(expected) && said.contains("a bug"), "{said}");
    }
    assert!(inputs.blocking_recv().is_none());
    while writer.order(load(LaneId(1))) != Err(OrderError::Ended) {
        std::thread::yield_now();
    }
    assert!(matches!(writer.stop(), Err(StopError::Panicked(text)) if text.contains("a bug")));
}
