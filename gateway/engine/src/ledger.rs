//! The ledger of losses: what was discarded or lost, bounded by merging, and durable in records of the store; and the tombstone
//! that tells an upstream of each entry, in a message with an id of its own. It decides nothing about what is lost, and writes and
//! sends nothing itself.
//!
//! An entry is open while losses are added to it. When it is due it is sealed: from then on it has the message that tells of
//! it, the same through every repetition and restart (P4), and it goes when an upstream has confirmed that. What is lost meanwhile goes to a new entry.

mod tombstone;

pub(crate) use tombstone::tombstone;

use crate::encoding::{put_message, take_message};
use crate::event::{Loss, LossReason, Op, RecordKey, RecordKind};
use crate::id::{DeviceId, LaneId, MessageId, Seq, Tag};
use crate::limits::Limits;
use crate::message::Message;
use crate::stats::LossStats;
use crate::time::{Duration, Instant};
use crate::topic::Topic;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;

const VERSION: u8 = 1;
/// The longest wait before a tombstone that an upstream refused is tried again.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// Refused tombstones of one upstream that wait to be tried again; with more the next entries stay open, where they are merged.
const REFUSED_MOST: usize = 16;

/// What an entry's losses have in common; less of it when the ledger is full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Common {
    pub(crate) lane: Option<LaneId>,
    pub(crate) reason: LossReason,
    pub(crate) device: Option<DeviceId>,
    pub(crate) topic: Option<Topic>,
}

impl Common {
    /// What is left of it when entries are merged: first the topics go, then the devices, then the routes.
    fn coarser(&self, step: usize) -> Self {
        let mut coarser = self.clone();
        coarser.topic = None;
        if step > 0 {
            coarser.device = None;
        }
        if step > 1 {
            coarser.lane = None;
        }
        coarser
    }
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) count: u64,
    pub(crate) received: Option<(i64, i64)>,
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.received = match (self.received, other.received) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (known, None) | (None, known) => known,
        };
    }
}

/// An entry that losses are added to.
#[derive(Debug)]
struct Open {
    id: MessageId,
    amount: Amount,
    /// When it may be sealed: what comes in one burst is told of once.
    due: Instant,
    /// It has changed since it was written.
    dirty: bool,
    /// The store has a record of it, or is to have one.
    written: bool,
}

/// Where a tombstone stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its record is not durable yet.
    Sealing,
    /// It may be handed over from this moment on.
    Waits(Instant),
    /// It is under way.
    Out(Tag),
}

/// An entry that is told of.
#[derive(Debug)]
struct Sealed {
    common: Common,
    count: u64,
    message: Arc<Message>,
    progress: Progress,
    refusals: u32,
    resend: bool,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    open: BTreeMap<Common, Open>,
    sealed: Vec<Sealed>,
    /// Records of entries that were merged into others and are to be removed with the next change.
    merged: Vec<MessageId>,
    entries: usize,
    due_after: Duration,
    retry_after: Duration,
    stats: LossStats,
}

impl Ledger {
    /// With what the store has kept of it.
    pub(crate) fn new(limits: &Limits, records: &[(RecordKey, Bytes)], now: Instant) -> Self {
        let mut ledger = Self {
            open: BTreeMap::new(),
            sealed: Vec::new(),
            merged: Vec::new(),
            entries: 0,
            due_after: Duration::ZERO,
            retry_after: Duration::ZERO,
            stats: LossStats::default(),
        };
        ledger.set_limits(limits);
        for (key, value) in records.iter().filter(|(key, _)| key.kind == RecordKind::Loss) {
            // The checksum was right: only another version can have written what is not understood, and its record stays.
            let Some((id, common, amount, message)) = decode(&key.key, value) else { continue };
            match message {
                Some(message) => ledger.sealed.push(Sealed {
                    common,
                    count: amount.count,
                    message: Arc::new(message),
                    progress: Progress::Waits(now),
                    refusals: 0,
                    // An earlier life may have handed it over.
                    resend: true,
                }),
                None => match ledger.open.get_mut(&common) {
                    // One of the two was being sealed when its life ended.
                    Some(open) => {
                        open.amount.add(amount);
                        open.dirty = true;
                        ledger.merged.push(id);
                    }
                    None => {
                        ledger
                            .open
                            .insert(common, Open { id, amount, due: now, dirty: false, written: true });
                    }
                },
            }
        }
        ledger
    }

    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.entries = limits.ledger_entries.max(1);
        self.due_after = limits.tombstone_after;
        self.retry_after = limits.retry_after;
    }

    /// Writes a loss down. It is durable with the next [`changes`](Self::changes). `next` gives ids to new entries.
    pub(crate) fn add(&mut self, now: Instant, loss: Loss, next: impl FnOnce() -> MessageId) {
        let Loss { lane, device, topic, count, received, reason } = loss;
        if count == 0 {
            return;
        }
        self.stats.count(reason, count);
        let common = Common { lane, reason, device, topic };
        let amount = Amount { count, received };
        if let Some(open) = self.open.get_mut(&common) {
            open.amount.add(amount);
            open.dirty = true;
            return;
        }
        let open = Open { id: next(), amount, due: now.after(self.due_after), dirty: true, written: false };
        self.open.insert(common, open);
        while self.open.len() > self.entries && self.merge() {}
    }

    /// Merges the largest group of entries that have something in common; false when there are no two.
    fn merge(&mut self) -> bool {
        for step in 0..3 {
            let mut groups: BTreeMap<Common, usize> = BTreeMap::new();
            self.open.keys().for_each(|common| *groups.entry(common.coarser(step)).or_default() += 1);
            let largest = groups.into_iter().filter(|(_, members)| *members > 1).max_by_key(|(_, n)| *n);
            let Some((coarser, _)) = largest else { continue };
            let all = std::mem::take(&mut self.open);
            let (group, others) = all.into_iter().partition(|(common, _)| common.coarser(step) == coarser);
            self.open = others;
            let group: BTreeMap<Common, Open> = group;
            let mut members = group.into_values();
            let Some(mut merged) = members.next() else { return false };
            for member in members {
                merged.amount.add(member.amount);
                merged.due = merged.due.min(member.due);
                // While commits fail nothing is written, and nothing to be removed piles up.
                self.merged.extend(member.written.then_some(member.id));
            }
            merged.dirty = true;
            self.open.insert(coarser, merged);
            return true;
        }
        false
    }

    /// What has changed since it was asked last: to take effect together, and together with what caused it.
    pub(crate) fn changes(&mut self) -> Vec<Op> {
        let mut ops: Vec<Op> = self.merged.drain(..).map(|id| Op::Remove { key: key(id) }).collect();
        for (common, open) in self.open.iter_mut().filter(|(_, open)| open.dirty) {
            open.dirty = false;
            open.written = true;
            ops.push(Op::Put { key: key(open.id), value: encode(common, open.amount, None) });
        }
        ops
    }

    /// Seals the first entry that is due on one of the lanes, unless one of them is sealed already and was not refused: one that its
    /// upstream does not take holds up no other. The change must be durable before [`next`](Self::next) gives it. `message` makes the message that tells of it.
    pub(crate) fn seal(
        &mut self,
        now: Instant,
        mut is_of: impl FnMut(Option<LaneId>) -> bool,
        message: impl FnOnce(MessageId, &Common, Amount) -> Option<Message>,
    ) -> Option<(MessageId, Op)> {
        let mut refused = 0;
        for sealed in self.sealed.iter().filter(|sealed| is_of(sealed.common.lane)) {
            if sealed.refusals == 0 {
                return None;
            }
            refused += 1;
        }
        if refused >= REFUSED_MOST {
            return None;
        }
        // What is dirty is written first: its commit makes the loss itself durable.
        let due = |open: &Open| !open.dirty && open.due <= now;
        let (common, open) = self.open.iter().find(|(common, open)| due(open) && is_of(common.lane))?;
        let message = message(open.id, common, open.amount)?;
        let common = common.clone();
        let open = self.open.remove(&common)?;
        let value = encode(&common, open.amount, Some(&message));
        self.sealed.push(Sealed {
            common,
            count: open.amount.count,
            message: Arc::new(message),
            progress: Progress::Sealing,
            refusals: 0,
            resend: false,
        });
        Some((open.id, Op::Put { key: key(open.id), value }))
    }

    /// The record of a sealed entry is durable.
    pub(crate) fn is_sealed(&mut self, now: Instant, id: MessageId) {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.message.id == id) {
            sealed.progress = Progress::Waits(now);
        }
    }

    /// The next tombstone of these lanes that may be handed over: its lane, its message, and whether it may have arrived before.
    /// One is under way at a time.
    pub(crate) fn next(
        &self,
        now: Instant,
        mut is_of: impl FnMut(Option<LaneId>) -> bool,
    ) -> Option<(Option<LaneId>, Arc<Message>, bool)> {
        let mut due = None;
        for sealed in self.sealed.iter().filter(|sealed| is_of(sealed.common.lane)) {
            match sealed.progress {
                Progress::Out(_) => return None,
                Progress::Waits(at) if at <= now => due = due.or(Some(sealed)),
                Progress::Waits(_) | Progress::Sealing => {}
            }
        }
        due.map(|sealed| (sealed.common.lane, Arc::clone(&sealed.message), sealed.resend))
    }

    /// A tombstone was handed over.
    pub(crate) fn sent(&mut self, id: MessageId, tag: Tag) {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.message.id == id) {
            sealed.progress = Progress::Out(tag);
        }
    }

    /// Whether what was handed over under `tag` is a tombstone.
    pub(crate) fn has(&self, tag: Tag) -> bool {
        self.sealed.iter().any(|sealed| sealed.progress == Progress::Out(tag))
    }

    /// An upstream has confirmed a tombstone: the change that removes it.
    pub(crate) fn confirmed(&mut self, tag: Tag) -> Option<Op> {
        let index = self.sealed.iter().position(|sealed| sealed.progress == Progress::Out(tag))?;
        let told = self.sealed.remove(index);
        self.stats.tombstones += 1;
        Some(Op::Remove { key: key(told.message.id) })
    }

    /// An upstream has refused a tombstone. It stays, and is tried again more and more seldom.
    pub(crate) fn refused(&mut self, now: Instant, tag: Tag) {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.progress == Progress::Out(tag)) {
            let wait = self.retry_after * (1 << sealed.refusals.min(16));
            sealed.refusals = sealed.refusals.saturating_add(1);
            sealed.progress = Progress::Waits(now.after(wait.min(RETRY_MOST)));
        }
    }

    /// A link is gone: nobody knows whether what was handed over under `tag` has arrived.
    pub(crate) fn unsettled(&mut self, now: Instant, tag: Tag) {
        if let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.progress == Progress::Out(tag)) {
            sealed.progress = Progress::Waits(now);
            sealed.resend = true;
        }
    }

    /// When time alone will make something due, after `now`.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        let retries = self.sealed.iter().filter_map(|sealed| match sealed.progress {
            Progress::Waits(at) => Some(at),
            Progress::Sealing | Progress::Out(_) => None,
        });
        self.open.values().map(|open| open.due).chain(retries).filter(|at| *at > now).min()
    }

    pub(crate) fn stats(&self) -> LossStats {
        let open = self.open.values().map(|open| open.amount.count);
        let untold = open.chain(self.sealed.iter().map(|sealed| sealed.count));
        LossStats {
            entries: (self.open.len() + self.sealed.len()) as u64,
            untold: untold.fold(0, u64::saturating_add),
            ..self.stats.clone()
        }
    }
}

fn key(id: MessageId) -> RecordKey {
    let mut key = BytesMut::with_capacity(16);
    key.put_u64(id.epoch);
    key.put_u64(id.seq.0);
    RecordKey { kind: RecordKind::Loss, key: key.freeze() }
}

// An entry, integers big-endian: version u8, reason u8, lane (u8 whether there is one, u16), count u64, reception (u8 whether it
// is known, i64, i64), device and topic (each a length as u16, empty is none), then the sealed entry's message.
fn encode(common: &Common, amount: Amount, message: Option<&Message>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    out.put_u8(common.reason as u8);
    out.put_u8(common.lane.is_some().into());
    out.put_u16(common.lane.map_or(0, |lane| lane.0));
    out.put_u64(amount.count);
    out.put_u8(amount.received.is_some().into());
    let (first, last) = amount.received.unwrap_or_default();
    out.put_i64(first);
    out.put_i64(last);
    let device = common.device.as_ref().map_or("", DeviceId::as_str);
    let topic = common.topic.as_ref().map_or("", Topic::as_str);
    for text in [device, topic] {
        // Ids and topics are far shorter (`MAX_ID_BYTES`, `Limits::topic_bytes`).
        out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        out.put_slice(text.as_bytes());
    }
    if let Some(message) = message {
        put_message(&mut out, message);
    }
    out.freeze()
}

/// Reads an entry's record: the id of its tombstone and the loss.
#[must_use]
pub fn read(key: &RecordKey, value: &[u8]) -> Option<(MessageId, Loss)> {
    let (id, Common { lane, reason, device, topic }, Amount { count, received }, _) =
        decode(&key.key, value)?;
    Some((id, Loss { lane, device, topic, count, received, reason }))
}

type Entry = (MessageId, Common, Amount, Option<Message>);

fn decode(mut key: &[u8], value: &[u8]) -> Option<Entry> {
    let id = MessageId { epoch: key.try_get_u64().ok()?, seq: Seq(key.try_get_u64().ok()?) };
    let mut rest = value;
    if rest.try_get_u8().ok()? != VERSION {
        return None;
    }
    let reason = rest.try_get_u8().ok()?;
    let reason = LossReason::ALL.into_iter().find(|known| *known as u8 == reason)?;
    let has_lane = rest.try_get_u8().ok()? == 1;
    let lane = Some(LaneId(rest.try_get_u16().ok()?)).filter(|_| has_lane);
    let count = rest.try_get_u64().ok()?;
    let is_known = rest.try_get_u8().ok()? == 1;
    let received = Some((rest.try_get_i64().ok()?, rest.try_get_i64().ok()?)).filter(|_| is_known);
    let mut text = || {
        let length = usize::from(rest.try_get_u16().ok()?);
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        std::str::from_utf8(text).ok()
    };
    let device = match text()? {
        "" => None,
        device => Some(DeviceId::new(device).ok()?),
    };
    let topic = match text()? {
        "" => None,
        topic => Some(Topic::new(topic).ok()?),
    };
    let message = if rest.is_empty() { None } else { Some(take_message(&mut rest).ok()?) };
    Some((id, Common { lane, reason, device, topic }, Amount { count, received }, message))
}

#[cfg(test)]
mod tests;
