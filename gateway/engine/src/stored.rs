//! A message as bytes, for the keyed records that hold one (retained messages, messages of a session). The layout has a
//! version byte; what cannot be read is an error with its reason, never a panic. Integers are big-endian. Knows no keys.
//!
//! Version, flags, epoch u64, sequence u64, received i64 (ms), device and topic (length u16 each), then fields of
//! (tag u8, length u32, content), each at most once but the user properties; the payload is one of them.

use crate::id::{DeviceId, MessageId, Seq};
use crate::message::{Message, Properties, Qos, Source};
use crate::time::Stamp;
use crate::topic::Topic;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;

const QOS: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const DUPLICATE: u8 = 0b0000_1000;
const SYNCHRONISED: u8 = 0b0001_0000;
const COAP: u8 = 0b0010_0000;
const PROPERTIES: u8 = 0b0100_0000;

const PAYLOAD: u8 = 0;
const UTF8_PAYLOAD: u8 = 1;
const CONTENT_TYPE: u8 = 2;
const CONTENT_FORMAT: u8 = 3;
const RESPONSE_TOPIC: u8 = 4;
const CORRELATION_DATA: u8 = 5;
const EXPIRY_SECONDS: u8 = 6;
const USER: u8 = 7;

const SHORT: &str = "a message of it is cut off";
const INVALID: &str = "a message of it is not valid";

/// Appends a message.
pub(crate) fn encode(message: &Message, out: &mut BytesMut) {
    // Taken apart in full, so that what is added later cannot be forgotten here.
    let Message { id, device, topic, payload, received, qos, retain, duplicate, source, properties } =
        message;
    let mut flags = *qos as u8;
    for (on, flag) in [
        (*retain, RETAIN),
        (*duplicate, DUPLICATE),
        (received.synchronised, SYNCHRONISED),
        (*source == Source::Coap, COAP),
        (properties.is_some(), PROPERTIES),
    ] {
        flags |= if on { flag } else { 0 };
    }
    out.reserve(message.footprint());
    out.put_u8(VERSION);
    out.put_u8(flags);
    out.put_u64(id.epoch);
    out.put_u64(id.seq.0);
    out.put_i64(received.unix_ms);
    for text in [device.as_str(), topic.as_str()] {
        // Both came in a length of 16 bits.
        out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        out.put_slice(text.as_bytes());
    }
    if let Some(properties) = properties.as_deref() {
        encode_properties(properties, out);
    }
    field(out, PAYLOAD, &[payload]);
}

fn field(out: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.put_u8(tag);
    // Everything came in packets of at most 256 MiB (MQTT 5.0, 2.1.4).
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    parts.iter().for_each(|part| out.put_slice(part));
}

fn encode_properties(properties: &Properties, out: &mut BytesMut) {
    let Properties {
        utf8_payload,
        content_type,
        content_format,
        response_topic,
        correlation_data,
        expiry_seconds,
        user,
    } = properties;
    if *utf8_payload {
        field(out, UTF8_PAYLOAD, &[]);
    }
    if let Some(text) = content_type {
        field(out, CONTENT_TYPE, &[text.as_bytes()]);
    }
    if let Some(number) = content_format {
        field(out, CONTENT_FORMAT, &[&number.to_be_bytes()]);
    }
    if let Some(text) = response_topic {
        field(out, RESPONSE_TOPIC, &[text.as_bytes()]);
    }
    if let Some(data) = correlation_data {
        field(out, CORRELATION_DATA, &[data]);
    }
    if let Some(seconds) = expiry_seconds {
        field(out, EXPIRY_SECONDS, &[&seconds.to_be_bytes()]);
    }
    for (name, value) in user {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
        field(out, USER, &[&length, name.as_bytes(), value.as_bytes()]);
    }
}

/// Reads one message, all of `bytes`.
///
/// # Errors
/// In words that go on after "the record was lost: ".
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Message, &'static str> {
    if bytes.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("a message of it is of an unknown version");
    }
    let flags = bytes.try_get_u8().map_err(|_| SHORT)?;
    let epoch = bytes.try_get_u64().map_err(|_| SHORT)?;
    let seq = Seq(bytes.try_get_u64().map_err(|_| SHORT)?);
    let unix_ms = bytes.try_get_i64().map_err(|_| SHORT)?;
    let device = DeviceId::new(text(short_piece(&mut bytes)?)?).map_err(|_| INVALID)?;
    let topic = Topic::new(text(short_piece(&mut bytes)?)?).map_err(|_| INVALID)?;
    let mut properties = (flags & PROPERTIES != 0).then(Box::<Properties>::default);
    let mut payload = None;
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        let content = piece(&mut bytes)?;
        if tag == PAYLOAD {
            payload = Some(Bytes::copy_from_slice(content));
        } else {
            read_property(properties.as_deref_mut().ok_or(INVALID)?, tag, content)?;
        }
    }
    Ok(Message {
        id: MessageId { epoch, seq },
        device,
        topic,
        payload: payload.ok_or(SHORT)?,
        received: Stamp { unix_ms, synchronised: flags & SYNCHRONISED != 0 },
        qos: match flags & QOS {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            _ => return Err(INVALID),
        },
        retain: flags & RETAIN != 0,
        duplicate: flags & DUPLICATE != 0,
        source: if flags & COAP != 0 { Source::Coap } else { Source::Mqtt },
        properties,
    })
}

fn read_property(properties: &mut Properties, tag: u8, content: &[u8]) -> Result<(), &'static str> {
    match tag {
        UTF8_PAYLOAD => properties.utf8_payload = true,
        CONTENT_TYPE => properties.content_type = Some(text(content)?.to_owned()),
        CONTENT_FORMAT => {
            let number = content.try_into().map_err(|_| INVALID)?;
            properties.content_format = Some(u16::from_be_bytes(number));
        }
        RESPONSE_TOPIC => properties.response_topic = Some(text(content)?.to_owned()),
        CORRELATION_DATA => properties.correlation_data = Some(Bytes::copy_from_slice(content)),
        EXPIRY_SECONDS => {
            let seconds = content.try_into().map_err(|_| INVALID)?;
            properties.expiry_seconds = Some(u32::from_be_bytes(seconds));
        }
        USER => {
            let mut value = content;
            let name = piece(&mut value)?;
            properties.user.push((text(name)?.to_owned(), text(value)?.to_owned()));
        }
        _ => return Err(INVALID),
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| INVALID)
}

/// A piece behind its length of 16 bits.
fn short_piece<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = bytes.try_get_u16().map_err(|_| SHORT)?;
    split(bytes, usize::from(length))
}

/// A piece behind its length of 32 bits.
fn piece<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = bytes.try_get_u32().map_err(|_| SHORT)?;
    split(bytes, usize::try_from(length).map_err(|_| SHORT)?)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (content, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Properties, Qos, Source};
    use crate::time::Stamp;
    use crate::topic::Topic;
    use bytes::{Bytes, BytesMut};

    fn full() -> Message {
        Message {
            id: MessageId { epoch: u64::MAX, seq: Seq::MAX },
            device: DeviceId::new("boiler-3").unwrap(),
            topic: Topic::new("a/ü").unwrap(),
            payload: Bytes::from_static(b"\0\xFFx"),
            received: Stamp { unix_ms: -1, synchronised: true },
            qos: Qos::ExactlyOnce,
            retain: true,
            duplicate: true,
            source: Source::Coap,
            properties: Some(Box::new(Properties {
                utf8_payload: true,
                content_type: Some("text/plain".into()),
                content_format: Some(65_000),
                response_topic: Some("answers/here".into()),
                correlation_data: Some(Bytes::from_static(&[0, 255, 7])),
                expiry_seconds: Some(u32::MAX),
                user: vec![
                    ("a".into(), "1".into()),
                    ("a".into(), String::new()),
                    (String::new(), "ü".into()),
                ],
            })),
        }
    }

    fn bytes(message: &Message) -> BytesMut {
        let mut out = BytesMut::new();
        encode(message, &mut out);
        out
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let plain = Message {
            payload: Bytes::new(),
            received: Stamp::default(),
            qos: Qos::AtMostOnce,
            retain: false,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
            ..full()
        };
        let empty = Message { properties: Some(Box::default()), ..plain.clone() };
        for message in [full(), plain, empty] {
            assert_eq!(decode(&bytes(&message)), Ok(message));
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = bytes(&full());
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err());
        }
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut damaged = whole.to_vec();
                damaged[at] = value;
                let _ = decode(&damaged);
            }
        }
    }
}
