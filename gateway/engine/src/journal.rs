//! Gathers changes for the store into group commits: one commit at a time, everything that comes while it runs goes
//! into the next. Keeps what a failed commit did not do. Knows nothing of what the changes mean.

use crate::event::{Batch, Op, StoreFault};
use crate::id::{BatchId, LaneId, Seq};
use crate::limits::Limits;
use crate::time::{Duration, Instant};
use std::collections::VecDeque;

/// What a change of a record takes beside its key and value, in bytes.
const RECORD_BYTES: usize = 128;

/// A change, and whom to tell when it is durable.
#[derive(Debug)]
pub(crate) struct Item<W> {
    pub(crate) op: Op,
    pub(crate) waiter: Option<W>,
    /// This change and the next take effect in one transaction.
    pub(crate) joined: bool,
}

impl<W> Item<W> {
    pub(crate) fn new(op: Op, waiter: Option<W>) -> Self {
        Self { op, waiter, joined: false }
    }

    fn bytes(&self) -> usize {
        match &self.op {
            Op::Insert { message, .. } | Op::Bury { message, .. } | Op::Requeue { message, .. } => {
                message.footprint()
            }
            Op::Put { key, value } => key.key.len() + value.len(),
            Op::Forget { .. } | Op::Remove { .. } | Op::Purge { .. } => 16,
        }
    }

    fn record_bytes(&self) -> usize {
        match &self.op {
            Op::Put { key, value } => RECORD_BYTES + key.key.len() + value.len(),
            Op::Remove { key } => RECORD_BYTES + key.key.len(),
            _ => 0,
        }
    }
}

/// For so long a commit that runs keeps those who send much from being read. On a slower medium larger groups are faster, and
/// nobody is to lose his connection for what he has said unheard.
const ENOUGH_FOR: Duration = Duration::from_millis(20);

/// What has been ordered and not answered.
#[derive(Debug)]
struct Running<W> {
    id: BatchId,
    since: Instant,
    items: Vec<Item<W>>,
    forgets: Vec<(LaneId, Seq)>,
}

/// The changes that wait for a commit. `W` is whom to tell.
#[derive(Debug)]
pub(crate) struct Journal<W> {
    items: VecDeque<Item<W>>,
    /// Removals of delivered rows. They may wait for a commit to ride on, and may overtake `items`: a row is forgotten
    /// only after it was committed, so the order between the two does not matter.
    forgets: VecDeque<(LaneId, Seq)>,
    forgets_since: Option<Instant>,
    running: Option<Running<W>>,
    record_bytes: usize,
    last: BatchId,
    retry_at: Option<Instant>,
    /// The last commit failed because the store is full: removals go first, as they may make room.
    full: bool,
    commit_ops: usize,
    commit_bytes: usize,
    commit_enough: usize,
    forgets_waiting: usize,
    forget_after: Duration,
    retry_after: Duration,
}

impl<W> Journal<W> {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut journal = Self {
            items: VecDeque::new(),
            forgets: VecDeque::new(),
            forgets_since: None,
            running: None,
            record_bytes: 0,
            last: BatchId(0),
            retry_at: None,
            full: false,
            commit_ops: 0,
            commit_bytes: 0,
            commit_enough: 0,
            forgets_waiting: 0,
            forget_after: Duration::ZERO,
            retry_after: Duration::ZERO,
        };
        journal.set_limits(limits);
        journal
    }

    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.commit_ops = limits.commit_ops.max(1);
        self.commit_bytes = limits.commit_bytes;
        self.commit_enough = limits.commit_enough;
        self.forgets_waiting = limits.forgets_waiting;
        self.forget_after = limits.forget_after;
        self.retry_after = limits.commit_retry_after;
    }

    pub(crate) fn push(&mut self, item: Item<W>) {
        self.record_bytes += item.record_bytes();
        self.items.push_back(item);
    }

    /// Puts changes before all that wait: those that take away what is on the medium, which nothing that waits concerns. In a full
    /// store they would wait for ever behind what needs the room that they make.
    pub(crate) fn push_first(&mut self, items: Vec<Item<W>>) {
        for item in items.into_iter().rev() {
            self.record_bytes += item.record_bytes();
            self.items.push_front(item);
        }
    }

    /// The memory that changes of records take while they wait or run, in bytes. (Messages are counted by the spool.)
    pub(crate) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    pub(crate) fn forget(&mut self, now: Instant, lane: LaneId, seq: Seq) {
        self.forgets_since.get_or_insert(now);
        self.forgets.push_back((lane, seq));
    }

    /// Whether more rows may be loaded and delivered: their removal must have room to wait. Removals in the running commit
    /// count: should it never be done, the next life finds those rows too.
    pub(crate) fn has_room_for_forgets(&self) -> bool {
        let running = self.running.as_ref().map_or(0, |running| running.forgets.len());
        self.forgets.len() + running < 2 * self.forgets_waiting
    }

    /// A commit runs, and there is enough for another.
    pub(crate) fn is_behind(&self) -> bool {
        self.running.is_some() && !self.items.is_empty()
    }

    /// A commit runs, though not for long, and the next will have so many changes that more would only wait.
    pub(crate) fn has_enough(&self, now: Instant) -> bool {
        self.enough_until().is_some_and(|until| now < until)
    }

    fn enough_until(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| self.items.len() >= self.commit_enough)?;
        Some(running.since.after(ENOUGH_FOR))
    }

    /// Nothing waits and nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.forgets.is_empty() && self.running.is_none()
    }

    /// The next commit, when one is due. `wanted` may drop changes that events have overtaken; `flush` does not let
    /// removals wait.
    pub(crate) fn next_batch(
        &mut self,
        now: Instant,
        flush: bool,
        mut wanted: impl FnMut(&Op) -> bool,
    ) -> Option<Batch> {
        if self.running.is_some() {
            return None;
        }
        let retry_due = self.retry_at.is_none_or(|at| at <= now);
        let room_first = self.full && !self.forgets.is_empty();
        if !retry_due && !room_first {
            return None;
        }
        if retry_due {
            // Used up, even if nothing that failed is still wanted: a time that has passed would be due for ever.
            self.retry_at = None;
        }
        let mut items = Vec::new();
        if !room_first {
            let mut bytes = 0;
            let mut joined = false;
            // In a full store what makes room goes alone: with what takes it the commit would fail.
            let alone = self.full && self.items.front().is_some_and(|item| item.op.takes_away());
            while let Some(item) = self.items.front() {
                let enough = items.len() >= self.commit_ops || bytes > self.commit_bytes;
                if !joined && (enough || (alone && !items.is_empty())) {
                    break;
                }
                joined = item.joined;
                let Some(item) = self.items.pop_front() else { break };
                if wanted(&item.op) {
                    bytes += item.bytes();
                    items.push(item);
                }
            }
        }
        let forgets_due = room_first
            || flush
            || self.forgets.len() >= self.forgets_waiting
            || self.forgets_since.is_some_and(|since| since.after(self.forget_after) <= now);
        if items.is_empty() && (self.forgets.is_empty() || !forgets_due) {
            return None;
        }
        let forgets: Vec<_> = self.forgets.drain(..).collect();
        self.forgets_since = None;
        self.last = BatchId(self.last.0 + 1);
        let ops = items
            .iter()
            .map(|item| item.op.clone())
            .chain(forgets.iter().map(|&(lane, seq)| Op::Forget { lane, seq }))
            .collect();
        self.running = Some(Running { id: self.last, since: now, items, forgets });
        Some(Batch { id: self.last, ops })
    }

    /// Whom the running commit will tell.
    #[cfg(feature = "mutants")]
    pub(crate) fn running_waiters(&mut self) -> impl Iterator<Item = &mut Option<W>> {
        self.running.iter_mut().flat_map(|running| running.items.iter_mut().map(|item| &mut item.waiter))
    }

    /// The commit is done: its changes, and whom to tell, in order.
    pub(crate) fn committed(&mut self, batch: BatchId) -> Option<Vec<Item<W>>> {
        let running = self.running.take_if(|running| running.id == batch)?;
        self.retry_at = None;
        if !running.items.is_empty() {
            self.full = false;
        }
        self.record_bytes -= running.items.iter().map(Item::record_bytes).sum::<usize>();
        Some(running.items)
    }

    /// The commit failed: everything in it waits again, in its old place.
    pub(crate) fn failed(&mut self, now: Instant, batch: BatchId, fault: &StoreFault) {
        let Some(running) = self.running.take_if(|running| running.id == batch) else { return };
        self.full = *fault == StoreFault::Full;
        // A store whose removals fail too has nothing to hurry for.
        if running.items.is_empty() {
            self.full = false;
        }
        self.retry_at = Some(now.after(self.retry_after));
        for item in running.items.into_iter().rev() {
            self.items.push_front(item);
        }
        for forget in running.forgets.into_iter().rev() {
            self.forgets.push_front(forget);
        }
        if !self.forgets.is_empty() {
            self.forgets_since = Some(now);
        }
    }

    /// When time alone will make a commit due, or end that the next one has enough.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Instant> {
        if self.running.is_some() {
            return self.enough_until().filter(|until| now < *until);
        }
        match self.retry_at {
            Some(at) => (!self.items.is_empty() || !self.forgets.is_empty()).then_some(at),
            None => self.forgets_since.map(|since| since.after(self.forget_after)),
        }
    }
}
