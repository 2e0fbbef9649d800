//! What the store is to know of sessions beside their own record: messages that wait for a client, releases, wills. Orders
//! those records, has them removed, and brings everything back at the start. Sessions that end with their
//! connection never touch the disk.
//!
//! Flash is spared (P6): while a client is there and acknowledges within `outgoing_spill_after`, a QoS 1 message for it is not
//! written; its publisher's acknowledgement waits for the client's. A message is written at once when its client is away
//! or behind, or when what it comes with is written anyway (QoS 2, a will), in the same transaction.

use super::outbound::{MESSAGES_MAX, Outbound, Secured, Through};
use super::packets::Exchange;
use super::record::Stored;
use super::session::{Presence, Session, Will};
use super::slab::SessionKey;
use super::{Mqtt, Receipt, Shared, Waiting, record, write};
use crate::event::{Action, Notice, Op, Output, RecordKey, RecordKind};
use crate::id::DeviceId;
use crate::session::auth::Owner;
use crate::session::{self, Claim, Request};
use crate::time::{Duration, Instant, Now};
use bytes::Bytes;
use tidegate_wire::mqtt::{Kind, ReasonCode};

/// Sessions first: everything else belongs to one.
const KINDS: [RecordKind; 4] =
    [RecordKind::Session, RecordKind::InboundQos2, RecordKind::Outgoing, RecordKind::Will];

/// A session that was found in the store, and whose it was; or why its record cannot be read.
type Restored = (SessionKey, Result<Option<Owner>, &'static str>);

impl Mqtt {
    /// Brings back what the store remembers. Expiry of sessions counts from now: how long the gateway was off is not known (P5).
    pub(super) fn restore_all(&mut self, records: &[(RecordKey, Bytes)], now: Now) {
        let mut owners = Vec::new();
        for kind in KINDS {
            let mut found: Vec<_> = records.iter().filter(|(key, _)| key.kind == kind).collect();
            // Messages of one session in their order.
            found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (key, value) in found {
                if let Err(reason) = self.restore(now, key, value, &mut owners) {
                    let client = String::from_utf8_lossy(&key.key).escape_default().to_string();
                    self.shared.output(Output::Notice(Notice::SessionLost { client, reason }));
                    self.shared.change(Op::Remove { key: key.clone() });
                }
            }
        }
        // Everything of a session is there by now, to go with it.
        let (mut readable, mut surplus) = (Vec::new(), Vec::new());
        for (key, owner) in owners {
            match owner {
                Ok(owner) => {
                    readable.push((key, owner));
                    surplus.push(key);
                }
                Err(reason) => {
                    // Whether whose it was may still say it is not known.
                    if let Some(session) = self.sessions.get_mut(key) {
                        self.shared.drop_will(session);
                    }
                    self.lose(now.instant, key, reason);
                }
            }
        }
        self.judge(now.instant, readable);
        while self.sessions.len() > self.shared.limits.sessions
            && let Some(key) = surplus.pop()
        {
            self.lose(now.instant, key, "there are more sessions than the limit allows (limits.sessions)");
        }
    }

    /// Removes a session that cannot be brought back: nobody comes under its name before it is gone from the store, or a crash
    /// would give it to a client that was told of a new one.
    fn lose(&mut self, now: Instant, key: SessionKey, reason: &'static str) {
        if let Some(session) = self.sessions.get(key) {
            let client = session.client.to_string();
            self.shared.output(Output::Notice(Notice::SessionLost { client, reason }));
            self.remove_session(now, key);
        }
    }

    fn restore(
        &mut self,
        now: Now,
        key: &RecordKey,
        value: &[u8],
        owners: &mut Vec<Restored>,
    ) -> Result<(), &'static str> {
        const GONE: &str = "its session is gone";
        match key.kind {
            RecordKind::Session => owners.push(self.restore_session(now.instant, key, value)?),
            RecordKind::InboundQos2 => {
                let (client, packet_id) = record::read_packet_key(&key.key)?;
                self.session_of(&client).ok_or(GONE)?.inbound.restore(packet_id);
            }
            RecordKind::Outgoing => {
                let (client, number) = record::read_outgoing_key(&key.key)?;
                let parcel = record::decode_parcel(value, now)?;
                let late = parcel.as_ref().is_some_and(|parcel| parcel.message.received.synchronised);
                self.unsettled |= late && !now.wall.synchronised;
                let key = *self.clients.get(&client).ok_or(GONE)?;
                let session = self.sessions.get_mut(key).ok_or(GONE)?;
                let bytes = parcel.as_ref().map(|parcel| parcel.message.footprint());
                if bytes.is_some_and(|bytes| self.shared.has_no_room(&session.outbound, 0, bytes)) {
                    // The limits are smaller than they were. A release takes nothing, and its client holds the packet id until
                    // it comes.
                    self.shared.overrun(session);
                    self.shared.change(Op::Remove { key: record::outgoing_key(&client, number) });
                    return Ok(());
                }
                session.outbound.restore(number, parcel, now.instant);
                self.shared.weigh(session);
            }
            // Others' business.
            RecordKind::Retained
            | RecordKind::OscoreSequence
            | RecordKind::Loss
            | RecordKind::Mark
            | RecordKind::Damage
            | RecordKind::Overtaken
            | RecordKind::Ages => {}
            RecordKind::Will => {
                let client = record::read_client(&key.key)?;
                let will = record::decode_will(value, &client, now)?;
                let key = *self.clients.get(&client).ok_or(GONE)?;
                let session = self.sessions.get_mut(key).ok_or(GONE)?;
                session.will = Some(Box::new(will));
                session.will_recorded = true;
                self.watch(key);
            }
        }
        Ok(())
    }

    /// Brings back a session without what it has.
    fn restore_session(
        &mut self,
        now: Instant,
        key: &RecordKey,
        value: &[u8],
    ) -> Result<Restored, &'static str> {
        let client = record::read_client(&key.key)?;
        let stored = record::decode(value, self.shared.limits.subscriptions_per_session);
        let expiry = stored.as_ref().map_or(0, |stored| stored.expiry_seconds);
        let expiry = self.shared.capped_expiry(expiry);
        let mut session = Session::new(client.clone(), expiry);
        session.recorded = true;
        session.presence = Presence::Until(now.after(expiry));
        let owner = match stored {
            Ok(Stored { owner, subscriptions, .. }) => {
                session.owner = owner.unwrap_or(Owner::Nobody);
                if !subscriptions.is_empty() {
                    session.subscriptions = subscriptions.into();
                }
                Ok(owner)
            }
            Err(reason) => Err(reason),
        };
        let key = self.sessions.insert(session);
        self.clients.insert(client, key);
        if let Some(session) = self.sessions.get(key) {
            for (filter, granted) in session.subscriptions.iter() {
                self.tree.insert(filter, key, *granted);
            }
        }
        self.watch(key);
        Ok((key, owner))
    }

    fn session_of(&mut self, client: &DeviceId) -> Option<&mut Session> {
        self.clients.get(client).and_then(|key| self.sessions.get_mut(*key))
    }

    /// Notes what the clock on the wall says. When it can be believed for the first time in this life, the messages of earlier
    /// ones learn how long the gateway was off.
    pub(super) fn note_clock(&mut self, now: Now) {
        (self.shared.now, self.shared.wall) = (now.instant, now.wall);
        if self.unsettled && now.wall.synchronised {
            self.unsettled = false;
            let keys: Vec<SessionKey> = self.clients.values().copied().collect();
            for key in keys {
                if let Some(outbound) =
                    self.sessions.get_mut(key).and_then(|session| session.outbound.touched())
                {
                    outbound.settle_clock(now);
                }
            }
        }
    }

    /// Orders records of the messages that a session's client has not acknowledged for `patience`.
    pub(super) fn spill(&mut self, now: Instant, key: SessionKey, patience: Duration) {
        if let Some(session) = self.sessions.get_mut(key)
            && session.is_persistent()
            && let Some(outbound) = session.outbound.touched()
        {
            for number in outbound.spill(now, patience) {
                if let Some((op, receipt)) = self.shared.record_of(now, key, session, number) {
                    self.shared.requests.push_back(Request::Record { op, receipt: Some(receipt) });
                }
            }
        }
    }

    /// The record of a message, or of its release, is durable.
    pub(super) fn secured(&mut self, now: Instant, key: SessionKey, number: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Secured { claim, release } = session.outbound.secured(number);
        let connection = session.connection();
        if let Some(claim) = claim {
            self.shared.settle(claim, true);
        }
        if let Some(mut exchange) = connection.and_then(|id| self.exchange_of(now, id)) {
            exchange.go_on(release);
        }
    }
}

impl Exchange<'_> {
    /// A release is due, perhaps, and whatever waited for the store may go.
    fn go_on(&mut self, release: Option<u16>) {
        if let Some(packet_id) = release {
            let version = self.version();
            let outbox = &mut self.connection.outbox;
            write::ack(outbox, version, Kind::PubRel, packet_id, ReasonCode::SUCCESS);
        }
        self.pump();
    }

    /// PUBREC has come, or nothing else will be sent of the message: PUBREL goes out when that is durable.
    pub(super) fn keep_release(&mut self, number: u64) {
        let receipt = Receipt { session: self.key, waiting: Waiting::Kept(number) };
        let key = record::outgoing_key(&self.session.client, number);
        self.shared.requests.push_back(Request::Record {
            op: Op::Put { key, value: record::release_value() },
            receipt: Some(session::Receipt::Mqtt(receipt)),
        });
    }
}

impl Shared {
    /// The record of a message that waits for a client.
    pub(super) fn record_of(
        &self,
        now: Instant,
        key: SessionKey,
        session: &Session,
        number: u64,
    ) -> Option<(Op, session::Receipt)> {
        let value = record::encode_parcel(session.outbound.parcel(number)?, now);
        let op = Op::Put { key: record::outgoing_key(&session.client, number), value };
        Some((op, session::Receipt::Mqtt(Receipt { session: key, waiting: Waiting::Kept(number) })))
    }

    /// A message needs no record any more, and nobody waits for it.
    pub(super) fn through(&mut self, client: &DeviceId, through: Option<Through>) {
        let Some(Through { number, recorded, claim }) = through else { return };
        if recorded {
            self.change(Op::Remove { key: record::outgoing_key(client, number) });
        }
        if let Some(claim) = claim {
            self.settle(claim, false);
        }
    }

    pub(super) fn settle(&mut self, claim: Claim, committed: bool) {
        self.requests.push_back(Request::Settled { claim, committed });
    }

    /// Whether a message of so many bytes goes beyond what may wait for this session, of whose connection so many bytes are
    /// unsent, or for all. (Among what waits for all, what is unsent has been counted.)
    pub(super) fn has_no_room(&self, outbound: &Outbound, unsent: usize, bytes: usize) -> bool {
        outbound.len() >= self.limits.outgoing_messages.min(MESSAGES_MAX)
            || outbound.bytes() + unsent + bytes > self.limits.outgoing_bytes
            || self.queued_bytes + bytes > self.limits.outgoing_bytes_in_all
    }

    /// Makes room: what has expired while it waited for a client need not wait until the client comes.
    pub(super) fn forget_expired(&mut self, now: Instant, session: &mut Session) {
        for through in session.outbound.forget_expired(now) {
            self.dropped += 1;
            self.through(&session.client, Some(through));
        }
        self.weigh(session);
    }

    /// Whether QoS 0 is to give way to what has been promised.
    pub(super) fn is_crowded(&self) -> bool {
        self.queued_bytes > self.limits.outgoing_bytes_in_all / 4 * 3
    }

    /// Counts what waits for a session among what waits for all.
    pub(super) fn weigh(&mut self, session: &mut Session) {
        let Some(outbound) = session.outbound.touched() else { return };
        let (bytes, messages) = (outbound.bytes(), outbound.len());
        let (bytes_before, messages_before) = std::mem::replace(&mut outbound.weighed, (bytes, messages));
        self.queued_bytes = (self.queued_bytes + bytes).saturating_sub(bytes_before);
        self.queued = (self.queued + messages).saturating_sub(messages_before);
    }

    /// A message of QoS 1 or 2 was dropped for want of room: said when it begins, and whenever the number has doubled.
    pub(super) fn overrun(&mut self, session: &mut Session) {
        self.dropped += 1;
        session.outbound.dropped += 1;
        let dropped = session.outbound.dropped;
        if dropped.is_power_of_two() {
            let client = session.client.clone();
            self.output(Output::Notice(Notice::SubscriberOverrun { client, dropped }));
        }
    }

    /// The record of a session's will, as the will stands.
    pub(super) fn will_record(&self, now: Instant, client: &DeviceId, will: &Will) -> Op {
        let now = Now { instant: now, wall: self.wall };
        Op::Put { key: record::will_key(client), value: record::encode_will(will, now) }
    }

    /// The will is not wanted any more.
    pub(super) fn drop_will(&mut self, session: &mut Session) {
        session.will = None;
        if std::mem::take(&mut session.will_recorded) {
            self.change(Op::Remove { key: record::will_key(&session.client) });
        }
    }

    /// Publishes a session's will, if its connection has ended; nobody waits for it. Its record goes in the same transaction.
    pub(super) fn publish_will(&mut self, session: &mut Session) {
        if let Some(will) = session.will.take_if(|will| will.due.is_some()) {
            let Will { mut incoming, .. } = *will;
            if !session.may_publish(&incoming.topic) {
                // It was allowed when it was left, and is not any more.
                self.publishes_denied += 1;
                self.denied(&session.device, Action::Will, incoming.topic.as_str());
                return self.drop_will(session);
            }
            if std::mem::take(&mut session.will_recorded) {
                incoming.record = Some(Op::Remove { key: record::will_key(&session.client) });
            }
            self.requests.push_back(Request::Publish { incoming, receipt: None });
        }
    }
}
