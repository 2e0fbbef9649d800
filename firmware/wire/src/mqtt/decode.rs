//! From bytes to packets. Strict: what the specification forbids within one packet is refused here.

use super::error::Error;
use super::frame::{check_flags, frame};
use super::kind::{Kind, PacketId, Qos, Version};
use super::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe, Will,
};
use super::property::{Place, Properties};
use super::read::Reader;
use super::reason::ReasonCode;
use super::subscription::{Filters, Subscriptions};
use super::text;

/// Decodes one whole packet. `version` is what the CONNECT of this connection said; a CONNECT itself says its own.
///
/// # Errors
/// Why the bytes are not exactly one legal packet of this version.
#[inline]
pub fn decode(version: Version, packet: &[u8]) -> Result<Packet<'_>, Error> {
    let frame = frame(packet)?.ok_or(Error::Incomplete)?;
    let body = packet.get(frame.header_bytes..).ok_or(Error::Incomplete)?;
    if body.len() < frame.remaining_bytes {
        return Err(Error::Incomplete);
    }
    if body.len() > frame.remaining_bytes {
        return Err(Error::Trailing);
    }
    decode_body(version, frame.first, body)
}

/// Decodes a packet from its first byte and what stands behind its remaining length.
///
/// # Errors
/// Why the bytes are not exactly one legal packet of this version.
#[inline]
pub fn decode_body(version: Version, first: u8, body: &[u8]) -> Result<Packet<'_>, Error> {
    let kind = Kind::from_first_byte(first).ok_or(Error::PacketType)?;
    check_flags(kind, first, version == Version::V3_1)?;
    let reader = Reader::new(body);
    // What there is most of goes a way of its own, short enough to be inlined.
    match (kind, body) {
        (Kind::Publish, _) => publish(version, first, reader).map(Packet::Publish),
        (Kind::PubAck, [high, low]) => {
            let packet_id = PacketId::new(u16::from_be_bytes([*high, *low])).ok_or(Error::PacketIdZero)?;
            Ok(Packet::PubAck(Ack::success(packet_id)))
        }
        _ => other(version, kind, reader),
    }
}

fn other(version: Version, kind: Kind, mut reader: Reader<'_>) -> Result<Packet<'_>, Error> {
    Ok(match kind {
        Kind::Publish => return Err(Error::PacketType),
        Kind::Connect => Packet::Connect(connect(reader)?),
        Kind::ConnAck => Packet::ConnAck(connack(version, reader)?),
        Kind::PubAck => Packet::PubAck(ack(version, kind, reader)?),
        Kind::PubRec => Packet::PubRec(ack(version, kind, reader)?),
        Kind::PubRel => Packet::PubRel(ack(version, kind, reader)?),
        Kind::PubComp => Packet::PubComp(ack(version, kind, reader)?),
        Kind::Subscribe => Packet::Subscribe(Subscribe {
            packet_id: reader.packet_id()?,
            properties: properties(version, &mut reader, Place::Subscribe)?,
            subscriptions: Subscriptions::read(reader, version)?,
        }),
        Kind::SubAck => Packet::SubAck(SubAck {
            packet_id: reader.packet_id()?,
            properties: properties(version, &mut reader, Place::Ack)?,
            codes: codes(version, kind, reader)?,
        }),
        Kind::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
            packet_id: reader.packet_id()?,
            properties: properties(version, &mut reader, Place::Unsubscribe)?,
            filters: Filters::read(reader, version)?,
        }),
        Kind::UnsubAck => Packet::UnsubAck(UnsubAck {
            packet_id: reader.packet_id()?,
            properties: properties(version, &mut reader, Place::Ack)?,
            codes: codes(version, kind, reader)?,
        }),
        Kind::PingReq => {
            reader.end()?;
            Packet::PingReq
        }
        Kind::PingResp => {
            reader.end()?;
            Packet::PingResp
        }
        Kind::Disconnect => {
            let (reason, properties) = reason_and_properties(version, kind, Place::Disconnect, &mut reader)?;
            Packet::Disconnect(Disconnect { reason, properties })
        }
        Kind::Auth if version.is_v5() => {
            let (reason, properties) = reason_and_properties(version, kind, Place::Auth, &mut reader)?;
            Packet::Auth(Auth { reason, properties })
        }
        Kind::Auth => return Err(Error::PacketType),
    })
}

/// The version that a CONNECT asks for, as far as it can be known, even if the rest is malformed: tells in which
/// version to refuse it. `None` when the packet is no CONNECT or names no version that exists.
#[must_use]
pub fn connect_version(packet: &[u8]) -> Option<Version> {
    let frame = frame(packet).ok()??;
    if frame.kind != Kind::Connect {
        return None;
    }
    protocol(&mut Reader::new(packet.get(frame.header_bytes..)?)).ok()
}

fn protocol(reader: &mut Reader<'_>) -> Result<Version, Error> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(Error::ProtocolName);
    }
    match (name, reader.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V3_1),
        (b"MQTT", 4) => Ok(Version::V3_1_1),
        (b"MQTT", 5) => Ok(Version::V5),
        (_, level) => Err(Error::ProtocolLevel(level)),
    }
}

#[inline]
fn properties<'a>(version: Version, reader: &mut Reader<'a>, place: Place) -> Result<Properties<'a>, Error> {
    if version.is_v5() { Properties::read(reader, place) } else { Ok(Properties::EMPTY) }
}

fn connect(mut reader: Reader<'_>) -> Result<Connect<'_>, Error> {
    let version = protocol(&mut reader)?;
    let flags = reader.u8()?;
    let (has_username, has_password, has_will) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x04 != 0);
    let will_qos = Qos::from_u8(flags >> 3 & 0x03).ok_or(Error::ConnectFlags)?;
    let will_retain = flags & 0x20 != 0;
    // Bit 0 is reserved [MQTT-3.1.2-3]; QoS and RETAIN of no will are 0 [MQTT-3.1.2-11, -13]; a password without a
    // user name came with MQTT 5 (3.1.1: [MQTT-3.1.2-22]).
    if flags & 0x01 != 0
        || (!has_will && flags & 0x38 != 0)
        || (!version.is_v5() && has_password && !has_username)
    {
        return Err(Error::ConnectFlags);
    }
    let clean_start = flags & 0x02 != 0;
    let keep_alive = reader.u16()?;
    let own_properties = properties(version, &mut reader, Place::Connect)?;
    let client_id = reader.text()?;
    if client_id.is_empty() && (version == Version::V3_1 || (version == Version::V3_1_1 && !clean_start)) {
        return Err(Error::ClientId);
    }
    let will = if has_will {
        let properties = properties(version, &mut reader, Place::Will)?;
        let topic = text::topic_name(reader.binary()?)?;
        if topic.is_empty() {
            return Err(Error::TopicName);
        }
        Some(Will { topic, payload: reader.binary()?, qos: will_qos, retain: will_retain, properties })
    } else {
        None
    };
    let username = if has_username { Some(reader.text()?) } else { None };
    let password = if has_password { Some(reader.binary()?) } else { None };
    reader.end()?;
    Ok(Connect {
        version,
        clean_start,
        keep_alive,
        properties: own_properties,
        client_id,
        will,
        username,
        password,
    })
}

fn connack(version: Version, mut reader: Reader<'_>) -> Result<ConnAck<'_>, Error> {
    let flags = reader.u8()?;
    if flags & 0xFE != 0 {
        return Err(Error::ReservedBits);
    }
    let code = reader.u8()?;
    // MQTT 3.1 has no such flag: the bit is reserved there.
    let session_present = flags != 0 && version != Version::V3_1;
    // A server that does not know MQTT 5 says so in the form of 3.1.1: the client must be able to understand it.
    let old = !version.is_v5() || (code == 1 && reader.is_empty());
    let reason = if old { ReasonCode::from_connect_return_code(code) } else { Some(ReasonCode(code)) }
        .filter(|reason| reason.belongs_to(Kind::ConnAck))
        .ok_or(Error::ReasonCode(code))?;
    let properties = if old { Properties::EMPTY } else { Properties::read(&mut reader, Place::ConnAck)? };
    reader.end()?;
    if session_present && reason.is_failure() {
        return Err(Error::SessionPresent);
    }
    Ok(ConnAck { session_present, reason, properties })
}

#[inline]
fn publish(version: Version, first: u8, mut reader: Reader<'_>) -> Result<Publish<'_>, Error> {
    let qos = Qos::from_u8(first >> 1 & 0x03).ok_or(Error::Qos)?;
    let topic = text::topic_name(reader.binary()?)?;
    let packet_id = if qos == Qos::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let properties = properties(version, &mut reader, Place::Publish)?;
    if topic.is_empty() && !properties.contains(0x23) {
        return Err(if version.is_v5() { Error::TopicMissing } else { Error::TopicName });
    }
    Ok(Publish {
        dup: first & 0x08 != 0,
        qos,
        retain: first & 0x01 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

fn ack(version: Version, kind: Kind, mut reader: Reader<'_>) -> Result<Ack<'_>, Error> {
    let packet_id = reader.packet_id()?;
    let (reason, properties) = reason_and_properties(version, kind, Place::Ack, &mut reader)?;
    Ok(Ack { packet_id, reason, properties })
}

/// The end of PUBACK and its like, DISCONNECT and AUTH: both may be left out from the back (3.4.2.1).
fn reason_and_properties<'a>(
    version: Version,
    kind: Kind,
    place: Place,
    reader: &mut Reader<'a>,
) -> Result<(ReasonCode, Properties<'a>), Error> {
    if !version.is_v5() || reader.is_empty() {
        reader.end()?;
        return Ok((ReasonCode::SUCCESS, Properties::EMPTY));
    }
    let reason = ReasonCode(reader.u8()?);
    if !reason.belongs_to(kind) {
        return Err(Error::ReasonCode(reason.0));
    }
    let properties = match (reader.len(), place) {
        // AUTH may leave out its properties only together with its reason code (3.15.2.1).
        (0, Place::Auth) => return Err(Error::AuthMethodMissing),
        (0, _) => Properties::EMPTY,
        (_, Place::Auth) => {
            let properties = Properties::read(reader, place)?;
            if !properties.contains(0x15) {
                return Err(Error::AuthMethodMissing);
            }
            properties
        }
        _ => Properties::read(reader, place)?,
    };
    reader.end()?;
    Ok((reason, properties))
}

/// The reason codes of SUBACK and UNSUBACK.
fn codes<'a>(version: Version, kind: Kind, reader: Reader<'a>) -> Result<&'a [u8], Error> {
    let codes = reader.rest();
    if !version.is_v5() && kind == Kind::UnsubAck {
        reader.end()?;
        return Ok(codes);
    }
    if codes.is_empty() {
        return Err(Error::NoEntries);
    }
    let wrong = |&&code: &&u8| {
        if version.is_v5() { !ReasonCode(code).belongs_to(kind) } else { !matches!(code, 0..=2 | 0x80) }
    };
    match codes.iter().find(wrong) {
        Some(&code) => Err(Error::ReasonCode(code)),
        None => Ok(codes),
    }
}
