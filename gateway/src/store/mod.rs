//! The durability contract: what the engine may rely on when the store says "committed".
//! Implementations: [`sqlite`], driven by [`writer`]. The tests hold every implementation to this contract, the simulation's
//! disk too.

pub mod sqlite;
pub mod writer;

use tidegate_engine::event::{LaneState, Letter, Loss, Op, RecordKey, StoreFault};
use tidegate_engine::id::{LaneId, LetterId, Seq};
use tidegate_engine::message::Message;

/// A place where messages are safe. Used from one thread.
pub trait Store {
    /// Carries out all operations in one transaction and syncs it to the medium; after `Ok` they survive a power cut.
    /// After an error none of them is in effect; only a crash before the next commit that succeeds may still bring out all of
    /// them, as if its answer had been lost (a sync that fails may have written).
    ///
    /// Inserting a message that is there already is no fault.
    ///
    /// # Errors
    /// [`StoreFault::Full`] when inserts fail but deletes may succeed; [`StoreFault::Failed`] otherwise.
    fn commit(&mut self, ops: &[Op]) -> Result<(), StoreFault>;

    /// Reads messages of a lane above `after`, ascending: at most `messages` and, beyond the first, at most `bytes`
    /// of footprint. Damaged rows are moved away and counted, never returned; in a full store they may stay and are passed over.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] when the medium cannot be read.
    fn load(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, StoreFault>;

    /// Gives each route, as a pair of its name and its upstream's, the lane that it has, or a new one, durably. For a reload:
    /// lanes that are no longer used stay until the next start.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] when there are too many routes or the medium fails.
    fn lanes(&mut self, routes: &[(&str, &str)]) -> Result<Lanes, StoreFault>;

    /// Looks at dead letters, in their order, at most `bytes` of footprint beyond the first; those that are not there are left out.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] when the medium cannot be read.
    fn letters(&mut self, letters: &[LetterId], bytes: usize) -> Result<Vec<Letter>, StoreFault>;

    /// Which of these dead letters are there.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] when the medium cannot be read.
    fn letters_there(&mut self, letters: &[LetterId]) -> Result<Vec<LetterId>, StoreFault>;

    /// Housekeeping behind an order; `idle` when no other has come for a while. Returns whether it is to be asked again before
    /// the next order comes. Whatever fails here shows in the next commit.
    fn upkeep(&mut self, idle: bool) -> bool {
        let _ = idle;
        false
    }

    /// One step of what there is to be salvaged from a damaged database, short enough to come between two orders.
    fn salvage(&mut self) -> Salvage {
        Salvage::Nothing
    }
}

/// What [`Store::salvage`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salvage {
    /// There is nothing to be done.
    Nothing,
    /// There is more to be done.
    More,
    /// There is more to be done once there is room, or the medium works again.
    Later,
    /// So much is lost for good. Each loss comes again at every start until its note is removed.
    Lost(Vec<(Loss, RecordKey)>),
    /// These lanes have messages that were salvaged, complete as far as it can be.
    Done(Vec<LaneState>),
}

/// What [`Store::load`] found.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages, ascending.
    pub messages: Vec<Message>,
    /// Rows that were damaged and have been moved away.
    pub damaged: u64,
    /// The record in which they are noted, until it is removed; the loss comes again at every start until then.
    pub note: Option<RecordKey>,
    /// The last sequence number looked at, damaged rows included; `None` when the lane has nothing above `after`.
    pub upto: Option<Seq>,
}

/// The lanes of the configured routes, and what is left of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// The lane of each given route, in their order.
    pub ids: Vec<LaneId>,
    /// Lanes with messages whose route is no longer configured.
    pub orphans: Vec<Orphan>,
}

/// A lane with messages beside those of the configured routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The lane.
    pub lane: LaneId,
    /// Its route's name.
    pub route: String,
    /// The upstream that it led to.
    pub upstream: String,
    /// It holds what was salvaged from a damaged database for this route, which may be configured.
    pub salvaged: bool,
}
