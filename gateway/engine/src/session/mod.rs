//! The devices' side: what a session of any protocol asks of the rest of the engine, and what it is told.
//! A session never decides that a message is safe: it asks, and acknowledges when it is told.

pub mod acl;
mod auth;
pub mod certificates;
pub mod coap;
mod crowd;
mod guessing;
pub mod mqtt;
mod rate;
pub(crate) mod serial;

use crate::event::{Op, Output};
use crate::id::DeviceId;
use crate::message::{Message, Properties, Qos, Source};
use crate::time::Instant;
use crate::topic::{Filter, Topic};
use bytes::Bytes;
use std::sync::Arc;

/// Who is to hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Everybody may publish.
    #[default]
    Nobody,
    /// Who has a message that is not safe yet waits for it; who has none may send one, however many others send too much.
    Busy,
    /// Nobody may publish.
    All,
}

/// What a session asks of the rest of the engine.
#[derive(Debug)]
pub enum Request {
    /// Pass this on to the shell.
    Output(Output),
    /// A device sent this. Make it safe, then call the session's `safe` with the receipt; without a receipt
    /// nobody waits for it.
    Publish {
        /// What it sent.
        incoming: Incoming,
        /// Whom to tell when it is safe.
        receipt: Option<Receipt>,
    },
    /// Make these changes of records ([`Op::Put`], [`Op::Remove`]) durable, after everything asked before, then
    /// call `safe` with the receipt.
    Record {
        /// The change.
        op: Op,
        /// Whom to tell when it is durable.
        receipt: Option<Receipt>,
    },
    /// A copy of a message that a local subscriber was to get is safe: acknowledged by the subscriber, durable, or no longer
    /// wanted. See [`mqtt::Delivered`].
    Settled {
        /// Whose message it was.
        claim: Claim,
        /// It is durable.
        committed: bool,
    },
}

/// A publisher's wait for the copies of its message, as local subscribers' sessions know it. Opaque to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(pub u32);

/// A message as a device sent it, before it has an identity.
#[derive(Debug)]
pub struct Incoming {
    /// Who sent it.
    pub device: DeviceId,
    /// Its MQTT client identifier, which No Local goes by [MQTT-3.8.3-3]; a device may have several. `None` in other protocols.
    pub client: Option<DeviceId>,
    /// Under which name; already permitted.
    pub topic: Topic,
    /// What it says.
    pub payload: Bytes,
    /// What the device asked for.
    pub qos: Qos,
    /// MQTT's RETAIN.
    pub retain: bool,
    /// MQTT's DUP on a message that this session did not know.
    pub duplicate: bool,
    /// The protocol.
    pub source: Source,
    /// What goes with the payload.
    pub properties: Option<Box<Properties>>,
    /// A change of a record to be committed in one transaction with the message, before it counts as safe: QoS 2's packet
    /// id is put, a will that is published is removed. A message with one always goes by the disk.
    pub record: Option<Op>,
}

/// Whom to tell that something is safe. Opaque to everyone but the session that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// An MQTT session's.
    Mqtt(mqtt::Receipt),
    /// A CoAP exchange's.
    Coap(coap::Receipt),
}

/// The last value of each topic: the retained messages, for sessions of a protocol that does not keep them itself.
pub trait LastValues {
    /// A topic's.
    fn last(&self, now: Instant, topic: &Topic) -> Option<LastValue>;
    /// The first, in the order of topics, of those that a filter names.
    fn first(&self, now: Instant, filter: &Filter) -> Option<LastValue>;
}

/// A retained message.
#[derive(Clone, Debug)]
pub struct LastValue {
    /// The message.
    pub message: Arc<Message>,
    /// Seconds until it expires, if it does.
    pub seconds_left: Option<u32>,
}
