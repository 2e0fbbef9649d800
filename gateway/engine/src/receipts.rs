//! Who waits for what: a receipt and how many lanes (and records) must still be safe before it is answered.
//! Bounded by what devices may have under way: their Receive Maximum, the CoAP exchanges, and the subscribers' queues.

use crate::lane::Ticket;
use crate::session::Receipt;

#[derive(Debug)]
struct Pending {
    receipt: Receipt,
    outstanding: u32,
    /// A commit was among what made it safe.
    committed: bool,
}

/// What a receipt that is complete says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) receipt: Receipt,
    pub(crate) committed: bool,
}

/// The table of receipts; tickets are its indices and are used again.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    slots: Vec<Option<Pending>>,
    free: Vec<Ticket>,
}

impl Receipts {
    /// Opens a receipt that waits for `outstanding` things.
    pub(crate) fn open(&mut self, receipt: Receipt, outstanding: u32) -> Ticket {
        let pending = Some(Pending { receipt, outstanding, committed: false });
        if let Some(ticket) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(ticket.0 as usize) {
                *slot = pending;
            }
            return ticket;
        }
        self.slots.push(pending);
        Ticket(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    /// So many more things must be done.
    pub(crate) fn expect(&mut self, ticket: Ticket, more: u32) {
        if let Some(Some(pending)) = self.slots.get_mut(ticket.0 as usize) {
            pending.outstanding = pending.outstanding.saturating_add(more);
        }
    }

    /// One of the things is done.
    pub(crate) fn count(&mut self, ticket: Ticket, by_commit: bool) -> Option<Complete> {
        let slot = self.slots.get_mut(ticket.0 as usize)?;
        let pending = slot.as_mut()?;
        pending.outstanding = pending.outstanding.saturating_sub(1);
        pending.committed |= by_commit;
        if pending.outstanding > 0 {
            return None;
        }
        let complete = Complete { receipt: pending.receipt, committed: pending.committed };
        *slot = None;
        self.free.push(ticket);
        Some(complete)
    }

    /// Nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}
