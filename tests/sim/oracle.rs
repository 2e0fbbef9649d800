//! The judge. It reads along on every boundary of the engine and holds what it sees against the promises:
//!
//! - **P1** An acknowledgement that leaves the engine (PUBACK, PUBREC, PUBCOMP, 2.04) names a message that is safe at
//!   that moment on every lane that takes its topic: the engine was told of its commit or of its confirm, or it is a
//!   dead letter of which the engine was told. A row found at a start counts as told. One that its sender wants retained
//!   stands in its topic's record besides, or a later one of the topic does.
//! - **P2** In the end every acknowledged message is, on every such lane, with the consumer or among the dead letters
//!   (or was on damage that was reported), its payload and topic unchanged. At every start its topic's record has it, if
//!   it was to be retained, or a later one.
//! - **P3** Ids ascend as the messages came in. A lane hands the messages of a device over for the first time in that
//!   order, and none while an earlier one is refused and not through. At the consumer, a message's first arrival after a
//!   later one's is excused only when the later one's arriving copy was handed over before the engine knew of a refusal
//!   of the earlier. Where a route has live messages go ahead, all this holds for the live ones and for the backlog, each by itself;
//!   and no backlog goes while a live message that is on the medium could go first.
//! - **P4** An id belongs to one message for ever. The second arrival of an id carries the resend mark; a message that
//!   never was under way does not. A message has no more ids than times it was received; a CoAP exchange gives one id
//!   in one life of the gateway; a QoS 2 message of a client that keeps its state has one id, ever.
//!   A dead letter that is sent again has the mark, for its consumer may have it.
//! - **P7** No PUBACK or PUBREC of 0x80 or above, no CoAP error but 5.03 and 4.29; acknowledgements in the order of reception.
//! - What tombstones tell stands in `losses`: what is lost, no more and no less, once.
//! - What local subscribers get stands in `subscribers`, what CoAP observers get in `observing`; that OSCORE uses no nonce twice
//!   is held by `nonces`.
//! - Windows, commits, loads and what the engine keeps stay within their bounds; nothing goes to an upstream that is down
//!   or blocked; a message is buried only when the broker refused it for good, or as often as the limits say,
//!   or two lives of the gateway ended with its mark.

use super::losses::Losses;
use super::nonces::Nonces;
use super::observing::Observing;
use super::payload::{self, Key};
use super::retained::Retained;
use super::subscribers::Subscribers;
use crate::powercut::{Ledger, Mark};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidegate_engine::event::{Batch, Op, Order as Priority, RecordKey, RecordKind, Setup, WhenFull};
use tidegate_engine::id::{LaneId, MessageId, UpstreamId};
use tidegate_engine::message::Message;
use tidegate_engine::time::Duration;
use tidegate_engine::topic::Topic;

/// A broken promise, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

/// `Err` is a broken promise.
pub(crate) type Held = Result<(), Violation>;

macro_rules! broken {
    ($($text:tt)*) => { return Err(Violation(format!($($text)*))) };
}

mod ending;
mod known;
mod order;

pub(crate) use known::Record;
use known::{Copy, Known, Order, marked};

/// With so many remembered exchanges of a peer none is forgotten while its datagrams may still come.
pub(crate) const MANY_EXCHANGES: usize = 512;

/// The judge.
#[derive(Debug)]
pub(crate) struct Oracle {
    setup: Setup,
    /// For each device its messages.
    records: Vec<Vec<Record>>,
    /// For each device the numbers as they were received, in order.
    received: Vec<Vec<u32>>,
    retained: Retained,
    /// What tombstones tell.
    pub(crate) losses: Losses,
    ids: BTreeMap<MessageId, Key>,
    /// When each id was heard of first: it was accepted then, or before.
    seen: BTreeMap<MessageId, u64>,
    copies: BTreeMap<(LaneId, u16, MessageId), Copy>,
    orders: BTreeMap<(LaneId, u16), Order>,
    /// How many lives began with the mark on a message.
    deaths: BTreeMap<(LaneId, MessageId), u32>,
    upstreams: Vec<Known>,
    /// Lanes in which live messages may go ahead, or might earlier in this life.
    overtakes: BTreeSet<LaneId>,
    /// When something of a backlog was handed over in this life, in steps.
    backlog_handed: BTreeMap<LaneId, Vec<u64>>,
    /// When the configuration was read last, in steps.
    configured_at: u64,
    /// What local subscribers get.
    pub(crate) subscribers: Subscribers,
    /// What CoAP observers get.
    pub(crate) observing: Observing,
    /// What was protected under which nonce.
    pub(crate) nonces: Nonces,
    /// Where it is written down what the world is told, for power cuts that come later.
    pub(crate) ledger: Option<Ledger>,
    /// Commits that were ordered and not answered.
    ordered: VecDeque<Arc<Batch>>,
    /// What time it is, in virtual microseconds.
    pub(crate) now: u64,
    /// Steps of the engine so far.
    pub(crate) step: u64,
    /// Commits that inserted something, over all lives.
    pub(crate) inserts: u64,
    /// Arrivals of an id that had arrived before.
    pub(crate) duplicates: u64,
    /// Messages handed over as live, on routes that have them go ahead.
    pub(crate) live: u64,
    /// First arrivals.
    pub(crate) arrivals: u64,
    /// Messages whose order at the consumer was turned round, excused.
    pub(crate) excused_inversions: u64,
}

/// Devices are named `d0`, `d1`, …
fn device_index(message: &Message) -> Option<u16> {
    message.device.as_str().strip_prefix('d')?.parse().ok()
}

impl Oracle {
    pub(crate) fn new(setup: Setup, devices: usize) -> Self {
        let upstreams = setup.upstreams.iter().map(|_| Known::default()).collect();
        Self {
            setup,
            records: (0..devices).map(|_| Vec::new()).collect(),
            received: (0..devices).map(|_| Vec::new()).collect(),
            retained: Retained::default(),
            losses: Losses::default(),
            ids: BTreeMap::new(),
            seen: BTreeMap::new(),
            now: 0,
            copies: BTreeMap::new(),
            orders: BTreeMap::new(),
            deaths: BTreeMap::new(),
            upstreams,
            overtakes: BTreeSet::new(),
            backlog_handed: BTreeMap::new(),
            configured_at: 0,
            live: 0,
            subscribers: Subscribers::default(),
            observing: Observing::default(),
            nonces: Nonces::default(),
            ledger: None,
            ordered: VecDeque::new(),
            step: 0,
            inserts: 0,
            duplicates: 0,
            arrivals: 0,
            excused_inversions: 0,
        }
    }

    /// A device's application has made a message.
    pub(crate) fn created(&mut self, key: Key, topic: &Topic, qos: u8) {
        let Some(records) = self.records.get_mut(usize::from(key.device)) else { return };
        debug_assert_eq!(records.len(), key.number as usize);
        records.push(Record {
            topic: topic.clone(),
            qos,
            acked: false,
            excused: false,
            required: Vec::new(),
            ids: Vec::new(),
            came: 0,
            exchanges: BTreeSet::new(),
        });
    }

    /// All messages of a device.
    pub(crate) fn records(&mut self, device: u16) -> &mut [Record] {
        self.records.get_mut(usize::from(device)).map_or(&mut [], Vec::as_mut_slice)
    }

    fn record(&mut self, key: Key) -> Option<&mut Record> {
        self.records.get_mut(usize::from(key.device))?.get_mut(key.number as usize)
    }

    /// The configuration holds from now on: at a start, or at a reload.
    pub(crate) fn configured(&mut self, setup: &Setup) {
        self.setup = setup.clone();
        self.configured_at = self.step;
        let others = self.setup.routes.iter().filter(|route| route.policy.order != Priority::OldestFirst);
        self.overtakes.extend(others.map(|route| route.lane));
        // What has come in may still stand in a buffer of a connection that is not read: it is routed as of now.
        for record in self.records.iter_mut().flatten() {
            if !record.acked && !record.required.is_empty() {
                record.requires(&self.setup);
            }
        }
    }

    /// The engine gets a message from a device; for CoAP with the exchange's port and message id.
    pub(crate) fn received(&mut self, key: Key, topic: &str, exchange: Option<(u16, u16)>) -> Held {
        let epoch = self.setup.epoch;
        let Some(record) =
            self.records.get_mut(usize::from(key.device)).and_then(|r| r.get_mut(key.number as usize))
        else {
            broken!("{key} was received and never made");
        };
        if record.topic.as_str() != topic {
            broken!("{key} came in under {topic}, and was sent under {}", record.topic);
        }
        if record.required.is_empty() {
            record.came = self.now;
            self.subscribers.received(key, record.qos);
        }
        self.observing.received(key, topic);
        record.requires(&self.setup);
        if let Some((port, mid)) = exchange {
            record.exchanges.insert((epoch, port, mid));
        }
        if let Some(received) = self.received.get_mut(usize::from(key.device)) {
            received.push(key.number);
        }
        Ok(())
    }

    /// The engine gets a message that is to be retained.
    pub(crate) fn retains(&mut self, key: Key, topic: &str) {
        self.retained.received(key, topic);
    }

    /// The gateway starts with these records: P2 of what is retained.
    pub(crate) fn found_records(&mut self, records: &[(RecordKey, Bytes)]) -> Held {
        let mark = records.iter().find(|(key, _)| key.kind == RecordKind::Mark);
        if let Some(at) = mark.and_then(|(_, value)| marked(value)) {
            *self.deaths.entry(at).or_default() += 1;
        }
        self.losses.found(records);
        self.retained.found(records)
    }

    /// Whether a message is safe wherever one configuration or another demanded it.
    pub(crate) fn is_safe(&self, key: Key) -> bool {
        let record = self.records.get(usize::from(key.device)).and_then(|r| r.get(key.number as usize));
        let Some(record) = record else { return false };
        let safe_on = |lane: &LaneId| {
            let copy = |id| self.copies.get(&(*lane, key.device, id));
            record.ids.iter().any(|id| copy(*id).is_some_and(|copy| copy.safe))
        };
        record.required.iter().any(|lanes| lanes.iter().all(safe_on))
    }

    /// An acknowledgement of a message leaves the engine: P1.
    pub(crate) fn acknowledged(&mut self, key: Key, how: &str) -> Held {
        let safe = self.is_safe(key);
        let Some(record) =
            self.records.get_mut(usize::from(key.device)).and_then(|r| r.get_mut(key.number as usize))
        else {
            broken!("P1: {how} for {key}, which was never made");
        };
        let again = std::mem::replace(&mut record.acked, true);
        let retained = self.retained.acknowledged(key, &record.topic, how);
        if let Some(ledger) = &self.ledger {
            // The power cuts judge.
            let (needs, ids) = (record.required.clone(), record.ids.clone());
            ledger.mark(Mark::Acknowledged { key, needs, ids, how: how.to_owned() });
            let topic = record.topic.as_str().to_owned();
            if let Some(reception) = self.retained.reception(key, &topic) {
                ledger.mark(Mark::Retained { topic, reception });
            }
            self.subscribers.owed(key).for_each(|device| ledger.mark(Mark::Owed { device, key }));
            return Ok(());
        }
        retained?;
        if safe || again {
            return Ok(());
        }
        let record = self.records.get(usize::from(key.device)).and_then(|r| r.get(key.number as usize));
        if record.is_some_and(|record| self.may_be_dropped(record, key.device)) {
            // It was discarded as it came: the ledger has it.
            return self.losses.dropped(key);
        }
        let Some(record) = record else { return Ok(()) };
        let lanes = record.required.last().cloned().unwrap_or_default();
        broken!("P1: {how} for {key}, which is not safe; it needs {lanes:?}, its ids are {:?}", record.ids);
    }

    /// A device is put on the list of observers, with what its topic has; `answer` names the datagram that says so.
    pub(crate) fn listed(&mut self, device: u16, answer: (u16, u16, u32), key: Option<Key>) -> Held {
        let life = self.setup.epoch;
        match self.observing.listed(device, life, answer) {
            Some(topic) => self.retained.given(topic, key),
            None => Ok(()),
        }
    }

    /// A notification leaves the engine under this token and number.
    pub(crate) fn numbers(&mut self, device: u16, token: &[u8], number: u32) -> Held {
        self.observing.numbers(device, self.setup.epoch, token, number)
    }

    /// An observer's application sees a value, or that there is none.
    pub(crate) fn shown(&mut self, device: u16, key: Option<Key>, answers: bool) -> Held {
        self.observing.shown(device, self.setup.epoch, key, answers)
    }

    /// What an observer must get and has not got yet.
    pub(crate) fn owed(&self) -> Option<String> {
        let record = |key: Key| self.records.get(usize::from(key.device))?.get(key.number as usize);
        self.observing.owed(self.setup.epoch, |key| record(key).is_some_and(|r| r.acked && r.qos > 0))
    }

    /// The topic of a message that a device has made.
    pub(crate) fn topic(&self, key: Key) -> Option<Topic> {
        Some(self.records.get(usize::from(key.device))?.get(key.number as usize)?.topic.clone())
    }

    /// A subscriber's application gets a message.
    pub(crate) fn got(&mut self, device: u16, key: Key) -> Held {
        let Some(record) = self.records.get(usize::from(key.device)).and_then(|r| r.get(key.number as usize))
        else {
            broken!("d{device} gets {key}, which was never made");
        };
        if let Some(ledger) = &self.ledger {
            ledger.mark(Mark::Got { device, key });
        }
        // Datagrams may overtake one another.
        let ordered = record.exchanges.is_empty();
        self.subscribers.got(device, key, record.topic.as_str(), record.qos, ordered)
    }

    /// The engine names a message in an order: P4.
    fn see(&mut self, message: &Message) -> Result<Key, Violation> {
        let id = message.id;
        let (Some(device), Some(key)) = (device_index(message), payload::read(&message.payload)) else {
            broken!("P2: {id:?} of {} has a payload that nobody sent", message.device);
        };
        if key.device != device {
            broken!("P4: {key} came from d{device}");
        }
        let epoch = self.setup.epoch;
        let known = self.ids.get(&id).copied();
        let Some(record) = self.record(key) else { broken!("P4: {key} was never made") };
        if record.topic != message.topic {
            broken!("P2: {key} was sent under {} and is passed on under {}", record.topic, message.topic);
        }
        match known {
            Some(known) if known == key => return Ok(key),
            Some(known) => broken!("P4: {id:?} belonged to {known} and now to {key}"),
            None => {}
        }
        if id.epoch != epoch {
            broken!("P4: {key} gets {id:?} in epoch {epoch}");
        }
        record.ids.push(id);
        let qos = record.qos;
        self.ids.insert(id, key);
        self.seen.insert(id, self.now);
        if let Some(ledger) = &self.ledger {
            ledger.mark(Mark::Named { id, key, qos });
        }
        Ok(key)
    }

    /// The engine orders a commit.
    pub(crate) fn ordered(&mut self, batch: &Arc<Batch>) -> Held {
        let limits = &self.setup.limits;
        // A message, its records and its copies for subscribers are not parted, and what waits to be forgotten rides
        // along: what has been delivered from the lanes' memory since the last commit, and what is let wait beyond that.
        let lanes = limits.lane_memory_messages * self.setup.routes.len();
        let copies = limits.outgoing_messages * self.records.len();
        let losses = 2 * limits.ledger_entries;
        let most = limits.commit_ops + 3 + 2 * limits.forgets_waiting + lanes + copies + losses;
        if batch.ops.len() > most {
            broken!("bounds: a commit of {} changes, at most {most}", batch.ops.len());
        }
        if batch.ops.is_empty() {
            broken!("bounds: an empty commit");
        }
        for op in &batch.ops {
            match op {
                Op::Insert { message, .. } => {
                    self.see(message)?;
                    self.inserts += 1;
                }
                Op::Bury { lane, message, reason, attempts: told } => {
                    let key = self.see(message)?;
                    if reason.starts_with("the gateway ended") {
                        let deaths = self.deaths.get(&(*lane, message.id)).copied().unwrap_or(0);
                        if deaths < 2 {
                            broken!("P2: {key} is buried after {deaths} lives that ended with it: {reason}");
                        }
                        continue;
                    }
                    let attempts = self.setup.limits.upstream_attempts;
                    let copy = self.copies.entry((*lane, key.device, message.id)).or_default();
                    if !copy.fatal && copy.refusals < attempts.min(2) {
                        broken!("P2: {key} is buried after {} refusals: {reason}", copy.refusals);
                    }
                    let refusals = u32::from(copy.refusals) + u32::from(copy.fatal);
                    if told.count != refusals || told.first.is_none() {
                        broken!("{key} is buried after {refusals} refusals, and {told:?} is written down");
                    }
                }
                Op::Requeue { message, .. } => _ = self.see(message)?,
                Op::Forget { .. } | Op::Purge { .. } | Op::Put { .. } | Op::Remove { .. } => {}
            }
        }
        self.ordered.push_back(batch.clone());
        Ok(())
    }

    /// The engine is told of a commit, done or failed.
    pub(crate) fn answered(&mut self, done: bool) {
        let Some(batch) = self.ordered.pop_front() else { return };
        if !done {
            return;
        }
        for op in &batch.ops {
            if let Op::Put { key, value } = op {
                self.retained.durable(key, value);
                self.losses.durable(key, value);
            }
            if let Op::Remove { key } = op {
                self.losses.removed(key);
            }
            if let Op::Forget { lane, seq } = op {
                // Discarded while it was refused: it holds nobody up any more.
                let orders = self.orders.iter_mut().filter(|((of, _), _)| of == lane);
                orders.for_each(|(_, order)| order.ended(self.step, |id| id.seq == *seq));
            }
            let (Op::Insert { lane, message }
            | Op::Bury { lane, message, .. }
            | Op::Requeue { lane, message, .. }) = op
            else {
                continue;
            };
            let Some(device) = device_index(message) else { continue };
            let copy = self.copies.entry((*lane, device, message.id)).or_default();
            if !copy.safe {
                copy.safe_at = self.step;
            }
            copy.safe = true;
            if matches!(op, Op::Requeue { .. }) {
                copy.put_back(self.step);
            }
            if matches!(op, Op::Bury { .. }) {
                copy.buried = true;
                if let Some(order) = self.orders.get_mut(&(*lane, device)) {
                    order.ended(self.step, |id| *id == message.id);
                }
            }
        }
    }

    /// The engine is told that an upstream is there.
    pub(crate) fn up(&mut self, upstream: UpstreamId) {
        if let Some(known) = self.upstreams.get_mut(usize::from(upstream.0)) {
            known.up = true;
            known.blocked = false;
        }
    }

    /// The engine is told that an upstream wants a pause.
    pub(crate) fn blocked(&mut self, upstream: UpstreamId, blocked: bool) {
        if let Some(known) = self.upstreams.get_mut(usize::from(upstream.0)) {
            known.blocked = blocked;
        }
    }

    /// The engine is told that an upstream is gone.
    pub(crate) fn down(&mut self, upstream: UpstreamId) {
        if let Some(known) = self.upstreams.get_mut(usize::from(upstream.0)) {
            let flights = std::mem::take(&mut known.flights);
            *known = Known::default();
            for flight in flights.into_values().filter(|flight| flight.refused) {
                let copy = self.copies.entry((flight.lane, flight.device, flight.id)).or_default();
                copy.refusal_known = self.step;
            }
        }
    }

    /// The gateway is gone, with all that it knew.
    pub(crate) fn crashed(&mut self) {
        for upstream in 0..self.upstreams.len() {
            self.down(UpstreamId(u16::try_from(upstream).unwrap_or(u16::MAX)));
        }
        for ((lane, _), order) in &mut self.orders {
            order.refused = Default::default();
            if self.overtakes.contains(lane) {
                // What was live is backlog from here on.
                order.highest_published = [None; 2];
            }
        }
        self.overtakes.clear();
        self.backlog_handed.clear();
        for copy in self.copies.values_mut() {
            copy.refusals = 0;
            copy.fatal = false;
            // What was confirmed and not forgotten in time comes back, and may then be discarded.
            copy.confirmed = false;
        }
        self.ordered.clear();
    }

    /// A gateway starts and finds this message on its disk.
    pub(crate) fn recovered(&mut self, lane: LaneId, message: &Message) -> Held {
        let Some(key) = self.ids.get(&message.id).copied() else {
            broken!("P4: {:?} stands on the disk and nobody put it there", message.id);
        };
        let copy = self.copies.entry((lane, key.device, message.id)).or_default();
        copy.safe = true;
        if copy.buried {
            // Sent again by the last life, which did not live to hear of it.
            copy.put_back(self.step);
        }
        Ok(())
    }

    /// The medium has damaged a row.
    pub(crate) fn damaged(&mut self, lane: LaneId, message: &Message) {
        if let Some(key) = self.ids.get(&message.id) {
            self.losses.damaged += 1;
            self.copies.entry((lane, key.device, message.id)).or_default().damaged = true;
        }
    }

    /// A row has left the disk, or will never have been there: it was confirmed, or the policy of its route says so.
    pub(crate) fn forgotten(&mut self, lane: LaneId, message: &Message) -> Held {
        let Some(key) = self.ids.get(&message.id).copied() else { return Ok(()) };
        let copy = self.copies.entry((lane, key.device, message.id)).or_default();
        if copy.confirmed || copy.buried || copy.discarded {
            return Ok(());
        }
        copy.discarded = true;
        self.losses.discarded += 1;
        let policy = self.setup.routes.iter().find(|route| route.lane == lane).map(|route| route.policy);
        let policy = policy.unwrap_or_default();
        if policy.when_full.makes_room() {
            return Ok(());
        }
        let Some(time) = policy.expires_after else {
            broken!("P2: {key} {:?} is discarded on {lane:?}, which is to refuse", message.id);
        };
        // It was accepted when it was received first, or later.
        let now = self.now;
        let came = self.record(key).map_or(now, |record| record.came);
        if Duration::from_micros(now - came) < time {
            broken!(
                "P5: {key} {:?} came at {came} and is discarded, on {lane:?} it has {time:?}",
                message.id
            );
        }
        Ok(())
    }

    /// Whether every lane on which a message is not safe may discard what comes.
    fn may_be_dropped(&self, record: &Record, device: u16) -> bool {
        let safe_on = |lane: &LaneId| {
            let copy = |id| self.copies.get(&(*lane, device, id));
            record.ids.iter().any(|id| copy(*id).is_some_and(|copy| copy.safe))
        };
        let drops = |lane: &LaneId| {
            let route = self.setup.routes.iter().find(|route| route.lane == *lane);
            route.is_some_and(|route| route.policy.when_full == WhenFull::DropNewest)
        };
        record.required.iter().any(|lanes| lanes.iter().all(|lane| safe_on(lane) || drops(lane)))
    }

    /// A gateway starts and finds this dead letter.
    pub(crate) fn found_dead(&mut self, lane: LaneId, message: &Message) {
        if let Some(key) = self.ids.get(&message.id) {
            let copy = self.copies.entry((lane, key.device, message.id)).or_default();
            copy.safe = true;
            copy.buried = true;
        }
    }

    /// The messages whose device has lost its state, or began a new session, while they were under way.
    pub(crate) fn excused(&self) -> BTreeSet<Key> {
        let of_device = |(device, records): (u16, &Vec<Record>)| {
            let excused = (0..).zip(records).filter(|(_, record)| record.excused);
            excused.map(|(number, _)| Key { device, number }).collect::<Vec<_>>()
        };
        (0..).zip(&self.records).flat_map(of_device).collect()
    }

    /// For each topic its messages to be retained, each with its last reception.
    pub(crate) fn receptions(&self) -> BTreeMap<String, BTreeMap<Key, u64>> {
        self.retained.receptions()
    }
}
