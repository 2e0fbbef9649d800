//! Why bytes are not a legal packet, and which reason code says so to the peer.
//! Knows nothing of what the caller does about it.

use super::reason::ReasonCode;
use core::fmt;

/// Why bytes are not a legal packet. [`Error::reason`] gives what MQTT 5 answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The remaining length, or another variable byte integer, has more than four bytes or is longer than needed
    /// (MQTT 5.0, 1.5.5).
    VariableInteger,
    /// Packet type 0, or AUTH before MQTT 5 (2.1.2).
    PacketType,
    /// Reserved flags of the first byte are wrong [MQTT-2.1.3-1], or a PUBLISH has DUP with QoS 0 [MQTT-3.3.1-2].
    Flags,
    /// [`decode`](super::decode()) was given less than the whole packet.
    Incomplete,
    /// A field reaches beyond the end of the packet or of the properties.
    Truncated,
    /// Bytes are left over after the packet's last field.
    Trailing,
    /// Text is not UTF-8, or contains U+0000 or a surrogate [MQTT-1.5.4-1, MQTT-1.5.4-2].
    Utf8,
    /// QoS 3 [MQTT-3.3.1-4].
    Qos,
    /// CONNECT's flags contradict each other or use the reserved bit (3.1.2.3).
    ConnectFlags,
    /// Reserved bits of subscription options or of CONNACK's flags are used [MQTT-3.8.3-5].
    ReservedBits,
    /// There is no property of this number (2.2.2.2).
    PropertyUnknown(u8),
    /// The property of this number does not belong into this packet (2.2.2.2).
    PropertyMisplaced(u8),

    /// Packet identifier 0 [MQTT-2.2.1-3].
    PacketIdZero,
    /// The property of this number stands twice.
    PropertyRepeated(u8),
    /// The property of this number has a value that it must not have.
    PropertyValue(u8),
    /// A reason code that this packet does not have.
    ReasonCode(u8),
    /// SUBSCRIBE, UNSUBSCRIBE or SUBACK without any entry [MQTT-3.8.3-2, MQTT-3.10.3-2].
    NoEntries,
    /// QoS 3 or Retain Handling 3 in a subscription (3.8.3.1).
    SubscriptionOptions,
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared,
    /// Authentication data, or AUTH, without an authentication method (3.1.2.11.10, 3.15.2.2.2).
    AuthMethodMissing,
    /// A PUBLISH with neither a topic name nor a topic alias (3.3.2.1).
    TopicMissing,
    /// CONNACK refuses and yet says that a session is present [MQTT-3.2.2-6].
    SessionPresent,
    /// A packet, property or reason code that only the other side may send.
    WrongSender,

    /// CONNECT's protocol name is neither "MQTT" nor "MQIsdp" [MQTT-3.1.2-1].
    ProtocolName,
    /// CONNECT's protocol level is not 3, 4 or 5 (with its name) [MQTT-3.1.2-2].
    ProtocolLevel(u8),
    /// An empty client identifier where the version does not allow one (MQTT 3.1.1, [MQTT-3.1.3-8]; never in 3.1).
    ClientId,
    /// A topic filter with misplaced wildcards, empty, or a broken `$share/…` (4.7, 4.8.2).
    TopicFilter,
    /// A topic name with wildcards [MQTT-3.3.2-2], or empty [MQTT-4.7.3-1].
    TopicName,
    /// Topic alias 0 [MQTT-3.3.2-8].
    TopicAlias,
}

impl Error {
    /// The reason code that MQTT 5 has for this, in DISCONNECT or CONNACK.
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::VariableInteger
            | Self::PacketType
            | Self::Flags
            | Self::Incomplete
            | Self::Truncated
            | Self::Trailing
            | Self::Utf8
            | Self::Qos
            | Self::ConnectFlags
            | Self::ReservedBits
            | Self::PropertyUnknown(_)
            | Self::PropertyMisplaced(_) => ReasonCode::MALFORMED_PACKET,
            Self::PacketIdZero
            | Self::PropertyRepeated(_)
            | Self::PropertyValue(_)
            | Self::ReasonCode(_)
            | Self::NoEntries
            | Self::SubscriptionOptions
            | Self::NoLocalOnShared
            | Self::AuthMethodMissing
            | Self::TopicMissing
            | Self::SessionPresent
            | Self::WrongSender => ReasonCode::PROTOCOL_ERROR,
            Self::ProtocolName | Self::ProtocolLevel(_) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::ClientId => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::TopicFilter => ReasonCode::TOPIC_FILTER_INVALID,
            Self::TopicName => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicAlias => ReasonCode::TOPIC_ALIAS_INVALID,
        }
    }

    /// What is wrong, in words fit for a log and for a reason string.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VariableInteger => "a variable byte integer is longer than it may be",
            Self::PacketType => "this packet type does not exist",
            Self::Flags => "wrong flags in the first byte",
            Self::Incomplete => "the packet is not complete",
            Self::Truncated => "a field reaches beyond the end of the packet",
            Self::Trailing => "bytes are left over at the end of the packet",
            Self::Utf8 => "text is not UTF-8 or contains U+0000",
            Self::Qos => "QoS 3 does not exist",
            Self::ConnectFlags => "CONNECT's flags contradict each other",
            Self::ReservedBits => "reserved bits are used",
            Self::PropertyUnknown(_) => "an unknown property",
            Self::PropertyMisplaced(_) => "a property that does not belong into this packet",
            Self::PacketIdZero => "packet identifier 0",
            Self::PropertyRepeated(_) => "a property stands twice",
            Self::PropertyValue(_) => "a property has a value that it must not have",
            Self::ReasonCode(_) => "a reason code that this packet does not have",
            Self::NoEntries => "a subscription packet without entries",
            Self::SubscriptionOptions => "wrong subscription options",
            Self::NoLocalOnShared => "No Local on a shared subscription",
            Self::AuthMethodMissing => "no authentication method",
            Self::TopicMissing => "neither a topic name nor a topic alias",
            Self::SessionPresent => "a refusing CONNACK says that a session is present",
            Self::WrongSender => "only the other side may send this",
            Self::ProtocolName => "the protocol's name is not MQTT",
            Self::ProtocolLevel(_) => "this version of MQTT is not supported",
            Self::ClientId => "an empty client identifier needs a clean session",
            Self::TopicFilter => "the topic filter is not valid",
            Self::TopicName => "the topic name is not valid",
            Self::TopicAlias => "topic alias 0",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::PropertyUnknown(n)
            | Self::PropertyMisplaced(n)
            | Self::PropertyRepeated(n)
            | Self::PropertyValue(n)
            | Self::ReasonCode(n) => write!(f, " (0x{n:02X})"),
            Self::ProtocolLevel(n) => write!(f, " (level {n})"),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for Error {}
