//! MQTT 3.1, 3.1.1 and 5.0 for all connections and sessions. Takes bytes and facts, gives requests; never decides that
//! a message is safe, and acknowledges only what it is told is. Deterministic. Every table is bounded by
//! [`Limits`](crate::limits::Limits).
//!
//! `packets` turns bytes into packets and calls `greeting`, `publish`, `subscribe`, `deliver`; `ending` takes leave.
//! `session` is what lasts, with its halves `inbound` and `outbound`; `connection` is what does not. `keep` has the store
//! learn what outlives the process, in the bytes of `record`. What they all need is `shared`.

mod aliases;
mod clearing;
mod connection;
mod deliver;
mod ending;
mod greeting;
mod inbound;
mod keep;
mod outbound;
mod outbox;
mod packets;
mod parcel;
mod publish;
mod rare;
mod record;
mod refusals;
mod retained;
mod session;
mod shared;
mod signing_in;
mod slab;
mod stencil;
mod subscribe;
mod subscriptions;
mod sys;
mod timers;
mod write;

use self::session::Session;
use super::auth::Auth;
use super::crowd::Crowd;
use super::{Claim, Hold, Request};
use crate::event::{Notice, Op, Output, Peer, RecordKey, RecordKind, Setup};
use crate::id::{ConnId, DeviceId};
use crate::message::{Message, Qos};
use crate::mutant::Planted;
use crate::stats::ProtocolStats;
use crate::time::{Duration, Instant, Now};
use bytes::Bytes;
use clearing::Clearing;
use connection::{Connection, Phase};
use deliver::Handout;
use ending::Ending;
use packets::Exchange;
use retained::Kept;
use shared::{Shared, Testator, quoted};
use slab::{SessionKey, Slab};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use subscriptions::{Found, Tree};
use tidegate_wire::mqtt::{self, Kind, ReasonCode};
use timers::{Due, Timers};

/// What an MQTT session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    session: SessionKey,
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The message of this serial number, to be safe.
    Message(u64),
    /// The QoS 2 packet id, to be free.
    Release(u16),
    /// The session's record of this number, to be durable.
    Record(u64),
    /// The record of the outgoing message of this number, or of its release, to be durable.
    Kept(u64),
    /// The removal of this number, of all that was recorded of a session that has ended, to be durable.
    Cleared(u64),
}

/// What became of a message that was handed to the local subscribers.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Subscribers that took it.
    pub taken: usize,
    /// Copies for which the publisher must wait: each is reported with [`Request::Settled`], later.
    pub claimed: u32,
    /// Records of copies, to be made durable in this order, before any change that is asked for later. Call `safe` with each
    /// receipt.
    pub records: Vec<(Op, super::Receipt)>,
}

/// All MQTT connections and sessions.
#[derive(Debug)]
pub struct Mqtt {
    connections: BTreeMap<ConnId, Box<Connection>>,
    /// Connections whose CONNECT has not been accepted.
    greeting: Crowd,
    /// Connections of each address.
    addresses: BTreeMap<IpAddr, usize>,
    sessions: Slab<Session>,
    clients: BTreeMap<DeviceId, SessionKey>,
    /// Clients whose ended session may still stand in the store.
    clearing: Clearing,
    tree: Tree,
    timers: Timers,
    auth: Auth,
    shared: Shared,
    /// There are messages of an earlier life whose age the clock on the wall will tell.
    unsettled: bool,
    epoch: u64,
    /// Client ids made up in this life.
    assigned: u64,
    /// Kept for its memory.
    matches: Found,
}

impl Mqtt {
    /// Begins with the sessions that the store remembers.
    #[must_use]
    pub fn new(setup: &Setup, planted: Planted, records: &[(RecordKey, Bytes)], now: Now) -> Self {
        let mut mqtt = Self {
            connections: BTreeMap::new(),
            greeting: Crowd::default(),
            addresses: BTreeMap::new(),
            sessions: Slab::new(),
            clients: BTreeMap::new(),
            clearing: Clearing::default(),
            tree: Tree::new(setup.seed),
            timers: Timers::default(),
            auth: Auth::new(setup),
            shared: Shared::new(setup, planted, now),
            unsettled: false,
            epoch: setup.epoch,
            assigned: 0,
            matches: Found::default(),
        };
        mqtt.restore_all(records, now);
        for (key, value) in records.iter().filter(|(key, _)| key.kind == RecordKind::Retained) {
            mqtt.restore_retained(now, key, value);
        }
        mqtt.forget_revoked();
        mqtt.refresh_sys(now.instant);
        mqtt
    }

    fn restore_retained(&mut self, now: Now, key: &RecordKey, value: &[u8]) {
        let shared = &mut self.shared;
        match shared.retained.restore(now, &key.key, value) {
            Ok(true) => return,
            Ok(false) => {}
            Err(reason) => {
                let topic = String::from_utf8_lossy(&key.key).escape_default().to_string();
                shared.output(Output::Notice(Notice::RetainedLost { topic, reason }));
            }
        }
        shared.change(Op::Remove { key: key.clone() });
    }

    /// Plants a deliberate defect, or none.
    pub fn plant(&mut self, planted: Planted) {
        self.shared.planted = planted;
    }

    /// A connection was accepted. One more than the limits allow is told so in answer to its CONNECT; when too many
    /// have not sent theirs, the one that has taken longest is closed, of the address that has the most.
    pub fn opened(&mut self, now: Now, conn: ConnId, peer: Peer) {
        self.note_clock(now);
        let limits = &self.shared.limits;
        let address = peer.address.ip().to_canonical();
        let here = self.addresses.entry(address).or_default();
        *here += 1;
        let refusal = if self.shared.stopping {
            Some((ReasonCode::SERVER_UNAVAILABLE, "the gateway stops"))
        } else if self.connections.len() >= limits.connections {
            Some((ReasonCode::SERVER_BUSY, "there are as many connections as the limit allows"))
        } else if *here > limits.connections_per_address && !address.is_loopback() {
            // On the loopback interface an address says nothing about who comes.
            Some((
                ReasonCode::QUOTA_EXCEEDED,
                "there are as many connections of this address as the limit allows",
            ))
        } else {
            None
        };
        let mut connection = Box::new(Connection::new(peer, now.instant, refusal));
        let due = now.instant.after(limits.connect_timeout);
        self.timers.arm(&mut connection.armed, due, Due::Connection(conn));
        let crowded = self.greeting.len() >= limits.connections_unauthenticated;
        self.connections.insert(conn, connection);
        if let Some(first) = self.greeting.first().filter(|_| crowded) {
            let words = "too many connections have not sent their CONNECT, and it is the oldest of the address with the most";
            self.end(now.instant, first, &Ending::fault(ReasonCode::CONNECTION_RATE_EXCEEDED, words));
        }
        self.greeting.insert(conn, address);
    }

    /// Bytes came in.
    pub fn received(&mut self, now: Now, conn: ConnId, bytes: Bytes) {
        self.note_clock(now);
        self.shared.bytes_received += bytes.len() as u64;
        self.take_in(now.instant, conn, bytes);
    }

    /// Bytes have left: there is room for more.
    pub fn sent(&mut self, now: Now, conn: ConnId, count: usize) {
        self.note_clock(now);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.outbox.sent(count);
        if let Some(mut exchange) = self.exchange_of(now.instant, conn)
            && (exchange.session.outbound.len() > 0 || !exchange.session.replays.is_empty())
        {
            exchange.pump();
        }
        self.regulate(conn);
    }

    /// A connection is gone.
    pub fn closed(&mut self, now: Now, conn: ConnId) {
        self.note_clock(now);
        self.leave(now.instant, conn, &Ending::gone());
        self.clearing.forget(conn);
        let Some(connection) = self.connections.remove(&conn) else { return };
        self.shared.queued_bytes = self.shared.queued_bytes.saturating_sub(connection.weighed);
        let address = connection.peer.address.ip().to_canonical();
        if let Some(here) = self.addresses.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// What the receipt stands for is safe: only this makes an acknowledgement leave (P1).
    pub fn safe(&mut self, now: Now, receipt: Receipt) {
        self.note_clock(now);
        match receipt.waiting {
            Waiting::Cleared(number) => return self.cleared(now.instant, number),
            Waiting::Kept(number) => return self.secured(now.instant, receipt.session, number),
            _ => {}
        }
        let Some(session) = self.sessions.get_mut(receipt.session) else { return };
        let connection = session.connection();
        let release_answered = match receipt.waiting {
            Waiting::Message(serial) => {
                session.inbound.safe(serial, self.shared.planted);
                None
            }
            Waiting::Release(packet_id) => session.inbound.released(packet_id).then_some(packet_id),
            Waiting::Record(serial) => {
                session.answers.durable = session.answers.durable.max(serial);
                None
            }
            Waiting::Cleared(_) | Waiting::Kept(_) => None,
        };
        let Some(id) = connection else {
            // Whoever comes back sends QoS 1 again, and gets PUBREC for QoS 2 again.
            session.inbound.acknowledge(self.shared.planted, |_| {});
            return;
        };
        let Some(mut exchange) = self.exchange_of(now.instant, id) else { return };
        if !exchange.connection.reading {
            // Who waits for us and is not read is not silent as long as we get on with what it sent: to be cut off in the middle
            // would have it send everything again, and never end.
            exchange.connection.heard = now.instant;
        }
        match receipt.waiting {
            Waiting::Message(_) => exchange.acknowledge(),
            Waiting::Record(serial) => exchange.recorded(serial),
            Waiting::Cleared(_) | Waiting::Kept(_) => {}
            Waiting::Release(_) => {
                if let Some(packet_id) = release_answered {
                    let version = exchange.version();
                    write::ack(
                        &mut exchange.connection.outbox,
                        version,
                        Kind::PubComp,
                        packet_id,
                        ReasonCode::SUCCESS,
                    );
                    exchange.shared.stir(id, exchange.connection);
                }
            }
        }
        let leaving = exchange.link_mut().is_some_and(|link| link.leaving);
        if leaving {
            if exchange.session.is_idle() {
                self.end(now.instant, id, &Ending::stop());
            }
        } else {
            let held = exchange.shared.hold == Hold::Busy;
            let most = if held { 0 } else { usize::from(exchange.shared.limits.receive_maximum / 2) };
            let waits = held || !exchange.connection.waiting.is_empty();
            if waits && exchange.session.inbound.pending() <= most {
                self.resume(now.instant, id);
            }
        }
        if matches!(receipt.waiting, Waiting::Record(_)) {
            // Retained messages may have gone out behind a SUBACK.
            self.watch(receipt.session);
        }
    }

    /// Hands a message to the local subscribers; `from` is the client identifier of its publisher, for No Local. With a
    /// `claim` its publisher waits until their copies are safe. `keep`: the store will learn in the same transaction that
    /// the message was accepted, so that it must have the copies, too.
    pub fn deliver(
        &mut self,
        now: Now,
        message: &Arc<Message>,
        from: Option<&DeviceId>,
        claim: Option<Claim>,
        keep: bool,
    ) -> Delivered {
        self.note_clock(now);
        let since = now.instant;
        let delivered = Delivered::default();
        let mut handout = Handout { message, from, since, waited: Duration::ZERO, claim, keep, delivered };
        self.fan_out(now.instant, &mut handout);
        handout.delivered
    }

    /// Retains a message whose publisher wants that, if there is room: the change of the store that makes it last.
    pub fn retain(&mut self, now: Now, message: &Arc<Message>) -> Option<Op> {
        if self.shared.limits.retained_messages == 0 {
            return None;
        }
        match self.shared.retained.keep(now.instant, message, &self.shared.limits) {
            Kept::Changed(op) => Some(op),
            Kept::Full(op) => {
                self.shared.not_retained += 1;
                self.shared.output(Output::Notice(Notice::NotRetained { topic: message.topic.clone() }));
                op
            }
        }
    }

    /// Devices are to hold back, or may go on: publishers are not read; QoS 0 is dropped whoever is to hold.
    pub fn hold(&mut self, now: Now, hold: Hold) {
        self.note_clock(now);
        let eased = hold < std::mem::replace(&mut self.shared.hold, hold);
        let all: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in all {
            if eased {
                self.resume(now.instant, id);
            } else {
                self.regulate(id);
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) {
        self.note_clock(now);
        while let Some(due) = self.timers.pop(now.instant) {
            match due {
                Due::Connection(id) => self.connection_due(now.instant, id),
                Due::Session(key) => self.session_due(now.instant, key),
            }
        }
        while let Some(op) = self.shared.retained.expired(now.instant) {
            self.shared.change(op);
        }
        self.sys_due(now.instant);
    }

    /// When [`Mqtt::tick`] is due next.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        let others = [self.shared.retained.timeout(), self.shared.sys.timeout()];
        others.into_iter().chain([self.timers.next()]).flatten().min()
    }

    /// Ends: nothing more is read, and every connection is closed once what it still waits for has been acknowledged.
    pub fn stop(&mut self, now: Now) {
        self.note_clock(now);
        self.shared.stopping = true;
        let lasting: Vec<SessionKey> = self.clients.values().copied().collect();
        for key in lasting {
            self.spill(now.instant, key, Duration::ZERO);
        }
        let all: Vec<ConnId> = self.connections.keys().copied().collect();
        for id in all {
            let idle = match self.exchange_of(now.instant, id) {
                Some(mut exchange) => {
                    if let Some(link) = exchange.link_mut() {
                        link.leaving = true;
                    }
                    exchange.session.is_idle()
                }
                None => true,
            };
            if idle {
                self.end(now.instant, id, &Ending::stop());
            } else {
                self.regulate(id);
            }
        }
    }

    /// New limits and access rules; who may not be here any more is told so and disconnected.
    pub fn reload(&mut self, now: Now, setup: &Setup) {
        self.shared.limits = setup.limits.clone();
        self.auth.configure(setup);
        self.apply_rights(now.instant);
    }

    /// The certificate of a connection is not accepted any more.
    pub fn revoked(&mut self, now: Now, conn: ConnId) {
        self.turn_out(now.instant, conn);
    }

    /// A password was verified.
    pub fn verified(&mut self, now: Now, conn: ConnId, genuine: bool) {
        self.password_verified(now.instant, conn, genuine);
    }

    /// The next request to the rest of the engine. What goes to the connections comes when nothing else is left,
    /// one write a connection: call it until `None`.
    pub fn poll(&mut self) -> Option<Request> {
        self.greet_watchers();
        loop {
            if let Some(request) = self.shared.requests.pop_front() {
                return Some(request);
            }
            let id = self.shared.dirty.pop_front()?;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.dirty = false;
            if connection.is_unanswered() {
                continue;
            }
            self.shared.packets_sent += u64::from(connection.outbox.take_packets());
            for bytes in connection.outbox.take() {
                self.shared.bytes_sent += bytes.len() as u64;
                self.shared.requests.push_back(Request::Output(Output::Send { conn: id, bytes }));
            }
            let session = connection.link().map(|link| link.session);
            self.regulate(id);
            // Retained messages may have come into the session's queue: nobody waits for them, but time does.
            if let Some(key) = session {
                self.watch(key);
            }
        }
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> ProtocolStats {
        ProtocolStats {
            peers: self.connections.len() as u64,
            sessions: self.sessions.len() as u64,
            subscriptions: self.tree.len() as u64,
            retained: self.shared.retained.len() as u64,
            not_retained: self.shared.not_retained,
            received: self.shared.received,
            repeated: self.shared.repeated,
            acknowledged: self.shared.acknowledged,
            delivered: self.shared.delivered,
            dropped: self.shared.dropped,
            queued: self.shared.queued as u64,
            queued_bytes: self.shared.queued_bytes as u64,
            refused: self.shared.refused,
            refusals: self.shared.refusals.by_name(),
            sign_ins_refused: self.shared.sign_ins_refused,
            publishes_denied: self.shared.publishes_denied,
            subscriptions_denied: self.shared.subscriptions_denied,
        }
    }

    /// An open connection with its session.
    fn exchange_of(&mut self, now: Instant, id: ConnId) -> Option<Exchange<'_>> {
        let connection = self.connections.get_mut(&id)?;
        let Phase::Open(link) = &connection.phase else { return None };
        let key = link.session;
        let session = self.sessions.get_mut(key)?;
        Some(Exchange { now, id, key, connection, session, shared: &mut self.shared, tree: &mut self.tree })
    }
}

/// A quality of service as the codec names it.
const fn wire_qos(qos: Qos) -> mqtt::Qos {
    match qos {
        Qos::AtMostOnce => mqtt::Qos::AtMostOnce,
        Qos::AtLeastOnce => mqtt::Qos::AtLeastOnce,
        Qos::ExactlyOnce => mqtt::Qos::ExactlyOnce,
    }
}

/// A quality of service as the engine names it.
const fn engine_qos(qos: mqtt::Qos) -> Qos {
    match qos {
        mqtt::Qos::AtMostOnce => Qos::AtMostOnce,
        mqtt::Qos::AtLeastOnce => Qos::AtLeastOnce,
        mqtt::Qos::ExactlyOnce => Qos::ExactlyOnce,
    }
}
