//! Dead letters: what an operator has sent again goes back into its lane, what he gives up for good is removed. Each is one change
//! of the store. How a message becomes a dead letter is `forwarding`'s.

use crate::event::{Letter, Loss, LossReason, Notice, Op, Output};
use crate::id::{LaneId, LetterId};
use crate::journal::Item;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::{Engine, Waiter};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Letters of which is remembered that something was ordered: more than all orders together can name while they look and ask.
const REMEMBERED_LETTERS: usize = 4_096;

/// The newest letters that were sent again or given up in this life: who asks once more, or for the other, may have looked before
/// the first order was carried out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    letters: BTreeSet<LetterId>,
    order: VecDeque<LetterId>,
}

impl Taken {
    fn has(&self, letter: LetterId) -> bool {
        self.letters.contains(&letter)
    }

    fn take(&mut self, letter: LetterId) {
        if self.letters.insert(letter) {
            self.order.push_back(letter);
        }
        if self.order.len() > REMEMBERED_LETTERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.letters.remove(&oldest);
        }
    }
}

impl Engine {
    /// Takes dead letters back into their lanes, as far as there is room.
    pub(super) fn requeue(&mut self, letters: Vec<(LetterId, LaneId, Arc<Message>)>) {
        let limits = &self.setup.limits;
        let mut bytes = self.spool.requeued_bytes() + self.requeuing_bytes;
        for (letter, lane, message) in letters {
            if self.taken.has(letter) {
                continue;
            }
            let disk = self.spool.disk_bytes() + self.requeuing_bytes as u64;
            if bytes >= limits.requeued_bytes || disk >= limits.spool_bytes {
                return;
            }
            let duplicate = !self.planted.is(Mutant::RequeuedUnmarked);
            let message = Arc::new(Message { duplicate, ..Message::clone(&message) });
            self.taken.take(letter);
            bytes += message.footprint();
            self.requeuing_bytes += message.footprint();
            self.journal.push(Item::new(Op::Requeue { letter, lane, message }, Some(Waiter::Requeued)));
        }
    }

    /// The change is durable.
    pub(super) fn requeue_committed(&mut self, op: &Op) {
        let Op::Requeue { lane, message, .. } = op else { return };
        self.requeuing_bytes = self.requeuing_bytes.saturating_sub(message.footprint());
        if let Some(index) = self.spool.index(*lane) {
            self.spool.requeued(index, message);
            if let Some(held) = self.caution.overtaken(index) {
                self.spool.unsent(index, held.message.id.seq, false);
            }
        }
        self.outputs.push_back(Output::Notice(Notice::Requeued { id: message.id, lane: *lane }));
    }

    /// Removes dead letters; that they are lost becomes durable in the same commit.
    pub(super) fn purge(&mut self, letters: Vec<Letter>) {
        for Letter { id, lane, message, .. } in letters {
            if self.taken.has(id) {
                continue;
            }
            self.taken.take(id);
            let message = message.as_deref();
            let loss = Loss {
                lane,
                device: message.map(|message| message.device.clone()),
                topic: message.map(|message| message.topic.clone()),
                count: 1,
                received: message.map(|message| (message.received.unix_ms, message.received.unix_ms)),
                reason: LossReason::Purged,
            };
            self.lost(loss, Some(Op::Purge { letter: id }));
        }
    }
}
