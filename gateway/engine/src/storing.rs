//! The store: what is ordered from it, and what its answers mean. Takes nothing for safe before the store has said so (P1).

use crate::caution;
use crate::event::{Notice, Op, Output, StoreFault};
use crate::id::BatchId;
use crate::journal::Item;
#[cfg(feature = "mutants")]
use crate::mutant::Mutant;
use crate::spool::Consequence;
use crate::{Engine, Stopping, Waiter};

impl Engine {
    pub(super) fn order_saves(&mut self, joined: bool) {
        for save in self.saves.drain(..) {
            let waiter = match save.op {
                Op::Bury { .. } => Waiter::Buried(save.row),
                _ => Waiter::Saved(save.row),
            };
            self.journal.push(Item { op: save.op, waiter: Some(waiter), joined });
        }
    }

    /// Orders what the spool has noted about its lanes, before the messages that it is about.
    pub(super) fn write_notes(&mut self) {
        for op in self.spool.notes() {
            self.journal.push(Item::new(op, None));
        }
    }

    pub(super) fn order_commit(&mut self) {
        let spool = &mut self.spool;
        let flush = self.stopping == Stopping::Asked;
        let batch = self.journal.next_batch(self.now.instant, flush, |op| spool.wants(op));
        if let Some(batch) = batch {
            self.outputs.push_back(Output::Commit(batch));
            #[cfg(feature = "mutants")]
            self.acknowledge_ordered();
        }
    }

    /// The mutant that takes an ordered commit for a done one.
    #[cfg(feature = "mutants")]
    fn acknowledge_ordered(&mut self) {
        if !self.planted.is(Mutant::AckBeforeCommit) {
            return;
        }
        let rows: Vec<_> = self
            .journal
            .running_waiters()
            .filter_map(|waiter| match waiter {
                Some(Waiter::Saved(row)) => Some(*row),
                _ => None,
            })
            .collect();
        for row in rows {
            let ticket = row.ticket.or_else(|| self.spool.take_ticket(row.lane, row.seq));
            self.count(ticket, true);
        }
        for waiter in self.journal.running_waiters() {
            if let Some(Waiter::Saved(row)) = waiter {
                row.ticket = None;
            }
        }
    }

    pub(super) fn committed(&mut self, batch: BatchId) {
        let Some(items) = self.journal.committed(batch) else { return };
        self.stats.commits += 1;
        self.note_store(None);
        for item in items {
            match item.waiter {
                Some(Waiter::Saved(row)) => {
                    self.stats.committed_rows += 1;
                    let consequence = self.spool.saved(row);
                    self.follow(consequence, true);
                }
                Some(Waiter::Buried(row)) => {
                    let consequence = self.spool.buried(row);
                    self.follow(consequence, true);
                    if let Op::Bury { lane, message, reason, .. } = item.op {
                        if self.delivery.through(self.now.instant, row.lane, &message.device, row.seq) {
                            self.spool.rewind(row.lane);
                        }
                        self.outputs.push_back(Output::Notice(Notice::Buried {
                            id: message.id,
                            lane,
                            reason,
                        }));
                    }
                }
                Some(Waiter::Marked(id)) => self.caution.marked(id),
                Some(Waiter::Requeued) => self.requeue_committed(&item.op),
                Some(Waiter::Ticket(ticket)) => self.count(Some(ticket), true),
                Some(Waiter::Losses) => self.losses_written(),
                Some(Waiter::Sealed(id)) => self.ledger.is_sealed(self.now.instant, id),
                None => {}
            }
        }
    }

    pub(super) fn commit_failed(&mut self, batch: BatchId, fault: StoreFault) {
        self.stats.commit_failures += 1;
        self.journal.failed(self.now.instant, batch, &fault);
        if let Some(held) = self.caution.give_up() {
            self.spool.unsent(held.lane, held.message.id.seq, false);
            // Should the store work again, the mark that waits there must not stay.
            self.journal.push(Item::new(caution::unmark(), None));
        }
        self.note_store(Some(fault));
    }

    /// Tells when the store begins to fail, fails otherwise than before, or works again.
    pub(super) fn note_store(&mut self, fault: Option<StoreFault>) {
        if fault != self.store_fault {
            self.store_fault.clone_from(&fault);
            self.outputs.push_back(Output::Notice(Notice::Store(fault)));
        }
    }

    pub(super) fn follow(&mut self, consequence: Consequence, by_commit: bool) {
        self.count(consequence.safe, by_commit);
        if let Some((lane, seq)) = consequence.forget {
            self.journal.forget(self.now.instant, lane, seq);
        }
    }

    pub(super) fn order_pages(&mut self) {
        if self.stopping != Stopping::No {
            return;
        }
        for (upstream, lanes) in &self.lanes_of {
            let ready = self.delivery.is_ready(*upstream);
            for &lane in lanes.iter().flatten() {
                if !ready && !self.spool.wants_room(lane) {
                    continue;
                }
                if !self.journal.has_room_for_forgets() {
                    return;
                }
                if let Some(page) = self.spool.page(self.now.instant, lane) {
                    self.outputs.push_back(Output::Load {
                        lane: page.lane,
                        after: page.after,
                        messages: page.messages,
                        bytes: page.bytes,
                    });
                }
            }
        }
    }
}
