//! The real store beneath the simulation's model disk: told what the model is told, asked what the model is asked, and held
//! against it at every start. It writes down how the store's states follow one another.

use super::cut::{Manner, Sweep};
use super::files::OnMedium;
use super::ledger::{Digest, Mark, State};
use super::medium::{Lie, Medium, Mount};
use super::{recover, vfs};
use crate::sim::disk::{Disk, Opened};
use crate::sim::oracle::{Held, Violation};
use fastrand::Rng;
use std::sync::Arc;
use tidegate::store::sqlite::{Sizes, SqliteStore, open_on};
use tidegate::store::{Lanes, Page, Store};
use tidegate_engine::event::{Op, StoreFault};
use tidegate_engine::id::{LaneId, MessageId, Seq};
use tidegate_engine::mutant::Planted;

/// The ledger's way into the record.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Mount);

impl Ledger {
    pub(crate) fn mark(&self, mark: Mark) {
        self.0.lock().mark(mark);
    }
}

/// The real store and the medium under it.
#[derive(Debug)]
pub(crate) struct Real {
    pub(super) mount: Mount,
    store: Option<SqliteStore>,
    pub(super) sizes: Sizes,
    pub(super) planted: Planted,
    /// Every state that a commit leads to.
    pub(super) states: Vec<State>,
    /// Which of them is the present one.
    state: usize,
    /// The dead letters, in the order in which they were buried.
    pub(super) dead: Vec<(LaneId, MessageId)>,
    rng: Rng,
}

/// The sizes of a store for small histories: room for all of it, and a WAL that is written back often.
fn sizes(rng: &mut Rng) -> Sizes {
    let pages = *rng.choice(&[4, 8, 16, 64]).unwrap_or(&8);
    Sizes { file_bytes: 16 << 20, wal_bytes: pages * 4_096, ballast_bytes: 4_096 }
}

/// What the model has.
fn state(disk: &Disk) -> State {
    let mut digest = Digest::default();
    disk.waiting().for_each(|(lane, message)| digest.add_message(lane, message));
    disk.records().iter().for_each(|(key, value)| digest.add_record(key, value));
    State { digest, dead: disk.dead().len() }
}

impl Real {
    pub(crate) fn new(seed: u64, planted: Planted, lie: Option<Lie>) -> Self {
        vfs::register();
        let mut rng = Rng::with_seed(seed);
        Self {
            mount: Mount::new(Medium::recording(lie, rng.u32(..))),
            store: None,
            sizes: sizes(&mut rng),
            planted,
            states: vec![State::default()],
            state: 0,
            dead: Vec::new(),
            rng,
        }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger(self.mount.clone())
    }

    fn mark(&self, mark: Mark) {
        self.mount.lock().mark(mark);
    }

    /// A life begins: the store opens, and the model learns whether what was under way has come out.
    pub(crate) fn open(&mut self, disk: &mut Disk, routes: &[(&str, &str)]) -> Result<Opened, Violation> {
        let files = Arc::new(OnMedium(self.mount.clone()));
        let opened = open_on(files, self.planted, &self.mount.dir(), routes, self.sizes)
            .map_err(|error| Violation(format!("corrupt: the store does not open: {error}")))?;
        recover::sound(&opened).map_err(Violation)?;
        let mut store = opened.store;
        let mut digest = Digest::default();
        for lane in &opened.lanes {
            let page = recover::lane(&mut store, *lane).map_err(Violation)?;
            page.messages.iter().for_each(|message| digest.add_message(*lane, message));
        }
        opened.recovered.records.iter().for_each(|(key, value)| digest.add_record(key, value));
        let mut with = disk.clone();
        with.crash(true);
        disk.crash(false);
        // Where only dead letters tell the two apart: nobody has been told of the new ones.
        if state(disk).digest != digest {
            *disk = with;
        }
        let found = state(disk);
        if found.digest != digest {
            return Err(Violation(
                "lost: the store is in none of the states that its commits lead to".into(),
            ));
        }
        self.dead.truncate(found.dead);
        self.states.push(found);
        self.state = self.states.len() - 1;
        self.mark(Mark::Found(self.state));
        self.store = Some(store);
        disk.open(routes);
        let lanes = Lanes { ids: opened.lanes, orphans: opened.orphans };
        Ok(Opened { recovered: opened.recovered, epoch: opened.epoch, lanes })
    }

    /// Commits what the model has written and is about to sync.
    pub(crate) fn commit(&mut self, disk: &Disk) -> Held {
        let Some(ops) = disk.unsynced() else { return Ok(()) };
        self.carry_out(disk, ops)
            .map_err(|fault| Violation(format!("a commit fails on a sound medium: {fault:?}")))?;
        self.state = self.states.len() - 1;
        self.mark(Mark::Committed(self.state));
        // As the store's thread does behind each order, and now and then when it has nothing to do.
        let idle = self.rng.u8(..16) == 0;
        if let Some(store) = &mut self.store {
            store.upkeep(idle);
        }
        Ok(())
    }

    fn carry_out(&mut self, disk: &Disk, ops: &[Op]) -> Result<(), StoreFault> {
        let mut after = disk.clone();
        after.sync();
        self.states.push(state(&after));
        let buried = after.dead().get(self.dead.len()..).unwrap_or_default();
        self.dead.extend(buried.iter().map(|letter| (letter.lane, letter.message.id)));
        self.mark(Mark::Committing(self.states.len() - 1));
        self.store.as_mut().map_or(Ok(()), |store| store.commit(ops))
    }

    pub(crate) fn load(
        &mut self,
        lane: LaneId,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<Page, StoreFault> {
        let store = self.store.as_mut().ok_or_else(|| StoreFault::Failed("it is closed".into()))?;
        store.load(lane, after, messages, bytes)
    }

    /// The process ends as it should.
    pub(crate) fn close(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
        self.mount.lock().locked_by_nobody();
    }

    /// The power is cut now, or somewhere within the commit that is under way, and comes back.
    pub(crate) fn cut(&mut self, disk: &Disk, rng: &mut Rng) -> Held {
        let from = self.mount.lock().events.len();
        if let Some(ops) = disk.unsynced()
            && rng.bool()
        {
            self.carry_out(disk, ops)
                .map_err(|fault| Violation(format!("a commit fails on a sound medium: {fault:?}")))?;
            let mut medium = self.mount.lock();
            let upto = rng.usize(from..=medium.events.len());
            medium.events.truncate(upto);
        }
        self.mount.lock().off = true;
        self.store = None;
        let mut medium = self.mount.lock();
        let mut sweep = Sweep::default();
        medium.events.iter().for_each(|event| _ = sweep.step(event));
        let manner = *rng.choice(&Manner::ALL).unwrap_or(&Manner::Kept);
        let image = sweep.cut(manner, rng);
        medium.reborn(image);
        Ok(())
    }
}
