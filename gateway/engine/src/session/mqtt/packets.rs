//! From bytes to packets, and each packet to its handler. Packets that are whole in a chunk are read in place; a
//! packet that is cut is put together. Checks sizes before anything is awaited; decides nothing about messages.

use super::connection::{Connection, Link, Phase};
use super::ending::Ending;
use super::session::{HELD_MAX, Session};
use super::slab::SessionKey;
use super::subscriptions::Tree;
use super::timers::Due;
use super::{Mqtt, Shared, write};
use crate::id::ConnId;
use crate::session::Hold;
use crate::time::Instant;
use bytes::Bytes;
use tidegate_wire::mqtt::{self, Frame, Kind, Packet, Properties, ReasonCode, Sender, Version};

/// Bytes that a connection may have sent while it was not to be read, beyond the largest packet: what the shell and
/// the inbox can have had under way. More is not read ahead but an attack on memory.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The same before its CONNECT is accepted, when little is owed to it: room for what a client may send at once behind its
/// CONNECT [MQTT-3.1.4-5]. With the bound on such connections, 16 MiB in all.
const WAITING_BYTES_GREETING: usize = 128 << 10;

/// Answers to control packets have so much room beyond what messages may take of a connection's buffer.
const CONTROL_RESERVE_BYTES: usize = 16 << 10;

/// Everything that a packet of an open connection can touch.
pub(super) struct Exchange<'a> {
    pub(super) now: Instant,
    pub(super) id: ConnId,
    pub(super) key: SessionKey,
    pub(super) connection: &'a mut Connection,
    pub(super) session: &'a mut Session,
    pub(super) shared: &'a mut Shared,
    pub(super) tree: &'a mut Tree,
}

/// How far a chunk was read.
enum Walked {
    /// To its end; a cut packet is kept.
    All,
    /// The rest must wait.
    Waits(Bytes),
    /// The connection is ended.
    Ended,
}

impl Mqtt {
    pub(super) fn take_in(&mut self, now: Instant, id: ConnId, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard = now;
        if connection.is_closing() || connection.link().is_some_and(|link| link.leaving) {
            return;
        }
        if connection.waiting.is_empty() {
            self.feed(now, id, bytes);
        } else {
            connection.waiting.push_back(bytes);
            let waiting: usize = connection.waiting.iter().map(Bytes::len).sum();
            let most = match connection.phase {
                Phase::Greeting(_) => WAITING_BYTES_GREETING,
                _ => WAITING_BYTES_MAX + self.shared.limits.packet_bytes,
            };
            if waiting > most {
                let ending = Ending::fault(ReasonCode::QUOTA_EXCEEDED, "it sent on while it was not read");
                self.end(now, id, &ending);
            }
        }
        self.regulate(id);
    }

    /// Goes on with what had to wait.
    pub(super) fn resume(&mut self, now: Instant, id: ConnId) {
        while let Some(chunk) =
            self.connections.get_mut(&id).and_then(|connection| connection.waiting.touched()?.pop_front())
        {
            let before = self.connections.get(&id).map_or(0, |connection| connection.waiting.len());
            self.feed(now, id, chunk);
            // What had to wait again stands in front again.
            if self.connections.get(&id).is_none_or(|connection| connection.waiting.len() > before) {
                break;
            }
        }
        self.regulate(id);
    }

    fn feed(&mut self, now: Instant, id: ConnId, mut chunk: Bytes) {
        match self.complete(now, id, &mut chunk) {
            Completed::Nothing => {}
            Completed::Not => return,
            Completed::Packet(whole) => match self.walk(now, id, whole) {
                Walked::All => {}
                Walked::Waits(rest) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        if !chunk.is_empty() {
                            connection.waiting.push_front(chunk);
                        }
                        connection.waiting.push_front(rest);
                    }
                    return;
                }
                Walked::Ended => return,
            },
        }
        if let (Walked::Waits(rest), Some(connection)) =
            (self.walk(now, id, chunk), self.connections.get_mut(&id))
        {
            connection.waiting.push_front(rest);
        }
    }

    /// Puts a cut packet together with the beginning of `chunk`.
    fn complete(&mut self, now: Instant, id: ConnId, chunk: &mut Bytes) -> Completed {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return Completed::Not };
            if connection.input.is_empty() {
                return Completed::Nothing;
            }
            let missing = match self.shared.measure(connection, &connection.input) {
                Ok(Some(frame)) => frame.total_bytes().saturating_sub(connection.input.len()),
                // The length itself is cut: byte by byte, four times at the most.
                Ok(None) => 1,
                Err(ending) => {
                    self.end(now, id, &ending);
                    return Completed::Not;
                }
            };
            if missing == 0 {
                return Completed::Packet(Bytes::from(connection.input.take()));
            }
            if chunk.is_empty() {
                return Completed::Not;
            }
            connection.input.extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
        }
    }

    /// Handles every whole packet of `chunk`.
    fn walk(&mut self, now: Instant, id: ConnId, chunk: Bytes) -> Walked {
        let mut at = 0;
        while at < chunk.len() {
            let Some(connection) = self.connections.get(&id) else { return Walked::Ended };
            let pause = match connection.phase {
                Phase::Closing => return Walked::Ended,
                Phase::Greeting(_) => self.greet(now, id, &chunk, &mut at),
                Phase::Open(_) => self.exchange(now, id, &chunk, &mut at),
            };
            match pause {
                Ok(Pause::No) => {}
                Ok(Pause::Wait) => return Walked::Waits(chunk.slice(at..)),
                Ok(Pause::Cut) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.input.extend_from_slice(chunk.get(at..).unwrap_or_default());
                        // A CONNECT in pieces has no more time than one in one.
                        if connection.link().is_some() {
                            connection.waits_since = now;
                        }
                    }
                    break;
                }
                Err(ending) => {
                    self.end(now, id, &ending);
                    return Walked::Ended;
                }
            }
        }
        Walked::All
    }

    /// The first packet of a connection.
    fn greet(&mut self, now: Instant, id: ConnId, chunk: &Bytes, at: &mut usize) -> Result<Pause, Ending> {
        let rest = chunk.get(*at..).unwrap_or_default();
        let Some(connection) = self.connections.get(&id) else { return Ok(Pause::No) };
        let Some(frame) = self.shared.measure(connection, rest)? else { return Ok(Pause::Cut) };
        let Some(packet) = rest.get(..frame.total_bytes()) else { return Ok(Pause::Cut) };
        let pause = self.connect(now, id, packet)?;
        if !matches!(pause, Pause::Wait) {
            *at += packet.len();
        }
        Ok(pause)
    }

    /// All packets of an open connection, until something needs more than the connection and its session.
    fn exchange(&mut self, now: Instant, id: ConnId, chunk: &Bytes, at: &mut usize) -> Result<Pause, Ending> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(Pause::No) };
        let Some(key) = connection.link().map(|link| link.session) else { return Ok(Pause::No) };
        let Some(session) = self.sessions.get_mut(key) else { return Ok(Pause::No) };
        let mut exchange =
            Exchange { now, id, key, connection, session, shared: &mut self.shared, tree: &mut self.tree };
        let pause = exchange.run(chunk, at);
        if exchange.connection.outbox.backlog()
            > exchange.shared.limits.outgoing_bytes + CONTROL_RESERVE_BYTES
        {
            return Err(Ending::fault(ReasonCode::QUOTA_EXCEEDED, "it does not read its answers"));
        }
        exchange.shared.stir(id, exchange.connection);
        if let Some(held) = exchange.session.answers.held.front() {
            let due = held.since.after(exchange.shared.limits.record_patience);
            self.timers.arm(&mut exchange.connection.armed, due, Due::Connection(id));
        }
        // Retained messages for it may have come among those that are to have records in time.
        if exchange.session.is_persistent()
            && let Some(due) = exchange.session.due(exchange.shared.limits.outgoing_spill_after)
        {
            self.timers.arm(&mut exchange.session.armed, due, Due::Session(key));
        }
        pause
    }

    /// Tells the shell whether to read from a connection, if that has changed.
    pub(super) fn regulate(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            let session = connection.link().and_then(|link| self.sessions.get(link.session));
            let busy = session.is_some_and(|session| session.inbound.pending() > 0);
            self.shared.regulate(id, connection, busy);
        }
    }
}

/// What became of a cut packet.
enum Completed {
    /// There was none.
    Nothing,
    /// It is not whole yet, or the connection is ended.
    Not,
    /// Here it is.
    Packet(Bytes),
}

/// Why packets are not handled on.
pub(super) enum Pause {
    No,
    /// The packet is not whole.
    Cut,
    /// The packet must wait.
    Wait,
}

impl Shared {
    /// Reads the fixed header and holds it against the limits, before the rest of the packet is awaited.
    fn measure(&self, connection: &Connection, bytes: &[u8]) -> Result<Option<Frame>, Ending> {
        let greeting = matches!(connection.phase, Phase::Greeting(_));
        // Anything but a CONNECT is refused at its first byte [MQTT-3.1.0-1].
        if greeting && bytes.first().is_some_and(|first| *first != Kind::Connect.first_byte()) {
            return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, "its first packet is not a CONNECT"));
        }
        let Some(frame) = mqtt::frame(bytes).map_err(Ending::unreadable)? else { return Ok(None) };
        let most = if greeting { self.limits.packet_bytes_unauthenticated } else { self.limits.packet_bytes };
        if frame.total_bytes() > most {
            return Err(Ending::fault(ReasonCode::PACKET_TOO_LARGE, "a packet is larger than the limit"));
        }
        Ok(Some(frame))
    }

    /// Notes that a connection has something to send.
    pub(super) fn stir(&mut self, id: ConnId, connection: &mut Connection) {
        if !connection.dirty && !connection.outbox.is_empty() {
            connection.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Says whether to read from a connection, if that has changed: not while it has packets waiting, while a
    /// publisher is to hold (`busy`: messages of its are not safe), or while it does not read its answers.
    pub(super) fn regulate(&mut self, id: ConnId, connection: &mut Connection, busy: bool) {
        let backlog = connection.outbox.backlog();
        self.queued_bytes = (self.queued_bytes + backlog).saturating_sub(connection.weighed);
        connection.weighed = backlog;
        let reading = connection.waiting.is_empty()
            && match &connection.phase {
                Phase::Greeting(_) => true,
                Phase::Open(link) => {
                    let most = self.limits.outgoing_bytes / if connection.reading { 2 } else { 4 };
                    let reads = backlog <= most;
                    !(link.leaving || self.holds(busy) && link.publisher) && reads
                }
                Phase::Closing => return,
            };
        if reading != connection.reading {
            connection.reading = reading;
            if reading {
                connection.heard = self.now; // Until now it was not its fault that nothing came.
            }
            self.output(crate::event::Output::Reading { conn: id, on: reading });
        }
    }

    /// Whether a publisher is to hold.
    fn holds(&self, busy: bool) -> bool {
        match self.hold {
            Hold::Nobody => false,
            Hold::Busy => busy,
            Hold::All => true,
        }
    }
}

impl Exchange<'_> {
    /// Handles the packets of `chunk` from `at` on.
    fn run(&mut self, chunk: &Bytes, at: &mut usize) -> Result<Pause, Ending> {
        let version = self.connection.version;
        while *at < chunk.len() {
            let rest = chunk.get(*at..).unwrap_or_default();
            let Some(frame) = self.shared.measure(self.connection, rest)? else { return Ok(Pause::Cut) };
            let Some(packet) = rest.get(..frame.total_bytes()) else { return Ok(Pause::Cut) };
            if self.must_wait(&frame) {
                return Ok(Pause::Wait);
            }
            *at += packet.len();
            let body = packet.get(frame.header_bytes..).unwrap_or_default();
            let packet = mqtt::decode_body(version, frame.first, body).map_err(Ending::unreadable)?;
            self.shared.packets_received += 1;
            self.handle(&packet, chunk)?;
        }
        Ok(Pause::No)
    }

    /// Whether a packet must wait: the answer to overload that loses nothing is not to take more.
    fn must_wait(&self, frame: &Frame) -> bool {
        match frame.kind {
            Kind::Publish => {
                let acknowledged = frame.first & 0b0110 != 0;
                // Before MQTT 5 there is no Receive Maximum to tell the client: it is slowed down instead. With it only
                // repetitions of QoS 2, which do not count, can go beyond it.
                let most = usize::from(self.shared.limits.receive_maximum)
                    * if self.connection.version.is_v5() { 2 } else { 1 };
                let pending = self.session.inbound.pending();
                acknowledged && (self.shared.holds(pending > 0) || pending >= most)
            }
            Kind::Subscribe | Kind::Unsubscribe => self.session.answers.held.len() >= HELD_MAX,
            _ => false,
        }
    }

    fn handle(&mut self, packet: &Packet<'_>, chunk: &Bytes) -> Result<(), Ending> {
        if let Packet::Publish(publish) = packet {
            return self.publish(publish, chunk);
        }
        packet.check_sender(Sender::Client).map_err(Ending::unreadable)?;
        match packet {
            Packet::PubAck(ack) => self.puback(ack),
            Packet::PubRec(ack) => self.pubrec(ack),
            Packet::PubComp(ack) => self.pubcomp(ack),
            Packet::PubRel(ack) => return self.pubrel(ack.packet_id.get()),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
            Packet::PingReq => {
                // Two bytes: no Maximum Packet Size is smaller than a CONNACK.
                let _ =
                    write::packet(&mut self.connection.outbox, self.connection.version, &Packet::PingResp, 2);
            }
            Packet::Disconnect(disconnect) => {
                return self.disconnected(disconnect.reason, &disconnect.properties);
            }
            // A second CONNECT, or AUTH without the method that CONNECT would have named.
            Packet::Connect(_) => {
                return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, "it sent a second CONNECT"));
            }
            Packet::Auth(_) => {
                // CONNACK would have said 0x8C, for which DISCONNECT has no room (MQTT 5.0, table 3-10).
                let words = "it sent AUTH without an authentication method in its CONNECT";
                return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, words));
            }
            _ => return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, "only a server may send this packet")),
        }
        Ok(())
    }

    /// DISCONNECT: the will is dropped unless the client asks for it [MQTT-3.14.4-3]. An expiry that was zero stays
    /// zero [MQTT-3.14.2-2].
    fn disconnected(&mut self, reason: ReasonCode, properties: &Properties<'_>) -> Result<(), Ending> {
        if let Some(seconds) = properties.session_expiry() {
            if !self.session.is_persistent() && seconds > 0 {
                let words = "a session expiry of zero cannot be changed at DISCONNECT";
                return Err(Ending::fault(ReasonCode::PROTOCOL_ERROR, words));
            }
            self.session.expiry = self.shared.capped_expiry(seconds);
            if self.session.recorded && self.session.is_persistent() {
                self.shared.record(self.session);
            }
        }
        if reason == ReasonCode::SUCCESS {
            if self.session.will.is_some() {
                self.shared.unwilled(self.session, self.connection);
            }
            self.shared.drop_will(self.session);
        }
        Err(Ending::wished(reason))
    }

    pub(super) fn version(&self) -> Version {
        self.connection.version
    }

    /// What the connection has settled; it is open, or nothing of this would be running.
    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        self.connection.link_mut()
    }

    pub(super) fn packet_bytes(&self) -> usize {
        self.connection.link().map_or(0, Link::packet_bytes)
    }
}
