//! A message as it stands between a device and an upstream: what was sent, by whom, when, and its identity.

use crate::id::{DeviceId, MessageId};
use crate::time::{Duration, Stamp};
use crate::topic::Topic;
use bytes::Bytes;

/// MQTT's quality of service; CoAP's CON is `AtLeastOnce`, NON is `AtMostOnce` (MQTT 5.0, 4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    /// QoS 0: nothing is promised.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: acknowledged when safe.
    AtLeastOnce = 1,
    /// QoS 2: acknowledged when safe, and recognised when it comes again.
    ExactlyOnce = 2,
}

/// The protocol by which a message came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Source {
    /// MQTT, any version, any transport.
    #[default]
    Mqtt = 0,
    /// CoAP, any transport.
    Coap = 1,
    /// Text on a serial line.
    Serial = 2,
    /// The gateway's own: a tombstone, which tells of messages that are lost.
    Gateway = 3,
}

/// What a publisher said about its payload and wants carried along unchanged (MQTT 5.0, 3.3.2.3; RFC 7252, 5.10.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// MQTT's Payload Format Indicator said UTF-8.
    pub utf8_payload: bool,
    /// A media type; CoAP content formats are written as their media type.
    pub content_type: Option<String>,
    /// The number of a CoAP content format that has no media type known here.
    pub content_format: Option<u16>,
    /// MQTT's Response Topic.
    pub response_topic: Option<String>,
    /// MQTT's Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Seconds that the publisher gave the message to live.
    pub expiry_seconds: Option<u32>,
    /// User properties in the order in which they came, duplicates included.
    pub user: Vec<(String, String)>,
}

/// An accepted message. Shared, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its identity, for good.
    pub id: MessageId,
    /// Who sent it.
    pub device: DeviceId,
    /// Under which name.
    pub topic: Topic,
    /// What it says, byte for byte as sent.
    pub payload: Bytes,
    /// When it was received.
    pub received: Stamp,
    /// What its sender asked for.
    pub qos: Qos,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// An upstream may have it already: the device marked it as sent before (MQTT's DUP) and we did not know it, or it is a dead
    /// letter that is sent again.
    pub duplicate: bool,
    /// The protocol by which it came.
    pub source: Source,
    /// What goes with the payload; `None` for the many messages that have nothing.
    pub properties: Option<Box<Properties>>,
}

impl Message {
    /// Seconds that a message which has waited for so long has left, if it ever expires [MQTT-3.3.2-6].
    #[must_use]
    pub fn seconds_left(&self, waited: Duration) -> Option<u32> {
        let waited = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
        Some(self.properties.as_ref()?.expiry_seconds?.saturating_sub(waited))
    }

    /// The memory that this message takes, in bytes, for the bounds in [`Limits`](crate::limits::Limits):
    /// what varies, and a constant for the structures around it.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| {
            let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
            128 + text(&p.content_type)
                + text(&p.response_topic)
                + p.correlation_data.as_ref().map_or(0, Bytes::len)
                + p.user.iter().map(|(k, v)| 48 + k.len() + v.len()).sum::<usize>()
        });
        192 + self.payload.len() + self.topic.as_str().len() + properties
    }
}
