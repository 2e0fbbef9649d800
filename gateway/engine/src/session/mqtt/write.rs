//! Packets into an outbox. Knows the peer's version and limits, and nothing of sessions.

use super::aliases::{Alias, Aliases};
use super::outbox::{Outbox, SHARED_FROM_BYTES};
use super::stencil::Stencil;
use crate::message::{Message, Qos};
use std::num::NonZeroU32;
use std::sync::Arc;
use tidegate_wire::mqtt::{
    self, Ack, Disconnect, Kind, Packet, Properties, Property, Publish, ReasonCode, Version,
};

/// The packet is larger than the peer takes, or cannot be said in its version; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsayable;

/// Writes a packet of at most `most` bytes.
pub(super) fn packet(
    out: &mut Outbox,
    version: Version,
    packet: &Packet<'_>,
    most: usize,
) -> Result<(), Unsayable> {
    let length = mqtt::encoded_len(version, packet).map_err(|_| Unsayable)?;
    if length > most {
        return Err(Unsayable);
    }
    let tail = out.tail();
    let before = tail.len();
    tail.resize(before + length, 0);
    match tail.get_mut(before..).map(|room| mqtt::encode(version, packet, room)) {
        Some(Ok(_)) => {
            out.count_packet();
            Ok(())
        }
        _ => {
            tail.truncate(before);
            Err(Unsayable)
        }
    }
}

/// Writes a packet that may say why: with these properties if the peer's Maximum Packet Size has room, else without; not
/// at all when even that is too large (MQTT 5.0, 3.4.2.2.2 and its like).
pub(super) fn explained<'a>(
    out: &mut Outbox,
    version: Version,
    list: &'a [Property<'a>],
    most: usize,
    with: impl Fn(Properties<'a>) -> Packet<'a>,
) {
    let told = version.is_v5() && !list.is_empty();
    if told && packet(out, version, &with(Properties::new(list)), most).is_ok() {
        return;
    }
    let _ = packet(out, version, &with(Properties::EMPTY), most);
}

/// What a refusal means here, for a Reason String.
pub(super) fn why(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::TOPIC_NAME_INVALID => {
            "topic names are not taken that begin with $, have control characters, or are longer or deeper than the limit"
        }
        ReasonCode::TOPIC_FILTER_INVALID => {
            "topic filters are not taken that have control characters, or are longer or deeper than the limit"
        }
        ReasonCode::QUOTA_EXCEEDED => "more than a limit of this gateway allows",
        ReasonCode::NOT_AUTHORIZED => "this device may not do so with this topic",
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND => "nothing is under way with this packet identifier",
        other => other.name(),
    }
}

/// Writes PUBACK, PUBREC, PUBREL or PUBCOMP. `packet_id` is never zero.
pub(super) fn ack(out: &mut Outbox, version: Version, kind: Kind, packet_id: u16, reason: ReasonCode) {
    ack_explained(out, version, kind, packet_id, reason, None);
}

/// The same, with words for a refusal if the client wants them and takes packets of so many bytes.
pub(super) fn ack_explained(
    out: &mut Outbox,
    version: Version,
    kind: Kind,
    packet_id: u16,
    reason: ReasonCode,
    within: Option<usize>,
) {
    let Some(packet_id) = mqtt::PacketId::new(packet_id) else { return };
    if reason == ReasonCode::SUCCESS || !version.is_v5() {
        out.tail().extend_from_slice(&mqtt::short_ack(kind, packet_id));
        out.count_packet();
        return;
    }
    let whole = |properties| {
        let ack = Ack { packet_id, reason, properties };
        match kind {
            Kind::PubAck => Packet::PubAck(ack),
            Kind::PubRec => Packet::PubRec(ack),
            Kind::PubRel => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        }
    };
    // Without words it has six bytes at the most: a client that took its CONNACK takes that.
    let why = [Property::ReasonString(why(reason))];
    let list = if within.is_some() { why.as_slice() } else { &[] };
    explained(out, version, list, within.unwrap_or(usize::MAX), whole);
}

/// Writes DISCONNECT with its reason; versions before 5 have none from a server.
pub(super) fn disconnect(out: &mut Outbox, version: Version, reason: ReasonCode, words: &str, most: usize) {
    if !version.is_v5() {
        return;
    }
    // A broken second CONNECT has reasons that DISCONNECT does not know (MQTT 5.0, table 3-10).
    let reason = if reason.belongs_to(Kind::Disconnect) { reason } else { ReasonCode::PROTOCOL_ERROR };
    explained(out, version, &[Property::ReasonString(words)], most, |properties| {
        Packet::Disconnect(Disconnect { reason, properties })
    });
}

/// A message on its way to one client.
pub(super) struct Copy<'a> {
    pub(super) message: &'a Arc<Message>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) packet_id: Option<mqtt::PacketId>,
    pub(super) subscriptions: &'a [NonZeroU32],
    pub(super) seconds_left: Option<u32>,
}

/// Writes a PUBLISH of at most `most` bytes, by an alias where the client takes one, as it was encoded for another receiver where
/// it was; a large payload is shared, not copied.
/// Topics of QoS 2 are said in full: MQTT.js (5.16) keeps such a packet as it came and looks at its topic at PUBREL.
pub(super) fn publish(
    out: &mut Outbox,
    version: Version,
    copy: &Copy<'_>,
    most: usize,
    aliases: &mut Option<Box<Aliases>>,
    stencil: &mut Stencil,
) -> Result<(), Unsayable> {
    let taken = aliases.as_mut().filter(|_| copy.qos != Qos::ExactlyOnce);
    let mut publish_as = |alias| {
        let printed = stencil.print(out, version, alias, copy, most);
        printed.unwrap_or_else(|| encode_publish(out, version, copy, most, alias, stencil))
    };
    let Some(aliases) = taken else { return publish_as(Alias::None) };
    let topic = &copy.message.topic;
    let alias = aliases.of(topic);
    let written = publish_as(alias);
    match (alias, written) {
        (Alias::New(_), Ok(())) => aliases.told(topic),
        // The alias itself may have been too much.
        (Alias::New(_), Err(_)) => return publish_as(Alias::None),
        _ => {}
    }
    written
}

fn encode_publish(
    out: &mut Outbox,
    version: Version,
    copy: &Copy<'_>,
    most: usize,
    alias: Alias,
    stencil: &mut Stencil,
) -> Result<(), Unsayable> {
    let mut list = if version.is_v5() { properties(copy) } else { Vec::new() };
    let message = copy.message;
    let topic = match alias {
        Alias::None => message.topic.as_str(),
        Alias::New(number) => {
            list.push(Property::TopicAlias(number));
            message.topic.as_str()
        }
        Alias::Known(number) => {
            list.push(Property::TopicAlias(number));
            ""
        }
    };
    let publish = Publish {
        dup: copy.dup,
        qos: super::wire_qos(copy.qos),
        retain: copy.retain,
        topic,
        packet_id: copy.packet_id,
        properties: Properties::new(&list),
        payload: &message.payload,
    };
    let length = mqtt::encoded_len(version, &Packet::Publish(publish)).map_err(|_| Unsayable)?;
    if length > most {
        return Err(Unsayable);
    }
    let shared = message.payload.len() >= SHARED_FROM_BYTES;
    let copied = if shared { length - message.payload.len() } else { length };
    let tail = out.tail();
    let before = tail.len();
    tail.resize(before + copied, 0);
    let room = tail.get_mut(before..).unwrap_or_default();
    let encoded = if shared {
        mqtt::encode_publish_header(version, &publish, room)
    } else {
        mqtt::encode(version, &Packet::Publish(publish), room)
    };
    if encoded.is_err() {
        tail.truncate(before);
        return Err(Unsayable);
    }
    stencil.keep(version, alias, copy, room, length);
    if shared {
        out.share(message.payload.clone());
    }
    out.count_packet();
    Ok(())
}

/// What goes with the payload, in the order of the specification's table; user properties in their own order [MQTT-3.3.2-18].
fn properties<'a>(copy: &Copy<'a>) -> Vec<Property<'a>> {
    let mut list = Vec::new();
    if let Some(properties) = copy.message.properties.as_deref() {
        if properties.utf8_payload {
            list.push(Property::PayloadFormat(true));
        }
        if let Some(seconds) = copy.seconds_left {
            list.push(Property::MessageExpiry(seconds));
        }
        list.extend(properties.content_type.as_deref().map(Property::ContentType));
        list.extend(properties.response_topic.as_deref().map(Property::ResponseTopic));
        list.extend(properties.correlation_data.as_deref().map(Property::CorrelationData));
        list.extend(properties.user.iter().map(|(name, value)| Property::User(name, value)));
    }
    list.extend(copy.subscriptions.iter().map(|id| Property::SubscriptionId(id.get())));
    list
}
