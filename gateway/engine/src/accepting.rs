//! Devices: what they send becomes a message, what is safe becomes an acknowledgement. Passes values between the sessions,
//! the router, the spool and the receipts; decides nothing that one of these could decide.

use crate::id::MessageId;
use crate::journal::Item;
use crate::lane::Ticket;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::{Claim, Incoming, Receipt, Request};
use crate::spool::Way;
use crate::{Engine, Stopping, Waiter};
use std::sync::Arc;

impl Engine {
    pub(super) fn serve_sessions(&mut self) {
        while let Some(request) = self.mqtt.poll().or_else(|| self.coap.poll()) {
            match request {
                Request::Output(output) => self.outputs.push_back(output),
                Request::Publish { incoming, receipt } => self.accept(incoming, receipt),
                Request::Record { op, receipt } => {
                    let waiter = receipt.map(|receipt| Waiter::Ticket(self.receipts.open(receipt, 1)));
                    self.journal.push(Item::new(op, waiter));
                }
                Request::Settled { claim, committed } => self.count(Some(Ticket(claim.0)), committed),
            }
        }
    }

    pub(super) fn accept(&mut self, incoming: Incoming, receipt: Option<Receipt>) {
        self.stats.accepted += 1;
        self.last = self.last.next();
        let message = Arc::new(Message {
            id: MessageId { epoch: self.setup.epoch, seq: self.last },
            device: incoming.device,
            topic: incoming.topic,
            payload: incoming.payload,
            received: self.now.wall,
            qos: incoming.qos,
            retain: incoming.retain,
            duplicate: incoming.duplicate,
            source: incoming.source,
            properties: incoming.properties,
        });
        let receipt = match receipt {
            Some(receipt) if self.planted.is(Mutant::AckOnEnqueue) => {
                self.answer(receipt);
                None
            }
            other => other,
        };
        let ticket = receipt.map(|receipt| self.receipts.open(receipt, 1));
        let claim = ticket.map(|ticket| Claim(ticket.0));
        let delivered =
            self.mqtt.deliver(self.now, &message, incoming.client.as_ref(), claim, incoming.record.is_some());
        self.coap.deliver(self.now, &message);
        let routes = self.router.routes(&message.topic);
        if routes.is_empty() {
            self.stats.unrouted += 1;
        }
        let retained = if message.retain { self.mqtt.retain(self.now, &message) } else { None };
        let awaited = !self.planted.is(Mutant::RetainedNotAwaited);
        let records = usize::from(incoming.record.is_some()) + usize::from(retained.is_some() && awaited);
        let outstanding = delivered.claimed as usize + routes.len() + records;
        let ticket = ticket.and_then(|ticket| self.expect(ticket, outstanding));
        let mut saves = std::mem::take(&mut self.saves);
        for &route in routes.iter() {
            let Some(route) = self.router.route(route) else { continue };
            let Some(lane) = self.spool.index(route.lane) else { continue };
            let ready = self.delivery.is_ready(route.upstream) && self.stopping == Stopping::No;
            let way = if incoming.record.is_some() || self.caution.is_careful() {
                Way::DiskFirst
            } else if ready {
                Way::Relay
            } else {
                Way::Disk
            };
            if self.spool.discards_newest(lane, way) {
                self.discard_newest(lane, &message, ticket);
                continue;
            }
            self.spool.admit(self.now.instant, lane, &message, ticket, (way, ready), &mut saves);
        }
        self.saves = saves;
        self.write_notes();
        // In one transaction with the message itself: a repetition after a crash is recognised, or all is gone.
        let joined = incoming.record.is_some();
        self.order_saves(joined);
        if joined {
            self.write_losses(true);
        }
        for (op, receipt) in delivered.records {
            let waiter = Some(Waiter::Ticket(self.receipts.open(receipt, 1)));
            self.journal.push(Item { op, waiter, joined });
        }
        let waiter = || ticket.map(Waiter::Ticket);
        if let Some(op) = retained {
            self.journal.push(Item { op, waiter: waiter().filter(|_| awaited), joined });
        }
        if let Some(op) = incoming.record {
            self.journal.push(Item::new(op, waiter()));
        }
    }

    /// Says of a ticket that was opened for one thing how many it is to wait for; nothing to wait for is answered at once.
    fn expect(&mut self, ticket: Ticket, outstanding: usize) -> Option<Ticket> {
        match outstanding.checked_sub(1) {
            Some(more) => {
                self.receipts.expect(ticket, u32::try_from(more).unwrap_or(u32::MAX));
                Some(ticket)
            }
            None => {
                if let Some(complete) = self.receipts.count(ticket, false) {
                    self.answer(complete.receipt);
                }
                None
            }
        }
    }

    /// Something that a receipt waits for is safe.
    pub(super) fn count(&mut self, ticket: Option<Ticket>, by_commit: bool) {
        let Some(complete) = ticket.and_then(|ticket| self.receipts.count(ticket, by_commit)) else { return };
        if complete.committed {
            self.stats.safe_on_disk += 1;
        } else {
            self.stats.safe_upstream += 1;
        }
        self.answer(complete.receipt);
    }

    fn answer(&mut self, receipt: Receipt) {
        match receipt {
            Receipt::Mqtt(receipt) => self.mqtt.safe(self.now, receipt),
            Receipt::Coap(receipt) => self.coap.safe(self.now, receipt),
        }
    }
}
