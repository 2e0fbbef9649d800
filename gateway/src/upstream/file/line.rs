//! A message as one line of JSON. Writes to memory only.
//!
//! `{"id":…,"device":…,"topic":…,"received":…,"clock":…,"qos":…,"payload":…}`: `id` is `gateway/device/epoch/sequence`,
//! `received` is in milliseconds since 1970, `clock` is `synchronised` or `unsynchronised`. A payload that is not UTF-8 stands in
//! `payload_base64` instead of `payload`. The rest is there only when it says something: `routing_key` when it is not the topic with dots, `retain`, `resend` and `tombstone` (no device's message: it tells of lost ones)
//! when true, and what the publisher gave: `content_type`, `content_format`, `response_topic`, `correlation_base64`,
//! `expiry_seconds`, `user` (pairs of name and value, in order).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;
use tidegate_engine::message::Source;

/// What every line begins with: how the journal knows its own files.
pub(super) const BEGINNING: &[u8] = b"{\"id\":";

#[derive(Serialize)]
struct Line<'a> {
    id: String,
    device: &'a str,
    topic: &'a str,
    received: i64,
    clock: &'static str,
    qos: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_format: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_seconds: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    user: &'a [(String, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retain: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resend: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tombstone: bool,
}

/// Appends a publication's line, line break included.
pub(super) fn append(lines: &mut Vec<u8>, gateway: &GatewayId, publication: &Publication) {
    let message = &publication.message;
    let payload = std::str::from_utf8(&message.payload).ok();
    let given = message.properties.as_deref();
    let line = Line {
        id: crate::upstream::message_id(gateway, message),
        device: message.device.as_str(),
        topic: message.topic.as_str(),
        received: message.received.unix_ms,
        clock: if message.received.synchronised { "synchronised" } else { "unsynchronised" },
        qos: message.qos as u8,
        payload,
        payload_base64: payload.is_none().then(|| STANDARD.encode(&message.payload)),
        content_type: given.and_then(|g| g.content_type.as_deref()),
        content_format: given.and_then(|g| g.content_format),
        response_topic: given.and_then(|g| g.response_topic.as_deref()),
        correlation_base64: given.and_then(|g| g.correlation_data.as_ref()).map(|data| STANDARD.encode(data)),
        expiry_seconds: given.and_then(|g| g.expiry_seconds),
        user: given.map_or(&[], |g| g.user.as_slice()),
        routing_key: (!is_topic_with_dots(&publication.routing_key, message.topic.as_str()))
            .then_some(publication.routing_key.as_str()),
        retain: message.retain,
        resend: publication.resend || message.duplicate,
        tombstone: message.source == Source::Gateway,
    };
    let before = lines.len();
    // Text and numbers into memory: nothing can fail. Were it to, half a line must not stay.
    if serde_json::to_writer(&mut *lines, &line).is_err() {
        lines.truncate(before);
    }
    lines.push(b'\n');
}

fn is_topic_with_dots(routing_key: &str, topic: &str) -> bool {
    routing_key.len() == topic.len()
        && routing_key.bytes().zip(topic.bytes()).all(|(k, t)| k == if t == b'/' { b'.' } else { t })
}
