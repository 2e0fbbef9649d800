//! What is handed over and what arrives: P3 and P4 on the way to the upstreams, and how fast a backlog may leave.

use super::known::Flight;
use super::{Held, Oracle, Violation};
use crate::powercut::Mark;
use crate::sim::payload::Key;
use crate::sim::upstream::Handed;
use tidegate_engine::event::{Order as Priority, Outcome, Publication};
use tidegate_engine::id::{LaneId, MessageId, Seq, Tag, UpstreamId};
use tidegate_engine::message::Source;
use tidegate_engine::time::Duration;

/// Backlog that may leave although a live message waits: one whose hand-over was already prepared.
const PREPARED: usize = 1;

impl Oracle {
    /// The engine hands a message over: P3 and P4 at the engine's boundary.
    pub(crate) fn published(&mut self, publication: &Publication) -> Held {
        let message = &publication.message;
        if message.source == Source::Gateway {
            return self.losses.published(publication, self.setup.epoch);
        }
        let key = self.see(message)?;
        let id = message.id;
        let lane = publication.routing_key.strip_prefix('r').and_then(|rest| rest.split_once('.'));
        let Some((Ok(lane), rest)) = lane.map(|(lane, rest)| (lane.parse().map(LaneId), rest)) else {
            broken!("routing key {} of {key}", publication.routing_key);
        };
        if rest.split_once('.').map(|(device, _)| device) != Some(message.device.as_str()) {
            broken!("routing key {} of {key}", publication.routing_key);
        }
        let Some(route) = self.setup.routes.iter().find(|route| route.lane == lane) else {
            broken!("{key} is handed over on {lane:?}, which does not exist");
        };
        if route.upstream != publication.upstream {
            broken!("{key} of {lane:?} is handed over to {:?}", publication.upstream);
        }
        let index = usize::from(publication.upstream.0);
        let window = self.setup.upstreams.get(index).map_or(0, |u| u.window);
        let epoch = self.setup.epoch;
        let order = route.policy.order;
        let Some(known) = self.upstreams.get_mut(index) else { broken!("no such upstream") };
        if !known.up || known.blocked {
            broken!("{key} is handed over to u{index}, which is down or blocked");
        }
        let flight = Flight { lane, device: key.device, id, live: publication.live, refused: false };
        known.flights.insert(publication.tag, flight);
        if known.flights.len() > window.max(1) {
            broken!("bounds: {} under way to u{index}, its window is {window}", known.flights.len());
        }
        if id.epoch < epoch {
            known.drained(self.now, message.footprint(), self.setup.upstreams.get(index))?;
        }
        self.parted(key, lane, publication)?;
        self.in_time(key, lane, id)?;
        if publication.live {
            self.live += 1;
            self.passed_over(key, lane, id, order)?;
        } else {
            self.backlog_handed.entry(lane).or_default().push(self.step);
        }
        let part = usize::from(publication.live);
        let copy = self.copies.entry((lane, key.device, id)).or_default();
        let order = self.orders.entry((lane, key.device)).or_default();
        if copy.requeued {
            // Others have gone meanwhile: no order is promised.
            if !message.duplicate {
                broken!("P4: {key} {id:?} was a dead letter, and is sent again without the mark");
            }
        } else if !copy.published {
            if publication.resend && id.epoch == epoch {
                broken!("P4: {key} {id:?} was never handed over and has the resend mark");
            }
            if let Some(highest) = order.highest_published[part].filter(|highest| *highest > id) {
                broken!("P3: {key} {id:?} is handed over on {lane:?} after {highest:?}");
            }
            if let Some(refused) = order.refused[part].iter().find(|refused| **refused < id) {
                broken!("P3: {key} {id:?} overtakes {refused:?} on {lane:?}, which is refused and held");
            }
            copy.published = true;
            order.highest_published[part] = Some(id);
        }
        Ok(())
    }

    /// A message stays in its part of the lane for a life, and what an earlier life has left is not live.
    fn parted(&mut self, key: Key, lane: LaneId, publication: &Publication) -> Held {
        let (id, live) = (publication.message.id, publication.live);
        if live && (id.epoch < self.setup.epoch || !self.overtakes.contains(&lane)) {
            broken!("P3: {key} {id:?} is handed over as live on {lane:?}");
        }
        let copy = self.copies.entry((lane, key.device, id)).or_default();
        let part = (self.setup.epoch, live);
        if !copy.requeued && copy.part.is_some_and(|(life, was)| life == part.0 && was != live) {
            broken!("P3: {key} {id:?} is live on {lane:?}, or not: {live} now");
        }
        copy.part = Some(part);
        Ok(())
    }

    /// What this life has accepted is not handed over when its time is over.
    fn in_time(&self, key: Key, lane: LaneId, id: MessageId) -> Held {
        let route = self.setup.routes.iter().find(|route| route.lane == lane);
        let time = route.and_then(|route| route.policy.expires_after);
        let (Some(time), Some(seen)) = (time, self.seen.get(&id)) else { return Ok(()) };
        let waited = Duration::from_micros(self.now - seen);
        if id.epoch == self.setup.epoch && waited > time + time / 32 + Duration::from_millis(1) {
            broken!("P5: {key} {id:?} is handed over on {lane:?} after {waited:?}, and has {time:?}");
        }
        Ok(())
    }

    /// A live message of a route that has it go first: no backlog went while it could have gone.
    fn passed_over(&self, key: Key, lane: LaneId, id: MessageId, order: Priority) -> Held {
        let copy = self.copies.get(&(lane, key.device, id));
        let Some(copy) = copy.filter(|copy| !copy.published && copy.safe_at > 0) else { return Ok(()) };
        let held = self.orders.get(&(lane, key.device)).map_or(0, |order| order.refusals_changed);
        let since = copy.safe_at.max(held).max(self.configured_at);
        let handed = self.backlog_handed.get(&lane).map_or(&[][..], Vec::as_slice);
        let passed = handed.len() - handed.partition_point(|step| *step <= since);
        if order == Priority::LiveFirst && passed > PREPARED {
            broken!("P3: {key} {id:?} is live on {lane:?} and waits, and {passed} of the backlog go first");
        }
        Ok(())
    }

    /// The broker has refused a message; the engine does not know yet.
    pub(crate) fn refused(&mut self, upstream: UpstreamId, tag: Tag) {
        let known = self.upstreams.get_mut(usize::from(upstream.0));
        if let Some(flight) = known.and_then(|known| known.flights.get_mut(&tag)) {
            flight.refused = true;
        }
    }

    /// The broker has taken a message; the consumer has it: P3 and P4 at the consumer.
    pub(crate) fn taken(&mut self, handed: &Handed) -> Held {
        let (publication, message) = (&handed.publication, &handed.publication.message);
        if message.source == Source::Gateway {
            return self.losses.taken(publication);
        }
        let Some(key) = self.ids.get(&message.id).copied() else {
            broken!("{:?} came from nowhere", message.id)
        };
        let lane = publication.routing_key.strip_prefix('r').and_then(|rest| rest.split_once('.'));
        let lane = LaneId(lane.and_then(|(lane, _)| lane.parse().ok()).unwrap_or(u16::MAX));
        let at = (lane, key.device, message.id);
        if let Some(ledger) = &self.ledger {
            ledger.mark(Mark::Taken { lane, id: message.id });
        }
        let copy = self.copies.entry(at).or_default();
        copy.arrivals += 1;
        if copy.arrivals > 1 {
            self.duplicates += 1;
            if !publication.resend && !copy.requeued {
                broken!("P4: {key} {:?} arrives again on {lane:?} without the resend mark", message.id);
            }
            return Ok(());
        }
        self.arrivals += 1;
        copy.arrived_from = handed.step;
        // Where live messages go ahead, each part of the lane has an order of its own, in each life.
        let part = Some((self.setup.epoch, publication.live)).filter(|_| self.overtakes.contains(&lane));
        copy.arrived_in = part;
        let known = copy.refusal_known;
        // A refusal of which the engine has not been told yet excuses everything handed over until now.
        let flights = self.upstreams.iter().flat_map(|known| known.flights.values());
        let pending = flights.into_iter().any(|f| f.refused && (f.lane, f.device, f.id) == at);
        let later = (lane, key.device, MessageId { seq: message.id.seq.next(), ..message.id });
        let end = (lane, key.device + 1, MessageId { epoch: 0, seq: Seq(0) });
        for ((_, _, id), other) in self.copies.range(later..end) {
            if other.arrivals == 0 || other.arrived_in != part {
                continue;
            }
            if !pending && other.arrived_from >= known {
                broken!("P3: {key} {:?} arrives on {lane:?} after {id:?}", message.id);
            }
            self.excused_inversions += 1;
        }
        Ok(())
    }

    /// The engine is told what became of a message.
    pub(crate) fn settled(&mut self, upstream: UpstreamId, tag: Tag, outcome: &Outcome) {
        let known = self.upstreams.get_mut(usize::from(upstream.0));
        let Some(flight) = known.and_then(|known| known.flights.remove(&tag)) else { return };
        let copy = self.copies.entry((flight.lane, flight.device, flight.id)).or_default();
        let order = self.orders.entry((flight.lane, flight.device)).or_default();
        order.refusals_changed = self.step;
        let refused = &mut order.refused[usize::from(flight.live)];
        match outcome {
            Outcome::Confirmed => {
                copy.safe = true;
                copy.confirmed = true;
                refused.remove(&flight.id);
            }
            Outcome::Returned(_) | Outcome::Nacked => {
                copy.refusals = copy.refusals.saturating_add(1);
                copy.refusal_known = self.step;
                refused.insert(flight.id);
            }
            // It will never arrive, so that it need not hold anything up.
            Outcome::Refused(_) => {
                copy.fatal = true;
                copy.refusal_known = self.step;
                refused.remove(&flight.id);
            }
        }
    }
}
