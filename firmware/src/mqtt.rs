//! A MQTT client for devices, for versions 3.1.1 and 5: publishes with QoS 0, 1 and 2, takes commands.
//! Sans-IO: no socket, no clock, no allocation. Everything that waits has room from the start.
//!
//! After the transport is connected call [`Publisher::connect`]; then, whenever something happened: feed
//! [`Publisher::handle_bytes`] or [`Publisher::handle_timeout`], take events from [`Publisher::poll_event`] until there are
//! none, send what [`Publisher::poll_transmit`] gives until it gives nothing, look for events once more, and sleep until
//! [`Publisher::poll_timeout`]. When the transport is gone say so with [`Publisher::connection_lost`], and connect again when
//! you like: what was not acknowledged is sent again, in order.

mod config;
mod incoming;
mod outbox;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use config::{Config, Event, Message, PublishError, Reason, Session};
pub use tidegate_wire::mqtt::{Properties, Property, Qos, ReasonCode, Version, Will};

use outbox::Outbox;
use receive::{Inbox, List};
use tidegate_wire::mqtt::{
    EncodeError, Kind, Packet, PacketId, Publish, Subscribe, Subscription, Subscriptions, encode,
    is_topic_filter, is_topic_name,
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

/// A QoS 2 message from the server, taken by the caller, whose identifier the server has not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreleased {
    id: u16,
    /// It came on an earlier connection, and nothing has been heard of it on this one.
    earlier: bool,
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
    inbound: List<Unreleased, INBOUND_QOS2>,
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
            inbound: List::new(Unreleased { id: 0, earlier: false }),
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
        let largest = self.config.largest_packet_id;
        let above = (1..=largest).skip(self.last_id.into());
        above
            .chain(1..=self.last_id.min(largest))
            .filter_map(PacketId::new)
            .find(|id| !used(id.get()))
            .ok_or(PublishError::Full)
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
        self.inbound.as_mut_slice().iter_mut().for_each(|unreleased| unreleased.earlier = true);
        self.partial = 0;
        (self.leaving, self.lost) = (false, false);
        self.ping = None;
    }

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
