//! A publication as AMQP 0-9-1 carries it: properties and headers around an untouched payload, or the reason why
//! AMQP cannot carry it. Sends nothing.
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
//! when the message id leaves it out; `qos` (long) when it is not 1; `x-resend` = true when the consumer may have the message already; `mqtt.expiry` (seconds, long),
//! `mqtt.utf8` = true (Payload Format Indicator), `coap.content-format` (long) where given. Each MQTT user property becomes the header
//! `mqtt.user.NAME`, a long string, or an array of them in their order when the name comes more than once.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use std::collections::BTreeMap;
use tidegate_engine::event::Publication;
use tidegate_engine::id::GatewayId;
use tidegate_engine::message::{Message, Properties, Qos};

/// What properties and headers may take together. They travel in one frame ([`FRAME_BYTES`](super::connect::FRAME_BYTES)), and
/// brokers keep them in memory even for messages that are on disk.
const HEADER_BYTES_MAX: usize = 24 << 10;

/// A message ready to be sent.
pub(super) struct Envelope {
    /// The routing key.
    pub(super) routing_key: ShortString,
    /// Everything else but the payload.
    pub(super) properties: BasicProperties,
}

/// The longest AMQP short string, in bytes (AMQP 0-9-1, 4.2.5.3).
const SHORT_STRING_BYTES: usize = 255;

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

/// Wraps a publication up.
///
/// # Errors
/// Why AMQP cannot carry it, in words for the dead letter.
pub(super) fn envelope(
    gateway: &GatewayId,
    publication: &Publication,
    resend: bool,
) -> Result<Envelope, String> {
    let message = &publication.message;
    let routing_key = ShortString::try_new(publication.routing_key.as_str()).map_err(|_| {
        format!(
            "the routing key has {} bytes and AMQP carries at most {SHORT_STRING_BYTES}: give the route a shorter `routing_key`",
            publication.routing_key.len()
        )
    })?;
    let mut headers = FieldTable::default();
    let mut put = |key, value| put(&mut headers, key, value);
    put("received", AMQPValue::LongLongInt(message.received.unix_ms));
    if !message.received.synchronised {
        put("clock", text("unsynchronised"));
    }
    if !is_topic(&publication.routing_key, message.topic.as_str()) {
        put("topic", text(message.topic.as_str()));
    }
    if message.qos != Qos::AtLeastOnce {
        put("qos", AMQPValue::LongInt(i32::from(message.qos as u8)));
    }
    let id = crate::upstream::message_id(gateway, message);
    if id.len() > SHORT_STRING_BYTES {
        put("device", text(message.device.as_str()));
    }
    if resend || publication.resend || message.duplicate {
        put("x-resend", AMQPValue::Boolean(true));
    }

    let id = fitting(id, gateway, message);
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_app_id("tidegate".into())
        .with_timestamp(u64::try_from(message.received.unix_ms / 1_000).unwrap_or(0));
    if let Ok(id) = ShortString::try_new(id) {
        properties = properties.with_message_id(id);
    }
    if let Some(given) = &message.properties {
        properties = carry(given, properties, &mut headers)?;
    }
    Ok(Envelope { routing_key, properties: properties.with_headers(headers) })
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

fn put(headers: &mut FieldTable, key: &'static str, value: AMQPValue) {
    headers.insert(ShortString::from(key), value);
}

/// Puts what the publisher gave beside its payload where AMQP has a place for it.
fn carry(
    given: &Properties,
    mut properties: BasicProperties,
    headers: &mut FieldTable,
) -> Result<BasicProperties, String> {
    let mut bytes = 0;
    if let Some(kind) = &given.content_type {
        let kind = ShortString::try_new(kind.as_str()).map_err(|_| {
            format!("its content type has {} bytes and AMQP carries at most {SHORT_STRING_BYTES}", kind.len())
        })?;
        properties = properties.with_content_type(kind);
    }
    if let Some(format) = given.content_format {
        put(headers, "coap.content-format", AMQPValue::LongInt(i32::from(format)));
    }
    if let Some(topic) = &given.response_topic {
        bytes += topic.len();
        match ShortString::try_new(topic.as_str()) {
            Ok(short) => properties = properties.with_reply_to(short),
            Err(_) => put(headers, "mqtt.response-topic", text(topic)),
        }
    }
    if let Some(data) = &given.correlation_data {
        bytes += data.len();
        let short = std::str::from_utf8(data).ok().and_then(|t| ShortString::try_new(t).ok());
        match short {
            Some(short) => properties = properties.with_correlation_id(short),
            None => put(headers, "mqtt.correlation-data", AMQPValue::ByteArray(data.to_vec().into())),
        }
    }
    if let Some(seconds) = given.expiry_seconds {
        put(headers, "mqtt.expiry", AMQPValue::LongLongInt(i64::from(seconds)));
    }
    if given.utf8_payload {
        put(headers, "mqtt.utf8", AMQPValue::Boolean(true));
    }
    let mut user: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &given.user {
        bytes += name.len() + value.len() + 16;
        user.entry(name).or_default().push(value);
    }
    if bytes > HEADER_BYTES_MAX {
        return Err(format!(
            "its properties take {bytes} bytes and at most {HEADER_BYTES_MAX} are carried in AMQP headers"
        ));
    }
    for (name, values) in user {
        let name = ShortString::try_new(format!("mqtt.user.{name}")).map_err(|_| {
            format!("the name of a user property has {} bytes, too many for an AMQP header", name.len())
        })?;
        let value = match values.as_slice() {
            [one] => text(one),
            several => {
                AMQPValue::FieldArray(FieldArray::from(several.iter().map(|v| text(v)).collect::<Vec<_>>()))
            }
        };
        headers.insert(name, value);
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;
    use tidegate_engine::id::{DeviceId, MessageId, Seq, Tag, UpstreamId};
    use tidegate_engine::message::{Qos, Source};
    use tidegate_engine::time::Stamp;
    use tidegate_engine::topic::Topic;

    fn publication(device: &str, properties: Properties) -> Publication {
        Publication {
            upstream: UpstreamId(0),
            tag: Tag(1),
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
            resend: false,
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
        assert!(envelope(&gateway, &wide, false).err().unwrap().contains("256 bytes"));
        let name = Properties { user: vec![("n".repeat(250), "v".into())], ..Properties::default() };
        assert!(envelope(&gateway, &publication("d", name), false).is_err());
        let kind = Properties { content_type: Some("t".repeat(256)), ..Properties::default() };
        assert!(envelope(&gateway, &publication("d", kind), false).is_err());
        let heavy = Properties { user: vec![("n".into(), "v".repeat(65_000))], ..Properties::default() };
        assert!(envelope(&gateway, &publication("d", heavy), false).is_err());
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
        let sent = envelope(&gateway, &publication("d", given), true).ok().unwrap().properties;
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
