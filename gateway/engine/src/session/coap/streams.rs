//! The table of CoAP's connections (RFC 8323): what is known of each, what it has until when, and who has not said who it is.
//! Sends nothing.

use super::oscore::ContextId;
use super::peer::{Address, Place};
use super::stream::UNREAD_BYTES;
use crate::id::{ConnId, DeviceId};
use crate::session::crowd::Crowd;
use crate::time::{Duration, Instant};
use bytes::BytesMut;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) peer: SocketAddr,
    pub(super) device: Option<DeviceId>,
    /// It may stay: who it is, is proved or is not asked.
    pub(super) known: bool,
    /// What has come of a frame that is not whole.
    pub(super) received: BytesMut,
    /// The longest message that the peer takes, in bytes (RFC 8323, 5.3.1).
    pub(super) longest: usize,
    /// Its CSM has come, which must be first (RFC 8323, 5.3).
    pub(super) greeted: bool,
    /// Bytes ordered to be sent that have not left.
    pub(super) unsent: usize,
    /// Nothing is read from it until it reads.
    pub(super) paused: bool,
    pub(super) closing: bool,
    /// When something came last, or left while it was paused.
    pub(super) stirred: Instant,
    pub(super) awaits: Awaits,
    pub(super) due: Option<Instant>,
    /// The contexts by which it has proved to be somebody.
    pub(super) contexts: BTreeSet<ContextId>,
}

impl Stream {
    /// Whether what it says still counts.
    pub(super) fn is_heard(&self) -> bool {
        !self.closing && self.awaits != Awaits::Answers
    }
}

/// For what a connection has until it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// To say its CSM, and who it is.
    Greeting,
    /// To end a frame that it has begun.
    Frame,
    /// To say anything; then it is asked.
    Anything,
    /// To answer a ping.
    Pong,
    /// To read. Since when, if the clock has been asked.
    Room(Option<Instant>),
    /// To hear the last answers: it has said that it goes.
    Answers,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) all: BTreeMap<ConnId, Stream>,
    pub(super) due: BTreeSet<(Instant, ConnId)>,
    /// Those that have not said their CSM, or not who they are.
    pub(super) strangers: Crowd,
    /// Bytes ordered to be sent that have not left, of all.
    pub(super) unsent: usize,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn arm(&mut self, conn: ConnId, awaits: Awaits, due: Instant) {
        let Some(stream) = self.all.get_mut(&conn) else { return };
        stream.awaits = awaits;
        if let Some(before) = stream.due.replace(due) {
            self.due.remove(&(before, conn));
        }
        self.due.insert((due, conn));
    }

    pub(super) fn disarm(&mut self, conn: ConnId) {
        if let Some(before) = self.all.get_mut(&conn).and_then(|stream| stream.due.take()) {
            self.due.remove(&(before, conn));
        }
    }

    /// Whether a connection has said all that it must say first; then it is no stranger any more.
    pub(super) fn settle(&mut self, now: Instant, conn: ConnId, idle: Duration) {
        let Some(stream) = self.all.get(&conn).filter(|stream| stream.greeted && stream.known) else {
            return;
        };
        let paused = stream.paused;
        if self.strangers.remove(conn) {
            let (awaits, due) =
                if paused { (Awaits::Room(None), now) } else { (Awaits::Anything, now.after(idle)) };
            self.arm(conn, awaits, due);
        }
    }

    /// Whether so much waits at an address that observations wait, too.
    pub(super) fn is_full(&self, address: Address) -> bool {
        let (Address::Stream(conn) | Address::Protected(Place::Stream(conn), _)) = address else {
            return false;
        };
        self.all.get(&conn).is_some_and(|stream| stream.unsent > UNREAD_BYTES)
    }

    /// From where a connection comes.
    pub(super) fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        self.all.get(&conn).map(|stream| stream.peer)
    }
}
