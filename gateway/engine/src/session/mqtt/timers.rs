//! What happens by time alone. A timer is set early and looked at when it goes off, never moved when a packet comes:
//! its owner then says when it is really due. Owns no connection and no session.

use super::slab::SessionKey;
use crate::id::ConnId;
use crate::time::Instant;
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A connection: the wait for its CONNECT, its keep-alive, a packet that does not end.
    Connection(ConnId),
    /// A session: its end, its will.
    Session(SessionKey),
}

/// An owner's note of its timer, in a word: every connection and every session has one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Armed(Option<NonZeroU64>);

impl Armed {
    fn at(at: Instant) -> Self {
        Self(NonZeroU64::new(at.0.saturating_add(1)))
    }

    fn get(self) -> Option<Instant> {
        self.0.map(|at| Instant(at.get() - 1))
    }
}

/// All timers: at most one a connection and one a session. Apart from each other they take two thirds of the memory.
#[derive(Debug, Default)]
pub(super) struct Timers {
    connections: BTreeSet<(Instant, ConnId)>,
    sessions: BTreeSet<(Instant, SessionKey)>,
}

impl Timers {
    /// Makes sure that the owner is looked at no later than `at`. `armed` is the owner's note of its timer.
    pub(super) fn arm(&mut self, armed: &mut Armed, at: Instant, due: Due) {
        if armed.get().is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.disarm(armed, due);
        match due {
            Due::Connection(id) => self.connections.insert((at, id)),
            Due::Session(key) => self.sessions.insert((at, key)),
        };
        *armed = Armed::at(at);
    }

    /// Forgets the owner's timer.
    pub(super) fn disarm(&mut self, armed: &mut Armed, due: Due) {
        if let Some(at) = std::mem::take(armed).get() {
            match due {
                Due::Connection(id) => self.connections.remove(&(at, id)),
                Due::Session(key) => self.sessions.remove(&(at, key)),
            };
        }
    }

    /// The next owner whose time has come; its note is to be cleared.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let next = self.next().filter(|next| *next <= now)?;
        if self.connections.first().is_some_and(|(at, _)| *at == next) {
            self.connections.pop_first().map(|(_, id)| Due::Connection(id))
        } else {
            self.sessions.pop_first().map(|(_, key)| Due::Session(key))
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let connection = self.connections.first().map(|(at, _)| *at);
        let session = self.sessions.first().map(|(at, _)| *at);
        connection.into_iter().chain(session).min()
    }
}
