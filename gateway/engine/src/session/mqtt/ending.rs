//! How connections and sessions end: told why, their will published or dropped, their records removed.
//! And what time alone does to them. Owns no packets beyond DISCONNECT.

use super::connection::{Greeting, Phase};
use super::outbound::Outbound;
use super::session::Presence;
use super::slab::SessionKey;
use super::timers::{Armed, Due};
use super::{Mqtt, Receipt, Waiting, record, write};
use crate::event::{Notice, Op, Output};
use crate::id::ConnId;
use crate::session::{self, Request};
use crate::time::{Duration, Instant};
use std::borrow::Cow;
use tidegate_wire::mqtt::{Error, Kind, ReasonCode};

/// The longest that one packet may take to come in: 256 KiB at 9,600 baud. Keep-alive sees to peers that are silent.
const PACKET_PATIENCE: Duration = Duration::from_secs(300);

/// So long a client is left unread, at the least, while nothing of what it sent becomes safe.
const HELD_PATIENCE: Duration = Duration::from_secs(60);

/// How a connection ends.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// What an MQTT 5 client is told; `None` when it is gone or has said good-bye itself.
    reason: Option<ReasonCode>,
    words: Cow<'static, str>,
    /// Its peer broke the protocol, a bound or a rule.
    refused: bool,
    /// Its will is not published although it did not say good-bye: the gateway itself ends.
    quiet: bool,
}

impl Ending {
    /// The peer broke the protocol, a bound or a rule.
    pub(super) fn fault(reason: ReasonCode, words: &'static str) -> Self {
        Self { reason: Some(reason), words: Cow::Borrowed(words), refused: true, quiet: false }
    }

    /// The peer sent what cannot be read.
    pub(super) fn unreadable(error: Error) -> Self {
        Self {
            reason: Some(error.reason()),
            words: Cow::Owned(error.to_string()),
            refused: true,
            quiet: false,
        }
    }

    /// The client is told why, but is not at fault.
    pub(super) fn told(reason: ReasonCode, words: &'static str) -> Self {
        Self { reason: Some(reason), words: Cow::Borrowed(words), refused: false, quiet: false }
    }

    /// The client said good-bye.
    pub(super) fn wished(reason: ReasonCode) -> Self {
        let words = match reason {
            ReasonCode::SUCCESS => Cow::Borrowed("the client disconnected"),
            other => Cow::Owned(format!("the client disconnected: {other}")),
        };
        Self { reason: None, words, refused: false, quiet: false }
    }

    /// The connection is gone.
    pub(super) fn gone() -> Self {
        let words = Cow::Borrowed("the connection was lost or closed without DISCONNECT");
        Self { reason: None, words, refused: false, quiet: false }
    }

    /// The gateway stops.
    pub(super) fn stop() -> Self {
        let words = Cow::Borrowed("the gateway stops");
        Self { reason: Some(ReasonCode::SERVER_SHUTTING_DOWN), words, refused: false, quiet: true }
    }
}

impl Mqtt {
    /// Ends a connection from this side: DISCONNECT where the version has one [MQTT-4.13.1-1], then close.
    pub(super) fn end(&mut self, now: Instant, id: ConnId, ending: &Ending) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match &connection.phase {
            Phase::Closing => return,
            // Its CONNACK never left, and will not: it is refused.
            Phase::Open(link) if link.unanswered.is_some() => {
                connection.outbox.clear();
                let (version, most) = (connection.version, link.packet_bytes());
                let reason = ending.reason.filter(|reason| reason.belongs_to(Kind::ConnAck));
                self.refuse_connect(
                    id,
                    version,
                    (reason.unwrap_or(ReasonCode::SERVER_UNAVAILABLE), &ending.words),
                    most,
                );
            }
            Phase::Open(link) => {
                let most = link.packet_bytes();
                if let Some(reason) = ending.reason {
                    write::disconnect(
                        &mut connection.outbox,
                        connection.version,
                        reason,
                        &ending.words,
                        most,
                    );
                }
            }
            // The operator knows already.
            Phase::Greeting(Greeting::Refused { .. }) => {}
            Phase::Greeting(_) => {
                let peer = connection.peer.address;
                self.shared
                    .output(Output::Notice(Notice::Refused { peer, reason: ending.words.to_string() }));
            }
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.shared.packets_sent += u64::from(connection.outbox.take_packets());
        for bytes in connection.outbox.take() {
            self.shared.bytes_sent += bytes.len() as u64;
            self.shared.requests.push_back(Request::Output(Output::Send { conn: id, bytes }));
        }
        self.shared.output(Output::Close { conn: id });
        self.shared.refused += u64::from(ending.refused);
        if let Some(reason) = ending.reason {
            self.shared.refusals.count(reason);
        }
        self.leave(now, id, ending);
    }

    /// What a connection's end means for everything but the connection: its session goes on without it.
    pub(super) fn leave(&mut self, now: Instant, id: ConnId, ending: &Ending) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.timers.disarm(&mut connection.armed, Due::Connection(id));
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        connection.release();
        let Phase::Open(link) = phase else {
            self.greeting.remove(id);
            return;
        };
        let reason = ending.words.to_string();
        let Some(session) = self.sessions.get_mut(link.session) else { return };
        let device = session.client.clone();
        self.shared.output(Output::Notice(Notice::Disconnected { device, conn: id, reason }));
        session.presence = Presence::Away;
        session.drop_answers();
        if ending.quiet || link.unanswered.is_some() {
            self.shared.drop_will(session);
        }
        let expiry = session.expiry;
        if let Some(will) = &mut session.will {
            // The will goes out when its delay is over or the session ends, whichever comes first [MQTT-3.1.3-9].
            let delay = will.delay.min(expiry);
            will.due = Some(now.after(delay));
            if delay.is_zero() {
                self.shared.publish_will(session);
            } else if session.will_recorded {
                let op = self.shared.will_record(now, &session.client, will);
                self.shared.change(op);
            }
        }
        if expiry.is_zero() {
            self.remove_session(now, link.session);
            return;
        }
        session.presence = Presence::Until(now.after(expiry));
        // Nobody is there to acknowledge what is under way.
        self.spill(now, link.session, Duration::ZERO);
        self.watch(link.session);
    }

    /// Sets a session's timer.
    pub(super) fn watch(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(due) = session.due(self.shared.limits.outgoing_spill_after)
        {
            self.timers.arm(&mut session.armed, due, Due::Session(key));
        }
    }

    /// Ends a session: nothing of it is kept [MQTT-4.1.0-2]. What was ordered before is carried out before.
    pub(super) fn remove_session(&mut self, now: Instant, key: SessionKey) {
        let Some(mut session) = self.sessions.remove(key) else { return };
        self.timers.disarm(&mut session.armed, Due::Session(key));
        self.shared.publish_will(&mut session);
        self.shared.drop_will(&mut session);
        self.clients.remove(&session.client);
        for filter in session.subscriptions.keys() {
            self.tree.remove(filter, key);
        }
        let session_key = session.recorded.then(|| record::session_key(&session.client));
        let packet_keys = session.inbound.recorded().map(|id| record::packet_key(&session.client, id));
        let mut removals: Vec<_> = packet_keys.collect();
        let left = session.outbound.touched().map(Outbound::drain).unwrap_or_default();
        // Before others of a group take some of it: it must not count twice.
        self.shared.weigh(&mut session);
        for (through, parcel) in left {
            if through.recorded {
                removals.push(record::outgoing_key(&session.client, through.number));
            }
            match (parcel, through.claim) {
                (Some(parcel), claim) => self.pass_on(now, &parcel, claim),
                (None, Some(claim)) => self.shared.settle(claim, false),
                (None, None) => {}
            }
        }
        // The session's own record last: a crash in between must not leave what belongs to a session without it.
        removals.extend(session_key);
        let Some(last) = removals.pop() else { return };
        for key in removals {
            self.shared.change(Op::Remove { key });
        }
        let waiting = Waiting::Cleared(self.clearing.begin(session.client));
        let receipt = Receipt { session: key, waiting };
        self.shared.requests.push_back(Request::Record {
            op: Op::Remove { key: last },
            receipt: Some(session::Receipt::Mqtt(receipt)),
        });
    }

    /// The removals up to this number are durable: whoever waited for them may begin a new session.
    pub(super) fn cleared(&mut self, now: Instant, number: u64) {
        for id in self.clearing.done(number) {
            self.resume(now, id);
        }
    }

    /// A connection's timer went off.
    pub(super) fn connection_due(&mut self, now: Instant, id: ConnId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.armed = Armed::default();
        let patience = self.shared.limits.record_patience;
        let (next, ending) = match &connection.phase {
            Phase::Closing => return,
            Phase::Greeting(Greeting::Refused { due, most }) => {
                let (due, most) = (*due, *most);
                if due <= now {
                    let words = "not authorised";
                    let version = connection.version;
                    self.refuse_connect(id, version, (ReasonCode::NOT_AUTHORIZED, words), most);
                    return self.end(now, id, &Ending::fault(ReasonCode::NOT_AUTHORIZED, words));
                }
                (due, Ending::gone())
            }
            Phase::Greeting(greeting) => {
                let due = connection.waits_since.after(self.shared.limits.connect_timeout);
                let words = match greeting {
                    Greeting::Asked(_) => "its password could not be verified in time",
                    _ => "no whole CONNECT came in time",
                };
                (due, Ending::fault(ReasonCode::MAXIMUM_CONNECT_TIME, words))
            }
            Phase::Open(link) => {
                let silence = link.silence().map(|silence| connection.heard.after(silence));
                let packet =
                    (!connection.input.is_empty()).then(|| connection.waits_since.after(PACKET_PATIENCE));
                let never = now.after(PACKET_PATIENCE);
                match (silence, packet) {
                    (_, Some(packet)) if packet <= silence.unwrap_or(packet) => {
                        (packet, Ending::fault(ReasonCode::UNSPECIFIED_ERROR, "a packet does not end"))
                    }
                    (Some(silence), _) if connection.reading => {
                        let words = "nothing came for one and a half times its keep-alive";
                        (silence, Ending::fault(ReasonCode::KEEP_ALIVE_TIMEOUT, words))
                    }
                    // It was not read: that it seems silent is not its fault, and a short keep-alive must not make it come back and
                    // send everything again before the store has taken what it sent the last time.
                    (Some(silence), _) => {
                        let held = silence.max(connection.heard.after(HELD_PATIENCE));
                        (held, Ending::told(ReasonCode::SERVER_BUSY, "it was told to hold for too long"))
                    }
                    (None, _) => (never, Ending::gone()),
                }
            }
        };
        let (next, ending) = match self.unanswered_since(id) {
            Some(since) if since.after(patience) < next => (
                since.after(patience),
                Ending::told(ReasonCode::SERVER_BUSY, "the store does not take what its answer promises"),
            ),
            _ => (next, ending),
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if next <= now {
            self.end(now, id, &ending);
        } else {
            let next = next.min(now.after(PACKET_PATIENCE));
            self.timers.arm(&mut connection.armed, next, Due::Connection(id));
        }
    }

    /// Since when an answer to a connection has waited for the store.
    pub(super) fn unanswered_since(&self, id: ConnId) -> Option<Instant> {
        let link = self.connections.get(&id)?.link()?;
        let connack = link.unanswered.as_ref().map(|unanswered| unanswered.1);
        connack.or_else(|| Some(self.sessions.get(link.session)?.answers.held.front()?.since))
    }

    /// A session's timer went off.
    pub(super) fn session_due(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.armed = Armed::default();
        self.spill(now, key, self.shared.limits.outgoing_spill_after);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.will.as_ref().and_then(|will| will.due).is_some_and(|due| due <= now) {
            self.shared.publish_will(session);
        }
        if session.ends().is_some_and(|ends| ends <= now) {
            self.remove_session(now, key);
        } else {
            self.watch(key);
        }
    }
}
