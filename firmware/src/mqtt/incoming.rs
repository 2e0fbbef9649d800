//! What packets from the server do to a publisher: acknowledgements, messages, the end of a connection.
//! Sends nothing itself; replies wait for `transmit`.

use super::{
    Event, Granted, MICROS_PER_SECOND, Phase, Publisher, Reason, Release, Reply, Session, Unreleased,
};
use tidegate_wire::mqtt::{Error, Kind, Packet, PacketId, Publish, Qos, ReasonCode, Sender, decode};

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

impl<const SLOTS: usize, const BYTES: usize, const RECEIVE: usize> Publisher<'_, SLOTS, BYTES, RECEIVE> {
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
                let known = self.inbound.remove(|unreleased| unreleased.id == id.get());
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
        if self.outbox.kind(index) != Some(kind) || (kind == Kind::Publish && self.outbox.qos(index) != qos) {
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
            let known = self.inbound.as_mut_slice().iter_mut().find(|unreleased| unreleased.id == id.get());
            if let Some(known) = known {
                // Shown before, but our PUBREC did not arrive.
                known.earlier = false;
                self.conclude();
                return Step::Again;
            }
            // A server sends again what it remembers before anything new [MQTT-4.4.0-1]: what it has not mentioned by
            // now it has forgotten, and it must not take up the room for ever.
            if self.inbound.is_full() {
                self.inbound.remove(|unreleased| unreleased.earlier);
            }
            if !self.inbound.push(Unreleased { id: id.get(), earlier: false }) {
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
}
