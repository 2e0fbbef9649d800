//! A batch as AMQP 0-9-1 carries it: one message with many records. What a record says stands in `crate::upstream::batch`, what messages of
//! their own look like in `envelope`. Sends nothing.
//!
//! | property | what it holds |
//! |---|---|
//! | `message-id` | `gateway//epoch/sequence+count-check`: the first record's numbers, how many records, and a CRC-32 over which: the same only for the same records. Whoever drops duplicates goes by the ids of the records |
//! | `timestamp` | time of reception of the first record in seconds |
//! | `content-type` | the format |
//! | `content-encoding` | `zstd` when the body is compressed (RFC 8878) |
//! | `app-id`, `delivery-mode` | `tidegate`, 2 (persistent) |
//!
//! Headers: `records` (long), always, by which a consumer knows a batch; `dictionary` (long long), the number of the dictionary that the body was compressed with;
//! `x-resend` = true when the consumer may have one of the records already, which then says so itself.

use super::envelope::{flag, header, message, short_string, sized};
use super::packer::Closed;
use crate::upstream::batch::{Compressor, content_type};
use bytes::{BufMut, BytesMut};
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;

/// Writes a batch's frames. Gives its `message-id`.
pub(super) fn publish(
    out: &mut BytesMut,
    gateway: &GatewayId,
    exchange: &str,
    batch: &Closed,
    compressor: &mut Compressor,
) -> String {
    let id = message_id(gateway, &batch.publications);
    let compressed = compressor.compress(batch.lane, &batch.packing, &batch.body);
    let body = compressed.as_ref().map_or(&batch.body, |compressed| &compressed.bytes);
    let dictionary = compressed.as_ref().and_then(|compressed| compressed.dictionary);
    message(out, exchange, &batch.routing_key, body, |out| {
        let encoding = if compressed.is_some() { flag::CONTENT_ENCODING } else { 0 };
        out.put_u16(
            flag::CONTENT_TYPE
                | encoding
                | flag::HEADERS
                | flag::DELIVERY_MODE
                | flag::MESSAGE_ID
                | flag::TIMESTAMP
                | flag::APP_ID,
        );
        short_string(out, content_type(batch.packing.format));
        if compressed.is_some() {
            short_string(out, "zstd");
        }
        sized(out, |out| {
            // At most a window's.
            header::long(out, "records", i32::try_from(batch.publications.len()).unwrap_or(i32::MAX));
            if let Some(dictionary) = dictionary {
                header::long_long(out, "dictionary", dictionary.into());
            }
            if batch
                .publications
                .iter()
                .any(|publication| publication.resend || publication.message.duplicate)
            {
                header::boolean(out, "x-resend", true);
            }
        });
        out.put_u8(2); // persistent
        short_string(out, &id);
        let first = batch.publications.first().map_or(0, |first| first.message.received.unix_ms);
        out.put_u64(u64::try_from(first / 1_000).unwrap_or(0));
        short_string(out, "tidegate");
    });
    id
}

/// At most 200 bytes: a gateway's id has 128.
fn message_id(gateway: &GatewayId, publications: &[Publication]) -> String {
    let mut check = crc32fast::Hasher::new();
    for publication in publications {
        let id = publication.message.id;
        check.update(&id.epoch.to_be_bytes());
        check.update(&id.seq.0.to_be_bytes());
    }
    let first = publications.first().map(|first| first.message.id).unwrap_or_default();
    format!("{gateway}//{}/{}+{}-{:08x}", first.epoch, first.seq.0, publications.len(), check.finalize())
}
