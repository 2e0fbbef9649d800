//! Messages to subscribers: who gets one, what waits for whom, and what the client's acknowledgements free.
//! A slow or absent subscriber costs its own messages, nobody else's.

use super::outbound::{Acked, Next, Parcel};
use super::packets::Exchange;
use super::subscriptions::{Granted, Match};
use super::{Mqtt, write};
use crate::message::{Message, Qos};
use crate::time::Instant;
use std::num::NonZeroU32;
use std::sync::Arc;
use tidegate_wire::mqtt::{self, Kind, ReasonCode};

/// How one session gets a message: what its matching subscriptions come to together.
struct Share {
    qos: Qos,
    retain: bool,
    ids: Vec<NonZeroU32>,
}

impl Mqtt {
    /// Hands a message to every session with a subscription for it, once each. Says how many took it.
    pub(super) fn fan_out(&mut self, now: Instant, message: &Arc<Message>) -> usize {
        let mut found = std::mem::take(&mut self.matches);
        found.clear();
        self.tree.matches(&message.topic, &mut found);
        found.sort_unstable_by_key(|(key, granted)| (*key, granted.id));
        let mut taken = 0;
        for matches in found.chunk_by(|(a, _), (b, _)| a == b) {
            taken += usize::from(self.hand(now, message, matches));
        }
        self.matches = found;
        taken
    }

    /// Hands a message to one session.
    fn hand(&mut self, now: Instant, message: &Arc<Message>, matches: &[Match]) -> bool {
        let Some(session) = matches.first().and_then(|(key, _)| self.sessions.get_mut(*key)) else {
            return false;
        };
        let own = message.device == session.client;
        let wanted = matches.iter().map(|(_, granted)| granted).filter(|granted| !(own && granted.no_local));
        let Some(share) = share(message, wanted) else { return false };
        let limits = &self.shared.limits;
        let connection = session.connection;
        if share.qos == Qos::AtMostOnce {
            return match connection.and_then(|id| self.exchange_of(now, id)) {
                Some(mut exchange) => exchange.send_now(message, &share),
                // Nothing is promised, and nobody is there.
                None => false,
            };
        }
        let backlog = connection
            .and_then(|id| self.connections.get(&id))
            .map_or(0, |connection| connection.outbox.backlog());
        let bytes = session.outbound.bytes() + backlog + message.footprint();
        if session.outbound.len() >= limits.outgoing_messages || bytes > limits.outgoing_bytes {
            self.shared.dropped += 1;
            return false;
        }
        let Share { qos, retain, ids } = share;
        session.outbound.push(Parcel {
            message: Arc::clone(message),
            qos,
            retain,
            subscriptions: ids,
            since: now,
        });
        if let Some(mut exchange) = connection.and_then(|id| self.exchange_of(now, id)) {
            exchange.pump();
        }
        true
    }
}

/// The highest QoS of the matching subscriptions [MQTT-3.3.4-2], and all their identifiers [MQTT-3.3.4-4].
fn share<'a>(message: &Message, wanted: impl Iterator<Item = &'a Granted>) -> Option<Share> {
    let mut share: Option<Share> = None;
    for granted in wanted {
        let share =
            share.get_or_insert_with(|| Share { qos: Qos::AtMostOnce, retain: false, ids: Vec::new() });
        share.qos = share.qos.max(granted.qos.min(message.qos));
        share.retain |= granted.retain_as_published && message.retain;
        share.ids.extend(granted.id);
    }
    share
}

impl Exchange<'_> {
    /// Sends a QoS 0 message, unless the client is too slow for it.
    fn send_now(&mut self, message: &Arc<Message>, share: &Share) -> bool {
        let waiting = self.session.outbound.bytes() + self.connection.outbox.backlog();
        let fits = waiting + message.footprint() <= self.shared.limits.outgoing_bytes;
        let copy = write::Copy {
            message,
            qos: Qos::AtMostOnce,
            retain: share.retain,
            dup: false,
            packet_id: None,
            subscriptions: &share.ids,
            seconds_left: message.properties.as_ref().and_then(|properties| properties.expiry_seconds),
        };
        let (version, most) = (self.version(), self.packet_bytes());
        if fits && write::publish(&mut self.connection.outbox, version, &copy, most).is_ok() {
            self.shared.delivered += 1;
            self.shared.stir(self.id, self.connection);
            return true;
        }
        self.shared.dropped += 1;
        false
    }

    /// Sends what waits, as far as the client's Receive Maximum and its buffer allow.
    pub(super) fn pump(&mut self) {
        let (version, most) = (self.version(), self.packet_bytes());
        loop {
            // One message may go beyond the bound: a larger one could otherwise never be sent.
            if self.connection.outbox.backlog() >= self.shared.limits.outgoing_bytes {
                break;
            }
            let outbox = &mut self.connection.outbox;
            let sent = match self.session.outbound.next() {
                None => break,
                Some(Next::Release { packet_id }) => {
                    write::ack(outbox, version, Kind::PubRel, packet_id, ReasonCode::SUCCESS);
                    true
                }
                Some(Next::Publish { packet_id, dup, parcel }) => {
                    let copy = write::Copy {
                        message: &parcel.message,
                        qos: parcel.qos,
                        retain: parcel.retain,
                        dup,
                        packet_id: mqtt::PacketId::new(packet_id),
                        subscriptions: &parcel.subscriptions,
                        seconds_left: parcel.seconds_left(self.now),
                    };
                    // What may already have been sent is not given up because it expired meanwhile [MQTT-3.3.2-5].
                    let expired = !dup && parcel.has_expired(self.now);
                    let sent = !expired && write::publish(outbox, version, &copy, most).is_ok();
                    self.shared.delivered += u64::from(sent && !dup);
                    self.shared.dropped += u64::from(!sent);
                    sent
                }
            };
            if sent {
                self.session.outbound.sent();
            } else {
                self.session.outbound.discard();
            }
        }
        self.shared.stir(self.id, self.connection);
    }

    pub(super) fn puback(&mut self, ack: &mqtt::Ack<'_>) {
        // A refusal frees the message as well [MQTT-4.4.0-2]; an unknown id is of no consequence.
        self.session.outbound.finished(ack.packet_id.get(), Qos::AtLeastOnce);
        self.pump();
    }

    pub(super) fn pubrec(&mut self, ack: &mqtt::Ack<'_>) {
        let packet_id = ack.packet_id.get();
        if ack.reason.is_failure() {
            self.session.outbound.finished(packet_id, Qos::ExactlyOnce);
            self.pump();
            return;
        }
        let reason = match self.session.outbound.received(packet_id) {
            Acked::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            _ => ReasonCode::SUCCESS,
        };
        write::ack(&mut self.connection.outbox, self.connection.version, Kind::PubRel, packet_id, reason);
        self.shared.stir(self.id, self.connection);
    }

    pub(super) fn pubcomp(&mut self, ack: &mqtt::Ack<'_>) {
        self.session.outbound.completed(ack.packet_id.get());
        self.pump();
    }
}
