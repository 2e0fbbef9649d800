//! Decides where each message is safe and keeps the lanes in order. It tells what to commit and what to load, and who may
//! be told that a message is safe; it does not speak to devices, the store or upstreams itself.

use crate::event::{Attempts, Durability, LaneState, Op, Packing, RecordKey, RecordKind, RouteSetup, Senml};
use crate::id::{LaneId, Seq, UpstreamId};
use crate::lane::{Allowed, Entry, Lane, Next, Place, State, Ticket};
use crate::limits::Limits;
use crate::message::Message;
use crate::mutant::{Mutant, Planted};
use crate::stats::LaneStats;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod room;

pub(crate) use room::Discard;

/// Which stored message a commit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The core's index of the lane.
    pub(crate) lane: usize,
    pub(crate) seq: Seq,
    pub(crate) footprint: usize,
    /// Whom to tell, when the message is not in memory, where its entry knows.
    pub(crate) ticket: Option<Ticket>,
}

/// How a message may become safe, as far as the moment and its sender allow; the route's durability comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its upstream is ready: it may wait for the confirm.
    Relay,
    /// Its upstream is not there: commit at once.
    Disk,
    /// It must be on the medium before it is handed over.
    DiskFirst,
}

/// A commit that the spool needs.
#[derive(Debug)]
pub(crate) struct Save {
    pub(crate) op: Op,
    pub(crate) row: Row,
}

/// What an event about one message leads to.
#[derive(Debug, Default)]
pub(crate) struct Consequence {
    /// This message is safe for this lane: its receipt may count it.
    pub(crate) safe: Option<Ticket>,
    /// This row is to be forgotten.
    pub(crate) forget: Option<(LaneId, Seq)>,
}

/// A page to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageOrder {
    pub(crate) lane: LaneId,
    pub(crate) after: Seq,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Spool {
    lanes: Vec<Lane>,
    lane_messages: usize,
    lane_bytes: usize,
    /// Rows of a lane that an earlier life may have handed over without forgetting them: what stood in its memory,
    /// and what waited to be forgotten.
    suspects: u64,
    /// Lanes of which it may have handed over anything, as live messages went ahead of a backlog.
    overtaken: BTreeSet<LaneId>,
    /// Changes of what the store knows of them.
    notes: Vec<Op>,
    /// Bytes on the disk at the most, all lanes together.
    bytes_max: u64,
    /// Bytes accepted and neither committed nor confirmed.
    unsafe_bytes: usize,
    ages_every: Duration,
    planted: Planted,
}

impl Spool {
    pub(crate) fn new(
        routes: &[RouteSetup],
        recovered: &[LaneState],
        records: &[(RecordKey, Bytes)],
        limits: &Limits,
        planted: Planted,
        now: Instant,
    ) -> Self {
        let mut spool = Self {
            lanes: Vec::new(),
            lane_messages: 0,
            lane_bytes: 0,
            suspects: (limits.lane_memory_messages + 2 * limits.forgets_waiting + limits.commit_ops) as u64,
            overtaken: records.iter().filter_map(|(key, _)| lane_of_overtaken(key)).collect(),
            notes: Vec::new(),
            bytes_max: 0,
            unsafe_bytes: 0,
            ages_every: Duration::ZERO,
            planted,
        };
        let stored = |lane| recovered.iter().find(|state| state.lane == lane).copied();
        let records = |lane| {
            let key = record_of(RecordKind::Ages, lane);
            records.iter().find(|(found, _)| *found == key).map(|(_, record)| &record[..])
        };
        spool.configure(routes, limits, (now, Seq(0)), |lane| (stored(lane), records(lane)));
        spool
    }

    /// Takes new settings; lanes keep what they have waiting, nothing above `last`. `stored` says what the store may hold of a lane that is
    /// new here, and what it has of how long that has waited.
    pub(crate) fn configure<'a>(
        &mut self,
        routes: &[RouteSetup],
        limits: &Limits,
        (now, last): (Instant, Seq),
        stored: impl Fn(LaneId) -> (Option<LaneState>, Option<&'a [u8]>),
    ) {
        self.lane_messages = limits.lane_memory_messages.max(1);
        self.lane_bytes = limits.lane_memory_bytes;
        self.bytes_max = limits.spool_bytes;
        self.ages_every = limits.ages_every;
        for route in routes {
            if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == route.lane) {
                lane.durability = route.durability;
                lane.priority = route.priority;
                lane.upstream = route.upstream;
                lane.routing_key.clone_from(&route.routing_key);
                lane.senml = route.senml;
                lane.packing.clone_from(&route.packing);
                lane.policy = route.policy;
                lane.salvaged = route.salvaged;
                lane.stats.name.clone_from(&route.name);
                lane.set_expiry(now, last, None);
            } else {
                let overtaken = self.overtaken.contains(&route.lane);
                let suspects = if overtaken { u64::MAX } else { self.suspects };
                let (stored, ages) = stored(route.lane);
                let mut lane = Lane::new(route, stored, suspects);
                lane.overtaken = overtaken;
                lane.set_expiry(now, stored.map_or(Seq(0), |state| state.last), ages);
                self.lanes.push(lane);
            }
        }
    }

    /// What a lane may hold in memory: messages, and their bytes.
    fn memory(&self) -> (usize, usize) {
        (self.lane_messages, self.lane_bytes)
    }

    /// What the store is to know of lanes in which live messages go ahead of a backlog, before anything else that is ordered.
    pub(crate) fn notes(&mut self) -> impl Iterator<Item = Op> {
        self.notes.drain(..)
    }

    /// Notes lanes whose backlog is through: what goes from here on is the beginning of the lane again.
    pub(crate) fn note_caught_up(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.overtaken && !lane.has_backlog()) {
            lane.overtaken = false;
            self.overtaken.remove(&lane.id);
            self.notes.push(Op::Remove { key: record_of(RecordKind::Overtaken, lane.id) });
        }
    }

    /// Time has passed.
    pub(crate) fn age(&mut self, now: Instant) {
        self.lanes.iter_mut().for_each(|lane| lane.age(now));
    }

    /// Notes how long messages have waited, where it was done so long ago, unless the store is `behind`.
    pub(crate) fn note_ages(&mut self, now: Instant, every: Duration, behind: bool) {
        for lane in &mut self.lanes {
            if let Some(value) = lane.age_record(now, every, behind) {
                self.notes.push(Op::Put { key: record_of(RecordKind::Ages, lane.id), value });
            }
        }
    }

    /// Plants a deliberate defect.
    #[cfg(feature = "mutants")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The mutant that takes an ordered commit for a done one needs the ticket early.
    #[cfg(feature = "mutants")]
    pub(crate) fn take_ticket(&mut self, lane: usize, seq: Seq) -> Option<Ticket> {
        self.lanes.get_mut(lane)?.get(seq)?.ticket.take()
    }

    /// The template of a lane's routing keys.
    pub(crate) fn routing_key(&self, lane: usize) -> Option<&str> {
        self.lanes.get(lane)?.routing_key.as_deref()
    }

    /// Whether what a lane holds was salvaged from a damaged store.
    pub(crate) fn is_salvaged(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.salvaged)
    }

    /// What was salvaged stands in its lane.
    pub(crate) fn salvaged(&mut self, state: LaneState) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == state.lane) {
            lane.salvaged(state);
        }
    }

    /// What a lane's route does with SenML.
    pub(crate) fn senml(&self, lane: usize) -> Senml {
        self.lanes.get(lane).map(|lane| lane.senml).unwrap_or_default()
    }

    /// How a lane's messages travel together.
    pub(crate) fn packing(&self, lane: usize) -> Option<Arc<Packing>> {
        self.lanes.get(lane)?.packing.clone()
    }

    /// The index of a lane.
    pub(crate) fn index(&self, id: LaneId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.id == id)
    }

    /// The lane at an index.
    pub(crate) fn id(&self, index: usize) -> Option<LaneId> {
        self.lanes.get(index).map(|lane| lane.id)
    }

    /// Where a lane leads.
    pub(crate) fn upstream(&self, id: LaneId) -> Option<UpstreamId> {
        self.lanes.get(self.index(id)?).map(|lane| lane.upstream)
    }

    /// The lanes that lead to an upstream, gathered by priority, the higher first.
    pub(crate) fn lanes_to(&self, upstream: UpstreamId) -> Vec<Vec<usize>> {
        let mut by_priority: BTreeMap<Reverse<u8>, Vec<usize>> = BTreeMap::new();
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.upstream == upstream) {
            by_priority.entry(Reverse(lane.priority)).or_default().push(index);
        }
        by_priority.into_values().collect()
    }

    pub(crate) fn unsafe_bytes(&self) -> usize {
        self.unsafe_bytes
    }

    /// Bytes of messages on the disk, all lanes together.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.stats.on_disk_bytes).sum()
    }

    fn save(lane: &Lane, index: usize, message: &Arc<Message>, ticket: Option<Ticket>) -> Save {
        Save {
            row: Row { lane: index, seq: message.id.seq, footprint: message.footprint(), ticket },
            op: Op::Insert { lane: lane.id, message: Arc::clone(message) },
        }
    }

    /// Puts a message at the end of a lane; `ready`: its upstream is there. The commits that this needs now are added to `saves`.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        index: usize,
        message: &Arc<Message>,
        ticket: Option<Ticket>,
        (way, ready): (Way, bool),
        saves: &mut Vec<Save>,
    ) {
        let planted = self.planted;
        let memory = self.memory();
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let footprint = message.footprint();
        lane.stats.entered += 1;
        lane.stats.waiting += 1;
        lane.came(now, message.id.seq);
        self.unsafe_bytes += footprint;
        let overtakes = planted.is(Mutant::LiveOvertakesDisk);
        let live = ready && lane.takes_live(footprint, memory);
        if !live && ((lane.tail.is_some() && !overtakes) || !lane.has_room(footprint, memory)) {
            // What came before must not be committed after: a crash between the two would turn them round.
            let earlier = if lane.tail.is_none() { lane.spill(None) } else { lane.spill_of(&message.device) };
            saves.extend(earlier.iter().map(|message| Self::save(lane, index, message, None)));
            lane.tail = Some(message.id.seq);
            lane.tail_saving += 1;
            saves.push(Self::save(lane, index, message, ticket));
            return;
        }
        let disk_first = way == Way::DiskFirst || lane.durability == Durability::Disk;
        let spill_at =
            lane.spill_after().filter(|_| way == Way::Relay && !disk_first).map(|wait| now.after(wait));
        let place = if spill_at.is_some() { Place::Memory } else { Place::Saving };
        if place == Place::Saving {
            let earlier = lane.spill_of(&message.device);
            saves.extend(earlier.iter().map(|message| Self::save(lane, index, message, None)));
        }
        let entry = Entry {
            seq: message.id.seq,
            message: Arc::clone(message),
            ticket,
            place,
            state: State::Waiting,
            disk_first,
            resend: false,
            backlog: !ready,
        };
        if live {
            if lane.has_backlog() && !std::mem::replace(&mut lane.overtaken, true) {
                self.overtaken.insert(lane.id);
                if !planted.is(Mutant::OvertakingUnnoted) {
                    self.notes.push(Op::Put {
                        key: record_of(RecordKind::Overtaken, lane.id),
                        value: Bytes::new(),
                    });
                }
            }
            lane.push_live(entry, spill_at);
        } else {
            lane.push(entry, spill_at);
        }
        if place == Place::Saving {
            saves.push(Self::save(lane, index, message, None));
        }
    }

    /// The relayed messages of all lanes whose time is up, as commits.
    pub(crate) fn spill_due(&mut self, now: Instant) -> Vec<Save> {
        self.spill_where(Some(now), |lane| lane.spill_timeout().is_some_and(|at| at <= now))
    }

    /// All relayed messages to an upstream, because it is not there to confirm them.
    pub(crate) fn spill_upstream(&mut self, upstream: UpstreamId) -> Vec<Save> {
        self.spill_where(None, |lane| lane.upstream == upstream)
    }

    /// All relayed messages, because the gateway stops.
    pub(crate) fn spill_all(&mut self) -> Vec<Save> {
        self.spill_where(None, |_| true)
    }

    fn spill_where(&mut self, due: Option<Instant>, which: impl Fn(&Lane) -> bool) -> Vec<Save> {
        let mut saves = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if which(lane) {
                for message in lane.spill(due) {
                    saves.push(Self::save(lane, index, &message, None));
                }
            }
        }
        saves
    }

    /// When the first relayed message is to be committed, something expires, or a failed load is to be tried again.
    /// A load whose time has passed waits for something else (its upstream, room), not for time.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        let load_after = |lane: &Lane| lane.load_after.flatten().filter(|&at| at > now);
        let of = |lane: &Lane| [lane.spill_timeout(), load_after(lane), lane.age_timeout(self.ages_every)];
        self.lanes.iter().flat_map(of).flatten().min()
    }

    /// Whether a change that waits is still needed: not when its message was confirmed in the meantime.
    pub(crate) fn wants(&mut self, op: &Op) -> bool {
        let Op::Insert { lane, message } = op else { return true };
        let Some(lane) = self.index(*lane).and_then(|index| self.lanes.get_mut(index)) else { return true };
        if lane.durability == Durability::Disk {
            return true;
        }
        match lane.get(message.id.seq) {
            Some(entry) if entry.state == State::Confirmed => {
                lane.remove(message.id.seq);
                false
            }
            _ => true,
        }
    }

    /// A message is on the medium.
    pub(crate) fn saved(&mut self, row: Row) -> Consequence {
        let mut consequence = Consequence::default();
        let Some(lane) = self.lanes.get_mut(row.lane) else { return consequence };
        lane.stats.on_disk += 1;
        lane.stats.on_disk_bytes += row.footprint as u64;
        let id = lane.id;
        let Some(entry) = lane.get(row.seq) else {
            // Of the tail: not in memory.
            lane.tail_saving = lane.tail_saving.saturating_sub(1);
            lane.load_after = None;
            self.unsafe_bytes = self.unsafe_bytes.saturating_sub(row.footprint);
            consequence.safe = row.ticket;
            return consequence;
        };
        entry.place = Place::Disk;
        consequence.safe = entry.ticket.take();
        if entry.state == State::Confirmed {
            if !self.planted.is(Mutant::ConfirmedStays) {
                consequence.forget = Some((id, row.seq));
                lane.left_disk(row.footprint);
            }
            lane.remove(row.seq);
        } else {
            self.unsafe_bytes = self.unsafe_bytes.saturating_sub(row.footprint);
        }
        consequence
    }
}

/// Handing over.
impl Spool {
    /// The next message of a lane that may be handed over, as far as `may_send` lets it, told whether it is live; it then counts as
    /// handed over.
    pub(crate) fn next(
        &mut self,
        lane: usize,
        allowed: Allowed,
        may_send: impl Fn(&Message, bool) -> bool,
    ) -> Option<Next> {
        let next = self.lanes.get_mut(lane)?.next(allowed, may_send)?;
        Some(Next { resend: next.resend && !self.planted.is(Mutant::ResendUnmarked), ..next })
    }

    /// Whether a message has waited too long.
    pub(crate) fn has_expired(&self, lane: usize, seq: Seq) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.has_expired(seq))
            && !self.planted.is(Mutant::ExpiredGoes)
    }

    /// Look again from the front: something that was passed over may go now.
    pub(crate) fn rewind(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.rewind();
        }
    }

    /// The upstream has taken responsibility.
    pub(crate) fn confirmed(&mut self, index: usize, seq: Seq) -> Consequence {
        let mut consequence = Consequence::default();
        let Some(lane) = self.lanes.get_mut(index) else { return consequence };
        let id = lane.id;
        let Some(entry) = lane.get(seq) else { return consequence };
        let footprint = entry.message.footprint();
        consequence.safe = entry.ticket.take();
        match entry.place {
            Place::Memory => {
                self.unsafe_bytes = self.unsafe_bytes.saturating_sub(footprint);
                lane.remove(seq);
            }
            Place::Saving => {
                self.unsafe_bytes = self.unsafe_bytes.saturating_sub(footprint);
                entry.state = State::Confirmed;
            }
            Place::Disk => {
                consequence.forget = Some((id, seq));
                lane.left_disk(footprint);
                lane.remove(seq);
            }
        }
        lane.stats.delivered += 1;
        lane.stats.waiting = lane.stats.waiting.saturating_sub(1);
        consequence
    }

    /// The handing over came to nothing that is known: the message waits again. `unresolved`: it may have arrived.
    pub(crate) fn unsent(&mut self, index: usize, seq: Seq, unresolved: bool) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        if let Some(entry) = lane.get(seq).filter(|entry| entry.state == State::Out) {
            entry.state = State::Waiting;
            entry.resend |= unresolved;
            lane.rewind();
        }
    }

    /// The message goes to the dead letters: the commit that does it.
    pub(crate) fn bury(
        &mut self,
        index: usize,
        seq: Seq,
        reason: String,
        attempts: Attempts,
    ) -> Option<Save> {
        let lane = self.lanes.get_mut(index)?;
        let id = lane.id;
        let entry = lane.get(seq)?;
        entry.state = State::Burying;
        if entry.place == Place::Memory {
            // The burial keeps it; a spill would store it once more, behind the burial.
            entry.place = Place::Saving;
        }
        let message = Arc::clone(&entry.message);
        let row = Row { lane: index, seq, footprint: message.footprint(), ticket: None };
        Some(Save { op: Op::Bury { lane: id, message, reason, attempts }, row })
    }

    /// The message is a dead letter.
    pub(crate) fn buried(&mut self, row: Row) -> Consequence {
        let mut consequence = Consequence::default();
        let Some(lane) = self.lanes.get_mut(row.lane) else { return consequence };
        let Some(entry) = lane.get(row.seq) else { return consequence };
        consequence.safe = entry.ticket.take();
        if entry.place == Place::Disk {
            lane.left_disk(row.footprint);
        } else {
            self.unsafe_bytes = self.unsafe_bytes.saturating_sub(row.footprint);
        }
        lane.remove(row.seq);
        lane.stats.buried += 1;
        lane.stats.waiting = lane.stats.waiting.saturating_sub(1);
        consequence
    }
}

/// Dead letters that are sent again.
impl Spool {
    /// A dead letter stands in its lane again, on the medium, where it stood before: a message is there under the number that
    /// it was accepted with.
    pub(crate) fn requeued(&mut self, index: usize, message: &Arc<Message>) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let seq = message.id.seq;
        if lane.get(seq).is_some() {
            return;
        }
        lane.stats.waiting += 1;
        lane.stats.on_disk += 1;
        lane.stats.on_disk_bytes += message.footprint() as u64;
        if let Some(tail) = lane.tail.filter(|_| seq > lane.loaded_upto() && !lane.is_ahead(seq)) {
            // It comes with a page.
            lane.tail = Some(tail.max(seq));
            return;
        }
        lane.put_back(Entry {
            seq,
            message: Arc::clone(message),
            ticket: None,
            place: Place::Disk,
            state: State::Waiting,
            disk_first: false,
            resend: true,
            backlog: true,
        });
    }

    /// Bytes of such messages that are in memory.
    pub(crate) fn requeued_bytes(&self) -> usize {
        self.lanes.iter().map(Lane::put_back_bytes).sum()
    }
}

/// Loading what is on the disk only.
impl Spool {
    /// Whether a lane's next messages are needed to make room, even if nobody takes them.
    pub(crate) fn wants_room(&self, index: usize) -> bool {
        self.lanes.get(index).is_some_and(|lane| lane.wants_room || lane.wants_expired())
    }

    /// The page that a lane needs next; it then counts as ordered.
    pub(crate) fn page(&mut self, now: Instant, index: usize) -> Option<PageOrder> {
        let memory = self.memory();
        let lane = self.lanes.get_mut(index)?;
        let wait = match lane.load_after {
            None => false,
            Some(None) => true,
            Some(Some(at)) => at > now,
        };
        if lane.tail.is_none() || lane.loading || wait || !lane.is_low(memory) {
            return None;
        }
        lane.loading = true;
        lane.load_after = None;
        let (messages, bytes) = lane.share_of(memory);
        Some(PageOrder {
            lane: lane.id,
            after: lane.loaded_upto(),
            messages: (messages / 2).max(1),
            bytes: (bytes / 2).max(1),
        })
    }

    /// A page has come.
    pub(crate) fn loaded(&mut self, index: usize, messages: Vec<Message>, damaged: u64, upto: Option<Seq>) {
        let forgetful = self.planted.is(Mutant::TailForgotten);
        let reads_again = self.planted.is(Mutant::LiveReadAgain);
        let Some(lane) = self.lanes.get_mut(index) else { return };
        lane.loading = false;
        lane.stats.damaged += damaged;
        lane.stats.waiting = lane.stats.waiting.saturating_sub(damaged);
        lane.lost_on_disk(damaged);
        for message in messages {
            let seq = message.id.seq;
            // It is, or was, in memory as a live one.
            let was_live =
                seq <= lane.loaded_upto() || lane.is_ahead(seq) || lane.tail.is_none_or(|tail| seq > tail);
            if was_live && !reads_again {
                continue;
            }
            let resend = lane.suspects.take_one(&message) || lane.salvaged;
            let entry = Entry {
                seq,
                message: Arc::new(message),
                ticket: None,
                place: Place::Disk,
                state: State::Waiting,
                disk_first: false,
                resend,
                backlog: true,
            };
            lane.push(entry, None);
        }
        match upto {
            Some(upto) => lane.set_loaded_upto(upto),
            // Nothing there: it is still being committed, or it is gone for good.
            None if lane.tail_saving > 0 => lane.load_after = Some(None),
            None => lane.end_tail(),
        }
        if forgetful || lane.tail.is_some_and(|tail| lane.loaded_upto() >= tail) {
            lane.end_tail();
        }
    }

    /// A page could not be read now.
    pub(crate) fn load_failed(&mut self, index: usize, retry_at: Instant) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.loading = false;
            lane.load_after = Some(Some(retry_at));
        }
    }

    pub(crate) fn stats(&self) -> Vec<LaneStats> {
        self.lanes.iter().map(Lane::stats).collect()
    }
}

/// The key of a lane's record.
fn record_of(kind: RecordKind, lane: LaneId) -> RecordKey {
    RecordKey { kind, key: Bytes::copy_from_slice(&lane.0.to_be_bytes()) }
}

fn lane_of_overtaken(key: &RecordKey) -> Option<LaneId> {
    let number = key.key.first_chunk().filter(|_| key.kind == RecordKind::Overtaken)?;
    Some(LaneId(u16::from_be_bytes(*number)))
}
