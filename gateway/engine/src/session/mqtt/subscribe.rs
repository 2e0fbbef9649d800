//! SUBSCRIBE and UNSUBSCRIBE: what is granted, in the tree, in the session, and in its record, before the answer says so.

use super::packets::Exchange;
use super::session::{Held, Session};
use super::slab::SessionKey;
use super::subscriptions::Granted;
use super::{Receipt, Shared, Waiting, record, sys, write};
use crate::event::{Action, Op};
use crate::session::{self, Request};
use crate::topic::Filter;
use bytes::Bytes;
use std::num::NonZeroU32;
use tidegate_wire::mqtt::{
    self, Packet, Properties, Property, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription,
    UnsubAck, Unsubscribe,
};

impl Exchange<'_> {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let id = subscribe.properties.subscription_id().and_then(NonZeroU32::new);
        let mut changed = false;
        let codes: Vec<u8> = subscribe
            .subscriptions
            .iter()
            .map(|wish| match self.grant(&wish, id) {
                Ok((granted, new)) => {
                    changed |= new;
                    granted.qos as u8
                }
                Err(reason) => {
                    self.shared.refusals.count(reason);
                    // Older versions have one code for every failure [MQTT-3.9.3-2 of 3.1.1].
                    if self.version().is_v5() { reason.0 } else { ReasonCode::UNSPECIFIED_ERROR.0 }
                }
            })
            .collect();
        let packet_id = subscribe.packet_id;
        let answer = |properties| Packet::SubAck(SubAck { packet_id, properties, codes: &codes });
        // Why the first of them fails, if the client wants to know and has room for it [MQTT-3.9.2-1].
        let refused = codes.iter().copied().map(ReasonCode).find(|code| code.is_failure());
        let why = refused.map(|reason| [Property::ReasonString(write::why(reason))]);
        let room = self.connection.explains_within().filter(|_| self.version().is_v5());
        let told = why.as_ref().map(|list| answer(Properties::new(list))).filter(|packet| {
            let length = mqtt::encoded_len(self.version(), packet).ok();
            length.is_some_and(|length| room.is_some_and(|room| length <= room))
        });
        self.answer(changed, &told.unwrap_or_else(|| answer(Properties::EMPTY)));
    }

    /// Grants a subscription; says whether anything has changed.
    fn grant(
        &mut self,
        wish: &Subscription<'_>,
        id: Option<NonZeroU32>,
    ) -> Result<(Granted, bool), ReasonCode> {
        // Older versions do not know shared subscriptions; they get them in the same form, as other brokers do it.
        let group = mqtt::split_shared(wish.filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        let plain = group.map_or(wish.filter, |(_, filter)| filter);
        let limits = &self.shared.limits;
        // First, and without parsing: a packet can have thousands of filters that one session cannot.
        let full = self.session.subscriptions.len() >= limits.subscriptions_per_session;
        if full && !self.session.subscriptions.contains_key(wish.filter) {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        let levels = 1 + plain.bytes().filter(|byte| *byte == b'/').count();
        if wish.filter.len() > limits.topic_bytes || levels > limits.topic_levels {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        }
        let filter = Filter::new(wish.filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        let names = Filter::new(plain).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        if !self.session.may_subscribe(&names) {
            self.shared.subscriptions_denied += 1;
            self.shared.denied(&self.session.device, Action::Subscribe, filter.as_str());
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        let before = self.session.subscriptions.get(&filter).copied();
        let granted = Granted {
            qos: super::engine_qos(wish.qos),
            no_local: wish.no_local,
            retain_as_published: wish.retain_as_published,
            retain_handling: wish.retain_handling as u8,
            id,
        };
        let replay = match wish.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => before.is_none(),
            RetainHandling::DoNotSend => false,
        };
        // A shared subscription gets none (MQTT 5.0, 4.8.2).
        if replay && group.is_none() && (self.shared.has_retained() || sys::concerns(&filter)) {
            self.session.replay(&filter, granted);
        }
        if before == Some(granted) {
            return Ok((granted, false));
        }
        self.tree.insert(&filter, self.key, granted);
        self.session.subscriptions.insert(filter, granted);
        Ok((granted, true))
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let mut changed = false;
        let mut codes = Vec::new();
        for text in unsubscribe.filters.iter() {
            let known =
                Filter::new(text).ok().filter(|filter| self.session.subscriptions.remove(filter).is_some());
            if let Some(filter) = &known {
                self.tree.remove(filter, self.key);
                if let Some(replays) = self.session.replays.touched() {
                    replays.retain(|replay| replay.filter != *filter);
                }
                changed = true;
            }
            codes.push(if known.is_some() {
                ReasonCode::SUCCESS.0
            } else {
                ReasonCode::NO_SUBSCRIPTION_EXISTED.0
            });
        }
        if !self.version().is_v5() {
            codes.clear();
        }
        let packet_id = unsubscribe.packet_id;
        self.answer(
            changed,
            &Packet::UnsubAck(UnsubAck { packet_id, properties: Properties::EMPTY, codes: &codes }),
        );
    }

    /// Answers at once, or when the session's record says the same.
    fn answer(&mut self, changed: bool, packet: &Packet<'_>) {
        if changed && self.session.is_persistent() {
            self.session.recorded = true;
            let op = self.shared.put(self.session);
            self.shared.put_and_wait(self.key, self.session, op);
        }
        let version = self.version();
        if self.session.answers.durable >= self.session.answers.ordered {
            // An answer that the client's Maximum Packet Size does not allow is left out [MQTT-3.1.2-24].
            let most = self.packet_bytes();
            let _ = write::packet(&mut self.connection.outbox, version, packet, most);
            self.start_replays();
            return;
        }
        let length = mqtt::encoded_len(version, packet).unwrap_or(0);
        let mut bytes = vec![0; length];
        if length <= self.packet_bytes() && mqtt::encode(version, packet, &mut bytes).is_ok() {
            let serial = self.session.answers.ordered;
            self.session.answers.held.push_back(Held { serial, packet: Bytes::from(bytes), since: self.now });
        }
    }

    /// The session's record of this number is durable, and all before it.
    pub(super) fn recorded(&mut self, serial: u64) {
        if let Some(link) = self.connection.link_mut() {
            link.unanswered.take_if(|unanswered| unanswered.0 <= serial);
        }
        if let Some(answers) = self.session.answers.touched() {
            while let Some(held) = answers.held.pop_front_if(|held| held.serial <= serial) {
                self.connection.outbox.tail().extend_from_slice(&held.packet);
            }
        }
        self.shared.stir(self.id, self.connection);
        self.start_replays();
    }

    /// Behind the SUBACK: what is retained for new subscriptions.
    fn start_replays(&mut self) {
        if !self.session.replays.is_empty() {
            self.pump();
        }
    }
}

impl Shared {
    /// Whether any subscription could find a retained message.
    fn has_retained(&self) -> bool {
        self.limits.retained_messages > 0 && self.retained.len() > 0
    }

    /// Orders a session's record, for nobody who waits.
    pub(super) fn record(&mut self, session: &mut Session) {
        session.recorded = true;
        let op = self.put(session);
        self.change(op);
    }

    /// Orders a change of a session's record for which an answer waits; gives its number.
    pub(super) fn put_and_wait(&mut self, key: SessionKey, session: &mut Session, op: Op) -> u64 {
        session.answers.ordered += 1;
        let receipt = Receipt { session: key, waiting: Waiting::Record(session.answers.ordered) };
        self.requests.push_back(Request::Record { op, receipt: Some(session::Receipt::Mqtt(receipt)) });
        session.answers.ordered
    }

    pub(super) fn put(&self, session: &Session) -> Op {
        Op::Put {
            key: record::session_key(&session.client),
            value: record::encode(session.owner, session.expiry_seconds(), &session.subscriptions),
        }
    }
}
