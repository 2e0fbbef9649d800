//! Who is on a connection: what CONNECT says of it is looked at once, before anything else is done for the client, and again when
//! the configuration changes. Every refusal has one answer, at one time, whatever was wrong: it tells nothing to who guesses.

use super::connection::{Asked, Greeting, Phase};
use super::ending::Ending;
use super::greeting::packet_bytes;
use super::slab::SessionKey;
use super::timers::Due;
use super::{Mqtt, quoted};
use crate::event::{Notice, Output, Password};
use crate::id::ConnId;
use crate::message::Message;
use crate::session::auth::{Claim, Identity, Owner, Verdict};
use crate::time::Instant;
use bytes::Bytes;
use tidegate_wire::mqtt::{Connect, ReasonCode};

/// Where a sign-in stands.
pub(super) enum SignIn {
    /// It is known who comes.
    As(Identity),
    /// Not decided, or refused and not told yet.
    Waits,
    /// Nobody can look at it now.
    Busy,
}

impl Mqtt {
    /// Finds out who sent a CONNECT.
    pub(super) fn sign_in(&mut self, now: Instant, id: ConnId, connect: &Connect<'_>) -> SignIn {
        let Some(connection) = self.connections.get_mut(&id) else { return SignIn::Waits };
        match &connection.phase {
            Phase::Greeting(Greeting::New(_)) => {}
            Phase::Greeting(Greeting::Known(identity)) => return SignIn::As(Identity::clone(identity)),
            _ => return SignIn::Waits,
        }
        let claim = Claim {
            peer: &connection.peer,
            client: connect.client_id,
            username: connect.username,
            password: connect.password,
        };
        match self.auth.claim(now, id, &claim, &self.shared.limits) {
            Verdict::Granted(identity) => {
                connection.phase = Phase::Greeting(Greeting::Known(Box::new(identity.clone())));
                SignIn::As(identity)
            }
            Verdict::Verify(secret) => {
                let name = quoted(connect.username.unwrap_or_default());
                let most = packet_bytes(connect);
                connection.phase =
                    Phase::Greeting(Greeting::Asked(Box::new(Asked { since: now, name, most })));
                let password = Password(Bytes::copy_from_slice(connect.password.unwrap_or_default()));
                self.shared.output(Output::Verify { conn: id, secret, password });
                SignIn::Waits
            }
            Verdict::Refused(reason) => {
                let name = quoted(connect.username.unwrap_or(connect.client_id));
                let due = now.after(self.shared.limits.refusal_delay);
                self.refuse_at(due, id, name, reason, packet_bytes(connect));
                SignIn::Waits
            }
            Verdict::Busy => SignIn::Busy,
        }
    }

    /// A password was verified: goes on with the CONNECT that waits for it.
    pub(super) fn password_verified(&mut self, now: Instant, id: ConnId, genuine: bool) {
        let Some(answer) = self.auth.verified(now, id, genuine, &self.shared.limits) else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Phase::Greeting(Greeting::Asked(asked)) = &mut connection.phase else { return };
        let Asked { since, most, .. } = **asked;
        let name = std::mem::take(&mut asked.name);
        match answer {
            Ok(identity) => {
                connection.phase = Phase::Greeting(Greeting::Known(Box::new(identity)));
                self.resume(now, id);
            }
            Err(reason) => {
                let due = since.after(self.shared.limits.refusal_delay).max(now);
                self.refuse_at(due, id, name, reason, most);
            }
        }
    }

    /// Refuses a sign-in; the client hears of it at `due`, in at most `most` bytes.
    fn refuse_at(&mut self, due: Instant, id: ConnId, name: String, reason: &'static str, most: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.phase = Phase::Greeting(Greeting::Refused { due, most });
        self.timers.arm(&mut connection.armed, due, Due::Connection(id));
        self.note_refused(id, name, reason);
    }

    /// Counts a refused sign-in and tells the operator.
    pub(super) fn note_refused(&mut self, id: ConnId, name: String, reason: &'static str) {
        let Some(connection) = self.connections.get(&id) else { return };
        let peer = connection.peer.address;
        self.shared.sign_ins_refused += 1;
        self.shared.output(Output::Notice(Notice::SignInRefused { peer, name, reason }));
    }

    /// After a change of the configuration: who may not be here any more is told so and disconnected, sessions of devices that are
    /// gone go with them, and the others get the rights that their device has now. Wills of those who had to go stay unsaid.
    pub(super) fn apply_rights(&mut self, now: Instant) {
        let mut unwelcome: Vec<ConnId> = Vec::new();
        for (id, connection) in &mut self.connections {
            match &mut connection.phase {
                // It is looked at again when its CONNECT goes on.
                Phase::Greeting(greeting @ Greeting::Known(_)) => *greeting = Greeting::New(None),
                Phase::Open(link)
                    if !self.sessions.get(link.session).is_some_and(|session| {
                        let identity = link.identity.as_deref().unwrap_or(Identity::NOBODY);
                        self.auth.still_allows(&connection.peer, &session.client, identity)
                    }) =>
                {
                    unwelcome.push(*id);
                }
                _ => {}
            }
        }
        for id in unwelcome {
            self.turn_out(now, id);
        }
        let owner = |key: &SessionKey| Some((*key, Some(self.sessions.get(*key)?.owner)));
        let owners = self.clients.values().filter_map(owner).collect();
        self.judge(now, owners);
        self.forget_revoked();
    }

    /// Ends the connection of a client that may not be here any more; its will is not its to say.
    pub(super) fn turn_out(&mut self, now: Instant, id: ConnId) {
        let link = self.connections.get(&id).and_then(|connection| connection.link());
        let session = link.map(|link| link.session);
        if let Some(session) = session.and_then(|session| self.sessions.get_mut(session)) {
            self.shared.drop_will(session);
        }
        let words = "this client may not connect any more, or must show its credentials again";
        self.end(now, id, &Ending::fault(ReasonCode::NOT_AUTHORIZED, words));
    }

    /// Gives each session to whom it belongs under the present configuration, with the rights that come with that. A session
    /// of somebody who may not be here any more ends: nothing of it is delivered, said or left to whoever comes under its name.
    pub(super) fn judge(&mut self, now: Instant, owners: Vec<(SessionKey, Option<Owner>)>) {
        let mut over = Vec::new();
        for (key, owner) in owners {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            match self.auth.judge(session.client.as_str(), owner) {
                Ok(holder) => {
                    if session.belongs_to(holder) | owner.is_none() && session.recorded {
                        self.shared.record(session);
                    }
                }
                Err(reason) => over.push((key, reason)),
            }
        }
        // The others of a group know their rights by now, and can take what such a session has.
        for (key, reason) in over {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let client = session.client.clone();
            self.shared.output(Output::Notice(Notice::SessionEnded { client, reason }));
            self.shared.drop_will(session);
            self.remove_session(now, key);
        }
    }

    /// What a device left for later readers goes with its right to say it.
    pub(super) fn forget_revoked(&mut self) {
        let auth = &self.auth;
        let revoked = |message: &Message| {
            auth.owner(message.device.as_str()).is_some_and(|(_, acl)| !acl.may_publish(&message.topic))
        };
        for op in self.shared.retained.clear(revoked) {
            self.shared.change(op);
        }
    }
}
