//! MQTT 5's properties (2.2.2): which exist, where each belongs, and a validated view that is iterated lazily.
//! The same type carries received properties (bytes) and properties to be sent (a slice).

use super::encode::Sink;
use super::error::Error;
use super::kind::Qos;
use super::read::Reader;
use super::text;

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// 0x01 Payload Format Indicator: whether the payload is UTF-8.
    PayloadFormat(bool),
    /// 0x02 Message Expiry Interval, in seconds.
    MessageExpiry(u32),
    /// 0x03 Content Type.
    ContentType(&'a str),
    /// 0x08 Response Topic.
    ResponseTopic(&'a str),
    /// 0x09 Correlation Data.
    CorrelationData(&'a [u8]),
    /// 0x0B Subscription Identifier, 1 to 268,435,455.
    SubscriptionId(u32),
    /// 0x11 Session Expiry Interval, in seconds; 0xFFFFFFFF is never.
    SessionExpiry(u32),
    /// 0x12 Assigned Client Identifier.
    AssignedClientId(&'a str),
    /// 0x13 Server Keep Alive, in seconds.
    ServerKeepAlive(u16),
    /// 0x15 Authentication Method.
    AuthMethod(&'a str),
    /// 0x16 Authentication Data.
    AuthData(&'a [u8]),
    /// 0x17 Request Problem Information.
    RequestProblemInfo(bool),
    /// 0x18 Will Delay Interval, in seconds.
    WillDelay(u32),
    /// 0x19 Request Response Information.
    RequestResponseInfo(bool),
    /// 0x1A Response Information.
    ResponseInfo(&'a str),
    /// 0x1C Server Reference.
    ServerReference(&'a str),
    /// 0x1F Reason String.
    ReasonString(&'a str),
    /// 0x21 Receive Maximum, not 0.
    ReceiveMaximum(u16),
    /// 0x22 Topic Alias Maximum.
    TopicAliasMaximum(u16),
    /// 0x23 Topic Alias, not 0.
    TopicAlias(u16),
    /// 0x24 Maximum QoS, 0 or 1.
    MaximumQos(Qos),
    /// 0x25 Retain Available.
    RetainAvailable(bool),
    /// 0x26 User Property: name and value.
    User(&'a str, &'a str),
    /// 0x27 Maximum Packet Size in bytes, not 0.
    MaximumPacketSize(u32),
    /// 0x28 Wildcard Subscription Available.
    WildcardAvailable(bool),
    /// 0x29 Subscription Identifiers Available.
    SubscriptionIdsAvailable(bool),
    /// 0x2A Shared Subscription Available.
    SharedAvailable(bool),
}

impl<'a> Property<'a> {
    /// The property's number (MQTT 5.0, table 2-4).
    #[must_use]
    pub const fn id(&self) -> u8 {
        match self {
            Self::PayloadFormat(_) => 0x01,
            Self::MessageExpiry(_) => 0x02,
            Self::ContentType(_) => 0x03,
            Self::ResponseTopic(_) => 0x08,
            Self::CorrelationData(_) => 0x09,
            Self::SubscriptionId(_) => 0x0B,
            Self::SessionExpiry(_) => 0x11,
            Self::AssignedClientId(_) => 0x12,
            Self::ServerKeepAlive(_) => 0x13,
            Self::AuthMethod(_) => 0x15,
            Self::AuthData(_) => 0x16,
            Self::RequestProblemInfo(_) => 0x17,
            Self::WillDelay(_) => 0x18,
            Self::RequestResponseInfo(_) => 0x19,
            Self::ResponseInfo(_) => 0x1A,
            Self::ServerReference(_) => 0x1C,
            Self::ReasonString(_) => 0x1F,
            Self::ReceiveMaximum(_) => 0x21,
            Self::TopicAliasMaximum(_) => 0x22,
            Self::TopicAlias(_) => 0x23,
            Self::MaximumQos(_) => 0x24,
            Self::RetainAvailable(_) => 0x25,
            Self::User(..) => 0x26,
            Self::MaximumPacketSize(_) => 0x27,
            Self::WildcardAvailable(_) => 0x28,
            Self::SubscriptionIdsAvailable(_) => 0x29,
            Self::SharedAvailable(_) => 0x2A,
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let id = reader.u8()?;
        let flag = |reader: &mut Reader<'a>| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::PropertyValue(id)),
        };
        Ok(match id {
            0x01 => Self::PayloadFormat(flag(reader)?),
            0x02 => Self::MessageExpiry(reader.u32()?),
            0x03 => Self::ContentType(reader.text()?),
            0x08 => match text::topic_name(reader.binary()?)? {
                "" => return Err(Error::TopicName),
                topic => Self::ResponseTopic(topic),
            },
            0x09 => Self::CorrelationData(reader.binary()?),
            0x0B => match reader.variable_integer()? {
                0 => return Err(Error::PropertyValue(id)),
                number => Self::SubscriptionId(number),
            },
            0x11 => Self::SessionExpiry(reader.u32()?),
            0x12 => Self::AssignedClientId(reader.text()?),
            0x13 => Self::ServerKeepAlive(reader.u16()?),
            0x15 => Self::AuthMethod(reader.text()?),
            0x16 => Self::AuthData(reader.binary()?),
            0x17 => Self::RequestProblemInfo(flag(reader)?),
            0x18 => Self::WillDelay(reader.u32()?),
            0x19 => Self::RequestResponseInfo(flag(reader)?),
            0x1A => Self::ResponseInfo(reader.text()?),
            0x1C => Self::ServerReference(reader.text()?),
            0x1F => Self::ReasonString(reader.text()?),
            0x21 => match reader.u16()? {
                0 => return Err(Error::PropertyValue(id)),
                count => Self::ReceiveMaximum(count),
            },
            0x22 => Self::TopicAliasMaximum(reader.u16()?),
            0x23 => match reader.u16()? {
                0 => return Err(Error::TopicAlias),
                alias => Self::TopicAlias(alias),
            },
            0x24 => Self::MaximumQos(if flag(reader)? { Qos::AtLeastOnce } else { Qos::AtMostOnce }),
            0x25 => Self::RetainAvailable(flag(reader)?),
            0x26 => Self::User(reader.text()?, reader.text()?),
            0x27 => match reader.u32()? {
                0 => return Err(Error::PropertyValue(id)),
                size => Self::MaximumPacketSize(size),
            },
            0x28 => Self::WildcardAvailable(flag(reader)?),
            0x29 => Self::SubscriptionIdsAvailable(flag(reader)?),
            0x2A => Self::SharedAvailable(flag(reader)?),
            _ => return Err(Error::PropertyUnknown(id)),
        })
    }

    fn write(&self, sink: &mut impl Sink) {
        sink.u8(self.id());
        match *self {
            Self::PayloadFormat(flag)
            | Self::RequestProblemInfo(flag)
            | Self::RequestResponseInfo(flag)
            | Self::RetainAvailable(flag)
            | Self::WildcardAvailable(flag)
            | Self::SubscriptionIdsAvailable(flag)
            | Self::SharedAvailable(flag) => sink.u8(u8::from(flag)),
            // Maximum QoS 2 is said by leaving the property out; the nearest that can be said is 1.
            Self::MaximumQos(qos) => sink.u8(u8::from(qos != Qos::AtMostOnce)),
            Self::ServerKeepAlive(n)
            | Self::ReceiveMaximum(n)
            | Self::TopicAliasMaximum(n)
            | Self::TopicAlias(n) => {
                sink.u16(n);
            }
            Self::MessageExpiry(n)
            | Self::SessionExpiry(n)
            | Self::WillDelay(n)
            | Self::MaximumPacketSize(n) => {
                sink.put(&n.to_be_bytes());
            }
            Self::SubscriptionId(n) => sink.variable_integer(n as usize),
            Self::ContentType(t)
            | Self::ResponseTopic(t)
            | Self::AssignedClientId(t)
            | Self::AuthMethod(t)
            | Self::ResponseInfo(t)
            | Self::ServerReference(t)
            | Self::ReasonString(t) => sink.binary(t.as_bytes()),
            Self::CorrelationData(b) | Self::AuthData(b) => sink.binary(b),
            Self::User(name, value) => {
                sink.binary(name.as_bytes());
                sink.binary(value.as_bytes());
            }
        }
    }
}

/// Where properties stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Connect,
    Will,
    ConnAck,
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}

/// A set of properties: bit n stands for number n.
const fn set(ids: &[u8]) -> u64 {
    let mut bits = 0;
    let mut i = 0;
    while i < ids.len() {
        bits |= 1 << ids[i];
        i += 1;
    }
    bits
}

const USER: u8 = 0x26;
const SUBSCRIPTION_ID: u8 = 0x0B;
const AUTH: u64 = set(&[0x15, 0x16]);

impl Place {
    /// MQTT 5.0, table 2-4.
    const fn allowed(self) -> u64 {
        match self {
            Self::Connect => set(&[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, USER, 0x27]),
            Self::Will => set(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, USER]),
            Self::ConnAck => set(&[
                0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, USER, 0x27, 0x28,
                0x29, 0x2A,
            ]),
            Self::Publish => set(&[0x01, 0x02, 0x03, 0x08, 0x09, SUBSCRIPTION_ID, 0x23, USER]),
            Self::Ack => set(&[0x1F, USER]),
            Self::Subscribe => set(&[SUBSCRIPTION_ID, USER]),
            Self::Unsubscribe => set(&[USER]),
            Self::Disconnect => set(&[0x11, 0x1C, 0x1F, USER]),
            Self::Auth => set(&[0x15, 0x16, 0x1F, USER]),
        }
    }

    /// What may stand more than once.
    const fn repeatable(self) -> u64 {
        match self {
            Self::Publish => set(&[SUBSCRIPTION_ID, USER]),
            _ => set(&[USER]),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// Validated bytes, without the length before them.
    Wire(&'a [u8]),
    List(&'a [Property<'a>]),
}

/// The properties of a packet, in their order. Empty before MQTT 5.
///
/// Received ones are validated: each belongs into its packet, none stands twice that must not, values are legal.
/// Two are equal when they list the same properties in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Properties<'a> {
    source: Source<'a>,
    /// Which numbers occur: getters of absent properties cost one test.
    present: u64,
}

impl<'a> Properties<'a> {
    /// None.
    pub const EMPTY: Self = Self { source: Source::Wire(&[]), present: 0 };

    /// Properties to be sent. [`encode`](super::encode()) refuses those that do not belong into their packet; that
    /// none stands twice and that texts contain no U+0000 is the caller's care.
    #[must_use]
    pub fn new(list: &'a [Property<'a>]) -> Self {
        let present = list.iter().fold(0, |bits, property| bits | 1 << property.id());
        Self { source: Source::List(list), present }
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// All, in their order.
    #[must_use]
    pub fn iter(&self) -> PropertiesIter<'a> {
        PropertiesIter(match self.source {
            Source::Wire(bytes) => Cursor::Wire(Reader::new(bytes)),
            Source::List(list) => Cursor::List(list.iter()),
        })
    }

    /// Whether the property of this number occurs.
    #[inline]
    #[must_use]
    pub const fn contains(&self, id: u8) -> bool {
        id < 64 && self.present & 1 << id != 0
    }

    fn find(&self, id: u8) -> Option<Property<'a>> {
        if self.contains(id) { self.iter().find(|property| property.id() == id) } else { None }
    }

    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>, place: Place) -> Result<Self, Error> {
        match reader.variable_integer()? {
            0 => Ok(Self::EMPTY),
            length => Self::validate(reader.take(length as usize)?, place),
        }
    }

    fn validate(bytes: &'a [u8], place: Place) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let mut present = 0_u64;
        while !reader.is_empty() {
            let id = Property::read(&mut reader)?.id();
            let bit = 1 << id;
            if place.allowed() & bit == 0 {
                return Err(Error::PropertyMisplaced(id));
            }
            if present & bit != 0 && place.repeatable() & bit == 0 {
                return Err(Error::PropertyRepeated(id));
            }
            present |= bit;
        }
        // Data without a method is a protocol error (3.1.2.11.10), and AUTH must name its method (3.15.2.2.2).
        if (present & AUTH == set(&[0x16])) || (place == Place::Auth && present & set(&[0x15]) == 0) {
            return Err(Error::AuthMethodMissing);
        }
        Ok(Self { source: Source::Wire(bytes), present })
    }

    /// Whether all belong into `place`.
    #[inline]
    pub(super) const fn belong_to(&self, place: Place) -> bool {
        self.present & !place.allowed() == 0
    }

    /// Writes the length and the properties.
    #[inline]
    pub(super) fn write(&self, sink: &mut impl Sink) {
        match self.source {
            Source::Wire(bytes) => {
                sink.variable_integer(bytes.len());
                sink.put(bytes);
            }
            Source::List(list) => {
                let mut counter = super::encode::Counter::default();
                list.iter().for_each(|property| property.write(&mut counter));
                sink.variable_integer(counter.bytes());
                list.iter().for_each(|property| property.write(sink));
            }
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $id:literal $variant:ident;)*) => {
        impl<'a> Properties<'a> {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> Option<$type> {
                match self.find($id) {
                    Some(Property::$variant(value)) => Some(value),
                    _ => None,
                }
            })*
        }
    };
}

getters! {
    /// Payload Format Indicator: whether the publisher says that the payload is UTF-8.
    payload_format: bool = 0x01 PayloadFormat;
    /// Message Expiry Interval in seconds.
    message_expiry: u32 = 0x02 MessageExpiry;
    /// Content Type.
    content_type: &'a str = 0x03 ContentType;
    /// Response Topic, a valid topic name.
    response_topic: &'a str = 0x08 ResponseTopic;
    /// Correlation Data.
    correlation_data: &'a [u8] = 0x09 CorrelationData;
    /// The first Subscription Identifier.
    subscription_id: u32 = 0x0B SubscriptionId;
    /// Session Expiry Interval in seconds; absent means 0 in CONNECT, unchanged elsewhere.
    session_expiry: u32 = 0x11 SessionExpiry;
    /// Assigned Client Identifier.
    assigned_client_id: &'a str = 0x12 AssignedClientId;
    /// Server Keep Alive in seconds.
    server_keep_alive: u16 = 0x13 ServerKeepAlive;
    /// Authentication Method.
    auth_method: &'a str = 0x15 AuthMethod;
    /// Authentication Data.
    auth_data: &'a [u8] = 0x16 AuthData;
    /// Request Problem Information; absent means true.
    request_problem_info: bool = 0x17 RequestProblemInfo;
    /// Will Delay Interval in seconds; absent means 0.
    will_delay: u32 = 0x18 WillDelay;
    /// Request Response Information; absent means false.
    request_response_info: bool = 0x19 RequestResponseInfo;
    /// Response Information.
    response_info: &'a str = 0x1A ResponseInfo;
    /// Server Reference.
    server_reference: &'a str = 0x1C ServerReference;
    /// Reason String.
    reason_string: &'a str = 0x1F ReasonString;
    /// Receive Maximum, never 0; absent means 65,535.
    receive_maximum: u16 = 0x21 ReceiveMaximum;
    /// Topic Alias Maximum; absent means 0.
    topic_alias_maximum: u16 = 0x22 TopicAliasMaximum;
    /// Topic Alias, never 0.
    topic_alias: u16 = 0x23 TopicAlias;
    /// Maximum QoS; absent means 2.
    maximum_qos: Qos = 0x24 MaximumQos;
    /// Retain Available; absent means true.
    retain_available: bool = 0x25 RetainAvailable;
    /// Maximum Packet Size in bytes, never 0; absent means no limit.
    maximum_packet_size: u32 = 0x27 MaximumPacketSize;
    /// Wildcard Subscription Available; absent means true.
    wildcard_available: bool = 0x28 WildcardAvailable;
    /// Subscription Identifiers Available; absent means true.
    subscription_ids_available: bool = 0x29 SubscriptionIdsAvailable;
    /// Shared Subscription Available; absent means true.
    shared_available: bool = 0x2A SharedAvailable;
}

impl<'a> Properties<'a> {
    /// User properties in their order, duplicates included [MQTT-3.3.2-18].
    pub fn user(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.filtered(USER).filter_map(|property| match property {
            Property::User(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// All Subscription Identifiers (several only in a PUBLISH from a server).
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        self.filtered(SUBSCRIPTION_ID).filter_map(|property| match property {
            Property::SubscriptionId(number) => Some(number),
            _ => None,
        })
    }

    /// Everything if `id` occurs, else nothing.
    fn filtered(&self, id: u8) -> PropertiesIter<'a> {
        if self.contains(id) { self.iter() } else { Self::EMPTY.iter() }
    }
}

impl Default for Properties<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.present == other.present && self.iter().eq(other.iter())
    }
}

impl Eq for Properties<'_> {}

impl<'a> IntoIterator for &Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertiesIter<'a>;

    fn into_iter(self) -> PropertiesIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Properties`] in their order.
#[derive(Clone, Debug)]
pub struct PropertiesIter<'a>(Cursor<'a>);

#[derive(Clone, Debug)]
enum Cursor<'a> {
    Wire(Reader<'a>),
    List(core::slice::Iter<'a, Property<'a>>),
}

impl<'a> Iterator for PropertiesIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        match &mut self.0 {
            // The bytes were validated: an error here is their end.
            Cursor::Wire(reader) => Property::read(reader).ok(),
            Cursor::List(list) => list.next().copied(),
        }
    }
}
