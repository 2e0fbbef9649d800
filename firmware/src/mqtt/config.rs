//! What a publisher is told at its start, what it tells, and why it refuses.

use core::fmt;
use tidegate_wire::mqtt::{EncodeError, Error, Properties, Qos, ReasonCode, Version, Will};

/// Who the device is and how it connects. Borrowed: usually from constants or from a buffer made at boot.
#[derive(Clone, Copy, Debug)]
pub struct Config<'c> {
    /// MQTT 3.1.1 or 5 (3.1 works too).
    pub version: Version,
    /// Client identifier; must not be empty with a persistent session.
    pub client_id: &'c str,
    /// User name.
    pub username: Option<&'c str>,
    /// Password; before MQTT 5 only together with a user name.
    pub password: Option<&'c [u8]>,
    /// What the server publishes when the connection ends badly.
    pub will: Option<Will<'c>>,
    /// Seconds without traffic after which a ping is sent; 0 for never. A server's own value goes before.
    pub keep_alive_s: u16,
    /// What the server shall keep between connections.
    pub session: Session,
    /// Microseconds that the server has for CONNACK and PINGRESP.
    pub response_timeout_us: u64,
    /// The largest packet identifier that is used; then they begin anew. A test that wants identifiers to come again
    /// soon makes it small; it must not be smaller than the number of messages under way.
    pub largest_packet_id: u16,
}

impl<'c> Config<'c> {
    /// A persistent session of a day, a ping each minute, ten seconds for an answer.
    #[must_use]
    pub const fn new(version: Version, client_id: &'c str) -> Self {
        Self {
            version,
            client_id,
            username: None,
            password: None,
            will: None,
            keep_alive_s: 60,
            session: Session::Persistent { expiry_s: 86_400 },
            response_timeout_us: 10_000_000,
            largest_packet_id: u16::MAX,
        }
    }
}

/// What the server shall keep between connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Nothing. QoS 1 and 2 messages are still sent until they are acknowledged, but QoS 2 then may arrive twice.
    Clean,
    /// Subscriptions, and what QoS 1 and 2 need.
    ///
    /// A publisher that has just been made remembers nothing, so it must not go on with a session of an earlier
    /// life: a packet identifier that the server still holds would make it take a new QoS 2 message for an old one.
    /// With MQTT 5 its first CONNECT therefore asks for a clean start. MQTT 3.1.1 cannot say this: if the server has
    /// such a session, the publisher ends the connection with [`Reason::StaleSession`], twice, and the third
    /// connection serves.
    Persistent {
        /// Seconds that the session outlives the connection (MQTT 5 only).
        expiry_s: u32,
    },
}

/// A message to be published.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Under which name.
    pub topic: &'m str,
    /// What.
    pub payload: &'m [u8],
    /// With which promise.
    pub qos: Qos,
    /// RETAIN.
    pub retain: bool,
    /// Left out before MQTT 5. No topic aliases: they do not outlive a connection.
    pub properties: Properties<'m>,
}

impl<'m> Message<'m> {
    /// A message without properties.
    #[must_use]
    pub const fn new(topic: &'m str, payload: &'m [u8], qos: Qos) -> Self {
        Self { topic, payload, qos, retain: false, properties: Properties::EMPTY }
    }
}

/// What has happened. `token` is what the caller gave to `publish` or `subscribe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'e> {
    /// The server accepted the connection.
    Connected {
        /// Whether it still has our session. If not, subscriptions must be made again; messages that are not
        /// acknowledged are sent again in any case.
        session_present: bool,
    },
    /// The server has taken responsibility for a message: PUBACK, or PUBREC with QoS 2 (MQTT 5.0, 4.3.3). The caller
    /// may forget it.
    Acknowledged {
        /// Which message.
        token: u32,
    },
    /// The message will not be sent (again): the server refused it, or has said that it takes none of this kind
    /// (`PACKET_TOO_LARGE`, `QOS_NOT_SUPPORTED`, `RETAIN_NOT_SUPPORTED`).
    Refused {
        /// Which message.
        token: u32,
        /// Why.
        reason: ReasonCode,
    },
    /// The server answered a subscription.
    Subscribed {
        /// Which subscription.
        token: u32,
        /// The granted QoS, or a failure.
        reason: ReasonCode,
    },
    /// A message came in. It counts as taken, and is acknowledged, with the next call of `poll_event` or `handle_bytes`.
    Message {
        /// Under which name.
        topic: &'e str,
        /// What it says.
        payload: &'e [u8],
        /// With which promise.
        qos: Qos,
        /// RETAIN.
        retain: bool,
        /// With QoS 1 only: it may have come before.
        dup: bool,
        /// What goes with the payload.
        properties: Properties<'e>,
    },
    /// The connection is over. Send what `poll_transmit` still gives, then close the transport.
    Disconnected {
        /// Why.
        reason: Reason,
    },
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The caller said `disconnect`.
    Requested,
    /// The caller said `connection_lost`.
    ConnectionLost,
    /// The server did not accept the connection.
    Refused(ReasonCode),
    /// The server sent DISCONNECT.
    ByServer(ReasonCode),
    /// No CONNACK or PINGRESP in time.
    Timeout,
    /// The server broke the protocol.
    Protocol(Error),
    /// A packet from the server does not fit into the receive buffer.
    PacketTooLarge,
    /// The server has more QoS 2 messages between PUBREC and PUBREL than there is room for.
    TooManyUnreleased,
    /// The CONNECT does not fit into the buffer given to `poll_transmit`, or cannot be said in this version.
    Connect(EncodeError),
    /// See [`Session::Persistent`]: connect again.
    StaleSession,
}

/// Why a message or subscription was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// QoS 0 or a subscription without a connection.
    Offline,
    /// No slot or not enough bytes are free now: try again after an acknowledgement.
    Full,
    /// It would not fit even into an empty outbox.
    TooLarge,
    /// The topic name or filter is not valid.
    Topic,
    /// It cannot be encoded.
    Encode(EncodeError),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline => f.write_str("not connected"),
            Self::Full => f.write_str("the outbox is full: wait for an acknowledgement"),
            Self::TooLarge => f.write_str("larger than the outbox"),
            Self::Topic => f.write_str("the topic is not valid"),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PublishError {}
