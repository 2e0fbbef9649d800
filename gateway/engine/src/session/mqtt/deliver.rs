//! Messages to subscribers: who gets one, what waits for whom, and what the client's acknowledgements free.
//! A slow or absent subscriber costs its own messages, nobody else's.

use super::outbound::{Discarded, Next, Outbound, Received};
use super::packets::Exchange;
use super::parcel::Parcel;
use super::slab::SessionKey;
use super::subscriptions::{Granted, GroupKey};
use super::{Delivered, Mqtt, Shared, sys, write};
use crate::id::DeviceId;
use crate::message::{Message, Qos};
use crate::mutant::Mutant;
use crate::session::{Claim, Request};
use crate::time::{Duration, Instant};
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
    /// When the message was accepted, or found in the store.
    since: Instant,
    /// How long it had waited by then.
    waited: Duration,
}

/// What goes with a message that is handed out.
pub(super) struct Handout<'a> {
    pub(super) message: &'a Arc<Message>,
    /// The client identifier of its publisher, for No Local; a shared subscription has none [MQTT-3.8.3-4].
    pub(super) from: Option<&'a DeviceId>,
    /// When it was accepted, or found in the store.
    pub(super) since: Instant,
    /// How long it had waited by then.
    pub(super) waited: Duration,
    /// The publisher who waits for the copies.
    pub(super) claim: Option<Claim>,
    /// What outlives its connection is to have its record at once.
    pub(super) keep: bool,
    pub(super) delivered: Delivered,
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
    /// shares one.
    pub(super) fn fan_out(&mut self, now: Instant, handout: &mut Handout<'_>) {
        let mut found = std::mem::take(&mut self.matches);
        self.tree.matches(&handout.message.topic, &mut found);
        let sessions = found.sessions();
        if sessions.len() > 1 {
            self.shared.stencil.begin(handout.message);
        }
        for (key, granted) in sessions {
            self.hand(now, handout, key, granted);
        }
        self.shared.stencil.end();
        for group in &found.groups {
            self.hand_to_group(now, handout, *group);
        }
        self.matches = found;
    }

    /// Hands a message to one session by its subscriptions.
    fn hand<'a>(
        &mut self,
        now: Instant,
        handout: &mut Handout<'_>,
        key: SessionKey,
        granted: impl Iterator<Item = &'a Granted>,
    ) {
        let Some(session) = self.sessions.get(key) else { return };
        if !session.may_receive(&handout.message.topic) {
            return;
        }
        let own = handout.from == Some(&session.client);
        let wanted = granted.filter(|granted| !(own && granted.no_local));
        if let Some(share) = handout.share(wanted) {
            self.give(now, key, handout, share);
        }
    }

    /// Hands a message to one member of a group: one that is connected and has room first, each in its turn
    /// (MQTT 5.0, 4.8.2).
    fn hand_to_group(&mut self, now: Instant, handout: &mut Handout<'_>, key: GroupKey) {
        let message = handout.message;
        let Some(group) = self.tree.group_mut(key) else { return };
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
                .connection()
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
            return;
        };
        group.turn = place + 1;
        let Some((member, granted)) = group.members.get(place).copied() else { return };
        let shared = Some(group.filter.clone());
        if let Some(share) = handout.share(std::iter::once(&granted)) {
            self.give(now, member, handout, Share { shared, ..share });
        }
    }

    /// Hands what a session that has ended had by a shared subscription to another member of the group, and the
    /// publisher's wait with it.
    pub(super) fn pass_on(&mut self, now: Instant, parcel: &Parcel, claim: Option<Claim>) {
        let &Parcel { ref message, since, waited, .. } = parcel;
        // It has its record where it was, or its publisher waits: it gets one where it goes.
        let delivered = Delivered::default();
        let mut handout = Handout { message, from: None, since, waited, claim, keep: true, delivered };
        if let Some(group) = parcel.shared.as_ref().and_then(|filter| self.tree.group_of(filter)) {
            self.hand_to_group(now, &mut handout, group);
        }
        let claimed = handout.delivered.claimed;
        self.order_records(handout.delivered);
        if let Some(claim) = claim.filter(|_| claimed == 0) {
            self.shared.settle(claim, false);
        }
    }

    /// Hands out a message of the gateway itself: nobody waits for it.
    pub(super) fn announce(&mut self, now: Instant, message: &Arc<Message>) {
        let delivered = Delivered::default();
        let waited = Duration::ZERO;
        let mut handout =
            Handout { message, from: None, since: now, waited, claim: None, keep: false, delivered };
        self.fan_out(now, &mut handout);
        self.order_records(handout.delivered);
    }

    fn order_records(&mut self, delivered: Delivered) {
        for (op, receipt) in delivered.records {
            self.shared.requests.push_back(Request::Record { op, receipt: Some(receipt) });
        }
    }

    /// Gives a session a message, if its bounds allow it.
    fn give(&mut self, now: Instant, key: SessionKey, handout: &mut Handout<'_>, share: Share) {
        let message = handout.message;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let connection = session.connection();
        if share.qos == Qos::AtMostOnce {
            // Otherwise nothing is promised, and nobody is there.
            if let Some(mut exchange) = connection.and_then(|id| self.exchange_of(now, id)) {
                handout.delivered.taken += usize::from(exchange.send_now(message, &share));
            }
            return;
        }
        let backlog = connection
            .and_then(|id| self.connections.get(&id))
            .map_or(0, |connection| connection.outbox.backlog());
        let bytes = message.footprint();
        if self.shared.has_no_room(&session.outbound, backlog, bytes) {
            self.shared.forget_expired(now, session);
            if self.shared.has_no_room(&session.outbound, backlog, bytes) {
                self.shared.overrun(session);
                return;
            }
        }
        let lasts = session.is_persistent();
        let keep = lasts
            && (handout.keep
                || share.qos == Qos::ExactlyOnce
                || connection.is_none()
                || self.shared.stopping
                || session.outbound.is_behind(now, self.shared.limits.outgoing_spill_after));
        let claim = handout.claim.filter(|_| lasts && !self.shared.planted.is(Mutant::CopyUnclaimed));
        if keep && share.qos == Qos::AtLeastOnce {
            // What came before has its record before: a crash must not leave the later one alone, which would come first.
            for number in session.outbound.spill(now, Duration::ZERO) {
                handout.delivered.records.extend(self.shared.record_of(now, key, session, number));
            }
        }
        let number = session.outbound.push(share.parcel(message), keep, claim, now);
        handout.delivered.taken += 1;
        handout.delivered.claimed += u32::from(claim.is_some());
        if keep {
            handout.delivered.records.extend(self.shared.record_of(now, key, session, number));
        }
        self.shared.weigh(session);
        if lasts && !keep {
            self.watch(key);
        }
        if let Some(mut exchange) = connection.and_then(|id| self.exchange_of(now, id)) {
            exchange.pump();
        }
    }
}

impl Share {
    fn parcel(self, message: &Arc<Message>) -> Parcel {
        let Self { qos, retain, ids, shared, since, waited } = self;
        Parcel { message: Arc::clone(message), qos, retain, subscriptions: ids, shared, since, waited }
    }
}

impl Handout<'_> {
    /// The highest QoS of the matching subscriptions [MQTT-3.3.4-2], and all their identifiers [MQTT-3.3.4-4].
    fn share<'a>(&self, wanted: impl Iterator<Item = &'a Granted>) -> Option<Share> {
        let mut share: Option<Share> = None;
        for granted in wanted {
            let share = share.get_or_insert_with(|| Share {
                qos: Qos::AtMostOnce,
                retain: false,
                ids: Vec::new(),
                shared: None,
                since: self.since,
                waited: self.waited,
            });
            share.qos = share.qos.max(granted.qos.min(self.message.qos));
            share.retain |= granted.retain_as_published && self.message.retain;
            share.ids.extend(granted.id);
        }
        share
    }
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
        let (unsent, bytes) = (backlog.unwrap_or(0), message.footprint());
        if qos == Qos::AtMostOnce {
            let fits = outbound.bytes() + unsent + bytes <= self.limits.outgoing_bytes;
            return backlog.filter(|_| fits).map(|_| Readiness::Ready);
        }
        if self.has_no_room(outbound, unsent, bytes) {
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
        let fits =
            waiting + message.footprint() <= self.shared.limits.outgoing_bytes && !self.shared.is_crowded();
        let copy = write::Copy {
            message,
            qos: Qos::AtMostOnce,
            retain: share.retain,
            dup: false,
            packet_id: None,
            subscriptions: &share.ids,
            seconds_left: message.seconds_left(share.waited + self.now.since(share.since)),
        };
        let (version, most) = (self.version(), self.packet_bytes());
        let told = &mut self.connection.told;
        let stencil = &mut self.shared.stencil;
        if fits && write::publish(&mut self.connection.outbox, version, &copy, most, told, stencil).is_ok() {
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
            let sent = match self.session.outbound.next(self.shared.planted) {
                None => break,
                Some(Next::Release { packet_id }) => {
                    write::ack(outbox, version, Kind::PubRel, packet_id, ReasonCode::SUCCESS);
                    true
                }
                Some(Next::Publish { packet_id, dup, begun, parcel }) => {
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
                    let expired = !begun && parcel.has_expired(self.now);
                    // It may have waited since before a right was taken away.
                    let allowed = acl.as_ref().is_none_or(|acl| acl.may_receive(&parcel.message.topic));
                    let told = &mut self.connection.told;
                    let stencil = &mut self.shared.stencil;
                    let sent = allowed
                        && !expired
                        && write::publish(outbox, version, &copy, most, told, stencil).is_ok();
                    self.shared.delivered += u64::from(sent && !dup);
                    self.shared.payload_sent += if sent { parcel.message.payload.len() as u64 } else { 0 };
                    self.shared.dropped += u64::from(!sent);
                    sent
                }
            };
            if sent {
                self.session.outbound.sent();
            } else {
                match self.session.outbound.discard() {
                    Discarded::Through(through) => self.shared.through(&self.session.client, through),
                    Discarded::Record(number) => self.keep_release(number),
                    Discarded::Release => {}
                }
            }
        }
        self.shared.weigh(self.session);
        self.shared.stir(self.id, self.connection);
    }

    /// Goes on with what is retained for new subscriptions: as much as leaves room for what is published meanwhile. What
    /// is left comes when the client has taken some; the first comes behind the SUBACK.
    fn replay(&mut self) {
        while self.session.answers.held.is_empty()
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
                waited: entry.waited,
            };
            if share.qos == Qos::AtMostOnce {
                self.send_now(&message, &share);
            } else {
                // Nobody waits for it; with QoS 2 it has its record first, as always.
                let keep = self.session.is_persistent() && share.qos == Qos::ExactlyOnce;
                let number = self.session.outbound.push(share.parcel(&message), keep, None, self.now);
                let record = self.shared.record_of(self.now, self.key, self.session, number).filter(|_| keep);
                if let Some((op, receipt)) = record {
                    self.shared.requests.push_back(Request::Record { op, receipt: Some(receipt) });
                }
            }
        }
    }

    pub(super) fn puback(&mut self, ack: &mqtt::Ack<'_>) {
        // A refusal frees the message as well [MQTT-4.4.0-2]; an unknown id is of no consequence.
        let through = self.session.outbound.finished(ack.packet_id.get(), Qos::AtLeastOnce);
        self.shared.through(&self.session.client, through);
        self.pump();
    }

    pub(super) fn pubrec(&mut self, ack: &mqtt::Ack<'_>) {
        let packet_id = ack.packet_id.get();
        if ack.reason.is_failure() {
            let through = self.session.outbound.finished(packet_id, Qos::ExactlyOnce);
            self.shared.through(&self.session.client, through);
            self.pump();
            return;
        }
        let received = self.session.outbound.received(packet_id, self.shared.planted);
        self.shared.weigh(self.session);
        let reason = match received {
            Received::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Received::Release => ReasonCode::SUCCESS,
            Received::Record(number) => return self.keep_release(number),
            Received::Waiting => return,
        };
        let (version, within) = (self.version(), self.connection.explains_within());
        write::ack_explained(&mut self.connection.outbox, version, Kind::PubRel, packet_id, reason, within);
        self.shared.stir(self.id, self.connection);
    }

    pub(super) fn pubcomp(&mut self, ack: &mqtt::Ack<'_>) {
        let through = self.session.outbound.completed(ack.packet_id.get());
        self.shared.through(&self.session.client, through);
        self.pump();
    }
}
