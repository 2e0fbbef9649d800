//! Messages to subscribers: who gets one, what waits for whom, and what the client's acknowledgements free.
//! A slow or absent subscriber costs its own messages, nobody else's.

use super::outbound::{Acked, Next, Outbound, Parcel};
use super::packets::Exchange;
use super::slab::SessionKey;
use super::subscriptions::{Granted, GroupKey, Match};
use super::{Mqtt, Shared, sys, write};
use crate::id::DeviceId;
use crate::message::{Message, Qos};
use crate::time::Instant;
use crate::topic::Filter;
use std::num::NonZeroU32;
use std::sync::Arc;
use tidegate_wire::mqtt::{self, Kind, ReasonCode};

/// How one session gets a message: what its matching subscriptions come to together.
struct Share {
    qos: Qos,
    retain: bool,
    ids: Vec<NonZeroU32>,
    /// The shared subscription that it is for.
    shared: Option<Filter>,
    /// When the message was accepted.
    since: Instant,
}

/// How well a member of a group can take a message now; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    /// It would be sent at once.
    Ready,
    /// It would wait for what is under way.
    Busy,
    /// It would wait for the client to come back.
    Away,
}

impl Mqtt {
    /// Hands a message to every session with a subscription for it, once each, and to one member of each group that
    /// shares one. Says how many took it.
    pub(super) fn fan_out(&mut self, now: Instant, message: &Arc<Message>, from: Option<&DeviceId>) -> usize {
        let mut found = std::mem::take(&mut self.matches);
        found.clear();
        self.tree.matches(&message.topic, &mut found);
        found.sessions.sort_unstable_by_key(|(key, granted)| (*key, granted.id));
        let mut taken = 0;
        for matches in found.sessions.chunk_by(|(a, _), (b, _)| a == b) {
            taken += usize::from(self.hand(now, message, from, matches));
        }
        for group in &found.groups {
            taken += usize::from(self.hand_to_group(now, message, *group, now));
        }
        self.matches = found;
        taken
    }

    /// Hands a message to one session by its subscriptions.
    fn hand(
        &mut self,
        now: Instant,
        message: &Arc<Message>,
        from: Option<&DeviceId>,
        matches: &[Match],
    ) -> bool {
        let Some((key, session)) =
            matches.first().and_then(|(key, _)| Some((*key, self.sessions.get(*key)?)))
        else {
            return false;
        };
        if !session.may_receive(&message.topic) {
            return false;
        }
        let own = from == Some(&session.client);
        let wanted = matches.iter().map(|(_, granted)| granted).filter(|granted| !(own && granted.no_local));
        share(message, wanted, now).is_some_and(|share| self.give(now, key, message, share))
    }

    /// Hands a message to one member of a group: one that is connected and has room first, each in its turn
    /// (MQTT 5.0, 4.8.2).
    fn hand_to_group(&mut self, now: Instant, message: &Arc<Message>, key: GroupKey, since: Instant) -> bool {
        let Some(group) = self.tree.group_mut(key) else { return false };
        let count = group.members.len();
        let mut best: Option<(Readiness, usize)> = None;
        for place in (group.turn..count).chain(0..group.turn.min(count)) {
            let Some((member, granted)) = group.members.get(place) else { continue };
            let Some(session) = self.sessions.get(*member) else { continue };
            // Who may not have it does not take it from the others.
            if !session.may_receive(&message.topic) {
                continue;
            }
            let backlog = session
                .connection
                .and_then(|id| self.connections.get(&id))
                .map(|connection| connection.outbox.backlog());
            let qos = granted.qos.min(message.qos);
            let Some(readiness) = self.shared.readiness(&session.outbound, backlog, qos, message) else {
                continue;
            };
            if best.is_none_or(|(other, _)| readiness < other) {
                best = Some((readiness, place));
            }
            if readiness == Readiness::Ready {
                break;
            }
        }
        let Some((_, place)) = best else {
            self.shared.dropped += u64::from(message.qos > Qos::AtMostOnce);
            return false;
        };
        group.turn = place + 1;
        let Some((member, granted)) = group.members.get(place).copied() else { return false };
        let shared = Some(group.filter.clone());
        let share = share(message, std::iter::once(&granted), since);
        share.is_some_and(|share| self.give(now, member, message, Share { shared, ..share }))
    }

    /// Hands what a session that has ended had by shared subscriptions to other members of their groups.
    pub(super) fn pass_on(&mut self, now: Instant, outbound: &mut Outbound) {
        for parcel in outbound.take_shared() {
            let group = parcel.shared.as_ref().and_then(|filter| self.tree.group_of(filter));
            if let Some(group) = group {
                self.hand_to_group(now, &parcel.message, group, parcel.since);
            }
        }
    }

    /// Gives a session a message, if its bounds allow it.
    fn give(&mut self, now: Instant, key: SessionKey, message: &Arc<Message>, share: Share) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
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
        session.outbound.push(share.parcel(message));
        if let Some(mut exchange) = connection.and_then(|id| self.exchange_of(now, id)) {
            exchange.pump();
        }
        true
    }
}

impl Share {
    fn parcel(self, message: &Arc<Message>) -> Parcel {
        let Self { qos, retain, ids, shared, since } = self;
        Parcel { message: Arc::clone(message), qos, retain, subscriptions: ids, shared, since }
    }
}

/// The highest QoS of the matching subscriptions [MQTT-3.3.4-2], and all their identifiers [MQTT-3.3.4-4].
fn share<'a>(message: &Message, wanted: impl Iterator<Item = &'a Granted>, since: Instant) -> Option<Share> {
    let mut share: Option<Share> = None;
    for granted in wanted {
        let share = share.get_or_insert_with(|| Share {
            qos: Qos::AtMostOnce,
            retain: false,
            ids: Vec::new(),
            shared: None,
            since,
        });
        share.qos = share.qos.max(granted.qos.min(message.qos));
        share.retain |= granted.retain_as_published && message.retain;
        share.ids.extend(granted.id);
    }
    share
}

impl Shared {
    /// How well a session can take a message; `None` when it cannot. `backlog`: what its connection has not sent, if it
    /// has one.
    fn readiness(
        &self,
        outbound: &Outbound,
        backlog: Option<usize>,
        qos: Qos,
        message: &Message,
    ) -> Option<Readiness> {
        let limits = &self.limits;
        let bytes = outbound.bytes() + backlog.unwrap_or(0) + message.footprint();
        if bytes > limits.outgoing_bytes {
            return None;
        }
        if qos == Qos::AtMostOnce {
            return backlog.map(|_| Readiness::Ready);
        }
        if outbound.len() >= limits.outgoing_messages {
            return None;
        }
        match backlog {
            Some(_) if outbound.is_ready() => Some(Readiness::Ready),
            Some(_) => Some(Readiness::Busy),
            None => Some(Readiness::Away),
        }
    }
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
            seconds_left: message.seconds_left(self.now.since(share.since)),
        };
        let (version, most) = (self.version(), self.packet_bytes());
        let told = &mut self.connection.told;
        if fits && write::publish(&mut self.connection.outbox, version, &copy, most, told).is_ok() {
            self.shared.delivered += 1;
            self.shared.payload_sent += message.payload.len() as u64;
            self.shared.stir(self.id, self.connection);
            return true;
        }
        self.shared.dropped += 1;
        false
    }

    /// Sends what waits, as far as the client's Receive Maximum and its buffer allow.
    pub(super) fn pump(&mut self) {
        if !self.session.replays.is_empty() {
            self.replay();
            if self.session.replays.is_empty() {
                self.session.replays.take();
            }
        }
        let (version, most) = (self.version(), self.packet_bytes());
        let acl = self.session.acl.clone();
        loop {
            // One message may go beyond the bound: a larger one could otherwise never be sent.
            if self.connection.outbox.backlog() >= self.shared.limits.outgoing_bytes {
                break;
            }
            let outbox = &mut self.connection.outbox;
            // A session that never had anything to send costs nothing.
            if self.session.outbound.len() == 0 {
                break;
            }
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
                    // It may have waited since before a right was taken away.
                    let allowed = acl.as_ref().is_none_or(|acl| acl.may_receive(&parcel.message.topic));
                    let told = &mut self.connection.told;
                    let sent =
                        allowed && !expired && write::publish(outbox, version, &copy, most, told).is_ok();
                    self.shared.delivered += u64::from(sent && !dup);
                    self.shared.payload_sent += if sent { parcel.message.payload.len() as u64 } else { 0 };
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

    /// Goes on with what is retained for new subscriptions: as much as leaves room for what is published meanwhile. What
    /// is left comes when the client has taken some; the first comes behind the SUBACK.
    fn replay(&mut self) {
        while self.session.held.is_empty()
            && let Some(replay) = self.session.replays.front_mut()
        {
            let limits = &self.shared.limits;
            let bytes = self.session.outbound.bytes() + self.connection.outbox.backlog();
            if bytes >= limits.outgoing_bytes / 2
                || self.session.outbound.len() >= limits.outgoing_messages.div_ceil(2)
            {
                break;
            }
            let next = if !sys::concerns(&replay.filter) {
                self.shared.retained.next(&replay.filter, replay.after.as_ref())
            } else if limits.sys_interval.is_zero() {
                None
            } else if self.shared.sys.is_fresh(self.now, self.id) {
                self.shared.sys.next_value(&replay.filter, replay.after.as_ref())
            } else {
                break;
            };
            let Some(entry) = next else {
                self.session.replays.pop_front();
                continue;
            };
            let message = Arc::clone(&entry.message);
            replay.after = Some(message.topic.clone());
            let Granted { qos, id, .. } = replay.granted;
            if !self.session.may_receive(&message.topic) {
                continue;
            }
            let share = Share {
                qos: qos.min(message.qos),
                retain: true,
                ids: id.into_iter().collect(),
                shared: None,
                since: entry.since,
            };
            if share.qos == Qos::AtMostOnce {
                self.send_now(&message, &share);
            } else {
                self.session.outbound.push(share.parcel(&message));
            }
        }
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
        let (version, within) = (self.version(), self.connection.explains_within());
        write::ack_explained(&mut self.connection.outbox, version, Kind::PubRel, packet_id, reason, within);
        self.shared.stir(self.id, self.connection);
    }

    pub(super) fn pubcomp(&mut self, ack: &mqtt::Ack<'_>) {
        self.session.outbound.completed(ack.packet_id.get());
        self.pump();
    }
}
