//! A publication as AMQP 0-9-1 carries it: the frames of basic.publish, with properties and headers around an untouched
//! payload, or the reason why AMQP cannot carry it. Sends nothing. Written by hand, straight into the connection's buffer: this is
//! done for every message, and tables of values that a codec takes apart again cost more than everything else that is done for it.
//!
//! | property | what it holds |
//! |---|---|
//! | `message-id` | `gateway/device/epoch/sequence`; the device is left out where the whole would exceed 255 bytes: the rest is unique, and the device stands in its header |
//! | `timestamp` | time of reception in seconds, as the gateway's clock had it |
//! | `app-id`, `delivery-mode` | `tidegate`, 2 (persistent) |
//! | `content-type`, `reply-to`, `correlation-id` | what the publisher gave; a response topic or correlation data that is no text of at most 255 bytes goes to the headers `mqtt.response-topic` and `mqtt.correlation-data` |
//!
//! Headers say only what the properties and the routing key do not: what every message repeats, an uplink that is paid
//! by the byte pays for, and brokers parse it. Always: `received` (milliseconds since 1970, long). `clock` = `unsynchronised` when that
//! time is not to be believed; `topic` (long string) when the routing key is not the topic with `.` for `/`; `device` (long string)
//! when the message id leaves it out; `qos` (long) when it is not 1; `x-resend` = true when the consumer may have the message already; `x-tombstone` = true
//! on what is no device's message but tells of lost ones (see `tidegate_engine`'s ledger); `x-salvaged` = true when it comes late
//! from a damaged store, of which others may be lost; `mqtt.expiry` (seconds, long),
//! `mqtt.utf8` = true (Payload Format Indicator), `coap.content-format` (long) where given. Each MQTT user property becomes the header
//! `mqtt.user.NAME`, a long string, or an array of them in their order when the name comes more than once.

use super::connect::CHANNEL;
use super::frames::{FRAME_BYTES, FRAME_END, FRAME_OVERHEAD_BYTES};
use amq_protocol::protocol::constants::{FRAME_BODY, FRAME_HEADER, FRAME_METHOD};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;
use tidegate_engine::message::{Message, Properties, Qos, Source};

/// What properties and headers may take together. They travel in one frame ([`FRAME_BYTES`]), and
/// brokers keep them in memory even for messages that are on disk.
const HEADER_BYTES_MAX: usize = 24 << 10;

/// The longest AMQP short string, in bytes (AMQP 0-9-1, 4.2.5.3).
pub(super) const SHORT_STRING_BYTES: usize = 255;

/// basic.publish (AMQP 0-9-1, 1.8.3.7): class and method.
const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
/// Its bits: `mandatory`, the first of them.
const MANDATORY: u8 = 1;

/// Which properties follow, from the highest bit down, in the order in which they follow (AMQP 0-9-1, 4.2.6.1).
pub(super) mod flag {
    pub(in super::super) const CONTENT_TYPE: u16 = 1 << 15;
    pub(in super::super) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(in super::super) const HEADERS: u16 = 1 << 13;
    pub(in super::super) const DELIVERY_MODE: u16 = 1 << 12;
    pub(super) const CORRELATION_ID: u16 = 1 << 10;
    pub(super) const REPLY_TO: u16 = 1 << 9;
    pub(in super::super) const MESSAGE_ID: u16 = 1 << 7;
    pub(in super::super) const TIMESTAMP: u16 = 1 << 6;
    pub(in super::super) const APP_ID: u16 = 1 << 3;
}

/// The `message-id` of a message: stable through every resend (P4), at most 255 bytes.
pub(super) fn message_id(gateway: &GatewayId, message: &Message) -> String {
    fitting(crate::upstream::message_id(gateway, message), gateway, message)
}

/// The id, or the shorter form of one that AMQP cannot carry.
fn fitting(id: String, gateway: &GatewayId, message: &Message) -> String {
    if id.len() <= SHORT_STRING_BYTES {
        return id;
    }
    format!("{gateway}//{}/{}", message.id.epoch, message.id.seq.0)
}

/// Whether a routing key is this topic with `.` for `/`, so that the topic can be read from it.
fn is_topic(routing_key: &str, topic: &str) -> bool {
    let levels = topic.bytes().map(|byte| if byte == b'/' { b'.' } else { byte });
    !topic.contains('.') && routing_key.bytes().eq(levels)
}

/// Writes a publication's frames; nothing when it fails.
///
/// # Errors
/// Why AMQP cannot carry it, in words for the dead letter.
pub(super) fn publish(
    out: &mut BytesMut,
    gateway: &GatewayId,
    exchange: &str,
    publication: &Publication,
    resend: bool,
) -> Result<(), String> {
    let given = publication.message.properties.as_deref();
    let carried = given.map(Carried::new).transpose()?.unwrap_or_default();
    let key = &publication.routing_key;
    if key.len() > SHORT_STRING_BYTES {
        return Err(format!(
            "the routing key has {} bytes and AMQP carries at most {SHORT_STRING_BYTES}: give the route a shorter `routing_key`",
            key.len()
        ));
    }
    message(out, exchange, key, &publication.message.payload, |out| {
        properties(out, gateway, publication, resend, &carried);
    });
    Ok(())
}

/// Writes the frames of a message; `properties` writes flags and properties. Exchange and routing key are short strings.
pub(super) fn message(
    out: &mut BytesMut,
    exchange: &str,
    routing_key: &str,
    body: &[u8],
    properties: impl FnOnce(&mut BytesMut),
) {
    frame(out, FRAME_METHOD, |out| {
        out.put_u16(BASIC);
        out.put_u16(PUBLISH);
        out.put_u16(0); // reserved
        short_string(out, exchange);
        short_string(out, routing_key);
        out.put_u8(MANDATORY);
    });
    frame(out, FRAME_HEADER, |out| {
        out.put_u16(BASIC);
        out.put_u16(0); // weight, always zero
        out.put_u64(body.len() as u64);
        properties(out);
    });
    for part in body.chunks(FRAME_BYTES as usize - FRAME_OVERHEAD_BYTES) {
        frame(out, FRAME_BODY, |out| out.put_slice(part));
    }
}

/// Property flags, properties, headers.
fn properties(
    out: &mut BytesMut,
    gateway: &GatewayId,
    publication: &Publication,
    resend: bool,
    carried: &Carried<'_>,
) {
    let message = &publication.message;
    let id = crate::upstream::message_id(gateway, message);
    let device_left_out = id.len() > SHORT_STRING_BYTES;
    let mut flags = flag::HEADERS | flag::DELIVERY_MODE | flag::MESSAGE_ID | flag::TIMESTAMP | flag::APP_ID;
    for (there, flag) in [
        (carried.content_type.is_some(), flag::CONTENT_TYPE),
        (carried.correlation_id.is_some(), flag::CORRELATION_ID),
        (carried.reply_to.is_some(), flag::REPLY_TO),
    ] {
        flags |= if there { flag } else { 0 };
    }
    out.put_u16(flags);
    if let Some(kind) = carried.content_type {
        short_string(out, kind);
    }
    sized(out, |out| {
        header::long_long(out, "received", message.received.unix_ms);
        if !message.received.synchronised {
            header::text(out, "clock", "unsynchronised");
        }
        if !is_topic(&publication.routing_key, message.topic.as_str()) {
            header::text(out, "topic", message.topic.as_str());
        }
        if message.qos != Qos::AtLeastOnce {
            header::long(out, "qos", i32::from(message.qos as u8));
        }
        if device_left_out {
            header::text(out, "device", message.device.as_str());
        }
        if resend || publication.resend || message.duplicate {
            header::boolean(out, "x-resend", true);
        }
        if message.source == Source::Gateway {
            header::boolean(out, "x-tombstone", true);
        }
        if publication.salvaged {
            header::boolean(out, "x-salvaged", true);
        }
        if let Some(given) = &message.properties {
            carried.headers(out, given);
        }
    });
    out.put_u8(2); // persistent
    for text in [carried.correlation_id, carried.reply_to].into_iter().flatten() {
        short_string(out, text);
    }
    short_string(out, &fitting(id, gateway, message));
    out.put_u64(u64::try_from(message.received.unix_ms / 1_000).unwrap_or(0));
    short_string(out, "tidegate");
}

/// What the publisher gave beside its payload, where AMQP has a place for it.
#[derive(Default)]
struct Carried<'a> {
    content_type: Option<&'a str>,
    reply_to: Option<&'a str>,
    correlation_id: Option<&'a str>,
    /// By header, in their order.
    user: BTreeMap<String, Vec<&'a str>>,
}

impl<'a> Carried<'a> {
    /// # Errors
    /// What AMQP has no place for.
    fn new(given: &'a Properties) -> Result<Self, String> {
        let mut bytes = 0;
        let mut carried = Self::default();
        if let Some(kind) = &given.content_type {
            if kind.len() > SHORT_STRING_BYTES {
                return Err(format!(
                    "its content type has {} bytes and AMQP carries at most {SHORT_STRING_BYTES}",
                    kind.len()
                ));
            }
            carried.content_type = Some(kind);
        }
        let short = |text: &&str| text.len() <= SHORT_STRING_BYTES;
        if let Some(topic) = &given.response_topic {
            bytes += topic.len();
            carried.reply_to = Some(topic.as_str()).filter(short);
        }
        if let Some(data) = &given.correlation_data {
            bytes += data.len();
            carried.correlation_id = std::str::from_utf8(data).ok().filter(short);
        }
        for (name, value) in &given.user {
            bytes += name.len() + value.len() + 16;
            let header = format!("mqtt.user.{name}");
            if header.len() > SHORT_STRING_BYTES {
                return Err(format!(
                    "the name of a user property has {} bytes, too many for an AMQP header",
                    name.len()
                ));
            }
            carried.user.entry(header).or_default().push(value);
        }
        if bytes > HEADER_BYTES_MAX {
            return Err(format!(
                "its properties take {bytes} bytes and at most {HEADER_BYTES_MAX} are carried in AMQP headers"
            ));
        }
        Ok(carried)
    }

    /// What fits no property.
    fn headers(&self, out: &mut BytesMut, given: &Properties) {
        if let Some(format) = given.content_format {
            header::long(out, "coap.content-format", i32::from(format));
        }
        if let (Some(topic), None) = (&given.response_topic, self.reply_to) {
            header::text(out, "mqtt.response-topic", topic);
        }
        if let (Some(data), None) = (&given.correlation_data, self.correlation_id) {
            header::bytes(out, "mqtt.correlation-data", data);
        }
        if let Some(seconds) = given.expiry_seconds {
            header::long_long(out, "mqtt.expiry", i64::from(seconds));
        }
        if given.utf8_payload {
            header::boolean(out, "mqtt.utf8", true);
        }
        for (name, values) in &self.user {
            match values.as_slice() {
                [one] => header::text(out, name, one),
                several => header::texts(out, name, several),
            }
        }
    }
}

/// A frame around what `payload` writes (AMQP 0-9-1, 4.2.3).
fn frame(out: &mut BytesMut, kind: u8, payload: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    out.put_u16(CHANNEL);
    sized(out, payload);
    out.put_u8(FRAME_END);
}

/// What `content` writes, its length in four bytes before it.
pub(super) fn sized(out: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    content(out);
    // Frames, tables and strings are far below 4 GiB: payloads are cut, the rest is bounded by HEADER_BYTES_MAX.
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// A string of at most 255 bytes, which the caller has seen to.
pub(super) fn short_string(out: &mut BytesMut, text: &str) {
    debug_assert!(text.len() <= SHORT_STRING_BYTES);
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

/// Entries of a table: name, type, value (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's letters where they differ).
pub(super) mod header {
    use super::{short_string, sized};
    use bytes::{BufMut, BytesMut};

    pub(in super::super) fn boolean(out: &mut BytesMut, name: &str, value: bool) {
        short_string(out, name);
        out.put_u8(b't');
        out.put_u8(value.into());
    }

    pub(in super::super) fn long(out: &mut BytesMut, name: &str, value: i32) {
        short_string(out, name);
        out.put_u8(b'I');
        out.put_i32(value);
    }

    pub(in super::super) fn long_long(out: &mut BytesMut, name: &str, value: i64) {
        short_string(out, name);
        out.put_u8(b'l');
        out.put_i64(value);
    }

    pub(super) fn text(out: &mut BytesMut, name: &str, value: &str) {
        short_string(out, name);
        long_string(out, value);
    }

    pub(super) fn texts(out: &mut BytesMut, name: &str, values: &[&str]) {
        short_string(out, name);
        out.put_u8(b'A');
        sized(out, |out| values.iter().for_each(|value| long_string(out, value)));
    }

    pub(super) fn bytes(out: &mut BytesMut, name: &str, value: &[u8]) {
        short_string(out, name);
        out.put_u8(b'x');
        sized(out, |out| out.put_slice(value));
    }

    fn long_string(out: &mut BytesMut, value: &str) {
        out.put_u8(b'S');
        sized(out, |out| out.put_slice(value.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::{AMQPFrame, parse_frame};
    use amq_protocol::protocol::AMQPClass;
    use amq_protocol::protocol::basic::{AMQPMethod, AMQPProperties};
    use amq_protocol::types::AMQPValue;
    use bytes::Bytes;
    use std::sync::Arc;
    use tidegate_engine::id::{DeviceId, LaneId, MessageId, Seq, Tag, UpstreamId};
    use tidegate_engine::message::{Qos, Source};
    use tidegate_engine::time::Stamp;
    use tidegate_engine::topic::Topic;

    fn publication(device: &str, properties: Properties) -> Publication {
        Publication {
            upstream: UpstreamId(0),
            tag: Tag(1),
            lane: LaneId(0),
            message: Arc::new(Message {
                id: MessageId { epoch: 3, seq: Seq(41) },
                device: DeviceId::new(device).unwrap(),
                topic: Topic::new("sensors/a").unwrap(),
                payload: Bytes::from_static(b"21.5"),
                received: Stamp { unix_ms: 1_700_000_000_123, synchronised: true },
                qos: Qos::AtLeastOnce,
                retain: false,
                duplicate: false,
                source: Source::Mqtt,
                properties: Some(Box::new(properties)),
            }),
            routing_key: "sensors.a".to_owned(),
            senml: tidegate_engine::event::Senml::Untouched,
            packing: None,
            resend: false,
            salvaged: false,
            live: false,
        }
    }

    /// What a codec that is not ours reads: routing key, properties, body.
    fn read(mut bytes: &[u8]) -> (String, AMQPProperties, Vec<u8>) {
        let mut next = || {
            let (rest, frame) = parse_frame(bytes).unwrap();
            let more = !rest.is_empty();
            bytes = rest;
            (frame, more)
        };
        let (AMQPFrame::Method(CHANNEL, AMQPClass::Basic(AMQPMethod::Publish(publish))), _) = next() else {
            panic!("no basic.publish")
        };
        assert!(publish.mandatory && !publish.immediate);
        assert_eq!(publish.exchange.as_str(), "telemetry");
        let (AMQPFrame::Header(CHANNEL, header), mut more) = next() else { panic!("no header") };
        assert_eq!(header.class_id, BASIC);
        let mut body = Vec::new();
        while more {
            let (AMQPFrame::Body(CHANNEL, part), rest) = next() else { panic!("no body") };
            assert!(part.len() + FRAME_OVERHEAD_BYTES <= FRAME_BYTES as usize);
            body.extend_from_slice(&part);
            more = rest;
        }
        assert_eq!(header.body_size, body.len() as u64);
        (publish.routing_key.as_str().to_owned(), header.properties, body)
    }

    fn sent(gateway: &GatewayId, publication: &Publication, resend: bool) -> Result<BytesMut, String> {
        let mut out = BytesMut::new();
        let result = publish(&mut out, gateway, "telemetry", publication, resend);
        assert!(result.is_ok() || out.is_empty(), "half a publication was written");
        result.map(|()| out)
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn payloads_of_any_length_come_out_whole() {
        let gateway = GatewayId::new("g").unwrap();
        let most = FRAME_BYTES as usize - FRAME_OVERHEAD_BYTES;
        for length in [0, 1, most - 1, most, most + 1, 3 * most, 200_000] {
            let mut publication = publication("d", Properties::default());
            Arc::get_mut(&mut publication.message).unwrap().payload = vec![7; length].into();
            let (key, properties, body) = read(&sent(&gateway, &publication, false).unwrap());
            assert_eq!((key.as_str(), body.len()), ("sensors.a", length));
            assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "g/d/3/41");
            assert_eq!(*properties.timestamp(), Some(1_700_000_000));
            assert_eq!(*properties.delivery_mode(), Some(2));
            assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "tidegate");
            let headers = properties.headers().clone().unwrap();
            let names: Vec<_> = headers.inner().keys().map(|name| name.as_str().to_owned()).collect();
            assert_eq!(names, ["received"], "headers say only what nothing else says");
        }
    }

    #[test]
    fn ids_too_long_for_amqp_leave_the_device_out_and_stay_unique() {
        let gateway = GatewayId::new(&"g".repeat(128)).unwrap();
        let long = publication(&"d".repeat(128), Properties::default());
        assert_eq!(message_id(&gateway, &long.message), format!("{gateway}//3/41"));
        let short = publication("boiler-3", Properties::default());
        assert_eq!(message_id(&gateway, &short.message), format!("{gateway}/boiler-3/3/41"));
    }

    #[test]
    fn what_amqp_cannot_carry_is_refused_with_the_reason() {
        let gateway = GatewayId::new("g").unwrap();
        let mut wide = publication("d", Properties::default());
        wide.routing_key = "k".repeat(256);
        assert!(sent(&gateway, &wide, false).err().unwrap().contains("256 bytes"));
        let name = Properties { user: vec![("n".repeat(250), "v".into())], ..Properties::default() };
        assert!(sent(&gateway, &publication("d", name), false).is_err());
        let kind = Properties { content_type: Some("t".repeat(256)), ..Properties::default() };
        assert!(sent(&gateway, &publication("d", kind), false).is_err());
        let heavy = Properties { user: vec![("n".into(), "v".repeat(65_000))], ..Properties::default() };
        assert!(sent(&gateway, &publication("d", heavy), false).is_err());
    }

    #[test]
    fn what_fits_no_short_string_goes_to_a_header_whole() {
        let gateway = GatewayId::new("g").unwrap();
        let given = Properties {
            response_topic: Some("r".repeat(300)),
            correlation_data: Some(Bytes::from_static(&[0xff, 0])),
            user: vec![("a".into(), "1".into()), ("b".into(), "2".into()), ("a".into(), "3".into())],
            ..Properties::default()
        };
        let (_, sent, _) = read(&sent(&gateway, &publication("d", given), true).unwrap());
        assert!(sent.reply_to().is_none() && sent.correlation_id().is_none());
        let headers = sent.headers().clone().unwrap();
        let header = |name: &str| headers.inner().get(name).cloned();
        assert_eq!(header("mqtt.response-topic"), Some(text(&"r".repeat(300))));
        assert_eq!(header("mqtt.correlation-data"), Some(AMQPValue::ByteArray(vec![0xff, 0].into())));
        assert_eq!(header("mqtt.user.a"), Some(AMQPValue::FieldArray(vec![text("1"), text("3")].into())));
        assert_eq!(header("mqtt.user.b"), Some(text("2")));
        assert_eq!(header("x-resend"), Some(AMQPValue::Boolean(true)));
    }
}
