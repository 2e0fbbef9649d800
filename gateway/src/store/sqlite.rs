//! The store in SQLite: one file, one connection, one thread. WAL with `synchronous=FULL`, so that a commit is a sync; the rows of
//! all lanes in one table by ascending keys, without a second index; a checksum a row. The parts:
//! `open` (start), `migrate` (older files), `dir` (directory, lock, epoch), `watermark` (how far it has come), `quarantine` and `salvage`
//! (a damaged database), `files` (what these ask of the file system), `lanes`, `commit`, `load`, `dead` (letters), `row` (encoding),
//! `space` and `ballast` (a full medium), `fault` (errors). Nobody else writes to the file; `reader` is for the command line, which reads
//! it beside the gateway or without one.

mod ballast;
mod commit;
mod dead;
mod dir;
mod fault;
pub mod files;
mod lanes;
mod load;
mod migrate;
mod open;
mod quarantine;
pub mod reader;
mod row;
mod salvage;
mod space;
mod watermark;

pub use open::{OpenError, Opened, open, open_on};
pub use salvage::{Progress, Quarantined};

use super::{Lanes, Page, Salvage, Store};
use crate::memory;
use fault::Fault;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_engine::event::{Letter, Loss, Op, RecordKey, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tidegate_engine::mutant::{Mutant, Planted};

/// SQLite's page, in bytes: that of the kernel and of most flash translation layers.
const PAGE_BYTES: u64 = 4_096;

/// A life that has lasted for so long did not die of what it began with, whatever becomes of it.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// How much room the store takes on the medium, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The database's file at the most: beyond it inserts fail with [`StoreFault::Full`], and deletes do not.
    pub file_bytes: u64,
    /// The WAL from which on it is written back between two commits. It may pass this by one commit, and by more while another
    /// program reads.
    pub wal_bytes: u64,
    /// Held back for a full medium: the WAL of what is deleted then.
    pub ballast_bytes: u64,
}

impl Sizes {
    /// For a spool of `spool_bytes` ([`Limits::spool_bytes`](tidegate_engine::limits::Limits::spool_bytes)): the engine's bound
    /// comes first, and the file has room beside it for half-filled pages, dead letters and records.
    #[must_use]
    pub fn for_spool(spool_bytes: u64) -> Self {
        Self {
            file_bytes: spool_bytes.saturating_add(spool_bytes / 4).saturating_add(16 << 20),
            // Written back in well under a second even by a slow card; long enough that rows which come and go
            // between two write-backs share pages.
            wal_bytes: 8 << 20,
            // A whole WAL again, and the growth of the file by it.
            ballast_bytes: 16 << 20,
        }
    }

    fn file_pages(self) -> i64 {
        i64::try_from((self.file_bytes / PAGE_BYTES).max(1)).unwrap_or(i64::MAX)
    }
}

/// The store. While it lives, its data directory is locked. Made by [`open`].
#[derive(Debug)]
pub struct SqliteStore {
    // In the order in which they are dropped: the lock last.
    db: Connection,
    names: BTreeMap<LaneId, String>,
    /// The lanes of the routes that are configured.
    routes: Vec<LaneId>,
    space: space::Space,
    /// This life and when it began, until it has proved to be a good one.
    life: Option<(dir::Life, Instant)>,
    watermark: Option<watermark::Watermark>,
    salvager: Option<salvage::Salvager>,
    /// What earlier lives lost and the ledger does not have yet.
    losses: Vec<(Loss, RecordKey)>,
    when_damaged: Option<WhenDamaged>,
    /// What salvaged databases may take that are kept.
    quarantine_bytes: u64,
    dir: dir::DataDir,
    planted: Planted,
}

/// What is done when the database turns out to be damaged while it is used.
struct WhenDamaged(Box<dyn FnMut() + Send>);

impl std::fmt::Debug for WhenDamaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhenDamaged(..)")
    }
}

impl SqliteStore {
    /// What to do when the database turns out to be damaged: the next start of the process puts it into quarantine and goes on
    /// with a new one. Called on the store's thread, when the damage has been noted.
    pub fn when_damaged(&mut self, restart: impl FnMut() + Send + 'static) {
        self.when_damaged = Some(WhenDamaged(Box::new(restart)));
    }

    fn transact(&mut self, ops: &[Op]) -> Result<(), Fault> {
        if self.planted.is(Mutant::CommitParted) && ops.len() > 1 {
            return ops.iter().try_for_each(|op| self.transact(std::slice::from_ref(op)));
        }
        // Statements that stay prepared: parsing these two costs as much as a row.
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let applied = commit::apply(&self.db, &self.names, ops);
        let done = applied.and_then(|tally| {
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Ok(tally)
        });
        if done.is_err() && !self.db.is_autocommit() {
            // Some failures have ended the transaction already. Should this fail, the next BEGIN says so.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        let tally = done?;
        if let Some(watermark) = self.watermark.as_mut().filter(|_| (tally.rows, tally.last) != (0, 0)) {
            watermark.committed(tally.rows, tally.last);
        }
        Ok(())
    }

    fn commit_or_make_room(&mut self, ops: &[Op]) -> Result<(), Fault> {
        self.space.look_for_room(&self.db)?;
        let added = added_bytes(ops);
        match self.transact(ops) {
            // At the bound of the file the answer is no. On a full medium there is something to be done, once.
            Err(fault) if fault.is_full() && (added == 0 || self.space.blames_medium(&self.db, added)?) => {
                self.space.medium_is_full(&self.db)?;
                self.transact(ops)
            }
            done => done,
        }
    }

    fn read(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, Fault> {
        let (mut page, damaged) = load::page(&self.db, lane, after, messages, bytes)?;
        if page.upto.is_none() {
            (page.damaged, page.note) = load::missing(&mut self.db, lane)?;
            if let Some(watermark) = self.watermark.as_mut().filter(|_| page.damaged > 0) {
                watermark.committed(-i64::try_from(page.damaged).unwrap_or(i64::MAX), 0);
            }
        }
        if damaged.is_empty() {
            return Ok(page);
        }
        match load::move_away(&mut self.db, lane, &damaged) {
            Err(fault) if fault.is_full() => {
                // Without room to move them to they stay where they are until the next start: what is sound must be able to
                // leave, or there would never be room again.
                tracing::error!(
                    rows = damaged.len(),
                    "stored messages are damaged; they stay in the full store, passed over, until the next start"
                );
                page.damaged = 0;
            }
            done => {
                page.note = Some(done?);
                if let Some(watermark) = &mut self.watermark {
                    watermark.committed(-i64::try_from(damaged.len()).unwrap_or(i64::MAX), 0);
                }
            }
        }
        Ok(page)
    }

    /// What the caller is told. Damage is remembered for the next start, which opens a new file.
    fn report(&mut self, fault: Fault) -> StoreFault {
        if fault.is_corruption() {
            if let Err(error) = self.dir.mark_damaged() {
                tracing::error!(%error, "cannot remember for the next start that the database is damaged");
            } else if let Some(WhenDamaged(restart)) = &mut self.when_damaged {
                tracing::error!(%fault, "the database is damaged; starting anew with it in quarantine");
                restart();
            }
        }
        fault.into()
    }

    fn salvage_step(&mut self) -> Result<Salvage, Fault> {
        if !self.losses.is_empty() {
            return Ok(Salvage::Lost(std::mem::take(&mut self.losses)));
        }
        let Some(salvager) = &mut self.salvager else { return Ok(Salvage::Nothing) };
        if salvager.rests() {
            return Ok(Salvage::Later);
        }
        let before = salvager.kept();
        let step = salvager.step(&mut self.db, &self.dir)?;
        if let Some(watermark) = &mut self.watermark {
            let more = i64::try_from(salvager.kept() - before).unwrap_or(i64::MAX);
            watermark.committed(more, 0);
        }
        match step {
            salvage::Step::More => Ok(Salvage::More),
            salvage::Step::Lost(loss, note) => Ok(Salvage::Lost(vec![(loss, note)])),
            salvage::Step::Done(lanes) => {
                self.salvager = None;
                if let Err(error) = self.dir.bound_quarantine(self.quarantine_bytes) {
                    tracing::warn!(%error, "an old salvaged database cannot be removed");
                }
                Ok(Salvage::Done(lanes))
            }
        }
    }
}

impl Store for SqliteStore {
    fn commit(&mut self, ops: &[Op]) -> Result<(), StoreFault> {
        if ops.is_empty() {
            return Ok(());
        }
        self.commit_or_make_room(ops).map_err(|fault| self.report(fault))
    }

    fn load(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, StoreFault> {
        self.read(lane, after, messages, bytes).map_err(|fault| self.report(fault))
    }

    fn lanes(&mut self, routes: &[(&str, &str)]) -> Result<Lanes, StoreFault> {
        let salvages = salvage::routes(&self.dir, routes);
        let state = lanes::assign(&mut self.db, routes, lanes::Unused::Keep, &salvages)
            .map_err(|fault| self.report(fault))?;
        let noted = state.all.iter().map(|(id, route, upstream)| (*id, &**route, &**upstream));
        if let Err(error) = self.dir.note_lanes(noted) {
            return Err(StoreFault::Failed(format!("cannot write down the routes' lanes: {error}")));
        }
        if state.lanes.ids.len() != routes.len() {
            return Err(StoreFault::Failed(OpenError::TooManyRoutes.to_string()));
        }
        self.names = state.names;
        self.routes.clone_from(&state.lanes.ids);
        if let Some(salvager) = &mut self.salvager {
            salvager.configure(state.salvaged, routes);
        }
        Ok(state.lanes)
    }

    fn letters(&mut self, letters: &[LetterId], bytes: usize) -> Result<Vec<Letter>, StoreFault> {
        let lane_of = |route: &str| {
            let named = |lane: &&LaneId| self.names.get(lane).is_some_and(|name| name == route);
            self.routes.iter().find(named).copied()
        };
        dead::letters(&self.db, letters, bytes, lane_of).map_err(|fault| self.report(fault))
    }

    fn letters_there(&mut self, letters: &[LetterId]) -> Result<Vec<LetterId>, StoreFault> {
        dead::there(&self.db, letters).map_err(|fault| self.report(fault))
    }

    fn salvage(&mut self) -> Salvage {
        match self.salvage_step() {
            Ok(done) => done,
            Err(fault) => {
                let full = fault.is_full();
                if full {
                    tracing::warn!("there is no room for what is salvaged; it goes on when there is");
                } else {
                    tracing::error!(%fault, "salvaging does not go on for now");
                }
                let _ = self.report(fault);
                if let Some(salvager) = &mut self.salvager {
                    salvager.rest(full);
                }
                Salvage::Later
            }
        }
    }

    fn upkeep(&mut self, idle: bool) -> bool {
        if self.life.is_some_and(|(_, began)| began.elapsed() >= GOOD_AFTER) {
            self.life_is_good();
        }
        match self.space.upkeep(&self.db, idle) {
            Ok(more) => {
                if idle && !more {
                    self.give_back_memory();
                }
                more
            }
            Err(fault) if fault.is_full() => {
                // Writing the WAL back makes the file grow; the room held back is for that.
                if let Err(fault) = self.space.medium_is_full(&self.db) {
                    tracing::warn!(%fault, "the medium is full");
                }
                false
            }
            Err(fault) => {
                tracing::warn!(fault = ?StoreFault::from(fault), "writing the WAL back failed; it is tried again");
                false
            }
        }
    }
}

impl SqliteStore {
    /// The gateway ends as it should: the next life need not be careful.
    pub fn close(mut self) {
        self.life_is_good();
    }

    /// This life has lasted, or ends in order.
    fn life_is_good(&mut self) {
        let Some((life, _)) = self.life.take() else { return };
        if let Err(error) = self.dir.begin_life(dir::Life { bad_lives: 0, ..life }) {
            tracing::warn!(%error, "it could not be written down that this life ends well; the next but one may be careful");
        }
    }

    /// Before a rest of which nobody knows the end: the page cache, and what commits have left.
    fn give_back_memory(&self) {
        if let Err(error) = self.db.execute_batch("PRAGMA shrink_memory") {
            tracing::debug!(%error, "the page cache stays");
        }
        memory::give_back();
        memory::give_back_of_c();
    }
}

/// What a batch adds, in bytes; nothing for one that only takes away.
fn added_bytes(ops: &[Op]) -> u64 {
    let added = ops.iter().map(|op| match op {
        Op::Insert { message, .. } | Op::Bury { message, .. } | Op::Requeue { message, .. } => {
            message.footprint()
        }
        Op::Put { key, value } => key.key.len() + value.len(),
        Op::Forget { .. } | Op::Remove { .. } | Op::Purge { .. } => 0,
    });
    added.sum::<usize>() as u64
}

/// The wall clock, for people who look into the tables.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
