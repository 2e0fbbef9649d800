//! A MQTT client for devices, for versions 3.1.1 and 5: publishes with QoS 0, 1 and 2, takes commands.
//! Sans-IO: no socket, no clock, no allocation. Everything that waits has room from the start.
//!
//! After the transport is connected call [`Publisher::connect`]; then, whenever something happened: feed
//! [`Publisher::handle_bytes`] or [`Publisher::handle_timeout`], take events from [`Publisher::poll_event`] until there are
//! none, send what [`Publisher::poll_transmit`] gives until it gives nothing, look for events once more, and sleep until
//! [`Publisher::poll_timeout`]. When the transport is gone say so with [`Publisher::connection_lost`], and connect again when
//! you like: what was not acknowledged is sent again, in order.

mod config;
mod outbox;
mod receive;
mod transmit;

pub use config::{Config, Event, Message, PublishError, Reason, Session};
pub use tidegate_wire::mqtt::{Properties, Property, Qos, ReasonCode, Version, Will};

use outbox::Outbox;
use receive::{Inbox, List};
use tidegate_wire::mqtt::{
    EncodeError, Error, Kind, Packet, PacketId, Publish, Sender, Subscribe, Subscription, Subscriptions,
    decode, encode, is_topic_filter, is_topic_name,
};

/// QoS 2 messages from the server between PUBREC and PUBREL; told to it as Receive Maximum. Mosquitto sends 20 at
/// once to 3.1.1 clients, which cannot tell it.
const INBOUND_QOS2: usize = 20;

/// Acknowledgements that wait for `poll_transmit`. While there is no room, `poll_event` takes no further packet.
const REPLIES: usize = 8;

/// The longest packet but CONNECT, PUBLISH and SUBSCRIBE that is sent, in bytes. A transmit buffer needs at least this
/// much.
pub const SHORT_PACKET_BYTES: usize = 5;

const MICROS_PER_SECOND: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    /// CONNECT is to be sent.
    Dialled {
        deadline_us: u64,
    },
    /// CONNACK is to come.
    Greeted {
        deadline_us: u64,
        clean: bool,
    },
    Online,
}

/// An acknowledgement to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    kind: Kind,
    id: PacketId,
    reason: ReasonCode,
}

/// A QoS 2 message that the server has and whose identifier is not yet free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Release {
    id: u16,
    sent: bool,
}

/// What the server has said that it takes.
#[derive(Clone, Copy, Debug)]
struct Granted {
    receive_maximum: usize,
    packet_bytes: usize,
    qos: Qos,
    retain: bool,
    keep_alive_us: u64,
}

/// What a packet from the server means, without borrowing from it.
enum Incoming {
    Accepted { session_present: bool, granted: Granted },
    NotAccepted(ReasonCode),
    Ack(Kind, PacketId, ReasonCode),
    SubAck(PacketId, ReasonCode),
    Message(Qos, Option<PacketId>),
    Pong,
    Disconnect(ReasonCode),
}

enum Step {
    Idle,
    Again,
    Event(Event<'static>),
    Message,
}

/// A MQTT client that keeps up to `SLOTS` messages of together `BYTES` (as packets) until they are acknowledged, and
/// takes packets of up to `RECEIVE` bytes.
///
/// Large: put it into a `static` or behind a reference; moving it costs its size again as stack.
#[derive(Debug)]
pub struct Publisher<'c, const SLOTS: usize, const BYTES: usize, const RECEIVE: usize> {
    config: Config<'c>,
    phase: Phase,
    outbox: Outbox<SLOTS, BYTES>,
    releases: List<Release, SLOTS>,
    last_id: u16,
    /// Bytes of the first unsent entry that are already with the transport.
    partial: usize,
    inbox: Inbox<RECEIVE>,
    inbound: List<u16, INBOUND_QOS2>,
    replies: List<Reply, REPLIES>,
    /// The message that the caller is looking at: its size, and what acknowledges it.
    shown: Option<(usize, Option<Reply>)>,
    granted: Granted,
    /// A session of this object's life exists, so the server's session may be gone on with.
    remembers: bool,
    /// The server has a session of an earlier life, to be ended by a clean one (before MQTT 5).
    purge: bool,
    leaving: bool,
    lost: bool,
    ended: Option<Reason>,
    farewell: Option<ReasonCode>,
    last_sent_us: u64,
    last_received_us: u64,
    /// Since when an answer to a ping is expected, and whether the ping has still to be sent.
    ping: Option<(u64, bool)>,
}

const RELEASE: Release = Release { id: 0, sent: false };
const REPLY: Reply = Reply { kind: Kind::PubAck, id: PacketId::MIN, reason: ReasonCode::SUCCESS };
const UNLIMITED: Granted = Granted {
    receive_maximum: u16::MAX as usize,
    packet_bytes: usize::MAX,
    qos: Qos::ExactlyOnce,
    retain: true,
    keep_alive_us: 0,
};

impl<'c, const SLOTS: usize, const BYTES: usize, const RECEIVE: usize> Publisher<'c, SLOTS, BYTES, RECEIVE> {
    /// A publisher that is not connected.
    #[must_use]
    pub const fn new(config: Config<'c>) -> Self {
        Self {
            config,
            phase: Phase::Offline,
            outbox: Outbox::new(),
            releases: List::new(RELEASE),
            last_id: 0,
            partial: 0,
            inbox: Inbox::new(),
            inbound: List::new(0),
            replies: List::new(REPLY),
            shown: None,
            granted: UNLIMITED,
            remembers: false,
            purge: false,
            leaving: false,
            lost: false,
            ended: None,
            farewell: None,
            last_sent_us: 0,
            last_received_us: 0,
            ping: None,
        }
    }

    /// The transport is connected anew. What is left of an earlier connection is abandoned.
    pub fn connect(&mut self, now_us: u64) {
        self.end(Reason::ConnectionLost, None);
        (self.ended, self.farewell) = (None, None);
        self.phase = Phase::Dialled { deadline_us: now_us.saturating_add(self.config.response_timeout_us) };
    }

    /// The transport is gone. What came before is still worked off by `poll_event`.
    pub fn connection_lost(&mut self) {
        self.lost = self.phase != Phase::Offline;
        self.farewell = None;
    }

    /// Ends the connection in good order: `poll_transmit` gives a DISCONNECT, then there is
    /// [`Event::Disconnected`]. What is not acknowledged stays for the next connection, but for QoS 0.
    pub fn disconnect(&mut self) {
        match self.phase {
            Phase::Online => self.leaving = true,
            _ => self.end(Reason::Requested, None),
        }
    }

    /// Whether the server has accepted the connection and it is not over.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Online && !self.leaving && !self.lost
    }

    /// How many messages and subscriptions are not yet acknowledged, QoS 2's identifiers included. At `SLOTS` nothing
    /// more is taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.outbox.entries().len() + self.releases.as_slice().len()
    }

    /// Takes a message. With QoS 1 and 2 it is kept, also without a connection, until [`Event::Acknowledged`] or
    /// [`Event::Refused`] tells its `token`; QoS 0 is forgotten when it has been handed to the transport.
    ///
    /// # Errors
    /// Why it was not taken; nothing has changed then.
    pub fn publish(&mut self, message: &Message<'_>, token: u32) -> Result<(), PublishError> {
        if !is_topic_name(message.topic) {
            return Err(PublishError::Topic);
        }
        if message.properties.topic_alias().is_some() {
            return Err(PublishError::Encode(EncodeError::Property));
        }
        let Message { topic, payload, qos, retain, properties } = *message;
        let packet_id = if qos == Qos::AtMostOnce { None } else { Some(self.free_id()?) };
        if packet_id.is_none() && !self.is_connected() {
            return Err(PublishError::Offline);
        }
        let publish = Publish { dup: false, qos, retain, topic, packet_id, properties, payload };
        self.enqueue(token, packet_id, &Packet::Publish(publish))
    }

    /// Subscribes to one topic filter; [`Event::Subscribed`] tells what the server said. Needs a connection, as
    /// subscriptions are made after [`Event::Connected`] without a session.
    ///
    /// # Errors
    /// Why it was not taken; nothing has changed then.
    pub fn subscribe(&mut self, filter: &str, qos: Qos, token: u32) -> Result<(), PublishError> {
        if !is_topic_filter(filter) {
            return Err(PublishError::Topic);
        }
        if !self.is_connected() {
            return Err(PublishError::Offline);
        }
        let packet_id = self.free_id()?;
        let list = [Subscription::new(filter, qos)];
        let subscriptions = Subscriptions::new(&list);
        let packet = Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, subscriptions });
        self.enqueue(token, Some(packet_id), &packet)
    }

    fn enqueue(&mut self, token: u32, id: Option<PacketId>, packet: &Packet<'_>) -> Result<(), PublishError> {
        if self.pending() >= SLOTS {
            return Err(PublishError::Full);
        }
        let version = self.config.version;
        let id = id.map_or(0, PacketId::get);
        match self.outbox.push(token, id, |room| encode(version, packet, room)) {
            Ok(()) => {
                self.last_id = if id == 0 { self.last_id } else { id };
                Ok(())
            }
            Err(EncodeError::BufferTooSmall { needed }) if needed <= BYTES => Err(PublishError::Full),
            Err(EncodeError::BufferTooSmall { .. }) => Err(PublishError::TooLarge),
            Err(error) => Err(PublishError::Encode(error)),
        }
    }

    /// The next packet identifier that nothing uses [MQTT-2.2.1-3].
    fn free_id(&self) -> Result<PacketId, PublishError> {
        let used = |id: u16| {
            self.outbox.entries().iter().any(|entry| entry.id == id)
                || self.releases.as_slice().iter().any(|release| release.id == id)
        };
        (1..=u16::MAX)
            .filter_map(|step| PacketId::new(self.last_id.wrapping_add(step)))
            .find(|id| !used(id.get()))
            .ok_or(PublishError::Full)
    }

    // ---------------------------------------------------------------------------------------- bytes in, events out

    /// Takes bytes from the transport and says how many. If fewer than all, take events and come again with the rest.
    #[must_use]
    pub fn handle_bytes(&mut self, now_us: u64, bytes: &[u8]) -> usize {
        if self.phase == Phase::Offline || self.lost {
            return bytes.len();
        }
        if !bytes.is_empty() {
            self.last_received_us = now_us;
        }
        // While a message is shown it must not move.
        self.conclude();
        self.inbox.push(bytes)
    }

    /// What has happened since, one event a call.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        self.conclude();
        loop {
            match self.step() {
                Step::Idle => return None,
                Step::Again => {}
                Step::Event(event) => return Some(event),
                Step::Message => break,
            }
        }
        // Decoded once more, because an event must not hold on to what `step` changes.
        match self.inbox.packet().ok()?.map(|(_, packet)| decode(self.config.version, packet))?.ok()? {
            Packet::Publish(Publish { topic, payload, qos, retain, dup, properties, .. }) => {
                let dup = dup && qos == Qos::AtLeastOnce;
                Some(Event::Message { topic, payload, qos, retain, dup, properties })
            }
            _ => None,
        }
    }

    /// The caller has taken the message that it was shown.
    fn conclude(&mut self) {
        if let Some((bytes, reply)) = self.shown.take() {
            self.inbox.consume(bytes);
            if let Some(reply) = reply {
                self.replies.push(reply);
            }
        }
    }

    fn step(&mut self) -> Step {
        if let Some(reason) = self.ended.take() {
            return Step::Event(Event::Disconnected { reason });
        }
        if self.phase == Phase::Offline {
            return Step::Idle;
        }
        if let Some(reason) = self.unacceptable().filter(|_| self.phase == Phase::Online) {
            let refused = self.first_unsent().and_then(|index| self.outbox.remove(index));
            return refused
                .map_or(Step::Again, |entry| Step::Event(Event::Refused { token: entry.token, reason }));
        }
        // A packet makes one reply at the most.
        if self.replies.is_full() && !self.lost {
            return Step::Idle;
        }
        match self.inbox.packet() {
            Ok(Some((frame, packet))) => {
                let bytes = frame.total_bytes();
                match self.understand(packet) {
                    Ok(incoming) => self.apply(incoming, bytes),
                    Err(error) => self.end_again(Reason::Protocol(error), error.reason()),
                }
            }
            Ok(None) if self.lost => {
                self.end(Reason::ConnectionLost, None);
                Step::Again
            }
            Ok(None) => Step::Idle,
            Err(Some(error)) => self.end_again(Reason::Protocol(error), error.reason()),
            Err(None) => self.end_again(Reason::PacketTooLarge, ReasonCode::PACKET_TOO_LARGE),
        }
    }

    fn end_again(&mut self, reason: Reason, farewell: ReasonCode) -> Step {
        self.end(reason, Some(farewell));
        Step::Again
    }

    fn understand(&self, packet: &[u8]) -> Result<Incoming, Error> {
        let packet = decode(self.config.version, packet)?;
        packet.check_sender(Sender::Server)?;
        let greeted = matches!(self.phase, Phase::Greeted { .. });
        if greeted != matches!(packet, Packet::ConnAck(_)) {
            return Err(Error::WrongSender);
        }
        Ok(match packet {
            Packet::ConnAck(connack) if connack.reason.is_failure() => Incoming::NotAccepted(connack.reason),
            Packet::ConnAck(connack) => {
                let properties = connack.properties;
                let keep_alive_s = properties.server_keep_alive().unwrap_or(self.config.keep_alive_s);
                Incoming::Accepted {
                    session_present: connack.session_present,
                    granted: Granted {
                        receive_maximum: usize::from(properties.receive_maximum().unwrap_or(u16::MAX)),
                        packet_bytes: properties
                            .maximum_packet_size()
                            .map_or(usize::MAX, |size| size as usize),
                        qos: properties.maximum_qos().unwrap_or(Qos::ExactlyOnce),
                        retain: properties.retain_available().unwrap_or(true),
                        keep_alive_us: u64::from(keep_alive_s) * MICROS_PER_SECOND,
                    },
                }
            }
            Packet::PubAck(ack) => Incoming::Ack(Kind::PubAck, ack.packet_id, ack.reason),
            Packet::PubRec(ack) => Incoming::Ack(Kind::PubRec, ack.packet_id, ack.reason),
            Packet::PubRel(ack) => Incoming::Ack(Kind::PubRel, ack.packet_id, ack.reason),
            Packet::PubComp(ack) => Incoming::Ack(Kind::PubComp, ack.packet_id, ack.reason),
            Packet::SubAck(suback) => match suback.codes {
                [code] => Incoming::SubAck(suback.packet_id, ReasonCode(*code)),
                _ => return Err(Error::NoEntries),
            },
            // We allow no aliases: Topic Alias Maximum is absent from CONNECT.
            Packet::Publish(publish) if publish.properties.topic_alias().is_some() => {
                return Err(Error::TopicAlias);
            }
            Packet::Publish(publish) => Incoming::Message(publish.qos, publish.packet_id),
            Packet::PingResp => Incoming::Pong,
            Packet::Disconnect(disconnect) if self.config.version.is_v5() => {
                Incoming::Disconnect(disconnect.reason)
            }
            _ => return Err(Error::WrongSender),
        })
    }

    fn apply(&mut self, incoming: Incoming, bytes: usize) -> Step {
        if !matches!(incoming, Incoming::Message(..)) {
            self.inbox.consume(bytes);
        }
        match incoming {
            Incoming::Accepted { session_present, granted } => self.accepted(session_present, granted),
            Incoming::NotAccepted(reason) => {
                self.end(Reason::Refused(reason), None);
                Step::Again
            }
            Incoming::Ack(Kind::PubAck, id, reason) => self.acknowledged(id, Qos::AtLeastOnce, reason),
            Incoming::Ack(Kind::PubRec, id, reason) => self.received(id, reason),
            Incoming::Ack(Kind::PubRel, id, _) => {
                let known = self.inbound.remove(|&known| known == id.get());
                self.reply(Kind::PubComp, id, known)
            }
            Incoming::Ack(_, id, _) => {
                self.releases.remove(|release| release.id == id.get());
                Step::Again
            }
            Incoming::SubAck(id, reason) => match self.take(id, Kind::Subscribe, Qos::AtMostOnce) {
                Some(token) => Step::Event(Event::Subscribed { token, reason }),
                None => Step::Again,
            },
            Incoming::Message(qos, id) => self.message(qos, id, bytes),
            Incoming::Pong => {
                self.ping = None;
                Step::Again
            }
            Incoming::Disconnect(reason) => {
                self.end(Reason::ByServer(reason), None);
                Step::Again
            }
        }
    }

    fn accepted(&mut self, session_present: bool, granted: Granted) -> Step {
        let persistent = matches!(self.config.session, Session::Persistent { .. });
        if let Phase::Greeted { clean: true, .. } = self.phase
            && session_present
        {
            return self.end_again(Reason::Protocol(Error::SessionPresent), ReasonCode::PROTOCOL_ERROR);
        }
        if self.purge || (session_present && !self.remembers) {
            // First found, then replaced by a clean session, which ends with its connection.
            self.purge = !self.purge;
            return self.end_again(Reason::StaleSession, ReasonCode::SUCCESS);
        }
        if !session_present {
            self.inbound.clear();
            // The server had these messages when it said PUBREC: nothing is left to release.
            self.releases.clear();
        }
        self.remembers = persistent;
        self.granted = granted;
        self.phase = Phase::Online;
        Step::Event(Event::Connected { session_present })
    }

    /// Takes the entry out that was sent under `id`, if it is of this kind and QoS.
    fn take(&mut self, id: PacketId, kind: Kind, qos: Qos) -> Option<u32> {
        let index = self.outbox.entries().iter().position(|entry| entry.sent && entry.id == id.get())?;
        if self.outbox.kind(index) != Some(kind) || (kind == Kind::Publish && self.qos(index) != qos) {
            return None;
        }
        self.outbox.remove(index).map(|entry| entry.token)
    }

    fn acknowledged(&mut self, id: PacketId, qos: Qos, reason: ReasonCode) -> Step {
        // An acknowledgement of what is not under way says nothing: a server may repeat itself.
        match self.take(id, Kind::Publish, qos) {
            Some(token) if reason.is_failure() => Step::Event(Event::Refused { token, reason }),
            Some(token) => Step::Event(Event::Acknowledged { token }),
            None => Step::Again,
        }
    }

    fn received(&mut self, id: PacketId, reason: ReasonCode) -> Step {
        if let Some(release) = self.releases.as_mut_slice().iter_mut().find(|release| release.id == id.get())
        {
            release.sent = false;
            return Step::Again;
        }
        match self.acknowledged(id, Qos::ExactlyOnce, reason) {
            Step::Event(event) => {
                if !reason.is_failure() {
                    self.releases.push(Release { id: id.get(), sent: false });
                }
                Step::Event(event)
            }
            _ if reason.is_failure() => Step::Again,
            _ => self.reply(Kind::PubRel, id, false),
        }
    }

    fn message(&mut self, qos: Qos, id: Option<PacketId>, bytes: usize) -> Step {
        let reply = id.map(|id| Reply {
            kind: if qos == Qos::ExactlyOnce { Kind::PubRec } else { Kind::PubAck },
            id,
            reason: ReasonCode::SUCCESS,
        });
        self.shown = Some((bytes, reply));
        if let (Qos::ExactlyOnce, Some(id)) = (qos, id) {
            if self.inbound.as_slice().contains(&id.get()) {
                // Shown before, but our PUBREC did not arrive.
                self.conclude();
                return Step::Again;
            }
            if !self.inbound.push(id.get()) {
                let code = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
                return self.end_again(Reason::TooManyUnreleased, code);
            }
        }
        Step::Message
    }

    fn reply(&mut self, kind: Kind, id: PacketId, known: bool) -> Step {
        let reason = if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        self.replies.push(Reply { kind, id, reason });
        Step::Again
    }

    /// The connection is over. `farewell` is what a DISCONNECT may still say.
    fn end(&mut self, reason: Reason, farewell: Option<ReasonCode>) {
        if self.phase == Phase::Offline {
            return;
        }
        // Before MQTT 5 a DISCONNECT says that all is well; and none can stand within another packet.
        let sayable = |code: &ReasonCode| self.config.version.is_v5() || *code == ReasonCode::SUCCESS;
        let possible = self.partial == 0 && !self.lost;
        self.farewell = farewell.filter(|code| possible && sayable(code));
        self.ended = Some(reason);
        self.phase = Phase::Offline;
        self.inbox.clear();
        self.shown = None;
        self.replies.clear();
        self.outbox.rewind();
        self.releases.as_mut_slice().iter_mut().for_each(|release| release.sent = false);
        self.partial = 0;
        (self.leaving, self.lost) = (false, false);
        self.ping = None;
    }

    // ----------------------------------------------------------------------------------------------------------- time

    /// When `handle_timeout` wants to be called, in microseconds of the caller's clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.phase {
            Phase::Offline => None,
            Phase::Dialled { deadline_us } | Phase::Greeted { deadline_us, .. } => Some(deadline_us),
            Phase::Online => match self.ping {
                // Anything that comes shows that the server lives.
                Some((since_us, _)) => {
                    Some(since_us.max(self.last_received_us).saturating_add(self.config.response_timeout_us))
                }
                None if self.granted.keep_alive_us == 0 => None,
                // Silence in either direction: the server wants to hear from us, and we want to know of a dead link.
                None => Some(
                    self.last_sent_us.min(self.last_received_us).saturating_add(self.granted.keep_alive_us),
                ),
            },
        }
    }

    /// Does what is due: a ping, or the end of a connection whose server does not answer.
    pub fn handle_timeout(&mut self, now_us: u64) {
        if self.poll_timeout().is_none_or(|due_us| now_us < due_us) {
            return;
        }
        match (self.phase, self.ping) {
            (Phase::Online, None) => self.ping = Some((now_us, true)),
            (Phase::Online, Some(_)) => self.end(Reason::Timeout, Some(ReasonCode::UNSPECIFIED_ERROR)),
            _ => self.end(Reason::Timeout, None),
        }
    }
}
