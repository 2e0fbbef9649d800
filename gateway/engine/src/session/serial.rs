//! Boards that only print: each line of text is a message, and nothing is answered, as they do not listen.

use super::Incoming;
use crate::id::DeviceId;
use crate::message::{Qos, Source};
use crate::topic::Topic;
use bytes::Bytes;

/// What a line of text says. It is not acknowledged, so it is kept as QoS 0 is.
pub(crate) fn line(device: DeviceId, topic: Topic, text: Bytes) -> Incoming {
    Incoming {
        device,
        client: None,
        topic,
        payload: text,
        qos: Qos::AtMostOnce,
        retain: false,
        duplicate: false,
        source: Source::Serial,
        properties: None,
        record: None,
    }
}
