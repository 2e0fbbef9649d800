//! The first packet: who may come, with which session, and what the CONNACK says. Every limit that the gateway
//! has is told here, and every refusal in the words of the client's version (MQTT 5.0, 3.1 and 3.2).

use super::aliases::Aliases;
use super::connection::{Connection, Greeting, Link, Phase};
use super::ending::Ending;
use super::packets::Pause;
use super::publish;
use super::session::{Presence, Session, Will};
use super::signing_in::SignIn;
use super::slab::SessionKey;
use super::timers::Due;
use super::{Mqtt, Shared, Testator, quoted, write};
use crate::event::{Action, Notice, Output};
use crate::id::{CLIENT_SEPARATOR, ConnId, DeviceId};
use crate::limits::Limits;
use crate::message::Source;
use crate::session::Incoming;
use crate::session::acl::Acl;
use crate::session::auth::{Auth, Identity, Owner};
use crate::session::guessing::place;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;
use tidegate_wire::mqtt::{self, ConnAck, Connect, Error, Packet, Properties, Property, ReasonCode, Version};

/// Why a client is not let in: the reason code, translated for older versions, and words for both sides.
pub(super) type Refusal = (ReasonCode, &'static str);

/// What a CONNECT asks for, checked.
struct Guest {
    identity: Identity,
    client: DeviceId,
    /// The gateway made the client id up.
    assigned: bool,
    will: Option<Will>,
    expiry: Duration,
    keep_alive: u16,
}

impl Mqtt {
    /// Handles the first packet, whole. It waits while the client's last session may still stand in the store:
    /// a crash would give that one, with its packet ids, to a client that was told of a new one.
    pub(super) fn connect(&mut self, now: Instant, id: ConnId, packet: &[u8]) -> Result<Pause, Ending> {
        let connect = match mqtt::decode(Version::V5, packet) {
            Ok(Packet::Connect(connect)) => connect,
            Ok(_) => return Err(Ending::unreadable(Error::WrongSender)),
            Err(error) => {
                // An unknown version is answered in the form that its client is most likely to understand.
                let version = match error {
                    Error::ProtocolLevel(level) if level > Version::V5 as u8 => Some(Version::V5),
                    Error::ProtocolLevel(_) => Some(Version::V3_1_1),
                    _ => mqtt::connect_version(packet),
                };
                if let Some(version) = version {
                    self.refuse_connect(id, version, (error.reason(), error.as_str()), usize::MAX);
                }
                return Err(Ending::unreadable(error));
            }
        };
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(Pause::No) };
        connection.version = connect.version;
        let identity = match self.first_look(id, &connect).map(|()| self.sign_in(now, id, &connect)) {
            Ok(SignIn::As(identity)) => Ok(identity),
            Ok(SignIn::Waits) => return Ok(Pause::Wait),
            Ok(SignIn::Busy) => Err((ReasonCode::SERVER_BUSY, "too many passwords are being verified")),
            Err(refusal) => Err(refusal),
        };
        // One that waited was counted when it came.
        let counted = self.clearing.forget(id);
        match identity.and_then(|identity| self.admit(now, id, &connect, identity, counted)) {
            Ok(guest) => {
                let present = self.take_over(now, id, &guest.client, connect.clean_start);
                if self.clearing.delays(id, &guest.client) {
                    return Ok(Pause::Wait);
                }
                self.welcome(now, id, &connect, guest, present);
                Ok(Pause::No)
            }
            Err(refusal) => {
                self.refuse_connect(id, connect.version, refusal, packet_bytes(&connect));
                Err(Ending::fault(refusal.0, refusal.1))
            }
        }
    }

    /// What refuses a client whoever it is.
    fn first_look(&self, id: ConnId, connect: &Connect<'_>) -> Result<(), Refusal> {
        if let Some(Phase::Greeting(Greeting::New(Some(refusal)))) =
            self.connections.get(&id).map(|c| &c.phase)
        {
            return Err(*refusal);
        }
        if connect.properties.contains(AUTH_METHOD) {
            return Err((ReasonCode::BAD_AUTHENTICATION_METHOD, "enhanced authentication is not supported"));
        }
        if self.shared.stopping {
            return Err((ReasonCode::SERVER_UNAVAILABLE, "the gateway stops"));
        }
        Ok(())
    }

    /// Decides whether a client may come as it wishes, before anything of the present state is touched. `counted`: its will has been
    /// counted before.
    fn admit(
        &mut self,
        now: Instant,
        id: ConnId,
        connect: &Connect<'_>,
        identity: Identity,
        counted: bool,
    ) -> Result<Guest, Refusal> {
        let assigned = connect.client_id.is_empty();
        let client = if assigned {
            self.assign_client_id(identity.device.as_ref())
        } else {
            DeviceId::new(connect.client_id).ok()
        };
        let Some(client) = client else {
            let words = "a client identifier has 1 to 128 letters, digits, or one of - _ . : @";
            self.note_refused(id, quoted(connect.client_id), "its client identifier can be nobody's");
            return Err((ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, words));
        };
        if !Auth::owns(&identity, client.as_str()) {
            self.note_refused(id, quoted(client.as_str()), "this client identifier is not its device's");
            let words = "the client identifier is the user name, or the user name, @ and anything";
            return Err((ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, words));
        }
        let present = self.clients.get(&client).and_then(|key| self.sessions.get(*key));
        if present.is_some_and(|session| {
            session.owner != Owner::Nobody && identity.device.as_ref() != Some(&session.device)
        }) {
            self.note_refused(
                id,
                quoted(client.as_str()),
                "this client identifier's session is a device's, which it did not prove to be",
            );
            let words = "the client identifier is somebody else's";
            return Err((ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, words));
        }
        if present.is_none() {
            if self.sessions.len() >= self.shared.limits.sessions {
                return Err((ReasonCode::QUOTA_EXCEEDED, "there are as many sessions as the limit allows"));
            }
            if identity.device.as_ref().is_some_and(|device| self.has_every_session(device)) {
                return Err((
                    ReasonCode::QUOTA_EXCEEDED,
                    "the device has as many sessions as the limit allows",
                ));
            }
        }
        let expiry = match connect.version {
            Version::V5 => self.shared.capped_expiry(connect.properties.session_expiry().unwrap_or(0)),
            // Without clean session it would never end: it is capped.
            _ if !connect.clean_start => self.shared.limits.session_expiry_max,
            _ => Duration::ZERO,
        };
        let longest = u16::try_from(self.shared.limits.keep_alive_max.as_secs()).unwrap_or(u16::MAX);
        // Only MQTT 5 can be told of a shorter one; to it, "off" is longer than every bound.
        let keep_alive = match connect.keep_alive {
            wished if !connect.version.is_v5() => wished,
            0 => longest,
            wished => wished.min(longest),
        };
        let owner = identity.device.as_ref().map(|device| (device.clone(), self.auth.rights(device)));
        let will =
            connect.will.map(|will| self.shared.will(connect.version, &client, owner, &will)).transpose()?;
        // Without all that CONNACK tells the client would break rules that it cannot know [MQTT-3.1.2-24].
        let list = self.shared.connack_properties(connect, &client, assigned, expiry, keep_alive);
        let most = packet_bytes(connect);
        if !mqtt::encoded_len(connect.version, &accepted(false, &list)).is_ok_and(|length| length <= most) {
            return Err((
                ReasonCode::PACKET_TOO_LARGE,
                "CONNACK is larger than the client's Maximum Packet Size",
            ));
        }
        self.not_too_often(now, id, &client, &identity, will.is_some() && !counted)?;
        Ok(Guest { identity, client, assigned, will, expiry, keep_alive })
    }

    /// Whether this client may take over from the connection that it has, and leave a will, once more. To be asked last: it counts.
    fn not_too_often(
        &mut self,
        now: Instant,
        id: ConnId,
        client: &DeviceId,
        identity: &Identity,
        new_will: bool,
    ) -> Result<(), Refusal> {
        let session = self.clients.get(client).and_then(|key| self.sessions.get(*key));
        let takes_over = session.is_some_and(|session| session.connection().is_some());
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        let Shared { limits, takeovers, wills, .. } = &mut self.shared;
        if takes_over && !takeovers.take(now, client, limits.takeovers_per_minute, limits.rated) {
            let words = "this client identifier changes hands too often; is it used twice?";
            return Err((ReasonCode::CONNECTION_RATE_EXCEEDED, words));
        }
        if new_will {
            let (testator, most) = testator(limits, connection, identity, client);
            if !wills.take(now, &testator, most, limits.rated) {
                let words = "it comes too often with a will; try again in a minute";
                return Err((ReasonCode::CONNECTION_RATE_EXCEEDED, words));
            }
        }
        Ok(())
    }

    /// A name that no session has, and that is the device's or nobody's. `None` when the device's id leaves no room for it.
    fn assign_client_id(&mut self, device: Option<&DeviceId>) -> Option<DeviceId> {
        loop {
            self.assigned += 1;
            let mut name = format!("auto-{:x}-{:x}", self.epoch, self.assigned);
            if let Some(device) = device {
                name = format!("{device}{CLIENT_SEPARATOR}{name}");
            }
            let client = DeviceId::new(&name).ok()?;
            let owner = self.auth.owner(&name).map(|(id, _)| id);
            if (owner.is_none() || owner.as_ref() == device) && !self.clients.contains_key(&client) {
                return Some(client);
            }
        }
    }

    /// Whether one more session would be too many for a device.
    fn has_every_session(&self, device: &DeviceId) -> bool {
        let prefix = format!("{device}{CLIENT_SEPARATOR}");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let several =
            self.clients.range::<str, _>(from).take_while(|(id, _)| id.as_str().starts_with(&prefix));
        let sessions = several.count() + usize::from(self.clients.contains_key(device));
        sessions >= self.shared.limits.sessions_per_device
    }

    /// Gives a client its session and its CONNACK.
    fn welcome(
        &mut self,
        now: Instant,
        id: ConnId,
        connect: &Connect<'_>,
        guest: Guest,
        present: Option<SessionKey>,
    ) {
        let key = present.unwrap_or_else(|| {
            let key = self.sessions.insert(Session::new(guest.client.clone(), guest.expiry));
            self.clients.insert(guest.client.clone(), key);
            key
        });
        let Guest { identity, client, assigned, will, expiry, keep_alive } = guest;
        let (Some(session), Some(connection)) = (self.sessions.get_mut(key), self.connections.get_mut(&id))
        else {
            return;
        };
        session.presence = Presence::Connected(id);
        let changed = session.belongs_to(self.auth.holder(&identity)) | (session.expiry != expiry);
        let (device, proof, peer) = (session.device.clone(), identity.proof, connection.peer.address);
        session.expiry = expiry;
        session.attach(connect.properties.receive_maximum().unwrap_or(u16::MAX));
        let unanswered =
            self.shared.remember(now, key, session, changed, will).map(|serial| Box::new((serial, now)));
        if unanswered.is_some() {
            let due = now.after(self.shared.limits.record_patience);
            self.timers.arm(&mut connection.armed, due, Due::Connection(id));
        }
        self.greeting.remove(id);
        let silence_ms = NonZeroU32::new(u32::from(keep_alive) * 1_500);
        if let Some(ms) = silence_ms {
            let silence = Duration::from_millis(ms.get().into());
            // It may be shorter than what CONNECT had.
            self.timers.arm(&mut connection.armed, now.after(silence), Due::Connection(id));
        }
        let aliases = connect.properties.topic_alias_maximum().unwrap_or(0);
        connection.told = Aliases::new(aliases.min(self.shared.limits.topic_alias_maximum));
        self.shared.packets_received += 1;
        connection.phase = Phase::Open(Link {
            session: key,
            identity: (identity != *Identity::NOBODY).then(|| Box::new(identity)),
            silence_ms,
            packet_bytes: connect.properties.maximum_packet_size().unwrap_or(u32::MAX),
            explains: connect.properties.request_problem_info().unwrap_or(true),
            publisher: false,
            unanswered,
            leaving: false,
        });
        let list = self.shared.connack_properties(connect, &client, assigned, expiry, keep_alive);
        let connack = accepted(present.is_some(), &list);
        // That it fits was seen before.
        let _ = write::packet(&mut connection.outbox, connect.version, &connack, usize::MAX);
        self.shared.stir(id, connection);
        self.count_clients();
        let protocol = connect.version.name();
        let signed_in = Notice::SignedIn { device, client: client.clone(), peer, proof };
        self.shared.output(Output::Notice(signed_in));
        self.shared.output(Output::Notice(Notice::Connected { device: client, conn: id, protocol }));
        if let Some(mut exchange) = self.exchange_of(now, id)
            && exchange.session.outbound.len() > 0
        {
            exchange.pump();
        }
    }

    /// The client's session, if it is there and may go on [MQTT-3.2.2-2, MQTT-3.2.2-3], taken over from its connection.
    fn take_over(
        &mut self,
        now: Instant,
        id: ConnId,
        client: &DeviceId,
        clean_start: bool,
    ) -> Option<SessionKey> {
        let before = self.clients.get(client).copied();
        if let Some(old) = before.and_then(|key| self.sessions.get(key)).and_then(Session::connection) {
            let ending = Ending::told(
                ReasonCode::SESSION_TAKEN_OVER,
                "another connection uses this client identifier",
            );
            if let (Some(old), Some(new)) = (self.connections.get(&old), self.connections.get(&id)) {
                let (old, new) = (old.peer.address, new.peer.address);
                self.shared.output(Output::Notice(Notice::TakenOver { client: client.clone(), old, new }));
            }
            self.end(now, old, &ending);
        }
        // A session that ends with its connection is gone by now.
        let key = self.clients.get(client).copied()?;
        if clean_start {
            self.remove_session(now, key);
            return None;
        }
        Some(key)
    }

    /// CONNACK with a refusal, where the version has a word for it, in at most `most` bytes.
    pub(super) fn refuse_connect(
        &mut self,
        id: ConnId,
        version: Version,
        (reason, words): (ReasonCode, &str),
        most: usize,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !version.is_v5() && reason.connect_return_code().is_none() {
            return;
        }
        let refused = |properties| Packet::ConnAck(ConnAck { session_present: false, reason, properties });
        write::explained(&mut connection.outbox, version, &[Property::ReasonString(words)], most, refused);
    }
}

const AUTH_METHOD: u8 = 0x15;

/// The largest packet that the client takes.
pub(super) fn packet_bytes(connect: &Connect<'_>) -> usize {
    connect.properties.maximum_packet_size().map_or(usize::MAX, |bytes| bytes as usize)
}

fn accepted<'a>(session_present: bool, list: &'a [Property<'a>]) -> Packet<'a> {
    let properties = Properties::new(list);
    Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties })
}

/// With whom a client's wills are counted, and how many there may be in a minute.
fn testator(
    limits: &Limits,
    connection: &Connection,
    identity: &Identity,
    client: &DeviceId,
) -> (Testator, u32) {
    let address = connection.peer.address.ip().to_canonical();
    match &identity.device {
        Some(device) => (Testator::Device(device.clone()), limits.wills_per_minute),
        None if address.is_loopback() => (Testator::Device(client.clone()), limits.wills_per_minute),
        None => (Testator::Address(place(address)), limits.wills_per_minute_and_address),
    }
}

impl Shared {
    /// A client says good-bye: the will that came with its CONNECT stays unsaid, and does not count.
    pub(super) fn unwilled(&mut self, session: &Session, connection: &Connection) {
        let Some(link) = connection.link() else { return };
        let identity = link.identity.as_deref().unwrap_or(Identity::NOBODY);
        let (testator, most) = testator(&self.limits, connection, identity, &session.client);
        self.wills.give_back(&testator, most);
    }

    /// A session expiry as far as the gateway grants it.
    pub(super) fn capped_expiry(&self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()).min(self.limits.session_expiry_max)
    }

    /// Has the store learn what a CONNECT changed of a session that lasts: the expiry and the owner of one that has a record,
    /// and the will. Gives the number of the record for which CONNACK waits, if there is one: it says that the will is stored
    /// [MQTT-3.1.2-8].
    fn remember(
        &mut self,
        now: Instant,
        key: SessionKey,
        session: &mut Session,
        changed: bool,
        will: Option<Will>,
    ) -> Option<u64> {
        let record = will
            .as_ref()
            .filter(|_| session.is_persistent())
            .map(|will| self.will_record(now, &session.client, will));
        if record.is_none() {
            self.drop_will(session);
        }
        session.will = will.map(Box::new);
        let changed = if session.recorded { changed } else { record.is_some() };
        let mut ops = Vec::new();
        if changed {
            ops.push(self.put(session));
        }
        session.recorded |= changed;
        session.will_recorded = record.is_some();
        ops.extend(record);
        let last = ops.pop()?;
        for op in ops {
            self.change(op);
        }
        Some(self.put_and_wait(key, session, last))
    }

    /// Checks a will as if it were published now: later nobody could be told.
    fn will(
        &mut self,
        version: Version,
        client: &DeviceId,
        owner: Option<(DeviceId, Arc<Acl>)>,
        will: &mqtt::Will<'_>,
    ) -> Result<Will, Refusal> {
        if version.is_v5() && will.retain && self.limits.retained_messages == 0 {
            return Err((ReasonCode::RETAIN_NOT_SUPPORTED, "retained messages are not supported"));
        }
        // Older versions have no word for a topic; "not authorised" is the nearest.
        let reason =
            if version.is_v5() { ReasonCode::TOPIC_NAME_INVALID } else { ReasonCode::NOT_AUTHORIZED };
        let topic =
            self.publishable(will.topic).map_err(|_| (reason, "the will's topic is not permitted"))?;
        if let Some((device, acl)) = &owner
            && !acl.may_publish(&topic)
        {
            self.publishes_denied += 1;
            self.denied(device, Action::Will, topic.as_str());
            return Err((ReasonCode::NOT_AUTHORIZED, "the will's topic is not permitted"));
        }
        let properties = publish::properties(&will.properties, self.limits.user_properties)
            .map_err(|reason| (reason, "the will has too many user properties"))?;
        Ok(Will {
            incoming: Incoming {
                device: owner.map_or_else(|| client.clone(), |(device, _)| device),
                client: Some(client.clone()),
                topic,
                payload: Bytes::copy_from_slice(will.payload),
                qos: super::engine_qos(will.qos),
                retain: will.retain,
                duplicate: false,
                source: Source::Mqtt,
                properties,
                record: None,
            },
            delay: Duration::from_secs(will.properties.will_delay().unwrap_or(0).into()),
            due: None,
        })
    }

    /// Everything that a client has to know, truthfully (MQTT 5.0, 3.2.2.3); older versions leave it out.
    fn connack_properties<'a>(
        &self,
        connect: &Connect<'_>,
        client: &'a DeviceId,
        assigned: bool,
        expiry: Duration,
        keep_alive: u16,
    ) -> Vec<Property<'a>> {
        if !connect.version.is_v5() {
            return Vec::new();
        }
        let mut list = vec![
            Property::ReceiveMaximum(self.limits.receive_maximum),
            Property::MaximumPacketSize(u32::try_from(self.limits.packet_bytes).unwrap_or(u32::MAX)),
            Property::TopicAliasMaximum(self.limits.topic_alias_maximum),
            Property::RetainAvailable(self.limits.retained_messages > 0),
            Property::SharedAvailable(true),
        ];
        let expiry = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
        if expiry != connect.properties.session_expiry().unwrap_or(0) {
            list.push(Property::SessionExpiry(expiry));
        }
        if keep_alive != connect.keep_alive {
            list.push(Property::ServerKeepAlive(keep_alive));
        }
        if assigned {
            list.push(Property::AssignedClientId(client.as_str()));
        }
        list
    }
}
