//! A message as one JSON object: what the file upstream writes, the command line exports and batches are made of. Writes to memory only.
//!
//! `{"id":…,"device":…,"topic":…,"received":…,"clock":…,"qos":…,"payload":…}`: `id` is `gateway/device/epoch/sequence`,
//! `received` is in milliseconds since 1970, `clock` is `synchronised` or `unsynchronised`. A payload that is not UTF-8 stands in
//! `payload_base64` instead of `payload`. The rest is there only when it says something: `routing_key` when it is not the topic with dots, `retain`, `resend`, `salvaged` (from a
//! damaged store) and `tombstone` (no device's message: it tells of lost ones) when true, and what the publisher gave: `content_type`, `content_format`, `response_topic`, `correlation_base64`,
//! `expiry_seconds`, `user` (pairs of name and value, in order).
//!
//! In a batch, which is for links that are paid by the byte, it is brief: `device` is left out, as it stands in `id`, `clock` is there only when it is
//! `unsynchronised`, and `qos` only when it is not 1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;
use tidegate_engine::message::{Message, Qos, Source};

/// What every object begins with: how the file upstream knows its own files.
pub(crate) const BEGINNING: &[u8] = b"{\"id\":";

/// Of a time that is not to be believed.
const UNSYNCHRONISED: &str = "unsynchronised";

/// A message, ready to be written.
#[derive(Debug, Serialize)]
pub(crate) struct MessageJson<'a> {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) received: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<&'a str>,
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
    pub(crate) routing_key: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retain: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resend: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tombstone: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) salvaged: bool,
}

impl<'a> MessageJson<'a> {
    /// A message as it is kept.
    pub(crate) fn new(gateway: &GatewayId, message: &'a Message) -> Self {
        let clock = if message.received.synchronised { "synchronised" } else { UNSYNCHRONISED };
        Self {
            device: Some(message.device.as_str()),
            clock: Some(clock),
            qos: Some(message.qos as u8),
            ..Self::brief(gateway, message).with_payload(&message.payload)
        }
    }

    /// A message of a batch, as it is handed over, without its payload.
    pub(crate) fn record(gateway: &GatewayId, publication: &'a Publication) -> Self {
        let mut record = Self::brief(gateway, &publication.message);
        record.resend |= publication.resend;
        record.salvaged = publication.salvaged;
        record
    }

    /// The same with its payload.
    pub(crate) fn with_payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = std::str::from_utf8(payload).ok();
        self.payload_base64 = self.payload.is_none().then(|| STANDARD.encode(payload));
        self
    }

    fn brief(gateway: &GatewayId, message: &'a Message) -> Self {
        let given = message.properties.as_deref();
        Self {
            id: crate::upstream::message_id(gateway, message),
            device: None,
            topic: Some(message.topic.as_str()),
            received: Some(message.received.unix_ms),
            clock: (!message.received.synchronised).then_some(UNSYNCHRONISED),
            qos: (message.qos != Qos::AtLeastOnce).then_some(message.qos as u8),
            payload: None,
            payload_base64: None,
            content_type: given.and_then(|g| g.content_type.as_deref()),
            content_format: given.and_then(|g| g.content_format),
            response_topic: given.and_then(|g| g.response_topic.as_deref()),
            correlation_base64: given
                .and_then(|g| g.correlation_data.as_ref())
                .map(|data| STANDARD.encode(data)),
            expiry_seconds: given.and_then(|g| g.expiry_seconds),
            user: given.map_or(&[], |g| g.user.as_slice()),
            routing_key: None,
            retain: message.retain,
            resend: message.duplicate,
            tombstone: message.source == Source::Gateway,
            salvaged: false,
        }
    }
}
