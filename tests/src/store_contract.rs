//! The durability contract as tests: what any [`Store`] must do, SQLite as well as the simulation's disk.
//! It looks at a store only through its interface, and at a [`Medium`] only by closing and opening it.

#![allow(clippy::unwrap_used, clippy::panic)] // these functions are the bodies of tests

use bytes::Bytes;
use std::sync::Arc;
use tidegate::store::{Lanes, Store};
use tidegate_engine::event::{Attempts, Failure, LaneState, Op, RecordKey, RecordKind, Recovered};
use tidegate_engine::id::{DeviceId, LaneId, LetterId, MessageId, Seq};
use tidegate_engine::message::{Message, Properties, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

/// Something that stores can be opened on, again and again, and that remembers in between.
pub trait Medium {
    /// Opens a store; the one before has been dropped.
    fn open(&mut self, routes: &[(&str, &str)]) -> Reopened;
}

/// An open store and what it found.
pub struct Reopened {
    /// The store.
    pub store: Box<dyn Store>,
    /// What it held.
    pub recovered: Recovered,
    /// This life.
    pub epoch: u64,
    /// The lanes of the given routes, and the left-over ones.
    pub lanes: Lanes,
}

/// Makes one `#[test]` for each point of the contract; the argument is an expression that makes a fresh [`Medium`].
#[macro_export]
macro_rules! store_contract {
    ($medium:expr) => {
        $crate::store_contract!(@points $medium;
            messages_come_back_as_they_were
            messages_come_back_in_order_whatever_the_order_of_insertion
            a_page_holds_what_was_asked_for
            lanes_do_not_see_one_another
            forgetting_leaves_the_others
            forgetting_what_is_not_there_is_no_fault
            operations_take_effect_in_their_order
            inserting_again_is_no_fault
            a_commit_happens_whole_or_not_at_all
            counters_are_exact_after_a_restart
            the_last_sequence_number_is_never_given_again
            burying_takes_a_message_out_of_its_lane
            a_dead_letter_that_is_requeued_stands_in_its_place_again
            a_dead_letter_that_is_purged_is_gone_for_good
            records_are_kept_replaced_and_removed
            an_epoch_is_never_used_twice
            a_route_keeps_its_lane
            a_route_that_is_gone_leaves_an_orphan_until_it_is_empty
            a_reload_gives_new_routes_lanes_and_takes_none_away
            a_long_random_history_matches_a_model
        );
    };
    (@points $medium:expr; $($point:ident)*) => {
        $(
            #[test]
            fn $point() {
                $crate::store_contract::$point(&mut $medium);
            }
        )*
    };
}

/// A plain message of a given number.
#[must_use]
pub fn message(seq: u64) -> Arc<Message> {
    message_with(seq, &format!("reading {seq}"))
}

/// A plain message of a given number and payload.
#[must_use]
pub fn message_with(seq: u64, payload: &str) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId { epoch: 7, seq: Seq(seq) },
        device: DeviceId::new(&format!("dev-{}", seq % 3)).unwrap(),
        topic: Topic::new(&format!("sensors/dev-{}/temperature", seq % 3)).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        received: Stamp { unix_ms: 1_700_000_000_000, synchronised: true },
        qos: Qos::AtLeastOnce,
        retain: false,
        duplicate: false,
        source: Source::Mqtt,
        properties: None,
    })
}

/// The order to insert it.
#[must_use]
pub fn insert(lane: LaneId, seq: u64) -> Op {
    Op::Insert { lane, message: message(seq) }
}

/// The order to forget it.
#[must_use]
pub fn forget(lane: LaneId, seq: u64) -> Op {
    Op::Forget { lane, seq: Seq(seq) }
}

/// Everything that stands in a lane.
pub fn all(store: &mut dyn Store, lane: LaneId) -> Vec<Message> {
    let mut found = Vec::new();
    let mut after = Seq(0);
    loop {
        let page = store.load(lane, after, 100, usize::MAX).unwrap();
        assert_eq!(page.damaged, 0);
        let Some(upto) = page.upto else { return found };
        assert!(upto > after, "a page goes on after the one before");
        assert_eq!(page.messages.last().map(|m| m.id.seq), Some(upto));
        after = upto;
        found.extend(page.messages);
    }
}

/// The sequence numbers that stand in a lane.
pub fn seqs(store: &mut dyn Store, lane: LaneId) -> Vec<u64> {
    all(store, lane).iter().map(|m| m.id.seq.0).collect()
}

const ROUTES: &[(&str, &str)] = &[("first", "cloud"), ("second", "cloud")];

fn open(medium: &mut dyn Medium) -> (Box<dyn Store>, LaneId, LaneId) {
    let opened = medium.open(ROUTES);
    (opened.store, opened.lanes.ids[0], opened.lanes.ids[1])
}

fn same(found: &[Message], expected: &[Arc<Message>]) {
    assert_eq!(found.iter().collect::<Vec<_>>(), expected.iter().map(|m| &**m).collect::<Vec<_>>());
}

#[allow(missing_docs)] // the names say what each one holds the store to
mod points {
    use super::{
        Arc, Attempts, Bytes, Failure, LaneId, LaneState, LetterId, Medium, Message, MessageId, Op,
        Properties, Qos, ROUTES, RecordKey, RecordKind, Seq, Source, Stamp, Store, Topic, all, forget,
        insert, message, message_with, open, same, seqs,
    };
    use std::collections::BTreeMap;

    pub fn messages_come_back_as_they_were(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        let plain = |seq| (*message(seq)).clone();
        let everything = Properties {
            utf8_payload: true,
            content_type: Some("application/cbor".into()),
            content_format: Some(60),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"\0\xFF")),
            expiry_seconds: Some(3_600),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        };
        let expected: Vec<Arc<Message>> = [
            Message { payload: Bytes::new(), ..plain(1) },
            Message { payload: Bytes::from(vec![0xA5; 200_000]), qos: Qos::AtMostOnce, ..plain(2) },
            Message { properties: Some(Box::new(everything)), source: Source::Coap, ..plain(3) },
            Message { properties: Some(Box::default()), retain: true, duplicate: true, ..plain(4) },
            Message {
                received: Stamp { unix_ms: -5, synchronised: false },
                qos: Qos::ExactlyOnce,
                ..plain(5)
            },
            Message { topic: Topic::new("ü/€/🌊").unwrap(), ..plain(6) },
            Message { id: MessageId { epoch: (1 << 62) + 1, seq: Seq::MAX }, ..plain(0) },
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let ops: Vec<Op> = expected.iter().map(|m| Op::Insert { lane, message: Arc::clone(m) }).collect();
        store.commit(&ops).unwrap();
        same(&all(&mut *store, lane), &expected);
        drop(store);
        let (mut store, lane, _) = open(medium);
        same(&all(&mut *store, lane), &expected);
    }

    pub fn messages_come_back_in_order_whatever_the_order_of_insertion(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&[insert(lane, 5), insert(lane, 9)]).unwrap();
        store.commit(&[insert(lane, 7), insert(lane, 2)]).unwrap();
        assert_eq!(seqs(&mut *store, lane), [2, 5, 7, 9]);
    }

    pub fn a_page_holds_what_was_asked_for(medium: &mut dyn Medium) {
        let (mut store, lane, other) = open(medium);
        let ops: Vec<Op> = (1..=10).map(|n| insert(lane, n * 10)).collect();
        store.commit(&ops).unwrap();
        let mut page = |lane, after, messages, bytes| {
            let page = store.load(lane, Seq(after), messages, bytes).unwrap();
            (page.messages.iter().map(|m| m.id.seq.0).collect::<Vec<_>>(), page.upto.map(|s| s.0))
        };
        assert_eq!(page(lane, 0, 3, usize::MAX), (vec![10, 20, 30], Some(30)));
        assert_eq!(page(lane, 30, 2, usize::MAX), (vec![40, 50], Some(50)));
        assert_eq!(
            page(lane, 45, 1, usize::MAX),
            (vec![50], Some(50)),
            "what is asked for need not be there"
        );
        assert_eq!(page(lane, 100, 5, usize::MAX), (vec![], None));
        assert_eq!(page(other, 0, 5, usize::MAX), (vec![], None));
        // At least one, however few bytes; else as many as fit.
        assert_eq!(page(lane, 0, 5, 0), (vec![10], Some(10)));
        let two = message(10).footprint() + message(20).footprint();
        assert_eq!(page(lane, 0, 5, two), (vec![10, 20], Some(20)));
        assert_eq!(page(lane, 0, 5, two - 1), (vec![10], Some(10)));
    }

    pub fn lanes_do_not_see_one_another(medium: &mut dyn Medium) {
        let (mut store, first, second) = open(medium);
        store.commit(&[insert(first, 1), insert(second, 1), insert(second, 2), insert(first, 3)]).unwrap();
        store.commit(&[forget(second, 1), forget(second, 3)]).unwrap();
        assert_eq!(seqs(&mut *store, first), [1, 3]);
        assert_eq!(seqs(&mut *store, second), [2]);
    }

    pub fn forgetting_leaves_the_others(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&(1..=300).map(|n| insert(lane, n)).collect::<Vec<_>>()).unwrap();
        // Ranges, gaps, single ones, out of order, one of them twice, in one batch.
        let gone: Vec<u64> =
            (1..=40).chain([299, 300, 300, 200, 50, 52, 54]).chain((100..=150).rev()).collect();
        store.commit(&gone.iter().map(|n| forget(lane, *n)).collect::<Vec<_>>()).unwrap();
        let left: Vec<u64> = (1..=300).filter(|n| !gone.contains(n)).collect();
        assert_eq!(seqs(&mut *store, lane), left);
        drop(store);
        let opened = medium.open(ROUTES);
        assert_eq!(opened.recovered.lanes[0].rows, left.len() as u64);
    }

    pub fn forgetting_what_is_not_there_is_no_fault(medium: &mut dyn Medium) {
        let (mut store, lane, other) = open(medium);
        store.commit(&[forget(lane, 4), forget(other, 1)]).unwrap();
        store.commit(&[insert(lane, 5), insert(lane, 7)]).unwrap();
        store.commit(&[forget(lane, 4), forget(lane, 6), forget(lane, 7), forget(lane, 8)]).unwrap();
        assert_eq!(seqs(&mut *store, lane), [5]);
    }

    pub fn operations_take_effect_in_their_order(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        let with = |text| Op::Insert { lane, message: message_with(1, text) };
        store.commit(&[with("old")]).unwrap();
        store
            .commit(&[forget(lane, 1), with("new"), insert(lane, 2), forget(lane, 2), forget(lane, 3)])
            .unwrap();
        same(&all(&mut *store, lane), &[message_with(1, "new")]);
    }

    pub fn inserting_again_is_no_fault(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&[insert(lane, 1)]).unwrap();
        store.commit(&[insert(lane, 1), insert(lane, 2)]).unwrap();
        assert_eq!(seqs(&mut *store, lane), [1, 2]);
        drop(store);
        assert_eq!(medium.open(ROUTES).recovered.lanes[0].rows, 2);
    }

    pub fn a_commit_happens_whole_or_not_at_all(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        let key = RecordKey { kind: RecordKind::Session, key: Bytes::from_static(b"client") };
        store.commit(&[insert(lane, 1)]).unwrap();
        let nowhere = LaneId(lane.0 + 1_000);
        let put = Op::Put { key, value: Bytes::from_static(b"state") };
        let failed = store.commit(&[forget(lane, 1), insert(lane, 2), put, insert(nowhere, 3)]);
        assert!(failed.is_err(), "there is no such lane");
        assert_eq!(seqs(&mut *store, lane), [1]);
        store.commit(&[insert(lane, 4)]).unwrap();
        drop(store);
        let mut opened = medium.open(ROUTES);
        assert!(opened.recovered.records.is_empty());
        assert_eq!(seqs(&mut *opened.store, lane), [1, 4]);
    }

    pub fn counters_are_exact_after_a_restart(medium: &mut dyn Medium) {
        let (mut store, first, second) = open(medium);
        store.commit(&[insert(first, 1), insert(second, 2), insert(first, 3), insert(first, 4)]).unwrap();
        store.commit(&[forget(first, 4), forget(second, 2), forget(second, 9)]).unwrap();
        drop(store);
        let bytes = (message(1).footprint() + message(3).footprint()) as u64;
        let opened = medium.open(ROUTES);
        assert_eq!(opened.recovered.lanes, [LaneState { lane: first, last: Seq(3), rows: 2, bytes }]);
    }

    pub fn the_last_sequence_number_is_never_given_again(medium: &mut dyn Medium) {
        assert_eq!(medium.open(ROUTES).recovered.last, Seq(0));
        let (mut store, lane, other) = open(medium);
        store.commit(&[insert(lane, 5), insert(lane, 4), insert(other, 3)]).unwrap();
        store.commit(&[forget(lane, 5)]).unwrap();
        drop(store);
        assert_eq!(medium.open(ROUTES).recovered.last, Seq(5));
        // A message that was never in a lane and goes to the dead letters at once.
        let (mut store, lane, _) = open(medium);
        store
            .commit(&[Op::Bury {
                lane,
                message: message(8),
                reason: "too large".into(),
                attempts: Attempts::default(),
            }])
            .unwrap();
        drop(store);
        assert_eq!(medium.open(ROUTES).recovered.last, Seq(8));
        // Whatever becomes of the route.
        drop(medium.open(&[]));
        assert_eq!(medium.open(&[("other", "cloud")]).recovered.last, Seq(8));
    }

    pub fn burying_takes_a_message_out_of_its_lane(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&[insert(lane, 1), insert(lane, 2)]).unwrap();
        store.commit(&[bury(lane, 1), bury(lane, 3)]).unwrap();
        assert_eq!(seqs(&mut *store, lane), [2]);
        drop(store);
        assert_eq!(medium.open(ROUTES).recovered.lanes[0].rows, 1);
    }

    fn bury(lane: LaneId, seq: u64) -> Op {
        let first = Some(Failure { unix_ms: 5, text: "no route".into() });
        let attempts = Attempts { count: 5, first };
        Op::Bury { lane, message: message(seq), reason: "returned 5 times".into(), attempts }
    }

    pub fn a_dead_letter_that_is_requeued_stands_in_its_place_again(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&[insert(lane, 1), insert(lane, 2), insert(lane, 3)]).unwrap();
        store.commit(&[bury(lane, 2)]).unwrap();
        let all: Vec<LetterId> = (1..=9).map(LetterId).collect();
        let letters = store.letters(&all, usize::MAX).unwrap();
        assert_eq!(letters.len(), 1, "the others are not there");
        let letter = &letters[0];
        assert_eq!((letter.lane, letter.route.as_str()), (Some(lane), "first"));
        assert_eq!(letter.message.as_deref(), Some(&*message(2)));
        let marked = Arc::new(Message { duplicate: true, ..(*message(2)).clone() });
        let requeue = Op::Requeue { letter: letter.id, lane, message: Arc::clone(&marked) };
        // The second time nothing is there to be moved.
        store.commit(&[requeue.clone(), requeue.clone()]).unwrap();
        store.commit(&[requeue]).unwrap();
        drop(store);
        let opened = medium.open(ROUTES);
        assert_eq!(opened.recovered.lanes[0].rows, 3);
        let mut store = opened.store;
        same(&super::all(&mut *store, lane), &[message(1), marked, message(3)]);
        assert!(store.letters(&all, usize::MAX).unwrap().is_empty());
    }

    pub fn a_dead_letter_that_is_purged_is_gone_for_good(medium: &mut dyn Medium) {
        let (mut store, lane, _) = open(medium);
        store.commit(&[bury(lane, 1), bury(lane, 2)]).unwrap();
        let ids = |store: &mut dyn Store| {
            let found = store.letters(&(1..=9).map(LetterId).collect::<Vec<_>>(), usize::MAX).unwrap();
            found.into_iter().map(|letter| letter.id).collect::<Vec<_>>()
        };
        let there = ids(&mut *store);
        store.commit(&[Op::Purge { letter: there[0] }, Op::Purge { letter: LetterId(77) }]).unwrap();
        drop(store);
        let (mut store, ..) = open(medium);
        assert_eq!(ids(&mut *store), there[1..]);
        assert!(seqs(&mut *store, lane).is_empty());
    }

    pub fn records_are_kept_replaced_and_removed(medium: &mut dyn Medium) {
        let (mut store, ..) = open(medium);
        let key = |kind, key: &'static [u8]| RecordKey { kind, key: Bytes::from_static(key) };
        let put = |key: &RecordKey, value: &'static [u8]| Op::Put {
            key: key.clone(),
            value: Bytes::from_static(value),
        };
        let session = key(RecordKind::Session, b"client");
        // The same key under another kind is another record; keys are bytes, not texts.
        let qos2 = key(RecordKind::InboundQos2, b"client");
        let bytes = key(RecordKind::InboundQos2, b"client\0\xFF\x01");
        store.commit(&[put(&session, b"one"), put(&qos2, b""), put(&bytes, b"x")]).unwrap();
        store
            .commit(&[put(&session, b"two"), Op::Remove { key: bytes.clone() }, Op::Remove { key: bytes }])
            .unwrap();
        drop(store);
        let mut records = medium.open(ROUTES).recovered.records;
        records.sort();
        assert_eq!(records, [(session, Bytes::from_static(b"two")), (qos2, Bytes::new())]);
    }

    pub fn an_epoch_is_never_used_twice(medium: &mut dyn Medium) {
        let epochs: Vec<u64> = (0..4).map(|_| medium.open(ROUTES).epoch).collect();
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    }

    pub fn a_route_keeps_its_lane(medium: &mut dyn Medium) {
        let (mut store, first, second) = open(medium);
        store.commit(&[insert(first, 1), insert(second, 2)]).unwrap();
        drop(store);
        // Another order, another route between them, another upstream.
        let opened = medium.open(&[("second", "cloud"), ("third", "cloud"), ("first", "elsewhere")]);
        assert_eq!((opened.lanes.ids[0], opened.lanes.ids[2]), (second, first));
        assert!(![first, second].contains(&opened.lanes.ids[1]));
        assert_eq!(opened.lanes.orphans, []);
    }

    pub fn a_route_that_is_gone_leaves_an_orphan_until_it_is_empty(medium: &mut dyn Medium) {
        let (mut store, first, _) = open(medium);
        store.commit(&[insert(first, 1)]).unwrap();
        drop(store);
        let mut opened = medium.open(&[("second", "cloud")]);
        let orphans: Vec<_> =
            opened.lanes.orphans.iter().map(|o| (o.lane, &o.route[..], &o.upstream[..])).collect();
        assert_eq!(orphans, [(first, "first", "cloud")]);
        assert_eq!(seqs(&mut *opened.store, first), [1]);
        opened.store.commit(&[forget(first, 1)]).unwrap();
        drop(opened);
        assert_eq!(medium.open(&[("second", "cloud")]).lanes.orphans, []);
    }

    pub fn a_reload_gives_new_routes_lanes_and_takes_none_away(medium: &mut dyn Medium) {
        let (mut store, first, second) = open(medium);
        let lanes = store.lanes(&[("second", "cloud"), ("third", "cloud")]).unwrap();
        assert_eq!(lanes.ids[0], second);
        let third = lanes.ids[1];
        assert!(![first, second].contains(&third));
        store.commit(&[insert(third, 1), insert(first, 2)]).unwrap();
        let orphans = store.lanes(&[("second", "cloud"), ("third", "cloud")]).unwrap().orphans;
        assert_eq!(orphans.iter().map(|o| o.lane).collect::<Vec<_>>(), [first]);
        drop(store);
        let opened = medium.open(&[("third", "cloud")]);
        assert_eq!(opened.lanes.ids, [third]);
    }

    pub fn a_long_random_history_matches_a_model(medium: &mut dyn Medium) {
        let seed = 0x7149_6761_7465;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut model: [BTreeMap<u64, Arc<Message>>; 2] = Default::default();
        let mut next = 1;
        for _ in 0..6 {
            let (mut store, first, second) = open(medium);
            let lanes = [first, second];
            for _ in 0..40 {
                let mut ops = Vec::new();
                for _ in 0..random.usize(0..60) {
                    let n = random.usize(0..2);
                    let waiting: Vec<u64> = model[n].keys().copied().take(20).collect();
                    match (random.u8(0..10), random.choice(&waiting)) {
                        (0..5, _) | (_, None) => {
                            let message = message_with(next, &"x".repeat(random.usize(0..300)));
                            model[n].insert(next, Arc::clone(&message));
                            ops.push(Op::Insert { lane: lanes[n], message });
                            next += random.u64(1..4);
                        }
                        (5..9, Some(seq)) => {
                            model[n].remove(seq);
                            ops.push(forget(lanes[n], *seq));
                        }
                        (_, Some(seq)) => {
                            if let Some(message) = model[n].remove(seq) {
                                ops.push(Op::Bury {
                                    lane: lanes[n],
                                    message,
                                    reason: "no".into(),
                                    attempts: Attempts::default(),
                                });
                            }
                        }
                    }
                }
                store.commit(&ops).unwrap();
                store.upkeep(random.bool());
            }
            for n in 0..2 {
                same(&all(&mut *store, lanes[n]), &model[n].values().cloned().collect::<Vec<_>>());
            }
            drop(store);
            let recovered = medium.open(ROUTES).recovered;
            for n in 0..2 {
                let state = recovered.lanes.iter().find(|s| s.lane == lanes[n]).unwrap();
                assert_eq!(state.rows, model[n].len() as u64);
                assert_eq!(state.bytes, model[n].values().map(|m| m.footprint() as u64).sum::<u64>());
                assert_eq!(Some(state.last.0), model[n].keys().last().copied());
            }
        }
    }
}

pub use points::*;
