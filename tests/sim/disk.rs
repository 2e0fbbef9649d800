//! The simulation's disk: the store's contract with a synced part, which a crash leaves alone, and an unsynced one,
//! which a crash forgets or keeps as a whole. It can be full, failing or damaged; it decides nothing by chance itself.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate::store::{Lanes, Orphan, Page, Store};
use tidegate_engine::event::{LaneState, Letter, Op, RecordKey, Recovered, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tidegate_engine::message::Message;

/// What the medium is able to do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Everything.
    #[default]
    Healthy,
    /// Whatever adds something fails, whatever only removes succeeds.
    Full,
    /// Nothing can be written.
    Failing,
}

/// A message at rest.
#[derive(Clone, Debug)]
struct Row {
    message: Arc<Message>,
    damaged: bool,
}

/// A message that no upstream would take, with the reason.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its number.
    pub id: LetterId,
    /// The lane it stood in.
    pub lane: LaneId,
    /// The message.
    pub message: Arc<Message>,
    /// Why, in the engine's words.
    pub reason: String,
}

/// A lane: one route's messages.
#[derive(Clone, Debug, Default)]
struct Lane {
    route: String,
    upstream: String,
    rows: BTreeMap<Seq, Row>,
}

/// What a gateway finds when it starts.
#[derive(Debug)]
pub struct Opened {
    /// What waits.
    pub recovered: Recovered,
    /// This life's number.
    pub epoch: u64,
    /// The lanes of the configured routes, and the left-over ones.
    pub lanes: Lanes,
}

/// The model store.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    lanes: BTreeMap<LaneId, Lane>,
    next_lane: u16,
    epoch: u64,
    /// Lives in a row that were not stopped.
    bad_lives: u32,
    /// The highest sequence number that any message had.
    last: Seq,
    dead: Vec<DeadLetter>,
    letters: u64,
    records: BTreeMap<RecordKey, Bytes>,
    /// Written and not synced.
    unsynced: Option<Arc<[Op]>>,
    /// Written, but the sync failed: not in effect, and a crash may still bring it out until a commit succeeds.
    doubtful: Option<Arc<[Op]>>,
    /// What the medium can do now.
    pub condition: Condition,
    /// Rows inserted, ever.
    pub inserted: u64,
    bytes: u64,
    rows: u64,
    /// Rows that were forgotten, until somebody asks.
    forgotten: Vec<(LaneId, Arc<Message>)>,
}

impl Disk {
    /// One whose first lane has this number.
    pub(crate) fn with_lanes_from(first: u16) -> Self {
        Self { next_lane: first, ..Self::default() }
    }

    /// What is written and not synced.
    pub(crate) fn unsynced(&self) -> Option<&Arc<[Op]>> {
        self.unsynced.as_ref()
    }

    /// The records.
    pub(crate) fn records(&self) -> &BTreeMap<RecordKey, Bytes> {
        &self.records
    }

    /// Opens the store for a new life: every route gets its lane, empty lanes of other routes are given up.
    pub fn open(&mut self, routes: &[(&str, &str)]) -> Opened {
        self.epoch += 1;
        let keeps =
            |lane: &Lane| !lane.rows.is_empty() || routes.iter().any(|(route, _)| *route == lane.route);
        self.lanes.retain(|_, lane| keeps(lane));
        let lanes = self.assign(routes);
        let recovered = self.recover();
        self.bad_lives += 1;
        Opened { recovered, epoch: self.epoch, lanes }
    }

    fn assign(&mut self, routes: &[(&str, &str)]) -> Lanes {
        let mut lanes = Lanes::default();
        for (route, upstream) in routes {
            let known = self.lanes.iter_mut().find(|(_, lane)| lane.route == *route);
            let id = if let Some((id, lane)) = known {
                (*upstream).clone_into(&mut lane.upstream);
                *id
            } else {
                let id = LaneId(self.next_lane);
                self.next_lane += 1;
                let (route, upstream) = ((*route).to_owned(), (*upstream).to_owned());
                self.lanes.insert(id, Lane { route, upstream, rows: BTreeMap::new() });
                id
            };
            lanes.ids.push(id);
        }
        let orphans = self.lanes.iter().filter(|(id, lane)| !lanes.ids.contains(id) && !lane.rows.is_empty());
        lanes.orphans = orphans
            .map(|(id, lane)| Orphan {
                salvaged: false,
                lane: *id,
                route: lane.route.clone(),
                upstream: lane.upstream.clone(),
            })
            .collect();
        lanes
    }

    /// Writes a transaction without syncing it: nobody may rely on it yet.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn write(&mut self, ops: Arc<[Op]>) -> Result<(), StoreFault> {
        debug_assert!(self.unsynced.is_none(), "one writer, one transaction at a time");
        let to_nowhere =
            ops.iter().any(|op| matches!(op, Op::Insert { lane, .. } if !self.lanes.contains_key(lane)));
        if to_nowhere {
            return Err(StoreFault::Failed("there is no such lane".into()));
        }
        match self.condition {
            Condition::Failing => {
                self.doubtful = Some(ops);
                Err(StoreFault::Failed("the sync failed".into()))
            }
            Condition::Full if ops.iter().any(adds) => Err(StoreFault::Full),
            Condition::Full | Condition::Healthy => {
                self.unsynced = Some(ops);
                Ok(())
            }
        }
    }

    /// Syncs what was written: from here on a crash cannot take it away.
    pub fn sync(&mut self) {
        if let Some(ops) = self.unsynced.take() {
            self.doubtful = None;
            self.carry_out(&ops);
        }
    }

    fn carry_out(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
    }

    /// The gateway has stopped in order.
    pub fn close(&mut self) {
        self.bad_lives = 0;
    }

    /// Power is cut. What was written and not synced is kept as a whole or forgotten as a whole.
    pub fn crash(&mut self, keep_unsynced: bool) {
        let kept = self.unsynced.take().or(self.doubtful.take()).filter(|_| keep_unsynced);
        if let Some(ops) = kept {
            self.carry_out(&ops);
        }
        self.doubtful = None;
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Insert { lane, message } => {
                self.inserted += 1;
                self.last = self.last.max(message.id.seq);
                let row = Row { message: message.clone(), damaged: false };
                self.rows += 1;
                self.bytes += message.footprint() as u64;
                if let Some(old) = self.lanes.entry(*lane).or_default().rows.insert(message.id.seq, row) {
                    self.uncount(&old);
                }
            }
            Op::Forget { lane, seq } => {
                if let Some(message) = self.forget(*lane, *seq) {
                    self.forgotten.push((*lane, message));
                }
            }
            Op::Bury { lane, message, reason, .. } => {
                self.forget(*lane, message.id.seq);
                self.last = self.last.max(message.id.seq);
                let (lane, message, reason) = (*lane, message.clone(), reason.clone());
                self.letters += 1;
                self.dead.push(DeadLetter { id: LetterId(self.letters), lane, message, reason });
            }
            Op::Requeue { letter, lane, message } => {
                if self.remove_letter(*letter) {
                    self.apply(&Op::Insert { lane: *lane, message: Arc::clone(message) });
                }
            }
            Op::Purge { letter } => _ = self.remove_letter(*letter),
            Op::Put { key, value } => {
                self.records.insert(key.clone(), value.clone());
            }
            Op::Remove { key } => {
                self.records.remove(key);
            }
        }
    }

    fn remove_letter(&mut self, letter: LetterId) -> bool {
        let before = self.dead.len();
        self.dead.retain(|dead| dead.id != letter);
        self.dead.len() < before
    }

    fn forget(&mut self, lane: LaneId, seq: Seq) -> Option<Arc<Message>> {
        let row = self.lanes.get_mut(&lane)?.rows.remove(&seq)?;
        self.uncount(&row);
        Some(row.message)
    }

    /// The rows that were forgotten since this was asked last.
    pub fn take_forgotten(&mut self) -> Vec<(LaneId, Arc<Message>)> {
        std::mem::take(&mut self.forgotten)
    }

    fn uncount(&mut self, row: &Row) {
        self.rows -= 1;
        self.bytes -= row.message.footprint() as u64;
    }

    fn recover(&self) -> Recovered {
        let mut recovered = Recovered { last: self.last, bad_lives: self.bad_lives, ..Recovered::default() };
        for (lane, Lane { rows, .. }) in &self.lanes {
            let Some((last, _)) = rows.last_key_value() else { continue };
            let bytes = rows.values().map(|row| row.message.footprint() as u64).sum();
            recovered.lanes.push(LaneState { lane: *lane, last: *last, rows: rows.len() as u64, bytes });
        }
        recovered.records = self.records.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        recovered
    }

    /// Damages the `index`th row (counted over all lanes), and says which message that was.
    pub fn damage(&mut self, index: usize) -> Option<(LaneId, Arc<Message>)> {
        let rows = self.lanes.iter_mut().flat_map(|(id, lane)| lane.rows.values_mut().map(|row| (*id, row)));
        let (lane, row) = rows.filter(|(_, row)| !row.damaged).nth(index)?;
        row.damaged = true;
        Some((lane, row.message.clone()))
    }

    /// Every message that waits, damaged ones included.
    pub fn waiting(&self) -> impl Iterator<Item = (LaneId, &Arc<Message>)> {
        self.lanes.iter().flat_map(|(id, lane)| lane.rows.values().map(|row| (*id, &row.message)))
    }

    /// Messages waiting, over all lanes.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Their footprints together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The dead letters, in the order in which they came.
    #[must_use]
    pub fn dead(&self) -> &[DeadLetter] {
        &self.dead
    }
}

/// Whether an operation needs room.
fn adds(op: &Op) -> bool {
    matches!(op, Op::Insert { .. } | Op::Bury { .. } | Op::Requeue { .. } | Op::Put { .. })
}

impl Store for Disk {
    fn commit(&mut self, ops: &[Op]) -> Result<(), StoreFault> {
        self.write(ops.into())?;
        self.sync();
        Ok(())
    }

    fn load(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, StoreFault> {
        let mut page = Page::default();
        let Some(Lane { rows, .. }) = self.lanes.get(&lane) else { return Ok(page) };
        let mut footprint = 0;
        let mut damaged = Vec::new();
        for (seq, row) in rows.range(after.next()..) {
            if page.messages.len() >= messages {
                break;
            }
            if row.damaged {
                damaged.push(*seq);
            } else {
                footprint += row.message.footprint();
                if footprint > bytes && !page.messages.is_empty() {
                    break;
                }
                page.messages.push((*row.message).clone());
            }
            page.upto = Some(*seq);
        }
        page.damaged = damaged.len() as u64;
        for seq in damaged {
            self.forget(lane, seq);
        }
        Ok(page)
    }

    fn lanes(&mut self, routes: &[(&str, &str)]) -> Result<Lanes, StoreFault> {
        Ok(self.assign(routes))
    }

    fn letters(&mut self, letters: &[LetterId], bytes: usize) -> Result<Vec<Letter>, StoreFault> {
        let found = letters.iter().filter_map(|id| self.dead.iter().find(|dead| dead.id == *id));
        let letter = |dead: &DeadLetter| Letter {
            id: dead.id,
            route: self.lanes.get(&dead.lane).map(|lane| lane.route.clone()).unwrap_or_default(),
            lane: Some(dead.lane).filter(|lane| self.lanes.contains_key(lane)),
            message: Some(Arc::clone(&dead.message)),
        };
        let mut left = bytes;
        let mut first = true;
        let fits = |dead: &&DeadLetter| {
            let footprint = dead.message.footprint();
            let fits = std::mem::take(&mut first) || footprint <= left;
            left = left.saturating_sub(footprint);
            fits
        };
        Ok(found.take_while(fits).map(letter).collect())
    }

    fn letters_there(&mut self, letters: &[LetterId]) -> Result<Vec<LetterId>, StoreFault> {
        Ok(letters.iter().filter(|id| self.dead.iter().any(|dead| dead.id == **id)).copied().collect())
    }
}
