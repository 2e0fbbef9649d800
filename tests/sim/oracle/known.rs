//! What the judge keeps of each message, of each copy of it on a lane, of the order there, and of what is under way. It judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use tidegate_engine::event::Setup;
use tidegate_engine::id::{LaneId, MessageId, Seq, Tag};
use tidegate_engine::topic::Topic;

/// What a device sent, as it left the device's application.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) qos: u8,
    /// The engine has let an acknowledgement out.
    pub(crate) acked: bool,
    /// Its sender has lost its state, or began a new session, while it was under way.
    pub(crate) excused: bool,
    /// The lanes that took its topic, each time it was received.
    pub(super) required: Vec<Vec<LaneId>>,
    pub(super) ids: Vec<MessageId>,
    /// CoAP: the exchanges in which it was received, by life of the gateway.
    pub(super) exchanges: BTreeSet<(u64, u16, u16)>,
}

impl Record {
    pub(super) fn requires(&mut self, setup: &Setup) {
        let required = required(&self.topic, setup);
        if !self.required.contains(&required) {
            self.required.push(required);
        }
    }
}

/// The lanes on which a message must be safe: for each upstream that of the first route that takes its topic.
pub(super) fn required(topic: &Topic, setup: &Setup) -> Vec<LaneId> {
    let mut served = Vec::new();
    let mut lanes = Vec::new();
    for route in setup.routes.iter().filter(|route| route.filter.as_ref().is_some_and(|f| f.matches(topic))) {
        if !served.contains(&route.upstream) {
            served.push(route.upstream);
            lanes.push(route.lane);
        }
    }
    lanes
}

/// A message on a lane.
#[derive(Debug, Default)]
pub(super) struct Copy {
    /// The engine knows that it is safe here.
    pub(super) safe: bool,
    /// The engine's life in which it was handed over last.
    pub(super) published: bool,
    /// How often the broker refused it, and the engine knew.
    pub(super) refusals: u8,
    /// The broker refused it for good.
    pub(super) fatal: bool,
    /// When the engine last learned of a refusal, or can no longer learn of one, in steps.
    pub(super) refusal_known: u64,
    /// Times that the consumer got it.
    pub(super) arrivals: u32,
    /// When the copy that arrived first was handed over, in steps.
    pub(super) arrived_from: u64,
    pub(super) buried: bool,
    /// It was a dead letter and has been put back.
    pub(super) requeued: bool,
    pub(super) damaged: bool,
    /// An upstream has confirmed it, and the engine knew.
    pub(super) confirmed: bool,
    /// It has left the disk unconfirmed.
    pub(super) discarded: bool,
}

impl Copy {
    /// A dead letter stands in its lane again.
    pub(super) fn put_back(&mut self, step: u64) {
        self.buried = false;
        self.requeued = true;
        self.discarded = false;
        self.fatal = false;
        self.refusals = 0;
        // What has arrived by now came before it, for it was not there.
        self.refusal_known = step;
    }
}

/// The order on a lane for one device.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) highest_published: Option<MessageId>,
    /// Refused, and neither confirmed, buried nor discarded since, as far as the engine knows.
    pub(super) refused: BTreeSet<MessageId>,
}

/// Handed over and not settled.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) lane: LaneId,
    pub(super) device: u16,
    pub(super) id: MessageId,
    /// The broker has refused it; the engine may not know yet.
    pub(super) refused: bool,
}

/// An upstream as the engine knows it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) up: bool,
    pub(super) blocked: bool,
    pub(super) flights: BTreeMap<Tag, Flight>,
}

/// What a mark says is being handed over.
pub(super) fn marked(value: &[u8]) -> Option<(LaneId, MessageId)> {
    let (lane, rest) = value.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (seq, _) = rest.split_first_chunk()?;
    let id = MessageId { epoch: u64::from_be_bytes(*epoch), seq: Seq(u64::from_be_bytes(*seq)) };
    Some((LaneId(u16::from_be_bytes(*lane)), id))
}
