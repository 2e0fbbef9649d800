//! Which publications travel together: one batch is open for each lane and routing key, until it is full or its first message has waited
//! long enough. Writes no frames and has no clock.
//!
//! **Order (P3).** On one lane a device's messages are in one open batch at a time: before its next message goes anywhere else, the batch that
//! has the earlier ones is closed, and leaves first.
//!
//! **Bounds.** Messages in open batches are within the engine's window; so are the batches. Their bodies together are held to
//! [`OPEN_BYTES`], whatever routes ask for.

use crate::upstream::batch::Body;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tidegate_engine::event::{Packing, Publication};
use tidegate_engine::id::{GatewayId, LaneId};

/// Bodies of all open batches together; the oldest are closed beyond it. Four of the largest that a route may ask for.
const OPEN_BYTES: usize = 4 << 20;

/// A batch that is to be sent.
pub(super) struct Closed {
    pub(super) lane: LaneId,
    pub(super) packing: Arc<Packing>,
    pub(super) routing_key: String,
    /// Never empty.
    pub(super) publications: Vec<Publication>,
    pub(super) body: Vec<u8>,
}

/// What is to be sent now.
pub(super) enum Ready {
    Batch(Closed),
    /// A publication by itself.
    One(Publication),
}

/// A batch that others may join.
struct Open {
    lane: LaneId,
    packing: Arc<Packing>,
    routing_key: String,
    publications: Vec<Publication>,
    body: Body,
    due: Instant,
}

impl Open {
    fn new(packing: &Arc<Packing>, publication: &Publication, now: Instant) -> Self {
        Self {
            lane: publication.lane,
            packing: Arc::clone(packing),
            routing_key: publication.routing_key.clone(),
            publications: Vec::new(),
            body: Body::new(packing),
            due: now.checked_add(packing.linger).unwrap_or(now),
        }
    }

    fn takes(&self, packing: &Arc<Packing>, publication: &Publication) -> bool {
        self.lane == publication.lane
            && Arc::ptr_eq(&self.packing, packing)
            && self.routing_key == publication.routing_key
    }

    fn close(self) -> Ready {
        let Self { lane, packing, routing_key, publications, body, .. } = self;
        Ready::Batch(Closed { lane, packing, routing_key, publications, body: body.finish() })
    }
}

/// The open batches, oldest first.
#[derive(Default)]
pub(super) struct Packer {
    open: VecDeque<Open>,
    messages: usize,
    bytes: usize,
}

impl Packer {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Messages in open batches.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// When the first of the open batches has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.due).min()
    }

    /// Takes a publication, and gives what is to be sent now, in this order.
    pub(super) fn add(&mut self, gateway: &GatewayId, publication: Publication, now: Instant) -> Vec<Ready> {
        let mut ready = Vec::new();
        let packing = publication.packing.clone();
        let joins = |open: &Open| packing.as_ref().is_some_and(|packing| open.takes(packing, &publication));
        let Publication { lane, ref message, .. } = publication;
        self.close_where(&mut ready, |open| {
            open.lane == lane
                && !joins(open)
                && open.publications.iter().any(|earlier| earlier.message.device == message.device)
        });
        let Some(packing) = packing.as_ref() else {
            ready.push(Ready::One(publication));
            return ready;
        };
        let index = self.open.iter().position(joins);
        if let Some(publication) = self.append(index, gateway, publication, &mut ready) {
            // A batch of its own; and without one when it alone is longer than a batch may be.
            self.open.push_back(Open::new(packing, &publication, now));
            let index = self.open.len() - 1;
            if let Some(publication) = self.append(Some(index), gateway, publication, &mut ready) {
                ready.push(Ready::One(publication));
            }
        }
        while self.bytes > OPEN_BYTES {
            self.close(0, &mut ready);
        }
        ready
    }

    /// Gives the batches that have waited long enough by `now`, oldest first.
    pub(super) fn ripe(&mut self, now: Instant) -> Vec<Ready> {
        let mut ready = Vec::new();
        self.close_where(&mut ready, |open| open.due <= now);
        ready
    }

    /// Gives all batches, oldest first.
    pub(super) fn all(&mut self) -> Vec<Ready> {
        let mut ready = Vec::new();
        self.close_where(&mut ready, |_| true);
        ready
    }

    /// Puts a publication into an open batch, and closes that when it is full. Gives the publication back when there is no room for it or
    /// no batch.
    fn append(
        &mut self,
        index: Option<usize>,
        gateway: &GatewayId,
        publication: Publication,
        ready: &mut Vec<Ready>,
    ) -> Option<Publication> {
        let Some((index, open)) = index.and_then(|index| Some((index, self.open.get_mut(index)?))) else {
            return Some(publication);
        };
        let before = open.body.len();
        if !open.body.append(gateway, &publication) {
            self.close(index, ready);
            return Some(publication);
        }
        self.bytes += open.body.len() - before;
        self.messages += 1;
        open.publications.push(publication);
        if open.publications.len() >= open.packing.max_messages {
            self.close(index, ready);
        }
        None
    }

    fn close_where(&mut self, ready: &mut Vec<Ready>, wanted: impl Fn(&Open) -> bool) {
        let mut index = 0;
        while let Some(open) = self.open.get(index) {
            if wanted(open) {
                self.close(index, ready);
            } else {
                index += 1;
            }
        }
    }

    fn close(&mut self, index: usize, ready: &mut Vec<Ready>) {
        let Some(open) = self.open.remove(index) else { return };
        self.messages -= open.publications.len();
        self.bytes -= open.body.len();
        if !open.publications.is_empty() {
            ready.push(open.close());
        }
    }
}

#[cfg(test)]
mod tests;
