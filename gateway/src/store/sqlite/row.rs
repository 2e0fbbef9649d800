//! A message as a row and back: the key, the columns and the checksum over all of them.
//! It runs no statement.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Row, Statement};
use tidegate_engine::encoding::{decode_properties, encode_properties};
use tidegate_engine::id::{DeviceId, LaneId, MessageId, Seq};
use tidegate_engine::message::{Message, Qos, Source};
use tidegate_engine::time::Stamp;
use tidegate_engine::topic::Topic;

/// The columns of a message in the order in which they are bound and read, the key first.
pub(super) const COLUMNS: &str = "key, bytes, epoch, received_ms, synchronised, qos, retain, duplicate, source, \
                                  device, topic, properties, payload, checksum";

/// The same of tables in which a message's sequence number stands for its key.
pub(super) const COLUMNS_BY_SEQ: &str = "seq, bytes, epoch, received_ms, synchronised, qos, retain, duplicate, source, \
                                         device, topic, properties, payload, checksum";

/// How many these are.
pub(super) const COLUMNS_LEN: usize = 14;

const SEQ_BITS: u32 = 48;

/// The highest lane number: the key of its last row is the largest positive rowid.
pub(super) const LANE_MAX: u16 = 0x7FFF;

/// The key of a message's row; `None` when a number is beyond what a key holds.
pub(super) fn key(lane: LaneId, seq: Seq) -> Option<i64> {
    if lane.0 > LANE_MAX || seq > Seq::MAX {
        return None;
    }
    Some(i64::from(lane.0) << SEQ_BITS | i64::try_from(seq.0).ok()?)
}

/// The sequence number in a key.
pub(super) fn seq_of(key: i64) -> Seq {
    Seq(key.cast_unsigned() & Seq::MAX.0)
}

/// The lane in a key.
pub(super) fn lane_of(key: i64) -> i64 {
    key >> SEQ_BITS
}

/// The columns of a message that are not in it as such.
pub(super) struct Derived {
    pub(super) bytes: i64,
    pub(super) epoch: i64,
    pub(super) properties: Option<Vec<u8>>,
    pub(super) checksum: u32,
}

impl Derived {
    /// Computes them for a message that is kept under `key`.
    pub(super) fn of(key: i64, message: &Message) -> Self {
        let bytes = i64::try_from(message.footprint()).unwrap_or(i64::MAX);
        let epoch = message.id.epoch.cast_signed();
        let properties = message.properties.as_deref().map(encode_properties);
        let checksum = Fields {
            key,
            bytes,
            epoch,
            received_ms: message.received.unix_ms,
            synchronised: i64::from(message.received.synchronised),
            qos: message.qos as i64,
            retain: i64::from(message.retain),
            duplicate: i64::from(message.duplicate),
            source: message.source as i64,
            device: message.device.as_str(),
            topic: message.topic.as_str(),
            properties: properties.as_deref(),
            payload: &message.payload,
        }
        .checksum();
        Self { bytes, epoch, properties, checksum }
    }

    /// Binds the columns of a message, in their order, from the parameter `first` on.
    pub(super) fn bind(
        &self,
        statement: &mut Statement<'_>,
        first: usize,
        key: i64,
        message: &Message,
    ) -> rusqlite::Result<()> {
        statement.raw_bind_parameter(first, key)?;
        statement.raw_bind_parameter(first + 1, self.bytes)?;
        statement.raw_bind_parameter(first + 2, self.epoch)?;
        statement.raw_bind_parameter(first + 3, message.received.unix_ms)?;
        statement.raw_bind_parameter(first + 4, message.received.synchronised)?;
        statement.raw_bind_parameter(first + 5, message.qos as u8)?;
        statement.raw_bind_parameter(first + 6, message.retain)?;
        statement.raw_bind_parameter(first + 7, message.duplicate)?;
        statement.raw_bind_parameter(first + 8, message.source as u8)?;
        statement.raw_bind_parameter(first + 9, message.device.as_str())?;
        statement.raw_bind_parameter(first + 10, message.topic.as_str())?;
        statement.raw_bind_parameter(first + 11, self.properties.as_deref())?;
        statement.raw_bind_parameter(first + 12, &message.payload[..])?;
        statement.raw_bind_parameter(first + 13, self.checksum)
    }
}

/// A row as it stands in the table, nothing believed yet.
struct Fields<'a> {
    key: i64,
    bytes: i64,
    epoch: i64,
    received_ms: i64,
    synchronised: i64,
    qos: i64,
    retain: i64,
    duplicate: i64,
    source: i64,
    device: &'a str,
    topic: &'a str,
    properties: Option<&'a [u8]>,
    payload: &'a [u8],
}

impl Fields<'_> {
    fn checksum(&self) -> u32 {
        let numbers = [
            self.key,
            self.bytes,
            self.epoch,
            self.received_ms,
            self.synchronised,
            self.qos,
            self.retain,
            self.duplicate,
            self.source,
            // The lengths keep a byte from moving between neighbours unseen.
            i64::try_from(self.device.len()).unwrap_or(i64::MAX),
            i64::try_from(self.topic.len()).unwrap_or(i64::MAX),
            self.properties.map_or(-1, |p| i64::try_from(p.len()).unwrap_or(i64::MAX)),
        ];
        let mut fixed = [0; 12 * 8];
        for (place, number) in fixed.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed);
        hasher.update(self.device.as_bytes());
        hasher.update(self.topic.as_bytes());
        hasher.update(self.properties.unwrap_or_default());
        hasher.update(self.payload);
        hasher.finalize()
    }

    fn message(&self) -> Option<Message> {
        let flag = |n: i64| match n {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        Some(Message {
            id: MessageId { epoch: self.epoch.cast_unsigned(), seq: seq_of(self.key) },
            device: DeviceId::new(self.device).ok()?,
            topic: Topic::new(self.topic).ok()?,
            payload: Bytes::copy_from_slice(self.payload),
            received: Stamp { unix_ms: self.received_ms, synchronised: flag(self.synchronised)? },
            qos: match self.qos {
                0 => Qos::AtMostOnce,
                1 => Qos::AtLeastOnce,
                2 => Qos::ExactlyOnce,
                _ => return None,
            },
            retain: flag(self.retain)?,
            duplicate: flag(self.duplicate)?,
            source: match self.source {
                0 => Source::Mqtt,
                1 => Source::Coap,
                2 => Source::Serial,
                _ => return None,
            },
            properties: match self.properties {
                Some(encoded) => Some(Box::new(decode_properties(encoded)?)),
                None => None,
            },
        })
    }
}

/// Reads a row of [`COLUMNS`]; `None` when it is damaged.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<Message>> {
    let mut values = [ValueRef::Null; 14];
    for (index, value) in values.iter_mut().enumerate() {
        *value = row.get_ref(index)?;
    }
    Ok(check(&values))
}

/// The message in the values of a row of [`COLUMNS`]; `None` when it is damaged.
pub(super) fn check(values: &[ValueRef<'_>; 14]) -> Option<Message> {
    let int = |v: ValueRef<'_>| v.as_i64().ok();
    let fields = Fields {
        key: int(values[0])?,
        bytes: int(values[1])?,
        epoch: int(values[2])?,
        received_ms: int(values[3])?,
        synchronised: int(values[4])?,
        qos: int(values[5])?,
        retain: int(values[6])?,
        duplicate: int(values[7])?,
        source: int(values[8])?,
        device: values[9].as_str().ok()?,
        topic: values[10].as_str().ok()?,
        properties: values[11].as_blob_or_null().ok()?,
        payload: values[12].as_blob().ok()?,
    };
    if int(values[13])? != i64::from(fields.checksum()) {
        return None;
    }
    fields.message()
}

/// The checksum of a keyed record.
pub(super) fn record_checksum(kind: i64, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&kind.to_le_bytes());
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::{LaneId, Seq, key, lane_of, seq_of};

    #[test]
    fn keys_keep_lanes_apart_and_in_order() {
        let last = key(LaneId(1), Seq::MAX).unwrap();
        let first = key(LaneId(2), Seq(0)).unwrap();
        assert_eq!(last + 1, first);
        assert_eq!((lane_of(last), seq_of(last)), (1, Seq::MAX));
        assert_eq!((lane_of(first), seq_of(first)), (2, Seq(0)));
        assert_eq!(key(LaneId(0x7FFF), Seq::MAX), Some(i64::MAX));
        assert_eq!(key(LaneId(0x8000), Seq(0)), None);
        assert_eq!(key(LaneId(1), Seq::MAX.next()), None);
    }
}
