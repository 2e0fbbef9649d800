//! One lane: what a route has waiting, in order of acceptance. The oldest part of it stands in memory; when that part
//! reaches its bound, the newer rest (the tail) is on the disk only and is loaded page by page as room comes.
//!
//! ```text
//! memory: [ e1 e2 e3 … en ]   disk only: [ en+1 … last ]
//! ```
//!
//! So memory is always a prefix of the lane, and what is handed over comes from memory only: order needs no other rule.

use crate::event::{Durability, LaneState, Packing, Policy, RouteSetup, Senml};
use crate::id::{DeviceId, LaneId, Seq, UpstreamId};
use crate::message::Message;
use crate::stats::LaneStats;
use crate::thinning::Thinning;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Whom to tell when a message is safe: an index of the core's table of receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u32);

/// Where a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere but here.
    Memory,
    /// A commit of it is ordered or waits to be.
    Saving,
    /// On the medium.
    Disk,
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// May be handed over.
    Waiting,
    /// Handed over, not settled.
    Out,
    /// Confirmed while its commit was under way: forgotten when that is done.
    Confirmed,
    /// On its way to the dead letters.
    Burying,
    /// Has left the lane; its place is cleared away later.
    Gone,
}

/// A message in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seq: Seq,
    pub(crate) message: Arc<Message>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) place: Place,
    pub(crate) state: State,
    /// Must be on the medium before it is handed over.
    pub(crate) disk_first: bool,
    /// An earlier handing over is unresolved, or may have happened before a restart.
    pub(crate) resend: bool,
}

/// The oldest of the recovered messages: an earlier life may have handed them over, so they leave with the resend mark.
#[derive(Debug)]
pub(crate) struct Suspects {
    left: u64,
    upto: Seq,
}

impl Suspects {
    /// Whether the next loaded message is one of them. One that is marked as it is (a dead letter sent again, which may have come among
    /// them later) uses up nobody's place.
    pub(crate) fn take_one(&mut self, message: &Message) -> bool {
        let is_one = self.left > 0 && message.id.seq <= self.upto;
        self.left = self.left.saturating_sub(u64::from(!message.duplicate));
        is_one
    }
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) upstream: UpstreamId,
    pub(crate) durability: Durability,
    pub(crate) priority: u8,
    pub(crate) routing_key: Option<String>,
    pub(crate) senml: Senml,
    pub(crate) packing: Option<Arc<Packing>>,
    pub(crate) policy: Policy,
    pub(crate) thinning: Thinning,
    /// Room is to be made here, and what could be discarded is not in memory.
    pub(crate) wants_room: bool,
    /// The removal of discarded messages is not durable. Nothing leaves meanwhile: a crash would bring them back behind what was to
    /// come after them.
    pub(crate) discarding: bool,
    pub(crate) salvaged: bool,
    pub(crate) stats: LaneStats,
    /// Ascending; entries that are gone stay until they are at the front or too many.
    entries: VecDeque<Entry>,
    gone: usize,
    bytes: usize,
    /// Those that were put back among the others, with their bytes.
    put_back: BTreeMap<Seq, usize>,
    /// Entries before this index have nothing to hand over.
    cursor: usize,
    /// Everything of the lane up to here has been in memory.
    loaded_upto: Seq,
    /// The newest message that is on the disk only; `None` when memory holds the whole lane.
    pub(crate) tail: Option<Seq>,
    /// Messages of the tail whose commit is not done.
    pub(crate) tail_saving: u64,
    pub(crate) loading: bool,
    /// Loading is pointless until a commit is done, or until a time.
    pub(crate) load_after: Option<Option<Instant>>,
    pub(crate) suspects: Suspects,
    /// Relayed messages and when they are to be committed, ascending.
    spills: VecDeque<(Instant, Seq)>,
}

impl Lane {
    pub(crate) fn new(route: &RouteSetup, recovered: Option<LaneState>, suspects: u64) -> Self {
        let mut lane = Self {
            id: route.lane,
            upstream: route.upstream,
            durability: route.durability,
            priority: route.priority,
            routing_key: route.routing_key.clone(),
            senml: route.senml,
            packing: route.packing.clone(),
            policy: route.policy,
            thinning: Thinning::default(),
            wants_room: false,
            discarding: false,
            salvaged: route.salvaged,
            stats: LaneStats { name: route.name.clone(), ..LaneStats::default() },
            entries: VecDeque::new(),
            gone: 0,
            bytes: 0,
            put_back: BTreeMap::new(),
            cursor: 0,
            loaded_upto: Seq(0),
            tail: None,
            tail_saving: 0,
            loading: false,
            load_after: None,
            suspects: Suspects { left: suspects, upto: recovered.map_or(Seq(0), |state| state.last) },
            spills: VecDeque::new(),
        };
        // Where the rows end is certain; the counters beside may be damaged.
        if let Some(state) = recovered.filter(|state| state.last > Seq(0)) {
            lane.tail = Some(state.last);
            lane.stats.waiting = state.rows;
            lane.stats.on_disk = state.rows;
            lane.stats.on_disk_bytes = state.bytes;
        }
        lane
    }

    /// More stands on the disk than was known, up to `state.last`; none of it has been in memory.
    pub(crate) fn salvaged(&mut self, state: LaneState) {
        self.tail = Some(self.tail.map_or(state.last, |tail| tail.max(state.last)));
        self.load_after = None;
        self.stats.waiting = self.stats.waiting.max(state.rows);
        self.stats.on_disk = self.stats.on_disk.max(state.rows);
        self.stats.on_disk_bytes = self.stats.on_disk_bytes.max(state.bytes);
    }

    /// The backlog is at its end: memory holds the whole lane, and the counters can be put right.
    pub(crate) fn end_tail(&mut self) {
        self.tail = None;
        let there = || self.entries.iter().filter(|entry| entry.state != State::Gone);
        let on_disk = || there().filter(|entry| entry.place == Place::Disk);
        self.stats.waiting = there().filter(|entry| entry.state != State::Confirmed).count() as u64;
        self.stats.on_disk = on_disk().count() as u64;
        self.stats.on_disk_bytes = on_disk().map(|entry| entry.message.footprint() as u64).sum();
    }

    /// How long a relayed message may wait for its confirm.
    pub(crate) fn spill_after(&self) -> Option<Duration> {
        match self.durability {
            Durability::Relay { spill_after } => Some(spill_after),
            Durability::Disk => None,
        }
    }

    pub(crate) fn has_room(&self, footprint: usize, messages: usize, bytes: usize) -> bool {
        let held = self.entries.len() - self.gone;
        held == 0 || (held < messages && self.bytes + footprint <= bytes)
    }

    /// What stands in memory, is on the medium and is not under way, the oldest first.
    pub(crate) fn on_medium(&self) -> impl Iterator<Item = Arc<Message>> {
        let there = |entry: &&Entry| entry.state == State::Waiting && entry.place == Place::Disk;
        self.entries.iter().filter(there).map(|entry| Arc::clone(&entry.message))
    }

    /// Less than half of what it may hold is in memory: time to load more.
    pub(crate) fn is_low(&self, messages: usize, bytes: usize) -> bool {
        (self.entries.len() - self.gone) * 2 <= messages && self.bytes * 2 <= bytes
    }

    pub(crate) fn push(&mut self, entry: Entry, spill_at: Option<Instant>) {
        self.loaded_upto = self.loaded_upto.max(entry.seq);
        self.bytes += entry.message.footprint();
        if let Some(at) = spill_at {
            self.spills.push_back((at, entry.seq));
        }
        self.entries.push_back(entry);
    }

    /// Puts a message that had left the lane in its place among the others.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        let footprint = entry.message.footprint();
        let seq = entry.seq;
        match self.entries.binary_search_by_key(&seq, |entry| entry.seq) {
            // What is left of it from before, which counts for nothing any more.
            Ok(index) => {
                self.entries.remove(index);
                self.gone = self.gone.saturating_sub(1);
                self.entries.insert(index, entry);
            }
            Err(index) => self.entries.insert(index, entry),
        }
        self.loaded_upto = self.loaded_upto.max(seq);
        self.bytes += footprint;
        self.put_back.insert(seq, footprint);
        self.rewind();
    }

    /// Bytes of messages that were put back and are not through.
    pub(crate) fn put_back_bytes(&self) -> usize {
        self.put_back.values().sum()
    }

    pub(crate) fn loaded_upto(&self) -> Seq {
        self.loaded_upto
    }

    pub(crate) fn set_loaded_upto(&mut self, seq: Seq) {
        self.loaded_upto = self.loaded_upto.max(seq);
    }

    /// A message is no longer on the medium, or its removal is ordered.
    pub(crate) fn left_disk(&mut self, footprint: usize) {
        self.stats.on_disk = self.stats.on_disk.saturating_sub(1);
        self.stats.on_disk_bytes = match self.stats.on_disk {
            0 => 0,
            _ => self.stats.on_disk_bytes.saturating_sub(footprint as u64),
        };
    }

    /// Damaged rows are gone. Nobody can tell how large they were: an average one each, so that what is left adds up.
    pub(crate) fn lost_on_disk(&mut self, rows: u64) {
        let stats = &mut self.stats;
        let share = stats.on_disk_bytes / stats.on_disk.max(1);
        stats.on_disk = stats.on_disk.saturating_sub(rows);
        stats.on_disk_bytes = match stats.on_disk {
            0 => 0,
            _ => stats.on_disk_bytes.saturating_sub(share.saturating_mul(rows)),
        };
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        // Confirms come mostly in order: look at the front first.
        if self.entries.front().is_some_and(|entry| entry.seq == seq) {
            return Some(0);
        }
        self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()
    }

    /// The message under `seq`, unless it has left memory.
    pub(crate) fn get(&mut self, seq: Seq) -> Option<&mut Entry> {
        let index = self.index(seq)?;
        self.entries.get_mut(index).filter(|entry| entry.state != State::Gone)
    }

    /// The next message that may be handed over, as far as `may_send` allows; `safe_too`: also one that is on the medium.
    pub(crate) fn next(&mut self, safe_too: bool, may_send: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        if self.discarding {
            return None;
        }
        while let Some(entry) = self.entries.get(self.cursor) {
            if entry.state == State::Waiting {
                let on_disk = entry.place == Place::Disk;
                if (entry.disk_first && !on_disk) || (on_disk && !safe_too) {
                    return None;
                }
                if may_send(entry) {
                    break;
                }
            }
            self.cursor += 1;
        }
        let cursor = self.cursor;
        self.entries.get_mut(cursor)
    }

    /// Begin again at the front when looking for the next message.
    pub(crate) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Takes a message out of memory.
    pub(crate) fn remove(&mut self, seq: Seq) {
        let Some(index) = self.index(seq) else { return };
        let Some(entry) = self.entries.get_mut(index) else { return };
        if entry.state == State::Gone {
            return;
        }
        entry.state = State::Gone;
        self.gone += 1;
        self.bytes -= entry.message.footprint();
        self.put_back.remove(&seq);
        while self.entries.front().is_some_and(|entry| entry.state == State::Gone) {
            self.entries.pop_front();
            self.gone -= 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
        if self.gone * 2 > self.entries.len() && self.gone > 64 {
            self.entries.retain(|entry| entry.state != State::Gone);
            self.gone = 0;
            self.cursor = 0;
        }
        self.trim_spills();
    }

    /// Clears away the deadlines of messages that no longer need one.
    fn trim_spills(&mut self) {
        while let Some(&(_, seq)) = self.spills.front() {
            if self.get(seq).is_some_and(|entry| entry.place == Place::Memory) {
                break;
            }
            self.spills.pop_front();
        }
    }

    /// When the first relayed message is to be committed.
    pub(crate) fn spill_timeout(&self) -> Option<Instant> {
        self.spills.front().map(|&(at, _)| at)
    }

    /// The relayed messages of one device, in order: a later one of it is committed now, and must not be on the medium before
    /// them. They count as being saved.
    pub(crate) fn spill_of(&mut self, device: &DeviceId) -> Vec<Arc<Message>> {
        let waiting: Vec<Seq> = self.spills.iter().map(|&(_, seq)| seq).collect();
        let mut spilled = Vec::new();
        for seq in waiting {
            let relayed =
                |entry: &&mut Entry| entry.place == Place::Memory && entry.message.device == *device;
            if let Some(entry) = self.get(seq).filter(relayed) {
                entry.place = Place::Saving;
                spilled.push(Arc::clone(&entry.message));
            }
        }
        self.trim_spills();
        spilled
    }

    /// The relayed messages whose time is up (`now`), or all of them (`None`), in order. They count as being saved.
    pub(crate) fn spill(&mut self, now: Option<Instant>) -> Vec<Arc<Message>> {
        let mut spilled = Vec::new();
        while let Some(&(at, seq)) = self.spills.front() {
            if now.is_some_and(|now| at > now) {
                break;
            }
            self.spills.pop_front();
            if let Some(entry) = self.get(seq).filter(|entry| entry.place == Place::Memory) {
                entry.place = Place::Saving;
                spilled.push(Arc::clone(&entry.message));
            }
        }
        spilled
    }
}
