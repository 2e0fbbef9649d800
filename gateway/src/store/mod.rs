//! The durability contract: what the engine may rely on when the store says "committed".
//! Implementations: [`sqlite`]. The tests hold every implementation to this contract, the simulation's disk too.

use tidegate_engine::event::{Op, StoreFault};
use tidegate_engine::id::{LaneId, Seq};
use tidegate_engine::message::Message;

/// A place where messages are safe. Used from one thread.
pub trait Store {
    /// Carries out all operations in one transaction and syncs it to the medium; after `Ok` they survive a power cut.
    /// After an error none of them took effect, now or after a restart.
    ///
    /// # Errors
    /// [`StoreFault::Full`] when inserts fail but deletes may succeed; [`StoreFault::Failed`] otherwise.
    fn commit(&mut self, ops: &[Op]) -> Result<(), StoreFault>;

    /// Reads messages of a lane above `after`, ascending: at most `messages` and, beyond the first, at most `bytes`
    /// of footprint. Damaged rows are moved away and counted, never returned.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] when the medium cannot be read.
    fn load(&mut self, lane: LaneId, after: Seq, messages: usize, bytes: usize) -> Result<Page, StoreFault>;
}

/// What [`Store::load`] found.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages, ascending.
    pub messages: Vec<Message>,
    /// Rows that were damaged and have been moved away.
    pub damaged: u64,
    /// The last sequence number looked at, damaged rows included; `None` when the lane has nothing above `after`.
    pub upto: Option<Seq>,
}
