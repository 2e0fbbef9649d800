//! From packets to bytes, into a borrowed buffer. Lengths are checked; that texts and topics are legal is the
//! caller's care, because it has parsed them long before (`is_topic_name`, `is_topic_filter`).

use super::frame::MAX_REMAINING_LENGTH;
use super::kind::{Kind, PacketId, Qos, Version};
use super::packet::{Connect, Packet, Publish};
use super::property::{Place, Properties};
use super::reason::ReasonCode;
use core::fmt;

/// Why a packet was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer must have this many bytes.
    BufferTooSmall {
        /// Bytes of the whole packet (or header).
        needed: usize,
    },
    /// A text or binary field has more than 65,535 bytes, or the packet more than 268,435,455.
    TooLong,
    /// A PUBLISH has a packet identifier with QoS 0, none above, or DUP with QoS 0.
    PacketId,
    /// A property does not belong into this packet.
    Property,
    /// This version cannot say this: AUTH before MQTT 5, a password without a user name, a reason without a return
    /// code, an empty client identifier, an empty topic.
    Version,
    /// SUBSCRIBE, UNSUBSCRIBE or SUBACK without entries.
    NoEntries,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooSmall { needed } => write!(f, "the buffer must have {needed} bytes"),
            Self::TooLong => f.write_str("a field or the packet is longer than MQTT can express"),
            Self::PacketId => f.write_str("QoS and packet identifier contradict each other"),
            Self::Property => f.write_str("a property does not belong into this packet"),
            Self::Version => f.write_str("this version of MQTT cannot say this"),
            Self::NoEntries => f.write_str("a subscription packet needs entries"),
        }
    }
}

impl core::error::Error for EncodeError {}

/// Where encoded bytes go: counted or written by the same code, so that the two cannot disagree.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// Something is too long to be expressed.
    fn too_long(&mut self);

    #[inline]
    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// Two bytes of length, then the bytes.
    #[inline]
    fn binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.u16(length);
                self.put(bytes);
            }
            Err(_) => self.too_long(),
        }
    }

    /// MQTT 5.0, 1.5.5.
    #[inline]
    fn variable_integer(&mut self, value: usize) {
        if value > MAX_REMAINING_LENGTH {
            self.too_long();
            return;
        }
        let mut rest = value;
        loop {
            // The mask keeps seven bits: nothing is cut off.
            let low = (rest & 0x7F) as u8;
            rest >>= 7;
            if rest == 0 {
                self.u8(low);
                return;
            }
            self.u8(low | 0x80);
        }
    }
}

/// Counts.
#[derive(Default)]
pub(super) struct Counter {
    bytes: usize,
    too_long: bool,
}

impl Counter {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Sink for Counter {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len());
    }

    #[inline]
    fn too_long(&mut self) {
        self.too_long = true;
    }
}

/// Writes. What does not fit is left out and shows in `rest`: it cannot happen behind a `Counter`.
struct Writer<'b> {
    rest: &'b mut [u8],
}

impl Sink for Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((head, tail)) = rest.split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.rest = tail;
        }
    }

    #[inline]
    fn too_long(&mut self) {}
}

/// The four bytes of PUBACK, PUBREC, PUBREL or PUBCOMP that say success: the same in all versions.
#[inline]
#[must_use]
pub const fn short_ack(kind: Kind, packet_id: PacketId) -> [u8; 4] {
    let [high, low] = packet_id.get().to_be_bytes();
    [kind.first_byte(), 2, high, low]
}

/// Writes a packet to the front of `buffer` and returns how many bytes it took. For CONNECT the version that counts
/// is its own.
///
/// # Errors
/// The packet cannot be said in this version or does not fit; the buffer's content is then unspecified.
#[inline]
pub fn encode(version: Version, packet: &Packet<'_>, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    match packet {
        Packet::Publish(publish) => {
            let payload = publish.payload;
            let head = write(&PublishHead { version, publish }, payload.len(), payload.len(), buffer)?;
            let size = head + payload.len();
            if let Some(room) = buffer.get_mut(head..size) {
                room.copy_from_slice(payload);
            }
            Ok(size)
        }
        _ => write(&Other { version: spoken(version, packet), packet }, 0, 0, buffer),
    }
}

/// Writes a PUBLISH up to its payload, which the caller sends behind it; for payloads that are not copied.
///
/// # Errors
/// As [`encode`].
#[inline]
pub fn encode_publish_header(
    version: Version,
    publish: &Publish<'_>,
    buffer: &mut [u8],
) -> Result<usize, EncodeError> {
    write(&PublishHead { version, publish }, publish.payload.len(), 0, buffer)
}

/// Bytes that [`encode`] writes: what the receiver's Maximum Packet Size is compared with.
///
/// # Errors
/// As [`encode`], but for the buffer.
pub fn encoded_len(version: Version, packet: &Packet<'_>) -> Result<usize, EncodeError> {
    let remaining = match packet {
        Packet::Publish(publish) => measure(&PublishHead { version, publish }, publish.payload.len())?,
        _ => measure(&Other { version: spoken(version, packet), packet }, 0)?,
    };
    Ok(1 + variable_integer_len(remaining) + remaining)
}

/// CONNECT says its own version.
const fn spoken(version: Version, packet: &Packet<'_>) -> Version {
    match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    }
}

/// What stands behind a packet's fixed header.
trait Body {
    fn first_byte(&self) -> u8;
    fn check(&self) -> Result<(), EncodeError>;
    fn write(&self, sink: &mut impl Sink);
}

const fn variable_integer_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// The remaining length: the body, and `behind` bytes that the caller appends.
#[inline]
fn measure(body: &impl Body, behind: usize) -> Result<usize, EncodeError> {
    body.check()?;
    let mut counter = Counter::default();
    body.write(&mut counter);
    let remaining = counter.bytes.saturating_add(behind);
    if counter.too_long || remaining > MAX_REMAINING_LENGTH {
        return Err(EncodeError::TooLong);
    }
    Ok(remaining)
}

/// Writes the fixed header and the body, and returns their bytes. `behind` bytes follow in the packet, for `room` of
/// which the buffer must have space.
#[inline]
fn write(body: &impl Body, behind: usize, room: usize, buffer: &mut [u8]) -> Result<usize, EncodeError> {
    let remaining = measure(body, behind)?;
    let written = 1 + variable_integer_len(remaining) + remaining - behind;
    let needed = written + room;
    if buffer.len() < needed {
        return Err(EncodeError::BufferTooSmall { needed });
    }
    let mut writer = Writer { rest: buffer };
    writer.u8(body.first_byte());
    writer.variable_integer(remaining);
    body.write(&mut writer);
    Ok(written)
}

struct PublishHead<'p, 'a> {
    version: Version,
    publish: &'p Publish<'a>,
}

impl Body for PublishHead<'_, '_> {
    #[inline]
    fn first_byte(&self) -> u8 {
        let Publish { dup, qos, retain, .. } = *self.publish;
        Kind::Publish.first_byte() | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain)
    }

    #[inline]
    fn check(&self) -> Result<(), EncodeError> {
        let Publish { dup, qos, topic, packet_id, ref properties, .. } = *self.publish;
        let with_id = qos != Qos::AtMostOnce;
        if packet_id.is_some() != with_id || (dup && !with_id) {
            return Err(EncodeError::PacketId);
        }
        if topic.is_empty() && !self.version.is_v5() {
            return Err(EncodeError::Version);
        }
        belong(properties, Place::Publish, self.version)
    }

    #[inline]
    fn write(&self, sink: &mut impl Sink) {
        sink.binary(self.publish.topic.as_bytes());
        if let Some(packet_id) = self.publish.packet_id {
            sink.u16(packet_id.get());
        }
        write_properties(&self.publish.properties, self.version, sink);
    }
}

/// Before MQTT 5 properties are left out: whatever they are, they do no harm.
#[inline]
fn belong(properties: &Properties<'_>, place: Place, version: Version) -> Result<(), EncodeError> {
    if version.is_v5() && !properties.belong_to(place) { Err(EncodeError::Property) } else { Ok(()) }
}

#[inline]
fn write_properties(properties: &Properties<'_>, version: Version, sink: &mut impl Sink) {
    if version.is_v5() {
        properties.write(sink);
    }
}

/// Every packet but PUBLISH.
struct Other<'p, 'a> {
    version: Version,
    packet: &'p Packet<'a>,
}

impl Body for Other<'_, '_> {
    fn first_byte(&self) -> u8 {
        self.packet.kind().first_byte()
    }

    fn check(&self) -> Result<(), EncodeError> {
        let version = self.version;
        let place = |properties, place| belong(properties, place, version);
        match self.packet {
            Packet::Connect(connect) => check_connect(connect),
            Packet::ConnAck(c) if !version.is_v5() && c.reason.connect_return_code().is_none() => {
                Err(EncodeError::Version)
            }
            Packet::ConnAck(c) => place(&c.properties, Place::ConnAck),
            Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => {
                place(&a.properties, Place::Ack)
            }
            Packet::Subscribe(s) if s.subscriptions.iter().next().is_none() => Err(EncodeError::NoEntries),
            Packet::Subscribe(s) => place(&s.properties, Place::Subscribe),
            Packet::SubAck(s) if s.codes.is_empty() => Err(EncodeError::NoEntries),
            Packet::SubAck(s) => place(&s.properties, Place::Ack),
            Packet::Unsubscribe(u) if u.filters.iter().next().is_none() => Err(EncodeError::NoEntries),
            Packet::Unsubscribe(u) => place(&u.properties, Place::Unsubscribe),
            Packet::UnsubAck(u) if version.is_v5() && u.codes.is_empty() => Err(EncodeError::NoEntries),
            Packet::UnsubAck(u) => place(&u.properties, Place::Ack),
            Packet::Disconnect(d) => place(&d.properties, Place::Disconnect),
            Packet::Auth(_) if !version.is_v5() => Err(EncodeError::Version),
            Packet::Auth(a) => place(&a.properties, Place::Auth),
            Packet::PingReq | Packet::PingResp | Packet::Publish(_) => Ok(()),
        }
    }

    fn write(&self, sink: &mut impl Sink) {
        let version = self.version;
        match self.packet {
            Packet::Connect(connect) => write_connect(connect, sink),
            Packet::ConnAck(c) => {
                // MQTT 3.1 has no such flag: the bit is reserved there.
                sink.u8(u8::from(c.session_present && version != Version::V3_1));
                sink.u8(if version.is_v5() {
                    c.reason.0
                } else {
                    c.reason.connect_return_code().unwrap_or(3)
                });
                write_properties(&c.properties, version, sink);
            }
            Packet::PubAck(a) | Packet::PubRec(a) | Packet::PubRel(a) | Packet::PubComp(a) => {
                sink.u16(a.packet_id.get());
                write_reason(a.reason, &a.properties, version, sink);
            }
            Packet::Subscribe(s) => {
                sink.u16(s.packet_id.get());
                write_properties(&s.properties, version, sink);
                s.subscriptions.write(version, sink);
            }
            Packet::SubAck(s) => {
                sink.u16(s.packet_id.get());
                write_properties(&s.properties, version, sink);
                if version.is_v5() {
                    sink.put(s.codes);
                } else {
                    s.codes.iter().for_each(|&code| sink.u8(code.min(ReasonCode::UNSPECIFIED_ERROR.0)));
                }
            }
            Packet::Unsubscribe(u) => {
                sink.u16(u.packet_id.get());
                write_properties(&u.properties, version, sink);
                u.filters.write(version, sink);
            }
            Packet::UnsubAck(u) => {
                sink.u16(u.packet_id.get());
                if version.is_v5() {
                    u.properties.write(sink);
                    sink.put(u.codes);
                }
            }
            Packet::Disconnect(d) => write_reason(d.reason, &d.properties, version, sink),
            Packet::Auth(a) => write_reason(a.reason, &a.properties, version, sink),
            Packet::PingReq | Packet::PingResp | Packet::Publish(_) => {}
        }
    }
}

/// Reason code and properties, left out from the back as far as they say nothing (3.4.2.1, 3.14.2.1, 3.15.2.1).
fn write_reason(reason: ReasonCode, properties: &Properties<'_>, version: Version, sink: &mut impl Sink) {
    if !version.is_v5() || (reason == ReasonCode::SUCCESS && properties.is_empty()) {
        return;
    }
    sink.u8(reason.0);
    if !properties.is_empty() {
        properties.write(sink);
    }
}

fn check_connect(connect: &Connect<'_>) -> Result<(), EncodeError> {
    let old = !connect.version.is_v5();
    let nameless = connect.client_id.is_empty() && (connect.version == Version::V3_1 || !connect.clean_start);
    if old && (nameless || (connect.password.is_some() && connect.username.is_none())) {
        return Err(EncodeError::Version);
    }
    belong(&connect.properties, Place::Connect, connect.version)?;
    connect.will.as_ref().map_or(Ok(()), |will| belong(&will.properties, Place::Will, connect.version))
}

fn write_connect(connect: &Connect<'_>, sink: &mut impl Sink) {
    let version = connect.version;
    sink.binary(if version == Version::V3_1 { b"MQIsdp" } else { b"MQTT" });
    sink.u8(version as u8);
    let will_flags =
        connect.will.as_ref().map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    sink.u8(u8::from(connect.clean_start) << 1
        | will_flags
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7);
    sink.u16(connect.keep_alive);
    write_properties(&connect.properties, version, sink);
    sink.binary(connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        write_properties(&will.properties, version, sink);
        sink.binary(will.topic.as_bytes());
        sink.binary(will.payload);
    }
    if let Some(username) = connect.username {
        sink.binary(username.as_bytes());
    }
    if let Some(password) = connect.password {
        sink.binary(password);
    }
}
