//! placeholder, replaced by the MQTT session; the signatures stand

use super::Request;
use crate::event::{Peer, RecordKey, Setup};
use crate::id::ConnId;
use crate::message::Message;
use crate::mutant::Planted;
use crate::stats::ProtocolStats;
use crate::time::{Instant, Now};
use bytes::Bytes;
use std::sync::Arc;

/// What an MQTT session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    session: u32,
    generation: u32,
    serial: u64,
}

/// All MQTT connections and sessions.
#[derive(Debug)]
pub struct Mqtt {}

impl Mqtt {
    /// Begins with the sessions that the store remembers; `records` of other kinds are ignored.
    #[must_use]
    pub fn new(_setup: &Setup, _planted: Planted, _records: &[(RecordKey, Bytes)], _now: Now) -> Self {
        Self {}
    }

    /// Plants a deliberate defect, or none.
    pub fn plant(&mut self, _planted: Planted) {}

    /// A connection was accepted.
    pub fn opened(&mut self, _now: Now, _conn: ConnId, _peer: Peer) {}

    /// Bytes came in.
    pub fn received(&mut self, _now: Now, _conn: ConnId, _bytes: Bytes) {}

    /// Bytes have left.
    pub fn sent(&mut self, _now: Now, _conn: ConnId, _count: usize) {}

    /// A connection is gone.
    pub fn closed(&mut self, _now: Now, _conn: ConnId) {}

    /// What the receipt stands for is safe.
    pub fn safe(&mut self, _now: Now, _receipt: Receipt) {}

    /// Hands a message to the local subscribers; says to how many.
    pub fn deliver(&mut self, _now: Now, _message: &Arc<Message>) -> usize {
        0
    }

    /// Devices are to hold back, or may go on.
    pub fn hold(&mut self, _now: Now, _on: bool) {}

    /// Does what is due.
    pub fn tick(&mut self, _now: Now) {}

    /// When [`Mqtt::tick`] is due next.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        None
    }

    /// Ends: every connection is closed once what it still waits for has been acknowledged.
    pub fn stop(&mut self, _now: Now) {}

    /// New limits and access rules.
    pub fn reload(&mut self, _now: Now, _setup: &Setup) {}

    /// The next request to the rest of the engine. What goes to the connections comes when nothing else is left,
    /// one write a connection: call it until `None` once all facts at hand have been handled, or `requests` alone in between.
    pub fn poll(&mut self) -> Option<Request> {
        None
    }

    /// The next request that is not a write to a connection.
    pub fn requests(&mut self) -> Option<Request> {
        None
    }

    /// Everything counted.
    #[must_use]
    pub fn stats(&self) -> ProtocolStats {
        ProtocolStats::default()
    }
}
