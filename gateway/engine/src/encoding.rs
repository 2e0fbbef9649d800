//! Messages and their properties as bytes, for what outlives the process: the store's rows and the sessions' records.
//! What cannot be read is an error with its reason, never a panic. Checksums are the store's business.

use crate::id::{DeviceId, MessageId, Seq};
use crate::message::{Message, Properties, Qos, Source};
use crate::time::Stamp;
use crate::topic::Topic;
use bytes::{Buf, BufMut, Bytes, BytesMut};

// A message, integers big-endian: version u8, epoch u64, sequence u64, received i64 (ms), flags u8, quality u8, source u8,
// then each with its length as u32: device, topic, properties (empty is none), payload.
const MESSAGE_VERSION: u8 = 1;
const FLAG_SYNCHRONISED: u8 = 1;
const FLAG_RETAIN: u8 = 2;
const FLAG_DUPLICATE: u8 = 4;

const SHORT: &str = "its message is cut off";

/// Appends a message.
pub fn put_message(out: &mut BytesMut, message: &Message) {
    // Taken apart in full, so that a field that is added later cannot be forgotten here.
    let Message { id, device, topic, payload, received, qos, retain, duplicate, source, properties } =
        message;
    out.reserve(64 + message.footprint());
    out.put_u8(MESSAGE_VERSION);
    out.put_u64(id.epoch);
    out.put_u64(id.seq.0);
    out.put_i64(received.unix_ms);
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    out.put_u8(
        flag(received.synchronised, FLAG_SYNCHRONISED)
            | flag(*retain, FLAG_RETAIN)
            | flag(*duplicate, FLAG_DUPLICATE),
    );
    out.put_u8(*qos as u8);
    out.put_u8(*source as u8);
    put_field(out, device.as_str().as_bytes());
    put_field(out, topic.as_str().as_bytes());
    put_field(out, &properties.as_deref().map(encode_properties).unwrap_or_default());
    put_field(out, payload);
}

/// Takes a message from the front of `bytes`.
///
/// # Errors
/// What is wrong with it, in words that follow "its record is unreadable:".
pub fn take_message(bytes: &mut &[u8]) -> Result<Message, &'static str> {
    if bytes.try_get_u8().map_err(|_| SHORT)? != MESSAGE_VERSION {
        return Err("its message is of an unknown version");
    }
    let epoch = bytes.try_get_u64().map_err(|_| SHORT)?;
    let seq = Seq(bytes.try_get_u64().map_err(|_| SHORT)?);
    let unix_ms = bytes.try_get_i64().map_err(|_| SHORT)?;
    let flags = bytes.try_get_u8().map_err(|_| SHORT)?;
    let qos = match bytes.try_get_u8().map_err(|_| SHORT)? {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return Err("its message has a quality of service that is not valid"),
    };
    let source = match bytes.try_get_u8().map_err(|_| SHORT)? {
        0 => Source::Mqtt,
        1 => Source::Coap,
        2 => Source::Serial,
        3 => Source::Gateway,
        _ => return Err("its message came by an unknown protocol"),
    };
    let text = |field| std::str::from_utf8(field).map_err(|_| "a name in its message is not UTF-8");
    let device = DeviceId::new(text(take_field(bytes)?)?).map_err(|_| "its message's device is not valid")?;
    let topic = Topic::new(text(take_field(bytes)?)?).map_err(|_| "its message's topic is not valid")?;
    let properties = match take_field(bytes)? {
        [] => None,
        encoded => {
            Some(Box::new(decode_properties(encoded).ok_or("its message's properties are unreadable")?))
        }
    };
    Ok(Message {
        id: MessageId { epoch, seq },
        device,
        topic,
        payload: Bytes::copy_from_slice(take_field(bytes)?),
        received: Stamp { unix_ms, synchronised: flags & FLAG_SYNCHRONISED != 0 },
        qos,
        retain: flags & FLAG_RETAIN != 0,
        duplicate: flags & FLAG_DUPLICATE != 0,
        source,
        properties,
    })
}

fn put_field(out: &mut BytesMut, field: &[u8]) {
    // Fields come from packets of at most 256 MiB (MQTT 5.0, 2.1.4).
    out.put_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
    out.put_slice(field);
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = bytes.try_get_u32().map_err(|_| SHORT)?;
    let length = usize::try_from(length).map_err(|_| SHORT)?;
    let (field, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
    *bytes = rest;
    Ok(field)
}

// Properties: a version byte, then fields of (tag, length as u32 little-endian, content), each at most once but USER.
const PROPERTIES_VERSION: u8 = 1;
const UTF8_PAYLOAD: u8 = 1;
const CONTENT_TYPE: u8 = 2;
const CONTENT_FORMAT: u8 = 3;
const RESPONSE_TOPIC: u8 = 4;
const CORRELATION_DATA: u8 = 5;
const EXPIRY_SECONDS: u8 = 6;
const USER: u8 = 7;

/// Encodes properties.
#[must_use]
pub fn encode_properties(properties: &Properties) -> Vec<u8> {
    // Taken apart in full, so that a property that is added later cannot be forgotten here.
    let Properties {
        utf8_payload,
        content_type,
        content_format,
        response_topic,
        correlation_data,
        expiry_seconds,
        user,
    } = properties;
    let mut out = vec![PROPERTIES_VERSION];
    let mut field = |tag: u8, parts: &[&[u8]]| {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        out.push(tag);
        // Properties come from packets of at most 256 MiB (MQTT 5.0, 2.1.4).
        out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        parts.iter().for_each(|p| out.extend_from_slice(p));
    };
    if *utf8_payload {
        field(UTF8_PAYLOAD, &[]);
    }
    if let Some(text) = content_type {
        field(CONTENT_TYPE, &[text.as_bytes()]);
    }
    if let Some(number) = content_format {
        field(CONTENT_FORMAT, &[&number.to_le_bytes()]);
    }
    if let Some(text) = response_topic {
        field(RESPONSE_TOPIC, &[text.as_bytes()]);
    }
    if let Some(data) = correlation_data {
        field(CORRELATION_DATA, &[data]);
    }
    if let Some(seconds) = expiry_seconds {
        field(EXPIRY_SECONDS, &[&seconds.to_le_bytes()]);
    }
    for (name, value) in user {
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes();
        field(USER, &[&name_len, name.as_bytes(), value.as_bytes()]);
    }
    out
}

/// Decodes properties; `None` when they are not what [`encode_properties`] writes.
#[must_use]
pub fn decode_properties(encoded: &[u8]) -> Option<Properties> {
    fn text(content: &[u8]) -> Option<String> {
        Some(std::str::from_utf8(content).ok()?.to_owned())
    }
    fn with_length(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
    }
    let (&PROPERTIES_VERSION, mut rest) = encoded.split_first()? else { return None };
    let mut properties = Properties::default();
    while let Some((&tag, tail)) = rest.split_first() {
        let (content, tail) = with_length(tail)?;
        rest = tail;
        match tag {
            UTF8_PAYLOAD => properties.utf8_payload = true,
            CONTENT_TYPE => properties.content_type = Some(text(content)?),
            CONTENT_FORMAT => properties.content_format = Some(u16::from_le_bytes(content.try_into().ok()?)),
            RESPONSE_TOPIC => properties.response_topic = Some(text(content)?),
            CORRELATION_DATA => properties.correlation_data = Some(Bytes::copy_from_slice(content)),
            EXPIRY_SECONDS => properties.expiry_seconds = Some(u32::from_le_bytes(content.try_into().ok()?)),
            USER => {
                let (name, value) = with_length(content)?;
                properties.user.push((text(name)?, text(value)?));
            }
            _ => return None,
        }
    }
    Some(properties)
}

#[cfg(test)]
mod tests {
    use super::{decode_properties, encode_properties, put_message, take_message};
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Properties, Qos, Source};
    use crate::time::Stamp;
    use crate::topic::Topic;
    use bytes::{Bytes, BytesMut};

    fn all_properties() -> Properties {
        Properties {
            utf8_payload: true,
            content_type: Some("text/plain".into()),
            content_format: Some(65_000),
            response_topic: Some("answers/here".into()),
            correlation_data: Some(Bytes::from_static(&[0, 255, 7])),
            expiry_seconds: Some(u32::MAX),
            user: vec![("a".into(), "1".into()), ("a".into(), String::new()), (String::new(), "ü".into())],
        }
    }

    fn message(properties: Option<Box<Properties>>) -> Message {
        Message {
            id: MessageId { epoch: 7, seq: Seq(99) },
            device: DeviceId::new("boiler-3").unwrap(),
            topic: Topic::new("sensors/boiler-3/ü").unwrap(),
            payload: Bytes::from_static(b"71.5"),
            received: Stamp { unix_ms: -5, synchronised: true },
            qos: Qos::ExactlyOnce,
            retain: true,
            duplicate: false,
            source: Source::Coap,
            properties,
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was_and_leaves_what_follows() {
        for message in [message(None), message(Some(Box::new(all_properties())))] {
            let mut out = BytesMut::new();
            put_message(&mut out, &message);
            out.extend_from_slice(b"rest");
            let mut rest = &out[..];
            assert_eq!(take_message(&mut rest), Ok(message));
            assert_eq!(rest, b"rest");
        }
    }

    #[test]
    fn a_damaged_message_is_an_error_and_never_a_panic() {
        let mut out = BytesMut::new();
        put_message(&mut out, &message(Some(Box::new(all_properties()))));
        for length in 0..out.len() {
            assert!(take_message(&mut &out[..length]).is_err());
        }
        for at in 0..out.len() {
            for value in 0..=255 {
                let mut damaged = out.to_vec();
                damaged[at] = value;
                let _ = take_message(&mut &damaged[..]);
            }
        }
    }

    #[test]
    fn every_property_comes_back_as_it_was() {
        for properties in [all_properties(), Properties::default()] {
            assert_eq!(decode_properties(&encode_properties(&properties)), Some(properties));
        }
    }

    #[test]
    fn cut_properties_are_refused_without_a_panic() {
        let encoded = encode_properties(&Properties {
            content_type: Some("text/plain".into()),
            user: vec![("name".into(), "value".into())],
            ..Properties::default()
        });
        // Cut between two fields it is still well formed; the row's checksum is what notices that.
        let whole = (1..encoded.len()).filter(|&n| decode_properties(&encoded[..n]).is_some()).count();
        assert_eq!(whole, 2);
        assert_eq!(decode_properties(&[]), None);
        assert_eq!(decode_properties(&[9]), None);
    }
}
