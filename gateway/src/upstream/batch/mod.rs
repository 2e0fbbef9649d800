//! Several publications in one body, for links that are paid by the byte: how each format writes them, and compression. Which
//! publications go together, and when, is the upstream's; every record says for itself what a message of its own would say.
//!
//! | `batch.format` | content type | body |
//! |---|---|---|
//! | `json` | `application/json` | an array with an object for each message |
//! | `senml` | `application/senml+json` | a pack (RFC 8428) with a record for each message; see `senml` |
//! | `length-prefixed` | `application/vnd.tidegate.batch` | for each message its head, an object as above without the payload, and its payload as it came; before each of the two its length, 4 bytes big-endian |
//!
//! The objects are those of `crate::json`, brief: `{"id":"site-a/boiler-3/7/41","topic":"sensors/boiler-3/t","received":1700000000123,"payload":"21.5"}`.
//! Their fields are an interface: add, do not rename.

mod compressed;
mod senml;

pub(crate) use compressed::{Compressor, dictionary_id, train};

use crate::json::MessageJson;
use tidegate_engine::event::{Format, Packing, Publication};
use tidegate_engine::id::GatewayId;

/// The length before each head and payload, in bytes.
const LENGTH_BYTES: usize = 4;

/// What says which format it is.
pub(crate) const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Senml => "application/senml+json",
        Format::LengthPrefixed => "application/vnd.tidegate.batch",
    }
}

/// A body that is being written; bounded by `max_bytes`.
#[derive(Debug)]
pub(crate) struct Body {
    format: Format,
    bytes: Vec<u8>,
    most: usize,
}

impl Body {
    /// An empty one.
    pub(crate) fn new(packing: &Packing) -> Self {
        Self { format: packing.format, bytes: Vec::new(), most: packing.max_bytes }
    }

    /// Its length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a publication; false when there is no room for it, and it stays as it was.
    pub(crate) fn append(&mut self, gateway: &GatewayId, publication: &Publication) -> bool {
        // Not even tried: it might be many times as long.
        if publication.message.payload.len() > self.most {
            return false;
        }
        let before = self.bytes.len();
        let written = match self.format {
            Format::Json => self.json(gateway, publication),
            Format::Senml => {
                self.between();
                senml::append(&mut self.bytes, gateway, publication)
            }
            Format::LengthPrefixed => self.lengths(gateway, publication),
        };
        // With the bracket at the end.
        if written.is_ok() && self.bytes.len() < self.most {
            return true;
        }
        self.bytes.truncate(before);
        false
    }

    /// The whole of it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.format != Format::LengthPrefixed {
            self.bytes.push(b']');
        }
        self.bytes
    }

    /// What stands before the next element of an array.
    fn between(&mut self) {
        self.bytes.push(if self.bytes.is_empty() { b'[' } else { b',' });
    }

    fn json(&mut self, gateway: &GatewayId, publication: &Publication) -> serde_json::Result<()> {
        self.between();
        let record = MessageJson::record(gateway, publication).with_payload(&publication.message.payload);
        serde_json::to_writer(&mut self.bytes, &record)
    }

    fn lengths(&mut self, gateway: &GatewayId, publication: &Publication) -> serde_json::Result<()> {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        serde_json::to_writer(&mut self.bytes, &MessageJson::record(gateway, publication))?;
        let head = self.bytes.len() - at - LENGTH_BYTES;
        if let Some(place) = self.bytes.get_mut(at..at + LENGTH_BYTES) {
            place.copy_from_slice(&length(head));
        }
        let payload = &publication.message.payload;
        self.bytes.extend_from_slice(&length(payload.len()));
        self.bytes.extend_from_slice(payload);
        Ok(())
    }
}

/// Heads and payloads are far below 4 GiB: what is longer than `max_bytes` is not kept.
fn length(bytes: usize) -> [u8; LENGTH_BYTES] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests;
