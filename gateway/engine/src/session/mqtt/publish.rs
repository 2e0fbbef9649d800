//! Messages from a client: what is permitted and well-formed becomes a request to make it safe; acknowledgements leave
//! when that is answered, in the order of reception. Never decides that anything is safe.

use super::ending::Ending;
use super::inbound::{Ack, Begun, Release};
use super::outbox::SHARED_FROM_BYTES;
use super::packets::Exchange;
use super::{Receipt, Shared, Waiting, record, write};
use crate::event::{Action, Op};
use crate::message::{Properties, Source};
use crate::mutant::Mutant;
use crate::session::{self, Hold, Incoming, Request};
use crate::topic::Topic;
use bytes::Bytes;
use std::hash::{DefaultHasher, Hasher};
use tidegate_wire::mqtt::{self, Kind, Property, Publish, ReasonCode};

/// QoS 2 packet ids of one session between PUBLISH and PUBREL: clients that know no Receive Maximum may send all they
/// have at once, and to others it counts anew on every connection. Beyond it the client is disconnected.
const UNRELEASED_MAX: usize = 4_096;

impl Exchange<'_> {
    pub(super) fn publish(&mut self, publish: &Publish<'_>, chunk: &Bytes) -> Result<(), Ending> {
        self.shared.received += 1;
        self.shared.payload_received += publish.payload.len() as u64;
        if let Some(link) = self.connection.link_mut() {
            link.publisher = true;
        }
        let packet_id = publish.packet_id.map_or(0, mqtt::PacketId::get);
        self.check_flow(publish.qos, packet_id)?;
        if self.version().is_v5() && publish.retain && self.shared.limits.retained_messages == 0 {
            return Err(Ending::fault(
                ReasonCode::RETAIN_NOT_SUPPORTED,
                "retained messages are not supported",
            ));
        }
        if publish.properties.contains(SUBSCRIPTION_ID) {
            return Err(Ending::unreadable(mqtt::Error::WrongSender));
        }
        let topic = match self.topic(publish)? {
            Ok(topic) => topic,
            Err(reason) => return self.refuse(publish.qos, packet_id, reason),
        };
        if !self.session.may_publish(&topic) {
            self.shared.publishes_denied += 1;
            self.shared.denied(&self.session.device, Action::Publish, topic.as_str());
            // QoS 0 has no answer, and a connection is not closed for what could have been lost on the way.
            return match publish.qos {
                mqtt::Qos::AtMostOnce => Ok(()),
                qos => self.refuse(qos, packet_id, ReasonCode::NOT_AUTHORIZED),
            };
        }
        let properties = match properties(&publish.properties, self.shared.limits.user_properties) {
            Ok(properties) => properties,
            Err(reason) => return self.refuse(publish.qos, packet_id, reason),
        };
        if publish.qos == mqtt::Qos::AtMostOnce && self.shared.hold != Hold::Nobody {
            self.shared.dropped += 1;
            return Ok(());
        }
        let recorded = self.session.is_persistent() && !self.shared.planted.is(Mutant::Qos2Forgotten);
        let (begun, recorded) = match publish.qos {
            mqtt::Qos::AtMostOnce => (None, false),
            mqtt::Qos::AtLeastOnce => {
                let content = content(&topic, publish.payload);
                (Some(self.session.inbound.begin_at_least_once(packet_id, publish.dup, content)), false)
            }
            mqtt::Qos::ExactlyOnce => {
                (Some(self.session.inbound.begin_exactly_once(packet_id, recorded)), recorded)
            }
        };
        let receipt = match begun {
            None => None,
            Some(Begun::New(serial)) => {
                Some(session::Receipt::Mqtt(Receipt { session: self.key, waiting: Waiting::Message(serial) }))
            }
            Some(Begun::Repeated) => {
                self.shared.repeated += 1;
                self.acknowledge();
                return Ok(());
            }
        };
        if recorded && !self.session.recorded {
            self.shared.record(self.session);
        }
        let incoming = Incoming {
            device: self.session.device.clone(),
            client: Some(self.session.client.clone()),
            topic,
            payload: keep(publish.payload, chunk),
            qos: super::engine_qos(publish.qos),
            retain: publish.retain,
            duplicate: publish.dup,
            source: Source::Mqtt,
            properties,
            record: recorded.then(|| Op::Put {
                key: record::packet_key(&self.session.client, packet_id),
                value: record::packet_value(),
            }),
        };
        self.shared.requests.push_back(Request::Publish { incoming, receipt });
        Ok(())
    }

    /// Receive Maximum [MQTT-3.3.4-9], and its like for versions that do not know it.
    fn check_flow(&self, qos: mqtt::Qos, packet_id: u16) -> Result<(), Ending> {
        let inbound = &self.session.inbound;
        if qos == mqtt::Qos::AtMostOnce || inbound.counts(packet_id) && qos == mqtt::Qos::ExactlyOnce {
            return Ok(());
        }
        if self.version().is_v5() && inbound.in_use() >= usize::from(self.shared.limits.receive_maximum) {
            let words = "more messages without an acknowledgement than Receive Maximum allows";
            return Err(Ending::fault(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, words));
        }
        if qos == mqtt::Qos::ExactlyOnce
            && inbound.unreleased() >= UNRELEASED_MAX
            && !inbound.knows(packet_id)
        {
            return Err(Ending::fault(ReasonCode::QUOTA_EXCEEDED, "too many QoS 2 messages without PUBREL"));
        }
        Ok(())
    }

    /// The message's topic, by its name or alias; or why it is refused for good.
    fn topic(&mut self, publish: &Publish<'_>) -> Result<Result<Topic, ReasonCode>, Ending> {
        let alias = publish.properties.topic_alias();
        if alias.is_none() {
            return Ok(self.named(publish.topic));
        }
        let alias = alias.unwrap_or_default();
        if alias == 0 || alias > self.shared.limits.topic_alias_maximum {
            let words = "a topic alias is larger than Topic Alias Maximum";
            return Err(Ending::fault(ReasonCode::TOPIC_ALIAS_INVALID, words));
        }
        let place = usize::from(alias - 1);
        if publish.topic.is_empty() {
            return match self.connection.named.aliases.get(place) {
                Some(Some(topic)) => Ok(Ok(topic.clone())),
                _ => {
                    Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, "a topic alias was used before it was set"))
                }
            };
        }
        let named = self.named(publish.topic);
        let aliases = &mut self.connection.named.aliases;
        if aliases.len() <= place {
            aliases.resize(place + 1, None);
        }
        if let Some(slot) = aliases.get_mut(place) {
            *slot = named.as_ref().ok().cloned();
        }
        Ok(named)
    }

    fn named(&mut self, name: &str) -> Result<Topic, ReasonCode> {
        if let Some(topic) = self.connection.named.last.as_ref().filter(|topic| topic.as_str() == name) {
            return Ok(topic.clone());
        }
        let topic = self.shared.publishable(name)?;
        self.connection.named.last = Some(topic.clone());
        Ok(topic)
    }

    /// Refuses a message for good: with a reason where the version has one, which forbids to send it again
    /// [MQTT-4.4.0-2]; by closing where it has none.
    fn refuse(&mut self, qos: mqtt::Qos, packet_id: u16, reason: ReasonCode) -> Result<(), Ending> {
        if !self.version().is_v5() {
            return Err(Ending::fault(
                reason,
                "a message was refused, and this version has no other way to say so",
            ));
        }
        self.shared.refused += 1;
        self.shared.refusals.count(reason);
        if qos != mqtt::Qos::AtMostOnce {
            let exactly_once = qos == mqtt::Qos::ExactlyOnce;
            self.session.inbound.refuse(Ack { packet_id, exactly_once, reason: reason.0 });
            self.acknowledge();
        }
        Ok(())
    }

    /// Sends the acknowledgements that may leave.
    pub(super) fn acknowledge(&mut self) {
        let version = self.connection.version;
        let within = self.connection.explains_within();
        let outbox = &mut self.connection.outbox;
        let mut count = 0;
        self.session.inbound.acknowledge(self.shared.planted, |ack| {
            let kind = if ack.exactly_once { Kind::PubRec } else { Kind::PubAck };
            write::ack_explained(outbox, version, kind, ack.packet_id, ReasonCode(ack.reason), within);
            count += u64::from(ack.reason < 0x80);
        });
        self.shared.acknowledged += count;
        self.shared.stir(self.id, self.connection);
    }

    /// PUBREL: the packet id is free again, and its record with it, before PUBCOMP says so. Otherwise a crash would
    /// make the next message of this id look like a repetition.
    pub(super) fn pubrel(&mut self, packet_id: u16) -> Result<(), Ending> {
        let reason = match self.session.inbound.release(packet_id, self.shared.planted) {
            Release::Now => ReasonCode::SUCCESS,
            Release::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Release::Waiting => return Ok(()),
            Release::TooEarly => {
                return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, "it sent PUBREL before it had PUBREC"));
            }
            Release::Record => {
                let receipt = Receipt { session: self.key, waiting: Waiting::Release(packet_id) };
                self.shared.requests.push_back(Request::Record {
                    op: Op::Remove { key: record::packet_key(&self.session.client, packet_id) },
                    receipt: Some(session::Receipt::Mqtt(receipt)),
                });
                return Ok(());
            }
        };
        self.shared.refusals.count(reason);
        let (version, within) = (self.version(), self.connection.explains_within());
        write::ack_explained(&mut self.connection.outbox, version, Kind::PubComp, packet_id, reason, within);
        self.shared.stir(self.id, self.connection);
        Ok(())
    }
}

const SUBSCRIPTION_ID: u8 = 0x0B;
const TOPIC_ALIAS: u8 = 0x23;

impl Shared {
    /// Parses a topic that a client wants to publish to; `$…` is the server's (MQTT 5.0, 4.7.2).
    pub(super) fn publishable(&self, name: &str) -> Result<Topic, ReasonCode> {
        let levels = 1 + name.bytes().filter(|byte| *byte == b'/').count();
        if name.starts_with('$') || name.len() > self.limits.topic_bytes || levels > self.limits.topic_levels
        {
            return Err(ReasonCode::TOPIC_NAME_INVALID);
        }
        Topic::new(name).map_err(|_| ReasonCode::TOPIC_NAME_INVALID)
    }
}

/// What tells a QoS 1 message from another one of the same packet id.
fn content(topic: &Topic, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(topic.as_str().as_bytes());
    hasher.write_u8(0); // never in a topic
    hasher.write(payload);
    hasher.finish()
}

/// Keeps a payload: shares one that is most of the chunk it came in, copies a smaller one, which would hold the
/// whole chunk in memory.
fn keep(payload: &[u8], chunk: &Bytes) -> Bytes {
    if payload.len() >= SHARED_FROM_BYTES && payload.len() >= chunk.len() / 2 {
        chunk.slice_ref(payload)
    } else {
        Bytes::copy_from_slice(payload)
    }
}

/// What goes with a payload, if anything does; at most `most` user properties.
pub(super) fn properties(
    from: &mqtt::Properties<'_>,
    most: usize,
) -> Result<Option<Box<Properties>>, ReasonCode> {
    if from.is_empty() || from.iter().all(|property| property.id() == TOPIC_ALIAS) {
        return Ok(None);
    }
    let mut to = Box::<Properties>::default();
    for property in from {
        match property {
            Property::PayloadFormat(utf8) => to.utf8_payload = utf8,
            Property::MessageExpiry(seconds) => to.expiry_seconds = Some(seconds),
            Property::ContentType(text) => to.content_type = Some(text.to_owned()),
            Property::ResponseTopic(text) => to.response_topic = Some(text.to_owned()),
            Property::CorrelationData(data) => to.correlation_data = Some(Bytes::copy_from_slice(data)),
            Property::User(..) if to.user.len() >= most => return Err(ReasonCode::QUOTA_EXCEEDED),
            Property::User(name, value) => to.user.push((name.to_owned(), value.to_owned())),
            _ => {}
        }
    }
    Ok(Some(to))
}
