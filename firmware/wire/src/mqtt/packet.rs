//! The packets (MQTT 5.0, chapter 3): plain borrowed structures, the same for all versions and both directions.
//! Older versions leave out what they do not have: properties are empty, reason codes are translated.

use super::error::Error;
use super::kind::{Kind, PacketId, Qos, Sender, Version};
use super::property::Properties;
use super::reason::ReasonCode;
use super::subscription::{Filters, Subscriptions};

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the specification")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT (3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the client speaks from here on.
    pub version: Version,
    /// Clean Start; Clean Session before MQTT 5.
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off.
    pub keep_alive: u16,
    /// CONNECT's own properties.
    pub properties: Properties<'a>,
    /// May be empty: the server then assigns one.
    pub client_id: &'a str,
    /// What to publish when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
}

/// A will (3.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Under which name.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// With which QoS.
    pub qos: Qos,
    /// Whether to retain it.
    pub retain: bool,
    /// The will's properties.
    pub properties: Properties<'a>,
}

/// CONNACK (3.2). Return codes of older versions are translated into MQTT 5's reason codes and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server has kept state.
    pub session_present: bool,
    /// Accepted, or why not.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

/// PUBLISH (3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Perhaps sent before; never with QoS 0.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// To be retained, or was retained.
    pub retain: bool,
    /// The topic name; empty only with a topic alias.
    pub topic: &'a str,
    /// Present exactly when QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Properties.
    pub properties: Properties<'a>,
    /// The rest of the packet: a part of the decoded slice, so that `Bytes::slice_ref` can share it.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP (3.4 to 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Of which message.
    pub packet_id: PacketId,
    /// Success before MQTT 5.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// Success, without properties.
    #[must_use]
    pub const fn success(packet_id: PacketId) -> Self {
        Self { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::EMPTY }
    }
}

/// SUBSCRIBE (3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// To be named in the SUBACK.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// At least one.
    pub subscriptions: Subscriptions<'a>,
}

/// SUBACK (3.9). In older versions every failure is 0x80.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Of which SUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// A reason code for each entry, in their order.
    pub codes: &'a [u8],
}

/// UNSUBSCRIBE (3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// To be named in the UNSUBACK.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Filters<'a>,
}

/// UNSUBACK (3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Of which UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Properties.
    pub properties: Properties<'a>,
    /// A reason code for each entry, in their order; empty before MQTT 5.
    pub codes: &'a [u8],
}

/// DISCONNECT (3.14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; before MQTT 5 always success.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

/// AUTH (3.15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// What to do.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: Properties<'a>,
}

impl Packet<'_> {
    /// The packet's type.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Connect(_) => Kind::Connect,
            Self::ConnAck(_) => Kind::ConnAck,
            Self::Publish(_) => Kind::Publish,
            Self::PubAck(_) => Kind::PubAck,
            Self::PubRec(_) => Kind::PubRec,
            Self::PubRel(_) => Kind::PubRel,
            Self::PubComp(_) => Kind::PubComp,
            Self::Subscribe(_) => Kind::Subscribe,
            Self::SubAck(_) => Kind::SubAck,
            Self::Unsubscribe(_) => Kind::Unsubscribe,
            Self::UnsubAck(_) => Kind::UnsubAck,
            Self::PingReq => Kind::PingReq,
            Self::PingResp => Kind::PingResp,
            Self::Disconnect(_) => Kind::Disconnect,
            Self::Auth(_) => Kind::Auth,
        }
    }

    /// Whether `sender` may send this packet with these properties and this reason code.
    ///
    /// # Errors
    /// [`Error::WrongSender`] when only the other side may.
    pub fn check_sender(&self, sender: Sender) -> Result<(), Error> {
        let client = matches!(sender, Sender::Client);
        let fine = match self {
            Self::Connect(_) | Self::Subscribe(_) | Self::Unsubscribe(_) | Self::PingReq => client,
            Self::ConnAck(_) | Self::SubAck(_) | Self::UnsubAck(_) | Self::PingResp => !client,
            // A client must not send Subscription Identifiers [MQTT-3.3.4-6].
            Self::Publish(publish) => !client || !publish.properties.contains(0x0B),
            // Session Expiry is the client's [MQTT-3.14.2-2], Server Reference the server's.
            Self::Disconnect(d) if client => {
                d.reason.disconnects_from_client() && !d.properties.contains(0x1C)
            }
            Self::Disconnect(d) => d.reason.disconnects_from_server() && !d.properties.contains(0x11),
            // Success ends an exchange that the client began; re-authentication is the client's to begin (3.15.2.1).
            Self::Auth(auth) if client => auth.reason != ReasonCode::SUCCESS,
            Self::Auth(auth) => auth.reason != ReasonCode::RE_AUTHENTICATE,
            Self::PubAck(_) | Self::PubRec(_) | Self::PubRel(_) | Self::PubComp(_) => true,
        };
        if fine { Ok(()) } else { Err(Error::WrongSender) }
    }
}
