//! The upstreams: what is handed over to them, and what their answers mean. Higher priorities go first, equal ones in turn;
//! the windows are `delivery`'s and the order within a lane is the lane's.

use crate::caution::{Before, Held};
use crate::delivery::{Flight, Refusal, Sent};
use crate::event::{Attempts, Outcome, Output, Packing, Publication};
use crate::id::{LaneId, Tag, UpstreamId};
use crate::journal::Item;
use crate::lane::{Allowed, Next};
use crate::mutant::Mutant;
use crate::router::routing_key;
use crate::spool::Consequence;
use crate::{Engine, Stopping, Waiter};
use std::sync::Arc;

/// Of what comes from no lane, which is a tombstone of one that nobody knows any more.
pub(super) const NO_LANE: LaneId = LaneId(u16::MAX);

impl Engine {
    pub(super) fn upstream_down(&mut self, upstream: UpstreamId) {
        let flights = self.delivery.down(upstream);
        for (tag, flight) in flights {
            self.careful_through(tag, true);
            if self.ledger.has(tag) {
                self.ledger.unsettled(self.now.instant, tag);
                continue;
            }
            if self.planted.is(Mutant::NoResend) {
                let consequence = self.spool.confirmed(flight.lane, flight.seq);
                self.follow(Consequence { safe: None, ..consequence }, false);
            } else {
                self.spool.unsent(flight.lane, flight.seq, true);
            }
        }
        self.saves.extend(self.spool.spill_upstream(upstream));
    }

    pub(super) fn settled(&mut self, upstream: UpstreamId, tag: Tag, outcome: Outcome) {
        let Some(flight) = self.delivery.settled(upstream, tag) else { return };
        self.careful_through(tag, outcome != Outcome::Confirmed);
        let outcome = match outcome {
            Outcome::Returned(_) if self.planted.is(Mutant::ReturnedIsDelivered) => Outcome::Confirmed,
            outcome => outcome,
        };
        if let Some(stats) = self.delivery.stats_mut(upstream) {
            match outcome {
                Outcome::Confirmed => stats.confirmed += 1,
                Outcome::Returned(_) => stats.returned += 1,
                Outcome::Nacked => stats.nacked += 1,
                Outcome::Refused(_) => stats.refused += 1,
            }
        }
        if self.ledger.has(tag) {
            return self.tombstone_settled(flight.lane, tag, outcome);
        }
        match outcome {
            Outcome::Confirmed => self.confirmed(&flight),
            Outcome::Returned(text) => self.refused(&flight, format!("returned as unroutable: {text}")),
            Outcome::Nacked => self.refused(&flight, "refused by the upstream (nack)".to_owned()),
            Outcome::Refused(text) => {
                let reason = format!("refused for good: {text}");
                let attempts = self.delivery.refused_for_good(self.now, &flight, &reason);
                self.bury(&flight, reason, attempts);
            }
        }
    }

    fn confirmed(&mut self, flight: &Flight) {
        let consequence = self.spool.confirmed(flight.lane, flight.seq);
        self.follow(consequence, false);
        if self.delivery.through(self.now.instant, flight.lane, &flight.device, flight.seq) {
            self.spool.rewind(flight.lane);
        }
    }

    fn refused(&mut self, flight: &Flight, reason: String) {
        match self.delivery.refused(self.now, flight, &reason) {
            Refusal::TryAgain => self.spool.unsent(flight.lane, flight.seq, false),
            Refusal::GiveUp(attempts) => self.bury(flight, reason, attempts),
        }
    }

    fn bury(&mut self, flight: &Flight, reason: String, attempts: Attempts) {
        if let Some(save) = self.spool.bury(flight.lane, flight.seq, reason, attempts) {
            self.saves.push(save);
        }
    }

    /// Fills the windows: higher priorities first, equal ones in turn.
    pub(super) fn hand_over(&mut self) {
        if self.stopping != Stopping::No {
            return;
        }
        for lane in self.delivery.retries_due(self.now.instant) {
            self.spool.rewind(lane);
        }
        self.hand_over_marked();
        // What is on the disk is safe: it goes on sparingly while devices wait for commits.
        let sparing = self.journal.is_behind();
        let lanes_of = std::mem::take(&mut self.lanes_of);
        for (upstream, lanes) in &lanes_of {
            if !self.delivery.may_refill(*upstream) {
                continue;
            }
            for equals in lanes {
                let mut idle = 0;
                while idle < equals.len() && self.delivery.has_room(*upstream, false) && !self.caution.waits()
                {
                    self.turn = self.turn.wrapping_add(1);
                    let lane = equals[self.turn % equals.len()];
                    let safe_too = self.delivery.has_room(*upstream, sparing);
                    idle = if self.hand_over_one(*upstream, lane, safe_too) { 0 } else { idle + 1 };
                }
            }
        }
        self.lanes_of = lanes_of;
    }

    /// Hands over the next message of a lane, unless it is safe already and `safe_too` does not let it go.
    fn hand_over_one(&mut self, upstream: UpstreamId, lane: usize, safe_too: bool) -> bool {
        let now = self.now.instant;
        let delivery = &self.delivery;
        let allowed = Allowed {
            safe_too,
            drains: delivery.may_drain(now, upstream),
            behind_live: delivery.has_room_for_backlog(upstream),
            planted: self.planted,
        };
        let next =
            self.spool.next(lane, allowed, |message, live| delivery.may_send(now, lane, live, message));
        let Some(Next { message, resend, live, drains }) = next else { return false };
        if drains {
            self.delivery.drained(now, upstream, message.footprint());
        }
        let before = self.spool.id(lane).map_or(Before::Go, |id| self.caution.before(id, message.id));
        match before {
            Before::Go => {
                let packing = self.spool.packing(lane);
                self.publish(Held { upstream, lane, message, resend, live }, packing);
            }
            Before::Mark(op) => {
                let id = message.id;
                self.caution.hold(Held { upstream, lane, message, resend, live });
                self.journal.push(Item::new(op, Some(Waiter::Marked(id))));
                self.stirred = true;
            }
            Before::GiveUp(deaths) => {
                let attempts = Attempts { count: deaths.into(), first: None };
                let reason = format!(
                    "the gateway ended {deaths} times while it handed this message over: report it, and send it again when that is mended"
                );
                self.saves.extend(self.spool.bury(lane, message.id.seq, reason, attempts));
                self.stirred = true;
            }
        }
        true
    }

    /// What was to be marked is: it goes, if it still can and may.
    fn hand_over_marked(&mut self) {
        let Some(held) = self.caution.next() else { return };
        let expired = self.spool.has_expired(held.lane, held.message.id.seq);
        if !self.delivery.is_ready(held.upstream) || expired {
            self.spool.unsent(held.lane, held.message.id.seq, false);
            return;
        }
        // By itself: in a batch it would be in hand for as long as that lingers, and more lives would end meanwhile.
        let upstream = held.upstream;
        let tag = self.publish(held, None);
        self.caution.out(upstream, tag);
    }

    fn careful_through(&mut self, tag: Tag, stays: bool) {
        if let Some(op) = self.caution.through(tag, stays) {
            self.journal.push(Item::new(op, None));
        }
    }

    fn publish(&mut self, held: Held, packing: Option<Arc<Packing>>) -> Tag {
        let Held { upstream, lane, message, resend, live } = held;
        let now = self.now.instant;
        let seq = message.id.seq;
        let of = Sent { lane, seq, device: message.device.clone(), live };
        let tag = self.delivery.sent(now, upstream, of, resend);
        let routing_key = routing_key(self.spool.routing_key(lane), &message);
        let senml = self.spool.senml(lane);
        let salvaged = self.spool.is_salvaged(lane);
        let lane_id = self.spool.id(lane).unwrap_or(NO_LANE);
        let publication = Publication {
            upstream,
            tag,
            lane: lane_id,
            message,
            routing_key,
            senml,
            packing,
            resend,
            salvaged,
            live,
        };
        self.outputs.push_back(Output::Publish(publication));
        if self.planted.is(Mutant::ForgetOnForward) {
            let consequence = self.spool.confirmed(lane, seq);
            self.follow(consequence, false);
        }
        tag
    }
}
