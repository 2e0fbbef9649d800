//! What the judge keeps of each message, of each copy of it on a lane, of the order there, and of what is under way. It judges nothing.

use super::{Held, Violation};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_engine::event::{Setup, UpstreamSetup};
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
    /// When it was received first.
    pub(super) came: u64,
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

/// What a message takes at the most, with what goes around it, in bytes.
const LARGEST_FOOTPRINT: u64 = 2_000;

/// A message on a lane.
#[derive(Debug, Default)]
pub(super) struct Copy {
    /// The engine knows that it is safe here.
    pub(super) safe: bool,
    /// When the engine was told of its commit, in steps; 0 if it was not.
    pub(super) safe_at: u64,
    /// The life in which it was handed over last, and whether as a live one.
    pub(super) part: Option<(u64, bool)>,
    /// The same of the copy that arrived first, where live messages go ahead.
    pub(super) arrived_in: Option<(u64, bool)>,
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
    /// Of the backlog and of what is live.
    pub(super) highest_published: [Option<MessageId>; 2],
    /// Refused, and neither confirmed, buried nor discarded since, as far as the engine knows; of the backlog and of what is live.
    pub(super) refused: [BTreeSet<MessageId>; 2],
    /// When that changed last, in steps.
    pub(super) refusals_changed: u64,
}

impl Order {
    /// These hold nobody up any more.
    pub(super) fn ended(&mut self, step: u64, which: impl Fn(&MessageId) -> bool) {
        self.refused.iter_mut().for_each(|refused| refused.retain(|id| !which(id)));
        self.refusals_changed = step;
    }
}

/// Handed over and not settled.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) lane: LaneId,
    pub(super) device: u16,
    pub(super) id: MessageId,
    pub(super) live: bool,
    /// The broker has refused it; the engine may not know yet.
    pub(super) refused: bool,
}

/// An upstream as the engine knows it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) up: bool,
    pub(super) blocked: bool,
    pub(super) flights: BTreeMap<Tag, Flight>,
    /// What has been handed over of what an earlier life has left and time has not made up for: millionths of messages and of bytes;
    /// and when that was so.
    drained: ([u64; 2], u64),
}

impl Known {
    /// Something that an earlier life has left is handed over: no more than a second's worth and what time gives.
    pub(super) fn drained(&mut self, now: u64, bytes: usize, setup: Option<&UpstreamSetup>) -> Held {
        let (levels, at) = &mut self.drained;
        let drain = setup.map(|setup| setup.drain).unwrap_or_default();
        let limits = [(drain.messages_per_second, 1), (drain.bytes_per_second, bytes as u64)];
        for (level, (rate, amount)) in levels.iter_mut().zip(limits) {
            let Some(rate) = rate.map(|rate| u64::from(rate.get())) else { continue };
            *level = level.saturating_sub((now - *at) * rate) + amount * 1_000_000;
            // What is allowed is rounded, and the last message of a second's worth may be larger than what is left.
            let most = (rate + 2 + if amount > 1 { 2 * LARGEST_FOOTPRINT } else { 0 }) * 1_000_000;
            if *level > most {
                return Err(Violation(format!("a backlog leaves faster than {drain:?}")));
            }
        }
        *at = now;
        Ok(())
    }
}

/// What a mark says is being handed over.
pub(super) fn marked(value: &[u8]) -> Option<(LaneId, MessageId)> {
    let (lane, rest) = value.split_first_chunk()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (seq, _) = rest.split_first_chunk()?;
    let id = MessageId { epoch: u64::from_be_bytes(*epoch), seq: Seq(u64::from_be_bytes(*seq)) };
    Some((LaneId(u16::from_be_bytes(*lane)), id))
}
