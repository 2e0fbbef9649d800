//! One lane: what a route has waiting, in order of acceptance. The oldest part of it stands in memory; when that part
//! reaches its bound, the newer rest (the tail) is on the disk only and is loaded page by page as room comes.
//!
//! ```text
//! memory: [ e1 e2 e3 … en ]   disk only: [ en+1 … last ]   memory: [ live … ]
//! ```
//!
//! So what is handed over comes from memory only, and that is the lane's beginning: order needs no other rule. A route in another order
//! than oldest-first has a second part in memory, the live one: what comes in while the upstream is there, as far as there is room. It goes
//! ahead of the backlog, or in turns with it; each part keeps its order, and a message stays in its part for the gateway's life.
//! What was live is passed over when its place on the disk is read (`ahead`).

mod ages;
mod part;

use crate::event::{Durability, LaneState, Order, Packing, Policy, RouteSetup, Senml};
use crate::id::{DeviceId, LaneId, Seq, UpstreamId};
use crate::message::Message;
use crate::mutant::{Mutant, Planted};
use crate::stats::LaneStats;
use crate::thinning::Thinning;
use crate::time::{Duration, Instant, Stamp};
use ages::Ages;
use bytes::Bytes;
use part::Part;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Stretches of live messages amid the tail, as they come about when live messages find no room for a while. With so many of them what
/// comes is backlog.
const AHEAD_MOST: usize = 64;

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
    /// It came while its upstream was away, or was read from the disk: its route's drain limit counts it.
    pub(crate) backlog: bool,
}

/// What may be handed over of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// Also what is on the medium, and so safe.
    pub(crate) safe_too: bool,
    /// Also what the drain limit counts.
    pub(crate) drains: bool,
    /// Also the backlog of a route that has live messages go first.
    pub(crate) behind_live: bool,
    pub(crate) planted: Planted,
}

/// The message that is handed over next.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) message: Arc<Message>,
    pub(crate) resend: bool,
    /// It is of the live part.
    pub(crate) live: bool,
    /// The drain limit counts it.
    pub(crate) drains: bool,
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
    /// The beginning of the lane.
    backlog: Part,
    /// What goes ahead of it, in a route whose order says so.
    live: Part,
    /// Stretches of sequence numbers above `loaded_upto` in which the lane has live messages only, first and last, ascending.
    ahead: VecDeque<(Seq, Seq)>,
    /// Live messages go ahead of a backlog, or did: what an earlier life may have handed over is not the beginning of the lane. The store
    /// has a record of it, or is to have one.
    pub(crate) overtaken: bool,
    /// How long what is here has waited, where it may expire.
    ages: Option<Ages>,
    /// What of its share the backlog has not had, in percent of a message.
    credit: u8,
    /// Those that were put back among the others, with their bytes.
    put_back: BTreeMap<Seq, usize>,
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
            backlog: Part::default(),
            live: Part::default(),
            ahead: VecDeque::new(),
            overtaken: false,
            ages: None,
            credit: 0,
            put_back: BTreeMap::new(),
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
        if let Some((_, last)) = self.ahead.back().copied() {
            self.set_loaded_upto(last);
        }
        self.ahead.clear();
        let there = || self.backlog.there().chain(self.live.there());
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

    /// Of so much memory, what the beginning of the lane may take: the rest is for what goes ahead of it.
    pub(crate) fn share_of(&self, (messages, bytes): (usize, usize)) -> (usize, usize) {
        match self.policy.order {
            Order::OldestFirst => (messages, bytes),
            Order::LiveFirst | Order::Interleave(_) => ((messages / 2).max(1), (bytes / 2).max(1)),
        }
    }

    /// Whether the beginning of the lane may grow in memory.
    pub(crate) fn has_room(&self, footprint: usize, memory: (usize, usize)) -> bool {
        let (messages, bytes) = self.share_of(memory);
        self.backlog.has_room(footprint, messages, bytes)
    }

    /// Whether a message that comes now, its upstream there, goes to the live part.
    pub(crate) fn takes_live(&self, footprint: usize, memory: (usize, usize)) -> bool {
        let (messages, bytes) = self.share_of(memory);
        self.policy.order != Order::OldestFirst
            && self.live.has_room(footprint, messages, bytes)
            && (self.continues_ahead() || self.ahead.len() < AHEAD_MOST)
    }

    /// Whether nothing has come to the tail since the last live message.
    fn continues_ahead(&self) -> bool {
        self.tail.is_none_or(|tail| self.ahead.back().is_some_and(|(first, _)| tail < *first))
    }

    pub(crate) fn stats(&self) -> LaneStats {
        let oldest = [self.backlog.there().next(), self.live.there().next()];
        let oldest = oldest.into_iter().flatten().min_by_key(|entry| entry.seq);
        let oldest_ms = oldest.map(|entry| entry.message.received.unix_ms);
        LaneStats { live: self.live.len() as u64, oldest_ms, ..self.stats.clone() }
    }

    /// Whether anything waits that is not live.
    pub(crate) fn has_backlog(&self) -> bool {
        self.tail.is_some() || !self.backlog.is_empty()
    }

    /// What stands in memory, is on the medium and is not under way: what is at the beginning of the lane first, and what is live only
    /// when nothing of the rest is on the disk alone.
    pub(crate) fn on_medium(&self) -> impl Iterator<Item = Arc<Message>> {
        let there = |entry: &&Entry| entry.state == State::Waiting && entry.place == Place::Disk;
        let live = self.live.there().filter(|_| self.tail.is_none());
        self.backlog.there().chain(live).filter(there).map(|entry| Arc::clone(&entry.message))
    }

    /// Less than half of what it may hold is in memory: time to load more.
    pub(crate) fn is_low(&self, memory: (usize, usize)) -> bool {
        let (messages, bytes) = self.share_of(memory);
        self.backlog.is_low(messages, bytes)
    }

    /// Takes the time after which messages expire; `last` is the last message that may be here, `record` what an earlier life has written
    /// down of how long they have waited.
    pub(crate) fn set_expiry(&mut self, now: Instant, last: Seq, record: Option<&[u8]>) {
        match (self.policy.expires_after, &mut self.ages) {
            (None, ages) => *ages = None,
            (Some(time), Some(ages)) => ages.set_time(time),
            (Some(time), ages) => *ages = Some(Ages::new(time, now, last, record)),
        }
    }

    /// A message has come.
    pub(crate) fn came(&mut self, now: Instant, seq: Seq) {
        if let Some(ages) = &mut self.ages {
            ages.came(now, seq);
        }
    }

    /// Time has passed.
    pub(crate) fn age(&mut self, now: Instant) {
        if let Some(ages) = &mut self.ages {
            ages.age(now);
        }
    }

    /// What has expired in memory and can be discarded: it is on the medium and not under way.
    pub(crate) fn expired(&self) -> Vec<Arc<Message>> {
        let Some(expired) = self.ages.as_ref().map(Ages::expired) else { return Vec::new() };
        let there = |entry: &&Entry| entry.state == State::Waiting && entry.place == Place::Disk;
        let of = |part: &Part| -> Vec<_> {
            let old = part.there().take_while(|entry| entry.seq <= expired).filter(there);
            old.map(|entry| Arc::clone(&entry.message)).collect()
        };
        let mut old = of(&self.backlog);
        old.extend(of(&self.live));
        old
    }

    /// The mutant that takes the wall clock for elapsed time.
    pub(crate) fn expired_by_the_clock(&self, now: Stamp) -> Vec<Arc<Message>> {
        let Some(time) = self.policy.expires_after else { return Vec::new() };
        let old = |message: &Arc<Message>| {
            i128::from(now.unix_ms) - i128::from(message.received.unix_ms) >= time.as_millis().cast_signed()
        };
        self.on_medium().filter(old).collect()
    }

    pub(crate) fn has_expired(&self, seq: Seq) -> bool {
        self.ages.as_ref().is_some_and(|ages| seq <= ages.expired())
    }

    /// Whether something that is on the disk only has expired.
    pub(crate) fn wants_expired(&self) -> bool {
        let expired = self.ages.as_ref().map_or(Seq(0), Ages::expired);
        self.tail.is_some() && expired > self.loaded_upto
    }

    /// When something expires, or is to be written down of how long it has waited.
    pub(crate) fn age_timeout(&self, every: Duration) -> Option<Instant> {
        let ages = self.ages.as_ref()?;
        let writes = (self.stats.on_disk > 0).then(|| ages.write_at(every));
        [ages.timeout(), writes].into_iter().flatten().min()
    }

    /// What is to be written down of how long it has waited, when it is time; nothing while the store is `behind`, where it would pile up.
    pub(crate) fn age_record(&mut self, now: Instant, every: Duration, behind: bool) -> Option<Bytes> {
        let ages = self.ages.as_mut().filter(|_| self.stats.on_disk > 0)?;
        if ages.write_at(every) > now {
            return None;
        }
        if behind {
            ages.pass(now);
            return None;
        }
        Some(ages.record(now))
    }

    /// Puts a message at the end of the beginning of the lane.
    pub(crate) fn push(&mut self, entry: Entry, spill_at: Option<Instant>) {
        self.set_loaded_upto(entry.seq);
        self.spills.extend(spill_at.map(|at| (at, entry.seq)));
        self.backlog.push(entry);
    }

    /// Puts a message at the end of the live part.
    pub(crate) fn push_live(&mut self, entry: Entry, spill_at: Option<Instant>) {
        let seq = entry.seq;
        let continues = self.continues_ahead();
        match self.ahead.back_mut().filter(|_| continues) {
            _ if self.tail.is_none() => self.set_loaded_upto(seq),
            Some((_, last)) => *last = seq,
            None => self.ahead.push_back((seq, seq)),
        }
        self.spills.extend(spill_at.map(|at| (at, seq)));
        self.live.push(entry);
    }

    /// Puts a message that had left the lane in its place among the others.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        let seq = entry.seq;
        self.put_back.insert(seq, entry.message.footprint());
        if self.is_ahead(seq) {
            self.live.put_back(entry);
        } else {
            self.set_loaded_upto(seq);
            self.backlog.put_back(entry);
        }
        self.rewind();
    }

    /// Whether a message of this number is, or was, live, and its place on the disk has not been read.
    pub(crate) fn is_ahead(&self, seq: Seq) -> bool {
        self.ahead.iter().any(|(first, last)| (*first..=*last).contains(&seq))
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
        // What follows at once and has been live need not be read.
        while let Some((_, last)) = self.ahead.pop_front_if(|(first, _)| *first <= self.loaded_upto.next()) {
            self.loaded_upto = self.loaded_upto.max(last);
        }
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

    /// The message under `seq`, unless it has left memory.
    pub(crate) fn get(&mut self, seq: Seq) -> Option<&mut Entry> {
        match self.live.get(seq) {
            Some(entry) => Some(entry),
            None => self.backlog.get(seq),
        }
    }

    /// The next message that is handed over, as far as `may_send` lets it, told whether it is live; it then counts as handed over.
    pub(crate) fn next(
        &mut self,
        allowed: Allowed,
        may_send: impl Fn(&Message, bool) -> bool,
    ) -> Option<Next> {
        if self.discarding {
            return None;
        }
        let expired = self.ages.as_ref().map_or(Seq(0), Ages::expired);
        let stops = |entry: &Entry| {
            let on_disk = entry.place == Place::Disk;
            // What has expired is to be discarded, and that be durable, before anything that came after it goes.
            (entry.seq <= expired && !allowed.planted.is(Mutant::ExpiredGoes))
                || (entry.disk_first && !on_disk)
                || (on_disk && !allowed.safe_too)
                || (entry.backlog && !allowed.drains)
        };
        let live = self.live.next(stops, |entry| may_send(&entry.message, true));
        if live.is_none() && !allowed.safe_too && self.live.waits_on_disk() {
            // What is on the disk goes on sparingly for now; of it, this goes first.
            return None;
        }
        let behind = allowed.behind_live || self.policy.order != Order::LiveFirst;
        let backlog =
            if behind { self.backlog.next(stops, |entry| may_send(&entry.message, false)) } else { None };
        let is_live = match (live, backlog) {
            (Some(_), Some(_)) => !self.is_backlogs_turn() && !allowed.planted.is(Mutant::LiveWaits),
            (live, _) => live.is_some(),
        };
        let entry = if is_live { self.live.at(live?) } else { self.backlog.at(backlog?) }?;
        entry.state = State::Out;
        Some(Next {
            message: Arc::clone(&entry.message),
            resend: entry.resend,
            live: is_live,
            drains: entry.backlog,
        })
    }

    /// Whether, as both wait, the backlog's share lets it go first.
    fn is_backlogs_turn(&mut self) -> bool {
        let Order::Interleave(share) = self.policy.order else { return false };
        self.credit = self.credit.saturating_add(share);
        let is_turn = self.credit >= 100;
        self.credit -= if is_turn { 100 } else { 0 };
        is_turn
    }

    /// Begin again at the front when looking for the next message.
    pub(crate) fn rewind(&mut self) {
        self.live.rewind();
        self.backlog.rewind();
    }

    /// Takes a message out of memory.
    pub(crate) fn remove(&mut self, seq: Seq) {
        if self.live.remove(seq) || self.backlog.remove(seq) {
            self.put_back.remove(&seq);
            self.trim_spills();
        }
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
