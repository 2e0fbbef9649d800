//! What is lost or discarded: into the ledger, with what caused it into one commit, and as tombstones to the upstreams. Passes values
//! between the ledger, the journal and delivery; decides nothing about what is lost.

use crate::delivery::Sent;
use crate::event::{Loss, LossReason, Notice, Op, Outcome, Output, Publication, Senml};
use crate::forwarding::NO_LANE;
use crate::id::{LaneId, MessageId, Tag, UpstreamId};
use crate::journal::Item;
use crate::lane::Ticket;
use crate::ledger::tombstone;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::router::routing_key;
use crate::spool::Discard;
use crate::{Engine, Stopping, Waiter};
use std::collections::BTreeMap;

impl Engine {
    /// Something is lost that nobody decided to discard.
    pub(super) fn lost(&mut self, loss: Loss, with: Option<Op>) {
        self.with_losses.extend(with);
        if loss.count > 0 {
            let Loss { lane, reason, count: messages, .. } = loss;
            self.outputs.push_back(Output::Notice(Notice::Lost { lane, reason, messages }));
            self.write_down(loss);
        }
    }

    fn write_down(&mut self, loss: Loss) {
        if self.planted.is(Mutant::DiscardUnwritten) && loss.reason != LossReason::Damaged {
            return;
        }
        let (epoch, last) = (self.setup.epoch, &mut self.last);
        self.ledger.add(self.now.instant, loss, || {
            *last = last.next();
            MessageId { epoch, seq: *last }
        });
    }

    /// A message is discarded as it comes; whoever waits for it is answered when the ledger has it.
    pub(super) fn discard_newest(&mut self, lane: usize, message: &Message, ticket: Option<Ticket>) {
        self.spool.discarded_newest(lane);
        let reason = LossReason::DroppedNewest;
        let lane = self.spool.id(lane);
        self.write_down(Loss::of(lane, message, reason));
        self.outputs.push_back(Output::Notice(Notice::Lost { lane, reason, messages: 1 }));
        if self.planted.is(Mutant::DiscardNotAwaited) {
            self.count(ticket, true);
        } else {
            self.after_losses.extend(ticket);
        }
    }

    /// Discards what must go so that there is room, unless what was discarded last is still being written.
    pub(super) fn make_room(&mut self) {
        if !self.losses_ordered.is_empty() || !self.with_losses.is_empty() {
            return;
        }
        if std::mem::take(&mut self.room_rests) {
            // First what the upstreams can take: that need not be discarded.
            self.stirred = true;
            return;
        }
        let discards = self.spool.make_room(self.now.wall);
        let mut counts: BTreeMap<(Option<LaneId>, LossReason), u64> = BTreeMap::new();
        for Discard { lane: index, message, reason } in discards {
            // Others of its device may have waited for it.
            if self.delivery.through(self.now.instant, index, &message.device, message.id.seq) {
                self.spool.rewind(index);
            }
            let lane = self.spool.id(index);
            self.with_losses.extend(lane.map(|lane| Op::Forget { lane, seq: message.id.seq }));
            *counts.entry((lane, reason)).or_default() += 1;
            self.write_down(Loss::of(lane, &message, reason));
        }
        for ((lane, reason), messages) in counts {
            self.outputs.push_back(Output::Notice(Notice::Lost { lane, reason, messages }));
        }
    }

    /// Orders what the ledger has to write, all of it in one commit, one at a time; `joined`: at once, and together with what is ordered next.
    pub(super) fn write_losses(&mut self, joined: bool) {
        if !joined && !self.losses_ordered.is_empty() {
            return;
        }
        // What takes away goes first: in a full store it makes the room for the rest.
        let mut ops = std::mem::take(&mut self.with_losses);
        let makes_room = !joined && !ops.is_empty();
        ops.extend(self.ledger.changes());
        let Some(last) = ops.pop() else { return };
        self.losses_ordered.push_back(std::mem::take(&mut self.after_losses));
        let apart = self.planted.is(Mutant::DiscardApart);
        let mut items: Vec<_> = ops.into_iter().map(|op| Item { op, waiter: None, joined: !apart }).collect();
        items.push(Item { op: last, waiter: Some(Waiter::Losses), joined });
        if makes_room && !apart {
            self.journal.push_first(items);
        } else {
            items.into_iter().for_each(|item| self.journal.push(item));
        }
    }

    /// What was ordered first is durable.
    pub(super) fn losses_written(&mut self) {
        // Room is made only while nothing is ordered: what was discarded for it stands in the first.
        self.spool.discarded();
        self.room_rests = true;
        for ticket in self.losses_ordered.pop_front().unwrap_or_default() {
            self.count(Some(ticket), true);
        }
    }

    /// Seals what is due for the upstreams that are there, and hands over what is sealed: one tombstone at a time for each.
    pub(super) fn tell_losses(&mut self) {
        if self.stopping != Stopping::No {
            return;
        }
        let now = self.now;
        for upstream in (0..=u16::MAX).map(UpstreamId).take(self.setup.upstreams.len()) {
            if !self.delivery.has_room(upstream, false) {
                continue;
            }
            let spool = &self.spool;
            // What stood in a lane that nobody knows any more is told to the first.
            let of =
                |lane: Option<LaneId>| lane.and_then(|lane| spool.upstream(lane)).unwrap_or(UpstreamId(0));
            let setup = &self.setup;
            let sealed = self.ledger.seal(
                now.instant,
                |lane| of(lane) == upstream,
                |id, common, amount| {
                    let route = setup.routes.iter().find(|route| Some(route.lane) == common.lane);
                    tombstone(id, common, amount, route, &setup.gateway, now.wall)
                },
            );
            if let Some((id, op)) = sealed {
                self.journal.push(Item::new(op, Some(Waiter::Sealed(id))));
            }
            let next = self.ledger.next(now.instant, |lane| of(lane) == upstream);
            let Some((lane, message, resend)) = next else { continue };
            let resend = resend && !self.planted.is(Mutant::TombstoneUnmarked);
            let lane_id = lane.unwrap_or(NO_LANE);
            let lane = lane.and_then(|lane| self.spool.index(lane)).unwrap_or_default();
            let MessageId { seq, .. } = message.id;
            let of = Sent { lane, seq, device: message.device.clone(), live: false };
            let tag = self.delivery.sent(now.instant, upstream, of, resend);
            self.ledger.sent(message.id, tag);
            let routing_key = routing_key(self.spool.routing_key(lane), &message);
            let senml = Senml::Untouched;
            let publication = Publication {
                upstream,
                tag,
                lane: lane_id,
                message,
                routing_key,
                senml,
                packing: None, // consumers know it by its headers
                resend,
                salvaged: false,
                live: false,
            };
            self.outputs.push_back(Output::Publish(publication));
        }
    }

    /// An upstream has said what became of a tombstone.
    pub(super) fn tombstone_settled(&mut self, lane: usize, tag: Tag, outcome: Outcome) {
        let reason = match outcome {
            Outcome::Confirmed => {
                if let Some(op) = self.ledger.confirmed(tag) {
                    self.journal.push(Item::new(op, None));
                }
                return;
            }
            Outcome::Returned(text) => format!("returned as unroutable: {text}"),
            Outcome::Nacked => "refused by the upstream (nack)".to_owned(),
            Outcome::Refused(text) => format!("refused for good: {text}"),
        };
        self.ledger.refused(self.now.instant, tag);
        let lane = self.spool.id(lane);
        self.outputs.push_back(Output::Notice(Notice::TombstoneRefused { lane, reason }));
    }
}
