//! What the store remembers of a session, as bytes. The layout has a version byte; what cannot be read is an error
//! with its reason, never a panic, and costs the client its session, nothing more. Integers are big-endian:
//! version, expiry u32 (s), count u16, then for each subscription: flags u8, identifier u32 (0 is none), length u16, filter.

use super::subscriptions::Granted;
use crate::event::{RecordKey, RecordKind};
use crate::id::DeviceId;
use crate::message::Qos;
use crate::topic::Filter;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

const VERSION: u8 = 1;

const FLAG_NO_LOCAL: u8 = 0b0000_0100;
const FLAG_RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;

/// A session as the store remembers it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
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

/// Encodes a session.
pub(super) fn encode(expiry_seconds: u32, subscriptions: &BTreeMap<Filter, Granted>) -> Bytes {
    let mut out = BytesMut::with_capacity(64 * (1 + subscriptions.len()));
    out.put_u8(VERSION);
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
    const SHORT: &str = "its record is cut off";
    if bytes.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("its record is of an unknown version");
    }
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
        Ok(Stored { expiry_seconds, subscriptions })
    } else {
        Err("its record is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::{Stored, decode, encode, packet_key, read_packet_key};
    use crate::id::DeviceId;
    use crate::message::Qos;
    use crate::session::mqtt::subscriptions::Granted;
    use crate::topic::Filter;
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

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
        let bytes = encode(604_800, &sample());
        assert_eq!(decode(&bytes, 2), Ok(Stored { expiry_seconds: 604_800, subscriptions: sample() }));
        assert!(decode(&bytes, 1).is_err(), "the limit holds for what is stored, too");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = encode(1, &sample());
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
}
