//! A PUBLISH encoded once for all its receivers: most get the same bytes but for the packet id. Knows no sessions, and holds a
//! message only while it is being handed out.

use super::aliases::Alias;
use super::outbox::{Outbox, SHARED_FROM_BYTES};
use super::write::{Copy, Unsayable};
use crate::message::{Message, Qos};
use std::num::NonZeroU32;
use std::sync::Arc;
use tidegate_wire::mqtt::{self, Version};

/// Encodings of one message at the most: a few make do for nearly all of its receivers, and finding one among few is quick.
const CUTS: usize = 4;

/// The encodings of the message that is being handed out.
#[derive(Debug, Default)]
pub(super) struct Stencil {
    message: Option<Arc<Message>>,
    cuts: Vec<Cut>,
}

/// One encoding, and what a receiver's copy must have in common with it.
#[derive(Debug)]
struct Cut {
    version: Version,
    alias: Alias,
    qos: Qos,
    retain: bool,
    seconds_left: Option<u32>,
    subscriptions: Box<[NonZeroU32]>,
    /// The packet, without a payload that is shared.
    bytes: Box<[u8]>,
    /// The length of the whole packet.
    length: usize,
    /// Where in it the packet id stands, if it has one.
    packet_id_at: usize,
}

impl Stencil {
    /// This message goes to several receivers.
    pub(super) fn begin(&mut self, message: &Arc<Message>) {
        self.cuts.clear();
        self.message = Some(Arc::clone(message));
    }

    /// The message has been handed out.
    pub(super) fn end(&mut self) {
        self.cuts.clear();
        self.message = None;
    }

    fn serves(&self, copy: &Copy<'_>) -> bool {
        !copy.dup && self.message.as_ref().is_some_and(|message| Arc::ptr_eq(message, copy.message))
    }

    /// Writes a packet of at most `most` bytes that was encoded before; `None` when it was not.
    pub(super) fn print(
        &self,
        out: &mut Outbox,
        version: Version,
        alias: Alias,
        copy: &Copy<'_>,
        most: usize,
    ) -> Option<Result<(), Unsayable>> {
        if !self.serves(copy) {
            return None;
        }
        let cut = self.cuts.iter().find(|cut| cut.fits(version, alias, copy))?;
        if cut.length > most {
            return Some(Err(Unsayable));
        }
        let tail = out.tail();
        let at = tail.len() + cut.packet_id_at;
        tail.extend_from_slice(&cut.bytes);
        if let Some(id) = copy.packet_id
            && let Some(place) = tail.get_mut(at..at + 2)
        {
            place.copy_from_slice(&id.get().to_be_bytes());
        }
        if copy.message.payload.len() >= SHARED_FROM_BYTES {
            out.share(copy.message.payload.clone());
        }
        out.count_packet();
        Some(Ok(()))
    }

    /// Keeps a packet of this length for its next receivers; `bytes` is it without a payload that is shared.
    pub(super) fn keep(
        &mut self,
        version: Version,
        alias: Alias,
        copy: &Copy<'_>,
        bytes: &[u8],
        length: usize,
    ) {
        if !self.serves(copy) || self.cuts.len() == CUTS {
            return;
        }
        let Ok(Some(frame)) = mqtt::frame(bytes) else { return };
        let name_bytes = if matches!(alias, Alias::Known(_)) { 0 } else { copy.message.topic.as_str().len() };
        self.cuts.push(Cut {
            version,
            alias,
            qos: copy.qos,
            retain: copy.retain,
            seconds_left: copy.seconds_left,
            subscriptions: copy.subscriptions.into(),
            bytes: bytes.into(),
            length,
            // Behind the topic name and its length of two bytes (MQTT 5.0, 3.3.2).
            packet_id_at: frame.header_bytes + 2 + name_bytes,
        });
    }
}

impl Cut {
    fn fits(&self, version: Version, alias: Alias, copy: &Copy<'_>) -> bool {
        self.version == version
            && self.alias == alias
            && self.qos == copy.qos
            && self.retain == copy.retain
            && self.seconds_left == copy.seconds_left
            && *self.subscriptions == *copy.subscriptions
    }
}
