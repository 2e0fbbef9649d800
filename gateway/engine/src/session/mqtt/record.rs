//! What the store remembers of a session, as bytes. The layout has a version byte; what cannot be read is an error
//! with its reason, never a panic, and costs the client what stands in it, nothing more. Integers are big-endian. A session:
//! version, owner u8 (not in version 1), expiry u32 (s), count u16, then for each subscription: flags u8, identifier u32 (0 is
//! none), length u16, filter.

use super::parcel::Parcel;
use super::session::Will;
use super::subscriptions::Granted;
use crate::encoding::{put_message, take_message};
use crate::event::{RecordKey, RecordKind};
use crate::id::{DeviceId, MessageId};
use crate::message::{Message, Qos};
use crate::session::Incoming;
use crate::session::auth::Owner;
use crate::time::{Duration, Instant, Now, Stamp};
use crate::topic::Filter;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

const VERSION: u8 = 1;

/// A session's own record.
const SESSION_VERSION: u8 = 2;
/// The same without its owner.
const SESSION_VERSION_UNOWNED: u8 = 1;

const OWNER_NOBODY: u8 = 0;
const OWNER_DEVICE: u8 = 1;
const OWNER_CERTIFIED: u8 = 2;

const SHORT: &str = "its record is cut off";

const FLAG_NO_LOCAL: u8 = 0b0000_0100;
const FLAG_RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;

/// A session as the store remembers it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Whose it is; `None` when an older gateway wrote it, which did not say.
    pub(super) owner: Option<Owner>,
    /// Seconds that it outlives its connection.
    pub(super) expiry_seconds: u32,
    pub(super) subscriptions: BTreeMap<Filter, Granted>,
}

/// The key of a session's record.
pub(super) fn session_key(client: &DeviceId) -> RecordKey {
    RecordKey { kind: RecordKind::Session, key: Bytes::copy_from_slice(client.as_str().as_bytes()) }
}

/// The key of the record of a QoS 2 packet id; a client id never has a zero byte in it.
pub(super) fn packet_key(client: &DeviceId, packet_id: u16) -> RecordKey {
    let mut key = BytesMut::with_capacity(client.as_str().len() + 3);
    key.put_slice(client.as_str().as_bytes());
    key.put_u8(0);
    key.put_u16(packet_id);
    RecordKey { kind: RecordKind::InboundQos2, key: key.freeze() }
}

/// The key of the record of a message for a client, or of its release.
pub(super) fn outgoing_key(client: &DeviceId, number: u64) -> RecordKey {
    let mut key = BytesMut::with_capacity(client.as_str().len() + 9);
    key.put_slice(client.as_str().as_bytes());
    key.put_u8(0);
    key.put_u64(number);
    RecordKey { kind: RecordKind::Outgoing, key: key.freeze() }
}

/// The key of the record of a session's will.
pub(super) fn will_key(client: &DeviceId) -> RecordKey {
    RecordKey { kind: RecordKind::Will, ..session_key(client) }
}

/// What stands under [`packet_key`]: that it stands there says everything.
pub(super) fn packet_value() -> Bytes {
    Bytes::from_static(&[VERSION])
}

/// The client of a session's record.
pub(super) fn read_client(key: &[u8]) -> Result<DeviceId, &'static str> {
    let text = std::str::from_utf8(key).map_err(|_| "its client id is not UTF-8")?;
    DeviceId::new(text).map_err(|_| "its client id is not allowed any more")
}

/// The client and packet id of a QoS 2 record's key.
pub(super) fn read_packet_key(key: &[u8]) -> Result<(DeviceId, u16), &'static str> {
    match key.split_last_chunk::<3>() {
        Some((client, &[0, high, low])) if (high, low) != (0, 0) => {
            Ok((read_client(client)?, u16::from_be_bytes([high, low])))
        }
        _ => Err("its key is not a client id and a packet id"),
    }
}

/// The client and number of an outgoing message's key.
pub(super) fn read_outgoing_key(key: &[u8]) -> Result<(DeviceId, u64), &'static str> {
    match key.split_last_chunk::<8>() {
        Some((client, number)) if number.iter().any(|byte| *byte != 0) => match client.split_last() {
            Some((0, client)) => Ok((read_client(client)?, u64::from_be_bytes(*number))),
            _ => Err(NOT_A_NUMBER),
        },
        _ => Err(NOT_A_NUMBER),
    }
}

const NOT_A_NUMBER: &str = "its key is not a client id and a number";

/// What stands under [`outgoing_key`] for a release: PUBREC has come, and the message itself is no longer needed.
pub(super) fn release_value() -> Bytes {
    Bytes::from_static(&[VERSION, RELEASE])
}

const MESSAGE: u8 = 1;
const RELEASE: u8 = 2;

/// Encodes a message for a client: version, [`MESSAGE`], QoS u8, retain u8, time waited u64 (ms), count of identifiers u16, each
/// u32, shared filter with its length as u16 (empty is none), then the message.
pub(super) fn encode_parcel(parcel: &Parcel, now: Instant) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + parcel.message.footprint());
    out.put_slice(&[VERSION, MESSAGE, parcel.qos as u8, parcel.retain.into()]);
    out.put_u64(u64::try_from(parcel.age(now).as_millis()).unwrap_or(u64::MAX));
    // A session has fewer subscriptions than that.
    let count = u16::try_from(parcel.subscriptions.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for id in parcel.subscriptions.iter().take(usize::from(count)) {
        out.put_u32(id.get());
    }
    let shared = parcel.shared.as_ref().map_or("", Filter::as_str);
    out.put_u16(u16::try_from(shared.len()).unwrap_or(u16::MAX));
    out.put_slice(shared.as_bytes());
    put_message(&mut out, &parcel.message);
    out.freeze()
}

/// Decodes a message for a client; `None` is a release.
pub(super) fn decode_parcel(mut bytes: &[u8], now: Now) -> Result<Option<Parcel>, &'static str> {
    if bytes.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("a message of it is of an unknown version");
    }
    match bytes.try_get_u8().map_err(|_| SHORT)? {
        MESSAGE => {}
        RELEASE => return Ok(None),
        _ => return Err("a message of it is in an unknown state"),
    }
    let qos = match bytes.try_get_u8().map_err(|_| SHORT)? {
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return Err("a message of it has a quality of service that is not valid"),
    };
    let retain = bytes.try_get_u8().map_err(|_| SHORT)? != 0;
    let waited = Duration::from_millis(bytes.try_get_u64().map_err(|_| SHORT)?);
    let mut subscriptions = Vec::new();
    for _ in 0..bytes.try_get_u16().map_err(|_| SHORT)? {
        subscriptions.extend(NonZeroU32::new(bytes.try_get_u32().map_err(|_| SHORT)?));
    }
    let length = usize::from(bytes.try_get_u16().map_err(|_| SHORT)?);
    let (shared, mut bytes) = bytes.split_at_checked(length).ok_or(SHORT)?;
    let shared = match std::str::from_utf8(shared) {
        Ok("") => None,
        Ok(text) => Some(Filter::new(text).map_err(|_| "a filter of it is not valid")?),
        Err(_) => return Err("a filter of it is not UTF-8"),
    };
    let message = Arc::new(take_message(&mut bytes)?);
    let mut parcel = Parcel { message, qos, retain, subscriptions, shared, since: now.instant, waited };
    parcel.settle(now);
    Ok(Some(parcel))
}

/// Encodes a will: version, time left u64 (ms), stamp i64 (ms), flags u8, then its message. Of a client that is connected
/// the time left is the whole delay, which has not begun; of another one it is what was left at the stamp.
pub(super) fn encode_will(will: &Will, now: Now) -> Bytes {
    let left = will.due.map_or(will.delay, |due| due.since(now.instant));
    let mut out = BytesMut::with_capacity(128 + will.incoming.payload.len());
    out.put_u8(VERSION);
    out.put_u64(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    out.put_i64(now.wall.unix_ms);
    let began = if will.due.is_some() { WILL_BEGAN } else { 0 };
    out.put_u8(began | if now.wall.synchronised { WILL_SYNCHRONISED } else { 0 });
    let Incoming { device, client: _, topic, payload, qos, retain, duplicate, source, properties, record: _ } =
        &will.incoming;
    let message = Message {
        // It gets its identity when it is published.
        id: MessageId::default(),
        device: device.clone(),
        topic: topic.clone(),
        payload: payload.clone(),
        received: now.wall,
        qos: *qos,
        retain: *retain,
        duplicate: *duplicate,
        source: *source,
        properties: properties.clone(),
    };
    put_message(&mut out, &message);
    out.freeze()
}

const WILL_BEGAN: u8 = 1;
const WILL_SYNCHRONISED: u8 = 2;

/// Decodes a will; it is due when what was left of its delay is over. A client that was connected was cut off by the
/// end of the gateway, of which nothing is known but that it is over now: its delay begins now. Time that the gateway was
/// off counts if the clock on the wall was right then and is now.
pub(super) fn decode_will(mut bytes: &[u8], client: &DeviceId, now: Now) -> Result<Will, &'static str> {
    if bytes.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("its will is of an unknown version");
    }
    let mut left = Duration::from_millis(bytes.try_get_u64().map_err(|_| SHORT)?);
    let unix_ms = bytes.try_get_i64().map_err(|_| SHORT)?;
    let flags = bytes.try_get_u8().map_err(|_| SHORT)?;
    let stamp = Stamp { unix_ms, synchronised: flags & WILL_SYNCHRONISED != 0 };
    let message = take_message(&mut bytes)?;
    if flags & WILL_BEGAN != 0 && stamp.synchronised && now.wall.synchronised {
        let off = u64::try_from(now.wall.unix_ms.saturating_sub(stamp.unix_ms)).unwrap_or(0);
        left = left.saturating_sub(Duration::from_millis(off));
    }
    Ok(Will {
        incoming: Incoming {
            device: message.device,
            client: Some(client.clone()),
            topic: message.topic,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            duplicate: message.duplicate,
            source: message.source,
            properties: message.properties,
            record: None,
        },
        delay: left,
        due: Some(now.instant.after(left)),
    })
}

/// Encodes a session.
pub(super) fn encode(owner: Owner, expiry_seconds: u32, subscriptions: &BTreeMap<Filter, Granted>) -> Bytes {
    let mut out = BytesMut::with_capacity(64 * (1 + subscriptions.len()));
    out.put_u8(SESSION_VERSION);
    out.put_u8(match owner {
        Owner::Nobody => OWNER_NOBODY,
        Owner::Device => OWNER_DEVICE,
        Owner::Certified => OWNER_CERTIFIED,
    });
    out.put_u32(expiry_seconds);
    // More than 65,535 subscriptions cannot be granted; the limit is far below.
    let count = u16::try_from(subscriptions.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for (filter, granted) in subscriptions.iter().take(usize::from(count)) {
        let mut flags = granted.qos as u8 | (granted.retain_handling << RETAIN_HANDLING_SHIFT);
        if granted.no_local {
            flags |= FLAG_NO_LOCAL;
        }
        if granted.retain_as_published {
            flags |= FLAG_RETAIN_AS_PUBLISHED;
        }
        out.put_u8(flags);
        out.put_u32(granted.id.map_or(0, NonZeroU32::get));
        // A filter came in a length of 16 bits.
        out.put_u16(u16::try_from(filter.as_str().len()).unwrap_or(u16::MAX));
        out.put_slice(filter.as_str().as_bytes());
    }
    out.freeze()
}

/// Decodes a session of at most `most` subscriptions.
pub(super) fn decode(mut bytes: &[u8], most: usize) -> Result<Stored, &'static str> {
    let owner = match bytes.try_get_u8().map_err(|_| SHORT)? {
        SESSION_VERSION => Some(match bytes.try_get_u8().map_err(|_| SHORT)? {
            OWNER_NOBODY => Owner::Nobody,
            OWNER_DEVICE => Owner::Device,
            OWNER_CERTIFIED => Owner::Certified,
            _ => return Err("its owner is not valid"),
        }),
        SESSION_VERSION_UNOWNED => None,
        _ => return Err("its record is of an unknown version"),
    };
    let expiry_seconds = bytes.try_get_u32().map_err(|_| SHORT)?;
    let count = bytes.try_get_u16().map_err(|_| SHORT)?;
    if usize::from(count) > most {
        return Err("it has more subscriptions than the limit allows");
    }
    let mut subscriptions = BTreeMap::new();
    for _ in 0..count {
        let flags = bytes.try_get_u8().map_err(|_| SHORT)?;
        let id = bytes.try_get_u32().map_err(|_| SHORT)?;
        let length = usize::from(bytes.try_get_u16().map_err(|_| SHORT)?);
        let (text, rest) = bytes.split_at_checked(length).ok_or(SHORT)?;
        bytes = rest;
        let text = std::str::from_utf8(text).map_err(|_| "a filter of it is not UTF-8")?;
        let filter = Filter::new(text).map_err(|_| "a filter of it is not valid")?;
        let qos = match flags & 0b11 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            _ => return Err("a quality of service of it is not valid"),
        };
        let granted = Granted {
            qos,
            no_local: flags & FLAG_NO_LOCAL != 0,
            retain_as_published: flags & FLAG_RETAIN_AS_PUBLISHED != 0,
            retain_handling: flags >> RETAIN_HANDLING_SHIFT & 0b11,
            id: NonZeroU32::new(id),
        };
        subscriptions.insert(filter, granted);
    }
    if bytes.is_empty() {
        Ok(Stored { owner, expiry_seconds, subscriptions })
    } else {
        Err("its record is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Parcel, Stored, Will, decode, decode_parcel, decode_will, encode, encode_parcel, encode_will,
        outgoing_key, packet_key, read_outgoing_key, read_packet_key, release_value,
    };
    use crate::id::{DeviceId, MessageId, Seq};
    use crate::message::{Message, Qos, Source};
    use crate::session::Incoming;
    use crate::session::auth::Owner;
    use crate::session::mqtt::subscriptions::Granted;
    use crate::time::{Duration, Instant, Now, Stamp};
    use crate::topic::{Filter, Topic};
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;
    use std::sync::Arc;

    fn sample() -> BTreeMap<Filter, Granted> {
        let granted = Granted {
            qos: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            retain_handling: 2,
            id: NonZeroU32::new(268_435_455),
        };
        let plain = Granted {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: true,
            retain_handling: 0,
            id: None,
        };
        [(Filter::new("a/+/#").unwrap(), granted), (Filter::new("ü").unwrap(), plain)].into()
    }

    #[test]
    fn a_session_comes_back_as_it_was() {
        for owner in [Owner::Nobody, Owner::Device, Owner::Certified] {
            let bytes = encode(owner, 604_800, &sample());
            let stored = |owner| Ok(Stored { owner, expiry_seconds: 604_800, subscriptions: sample() });
            assert_eq!(decode(&bytes, 2), stored(Some(owner)));
            assert!(decode(&bytes, 1).is_err(), "the limit holds for what is stored, too");
            let older = [&[1], &bytes[2..]].concat();
            assert_eq!(decode(&older, 2), stored(None));
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = encode(Owner::Certified, 1, &sample());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], 64).is_err());
        }
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut damaged = bytes.to_vec();
                damaged[at] = value;
                let _ = decode(&damaged, 64);
            }
        }
    }

    #[test]
    fn a_packet_key_names_its_client_and_id() {
        let client = DeviceId::new("pump-7").unwrap();
        let key = packet_key(&client, 0x0102);
        assert_eq!(&key.key[..], b"pump-7\0\x01\x02");
        assert_eq!(read_packet_key(&key.key), Ok((client, 0x0102)));
        assert!(read_packet_key(b"\0\0\x01").is_err());
        assert!(read_packet_key(b"pump-7\0\0\0").is_err());
        assert!(read_packet_key(b"p").is_err());
    }

    fn message() -> Message {
        Message {
            id: MessageId { epoch: 3, seq: Seq(4) },
            device: DeviceId::new("pump-7").unwrap(),
            topic: Topic::new("sensors/pump-7/rpm").unwrap(),
            payload: Bytes::from_static(b"880"),
            received: Stamp { unix_ms: 10_000, synchronised: true },
            qos: Qos::ExactlyOnce,
            retain: true,
            duplicate: false,
            source: Source::Mqtt,
            properties: None,
        }
    }

    fn at(seconds: u64, unix_ms: i64, synchronised: bool) -> Now {
        Now { instant: Instant(seconds * 1_000_000), wall: Stamp { unix_ms, synchronised } }
    }

    #[test]
    fn a_message_for_a_client_comes_back_with_the_time_that_it_has_waited() {
        let parcel = Parcel {
            message: Arc::new(message()),
            qos: Qos::AtLeastOnce,
            retain: true,
            subscriptions: vec![NonZeroU32::new(7).unwrap(), NonZeroU32::new(9).unwrap()],
            shared: Some(Filter::new("$share/g/sensors/#").unwrap()),
            since: Instant(0),
            waited: Duration::ZERO,
        };
        let bytes = encode_parcel(&parcel, at(2, 12_000, true).instant);
        let back = decode_parcel(&bytes, at(0, 0, false)).unwrap().unwrap();
        assert_eq!((&back.message, back.qos, back.retain), (&parcel.message, parcel.qos, parcel.retain));
        assert_eq!((&back.subscriptions, &back.shared), (&parcel.subscriptions, &parcel.shared));
        assert_eq!(back.waited, Duration::from_secs(2), "the clock is not right: it goes on from there");
        let back = decode_parcel(&bytes, at(0, 15_000, true)).unwrap().unwrap();
        assert_eq!(back.waited, Duration::from_secs(5));
        assert!(decode_parcel(&release_value(), at(0, 0, false)).unwrap().is_none());
        for length in 0..bytes.len() {
            assert!(decode_parcel(&bytes[..length], at(0, 0, false)).is_err());
        }
    }

    #[test]
    fn a_delayed_will_goes_on_from_what_was_left() {
        let Message { device, topic, payload, qos, retain, duplicate, source, properties, .. } = message();
        let (record, client) = (None, DeviceId::new("pump-7").unwrap());
        let incoming = Incoming {
            device,
            client: None,
            topic,
            payload,
            qos,
            retain,
            duplicate,
            source,
            properties,
            record,
        };
        let delay = Duration::from_secs(30);
        let connected = Will { incoming, delay, due: None };
        let due = |bytes: &Bytes, now| {
            decode_will(bytes, &DeviceId::new("pump-7").unwrap(), now).unwrap().due.unwrap()
        };
        let bytes = encode_will(&connected, at(5, 10_000, true));
        assert_eq!(due(&bytes, at(1, 500_000, true)), Instant(31_000_000), "its delay had not begun");
        let gone = Will { due: Some(Instant(20_000_000)), ..connected };
        let bytes = encode_will(&gone, at(5, 10_000, true));
        assert_eq!(due(&bytes, at(1, 14_000, true)), Instant(12_000_000));
        assert_eq!(due(&bytes, at(1, 14_000, false)), Instant(16_000_000), "the clock is not right");
        assert_eq!(due(&bytes, at(1, 9_000_000, true)), Instant(1_000_000));
        for length in 0..bytes.len() {
            assert!(decode_will(&bytes[..length], &client, at(0, 0, true)).is_err());
        }
    }

    #[test]
    fn an_outgoing_key_names_its_client_and_number() {
        let client = DeviceId::new("pump-7").unwrap();
        let key = outgoing_key(&client, 258);
        assert_eq!(&key.key[..], b"pump-7\0\0\0\0\0\0\0\x01\x02");
        assert_eq!(read_outgoing_key(&key.key), Ok((client, 258)));
        assert!(read_outgoing_key(b"pump-7\0\0\0\0\0\0\0\0\0").is_err());
        assert!(read_outgoing_key(b"\0\0\0\0\0\0\0\x01").is_err());
    }
}
