//! What the ledger keeps and says of losses: how they are counted together, what a tombstone holds, and what a restart finds again.
//! It drives the ledger alone; crashes and upstreams around it are the simulation's.

use super::{Ledger, tombstone};
use crate::event::{Loss, LossReason, Op, RecordKey};
use crate::id::{DeviceId, GatewayId, LaneId, MessageId, Seq, Tag};
use crate::limits::Limits;
use crate::time::{Instant, Stamp};
use crate::topic::Topic;
use bytes::Bytes;
use std::collections::BTreeMap;

const NOW: Instant = Instant(1_000);
const LATER: Instant = Instant(u64::MAX);

fn loss(device: &str, topic: &str, count: u64, at: i64) -> Loss {
    Loss {
        lane: Some(LaneId(1)),
        device: Some(DeviceId::new(device).unwrap()),
        topic: Some(Topic::new(topic).unwrap()),
        count,
        received: Some((at, at)),
        reason: LossReason::DroppedOldest,
    }
}

/// A ledger, and the records that it has in the store.
struct Bench {
    ledger: Ledger,
    limits: Limits,
    last: Seq,
    records: BTreeMap<RecordKey, Bytes>,
}

impl Bench {
    fn new(entries: usize) -> Self {
        let limits = Limits { ledger_entries: entries, ..Limits::default() };
        Self { ledger: Ledger::new(&limits, &[], NOW), limits, last: Seq(0), records: BTreeMap::new() }
    }

    fn add(&mut self, loss: Loss) {
        let last = &mut self.last;
        self.ledger.add(NOW, loss, || {
            *last = last.next();
            MessageId { epoch: 1, seq: *last }
        });
    }

    fn write(&mut self) {
        for op in self.ledger.changes() {
            self.carry_out(op);
        }
        assert!(self.ledger.changes().is_empty());
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Put { key, value } => drop(self.records.insert(key, value)),
            Op::Remove { key } => drop(self.records.remove(&key)),
            op => panic!("{op:?}"),
        }
    }

    fn restart(&mut self) {
        let records: Vec<_> = self.records.clone().into_iter().collect();
        self.ledger = Ledger::new(&self.limits, &records, NOW);
    }

    fn seal(&mut self) -> Option<MessageId> {
        let gateway = GatewayId::new("site-a").unwrap();
        let (id, op) = self.ledger.seal(
            LATER,
            |_| true,
            |id, common, amount| tombstone(id, common, amount, None, &gateway, Stamp::default()),
        )?;
        self.carry_out(op);
        self.ledger.is_sealed(LATER, id);
        Some(id)
    }

    /// Sends and confirms everything; what was said.
    fn tell_all(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for tag in (1..).map(Tag) {
            self.seal();
            let Some((_, message, _)) = self.ledger.next(LATER, |_| true) else { break };
            told.push(String::from_utf8(message.payload.to_vec()).unwrap());
            self.ledger.sent(message.id, tag);
            assert!(self.ledger.has(tag));
            let op = self.ledger.confirmed(tag).unwrap();
            self.carry_out(op);
        }
        told
    }
}

#[test]
fn losses_of_one_device_topic_and_reason_are_one_entry_that_survives_a_restart() {
    let mut bench = Bench::new(8);
    bench.add(loss("a", "t/a", 2, 500));
    bench.add(loss("a", "t/a", 3, 300));
    bench.write();
    bench.restart();
    bench.add(loss("a", "t/a", 1, 900));
    bench.write();
    assert_eq!(bench.records.len(), 1);
    assert_eq!(
        bench.tell_all(),
        [
            r#"{"tombstone":1,"device":"a","topic":"t/a","count":6,"from":300,"until":900,"reason":"dropped-oldest"}"#
        ]
    );
    assert!(bench.records.is_empty(), "what was told is gone");
    assert_eq!(bench.ledger.stats().untold, 0);
}

#[test]
fn a_full_ledger_merges_topics_then_devices_and_forgets_no_message() {
    let mut bench = Bench::new(3);
    for topic in ["t/1", "t/2", "t/3", "t/4"] {
        bench.add(loss("a", topic, 1, 0));
    }
    bench.write();
    assert_eq!(
        (bench.ledger.stats().entries, bench.ledger.stats().untold),
        (1, 4),
        "one device's topics are one"
    );
    for device in ["b", "c", "d", "e", "f"] {
        bench.add(loss(device, "t", 10, 0));
        bench.write();
        bench.restart();
    }
    let stats = bench.ledger.stats();
    assert!(stats.entries <= 3, "{stats:?}");
    assert_eq!((stats.untold, bench.records.len() as u64), (54, stats.entries));
}

#[test]
fn an_entry_that_is_told_of_keeps_its_id_and_words_through_a_restart() {
    let mut bench = Bench::new(8);
    bench.add(loss("a", "t", 1, 0));
    bench.write();
    let id = bench.seal().unwrap();
    let (_, first, resend) = bench.ledger.next(LATER, |_| true).unwrap();
    assert_eq!((first.id, resend), (id, false));
    // What is lost meanwhile is another entry.
    bench.add(loss("a", "t", 5, 0));
    bench.write();
    bench.restart();
    let (_, again, resend) = bench.ledger.next(LATER, |_| true).unwrap();
    assert_eq!((again, resend), (first, true));
    assert_eq!(bench.ledger.stats().untold, 6);
    assert_eq!(bench.tell_all().len(), 2);
}

#[test]
fn a_tombstone_that_is_refused_stays_and_waits_longer_each_time() {
    let mut bench = Bench::new(8);
    bench.add(loss("a", "t", 1, 0));
    bench.write();
    let id = bench.seal().unwrap();
    let mut now = NOW;
    let mut waits = Vec::new();
    for tag in (1..4).map(Tag) {
        bench.ledger.sent(id, tag);
        bench.ledger.refused(now, tag);
        assert!(bench.ledger.next(now, |_| true).is_none());
        let next = bench.ledger.timeout(now).unwrap();
        waits.push(next.since(now));
        now = next;
        assert!(bench.ledger.next(now, |_| true).is_some());
    }
    assert!(waits.is_sorted() && waits[0] < waits[2], "{waits:?}");
}

#[test]
fn a_tombstone_that_is_refused_holds_up_no_other() {
    let mut bench = Bench::new(8);
    bench.add(loss("a", "t/nobody", 1, 0));
    bench.write();
    let refused = bench.seal().unwrap();
    bench.ledger.sent(refused, Tag(1_000));
    bench.add(loss("a", "t/somebody", 1, 0));
    bench.write();
    assert_eq!(bench.seal(), None, "one at a time");
    bench.ledger.refused(NOW, Tag(1_000));
    let other = bench.seal().expect("the next goes on");
    bench.ledger.is_sealed(NOW, other);
    let retry = bench.ledger.timeout(NOW).expect("and this one is tried again");
    assert_eq!(bench.ledger.next(NOW, |_| true).unwrap().1.id, other);
    assert_eq!(
        bench.ledger.next(retry, |_| true).unwrap().1.id,
        refused,
        "the older goes first when it is due"
    );
}
