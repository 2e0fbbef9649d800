//! What happens by time alone. A timer is set early and looked at when it goes off, never moved when a packet comes:
//! its owner then says when it is really due. Owns no connection and no session.

use super::slab::SessionKey;
use crate::id::ConnId;
use crate::time::Instant;
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// All timers: at most one a connection and one a session.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Due)>);

impl Timers {
    /// Makes sure that the owner is looked at no later than `at`. `armed` is the owner's note of its timer.
    pub(super) fn arm(&mut self, armed: &mut Armed, at: Instant, due: Due) {
        match armed.get() {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                self.0.remove(&(later, due));
            }
            None => {}
        }
        self.0.insert((at, due));
        *armed = Armed::at(at);
    }

    /// Forgets the owner's timer.
    pub(super) fn disarm(&mut self, armed: &mut Armed, due: Due) {
        if let Some(at) = std::mem::take(armed).get() {
            self.0.remove(&(at, due));
        }
    }

    /// The next owner whose time has come; its note is to be cleared.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first.1)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}
