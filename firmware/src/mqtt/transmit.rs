//! What a publisher sends, and in which order: replies, releases, a ping, then the messages as they were given.
//! Takes nothing in; what the server will not take is left for `incoming` to report.

use super::{Config, INBOUND_QOS2, Phase, Publisher, Reason, Reply, Session};
use tidegate_wire::mqtt::{
    Ack, Connect, Disconnect, Kind, Packet, PacketId, Properties, Property, ReasonCode, encode,
};

impl<const SLOTS: usize, const BYTES: usize, const RECEIVE: usize> Publisher<'_, SLOTS, BYTES, RECEIVE> {
    /// Writes what is to be sent now to the front of `buffer` and says how many bytes that is. All of them must go to
    /// the transport, in order; a PUBLISH may be cut anywhere. The buffer needs [`SHORT_PACKET_BYTES`], and must
    /// hold a whole CONNECT once.
    #[must_use]
    pub fn poll_transmit(&mut self, now_us: u64, buffer: &mut [u8]) -> usize {
        let mut written = 0;
        while let Some(room) = buffer.get_mut(written..) {
            match self.transmit(now_us, room) {
                0 => break,
                count => written += count,
            }
        }
        if written > 0 {
            self.last_sent_us = now_us;
        }
        written
    }

    fn transmit(&mut self, now_us: u64, room: &mut [u8]) -> usize {
        if self.lost {
            return 0;
        }
        match self.phase {
            Phase::Offline => match self.farewell.take() {
                Some(reason) => {
                    self.write(room, &Packet::Disconnect(Disconnect { reason, ..Disconnect::default() }))
                }
                None => 0,
            },
            Phase::Dialled { deadline_us } => self.greet(now_us, deadline_us, room),
            Phase::Greeted { .. } => 0,
            Phase::Online if self.partial > 0 => self.transmit_entry(room),
            Phase::Online => self.transmit_short(room),
        }
    }

    fn write(&self, room: &mut [u8], packet: &Packet<'_>) -> usize {
        // What does not fit now fits at the next call.
        encode(self.config.version, packet, room).unwrap_or(0)
    }

    fn greet(&mut self, now_us: u64, deadline_us: u64, room: &mut [u8]) -> usize {
        let Config { version, client_id, username, password, will, keep_alive_s, session, .. } = self.config;
        let clean = match session {
            Session::Clean => true,
            Session::Persistent { .. } => self.purge || (version.is_v5() && !self.remembers),
        };
        let expiry_s = match session {
            Session::Clean => 0,
            Session::Persistent { expiry_s } => expiry_s,
        };
        let properties = [
            // A few bytes of text in each refusal are of no use to a device.
            Property::RequestProblemInfo(false),
            Property::ReceiveMaximum(INBOUND_QOS2 as u16),
            Property::MaximumPacketSize(u32::try_from(RECEIVE).unwrap_or(u32::MAX).max(1)),
            Property::SessionExpiry(expiry_s),
        ];
        let connect = Connect {
            version,
            clean_start: clean,
            keep_alive: keep_alive_s,
            properties: Properties::new(&properties),
            client_id,
            will,
            username,
            password,
        };
        match encode(version, &Packet::Connect(connect), room) {
            Ok(count) => {
                self.last_received_us = now_us;
                self.phase = Phase::Greeted { deadline_us, clean };
                count
            }
            Err(error) => {
                self.end(Reason::Connect(error), None);
                0
            }
        }
    }

    /// Whatever goes before the messages.
    fn transmit_short(&mut self, room: &mut [u8]) -> usize {
        if let Some(&Reply { kind, id, reason }) = self.replies.as_slice().first() {
            let ack = Ack { reason, ..Ack::success(id) };
            let count = self.write(
                room,
                &match kind {
                    Kind::PubAck => Packet::PubAck(ack),
                    Kind::PubRec => Packet::PubRec(ack),
                    Kind::PubRel => Packet::PubRel(ack),
                    _ => Packet::PubComp(ack),
                },
            );
            if count > 0 {
                self.replies.remove(|_| true);
            }
            return count;
        }
        if self.leaving {
            let count = self.write(room, &Packet::Disconnect(Disconnect::default()));
            if count > 0 {
                self.end(Reason::Requested, None);
            }
            return count;
        }
        if let Some(index) = self.releases.as_slice().iter().position(|release| !release.sent) {
            return self.transmit_release(index, room);
        }
        if let Some((since_us, true)) = self.ping {
            let count = self.write(room, &Packet::PingReq);
            if count > 0 {
                self.ping = Some((since_us, false));
            }
            return count;
        }
        self.transmit_entry(room)
    }

    fn transmit_release(&mut self, index: usize, room: &mut [u8]) -> usize {
        let Some(release) = self.releases.as_mut_slice().get_mut(index) else { return 0 };
        let Some(id) = PacketId::new(release.id) else { return 0 };
        let count = encode(self.config.version, &Packet::PubRel(Ack::success(id)), room).unwrap_or(0);
        release.sent = count > 0;
        count
    }

    pub(super) fn first_unsent(&self) -> Option<usize> {
        self.outbox.entries().iter().position(|entry| !entry.sent)
    }

    /// Why the server will not take the next message.
    pub(super) fn unacceptable(&self) -> Option<ReasonCode> {
        let index = self.first_unsent()?;
        let image = self.outbox.image(index);
        if image.len() > self.granted.packet_bytes {
            return Some(ReasonCode::PACKET_TOO_LARGE);
        }
        if self.outbox.kind(index) != Some(Kind::Publish) {
            return None;
        }
        if self.outbox.qos(index) > self.granted.qos {
            return Some(ReasonCode::QOS_NOT_SUPPORTED);
        }
        (!self.granted.retain && image.first().is_some_and(|first| first & 0x01 != 0))
            .then_some(ReasonCode::RETAIN_NOT_SUPPORTED)
    }

    /// Whether the server's Receive Maximum leaves room for one more (MQTT 5.0, 4.9). Identifiers that are not yet
    /// released count, also after a reconnect: that is never too many.
    fn has_quota(&self) -> bool {
        let under_way = (0_usize..)
            .zip(self.outbox.entries())
            .filter(|(index, entry)| {
                entry.sent && entry.id != 0 && self.outbox.kind(*index) == Some(Kind::Publish)
            })
            .count();
        under_way + self.releases.as_slice().len() < self.granted.receive_maximum
    }

    /// The next message, or what is left of it.
    fn transmit_entry(&mut self, room: &mut [u8]) -> usize {
        let Some(index) = self.first_unsent() else { return 0 };
        let Some(entry) = self.outbox.entries().get(index).copied() else { return 0 };
        let publish = self.outbox.kind(index) == Some(Kind::Publish);
        if self.partial == 0
            && (self.unacceptable().is_some() || (publish && entry.id != 0 && !self.has_quota()))
        {
            return 0;
        }
        let rest = self.outbox.image(index).get(self.partial..).unwrap_or(&[]);
        let (count, whole) = (rest.len().min(room.len()), rest.len() <= room.len());
        let (Some(from), Some(to)) = (rest.get(..count), room.get_mut(..count)) else { return 0 };
        to.copy_from_slice(from);
        if self.partial == 0
            && publish
            && entry.repeated
            && let Some(first) = to.first_mut()
        {
            *first |= 0x08; // DUP [MQTT-3.3.1-1]
        }
        self.partial += count;
        if whole {
            self.partial = 0;
            if entry.id == 0 {
                self.outbox.remove(index);
            } else {
                self.outbox.mark_sent(index);
            }
        }
        count
    }
}
